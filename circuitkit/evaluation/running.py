"""Circuits run on data: their logits, and what a metric says of them; differentiable in a mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    Inputs,
    MetricLike,
    prepare,
    require_model,
)
from circuitkit.engine.metric import Metric, check_metric
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.record import answer, record
from circuitkit.engine.run import Keep, runs
from circuitkit.errors import CircuitError, MetricError
from circuitkit.evaluation.masks import CircuitLike, as_mask, as_places, dense, require_shape
from circuitkit.graph.places import AnyMask, PlacedMask
from circuitkit.graph.wiring import Wiring
from circuitkit.registry import name_of

__all__ = ["measure", "run", "slopes"]

Value = Callable[[Float[Tensor, "b vocab"], Float[Tensor, "b vocab"], Batch], Tensor]


def run(
    model: Model,
    circuits: CircuitLike | Sequence[CircuitLike],
    data: Data,
    corruption: CorruptionLike | None = None,
) -> Float[Tensor, "circuits examples vocab"]:
    """The logits of circuits at the answer positions (of the first token of a longer answer).

    Returns a tensor [circuits, examples, vocab] on the model's device, averaged over the
    corruption's draws; one circuit gives the first axis the length 1. A circuit is a graph, a
    Discovery, a mask of bool, or a tensor of weights from 0 (the edge carries the corruption) to 1
    (it is live), over the model's writers and readers; or a tensor of masks or weights [examples,
    writers, readers], one for each example of a Dataset; or a circuit between places of these
    prompts, or a PlacedMask over the edges between them. A tensor that requires a gradient carries
    one. A task's name or a Task means prompts that the circuits' discovery did not see.

    Raises ArgumentError for an argument in the wrong place, and CircuitError where a circuit does
    not fit the model.

    Example:
        >>> ck.run(model, [circuit, scores.top(50)], task, corruption="counterfactual").shape[:2]
        torch.Size([2, 16])
    """
    inputs, keeps = _prepared(model, circuits, data, None, corruption)
    inputs = inputs._replace(data=inputs.data.first_tokens())
    return _stacked(inputs, keeps, lambda logits, *_: logits)


def measure(
    model: Model,
    circuits: CircuitLike | Sequence[CircuitLike],
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
) -> Float[Tensor, "circuits examples"]:
    """The metric of circuits on every example.

    Returns a tensor [circuits, examples] in metric units, higher is better, averaged over the
    corruption's draws. Arguments, gradients and errors are those of ``run``.

    Example:
        >>> ck.measure(model, circuit, task, "logit_diff").shape
        torch.Size([1, 16])
    """
    inputs, keeps = _prepared(model, circuits, data, metric, corruption)

    def value(
        logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
    ) -> Tensor:
        return check_metric(inputs.metric, logits, reference, batch)

    return _stacked(inputs, keeps, value)


def slopes(inputs: Inputs, weights: AnyMask) -> AnyMask:
    """The gradient of the metric's mean in the weights of a mask, plain or between places, of which
    no more than one batch under one draw of the corruption is held at a time; 0 where a pair is not
    an edge.

    Raises MetricError where the metric has no gradient, or one that is not finite.
    """
    model, data, metric, corruption = inputs
    placed = weights if isinstance(weights, PlacedMask) else None
    tables = [weights] if placed is None else [placed.residual, placed.attention]
    leaves = [
        torch.as_tensor(table, dtype=model.dtype, device=model.device).requires_grad_()
        for table in tables
    ]
    keep: Keep = leaves[0] if placed is None else PlacedMask(placed.places, *leaves)
    totals = [torch.zeros(leaf.shape, dtype=torch.float64) for leaf in leaves]

    def value(
        logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
    ) -> Tensor:
        return check_metric(metric, logits, reference, batch)

    with torch.no_grad():
        carry = corruption(model, data)
    for batch in data:
        with torch.no_grad():
            draws = carry(batch)
        for own in draws:
            with torch.enable_grad():
                said = _batch(model, batch, [own], [keep], value)
            for total, slope in zip(totals, _slopes(metric, said, leaves), strict=True):
                total += slope.cpu().double() / len(draws)
    found = [(total / len(data)).numpy() for total in totals]
    if placed is None:
        return np.where(model.wiring.legal, found[0], 0)
    legal = placed.places.legal
    residual, attention = found[0] * legal.residual, found[1] * legal.attention
    return PlacedMask(placed.places, residual, attention)


def _slopes(metric: Metric, said: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of the sum of what a metric says; raises MetricError where there are none."""
    found: list[Tensor] = []
    if said.requires_grad:
        found += torch.autograd.grad(said.sum(), leaves, materialize_grads=True)
    if not found or not all(bool(slope.isfinite().all()) for slope in found):
        lacks = "a gradient that is not finite" if found else "no gradient"
        raise MetricError(f"{name_of(metric)} has {lacks} here; use another metric (logit_diff)")
    return found


def _prepared(
    model: Model,
    circuits: CircuitLike | Sequence[CircuitLike],
    data: Data,
    metric: MetricLike | None,
    corruption: CorruptionLike | None,
) -> tuple[Inputs, list[Keep]]:
    """The arguments as the engine takes them, and every circuit as a mask or weights."""
    require_model(model)
    each: list[Any] = [*circuits] if isinstance(circuits, list | tuple) else [circuits]
    if not each:
        raise CircuitError("there are no circuits; give at least one")
    keeps = [_keep(one, model.wiring) for one in each]
    graphs = [one for one in each if not isinstance(one, Tensor | np.ndarray | PlacedMask)]
    inputs = prepare(model, data, metric, corruption, circuit=graphs)
    for keep in keeps:
        if isinstance(keep, Tensor) and keep.ndim == 3 and len(keep) != len(inputs.data):
            raise CircuitError(
                f"there are masks for {len(keep)} examples, and {len(inputs.data)} examples; give "
                "one mask for each, or one for all"
            )
    return inputs, keeps


def _grows(keep: Keep) -> bool:
    """Whether a mask carries a gradient."""
    tables = (keep.residual, keep.attention) if isinstance(keep, PlacedMask) else (keep,)
    return any(isinstance(table, Tensor) and table.requires_grad for table in tables)


def _keep(circuit: CircuitLike, wiring: Wiring) -> Keep:
    """A circuit as a mask, or as weights, which are finite."""
    if isinstance(circuit, PlacedMask):
        return circuit
    if (placed := as_places(circuit, wiring)) is not None:
        return placed
    if isinstance(circuit, np.ndarray) and (circuit.dtype.kind == "f" or circuit.ndim == 3):
        circuit = torch.from_numpy(circuit)
    if isinstance(circuit, Tensor) and circuit.ndim == 3:
        require_shape(circuit[0] if len(circuit) else circuit, wiring)
        return circuit
    if not isinstance(circuit, Tensor) or not circuit.dtype.is_floating_point:
        return as_mask(circuit, wiring)
    require_shape(circuit, wiring)
    weights = dense(circuit)
    if not bool(weights.detach().float().isfinite().all()):
        raise CircuitError("the weights of a mask are not all finite; give numbers from 0 to 1")
    return weights


def _stacked(inputs: Inputs, keeps: Sequence[Keep], value: Value) -> Float[Tensor, "c n *rest"]:
    """What is said of every circuit on every example, in the mean over the draws."""
    model, data = inputs.model, inputs.data
    wanted = any(map(_grows, keeps))
    wanted |= model.trainable
    with torch.set_grad_enabled(wanted and torch.is_grad_enabled()):
        carry = inputs.corruption(model, data)
        said, start = [], 0
        for batch in data:
            here = slice(start, start + batch.examples)
            own = [_of_rows(keep, here, batch) for keep in keeps]
            said.append(_batch(model, batch, carry(batch), own, value))
            start = here.stop
        return torch.cat(said, dim=1)


def _of_rows(keep: Keep, here: slice, batch: Batch) -> Keep:
    """A mask as it is; of one for each example those of a batch, for each of its rows."""
    if not isinstance(keep, Tensor) or keep.ndim != 3:
        return keep
    return keep[here] if batch.sequences is None else keep[here][batch.owner.cpu()]


def _batch(
    model: Model, batch: Batch, draws: Sequence[Activations], keeps: Sequence[Keep], value: Value
) -> Float[Tensor, "c b *rest"]:
    """The same of one batch."""
    context = model.start(batch.clean, batch.mask)
    with torch.no_grad():
        reference = answer(model, batch, record(model, context).final)
    said = [
        torch.stack([value(x, reference, batch) for x in runs(model, batch, context, own, keeps)])
        for own in draws
    ]
    return torch.stack(said).mean(0)
