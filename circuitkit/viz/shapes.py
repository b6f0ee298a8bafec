"""What pictures of circuits are made of: rectangles, curves and texts, whatever file they go into.

Places are in points from the top left corner.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import hypot
from typing import Literal, TypeAlias

from circuitkit.viz import style

__all__ = [
    "Anchor",
    "Curve",
    "Point",
    "Rect",
    "Scene",
    "Shape",
    "TIP",
    "Text",
    "moved",
    "scaled",
]

Point: TypeAlias = tuple[float, float]
Anchor: TypeAlias = Literal["start", "middle", "end"]

TIP = 1.8  # how far an arrow's head reaches beside a hair line


@dataclass(frozen=True)
class Rect:
    """A rectangle, by its middle."""

    x: float
    y: float
    width: float
    height: float
    fill: str = ""
    stroke: str = ""
    radius: float = 0.0
    title: str = ""


@dataclass(frozen=True)
class Curve:
    """A cubic spline: a point, then two controls and a point for each piece."""

    points: tuple[Point, ...]
    colour: str
    width: float
    dashed: bool = False
    opacity: float = 0.9
    title: str = ""
    arrow: float = 0.0  # the length of its head, beyond the last point, in its last direction

    @property
    def head(self) -> tuple[Point, ...]:
        """The corners of the arrow's head; none where it has no head."""
        if not self.arrow:
            return ()
        (x, y), side = self.points[-1], TIP + self.width / 2
        across, up = x - self.points[-2][0], self.points[-2][1] - y
        if across == 0:  # straight up, as most edges arrive
            return (x, y - self.arrow), (x - side, y), (x + side, y)
        length = hypot(across, up)
        across, up = across / length, up / length
        tip = (x + self.arrow * across, y - self.arrow * up)
        return tip, (x - side * up, y - side * across), (x + side * up, y + side * across)


@dataclass(frozen=True)
class Text:
    """One line of text; ``x`` is its left end, its middle or its right end, as ``anchor`` says."""

    x: float
    y: float
    text: str
    size: float = style.SMALL
    colour: str = style.INK
    anchor: Anchor = "start"
    bold: bool = False


Shape: TypeAlias = Rect | Curve | Text


@dataclass(frozen=True)
class Scene:
    """A picture: what is drawn, the lowest first."""

    width: float
    height: float
    shapes: tuple[Shape, ...]


def scaled(picture: Scene, factor: float) -> Scene:
    """The picture, so many times as large."""
    return Scene(
        picture.width * factor,
        picture.height * factor,
        tuple(_scaled(shape, factor) for shape in picture.shapes),
    )


def _scaled(shape: Shape, factor: float) -> Shape:
    if isinstance(shape, Curve):
        points = tuple((x * factor, y * factor) for x, y in shape.points)
        wide, arrow = shape.width * factor, shape.arrow * factor
        return replace(shape, points=points, width=wide, arrow=arrow)
    x, y = shape.x * factor, shape.y * factor
    if isinstance(shape, Text):
        return replace(shape, x=x, y=y, size=shape.size * factor)
    wide, tall, radius = shape.width * factor, shape.height * factor, shape.radius * factor
    return replace(shape, x=x, y=y, width=wide, height=tall, radius=radius)


def moved(shape: Shape, x: float, y: float) -> Shape:
    """The shape, so much further right and down."""
    if isinstance(shape, Rect | Text):
        return replace(shape, x=shape.x + x, y=shape.y + y)
    return replace(shape, points=tuple((px + x, py + y) for px, py in shape.points))
