"""The clusters of a task's prompts, and how faithful one circuit of each is beside a single one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from circuitkit.errors import EvaluationError
from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.evaluation.results import PictureResult
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.compare import compare
from circuitkit.util.atomic import write_whole
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.statistics import bootstrap_interval, interval_text
from circuitkit.util.tables import as_text, to_csv, to_frame
from circuitkit.viz.figures import Heatmap, Panels, Points
from circuitkit.workflows.clusters.grouping import Grouping
from circuitkit.workflows.folders import filled

if TYPE_CHECKING:
    import pandas

__all__ = ["Assigned", "Clusters"]

SHOWN = 3  # features of the printed table
FORMATS = dict.fromkeys(
    ("own", "one", "others", "jaccard", "distance", "dip", "p", "allowed", "faithfulness",
     "low", "high"), ".3f",
) | dict.fromkeys(("explained",), ".2f") | dict.fromkeys(("share", "of_all"), ".0%")  # fmt: skip
HEADINGS = {"own": "its circuit", "one": "single circuit", "others": "other clusters'",
            "first": "into", "second": "and", "of_all": "of all"}  # fmt: skip


class Assigned(NamedTuple):
    """The cluster of each unseen prompt, counted from 0: as it was assigned without a look at its
    answer, and as its own scores would have it."""

    given: Int[np.ndarray, " unseen"]
    own: Int[np.ndarray, " unseen"]


@dataclass(frozen=True, eq=False)
class Clusters(PictureResult):
    """The clusters of a task's prompts, what these share, and the circuit of each.

    ``grouping`` says which prompt is in which cluster, and what was asked to know how many there
    are; ``given`` to which the unseen prompts were assigned. ``single`` is the circuit of all
    prompts, ``circuits`` are those of the clusters, of the same size. ``evaluations`` are on all
    unseen prompts: of the single circuit (``one``), of each cluster's (``clusters``), of a single
    one with as many edges as all of these together (``larger``), and of clusters by ``chance``.
    ``shared`` is what each feature of the prompts says of the clusters. Faithfulness has no unit:
    1 is the whole model.

    Example:
        >>> found = ck.clusters(model, "ioi", number=2, edges=20, examples=16)
        >>> [row["prompts"] for row in found.rows()], len(found.circuits), len(found.members())
        ([10, 6], 2, 32)
    """

    about: Mapping[str, Json]
    grouping: Grouping
    given: Assigned
    evaluations: Mapping[str, tuple[Evaluation, ...]]
    single: Circuit
    circuits: tuple[Circuit, ...]
    shared: tuple[dict[str, Json], ...]
    prompts: tuple[tuple[str, ...], tuple[str, ...]]
    in_sample: bool

    @property
    def number(self) -> int:
        """How many clusters there are: as many as are told apart, or as many as were asked for."""
        return self.grouping.number

    @cached_property
    def together(self) -> Evaluation:
        """Each unseen prompt under the circuit of the cluster to which it was assigned."""
        return _dealt(self.evaluations["clusters"], self.given.given)

    @property
    def difference(self) -> float:
        """The faithfulness of the clusters' circuits less that of the single circuit, on all unseen
        prompts; nan where it is not defined."""
        return _value(self.together) - _value(self.evaluations["one"][0])

    def interval(self) -> tuple[float, float]:
        """The bootstrap interval of the difference, over the unseen prompts: its low and high
        end."""
        one, own = self.evaluations["one"][0], self.together
        samples = (one.nothing, one.everything, own.circuit - one.circuit)
        return bootstrap_interval(_ratio, samples)

    @property
    def agreement(self) -> float:
        """The share of the unseen prompts that their own scores, which see the answer, would put
        into the cluster to which they were assigned."""
        return float((self.given.given == self.given.own).mean())

    def rows(self) -> list[dict[str, Json]]:
        """A row for each cluster: how many prompts seen and unseen it has, and the faithfulness on
        the latter of its own circuit, of the single one and of the other clusters' (their mean),
        with the Jaccard index of its circuit and the single one, in edges."""
        found: list[dict[str, Json]] = []
        for k, circuit in enumerate(self.circuits):
            here = self.given.given == k
            own, *others = self._within(k, here)
            found.append({
                "cluster": k + 1, "prompts": int((self.grouping.labels == k).sum()),
                "unseen": int(here.sum()), "own": own,
                "one": _value(_part(self.evaluations["one"][0], here)),
                "others": float(np.mean(others)) if others else nan,
                "jaccard": compare(circuit, self.single).edges.jaccard,
            })  # fmt: skip
        return found

    def _within(self, k: int, here: np.ndarray) -> list[float]:
        """The faithfulness on these prompts of a cluster's circuit, then of the others'."""
        every = self.evaluations["clusters"]
        order = [k, *(i for i in range(len(every)) if i != k)]
        return [_value(_part(every[i], here)) for i in order]

    def totals(self) -> list[dict[str, Json]]:
        """The faithfulness on all unseen prompts, each under: the single circuit; that of its
        cluster; that of its cluster by its own scores, with a look at the answer; the larger single
        circuit; those of clusters by chance (of three deals the mean, the lowest and the highest).
        """
        one, every = self.evaluations["one"][0], self.evaluations["clusters"]
        named = {"the single circuit": one}
        if self.number > 1:
            named |= {"its cluster's circuit": self.together,
                      "the same, with a look at the answer": _dealt(every, self.given.own),
                      "a single one of as many edges": self.evaluations["larger"][0]}  # fmt: skip
        rows: list[dict[str, Json]] = []
        for name, found in named.items():
            low, high = found.interval() if not isnan(_value(found)) else (nan, nan)
            rows.append({"each_prompt_under": name, "edges": found.edges,
                         "faithfulness": _value(found), "low": low, "high": high})  # fmt: skip
        if self.number > 1:
            rows.append({"each_prompt_under": "clusters by chance", "edges": every[0].edges,
                         "faithfulness": float(np.mean(self.by_chance)),
                         "low": min(self.by_chance), "high": max(self.by_chance)})  # fmt: skip
        return rows

    @property
    def by_chance(self) -> tuple[float, ...]:
        """The faithfulness of circuits of clusters to which prompts were dealt by chance, and the
        unseen prompts too: of each of several deals; of a single cluster none."""
        every, k = self.evaluations["chance"], self.number
        draw = np.random.default_rng(len(every))
        deals = [every[i : i + k] for i in range(0, len(every), k)]
        return tuple(_value(_dealt(own, draw.permutation(self.given.given))) for own in deals)

    def splits(self) -> list[dict[str, Json]]:
        """What was asked to know how many clusters there are, a row for each cluster that may be
        two: see ``Split``."""
        return [one.row() for one in self.grouping.splits]

    def members(self) -> list[dict[str, Json]]:
        """A row for each prompt: whether it was ``seen``, its cluster, and that of its own scores
        (of an unseen one, with a look at its answer)."""
        labels, (given, own) = self.grouping.labels, self.given
        halves = ((True, self.prompts[0], labels, labels), (False, self.prompts[1], given, own))
        return [
            {"prompt": text, "seen": seen, "cluster": int(a) + 1, "by_own_scores": int(b) + 1}
            for seen, texts, first, second in halves
            for text, a, b in zip(texts, first, second, strict=True)
        ]

    def to_frame(self) -> pandas.DataFrame:
        """A row for each cluster.

        Columns: ``cluster`` (from 1, the largest first), ``prompts`` and ``unseen`` (how many it
        has), the faithfulness on the unseen ones of its ``own`` circuit, of the single ``one`` and
        of the ``others``, and ``jaccard`` (of its circuit and the single one).
        """
        return to_frame(self.rows())

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        tables = {"clusters": self.rows(), "totals": self.totals(), "splits": self.splits(),
                  "shared": self.shared, "prompts": self.members()}  # fmt: skip
        return {
            **{key: value for key, value in self.about.items() if key != "seen"},
            "in_sample": self.in_sample, "number": self.number, "judged": self.grouping.judged,
            "verdict": self.verdict, "difference": self.difference, "interval": [*self.interval()],
            "agreement": self.agreement,
            **{name: nan_to_none(list(rows)) for name, rows in tables.items()},
        }  # fmt: skip

    def plot(self) -> Panels:
        """The prompts in the two directions in which their scores differ most, and of several
        clusters how faithful the circuit of each is on the prompts of each."""
        x, y = self.grouping.places.T
        series, labels = {}, {}
        for k in range(self.number):
            here = self.grouping.labels == k
            name = f"cluster {k + 1}"
            series[name] = (x[here].tolist(), y[here].tolist())
            labels[name] = [t for t, h in zip(self.prompts[0], here, strict=True) if h]
        first, second = (f"{share:.0%} of the variance" for share in self.grouping.shares)
        found: list[Points | Heatmap] = [Points(series, labels, x_name=first, y_name=second)]
        if self.number > 1:
            table = np.array([[_value(_part(own, self.given.given == k))
                               for k in range(self.number)] for own in self._every])  # fmt: skip
            names = ["single", *(str(k + 1) for k in range(self.number))]
            found.append(Heatmap(
                table, names, names[1:], "circuit", "cluster",
                unit="faithfulness", numbers=True, diverging=False,
            ))  # fmt: skip
        title = f"{self.about['task']} on {self.about['model']}: {_counted(self.number)}"
        captions = ["prompts by their scores", "unseen prompts"][: len(found)]
        return Panels(found, columns=len(found), title=title, captions=captions)

    @property
    def _every(self) -> Sequence[Evaluation]:
        return [*self.evaluations["one"], *self.evaluations["clusters"]]

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write the tables (``clusters.csv``, ``totals.csv``, ``splits.csv``, ``shared.csv``,
        ``prompts.csv``), the figure (``clusters.svg``), the single circuit (``single.json``) and
        that of each of several clusters (``cluster-1.json``, ...) into a folder; returns the files.

        The folder is made where there is none. One that holds another run is refused, unless
        ``overwrite`` replaces all files of that run. Raises OutputError then, and where the files
        cannot be written.

        Example:
            >>> found = ck.clusters(model, "ioi", edges=20, examples=16)
            >>> [path.name for path in found.save("ioi")][:2]
            ['clusters.csv', 'totals.csv']
        """
        tables = {"clusters": self.rows(), "totals": self.totals(), "splits": self.splits(),
                  "shared": self.shared, "prompts": self.members()}  # fmt: skip
        circuits = {"single": self.single}
        if self.number > 1:
            circuits |= {f"cluster-{k}": own for k, own in enumerate(self.circuits, 1)}
        with filled(folder, "clusters", overwrite) as new:
            written = []
            for name, rows in tables.items():
                if rows:
                    written.append(new / f"{name}.csv")
                    write_whole(written[-1], to_csv(rows))
            written.append(self.draw(new / "clusters.svg"))
            for name, circuit in circuits.items():
                written.append(new / f"{name}.json")
                circuit.save(written[-1])
        return [Path(folder) / path.name for path in written]

    # -- in words ----------------------------------------------------------------------------------
    @property
    def verdict(self) -> str:
        """What it comes to, in a sentence."""
        low, high = self.interval() if self.number > 1 else (nan, nan)
        judged = self.grouping.judged
        if self.number == 1:
            return "one cluster: no prompts are told apart by their scores"
        said = f"{_counted(self.number)}{'' if judged == self.number else _but(judged)}: "
        if isnan(low):
            return f"{said}whether their circuits do better than one is not known"
        if low > 0 and _value(self.together) > max(self.by_chance):
            return f"{said}their circuits are more faithful than a single one of their size"
        if low > 0:
            return f"{said}their circuits are no more faithful than those of clusters by chance"
        if high < 0:
            return f"{said}their circuits are less faithful than a single one of their size"
        return f"{said}their circuits are no more faithful than a single one of their size"

    def __str__(self) -> str:
        one = self.evaluations["one"][0]
        said = f"{self.about['task']} on {self.about['model']}: {_counted(self.number)} of "
        said += _counted(len(self.grouping.labels), "prompt")
        if self.number == 1:
            return f"{said}; a circuit of {one.edges:,} edges keeps {_value(one):.3f}"
        return (
            f"{said}; their circuits of {one.edges:,} edges keep {_value(self.together):.3f}, a "
            f"single one {_value(one):.3f}"
        )

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        one, labels = self.evaluations["one"][0], self.grouping.labels
        sample = "in sample" if self.in_sample else "unseen"
        yield f"{self.about['task']} on {self.about['model']}: {self.verdict}"
        yield (
            f"{_counted(len(labels), 'prompt')} by {self.about['method']}, {len(one.circuit)} "
            f"{sample}; {one.metric} under {one.corruption}; circuits of {one.edges:,} edges"
        )
        if rows := self.splits():
            yield "\nis a cluster two? (at most the allowed p says so)"
            yield as_text(rows, formats=FORMATS, headings=HEADINGS)
        else:
            yield "\nall prompts have the same scores"
        if self.number > 1:
            yield f"\nfaithfulness on the {sample} prompts of each cluster"
            yield as_text(self.rows(), formats=FORMATS, headings=HEADINGS)
        yield "\nfaithfulness on all of them"
        yield as_text(self.totals(), formats=FORMATS)
        if self.number > 1:
            yield (
                f"difference {self.difference:+.3f} {interval_text(*self.interval())}; "
                f"assigned by the {self.about['assign']}, which agrees with the prompts' own "
                f"scores on {self.agreement:.0%}"
            )
            yield from self._sharing()

    def _sharing(self) -> Iterator[str]:
        """What the clusters share, by the features that say most."""
        best = list(dict.fromkeys(row["feature"] for row in self.shared))[:SHOWN]
        rows = [dict(row) for row in self.shared if row["feature"] in best]
        if rows:
            yield "\nwhat clusters share (1: the feature says the cluster)"
            yield as_text(rows, formats=FORMATS, headings=HEADINGS)


def _counted(number: int, what: str = "cluster") -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _but(judged: int) -> str:
    """What is said of a number of clusters that was asked for."""
    return f", as asked for ({_counted(judged)} {'are' if judged > 1 else 'is'} told apart)"


def _dealt(every: Sequence[Evaluation], labels: Int[np.ndarray, " examples"]) -> Evaluation:
    """Each example under the circuit of its label."""
    values = np.stack([own.circuit for own in every])[labels, np.arange(len(labels))]
    return replace(every[0], circuit=values)


def _part(evaluation: Evaluation, here: np.ndarray) -> Evaluation | None:
    """The same of some of the examples; None where there are none."""
    if not here.any():
        return None
    return replace(
        evaluation, everything=evaluation.everything[here], nothing=evaluation.nothing[here],
        circuit=evaluation.circuit[here],
    )  # fmt: skip


def _value(evaluation: Evaluation | None) -> float:
    """The faithfulness; nan where it is not defined."""
    try:
        return nan if evaluation is None else evaluation.faithfulness
    except EvaluationError:
        return nan


def _ratio(
    nothing: Float[np.ndarray, "draws examples"],
    everything: Float[np.ndarray, "draws examples"],
    change: Float[np.ndarray, "draws examples"],
) -> Float[np.ndarray, " draws"]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(change.mean(-1) / (everything.mean(-1) - nothing.mean(-1)))
