"""A circuit by the places of its components: which write where in the prompt, in which roles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from circuitkit.errors import CircuitError
from circuitkit.graph.circuit import edges, is_placed, places_of
from circuitkit.graph.nodes import INPUT, Node
from circuitkit.graph.placed_walks import drawn_places
from circuitkit.graph.places import PlacedMask
from circuitkit.graph.types import Graph
from circuitkit.util.json_values import Json

__all__ = ["Place", "by_span", "expected_places", "held_places", "roles_at"]

Place = tuple[str, str]  # a component, and the span at which it writes
DRAWS = 20  # random circuits, for what chance gives
_INTO = ("q", "k", "v", "MLPs", "logits")


def held_places(circuit: Graph) -> set[Place]:
    """Where the heads and MLPs of a circuit write: those of a circuit between places, or those
    that a published one says (``positions``). Raises CircuitError where it says none."""
    if is_placed(circuit):
        found = {w for w, _, _ in edges(circuit) if w.port is None and w.plain != INPUT}
        return {(str(w.plain), str(w.span)) for w in found}
    positions = {name: said for name, said in circuit.nodes(data="positions") if said}
    if not positions:
        raise CircuitError(
            "one circuit's edges are between places in the prompt, and the other says of no "
            "component where it writes; give circuit.collapse() of the first"
        )
    return {(str(name), str(span)) for name, spans in positions.items() for span in spans}


def roles_at(circuit: Graph) -> dict[Place, str]:
    """The role of each place that has one."""
    found = {}
    for name, said in circuit.nodes(data=True):
        node, role = Node(name), dict(said).get("role")
        spans = [node.span] if node.span else dict(said).get("positions") or []
        if role:
            found.update({(str(node.plain), str(span)): str(role) for span in spans})
    return found


def expected_places(circuit: Graph, other: set[Place], spoken: set[str], seed: int = 0) -> float:
    """The mean Jaccard index of the places of random circuits between places, with as many edges of
    both kinds as this one, with the other set; components that are not spoken of are left out."""
    places = places_of(circuit)
    attention = sum(writer.port is not None for writer, _, _ in edges(circuit))
    residual = sum(1 for _ in edges(circuit)) - attention
    if not residual:
        return 0.0
    found = []
    for mask in drawn_places(places, residual, attention, DRAWS, seed):
        own = {place for place in _of_mask(mask) if place[0] in spoken}
        found.append(len(own & other) / max(1, len(own | other)))
    return float(np.mean(found))


def _of_mask(mask: PlacedMask) -> set[Place]:
    places = mask.places
    rows = np.argwhere(np.asarray(mask.residual).any(1))
    return {(str(places.wiring.writers[w]), places.spans[s]) for w, s in rows if w}


def by_span(circuit: Graph) -> list[dict[str, Json]]:
    """A row for each span: how many heads and MLPs write there, in which roles, and, of a circuit
    between places, how many edges lead into what there, and how many of attention's come from
    other spans and go to others."""
    held, roles = held_places(circuit), roles_at(circuit)
    placed = is_placed(circuit)
    spans = places_of(circuit).spans if placed else _in_order(held)
    found: list[dict[str, Json]] = []
    for span in spans:
        own = [Node(name) for name, at in held if at == span]
        counted = Counter(role for (_, at), role in roles.items() if at == span)
        row: dict[str, Json] = {
            "span": span,
            "heads": sum(node.is_head for node in own),
            "mlps": sum(node.is_mlp for node in own),
            "roles": ", ".join(f"{role} {number}" for role, number in sorted(counted.items())),
        }
        found.append({**row, **(_edges_at(circuit, span) if placed else {})})
    return found


def _in_order(held: set[Place]) -> tuple[str, ...]:
    """The spans, those first where components of low layers write: in what order they are in the
    prompt, a published circuit does not say."""
    layers: dict[str, list[int]] = {}
    for name, span in held:
        layers.setdefault(span, []).append(Node(name).layer or 0)
    return tuple(sorted(layers, key=lambda span: (np.mean(layers[span]), span)))


def _edges_at(circuit: Graph, span: str) -> Mapping[str, Json]:
    """How many edges lead into what at a span, and of attention from and to other spans."""
    into = dict.fromkeys((f"into {what}" for what in _INTO), 0)
    arrives = leaves = within = 0
    for writer, reader, _ in edges(circuit):
        if writer.port is not None:
            within += writer.span == reader.span == span
            arrives += writer.span != reader.span == span
            leaves += reader.span != writer.span == span
        elif reader.span == span:
            what = reader.port or ("MLPs" if reader.is_mlp else "logits")
            into[f"into {what}"] += 1
    return {**into, "attention within": within, "attention from": arrives, "attention to": leaves}
