"""PNG and PDF: the picture of ``svg``, drawn by matplotlib, so that all formats show the same."""

from __future__ import annotations

from typing import Annotated

from circuitkit.graph.types import Graph, is_graph
from circuitkit.util.options import Form
from circuitkit.viz.circuits.choice import Asked
from circuitkit.viz.circuits.graphviz import as_dot
from circuitkit.viz.circuits.pictured import pictured
from circuitkit.viz.circuits.placed_drawing import Words, is_words
from circuitkit.viz.painting import painted
from circuitkit.viz.render import check_engine, laid_out

__all__ = ["pdf", "png"]


def png(
    circuit: Graph,
    *,
    edges: Asked = None,
    title: str | None = None,
    width: float | None = None,
    engine: str = "builtin",
    beside: Annotated[Graph | None, Form("a circuit, or None", is_graph)] = None,
    prompt: Annotated[Words | None, Form("words by span, or None", is_words)] = None,
) -> bytes:
    """The circuit as a PNG picture, 200 dots an inch; its style is that of ``svg``.

    Raises OutputError for a style that cannot be drawn, and with ``engine="dot"`` where Graphviz is
    not installed or not done in time; CircuitError where the graph is not a circuit.

    Example:
        >>> ck.formats.png(circuit)[1:4]
        b'PNG'
    """
    return _drawn(circuit, "png", edges, title, width, engine, beside, prompt)


def pdf(
    circuit: Graph,
    *,
    edges: Asked = None,
    title: str | None = None,
    width: float | None = None,
    engine: str = "builtin",
    beside: Annotated[Graph | None, Form("a circuit, or None", is_graph)] = None,
    prompt: Annotated[Words | None, Form("words by span, or None", is_words)] = None,
) -> bytes:
    """The circuit as a PDF page of its size, of lines and letters; its style is that of ``svg``.

    Raises OutputError for a style that cannot be drawn, and with ``engine="dot"`` where Graphviz is
    not installed or not done in time; CircuitError where the graph is not a circuit.

    Example:
        >>> ck.formats.pdf(circuit)[:4]
        b'%PDF'
    """
    return _drawn(circuit, "pdf", edges, title, width, engine, beside, prompt)


def _drawn(
    circuit: Graph, suffix: str, edges: Asked, title: str | None, width: float | None, engine: str,
    beside: Graph | None, prompt: Words | None,
) -> bytes:  # fmt: skip
    if check_engine(engine, width, beside is not None) == "dot":
        return laid_out(as_dot(circuit, edges, title), suffix)
    return painted(pictured(circuit, edges, title, width, beside, prompt), suffix)
