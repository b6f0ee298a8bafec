"""Models that are trained: gradients in weights, through any mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from families import build, dataset, distance, pristine
from torch import Tensor

import circuitkit as ck
from circuitkit.errors import UnsupportedModelError
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.loading import load

TRAINED = ["gpt2", "llama", "qwen2", "qwen3", "gpt-neo", "opt", "granite"]
COPIED, NORMED = ["neox-parallel", "neox-serial"], ["gemma2", "gemma3", "olmo2"]


def prepared(family: str) -> tuple[Any, Any, Any]:
    """A module in double precision, its trainable model, and prompts."""
    module = pristine(family).double()
    data = dataset((6, 5), batch_size=2)
    return module, load(module, trainable=True), data


def by_itself(module: Any, data: Any) -> Tensor:
    """The metric's sum, by the module's own forward, example by example."""
    total = torch.zeros((), dtype=torch.float64)
    for example in data.examples:
        logits = module(torch.tensor([example.clean])).logits[0, -1]
        total = total + logits[example.correct[0]] - logits[example.wrong[0]]
    return total


@pytest.mark.parametrize("family", TRAINED)
def test_with_every_edge_the_gradient_in_the_weights_is_the_models_own(family: str) -> None:
    """Of every weight of the module that was given; its own forward is the oracle."""
    module, m, data = prepared(family)
    names, weights = zip(*module.named_parameters(), strict=True)
    expected = torch.autograd.grad(by_itself(module, data), weights, allow_unused=True)
    value = ck.measure(m, m.wiring.legal, data, logit_diff).sum()
    found = torch.autograd.grad(value, weights, allow_unused=True)
    scale = max(float(grad.abs().max()) for grad in expected if grad is not None)
    assert value.item() == pytest.approx(by_itself(module, data).item(), rel=1e-4)
    for name, own, other in zip(names, found, expected, strict=True):
        zero = torch.zeros(())
        own, other = zero if own is None else own, zero if other is None else other
        assert float((own - other).abs().max()) < 1e-5 * scale, name
    assert scale > 1e-3


def test_under_a_mask_the_gradient_in_the_weights_is_its_finite_difference() -> None:
    """What is carried moves with the weights too. (Other families compute attention in single
    precision, in which small differences are rounding.)"""
    module, m, data = prepared("gpt2")
    keep = np.random.default_rng(0).random(m.wiring.shape) < 0.6
    weights, step = [*module.parameters()], 1e-6
    value = ck.measure(m, keep, data, logit_diff).sum()
    found = torch.autograd.grad(value, weights, allow_unused=True)
    generator = torch.Generator().manual_seed(1)
    ways = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]
    slope = sum(float((g * way).sum()) for g, way in zip(found, ways, strict=True) if g is not None)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for weight, way in zip(weights, ways, strict=True):
                weight += sign * step * way * (1 if sign == 1 else 2)
            ends.append(ck.measure(m, keep, data, logit_diff).sum().item())
    assert distance([slope], [(ends[0] - ends[1]) / (2 * step)]) < 1e-4


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_training_goes_on_with_the_new_weights(family: str) -> None:
    """Three steps of an optimizer, beside the same steps of the module's own forward; then scores
    are those of the trained model, loaded anew."""
    module, m, data = prepared(family)
    twin = pristine(family).double()
    for trained, loss in (
        (module, lambda: -ck.measure(m, m.wiring.legal, data, logit_diff).sum()),
        (twin, lambda: -by_itself(twin, data)),
    ):
        optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    for own, other in zip(module.parameters(), twin.parameters(), strict=True):
        assert distance(own.detach(), other.detach()) < 1e-5
    before = load(pristine(family).double())
    now, then = (ck.run(one, m.wiring.legal, data).detach() for one in (m, before))
    assert distance(now, then) > 1e-4
    fresh = ck.discovery.eap(load(module), data, logit_diff, "counterfactual").values
    assert distance(ck.discovery.eap(m, data, logit_diff, "counterfactual").values, fresh) < 1e-5


def test_what_stays_frozen_takes_no_gradient() -> None:
    module, _, data = prepared("gpt2")
    module.requires_grad_(False)
    module.transformer.h[1].mlp.requires_grad_(True)
    m = load(module, trainable=True)
    ck.measure(m, m.wiring.legal, data, logit_diff).sum().backward()
    grads = {name for name, weight in module.named_parameters() if weight.grad is not None}
    assert grads == {name for name, _ in module.named_parameters() if "h.1.mlp" in name}


@pytest.mark.parametrize("family", [*COPIED, *NORMED])
def test_what_cannot_be_trained_is_refused_with_the_reason(family: str) -> None:
    why = "copies its joint q, k and v" if family in COPIED else "a norm over what all heads"
    with pytest.raises(UnsupportedModelError, match=why):
        load(build(family), trainable=True)
