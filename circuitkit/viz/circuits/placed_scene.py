"""A circuit between places as a finished picture: the words of a prompt along x, layers upwards."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, hypot

from circuitkit.errors import OutputError
from circuitkit.graph.types import Graph
from circuitkit.viz import style
from circuitkit.viz.canvas import INCH
from circuitkit.viz.circuits.choice import Asked
from circuitkit.viz.circuits.layout import Point
from circuitkit.viz.circuits.lettering import caption_of, heading_of
from circuitkit.viz.circuits.overlaying import placed_overlay
from circuitkit.viz.circuits.placed_drawing import (
    SOURCE,
    PlacedDrawing,
    Words,
    placed_drawing,
)
from circuitkit.viz.circuits.placed_layout import (
    ROOMY,
    TIGHT,
    Along,
    Spacing,
    lay_out_along,
)
from circuitkit.viz.circuits.scene import (
    FEWER,
    LEAST_LETTERS,
    LEAST_WIDTH,
    ROW,
    _legend_rows,
    _widest_entry,
)
from circuitkit.viz.shapes import Curve, Rect, Scene, Shape, Text, scaled

__all__ = ["placed_scene"]

WIDE = 3  # boxes side by side in a cell, where no width is asked for
TRIED = ((3, ROOMY), (2, ROOMY), (1, TIGHT))  # boxes side by side in a cell
LINES = 3  # of words below a column
RULE = "#dddddd"  # between columns
SIGN = 0.5  # the width of a word's letter, of its size, where a little more does not matter


@dataclass(frozen=True)
class _Sheet:
    """The picture's own coordinates: y grows downwards from the top line."""

    drawn: PlacedDrawing
    along: Along
    spacing: Spacing
    left: float
    top: float
    floor: float
    small: float
    width: float

    @property
    def layer(self) -> str:
        """What stands before the number of a layer."""
        return "" if self.spacing.joined else "layer "

    def at(self, point: Point) -> Point:
        """Where a point of the layout is."""
        return self.left + point[0], self.floor - point[1]


def placed_scene(
    circuit: Graph,
    edges: Asked,
    title: str | None,
    inches: float | None,
    prompt: Words | None,
    beside: Graph | None = None,
) -> Scene:
    """The circuit along a prompt, of its strongest edges, at most so many; in a column of so many
    inches with letters of 7 points at least, where it is as many edges as fit, if no number is
    asked for; with another one ``beside`` it, the two one over the other. Raises OutputError where
    they do not fit, and as ``placed_drawing`` does."""
    if inches is None:
        drawn = _drawn(circuit, edges, title, prompt, beside)
        along = lay_out_along(drawn, WIDE, ROOMY)
        return _picture(drawn, along, ROOMY, style.SMALL, LEAST_WIDTH)
    needed = 0.0
    for most in (edges,) if edges is not None else FEWER:
        drawn = _drawn(circuit, most, title, prompt, beside)
        for abreast, spacing in TRIED:
            along = lay_out_along(drawn, abreast, spacing)
            natural = _picture(drawn, along, spacing, style.LABEL, 0.0).width
            scale = min(style.SMALL / style.LABEL, INCH * inches / natural)
            if scale * style.LABEL >= LEAST_LETTERS:
                whole = _picture(drawn, along, spacing, style.LABEL, INCH * inches / scale)
                return scaled(whole, scale)
            needed = natural * LEAST_LETTERS / style.LABEL / INCH
    raise OutputError(
        f"in letters of {LEAST_LETTERS:g} points the picture is {ceil(10 * needed) / 10:g} inches "
        "wide, and not "
        f"{inches:g}; give it fewer edges (edges=20), or more inches"
    )


def _drawn(
    circuit: Graph, edges: Asked, title: str | None, prompt: Words | None, beside: Graph | None
) -> PlacedDrawing:
    if beside is None:
        return placed_drawing(circuit, edges, title, prompt)
    return placed_overlay(circuit, beside, edges, title, prompt)


def _picture(
    drawn: PlacedDrawing, along: Along, spacing: Spacing, small: float, least: float
) -> Scene:
    """The picture, with words, legend and caption in letters of that size, at least so wide."""
    least = max(least, _widest_entry(drawn, small) + 2 * style.MARGIN)
    sheet = _sheet(drawn, along, spacing, small, least, drawn.title)
    heading = list(heading_of(drawn.title, sheet.width))
    words, bottom = _words(sheet)
    bands: list[Shape] = [*_bands(sheet), *_rules(sheet, bottom)]
    bands += [Text(spacing.margin, sheet.top, "layer", small, style.FAINT)] * spacing.joined
    legend, bottom = _legend_rows(drawn, sheet.width, bottom + style.MARGIN / 2, small)
    caption, bottom = caption_of(drawn.caption, sheet.width, bottom, small)
    shapes = (*bands, *_lines(sheet), *_boxes(sheet), *words, *heading, *legend, *caption)
    return Scene(sheet.width, bottom, shapes)


def _sheet(
    drawn: PlacedDrawing, along: Along, spacing: Spacing, small: float, least: float, title: str
) -> _Sheet:
    """Where the layout stands in a picture that is at least so wide, below its title."""
    last = max(layer for layer, _ in _layers(along))
    names = style.text_width(f"{'' if spacing.joined else 'layer '}{last}", small) + 4.0
    inner = along.columns[-1][1]
    width = max(inner + names + 2 * spacing.margin, least)
    top = style.MARGIN + (style.HEADING + ROW / 2) * bool(title) + spacing.half
    floor = top + max(y for lines in along.lines.values() for y in lines)
    left = spacing.margin + names + (width - 2 * spacing.margin - names - inner) / 2
    return _Sheet(drawn, along, spacing, left, top, floor, small, width)


def _layers(along: Along) -> list[tuple[int, tuple[float, ...]]]:
    """The layers between the embedding and the logits, with the heights of their lines."""
    found: dict[int, tuple[float, ...]] = {}
    for (layer, _), lines in along.lines.items():
        if 0 <= layer < 10**9:
            found[layer] = (*found.get(layer, ()), *lines)
    return [*found.items()] or [(0, (0.0,))]


def _bands(sheet: _Sheet) -> Iterator[Rect | Text]:
    """Each layer's name at the left, and a tint behind every second one."""
    pitch = sheet.spacing.pitch[0]
    every = sorted(y for lines in sheet.along.lines.values() for y in lines)
    for number, (name, lines) in enumerate(_layers(sheet.along)):
        below = max((y for y in every if y < min(lines)), default=min(lines) - pitch)
        above = min((y for y in every if y > max(lines)), default=max(lines) + pitch)
        low, high = (below + min(lines)) / 2, (above + max(lines)) / 2
        _, y = sheet.at((0.0, (low + high) / 2))
        if number % 2 == 0:
            wide = sheet.width - sheet.spacing.margin
            yield Rect(sheet.width / 2, y, wide, high - low, style.BAND)
        yield Text(sheet.spacing.margin, y, f"{sheet.layer}{name}", sheet.small, style.FAINT)


def _rules(sheet: _Sheet, bottom: float) -> Iterator[Rect]:
    """A thin line between columns."""
    columns, top = sheet.along.columns, sheet.top - sheet.spacing.half
    for (_, right), (left, _) in pairwise(columns):
        x, _ = sheet.at(((right + left) / 2, 0.0))
        yield Rect(x, (top + bottom) / 2, 0.7, bottom - top, RULE)


def _lines(sheet: _Sheet) -> Iterator[Shape]:
    for route in sheet.along.layout.routes:
        edge = route.edge
        width = sheet.spacing.thick * style.line_width(edge.weight, sheet.drawn.largest)
        arrow = 4.0 + width
        points = _shortened(tuple(map(sheet.at, route.points)), arrow)
        yield Curve(points, edge.colour, width, edge.weight < 0, edge.opacity, edge.title, arrow)


def _shortened(points: tuple[Point, ...], arrow: float) -> tuple[Point, ...]:
    """The way without the room of its arrow's head, in the direction in which it arrives."""
    *rest, (cx, cy), (x, y) = points
    length = hypot(x - cx, y - cy) or 1.0
    dx, dy = arrow * (x - cx) / length, arrow * (y - cy) / length
    return (*rest, (cx - dx, cy - dy), (x - dx, y - dy))


def _boxes(sheet: _Sheet) -> Iterator[Shape]:
    drawn, layout, tight = sheet.drawn, sheet.along.layout, sheet.spacing.joined
    for name, box in drawn.boxes.items():
        x, y = sheet.at(layout.places[name])
        role = drawn.roles.get(name)
        title = f"{name}: {role}" if role else name
        source = box.kind == SOURCE
        ends = box.kind in ("input", "logits")
        fill = drawn.fill(box)
        tall = 2 * sheet.spacing.half - (4 if source and not sheet.spacing.joined else 0)
        edge = style.FAINT if source else style.INK
        radius = tall / 2 if source or ends else 6.0 if box.kind == "head" else 0.0
        yield Rect(x, y, layout.widths[name], tall, fill, edge, radius, title)
        ink = style.PLAIN if source else drawn.ink(box)
        yield Text(x, y, box.label, style.LABEL, ink, anchor="middle", bold=ends and not tight)


def _words(sheet: _Sheet) -> tuple[list[Text], float]:
    """Below each column the words of the example, and the name of the span; and where they end."""
    shapes: list[Text] = []
    top = sheet.floor + sheet.spacing.half + 4.0
    step, ends = 1.25 * sheet.small, [top]
    named, said = [], []
    for column, (left, right) in zip(sheet.drawn.columns, sheet.along.columns, strict=True):
        room = right - left + 0.8 * sheet.spacing.between
        words = " ".join(sheet.drawn.words.get(span, "") for span in column)
        gap = len(column) > 1
        said.append(_wrapped(words.strip() or "…" * gap, room, sheet.small, gap))
        named.append([] if gap else _wrapped(column[0], room, sheet.small, False))
    start = top + step * max(map(len, said)) + 0.2 * step
    for number, (left, right) in enumerate(sheet.along.columns):
        x, _ = sheet.at(((left + right) / 2, 0.0))
        for lines, at, colour in (
            (said[number], top, style.INK), (named[number], start, style.FAINT),
        ):  # fmt: skip
            for row, line in enumerate(lines):
                y = at + (row + 0.5) * step
                shapes.append(Text(x, y, line, sheet.small, colour, anchor="middle"))
                ends.append(y + step / 2)
    return shapes, max(ends)


def _wrapped(text: str, width: float, size: float, gap: bool) -> list[str]:
    """The text in at most three lines of that width; what does not fit is left out: of a gap
    between columns, everything."""
    signs = max(1, int(width / (SIGN * size)))
    whole = style.plain(text, 200)
    lines = textwrap.wrap(whole, signs)
    if gap and (len(lines) > LINES or any(len(word) > signs for word in whole.split())):
        return ["…"]
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], "…"]
