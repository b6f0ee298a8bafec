"""A circuit as a table of its edges: CSV."""

from __future__ import annotations

from circuitkit.errors import OutputError
from circuitkit.formats._values import flat
from circuitkit.graph.circuit import edges, lists_members
from circuitkit.graph.nodes import Node, edge_name
from circuitkit.graph.types import Graph
from circuitkit.util.json_values import Json
from circuitkit.util.tables import to_csv

__all__ = ["csv"]


def csv(circuit: Graph) -> str:
    """One line an edge, the strongest first: writer, reader, name, weight, other attributes.

    Attributes of the nodes are in the columns ``writer_role`` and ``reader_role``. A table of edges
    does not say where the circuit comes from; json, graphml and dot do. Raises OutputError for a
    circuit that only lists its components, and NodeNameError where a node's name does not follow
    the grammar.

    Example:
        >>> ck.formats.csv(circuit).splitlines()[0]
        'writer,reader,edge,weight'
    """
    if lists_members(circuit):
        raise OutputError(
            "the circuit has components and no edges, and a .csv lists edges; save it as .json"
        )
    rows = []
    for writer, reader, weight in sorted(edges(circuit), key=lambda e: (-abs(e[2]), *e[:2])):
        named = {"writer": str(writer), "reader": str(reader), "edge": edge_name(writer, reader)}
        own = {
            k: v for k, v in dict(circuit[writer][reader]).items() if k not in (*named, "weight")
        }
        rows.append({**named, "weight": weight, **flat(own), **_of_ends(circuit, writer, reader)})
    first = ("writer", "reader", "edge", "weight")
    further = sorted({name for row in rows for name in row} - {*first})
    return to_csv(rows, [*first, *further], digits=None)


def _of_ends(circuit: Graph, writer: str, reader: Node) -> dict[str, Json]:
    """The attributes of the two components that an edge joins."""
    found: dict[str, Json] = {}
    for end, name in (("writer", writer), ("reader", reader.component)):
        if name in circuit:
            own = flat(circuit.nodes[name])
            found |= {f"{end}_{key}": value for key, value in own.items()}
    return found
