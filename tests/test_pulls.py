"""One prompt with its patterns and norms held is an affine map: sums, pushes and pulls agree."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from families import FAMILIES, RELATIVES, build, distance, model
from torch import Tensor

from circuitkit.engine.model import Context
from circuitkit.errors import UnsupportedModelError
from circuitkit.features.pulls import FrozenRun, require_traceable
from circuitkit.graph.stages import ATTENTION
from circuitkit.models.transformer_lens import Transformer, from_module

TOKENS = torch.tensor([[7, 12, 3, 40, 12, 9, 22]])
WITH_MLPS = [name for name in (*FAMILIES, *RELATIVES) if name != "attention-only"]


def started(m: Transformer) -> Context:
    return m.start(TOKENS, torch.ones_like(TOKENS, dtype=torch.bool))


@cache
def skips(layers: int, width: int = 32) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {n: 0.1 * torch.randn(width, width, generator=generator) for n in range(layers)}


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
                    own = run.readings[stage.layer] @ linear[stage.layer].T
                    written = written + run.outputs[stage.layer] - own
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
def pushed(m: Transformer, context: Context, change: Tensor, last: int) -> Tensor:
    """What the last layer's MLP reads of a change of the embedding: forward, with the model's own
    attention and its clean queries and keys, and norms that divide as in the clean run."""
    clean = FrozenRun(m, context)
    assert not clean.skips
    x, delta = context.embed, change
    for layer in range(m.wiring.layers):
        q, k, v = m.project(layer, x)
        weights, _ = m.projection(layer, "v")
        own = torch.einsum("bpd,gde->bpge", m.norm(layer, x).of(delta), weights)
        z = m.attend(context, layer, q, k, own)
        heads = m.write(layer, None, z).sum(0)
        total = m.attention_out(layer, m.attend(context, layer, q, k, v))[0]
        read, moved = (x, delta) if m.wiring.parallel else (x + total, delta + heads)
        if layer == last:
            return m.layers[layer].ln2.frozen(read).of(moved)
        x, delta = x + total + m.mlp(layer, read), delta + heads
    raise AssertionError


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox-parallel", "falcon", "gpt-oss"])
def test_push_equals_pull(family: str) -> None:
    m, context, (places, given) = model(family), started(model(family)), directions()
    generator = torch.Generator().manual_seed(1)
    change = torch.randn(1, TOKENS.shape[1], 32, generator=generator)
    last = m.wiring.layers - 1
    arrived = pushed(m, context, change, last)[0]
    pulled = FrozenRun(m, context).pull(last, places, given)[-1]
    assert distance((pulled * change).sum((1, 2)), (arrived[places] * given).sum(1)) < 1e-5


def test_behind_the_norm_is_before_it_through_the_norm() -> None:
    m, (places, given) = model("llama"), directions()
    run = FrozenRun(m, started(m))
    norm = m.layers[1].ln2.frozen(run.residuals[1][places])
    behind = run.pull(1, places, given)
    before = run.pull(1, places, norm.pull(given), behind=False)
    assert behind.keys() == before.keys()
    assert all(distance(before[key], behind[key]) < 1e-5 for key in behind)


def test_live_norms_pull_the_slope_of_what_they_give() -> None:
    m, context, (places, given) = model("gpt2"), started(model("gpt2")), directions()
    found = FrozenRun(m, context, norms="live").pull(0, places, given)[-1]
    frozen = FrozenRun(m, context).pull(0, places, given)[-1]
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
