"""Norms that divide by what they divide by in another run.

A norm multiplies what it reads by a scale, 1 / √(variance + ε), that depends on all of it. Where
readers read less and less of a run, the norms make up for it, and nothing changes until nearly all
is gone. With the scales of the clean run held, what is read counts for what it is.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.model import Activations, Model
from circuitkit.errors import UnsupportedModelError

__all__ = ["Held", "HoldsNorms", "Scale", "held_norms"]


@dataclass(frozen=True)
class Scale:
    """The scale that a norm has in another run. ``least``: it is used where it is less than the
    norm's own, so that the norm divides by the larger of the two."""

    value: Float[Tensor, "*t 1"]
    least: bool = False

    def free(self, own: Float[Tensor, "*t 1"]) -> Bool[Tensor, "*t 1"]:
        """Where the norm's own scale is used."""
        return own < self.value if self.least else torch.zeros_like(own, dtype=torch.bool)


@dataclass(frozen=True)
class Held:
    """The scales of the norms that the ports and the logits read through, in one run of a batch:
    by the number of the stage (None: there is no norm), and at the answers."""

    stages: tuple[Scale | None, ...]
    final: Scale | None


@runtime_checkable
class HoldsNorms(Protocol):
    """A model whose norms can be held. Norms behind attention and MLPs, and those over queries and
    keys, stay as they are."""

    def scales(self, batch: Batch, run: Activations, least: bool) -> Held:
        """The scales of the norms where this run of the batch reads."""

    def holding(self, held: Held | None) -> AbstractContextManager[None]:
        """Within it, runs of that batch have these scales; with None nothing changes."""


def held_norms(model: Model, batch: Batch, run: Activations, norms: str) -> Held | None:
    """The scales of the norms in that run of the batch, where they are to be held: ``clean``, or
    ``larger`` where a norm divides by the larger of that and its own; nothing where ``live``.

    Raises UnsupportedModelError for a model whose norms cannot be held.
    """
    if norms == "live":
        return None
    if not isinstance(model, HoldsNorms):
        raise UnsupportedModelError(f"the norms of {model.name!r} cannot be held; use norms='live'")
    return model.scales(batch, run, least=norms == "larger")
