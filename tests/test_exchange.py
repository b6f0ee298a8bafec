"""AutoCircuit's and ACDC's files, and those of graph programs: by hand, and back again."""

from __future__ import annotations

import io
import json
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

from circuitkit.errors import CircuitError, ScoresError
from circuitkit.formats.interchange.acdc import read_acdc, write_acdc
from circuitkit.formats.interchange.autocircuit import read_autocircuit, write_autocircuit
from circuitkit.graph.circuit import Circuit, build, edges, mask, to_json
from circuitkit.graph.published import named
from circuitkit.graph.scores import Scores, ScoresWarning
from circuitkit.graph.wiring import Wiring
from circuitkit.registry import lookup

SMALL = Wiring(1, 2, 2)
WIRINGS = [Wiring(2, 3, 3), Wiring(3, 2, 2, parallel=True), Wiring(2, 2, 2, mlp=False), SMALL]
every_wiring = pytest.mark.parametrize("wiring", WIRINGS, ids=repr)


def some_scores(wiring: Wiring, seed: int = 0) -> Scores:
    values = np.random.default_rng(seed).standard_normal(wiring.shape)
    return Scores(wiring, np.where(wiring.legal, values, 0))


def flat(circuit: nx.DiGraph) -> dict[tuple[str, str], float]:
    return {(str(w), str(r)): weight for w, r, weight in edges(circuit)}


# -- AutoCircuit -----------------------------------------------------------------------------------
# One layer of two heads, as its PatchableModel names and shapes the tables.
BY_HAND = {
    "blocks.0.hook_q_input": [[0.5], [1.5]],
    "blocks.0.hook_k_input": [[-0.25], [0.0]],
    "blocks.0.hook_v_input": [[0.125], [2.0]],
    "blocks.0.hook_mlp_in": [1.0, -3.0, 0.75],
    "blocks.0.hook_resid_post": [4.0, 5.0, -6.0, 7.0],
}


def tables(**changed: Any) -> dict[str, Any]:
    """The tables as tensors; None takes one away."""
    whole = {name: torch.tensor(rows) for name, rows in BY_HAND.items()}
    for name, value in changed.items():
        key = f"blocks.0.hook_{name}"
        whole.pop(key) if value is None else whole.update({key: value})
    return whole


def saved(data: Any, place: Path) -> Path:
    torch.save(data, place / "scores.pkl")
    return place / "scores.pkl"


def test_prune_scores_by_hand(tmp_path: Path) -> None:
    found = read_autocircuit(saved(tables(), tmp_path), SMALL)
    assert found.wiring == SMALL
    expected = {
        "input->a0.h0<q>": 0.5, "input->a0.h1<q>": 1.5, "input->a0.h0<k>": -0.25,
        "input->a0.h1<k>": 0.0, "input->a0.h0<v>": 0.125, "input->a0.h1<v>": 2.0,
        "input->m0": 1.0, "a0.h0->m0": -3.0, "a0.h1->m0": 0.75, "input->logits": 4.0,
        "a0.h0->logits": 5.0, "a0.h1->logits": -6.0, "m0->logits": 7.0,
    }  # fmt: skip
    assert {name: found[name] for name in found} == expected
    assert found.chosen is None
    with pytest.warns(ScoresWarning, match="inverted"):
        turned = read_autocircuit(saved(tables(), tmp_path), sign=-1)
    assert turned["m0->logits"] == -7.0


def test_what_is_written_has_the_form_that_autocircuit_reads(tmp_path: Path) -> None:
    scores = read_autocircuit(saved(tables(), tmp_path))
    written = torch.load(write_autocircuit(scores, tmp_path / "x.pkl"), weights_only=True)
    assert list(written) == list(BY_HAND)
    assert {name: own.tolist() for name, own in written.items()} == BY_HAND


@every_wiring
def test_scores_and_circuits_come_back(wiring: Wiring, tmp_path: Path) -> None:
    scores = some_scores(wiring)
    back = read_autocircuit(write_autocircuit(scores, tmp_path / "s.pkl"), wiring)
    assert (back.values == scores.values).all()
    assert np.count_nonzero(back.values) == wiring.n_edges
    circuit = scores.top(4)
    again = read_autocircuit(write_autocircuit(circuit, tmp_path / "c.pkl"))
    assert (again.values != 0).sum() == mask(circuit).sum() == 4
    assert flat(again.circuit(again.values != 0)) == flat(circuit)


def test_tables_of_booleans_are_a_circuit(tmp_path: Path) -> None:
    found = read_autocircuit(saved({k: v > 1.2 for k, v in tables().items()}, tmp_path))
    assert found.chosen is not None
    assert found.chosen.sum() == 1  # input->logits; the other four are dead ends
    assert found.values.sum() == 5
    assert set(np.unique(found.values)) == {0.0, 1.0}


def test_one_of_several_tables_is_named(tmp_path: Path) -> None:
    several = {"ioi": {"mask gradient": tables(), "random": tables(mlp_in=torch.zeros(3))}}
    path = saved(several, tmp_path)
    with pytest.raises(ScoresError, match=r"2 tables, and none is named.*'mask gradient'"):
        read_autocircuit(path)
    with pytest.raises(ScoresError, match="none is called"):
        read_autocircuit(path, entry=("ioi", "acdc"))
    assert read_autocircuit(path, entry=("ioi", "random"))["input->m0"] == 0
    only = saved({"ioi": {"mask gradient": tables()}}, tmp_path)
    assert read_autocircuit(only)["input->m0"] == 1
    with pytest.raises(ScoresError, match="leave out entry"):
        read_autocircuit(saved(tables(), tmp_path), entry=("ioi", "random"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tables(q_input=None), "no tensor 'blocks.0.hook_q_input'"),
        (tables(v_input=None), "no tensor 'blocks.0.hook_v_input'"),
        (tables(resid_post=None), "no tensor 'blocks.0.hook_resid_post'"),
        (tables(attn_in=torch.zeros(2, 1)), "separate_qkv=True"),
        (tables(q_input=torch.zeros(9, 2, 1)), "by token"),
        (tables(k_input=torch.zeros(2, 2)), r"of shape \(2, 2\).*\(2, 1\)"),
        (tables(resid_post=torch.full((4,), torch.nan)), "not finite"),
        (tables(mlp_in=[1.0, 2.0, 3.0]), "is \\[1.0"),
        (tables(mlp_out=torch.zeros(3)), "hook_mlp_out.*not a place"),
        (tables() | {7: torch.zeros(3)}, "has 7, which"),
        ({"blocks.999999.hook_q_input": torch.zeros(2, 1), **tables()}, "no model has"),
        ({}, "no tensor"),
        ({"a": {"b": 3}}, "0 tables"),
    ],
)  # fmt: skip
def test_bad_prune_scores_are_one_sentence(data: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ScoresError, match=words) as told:
        read_autocircuit(saved(data, tmp_path))
    assert "\n" not in str(told.value)
    assert repr(str(tmp_path / "scores.pkl")) in str(told.value)


def test_another_models_prune_scores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScoresError, match="of a model with 1 layers × 2 heads, and this one"):
        read_autocircuit(saved(tables(), tmp_path), Wiring(2, 2, 2))
    for wiring in (Wiring(2, 4, 2), Wiring(2, 2, 2, experts=(2, 0))):
        with pytest.raises(CircuitError, match="AutoCircuit has no graph"):
            write_autocircuit(some_scores(wiring), tmp_path / "x.pkl")
    assert not (tmp_path / "x.pkl").exists()


def test_inverted_scores_are_hinted_at(tmp_path: Path) -> None:
    turned = {name: -own.abs() for name, own in tables().items()}
    with pytest.warns(ScoresWarning, match="look inverted.*sign=-1"):
        read_autocircuit(saved(turned, tmp_path))
    assert read_autocircuit(saved(turned, tmp_path), sign=-1)["m0->logits"] == 7.0
    with pytest.raises(ScoresError, match="sign=0 is not a sign"):
        read_autocircuit(saved(tables(), tmp_path), sign=0)


# -- ACDC ------------------------------------------------------------------------------------------
END, START = "blocks.0.hook_resid_post", "blocks.0.hook_resid_pre"
WHOLE, HEAD = (None,), (None, None, 1)
# What a run has kept of one layer of two heads, without an MLP: head 1 by its q, and what it skips.
KEPT = {
    ("blocks.0.hook_q_input", HEAD, START, WHOLE): 0.5,
    ("blocks.0.attn.hook_q", HEAD, "blocks.0.hook_q_input", HEAD): 0.4,
    ("blocks.0.attn.hook_result", HEAD, "blocks.0.attn.hook_q", HEAD): None,
    (END, WHOLE, "blocks.0.attn.hook_result", HEAD): 1.5,
    (END, WHOLE, START, WHOLE): 0.25,
}
BARE = Wiring(1, 2, 2, mlp=False)
EDGES = {("input", "a0.h1.q"): 0.5, ("a0.h1", "logits"): 1.5, ("input", "logits"): 0.25}


class Index:
    """ACDC's index, as its package defines it."""

    def __init__(self, parts: tuple[int | None, ...]) -> None:
        self.as_index = tuple(slice(None) if part is None else part for part in parts)
        self.hashable_tuple = parts


def listed(entries: Any, monkeypatch: pytest.MonkeyPatch, place: Path) -> Path:
    """A list as ``save_edges`` writes it: a pickle in which indices are ACDC's."""
    module = types.ModuleType("acdc.TLACDCEdge")
    Index.__module__, Index.__qualname__, Index.__name__ = module.__name__, *["TorchIndex"] * 2
    module.TorchIndex = Index  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "acdc", types.ModuleType("acdc"))
        patched.setitem(sys.modules, "acdc.TLACDCEdge", module)
        (place / "edges.pkl").write_bytes(pickle.dumps(entries))
    return place / "edges.pkl"


def kept(costs: dict[Any, float | None]) -> list[Any]:
    """As its list holds them: placeholders are not listed."""
    return [
        ((receiver, Index(first), sender, Index(second)), cost)
        for (receiver, first, sender, second), cost in costs.items()
        if cost is not None
    ]


def test_a_list_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = listed(kept(KEPT), monkeypatch, tmp_path)
    found = read_acdc(path, BARE)
    assert flat(found) == EDGES
    assert "unweighted" not in found.graph
    with pytest.raises(CircuitError, match="give its wiring"):
        read_acdc(path)


def test_a_list_without_costs_is_unweighted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [(key, None) for key, _ in kept(KEPT)]
    found = read_acdc(listed(entries, monkeypatch, tmp_path), BARE)
    assert flat(found) == dict.fromkeys(EDGES, 1.0)
    assert found.graph["unweighted"]


def test_what_is_read_without_its_direct_edge_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    further = ("blocks.0.hook_k_input", HEAD, START, WHOLE)
    path = listed(kept({**KEPT, further: 0.75}), monkeypatch, tmp_path)
    assert flat(read_acdc(path, BARE)) == EDGES
    direct = ("blocks.0.attn.hook_k", HEAD, "blocks.0.hook_k_input", HEAD)
    path = listed(kept({**KEPT, further: 0.75, direct: 0.1}), monkeypatch, tmp_path)
    assert flat(read_acdc(path, BARE)) == {**EDGES, ("input", "a0.h1.k"): 0.75}


def test_two_embeddings_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {
        (END, WHOLE, "hook_embed", WHOLE): 0.5, (END, WHOLE, "hook_pos_embed", WHOLE): 0.25,
    }  # fmt: skip
    found = read_acdc(listed(kept(both), monkeypatch, tmp_path), BARE)
    assert flat(found) == {("input", "logits"): 0.75}


def test_a_subgraph_lists_every_edge_of_acdcs_graph(tmp_path: Path) -> None:
    circuit = build(BARE, EDGES)
    written = torch.load(write_acdc(circuit, tmp_path / "s.pth"), weights_only=True)
    assert isinstance(written, OrderedDict)
    assert {key for key, present in written.items() if present} == set(KEPT)
    # 6 into q, k and v, as many direct ones and placeholders, 3 into the last residual stream.
    assert len(written) == 6 + 6 + 6 + 3
    whole = torch.load(
        write_acdc(build(Wiring(12, 12, 12), {}), tmp_path / "g.pth"), weights_only=True
    )
    inner = 12 * 12 * 6 + 12  # direct, placeholders of heads and of MLPs
    assert len(whole) == 32_491 + inner
    assert not any(whole.values())


@pytest.mark.parametrize(
    "circuit",
    [named("docstring:acdc").circuit, some_scores(Wiring(3, 2, 2)).top(20), build(BARE, EDGES)],
    ids=str,
)
def test_a_subgraph_comes_back(circuit: Circuit, tmp_path: Path) -> None:
    path = write_acdc(circuit, tmp_path / "s.pth")
    for back in (read_acdc(path), Circuit.load(path)):
        assert (mask(back) == mask(circuit)).all()
        assert back.graph["unweighted"]
        assert back.graph["wiring"] == circuit.graph["wiring"]
    with pytest.raises(CircuitError, match="and this one has 7 layers"):
        read_acdc(path, Wiring(7, 2, 2))


@pytest.mark.parametrize(
    "wiring", [Wiring(2, 4, 2), Wiring(2, 2, 2, parallel=True), Wiring(2, 2, 2, experts=(2, 0))]
)
def test_models_that_acdc_has_no_graph_of_are_refused(wiring: Wiring, tmp_path: Path) -> None:
    with pytest.raises(CircuitError, match="ACDC has no graph"):
        write_acdc(build(wiring, {("input", "logits"): 1.0}), tmp_path / "x.pth")
    assert not list(tmp_path.iterdir())


FIRST = next(iter(kept(KEPT)))
BAD_LISTS: list[tuple[Any, str]] = [
    ({}, "dict, and not a list"),
    ([3], "not an edge with what it costs"),
    ([(FIRST[0], "much")], "costs 'much'"),
    ([(FIRST[0], float("nan"))], "costs nan"),
    ([(FIRST[0], 10**400)], "finite number"),
    ([FIRST, FIRST], "listed twice"),
    ([(FIRST[0][:3], 1.0)], "not receiver, index, sender, index"),
    ([((3, *FIRST[0][1:]), 1.0)], "not a text"),
    ([((END, Index((None, None, -1)), START, Index(WHOLE)), 1.0)], "not an index"),
    ([((END, Index((10**6,)), START, Index(WHOLE)), 1.0)], "not an index"),
    ([((END, Index(([[]], None, 1)), START, Index(WHOLE)), 1.0)], "not an index"),  # type: ignore[arg-type]
    ([((END, Index(WHOLE), "blocks.0.hook_out", Index(WHOLE)), 1.0)], "not a place in a model"),
    ([((START, Index(WHOLE), START, Index(WHOLE)), 1.0)], "not an edge of a model"),
    ([((END, Index(WHOLE), "blocks.7.attn.hook_result", Index(HEAD)), 1.0)], "not an edge"),
]  # fmt: skip


@pytest.mark.parametrize(("entries", "words"), BAD_LISTS)
def test_a_bad_list_is_one_sentence(
    entries: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = listed(entries, monkeypatch, tmp_path)
    with pytest.raises(CircuitError, match=words) as told:
        read_acdc(path, BARE)
    assert "\n" not in str(told.value)
    assert repr(str(path)) in str(told.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({(END, WHOLE, START, WHOLE): 1}, "is 1; it must be true or false"),
        ({(END, WHOLE, START, WHOLE): True}, "no edge from a head"),
        ({3: True}, "3 is not receiver"),
        ([1, 2], "not a dictionary"),
    ],
)
def test_a_bad_subgraph_is_one_sentence(data: Any, words: str, tmp_path: Path) -> None:
    torch.save(data, tmp_path / "s.pth")
    with pytest.raises(CircuitError, match=words):
        read_acdc(tmp_path / "s.pth")


def test_a_list_executes_nothing(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (tmp_path / "sprung").touch, ()

    (tmp_path / "edges.pkl").write_bytes(pickle.dumps([(Trap(), 1.0)]))
    with pytest.raises(CircuitError, match="it holds"):
        read_acdc(tmp_path / "edges.pkl", BARE)
    assert not (tmp_path / "sprung").exists()
    pickle.loads((tmp_path / "edges.pkl").read_bytes())
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [None, b"", b"[]", b"\x80", b"\x80\x04K", b"PK\x03\x04"])
def test_what_is_no_file_of_acdc_is_one_sentence(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x.pth").write_bytes(content)
    for read in (read_acdc, Circuit.load):
        with pytest.raises(CircuitError) as told:
            read(tmp_path / "x.pth")
        assert "\n" not in str(told.value)


# -- graph programs --------------------------------------------------------------------------------
def some_circuit() -> Circuit:
    """A circuit of a model whose heads share keys, with attributes of every type."""
    weights = {
        ("input", "m0"): 0.5, ("input", "a0.h1.q"): 0.1, ("a0.h1", "m0"): 0.2,
        ("m0", "a1.g0.k"): -0.7, ("a1.h0", "logits"): 1.0,
    }  # fmt: skip
    own = {("m0", "a1.g0.k"): {"exact": True, "start": 3, "type": "x", "id": "y"}}
    made = build(
        Wiring(2, 4, 2), weights, edge_attributes=own, model="gpt2", task='<"ü" & ü>',
        settings={"steps": 5, "at": [None]},
    )  # fmt: skip
    made.nodes["a1.h0"].update(role="mover <b>", positions=["end"])
    return made


def test_node_link_holds_everything() -> None:
    circuit = some_circuit()
    data = json.loads(lookup("formats", "node_link")(circuit))
    back = Circuit(nx.node_link_graph(data, edges="edges"))
    assert to_json(back) == to_json(circuit)
    assert nx.utils.graphs_equal(nx.Graph(back.edges), nx.Graph(circuit.edges))


def test_cytoscape_holds_everything() -> None:
    circuit = some_circuit()
    data = json.loads(lookup("formats", "cyjs")(circuit))
    back = nx.cytoscape_graph(data)
    assert set(back.edges) == set(circuit.edges)
    assert back["m0"]["a1.g0.k"]["weight"] == -0.7
    assert back["m0"]["a1.g0.k"]["name"] == "m0->a1.g0<k>"
    assert back["a1.g0.k"]["a1.h0"]["interaction"] == "plumbing"
    assert back.nodes["a1.h0"]["role"] == "mover <b>"
    assert json.loads(back.graph["settings"]) == {"steps": 5, "at": [None]}
    found = [own["data"]["id"] for own in data["elements"]["edges"]]
    assert len(set(found)) == len(found) == len(circuit.edges)


def test_gexf_holds_everything_and_no_date() -> None:
    circuit = some_circuit()
    text = lookup("formats", "gexf")(circuit)
    back = nx.read_gexf(io.BytesIO(text.encode()))
    assert set(back.edges) == set(circuit.edges)
    own = back["m0"]["a1.g0.k"]
    assert (own["weight"], own["label"]) == (-0.7, "m0->a1.g0<k>")
    assert (own["exact"], own["start_"], own["type_"], own["id_"]) == (True, 3, "x", "y")
    assert back.nodes["a1.h0"]["role"] == "mover <b>"
    assert "lastmodified" not in text
    described = text.partition("<description>")[2].partition("</description>")[0]
    assert "&lt;" in described
    assert '\\"steps\\": 5' in described


@pytest.mark.parametrize("suffix", ["node_link", "cyjs", "gexf"])
def test_a_graph_without_wiring_is_refused(suffix: str) -> None:
    with pytest.raises(CircuitError, match="wiring"):
        lookup("formats", suffix)(nx.DiGraph())
