"""Whether a circuit is minimal: each of its edges is needed for something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from jaxtyping import Float

from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike
from circuitkit.engine.model import Model
from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.evaluation.knockouts._report import DRAWN, SHOWN, about, gap, more, require_gap
from circuitkit.evaluation.knockouts._runs import (
    Knockouts,
    drawn_sets,
    knockouts_of,
)
from circuitkit.evaluation.masks import CircuitLike
from circuitkit.evaluation.results import PictureResult
from circuitkit.evaluation.spaces import Index
from circuitkit.graph.places import AnyMask
from circuitkit.util.json_values import Json
from circuitkit.util.options import Bounds, Seed, Whole, checked
from circuitkit.util.tables import as_text, to_frame
from circuitkit.viz.figures import Bars

if TYPE_CHECKING:
    import pandas

__all__ = ["Minimality", "minimality"]

KINDS = ("nothing else cut", "its reader's other edges cut", "all beside its paths cut")


@dataclass(frozen=True)
class Minimality(PictureResult):
    """For each edge v the largest |F(C∖(K∪v)) − F(C∖K)| over the sets K that were tried, in metric
    units; ``found`` says which K gave it. ``threshold`` is a share of F(everything) − F(nothing).
    """

    evaluation: Evaluation
    edges: tuple[str, ...]
    largest: Float[np.ndarray, " edges"]
    found: tuple[str, ...]
    threshold: float

    @property
    def shares(self) -> Float[np.ndarray, " edges"]:
        """The largest differences as shares of |F(everything) − F(nothing)|."""
        return self.largest / gap(self.evaluation)

    @property
    def redundant(self) -> tuple[str, ...]:
        """The edges that make no difference above the threshold, whatever else was cut. Each alone:
        without all of them at once the circuit may behave differently."""
        pairs = zip(self.edges, self.shares, strict=True)
        return tuple(edge for edge, share in pairs if share <= self.threshold)

    def to_frame(self) -> pandas.DataFrame:
        """A row for each edge, the least needed first.

        Columns: ``edge``, ``largest`` (the largest difference that it makes, in metric units),
        ``share`` (of the gap), ``found`` (what else was cut there), ``redundant`` (whether the
        share is not above the threshold).
        """
        order = np.argsort(self.largest, kind="stable")
        shares = self.shares
        return to_frame(
            {"edge": self.edges[i], "largest": float(self.largest[i]), "share": float(shares[i]),
             "found": self.found[i], "redundant": bool(shares[i] <= self.threshold)}
            for i in order
        )  # fmt: skip

    def plot(self) -> Bars:
        """The least needed edges as bars, and the threshold."""
        frame = self.to_frame().head(DRAWN)
        what = (
            "edge" if len(frame) == len(self.edges) else f"of the {len(frame)} least needed edges"
        )
        return Bars(
            frame["share"].to_numpy(), [*frame["edge"]],
            title=f"The largest difference that each {what} makes",
            x_name=f"share of the gap of {self.evaluation.metric}",
            line=self.threshold, line_name=f"{self.threshold:.1%}: redundant below it",
        )  # fmt: skip

    def __str__(self) -> str:
        return f"{len(self.redundant)} of {len(self.edges)} edges are redundant"

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines."""
        rows = zip(self.edges, self.largest, self.shares, self.found, strict=True)
        return {
            **about(self.evaluation),
            "threshold": self.threshold,
            "redundant": list(self.redundant),
            "edges": [
                {"edge": edge, "largest": float(value), "share": float(share), "found": found}
                for edge, value, share, found in rows
            ],
        }

    def __repr__(self) -> str:
        return f"{self.evaluation}\n{self.table()}"

    def table(self) -> str:
        """What is printed below the circuit's faithfulness."""
        head = (
            f"{len(self.redundant)} of {len(self.edges)} edges are redundant: no difference above "
            f"{self.threshold:.1%} of the gap, whatever else is cut; the least needed:"
        )
        rows = [
            {"largest": float(self.largest[i]), "share": float(self.shares[i]),
             "edge": self.edges[i], "found": f"({self.found[i]})"}
            for i in np.argsort(self.largest, kind="stable")[:SHOWN]
        ]  # fmt: skip
        table = as_text(rows, formats={"largest": ".3f", "share": ".1%"}, header=False, indent=2)
        return "\n".join([head, table, *more(len(self.edges) - SHOWN, "edges do more")])


@checked
def minimality(
    model: Model,
    circuit: CircuitLike,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    sets: Whole = 5,
    threshold: Annotated[float, Bounds(0)] = 0.01,
    seed: Seed = 0,
) -> Minimality:
    """Whether a circuit is minimal: whether each of its edges is needed.

    The sets K that are tried for an edge: none; the other edges into its reader; all edges that lie
    on no path through it; and ``sets`` random ones. Wang et al. choose K for each node by what they
    know of its role; they, too, ask for 1 % (of F(M), where we take the gap). Costs about sets + 4
    masked runs per edge.

    Returns a Minimality: for each edge the largest difference that it makes, in metric units.
    Raises ArgumentError for an argument in the wrong place and for negative numbers, and
    EvaluationError where everything and nothing give the same.

    Source: Wang et al. (2023, §4.2), with edges in place of heads at positions.

    Example:
        >>> found = ck.minimality(model, scores.top(10), data, sets=1)
        >>> found.to_frame()["edge"][0] == found.edges[found.largest.argmin()]
        True
    """
    runs = knockouts_of(model, circuit, data, metric, corruption)
    drawn = drawn_sets(runs.edges, sets, None, np.random.default_rng(seed))
    evaluation, values = runs.measure(_trials(runs, drawn))
    require_gap(evaluation)
    kinds = [*KINDS, *["a random set cut"] * sets]
    means = values.mean(1).reshape(len(runs.edges), len(kinds), 2)
    differences = np.abs(means[..., 0] - means[..., 1])
    found = tuple(kinds[i] for i in differences.argmax(1))
    return Minimality(evaluation, runs.names(runs.edges), differences.max(1), found, threshold)


def _trials(runs: Knockouts, drawn: Sequence[Sequence[Index]]) -> Iterator[AnyMask]:
    """Of every edge, under each of what is cut beside it: the circuit with it, and without."""
    for edge in runs.edges:
        reader = runs.space.ends(edge)[1]
        beside = [e for e in runs.edges if runs.space.ends(e)[1] == reader]
        through = runs.through(edge)
        aside = [e for e in runs.edges if e not in through]
        for cut in ([], beside, aside, *drawn):
            yield runs.space.without(runs.space.keep, (e for e in cut if e != edge))
            yield runs.space.without(runs.space.keep, [*cut, edge])
