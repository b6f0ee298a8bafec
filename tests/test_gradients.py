"""Where the gradient methods take their gradients: each against a slow version of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from families import as_batch, dataset, distance, model
from torch import Tensor

import circuitkit.discovery._gradients as shared
from circuitkit.corruptions.constants import zero
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Batch, Dataset
from circuitkit.discovery import clean_corrupted, eap, eap_ig, expected_gradients
from circuitkit.discovery._points import stratified
from circuitkit.engine.model import Activations
from circuitkit.engine.record import answer, record
from circuitkit.errors import MetricError, ScoresError
from circuitkit.metrics.answers import logit_diff

LENGTHS = (8, 5, 7, 6)


def from_input(m: Any, data: Dataset, corruption: Any, shares: Any) -> Tensor:
    """What the edges out of the embedding into every first reader sum to, of each example: the
    change of the embedding times the mean gradient there, by autograd through plain runs from these
    shares of the way, [examples, points]."""
    found = []
    for example, own in zip(data.examples, shares, strict=True):
        batch = as_batch(replace(data, examples=(example,)))
        context = m.start(batch.clean, batch.mask)
        (carried,) = corruption(m, data)(batch)
        total: Any = 0.0
        for share in own:
            x = torch.lerp(carried.embed, context.embed, float(share)).requires_grad_()
            logits = answer(m, batch, record(m, context, x).final)
            (grad,) = torch.autograd.grad(logit_diff(logits, logits, batch).sum(), x)
            total += ((context.embed - carried.embed) * grad).sum() / len(own)
        found.append(total)
    return torch.stack(found)


def rows(scores: Any) -> np.ndarray:
    """The edges out of the embedding, summed for each example."""
    first = np.nonzero(scores.wiring.legal)[0] == 0
    return scores.groups[:, first].sum(1)


# -- the points of EAP-IG --------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_the_points_are_the_left_ends_or_the_middles(family: str) -> None:
    m, data = model(family), dataset(LENGTHS, batch_size=3)
    ends = {"left": [0, 1 / 3, 2 / 3], "midpoints": [1 / 6, 3 / 6, 5 / 6]}
    for points, shares in ends.items():
        found = eap_ig(m, data, logit_diff, counterfactual, steps=3, points=points,
                       groups="examples")  # fmt: skip
        expected = from_input(m, data, counterfactual, [shares] * len(data))
        assert distance(rows(found), expected) < 1e-4
        assert found.about["settings"] == {"steps": 3, "points": points}


def test_no_gradient_is_taken_at_an_embedding_of_zero_unless_asked_for() -> None:
    """There the slopes of the norms are those of nothing read."""
    m, data = model("llama"), dataset(LENGTHS, batch_size=3)
    run = {points: eap_ig(m, data, logit_diff, zero, points=points).values
           for points in (None, "midpoints", "left")}  # fmt: skip
    assert np.array_equal(run[None], run["midpoints"])
    assert np.abs(run["left"]).max() > 3 * np.abs(run[None]).max()
    plain = eap_ig(m, data, logit_diff, counterfactual)
    assert plain.about["settings"] == {"steps": 5}
    left = eap_ig(m, data, logit_diff, counterfactual, points="left")
    assert np.array_equal(plain.values, left.values)


def test_each_example_has_the_points_that_its_own_embedding_asks_for() -> None:
    m, data = model("llama"), dataset(LENGTHS, batch_size=4)

    def some(m: Any, data: Dataset) -> Any:
        swap = counterfactual(m, data)

        def carry(batch: Batch) -> list[Activations]:
            (run,) = swap(batch)
            odd = (batch.clean.sum(1) % 2 == 0)[:, None, None]
            return [replace(run, embed=run.embed.masked_fill(odd, 0.0), consistent=False)]

        return carry

    kinds = [sum(example.clean) % 2 for example in data.examples]
    assert {*kinds} == {0, 1}
    found = eap_ig(m, data, logit_diff, some, steps=2, groups="examples")
    for number, example in enumerate(data.examples):
        alone = eap_ig(m, replace(data, examples=(example,)), logit_diff, some, steps=2)
        assert distance(found.groups[number], alone.values[m.wiring.legal]) < 1e-4
        assert ("points" in alone.about["settings"]) == (kinds[number] == 0)
    assert found.about["settings"] == {"steps": 2, "points": "midpoints"}


def test_scores_that_are_not_finite_name_their_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    m, data = model("llama"), dataset(LENGTHS, batch_size=4)
    clean = np.abs(eap(m, data, logit_diff, zero).values).max() * len(data)
    monkeypatch.setattr(shared, "SINGLE", 2 * clean * len(data))  # of one batch
    with pytest.raises(ScoresError, match=r"eap_ig gives .* among 4 examples: .*embedding of zero.*"
                                          r"points='midpoints'"):  # fmt: skip
        eap_ig(m, data, logit_diff, zero, points="left")
    with pytest.raises(ScoresError, match=r"embedding of zero.* use eap_ig, or another corruption"):
        clean_corrupted(m, data, logit_diff, zero)
    monkeypatch.setattr(shared, "SINGLE", 0.0)
    with pytest.raises(MetricError, match=r"logit_diff is not finite .*finds the example\)$"):
        eap_ig(m, data, logit_diff, zero)


# -- expected gradients ----------------------------------------------------------------------------
@pytest.mark.parametrize(("family", "draws"), [("gpt2", 1), ("olmo2", 2)])
def test_expected_gradients_are_gradients_at_a_point_of_each_prompt(
    family: str, draws: int
) -> None:
    m, data = model(family), dataset(LENGTHS, batch_size=3)
    found = expected_gradients(m, data, logit_diff, counterfactual, draws=draws, seed=3,
                               groups="examples")  # fmt: skip
    shares = stratified(data, draws, 3)
    assert distance(rows(found), from_input(m, data, counterfactual, shares)) < 1e-4
    assert distance(found.values[m.wiring.legal], found.groups.mean(0)) < 1e-5


@pytest.mark.parametrize("draws", [1, 3])
def test_random_points_are_spread_evenly_and_follow_the_tokens(draws: int) -> None:
    data = dataset((8, 5, 7, 6, 8, 5))
    shares = stratified(data, draws, 0)
    n = len({e.clean for e in data.examples})
    assert n == len(data)
    assert sorted((shares * n * draws).long().flatten().tolist()) == [*range(n * draws)]
    assert ((shares * draws).long() == torch.arange(draws)).all()
    backwards = replace(data, examples=data.examples[::-1])
    assert torch.equal(stratified(backwards, draws, 0), shares.flip(0))
    doubled = replace(data, examples=data.examples * 2)
    assert torch.equal(stratified(doubled, draws, 0), shares.repeat(2, 1))
    assert not torch.equal(stratified(data, draws, 1), shares)
