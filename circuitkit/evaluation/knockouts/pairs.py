"""What two edges of a circuit do for each other: what is lost without one, the other, both."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import nan
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
from jaxtyping import Float

from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike
from circuitkit.engine.model import Model
from circuitkit.errors import CircuitError
from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.evaluation.knockouts._report import SHOWN, about, gap, more
from circuitkit.evaluation.knockouts._runs import Knockouts, knockouts_of
from circuitkit.evaluation.knockouts.effects import marginal_effects
from circuitkit.evaluation.masks import CircuitLike
from circuitkit.evaluation.results import PictureResult, TableResult
from circuitkit.evaluation.spaces import Index
from circuitkit.graph import circuit as circuits
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.options import Whole, checked, require
from circuitkit.util.statistics import standard_error
from circuitkit.util.tables import as_text, to_frame
from circuitkit.viz.figures import Heatmap

if TYPE_CHECKING:
    import pandas

__all__ = ["Interactions", "Pair", "interactions"]

ERRORS = 2  # standard errors beyond which an interaction is taken for one
PART = 0.1  # of the pair's effect that an interaction must be
NUMBERS = ("one", "other", "both", "interaction", "error")  # columns
ROUNDING = 1e-3  # of the gap: what is smaller may be rounding


@dataclass(frozen=True)
class Pair(TableResult):
    """What is lost without one edge, without the other, and without both, in metric units.

    ``interaction`` is ``joint`` less the two single effects, and ``error`` its standard error.
    ``label`` is OR where the pair matters more than the sum of the two (each backs the other up),
    AND where it matters less (either alone breaks what needs both), else empty. ``series``: both
    lie on one path of the circuit, so that an AND says only that.
    """

    one: str
    two: str
    singles: tuple[float, float]
    joint: float
    interaction: float
    error: float
    label: str
    series: bool

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        error = nan_to_none(float(self.error))
        return {**vars(self), "singles": list(self.singles), "error": error}

    def to_frame(self) -> pandas.DataFrame:
        """One row, with the columns of ``Interactions.to_frame``."""
        return to_frame([_cells(self)])

    def __str__(self) -> str:
        label = f" ({self.label})" if self.label else ""
        return f"{self.one}, {self.two}: interaction {self.interaction:+.3f}{label}"

    def row(self) -> dict[str, str]:
        """A line of the table."""
        numbers = (*self.singles, self.joint, self.interaction)
        names = ("one", "other", "both", "interaction")
        return {
            "": self.label,
            **{name: f"{value:+.3f}" for name, value in zip(names, numbers, strict=True)},
            "error": f"± {self.error:.3f}", "pair": f"{self.one}, {self.two}",
            "path": "in series" * self.series,
        }  # fmt: skip

    def __repr__(self) -> str:
        return as_text([self.row()], right=NUMBERS, header=False)


def _cells(pair: Pair) -> dict[str, Json]:
    """A pair as a row of a table of numbers."""
    return {
        "one": pair.one, "two": pair.two, "one_alone": pair.singles[0],
        "two_alone": pair.singles[1], "joint": pair.joint, "interaction": pair.interaction,
        "error": pair.error, "label": pair.label, "series": pair.series,
    }  # fmt: skip


@dataclass(frozen=True)
class Interactions(PictureResult):
    """The pairs among some edges of a circuit, the largest interaction first; ``within`` says what
    they were cut in."""

    evaluation: Evaluation
    within: str
    pairs: tuple[Pair, ...]

    def labelled(self, label: str) -> tuple[Pair, ...]:
        """The pairs of that label (OR, AND), the clearest first; those of one path at the end."""
        found = (pair for pair in self.pairs if pair.label == label)
        return tuple(sorted(found, key=lambda pair: pair.series))

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        pairs = [pair.to_dict() for pair in self.pairs]
        return {**about(self.evaluation), "within": self.within, "pairs": pairs}

    def to_frame(self) -> pandas.DataFrame:
        """A row for each pair, the largest interaction first.

        Columns: ``one`` and ``two`` (edges), ``one_alone``, ``two_alone`` and ``joint`` (what is
        lost without the one, the other and both), ``interaction`` (joint − the two), ``error`` (its
        standard error), all in metric units; ``label`` (OR, AND or empty), ``series`` (whether both
        lie on one path).
        """
        return to_frame(_cells(pair) for pair in self.pairs)

    def plot(self) -> Heatmap:
        """The interactions as a heat map of edge by edge: red where each backs the other up (OR),
        blue where either alone breaks what needs both (AND); labelled pairs are outlined."""
        edges = list(dict.fromkeys(edge for pair in self.pairs for edge in (pair.one, pair.two)))
        values = np.full((len(edges), len(edges)), nan)
        marks = np.zeros(values.shape, dtype=bool)
        for pair in self.pairs:
            i, j = edges.index(pair.one), edges.index(pair.two)
            values[i, j] = values[j, i] = pair.interaction
            marks[i, j] = marks[j, i] = bool(pair.label)
        return Heatmap(
            values, edges, edges, title=f"Interactions of edges, cut in the {self.within}",
            unit=f"interaction ({self.evaluation.metric})", marks=marks,
            mark_name="OR (red) or AND (blue)",
        )  # fmt: skip

    def __str__(self) -> str:
        counts = [f"{len(self.labelled(label))} {label}" for label in ("OR", "AND")]
        return f"{len(self.pairs)} pairs cut in the {self.within}: {', '.join(counts)}"

    def __repr__(self) -> str:
        return f"{self.evaluation}\n{self.table()}"

    def table(self) -> str:
        """What is printed below the circuit's faithfulness."""
        found = {label: self.labelled(label) for label in ("OR", "AND")}
        rows = [pair.row() for own in found.values() for pair in own[:SHOWN]]
        lines = [
            f"what the {self.within} loses without one edge, the other, and both "
            f"({self.evaluation.metric}; interaction = both − one − other):",
            *(
                [as_text(rows, headings={"error": "", "path": ""}, right=NUMBERS, indent=2)]
                if rows
                else []
            ),
        ]
        for label, own in found.items():
            lines += more(len(own) - SHOWN, f"more {label}")
        plain = len(self.labelled(""))
        lines.append(f"  {plain} of {len(self.pairs)} pairs show no interaction")
        if plain < len(self.pairs):
            lines.append("  OR: each backs the other up; AND: either alone breaks what needs both")
        return "\n".join(lines)


@checked
def interactions(
    model: Model,
    circuit: CircuitLike,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    edges: Whole = 12,
    within: str = "model",
) -> Interactions:
    """What the strongest edges of a circuit do for each other: pairs are cut alone and together.

    Strongest by |weight|, or by marginal effect where a mask is given. ``within="model"`` cuts them
    in the whole model, where backups outside of the circuit answer; ``"circuit"`` in the circuit.
    A pair is labelled OR or AND where its interaction exceeds two standard errors over the
    examples, a tenth of what the pair does (the larger of the joint effect and of the sum of the
    single ones), and a thousandth of m(everything) − m(nothing); of one example, nothing is
    labelled. Noising finds every edge of an AND and none of an OR (Heimersheim & Nanda 2024);
    cutting pairs finds both. Costs n(n+1)/2 masked runs.

    Returns Interactions, in metric units: positive where the pair matters more than the sum of the
    two. Raises ArgumentError for an argument in the wrong place, and CircuitError for fewer than
    two edges, and for an unknown ``within``.

    Example:
        >>> found = ck.interactions(model, scores.top(20), data, edges=3)
        >>> len(found.to_frame())
        3
    """
    require("within", within, ("model", "circuit"))
    runs = knockouts_of(model, circuit, data, metric, corruption)
    chosen = runs.edges
    if edges < len(chosen):
        strength = np.abs(_strength(runs, circuit))
        chosen = [chosen[i] for i in np.argsort(-strength, kind="stable")[: max(edges, 0)]]
    if len(chosen) < 2:
        raise CircuitError(
            f"{len(chosen)} of {len(runs.edges)} edges make no pair; ask for at least 2, in a "
            "circuit of as many"
        )
    base = runs.space.whole if within == "model" else runs.space.keep
    pairs = list(combinations(range(len(chosen)), 2))
    cuts = [[], *([edge] for edge in chosen), *([chosen[i], chosen[j]] for i, j in pairs)]
    evaluation, values = runs.measure(runs.space.without(base, cut) for cut in cuts)
    effects = values[0] - values[1:]
    made = [
        _pair(runs, (chosen[i], chosen[j]), effects[[i, j]], joint, evaluation)
        for (i, j), joint in zip(pairs, effects[len(chosen) :], strict=True)
    ]
    made.sort(key=lambda pair: -abs(pair.interaction))
    return Interactions(evaluation, within, tuple(made))


def _strength(runs: Knockouts, circuit: CircuitLike) -> Float[np.ndarray, " edges"]:
    """By what edges are chosen: their weights, or else their marginal effects."""
    graph = circuit if isinstance(circuit, nx.DiGraph) else getattr(circuit, "circuit", None)
    if graph is None:
        own = runs.model, runs.space.keep, runs.data, runs.metric, runs.corruption
        return marginal_effects(*own).means
    weights = {(writer, reader): weight for writer, reader, weight in circuits.edges(graph)}
    return np.array([weights[runs.space.ends(edge)] for edge in runs.edges])


def _pair(
    runs: Knockouts,
    edges: tuple[Index, Index],
    singles: Float[np.ndarray, "2 examples"],
    joint: Float[np.ndarray, " examples"],
    evaluation: Evaluation,
) -> Pair:
    interaction = joint - singles.sum(0)
    error = float(standard_error(interaction))
    mean, both, apart = (float(x.mean()) for x in (interaction, joint, singles.sum(0)))
    effect = both if abs(both) >= abs(apart) else apart
    floor = max(ERRORS * error, PART * abs(effect), ROUNDING * gap(evaluation))
    label = ("OR" if mean * effect > 0 else "AND") if abs(mean) > floor else ""
    one, two = runs.names(edges)
    alone = float(singles[0].mean()), float(singles[1].mean())
    return Pair(one, two, alone, both, mean, error, label, _in_series(runs, *edges))


def _in_series(runs: Knockouts, one: Index, two: Index) -> bool:
    """Whether both edges lie on one path of the circuit."""
    return two in runs.through(one)
