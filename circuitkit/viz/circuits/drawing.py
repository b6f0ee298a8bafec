"""What a picture shows of a circuit: its strongest edges, the boxes they join, and the words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from circuitkit.errors import OutputError
from circuitkit.graph.circuit import edges as edges_of
from circuitkit.graph.circuit import wiring_of
from circuitkit.graph.nodes import INPUT, LOGITS, Node, edge_name
from circuitkit.graph.types import Graph
from circuitkit.graph.wiring import Wiring
from circuitkit.util.json_values import Json
from circuitkit.viz import style

__all__ = ["Box", "Drawing", "Edge", "SOURCE", "drawing"]

SOURCE = ("model", "task", "metric", "corruption", "method")


@dataclass(frozen=True)
class Box:
    """One drawn node: a component, or a key/value group none of whose heads is drawn."""

    name: str
    kind: str  # input, head, group, mlp or logits
    layer: int
    label: str

    @property
    def rank(self) -> tuple[int, int]:
        """Layer, then attention before the MLP: what reads stands above what writes."""
        return self.layer, int(self.kind == "mlp")


@dataclass(frozen=True)
class Edge:
    """One drawn edge, and the boxes where it ends: several where it feeds a group of heads."""

    writer: Node
    reader: Node
    weight: float
    ends: tuple[str, ...]

    @property
    def title(self) -> str:
        """The edge's name and weight, for whoever points at it."""
        return f"{edge_name(self.writer, self.reader)}  {self.weight:+.3g}"

    @property
    def colour(self) -> str:
        """By the port where it ends."""
        return style.PORTS[self.reader.port] if self.reader.port else style.PLAIN

    @property
    def opacity(self) -> float:
        """How solid its lines are."""
        return style.opacity(len(self.ends))


@dataclass(frozen=True)
class Drawing:
    """Everything that a picture shows; where it shows it is for the layout to say."""

    wiring: Wiring
    edges: tuple[Edge, ...]  # the weakest first, so that the strongest lie on top
    boxes: Mapping[str, Box]
    roles: Mapping[str, str]  # of boxes
    left_out: int
    exact: int | None  # drawn edges whose weight was measured; None where they do not say
    metadata: Mapping[str, Json]  # the graph's attributes
    title: str

    @property
    def weighted(self) -> bool:
        """Whether the edges have weights of their own."""
        return not self.metadata.get("unweighted")

    @cached_property
    def largest(self) -> float:
        """The |weight| of the thickest line: the largest one; lines without weights are thin."""
        largest = max((abs(edge.weight) for edge in self.edges), default=0.0)
        return largest if self.weighted else 4 * largest

    @cached_property
    def tints(self) -> dict[str, str]:
        """The colour of each role, in the order in which the roles come up the model; roles that
        are more than the palette stay white."""
        return dict(zip(dict.fromkeys(self.roles.values()), style.ROLES, strict=False))

    def fill(self, box: Box) -> str:
        """The colour of a box."""
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
        parts = (" · ".join(source), self._extent() + self._measured(), faithful)
        return tuple(part for part in parts if part)

    def _measured(self) -> str:
        if self.exact is None:
            return ""
        return f", {'all' if self.exact == len(self.edges) else f'{self.exact:,}'} measured exactly"

    def _extent(self) -> str:
        drawn, model = len(self.edges), f"the model's {self.wiring.n_edges:,}"
        if not self.left_out:
            return f"{drawn:,} edges of {model}" if drawn else f"no edges of {model}"
        total = drawn + self.left_out
        return (
            f"the {drawn:,} strongest of {total:,} edges that hang together "
            f"({self.left_out:,} left out), of {model}"
        )


def _exact(circuit: Graph, shown: Iterable[tuple[Node, Node, float]]) -> int | None:
    """How many of the edges say that their weight is exact; None where none says anything."""
    said = [circuit[writer][reader].get("exact") for writer, reader, _ in shown]
    return None if set(said) <= {None} else sum(flag is True for flag in said)


def _strongest(
    found: list[tuple[Node, Node, float]], n: int, wiring: Wiring
) -> list[tuple[Node, Node, float]]:
    """The first n edges; those that hang together, where all of them do, so that no box dangles."""
    if len(found) <= n:
        return found
    flat = np.ravel_multi_index(
        np.array([wiring.index(writer, reader) for writer, reader, _ in found]).T, wiring.shape
    )
    if wiring.best(flat, len(found)).sum() < len(found):
        return found[:n]
    kept = wiring.best(flat, n)
    return [edge for edge in found if kept[wiring.index(edge[0], edge[1])]]


def drawing(circuit: Graph, edges: int, title: str | None) -> Drawing:
    """What to draw of the circuit: at most so many edges, the strongest. Raises OutputError where
    ``edges`` is no count, CircuitError where the graph is no circuit."""
    if not isinstance(edges, int) or edges < 1:
        raise OutputError(f"edges={edges!r} cannot be drawn; give a whole number from 1 on")
    wiring = wiring_of(circuit)
    found = sorted(edges_of(circuit), key=lambda e: (-abs(e[2]), e[0], e[1]))
    shown = _strongest(found, edges, wiring_of(circuit))
    heads = {writer for writer, _, _ in shown} | {reader.component for _, reader, _ in shown}
    drawn = tuple(Edge(w, r, x, _ends(r, wiring, heads)) for w, r, x in reversed(shown))
    boxes = _boxes(drawn)
    roles = {
        name: style.plain(circuit.nodes[name]["role"])
        for name in boxes
        if name in circuit and circuit.nodes[name].get("role")
    }
    left_out, heading = len(found) - len(shown), style.plain(title or "")
    exact = _exact(circuit, shown)
    return Drawing(wiring, drawn, boxes, roles, left_out, exact, circuit.graph, heading)


def _ends(reader: Node, wiring: Wiring, heads: set[Node]) -> tuple[str, ...]:
    """The boxes that the reader's edge leads to."""
    fed = wiring.fed(reader)
    if not fed or reader in fed or reader.head is not None:
        return (str(reader.component),)
    present = tuple(str(node) for node in fed if node in heads)
    return present or (reader.rsplit(".", 1)[0] if reader.port else str(reader),)


def _boxes(drawn: Iterable[Edge]) -> dict[str, Box]:
    names = {str(INPUT), str(LOGITS)}
    for edge in drawn:
        names |= {str(edge.writer), *edge.ends}
    return {box.name: box for box in sorted(map(_box, names), key=lambda b: (b.rank, _tail(b)))}


def _tail(box: Box) -> tuple[int, str]:
    return len(box.label), box.label


def _box(name: str) -> Box:
    if name in (INPUT, LOGITS):
        return Box(name, name, -1 if name == INPUT else 10**9, name)
    if name.startswith("m"):
        return Box(name, "mlp", int(name[1:].partition(".")[0]), name)
    layer, part = name[1:].split(".")
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
