"""The space that a circuit is in: all edges of its model, plain or between places of the prompt.

Whatever cuts, adds or draws edges asks the space, and so takes circuits of both kinds. Between
places random circuits have as many edges of the residual stream and as many of attention, and begin
in the spans in which the circuit begins: where the clean and the carried embedding are the same, a
circuit carries nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from jaxtyping import Shaped

from circuitkit.engine.model import Model
from circuitkit.errors import CircuitError
from circuitkit.graph import circuit as circuits
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.nodes import Node, edge_name
from circuitkit.graph.placed_walks import drawn_places, inflated_places
from circuitkit.graph.places import AnyMask, PlacedMask, Places
from circuitkit.graph.types import Mask
from circuitkit.graph.walks import drawn_masks, inflated, inside
from circuitkit.graph.wiring import Wiring

__all__ = ["Index", "Placed", "Plain", "Space", "joint_norms", "space_of"]

Index: TypeAlias = tuple[int, ...]  # where an edge is in a mask


class Space(ABC):
    """All edges of the model beside those that a circuit keeps.

    ``flat`` and ``mask`` go from a mask to one value for each edge of the space, and back.
    """

    keep: AnyMask

    @property
    @abstractmethod
    def total(self) -> int:
        """How many edges there are."""

    @abstractmethod
    def flat(self, mask: AnyMask) -> Shaped[np.ndarray, " edges"]:
        """The values of all edges in a mask."""

    @abstractmethod
    def mask(self, values: Shaped[np.ndarray, " edges"]) -> AnyMask:
        """The mask that has these values."""

    @abstractmethod
    def alive(self, mask: AnyMask) -> AnyMask:
        """The mask without dead ends."""

    @abstractmethod
    def inside(self, mask: AnyMask) -> AnyMask:
        """The edges that would be alive in a circuit without dead ends, its own included."""

    @abstractmethod
    def edges(self, mask: AnyMask) -> list[Index]:
        """Where the edges of a mask are."""

    @abstractmethod
    def without(self, mask: AnyMask, edges: Iterable[Index]) -> AnyMask:
        """The mask with these edges cut."""

    @abstractmethod
    def ends(self, edge: Index) -> tuple[Node, Node]:
        """The writer and the reader of an edge."""

    @abstractmethod
    def circuit(self, edges: Iterable[Index]) -> Circuit:
        """The circuit of these edges, whose weights say nothing."""

    @abstractmethod
    def drawn(self, n: int, seed: int) -> Sequence[AnyMask]:
        """n random circuits of its size."""

    @abstractmethod
    def inflated(self, n: int, seed: int) -> Sequence[tuple[AnyMask, AnyMask]]:
        """n times it with a random path, and the same without one of the path's new edges."""

    @cached_property
    def whole(self) -> AnyMask:
        """All edges."""
        return self.mask(np.ones(self.total, bool))

    @property
    def others(self) -> int:
        """How many edges are not kept."""
        return int((~self.flat(self.keep)).sum())

    def beside(self, edges: int, n: int, seed: int) -> list[AnyMask]:
        """n masks that keep the circuit, and so many random ones of all other edges."""
        rng, keep = np.random.default_rng(seed), self.flat(self.keep)
        found = []
        for _ in range(n):
            values = keep.copy()
            values[rng.permutation(np.flatnonzero(~keep))[:edges]] = True
            found.append(self.mask(values))
        return found

    def some(self, most: int | None, seed: int) -> list[Index]:
        """Where its edges are in the mask, or so many of them that are drawn evenly."""
        edges = self.edges(self.keep)
        if most is None or most >= len(edges):
            return edges
        chosen = np.sort(np.random.default_rng(seed).permutation(len(edges))[:most])
        return [edges[i] for i in chosen]

    def without_each(self, edges: Iterable[Index]) -> Iterator[AnyMask]:
        """It without each of these edges."""
        for edge in edges:
            yield self.without(self.keep, [edge])

    def names(self, edges: Iterable[Index]) -> list[str]:
        """What these edges are called."""
        return [edge_name(*self.ends(edge)) for edge in edges]


@dataclass(frozen=True, eq=False)
class Plain(Space):
    """That of a plain circuit."""

    wiring: Wiring
    keep: Mask

    @property
    def total(self) -> int:
        """How many edges the model has."""
        return self.wiring.n_edges

    def flat(self, mask: AnyMask) -> Shaped[np.ndarray, " edges"]:
        """The values of all edges, writer by writer."""
        return np.asarray(_plain(mask)[self.wiring.legal])

    def mask(self, values: Shaped[np.ndarray, " edges"]) -> Mask:
        """The mask that has these values."""
        found = np.zeros(self.wiring.shape, values.dtype)
        found[self.wiring.legal] = values
        return found

    def alive(self, mask: AnyMask) -> Mask:
        """The mask without dead ends."""
        return self.wiring.alive(_plain(mask))

    def inside(self, mask: AnyMask) -> Mask:
        """The edges from a writer that the circuit has to a reader that is used."""
        return inside(self.wiring, _plain(mask))

    def edges(self, mask: AnyMask) -> list[Index]:
        """Row and column of every edge of a mask."""
        return [(int(row), int(column)) for row, column in np.argwhere(_plain(mask))]

    def without(self, mask: AnyMask, edges: Iterable[Index]) -> Mask:
        """The mask with these edges cut."""
        return _cut(_plain(mask), edges)

    def ends(self, edge: Index) -> tuple[Node, Node]:
        """Writer and reader."""
        return self.wiring.writers[edge[0]], self.wiring.readers[edge[1]]

    def circuit(self, edges: Iterable[Index]) -> Circuit:
        """The circuit of these edges."""
        return circuits.build(self.wiring, {self.ends(edge): 1.0 for edge in edges})

    def drawn(self, n: int, seed: int) -> list[Mask]:
        """n random circuits of its size."""
        return drawn_masks(self.wiring, int(self.keep.sum()), n, seed)

    def inflated(self, n: int, seed: int) -> list[tuple[Mask, Mask]]:
        """n times it with a random path, and the same without one of the path's new edges."""
        return inflated(self.wiring, self.keep, n, seed)


@dataclass(frozen=True, eq=False)
class Placed(Space):
    """That of a circuit between places. ``joint`` is as in ``Places.alive``."""

    keep: PlacedMask
    joint: bool = False

    @property
    def places(self) -> Places:
        """Where its edges may be."""
        return self.keep.places

    @property
    def total(self) -> int:
        """How many edges there are between the places."""
        return sum(self.places.n_edges)

    def flat(self, mask: AnyMask) -> Shaped[np.ndarray, " edges"]:
        """The values of all edges: those of the residual stream, then those of attention."""
        own, legal = self._own(mask), self.places.legal
        tables = np.asarray(own.residual), np.asarray(own.attention)
        return np.concatenate([tables[0][legal.residual], tables[1][legal.attention]])

    def mask(self, values: Shaped[np.ndarray, " edges"]) -> PlacedMask:
        """The mask that has these values."""
        legal, residual = self.places.legal, self.places.n_edges[0]
        tables = [
            np.zeros(table.shape, values.dtype) for table in (legal.residual, legal.attention)
        ]
        tables[0][legal.residual] = values[:residual]
        tables[1][legal.attention] = values[residual:]
        return PlacedMask(self.places, *tables)

    def alive(self, mask: AnyMask) -> PlacedMask:
        """The mask without dead ends."""
        return self.places.alive(self._own(mask), joint=self.joint)

    def inside(self, mask: AnyMask) -> PlacedMask:
        """The edges from what the circuit computes to what is heard in it."""
        return self.places.inside(self._own(mask), joint=self.joint)

    def edges(self, mask: AnyMask) -> list[Index]:
        """Where the edges of a mask are in its tables, those of the residual stream first."""
        return [*self._own(mask).edges()]

    def without(self, mask: AnyMask, edges: Iterable[Index]) -> PlacedMask:
        """The mask with these edges cut."""
        own, cut = self._own(mask), [*edges]
        return PlacedMask(
            self.places,
            _cut(own.residual, (edge for edge in cut if len(edge) == 3)),
            _cut(own.attention, (edge for edge in cut if len(edge) == 4)),
        )

    def ends(self, edge: Index) -> tuple[Node, Node]:
        """The two nodes, at their spans."""
        return self.places.edge(edge)  # type: ignore[arg-type]

    def circuit(self, edges: Iterable[Index]) -> Circuit:
        """The circuit of these edges."""
        return circuits.build_placed(self.places, {self.ends(edge): 1.0 for edge in edges})

    def drawn(self, n: int, seed: int) -> list[PlacedMask]:
        """n random circuits of its size."""
        return drawn_places(self.places, *self.keep.counts(), n, seed, self.keep.begins())

    def inflated(self, n: int, seed: int) -> list[tuple[PlacedMask, PlacedMask]]:
        """n times it with a random path, and the same without one of the path's new edges."""
        return inflated_places(self.keep, n, seed, self.keep.begins())

    def _own(self, mask: AnyMask) -> PlacedMask:
        if not isinstance(mask, PlacedMask) or mask.places != self.places:
            raise CircuitError("the mask is not over the edges between these places; give one")
        return mask


def space_of(keep: AnyMask, model: Model) -> Space:
    """The space that a circuit of the model is in."""
    if isinstance(keep, PlacedMask):
        return Placed(keep, joint_norms(model))
    return Plain(model.wiring, keep)


def joint_norms(model: Model) -> bool:
    """Whether a norm lies over all heads of a layer (see ``Places.alive``)."""
    return any(model.kinds[stage.kind].joint(model) for stage in model.wiring.stages)


def _plain(mask: AnyMask) -> Mask:
    if isinstance(mask, PlacedMask):
        raise CircuitError("the mask is over edges between places; give mask.collapse()")
    return np.asarray(mask)


def _cut(table: np.ndarray, edges: Iterable[Index]) -> np.ndarray:
    cut = np.array(table)
    for edge in edges:
        cut[edge] = False
    return cut
