"""How far estimated scores are off, by measuring the exact effect of some edges.

Attribution scores every edge and measures none. Here the strongest edges, those around the cut
between a circuit and the rest, and a random sample of all others are patched one by one: the first
two correct the choice of the circuit, and the third bounds what attribution missed altogether.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare
from circuitkit.engine.model import Model
from circuitkit.engine.tally import replaced
from circuitkit.errors import ScoresError
from circuitkit.evaluation.choosing import choose
from circuitkit.evaluation.masks import CircuitLike, ScoresLike, as_mask, as_scores
from circuitkit.evaluation.results import PictureResult, TableResult
from circuitkit.graph.nodes import edge_name
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Mask
from circuitkit.patching.edges import patch_edges
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.options import DIRECTIONS, Seed, Size, checked, require
from circuitkit.util.statistics import LEVEL, at_most, pearson, spearman, standard_error
from circuitkit.util.tables import WIDTH, as_text, to_csv, to_frame
from circuitkit.viz.figures import Points

if TYPE_CHECKING:
    import pandas

__all__ = ["COLUMNS", "Missed", "Stratum", "Verification", "verify"]

COLUMNS = ("edge", "stratum", "estimated", "exact", "stderr")
NEGLIGIBLE = 0.01  # of the largest effect measured: below it a sign says nothing


@dataclass(frozen=True)
class Stratum(TableResult):
    """How the estimates of some edges agree with their exact effects.

    ``pearson`` and ``spearman`` are nan for fewer than three edges, or where one side is constant;
    ``flipped`` counts the edges whose estimate and effect differ in sign while both are at least a
    hundredth of the largest effect measured in any stratum; ``largest`` is the largest |effect| and
    ``error`` the mean |estimate − effect|, in metric units.
    """

    name: str
    edges: int
    pearson: float
    spearman: float
    flipped: int
    largest: float
    error: float

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        found: dict[str, Json] = nan_to_none(asdict(self))
        return found

    def to_frame(self) -> pandas.DataFrame:
        """One row, with a column for each number."""
        return to_frame([asdict(self)])

    def __str__(self) -> str:
        return f"{self.name}: {self.edges:,} edges, Spearman {self.spearman:.3f}"


@dataclass(frozen=True)
class Missed(TableResult):
    """What a random sample says of the edges that attribution ranked below the circuit.

    Of ``population`` such edges, those around the cut left aside, ``sampled`` were measured;
    ``stronger`` of these have an effect above ``weakest``, the smallest |score| in the circuit, and
    so have ``at_most`` of the population. ``largest`` is the largest effect found, that of
    ``edge``, and ``larger_at_most`` of the population have one that is larger still. Both bounds
    are one-sided, at 95 % confidence, for magnitudes of the mean effect on these prompts.
    """

    population: int
    sampled: int
    weakest: float
    stronger: int
    at_most: int
    edge: str | None
    largest: float
    larger_at_most: int

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines."""
        return {**asdict(self), "confidence": LEVEL}

    def to_frame(self) -> pandas.DataFrame:
        """One row, with a column for each number."""
        return to_frame([self.to_dict()])

    def __str__(self) -> str:
        return (
            f"at most {self.at_most:,} of {self.population:,} edges below the circuit are stronger "
            f"than its weakest ({LEVEL:.0%} confidence)"
        )

    def __repr__(self) -> str:
        below = f"{self.population:,} edges ranked below the circuit and left to the sample"
        if not self.sampled:
            return f"Of the {below}, none was measured, so nothing is known of what was missed."
        share = self.at_most / self.population
        return (
            f"Of the {below}, {self.sampled:,} were measured: {self.stronger:,} of them with an "
            f"effect above the weakest score kept ({self.weakest:.4g}), so at most "
            f"{self.at_most:,} of all ({share:.2%}) with {LEVEL:.0%} confidence; the largest is "
            f"{self.largest:+.4g} ({self.edge}), which at most {self.larger_at_most:,} exceed."
        )


@dataclass(frozen=True)
class Verification(PictureResult):
    """Measured edges, each with its estimate and its exact effect; prints itself as a table.

    ``scores`` holds the effects where they were measured and the estimates elsewhere. The other
    arrays have one entry per measured edge: ``below`` whether it ranked below the circuit's last
    edge, ``stderr`` the effect's standard error over the examples (nan for a single one).
    ``weakest`` is the smallest |score| in the circuit, and ``population`` the number of edges below
    it that were left to chance, those in the random sample included.
    """

    scores: Scores
    edges: tuple[str, ...]
    strata: tuple[str, ...]
    estimated: Float[np.ndarray, " measured"]
    exact: Float[np.ndarray, " measured"]
    stderr: Float[np.ndarray, " measured"]
    below: Bool[np.ndarray, " measured"]
    weakest: float
    population: int

    def rows(self) -> Iterator[tuple[str, str, float, float, float]]:
        """Edge, stratum, estimate, effect and its standard error of every measured edge, by
        stratum, the largest effect first."""
        order = sorted(
            range(len(self.edges)), key=lambda i: (_ORDER[self.strata[i]], -abs(self.exact[i]))
        )
        columns = (self.estimated, self.exact, self.stderr)
        for i in order:
            estimated, exact, stderr = (float(column[i]) for column in columns)
            yield self.edges[i], self.strata[i], estimated, exact, stderr

    def to_frame(self) -> pandas.DataFrame:
        """A row for each measured edge, by stratum, the largest effect first.

        Columns: ``edge``, ``stratum``, ``estimated`` (its score), ``exact`` (its measured effect)
        and ``stderr`` (the effect's standard error; nan for a single example), in metric units.
        """
        return to_frame(dict(zip(COLUMNS, row, strict=True)) for row in self.rows())

    def to_csv(self) -> str:
        """The rows as CSV, under the names of the COLUMNS, in six digits."""
        return to_csv(dict(zip(COLUMNS, row, strict=True)) for row in self.rows())

    def by_stratum(self) -> tuple[Stratum, ...]:
        """How the estimates agree with the effects, in each stratum that holds an edge."""
        labels = np.array(self.strata)
        return tuple(self._stratum(name, labels == name) for name in _ORDER if name in self.strata)

    def _stratum(self, name: str, here: Bool[np.ndarray, " measured"]) -> Stratum:
        small = NEGLIGIBLE * np.abs(self.exact).max()
        estimated, exact = self.estimated[here], self.exact[here]
        telling = np.minimum(np.abs(estimated), np.abs(exact)) >= small
        return Stratum(
            name=name,
            edges=len(exact),
            pearson=pearson(estimated, exact),
            spearman=spearman(estimated, exact),
            flipped=int((telling & (estimated * exact < 0)).sum()),
            largest=float(np.abs(exact).max()),
            error=float(np.abs(estimated - exact).mean()),
        )

    @property
    def missed(self) -> Missed:
        """What the random sample says of the edges that ranked below the circuit."""
        places = np.flatnonzero(np.isin(self.strata, (RANDOM, ALL)) & self.below)
        effects = np.abs(self.exact[places])
        stronger = int((effects > self.weakest).sum())
        top = int(places[effects.argmax()]) if len(places) else None
        return Missed(
            population=self.population,
            sampled=len(places),
            weakest=self.weakest,
            stronger=stronger,
            at_most=at_most(self.population, len(places), stronger),
            edge=None if top is None else self.edges[top],
            largest=0.0 if top is None else float(self.exact[top]),
            larger_at_most=at_most(self.population, len(places), 0),
        )

    def to_dict(self) -> dict[str, Json]:
        """All numbers but the single edges', for machines; what is undefined is None."""
        strata = [stratum.to_dict() for stratum in self.by_stratum()]
        about = self.scores.about["verified"]
        return {**about, "strata": strata, "missed": self.missed.to_dict()}

    @property
    def direction(self) -> str:
        """``noise``: edges were corrupted in the clean run; ``denoise``: restored in the corrupted
        one."""
        return str(self.scores.about["verified"]["direction"])

    def plot(self) -> Points:
        """Estimated against exact effects, by stratum, in metric units."""
        frame = self.to_frame()
        by_stratum = dict(list(frame.groupby("stratum", sort=False)))
        series = {name: (own["exact"].tolist(), own["estimated"].tolist())
                  for name, own in by_stratum.items()}  # fmt: skip
        labels = {name: own["edge"].tolist() for name, own in by_stratum.items()}
        method = self.scores.about.get("method", "the estimates")
        return Points(
            series, labels, f"{method} against exact effects ({self.direction})",
            "exact effect", "estimated effect", equal=True, equal_name="estimate = effect",
        )  # fmt: skip

    def __str__(self) -> str:
        whole = spearman(self.estimated, self.exact)
        return (
            f"{len(self.edges):,} of {self.scores.wiring.n_edges:,} edges measured exactly "
            f"({self.direction}): Spearman {whole:.3f} with the estimates"
        )

    def __repr__(self) -> str:
        total, about = self.scores.wiring.n_edges, self.scores.about
        head = (
            f"{len(self.edges):,} of {total:,} edges measured exactly ({self.direction}), against "
            f"{about.get('method', 'the estimates')}:"
        )
        table = as_text(
            [asdict(stratum) for stratum in self.by_stratum()],
            formats={"edges": ",d", "pearson": ".3f", "spearman": ".3f", "flipped": ",d",
                     "largest": ".4g", "error": ".4g"},
            headings={"name": "", "pearson": "Pearson", "spearman": "Spearman",
                      "largest": "largest |effect|", "error": "mean |error|"},
        )  # fmt: skip
        return "\n".join([head, table, *textwrap.wrap(repr(self.missed), WIDTH)])


STRONGEST, CUT, RANDOM, ALL = "strongest", "around the cut", "random sample", "all edges"
_ORDER = {name: place for place, name in enumerate((STRONGEST, CUT, RANDOM, ALL))}


@checked
def verify(
    model: Model,
    scores: ScoresLike,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    circuit: CircuitLike | None = None,
    n: Size = 500,
    direction: str = "noise",
    rule: str = "abs",
    seed: Seed = 0,
    resume: str | os.PathLike[str] | None = None,
) -> Verification:
    """How far the scores are off: the exact effects of n edges, and what the others may hide.

    ``circuit`` is the one that was chosen from the scores by this rule; without it, it is the
    method's own choice, or the smallest that keeps 0.85. Half of the n edges are the strongest by
    |score|, a quarter those nearest in the ranking to the circuit's last edge, the rest is drawn
    evenly from all others; where n reaches the number of edges, all are measured. ``direction`` and
    ``resume`` are those of ``patch_edges``.

    Returns a Verification: effects are means over the examples in metric units, positive where the
    edge helps the clean behaviour. Raises ArgumentError for an argument in the wrong place and
    where n < 1, CircuitError for an unknown direction or a circuit that does not fit, and
    ScoresError where the circuit is empty.

    Source: exact effects as in Conmy et al. (2023); bounds from the hypergeometric distribution.

    Example:
        >>> found = ck.verify(model, scores, data, n=20)
        >>> len(found.to_frame()), found.direction
        (20, 'noise')
    """
    scores = as_scores(scores, model)
    require("direction", direction, DIRECTIONS)
    inputs = prepare(model, data, metric, corruption, circuit=scores)
    legal = scores.wiring.legal
    keep = choose(model, scores, *inputs[1:], rule=rule).mask if circuit is None else circuit
    keep = as_mask(keep, scores.wiring)
    if not (keep & legal).any():
        raise ScoresError("the circuit has no edges, so nothing is kept; give scores.mask(n)")
    head = _head(scores, keep & legal, rule)
    above = np.zeros_like(legal)
    above.flat[head] = True
    below = legal & ~above & ~keep
    parts = _strata(scores, len(head), n, rule, seed)
    measured = np.zeros_like(legal)
    labels = np.full(legal.shape, "", dtype=object)
    for name, flat in parts.items():
        measured.flat[flat] = True
        labels.flat[flat] = name
    found = patch_edges(model, measured, *inputs[1:], direction=direction, resume=resume)
    effects = found.values.astype(np.float64)
    by_chance = parts[ALL] if ALL in parts else _others(scores, [parts[STRONGEST], parts[CUT]])
    names = ((scores.wiring.writers[w], scores.wiring.readers[r]) for w, r in np.argwhere(measured))
    about = {"edges": int(measured.sum()), "direction": direction, "seed": seed}
    return Verification(
        scores=_merged(scores, measured, effects, about),
        edges=tuple(edge_name(*pair) for pair in names),
        strata=tuple(labels[measured]),
        estimated=scores.values[measured].astype(np.float64),
        exact=effects.mean(1),
        stderr=standard_error(effects),
        below=below[measured],
        weakest=float(np.abs(scores.values[keep & above]).min()),
        population=int(below.flat[by_chance].sum()),
    )


def _head(scores: Scores, keep: Mask, rule: str) -> Int[np.ndarray, " edges"]:
    """The ranking up to the circuit's last edge that was not filled in (``Scores.top``): its edges,
    and dead ends that it left out."""
    ranking = scores.ranking(rule)
    head = scores.wiring.best(ranking, int(keep.sum()))
    chosen = head.any() and (head & ~keep).sum() <= 1  # by this ranking; one may have made room
    own = head & keep if chosen else keep
    return ranking[: 1 + max(np.flatnonzero(own.flat[ranking]), default=-1)]


def _strata(
    scores: Scores, cut: int, n: int, rule: str, seed: int
) -> dict[str, Int[np.ndarray, " edges"]]:
    """The flat indices of the edges to be measured, by stratum; no edge stands in two. The cut is
    the number of edges before it in the ranking."""
    if n >= scores.wiring.n_edges:
        return {ALL: np.flatnonzero(scores.wiring.legal)}
    strongest = scores.ranking()[: n // 2]
    ranking = scores.ranking(rule)
    distance = np.abs(np.arange(len(ranking)) + 0.5 - cut)
    nearest = ranking[np.argsort(distance, kind="stable")]
    around = nearest[~np.isin(nearest, strongest)][: n // 4]
    others = _others(scores, [strongest, around])
    left = n - len(strongest) - len(around)
    drawn = np.random.default_rng(seed).choice(others, left, replace=False)
    return {STRONGEST: strongest, CUT: around, RANDOM: drawn}


def _others(scores: Scores, taken: list[Int[np.ndarray, " _"]]) -> Int[np.ndarray, " edges"]:
    """The flat indices of the edges that are in none of these."""
    return np.setdiff1d(np.flatnonzero(scores.wiring.legal), np.concatenate(taken))


def _merged(
    scores: Scores,
    measured: Mask,
    effects: Float[np.ndarray, "measured examples"],
    verified: Mapping[str, Json],
) -> Scores:
    """The effects where they were measured, the estimates elsewhere; of the examples too, where
    the estimates have theirs."""
    values = scores.values.copy()
    values[measured] = effects.mean(1)
    exact = measured if scores.exact is None else measured | scores.exact
    about = {key: value for key, value in scores.about.items() if key != "chosen"}
    groups = scores.groups
    if groups is not None and len(groups) == effects.shape[1]:
        groups = replaced(groups, np.flatnonzero(measured[scores.wiring.legal]), effects)
    about = {**about, "verified": dict(verified)}
    return Scores(scores.wiring, values, about, exact, groups)
