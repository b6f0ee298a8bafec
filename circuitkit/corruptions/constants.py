"""Corruptions that carry the same values for every example: zeros and means.

Where ``at`` names tokens, they do so at these, and carry what the clean run writes elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset, span_names
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import assemble, record
from circuitkit.errors import DataError
from circuitkit.util.options import checked

__all__ = ["mean", "mean_by_position", "zero"]

Carry = Callable[[Batch], list[Activations]]


@checked
def zero(model: Model, data: Dataset, *, at: str | Sequence[str] = ()) -> Carry:
    """Zero ablation: a cut edge carries zeros.

    ``input`` is cut as a whole, token and position embeddings together. EAP-IG's ``zero`` cuts the
    token embedding alone and keeps the position embedding where a model adds one (GPT-2), so that
    its numbers differ from ours there. Biases that do not belong to a writer (of the attention's
    output projection) stay.

    ``at`` names the tokens (a span, as ``S2``, or several) at which edges are cut; without it, all.
    At the others a cut edge carries what its writer writes in the clean run.

    Raises DataError, when used, for a span that an example lacks.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=4), model)
        >>> zero = ck.corruptions.zero(model, data)
        >>> (carried,) = zero(next(iter(data)))
        >>> float(carried.embed.abs().max())
        0.0
    """
    one = torch.zeros(1, 1, model.d_model, device=model.device, dtype=model.dtype)
    nothing = [
        one.new_zeros(1, 1, stage.writes, model.kinds[stage.kind].width(model))
        for stage in model.wiring.stages
    ]
    return _constant(model, _Written(one, nothing, nothing), at)


@checked
def mean(model: Model, data: Dataset, *, at: str | Sequence[str] = ()) -> Carry:
    """Mean ablation: a cut edge carries its writer's mean over all tokens of the clean prompts.

    Each writer has a mean of its own. EAP-IG's ``mean`` is one vector for all nodes: it averages
    over them too (``compute_mean_activations``, read in 2026), so its numbers differ from ours.
    Padding does not count. ``at``: see ``zero``.

    Raises DataError where there are no examples and, when used, for a span that an example lacks.
    Source: Wang et al. 2023, who average by position, see ``mean_by_position``.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=4), model)
        >>> (carried,) = ck.corruptions.mean(model, data)(next(iter(data)))
        >>> bool((carried.embed[0, 0] == carried.embed[1, 3]).all())  # at every token
        True
    """
    return _constant(model, _average(model, data, by_position=False), at)


@checked
def mean_by_position(model: Model, data: Dataset, *, at: str | Sequence[str] = ()) -> Carry:
    """Mean ablation by position: a cut edge carries its writer's mean at the same position.

    The mean is taken over the clean prompts of the data.

    Positions count from a prompt's first token, whatever the padding, so it suits prompts that are
    aligned. ``at``: see ``zero``.

    Raises DataError where there are no examples and, when used, for a span that an example lacks
    and for a prompt longer than any that was averaged over. Source: Wang et al. 2023, §2.1.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=4), model)
        >>> (carried,) = ck.corruptions.mean_by_position(model, data)(next(iter(data)))
        >>> bool((carried.embed[0, 2] == carried.embed[1, 2]).all())
        True
    """
    return _constant(model, _average(model, data, by_position=True), at)


@dataclass
class _Written:
    """What each writer writes; [1, 1, ...] for all positions, or [1, pos, ...] by position."""

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
    """The mean over tokens that are not padding, accumulated in float64."""
    length = data.longest if by_position else 1
    total: _Written | None = None
    count = exact(torch.zeros(length, device=model.device))
    for batch in data:
        run = _clean(model, batch)
        at = (batch.mask.long().cumsum(-1) - 1).clamp(min=0) if by_position else 0 * batch.clean
        places = at[batch.mask].to(count.device)
        count.index_add_(0, places, torch.ones_like(places, dtype=count.dtype))
        sums = run.map(lambda x, m=batch.mask, p=places: _sum(x, m, p, length))  # type: ignore[misc]
        if total is None:
            total = sums
        else:
            for mine, new in zip(total.parts(), sums.parts(), strict=True):
                mine += new
    if total is None:
        raise DataError("there are no examples to average over; give at least one")
    return total.map(
        lambda x: (x / count.view(-1, *[1] * (x.ndim - 1)))[None].to(model.device, model.dtype)
    )


def _clean(model: Model, batch: Batch) -> _Written:
    with torch.no_grad():
        return _Written.of(record(model, model.start(batch.clean, batch.mask)))


def _sum(x: Tensor, mask: Tensor, places: Tensor, length: int) -> Tensor:
    kept = exact(x[mask])
    return kept.new_zeros(length, *x.shape[2:]).index_add_(0, places, kept)


def _constant(model: Model, written: _Written, at: str | Sequence[str]) -> Carry:
    """What was written, at every token or at those that are named."""

    def carried(batch: Batch) -> list[Activations]:
        places = (batch.mask.long().cumsum(-1) - 1).clamp(min=0)
        known = written.embed.shape[1]
        if 1 < known <= int(places.max()):
            raise DataError(
                f"a prompt has {int(places.max()) + 1} tokens, but means by position are known for "
                f"{known}; average over data with prompts as long"
            )

        def spread(x: Tensor) -> Tensor:
            return x[0][places] if known > 1 else x.expand(*batch.mask.shape, *x.shape[2:])

        full = written.map(spread)
        if at:
            full = full.where(batch.within(*span_names(at)), _clean(model, batch))
        return [assemble(model, full.embed, full.computed, full.shares)]

    return carried
