"""Several figures side by side under one title."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import circuitkit.viz.figures._parts as _parts
import circuitkit.viz.figures._plots as _plots
from circuitkit.errors import OutputError
from circuitkit.viz import style
from circuitkit.viz.figures._figure import Figure
from circuitkit.viz.figures.curves import Lines
from circuitkit.viz.figures.heatmaps import Heatmap
from circuitkit.viz.shapes import Scene, Shape, Text, moved

__all__ = ["Panels"]

PAGE = 720.0  # what the width of all panels aims at
MOST = 3  # columns, unless it is said how many


@dataclass(frozen=True, repr=False, eq=False)
class Panels(Figure):
    """Figures in rows of ``columns`` (as many as there are, at most 3), each with its own axes, and
    where there are ``captions`` with one below it, after a letter: (a), (b), ... Curves of the same
    series share one legend.

    Raises OutputError where there is no figure, one that is neither Heatmap nor Lines, another
    number of captions than of figures, and for a number of columns that is none.
    """

    figures: Sequence[Heatmap | Lines]
    columns: int | None = None
    title: str = ""
    captions: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.figures:
            raise OutputError("there are no figures; give at least one")
        for figure in self.figures:
            if not isinstance(figure, Heatmap | Lines):
                raise OutputError(f"{figure!r} is no panel; give Heatmap or Lines")
        if self.captions and len(self.captions) != len(self.figures):
            raise OutputError(
                f"there are {len(self.captions)} captions for {len(self.figures)} figures"
            )
        if self.columns is not None and self.columns < 1:
            raise OutputError(f"columns={self.columns!r} is no number of columns; give 1 or more")

    def __repr__(self) -> str:
        title = f", {self.title!r}" if self.title else ""
        return f"Panels({len(self.figures)} figures{title})"

    @property
    def across(self) -> int:
        """The number of columns."""
        return min(self.columns or MOST, len(self.figures))

    def scene(self, width: float = PAGE, heading: float = style.HEADING) -> Scene:
        """The figure as shapes, about so wide, its title in letters of this size."""
        room = width / self.across
        scenes = [self._captioned(number, room) for number in range(len(self.figures))]
        rows = [scenes[i : i + self.across] for i in range(0, len(scenes), self.across)]
        widths = [
            max(scene.width for scene in scenes[i :: self.across]) for i in range(self.across)
        ]
        heights = [max(scene.height for scene in row) for row in rows]
        lefts, tops = ([0.0, *accumulate(sizes)] for sizes in (widths, heights))
        shapes: list[Shape] = []
        for row, top in zip(rows, tops, strict=False):
            for scene, left, wide in zip(row, lefts, widths, strict=False):
                x = left + (wide - scene.width) / 2
                shapes += [moved(shape, x, top) for shape in scene.shapes]
        body = Scene(sum(widths), sum(heights), tuple(shapes))
        return _parts.page(body, self.title, self._shared(), heading)

    def _shared(self) -> list[_parts.Entry]:
        """The legend of all panels; none where each has its own."""
        curves = [figure for figure in self.figures if isinstance(figure, Lines)]
        same = len({tuple(figure.series) for figure in curves}) == 1
        alone = len(curves) < len(self.figures) or len(curves) < 2
        return curves[0].legend() if same and not alone else []

    def _captioned(self, number: int, width: float) -> Scene:
        """A panel with its caption."""
        figure = self.figures[number]
        if isinstance(figure, Lines) and self._shared():
            scene = figure.framed(width, style.LABEL)
        else:
            scene = figure.scene(width, style.LABEL)
        if not self.captions:
            return scene
        text = f"({_letter(number)}) {self.captions[number]}"
        lines = _parts.paragraph(text, scene.width - 2 * style.MARGIN, style.SMALL)
        step = 1.4 * style.SMALL
        words = [
            Text(scene.width / 2, scene.height + (i + 0.2) * step, line, anchor="middle")
            for i, line in enumerate(lines)
        ]
        height = scene.height + len(lines) * step
        return Scene(scene.width, height, (*scene.shapes, *words))

    def matplotlib(self) -> Any:
        """An equivalent ``matplotlib.figure.Figure``, to edit. Raises OutputError where matplotlib
        is not installed."""
        picture = self.scene()
        rows = -(-len(self.figures) // self.across)
        figure, axes = _plots.blank(picture.width, picture.height, rows, self.across)
        for one, own in zip(self.figures, axes, strict=False):
            one.paint(own)
        for spare in axes[len(self.figures) :]:
            spare.set_axis_off()
        for number, (caption, own) in enumerate(zip(self.captions, axes, strict=False)):
            name = own.get_xlabel()
            own.set_xlabel(f"{name}\n({_letter(number)}) {caption}".lstrip("\n"))
        figure.suptitle(self.title)
        return figure

    def paint(self, axes: Any) -> None:
        """Panels have several axes: raises OutputError."""
        raise OutputError("panels cannot be drawn into one axes; use matplotlib()")


def _letter(number: int) -> str:
    """a to z, then aa, ab, ..."""
    before, own = divmod(number, 26)
    return (_letter(before - 1) if before else "") + chr(ord("a") + own)
