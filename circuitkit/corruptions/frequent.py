"""The most frequent value of everything that a writer writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.corruptions._written import Carry, Written, average, clean, constant
from circuitkit.data.batches import Dataset
from circuitkit.engine.devices import moved
from circuitkit.engine.model import Model
from circuitkit.engine.numerics import exact
from circuitkit.util.options import Bounds, checked

__all__ = ["peak"]


@checked
def peak(
    model: Model,
    data: Dataset,
    *,
    bins: Annotated[int, Bounds(2, 10_000)] = 100,
    at: str | Sequence[str] = (),
) -> Carry:
    """Peak ablation: a cut edge carries the most frequent value of each dimension of its writer.

    The values of a dimension over all tokens of the clean prompts are put into ``bins`` of equal
    width, from the least to the largest, and the centre of the fullest bin is carried, at every
    token: of several equally full bins, the one nearest to the mean. The dimensions are those of
    the token and position embeddings together, of what a head's output projection takes, and of
    what an MLP writes. Padding does not count. ``at``: see ``zero``. It takes three forwards of the
    data, and ``bins`` numbers for each dimension.

    Few tokens fill few bins: with fewer tokens than bins the fullest one holds two or three of
    them, so give it many prompts, or fewer bins.

    Differs from the paper, which ablates single neurons: of the heads those that we use, and of an
    MLP its inner neurons.

    Raises DataError where there are no examples and, when used, for a span that an example lacks.
    Source: Pochinkov et al. 2024 (peak activation centering).

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=4), model)
        >>> (carried,) = ck.corruptions.peak(model, data, bins=10)(next(iter(data)))
        >>> bool((carried.embed[0, 0] == carried.embed[1, 3]).all())  # at every token
        True
    """
    low, high = _extent(model, data)
    counts = low.map(lambda x: x.new_zeros(bins, *x.shape[2:]))
    for run, kept in _runs(model, data):
        Written.each(partial(_count, kept), counts, run, low, high)
    mean = average(model, data, by_position=False)
    peaks = Written.each(_fullest, counts, low, high, mean)
    return constant(model, peaks.placed(model), at)


def _runs(model: Model, data: Dataset) -> Iterator[tuple[Written, Bool[Tensor, "b p"]]]:
    """What is written in the clean run of each batch, and which of its tokens are not padding."""
    for batch in data:
        yield clean(model, batch), batch.mask


def _extent(model: Model, data: Dataset) -> tuple[Written, Written]:
    """The least and the largest value of each dimension, as one token of one prompt."""

    def end(which: Callable[..., Tensor], kept: Bool[Tensor, "b p"], x: Tensor) -> Tensor:
        return which(exact(x[moved(kept, x.device)]), dim=0)[None, None]

    ends = [
        (run.map(partial(end, torch.amin, kept)), run.map(partial(end, torch.amax, kept)))
        for run, kept in _runs(model, data)
    ]
    lows, highs = zip(*ends, strict=True)
    return (
        reduce(partial(Written.each, torch.minimum), lows),
        reduce(partial(Written.each, torch.maximum), highs),
    )


def _count(
    kept: Bool[Tensor, "b p"],
    counts: Float[Tensor, "bins *_n e"],
    x: Tensor,
    low: Tensor,
    high: Tensor,
) -> Tensor:
    """Add to the counts of the bins, of which the largest value lies in the last."""
    bins, own = len(counts), exact(x[moved(kept, x.device)])
    width = torch.where(high > low, high - low, 1.0)[0]
    place = ((own - low[0]) / width * bins).long().clamp(max=bins - 1)
    return counts.scatter_add_(0, place, torch.ones_like(own))


def _fullest(
    counts: Float[Tensor, "bins *_n e"], low: Tensor, high: Tensor, mean: Tensor
) -> Float[Tensor, "1 1 *_n e"]:
    """The centre of the fullest bin; of several, that of the nearest to the mean."""
    shares = (torch.arange(len(counts)).to(low) + 0.5) / len(counts)
    centres = torch.lerp(low[0], high[0], shares.view(-1, *[1] * (low.ndim - 2)))
    span = torch.where(high > low, high - low, 1.0)[0]
    away = (centres - mean.to(low)[0]).abs() / (2 * span)  # below a count of one
    chosen = (counts - away).argmax(0, keepdim=True)
    return centres.gather(0, chosen)[None]
