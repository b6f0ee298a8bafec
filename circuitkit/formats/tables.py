"""The whole circuit as data: JSON, GraphML and CSV. They take no style."""

from __future__ import annotations

import json as _json
import re
from collections.abc import Mapping
from typing import Any

import networkx as nx

from circuitkit.graph.circuit import edges, to_json
from circuitkit.graph.nodes import edge_name
from circuitkit.graph.types import Graph
from circuitkit.util.tables import to_csv

__all__ = ["csv", "graphml", "json"]

# What XML 1.0 forbids in a text.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def json(circuit: Graph) -> str:
    """The circuit in its own file format, which ``circuitkit.graph.circuit.read`` reads back.

    Raises CircuitError where the graph is no circuit, or holds what JSON cannot.
    """
    return to_json(circuit)


def graphml(circuit: Graph) -> str:
    """The graph with its ports as GraphML, for Gephi, Cytoscape, yEd and their kind; what GraphML
    has no type for stands there as JSON."""
    flat: Graph = nx.DiGraph(**_flat(circuit.graph))
    flat.add_nodes_from((str(n), _flat(circuit.nodes[n])) for n in sorted(circuit))
    pairs = sorted(circuit.edges(data=True), key=lambda edge: edge[:2])
    flat.add_edges_from((str(a), str(b), _flat(data)) for a, b, data in pairs)
    return "\n".join(nx.generate_graphml(flat)) + "\n"


def csv(circuit: Graph) -> str:
    """One line an edge: writer, reader, name and weight; the strongest first.

    Raises NodeNameError where a node's name does not follow the grammar.
    """
    columns = ("writer", "reader", "edge", "weight")
    rows = [
        dict(zip(columns, (writer, reader, edge_name(writer, reader), weight), strict=True))
        for writer, reader, weight in sorted(edges(circuit), key=lambda e: (-abs(e[2]), *e[:2]))
    ]
    return to_csv(rows, columns, digits=None)


def _flat(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    return {_text(str(key)): _value(attributes[key]) for key in sorted(attributes, key=str)}


def _value(value: Any) -> str | int | float | bool:
    if isinstance(value, bool | int | float):
        return value
    return _text(value if isinstance(value, str) else _json.dumps(value, default=str))


def _text(text: str) -> str:
    return _FORBIDDEN.sub("�", text)
