"""An attribution graph as a file: a picture, or a page."""

from __future__ import annotations

from collections.abc import Sequence

from circuitkit.errors import OutputError
from circuitkit.graph.types import Graph
from circuitkit.viz.svg import document
from circuitkit.viz.traces.scene import scene

__all__ = ["SUFFIXES", "drawn"]

SUFFIXES = ("svg", "png", "pdf", "html")


def drawn(
    graph: Graph,
    suffix: str,
    edges: int | None = None,
    title: str | None = None,
    notes: Sequence[str] = (),
) -> str | bytes:
    """The file of this suffix; raises OutputError for one that is not known."""
    if suffix not in SUFFIXES:
        raise OutputError(
            f"an attribution graph is not drawn as {suffix!r}; choose {', '.join(SUFFIXES)}"
        )
    if suffix == "html":
        from circuitkit.viz.viewer.traced import page

        return page(graph, edges, title, notes)
    picture = scene(graph, edges, title, notes)
    if suffix == "svg":
        return document(picture)
    from circuitkit.viz.painting import painted

    return painted(picture, suffix)
