"""Curves over layers, sizes or shares, with bands of uncertainty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from math import cos, isfinite, isnan, log10, pi, sin
from typing import Any

import numpy as np
from jaxtyping import Float

import circuitkit.viz.figures._axes as _axes
import circuitkit.viz.figures._parts as _parts
import circuitkit.viz.figures._plots as _plots
from circuitkit.errors import OutputError
from circuitkit.viz import style
from circuitkit.viz.figures._figure import Figure
from circuitkit.viz.shapes import Dash, Line, Point, Polygon, Rect, Scene, Shape, Text, shifted

__all__ = ["Lines"]

# Okabe and Ito's palette, their yellow last and darker, so that it shows on white.
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222", "#b3a100",
)  # fmt: skip
DASHES: tuple[Dash, ...] = ("solid", "dashed", "dotted")
MARKERS = "osD^vPX"  # as matplotlib calls them
BAND = 0.16  # how solid a band is
WIDTH, SIZE, DOT = 1.5, 2.9, 0.9  # of a line; of a marker; of a point between markers
SHAPE, INSIDE = 0.56, 9.0  # height of the axes to their width; frame to the outermost points
GAP, TICK = 5.0, 3.5
MARKED = 24  # at most so many markers on a line
GRID = "#ebebeb"


@dataclass(frozen=True, repr=False, eq=False)
class Lines(Figure):
    """One curve a series over common places ``x``: numbers, or labels, which stand side by side.

    A series is a sequence of as many values as ``x`` has; nan is a gap. ``bands`` give some series
    a low and a high curve, between which it is shaded. Series differ in colour, dashes and markers,
    so that they are told apart without colours too. ``log_x``: places in powers of ten; ``zero``:
    the axis of the values reaches to zero. Raises OutputError where there is no series, or no
    value, where lengths differ, for a band of no series, and for places that are not finite, or
    with ``log_x`` not positive.

    Series named in ``plain`` have no markers; one that has a single place has no line.
    """

    x: Sequence[float] | Sequence[str]
    series: Mapping[str, Sequence[float] | Float[np.ndarray, " x"]]
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    title: str = ""
    x_name: str = ""
    y_name: str = ""
    log_x: bool = False
    zero: bool = True
    plain: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.series:
            raise OutputError("there are no series; give at least one")
        for name in self.bands:
            if name not in self.series:
                raise OutputError(f"there is a band of {name!r}, which is no series")
        for name, values in [*self.curves.items(), *self._edges()]:
            if values.shape != (len(self.x),):
                raise OutputError(
                    f"{name!r} has the shape {values.shape}, and there are {len(self.x)} places"
                )
            if np.isinf(values).any():
                raise OutputError(f"{name!r} is infinite somewhere; give nan for a gap")
        if all(isnan(v) for values in self.curves.values() for v in values):
            raise OutputError("the series have no values; give at least one number")
        if self.labels and self.log_x:
            raise OutputError("log_x=True needs places that are numbers, and they are labels")
        for place in self.places:
            if not isfinite(place) or (self.log_x and place <= 0):
                raise OutputError(
                    f"x holds {place:g}; give finite {'positive ' if self.log_x else ''}numbers"
                )

    def __repr__(self) -> str:
        title = f", {self.title!r}" if self.title else ""
        return f"Lines({len(self.series)} series × {len(self.x)}{title})"

    @cached_property
    def curves(self) -> dict[str, Float[np.ndarray, " x"]]:
        """The series as arrays of floats."""
        return {name: np.asarray(values, dtype=float) for name, values in self.series.items()}

    @cached_property
    def labels(self) -> list[str]:
        """What stands at the places, where they are labels."""
        if any(isinstance(place, str) for place in self.x):
            return [_axes.readable(place) for place in self.x]
        return []

    @cached_property
    def places(self) -> list[float]:
        """The places as numbers: labels are counted."""
        return list(map(float, range(len(self.x)) if self.labels else self.x))

    def tip(self, name: str, index: int) -> str:
        """What a point says when the pointer rests on it."""
        place = self.x[index]
        said = _axes.exact(place) if isinstance(place, str) else f"{place:g}"
        where = f"{_axes.readable(self.x_name, 60)} {said}".strip()
        series = f"{_axes.readable(name, 60)}, " if name else ""
        return f"{series}{where}: {self.curves[name][index]:.4g}"

    def _edges(self) -> list[tuple[str, Float[np.ndarray, " x"]]]:
        """The lower and the upper edge of every band, each with its name."""
        return [
            (name, np.asarray(edge, float)) for name, band in self.bands.items() for edge in band
        ]

    @cached_property
    def reach(self) -> tuple[float, float]:
        """The smallest and the largest value that is drawn."""
        every = np.concatenate([*self.curves.values(), *(edge for _, edge in self._edges())])
        low, high = float(np.nanmin(every)), float(np.nanmax(every))
        low, high = (min(low, 0.0), max(high, 0.0)) if self.zero else (low, high)
        return (low, high) if low < high else (low - 0.5, high + 0.5)

    # -- as shapes ---------------------------------------------------------------------------------
    def scene(self, width: float = _parts.PAGE, heading: float = style.HEADING) -> Scene:
        """The figure as shapes, about so wide, its title in letters of this size."""
        return self.framed(width, heading, self.legend())

    def framed(self, width: float, heading: float, legend: Sequence[_parts.Entry] = ()) -> Scene:
        """The same with another legend, or none."""
        body = _Axes(self, width - 2 * style.MARGIN).scene()
        return _parts.page(body, self.title, legend, heading)

    def legend(self) -> list[_parts.Entry]:
        """What each series looks like."""
        if list(self.series) == [""]:
            return []
        found = []
        for number, name in enumerate(self.series):
            colour, dash, marker = _style_of(number)
            ends = ((0.0, 0.0), (_parts.SAMPLE, 0.0))
            corners = shifted(_marker(marker), _parts.SAMPLE / 2, 0.0)
            line, mark = (Line(ends, colour, WIDTH, dash),), (Polygon(corners, colour),)
            sample = line if name in self.plain else mark if self._single(name) else line + mark
            found.append(_parts.entry(sample, _axes.readable(name, 60)))
        return found

    def _single(self, name: str) -> bool:
        """Whether the series has values at one place only."""
        values = self.curves[name]
        return len({x for x, y in zip(self.places, values, strict=True) if not isnan(y)}) == 1

    # -- as matplotlib -----------------------------------------------------------------------------
    def paint(self, axes: Any) -> None:
        """Draw the figure into matplotlib's axes."""
        for number, (name, values) in enumerate(self.curves.items()):
            colour, dash, marker = _style_of(number)
            marker = "" if name in self.plain else marker
            axes.plot(self.places, values, color=colour, linestyle=_plots.DASHES[dash],
                      marker=marker, markersize=2 * SIZE, linewidth=WIDTH, label=name)  # fmt: skip
            if name in self.bands:
                low, high = self.bands[name]
                axes.fill_between(self.places, low, high, color=colour, alpha=BAND, linewidth=0)
        if self.labels:
            shown = _axes.thinned(len(self.labels), 1 + len(self.labels) // 16)
            axes.set_xticks(shown, [self.labels[i] for i in shown])
        axes.set_xscale("log" if self.log_x else "linear")
        if self.zero:
            axes.axhline(0, color=style.FAINT, linewidth=0.8)
        axes.set(xlabel=self.x_name, ylabel=self.y_name)
        axes.set_title(_plots.wrapped(self.title))
        if list(self.series) != [""]:
            axes.legend()


def _style_of(number: int) -> tuple[str, Dash, str]:
    """The colour, the dashes and the marker of a series."""
    return (
        COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)], MARKERS[number % len(MARKERS)]
    )  # fmt: skip


def _marker(kind: str) -> tuple[Point, ...]:
    """The corners of a marker around 0, 0."""
    if kind in "PX":
        arms = ((1, 3), (1, 1), (3, 1), (3, -1), (1, -1), (1, -3))
        cross = [(x / 3, y / 3) for x, y in (*arms, *((-x, -y) for x, y in arms))]
        tilt = sin(pi / 4) if kind == "X" else 0.0
        upright = cos(pi / 4) if kind == "X" else 1.0
        return tuple(
            (1.25 * SIZE * (x * upright - y * tilt), 1.25 * SIZE * (x * tilt + y * upright))
            for x, y in cross
        )
    corners, first, size = {
        "o": (20, 0.0, 1.0), "s": (4, pi / 4, 1.25), "D": (4, 0.0, 1.3),
        "^": (3, -pi / 2, 1.35), "v": (3, pi / 2, 1.35),
    }[kind]  # fmt: skip
    angles = [first + 2 * pi * corner / corners for corner in range(corners)]
    return tuple((size * SIZE * cos(angle), size * SIZE * sin(angle)) for angle in angles)


class _Axes:
    """The curves between their axes, from 0, 0."""

    def __init__(self, figure: Lines, width: float) -> None:
        self.figure = figure
        low, high = figure.reach
        pad = 0.04 * (high - low)
        self.low = low - (pad if low else 0.0)
        self.high = high + (pad if high else 0.0)
        self.levels = _axes.ticks(self.low, self.high, 6)
        self.said = _axes.said(self.levels)
        self.left = max(style.text_width(text, style.SMALL) for text in self.said) + GAP
        self.top = 1.9 * style.SMALL if figure.y_name else style.SMALL / 2
        self.width = width - self.left
        self.height = SHAPE * self.width
        ends = [self._grown(place) for place in figure.places]
        self.first, self.last = min(ends), max(ends)

    def scene(self) -> Scene:
        """Grid, bands, curves, and the labels around them."""
        marks, overhang, labels = self._across()
        shapes = [*self._grid(), *self._bands(), *self._curves(), *marks]
        bottom = self.top + self.height + labels
        if self.figure.x_name:
            name = _axes.readable(self.figure.x_name, self._signs(self.width))
            x = self.left + self.width / 2
            shapes.append(Text(x, bottom + style.SMALL, name, anchor="middle"))
            bottom += 1.5 * style.SMALL
        return Scene(self.left + self.width + overhang, bottom, tuple(shapes))

    def _signs(self, width: float) -> int:
        """How many signs fit the width."""
        return int(width / style.text_width("m", style.SMALL))

    def _grown(self, place: float) -> float:
        return log10(place) if self.figure.log_x else place

    def _x(self, place: float) -> float:
        span = self.last - self.first
        share = (self._grown(place) - self.first) / span if span else 0.5
        return self.left + INSIDE + share * (self.width - 2 * INSIDE)

    def _y(self, value: float) -> float:
        return self.top + self.height * (self.high - value) / (self.high - self.low)

    def _grid(self) -> Iterator[Shape]:
        """The values' axis: its name, its labels, and a line through the axes for each."""
        figure, right = self.figure, self.left + self.width
        if figure.y_name:
            yield Text(0.0, style.SMALL / 2, _axes.readable(figure.y_name, self._signs(right)))
        for level, said in zip(self.levels, self.said, strict=True):
            y = self._y(level)
            heavy = level == 0
            colour = style.FAINT if heavy else GRID
            yield Line(((self.left, y), (right, y)), colour, 0.9 if heavy else 0.7)
            yield Text(self.left - GAP, y, said, colour=style.PLAIN, anchor="end")
        floor = self.top + self.height
        yield Line(((self.left, floor), (right, floor)), style.FAINT, 0.7)

    def _across(self) -> tuple[list[Shape], float, float]:
        """The places' axis: ticks and labels, how far they reach beyond the axes at the right, and
        down."""
        ticks, said = self._ticks()
        floor = self.top + self.height
        xs = [self._x(tick) for tick in ticks]
        widths = [style.text_width(text, style.SMALL) for text in said]
        pitch = (self.width - 2 * INSIDE) / max(len(ticks) - 1, 1)
        turned = bool(self.figure.labels) and max(widths) + 4 > pitch and not all(
            label.isdecimal() for label in self.figure.labels)  # fmt: skip
        kept = self._kept(xs, widths, turned, pitch)
        shapes: list[Shape] = []
        for i in kept:
            end = floor + TICK
            shapes.append(Line(((xs[i], floor), (xs[i], end)), style.FAINT, 0.7))
            y = end + 2 + (0 if turned else style.SMALL / 2)
            shapes.append(
                Text(xs[i], y, said[i], colour=style.PLAIN, turned=turned,
                     anchor="end" if turned else "middle")
            )  # fmt: skip
        if turned:
            return shapes, 0.0, TICK + 2 + max(widths[i] for i in kept)
        over = max(xs[i] + widths[i] / 2 for i in kept) - self.left - self.width
        return shapes, max(over, 0.0), TICK + 2 + style.SMALL

    def _kept(self, xs: list[float], widths: list[float], turned: bool, pitch: float) -> list[int]:
        """The ticks that are labelled."""
        if self.figure.labels:
            need = 13.0 if turned else max(widths) + 6
            return _axes.thinned(len(xs), need / pitch if len(xs) > 1 else 1)
        return _axes.spaced(xs, widths)

    def _ticks(self) -> tuple[list[float], list[str]]:
        figure = self.figure
        if figure.labels:
            return figure.places, figure.labels
        low, high = min(figure.places), max(figure.places)
        if figure.log_x:
            found = _axes.decades(low, high) or sorted({low, high})
            return found, [_axes.short(tick) for tick in found]
        whole = all(place.is_integer() for place in figure.places)
        found = _axes.ticks(low, high, int(self.width / 45), whole) if low < high else [low]
        return found, _axes.said(found)

    def _bands(self) -> Iterator[Shape]:
        for number, name in enumerate(self.figure.series):
            if name not in self.figure.bands:
                continue
            low, high = (np.asarray(edge, float) for edge in self.figure.bands[name])
            for run in _runs(low + high):
                forth = [(self._x(self.figure.places[i]), self._y(low[i])) for i in run]
                back = [(self._x(self.figure.places[i]), self._y(high[i])) for i in run[::-1]]
                yield Polygon((*forth, *back), _style_of(number)[0], BAND)

    def _curves(self) -> Iterator[Shape]:
        every = -(-len(self.figure.x) // MARKED)
        for number, (name, values) in enumerate(self.figure.curves.items()):
            colour, dash, marker = _style_of(number)
            for run in _runs(values):
                points = tuple((self._x(self.figure.places[i]), self._y(values[i])) for i in run)
                if len(points) > 1:
                    yield Line(points, colour, WIDTH, dash)
                for i, (x, y) in zip(run, points, strict=True):
                    tip = self.figure.tip(name, i)
                    if name not in self.figure.plain and (i % every == 0 or len(points) == 1):
                        yield Polygon(shifted(_marker(marker), x, y), colour, title=tip)
                    else:
                        yield Rect(x, y, 2 * DOT, 2 * DOT, colour, radius=DOT, title=tip)


def _runs(values: Float[np.ndarray, " x"]) -> list[list[int]]:
    """The stretches of indices that have values."""
    known = groupby(range(len(values)), key=lambda i: not isnan(values[i]))
    return [list(run) for there, run in known if there]
