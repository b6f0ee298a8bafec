"""What aligning texts by spans does by itself: how many tokens have no partner, and how far the
logits move when heads look at what is carried from the places of clean tokens."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.model import Model
from circuitkit.engine.run import run

__all__ = ["paired_alone", "unpaired"]

HARDLY = 1e-9  # the weight of an edge that makes a component live and moves nothing itself


def unpaired(data: Dataset) -> float:
    """The share of the clean tokens that have no partner in the corrupted text."""
    tokens = without = 0
    for batch in data:
        tokens += int(batch.mask.sum())
        if batch.aligned is not None:
            without += int((batch.mask & ~batch.aligned.partner).sum())
    return without / tokens


def paired_alone(model: Model, data: Dataset, batch: Batch) -> Float[Tensor, "batch vocab"]:
    """The logits where every component is computed from what is carried to it, and heard by the
    logits alone. Of texts with their tokens at the same positions these are the corrupted ones."""
    (carried,) = counterfactual(model, data)(batch)
    keep = np.where(model.wiring.legal, HARDLY, 0.0).astype(np.float32)
    keep[1:, -1] = model.wiring.legal[1:, -1]
    return run(model, batch, model.start(batch.clean, batch.mask), carried, keep)
