"""The picture of an attribution graph, as shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from circuitkit.graph.types import Graph
from circuitkit.viz import style
from circuitkit.viz.shapes import Curve, Rect, Scene, Shape, Text, moved
from circuitkit.viz.traces.layout import Box, Sheet, lay_out

__all__ = ["about", "described", "fill_of", "scene"]

RAISES, LOWERS = style.SIDES[0][1], style.SIDES[2][1]  # behind nodes, by the sign of their total
DARK, GROUPED = "#444444", "#009e73"  # boxes; around those of one supernode
PLUS, MINUS = style.PLAIN, style.SIDES[2][0]
HEAD, STEP = 26.0, 15.0  # the height of the title, and of a line below


def scene(
    graph: Graph, edges: int | None = None, title: str | None = None, notes: Sequence[str] = ()
) -> Scene:
    """The graph as a picture: lines as thick as what of the target goes through an edge, dashed
    where the weight is negative; nodes blue where they raise the target, orange where they lower
    it."""
    sheet = lay_out(graph, edges)
    heading = style.plain(title or graph.graph.get("prompt", "An attribution graph"), 160)
    legend = f"{LEGEND} {FRAMED}" if sheet.groups else LEGEND
    foot = [*about(graph, len(sheet.lines)), *notes, legend]
    wide = max(
        sheet.width, style.MARGIN * 2 + max(style.text_width(own, style.SMALL) for own in foot)
    )
    shapes: list[Shape] = [Text(style.MARGIN, HEAD / 2 + 4, heading, style.HEADING, bold=True)]
    shapes += [moved(shape, 0, HEAD) for shape in _drawn(sheet, wide)]
    for number, line in enumerate(foot):
        y = HEAD + sheet.height + STEP * (number + 0.5)
        shapes.append(Text(style.MARGIN, y, line, colour=style.PLAIN))
    height = HEAD + sheet.height + STEP * len(foot) + style.MARGIN / 2
    return Scene(wide, height, tuple(shapes))


LEGEND = (
    "Line: what of the target's |weight| goes through it; dashed, negative. Box: blue raises the "
    "target, orange lowers it; grey, what features leave over."
)

FRAMED = "Green: a supernode."


def _drawn(sheet: Sheet, wide: float) -> Iterator[Shape]:
    for number, (name, y, height) in enumerate(sheet.bands):
        if number % 2 == 0:
            yield Rect(wide / 2, y, wide, height + 14, fill=style.BAND)
        yield Text(style.MARGIN, y, name, colour=style.FAINT)
    largest = max((line.influence for line in sheet.lines), default=0.0)
    for line in reversed(sheet.lines):
        yield Curve(
            line.points, PLUS if line.weight >= 0 else MINUS,
            style.line_width(line.influence, largest), dashed=line.weight < 0, opacity=0.6,
            title=f"{line.start} → {line.to}: {line.weight:+.3g}",
        )  # fmt: skip
    for group in sheet.groups:
        yield Rect(
            group.x, group.y, group.width + 5, style.HEIGHT + 5, style.PAPER, GROUPED, radius=9.0,
            title=f"supernode {style.plain(group.name)}",
        )  # fmt: skip
    for box in sheet.boxes.values():
        yield from _box(box)


def _box(box: Box) -> Iterator[Shape]:
    dark = box.kind in ("token", "logit")
    yield Rect(
        box.x, box.y, box.width, style.HEIGHT, fill_of(box.kind, box.said), DARK,
        radius=3.0 if box.kind in ("error", "rest") else 7.0, title=described(box.name, box.said),
    )  # fmt: skip
    yield Text(
        box.x, box.y, box.label, 10.0, style.PAPER if dark else style.INK, "middle", bold=dark
    )


def fill_of(kind: str, said: Mapping[str, object]) -> str:
    """The colour of a node."""
    if kind in ("token", "logit"):
        return DARK
    if kind in ("error", "rest"):
        return style.KINDS["mlp"]
    total = said.get("total")
    return LOWERS if isinstance(total, float) and total < 0 else RAISES


def described(name: str, said: Mapping[str, object]) -> str:
    """A node in words: its activation, and what it adds to the target."""
    parts = [name]
    label = said.get("label")
    if label and said.get("kind") not in ("token", "logit"):
        parts.append(str(label))
    words = (("value", "activation"), ("total", "adds by the graph"),
             ("live", "by the model's gradient"))  # fmt: skip
    for key, word in words:
        value = said.get(key)
        if isinstance(value, float) and value == value and (key != "value" or value):
            parts.append(f"{word} {value:{'.3g' if key == 'value' else '+.3g'}}")
    return ", ".join(parts)


def about(graph: Graph, edges: int) -> list[str]:
    """What the graph says of itself, in lines."""
    own = graph.graph
    counts: dict[str, int] = {}
    for _, data in graph.nodes(data=True):
        counts[str(data.get("kind"))] = counts.get(str(data.get("kind")), 0) + 1
    of = f" of {own['of']:,} nodes, {own['of_edges']:,} edges" if own.get("of_edges") else ""
    more = f"; the strongest {edges:,} are drawn" if edges < graph.number_of_edges() else ""
    said = [
        f"{own.get('target', 'the target')} = {float(own.get('value', 0.0)):.3f} on "
        f"{own.get('model', '?')}",
        f"{counts.get('feature', 0):,} features, {counts.get('error', 0):,} errors, "
        f"{graph.number_of_edges():,} edges{of}{more}",
    ]
    scores = [f"{key} {own[key]:.2f}" for key in ("replacement", "completeness")
              if isinstance(own.get(key), float)]  # fmt: skip
    if scores:
        said.append(", ".join([*scores, f"norms {own.get('norms', 'frozen')}"]))
    return [style.plain(line, 200) for line in said]
