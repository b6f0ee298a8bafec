"""A second circuit that is as faithful as a first one and shares as little with it as can be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from jaxtyping import Float, Int

from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    Inputs,
    MetricLike,
    prepare,
    require_model,
)
from circuitkit.engine.model import Model
from circuitkit.errors import CircuitError, EvaluationError
from circuitkit.evaluation.complements import halved
from circuitkit.evaluation.faithfulness import Evaluation, evaluate
from circuitkit.evaluation.masks import (
    AnyScoresLike,
    CircuitLike,
    as_any_mask,
    as_any_scores,
)
from circuitkit.evaluation.places.choosing import pruned
from circuitkit.evaluation.results import TableResult
from circuitkit.evaluation.spaces import Placed, Space, space_of
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.compare import Comparison, compare
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.places import AnyMask, PlacedMask
from circuitkit.graph.scores import Scores
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.options import Bounds, Seed, checked
from circuitkit.util.statistics import bootstrap_interval, interval_text
from circuitkit.util.tables import as_text, to_frame

if TYPE_CHECKING:
    import pandas

__all__ = ["Alternative", "alternative"]

KEPT = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0)  # of the scores of the first's edges
SINGLE, DROPPED = 64, 16  # shared edges that are dropped alone, and numbers of them together
FACTOR = 1.2  # between the sizes that are tried
FORMATS = {"edges": ",d", "shared": ",d",
           **dict.fromkeys(("jaccard", "by_chance", "faithfulness", "low", "high",
                            "where_chosen"), ".3f")}  # fmt: skip


@dataclass(frozen=True)
class Alternative(TableResult):
    """A second circuit, beside the first one: what they share, and how faithful both are.

    ``circuit`` is the second one. It was chosen on one half of the prompts, where ``chosen`` are
    the Evaluations of the first and the second; ``evaluations`` are the same on the other half.
    ``overlap`` is that of the first (left) and the second (right), beside chance. ``penalty`` is
    the share that was taken off the scores of the first one's edges. ``in_sample``: there were too
    few prompts for two halves.
    """

    circuit: Circuit
    overlap: Comparison
    evaluations: tuple[Evaluation, Evaluation]
    chosen: tuple[Evaluation, Evaluation]
    penalty: float
    in_sample: bool

    @property
    def difference(self) -> float:
        """The second one's faithfulness less the first one's, on the other half."""
        first, second = self.evaluations
        return second.faithfulness - first.faithfulness

    def interval(self) -> tuple[float, float]:
        """The bootstrap interval of the difference, over the examples: its low and high end."""
        first, second = self.evaluations
        samples = (first.nothing, first.everything, second.circuit - first.circuit)
        return bootstrap_interval(_ratio, samples)

    def rows(self) -> list[dict[str, Json]]:
        """What is printed: a row for each circuit."""
        overlap = self.overlap.edges
        shared = [
            {"shared": nan, "jaccard": nan, "by_chance": nan},
            {"shared": overlap.both, "jaccard": overlap.jaccard,
             "by_chance": overlap.expected_jaccard},
        ]  # fmt: skip
        rows: list[dict[str, Json]] = []
        names = ("first", "alternative")
        for name, own, before, both in zip(
            names, self.evaluations, self.chosen, shared, strict=True
        ):
            low, high = own.interval()
            rows.append({"circuit": name, "edges": own.edges, **both,
                         "faithfulness": own.faithfulness, "low": low, "high": high,
                         "where_chosen": before.faithfulness})  # fmt: skip
        return rows

    def to_frame(self) -> pandas.DataFrame:
        """A row for each of the two circuits.

        Columns: ``circuit`` (first, alternative), ``edges``, ``shared`` (the edges in both),
        ``jaccard`` and ``by_chance`` (of the two), ``faithfulness``, ``low`` and ``high`` (the ends
        of its bootstrap interval), ``where_chosen`` (the faithfulness on the prompts on which the
        second one was chosen).
        """
        return to_frame(self.rows())

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        first = self.evaluations[0]
        return {
            "metric": first.metric, "corruption": first.corruption,
            "examples": len(first.circuit), "in_sample": self.in_sample, "penalty": self.penalty,
            "circuits": [nan_to_none(row) for row in self.rows()], "difference": self.difference,
            "interval": nan_to_none([*self.interval()]), "overlap": self.overlap.to_dict(),
        }  # fmt: skip

    def draw(
        self, path: str | os.PathLike[str], *, format: str | None = None, **style: object
    ) -> Path:
        """Draw the second circuit as ``.svg``, ``.pdf`` or ``.png``; returns the path. ``style``
        and the errors are those of ``Circuit.draw``."""
        value, overlap = self.evaluations[1].faithfulness, self.overlap.edges
        sample = ", in sample" if self.in_sample else ""
        title = (
            f"an alternative: faithfulness {value:.2f}{sample}, {overlap.both:,} of "
            f"{overlap.right:,} edges shared"
        )
        return self.circuit.draw(path, format=format, **{"title": title, **style})

    def __str__(self) -> str:
        first, second = self.evaluations
        return (
            f"{second.edges:,} edges keep {second.faithfulness:.3f} where {first.edges:,} keep "
            f"{first.faithfulness:.3f}; {self.overlap.edges}"
        )

    def __repr__(self) -> str:
        said = "in sample" if self.in_sample else "on other prompts"
        return "\n".join([
            as_text(self.rows(), formats=FORMATS),
            f"difference {self.difference:+.3f} {interval_text(*self.interval())} {said}",
        ])  # fmt: skip


def _ratio(
    nothing: Float[np.ndarray, "draws examples"],
    everything: Float[np.ndarray, "draws examples"],
    change: Float[np.ndarray, "draws examples"],
) -> Float[np.ndarray, " draws"]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(change.mean(-1) / (everything.mean(-1) - nothing.mean(-1)))


@checked
def alternative(
    model: Model,
    circuit: CircuitLike,
    scores: AnyScoresLike,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    tolerance: Annotated[float, Bounds(0)] = 0.02,
    most: Annotated[float, Bounds(1)] = 4.0,
    rule: str = "abs",
    seed: Seed = 0,
) -> Alternative:
    """A second circuit that is as faithful as the first one, and shares as little with it.

    The scores of the first one's edges are set to zero; if no circuit of the new ranking, with up
    to ``most`` times as many edges, is as faithful as the first one less the ``tolerance``, they
    are lowered less and less. The first circuit that is faithful enough on one half of the prompts
    is taken, and both circuits are measured on the other half. If it differs from the first, the
    scores do not give *the* circuit of the behaviour, but one of several. It is a search: one that
    shares less may exist. Of a circuit between places sizes are of its residual edges, and edges of
    attention that the second one can do without are cut first.

    Returns an Alternative. Raises ArgumentError for an argument in the wrong place, CircuitError
    where the circuit has no edges or does not fit the model, ScoresError where the scores do not,
    and EvaluationError where no circuit of the ranking is as faithful.

    Example:
        >>> found = ck.alternative(model, circuit, scores, data, tolerance=0.1)
        >>> found.overlap.edges.both < len(circuit.to_frame())
        True
    """
    require_model(model)
    keep = as_any_mask(circuit, model.wiring)
    space, own = space_of(keep, model), as_any_scores(scores, model, keep)
    if not space.flat(keep).any():
        raise CircuitError("the circuit has no edges, so any other one is an alternative")
    inputs = prepare(model, data, metric, corruption, circuit=[circuit, own])
    seen, unseen = halved(inputs, seed)
    first = evaluate(model, keep, *seen[1:])
    search = _Search(seen, own, space, first.faithfulness - tolerance, rule)
    penalty, second, found = search.chosen(most)
    pair = evaluate(model, [keep, second], *unseen[1:])
    other = _built(own, second, seen, penalty, pair[1])
    base: Any = own
    return Alternative(
        circuit=other, overlap=compare(base.circuit(keep), other), evaluations=(pair[0], pair[1]),
        chosen=(first, found), penalty=penalty, in_sample=seen.data is unseen.data,
    )  # fmt: skip


@dataclass(frozen=True)
class _Search:
    """What the search for a second circuit beside the one of the space rests on."""

    inputs: Inputs
    scores: Scores | PlacedScores
    space: Space
    target: float
    rule: str

    def chosen(self, most: float) -> tuple[float, AnyMask, Evaluation]:
        """The penalty and the circuit that reaches the target at the largest penalty, the smallest
        of those that are tried, with its Evaluation; raises EvaluationError where none does."""
        keep, space, given = self.space.keep, self.space, self.inputs
        first = keep.counts()[0] if isinstance(keep, PlacedMask) else int(keep.sum())
        total = space.places.n_edges[0] if isinstance(space, Placed) else space.total
        sizes = _sizes(first, round(most * first), total)
        held = space.flat(keep)
        for share in KEPT:
            each = {space.flat(mask).tobytes(): mask for mask in self._ranked(share, sizes)}
            tried = [mask for mask in each.values() if (space.flat(mask) & ~held).any()]
            found = evaluate(given.model, tried, *given[1:]) if tried else []
            for mask, evaluation in zip(tried, found, strict=True):
                if evaluation.faithfulness >= self.target:
                    return 1 - share, *self._dropped(*self._pruned(mask, evaluation))
        raise EvaluationError(
            f"no other circuit of up to {sizes[-1]:,} edges has the faithfulness {self.target:.3f} "
            "on these prompts; allow more edges (most) or a larger tolerance"
        )

    def _ranked(self, share: float, sizes: Sequence[int]) -> Sequence[AnyMask]:
        """The circuits of these sizes where the scores of the first one's edges are lowered."""
        scores, keep = self.scores, self.space.keep
        if not isinstance(keep, PlacedMask) and isinstance(scores, Scores):
            lowered = replace(scores, values=np.where(keep, share * scores.values, scores.values))
            any_left = lowered.values[scores.wiring.legal].any()
            return [lowered.mask(n, self.rule) for n in sizes] if any_left else []
        placed: Any = scores
        own = np.where(keep.residual, share * placed.residual, placed.residual)  # type: ignore[union-attr]
        ranking = replace(placed, residual=own).ranking(self.rule)
        joint = isinstance(self.space, Placed) and self.space.joint
        needed = placed.places.needed(ranking, joint=joint)
        return [placed.places.chosen(needed, len(ranking), n, joint=joint) for n in sizes]

    def _pruned(self, mask: AnyMask, found: Evaluation) -> tuple[AnyMask, Evaluation]:
        """Between places, the circuit without as much of attention as it can do without."""
        if not isinstance(mask, PlacedMask) or not isinstance(self.space, Placed):
            return mask, found
        value = found.faithfulness
        sizes, slack = {mask.counts()[0]: value}, value - self.target
        less = pruned(self.inputs, mask, sizes, self.space.joint, slack).mask
        return less, evaluate(self.inputs.model, less, *self.inputs[1:])

    def _dropped(self, mask: AnyMask, found: Evaluation) -> tuple[AnyMask, Evaluation]:
        """The circuit without as many of the shared edges as it can do without: those whose loss
        alone costs least, of the weakest, are dropped first."""
        given, held = self.inputs, self.space.flat(self.space.keep)
        strengths = np.abs(self._values())
        while (own := self.space.flat(mask) & held).any():
            flat = np.flatnonzero(own)
            flat = flat[np.argsort(strengths[flat], kind="stable")[:SINGLE]]
            single = [self._without(mask, flat[i : i + 1]) for i in range(len(flat))]
            alone = evaluate(given.model, single, *given[1:])
            least = flat[np.argsort([-each.faithfulness for each in alone], kind="stable")]
            counts = {round(n) for n in np.geomspace(1, len(least), DROPPED).tolist()}
            tried = [self._without(mask, least[:n]) for n in sorted(counts, reverse=True)]
            every = evaluate(given.model, tried, *given[1:])
            pairs = zip(tried, every, strict=True)
            better = next(((m, e) for m, e in pairs if e.faithfulness >= self.target), None)
            if better is None:
                break
            mask, found = better
        return mask, found

    def _values(self) -> Float[np.ndarray, " edges"]:
        """The scores of all edges of the space."""
        own = self.scores
        if isinstance(own, Scores):
            return self.space.flat(own.values)
        return self.space.flat(PlacedMask(own.places, own.residual, own.attention))

    def _without(self, mask: AnyMask, edges: Int[np.ndarray, " n"]) -> AnyMask:
        """The mask without these edges, and without what becomes a dead end."""
        fewer = self.space.flat(mask).copy()
        fewer[edges] = False
        return self.space.alive(self.space.mask(fewer))


def _sizes(first: int, most: int, total: int) -> Sequence[int]:
    """From half of the first circuit's size up."""
    sizes, size = set(), max(1.0, first / 2)
    while size < most:
        sizes.add(round(size))
        size *= FACTOR
    return sorted({min(n, total) for n in (*sizes, most)})


def _built(
    scores: Scores | PlacedScores, mask: AnyMask, seen: Inputs, penalty: float, measured: Evaluation
) -> Circuit:
    """The circuit with what it is: how it was chosen, on which prompts, and its faithfulness; and
    not the first one's."""
    marks = str(scores.about.get("seen", "")) + str(seen.metadata()["seen"])
    about = {key: value for key, value in scores.about.items() if key != "asked"}
    own = {"metric": measured.metric, "corruption": measured.corruption, "penalty": penalty,
           "faithfulness": measured.said(), "seen": marks}  # fmt: skip
    whole: Any = replace(scores, about={**about, **own})
    found: Circuit = whole.circuit(mask)
    return found
