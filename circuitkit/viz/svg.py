"""A picture as an SVG document, written here: the same bytes on every machine."""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape

from circuitkit.viz import style
from circuitkit.viz.shapes import Curve, Point, Rect, Scene, Shape, Text

__all__ = ["document"]

DASHED = ' stroke-dasharray="5 3"'


def document(picture: Scene) -> str:
    """The SVG document of the picture."""
    width, height = f"{picture.width:.1f}", f"{picture.height:.1f}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="{style.FONTS}">',
        f'<rect width="{width}" height="{height}" fill="{style.PAPER}"/>',
        *map(_element, picture.shapes),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _element(shape: Shape) -> str:
    if isinstance(shape, Rect):
        return _rect(shape)
    if isinstance(shape, Text):
        return _text(shape)
    return _curve(shape)


def _rect(rect: Rect) -> str:
    left, top = rect.x - rect.width / 2, rect.y - rect.height / 2
    stroke = f' stroke="{rect.stroke}"' if rect.stroke else ""
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{rect.width:.1f}" height="{rect.height:.1f}" '
        f'rx="{rect.radius:g}" fill="{rect.fill or "none"}"{stroke}>{_title(rect.title)}</rect>'
    )


def _text(text: Text) -> str:
    # Letters hang from their base line: a third of their size below the middle.
    drop = 0.35 * text.size
    x, y = text.x, text.y + drop
    style = f' text-anchor="{text.anchor}"' if text.anchor != "start" else ""
    style += ' font-weight="bold"' if text.bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{text.size:g}" fill="{text.colour}"{style}>'
        f"{escape(text.text)}</text>"
    )


def _curve(curve: Curve) -> str:
    first, *rest = _pairs(curve.points)
    dash = DASHED if curve.dashed else ""
    head = f'<polygon points="{" ".join(_pairs(curve.head))}" fill="{curve.colour}"/>'
    return (
        f'<g opacity="{curve.opacity:g}">{_title(curve.title)}<path d="M{first}C{" ".join(rest)}" '
        f'fill="none" stroke="{curve.colour}" stroke-width="{curve.width:g}"{dash}/>'
        f"{head if curve.head else ''}</g>"
    )


def _pairs(points: Iterable[Point]) -> list[str]:
    return [f"{x:.1f},{y:.1f}" for x, y in points]


def _title(text: str) -> str:
    """What shows when the pointer rests on the shape."""
    return f"<title>{escape(text)}</title>" if text else ""
