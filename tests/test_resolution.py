"""Whether a path is resolved: against runs under masks of fractions, and where the answer is
known."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import able, dataset, model

import circuitkit as ck
from circuitkit.engine.resolution import PathResolution, path_resolved
from circuitkit.metrics import logit_diff


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "llama", "attention-only"])
@pytest.mark.parametrize("corruption", ["counterfactual", "mean"])
def test_the_values_are_those_of_runs_under_uniform_fractions(family: str, corruption: str) -> None:
    m, data = model(family), able(family)
    found = path_resolved(m, data, logit_diff, corruption, points=4)
    masks = [torch.full(m.wiring.shape, share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    each = [ck.measure(m, mask, data, logit_diff, corruption).mean().item() for mask in masks]
    expected = (np.array(each) - each[0]) / (each[-1] - each[0])
    assert found.shares == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert found.values == pytest.approx(expected, abs=1e-4)
    assert found.largest == pytest.approx(np.abs(np.diff(expected)).max(), abs=1e-4)


@pytest.mark.parametrize("task", ["ioi", "greater_than"])
def test_the_path_to_zero_is_not_resolved_behind_norms(task: str) -> None:
    """A norm of a share of the residual is that of the whole: all happens next to nothing."""
    mini = ck.load("mini")
    data = ck.Dataset.of(ck.make_task(task, mini, n=6), mini)
    zero = path_resolved(mini, data, None, "zero")
    assert not zero.resolved
    assert zero.where == (0.0, 0.2)
    assert str(zero).startswith("not resolved: 0.9")
    held = path_resolved(mini, data, None, "zero", norms="clean")
    assert held.resolved, str(held)
    for corruption in ("counterfactual", "mean"):
        found = path_resolved(mini, data, None, corruption)
        assert found.resolved, str(found)
        assert found.largest < 0.75


def test_a_path_that_swings_or_leads_nowhere_is_not_resolved() -> None:
    even = PathResolution((0.0, 0.5, 1.0), (0.0, 0.5, 1.0))
    assert (even.largest, even.resolved) == (0.5, True)
    swings = PathResolution((0.0, 0.5, 1.0), (0.0, -0.5, 1.0))
    assert (swings.largest, swings.where, swings.resolved) == (1.5, (0.5, 1.0), False)
    m, data = model("gpt2"), dataset((6, 6))
    same = replace(data, examples=tuple(replace(e, corrupt=e.clean) for e in data.examples))
    nowhere = path_resolved(m, same, logit_diff, "counterfactual")
    assert np.isnan(nowhere.largest)
    assert not nowhere.resolved
    assert str(nowhere) == "not resolved: there is no gap, or a run on the way overflows"


def test_with_the_norms_held_the_ends_are_those_of_the_mask_gradients_gap() -> None:
    mini = ck.load("mini")
    data = ck.Dataset.of(ck.make_task("ioi", mini, n=4), mini)
    with warnings.catch_warnings(action="ignore"):
        for norms in ("live", "clean", "larger"):
            gap = ck.discovery.mask_gradient(mini, data, None, "zero", steps=1, norms=norms).about[
                "path"
            ]["gap"]
            found = path_resolved(mini, data, None, "zero", norms=norms, points=2)
            assert found.gap == pytest.approx(gap, abs=1e-4)
    assert path_resolved(mini, data, None, "zero", norms="clean").values != (
        path_resolved(mini, data, None, "zero").values
    )


def test_only_the_first_examples_are_run() -> None:
    m, data = model("gpt2"), able("gpt2")
    few = path_resolved(m, data, logit_diff, "zero", examples=2)
    assert few == path_resolved(m, data[:2], logit_diff, "zero")
    assert few != path_resolved(m, data, logit_diff, "zero")
