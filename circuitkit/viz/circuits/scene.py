"""A circuit as a finished picture: its bands, edges and boxes, the legend and the caption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from circuitkit.errors import OutputError
from circuitkit.graph.circuit import lists_members
from circuitkit.graph.types import Graph
from circuitkit.viz import style
from circuitkit.viz.canvas import INCH
from circuitkit.viz.circuits import legend
from circuitkit.viz.circuits.choice import Asked, check_asked
from circuitkit.viz.circuits.drawing import Box, Drawing, drawing
from circuitkit.viz.circuits.layout import Layout, lay_out
from circuitkit.viz.circuits.lettering import caption_of, heading_of
from circuitkit.viz.circuits.members import members_scene
from circuitkit.viz.circuits.overlaying import overlay_of
from circuitkit.viz.shapes import Curve, Rect, Scene, Shape, Text, moved, scaled

__all__ = ["LAYER_NAMES", "LEAST_WIDTH", "check_inches", "scene"]

SAMPLE, SPACE, ROW = 26.0, 6.0, 17.0  # the legend: width of a sample; space after it; row height
LAYER_NAMES = 46.0  # room at the left
LEAST_WIDTH = 368.0
LEAST_LETTERS = 7.0  # points, in a paper's column
FEWER = (None, 30, 25, 20, 15, 10)  # edges that are tried where all letters have to be legible


def scene(
    circuit: Graph,
    edges: Asked,
    title: str | None,
    inches: float | None = None,
    beside: Graph | None = None,
) -> Scene:
    """The circuit as a picture, of its strongest edges, at most so many; in a column of so many
    inches with letters of 7 points at least, where it is as many edges as fit, if no number is
    asked for. A circuit that names components and no edges is drawn by their roles; with another
    one ``beside`` it, the two are drawn one over the other. Raises OutputError where they do not
    fit, and OutputError and CircuitError as ``drawing`` does."""
    check_asked(edges)
    check_inches(inches)
    if beside is None and lists_members(circuit):
        return members_scene(circuit, title, inches)
    if inches is None:
        return _picture(_drawn(circuit, edges, title, beside), style.SMALL, LEAST_WIDTH)
    needed = 0.0
    for most in (edges,) if edges is not None else FEWER:
        drawn = _drawn(circuit, most, title, beside)
        natural = _picture(drawn, style.LABEL, 0.0).width
        scale = min(style.SMALL / style.LABEL, INCH * inches / natural)
        if scale * style.LABEL >= LEAST_LETTERS:
            return scaled(_picture(drawn, style.LABEL, INCH * inches / scale), scale)
        needed = natural * LEAST_LETTERS / style.LABEL / INCH
    raise OutputError(
        f"in letters of {LEAST_LETTERS:g} points the picture is {needed:.1f} inches wide, and not "
        f"{inches:g}; give it fewer edges (edges=20), or more inches"
    )


def check_inches(inches: float | None) -> None:
    """Raise OutputError where this is not the width of a picture."""
    known = inches is None or (isinstance(inches, int | float) and 1 <= inches <= 100)
    if isinstance(inches, bool) or not known:
        raise OutputError(f"width={inches!r} is not one of a picture; give 1 to 100 inches")


def _drawn(circuit: Graph, edges: Asked, title: str | None, beside: Graph | None) -> Drawing:
    if beside is None:
        return drawing(circuit, edges, title)
    return overlay_of(circuit, beside, edges, title)


def _picture(drawn: Drawing, small: float, least: float) -> Scene:
    """The picture, with legend and caption in letters of that size, at least so wide."""
    layout = lay_out(drawn)
    left, right = _sides(layout)
    names = LAYER_NAMES * small / style.SMALL
    inner = max(right - left + names, least - 2 * style.MARGIN, _widest_entry(drawn, small))
    width = inner + 2 * style.MARGIN
    heading = list(heading_of(drawn.title, width))
    top = style.MARGIN + (style.HEADING + ROW / 2) * len(heading)
    middle, floor = (width + names - left - right) / 2, top + style.HEIGHT / 2
    layout = _flipped(layout, middle, floor + max(y for _, y in layout.places.values()))
    bottom = max(y for _, y in layout.places.values()) + style.HEIGHT / 2 + style.MARGIN
    legend, bottom = _legend_rows(drawn, width, bottom, small)
    caption, bottom = caption_of(drawn.caption, width, bottom, small)
    bands = _bands(drawn, layout, width, small)
    lines, boxes = _lines(drawn, layout), _boxes(drawn, layout)
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
def _bands(
    drawn: Drawing, layout: Layout, width: float, small: float = style.SMALL
) -> Iterator[Shape]:
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
        yield Text(style.MARGIN, middle, f"layer {layer}", small, style.FAINT)


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


def _widest_entry(drawn: Drawing, small: float) -> float:
    texts = [text for entries in _entries(drawn) for _, text in entries]
    return max((SAMPLE + SPACE + style.text_width(t, small) for t in texts), default=0.0)


def _legend_rows(
    drawn: Drawing, width: float, top: float, small: float
) -> tuple[list[Shape], float]:
    """The legend, wrapped in the width, and where it ends."""
    shapes: list[Shape] = []
    y = top + ROW / 2
    for entries in _entries(drawn):
        x = style.MARGIN
        for sample, text in entries:
            wide = SAMPLE + SPACE + style.text_width(text, small)
            if x > style.MARGIN and x + wide > width - style.MARGIN:
                x, y = style.MARGIN, y + ROW
            shapes += [moved(sample, x, y), Text(x + SAMPLE + SPACE, y, text, small)]
            x += wide + 2 * SPACE
        y += ROW
    return shapes, y - ROW / 2
