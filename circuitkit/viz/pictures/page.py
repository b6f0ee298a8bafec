"""HTML: one page in which a circuit can be filtered, searched and followed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from circuitkit.graph.types import Graph, is_graph
from circuitkit.util.json_values import Json
from circuitkit.util.options import Form
from circuitkit.viz.circuits.placed_drawing import Words, is_words
from circuitkit.viz.viewer.paged import paged

__all__ = ["html"]


def html(
    circuit: Graph,
    *,
    edges: int | None = None,
    title: str | None = None,
    beside: Annotated[Graph | None, Form("a circuit, or None", is_graph)] = None,
    searched: Mapping[int, float] | None = None,
    attention: Mapping[str, Json] | None = None,
    prompt: Annotated[Words | None, Form("words by span, or None", is_words)] = None,
) -> str:
    """The circuit as an interactive page: one file that needs no network.

    It holds at most the ``edges`` strongest edges (5,000), and shows the first 50. ``beside`` is a
    second circuit of the same model to overlay; ``searched`` the faithfulness of other circuits by
    their size; ``attention`` the patterns of heads on a prompt, as
    ``circuitkit.patching.patterns.patterns`` gives them. A circuit between places stands along the
    words of a prompt, its own or those of ``prompt``.

    Raises OutputError for a style that cannot be drawn, and CircuitError where a graph is not a
    circuit, or the second one is of another model.

    Example:
        >>> ck.formats.html(circuit)[:15]
        '<!doctype html>'
    """
    return paged(circuit, edges, title, beside, searched, attention, prompt)
