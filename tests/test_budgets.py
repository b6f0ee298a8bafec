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
from circuitkit.discovery.budgets import ALIKE, DEEP, TABLE, Choice, pick
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


def just(choice: Choice) -> int:
    """The budget that just pays for a choice on all prompts."""
    return int(np.ceil(choice.cost * PROMPTS))


@every_choice
def test_a_choice_costs_at_most_its_budget_and_is_what_it_names(
    corruption: str, choice: Choice
) -> None:
    budget = just(choice)
    twin, tally = counted(mini())
    found = auto(twin, prompts(), corruption=corruption, budget=budget)
    said = found.about["settings"]
    assert said["examples"] == PROMPTS
    assert said["why"] == choice.why
    assert cost(mini(), prompts(), tally).sequence_backwards <= budget
    by_hand = resolve("discovery", said["method"])(*prepare(mini(), prompts(), None, corruption))
    assert np.array_equal(found.values, by_hand.values)


@every_choice
def test_the_dearest_that_is_paid_for_is_taken(corruption: str, choice: Choice) -> None:
    budget = just(choice)
    row, name = TABLE[corruption], choice.method.partition("(")[0]
    assert pick(corruption, PROMPTS, budget).method.partition("(")[0] == name
    less = pick(corruption, PROMPTS, budget - 1)
    cheaper = row[max(0, row.index(choice) - 1)]
    assert less.method.partition("{")[0] == cheaper.method.partition("{")[0] or cheaper is choice
    assert [one.cost for one in row] == sorted(one.cost for one in row)


@pytest.mark.parametrize("corruption", [*TABLE, *ALIKE, "noise(draws=2)", "mine"])
@pytest.mark.parametrize("budget", [2, 10, 50, 200, 1000])
def test_fewer_than_32_prompts_are_used_only_where_no_method_pays_for_more(
    corruption: str, budget: int
) -> None:
    picked = pick(corruption, 64, budget)
    resolve("discovery", picked.method)  # which raises for what there is not
    assert "{" not in picked.method
    assert 1 <= picked.prompts <= 64
    assert (picked.prompts < 32) == (budget < 32 * 5 / 3)
    assert pick(corruption, 64, budget + 100).prompts >= min(32, picked.prompts)


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


def test_on_deep_models_constants_leave_a_learned_ranking_or_none() -> None:
    for corruption in ("zero", "mean", "mean_by_position"):
        with pytest.raises(ArgumentError, match=f"under {corruption} on 30 layers.* of 448"):
            pick(corruption, 64, 200, layers=30)
        with pytest.raises(ArgumentError, match=r"exact or acdc, or verify"):
            pick(corruption, 64, layers=DEEP)
        learned = pick(corruption, 64, 448, layers=30)
        assert learned == pick(corruption, 32, 448, layers=30)
        assert learned.method.startswith("nested(")
        resolve("discovery", learned.method)
    assert pick("counterfactual", 64, 200, layers=30) == pick("counterfactual", 64, 200)
    assert pick("zero", 64, 200, layers=DEEP - 1) == pick("zero", 64, 200)


# -- discoveries -----------------------------------------------------------------------------------
def test_a_budget_alone_asks_for_auto_and_the_result_says_what_that_chose() -> None:
    found = discover(mini(), "ioi", budget=10, edges=20, examples=8)
    about: dict[str, Any] = dict(found.circuit.graph)
    assert about["method"] == "auto(budget=10)"
    assert about["settings"]["method"] == "expected_gradients"
    assert about["examples"] == 8, "on which the circuit is chosen"
    assert "expected_gradients on 6 prompts" in repr(found)
    assert "by expected_gradients" in ck.cite(found).text
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
