"""Published circuits by name, ``ioi:wang2022``: one file a task, whose ``circuits`` lists them."""

from __future__ import annotations

import importlib
from pathlib import Path

import networkx as nx

from circuitkit.errors import UnknownNameError
from circuitkit.graph.circuit import Circuit, build, edges, wiring_of
from circuitkit.graph.nodes import EMBED, LOGITS
from circuitkit.references._rules import Published
from circuitkit.registry import unknown

__all__ = ["Published", "describe", "named", "names", "skeleton"]

_ROOT = Path(__file__).parent


def names() -> tuple[str, ...]:
    """All names, as ``task:source``."""
    return tuple(published.name for published in _all())


def describe() -> dict[str, str]:
    """All names, each with its model, its size of how much, and its source."""
    return {published.name: repr(published) for published in _all()}


def named(name: str) -> Published:
    """The published circuit of that name; raises UnknownNameError where there is none."""
    for published in _all():
        if published.name == name:
            return published
    raise UnknownNameError(unknown("published circuit", name, names()))


def skeleton(circuit: nx.DiGraph) -> Circuit:
    """A copy without the edges of components that have no role, such as the MLPs that only carry
    what heads write: small enough to be drawn. Raises CircuitError where the graph is no circuit.
    """
    roles = {name: data for name, data in circuit.nodes(data=True) if data.get("role")}
    known = {*roles, EMBED, LOGITS}
    kept: dict[tuple[str, str], float] = {
        (writer, reader): weight
        for writer, reader, weight in edges(circuit)
        if {writer, reader.component} <= known
    }
    small = build(wiring_of(circuit), kept)
    small.graph.update(circuit.graph)
    small.add_nodes_from(roles.items())
    return small


def _all() -> tuple[Published, ...]:
    files = sorted(f for f in _ROOT.glob("*.py") if not f.name.startswith("_"))
    modules = [
        importlib.import_module(f"circuitkit.references.{file.stem}")
        for file in files
        if file != Path(__file__)
    ]
    return tuple(published for module in modules for published in module.circuits())
