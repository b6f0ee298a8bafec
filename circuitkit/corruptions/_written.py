"""What every writer writes, as values for whole data: how they are gathered, and how they are
carried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset, span_names
from circuitkit.engine.devices import device_of, moved
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import assemble, record
from circuitkit.errors import DataError

__all__ = ["Carry", "Written", "average", "clean", "constant", "later"]

Carry: TypeAlias = Callable[[Batch], list[Activations]]


@dataclass
class Written:
    """What each writer writes; [1, 1, ...] for all positions, or [1, pos, ...] by position."""

    embed: Tensor
    computed: list[Tensor]
    shares: list[Tensor]

    def parts(self) -> Iterator[Tensor]:
        yield self.embed
        yield from self.computed
        yield from self.shares

    @classmethod
    def of(cls, run: Activations) -> Written:
        return cls(run.embed, list(run.computed), list(run.shares))

    @classmethod
    def each(cls, make: Callable[..., Tensor], *given: Written) -> Written:
        """What is made of each part of these, one after the other."""
        made = [make(*own) for own in zip(*(one.parts() for one in given), strict=True)]
        half = 1 + len(given[0].computed)
        return cls(made[0], made[1:half], made[half:])

    def map(self, change: Callable[[Tensor], Tensor]) -> Written:
        return Written.each(change, self)

    def where(self, chosen: Bool[Tensor, "b p"], other: Written) -> Written:
        """This at the chosen tokens, and the other at the rest."""

        def at(x: Tensor, y: Tensor) -> Tensor:
            here = moved(chosen, x.device)
            return torch.where(here.view(*here.shape, *[1] * (x.ndim - 2)), x, y)

        return Written.each(at, self, other)

    def placed(self, model: Model) -> Written:
        """The same in the model's type, each part where its writers compute."""
        at = [device_of(model, stage) for stage in model.wiring.stages]

        def to(parts: list[Tensor]) -> list[Tensor]:
            return [x.to(device, model.dtype) for x, device in zip(parts, at, strict=True)]

        return Written(self.embed.to(model.device, model.dtype), to(self.computed), to(self.shares))


def average(
    model: Model, data: Dataset, *, by_position: bool, without_first: bool = False
) -> Written:
    """The mean over tokens that are not padding, accumulated in float64; ``without_first``, over
    all but the first of each text."""
    length = data.longest if by_position else 1
    total: Written | None = None
    count = exact(torch.zeros(length, device=model.device))
    for batch in data:
        run = clean(model, batch)
        at = (batch.mask.long().cumsum(-1) - 1).clamp(min=0) if by_position else 0 * batch.clean
        chosen = later(batch) if without_first else batch.mask
        places = at[chosen].to(count.device)
        count.index_add_(0, places, torch.ones_like(places, dtype=count.dtype))
        sums = run.map(lambda x, m=chosen, p=places: _sum(x, m, p, length))  # type: ignore[misc]
        if total is None:
            total = sums
        else:
            for mine, new in zip(total.parts(), sums.parts(), strict=True):
                mine += new
    if total is None:
        raise DataError("there are no examples to average over; give at least one")
    if not bool(count.all()):
        raise DataError("every prompt is a single token, and the first ones are left out")

    def mean(x: Tensor) -> Tensor:
        return (x / moved(count, x.device).view(-1, *[1] * (x.ndim - 1)))[None]

    return total.map(mean).placed(model)


def later(batch: Batch) -> Bool[Tensor, "batch pos"]:
    """All tokens but the first of each text."""
    return batch.mask & (batch.mask.long().cumsum(-1) > 1)


def clean(model: Model, batch: Batch) -> Written:
    """What every writer writes in the clean run of a batch."""
    with torch.no_grad():
        return Written.of(record(model, model.start(batch.clean, batch.mask)))


def _sum(x: Tensor, mask: Tensor, places: Tensor, length: int) -> Tensor:
    kept = exact(x[moved(mask, x.device)])
    zeros = kept.new_zeros(length, *x.shape[2:])
    return zeros.index_add_(0, moved(places, kept.device), kept)


def constant(
    model: Model,
    written: Written,
    at: str | Sequence[str],
    *,
    without_first: bool = False,
    embed: Callable[[Batch], Float[Tensor, "batch pos d"]] | None = None,
) -> Carry:
    """What was written, at every token or at those that are named; ``without_first``, but not at
    the first of each text. ``embed`` gives what is carried for the embedding, in its place."""

    def carried(batch: Batch) -> list[Activations]:
        places = (batch.mask.long().cumsum(-1) - 1).clamp(min=0)
        known = written.embed.shape[1]
        if 1 < known <= int(places.max()):
            raise DataError(
                f"a prompt has {int(places.max()) + 1} tokens, but means by position are known for "
                f"{known}; average over data with prompts as long"
            )

        def spread(x: Tensor) -> Tensor:
            if known == 1:
                return x.expand(*batch.mask.shape, *x.shape[2:])
            return x[0][moved(places, x.device)]

        full = written.map(spread)
        if embed is not None:
            full.embed = embed(batch)
        if at or without_first:
            chosen = batch.within(*span_names(at)) if at else batch.mask
            chosen = chosen & later(batch) if without_first else chosen
            full = full.where(chosen, clean(model, batch))
        return [assemble(model, full.embed, full.computed, full.shares)]

    return carried
