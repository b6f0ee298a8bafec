"""PNG and PDF: the picture of ``svg``, handed to Graphviz with every place given.

Graphviz only draws it, so there is no layout to wait for, and all formats show the same picture.
"""

from __future__ import annotations

import graphviz
import networkx as nx

from circuitkit.export import _style
from circuitkit.export._render import check_engine, graphviz_drawn
from circuitkit.export._scene import Curve, Rect, Scene, Text, scene
from circuitkit.export.graphviz import dot

__all__ = ["pdf", "png"]

DPI = 200
INCH = 72.0


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
        source = dot(circuit, edges=edges, title=title)
    else:
        source = _placed(scene(circuit, edges, title), DPI if suffix == "png" else INCH)
    return graphviz_drawn(source, suffix, engine)


def _placed(picture: Scene, dpi: float) -> str:
    """The picture as DOT whose nodes are its rectangles and texts, and whose edges its curves."""
    graph = graphviz.Digraph(
        graph_attr={"outputorder": "nodesfirst", "pad": "0", "margin": "0", "dpi": f"{dpi:g}"},
        node_attr={"fixedsize": "true", "margin": "0", "label": ""},
    )
    sheet = Rect(picture.width / 2, picture.height / 2, picture.width, picture.height, _style.PAPER)
    for number, shape in enumerate((sheet, *picture.shapes)):
        if isinstance(shape, Curve):
            graph.edge("0", "0", **_curve(shape, sheet))
        else:
            attributes = _rect(shape) if isinstance(shape, Rect) else _text(shape)
            graph.node(str(number), **_place(shape, sheet), **attributes)
    return str(graph.source)


def _place(shape: Rect | Text, sheet: Rect) -> dict[str, str]:
    x = shape.x
    if isinstance(shape, Rect):
        width, height = shape.width, shape.height
    else:
        width, height = _style.text_width(shape.text, shape.size), shape.size
        if not shape.centred:  # what reached beyond the sheet would widen the picture
            width = min(width, sheet.width - x)
            x += width / 2
    return {
        "pos": f"{x:.2f},{sheet.height - shape.y:.2f}",  # y grows upwards in DOT
        "width": f"{width / INCH:.4f}",
        "height": f"{height / INCH:.4f}",
    }


def _rect(rect: Rect) -> dict[str, str]:
    rounded = ",rounded" if rect.radius else ""
    return {
        "shape": "box",
        "style": f"filled{rounded}",
        "fillcolor": rect.fill,
        "color": rect.stroke or rect.fill,
    }


def _text(text: Text) -> dict[str, str]:
    end = "" if text.centred else "\\l"  # Graphviz's line end for text that begins at the left
    return {
        "shape": "plaintext",
        "label": f"{graphviz.escape(text.text)}{end}",
        "fontname": f"{_style.FONT}-Bold" if text.bold else _style.FONT,
        "fontsize": f"{text.size:g}",
        "fontcolor": text.colour,
    }


def _curve(curve: Curve, sheet: Rect) -> dict[str, str]:
    points = " ".join(f"{x:.2f},{sheet.height - y:.2f}" for x, y in curve.points)
    x, y = curve.points[-1]
    tip = f"e,{x:.2f},{sheet.height - y + curve.arrow:.2f} " if curve.arrow else ""
    return {
        "pos": tip + points,
        "color": _style.shaded(curve.colour, curve.opacity),
        "penwidth": f"{curve.width:g}",
        "style": "dashed" if curve.dashed else "solid",
        "arrowhead": "normal" if curve.arrow else "none",
        "arrowsize": f"{curve.arrow / 10:.2f}",
    }
