"""The picture in a page: that of ``circuits.scene``, as an SVG whose parts can be taken hold of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from circuitkit.util.json_values import Json
from circuitkit.viz import style
from circuitkit.viz.circuits.drawing import Drawing, Edge
from circuitkit.viz.circuits.layout import Layout, Route, lay_out
from circuitkit.viz.circuits.scene import LAYER_NAMES, _bands, _flipped, _radius, _sides
from circuitkit.viz.shapes import Point, Rect, Text

__all__ = ["LANES", "Columns", "Picture", "picture", "width_of"]

LANES = 100  # edges that run beside the boxes that they pass; further ones run under them
THIN, THICK = 0.8, 4.2  # a line is as thick as the root of its share of the largest
WORDS = 16.0  # the height of the words of a prompt, at the foot
HEADS = 1000  # edges whose lines have a head: all lead upwards, and more elements take more time
GROUP = 100  # edges that are hidden as one, which a browser does faster than one by one
HEAD = 4.5  # the length of an arrow's head, beside the line's own width

Columns = Sequence[tuple[str, float, float]]  # a label, and from where to where it reaches


@dataclass(frozen=True)
class Picture:
    """The SVG; and, where its first edges stand in it as they are laid out on their own, where
    these edges and their boxes stand among all the others."""

    svg: str
    whole: dict[str, Json] | None


def picture(
    drawn: Drawing, order: Sequence[Edge], shown: int, sides: Sequence[int], columns: Columns = ()
) -> Picture:
    """The circuit as an SVG, its edges numbered in the order; those after the first ``shown`` are
    there and hidden. ``sides`` say of two circuits where each edge comes from."""
    every = _Sheet.of(drawn, LANES, bool(columns))
    few = every
    if shown < len(order) and not columns:
        few = _Sheet.of(_first(drawn, order[:shown]), None, False)
    lines = [
        '<svg id="picture" xmlns="http://www.w3.org/2000/svg" role="group" '
        f'aria-label="The circuit, layers upwards" viewBox="0 0 {few.width:.1f} {few.height:.1f}" '
        f'width="{few.width:.0f}" height="{few.height:.0f}" font-family="{style.FONTS}">',
        '<g class="few" aria-hidden="true">', *few.grounds(), *_columns(columns, few.height),
        "</g>", *(['<g class="many" aria-hidden="true">', *every.grounds(), "</g>"]
                  if few is not every else []),
        '<g id="edges" aria-hidden="true">',
        *_grouped([_line(edge, (few if i < shown else every).paths(edge), drawn, i, shown, sides)
                   for i, edge in enumerate(order)], shown),
        "</g>", '<g id="boxes">',
        *((few if name in few.drawn.boxes else every).box(name, name in few.drawn.boxes)
          for name in drawn.boxes),
        "</g>", "</svg>",
    ]  # fmt: skip
    if few is every:
        return Picture("\n".join(lines), None)
    whole: dict[str, Json] = {
        "size": [round(every.width, 1), round(every.height, 1)],
        "paths": [every.paths(edge) for edge in order[:shown]],
        "boxes": [every.place(name) if name in few.drawn.boxes else None for name in drawn.boxes],
    }
    return Picture("\n".join(lines), whole)


def _first(drawn: Drawing, edges: Sequence[Edge]) -> Drawing:
    """What these edges alone draw."""
    kept = {id(edge) for edge in edges}
    names = {name for edge in edges for name in (str(edge.writer), *edge.ends)}
    boxes = {
        name: box
        for name, box in drawn.boxes.items()
        if name in names or box.kind in ("input", "logits")
    }
    own = tuple(edge for edge in drawn.edges if id(edge) in kept)
    return replace(drawn, edges=own, boxes=boxes)


@dataclass(frozen=True)
class _Sheet:
    """A drawing with everything in its place."""

    drawn: Drawing
    layout: Layout
    width: float
    height: float
    largest: float
    routes: Mapping[int, list[Route]]

    @classmethod
    def of(cls, drawn: Drawing, lanes: int | None, words: bool) -> _Sheet:
        layout = lay_out(drawn, lanes)
        left, right = _sides(layout)
        foot = style.MARGIN + style.HEIGHT / 2 + max(y for _, y in layout.places.values())
        layout = _flipped(layout, LAYER_NAMES + style.MARGIN - left, foot)
        routes: dict[int, list[Route]] = {}
        for route in layout.routes:
            routes.setdefault(id(route.edge), []).append(route)
        width = right - left + LAYER_NAMES + 2 * style.MARGIN
        height = foot + style.HEIGHT / 2 + style.MARGIN + WORDS * words
        return cls(drawn, layout, width, height, drawn.largest, routes)

    def grounds(self) -> Iterator[str]:
        """The bands of the layers and their names."""
        for shape in _bands(self.drawn, self.layout, self.width):
            if isinstance(shape, Rect):
                top, tall = shape.y - shape.height / 2, shape.height
                wide = f'width="{self.width:.1f}" height="{tall:.1f}"'
                yield f'<rect class="band" y="{top:.1f}" {wide}/>'
            elif isinstance(shape, Text):
                place = f'x="{style.MARGIN:g}" y="{shape.y + 3.5:.1f}"'
                yield f'<text class="layer" {place}>{escape(shape.text)}</text>'

    def paths(self, edge: Edge) -> tuple[str, str]:
        """The shaft and the head of an edge, to one box or to each head of a group."""
        side = 1.8 + width_of(edge.weight / self.largest if self.largest else 0) / 2
        shafts, heads = [], []
        for route in self.routes[id(edge)]:
            *points, (x1, y1), (x2, y2) = route.points
            shafts.append(_path((*points, (x1, y1 + HEAD), (x2, y2 + HEAD))))
            heads.append(f"M{x2:.1f},{y2:.1f}l{-side:.1f},{HEAD:.1f}h{2 * side:.1f}z")
        return "".join(shafts), "".join(heads)

    def place(self, name: str) -> list[float]:
        """Where a box begins, its width, and where its name stands."""
        (x, y), wide = self.layout.places[name], self.layout.widths[name]
        return [round(x, 1) for x in (x - wide / 2, y - style.HEIGHT / 2, wide, x, y + 4.2)]

    def box(self, name: str, seen: bool) -> str:
        """A box and its name."""
        box = self.drawn.boxes[name]
        x, y, wide, middle, line = self.place(name)
        tint = self.drawn.tints.get(self.drawn.roles.get(name, ""))
        fill = f' style="fill:{tint}"' if tint else ""
        names = ["n", box.kind, *["tinted"] * bool(tint), *["off"] * (not seen)]
        return (
            f'<g class="{" ".join(names)}" data-n="{escape(name)}" tabindex="-1" role="button" '
            f'aria-pressed="false"><rect x="{x}" y="{y}" width="{wide}" height="{style.HEIGHT:g}" '
            f'rx="{_radius(box):g}"{fill}/>'
            f'<text x="{middle}" y="{line}">{escape(box.label)}</text></g>'
        )


def width_of(share: float) -> float:
    """The width of the line of an edge that has this share of the largest."""
    return round(THIN + (THICK - THIN) * math.sqrt(min(abs(share), 1.0)), 2)


def _columns(columns: Columns, height: float) -> Iterator[str]:
    """The words of a prompt at the foot, each below what is bound to it."""
    for label, start, end in columns:
        middle, foot = (start + end) / 2, height - 6
        yield f'<path class="column" d="M{start:.1f},0V{height:.1f}"/>'
        yield f'<text class="word" x="{middle:.1f}" y="{foot:.1f}">{escape(label)}</text>'


def _grouped(lines: Sequence[str], shown: int) -> Iterator[str]:
    """The lines in groups, the first line on top of the others."""
    for start in reversed(range(0, len(lines), GROUP)):
        yield '<g class="off">' if start >= shown else "<g>"
        yield from reversed(lines[start : start + GROUP])
        yield "</g>"


def _line(
    edge: Edge, paths: tuple[str, str], drawn: Drawing, number: int, shown: int,
    sides: Sequence[int],
) -> str:  # fmt: skip
    """An edge: its shaft and its head."""
    width = width_of(edge.weight / drawn.largest if drawn.largest else 0)
    names = ["e", f"s{sides[number]}" if sides else edge.reader.port or "p"]
    names += ["minus"] * (edge.weight < 0) + ["off"] * (number - number % GROUP < shown <= number)
    own = (
        f'class="{" ".join(names)}" data-i="{number}" opacity="{edge.opacity:g}" '
        f'stroke-width="{width:g}"'
    )
    if number >= HEADS:
        return f'<path {own} d="{paths[0]}"/>'
    return f'<g {own}><path d="{paths[0]}"/><path d="{paths[1]}"/></g>'


def _path(points: Sequence[Point]) -> str:
    first, *rest = (f"{x:.1f},{y:.1f}" for x, y in points)
    return f"M{first}C{' '.join(rest)}"
