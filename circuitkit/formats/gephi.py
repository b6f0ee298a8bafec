"""GEXF, the whole graph with its ports, for Gephi."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from xml.sax.saxutils import escape

import networkx as nx

from circuitkit.formats._values import flat, text
from circuitkit.graph.circuit import any_wiring
from circuitkit.graph.nodes import edge_name
from circuitkit.graph.types import Graph

__all__ = ["gexf"]

_DATE = re.compile(r' lastmodifieddate="[^"]*"')  # equal circuits give equal files
_PLACE = "</creator>"
# What the format keeps for itself: its own names of an element's parts, or times.
_RESERVED = frozenset(("id", "label", "start", "end", "viz", "pid", "for", "type", "key"))


def gexf(circuit: Graph) -> str:
    """The graph with its ports as GEXF 1.2, which Gephi and ``networkx.read_gexf`` read.

    All attributes are in it; what is not a text, number or boolean is written as JSON, and what is
    said of the whole circuit stands as JSON in the file's description, for the format has no other
    place for it. Raises CircuitError where the graph is not a circuit.

    Example:
        >>> import io, networkx
        >>> text = ck.formats.gexf(circuit)
        >>> len(networkx.read_gexf(io.BytesIO(text.encode())).edges) == len(circuit.edges)
        True
    """
    any_wiring(circuit)
    return _document(circuit, str, edge_name)


def _document(graph: Graph, shown: Callable[[str], str], called: Callable[[str, str], str]) -> str:
    """Any graph, its nodes ``shown`` by their labels and its edges ``called`` by their ends."""
    whole: Graph = nx.DiGraph()
    for name in sorted(graph):
        whole.add_node(str(name), **_own(flat(graph.nodes[name])), label=text(shown(name)))
    for writer, reader, data in sorted(graph.edges(data=True), key=lambda edge: edge[:2]):
        label = called(writer, reader)
        whole.add_edge(str(writer), str(reader), **_own(flat(data)), label=label)
    written = _DATE.sub("", "\n".join(nx.generate_gexf(whole, version="1.2draft")))
    about = escape(json.dumps(flat(graph.graph), ensure_ascii=False))
    return written.replace(_PLACE, f"{_PLACE}<description>{about}</description>", 1) + "\n"


def _own(
    attributes: dict[str, str | int | float | bool],
) -> dict[str, str | int | float | bool]:
    """The attributes under names that the format does not keep for itself."""
    return {f"{key}_" if key in _RESERVED else key: value for key, value in attributes.items()}
