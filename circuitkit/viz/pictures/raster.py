"""PNG and PDF: the picture of ``svg``, handed to Graphviz with every place given.

Graphviz only draws it, so there is no layout to wait for, and all formats show the same picture.
"""

from __future__ import annotations

import networkx as nx

from circuitkit.viz.circuits.scene import scene
from circuitkit.viz.pictures.graphviz import dot
from circuitkit.viz.render import check_engine, graphviz_drawn, rendered

__all__ = ["pdf", "png"]


def png(
    circuit: nx.DiGraph, *, edges: int = 200, title: str | None = None, engine: str = "builtin"
) -> bytes:
    """The circuit as a PNG picture, 200 dots an inch; needs Graphviz.

    Raises OutputError where Graphviz is missing or not done in time, or for a style that cannot be
    drawn; CircuitError where the graph is no circuit.
    """
    return _drawn(circuit, "png", edges, title, engine)


def pdf(
    circuit: nx.DiGraph, *, edges: int = 200, title: str | None = None, engine: str = "builtin"
) -> bytes:
    """The circuit as a PDF page of its size, of lines and letters; needs Graphviz.

    Raises OutputError where Graphviz is missing or not done in time, or for a style that cannot be
    drawn; CircuitError where the graph is no circuit.
    """
    return _drawn(circuit, "pdf", edges, title, engine)


def _drawn(circuit: nx.DiGraph, suffix: str, edges: int, title: str | None, engine: str) -> bytes:
    if check_engine(engine) == "dot":
        return graphviz_drawn(dot(circuit, edges=edges, title=title), suffix, "dot")
    return rendered(scene(circuit, edges, title), suffix)
