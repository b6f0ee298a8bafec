"""Greedy pruning: a circuit is what is left when every edge that costs too little has been cut.

At growing thresholds, each from what the one before has left, the circuits are nested: a ranking.
Several edges are tested at once, each as if those before it went: what a run of the model then says
is what testing them one after the other says, up to the first edge that has to stay.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.checkpoints import Journal, identity
from circuitkit.engine.inputs import CorruptionLike, Data, Inputs, MetricLike, prepare
from circuitkit.engine.metric import Corruption, Metric, check_metric
from circuitkit.engine.model import Activations, Context, Model
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import answer, difference, record
from circuitkit.engine.run import runs
from circuitkit.errors import ArgumentError, MetricError
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.registry import name_of
from circuitkit.util.json_values import Json
from circuitkit.util.options import Bounds, Seed, checked
from circuitkit.util.progress import Count, counting

__all__ = ["acdc"]

SHARE = 0.01  # of the gap between clean and corrupted, where no threshold is given
FLAT = 1e-6  # a smaller gap, relative to the metric, is rounding
LEAST = float(np.finfo(np.float32).tiny)  # a smaller score of a kept edge would be saved as zero
CHAIN = 32  # edges that are tested at once, at most


@checked
@torch.no_grad()
def acdc(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    threshold: Annotated[float, Bounds(1.2e-38)] | None = None,
    order: Literal["reverse", "forward", "random"] = "reverse",
    seed: Seed = 0,
    thresholds: Sequence[Annotated[float, Bounds(1.2e-38)]] | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> Scores:
    """Automatic circuit discovery (ACDC): cut every edge that costs too little.

    Readers are visited from the logits to the first layer (algorithm 1). Each of their in-edges is
    cut; it stays cut where the metric, in its mean over all examples and draws, falls by less than
    ``threshold``, else it is restored. With ``kl`` the threshold is the paper's; without one, it is
    1 % of what the metric loses from the clean to the corrupted run. ``order`` of a reader's
    in-edges: ``reverse`` (the last writer first, as the authors' program does), ``forward``, or
    ``random``, where ``seed`` shuffles them and the readers of a layer too.

    The score of a kept edge is what the metric lost when it was tested, in the metric's units, and
    at least the threshold; of a cut one it is 0: the nonzero edges are the circuit. Holds the
    activations of all examples.

    With ``thresholds`` it is a ranking instead: from the least to the largest, each is tested on
    the circuit that the one before has left, so that these circuits are nested, and an edge scores
    the largest threshold at which it stays (0: none). The first costs what a single one costs, and
    each further one a test of every edge that was left. ``resume`` is a directory, from which a
    killed run resumes at the last finished threshold.

    Returns Scores [writers, readers], in metric units, whose ``chosen`` is the circuit (with
    ``thresholds`` none). Raises ArgumentError for an argument in the wrong place, a threshold that
    is not positive, an unknown order, and for both a threshold and several, and MetricError where
    the gap is zero and no threshold is given.

    Differs from other tools: an edge has to cost the threshold in the metric's own direction, where
    the authors' program counts changes of ``kl``; edges are tested several at a time, which gives
    what testing them one by one gives.

    Source: Conmy et al. (2023, algorithm 1).

    Example:
        >>> scores = ck.discovery.acdc(model, data, threshold=2.0)
        >>> 0 < int(scores.chosen.sum()) < len(scores)
        True
        >>> ranked = ck.discovery.acdc(model, data, thresholds=[2, 8])
        >>> sorted({float(score) for score in ranked.values[ranked.wiring.legal]})
        [0.0, 2.0, 8.0]
    """
    if threshold is not None and thresholds is not None:
        raise ArgumentError("acdc has a threshold and thresholds; give one or the other")
    if thresholds is not None and not len(thresholds):
        raise ArgumentError("acdc has thresholds=[]; give at least one")
    inputs = prepare(model, data, metric, corruption)
    pruning = _Pruning(*inputs)
    settings: dict[str, Json] = {"order": order, "seed": seed}
    about = {**inputs.metadata(), "method": "acdc"}
    if thresholds is not None:
        settings["thresholds"] = grid = sorted({float(each) for each in thresholds})
        values = _survived(inputs, pruning, grid, settings, resume)
        return Scores(model.wiring, values.astype(np.float32), {**about, "settings": settings})
    settings["threshold"] = least = _checked(threshold, pruning, name_of(inputs.metric))
    pruning.prune(least, order, seed)
    about |= {"settings": settings, "chosen": True}
    return Scores(model.wiring, pruning.losses.astype(np.float32), about)


def _survived(
    inputs: Inputs,
    pruning: _Pruning,
    thresholds: Sequence[float],
    settings: Mapping[str, Json],
    resume: str | os.PathLike[str] | None,
) -> Float[np.ndarray, "writers readers"]:
    """The largest of these ascending thresholds at which each edge stays, and 0 where it never
    does. What is left at each is kept in the directory ``resume``."""
    work = {"what": "acdc over thresholds", **settings, "metric": name_of(inputs.metric),
            "corruption": name_of(inputs.corruption)}  # fmt: skip
    journal = Journal(resume, {**identity(inputs.model, inputs.data), **work})
    plain = np.array([pruning.value, pruning.value - pruning.gap])
    survived = np.zeros(pruning.keep.shape)
    for number, threshold in enumerate(thresholds):
        kept = journal.get(str(number))
        if kept is None:
            pruning.prune(threshold, str(settings["order"]), int(settings["seed"]))
            value = np.array(pruning.value)
            journal.put(str(number), {"keep": pruning.keep, "value": value, "plain": plain})
        else:
            journal.recognise(inputs.model, kept["plain"], plain)
            pruning.keep, pruning.value = kept["keep"], float(kept["value"])
        survived[pruning.keep] = threshold
    return survived


def _checked(threshold: float | None, pruning: _Pruning, metric: str) -> float:
    """The threshold, or the usual share of the gap; raises MetricError where there is none."""
    if threshold is None and abs(pruning.gap) <= FLAT * max(1.0, abs(pruning.value)):
        raise MetricError(
            f"{metric} is {pruning.value:.4g} on the clean run and the same on the corrupted one, "
            "so that a share of the gap cannot be the threshold; give acdc one, or use a "
            "different metric or corruption"
        )
    return SHARE * abs(pruning.gap) if threshold is None else float(threshold)


def _readers(wiring: Wiring, rng: np.random.Generator | None) -> Iterator[int]:
    """The readers in reverse topological order; those that read at one place are
    shuffled, if they are to be."""
    yield wiring.shape[1] - 1
    for _, stages in groupby(reversed(wiring.stages), key=lambda stage: stage.upstream):
        equals = [
            column
            for stage in stages
            for column in reversed(range(stage.columns.start, stage.columns.stop))
        ]
        yield from equals if rng is None else rng.permutation(equals).tolist()


def _writers(wiring: Wiring, column: int, order: str, rng: np.random.Generator | None) -> list[int]:
    """The writers upstream of a reader, in the order in which their edges are tested."""
    rows = list(range(wiring.since[column], wiring.upstream[column]))
    if rng is not None:
        rng.shuffle(rows)
    return rows[::-1] if order == "reverse" else rows


class _Pruning:
    """The graph that is pruned: ``keep`` is what is left of it, ``value`` the mean metric in it and
    ``losses`` what each edge cost that had to stay."""

    def __init__(self, model: Model, data: Dataset, metric: Metric, corruption: Corruption) -> None:
        self.model, self.examples = model, len(data)
        self.parts: list[_Part] = []
        whole = []
        for part in _parts(model, data, metric, corruption):
            whole.append(part.value(part.reference))  # stops at the first that has no value
            self.parts.append(part)
        self.keep = model.wiring.legal.copy()
        self.losses = np.zeros(model.wiring.shape)
        self.value = self._mean(whole)
        self.gap = self.value - self._mean([part.corrupted(model) for part in self.parts])
        self.chain = CHAIN

    def prune(self, threshold: float, order: str, seed: int) -> None:
        """Test every edge that is left."""
        wiring = self.model.wiring
        rng = np.random.default_rng(seed) if order == "random" else None
        with counting(int(self.keep.sum()), f"acdc at {threshold:.3g}", "edge") as count:
            for column in _readers(wiring, rng):
                rows = _writers(wiring, column, order, rng)
                self.visit(column, [r for r in rows if self.keep[r, column]], threshold, count)

    def visit(self, column: int, rows: list[int], threshold: float, count: Count) -> None:
        """Test the edges from these writers to a reader, in their order."""
        if not self._heard(column):
            self.keep[:, column] = False
            count(len(rows))
            return
        while rows:
            tested = self._test(column, rows[: self.chain], threshold)
            stayed = self.keep[rows[tested - 1], column]
            self.chain = min(CHAIN, 2 * (tested if stayed else self.chain))
            rows = rows[tested:]
            count(tested)

    def _heard(self, column: int) -> bool:
        """Whether a kept edge leaves a component that this reader is an input of."""
        wiring = self.model.wiring
        if column == wiring.shape[1] - 1:
            return True
        rows = [row for row in range(wiring.shape[0]) if column in wiring.feeds(row)]
        return bool(self.keep[rows].any())

    def _test(self, column: int, rows: Sequence[int], threshold: float) -> int:
        """Cut these edges, each beside those before it, up to the first that has to stay; returns
        how many have been decided."""
        masks = []
        for n in range(len(rows)):
            masks.append(self.keep.copy())
            masks[n][rows[: n + 1], column] = False
        for row, value in zip(rows, self._measure(masks), strict=True):
            loss = self.value - value
            if not loss < threshold:
                self.losses[row, column] = loss
                return rows.index(row) + 1
            self.keep[row, column], self.value = False, value
        return len(rows)

    def _measure(self, masks: Sequence[Mask]) -> list[float]:
        """The mean metric under each mask; of a nested series, the last of them the smallest."""
        untouched = self._untouched(masks[-1])
        free = [mask & ~self._into(untouched) for mask in masks]
        sums = [part.under(self.model, free, untouched) for part in self.parts]
        means: list[float] = (np.sum(sums, axis=0) / self.examples).tolist()
        return means

    def _mean(self, values: Sequence[Float[Tensor, ""]]) -> float:
        return float(sum(values)) / self.examples

    # -- what needs no run ------------------------------------------------------------------------
    def _untouched(self, smallest: Mask) -> list[int]:
        """The writers that write what they do in the clean run, for nothing upstream is cut.

        Where the components of a stage depend on each other, one that nobody hears counts with what
        it carries, so that of such a stage nothing is known beforehand, nor of what hears it.
        """
        wiring, kinds, rows = self.model.wiring, self.model.kinds, [0]
        joint = [kinds[stage.kind].joint(self.model) for stage in wiring.stages]
        live = np.asarray((wiring.alive(smallest) if any(joint) else wiring.legal).any(1))
        for stage in wiring.stages:
            part = joint[stage.index] and not live[stage.rows].all()
            if part or not smallest[stage.heard, stage.columns].all():
                return rows
            rows += range(stage.rows.start, stage.rows.stop)
        return rows

    def _into(self, rows: Sequence[int]) -> Mask:
        """The edges into these writers' own inputs."""
        into = np.zeros(self.model.wiring.shape, dtype=bool)
        for row in rows:
            into[:, self.model.wiring.feeds(row)] = True
        return into


def _parts(model: Model, data: Dataset, metric: Metric, corruption: Corruption) -> Iterator[_Part]:
    """The batches, once for each draw of the corruption."""
    carry = corruption(model, data)
    for batch in data:
        context = model.start(batch.clean, batch.mask)
        live = record(model, context)
        draws = carry(batch)
        for carried in draws:
            yield _Part(model, batch, context, live, carried, metric, 1 / len(draws))


class _Part:
    """A batch under one draw of the corruption, with its clean run; it counts with ``weight``."""

    def __init__(
        self,
        model: Model,
        batch: Batch,
        context: Context,
        live: Activations,
        carried: Activations,
        metric: Metric,
        weight: float,
    ) -> None:
        self.batch, self.context, self.carried = batch, context, carried
        self.metric, self.weight = metric, weight
        self.live = live.written()
        self.reference = answer(model, batch, live.final)
        self.deltas: dict[int, Tensor] = {}

    def value(self, logits: Float[Tensor, "b vocab"]) -> Float[Tensor, ""]:
        """The metric, summed over the examples."""
        values = check_metric(self.metric, logits, self.reference, self.batch)
        return self.weight * exact(values).sum()

    def corrupted(self, model: Model) -> Float[Tensor, ""]:
        """The same when every edge is cut."""
        return self.value(answer(model, self.batch, self.carried.final))

    def under(
        self, model: Model, masks: Sequence[Mask], rows: Sequence[int]
    ) -> Float[np.ndarray, " masks"]:
        """The same under each mask, when these writers write what they do in the clean run."""
        known = self._precomputed(model, rows)
        found = runs(model, self.batch, self.context, self.carried, masks, known)
        sums: np.ndarray = torch.stack([self.value(logits) for logits in found]).cpu().numpy()
        return sums

    def _precomputed(
        self, model: Model, rows: Sequence[int]
    ) -> Mapping[int, Float[Tensor, "b p d"]]:
        """Live − carried of these writers; what was found for the last reader is used again."""
        known = self.deltas
        self.deltas = {
            row: known[row] if row in known else difference(model, self.live, self.carried, row)
            for row in rows
        }
        return self.deltas
