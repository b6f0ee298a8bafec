"""Masks that carry a gradient, masks by example, and readers between two runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, as_batch, dataset, distance, double, in_turn, model
from torch import Tensor

import circuitkit as ck
import circuitkit.engine.dense as dense
import circuitkit.engine.gradients as module
from circuitkit.corruptions.constants import zero
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.engine.attribute import score
from circuitkit.engine.gradients import Gradients, gradients
from circuitkit.engine.record import answer, record
from circuitkit.engine.run import run, runs
from circuitkit.errors import CircuitError
from circuitkit.metrics.answers import logit_diff


def given(m: Any, corruption: Any = counterfactual) -> tuple[Any, ...]:
    """What ``run`` takes of padded prompts of different lengths."""
    data = dataset((8, 5, 7), batch_size=3)
    batch = as_batch(data)
    (carried,) = corruption(m, data)(batch)
    return m, batch, m.start(batch.clean, batch.mask), carried


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mixtral"])
def test_a_stage_that_is_computed_again_gives_the_same(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = model(family)
    keep = torch.rand((3, *m.wiring.shape), generator=torch.Generator().manual_seed(4))
    found = []
    for small in (dense.SMALL, 0):
        monkeypatch.setattr(dense, "SMALL", small)
        given_keep = keep.clone().requires_grad_()
        logits = run(*given(m), given_keep)
        found.append([logits.detach(), *torch.autograd.grad(logits.square().sum(), given_keep)])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def some_masks(m: Any, n: int, share: float = 0.5) -> Tensor:
    """Random masks."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand((n, *m.wiring.shape), generator=generator) < share


@pytest.mark.parametrize(("family", "share"), in_turn(0.1, 0.7))
def test_a_mask_for_each_example_is_that_example_under_its_mask(family: str, share: float) -> None:
    m = model(family)
    keeps = some_masks(m, 3, share)
    together = run(*given(m), keeps)
    apart = torch.stack([run(*given(m), keep.numpy())[i] for i, keep in enumerate(keeps)])
    assert distance(together, apart) < 1e-4
    assert share < 0.5 or distance(together, run(*given(m), keeps[0].numpy())) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_with_a_gradient_runs_like_one_without(family: str) -> None:
    """Of weights between 0 and 1."""
    m = model(family)
    weights = torch.rand(m.wiring.shape, generator=torch.Generator().manual_seed(2))
    graded = weights.clone().requires_grad_()
    found = [*runs(*given(m), [weights, graded, weights * 0.5, (graded * 0.5)])]
    assert distance(found[1].detach(), found[0]) < 1e-4
    assert distance(found[3].detach(), found[2]) < 1e-4
    assert found[1].requires_grad
    assert not found[0].requires_grad


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "neox-parallel", "attention-only"])
def test_the_gradient_in_a_mask_is_its_finite_difference(family: str, each: bool) -> None:
    """Of models whose norms are in double precision too."""
    m, step = double(family), 1e-5
    parts, legal = given(m), torch.from_numpy(m.wiring.legal)
    generator = torch.Generator().manual_seed(3)
    shape = (3, *m.wiring.shape) if each else m.wiring.shape
    keep = torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_()
    way = torch.randn(shape, generator=generator, dtype=torch.float64) * legal

    def value(weights: Tensor) -> Tensor:
        logits = run(*parts, weights)
        return logit_diff(logits, logits, parts[1]).sum()

    (slope,) = torch.autograd.grad(value(keep), keep)
    with torch.no_grad():
        rise = value(keep + step * way) - value(keep - step * way)
    assert distance([float((slope * way).sum())], [float(rise) / (2 * step)]) < 1e-5
    assert not slope[..., ~legal].any()
    assert slope[..., legal].abs().mean() > 0


@pytest.mark.parametrize("corruption", [counterfactual, zero])
@pytest.mark.parametrize("family", FAMILIES)
def test_readers_on_the_way_are_a_run_under_one_weight(family: str, corruption: Any) -> None:
    """So a gradient at a uniform mask costs one plain run and its backward."""
    m, share = model(family), 0.3
    parts = given(m, corruption)
    _, batch, context, carried = parts
    keep = torch.full(m.wiring.shape, share).requires_grad_()
    masked = run(*parts, keep)
    with torch.no_grad():
        plain = answer(m, batch, record(m, context, carried=carried, share=share).final)
    assert distance(plain, masked.detach()) < 1e-4

    def metric(logits: Tensor) -> Tensor:
        return logit_diff(logits, logits, batch)

    (slope,) = torch.autograd.grad(metric(masked).sum(), keep)
    at = gradients(m, batch, context, context.embed, metric, carried, share)
    found = score(m, batch, at.activations, carried, at)
    assert distance(found, slope * torch.from_numpy(m.wiring.legal)) < 1e-3


def test_a_run_with_a_gradient_keeps_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """What every writer changes, and not all that stages compute on the way."""
    monkeypatch.setattr(dense, "SMALL", 0)
    m = model("gpt2")
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.element_size()
        return x

    parts = given(m)
    keep = torch.ones(m.wiring.shape).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run(*parts, keep)
    pool = len(m.wiring.writers) * parts[1].clean.numel() * m.d_model
    masks = 2 * m.wiring.legal.size
    assert pool < sum(kept.values()) < 1.5 * pool + masks


def test_fractions_are_a_mask_too() -> None:
    parts = given(model("llama"))
    whole = np.ones(parts[0].wiring.shape)
    (clean,) = runs(*parts, [whole])
    (each,) = runs(*parts, [torch.ones(3, *whole.shape)])
    assert distance(each, clean) < 1e-5


def test_masks_by_example_go_through_the_batches() -> None:
    m, data = model("gpt2"), dataset((8, 5, 7, 6), batch_size=3)
    keeps = some_masks(m, 4)
    found = ck.run(m, [keeps, keeps[0]], data, "counterfactual")
    for i, keep in enumerate(keeps):
        alone = ck.run(m, keep, data, "counterfactual")
        assert distance(found[0, i], alone[0, i]) < 1e-4
    with pytest.raises(CircuitError, match="masks for 3 examples, and 4 examples"):
        ck.run(m, keeps[:3], data)
    with pytest.raises(CircuitError, match="shape"):
        ck.run(m, keeps[:, 1:], data)


@pytest.mark.parametrize("share", [None, 0.4])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradients_of_long_prompts_go_stage_by_stage(
    family: str, share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are the same."""
    m, batch, context, carried = given(model(family))
    way = (carried, share) if share else ()

    def at() -> Gradients:
        return gradients(m, batch, context, context.embed, lambda x: logit_diff(x, x, batch), *way)

    whole = at()
    monkeypatch.setattr(module, "LONG", 1)
    stages = at()
    for found, expected in zip(stages.ports, whole.ports, strict=True):
        for own, other in zip(found, expected, strict=True):
            assert distance(own, other) < 1e-4
    assert distance(stages.logits, whole.logits) < 1e-5
    assert distance(stages.output, whole.output) < 1e-5
    assert float(stages.steepest) == pytest.approx(float(whole.steepest), rel=1e-5)
