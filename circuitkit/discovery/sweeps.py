"""Exact patching as a method: the truth that attribution estimates, one edge or node at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.checkpoints import Journal, identity
from circuitkit.engine.dealing import Block, by_batch
from circuitkit.engine.edges import edge_effects
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    Inputs,
    MetricLike,
    prepare,
    require_model,
)
from circuitkit.engine.metric import check_metric
from circuitkit.engine.model import Context, Model
from circuitkit.engine.numerics import exact as exactly
from circuitkit.engine.record import answer, record
from circuitkit.engine.run import runs
from circuitkit.engine.tally import ByGroup, Tally
from circuitkit.errors import ArgumentError
from circuitkit.graph.edges import Edges, indices, is_edges
from circuitkit.graph.scores import Scores
from circuitkit.registry import name_of
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
    level: Literal["edge", "node"] = "edge",
    resume: str | os.PathLike[str] | None = None,
    groups: ByGroup = None,
) -> Scores:
    """The exact effect of each edge alone, by patching it: what attribution estimates.

    ``noise``: what the metric loses when the edge alone carries the corruption in a clean run;
    ``denoise``: what it gains when the edge alone carries its clean value in the corrupted run
    (Heimersheim & Nanda 2024). Costs about a sixth of a plain forward per edge. ``edges`` (all, or
    those of a circuit, of names or of a mask) are scored, the rest are 0; ``resume`` is a
    directory, with which a run resumes after a kill. At ``level="node"`` it is what the metric
    loses when all out-edges of a node carry the corruption at once, as in the circuit of all other
    nodes, at about half a plain forward per node (``Scores.by_node``); ``ck.patch_nodes`` denoises.

    Returns Scores [writers, readers], in metric units per example, positive where the edge helps
    the clean behaviour; they carry the direction. ``groups`` is as in ``eap``. Raises ArgumentError
    for an argument in the wrong place, for an unknown direction, and for nodes that are to be
    denoised, in groups or by their edges, CircuitError for an edge that does not exist, and
    OutputError where the directory cannot be used.

    Differs from other tools: with grouped queries an edge into k or v is one per group of heads,
    which are patched together.

    Source: Conmy et al. (2023), whose algorithm takes one such step after the other.

    Example:
        >>> found = ck.discovery.exact(model, data, edges=["a0.h1->logits", "m3->logits"])
        >>> int((found.values != 0).sum()), found.about["settings"]["direction"]
        (2, 'noise')
    """
    require_model(model)
    if level == "node" and (direction, edges, groups) != ("noise", None, None):
        raise ArgumentError(
            "exact effects of nodes are of all nodes, in the mean over the examples, by noise; "
            "leave out direction, edges and groups"
        )
    inputs = prepare(model, data, metric, corruption, circuit=edges)
    if level == "node":
        return _of_nodes(inputs, resume)
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


@torch.no_grad()
def _of_nodes(inputs: Inputs, resume: str | os.PathLike[str] | None) -> Scores:
    """What the metric loses when all out-edges of a node are cut, for every node."""
    model, data, metric, corruption = inputs
    work = {"what": "exact effects of nodes", "metric": name_of(metric),
            "corruption": name_of(corruption)}  # fmt: skip
    journal = Journal(resume, {**identity(model, data), **work})
    without = np.repeat(model.wiring.legal[None], len(model.wiring.writers), axis=0)
    for row in range(1, len(without)):
        without[row, row] = False  # the first stays whole: the clean run
    carry, sums = corruption(model, data), np.zeros(len(without))

    def plain(batch: Batch, context: Context) -> tuple[Tensor, np.ndarray]:
        """The logits of the clean run, and the metric there."""
        reference = answer(model, batch, record(model, context).final)
        values = check_metric(metric, reference, reference, batch)
        return reference, exactly(values).cpu().numpy()

    def block(batch: Batch, first: int) -> Block:
        context, draws = model.start(batch.clean, batch.mask), carry(batch)
        reference, full = plain(batch, context)
        under = [
            exactly(check_metric(metric, logits, reference, batch)).sum()
            for carried in draws
            for logits in runs(model, batch, context, carried, [*without])
        ]
        values = torch.stack(under).reshape(len(draws), -1).mean(0).cpu().numpy()
        return {"lost": full.sum() - values, "plain": full}

    def recognise(batch: Batch, first: int, block: Mapping[str, np.ndarray]) -> None:
        _, now = plain(batch, model.start(batch.clean, batch.mask))
        journal.recognise(model, block["plain"], now)

    for own in by_batch(data, "exact", block, journal, recognise):
        sums += own["lost"]
    about = {**inputs.metadata(), "method": "exact", "settings": {"direction": "noise"}}
    return Scores.of_nodes(model.wiring, sums / len(data), about)
