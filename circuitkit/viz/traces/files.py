"""An attribution graph as a file: a picture, or a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from circuitkit.errors import OutputError
from circuitkit.graph.types import Graph
from circuitkit.util.json_values import Json
from circuitkit.viz.svg import document
from circuitkit.viz.traces.scene import scene

__all__ = ["SUFFIXES", "drawn"]

DRAWN = 60  # edges of a picture, unless a number is asked for: more cannot be followed on paper
SUFFIXES = ("svg", "png", "pdf", "html")


def drawn(
    graph: Graph,
    suffix: str,
    edges: int | None = None,
    title: str | None = None,
    notes: Sequence[str] = (),
    features: Sequence[Mapping[str, Json]] = (),
) -> str | bytes:
    """The file of this suffix; a page says of ``features`` what they are. Raises OutputError for a
    suffix that is not known."""
    if suffix not in SUFFIXES:
        raise OutputError(
            f"an attribution graph is not drawn as {suffix!r}; choose {', '.join(SUFFIXES)}"
        )
    if suffix == "html":
        from circuitkit.viz.viewer.traced import page

        return page(graph, edges, title, notes, features)
    picture = scene(graph, DRAWN if edges is None else edges, title, notes)
    if suffix == "svg":
        return document(picture)
    from circuitkit.viz.painting import painted

    return painted(picture, suffix)
