"""What a circuit is tested beside: its parts and random circuits, plain or between places.

Between places random circuits have as many edges of the residual stream and as many of attention,
and begin in the spans in which the circuit begins: where the clean and the carried embedding are
the same, a circuit carries nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int

from circuitkit.graph.nodes import edge_name
from circuitkit.graph.placed_walks import drawn_places, inflated_places
from circuitkit.graph.places import AnyMask, PlacedMask, Places, edges_of
from circuitkit.graph.types import Mask
from circuitkit.graph.walks import drawn_masks, inflated
from circuitkit.graph.wiring import Wiring

__all__ = ["Plain", "Placed", "Space", "space_of"]

Indices: TypeAlias = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Plain:
    """Those of a plain circuit."""

    wiring: Wiring
    keep: Mask

    @property
    def total(self) -> int:
        """How many edges the model has."""
        return self.wiring.n_edges

    def drawn(self, n: int, seed: int) -> list[Mask]:
        """n random circuits of its size."""
        return drawn_masks(self.wiring, edges_of(self.keep), n, seed)

    def inflated(self, n: int, seed: int) -> list[tuple[Mask, Mask]]:
        """n times it with a random path, and the same without one of the path's new edges."""
        return inflated(self.wiring, self.keep, n, seed)

    def some(self, most: int | None, seed: int) -> Indices:
        """Where its edges are in the mask, or so many of them that are drawn evenly."""
        return _some(np.argwhere(self.keep), most, seed)

    def without_each(self, edges: Indices) -> Iterator[Mask]:
        """It without each of these edges."""
        for edge in edges:
            yield _without(self.keep, edge)

    def names(self, edges: Indices) -> list[str]:
        """What these edges are called."""
        writers, readers = self.wiring.writers, self.wiring.readers
        return [edge_name(writers[row], readers[column]) for row, column in edges]


@dataclass(frozen=True)
class Placed:
    """Those of a circuit between places."""

    keep: PlacedMask

    @property
    def places(self) -> Places:
        """Where its edges may be."""
        return self.keep.places

    @property
    def total(self) -> int:
        """How many edges there are between the places."""
        return sum(self.places.n_edges)

    def drawn(self, n: int, seed: int) -> list[PlacedMask]:
        """n random circuits of its size."""
        return drawn_places(self.places, *self.keep.counts(), n, seed, self.keep.begins())

    def inflated(self, n: int, seed: int) -> list[tuple[PlacedMask, PlacedMask]]:
        """n times it with a random path, and the same without one of the path's new edges."""
        return inflated_places(self.keep, n, seed, self.keep.begins())

    def some(self, most: int | None, seed: int) -> Indices:
        """Where its edges are in the tables, or so many of them that are drawn evenly."""
        return _some(self.keep.edges(), most, seed)

    def without_each(self, edges: Indices) -> Iterator[PlacedMask]:
        """It without each of these edges."""
        residual, attention = self.keep.residual, self.keep.attention
        for edge in edges:
            if len(edge) == 3:
                yield PlacedMask(self.places, _without(residual, edge), attention)
            else:
                yield PlacedMask(self.places, residual, _without(attention, edge))

    def names(self, edges: Indices) -> list[str]:
        """What these edges are called."""
        return [edge_name(*self.places.edge(edge)) for edge in edges]  # type: ignore[arg-type]


Space: TypeAlias = Plain | Placed


def space_of(keep: AnyMask, wiring: Wiring) -> Space:
    """What a circuit of the model is tested beside."""
    return Placed(keep) if isinstance(keep, PlacedMask) else Plain(wiring, keep)


def _some(edges: Indices | Int[np.ndarray, "edges axes"], most: int | None, seed: int) -> Indices:
    chosen: Iterable[Any] = range(len(edges))
    if most is not None and most < len(edges):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(edges))[:most])
    return [tuple(map(int, edges[i])) for i in chosen]


def _without(table: np.ndarray, edge: tuple[int, ...]) -> np.ndarray:
    cut = table.copy()
    cut[edge] = False
    return cut
