"""Scores in groups of tokens: by example, by any other division, and their sum."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, as_batch, dataset, distance, model

import circuitkit.engine.attribute as attribute
import circuitkit.engine.tally as tally
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.discovery.attribution import clean_corrupted, eap, eap_ig
from circuitkit.discovery.sweeps import exact
from circuitkit.engine.attribute import by_example, score, score_groups
from circuitkit.engine.gradients import gradients
from circuitkit.errors import ArgumentError
from circuitkit.graph.scores import Scores
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


# -- over a run ------------------------------------------------------------------------------------
METHODS = [eap, partial(eap_ig, steps=2), clean_corrupted, exact]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_keeps_the_scores_of_each_example(method: Any) -> None:
    """In several batches; their mean is the score, and their scatter the standard error."""
    m, data = model("attention-only"), dataset((8, 5, 7), batch_size=2)
    found = method(m, data, logit_diff, counterfactual, groups="examples")
    assert distance(found.values, method(m, data, logit_diff, counterfactual).values) < 1e-5
    legal = m.wiring.legal
    for number, example in enumerate(data.examples):
        alone = method(m, replace(data, examples=(example,)), logit_diff, counterfactual)
        assert distance(found.groups[number], alone.values[legal]) < 1e-4
    error = np.std(found.groups.astype(float), axis=0, ddof=1) / len(data) ** 0.5
    assert distance(found.error[legal], error) < 1e-4
    assert error.any()


def test_resamples_are_those_made_by_hand() -> None:
    m, data = model("gpt2"), dataset((8, 5, 7, 6), batch_size=3)
    counts = np.random.default_rng(0).multinomial(2, [0.25] * 4, size=5)
    run = partial(eap, m, data, logit_diff, counterfactual)
    found, each = run(groups=counts), run(groups="examples")
    by_hand = [each.groups[np.repeat(np.arange(4), row)].mean(0) for row in counts]
    assert distance(found.groups, np.array(by_hand)) < 1e-5
    assert distance(found.error, each.error) < 1e-5
    assert distance(found.values, each.values) < 1e-5


def test_groups_that_do_not_fit_lie_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which nobody has to delete."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    m, data = model("gpt2"), dataset((8, 5, 7), batch_size=2)
    run = partial(eap, m, data, logit_diff, counterfactual, groups="examples")
    in_memory = run()
    monkeypatch.setattr(tally, "room", lambda *_: 0)
    on_disk = run()
    assert isinstance(on_disk.groups, np.memmap)
    assert not isinstance(in_memory.groups, np.memmap)
    assert np.array_equal(on_disk.groups, in_memory.groups)
    assert not list(tmp_path.iterdir())


def test_groups_are_saved(tmp_path: Path) -> None:
    m, data = model("gpt2"), dataset((6,), batch_size=2)
    found = eap(m, data, logit_diff, counterfactual, groups="examples")
    again = Scores.load(found.save(tmp_path / "scores.safetensors"))
    assert np.array_equal(again.groups, found.groups)
    assert np.isnan(found.error[m.wiring.legal]).all()  # of one example it is not known
    assert np.array_equal(again.error, found.error, equal_nan=True)


WRONG = ["example", 3, np.ones((2, 2), int), np.ones((2, 3)), [[1, 2, -1]], [[0, 0, 0]]]


@pytest.mark.unchecked
@pytest.mark.parametrize("groups", WRONG, ids=repr)
def test_groups_that_say_nothing_of_these_examples_are_refused(groups: Any) -> None:
    with pytest.raises(ArgumentError, match=r"groups?[ =]"):
        eap(model("gpt2"), dataset((8, 5, 7)), logit_diff, counterfactual, groups=groups)
