"""Baselines that a method has to beat: how much a writer changes, how steep the metric is at a
reader, what its nodes are worth, and how information flows.

Each costs a few forwards and at most one backward. A baseline that uses no metric or no corruption
ignores it, and ``about`` does not name it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.discovery._gradients import FLAT, require_gradients
from circuitkit.discovery._written import blocks, written
from circuitkit.discovery.attribution import eap
from circuitkit.engine.attribute import Pulls
from circuitkit.engine.backward import BackwardRule
from circuitkit.engine.devices import moved
from circuitkit.engine.gradients import Gradients, at_tokens, gradients
from circuitkit.engine.inputs import CorruptionLike, Data, Inputs, MetricLike, prepare
from circuitkit.engine.metric import Metric, check_metric
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.numerics import exact, wide
from circuitkit.engine.record import record
from circuitkit.errors import MetricError
from circuitkit.graph.by_node import of_nodes, weaker_end
from circuitkit.graph.scores import Scores
from circuitkit.registry import name_of
from circuitkit.util.options import checked
from circuitkit.util.progress import track

__all__ = ["activation_magnitude", "gradient_norm", "node_attribution", "information_flow"]


# -- one end of an edge ----------------------------------------------------------------------------
@torch.no_grad()
def activation_magnitude(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
) -> Scores:
    """How much an edge's writer changes, regardless of the effect.

    The score of every edge of a writer is ‖live − carried output‖₂ over an example's tokens and
    dimensions, in the mean over examples and draws. The metric is not used.

    Returns Scores [writers, readers], never negative, in units of the residual stream. Raises
    ArgumentError for an argument in the wrong place.

    Example:
        >>> bool((ck.discovery.activation_magnitude(model, data).values >= 0).all())
        True
    """
    inputs = prepare(model, data, metric, corruption)
    carry = inputs.corruption(model, inputs.data)
    total = np.zeros(len(model.wiring.writers))
    for batch in track(inputs.data, "activation_magnitude"):
        live = record(model, model.start(batch.clean, batch.mask)).written()
        draws = [carried.written() for carried in carry(batch)]
        for carried in draws:
            total += _array(_changes(model, batch, live, carried).sum(0)) / len(draws)
    table = np.broadcast_to(total[:, None], model.wiring.shape)
    return _scores(inputs, table, "activation_magnitude", "corruption")


def _changes(
    model: Model, batch: Batch, live: Activations, carried: Activations
) -> Float[Tensor, "examples w"]:
    """The norm of what each writer changes in each example."""
    squares = wide(live.embed.new_zeros(0)).new_zeros(batch.examples, len(model.wiring.writers))
    for block, example in blocks(model, batch):
        change = written(model, live, block) - written(model, carried, block)
        squares.index_add_(0, batch.owner[example], change.square().sum(-1).T)
    return squares.sqrt()


@torch.no_grad()
def gradient_norm(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
) -> Scores:
    """How steep the metric is in what an edge's reader reads, regardless of what is written there.

    The score of every edge of a reader is ‖∂metric / ∂input‖₂ at the clean run, over an example's
    tokens and dimensions, in the mean over examples. The corruption is not used.

    Returns Scores [writers, readers], never negative, in metric units per unit of the residual
    stream. Raises ArgumentError for an argument in the wrong place, and MetricError where the
    metric has no gradient there.

    Example:
        >>> bool((ck.discovery.gradient_norm(model, data, "logit_diff").values >= 0).all())
        True
    """
    inputs = prepare(model, data, metric, corruption)
    total, steepest = np.zeros(len(model.wiring.readers)), 0.0
    for batch in track(inputs.data, "gradient_norm"):
        at = _gradients(model, batch, inputs.metric)
        steep = _steepness(model, batch, at)
        require_gradients(model, inputs.metric, steep, batch)
        total += _array(steep.sum(0))
        steepest = max(steepest, float(at.steepest))
    if steepest < FLAT:
        raise MetricError(
            f"the gradient of {name_of(inputs.metric)} is zero at the clean run, so every score "
            "would be zero; use a different metric (logit_diff)"
        )
    table = np.broadcast_to(total, model.wiring.shape)
    return _scores(inputs, table, "gradient_norm", "metric")


def _gradients(model: Model, batch: Batch, metric: Metric) -> Gradients:
    """The metric's gradients at the clean run, which is its own reference."""

    def value(logits: Float[Tensor, "b vocab"]) -> Float[Tensor, " examples"]:
        values = check_metric(metric, logits, logits.detach(), batch)
        if not values.requires_grad:
            raise MetricError(
                f"{name_of(metric)} has no gradient; use a different metric (logit_diff)"
            )
        return values

    context = model.start(batch.clean, batch.mask)
    return gradients(model, batch, context, context.embed, value)


def _steepness(model: Model, batch: Batch, at: Gradients) -> Float[Tensor, "examples r"]:
    """The norm of the gradient at each reader, in each example."""
    wiring = model.wiring
    squares = wide(at.logits.new_zeros(0)).new_zeros(batch.examples, len(wiring.readers))
    pulls = Pulls(model)
    for block, example in blocks(model, batch):
        for stage in wiring.stages:
            steep = at.pulled(pulls.of(stage), stage, block).square().sum(-1).T
            steep = moved(steep, squares.device)
            squares[:, stage.columns].index_add_(0, batch.owner[example], steep)
    squares[:, -1].index_add_(0, batch.owner, wide(at.logits).square().sum(-1))
    return squares.sqrt()


# -- both ends of an edge --------------------------------------------------------------------------
@checked
def node_attribution(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    level: Literal["edge", "node"] = "edge",
    rule: BackwardRule = None,
) -> Scores:
    """Node attribution patching, spread over the edges: an edge scores as its weaker end.

    A node's attribution is (clean − carried output) · (gradient of the metric there) at the clean
    run, in the mean over examples (Nanda 2022): the sum of EAP over its out-edges. An edge scores
    the smaller magnitude of its ends', negative where one of them is; one into the logits scores
    its writer's, and a port that heads share counts with the strongest of them. So the edges above
    a threshold are those between the nodes above it: so MIB makes circuits of nodes (NAP). At
    ``level="node"`` the scores are of nodes (``Scores.by_node``), and circuits have so many nodes.

    Returns Scores [writers, readers], in metric units, positive where both nodes help; ``rule`` as
    in ``eap`` (with ``relp`` this is RelP's own score of nodes). Raises as ``eap`` does.

    Source: Nanda (2022); MIB (Mueller et al. 2025).

    Example:
        >>> ck.discovery.node_attribution(model, data).about["method"]
        'node_attribution'
    """
    edges = eap(model, data, metric, corruption, rule=rule)
    if level == "node":
        return edges.by_node(method="node_attribution")
    nodes = of_nodes(edges.values)
    values = np.where(model.wiring.legal, weaker_end(model.wiring, nodes), 0)
    about = {**edges.about, "method": "node_attribution"}
    return Scores(model.wiring, values.astype(np.float32), about)


# -- what flows ------------------------------------------------------------------------------------
@torch.no_grad()
def information_flow(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
) -> Scores:
    """Information-flow routes: how much of what a reader reads comes from a writer.

    Where a reader reads y and a writer wrote x of it, the writer's importance is
    max(0, ‖y‖₁ − ‖y − x‖₁), divided by the sum over the reader's writers. The score is its mean
    over an example's tokens (into the logits: at the answer), and then over examples, in the clean
    run: the same for all ports of a layer, which read the same. Neither metric nor corruption is
    used. MIB selects ``greedy`` from these scores.

    Returns Scores [writers, readers], shares between 0 and 1. Raises ArgumentError for an argument
    in the wrong place.

    Source: Ferrando & Voita (2024).

    Example:
        >>> values = ck.discovery.information_flow(model, data).values
        >>> bool(0 <= values.min() and values.max() < 1.001)
        True
    """
    inputs = prepare(model, data, metric, corruption)
    inputs = inputs._replace(data=inputs.data.first_tokens())
    table = np.zeros(model.wiring.shape)
    for batch in track(inputs.data, "information_flow"):
        run = record(model, model.start(batch.clean, batch.mask))
        table += _array(_flows(model, batch, run))
    return _scores(inputs, table, "information_flow")


def _flows(model: Model, batch: Batch, run: Activations) -> Float[Tensor, "w r"]:
    """The shares of every edge, summed over the examples."""
    wiring = model.wiring
    table = wide(run.embed.new_zeros(0)).new_zeros(wiring.shape)
    weight = 1 / batch.mask.sum(1).to(table)
    for block, example in blocks(model, batch):
        wrote = written(model, run, block)
        for stage in wiring.stages:
            read = moved(at_tokens(run.reads[stage.index], block), wrote.device)
            share = _shares(read, wrote[stage.heard]) @ weight[example]
            table[stage.heard, stage.columns] += share[:, None]
    length, rows = batch.mask.shape[1], torch.arange(len(batch), device=batch.last.device)
    ends = rows * length + batch.last
    last = written(model, run, ends)[wiring.renewed :]
    table[wiring.renewed :, -1] = _shares(at_tokens(run.final, ends), last).sum(1)
    return table


def _shares(read: Float[Tensor, "t d"], wrote: Float[Tensor, "w t d"]) -> Float[Tensor, "w t"]:
    """The importance of each writer's part of what is read, as shares of one (of none: 0)."""
    read = wide(read)
    importance = (read.abs().sum(-1) - (read - wrote).abs().sum(-1)).clamp(min=0)
    return importance / importance.sum(0).clamp(min=torch.finfo(read.dtype).tiny)


def _array(x: Tensor) -> Float[np.ndarray, "..."]:
    return np.asarray(exact(x).cpu())


def _scores(
    inputs: Inputs, totals: Float[np.ndarray, "writers readers"], method: str, *used: str
) -> Scores:
    """The means over the examples of these sums, as scores that say what they were made of."""
    wiring, own = inputs.model.wiring, {"metric", "corruption"} - {*used}
    values = np.where(wiring.legal, totals / len(inputs.data), 0).astype(np.float32)
    made_of = {key: value for key, value in inputs.metadata().items() if key not in own}
    return Scores(wiring, values, {**made_of, "method": method, "settings": {}})
