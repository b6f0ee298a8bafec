"""Circuits on each other's tasks: what is found, as tables, a heat map and files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.evaluation.results import PictureResult
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.compare import Agreement, agreement
from circuitkit.util.atomic import write_whole
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.statistics import spearman
from circuitkit.util.tables import as_text, to_csv, to_frame
from circuitkit.viz.figures import Heatmap
from circuitkit.workflows.folders import RUNS, filled

if TYPE_CHECKING:
    import pandas

__all__ = ["Cross", "union_name"]

_NUMBERS = ("faithfulness", "low", "high", "mean_of_ratios")


@dataclass(frozen=True, repr=False)
class Cross(PictureResult):
    """Circuits of one model, and the union of each pair, on the task of each circuit.

    ``circuits`` are those given, by name, and ``own`` the task of each, as it is called here;
    ``evaluations`` has the Evaluation of each circuit and of each union (``"a | b"``) by (name,
    task), and ``random`` the mean faithfulness of random circuits of the same size there. A task is
    measured by the metric and the corruption of its circuit, on prompts that no circuit of that
    task has seen.

    Example:
        >>> circuits = {task: ck.discovery.eap(model, task).top(40) for task in ("ioi", "facts")}
        >>> found = ck.cross(model, circuits, examples=4, random=0)
        >>> found.to_frame()[["circuit", "task", "own"]].values.tolist()[-2:]
        [['ioi | facts', 'ioi', True], ['ioi | facts', 'facts', True]]
        >>> found.agreement.in_any > 40
        True
    """

    model: str
    circuits: Mapping[str, Circuit]
    own: Mapping[str, str]
    evaluations: Mapping[tuple[str, str], Evaluation]
    random: Mapping[tuple[str, str], float]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in the order of the circuits."""
        return tuple(dict.fromkeys(self.own.values()))

    @property
    def names(self) -> tuple[str, ...]:
        """The circuits, and then the unions."""
        return tuple(dict.fromkeys(name for name, _ in self.evaluations))

    @cached_property
    def agreement(self) -> Agreement:
        """How much the edges of the circuits overlap, all at once and in pairs."""
        return agreement([*self.circuits.values()])

    def faithfulness(self, name: str, task: str) -> float:
        """That of a circuit, or a union, on a task; nan where the metric has no gap there."""
        value = self.evaluations[name, task].to_dict()["faithfulness"]
        return nan if value is None else float(value)

    def rows(self) -> list[dict[str, Json]]:
        """A row for each circuit, or union, on each task: see ``to_frame``."""
        found = []
        for (name, task), each in self.evaluations.items():
            said = each.to_dict()
            numbers = {key: nan if said[key] is None else said[key] for key in _NUMBERS}
            found.append(
                {
                    "circuit": name, "edges": each.edges, "task": task,
                    "own": task in self._own(name), **numbers,
                    "random": self.random.get((name, task), nan),
                    "metric": each.metric, "corruption": each.corruption,
                    "examples": len(each.circuit),
                }
            )  # fmt: skip
        return found

    def _own(self, name: str) -> set[str]:
        """The tasks on which a circuit, or the parts of a union, were found."""
        parts = [name] if name in self.own else self._parts[name]
        return {self.own[part] for part in parts}

    @cached_property
    def _parts(self) -> dict[str, tuple[str, str]]:
        return {union_name(*pair): pair for pair in combinations(self.circuits, 2)}

    def overlap(self) -> list[dict[str, Json]]:
        """A row for each pair of circuits: ``left``, ``right``, ``both`` (edges that they share),
        ``jaccard``, ``kappa`` (beyond random circuits of these sizes, see ``agreement``),
        ``left_in_right`` and ``right_in_left`` (the share of the edges of one that the other
        has)."""
        found = []
        both = self.agreement
        pairs = zip(combinations(self.circuits, 2), both.pairs, both.kappas, strict=True)
        for (left, right), pair, kappa in pairs:
            found.append(
                {
                    "left": left, "right": right, "both": pair.both, "jaccard": pair.jaccard,
                    "kappa": kappa,
                    "left_in_right": pair.precision, "right_in_left": pair.recall,
                }
            )  # fmt: skip
        return found

    @cached_property
    def correlation(self) -> tuple[float, int]:
        """The rank correlation of how faithful a circuit is on the task of another with the share
        of the other's edges that it holds, over all ordered pairs of circuits of two tasks, and
        their number; nan for fewer than three.

        Source: Hanna et al. (2024), who find 0.86.
        """
        held, faithful = [], []
        for row in self.overlap():
            left, right = row["left"], row["right"]
            ways = ((left, right, row["right_in_left"]), (right, left, row["left_in_right"]))
            for name, other, share in ways:
                value = self.faithfulness(name, self.own[other])
                if self.own[name] != self.own[other] and not isnan(share) and not isnan(value):
                    held.append(share)
                    faithful.append(value)
        return spearman(np.array(held), np.array(faithful)), len(held)

    # -- as tables, a picture and files ------------------------------------------------------------
    def to_frame(self) -> pandas.DataFrame:
        """A row for each circuit, or union, on each task.

        Columns: ``circuit`` (a name, or ``a | b``), ``edges``, ``task``, ``own`` (whether it, or a
        part of the union, was found on that task), ``faithfulness``, ``low`` and ``high`` (its
        bootstrap interval), ``mean_of_ratios``, ``random`` (the mean of random circuits of that
        size), ``metric``, ``corruption``, ``examples``; nan where faithfulness is not defined.
        """
        return to_frame(self.rows())

    def plot(self) -> Heatmap:
        """Faithfulness as a heat map: circuits, and unions below them, by tasks; what was found on
        a task is outlined there. Colours end at 1, the whole model, and at −1."""
        table = [[self.faithfulness(name, task) for task in self.tasks] for name in self.names]
        own = [[task in self._own(name) for task in self.tasks] for name in self.names]
        return Heatmap(
            np.array(table), self.names, self.tasks, "circuit", "measured on the task",
            title=f"Circuits of {self.model} on each other's tasks", unit="faithfulness",
            marks=np.array(own), mark_name="found on this task", numbers=True, limit=1.0,
        )  # fmt: skip

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write the heat map (``cross.svg``), the table (``cross.csv``) and the overlaps
        (``overlap.csv``) into a folder; returns the files. A folder that holds another run is
        refused, unless ``overwrite`` replaces all files of that run. Raises OutputError then, and
        where they cannot be written."""
        texts = (to_csv(self.rows()), to_csv(self.overlap()))
        with filled(folder, "cross", overwrite) as new:
            for name, text in zip(RUNS["cross"], texts, strict=False):
                write_whole(new / name, text)
            self.draw(new / RUNS["cross"][-1])
        return [Path(folder) / name for name in RUNS["cross"]]

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        correlation, pairs = self.correlation
        return {
            "model": self.model, "circuits": list(self.circuits), "tasks": list(self.tasks),
            "rows": [nan_to_none(row) for row in self.rows()],
            "overlap": [nan_to_none(row) for row in self.overlap()],
            "agreement": self.agreement.to_dict(),
            "correlation": {"spearman": nan_to_none(correlation), "pairs": pairs},
        }  # fmt: skip

    def __str__(self) -> str:
        own = [self.faithfulness(name, task) for name, task in self.own.items()]
        others = [self.faithfulness(name, task) for name in self.circuits for task in self.tasks
                  if task != self.own[name]]  # fmt: skip
        said = f"{len(self.circuits)} circuits of {self.model}: faithfulness {_span(own)} on their"
        return f"{said} own tasks{f', {_span(others)} on those of others' if others else ''}"

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield str(self)
        for task in self.tasks:
            one = self.evaluations[next(iter(self.circuits)), task]
            yield (f"  {task}: {one.metric} under {one.corruption}, {len(one.circuit)} prompts")
        for title, value in (
            ("faithfulness", self.faithfulness),
            ("of random circuits", self._chance),
        ):
            rows = [
                {"circuit": name, "edges": self.evaluations[name, self.tasks[0]].edges}
                | {task: round(value(name, task), 3) + 0.0 for task in self.tasks}
                for name in self.names
            ]
            formats = {"edges": ",d"} | dict.fromkeys(self.tasks, ".3f")
            if title == "faithfulness" or self.random:
                yield f"\n{title}\n{as_text(rows, formats=formats, headings=_headings(self.tasks))}"
        yield f"\n{self.agreement}"
        yield self.agreement.beyond_chance()
        yield f"\n{as_text(self.overlap())}"
        correlation, pairs = self.correlation
        if not isnan(correlation):
            yield (
                f"\nFaithfulness on another's task, and the share of its circuit's edges that are "
                f"held: rank correlation {correlation:.2f} over {pairs} pairs."
            )

    def _chance(self, name: str, task: str) -> float:
        return self.random.get((name, task), nan)


def _headings(tasks: Sequence[str]) -> dict[str, str]:
    return {task: task for task in tasks}


def _span(values: Sequence[float]) -> str:
    known = [value for value in values if not isnan(value)]
    if not known:
        return "not defined"
    low, high = min(known), max(known)
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"


def union_name(left: str, right: str) -> str:
    """What the union of two circuits is called."""
    return f"{left} | {right}"
