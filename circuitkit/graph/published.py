"""A published circuit as a record, and the notation in which its rules are written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import networkx as nx

from circuitkit.errors import CircuitError, UnknownNameError
from circuitkit.graph.circuit import Circuit, build, edges, wiring_of
from circuitkit.graph.nodes import INPUT, LOGITS, Node
from circuitkit.graph.types import Graph
from circuitkit.graph.wiring import Wiring
from circuitkit.registry import lookup, names, unknown
from circuitkit.util.tables import as_html, to_frame

if TYPE_CHECKING:
    import pandas

__all__ = [
    "CircuitLike",
    "Edges",
    "GPT2",
    "Published",
    "Rule",
    "heads",
    "joined",
    "legal",
    "named",
    "opened",
    "roles_of",
    "skeleton",
]

GPT2 = Wiring(layers=12, heads=12, groups=12)

Edges = frozenset[tuple[str, str]]
Rule = tuple[str, str, str]  # from one group to another, at these ports of its heads


@dataclass(frozen=True)
class Published:
    """A published circuit: the role of each component it names, and its edges where it has any.

    ``convention`` says how its source counts edges, ``note`` how it differs from other sources.
    ``positions`` are the token spans at which a component's output belongs to the circuit; one that
    is missing belongs to it everywhere, or its source does not say. ``direct`` is True where the
    source also counts one edge for every port that the circuit reads (ACDC's ``q_input -> q``),
    which is not an edge of the residual stream, and not one of ours.
    """

    name: str
    model: str
    wiring: Wiring
    source: str
    convention: str
    note: str
    roles: Mapping[str, str]
    positions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    edges: Edges = frozenset()
    direct: bool = False

    @property
    def task(self) -> str:
        """The name's first half."""
        return self.name.partition(":")[0]

    @property
    def counted(self) -> tuple[int, int]:
        """How many edges it has, of how many, as its source counts; components without edges."""
        wiring = self.wiring
        if not self.edges:
            mlps = any(Node(name).is_mlp for name in self.roles)
            return len(self.roles), wiring.layers * (wiring.heads + mlps)
        if not self.direct:
            return len(self.edges), wiring.n_edges
        ports = {reader for _, reader in self.edges if Node(reader).port}
        return len(self.edges) + len(ports), wiring.n_edges + 3 * wiring.layers * wiring.heads

    @property
    def circuit(self) -> Circuit:
        """The circuit, built anew: every edge weighs 1 (``unweighted`` says so), every component
        that has a role carries it as ``role``, with its ``positions``."""
        circuit = build(
            self.wiring, dict.fromkeys(sorted(self.edges), 1.0), unweighted=True,
            model=self.model, task=self.task, method=f"by hand, {self.source}",
            reference=self.name, convention=self.convention, note=self.note,
        )  # fmt: skip
        for name, role in self.roles.items():
            circuit.add_node(name, role=role)
            if name in self.positions:
                circuit.nodes[name]["positions"] = list(self.positions[name])
        return circuit

    def to_frame(self) -> pandas.DataFrame:
        """A row for each component that has a role: ``component``, ``role`` and ``positions`` (the
        token spans, separated by spaces; empty where it belongs to the circuit everywhere)."""
        return to_frame(
            [
                {
                    "component": name,
                    "role": role,
                    "positions": " ".join(self.positions.get(name, ())),
                }
                for name, role in self.roles.items()
            ]
        )

    def __str__(self) -> str:
        return f"{self.name}, {self!r}"

    def _repr_html_(self) -> str:
        return as_html(self.to_frame(), str(self))

    def __repr__(self) -> str:
        found, total = self.counted
        what = "edges" if self.edges else "components"
        beside = f" ({len(self.edges):,} without the direct ones)" if self.direct else ""
        return f"{self.model}: {found:,} of {total:,} {what}{beside}; {self.source}"


def named(name: str) -> Published:
    """The published circuit of that name, ``ioi:wang2022``, or of ``path/to/mine.py:name``.

    Raises UnknownNameError where there is none.
    """
    found = lookup("references", name)()
    if not isinstance(found, Published):
        raise UnknownNameError(
            f"{name!r} gives a {type(found).__name__}; a reference returns a "
            "circuitkit.graph.published.Published"
        )
    return found


CircuitLike: TypeAlias = Graph | Published | str | os.PathLike[str]


def opened(circuit: CircuitLike, *, force: bool = False) -> Circuit:
    """The circuit that is meant: a graph itself, the published circuit of a name
    (``ioi:wang2022``), or that in a file, circuitkit's or EAP-IG's; ``force`` reads one whose
    digest is wrong.

    Raises UnknownNameError and CircuitError, with what belongs there, where there is none.
    """
    if isinstance(circuit, Circuit):
        return circuit
    if isinstance(circuit, nx.DiGraph):
        return Circuit(circuit)
    if isinstance(circuit, Published):
        return circuit.circuit
    if not isinstance(circuit, str | os.PathLike):
        raise CircuitError(
            f"{type(circuit).__name__} is not a circuit; give a circuit (scores.top(n) chooses "
            "one), its file, or the name of a published one: ioi:wang2022"
        )
    name = os.fspath(circuit)
    if Path(name).suffix.lower() not in (".json", ".pt") and not Path(name).is_file():
        if ":" not in name:
            known = names("references")
            own = tuple(one for one in known if one.startswith(f"{name}:"))
            raise UnknownNameError(unknown("circuit", name, own or known))
        return named(name).circuit
    return Circuit.load(name, force=force)


def skeleton(circuit: Graph) -> Circuit:
    """A copy without the edges of components that have no role, such as the MLPs that only carry
    what heads write: small enough to be drawn. Raises CircuitError where the graph is not a
    circuit.
    """
    roles = {name: data for name, data in circuit.nodes(data=True) if data.get("role")}
    known = {*roles, INPUT, LOGITS}
    kept: dict[tuple[str, str], float] = {
        (writer, reader): weight
        for writer, reader, weight in edges(circuit)
        if {writer, reader.component} <= known
    }
    small = build(wiring_of(circuit), kept)
    small.graph.update(circuit.graph)
    small.add_nodes_from(roles.items())
    return small


# -- notation --------------------------------------------------------------------------------------
def heads(text: str) -> tuple[str, ...]:
    """The heads of "9.9 10.0": ``a9.h9`` and ``a10.h0``."""
    return tuple("a{}.h{}".format(*pair.split(".")) for pair in text.split())


def roles_of(groups: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """The role of each component, of the components of each role."""
    return {name: role for role, names in groups.items() for name in names}


def joined(wiring: Wiring, groups: Mapping[str, Iterable[str]], rules: Iterable[Rule]) -> Edges:
    """Every legal edge from one group's writers into another's readers, for each of the rules.

    ``input`` is the embedding, ``output`` the logits; the letters are the ports at which a head is
    entered, and mean nothing to an MLP.
    """
    known = {"input": (INPUT,), "output": (LOGITS,), **groups}
    return frozenset().union(
        *(legal(wiring, known[a], known[b], letters) for a, b, letters in rules)
    )


def legal(
    wiring: Wiring, writers: Iterable[str], components: Iterable[str], letters: str = "qkv"
) -> Edges:
    """Every edge of the model from these writers into these components, at these ports of heads."""
    readers = [
        reader
        for name in components
        for reader in ([f"{name}.{port}" for port in letters] if Node(name).is_head else [name])
    ]
    pairs = ((str(w), str(r)) for w in writers for r in readers)
    return frozenset((w, r) for w, r in pairs if wiring.legal[wiring.writer[w], wiring.reader[r]])
