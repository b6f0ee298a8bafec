"""The whole graph, with its ports and all attributes: our JSON, GraphML and DOT."""

from __future__ import annotations

import networkx as nx

from circuitkit.formats._values import flat
from circuitkit.graph.circuit import any_wiring, to_json
from circuitkit.graph.nodes import INPUT, LOGITS, Node, edge_name
from circuitkit.graph.types import Graph

__all__ = ["dot", "graphml", "json"]


def json(circuit: Graph) -> str:
    """The circuit in its own file format, which ``Circuit.load`` reads back.

    Raises CircuitError where the graph is not a circuit, or holds what JSON cannot.

    Example:
        >>> ck.formats.json(circuit).count('"edge"')
        50
    """
    return to_json(circuit)


def graphml(circuit: Graph) -> str:
    """The graph with its ports as GraphML, for Gephi, Cytoscape, yEd and their kind.

    All attributes are in it; what GraphML has no type for is written as JSON.

    Example:
        >>> import networkx
        >>> graph = networkx.parse_graphml(ck.formats.graphml(circuit))
        >>> len(graph.edges) == len(circuit.edges)
        True
    """
    whole: Graph = nx.DiGraph()
    whole.graph.update(flat(circuit.graph))
    whole.add_nodes_from((str(n), flat(circuit.nodes[n])) for n in sorted(circuit))
    pairs = sorted(circuit.edges(data=True), key=lambda edge: edge[:2])
    whole.add_edges_from((str(a), str(b), flat(data)) for a, b, data in pairs)
    return "\n".join(nx.generate_graphml(whole)) + "\n"


def dot(circuit: Graph) -> str:
    """The graph with its ports as DOT, for Graphviz and what else reads it.

    All attributes are in it, as text. A layered picture comes from ``circuit.draw``, not from this
    file. Raises CircuitError where the graph is not a circuit.

    Example:
        >>> ck.formats.dot(circuit).splitlines()[0]
        'digraph circuit {'
    """
    any_wiring(circuit)
    lines = ["digraph circuit {", f"graph [{_listed(flat(circuit.graph))}]", "rankdir=BT"]
    lines += ["node [shape=box]", "edge [arrowsize=0.6]"]
    layers: dict[tuple[int, str], list[str]] = {}
    for name in sorted(circuit):
        lines.append(f"{_quoted(name)} [{_listed(flat(circuit.nodes[name]))}]")
        layers.setdefault(_row(Node(name)), []).append(_quoted(name))
    for _, names in sorted(layers.items()):
        lines.append(f"{{rank=same {' '.join(names)}}}")
    for writer, reader, data in sorted(circuit.edges(data=True), key=lambda edge: edge[:2]):
        plumbing = data.get("weight") is None
        own = {"style": "dotted"} if plumbing else {"tooltip": edge_name(writer, reader)}
        lines.append(f"{_quoted(writer)} -> {_quoted(reader)} [{_listed({**own, **flat(data)})}]")
    return "\n".join([*lines, "}"]) + "\n"


def _row(node: Node) -> tuple[int, str]:
    """Where a node is: its layer; in it the ports, the heads, the MLP."""
    if node.plain in (INPUT, LOGITS):
        return (-1 if node.plain == INPUT else 10**9), ""
    own = "m" if node.is_mlp else "p" if node.port is None else "a"
    return node.layer or 0, "r" if node.is_stream else own


def _listed(attributes: dict[str, str | int | float | bool]) -> str:
    return ", ".join(f"{_quoted(name)}={_quoted(value)}" for name, value in attributes.items())


def _quoted(value: object) -> str:
    """The value as a quoted DOT text, which Graphviz shows as it is."""
    plain = str(value).lower() if isinstance(value, bool) else str(value)
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
