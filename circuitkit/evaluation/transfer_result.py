"""What the difference between two circuits does: faithfulness, changes and single edges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isnan, nan
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.evaluation.results import PictureResult
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.statistics import interval_text
from circuitkit.util.tables import as_text, to_frame
from circuitkit.viz.figures import Heatmap

if TYPE_CHECKING:
    import pandas

__all__ = ["CIRCUITS", "SIDES", "Change", "Put", "Transfer"]

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
