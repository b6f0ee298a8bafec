"""How much of a behaviour a circuit carries.

    faithfulness = (m(circuit) − m(nothing)) / (m(everything) − m(nothing))

with m the metric, everything the clean run and nothing the carried one (Hanna et al. 2024; MIB,
Mueller et al. 2025): 1 is the full model, 0 the corruption, and more than 1 an overshoot. Reported
as the ratio of means, with a bootstrap interval over the examples, and as the mean of ratios, which
weighs examples with a small gap heavily (Miller et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, TypeAlias

import networkx as nx
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.memory import room
from circuitkit.engine.metric import Corruption, Metric, check_metric
from circuitkit.engine.model import Model
from circuitkit.engine.run import POOL_BYTES, answer, record, runs
from circuitkit.errors import CircuitError, EvaluationError, MetricError
from circuitkit.graph import circuit as circuits
from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring
from circuitkit.registry import name_of
from circuitkit.util.progress import track
from circuitkit.util.statistics import LEVEL, bootstrap_interval
from circuitkit.viz.figures import Lines

__all__ = [
    "Ability",
    "Curve",
    "Evaluation",
    "ability",
    "as_mask",
    "completeness",
    "curve",
    "draw_curves",
    "evaluate",
    "evaluations",
    "known",
    "measure",
    "node_level",
    "random_masks",
    "smallest",
]

Mask: TypeAlias = Bool[np.ndarray, "writers readers"]
ADMITTED = 0.75  # the accuracy from which MIB (Mueller et al. 2025) admits a model to a task


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


def evaluate(
    model: Model,
    circuit: nx.DiGraph | Mask | Sequence[nx.DiGraph | Mask],
    data: Dataset,
    metric: Metric | Sequence[Metric],
    corruption: Corruption,
) -> Any:
    """The Evaluation of a circuit (or of each of several, which share what they compute alike); of
    several metrics a list of that, one for each, from the same runs.

    A circuit is a graph, or a mask over the model's wiring. Raises CircuitError where it does not
    fit the model, and MetricError where there is no metric.
    """
    many, several = (isinstance(given, (list, tuple)) for given in (circuit, metric))
    masks = [as_mask(c, model.wiring) for c in (circuit if many else [circuit])]
    metrics: Sequence[Any] = metric if isinstance(metric, (list, tuple)) else [metric]
    tables = measure(model, masks, data, metrics, corruption)
    each = (evaluations(*of, corruption, masks) for of in zip(tables, metrics, strict=True))
    found = [made if many else made[0] for made in each]
    return found if several else found[0]


def evaluations(
    values: Float[np.ndarray, "2+masks examples"],
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
    model: Model, circuit: nx.DiGraph | Mask, data: Dataset, metric: Metric, corruption: Corruption
) -> Evaluation:
    """The Evaluation of all the other edges: a complete circuit leaves them a faithfulness of 0."""
    mask = as_mask(circuit, model.wiring)
    found: Evaluation = evaluate(model, model.wiring.legal & ~mask, data, metric, corruption)
    return found


def as_mask(circuit: nx.DiGraph | Mask, wiring: Wiring) -> Mask:
    """The mask of a circuit, which may be one already; raises CircuitError where it does not fit
    the wiring."""
    found = circuit if isinstance(circuit, np.ndarray) else circuits.mask(circuit)
    theirs = None if isinstance(circuit, np.ndarray) else circuits.wiring_of(circuit)
    if found.shape != wiring.shape or theirs not in (None, wiring):
        raise CircuitError(
            f"the circuit belongs to {theirs or f'a mask of shape {found.shape}'}, and the model "
            f"to {wiring}; give a circuit of this model"
        )
    return found


def node_level(circuit: nx.DiGraph | Mask, wiring: Wiring) -> Mask:
    """The mask of a circuit's nodes: every edge out of every one of them, so that in its run each
    other node is ablated as a whole, and not edge by edge (Miller et al. 2024).

    A node belongs to the circuit if it writes or reads in it; by a port that heads share, none of
    them reads alone. Raises CircuitError where the circuit does not fit the wiring.
    """
    keep = as_mask(circuit, wiring) & wiring.legal
    held = keep.any(1)
    for reader, read in zip(wiring.readers, keep.any(0), strict=True):
        if reader.component in wiring.writer:
            held[wiring.writer[reader.component]] |= read
    whole: Mask = wiring.legal & held[:, None]
    return whole


@torch.no_grad()
def measure(
    model: Model,
    masks: Sequence[Mask],
    data: Dataset,
    metric: Metric | Sequence[Metric],
    corruption: Corruption,
) -> Float[np.ndarray, "*metrics 2+masks examples"]:
    """The metric of everything, of nothing, and under each mask, for every example; of several
    metrics a table each, from the same runs. Raises MetricError where there is none."""
    several = isinstance(metric, (list, tuple))
    metrics: Sequence[Any] = metric if isinstance(metric, (list, tuple)) else [metric]
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
    return tables if several else np.asarray(tables[0])


# -- curves and sizes ------------------------------------------------------------------------------
@dataclass(frozen=True)
class Curve:
    """Faithfulness against size; ``edges`` counts what is left without dead ends."""

    edges: tuple[int, ...]
    evaluations: tuple[Evaluation, ...]
    total: int

    @property
    def faithfulness(self) -> tuple[float, ...]:
        """The faithfulness at each size."""
        return tuple(e.faithfulness for e in self.evaluations)

    def area(self, axis: str = "log") -> float:
        """The area under the curve, divided by its width: the mean faithfulness over sizes, spread
        evenly in log(edges) (``log``) or in edges (``linear``, the axis of MIB's CPR)."""
        x = np.log(self.edges) if axis == "log" else np.asarray(self.edges, dtype=float)
        if len(x) < 2 or x[-1] == x[0]:
            return self.faithfulness[-1]
        return float(np.trapezoid(self.faithfulness, x) / (x[-1] - x[0]))

    def _repr_svg_(self) -> str:
        return draw_curves({"": self}).svg()


def draw_curves(curves: Mapping[str, Curve]) -> Lines:
    """The figure of some curves, by name: faithfulness against size, each with its bootstrap
    interval."""
    sizes = sorted({size for one in curves.values() for size in one.edges})
    series, bands = {}, {}
    for name, one in curves.items():
        known = dict(zip(one.edges, one.evaluations, strict=True))
        here = [known.get(size) for size in sizes]
        gap = (float("nan"), float("nan"))
        series[name] = [e.faithfulness if e else gap[0] for e in here]
        low, high = zip(*(e.interval() if e else gap for e in here), strict=True)
        bands[name] = (low, high)
    return Lines(
        sizes, series, bands, title="Faithfulness against size", x_name="edges",
        y_name="faithfulness", log_x=True,
    )  # fmt: skip


def curve(
    model: Model,
    scores: Scores,
    data: Dataset,
    metric: Metric,
    corruption: Corruption,
    *,
    sizes: Sequence[int] | None = None,
    rule: str = "abs",
) -> Curve:
    """Faithfulness of the best circuits of growing size, and of the whole model at the end."""
    total = scores.wiring.n_edges
    sizes = sizes or sorted({round(float(n)) for n in np.geomspace(min(10, total), total, 9)})
    masks = {int(mask.sum()): mask for mask in (scores.mask(n, rule) for n in sizes)}
    masks.pop(0, None)  # so few edges never hang together
    found = evaluate(model, list(masks.values()), data, metric, corruption)
    return Curve(tuple(masks), tuple(found), total)


def random_masks(wiring: Wiring, edges: int, n: int = 5, seed: int = 0) -> list[Mask]:
    """Circuits of exactly that many edges (or all), drawn at random, that hang together."""
    rng = np.random.default_rng(seed)
    return [_grown(wiring, min(edges, wiring.n_edges), rng) for _ in range(n)]


def _grown(wiring: Wiring, edges: int, rng: np.random.Generator) -> Mask:
    """Random walks from the logits down to the embedding; where the next is too long, single edges
    between components that are in already."""
    keep = np.zeros(wiring.shape, dtype=bool)
    patience = 100
    while (left := edges - int(keep.sum())) and patience:
        walk = np.array(list(_walk(wiring, rng))).T
        grown = keep.copy()
        grown[tuple(walk)] = True
        if grown.sum() <= edges:
            keep = grown
        else:
            patience -= 1
    fits = wiring.legal & ~keep & _inside(wiring, keep)
    chosen = rng.permutation(np.flatnonzero(fits))[:left]
    keep.reshape(-1)[chosen] = True
    return keep


def _walk(wiring: Wiring, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """The edges of a path, each writer drawn evenly from those upstream."""
    column = wiring.shape[1] - 1
    while True:
        row = int(rng.integers(wiring.upstream[column]))
        yield row, column
        if row == 0:
            return
        column = int(rng.choice(wiring.feeds(row)))


def _inside(wiring: Wiring, keep: Mask) -> Mask:
    """The pairs of a writer that is live and a reader that is heard."""
    live = np.asarray(keep.any(1))
    live[0] = True
    heard = np.zeros(wiring.shape[1], dtype=bool)
    heard[-1] = True
    for row in np.flatnonzero(live):
        heard[wiring.feeds(int(row))] = True
    return live[:, None] & heard[None, :]


def smallest(
    model: Model,
    scores: Scores,
    data: Dataset,
    metric: Metric,
    corruption: Corruption,
    target: float,
    *,
    rule: str = "abs",
) -> Mask:
    """The smallest of the best circuits that reaches the target faithfulness on the data.

    Sizes are doubled until one reaches it, and then narrowed to 2 %: where faithfulness does not
    grow with size, a smaller one may exist. Several sizes at a time share the carried run. Raises
    EvaluationError where not even the whole model reaches the target.
    """

    def first(sizes: Sequence[int]) -> int | None:
        """The first of these sizes that reaches the target."""
        masks = [scores.mask(n, rule) for n in sizes]
        found: list[Evaluation] = evaluate(model, masks, data, metric, corruption)
        reached = (n for n, e in zip(sizes, found, strict=True) if e.faithfulness >= target)
        return next(reached, None)

    total = scores.wiring.n_edges
    low, high = 0, None
    while high is None:
        if low == total:
            raise EvaluationError(
                f"no circuit reaches the faithfulness {target}: the whole model has 1; ask for less"
            )
        ladder = sorted({min(total, max(low, 4) * 2**k) for k in range(1, 5)})
        high = first(ladder)
        low = max((n for n in ladder if high is None or n < high), default=low)
    while high - low > max(1, high // 50):
        inner = sorted({low + (high - low) * k // 4 for k in (1, 2, 3)} - {low, high})
        better = first(inner)
        high, low = (better or high), max((n for n in inner if n < (better or high)), default=low)
    return scores.mask(high, rule)


# -- can the model do it? --------------------------------------------------------------------------
@dataclass(frozen=True)
class Ability:
    """How well the model does a task: accuracy, and the metric on clean and corrupted prompts."""

    accuracy: float
    clean: float
    corrupt: float
    metric: str
    examples: int

    def require(self, task: str) -> None:
        """Raise EvaluationError where the model cannot do it (accuracy under 0.75, as in MIB)."""
        if self.accuracy < ADMITTED:
            raise EvaluationError(
                f"the model does {task} on {self.accuracy:.0%} of {self.examples} prompts only, so "
                "there is no behaviour to explain; use another model or task, or force it"
            )

    def __repr__(self) -> str:
        return (
            f"accuracy {self.accuracy:.1%}, {self.metric} {self.clean:.3f} on clean and "
            f"{self.corrupt:.3f} on corrupted prompts ({self.examples} examples)"
        )


@torch.no_grad()
def ability(model: Model, data: Dataset, metric: Metric) -> Ability:
    """How well the model does the task on this data."""
    from circuitkit.metrics.answers import accuracy

    rows = []
    for batch in data:
        clean, corrupt = (_logits(model, batch, x) for x in (batch.clean, batch.corrupt))
        values = (accuracy(clean, clean, batch), metric(clean, clean, batch))
        rows.append(torch.stack([*values, metric(corrupt, clean, batch)]).double())
    correct, clean_value, corrupt_value = torch.cat(rows, dim=1).mean(1).tolist()
    return Ability(correct, clean_value, corrupt_value, name_of(metric), len(data))


@torch.no_grad()
def known(model: Model, data: Dataset, metric: Metric) -> Dataset:
    """The examples that the model answers: those on whose clean prompt the metric, ``accuracy`` or
    ``top1``, is above 1/2. Raises EvaluationError where it answers none."""
    values: list[float] = []
    for batch in data:
        logits = _logits(model, batch, batch.clean)
        values += check_metric(metric, logits, logits, batch).tolist()
    kept = tuple(e for e, value in zip(data.examples, values, strict=True) if value > 1 / 2)
    if not kept:
        raise EvaluationError(
            f"{name_of(metric)} is above 1/2 on none of {len(data)} prompts, so there is nothing "
            "that the model knows; use another model or task, or a metric that asks for less"
        )
    return replace(data, examples=kept)


def _logits(
    model: Model, batch: Batch, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch vocab"]:
    """The logits at the answer positions of a plain run on these tokens."""
    return answer(model, batch, record(model, model.start(tokens, batch.mask)).final)
