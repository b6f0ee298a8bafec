"""How much of a behaviour a circuit carries.

    faithfulness = (m(circuit) − m(nothing)) / (m(everything) − m(nothing))

with m the metric, everything the clean run and nothing the carried one (Hanna et al. 2024; MIB,
Mueller et al. 2025): 1 is the full model, 0 the corruption, and more than 1 an overshoot. Reported
as the ratio of means, with a bootstrap interval over the examples, and as the mean of ratios, which
weighs examples with a small gap heavily (Miller et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import overload

import networkx as nx
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.memory import room
from circuitkit.engine.metric import Corruption, Metric, check_metric
from circuitkit.engine.model import Model
from circuitkit.engine.record import answer, record
from circuitkit.engine.run import POOL_BYTES, runs
from circuitkit.errors import EvaluationError, MetricError
from circuitkit.evaluation.masks import as_mask, random_masks
from circuitkit.graph.types import Graph, Mask
from circuitkit.registry import name_of
from circuitkit.util.progress import track
from circuitkit.util.statistics import LEVEL, bootstrap_interval

__all__ = [
    "Evaluation",
    "completeness",
    "evaluate",
    "evaluate_beside",
    "evaluations",
    "measure",
]


@dataclass(frozen=True)
class Evaluation:
    """The metric of every example: of the whole model, of nothing kept, and of the circuit."""

    everything: Float[np.ndarray, " examples"]
    nothing: Float[np.ndarray, " examples"]
    circuit: Float[np.ndarray, " examples"]
    metric: str
    corruption: str
    edges: int

    @cached_property
    def faithfulness(self) -> float:
        """The ratio of means. Raises EvaluationError where the metric's gap is zero."""
        gap = float(self.everything.mean() - self.nothing.mean())
        if abs(gap) <= 1e-6 * max(1.0, float(np.abs(self.everything).mean())):
            raise EvaluationError(
                f"{self.metric} is {self.everything.mean():.4g} on the full model and as much "
                f"under {self.corruption}, so faithfulness is undefined; use another metric or "
                "corruption, or prompts that the model can do"
            )
        return float(self.circuit.mean() - self.nothing.mean()) / gap

    @property
    def mean_of_ratios(self) -> float:
        """The mean over examples of each one's own ratio; examples without a gap are left out."""
        gap = self.everything - self.nothing
        usable = np.abs(gap) > 1e-6
        return float(((self.circuit - self.nothing)[usable] / gap[usable]).mean())

    def interval(
        self, level: float = LEVEL, resamples: int = 1000, seed: int = 0
    ) -> tuple[float, float]:
        """The bootstrap interval of the ratio of means, over the examples."""
        samples = (self.nothing, self.everything, self.circuit)
        return bootstrap_interval(_ratio_of_means, samples, level, resamples, seed)

    def __repr__(self) -> str:
        try:
            low, high = self.interval()
            value = f"{self.faithfulness:.3f} [{low:.3f}, {high:.3f}]"
        except EvaluationError:  # printing is no place for an error
            value = "undefined"
        return (
            f"faithfulness {value} ({self.edges:,} edges, "
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
def evaluate(
    model: Model,
    circuit: Graph | Mask,
    data: Dataset,
    metric: Metric,
    corruption: Corruption,
) -> Evaluation: ...
@overload
def evaluate(
    model: Model,
    circuit: Sequence[Graph | Mask],
    data: Dataset,
    metric: Metric,
    corruption: Corruption,
) -> list[Evaluation]: ...
@overload
def evaluate(
    model: Model,
    circuit: Graph | Mask,
    data: Dataset,
    metric: Sequence[Metric],
    corruption: Corruption,
) -> list[Evaluation]: ...
@overload
def evaluate(
    model: Model,
    circuit: Sequence[Graph | Mask],
    data: Dataset,
    metric: Sequence[Metric],
    corruption: Corruption,
) -> list[list[Evaluation]]: ...
def evaluate(
    model: Model,
    circuit: Graph | Mask | Sequence[Graph | Mask],
    data: Dataset,
    metric: Metric | Sequence[Metric],
    corruption: Corruption,
) -> Evaluation | list[Evaluation] | list[list[Evaluation]]:
    """The Evaluation of a circuit (or of each of several, which share what they compute alike); of
    several metrics a list of that, one for each, from the same runs.

    A circuit is a graph, or a mask over the model's wiring. Raises CircuitError where it does not
    fit the model, and MetricError where there is no metric.
    """
    each = [circuit] if isinstance(circuit, nx.DiGraph | np.ndarray) else circuit
    masks = [as_mask(one, model.wiring) for one in each]
    metrics = [metric] if callable(metric) else metric
    tables = measure(model, masks, data, metrics, corruption)
    every = [evaluations(*of, corruption, masks) for of in zip(tables, metrics, strict=True)]
    if isinstance(circuit, nx.DiGraph | np.ndarray):
        firsts = [found[0] for found in every]
        return firsts[0] if callable(metric) else firsts
    return every[0] if callable(metric) else every


def evaluations(
    values: Float[np.ndarray, "runs examples"],
    metric: Metric,
    corruption: Corruption,
    masks: Sequence[Mask],
) -> list[Evaluation]:
    """The Evaluation of each mask, of what ``measure`` gives for them and one metric."""
    names = name_of(metric), name_of(corruption)
    return [
        Evaluation(values[0], values[1], row, *names, edges=int(mask.sum()))
        for row, mask in zip(values[2:], masks, strict=True)
    ]


def completeness(
    model: Model, circuit: Graph | Mask, data: Dataset, metric: Metric, corruption: Corruption
) -> Evaluation:
    """The Evaluation of all the other edges: a complete circuit leaves them a faithfulness of 0."""
    others: Mask = model.wiring.legal & ~as_mask(circuit, model.wiring)
    return evaluate(model, others, data, metric, corruption)


def evaluate_beside(
    model: Model,
    circuit: Graph | Mask,
    data: Dataset,
    metric: Metric,
    corruption: Corruption,
    *,
    random: int = 5,
    seed: int = 0,
) -> tuple[Evaluation, Evaluation, tuple[Evaluation, ...]]:
    """The Evaluations of a circuit, of all other edges, and of so many random circuits of its
    size."""
    mask = as_mask(circuit, model.wiring)
    chance = random_masks(model.wiring, int(mask.sum()), random, seed)
    masks = [mask, model.wiring.legal & ~mask, *chance]
    found, others, *by_chance = evaluate(model, masks, data, metric, corruption)
    return found, others, tuple(by_chance)


@torch.no_grad()
def measure(
    model: Model,
    masks: Sequence[Mask],
    data: Dataset,
    metric: Metric | Sequence[Metric],
    corruption: Corruption,
) -> Float[np.ndarray, "*metrics runs examples"]:
    """The metric of everything, of nothing, and under each mask, for every example; of several
    metrics a table each, from the same runs. Raises MetricError where there is none."""
    metrics = [metric] if callable(metric) else metric
    if not metrics:
        raise MetricError("there are no metrics; give at least one")
    carry = corruption(model, data)
    pool = int(min(POOL_BYTES, max(0, room(model.device, data.memory) / 2)))
    columns = []
    for batch in track(data, "evaluate"):
        context = model.start(batch.clean, batch.mask)
        reference = answer(model, batch, record(model, context).final)

        def value(logits: Tensor, reference: Tensor = reference, batch: Batch = batch) -> Tensor:
            said = (check_metric(one, logits, reference, batch) for one in metrics)
            return torch.stack([values.double() for values in said])

        draws = carry(batch)
        under = []
        for carried in draws:
            nothing = answer(model, batch, carried.final)
            kept = runs(model, batch, context, carried, masks, pool_bytes=pool)
            under.append(torch.stack([value(logits) for logits in chain([nothing], kept)], dim=1))
        rows = torch.cat([value(reference)[:, None], torch.stack(under).mean(0)], dim=1)
        columns.append(rows.cpu().numpy())
    tables = np.concatenate(columns, axis=-1)
    return np.asarray(tables[0]) if callable(metric) else tables
