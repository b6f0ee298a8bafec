"""A picture as DOT text that holds finished drawing operations: Graphviz lays nothing out.

The operations are those of Graphviz's xdot format; y grows upwards in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from circuitkit.viz import style
from circuitkit.viz.shapes import Curve, Line, Point, Polygon, Rect, Scene, Shape, Text, shifted

__all__ = ["ANCHORS", "CLEAR", "INCH", "ROUND", "placed"]

INCH = 72.0
ANCHORS = {"start": -1, "middle": 0, "end": 1}
CLEAR = "#00000000"
ROUND = 0.448  # a control's distance from the corner that makes a quarter circle of radius 1


def placed(picture: Scene, dpi: float) -> str:
    """The picture as DOT; text that is turned must not be in it."""
    width, height = picture.width, picture.height
    # Graphviz reads no line longer than some 16,000 signs; a backslash lets a string go on.
    drawn = " \\\n".join(
        operation.replace('"', '\\"')
        for shape in picture.shapes
        for operation in _operations(shape, height)
    )
    return (
        f'digraph {{ graph [pad=0, margin=0, dpi={dpi:g}, bgcolor="{style.PAPER}", '
        f'_background="{drawn}"]; sheet [pos="{width / 2:.2f},{height / 2:.2f}", '
        f"width={width / INCH:.4f}, height={height / INCH:.4f}, "
        'fixedsize=true, shape=box, style=invis, label=""]; }\n'
    )


def _operations(shape: Shape, height: float) -> Iterator[str]:
    if isinstance(shape, Rect):
        return _rect(shape, height)
    if isinstance(shape, Text):
        return _text(shape, height)
    if isinstance(shape, Curve):
        return _curve(shape, height)
    return _line(shape, height) if isinstance(shape, Line) else _polygon(shape, height)


def _rect(rect: Rect, height: float) -> Iterator[str]:
    yield _pen(rect.stroke or CLEAR, rect.line, "solid")
    yield _brush(rect.fill or CLEAR)
    x, y = rect.width / 2, rect.height / 2
    around = _rounded(x, y, min(rect.radius, x, y)) if rect.radius else _corners(x, y)
    operation = ("b" if rect.radius else "P") if rect.fill else "p"
    yield _shape(operation, shifted(around, rect.x, rect.y), height)


def _corners(x: float, y: float) -> tuple[Point, ...]:
    return (-x, -y), (x, -y), (x, y), (-x, y)


def _rounded(x: float, y: float, radius: float) -> tuple[Point, ...]:
    """A closed spline around a box with round corners, of half its width and height."""
    corners = []
    for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        upright = [(sx * x, sy * (y - d)) for d in (radius, ROUND * radius)]
        level = [(sx * (x - d), sy * y) for d in (ROUND * radius, radius)]
        corner = upright + level
        corners.append(corner if sx == sy else corner[::-1])
    around: list[Point] = []
    for corner, after in zip(corners, [*corners[1:], corners[0]], strict=True):
        around += [*corner, corner[-1], after[0]]
    return (*around, corners[0][0])


def _text(text: Text, height: float) -> Iterator[str]:
    yield _pen(text.colour, 1.0, "solid")
    yield _counted(f"F {text.size:g}", f"{style.FONT}-Bold" if text.bold else style.FONT)
    baseline = height - text.y - 0.35 * text.size
    width = style.text_width(text.text, text.size)
    place = f"T {text.x:.2f} {baseline:.2f} {ANCHORS[text.anchor]} {width:.1f}"
    # Graphviz's versions differ in how they count backslashes: this sign looks like one.
    yield _counted(place, text.text.replace("\\", "∖"))


def _curve(curve: Curve, height: float) -> Iterator[str]:
    colour = style.shaded(curve.colour, curve.opacity)
    yield _pen(colour, curve.width, "dashed" if curve.dashed else "solid")
    yield _shape("B", curve.points, height)
    if curve.head:
        yield _pen(CLEAR, 1.0, "solid")
        yield _brush(colour)
        yield _shape("P", curve.head, height)


def _line(line: Line, height: float) -> Iterator[str]:
    yield _pen(line.colour, line.width, line.dash)
    yield _shape("L", line.points, height)


def _polygon(polygon: Polygon, height: float) -> Iterator[str]:
    yield _pen(CLEAR, 1.0, "solid")
    yield _brush(style.shaded(polygon.fill, polygon.opacity))
    yield _shape("P", polygon.points, height)


def _pen(colour: str, width: float, dash: str) -> str:
    styles = (f"setlinewidth({width:g})", dash)
    return " ".join((*(_counted("S", style) for style in styles), _counted("c", colour)))


def _brush(colour: str) -> str:
    return _counted("C", colour)


def _shape(operation: str, points: Iterable[Point], height: float) -> str:
    places = [f"{x:.2f} {height - y:.2f}" for x, y in points]
    return f"{operation} {len(places)} {' '.join(places)}"


def _counted(operation: str, text: str) -> str:
    """The operation with a text, before which the number of its bytes stands."""
    return f"{operation} {len(text.encode())} -{text}"
