"""How much of a behaviour a circuit carries.

    faithfulness = (m(circuit) − m(nothing)) / (m(everything) − m(nothing))

with m the metric, everything the clean run and nothing the carried one (Hanna et al. 2024; MIB,
Mueller et al. 2025): 1 is the full model, 0 the corruption, and more than 1 an overshoot. Reported
as the ratio of means, with a bootstrap interval over the examples, and as the mean of ratios, which
weighs examples with a small gap heavily (Miller et al. 2024).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import nan
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.checkpoints import Journal, digest, identity
from circuitkit.engine.dealing import Block, by_batch, joined
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    MetricLike,
    Several,
    is_several,
    prepare,
    prepare_each,
    require_model,
)
from circuitkit.engine.memory import room_of
from circuitkit.engine.metric import Corruption, Metric, check_metric
from circuitkit.engine.model import Model
from circuitkit.engine.numerics import exact
from circuitkit.engine.processes import agreed
from circuitkit.engine.record import answer, record
from circuitkit.engine.run import POOL_BYTES, runs
from circuitkit.errors import EvaluationError
from circuitkit.evaluation.masks import (
    CircuitLike,
    as_any_mask,
    as_masks,
    drawn_nodes,
    is_one,
    nodes_beside,
    others,
)
from circuitkit.evaluation.results import TableResult
from circuitkit.evaluation.spaces import Plain, Space, space_of
from circuitkit.graph.places import AnyMask, bits_of, edges_of
from circuitkit.graph.types import Mask
from circuitkit.registry import name_of
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.statistics import LEVEL, bootstrap_interval, interval_text
from circuitkit.util.tables import to_frame

if TYPE_CHECKING:
    import pandas

__all__ = [
    "Beside",
    "Evaluation",
    "completeness",
    "evaluate",
    "evaluate_beside",
    "evaluations",
    "measure_all",
]

VERSION = 1  # of the blocks on disk
SMALL = 1e-2  # metrics whose values are all below this are compared as if they were this large


@dataclass(frozen=True)
class Evaluation(TableResult):
    """The metric of every example: of the whole model, of nothing kept, and of the circuit.

    ``everything``, ``nothing`` and ``circuit`` are arrays [examples] in metric units; ``edges`` is
    the number of edges that were kept.
    """

    everything: Float[np.ndarray, " examples"]
    nothing: Float[np.ndarray, " examples"]
    circuit: Float[np.ndarray, " examples"]
    metric: str
    corruption: str
    edges: int

    @cached_property
    def faithfulness(self) -> float:
        """The ratio of means: 1 is the full model, 0 the corruption.

        Raises EvaluationError where the metric's gap is zero.
        """
        gap = float(self.everything.mean() - self.nothing.mean())
        if abs(gap) <= 1e-6 * max(1.0, float(np.abs(self.everything).mean())):
            raise EvaluationError(
                f"{self.metric} is {self.everything.mean():.4g} on the full model and the same "
                f"under {self.corruption}, so faithfulness is undefined; use a different metric "
                "or corruption, or prompts that the model can do"
            )
        return float(self.circuit.mean() - self.nothing.mean()) / gap

    @property
    def mean_of_ratios(self) -> float:
        """The mean over examples of each one's own ratio; examples without a gap are left out, and
        it is nan where no example has one."""
        known = self.ratios[~np.isnan(self.ratios)]
        return float(known.mean()) if known.size else nan

    @property
    def ratios(self) -> Float[np.ndarray, " examples"]:
        """The faithfulness of each example alone; nan where the example has no gap."""
        gap = self.everything - self.nothing
        usable = np.abs(gap) > 1e-6
        return np.where(usable, self.circuit - self.nothing, nan) / np.where(usable, gap, 1)

    def interval(
        self, level: float = LEVEL, resamples: int = 1000, seed: int = 0
    ) -> tuple[float, float]:
        """The bootstrap interval of the ratio of means, over the examples: its low and high end."""
        samples = (self.nothing, self.everything, self.circuit)
        return bootstrap_interval(_ratio_of_means, samples, level, resamples, seed)

    def said(self, **beside: float) -> dict[str, Json]:
        """What a circuit's file says of its faithfulness: the value, the ends of its interval, and
        what is beside it, in four digits; what is not known is None."""
        low, high = self.interval()
        numbers = {"value": self.faithfulness, "low": low, "high": high, **beside}
        found: dict[str, Json] = nan_to_none({key: round(x, 4) for key, x in numbers.items()})
        return found

    def to_frame(self) -> pandas.DataFrame:
        """A row for each example.

        Columns: ``example`` (counted from 0), ``everything``, ``nothing`` and ``circuit`` (the
        metric of the whole model, of nothing kept and of the circuit), ``ratio`` (the faithfulness
        of that example alone; nan where it has no gap).

        Example:
            >>> list(ck.evaluate(model, circuit, data).to_frame())
            ['example', 'everything', 'nothing', 'circuit', 'ratio']
        """
        columns = {"everything": self.everything, "nothing": self.nothing, "circuit": self.circuit,
                   "ratio": self.ratios}  # fmt: skip
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return to_frame(
            [{"example": i, **dict(zip(columns, row, strict=True))} for i, row in enumerate(rows)],
            ["example", *columns],
        )

    def to_dict(self) -> dict[str, Json]:
        """All numbers but the examples' own, for machines; what is undefined is None."""
        means = {name: float(getattr(self, name).mean())
                 for name in ("everything", "nothing", "circuit")}  # fmt: skip
        numbers = {"faithfulness": nan, "low": nan, "high": nan, "mean_of_ratios": nan}
        if self._defined:
            low, high = self.interval()
            numbers = {"faithfulness": self.faithfulness, "low": low, "high": high,
                       "mean_of_ratios": self.mean_of_ratios}  # fmt: skip
        found: dict[str, Json] = nan_to_none(
            {"metric": self.metric, "corruption": self.corruption, "edges": self.edges,
             "examples": len(self.circuit), **means, **numbers}
        )  # fmt: skip
        return found

    @property
    def _defined(self) -> bool:
        """Whether the metric has a gap."""
        try:
            _ = self.faithfulness
        except EvaluationError:
            return False
        return True

    def _value(self) -> str:
        """The faithfulness with its interval."""
        if not self._defined:
            return "undefined"
        low, high = self.interval()
        return f"{self.faithfulness:.3f} {interval_text(low, high)}"

    def __str__(self) -> str:
        return (
            f"faithfulness {self._value()} of {self.edges:,} edges ({self.metric}, "
            f"{self.corruption}, {len(self.circuit)} examples)"
        )

    def __repr__(self) -> str:
        return (
            f"faithfulness {self._value()} ({self.edges:,} edges, "
            f"{self.metric} under {self.corruption}: {self.circuit.mean():.3f} of "
            f"{self.everything.mean():.3f}, nothing {self.nothing.mean():.3f}, "
            f"{len(self.circuit)} examples)"
        )


def _ratio_of_means(
    nothing: Float[np.ndarray, "draws examples"],
    everything: Float[np.ndarray, "draws examples"],
    circuit: Float[np.ndarray, "draws examples"],
) -> Float[np.ndarray, " draws"]:
    low, full, here = (own.mean(-1) for own in (nothing, everything, circuit))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((here - low) / (full - low))


@overload
def evaluate(  # type: ignore[overload-overlap]  # a str is a sequence too
    model: Model,
    circuit: CircuitLike,
    data: Data,
    metric: MetricLike | None = ...,
    corruption: CorruptionLike | None = ...,
    *,
    resume: str | os.PathLike[str] | None = ...,
) -> Evaluation: ...
@overload
def evaluate(  # type: ignore[overload-overlap]  # a str is a sequence too
    model: Model,
    circuit: Sequence[CircuitLike],
    data: Data,
    metric: MetricLike | None = ...,
    corruption: CorruptionLike | None = ...,
    *,
    resume: str | os.PathLike[str] | None = ...,
) -> list[Evaluation]: ...
@overload
def evaluate(
    model: Model,
    circuit: CircuitLike,
    data: Data,
    metric: Several,
    corruption: CorruptionLike | None = ...,
    *,
    resume: str | os.PathLike[str] | None = ...,
) -> list[Evaluation]: ...
@overload
def evaluate(
    model: Model,
    circuit: Sequence[CircuitLike],
    data: Data,
    metric: Several,
    corruption: CorruptionLike | None = ...,
    *,
    resume: str | os.PathLike[str] | None = ...,
) -> list[list[Evaluation]]: ...
def evaluate(
    model: Model,
    circuit: CircuitLike | Sequence[CircuitLike],
    data: Data,
    metric: MetricLike | Several | None = None,
    corruption: CorruptionLike | None = None,
    *,
    resume: str | os.PathLike[str] | None = None,
) -> Evaluation | list[Evaluation] | list[list[Evaluation]]:
    """How much of the behaviour a circuit carries, measured on every example.

    Returns the Evaluation of a circuit, or a list of those of several, which share what they
    compute alike; of several metrics a list of that, one for each, from the same runs. A circuit is
    a graph, a Discovery, or a mask over the model's wiring. A task's name or a Task means prompts
    that the circuit's discovery did not see; a Dataset is used as it is. Metric and corruption are
    those with which the circuit was found, unless others are given. ``resume`` is a directory for
    finished batches, with which a run resumes after a kill (None by default).

    Raises ArgumentError for an argument in the wrong place, CircuitError where a circuit does not
    fit the model or the list of circuits is empty, MetricError where there is no metric, and
    OutputError where the directory cannot be used.

    Source: faithfulness as in Hanna et al. (2024) and MIB (Mueller et al. 2025).

    Example:
        >>> found = ck.evaluate(model, circuit, "ioi", "kl", "mean")
        >>> found.metric, found.corruption
        ('kl', 'mean')
    """
    require_model(model)
    masks = as_masks(circuit, model.wiring)
    own, metrics, corrupt = prepare_each(model, data, metric, corruption, circuit=circuit)
    tables = measure_all(model, masks, own, metrics, corrupt, resume)
    cells = zip(tables, metrics, strict=True)
    every = [evaluations(table, one, corrupt, masks) for table, one in cells]
    found = [each[0] for each in every] if is_one(circuit) else every
    return found if is_several(metric) else found[0]


def evaluations(
    values: Float[np.ndarray, "runs examples"],
    metric: Metric,
    corruption: Corruption,
    masks: Sequence[AnyMask],
) -> list[Evaluation]:
    """The Evaluation of each mask, of what ``measure_all`` gives for them and one metric."""
    names = name_of(metric), name_of(corruption)
    return [
        Evaluation(values[0], values[1], row, *names, edges=edges_of(mask))
        for row, mask in zip(values[2:], masks, strict=True)
    ]


def completeness(
    model: Model,
    circuit: CircuitLike,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
) -> Evaluation:
    """How much of the behaviour all edges outside a circuit carry.

    Returns the Evaluation of the complement: of a complete circuit its faithfulness is 0. Arguments
    and errors are those of ``evaluate``.

    Source: Wang et al. (2023, §4.1) cut the whole circuit, among other sets; see ``incompleteness``
    for these.

    Example:
        >>> ck.completeness(model, circuit, data).edges + len(circuit.to_frame()) == len(scores)
        True
    """
    require_model(model)
    rest = others(as_any_mask(circuit, model.wiring), model.wiring)
    inputs = prepare(model, data, metric, corruption, circuit=circuit)
    return evaluate(model, rest, *inputs[1:])


class Beside(NamedTuple):
    """A circuit's Evaluation, and those of what it is compared with."""

    circuit: Evaluation
    complement: Evaluation  # all other edges
    random: tuple[Evaluation, ...]  # random circuits of its size
    halves: tuple[Evaluation, ...]  # it and random halves of the other edges
    also: Mapping[str, Evaluation]


def evaluate_beside(
    model: Model,
    circuit: CircuitLike,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    random: int = 5,
    halves: int = 0,
    seed: int = 0,
    also: Mapping[str, Mask] | None = None,
    level: str = "edge",
    resume: str | os.PathLike[str] | None = None,
) -> Beside:
    """The Evaluations of a circuit, of all edges outside it, of ``random`` random circuits of its
    size, of the circuit with random ``halves`` of the others kept besides, and of what is to be
    measured ``also`` (by name), from the same runs. At the ``level`` of a ``node`` it is all nodes
    outside it, circuits of as many random nodes, and halves of the other nodes. ``resume`` is as in
    ``evaluate``."""
    require_model(model)
    mask = as_any_mask(circuit, model.wiring)
    inputs = prepare(model, data, metric, corruption, circuit=circuit)
    rest, chance, beside = _compared(space_of(mask, model), random, halves, seed, level)
    named = also or {}
    masks = [mask, rest, *chance, *beside, *named.values()]
    found, complement, *more = evaluate(model, masks, *inputs[1:], resume=resume)
    end = random + halves
    return Beside(found, complement, tuple(more[:random]), tuple(more[random:end]),
                  dict(zip(named, more[end:], strict=True)))  # fmt: skip


def _compared(
    space: Space, random: int, halves: int, seed: int, level: str
) -> tuple[AnyMask, Sequence[AnyMask], Sequence[AnyMask]]:
    """What a circuit is compared with: the others, random circuits, and it with random halves of
    the others."""
    if level == "node" and isinstance(space, Plain):
        wiring = space.wiring
        held = [int(row) for row in np.flatnonzero(space.keep.any(1)) if row]
        rest = [row for row in range(1, len(wiring.writers)) if row not in held]
        half = round(len(rest) / 2)
        return (
            wiring.between(rest), drawn_nodes(wiring, len(held), random, seed),
            nodes_beside(wiring, held, half, halves, seed),
        )  # fmt: skip
    half = round(space.others / 2)
    return (
        space.mask(~space.flat(space.keep)), space.drawn(random, seed),
        space.beside(half, halves, seed),
    )  # fmt: skip


@torch.no_grad()
def measure_all(
    model: Model,
    masks: Sequence[AnyMask],
    data: Dataset,
    metrics: Sequence[Metric],
    corruption: Corruption,
    resume: str | os.PathLike[str] | None = None,
) -> Float[np.ndarray, "metrics runs examples"]:
    """Each metric of everything, of nothing, and under each mask, for every example, from the same
    runs. The batches are dealt to the processes, and with ``resume`` kept."""
    about = {} if resume is None else _about(model, masks, data, metrics, corruption)
    measuring = _Measuring(model, masks, data, metrics, corruption, Journal(resume, about))
    each = by_batch(data, "evaluate", measuring.block, measuring.journal, measuring.recognise)
    return joined(each)["values"]


def _about(
    model: Model,
    masks: Sequence[AnyMask],
    data: Dataset,
    metrics: Sequence[Metric],
    corruption: Corruption,
) -> dict[str, Json]:
    """All that tells the blocks of one measurement from those of another, except the weights."""
    return {
        **identity(model, data),
        "format": "circuitkit.evaluate",
        "version": VERSION,
        "metrics": [name_of(metric) for metric in metrics],
        "corruption": name_of(corruption),
        "masks": [digest(bits_of(mask).hex()) for mask in masks],
    }


class _Measuring:
    """What several circuits are measured by, batch by batch; the first process says for all how
    much memory the runs may share."""

    def __init__(
        self,
        model: Model,
        masks: Sequence[AnyMask],
        data: Dataset,
        metrics: Sequence[Metric],
        corruption: Corruption,
        journal: Journal,
    ) -> None:
        self.model, self.masks, self.metrics, self.journal = model, masks, metrics, journal
        self.carry = corruption(model, data)
        space = agreed(lambda: room_of(model, data.memory))
        self.pool = int(min(POOL_BYTES, max(0, space / 2)))
        self.known = False

    def block(self, batch: Batch, first: int) -> Block:
        """The metrics in each run of a batch."""
        del first
        return {"values": self._values(batch, self.masks)}

    def recognise(self, batch: Batch, first: int, block: Mapping[str, np.ndarray]) -> None:
        """Raise OutputError where a block is of another metric or corruption of the same name: the
        first that is found is looked at."""
        del first
        if not self.known:
            now = self._values(batch, [])
            self.journal.recognise(self.model, block["values"][:, :2], now, SMALL)
        self.known = True

    def _values(
        self, batch: Batch, masks: Sequence[AnyMask]
    ) -> Float[np.ndarray, "metrics runs examples"]:
        model, metrics = self.model, self.metrics
        context = model.start(batch.clean, batch.mask)
        reference = answer(model, batch, record(model, context).final)

        def value(logits: Tensor) -> Tensor:
            said = (check_metric(one, logits, reference, batch) for one in metrics)
            return torch.stack([exact(values) for values in said])

        draws = self.carry(batch)
        under = []
        for carried in draws:
            nothing = answer(model, batch, carried.final)
            kept = runs(model, batch, context, carried, masks, pool_bytes=self.pool)
            under.append(torch.stack([value(logits) for logits in chain([nothing], kept)], dim=1))
        rows = torch.cat([value(reference)[:, None], torch.stack(under).mean(0)], dim=1)
        return np.asarray(rows.cpu().numpy())
