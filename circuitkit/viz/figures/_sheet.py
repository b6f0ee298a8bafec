"""Panels on a sheet: matplotlib's constrained layout around axes of the sizes that they ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, runtime_checkable

import circuitkit.viz.figures._labels as _labels
from circuitkit.viz import style
from circuitkit.viz.canvas import INCH

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import LayoutEngine

Size: TypeAlias = tuple[float, float]  # width and height in points
PAGE = 500.0  # what the width of a figure aims at
ROOM, NEAR, TRIES = 12.0, 0.01, 12  # inches beside axes to be fitted; how near; in how many steps
SAMPLE = 46.0  # what an entry of the legend takes beside its text


class Tip(NamedTuple):
    """What is said where the pointer rests: on a box in data, and so many points around it."""

    left: float
    top: float
    right: float
    bottom: float
    text: str
    around: float = 0.0


@runtime_checkable
class Panel(Protocol):
    """What is on a sheet: a heat map or curves."""

    @property
    def title(self) -> str: ...

    @property
    def colours(self) -> tuple[object, ...]:
        """What panels that share a colour bar have in common; empty where there is none."""

    def size(self, width: float) -> Size:
        """The size that the axes ask for on a page of this width."""

    def paint(self, axes: Axes, size: Size) -> None:
        """Draw into matplotlib's axes, which will have this size."""

    def bar(self, figure: Figure, axes: Sequence[Axes], size: Size, where: str) -> None:
        """Put a colour bar beside these axes, which are about so large together."""

    def legend(self) -> Sequence[Artist]:
        """What the legend explains, as matplotlib's artists with labels."""

    def tips(self) -> Iterator[Tip]:
        """What the panel says where the pointer rests."""


@dataclass(frozen=True)
class Sheet:
    """Panels in rows, with a title above and a legend below them."""

    panels: Sequence[Panel]
    across: int
    page: float
    title: str
    named: bool = False  # whether panels have titles of their own
    captions: Sequence[str] = ()
    apart: bool = False  # whether curves have legends of their own

    def drawn(self) -> tuple[Figure, list[Axes]]:
        """The matplotlib figure, and the axes of each panel."""
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        sizes = [panel.size(self.page / self.across) for panel in self.panels]
        widths = [max(w for w, _ in sizes[i :: self.across]) for i in range(self.across)]
        starts = range(0, len(sizes), self.across)
        heights = [max(h for _, h in sizes[i : i + self.across]) for i in starts]
        engine = ConstrainedLayoutEngine(w_pad=5 / INCH, h_pad=6 / INCH, wspace=0, hspace=0)
        figure = Figure(layout=engine)
        grid = figure.add_gridspec(
            len(heights), len(widths), width_ratios=widths, height_ratios=heights
        )
        every = [figure.add_subplot(grid[divmod(i, self.across)]) for i in range(len(sizes))]
        for number, (panel, axes) in enumerate(zip(self.panels, every, strict=True)):
            size = (widths[number % self.across], heights[number // self.across])
            panel.paint(axes, size)
            self._name(number, axes, size)
        self._bars(figure, every, widths, heights)
        whole = sum(widths) / INCH, sum(heights) / INCH
        room = ROOM * max(len(widths), len(heights))
        figure.set_size_inches(whole[0] + room, whole[1] + room)
        self._fit(figure, engine, every, whole, 2)
        self._frame(figure)
        self._fit(figure, engine, every, whole, TRIES)
        return figure, every

    def _name(self, number: int, axes: Axes, size: Size) -> None:
        """The title and the caption of a panel, and its legend where it has one of its own."""
        panel, room = self.panels[number], size[0] + 25
        if self.named:
            axes.set_title(_labels.wrapped(panel.title, room, style.LABEL))
        if self.captions:
            text = f"({_letter(number)}) {self.captions[number]}"
            said = _labels.wrapped(text, room, style.SMALL)
            axes.set_xlabel(f"{axes.get_xlabel()}\n{said}".lstrip("\n"))
        if self.apart and not panel.colours and (keys := panel.legend()):
            axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(1, 1))

    def _bars(
        self,
        figure: Figure,
        every: Sequence[Axes],
        widths: Sequence[float],
        heights: Sequence[float],
    ) -> None:
        """A colour bar for all panels that share their colours: where they are a whole column below
        it, where they are all panels beside them; else each has its own."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for number, panel in enumerate(self.panels):
            groups.setdefault(panel.colours, []).append(number)
        groups.pop((), None)
        columns = [list(range(i, len(every), self.across)) for i in range(self.across)]
        for group in groups.values():
            whole = len(group) == len(every) or (group in columns and len(heights) > 1)
            for numbers in [group] if whole else [[number] for number in group]:
                column = len(numbers) > 1 and len(numbers) < len(every)
                own = widths[numbers[0] % self.across], heights[numbers[0] // self.across]
                size = own if len(numbers) == 1 or column else (sum(widths), sum(heights))
                axes = [every[i] for i in numbers]
                self.panels[numbers[0]].bar(figure, axes, size, "bottom" if column else "right")

    def _frame(self, figure: Figure) -> None:
        """The title above and the legend below, as wide as the figure, which grows for them."""
        wide = figure.get_figwidth() * INCH
        title = _labels.wrapped(self.title, max(wide - 20, 200), style.HEADING)
        tall = style.HEADING * 1.5 * len(title.splitlines())
        if title:
            figure.suptitle(title)
        shared = [panel for panel in self.panels if panel.colours or not self.apart]
        keys = {str(key.get_label()): key for panel in shared for key in panel.legend()}
        if keys:
            entry = max(map(_labels.measured, keys)) + SAMPLE
            rows = -(-len(keys) // max(int(wide / entry), 1))
            tall += style.SMALL * (1.6 * rows + 3)
            figure.legend(
                handles=list(keys.values()), loc="outside lower center", ncols=-(-len(keys) // rows)
            )
        figure.set_size_inches(wide / INCH, figure.get_figheight() + tall / INCH)

    def _fit(
        self, figure: Figure, engine: LayoutEngine, every: Sequence[Axes], whole: Size, tries: int
    ) -> None:
        """Lay the figure out, and change its size by what its axes lack of the size that they ask
        for; once more where a colour bar grew with them."""
        for _ in range(tries):
            engine.execute(figure)
            boxes = [axes.get_position() for axes in every]
            page = figure.get_figwidth(), figure.get_figheight()
            wide = whole[0] - page[0] * sum(box.width for box in boxes[: self.across])
            tall = whole[1] - page[1] * sum(box.height for box in boxes[:: self.across])
            if max(abs(wide), abs(tall)) < NEAR:
                return
            figure.set_size_inches(page[0] + wide, page[1] + tall)


def _letter(number: int) -> str:
    """a to z, then aa, ab, ..."""
    before, own = divmod(number, 26)
    return (_letter(before - 1) if before else "") + chr(ord("a") + own)
