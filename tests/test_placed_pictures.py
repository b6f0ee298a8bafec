"""Pictures along a prompt: everything is drawn, in its cell, and legible in a paper's column."""

from __future__ import annotations

import json
import re
from functools import cache
from itertools import combinations, pairwise

import numpy as np
import pytest

from circuitkit.errors import CircuitError, OutputError
from circuitkit.graph.circuit import Circuit, edges
from circuitkit.graph.nodes import Node, edge_name
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.placed_walks import drawn_places
from circuitkit.graph.places import Places
from circuitkit.graph.wiring import Wiring
from circuitkit.registry import lookup
from circuitkit.viz.canvas import INCH
from circuitkit.viz.circuits.pictured import pictured
from circuitkit.viz.shapes import Curve, Rect, Scene, Text
from circuitkit.viz.style import SIDES

WORDS = [
    ["first", "<bos>"], ["before S1", "When"], ["S1", "Mary"], ["IO", "John"],
    ["between", "went to the store,"], ["S2", "Mary"], ["end", "to"],
]  # fmt: skip
HOSTILE = "</script><script>alert(1)</script>"
SPANS = tuple(span for span, _ in WORDS)
WIRINGS = {
    "mini": Wiring(4, 4, 4),
    "grouped": Wiring(30, 9, 3),
    "experts": Wiring(2, 2, 2, experts=(3, 2), shared=True),
    "bare": Wiring(4, 8, 8, mlp=False),
}
SIZES = {"mini": (40, 20), "grouped": (30, 15), "experts": (20, 6), "bare": (12, 5)}


def drawn_at_random(name: str, seed: int = 0) -> Circuit:
    return Circuit(made_at_random(name, seed))


@cache
def made_at_random(name: str, seed: int) -> Circuit:
    n = len(SPANS)
    places = Places(WIRINGS[name], SPANS, np.triu(np.ones((n, n), bool)), np.arange(n) == n - 1)
    rng, legal = np.random.default_rng(seed), places.legal
    tables = [rng.standard_normal(own.shape) for own in (legal.residual, legal.attention)]
    (mask,) = drawn_places(places, *SIZES[name], 1, seed)
    circuit = PlacedScores(places, *tables).circuit(mask, words=WORDS, task="ioi")
    for number, node in enumerate(sorted(own for own in circuit if Node(own).is_head)):
        circuit.nodes[node]["role"] = ("mover", "inhibition")[number % 2]
    return circuit


@pytest.fixture(params=WIRINGS)
def circuit(request: pytest.FixtureRequest) -> Circuit:
    return drawn_at_random(request.param)


@pytest.fixture(params=[None, 5.0], ids=["roomy", "tight"])
def scene(circuit: Circuit, request: pytest.FixtureRequest) -> Scene:
    return pictured(circuit, "all", None, request.param, None, None)


def boxes(scene: Scene) -> dict[str, Rect]:
    rects = [shape for shape in scene.shapes if isinstance(shape, Rect) and shape.title]
    return {rect.title.partition(":")[0]: rect for rect in rects}


def test_every_edge_is_drawn_or_lies_within_its_head(circuit: Circuit, scene: Scene) -> None:
    titles = [curve.title.partition("  ")[0] for curve in scene.shapes if isinstance(curve, Curve)]
    for writer, reader, _ in edges(circuit):
        if writer.port and writer.span == reader.span:
            continue
        assert edge_name(writer, reader) in titles
    apart = {str(w)[: str(w).rindex(".")] + "@" + str(w.span) for w, r, _ in edges(circuit)
             if w.port and w.span != r.span}  # fmt: skip
    read = {name.replace(".kv@", "@") for name in boxes(scene) if ".kv@" in name}
    assert read == apart  # what a head reads at its own place alone leads into the head
    ends = [end for edge in edges(circuit) for end in edge[:2] if end.port not in ("k", "v")]
    fed = {"m0", "m1"} if circuit.graph["wiring"].get("experts") else set()  # those are boxes
    assert set(boxes(scene)) >= {str(end.component) for end in ends if end.plain not in fed}


def test_no_two_boxes_touch_and_all_lie_in_the_picture(scene: Scene) -> None:
    for one, other in combinations(boxes(scene).values(), 2):
        apart = abs(one.x - other.x) >= (one.width + other.width) / 2 - 1e-6
        assert apart or abs(one.y - other.y) >= (one.height + other.height) / 2 - 1e-6
    for rect in boxes(scene).values():
        assert rect.width / 2 <= rect.x <= scene.width - rect.width / 2
        assert rect.height / 2 <= rect.y <= scene.height - rect.height / 2
    for shape in scene.shapes:
        if isinstance(shape, Curve):
            assert all(-0.1 <= x <= scene.width + 0.1 for x, _ in shape.points)


def test_words_stand_below_the_places_of_their_span(circuit: Circuit, scene: Scene) -> None:
    texts = {shape.text: shape.x for shape in scene.shapes if isinstance(shape, Text)}
    rects = boxes(scene)
    spans = sorted({name.partition("@")[2] for name in rects}, key=SPANS.index)
    middles = {}
    for span in spans:
        own = [rect for name, rect in rects.items() if name.partition("@")[2] == span]
        middles[span] = (
            min(r.x - r.width / 2 for r in own), max(r.x + r.width / 2 for r in own)
        )  # fmt: skip
    for one, other in pairwise(spans):
        assert middles[one][1] < middles[other][0]
    low, high = middles["end"]
    assert low <= texts["end"] <= high
    assert low <= texts["to"] <= high


def test_a_later_layer_stands_higher(scene: Scene) -> None:
    heights: dict[tuple[int, bool], list[float]] = {}
    for name, rect in boxes(scene).items():
        node = Node(name) if ".kv@" not in name else None
        if node is not None and node.layer is not None:
            heights.setdefault((node.layer, node.is_mlp), []).append(rect.y)
    order = sorted(heights)
    for one, other in pairwise(order):
        assert min(heights[one]) > max(heights[other])


def test_sixty_edges_are_legible_in_a_paper_column() -> None:
    circuit = drawn_at_random("mini", 3)
    circuit = circuit - (circuit - circuit)
    assert len(circuit.to_frame()) == 60
    scene = pictured(circuit, "all", None, 3.5, None, None)
    assert scene.width == pytest.approx(3.5 * INCH)
    assert min(shape.size for shape in scene.shapes if isinstance(shape, Text)) >= 7


def test_equal_circuits_give_equal_files(circuit: Circuit) -> None:
    svg = lookup("formats", "svg")
    assert svg(circuit) == svg(Circuit(circuit))


def test_other_files_show_the_same() -> None:
    circuit = drawn_at_random("bare")
    assert lookup("formats", "pdf")(circuit)[:4] == b"%PDF"
    assert lookup("formats", "png")(circuit)[1:4] == b"PNG"


def test_a_part_hangs_together_and_the_caption_says_what_is_left_out(circuit: Circuit) -> None:
    text = lookup("formats", "svg")(circuit, edges=12)
    assert re.search(r"left out", text)
    scene = pictured(circuit, 12, None, None, None, None)
    assert len({s.title for s in scene.shapes if isinstance(s, Curve) and s.title}) <= 12


def test_a_prompt_may_be_given_and_needs_places(circuit: Circuit) -> None:
    svg = lookup("formats", "svg")
    assert ">Anna<" in svg(circuit, prompt={**dict(WORDS), "S1": "Anna"})
    with pytest.raises(CircuitError, match="'S9' is not a span"):
        svg(circuit, prompt={"S9": "Anna"})
    with pytest.raises(OutputError, match="a prompt belongs to"):
        svg(circuit.collapse(), prompt={"S1": "Anna"})
    with pytest.raises(OutputError, match="does not give words by span"):
        pictured(circuit, None, None, None, None, 7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "style", [{"engine": "dot"}, {"beside": drawn_at_random("mini").collapse()}]
)
def test_what_is_drawn_without_places_says_so(style: dict[str, object]) -> None:
    with pytest.raises(CircuitError, match=r"circuit\.collapse\(\)"):
        lookup("formats", "svg")(drawn_at_random("mini"), **style)


def test_two_circuits_are_drawn_one_over_the_other(circuit: Circuit) -> None:
    found = edges(circuit)
    part = Circuit(circuit)
    less = sorted(found, key=lambda edge: edge[2])[:3]
    part.remove_edges_from([edge[:2] for edge in less])
    scene = pictured(circuit, "all", None, None, part, None)
    colours = {s.title.partition("  ")[0]: s.colour for s in scene.shapes if isinstance(s, Curve)}
    only = {edge_name(*edge[:2]) for edge in less} & set(colours)
    assert only
    for name, colour in colours.items():
        if name:
            assert colour == (SIDES[0][0] if name in only else SIDES[1][0])
    other = drawn_at_random("mini" if "experts" in str(circuit) else "experts")
    with pytest.raises(CircuitError, match="other spans or models"):
        pictured(circuit, None, None, None, other, None)


def test_a_page_stands_along_the_prompt_and_holds_every_edge(circuit: Circuit) -> None:
    circuit.graph["words"] = [[span, HOSTILE if span == "S1" else text] for span, text in WORDS]
    text = lookup("formats", "html")(circuit)
    data = json.loads(re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    inner = [w for w, r, _ in edges(circuit) if w.port and w.span == r.span]
    names = {edge_name(w, r) for w, r, _ in edges(circuit)}
    assert set(data["edges"]["name"]) <= names
    assert len(names) - len(inner) <= len(data["edges"]["name"]) == data["of"]
    assert text.count('class="n ') == len(data["boxes"])
    assert HOSTILE not in text
    assert "<iframe" in circuit._repr_html_()
    with pytest.raises(OutputError, match="a prompt belongs to"):
        lookup("formats", "html")(circuit.collapse(), prompt={"S1": "Anna"})


def test_without_words_the_spans_stand_alone(circuit: Circuit) -> None:
    del circuit.graph["words"]
    assert ">end<" in lookup("formats", "svg")(circuit)
