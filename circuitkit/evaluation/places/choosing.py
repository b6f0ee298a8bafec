"""Which circuit between places is chosen from scores: first its edges of the residual stream, then
its edges of attention.

The edges of the residual stream are ranked and cut with all of attention's edges in place. Which of
these are needed is then asked of the circuit itself, by what cutting each alone does in it: scores
at the full model mislead there, because one key that is cut among its rivals distorts the softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Float, Int

from circuitkit.engine.inputs import Inputs
from circuitkit.errors import EvaluationError
from circuitkit.evaluation.faithfulness import Evaluation, evaluations, measure_all
from circuitkit.evaluation.hypotheses.measuring import Runs
from circuitkit.evaluation.searching import FAITHFULNESS
from circuitkit.evaluation.sizes import Sizes
from circuitkit.evaluation.spaces import joint_norms
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.places import AnyMask, PlacedMask

__all__ = [
    "SLACK",
    "ChosenPlaces",
    "choose_places",
    "measure_places",
    "pruned",
    "with_strongest",
]

SLACK = 0.05  # of the faithfulness, that fewer edges of attention may cost on the same prompts


@dataclass(frozen=True, eq=False)
class ChosenPlaces:
    """The circuit that was chosen, and what was measured for it on the prompts of the discovery.

    ``free`` is the circuit with all edges of attention, and ``effects`` says what cutting each of
    them alone costs in it (in metric units per example, [heads, 2, source, destination]; nan where
    there is none), and ``each`` what it costs on every example, in the order of the table; so
    many of the ``strongest`` of them were kept. ``sizes`` and ``kept`` are the faithfulness by the
    number of edges of the residual stream, with all of attention, and then by the number of edges
    of attention; ``value`` is that of the circuit.
    """

    mask: PlacedMask
    free: PlacedMask
    effects: Float[np.ndarray, "heads 2 source destination"]
    each: Float[np.ndarray, "edges examples"]
    strongest: int
    sizes: dict[int, float]
    kept: dict[int, float]
    value: float

    @property
    def whole(self) -> float:
        """The faithfulness with all edges of attention."""
        return self.sizes[self.free.counts()[0]]


def choose_places(
    inputs: Inputs,
    scores: PlacedScores,
    *,
    edges: int | None = None,
    faithfulness: float | None = None,
) -> ChosenPlaces:
    """The circuit of at most that many edges of the residual stream, or the smallest that reaches
    the faithfulness (0.85); then without the edges of attention whose cutting costs, together, at
    most 0.05 of it.

    Raises ScoresError where the circuit would be empty, and EvaluationError where none reaches the
    faithfulness.
    """
    joint = joint_norms(inputs.model)
    if edges is None:
        target = FAITHFULNESS if faithfulness is None else faithfulness
        free, sizes = _smallest(inputs, scores, target, joint)
    else:
        free = scores.best(edges, joint=joint)
        sizes = {free.counts()[0]: measure_places(inputs, [free])[0].faithfulness}
    return pruned(inputs, free, sizes, joint)


def measure_places(inputs: Inputs, masks: Sequence[AnyMask]) -> list[Evaluation]:
    """The Evaluation of each circuit, between places or plain, from the same runs."""
    model, data, metric, corruption = inputs
    values = measure_all(model, masks, data, [metric], corruption)[0]
    return evaluations(values, metric, corruption, masks)


def _faithful(inputs: Inputs, masks: Sequence[PlacedMask]) -> list[float]:
    return [each.faithfulness for each in measure_places(inputs, masks)]


def _smallest(
    inputs: Inputs, scores: PlacedScores, target: float, joint: bool
) -> tuple[PlacedMask, dict[int, float]]:
    """The smallest circuit, with all of attention, that reaches the target; and all sizes tried."""
    places, ranking = scores.places, scores.ranking()
    needed = places.needed(ranking, joint=joint)

    def cut(sizes: Sequence[int]) -> list[PlacedMask]:
        return [places.chosen(needed, len(ranking), n, joint=joint) for n in sizes]

    found = Sizes[PlacedMask](
        len(ranking), target, cut, lambda mask: mask.counts()[0],
        lambda masks: _faithful(inputs, masks),
    )  # fmt: skip
    found.search()
    if found.high is None:
        raise EvaluationError(found.missed())
    sizes = {n: found.values[n] for n in sorted(found.values.keys() - {0})}
    return cut([found.high])[0], sizes


def pruned(
    inputs: Inputs,
    free: PlacedMask,
    sizes: dict[int, float],
    joint: bool,
    slack: float = SLACK,
) -> ChosenPlaces:
    """The circuit with as few edges of attention as keep its faithfulness (in ``sizes``, by its
    number of residual edges) within the slack."""
    alive = np.argwhere(free.attention)
    whole = sizes[free.counts()[0]]
    cut = (_without(free, alive[[number]]) for number in range(len(alive)))
    base, *less = Runs(inputs, None).table(chain([free], cut))
    each = base - np.reshape(less, (len(alive), len(base)))
    means = each.mean(1)
    effects = np.full(free.attention.shape, np.nan)
    effects[free.attention] = means

    def kept(numbers: Sequence[int]) -> list[PlacedMask]:
        return [with_strongest(free, means, n) for n in numbers]

    found = Sizes[PlacedMask](
        len(alive), whole - slack, kept, lambda mask: mask.counts()[1],
        lambda masks: _faithful(inputs, masks),
    )  # fmt: skip
    found.values = {0: _faithful(inputs, kept([0]))[0], len(alive): whole}
    best = 0
    if found.values[0] < found.target:
        found.search()
        best = found.high or len(alive)
    elif whole <= slack:  # it keeps so little that nothing can be said of its parts
        best = len(alive)
    mask = free.places.alive(kept([best])[0], joint=joint)
    values = {n: found.values[n] for n in sorted(found.values)}
    value = found.values[best]
    return ChosenPlaces(mask, free, effects, each, best, sizes, values, value)


def with_strongest(free: PlacedMask, effects: Float[np.ndarray, " edges"], n: int) -> PlacedMask:
    """The circuit with the n edges of attention of largest effect, of those that it has: one effect
    for each, in the order of its table. What is a dead end then is still in it."""
    order = np.argsort(-np.abs(effects), kind="stable")
    return _without(free, np.argwhere(free.attention)[order[n:]])


def _without(free: PlacedMask, edges: Int[np.ndarray, "edges 4"]) -> PlacedMask:
    """The circuit without these edges of attention."""
    attention = free.attention.copy()
    attention[tuple(edges.T)] = False
    return PlacedMask(free.places, free.residual, attention)
