"""The page of any circuit: along a prompt where its edges are between places, else by layers."""

from __future__ import annotations

from collections.abc import Mapping

from circuitkit.errors import OutputError
from circuitkit.graph.circuit import is_placed
from circuitkit.graph.types import Graph
from circuitkit.util.json_values import Json
from circuitkit.util.templates import framed as frame
from circuitkit.viz.circuits.placed_drawing import Words
from circuitkit.viz.viewer.page import FRAMED, page
from circuitkit.viz.viewer.placed import placed_page

__all__ = ["framed", "paged"]


def paged(
    circuit: Graph,
    edges: int | None = None,
    title: str | None = None,
    beside: Graph | None = None,
    searched: Mapping[int, float] | None = None,
    attention: Mapping[str, Json] | None = None,
    prompt: Words | None = None,
) -> str:
    """The circuit as a page: see ``pictures.page.html``. Raises OutputError for a prompt where
    there are no places."""
    if is_placed(circuit) and (beside is None or is_placed(beside)):
        return placed_page(circuit, edges, title, prompt, beside, attention)
    if prompt is not None:
        raise OutputError(
            "a prompt belongs to circuits between places, along which they are drawn; leave it out"
        )
    return page(circuit, edges, title, beside, searched, attention)


def framed(circuit: Graph, searched: Mapping[int, float] | None = None) -> str:
    """The page within a notebook: in a frame of its own, which may run its script and offer its
    files, and reaches nothing else. It holds the 500 strongest edges."""
    whole = paged(circuit, FRAMED, searched=searched)
    whole = whole.replace("<html", '<html class="framed"', 1)
    return frame(whole, "A circuit", "allow-scripts", "allow-downloads")
