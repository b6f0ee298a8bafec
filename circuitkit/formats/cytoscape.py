"""Cytoscape's JSON, the whole graph with its ports, for Cytoscape and Cytoscape.js."""

from __future__ import annotations

import json

from circuitkit.formats._values import flat
from circuitkit.graph.circuit import any_wiring
from circuitkit.graph.nodes import edge_name
from circuitkit.graph.types import Graph

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
    nodes = [
        {"data": {**flat(circuit.nodes[name]), "id": str(name), "value": str(name), "name": name}}
        for name in sorted(circuit)
    ]
    joined = [
        {
            "data": {
                **flat(data), "id": f"{writer}->{reader}", "source": str(writer),
                "target": str(reader), "name": edge_name(writer, reader),
                "interaction": "plumbing" if data.get("weight") is None else "writes",
            }
        }
        for writer, reader, data in sorted(circuit.edges(data=True), key=lambda edge: edge[:2])
    ]  # fmt: skip
    whole = {
        "data": flat(circuit.graph),
        "directed": True,
        "multigraph": False,
        "elements": {"nodes": nodes, "edges": joined},
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
