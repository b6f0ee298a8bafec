"""Several circuits in one picture, each with what only it shows in a colour of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from circuitkit.graph.circuit import edges as weighted
from circuitkit.graph.circuit import is_placed
from circuitkit.graph.nodes import Node
from circuitkit.graph.types import Graph
from circuitkit.viz import style
from circuitkit.viz.circuits.choice import Asked
from circuitkit.viz.circuits.drawing import Drawing, Sides, drawing, read_at
from circuitkit.viz.circuits.placed_drawing import PlacedDrawing, placed_drawing
from circuitkit.viz.circuits.placed_layout import ROOMY, lay_out_along
from circuitkit.viz.circuits.placed_scene import WIDE
from circuitkit.viz.circuits.placed_scene import _picture as along_a_prompt
from circuitkit.viz.circuits.scene import LEAST_WIDTH
from circuitkit.viz.circuits.scene import _picture as by_layers
from circuitkit.viz.shapes import Scene, Shape, moved

__all__ = ["panels"]

GAP = 18.0  # between two circuits
ONLY, SHARED = 0, 1  # of ``Edge.side``


def panels(circuits: Mapping[str, Graph], titles: Mapping[str, str], edges: Asked = None) -> Scene:
    """The circuits of one model below each other where they stand along a prompt, else next to each
    other: of each the strongest edges, at most so many, and those that no other has in a colour.
    Raises OutputError and CircuitError as the picture of each does."""
    scenes = []
    for name, circuit in circuits.items():
        others = [one for other, one in circuits.items() if other != name]
        drawn = _marked(_drawn(circuit, edges, titles[name]), circuit, others)
        scenes.append(_scene(drawn))
    down = any(map(is_placed, circuits.values()))
    shapes: list[Shape] = []
    x = y = 0.0
    for scene in scenes:
        shapes += [moved(shape, x, y) for shape in scene.shapes]
        x, y = (x, y + scene.height + GAP) if down else (x + scene.width + GAP, y)
    across = (max if down else sum)(scene.width for scene in scenes)
    tall = (sum if down else max)(scene.height for scene in scenes)
    room = GAP * (len(scenes) - 1)
    return Scene(across + room * (not down), tall + room * down, tuple(shapes))


def _drawn(circuit: Graph, edges: Asked, title: str) -> Drawing:
    if is_placed(circuit):
        return placed_drawing(circuit, edges, title, None)
    return drawing(circuit, edges, title)


def _scene(drawn: Drawing) -> Scene:
    if isinstance(drawn, PlacedDrawing):
        along = lay_out_along(drawn, WIDE, ROOMY)
        return along_a_prompt(drawn, along, ROOMY, style.SMALL, LEAST_WIDTH)
    return by_layers(drawn, style.SMALL, LEAST_WIDTH)


def _marked(drawn: Drawing, circuit: Graph, others: list[Graph]) -> Drawing:
    """The drawing with what only this circuit has, and what another has too, in two colours."""
    elsewhere = {edge[:2] for other in others for edge in weighted(other)}
    own = {edge[:2] for edge in weighted(circuit)}
    boxes = {box for other in others for box in _boxes(other)}
    sides = Sides(
        ("here", ""),
        {name: SHARED if name in boxes else ONLY for name, box in drawn.boxes.items()
         if box.kind not in ("input", "logits")},
        f"{len(own & elsewhere):,} edges elsewhere too, {len(own - elsewhere):,} only here",
        shared="elsewhere too", scaled=False,
    )  # fmt: skip
    marked = tuple(
        replace(edge, side=SHARED if (edge.writer, edge.reader) in elsewhere else ONLY)
        for edge in drawn.edges
    )
    return replace(drawn, edges=marked, sides=sides)


def _boxes(circuit: Graph) -> set[str]:
    """The boxes that pictures of the circuit have, and may have."""
    return {_box(end) for edge in weighted(circuit) for end in edge[:2]}


def _box(end: Node) -> str:
    if end.span and end.port in ("k", "v"):
        return read_at(end)
    name = end.plain.rpartition(".")[0] if end.port else str(end.plain)
    return f"{name}@{end.span}" if end.span else name
