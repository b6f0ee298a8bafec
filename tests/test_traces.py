"""Attribution graphs as files: JSON that other programs read, pictures and pages."""

from __future__ import annotations

import csv
import json
import pickle
import re
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from families import model
from jsonschema import Draft7Validator
from scipy.sparse import csr_array
from test_tracing import PROMPT, coders

from circuitkit.cli.main import main
from circuitkit.errors import CircuitError, OutputError
from circuitkit.features.describing import Feature, Shown
from circuitkit.features.exchange import listing, node_id
from circuitkit.features.graphs import AttributionGraph
from circuitkit.features.nodes import GraphNode
from circuitkit.features.tracing import trace

# What Neuronpedia's schema asks for (graph-schema.json at b8efe84), without its words.
TEXT, NUMBER = {"type": "string"}, {"type": "number"}


def shaped(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties}


TEXTS = {"type": "array", "items": TEXT}
SCHEMA = shaped(
    "metadata qParams nodes links",
    metadata=shaped(
        "slug scan prompt_tokens prompt", slug=TEXT, scan=TEXT, prompt_tokens=TEXTS, prompt=TEXT,
        node_threshold=NUMBER,
        info=shaped("", generator=shaped("", name=TEXT, version=TEXT, url=TEXT, email=TEXT)),
    ),
    qParams=shaped(
        "", pinnedIds=TEXTS, supernodes={"type": "array"}, linkType=TEXT, clickedId=TEXT,
        sg_pos=TEXT,
    ),
    nodes={
        "type": "array",
        "items": shaped(
            "node_id feature layer ctx_idx feature_type jsNodeId clerp", node_id=TEXT,
            feature={"type": ["integer", "null"]}, layer={"type": ["string", "integer"]},
            ctx_idx={"type": "integer"}, feature_type=TEXT, jsNodeId=TEXT, clerp=TEXT,
            influence={"type": ["number", "null"]}, activation={"type": ["number", "null"]},
        ),
    },
    links={
        "type": "array",
        "items": shaped("source target weight", source=TEXT, target=TEXT, weight=NUMBER),
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def whole() -> AttributionGraph:
    m = model("gpt2")
    return trace(m, PROMPT, coders(m))


@pytest.fixture(scope="module")
def part(whole: AttributionGraph) -> AttributionGraph:
    return whole.prune()


def by_hand() -> AttributionGraph:
    """The smallest graph whose ids collide in circuit-tracer's files: feature 3 of layer 0 and the
    error of layer 3, both at token 1."""
    nodes = (
        GraphNode("token", position=0, number=5, label="<a>"),
        GraphNode("token", position=1, number=6, label='"b"'),
        GraphNode("feature", 0, 1, 3, 2.0), GraphNode("error", 3, 1),
        GraphNode("logit", 4, 1, 7, weight=0.75, label=" x\n"),
    )  # fmt: skip
    weights = np.zeros((5, 5))
    weights[2, 1], weights[4, 2], weights[4, 3] = 1.5, 2.5, -0.5
    return AttributionGraph(
        "toy", '<a> "b"', ("<a>", '"b"'), nodes, csr_array(weights), weights.sum(1), np.zeros(5),
        "logit of </script><script>alert(1)</script>",
    )  # fmt: skip


# -- JSON ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["part", "by_hand"])
def test_what_is_written_is_what_neuronpedia_takes(
    name: str, request: pytest.FixtureRequest
) -> None:
    graph = by_hand() if name == "by_hand" else request.getfixturevalue(name)
    document = json.loads(graph.to_json("mine"))
    assert not list(Draft7Validator(SCHEMA).iter_errors(document))
    ids = [node["node_id"] for node in document["nodes"]]
    assert len(set(ids)) == len(ids) == len(graph)
    assert {link[end] for link in document["links"] for end in ("source", "target")} <= {*ids}
    for node in document["nodes"]:
        if node["feature_type"] == "logit":  # both frontends split there
            assert re.search(r"\(p=[01]\.\d+\)$", node["clerp"])
        if node["influence"] is not None:
            assert 0 <= node["influence"] <= 1 + 1e-9
    assert json.loads(listing(graph.parts(), "mine")) == {"graphs": [document["metadata"]]}


def test_ids_and_numbers_by_hand(whole: AttributionGraph) -> None:
    assert len({node_id(node) for node in whole.nodes}) == len(whole)
    document = json.loads(by_hand().to_json())
    nodes = {node["node_id"]: node for node in document["nodes"]}
    assert [*nodes] == ["E_5_0", "E_6_1", "0_3_1", "3_error_1", "5_7_1"]
    assert nodes["0_3_1"]["feature"] == 9  # (0 + 3)(0 + 3 + 1)/2 + 3
    assert nodes["0_3_1"]["jsNodeId"] == "0_3-0"
    assert nodes["5_7_1"]["jsNodeId"] == "L_7-1"
    assert nodes["5_7_1"]["layer"] == "5"
    assert (nodes["E_6_1"]["layer"], nodes["E_6_1"]["ctx_idx"]) == ("E", 1)
    assert document["links"][0] == {
        "source": "E_6_1", "target": "0_3_1", "weight": 1.5,
        "influence": pytest.approx(2.5 / 3, rel=1e-6),
    }  # fmt: skip
    assert node_id(GraphNode("logit", 4, 1, weight=1.0)) == "5_contrast_1"


def test_a_graph_comes_back_as_it_was(
    whole: AttributionGraph, part: AttributionGraph, tmp_path: Path
) -> None:
    for graph in (whole, part):
        path = graph.save(tmp_path / "graph.json")
        found = AttributionGraph.load(path)
        order = [found.number[node.name] for node in graph.nodes]
        assert [found.nodes[i] for i in order] == [*graph.nodes]
        assert np.array_equal(
            found.weights.toarray()[np.ix_(order, order)], graph.weights.toarray()
        )
        for key in ("sums", "totals", "live", "influence"):
            assert np.array_equal(getattr(found, key)[order], getattr(graph, key)), key
        assert (found.replacement, found.completeness) == (graph.replacement, graph.completeness)
        assert (found.model, found.prompt, found.tokens, found.target) == (
            graph.model, graph.prompt, graph.tokens, graph.target
        )  # fmt: skip
        assert found.about == json.loads(json.dumps(dict(graph.about)))


def test_labels_and_supernodes_are_taken_along(whole: AttributionGraph, tmp_path: Path) -> None:
    known = [node.name.partition("@")[0] for node in whole.top(3)]
    labels = {name: {"label": f"is {name}", "supernode": "three"} for name in known}
    part = whole.labelled(labels).prune()
    document = json.loads(part.to_json())
    said = {node["node_id"]: node["clerp"] for node in document["nodes"]}
    ((label, *ids),) = document["qParams"]["supernodes"]
    assert label == "three"
    assert {said[own].removeprefix("is ") for own in ids} <= {*known}
    assert sum(clerp.startswith("is m") for clerp in said.values()) == len(ids) > 0
    assert AttributionGraph.load(part.save(tmp_path / "g.json")).nodes == part.nodes
    assert np.array_equal(part.totals, whole.prune().totals)


def foreign(**changed: Any) -> dict[str, Any]:
    """A graph as circuit-tracer writes it."""

    def node(name: str, kind: str, layer: str, at: int, clerp: str, **more: Any) -> dict[str, Any]:
        return {"node_id": name, "feature": 1, "layer": layer, "ctx_idx": at, "clerp": clerp,
                "feature_type": kind, "jsNodeId": name, **more}  # fmt: skip

    whole = {
        "metadata": {"slug": "s", "scan": "gemma-2-2b", "prompt_tokens": ["a", " b"],
                     "prompt": "a b"},
        "qParams": {},
        "nodes": [
            node("E_11_0", "embedding", "E", 0, 'Emb: "a"'),
            node("E_12_1", "embedding", "E", 1, 'Emb: " b"'),
            node("3_41_1", "cross layer transcoder", "3", 1, "a name", activation=2.0),
            node("0_5_1", "mlp reconstruction error", "5", 1, "Err: mlp"),
            node("27_99_1", "logit", "27", 1, 'Output " "c"" (p=0.500)', token_prob=0.5),
        ],
        "links": [
            {"source": "E_11_0", "target": "3_41_1", "weight": 3.0},
            {"source": "3_41_1", "target": "27_99_1", "weight": 4.0},
            {"source": "0_5_1", "target": "27_99_1", "weight": -1.0},
        ],
    }  # fmt: skip
    return {**whole, **changed}


def test_a_graph_of_another_program_is_read(tmp_path: Path) -> None:
    (tmp_path / "theirs.json").write_text(json.dumps(foreign()))
    found = AttributionGraph.load(tmp_path / "theirs.json")
    assert [node.name for node in found.nodes] == [
        "input@0", "input@1", "m3.f41@1", "m5.error@1", "logits.99"
    ]  # fmt: skip
    assert found.nodes[2].label == "a name"
    assert found.nodes[4].label == ' "c"'
    assert found.totals.tolist() == [0.5 * 4 / 2 * 3, 0, 2.0, -0.5, 0]
    assert found.replacement == pytest.approx(0.8)
    assert np.isnan(found.live).all()
    again = found.save(tmp_path / "again.json")
    assert AttributionGraph.load(again).nodes == found.nodes


BROKEN = [
    ({"nodes": [{}]}, "KeyError"),
    ({"nodes": foreign()["nodes"] * 2}, "two nodes have the same id"),
    ({"links": [{"source": "E_11_0", "target": "nobody", "weight": 1.0}]}, "nobody"),
    ({"links": [{"source": "27_99_1", "target": "3_41_1", "weight": 1.0}]}, "leads back"),
    ({"links": [{"source": "E_11_0", "target": "3_41_1", "weight": "1"}]}, "is not a number"),
    ({"metadata": []}, "TypeError"),
]


@pytest.mark.parametrize(("changed", "said"), BROKEN)
def test_a_broken_graph_is_refused(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "g.json").write_text(json.dumps(foreign(**changed)))
    with pytest.raises(CircuitError, match=said):
        AttributionGraph.load(tmp_path / "g.json")


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    for name in ("graph.pt", "graph.json"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(CircuitError, match="pickle" if name == "graph.pt" else "not an attr"):
            AttributionGraph.load(tmp_path / name)
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(CircuitError, match="there is no file"):
        AttributionGraph.load(tmp_path / "nothing.json")


# -- other programs --------------------------------------------------------------------------------
def read_back(path: Path) -> nx.DiGraph:
    if path.suffix == ".cyjs":
        return nx.cytoscape_graph(json.loads(path.read_text()))
    reader = nx.read_graphml if path.suffix == ".graphml" else nx.read_gexf
    return reader(path)


@pytest.mark.parametrize("suffix", ["graphml", "gexf", "cyjs"])
@pytest.mark.parametrize("name", ["part", "whole", "by_hand"])
def test_networkx_reads_what_is_saved(
    name: str, suffix: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    graph = by_hand() if name == "by_hand" else request.getfixturevalue(name)
    asked = graph.to_networkx()
    found = read_back(graph.save(tmp_path / f"g.{suffix}"))
    assert {*found} == {*asked}
    assert {*found.edges} == {*asked.edges}
    for node, said in asked.nodes(data=True):
        own = found.nodes[node]
        for key, value in said.items():
            kept = {"value": "activation"}.get(key, key)
            shown = key == "label" and suffix == "gexf"  # what Gephi shows is never empty
            assert own[kept] == ((value or node) if shown else value), (node, key)
    for start, to, said in asked.edges(data=True):
        assert {key: found.edges[start, to][key] for key in said} == said
    if suffix == "graphml":
        assert found.graph["prompt"] == graph.prompt


def test_tables_and_dot_hold_every_edge(part: AttributionGraph, tmp_path: Path) -> None:
    rows = [*csv.DictReader(part.save(tmp_path / "g.csv").read_text().splitlines())]
    asked = part.to_networkx()
    assert len(rows) == part.weights.nnz
    assert [float(row["influence"]) for row in rows] == sorted(part.flows.data, reverse=True)
    for row in rows:
        assert float(row["weight"]) == asked.edges[row["writer"], row["reader"]]["weight"]
        assert row["writer_kind"] == asked.nodes[row["writer"]]["kind"]
        assert row["reader_token"] == asked.nodes[row["reader"]]["token"]
    text = by_hand().save(tmp_path / "g.dot").read_text()
    assert text.count(" -> ") == 3
    assert '"input@1" -> "m0.f3@1" ["influence"=' in text
    assert r'"label"="\"b\""' in text
    assert '{rank=same "input@0" "input@1"}' in text


def test_numbers_that_are_not_known_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "theirs.json").write_text(json.dumps(foreign()))
    theirs = AttributionGraph.load(tmp_path / "theirs.json")
    text = theirs.save(tmp_path / "g.cyjs").read_text()
    json.loads(text, parse_constant=pytest.fail)
    assert all("live" not in own for _, own in read_back(tmp_path / "g.cyjs").nodes(data=True))
    with pytest.raises(OutputError, match="is not saved as 'svg'; choose json, graphml"):
        theirs.save(tmp_path / "g.svg")


# -- pictures --------------------------------------------------------------------------------------
def test_every_node_and_edge_is_drawn(part: AttributionGraph, tmp_path: Path) -> None:
    every = part.weights.nnz
    picture = part.draw(tmp_path / "g.svg", edges=every, notes=["seen in the model"]).read_text()
    for node in part.nodes:
        assert f"<title>{node.name}" in picture
    assert picture.count(" → ") == every > 60
    assert part.draw(tmp_path / "g.svg").read_text().count(" → ") == 60
    assert "seen in the model" in picture
    few = part.draw(tmp_path / "few.svg", edges=7).read_text()
    assert few.count(" → ") == 7
    assert "the strongest 7 are drawn" in few
    assert part.draw(tmp_path / "g.png").read_bytes()[1:4] == b"PNG"
    assert part._repr_html_().startswith('<iframe sandbox="allow-scripts')


def test_boxes_stand_beside_each_other(part: AttributionGraph) -> None:
    from circuitkit.viz.traces.layout import lay_out

    sheet = lay_out(part.to_networkx())
    boxes = [*sheet.boxes.values()]
    for i, one in enumerate(boxes):
        assert 0 < one.x - one.width / 2 < one.x + one.width / 2 < sheet.width
        assert 0 < one.y < sheet.height
        for two in boxes[:i]:
            apart = abs(one.y - two.y) > 21 or abs(one.x - two.x) >= (one.width + two.width) / 2
            assert apart, (one.name, two.name)
    at = {box.name: box for box in boxes}
    assert at["input@0"].x < at["input@1"].x
    assert all(at[line.start].y > at[line.to].y for line in sheet.lines)


def test_a_page_holds_no_markup_from_a_file(tmp_path: Path) -> None:
    graph = by_hand()
    page = graph.draw(tmp_path / "g.html").read_text()
    assert page.count("<script") == 2
    assert "<script>alert" not in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    edges = data["edges"]
    assert edges["name"] == ["input@1->m0.f3@1", "m0.f3@1->logits.7", "m3.error@1->logits.7"]
    assert edges["taken"] == [1.5, 2.5, -0.5]
    assert edges["weight"] == pytest.approx([5 / 6, 5 / 6, -1 / 6], abs=1e-3)
    assert {box["label"] for box in data["boxes"]} == {"<a>", '"b"', "f3", "error", "x⏎"}
    assert "token 1" in json.dumps(data["boxes"])


def test_neighbours_of_a_supernode_stand_in_one_frame(
    whole: AttributionGraph, tmp_path: Path
) -> None:
    from circuitkit.viz.traces.layout import lay_out

    part = whole.prune()
    cell = [node for node in part.nodes if node.kind == "feature"]
    at = max(((n.layer, n.position) for n in cell), key=[(n.layer, n.position) for n in cell].count)
    here = [node.name for node in cell if (node.layer, node.position) == at]
    chosen = {here[0], here[-1]}
    assert len(chosen) == 2
    labels = {name.partition("@")[0]: {"supernode": "<both>"} for name in chosen}
    named = part.labelled(labels)
    sheet = lay_out(named.to_networkx())
    frames = [own for own in sheet.groups if abs(own.y - sheet.boxes[here[0]].y) < 1]
    (frame,) = [own for own in frames if abs(own.x - sheet.boxes[here[0]].x) < own.width / 2]
    for name in chosen:
        box = sheet.boxes[name]
        assert frame.x - frame.width / 2 <= box.x - box.width / 2 + 1e-6
        assert box.x + box.width / 2 <= frame.x + frame.width / 2 + 1e-6
    assert "<title>supernode &lt;both&gt;" in named.draw(tmp_path / "g.svg").read_text()
    assert 'class="n feature tinted super"' in named.draw(tmp_path / "g.html").read_text()


def test_a_page_says_what_its_features_are(tmp_path: Path) -> None:
    shown = Shown(tuple(f"</script>{i}" for i in range(40)), (*range(39), 99.0), 39)
    feature = Feature("m0.f3", 0.25, 40, 99.0, (shown,), (("<b>", 1.234),), (), "ioi")
    page = by_hand().draw(tmp_path / "g.html", features=[feature]).read_text()
    assert page.count("<script") == 2
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    (box,) = [own for own in data["boxes"] if own.get("feature")]
    card = data["features"][box["feature"]]
    assert card["said"] == "active at 25.0% of 40 tokens of ioi"
    (text,) = card["shown"]
    assert text["tokens"][text["peak"]] == "</script>39"
    assert text["values"] == [*range(21, 39), 99]
    assert text["cut"] == [True, False]
    assert (card["raised"], card["lowered"]) == ([["<b>", 1.2]], [])


def test_what_cannot_be_drawn_is_refused(
    whole: AttributionGraph, part: AttributionGraph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="is not drawn as 'jpg'"):
        part.draw(tmp_path / "g.jpg")
    monkeypatch.setattr("circuitkit.viz.traces.layout.MOST", 30)
    with pytest.raises(OutputError, match="prune it first"):
        whole.draw(tmp_path / "g.svg")


# -- the command -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a prompt to trace, or a task"),
        (["text", "--task", "ioi"], "give a prompt to trace, or a task"),
        (["--task", "ioi", "--correct", " x"], "a task has its own answers"),
        (["text", "--wrong", " x"], "says nothing without --correct"),
        (["text", "--model", "other"], "no transcoders of 'other' come with the package"),
        (["text", "--nodes", "2"], "is not a share"),
    ],
)
def test_what_the_command_cannot_do_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", *arguments]) == 2
    assert said in capsys.readouterr().err
