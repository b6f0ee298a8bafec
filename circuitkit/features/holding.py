"""Circuits of features in which errors are held: whatever the circuit changes, the error of each
dictionary is that of the clean run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.devices import device_of, moved
from circuitkit.engine.inputs import Inputs
from circuitkit.engine.metric import check_metric
from circuitkit.engine.model import Activations, Context, Kind, Model, Ports
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import answer, difference, record
from circuitkit.engine.run import runs
from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.features.blocks import HeadParts, Parts
from circuitkit.graph.places import edges_of
from circuitkit.graph.stages import Stage
from circuitkit.graph.types import Mask
from circuitkit.registry import name_of

__all__ = ["HeldParts", "evaluate_held", "with_errors"]

ERROR = "error"


class HeldParts(Parts):
    """The parts of MLPs and of the residual stream, whose errors are what the context holds."""

    def compute(self, model: Model, stage: Stage, context: Context, ports: Ports) -> Tensor:
        """What each part writes."""
        return _held(stage, context, super().compute(model, stage, context, ports))


class HeldHeads(HeadParts):
    """The parts of attention, whose errors are what the context holds."""

    def compute(self, model: Model, stage: Stage, context: Context, ports: Ports) -> Tensor:
        """What each part writes."""
        return _held(stage, context, super().compute(model, stage, context, ports))


def _held(
    stage: Stage, context: Context, written: Float[Tensor, "b p n d"]
) -> Float[Tensor, "b p n d"]:
    """What is written, with the errors that are held, whatever was read."""
    if stage.index not in context.held:
        return written
    (error,) = context.held[stage.index]
    return written.index_copy(-2, _errors(stage).to(written.device), error[..., None, :])


HELD: dict[type, Callable[..., Kind]] = {Parts: HeldParts, HeadParts: HeldHeads}


def _errors(stage: Stage) -> Tensor:
    """The places of errors among what a stage writes; there are none where it is whole, or taken
    apart into neurons."""
    return torch.tensor([i for i, own in enumerate(stage.part.writers) if own.part == ERROR])


def with_errors(model: Model, carried: Activations, clean: Activations) -> Activations:
    """The carried run with the errors of the clean one, and what they add to what is read."""
    added = torch.zeros_like(carried.embed)
    stream, reads = {0: added, 1: added}, list[Tensor]()  # by how many writers there are before
    computed, shares = [*carried.computed], [*carried.shares]
    for stage in model.wiring.stages:
        here, number = device_of(model, stage), stage.index
        heard = stream[stage.upstream] - stream[stage.since]
        reads.append(carried.reads[number] + moved(heard, here))
        added = moved(added, here)
        for place in _errors(stage).tolist():
            added = added + difference(model, clean, carried, stage.rows.start + place)
            for own, of_clean in ((computed, clean.computed), (shares, clean.shares)):
                own[number] = _replaced(own[number], of_clean[number], place)
        stream[stage.rows.stop] = added
    heard = added - stream[int(model.wiring.since[-1])]
    final = carried.final + moved(heard, carried.final.device)
    return replace(carried, reads=(*reads,), computed=(*computed,), shares=(*shares,), final=final)


def _replaced(
    base: Float[Tensor, "b p n e"], other: Float[Tensor, "b p n e"], place: int
) -> Float[Tensor, "b p n e"]:
    """The base with what another has in this place."""
    found = base.clone()
    found[:, :, place] = other[:, :, place]
    return found


@torch.no_grad()
def evaluate_held(inputs: Inputs, mask: Mask) -> Evaluation:
    """How faithful a circuit is where every reader reads the errors of the clean run, and all other
    edges are as in the circuit.

    With all edges kept this is the model. It is no bound: errors of the clean run bring a part of
    its answer with them. ``everything`` and ``nothing`` of the Evaluation are the plain runs, and
    its edges do not count those out of errors.
    """
    model, data, metric, corruption = inputs
    held = copy.copy(model)
    held.kinds = {name: _holding(kind) for name, kind in model.kinds.items()}
    carry = corruption(model, data)
    stages = [stage for stage in model.wiring.stages if len(_errors(stage))]

    def values(batch: Batch) -> np.ndarray:
        context = model.start(batch.clean, batch.mask)
        clean = record(model, context)
        reference = answer(model, batch, clean.final)
        errors = {s.index: (clean.computed[s.index][:, :, int(_errors(s))],) for s in stages}
        holding = replace(context, held={**context.held, **errors})

        def value(logits: Tensor) -> Tensor:
            return exact(check_metric(metric, logits, reference, batch))

        found = []
        for carried in carry(batch):
            base = with_errors(model, carried, clean)
            (logits,) = runs(held, batch, holding, base, [mask])
            found.append([value(answer(model, batch, carried.final)), value(logits)])
        means = torch.stack([torch.stack(row) for row in found]).mean(0)
        return np.asarray(torch.cat([value(reference)[None], means]).cpu().numpy())

    everything, nothing, circuit = np.concatenate([values(batch) for batch in data], axis=1)
    return Evaluation(
        everything, nothing, circuit, name_of(metric), name_of(corruption),
        edges_of(_without_errors(model, mask)),
    )  # fmt: skip


def _holding(kind: Kind) -> Kind:
    """The kind with errors held, if it has any."""
    made = HELD.get(type(kind))
    return kind if made is None else made(kind.blocks)  # type: ignore[attr-defined]


def _without_errors(model: Model, mask: Mask) -> Mask:
    """The mask without the edges out of errors, which every reader reads anyway."""
    rows: Sequence[int] = [i for i, own in enumerate(model.wiring.writers) if own.part == ERROR]
    found = mask.copy()
    found[rows] = False
    return found
