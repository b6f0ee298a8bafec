"""Whether the difference between two circuits matters, on one model or on two."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from math import nan
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float

from circuitkit.engine.checkpoints import within
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    Inputs,
    MetricLike,
    prepare,
    require_model,
)
from circuitkit.engine.model import Model
from circuitkit.engine.weights import notice_others
from circuitkit.errors import ArgumentError, UnfinishedError
from circuitkit.evaluation.faithfulness import Evaluation, evaluate
from circuitkit.evaluation.masks import CircuitLike, as_graph, as_mask
from circuitkit.evaluation.transfer_result import CIRCUITS, SIDES, Change, Put, Transfer
from circuitkit.graph.circuit import weight_matrix
from circuitkit.graph.digests import WeightsWarning
from circuitkit.graph.nodes import edge_name
from circuitkit.graph.types import Graph, Mask
from circuitkit.graph.walks import inside
from circuitkit.graph.wiring import Wiring
from circuitkit.util.options import Bounds, Count, Size, Whole, checked
from circuitkit.util.statistics import bootstrap_interval

__all__ = ["transfer"]

SEED = 0  # of random edges


@checked
def transfer(
    model: Model,
    left: CircuitLike,
    right: CircuitLike,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    other: Model | None = None,
    edges: Whole = 20,
    random: Whole = 5,
    margin: Annotated[float, Bounds(0, 1)] = 0.05,
    examples: Count | None = None,
    batch_size: Count | None = None,
    memory: Size | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> Transfer:
    """Measure whether the difference between two circuits matters, by faithfulness.

    The circuits are of two seeds, of two models with the same wiring, or of a model before and
    after it was fine-tuned; ``right`` belongs to the ``other`` model where there is one, and
    everything is measured on both. The own edges of each are put to the other circuit, all
    together, beside as many of ``random`` other edges that fit there (the mean of so many draws),
    and the ``edges`` strongest of each one by one. A change matters where the interval of its
    effect on faithfulness is beyond ± ``margin``, and does not where it is within.

    ``data``, ``metric`` and ``corruption`` are as in ``evaluate``; of a task by its name up to
    ``examples`` prompts (64) that neither circuit has seen. ``resume`` is a directory for finished
    batches (None by default).

    Returns a Transfer: faithfulness and effects have no unit, 1 is the full model; an effect is
    positive where faithfulness grows. Raises CircuitError where a circuit does not fit a model,
    ArgumentError where the models have different wirings or one name, and otherwise as
    ``evaluate``.

    Example:
        >>> left, right = (scores.top(n) for n in (10, 40))
        >>> found = ck.transfer(model, left, right, data, edges=3)
        >>> found.only, found.matters()
        ((0, 30), True)
        >>> print(ck.transfer(model, left, left, data))
        the circuits have the same edges: nothing to transfer on mini
    """
    models = _models(model, other)
    masks = as_mask(left, model.wiring), as_mask(right, model.wiring)
    graphs = as_graph(left), as_graph(right)
    puts = _strongest(model.wiring, graphs, masks, edges)
    runs, drawn = _runs(model.wiring, masks, puts, random)
    how = {"examples": examples, "batch_size": batch_size, "memory": memory}
    every = _inputs(models, graphs, (data, metric, corruption), how)
    evaluated: dict[tuple[str, str], Evaluation] = {}
    changes: dict[tuple[str, str], Change] = {}
    singles: list[list[Change]] = [[] for _ in puts]
    for name, found in zip(models, _measured(every, runs, resume), strict=True):
        whole, rest = found[: len(CIRCUITS)], found[len(CIRCUITS) :]
        evaluated |= {(name, circuit): each
                      for circuit, each in zip(CIRCUITS, whole, strict=True)}  # fmt: skip
        by_chance = rest[len(puts) :]
        first, second, _, either = whole
        chance = [_mean([_change(whole[side], one).effect
                         for one, of in zip(by_chance, drawn, strict=True) if of == side])
                  for side in (0, 1)]  # fmt: skip
        changes[name, "right"] = _change(first, second)
        changes[name, "to left"] = _change(first, either)._replace(random=chance[0])
        changes[name, "to right"] = _change(second, either)._replace(random=chance[1])
        for own, (side, *_), each in zip(singles, puts, rest, strict=False):
            own.append(_change(whole[1 - side], each))
    listed = [Put(edge, SIDES[side], weight, tuple(own))
              for (side, _, edge, weight), own in zip(puts, singles, strict=True)]  # fmt: skip
    only = int((masks[0] & ~masks[1]).sum()), int((masks[1] & ~masks[0]).sum())
    return Transfer(tuple(models), only, evaluated, changes, tuple(listed), margin)


def _measured(
    every: Sequence[Inputs], runs: Sequence[Mask], resume: str | os.PathLike[str] | None
) -> list[list[Evaluation]]:
    """The Evaluations of all masks on each model. Of two, which may have one name, each keeps its
    batches in a directory of its own."""
    found: list[list[Evaluation]] = []
    left: list[UnfinishedError] = []
    for side, inputs in zip(SIDES, every, strict=False):
        place = within(resume, side) if every[1:] else resume
        try:
            found.append(evaluate(inputs.model, runs, *inputs[1:], resume=place))
        except UnfinishedError as error:  # a shard makes its part on both models
            left.append(error)
    if left:
        raise left[-1]
    return found


def _models(model: Model, other: Model | None) -> dict[str, Model]:
    """The one model, or both, by name."""
    require_model(model)
    if other is None:
        return {model.name: model}
    require_model(other)
    if other.wiring != model.wiring:
        raise ArgumentError(
            f"{model.name} and {other.name} have different wirings ({model.wiring}; "
            f"{other.wiring}), so that edges of one are not those of the other; give two models of "
            "one architecture"
        )
    names = (model.name, other.name)
    if names[0] == names[1]:
        names = (f"{names[0]} (left)", f"{names[0]} (right)")
    return dict(zip(names, (model, other), strict=True))


def _inputs(
    models: Mapping[str, Model],
    graphs: tuple[Graph | np.ndarray, Graph | np.ndarray],
    given: tuple[Data, MetricLike | None, CorruptionLike | None],
    how: Mapping[str, Any],
) -> list[Inputs]:
    """What is measured on each model; of two each circuit is on purpose on the other's weights,
    and warned of only where it does not fit its own."""
    if len(models) == 1:
        one = next(iter(models.values()))
        return [prepare(one, *given, circuit=[*graphs], **how)]
    for own, graph in zip(models.values(), graphs, strict=True):
        if not isinstance(graph, np.ndarray):
            notice_others(own, graph.graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeightsWarning)
        return [prepare(one, *given, circuit=[*graphs], **how) for one in models.values()]


_Edge = tuple[int, tuple[int, int], str, float]  # the side that has it, where it is, name, weight


def _strongest(
    wiring: Wiring,
    graphs: tuple[Graph | np.ndarray, Graph | np.ndarray],
    masks: tuple[Mask, Mask],
    most: int,
) -> list[_Edge]:
    """The strongest edges that each side alone has; those of a mask have no weight."""
    found: list[_Edge] = []
    for side, graph in enumerate(graphs):
        weights = np.full(wiring.shape, nan)
        if not isinstance(graph, np.ndarray) and not graph.graph.get("unweighted"):
            weights = weight_matrix(graph)
        own = [(int(row), int(column))
               for row, column in np.argwhere(masks[side] & ~masks[1 - side])]  # fmt: skip
        own.sort(key=lambda at: -np.nan_to_num(abs(weights[at])))
        for at in own[:most]:
            name = edge_name(wiring.writers[at[0]], wiring.readers[at[1]])
            found.append((side, at, name, float(weights[at])))
    return found


def _runs(
    wiring: Wiring, masks: tuple[Mask, Mask], puts: list[_Edge], random: int
) -> tuple[list[Mask], list[int]]:
    """The masks that are measured: the four circuits, each edge put to the other circuit, and
    random edges put to a circuit; and of these to which."""
    left, right = masks
    either = left | right
    runs = [left, right, left & right, either]
    for side, at, _, _ in puts:
        one = masks[1 - side].copy()
        one[at] = True
        runs.append(one)
    rng = np.random.default_rng(SEED)
    fitting = np.flatnonzero(inside(wiring, either) & ~either)
    drawn = []
    for side, own in enumerate(masks):
        number = int((masks[1 - side] & ~own).sum())
        for _ in range(random if number else 0):
            one = own.copy()
            one.reshape(-1)[rng.permutation(fitting)[:number]] = True
            runs.append(one)
            drawn.append(side)
    return runs, drawn


def _change(before: Evaluation, after: Evaluation) -> Change:
    """What a change does to faithfulness, on the same prompts; nan where that is not defined."""
    samples = (before.nothing, before.everything, before.circuit, after.circuit)
    if before.to_dict()["faithfulness"] is None:
        return Change(nan, nan, nan)
    effect = float(_difference(*(own[None] for own in samples))[0])
    return Change(effect, *bootstrap_interval(_difference, samples))


def _difference(
    nothing: Float[np.ndarray, "draws examples"],
    everything: Float[np.ndarray, "draws examples"],
    before: Float[np.ndarray, "draws examples"],
    after: Float[np.ndarray, "draws examples"],
) -> Float[np.ndarray, " draws"]:
    gap = everything.mean(-1) - nothing.mean(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((after.mean(-1) - before.mean(-1)) / gap)


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else nan
