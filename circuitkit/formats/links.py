"""NetworkX's node-link JSON, the whole graph with its ports, for programs that read that."""

from __future__ import annotations

import json as files
from typing import Any

import networkx as nx

from circuitkit.errors import CircuitError
from circuitkit.graph.circuit import any_wiring
from circuitkit.graph.types import Graph
from circuitkit.util.json_values import plain

__all__ = ["node_link"]


def node_link(circuit: Graph) -> str:
    """The graph with its ports as ``networkx.node_link_graph(..., edges="edges")`` reads it.

    All attributes are in it, as they are. A suffix of its own it does not have: ask for it by name
    (``--format node_link -o circuit.json``). Raises CircuitError where the graph is not a circuit,
    or holds what JSON cannot.

    Example:
        >>> import json, networkx
        >>> data = json.loads(ck.formats.node_link(circuit))
        >>> str(ck.Circuit(networkx.node_link_graph(data, edges="edges"))) == str(circuit)
        True
    """
    any_wiring(circuit)
    whole: Graph = nx.DiGraph()
    whole.graph.update(_plain(dict(circuit.graph), "the circuit"))
    for name in sorted(circuit):
        whole.add_node(str(name), **_plain(dict(circuit.nodes[name]), str(name)))
    for writer, reader, data in sorted(circuit.edges(data=True), key=lambda edge: edge[:2]):
        whole.add_edge(str(writer), str(reader), **_plain(dict(data), f"{writer}->{reader}"))
    found = nx.node_link_data(whole, edges="edges")
    return files.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(attributes: dict[str, Any], what: str) -> dict[str, Any]:
    """The attributes as JSON has them, their names in order."""
    try:
        found: dict[str, Any] = plain({key: attributes[key] for key in sorted(attributes)}, "")
    except (ValueError, RecursionError) as error:
        raise CircuitError(f"{what} holds what JSON cannot: {error}") from error
    return found
