"""Circuits measured on each other's tasks, alone and in pairs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from circuitkit.data.batches import Dataset
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    MetricLike,
    prepare,
    require_model,
)
from circuitkit.engine.metric import Corruption, Metric
from circuitkit.engine.model import Model
from circuitkit.errors import ArgumentError, CircuitError, UnfinishedError
from circuitkit.evaluation.faithfulness import Evaluation, evaluations, measure_all
from circuitkit.evaluation.masks import as_mask
from circuitkit.evaluation.results import PictureResult
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.compare import Agreement, agreement
from circuitkit.graph.published import CircuitLike, opened
from circuitkit.graph.walks import drawn_masks
from circuitkit.util.atomic import write_whole
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.options import Count, Size, Whole, checked
from circuitkit.util.statistics import spearman
from circuitkit.util.tables import as_text, to_csv, to_frame
from circuitkit.viz.figures import Heatmap
from circuitkit.workflows.folders import RUNS, filled
from circuitkit.workflows.results import Discovery

if TYPE_CHECKING:
    import pandas

__all__ = ["Cross", "cross"]

SEED = 0  # of random circuits
_NUMBERS = ("faithfulness", "low", "high", "mean_of_ratios")
_FRAME = ("task", "metric", "corruption", "answers", "bos", "chat")  # what makes a column


# -- what is found ---------------------------------------------------------------------------------
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
        return {_union(*pair): pair for pair in combinations(self.circuits, 2)}

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


def _union(left: str, right: str) -> str:
    return f"{left} | {right}"


# -- measuring -------------------------------------------------------------------------------------
class _Column(NamedTuple):
    """A task: what it is called here, and what circuits are measured on."""

    name: str
    data: Dataset
    metric: Metric
    corruption: Corruption


@checked
def cross(
    model: Model,
    circuits: Mapping[str, CircuitLike | Discovery] | Sequence[CircuitLike | Discovery],
    data: Mapping[str, Data] | None = None,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    random: Whole = 3,
    examples: Count | None = None,
    batch_size: Count | None = None,
    memory: Size | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> Cross:
    """Measure circuits, and the union of each pair, on each circuit's own task.

    ``circuits`` are at least two circuits of the model, by name, each as it is given to
    ``compare``, or a Discovery; of a list each is called by its task. Each task is measured as its
    circuit was found, with its metric and corruption unless others are given, on up to ``examples``
    prompts (64) that no circuit of that task has seen; so what stands on the diagonal is what
    ``evaluate`` gives. ``data`` gives other prompts: by the name of a circuit. Circuits that say
    the same of task, metric and corruption share a column. ``random`` circuits of each size are
    measured beside them. ``resume`` is a directory for finished batches, with which a run resumes
    after a kill (None by default).

    Returns a Cross: faithfulness has no unit, 1 is the full model. Raises CircuitError for fewer
    than two circuits, and where they are not the model's, ArgumentError where a circuit does not
    say its task, and otherwise as ``evaluate``.

    Source: cross-task faithfulness of Hanna et al. (2024).

    Example:
        >>> tasks = ("ioi", "induction")
        >>> circuits = {task: ck.discovery.eap(model, task).top(40) for task in tasks}
        >>> found = ck.cross(model, circuits, examples=8)
        >>> found.names
        ('ioi', 'induction', 'ioi | induction')
        >>> found.faithfulness("ioi", "ioi") > found.faithfulness("ioi", "induction")
        True
    """
    require_model(model)
    named = _named(circuits)
    masks = _masks(model, named)
    own, columns = _columns(
        model, named, data or {}, metric, corruption,
        {"examples": examples, "batch_size": batch_size, "memory": memory},
    )  # fmt: skip
    sizes = dict.fromkeys(int(mask.sum()) for mask in masks.values())
    drawn = [own for size in sizes for own in drawn_masks(model.wiring, size, random, SEED)]
    found: dict[tuple[str, str], Evaluation] = {}
    chance: dict[tuple[str, str], float] = {}
    left: list[UnfinishedError] = []
    for name, prompts, measure, corrupt in columns:
        every = [*masks.values(), *drawn]
        try:
            table = measure_all(model, every, prompts, [measure], corrupt, resume)[0]
        except UnfinishedError as error:  # a shard makes its part of every column
            left.append(error)
            continue
        each = evaluations(table, measure, corrupt, every)
        found |= {(row, name): one for row, one in zip(masks, each, strict=False)}
        by_size = _by_size(each[len(masks) :])
        chance |= {(row, name): by_size[size] for row, mask in masks.items()
                   if (size := int(mask.sum())) in by_size}  # fmt: skip
    if left:
        raise left[-1]
    order = [(row, column.name) for row in masks for column in columns]
    return Cross(model.name, named, own, {cell: found[cell] for cell in order}, chance)


def _by_size(several: Sequence[Evaluation]) -> dict[int, float]:
    """The mean faithfulness of evaluations of each size; nan where it is not defined."""
    found: dict[int, list[float]] = {}
    for one in several:
        value = one.to_dict()["faithfulness"]
        found.setdefault(one.edges, []).append(nan if value is None else float(value))
    return {size: float(np.mean(own)) for size, own in found.items()}


def _named(
    circuits: Mapping[str, CircuitLike | Discovery] | Sequence[CircuitLike | Discovery],
) -> dict[str, Circuit]:
    """The circuits by name, as graphs."""
    listed = [*circuits.values()] if isinstance(circuits, Mapping) else [*circuits]
    graphs = [opened(one.circuit if isinstance(one, Discovery) else one) for one in listed]
    if len(graphs) < 2:
        raise CircuitError(
            f"there is nothing to cross in {len(graphs)} circuits; give at least two (evaluate "
            "measures one)"
        )
    if isinstance(circuits, Mapping):
        return dict(zip(circuits, graphs, strict=True))
    tasks = [str(graph.graph.get("task", "circuit")) for graph in graphs]
    if len(set(tasks)) < len(tasks):
        tasks = [f"{task} {number}" for number, task in enumerate(tasks, start=1)]
    return dict(zip(tasks, graphs, strict=True))


def _masks(model: Model, named: Mapping[str, Circuit]) -> dict[str, np.ndarray]:
    """The mask of each circuit, and of the union of each pair."""
    alone = {name: as_mask(circuit, model.wiring) for name, circuit in named.items()}
    pairs = combinations(alone, 2)
    return {**alone, **{_union(a, b): alone[a] | alone[b] for a, b in pairs}}


def _columns(
    model: Model,
    named: Mapping[str, Circuit],
    data: Mapping[str, Data],
    metric: MetricLike | None,
    corruption: CorruptionLike | None,
    how: dict[str, Any],
) -> tuple[dict[str, str], list[_Column]]:
    """What the task of each circuit is called, and the inputs of each task."""
    for name in data:
        if name not in named:
            raise ArgumentError(
                f"data names {name!r}, which is not one of the circuits ({', '.join(named)}); give "
                "prompts by the names of circuits"
            )
    groups: dict[tuple[Json, ...], list[str]] = {}
    for name, circuit in named.items():
        own = ("given", name) if name in data else tuple(map(circuit.graph.get, _FRAME))
        groups.setdefault(own, []).append(name)
    found: list[_Column] = []
    own_tasks: dict[str, str] = {}
    called = _called([(names[0], named[names[0]].graph, names[0] in data)
                      for names in groups.values()])  # fmt: skip
    for label, names in zip(called, groups.values(), strict=True):
        first = named[names[0]]
        prompts = data[names[0]] if names[0] in data else _task(names[0], first)
        same = [c for n, c in named.items() if n != names[0] and _of(c) == _of(first)]
        inputs = prepare(model, prompts, metric, corruption, circuit=[first, *same], **how)
        found.append(_Column(label, *inputs[1:]))
        own_tasks |= dict.fromkeys(names, label)
    return {name: own_tasks[name] for name in named}, found


def _of(circuit: Circuit) -> Json:
    return circuit.graph.get("task")


def _called(groups: Sequence[tuple[str, Mapping[str, Json], bool]]) -> list[str]:
    """What each column is called: its task, or, where two are of one task or prompts are given, its
    first circuit."""
    tasks = [name if given else str(about.get("task", name)) for name, about, given in groups]
    doubled = len(set(tasks)) < len(tasks)
    return [name for name, _, _ in groups] if doubled else tasks


def _task(name: str, circuit: Circuit) -> str:
    """The task that a circuit says; raises ArgumentError where it says none, and for code from
    elsewhere: a file does not say which code is run."""
    task = circuit.graph.get("task")
    if not isinstance(task, str) or ":" in task.partition("(")[0]:
        said = "does not say its task" if task is None else f"says that its task is {task!r}"
        raise ArgumentError(
            f"the circuit {name!r} {said}; give its prompts as data={{{name!r}: ...}}"
        )
    return task
