"""A circuit between places as a page: the viewer, along the words of a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from circuitkit.graph.circuit import edges as weighted_edges
from circuitkit.graph.types import Graph
from circuitkit.util.json_values import Json
from circuitkit.viz import style
from circuitkit.viz.circuits.drawing import Edge
from circuitkit.viz.circuits.placed_drawing import SOURCE, PlacedDrawing, Words, placed_drawing
from circuitkit.viz.circuits.placed_layout import ROOMY, lay_out_along
from circuitkit.viz.circuits.placed_scene import (
    _bands,
    _rules,
    _Sheet,
    _sheet,
    _shortened,
    _words,
)
from circuitkit.viz.circuits.scene import LEAST_WIDTH
from circuitkit.viz.shapes import Curve, Rect, Text
from circuitkit.viz.viewer import contents
from circuitkit.viz.viewer.overlay import overlaid
from circuitkit.viz.viewer.page import (
    MOST,
    _about,
    _attention,
    _filled,
    _legend,
    _sides,
    _title,
)
from circuitkit.viz.viewer.picture import GROUP, HEAD, _path, width_of

__all__ = ["placed_page"]

FULL, START = 120, 80  # edges that the page shows at first: all, or so many
WIDE = 4  # boxes side by side in a cell
READ = "keys and values that are read here"
KEYS = (
    "Words stand from left to right, layers upwards; a box is a head (rounded) or an MLP (square) "
    "at a span of the prompt. Lines that go up stay in their span. Attention goes sideways: from "
    "the place where a head's key or value is read (a pill) to the place where the head writes; "
    "what a head reads at its own place alone leads into the head itself. A line's width grows "
    "with its weight, in units of the metric per example; it is dashed where the weight is "
    "negative, which is against the behaviour. The share of a reader's input is the edge's part of "
    "Σ |weight| of the circuit's edges into that reader."
)


def placed_page(
    circuit: Graph,
    edges: int | None = None,
    title: str | None = None,
    prompt: Words | None = None,
    beside: Graph | None = None,
    attention: Mapping[str, Json] | None = None,
) -> str:
    """The circuit as one page that needs no network, with another one over it where one is
    ``beside``."""
    overlay = None if beside is None else overlaid(circuit, beside)
    whole = overlay.union if overlay else circuit
    words = circuit.graph.get("words") if prompt is None else prompt
    drawn = placed_drawing(whole, edges or MOST, title, words)
    order = [*reversed(drawn.edges)]
    found = contents.edge_columns(drawn, order, whole, overlay)
    start = len(order) if len(order) <= FULL else START
    unit = style.plain(circuit.graph.get("metric", "the metric"))
    number = len(order)  # without attention within a place, which is not drawn apart
    if drawn.choice.left_out:
        number = sum(1 for _ in weighted_edges(whole))
    sides = [int(side) for side in found.get("side", ())]
    data: dict[str, Json] = {
        "title": drawn.title or _title(circuit, overlay),
        "edges": found, "boxes": [*_boxes(drawn)], "start": start,
        "of": number, "model": sum(drawn.of),
        "measures": contents.measures(found, f"{unit} per example", overlay is not None),
        "sizes": [] if overlay else contents.sizes(circuit, number, {}),
        "hint": "a9.h9@end, S2, a role", "sides": _sides(overlay, found),
        "tints": [list(pair) for pair in drawn.tints.items()],
        "attention": _attention(attention), "whole": None,
    }  # fmt: skip
    lines = _about(circuit, drawn, overlay)
    said = [" · ".join(lines[:2]), *lines[2:]]
    return _filled(data, _svg(drawn, order, start, sides), said, _legend(found), KEYS)


def _boxes(drawn: PlacedDrawing) -> Iterator[dict[str, Json]]:
    """What the page says of each box."""
    for box in drawn.boxes.values():
        span = box.name.partition("@")[2]
        kind = READ if box.kind == SOURCE else box.kind
        found: dict[str, Json] = {"name": box.name, "label": box.label, "kind": kind, "at": span}
        if box.kind not in ("input", "logits"):
            found["layer"] = box.layer
        if drawn.roles.get(box.name):
            found["role"] = drawn.roles[box.name]
        if drawn.words.get(span):
            found["at"] = f"{span}: {style.plain(drawn.words[span], 40)}"
        yield found


# -- the picture -----------------------------------------------------------------------------------
def _svg(drawn: PlacedDrawing, order: Sequence[Edge], start: int, sides: Sequence[int]) -> str:
    """The picture as an SVG whose parts the viewer takes hold of; of two circuits, each line by the
    side that it is on."""
    along = lay_out_along(drawn, WIDE, ROOMY)
    sheet = _sheet(drawn, along, ROOMY, style.SMALL, LEAST_WIDTH, "")
    words, bottom = _words(sheet)
    width, height = sheet.width, bottom + style.MARGIN
    lines = [
        '<svg id="picture" xmlns="http://www.w3.org/2000/svg" role="group" '
        f'aria-label="The circuit along a prompt, layers upwards" '
        f'viewBox="0 0 {width:.1f} {height:.1f}" width="{width:.0f}" height="{height:.0f}" '
        f'font-family="{style.FONTS}">',
        '<g class="few" aria-hidden="true">',
        *map(_ground, [*_bands(sheet), *_rules(sheet, bottom), *words]), "</g>",
        '<g id="edges" aria-hidden="true">', *_edges(sheet, order, start, sides), "</g>",
        '<g id="boxes">', *_drawn(sheet), "</g>", "</svg>",
    ]  # fmt: skip
    return "\n".join(lines)


def _ground(shape: Rect | Text) -> str:
    """A band, a rule between columns, a layer's name or a word."""
    if isinstance(shape, Text):
        name = "word" if shape.colour == style.INK else "layer"
        own = f'x="{shape.x:.1f}" y="{shape.y + 3.5:.1f}" text-anchor="{shape.anchor}"'
        return f'<text class="{name}" {own}>{escape(shape.text)}</text>'
    left, top = shape.x - shape.width / 2, shape.y - shape.height / 2
    if shape.fill != style.BAND:
        return f'<path class="column" d="M{shape.x:.1f},{top:.1f}v{shape.height:.1f}"/>'
    size = f'width="{shape.width:.1f}" height="{shape.height:.1f}"'
    return f'<rect class="band" x="{left:.1f}" y="{top:.1f}" {size}/>'


def _edges(sheet: _Sheet, order: Sequence[Edge], start: int, sides: Sequence[int]) -> Iterator[str]:
    """The lines in groups, the strongest on top."""
    ways: dict[int, list[str]] = {}
    heads: dict[int, list[str]] = {}
    largest = sheet.drawn.largest or 1.0
    for route in sheet.along.layout.routes:
        points = _shortened(tuple(map(sheet.at, route.points)), HEAD)
        ways.setdefault(id(route.edge), []).append(_path(points))
        wide = width_of(route.edge.weight / largest)
        corners = Curve(points, "", wide, arrow=HEAD).head
        heads.setdefault(id(route.edge), []).append(
            "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in corners) + "z"
        )
    lines = [
        _line(
            edge, f"s{sides[i]}" if sides else edge.port or "p", "".join(ways[id(edge)]),
            "".join(heads[id(edge)]), i, start, largest,
        )
        for i, edge in enumerate(order)
    ]  # fmt: skip
    for first in reversed(range(0, len(lines), GROUP)):
        yield '<g class="off">' if first >= start else "<g>"
        yield from reversed(lines[first : first + GROUP])
        yield "</g>"


def _line(
    edge: Edge, kind: str, way: str, head: str, number: int, start: int, largest: float
) -> str:
    names = ["e", kind] + ["minus"] * (edge.weight < 0)
    names += ["off"] * (number - number % GROUP < start <= number)
    return (
        f'<g class="{" ".join(names)}" data-i="{number}" opacity="{edge.opacity:g}" '
        f'stroke-width="{width_of(edge.weight / largest):g}"><path d="{way}"/>'
        f'<path d="{head}"/></g>'
    )


def _drawn(sheet: _Sheet) -> Iterator[str]:
    """The boxes and their names."""
    drawn, layout = sheet.drawn, sheet.along.layout
    for name, box in drawn.boxes.items():
        (x, y), wide = sheet.at(layout.places[name]), layout.widths[name]
        tint = drawn.tints.get(drawn.roles.get(name, ""))
        fill = f' style="fill:{tint}"' if tint else ""
        kind = "group" if box.kind == SOURCE else box.kind
        names = " ".join(["n", kind, *["tinted"] * bool(tint)])
        radius = {"head": 6.0, "mlp": 0.0}.get(box.kind, style.HEIGHT / 2)
        yield (
            f'<g class="{names}" data-n="{escape(name)}" tabindex="-1" role="button" '
            f'aria-pressed="false"><rect x="{x - wide / 2:.1f}" y="{y - style.HEIGHT / 2:.1f}" '
            f'width="{wide:.1f}" height="{style.HEIGHT:g}" rx="{radius:g}"{fill}/>'
            f'<text x="{x:.1f}" y="{y + 4.2:.1f}">{escape(box.label)}</text></g>'
        )
