"""Edge patching: the exact effect of single edges, each alone, on every example."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias, TypeGuard

import networkx as nx
import numpy as np

from circuitkit.data.batches import Dataset
from circuitkit.data.places import places
from circuitkit.engine.edges import Placed, edge_effects
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    MetricLike,
    prepare,
    refuse,
    require_model,
)
from circuitkit.engine.model import Model
from circuitkit.errors import CircuitError
from circuitkit.graph.circuit import is_placed, places_of
from circuitkit.graph.edges import Edges, indices, is_edges, pairs
from circuitkit.graph.nodes import Node, edge_name
from circuitkit.graph.places import Edge, PlacedMask
from circuitkit.graph.types import Graph
from circuitkit.graph.wiring import Wiring
from circuitkit.patching.effects import Effects
from circuitkit.registry import name_of

__all__ = ["patch_edges"]

NONE = "there are no edges to patch; give at least one, or None for all"
Named: TypeAlias = Graph | Sequence[str | tuple[str, str]]


def patch_edges(
    model: Model,
    edges: Edges | PlacedMask,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    direction: str = "noise",
    resume: str | os.PathLike[str] | None = None,
) -> Effects:
    """The exact effect of each edge alone on every example.

    Costs about a sixth of a plain forward per edge.

    Args:
        model: The model.
        edges: A circuit; names of edges (``"a0.h1->a5.h5<q>"``, ``"0.1->5.5<q>"``) or one; pairs of
            writer and reader; a mask [writers, readers], row by row; or None for all edges. Edges
            between places may be a circuit, names (``"a0.h2@S2->m3@S2"``,
            ``"a7.g1.v@S2->a7.h3@end"``), whose spans are those that the prompts name, or a
            PlacedMask.
        data: A Dataset, a Task, a task's name or a file.
        metric: A function or a name; None for that of the circuit, else the task's own.
        corruption: A function or a name; None for that of the circuit, else ``counterfactual``.
        direction: ``noise``: what the metric loses when the edge alone carries the corruption in a
            clean run; ``denoise``: what it gains when the edge alone carries its clean value in the
            corrupted run.
        resume: A directory for finished blocks, from which a later run of the same work resumes.

    Returns:
        Effects with the axis ``edge``: values [edges, examples] in metric units, positive where the
        edge helps, averaged over the corruption's draws, in the order of ``edges``.

    Raises:
        ArgumentError: if the edges are something else.
        CircuitError: if there are no edges, for an edge that the model lacks and another direction.
        NodeNameError: for what is not an edge's name.
        OutputError: if the blocks cannot be written or are another model's.

    Source: Wang et al. 2023 (arXiv:2211.00593), §3; Heimersheim & Nanda 2024 (arXiv:2404.15255).

    Example:
        >>> effects = ck.patch_edges(model, ["2.2->logits", "input->m0"], task)
        >>> effects.names, effects.direction, effects.shape == (2, len(task))
        (('a2.h2->logits', 'input->m0'), 'noise', True)
        >>> list(effects.to_frame())
        ['name', 'writer', 'reader', 'effect', 'error', 'share']
    """
    require_model(model)
    if not isinstance(edges, PlacedMask) and not is_edges(edges):
        refuse("edges", edges, "a circuit, names such as ['a0.h1->m2'], a mask, or None for all")
    asked: Edges | Placed
    if isinstance(edges, PlacedMask) or _are_placed(edges):
        inputs = prepare(model, data, metric, corruption, circuit=edges)
        asked = _placed(edges, inputs.data, model.wiring)
        ends = [asked.places.edge(edge) for edge in asked.edges]
    else:
        asked, ends = edges, _ends(model.wiring, edges)
        inputs = prepare(model, data, metric, corruption, circuit=edges)
    values, gap = edge_effects(*inputs[:3], asked, inputs.corruption, direction=direction,
                               resume=resume)  # fmt: skip
    names = tuple(edge_name(*pair) for pair in ends)
    return Effects(
        values, {"edge": names}, gap, "edges", name_of(inputs.metric),
        name_of(inputs.corruption), direction,
    )  # fmt: skip


def _ends(wiring: Wiring, edges: Edges) -> list[tuple[Node, Node]]:
    """Writer and reader of each edge; raises CircuitError where there is none."""
    rows, columns = indices(wiring, edges)
    if not len(rows):
        raise CircuitError(NONE)
    return [(wiring.writers[i], wiring.readers[j]) for i, j in zip(rows, columns, strict=True)]


def _are_placed(edges: Edges) -> TypeGuard[Named]:
    """Whether the edges are between places."""
    if is_placed(edges):
        return True
    listed = [edges] if isinstance(edges, str) else edges
    if not isinstance(listed, list | tuple | set | frozenset):
        return False
    return any(
        "@" in name for edge in listed for name in ([edge] if isinstance(edge, str) else edge)
    )


def _placed(edges: Named | PlacedMask, data: Dataset, wiring: Wiring) -> Placed:
    """Edges between places; where they are names alone, between those that the prompts name.
    Raises CircuitError for places of another model, and where there are no edges."""
    if isinstance(edges, PlacedMask):
        where, found = edges.places, _of_mask(edges)
    else:
        where = places_of(edges) if isinstance(edges, nx.DiGraph) else places(data, wiring)
        found = [where.index(*pair) for pair in pairs(edges)]
    if where.wiring != wiring:
        raise CircuitError(
            f"the edges are between places of a model of {where.wiring}, and the model has "
            f"{wiring}; give edges of this model"
        )
    if not found:
        raise CircuitError(NONE)
    return Placed(where, found)


def _of_mask(mask: PlacedMask) -> list[Edge]:
    """The edges that a mask keeps: those of the residual stream, then those of attention."""
    legal = mask.places.legal
    return [
        *((w, r, s) for w, r, s in np.argwhere(mask.residual & legal.residual).tolist()),
        *((h, c, s, e) for h, c, s, e in np.argwhere(mask.attention & legal.attention).tolist()),
    ]
