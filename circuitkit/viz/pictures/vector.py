"""SVG, drawn here: the same picture on every machine, with nothing installed beside this package.

The layout is our own, because the ranks of a circuit are known and Graphviz's would differ from
version to version; ``engine="dot"`` asks for Graphviz's all the same.
"""

from __future__ import annotations

from circuitkit.graph.types import Graph
from circuitkit.viz.circuits.choice import Asked
from circuitkit.viz.circuits.graphviz import as_dot
from circuitkit.viz.circuits.scene import scene
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
) -> str:
    """The circuit as an SVG picture, layers upwards: the strongest ``edges``.

    They are at most 40, another number, or ``"all"``. For a column of a paper it is ``width``
    inches wide, in letters of at least 7 points, with as many edges as fit if no number is given.

    Raises OutputError for a style that cannot be drawn, and with ``engine="dot"`` where Graphviz is
    not installed or not done in time; CircuitError where the graph is not a circuit.

    Example:
        >>> ck.formats.svg(circuit, edges=20, title="IOI")[:4]
        '<svg'
    """
    if check_engine(engine, width) == "dot":
        return laid_out(as_dot(circuit, edges, title), "svg").decode()
    return document(scene(circuit, edges, title, width))
