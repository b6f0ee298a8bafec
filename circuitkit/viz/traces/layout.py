"""Where everything of an attribution graph stands: a column a token, a row a layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from circuitkit.errors import OutputError
from circuitkit.graph.types import Graph
from circuitkit.viz import style
from circuitkit.viz.shapes import Point

__all__ = ["Box", "Group", "Line", "Sheet", "lay_out"]

MOST = 600  # nodes of a picture
ACROSS = 3  # nodes of a token and a layer that stand side by side
GAP, LINES, BETWEEN = 6.0, 27.0, 22.0  # box to box; line to line of a row; row to row
SIDE = 54.0  # for the names of the layers
LONGEST = 14  # signs of a token's label
LARGE = 10.0  # of letters in boxes


@dataclass(frozen=True)
class Box:
    """A node at its place: its middle, its width, and what it says."""

    name: str
    kind: str
    label: str
    x: float
    y: float
    width: float
    said: Mapping[str, object]


@dataclass(frozen=True)
class Line:
    """An edge as a spline: from the top of a box to the foot of another."""

    start: str
    to: str
    weight: float
    influence: float
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Group:
    """Boxes of one supernode that stand side by side: its name, their middle, and how far they
    reach."""

    name: str
    x: float
    y: float
    width: float


@dataclass(frozen=True)
class Sheet:
    """An attribution graph laid out. ``bands`` are the rows: a name, its middle, and its height;
    ``columns`` where each token begins and ends."""

    width: float
    height: float
    boxes: Mapping[str, Box]
    lines: tuple[Line, ...]
    bands: tuple[tuple[str, float, float], ...]
    columns: tuple[tuple[float, float], ...]
    groups: tuple[Group, ...] = ()


def lay_out(graph: Graph, edges: int | None = None) -> Sheet:
    """The graph laid out, with its strongest ``edges``, by their influence; strongest first.

    Raises OutputError for a graph of more than 600 nodes.
    """
    if len(graph) > MOST:
        raise OutputError(
            f"an attribution graph of {len(graph):,} nodes cannot be drawn (at most {MOST}); prune "
            "it first, graph.prune(nodes=0.8), or less"
        )
    names = [name for name in graph if graph.nodes[name].get("kind") != "bias"]
    rows = _rows(graph, names)
    columns = _columns(graph, rows)
    boxes: dict[str, Box] = {}
    bands, foot = [], style.MARGIN
    for number, row in enumerate(reversed(rows)):
        tall = max(math.ceil(len(cell) / ACROSS) for cell in row.values()) if row else 1
        height = tall * LINES
        for position, cell in row.items():
            _place(graph, cell, columns[position], foot, height, boxes)
        bands.append((_called(len(rows) - 1 - number, len(rows)), foot + height / 2, height))
        foot += height + BETWEEN
    width = (columns[-1][1] if columns else SIDE) + style.MARGIN
    return Sheet(
        width, foot - BETWEEN + style.MARGIN, boxes, tuple(_lines(graph, boxes, edges)),
        tuple(bands), tuple(columns), tuple(_groups(boxes, _supernodes(graph))),
    )  # fmt: skip


Row = dict[int, list[str]]


def _rows(graph: Graph, names: Sequence[str]) -> list[Row]:
    """The nodes by their row (tokens, the layers, logits) and position."""
    layers = [int(graph.nodes[n].get("layer", -1)) for n in names]
    found: list[Row] = [{} for _ in range(max(layers, default=0) + 2)]
    for name, layer in zip(names, layers, strict=True):
        own = graph.nodes[name]
        row = 0 if own.get("kind") == "token" else layer + 1
        found[row].setdefault(int(own.get("position", 0)), []).append(name)
    return found


def _called(row: int, rows: int) -> str:
    if row in (0, rows - 1):
        return "tokens" if row == 0 else "logits"
    return f"layer {row - 1}"


def _columns(graph: Graph, rows: Sequence[Row]) -> list[tuple[float, float]]:
    """Where each token's column begins and ends: as wide as its widest cell."""
    most = max((position for row in rows for position in row), default=-1)
    wide = [style.WIDTH] * (most + 1)
    for row in rows:
        for position, cell in row.items():
            for start in range(0, len(cell), ACROSS):
                own = [_width(graph, name) for name in cell[start : start + ACROSS]]
                wide[position] = max(wide[position], sum(own) + GAP * (len(own) - 1))
    found, left = [], SIDE
    for own_wide in wide:
        found.append((left, left + own_wide + 2 * GAP))
        left += own_wide + 2 * GAP
    return found


def _label(graph: Graph, name: str) -> str:
    own = graph.nodes[name]
    if own.get("kind") in ("token", "logit"):
        text = style.plain(str(own.get("label") or name).replace("\n", "⏎"), 40)
        return text if len(text) <= LONGEST or own["kind"] == "logit" else f"{text[: LONGEST - 1]}…"
    return f"f{own['feature']}" if own.get("kind") == "feature" else str(own.get("kind"))


def _width(graph: Graph, name: str) -> float:
    return max(24.0, style.text_width(_label(graph, name), LARGE) + 10)


def _place(
    graph: Graph, cell: Sequence[str], column: tuple[float, float], foot: float, height: float,
    boxes: dict[str, Box],
) -> None:  # fmt: skip
    """Place the nodes of one token and row, in lines of three, the strongest first."""
    kinds, groups = ("feature", "rest", "error"), _supernodes(graph)
    weight = {name: float(graph.nodes[name].get("influence") or 0) for name in cell}
    whole: dict[str, float] = {}
    for name in cell:
        group = groups.get(name, name)
        whole[group] = whole.get(group, 0.0) + weight[name]

    def rank(name: str) -> tuple[int, float, str, float]:
        kind, group = graph.nodes[name].get("kind"), groups.get(name, name)
        place = kinds.index(kind) if kind in kinds else 0
        return place, -whole[group], group, -weight[name]

    ordered = sorted(cell, key=rank)
    lines = [ordered[start : start + ACROSS] for start in range(0, len(ordered), ACROSS)]
    top = foot + (height - len(lines) * LINES) / 2
    for line in lines:
        widths = [_width(graph, name) for name in line]
        left = (column[0] + column[1] - sum(widths) - GAP * (len(line) - 1)) / 2
        for name, wide in zip(line, widths, strict=True):
            own = graph.nodes[name]
            boxes[name] = Box(
                name, str(own.get("kind")), _label(graph, name), left + wide / 2, top + LINES / 2,
                wide, own,
            )  # fmt: skip
            left += wide + GAP
        top += LINES


def _supernodes(graph: Graph) -> dict[str, str]:
    """The supernode of each node that has one."""
    known = graph.graph.get("supernodes")
    groups = known.items() if isinstance(known, Mapping) else ()
    return {str(name): str(group) for group, names in groups for name in names}


def _groups(boxes: Mapping[str, Box], groups: Mapping[str, str]) -> Iterator[Group]:
    """Neighbours of one supernode on a line; boxes stand in the order in which they were placed."""
    run: list[Box] = []
    for box in [*boxes.values(), None]:
        last = run[-1] if run else None
        name = None if last is None else groups.get(last.name)
        if last and box and name and groups.get(box.name) == name and box.y == last.y and (
            box.x - box.width / 2 - last.x - last.width / 2 < 2 * GAP
        ):  # fmt: skip
            run.append(box)
            continue
        if last and name and len(run) > 1:
            left, right = run[0].x - run[0].width / 2, last.x + last.width / 2
            yield Group(name, (left + right) / 2, last.y, right - left)
        run = [] if box is None else [box]


def _lines(graph: Graph, boxes: Mapping[str, Box], edges: int | None) -> list[Line]:
    """The strongest edges as splines."""
    known = [
        (start, to, data) for start, to, data in graph.edges(data=True)
        if start in boxes and to in boxes
    ]  # fmt: skip
    known.sort(key=lambda edge: (-float(edge[2].get("influence") or 0), edge[0], edge[1]))
    found = []
    for start, to, data in known[:edges]:
        one, two = boxes[start], boxes[to]
        x1, y1 = one.x, one.y - style.HEIGHT / 2
        x2, y2 = two.x, two.y + style.HEIGHT / 2
        bend = (y1 - y2) * 0.45
        points = ((x1, y1), (x1, y1 - bend), (x2, y2 + bend), (x2, y2))
        influence = float(data.get("influence") or 0)
        found.append(Line(start, to, float(data["weight"]), influence, points))
    return found
