"""Rankings by hand, by slow counting and by every order of their ties; areas by hand and by fine
sums; and the circuits of MIB's sizes, each run alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations, permutations
from math import isnan, log
from typing import Any

import numpy as np
import pytest
from families import able, distance, model

import circuitkit
from circuitkit.corruptions import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.discovery import acdc, eap, random
from circuitkit.errors import CircuitError, EvaluationError, ScoresError
from circuitkit.evaluation.faithfulness import Evaluation, evaluate
from circuitkit.evaluation.recovery import (
    Recovery,
    acdc_auroc,
    auroc,
    average_precision,
    hamming,
    recall,
    recovery,
    stability,
)
from circuitkit.evaluation.size_curves import SHARES, SizeCurve, area, best, cmd, cpr, size_curves
from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics import accuracy, logit_diff
from circuitkit.util.statistics import staircase

FIVE = Wiring(1, 1, 1, mlp=False)  # embed -> q, k, v, logits; a0.h0 -> logits
MANY = Wiring(2, 2, 1)
TRUE = (True, True, False, False, False)


def scored(values: Any, wiring: Wiring = FIVE, **about: Any) -> Scores:
    """Scores of the legal edges, in their order."""
    table = np.full(wiring.shape, 99.0)  # no edge: it must not count
    table[wiring.legal] = values
    return Scores(wiring, table, about)


def these(true: Any, wiring: Wiring = FIVE) -> np.ndarray:
    """The mask of some legal edges, in their order."""
    table = np.zeros(wiring.shape, dtype=bool)
    table[wiring.legal] = true
    return table


def drawn(seed: int) -> tuple[Scores, np.ndarray]:
    """Scores of both signs and with many ties, and true edges that tend to have the large ones."""
    rng = np.random.default_rng(seed)
    true = rng.random(MANY.n_edges) < 0.2
    values = rng.integers(-4, 5, MANY.n_edges) + 3.0 * true
    return scored(values, MANY), these(true, MANY)


# -- by hand ---------------------------------------------------------------------------------------
HAND = {  # scores of two true edges and three others: AUROC, ACDC's, precision, Hamming, recall
    "perfect": ((5, 4, 3, 2, 1), (1, 1, 1, 0, 1)),
    "reversed": ((1, 2, 3, 4, 5), (0, 0, (1 / 4 + 2 / 5) / 2, 4, 0)),
    "first and fourth": ((5, 2, 4, 3, 1), (4 / 6, 4 / 6, (1 + 2 / 4) / 2, 2, 1 / 2)),
    "all equal": ((7, 7, 7, 7, 7), (1 / 2, 0, 2 / 5, 4 - 2 * 4 / 5, 2 / 5)),
    "all zero": ((0, 0, 0, 0, 0), (1 / 2, 0, 2 / 5, 4 - 2 * 4 / 5, 2 / 5)),
    "a tie": ((3, 2, 2, 1, 1), (5.5 / 6, 5 / 6, (1 + 2 / 3) / 2, 1, 3 / 4)),
    "a negative one": ((5, -4, 3, 2, 1), (1, 1, 1, 0, 1)),
}


@pytest.mark.parametrize("case", HAND)
def test_a_ranking_of_five_edges_is_as_by_hand(case: str) -> None:
    values, expected = HAND[case]
    found = recovery(scored(values), these(TRUE))
    numbers = (found.auroc, found.acdc_auroc, found.average_precision, found.hamming, found.recall)
    assert numbers == pytest.approx(expected)
    assert (found.true, found.edges) == (2, 5)


def test_by_the_signed_score_a_negative_edge_is_the_last() -> None:
    found = recovery(scored((5, -4, 3, 2, 1)), these(TRUE), rule="signed")
    assert found.auroc == found.acdc_auroc == pytest.approx(1 / 2)
    assert found.average_precision == pytest.approx((1 + 2 / 5) / 2)
    assert (found.hamming, found.recall) == (2, 1 / 2)


def test_one_true_edge_is_found_at_its_place() -> None:
    true = these((False, False, True, False, False))
    for place, values in enumerate([(1, 2, 9, 3, 4), (1, 9, 4, 3, 2), (9, 8, 1, 7, 6)]):
        worse = (0, 1, 4)[place]
        scores = scored(values)
        assert auroc(scores, true) == pytest.approx(1 - worse / 4)
        assert average_precision(scores, true) == pytest.approx(1 / (1 + worse))
        assert hamming(scores, true) == (2 if worse else 0)


def test_without_true_edges_or_others_what_is_undefined_is_nan() -> None:
    scores, none, every = scored((5, 4, 3, 2, 1)), these(False), these(True)
    found = recovery(scores, none, {"OR": none})
    undefined = [found.auroc, found.acdc_auroc, found.average_precision, found.recall]
    assert all(map(isnan, [*undefined, found.recalls["OR"]]))
    assert found.hamming == 0
    whole = recovery(scores, every)
    assert isnan(whole.auroc)
    assert isnan(whole.acdc_auroc)
    assert (whole.average_precision, whole.hamming, whole.recall) == (1, 0, 1)
    assert json.loads(json.dumps(found.to_dict()))["auroc"] is None


def test_labelled_members_are_recalled_among_as_many_edges_as_are_true() -> None:
    scores, true = scored((5, 1, 4, 2, 3)), these((True, True, True, False, False))
    members = {"OR": these((True, True, False, False, False)),
               "backup": these((False, True, False, False, False)),
               "negative": these((False, False, True, False, False))}  # fmt: skip
    found = recovery(scores, true, members)
    assert found.recalls == {"OR": 1 / 2, "backup": 0, "negative": 1}
    assert found.recall == pytest.approx(2 / 3)
    assert found.to_dict()["recalls"] == found.recalls
    assert "0.500 of the OR" in repr(found)
    assert isinstance(found, Recovery)


# -- by counting -----------------------------------------------------------------------------------
def keys(scores: Scores, true: np.ndarray, rule: str) -> tuple[list[float], list[bool]]:
    """What edges rank by, and whether they are true."""
    values = scores.values[scores.wiring.legal].tolist()
    return [abs(v) if rule == "abs" else v for v in values], true[scores.wiring.legal].tolist()


def circuits(values: list[float]) -> Iterator[list[bool]]:
    """The circuits above every threshold, the smallest first."""
    for threshold in sorted(set(values), reverse=True):
        yield [v >= threshold for v in values]


@pytest.mark.parametrize("rule", ["abs", "signed"])
@pytest.mark.parametrize("seed", range(8))
def test_the_areas_are_those_of_slow_counting(seed: int, rule: str) -> None:
    scores, mask = drawn(seed)
    values, true = keys(scores, mask, rule)
    pairs = [(a > b) + (a == b) / 2 for a, is_true in zip(values, true, strict=True) if is_true
             for b, other in zip(values, true, strict=True) if not other]  # fmt: skip
    assert auroc(scores, mask, rule) == pytest.approx(sum(pairs) / len(pairs))
    lower, precision, last_false, last_found = 0.0, 0.0, 0.0, 0.0
    for kept in circuits(values):
        hits = sum(k and t for k, t in zip(kept, true, strict=True))
        false, found = (sum(kept) - hits) / (len(true) - sum(true)), hits / sum(true)
        lower += (false - last_false) * last_found
        precision += (found - last_found) * hits / sum(kept)
        last_false, last_found = false, found
    assert acdc_auroc(scores, mask, rule) == pytest.approx(lower)
    assert average_precision(scores, mask, rule) == pytest.approx(precision)
    assert 0.2 < lower < auroc(scores, mask, rule) - 0.01


@pytest.mark.parametrize("values", [(3, 2, 2, 1, 1), (2, 2, 2, 1, 1), (0, 0, 0, 0, 0)])
@pytest.mark.parametrize("true", [TRUE, (False, True, True, False, True)])
def test_a_shared_last_place_is_the_mean_over_all_orders(values: Any, true: Any) -> None:
    distances, recalls = [], []
    for order in permutations(range(5)):
        first = sorted(order, key=lambda edge: -values[edge])[: sum(true)]
        hits = sum(true[edge] for edge in first)
        distances.append(2 * (sum(true) - hits))
        recalls.append(hits / sum(true))
    assert hamming(scored(values), these(true)) == pytest.approx(np.mean(distances))
    assert recall(scored(values), these(true)) == pytest.approx(np.mean(recalls))
    assert np.mean(recalls) > 0


def test_random_scores_do_as_chance_does() -> None:
    rng = np.random.default_rng(0)
    true = these(np.arange(MANY.n_edges) < 9, MANY)
    found = [recovery(scored(rng.standard_normal(MANY.n_edges), MANY), true) for _ in range(400)]
    share = 9 / MANY.n_edges
    assert np.mean([r.auroc for r in found]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([r.recall for r in found]) == pytest.approx(share, abs=0.03)
    assert np.mean([r.hamming for r in found]) == pytest.approx(18 * (1 - share), abs=0.5)


# -- laws ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(4))
def test_only_the_order_counts(seed: int) -> None:
    scores, true = drawn(seed)
    grown = Scores(MANY, scores.values**3)
    assert recovery(grown, true) == recovery(scores, true)
    assert recovery(Scores(MANY, np.abs(scores.values)), true, rule="signed") == recovery(
        scores, true
    )
    turned = Scores(MANY, -scores.values)
    one, other = (auroc(s, true, "signed") for s in (scores, turned))
    assert one + other == pytest.approx(1)
    assert one != pytest.approx(other)


def test_the_greedy_order_is_that_of_the_selection() -> None:
    rng = np.random.default_rng(3)
    scores = scored(rng.standard_normal(MANY.n_edges), MANY)
    order = scores.ranking("greedy")
    true = np.zeros(MANY.shape, dtype=bool)
    true.flat[order[:7]] = True
    found = recovery(scores, true, rule="greedy")
    assert (found.auroc, found.average_precision, found.hamming, found.recall) == (1, 1, 0, 1)
    assert auroc(scores, true) < 1  # by magnitude another one


@pytest.mark.parametrize("rule", ["abs", "signed", "greedy"])
def test_what_a_choosing_method_dropped_shares_the_last_place(rule: str) -> None:
    scores = scored((2, -1, 0, 0, 0), chosen=True)
    found = recovery(scores, these((True, True, True, False, False)), rule=rule)
    assert found.hamming == 1  # one to add, and nothing to remove
    assert found.recall == pytest.approx(2 / 3)
    assert found.auroc == pytest.approx((2 + 2 + 1) / 6)


# -- points and stairs -----------------------------------------------------------------------------
def test_the_points_of_all_thresholds_make_the_same_stairs() -> None:
    scores, true = drawn(5)
    values, _ = keys(scores, true, "abs")
    hit = true[MANY.legal]
    points = [(np.mean(kept[~hit]), np.mean(kept[hit])) for kept in map(np.array, circuits(values))]
    assert staircase(points) == pytest.approx(acdc_auroc(scores, true))
    assert staircase(points[::2]) < staircase(points)


# -- what is refused -------------------------------------------------------------------------------
@pytest.mark.unchecked
def test_what_is_no_set_of_edges_is_refused() -> None:
    scores, none = scored((5, 4, 3, 2, 1)), np.zeros(FIVE.shape, dtype=bool)
    for measure in (auroc, acdc_auroc, average_precision, hamming, recall, recovery):
        with pytest.raises(CircuitError, match=r"shape \(2, 2\).*a mask of shape"):
            measure(scores, none[:, :2])
        with pytest.raises(CircuitError, match="of float64"):
            measure(scores, none + 0.5)
        with pytest.raises(CircuitError, match="3 of the edges do not exist"):
            measure(scores, ~none)
        with pytest.raises(ScoresError, match="'best' is not known; choose from abs, signed"):
            measure(scores, none, rule="best")
    with pytest.raises(CircuitError, match="do not exist"):
        recall(scores, none, ~none)


# -- over other data -------------------------------------------------------------------------------
def test_stability_is_the_mean_overlap_of_the_best_circuits() -> None:
    rng = np.random.default_rng(1)
    base = rng.standard_normal(MANY.n_edges)
    several = [scored(base + rng.standard_normal(MANY.n_edges), MANY) for _ in range(3)]
    found = stability(several, 12)
    sets = [{*np.flatnonzero(scores.mask(12)).tolist()} for scores in several]
    expected = np.mean([len(a & b) / len(a | b) for a, b in combinations(sets, 2)])
    assert found.jaccard == pytest.approx(expected)
    assert 0 < expected < 1
    assert stability([several[0]] * 2, 12).jaccard == 1
    with pytest.raises(CircuitError, match="1 circuits"):
        stability(several[:1], 12)


# -- areas -----------------------------------------------------------------------------------------
ENDS = [0.0] * 9 + [1.0]


def test_cpr_and_cmd_at_their_marks() -> None:
    """Of circuits as good as the model; of circuits that do nothing, beside the whole model; and
    of some that overshoot."""
    one, two = [1.0] * 10, [2.0] * 10
    assert (cpr(SHARES, one), cmd(SHARES, one)) == pytest.approx((0.999, 0))
    assert (cpr(SHARES, ENDS), cmd(SHARES, ENDS)) == pytest.approx((0.25, 0.749))
    assert (cpr(SHARES, [0.0] * 10), cmd(SHARES, [0.0] * 10)) == pytest.approx((0, 0.999))
    assert (cpr(SHARES, two), cmd(SHARES, two)) == pytest.approx((1.998, 0.999))
    # on the logarithmic axis the means, whatever the width
    assert (cpr(SHARES, two, "log"), cmd(SHARES, two, "log")) == pytest.approx((2, 1))
    assert cmd(SHARES, ENDS, "log") == pytest.approx(1 - log(2) / 2 / log(1000))
    assert cmd((0.01, 0.1, 1), (0, 0, 1), "log") == pytest.approx((1 + 1 / 2) / 2)
    assert area((0.1, 0.1, 0.3), (5, 1, 3)) == pytest.approx(0.2 * 2)


def test_areas_are_those_under_the_lines_between_the_points() -> None:
    rng = np.random.default_rng(2)
    values = rng.uniform(-1, 2, 10)
    fine = np.linspace(SHARES[0], 1, 200_001)
    under = np.interp(fine, SHARES, values)
    assert area(SHARES, values) == pytest.approx(under.mean() * 0.999, abs=1e-4)
    even = np.linspace(log(SHARES[0]), 0, 200_001)
    under = np.interp(even, np.log(SHARES), values)
    assert area(SHARES, values, "log") == pytest.approx(under.mean(), abs=1e-4)


@pytest.mark.parametrize(
    ("sizes", "values", "axis", "said"),
    [
        ((0.1,), (1,), "linear", "1 sizes and 1 values are not a curve"),
        ((0.1, 1), (1, 2, 3), "linear", "2 sizes and 3 values"),
        ((0.5, 0.1), (1, 2), "linear", "ascending"),
        ((0, 1), (1, 2), "log", "from 0 to 1 have no logarithmic axis"),
        ((0.5, 0.5), (1, 2), "log", "no logarithmic axis"),
        ((0.1, 1), (1, 2), "kept", "axis='kept' is not known; choose from linear, log"),
    ],
)
def test_what_is_no_curve_is_refused(sizes: Any, values: Any, axis: str, said: str) -> None:
    with pytest.raises(EvaluationError, match=said):
        area(sizes, values, axis)


# -- the circuits of a ranking ---------------------------------------------------------------------
def curves(family: str = "gpt2") -> tuple[Any, Scores, Dataset, dict[str, SizeCurve]]:
    """A model, its scores, its data and the curves of both rules."""
    m, data = model(family), able(family)
    scores = eap(m, data, logit_diff, counterfactual)
    return m, scores, data, size_curves(m, scores, data, logit_diff, counterfactual)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_point_of_a_curve_is_the_circuit_of_its_size_run_alone(family: str) -> None:
    m, scores, data, found = curves(family)
    assert list(found) == ["signed", "abs"]
    for rule, one in found.items():
        values = scores.values if rule == "signed" else np.abs(scores.values)
        for i, share in enumerate(SHARES):
            n = int(share * m.wiring.n_edges)
            keep = np.zeros(m.wiring.shape, dtype=bool)
            for row, column in sorted(np.argwhere(m.wiring.legal).tolist(),
                                      key=lambda e: -values[tuple(e)])[:n]:  # fmt: skip
                keep[row, column] = True
            keep = m.wiring.alive(keep)
            alone = evaluate(m, keep, data, logit_diff, counterfactual)
            right = evaluate(m, keep, data, accuracy, counterfactual)
            assert one.faithfulness[i] == pytest.approx(alone.faithfulness, abs=1e-4)
            assert one.accuracy[i] == pytest.approx(right.circuit.mean())
            assert one.kept[i] == keep.sum() / m.wiring.n_edges <= share
        assert one.asked == SHARES
        assert one.faithfulness[-1] == pytest.approx(1, abs=1e-4)
        assert one.accuracy[-1] == 1
        assert len({*one.kept}) > 4
    assert distance(found["signed"].faithfulness, found["abs"].faithfulness) > 1e-2


def test_the_numbers_of_a_curve_are_the_areas_on_the_axis_of_that_name() -> None:
    one = curves()[-1]["abs"]
    f, a = one.faithfulness, one.accuracy
    assert one.cpr() == one.cpr("asked") == cpr(SHARES, f)
    assert one.cmd("kept") == cmd(one.kept, f)
    assert one.cmd("log") == cmd(SHARES, f, "log")
    assert one.accuracy_area() == area(SHARES, a, "log")
    assert len({round(one.cmd(axis), 6) for axis in ("asked", "kept", "log")}) == 3
    said = json.loads(json.dumps(one.to_dict()))
    assert said["cmd"] == {axis: one.cmd(axis) for axis in ("asked", "kept", "log")}
    assert said["kept"] == list(one.kept)
    with pytest.raises(EvaluationError, match="axis='linear' is not known"):
        one.cmd("linear")


def test_a_curve_is_a_table() -> None:
    one = curves()[-1]["signed"]
    title, _, *rows = repr(one).splitlines()
    assert title.startswith(f"the best circuits of {one.total:,} edges by signed score: CPR ")
    assert len(rows) == 10
    assert rows[-1].split() == ["100.000%", f"{one.total:,}", "1.000", "1.000"]
    flat = Evaluation(*[np.ones(3)] * 3, "logit_diff", "zero", 1)
    assert "undefined" in repr(SizeCurve("abs", (0.5, 1), (flat,) * 2, (flat,) * 2, 2))


def test_the_circuit_of_a_choosing_method_ends_where_it_chose_to() -> None:
    m, data = model("gpt2"), able("gpt2")
    scores = acdc(m, data, logit_diff, counterfactual, threshold=0.5)
    chosen = scores.chosen
    assert chosen is not None
    assert 0 < chosen.sum() < 0.4 * m.wiring.n_edges
    assert np.array_equal(best(scores, 0.5), chosen)
    assert np.array_equal(best(scores, 1), m.wiring.legal)
    assert not best(scores, 1e-9).any()


@pytest.mark.parametrize("shares", [(), (0, 0.5), (0.5, 0.2), (0.5, 0.5), (0.5, 1.5)])
def test_other_shares_are_refused(shares: Any) -> None:
    m, data = model("gpt2"), able("gpt2")
    scores = random(m, data, logit_diff, counterfactual)
    with pytest.raises(EvaluationError, match="are not sizes; give ascending ones"):
        size_curves(m, scores, data, logit_diff, counterfactual, shares=shares)


def test_on_mini_random_circuits_are_at_the_mark_of_none_and_those_of_eap_ig_are_not() -> None:
    m = circuitkit.load("mini")
    data = Dataset.of(circuitkit.make_task("ioi", m, n=12), m)
    found = {}
    for method in (random, circuitkit.discovery.eap_ig):
        scores = method(m, data, logit_diff, counterfactual)
        found[method] = size_curves(m, scores, data, logit_diff, counterfactual)
    null, good = found.values()
    assert null["signed"].cpr() == pytest.approx(0.25, abs=0.1)
    assert null["abs"].cmd() == pytest.approx(0.749, abs=0.1)
    assert good["signed"].cpr() > 0.6
    assert good["abs"].cmd() < 0.4
