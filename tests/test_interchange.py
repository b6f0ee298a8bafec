"""Other tools' files: what is written is read again, and what is wrong is named in one sentence."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from families import FAMILIES, _hf, dataset
from families import GROUPED as GROUPED_LLAMA

from circuitkit.cli.main import main
from circuitkit.corruptions import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.data.tasks import make_task
from circuitkit.discovery.attribution import eap
from circuitkit.errors import CircuitError, CircuitkitError, OutputError, ScoresError
from circuitkit.evaluation.faithfulness import evaluate
from circuitkit.evaluation.size_curves import SHARES
from circuitkit.formats.interchange.eap_ig import (
    SUFFIXES,
    is_eap,
    read_eap_circuit,
    read_eap_scores,
    write_eap,
)
from circuitkit.formats.interchange.mib import LIMITS, mib_circuits, read_mib, write_mib
from circuitkit.graph import circuit as circuits
from circuitkit.graph.circuit import build, edges, mask, weight_matrix
from circuitkit.graph.nodes import parse_edge
from circuitkit.graph.scores import Scores, ScoresWarning
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics import logit_diff
from circuitkit.models.loading import load
from circuitkit.models.transformer_lens import from_module

SMALL = Wiring(1, 1, 1)
# A graph of that wiring, written by hand: which edges there are, in what units, and which are kept.
BY_HAND = {
    "input->a0.h0<q>": (0.5, True),
    "input->a0.h0<k>": (-0.25, False),
    "input->a0.h0<v>": (0.125, True),
    "input->m0": (0.0, False),
    "input->logits": (-2.0, True),
    "a0.h0->m0": (1e-9, False),
    "a0.h0->logits": (3.0, True),
    "m0->logits": (1.0, False),
}
CFG = {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 4}
KEPT_NODES = {"input": True, "a0.h0": True, "m0": False, "logits": True}
WIRINGS = [Wiring(2, 3, 3), Wiring(3, 2, 2, parallel=True), SMALL]
either_suffix = pytest.mark.parametrize("suffix", SUFFIXES)
every_wiring = pytest.mark.parametrize("wiring", WIRINGS, ids=str)


def old_form() -> dict[str, Any]:
    """The graph as EAP-IG wrote it at first: the nodes are flags."""
    named = {name: {"score": s, "in_graph": kept} for name, (s, kept) in BY_HAND.items()}
    return {"cfg": dict(CFG), "nodes": dict(KEPT_NODES), "edges": named}


def new_form() -> dict[str, Any]:
    """As it writes it now: the nodes are objects."""
    nodes = {name: {"in_graph": kept} for name, kept in KEPT_NODES.items()}
    return {**old_form(), "nodes": nodes}


def tensors() -> dict[str, Any]:
    """The same as ``Graph.to_pt`` writes it, with garbage where there is no edge."""
    scores = torch.tensor(
        [
            [0.5, -0.25, 0.125, 0.0, -2.0],
            [9.0, 9.0, 9.0, 1e-9, 3.0],
            [9.0, torch.nan, 9.0, 9.0, 1.0],
        ],
        dtype=torch.float64,
    )
    kept = torch.tensor([[1, 0, 1, 0, 1], [1, 1, 0, 0, 1], [1, 0, 0, 0, 0]]).bool()
    return {
        "cfg": dict(CFG),
        "src_nodes": ["input", "a0.h0", "m0"],
        "dst_nodes": ["a0.h0<q>", "a0.h0<k>", "a0.h0<v>", "m0", "logits"],
        "edges_scores": scores,
        "edges_in_graph": kept,
        "nodes_in_graph": torch.tensor([True, True, False]),
    }


def old_tensors() -> dict[str, Any]:
    """As older versions wrote them: other names, and the nodes' flags beside them."""
    given = tensors()
    return {
        "cfg": given["cfg"], "src_nodes": dict.fromkeys(given["src_nodes"], True),
        "dst_nodes": given["dst_nodes"], "edges": given["edges_scores"],
        "edges_in_graph": given["edges_in_graph"],
    }  # fmt: skip


FORMS = [old_form, new_form, tensors, old_tensors]


def saved(data: Any, place: Path) -> Path:
    """The data in a file of its form."""
    if isinstance(data, dict) and any(isinstance(v, torch.Tensor) for v in data.values()):
        torch.save(data, place / "graph.pt")
        return place / "graph.pt"
    (place / "graph.json").write_text(json.dumps(data))
    return place / "graph.json"


def some_scores(wiring: Wiring, seed: int = 0) -> Scores:
    """Random scores, with garbage where there is no edge; those into the logits help, as where a
    model does its task."""
    values = np.random.default_rng(seed).standard_normal(wiring.shape)
    values[:, -1] = np.abs(values[:, -1])
    return Scores(wiring, np.where(wiring.legal, values, np.nan))


def flat(circuit: nx.DiGraph) -> dict[tuple[str, str], float]:
    """A circuit's edges and weights."""
    return {(str(w), str(r)): weight for w, r, weight in edges(circuit)}


# -- what is written is read again -----------------------------------------------------------------
@either_suffix
@every_wiring
def test_scores_come_back_exactly(wiring: Wiring, suffix: str, tmp_path: Path) -> None:
    scores = some_scores(wiring)
    back = read_eap_scores(write_eap(scores, tmp_path / f"s{suffix}", d_model=8))
    assert back.wiring == wiring
    assert (back.values[wiring.legal] == scores.values[wiring.legal]).all()
    assert len(np.unique(back.values[wiring.legal])) == wiring.n_edges
    assert not back.values[~wiring.legal].any()


@either_suffix
@every_wiring
def test_a_circuit_comes_back(wiring: Wiring, suffix: str, tmp_path: Path) -> None:
    circuit = some_scores(wiring).top(5)
    before = flat(circuit)
    back = read_eap_circuit(write_eap(circuit, tmp_path / f"c{suffix}", d_model=8))
    assert 0 < len(before) < wiring.n_edges
    assert flat(back) == before == flat(circuit)
    assert circuits.wiring_of(back) == wiring
    assert nx.utils.graphs_equal(nx.Graph(back.edges), nx.Graph(circuit.edges))


@either_suffix
def test_an_edge_of_weight_zero_stays_in_the_circuit(suffix: str, tmp_path: Path) -> None:
    circuit = build(SMALL, {("input", "logits"): 0.0, ("m0", "logits"): -1.0})
    path = write_eap(circuit, tmp_path / f"c{suffix}", d_model=8)
    assert flat(read_eap_circuit(path)) == flat(circuit)


@either_suffix
def test_scores_carry_the_circuit_that_is_chosen_of_them(suffix: str, tmp_path: Path) -> None:
    scores, path = some_scores(WIRINGS[0]), tmp_path / f"s{suffix}"
    keep = scores.mask(7)
    write_eap(scores, path, d_model=8, keep=keep | ~scores.wiring.legal)
    assert flat(read_eap_circuit(path)) == flat(scores.circuit(keep))
    assert len(flat(scores.circuit(keep))) > 1
    chosen = Scores(scores.wiring, np.where(keep, scores.values, 0), {"chosen": True})
    assert (mask(read_eap_circuit(write_eap(chosen, path, d_model=8))) == keep).all()
    write_eap(scores, path, d_model=8)
    with pytest.raises(CircuitError, match=r"none is in the graph.*top\(n\)"):
        read_eap_circuit(path)
    assert not flat(read_eap_circuit(path, empty=True))


# -- heads that share keys and values --------------------------------------------------------------
GROUPED = Wiring(2, 6, 2)


def by_head(name: str, wiring: Wiring) -> list[str]:
    """The edges of EAP-IG's graph that an edge of ours is, by their names."""
    writer, reader = parse_edge(name)
    if reader.group is None:
        return [name]
    size = wiring.heads // wiring.groups
    heads = range(reader.group * size, (reader.group + 1) * size)
    return [f"{writer}->a{reader.layer}.h{head}<{reader.port}>" for head in heads]


@either_suffix
def test_each_head_gets_the_edge_of_its_group(suffix: str, tmp_path: Path) -> None:
    scores, path = some_scores(GROUPED), tmp_path / f"g{suffix}"
    circuit = scores.top(40)
    write_eap(scores, path, d_model=8, keep=scores.mask(40))
    plain = Wiring(2, 6, 6)
    without = tmp_path / f"foreign{suffix}"  # as another tool writes it, that does not say groups
    without.write_bytes(path.read_bytes())
    if suffix == ".json":
        data = json.loads(path.read_text())
        assert data["cfg"].pop("n_key_value_heads") == 2
        assert len(data["edges"]) == plain.n_edges
        for name in scores:
            found = [data["edges"][own] for own in by_head(name, GROUPED)]
            kept = bool(mask(circuit)[GROUPED.index(*parse_edge(name))])
            assert {own["in_graph"] for own in found} == {kept}
            assert sum(own["score"] for own in found) == pytest.approx(scores[name], rel=1e-12)
        without.write_text(json.dumps(data))
    else:
        tensors = torch.load(path, weights_only=True)
        del tensors["cfg"]["n_key_value_heads"]
        torch.save(tensors, without)
    for place, given in ((path, None), (path, GROUPED), (without, GROUPED)):
        back = read_eap_scores(place, given)
        assert back.wiring == GROUPED
        assert np.allclose(back.values, np.where(GROUPED.legal, scores.values, 0), rtol=1e-12)
        assert (mask(read_eap_circuit(place, given)) == mask(circuit)).all()
    assert read_eap_scores(without).wiring == plain


def test_a_groups_score_is_the_sum_of_its_heads(tmp_path: Path) -> None:
    scores = some_scores(Wiring(2, 6, 6))
    found = read_eap_scores(write_eap(scores, tmp_path / "g.json", d_model=8), GROUPED)
    for name in found:
        assert found[name] == pytest.approx(sum(scores[own] for own in by_head(name, GROUPED)))
    assert found["input->a1.g1<k>"] != 0


def test_an_edge_that_some_heads_of_a_group_keep_is_kept_by_all(tmp_path: Path) -> None:
    weights = {("input", "a0.h1.k"): 1.0, ("input", "a0.h5.v"): 2.0, ("a0.h1", "logits"): 3.0}
    path = write_eap(build(Wiring(2, 6, 6), weights), tmp_path / "g.json", d_model=8)
    with pytest.warns(ScoresWarning, match="2 edges into keys or values for some heads"):
        found = read_eap_circuit(path, GROUPED)
    assert flat(found) == {
        ("input", "a0.g0.k"): 1.0, ("input", "a0.g1.v"): 2.0, ("a0.h1", "logits"): 3.0,
    }  # fmt: skip
    assert found.graph["widened"] == 2
    write_eap(build(GROUPED, {("input", "logits"): 1.0}), path, d_model=8)
    with pytest.raises(CircuitError, match="heads, 2 key/value groups, and this one has 2 layers"):
        read_eap_circuit(path, Wiring(2, 6, 6))


def twins() -> tuple[Any, Any]:
    """A tiny Llama whose heads share keys and values, and the same with those of each head."""
    torch.manual_seed(0)
    shared = FAMILIES["llama"]()
    own = _hf("LlamaForCausalLM", **{**GROUPED_LLAMA, "num_key_value_heads": 4})()
    state = dict(shared.state_dict())
    for name, weight in state.items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            heads = weight.unflatten(0, (2, -1))
            state[name] = heads.repeat_interleave(2, dim=0).flatten(0, 1)
    own.load_state_dict(state)
    return from_module(shared, name="shared"), from_module(own, name="own")


def test_a_grouped_model_and_its_twin_without_groups_exchange_scores_and_circuits(
    tmp_path: Path,
) -> None:
    """EAP-IG and MIB ungroup models: their graphs are the twin's. What is found of one is, in a
    file, what is found of the other; and circuits evaluate equally."""
    shared, own = twins()
    data = dataset()
    ours, theirs = (eap(m, data, logit_diff, counterfactual) for m in (shared, own))
    read = read_eap_scores(write_eap(theirs, tmp_path / "t.pt", d_model=32), shared.wiring)
    size = np.abs(ours.values).max()
    assert np.abs((read.values - ours.values)[ours.wiring.legal]).max() < 2e-6 * size
    path = write_eap(ours.top(60), tmp_path / "c.json", d_model=32)
    assert circuits.wiring_of(read_eap_circuit(path)) == shared.wiring
    raw = json.loads(path.read_text())
    del raw["cfg"]["n_key_value_heads"]
    path.write_text(json.dumps(raw))
    here = evaluate(shared, read_eap_circuit(path, shared.wiring), data, logit_diff, counterfactual)
    there = evaluate(own, read_eap_circuit(path), data, logit_diff, counterfactual)
    assert here.circuit == pytest.approx(there.circuit, abs=1e-5)
    assert np.abs(here.circuit - here.everything).max() > 1e-3


# -- which sign ------------------------------------------------------------------------------------
@either_suffix
def test_scores_of_the_other_sign_are_hinted_at_and_turned_around(
    suffix: str, tmp_path: Path
) -> None:
    scores = Scores(WIRINGS[0], np.where(WIRINGS[0].legal, 1.0, 0.0))
    path = write_eap(
        Scores(scores.wiring, -scores.values), tmp_path / f"s{suffix}", d_model=8,
        keep=scores.mask(9),
    )  # fmt: skip
    for read in (read_eap_scores, read_eap_circuit):
        with pytest.warns(ScoresWarning, match="add up to -100% .* sign=-1"):
            read(path)
    assert (read_eap_scores(path, sign=-1).values == scores.values).all()
    assert set(flat(read_eap_circuit(path, sign=-1)).values()) == {1.0}
    with pytest.raises(ScoresError, match="sign=2 is not a sign"):
        read_eap_scores(path, sign=2)


# -- graphs written by hand ------------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_graph_says_the_same(form: Callable[[], Any], tmp_path: Path) -> None:
    path = saved(form(), tmp_path)
    assert is_eap(path)
    scores, circuit = read_eap_scores(path, SMALL), read_eap_circuit(path, SMALL)
    assert scores.wiring == circuits.wiring_of(circuit) == SMALL
    for name, (score, kept) in BY_HAND.items():
        at = SMALL.index(*parse_edge(name))
        assert scores.values[at] == score
        assert mask(circuit)[at] == kept
        assert weight_matrix(circuit)[at] == (score if kept else 0)
    assert not scores.values[~SMALL.legal].any()
    assert len(BY_HAND) == SMALL.n_edges
    assert int(mask(circuit).sum()) == sum(kept for _, kept in BY_HAND.values())


def test_what_is_written_has_the_form_that_eap_ig_reads(tmp_path: Path) -> None:
    circuit = read_eap_circuit(saved(new_form(), tmp_path))
    written = json.loads(write_eap(circuit, tmp_path / "c.json", d_model=4).read_text())
    expected = new_form()
    for entry in expected["edges"].values():
        entry["score"] *= entry["in_graph"]
    assert written == expected
    data = torch.load(write_eap(circuit, tmp_path / "c.pt", d_model=4), weights_only=True)
    given = tensors()
    assert data.keys() == given.keys()
    assert all(data[key] == given[key] for key in ("cfg", "src_nodes", "dst_nodes"))
    legal = torch.tensor(SMALL.legal)
    assert (data["edges_in_graph"] == (given["edges_in_graph"] & legal)).all()
    assert (data["nodes_in_graph"] == given["nodes_in_graph"]).all()
    assert data["nodes_in_graph"].dtype == data["edges_in_graph"].dtype == torch.bool


def test_what_stands_at_no_edge_is_not_written(tmp_path: Path) -> None:
    wiring = WIRINGS[0]
    every = np.ones(wiring.shape, dtype=bool)
    path = write_eap(some_scores(wiring), tmp_path / "s.pt", d_model=8, keep=every)
    data = torch.load(path, weights_only=True)
    assert int(data["edges_in_graph"].sum()) == wiring.n_edges < every.sum()
    assert not data["edges_scores"][torch.tensor(~wiring.legal)].any()
    assert data["edges_scores"].any()


def test_a_circuit_without_scores_is_unweighted(tmp_path: Path) -> None:
    graph = new_form()
    for entry in graph["edges"].values():
        del entry["score"]
    path = saved(graph, tmp_path)
    circuit = read_eap_circuit(path)
    assert circuit.graph["unweighted"]
    assert set(flat(circuit).values()) == {1.0}
    assert len(flat(circuit)) == sum(kept for _, kept in BY_HAND.values())
    with pytest.raises(ScoresError, match="no 'score'"):
        read_eap_scores(path)


def test_scores_without_flags_are_scores(tmp_path: Path) -> None:
    graph = new_form()
    for entry in graph["edges"].values():
        del entry["in_graph"]
    path = saved(graph, tmp_path)
    assert read_eap_scores(path).values.max() == 3.0
    with pytest.raises(CircuitError, match="no 'in_graph'"):
        read_eap_circuit(path)


# -- what is wrong ---------------------------------------------------------------------------------
def changed(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    """Put a value at the end of that way through the graph."""

    def change(graph: dict[str, Any]) -> None:
        for key in keys[:-1]:
            graph = graph[key]
        graph[keys[-1]] = to

    return change


def lacking(*keys: str) -> Callable[[dict[str, Any]], None]:
    """Take away what stands at the end of that way."""

    def change(graph: dict[str, Any]) -> None:
        for key in keys[:-1]:
            graph = graph[key]
        del graph[keys[-1]]

    return change


BAD = {
    "a missing edge": (lacking("edges", "m0->logits"), "1 of 8 edges are missing.*m0->logits"),
    "an unknown edge": (
        changed("edges", "m0->m1", to={}), "1 of its edges are not those.*'m0->m1'"
    ),
    "an edge backwards": (changed("edges", "m0->a0.h0<q>", to={}), "m0->a0.h0<q>"),
    "a missing node": (lacking("nodes", "m0"), "1 of 4 nodes are missing.*m0"),
    "an unknown node": (
        changed("nodes", "a0.h1", to=True), "1 of its nodes are not.*1 layers × 1 heads.*'a0.h1'"
    ),
    "a node without a flag": (changed("nodes", "m0", to="yes"), "m0.*'yes'"),
    "a score in words": (
        changed("edges", "m0->logits", "score", to="high"), "1 edges.*'score'.*logits with 'high'"
    ),
    "a score that is true": (changed("edges", "m0->logits", "score", to=True), "with True"),
    "an infinite score": (changed("edges", "m0->logits", "score", to=float("inf")), "with inf"),
    "no number": (changed("edges", "m0->logits", "score", to=float("nan")), "with nan"),
    "one score too few": (lacking("edges", "m0->logits", "score"), "with None"),
    "a flag that is a number": (changed("edges", "m0->m0", to=1), "'m0->m0'"),
    "an edge that is a number": (changed("edges", "m0->logits", to=1), "m0->logits is 1"),
    "no flag": (changed("edges", "m0->logits", "in_graph", to=1), "true or false.*with 1"),
    "no configuration": (lacking("cfg"), "'cfg' is None"),
    "half a configuration": (lacking("cfg", "n_heads"), "no 'n_heads'"),
    "no layers": (changed("cfg", "n_layers", to=0), "positive whole numbers"),
    "another size": (changed("cfg", "n_layers", to=2), "missing, the first a1.h0"),
    "no edges": (lacking("edges"), "'edges' is None"),
    "nodes in a list": (changed("nodes", to=["m0"]), "'nodes' is .* instead of an object"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_graph_is_one_sentence(case: str, tmp_path: Path) -> None:
    change, words = BAD[case]
    graph = new_form()
    read_eap_scores(saved(graph, tmp_path))
    change(graph)
    path = saved(graph, tmp_path)
    for read, kind in ((read_eap_scores, ScoresError), (read_eap_circuit, CircuitError)):
        with pytest.raises(kind, match=words) as told:
            read(path)
        assert "\n" not in str(told.value)
        assert repr(str(path)) in str(told.value)


BAD_TENSORS = {
    "a different order": (changed("dst_nodes", to=tensors()["dst_nodes"][::-1]), "different order"),
    "a missing writer": (changed("src_nodes", to=["input", "m0"]), "missing, the first a0.h0"),
    "names that are none": (changed("src_nodes", to=3), "'src_nodes' is 3"),
    "a missing column": (changed("edges_scores", to=torch.ones(3, 4)), r"\(3, 4\).*\(3, 5\)"),
    "no tensor": (changed("edges_in_graph", to=[1]), r"'edges_in_graph' is \[1\]"),
    "a score that is no number": (
        changed("edges_scores", to=torch.full((3, 5), torch.nan)), "8 scores are not finite"
    ),
    "neurons of other nodes": (changed("neurons_in_graph", to=torch.ones(2, 4)), "3 writers"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_bad_tensors_are_one_sentence(case: str, tmp_path: Path) -> None:
    change, words = BAD_TENSORS[case]
    graph = tensors()
    read_eap_scores(saved(graph, tmp_path))
    change(graph)
    with pytest.raises(ScoresError, match=words) as told:
        read_eap_scores(saved(graph, tmp_path))
    assert "\n" not in str(told.value)


def test_a_graph_of_nodes_has_no_scores_of_edges(tmp_path: Path) -> None:
    graph = new_form()
    for entry in graph["edges"].values():
        entry["score"] = 0.0
    with pytest.raises(ScoresError, match="ranks nodes or neurons"):
        read_eap_scores(saved(graph, tmp_path))


def test_a_component_of_some_neurons_is_refused(tmp_path: Path) -> None:
    plain, beside, tensor = new_form(), old_form(), tensors()
    plain["nodes"]["a0.h0"]["neurons"] = [True, False, True, True]
    beside["neurons"] = {"a0.h0": [1.0, 0.0, 1.0, 1.0]}
    tensor["neurons_in_graph"] = torch.tensor([[1] * 4, [1, 0, 1, 1], [0] * 4])
    for graph in (plain, beside, tensor):
        with pytest.raises(CircuitError, match=r"1 of its nodes keep only some neurons.* a0\.h0;"):
            read_eap_circuit(saved(graph, tmp_path))
    plain["nodes"]["a0.h0"]["neurons"] = [True] * 4
    plain["nodes"]["m0"]["neurons"] = [False] * 4  # it is not in the graph
    tensor["neurons_in_graph"][1] = 1
    for graph in (plain, tensor):
        assert flat(read_eap_circuit(saved(graph, tmp_path)))


@either_suffix
def test_what_is_no_graph_is_one_sentence(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    for content in (None, b"", b"[]", b"\xff\xfe", b"{", pickle.dumps(Wiring, 2)):
        if content is not None:
            path.write_bytes(content)
        for read in (read_eap_scores, read_eap_circuit):
            with pytest.raises(CircuitkitError, match="holds no") as told:
                read(path)
            assert "\n" not in str(told.value)


def test_a_pt_file_executes_nothing(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (tmp_path / "sprung").touch, ()

    torch.save({**tensors(), "cfg": Trap()}, tmp_path / "graph.pt")
    with pytest.raises(ScoresError, match="more than tensors"):
        read_eap_scores(tmp_path / "graph.pt")
    assert not (tmp_path / "sprung").exists()
    torch.load(tmp_path / "graph.pt", weights_only=False)
    assert (tmp_path / "sprung").exists()


def test_another_models_graph_is_refused(tmp_path: Path) -> None:
    path = saved(new_form(), tmp_path)
    others = [Wiring(2, 1, 1), Wiring(1, 2, 2), Wiring(1, 1, 1, parallel=True)]
    for wiring in others:
        with pytest.raises(ScoresError, match="a model with 1 layers × 1 heads, and this one"):
            read_eap_scores(path, wiring)
        with pytest.raises(CircuitError, match="a model with 1 layers × 1 heads, and this one"):
            read_eap_circuit(path, wiring)


@pytest.mark.parametrize(
    ("wiring", "words"),
    [
        (Wiring(2, 2, 2, mlp=False), "MLPs"),
        (Wiring(2, 2, 2, experts=(3, 0)), "experts"),
    ],
)
def test_models_that_the_format_cannot_describe_are_refused(
    wiring: Wiring, words: str, tmp_path: Path
) -> None:
    scores = some_scores(wiring)
    for item in (scores, scores.top(4)):
        with pytest.raises(CircuitError, match=words):
            write_eap(item, tmp_path / "x.json", d_model=8)
    with pytest.raises(CircuitError, match=words):
        write_mib({("ioi", "toy"): scores}, tmp_path, d_model={"toy": 8})
    with pytest.raises(ScoresError, match=words):
        read_eap_scores(saved(new_form(), tmp_path / "."), wiring)
    assert [path.name for path in tmp_path.iterdir()] == ["graph.json"]


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.json and \.pt"):
        write_eap(some_scores(SMALL), tmp_path / "x.svg", d_model=4)
    with pytest.raises(OutputError, match=r"'\.svg'"):
        write_mib({}, tmp_path, d_model={}, suffix=".svg")


# -- submissions -----------------------------------------------------------------------------------
WIDE = Wiring(4, 8, 8)  # 0.1 % of its edges are one edge


def nine(wiring: Wiring = WIDE, seed: int = 0) -> list[nx.DiGraph]:
    """A circuit of each size, the largest first."""
    scores = some_scores(wiring, seed)
    sizes = [int(limit * wiring.n_edges) for limit in LIMITS]
    return [scores.circuit(_best(scores, size)) for size in reversed(sizes)]


def _best(scores: Scores, size: int) -> np.ndarray:
    keep = np.zeros(scores.wiring.shape, dtype=bool)
    keep.flat[scores.ranking()[:size]] = True
    return keep


def test_the_nine_sizes_are_those_of_the_curve() -> None:
    assert SHARES[:-1] == LIMITS


@either_suffix
def test_a_submission_comes_back(suffix: str, tmp_path: Path) -> None:
    scores, chosen = some_scores(SMALL), nine()
    given = {("ioi", "gpt2"): scores, ("arc_easy", "llama3"): chosen}
    widths = {"gpt2": 4, "llama3": 8}
    paths = write_mib(given, tmp_path, d_model=widths, suffix=suffix)
    assert len(paths) == 10
    assert {path.parent.name for path in paths} == {"ioi_gpt2", "arc-easy_llama3"}
    (tmp_path / "README.md").write_text("not a graph")
    (tmp_path / ".git").mkdir()
    found = read_mib(tmp_path, {"gpt2": SMALL, "llama3": WIDE})
    assert list(found) == [("arc-easy", "llama3"), ("ioi", "gpt2")]
    one, many = found["ioi", "gpt2"], found["arc-easy", "llama3"]
    assert isinstance(one, Scores)
    assert isinstance(many, tuple)
    assert (one.values == np.where(SMALL.legal, scores.values, 0)).all()
    assert [flat(c) for c in many] == [flat(c) for c in reversed(chosen)]
    assert [len(flat(c)) for c in many] == [int(limit * WIDE.n_edges) for limit in LIMITS]
    assert len(flat(many[0])) >= 1


def test_bad_submissions_are_one_sentence(tmp_path: Path) -> None:
    def refused(words: str, wirings: dict[str, Wiring] | None = None) -> None:
        with pytest.raises(CircuitkitError, match=words) as told:
            read_mib(tmp_path, wirings)
        assert "\n" not in str(told.value)

    with pytest.raises(CircuitError, match="not a folder that can be read"):
        read_mib(tmp_path / "nowhere")
    refused("no folder TASK_MODEL")
    (tmp_path / "ioi").mkdir()
    refused("'.*ioi' is not called TASK_MODEL")
    (tmp_path / "ioi").rename(tmp_path / "ioi_gpt2")
    refused("holds 0 graphs; give one with scores, or 9 circuits")
    write_mib({("ioi", "gpt2"): nine()}, tmp_path, d_model={"gpt2": 8})
    assert read_mib(tmp_path)
    refused("ioi_gpt2/0.1.json' holds no circuit.*4 layers × 8 heads.*1 layers", {"gpt2": SMALL})
    write_mib({("mcqa", "gpt2"): some_scores(SMALL)}, tmp_path, d_model={"gpt2": 8})
    refused("mcqa_gpt2.*1 layers × 1 heads, and this one has 4 layers")
    (tmp_path / "mcqa_gpt2" / "importances.json").unlink()
    (tmp_path / "mcqa_gpt2").rmdir()
    half = (tmp_path / "ioi_gpt2" / "50.json").read_bytes()
    (tmp_path / "ioi_gpt2" / "20.json").write_bytes(half)
    total = WIDE.n_edges
    refused(f"circuit 8 of .* has {total // 2:,} edges, .* {total // 5:,} are 20.0%")
    (tmp_path / "ioi_gpt2" / "20.json").unlink()
    refused("holds 8 graphs")


def test_nothing_is_written_of_an_unsound_submission(tmp_path: Path) -> None:
    good = {("ioi", "gpt2"): some_scores(SMALL)}
    bad: list[tuple[Any, str]] = [
        ({("mcqa", "gpt2"): nine()[1:]}, "has 8 circuits; give 9"),
        ({("mcqa", "gpt2"): [nine()[0]] * 9}, "circuit 1 of"),
        ({("mcqa", "gpt2"): [*nine()[1:], *nine(Wiring(4, 8, 8, parallel=True))[:1]]}, "different"),
        ({("mcqa", "a_b"): some_scores(SMALL)}, "TASK_MODEL"),
        ({("mcqa", "a/b"): some_scores(SMALL)}, "TASK_MODEL"),
        ({("", "gpt2"): some_scores(SMALL)}, "TASK_MODEL"),
        ({("mcqa", "qwen"): some_scores(SMALL)}, "width of qwen"),
    ]
    widths = {"gpt2": 4, "a_b": 4, "a/b": 4}
    for more, words in bad:
        with pytest.raises(CircuitError, match=words):
            write_mib({**good, **more}, tmp_path, d_model=widths)
        assert not list(tmp_path.iterdir())
    assert write_mib(good, tmp_path, d_model=widths)


def pruned(values: np.ndarray, wiring: Wiring, n: int) -> set[str]:
    """What EAP-IG's ``apply_topn`` and ``prune`` leave, by the words of their documentation: of the
    n edges of largest magnitude those whose ends keep edges on both sides, until nothing changes.
    """
    scores = Scores(wiring, values)
    ranked = sorted(scores, key=lambda name: -abs(scores[name]))[:n]
    left = {name: parse_edge(name) for name in ranked}
    while True:
        writers = {str(writer) for writer, _ in left.values()}
        fed = {str(reader.component) for _, reader in left.values()}
        kept = {
            name: (w, r)
            for name, (w, r) in left.items()
            if (w == "input" or str(w) in fed) and (r == "logits" or str(r.component) in writers)
        }
        if kept.keys() == left.keys():
            return set(kept)
        left = kept


def test_mibs_rule_is_what_its_code_chooses() -> None:
    scores = some_scores(WIDE, 3)
    for circuit, limit in zip(mib_circuits(scores), LIMITS, strict=True):
        n = int(limit * WIDE.n_edges)
        values = np.where(WIDE.legal, scores.values, 0)
        found = {f"{w}->{r}" for w, r in flat(circuit)}
        assert found == {"->".join(map(str, parse_edge(name))) for name in pruned(values, WIDE, n)}
        assert (circuit.graph["rule"], circuit.graph["limit"]) == ("mib", limit)
        assert len(found) <= n
    assert len(flat(mib_circuits(scores)[-1])) > 100


def test_our_rule_fills_each_of_the_nine() -> None:
    scores = some_scores(WIDE, 3)
    for circuit, limit in zip(mib_circuits(scores, "abs"), LIMITS, strict=True):
        assert len(flat(circuit)) == int(limit * WIDE.n_edges)
        assert circuit.graph["rule"] == "abs"
    with pytest.raises(ScoresError, match="'best' is not known"):
        mib_circuits(scores, "best")


@pytest.mark.parametrize("rule", ["mib", "abs", "greedy"])
def test_the_nine_of_a_grouped_model_are_counted_by_head(rule: str, tmp_path: Path) -> None:
    scores, widths = some_scores(GROUPED), {"llama3": 8}
    paths = write_mib({("ioi", "llama3"): scores}, tmp_path, d_model=widths, rule=rule)
    assert paths[0].name == f"0.1-{rule}.json"
    total = Wiring(2, 6, 6).n_edges
    for path, limit in zip(paths, LIMITS, strict=True):
        listed = json.loads(path.read_text())["edges"].values()
        assert sum(own["in_graph"] for own in listed) <= int(limit * total)
    found = read_mib(tmp_path)["ioi", "llama3"]
    assert isinstance(found, tuple)
    chosen = mib_circuits(scores, rule)
    assert [set(flat(c)) for c in found] == [set(flat(c)) for c in chosen]
    assert len(flat(found[-1])) > 10
    assert circuits.wiring_of(found[-1]) == GROUPED


def test_a_submission_of_another_sign_is_turned_around(tmp_path: Path) -> None:
    scores = some_scores(SMALL)
    turned = Scores(SMALL, -np.where(SMALL.legal, scores.values, 0))
    write_mib({("ioi", "gpt2"): turned}, tmp_path, d_model={"gpt2": 4})
    found = read_mib(tmp_path, sign=-1)["ioi", "gpt2"]
    assert isinstance(found, Scores)
    assert (found.values == -turned.values).all()


# -- the commands ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def mini_graphs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One circuit of the embedded model in our format, and in both of EAP-IG's."""
    wiring, place = load("mini").wiring, tmp_path_factory.mktemp("graphs")
    circuit = some_scores(wiring).top(60)
    ours = circuits.write_whole(place / "ours.json", circuits.to_json(circuit))
    return [ours, *(write_eap(circuit, place / f"theirs{s}", d_model=8) for s in SUFFIXES)]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_only_foreign_graphs_are_taken_for_such(mini_graphs: list[Path], tmp_path: Path) -> None:
    assert [is_eap(path) for path in mini_graphs] == [False, True, True]
    assert not is_eap(tmp_path / "nowhere.json")


def test_compare_takes_a_foreign_graph(
    mini_graphs: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ours, *theirs = map(str, mini_graphs)
    for path in theirs:
        told = said(capsys, "compare", ours, path)
        assert told["edges"]["jaccard"] == told["spearman"] == pytest.approx(1)
    other = write_eap(some_scores(load("mini").wiring, 1).top(60), tmp_path / "o.json", d_model=8)
    assert said(capsys, "compare", ours, str(other))["edges"]["jaccard"] < 0.5


def test_draw_takes_a_foreign_graph(
    mini_graphs: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said(capsys, "draw", str(mini_graphs[1]), "-o", str(tmp_path / "x.json"))
    assert flat(circuits.Circuit.load(tmp_path / "x.json")) == flat(
        circuits.Circuit.load(mini_graphs[0])
    )


def test_a_foreign_circuit_is_as_faithful_as_ours(mini_graphs: list[Path]) -> None:
    model = load("mini")
    data = Dataset.of(make_task("ioi", model, 8), model, batch_size=8)
    read = circuits.Circuit.load(mini_graphs[0]), *map(read_eap_circuit, mini_graphs[1:])
    ours, *theirs = evaluate(model, list(read), data, logit_diff, counterfactual)
    assert np.abs(ours.circuit).max() > 1e-3
    assert not np.allclose(ours.circuit, ours.everything)
    for found in theirs:
        assert (found.circuit == ours.circuit).all()


def test_evaluate_scores_a_foreign_graph(
    mini_graphs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--model", "mini", "--task", "ioi", "--metric", "logit_diff",
             "--corruption", "counterfactual", "--examples", "8", "--quiet"]  # fmt: skip
    ours, theirs = (said(capsys, "evaluate", str(p), *asked) for p in mini_graphs[:2])
    assert ours == theirs
    assert ours[0]["circuit"] != 0


def test_a_bad_foreign_graph_is_exit_code_two(
    mini_graphs: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    graph = new_form()
    del graph["edges"]["m0->logits"]
    assert main(["compare", str(mini_graphs[0]), str(saved(graph, tmp_path))]) == 2
    error = capsys.readouterr().err
    assert "1 of 8 edges are missing" in error
    assert error.count("\n") == 1
