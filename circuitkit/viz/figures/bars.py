"""Values with names as horizontal bars: the strongest edges, paths or groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

import circuitkit.viz.figures._labels as _labels
from circuitkit.errors import OutputError
from circuitkit.viz import style
from circuitkit.viz.figures._figure import Figure
from circuitkit.viz.figures._sheet import PAGE, Sheet, Size, Tip

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawn

__all__ = ["Bars"]

NEGATIVE, POSITIVE = "#67a9cf", "#ef8a62"  # as in heat maps
GRID, THICK = "#ebebeb", 0.72  # a bar's height, of its row
ROW, LEAST = 17.0, 40.0  # the height of a row; of the axes at least
SIDES = 130.0  # about what the names take at the left
DOT = 9.0  # the area of a dot


@dataclass(frozen=True, repr=False, eq=False)
class Bars(Figure):
    """Named values as horizontal bars from zero, the first at the top.

    Bars are blue below zero and red above it. ``errors`` are the half lengths of whiskers (nan:
    none); ``points`` are the single values of each row, as dots; ``marks`` are rows that are
    outlined, and ``mark_name`` says why. ``line`` is a value that is marked across all rows, and
    ``line_name`` says what it is. A value of nan has no bar. Raises OutputError where there
    are no values, where they are infinite, and for labels, errors, points or marks of another
    number.

    Example:
        >>> figure = ck.figures.Bars([1.5, -0.5], ["m0->logits", "input->m0"], title="Effects")
        >>> figure
        Bars(2 rows, 'Effects')
        >>> figure.save("effects.pdf").name
        'effects.pdf'
    """

    values: Sequence[float] | Float[np.ndarray, " rows"]
    labels: Sequence[str]
    errors: Sequence[float] | Float[np.ndarray, " rows"] | None = None
    points: Float[np.ndarray, "rows points"] | None = None
    title: str = ""
    x_name: str = ""
    marks: Sequence[bool] | Bool[np.ndarray, " rows"] | None = None
    mark_name: str = "marked"
    line: float | None = None
    line_name: str = ""

    def __post_init__(self) -> None:
        count = len(self.labels)
        if self.lengths.ndim != 1 or not count:
            raise OutputError(f"values have the shape {self.lengths.shape}; give a row of numbers")
        if np.isinf(self.lengths).any():
            raise OutputError("values are infinite; give finite numbers, or nan for no bar")
        for name in ("values", "errors", "points", "marks"):
            own = getattr(self, name)
            if own is not None and len(own) != count:
                raise OutputError(f"there are {len(own)} {name} for {count} labels")

    def __repr__(self) -> str:
        return f"Bars({len(self.labels)} rows{f', {self.title!r}' if self.title else ''})"

    @cached_property
    def lengths(self) -> Float[np.ndarray, " rows"]:
        """The values as an array of floats."""
        return np.asarray(self.values, dtype=float)

    @property
    def colours(self) -> tuple[object, ...]:
        """Nothing: bars have no colour bar."""
        return ()

    # -- drawing -----------------------------------------------------------------------------------
    def sheet(self) -> Sheet:
        """The bars alone under their title."""
        return Sheet((self,), 1, PAGE, self.title)

    def size(self, width: float) -> Size:
        """The width and the height of the axes that go well with the page."""
        return max(width - SIDES, 2 * LEAST), max(ROW * len(self.labels), LEAST)

    def paint(self, axes: Axes, size: Size) -> None:
        """Draw the bars into matplotlib's axes of this size."""
        places, values = np.arange(len(self.labels)), np.nan_to_num(self.lengths)
        colours = [POSITIVE if value > 0 else NEGATIVE for value in values]
        marked = np.zeros(len(places), bool) if self.marks is None else np.asarray(self.marks)
        axes.barh(places, values, THICK, color=colours, linewidth=np.where(marked, 1.4, 0.0),
                  edgecolor=style.INK)  # fmt: skip
        if self.points is not None:
            for place, own in zip(places, np.asarray(self.points, float), strict=True):
                axes.scatter(own, np.full(len(own), place), DOT, color=style.INK, alpha=0.35,
                             linewidth=0, zorder=3)  # fmt: skip
        if self.errors is not None:
            axes.errorbar(values, places, xerr=np.nan_to_num(np.asarray(self.errors, float)),
                          fmt="none", ecolor=style.INK, elinewidth=1.0, capsize=2)  # fmt: skip
        axes.axvline(0, color=style.FAINT, linewidth=0.9)
        if self.line is not None:
            axes.axvline(self.line, color=style.INK, linewidth=1.1, linestyle="--")
        axes.set_ylim(len(places) - 0.5, -0.5)
        _labels.put(axes.yaxis, [_labels.readable(name, 60) for name in self.labels], ROW)
        axes.locator_params(axis="x", nbins=6)
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.grid(axis="x", color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        named = _labels.wrapped(_labels.readable(self.x_name, 120), size[0] + 60, style.SMALL)
        axes.set_xlabel(named)

    def bar(self, figure: Drawn, axes: Sequence[Axes], size: Size, where: str) -> None:
        """Nothing: bars have no colour bar."""

    def legend(self) -> Sequence[Artist]:
        """What is explained: the marked rows and the line across, where there are any."""
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        shown: list[Artist] = []
        if self.marks is not None and np.any(self.marks):
            name = _labels.readable(self.mark_name, 60)
            shown.append(Patch(facecolor="none", edgecolor=style.INK, linewidth=1.4, label=name))
        if self.line is not None:
            name, dashes = _labels.readable(self.line_name, 80), (0, (4, 2))
            shown.append(Line2D([], [], color=style.INK, lw=1.1, linestyle=dashes, label=name))
        return shown

    def tips(self) -> Iterator[Tip]:
        """What each row says when the pointer rests on its bar."""
        for place, value in enumerate(self.lengths):
            if not isnan(value):
                error = float("nan") if self.errors is None else float(self.errors[place])
                said = f"{value:+.4g}" + ("" if isnan(error) else f" ± {error:.2g}")
                ends = sorted((0.0, float(value)))
                half = THICK / 2
                yield Tip(ends[0], place - half, ends[1], place + half,
                          f"{_labels.exact(self.labels[place])}: {said}")  # fmt: skip
