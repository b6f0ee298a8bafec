"""What random circuits of given sizes share: the edges of circuits that hang together are not drawn
evenly, so that they share more than random sets of edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from circuitkit.graph.placed_walks import drawn_places
from circuitkit.graph.places import PlacedMask
from circuitkit.graph.walks import drawn_masks
from circuitkit.graph.wiring import Wiring
from circuitkit.util.statistics import percentile_interval

__all__ = ["Chance", "chance", "chance_between"]

DRAWS = 200  # circuits of each size, at least
FEW = 40  # the same between places, where they take longer to draw
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
    pools = {
        size: [np.flatnonzero(mask) for mask in _pool(wiring, size, [*sizes].count(size), seed)]
        for size in dict.fromkeys(sizes)
    }
    return _put_together([pools[size] for size in sizes], seed)


def chance_between(circuits: Sequence[PlacedMask], seed: int = 0) -> Chance:
    """What random circuits between places share, with as many edges of both kinds as each of these,
    that begin in the spans in which it begins."""
    kinds = [(*mask.counts(), np.array(mask.begins()).tobytes()) for mask in circuits]
    pools: dict[object, list[Places]] = {}
    for number, (kind, mask) in enumerate(zip(kinds, circuits, strict=True)):
        if kind not in pools:
            n = max(FEW, 2 * kinds.count(kind))
            drawn = drawn_places(
                mask.places, *mask.counts(), n, seed * 1_000_003 + number, mask.begins()
            )
            pools[kind] = [np.flatnonzero(_flat(one)) for one in drawn]
    return _put_together([pools[kind] for kind in kinds], seed)


def _flat(mask: PlacedMask) -> np.ndarray:
    return np.concatenate([np.ravel(mask.residual), np.ravel(mask.attention)])


def _put_together(pools: Sequence[Sequence[Places]], seed: int) -> Chance:
    """What circuits share of which each is from a pool; two of one pool are not the same one."""
    rng = np.random.default_rng(seed)
    whose = {id(pool): pool for pool in pools}
    orders = {own: [*range(len(pool))] for own, pool in whose.items()}
    drawn = []
    for _ in range(TIMES):
        turns = {own: iter(rng.permutation(order)) for own, order in orders.items()}
        drawn.append(shared([pool[next(turns[id(pool)])] for pool in pools]))
    held = {own: _counts(pool) for own, pool in whose.items()}
    each = [[_between(held[id(one)], len(one), held[id(other)], len(other), one is other)
             for other in pools] for one in pools]  # fmt: skip
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
