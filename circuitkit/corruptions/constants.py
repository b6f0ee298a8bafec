"""Corruptions that carry the same values for every example: zeros and means.

If ``spans`` are named, they do so at their tokens, and carry what the clean run writes elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.record import assemble, record
from circuitkit.errors import DataError

__all__ = ["mean", "mean_by_position", "zero"]

Carry = Callable[[Batch], list[Activations]]


def zero(model: Model, data: Dataset, *, spans: Sequence[str] = ()) -> Carry:
    """Zeros: every writer writes nothing (biases that do not belong to a writer stay).

    The embedding is zero as a whole, with its positions; EAP-IG's zero ablation keeps them.
    If ``spans`` are named, only their tokens are corrupted; raises DataError, when used, for a span
    that an example does not have.

    Example:
        >>> carried = ck.corruptions.zero(model, data)
        >>> len(carried(next(iter(data))))
        1
    """
    one = torch.zeros(1, 1, model.d_model, device=model.device, dtype=model.dtype)
    nothing = [
        one.new_zeros(1, 1, stage.writes, model.kinds[stage.kind].width(model))
        for stage in model.wiring.stages
    ]
    return _constant(model, _Written(one, nothing, nothing), spans)


def mean(model: Model, data: Dataset, *, spans: Sequence[str] = ()) -> Carry:
    """What each writer writes on average over all tokens of the clean prompts of the data.

    Each writer has its own mean; EAP-IG's mean ablation takes one vector for all nodes.
    If ``spans`` are named, only their tokens are corrupted; raises DataError, when used, for a span
    that an example does not have.

    Example:
        >>> carried = ck.corruptions.mean(model, data)
        >>> len(carried(next(iter(data))))
        1
    """
    return _constant(model, _average(model, data, by_position=False), spans)


def mean_by_position(model: Model, data: Dataset, *, spans: Sequence[str] = ()) -> Carry:
    """What each writer writes on average at each position of the clean prompts of the data.

    Positions count from the first token. If ``spans`` are named, only their tokens are corrupted.
    Raises DataError, when used, for a span that an example does not have, and for a prompt that is
    longer than all of the data.

    Example:
        >>> carried = ck.corruptions.mean_by_position(model, data)
        >>> len(carried(next(iter(data))))
        1
    """
    return _constant(model, _average(model, data, by_position=True), spans)


@dataclass
class _Written:
    """What every writer writes; [1, 1, ...] for all positions, or [1, pos, ...] by position."""

    embed: Tensor
    computed: list[Tensor]
    shares: list[Tensor]

    def parts(self) -> Iterator[Tensor]:
        yield self.embed
        yield from self.computed
        yield from self.shares

    @classmethod
    def of(cls, run: Activations) -> _Written:
        return cls(run.embed, list(run.computed), list(run.shares))

    def map(self, change: Callable[[Tensor], Tensor]) -> _Written:
        return _Written(
            change(self.embed), *([change(x) for x in xs] for xs in (self.computed, self.shares))
        )

    def where(self, chosen: Bool[Tensor, "b p"], other: _Written) -> _Written:
        """This at the chosen tokens, and the other at the rest."""
        theirs = other.parts()  # in the order in which map goes
        return self.map(
            lambda x: torch.where(chosen.view(*chosen.shape, *[1] * (x.ndim - 2)), x, next(theirs))
        )


def _average(model: Model, data: Dataset, *, by_position: bool) -> _Written:
    """The mean over tokens that are not padding, accumulated in float32."""
    length = max(len(e.clean) for e in data.examples) if by_position else 1
    total: _Written | None = None
    count = torch.zeros(length, device=model.device)
    for batch in data:
        run = _clean(model, batch)
        at = (batch.mask.long().cumsum(-1) - 1).clamp(min=0) if by_position else 0 * batch.clean
        places = at[batch.mask]
        count.index_add_(0, places, torch.ones_like(places, dtype=count.dtype))
        sums = run.map(lambda x, m=batch.mask, p=places: _sum(x, m, p, length))  # type: ignore[misc]
        if total is None:
            total = sums
        else:
            for mine, new in zip(total.parts(), sums.parts(), strict=True):
                mine += new
    if total is None:
        raise DataError("there are no examples to average over; give at least one")
    return total.map(lambda x: (x / count.view(-1, *[1] * (x.ndim - 1)))[None].to(model.dtype))


def _clean(model: Model, batch: Batch) -> _Written:
    with torch.no_grad():
        return _Written.of(record(model, model.start(batch.clean, batch.mask)))


def _sum(x: Tensor, mask: Tensor, places: Tensor, length: int) -> Tensor:
    out = torch.zeros(length, *x.shape[2:], device=x.device)
    return out.index_add_(0, places, x[mask].float())


def _constant(model: Model, written: _Written, spans: Sequence[str]) -> Carry:
    """What was written, at every token or at those of the spans."""

    def carried(batch: Batch) -> list[Activations]:
        at = (batch.mask.long().cumsum(-1) - 1).clamp(min=0)
        known = written.embed.shape[1]
        if 1 < known <= int(at.max()):
            raise DataError(
                f"a prompt has {int(at.max()) + 1} tokens, but means by position are known for "
                f"{known}; average over data with prompts as long"
            )

        def spread(x: Tensor) -> Tensor:
            return x[0][at] if known > 1 else x.expand(*batch.mask.shape, *x.shape[2:])

        full = written.map(spread)
        if spans:
            full = full.where(batch.within(*spans), _clean(model, batch))
        return [assemble(model, full.embed, full.computed, full.shares)]

    return carried
