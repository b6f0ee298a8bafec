"""Attention, MLP outputs and the residual stream taken apart by autoencoders: the laws of runs,
scores and sweeps hold for their parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import as_batch, dataset, distance, exactly, model
from test_splitting import SAME, both, metric
from test_tracing import coder, drawn
from torch import Tensor

from circuitkit import cross
from circuitkit.cli.main import main
from circuitkit.corruptions.constants import mean, zero
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Batch
from circuitkit.discovery.activations import eap_ig_activations
from circuitkit.discovery.attribution import eap
from circuitkit.discovery.baselines import information_flow
from circuitkit.discovery.mask_gradients import mask_gradient
from circuitkit.discovery.repaired import atp_star
from circuitkit.engine import gradients as engine_gradients
from circuitkit.engine.attribute import score
from circuitkit.engine.gradients import gradients
from circuitkit.engine.inputs import Inputs
from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.record import answer, record
from circuitkit.engine.run import run, runs
from circuitkit.engine.sweep import sweep
from circuitkit.errors import CircuitError, DictionaryError, UnsupportedModelError
from circuitkit.evaluation.faithfulness import evaluate
from circuitkit.evaluation.masks import random_masks
from circuitkit.features.choosing import feature_bases, scored, strongest
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.holding import evaluate_held
from circuitkit.features.loading import save
from circuitkit.features.sites import site_values, width_of
from circuitkit.features.splitting import split_as, split_into_features
from circuitkit.graph.circuit import Circuit, build, from_json, mask, to_json
from circuitkit.graph.nodes import Node
from circuitkit.graph.places import Places
from circuitkit.graph.scores import ScoresWarning
from circuitkit.graph.stages import ATTENTION_FEATURES, FEATURES, STREAM_FEATURES, Split
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.hooks import require_bridge
from circuitkit.models.loading import load
from circuitkit.truth.rasp import compile_program, programs
from circuitkit.workflows.features import discover_features
from circuitkit.workflows.replay import replay

CHOSEN = (3, 17, 5, 11)


def auto(m: Inspectable, layer: int, site: str, gate: str = "relu", **changed: Any) -> Dictionary:
    """A random autoencoder with biases everywhere."""
    rng, d, f = torch.Generator().manual_seed(layer + len(site)), width_of(m, layer, site), 20
    gates: dict[str, dict[str, Any]] = {
        "relu": {}, "topk": {"k": 4}, "jumprelu": {"threshold": torch.full((f,), 0.2)},
    }  # fmt: skip
    parts: dict[str, Any] = {
        "encoder": drawn(rng, f, d, like=m), "encoder_bias": drawn(rng, f, like=m) / 9,
        "decoder": drawn(rng, f, d, like=m) / 4, "bias": drawn(rng, d, like=m) / 4,
        "reads": site, "writes": site, "activation": gate, **gates[gate],
    }  # fmt: skip
    return Dictionary(layer, **{**parts, **changed})


def layers(site: str, gate: str) -> Callable[[Inspectable], list[Dictionary]]:
    return lambda m: [auto(m, layer, site, gate) for layer in range(m.wiring.layers)]


def mixture(m: Inspectable) -> list[Dictionary]:
    return [
        auto(m, 0, "attn_z"), auto(m, 0, "resid_post"), coder(m, 1, activation="topk", k=4),
        auto(m, 1, "attn_out", "topk"), auto(m, 2, "resid_mid", "topk"), auto(m, 2, "mlp_out"),
    ]  # fmt: skip


WAYS: dict[str, Callable[[Inspectable], list[Dictionary]]] = {
    "mlp_out": layers("mlp_out", "topk"),
    "attn_out": layers("attn_out", "jumprelu"),
    "attn_z": layers("attn_z", "topk"),
    "first": lambda m: [auto(m, 0, "resid_pre")],
    "between": lambda m: [auto(m, 1, "resid_mid", "topk"), auto(m, 2, "resid_pre", "jumprelu")],
    "last": lambda m: [auto(m, m.wiring.layers - 1, "resid_post", "topk")],
    "mixture": mixture,
}
SPLIT = {"attn_out", "attn_z", "mlp_out"}  # whose parts stand in the place of what they are of
OTHERS = [("llama", "mixture"), ("gemma2", "attn_out"), ("gemma2", "between"),
          ("neox-parallel", "attn_out"), ("neox-parallel", "first"), ("granite", "attn_z"),
          ("qwen3", "attn_z"), ("mixtral", "attn_out"), ("olmo2", "attn_out")]  # fmt: skip
POST = ("gemma2", "between")  # in the norm behind heads, those that nobody hears count as carried
every_way = pytest.mark.parametrize(
    ("family", "way"),
    [
        *(("gpt2", way) for way in WAYS),
        *(pytest.param(*x, marks=pytest.mark.weekly) for x in OTHERS),
    ],
)

slow_ways = pytest.mark.parametrize(
    "way",
    ["mixture", *(pytest.param(way, marks=pytest.mark.weekly) for way in ("attn_z", "between"))],
)


def named(made: list[Dictionary]) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys([one.prefix for one in made], CHOSEN)


@cache
def taken_apart(family: str, way: str, double: bool = False) -> Inspectable:
    whole = (exactly if double else model)(family)
    made = WAYS[way](whole)
    return split_into_features(whole, made, named(made))


def table(m: Inspectable) -> np.ndarray:
    batch, context, live, carried = both(m)
    at = gradients(m, batch, context, context.embed, metric)
    found = score(m, batch, live, carried, at).numpy()
    assert not found[~m.wiring.legal].any()
    return found


# -- the graph -------------------------------------------------------------------------------------
def test_heads_that_are_taken_apart_read_and_do_not_write() -> None:
    wiring = taken_apart("gpt2", "attn_out").wiring
    own = [*(f"a1.f{number}" for number in CHOSEN), "a1.rest", "a1.error"]
    assert [w for w in wiring.writers if w.startswith("a1")] == own
    ports = model("gpt2").wiring.attention(1).part.readers
    assert [r for r in wiring.readers if r.startswith("a1")] == [*ports]
    assert all([*wiring.fed(port)] == own for port in ports)
    with pytest.raises(CircuitError, match="heads do not write"):
        wiring.attention(1)


def test_behind_the_stream_taken_apart_only_its_parts_are_heard() -> None:
    wiring = taken_apart("gpt2", "between").wiring
    heard = {
        reader: {str(w) for w, seen in zip(wiring.writers, wiring.legal[:, column], strict=True)
                 if seen}
        for reader, column in wiring.reader.items()
    }  # fmt: skip
    parts = {layer: {*(f"r{layer}.f{n}" for n in CHOSEN), f"r{layer}.rest", f"r{layer}.error"}
             for layer in (1, 2)}  # fmt: skip
    assert "input" in heard["r1"]
    assert heard["r1"] == heard["r1.f3"]
    assert "a1.h0" in heard["r1"]
    assert heard["m1"] == parts[1]
    assert heard["r2"] == {*parts[1], "m1"}
    assert heard["a2.h0.q"] == parts[2]
    assert heard["logits"] == {*parts[2], "a2.h0", "a2.h1", "a2.h2", "a2.h3", "m2"}
    assert wiring.n_edges == wiring.legal.sum()


@pytest.mark.parametrize("way", ["mixture", "between", "attn_z"])
def test_a_circuit_of_parts_is_written_and_read(way: str) -> None:
    wiring = taken_apart("gpt2", way).wiring
    (keep,) = random_masks(wiring, 40, n=1)
    edges = {(wiring.writers[row], wiring.readers[column]): 1.0
             for row, column in np.argwhere(keep)}  # fmt: skip
    circuit = build(wiring, edges)
    again = from_json(to_json(circuit))
    assert (mask(again) == keep).all()
    assert Wiring.from_dict(json.loads(json.dumps(wiring.to_dict()))) == wiring
    assert "parts of " in str(again)
    for name in again.nodes:
        assert Node(name) == name


def test_splits_of_earlier_files_are_read() -> None:
    said = {"layers": 2, "heads": 1, "groups": 1, "mlp": True, "parallel": False,
            "splits": [
                None, {"chosen": [3], "others": ["rest"], "letter": "f", "tied": False}
            ]}  # fmt: skip
    wiring = Wiring.from_dict(said)
    assert wiring.splits == (None, Split((3,), ("rest",)))
    assert wiring.to_dict() == said


# -- runs ------------------------------------------------------------------------------------------
@every_way
@torch.no_grad()
def test_everything_is_the_clean_run_and_nothing_the_carried_run(family: str, way: str) -> None:
    m, whole = taken_apart(family, way), model(family)
    batch, context, live, carried = both(m)
    plain = [answer(m, batch, record(whole, whole.start(x, batch.mask)).final)
             for x in (batch.clean, batch.corrupt)]  # fmt: skip
    assert distance(answer(m, batch, live.final), plain[0]) < SAME
    legal = m.wiring.legal
    for keep, expected in ((legal, plain[0]), (np.zeros_like(legal), plain[1])):
        assert distance(run(m, batch, context, carried, keep), expected) < SAME
        each = torch.tensor(keep)[None].expand(len(batch), -1, -1)
        assert distance(run(m, batch, context, carried, each), expected) < SAME


def by_hand(m: Inspectable, whole: Inspectable, batch: Batch, keep: np.ndarray) -> Tensor:
    """The logits under a mask, part by part, from what the whole model carries where it is read."""
    wiring = m.wiring
    kinds: Any = m.kinds
    context, other = m.start(batch.clean, batch.mask), m.start(batch.corrupt, batch.mask)
    plain = record(whole, whole.start(batch.corrupt, batch.mask))
    live, carried = {"input": context.embed}, {"input": other.embed}

    def held(name: str) -> Tensor:
        node = Node(name)
        if name == "logits":
            return plain.final
        layer, site = int(node.layer or 0), {"a": "resid_pre", "m": "resid_mid"}.get(name[0])
        if site is None:
            site = next(s.site for s in wiring.of_layers[layer] if s.site.startswith("resid"))
        return site_values(whole, plain, layer, site)

    def reading(name: str) -> Tensor:
        total, column = held(name), wiring.reader[name]
        for writer in live:
            row = wiring.writer[writer]
            if keep[row, column] and wiring.since[column] <= row < wiring.upstream[column]:
                total = total + live[writer] - carried[writer]
        return total

    def explained(own: Dictionary, y: Tensor, goal: Tensor, alone: Any) -> list[Tensor]:
        pre = own.pre(y)
        least = own.thresholds(pre).expand(pre.shape)
        chosen = torch.zeros(own.n_features, dtype=torch.bool)
        chosen[list(CHOSEN)] = True
        found = []
        for number in CHOSEN:
            value = (pre if alone is None else own.pre(alone(number)))[..., number]
            active = torch.where(value > least[..., number], value, torch.zeros_like(value))
            found.append(active[..., None] * own.decoder[number])
        return [*found, own.decode(own.encode(y) * ~chosen), goal - own(y)]

    def compute(stage: Any, reads: Callable[[str], Tensor]) -> list[Tensor]:
        layer, names = stage.layer, stage.part.readers
        if stage.kind in ("attention", ATTENTION_FEATURES):
            given = [m.project(layer, reads(name)) for name in names]
            h, g = stage.part.ports[:2]
            q = torch.stack([given[i][0][:, :, i] for i in range(h)], 2)
            k = torch.stack([given[h + i][1][:, :, i] for i in range(g)], 2)
            v = torch.stack([given[h + g + i][2][:, :, i] for i in range(g)], 2)
            z = m.attend(context, layer, q, k, v)
            if stage.kind == "attention":
                return [*m.write(layer, None, m.share(layer, z))]
            own, goal = kinds[stage.kind].blocks[layer].dictionary, m.attention_out(layer, z)[0]
            return explained(own, z.flatten(2) if own.reads == "attn_z" else goal, goal, None)
        port = reads(names[-1])
        if stage.kind not in (FEATURES, STREAM_FEATURES):
            return [m.mlp(layer, port)]
        own = kinds[stage.kind].blocks[layer].dictionary
        look = (lambda x: m.mlp_in(layer, x)) if own.reads == "mlp_in" else (lambda x: x)
        goal = port if stage.kind == STREAM_FEATURES else m.mlp(layer, port)
        if own.reads == "mlp_out":
            return explained(own, goal, goal, None)
        alone = lambda n: look(reads(f"{names[-1]}.f{n}"))  # noqa: E731
        return explained(own, look(port), goal, alone)

    for stage in wiring.stages:
        now, then = compute(stage, reading), compute(stage, held)
        live |= dict(zip(stage.part.writers, now, strict=True))
        carried |= dict(zip(stage.part.writers, then, strict=True))
    return answer(m, batch, reading("logits"))


@pytest.mark.parametrize(("family", "way"), [
    *(("gpt2", way) for way in WAYS),
    *(pytest.param(*one, marks=pytest.mark.weekly) for one in OTHERS if one != POST),
])  # fmt: skip
@torch.no_grad()
def test_a_run_is_what_parts_do_one_by_one(family: str, way: str) -> None:
    m, whole = taken_apart(family, way, double=True), exactly(family)
    batch, context, _, carried = both(m)
    keeps = [*random_masks(m.wiring, 60, n=2, seed=4), *random_masks(m.wiring, 15, n=1)]
    keeps += [keeps[0] | keeps[2], m.wiring.legal]
    stacked = list(runs(m, batch, context, carried, keeps))
    for keep, found in zip(keeps, stacked, strict=True):
        expected = by_hand(m, whole, batch, keep)
        assert distance(found, expected) < 1e-9
        each = torch.tensor(keep)[None].expand(len(batch), -1, -1)
        assert distance(run(m, batch, context, carried, each), expected) < 1e-9
    assert torch.stack(stacked).std(0).max() > 1e-2


@torch.no_grad()
def test_zeros_and_means_are_those_of_the_whole_stage() -> None:
    m, whole = taken_apart("gpt2", "attn_out"), model("gpt2")
    batch = as_batch(dataset())

    def nothing(one: Inspectable, corruption: Any) -> Tensor:
        (carried,) = corruption(one, dataset())(batch)
        keep, context = np.zeros(one.wiring.shape, bool), one.start(batch.clean, batch.mask)
        return run(one, batch, context, carried, keep)

    for corruption in (zero, mean):
        assert distance(nothing(m, corruption), nothing(whole, corruption)) < SAME


# -- scores and sweeps -----------------------------------------------------------------------------
def coarse(m: Inspectable, values: np.ndarray) -> dict[tuple[str, str], float]:
    """The sums over the parts, or heads, of each stage, into each reader of heads, or stage."""
    found: dict[tuple[str, str], float] = {}
    for row, column in np.argwhere(m.wiring.legal):
        reader = m.wiring.readers[column]
        ends = (
            m.wiring.writers[row].split(".")[0],
            reader.split(".")[0] if reader.part else reader,
        )
        found[ends] = found.get(ends, 0.0) + float(values[row, column])
    return found


@pytest.mark.parametrize("way", sorted(SPLIT))
def test_the_scores_of_parts_sum_to_those_of_what_is_taken_apart(way: str) -> None:
    m, whole = taken_apart("gpt2", way), model("gpt2")
    found, expected = (coarse(one, table(one)) for one in (m, whole))
    assert found.keys() == expected.keys()
    assert distance([*found.values()], [expected[key] for key in found]) < SAME


@pytest.mark.parametrize(("way", "first"), [("first", "a0.h0.q"), ("last", "logits")])
def test_the_parts_of_the_stream_score_as_what_they_are_made_of(way: str, first: str) -> None:
    m, whole = taken_apart("gpt2", way), model("gpt2")
    found, expected = table(m), table(whole)
    layer, begin = "0" if way == "first" else "2", whole.wiring.reader[first]
    parts = [row for row, w in enumerate(m.wiring.writers) if w.startswith(f"r{layer}")]
    before = whole.wiring.upstream[begin]
    behind = [m.wiring.reader[name] for name in whole.wiring.readers[begin:]]
    sums = found[np.ix_(parts, behind)].sum(0)
    assert distance(sums, expected[:before, begin:].sum(0)) < SAME
    into = [column for column, r in enumerate(m.wiring.readers) if r.startswith(f"r{layer}")]
    rows = [m.wiring.writer[name] for name in whole.wiring.writers[:before]]
    sums = found[np.ix_(rows, into)].sum(1)
    assert distance(sums, expected[:before, begin:].sum(1)) < SAME


@slow_ways
def test_a_score_is_the_slope_of_the_metric_in_the_mask(way: str) -> None:
    m = taken_apart("gpt2", way, double=True)
    batch, context, _, carried = both(m)
    scores, keep = table(m), torch.tensor(m.wiring.legal, dtype=torch.float64)
    rng = np.random.default_rng(0)
    for row, column in rng.permutation(np.argwhere(m.wiring.legal))[:20]:
        ends = []
        for step in (1e-6, -1e-6):
            changed = keep.clone()
            changed[row, column] += step
            with torch.no_grad():
                ends.append(float(metric(run(m, batch, context, carried, changed)).sum()))
        slope = (ends[0] - ends[1]) / 2e-6
        assert slope == pytest.approx(float(scores[row, column]), abs=1e-6)


def test_a_gradient_stage_by_stage_is_that_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    m = taken_apart("gpt2", "mixture")
    expected = table(m)
    monkeypatch.setattr(engine_gradients, "LONG", 1)
    assert distance(table(m), expected) < SAME


@slow_ways
@torch.no_grad()
def test_every_edge_of_the_sweep_is_its_own_masked_run(way: str) -> None:
    m = taken_apart("gpt2", way)
    batch, context, live, carried = both(m)
    wanted = np.zeros(m.wiring.shape, dtype=bool)
    for row, column in np.random.default_rng(0).permutation(np.argwhere(m.wiring.legal))[:40]:
        wanted[row, column] = True
    found = {
        edge: value
        for block, values in sweep(m, batch, context, live, carried, metric, wanted)
        for edge, value in zip(block, values, strict=True)
    }
    assert len(found) == wanted.sum()
    for edge, value in found.items():
        keep = m.wiring.legal.copy()
        keep[edge] = False
        assert distance(value, metric(run(m, batch, context, carried, keep))) < 1e-4


def test_shares_of_what_is_read_are_of_those_that_are_heard() -> None:
    whole = model("gpt2")
    m = split_into_features(whole, [planted(whole, 1, "resid_pre")], {"r1": [*range(5, 30)]})
    assert information_flow(m, dataset()).values.sum(0) == pytest.approx(1, abs=1e-4)


def test_norms_are_held_where_parts_read_through_one() -> None:
    m = taken_apart("gpt2", "mixture")
    with pytest.warns(ScoresWarning, match="was not resolved"):
        found = [mask_gradient(m, dataset(), steps=1, norms=norms).values
                 for norms in ("live", "clean")]  # fmt: skip
    assert not np.allclose(found[0], found[1])
    assert not any(own[~m.wiring.legal].any() for own in found)


# -- choosing --------------------------------------------------------------------------------------
@pytest.mark.parametrize("way", list(WAYS))
def test_a_features_score_is_that_of_its_edges(way: str) -> None:
    whole = model("gpt2")
    inputs, made = Inputs(whole, dataset(), logit_diff, counterfactual), WAYS[way](whole)
    found = scored(inputs, feature_bases(whole, made))
    split = split_into_features(whole, made, {one.prefix: (*range(20),) for one in made})
    scores = eap(*inputs._replace(model=split))
    for name, values in found.items():
        rows = [split.wiring.writer[f"{name}.f{i}"] for i in range(20)]
        assert distance(values, scores.values[rows].sum(1)) < 1e-4
        assert values.abs().max() > 1e-4


def planted(m: Inspectable, layer: int, site: str) -> Dictionary:
    """The axes of the residual stream, in which a compiled program writes, as features, among
    others that are never active."""
    d = m.d_model
    axes = torch.cat([torch.eye(d), -torch.eye(d)]).to(m.dtype)
    idle = torch.randn(5, d, generator=torch.Generator().manual_seed(layer)).to(m.dtype)
    bias = torch.cat([torch.full((5,), -1e3), torch.zeros(2 * d)]).to(m.dtype)
    rows = torch.cat([idle, axes])
    return Dictionary(layer, rows, bias, rows, torch.zeros_like(rows[0]), reads=site, writes=site)


@pytest.mark.parametrize("site", ["attn_out", "resid_post"])
@torch.no_grad()
def test_a_planted_dictionary_finds_what_a_program_writes(site: str) -> None:
    p = programs()["modular_sum"]()
    m, data = compile_program(p), p.data(24)
    inputs = Inputs(m, data, logit_diff, counterfactual)
    last = m.wiring.layers - 1
    made = [planted(m, layer, site) for layer in range(m.wiring.layers)]
    with torch.enable_grad():
        found = scored(inputs, feature_bases(m, made))
    n = sum(int((values != 0).sum()) for values in found.values())
    assert 0 < n < sum(map(len, found.values()))
    assert all(not bool(values[:5].any()) for values in found.values())
    split = split_into_features(m, made, strongest(found, n))
    left = [row for row, w in enumerate(split.wiring.writers) if w.part in ("rest", "error")]
    keep = split.wiring.legal.copy()
    keep[left] = False
    assert evaluate(split, keep, *inputs[1:]).faithfulness == pytest.approx(1, abs=1e-4)
    if site == "resid_post":  # from there on all is linear, so that a score is what a cut costs
        own = found[f"r{last}"]
        for number in own.abs().argsort(descending=True)[:3].tolist():
            cut = split.wiring.legal.copy()
            cut[split.wiring.writer[f"r{last}.f{number}"]] = False
            result = evaluate(split, cut, *inputs[1:])
            fall = (result.everything - result.circuit).mean()
            assert fall == pytest.approx(float(own[number]), abs=1e-4)


# -- what is refused -------------------------------------------------------------------------------
def test_what_takes_nothing_apart_is_refused() -> None:
    m, parallel, post = model("gpt2"), model("neox-parallel"), model("gemma2")

    def refused(match: str, one: Inspectable, *made: Dictionary) -> None:
        with pytest.raises(DictionaryError, match=match):
            split_into_features(one, made, {})

    refused("take the same apart", m, auto(m, 1, "attn_out"), auto(m, 1, "attn_z"))
    refused("take the same apart", m, auto(m, 1, "mlp_out"), coder(m, 1))
    refused("take the same apart", m, auto(m, 1, "resid_pre"), auto(m, 1, "resid_post"))
    refused("take the same apart", m, auto(m, 0, "resid_post"), auto(m, 1, "resid_pre"))
    refused("transcoders of one layer", m, auto(m, 1, "mlp_in"))
    beyond = replace(auto(m, 1, "attn_out"), layer=3, targets=(3,))
    refused("has no layer 3", m, beyond)
    refused("has 48 values", m, auto(post, 1, "attn_z", model=""))
    refused("a norm follows the attention", post, auto(post, 1, "attn_z"))
    refused("use one of 'resid_pre'", parallel, auto(parallel, 1, "resid_mid"))
    with pytest.raises(DictionaryError, match=r"features of m1 .* there are those of r1"):
        split_into_features(m, [auto(m, 1, "resid_pre")], {1: [2]})
    for splits, match in (
        ([[Split((1,), site="attn_out")] * 2, None], "splits one twice"),
        ([[Split((1,), site="resid_post")], [Split((1,), site="resid_pre")]], "split once"),
    ):
        with pytest.raises(CircuitError, match=match):
            Wiring(2, 1, 1, splits=splits)
    with pytest.raises(CircuitError, match="no residual stream between"):
        Wiring(1, 1, 1, parallel=True, splits=(Split((1,), site="resid_mid"),))
    with pytest.raises(CircuitError, match="how a stage is split"):
        Split((1,), site="nowhere")
    with pytest.raises(CircuitError, match="neurons are of MLPs"):
        Split((1,), letter="n", site="attn_out")


def test_what_cannot_take_parts_says_so() -> None:
    apart, stream = taken_apart("gpt2", "attn_out"), taken_apart("gpt2", "between")
    sees = np.ones((1, 1), bool)
    for one in (apart, stream):
        with pytest.raises(CircuitError, match="use the model with these whole"):
            Places(one.wiring, ("S",), sees, np.ones(1, bool))
        with pytest.raises(UnsupportedModelError, match="use eap_ig"):
            atp_star(one, dataset())
        with pytest.raises(UnsupportedModelError, match="no hook points"):
            require_bridge(one)
    with pytest.raises(UnsupportedModelError, match="use eap_ig"):
        eap_ig_activations(stream, dataset(), steps=1)
    from circuitkit import attention_scores, describe_heads

    with pytest.raises(CircuitError, match="with its heads whole"):
        describe_heads(apart, ["a1.h0"], dataset())
    for of_heads in (describe_heads, attention_scores):
        with pytest.raises(UnsupportedModelError, match="residual stream"):
            of_heads(stream, ["a1.h0"], dataset())


def test_pictures_show_parts_where_they_are(tmp_path: Path) -> None:
    wiring = taken_apart("gpt2", "mixture").wiring
    edges = {
        ("input", "a0.h1.q"): 1.0, ("a0.f3", "r0"): 0.5, ("r0.rest", "a1.h0.v"): 0.4,
        ("r0.rest", "r2.f3"): 0.3, ("a1.f5", "m1.f3"): 0.3, ("m1.f3", "r2"): 0.2,
        ("r2.f3", "logits"): 1.0, ("r2.rest", "m2"): 0.1, ("m2.f3", "logits"): -1.0,
    }  # fmt: skip
    circuit = Circuit(build(wiring, edges))
    for suffix in ("svg", "html", "graphml", "dot", "json"):
        circuit.draw(tmp_path / f"x.{suffix}") if suffix in ("svg", "html") else circuit.save(
            tmp_path / f"x.{suffix}")  # fmt: skip
        text = (tmp_path / f"x.{suffix}").read_text()
        assert all(name in text for name in ("a0.f3", "r0.rest", "r2.f3", "m2.f3"))


# -- the workflow ----------------------------------------------------------------------------------
def test_a_folder_of_a_mixture_is_found_saved_evaluated_and_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mini = load("mini")
    made = [auto(mini, 0, "attn_z"), auto(mini, 1, "resid_post"), auto(mini, 1, "mlp_out"),
            coder(mini, 3), auto(mini, 3, "attn_out", "topk")]  # fmt: skip
    save(made[:2], tmp_path / "one")
    save(made[2:], tmp_path / "two")
    found = discover_features(
        mini, "ioi", method="eap", features=12, edges=60, examples=4, dictionaries=tmp_path
    )
    report = found.features
    assert report is not None
    assert sorted(report.chosen) == ["a0", "a3", "m1", "m3", "r1"]
    assert {own.name.split(".")[0] for own in report.described} <= {*report.chosen}
    assert len(report.described) == len({n for n in found.circuit.nodes if ".f" in n})
    assert [own.what for own in report.kept][-1].startswith("whole heads and MLPs")
    written = found.save(tmp_path / "run")
    assert main(["evaluate", str(written[0]), "--examples", "4", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)
    circuit = Circuit.load(written[0])
    split = split_as(mini, circuit.graph)
    assert split.wiring == found.scores.wiring
    assert replay(circuit).same
    crossed = cross(split, {"it": circuit, "again": circuit}, random=1, examples=4)
    assert crossed.to_frame()["faithfulness"].notna().any()


# -- errors held -----------------------------------------------------------------------------------
@pytest.mark.parametrize("way", WAYS)
def test_with_errors_held_everything_is_the_model_with_their_edges_or_without(way: str) -> None:
    m = taken_apart("gpt2", way)
    inputs = Inputs(m, dataset(), logit_diff, counterfactual)
    keep = m.wiring.legal.copy()
    keep[[row for row, name in enumerate(m.wiring.writers) if name.part == "error"]] = False
    for kept in (m.wiring.legal, keep):
        held = evaluate_held(inputs, kept)
        assert held.circuit == pytest.approx(held.everything, rel=1e-4)
    cut = evaluate(m, keep, *inputs[1:])
    assert np.abs(cut.circuit - cut.everything).max() > 1e-2
