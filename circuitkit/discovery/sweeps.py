"""Exact edge patching as a method: the truth that attribution estimates, one edge at a time."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

import numpy as np

from circuitkit.engine.edges import edge_effects
from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare, require_model
from circuitkit.engine.model import Model
from circuitkit.engine.tally import Groups, Tally, is_groups
from circuitkit.graph.edges import Edges, indices, is_edges
from circuitkit.graph.scores import Scores
from circuitkit.util.options import Form, checked

__all__ = ["exact"]


@checked
def exact(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    direction: Literal["noise", "denoise"] = "noise",
    edges: Annotated[
        Edges, Form("a circuit, names such as ['a0.h1->m2'], a mask, or None for all", is_edges)
    ] = None,
    resume: str | os.PathLike[str] | None = None,
    groups: Annotated[
        Groups, Form("'examples', counts of shape [groups, examples], or None", is_groups)
    ] = None,
) -> Scores:
    """The exact effect of each edge alone, by patching it: what attribution estimates.

    ``noise``: what the metric loses when the edge alone carries the corruption in a clean run;
    ``denoise``: what it gains when the edge alone carries its clean value in the corrupted run
    (Heimersheim & Nanda 2024). Costs about a sixth of a plain forward per edge. ``edges`` (all, or
    those of a circuit, of names or of a mask) are scored, the rest are 0; ``resume`` is a
    directory, with which a run resumes after a kill.

    Returns Scores [writers, readers], in metric units per example, positive where the edge helps
    the clean behaviour; they carry the direction. ``groups`` is as in ``eap``. Raises ArgumentError
    for what stands in the wrong place and for an unknown direction, CircuitError for an edge that
    does not exist, and OutputError where the directory cannot be used.

    Differs from other tools: with grouped queries an edge into k or v is one per group of heads,
    which are patched together.

    Source: Conmy et al. (2023), whose algorithm takes one such step after the other.

    Example:
        >>> found = ck.discovery.exact(model, data, edges=["a0.h1->logits", "m3->logits"])
        >>> int((found.values != 0).sum()), found.about["settings"]["direction"]
        (2, 'noise')
    """
    require_model(model)
    inputs = prepare(model, data, metric, corruption, circuit=edges)
    tally = Tally(model.wiring, len(inputs.data), groups, inputs.data.memory)
    effects, _ = edge_effects(*inputs[:3], edges, inputs.corruption, direction=direction,
                              resume=resume)  # fmt: skip
    places = indices(model.wiring, edges)
    table = np.zeros((*model.wiring.shape, len(inputs.data)), dtype=np.float32)
    table[places] = effects
    tally.add(table[model.wiring.legal].T)
    settings: dict[str, Any] = {"direction": direction}
    if edges is not None:
        settings["edges"] = len(set(zip(*places, strict=True)))
    about = {**inputs.metadata(), "method": "exact", "settings": settings}
    return tally.scores(about)
