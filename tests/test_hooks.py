"""A circuit as TransformerLens hooks: the bridge's own forward gives what our run gives, and what
the same thing done by hand gives on the plain module."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from families import (
    FAMILIES,
    SPARSE,
    as_batch,
    build,
    dataset,
    distance,
    double,
    exactly,
    model,
    pristine,
)
from oracles import Oracle
from torch import Tensor

import circuitkit as ck
from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.run import run
from circuitkit.errors import ArgumentError, CircuitError, DataError, UnsupportedModelError
from circuitkit.evaluation.masks import random_masks
from circuitkit.models.hooks import Hooks, masked_run
from circuitkit.models.transformer_lens import Transformer, from_module
from circuitkit.registry import resolve
from circuitkit.truth.rasp.compiler import compile_program
from circuitkit.truth.rasp.library import named

pytestmark = pytest.mark.own_mini

SAME = 1e-5  # relative, in single precision
EXACT = 1e-12  # in double precision
SOME = ["gpt2", "neox-parallel", "llama", "gemma2", "olmo2", "attention-only"]
CORRUPTIONS = ["counterfactual", "zero", "mean", "mean_by_position", "resample", "noise"]
every_family = pytest.mark.parametrize("family", FAMILIES)
some_families = pytest.mark.parametrize("family", SOME)


def masks(m: Model, seed: int = 0) -> list[Any]:
    """All edges, few, about half, and fractions of half."""
    w = m.wiring
    rng = np.random.default_rng(seed)
    (few,), (half,) = (random_masks(w, n, 1, seed) for n in (20, w.n_edges // 2))
    spread = rng.random(w.shape) < 0.5
    return [w.legal, few, half, spread, np.where(spread, rng.random(w.shape), 0)]


def carried_by(m: Model, data: Dataset, name: str) -> Activations:
    with torch.no_grad():
        (carried,) = resolve("corruptions", name)(m, data)(as_batch(data))
        return carried


def ours(m: Model, batch: Batch, carried: Activations, mask: Any) -> Tensor:
    with torch.no_grad():
        return run(m, batch, m.start(batch.clean, batch.mask), carried, mask)


def under(m: Transformer, hooks: Hooks) -> Tensor:
    """The bridge's logits under the hooks, at the answers."""
    batch = hooks.batch
    with torch.no_grad():
        logits: Tensor = m.bridge.run_with_hooks(
            batch.clean, attention_mask=batch.mask, fwd_hooks=hooks
        )
    return logits[range(len(batch)), batch.last]


# -- the law ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("family", "name"), [
    (family, name) for family in FAMILIES for name in CORRUPTIONS
    if name == "counterfactual" or family in SOME
])  # fmt: skip
def test_the_bridge_gives_under_the_hooks_what_our_run_gives(family: str, name: str) -> None:
    m = model(family)
    data = dataset((9, 7, 9, 7), padding=("left", "right")[CORRUPTIONS.index(name) % 2])
    batch, carried = as_batch(data), carried_by(m, data, name)
    for mask in masks(m):
        found = under(m, masked_run(m, batch, carried, mask))
        assert distance(found, ours(m, batch, carried, mask)) < SAME


@some_families
def test_in_double_precision_they_differ_by_rounding(family: str) -> None:
    m, data = exactly(family), dataset()
    batch = as_batch(data)
    for name in ("counterfactual", "mean"):
        carried = carried_by(m, data, name)
        for mask in masks(m, seed=1):
            found = under(m, masked_run(m, batch, carried, mask))
            assert distance(found, ours(m, batch, carried, mask)) < EXACT


@cache
def oracle(family: str) -> Oracle:
    return Oracle(pristine(family), model(family).wiring)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in SPARSE])
def test_it_is_the_masked_run_done_by_hand_on_the_plain_module(family: str) -> None:
    m, data = model(family), dataset()
    batch, by_hand = as_batch(data), oracle(family)
    (keep,) = random_masks(m.wiring, m.wiring.n_edges // 2, 1)
    carried = by_hand.plain(batch.corrupt, batch.mask)
    found = under(m, ck.hooks(m, keep, data, "counterfactual"))
    assert distance(found, by_hand.run(batch, carried, keep)) < 2 * SAME


@some_families
def test_all_edges_are_the_bridge_and_none_is_the_corrupted_run(family: str) -> None:
    m, data = model(family), dataset()
    batch, everything = as_batch(data), m.wiring.legal
    rows = range(len(batch)), batch.last
    with torch.no_grad():
        clean, corrupt = (m.bridge(tokens)[rows] for tokens in (batch.clean, batch.corrupt))
    assert distance(under(m, ck.hooks(m, everything, data)), clean) < SAME
    assert distance(under(m, ck.hooks(m, ~everything, data)), corrupt) < SAME
    assert distance(clean, corrupt) > 0.1


# -- whatever the bridge is set to -----------------------------------------------------------------
FLAGS = ["use_split_qkv_input", "use_attn_in", "use_attn_result", "use_hook_mlp_in"]


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("family", ["gpt2", "neox-parallel", "llama", "gemma2"])
def test_a_bridge_that_forks_by_head_gives_the_same(family: str, flag: str) -> None:
    m, data = from_module(build(family)), dataset()
    (keep,) = random_masks(m.wiring, m.wiring.n_edges // 2, 1)
    getattr(m.bridge, f"set_{flag}")(True)
    found = under(m, ck.hooks(m, keep, data))
    assert distance(found, ours(m, as_batch(data), carried_by(m, data, "counterfactual"), keep)) < (
        SAME
    )


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_folded_weights_have_circuits_of_their_own(family: str) -> None:
    bridge = from_module(build(family)).bridge
    bridge.enable_compatibility_mode()
    m, data = from_module(bridge), dataset()
    (keep,) = random_masks(m.wiring, m.wiring.n_edges // 2, 1)
    carried = carried_by(m, data, "counterfactual")
    found = under(m, ck.hooks(m, keep, data))
    assert distance(found, ours(m, as_batch(data), carried, keep)) < SAME


# -- what a user sees ------------------------------------------------------------------------------
def test_the_arguments_are_those_of_every_public_function() -> None:
    m = ck.load("mini")
    task = ck.make_task("ioi", m, n=8)
    data = ck.Dataset.of(task, m, batch_size=3)
    metric, corruption = ck.metrics.logit_diff, ck.corruptions.counterfactual
    circuit = ck.discovery.eap(m, data, metric, corruption).top(100)
    found = ck.hooks(m, circuit, data)
    assert isinstance(found, list)
    assert torch.equal(found.batch.clean, as_batch(data).clean)
    same = under(m, ck.hooks(m, circuit, data, ck.corruptions.counterfactual))
    assert torch.equal(under(m, found), same)
    with m.bridge.hooks(fwd_hooks=found), torch.no_grad():
        logits = m.bridge(found.batch.clean)
    rows = range(8), found.batch.last
    assert distance(logits[rows], same) < SAME
    assert not torch.equal(m.bridge(found.batch.clean)[rows], logits[rows])  # they are gone
    length = found.batch.clean.shape[1]
    named = ck.hooks(m, circuit, "ioi")  # prompts that the discovery did not see
    assert len(named.batch) == 64
    said = f"26 hooks: a circuit of 100 edges, for 8 texts of {length} tokens"
    assert repr(found) == said
    batch = list(data)[1]
    part = ck.hooks(m, circuit, data, "mean", batch=batch)  # the mean over all, of three of them
    whole = under(m, ck.hooks(m, circuit, data, "mean"))
    assert distance(under(m, part), whole[3:6]) < SAME


@some_families
def test_hook_points_hold_what_the_circuits_run_computes(family: str) -> None:
    m, data = model(family), dataset()
    batch, carried = as_batch(data), carried_by(m, data, "mean")
    (keep,) = random_masks(m.wiring, 12, 1)
    hooks = masked_run(m, batch, carried, keep)
    with m.bridge.hooks(fwd_hooks=hooks), torch.no_grad():
        logits, cache = m.bridge.run_with_cache(batch.clean)
    final = cache[f"blocks.{m.wiring.layers - 1}.hook_resid_post"]
    rows = range(len(batch)), batch.last
    assert distance(m.unembed(final[rows]), logits[rows]) < SAME
    alive = m.wiring.alive(keep)
    outside = 0
    for stage in m.wiring.stages:
        for place, columns in enumerate(stage.feeds):
            if alive[:, columns].any():
                continue
            outside += 1
            if stage.kind == "attention":
                found = cache[f"blocks.{stage.layer}.attn.hook_z"][:, :, place]
            else:
                found = cache[f"blocks.{stage.layer}.hook_mlp_out"]
            source = carried.computed if stage.kind == "attention" else carried.shares
            assert torch.equal(found, source[stage.index][:, :, place])
    assert outside


def test_a_further_hook_comes_after_ours_and_moves_what_is_behind_it() -> None:
    m, data = model("gpt2"), dataset()
    hooks = ck.hooks(m, m.wiring.legal, data)

    def silence(x: Tensor, hook: object) -> Tensor:
        return torch.zeros_like(x)

    plain = under(m, hooks)
    found = m.bridge.run_with_hooks(
        hooks.batch.clean, fwd_hooks=[*hooks, ("blocks.2.mlp.hook_in", silence)]
    )
    same = m.bridge.run_with_hooks(hooks.batch.clean, fwd_hooks=[("blocks.2.mlp.hook_in", silence)])
    rows = range(len(hooks.batch)), hooks.batch.last
    assert distance(found[rows], same[rows]) < SAME
    assert distance(found[rows], plain) > 1e-2


def test_a_gradient_flows_through_the_hooks() -> None:
    m, data = double("gpt2"), dataset((7, 7))
    batch, carried = as_batch(data), carried_by(m, data, "counterfactual")
    (keep,) = random_masks(m.wiring, m.wiring.n_edges // 2, 1)
    hooks = masked_run(m, batch, carried, keep)
    direction = torch.randn(carried.embed.shape, generator=torch.Generator().manual_seed(0))
    step = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def value(size: Tensor) -> Tensor:
        def moved(x: Tensor, hook: object) -> Tensor:
            return x + size * direction

        moving: list[Any] = [("blocks.0.hook_resid_pre", moved), *hooks]
        total: Tensor = m.bridge.run_with_hooks(batch.clean, fwd_hooks=moving)[:, -1, 0].sum()
        return total

    (slope,) = torch.autograd.grad(value(step), step)
    with torch.no_grad():
        ends = [value(torch.tensor(size, dtype=torch.float64)) for size in (1e-5, -1e-5)]
    assert distance(slope, (ends[0] - ends[1]) / 2e-5) < 1e-6


@some_families
def test_the_bridge_that_was_loaded_takes_them_and_keeps_its_gradients(family: str) -> None:
    module = build(family)
    bridge = module if hasattr(module, "original_model") else from_module(module).bridge
    bridge.requires_grad_(True)
    m, data = ck.load(bridge), dataset()
    (keep,) = random_masks(m.wiring, m.wiring.n_edges // 2, 1)
    hooks = ck.hooks(m, keep, data)
    logits = bridge.run_with_hooks(hooks.batch.clean, fwd_hooks=hooks)
    found = logits[range(len(hooks.batch)), hooks.batch.last]
    assert distance(found, under(m, hooks)) < SAME
    found.sum().backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in bridge.parameters())


def test_nothing_stays_behind() -> None:
    m, data = model("llama"), dataset()
    before = m.bridge(as_batch(data).clean)
    hooks = ck.hooks(m, m.wiring.legal, data, "zero")
    first, again = under(m, hooks), under(m, hooks)
    assert torch.equal(first, again)
    assert torch.equal(m.bridge(as_batch(data).clean), before)


# -- what is refused -------------------------------------------------------------------------------
def test_a_model_that_does_not_run_on_transformer_lens_is_refused() -> None:
    program = named("shift")
    compiled = compile_program(program)
    with pytest.raises(UnsupportedModelError, match="does not run on TransformerLens"):
        ck.hooks(compiled, compiled.wiring.legal, program.data(4))


def test_experts_as_nodes_are_refused() -> None:
    m = from_module(build("mixtral"), experts="live")
    with pytest.raises(UnsupportedModelError, match="no hook points for what each of the experts"):
        ck.hooks(m, m.wiring.legal, dataset())


def test_a_bridge_without_a_hook_point_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    m = from_module(build("gpt2"))
    known = {k: v for k, v in m.bridge.hook_dict.items() if k != "blocks.1.attn.hook_z"}
    monkeypatch.setattr(type(m.bridge), "hook_dict", property(lambda _: known))
    with pytest.raises(UnsupportedModelError, match=r"no hook point 'blocks\.1\.attn\.hook_z'"):
        ck.hooks(m, m.wiring.legal, dataset())


@pytest.mark.unchecked
def test_several_draws_and_another_models_circuit_are_refused() -> None:
    m, data = model("gpt2"), dataset()
    with pytest.raises(DataError, match=r"noise\(draws=3\) makes 3 draws"):
        ck.hooks(m, m.wiring.legal, data, "noise(draws=3)")
    with pytest.raises(CircuitError, match="give a circuit of this model"):
        ck.hooks(m, model("llama").wiring.legal, data)
    with pytest.raises(ArgumentError, match="circuit is a Dataset; give a circuit"):
        ck.hooks(m, data, m.wiring.legal)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="not a loaded model"):
        ck.hooks(m.wiring.legal, data, m)  # type: ignore[arg-type]


def test_a_forward_of_other_texts_is_refused() -> None:
    m, data = model("gpt2"), dataset()
    hooks = ck.hooks(m, m.wiring.legal, data)
    with pytest.raises(DataError, match="for 6 texts of 9 tokens, and the forward is of 6 of 8"):
        m.bridge.run_with_hooks(hooks.batch.clean[:, :8], fwd_hooks=hooks)
    residual = torch.zeros(6, 9, m.d_model)
    with pytest.raises(DataError, match="without start_at_layer"):
        m.bridge.run_with_hooks(residual, start_at_layer=1, fwd_hooks=hooks)
