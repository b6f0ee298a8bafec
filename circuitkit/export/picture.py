"""SVG, drawn here: the same picture on every machine, with nothing installed beside this package.

The layout is our own, because the ranks of a circuit are known and Graphviz's would differ from
version to version; ``engine="dot"`` asks for Graphviz's all the same.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

import networkx as nx

from circuitkit.export import _style
from circuitkit.export._render import check_engine, graphviz_drawn
from circuitkit.export._scene import Curve, Rect, Scene, Shape, Text, scene
from circuitkit.export.graphviz import dot

__all__ = ["svg"]

TIP = 1.8  # how far an arrow's head reaches beside a hair line


def svg(
    circuit: nx.DiGraph, *, edges: int = 200, title: str | None = None, engine: str = "builtin"
) -> str:
    """The circuit as an SVG picture: layers upwards, at most so many edges, the strongest.

    Raises OutputError for a style that cannot be drawn, and with ``engine="dot"`` where Graphviz is
    not installed or not done in time; CircuitError where the graph is no circuit.
    """
    if check_engine(engine) == "dot":
        source = dot(circuit, edges=edges, title=title)
        return graphviz_drawn(source, "svg", "dot").decode()
    return _document(scene(circuit, edges, title))


def _document(picture: Scene) -> str:
    width, height = f"{picture.width:.1f}", f"{picture.height:.1f}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="{_style.FONTS}">',
        f'<rect width="{width}" height="{height}" fill="{_style.PAPER}"/>',
        *map(_element, picture.shapes),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _element(shape: Shape) -> str:
    if isinstance(shape, Rect):
        return _rect(shape)
    return _text(shape) if isinstance(shape, Text) else _curve(shape)


def _rect(rect: Rect) -> str:
    left, top = rect.x - rect.width / 2, rect.y - rect.height / 2
    stroke = f' stroke="{rect.stroke}"' if rect.stroke else ""
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{rect.width:.1f}" height="{rect.height:.1f}" '
        f'rx="{rect.radius:g}" fill="{rect.fill}"{stroke}>{_title(rect.title)}</rect>'
    )


def _text(text: Text) -> str:
    # Letters hang from their base line: a third of their size below the middle.
    place = f'x="{text.x:.1f}" y="{text.y + 0.35 * text.size:.1f}" font-size="{text.size:g}"'
    style = ' text-anchor="middle"' if text.centred else ""
    style += ' font-weight="bold"' if text.bold else ""
    return f'<text {place} fill="{text.colour}"{style}>{escape(text.text)}</text>'


def _curve(curve: Curve) -> str:
    first, *rest = (f"{x:.1f},{y:.1f}" for x, y in curve.points)
    dash = ' stroke-dasharray="5 3"' if curve.dashed else ""
    return (
        f'<g opacity="{curve.opacity:g}">{_title(curve.title)}<path d="M{first}C{" ".join(rest)}" '
        f'fill="none" stroke="{curve.colour}" stroke-width="{curve.width:g}"{dash}/>'
        f"{_head(curve)}</g>"
    )


def _head(curve: Curve) -> str:
    if not curve.arrow:
        return ""
    (x, y), side = curve.points[-1], TIP + curve.width / 2
    corners = ((x, y - curve.arrow), (x - side, y), (x + side, y))
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in corners)
    return f'<polygon points="{points}" fill="{curve.colour}"/>'


def _title(text: str) -> str:
    """What shows when the pointer rests on the shape."""
    return f"<title>{escape(text)}</title>" if text else ""
