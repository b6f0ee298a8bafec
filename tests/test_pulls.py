"""One prompt with its patterns and norms held is an affine map: sums, pushes and pulls agree."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from families import FAMILIES, RELATIVES, build, distance, model
from torch import Tensor

from circuitkit.engine.model import Context
from circuitkit.errors import UnsupportedModelError
from circuitkit.features.pulls import EMBED, FrozenRun, Linear, require_traceable
from circuitkit.graph.stages import ATTENTION
from circuitkit.models.transformer_lens import Transformer, from_module

TOKENS = torch.tensor([[7, 12, 3, 40, 12, 9, 22]])
WITH_MLPS = [name for name in (*FAMILIES, *RELATIVES) if name != "attention-only"]


def started(m: Transformer) -> Context:
    return m.start(TOKENS, torch.ones_like(TOKENS, dtype=torch.bool))


@cache
def skips(layers: int, width: int = 32) -> dict[int, Linear]:
    generator = torch.Generator().manual_seed(3)
    return {n: Linear(0.1 * torch.randn(width, width, generator=generator)) for n in range(layers)}


def directions(n: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    places = torch.randint(0, TOKENS.shape[1], (n,), generator=generator)
    return places, torch.randn(n, 32, generator=generator)


# -- sums ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", WITH_MLPS)
def test_what_is_read_is_the_sum_over_what_was_written(family: str) -> None:
    m, (places, given) = model(family), directions()
    linear = skips(m.wiring.layers)
    run = FrozenRun(m, started(m), linear)
    for layer in (0, m.wiring.layers - 1, None):
        read = run.ending if layer is None else run.readings[layer]
        total = given @ run.bias(layer)
        for number, gradient in run.pull(layer, places, given).items():
            written = run.embed
            if number >= 0:
                stage, written = m.wiring.stages[number], run.constants[number]
                if stage.kind != ATTENTION:
                    written = written + run.outputs[stage.layer] - run.skipped(stage.layer)
            total = total + (gradient * written).sum((1, 2))
        assert distance(total, (read[places] * given).sum(1)) < 1e-5


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "neox-parallel", "granite"])
def test_a_run_is_the_clean_one(family: str) -> None:
    m, context = model(family), started(model(family))
    run = FrozenRun(m, context, skips(m.wiring.layers))
    native = m.native(TOKENS, torch.ones_like(TOKENS, dtype=torch.bool))
    assert distance(run.final, native.final[0]) < 1e-5
    for layer in range(m.wiring.layers):
        assert distance(run.outputs[layer], native.mlps[layer][0]) < 1e-5
        assert distance(run.residuals[layer], native.mlp_in[layer][0]) < 1e-5
        assert distance(run.readings[layer], m.layers[layer].ln2(native.mlp_in[layer])[0]) < 1e-5


# -- push and pull ---------------------------------------------------------------------------------
@pytest.mark.parametrize("family", WITH_MLPS)
def test_push_equals_pull(family: str) -> None:
    m, (places, given) = model(family), directions()
    run = FrozenRun(m, started(m), skips(m.wiring.layers))
    generator, shape = torch.Generator().manual_seed(1), (3, TOKENS.shape[1], 32)
    changes = [torch.randn(shape, generator=generator) for _ in range(m.wiring.layers + 1)]

    def answer(layer: int, change: Tensor) -> Tensor:
        return changes[layer + 1] + run.normed(layer, change) @ run.skips[layer].matrix.T

    arrived = run.push(changes[0], answer)
    numbers = [EMBED, *(stage.index for stage in run.mlps())]
    pulled = run.pull(None, places, given)
    pairs = zip(numbers, changes, strict=True)
    found = sum(torch.einsum("tpd,npd->nt", pulled[n], own) for n, own in pairs)
    assert distance(found, torch.einsum("ntd,td->nt", arrived[:, places], given)) < 1e-5


def test_a_push_is_the_model_itself_where_nothing_bends() -> None:
    """By hand: the model's own attention with its clean queries and keys, and constant norms."""
    m = model("llama")
    context = started(m)
    change = torch.randn(1, TOKENS.shape[1], 32, generator=torch.Generator().manual_seed(1))
    x, delta = context.embed, change
    for layer in range(m.wiring.layers):
        q, k, v = m.project(layer, x)
        weights, _ = m.projection(layer, "v")
        own = torch.einsum("bpd,gde->bpge", m.norm(layer, x).of(delta), weights)
        before, after = (m.attend(context, layer, q, k, value) for value in (v, v + own))
        heads = m.attention_out(layer, before)[0]
        delta = delta + m.attention_out(layer, after)[0] - heads
        x = x + heads
        x = x + m.mlp(layer, x)
    run = FrozenRun(m, context)
    found = run.push(change, lambda _, own: torch.zeros_like(own))
    assert distance(found, m.norm(None, x).of(delta)) < 1e-5


def test_behind_the_norm_is_before_it_through_the_norm() -> None:
    m, (places, given) = model("llama"), directions()
    run = FrozenRun(m, started(m))
    norm = m.mlp_norm(1, run.residuals[1][places])
    behind = run.pull(1, places, given)
    before = run.pull(1, places, norm.pull(given), behind=False)
    assert behind.keys() == before.keys()
    assert all(distance(before[key], behind[key]) < 1e-5 for key in behind)


def test_live_norms_pull_the_slope_of_what_they_give() -> None:
    m, context, (places, given) = model("gpt2"), started(model("gpt2")), directions()
    found = FrozenRun(m, context, norms="live").pull(0, places, given)[EMBED]
    frozen = FrozenRun(m, context).pull(0, places, given)[EMBED]
    assert distance(found, frozen) > 1e-2
    embed = context.embed.clone().requires_grad_()
    q, k, _ = (x.detach() for x in m.project(0, context.embed))
    z = m.attend(context, 0, q, k, m.project(0, embed)[2])
    read = m.layers[0].ln2(embed + m.attention_out(0, z)[0])
    (slope,) = torch.autograd.grad((read[0, places] * given).sum(), embed)
    assert distance(found.sum(0), slope[0]) < 1e-5


# -- refusals --------------------------------------------------------------------------------------
def test_what_has_no_whole_mlps_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="has no MLPs, and features stand"):
        require_traceable(model("attention-only"))
    apart = from_module(build("mixtral"), name="mixtral", experts="live")
    with pytest.raises(UnsupportedModelError, match=r"takes its MLPs apart \(experts\)"):
        require_traceable(apart)
    with pytest.raises(UnsupportedModelError, match="does not show what its norms"):
        require_traceable(object())
