"""What pictures are made of: rectangles, lines, curves, polygons and texts, whatever file they go
into.

Places are in points from the top left corner.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from circuitkit.viz import style

__all__ = [
    "Anchor",
    "Curve",
    "Dash",
    "Line",
    "Point",
    "Polygon",
    "Rect",
    "Scene",
    "Shape",
    "TIP",
    "Text",
    "moved",
    "shifted",
]

Point: TypeAlias = tuple[float, float]
Anchor: TypeAlias = Literal["start", "middle", "end"]
Dash: TypeAlias = Literal["solid", "dashed", "dotted"]

TIP = 1.8  # how far an arrow's head reaches beside a hair line


@dataclass(frozen=True)
class Rect:
    """A rectangle, by its middle; ``line`` is the width of its outline."""

    x: float
    y: float
    width: float
    height: float
    fill: str = ""
    stroke: str = ""
    radius: float = 0.0
    title: str = ""
    line: float = 1.0


@dataclass(frozen=True)
class Curve:
    """A cubic spline: a point, then two controls and a point for each piece."""

    points: tuple[Point, ...]
    colour: str
    width: float
    dashed: bool = False
    opacity: float = 0.9
    title: str = ""
    arrow: float = 0.0  # the length of its head, beyond the last point: edges arrive straight up

    @property
    def head(self) -> tuple[Point, ...]:
        """The corners of the arrow's head; none where it has no head."""
        if not self.arrow:
            return ()
        (x, y), side = self.points[-1], TIP + self.width / 2
        return (x, y - self.arrow), (x - side, y), (x + side, y)


@dataclass(frozen=True)
class Line:
    """Straight pieces from point to point."""

    points: tuple[Point, ...]
    colour: str
    width: float
    dash: Dash = "solid"


@dataclass(frozen=True)
class Polygon:
    """A filled area without an outline."""

    points: tuple[Point, ...]
    fill: str
    opacity: float = 1.0
    title: str = ""


@dataclass(frozen=True)
class Text:
    """One line of text; ``x`` is its left end, its middle or its right end, as ``anchor`` says.

    ``turned`` text reads upwards: what is said of ``x`` and ``y`` holds for ``y`` and ``x``, and
    its start is its lower end. Graphviz cannot draw it.
    """

    x: float
    y: float
    text: str
    size: float = style.SMALL
    colour: str = style.INK
    anchor: Anchor = "start"
    bold: bool = False
    turned: bool = False


Shape: TypeAlias = Rect | Curve | Line | Polygon | Text


@dataclass(frozen=True)
class Scene:
    """A picture: what is drawn, the lowest first."""

    width: float
    height: float
    shapes: tuple[Shape, ...]


def moved(shape: Shape, x: float, y: float) -> Shape:
    """The shape, so much further right and down."""
    if isinstance(shape, Rect | Text):
        return replace(shape, x=shape.x + x, y=shape.y + y)
    return replace(shape, points=shifted(shape.points, x, y))


def shifted(points: Iterable[Point], x: float, y: float) -> tuple[Point, ...]:
    """The points, so much further right and down."""
    return tuple((px + x, py + y) for px, py in points)
