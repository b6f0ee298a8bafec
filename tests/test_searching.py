"""The smallest circuit of a faithfulness is found though faithfulness does not grow with size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import circuitkit as ck
from circuitkit.corruptions import counterfactual
from circuitkit.errors import EvaluationError, ScoresError
from circuitkit.evaluation import searching
from circuitkit.evaluation.choosing import choose
from circuitkit.evaluation.faithfulness import evaluate
from circuitkit.evaluation.searching import Search, smallest
from circuitkit.evaluation.sizes import STACK, rungs
from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics import logit_diff

WIRING = Wiring(6, 4, 4)  # 1,108 edges
SCORES = Scores(WIRING, np.random.default_rng(0).standard_normal(WIRING.shape))


class Curves:
    """A world where faithfulness is a function of the number of edges; counts what is measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.value: Callable[[int], float] = lambda _: 0.0
        self.measured: list[list[int]] = []
        monkeypatch.setattr(searching, "evaluate", self.evaluate)
        monkeypatch.setattr(searching, "prepare", lambda *_, **__: _Inputs((None,) * 4))

    def evaluate(self, _: Any, masks: list[np.ndarray], *__: Any) -> list[Any]:
        self.measured.append([int(mask.sum()) for mask in masks])
        return [SimpleNamespace(faithfulness=self.value(n)) for n in self.measured[-1]]

    def search(self, value: Callable[[int], float], **options: Any) -> Search:
        self.value = value
        self.measured.clear()
        return smallest(None, SCORES, None, **options)  # type: ignore[arg-type]


class _Inputs(tuple):  # type: ignore[type-arg]
    model = None


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> Curves:
    return Curves(monkeypatch)


# -- where it lies ---------------------------------------------------------------------------------
@pytest.mark.parametrize("first", [1, 2, 7, 8, 9, 24, 25, 61, 200, 777, 1107, 1108])
def test_where_faithfulness_grows_with_size_it_is_the_first_that_reaches(
    first: int, curves: Curves
) -> None:
    found = curves.search(lambda n: n / WIRING.n_edges, target=first / WIRING.n_edges)
    assert found.edges == int(found.mask.sum()) == first
    assert found.monotone
    assert found.fell == ()
    assert sum(map(len, curves.measured)) < 70
    assert max(map(len, curves.measured)) <= STACK
    assert np.array_equal(found.mask, SCORES.mask(first))


@pytest.mark.parametrize("seed", range(12))
def test_a_stretch_of_sizes_as_wide_as_a_step_is_not_passed_over(seed: int, curves: Curves) -> None:
    """Sizes from ``a`` to 1.25 a reach the target, all others but the largest do not."""
    a = int(np.random.default_rng(seed).integers(1, 400))
    found = curves.search(lambda n: 0.9 if a <= n <= max(a + 1, 1.25 * a) or n > 900 else 0.1)
    assert found.edges == a
    assert not found.monotone
    assert set(found.fell) == {n for n in found.sizes if 1.25 * a < n <= 900 and n > a + 1}


def test_the_case_that_was_found_on_gemma(curves: Curves) -> None:
    """17 to 21 edges reach it, sizes above do not, up to 188."""
    found = curves.search(lambda n: 0.88 if 17 <= n <= 21 or n >= 188 else min(0.8, n / 25))
    assert found.edges == 17
    assert "17 edges reach 0.85, and" in repr(found)
    assert "larger sizes tried do not" in found.again()


@pytest.mark.parametrize("peak", [30, 47, 95, 150])
def test_a_narrow_peak_is_looked_for_where_the_curve_falls(peak: int, curves: Curves) -> None:
    """Two sizes reach the target; the steps on both sides of them see a slope up and one down."""

    def value(n: int) -> float:
        return 0.87 - 0.02 * abs(n - peak) if n < 3 * peak else 0.9

    found = curves.search(value)
    assert found.edges == peak - 1
    assert found.value == pytest.approx(0.85)
    assert 3 * peak in found.sizes or found.fell


def test_falls_far_below_the_target_cost_nothing(curves: Curves) -> None:
    found = curves.search(lambda n: n / 1000 - 0.01 * (n % 3 == 0))
    assert sum(map(len, curves.measured)) < 75
    assert found.value >= 0.85


# -- what is known ---------------------------------------------------------------------------------
def test_what_was_known_to_reach_the_target_is_never_given_up_for_a_larger_one(
    curves: Curves,
) -> None:
    better, worse, large = SCORES.mask(40), SCORES.mask(39), SCORES.mask(300)
    found = curves.search(lambda n: n / 100, known=[(worse, 0.84), (better, 0.86), (large, 0.99)])
    assert (found.edges, found.value) == (40, 0.86)
    assert np.array_equal(found.mask, better)
    found = curves.search(lambda n: n / 30, known=[(better, 0.86)])
    assert (found.edges, found.value) == (26, 26 / 30)
    found = curves.search(lambda n: n / 1000, known=[(SCORES.mask(850), 0.99)])
    assert (found.edges, found.value) == (850, 0.99)  # of the same size the more faithful one


def test_a_second_choice_on_the_same_data_is_no_worse_than_the_first() -> None:
    given = MINI, scores(0), data(), logit_diff, counterfactual
    first = choose(*given)
    assert first.search is not None
    other = Scores(MINI.wiring, np.random.default_rng(1).standard_normal(MINI.wiring.shape))
    second = choose(MINI, other, *given[2:], known=first.known)
    assert np.array_equal(second.mask, first.mask)
    assert second.search is not None
    assert second.search.value == first.search.value
    assert choose(*given, edges=7).known == ()


# -- on mini ---------------------------------------------------------------------------------------
MINI = ck.load("mini")


@cache
def data() -> ck.Dataset:
    return ck.Dataset.of(ck.make_task("ioi", MINI, n=8), MINI)


@cache
def scores(noise: int) -> Scores:
    """EAP's scores, with noise of the size of the weaker ones, which makes the curve uneven."""
    found = ck.discovery.eap(MINI, data(), logit_diff, counterfactual)
    drawn = np.random.default_rng(noise).standard_normal(found.values.shape)
    return Scores(MINI.wiring, found.values + 0.4 * bool(noise) * drawn)


@cache
def every(noise: int) -> dict[int, float]:
    """The faithfulness of all sizes up to 120."""
    masks = scores(noise).masks(range(1, 121))
    found = evaluate(MINI, masks, data(), logit_diff, counterfactual)
    return {n: each.faithfulness for n, each in enumerate(found, 1)}


@pytest.mark.parametrize("noise", [0, 1, 2])
def test_on_mini_it_is_the_smallest_of_all_sizes(
    noise: int, curves: Curves, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those up to 120 by EAP's scores; where noise makes single sizes stick out, up to 24."""
    known = every(noise)

    def table(_: Any, masks: list[np.ndarray], *__: Any) -> list[Any]:
        return [SimpleNamespace(faithfulness=known.get(int(m.sum()), 1.0)) for m in masks]

    monkeypatch.setattr(searching, "evaluate", table)
    for target in np.arange(0.05, 0.99, 0.05).tolist():
        first = next((n for n, value in known.items() if value >= target), 121)
        found = smallest(None, scores(noise), None, target=target)  # type: ignore[arg-type]
        exact = first <= (120 if noise == 0 else 24)
        assert found.edges == first if exact else found.edges >= first, target
        assert found.value >= target


def test_its_faithfulness_is_what_evaluate_gives() -> None:
    found = smallest(MINI, scores(0), data(), logit_diff, counterfactual, target=0.5)
    again = evaluate(MINI, [found, found.circuit], data(), logit_diff, counterfactual)
    assert [each.faithfulness for each in again] == pytest.approx([found.value] * 2, abs=1e-5)
    assert found.curve[found.edges] == found.value


# -- what it says ----------------------------------------------------------------------------------
def test_a_search_says_its_sizes(curves: Curves) -> None:
    found = curves.search(lambda n: n / 100, target=0.4)
    frame = found.to_frame()
    assert frame["edges"].tolist() == list(found.sizes) == sorted(found.sizes)
    assert frame["reaches"].tolist() == [n >= 40 for n in found.sizes]
    assert found.to_dict()["edges"] == 40
    said = f"40 of 1,108 edges keep 0.400, the fewest of {len(frame)} sizes that reach 0.4"
    assert str(found) == said
    assert set(found.plot().series) == {"faithfulness", "the target, 0.4"}
    assert found.circuit.graph.get("filled", 0) == found.filled == SCORES.filled(40)[1]


def test_the_steps_grow_by_a_fifth_from_24_on() -> None:
    for total in (1, 2, 9, 24, 25, 479, 70_651):
        sizes = rungs(total)
        assert sizes[:24] == [*range(1, min(24, total) + 1)]
        assert sizes[-1] == total
        steps: Iterator[tuple[int, int]] = pairwise(sizes[23:])
        assert all(a < b <= 1.2 * a for a, b in steps)


def test_edges_that_a_method_dropped_are_not_searched(curves: Curves) -> None:
    own = np.where(SCORES.mask(60), SCORES.values, 0)
    chosen = Scores(WIRING, own, {"chosen": True, "method": "acdc"})
    curves.value = lambda n: n / 100
    assert smallest(None, chosen, None, target=0.5).edges == 50  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match=r"that of all 60 edges is 0\.6; ask for less"):
        smallest(None, chosen, None)  # type: ignore[arg-type]


def test_by_the_rule_of_mib_sizes_are_what_is_left_without_dead_ends(curves: Curves) -> None:
    found = curves.search(lambda n: n / 1000, target=0.2, rule="mib")
    sizes = [int(mask.sum()) for mask in SCORES.masks(range(1, 1001), "mib")]
    assert found.edges == min(n for n in sizes if n >= 200)
    assert 0 not in found.sizes


def test_scores_of_zero_cannot_be_searched(curves: Curves) -> None:
    nothing = Scores(WIRING, np.zeros(WIRING.shape))
    with pytest.raises(ScoresError, match="all scores are zero"):
        smallest(None, nothing, None)  # type: ignore[arg-type]
