"""The words around a picture of a circuit: the title above it, and the caption below."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from circuitkit.viz import style
from circuitkit.viz.shapes import Shape, Text

__all__ = ["caption_of", "heading_of"]


def heading_of(title: str, width: float) -> Iterator[Text]:
    """The title, cut to the width; nothing without one."""
    size = style.HEADING
    room = (width - 2 * style.MARGIN) / style.text_width("m", size)
    if title:
        text, y = style.plain(title, int(room)), style.MARGIN + size / 2
        yield Text(width / 2, y, text, size, anchor="middle", bold=True)


def caption_of(
    parts: Iterable[str], width: float, top: float, small: float
) -> tuple[list[Shape], float]:
    """The caption, wrapped in the width, and where the picture ends."""
    signs = int((width - 2 * style.MARGIN) / style.text_width("m", small))
    lines = [line for part in parts for line in textwrap.wrap(part, signs)]
    step = 1.4 * small
    shapes: list[Shape] = [
        Text(style.MARGIN, top + (number + 0.8) * step, line, small)
        for number, line in enumerate(lines)
    ]
    return shapes, top + len(lines) * step + style.MARGIN
