"""A matrix of values as coloured cells: layers × heads, layers × tokens, methods × methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, isnan
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

import circuitkit.viz.figures._axes as _axes
import circuitkit.viz.figures._parts as _parts
import circuitkit.viz.figures._plots as _plots
from circuitkit.errors import OutputError
from circuitkit.viz import style
from circuitkit.viz.figures._figure import Figure
from circuitkit.viz.shapes import Rect, Scene, Shape, Text

__all__ = ["Heatmap"]

CELL = (5.0, 30.0)  # the smallest and the largest side of a cell
TALL = 0.85  # the height that the cells aim at, of the width of the page
GAP, LINE, DIGITS = 5.0, 13.0, 9.0  # cells to labels; label to label; numbers in cells
BAR = (96.0, 8.0)  # the colour bar
MISSING = "no value"


@dataclass(frozen=True, repr=False, eq=False)
class Heatmap(Figure):
    """Values as coloured cells: rows downwards (layers), columns to the right (heads, tokens).

    A value of nan is a grey cell. Labels are numbers from 0 where none are given; of many, every
    so-manieth is shown. ``diverging``: blue below zero, white at zero, red above it, up to ±limit;
    else white to blue, from the first of ``limit`` to the second (of one number: from 0). Without
    a ``limit`` the colours reach as far as the values. ``unit`` stands beside the colour bar;
    ``numbers`` writes each value into its cell; ``marks`` are cells that are outlined, and
    ``mark_name`` says why. Raises OutputError for values that are no matrix, or not finite, labels
    or marks of another shape, and a limit that leaves no colours.
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
        if not self.scale.low < self.scale.high:
            raise OutputError(f"limit={self.limit!r} leaves no colours; give a wider one")

    def __repr__(self) -> str:
        rows, columns = self.table.shape
        return f"Heatmap({rows} × {columns}{f', {self.title!r}' if self.title else ''})"

    @cached_property
    def table(self) -> Float[np.ndarray, "rows columns"]:
        """The values as an array of floats."""
        return np.asarray(self.values, dtype=float)

    @cached_property
    def scale(self) -> _axes.Scale:
        """The colours of the values."""
        stops = _axes.DIVERGING if self.diverging else _axes.SEQUENTIAL
        known = self.table[~np.isnan(self.table)]
        if isinstance(self.limit, tuple):
            return _axes.Scale(*self.limit, stops)
        if self.diverging:
            reach = self.limit
            if reach is None:
                reach = _axes.round_up(float(np.abs(known).max(initial=0))) or 1.0
            return _axes.Scale(-reach, reach, stops)
        low = min(0.0, float(known.min(initial=0)))
        high = self.limit
        if high is None:
            high = _axes.round_up(float(known.max(initial=0))) or (0.0 if low else 1.0)
        return _axes.Scale(-_axes.round_up(-low), high, stops)

    def tip(self, row: int, column: int) -> str:
        """What a cell says when the pointer rests on it."""
        places = ((self._names[0], self._rows[row]), (self._names[1], self._columns[column]))
        where = ", ".join(f"{name} {_axes.exact(label)}".strip() for name, label in places)
        value = self.table[row, column]
        sign = "+" if self.diverging else ""
        said = MISSING if isnan(value) else f"{value:{sign}.3g}"
        marked = self.marks is not None and self.marks[row][column]
        return f"{where}: {said}" + (f" ({_axes.readable(self.mark_name, 60)})" if marked else "")

    @cached_property
    def _names(self) -> tuple[str, str]:
        """What the rows and the columns are."""
        return _axes.readable(self.row_name, 60), _axes.readable(self.column_name, 60)

    @cached_property
    def _rows(self) -> list[str]:
        return _labels(self.row_labels, self.table.shape[0])

    @cached_property
    def _columns(self) -> list[str]:
        return _labels(self.column_labels, self.table.shape[1])

    @cached_property
    def _places(self) -> int:
        """The decimal places of the numbers in the cells."""
        small = np.nanmax(np.abs(self.table), initial=0.0) < 1
        return _axes.decimals(self.table.flat, 2 if small else 3)

    # -- as shapes ---------------------------------------------------------------------------------
    def scene(self, width: float = _parts.PAGE, heading: float = style.HEADING) -> Scene:
        """The figure as shapes, about so wide, its title in letters of this size."""
        return _parts.page(_Matrix(self, width).scene(), self.title, self._legend(), heading)

    def _legend(self) -> list[_parts.Entry]:
        found = [self._bar()]
        middle = _parts.SAMPLE / 2
        if self.marks is not None and np.any(self.marks):
            sample = _outline(middle, 0.0, 14.0, 11.0)
            found.append(_parts.entry(sample, _axes.readable(self.mark_name, 60)))
        if np.isnan(self.table).any():
            sample = [_parts.cell(middle, 0.0, 14.0, 11.0, _axes.EMPTY)]
            found.append(_parts.entry(sample, MISSING))
        return found

    def _bar(self) -> _parts.Entry:
        """The colour bar between its ends, and the unit."""
        low, high = self._ends()
        wide, tall = BAR
        start = style.text_width(low, style.SMALL) + GAP
        steps = 48
        shapes: list[Shape] = [Text(start - GAP, 0.0, low, anchor="end")]
        for i in range(steps):  # each reaches to the end, so that no seam shows
            x = wide * i / steps
            value = self.scale.low + (self.scale.high - self.scale.low) * (i + 0.5) / steps
            colour = self.scale.colour(value)
            shapes.append(Rect(start + (x + wide) / 2, 0.0, wide - x, tall, colour))
        shapes.append(Rect(start + wide / 2, 0.0, wide, tall, "", style.FAINT, line=0.5))
        end = start + wide + GAP
        said = f"{high}  {_axes.readable(self.unit, 60)}".rstrip()
        shapes.append(Text(end, 0.0, said))
        return _parts.Entry(tuple(shapes), end + style.text_width(said, style.SMALL))

    def _ends(self) -> tuple[str, str]:
        """The ends of the colour bar in words, and whether values lie beyond them."""
        scale = self.scale
        places = _axes.decimals((scale.low, scale.high))
        low, high = _axes.written(scale.low, places), _axes.written(scale.high, places)
        below = "≤ " if np.nanmin(self.table, initial=scale.low) < scale.low else ""
        above = "≥ " if np.nanmax(self.table, initial=scale.high) > scale.high else ""
        return f"{below}{low}", f"{above}{high}"

    # -- as matplotlib -----------------------------------------------------------------------------
    def paint(self, axes: Any) -> None:
        """Draw the figure into matplotlib's axes."""
        rows, columns = self.table.shape
        image = axes.imshow(
            np.ma.masked_invalid(self.table), vmin=self.scale.low, vmax=self.scale.high,
            cmap=_plots.colour_map(self.scale.stops, _axes.EMPTY), aspect="auto",
        )  # fmt: skip
        matrix = _Matrix(self, _parts.PAGE)
        across = matrix.shown_columns()
        axes.set_xticks(across, [matrix.columns[i] for i in across])
        axes.tick_params(axis="x", rotation=90 if matrix.turned else 0)
        down = matrix.shown_rows()
        axes.set_yticks(down, [matrix.rows[i] for i in down])
        axes.set(xlabel=self.column_name, ylabel=self.row_name)
        axes.set_title(_plots.wrapped(self.title))
        axes.figure.colorbar(image, ax=axes, label=self.unit)
        for row, column in np.ndindex(rows, columns):
            value = float(self.table[row, column])
            if self.numbers and not isnan(value):
                axes.text(column, row, _axes.written(value, self._places), ha="center",
                          va="center", color=_axes.ink(self.scale.colour(value)))  # fmt: skip
        for row, column in np.argwhere(self.marks) if self.marks is not None else ():
            axes.plot(column + 0.5 * np.array([-1, 1, 1, -1, -1]),
                      row + 0.5 * np.array([-1, -1, 1, 1, -1]), color=style.INK)  # fmt: skip


def _labels(labels: Sequence[object] | None, count: int) -> list[str]:
    return [str(label) for label in (range(count) if labels is None else labels)]


def _outline(x: float, y: float, width: float, height: float) -> list[Shape]:
    """A dark frame, with a light one in it, so that it shows on every colour."""
    shapes: list[Shape] = [
        Rect(x, y, width - 1.4, height - 1.4, "", style.INK, line=1.4),
    ]
    if min(width, height) >= 10:
        shapes.append(Rect(x, y, width - 3.6, height - 3.6, "", style.PAPER, line=0.8))
    return shapes


class _Matrix:
    """The cells of a heat map between their labels, from 0, 0."""

    def __init__(self, figure: Heatmap, width: float) -> None:
        self.figure = figure
        self.rows = [_axes.readable(label) for label in figure._rows]
        self.columns = [_axes.readable(label) for label in figure._columns]
        self.gutter = max(style.text_width(label, style.SMALL) for label in self.rows) + GAP
        self.cell = self._cell(width - 2 * style.MARGIN - self.gutter, TALL * width)
        widest = max(style.text_width(label, style.SMALL) for label in self.columns)
        counted = all(label.isdecimal() for label in self.columns)
        self.turned = not counted and widest + 4 > self.cell[0]
        self.below = (widest if self.turned else style.SMALL) + GAP
        self.top = 1.5 * style.SMALL if figure._names[0] else 0.0
        self.apart = LINE if self.turned else widest + 4

    def _cell(self, width: float, height: float) -> tuple[float, float]:
        """The width and the height of a cell that go well with the room."""
        rows, columns = self.figure.table.shape
        least, most = CELL
        x, y = (min(max(side, least), most) for side in (width / columns, height / rows))
        x, y = min(x, 2 * y), min(y, 2 * x)
        if self.figure.numbers:
            said = (_axes.written(v, self.figure._places) for v in self.figure.table.flat)
            x = max(x, max(style.text_width(text, DIGITS) for text in said) + 6)
            y = max(y, DIGITS + 7)
        return x, y

    def shown_rows(self) -> list[int]:
        """The rows that are labelled."""
        return _axes.thinned(len(self.rows), ceil(LINE / self.cell[1] - 1e-6))

    def shown_columns(self) -> list[int]:
        """The columns that are labelled."""
        return _axes.thinned(len(self.columns), ceil(self.apart / self.cell[0] - 1e-6))

    def scene(self) -> Scene:
        """Cells, labels and the names of the axes."""
        figure, (x, y) = self.figure, self.cell
        height = self.top + y * len(self.rows)
        shapes = [*self._cells(), *self._names(height)]
        # A label at the end may be wider than its cell.
        over = max(self.apart - 4 - x, 0.0) / 2 if not self.turned else 0.0
        width = self.gutter + x * len(self.columns) + over
        words = style.text_width(figure._names[1], style.SMALL) / 2 + self._name_middle()
        width = max(width, words, style.text_width(figure._names[0], style.SMALL))
        name = 1.5 * style.SMALL if figure._names[1] else 0.0
        return Scene(width, height + self.below + name, tuple(shapes))

    def _middle(self, row: int, column: int) -> tuple[float, float]:
        x, y = self.cell
        return self.gutter + (column + 0.5) * x, self.top + (row + 0.5) * y

    def _cells(self) -> Iterator[Shape]:
        figure, (width, height) = self.figure, self.cell
        for row, column in np.ndindex(figure.table.shape):
            value = float(figure.table[row, column])
            colour = figure.scale.colour(value)
            x, y = self._middle(row, column)
            yield _parts.cell(x, y, width, height, colour, figure.tip(row, column))
            if figure.numbers and not isnan(value):
                said = _axes.written(value, figure._places)
                yield Text(x, y, said, DIGITS, _axes.ink(colour), anchor="middle")
        rows, columns = figure.table.shape
        whole = (columns * width, rows * height)
        corner = (self.gutter + whole[0] / 2, self.top + whole[1] / 2)
        yield Rect(*corner, *whole, "", style.FAINT, line=0.6)
        for row, column in np.argwhere(figure.marks) if figure.marks is not None else ():
            yield from _outline(*self._middle(row, column), width, height)

    def _names(self, bottom: float) -> Iterator[Shape]:
        figure, colour = self.figure, style.PLAIN
        for row in self.shown_rows():
            x, y = self._middle(row, 0)
            yield Text(self.gutter - GAP, y, self.rows[row], colour=colour, anchor="end")
        for column in self.shown_columns():
            x, _ = self._middle(0, column)
            label = self.columns[column]
            if self.turned:
                yield Text(x, bottom + GAP, label, colour=colour, anchor="end", turned=True)
            else:
                y = bottom + GAP + style.SMALL / 2
                yield Text(x, y, label, colour=colour, anchor="middle")
        if figure._names[0]:
            room = self.gutter - GAP
            fits = style.text_width(figure._names[0], style.SMALL) <= room
            x, y = (room if fits else 0.0), style.SMALL / 2
            yield Text(x, y, figure._names[0], anchor="end" if fits else "start")
        if figure._names[1]:
            y = bottom + self.below + style.SMALL
            yield Text(self._name_middle(), y, figure._names[1], anchor="middle")

    def _name_middle(self) -> float:
        """The middle of the columns' name: that of the cells, unless it would begin before 0."""
        middle = self.gutter + self.cell[0] * len(self.columns) / 2
        return max(middle, style.text_width(self.figure._names[1], style.SMALL) / 2)
