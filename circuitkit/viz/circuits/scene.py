"""A circuit as a finished picture: its bands, edges and boxes, the legend and the caption."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from circuitkit.graph.types import Graph
from circuitkit.viz import style
from circuitkit.viz.circuits import legend
from circuitkit.viz.circuits.drawing import Box, Drawing, drawing
from circuitkit.viz.circuits.layout import Layout, lay_out
from circuitkit.viz.shapes import Curve, Rect, Scene, Shape, Text, moved

__all__ = ["LAYER_NAMES", "LEAST_WIDTH", "scene"]

SAMPLE, SPACE, ROW = 26.0, 6.0, 17.0  # the legend: width of a sample; space after it; row height
LAYER_NAMES = 46.0  # room at the left
LEAST_WIDTH = 368.0


def scene(circuit: Graph, edges: int | None, title: str | None) -> Scene:
    """The circuit as a picture, of its strongest edges, at most so many. Raises OutputError and
    CircuitError as ``drawing`` does."""
    drawn = drawing(circuit, edges, title)
    layout = lay_out(drawn)
    left, right = _sides(layout)
    inner = max(right - left + LAYER_NAMES, LEAST_WIDTH - 2 * style.MARGIN, _widest_entry(drawn))
    width = inner + 2 * style.MARGIN
    heading = list(_heading(drawn, width))
    top = style.MARGIN + (style.HEADING + ROW / 2) * len(heading)
    middle, floor = (width + LAYER_NAMES - left - right) / 2, top + style.HEIGHT / 2
    layout = _flipped(layout, middle, floor + max(y for _, y in layout.places.values()))
    bottom = max(y for _, y in layout.places.values()) + style.HEIGHT / 2 + style.MARGIN
    legend, bottom = _legend_rows(drawn, width, bottom)
    caption, bottom = _caption(drawn, width, bottom)
    bands, lines, boxes = _bands(drawn, layout, width), _lines(drawn, layout), _boxes(drawn, layout)
    return Scene(width, bottom, (*bands, *lines, *boxes, *heading, *legend, *caption))


def _sides(layout: Layout) -> tuple[float, float]:
    """The leftmost and the rightmost that anything reaches."""
    sides = [x + s * layout.widths[n] / 2 for n, (x, _) in layout.places.items() for s in (-1, 1)]
    ways = [x for route in layout.routes for x, _ in route.points]
    return min(sides + ways), max(sides + ways)


def _flipped(layout: Layout, middle: float, floor: float) -> Layout:
    """The layout in the picture's coordinates, where y grows downwards."""
    places = {name: (middle + x, floor - y) for name, (x, y) in layout.places.items()}
    routes = tuple(
        replace(route, points=tuple((middle + x, floor - y) for x, y in route.points))
        for route in layout.routes
    )
    return Layout(places, layout.widths, routes)


# -- the circuit -----------------------------------------------------------------------------------
def _bands(drawn: Drawing, layout: Layout, width: float) -> Iterator[Shape]:
    """Each layer's name at the left, and a tint behind every second one."""
    rows = sorted({(box.rank, layout.places[name][1]) for name, box in drawn.boxes.items()})
    borders = [(y + above) / 2 for (_, y), (_, above) in pairwise(rows)]
    layers: dict[int, list[float]] = {}
    for (rank, _), low, high in zip(rows[1:], borders, borders[1:], strict=False):
        layers.setdefault(rank[0], []).extend((low, high))
    for number, (layer, ys) in enumerate(layers.items()):
        middle, height = (ys[0] + ys[-1]) / 2, ys[0] - ys[-1]
        if number % 2 == 0:
            yield Rect(width / 2, middle, width - style.MARGIN, height, style.BAND)
        yield Text(style.MARGIN, middle, f"layer {layer}", colour=style.FAINT)


def _lines(drawn: Drawing, layout: Layout) -> Iterator[Shape]:
    for route in layout.routes:
        edge = route.edge
        width = style.line_width(edge.weight, drawn.largest)
        arrow = 4.0 + width
        *points, (x1, y1), (x2, y2) = route.points
        yield Curve(
            (*points, (x1, y1 + arrow), (x2, y2 + arrow)),
            edge.colour,
            width,
            edge.weight < 0,
            edge.opacity,
            edge.title,
            arrow,
        )


def _boxes(drawn: Drawing, layout: Layout) -> Iterator[Shape]:
    for name, box in drawn.boxes.items():
        x, y = layout.places[name]
        role = drawn.roles.get(name)
        fill, title = drawn.fill(box), f"{name}: {role}" if role else name
        yield Rect(x, y, layout.widths[name], style.HEIGHT, fill, style.INK, _radius(box), title)
        bold = box.kind in ("input", "logits")
        yield Text(x, y, box.label, style.LABEL, drawn.ink(box), anchor="middle", bold=bold)


def _radius(box: Box) -> float:
    """Heads are rounded, MLPs are not, input and logits are pills."""
    return {"head": 6.0, "group": 6.0, "mlp": 0.0}.get(box.kind, style.HEIGHT / 2)


# -- the words -------------------------------------------------------------------------------------
def _heading(drawn: Drawing, width: float) -> Iterator[Text]:
    size = style.HEADING
    room = (width - 2 * style.MARGIN) / style.text_width("m", size)
    if drawn.title:
        text, y = style.plain(drawn.title, int(room)), style.MARGIN + size / 2
        yield Text(width / 2, y, text, size, anchor="middle", bold=True)


def _entries(drawn: Drawing) -> list[list[tuple[Shape, str]]]:
    """The legend: what the lines mean, and what the tints mean; each sample stands at 0, 0."""
    thirds = tuple((SAMPLE * i / 3, 0.0) for i in range(4))
    lines: list[tuple[Shape, str]] = [
        (Curve(thirds, key.colour, key.width, key.dashed, key.opacity), key.text)
        for key in legend.lines(drawn)
    ]
    roles: list[tuple[Shape, str]] = [
        (Rect(SAMPLE / 2, 0.0, SAMPLE - 4, 11.0, tint, style.INK, 3.0), role)
        for tint, role in legend.roles(drawn)
    ]
    return [entries for entries in (lines, roles) if entries]


def _widest_entry(drawn: Drawing) -> float:
    texts = [text for entries in _entries(drawn) for _, text in entries]
    return max((SAMPLE + SPACE + style.text_width(t, style.SMALL) for t in texts), default=0.0)


def _legend_rows(drawn: Drawing, width: float, top: float) -> tuple[list[Shape], float]:
    """The legend, wrapped in the width, and where it ends."""
    shapes: list[Shape] = []
    y = top + ROW / 2
    for entries in _entries(drawn):
        x = style.MARGIN
        for sample, text in entries:
            wide = SAMPLE + SPACE + style.text_width(text, style.SMALL)
            if x > style.MARGIN and x + wide > width - style.MARGIN:
                x, y = style.MARGIN, y + ROW
            shapes += [moved(sample, x, y), Text(x + SAMPLE + SPACE, y, text)]
            x += wide + 2 * SPACE
        y += ROW
    return shapes, y - ROW / 2


def _caption(drawn: Drawing, width: float, top: float) -> tuple[list[Shape], float]:
    """The caption, wrapped in the width, and where the picture ends."""
    signs = int((width - 2 * style.MARGIN) / style.text_width("m", style.SMALL))
    lines = [line for part in drawn.caption for line in textwrap.wrap(part, signs)]
    step = 1.4 * style.SMALL
    shapes: list[Shape] = [
        Text(style.MARGIN, top + (number + 0.8) * step, line) for number, line in enumerate(lines)
    ]
    return shapes, top + len(lines) * step + style.MARGIN
