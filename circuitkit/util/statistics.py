"""Statistics of examples, draws and rankings: standard errors, intervals, bounds and ranks.

Undefined values are nan. scipy takes most of a second to import, so functions import it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from math import nan, sqrt

import numpy as np
from jaxtyping import Bool, Float, Int, Real

__all__ = [
    "LEVEL",
    "standard_error",
    "weighted_mean",
    "percentile_interval",
    "bootstrap_interval",
    "bootstrap_of_means",
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
