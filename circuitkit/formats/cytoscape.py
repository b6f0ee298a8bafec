"""Cytoscape's JSON, the whole graph with its ports, for Cytoscape and Cytoscape.js."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from circuitkit.formats._values import flat
from circuitkit.graph.circuit import any_wiring
from circuitkit.graph.nodes import edge_name
from circuitkit.graph.types import Graph
from circuitkit.util.json_values import Json

__all__ = ["cyjs"]


def cyjs(circuit: Graph) -> str:
    """The graph with its ports as Cytoscape JSON, which also ``networkx.cytoscape_graph`` reads.

    All attributes are in it; what is not a text, number or boolean is written as JSON. Raises
    CircuitError where the graph is not a circuit.

    Example:
        >>> import json, networkx
        >>> graph = networkx.cytoscape_graph(json.loads(ck.formats.cyjs(circuit)))
        >>> len(graph.edges) == len(circuit.edges)
        True
    """
    any_wiring(circuit)

    def interaction(data: Mapping[str, Json]) -> str:
        return "plumbing" if data.get("weight") is None else "writes"

    return _elements(circuit, edge_name, interaction)


def _elements(
    graph: Graph,
    called: Callable[[str, str], str],
    interaction: Callable[[Mapping[str, Json]], str],
) -> str:
    """Any graph, its edges ``called`` by their ends, and of a sort by their attributes."""
    nodes = [
        {"data": {**flat(graph.nodes[name]), "id": str(name), "value": str(name), "name": name}}
        for name in sorted(graph)
    ]
    joined = [
        {
            "data": {
                **flat(data), "id": f"{writer}->{reader}", "source": str(writer),
                "target": str(reader), "name": called(writer, reader),
                "interaction": interaction(data),
            }
        }
        for writer, reader, data in sorted(graph.edges(data=True), key=lambda edge: edge[:2])
    ]  # fmt: skip
    whole = {
        "data": flat(graph.graph),
        "directed": True,
        "multigraph": False,
        "elements": {"nodes": nodes, "edges": joined},
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
