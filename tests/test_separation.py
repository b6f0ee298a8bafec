"""Whether two choices find other things: by hand, and by the laws of a permutation test."""

from __future__ import annotations

from itertools import combinations
from math import isnan

import numpy as np
import pytest

from circuitkit.errors import CircuitError
from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.graph.compare import Overlap
from circuitkit.graph.separation import alike, jaccard, separation, smallest_p, within
from circuitkit.workflows.study.floor import bounded, means, spread_p, surely_beyond

ABC = [{"a", "b"}, {"a"}, {"a", "b", "c"}]
DEF = [{"d"}, {"d", "b"}, {"d"}]


def finds(rng: np.random.Generator, truth: np.ndarray, noise: np.ndarray) -> list[frozenset[int]]:
    """What lies far from the mean on every sample, as components are detected."""
    seen = truth + noise + 0.5 * rng.normal(size=noise.shape)
    far = np.abs(seen - seen.mean(1, keepdims=True)) >= 1.5 * seen.std(1, keepdims=True)
    return [frozenset(np.flatnonzero(row).tolist()) for row in far]


def test_it_is_as_by_hand() -> None:
    found = separation(ABC, DEF)
    assert found.left == pytest.approx((1 / 2 + 2 / 3 + 1 / 3) / 3)
    assert found.right == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    # Of the six pairs on different samples {a, b} and {d, b} share one of three, {a, b, c} and
    # {d, b} one of four.
    assert found.between == pytest.approx((1 / 3 + 1 / 4) / 6)
    assert found.within == pytest.approx((found.left + found.right) / 2)
    assert found.p == pytest.approx(1 / 10)
    assert found.least == 1 / 10
    assert within(ABC) == found.left
    assert alike(ABC, DEF) == pytest.approx(found.between)
    assert alike(ABC, ABC) == pytest.approx(found.left)


def test_p_is_the_share_of_partitions_that_separate_as_much() -> None:
    """Every partition written out, with the pairs of one sample left out."""
    rng = np.random.default_rng(3)
    truth, noise = rng.normal(size=(2, 12)), rng.normal(size=(4, 12))
    left, right = (finds(rng, one, noise) for one in truth)
    every = [(sample, found) for own in (left, right) for sample, found in enumerate(own)]

    def statistic(group: set[int]) -> float:
        inside, across = [], []
        for i, j in combinations(range(8), 2):
            if every[i][0] != every[j][0]:
                together = (i in group) == (j in group)
                (inside if together else across).append(jaccard(every[i][1], every[j][1]))
        return float(np.mean(inside) - np.mean(across))

    all_of_them = [statistic({0, *rest}) for rest in combinations(range(1, 8), 3)]
    share = np.mean([one >= statistic({0, 1, 2, 3}) - 1e-9 for one in all_of_them])
    found = separation(left, right)
    assert found.p == pytest.approx(share)
    assert 1 / 35 < found.p < 1


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_choices_that_make_no_difference_are_seldom_separated(shared: float) -> None:
    """Also where their finds of one sample share its noise, which makes the test conservative."""
    rng = np.random.default_rng(0)
    p = []
    for _ in range(300):
        truth, noise = rng.standard_t(3, 20), shared * rng.normal(size=(5, 20))
        p.append(separation(*(finds(rng, truth, noise) for _ in range(2))).p)
    assert np.mean(np.array(p) < 0.05) <= 0.06
    assert np.mean(p) > 0.4


def test_choices_that_find_others_have_the_smallest_p() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        left, right = (
            finds(rng, 3 * np.eye(20)[at] + 3 * np.eye(20)[at + 1], np.zeros((5, 20)))
            for at in (2, 9)
        )
        assert separation(left, right).p == smallest_p(5) == 1 / 126


def test_names_and_the_order_of_samples_change_nothing() -> None:
    rng = np.random.default_rng(2)
    truth, noise = rng.normal(size=(2, 12)), rng.normal(size=(5, 12))
    left, right = (finds(rng, one, noise) for one in truth)
    found, turned = separation(left, right), separation(right, left)
    assert (found.p, found.between) == (turned.p, pytest.approx(turned.between))
    assert (found.left, found.right) == (turned.right, turned.left)
    order = rng.permutation(5)
    mixed = separation([left[i] for i in order], [right[i] for i in order])
    assert (mixed.p, mixed.between) == (found.p, pytest.approx(found.between))
    renamed = separation(*([{f"a{x}" for x in one} for one in own] for own in (left, right)))
    assert renamed == found


@pytest.mark.parametrize("samples", [0, 1])
def test_without_another_sample_nothing_is_known(samples: int) -> None:
    found = separation(ABC[:samples], DEF[:samples])
    assert all(map(isnan, (found.left, found.right, found.between, found.p, found.least)))
    assert found.to_dict()["p"] is None


def test_two_samples_can_show_nothing() -> None:
    assert separation([{1}] * 2, [{2}] * 2).p == pytest.approx(1 / 3)


def test_other_or_too_many_samples_are_refused() -> None:
    with pytest.raises(CircuitError, match="3 and 2 samples"):
        separation(ABC, DEF[:2])
    with pytest.raises(CircuitError, match="at most 10"):
        separation([{1}] * 11, [{2}] * 11)


def test_the_index_is_that_of_an_overlap() -> None:
    for one, other in combinations([*ABC, *DEF, set()], 2):
        overlap = Overlap(len(one), len(other), len(one & other), 9)
        assert jaccard(one, other) == overlap.jaccard
    assert jaccard([], []) == 1


def test_many_comparisons_share_their_false_discoveries() -> None:
    assert surely_beyond([0.0079, 1.0, 1.0, 1.0]) == [True, False, False, False]
    assert surely_beyond([0.02, 1.0, 1.0, 1.0]) == [False] * 4
    assert surely_beyond([0.02, float("nan"), 0.03]) == [True, False, True]
    assert surely_beyond([float("nan")]) == [False]


# -- numbers ---------------------------------------------------------------------------------------
def test_intervals_are_of_the_draws_and_unknown_without_any_difference() -> None:
    values = np.random.default_rng(0).normal(2, 1, 100)
    found = bounded(means(values))
    assert found.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / 10
    assert (found.low, found.high) == (
        pytest.approx(found.value - half, abs=0.05), pytest.approx(found.value + half, abs=0.05),
    )  # fmt: skip
    assert found.apart(1.5)
    assert not found.apart(2.5)
    assert not found.apart(0.0, other=found.value)
    same = bounded(means(np.ones(9)))
    assert not same.known
    assert not same.apart(0.5)


def test_measures_of_one_circuit_differ_where_they_differ_by_more_than_its_examples() -> None:
    def by(*kept: float) -> Evaluation:
        return Evaluation(np.ones(4), np.zeros(4), np.array(kept), "kl", "zero", 1)

    one = by(0.8, 0.9, 1.0, 0.9)
    assert spread_p([one, by(0.5, 0.5, 0.6, 0.4)]) == pytest.approx(1 / 1001)
    assert spread_p([one, by(1.0, 0.8, 0.9, 0.95)]) > 0.3
    assert spread_p([one, one]) == 1
    assert isnan(spread_p([one]))
    assert isnan(spread_p([by(*[share] * 4) for share in (0.5, 0.9)]))
