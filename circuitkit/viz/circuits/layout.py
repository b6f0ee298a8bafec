"""Where the boxes stand and the edges run: rows by layer, in the manner of Sugiyama.

The rows are known (the layer order), so what remains is the order within a row, by barycentre
sweeps, and the places, by pulling neighbours together as far as the order leaves room. An edge over
several rows gets a lane in every row that it passes, so it runs beside the boxes, not under them;
where there are too many for that, only the strongest ones do.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from circuitkit.viz import style
from circuitkit.viz.circuits.drawing import Drawing, Edge

__all__ = ["APART", "HALF", "Layout", "PORT_SHARE", "PULL", "Point", "Route", "lay_out"]

SWEEPS, SWAPS, PULLS = 12, 2, 60
PORT_SHARE = {"q": -0.3, "k": 0.0, "v": 0.3}  # where a port sits, in widths of its box
# How hard a piece of an edge pulls: long edges run straight (Gansner et al. 1993 use 1, 2 and 8).
PULL = {0: 1.0, 1: 2.0, 2: 8.0}

APART = (0.0, style.CLEAR, style.GAP)  # neighbours of which none, one or both are boxes
HALF = style.HEIGHT / 2

Point = tuple[float, float]


@dataclass(eq=False)
class _Item:
    """What takes room in a row: a box, or the lane of an edge that passes."""

    row: int
    width: float
    box: bool
    x: float = 0.0
    order: float = 0.0
    below: list[_Joint] = field(default_factory=list)
    above: list[_Joint] = field(default_factory=list)


@dataclass(eq=False)
class _Joint:
    """A piece of an edge, between two rows; ``shift`` is where it ends beside its box's middle."""

    low: _Item
    high: _Item
    shift: float
    pull: float


_Chain = tuple[Edge, str, list[_Item]]  # an edge, the box where it ends, its items on the way


@dataclass(frozen=True)
class Route:
    """The way of one edge to one box, from its writer up."""

    edge: Edge
    end: str
    points: tuple[Point, ...]  # a cubic spline: a point, then two controls and a point a piece


@dataclass(frozen=True)
class Layout:
    """Middles and widths of the boxes, the ways of the edges; y grows upwards, from 0."""

    places: dict[str, Point]
    widths: dict[str, float]
    routes: tuple[Route, ...]


def lay_out(drawing: Drawing, lanes: int | None = None) -> Layout:
    """The picture's geometry; equal drawings get equal geometry. With ``lanes`` only so many of the
    edges, the strongest, run beside the boxes that they pass; the others run under them."""
    ranks = sorted({box.rank for box in drawing.boxes.values()})
    row_of = {name: ranks.index(box.rank) for name, box in drawing.boxes.items()}
    items = {name: _Item(row, _width(drawing, name), True) for name, row in row_of.items()}
    beside = drawing.edges if lanes is None else drawing.edges[max(0, len(drawing.edges) - lanes) :]
    lane, apart = _lane(beside, row_of, len(ranks)), set(map(id, beside))
    chains = [
        (edge, end, _chain(items[edge.writer], items[end], edge, lane if id(edge) in apart else 0))
        for edge in drawing.edges
        for end in edge.ends
    ]
    rows: list[list[_Item]] = [[] for _ in ranks]
    for item in _unique([*items.values(), *(i for _, _, chain in chains for i in chain)]):
        rows[item.row].append(item)
    _order(rows)
    _pull_together(rows)
    return _measure(rows, items, chains)


def _unique(items: Sequence[_Item]) -> list[_Item]:
    return list({id(item): item for item in items}.values())


def _width(drawing: Drawing, name: str) -> float:
    box = drawing.boxes[name]
    if box.kind not in ("input", "logits"):
        return max(style.WIDTH, style.text_width(box.label, style.LABEL) + 8.0)
    least, more, most = style.ENDS
    degree = sum(name in (edge.writer, *edge.ends) for edge in drawing.edges)
    return min(least + more * degree, most)


def _lane(edges: Sequence[Edge], row_of: dict[str, int], rows: int) -> float:
    """The room of a passing edge: the less, the more of them pass the busiest row."""
    passing = [0] * rows
    for edge in edges:
        for end in edge.ends:
            for row in range(row_of[edge.writer] + 1, row_of[end]):
                passing[row] += 1
    narrow, wide = style.LANE
    return max(narrow, min(wide, style.LANES / max(1, *passing)))


def _chain(
    start: _Item, end: _Item, edge: Edge, lane: float, shared: dict[int, _Item] | None = None
) -> list[_Item]:
    """The items that the edge joins, one a row; without a lane only those where it ends. Edges that
    share their lanes, by the row, run as one."""
    passed = range(start.row + 1, end.row) if lane else ()
    known = {} if shared is None else shared
    lanes = [known.setdefault(row, _Item(row, lane, False)) for row in passed]
    chain = [start, *lanes, end]
    for low, high in pairwise(chain):
        at_end = high is end and edge.reader.port
        shift = PORT_SHARE[edge.reader.port or "k"] * high.width if at_end else 0.0
        joint = _Joint(low, high, shift, PULL[(not low.box) + (not high.box)])
        low.above.append(joint)
        high.below.append(joint)
    return chain


# -- the order within the rows ---------------------------------------------------------------------
def _order(rows: list[list[_Item]]) -> None:
    """Sort the rows so that few edges cross: sweep up and down, keep the best order found."""
    for row in rows:
        _number(row)
    best, fewest = [list(row) for row in rows], _crossings(rows)
    for sweep in range(SWEEPS):
        up = sweep % 2 == 0
        for row in rows if up else reversed(rows):
            row.sort(key=lambda item: _barycentre(item, up))
            _number(row)
        _swap(rows)
        crossings = _crossings(rows)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    for row, chosen in zip(rows, best, strict=True):
        row[:] = chosen
        _number(row)


def _swap(rows: list[list[_Item]]) -> None:
    """Exchange neighbours in a row wherever their own edges then cross less."""
    for _ in range(SWAPS):
        changed = False
        for row in rows:
            for i in range(len(row) - 1):
                left, right = row[i], row[i + 1]
                if _crossed(right, left) < _crossed(left, right):
                    row[i], row[i + 1] = right, left
                    left.order, right.order = right.order, left.order
                    changed = True
        if not changed:
            return


def _crossed(left: _Item, right: _Item) -> int:
    """How often the edges of two neighbours cross when they stand in this order."""
    below = sorted(b.low.order for b in right.below)
    above = sorted(b.high.order + _fine(b) for b in right.above)
    count = sum(bisect_left(below, a.low.order) for a in left.below)
    return count + sum(bisect_left(above, a.high.order + _fine(a)) for a in left.above)


def _number(row: list[_Item]) -> None:
    """Places in the order, the middle of every row being 0, so that rows compare."""
    for place, item in enumerate(row):
        item.order = place - (len(row) - 1) / 2


def _barycentre(item: _Item, up: bool) -> float:
    joints = item.below if up else item.above
    if not joints:
        return item.order
    others = [j.low.order - _fine(j) if up else j.high.order + _fine(j) for j in joints]
    return sum(others) / len(others)


def _fine(joint: _Joint) -> float:
    """The port as a fraction of a place in the order: q, k and v do not cross at their head."""
    return joint.shift / joint.high.width if joint.high.width else 0.0


def _crossings(rows: list[list[_Item]]) -> int:
    count = 0
    for row in rows:
        joints = [joint for item in row for joint in item.above]
        joints.sort(key=lambda j: (j.low.order, j.high.order + _fine(j)))
        seen: list[float] = []
        for joint in joints:
            place = joint.high.order + _fine(joint)
            count += len(seen) - bisect_left(seen, place + 1e-9)
            insort(seen, place)
    return count


# -- the places within the rows --------------------------------------------------------------------
def _pull_together(rows: list[list[_Item]], apart: tuple[float, float, float] = APART) -> None:
    """Move every item towards the mean of what it is joined to, as far as its row's order lets."""
    for row in rows:
        _settle(row, [0.0] * len(row), [1.0] * len(row), apart)
    for step in range(PULLS):
        for row in rows if step % 2 == 0 else reversed(rows):
            wishes = [_wish(item) for item in row]
            _settle(row, [x for x, _ in wishes], [force for _, force in wishes], apart)


def _wish(item: _Item) -> tuple[float, float]:
    """Where the item's edges pull it, and how hard."""
    joints = [(j.low.x - j.shift, j.pull) for j in item.below]
    joints += [(j.high.x + j.shift, j.pull) for j in item.above]
    force = sum(pull for _, pull in joints)
    if not force:
        return item.x, 0.01
    return sum(x * pull for x, pull in joints) / force, force


def _settle(
    row: list[_Item],
    wishes: list[float],
    forces: list[float],
    apart: tuple[float, float, float],
) -> None:
    """Put the items as near to their wishes as can be (least squares) without touching: once the
    distances are taken off, that is an isotonic regression, by pooling adjacent violators."""
    starts = [0.0] * min(1, len(row))
    for left, right in pairwise(row):
        starts.append(starts[-1] + (left.width + right.width) / 2 + apart[left.box + right.box])
    pools: list[tuple[float, float, int]] = []  # place, force, how many items
    for start, wish, force in zip(starts, wishes, forces, strict=True):
        place, count = wish - start, 1
        while pools and pools[-1][0] > place:
            other, weight, more = pools.pop()
            place = (place * force + other * weight) / (force + weight)
            force, count = force + weight, count + more
        pools.append((place, force, count))
    places = [place for place, _, count in pools for _ in range(count)]
    for item, start, place in zip(row, starts, places, strict=True):
        item.x = start + place


# -- the geometry ----------------------------------------------------------------------------------
def _measure(
    rows: list[list[_Item]],
    items: dict[str, _Item],
    chains: list[_Chain],
    heights: list[float] | None = None,
    half: float = HALF,
) -> Layout:
    heights = _heights(rows) if heights is None else heights
    starts = _spread([(chain[0], chain[1]) for _, _, chain in chains])
    ends = _spread([(chain[-1], chain[-2]) for _, _, chain in chains])
    routes = []
    for (edge, end, chain), start_shift, end_shift in zip(chains, starts, ends, strict=True):
        port = edge.reader.port
        last = chain[-1].width * PORT_SHARE[port] if port else end_shift
        points = [(chain[0].x + start_shift, heights[chain[0].row] + half)]
        for before, item, after in zip(chain, chain[1:], chain[2:], strict=False):
            points += _pass(item, (before, after), rows, heights, half)
        points.append((chain[-1].x + last, heights[chain[-1].row] - half))
        routes.append(Route(edge, end, _smooth(points)))
    places = {name: (item.x, heights[item.row]) for name, item in items.items()}
    return Layout(places, {n: i.width for n, i in items.items()}, tuple(routes))


def _heights(rows: list[list[_Item]]) -> list[float]:
    """How high each row stands: edges that run far sideways get more room to do so."""
    low, high = style.PITCH
    pitch = max(low, min(high, style.TALL / len(rows)))
    heights = [0.0]
    for row in rows[:-1]:
        far = max((abs(j.high.x - j.low.x) for item in row for j in item.above), default=0.0)
        heights.append(heights[-1] + pitch + min(style.FAR[0] * far, style.FAR[1]))
    return heights


def _pass(
    item: _Item,
    joined: tuple[_Item, _Item],
    rows: list[list[_Item]],
    heights: list[float],
    half: float,
) -> list[Point]:
    """The points by which an edge passes a row: upright where a slanting line would touch a box."""
    y = heights[item.row]
    boxes = [other for other in rows[item.row] if other.box]
    room = min((abs(item.x - box.x) - box.width / 2 for box in boxes), default=float("inf"))
    slant = max(abs(other.x - item.x) / abs(heights[other.row] - y) for other in joined)
    if 2 * slant * half > room:
        return [(item.x, y - half), (item.x, y + half)]
    return [(item.x, y)]


def _spread(pairs: list[tuple[_Item, _Item]]) -> list[float]:
    """Where along its box's side each edge leaves or enters: in the order of where it leads. Edges
    that share a lane do so at one place."""
    mine: dict[int, dict[int, list[int]]] = {}
    for number, (box, other) in enumerate(pairs):
        one = number if other.box else -id(other)
        mine.setdefault(id(box), {}).setdefault(one, []).append(number)
    shifts = [0.0] * len(pairs)
    for several in mine.values():
        each = sorted(several.values(), key=lambda numbers: pairs[numbers[0]][1].x)
        step = min(0.76 * pairs[each[0][0]][0].width / len(each), 9.0)
        for place, numbers in enumerate(each):
            for number in numbers:
                shifts[number] = (place - (len(each) - 1) / 2) * step
    return shifts


def _smooth(points: list[Point]) -> tuple[Point, ...]:
    """A cubic spline through the points that leaves and arrives straight up, and never swings
    beyond them: its slopes are those of Fritsch and Carlson (1980)."""
    rises = [(x1 - x0) / (y1 - y0) for (x0, y0), (x1, y1) in pairwise(points)]
    inner = [2 * a * b / (a + b) if a * b > 0 else 0.0 for a, b in pairwise(rises)]
    slopes = [0.0, *inner, 0.0]
    spline = [points[0]]
    for (start, end), (low, high) in zip(pairwise(points), pairwise(slopes), strict=True):
        third = (end[1] - start[1]) / 3
        spline += [
            (start[0] + low * third, start[1] + third),
            (end[0] - high * third, end[1] - third),
            end,
        ]
    return tuple(spline)
