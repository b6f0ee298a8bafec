"""Scores and circuits of nodes: their laws, and what each score is, by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import dataset, model

import circuitkit as ck
from circuitkit.corruptions import counterfactual, zero
from circuitkit.discovery import acdc, eap, exact, node_attribution
from circuitkit.engine.model import Model
from circuitkit.errors import ArgumentError, ScoresError
from circuitkit.evaluation.faithfulness import evaluate, evaluate_beside, measure_all
from circuitkit.evaluation.masks import drawn_nodes, node_level
from circuitkit.graph.scores import Scores
from circuitkit.metrics import logit_diff
from circuitkit.patching.nodes import patch_nodes
from circuitkit.workflows.discover import discover
from circuitkit.workflows.plan import plan

KINDS = ["gpt2", "neox-parallel", "llama", "gemma2", "olmo2", "mixtral", "attention-only"]
every_kind = pytest.mark.parametrize("family", KINDS)


@cache
def scored(family: str) -> Scores:
    return eap(model(family), dataset((7, 5)), logit_diff, counterfactual).by_node()


@cache
def mini() -> Model:
    return ck.load("mini")


# -- circuits of nodes -----------------------------------------------------------------------------
@every_kind
def test_all_nodes_are_the_clean_run_and_none_the_corrupted_one(family: str) -> None:
    m, data = model(family), dataset((7, 5))
    whole = scored(family).mask(scored(family).units)
    assert np.array_equal(whole, m.wiring.legal)
    direct = m.wiring.between([])
    assert np.argwhere(direct).tolist() == [[0, m.wiring.shape[1] - 1]]
    direct[0, -1] = False  # what the input writes into the logits changes at the answer or not
    found = measure_all(m, [whole, direct], data, [logit_diff], zero)[0]
    np.testing.assert_allclose(found[2], found[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[3], found[1], rtol=1e-4, atol=1e-4)


@every_kind
def test_a_circuit_of_nodes_ablates_every_other_node_as_a_whole(family: str) -> None:
    m, data = model(family), dataset((7, 5))
    some = scored(family).mask(6)
    held = {m.wiring.writers[row] for row in np.flatnonzero(some.any(1))}
    assert len(held) == 7, "the embedding is in every one"
    for writer, reader in np.argwhere(some):
        fed = m.wiring.fed(m.wiring.readers[reader])
        assert m.wiring.writers[writer] in held
        assert not fed or held & {*fed}
    inner = [
        (w, r)
        for w, r in np.argwhere(m.wiring.legal)
        if m.wiring.writers[w] in held
        and (not m.wiring.fed(m.wiring.readers[r]) or held & {*m.wiring.fed(m.wiring.readers[r])})
    ]
    assert len(inner) == some.sum(), "all edges between them"
    one, other = evaluate(m, [some, node_level(some, m)], data, logit_diff, counterfactual)
    np.testing.assert_allclose(one.circuit, other.circuit, rtol=1e-4, atol=1e-5)


@every_kind
def test_circuits_of_nodes_are_nested_and_as_large_as_asked_for(family: str) -> None:
    scores, before = scored(family), np.zeros(model(family).wiring.shape, dtype=bool)
    for n, mask in enumerate(scores.masks(range(1, scores.units + 1)), start=1):
        assert int(mask[:, -1].sum()) == n + 1
        assert (mask | before == mask).all()
        before = mask


def test_an_edge_has_the_score_of_its_weaker_end_and_a_threshold_chooses_nodes() -> None:
    scores, wiring = scored("gpt2"), model("gpt2").wiring
    nodes = scores.nodes
    assert list(nodes) == sorted(nodes, key=lambda name: -abs(nodes[name]))
    ends = nodes["a0.h1"], nodes["m2"]
    weaker = min(map(abs, ends)) * (-1 if min(ends) < 0 else 1)
    assert scores["a0.h1", "m2"] == pytest.approx(weaker, abs=1e-6)
    fifth, sixth = [abs(value) for value in nodes.values()][4:6]
    above = scores.above((fifth + sixth) / 2)
    assert np.array_equal(ck.graph.circuit.mask(above), scores.mask(5))
    assert len(wiring.writers) - 1 == scores.units == len(nodes)


def test_signed_nodes_are_those_that_help_most() -> None:
    scores = scored("gpt2")
    helping = sorted(scores.nodes.items(), key=lambda item: -item[1])[:4]
    circuit = scores.top(4, "signed")
    assert {*circuit.heads, *circuit.mlps} == {name for name, _ in helping}
    for rule in ("greedy", "mib"):
        with pytest.raises(ScoresError, match="abs, signed"):
            scores.mask(4, rule)


# -- scores of nodes -------------------------------------------------------------------------------
@every_kind
def test_a_node_scores_the_sum_of_its_out_edges_and_so_node_attribution(family: str) -> None:
    m, data = model(family), dataset((7, 5))
    edges = eap(m, data, logit_diff, counterfactual)
    for name, score in scored(family).nodes.items():
        row = m.wiring.writer[name]
        assert score == pytest.approx(edges.values[row].sum(), rel=1e-4, abs=1e-6)
    other = node_attribution(m, data, logit_diff, counterfactual, level="node")
    assert np.array_equal(other.values, scored(family).values)
    assert other.about["method"] == "node_attribution"
    spread = node_attribution(m, data, logit_diff, counterfactual)
    np.testing.assert_array_equal(spread.values[1:, -1], other.values[1:, -1])
    assert spread.level == "edge"


@every_kind
def test_the_exact_effect_of_a_node_is_what_the_circuit_of_all_others_loses(family: str) -> None:
    m, data = model(family), dataset((7, 5))
    found, rows = exact(m, data, logit_diff, counterfactual, level="node").nodes, m.wiring.writer
    others = [m.wiring.between({*rows.values()} - {rows[name]}) for name in found]
    each = evaluate(m, others, data, logit_diff, counterfactual)
    for score, own in zip(found.values(), each, strict=True):
        assert score == pytest.approx((own.everything - own.circuit).mean(), rel=1e-3, abs=1e-4)
    assert max(map(abs, found.values())) > 1e-3
    if family in ("gemma2", "olmo2"):  # where a norm over all heads moves what the others write
        return
    heads = patch_nodes(m, "z", data, logit_diff, counterfactual, direction="noise")
    for name in (name for name in found if m.wiring.writers[rows[name]].is_head):
        assert found[name] == pytest.approx(heads[name].mean(), rel=1e-3, abs=1e-4)


def test_exact_effects_of_nodes_resume_and_do_not_depend_on_batches(tmp_path: Path) -> None:
    m, data = model("gpt2"), dataset((7, 5, 6))
    whole = exact(m, data, logit_diff, zero, level="node").values
    single = replace(data, batch_size=1)
    kept = exact(m, single, logit_diff, zero, level="node", resume=tmp_path).values
    np.testing.assert_allclose(kept, whole, rtol=1e-4, atol=1e-5)
    blocks = sorted(tmp_path.rglob("*.safetensors"))
    assert len(blocks) == 3
    again = exact(m, single, logit_diff, zero, level="node", resume=tmp_path).values
    assert np.array_equal(again, kept)
    for wrong in ({"direction": "denoise"}, {"groups": "examples"}, {"edges": ["a0.h0->m0"]}):
        with pytest.raises(ArgumentError, match="leave out direction, edges and groups"):
            exact(m, data, logit_diff, zero, level="node", **wrong)  # type: ignore[arg-type]


def test_a_method_that_chose_a_circuit_chose_its_nodes() -> None:
    edges = acdc(model("gpt2"), dataset((7, 5)), logit_diff, counterfactual, threshold=0.05)
    nodes, wiring = edges.by_node(), edges.wiring
    assert edges.chosen is not None
    assert nodes.chosen is not None
    kept = {*np.flatnonzero((edges.values != 0).any(1))} - {0}
    assert {*np.flatnonzero(nodes.chosen.any(1))} - {0} == kept
    assert 0 < nodes.units == len(kept) < len(wiring.writers) - 1


# -- discoveries -----------------------------------------------------------------------------------
def test_random_circuits_have_as_many_nodes_and_the_others_are_nodes() -> None:
    m, data = model("llama"), dataset((7, 5))
    wiring, mask = m.wiring, scored("llama").mask(5)
    for drawn in drawn_nodes(wiring, 5, 3, 0):
        assert drawn[:, -1].sum() == 6
    beside = evaluate_beside(m, mask, data, logit_diff, counterfactual, halves=2, level="node")
    held = np.flatnonzero(mask.any(1))
    rest = wiring.between([row for row in range(1, len(wiring.writers)) if row not in held])
    assert beside.complement.edges == rest.sum()
    assert all(one.edges > mask.sum() for one in beside.halves)


def test_discover_finds_a_circuit_of_nodes_and_writes_it(tmp_path: Path) -> None:
    found = discover(mini(), "ioi", level="node", nodes=5, examples=4)
    assert found.level == "node"
    assert len(found.nodes) == 5
    assert "5 nodes, " in str(found)
    assert "all other nodes kept" in repr(found)
    assert "5 of as many nodes" in repr(found)
    assert list(found.to_frame()) == ["node", "score"]
    assert "Nodes were scored" in ck.cite(found).text
    assert "5 nodes and all edges between them" in ck.cite(found).text
    assert list(found.to_dict()["nodes"]) == list(found.nodes)
    found.save(tmp_path)
    circuit, scores = (
        ck.Circuit.load(tmp_path / "circuit.json"),
        ck.Scores.load(tmp_path / "scores.safetensors"),
    )
    assert circuit.graph["level"] == "node"
    assert circuit.graph["asked"]["nodes"] == 5
    assert {
        name: data["score"] for name, data in circuit.nodes(data=True) if "score" in data
    } == found.nodes
    assert list(scores.nodes)[:5] == list(found.nodes)
    assert np.array_equal(scores.mask(5), ck.graph.circuit.mask(circuit))
    assert ck.replay(tmp_path / "circuit.json", model=mini()).same


def test_without_a_size_it_is_the_fewest_nodes_that_reach_the_faithfulness() -> None:
    found = discover(
        mini(),
        "ioi",
        "logit_diff",
        "mean",
        level="node",
        method="exact",
        faithfulness=0.6,
        examples=8,
    )
    assert found.search is not None
    assert found.search.value >= 0.6
    assert 1 < len(found.nodes) < 20


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"nodes": 5}, "level='node'"),
        ({"level": "node", "edges": 5}, "counted in nodes"),
        ({"level": "node", "nodes": 21}, "mini has 20 nodes"),
        ({"level": "node", "rule": "greedy"}, "abs or signed"),
        ({"level": "node", "verify": 5}, "verify is of edges"),
        ({"level": "node", "refine": 8}, "refine is of edges"),
        ({"level": "node", "agreement": 0.5}, "agreement is of edges"),
        ({"level": "node", "nodes": 5, "faithfulness": 0.5}, "number of nodes or the faith"),
        ({"method": "exact(level='node')", "edges": 5}, "give level='node' too"),
        ({"method": lambda *inputs: eap(*inputs).by_node()}, "give level='node' too"),
    ],
)  # fmt: skip
def test_what_only_edges_have_is_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ScoresError, match=match):
        discover(mini(), "ioi", examples=4, **settings)


def test_a_plan_knows_nodes() -> None:
    found = plan(mini(), "ioi", level="node", nodes=5, method="exact", examples=8)
    assert "5 nodes of ioi" in found.title
    assert found.steps["scores"] < plan(mini(), "ioi", method="exact", examples=8).steps["scores"]
    assert "certainty.safetensors" not in found.files
