"""Points: one quantity against another, such as estimates against what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Float

import circuitkit.viz.figures._labels as _labels
from circuitkit.errors import OutputError
from circuitkit.viz import style
from circuitkit.viz.figures._figure import Figure
from circuitkit.viz.figures._sheet import PAGE, Sheet, Size, Tip
from circuitkit.viz.figures.curves import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawn
    from matplotlib.lines import Line2D

__all__ = ["Points"]

GRID = "#ebebeb"
SIDES = 55.0  # about what labels take at the left
LARGEST = 380.0  # the side of the axes
SIZE, CLEAR = 5.0, 0.75  # of a marker; how solid it is
REST = 3.5  # how near to a point the pointer rests on it

Pairs: TypeAlias = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True, repr=False, eq=False)
class Points(Figure):
    """One marker for each pair of numbers, in a series of its own colour and marker.

    ``series`` gives, by name, the numbers along x and those along y; ``labels`` (by the name of a
    series) say what each point is when the pointer rests on it. ``equal`` draws the line on which
    both are equal; ``equal_name`` explains it. Raises OutputError where there are no points, where
    one is not finite, or where lengths differ.

    Example:
        >>> ck.figures.Points({"all edges": ([0.1, 0.5], [0.2, 0.4])}, x_name="estimated")
        Points(2)
    """

    series: Mapping[str, Pairs]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    title: str = ""
    x_name: str = ""
    y_name: str = ""
    equal: bool = False
    equal_name: str = "equal"

    def __post_init__(self) -> None:
        if not any(x.size for x, _ in self.places.values()):
            raise OutputError("there are no points; give at least one")
        for name, (x, y) in self.places.items():
            if x.shape != y.shape or x.ndim != 1:
                raise OutputError(f"{name!r} has {x.size} numbers along x and {y.size} along y")
            if not (np.isfinite(x).all() and np.isfinite(y).all()):
                raise OutputError(f"{name!r} is not finite somewhere; give finite numbers")
            if len(self.labels.get(name, x)) != len(x):
                raise OutputError(
                    f"{name!r} has {len(x)} points and {len(self.labels[name])} labels"
                )

    def __repr__(self) -> str:
        points = sum(x.size for x, _ in self.places.values())
        return f"Points({points}{f', {self.title!r}' if self.title else ''})"

    @cached_property
    def places(self) -> dict[str, tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]]:
        """The series as arrays of floats."""
        return {name: (np.asarray(x, float), np.asarray(y, float))
                for name, (x, y) in self.series.items()}  # fmt: skip

    # -- drawing -----------------------------------------------------------------------------------
    @property
    def colours(self) -> tuple[object, ...]:
        """Nothing: points have no colour bar."""
        return ()

    def sheet(self) -> Sheet:
        """The points alone under their title."""
        return Sheet((self,), 1, PAGE, self.title)

    def size(self, width: float) -> Size:
        """A square that goes well with the page."""
        side = min(width - SIDES, LARGEST)
        return side, side

    def paint(self, axes: Axes, size: Size) -> None:
        """Draw the points into matplotlib's axes of this size."""
        axes.axhline(0, color=style.FAINT, linewidth=0.7)
        axes.axvline(0, color=style.FAINT, linewidth=0.7)
        if self.equal:
            axes.axline((0, 0), slope=1, color=style.FAINT, linewidth=1.0, linestyle="--")
        for line in self._markers():
            axes.add_line(line)
        axes.autoscale_view()
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
        axes.tick_params(length=0)
        axes.locator_params(nbins=6)
        axes.ticklabel_format(useOffset=False)
        for write, name in ((axes.set_xlabel, self.x_name), (axes.set_ylabel, self.y_name)):
            write(_labels.wrapped(_labels.readable(name, 120), size[0], style.SMALL))

    def bar(self, figure: Drawn, axes: Sequence[Axes], size: Size, where: str) -> None:
        """Nothing: points have no colour bar."""

    def legend(self) -> Sequence[Artist]:
        """What is explained: each series that has a name, and the line of equal numbers."""
        from matplotlib.lines import Line2D

        found: list[Artist] = [line for line in self._markers() if line.get_label()]
        if self.equal:
            name = _labels.readable(self.equal_name, 60)
            key = Line2D([], [], color=style.FAINT, linewidth=1.0, linestyle="--", label=name)
            found.append(key)
        return found

    def tips(self) -> Iterator[Tip]:
        """What each point says when the pointer rests on it."""
        for name, (xs, ys) in self.places.items():
            names = (_labels.readable(n, 60) for n in (self.x_name or "x", self.y_name or "y"))
            across, up = names
            for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
                what = self.labels[name][i] if name in self.labels else name
                said = f"{_labels.exact(what)}: {across} {x:.4g}, {up} {y:.4g}"
                yield Tip(x, y, x, y, said, REST)

    def _markers(self) -> list[Line2D]:
        """Each series as markers of matplotlib's."""
        from matplotlib.lines import Line2D

        return [
            Line2D(x, y, linestyle="none", marker=MARKERS[number % len(MARKERS)], markersize=SIZE,
                   markeredgewidth=0, color=COLOURS[number % len(COLOURS)], alpha=CLEAR,
                   label=_labels.readable(name, 60))
            for number, (name, (x, y)) in enumerate(self.places.items())
        ]  # fmt: skip
