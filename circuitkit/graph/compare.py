"""How much circuits have in common, beside what chance would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isnan, nan

import numpy as np
from jaxtyping import Float

from circuitkit.errors import CircuitError
from circuitkit.graph import circuit as circuits
from circuitkit.graph.nodes import Node
from circuitkit.graph.types import Graph
from circuitkit.graph.wiring import Wiring
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.statistics import expected_overlap, spearman
from circuitkit.util.tables import as_text

__all__ = [
    "Agreement",
    "Comparison",
    "Members",
    "Overlap",
    "agreement",
    "compare",
    "compare_members",
    "lists_members",
]


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


@dataclass(frozen=True)
class Comparison:
    """The overlap of nodes and of edges, and how the shared edges' weights agree.

    ``weighted`` is Σ min(|a|, |b|) / Σ max(|a|, |b|) over all edges, each circuit's weights scaled
    to sum to one; ``spearman`` the rank correlation of the signed weights of the shared edges (nan
    for fewer than three); ``flipped`` how many of them differ in sign. Where one of the two says
    that it is ``unweighted``, there is nothing to agree: the first two are nan, ``flipped`` is 0.
    """

    nodes: Overlap
    edges: Overlap
    weighted: float
    spearman: float
    flipped: int

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        return {
            "nodes": _plain(self.nodes), "edges": _plain(self.edges),
            "weighted": nan_to_none(self.weighted), "spearman": nan_to_none(self.spearman),
            "flipped": None if isnan(self.weighted) else self.flipped,
        }  # fmt: skip

    def __repr__(self) -> str:
        table = _as_text(nodes=self.nodes, edges=self.edges)
        if isnan(self.weighted):
            return table
        return (
            f"{table}\nweighted overlap {self.weighted:.3f}; rank correlation of the shared edges' "
            f"weights {self.spearman:.3f}; {self.flipped} of them differ in sign"
        )


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


def _plain(overlap: Overlap) -> dict[str, float | None]:
    names = ("left", "right", "both", "universe", "jaccard", "expected_jaccard", "precision",
             "recall")  # fmt: skip
    return {name: nan_to_none(getattr(overlap, name)) for name in names}


def compare(left: Graph, right: Graph) -> Comparison:
    """The comparison of two circuits of one model; precision is of the left against the right.

    Nodes are the components (heads and MLPs). Raises CircuitError where the wirings differ.
    """
    wiring = _shared_wiring([left, right])
    a, b = circuits.mask(left), circuits.mask(right)
    parts = [_components(c) for c in (left, right)]
    n_nodes = len(wiring.writers) - 1
    wa, wb = circuits.weight_matrix(left), circuits.weight_matrix(right)
    shared = a & b
    unweighted = any(circuit.graph.get("unweighted") for circuit in (left, right))
    return Comparison(
        nodes=Overlap(len(parts[0]), len(parts[1]), len(parts[0] & parts[1]), n_nodes),
        edges=Overlap(int(a.sum()), int(b.sum()), int(shared.sum()), wiring.n_edges),
        weighted=nan if unweighted else _ruzicka(np.abs(wa), np.abs(wb)),
        spearman=nan if unweighted else spearman(wa[shared], wb[shared]),
        flipped=0 if unweighted else int((wa[shared] * wb[shared] < 0).sum()),
    )


# -- components ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Members:
    """The overlap of two circuits' components; of each role of the right one, how many of its
    components the left one holds, and how many there are."""

    nodes: Overlap
    roles: Mapping[str, tuple[int, int]]

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        return {"nodes": _plain(self.nodes), "roles": self.shares()}

    def shares(self) -> dict[str, dict[str, int]]:
        """Of each role how many are held, and how many there are, by name."""
        return {role: {"held": held, "of": of} for role, (held, of) in self.roles.items()}

    def table(self) -> str:
        """A line for each role."""
        rows = [{"role": role, "held": f"{h} of {n}"} for role, (h, n) in self.roles.items()]
        return as_text(rows, header=False)

    def __repr__(self) -> str:
        lines = [_as_text(nodes=self.nodes), self.table()]
        return "\n".join(line for line in lines if line)


def compare_members(left: Graph, right: Graph) -> Members:
    """The comparison of two circuits' components alone, by the roles of the right one's.

    Components are heads and MLPs. Where a circuit only lists its members and no MLP is among them,
    it does not speak of MLPs, and heads alone are compared. Raises CircuitError where the wirings
    differ.
    """
    wiring = _shared_wiring([left, right])
    parts = [_components(circuit) for circuit in (left, right)]
    heads_alone = any(
        lists_members(circuit) and not any(Node(name).is_mlp for name in found)
        for circuit, found in zip((left, right), parts, strict=True)
    )
    spoken = {w for w in wiring.writers[1:] if w.is_head or not heads_alone}
    one, two = (found & spoken for found in parts)
    held: dict[str, list[bool]] = {}
    for name, role in right.nodes(data="role"):
        if role and name in two:
            held.setdefault(str(role), []).append(name in one)
    roles = {role: (sum(found), len(found)) for role, found in held.items()}
    return Members(Overlap(len(one), len(two), len(one & two), len(spoken)), roles)


def lists_members(circuit: Graph) -> bool:
    """Whether the circuit names components by their roles and no edge between them."""
    named = any(role for _, role in circuit.nodes(data="role"))
    return named and next(circuits.edges(circuit), None) is None


# -- several ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Agreement:
    """How much several circuits agree: the size of each, the number of edges that all of them hold
    and that any of them holds, and the overlap of every pair."""

    sizes: tuple[int, ...]
    in_all: int
    in_any: int
    pairs: tuple[Overlap, ...]

    @property
    def jaccard(self) -> float:
        """The mean Jaccard index over the pairs."""
        return float(np.mean([pair.jaccard for pair in self.pairs]))

    @property
    def expected_jaccard(self) -> float:
        """That mean for random sets of these sizes."""
        return float(np.mean([pair.expected_jaccard for pair in self.pairs]))

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines."""
        names = ("in_all", "in_any", "jaccard", "expected_jaccard")
        return {"sizes": list(self.sizes)} | {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        low, high = min(self.sizes), max(self.sizes)
        size = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        return (
            f"{len(self.sizes)} circuits of {size} edges: {self.in_all:,} edges in all of them, "
            f"{self.in_any:,} in any; mean Jaccard of pairs {self.jaccard:.3f} "
            f"(by chance {self.expected_jaccard:.3f})"
        )


def agreement(several: Sequence[Graph]) -> Agreement:
    """How much the edges of two or more circuits of one model agree.

    Raises CircuitError for fewer than two, and where the wirings differ.
    """
    if len(several) < 2:
        raise CircuitError(f"{len(several)} circuits cannot agree or differ; give at least 2")
    wiring = _shared_wiring(several)
    masks = [circuits.mask(circuit) for circuit in several]
    sizes = tuple(int(mask.sum()) for mask in masks)
    held = np.sum(masks, axis=0)
    pairs = tuple(
        Overlap(sizes[i], sizes[j], int((masks[i] & masks[j]).sum()), wiring.n_edges)
        for i, j in combinations(range(len(masks)), 2)
    )
    return Agreement(sizes, int((held == len(masks)).sum()), int((held > 0).sum()), pairs)


# -- helpers ---------------------------------------------------------------------------------------
def _shared_wiring(several: Sequence[Graph]) -> Wiring:
    wirings = [circuits.wiring_of(circuit) for circuit in several]
    for other in wirings[1:]:
        if other != wirings[0]:
            raise CircuitError(
                f"the circuits belong to different models ({wirings[0]} and {other}); "
                "compare circuits of one model"
            )
    return wirings[0]


def _components(circuit: Graph) -> set[str]:
    wiring = circuits.wiring_of(circuit)
    found = {name for name, role in circuit.nodes(data="role") if role}
    for writer, reader, _ in circuits.edges(circuit):
        found.add(writer)
        found |= set(wiring.fed(reader)) if reader.head is not None else {reader}
    return {name for name in found if wiring.writer.get(name, 0) > 0}


def _ruzicka(a: Float[np.ndarray, "w r"], b: Float[np.ndarray, "w r"]) -> float:
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    a, b = a / a.sum(), b / b.sum()
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())
