"""Statistics of examples, draws and rankings: standard errors, intervals, bounds and ranks.

Undefined values are nan. scipy takes most of a second to import, so functions import it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from math import nan, sqrt
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real

__all__ = [
    "LEVEL",
    "standard_error",
    "weighted_mean",
    "percentile_interval",
    "bootstrap_interval",
    "bootstrap_of_means",
    "mean_of_groups",
    "sign_flip_p",
    "holm",
    "Means",
    "means",
    "interval_text",
    "student_half_width",
    "at_most",
    "expected_overlap",
    "pearson",
    "spearman",
    "auroc",
    "acdc_auroc",
    "average_precision",
    "staircase",
]

LEVEL = 0.95  # of intervals and bounds
SAME = 1e-6  # relative to the largest: values that are closer say nothing of their spread


# -- over examples ---------------------------------------------------------------------------------
def standard_error(values: Float[np.ndarray, "*axes examples"]) -> Float[np.ndarray, "*axes"]:
    """The standard error of the mean over the last axis, without nan; nan for the mean of a single
    value."""
    n = (~np.isnan(values)).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.nansum(values, axis=-1, keepdims=True) / n[..., None]
        variance = np.nansum((values - mean) ** 2, axis=-1) / (n - 1)
        return np.asarray(np.sqrt(variance / n))


def weighted_mean(
    values: Float[np.ndarray, "*axes examples"], weights: Float[np.ndarray, "draws examples"]
) -> Float[np.ndarray, "*axes draws"]:
    """The mean over the last axis in which each example counts so many times, without nan; nan for
    a draw without any value."""
    here = (~np.isnan(values)).astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((np.where(here, values, 0) @ weights.T) / (here @ weights.T))


# -- intervals -------------------------------------------------------------------------------------
def percentile_interval(
    drawn: Float[np.ndarray, "*axes draws"], level: float = LEVEL
) -> Float[np.ndarray, " low_and_high *axes"]:
    """The values between which this share of the draws lies, with equally many below and above;
    nan is left out."""
    tail = (1 - level) / 2
    return np.asarray(np.nanquantile(drawn, [tail, 1 - tail], axis=-1))


def bootstrap_interval(
    statistic: Callable[..., Float[np.ndarray, " draws"]],
    samples: Sequence[Float[np.ndarray, " examples"]],
    level: float = LEVEL,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic of paired samples; the statistic takes each
    sample as [draws, examples].

    It is ``scipy.stats.bootstrap`` with ``paired=True, vectorized=True, method="percentile"`` on
    the same draws, but it is also defined if some draws have no value. It is nan, not known, for
    one example, and for examples that are all the same.
    """
    n = len(samples[0])
    if n < 2 or not any(map(_spreads, samples)):
        return nan, nan
    picks = np.random.default_rng(seed).integers(0, n, (resamples, n))
    low, high = percentile_interval(statistic(*(own[picks] for own in samples)), level)
    return float(low), float(high)


def bootstrap_of_means(
    values: Float[np.ndarray, "*axes examples"],
    level: float = LEVEL,
    resamples: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, " low_and_high *axes"]:
    """The percentile bootstrap interval of the mean over the last axis, without nan; nan, not
    known, where there are fewer than two different values.

    All rows share their draws, which are counts of the examples, so that thousands of rows are one
    matrix product.
    """
    n = values.shape[-1]
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) * 1.0
    known = _spreads(values)
    drawn = np.where(known[..., None], weighted_mean(values, times), 0)
    return np.where(known, percentile_interval(drawn, level), nan)


def mean_of_groups(
    groups: Sequence[Float[np.ndarray, " values"]],
    level: float = LEVEL,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """The mean of the groups' means, and its percentile bootstrap interval: groups are drawn with
    replacement, and then values within each group that was drawn.

    The interval is nan, not known, for fewer than two groups; the mean too where there is none.
    """
    if not groups:
        return nan, nan, nan
    mean = float(np.mean([own.mean() for own in groups]))
    if len(groups) < 2:
        return mean, nan, nan
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(groups), (resamples, len(groups)))
    drawn = np.empty(picks.shape)
    for number, own in enumerate(groups):
        here = picks == number
        within = rng.integers(0, len(own), (int(here.sum()), len(own)))
        drawn[here] = own[within].mean(-1)
    low, high = percentile_interval(drawn.mean(-1), level)
    return mean, float(low), float(high)


def sign_flip_p(differences: Float[np.ndarray, " pairs"], seed: int = 0) -> float:
    """How likely a mean difference is as large, either way, if each pair's sign were as likely the
    opposite one (``scipy.stats.permutation_test``): exact for up to 13 pairs, else from 9,999
    draws. nan for fewer than two pairs."""
    from scipy.stats import permutation_test

    if len(differences) < 2:
        return nan
    found = permutation_test(
        (np.asarray(differences, dtype=float),), np.mean, permutation_type="samples",
        vectorized=True, random_state=seed,
    )  # fmt: skip
    return float(found.pvalue)


def holm(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """The p values of several tests, adjusted so that one below 0.05 is seen among true hypotheses
    in at most 5 of 100 families (Holm 1979): the smallest times their number, the next times one
    less, and none below a smaller one's. nan stays nan, and does not count."""
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = np.arange(len(order), 0, -1)
    adjusted = np.full(len(p), nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * steps))
    return adjusted


class Means(NamedTuple):
    """Means over examples, each with its standard error, its interval, and the p of its sign."""

    mean: Float[np.ndarray, " quantities"]
    error: Float[np.ndarray, " quantities"]
    low: Float[np.ndarray, " quantities"]
    high: Float[np.ndarray, " quantities"]
    p: Float[np.ndarray, " quantities"]


def means(values: Float[np.ndarray, "examples quantities"], level: float = LEVEL) -> Means:
    """The mean of each quantity over the examples, with an interval that skewed and heavy-tailed
    values need.

    It is the union of two: Student's interval, and the one of Hall's transformation of the same
    statistic, which takes its skewness out (Hall 1992). Both have the degrees of freedom that the
    variance of the sample variance says (2n / (excess kurtosis + 2n/(n − 1)), from 1 to n − 1), so
    that for values like a normal distribution's they are Student's. ``p`` (two-sided) is of the
    same statistics: it is below 1 − level where the interval has no 0. Values that are the same in
    every example say nothing of their scatter: then interval and p are nan, not known, but for
    zeros, and everything but the mean for a single example.
    """
    from scipy.stats import t as student

    n = len(values)
    values = np.asarray(values, dtype=np.float64)
    mean = values.mean(0)
    if n < 2:
        return Means(mean, *np.full((4, len(mean)), nan))
    away = values - mean
    squares = np.square(away)
    spread = squares.mean(0)
    known = np.abs(away).max(0) > SAME * np.abs(values).max(0)
    error = np.sqrt(spread / (n - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        lean = np.where(known, (squares * away).mean(0) / spread**1.5, 0) / sqrt(n)
        tails = np.where(known, (squares**2).mean(0) / spread**2 - 3, 0)
        free = _degrees(n, tails)
        there = np.where(known, mean / error, 0)
    q = student.ppf((1 + level) / 2, free)
    low = np.minimum(mean - q * error, mean - _leaning(q, lean) * error)
    high = np.maximum(mean + q * error, mean - _leaning(-q, lean) * error)
    least = np.minimum(np.abs(there), np.abs(_straight(there, lean)))
    zero = ~values.any(0)
    low, high = (np.where(known, end, np.where(zero, 0, nan)) for end in (low, high))
    p = np.where(known, 2 * student.sf(least, free), np.where(zero, 1, nan))
    return Means(mean, error, low, high, p)


def _degrees(n: int, tails: Float[np.ndarray, " quantities"]) -> Float[np.ndarray, " quantities"]:
    """The degrees of freedom of a sample variance, by the excess kurtosis in the sample."""
    if n < 4:
        return np.full(tails.shape, n - 1.0)
    unbiased = ((n + 1) * tails + 6) * (n - 1) / ((n - 2) * (n - 3))
    return np.asarray(np.clip(2 * n / np.maximum(unbiased + 2 * n / (n - 1), 1), 1, n - 1))


def _straight(
    t: Float[np.ndarray, " quantities"], lean: Float[np.ndarray, " quantities"]
) -> Float[np.ndarray, " quantities"]:
    """Hall's transformation of a statistic with the skewness ``lean`` · √n, without the skew."""
    return np.asarray(t + lean * t**2 / 3 + lean**2 * t**3 / 27 + lean / 6)


def _leaning(
    z: Float[np.ndarray, " quantities"], lean: Float[np.ndarray, " quantities"]
) -> Float[np.ndarray, " quantities"]:
    """Its inverse."""
    some = np.abs(lean) > 1e-6
    safe = np.where(some, lean, 1)
    return np.where(some, 3 * (np.cbrt(1 + safe * (z - safe / 6)) - 1) / safe, z)


def _spreads(values: Float[np.ndarray, "*axes examples"]) -> Bool[np.ndarray, "*axes"]:
    """Whether there are two values along the last axis, without nan, that differ by more than
    rounding."""
    there = ~np.isnan(values)
    high = np.where(there, values, -np.inf).max(-1)
    low = np.where(there, values, np.inf).min(-1)
    size = np.where(there, np.abs(values), 0).max(-1)
    return np.asarray(high - low > SAME * size)


def interval_text(low: float, high: float, digits: int = 3) -> str:
    """``[0.812, 0.934]``, or that the interval is not known."""
    if np.isnan(low) or np.isnan(high):
        return "[not known]"
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def student_half_width(values: Sequence[float], level: float = LEVEL) -> float:
    """Half of the width of Student's interval of the mean; nan for fewer than two values."""
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return nan
    return float(t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / sqrt(n))


# -- what a sample says about the rest -------------------------------------------------------------
def at_most(population: int, sampled: int, found: int, level: float = LEVEL) -> int:
    """An upper bound of how many of a population have a property, if ``found`` of ``sampled``
    members, drawn without replacement, have it.

    It is the exact one-sided confidence bound of the hypergeometric distribution: the largest
    number with which ``found`` or fewer are found with a probability of more than 1 − level
    (Buonaccorsi 1987). With ``found`` = 0 it also bounds how many exceed the sample's largest.
    """
    from scipy.stats import hypergeom

    def rare(marked: int) -> bool:
        return bool(hypergeom.cdf(found, population, marked, sampled) <= 1 - level)

    most = population - (sampled - found)
    return found + bisect_left(range(found + 1, most + 1), True, key=rare)


def expected_overlap(left: int, right: int, universe: int) -> float:
    """How many members two random sets of these sizes share on average (hypergeometric mean)."""
    return left * right / universe


# -- ranks -----------------------------------------------------------------------------------------
def pearson(a: Real[np.ndarray, " n"], b: Real[np.ndarray, " n"]) -> float:
    """The correlation; nan for fewer than three pairs, or if one side is constant."""
    if len(a) < 3 or len(set(a)) < 2 or len(set(b)) < 2:
        return nan
    return float(np.corrcoef(a, b)[0, 1])


def spearman(a: Real[np.ndarray, " n"], b: Real[np.ndarray, " n"]) -> float:
    """The correlation of ranks, where ties share their mean rank; nan if ``pearson`` is."""
    from scipy.stats import rankdata

    return pearson(rankdata(a), rankdata(b))


def auroc(values: Real[np.ndarray, " n"], true: Bool[np.ndarray, " n"]) -> float:
    """The area under the ROC curve: the probability that a true one has a larger value than a false
    one, where a tie counts one half (Mann & Whitney's U); nan if none, or all, are true."""
    from scipy.stats import rankdata

    hits, others = int(true.sum()), int((~true).sum())
    if not hits or not others:
        return nan
    return float((rankdata(values)[true].sum() - hits * (hits + 1) / 2) / (hits * others))


def acdc_auroc(values: Real[np.ndarray, " n"], true: Bool[np.ndarray, " n"]) -> float:
    """The area under the ``staircase`` through the points of all thresholds, as Conmy et al. (2023)
    measure it: every tie is decided against the ranking. nan if ``auroc`` is."""
    hits, others = _blocks(values, true)
    if not hits.sum() or not others.sum():
        return nan
    false, found = np.cumsum(others) / others.sum(), np.cumsum(hits) / hits.sum()
    return staircase(zip(false.tolist(), found.tolist(), strict=True))


def average_precision(values: Real[np.ndarray, " n"], true: Bool[np.ndarray, " n"]) -> float:
    """Σ (recall gained) · precision over all thresholds, without interpolation; nan if none is
    true."""
    hits, others = _blocks(values, true)
    if not hits.sum():
        return nan
    found = np.cumsum(hits)
    return float((hits / found[-1] * found / (found + np.cumsum(others))).sum())


def staircase(points: Iterable[tuple[float, float]]) -> float:
    """The area under the lower staircase through points of a ROC curve (false, then true positive
    rate) with (0, 0) and (1, 1) added: between two points the rate of the lower one counts.

    For circuits of several runs (ACDC at several thresholds), which need not contain each other, a
    point has the best rate of the points to its left. nan if a point is.
    """
    x, y = np.array(sorted([(0.0, 0.0), *points, (1.0, 1.0)])).T
    if np.isnan(x).any() or np.isnan(y).any():
        return nan
    return float((np.diff(x) * np.maximum.accumulate(y)[:-1]).sum())


def _blocks(
    values: Real[np.ndarray, " n"], true: Bool[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " blocks"], Int[np.ndarray, " blocks"]]:
    """For each block of equal values, the largest first, how many are true and how many are not."""
    place = np.unique(-values, return_inverse=True)[1]
    size = int(place.max()) + 1
    return np.bincount(place[true], minlength=size), np.bincount(place[~true], minlength=size)
