"""Nodes that are patched together are hooks at once on the plain module."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from families import dataset, distance, in_turn, model
from test_patch_nodes import LENGTHS, Hand, both_directions, exactly, hand
from torch import Tensor

import circuitkit
from circuitkit.corruptions.constants import mean
from circuitkit.corruptions.gaussian import noise
from circuitkit.engine import sweep as engine
from circuitkit.errors import CircuitError
from circuitkit.graph.nodes import Node
from circuitkit.metrics.answers import log_probability, logit_diff
from circuitkit.patching.joint import patch_together
from circuitkit.patching.nodes import patch_nodes
from circuitkit.util.options import DIRECTIONS

GROUPS = {
    "late": ["a2.h0", "a1.h3"],
    "two layers": ["a0.h1", "a1.h2"],
    "one layer": ["a1.h0", "a1.h3"],
    "twice the same": ["a0.h0", "a0.h0"],
    "three": ["a0.h1", "a0.h2", "a2.h3"],
}
WITH_MLPS = {
    "its own MLP": ["a1.h1", "m1"],
    "an MLP between": ["a0.h3", "m1", "a2.h2"],
    "MLPs": ["m2", "m0"],
}


def own_groups(family: str) -> dict[str, list[str]]:
    return GROUPS if family == "attention-only" else {**GROUPS, **WITH_MLPS}


class Together:
    """Hooks by which some nodes write what they wrote in the other run."""

    def __init__(self, own: Hand, nodes: list[str]) -> None:
        self.own, self.nodes = own, [Node(name) for name in dict.fromkeys(nodes)]
        self.seen: dict[int, Tensor] = {}

    def effect(self) -> np.ndarray:
        with ExitStack() as stack:
            for layer in {node.layer for node in self.nodes}:
                for handle in self._hooks(layer):
                    stack.callback(handle.remove)
            return self.own.sign * (self.own.value() - self.own.start)

    def _hooks(self, layer: int) -> list[Any]:
        heads = [n.head for n in self.nodes if n.layer == layer and n.is_head]
        handles = []
        if heads:
            o = self.own.oracle.blocks[layer].o
            handles.append(o.register_forward_pre_hook(partial(self._look, layer)))
            out = self.own.attention(layer)
            handles.append(out.register_forward_hook(partial(self._replace, layer, heads)))
        if f"m{layer}" in self.nodes:
            taken = self.own.other.writers[f"m{layer}"] / self.own.scale
            handles.append(self.own.mlp(layer).register_forward_hook(partial(self._write, taken)))
        return handles

    def _look(self, layer: int, _: Any, args: Any) -> None:
        self.seen[layer] = args[0]

    def _replace(self, layer: int, heads: list[int], _: Any, __: Any, out: Tensor) -> Tensor:
        """Take away what the heads write in this run, and put in what they wrote in the other."""
        block = self.own.oracle.blocks[layer]
        z = self.seen[layer].unflatten(-1, (self.own.oracle.wiring.heads, -1))
        raw = torch.einsum("bphe,hed->hbpd", z, block.out)
        scale: Tensor | float = 1.0
        if block.post_weight is not None:
            square = raw.sum(0).square().mean(-1, keepdim=True)
            scale = block.post_weight / (square + block.eps).sqrt()
        for head in heads:
            other = self.own.other.writers[f"a{layer}.h{head}"]
            out = out - (raw[head] * scale - other) / self.own.scale
        return out

    @staticmethod
    def _write(taken: Tensor, _: Any, __: Any, out: Any) -> Any:
        if isinstance(out, tuple):
            return (taken, *out[1:])
        return taken.reshape(out.shape).clone()  # Falcon adds to it in place


# -- by hand ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("family", "direction"), in_turn("noise", "denoise"))
def test_nodes_patched_together_are_hooks_on_the_plain_module(family: str, direction: str) -> None:
    own, m, groups = hand(family, direction), exactly(family), own_groups(family)
    found = patch_together(m, groups, own.data, logit_diff, direction=direction)
    assert found.names == found.axes["group"] == tuple(groups)
    expected = np.array([Together(own, nodes).effect() for nodes in groups.values()])
    assert (np.abs(expected).max(1) > 1e-4).all()
    assert distance(found, expected) < 1e-5


@pytest.mark.parametrize(("family", "way"), in_turn(*product([noise, mean], DIRECTIONS)))
def test_a_group_of_one_is_that_node_alone(family: str, way: tuple[Any, str]) -> None:
    corruption, direction = way
    m, data = exactly(family), dataset(LENGTHS)

    def patch(nodes: str) -> Any:
        return patch_nodes(m, nodes, data, logit_diff, corruption, direction=direction)

    heads = patch("share")
    groups = {name: [name] for name in (*heads.names, *m.wiring.writers) if name != "input"}
    found = patch_together(m, groups, data, logit_diff, corruption, direction=direction)
    alone = dict(zip(found.names, found.values, strict=True))
    assert distance([alone[name] for name in heads.names], heads.values.reshape(12, -1)) < 1e-6
    if m.wiring.mlp:
        mlps = patch("mlp_out")
        assert distance([alone[name] for name in mlps.names], mlps) < 1e-6
    assert distance(found.gap, heads.gap) < 1e-9


# -- laws ------------------------------------------------------------------------------------------
@both_directions
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "neox-parallel", "attention-only"])
def test_all_that_is_written_is_the_whole_gap(family: str, direction: str) -> None:
    m, data = exactly(family), dataset(LENGTHS)
    found = patch_together(m, {"all": m.wiring.writers}, data, logit_diff, direction=direction)
    assert distance(found.values[0], found.gap) < 1e-6


@pytest.mark.parametrize("family", ["llama", "gemma2", "neox-parallel"])
def test_groups_do_not_depend_on_batches_or_padding(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def patch(**options: Any) -> Any:
        data = dataset((7, 5, 6, 7), **options)
        return patch_together(model(family), own_groups(family), data, logit_diff, noise).values

    wide = patch(batch_size=4)
    monkeypatch.setattr(engine, "TOKENS", 30)  # one or a few runs at once
    for padding, size in (("left", 2), ("right", 1)):
        assert distance(patch(batch_size=size, padding=padding), wide) < 1e-4


def test_several_metrics_are_read_from_the_same_runs() -> None:
    m, data, metrics = model("gpt2"), dataset(LENGTHS), (logit_diff, log_probability)
    together = patch_together(m, GROUPS, data, metrics)
    for metric, found in zip(metrics, together, strict=True):
        assert distance(found, patch_together(m, GROUPS, data, metric)) < 1e-6


def test_on_mini_the_strongest_heads_together_do_no_less_than_the_best() -> None:
    m = circuitkit.load("mini")
    data = circuitkit.Dataset.of(circuitkit.make_task("ioi", m, n=8), m)
    alone = circuitkit.patch_heads(m, data, logit_diff)
    order = np.argsort(-alone.mean, axis=None)
    groups = {"three": [alone.names[i] for i in order[:3]], "all": m.wiring.writers}
    found = circuitkit.patch_together(m, groups, data, logit_diff)
    assert found.mean[0] >= alone.mean.max() > 1
    assert distance(found.values[1], found.gap) < 1e-4


def test_what_does_not_exist_is_refused() -> None:
    def patch(groups: Any, **options: Any) -> Any:
        return patch_together(model("gpt2"), groups, dataset(LENGTHS), logit_diff, **options)

    with pytest.raises(CircuitError, match="no groups"):
        patch({})
    with pytest.raises(CircuitError, match="'none' is empty"):
        patch({"none": []})
    for name in ("a0.h4", "a1.h0.q", "logits"):
        with pytest.raises(CircuitError, match=rf"'{name}' in the group 'own'.*a0\.h0|input to m2"):
            patch({"own": ["a0.h0", name]})
    with pytest.raises(CircuitError, match=r"'sideways'.*denoise"):
        patch({"own": ["a0.h0"]}, direction="sideways")
