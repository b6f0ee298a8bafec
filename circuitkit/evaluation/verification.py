"""How far estimated scores are off, by measuring the exact effect of some edges.

Attribution scores every edge and measures none. Here the strongest edges, those around the cut
between a circuit and the rest, and a random sample of those outside are patched one by one: the
first two correct the choice of the circuit, and the third bounds what attribution missed
altogether. Where the circuit is chosen again from what was measured, the new cut is measured too,
and what is said is said of the circuit that is chosen last.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from circuitkit.engine.inputs import CorruptionLike, Data, Inputs, MetricLike, prepare
from circuitkit.engine.model import Model
from circuitkit.engine.tally import replaced
from circuitkit.errors import ScoresError
from circuitkit.evaluation.choosing import Chosen, choose
from circuitkit.evaluation.masks import CircuitLike, ScoresLike, as_mask, as_scores
from circuitkit.evaluation.results import PictureResult, TableResult
from circuitkit.graph.nodes import edge_name, parse_edge
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

__all__ = ["COLUMNS", "Missed", "Stratum", "Verification", "settle", "verify"]

COLUMNS = ("edge", "stratum", "estimated", "exact", "stderr")
STEPS = 8  # the edges of a round are this part of all
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
    """What a random sample says of the edges outside of the circuit that attribution ranked below
    it.

    Of ``population`` edges that were left to the sample, are not in the circuit, and have an
    estimate that is not above ``weakest`` (the smallest |score| in the circuit), ``sampled`` were
    measured; a further ``taken`` of the sample are in the circuit now. ``stronger`` of those
    sampled have an effect above the weakest, and so have ``at_most`` of the population. ``largest``
    is the largest effect found, that of ``edge``, and ``larger_at_most`` of the population have one
    that is larger still. Both bounds are one-sided, at 95 % confidence, for magnitudes of the mean
    effect on these prompts; edges that neither were measured nor could be drawn count as stronger.
    """

    population: int
    sampled: int
    taken: int
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
        taken = f" (and {self.taken:,} more, which are in the circuit now)" if self.taken else ""
        if not self.sampled:
            return f"Of the {below}, none was measured{taken}; at most {self.at_most:,} are missed."
        share = self.at_most / self.population
        return (
            f"Of the {below}, {self.sampled:,} were measured{taken}: {self.stronger:,} of them "
            f"with an effect above the weakest score kept ({self.weakest:.4g}), so at most "
            f"{self.at_most:,} of all ({share:.2%}) with {LEVEL:.0%} confidence; the largest is "
            f"{self.largest:+.4g} ({self.edge}), which at most {self.larger_at_most:,} exceed."
        )


@dataclass(frozen=True)
class Verification(PictureResult):
    """Measured edges, each with its estimate and its exact effect; prints itself as a table.

    ``scores`` holds the effects where they were measured and the estimates elsewhere, ``circuit``
    is the mask of the circuit that all of this is said of, and ``drawable`` that of the edges from
    which the random sample was drawn. ``weakest`` is the smallest |score| in the circuit, by the
    scores that it was chosen from. The other arrays have one entry per measured edge, in the order
    of the wiring; ``stderr`` is the effect's standard error over the examples (nan for a single
    one).
    """

    scores: Scores
    circuit: Mask
    drawable: Mask
    edges: tuple[str, ...]
    strata: tuple[str, ...]
    estimated: Float[np.ndarray, " measured"]
    exact: Float[np.ndarray, " measured"]
    stderr: Float[np.ndarray, " measured"]
    weakest: float

    def said_of(self, circuit: Mask) -> Verification:
        """The same measurements, of another circuit, chosen from what was measured."""
        return replace(self, circuit=circuit, weakest=_weakest(self.scores, circuit))

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
        weakest, tally = self.weakest, self._tally
        below = tally.estimates <= weakest
        outside = tally.sampled & below & ~self.circuit
        top = int(np.where(outside, tally.effects, -1).argmax()) if outside.any() else None
        found = 0.0 if top is None else float(self.scores.values.flat[top])
        stronger, at_most = tally.at_most(below, weakest)
        _, larger_at_most = tally.at_most(below, abs(found))
        return Missed(
            population=int((tally.unknown & below).sum()),
            sampled=int(outside.sum()),
            taken=int((tally.sampled & below & self.circuit).sum()),
            weakest=weakest,
            stronger=stronger,
            at_most=at_most,
            edge=None if top is None else _name(self.scores, top),
            largest=found,
            larger_at_most=larger_at_most,
        )

    @property
    def _tally(self) -> _Tally:
        """The same as masks and arrays over all edges."""
        wiring = self.scores.wiring
        measured = np.zeros(wiring.shape, dtype=bool)
        places = [wiring.index(*parse_edge(edge)) for edge in self.edges]
        measured[tuple(np.array(places).reshape(-1, 2).T)] = True
        estimates, sampled = np.abs(self.scores.values), np.zeros_like(measured)
        estimates[measured] = np.abs(self.estimated)
        sampled[measured] = np.isin(self.strata, (RANDOM, ALL))
        sampled &= self.drawable
        effects = np.where(measured, np.abs(self.scores.values), 0)
        unknown = wiring.legal & ~self.circuit & (sampled | ~measured)
        masks = self.circuit, self.drawable, measured, sampled, unknown
        return _Tally(*masks, estimates, effects)

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


@dataclass(frozen=True)
class _Tally:
    """Over all edges: which are in the circuit, could be drawn, were measured and were drawn, and
    of which outside of the circuit nothing but the sample says anything, those sampled included;
    the magnitudes of the estimates, and of the effects where they were measured."""

    circuit: Mask
    drawable: Mask
    measured: Mask
    sampled: Mask
    unknown: Mask
    estimates: Float[np.ndarray, "writers readers"]
    effects: Float[np.ndarray, "writers readers"]

    def at_most(self, below: Mask, threshold: float) -> tuple[int, int]:
        """Of the unknown edges below: how many of those sampled have an effect above the threshold,
        and how many of all may have one.

        The sample is one of all edges that could be drawn, whatever became of them; those that are
        above the threshold and known to be are taken off the bound.
        """
        drawable, above = self.drawable & below, self.measured & (self.effects > threshold)
        sampled = self.sampled & below
        bound = at_most(int(drawable.sum()), int(sampled.sum()), int((sampled & above).sum()))
        hidden = int((drawable & ~self.circuit & ~self.measured).sum())
        hidden = min(hidden, max(0, bound - int((drawable & above).sum())))
        never = self.unknown & below & ~self.drawable
        stronger = int((sampled & above & ~self.circuit).sum())
        return stronger, stronger + hidden + int(never.sum())


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
    |score|, a quarter those nearest in the ranking to the circuit's cut, the rest is drawn evenly
    from the others outside of the circuit; where n reaches the number of edges, all are measured.
    ``direction`` and ``resume`` are those of ``patch_edges``.

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
    keep = choose(model, scores, *inputs[1:], rule=rule).mask if circuit is None else circuit
    keep = as_mask(keep, scores.wiring)
    if not keep.any():
        raise ScoresError("the circuit has no edges, so nothing is kept; give scores.mask(n)")
    work = _Measuring(scores, inputs, direction, rule, seed, resume)
    work.begin(keep, n)
    return replace(work.said_of(keep), weakest=_weakest(scores, keep))


def settle(
    inputs: Inputs,
    scores: Scores,
    chosen: Callable[[Scores, Sequence[tuple[Mask, float]]], Chosen],
    *,
    n: int,
    rule: str = "abs",
    seed: int = 0,
    resume: str | os.PathLike[str] | None = None,
) -> tuple[Chosen, Verification]:
    """The circuit that is chosen when n edges have been measured, and what they say of it.

    ``chosen`` chooses a circuit from scores, with the circuits that are known already (``known`` of
    ``choose``). The first half of the edges are those that ``verify`` takes. Then the circuit is
    chosen again and again from what was measured: as long as one of the edges around its cut (a
    quarter of n) has not been measured, these are, an eighth of n at a time; when they all have
    been, the rest enlarges the random sample.
    """
    work = _Measuring(scores, inputs, "noise", rule, seed, resume)
    total = scores.wiring.n_edges
    now = chosen(scores, ())
    known = [*now.known]
    work.begin(now.mask, n if n >= total else n // 2)
    while True:
        now = chosen(work.merged, known)
        known.extend(now.known)
        left = min(n, total) - len(work.effects)
        if left <= 0:
            return now, work.said_of(now.mask)
        step = min(left, max(1, n // STEPS))
        near = work.around(now.mask, n // 4)[:step]
        parts = [(CUT, near)] if len(near) else work.drawn(left - step or left)
        work.measure(*parts)


class _Measuring:
    """The edges that have been measured so far, each once, with why, and the random sample."""

    def __init__(
        self,
        scores: Scores,
        inputs: Inputs,
        direction: str,
        rule: str,
        seed: int,
        resume: str | os.PathLike[str] | None,
    ) -> None:
        self.scores, self.inputs, self.rule, self.seed = scores, inputs, rule, seed
        self.direction, self.resume = direction, resume
        self.effects: dict[int, Float[np.ndarray, " examples"]] = {}
        self.why: dict[int, str] = {}
        self.drawable = scores.wiring.legal
        self.waiting: Int[np.ndarray, " edges"] = np.empty(0, dtype=int)  # in the order of drawing

    def measure(self, *parts: tuple[str, Iterable[int]]) -> None:
        """Measure edges (flat indices, with why), but for those that have been."""
        why = {int(edge): name for name, flat in parts for edge in flat}
        new = sorted(why.keys() - self.effects.keys())
        self.why.update(why)
        if not new:
            return
        wanted = np.zeros(self.scores.wiring.shape, dtype=bool)
        wanted.flat[new] = True
        found = patch_edges(self.inputs.model, wanted, *self.inputs[1:], direction=self.direction,
                            resume=self.resume)  # fmt: skip
        self.effects.update(zip(new, found.values.astype(np.float64), strict=True))

    def begin(self, keep: Mask, n: int) -> None:
        """The strongest edges, those around the cut, and the first of the random sample, which is
        one of all other edges outside of the circuit; or all edges."""
        legal = self.scores.wiring.legal
        self.drawable = legal & ~keep
        if n >= self.scores.wiring.n_edges:
            self.measure((ALL, np.flatnonzero(legal)))
            return
        strongest = self.scores.ranking()[: n // 2]
        near = self.around(keep, n // 4, strongest)
        sure = [*strongest, *near]
        self.drawable.flat[sure] = False
        rng = np.random.default_rng(self.seed)
        self.waiting = rng.permutation(np.flatnonzero(self.drawable))
        self.measure((STRONGEST, strongest), (CUT, near), *self.drawn(n - len(sure), sure))

    def drawn(self, n: int, beside: Sequence[int] = ()) -> list[tuple[str, Iterable[int]]]:
        """So many edges more of the random sample, and where there are not as many, others. One
        that was measured before its turn is part of the sample then, at no cost."""
        known = {*self.effects, *map(int, beside)}
        new = ~np.isin(self.waiting, [*known])
        end = int(np.searchsorted(new.cumsum(), n)) + 1 if n else 0
        drawn, self.waiting = self.waiting[:end], self.waiting[end:]
        rest = np.setdiff1d(np.flatnonzero(self.scores.wiring.legal), [*known, *drawn])
        return [(CUT, rest[: n - int(new[:end].sum())]), (RANDOM, drawn)]

    def around(self, keep: Mask, n: int, beside: Iterable[int] = ()) -> Int[np.ndarray, " edges"]:
        """Of the n edges nearest to the cut, those beside left aside, the ones that have not been
        measured; in the ranking as it is now, and the circuit's own below the cut first."""
        merged = self.merged
        ranking = merged.ranking(self.rule)
        ranking = ranking[np.isin(ranking, self.scores.ranking(self.rule))]
        own, place = keep.flat[ranking], np.arange(len(ranking))
        cut = _cut(merged, keep, ranking)
        distance = np.where(own & (place >= cut), 0, np.abs(place + 0.5 - cut))
        nearest = ranking[np.argsort(distance, kind="stable")]
        near = nearest[~np.isin(nearest, [*beside])][:n]
        found: np.ndarray = near[~np.isin(near, [*self.effects])]
        return found

    @property
    def merged(self) -> Scores:
        """The effects where they were measured, the estimates elsewhere."""
        scores, flat = self.scores, [*self.effects]
        if not flat:
            return scores
        values, exact = scores.values.copy(), np.zeros(scores.wiring.shape, dtype=bool)
        values.flat[flat] = [effects.mean() for effects in self.effects.values()]
        exact.flat[flat] = True
        about = {key: value for key, value in scores.about.items() if key != "chosen"}
        verified = {"edges": len(flat), "direction": self.direction, "seed": self.seed}
        exact = exact if scores.exact is None else exact | scores.exact
        return Scores(scores.wiring, values, {**about, "verified": verified}, exact)

    def of_examples(self) -> Float[np.ndarray, "examples edges"] | None:
        """The same of each example, where the estimates have theirs."""
        groups, flat = self.scores.groups, sorted(self.effects)
        effects = np.stack([self.effects[edge] for edge in flat])
        if groups is None or len(groups) != effects.shape[1]:
            return groups
        columns = np.searchsorted(np.flatnonzero(self.scores.wiring.legal), flat)
        return replaced(groups, columns, effects)

    def said_of(self, keep: Mask) -> Verification:
        """What all measured edges say of a circuit."""
        flat = sorted(self.effects)
        effects = np.stack([self.effects[edge] for edge in flat])
        merged = replace(self.merged, groups=self.of_examples())
        return Verification(
            scores=merged,
            circuit=keep,
            drawable=self.drawable,
            edges=tuple(_name(self.scores, edge) for edge in flat),
            strata=tuple(self.why[edge] for edge in flat),
            estimated=self.scores.values.flat[flat].astype(np.float64),
            exact=effects.mean(1),
            stderr=standard_error(effects),
            weakest=_weakest(merged, keep),
        )


def _weakest(scores: Scores, circuit: Mask) -> float:
    """The smallest |score| in a circuit."""
    return float(np.abs(scores.values[circuit]).min())


def _cut(scores: Scores, keep: Mask, ranking: Int[np.ndarray, " edges"]) -> int:
    """The place in the ranking after the circuit's last edge, those left aside that were filled in
    (``Scores.top``) or kept from an earlier ranking, which may lie far beyond it."""
    head = scores.wiring.best(ranking, int(keep.sum())) & keep
    own = head if head.any() else keep
    return 1 + int(max(np.flatnonzero(own.flat[ranking]), default=-1))


def _name(scores: Scores, edge: int) -> str:
    """The name of the edge with this flat index."""
    row, column = divmod(edge, scores.wiring.shape[1])
    return edge_name(scores.wiring.writers[row], scores.wiring.readers[column])
