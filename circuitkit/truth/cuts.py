"""What cutting an edge changes: alone, and where a random half of the other edges is cut already.

An edge that another one stands in for (a backup, a leg of an OR) changes nothing when it is cut
alone; it does where its substitute is cut too, which is so in many random halves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.metric import Corruption, Metric
from circuitkit.engine.model import Activations, Context, Model
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import answer, record
from circuitkit.engine.run import runs
from circuitkit.engine.sweep import sweep
from circuitkit.graph.types import Mask

__all__ = ["DRAWS", "Change", "any_logit", "changes_alone", "changes_in_halves", "metric_change"]

DRAWS = 512  # random halves; of programs with few edges in question each is cheap
# How far outputs are from plain ones in each example: (outputs, plain ones, clean ones, batch).
Change: TypeAlias = Callable[[Tensor, Tensor, Tensor, Batch], Float[Tensor, " b"]]
Case: TypeAlias = tuple[Batch, Context, Activations, Tensor, Activations]


def any_logit(logits: Tensor, plain: Tensor, clean: Tensor, batch: Batch) -> Float[Tensor, " b"]:
    """The largest change of any logit."""
    found: Tensor = (logits - plain).abs().amax(-1)
    return found


def metric_change(metric: Metric) -> Change:
    """The change of a metric, as a magnitude."""

    def change(logits: Tensor, plain: Tensor, clean: Tensor, batch: Batch) -> Float[Tensor, " b"]:
        found: Tensor = (metric(logits, clean, batch) - metric(plain, clean, batch)).abs()
        return found

    return change


@torch.no_grad()
def changes_alone(
    model: Model, data: Dataset, corruption: Corruption, change: Change
) -> Float[np.ndarray, "writers readers"]:
    """For each edge the mean change over the examples when it alone is cut; 0 where there is no
    edge."""
    found, number = np.zeros(model.wiring.shape), 0
    for batch, context, live, clean, carried in _cases(model, data, corruption):

        def value(
            logits: Tensor, batch: Batch = batch, clean: Tensor = clean
        ) -> Float[Tensor, " b"]:
            return change(logits, clean, clean, batch)

        for edges, values in sweep(model, batch, context, live, carried, value, model.wiring.legal):
            found[tuple(np.array(edges).T)] += exact(values).sum(-1).cpu().numpy()
        number += len(batch.clean)
    return found / max(number, 1)


@torch.no_grad()
def changes_in_halves(
    model: Model,
    data: Dataset,
    corruption: Corruption,
    change: Change,
    *,
    among: Mask,
    asked: Mask,
    draws: int = DRAWS,
    seed: int = 0,
    largest: bool = False,
) -> Float[np.ndarray, "writers readers"]:
    """For each edge that is asked for the largest change over random halves of the other edges when
    it is cut as well; 0 for the other edges.

    In each draw every edge of ``among`` is cut with probability one half, and the edges outside of
    it always are: give all legal edges, or those that can have an effect at all. The change is the
    mean over the examples, or with ``largest`` that of the example that changes most. It takes a
    run for each draw and edge.
    """
    rng, edges = np.random.default_rng(seed), np.argwhere(asked)
    found = np.zeros(among.shape)
    if not len(edges):
        return found
    masks = []
    for _ in range(draws):
        half = among & (rng.random(among.shape) < 0.5)
        masks += [half, *_turned(half, edges)]
    total, top, number = np.zeros((draws, len(edges))), np.zeros((draws, len(edges))), 0
    for batch, context, _, clean, carried in _cases(model, data, corruption):
        several = runs(model, batch, context, carried, masks)
        for draw in range(draws):
            plain, *cut = islice(several, 1 + len(edges))
            values = torch.stack([change(logits, plain, clean, batch) for logits in cut])
            own = exact(values).cpu().numpy()
            total[draw] += own.sum(-1)
            top[draw] = np.maximum(top[draw], own.max(-1))
        number += len(batch.clean)
    found[tuple(edges.T)] = (top if largest else total / max(number, 1)).max(0)
    return found


def _turned(half: Mask, edges: np.ndarray) -> Iterator[Mask]:
    """The mask with each of these edges cut where it is kept, and kept where it is cut."""
    for i, j in edges:
        other = half.copy()
        other[i, j] ^= True
        yield other


def _cases(model: Model, data: Dataset, corruption: Corruption) -> Iterator[Case]:
    """Each batch with its clean run and answers, once for each draw of what cut edges carry."""
    carry = corruption(model, data)
    for batch in data:
        context = model.start(batch.clean, batch.mask)
        live = record(model, context)
        clean = answer(model, batch, live.final)
        for carried in carry(batch):
            yield batch, context, live, clean, carried
