"""Attribution graphs of one prompt: rows add up, and totals are what changing features does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from families import distance, exactly, model
from torch import Tensor

from circuitkit.data.examples import Example
from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.memory import peak
from circuitkit.errors import BudgetError, DataError, DictionaryError, EvaluationError, ModelError
from circuitkit.features import Dictionary, tracing
from circuitkit.features.graphs import AttributionGraph, cumulative
from circuitkit.features.nodes import GraphNode
from circuitkit.features.questions import ask, live_gradients
from circuitkit.features.replacing import Replaced
from circuitkit.features.tracing import trace
from circuitkit.features.validation import Validation, agreement, validate
from circuitkit.graph.stages import MLP
from circuitkit.models.decoder import SPECIAL, Decoder

TOKENS = (7, 12, 3, 40, 12, 9)
PROMPT = Example(TOKENS, TOKENS, (5, 6), (8,), {})
OPEN = Example(TOKENS, TOKENS, (), (), {})


def drawn(rng: torch.Generator, *shape: int, like: Inspectable) -> Tensor:
    return torch.randn(*shape, generator=rng).to(like.dtype)


def coder(m: Inspectable, layer: int, f: int = 20, **changed: Any) -> Dictionary:
    """A random transcoder of a layer, with biases everywhere."""
    rng, d = torch.Generator().manual_seed(layer), m.d_model
    parts: dict[str, Any] = {
        "encoder": drawn(rng, f, d, like=m) / d**0.5, "encoder_bias": drawn(rng, f, like=m) / 3,
        "decoder": drawn(rng, f, d, like=m) / 4, "bias": drawn(rng, d, like=m) / 4,
    }  # fmt: skip
    return Dictionary(layer, **{**parts, **changed})


def coders(m: Inspectable, **changed: Any) -> list[Dictionary]:
    return [coder(m, layer, **changed) for layer in range(m.wiring.layers)]


def skip(m: Inspectable) -> Tensor:
    return drawn(torch.Generator().manual_seed(9), m.d_model, m.d_model, like=m) / 9


def crossing(m: Inspectable) -> list[Dictionary]:
    """A cross-layer transcoder: each layer writes in all later ones."""
    found, layers = [], m.wiring.layers
    for layer in range(layers):
        later = tuple(range(layer, layers))
        rng = torch.Generator().manual_seed(layer)
        rows = drawn(rng, 20, len(later), m.d_model, like=m) / 4
        found.append(coder(m, layer, decoder=rows, targets=later))
    return found


# -- rows ------------------------------------------------------------------------------------------
KINDS: dict[str, Any] = {
    "relu": coders,
    "topk": lambda m: coders(m, activation="topk", k=4),
    "jumprelu": lambda m: coders(m, activation="jumprelu", threshold=torch.full((20,), 0.3)),
    "skip": lambda m: coders(m, skip=skip(m)),
    "before the norm": lambda m: coders(m, reads="resid_mid", skip=skip(m)),
    "cross-layer": crossing,
    "one layer": lambda m: [coder(m, 1)],
}
CASES = [
    *(("gpt2", kind) for kind in KINDS),
    *((name, "skip") for name in ("llama", "neox-parallel", "gemma2", "granite", "mixtral")),
    ("gemma3", "before the norm"), ("falcon", "cross-layer"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_rows_add_up(family: str, kind: str) -> None:
    m = model(family)
    for prompt in (PROMPT, OPEN):
        graph = trace(m, prompt, KINDS[kind](m))
        assert 0 < graph.about["largest_error"] < 1e-5
        takes = graph.of_kind("feature", "logit")
        assert distance((graph.weights.sum(1))[takes], graph.sums[takes]) < 1e-5
        assert not graph.weights[~takes].nnz
        features = graph.of_kind("feature")
        values = np.array([node.value for node in graph.nodes])
        assert distance(graph.sums[features], values[features]) < 1e-5
        assert {node.layer for node in graph.nodes if node.kind == "feature"} == {
            own.layer for own in KINDS[kind](m)
        }


def test_an_mlp_without_a_dictionary_is_all_error() -> None:
    m = model("gpt2")
    graph = trace(m, PROMPT, coders(m)[1:])  # which requires that rows add up
    unexplained = graph.about["unexplained"]
    assert isinstance(unexplained, dict)
    assert unexplained["0"] == 1
    assert 1 not in [*unexplained.values()][1:]
    assert ", and all of 1 MLPs without a dictionary" in repr(graph)
    assert not [node for node in graph.nodes if (node.kind, node.layer) == ("feature", 0)]
    assert len([node for node in graph.nodes if (node.kind, node.layer) == ("error", 0)]) == 6
    assert "without a dictionary" not in repr(trace(m, PROMPT, coders(m)))


def test_the_target_is_the_models_own() -> None:
    m = model("gpt2")
    tokens = torch.tensor([TOKENS])
    logits = m.native(tokens, torch.ones_like(tokens).bool()).logits[0, -1].double()
    contrast = trace(m, PROMPT, coders(m))
    assert contrast.value == pytest.approx(float(logits[[5, 6]].mean() - logits[8]), rel=1e-5)
    graph = trace(m, OPEN, coders(m), probability=0.6)
    chances = logits.softmax(-1)
    ids = [node.number for node in graph.nodes if node.kind == "logit"]
    assert ids == chances.argsort(descending=True)[: len(ids)].tolist()
    assert float(chances[ids].sum()) >= 0.6 > float(chances[ids[:-1]].sum())
    centred = logits - logits.mean()
    assert graph.sums[graph.of_kind("logit")] == pytest.approx(centred[ids].numpy(), rel=1e-4)
    assert graph.value == pytest.approx(float(chances[ids] @ centred[ids]), rel=1e-4)
    assert len(trace(m, OPEN, coders(m), most_logits=2).prune().top(9, "total", "logit")) == 2
    alone = trace(m, replace(PROMPT, wrong=()), coders(m))
    assert alone.value == pytest.approx(float(logits[[5, 6]].mean() - logits.mean()), rel=1e-4)


def test_a_sum_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    m, whole = model("gpt2"), Replaced.of

    def without(*arguments: Any) -> Replaced:
        found = whole(*arguments)
        return replace(found, errors={n: 0 * own for n, own in found.errors.items()})

    monkeypatch.setattr(Replaced, "of", without)
    with pytest.raises(ModelError, match="does not add up to what it reads"):
        trace(m, PROMPT, coders(m))


def test_a_graph_does_not_depend_on_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    m = model("llama")
    whole = trace(m, PROMPT, coders(m))
    monkeypatch.setattr(tracing, "ROWS", 3)
    parts = trace(m, PROMPT, coders(m))
    assert parts.nodes == whole.nodes
    assert distance(parts.weights.toarray(), whole.weights.toarray()) < 1e-6


def test_what_does_not_fit_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    m = model("gpt2")
    monkeypatch.setattr(tracing, "room_of", lambda *_: 1e5)
    with pytest.raises(BudgetError, match="give features= "):
        trace(m, PROMPT, coders(m))
    monkeypatch.setattr(tracing, "room_of", lambda *_: 1e3)
    with pytest.raises(BudgetError, match="one row at a time takes"):
        trace(m, PROMPT, coders(m), share=0.5)


def test_rows_are_made_in_the_memory_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    m = model("gpt2")
    large = coders(m, f=200)
    taken = []
    for space in (2e6, 8e6):
        monkeypatch.setattr(tracing, "room_of", lambda *_, space=space: space)
        taken.append(peak(lambda: trace(m, PROMPT, large, share=0.9)))
        assert taken[-1] < 1.5 * space
    assert taken[0] < taken[1] / 2


def test_fewer_features_leave_the_others_together() -> None:
    m = model("gpt2")
    whole, few = trace(m, PROMPT, coders(m)), trace(m, PROMPT, coders(m), features=12)
    features = [node.name for node in few.nodes if node.kind == "feature"]
    assert features == sorted((n.name for n in whole.top(12, "live")), key=whole.number.get)
    takes = few.of_kind("feature", "logit")
    assert distance(few.weights.sum(1)[takes], few.sums[takes]) < 1e-5
    for name in features:
        row = whole.weights[[whole.number[name]]].toarray()[0]
        own = few.weights[[few.number[name]]].toarray()[0]
        for other in features:
            assert own[few.number[other]] == pytest.approx(row[whole.number[other]], abs=1e-6)
    assert any(node.kind == "rest" for node in few.nodes)
    assert few.value == pytest.approx(whole.value, rel=1e-6)


def test_a_share_keeps_each_rows_largest() -> None:
    m = model("gpt2")
    whole, part = trace(m, PROMPT, coders(m)), trace(m, PROMPT, coders(m), share=0.8)
    for row, own in zip(whole.weights.toarray(), part.weights.toarray(), strict=True):
        kept = own != 0
        assert np.array_equal(own[kept], row[kept])
        if row.any():
            assert np.abs(row[kept]).sum() >= 0.8 * np.abs(row).sum() * (1 - 1e-6)
            assert np.abs(row[~kept]).max(initial=0) <= np.abs(row[kept]).min()
    assert part.weights.nnz < 0.7 * whole.weights.nnz


# -- totals ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["relu", "skip", "before the norm", "cross-layer"])
def test_totals_are_the_slope_of_the_frozen_model(kind: str) -> None:
    """Push equals pull: the graph's paths, and the frozen model run forward."""
    m = exactly("gpt2")
    own = KINDS[kind](m)
    graph = trace(m, PROMPT, own)
    found = validate(m, graph, own, nodes=25, factors=(1 + 1e-6,))
    assert len(found.nodes) == 25
    changed = found.measured["frozen"][0] / 1e-6
    assert distance(changed, found.predicted["graph"]) < 1e-5
    changed = found.measured["real"][0] / 1e-6
    assert distance(changed, found.predicted["live gradient"]) < 1e-4


@pytest.mark.parametrize("kind", ["skip", "before the norm"])
def test_features_skip_error_and_constants_are_what_an_mlp_adds(kind: str) -> None:
    m = exactly("gpt2")
    own = KINDS[kind](m)
    graph = trace(m, PROMPT, own)
    layers = np.array([node.layer if node.name[0] == "m" else -1 for node in graph.nodes])
    tokens = torch.tensor([TOKENS])
    context = m.start(tokens, torch.ones_like(tokens).bool())
    question, _ = ask(m, PROMPT, 0.95)
    steep = live_gradients(m, context, question)
    outputs = m.native(tokens, torch.ones_like(tokens).bool()).mlps
    stages = [stage for stage in m.wiring.stages if stage.kind == MLP]
    assert len(stages) == len(own)
    for stage in stages:
        here, skip_ = stage.layer, graph.about["skips"][str(stage.layer)]
        added = float((steep[stage.index][0] * outputs[here][0]).sum())
        assert graph.live[layers == here].sum() + skip_["live"] == pytest.approx(added)
        # a skip that is not taken out is error: nothing else of what comes later changes
        without = trace(m, PROMPT, [replace(c, skip=None) if c.layer == here else c for c in own])
        assert str(here) not in without.about["skips"]
        parts = graph.totals[layers == here].sum() + skip_["total"]
        assert without.totals[layers == here].sum() == pytest.approx(parts)
        assert abs(skip_["total"]) > 1e-3
        features = graph.of_kind("feature") & (layers == here)
        assert skip_["features"] == pytest.approx(graph.live[features].sum())
    assert "may do the work of features" in repr(graph)
    assert repr(graph.prune()).splitlines()[-3:] == repr(graph).splitlines()[-3:]
    assert "skip" not in repr(trace(m, PROMPT, coders(m)))


def linear() -> Decoder:
    """A decoder in which nothing bends: its attention is uniform, there are no norms, and as all
    other values are positive, so is what each neuron reads."""
    rng = torch.Generator().manual_seed(0)

    def positive(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng, dtype=torch.float64) / 3

    words = (*SPECIAL, *"abcdef")
    nothing = torch.zeros(3, 2, 8, 4, dtype=torch.float64)
    return Decoder(
        "linear", words, positive(8, 8), positive(9, 8), nothing, nothing.clone(),
        positive(3, 2, 8, 4), positive(3, 2, 4, 8), positive(3, 8, 6), positive(3, 6, 8),
        positive(8, 8), {},
    )  # fmt: skip


def test_where_nothing_bends_the_graph_is_exact() -> None:
    """Its neurons are its features: no errors, and totals are what taking a neuron away does."""
    m = linear()
    zero = torch.zeros(8, dtype=torch.float64)
    own = [
        Dictionary(n, m.w_in[n].T, torch.zeros(6, dtype=torch.float64), m.w_out[n], zero)
        for n in range(3)
    ]
    prompt = Example((0, 3, 4, 2), (0, 3, 4, 2), (5,), (6,), {})
    graph = trace(m, prompt, own)
    assert int(graph.of_kind("feature").sum()) == 3 * 4 * 6
    assert graph.replacement == pytest.approx(1)
    assert graph.completeness == pytest.approx(1)
    assert max(graph.about["unexplained"].values()) < 1e-12
    found = validate(m, graph, own, nodes=72)
    for row in found.rows():
        assert (row["correlation"], row["slope"]) == pytest.approx((1, 1), abs=1e-9)
    assert graph.totals == pytest.approx(graph.live, abs=1e-12)
    assert graph.totals[graph.of_kind("token")].sum() == pytest.approx(graph.value)


# -- scores ----------------------------------------------------------------------------------------
def test_scores_by_hand() -> None:
    """With the matrices written out: w (N + N² + ...) = w ((1 − N)⁻¹ − 1)."""
    m = model("llama")
    graph = trace(m, OPEN, coders(m), probability=0.5)
    sizes = np.abs(graph.weights.toarray()) * ~graph.of_kind("bias")
    shares = sizes / np.maximum(sizes.sum(1, keepdims=True), 1e-30)
    starts = graph.shares / graph.shares.sum()
    one = np.eye(len(graph))
    influence = starts @ (np.linalg.inv(one - shares) - one)
    assert distance(graph.influence, influence) < 1e-6
    errors, tokens = graph.of_kind("error"), graph.of_kind("token")
    found = influence[tokens].sum() / (influence[tokens].sum() + influence[errors].sum())
    assert graph.replacement == pytest.approx(found)
    weight = influence + starts
    assert graph.completeness == pytest.approx(
        ((1 - shares[:, errors].sum(1)) * weight).sum() / weight.sum()
    )


def test_pruning_keeps_what_holds_the_influence() -> None:
    m = model("llama")
    graph = trace(m, PROMPT, coders(m))
    part = graph.prune(0.8, 0.98)
    names = {node.name for node in part.nodes}
    shares = dict(zip(graph.number, cumulative(graph.influence), strict=True))
    others = [n.name for n in part.nodes if n.kind in ("feature", "error")]
    assert others
    assert (
        max(shares[name] for name in others)
        <= shares[
            max((n.name for n in graph.nodes if shares[n.name] >= 0.8), key=lambda n: -shares[n])
        ]
    )
    assert {n.name for n in graph.nodes if n.kind in ("token", "logit")} <= names
    assert not any(node.kind == "bias" for node in part.nodes)
    drawn_ = part.to_networkx()
    for node in part.nodes:
        if node.kind == "feature":
            assert drawn_.in_degree(node.name)
        if node.kind in ("feature", "error"):
            assert drawn_.out_degree(node.name)
    for start, to, weight in drawn_.edges(data="weight"):
        assert weight == graph.weights[graph.number[to], graph.number[start]]
        assert drawn_.nodes[start]["total"] == graph.totals[graph.number[start]]
    assert len(graph.prune(0.5)) < len(part) < len(graph.prune(1, 1)) <= len(graph)
    with pytest.raises(DataError, match=r"nodes=1\.5 is not a share"):
        graph.prune(1.5)


def test_totals_go_through_features_by_hand() -> None:
    """A token feeds a feature of activation 2, which feeds the logit; an error feeds both."""
    from scipy.sparse import csr_array

    nodes = (
        GraphNode("token", position=0, number=5), GraphNode("feature", 0, 0, 1, value=2.0),
        GraphNode("error", 0, 0), GraphNode("feature", 1, 0, 3, value=4.0),
        GraphNode("logit", 2, 0, weight=1.0),
    )  # fmt: skip
    dense = np.zeros((5, 5))
    dense[1, 0], dense[3, 0], dense[3, 1], dense[3, 2] = 2.0, 0.5, 3.0, 0.5
    dense[4] = [1.0, 6.0, 0.25, 8.0, 0]
    graph = AttributionGraph(
        "hand", "x", ("x",), nodes, csr_array(dense), dense.sum(1), np.zeros(5), "the logit"
    )
    # by hand: m1.f3 8; error .25 + .5/4 · 8; m0.f1 6 + 3/4 · 8; token 1 + .5/4 · 8 + 2/2 · 12
    assert graph.totals.tolist() == [14.0, 12.0, 1.25, 8.0, 0.0]
    assert [node.name for node in graph.nodes] == [
        "input@0", "m0.f1@0", "m0.error@0", "m1.f3@0", "logits"
    ]  # fmt: skip
    assert [node.name for node in graph.top(1)] == ["m0.f1@0"]


# -- what is said ----------------------------------------------------------------------------------
def test_agreement_by_hand() -> None:
    predicted, measured = np.array([1.0, 2.0, -1.0, 0.0]), np.array([2.0, 3.0, 1.0, 5.0])
    found = agreement(predicted, measured)
    assert found["slope"] == pytest.approx((2 + 6 - 1) / 6)
    assert found["sign"] == pytest.approx(2 / 3)
    assert found["correlation"] == pytest.approx(np.corrcoef(predicted, measured)[0, 1])
    assert np.isnan(agreement(np.zeros(3), np.zeros(3))["slope"])


def test_validations_of_several_prompts_are_pooled() -> None:
    m = model("gpt2")
    graphs = [trace(m, PROMPT, coders(m)), trace(m, OPEN, coders(m))]
    several = [validate(m, graph, coders(m), nodes=5) for graph in graphs]
    whole = Validation.pooled(several)
    assert whole.prompts.tolist() == [0] * 5 + [1] * 5
    first = whole.rows()[0]
    assert first["prediction"] == "graph"
    assert first["measured in"] == "real model"
    own = [one.rows()[0]["correlation"] for one in several]
    assert (first["median"], first["least"]) == pytest.approx((np.median(own), min(own)))
    assert len(whole.to_frame()) == 10
    assert "correlation graph" in str(whole)
    with pytest.raises(EvaluationError, match="nothing to pool"):
        Validation.pooled([])


def test_live_norms_are_said_to_be_live() -> None:
    m = model("gpt2")
    frozen, live = trace(m, PROMPT, coders(m)), trace(m, PROMPT, coders(m), norms="live")
    assert live.about["largest_error"] is None
    assert "norms live" in repr(live)
    assert distance(live.totals, frozen.totals) > 1e-2
    assert live.live == pytest.approx(frozen.live)


def test_what_cannot_be_asked_is_refused() -> None:
    m = model("gpt2")
    own = coders(m)
    graph = trace(m, PROMPT, own)
    with pytest.raises(DictionaryError, match="two dictionaries read in layer 0"):
        trace(m, PROMPT, [*own, own[0]])
    with pytest.raises(DictionaryError, match="there are no dictionaries"):
        trace(m, PROMPT, [])
    encoder = replace(own[0], reads="resid_pre", writes="resid_pre")
    with pytest.raises(DictionaryError, match="is traced through transcoders"):
        trace(m, PROMPT, [encoder])
    with pytest.raises(DataError, match=r"share=0"):
        trace(m, PROMPT, own, share=0)
    with pytest.raises(DataError, match="is not an order"):
        graph.top(3, "size")
    with pytest.raises(DataError, match="is of 'gpt2', and not of 'llama'"):
        validate(model("llama"), graph, own)
    with pytest.raises(DataError, match="factors="):
        validate(m, graph, own, factors=(1.0,))
    with pytest.raises(DataError, match="is not active with these dictionaries"):
        validate(m, graph, [coder(m, n, encoder_bias=torch.full((20,), -9.0)) for n in range(3)])
    with pytest.raises(DataError, match="probability"):
        ask(m, OPEN, 0.0)
