"""Curves over layers, sizes or shares, with bands of uncertainty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite, isnan
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

import circuitkit.viz.figures._labels as _labels
from circuitkit.errors import OutputError
from circuitkit.viz import style
from circuitkit.viz.figures._figure import Figure
from circuitkit.viz.figures._sheet import PAGE, Sheet, Size, Tip

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawn
    from matplotlib.lines import Line2D

__all__ = ["Lines"]

# Okabe and Ito's palette, their yellow last and darker, so that it shows on white.
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222", "#b3a100",
)  # fmt: skip
DASHES: tuple[Literal["-", "--", ":"], ...] = ("-", "--", ":")
MARKERS = "osD^vPX"
BAND = 0.16  # how solid a band is
SHAPE, SIDES = 0.56, 55.0  # height of the axes to their width; what labels take at the left
MARKED = 24  # at most so many markers on a line
REST = 3.5  # how near to a point the pointer rests on it
GRID = "#ebebeb"


@dataclass(frozen=True, repr=False, eq=False)
class Lines(Figure):
    """Curves over common places ``x``: numbers, or labels, which are evenly spaced.

    A series is a sequence of as many values as ``x`` has; nan is a gap. ``bands`` give some series
    a low and a high curve, between which it is shaded. Series differ in colour, dashes and markers,
    so that they are told apart without colours too. ``log_x``: places in powers of ten; ``zero``:
    the axis of the values reaches to zero. Raises OutputError where there is no series, or no
    value, where lengths differ, for a band without its series, and for places that are not finite,
    or with ``log_x`` not positive.

    Series named in ``plain`` have no markers; one that has a single place has no line. ``bridged``:
    lines and bands continue over gaps, from value to value.

    Example:
        >>> lines = ck.figures.Lines([1, 10, 100], {"eap": [0.1, 0.5, 0.9]}, log_x=True)
        >>> lines.save("sizes.svg").name
        'sizes.svg'
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
    bridged: bool = False

    def __post_init__(self) -> None:
        if not self.series:
            raise OutputError("there are no series; give at least one")
        for name in self.bands:
            if name not in self.series:
                raise OutputError(f"there is a band of {name!r}, which is not a series")
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
            return [_labels.readable(place) for place in self.x]
        return []

    @cached_property
    def places(self) -> list[float]:
        """The places as numbers: labels are counted."""
        return list(map(float, range(len(self.x)) if self.labels else self.x))

    def tip(self, name: str, index: int) -> str:
        """What a point says when the pointer rests on it."""
        place = self.x[index]
        said = _labels.exact(place) if isinstance(place, str) else f"{place:g}"
        where = f"{_labels.readable(self.x_name, 60)} {said}".strip()
        series = f"{_labels.readable(name, 60)}, " if name else ""
        return f"{series}{where}: {self.curves[name][index]:.4g}"

    def _edges(self) -> list[tuple[str, Float[np.ndarray, " x"]]]:
        """The lower and the upper edge of every band, each with its name."""
        return [
            (name, np.asarray(edge, float)) for name, band in self.bands.items() for edge in band
        ]

    # -- drawing -----------------------------------------------------------------------------------
    @property
    def colours(self) -> tuple[object, ...]:
        """Nothing: curves have no colour bar."""
        return ()

    def sheet(self) -> Sheet:
        """The curves alone under their title."""
        return Sheet((self,), 1, PAGE, self.title)

    def size(self, width: float) -> Size:
        """The width and the height of the axes that go well with the page."""
        return width - SIDES, SHAPE * (width - SIDES)

    def paint(self, axes: Axes, size: Size) -> None:
        """Draw the curves into matplotlib's axes of this size."""
        if self.zero:
            axes.axhline(0, color=style.FAINT, linewidth=0.9, zorder=1)
        for line in self._lines():
            axes.add_line(line)
        for number, name in enumerate(self.series):
            if name in self.bands:
                low, high = (np.asarray(edge, float) for edge in self.bands[name])
                colour = COLOURS[number % len(COLOURS)]
                x, _ = self._shown(np.asarray(self.places), low)
                low, high = (self._shown(edge, low)[0] for edge in (low, high))
                axes.fill_between(x, low, high, color=colour, alpha=BAND, linewidth=0)
        axes.autoscale_view()
        self._label(axes, size[0])
        axes.grid(axis="y", color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        for write, name, room in (
            (axes.set_xlabel, self.x_name, size[0] + 20), (axes.set_ylabel, self.y_name, size[1]),
        ):  # fmt: skip
            write(_labels.wrapped(_labels.readable(name, 120), room, style.SMALL))

    def bar(self, figure: Drawn, axes: Sequence[Axes], size: Size, where: str) -> None:
        """Nothing: curves have no colour bar."""

    def legend(self) -> Sequence[Artist]:
        """What is explained: each series, as a line, a marker or both, as it is drawn."""
        return [] if list(self.series) == [""] else self._lines()

    def tips(self) -> Iterator[Tip]:
        """What each point says when the pointer rests on it."""
        for name, values in self.curves.items():
            for i, (x, y) in enumerate(zip(self.places, values, strict=True)):
                if not isnan(y):
                    yield Tip(x, y, x, y, self.tip(name, i), REST)

    def _lines(self) -> list[Line2D]:
        """Each series as a line of matplotlib's: it parts at gaps; a point alone is a marker."""
        from matplotlib.lines import Line2D

        made = []
        for number, (name, values) in enumerate(self.curves.items()):
            x, values = self._shown(np.asarray(self.places), values)
            there = ~np.isnan(values)
            ends = np.pad(there, 1)
            marked = there & ~ends[:-2] & ~ends[2:]  # points alone
            if name not in self.plain:
                marked[:: max(1, -(-len(values) // MARKED))] = True
            single = len(set(x[there])) == 1
            colour, marker = (looks[number % len(looks)] for looks in (COLOURS, MARKERS))
            dash = DASHES[number % len(DASHES)]
            made.append(
                Line2D(
                    x, values, color=colour, linestyle="none" if single else dash,
                    marker=marker if (marked & there).any() else "", markevery=marked.tolist(),
                    label=_labels.readable(name, 60),
                )
            )  # fmt: skip
        return made

    def _shown(
        self, x: Float[np.ndarray, " x"], values: Float[np.ndarray, " x"]
    ) -> tuple[Float[np.ndarray, " shown"], Float[np.ndarray, " shown"]]:
        """Places and values as they are drawn: where gaps are bridged, without them."""
        here = ~np.isnan(values) if self.bridged else np.ones(len(values), dtype=bool)
        return x[here], values[here]

    def _label(self, axes: Axes, width: float) -> None:
        """Ticks: matplotlib's, of whole numbers where all places are whole; labels where those are
        the places; on a logarithmic axis powers of ten and, where they fit, multiples of them."""
        from matplotlib import ticker

        axes.yaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.ticklabel_format(axis="y", useOffset=False)
        if self.labels:
            _labels.put(axes.xaxis, self.labels, width / 1.1 / max(len(self.labels) - 1, 1))
        elif self.log_x:
            marked = _labels.multiples(min(self.places), max(self.places), width / 1.1)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(ticker.LogLocator(subs=marked))
            axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: _labels.short(x)))
            axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        else:
            whole = all(place.is_integer() for place in self.places)
            axes.xaxis.set_major_locator(
                ticker.MaxNLocator("auto", steps=[1, 2, 5, 10], integer=whole)
            )
            axes.ticklabel_format(axis="x", useOffset=False)
