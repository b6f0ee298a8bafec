"""A circuit with all that its runs without some edges need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import chain, islice
from typing import TypeAlias

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
from circuitkit.evaluation.masks import CircuitLike, as_mask
from circuitkit.graph import circuit as circuits
from circuitkit.graph.nodes import edge_name
from circuitkit.graph.types import Graph, Mask
from circuitkit.registry import name_of

__all__ = ["Knockouts", "Edge", "knockouts_of", "drawn_sets", "without"]

Edge: TypeAlias = tuple[int, int]
TOGETHER = 256  # masks that are held, and share the carried run


@dataclass(frozen=True)
class Knockouts:
    """A circuit with all that a run of it needs."""

    model: Model
    keep: Mask
    data: Dataset
    metric: Metric
    corruption: Corruption

    @cached_property
    def edges(self) -> list[Edge]:
        """Row and column of every edge of the circuit."""
        return [(int(row), int(column)) for row, column in np.argwhere(self.keep)]

    @cached_property
    def graph(self) -> Graph:
        """The circuit as a graph."""
        return circuits.build(self.model.wiring, {self.ends(edge): 0.0 for edge in self.edges})

    def through(self, edge: Edge) -> set[Edge]:
        """The circuit's edges that lie on a path through this one."""
        writer, reader = self.ends(edge)
        before = {writer} | nx.ancestors(self.graph, writer)
        after = {reader} | nx.descendants(self.graph, reader)
        ends = ((other, *self.ends(other)) for other in self.edges)
        return {e for e, source, target in ends if e == edge or target in before or source in after}

    def ends(self, edge: Edge) -> tuple[str, str]:
        """Writer and reader."""
        return self.model.wiring.writers[edge[0]], self.model.wiring.readers[edge[1]]

    def names(self, edges: Iterable[Edge]) -> tuple[str, ...]:
        """The edges as they are written."""
        return tuple(edge_name(*self.ends(edge)) for edge in edges)

    def measure(
        self, masks: Iterable[Mask]
    ) -> tuple[Evaluation, Float[np.ndarray, "masks examples"]]:
        """The circuit's own evaluation, and the metric under each mask; masks that differ in dead
        ends alone are run once. They are taken as they are needed, and never all held."""
        places: dict[bytes, int] = {}
        order: list[int] = []

        def unseen() -> Iterator[Mask]:
            for mask in chain([self.keep], masks):
                alive = self.model.wiring.alive(mask)
                key = sha256(alive.tobytes()).digest()
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
    keep = as_mask(circuit, model.wiring) & model.wiring.legal
    if not keep.any():
        raise CircuitError("the circuit has no edges, so there are none to cut; give at least one")
    inputs = prepare(model, data, metric, corruption, circuit=circuit)
    return Knockouts(model, keep, *inputs[1:])


def without(mask: Mask, edges: Iterable[Edge]) -> Mask:
    """The mask with these edges cut."""
    cut = mask.copy()
    for edge in edges:
        cut[edge] = False
    return cut


def drawn_sets(
    edges: Sequence[Edge], n: int, sizes: Sequence[int] | None, rng: np.random.Generator
) -> list[list[Edge]]:
    """n random sets of edges, of random ones of these sizes (None: of any size)."""
    sizes = sizes or range(1, len(edges) + 1)
    if wrong := [size for size in sizes if not 0 < size <= len(edges)]:
        raise CircuitError(
            f"no set of {wrong[0]} edges can be cut in a circuit of {len(edges)}; "
            f"give sizes from 1 to {len(edges)}"
        )
    drawn = [rng.permutation(len(edges))[: rng.choice(sizes)] for _ in range(n)]
    return [[edges[i] for i in sorted(chosen)] for chosen in drawn]
