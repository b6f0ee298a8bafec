"""What a budget is spent on: every choice can be paid, is what it says, and is measured."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import circuitkit as ck
from circuitkit.data.batches import Dataset
from circuitkit.discovery import auto
from circuitkit.discovery.budgets import ALIKE, FROZEN, PROBE, TABLE, Choice, pick, probed
from circuitkit.engine.inputs import as_data, prepare
from circuitkit.engine.model import Model
from circuitkit.errors import ArgumentError, UnknownNameError
from circuitkit.registry import names, resolve
from circuitkit.workflows.benchmark.counting import cost, counted
from circuitkit.workflows.discover import discover
from circuitkit.workflows.plan import plan

CHOICES = [(corruption, choice) for corruption, row in TABLE.items() for choice in row]
every_choice = pytest.mark.parametrize(
    ("corruption", "choice"), CHOICES, ids=[f"{c}-{o.method.partition('(')[0]}" for c, o in CHOICES]
)
PROMPTS = 6

# Of few prompts the scores of three points need not sum to the gap, which the method then says.
pytestmark = pytest.mark.filterwarnings("ignore:the scores of mask_gradient sum to")


@cache
def mini() -> Model:
    return ck.load("mini")


@cache
def prompts() -> Dataset:
    return as_data(mini(), "ioi", examples=PROMPTS)


def just(corruption: str, choice: Choice) -> int:
    """The budget that just pays for a choice on all prompts."""
    alone = int(np.ceil(choice.cost * PROMPTS))
    looks = (n for n in range(5) if probed(corruption, alone + PROBE * n) == n)
    return alone + PROBE * next(looks)


@every_choice
def test_a_choice_costs_at_most_its_budget_and_is_what_it_names(
    corruption: str, choice: Choice
) -> None:
    budget = just(corruption, choice)
    twin, tally = counted(mini())
    found = auto(twin, prompts(), corruption=corruption, budget=budget)
    said = found.about["settings"]
    assert said["examples"] == PROMPTS
    assert said["why"] == choice.why
    learned = 2 * PROMPTS / 3 * (corruption == "mean")  # means are taken twice, and do not count
    assert cost(mini(), prompts(), tally).sequence_backwards - learned <= budget
    by_hand = resolve("discovery", said["method"])(*prepare(mini(), prompts(), None, corruption))
    assert np.array_equal(found.values, by_hand.values)


@every_choice
def test_the_last_that_is_paid_for_is_taken(corruption: str, choice: Choice) -> None:
    budget = just(corruption, choice)
    row, name = TABLE[corruption], choice.method.partition("(")[0]
    assert pick(corruption, PROMPTS, budget).method.partition("{")[0].startswith(name)
    less = pick(corruption, PROMPTS, budget - 1)
    small = choice.cost * choice.least <= budget - 1 - PROBE * probed(corruption, budget - 1)
    expected = choice if small else row[max(0, row.index(choice) - 1)]
    assert less.why == expected.why
    assert [one.cost for one in row] == sorted(one.cost for one in row)


@pytest.mark.parametrize("corruption", [*TABLE, *ALIKE, "noise(draws=2)", "mine"])
@pytest.mark.parametrize("budget", [6, 10, 50, 200, 1000])
def test_a_method_runs_on_as_many_prompts_as_it_was_measured_on(
    corruption: str, budget: int
) -> None:
    picked = pick(corruption, 64, budget)
    resolve("discovery", picked.method)  # which raises for what there is not
    assert "{" not in picked.method
    assert 1 <= picked.prompts <= 64
    row = TABLE.get(ALIKE.get(corruption, corruption), TABLE["counterfactual"])
    (choice,) = (one for one in row if one.why == picked.why)
    assert picked.prompts >= choice.least
    assert pick(corruption, 64, budget + 500).prompts >= min(32, picked.prompts)


def test_every_corruption_that_there_is_has_a_row() -> None:
    texts = {"counterfactual", "resample", "noise"}
    assert {*names("corruptions")} <= {*TABLE, *ALIKE} | texts


def test_a_small_budget_scores_the_first_prompts() -> None:
    found = auto(mini(), prompts(), budget=5)
    some = replace(prompts(), examples=prompts().examples[:3])
    method = resolve("discovery", found.about["settings"]["method"])
    assert np.array_equal(found.values, method(mini(), some).values)
    assert found.about["examples"] == found.about["settings"]["examples"] == 3
    each = auto(mini(), prompts(), budget=5, groups="examples")
    assert each.groups is not None
    assert len(each.groups) == 3
    with pytest.raises(ArgumentError, match="give at least 2"):
        auto(mini(), prompts(), budget=1)


def test_without_a_budget_it_costs_about_what_eap_ig_does() -> None:
    picked = pick("counterfactual", 64)
    assert picked.prompts == 64
    assert picked.method.startswith("mask_gradient")


def test_an_unresolved_path_leaves_a_learned_ranking_or_none() -> None:
    path = "not resolved: 1.20 of the gap lies between 0.8 and 1"
    for corruption in ("zero", "mean", "mean_by_position"):
        with pytest.raises(ArgumentError, match=rf"under {corruption} the path is {path}.* of 138"):
            pick(corruption, 64, 137, path)
        with pytest.raises(ArgumentError, match=r"exact or acdc, or verify"):
            pick(corruption, 64, 10, path)
        learned = pick(corruption, 64, 138, path)
        assert learned.prompts == 24
        assert learned.method.startswith("nested(start='expected_gradients'")
        resolve("discovery", learned.method)
        assert "{" not in pick(corruption, 64, 1000, path).method


def test_the_path_is_looked_at_where_constants_replace_activations() -> None:
    """On mini ``zero`` is resolved at the clean run's norms, and not at its own; a model without a
    gap has no path at all."""
    found = auto(mini(), prompts(), corruption="zero", budget=40)
    assert found.about["settings"]["method"] == FROZEN
    same = replace(
        prompts(), examples=tuple(replace(e, corrupt=e.clean) for e in prompts().examples)
    )

    def nothing(model: Model, data: Dataset) -> Any:
        return resolve("corruptions", "counterfactual")(model, same)

    nothing.__name__ = "zero"
    with pytest.raises(ArgumentError, match="no gap, or a run"):
        auto(mini(), same, corruption=nothing, budget=20)
    assert probed("counterfactual", 1000) == probed("noise(draws=2)") == 0


# -- discoveries -----------------------------------------------------------------------------------
def test_a_budget_alone_asks_for_auto_and_the_result_says_what_that_chose() -> None:
    found = discover(mini(), "ioi", budget=10, edges=20, examples=8)
    about: dict[str, Any] = dict(found.circuit.graph)
    assert about["method"] == "auto(budget=10)"
    assert about["settings"]["method"] == "mask_gradient(steps=1)"
    assert about["examples"] == 8, "on which the circuit is chosen"
    assert "mask_gradient(steps=1) on 6 prompts" in repr(found)
    assert "by mask_gradient" in ck.cite(found).text
    assert "chosen by auto(budget=10), on 6 prompts" in ck.cite(found).text
    assert ck.replay(found, model=mini()).same


def test_a_method_with_a_price_of_its_own_has_no_budget() -> None:
    with pytest.raises(UnknownNameError, match="leave the method out"):
        discover(mini(), "ioi", method="eap", budget=10)


def test_a_plan_counts_what_auto_chooses() -> None:
    own = plan(mini(), "ioi", budget=10, edges=20, examples=8, batch_size=8)
    same = plan(mini(), "ioi", method="expected_gradients", edges=20, examples=8, batch_size=8)
    assert own.steps["scores"] == pytest.approx(same.steps["scores"] * 6 / 8)


# -- rules -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("corruption", [None, "mean", "zero"])
def test_without_a_rule_it_is_the_corruptions_own_and_recorded(corruption: str | None) -> None:
    found = discover(mini(), "ioi", "logit_diff", corruption, method="eap", edges=20, examples=4)
    assert found.circuit.graph["rule"] == "abs"
    assert "eap, ranked by abs" in repr(found)
