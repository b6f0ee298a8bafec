"""A circuit's faithfulness while some of the other edges are kept besides it.

Faithfulness cuts all other edges. A circuit that does the work by itself does it beside any others:
here random ones are kept, or those that hurt the circuit most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import nan
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, overload

import numpy as np
from jaxtyping import Bool, Float

from circuitkit.data.batches import Dataset
from circuitkit.data.tasks import shuffled
from circuitkit.engine.batching import of_longest
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    Inputs,
    MetricLike,
    prepare,
    require_model,
)
from circuitkit.engine.memory import room_of
from circuitkit.engine.model import Model
from circuitkit.errors import CircuitError
from circuitkit.evaluation.faithfulness import Evaluation, evaluate
from circuitkit.evaluation.masks import CircuitLike, as_any_mask
from circuitkit.evaluation.results import TableResult
from circuitkit.evaluation.running import slopes
from circuitkit.evaluation.spaces import Space, space_of
from circuitkit.graph.places import AnyMask
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.options import Bounds, Count, Seed, checked
from circuitkit.util.statistics import interval_text, percentile_interval
from circuitkit.util.tables import as_text, to_frame

if TYPE_CHECKING:
    import pandas

__all__ = ["Complements", "FoundComplement", "complements", "halved"]

Kind: TypeAlias = Literal["random", "worst", "best"]
Flags: TypeAlias = Bool[np.ndarray, " edges"]
RUNGS = 14  # numbers of edges that are tried along one gradient
SHOWN = 8  # edges of a printed list
FORMATS = {"edges": ",d", **dict.fromkeys(("faithfulness", "low", "high", "lowest"), ".3f")}


@dataclass(frozen=True)
class Complements(TableResult):
    """The faithfulness of a circuit with random ones of all other edges kept besides it.

    ``alone`` is the Evaluation with all other edges cut, ``draws`` those with ``kept`` of the
    ``others`` drawn at random and kept.
    """

    alone: Evaluation
    draws: tuple[Evaluation, ...]
    kept: int
    others: int

    @property
    def values(self) -> tuple[float, ...]:
        """The faithfulness of each draw; raises EvaluationError where it is not defined."""
        return tuple(draw.faithfulness for draw in self.draws)

    @property
    def mean(self) -> float:
        """The mean faithfulness of the draws."""
        return float(np.mean(self.values))

    @property
    def lowest(self) -> float:
        """The lowest faithfulness of a draw."""
        return min(self.values)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The bootstrap interval of the mean, over the examples and over the draws: its low and
        high end; nan, not known, where that of the faithfulness itself is."""
        return _interval(self.draws)

    def rows(self) -> list[dict[str, Json]]:
        """What is printed: a row with all other edges cut, and one for the draws."""
        drawn = {
            "others": "random", "edges": self.kept, "faithfulness": self.mean,
            "low": self.interval[0], "high": self.interval[1], "lowest": self.lowest,
        }  # fmt: skip
        return [_row("none", 0, self.alone), drawn]

    def to_frame(self) -> pandas.DataFrame:
        """A row for each draw: ``draw`` (counted from 0), ``edges`` (of the others that are kept),
        ``faithfulness``, ``low`` and ``high`` (the ends of its bootstrap interval)."""
        return to_frame(self._drawn())

    def _drawn(self) -> list[dict[str, Json]]:
        """A row for each draw."""
        columns = ("edges", "faithfulness", "low", "high")
        rows = [_row("random", self.kept, draw) for draw in self.draws]
        return [{"draw": i} | {key: row[key] for key in columns} for i, row in enumerate(rows)]

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        return {
            **_about(self.alone), "kept": self.kept, "others": self.others, "mean": self.mean,
            "interval": nan_to_none([*self.interval]), "lowest": self.lowest,
            "draws": [nan_to_none(row) for row in self._drawn()],
        }  # fmt: skip

    def __str__(self) -> str:
        return (
            f"faithfulness {self.mean:.3f} {interval_text(*self.interval)} with {self.kept:,} "
            f"random ones of {self.others:,} other edges kept, lowest {self.lowest:.3f} "
            f"({len(self.draws)} draws)"
        )

    def __repr__(self) -> str:
        return f"{self}\n{as_text(self.rows(), formats=FORMATS)}"


@dataclass(frozen=True)
class FoundComplement(TableResult):
    """The other edges that hurt a circuit most (``worst``) or help it most (``best``).

    They were found on one half of the prompts, ``found`` is the circuit's Evaluation with them
    there, and everything else was measured on the other half: ``alone`` with all other edges cut,
    ``evaluation`` with these kept, and ``random`` with equally many random ones. ``in_sample``:
    there were too few prompts for two halves.
    """

    kind: str
    edges: tuple[str, ...]
    mask: AnyMask
    alone: Evaluation
    evaluation: Evaluation
    random: Complements
    found: Evaluation
    in_sample: bool

    def rows(self) -> list[dict[str, Json]]:
        """What is printed: a row with all other edges cut, one with these kept, and one with as
        many random ones."""
        none, drawn = self.random.rows()
        return [none, _row(self.kind, len(self.edges), self.evaluation), drawn]

    def to_frame(self) -> pandas.DataFrame:
        """A row for each choice of the other edges.

        Columns: ``others`` (none, those that were found, random), ``edges`` (how many are kept),
        ``faithfulness`` (of random ones the mean), ``low`` and ``high`` (the ends of its bootstrap
        interval), ``lowest`` (the lowest of the random ones).
        """
        return to_frame(self.rows(), ["others", *FORMATS])

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        low, high = self.evaluation.interval()
        return {
            **_about(self.alone), "kind": self.kind, "in_sample": self.in_sample,
            "faithfulness": self.evaluation.faithfulness, "interval": nan_to_none([low, high]),
            "where_found": self.found.faithfulness, "random": self.random.to_dict(),
            "rows": [nan_to_none(row) for row in self.rows()], "edges": [*self.edges],
        }  # fmt: skip

    def __str__(self) -> str:
        low, high = self.evaluation.interval()
        sample = ", in sample" if self.in_sample else ""
        return (
            f"faithfulness {self.evaluation.faithfulness:.3f} {interval_text(low, high)} with the "
            f"{self.kind} {len(self.edges):,} of {self.random.others:,} other edges kept, "
            f"{self.random.mean:.3f} with random ones{sample}"
        )

    def __repr__(self) -> str:
        lines = [str(self), as_text(self.rows(), formats=FORMATS)]
        lines += [f"where they were found: {self.found.faithfulness:.3f}; the edges:"]
        lines += [f"  {edge}" for edge in self.edges[:SHOWN]]
        more = len(self.edges) - SHOWN
        return "\n".join([*lines, *([f"  ... and {more:,} more"] if more > 0 else [])])


def _row(others: str, edges: int, evaluation: Evaluation) -> dict[str, Json]:
    """A row of what is printed."""
    low, high = evaluation.interval()
    return {"others": others, "edges": edges, "faithfulness": evaluation.faithfulness, "low": low,
            "high": high, "lowest": nan}  # fmt: skip


def _about(alone: Evaluation) -> dict[str, Json]:
    """What a result is of, for machines."""
    return {
        "metric": alone.metric, "corruption": alone.corruption, "examples": len(alone.circuit),
        "circuit_edges": alone.edges, "alone": alone.faithfulness,
    }  # fmt: skip


def _interval(draws: Sequence[Evaluation], resamples: int = 1000) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean faithfulness, over the examples and draws."""
    own = draws[0]
    values = np.stack([draw.circuit for draw in draws])
    if np.isnan(replace(own, circuit=values.mean(0)).interval(resamples=2)).any():
        return nan, nan
    rng, (n, k) = np.random.default_rng(0), values.shape[::-1]
    times = rng.multinomial(n, np.full(n, 1 / n), size=resamples) * 1.0
    chosen = rng.multinomial(k, np.full(k, 1 / k), size=resamples) / k
    nothing, everything = times @ own.nothing, times @ own.everything
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = ((chosen @ values * times).sum(-1) - nothing) / (everything - nothing)
    low, high = percentile_interval(drawn)
    return float(low), float(high)


@overload
def complements(
    model: Model,
    circuit: CircuitLike,
    data: Data,
    metric: MetricLike | None = ...,
    corruption: CorruptionLike | None = ...,
    *,
    kind: Literal["random"] = ...,
    n: int = ...,
    share: float = ...,
    steps: int = ...,
    seed: int = ...,
) -> Complements: ...
@overload
def complements(
    model: Model,
    circuit: CircuitLike,
    data: Data,
    metric: MetricLike | None = ...,
    corruption: CorruptionLike | None = ...,
    *,
    kind: Literal["worst", "best"],
    n: int = ...,
    share: float = ...,
    steps: int = ...,
    seed: int = ...,
) -> FoundComplement: ...
@overload
def complements(
    model: Model,
    circuit: CircuitLike,
    data: Data,
    metric: MetricLike | None = ...,
    corruption: CorruptionLike | None = ...,
    *,
    kind: Kind,
    n: int = ...,
    share: float = ...,
    steps: int = ...,
    seed: int = ...,
) -> Complements | FoundComplement: ...
@checked
def complements(
    model: Model,
    circuit: CircuitLike,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    kind: Kind = "random",
    n: Count = 20,
    share: Annotated[float, Bounds(0, 1)] = 0.5,
    steps: Count = 5,
    seed: Seed = 0,
) -> Complements | FoundComplement:
    """A circuit's faithfulness while some of the other edges are kept besides it.

    ``kind="random"`` keeps a random ``share`` of all other edges, ``n`` times; 0 keeps none of
    them, which is ``evaluate``, and 1 the whole model. ``kind="worst"`` looks for the other edges
    whose keeping lowers the faithfulness most, on one half of the prompts, and measures them on the
    other, beside ``n`` draws of as many random ones; ``kind="best"`` for those that raise it most.

    The search takes the gradient of the metric in the mask, at the circuit, halfway and at the
    whole model, keeps the edges that hurt most there, as many as hurt most when measured, and
    continues from these, up to ``steps`` times: it gives a bound, and not always the worst of all.
    The gradients run in batches that fit the memory.

    Returns Complements, or for ``worst`` and ``best`` a FoundComplement; 1 is the full model.
    Raises ArgumentError for an argument in the wrong place and an unknown kind, CircuitError where
    the circuit is the whole model or another model's, EvaluationError where the faithfulness is
    not defined, MetricError where a search needs a gradient and the metric has none, and
    BudgetError where one prompt does not fit the memory.

    Example:
        >>> found = ck.complements(model, circuit, data, n=5)
        >>> found.lowest <= found.mean, len(found.draws)
        (True, 5)
        >>> worst = ck.complements(model, circuit, data, kind="worst", n=2, steps=1)
        >>> worst.random.kept == len(worst.edges)
        True
    """
    require_model(model)
    space = space_of(as_any_mask(circuit, model.wiring), model)
    inputs = prepare(model, data, metric, corruption, circuit=circuit)
    if not space.others:
        raise CircuitError(
            "the circuit is the whole model, so there are no other edges; give a smaller one"
        )
    if kind == "random":
        return _random(inputs, space, n, share, seed)
    return _sought(inputs, space, kind, n, steps, seed)


def halved(inputs: Inputs, seed: int) -> tuple[Inputs, Inputs]:
    """The inputs on two halves of the prompts, which the seed shuffles; equal clean tokens are on
    one side, and of one or two different prompts both halves are all."""
    mixed = replace(inputs.data, examples=shuffled(inputs.data.examples, seed))
    return inputs._replace(data=mixed).halves()


def _random(inputs: Inputs, space: Space, n: int, share: float, seed: int) -> Complements:
    """The circuit with random ones of the others."""
    kept = round(space.others * share)
    masks = space.beside(kept, n, seed)
    alone, *draws = evaluate(inputs.model, [space.keep, *masks], *inputs[1:])
    return Complements(alone, tuple(draws), kept, space.others)


# -- the search ------------------------------------------------------------------------------------
def _sought(
    inputs: Inputs, space: Space, kind: str, n: int, steps: int, seed: int
) -> FoundComplement:
    """The others that hurt or help most, beside as many random ones."""
    seen, unseen = halved(inputs, seed)
    search = _Search(seen, space, 1 if kind == "worst" else -1)
    keep = search.keep
    added = space.flat(space.alive(space.mask(keep | search.run(steps)))) & ~keep
    drawn = space.beside(int(added.sum()), n, seed)
    added = search.best([added, *(space.flat(one) & ~keep for one in drawn)])
    both, mask = space.mask(keep | added), space.mask(added)
    there = evaluate(seen.model, both, *seen[1:])
    alone, found, *draws = evaluate(seen.model, [space.keep, both, *drawn], *unseen[1:])
    return FoundComplement(
        kind=kind, edges=tuple(space.names(space.edges(mask))), mask=mask, alone=alone,
        evaluation=found,
        random=Complements(alone, tuple(draws), int(added.sum()), space.others), found=there,
        in_sample=seen.data is unseen.data,
    )  # fmt: skip


class _Search:
    """Which others to keep, so that the faithfulness is low (sign 1) or high (−1); sets of edges
    are vectors over all edges of the space."""

    def __init__(self, inputs: Inputs, space: Space, sign: int) -> None:
        self.inputs, self.space, self.sign = inputs, space, sign
        self.keep: Flags = space.flat(space.keep)
        alone = evaluate(inputs.model, space.keep, *inputs[1:])
        self.alone = sign * alone.faithfulness
        self.gap = float(alone.everything.mean() - alone.nothing.mean())
        self.graded = _fitting(inputs, space)

    def values(self, sets: Sequence[Flags]) -> list[float]:
        """What is to be low, with each of these kept."""
        whole = [self.space.mask(self.keep | own) for own in sets]
        found = evaluate(self.inputs.model, whole, *self.inputs[1:])
        return [self.sign * each.faithfulness for each in found]

    def best(self, sets: Sequence[Flags]) -> Flags:
        """The one with the lowest value, of equal ones the first."""
        return sets[int(np.argmin(self.values(sets)))]

    def run(self, steps: int) -> Flags:
        """The best set that was measured: each step follows the gradient from the last one's."""
        added, lowest = np.zeros_like(self.keep), self.alone
        for step in range(steps):
            whole: list[np.ndarray] = [self.keep | added]
            if step == 0:
                whole += [self.keep + ~self.keep / 2, np.ones_like(self.keep)]
            tried = [each for point in whole for each in self._along(added, point)]
            values = self.values(tried) if tried else []
            if not values or min(values) >= lowest:
                break
            added, lowest = tried[int(np.argmin(values))], min(values)
        return added

    def _along(self, added: Flags, point: Float[np.ndarray, " edges"] | Flags) -> Iterator[Flags]:
        """The set with more and more of the edges changed whose change lowers the value most, by
        the gradient at the point."""
        graded = slopes(self.graded, self.space.mask(point.astype(float)))
        slope = self.sign / self.gap * self.space.flat(graded)
        change = np.where(self.keep, 0, np.where(added, -slope, slope))
        order = np.argsort(change, kind="stable")
        lowering = int((change < 0).sum())
        for size in sorted({round(n) for n in np.geomspace(1, max(1, lowering), RUNGS).tolist()}):
            changed = added.copy()
            changed[order[: min(size, lowering)]] ^= True
            yield changed


def _fitting(inputs: Inputs, space: Space) -> Inputs:
    """The inputs in batches whose gradients in a mask fit the memory; raises BudgetError where one
    example does not."""
    model, data = inputs.model, inputs.data
    weights = space.mask(space.flat(space.keep).astype(float))

    def work(few: Dataset) -> None:
        slopes(inputs._replace(data=few), weights)

    memory = room_of(model, data.memory)
    most = of_longest(work, data, memory).most(memory, data.batch_size)
    return inputs._replace(data=replace(data, batch_size=most))
