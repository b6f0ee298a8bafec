"""What random circuits of given sizes share: the edges of circuits that hang together are not drawn
evenly, so that they share more than random sets of edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from circuitkit.graph.walks import drawn_masks
from circuitkit.graph.wiring import Wiring
from circuitkit.util.statistics import percentile_interval

__all__ = ["Chance", "chance"]

DRAWS = 200  # circuits of each size, at least
TIMES = 1000  # that as many circuits as there are, of these sizes, are put together

Places = Int[np.ndarray, " edges"]


@dataclass(frozen=True)
class Chance:
    """How many edges random circuits share, summed over all pairs: in each of many draws; and the
    mean of each pair."""

    drawn: Float[np.ndarray, " draws"]
    pairs: Float[np.ndarray, "circuits circuits"]

    @property
    def mean(self) -> float:
        """The mean number that all pairs share together."""
        return float(self.drawn.mean())

    def interval(self) -> tuple[float, float]:
        """Between which numbers it is in 19 of 20 draws."""
        low, high = percentile_interval(self.drawn)
        return float(low), float(high)


def chance(wiring: Wiring, sizes: Sequence[int], seed: int = 0) -> Chance:
    """What circuits of these sizes share that are drawn as ``random_masks`` draws them."""
    rng = np.random.default_rng(seed)
    pools = {
        size: [np.flatnonzero(mask) for mask in _pool(wiring, size, [*sizes].count(size), seed)]
        for size in dict.fromkeys(sizes)
    }
    orders = {size: [*range(len(pool))] for size, pool in pools.items()}
    drawn = []
    for _ in range(TIMES):
        turns = {size: iter(rng.permutation(order)) for size, order in orders.items()}
        drawn.append(shared([pools[size][next(turns[size])] for size in sizes]))
    held = {size: _counts(pool) for size, pool in pools.items()}
    each = [[_between(held[one], len(pools[one]), held[other], len(pools[other]), one == other)
             for other in sizes] for one in sizes]  # fmt: skip
    return Chance(np.array(drawn, dtype=float), np.array(each))


def shared(placed: Sequence[Places]) -> int:
    """How many edges circuits share, summed over all pairs."""
    held = np.unique_counts(np.concatenate(placed)).counts
    return int((held * (held - 1)).sum() // 2)


def _pool(wiring: Wiring, size: int, number: int, seed: int) -> list[np.ndarray]:
    """Random circuits of one size; those of another size have other seeds."""
    return drawn_masks(wiring, size, max(DRAWS, 2 * number), seed * 1_000_003 + size)


def _counts(pool: Sequence[Places]) -> dict[int, int]:
    """In how many of the circuits each edge is that any of them has."""
    found = np.unique_counts(np.concatenate(pool))
    return dict(zip(found.values.tolist(), found.counts.tolist(), strict=True))


def _between(
    one: dict[int, int], ones: int, other: dict[int, int], others: int, same: bool
) -> float:
    """How many edges a circuit of one pool shares on average with another of the other."""
    both = sum(n * other.get(place, 0) for place, n in one.items())
    if same:  # no circuit with itself
        return (both - sum(one.values())) / (ones * (ones - 1))
    return both / (ones * others)
