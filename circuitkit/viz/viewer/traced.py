"""An attribution graph as a page: the viewer, with tokens from left to right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from circuitkit.graph.types import Graph
from circuitkit.util.json_values import Json
from circuitkit.util.templates import framed as frame
from circuitkit.viz import style
from circuitkit.viz.traces.layout import Box, Line, Sheet, lay_out
from circuitkit.viz.traces.scene import about, fill_of
from circuitkit.viz.viewer.contents import rounded
from circuitkit.viz.viewer.page import _filled
from circuitkit.viz.viewer.picture import GROUP, width_of

__all__ = ["framed", "page"]

START = 150  # edges that the page shows first
TEXTS, BEFORE, AFTER = 6, 18, 5  # texts of a feature; tokens around the one where it peaks
KIND = {"token": "input", "logit": "logits", "feature": "feature"}  # else an error: as an MLP
LEGEND = [("p", "positive"), ("p minus", "negative")]
KEYS = (
    "Tokens stand from left to right, layers upwards. A box is a feature that is active at a "
    "token (blue where it raises the target by the graph, orange where it lowers it), or what "
    "an MLP writes there beyond its features (error, grey); a green rim: of a supernode, "
    "features that do the same. A line's width grows with what of "
    "the target's |weight| goes through it. The weight is what its reader takes of its "
    "source, with attention patterns and what norms divide by held as they are in the prompt; "
    "it does not say what happens when the source is taken away, which is measured by "
    "changing it in the model."
)


def page(
    graph: Graph,
    edges: int | None = None,
    title: str | None = None,
    notes: Sequence[str] = (),
    features: Sequence[Mapping[str, Json]] = (),
) -> str:
    """The graph as one page that needs no network; ``features`` say where some are most active, as
    ``circuitkit features show --json`` does."""
    sheet = lay_out(graph, edges)
    lines, number = sheet.lines, {name: i for i, name in enumerate(sheet.boxes)}
    start = min(START, len(lines))
    taken: dict[str, float] = {}
    for _, to, own in graph.edges(data=True):
        taken[to] = taken.get(to, 0.0) + abs(own["weight"])
    found: dict[str, list[Json]] = {
        "name": [f"{line.start}->{line.to}" for line in lines],
        "from": [number[line.start] for line in lines],
        "to": [[number[line.to]] for line in lines],
        "port": ["" for _ in lines],
        "weight": [_signed(line) for line in lines],
        "taken": [rounded(line.weight) for line in lines],
        "share": [rounded(abs(line.weight) / (taken[line.to] or 1.0), 3) for line in lines],
    }
    measure: dict[str, Json] = {
        "key": "weight", "name": "influence", "unit": "", "known": len(lines)
    }  # fmt: skip
    heading = style.plain(title or graph.graph.get("prompt", "An attribution graph"), 200)
    data: dict[str, Json] = {
        "title": heading, "edges": found, "unit": "influence",
        "boxes": [_said(box, graph) for box in sheet.boxes.values()],
        "start": start, "of": len(lines), "model": len(lines),
        "measures": [measure], "hint": "m3.f417, error, a token's text",
        "said": "" if notes else "Whether it predicts the model is not measured",
        "sizes": [], "sides": [], "tints": [], "whole": None,
        "features": {str(own["feature"]): _card(own) for own in features},
    }  # fmt: skip
    said = [*about(graph, len(lines)), *notes]
    return _filled(data, _svg(sheet, start), said, LEGEND, KEYS, "features.js")


def framed(graph: Graph) -> str:
    """The page within a notebook, in a frame that reaches nothing else."""
    whole = page(graph).replace("<html", '<html class="framed"', 1)
    return frame(whole, "An attribution graph", "allow-scripts", "allow-downloads")


def _signed(line: Line) -> float | None:
    return rounded(line.influence if line.weight >= 0 else -line.influence)


def _said(box: Box, graph: Graph) -> dict[str, Json]:
    """What the page says of a node."""
    own, tokens = box.said, graph.graph.get("tokens") or []
    found: dict[str, Json] = {
        "name": box.name,
        "label": box.label,
        "kind": KIND.get(box.kind, box.kind),
    }
    if box.kind in ("feature", "error", "rest"):
        found["layer"] = own.get("layer")
    if box.kind == "feature":
        found["feature"] = box.name.partition("@")[0]
    parts = [str(own["label"])] if own.get("label") and box.kind == "feature" else []
    parts += [f"supernode {own['supernode']}"] if own.get("supernode") else []
    for key, word, form in (("value", "activation", ".3g"), ("total", "adds by the graph", "+.3g"),
                            ("live", "by the model's gradient", "+.3g")):  # fmt: skip
        value = own.get(key)
        if isinstance(value, float) and value == value and (key != "value" or value):
            parts.append(f"{word} {value:{form}}")
    if parts and box.kind != "logit":
        found["role"] = style.plain(" · ".join(parts), 200)
    position = own.get("position")
    if isinstance(position, int) and 0 <= position < len(tokens):
        found["at"] = style.plain(f"token {position}, {tokens[position]!r}")
    return found


def _card(feature: Mapping[str, Json]) -> dict[str, Json]:
    """What the page says of where a feature is active, and of the logits that it moves."""
    said = (
        f"active at {feature['active_share']:.1%} of {feature['tokens']:,} tokens of "
        f"{feature['texts']}"
    )
    return {
        "said": style.plain(said), "largest": rounded(feature["largest"]) or 1.0,
        "shown": [_shown(own) for own in feature["shown"][:TEXTS]],
        **{way: [[own["token"], rounded(own["by"], 2)] for own in feature[way][:TEXTS]]
           for way in ("raised", "lowered")},
    }  # fmt: skip


def _shown(text: Mapping[str, Json]) -> dict[str, Json]:
    """A text around the token at which a feature is most active."""
    peak, tokens = text["peak"], text["tokens"]
    start, stop = max(0, peak - BEFORE), min(len(tokens), peak + AFTER + 1)
    return {
        "tokens": [*map(str, tokens[start:stop])], "peak": peak - start,
        "values": [rounded(own, 3) for own in text["activations"][start:stop]],
        "cut": [start > 0, stop < len(tokens)],
    }  # fmt: skip


# -- the picture -----------------------------------------------------------------------------------
def _svg(sheet: Sheet, start: int) -> str:
    """The picture as an SVG whose parts the viewer takes hold of."""
    size = f'viewBox="0 0 {sheet.width:.1f} {sheet.height:.1f}" width="{sheet.width:.0f}"'
    lines = [
        '<svg id="picture" xmlns="http://www.w3.org/2000/svg" role="group" '
        f'aria-label="The graph, layers upwards" {size} height="{sheet.height:.0f}" '
        f'font-family="{style.FONTS}">',
        '<g class="few" aria-hidden="true">', *_grounds(sheet), "</g>",
        '<g id="edges" aria-hidden="true">', *_edges(sheet, start), "</g>",
        '<g id="boxes">', *map(_box, sheet.boxes.values()), "</g>", "</svg>",
    ]  # fmt: skip
    return "\n".join(lines)


def _grounds(sheet: Sheet) -> Iterator[str]:
    for number, (name, y, tall) in enumerate(sheet.bands):
        if number % 2 == 0:
            top = f'y="{y - tall / 2 - 7:.1f}"'
            yield f'<rect class="band" {top} width="{sheet.width:.1f}" height="{tall + 14:.1f}"/>'
        yield f'<text class="layer" x="{style.MARGIN:g}" y="{y + 3.5:.1f}">{escape(name)}</text>'
    for left, _ in sheet.columns[1:]:
        yield f'<path class="column" d="M{left:.1f},0V{sheet.height:.1f}"/>'


def _edges(sheet: Sheet, start: int) -> Iterator[str]:
    """The lines in groups, the strongest on top."""
    largest = max((line.influence for line in sheet.lines), default=0.0) or 1.0
    whole = [_line(line, i, start, largest) for i, line in enumerate(sheet.lines)]
    for first in reversed(range(0, len(whole), GROUP)):
        yield '<g class="off">' if first >= start else "<g>"
        yield from reversed(whole[first : first + GROUP])
        yield "</g>"


def _line(line: Line, number: int, start: int, largest: float) -> str:
    names = ["e", "p"] + ["minus"] * (line.weight < 0)
    names += ["off"] * (number - number % GROUP < start <= number)
    first, *rest = (f"{x:.1f},{y:.1f}" for x, y in line.points)
    return (
        f'<path class="{" ".join(names)}" data-i="{number}" opacity="0.6" '
        f'stroke-width="{width_of(line.influence / largest):g}" d="M{first}C{" ".join(rest)}"/>'
    )


def _box(box: Box) -> str:
    kind = KIND.get(box.kind, "mlp")
    dark = kind in ("input", "logits")
    fill = "" if dark or kind == "mlp" else f' style="fill:{fill_of(box.kind, box.said)}"'
    names = ["n", kind, *["tinted"] * bool(fill), *["super"] * bool(box.said.get("supernode"))]
    left, top = box.x - box.width / 2, box.y - style.HEIGHT / 2
    radius = 3 if kind == "mlp" else 7
    return (
        f'<g class="{" ".join(names)}" data-n="{escape(box.name)}" tabindex="-1" role="button" '
        f'aria-pressed="false"><rect x="{left:.1f}" y="{top:.1f}" width="{box.width:.1f}" '
        f'height="{style.HEIGHT:g}" rx="{radius}"{fill}/>'
        f'<text x="{box.x:.1f}" y="{box.y + 4.2:.1f}" style="font-size:10px">'
        f"{escape(box.label)}</text></g>"
    )
