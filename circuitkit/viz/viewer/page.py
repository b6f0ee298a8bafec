"""A circuit as one HTML page, which needs no network and no other file.

The picture is laid out and written here; the page's script chooses among its parts. What is said
of the circuit stands in the page as JSON, which is read and never executed, and as text: nothing
that came in a file is markup, and the page's own policy forbids every other script and request.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from importlib.resources import files
from types import MappingProxyType

from circuitkit.errors import OutputError
from circuitkit.graph.circuit import edges as weighted_edges
from circuitkit.graph.circuit import wiring_of
from circuitkit.graph.types import Graph
from circuitkit.util.json_values import Json
from circuitkit.util.templates import render
from circuitkit.util.versions import versions
from circuitkit.viz import style
from circuitkit.viz.circuits.choice import between_roles, nested
from circuitkit.viz.circuits.drawing import SOURCE, Drawing, Edge, drawing
from circuitkit.viz.viewer import contents
from circuitkit.viz.viewer.overlay import Overlay, overlaid
from circuitkit.viz.viewer.picture import picture

__all__ = ["FRAMED", "MOST", "START", "page"]

MOST = 5_000  # edges of a page
START = 50  # edges that it shows first, where there are more than FULL
FULL = 60
LINES = MappingProxyType({
    "q": "into a query", "k": "into a key", "v": "into a value", "p": "into an MLP or the logits",
})  # fmt: skip
KEYS = (
    "Layers are stacked upwards; a box is a head (rounded), an MLP (square), or a group of "
    "heads with one key and value. A line's width grows with what edges are ranked by; it is "
    "dashed where the weight is negative, which is against the behaviour. A weight is in "
    "units of the metric per example. The share of a reader's input is the edge's part of Σ "
    "|weight| of the circuit's edges into that reader."
)
FRAMED = 500  # edges of a page in a notebook


def page(
    circuit: Graph,
    edges: int | None = None,
    title: str | None = None,
    beside: Graph | None = None,
    searched: Mapping[int, float] | None = None,
    attention: Mapping[str, Json] | None = None,
) -> str:
    """The circuit as a page: see ``pictures.page.html``. ``searched`` is the faithfulness of other
    circuits of its ranking by their size, on the prompts of the discovery."""
    overlay = None if beside is None else overlaid(circuit, beside)
    whole = overlay.union if overlay else circuit
    drawn = drawing(whole, edges or MOST, title)
    order = _order(drawn, whole)
    found = contents.edge_columns(drawn, order, whole, overlay)
    sides = [int(side) for side in found.get("side", ())]
    number = sum(1 for _ in weighted_edges(whole))
    start = _start(drawn, whole, len(order))
    unit = style.plain(circuit.graph.get("metric", "the metric"))
    shown = picture(drawn, order, start, sides)
    data: dict[str, Json] = {
        "title": drawn.title or _title(circuit, overlay),
        "edges": found, "boxes": contents.boxes(drawn, whole), "start": start,
        "of": number, "model": wiring_of(whole).n_edges,
        "measures": contents.measures(found, f"{unit} per example", overlay is not None),
        "sizes": [] if overlay else contents.sizes(circuit, number, searched or {}),
        "sides": _sides(overlay, found), "tints": [list(pair) for pair in drawn.tints.items()],
        "attention": _attention(attention),
        "whole": shown.whole,
    }  # fmt: skip
    lines = _about(circuit, drawn, overlay)
    return _filled(data, shown.svg, [" · ".join(lines[:2]), *lines[2:]], _legend(found))


def _legend(found: Mapping[str, list[Json]]) -> list[tuple[str, str]]:
    """What the lines are, by their class: only what there is."""
    ports = {port or "p" for port in found["port"]} if "side" not in found else set()
    keys = [(key, text) for key, text in LINES.items() if key in ports]
    if any(weight < 0 for weight in found.get("weight", ())):
        keys.append(("minus", "negative"))
    if "frequency" in found:
        keys.append(("pale", "paler: in fewer samples"))
    return keys


def _filled(
    data: Mapping[str, Json],
    drawn: str,
    about: Sequence[str],
    legend: Sequence[tuple[str, str]],
    keys: str = KEYS,
    beside: str = "attention.js",
) -> str:
    """The page; ``beside`` is the script of what it says of a box beside its edges."""
    own = files("circuitkit.viz.viewer")
    parts = (own.joinpath(name).read_text(encoding="utf-8") for name in ("viewer.js", beside))
    script = "".join(parts)
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    return render(
        "viz/viewer/page.html.jinja", data=data, keys=keys, picture=drawn, about=about,
        legend=legend, script=script, digest=digest,
        sheet=own.joinpath("viewer.css").read_text(encoding="utf-8"),
        version=versions()["circuitkit-graph"],
    )  # fmt: skip


def _order(drawn: Drawing, circuit: Graph) -> list[Edge]:
    """The edges in the order in which the page adds them: parts that hang together first; of
    edges without weights those between components with roles."""
    by_pair = {(edge.writer, edge.reader): edge for edge in drawn.edges}
    shown = [(edge.writer, edge.reader, edge.weight) for edge in reversed(drawn.edges)]
    if not drawn.weighted:
        first = between_roles(circuit, shown)
        shown = list(dict.fromkeys([*first, *shown]))
    else:
        shown = nested(shown, drawn.wiring)
    return [by_pair[writer, reader] for writer, reader, _ in shown]


def _start(drawn: Drawing, circuit: Graph, number: int) -> int:
    """How many edges the page shows first."""
    if drawn.weighted:
        return number if number <= FULL else START
    shown = [(edge.writer, edge.reader, edge.weight) for edge in drawn.edges]
    return len(between_roles(circuit, shown)) or number


def _title(circuit: Graph, overlay: Overlay | None) -> str:
    if overlay:
        return " and ".join(overlay.names)
    about = circuit.graph
    parts = [style.plain(about[key]) for key in ("task", "model") if about.get(key)]
    return " on ".join(parts) or "A circuit"


def _about(circuit: Graph, drawn: Drawing, overlay: Overlay | None) -> list[str]:
    """Where the circuit comes from, and how faithful it is."""
    if overlay is None:
        return list(replace(drawn, metadata=circuit.graph).caption)
    sides = [overlay.side(pair) for pair in {**overlay.weights[0], **overlay.weights[1]}]
    counts = [sides.count(side) for side in (0, 1, 2)]
    same = [
        f"{key}: {style.plain(circuit.graph[key])}" for key in SOURCE[:2] if circuit.graph.get(key)
    ]
    return [*same, f"{counts[0]:,} edges only in A, {counts[1]:,} in both, {counts[2]:,} only in B"]


def _sides(overlay: Overlay | None, found: Mapping[str, list[Json]]) -> list[Json]:
    """The three parts of an overlay, each with its name and how many edges it has."""
    if overlay is None:
        return []
    a, b = (style.plain(name) for name in overlay.names)
    names = ("only A", "both", "only B")
    if a != "A":
        names = (f"only A ({a})", "both", f"only B ({b})")
    return [{"name": n, "count": found["side"].count(i)} for i, n in enumerate(names)]


def _attention(given: Mapping[str, Json] | None) -> Json:
    """The patterns of heads on a prompt: ``tokens`` and for each head its rows, shares from 0 to
    1. In the page a row is a text with two digits for each share. Raises OutputError for others."""
    if given is None:
        return None
    try:
        tokens = [str(token) for token in given["tokens"]]
        heads = {
            str(name): [
                "".join(f"{min(99, round(100 * float(x))):02d}" for x in row) for row in rows
            ]
            for name, rows in given["heads"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise OutputError(
            "attention is not a pattern of heads; give {'tokens': [...], 'heads': {'a9.h9': "
            "[[share, ...], ...]}}, as circuitkit.patching.attention.patterns does"
        ) from error
    return {"tokens": tokens, "heads": heads}
