"""SVG, drawn here: the same picture on every machine, with nothing installed beside this package.

The layout is our own, because the ranks of a circuit are known and Graphviz's would differ from
version to version; ``engine="dot"`` asks for Graphviz's all the same.
"""

from __future__ import annotations

from typing import Annotated

from circuitkit.graph.types import Graph, is_graph
from circuitkit.util.options import Form
from circuitkit.viz.circuits.choice import Asked
from circuitkit.viz.circuits.graphviz import as_dot
from circuitkit.viz.circuits.pictured import pictured
from circuitkit.viz.circuits.placed_drawing import Words, is_words
from circuitkit.viz.render import check_engine, laid_out
from circuitkit.viz.svg import document

__all__ = ["svg"]


def svg(
    circuit: Graph,
    *,
    edges: Asked = None,
    title: str | None = None,
    width: float | None = None,
    engine: str = "builtin",
    beside: Annotated[Graph | None, Form("a circuit, or None", is_graph)] = None,
    prompt: Annotated[Words | None, Form("words by span, or None", is_words)] = None,
) -> str:
    """The circuit as an SVG picture, layers upwards: the strongest ``edges``.

    They are at most 40, another number, or ``"all"``. For a column of a paper it is ``width``
    inches wide, in letters of at least 7 points, with as many edges as fit if no number is given.
    A circuit that names components and no edges is drawn by their roles. With ``beside``, a second
    circuit of the same model, it shows what both have, and what only one of them has. A circuit
    between places is drawn along the words of a prompt, ``{"S1": "Mary", "end": "to"}``, which are
    the circuit's own (its attribute ``words``) unless ``prompt`` gives others.

    Raises OutputError for a style that cannot be drawn, and with ``engine="dot"`` where Graphviz is
    not installed or not done in time; CircuitError where a graph is not a circuit, or the second
    one is of another model.

    Example:
        >>> ck.formats.svg(circuit, edges=20, title="IOI")[:4]
        '<svg'
    """
    if check_engine(engine, width, beside is not None) == "dot":
        return laid_out(as_dot(circuit, edges, title), "svg").decode()
    return document(pictured(circuit, edges, title, width, beside, prompt))
