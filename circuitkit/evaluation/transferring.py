"""Whether the difference between two circuits matters, on one model or on two."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isnan, nan
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float

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
from circuitkit.errors import ArgumentError
from circuitkit.evaluation.faithfulness import Evaluation, evaluate
from circuitkit.evaluation.masks import CircuitLike, as_graph, as_mask
from circuitkit.evaluation.results import PictureResult
from circuitkit.graph.circuit import weight_matrix
from circuitkit.graph.digests import WeightsWarning
from circuitkit.graph.nodes import edge_name
from circuitkit.graph.types import Graph, Mask
from circuitkit.graph.walks import inside
from circuitkit.graph.wiring import Wiring
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.options import Bounds, Count, Size, Whole, checked
from circuitkit.util.statistics import bootstrap_interval, interval_text
from circuitkit.util.tables import as_text, to_frame
from circuitkit.viz.figures import Heatmap

if TYPE_CHECKING:
    import pandas

__all__ = ["Change", "Put", "Transfer", "transfer"]

SEED = 0  # of random edges
SIDES = ("left", "right")
CIRCUITS = ("left", "right", "shared", "either")
WORDS = {"left": "the left", "right": "the right", "shared": "shared by both", "either": "either"}

_NUMBERS = ("faithfulness", "low", "high")
_WHAT = {
    "right": "right for left",
    "to left": "right's own to left",
    "to right": "left's own to right",
}


class Change(NamedTuple):
    """What a change of the circuit does to its faithfulness on a model, with the ends of its
    bootstrap interval over prompts, and what as many random edges do."""

    effect: float
    low: float
    high: float
    random: float = nan


class Put(NamedTuple):
    """An edge that one circuit alone has, put to the other: the side that has it, its weight there,
    and what it changes on each model."""

    edge: str
    of: str
    weight: float
    changes: tuple[Change, ...]


# -- what is found ---------------------------------------------------------------------------------
@dataclass(frozen=True, repr=False)
class Transfer(PictureResult):
    """Two circuits on one model or on both of theirs, and what their difference does.

    ``evaluations`` has by (model, circuit) the Evaluation of the ``left`` circuit, the ``right``
    one, of the edges that are ``shared``, and of those that ``either`` has; ``only`` is how many
    edges the left and the right circuit alone have. ``changes`` has by (model, what) what it does
    to faithfulness to take the ``right`` circuit instead of the left, to put the right circuit's
    own edges to the left (``to left``), and the left's to the right (``to right``). ``edges`` are
    the strongest edges of the difference, put to the other circuit one by one.
    """

    models: tuple[str, ...]
    only: tuple[int, int]
    evaluations: Mapping[tuple[str, str], Evaluation]
    changes: Mapping[tuple[str, str], Change]
    edges: tuple[Put, ...]
    margin: float

    def matters(self, model: str | None = None) -> bool | None:
        """Whether it changes the faithfulness on a model (the first) by more than the margin to
        take one circuit instead of the other, or to put the own edges of one to the other: True
        where the interval of any of these is beyond it, False where those of all are within, None
        where neither is known."""
        name = self.models[0] if model is None else model
        own = [self._beyond(self.changes[name, what]) for what in _WHAT]
        return True if True in own else False if own == [False] * len(own) else None

    def _beyond(self, change: Change) -> bool | None:
        if change.low > self.margin or change.high < -self.margin:
            return True
        return False if -self.margin <= change.low and change.high <= self.margin else None

    def rows(self) -> list[dict[str, Json]]:
        """A row for each circuit on each model: see ``to_frame``."""
        found = []
        for (model, circuit), each in self.evaluations.items():
            said = each.to_dict()
            numbers = {key: nan if said[key] is None else said[key] for key in _NUMBERS}
            found.append({"model": model, "circuit": circuit, "edges": each.edges, **numbers})
        return found

    def effects(self) -> list[dict[str, Json]]:
        """A row for each change on each model: ``model``, ``change``, ``edges`` (that are put or
        exchanged), ``effect`` (on faithfulness), ``low`` and ``high`` (its interval), ``random``
        (the mean effect of as many random edges; nan for an exchange), ``matters``."""
        number = {"right": sum(self.only), "to left": self.only[1], "to right": self.only[0]}
        return [
            {"model": model, "change": what, "edges": number[what], **change._asdict(),
             "matters": self._beyond(change)}
            for (model, what), change in self.changes.items()
        ]  # fmt: skip

    def single(self) -> list[dict[str, Json]]:
        """A row for each edge that was put to the other circuit, on each model: ``edge``, ``of``
        (the circuit that has it), ``weight``, ``model``, ``effect``, ``low``, ``high``."""
        return [
            {"edge": put.edge, "of": put.of, "weight": put.weight, "model": model,
             "effect": change.effect, "low": change.low, "high": change.high}
            for put in self.edges
            for model, change in zip(self.models, put.changes, strict=True)
        ]  # fmt: skip

    def to_frame(self) -> pandas.DataFrame:
        """A row for each circuit on each model.

        Columns: ``model``, ``circuit`` (left, right, shared or either), ``edges``,
        ``faithfulness``, ``low`` and ``high`` (its bootstrap interval); nan where it is not
        defined. ``effects`` and ``single`` have the rows of the changes.
        """
        return to_frame(self.rows())

    def plot(self) -> Heatmap:
        """Faithfulness as a heat map: the circuits by the models."""
        table = [[each.to_dict()["faithfulness"] for (name, _), each in self.evaluations.items()
                  if name == model] for model in self.models]  # fmt: skip
        return Heatmap(
            np.array(table, dtype=float).T, CIRCUITS, self.models, "circuit", "on the model",
            title="Two circuits, and their difference", unit="faithfulness", numbers=True,
            limit=1.0,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        return {
            "models": list(self.models), "left_only": self.only[0], "right_only": self.only[1],
            "margin": self.margin,
            "matters": {model: self.matters(model) for model in self.models},
            "circuits": [nan_to_none(row) for row in self.rows()],
            "changes": [nan_to_none(row) for row in self.effects()],
            "edges": [nan_to_none(row) for row in self.single()],
        }  # fmt: skip

    def __str__(self) -> str:
        if not any(self.only):
            return f"the circuits have the same edges: nothing to transfer on {self._on}"
        verdicts = {True: "matters", False: "does not matter", None: "is not known to matter"}
        said = (f"{verdicts[self.matters(one)]} on {one}" for one in self.models)
        return (
            f"the difference ({self.only[0]:,} edges of the left, {self.only[1]:,} of the right) "
            f"{', '.join(said)} (margin {self.margin:g})"
        )

    @property
    def _on(self) -> str:
        return " and ".join(self.models)

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        first = next(iter(self.evaluations.values()))
        yield str(self)
        yield f"{first.metric} under {first.corruption}, {len(first.circuit)} prompts"
        for model in self.models:
            own = [row for row in self.rows() if row["model"] == model]
            shown = [
                {"circuit": WORDS[row["circuit"]], "edges": row["edges"],
                 "faithfulness": row["faithfulness"],
                 "interval": interval_text(row["low"], row["high"])}
                for row in own
            ]  # fmt: skip
            yield f"\n{model}\n{as_text(shown, formats={'edges': ',d'}, indent=2)}"
            if any(self.only):
                yield f"\n{as_text([*self._changes(model)], indent=2)}"
        if self.edges:
            yield f"\nedges, put to the other circuit\n{as_text([*self._singles()], indent=2)}"

    def _changes(self, model: str) -> Iterator[dict[str, Json]]:
        says = {True: "matters", False: "does not matter", None: "not known"}
        for row in self.effects():
            if row["model"] == model:
                yield {
                    "change": _WHAT[row["change"]], "edges": row["edges"],
                    "effect": _signed(row["effect"]),
                    "interval": interval_text(row["low"], row["high"]),
                    "of random": _signed(row["random"]), "": says[row["matters"]],
                }  # fmt: skip

    def _singles(self) -> Iterator[dict[str, Json]]:
        for put in self.edges:
            effects = {f"on {model}": _signed(change.effect)
                       for model, change in zip(self.models, put.changes, strict=True)}  # fmt: skip
            weight = "" if isnan(put.weight) else f"{put.weight:+.4g}"
            yield {"edge": put.edge, "of": WORDS[put.of], "weight": weight, **effects}


def _signed(value: float) -> str:
    return "" if isnan(value) else f"{value + 0.0:+.3f}"


# -- measuring -------------------------------------------------------------------------------------
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
    evaluated: dict[tuple[str, str], Evaluation] = {}
    changes: dict[tuple[str, str], Change] = {}
    singles: list[list[Change]] = [[] for _ in puts]
    how = {"examples": examples, "batch_size": batch_size, "memory": memory}
    every = _inputs(models, graphs, (data, metric, corruption), how)
    for name, inputs in zip(models, every, strict=True):
        found = evaluate(inputs.model, runs, *inputs[1:], resume=resume)
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
