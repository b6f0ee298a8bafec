"""A circuit made more faithful at its own size, by swapping edges at its cut.

A score says what an edge does in the whole model, where other edges may do its work too; inside a
circuit these are cut. What decides here are *marginal* effects: of the circuit without one of its
weakest edges, and of the circuit with one of the strongest edges that it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from circuitkit.data.batches import Batch
from circuitkit.engine.inputs import CorruptionLike, Data, Inputs, MetricLike, prepare
from circuitkit.engine.model import Activations, Model
from circuitkit.errors import CircuitError
from circuitkit.evaluation.faithfulness import Evaluation, measure_all
from circuitkit.evaluation.masks import (
    AnyScoresLike,
    CircuitLike,
    as_any_mask,
    as_any_scores,
)
from circuitkit.evaluation.results import TableResult
from circuitkit.evaluation.spaces import Space, space_of
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.places import AnyMask, PlacedMask
from circuitkit.graph.scores import Scores
from circuitkit.registry import name_of
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.options import Bounds, Count, checked
from circuitkit.util.statistics import standard_error
from circuitkit.util.tables import as_text, to_frame

if TYPE_CHECKING:
    import pandas

__all__ = ["CANDIDATES", "SHORT", "Candidates", "Refined", "Swap", "refine", "rounds"]

CANDIDATES = 64
Candidates = Annotated[int, Bounds(2, 1_000_000)]  # one inside and one outside of the circuit
FEW = 8  # examples of the first round, at least
SHORT = 4  # candidates of each side of which all pairs are tried
Kept: TypeAlias = Bool[np.ndarray, " edges"]  # which of all edges of the space a circuit has
COLUMNS = ("dropped", "added", "faithfulness", "gain", "error")


class Swap(NamedTuple):
    """Edges that made room for as many others: the ``faithfulness`` after it, how much nearer to 1
    that is than before (``gain``), and the standard error of the gain over the examples."""

    dropped: tuple[str, ...]
    added: tuple[str, ...]
    faithfulness: float
    gain: float
    error: float


@dataclass(frozen=True)
class Refined(TableResult):
    """A circuit after its swaps, which are in their order.

    ``before`` and ``evaluation`` are the Evaluations of the circuit that was given and of the
    refined one, on the examples of the refinement: in sample. ``mask`` is the refined circuit's.
    """

    circuit: Circuit
    mask: AnyMask
    before: Evaluation
    evaluation: Evaluation
    swaps: tuple[Swap, ...]

    def to_frame(self) -> pandas.DataFrame:
        """A row for each swap.

        Columns: ``dropped`` and ``added`` (the names of edges; of several, separated by commas),
        ``faithfulness`` (after the swap), ``gain`` (how much nearer to 1 that is than before it)
        and ``error`` (the standard error of the gain; nan for a single example).
        """
        return to_frame(self._rows(), COLUMNS)

    def _rows(self) -> list[dict[str, str | float]]:
        return [
            {**swap._asdict(), "dropped": ", ".join(swap.dropped), "added": ", ".join(swap.added)}
            for swap in self.swaps
        ]

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        swaps = [
            {**nan_to_none(swap._asdict()), "dropped": [*swap.dropped], "added": [*swap.added]}
            for swap in self.swaps
        ]
        return {
            "edges": self.evaluation.edges,
            "examples": len(self.evaluation.circuit),
            "before": self.before.faithfulness,
            "faithfulness": self.evaluation.faithfulness,
            "swaps": swaps,
        }

    def __str__(self) -> str:
        n = len(self.swaps)
        done = "no swap helps" if not n else f"{n} swap{'s' if n > 1 else ''}"
        return (
            f"{done} in {self.evaluation.edges:,} edges: faithfulness "
            f"{self.before.faithfulness:.3f} before, {self.evaluation.faithfulness:.3f} after (in "
            "sample)"
        )

    def __repr__(self) -> str:
        if not self.swaps:
            return str(self)
        formats = {"faithfulness": ".3f", "gain": "+.4f", "error": ".4f"}
        return f"{self}\n{as_text(self._rows(), formats=formats, indent=2)}"


@checked
def refine(
    model: Model,
    circuit: CircuitLike,
    scores: AnyScoresLike,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    candidates: Candidates = CANDIDATES,
    swaps: Count = 20,
) -> Refined:
    """A circuit of the same size that is nearer to the whole model, by swaps of single edges.

    Half of the candidates are the circuit's weakest edges, the other half the strongest that it
    lacks and that would be live in it: from a writer that it has to a reader that is used. The
    circuit is run without each of the former and with each of the latter, on a few examples; the
    half that brings its faithfulness nearest to 1 on twice as many, and so on. Of the four best on
    each side every pair is swapped, on all examples. The best pair is kept where it brings the
    faithfulness nearer to 1 by more than a standard error, and then the search starts again, for at
    most ``swaps`` swaps. Edges that become dead ends when one is dropped are dropped with it, and
    replaced by as many others. Of a circuit between places, with the scores that it was chosen
    from, edges of both kinds are swapped, also one for the other.

    Returns a Refined, whose circuit is as large as the one given (without its dead ends), and on
    these examples never farther from faithfulness 1. Measure it on others: it was chosen on these.
    Raises ArgumentError for an argument in the wrong place and for fewer than 2 candidates,
    CircuitError where the circuit has no live edge, and EvaluationError where everything and
    nothing give the same.

    Source: successive halving as in Jamieson & Talwalkar (2016).

    Example:
        >>> found = ck.refine(model, scores.top(30), scores, data, candidates=16)
        >>> found.evaluation.edges == found.before.edges
        True
        >>> before, after = (abs(1 - e.faithfulness) for e in (found.before, found.evaluation))
        >>> after <= before
        True
    """
    mask = as_any_mask(circuit, model.wiring)
    own_scores = as_any_scores(scores, model, mask)
    space = space_of(mask, model)
    keep = space.flat(space.alive(mask)).astype(bool)
    if not keep.any():
        raise CircuitError("the circuit has no live edges, so none can be swapped; give at least 1")
    inputs = prepare(model, data, metric, corruption, circuit=[circuit, own_scores])
    work = _Work.of(inputs, space, _flat(space, own_scores))
    own = work.measure([keep])[0]
    before = now = work.evaluation(keep, own)
    made: list[Swap] = []
    while len(made) < swaps:
        new, values = _best_swap(work, keep, own, candidates // 2)
        after = work.evaluation(new, values)
        gain = abs(1 - now.faithfulness) - abs(1 - after.faithfulness)
        error = float(standard_error(values - own)) / abs(work.gap)
        if not gain > np.nan_to_num(error):
            break
        dropped, added = work.names(keep & ~new), work.names(new & ~keep)
        made.append(Swap(dropped, added, after.faithfulness, gain, error))
        keep, own, now = new, values, after
    about = _about(own_scores, inputs, candidates, len(made))
    refined = _circuit(replace(own_scores, about=about), space.mask(keep), circuit)
    return Refined(refined, space.mask(keep), before, now, tuple(made))


def _flat(space: Space, scores: Scores | PlacedScores) -> Float[np.ndarray, " edges"]:
    """The scores of all edges of the space."""
    if isinstance(scores, Scores):
        return space.flat(scores.values)
    return space.flat(PlacedMask(scores.places, scores.residual, scores.attention))


def _circuit(scores: Any, mask: AnyMask, before: object) -> Circuit:
    """The refined circuit; along the words of the one before, where it has some."""
    graph = getattr(before, "circuit", before)
    words = getattr(graph, "graph", {}).get("words") if isinstance(mask, PlacedMask) else None
    found: Circuit = scores.circuit(mask, **({"words": words} if words else {}))
    return found


def _about(
    scores: Scores | PlacedScores, inputs: Inputs, candidates: int, swaps: int
) -> dict[str, Json]:
    """What the refined circuit says of itself: the prompts on which it was refined count as seen,
    and a faithfulness is that of the circuit before."""
    now = inputs.metadata()
    seen = "".join(str(about.get("seen", "")) for about in (scores.about, now))
    how = {key: now[key] for key in ("metric", "corruption", "examples")}
    known = {key: value for key, value in scores.about.items() if key != "faithfulness"}
    return {**known, "seen": seen, "refined": {"candidates": candidates, "swaps": swaps, **how}}


@dataclass(frozen=True)
class _Work:
    """All that runs of circuits on some of the examples need; these are in an order by chance, so
    that the first are like all of them."""

    space: Space
    scores: Float[np.ndarray, " edges"]
    inputs: Inputs
    carry: Callable[[Batch], list[Activations]]  # the corruption as it is on all examples
    everything: Float[np.ndarray, " examples"]
    nothing: Float[np.ndarray, " examples"]
    given: Int[np.ndarray, " examples"]  # where the examples stand, in the order that was given

    @classmethod
    def of(cls, inputs: Inputs, space: Space, scores: Float[np.ndarray, " edges"]) -> _Work:
        """The order is that of the fingerprints: it does not depend on the one that was given."""
        data = inputs.data
        order = sorted(range(len(data)), key=lambda i: data.examples[i].fingerprint)
        mixed = replace(data, examples=tuple(data.examples[i] for i in order))
        carry = inputs.corruption(inputs.model, data)
        ((everything, nothing),) = measure_all(
            inputs.model, [], mixed, [inputs.metric], lambda *_: carry
        )
        mine = inputs._replace(data=mixed)
        return cls(space, scores, mine, carry, everything, nothing, np.argsort(order))

    @property
    def examples(self) -> int:
        """How many there are."""
        return len(self.everything)

    @property
    def gap(self) -> float:
        """What the metric loses from everything to nothing."""
        return float(self.everything.mean() - self.nothing.mean())

    def alive(self, keep: Kept) -> Kept:
        """The edges that are no dead ends."""
        return self.space.flat(self.space.alive(self.space.mask(keep)))

    def inside(self, keep: Kept) -> Kept:
        """The edges that would be alive."""
        return self.space.flat(self.space.inside(self.space.mask(keep)))

    def names(self, edges: Kept) -> tuple[str, ...]:
        """What these edges are called."""
        return tuple(self.space.names(self.space.edges(self.space.mask(edges))))

    def measure(
        self, kept: Sequence[Kept], start: int = 0, stop: int | None = None
    ) -> Float[np.ndarray, "masks some"]:
        """The metric of each circuit, on the examples from one to another."""
        model, data, metric, _ = self.inputs
        masks = [self.space.mask(keep) for keep in kept]
        found = measure_all(model, masks, data[start:stop], [metric], lambda *_: self.carry)
        values: Float[np.ndarray, "masks some"] = found[0, 2:]
        return values

    def evaluation(self, keep: Kept, values: Float[np.ndarray, " examples"]) -> Evaluation:
        """The Evaluation of a circuit, of its values on all examples."""
        names = name_of(self.inputs.metric), name_of(self.inputs.corruption)
        ends = self.everything[self.given], self.nothing[self.given]
        return Evaluation(*ends, values[self.given], *names, edges=int(keep.sum()))


def _best_swap(
    work: _Work, keep: Kept, own: Float[np.ndarray, " examples"], side: int
) -> tuple[Kept, Float[np.ndarray, " examples"]]:
    """The circuit after the best of the swaps that are tried, with its values; the circuit itself,
    where none can be made. ``side``: how many edges inside of it are candidates, and outside."""
    weak, strong = _insiders(work, keep, side), _outsiders(work, keep, side)
    drops, adds = _shortlisted(work, own, (weak, strong))
    tried = []
    for drop in drops:
        for add in adds:
            others = [*dict.fromkeys([*adds, *strong])]
            swapped = _swapped(work, keep, drop, add, others)
            tried += [] if swapped is None else [swapped]
    if not tried:
        return keep, own
    values = work.measure(tried)
    best = int(np.abs(work.everything.mean() - values.mean(1)).argmin())
    return tried[best], values[best]


def _insiders(work: _Work, keep: Kept, side: int) -> dict[int, Kept]:
    """The circuit without each of its weakest edges, and what dies with it, by flat index."""
    flat = np.flatnonzero(keep)
    weakest = flat[np.argsort(np.abs(work.scores[flat]), kind="stable")]
    return {int(edge): work.alive(_with(keep, edge, False)) for edge in weakest[:side]}


def _outsiders(work: _Work, keep: Kept, side: int) -> dict[int, Kept]:
    """The circuit with each of the strongest edges that would be live in it, by flat index."""
    flat = np.flatnonzero(work.inside(keep) & ~keep)
    strongest = flat[np.argsort(-np.abs(work.scores[flat]), kind="stable")]
    return {int(edge): _with(keep, edge, True) for edge in strongest[:side]}


def _with(keep: Kept, edge: int | np.integer, kept: bool) -> Kept:
    changed = keep.copy()
    changed[edge] = kept
    return changed


def _shortlisted(
    work: _Work, own: Float[np.ndarray, " examples"], sides: Sequence[Mapping[int, Kept]]
) -> list[list[int]]:
    """The few candidates of each side whose circuits are nearest to the whole model: the better
    half stays, round by round, for twice as many examples."""
    left = [list(side) for side in sides]
    totals = dict.fromkeys((edge for side in sides for edge in side), 0.0)
    missing = float((work.everything - own).mean())
    start = 0
    for stop in rounds(max(map(len, left)), work.examples):
        masks = [side[edge] for side, some in zip(sides, left, strict=True) for edge in some]
        values = work.measure(masks, start, stop)
        for edge, value in zip((e for some in left for e in some), values, strict=True):
            totals[edge] += float((value - own[start:stop]).sum())
        distance = {edge: abs(missing - total / stop) for edge, total in totals.items()}
        better = [sorted(some, key=distance.__getitem__) for some in left]
        left = [some[: max(SHORT, len(some) // 2)] for some in better]
        start = stop
    return [some[:SHORT] for some in left]


def rounds(candidates: int, examples: int) -> list[int]:
    """How many examples each round has seen at its end: all, the half, ..., as long as there are
    enough candidates to halve and examples to tell them apart."""
    rounds = [examples]
    while candidates >= 2 * SHORT and rounds[0] >= 2 * FEW:
        rounds.insert(0, rounds[0] // 2)
        candidates //= 2
    return rounds


def _swapped(work: _Work, keep: Kept, drop: int, add: int, others: Sequence[int]) -> Kept | None:
    """The circuit with one edge in the place of one; what dies with that makes room for the first
    of the others that are live then. None where the new edge is not, or not as many others are."""
    swapped = work.alive(_with(_with(keep, drop, False), add, True))
    room = int(keep.sum() - swapped.sum())
    fitting = work.inside(swapped) & ~swapped & ~keep
    chosen = [edge for edge in others if fitting[edge]][:room]
    if len(chosen) < room or not swapped[add]:
        return None
    swapped[chosen] = True
    return swapped
