"""Whether the path along which a method takes gradients is resolved by the points that it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float

from circuitkit.data.batches import Batch
from circuitkit.engine.gradients import holding
from circuitkit.engine.holding import held_norms
from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare
from circuitkit.engine.metric import Metric, check_metric
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import answer, record
from circuitkit.util.options import Bounds, Count, checked

__all__ = ["MOST", "PathResolution", "path_resolved"]

MOST = 0.95  # of the gap in one interval: where gradients worked it was at most 0.90, else 0.97


@dataclass(frozen=True)
class PathResolution:
    """The metric along the way from the carried run to the clean one.

    ``shares`` are the points of the way, from 0 to 1, and ``values`` how much of the gap between
    its ends the metric has made up there: from 0 to 1 too. ``largest`` is the largest change from
    one point to the next, ``where`` the two points. The path is ``resolved`` where it is at most
    ``MOST``. ``gap`` is how much the metric differs between the ends, per example.
    """

    shares: tuple[float, ...]
    values: tuple[float, ...]
    gap: float = math.nan

    @property
    def changes(self) -> tuple[float, ...]:
        """How much of the gap lies between each two points."""
        return tuple(abs(b - a) for a, b in zip(self.values, self.values[1:], strict=False))

    @property
    def largest(self) -> float:
        """The largest of the changes; nan where there is no gap, or a run overflows."""
        return float(np.max(self.changes))

    @property
    def where(self) -> tuple[float, float]:
        """The two points between which it lies."""
        place = int(np.argmax(self.changes))
        return self.shares[place], self.shares[place + 1]

    @property
    def resolved(self) -> bool:
        """Whether no interval holds more of the gap than a mean of gradients can tell."""
        return self.largest <= MOST

    def __str__(self) -> str:
        if np.isnan(self.largest):
            return "not resolved: there is no gap, or a run on the way overflows"
        verdict, (low, high) = "resolved" if self.resolved else "not resolved", self.where
        return (
            f"{verdict}: {self.largest:.2f} of the gap lies between {low:.2g} and {high:.2g} of "
            "the way from the carried run to the clean one"
        )


@checked
def path_resolved(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    points: Annotated[int, Bounds(2, 1_000)] = 5,
    norms: Literal["live", "clean", "larger"] = "live",
    examples: Count = 16,
) -> PathResolution:
    """Whether the mean of gradients along the way to the clean run can say what edges do.

    Mask gradients take the gradient in runs whose readers read a share of the way from the carried
    residual to the running one, at so many ``points``. They are informative about the edges only
    where the metric changes. This runs the model at the ends of the intervals around the points,
    for the first ``examples``: points + 1 forwards of each, without a backward.

    Where more than ``MOST`` of the gap lies in one interval, or the metric swings by more than that
    there, no mean over these points can be trusted; use exact effects or a learned ranking. Under
    ``zero`` this is so in every model with norms in front of its components: a norm of a share of
    the residual is that of the whole, so that the metric stays where it is until the share is next
    to nothing. ``norms`` are those of ``mask_gradient``, which may hold them at the clean run's
    scales: that is another path. Under ``mean`` it is so in models whose first token carries a
    residual hundreds of times larger than the others': its share in the mean drowns them.

    A resolved path does not yet mean a good ranking: the sum of a mask gradient's scores, which is
    the gap where the points suffice, has to agree as well.

    Raises as ``prepare`` does, MetricError for what a metric may not be, and UnsupportedModelError
    for norms that cannot be held.

    Example:
        >>> from circuitkit.engine.resolution import path_resolved
        >>> print(path_resolved(model, data, "logit_diff", "zero"))
        not resolved: 0.99 of the gap lies between 0 and 0.2 of the way from the carried run ...
        >>> path_resolved(model, data, "logit_diff").resolved
        True
    """
    model, whole, measure, corrupt = prepare(model, data, metric, corruption)
    shares = np.linspace(0, 1, points + 1)
    total, first = np.zeros(points + 1), whole.examples[:examples]
    with torch.no_grad():
        carry = corrupt(model, whole)
        for batch in replace(whole, examples=first):
            draws = carry(batch)
            for carried in draws:
                total += _along(model, batch, measure, carried, shares, norms) / len(draws)
    gap = total[-1] - total[0]
    values = (total - total[0]) / gap if gap else np.full(points + 1, np.nan)
    return PathResolution(
        tuple(map(float, shares)), tuple(map(float, values)), float(gap / len(first))
    )


def _along(
    model: Model,
    batch: Batch,
    metric: Metric,
    carried: Activations,
    shares: Float[np.ndarray, " n"],
    norms: str,
) -> Float[np.ndarray, " n"]:
    """The metric, summed over a batch, at each share of the way; nan where a run overflows."""
    context = model.start(batch.clean, batch.mask)
    clean = record(model, context)
    reference = answer(model, batch, clean.final)

    def at(share: float) -> float:
        end = {0.0: carried.final, 1.0: clean.final}.get(share)
        if end is None:
            end = record(model, context, carried=carried, share=share).final
        logits = answer(model, batch, end)
        if not bool(logits.isfinite().all()):
            return math.nan
        return float(exact(check_metric(metric, logits, reference, batch)).sum())

    with holding(model, held_norms(model, batch, clean, norms)):
        return np.array([at(float(share)) for share in shares])
