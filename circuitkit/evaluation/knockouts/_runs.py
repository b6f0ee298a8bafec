"""A circuit with all that its runs without some edges need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import chain, islice

import networkx as nx
import numpy as np
from jaxtyping import Float

from circuitkit.data.batches import Dataset
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    MetricLike,
    prepare,
    require_model,
)
from circuitkit.engine.metric import Corruption, Metric
from circuitkit.engine.model import Model
from circuitkit.errors import CircuitError
from circuitkit.evaluation.faithfulness import Evaluation, measure_all
from circuitkit.evaluation.masks import CircuitLike, as_any_mask
from circuitkit.evaluation.spaces import Index, Space, space_of
from circuitkit.graph.places import AnyMask, bits_of
from circuitkit.graph.types import Graph
from circuitkit.registry import name_of

__all__ = ["Knockouts", "drawn_sets", "knockouts_of"]

TOGETHER = 256  # masks that are held, and share the carried run


@dataclass(frozen=True)
class Knockouts:
    """A circuit, in the space of its edges, with all that a run of it needs."""

    model: Model
    space: Space
    data: Dataset
    metric: Metric
    corruption: Corruption

    @cached_property
    def edges(self) -> list[Index]:
        """Where every edge of the circuit is in its mask."""
        return self.space.edges(self.space.keep)

    @cached_property
    def graph(self) -> Graph:
        """The circuit as a graph."""
        return self.space.circuit(self.edges)

    def through(self, edge: Index) -> set[Index]:
        """The circuit's edges that lie on a path through this one."""
        writer, reader = self.space.ends(edge)
        before = {writer} | nx.ancestors(self.graph, writer)
        after = {reader} | nx.descendants(self.graph, reader)
        ends = ((other, *self.space.ends(other)) for other in self.edges)
        return {e for e, source, target in ends if e == edge or target in before or source in after}

    def names(self, edges: Iterable[Index]) -> tuple[str, ...]:
        """The edges as they are written."""
        return tuple(self.space.names(edges))

    def measure(
        self, masks: Iterable[AnyMask]
    ) -> tuple[Evaluation, Float[np.ndarray, "masks examples"]]:
        """The circuit's own evaluation, and the metric under each mask; masks that differ in dead
        ends alone are run once. They are taken as they are needed, and never all held."""
        places: dict[bytes, int] = {}
        order: list[int] = []

        def unseen() -> Iterator[AnyMask]:
            for mask in chain([self.space.keep], masks):
                alive = self.space.alive(mask)
                key = sha256(bits_of(alive)).digest()
                fresh = key not in places
                order.append(places.setdefault(key, len(places)))
                if fresh:
                    yield alive

        found: list[Float[np.ndarray, " examples"]] = []
        stream = unseen()
        while block := list(islice(stream, TOGETHER)):
            work = self.model, block, self.data, [self.metric], self.corruption
            (values,) = measure_all(*work)
            everything, nothing = values[:2]
            found += list(values[2:])
        own, *rest = [found[place] for place in order]
        names = name_of(self.metric), name_of(self.corruption)
        evaluation = Evaluation(everything, nothing, own, *names, edges=len(self.edges))
        return evaluation, np.stack(rest) if rest else np.empty((0, len(own)))


def knockouts_of(
    model: Model,
    circuit: CircuitLike,
    data: Data,
    metric: MetricLike | None,
    corruption: CorruptionLike | None,
) -> Knockouts:
    """The circuit with its inputs; raises CircuitError where it has no edge, or is not of this
    model."""
    require_model(model)
    space = space_of(as_any_mask(circuit, model.wiring), model)
    if not space.flat(space.keep).any():
        raise CircuitError("the circuit has no edges, so there are none to cut; give at least one")
    inputs = prepare(model, data, metric, corruption, circuit=circuit)
    return Knockouts(model, space, *inputs[1:])


def drawn_sets(
    edges: Sequence[Index], n: int, sizes: Sequence[int] | None, rng: np.random.Generator
) -> list[list[Index]]:
    """n random sets of edges, of random ones of these sizes (None: of any size)."""
    sizes = sizes or range(1, len(edges) + 1)
    if wrong := [size for size in sizes if not 0 < size <= len(edges)]:
        raise CircuitError(
            f"no set of {wrong[0]} edges can be cut in a circuit of {len(edges)}; "
            f"give sizes from 1 to {len(edges)}"
        )
    drawn = [rng.permutation(len(edges))[: rng.choice(sizes)] for _ in range(n)]
    return [[edges[i] for i in sorted(chosen)] for chosen in drawn]
