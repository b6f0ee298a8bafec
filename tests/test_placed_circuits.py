"""Circuits between places: names, graphs, masks, selection and files."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from jsonschema import Draft202012Validator

import circuitkit
from circuitkit.errors import CircuitError, CircuitkitError, NodeNameError, ScoresError
from circuitkit.formats.interchange.acdc import write_acdc
from circuitkit.formats.interchange.autocircuit import write_autocircuit
from circuitkit.formats.interchange.eap_ig import write_eap
from circuitkit.formats.interchange.mib import write_mib
from circuitkit.graph.algebra import is_made
from circuitkit.graph.circuit import (
    Circuit,
    build,
    build_placed,
    edges,
    from_json,
    places_of,
    to_json,
    wiring_of,
)
from circuitkit.graph.compare import PlacedComparison, agreement, compare
from circuitkit.graph.consensus import consensus
from circuitkit.graph.nodes import Node, edge_name, parse_edge
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.places import PlacedMask, Places
from circuitkit.graph.published import named
from circuitkit.graph.wiring import Wiring
from circuitkit.registry import lookup

SPANS = ("first", "before S1", "S1+1", "end")
SEES = np.triu(np.ones((4, 4), bool))
WIRINGS = {
    "plain": Wiring(2, 2, 2),
    "grouped": Wiring(3, 4, 2),
    "parallel": Wiring(2, 2, 1, parallel=True),
    "bare": Wiring(2, 2, 2, mlp=False),
    "experts": Wiring(2, 2, 2, experts=(3, 0), shared=True),
}


def places_on(wiring: Wiring) -> Places:
    return Places(wiring, SPANS, SEES, np.array([False, False, False, True]))


def scores_on(wiring: Wiring, seed: int = 0) -> PlacedScores:
    places, rng = places_on(wiring), np.random.default_rng(seed)
    legal = places.legal
    tables = [rng.standard_normal(t.shape) * t for t in (legal.residual, legal.attention)]
    return PlacedScores(places, *tables, {"model": "some", "task": "ioi", "method": "eap"})


@pytest.fixture(params=WIRINGS)
def scores(request: pytest.FixtureRequest) -> PlacedScores:
    return scores_on(WIRINGS[request.param])


@pytest.fixture
def circuit() -> Circuit:
    return scores_on(WIRINGS["grouped"]).top(30)


# -- names -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "span", "plain"),
    [
        ("a9.h9@end", "end", "a9.h9"),
        ("m0@S2", "S2", "m0"),
        ("a7.g1.v@before S1", "before S1", "a7.g1.v"),
        ("logits@S1+1", "S1+1", "logits"),
        ("9.9.q@größer", "größer", "a9.h9.q"),
    ],
)
def test_a_node_may_be_bound_to_a_span(name: str, span: str, plain: str) -> None:
    node = Node(name)
    assert (node.span, node.plain, node) == (span, plain, f"{plain}@{span}")
    assert node.plain.span is None
    assert node.plain.at(span) == node
    assert node.component == f"{node.plain.component}@{span}"
    assert (node.layer, node.port) == (node.plain.layer, node.plain.port)


@pytest.mark.parametrize(
    "name", ["m0@", "m0@a@b", "m0@ a", "m0@a ", "m0@a  b", "m0@a<b", "m0@a>b", "m0@a\nb", "@end",
             "m0@a\x00", "x@end"],
)  # fmt: skip
def test_what_is_not_a_place_is_refused(name: str) -> None:
    with pytest.raises(NodeNameError, match="is not a node"):
        Node(name)


@pytest.mark.parametrize(
    "name",
    ["a0.h2@S2->a2.h2<v>@S2", "a7.g1.v@S2->a7.h3@end", "input@a->m0@a", "m3@a- b->logits@a- b"],
)
def test_an_edge_between_places_is_read_as_it_is_written(name: str) -> None:
    assert edge_name(*parse_edge(name)) == name


def test_spans_have_names_that_edges_can_hold() -> None:
    with pytest.raises(CircuitError, match="'a@b' is not a span's name"):
        Places(WIRINGS["plain"], ("a@b",), np.ones((1, 1), bool), np.ones(1, bool))


def test_every_edge_is_found_by_its_name(scores: PlacedScores) -> None:
    places, legal = scores.places, scores.places.legal
    found = set()
    for table in (legal.residual, legal.attention):
        for index in np.argwhere(table):
            own: Any = tuple(map(int, index))
            name = edge_name(*places.edge(own))
            assert places.index(*parse_edge(name)) == own
            found.add(name)
    assert len(found) == sum(places.n_edges) == len(scores)
    assert places.n_edges == legal.counts()


@pytest.mark.parametrize(
    ("edge", "why"),
    [
        ("m0@end->m1", "does not say where"),
        ("m0@S1+1->m1@end", "is not an edge between these places"),
        ("m1@end->m0@end", "is not an edge of a model"),
        ("m1@first->logits@first", "the logits read at the answers alone"),
        ("a1.g0.v@end->a1.h0@first", "is not an edge between these places"),
        ("a1.g0.v@first->a1.h3@end", "is not an edge between these places"),
        ("m0@S9->m1@S9", "'S9' is not a span of these prompts"),
    ],
)
def test_what_is_not_an_edge_between_places_is_refused(edge: str, why: str) -> None:
    with pytest.raises(CircuitError, match=re.escape(why)):
        places_on(WIRINGS["grouped"]).index(*parse_edge(edge))


def test_plain_wirings_have_no_places() -> None:
    with pytest.raises(CircuitError, match=r"m0@S2->m1@S2 is an edge between places"):
        WIRINGS["grouped"].index("m0@S2", "m1@S2")


# -- graphs ----------------------------------------------------------------------------------------
def test_graph_and_mask_are_one(scores: PlacedScores) -> None:
    for n in (5, 20, 60):
        mask = scores.best(n)
        found = scores.circuit(mask).placed_mask()
        assert (found.residual == mask.residual).all()
        assert (found.attention == mask.attention).all()


def test_an_edge_of_the_graph_lies_on_a_path_in_it(scores: PlacedScores) -> None:
    circuit = scores.top(25)
    embedded = [name for name in circuit if Node(name).plain == "input"]
    down = set(embedded).union(*(nx.descendants(circuit, name) for name in embedded))
    assert set(circuit) == down
    answers = [name for name in circuit if Node(name).plain == "logits"]
    assert set(circuit) == {*answers}.union(*(nx.ancestors(circuit, name) for name in answers))


def test_a_graph_counts_its_edges_of_both_kinds_and_its_places(circuit: Circuit) -> None:
    residual, attention = circuit.placed_mask().counts()
    frame = circuit.to_frame()
    assert frame["kind"].value_counts().to_dict() == {
        "residual": residual, "attention": attention
    }  # fmt: skip
    same = frame["source"] == frame["destination"]
    assert same[frame["kind"] == "residual"].all()
    of = places_of(circuit).n_edges
    said = f"{residual:,} of {of[0]:,} residual edges and {attention:,} of {of[1]:,} attention"
    assert str(circuit).startswith(said)
    assert repr(circuit).splitlines()[0] == str(circuit)


def test_the_plain_circuit_sums_over_spans(scores: PlacedScores) -> None:
    whole = scores.circuit(scores.places.legal)
    plain = whole.collapse()
    assert (plain.mask() == scores.places.wiring.legal).all()
    sums = scores.collapse()
    for writer, reader, weight in edges(plain):
        assert weight == pytest.approx(sums[writer, reader])
    assert "places" not in plain.graph
    assert plain.graph["task"] == "ioi"
    assert plain.collapse() is plain


def test_the_plain_circuit_has_the_roles_and_where_they_are(circuit: Circuit) -> None:
    node = next(name for name in circuit if Node(name).is_head)
    circuit.nodes[node].update(role="name mover")
    own = circuit.collapse().nodes[Node(node).plain]
    assert dict(own) == {"role": "name mover", "positions": [Node(node).span]}


# -- selection -------------------------------------------------------------------------------------
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("n", [3, 12, 40])
def test_the_best_are_the_longest_head_of_the_ranking_that_fits(
    scores: PlacedScores, n: int, joint: bool
) -> None:
    places, ranking = scores.places, scores.ranking()
    best = None
    for length in range(1, len(ranking) + 1):
        residual = np.zeros(places.shape, bool)
        residual.flat[ranking[:length]] = True
        whole = PlacedMask(places, residual, places.legal.attention)
        alive = places.alive(whole, joint=joint)
        if alive.counts()[0] > n:
            break
        best = alive
    assert best is not None
    if not best.residual.any():
        with pytest.raises(ScoresError, match="ask for more"):
            scores.best(n, joint=joint)
        return
    found = scores.best(n, joint=joint)
    assert (found.residual == best.residual).all()
    assert (found.attention == best.attention).all()


def test_several_sizes_are_chosen_at_once_and_wrong_ones_refused(scores: PlacedScores) -> None:
    for n, keep in zip((30, 60), scores.masks((30, 60)), strict=True):
        assert (keep.residual == scores.best(n).residual).all()
    for wrong in (0, 1.5, True):
        with pytest.raises(ScoresError, match="whole number"):
            scores.best(wrong)  # type: ignore[arg-type]
    with pytest.raises(ScoresError, match="abs or signed"):
        scores.ranking("greedy")
    other = scores_on(Wiring(4, 2, 2))
    with pytest.raises(ScoresError, match="other places"):
        scores.circuit(other.places.legal)


def test_scores_are_looked_up_by_name(scores: PlacedScores) -> None:
    frame = scores.to_frame()
    assert len(frame) == len(scores)
    first = frame.iloc[0]
    name, value = scores.strongest(1)[0]
    assert (name, value) == (edge_name(first["writer"], first["reader"]), first["weight"])
    assert scores[name] == value == scores[first["writer"], first["reader"]]
    assert name in repr(scores)


# -- what takes them, and what does not ------------------------------------------------------------
def test_circuits_between_places_are_sets_of_edges() -> None:
    scores = scores_on(WIRINGS["grouped"])
    small, large = scores.top(20), scores.top(40)
    union, both = (small | large).placed_mask(), (small & large).placed_mask()
    rest = (large - small).placed_mask()
    assert (union.residual == large.placed_mask().residual).all()
    assert (both.attention == small.placed_mask().attention).all()
    assert (rest.residual == (large.placed_mask().residual & ~small.placed_mask().residual)).all()
    assert is_made((small | large).graph["made_of"])
    assert consensus([small, large], 2).placed_mask().counts() == small.placed_mask().counts()
    with pytest.raises(CircuitError, match=r"circuit\.collapse\(\)"):
        small | large.collapse()
    with pytest.raises(CircuitError, match="of the same places"):
        small | scores_on(WIRINGS["plain"]).top(20)


REFUSED: dict[str, Callable[[Circuit], object]] = {
    "mask": lambda circuit: circuit.mask(),
    "wiring": wiring_of,
    "compare": lambda circuit: compare(circuit, circuit.collapse()),
    "agreement": lambda circuit: agreement([circuit, circuit.collapse()]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_takes_no_places_says_so_in_one_sentence(circuit: Circuit, name: str) -> None:
    with pytest.raises(CircuitError, match=r"circuit\.collapse\(\)"):
        REFUSED[name](circuit)


def test_a_circuit_without_places_has_no_mask_of_places(circuit: Circuit) -> None:
    with pytest.raises(CircuitError, match="has no places"):
        circuit.collapse().placed_mask()


# -- comparison -----------------------------------------------------------------------------------
def test_two_circuits_between_places_are_compared_by_places_and_kinds() -> None:
    scores = scores_on(WIRINGS["grouped"])
    small, large = scores.top(20), scores.top(40)
    found = compare(small, large)
    assert isinstance(found, PlacedComparison)
    for table, kind in (("residual", found.residual), ("attention", found.attention)):
        one, other = (getattr(c.placed_mask(), table) for c in (small, large))
        assert kind is not None
        assert (kind.left, kind.right, kind.both) == (one.sum(), other.sum(), (one & other).sum())
    of = scores.places.n_edges
    assert found.residual is not None
    assert found.attention is not None
    assert (found.residual.universe, found.attention.universe) == of
    assert found.edges.both == found.residual.both + found.attention.both
    assert found.places.both == found.places.left
    assert tuple(map(sum, zip(*found.spans.values(), strict=True))) == (
        found.places.left, found.places.right, found.places.both
    )  # fmt: skip
    assert [*found.spans] == [span for span in SPANS if span in found.spans]
    at_end = [{w.plain for w, r, _ in edges(c) if w.span == "end" and w.port is None} - {"input"}
              for c in (small, large)]  # fmt: skip
    assert found.spans["end"] == (*map(len, at_end), len(at_end[0] & at_end[1]))
    assert 0 < found.random < 1
    assert (found.spearman, found.flipped) == (pytest.approx(1), 0)
    assert [*found.to_frame()["what"]] == ["nodes", "places", "residual edges", "attention edges"]
    assert "attention edges" in repr(found)
    assert found.to_dict()["random_jaccard"] == found.random
    assert found.to_dict()["places"] == found.places.to_dict()
    schema = Path(circuitkit.__path__[0]) / "assets" / "schemas" / "compare.json"
    valid = Draft202012Validator(json.loads(schema.read_text(encoding="utf-8")))
    assert not [*valid.iter_errors(found.to_dict())]
    assert compare(large, large).edges.jaccard == 1


def test_a_published_circuit_is_met_at_its_places() -> None:
    scores = scores_on(WIRINGS["bare"])
    ours = scores.top(12)
    heads = [name for name in ours if Node(name).is_head]
    first = Node(heads[0])
    theirs = build(WIRINGS["bare"], {}, unweighted=True)
    theirs.add_node(str(first.plain), role="mover", positions=[first.span, "elsewhere"])
    other = next(w for w in WIRINGS["bare"].writers[1:] if not any(h.startswith(w) for h in heads))
    theirs.add_node(str(other), role="inhibition", positions=["end"])
    found = compare(ours, theirs)
    assert isinstance(found, PlacedComparison)
    assert found.roles == {
        f"mover at {first.span}": (1, 1), "mover at elsewhere": (0, 1), "inhibition at end": (0, 1)
    }  # fmt: skip
    assert (found.places.left, found.places.right, found.places.both) == (len(heads), 3, 1)
    assert found.of_edges is None
    assert "heads alone" in found.note
    assert compare(theirs, ours).places.both == 1  # type: ignore[attr-defined]
    with pytest.raises(CircuitError, match="different models"):
        compare(ours, "ioi:wang2022")


def test_spans_lie_beside_those_of_a_paper(circuit: Circuit) -> None:
    frame = circuit.by_span()
    assert [*frame["span"]] == [*SPANS]
    residual, attention = circuit.placed_mask().counts()
    assert frame.filter(like="into ").sum().sum() == residual
    assert (frame["attention within"] + frame["attention from"]).sum() == attention
    assert frame["attention from"].sum() == frame["attention to"].sum()
    published = named("ioi:wang2022").circuit.by_span()
    assert published[["span", "heads"]].to_numpy().tolist() == [["S1+1", 2], ["S2", 7], ["end", 17]]
    with pytest.raises(CircuitError, match=r"circuit\.collapse\(\)"):
        circuit.collapse().by_span()


# -- files -----------------------------------------------------------------------------------------
def same(one: Circuit, other: Circuit) -> bool:
    plain = [
        (dict(c.graph), {n: dict(c.nodes[n]) for n in c}, {e: dict(c.edges[e]) for e in c.edges})
        for c in (one, other)
    ]
    return plain[0] == plain[1]


def test_a_file_holds_everything(circuit: Circuit, tmp_path: Path) -> None:
    circuit.nodes[next(iter(circuit))]["role"] = "a role"
    circuit.graph["words"] = [["first", "<bos>"], ["end", "to"]]
    found = Circuit.load(circuit.save(tmp_path / "c.json"))
    assert same(found, circuit)
    assert to_json(found) == to_json(circuit)


READ: dict[str, Callable[[str], Any]] = {
    "graphml": nx.parse_graphml,
    "node_link": lambda text: nx.node_link_graph(json.loads(text), edges="edges"),
    "cyjs": lambda text: nx.cytoscape_graph(json.loads(text)),
    "gexf": lambda text: nx.read_gexf(io.BytesIO(text.encode())),
}


@pytest.mark.parametrize("name", READ)
def test_other_formats_hold_every_place_and_edge(circuit: Circuit, name: str) -> None:
    found = Circuit(READ[name](lookup("formats", name)(circuit)))
    if name in ("cyjs", "gexf"):  # which have no place for what is said of the whole, or another
        found.graph.update(dict(circuit.graph))
    assert dict(found.graph)["places"] == circuit.graph["places"]
    assert found.placed_mask().counts() == circuit.placed_mask().counts()
    assert sorted(edges(found)) == sorted(edges(circuit))
    assert str(found) == str(circuit)


def test_tables_and_dot_hold_every_edge(circuit: Circuit) -> None:
    rows = list(csv.DictReader(io.StringIO(lookup("formats", "csv")(circuit))))
    names = {edge_name(writer, reader) for writer, reader, _ in edges(circuit)}
    assert {row["edge"] for row in rows} == names
    dot = lookup("formats", "dot")(circuit)
    assert all(f'"{writer}" -> "{reader}"' in dot for writer, reader, _ in edges(circuit))


FOREIGN: dict[str, Callable[[Circuit, Path], object]] = {
    "eap_ig": lambda circuit, path: write_eap(circuit, path / "x.json", d_model=8),
    "acdc": lambda circuit, path: write_acdc(circuit, path / "x.pth"),
    "autocircuit": lambda circuit, path: write_autocircuit(circuit, path / "x.pkl"),
    "mib": lambda circuit, path: write_mib(
        {("ioi", "gpt2"): [circuit] * 9}, path / "x", d_model={"gpt2": 8}
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_formats_refuse_what_they_cannot_hold(
    circuit: Circuit, tmp_path: Path, name: str
) -> None:
    with pytest.raises(CircuitError, match=r"circuit\.collapse\(\)"):
        FOREIGN[name](circuit, tmp_path)


def damaged(change: Callable[[dict[str, Any]], object], circuit: Circuit) -> str:
    data = json.loads(to_json(circuit))
    del data["digest"]
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["places"].pop("sees"),
        lambda data: data["places"].update(spans=["a", "a", "b", "c"]),
        lambda data: data["places"].update(spans=["a@", "b", "c", "d"]),
        lambda data: data["places"].update(spans=7),
        lambda data: data["places"].update(answers=[0, 0, 2, 1]),
        lambda data: data["places"].update(sees=[[1, 2], [3]]),
        lambda data: data.update(places=[1]),
        lambda data: data["attributes"].update(places=data["places"]),
        lambda data: data["attributes"].update(words=[["first"]]),
        lambda data: data.pop("places"),
        lambda data: data["edges"].append({"edge": "m0@first->logits@first", "weight": 1.0}),
        lambda data: data["nodes"].update({"m0@S9": {"role": "x"}}),
        lambda data: data["nodes"].update({"m0": {"role": "x"}}),
    ],
)
def test_a_damaged_file_is_refused(circuit: Circuit, change: Callable[..., object]) -> None:
    with pytest.raises(CircuitError, match="is not a circuit"):
        from_json(damaged(change, circuit))


def test_a_changed_file_is_noticed(circuit: Circuit) -> None:
    text = to_json(circuit).replace('"S1+1"', '"S1+2"')
    with pytest.raises(CircuitkitError):
        from_json(text)


def test_scores_come_back_from_their_file(scores: PlacedScores, tmp_path: Path) -> None:
    path = scores.save(tmp_path / "scores.safetensors")
    found = PlacedScores.load(path)
    assert found.places == scores.places
    assert found.about == scores.about
    assert (found.residual == scores.residual.astype(np.float32)).all()
    assert (found.attention == scores.attention.astype(np.float32)).all()
    again = found.save(tmp_path / "again.safetensors")
    assert again.read_bytes() == path.read_bytes()
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ScoresError, match="digest"):
        PlacedScores.load(path)
    assert PlacedScores.load(path, force=True).places == scores.places
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ScoresError, match="holds no scores"):
        PlacedScores.load(path)


def test_files_of_the_two_kinds_of_scores_are_told_apart(
    scores: PlacedScores, tmp_path: Path
) -> None:
    plain = scores.collapse().save(tmp_path / "plain.safetensors")
    with pytest.raises(ScoresError, match=r"circuitkit\.placed_scores"):
        PlacedScores.load(plain)


def test_a_weight_that_is_not_finite_is_refused() -> None:
    places = places_on(WIRINGS["plain"])
    pair = next(itertools.starmap(places.edge, [((0, 0, 0),)]))
    with pytest.raises(CircuitError, match="finite"):
        build_placed(places, {pair: float("nan")})
