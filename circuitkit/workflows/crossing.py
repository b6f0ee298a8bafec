"""Circuits measured on each other's tasks, alone and in pairs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import nan
from typing import Any, NamedTuple

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
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.published import CircuitLike, opened
from circuitkit.graph.walks import drawn_masks
from circuitkit.util.json_values import Json
from circuitkit.util.options import Count, Size, Whole, checked
from circuitkit.workflows.cross_result import Cross, union_name
from circuitkit.workflows.results import Discovery

__all__ = ["cross"]

SEED = 0  # of random circuits
_FRAME = ("task", "metric", "corruption", "answers", "align", "bos", "chat")  # what makes a column


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
    return {**alone, **{union_name(a, b): alone[a] | alone[b] for a, b in pairs}}


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
