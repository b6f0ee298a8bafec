"""What every figure does: become a matplotlib figure, an SVG document, and a file."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from circuitkit.util.atomic import write_whole
from circuitkit.viz.canvas import INCH, rendered, styled
from circuitkit.viz.figures._sheet import Panel, Sheet
from circuitkit.viz.figures.suffixes import require_suffix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawn
    from matplotlib.transforms import Bbox

AROUND = 0.1  # inches of paper around what is drawn


class Figure(ABC):
    """A figure: what is shown, as data."""

    def plot(self) -> Drawn:
        """The figure as a new ``matplotlib.figure.Figure``, to look at and to edit."""
        with styled():
            return self.sheet().drawn()[0]

    def svg(self) -> str:
        """The figure as an SVG document: the same bytes every time. Resting the pointer on a value
        shows it."""
        return self._written("svg").decode()

    def _repr_svg_(self) -> str:
        return self.svg()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the figure as ``.svg``, ``.png`` (200 dots an inch) or ``.pdf``, and return the
        path; a file that was there is replaced once the new one is whole.

        Raises OutputError for another suffix, or where the place cannot be written.
        """
        return write_whole(path, self._written(require_suffix(path)))

    @abstractmethod
    def sheet(self) -> Sheet:
        """The panels of the figure, and what is around them."""

    def _written(self, suffix: str) -> bytes:
        with styled():
            sheet = self.sheet()
            figure, every = sheet.drawn()
            figure.set_layout_engine("none")
            box = figure.get_tightbbox().padded(AROUND)
            content = rendered(figure, suffix, box)
            if suffix != "svg":
                return content
            areas = "".join(_areas(sheet.panels, every, box))
        shown = f'<g fill="none" pointer-events="all">\n{areas}</g>\n</svg>\n'
        return content.removesuffix(b"\n").removesuffix(b"</svg>") + shown.encode()


def _areas(panels: Sequence[Panel], every: Sequence[Axes], box: Bbox) -> Iterator[str]:
    """Invisible rectangles over the values, which tell what they are."""
    for panel, axes in zip(panels, every, strict=True):
        tips = list(panel.tips())
        places = axes.transData.transform([(x, y) for t in tips for x, y in (t[:2], t[2:4])])
        for tip, one, other in zip(tips, places[::2], places[1::2], strict=True):
            left, right = sorted((one[0] - box.x0 * INCH, other[0] - box.x0 * INCH))
            top, bottom = sorted((box.y1 * INCH - one[1], box.y1 * INCH - other[1]))
            yield (
                f'<rect x="{left - tip.around:.1f}" y="{top - tip.around:.1f}" '
                f'width="{right - left + 2 * tip.around:.1f}" '
                f'height="{bottom - top + 2 * tip.around:.1f}">'
                f"<title>{escape(tip.text)}</title></rect>\n"
            )
