"""Random circuits between places that hang together, to compare one with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

from circuitkit.errors import CircuitError
from circuitkit.graph.places import PlacedMask, Places

__all__ = ["drawn_places", "inflated_places"]

PATIENCE = 100  # walks that are too long, or cross too often
LOOKS = 100  # walks from another span that count as one that is too long
TRIES = 8  # for the sizes that are asked for


def drawn_places(
    places: Places,
    residual: int,
    attention: int,
    n: int,
    seed: int,
    sources: Bool[np.ndarray, " spans"] | None = None,
) -> list[PlacedMask]:
    """n random circuits with so many edges of the residual stream and of attention, all of them
    alive: random walks from the logits down to the embedding, filled up with single edges that fit.
    Where there are too few of these, a circuit has fewer. ``sources`` are the spans in which walks
    begin (None: all): where the clean and the carried embedding are the same, nothing is carried.

    Raises CircuitError for a circuit of no edges of the residual stream.
    """
    if residual < 1:
        raise CircuitError("a random circuit needs at least one edge; ask for more")
    rng = np.random.default_rng(seed)
    begin = np.ones(len(places.spans), bool) if sources is None else sources
    return [_one(places, (residual, attention), begin, rng) for _ in range(n)]


def inflated_places(
    keep: PlacedMask, n: int, seed: int, sources: Bool[np.ndarray, " spans"] | None = None
) -> list[tuple[PlacedMask, PlacedMask]]:
    """n times the circuit with a random path from the embedding (in one of the ``sources``) to the
    logits, and the same without one of the path's new edges, of whichever kind, drawn evenly; none
    where the circuit has the edges of every such path.

    Source: the inflated circuits of Shi et al. (2024).
    """
    rng, places = np.random.default_rng(seed), keep.places
    begin = np.ones(len(places.spans), bool) if sources is None else sources
    walks = _Growing(places, (0, 0), begin, rng)
    found: list[tuple[PlacedMask, PlacedMask]] = []
    for _ in range(n):
        new: list[tuple[int, ...]] = []
        for _ in range(PATIENCE * LOOKS):
            path = [*walks.walk()]
            if begin[path[-1][-1]]:
                new = [edge for edge in path if not _table(keep, edge)[edge]]
            if new:
                break
        else:
            return []
        larger = PlacedMask(places, keep.residual.copy(), keep.attention.copy())
        for edge in new:
            _table(larger, edge)[edge] = True
        smaller = PlacedMask(places, larger.residual.copy(), larger.attention.copy())
        cut = new[int(rng.integers(len(new)))]
        _table(smaller, cut)[cut] = False
        found.append((larger, smaller))
    return found


def _table(mask: PlacedMask, edge: tuple[int, ...]) -> np.ndarray:
    """The table that an edge is in."""
    found: np.ndarray = mask.residual if len(edge) == 3 else mask.attention
    return found


def _one(
    places: Places,
    budget: tuple[int, int],
    sources: Bool[np.ndarray, " spans"],
    rng: np.random.Generator,
) -> PlacedMask:
    """The first that has the sizes; of some that have not, the largest."""
    tries = []
    for _ in range(TRIES):
        tries.append(_Growing(places, budget, sources, rng).grown())
        if tries[-1].counts() == budget:
            break
    return max(tries, key=lambda mask: sum(mask.counts()))


class _Growing:
    """A circuit that grows by random walks, within both budgets."""

    def __init__(
        self,
        places: Places,
        budget: tuple[int, int],
        sources: Bool[np.ndarray, " spans"],
        rng: np.random.Generator,
    ) -> None:
        self.places, self.budget, self.sources, self.rng = places, budget, sources, rng
        self.residual = np.zeros(places.legal.residual.shape, bool)
        self.attention = np.zeros(places.legal.attention.shape, bool)
        self.head = {int(row): number for number, row in enumerate(places.heads)}

    def grown(self) -> PlacedMask:
        """The circuit."""
        patience, kept = float(PATIENCE), (0, 0)  # counted here, for the tables are large
        while patience > 0 and kept[0] < self.budget[0]:
            path = [*self.walk()]
            if not self.sources[path[-1][-1]]:
                patience -= 1 / LOOKS
                continue
            residual = {at for at in path if len(at) == 3 and not self.residual[at]}
            crossed = {at for at in path if len(at) == 4 and not self.attention[at]}
            more = kept[0] + len(residual), kept[1] + len(crossed)
            if more[0] > self.budget[0] or more[1] > self.budget[1]:
                patience -= 1
                continue
            kept = more
            for edge in residual:
                self.residual[edge] = True
            for cross in crossed:
                self.attention[cross] = True
        self._fill()
        return PlacedMask(self.places, self.residual, self.attention)

    def walk(self) -> Iterator[tuple[int, ...]]:
        """The edges of a path, each writer drawn evenly from those upstream, and at a head its
        query, or its key or value at a span that it sees."""
        wiring, rng = self.places.wiring, self.rng
        column, span = wiring.shape[1] - 1, int(rng.choice(np.flatnonzero(self.places.answers)))
        while True:
            row = int(rng.integers(wiring.upstream[column]))
            yield row, column, span
            if row == 0:
                return
            feeds = wiring.feeds(row)
            port = int(rng.integers(len(feeds)))
            column = feeds[port]
            if row in self.head and port:
                source = int(rng.choice(np.flatnonzero(self.places.sees[:, span])))
                yield self.head[row], port - 1, source, span
                span = source

    def _fill(self) -> None:
        """Add single edges that fit, the ones of the residual stream first."""
        live, heard = self._reached()
        fits = live[:, None] & heard[None] & self.places.legal.residual & ~self.residual
        self._some(self.residual, fits, self.budget[0])
        live, heard = self._reached()
        given: np.ndarray = np.any(self.residual, axis=0)  # which ports hear anything
        heads = live[self.places.heads]
        fits = given[self.places.ports][..., None] & heads[:, None, None]
        self._some(self.attention, fits & self.places.legal.attention & ~self.attention,
                   self.budget[1])  # fmt: skip

    def _reached(
        self,
    ) -> tuple[Bool[np.ndarray, "writers spans"], Bool[np.ndarray, "readers spans"]]:
        """Which writers are in the circuit at which spans, and which readers feed one of them."""
        mask = PlacedMask(self.places, self.residual, self.attention)
        _, live = self.places.alive_and_live(mask)
        live[0] = True
        heard: np.ndarray = np.any(self.residual, axis=0)
        heard[-1] = self.places.answers
        return live, heard

    def _some(self, table: np.ndarray, fits: np.ndarray, budget: int) -> None:
        """Add random ones of those that fit, up to the budget."""
        left = max(0, budget - int(table.sum()))
        chosen: Int[np.ndarray, " edges"] = self.rng.permutation(np.flatnonzero(fits))[:left]
        table.reshape(-1)[chosen] = True
