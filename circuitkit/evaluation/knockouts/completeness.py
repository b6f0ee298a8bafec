"""Whether a circuit is complete: it loses what the model loses, whichever of its edges are cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike
from circuitkit.engine.model import Model
from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.evaluation.knockouts._report import SHOWN, about, gap, more, require_gap
from circuitkit.evaluation.knockouts._runs import (
    Knockouts,
    drawn_sets,
    knockouts_of,
)
from circuitkit.evaluation.masks import CircuitLike
from circuitkit.evaluation.results import PictureResult, TableResult
from circuitkit.evaluation.spaces import Index
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.options import Count, Seed, Whole, checked
from circuitkit.util.tables import as_text, to_frame
from circuitkit.viz.figures import Points

if TYPE_CHECKING:
    import pandas

__all__ = ["Incompleteness", "Knockout", "incompleteness"]

SERIES = {
    "random": "random sets cut",
    "greedy": "the greedy search's sets cut",
    "nothing": "nothing cut",
    "everything": "the whole circuit cut",
}


@dataclass(frozen=True)
class Knockout(TableResult):
    """A set K that is cut, and what is left: F(C∖K) and F(M∖K). ``found`` says where K comes from:
    nothing is cut, everything, a random set, or one of the greedy search."""

    edges: tuple[str, ...]
    circuit: float
    model: float
    found: str

    @property
    def score(self) -> float:
        """|F(C∖K) − F(M∖K)|: how far the circuit is from behaving as the model does."""
        return abs(self.circuit - self.model)

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines."""
        return {**vars(self), "edges": list(self.edges), "score": self.score}

    def to_frame(self) -> pandas.DataFrame:
        """One row, with the columns of ``Incompleteness.to_frame`` but ``share``."""
        return to_frame([_row(self)])

    def __str__(self) -> str:
        return f"{len(self.edges)} edges cut: circuit {self.circuit:.3f}, model {self.model:.3f}"


def _row(knockout: Knockout) -> dict[str, Json]:
    """A set as a row of a table."""
    return {"found": knockout.found, "cut": len(knockout.edges), "circuit": knockout.circuit,
            "model": knockout.model, "score": knockout.score,
            "edges": ", ".join(knockout.edges)}  # fmt: skip


@dataclass(frozen=True)
class Incompleteness(PictureResult):
    """How differently circuit and model behave without the same edges: 0 for a complete circuit."""

    evaluation: Evaluation
    knockouts: tuple[Knockout, ...]

    @property
    def worst(self) -> Knockout:
        """The set with the largest score; of equal ones the smallest."""
        return max(self.knockouts, key=lambda knockout: (knockout.score, -len(knockout.edges)))

    @property
    def mean(self) -> float:
        """The mean score of the random sets, in metric units; nan without them."""
        scores = [knockout.score for knockout in self._of("random")]
        return float(np.mean(scores)) if scores else float("nan")

    def share(self, score: float) -> float:
        """A score as a share of |F(everything) − F(nothing)|."""
        return score / gap(self.evaluation)

    def _of(self, found: str) -> list[Knockout]:
        return [knockout for knockout in self.knockouts if knockout.found == found]

    def to_frame(self) -> pandas.DataFrame:
        """A row for each set K that was cut.

        Columns: ``found`` (nothing, everything, random or greedy), ``cut`` (the number of edges in
        K), ``circuit`` and ``model`` (F(C∖K) and F(M∖K), in metric units), ``score`` (how far they
        are apart), ``edges`` (those of K), ``share`` (the score as a share of the gap).
        """
        return to_frame([{**_row(k), "share": self.share(k.score)} for k in self.knockouts])

    def plot(self) -> Points:
        """F(C∖K) against F(M∖K) for every K; on the line circuit and model behave alike (Wang et
        al. 2023, figure 8)."""
        every = {name: self._of(found) for found, name in SERIES.items() if self._of(found)}
        series = {name: ([k.model for k in own], [k.circuit for k in own])
                  for name, own in every.items()}  # fmt: skip
        labels = {name: [f"{len(k.edges)} edges cut ({k.found})" for k in own]
                  for name, own in every.items()}  # fmt: skip
        metric = self.evaluation.metric
        return Points(
            series, labels, "Circuit and model without the same edges", f"{metric} of the model",
            f"{metric} of the circuit", equal=True, equal_name="circuit = model",
        )  # fmt: skip

    def __str__(self) -> str:
        return (
            f"incompleteness at least {self.worst.score:.3f} "
            f"({self.share(self.worst.score):.1%} of the gap), of {len(self.knockouts)} sets"
        )

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        rows = [knockout.to_dict() for knockout in self.knockouts]
        return {
            **about(self.evaluation),
            "worst": self.worst.score, "worst_share": self.share(self.worst.score),
            "mean": nan_to_none(float(self.mean)),
            "mean_share": nan_to_none(float(self.share(self.mean))),
            "knockouts": rows,
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"{self.evaluation}\n{self.table()}"

    def table(self) -> str:
        """What is printed below the circuit's faithfulness."""
        rows = []
        for found, what in (("nothing", "K is empty"), ("everything", "K is the circuit"),
                            ("random", "the worst of {n} random sets"),
                            ("greedy", "the worst of {n} greedy steps")):  # fmt: skip
            if own := self._of(found):
                rows.append(self._row(max(own, key=lambda k: k.score), what.format(n=len(own))))
        formats = {"|C∖K − M∖K|": ".3f", "share": ".1%", "C∖K": "+.3f", "M∖K": "+.3f"}
        lines = [
            f"without the same edges K, circuit and model differ ({self.evaluation.metric}):",
            as_text(rows, formats=formats, indent=2),
        ]
        edges = self.worst.edges
        if self._of("random"):
            lines.append(
                f"  the random sets' mean is {self.mean:.3f} ({self.share(self.mean):.1%})"
            )
        lines += ["  the worst K:"] if edges else []
        lines += [f"    {edge}" for edge in edges[:SHOWN]]
        return "\n".join([*lines, *more(len(edges) - SHOWN, "edges")])

    def _row(self, k: Knockout, what: str) -> dict[str, Json]:
        return {
            "|C∖K − M∖K|": k.score, "share": self.share(k.score), "C∖K": k.circuit,
            "M∖K": k.model, "": what,
        }  # fmt: skip


@checked
def incompleteness(
    model: Model,
    circuit: CircuitLike,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    sets: Whole = 20,
    sizes: Sequence[int] | None = None,
    rounds: Whole = 5,
    candidates: Count = 10,
    seed: Seed = 0,
) -> Incompleteness:
    """Whether a circuit is complete: how far F(C∖K) is from F(M∖K), whatever K is cut from both.

    Random sets take their size from ``sizes`` (by default evenly from 1 to the whole circuit). The
    greedy search begins with nothing; each round adds to K the one of ``candidates`` random edges
    that leaves the largest score, and every round counts, as in the paper. F(C) = F(M) with a large
    score says that the model has other edges for the same work (backups). Both find lower bounds.
    Costs 2 · (sets + rounds · candidates) masked runs.

    Returns an Incompleteness, in metric units; 0 is a complete circuit. Raises ArgumentError for
    an argument in the wrong place and for negative numbers, EvaluationError where everything and
    nothing give the same, and CircuitError where a size exceeds the circuit.

    Source: Wang et al. (2023, §4.1), with edges in place of heads at positions.

    Example:
        >>> found = ck.incompleteness(model, scores.top(10), data, sets=3, rounds=1)
        >>> found.to_frame()["found"].tolist()
        ['nothing', 'everything', 'random', 'random', 'random', 'greedy']
    """
    runs = knockouts_of(model, circuit, data, metric, corruption)
    rng = np.random.default_rng(seed)
    own = runs.edges
    drawn = drawn_sets(own, sets, sizes, rng)
    kinds = ["nothing", "everything", *["random"] * len(drawn)]
    evaluation, knockouts = _knock_out(runs, [[], own, *drawn], kinds)
    require_gap(evaluation)
    knockouts += _greedy(runs, rounds, candidates, rng)
    return Incompleteness(evaluation, tuple(knockouts))


def _knock_out(
    runs: Knockouts, sets: Sequence[Sequence[Index]], kinds: Sequence[str]
) -> tuple[Evaluation, list[Knockout]]:
    """What is left without each of these sets."""
    bases = runs.space.keep, runs.space.whole
    evaluation, values = runs.measure(
        runs.space.without(base, cut) for base in bases for cut in sets
    )
    inside, whole = values.mean(1).reshape(2, len(sets)).tolist()
    rows = zip(map(runs.names, sets), inside, whole, kinds, strict=True)
    return evaluation, [Knockout(*row) for row in rows]


def _greedy(
    runs: Knockouts, rounds: int, candidates: int, rng: np.random.Generator
) -> Iterator[Knockout]:
    """The best set of each round. K grows even where that lowers the score, for the next edge may
    raise it above all that was."""
    cut: list[Index] = []
    for _ in range(min(rounds, len(runs.edges))):
        rest = [edge for edge in runs.edges if edge not in cut]
        tried = [[*cut, rest[i]] for i in rng.permutation(len(rest))[: max(1, candidates)]]
        found = _knock_out(runs, tried, ["greedy"] * len(tried))[1]
        best = max(range(len(found)), key=lambda i: found[i].score)
        cut = tried[best]
        yield found[best]
