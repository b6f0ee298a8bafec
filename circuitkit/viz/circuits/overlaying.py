"""What a picture of two circuits shows: what both have, and what only one of them has."""

from __future__ import annotations

from dataclasses import replace

from circuitkit.errors import CircuitError
from circuitkit.graph.circuit import components, edges, lists_members, wiring_of
from circuitkit.graph.types import Graph
from circuitkit.graph.wiring import Wiring
from circuitkit.viz import style
from circuitkit.viz.circuits.choice import Asked, Choice, Weighted, chosen
from circuitkit.viz.circuits.drawing import Drawing, Edge, Sides, boxes_of, ends_of, read_at
from circuitkit.viz.circuits.placed_drawing import PlacedDrawing, Words, placed_drawing
from circuitkit.viz.viewer.overlay import Overlay, overlaid

__all__ = ["overlay_of", "placed_overlay"]

_ALIKE = ("model", "task")  # what the caption says of both


def overlay_of(circuit: Graph, beside: Graph, asked: Asked, title: str | None) -> Drawing:
    """The two as one drawing: of each the edges that a picture of it alone shows, at most so many,
    coloured by which of them has the edge; and the boxes by which of them has the component.

    Where one of the two only lists components, the edges are those of the other, and boxes are
    compared. Raises CircuitError where the two are of different models, or neither has an edge, and
    OutputError as ``choice.chosen`` does.
    """
    both = overlaid(circuit, beside)
    wiring = wiring_of(circuit)
    whole = [one for one in (circuit, beside) if not lists_members(one)]
    if not whole or not next(edges(both.union), None):
        raise CircuitError("neither of the two circuits has an edge to draw; compare them instead")
    names = [style.plain(name, 40) for name in both.names]
    has = tuple(components(one) for one in (circuit, beside))
    shown = _shown(both, whole, asked)
    by_edge = len(whole) == 2
    drawn = _edges(both, shown, wiring, by_edge)
    further = has[1] if lists_members(beside) else has[0] if lists_members(circuit) else ()
    boxes = boxes_of(drawn, wiring, further)
    of_boxes = {
        name: 1 if name in has[0] and name in has[1] else 0 if name in has[0] else 2
        for name in boxes
        if name in has[0] or name in has[1]
    }
    sides = Sides((names[0], names[1]), of_boxes, _counts(both, has, names, by_edge))
    left_out = len({**both.weights[0], **both.weights[1]}) - len(shown)
    which = f"{len(shown):,} edges, of each circuit the strongest or those between roles"
    metadata = {key: circuit.graph[key] for key in _ALIKE if _same(key, circuit, beside)}
    if all(one.graph.get("unweighted") for one in whole):
        metadata["unweighted"] = True
    heading = " and ".join(names) if title is None else style.plain(title)
    hidden = len((has[0] | has[1]) - boxes.keys())
    return Drawing(
        wiring, drawn, boxes, {}, Choice(shown, left_out, which), hidden, None, metadata,
        heading, sides,
    )  # fmt: skip


def placed_overlay(
    circuit: Graph, beside: Graph, asked: Asked, title: str | None, prompt: Words | None
) -> PlacedDrawing:
    """Two circuits between the same places as one drawing along a prompt: of the edges of either
    the strongest, at most so many, coloured as in ``overlay_of``. Raises CircuitError where the
    places differ, and otherwise as ``placed_drawing``."""
    both = overlaid(circuit, beside)
    names = (style.plain(both.names[0], 40), style.plain(both.names[1], 40))
    words = circuit.graph.get("words") if prompt is None else prompt
    heading = " and ".join(names) if title is None else title
    drawn = placed_drawing(both.union, asked, heading, words)
    has = tuple(
        {read_at(end) if end.port in ("k", "v") else str(end.component)
         for edge in edges(one) for end in edge[:2]}
        for one in (circuit, beside)
    )  # fmt: skip
    of_boxes = {
        name: 1 if name in has[0] and name in has[1] else 0 if name in has[0] else 2
        for name, box in drawn.boxes.items() if box.kind not in ("input", "logits")
    }  # fmt: skip
    sides = Sides(names, of_boxes, _counts(both, has, [*names], True))
    own = tuple(replace(e, side=both.side((str(e.writer), str(e.reader)))) for e in drawn.edges)
    metadata = {key: circuit.graph[key] for key in _ALIKE if _same(key, circuit, beside)}
    return replace(drawn, edges=own, sides=sides, metadata=metadata, roles={})


def _same(key: str, circuit: Graph, beside: Graph) -> bool:
    return bool(circuit.graph.get(key)) and circuit.graph.get(key) == beside.graph.get(key)


def _shown(both: Overlay, whole: list[Graph], asked: Asked) -> list[Weighted]:
    """The edges that are drawn, the strongest first; the weights are those of the two as one."""
    kept = {(w, r) for one in whole for w, r, _ in chosen(one, asked).shown}
    found = [edge for edge in edges(both.union) if edge[:2] in kept]
    return sorted(found, key=lambda edge: (-abs(edge[2]), *edge[:2]))


def _edges(both: Overlay, shown: list[Weighted], wiring: Wiring, by_edge: bool) -> tuple[Edge, ...]:
    heads = {w for w, _, _ in shown} | {r.component for _, r, _ in shown}
    return tuple(
        Edge(w, r, x, ends_of(r, wiring, heads),
             side=both.side((str(w), str(r))) if by_edge else None)
        for w, r, x in reversed(shown)
    )  # fmt: skip


def _counts(both: Overlay, has: tuple[set[str], ...], names: list[str], by_edge: bool) -> str:
    """How many edges, or components, are on each side."""
    a, b = both.weights if by_edge else has
    one, two = set(a), set(b)
    what = "edges" if by_edge else "components"
    return (
        f"{len(one & two):,} {what} in both, {len(one - two):,} only in {names[0]}, "
        f"{len(two - one):,} only in {names[1]}"
    )
