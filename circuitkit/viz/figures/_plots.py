"""matplotlib, where it is installed: blank figures, colour maps, and finished pictures as files."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any

from circuitkit.errors import OutputError
from circuitkit.viz import style
from circuitkit.viz.render import DPI
from circuitkit.viz.shapes import Line, Polygon, Rect, Scene, Text
from circuitkit.viz.xdot import INCH

DASHES = {"solid": "-", "dashed": "--", "dotted": ":"}
SIDES = {"start": "left", "middle": "center", "end": "right"}
REMEDY = "pip install matplotlib"


def blank(width: float, height: float, rows: int, columns: int) -> tuple[Any, list[Any]]:
    """A matplotlib figure of this size in points, and its axes row by row. Raises OutputError where
    matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OutputError(f"matplotlib is not installed: {REMEDY}, or write .svg") from error
    figure = Figure(figsize=(width / INCH, height / INCH), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def colour_map(stops: Sequence[str], empty: str) -> Any:
    """The colours as a matplotlib colour map, with that of nan."""
    from matplotlib.colors import LinearSegmentedColormap

    found = LinearSegmentedColormap.from_list("circuitkit", list(stops))
    return found.with_extremes(bad=empty)


def wrapped(title: str) -> str:
    """The title in lines that fit over axes."""
    return textwrap.fill(title, 48)


def drawn(picture: Scene, suffix: str) -> bytes:
    """The picture as ``png`` or ``pdf``, with everything where it stands, turned text too; it may
    hold no curves. Raises OutputError where matplotlib is not installed."""
    figure, (axes,) = blank(picture.width, picture.height, 1, 1)
    import matplotlib

    figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    axes.set(xlim=(0, picture.width), ylim=(picture.height, 0))
    axes.set_axis_off()
    font = _font()
    for order, shape in enumerate(picture.shapes):
        if isinstance(shape, Text):
            _write(axes, shape, font, order)
        elif isinstance(shape, Line):
            xs, ys = zip(*shape.points, strict=True)
            axes.plot(xs, ys, color=shape.colour, linewidth=shape.width,
                      linestyle=DASHES[shape.dash], zorder=order)  # fmt: skip
        elif isinstance(shape, Rect | Polygon):
            _fill(axes, shape, order)
    file = io.BytesIO()
    undated = {"CreationDate": None} if suffix == "pdf" else {}
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(file, format=suffix, dpi=DPI, metadata=undated)
    return file.getvalue()


def _font() -> str:
    """The first of our fonts that there is."""
    from matplotlib import font_manager

    known = set(font_manager.get_font_names())
    wanted = [name.strip(" '") for name in style.FONTS.split(",")]
    return next((name for name in wanted if name in known), "sans-serif")


def _write(axes: Any, text: Text, font: str, order: int) -> None:
    drop = 0.35 * text.size
    x, y = (text.x + drop, text.y) if text.turned else (text.x, text.y + drop)
    axes.text(
        x, y, text.text, fontsize=text.size, color=text.colour, family=font, zorder=order,
        ha=SIDES[text.anchor], va="baseline", weight="bold" if text.bold else "normal",
        rotation=90 if text.turned else 0, rotation_mode="anchor", parse_math=False,
    )  # fmt: skip


def _fill(axes: Any, shape: Rect | Polygon, order: int) -> None:
    from matplotlib import patches

    if isinstance(shape, Polygon):
        style = {"facecolor": shape.fill, "alpha": shape.opacity, "linewidth": 0}
        axes.add_patch(patches.Polygon(shape.points, closed=True, zorder=order, **style))
        return
    corner = (shape.x - shape.width / 2, shape.y - shape.height / 2)
    axes.add_patch(
        patches.Rectangle(
            corner,
            shape.width,
            shape.height,
            facecolor=shape.fill or "none",
            zorder=order,
            edgecolor=shape.stroke or "none",
            linewidth=shape.line if shape.stroke else 0,
        )
    )
