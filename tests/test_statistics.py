"""Statistics by closed forms, by exact fractions, by slow counting, and by scipy."""

from __future__ import annotations

from fractions import Fraction
from math import comb, isnan, nan, sqrt
from typing import Any

import numpy as np
import pytest
from scipy import stats

from circuitkit.util import statistics
from circuitkit.util.statistics import (
    at_most,
    auroc,
    average_precision,
    bootstrap_interval,
    bootstrap_of_means,
    expected_overlap,
    interval_text,
    pearson,
    percentile_interval,
    spearman,
    staircase,
    standard_error,
    student_half_width,
    weighted_mean,
)

RNG = np.random.default_rng(0)


# -- over examples ---------------------------------------------------------------------------------
def test_a_standard_error_is_that_of_the_values_that_there_are() -> None:
    values = RNG.normal(size=(3, 4, 9))
    assert standard_error(values) == pytest.approx(stats.sem(values, axis=-1))
    values[0, 0, :4] = nan
    assert standard_error(values)[0, 0] == pytest.approx(stats.sem(values[0, 0, 4:]))
    assert standard_error(np.array([1.0, 3.0])) == pytest.approx(1)
    for few in ([2.0], [2.0, nan], [nan, nan]):
        assert isnan(standard_error(np.array(few)))


def test_a_weighted_mean_counts_an_example_as_often_as_it_is_drawn() -> None:
    values = np.array([[1.0, 2.0, 4.0], [1.0, nan, 4.0]])
    draws = np.array([[1.0, 1, 1], [0, 3, 0], [2, 0, 1]])
    found = weighted_mean(values, draws)
    assert found[0] == pytest.approx([7 / 3, 2, 2])
    assert found[1][[0, 2]] == pytest.approx([5 / 2, 2])
    assert isnan(found[1][1])  # it holds no example that counts


# -- intervals -------------------------------------------------------------------------------------
def test_an_interval_leaves_as_much_below_as_above() -> None:
    drawn = RNG.permutation(1001.0 + np.arange(1001))
    assert percentile_interval(drawn).tolist() == [1026, 1976]
    assert percentile_interval(drawn, 0.9).tolist() == [1051, 1951]
    assert percentile_interval(np.append(drawn, nan)).tolist() == [1026, 1976]
    rows = np.stack([drawn, -drawn])
    assert percentile_interval(rows).tolist() == [[1026, -1976], [1976, -1026]]


def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(a.mean(axis) / b.mean(axis))


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
def test_the_bootstrap_is_scipys_percentile_bootstrap(level: float) -> None:
    a, b = RNG.normal(3, 1, (2, 40))
    theirs = stats.bootstrap(
        (a, b), ratio, paired=True, vectorized=True, method="percentile", n_resamples=300,
        confidence_level=level, random_state=np.random.default_rng(7),
    ).confidence_interval  # fmt: skip
    ours = bootstrap_interval(ratio, (a, b), level, resamples=300, seed=7)
    assert ours == pytest.approx((theirs.low, theirs.high))


def test_the_bootstrap_of_a_mean_is_binomial_where_values_are_0_or_1() -> None:
    ones = np.array([1.0] * 90 + [0.0] * 210)
    exact = stats.binom.ppf([0.025, 0.975], 300, 0.3) / 300
    means = bootstrap_of_means(np.stack([ones, ones + 1]), resamples=20_000)
    assert means[:, 0] == pytest.approx(exact, abs=0.004)  # of 90 %: 0.008 nearer on both sides
    assert means[:, 1] == pytest.approx(exact + 1, abs=0.004)
    one = bootstrap_interval(lambda own: own.mean(-1), [ones], resamples=20_000)
    assert one == pytest.approx(exact, abs=0.004)


def test_an_interval_of_one_value_is_not_known() -> None:
    copies = np.full(6, 0.3) + 1e-9 * RNG.normal(size=6)  # but for rounding
    assert np.isnan(bootstrap_interval(lambda own: own.mean(-1), [copies, 2 * copies])).all()
    known = bootstrap_interval(lambda *own: own[1].mean(-1), [copies, np.arange(6.0)])
    assert known[0] < known[1]
    assert np.isnan(bootstrap_of_means(np.stack([copies, 0 * copies]))).all()
    assert np.isnan(bootstrap_interval(lambda own: own.mean(-1), [np.array([3.0])])).all()
    assert np.isnan(bootstrap_of_means(np.array([[3.0]]))).all()
    low, high = bootstrap_of_means(np.array([[5.0, nan, nan], [nan, nan, nan], [5, nan, 5]]))
    assert np.isnan(low[:2]).all()
    assert np.isnan(high[:2]).all()
    assert np.isnan([low[2], high[2]]).all()  # two that are the same say nothing of their spread
    assert interval_text(nan, nan) == "[not known]"
    assert interval_text(0.25, 1) == "[0.250, 1.000]"


def test_students_interval_is_the_known_one() -> None:
    assert student_half_width([1.0, 3.0]) == pytest.approx(12.7062, abs=1e-4)  # √2 · 12.7062 / √2
    assert student_half_width([0.0, 1.0, 2.0]) == pytest.approx(4.30265 / sqrt(3), abs=1e-5)
    assert student_half_width([1.0, 3.0], level=0.5) == pytest.approx(1)
    many = RNG.normal(size=30).tolist()
    low, high = stats.ttest_1samp(many, 0).confidence_interval(0.95)
    assert 2 * student_half_width(many) == pytest.approx(high - low)
    assert isnan(student_half_width([1.0]))
    assert isnan(student_half_width([]))


# -- the bound -------------------------------------------------------------------------------------
def chance(population: int, marked: int, sampled: int, found: int) -> Fraction:
    """Of at most so many marked ones in a sample, exactly."""
    ways = sum(comb(marked, k) * comb(population - marked, sampled - k) for k in range(found + 1))
    return Fraction(ways, comb(population, sampled))


@pytest.mark.parametrize("population", [1, 7, 40, 389, 32_000])
def test_the_bound_is_the_last_number_that_is_likely_enough(population: int) -> None:
    for sampled in {0, 1, population // 3 % 50, min(population, 125)}:
        for found in {0, sampled // 10, sampled // 2, sampled}:
            bound = at_most(population, sampled, found)
            most = population - (sampled - found)
            assert found <= bound <= most
            assert chance(population, bound, sampled, found) > Fraction(1, 20)
            assert bound == most or chance(population, bound + 1, sampled, found) <= Fraction(1, 20)


def test_the_bound_of_few_is_as_by_hand() -> None:
    assert at_most(100, 1, 0) == 94  # (100 − 94) / 100 > 0.05
    assert at_most(100, 1, 0, level=0.9) == 89
    assert [at_most(50, 50, x) for x in (0, 7, 50)] == [0, 7, 50]
    assert at_most(50, 0, 0) == 50
    assert at_most(0, 0, 0) == 0
    assert at_most(1_600_000, 125, 0) == pytest.approx((1 - 0.05 ** (1 / 125)) * 1.6e6, rel=1e-3)


def test_few_exceed_the_largest_of_a_sample() -> None:
    rng = np.random.default_rng(0)
    bound = at_most(400, 40, 0)
    larger = [int(400 - 1 - rng.permutation(400)[:40].max()) for _ in range(2000)]
    exact = comb(400 - bound - 1, 40) / comb(400, 40)
    assert exact < 0.05
    assert np.mean([k > bound for k in larger]) == pytest.approx(exact, abs=0.015)


def test_more_found_raises_the_bound_and_a_larger_sample_lowers_it() -> None:
    assert np.all(np.diff([at_most(500, 50, x) for x in range(51)]) > 0)
    bounds = [at_most(500, m, 0) for m in range(1, 500, 20)]
    assert np.all(np.diff(bounds) <= 0)
    assert bounds[0] > 20 * bounds[-1]


def test_what_random_sets_share_is_the_hypergeometric_mean() -> None:
    assert expected_overlap(12, 30, 144) == pytest.approx(stats.hypergeom.mean(144, 12, 30))


# -- ranks -----------------------------------------------------------------------------------------
def test_correlations_are_scipys_with_ties() -> None:
    a, b = RNG.integers(0, 5, (2, 40)).astype(float)
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert spearman(np.exp(a), b) == pytest.approx(spearman(a, b))
    assert spearman(np.arange(9.0), -(np.arange(9.0) ** 3)) == pytest.approx(-1)


@pytest.mark.parametrize("values", [([1, 2], [2, 1]), ([1, 1, 1], [1, 2, 3]), ([], [])])
def test_correlations_of_too_few_or_of_constants_are_not_defined(values: Any) -> None:
    a, b = map(np.array, values)
    assert isnan(pearson(a, b))
    assert isnan(spearman(a, b))


def test_areas_are_those_of_all_pairs_and_thresholds() -> None:
    values, true = RNG.integers(0, 9, 60).astype(float), RNG.random(60) < 0.3
    hits, others = values[true], values[~true]
    pairs = (hits[:, None] > others) + (hits[:, None] == others) / 2
    assert auroc(values, true) == pytest.approx(pairs.mean())
    assert auroc(values, ~true) == pytest.approx(1 - pairs.mean())
    above = [values >= threshold for threshold in sorted(set(values), reverse=True)]
    recalls = [0, *(kept[true].mean() for kept in above)]
    gained = sum(
        (now - before) * true[kept].mean()
        for kept, before, now in zip(above, recalls[:-1], recalls[1:], strict=True)
    )
    assert average_precision(values, true) == pytest.approx(gained)
    stairs = staircase([(kept[~true].mean(), kept[true].mean()) for kept in above])
    assert statistics.acdc_auroc(values, true) == pytest.approx(stairs)
    assert stairs < pairs.mean()  # ties are decided against the ranking


def test_areas_of_nothing_true_are_not_defined() -> None:
    values, none = np.arange(4.0), np.zeros(4, dtype=bool)
    assert isnan(average_precision(values, none))
    assert average_precision(values, ~none) == 1
    for area in (auroc, statistics.acdc_auroc):
        assert isnan(area(values, none))
        assert isnan(area(values, ~none))


def test_the_staircase_is_the_lower_one() -> None:
    assert staircase([]) == 0
    assert staircase([(0.5, 0.5)]) == pytest.approx(0.25)
    assert staircase([(0.25, 0.25)]) == pytest.approx(0.75 * 0.25)
    assert staircase([(0, 1)]) == 1
    assert staircase([(0.5, 0.8), (0.2, 0.6)]) == pytest.approx(0.3 * 0.6 + 0.5 * 0.8)
    # what another point beats in both rates grants nothing
    assert staircase([(0.2, 0.6), (0.5, 0.1)]) == pytest.approx(0.8 * 0.6)
    assert isnan(staircase([(nan, 0.5)]))
