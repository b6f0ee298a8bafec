"""Whether numbers come from a distribution with one mode: Hartigan & Hartigan's dip test (1985)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float, Int

__all__ = ["dip", "dip_p"]

_SLACK = 1e-12  # of dips that differ by rounding


def dip(values: Float[np.ndarray, " n"] | Sequence[float]) -> float:
    """The dip: how far the distribution of the numbers is from the nearest one with a single mode.

    It is the largest distance of the two distribution functions, from 1/(2n) to 1/4. Values that
    are the same count as one step.

    Source: Hartigan & Hartigan (1985), by the greatest convex minorant and the least concave
    majorant of the distribution function.
    """
    at, counts = np.unique(np.asarray(values, dtype=float), return_counts=True)
    after = np.cumsum(counts) / counts.sum()
    before = after - counts / counts.sum()
    twice = 1 / float(counts.sum())  # of the dip, as far as it is known
    while len(at) > 1:
        under, over = _corners(at, before, 1), _corners(at, after, -1)
        low, high = (np.interp(at, at[c], y[c]) for c, y in ((under, before), (over, after)))
        apart_under, apart_over = high[under] - before[under], after[over] - low[over]
        if apart_under.max() > apart_over.max():
            first = int(under[apart_under.argmax()])
            last = int(over[over >= first].min())
        else:
            last = int(over[apart_over.argmax()])
            first = int(under[under <= last].max())
        apart = max(apart_under.max(), apart_over.max())
        left = (after - low)[:first].max(initial=0.0)
        right = (high - before)[last + 1 :].max(initial=0.0)
        twice = max(twice, left, right)
        if apart <= twice or (first == 0 and last == len(at) - 1):
            return float(max(apart, twice)) / 2
        at, before, after = (own[first : last + 1] for own in (at, before, after))
    return twice / 2


def dip_p(value: float, n: int, draws: int = 499, seed: int = 0) -> float:
    """How likely a dip of n numbers is as large if they have one mode: the share of ``draws``
    samples from a uniform distribution whose dip is, with the one at hand. Of all distributions
    with one mode, samples of the uniform one have the largest dips."""
    null = _null(n, draws, seed)
    return (1 + int((null >= value - _SLACK).sum())) / (1 + draws)


@cache
def _null(n: int, draws: int, seed: int) -> Float[np.ndarray, " draws"]:
    drawn = np.random.default_rng(seed).random((draws, n))
    return np.array([dip(own) for own in drawn])


def _corners(
    at: Float[np.ndarray, " n"], heights: Float[np.ndarray, " n"], sign: int
) -> Int[np.ndarray, " corners"]:
    """Where the greatest convex minorant (sign 1), or the least concave majorant (−1), touches."""
    x, y = at.tolist(), (sign * heights).tolist()
    held: list[int] = []
    for i in range(len(x)):
        while len(held) > 1:
            a, b = held[-2:]
            if (y[b] - y[a]) * (x[i] - x[a]) < (y[i] - y[a]) * (x[b] - x[a]):
                break
            held.pop()
        held.append(i)
    return np.array(held)
