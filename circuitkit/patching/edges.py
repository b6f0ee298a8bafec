"""Edge patching: the exact effect of single edges, each alone, on every example."""

from __future__ import annotations

import os

from circuitkit.engine.edges import edge_effects
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    MetricLike,
    prepare,
    refuse,
    require_model,
)
from circuitkit.engine.model import Model
from circuitkit.graph.edges import Edges, indices, is_edges
from circuitkit.graph.nodes import edge_name
from circuitkit.patching.effects import Effects
from circuitkit.registry import name_of

__all__ = ["patch_edges"]


def patch_edges(
    model: Model,
    edges: Edges,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    direction: str = "noise",
    resume: str | os.PathLike[str] | None = None,
) -> Effects:
    """The exact effect of each edge alone on every example.

    Returns Effects with one axis, ``edge``: values [edges, examples] in metric units, positive
    where the edge helps, in the mean over the corruption's draws. ``noise``: what the metric loses
    when the edge alone carries the corruption in a clean run; ``denoise``: what it gains when the
    edge alone carries its clean value in the corrupted run (Heimersheim & Nanda 2024, §2).
    ``edges``: a circuit, edge names (``"a0.h1->a5.h5<q>"``) or pairs of writer and reader, in their
    order; a mask over the wiring, or None for all edges, row by row. Costs about a sixth of a plain
    forward per edge. ``resume`` is a directory for finished blocks, from which a later run of the
    same work resumes.

    Raises ArgumentError where something else stands in the place of the edges, CircuitError for an
    edge that the model lacks and another direction, NodeNameError for what is not an edge's name,
    and OutputError where the blocks cannot be written or are another model's.

    Example:
        >>> effects = ck.patch_edges(model, ["m0->logits", "input->m0"], task, "logit_diff")
        >>> effects.shape == (2, len(task))
        True
    """
    require_model(model)
    if not is_edges(edges):
        refuse("edges", edges, "a circuit, names such as ['a0.h1->m2'], a mask, or None for all")
    inputs = prepare(model, data, metric, corruption, circuit=edges)
    values, gap = edge_effects(*inputs[:3], edges, inputs.corruption, direction=direction,
                               resume=resume)  # fmt: skip
    writers, readers = model.wiring.writers, model.wiring.readers
    places = zip(*indices(model.wiring, edges), strict=True)
    names = tuple(edge_name(writers[row], readers[column]) for row, column in places)
    return Effects(
        values, {"edge": names}, gap, "edges", name_of(inputs.metric),
        name_of(inputs.corruption), direction,
    )  # fmt: skip
