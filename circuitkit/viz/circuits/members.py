"""A circuit that names components and no edges, as a picture: a row for each role."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from circuitkit.errors import OutputError
from circuitkit.graph.circuit import components, wiring_of
from circuitkit.graph.nodes import Node
from circuitkit.graph.types import Graph
from circuitkit.viz import style
from circuitkit.viz.canvas import INCH
from circuitkit.viz.circuits.drawing import SOURCE
from circuitkit.viz.circuits.lettering import caption_of, heading_of
from circuitkit.viz.shapes import Rect, Scene, Shape, Text, scaled

__all__ = ["members_scene"]

WIDE = 9  # boxes in a row, where no width is asked for
BETWEEN, LINE = 8.0, 29.0  # from box to box; from row to row
AFTER = 12.0  # between the names of the roles and the boxes
LEAST_LETTERS = 7.0  # points, in a paper's column


@dataclass(frozen=True)
class _Role:
    """A role, where in the prompt its components belong to the circuit, and the components."""

    name: str
    spans: str
    members: tuple[Node, ...]

    @property
    def height(self) -> float:
        """The mean layer of its components."""
        return sum(node.layer or 0 for node in self.members) / len(self.members)


def members_scene(circuit: Graph, title: str | None, inches: float | None) -> Scene:
    """The components in a row for each role, the later in the model the higher; in a column of so
    many inches with letters of 7 points at least. Raises OutputError where they do not fit, and
    CircuitError where the graph is not a circuit."""
    roles = sorted(_roles(circuit), key=lambda role: (-role.height, role.name))
    heading = style.plain(circuit.graph.get("reference", "") if title is None else title)
    if inches is None:
        width = _needed(roles, style.SMALL, min(WIDE, max(len(r.members) for r in roles)))
        return _picture(circuit, roles, heading, style.SMALL, width)
    scale = style.SMALL / style.LABEL
    if (narrow := INCH * inches / _needed(roles, style.LABEL, 1)) < scale:
        scale = narrow
    if scale * style.LABEL < LEAST_LETTERS:
        needed = _needed(roles, style.LABEL, 1) * LEAST_LETTERS / style.LABEL / INCH
        raise OutputError(
            f"in letters of {LEAST_LETTERS:g} points the picture is {needed:.1f} inches wide, and "
            f"not {inches:g}; give it more inches"
        )
    whole = _picture(circuit, roles, heading, style.LABEL, INCH * inches / scale)
    return scaled(whole, scale)


def _roles(circuit: Graph) -> Iterator[_Role]:
    """The roles with their components, in the model's order."""
    row = wiring_of(circuit).writer
    held: dict[str, list[Node]] = {}
    for name in sorted(components(circuit), key=lambda name: row[name]):
        held.setdefault(style.plain(circuit.nodes[name].get("role", ""), 40), []).append(Node(name))
    for role, members in held.items():
        spans = [tuple(circuit.nodes[name].get("positions") or ()) for name in members]
        same = spans[0] if len(set(spans)) == 1 else ()
        yield _Role(role, style.plain(", ".join(map(str, same)), 40), tuple(members))


def _needed(roles: list[_Role], small: float, boxes: int) -> float:
    """The width of a picture with so many boxes in a row."""
    return 2 * style.MARGIN + _names(roles, small) + boxes * (style.WIDTH + BETWEEN) - BETWEEN


def _names(roles: list[_Role], small: float) -> float:
    """The width of the column with the names of the roles."""
    texts = [text for role in roles for text in (role.name, f"at {role.spans}")]
    return max(style.text_width(text, small) for text in texts) + AFTER


def _picture(circuit: Graph, roles: list[_Role], title: str, small: float, width: float) -> Scene:
    """The picture, of that width, with its words in letters of that size."""
    heading = list(heading_of(title, width))
    y = style.MARGIN + (style.HEADING + style.MARGIN) * len(heading)
    names = _names(roles, small)
    room = width - 2 * style.MARGIN - names
    line = max(1, int((room + BETWEEN) / (style.WIDTH + BETWEEN)))
    tints = dict(zip((role.name for role in reversed(roles)), style.ROLES, strict=False))
    shapes: list[Shape] = []
    for number, role in enumerate(roles):
        rows = -(-len(role.members) // line)
        tall = max(rows, 1 + bool(role.spans) * 0.4) * LINE
        if number % 2 == 0:
            middle = y + tall / 2
            shapes.append(Rect(width / 2, middle, width - style.MARGIN, tall, style.BAND))
        shapes += _label(role, y + tall / 2, small)
        for place, node in enumerate(role.members):
            down, along = divmod(place, line)
            x = style.MARGIN + names + along * (style.WIDTH + BETWEEN) + style.WIDTH / 2
            up = y + tall / 2 + (down - (rows - 1) / 2) * LINE
            shapes += _box(node, role.name, x, up, tints.get(role.name, style.PAPER))
        y += tall
    caption, bottom = caption_of(_words(circuit), width, y + style.MARGIN / 2, small)
    return Scene(width, bottom, (*shapes, *heading, *caption))


def _label(role: _Role, y: float, small: float) -> Iterator[Shape]:
    if not role.spans:
        yield Text(style.MARGIN, y, role.name, small)
        return
    yield Text(style.MARGIN, y - 0.65 * small, role.name, small)
    yield Text(style.MARGIN, y + 0.65 * small, f"at {role.spans}", small, style.FAINT)


def _box(node: Node, role: str, x: float, y: float, tint: str) -> Iterator[Shape]:
    short = node[1:].replace(".h", ".") if node.is_head else str(node)
    wide = max(style.WIDTH, style.text_width(short, style.LABEL) + 4.0)
    title = f"{node}: {role}" if role else str(node)
    radius = 6.0 if node.is_head else 0.0
    yield Rect(x, y, wide, style.HEIGHT, tint, style.INK, radius, title)
    yield Text(x, y, short, style.LABEL, anchor="middle")


def _words(circuit: Graph) -> Iterator[str]:
    """Where the circuit comes from, and how much of the model it names."""
    source = [
        f"{key}: {style.plain(circuit.graph[key])}" for key in SOURCE if circuit.graph.get(key)
    ]
    if source:
        yield " · ".join(source)
    wiring, own = wiring_of(circuit), components(circuit)
    parts = []
    for what, kind in (("heads", "is_head"), (wiring.of_mlps, "is_mlp")):
        every = [node for node in wiring.writers if getattr(node, kind)]
        held = sum(str(node) in own for node in every)
        if held:
            parts.append(f"{held:,} of the model's {len(every):,} {what}")
    yield f"{', '.join(parts)}; it names no edges. The later in the model, the higher."
