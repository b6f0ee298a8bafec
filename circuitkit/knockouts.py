"""What the edges of a circuit do inside it: what is lost when one, two or many of them are cut.

m is the metric, F its mean over the examples, C the circuit, M the whole model, and K a set of the
circuit's edges. A cut edge carries the corruption, as every edge outside of C does. Completeness
and minimality are those of Wang et al. 2023 (§4.1 and §4.2), with edges in place of their heads at
positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations
from typing import Any, TypeAlias

import networkx as nx
import numpy as np
from jaxtyping import Bool, Float

from circuitkit import circuit as circuits
from circuitkit.data import Dataset
from circuitkit.errors import CircuitError
from circuitkit.faithfulness import Evaluation, as_mask, measure
from circuitkit.judge import Corruption, Metric
from circuitkit.model import Model
from circuitkit.naming import describe
from circuitkit.nodes import edge_name

__all__ = [
    "Incompleteness",
    "Interactions",
    "Knockout",
    "MarginalEffects",
    "Minimality",
    "Pair",
    "incompleteness",
    "interactions",
    "marginal_effects",
    "minimality",
]

Mask: TypeAlias = Bool[np.ndarray, "writers readers"]
Edge: TypeAlias = tuple[int, int]
SHOWN = 8  # rows of a printed table
ERRORS = 2  # standard errors beyond which an interaction is taken for one
PART = 0.1  # of the pair's effect that an interaction must be
ROUNDING = 1e-3  # of the gap: what is smaller may be rounding


# -- one edge --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class MarginalEffects:
    """m(C) − m(C∖e) of each edge e on every example, in metric units; positive where it helps."""

    evaluation: Evaluation
    edges: tuple[str, ...]
    effects: Float[np.ndarray, "edges examples"]

    @property
    def means(self) -> Float[np.ndarray, " edges"]:
        """The mean effect of each edge over the examples."""
        return np.asarray(self.effects.mean(1))

    @property
    def errors(self) -> Float[np.ndarray, " edges"]:
        """The standard error of each mean; nan for a single example."""
        return _errors(self.effects)

    def to_dict(self) -> dict[str, Any]:
        """All numbers but the examples' own, for machines; the strongest edge first."""
        return {**_about(self.evaluation), "edges": [
            {"edge": self.edges[i], "effect": float(self.means[i]),
             "error": _or_none(self.errors[i])}
            for i in self._order()
        ]}  # fmt: skip

    def _order(self) -> list[int]:
        return [int(i) for i in np.argsort(-np.abs(self.means), kind="stable")]

    def __repr__(self) -> str:
        metric = self.evaluation.metric
        lines = [f"{self.evaluation}", f"what it loses without one of its edges ({metric}):"]
        for i in self._order()[:SHOWN]:
            lines.append(f"  {self.means[i]:+8.3f} ± {self.errors[i]:.3f}  {self.edges[i]}")
        return "\n".join([*lines, *_more(len(self.edges) - SHOWN, "edges do less")])


def marginal_effects(
    model: Model, circuit: nx.DiGraph | Mask, data: Dataset, metric: Metric, corruption: Corruption
) -> MarginalEffects:
    """What each edge of a circuit does inside it: one masked run per edge.

    An edge whose work another one does as well has the effect 0 (see ``interactions``). Raises
    CircuitError where the circuit has no edge, or does not fit the model.
    """
    bench = _bench(model, circuit, data, metric, corruption)
    evaluation, values = bench.measure(_without(bench.keep, [e]) for e in bench.edges)
    return MarginalEffects(evaluation, bench.names(bench.edges), evaluation.circuit - values)


# -- two edges -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Pair:
    """What is lost without one edge, without the other, and without both, in metric units.

    ``interaction`` is ``joint`` less the two single effects, and ``error`` its standard error.
    ``label`` is OR where the pair matters more than the sum of the two (each backs the other up),
    AND where it matters less (either alone breaks what needs both), else empty. ``series``: both
    lie on one path of the circuit, so that an AND says no more than that.
    """

    one: str
    two: str
    singles: tuple[float, float]
    joint: float
    interaction: float
    error: float
    label: str
    series: bool

    def __repr__(self) -> str:
        name = f"{self.one} and {self.two}{' (in series)' if self.series else ''}"
        return (
            f"{self.label:4s}{self.singles[0]:+8.3f} {self.singles[1]:+8.3f} {self.joint:+8.3f} "
            f"{self.interaction:+8.3f} ± {self.error:.3f}  {name}"
        )


@dataclass(frozen=True)
class Interactions:
    """The pairs among some edges of a circuit, the largest interaction first; ``within`` says what
    they were cut in."""

    evaluation: Evaluation
    within: str
    pairs: tuple[Pair, ...]

    def labelled(self, label: str) -> tuple[Pair, ...]:
        """The pairs of that label (OR, AND), the clearest first; those of one path at the end."""
        found = (pair for pair in self.pairs if pair.label == label)
        return tuple(sorted(found, key=lambda pair: pair.series))

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for machines; what is undefined is None."""
        pairs = [{**vars(p), "singles": list(p.singles), "error": _or_none(p.error)}
                 for p in self.pairs]  # fmt: skip
        return {**_about(self.evaluation), "within": self.within, "pairs": pairs}

    def __repr__(self) -> str:
        lines = [
            f"{self.evaluation}",
            f"what the {self.within} loses without one edge, the other, and both "
            f"({self.evaluation.metric}; interaction = both − one − other):",
            "           one    other     both  interaction",
        ]
        for label in ("OR", "AND"):
            found = self.labelled(label)
            lines += [f"  {pair}" for pair in found[:SHOWN]]
            lines += _more(len(found) - SHOWN, f"more {label}")
        plain = len(self.labelled(""))
        return "\n".join([*lines, f"  {plain} of {len(self.pairs)} pairs show no interaction"])


def interactions(
    model: Model,
    circuit: nx.DiGraph | Mask,
    data: Dataset,
    metric: Metric,
    corruption: Corruption,
    *,
    edges: int = 12,
    within: str = "model",
) -> Interactions:
    """What the strongest edges of a circuit do for each other: each pair is cut alone and together.

    Strongest by |weight|, or by marginal effect where a mask is given. ``within="model"`` cuts them
    in the whole model, where backups outside of the circuit answer; ``"circuit"`` in the circuit.
    A pair is labelled OR or AND where its interaction exceeds two standard errors over the
    examples, a tenth of what the pair does (the larger of the joint effect and of the sum of the
    single ones), and a thousandth of m(everything) − m(nothing); of one example, nothing is
    labelled. Noising finds every edge of an AND and none of an OR (Heimersheim & Nanda 2024);
    cutting pairs finds both. Costs n(n+1)/2 masked runs. Raises CircuitError for fewer than two
    edges, and for another ``within``.
    """
    if within not in ("model", "circuit"):
        raise CircuitError(f"within={within!r} is not known; choose from model, circuit")
    bench = _bench(model, circuit, data, metric, corruption)
    chosen = bench.edges
    if edges < len(chosen):
        strength = np.abs(_strength(bench, circuit))
        chosen = [chosen[i] for i in np.argsort(-strength, kind="stable")[: max(edges, 0)]]
    if len(chosen) < 2:
        raise CircuitError(
            f"{len(chosen)} of {len(bench.edges)} edges make no pair; ask for at least 2, in a "
            "circuit of as many"
        )
    base = model.wiring.legal if within == "model" else bench.keep
    pairs = list(combinations(range(len(chosen)), 2))
    cuts = [[], *([edge] for edge in chosen), *([chosen[i], chosen[j]] for i, j in pairs)]
    evaluation, values = bench.measure(_without(base, cut) for cut in cuts)
    effects = values[0] - values[1:]
    made = [
        _pair(bench, (chosen[i], chosen[j]), effects[[i, j]], joint, evaluation)
        for (i, j), joint in zip(pairs, effects[len(chosen) :], strict=True)
    ]
    made.sort(key=lambda pair: -abs(pair.interaction))
    return Interactions(evaluation, within, tuple(made))


def _strength(bench: _Bench, circuit: nx.DiGraph | Mask) -> Float[np.ndarray, " edges"]:
    """By what edges are chosen: their weights, or else their marginal effects."""
    if isinstance(circuit, np.ndarray):
        effects = marginal_effects(
            bench.model, bench.keep, bench.data, bench.metric, bench.corruption
        )
        return effects.means
    return np.asarray(circuits.weight_matrix(circuit)[bench.keep])


def _pair(
    bench: _Bench,
    edges: tuple[Edge, Edge],
    singles: Float[np.ndarray, "2 examples"],
    joint: Float[np.ndarray, " examples"],
    evaluation: Evaluation,
) -> Pair:
    interaction = joint - singles.sum(0)
    error = float(_errors(interaction[None])[0])
    mean, both, apart = (float(x.mean()) for x in (interaction, joint, singles.sum(0)))
    effect = both if abs(both) >= abs(apart) else apart
    floor = max(ERRORS * error, PART * abs(effect), ROUNDING * _gap(evaluation))
    label = ("OR" if mean * effect > 0 else "AND") if abs(mean) > floor else ""
    one, two = bench.names(edges)
    alone = float(singles[0].mean()), float(singles[1].mean())
    return Pair(one, two, alone, both, mean, error, label, _in_series(bench, *edges))


def _in_series(bench: _Bench, one: Edge, two: Edge) -> bool:
    """Whether both edges lie on one path of the circuit."""
    return two in bench.through(one)


# -- many edges: is the circuit complete? ----------------------------------------------------------
@dataclass(frozen=True)
class Knockout:
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


@dataclass(frozen=True)
class Incompleteness:
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
        return score / _gap(self.evaluation)

    def _of(self, found: str) -> list[Knockout]:
        return [knockout for knockout in self.knockouts if knockout.found == found]

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for machines; what is undefined is None."""
        rows = [{**vars(k), "edges": list(k.edges), "score": k.score} for k in self.knockouts]
        return {
            **_about(self.evaluation),
            "worst": self.worst.score, "worst_share": self.share(self.worst.score),
            "mean": _or_none(self.mean), "mean_share": _or_none(self.share(self.mean)),
            "knockouts": rows,
        }  # fmt: skip

    def __repr__(self) -> str:
        lines = [
            f"{self.evaluation}",
            f"without the same edges K, circuit and model differ ({self.evaluation.metric}):",
            "     |C∖K − M∖K|    share     C∖K      M∖K",
        ]
        for found, what in (("nothing", "K is empty"), ("everything", "K is the circuit"),
                            ("random", "the worst of {n} random sets"),
                            ("greedy", "the worst of {n} greedy steps")):  # fmt: skip
            if own := self._of(found):
                lines.append(self._line(max(own, key=lambda k: k.score), what.format(n=len(own))))
        edges = self.worst.edges
        lines.append(f"  the random sets' mean is {self.mean:.3f} ({self.share(self.mean):.1%})")
        lines += ["  the worst K:"] if edges else []
        lines += [f"    {edge}" for edge in edges[:SHOWN]]
        return "\n".join([*lines, *_more(len(edges) - SHOWN, "edges")])

    def _line(self, k: Knockout, what: str) -> str:
        left = f"{k.circuit:+8.3f} {k.model:+8.3f}"
        return f"  {k.score:14.3f} {self.share(k.score):8.1%} {left}  {what}"


def incompleteness(
    model: Model,
    circuit: nx.DiGraph | Mask,
    data: Dataset,
    metric: Metric,
    corruption: Corruption,
    *,
    sets: int = 20,
    sizes: Sequence[int] | None = None,
    rounds: int = 5,
    candidates: int = 10,
    seed: int = 0,
) -> Incompleteness:
    """How far F(C∖K) is from F(M∖K), for random and for greedily chosen K (Wang et al. 2023, §4.1).

    Random sets take their size from ``sizes`` (by default evenly from 1 to the whole circuit). The
    greedy search begins with nothing; each round adds to K the one of ``candidates`` random edges
    that leaves the largest score, and every round counts, as in the paper. F(C) = F(M) with a large
    score says that the model has other edges for the same work (backups). Both find lower bounds.
    Costs 2 · (sets + rounds · candidates) masked runs. Raises EvaluationError where everything and
    nothing give the same, and CircuitError where a size exceeds the circuit.
    """
    bench = _bench(model, circuit, data, metric, corruption)
    rng = np.random.default_rng(seed)
    own = bench.edges
    drawn = _draw(own, sets, sizes, rng)
    kinds = ["nothing", "everything", *["random"] * len(drawn)]
    evaluation, knockouts = _knock_out(bench, [[], own, *drawn], kinds)
    _require_gap(evaluation)
    knockouts += _greedy(bench, rounds, candidates, rng)
    return Incompleteness(evaluation, tuple(knockouts))


def _draw(
    edges: Sequence[Edge], n: int, sizes: Sequence[int] | None, rng: np.random.Generator
) -> list[list[Edge]]:
    """n random sets of edges."""
    sizes = sizes or range(1, len(edges) + 1)
    if wrong := [size for size in sizes if not 0 < size <= len(edges)]:
        raise CircuitError(
            f"no set of {wrong[0]} edges can be cut in a circuit of {len(edges)}; "
            f"give sizes from 1 to {len(edges)}"
        )
    drawn = [rng.permutation(len(edges))[: rng.choice(sizes)] for _ in range(n)]
    return [[edges[i] for i in sorted(chosen)] for chosen in drawn]


def _knock_out(
    bench: _Bench, sets: Sequence[Sequence[Edge]], kinds: Sequence[str]
) -> tuple[Evaluation, list[Knockout]]:
    """What is left without each of these sets."""
    bases = bench.keep, bench.model.wiring.legal
    evaluation, values = bench.measure(_without(base, cut) for base in bases for cut in sets)
    inside, whole = values.mean(1).reshape(2, len(sets)).tolist()
    rows = zip(map(bench.names, sets), inside, whole, kinds, strict=True)
    return evaluation, [Knockout(*row) for row in rows]


def _greedy(
    bench: _Bench, rounds: int, candidates: int, rng: np.random.Generator
) -> Iterator[Knockout]:
    """The best set of each round. K grows even where that lowers the score, for the next edge may
    raise it above all that was."""
    cut: list[Edge] = []
    for _ in range(min(rounds, len(bench.edges))):
        rest = [edge for edge in bench.edges if edge not in cut]
        tried = [[*cut, rest[i]] for i in rng.permutation(len(rest))[: max(1, candidates)]]
        found = _knock_out(bench, tried, ["greedy"] * len(tried))[1]
        best = max(range(len(found)), key=lambda i: found[i].score)
        cut = tried[best]
        yield found[best]


# -- many edges: is the circuit minimal? -----------------------------------------------------------
@dataclass(frozen=True)
class Minimality:
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
        return self.largest / _gap(self.evaluation)

    @property
    def redundant(self) -> tuple[str, ...]:
        """The edges that make no difference above the threshold, whatever else was cut. Each alone:
        without all of them at once the circuit may be another."""
        pairs = zip(self.edges, self.shares, strict=True)
        return tuple(edge for edge, share in pairs if share <= self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for machines."""
        rows = zip(self.edges, self.largest, self.shares, self.found, strict=True)
        return {
            **_about(self.evaluation),
            "threshold": self.threshold,
            "redundant": list(self.redundant),
            "edges": [
                {"edge": edge, "largest": float(value), "share": float(share), "found": found}
                for edge, value, share, found in rows
            ],
        }

    def __repr__(self) -> str:
        lines = [
            f"{self.evaluation}",
            f"{len(self.redundant)} of {len(self.edges)} edges are redundant: no difference above "
            f"{self.threshold:.1%} of the gap, whatever else is cut; the least needed:",
        ]
        for i in np.argsort(self.largest, kind="stable")[:SHOWN]:
            lines.append(
                f"  {self.largest[i]:8.3f} {self.shares[i]:8.1%}  {self.edges[i]:24s} "
                f"({self.found[i]})"
            )
        return "\n".join([*lines, *_more(len(self.edges) - SHOWN, "edges do more")])


def minimality(
    model: Model,
    circuit: nx.DiGraph | Mask,
    data: Dataset,
    metric: Metric,
    corruption: Corruption,
    *,
    sets: int = 5,
    threshold: float = 0.01,
    seed: int = 0,
) -> Minimality:
    """Whether each edge of a circuit is needed for something (Wang et al. 2023, §4.2).

    The sets K that are tried for an edge: none; the other edges into its reader; all edges that lie
    on no path through it; and ``sets`` random ones. Wang et al. choose K for each node by what they
    know of its role; they, too, ask for 1 % (of F(M), where we take the gap). Costs about sets + 4
    masked runs per edge. Raises EvaluationError where everything and nothing give the same.
    """
    bench = _bench(model, circuit, data, metric, corruption)
    drawn = _draw(bench.edges, sets, None, np.random.default_rng(seed))
    trials = [(v, found, cut) for v in bench.edges for found, cut in _contexts(bench, v, drawn)]
    cuts = [[e for e in cut if e != v] for v, _, cut in trials]
    cuts += [[*cut, v] for v, _, cut in trials]
    evaluation, values = bench.measure(_without(bench.keep, cut) for cut in cuts)
    _require_gap(evaluation)
    means = values.mean(1).reshape(2, len(bench.edges), -1)
    differences = np.abs(means[0] - means[1])
    best = differences.argmax(1)
    kinds = [found for _, found, _ in trials[: differences.shape[1]]]
    found = tuple(kinds[i] for i in best)
    names = bench.names(bench.edges)
    return Minimality(evaluation, names, differences.max(1), found, threshold)


def _contexts(
    bench: _Bench, edge: Edge, drawn: Sequence[Sequence[Edge]]
) -> Iterator[tuple[str, Sequence[Edge]]]:
    """What is cut beside an edge, each with its name."""
    yield "nothing else cut", []
    yield "its reader's other edges cut", [e for e in bench.edges if e[1] == edge[1] and e != edge]
    through = bench.through(edge)
    yield "all beside its paths cut", [e for e in bench.edges if e not in through]
    for cut in drawn:
        yield "a random set cut", cut


# -- the runs --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Bench:
    """A circuit with all that a run of it needs."""

    model: Model
    keep: Mask
    data: Dataset
    metric: Metric
    corruption: Corruption

    @cached_property
    def edges(self) -> list[Edge]:
        """Row and column of every edge of the circuit."""
        return [(int(row), int(column)) for row, column in np.argwhere(self.keep)]

    @cached_property
    def graph(self) -> nx.DiGraph:
        """The circuit as a graph."""
        return circuits.build(self.model.wiring, {self.ends(edge): 0.0 for edge in self.edges})

    def through(self, edge: Edge) -> set[Edge]:
        """The circuit's edges that lie on a path through this one."""
        writer, reader = self.ends(edge)
        before = {writer} | nx.ancestors(self.graph, writer)
        after = {reader} | nx.descendants(self.graph, reader)
        ends = ((other, *self.ends(other)) for other in self.edges)
        return {e for e, source, target in ends if e == edge or target in before or source in after}

    def ends(self, edge: Edge) -> tuple[str, str]:
        """Writer and reader."""
        return self.model.wiring.writers[edge[0]], self.model.wiring.readers[edge[1]]

    def names(self, edges: Iterable[Edge]) -> tuple[str, ...]:
        """The edges as they are written."""
        return tuple(edge_name(*self.ends(edge)) for edge in edges)

    def measure(
        self, masks: Iterable[Mask]
    ) -> tuple[Evaluation, Float[np.ndarray, "masks examples"]]:
        """The circuit's own evaluation, and the metric under each mask; masks that differ in dead
        ends alone are run once."""
        keys, unique = [], {}
        for mask in chain([self.keep], masks):
            alive = self.model.wiring.alive(mask)
            keys.append(np.packbits(alive).tobytes())
            unique[keys[-1]] = alive
        values = measure(self.model, list(unique.values()), self.data, self.metric, self.corruption)
        place = {key: 2 + i for i, key in enumerate(unique)}
        everything, nothing, own, *rest = values[[0, 1, *(place[key] for key in keys)]]
        names = describe(self.metric), describe(self.corruption)
        evaluation = Evaluation(everything, nothing, own, *names, edges=len(self.edges))
        return evaluation, np.stack(rest) if rest else np.empty((0, len(own)))


def _bench(
    model: Model, circuit: nx.DiGraph | Mask, data: Dataset, metric: Metric, corruption: Corruption
) -> _Bench:
    """Raises CircuitError where the circuit has no edge, or is not of this model."""
    keep = as_mask(circuit, model.wiring) & model.wiring.legal
    if not keep.any():
        raise CircuitError("the circuit has no edges, so there are none to cut; give at least one")
    return _Bench(model, keep, data, metric, corruption)


def _without(mask: Mask, edges: Iterable[Edge]) -> Mask:
    """The mask with these edges cut."""
    cut = mask.copy()
    for edge in edges:
        cut[edge] = False
    return cut


# -- numbers ---------------------------------------------------------------------------------------
def _errors(values: Float[np.ndarray, "rows examples"]) -> Float[np.ndarray, " rows"]:
    """The standard error of each row's mean; nan for a single example."""
    n = values.shape[1]
    if n < 2:
        return np.full(len(values), np.nan)
    return np.asarray(values.std(1, ddof=1) / np.sqrt(n))


def _gap(evaluation: Evaluation) -> float:
    return abs(float(evaluation.everything.mean() - evaluation.nothing.mean()))


def _require_gap(evaluation: Evaluation) -> None:
    """Raise EvaluationError where the gap is zero, as the faithfulness itself does."""
    _ = evaluation.faithfulness


def _about(evaluation: Evaluation) -> dict[str, Any]:
    """What a result is of, for machines."""
    means = {name: float(getattr(evaluation, name).mean())
             for name in ("everything", "nothing", "circuit")}  # fmt: skip
    return {
        "metric": evaluation.metric,
        "corruption": evaluation.corruption,
        "examples": len(evaluation.circuit),
        "circuit_edges": evaluation.edges,
        **means,
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _more(n: int, what: str) -> list[str]:
    """The last line of a table that is cut short."""
    return [f"  ... and {n} {what}"] if n > 0 else []
