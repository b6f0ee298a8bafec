"""Batches as large as the memory allows, foreseen before the work begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Dataset
from circuitkit.engine.attribute import score
from circuitkit.engine.gradients import gradients
from circuitkit.engine.memory import Need, foresee, room
from circuitkit.engine.metric import Corruption
from circuitkit.engine.model import Model
from circuitkit.engine.record import record
from circuitkit.engine.run import run

__all__ = ["batched", "fitted", "needed"]


def batched(
    model: Model, data: Dataset, corruptions: Sequence[Corruption], batch_size: int | None = None
) -> Dataset:
    """The data in batches of that size, else of one that fits under each of the corruptions."""
    if batch_size is not None:
        return replace(data, batch_size=batch_size)
    for corruption in corruptions:
        data = fitted(model, data, corruption)
    return data


def fitted(model: Model, data: Dataset, corruption: Corruption) -> Dataset:
    """The data in batches that fit ``data.memory``, at most as large as they are; raises
    BudgetError where one example at a time does not fit."""
    space = room(model.device, data.memory)
    most = needed(model, data, corruption).most(space, min(data.batch_size, len(data)))
    return data if most >= min(data.batch_size, len(data)) else replace(data, batch_size=most)


def needed(model: Model, data: Dataset, corruption: Corruption) -> Need:
    """What a batch takes at its worst, for each example: attribution, or a run of the whole model
    under a mask. The longest examples are measured."""
    longest = sorted(data.examples, key=lambda example: -len(example.clean))

    def work(n: int) -> None:
        few = replace(data, examples=tuple(islice(cycle(longest), n)), batch_size=n)
        _attributed(model, few, corruption)
        _run(model, few, corruption)

    return foresee(work)


def _attributed(model: Model, data: Dataset, corruption: Corruption) -> None:
    """Score every edge of one batch, under every draw."""
    carry = corruption(model, data)
    for batch in data:
        draws = [carried.written() for carried in carry(batch)]
        context = model.start(batch.clean, batch.mask)
        at = gradients(model, batch, context, context.embed, _slope)
        for carried in draws:
            score(model, batch, at.activations, carried, at)


@torch.no_grad()
def _run(model: Model, data: Dataset, corruption: Corruption) -> None:
    """Run one batch with every edge kept."""
    carry = corruption(model, data)
    for batch in data:
        context = model.start(batch.clean, batch.mask)
        record(model, context)
        for carried in carry(batch):
            run(model, batch, context, carried, model.wiring.legal)


def _slope(logits: Float[Tensor, "b vocab"]) -> Float[Tensor, " b"]:
    """A metric that any prompt has, and that has a gradient."""
    return torch.logsumexp(logits, dim=-1)
