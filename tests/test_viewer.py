"""The page of a circuit: what is in it, and what it does in a browser."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from html import unescape
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import networkx as nx
import numpy as np
import pytest
from browser import MISSING, Page, chromium
from test_placed_pictures import drawn_at_random
from test_traces import by_hand

from circuitkit.cli.main import main
from circuitkit.errors import CircuitError, OutputError
from circuitkit.features.describing import Feature, Shown
from circuitkit.graph.circuit import Circuit, build, edges, mask
from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring
from circuitkit.registry import lookup
from circuitkit.viz import viewer
from circuitkit.viz.circuits.choice import SIZES, chosen, drawn_part, nested, smaller_parts
from circuitkit.viz.circuits.drawing import drawing
from circuitkit.viz.viewer.picture import picture

WIRING = Wiring(4, 4, 2)
HOSTILE = (
    "</script><script>document.title='owned'</script>\"'><img src=x onerror=alert(1)> "
    "\u202eالعربية 🎭 <!-- ${x} {{ 7 * 7 }}"
)
FOLDER = Path(viewer.__file__).parent
BESIDE = ("attention.js", "features.js")  # scripts of what a page says of a box


def circuit_of(n: int = 120, seed: int = 0, **about: object) -> Circuit:
    """A circuit with all that an edge can say, roles, and measured sizes."""
    values = np.random.default_rng(seed).standard_normal(WIRING.shape) ** 3
    made = Scores(WIRING, values).top(n)
    said = {
        "model": "tiny", "task": "ioi", "metric": "logit_diff", "method": "eap_ig",
        "faithfulness": {"value": 0.9, "low": 0.85, "high": 0.95},
        "sizes": {"12": {"value": 0.2, "low": 0.1, "high": 0.3}, "50": {"value": 0.5}},
    }  # fmt: skip
    made.graph.update({**said, **about})
    for k, (writer, reader, weight) in enumerate(sorted(edges(made), key=lambda e: e[:2])):
        made[writer][reader].update(
            frequency=k % 11 / 10, core=k % 11 == 10, low=weight - 0.1, high=weight + 0.1,
            exact=k % 3 == 0, q=0.01,
        )  # fmt: skip
    for name, role in zip(made.heads, ("mover", "inhibition", "mover"), strict=False):
        made.nodes[name]["role"] = role
    return made


def data_of(text: str) -> dict[str, object]:
    """The data in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found
    held: dict[str, object] = json.loads(found[1])
    return held


# -- what is in the page ---------------------------------------------------------------------------
def test_the_script_is_small_and_asks_for_nothing() -> None:
    script = (FOLDER / "viewer.js").read_bytes()
    assert len(script) <= 30_000
    sheet = (FOLDER / "viewer.css").read_text(encoding="utf-8")
    beside = [(FOLDER / name).read_text(encoding="utf-8") for name in BESIDE]
    assert sum(map(len, beside)) <= 4_000
    for text in (script.decode(), sheet, *beside):
        assert not re.search(
            r"fetch\(|XMLHttp|WebSocket|import |@import|url\(|innerHTML|eval", text
        )
    addresses = set(re.findall(r"https?://[^\s\"'`)]+", script.decode() + sheet))
    assert addresses <= {"http://www.w3.org/2000/svg"}


def test_the_policy_of_the_page_allows_its_own_script_alone() -> None:
    text = lookup("formats", "html")(circuit_of())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert re.search(r"script-src 'sha256-[\w+/=]+';", policy[1])
    assert "unsafe-eval" not in policy[1]


def test_the_page_holds_every_edge_with_its_numbers() -> None:
    made = circuit_of()
    held = data_of(lookup("formats", "html")(made))
    found = held["edges"]
    assert isinstance(found, dict)
    frame = made.to_frame().set_index(["writer", "reader"])
    assert len(found["name"]) == len(frame) == 120
    incoming = frame["weight"].abs().groupby("reader").sum()
    for i, name in enumerate(found["name"]):
        writer, _, rest = name.partition("->")
        reader = rest.replace("<", ".").rstrip(">")
        own = frame.loc[writer, reader]
        assert found["weight"][i] == pytest.approx(own["weight"], rel=1e-3)
        assert found["frequency"][i] == pytest.approx(own["frequency"])
        assert found["share"][i] == pytest.approx(abs(own["weight"]) / incoming[reader], abs=2e-3)
        assert found["exact"][i] == own["exact"]
    assert [size["n"] for size in held["sizes"]] == [12, 50, 120]  # type: ignore[attr-defined]


def test_the_parts_of_an_order_hang_together_and_are_nested() -> None:
    wiring = Wiring(6, 4, 2)
    made = Scores(wiring, np.random.default_rng(1).standard_normal(wiring.shape)).top(300)
    order = nested(chosen(made, "all").shown, wiring)
    assert sorted(order) == sorted(chosen(made, "all").shown)
    parts = smaller_parts(made)
    assert list(parts) == [size for size in SIZES if size < 300]
    drawn = drawn_part(made)
    assert drawn is not None
    for size, part in parts.items():
        assert part.sum() == size
        assert (wiring.alive(part) == part).all()
    for small, large in pairwise(parts.values()):
        assert not (small & ~large).any()
    assert smaller_parts(circuit_of(12)) == {}


def test_only_what_was_measured_has_a_faithfulness() -> None:
    made = circuit_of(sizes={"12": None, "x": 0.3, "50": {"value": "hostile"}, "999": 0.4})
    made.graph["faithfulness"] = "high"
    assert data_of(lookup("formats", "html")(made))["sizes"] == []
    found = data_of(lookup("formats", "html")(made, searched={30: 0.7}))["sizes"]
    assert found == [{"n": 30, "other": True, "value": 0.7}]


def test_a_page_of_two_circuits_says_where_each_edge_comes_from() -> None:
    one, other = circuit_of(60), circuit_of(60, seed=1, method="eap")
    held = data_of(lookup("formats", "html")(one, beside=other))
    found = held["edges"]
    assert isinstance(found, dict)
    a, b = mask(one), mask(other)
    counts = [int((a & ~b).sum()), int((a & b).sum()), int((b & ~a).sum())]
    assert [found["side"].count(side) for side in (0, 1, 2)] == counts
    assert [side["count"] for side in held["sides"]] == counts  # type: ignore[attr-defined]
    assert held["title"] == "eap_ig and eap"
    assert held["sizes"] == []
    with pytest.raises(CircuitError, match="different models"):
        lookup("formats", "html")(one, beside=build(Wiring(2, 2, 2), {}))


def test_words_of_a_prompt_stand_at_the_foot() -> None:
    made = drawing(circuit_of(10), None, None)
    order = list(made.edges)
    svg = picture(made, order, len(order), (), [("Mary <b>", 0.0, 80.0), ("John", 80.0, 160.0)]).svg
    root = ElementTree.fromstring(svg)
    words = [own.text for own in root.iter() if own.get("class") == "word"]
    assert words == ["Mary <b>", "John"]


def test_attention_that_is_not_a_pattern_is_refused() -> None:
    with pytest.raises(OutputError, match="attention is not a pattern"):
        lookup("formats", "html")(circuit_of(10), attention={"tokens": 3})


def test_a_notebook_shows_the_page_in_a_frame_that_reaches_nothing() -> None:
    shown = circuit_of(30)._repr_html_()
    frame = re.search(r'<iframe sandbox="([^"]*)" [^>]*srcdoc="([^"]*)">', shown)
    assert frame
    assert frame[1].split() == ["allow-scripts", "allow-downloads"]
    assert unescape(frame[2]).startswith("<!doctype html>")


def test_the_commands_write_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = circuit_of(20), circuit_of(20, seed=1)
    paths = [str(c.save(tmp_path / f"{i}.json")) for i, c in enumerate((one, other))]
    assert main(["view", paths[0], "-o", str(tmp_path / "c.html"), "--title", "mine"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "c.html")
    assert data_of((tmp_path / "c.html").read_text())["title"] == "mine"
    assert main(["compare", *paths, "-o", str(tmp_path / "both.html")]) == 0
    assert main(["view", paths[0], "--beside", paths[1], "-o", str(tmp_path / "b.html")]) == 0
    assert (tmp_path / "both.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_prompt_shows_what_heads_attend_to(tmp_path: Path) -> None:
    wiring = Wiring(4, 4, 4)
    made = Scores(wiring, np.random.default_rng(0).standard_normal(wiring.shape)).top(30)
    made.graph.update(model="mini")
    made.save(tmp_path / "c.json")
    text = "When Mary and John went out, John gave a ring to"
    view = ["view", str(tmp_path / "c.json"), "-o", str(tmp_path / "c.html"), "--prompt", text]
    assert main(view) == 0
    held = data_of((tmp_path / "c.html").read_text())["attention"]
    assert isinstance(held, dict)
    assert "".join(held["tokens"]).endswith(text)
    assert set(held["heads"]) == set(made.heads)
    for rows in held["heads"].values():
        for k, row in enumerate(rows):
            shares = [int(row[i : i + 2]) for i in range(0, len(row), 2)]
            assert sum(shares) == pytest.approx(100, abs=len(shares))
            assert not any(shares[k + 1 :])


# -- in a browser ----------------------------------------------------------------------------------
in_browser = pytest.mark.skipif(bool(MISSING), reason=f"no browser: {MISSING} not installed")


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def page(downloads: Path) -> Iterator[Page]:
    with chromium(downloads) as found:
        yield found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    circuit_of().draw(folder / "one.html", searched={30: 0.7})
    circuit_of(60).draw(folder / "two.html", beside=circuit_of(60, seed=1, method="eap"))
    rows = {f"a{layer}.h{head}": [[1], [0.4, 0.6]] for layer in range(4) for head in range(4)}
    drawn_at_random("mini").draw(
        folder / "places.html", beside=drawn_at_random("mini", 1),
        attention={"tokens": ["a", "b"], "heads": rows},
    )  # fmt: skip
    hostile = circuit_of(20, task=HOSTILE, model=HOSTILE)
    for name in hostile.heads:
        hostile.nodes[name]["role"] = HOSTILE
    rows = {name: [[1], [0.4, 0.6]] for name in hostile.heads}
    pattern = {"tokens": [HOSTILE, "b"], "heads": rows}
    hostile.draw(folder / "hostile.html", title=HOSTILE, attention=pattern)
    by_hand().draw(folder / "trace.html", features=[
        Feature("m0.f3", 0.25, 40, 2.0, (Shown(("a", HOSTILE, "c"), (0.0, 1.0, 2.0), 2),),
                ((HOSTILE, 1.5),), ((" low", -0.5),), HOSTILE),
    ])  # fmt: skip
    frame = circuit_of(30)._repr_html_()
    (folder / "notebook.html").write_text(f"<!doctype html><body>{frame}</body>", encoding="utf-8")
    return folder


@in_browser
@pytest.mark.parametrize("name", ["one", "two", "places", "hostile", "trace", "notebook"])
def test_a_page_opens_without_a_complaint_or_a_request(page: Page, files: Path, name: str) -> None:
    page.open(files / f"{name}.html")
    if name != "notebook":
        assert page.js("return document.documentElement.dataset.ready") == "1"
        for button in ("#as-table", "#as-table", "#theme", "#fit", "#closer"):
            page.click(button)
    time.sleep(0.1)
    assert page.log() == []
    outside = [url for url in page.requests() if not url.startswith(("file:", "data:", "about:"))]
    assert outside == []


@in_browser
def test_the_picture_fits_the_room_that_it_has(page: Page, files: Path) -> None:
    """Also in a frame, which may get its width after the page was ready."""
    page.open(files / "one.html")
    for width in (200, 400):
        page.js("document.getElementById('stage').style.width = arguments[0] + 'px'", width)
        until = time.monotonic() + 10
        wide = "return document.getElementById('picture').clientWidth"
        while not width / 2 < page.js(wide) <= width:
            assert time.monotonic() < until, (width, page.js(wide))
            time.sleep(0.02)


@in_browser
def test_a_head_at_a_place_shows_its_pattern_and_either_circuit_can_be_hidden(
    page: Page, files: Path
) -> None:
    page.open(files / "places.html")
    name = page.js("return document.querySelector('.n.head:not(.off)').dataset.n")
    page.click(f'.n[data-n="{name}"]')
    said = page.js("return document.querySelector('.pattern caption').textContent")
    assert said.startswith(f"Attention of {name.partition('@')[0]}:")
    lines = "return document.querySelectorAll('.e.s2:not(.off)').length"
    assert page.js(lines)
    page.click('[data-side="2"]')
    assert page.js(lines) == 0


@in_browser
def test_what_a_file_says_is_text(page: Page, files: Path) -> None:
    page.open(files / "hostile.html")
    shown = re.sub(r"\s+", " ", HOSTILE)
    name = page.js("return document.querySelector('.n.tinted').dataset.n")
    page.click(f'.n[data-n="{name}"]')
    page.put("#search", "</script>")
    page.click("#as-table")
    assert page.js("return document.scripts.length") == 2
    assert page.js("return document.images.length") == 0
    assert page.js("return document.title") != "owned"
    assert page.text("h1")[:30] == shown[:30]
    assert page.js("return document.querySelector('#details h2').textContent") == name
    assert page.text(".pattern tbody th")[:16] == HOSTILE.replace(" ", "·")[:16]
    assert page.log() == []


@in_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_feature_that_is_chosen_shows_its_prompts(page: Page, files: Path, theme: str) -> None:
    page.open(files / "trace.html", f"#theme={theme}")
    assert not page.js("return document.querySelector('#details .feature')")
    page.click('.n[data-n="m0.f3@1"]')
    parts = "[...document.querySelectorAll('#details .shown span, #details .shown mark')]"
    assert page.js(f"return {parts}.map((x) => x.textContent)") == [
        "a", HOSTILE.replace("\n", "⏎"), "c"
    ]  # fmt: skip
    shades = page.js(f"return {parts}.map((x) => getComputedStyle(x).backgroundColor)")
    assert len({*shades}) == 3
    assert page.js(f"return {parts}.map((x) => x.style.getPropertyValue('--a'))") == [
        "0", "0.5", "1"
    ]  # fmt: skip
    assert page.js("return [...document.querySelectorAll('#details .moved')].length") == 2
    assert page.text("#details .feature").startswith("active at 25.0% of 40 tokens of ")
    assert page.js("return document.scripts.length") == 2
    page.click('.n[data-n="m3.error@1"]')
    assert not page.js("return document.querySelector('#details .feature')")
    assert page.log() == []


@in_browser
def test_the_slider_shows_the_strongest_and_says_how_faithful_they_are(
    page: Page, files: Path
) -> None:
    page.open(files / "one.html")
    assert page.lines() == set(range(50))
    assert "Faithfulness 0.5, measured with these 50 edges" in page.text("#faithful")
    page.put("#number", 12, "change")
    assert page.lines() == set(range(12))
    assert page.text("#count").startswith("12 edges of 120 · |weight| ≥ ")
    assert "0.2 [0.1, 0.3], measured" in page.text("#faithful")
    page.put("#number", 13, "change")
    assert page.text("#faithful") == (
        "Faithfulness with 13 edges: not measured; it is 0.2 with 12, 0.5 with 50"
    )
    page.put("#size", page.js("return document.getElementById('size').max"))
    assert page.lines() == set(range(120))
    assert "0.9 [0.85, 0.95]" in page.text("#faithful")
    assert len(page.js("return [...document.querySelectorAll('#curve .point')]")) == 3
    ends = {end for w, r, _ in edges(circuit_of()) for end in (str(w), str(r.component))}
    assert page.boxes() >= {name for name in ends if ".g" not in name}


@in_browser
def test_edges_are_ranked_by_what_is_asked_for(page: Page, files: Path) -> None:
    page.open(files / "one.html")
    held = data_of((files / "one.html").read_text())["edges"]
    assert isinstance(held, dict)
    page.put("#measure", "frequency", "change")
    page.put("#number", 20, "change")
    often = [held["frequency"][i] for i in page.lines()]
    assert min(often) >= sorted(held["frequency"], reverse=True)[19]
    assert "not measured" in page.text("#faithful")
    page.put("#measure", "exact", "change")
    page.put("#number", 1000, "change")
    assert page.lines() == {i for i, flag in enumerate(held["exact"]) if flag}
    assert page.text("#count") == "40 edges of 40"


@in_browser
@pytest.mark.parametrize("size", [50, 120])
def test_a_click_isolates_what_leads_to_a_box_and_from_it(
    page: Page, files: Path, size: int
) -> None:
    page.open(files / "one.html", f"#n={size}")
    held = data_of((files / "one.html").read_text())
    found, names = held["edges"], [box["name"] for box in held["boxes"]]  # type: ignore[attr-defined]
    assert isinstance(found, dict)
    graph = nx.MultiDiGraph()
    for i in page.lines():
        graph.add_edges_from((found["from"][i], end, i) for end in found["to"][i])
    node = max((n for n in graph if names[n][0] == "a"), key=graph.degree)
    page.click(f'.n[data-n="{names[node]}"]')
    up, down = nx.ancestors(graph, node) | {node}, nx.descendants(graph, node) | {node}
    wanted = {k for a, b, k in graph.edges(keys=True) if b in up or a in down}
    assert page.lines(":not(.dim)") == wanted
    assert page.boxes(":not(.dim)") == {names[n] for n in up | down}
    assert page.text("#details h2") == names[node]
    rows = page.js("return document.querySelectorAll('#details tbody tr').length")
    assert rows == len({k for *_, k in graph.in_edges(node, keys=True)}) + len(
        {k for *_, k in graph.out_edges(node, keys=True)}
    )
    page.keys("\ue00c")  # escape
    assert page.lines(".dim") == set()


@in_browser
def test_the_table_says_what_the_picture_says(page: Page, files: Path) -> None:
    page.open(files / "one.html", "#view=table")
    held = data_of((files / "one.html").read_text())["edges"]
    assert isinstance(held, dict)
    rows = page.js(
        "return [...document.querySelectorAll('#table tbody tr')]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    assert [f"{row[0]}->{row[1]}" for row in rows] == held["name"][:50]
    signs = [row[2].startswith("−") for row in rows]
    assert signs == [weight < 0 for weight in held["weight"][:50]]
    page.put("#search", "mover")
    assert 0 < page.js("return document.querySelectorAll('#table tbody tr').length") < 50


@in_browser
def test_a_search_finds_components_roles_and_edges(page: Page, files: Path) -> None:
    page.open(files / "one.html")
    page.put("#search", "mover")
    roles = {n for n, role in circuit_of().nodes(data="role") if role == "mover"}
    hit = page.js("return [...document.querySelectorAll('.n.hit')].map((n) => n.dataset.n)")
    every = page.js("return [...document.querySelectorAll('.n')].map((n) => n.dataset.n)")
    assert hit
    assert hit == [name for name in every if name in roles]
    name = page.js("return document.querySelector('#picture .n.mlp').dataset.n")
    page.put("#search", name)
    page.js("document.getElementById('search').focus()")
    page.keys("\ue007")  # enter
    assert page.text("#details h2") == name
    page.put("#search", "nothing of the kind")
    assert page.text("#hits") == "nothing"


@in_browser
def test_roles_are_chosen_and_two_circuits_are_told_apart(page: Page, files: Path) -> None:
    page.open(files / "one.html", "#n=120")
    page.click('[data-role="mover"]')
    assert page.lines(".dim")
    assert page.text("#details h2") == "mover"
    page.open(files / "two.html")
    held = data_of((files / "two.html").read_text())["edges"]
    assert isinstance(held, dict)
    page.put("#number", 1000, "change")
    page.click('[data-side="1"]')
    page.click('[data-side="2"]')
    assert page.lines() == {i for i, side in enumerate(held["side"]) if side == 0}
    colours = page.js(
        "return [0, 1, 2].map((k) => document.querySelector(`.e.s${k} path`))"
        ".map((path) => getComputedStyle(path).stroke)"
    )
    assert len(set(colours)) == 3


@in_browser
def test_everything_is_reached_by_keyboard(page: Page, files: Path) -> None:
    page.open(files / "one.html")
    focused = "return (document.activeElement.closest('.n') || {dataset: {}}).dataset.n"
    page.js("document.querySelector('.n[tabindex=\"0\"]').focus()")
    assert page.js(focused) == "logits"
    page.keys("\ue015")  # down
    below = page.js(focused)
    assert below not in (None, "logits")
    page.keys("\ue007")  # enter
    assert page.text("#details h2") == below
    page.keys("\ue00c")  # escape
    for _ in range(30):
        page.keys("\ue015")
    assert page.js(focused) == "input"
    page.keys("/")
    assert page.js("return document.activeElement.id") == "search"
    reached = set()
    page.js("document.activeElement.blur()")
    for _ in range(40):
        page.keys("\ue004")  # tab
        reached.add(page.js("return document.activeElement.id || document.activeElement.tagName"))
    assert {
        "as-table",
        "as-svg",
        "as-png",
        "theme",
        "size",
        "measure",
        "number",
        "search",
    } <= reached


@in_browser
def test_the_address_holds_the_state(page: Page, files: Path) -> None:
    page.open(files / "one.html")
    page.put("#measure", "frequency", "change")
    page.put("#number", 33, "change")
    name = sorted(page.boxes() - {"input", "logits"})[0]
    page.click(f'.n[data-n="{name}"]')
    page.click("#theme")
    time.sleep(0.3)
    state = page.js("return location.hash")
    before = page.lines(), page.lines(".dim"), page.text("#details h2")
    page.open(files / "one.html", state)
    assert (page.lines(), page.lines(".dim"), page.text("#details h2")) == before
    assert page.js("return document.documentElement.dataset.theme") == "light"
    page.open(files / "one.html", "#n=-3&by=magic&node=none&edge=x&role=y&hide=9.x&theme=pink")
    assert page.log() == []
    assert page.lines() == set(range(50))


@in_browser
def test_what_is_seen_is_taken_along(page: Page, files: Path, downloads: Path) -> None:
    page.open(files / "one.html", "#n=20")
    page.click("#as-svg")
    page.click("#as-png")
    for _ in range(50):
        found = {path.suffix: path for path in downloads.iterdir()}
        if {".svg", ".png"} <= set(found):
            break
        time.sleep(0.1)
    root = ElementTree.parse(found[".svg"]).getroot()
    lines = [own for own in root.iter() if (own.get("class") or "").split()[:1] == ["e"]]
    assert len(lines) == 20
    assert all(own[0].get("stroke", "").startswith("rgb") for own in lines)
    texts = " ".join(own.text or "" for own in root.iter() if own.tag.endswith("text"))
    assert "20 edges of 120" in texts
    assert "logits" in texts
    assert found[".png"].read_bytes()[:4] == b"\x89PNG"


@in_browser
def test_light_dark_paper_and_a_phone(page: Page, files: Path) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    try:
        page.prefer("dark")
        page.open(files / "one.html")
        dark = page.js(ground)
        page.click("#theme")
        assert page.js(ground) == "rgb(255, 255, 255)"
        page.click("#theme")
        assert page.js(ground) == dark != "rgb(255, 255, 255)"
        page.prefer("dark", "print")
        assert page.js(ground) == "rgb(255, 255, 255)"
        assert page.js("return document.querySelector('.tools').offsetParent") is None
        page.prefer("light")
        page.size(390, 844)
        page.open(files / "one.html")
        for state in ("", "#view=table", "#node=logits"):
            page.open(files / "one.html", state)
            assert page.js("return document.documentElement.scrollWidth") <= 390
        small = page.js(
            "return [...document.querySelectorAll('button:not(.link), select, input')]"
            ".filter((own) => own.offsetParent && own.offsetHeight < 24).map((own) => own.id)"
        )
        assert small == []
    finally:
        page.prefer("light")
        page.size(1280, 860)
