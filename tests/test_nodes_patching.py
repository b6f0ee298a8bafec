"""A patched head or residual is the same done by hand, by hooks on the plain module."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, as_batch, dataset, distance, double, examples, model, pristine
from oracles import Oracle
from torch import Tensor

from circuitkit.corruptions.constants import mean
from circuitkit.corruptions.gaussian import noise
from circuitkit.data import Batch, Dataset
from circuitkit.engine import sweep as engine
from circuitkit.engine.run import answer, record, run
from circuitkit.errors import CircuitError, MetricError
from circuitkit.metrics.answers import logit_diff
from circuitkit.patching.nodes import patch_heads, patch_residual
from circuitkit.transformer import Transformer

SINGLE = ("mixtral",)  # torch multiplies the experts' matrices in single precision only
PARALLEL = ("neox-parallel",)
LENGTHS = (7, 5, 7)
both_directions = pytest.mark.parametrize("direction", ["noise", "denoise"])
stages = pytest.mark.parametrize("stage", ["pre", "mid", "post"])
Change = Callable[[Tensor], Tensor]


@cache
def exactly(family: str) -> Transformer:
    """The family's model in double precision, where there is one."""
    return model(family) if family in SINGLE else double(family)


class Hand:
    """The plain module's two runs of one batch, and one of them with something put in."""

    def __init__(self, family: str, direction: str) -> None:
        self.data = dataset(LENGTHS)
        self.batch: Batch = as_batch(self.data)
        module = pristine(family)
        module = module if family in SINGLE else module.to(torch.float64)
        self.oracle = Oracle(module, exactly(family).wiring)
        clean, corrupt = self.batch.clean, self.batch.corrupt
        self.tokens, taken = (clean, corrupt) if direction == "noise" else (corrupt, clean)
        self.sign = -1 if direction == "noise" else 1
        self.base = self.oracle.plain(self.tokens, self.batch.mask)
        self.other = self.oracle.plain(taken, self.batch.mask)
        self.seen, self.taken = self.residuals(self.tokens), self.residuals(taken)
        self.start = self.value()

    def attention(self, layer: int) -> Any:
        """The module whose output is what a layer's attention adds to the residual stream."""
        block = self.oracle.blocks[layer]
        return block.entry.post_attention_layernorm if self.oracle.post_norm else block.o

    def residuals(self, tokens: Tensor) -> dict[tuple[str, int], Tensor]:
        """The residual stream before and within each layer, and before the logits."""
        seen: dict[tuple[str, int], Tensor] = {}

        def read(layer: int, _: Any, args: Any, kwargs: Any) -> None:
            seen["pre", layer] = args[0] if args else kwargs["hidden_states"]

        def wrote(layer: int, _: Any, __: Any, out: Tensor) -> None:
            seen["mid", layer] = seen["pre", layer] + out

        handles = []
        for layer, block in enumerate(self.oracle.blocks):
            before = partial(read, layer)
            handles.append(block.entry.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(self.attention(layer).register_forward_hook(partial(wrote, layer)))
        last = partial(read, len(self.oracle.blocks))
        handles.append(self.oracle.final.register_forward_pre_hook(last, with_kwargs=True))
        self.oracle.logits(tokens, self.batch.mask)
        for handle in handles:
            handle.remove()
        return seen

    def value(self) -> np.ndarray:
        """The metric of every example, whatever hooks there are."""
        logits = self.oracle.logits(self.tokens, self.batch.mask)
        logits = logits[range(len(self.batch)), self.batch.last]
        return logit_diff(logits, logits, self.batch).double().numpy()

    def effect(self, stage: str, layer: int, delta: Tensor) -> np.ndarray:
        """What this change of the residual stream does."""

        def before(_: Any, args: Any, kwargs: Any) -> Any:
            if args:
                return (args[0] + delta, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + delta}

        def after(_: Any, __: Any, out: Tensor) -> Tensor:
            return out + delta

        if stage == "mid":
            handle = self.attention(layer).register_forward_hook(after)
        else:
            blocks = [*(block.entry for block in self.oracle.blocks), self.oracle.final]
            handle = blocks[layer].register_forward_pre_hook(before, with_kwargs=True)
        value = self.value()
        handle.remove()
        return self.sign * (value - self.start)

    def residual(self, stage: str, layer: int, position: int) -> np.ndarray:
        """The effect of the residual stream at one layer and position."""
        stage, layer = ("pre", layer + 1) if stage == "post" else (stage, layer)
        delta = self.taken[stage, layer] - self.seen[stage, layer]
        delta[:, [i for i in range(delta.shape[1]) if i != position]] = 0
        found = self.effect(stage, layer, delta)
        return np.where(self.batch.mask[:, position].numpy(), found, np.nan)


# -- by hand ---------------------------------------------------------------------------------------
@both_directions
@pytest.mark.parametrize("family", FAMILIES)
def test_a_patched_head_is_a_hook_on_the_plain_module(family: str, direction: str) -> None:
    hand, m = Hand(family, direction), exactly(family)
    found = patch_heads(m, hand.data, logit_diff, direction=direction)
    expected = np.zeros((3, 4, len(LENGTHS)))
    for layer, head in np.ndindex(3, 4):
        name = f"a{layer}.h{head}"
        delta = hand.other.writers[name] - hand.base.writers[name]
        expected[layer, head] = hand.effect("mid", layer, delta)
    assert distance(found, expected) < 1e-5
    assert (np.abs(expected) > 1e-6).mean() > 0.8


@stages
@both_directions
@pytest.mark.parametrize("family", FAMILIES)
def test_a_patched_residual_is_a_hook_on_the_plain_module(
    family: str, direction: str, stage: str
) -> None:
    hand, m = Hand(family, direction), exactly(family)
    patch = partial(patch_residual, m, hand.data, logit_diff, direction=direction, stage=stage)
    if stage == "mid" and family in PARALLEL:
        with pytest.raises(CircuitError, match=r"'mid' does not exist in 'neox-parallel'"):
            patch()
        return
    found = patch()
    assert found.shape == (3, 7, 3)
    cells = [c for c in np.ndindex(3, 7) if (c[0] == 0 and stage == "pre") or sum(c) % 2]
    expected = np.array([hand.residual(stage, *cell) for cell in cells])
    here = ~np.isnan(expected)
    chosen = found[tuple(np.array(cells).T)]
    assert np.array_equal(np.isnan(chosen), ~here)
    assert 0 < here.mean() < 1
    assert distance(chosen[here], expected[here]) < 1e-5


@both_directions
@pytest.mark.parametrize("family", ["gpt2", "llama", "neox-parallel", "attention-only"])
def test_a_patched_head_is_a_masked_run_with_all_its_edges_cut(family: str, direction: str) -> None:
    """Also where what is taken, or what it is put in, is no run of the model."""
    m, data = exactly(family), dataset(LENGTHS)
    batch = as_batch(data)
    context = m.start(batch.clean, batch.mask)
    with torch.no_grad():
        live, carried = record(m, context), mean(m, data)(batch)[0]
        base, other = (live, carried) if direction == "noise" else (carried, live)
        found = patch_heads(m, data, logit_diff, mean, direction=direction)
        expected = np.zeros_like(found)
        for layer, head in np.ndindex(*found.shape[:2]):
            row = m.wiring.first_head(layer) + head
            keep = np.zeros(m.wiring.shape, dtype=bool)
            keep[row:] = m.wiring.legal[row:]
            keep[row + 1 : m.wiring.first_head(layer) + m.wiring.heads] = False
            if m.wiring.parallel:
                keep[m.wiring.mlp_row(layer)] = False
            given = {row: engine.difference(m, other, base, row)}
            patched = run(m, batch, context, base, keep, given)
            plain = answer(m, batch, base.final)
            moved = logit_diff(patched, patched, batch) - logit_diff(plain, plain, batch)
            expected[layer, head] = -moved if direction == "noise" else moved
    assert distance(found, expected) < 1e-5


# -- what is known without a run -------------------------------------------------------------------
def test_nothing_is_run_before_the_first_token_that_differs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    m, (one, *_) = exactly("gpt2"), examples((7,))
    tokens = list(one.clean)
    tokens[4] = tokens[4] % 59 + 1
    data = Dataset((type(one)(one.clean, tuple(tokens), one.correct, one.wrong, one.spans),))
    ran: list[tuple[int, int]] = []
    finals = engine.Rest.finals

    def watched(self: engine.Rest, changes: Any) -> Tensor:
        found = finals(self, changes)
        ran.append((self.start, len(found)))
        return found

    monkeypatch.setattr(engine.Rest, "finals", watched)
    found = patch_residual(m, data, logit_diff)
    assert {start for start, _ in ran} == {4, 5, 6}
    assert sum(n for _, n in ran) <= 9
    assert not found[:, :4].any()
    assert np.abs(found[:, 4]).min() > 1e-4
    assert np.abs(found[1:, 4:]).min() > 0
    # at layer 0 the prompts differ in that token alone, so it is the whole difference
    whole = [logit_diff(x, x, as_batch(data)).item() for x in (
        m.native(torch.tensor([t]), torch.ones(1, 7).bool()).logits[:, -1]
        for t in (one.clean, tokens))]  # fmt: skip
    assert found[0, 4, 0] == pytest.approx(whole[0] - whole[1], rel=1e-6)


# -- laws ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("patch", [patch_heads, patch_residual])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "neox-parallel"])
@pytest.mark.parametrize("corruption", [noise, mean])
def test_effects_do_not_depend_on_batches_or_padding(
    family: str, patch: Any, corruption: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = model(family)
    wide = patch(m, dataset((7, 5, 6, 7), batch_size=4), logit_diff, corruption)
    monkeypatch.setattr(engine, "TOKENS", 30)  # one or a few runs at once
    for padding, size in (("left", 4), ("right", 2), ("left", 1)):
        data = dataset((7, 5, 6, 7), batch_size=size, padding=padding)
        found = patch(m, data, logit_diff, corruption)
        missing = np.isnan(wide)
        assert np.array_equal(np.isnan(found), missing)
        assert distance(found[~missing], wide[~missing]) < 1e-4


def test_the_draws_of_a_corruption_are_averaged() -> None:
    m, data = exactly("llama"), dataset(LENGTHS)
    three = patch_heads(m, data, logit_diff, partial(noise, draws=3))
    draws = noise(m, data, draws=3)(as_batch(data))
    each = [patch_heads(m, data, logit_diff, lambda *_, d=d: lambda _: [d]) for d in draws]
    assert distance(three, np.mean(each, axis=0)) < 1e-9
    assert distance(each[0], three) > 1e-2


@pytest.mark.parametrize("patch", [patch_heads, patch_residual])
def test_what_does_not_exist_is_refused(patch: Any) -> None:
    m, data = model("gpt2"), dataset(LENGTHS)
    with pytest.raises(CircuitError, match=r"'sideways'.*denoise"):
        patch(m, data, logit_diff, direction="sideways")
    with pytest.raises(MetricError, match="one value per example"):
        patch(m, data, lambda x, _, __: x.mean())
    with pytest.raises(CircuitError, match=r"stage='middle'.*mid"):
        patch_residual(m, data, logit_diff, stage="middle")
