"""The picture of any circuit: along a prompt where its edges are between places, else by layers."""

from __future__ import annotations

from circuitkit.errors import OutputError
from circuitkit.graph.circuit import is_placed
from circuitkit.graph.types import Graph
from circuitkit.viz.circuits.choice import Asked
from circuitkit.viz.circuits.placed_drawing import Words
from circuitkit.viz.circuits.placed_scene import placed_scene
from circuitkit.viz.circuits.scene import check_inches, scene
from circuitkit.viz.shapes import Scene

__all__ = ["pictured"]


def pictured(
    circuit: Graph,
    edges: Asked,
    title: str | None,
    inches: float | None,
    beside: Graph | None,
    prompt: Words | None,
) -> Scene:
    """The circuit as a picture; ``prompt`` gives the words of an example along which one between
    places is drawn. Raises OutputError for a prompt where there are no places, and as ``scene`` and
    ``placed_scene`` do."""
    if is_placed(circuit) and (beside is None or is_placed(beside)):
        check_inches(inches)
        return placed_scene(circuit, edges, title, inches, prompt, beside)
    if prompt is not None:
        raise OutputError(
            "a prompt belongs to circuits between places, along which they are drawn; leave it out"
        )
    return scene(circuit, edges, title, inches, beside)
