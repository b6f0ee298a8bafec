"""Circuits as pictures and as tables."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import random
import re
import shutil
import sys
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import networkx as nx
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from circuitkit.cli.main import main
from circuitkit.errors import CircuitError, OutputError
from circuitkit.graph import circuit as circuits
from circuitkit.graph.nodes import edge_name
from circuitkit.graph.published import named
from circuitkit.graph.wiring import Wiring
from circuitkit.registry import lookup, names
from circuitkit.viz import render, style
from circuitkit.viz.circuits.graphviz import as_dot

DATA = ("csv", "dot", "graphml", "json")
TEXTS = (*DATA, "svg")
BYTES = {"png": b"\x89PNG", "pdf": b"%PDF"}
GRAPHVIZ = bool(shutil.which("dot") or importlib.util.find_spec("pygraphviz"))
needs_graphviz = pytest.mark.skipif(not GRAPHVIZ, reason="neither dot nor pygraphviz is installed")
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</svg>&amp;<script>\"'\\N\\ \x00\x07 {|} -->  ü 漢 \u202e"


def name_movers() -> circuits.Circuit:
    """A small circuit of GPT-2's shape, with every kind of edge and some roles."""
    weights = {
        ("input", "m0"): 0.5,
        ("m0", "a5.h5.k"): 0.2,
        ("input", "a3.h0.q"): 0.15,
        ("a3.h0", "a8.h6.v"): 0.3,
        ("a5.h5", "a8.h6.v"): 0.4,
        ("a8.h6", "a9.h9.q"): 0.7,
        ("a8.h6", "a10.h7.q"): 0.35,
        ("m0", "a9.h9.v"): 0.1,
        ("a9.h9", "logits"): 1.0,
        ("a10.h7", "logits"): -0.6,
    }
    made = circuits.build(
        Wiring(12, 12, 12), weights, model="gpt2", task="ioi", metric="logit_diff",
        corruption="swap", method="eap", faithfulness={"value": 0.91, "low": 0.88, "high": 0.93},
    )  # fmt: skip
    made.nodes["a9.h9"]["role"] = "name mover"
    made.nodes["a10.h7"]["role"] = "negative name mover"
    return made


def dense(edges: int, wiring: Wiring, seed: int = 0) -> circuits.Circuit:
    """A circuit of so many edges, drawn at random among those of a few components."""
    rng = random.Random(seed)
    busy = set(rng.sample(wiring.writers[1:], min(60, len(wiring.writers) - 1))) | {"input"}
    pairs = [
        (writer, reader)
        for reader, upstream in zip(wiring.readers, wiring.upstream, strict=True)
        if reader in (*busy, "logits") or (reader.port and busy & set(wiring.fed(reader)))
        for writer in wiring.writers[:upstream]
        if writer in busy
    ]
    return circuits.build(wiring, {pair: rng.gauss(0, 1) for pair in rng.sample(pairs, edges)})


def texts(picture: str) -> list[str]:
    """What an SVG says, line by line."""
    return [element.text or "" for element in ElementTree.fromstring(picture).iter(f"{SVG}text")]


def drawn(picture: str) -> dict[str, list[ElementTree.Element]]:
    """The edges of an SVG: the path of each title's first word."""
    found: dict[str, list[ElementTree.Element]] = {}
    for group in ElementTree.fromstring(picture).iter(f"{SVG}g"):
        title = group.find(f"{SVG}title")
        if title is not None and title.text:
            found.setdefault(title.text.split()[0], []).append(group.find(f"{SVG}path"))
    return found


def boxes(picture: str) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of every node of an SVG."""
    found = []
    for rect in ElementTree.fromstring(picture).iter(f"{SVG}rect"):
        if rect.find(f"{SVG}title") is not None:
            x, y, width, height = (float(rect.get(k, "")) for k in ("x", "y", "width", "height"))
            found.append((x, y, x + width, y + height))
    return found


def along(path: ElementTree.Element, steps: int = 12) -> list[tuple[float, float]]:
    """Points on the cubic spline of an SVG path."""
    numbers = path.get("d", "").replace("M", "").replace("C", " ").split()
    points = [complex(*map(float, number.split(","))) for number in numbers]
    found = []
    for i in range(0, len(points) - 1, 3):
        a, b, c, d = points[i : i + 4]
        for step in range(steps + 1):
            t = step / steps
            u = 1 - t
            place = u**3 * a + 3 * u * u * t * b + 3 * u * t * t * c + t**3 * d
            found.append((place.real, place.imag))
    return found


def pictured(suffix: str, circuit: nx.DiGraph, **style: Any) -> Any:
    """The picture, or the DOT text from which Graphviz draws it."""
    return (as_dot if suffix == "dot" else lookup("formats", suffix))(circuit, **style)


@pytest.fixture
def no_graphviz(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Graphviz."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setitem(sys.modules, "pygraphviz", None)


# -- every exporter --------------------------------------------------------------------------------
def test_the_catalogue_lists_these_formats() -> None:
    assert {*TEXTS, *BYTES} <= set(names("formats"))


@pytest.mark.parametrize("suffix", BYTES)
def test_png_and_pdf_are_the_same_bytes_every_time(suffix: str) -> None:
    content = lookup("formats", suffix)(name_movers(), title="a title")
    assert content.startswith(BYTES[suffix])
    assert b"CreationDate" not in content
    assert lookup("formats", suffix)(name_movers(), title="a title") == content


def test_a_pdf_has_its_fonts_within_as_truetype_and_the_size_of_the_svg() -> None:
    content = lookup("formats", "pdf")(name_movers())
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert b"/Subtype /Image" not in content
    root = ElementTree.fromstring(lookup("formats", "svg")(name_movers()))
    page = re.search(rb"/MediaBox \[ 0 0 (\S+) (\S+) \]", content)
    assert page is not None
    sides = [float(root.get(side, "")) for side in ("width", "height")]
    assert [float(side) for side in page.groups()] == pytest.approx(sides, abs=0.1)


def test_png_shows_what_the_svg_shows_where_it_does() -> None:
    made = name_movers()
    picture = lookup("formats", "svg")(made)
    root = ElementTree.fromstring(picture)
    pixels = imread(io.BytesIO(lookup("formats", "png")(made)))[..., :3]
    sides = [float(root.get(side, "")) for side in ("height", "width")]
    assert pixels.shape[:2] == pytest.approx([side * 200 / 72 for side in sides], abs=2)

    def colour(x: float, y: float) -> np.ndarray:
        return np.asarray(pixels[int(y * 200 / 72), int(x * 200 / 72)])

    rects = list(root.iter(f"{SVG}rect"))[1:]  # the first is the paper
    for rect in rects:
        x, y, _, height = (float(rect.get(k, "")) for k in ("x", "y", "width", "height"))
        inside = colour(x + 3, y + height / 2)
        assert inside == pytest.approx(to_rgb(rect.get("fill", "")), abs=0.02)
    solid = [path for found in drawn(picture).values() for path in found]
    for path in (path for path in solid if not path.get("stroke-dasharray")):
        for x, y in along(path, 4)[1:-1]:
            strokes = pixels[int(y * 200 / 72) - 2 :, int(x * 200 / 72) - 2 :][:5, :5].reshape(
                -1, 3
            )
            wanted = 0.9 * np.array(to_rgb(path.get("stroke", ""))) + 0.1
            assert np.abs(strokes - wanted).max(1).min() < 0.25


@pytest.mark.parametrize("suffix", ["dot", "json", "pdf", "png", "svg"])
def test_a_graph_that_is_no_circuit_is_refused(suffix: str) -> None:
    with pytest.raises(CircuitError, match="wiring"):
        lookup("formats", suffix)(nx.DiGraph())


# -- what a picture shows --------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["svg", "dot"])
def test_every_edge_and_every_node_is_drawn(suffix: str) -> None:
    picture = pictured(suffix, name_movers())
    for writer, reader, weight in circuits.edges(name_movers()):
        name = edge_name(writer, reader)
        title = f"{name}  {weight:+.3g}"
        shown = title if suffix == "dot" else title.replace(">", "&gt;").replace("<", "&lt;")
        assert shown in picture
    for label in ("input", "m0", "3.0", "5.5", "8.6", "9.9", "10.7", "logits"):
        assert f">{label}<" in picture or f"label={label}" in picture or f'"{label}"' in picture


def test_colour_says_the_port_dashes_the_sign_and_width_the_weight() -> None:
    paths = {
        name: found[0] for name, found in drawn(lookup("formats", "svg")(name_movers())).items()
    }
    weights = {edge_name(w, r): weight for w, r, weight in circuits.edges(name_movers())}
    for name, path in paths.items():
        port = name[-2] if name.endswith(">") else None
        assert path.get("stroke") == (style.PORTS[port] if port else style.PLAIN)
        assert (path.get("stroke-dasharray") is not None) == (weights[name] < 0)
    ordered = sorted(paths, key=lambda name: abs(weights[name]))
    widths = [float(paths[name].get("stroke-width", "")) for name in ordered]
    assert widths == sorted(widths)
    assert 0 < widths[0] < widths[-1] == style.LINE[1]


def test_dot_says_the_same() -> None:
    lines = [line for line in as_dot(name_movers()).splitlines() if "->" in line]
    line = next(line for line in lines if '"a10.h7" -> logits' in line)
    assert "style=dashed" in line
    assert style.PLAIN in line
    assert sum("style=dashed" in line for line in lines) == 1
    line = next(line for line in lines if '"a8.h6" -> "a9.h9"' in line)
    assert style.PORTS["q"] in line
    line = next(line for line in lines if '"a9.h9" -> logits' in line)
    assert f"penwidth={style.LINE[1]:g}" in line


@pytest.mark.parametrize("suffix", ["svg", "dot"])
def test_legend_and_caption(suffix: str) -> None:
    picture = pictured(suffix, name_movers(), title="Who gave it?")
    said = "\n".join(texts(picture)) if suffix == "svg" else picture
    for words in ("into Q", "into K", "into V", "into an MLP or the logits", "negative weight",
                  "|weight| 1", "name mover", "negative name mover", "model: gpt2", "task: ioi",
                  "metric: logit_diff", "method: eap", "10 edges of the model's 32,491",
                  "faithfulness 0.91 [0.88, 0.93]", "Who gave it?"):  # fmt: skip
        assert words.replace("'", "&#x27;" if suffix == "dot" else "'") in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [((True, True), ", all measured exactly"), ((True, False), ", 1 measured exactly"),
     ((False, False), ", 0 measured exactly"), ((None, None), "2 edges of the model's 11")],
)  # fmt: skip
def test_the_caption_says_how_many_weights_are_exact(
    flags: tuple[bool | None, bool | None], words: str
) -> None:
    wiring = Wiring(1, 2, 2)
    pairs = [("input", "logits"), ("m0", "logits")]
    made = circuits.build(wiring, dict.fromkeys(pairs, 1.0))
    for (writer, reader), flag in zip(pairs, flags, strict=True):
        if flag is not None:
            made[writer][reader]["exact"] = flag
    said = " ".join(texts(lookup("formats", "svg")(made)))
    assert words.replace("11", str(wiring.n_edges)) in said
    assert ("exactly" in said) == (flags[0] is not None)


@pytest.mark.parametrize(
    "task",
    [
        "from_file(path='a/pairs.csv')",
        "from_file(path='a/pairs.csv', columns={'clean': 'x (y)'}, misfits='drop')",
    ],
)
def test_a_task_that_is_a_file_is_called_by_its_file(task: str) -> None:
    made = circuits.build(Wiring(2, 2, 2), {("input", "logits"): 1.0}, task=task, model="m")
    said = " ".join(texts(lookup("formats", "svg")(made, title=f"{task} on m: 1.00")))
    assert "task: pairs.csv" in said
    assert "pairs.csv on m: 1.00" in said
    assert "from_file" not in said


@pytest.mark.parametrize("suffix", ["svg", "dot"])
def test_the_legend_explains_only_what_is_there(suffix: str) -> None:
    made = circuits.build(Wiring(2, 2, 2), {("input", "logits"): 1.0})
    picture = pictured(suffix, made)
    for words in ("into Q", "negative weight", "K/V group", "left out", "model:", "faithfulness"):
        assert words not in picture


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.875, "faithfulness 0.875"),
        ({"value": 0.5, "random": 0.02}, "faithfulness 0.5, a random circuit 0.02"),
        ("unknown", "faithfulness unknown"),
    ],
)
def test_faithfulness_may_be_a_number_or_a_mapping(value: Any, words: str) -> None:
    made = circuits.build(Wiring(2, 2, 2), {("input", "logits"): 1.0}, faithfulness=value)
    assert words in texts(lookup("formats", "svg")(made))


def test_roles_tint_their_nodes() -> None:
    root = ElementTree.fromstring(lookup("formats", "svg")(name_movers()))
    fills = {
        rect.findtext(f"{SVG}title"): rect.get("fill")
        for rect in root.iter(f"{SVG}rect")
        if rect.find(f"{SVG}title") is not None
    }
    assert fills["a9.h9: name mover"] in style.ROLES
    assert fills["a10.h7: negative name mover"] in style.ROLES
    assert fills["a9.h9: name mover"] != fills["a10.h7: negative name mover"]
    assert fills["a8.h6"] == style.PAPER


def test_more_roles_than_colours_are_counted() -> None:
    wiring = Wiring(1, 12, 12)
    heads = [f"a0.h{head}" for head in range(12)]
    made = circuits.build(wiring, {(head, "logits"): 1.0 for head in heads})
    for head in heads:
        made.nodes[head]["role"] = f"role of {head}"
    assert f"{12 - len(style.ROLES)} more roles" in texts(lookup("formats", "svg")(made))


@pytest.mark.parametrize("suffix", ["svg", "dot"])
def test_only_the_strongest_edges_that_hang_together_are_drawn_and_the_caption_says_so(
    suffix: str,
) -> None:
    wiring = Wiring(2, 2, 2)
    strong = {("input", "m0"): 3.0, ("m0", "m1"): 2.0, ("m1", "logits"): 4.0}
    weak = {("input", "a0.h1.q"): 5.0, ("a0.h1", "logits"): 0.5}
    picture = pictured(suffix, circuits.build(wiring, {**strong, **weak}), edges=4)
    said = " ".join(texts(picture)) if suffix == "svg" else picture
    assert "the 3 strongest of 5 edges that hang together" in said
    assert "(2 left out, |weight| at most 5)" in said
    assert "; not shown: 1 component without a drawn edge" in said
    drawn = {label: f"{label}<" in picture or f'"{label}"' in picture or f"label={label}" in picture
             for label in ("m0", "m1", "0.1")}  # fmt: skip
    assert drawn == {"m0": True, "m1": True, "0.1": False}  # 0.1 is in, or out, with both edges


def test_the_caption_of_a_part_says_how_faithful_the_part_is_where_that_was_measured() -> None:
    made = name_movers()
    assert "shown here" not in pictured("svg", made, edges=7)
    made.graph["drawn"] = {"edges": 7, "of": 10, "faithfulness": 0.634}
    said = " ".join(texts(pictured("svg", made, edges=7)))
    assert "[0.88, 0.93]; of the edges shown here alone 0.634" in said
    assert "of the edges shown here alone 0.634" in pictured("dot", made, edges=7)
    for other in (None, 6, 10):  # other parts, and the whole
        assert "shown here" not in pictured("svg", made, edges=other)
    made.remove_edge("a10.h7", "logits")  # no longer the circuit whose part it was
    assert "shown here" not in pictured("svg", made, edges=7)
    made.graph["drawn"] = "hostile"
    assert "shown here" not in pictured("svg", made, edges=7)


@pytest.mark.parametrize("edges", [0, -1, 2.5, "some"])
def test_a_number_of_edges_that_is_none_is_refused(edges: Any) -> None:
    for suffix in ("svg", "dot", "png"):
        with pytest.raises(OutputError, match="edges="):
            pictured(suffix, name_movers(), edges=edges)


def test_a_circuit_without_edges_is_embedding_and_logits() -> None:
    said = texts(lookup("formats", "svg")(circuits.build(Wiring(2, 4, 4), {})))
    assert {"input", "logits"} <= set(said)
    assert any(line.startswith("no edges of") for line in said)


def test_an_edge_into_a_group_leads_to_its_heads_that_are_drawn() -> None:
    weights = {("input", "a1.g1.k"): 1.0, ("a1.h3", "logits"): 1.0, ("a1.h5", "logits"): 1.0}
    picture = lookup("formats", "svg")(circuits.build(Wiring(3, 9, 3), weights))
    assert len(drawn(picture)["input->a1.g1<k>"]) == 2
    assert "to every head of a K/V group" in texts(picture)
    assert as_dot(circuits.build(Wiring(3, 9, 3), weights)).count("g1<k>") == 2


def test_an_edge_into_a_group_without_heads_leads_to_the_group() -> None:
    made = circuits.build(Wiring(3, 9, 3), {("input", "a1.g1.k"): 1.0})
    assert "1.g1" in texts(lookup("formats", "svg")(made))


# -- how it shows it -------------------------------------------------------------------------------
CASES = {
    "ioi": name_movers(),
    "small": dense(25, Wiring(4, 4, 4)),
    "twelve layers": dense(120, Wiring(12, 12, 12)),
    "thirty layers, groups": dense(60, Wiring(30, 9, 3)),
    "parallel, no MLPs": dense(40, Wiring(6, 8, 8, mlp=False, parallel=True)),
}


@pytest.mark.parametrize("case", CASES)
def test_boxes_and_letters_stand_clear_inside_the_sheet(case: str) -> None:
    picture = lookup("formats", "svg")(CASES[case])
    for one, other in combinations(boxes(picture), 2):
        apart = one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
        assert apart, (one, other)
    root = ElementTree.fromstring(picture)
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    for left, top, right, bottom in boxes(picture):
        assert 0 < left < right < width
        assert 0 < top < bottom < height
    for text in root.iter(f"{SVG}text"):
        assert 0 < float(text.get("y", "")) < height


@pytest.mark.parametrize("case", CASES)
def test_edges_run_upwards_and_under_no_box(case: str) -> None:
    picture = lookup("formats", "svg")(CASES[case])
    solid = [(x0 + 1, y0 + 1, x1 - 1, y1 - 1) for x0, y0, x1, y1 in boxes(picture)]
    for name, paths in drawn(picture).items():
        for path in paths:
            points = along(path)
            assert all(b[1] <= a[1] + 1e-6 for a, b in pairwise(points)), name
            under = [
                (x, y) for x, y in points for x0, y0, x1, y1 in solid if x0 < x < x1 and y0 < y < y1
            ]
            assert not under, name


def test_rows_stand_in_the_order_of_the_layers() -> None:
    root = ElementTree.fromstring(lookup("formats", "svg")(name_movers()))
    heights = {text.text: float(text.get("y", "")) for text in root.iter(f"{SVG}text")}
    rows = ["input", "m0", "3.0", "5.5", "8.6", "9.9", "10.7", "logits"]
    found = [heights[label] for label in rows]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == len(found)


def test_the_svg_needs_nothing_from_elsewhere() -> None:
    picture = lookup("formats", "svg")(name_movers())
    assert picture.count("http") == 1  # the namespace
    assert "href" not in picture
    assert "url(" not in picture
    assert f'fill="{style.PAPER}"' in picture.splitlines()[1]


@pytest.mark.parametrize("suffix", ["svg", "graphml"])
def test_hostile_words_break_no_xml(suffix: str) -> None:
    made = name_movers()
    made.graph.update(model=HOSTILE, faithfulness=HOSTILE, note={"a": [HOSTILE]})
    made.nodes["a9.h9"]["role"] = HOSTILE
    style = {"title": HOSTILE} if suffix == "svg" else {}
    picture = lookup("formats", suffix)(made, **style)
    root = ElementTree.fromstring(picture)
    assert not list(root.iter("script"))
    assert not list(root.iter(f"{SVG}script"))
    assert "ü 漢" in "".join(root.itertext())


@pytest.mark.parametrize("engine", ["builtin", pytest.param("dot", marks=needs_graphviz)])
@pytest.mark.parametrize("words", [HOSTILE, "<b>", "%s \\G \\l", "<", "$x_1$"])
def test_hostile_words_break_no_picture(words: str, engine: str) -> None:
    made = name_movers()
    made.graph.update(model=words)
    made.nodes["a9.h9"]["role"] = words
    for suffix, start in BYTES.items():
        content = lookup("formats", suffix)(made, title=words, engine=engine)
        assert content.startswith(start)


def test_long_words_are_cut() -> None:
    made = name_movers()
    made.graph["model"] = "x" * 10_000
    made.nodes["a9.h9"]["role"] = "y" * 10_000
    picture = lookup("formats", "svg")(made, title="z" * 10_000)
    assert "…" in picture
    assert not any(letter * 200 in picture for letter in "xyz")


def test_a_large_circuit_shows_its_forty_strongest_edges_or_all() -> None:
    made = dense(400, Wiring(12, 12, 12))
    svg = lookup("formats", "svg")
    strongest = sorted(circuits.edges(made), key=lambda edge: -abs(edge[2]))[:40]
    assert set(drawn(svg(made))) == {edge_name(w, r) for w, r, _ in strongest}
    assert "(360 left out, |weight| at most" in svg(made)
    assert len(drawn(svg(made, edges="all"))) == 400


@pytest.mark.parametrize("inches", [3.3, 7])
def test_a_column_of_a_paper_is_filled_in_letters_of_seven_points(inches: float) -> None:
    made = dense(60, Wiring(6, 4, 4))
    picture = ElementTree.fromstring(lookup("formats", "svg")(made, width=inches))
    assert float(picture.attrib["width"]) == pytest.approx(72 * inches, abs=0.1)
    sizes = [
        float(text.attrib["font-size"]) for text in picture.iter() if "font-size" in text.attrib
    ]
    assert min(sizes) >= 7 - 1e-4
    assert max(sizes) <= 12


def test_what_does_not_fit_a_column_is_refused() -> None:
    svg = lookup("formats", "svg")
    with pytest.raises(OutputError, match=r"the picture is \d+\.\d inches wide, and not 2"):
        svg(dense(400, Wiring(12, 12, 12)), edges=200, width=2)
    for width in (0, -3.3, "wide", float("nan"), True):
        with pytest.raises(OutputError, match="width="):
            svg(name_movers(), width=width)
    with pytest.raises(OutputError, match="engine='dot'"):
        svg(name_movers(), width=3.3, engine="dot")


def test_a_line_of_a_quarter_of_the_weight_is_wider_than_a_quarter() -> None:
    thin, thick = style.LINE
    assert style.line_width(4.0, 4.0) == thick
    assert style.line_width(0.0, 4.0) == thin
    assert style.line_width(-1.0, 4.0) == pytest.approx(thin + (thick - thin) / 2, abs=0.01)


def test_dot_is_told_to_hurry_only_above_some_hundred_edges() -> None:
    made = dense(400, Wiring(12, 12, 12))
    assert "splines=line" not in as_dot(made)
    assert "splines=line" in as_dot(made, edges=400)


# -- Graphviz, there or not ------------------------------------------------------------------------
def test_nothing_but_its_own_layout_needs_graphviz(no_graphviz: None) -> None:
    for suffix in TEXTS:
        assert "logits" in lookup("formats", suffix)(name_movers())
    for suffix, start in BYTES.items():
        assert lookup("formats", suffix)(name_movers()).startswith(start)


@pytest.mark.parametrize("suffix", ["svg", *BYTES])
def test_without_graphviz_the_remedy_is_named(suffix: str, no_graphviz: None) -> None:
    with pytest.raises(OutputError, match=r"pip install pygraphviz.*engine='builtin'"):
        lookup("formats", suffix)(name_movers(), engine="dot")


@needs_graphviz
def test_graphviz_lays_out_on_request() -> None:
    for suffix, start in BYTES.items():
        assert lookup("formats", suffix)(name_movers(), engine="dot").startswith(start)
    picture = lookup("formats", "svg")(name_movers(), engine="dot")
    root = ElementTree.fromstring(picture)
    assert "Graphviz" in picture or "graphviz" in picture
    assert {"9.9", "logits"} <= set(texts(picture))
    assert root.tag == f"{SVG}svg"


@pytest.mark.skipif(not importlib.util.find_spec("pygraphviz"), reason="no pygraphviz")
def test_pygraphviz_stands_in_for_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert {"9.9", "logits"} <= set(texts(lookup("formats", "svg")(name_movers(), engine="dot")))


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_an_unknown_engine_is_refused(suffix: str) -> None:
    with pytest.raises(OutputError, match=r"'magic'.*builtin, dot"):
        lookup("formats", suffix)(name_movers(), engine="magic")


@pytest.mark.parametrize(
    ("child", "words"),
    [
        ("import time; time.sleep(60)", "within"),
        ("import sys; sys.exit('no such luck')", "no such luck"),
        ("import os; os.abort()", "cannot draw"),
        ("", "cannot draw"),
    ],
)
def test_a_graphviz_that_hangs_or_breaks_is_reported(
    child: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "PATIENCE", 5.0 if words != "within" else 0.1)
    monkeypatch.setattr(render, "_command", lambda *_: [sys.executable, "-c", child])
    with pytest.raises(OutputError, match=words):
        lookup("formats", "png")(name_movers(), engine="dot")


# -- tables ----------------------------------------------------------------------------------------
def test_csv_lists_every_edge_the_strongest_first() -> None:
    made = name_movers()
    for _, data in made.nodes(data=True):
        data.clear()
    rows = list(csv.reader(io.StringIO(lookup("formats", "csv")(made))))
    assert rows[0] == ["writer", "reader", "edge", "weight"]
    expected = {(w, r, edge_name(w, r), x) for w, r, x in circuits.edges(name_movers())}
    assert {(w, r, name, float(x)) for w, r, name, x in rows[1:]} == expected
    sizes = [abs(float(row[3])) for row in rows[1:]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == len(expected)


def test_json_reads_back() -> None:
    text = lookup("formats", "json")(name_movers())
    assert circuits.to_json(circuits.from_json(text)) == text


def test_graphml_reads_back_with_what_it_has_no_type_for_as_json() -> None:
    made = name_movers()
    made.graph["settings"] = {"steps": 5, "of": [1, None, Path("x")]}
    made["a9.h9"]["logits"]["extra"] = None
    read = nx.parse_graphml(lookup("formats", "graphml")(made))
    assert set(read.edges) == {(str(a), str(b)) for a, b in made.edges}
    assert read.edges["a9.h9", "logits"]["weight"] == 1.0
    assert read.nodes["a9.h9"]["role"] == "name mover"
    assert read.graph["settings"] == '{"steps": 5, "of": [1, null, "x"]}'


# -- files -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", TEXTS)
def test_saving_and_drawing_go_by_the_suffix(suffix: str, tmp_path: Path) -> None:
    made, place = name_movers(), tmp_path / "deep" / f"circuit.{suffix.upper()}"
    path = made.save(place) if suffix in DATA else made.draw(place)
    assert path.read_text(encoding="utf-8") == lookup("formats", suffix)(name_movers())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_drawing_hands_the_style_on(tmp_path: Path) -> None:
    path = name_movers().draw(str(tmp_path / "circuit.svg"), edges=2, title="two")
    assert path.read_text(encoding="utf-8") == lookup("formats", "svg")(
        name_movers(), edges=2, title="two"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.sgv", "did you mean 'svg'"),
        ("x.docx", "graphml"),
        ("x", "no suffix"),
        ("x.", "no suffix"),
    ],
)
def test_an_unknown_suffix_is_refused_with_the_known_ones(
    name: str, words: str, tmp_path: Path
) -> None:
    for write in (name_movers().save, name_movers().draw):
        with pytest.raises(OutputError, match=words) as caught:
            write(tmp_path / name)
        assert all(suffix in str(caught.value) for suffix in (*TEXTS, *BYTES))
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [*TEXTS, *BYTES])
def test_a_picture_is_not_saved_and_a_file_not_drawn(suffix: str, tmp_path: Path) -> None:
    made, place = name_movers(), tmp_path / f"x.{suffix}"
    wrong, right = (made.draw, "save") if suffix in DATA else (made.save, "draw")
    for path, format in ((place, None), (tmp_path / "x.txt", suffix)):
        with pytest.raises(OutputError, match=rf"with circuit\.{right}\('.*x\.") as caught:
            wrong(path, format=format)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_unknown_style_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"'edgs'.*edges"):
        name_movers().draw(tmp_path / "x.svg", edgs=3)


def test_another_format_than_the_suffix_may_be_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def names(circuit):\n    return ' '.join(sorted(circuit))\n")
    for write in (name_movers().save, name_movers().draw):
        path = write(tmp_path / "c.txt", format=f"{mine}:names")
        assert path.read_text() == " ".join(sorted(name_movers()))
    assert name_movers().save(tmp_path / "c", format="csv").read_text().startswith("writer,")
    target = str(tmp_path / "d.txt")
    for asked in ("csv", f"{mine}:names"):
        assert main(["draw", "docstring:acdc", "-o", target, "--format", asked]) == 0
        assert "a3.h0" in Path(target).read_text()
    assert main(["draw", "docstring:acdc", "-o", target, "--format", "cvs"]) == 2
    assert "did you mean 'csv'" in capsys.readouterr().err
    assert main(["draw", "docstring:acdc", "-o", str(tmp_path / "c.csv"), "--edges", "3"]) == 2
    assert "leave out --edges, --title, --width and --beside" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken.svg").mkdir()
    with pytest.raises(OutputError, match=r"taken\.svg"):
        name_movers().draw(tmp_path / "taken.svg")
    assert [file.name for file in tmp_path.iterdir()] == ["taken.svg"]


def test_a_picture_that_fails_leaves_the_old_file(no_graphviz: None, tmp_path: Path) -> None:
    old = tmp_path / "circuit.png"
    old.write_bytes(b"old")
    with pytest.raises(OutputError):
        name_movers().draw(old, engine="dot")
    assert old.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["circuit.png"]


# -- what is left out ------------------------------------------------------------------------------
def test_a_saved_circuit_is_all_there(tmp_path: Path) -> None:
    """Every edge, node and attribute, of more edges than a picture shows."""
    made = dense(400, Wiring(12, 12, 12))
    made.graph.update(model="gpt2", settings={"steps": 5})
    made["input"][next(iter(made["input"]))]["exact"] = True
    made.nodes["logits"]["role"] = 'the "end" \\'
    assert parts(circuits.Circuit.load(made.save(tmp_path / "c.json"))) == parts(made)
    for found in (nx.read_graphml(made.save(tmp_path / "c.graphml")),
                  from_dot(made.save(tmp_path / "c.dot").read_text())):  # fmt: skip
        assert set(found) == set(made)
        assert set(found.edges) == set(made.edges)
        assert found.nodes["logits"]["role"] == 'the "end" \\'
        assert found.graph["model"] == "gpt2"
        assert json.loads(found.graph["settings"]) == {"steps": 5}
        for writer, reader, weight in circuits.edges(made):
            assert float(found[writer][reader]["weight"]) == weight
            exact = made[writer][reader].get("exact")
            assert str(found[writer][reader].get("exact")).lower() == str(exact).lower()
    rows = list(csv.DictReader(io.StringIO(made.save(tmp_path / "c.csv").read_text())))
    assert len(rows) == 400
    assert sum(row["exact"] == "True" for row in rows) == 1
    assert {row["reader_role"] for row in rows if row["reader"] == "logits"} == {'the "end" \\'}


def parts(circuit: nx.DiGraph) -> tuple[Any, ...]:
    return dict(circuit.graph), dict(circuit.nodes(data=True)), dict(circuit.adj)


def from_dot(text: str) -> nx.DiGraph:
    """What a DOT file says, where every name and value is quoted."""
    quoted = r'"((?:[^"\\]|\\.)*)"'
    graph: nx.DiGraph = nx.DiGraph()

    def plain(value: str) -> str:
        return value.replace('\\"', '"').replace("\\\\", "\\")

    for line in text.splitlines():
        own = {plain(k): plain(v) for k, v in re.findall(f"{quoted}={quoted}", line)}
        if line.startswith("graph ["):
            graph.graph.update(own)
        elif found := re.match(f"{quoted} -> {quoted}", line):
            graph.add_edge(*found.groups(), **own)
        elif found := re.match(f"{quoted} \\[", line):
            graph.add_node(found[1], **own)
    return graph


@needs_graphviz
def test_a_saved_dot_file_is_one_that_graphviz_draws() -> None:
    text = lookup("formats", "dot")(name_movers())
    assert {"a9.h9", "a9.h9.q", "logits"} <= set(texts(render.laid_out(text, "svg").decode()))


def test_components_without_an_edge_are_counted_in_the_caption() -> None:
    made = name_movers()
    made.add_node("a1.h1", role="spectator")
    said = " ".join(texts(lookup("formats", "svg")(made)))
    assert "; not shown: 1 component without a drawn edge" in said
    assert "not shown" not in " ".join(texts(lookup("formats", "svg")(name_movers())))


def test_edges_that_do_not_hang_together_are_not_said_to() -> None:
    weights = {("input", "m0"): 3.0, ("m0", "logits"): 2.0, ("a0.h1", "logits"): 1.0}
    picture = lookup("formats", "svg")(circuits.build(Wiring(2, 2, 2), weights), edges=2)
    said = " ".join(texts(picture))
    assert "the 2 strongest of 3 edges (1 left out, |weight| at most 1), of the model's" in said


def test_a_circuit_of_components_alone_has_no_table_or_page(tmp_path: Path) -> None:
    circuit = named("ioi:wang2022").circuit
    with pytest.raises(OutputError, match=r"no edges to draw; draw it as \.svg"):
        circuit.draw(tmp_path / "c.html")
    with pytest.raises(OutputError, match=r"no edges to draw; draw it as \.svg"):
        circuit.draw(tmp_path / "c.svg", engine="dot")
    with pytest.raises(OutputError, match=r"lists edges; save it as \.json"):
        circuit.save(tmp_path / "c.csv")
    assert not list(tmp_path.iterdir())
    assert "name mover" in texts(circuit._repr_svg_())
    assert "name mover: a9.h6, a9.h9, a10.h0" in circuit._repr_html_()


def test_a_published_circuit_is_drawn_between_its_roles_by_its_method_too(tmp_path: Path) -> None:
    path = named("ioi:acdc").circuit.draw(tmp_path / "c.svg")
    said = " ".join(texts(path.read_text()))
    assert "183 of 963 edges, those between components with roles (780 left out)" in said
    everything = named("greater_than:acdc").circuit.draw(tmp_path / "all.svg", edges=235, title="")
    assert len(drawn(everything.read_text())) == 235


def test_lines_without_weights_are_alike_and_no_weight_is_explained() -> None:
    circuit = named("docstring:acdc").circuit
    weighted = circuit.copy()
    weighted.graph.pop("unweighted")
    plain, thick = (lookup("formats", "svg")(one) for one in (circuit, weighted))
    assert "|weight|" in thick
    assert "|weight|" not in plain
    widths = [set(re.findall(r'stroke-width="([^"]+)"', one)) for one in (plain, thick)]
    assert widths[0] != widths[1]
