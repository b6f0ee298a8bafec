"""What a picture shows of a circuit: its strongest edges, the boxes they join, and the words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from circuitkit.graph.circuit import components, wiring_of
from circuitkit.graph.nodes import INPUT, LOGITS, Node, edge_name
from circuitkit.graph.types import Graph
from circuitkit.graph.wiring import Wiring
from circuitkit.util.json_values import Json
from circuitkit.viz import style
from circuitkit.viz.circuits.choice import Asked, Choice, chosen

__all__ = ["Box", "Drawing", "Edge", "SOURCE", "Sides", "boxes_of", "drawing", "ends_of", "read_at"]

SOURCE = ("model", "task", "metric", "corruption", "method")
STEPS = {"resid_pre": 0, "attn_out": 1, "resid_mid": 2, "resid_post": 4}  # of a layer


@dataclass(frozen=True)
class Box:
    """One drawn node: a component, or a key/value group none of whose heads is drawn. A part of
    what is taken apart looks as those of MLPs do."""

    name: str
    kind: str  # input, head, group, mlp or logits
    layer: int
    label: str
    site: str = ""  # of a part of attention or of the residual stream

    @property
    def rank(self) -> tuple[int, int]:
        """Layer, then attention before the MLP: what reads stands above what writes."""
        return self.layer, STEPS.get(self.site, 3 if self.kind == "mlp" else 1)


@dataclass(frozen=True)
class Edge:
    """One drawn edge, and the boxes where it ends: several where it feeds a group of heads.

    ``frequency`` is the share of other samples' circuits that hold it, None where it is not known;
    that of ``core`` edges is nearly 1.
    """

    writer: Node
    reader: Node
    weight: float
    ends: tuple[str, ...]
    frequency: float | None = None
    core: bool = False
    side: int | None = None  # of two circuits: 0 only in the first, 1 in both, 2 only in the second

    @property
    def title(self) -> str:
        """The edge's name, weight and frequency, for whoever points at it."""
        often = "" if self.frequency is None else f"  in {self.frequency:.0%} of samples"
        return f"{edge_name(self.writer, self.reader)}  {self.weight:+.3g}{often}"

    @property
    def start(self) -> str:
        """The box where it begins; of attention's edges that in which a key or value is read."""
        return read_at(self.writer) if self.writer.port else str(self.writer)

    @property
    def port(self) -> str | None:
        """The port where it ends; of attention's edges that where they begin."""
        return self.writer.port or self.reader.port

    @property
    def colour(self) -> str:
        """By its port; of two circuits, by those that have it."""
        if self.side is not None:
            return style.SIDES[self.side][0]
        return style.PORTS[self.port] if self.port else style.PLAIN

    @property
    def opacity(self) -> float:
        """How solid its lines are: the rarer, the paler."""
        return style.opacity(len(self.ends), None if self.core else self.frequency)


def read_at(port: Node) -> str:
    """The box in which a key or value is read at a place: that of a head, or of a group, holds
    both."""
    return f"{port.plain.rpartition('.')[0]}.kv@{port.span}"


@dataclass(frozen=True)
class Sides:
    """Of two circuits one over the other: their names, which of them has each box (as ``Edge.side``
    says it), and how many edges or components are on each side, in words. What is ``shared`` is
    called so; weights are ``scaled`` where they are shares of each circuit's largest."""

    names: tuple[str, str]
    boxes: Mapping[str, int]
    words: str
    shared: str = "both"
    scaled: bool = True

    @property
    def texts(self) -> tuple[str, str, str]:
        """What each side is called."""
        return f"only {self.names[0]}", self.shared, f"only {self.names[1]}"


@dataclass(frozen=True)
class Drawing:
    """Everything that a picture shows; where it shows it is for the layout to say."""

    wiring: Wiring
    edges: tuple[Edge, ...]  # the weakest first, so that the strongest lie on top
    boxes: Mapping[str, Box]
    roles: Mapping[str, str]  # of boxes
    choice: Choice
    hidden: int  # components of the circuit that have no box
    exact: int | None  # drawn edges whose weight was measured; None where they do not say
    metadata: Mapping[str, Json]  # the graph's attributes
    title: str
    sides: Sides | None = None

    @property
    def weighted(self) -> bool:
        """Whether the edges have weights of their own."""
        return not self.metadata.get("unweighted")

    @cached_property
    def largest(self) -> float:
        """The |weight| of the thickest line: the largest one; lines without weights are thin."""
        largest = max((abs(edge.weight) for edge in self.edges), default=0.0)
        return largest if self.weighted else 16 * largest

    @cached_property
    def tints(self) -> dict[str, str]:
        """The colour of each role, in the order in which the roles come up the model; roles that
        are more than the palette stay white."""
        return dict(zip(dict.fromkeys(self.roles.values()), style.ROLES, strict=False))

    def fill(self, box: Box) -> str:
        """The colour of a box."""
        if self.sides and box.name in self.sides.boxes:
            return style.SIDES[self.sides.boxes[box.name]][1]
        tint = self.tints.get(self.roles.get(box.name, ""))
        return tint or style.KINDS.get(box.kind, style.PAPER)

    def ink(self, box: Box) -> str:
        """The colour of a box's letters."""
        dark = box.kind in ("input", "logits") and box.name not in self.roles
        return style.PAPER if dark else style.INK

    @property
    def caption(self) -> tuple[str, ...]:
        """Where the circuit comes from; how much of it is drawn, and how faithful it is."""
        source = [
            f"{key}: {style.plain(self.metadata[key])}" for key in SOURCE if self.metadata.get(key)
        ]
        faithful = _faithfulness(self.metadata.get("faithfulness"))
        if faithful and self.choice.alone is not None:
            faithful += f"; of the edges shown here alone {_number(self.choice.alone)}"
        if faithful and self.metadata.get("in_sample"):
            faithful += " (in sample)"
        extent = self._extent() + self._measured() + self._hidden()
        if self.sides:
            return tuple(part for part in (" · ".join(source), self.sides.words, extent) if part)
        parts = (" · ".join(source), extent, faithful, self._certain())
        return tuple(part for part in parts if part)

    def _measured(self) -> str:
        if self.exact is None:
            return ""
        return f", {'all' if self.exact == len(self.edges) else f'{self.exact:,}'} measured exactly"

    def _extent(self) -> str:
        comma = "," if self.choice.left_out else ""
        return f"{self.choice.words}{comma} of the model's {self.wiring.n_edges:,}"

    @cached_property
    def rare(self) -> bool:
        """Whether there are edges that not nearly every other sample would give."""
        return any(edge.frequency is not None and not edge.core for edge in self.edges)

    def _certain(self) -> str:
        known = [edge for edge in self.edges if edge.frequency is not None]
        if not known:
            return ""
        core = sum(edge.core for edge in known)
        pale = "; the paler a line, the fewer samples of prompts give it" if self.rare else ""
        return f"core: {core:,} of {len(known):,} edges{pale}"

    def _hidden(self) -> str:
        if not self.hidden:
            return ""
        what = "component" if self.hidden == 1 else "components"
        return f"; not shown: {self.hidden:,} {what} without a drawn edge"


def _exact(circuit: Graph, shown: Iterable[tuple[Node, Node, float]]) -> int | None:
    """How many of the edges say that their weight is exact; None where none says anything."""
    said = [circuit[writer][reader].get("exact") for writer, reader, _ in shown]
    return None if set(said) <= {None} else sum(flag is True for flag in said)


def drawing(circuit: Graph, edges: Asked, title: str | None) -> Drawing:
    """What to draw of the circuit: at most so many edges (40), the strongest, or all; the title is
    the name of a published circuit unless another is given.

    Raises OutputError as ``choice.chosen`` does, CircuitError where the graph is not a circuit.
    """
    wiring, choice = wiring_of(circuit), chosen(circuit, edges)
    shown = choice.shown
    heads = {writer for writer, _, _ in shown} | {reader.component for _, reader, _ in shown}
    drawn = tuple(
        Edge(w, r, x, ends_of(r, wiring, heads), *_certainty(circuit[w][r]))
        for w, r, x in reversed(shown)
    )
    boxes = boxes_of(drawn, wiring)
    roles = {
        name: style.plain(circuit.nodes[name]["role"])
        for name in boxes
        if name in circuit and circuit.nodes[name].get("role")
    }
    heading = style.plain(circuit.graph.get("reference", "") if title is None else title)
    hidden = len(components(circuit) - boxes.keys())
    exact = _exact(circuit, shown)
    return Drawing(wiring, drawn, boxes, roles, choice, hidden, exact, circuit.graph, heading)


def _certainty(said: Mapping[str, Json]) -> tuple[float | None, bool]:
    """The frequency that an edge says it has, and whether it says that it is of the core."""
    often = said.get("frequency")
    if not isinstance(often, int | float) or not 0 <= often <= 1:
        return None, False
    return float(often), said.get("core") is True


def ends_of(reader: Node, wiring: Wiring, heads: set[Node]) -> tuple[str, ...]:
    """The boxes that the reader's edge leads to."""
    fed = wiring.fed(reader)
    if not fed or reader in fed or reader.component in fed:
        return (str(reader.component),)
    present = tuple(str(node) for node in fed if node in heads)
    return present or (reader.rsplit(".", 1)[0] if reader.port else str(reader),)


def boxes_of(drawn: Iterable[Edge], wiring: Wiring, further: Iterable[str] = ()) -> dict[str, Box]:
    """The boxes of the edges, and of further components, in the model's order."""
    names = {str(INPUT), str(LOGITS), *further}
    for edge in drawn:
        names |= {str(edge.writer), *edge.ends}
    boxes = (_box(name, wiring) for name in names)
    return {box.name: box for box in sorted(boxes, key=lambda box: (box.rank, _tail(box)))}


def _tail(box: Box) -> tuple[int, str]:
    return len(box.label), box.label


def _box(name: str, wiring: Wiring) -> Box:
    if name in (INPUT, LOGITS):
        return Box(name, name, -1 if name == INPUT else 10**9, name)
    layer, _, part = name[1:].partition(".")
    if name.startswith("m"):
        return Box(name, "mlp", int(layer), name)
    if name.startswith("r") or part[0] not in "hg":  # a part of what is taken apart
        own = (split for split in wiring.of_layers[int(layer)] if split.stem(0)[0] == name[0])
        return Box(name, "mlp", int(layer), name, next(own).site)
    kind, label = ("head", part[1:]) if part.startswith("h") else ("group", part)
    return Box(name, kind, int(layer), f"{layer}.{label}")


def _faithfulness(value: Any) -> str:
    """The faithfulness in words, be it a number or a mapping with an interval."""
    if not isinstance(value, Mapping):
        return "" if value is None else f"faithfulness {_number(value)}"
    if value.get("value") is None:
        return ""
    text = f"faithfulness {_number(value['value'])}"
    if value.get("low") is not None and value.get("high") is not None:
        text += f" [{_number(value['low'])}, {_number(value['high'])}]"
    if value.get("random") is not None:
        text += f", a random circuit {_number(value['random'])}"
    return text


def _number(value: Any) -> str:
    if isinstance(value, int | float):
        return f"{value + 0.0:.3g}"  # no minus before a zero
    return style.plain(value)
