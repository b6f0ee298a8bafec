"""An attribution graph as GraphML, GEXF, Cytoscape's JSON, DOT, or a table of its edges."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import networkx as nx

from circuitkit.formats._values import flat
from circuitkit.formats.cytoscape import _elements
from circuitkit.formats.gephi import _document
from circuitkit.formats.graphs import _listed, _quoted, graphml
from circuitkit.graph.types import Graph
from circuitkit.util.json_values import Json
from circuitkit.util.tables import to_csv

__all__ = ["WRITERS"]

ENDS = ("kind", "layer", "position", "token", "feature", "activation", "label")


def _ready(graph: Graph) -> Graph:
    """The graph with a node's ``value`` as its ``activation``, for programs keep the former for
    themselves, and without numbers that are not finite, which their files cannot hold."""
    found: Graph = nx.DiGraph()
    found.graph.update(_finite(graph.graph))
    for name, own in graph.nodes(data=True):
        found.add_node(name, **_finite({"activation" if k == "value" else k: own[k] for k in own}))
    found.add_edges_from((a, b, _finite(own)) for a, b, own in graph.edges(data=True))
    return found


def _finite(attributes: Mapping[str, Json]) -> dict[str, Json]:
    return {
        key: value
        for key, value in attributes.items()
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }


def _edge(start: str, to: str) -> str:
    return f"{start}->{to}"


def _shown(graph: Graph, name: str) -> str:
    """What a program shows of a node: its label, or else its name."""
    return str(graph.nodes[name].get("label") or name)


def _graphml(graph: Graph) -> str:
    return graphml(_ready(graph))


def _gexf(graph: Graph) -> str:
    ready = _ready(graph)
    return _document(ready, lambda name: _shown(ready, name), _edge)


def _cyjs(graph: Graph) -> str:
    return _elements(_ready(graph), _edge, lambda _: "adds")


def _dot(graph: Graph) -> str:
    """DOT with a row for each layer, tokens at the bottom."""
    ready = _ready(graph)
    lines = ["digraph attribution {", f"graph [{_listed(flat(ready.graph))}]", "rankdir=BT"]
    lines += ["node [shape=box]", "edge [arrowsize=0.6]"]
    rows: dict[int, list[str]] = {}
    for name in sorted(ready):
        own = ready.nodes[name]
        said = {**flat(own), "label": flat({"label": _shown(ready, name)})["label"]}
        lines.append(f"{_quoted(name)} [{_listed(said)}]")
        if own["kind"] != "bias":
            rows.setdefault(int(own.get("layer", -1)), []).append(_quoted(name))
    lines += [f"{{rank=same {' '.join(names)}}}" for _, names in sorted(rows.items())]
    for start, to, data in sorted(ready.edges(data=True), key=lambda edge: edge[:2]):
        lines.append(f"{_quoted(start)} -> {_quoted(to)} [{_listed(flat(data))}]")
    return "\n".join([*lines, "}"]) + "\n"


def _csv(graph: Graph) -> str:
    """One line an edge, those first through which most goes, with what is known of its ends."""
    ready, rows = _ready(graph), []
    edges = ready.edges(data=True)
    for start, to, data in sorted(edges, key=lambda e: (-e[2].get("influence", 0.0), *e[:2])):
        row: dict[str, Json] = {"writer": start, "reader": to, "edge": _edge(start, to), **data}
        for end, name in (("writer", start), ("reader", to)):
            own = ready.nodes[name]
            row |= {f"{end}_{key}": own[key] for key in ENDS if key in own}
        rows.append(row)
    first = ["writer", "reader", "edge", "weight", "influence"]
    ends = [f"{end}_{key}" for end in ("writer", "reader") for key in ENDS]
    return to_csv(rows, [*first, *ends], digits=None)


WRITERS: Mapping[str, Callable[[Graph], str]] = MappingProxyType(
    {"graphml": _graphml, "gexf": _gexf, "cyjs": _cyjs, "dot": _dot, "csv": _csv}
)
