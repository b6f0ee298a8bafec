"""How much circuits have in common, beside what chance would give."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from math import isnan, nan
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from circuitkit.errors import CircuitError
from circuitkit.graph import circuit as circuits
from circuitkit.graph.by_place import expected_places, held_places, roles_at
from circuitkit.graph.chance import Chance, chance, chance_between
from circuitkit.graph.digests import WeightsWarning
from circuitkit.graph.nodes import Node
from circuitkit.graph.places import PlacedMask, Places
from circuitkit.graph.published import CircuitLike, opened
from circuitkit.graph.types import Graph
from circuitkit.graph.wiring import Wiring
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.statistics import expected_overlap, interval_text, spearman
from circuitkit.util.tables import as_html, as_text, to_frame

if TYPE_CHECKING:
    import pandas

__all__ = [
    "Agreement",
    "Comparison",
    "Overlap",
    "PlacedComparison",
    "agreement",
    "compare",
]


_Edges: TypeAlias = tuple[Int[np.ndarray, " edges"], Float[np.ndarray, " edges"]]

_MOST = 20  # pairs that are printed
_ONE_SIZE = 0.1  # the share by which circuits of one size may differ in it
_COLUMNS = ("left", "right", "both", "universe", "jaccard", "expected_jaccard", "precision",
            "recall")  # fmt: skip


@dataclass(frozen=True)
class Overlap:
    """Two sets within a universe: the size of each, of what they share, and of the universe."""

    left: int
    right: int
    both: int
    universe: int

    @property
    def jaccard(self) -> float:
        """Shared of united; 1 for equal sets, and for two empty ones."""
        union = self.left + self.right - self.both
        return self.both / union if union else 1.0

    @property
    def precision(self) -> float:
        """The share of the left set that the right one holds."""
        return self.both / self.left if self.left else nan

    @property
    def recall(self) -> float:
        """The share of the right set that the left one holds."""
        return self.both / self.right if self.right else nan

    @property
    def expected(self) -> float:
        """The number that random sets of these sizes share on average (hypergeometric mean)."""
        return expected_overlap(self.left, self.right, self.universe)

    @property
    def expected_jaccard(self) -> float:
        """The Jaccard index at that number."""
        union = self.left + self.right - self.expected
        return self.expected / union if union else 1.0

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        return {name: nan_to_none(getattr(self, name)) for name in _COLUMNS}

    def to_frame(self) -> pandas.DataFrame:
        """One row: ``left``, ``right``, ``both``, ``universe`` (counts), ``jaccard``,
        ``expected_jaccard`` (by chance), ``precision``, ``recall`` (shares)."""
        return to_frame([self.to_dict()])

    def __str__(self) -> str:
        return (
            f"{self.both:,} shared of {self.left:,} and {self.right:,}, Jaccard "
            f"{self.jaccard:.3f} (by chance {self.expected_jaccard:.3f})"
        )

    def _repr_html_(self) -> str:
        return as_html(self.to_frame())


@dataclass(frozen=True)
class Comparison:
    """The overlap of two circuits' components and edges, and how the shared edges' weights agree.

    ``nodes`` is the overlap of heads and MLPs, ``edges`` that of edges. ``roles`` says of each role
    of the right circuit how many of its components the left one holds, and how many there are.
    ``weighted`` is Σ min(|a|, |b|) / Σ max(|a|, |b|) over all edges, each circuit's weights scaled
    to sum to one; ``spearman`` the rank correlation of the signed weights of the shared edges (nan
    for fewer than three); ``flipped`` how many of them differ in sign. Where one of the two says
    that it is ``unweighted``, there is nothing to agree: the first two are nan, ``flipped`` is 0.

    Where one of the circuits only lists its members, ``of_edges`` is None, ``edges`` is refused,
    and ``note`` says what is compared. ``floors`` is what each circuit says of the Jaccard index to
    expect of circuits of other samples of its prompts; nan where it does not.
    """

    nodes: Overlap
    of_edges: Overlap | None
    weighted: float
    spearman: float
    flipped: int
    roles: Mapping[str, tuple[int, int]]
    note: str = ""
    floors: tuple[float, float] = (nan, nan)

    @property
    def differ(self) -> bool | None:
        """Whether the circuits overlap less than circuits of other samples of the prompts do, by
        the smaller of the two that are to be expected; None, not known, where no circuit says what
        is, and for circuits whose sizes differ by more than a tenth."""
        known = [floor for floor in self.floors if not isnan(floor)]
        if not known or self.of_edges is None:
            return None
        low, high = sorted((self.of_edges.left, self.of_edges.right))
        return None if low < (1 - _ONE_SIZE) * high else self.of_edges.jaccard < min(known)

    @property
    def edges(self) -> Overlap:
        """The overlap of edges; raises CircuitError where only components are compared."""
        if self.of_edges is None:
            raise CircuitError(f"no edges are compared: {self.note}; see .nodes and .roles")
        return self.of_edges

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        roles = {role: {"held": held, "of": of} for role, (held, of) in self.roles.items()}
        floors = dict(zip(("left", "right"), nan_to_none(list(self.floors)), strict=True))
        if self.of_edges is None:
            return {"nodes": self.nodes.to_dict(), "roles": roles, "note": self.note}
        return {
            "nodes": self.nodes.to_dict(), "edges": self.of_edges.to_dict(),
            "weighted": nan_to_none(self.weighted), "spearman": nan_to_none(self.spearman),
            "flipped": None if isnan(self.weighted) else self.flipped, "roles": roles,
            "floors": floors, "differ": self.differ,
        }  # fmt: skip

    def to_frame(self) -> pandas.DataFrame:
        """A row for nodes and one for edges: ``what``, then the columns of ``Overlap.to_frame``."""
        found = {"nodes": self.nodes, "edges": self.of_edges}
        return to_frame([{"what": k, **o.to_dict()} for k, o in found.items() if o is not None])

    def table(self) -> str:
        """A line for each role."""
        rows = [{"role": role, "held": f"{h} of {n}"} for role, (h, n) in self.roles.items()]
        return as_text(rows, header=False)

    def __str__(self) -> str:
        edges = "" if self.of_edges is None else f"edges: {self.of_edges}; "
        return f"{edges}nodes: {self.nodes}"

    def __repr__(self) -> str:
        of_edges = {} if self.of_edges is None else {"edges": self.of_edges}
        lines = [_as_text(nodes=self.nodes, **of_edges)]
        if not isnan(self.weighted):
            lines.append(
                f"weighted overlap {self.weighted:.3f}; rank correlation of the shared edges' "
                f"weights {self.spearman:.3f}; {self.flipped} of them differ in sign"
            )
        lines.append(self._beyond())
        lines += [f"only components are compared: {self.note}"] * bool(self.note)
        return "\n".join(filter(None, (*lines, self.table())))

    def _beyond(self) -> str:
        """What the circuits say of those of other samples, and whether the two differ by more."""
        sides = zip(("left", "right"), self.floors, strict=True)
        said = [f"{floor:.3f} ({side})" for side, floor in sides if not isnan(floor)]
        if not said or self.of_edges is None:
            return ""
        found = f"circuits of other samples overlap by about {' and '.join(said)}"
        if self.differ is None:
            return f"{found}, if they are of one size, which these are not"
        less = "these overlap by less" if self.differ else "not shown that these differ by more"
        return f"{found}: {less}"

    def _repr_html_(self) -> str:
        note = f"only components are compared: {self.note}" if self.note else ""
        return as_html(self.to_frame(), note)


def _as_text(**overlaps: Overlap) -> str:
    """A line for each overlap, by its name."""
    rows = [
        {
            "": name, "shared": o.both, "left": o.left, "right": o.right, "Jaccard": o.jaccard,
            "by chance": o.expected_jaccard, "precision": o.precision, "recall": o.recall,
        }
        for name, o in overlaps.items()
    ]  # fmt: skip
    counts = dict.fromkeys(("shared", "left", "right"), ",d")
    shares = dict.fromkeys(("Jaccard", "by chance", "precision", "recall"), ".3f")
    return as_text(rows, formats=counts | shares)


@dataclass(frozen=True)
class PlacedComparison(Comparison):
    """The overlap of two circuits of which one at least is between places in the prompt.

    ``places`` is the overlap of where components write (``a9.h9@end``), and ``random`` the mean
    Jaccard index of the places of random circuits that hang together, with as many edges of both
    kinds as the left circuit (or as the right one, if only that is between places). ``roles`` count
    places, by role and span. ``residual`` and ``attention`` are the overlaps of the two kinds of
    edge, and ``edges`` that of both; they are None where only one of the circuits has places.
    ``spans`` are the numbers of places of the left circuit, of the right one, and of both, by their
    span.
    """

    places: Overlap = Overlap(0, 0, 0, 0)
    residual: Overlap | None = None
    attention: Overlap | None = None
    random: float = nan
    spans: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    def _overlaps(self) -> dict[str, Overlap]:
        found = {"nodes": self.nodes, "places": self.places, "residual edges": self.residual,
                 "attention edges": self.attention}  # fmt: skip
        return {name: own for name, own in found.items() if own is not None}

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        kinds = {"residual": self.residual, "attention": self.attention}
        own: dict[str, Json] = {
            kind: overlap.to_dict() for kind, overlap in kinds.items() if overlap is not None
        }
        own |= {"places": self.places.to_dict(), "random_jaccard": nan_to_none(self.random)}
        own["spans"] = {
            span: dict(zip(("left", "right", "both"), counts, strict=True))
            for span, counts in self.spans.items()
        }
        return {**super().to_dict(), **own}

    def to_frame(self) -> pandas.DataFrame:
        """A row for nodes, one for places, and one for each kind of edge: ``what``, then the
        columns of ``Overlap.to_frame``."""
        rows = self._overlaps().items()
        return to_frame([{"what": name, **own.to_dict()} for name, own in rows])

    def __str__(self) -> str:
        kinds = [f"{name}: {own}" for name, own in self._overlaps().items() if "edges" in name]
        return "; ".join([*kinds, f"places: {self.places}", f"nodes: {self.nodes}"])

    def __repr__(self) -> str:
        lines = [
            _as_text(**self._overlaps()),
            f"places of random circuits of this size: Jaccard {self.random:.3f}",
            as_text(
                [
                    {"places at": span, "shared": both, "left": left, "right": right}
                    for span, (left, right, both) in self.spans.items()
                ]
            ),
        ]
        lines += [f"only places are compared: {self.note}"] * bool(self.note)
        return "\n".join(filter(None, (*lines, self.table())))


def compare(left: CircuitLike, right: CircuitLike) -> Comparison:
    """Compare two circuits of one model: which components and edges they share, beside chance.

    Each is a circuit, the name of a published one (``ioi:wang2022``) or a circuit's file; precision
    is of the left against the right, recall the reverse. Nodes are the components (heads and MLPs).
    Where one of the two only lists its components, edges are not compared; where no MLP is among
    those that it lists, it does not speak of MLPs, and heads alone are compared. Warns where both
    say with which weights they were found, and these are others. Where a circuit says how far those
    of other samples of its prompts overlap, the two are said to differ only if they overlap less.

    Of circuits between places in the prompt, also where components write is compared, and the two
    kinds of edge apart; beside a published circuit that says where its components write
    (``ioi:wang2022``) these places are, by role (``PlacedComparison``).

    Raises CircuitError where the wirings differ or a file is broken, UnknownNameError for a name
    that no circuit has.

    Example:
        >>> found = ck.compare("ioi:acdc", "ioi:wang2022")
        >>> found.nodes.both, found.nodes.right
        (26, 26)
        >>> found.roles["name mover"]
        (3, 3)
    """
    one, other = opened(left), opened(right)
    if circuits.is_placed(one) or circuits.is_placed(other):
        return _compare_placed(one, other)
    wiring = circuits.shared_wiring([one, other], "compare")
    _notice_weights(one, other)
    nodes, roles, note = _members(wiring, one, other)
    if note:
        return Comparison(nodes, None, nan, nan, 0, roles, note)
    left_edges, right_edges = _placed(one, wiring), _placed(other, wiring)
    return Comparison(
        nodes=nodes,
        of_edges=_overlap_of(left_edges[0], right_edges[0], wiring.n_edges),
        roles=roles,
        floors=(_floor(one), _floor(other)),
        **_weights(one, other, left_edges, right_edges),
    )


def _overlap_of(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"], universe: int) -> Overlap:
    return Overlap(len(a), len(b), len(np.intersect1d(a, b, assume_unique=True)), universe)


def _weights(one: Graph, other: Graph, left: _Edges, right: _Edges) -> dict[str, Any]:
    """How the weights of two circuits agree."""
    (a, wa), (b, wb) = left, right
    _, at_a, at_b = np.intersect1d(a, b, assume_unique=True, return_indices=True)
    either = np.union1d(a, b)
    both = [np.zeros(len(either)), np.zeros(len(either))]
    for table, places, weights in zip(both, (a, b), (wa, wb), strict=True):
        table[np.searchsorted(either, places)] = np.abs(weights)
    if any(circuit.graph.get("unweighted") for circuit in (one, other)):
        return {"weighted": nan, "spearman": nan, "flipped": 0}
    return {
        "weighted": _ruzicka(*both),
        "spearman": spearman(wa[at_a], wb[at_b]),
        "flipped": int((wa[at_a] * wb[at_b] < 0).sum()),
    }


def _compare_placed(one: Graph, other: Graph) -> PlacedComparison:
    """The same of circuits of which one at least is between places."""
    pair = one, other
    wirings = [circuits.any_wiring(circuit) for circuit in pair]
    if wirings[0] != wirings[1]:
        raise CircuitError(
            f"the circuits belong to different models ({wirings[0]}; {wirings[1]}); compare "
            "circuits of one model, or see where each has its components: circuit.by_span()"
        )
    _notice_weights(one, other)
    wiring, parts = wirings[0], [circuits.components(circuit) for circuit in pair]
    held_by = [held_places(circuit) for circuit in pair]
    silent = any(not circuits.is_placed(circuit) and not any(Node(name).is_mlp for name, _ in own)
                 for circuit, own in zip(pair, held_by, strict=True))  # fmt: skip
    spoken = {str(w) for w in wiring.writers[1:] if w.is_head or not silent}
    left, right = ({place for place in own if place[0] in spoken} for own in held_by)
    spans = {span for circuit in pair for span in _spans(circuit)} | {s for _, s in left | right}
    placed, fixed = (one, right) if circuits.is_placed(one) else (other, left)
    held: dict[str, list[bool]] = {}
    for place, role in roles_at(other).items():
        held.setdefault(f"{role} at {place[1]}", []).append(place in left)
    names = [found & spoken for found in parts]
    nodes = Overlap(len(names[0]), len(names[1]), len(names[0] & names[1]), len(spoken))
    common: dict[str, Any] = {
        "nodes": nodes,
        "places": Overlap(len(left), len(right), len(left & right), len(spoken) * len(spans)),
        "random": expected_places(placed, fixed, spoken),
        "spans": _by_span(left, right, dict.fromkeys([*_spans(placed), *sorted(spans)])),
        "roles": {role: (sum(found), len(found)) for role, found in held.items()},
        "floors": (_floor(one), _floor(other)),
    }
    if not all(map(circuits.is_placed, pair)):
        note = "one of the circuits has edges without places"
        note += ", and says of no MLP where it writes, so that heads alone are compared" * silent
        return PlacedComparison(
            of_edges=None, weighted=nan, spearman=nan, flipped=0, note=note, **common
        )
    return PlacedComparison(**common, **_edges_between(one, other))


def _by_span(
    left: set[tuple[str, str]], right: set[tuple[str, str]], spans: Iterable[str]
) -> dict[str, tuple[int, int, int]]:
    """How many places of each circuit, and of both, are at each span where there are any."""
    sides = left, right, left & right
    counts = {span: tuple(sum(at == span for _, at in own) for own in sides) for span in spans}
    return {span: (own[0], own[1], own[2]) for span, own in counts.items() if any(own)}


def _spans(circuit: Graph) -> tuple[str, ...]:
    return circuits.places_of(circuit).spans if circuits.is_placed(circuit) else ()


def _edges_between(one: Graph, other: Graph) -> dict[str, Any]:
    """The overlaps of both kinds of edge between places, and how the weights agree."""
    places = circuits.places_of(one)
    if places != circuits.places_of(other):
        raise CircuitError(
            "the circuits are between places of different spans; compare circuits of the same "
            "prompts, or circuit.collapse() of both"
        )
    a, b = _between(one, places), _between(other, places)
    first = int(np.prod(places.shape))  # below are those of the residual stream
    kinds = {}
    for kind, n, upper in (("residual", places.n_edges[0], False),
                           ("attention", places.n_edges[1], True)):  # fmt: skip
        left, right = (found[(found >= first) == upper] for found in (a[0], b[0]))
        kinds[kind] = _overlap_of(left, right, n)
    whole = _overlap_of(a[0], b[0], sum(places.n_edges))
    return {**kinds, "of_edges": whole, **_weights(one, other, a, b)}


def _between(circuit: Graph, places: Places) -> _Edges:
    """Where the edges are in the two tables, one after the other, and their weights."""
    n = len(places.spans)
    shapes = {3: places.shape, 4: (len(places.heads), 2, n, n)}
    found = {}
    for writer, reader, weight in circuits.edges(circuit):
        index = places.index(writer, reader)
        flat = int(np.ravel_multi_index(index, shapes[len(index)]))
        found[flat + (len(index) == 4) * int(np.prod(places.shape))] = weight
    at = np.array(sorted(found), dtype=np.int64)
    return at, np.array([found[int(place)] for place in at], dtype=float)


def _floor(circuit: Graph) -> float:
    """The Jaccard index that a circuit says is to be expected of those of other samples; nan
    without."""
    said = circuit.graph.get("agreement")
    return float(said) if isinstance(said, float) and 0 <= said <= 1 else nan


def _notice_weights(one: Graph, other: Graph) -> None:
    """Warn where two circuits say that they were found with different weights."""
    a, b = (circuit.graph.get("weights") for circuit in (one, other))
    if a and b and a != b:
        names = " and ".join(repr(str(c.graph.get("model", "a model"))) for c in (one, other))
        warnings.warn(
            f"the circuits were found with different weights, on {names} (digests {a[:8]}… and "
            f"{b[:8]}…)",
            WeightsWarning,
            stacklevel=3,
        )


def _members(
    wiring: Wiring, left: Graph, right: Graph
) -> tuple[Overlap, dict[str, tuple[int, int]], str]:
    """The overlap of the components, by the roles of the right one's; and a note where one circuit
    only lists its members."""
    parts = [circuits.components(circuit) for circuit in (left, right)]
    listing = [
        (name, circuit, found)
        for name, circuit, found in zip(("left", "right"), (left, right), parts, strict=True)
        if circuits.lists_members(circuit)
    ]
    silent = [name for name, _, found in listing if not any(Node(n).is_mlp for n in found)]
    spoken = {w for w in wiring.writers[1:] if w.is_head or not silent}
    one, two = (found & spoken for found in parts)
    held: dict[str, list[bool]] = {}
    for name, role in right.nodes(data="role"):
        if role and name in two:
            held.setdefault(str(role), []).append(name in one)
    roles = {role: (sum(found), len(found)) for role, found in held.items()}
    called = [
        str(circuit.graph.get("reference", f"the {name} one")) for name, circuit, _ in listing
    ]
    note = f"{' and '.join(dict.fromkeys(called))} lists members and no edges" if listing else ""
    note += ", and no MLPs, so that heads alone are compared" * bool(silent)
    return Overlap(len(one), len(two), len(one & two), len(spoken)), roles, note


# -- several ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Agreement:
    """How much several circuits agree: the size of each, the number of edges that all of them hold
    and that any of them holds, and the overlap of every pair."""

    sizes: tuple[int, ...]
    in_all: int
    in_any: int
    pairs: tuple[Overlap, ...]
    wiring: Wiring | None = None
    placed: tuple[PlacedMask, ...] = ()  # of circuits between places

    @property
    def jaccard(self) -> float:
        """The mean Jaccard index over the pairs."""
        return float(np.mean([pair.jaccard for pair in self.pairs]))

    @property
    def expected_jaccard(self) -> float:
        """That mean for random sets of these sizes."""
        return float(np.mean([pair.expected_jaccard for pair in self.pairs]))

    @cached_property
    def by_chance(self) -> Chance:
        """What random circuits of these sizes share that hang together, as ``random_masks`` draws
        them: more than random sets of edges do. Raises CircuitError where the model is not
        known."""
        if self.placed:
            return chance_between(self.placed)
        if self.wiring is None:
            raise CircuitError(
                "it is not known what random circuits of the model share; take the agreement of "
                "circuits (ck.agreement), which know their model"
            )
        return chance(self.wiring, self.sizes)

    @property
    def kappa(self) -> float:
        """The overlap of all circuits at once beyond that of random ones: 1 for equal circuits, 0
        on average for random ones that hang together; nan where random ones are equal too.

        It is (shared − by chance) / (size − by chance), each summed over all pairs: the κ of Cohen
        (1960) for two circuits, and of Conger (1980) for several.
        """
        return self._beyond(sum(pair.both for pair in self.pairs))

    @property
    def kappa_by_chance(self) -> tuple[float, float]:
        """Between which values κ is for random circuits of these sizes, in 19 of 20 draws."""
        low, high = map(self._beyond, self.by_chance.interval())
        return low, high

    @property
    def kappas(self) -> tuple[float, ...]:
        """The κ of each pair."""
        numbers = combinations(range(len(self.sizes)), 2)
        return tuple(
            _beyond(pair.both, float(self.by_chance.pairs[i, j]), (pair.left + pair.right) / 2)
            for pair, (i, j) in zip(self.pairs, numbers, strict=True)
        )

    def _beyond(self, shared: float) -> float:
        size = sum((pair.left + pair.right) / 2 for pair in self.pairs)
        return _beyond(shared, self.by_chance.mean, size)

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines."""
        names = ("in_all", "in_any", "jaccard", "expected_jaccard")
        numbers = {name: getattr(self, name) for name in names}
        if self.wiring is None:
            return {"sizes": list(self.sizes), **numbers}
        low, high = self.kappa_by_chance
        beyond = {"kappa": self.kappa, "kappa_low": low, "kappa_high": high}
        return {"sizes": list(self.sizes), **numbers, **nan_to_none(beyond)}

    def to_frame(self) -> pandas.DataFrame:
        """A row for each pair of circuits: ``first`` and ``second`` (their numbers, from 0), then
        the columns of ``Overlap.to_frame``, of their edges."""
        numbers = combinations(range(len(self.sizes)), 2)
        rows = zip(numbers, self.pairs, strict=True)
        return to_frame([{"first": i, "second": j, **pair.to_dict()} for (i, j), pair in rows])

    def _repr_html_(self) -> str:
        return as_html(self.to_frame(), str(self))

    def __repr__(self) -> str:
        rows = [
            {"circuits": f"{i} and {j}", "shared": pair.both, "Jaccard": pair.jaccard}
            for (i, j), pair in zip(
                combinations(range(len(self.sizes)), 2), self.pairs, strict=True
            )
        ]
        more = f"… and {len(rows) - _MOST:,} more pairs" if len(rows) > _MOST else ""
        return "\n".join(filter(None, (str(self), as_text(rows[:_MOST]), more)))

    def __str__(self) -> str:
        low, high = min(self.sizes), max(self.sizes)
        size = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        return (
            f"{len(self.sizes)} circuits of {size} edges: {self.in_all:,} edges in all of them, "
            f"{self.in_any:,} in any; mean Jaccard of pairs {self.jaccard:.3f} "
            f"(by chance {self.expected_jaccard:.3f})"
        )

    def beyond_chance(self) -> str:
        """One line: the overlap of all circuits at once beyond that of random ones."""
        return (
            f"beyond random circuits of these sizes, all at once: kappa {self.kappa:.3f} (of "
            f"random ones {interval_text(*self.kappa_by_chance)})"
        )


def agreement(several: Sequence[CircuitLike]) -> Agreement:
    """How much the edges of two or more circuits of one model agree: counts, and Jaccard indices.

    Beyond chance it says how much all of them overlap at once (``kappa``): 1 where they are equal,
    and within ``kappa_by_chance``, around 0, in 19 of 20 cases where they are random circuits.

    Each is given as to ``compare``, all of them plain or all between the same places. Raises
    CircuitError for fewer than two, where one only lists its components, and where the wirings or
    places differ.

    Source: κ of several raters, Conger (1980).

    Example:
        >>> found = ck.agreement(["ioi:acdc", "ioi:eap_ig"])
        >>> found.in_all == found.pairs[0].both
        True
    """
    if isinstance(several, str) or len(several) < 2:
        number = 1 if isinstance(several, str) else len(several)
        raise CircuitError(f"{number} circuits cannot agree or differ; give a list of at least 2")
    all_of_them = [opened(circuit) for circuit in several]
    space = circuits.shared_space(all_of_them, "compare")
    for number, circuit in enumerate(all_of_them):
        if circuits.lists_members(circuit):
            raise CircuitError(
                f"circuit {number} lists members and no edges, which is what agreement counts; "
                "use compare"
            )
    if isinstance(space, Places):
        held = [_between(circuit, space)[0] for circuit in all_of_them]
        masks = tuple(circuits.placed_mask(circuit, space) for circuit in all_of_them)
        return _agreement(held, sum(space.n_edges), space.wiring, masks)
    return _agreement([_placed(one, space)[0] for one in all_of_them], space.n_edges, space)


def _agreement(
    held: Sequence[Int[np.ndarray, " edges"]],
    universe: int,
    wiring: Wiring,
    placed: tuple[PlacedMask, ...] = (),
) -> Agreement:
    """That of circuits by where their edges are."""
    times = np.unique_counts(np.concatenate(held)).counts
    pairs = tuple(
        Overlap(len(one), len(other), len(np.intersect1d(one, other)), universe)
        for one, other in combinations(held, 2)
    )
    sizes = tuple(map(len, held))
    return Agreement(sizes, int((times == len(held)).sum()), len(times), pairs, wiring, placed)


# -- helpers ---------------------------------------------------------------------------------------
def _beyond(shared: float, by_chance: float, size: float) -> float:
    """How far on the way from what chance shares to what equal circuits share; nan without one."""
    return (shared - by_chance) / (size - by_chance) if size - by_chance > 1e-9 * size else nan


def _placed(circuit: Graph, wiring: Wiring) -> _Edges:
    """Where the circuit's edges are in the table of writers and readers, in order, and their
    weights: such a table itself would be large for a file that only claims a large model."""
    width = wiring.shape[1]
    found = {}
    for writer, reader, weight in circuits.edges(circuit):
        row, column = wiring.index(writer, reader)
        found[row * width + column] = weight
    places = np.array(sorted(found), dtype=np.int64)
    return places, np.array([found[int(place)] for place in places], dtype=float)


def _ruzicka(a: Float[np.ndarray, " edges"], b: Float[np.ndarray, " edges"]) -> float:
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    a, b = a / a.sum(), b / b.sum()
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())
