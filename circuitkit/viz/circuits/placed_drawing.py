"""What a picture along a prompt shows of a circuit between places."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from circuitkit.errors import OutputError
from circuitkit.graph.circuit import any_wiring, edges, placed_mask, places_of
from circuitkit.graph.nodes import INPUT, LOGITS, Node
from circuitkit.graph.places import PlacedMask, Places
from circuitkit.graph.types import Graph
from circuitkit.graph.wiring import Wiring
from circuitkit.viz import style
from circuitkit.viz.circuits.choice import USUAL, Asked, Choice, Weighted, check_asked
from circuitkit.viz.circuits.drawing import Box, Drawing, Edge, _certainty, _exact, read_at

__all__ = ["PlacedDrawing", "Words", "is_words", "placed_drawing", "words_of"]

# The words of an example at each span, in the order of the prompt.
Words: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str] | Sequence[str]]

SOURCE = "source"  # the kind of a box in which a key or value is read for heads elsewhere
NOTE = (
    "Sideways: attention, from the place where a head's key or value is read (a pale pill) to the "
    "place where the head writes."
)


@dataclass(frozen=True)
class PlacedDrawing(Drawing):
    """Everything that a picture along a prompt shows; boxes have the names of places.

    ``columns`` are the spans in the order of the prompt, those that have no box joined to groups;
    ``words`` the words of an example at each span; ``of`` how many edges of both kinds there are.
    """

    columns: tuple[tuple[str, ...], ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    of: tuple[int, int] = (0, 0)

    @property
    def caption(self) -> tuple[str, ...]:
        """That of every circuit, and what goes sideways."""
        sideways = any(edge.writer.port for edge in self.edges)
        return (*super().caption, *[NOTE] * sideways)

    def _extent(self) -> str:
        attention = sum(writer.port is not None for writer, _, _ in self.choice.shown)
        residual = len(self.choice.shown) - attention
        comma = "," if self.choice.left_out else ":"
        return (
            f"{self.choice.words}{comma} {residual:,} of the model's {self.of[0]:,} in the "
            f"residual stream, {attention:,} of its {self.of[1]:,} of attention"
        )

    def column_of(self, name: str) -> int:
        """The column in which a box stands."""
        span = name.partition("@")[2]
        return next(number for number, own in enumerate(self.columns) if span in own)


def is_words(value: object) -> bool:
    """Whether this gives words by span, or None."""
    pairs = [*value.items()] if isinstance(value, Mapping) else value
    if pairs is None:
        return True
    if isinstance(pairs, str) or not isinstance(pairs, Sequence):
        return False
    return all(
        isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)
        for pair in pairs
    )


def words_of(circuit: Graph, prompt: Words | None, places: Places) -> dict[str, str]:
    """The words of an example at each span, in the order of the prompt: those given, else those
    that the circuit says; none where it says none. Raises OutputError for what is not such words,
    and CircuitError for a span that there is not."""
    given = circuit.graph.get("words") if prompt is None else prompt
    if not is_words(given):
        raise OutputError(
            f"{reprlib.repr(given)} does not give words by span; give {{'S1': 'Mary', 'end': 'to'}}"
        )
    found: dict[str, str] = {}
    for span, text in [*given.items()] if isinstance(given, Mapping) else given or []:
        places.span(span)
        found[span] = f"{found[span]} … {text}" if span in found else text
    return found


def placed_drawing(
    circuit: Graph, asked: Asked, title: str | None, prompt: Words | None
) -> PlacedDrawing:
    """What to draw of a circuit between places: at most so many edges of both kinds (40), the
    strongest that hang together, or all. Raises OutputError where that is not a count, and as
    ``words_of``; CircuitError where the graph is not such a circuit."""
    check_asked(asked)
    places, wiring = places_of(circuit), any_wiring(circuit)
    choice = _chosen(circuit, places, asked)
    apart = {read_at(w) for w, r, _ in choice.shown if w.port and w.span != r.span}
    inner: dict[Node, tuple[str, ...]] = {}  # the heads that read a port at their own place
    for w, r, _ in choice.shown:
        if w.port and read_at(w) not in apart:
            inner[w] = (*inner.get(w, ()), str(r))
    writers = {w for w, _, _ in choice.shown}
    drawn = tuple(
        Edge(w, r, x, inner.get(r) or _ends(r, wiring, writers), *_certainty(circuit[w][r]))
        for w, r, x in reversed(choice.shown)
        if w not in inner
    )
    boxes = _boxes(drawn, places)
    roles = {
        name: style.plain(circuit.nodes[name]["role"])
        for name in boxes
        if name in circuit and circuit.nodes[name].get("role")
    }
    heading = style.plain(circuit.graph.get("reference", "") if title is None else title)
    words = words_of(circuit, prompt, places)
    held = {name.partition("@")[2] for name in boxes}
    return PlacedDrawing(
        wiring, drawn, boxes, roles, choice, 0, _exact(circuit, choice.shown), circuit.graph,
        heading, None, _columns(places, words, held), words, places.n_edges,
    )  # fmt: skip


def _chosen(circuit: Graph, places: Places, asked: Asked) -> Choice:
    """The strongest edges that hang together, of both kinds, at most so many."""
    found: list[Weighted] = sorted(edges(circuit), key=lambda e: (-abs(e[2]), e[0], e[1]))
    most = len(found) if asked == "all" else asked or USUAL
    if len(found) <= most:
        return Choice(found, 0, "")
    whole = placed_mask(circuit, places)
    if places.alive(whole).counts() != whole.counts():
        shown = found[:most]
        which = f"the {most:,} strongest of {len(found):,} edges"
    else:
        shown, which = _together(found, places, most), ""
        which = f"the {len(shown):,} strongest of {len(found):,} edges that hang together"
    kept = set(shown)
    largest = max(abs(edge[2]) for edge in found if edge not in kept)
    return Choice(shown, len(found) - len(shown), which, largest)


def _together(found: list[Weighted], places: Places, most: int) -> list[Weighted]:
    """Of the longest head of the list of which no more than so many edges are alive, those."""
    indices = [places.index(writer, reader) for writer, reader, _ in found]

    def alive(n: int) -> PlacedMask:
        legal = places.legal
        keep = PlacedMask(places, np.zeros_like(legal.residual), np.zeros_like(legal.attention))
        for index in indices[:n]:
            (keep.residual if len(index) == 3 else keep.attention)[index] = True
        return places.alive(keep)

    low, high = (
        0,
        len(found),
    )  # of the first ``low`` few enough are alive, of the first ``high`` not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sum(alive(middle).counts()) <= most else (low, middle)
    keep = alive(low)
    return [
        edge for edge, index in zip(found, indices, strict=True)
        if (keep.residual if len(index) == 3 else keep.attention)[index]
    ] or found[:most]  # fmt: skip


# -- boxes -----------------------------------------------------------------------------------------
def _ends(reader: Node, wiring: Wiring, writers: set[Node]) -> tuple[str, ...]:
    """The boxes that an edge enters: of a key or value that in which it is read, of experts those
    that write."""
    if reader.port in ("k", "v"):
        return (read_at(reader),)
    if reader.is_head:
        return (str(reader),)
    fed = [node.at(reader.span) for node in wiring.fed(reader.plain)]
    parts = tuple(str(node) for node in fed if node.part is not None and node in writers)
    return parts or (str(reader.component),)


def _boxes(drawn: Sequence[Edge], places: Places) -> dict[str, Box]:
    """The boxes of the edges, in the model's order."""
    found: dict[str, Box] = {}
    for edge in drawn:
        for name in (edge.start, *edge.ends):
            found[name] = _box(name)
    order = {span: number for number, span in enumerate(places.spans)}

    def key(name: str) -> tuple[tuple[int, int], int, int, str]:
        return found[name].rank, order[name.partition("@")[2]], len(name), name

    return {name: found[name] for name in sorted(found, key=key)}


def _box(name: str) -> Box:
    own = name.partition("@")[0]
    if own in (INPUT, LOGITS):
        return Box(name, own, -1 if own == INPUT else 10**9, own)
    if own.startswith("m"):
        return Box(name, "mlp", int(own[1:].partition(".")[0]), own)
    layer, part, *source = own[1:].split(".")
    label = part[1:] if part.startswith("h") else part
    return Box(name, SOURCE if source else "head", int(layer), f"{layer}.{label}")


def _columns(
    places: Places, words: Mapping[str, str], held: set[str]
) -> tuple[tuple[str, ...], ...]:
    """The spans in the order of the words, or of the places; neighbours without a box are one
    column."""
    order = dict.fromkeys((*words, *places.spans)) if held <= set(words) else places.spans
    found: list[tuple[str, ...]] = []
    for span in order:
        if words and span not in words:
            continue
        if span not in held and found and not held.intersection(found[-1]):
            found[-1] += (span,)
        else:
            found.append((span,))
    return tuple(found)
