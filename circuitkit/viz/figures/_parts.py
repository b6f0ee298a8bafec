"""What every figure has: a heading above and a legend below, wrapped in the width."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from circuitkit.viz import style
from circuitkit.viz.shapes import Rect, Scene, Shape, Text, moved

PAGE = 500.0  # what the width of a figure aims at
SAMPLE, SPACE, ROW = 26.0, 6.0, 17.0  # the legend: width of a sample; space after it; row height


@dataclass(frozen=True)
class Entry:
    """One entry of a legend: shapes around the height 0, from 0 to the width."""

    shapes: tuple[Shape, ...]
    width: float


def entry(sample: Sequence[Shape], text: str) -> Entry:
    """A sample, from 0 to SAMPLE, and what it means."""
    width = SAMPLE + SPACE + style.text_width(text, style.SMALL)
    return Entry((*sample, Text(SAMPLE + SPACE, 0.0, text)), width)


def page(body: Scene, title: str, legend: Sequence[Entry], size: float) -> Scene:
    """The body with a title of this size above it and a legend below it, in the middle of a page
    as wide as they need."""
    inner = max([body.width, *(e.width for e in legend), _longest_word(title, size)])
    width = inner + 2 * style.MARGIN
    heading = paragraph(title, inner, size)
    top = style.MARGIN + len(heading) * 1.3 * size + (size / 2 if heading else 0.0)
    lines = [
        Text(width / 2, style.MARGIN + (n + 0.5) * 1.3 * size, line, size, anchor="middle",
             bold=True)
        for n, line in enumerate(heading)
    ]  # fmt: skip
    left = (width - body.width) / 2
    shapes = [moved(shape, left, top) for shape in body.shapes]
    keys, bottom = _rows(legend, min(left, style.MARGIN), width, top + body.height)
    return Scene(width, bottom + style.MARGIN, (*shapes, *lines, *keys))


def paragraph(text: str, width: float, size: float) -> list[str]:
    """The text in lines that fit the width."""
    signs = max(int(width / style.text_width("m", size)), 1)
    return textwrap.wrap(style.plain(text, 1000), signs)


def _longest_word(text: str, size: float) -> float:
    """The room that a heading asks for: its longest word, and a third of it in a line."""
    words = style.plain(text, 1000).split()
    whole = style.text_width(" ".join(words), size) / 3
    return min(max([whole, *(style.text_width(w, size) for w in words)]), PAGE)


def _rows(
    legend: Sequence[Entry], left: float, width: float, top: float
) -> tuple[list[Shape], float]:
    """The legend in rows, one below the other in the middle of the page, and where it ends."""
    rows: list[list[Entry]] = []
    used = 0.0
    for one in legend:
        if not rows or used + one.width > width - 2 * left:
            rows.append([])
            used = 0.0
        rows[-1].append(one)
        used += one.width + 2 * SPACE
    shapes: list[Shape] = []
    widest = max((sum(e.width + 2 * SPACE for e in row) for row in rows), default=0.0) - 2 * SPACE
    for number, row in enumerate(rows):
        x = (width - widest) / 2
        y = top + SPACE + (number + 0.5) * ROW
        for one in row:
            shapes += [moved(shape, x, y) for shape in one.shapes]
            x += one.width + 2 * SPACE
    return shapes, top + (SPACE + len(rows) * ROW if rows else 0.0)


def cell(x: float, y: float, width: float, height: float, colour: str, title: str = "") -> Rect:
    """A filled cell, with a hair line around it where it is large enough."""
    line = "#e4e4e4" if min(width, height) >= 8 else ""
    return Rect(x, y, width, height, colour, line, title=title, line=0.5)
