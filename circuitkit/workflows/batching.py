"""Batches as large as the memory allows, foreseen before the work begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.discovery.attribution import eap
from circuitkit.engine.memory import Need, foresee, room
from circuitkit.engine.metric import Corruption
from circuitkit.engine.model import Model
from circuitkit.evaluation.faithfulness import evaluate

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
        eap(model, few, _slope, corruption)
        evaluate(model, model.wiring.legal, few, _slope, corruption)

    return foresee(work)


def _slope(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """A metric that any prompt has, and that has a gradient."""
    del reference, batch
    return torch.logsumexp(logits, dim=-1)
