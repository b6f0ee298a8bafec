"""A scene as PNG or PDF, drawn by matplotlib: everything at its place, as the SVG shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitkit.viz import style
from circuitkit.viz.canvas import INCH, rendered, styled
from circuitkit.viz.shapes import Curve, Rect, Scene, Text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

__all__ = ["painted"]

SIDES = {"start": "left", "middle": "center", "end": "right"}
ROUND = 0.448  # a control's distance from the corner that makes a quarter circle of radius 1
DASHED = (5.0, 3.0)  # points, as in an SVG


def painted(picture: Scene, suffix: str) -> bytes:
    """The picture as ``png`` (200 dots an inch) or ``pdf`` (letters and lines, fonts embedded)."""
    with styled():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(picture.width / INCH, picture.height / INCH))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, picture.width), ylim=(picture.height, 0))
        axes.set_axis_off()
        font = _font()
        for order, shape in enumerate(picture.shapes):
            if isinstance(shape, Text):
                _write(axes, shape, font, order)
            else:
                for patch in _rect(shape) if isinstance(shape, Rect) else _curve(shape):
                    axes.add_patch(patch).set_zorder(order)
    return rendered(figure, suffix)


def _font() -> str:
    """The first of our fonts that there is, as in a browser."""
    from matplotlib import font_manager

    known = set(font_manager.get_font_names())
    wanted = [name.strip(" '") for name in style.FONTS.split(",")]
    return next((name for name in wanted if name in known), "sans-serif")


def _write(axes: Axes, text: Text, font: str, order: int) -> None:
    axes.text(
        text.x, text.y + 0.35 * text.size, text.text, fontsize=text.size, color=text.colour,
        family=font, weight="bold" if text.bold else "normal", ha=SIDES[text.anchor],
        va="baseline", zorder=order,
    )  # fmt: skip


def _rect(rect: Rect) -> list[Patch]:
    """The rectangle: up to each corner, around it by a cubic, and on."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    wide, tall = rect.width / 2, rect.height / 2
    radius = min(rect.radius, wide, tall)
    points = []
    for x, y in ((1, -1), (1, 1), (-1, 1), (-1, -1)):
        level = [(x * (wide - d), y * tall) for d in (radius, ROUND * radius)]
        upright = [(x * wide, y * (tall - d)) for d in (ROUND * radius, radius)]
        points += [*level, *upright] if x != y else [*upright[::-1], *level[::-1]]
    codes = [Path.LINETO, *[Path.CURVE4] * 3] * 4
    around = [(rect.x + x, rect.y + y) for x, y in (*points, points[0])]
    outline = Path(around, [Path.MOVETO, *codes[1:], Path.CLOSEPOLY])
    return [
        PathPatch(
            outline, facecolor=rect.fill or "none", edgecolor=rect.stroke or "none",
            linewidth=1 if rect.stroke else 0,
        )
    ]  # fmt: skip


def _curve(curve: Curve) -> list[Patch]:
    """The spline, and its head where it has one."""
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path

    codes = [Path.MOVETO] + [Path.CURVE4] * (len(curve.points) - 1)
    dash = (0, tuple(length / curve.width for length in DASHED)) if curve.dashed else "-"
    line = PathPatch(
        Path(curve.points, codes), facecolor="none", edgecolor=curve.colour, linestyle=dash,
        linewidth=curve.width, alpha=curve.opacity, capstyle="butt",
    )  # fmt: skip
    if not curve.head:
        return [line]
    head = Polygon(curve.head, facecolor=curve.colour, alpha=curve.opacity, linewidth=0)
    return [line, head]
