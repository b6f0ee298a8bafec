"""Several figures side by side under one title."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from circuitkit.errors import OutputError
from circuitkit.viz.figures._figure import Figure
from circuitkit.viz.figures._sheet import Sheet
from circuitkit.viz.figures.bars import Bars
from circuitkit.viz.figures.curves import Lines
from circuitkit.viz.figures.heatmaps import Heatmap
from circuitkit.viz.figures.points import Points

__all__ = ["Panels"]

PAGE = 720.0  # what the width of all panels aims at
Part: TypeAlias = Heatmap | Lines | Bars | Points
MOST = 3  # columns, unless it is said how many


@dataclass(frozen=True, repr=False, eq=False)
class Panels(Figure):
    """Figures in rows of ``columns`` (as many as there are, at most 3), each with its own axes.

    ``captions`` are written below them, each after a letter: (a), (b), ... Heat maps of one unit
    share their colours, so that they can be compared, and the colour bar where they are all panels
    or a whole column; one that has a ``limit`` keeps its own. Curves of the same series share one
    legend.

    Raises OutputError where there is no figure, one that is not of one panel, a different
    number of captions than of figures, and for a number of columns below 1.

    Example:
        >>> one = ck.figures.Heatmap([[0.1, -0.2], [0.3, 0.0]], unit="logit difference")
        >>> ck.figures.Panels([one, one], captions=["clean", "corrupted"]).save("two.pdf").name
        'two.pdf'
    """

    figures: Sequence[Part]
    columns: int | None = None
    title: str = ""
    captions: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.figures:
            raise OutputError("there are no figures; give at least one")
        for figure in self.figures:
            if not isinstance(figure, Part):
                raise OutputError(f"{figure!r} is not a panel; give Heatmap, Lines, Bars or Points")
        if self.captions and len(self.captions) != len(self.figures):
            raise OutputError(
                f"there are {len(self.captions)} captions for {len(self.figures)} figures"
            )
        if self.columns is not None and self.columns < 1:
            raise OutputError(
                f"columns={self.columns!r} is not a number of columns; give 1 or more"
            )

    def __repr__(self) -> str:
        title = f", {self.title!r}" if self.title else ""
        return f"Panels({len(self.figures)} figures{title})"

    def sheet(self) -> Sheet:
        """The panels under their title."""
        across = min(self.columns or MOST, len(self.figures))
        series = {tuple(f.series) for f in self.figures if isinstance(f, Lines | Points)}
        return Sheet(
            self._coloured(), across, PAGE, self.title, True, self.captions, len(series) > 1
        )

    def _coloured(self) -> list[Part]:
        """The panels, heat maps of one unit with the colours that reach as far as all of them."""
        free = [f for f in self.figures if isinstance(f, Heatmap) and f.limit is None]
        found: list[Part] = []
        for figure in self.figures:
            if isinstance(figure, Heatmap) and figure.limit is None:
                same = [f.scale for f in free if f.colours[:2] == figure.colours[:2]]
                lows, highs = zip(*same, strict=True)
                figure = replace(figure, limit=(min(lows), max(highs)))
            found.append(figure)
        return found
