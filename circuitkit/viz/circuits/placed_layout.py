"""Where boxes stand and edges run along a prompt: a column for each span, rows by layer.

Within a column, edges of the residual stream run up as in a picture without places; attention's
edges go sideways, from where a key or value is read to the head, and over the boxes between.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from circuitkit.viz import style
from circuitkit.viz.circuits.drawing import Edge
from circuitkit.viz.circuits.layout import (
    HALF,
    Layout,
    Point,
    Route,
    _Chain,
    _chain,
    _Item,
    _measure,
    _order,
    _pull_together,
    _unique,
)
from circuitkit.viz.circuits.placed_drawing import SOURCE, PlacedDrawing

__all__ = ["ROOMY", "TIGHT", "Along", "Spacing", "lay_out_along"]

STEP, TURN = 3.0, 13.0  # between edges that run over boxes side by side; how far they take to rise
FAR = (0.1, 16.0)  # more room between lines, for each point that an edge runs sideways; at most


@dataclass(frozen=True)
class Spacing:
    """How close things stand: the least width of a box, and what it has beside its letters; from a
    column's content to its border; from column to column; an empty column; the room of an edge that
    passes; neighbours of which none, one or both are boxes; left and right of everything; whether
    edges of one kind to one box pass others as one line; half a box's height; from line to line,
    and the height that a picture aims at; how thick edges are, of their usual width."""

    box: float
    letters: float
    edge: float
    between: float
    empty: float
    lane: float
    apart: tuple[float, float, float]
    margin: float
    joined: bool
    half: float
    pitch: tuple[float, float]
    tall: float
    thick: float


ROOMY = Spacing(
    style.WIDTH, 6.0, 8.0, 16.0, 26.0, 8.0, (0.0, style.CLEAR, style.GAP), style.MARGIN, False,
    HALF, (29.0, 46.0), 760.0, 1.0,
)  # fmt: skip
TIGHT = Spacing(
    30.0, 2.0, 1.0, 8.0, 16.0, 3.0, (0.0, 3.5, 6.0), 5.0, True, 8.5, (25.0, 32.0), 560.0, 0.7
)


@dataclass(frozen=True)
class Along:
    """The geometry: boxes and ways (y grows upwards), and the left and right side of each column;
    ``lines`` are the heights of the lines of each rank, and ``room`` how much stands above one."""

    layout: Layout
    columns: tuple[tuple[float, float], ...]
    lines: dict[tuple[int, int], tuple[float, ...]]


@dataclass(frozen=True)
class _Grid:
    """On which line each box stands, of those of all columns; and the rank of each line."""

    line: dict[str, int]
    ranks: tuple[tuple[int, int], ...]


def lay_out_along(drawing: PlacedDrawing, abreast: int, spacing: Spacing) -> Along:
    """The picture's geometry, with at most so many boxes side by side in a cell: one where lines
    are joined."""
    grid = _grid(drawing, abreast)
    parts = [_column(drawing, grid, n, spacing) for n in range(len(drawing.columns))]
    passing = _passing(drawing, grid)
    heights = _heights(parts, grid, passing, spacing)
    places: dict[str, Point] = {}
    widths: dict[str, float] = {}
    routes: list[Route] = []
    columns, x = [], 0.0
    for number, (rows, items, chains) in enumerate(parts):
        own = _measure(rows, items, chains, heights, spacing.half)
        left, right = _sides(own)
        wide = max(right - left, _least(drawing, number, spacing))
        shift = x + spacing.edge + wide / 2 - (left + right) / 2
        places |= {name: (px + shift, py) for name, (px, py) in own.places.items()}
        widths |= own.widths
        routes += [_moved(route, shift) for route in own.routes]
        columns.append((x, x + wide + 2 * spacing.edge))
        x += wide + 2 * spacing.edge + spacing.between
    sideways = _sideways(drawing, places, widths, passing, spacing.half)
    lines: dict[tuple[int, int], tuple[float, ...]] = {}
    for rank, height in zip(grid.ranks, heights, strict=True):
        lines[rank] = (*lines.get(rank, ()), height)
    return Along(Layout(places, widths, (*routes, *sideways)), tuple(columns), lines)


# -- lines -----------------------------------------------------------------------------------------
def _grid(drawing: PlacedDrawing, abreast: int) -> _Grid:
    """Each rank has as many lines as its fullest cell needs; a box in which a key or value is read
    stands on the line of the heads that read it, where there is room."""
    cells: dict[tuple[int, int], dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, box in drawing.boxes.items():
        cells[box.rank][drawing.column_of(name)].append(name)
    line: dict[str, int] = {}
    ranks: list[tuple[int, int]] = []
    for rank, by_column in sorted(cells.items()):
        number = max(-(-len(names) // abreast) for names in by_column.values())
        base = len(ranks)
        ranks += [rank] * number
        full: dict[tuple[int, int], int] = defaultdict(int)
        for sources in (False, True):
            for column, names in by_column.items():
                for name in names:
                    if (drawing.boxes[name].kind == SOURCE) != sources:
                        continue
                    wish = _wished(drawing, name, line, base) if sources else 0.0
                    free = [own for own in range(number) if full[column, own] < abreast]
                    best = min(free, key=lambda own: (abs(own - wish), own))
                    full[column, best] += 1
                    line[name] = base + best
    return _Grid(line, tuple(ranks))


def _wished(drawing: PlacedDrawing, source: str, line: dict[str, int], base: int) -> float:
    """The mean line of the heads that read here, counted from the rank's first."""
    found = [line[edge.ends[0]] - base for edge in drawing.edges if edge.start == source]
    return sum(found) / len(found) if found else 0.0


# -- a column --------------------------------------------------------------------------------------
_Column = tuple[list[list[_Item]], dict[str, _Item], list[_Chain]]


def _column(drawing: PlacedDrawing, grid: _Grid, number: int, spacing: Spacing) -> _Column:
    """The boxes of a column and its edges of the residual stream, at their places."""
    names = [name for name in drawing.boxes if drawing.column_of(name) == number]
    items = {name: _Item(grid.line[name], _width(drawing, name, spacing), True) for name in names}
    up = [
        (edge, end, items[str(edge.writer)], items[end])
        for edge in drawing.edges if not edge.writer.port and edge.ends[0] in items
        for end in edge.ends
    ]  # fmt: skip
    rows: list[list[_Item]] = [[] for _ in grid.ranks]
    if spacing.joined:
        chains = _joined(up, items, spacing)
    else:
        chains = [(edge, end, _chain(low, high, edge, spacing.lane)) for edge, end, low, high in up]
    for item in _unique([*items.values(), *(i for _, _, chain in chains for i in chain)]):
        rows[item.row].append(item)
    if not spacing.joined:
        _order(rows)
        _pull_together(rows, spacing.apart)
    return rows, items, chains


def _joined(
    up: list[tuple[Edge, str, _Item, _Item]], items: dict[str, _Item], spacing: Spacing
) -> list[_Chain]:
    """The edges of a column of which one box stands above the other: those of one kind to one box
    pass others as one line, left or right of all boxes, the shorter the nearer."""
    boxed = {item.row for item in items.values()}
    trunks: dict[tuple[str, str | None], tuple[int, int]] = {}
    passing = []
    for edge, end, low, high in up:
        between = any(low.row < row < high.row for row in boxed)
        passing.append(between)
        if between:
            first, _ = trunks.get((end, edge.port), (low.row, 0))
            trunks[end, edge.port] = min(first, low.row), high.row
    lanes = _beside_boxes(trunks, max((item.width for item in items.values()), default=0), spacing)
    shared: dict[tuple[str, str | None], dict[int, _Item]] = defaultdict(dict)
    chains: list[_Chain] = []
    for (edge, end, low, high), between in zip(up, passing, strict=True):
        known = shared[end, edge.port]
        chain = _chain(low, high, edge, spacing.lane if between else 0, known)
        for item in chain[1:-1]:
            item.x = lanes[end, edge.port]
        chains.append((edge, end, chain))
    return chains


def _beside_boxes(
    trunks: dict[tuple[str, str | None], tuple[int, int]], wide: float, spacing: Spacing
) -> dict[tuple[str, str | None], float]:
    """Where each line runs beside the boxes of a column: queries rather left, values right."""
    held: dict[int, list[list[tuple[int, int]]]] = {-1: [], 1: []}
    found = {}
    for key, (low, high) in sorted(
        trunks.items(), key=lambda own: (own[1][1] - own[1][0], own[1], str(own[0]))
    ):
        free = {
            side: next((n for n, lane in enumerate(lanes)
                        if all(high <= a or b <= low for a, b in lane)), len(lanes))
            for side, lanes in held.items()
        }  # fmt: skip
        liked = {"q": -1, "v": 1}.get(key[1] or "", 0)
        side = min(free, key=lambda own: (free[own], own != liked, own))
        lanes = held[side]
        if free[side] == len(lanes):
            lanes.append([])
        lanes[free[side]].append((low, high))
        found[key] = side * (wide / 2 + spacing.apart[1] + spacing.lane * (free[side] + 0.5))
    return found


def _width(drawing: PlacedDrawing, name: str, spacing: Spacing) -> float:
    label = drawing.boxes[name].label
    slim = sum(sign in ".itl" for sign in label)  # which are narrower than others
    text = style.text_width(label, style.LABEL) - 0.15 * slim * style.LABEL
    return max(spacing.box, text + spacing.letters)


def _least(drawing: PlacedDrawing, number: int, spacing: Spacing) -> float:
    """The least width of a column: that of its longest word, if it is not a long one."""
    column = drawing.columns[number]
    words = [] if len(column) > 1 else [*drawing.words.get(column[0], "").split(), column[0]]
    longest = max((style.text_width(word, style.LABEL) for word in words), default=0.0)
    return max(spacing.empty, min(longest, spacing.box))


def _sides(layout: Layout) -> tuple[float, float]:
    """The leftmost and the rightmost that anything in a column reaches."""
    sides = [x + s * layout.widths[n] / 2 for n, (x, _) in layout.places.items() for s in (-1, 1)]
    ways = [x for route in layout.routes for x, _ in route.points]
    return min(sides + ways, default=0.0), max(sides + ways, default=0.0)


def _moved(route: Route, shift: float) -> Route:
    return Route(route.edge, route.end, tuple((x + shift, y) for x, y in route.points))


# -- heights ---------------------------------------------------------------------------------------
def _passing(drawing: PlacedDrawing, grid: _Grid) -> dict[int, tuple[int, int]]:
    """Of each of attention's edges (by its number) the line over which it runs, and its place among
    those that run there: those whose columns overlap run one over the other."""
    taken: dict[int, list[list[tuple[int, int]]]] = defaultdict(list)
    found: dict[int, tuple[int, int]] = {}
    sideways = [(n, edge) for n, edge in enumerate(drawing.edges) if edge.writer.port]
    spans = {
        n: tuple(sorted(drawing.column_of(name) for name in (edge.start, edge.ends[0])))
        for n, edge in sideways
    }
    for n, edge in sorted(sideways, key=lambda own: spans[own[0]][1] - spans[own[0]][0]):
        low, high = spans[n]
        line = max(grid.line[edge.start], grid.line[edge.ends[0]])
        tracks = taken[line]
        for place, held in enumerate(tracks):
            if all(high <= a or b <= low for a, b in held):
                held.append((low, high))
                found[n] = line, place
                break
        else:
            tracks.append([(low, high)])
            found[n] = line, len(tracks) - 1
    return found


def _heights(
    parts: list[_Column],
    grid: _Grid,
    passing: dict[int, tuple[int, int]],
    spacing: Spacing,
) -> list[float]:
    """How high each line stands: there is more room where edges run sideways."""
    low, high = spacing.pitch
    pitch = max(low, min(high, spacing.tall / max(1, len(grid.ranks))))
    tracks: dict[int, int] = defaultdict(int)
    for line, place in passing.values():
        tracks[line] = max(tracks[line], place + 1)
    heights = [0.0]
    for line in range(len(grid.ranks) - 1):
        far = max(
            (abs(joint.high.x - joint.low.x) for rows, _, _ in parts for item in rows[line]
             for joint in item.above),
            default=0.0,
        )  # fmt: skip
        more = 0.0 if spacing.joined else min(FAR[0] * far, FAR[1])
        more += STEP * max(0, tracks[line] - spacing.joined)
        heights.append(heights[-1] + pitch + more)
    return heights


# -- sideways --------------------------------------------------------------------------------------
def _sideways(
    drawing: PlacedDrawing,
    places: dict[str, Point],
    widths: dict[str, float],
    passing: dict[int, tuple[int, int]],
    half: float,
) -> list[Route]:
    """The ways of attention's edges: out of the side of a box and into that of the head's, level
    where nothing stands between, else over it."""
    leaving, arriving = _beside(drawing, places, 0), _beside(drawing, places, 1)
    routes = []
    for number, edge in enumerate(drawing.edges):
        if number not in passing:
            continue
        start, end = edge.start, edge.ends[0]
        (x0, y0), (x1, y1) = places[start], places[end]
        y0, y1 = y0 + leaving[number], y1 + arriving[number]
        side = 1.0 if x1 >= x0 else -1.0
        x0, x1 = x0 + side * widths[start] / 2, x1 - side * widths[end] / 2
        if side * (x1 - x0) < 4.0:  # one above the other: out and in on the same side
            points = _around(x0, y0, max(x0, x1 + widths[end]), y1)
        elif _is_free(places, widths, (x0, y0), (x1, y1), half):
            third = (x1 - x0) / 3
            points = ((x0, y0), (x0 + third, y0), (x1 - third, y1), (x1, y1))
        else:
            over = max(places[start][1], places[end][1]) + half + 3.5 + STEP * passing[number][1]
            points = _over(x0, y0, x1, y1, over, side)
        routes.append(Route(edge, end, points))
    return routes


def _beside(drawing: PlacedDrawing, places: dict[str, Point], end: int) -> dict[int, float]:
    """How far above or below the middle of its box each of attention's edges leaves (end 0) or
    arrives (1)."""
    ends = {n: (edge.start, edge.ends[0]) for n, edge in enumerate(drawing.edges)
            if edge.writer.port}  # fmt: skip
    mine: dict[str, list[int]] = defaultdict(list)
    for number, own in ends.items():
        mine[own[end]].append(number)
    found = {}
    for numbers in mine.values():
        step = min(4.0, 0.6 * style.HEIGHT / len(numbers))

        def key(n: int) -> tuple[float, float, str]:
            x, y = places[ends[n][1 - end]]
            return y, x, drawing.edges[n].port or ""

        numbers.sort(key=key)
        for place, n in enumerate(numbers):
            found[n] = (place - (len(numbers) - 1) / 2) * step
    return found


def _is_free(
    places: dict[str, Point], widths: dict[str, float], start: Point, end: Point, half: float
) -> bool:
    """Whether no box stands between two points."""
    left, right = sorted((start[0], end[0]))
    low, high = sorted((start[1], end[1]))
    return not any(
        left < x + widths[name] / 2 - 1 and x - widths[name] / 2 + 1 < right
        and low - half - 1 < y < high + half + 1
        for name, (x, y) in places.items()
    )  # fmt: skip


def _over(
    x0: float, y0: float, x1: float, y1: float, over: float, side: float
) -> tuple[Point, ...]:
    """Out to the side, up, level over what stands between, and down into the side."""
    turn = side * min(TURN, abs(x1 - x0) / 2.5)
    a, b = x0 + turn, x1 - turn
    return (
        (x0, y0), (x0 + 0.7 * turn, y0), (a - 0.6 * turn, over), (a, over),
        (a + (b - a) / 3, over), (b - (b - a) / 3, over), (b, over),
        (b + 0.6 * turn, over), (x1 - 0.7 * turn, y1), (x1, y1),
    )  # fmt: skip


def _around(x0: float, y0: float, x1: float, y1: float) -> tuple[Point, ...]:
    """From the right side of a box to the right side of one above or below it."""
    out = max(x0, x1) + TURN
    return ((x0, y0), (out, y0), (out, y1), (x1, y1))
