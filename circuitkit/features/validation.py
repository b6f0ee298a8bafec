"""Whether an attribution graph says what happens when its features are changed: in the model, and
in the frozen model that the graph describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.data.examples import Example
from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.memory import foresee, room_of
from circuitkit.engine.model import Context
from circuitkit.engine.numerics import exact, wide
from circuitkit.errors import DataError, EvaluationError
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.graphs import AttributionGraph
from circuitkit.features.nodes import GraphNode
from circuitkit.features.pulls import linked, written
from circuitkit.features.questions import Question, ask
from circuitkit.features.replacing import Replaced
from circuitkit.graph.stages import Stage
from circuitkit.util.json_values import Json
from circuitkit.util.statistics import pearson
from circuitkit.util.tables import as_text, to_frame

if TYPE_CHECKING:
    import pandas

__all__ = ["MODELS", "PREDICTIONS", "Validation", "validate"]

MODELS = ("real", "frozen")
PREDICTIONS = ("graph", "live gradient")
FACTORS = (0.0, 2.0)  # a feature is taken away, and doubled
AT_ONCE = 64


@dataclass(frozen=True)
class Validation:
    """What was predicted of changing features, and what happened.

    Each feature's activation was multiplied by each of ``factors``, at its token alone. The graph
    predicts (factor − 1) · ``total`` as the change of its target, and the live gradient
    (factor − 1) · ``live``. It was measured in two models: the ``real`` one, and the ``frozen``
    one that the graph describes, with the patterns and norms of the prompt held, features in the
    place of MLPs, which may switch on and off, and errors as they are.

    Example:
        >>> found = ck.validate(model, graph, coders, nodes=5)
        >>> list(found.to_frame())[:4]
        ['prompt', 'node', 'graph', 'live gradient']

    Attributes:
        nodes: The features, prompt by prompt.
        prompts: Which prompt each is of, from 0.
        predicted: The graph's ``total`` and the ``live gradient``'s value of each, by name.
        measured: By model, the change of the target, [factor, node].
        factors: What activations were multiplied by.
    """

    nodes: tuple[str, ...]
    prompts: Int[np.ndarray, " n"]
    predicted: Mapping[str, Float[np.ndarray, " n"]]
    measured: Mapping[str, Float[np.ndarray, "factors n"]]
    factors: tuple[float, ...] = FACTORS

    @classmethod
    def pooled(cls, several: Sequence[Validation]) -> Validation:
        """Those of several prompts as one; raises EvaluationError where there are none."""
        if not several or len({own.factors for own in several}) > 1:
            raise EvaluationError("there is nothing to pool; give validations of the same factors")
        first = several[0]
        counts = [int(own.prompts.max(initial=-1)) + 1 for own in several]
        starts = np.cumsum([0, *counts[:-1]])
        return cls(
            tuple(name for own in several for name in own.nodes),
            np.concatenate([own.prompts + at for own, at in zip(several, starts, strict=True)]),
            {key: np.concatenate([own.predicted[key] for own in several])
             for key in first.predicted},
            {key: np.concatenate([own.measured[key] for own in several], axis=1)
             for key in first.measured},
            first.factors,
        )  # fmt: skip

    def rows(self) -> list[dict[str, Json]]:
        """For each prediction, model and factor: the correlation of what was predicted with what
        was measured, the slope through 0 (1 where changes are as large as predicted), the share of
        equal signs; and of several prompts the correlation's median and least over prompts."""
        return [
            {
                "prediction": key, "measured in": f"{model} model", "factor": factor,
                **agreement(change * (factor - 1), self.measured[model][i]),
                **self._by_prompt(change * (factor - 1), self.measured[model][i]),
            }
            for key, change in self.predicted.items()
            for model in self.measured
            for i, factor in enumerate(self.factors)
        ]  # fmt: skip

    def _by_prompt(
        self, predicted: Float[np.ndarray, " n"], measured: Float[np.ndarray, " n"]
    ) -> dict[str, Json]:
        numbers = np.unique(self.prompts)
        if len(numbers) < 2:
            return {}
        own = [pearson(predicted[self.prompts == i], measured[self.prompts == i]) for i in numbers]
        known = [value for value in own if value == value]
        if not known:
            return {"median": float("nan"), "least": float("nan")}
        return {"median": float(np.median(known)), "least": min(known)}

    def to_frame(self) -> pandas.DataFrame:
        """A row for each feature: its prompt, what was predicted of its ``total``, and what was
        measured, by model and factor."""
        measured = {
            f"{model} × {factor:g}": values[i]
            for model, values in self.measured.items()
            for i, factor in enumerate(self.factors)
        }
        return to_frame(
            {"prompt": int(self.prompts[n]), "node": name,
             **{key: float(own[n]) for key, own in self.predicted.items()},
             **{key: float(own[n]) for key, own in measured.items()}}
            for n, name in enumerate(self.nodes)
        )  # fmt: skip

    def __str__(self) -> str:
        real = {key: self._whole(key, "real") for key in self.predicted}
        said = ", ".join(
            f"{key} {own['correlation']:.2f} (slope {own['slope']:.2f})"
            for key, own in real.items()
        )
        return f"{len(self.nodes):,} features changed in the real model: correlation {said}"

    def __repr__(self) -> str:
        return f"{self}\n{as_text(self.rows())}"

    def _whole(self, key: str, model: str) -> dict[str, Json]:
        """The agreement over all factors."""
        steps = np.array(self.factors)[:, None] - 1
        predicted = (self.predicted[key] * steps).ravel()
        return agreement(predicted, self.measured[model].ravel())


def agreement(
    predicted: Float[np.ndarray, " n"], measured: Float[np.ndarray, " n"]
) -> dict[str, Json]:
    """The correlation, the slope through 0, and the share of equal signs; nan where not defined."""
    size = float(predicted @ predicted)
    told = (predicted != 0) & (measured != 0)
    same = np.sign(predicted[told]) == np.sign(measured[told])
    return {
        "correlation": pearson(predicted, measured),
        "slope": float(predicted @ measured) / size if size else float("nan"),
        "sign": float(same.mean()) if told.any() else float("nan"),
    }


@torch.no_grad()
def validate(
    model: Inspectable,
    graph: AttributionGraph,
    dictionaries: Sequence[Dictionary],
    *,
    nodes: int = 30,
    by: str = "total",
    factors: Sequence[float] = FACTORS,
    memory: int | None = None,
) -> Validation:
    """Change a graph's strongest features, and see whether the target moves as predicted.

    Each of the ``nodes`` features with the largest |``total``| (or ``by`` ``live`` or
    ``influence``) is taken away and doubled (``factors``), at its token alone: in the real model,
    and in the frozen model that the graph describes. ``dictionaries`` are those of the graph.
    Raises DataError where the graph has no features, or is of another model.

    Example:
        >>> found = ck.validate(model, graph, coders, nodes=20)
        >>> len(found.rows())
        8
    """
    if graph.model != model.name:
        raise DataError(f"the graph is of {graph.model!r}, and not of {model.name!r}")
    if not factors or 1.0 in factors:
        raise DataError(f"factors={list(factors)!r}; give at least one, and not 1")
    chosen = graph.top(nodes, by)
    if not chosen:
        raise DataError("the graph has no features that could be changed; prune it less")
    question, context = ask(model, _prompt(graph), *_asked(graph))
    replaced = Replaced.of(model, context, dictionaries, "frozen")
    work = _Changes(model, question, context, replaced)
    changed = [(node, factor) for factor in factors for node in chosen]
    space = room_of(model, memory)
    measured = {
        name: _in_pieces(run, changed, space).reshape(len(factors), len(chosen))
        for name, run in (("real", work.real), ("frozen", work.frozen))
    }
    places = [graph.number[node.name] for node in chosen]
    return Validation(
        tuple(node.name for node in chosen),
        np.zeros(len(chosen), dtype=int),
        {"graph": graph.totals[places], "live gradient": graph.live[places]},
        measured,
        tuple(float(factor) for factor in factors),
    )


def _prompt(graph: AttributionGraph) -> Example:
    """The prompt of a graph, with the answers that it was traced for."""
    clean, correct, wrong = (tuple(graph.about[key]) for key in ("prompt_ids", "correct", "wrong"))
    return Example(clean, clean, correct, wrong, {})


def _asked(graph: AttributionGraph) -> tuple[float, int]:
    return float(graph.about.get("probability", 0.95)), int(graph.about.get("most_logits", 10))


Changed = Sequence[tuple[GraphNode, float]]


def _in_pieces(run: object, changed: Changed, space: float) -> Float[np.ndarray, " n"]:
    """What each change does, as many at once as fit the space."""
    need = foresee(lambda n: run(changed[:n]), space, len(changed))  # type: ignore[operator]
    size = need.most(space, AT_ONCE, "change")
    parts = [
        run(changed[start : start + size])  # type: ignore[operator]
        for start in range(0, len(changed), size)
    ]
    found: Float[np.ndarray, " n"] = exact(torch.cat(parts)).cpu().numpy()
    return found


class _Changes:
    """What changes of features do to the target."""

    def __init__(
        self, model: Inspectable, question: Question, context: Context, replaced: Replaced
    ) -> None:
        self.model, self.question, self.context, self.replaced = model, question, context, replaced
        directions, _ = model.logit_directions(question.direction[None])
        self.direction = wide(directions[0])
        self.before = self._target(context, {})[0]
        self.pre = {
            layer: group.dictionary.encode(self._read(layer))
            for layer, group in replaced.groups.items()
        }

    def _read(self, layer: int) -> Float[Tensor, "p d"]:
        run = self.replaced.run
        behind = self.replaced.groups[layer].dictionary.reads == "mlp_in"
        return (run.readings if behind else run.residuals)[layer]

    def _injected(self, changed: Changed) -> dict[int, Float[Tensor, "n p d"]]:
        """What each change adds to what is written in each layer."""
        shape = (len(changed), *self.replaced.run.embed.shape)
        found: dict[int, Tensor] = {}
        for row, (node, factor) in enumerate(changed):
            group = self.replaced.groups[node.layer]
            same = (group.active.tokens == node.position) & (group.active.features == node.number)
            if not bool(same.any()):
                raise DataError(
                    f"{node.name!r} is not active with these dictionaries; give those of the graph"
                )
            place = int(same.nonzero()[0, 0])
            for layer, own in group.written.items():
                if layer not in found:
                    found[layer] = own.new_zeros(shape)
                found[layer][row, node.position] = (factor - 1) * own[place]
        return found

    def real(self, changed: Changed) -> Float[Tensor, " n"]:
        """The change of the target in the model itself."""
        times = len(changed)
        tiled = self.context.tile(times)
        embed = self.context.embed.expand(times, *self.context.embed.shape[1:])
        return self._target(replace(tiled, embed=embed), self._injected(changed)) - self.before

    def _target(self, context: Context, added: Mapping[int, Tensor]) -> Float[Tensor, " n"]:
        mlps = {stage.index: stage.layer for stage in self.replaced.run.mlps()}

        def write(stage: Stage, read: Tensor) -> Tensor:
            given = written(self.model, context, stage, read)
            own = added.get(mlps.get(stage.index, -1))
            return given if own is None else given + own

        _, final = linked(self.model, context, write)
        return wide(self.model.unembed(final[:, -1])) @ wide(self.question.direction)

    def frozen(self, changed: Changed) -> Float[Tensor, " n"]:
        """The change of the target in the frozen model."""
        run, added = self.replaced.run, self._injected(changed)
        start = run.embed.new_zeros(len(changed), *run.embed.shape)

        def answer(layer: int, change: Tensor) -> Tensor:
            given = added.pop(layer, None)
            given = torch.zeros_like(change) if given is None else given
            group = self.replaced.groups.get(layer)
            if group is None:
                return given
            dictionary = group.dictionary
            behind = dictionary.reads == "mlp_in"
            own = run.normed(layer, change) if behind else change
            moved = dictionary.encode(self._read(layer) + own) - self.pre[layer]
            if dictionary.skip is not None:
                given = given + own @ dictionary.skip.T
            rows = (
                dictionary.decoder
                if dictionary.decoder.ndim == 3
                else (dictionary.decoder[:, None])
            )
            for i, target in enumerate(dictionary.targets):
                if target == layer:
                    given = given + moved @ rows[:, i]
                else:
                    added[target] = added.get(target, 0) + moved @ rows[:, i]
            return given

        return wide(run.push(start, answer)[:, -1]) @ self.direction
