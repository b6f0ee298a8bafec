"""What a page knows of its circuit, as plain values: the boxes, the edges, and their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from circuitkit.graph.circuit import edges
from circuitkit.graph.nodes import edge_name
from circuitkit.graph.types import Graph
from circuitkit.util.json_values import Json
from circuitkit.viz import style
from circuitkit.viz.circuits.drawing import Box, Drawing, Edge
from circuitkit.viz.viewer.overlay import Overlay

__all__ = ["boxes", "edge_columns", "measures", "shares", "sizes"]

NUMBERS = ("frequency", "low", "high", "q")  # what an edge may say of itself
FLAGS = ("core", "exact")
DIGITS = 4


def boxes(drawn: Drawing, circuit: Graph) -> list[dict[str, Json]]:
    """Each box: its name, what it is, its layer, and, if known, its role and where it counts.

    What is bound to a word of a prompt has a ``column`` too (its number)."""
    return [_box(box, drawn, circuit) for box in drawn.boxes.values()]


def _box(box: Box, drawn: Drawing, circuit: Graph) -> dict[str, Json]:
    own = circuit.nodes[box.name] if box.name in circuit else {}
    found: dict[str, Json] = {"name": box.name, "label": box.label, "kind": box.kind}
    if box.kind not in ("input", "logits"):
        found["layer"] = box.layer
    if drawn.roles.get(box.name):
        found["role"] = drawn.roles[box.name]
    if isinstance(own.get("positions"), list | tuple):
        found["at"] = style.plain(", ".join(map(str, own["positions"])))
    if type(own.get("column")) is int:
        found["column"] = own["column"]
    return found


def edge_columns(
    drawn: Drawing, order: Sequence[Edge], circuit: Graph, overlay: Overlay | None
) -> dict[str, list[Json]]:
    """The edges in their order, a list for each of their values; what none has is left out."""
    number = {name: i for i, name in enumerate(drawn.boxes)}
    incoming = shares(circuit)
    found: dict[str, list[Json]] = {
        "name": [edge_name(edge.writer, edge.reader) for edge in order],
        "from": [number[edge.start] for edge in order],
        "to": [[number[end] for end in edge.ends] for edge in order],
        "port": [edge.port or "" for edge in order],
    }
    if overlay:
        pairs = [(str(edge.writer), str(edge.reader)) for edge in order]
        found["side"] = [overlay.side(pair) for pair in pairs]
        for key, own in zip(("weight_a", "weight_b"), overlay.weights, strict=True):
            found[key] = [rounded(own.get(pair)) for pair in pairs]
    if not drawn.weighted:
        return found
    found["weight"] = [rounded(edge.weight) for edge in order]
    found["share"] = [rounded(abs(e.weight) / (incoming[str(e.reader)] or 1.0), 3) for e in order]
    said = [circuit[edge.writer][edge.reader] for edge in order]
    for key in NUMBERS:
        found[key] = [rounded(own.get(key)) for own in said]
    for key in FLAGS:
        found[key] = [own.get(key) if isinstance(own.get(key), bool) else None for own in said]
    return {key: own for key, own in found.items() if any(x is not None for x in own)}


def shares(circuit: Graph) -> dict[str, float]:
    """Σ |weight| of the circuit's edges into each reader."""
    found: dict[str, float] = {}
    for _, reader, weight in edges(circuit):
        found[str(reader)] = found.get(str(reader), 0.0) + abs(weight)
    return found


def measures(found: Mapping[str, list[Json]], unit: str, overlay: bool) -> list[dict[str, Json]]:
    """What edges can be ranked by: each with its name, and for how many edges it is known."""
    if "weight" not in found:
        return []
    exact = sum(flag is True for flag in found.get("exact", ()))
    often = sum(x is not None for x in found.get("frequency", ()))
    weight = "|weight|, of each circuit's largest" if overlay else "|weight|"
    return [
        {"key": "weight", "name": weight, "unit": unit, "known": len(found["weight"])},
        {"key": "frequency", "name": "inclusion frequency", "unit": "", "known": often},
        {"key": "exact", "name": "|exact effect|", "unit": unit, "known": exact},
    ]


def sizes(circuit: Graph, number: int, beside: Mapping[int, float]) -> list[dict[str, Json]]:
    """The faithfulness by size, as far as it was measured: of the circuit, and of its parts; and
    ``beside`` of other circuits of the same ranking."""
    about, found = circuit.graph, {}
    parts = about.get("sizes")
    for size, own in parts.items() if isinstance(parts, Mapping) else ():
        if str(size).isdecimal() and (said := _said(own)):
            found[int(size)] = said
    drawn = about.get("drawn")
    part = drawn if isinstance(drawn, Mapping) and drawn.get("of") == number else {}
    if type(part.get("edges")) is int and (said := _said(part.get("faithfulness"))):
        found[part["edges"]] = said
    if said := _said(about.get("faithfulness")):
        found[number] = said
    rows: list[dict[str, Json]] = [
        {"n": n, **own} for n, own in sorted(found.items()) if 0 < n <= number
    ]
    rows += [{"n": n, "value": rounded(x), "other": True} for n, x in sorted(beside.items())]
    return rows


def _said(value: Json) -> dict[str, Json]:
    """The value, low and high of a faithfulness, be it a number or a mapping; empty without one."""
    if not isinstance(value, Mapping):
        value = {"value": value}
    own = {key: rounded(value.get(key)) for key in ("value", "low", "high")}
    return {} if own["value"] is None else {k: x for k, x in own.items() if x is not None}


def rounded(value: Json, digits: int = DIGITS) -> float | None:
    """The number in so many significant digits; None for what is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(f"{value:.{digits}g}") + 0.0
