"""Scores in groups of tokens: by example, by any other division, and their sum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from families import FAMILIES, as_batch, dataset, distance, model

import circuitkit.engine.attribute as attribute
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.engine.attribute import by_example, gradients, score, score_groups
from circuitkit.metrics.answers import logit_diff


def parts(family: str, data: Any) -> tuple[Any, ...]:
    """What ``score`` takes: the model, a batch, the two runs, and the gradients."""
    m, batch = model(family), as_batch(data)
    context = m.start(batch.clean, batch.mask)
    at = gradients(m, batch, context, context.embed, lambda x: logit_diff(x, x, batch))
    (carried,) = counterfactual(m, data)(batch)
    return m, batch, at.activations, carried, at


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_by_example_are_those_of_each_example_alone(family: str) -> None:
    """Of padded prompts of different lengths; and they sum to those of the batch."""
    data = dataset((8, 5, 7), batch_size=3)
    given = parts(family, data)
    found = score_groups(*given, by_example(given[1]), 3)
    assert distance(found.sum(0), score(*given)) < 1e-5
    for number, example in enumerate(data.examples):
        alone = score(*parts(family, replace(data, examples=(example,), batch_size=1)))
        assert distance(found[number], alone) < 1e-4
        assert alone.abs().max() > 0


@pytest.mark.parametrize("size", [1, 3, 64])
def test_any_groups_of_tokens_sum_to_the_whole(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of any size; a token of no group counts nowhere."""
    given = parts("llama", dataset((8, 5, 7), batch_size=3))
    batch, whole = given[1], score(*given)
    monkeypatch.setattr(attribute, "block_tokens", lambda _: size)
    groups = torch.randint(0, 4, batch.clean.shape, generator=torch.Generator().manual_seed(0))
    found = score_groups(*given, groups, 4)
    assert distance(found.sum(0), whole) < 1e-5
    without = score_groups(*given, torch.where(groups == 2, -1, groups), 4)
    assert distance(without[[0, 1, 3]], found[[0, 1, 3]]) < 1e-5
    assert not without[2].any()
    assert found[2].any()


def test_a_group_is_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as if the writers' changes at all other tokens were nothing."""
    m, batch, live, carried, at = parts("gpt2", dataset((6, 6), batch_size=2))
    groups = torch.zeros_like(batch.clean)
    groups[:, 4:] = 1
    found = score_groups(m, batch, live, carried, at, groups, 2)
    late = groups.bool()

    def held(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.where(late.view(*late.shape, *[1] * (own.ndim - 2)), own, other)

    mixed = replace(
        live,
        embed=held(live.embed, carried.embed),
        shares=tuple(map(held, live.shares, carried.shares)),
    )
    alone = score(m, batch, mixed, replace(carried, consistent=False), at)
    assert distance(found[1], alone) < 1e-5
    assert found[0].any()
