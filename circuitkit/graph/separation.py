"""Whether two choices find other things than one choice finds on other samples of the prompts.

What is found changes with the prompts. Two choices differ in what they find only where their finds
are less alike than those of one choice are, from one sample to the next.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from math import comb, nan

import numpy as np
from jaxtyping import Bool, Float

from circuitkit.errors import CircuitError
from circuitkit.util.json_values import Json, nan_to_none

__all__ = ["BEYOND", "Separation", "alike", "jaccard", "separation", "smallest_p", "within"]

BEYOND = 0.05  # the p below which a difference is said to be beyond resampling
MOST = 10  # samples of which all partitions are tried
_SLACK = 1e-9  # of statistics that differ by rounding


@dataclass(frozen=True)
class Separation:
    """How alike the finds of two choices are, beside those of one choice on other samples.

    ``left`` and ``right`` are the mean Jaccard index of a choice's finds on two samples (the noise
    floor of each choice), ``between`` that of the two choices' finds, also on two samples; ``p`` is
    the permutation p of the hypothesis that the choice makes no difference, and ``samples`` how
    many there are. With fewer than two all are nan, not known.
    """

    left: float
    right: float
    between: float
    p: float
    samples: int

    @property
    def within(self) -> float:
        """The mean Jaccard index of one choice's finds on two samples, over both choices."""
        return (self.left + self.right) / 2

    @property
    def least(self) -> float:
        """The smallest p that so many samples can give."""
        return smallest_p(self.samples)

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is not known is None."""
        numbers = {"left": self.left, "right": self.right, "between": self.between, "p": self.p}
        return {**{name: nan_to_none(value) for name, value in numbers.items()},
                "samples": self.samples}  # fmt: skip


def separation(
    left: Sequence[Collection[Hashable]], right: Sequence[Collection[Hashable]]
) -> Separation:
    """Whether two choices find different sets, beyond what other samples of the prompts change.

    ``left`` and ``right`` are what the two choices find on the same disjoint samples, in order. The
    statistic is the mean Jaccard index within the choices less that between them. Finds on one
    sample are not compared with each other, so that both means contain the noise of two samples. p
    is the share of all partitions of the finds into two equal groups, with the one at hand, whose
    statistic is at least as large; of 5 samples there are 126, so that it is at least 1/126. It is
    conservative where both choices find much the same on a sample.

    Raises CircuitError where one choice has other samples than the other, or there are more than
    ten.

    Example:
        >>> from circuitkit.graph.separation import separation
        >>> found = separation([{"a", "b"}] * 5, [{"a", "c"}] * 5)
        >>> found.within, round(found.between, 2), round(found.p, 4)
        (1.0, 0.33, 0.0079)
    """
    samples = len(left)
    if samples != len(right) or samples > MOST:
        raise CircuitError(
            f"{samples} and {len(right)} samples are compared; give the finds of both choices on "
            f"the same samples, at most {MOST}"
        )
    if samples < 2:
        return Separation(nan, nan, nan, nan, samples)
    own, other = _means(_table([*left, *right]), _partitions(samples))
    share = np.mean(own - other >= own[0] - other[0] - _SLACK)
    return Separation(within(left), within(right), float(other[0]), float(share), samples)


def within(found: Sequence[Collection[Hashable]]) -> float:
    """The mean Jaccard index of every two of the sets; nan, not known, for fewer than two."""
    pairs = [jaccard(one, other) for one, other in combinations(found, 2)]
    return float(np.mean(pairs)) if pairs else nan


def alike(left: Sequence[Collection[Hashable]], right: Sequence[Collection[Hashable]]) -> float:
    """The mean Jaccard index of the sets of two choices on different samples, which are given in
    order; of a single sample, on that."""
    pairs = [
        jaccard(one, other)
        for (i, one), (j, other) in product(enumerate(left), enumerate(right))
        if i != j or len(left) == 1
    ]
    return float(np.mean(pairs))


def jaccard(one: Collection[Hashable], other: Collection[Hashable]) -> float:
    """Shared of united; 1 for two empty sets."""
    a, b = set(one), set(other)
    return len(a & b) / len(a | b) if a or b else 1.0


def smallest_p(samples: int) -> float:
    """The p below which no separation of so many samples can be: one over the number of partitions
    of twice as many finds into two equal groups."""
    return 2 / comb(2 * samples, samples) if samples > 1 else nan


# -- all partitions --------------------------------------------------------------------------------
def _table(found: Sequence[Collection[Hashable]]) -> Float[np.ndarray, "finds finds"]:
    sets = [set(own) for own in found]
    return np.array([[jaccard(one, other) for other in sets] for one in sets])


@cache
def _partitions(samples: int) -> Bool[np.ndarray, "partitions finds"]:
    """Every partition of twice as many finds into two equal groups, the two choices first."""
    rest = combinations(range(1, 2 * samples), samples - 1)  # the first find is in the first group
    table = np.zeros((comb(2 * samples - 1, samples - 1), 2 * samples), dtype=bool)
    table[:, 0] = True
    for row, others in zip(table, rest, strict=True):
        row[list(others)] = True
    return table


def _means(
    indices: Float[np.ndarray, "finds finds"], groups: Bool[np.ndarray, "partitions finds"]
) -> tuple[Float[np.ndarray, " partitions"], Float[np.ndarray, " partitions"]]:
    """Of every partition the mean index within its groups and between them, of finds on different
    samples."""
    samples = len(indices) // 2
    at = np.arange(2 * samples) % samples
    apart = (at[:, None] != at[None]).astype(float)
    sides = [groups.astype(float), (~groups).astype(float)]

    def mean(pairs: list[tuple[int, int]]) -> Float[np.ndarray, " partitions"]:
        total, number = (
            sum(((sides[i] @ table) * sides[j]).sum(1) for i, j in pairs)
            for table in (indices * apart, apart)
        )
        return np.asarray(total / np.maximum(number, 1))  # of 2 samples one has none

    return mean([(0, 0), (1, 1)]), mean([(0, 1), (1, 0)])
