"""What each writer wrote at some tokens, in blocks that fit the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.attribute import block_tokens
from circuitkit.engine.devices import moved
from circuitkit.engine.gradients import at_tokens
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.numerics import wide

__all__ = ["blocks", "written"]


def blocks(model: Model, batch: Batch) -> Iterator[tuple[Int[Tensor, " t"], Int[Tensor, " t"]]]:
    """The tokens that are not padding, in blocks that fit the processor's cache: where each stands
    in the flattened batch, and the example that it belongs to."""
    tokens = batch.mask.flatten().nonzero().squeeze(1)
    for block in torch.split(tokens, block_tokens(model)):
        yield block, block // batch.mask.shape[1]


def written(model: Model, run: Activations, block: Int[Tensor, " t"]) -> Float[Tensor, "w t d"]:
    """What each writer wrote at these tokens, in the order of the writers."""
    parts = [at_tokens(run.embed, block)[None]]
    for stage in model.wiring.stages:
        shares = at_tokens(run.shares[stage.index], block)
        own = model.kinds[stage.kind].write(model, stage, None, shares)
        parts.append(moved(own, block.device))
    return wide(torch.cat(parts))
