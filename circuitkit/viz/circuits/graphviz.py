"""A picture as Graphviz draws it: the DOT text that ``engine="dot"`` lays out."""

from __future__ import annotations

from html import escape
from itertools import pairwise

import graphviz

from circuitkit.graph.types import Graph
from circuitkit.viz import style
from circuitkit.viz.circuits import legend
from circuitkit.viz.circuits.choice import Asked
from circuitkit.viz.circuits.drawing import Box, Drawing, Edge, drawing

__all__ = ["as_dot"]

ENDS = ("input", "logits")
MANY = 300  # edges: above, dot takes minutes unless it is told to hurry
HURRY = {"nslimit": "0.5", "nslimit1": "0.5", "mclimit": "0.2", "splines": "line"}


def as_dot(circuit: Graph, edges: Asked = None, title: str | None = None) -> str:
    """The picture of the circuit as DOT text: layers upwards, at most so many edges, the strongest.

    Raises OutputError and CircuitError as ``drawing`` does.
    """
    drawn = drawing(circuit, edges, title)
    lettering = {"fontname": style.FONT, "fontsize": f"{style.LABEL:g}"}
    graph = graphviz.Digraph(
        "circuit",
        graph_attr={**lettering, **_page(drawn)},
        node_attr={**lettering, "shape": "box", "height": "0.3", "width": "0.5", "margin": "0.06"},
        edge_attr={"arrowsize": "0.6"},
    )
    _rows(graph, drawn)
    for edge in drawn.edges:
        for end in edge.ends:
            graph.edge(str(edge.writer), end, **_line(edge, drawn.largest))
    return str(graph.source)


def _page(drawn: Drawing) -> dict[str, str]:
    page = {
        "rankdir": "BT", "ranksep": "0.35", "nodesep": "0.2", "bgcolor": style.PAPER,
        "labelloc": "b", "labeljust": "l", "label": _words(drawn),
    }  # fmt: skip
    lines = sum(len(edge.ends) for edge in drawn.edges)
    return page | HURRY if lines > MANY else page


def _rows(graph: graphviz.Digraph, drawn: Drawing) -> None:
    """The boxes, rank by rank; the names of the layers stand in a chain beside them, which keeps
    the ranks apart even where no edge does."""
    ranks: dict[tuple[int, int], list[Box]] = {}
    for box in drawn.boxes.values():
        ranks.setdefault(box.rank, []).append(box)
    names = [f"rank {number}" for number in range(len(ranks))]
    seen: set[int] = set()
    for name, ((layer, _), boxes) in zip(names, ranks.items(), strict=True):
        label = f"layer {layer}" if layer not in seen and boxes[0].kind not in ENDS else ""
        seen.add(layer)
        with graph.subgraph(graph_attr={"rank": "same"}) as row:
            row.node(name, label, shape="plaintext", fontcolor=style.FAINT)
            for box in boxes:
                row.node(box.name, **_box(box, drawn))
    for low, high in pairwise(names):
        graph.edge(low, high, style="invis", weight="10")


def _box(box: Box, drawn: Drawing) -> dict[str, str]:
    role = drawn.roles.get(box.name)
    return {
        "label": box.label,
        "style": "filled" if box.kind == "mlp" else "filled,rounded",
        "fillcolor": drawn.fill(box),
        "color": style.INK,
        "fontcolor": drawn.ink(box),
        "tooltip": graphviz.escape(f"{box.name}: {role}" if role else box.name),
    }


def _line(edge: Edge, largest: float) -> dict[str, str]:
    return {
        "color": style.shaded(edge.colour, edge.opacity),
        "penwidth": f"{style.line_width(edge.weight, largest):g}",
        "style": "dashed" if edge.weight < 0 else "solid",
        "tooltip": edge.title,
    }


def _words(drawn: Drawing) -> str:
    """Title, legend and caption, as Graphviz's kind of HTML."""
    lines = [
        _font(key.text, key.colour, "– –" if key.dashed else "—") for key in legend.lines(drawn)
    ]
    tints = [_font(role, tint, "■") for tint, role in legend.roles(drawn)]
    rows = [f"<B>{escape(drawn.title)}</B>"] * bool(drawn.title)
    rows += ["   ".join(row) for row in (lines, tints) if row] + [escape(c) for c in drawn.caption]
    cells = "".join(f'<TR><TD ALIGN="LEFT">{row}</TD></TR>' for row in rows)
    return (
        f'<<FONT POINT-SIZE="{style.SMALL:g}"><TABLE BORDER="0" CELLSPACING="0">'
        f"{cells}</TABLE></FONT>>"
    )


def _font(text: str, colour: str, sample: str) -> str:
    return f'<FONT COLOR="{colour}">{sample}</FONT> {escape(text)}'
