"""How far what is said of a circuit rests on how it was found and measured.

Faithfulness depends on choices that say nothing about the model: the metric, the corruption,
whether edges or whole nodes are ablated, and how examples are averaged (Miller et al. 2024,
"Transformer circuit faithfulness metrics are not robust"). Here circuits are found under every
corruption × metric, and each is measured under all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, combinations, product
from math import isnan, nan
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import networkx as nx
import numpy as np
import torch

from circuitkit.data.batches import Dataset
from circuitkit.engine.checkpoints import Journal, digest, identity
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    Inputs,
    Several,
    as_corruption,
    as_data,
    as_metrics,
    in_sample,
    is_several,
    prepare_halves,
    refuse,
    require_model,
)
from circuitkit.engine.metric import Corruption, Method, Metric
from circuitkit.engine.model import Model
from circuitkit.engine.record import answer, record
from circuitkit.errors import CircuitError, EvaluationError
from circuitkit.evaluation.faithfulness import Evaluation, evaluations, measure_all
from circuitkit.evaluation.masks import CircuitLike, as_any_mask, as_graph, node_level
from circuitkit.evaluation.results import PictureResult
from circuitkit.evaluation.sampling import parts
from circuitkit.evaluation.searching import FAITHFULNESS, smallest
from circuitkit.evaluation.spaces import space_of
from circuitkit.graph import circuit as graphs
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.compare import agreement, compare
from circuitkit.graph.places import PlacedMask, bits_of
from circuitkit.graph.scores import Scores
from circuitkit.graph.separation import Separation, separation, within
from circuitkit.graph.types import Graph
from circuitkit.registry import name_of, resolve
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.options import Bounds, Size, checked
from circuitkit.util.tables import as_text, to_frame
from circuitkit.viz.figures import Heatmap, Panels

if TYPE_CHECKING:
    import pandas

__all__ = ["Robustness", "cross_evaluate", "discover_each", "vary"]

VERSION = 1  # of the blocks on disk
GRANULARITIES = {"edge": as_any_mask, "node": node_level}
AXES = ("circuit", "corruption", "metric", "granularity", "aggregation")
Block: TypeAlias = dict[str, np.ndarray]


# -- what is found ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Robustness(PictureResult):
    """Circuits by name, and the Evaluation of each by (circuit, corruption, metric, granularity).

    Where the metric's gap is zero the numbers are nan, and ``notes`` say so. ``in_sample`` says
    that the prompts are those with which the circuits were found. ``again`` are the circuits that
    each choice finds on disjoint samples of ``sizes`` prompts. How far these overlap is the noise
    floor: two choices whose circuits overlap as far are not said to find different ones.
    """

    circuits: Mapping[str, Graph]
    evaluations: Mapping[tuple[str, str, str, str], Evaluation]
    in_sample: bool = False
    again: Mapping[str, tuple[Graph, ...]] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()

    @cached_property
    def _numbers(self) -> dict[tuple[str, str, str, str], dict[str, float]]:
        return {cell: _numbers(found) for cell, found in self.evaluations.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """Why numbers are not defined, a sentence for each metric × corruption where they are
        not."""
        said = (_undefined(evaluation) for evaluation in self.evaluations.values())
        return tuple(dict.fromkeys(sentence for sentence in said if sentence))

    def rows(self) -> list[dict[str, Json]]:
        """One row for every evaluation: the circuit, the corruption and metric under which it was
        found (None where it does not say) and its edges; the corruption, metric and granularity of
        the evaluation and the edges kept in it; faithfulness (the ratio of means), its bootstrap
        interval, and the mean of ratios."""
        sizes = {name: sum(1 for _ in graphs.edges(c)) for name, c in self.circuits.items()}
        return [
            {
                "circuit": cell[0],
                "found_corruption": self.circuits[cell[0]].graph.get("corruption"),
                "found_metric": self.circuits[cell[0]].graph.get("metric"),
                "edges": sizes[cell[0]],
                "corruption": cell[1],
                "metric": cell[2],
                "granularity": cell[3],
                "kept": self.evaluations[cell].edges,
                **numbers,
            }
            for cell, numbers in self._numbers.items()
        ]

    def spread(self) -> list[dict[str, Json]]:
        """Of each circuit the lowest and the highest faithfulness of all its evaluations, and the
        corruption, metric and granularity of each; nan and None where none is defined."""
        found = []
        for circuit in self.circuits:
            own = {cell[1:]: n["faithfulness"] for cell, n in self._numbers.items()
                   if cell[0] == circuit and not isnan(n["faithfulness"])}  # fmt: skip
            ends = {"lowest": min(own, key=own.__getitem__, default=None),
                    "highest": max(own, key=own.__getitem__, default=None)}  # fmt: skip
            row: dict[str, Json] = {"circuit": circuit}
            for end, where in ends.items():
                row |= {end: own[where] if where else nan, f"{end}_at": where}
            found.append(row)
        return found

    def choices(self) -> list[dict[str, Json]]:
        """What each choice alone does to the number, all others held: the mean and the largest
        range over its options; a choice without options is left out.

        The choices are which circuit, corruption, metric, granularity, and aggregation (ratio of
        means or mean of ratios).
        """
        values = {(*cell, name): numbers[name] for cell, numbers in self._numbers.items()
                  for name in ("faithfulness", "mean_of_ratios")}  # fmt: skip
        found = []
        for axis, choice in enumerate(AXES):
            groups: dict[tuple[str, ...], list[float]] = {}
            for cell, value in values.items():
                if not isnan(value):
                    groups.setdefault((*cell[:axis], *cell[axis + 1 :]), []).append(value)
            ranges = [max(group) - min(group) for group in groups.values() if len(group) > 1]
            if ranges:
                row = {"choice": choice, "mean": float(np.mean(ranges)), "largest": max(ranges)}
                found.append(row)
        return found

    def overlap(self) -> list[dict[str, Json]]:
        """How much the edges of every pair of circuits overlap: Jaccard index, the one expected of
        random circuits of these sizes, weighted overlap, rank correlation of the shared edges'
        weights, and how many of them differ in sign (see ``compare``); then ``within`` and
        ``between``, the mean Jaccard index on two samples of one choice and of the two, and the
        permutation ``p`` of their difference (see ``separation``)."""
        found = []
        for left, right in combinations(self.circuits, 2):
            both = compare(self.circuits[left], self.circuits[right])
            apart = self.separation(left, right)
            found.append(
                {
                    "left": left,
                    "right": right,
                    "jaccard": both.edges.jaccard,
                    "expected": both.edges.expected_jaccard,
                    "weighted": both.weighted,
                    "spearman": both.spearman,
                    "flipped": both.flipped,
                    "within": apart.within,
                    "between": apart.between,
                    "p": apart.p,
                }
            )
        return found

    def floor(self) -> list[dict[str, Json]]:
        """Of each circuit the mean Jaccard index, in edges, of those that the same choice finds on
        two samples, how many samples there are and their prompts; nan where there are none."""
        return [
            {
                "circuit": name,
                "samples": len(self.again.get(name, ())),
                "examples": min(self.sizes, default=0),
                "jaccard": within(self._edges(name)),
            }
            for name in self.circuits
        ]

    def separation(self, left: str, right: str) -> Separation:
        """Whether two choices find different circuits, beyond what other samples change."""
        return separation(self._edges(left), self._edges(right))

    def _edges(self, name: str) -> list[frozenset[tuple[str, str]]]:
        found = self.again.get(name, ())
        return [frozenset((w, r) for w, r, _ in graphs.edges(circuit)) for circuit in found]

    def to_frame(self) -> pandas.DataFrame:
        """A row for each evaluation.

        Columns: ``circuit``, ``found_corruption`` and ``found_metric`` (what it was found with),
        ``edges`` (its own), ``corruption``, ``metric`` and ``granularity`` (of the evaluation),
        ``kept`` (edges), ``faithfulness``, ``low`` and ``high`` (its bootstrap interval),
        ``mean_of_ratios``; nan where faithfulness is not defined.
        """
        return to_frame(self.rows())

    def plot(self) -> Panels:
        """A heat map of faithfulness for each granularity: circuits by what they are measured
        under."""
        conditions = list(product(self._options("metric"), self._options("corruption")))
        columns = [f"{metric}, {corruption}" for metric, corruption in conditions]
        numbers = self._numbers
        panels = [
            Heatmap(
                np.array([[numbers[name, corruption, metric, level]["faithfulness"]
                           for metric, corruption in conditions] for name in self.circuits]),
                list(self.circuits), columns, "circuit", "measured under",
                title=f"{level} ablation", unit="faithfulness", numbers=True,
            )
            for level in self._options("granularity")
        ]  # fmt: skip
        title = f"Faithfulness under every metric and corruption{self._sample}"
        return Panels(panels, columns=1, title=title)

    @property
    def _sample(self) -> str:
        return ", in sample" if self.in_sample else ""

    def __str__(self) -> str:
        ends = [number["faithfulness"] for number in self._numbers.values()]
        known = [end for end in ends if not isnan(end)]
        spread = f"from {_short(min(known))} to {_short(max(known))}" if known else "not defined"
        return f"faithfulness of {_counted(len(self.circuits), 'circuit')} {spread}{self._sample}"

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        tables = ("rows", "spread", "choices", "overlap", "floor")
        listed = {name: [nan_to_none(row) for row in getattr(self, name)()] for name in tables}
        return {**listed, "in_sample": self.in_sample, "notes": list(self.notes)}

    def __repr__(self) -> str:
        return "\n".join(chain(self._heading(), self._table(), self._summary(), self.notes))

    def _options(self, axis: str) -> list[str]:
        return list(dict.fromkeys(cell[AXES.index(axis)] for cell in self.evaluations))

    def _heading(self) -> Iterator[str]:
        examples = len(next(iter(self.evaluations.values())).circuit)
        metrics, corruptions = self._options("metric"), self._options("corruption")
        yield (
            f"faithfulness (ratio of means) of {_counted(len(self.circuits), 'circuit')} under "
            f"{_counted(len(corruptions), 'corruption')} × {_counted(len(metrics), 'metric')}, "
            f"{_counted(examples, 'example')}{self._sample}"
        )

    def _table(self) -> Iterator[str]:
        """A block for each corruption, a line for each circuit, and a column for each metric at
        each granularity."""
        metrics, levels = self._options("metric"), self._options("granularity")
        above = dict.fromkeys(levels, metrics[0])  # each level's first column names it
        headings = {
            f"{level} {metric}": f"{f'{level} ablation' * (above[level] == metric)}\n{metric}"
            for level, metric in product(levels, metrics)
        }
        for corruption in self._options("corruption"):
            rows = [
                {"circuit": circuit}
                | {
                    f"{level} {metric}": _short(
                        self._numbers[circuit, corruption, metric, level]["faithfulness"]
                    )
                    for level, metric in product(levels, metrics)
                }
                for circuit in self.circuits
            ]
            titles = {"circuit": f"\nevaluated under {corruption}"}
            yield f"\n{as_text(rows, headings=titles | headings, right=headings)}"

    def _summary(self) -> Iterator[str]:
        titles = {"mean": "moves it on average", "largest": "at most"}
        rows = [
            {"the choice of": row["choice"], **{end: _short(row[end]) for end in titles}}
            for row in self.choices()
        ]
        if rows:
            yield f"\n{as_text(rows, headings=titles, right=titles)}"
        if len(self.circuits) > 1:
            yield f"\n{agreement(list(self.circuits.values()))!r}"
        if floor := self._floor():
            yield floor

    def _floor(self) -> str:
        """How alike circuits of one choice are from one sample to the next, beside those of two."""
        if len(self.sizes) < 2:
            return ""
        own = np.mean([row["jaccard"] for row in self.floor()])
        said = (
            f"one choice on {len(self.sizes)} samples of {min(self.sizes)} prompts: mean Jaccard "
            f"{own:.3f}"
        )
        pairs = [self.separation(*pair) for pair in combinations(self.circuits, 2)]
        if pairs:
            said += f"; two choices on two samples: {np.mean([p.between for p in pairs]):.3f}"
        return said


def _numbers(evaluation: Evaluation) -> dict[str, float]:
    """Both aggregations and the interval; nan where there is no gap."""
    if _undefined(evaluation):
        return dict.fromkeys(("faithfulness", "low", "high", "mean_of_ratios"), nan)
    low, high = evaluation.interval()
    return {
        "faithfulness": evaluation.faithfulness,
        "low": low,
        "high": high,
        "mean_of_ratios": evaluation.mean_of_ratios,
    }


def _undefined(evaluation: Evaluation) -> str | None:
    """Why the faithfulness is not defined; None where it is."""
    try:
        _ = evaluation.faithfulness
    except EvaluationError as error:
        return str(error)
    return None


def _short(value: float) -> str:
    return "–" if isnan(value) else f"{round(value, 2) + 0:.2f}"  # never -0.00


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


# -- finding and measuring -------------------------------------------------------------------------
@checked
def vary(
    model: Model,
    data: Data,
    metrics: Several,
    corruptions: Sequence[CorruptionLike],
    *,
    unseen: Data | None = None,
    method: Method | str = "eap_ig",
    edges: Size | None = None,
    granularities: Sequence[str] = ("edge", "node"),
    samples: Annotated[int, Bounds(1, 10)] = 2,
    resume: str | os.PathLike[str] | None = None,
) -> Robustness:
    """Circuits found under each corruption × metric, each measured under all of them.

    This is ``discover_each``, then ``cross_evaluate``, whose arguments these are. Of a Task or a
    task's name circuits are found on one half of the prompts and measured on the other; a Dataset
    is measured on the prompts ``unseen``, or without any in sample.

    Circuits of the same size are also found on ``samples`` disjoint samples, to say how much the
    same choice finds again: of two, the prompts seen and those unseen; else equal parts of all of
    them, of which four or more are needed to show that two choices differ. 1 omits this.

    Returns a Robustness: faithfulness has no unit, 1 is the full model. Raises what these two
    raise.

    Source: Miller et al. (2024), "Transformer circuit faithfulness metrics are not robust".

    Example:
        >>> found = ck.vary(model, task, ["logit_diff", "kl"], ["counterfactual"], edges=20)
        >>> list(found.circuits)
        ['logit_diff under counterfactual', 'kl under counterfactual']
    """
    found, measured = prepare_halves(model, data, unseen, None, None)
    seen, unseen = found.data, measured.data
    find = partial(
        discover_each, model, metrics=metrics, corruptions=corruptions, method=method, resume=resume
    )
    circuits = find(data=seen, edges=edges)
    result = cross_evaluate(
        model, circuits, unseen, metrics, corruptions, granularities=granularities, resume=resume
    )
    own = _samples(seen, unseen, samples)
    edges = edges or max(1, *(sum(1 for _ in graphs.edges(one)) for one in circuits.values()))
    again = [circuits if one is seen else find(data=one, edges=edges) for one in own]
    return replace(
        result,
        again={name: tuple(each[name] for each in again) for name in circuits if again},
        sizes=tuple(map(len, own)),
    )


def _samples(seen: Dataset, unseen: Dataset, number: int) -> tuple[Dataset, ...]:
    """Disjoint samples of all prompts: these two, or so many parts; none where there are too few
    prompts or one is asked for."""
    known = {example.clean for example in seen.examples}
    rest = tuple(example for example in unseen.examples if example.clean not in known)
    if number == 2 and len(rest) == len(unseen):
        return seen, unseen
    return parts(replace(seen, examples=seen.examples + rest), number) if number > 1 else ()


@checked
def discover_each(
    model: Model,
    data: Data,
    metrics: Several,
    corruptions: Sequence[CorruptionLike],
    *,
    method: Method | str = "eap_ig",
    edges: Size | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> dict[str, Circuit]:
    """The circuit that the method finds under each corruption × metric, all of one size.

    ``edges`` is that size; else it is that of the smallest circuit which reaches a faithfulness of
    0.85 on the data under the first metric and corruption. ``resume`` is a directory for finished
    discoveries, with which a later run of the same work resumes.

    Returns circuits by name, such as ``logit_diff under counterfactual``. Raises ArgumentError for
    an argument in the wrong place, EvaluationError where there is no metric or corruption or two
    have one name, and OutputError where the directory cannot be written or is another model's; what
    the method cannot use raises its own error.

    Example:
        >>> found = ck.discover_each(model, data, ["logit_diff"], ["zero", "mean"], edges=20)
        >>> list(found)
        ['logit_diff under zero', 'logit_diff under mean']
    """
    data, measures, corrupted = _choices(model, data, metrics, corruptions)
    how = resolve("discovery", method)
    if not callable(how):
        refuse("method", method, "a discovery method or its name, such as 'eap_ig'")
    about = {**identity(model, data), "format": "circuitkit.discover_each", "version": VERSION}
    journal = _journal(resume, {**about, "method": name_of(how)}, model, data)
    inputs = [Inputs(model, data, m, c) for c, m in product(corrupted, measures)]
    found = [_scores(journal, how, own) for own in inputs]
    if edges is None:
        size = partial(_size, found[0], inputs[0])
        edges = int(_finished(journal, f"size-{_key(*inputs[0][2:])}", size)["edges"])
    names = (f"{name_of(m)} under {name_of(c)}" for _, _, m, c in inputs)
    return {name: scores.top(edges) for name, scores in zip(names, found, strict=True)}


def cross_evaluate(
    model: Model,
    circuits: Mapping[str, CircuitLike],
    data: Data,
    metrics: Several,
    corruptions: Sequence[CorruptionLike],
    *,
    granularities: Sequence[str] = ("edge", "node"),
    resume: str | os.PathLike[str] | None = None,
) -> Robustness:
    """Given circuits, each measured under every corruption × metric.

    ``granularities``: with its ``edge``s kept, or all edges out of its ``node``s (see
    ``node_level``). ``resume`` is a directory for finished corruptions, with which a later run of
    the same work resumes.

    Returns a Robustness. Raises CircuitError where there is no circuit, one does not fit the model,
    or a granularity is not known; otherwise as ``discover_each``.

    Example:
        >>> circuits = {"all": circuit, "best": scores.top(20)}
        >>> found = ck.cross_evaluate(model, circuits, data, ["logit_diff", "kl"], ["zero"])
        >>> len(found.to_frame())
        8
    """
    require_model(model)
    if not isinstance(circuits, Mapping):
        refuse("circuits", circuits, "circuits by name, {'mine': circuit}")
    data, measures, corrupted = _choices(model, data, metrics, corruptions, circuits)
    if isinstance(granularities, str):
        refuse("granularities", granularities, "a list such as ['edge', 'node']")
    if not circuits or not granularities or not {*granularities} <= {*GRANULARITIES}:
        raise CircuitError(
            f"{len(circuits)} circuits cannot be evaluated at the granularities "
            f"{tuple(granularities)}; give at least one of each, and choose from "
            f"{', '.join(GRANULARITIES)}"
        )
    runs = list(product(circuits, granularities))
    masks = [GRANULARITIES[level](circuits[name], model.wiring) for name, level in runs]
    about = {
        **identity(model, data),
        "format": "circuitkit.cross_evaluate",
        "version": VERSION,
        "metrics": [name_of(metric) for metric in measures],
        "masks": [digest(bits_of(mask).hex()) for mask in masks],
    }
    journal = _journal(resume, about, model, data)
    cells = {}
    for corruption in corrupted:
        work = partial(_tables, model, masks, data, measures, corruption)
        tables = _finished(journal, f"values-{_key(corruption)}", work)["values"]
        for metric, table in zip(measures, tables, strict=True):
            each = evaluations(table, metric, corruption, masks)
            for (name, level), evaluation in zip(runs, each, strict=True):
                cells[name, name_of(corruption), name_of(metric), level] = evaluation
    drawn = {name: _graph(one, model) for name, one in circuits.items()}
    return Robustness(drawn, cells, in_sample(circuits, data))


def _graph(circuit: CircuitLike, model: Model) -> Graph:
    """The circuit as a graph, also where it is a Discovery or a mask, which has no weights."""
    given = None if isinstance(circuit, PlacedMask) else as_graph(circuit)
    if isinstance(given, nx.DiGraph):
        return given
    space = space_of(as_any_mask(circuit, model.wiring), model)
    built = space.circuit(space.edges(space.keep))
    built.graph["unweighted"] = True
    return built


def _choices(
    model: Model,
    data: Data,
    metrics: Several,
    corruptions: Sequence[CorruptionLike],
    circuits: Mapping[str, CircuitLike] | None = None,
) -> tuple[Dataset, list[Metric], list[Corruption]]:
    """The data, the metrics and the corruptions as the engine takes them; raises ArgumentError
    where one is given alone, and EvaluationError where there are none, or two of one name."""
    require_model(model)
    own = as_data(model, data, circuits)
    if not is_several(metrics):
        refuse("metrics", metrics, "a list of metrics")
    if isinstance(corruptions, str) or not isinstance(corruptions, Sequence):
        refuse("corruptions", corruptions, "a list of corruptions")
    measures = as_metrics(metrics, data=own) if metrics else []
    corrupted = [as_corruption(one) for one in corruptions]
    for kind, functions in (("metrics", measures), ("corruptions", corrupted)):
        names = [name_of(function) for function in functions]
        if not names or len(set(names)) < len(names):
            raise EvaluationError(
                f"the {kind} are {', '.join(names) or 'none'}; give at least one, each with a name "
                "of its own"
            )
    return own, measures, corrupted


def _scores(journal: Journal, method: Method, inputs: Inputs) -> Scores:
    """The method's scores; those of a finished discovery are reused."""

    def work() -> Block:
        scores = method(*inputs)
        return {"values": scores.values, "chosen": np.array(bool(scores.about.get("chosen")))}

    block = _finished(journal, f"scores-{_key(*inputs[2:])}", work)
    about = {**inputs.metadata(), "method": name_of(method)}
    chosen = {"chosen": True} if block["chosen"] else {}
    return Scores(inputs.model.wiring, block["values"], {**about, **chosen})


def _size(scores: Scores, inputs: Inputs) -> Block:
    """The number of edges that reach the usual faithfulness."""
    keep = smallest(inputs.model, scores, *inputs[1:], target=FAITHFULNESS)
    return {"edges": np.array(keep.edges)}


def _tables(*inputs: Any) -> Block:
    """Every metric of every run under one corruption."""
    return {"values": measure_all(*inputs)}


# -- finished blocks -------------------------------------------------------------------------------
def _journal(
    resume: str | os.PathLike[str] | None, about: Mapping[str, Json], model: Model, data: Dataset
) -> Journal:
    """The journal of this work; raises OutputError where its blocks are of another model of the
    same name, by the logits of one example."""
    journal = Journal(resume, about)
    if journal.place is None:
        return journal
    logits = _plain(model, data)
    known = _finished(journal, "model", lambda: {"logits": logits})["logits"]
    journal.recognise(model, known, logits)
    return journal


@torch.no_grad()
def _plain(model: Model, data: Dataset) -> np.ndarray:
    """The model's answer to the first example."""
    batch = next(iter(replace(data, examples=data.examples[:1])))
    logits = answer(model, batch, record(model, model.start(batch.clean, batch.mask)).final)
    numbers: np.ndarray = logits.cpu().double().numpy()
    return numbers


def _finished(journal: Journal, key: str, work: Callable[[], Block]) -> Block:
    """The block, from an earlier run or done now."""
    block = journal.get(key)
    if block is None:
        block = work()
        journal.put(key, block)
    return block


def _key(*functions: Callable[..., object]) -> str:
    """A file's name for work under these."""
    return digest([name_of(function) for function in functions])
