"""What the legend explains: only what the picture shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from circuitkit.graph.nodes import Node
from circuitkit.viz import style
from circuitkit.viz.circuits.drawing import Drawing

__all__ = ["Key", "lines", "roles"]


@dataclass(frozen=True)
class Key:
    """A sample line, and what it stands for."""

    text: str
    colour: str = style.INK
    width: float = 2.0
    dashed: bool = False
    opacity: float = 0.9


def lines(drawn: Drawing) -> Iterator[Key]:
    """What the colours, dashes and widths of the lines mean."""
    sides = {edge.side for edge in drawn.edges if edge.side is not None}
    if drawn.sides:
        for side in sorted(sides):
            yield Key(drawn.sides.texts[side], style.SIDES[side][0])
    ports = set() if sides else {edge.port for edge in drawn.edges}
    for port, colour in style.PORTS.items():
        if port in ports:
            yield Key(f"into {port.upper()}", colour)
    if None in ports:
        stream = any(edge.reader.is_stream for edge in drawn.edges)
        yield Key(f"into an MLP{', the stream' * stream} or the logits", style.PLAIN)
    if any(edge.weight < 0 for edge in drawn.edges):
        yield Key("negative weight", width=1.6, dashed=True)
    shared = {Node(edge.ends[0]) for edge in drawn.edges if len(edge.ends) > 1}
    if any(end.is_head for end in shared):
        yield Key("to every head of a K/V group", opacity=style.opacity(2))
    if apart := [end for end in shared if not end.is_head]:
        what = "an MLP" if all(end.is_mlp for end in apart) else "what is taken apart"
        yield Key(f"to every part of {what}", opacity=style.opacity(2))
    if any(edge.core for edge in drawn.edges):
        yield Key("core")
    if drawn.rare:
        yield Key("in half of other samples", opacity=style.opacity(1, 0.5))
    ends = (*drawn.edges[-1:], *drawn.edges[:1]) if drawn.weighted else ()
    for weight in dict.fromkeys(abs(edge.weight) for edge in ends):
        of_largest = drawn.sides is not None and drawn.sides.scaled
        share = f"|weight| {weight:.3g}" + " of the circuit's largest" * of_largest
        yield Key(share, width=style.line_width(weight, drawn.largest))


def roles(drawn: Drawing) -> Iterator[tuple[str, str]]:
    """The tint of each role and its name; roles beyond the palette are counted. Of two circuits,
    the tint of each side."""
    if drawn.sides:
        for side in sorted(set(drawn.sides.boxes.values())):
            yield style.SIDES[side][1], f"components: {drawn.sides.texts[side]}"
        return
    for role, tint in drawn.tints.items():
        yield tint, role
    more = len(set(drawn.roles.values())) - len(drawn.tints)
    if more:
        yield style.PAPER, f"{more} more roles"
