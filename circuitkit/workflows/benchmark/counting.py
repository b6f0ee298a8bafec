"""What a method asks of a model, counted: the share of a whole run that each call computes.

A run of a prompt is all heads and all MLPs at all of its tokens. What a call computes of them
counts as that share, so that a run which resumes at a late layer, or computes just a circuit,
counts as the part that it is. Projections of the readers and the logits are not counted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from circuitkit.data.batches import Dataset
from circuitkit.engine.backward import Rule, under
from circuitkit.engine.model import Model
from circuitkit.engine.record import record

__all__ = ["Tally", "Cost", "counted", "cost"]

M = TypeVar("M", bound=Model)


@dataclass
class Tally:
    """How many heads and MLPs were run, each counted once for every token: forwards, and
    backwards."""

    forward: int = 0
    backward: int = 0


@dataclass(frozen=True)
class Cost:
    """Forwards and backwards in whole runs of one prompt.

    A ``sequence_backward`` is a forward and a backward of a prompt; as a backward costs as much as
    two forwards, a forward alone is a third of one.
    """

    forwards: float
    backwards: float

    @property
    def sequence_backwards(self) -> float:
        """(forwards + 2 · backwards) / 3."""
        return (self.forwards + 2 * self.backwards) / 3


def counted(model: M) -> tuple[M, Tally]:
    """The same model, and the tally of what is asked of it from now on.

    A backward is counted when the gradient passes, so that one that is never taken costs nothing.
    """
    tally = Tally()
    return _counting(model, tally), tally


def _counting(model: M, tally: Tally) -> M:
    """The same model, which counts there, also under a backward rule."""
    twin = copy.copy(model)

    def noted(out: Tensor, size: int) -> Tensor:
        tally.forward += size
        if out.requires_grad:

            def passed(_: Tensor) -> None:
                tally.backward += size

            hook: Callable[..., Any] = out.register_hook  # which torch leaves untyped
            hook(passed)
        return out

    def attend(context: Any, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return noted(model.attend(context, layer, q, k, v), q.shape[:-1].numel())

    def wrapped(how: Callable[[int, Tensor], Tensor]) -> Callable[[int, Tensor], Tensor]:
        return lambda layer, x: noted(how(layer, x), x.shape[:-1].numel())

    def ruled(rule: Rule) -> Model:
        return _counting(under(model, rule), tally)

    vars(twin).update(attend=attend, mlp=wrapped(model.mlp), neurons=wrapped(model.neurons))
    vars(twin).update(under=ruled)
    return twin


@torch.no_grad()
def cost(model: Model, data: Dataset, tally: Tally) -> Cost:
    """What was counted, in runs of one of these prompts: each of them is run once for it."""
    twin, whole = counted(model)
    for batch in data:
        record(twin, twin.start(batch.clean, batch.mask))
    unit = whole.forward / len(data)
    return Cost(tally.forward / unit, tally.backward / unit)
