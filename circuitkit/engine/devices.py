"""Where a model's stages compute, and the one function that takes a tensor there.

A model may lie on several devices, each layer on one. What belongs to a stage (the arguments of its
attention, what is read and computed there) is on the device of its layer; what belongs to a batch
(tokens, embeddings, what the logits read, the logits) on the model's own, where its embedding is.
What a later stage reads is moved when it reads it, and nothing moves where there is one device.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from circuitkit.engine.model import Model
from circuitkit.graph.stages import Stage

__all__ = ["Placed", "device_of", "devices", "moved"]


@runtime_checkable
class Placed(Protocol):
    """A model whose layers may be on several devices."""

    def device_of(self, layer: int) -> torch.device:
        """The device on which a layer computes."""


def device_of(model: Model, stage: Stage) -> torch.device:
    """The device on which a stage computes: the model's own, unless it says another."""
    return model.device_of(stage.layer) if isinstance(model, Placed) else model.device


def devices(model: Model) -> list[torch.device]:
    """Each device on which something is computed, the model's own first."""
    stages = model.wiring.stages
    return [*dict.fromkeys((model.device, *(device_of(model, stage) for stage in stages)))]


def moved(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on that device: itself, if it is there."""
    return x if x.device == device else x.to(device)
