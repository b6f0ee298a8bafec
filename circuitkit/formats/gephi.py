"""GEXF, the whole graph with its ports, for Gephi."""

from __future__ import annotations

import json
import re
from xml.sax.saxutils import escape

import networkx as nx

from circuitkit.formats._values import flat
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
    whole: Graph = nx.DiGraph()
    for name in sorted(circuit):
        whole.add_node(str(name), **_own(flat(circuit.nodes[name])), label=str(name))
    for writer, reader, data in sorted(circuit.edges(data=True), key=lambda edge: edge[:2]):
        label = edge_name(writer, reader)
        whole.add_edge(str(writer), str(reader), **_own(flat(data)), label=label)
    text = _DATE.sub("", "\n".join(nx.generate_gexf(whole, version="1.2draft")))
    about = escape(json.dumps(flat(circuit.graph), ensure_ascii=False))
    return text.replace(_PLACE, f"{_PLACE}<description>{about}</description>", 1) + "\n"


def _own(
    attributes: dict[str, str | int | float | bool],
) -> dict[str, str | int | float | bool]:
    """The attributes under names that the format does not keep for itself."""
    return {f"{key}_" if key in _RESERVED else key: value for key, value in attributes.items()}
