"""Matrices as coloured cells: layers by heads, layers by tokens, choices by choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, floor, isnan, log10
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
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure as Drawn
    from matplotlib.patches import Rectangle

__all__ = ["Heatmap"]

# After ColorBrewer's RdBu and Blues: told apart with every common form of colour blindness.
DIVERGING = ("#2166ac", "#67a9cf", "#d1e5f0", "#ffffff", "#fddbc7", "#ef8a62", "#b2182b")
SEQUENTIAL = ("#ffffff", "#deebf7", "#9ecae1", "#3182bd", "#08519c")
EMPTY, HAIR = "#d4d4d4", "#e4e4e4"  # a cell without a value; the lines between cells
CELL = (5.0, 30.0)  # the smallest and the largest side of a cell
TALL = 0.85  # the height that the cells aim at, of the width of the page
SIDES = 60.0  # about what labels and a name take at the left
BAR = (220.0, 9.0)  # the colour bar: at most so long; its other side
DIGITS = 9.0  # the size of numbers in cells
MISSING = "no value"


@dataclass(frozen=True, repr=False, eq=False)
class Heatmap(Figure):
    """Values as coloured cells: rows downwards (layers), columns to the right (heads, tokens).

    A value of nan is a grey cell. Labels are numbers from 0 where none are given; of many, every
    k-th is shown. ``diverging``: blue below zero, white at zero, red above it, up to ±limit; else
    white to blue, from the first of ``limit`` to the second (of one number: from 0). Without a
    ``limit`` the colours reach as far as the values. ``unit`` is written beside the colour bar;
    ``numbers`` writes each value into its cell; ``marks`` are cells that are outlined, and
    ``mark_name`` says why. Raises OutputError for values that are not a matrix, or not finite,
    labels or marks of another shape, and a limit that leaves no colours.

    Example:
        >>> heatmap = ck.figures.Heatmap([[0.1, -0.2], [0.3, 0.0]], unit="logit difference")
        >>> heatmap.save("heads.svg").name
        'heads.svg'
    """

    values: Float[np.ndarray, "rows columns"]
    row_labels: Sequence[object] | None = None
    column_labels: Sequence[object] | None = None
    row_name: str = ""
    column_name: str = ""
    title: str = ""
    unit: str = ""
    marks: Bool[np.ndarray, "rows columns"] | None = None
    mark_name: str = "marked"
    numbers: bool = False
    diverging: bool = True
    limit: float | tuple[float, float] | None = None

    def __post_init__(self) -> None:
        table = self.table
        if table.ndim != 2 or not table.size:
            raise OutputError(f"values have the shape {table.shape}; give a matrix with cells")
        if np.isinf(table).any():
            raise OutputError("values are infinite; give finite numbers, or nan for an empty cell")
        for name, labels, count in zip(
            ("row", "column"), (self.row_labels, self.column_labels), table.shape, strict=True
        ):
            if labels is not None and len(labels) != count:
                raise OutputError(f"there are {len(labels)} {name} labels for {count} {name}s")
        if self.marks is not None and np.shape(self.marks) != table.shape:
            raise OutputError(
                f"marks have the shape {np.shape(self.marks)}, and values {table.shape}"
            )
        if not self.scale[0] < self.scale[1]:
            raise OutputError(f"limit={self.limit!r} leaves no colours; give a wider one")

    def __repr__(self) -> str:
        rows, columns = self.table.shape
        return f"Heatmap({rows} × {columns}{f', {self.title!r}' if self.title else ''})"

    @cached_property
    def table(self) -> Float[np.ndarray, "rows columns"]:
        """The values as an array of floats."""
        return np.asarray(self.values, dtype=float)

    @cached_property
    def scale(self) -> tuple[float, float]:
        """The values of the first and of the last colour."""
        known = self.table[~np.isnan(self.table)]
        if isinstance(self.limit, tuple):
            return self.limit
        if self.diverging:
            reach = self.limit
            if reach is None:
                reach = _round_up(float(np.abs(known).max(initial=0))) or 1.0
            return -reach, reach
        low = min(0.0, float(known.min(initial=0)))
        high = self.limit
        if high is None:
            high = _round_up(float(known.max(initial=0))) or (0.0 if low else 1.0)
        return -_round_up(-low), high

    @cached_property
    def marked(self) -> Bool[np.ndarray, "rows columns"]:
        """The cells that are outlined."""
        return np.zeros(self.table.shape, bool) if self.marks is None else np.asarray(self.marks)

    @property
    def colours(self) -> tuple[object, ...]:
        """What heat maps have in common that share a colour bar."""
        return self.diverging, self.unit, self.scale

    # -- drawing -----------------------------------------------------------------------------------
    def sheet(self) -> Sheet:
        """The heat map alone under its title."""
        return Sheet((self,), 1, PAGE, self.title)

    def size(self, width: float) -> Size:
        """The width and the height of the cells together that go well with the page."""
        rows, columns = self.table.shape
        least, most = CELL
        sides = ((width - SIDES) / columns, TALL * width / rows)
        x, y = (min(max(side, least), most) for side in sides)
        x, y = min(x, 2 * y), min(y, 2 * x)
        if self.numbers:
            widest = max(_labels.measured(self._number(value)) for value in self.table.flat)
            x, y = max(x, widest * DIGITS / style.SMALL + 6), max(y, DIGITS + 7)
        return x * columns, y * rows

    def paint(self, axes: Axes, size: Size) -> None:
        """Draw the cells into matplotlib's axes of this size."""
        rows, columns = self.table.shape
        x, y = size[0] / columns, size[1] / rows
        low, high = self.scale
        cells = axes.pcolormesh(
            np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5,
            np.ma.masked_invalid(self.table), cmap=self._colours(), vmin=low, vmax=high,
        )  # fmt: skip
        if min(x, y) >= 8:
            cells.set(edgecolor=HAIR, linewidth=0.5)
        axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
        _labels.put(axes.xaxis, [_labels.readable(label) for label in self._places[1]], x)
        _labels.put(axes.yaxis, [_labels.readable(label) for label in self._places[0]], y)
        axes.tick_params(length=0)
        axes.set_xlabel(_labels.wrapped(_labels.readable(self.column_name, 60), size[0] + 20,
                                        style.SMALL))  # fmt: skip
        axes.set_ylabel(_labels.wrapped(_labels.readable(self.row_name, 60), size[1] + 10,
                                        style.SMALL))  # fmt: skip
        if self.numbers:
            self._write(axes)
        for row, column in np.argwhere(self.marked):
            axes.add_patch(
                _outline((float(column), float(row)), 1 - 2.2 / x, 1 - 2.2 / y, min(x, y) >= 10)
            )

    def bar(self, figure: Drawn, axes: Sequence[Axes], size: Size, where: str) -> None:
        """Put the colour bar of these axes beside them; it is pointed where values lie beyond."""
        every = [np.asarray(one.collections[0].get_array(), float) for one in axes]
        low = min(float(np.nanmin(own, initial=self.scale[0])) for own in every)
        high = max(float(np.nanmax(own, initial=self.scale[1])) for own in every)
        beyond = low < self.scale[0], high > self.scale[1]
        whole, side = size if where == "bottom" else size[::-1]
        length = min(whole, BAR[0])
        bar = figure.colorbar(
            axes[0].collections[0], ax=list(axes), location=where, pad=6 / side,
            shrink=length / whole, aspect=length / BAR[1], fraction=BAR[1] / side,
            extend={(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[beyond],
        )  # fmt: skip
        unit = _labels.readable(self.unit, 60)
        bar.set_label(_labels.wrapped(unit, max(length, 60), style.SMALL))
        bar.outline.set_edgecolor(style.FAINT)
        if length < 60:
            bar.set_ticks(self.scale)
        else:
            bar.ax.locator_params(nbins=min(length // 30, 6))

    def legend(self) -> list[Artist]:
        """What is explained: marked cells and empty ones, where there are any."""
        from matplotlib.patches import Patch

        found: list[Artist] = []
        if self.marked.any():
            sample = _outline((0, 0), 1, 1, False)
            sample.set_label(_labels.readable(self.mark_name, 60))
            found.append(sample)
        if np.isnan(self.table).any():
            found.append(Patch(facecolor=EMPTY, edgecolor=HAIR, label=MISSING))
        return found

    def tips(self) -> Iterator[Tip]:
        """What each cell says when the pointer rests on it."""
        for row, column in np.ndindex(self.table.shape):
            yield Tip(column - 0.5, row - 0.5, column + 0.5, row + 0.5, self.tip(row, column))

    def tip(self, row: int, column: int) -> str:
        """What a cell says when the pointer rests on it."""
        names = (_labels.readable(name, 60) for name in (self.row_name, self.column_name))
        places = zip(names, (self._places[0][row], self._places[1][column]), strict=True)
        where = ", ".join(f"{name} {_labels.exact(label)}".strip() for name, label in places)
        value = self.table[row, column]
        said = MISSING if isnan(value) else f"{value:{'+' if self.diverging else ''}.3g}"
        why = f" ({_labels.readable(self.mark_name, 60)})" if self.marked[row, column] else ""
        return f"{where}: {said}{why}"

    @cached_property
    def _places(self) -> tuple[list[str], list[str]]:
        """The labels of the rows and of the columns."""
        rows, columns = (
            [str(label) for label in (range(count) if labels is None else labels)]
            for labels, count in zip((self.row_labels, self.column_labels), self.table.shape,
                                     strict=True)
        )  # fmt: skip
        return rows, columns

    def _number(self, value: float) -> str:
        """The value as written in its cell."""
        return "" if isnan(value) else _labels.written(value, self._decimals)

    @cached_property
    def _decimals(self) -> int:
        small = np.nanmax(np.abs(self.table), initial=0.0) < 1
        return _labels.decimals(self.table.flat, 2 if small else 3)

    def _write(self, axes: Axes) -> None:
        """The numbers, in ink that shows on the colour of their cells."""
        colours = axes.collections[0].to_rgba(self.table)[..., :3] @ (0.299, 0.587, 0.114)
        for row, column in np.ndindex(self.table.shape):
            if said := self._number(float(self.table[row, column])):
                ink = style.PAPER if colours[row, column] < 0.55 else style.INK
                axes.text(column, row, said, ha="center", va="center_baseline", color=ink,
                          fontsize=DIGITS)  # fmt: skip

    def _colours(self) -> Colormap:
        from matplotlib.colors import LinearSegmentedColormap

        stops = list(DIVERGING if self.diverging else SEQUENTIAL)
        return LinearSegmentedColormap.from_list("circuitkit", stops).with_extremes(bad=EMPTY)


def _outline(middle: tuple[float, float], width: float, height: float, halo: bool) -> Rectangle:
    """A dark frame, with a light one around it where there is room, so that it shows on every
    colour."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    light = [withStroke(linewidth=3.2, foreground=style.PAPER)] if halo else []
    corner = (middle[0] - width / 2, middle[1] - height / 2)
    return Rectangle(
        corner, width, height, fill=False, edgecolor=style.INK, linewidth=1.4, path_effects=light
    )


def _round_up(value: float) -> float:
    """The value with two digits, no nearer to zero."""
    if not value:
        return value
    size = 10.0 ** (floor(log10(abs(value))) - 1)
    return float(f"{ceil(abs(value) / size - 1e-9) * size:.2g}") * (1 if value > 0 else -1)
