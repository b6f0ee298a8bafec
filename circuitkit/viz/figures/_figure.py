"""What every figure does: draw itself, save itself, and become a matplotlib figure."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import circuitkit.viz.figures._plots as _plots
from circuitkit.errors import OutputError
from circuitkit.util.atomic import write_whole
from circuitkit.viz import style
from circuitkit.viz.figures._parts import PAGE
from circuitkit.viz.render import rendered
from circuitkit.viz.shapes import Scene, Text
from circuitkit.viz.svg import document

SUFFIXES = ("pdf", "png", "svg")


class Figure(ABC):
    """A figure: what is shown, as data."""

    def svg(self) -> str:
        """The figure as an SVG document: the same bytes every time. Resting the pointer on a value
        shows it."""
        return document(self.scene())

    def _repr_svg_(self) -> str:
        return self.svg()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the figure as ``.svg``, ``.png`` (200 dots an inch) or ``.pdf``, and return the
        path; a file that was there is replaced once the new one is whole.

        Graphviz draws PNG and PDF; where labels are turned, which it cannot do, matplotlib. Raises
        OutputError for another suffix, where neither can draw, or the place cannot be written.
        """
        suffix = Path(path).suffix.removeprefix(".").lower()
        if suffix not in SUFFIXES:
            raise OutputError(
                f"{os.fspath(path)!r} cannot be written: a figure is saved as "
                f"{', '.join(f'.{one}' for one in SUFFIXES)}"
            )
        if suffix == "svg":
            return write_whole(path, self.svg())
        picture = self.scene()
        turned = any(isinstance(shape, Text) and shape.turned for shape in picture.shapes)
        return write_whole(path, (_plots.drawn if turned else rendered)(picture, suffix))

    def matplotlib(self) -> Any:
        """An equivalent ``matplotlib.figure.Figure``, to edit. Raises OutputError where matplotlib
        is not installed."""
        picture = self.scene()
        figure, (axes,) = _plots.blank(picture.width, picture.height, 1, 1)
        self.paint(axes)
        return figure

    @abstractmethod
    def scene(self, width: float = PAGE, heading: float = style.HEADING) -> Scene:
        """The figure as shapes, about so wide, its title in letters of this size."""

    @abstractmethod
    def paint(self, axes: Any) -> None:
        """Draw the figure into matplotlib's axes."""
