"""Edge patching: the exact effect of single edges, each alone, on every example."""

from __future__ import annotations

import os

import numpy as np
from jaxtyping import Float

from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.engine.edges import edge_effects
from circuitkit.engine.metric import Corruption, Metric
from circuitkit.engine.model import Model
from circuitkit.graph.edges import Edges

__all__ = ["patch_edges"]


def patch_edges(
    model: Model,
    data: Dataset,
    metric: Metric,
    edges: Edges,
    corruption: Corruption = counterfactual,
    *,
    direction: str = "noise",
    resume: str | os.PathLike[str] | None = None,
) -> Float[np.ndarray, "edges examples"]:
    """The exact effect of each edge alone on every example, in metric units; positive where the
    edge helps.

    ``noise``: what the metric loses when the edge alone carries the corruption in a clean run;
    ``denoise``: what it gains when the edge alone carries its clean value in the corrupted run
    (Heimersheim & Nanda 2024); the mean over the corruption's draws. ``edges``: a circuit, edge
    names (``"a0.h1->a5.h5<q>"``) or pairs of writer and reader, in their order; a mask over the
    wiring, or None for all edges, row by row. Costs about a sixth of a plain forward per edge.

    ``resume`` is a directory for finished blocks, which a later run of the same work takes up.
    Raises CircuitError for an edge or a direction that there is not, NodeNameError for what is no
    edge's name, and OutputError where the blocks cannot be written or are another model's.
    """
    return edge_effects(model, data, metric, edges, corruption, direction=direction, resume=resume)
