"""Experts of mixture-of-experts MLPs as writers, against hooks in the model's own modules."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from families import FAMILIES, SPARSE, as_batch, build, dataset, distance, model
from torch import Tensor
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

from circuitkit.cli.main import main
from circuitkit.corruptions.constants import zero
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Batch
from circuitkit.discovery.attribution import eap
from circuitkit.engine.attribute import score
from circuitkit.engine.gradients import gradients
from circuitkit.engine.model import Activations, Context
from circuitkit.engine.record import answer, difference, output, record
from circuitkit.engine.run import run, runs
from circuitkit.engine.sweep import sweep
from circuitkit.errors import CircuitError, UnsupportedModelError
from circuitkit.evaluation.masks import random_masks
from circuitkit.formats.graphs import graphml
from circuitkit.graph.circuit import Circuit, from_json, mask, to_json
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.checking import check
from circuitkit.models.experts import ROUTERS
from circuitkit.models.loading import MINI
from circuitkit.models.transformer_lens import Transformer, from_module
from circuitkit.patching.paths import patch_path
from circuitkit.viz.pictures.vector import svg

every_sparse = pytest.mark.parametrize("family", SPARSE)
every_router = pytest.mark.parametrize("router", ROUTERS)


@cache
def taken_apart(family: str, router: str = "live") -> Transformer:
    """The family's tiny model with its experts as writers; no test may change it."""
    return from_module(build(family), name=family, experts=router)


def both(m: Transformer) -> tuple[Batch, Context, Activations, Activations]:
    batch = as_batch(dataset(padding="left"))
    context = m.start(batch.clean, batch.mask)
    with torch.no_grad():
        return batch, context, record(m, context), record(m, m.start(batch.corrupt, batch.mask))


def metric(logits: Tensor) -> Tensor:
    return logits[:, 0] - logits[:, 1]


@contextmanager
def routed(
    m: Transformer, change: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
) -> Iterator[None]:
    """The model's own forward with what its experts are asked changed, layer by layer."""
    handles = []
    for layer, block in m.experts.items():

        def hook(_: Any, args: Any, kwargs: Any, layer: int = layer) -> Any:
            x, index, weights = (*args, *kwargs.values())[:3]
            return (x, *change(layer, index, weights)), {}

        handles.append(block.experts.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def test_the_sparse_families_are_families() -> None:
    assert set(SPARSE) <= set(FAMILIES)


@every_router
@every_sparse
def test_taken_apart_a_model_is_still_proven(family: str, router: str) -> None:
    m = taken_apart(family, router)
    assert check(m).holds, check(m)
    layers, count = m.wiring.layers, m.experts[0].count
    assert m.wiring.experts == (count,) * layers
    assert m.wiring.shared == (family == "qwen2-moe")
    assert {"m0.e0", f"m{layers - 1}.e{count - 1}"} <= set(m.wiring.writers)
    assert m.wiring.fed(m.wiring.readers[m.wiring.reader["m1"]])[0] == "m1.e0"


@every_sparse
@torch.no_grad()
def test_the_experts_sum_to_what_the_mlp_writes(family: str) -> None:
    m, whole = taken_apart(family), model(family)
    _, _, live, _ = both(m)
    _, _, expected, _ = both(whole)
    for layer in range(m.wiring.layers):
        (own,), (mlp,) = (w.wiring.beyond_attention(layer) for w in (m, whole))
        assert (
            distance(
                output(m, own, live.shares[own.index]),
                output(whole, mlp, expected.shares[mlp.index]),
            )
            < 1e-5
        )
        chosen = (live.shares[own.index].abs().sum(-1) > 0).sum(-1)
        assert chosen.max() < own.writes  # most experts are not asked


@every_router
@every_sparse
@torch.no_grad()
def test_everything_is_the_clean_run_and_nothing_the_carried_run(family: str, router: str) -> None:
    m = taken_apart(family, router)
    batch, context, live, carried = both(m)
    legal = m.wiring.legal
    clean, corrupted = (answer(m, batch, one.final) for one in (live, carried))
    assert distance(run(m, batch, context, carried, legal), clean) < 1e-5
    assert distance(run(m, batch, context, carried, np.zeros_like(legal)), corrupted) < 1e-5
    native = m.native(batch.corrupt, batch.mask).logits
    assert distance(corrupted, native[range(len(batch)), batch.last]) < 1e-5


@every_router
@every_sparse
@torch.no_grad()
def test_a_stack_of_circuits_is_each_of_them_alone(family: str, router: str) -> None:
    m = taken_apart(family, router)
    batch, context, _, carried = both(m)
    grown = random_masks(m.wiring, 60, n=3)
    keeps = [*grown, *(grown[0] | other for other in grown[1:]), m.wiring.legal]
    stacked = list(runs(m, batch, context, carried, keeps))
    for found, keep in zip(stacked, keeps, strict=True):
        assert distance(found, run(m, batch, context, carried, keep)) < 1e-4
    assert torch.stack(stacked).std(0).max() > 1e-2


@every_sparse
@torch.no_grad()
def test_an_expert_that_is_cut_is_one_that_writes_nothing(family: str) -> None:
    m = taken_apart(family)
    batch, context, _, _ = both(m)
    nothing = zero(m, dataset())(batch)[0]
    for name in ("m0.e0", "m1.e1", "m2.e2"):
        layer, expert = int(name[1]), int(name[-1])
        keep = m.wiring.legal.copy()
        keep[m.wiring.writer[name]] = False

        def without(at: int, index: Tensor, weights: Tensor, layer=layer, expert=expert) -> Any:  # type: ignore[no-untyped-def]
            return index, torch.where((index == expert) & (at == layer), 0.0, weights)

        with routed(m, without):
            expected = m.native(batch.clean, batch.mask).logits[range(len(batch)), batch.last]
        assert distance(run(m, batch, context, nothing, keep), expected) < 1e-4
        plain = m.native(batch.clean, batch.mask).logits[range(len(batch)), batch.last]
        assert distance(expected, plain) > 1e-4


@every_sparse
@torch.no_grad()
def test_a_held_router_does_not_answer(family: str) -> None:
    """With every edge into the logits and the MLPs kept and the embedding's change cut from the
    attention, the model's own forward with the clean run's routing gives the same."""
    m, live_router = taken_apart(family, "held"), taken_apart(family)
    batch, context, live, _ = both(m)
    asked: dict[int, tuple[Tensor, Tensor]] = {}

    def keep_clean(layer: int, index: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        asked[layer] = index, weights
        return index, weights

    with routed(m, keep_clean):
        m.native(batch.clean, batch.mask)
    nothing = zero(m, dataset())(batch)[0]
    keep = m.wiring.legal.copy()
    keep[m.wiring.writer["m0.e1"]] = False

    def held(layer: int, index: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        index, weights = asked[layer]
        return index, torch.where((index == 1) & (layer == 0), 0.0, weights)

    with routed(m, held):
        expected = m.native(batch.clean, batch.mask).logits[range(len(batch)), batch.last]
    found = run(m, batch, context, nothing, keep)
    assert distance(found, expected) < 1e-4
    answers = run(live_router, batch, live_router.start(batch.clean, batch.mask), nothing, keep)
    assert distance(found, answers) > 1e-5
    assert live.held.keys() == {s.index for s in m.wiring.stages if s.kind == "experts"}


@every_router
@every_sparse
def test_attribution_is_the_slope_and_sums_to_the_mlps(family: str, router: str) -> None:
    m, whole = taken_apart(family, router), model(family)
    batch, context, live, carried = both(m)
    at = gradients(m, batch, context, context.embed, metric)
    found = score(m, batch, live, carried, at)
    keep = torch.from_numpy(m.wiring.legal).float().requires_grad_()
    (slope,) = torch.autograd.grad(metric(run(m, batch, context, carried, keep)).sum(), keep)
    assert distance(found, slope) < 1e-3
    if router == "live":
        _, _, live_whole, carried_whole = both(whole)
        at = gradients(whole, batch, context, context.embed, metric)
        expected = score(whole, batch, live_whole, carried_whole, at)
        for layer in range(m.wiring.layers):
            (stage,) = m.wiring.beyond_attention(layer)
            own = found[stage.rows, -1].sum()
            assert distance(own, expected[whole.wiring.writer[f"m{layer}"], -1]) < 1e-3


@every_router
@pytest.mark.parametrize(("family", "direction"), [("mixtral", "noise"), ("qwen2-moe", "denoise")])
@torch.no_grad()
def test_a_sweep_is_one_masked_run_per_edge(family: str, router: str, direction: str) -> None:
    m = taken_apart(family, router)
    batch, clean, live, carried = both(m)
    corrupted = m.start(batch.corrupt, batch.mask)
    base, other = (live, carried) if direction == "noise" else (carried, live)
    context = clean if direction == "noise" else corrupted
    edges = random_masks(m.wiring, 30, n=1)[0]
    swept = 0
    for block, values in sweep(m, batch, clean, base, other, metric, edges):
        for (row, column), found in zip(block, values, strict=True):
            keep = m.wiring.legal.copy()
            keep[row, column] = False
            expected = metric(run(m, batch, context, other, keep))
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)
            swept += 1
    assert swept == edges.sum()


@every_router
@torch.no_grad()
def test_a_path_through_an_expert_is_routed_as_its_base_run(router: str) -> None:
    m = taken_apart("mixtral", router)
    batch, clean, live, carried = both(m)
    (stage,) = m.wiring.beyond_attention(1)
    kind, row = m.kinds[stage.kind], m.wiring.writer["a0.h1"]  # type: ignore[index]
    for direction in ("noise", "denoise"):
        base, other = (live, carried) if direction == "noise" else (carried, live)
        context = clean if direction == "noise" else m.start(batch.corrupt, batch.mask)
        ports = kind.project(m, stage, base.reads[stage.index] + difference(m, other, base, row))
        change = kind.compute(m, stage, context, ports) - base.computed[stage.index]
        ends = [answer(m, batch, final) for final in (base.final, base.final + change[:, :, 0])]
        before, after = (logit_diff(logits, logits, batch).double().numpy() for logits in ends)
        expected = before - after if direction == "noise" else after - before
        path = ["a0.h1", "m1", "m1.e0", "logits"]
        data = dataset(padding="left", batch_size=6)
        found = patch_path(m, path, data, logit_diff, direction=direction)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert np.abs(expected).max() > 1e-2


def test_a_circuit_of_experts_is_written_read_and_drawn() -> None:
    m = taken_apart("qwen2-moe")
    scores = eap(m, dataset(), logit_diff, counterfactual)
    circuit = scores.top(40)
    assert any(".e" in node for node in circuit)
    again = from_json(to_json(circuit))
    assert np.array_equal(mask(again), mask(circuit))
    assert mask(circuit).sum() == len(np.argwhere(mask(circuit)))
    assert "experts" in repr(circuit)
    assert nx.has_path(circuit, "input", "logits")
    for text in (svg(circuit), graphml(circuit)):
        assert ".e" in text
    assert Wiring.from_dict(m.wiring.to_dict()) == m.wiring


def test_files_of_models_without_experts_do_not_speak_of_them() -> None:
    assert Wiring(2, 2, 2).to_dict().keys() == {"layers", "heads", "groups", "mlp", "parallel"}
    assert Wiring(2, 2, 2, experts=(0, 0)) == Wiring(2, 2, 2)


@pytest.mark.parametrize("experts", [(1,), (1, -1), (1, 2.0), "ab", 3, (1, 2**16)])
@pytest.mark.unchecked
def test_impossible_experts_are_refused(experts: Any) -> None:
    with pytest.raises(CircuitError, match="not a wiring"):
        Wiring(2, 2, 2, experts=experts)


def test_experts_are_refused_where_there_are_none_and_with_another_router() -> None:
    with pytest.raises(UnsupportedModelError, match="no mixture-of-experts"):
        from_module(build("gpt2"), experts="live")
    with pytest.raises(CircuitError, match="choose from live, held"):
        from_module(build("mixtral"), experts="frozen")


def test_the_command_takes_experts_and_a_circuit_says_how_they_were_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tiny mixture of experts with mini's tokenizer, saved as Hugging Face saves it."""
    config = MixtralConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=24, num_local_experts=3, num_experts_per_tok=2,
        vocab_size=len(AutoTokenizer.from_pretrained(MINI)), max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    MixtralForCausalLM(config).save_pretrained(tmp_path / "moe")
    AutoTokenizer.from_pretrained(MINI).save_pretrained(tmp_path / "moe")
    monkeypatch.chdir(tmp_path)
    asked = ["--model", str(tmp_path / "moe"), "--experts", "held", "--quiet"]
    assert main(["check", str(tmp_path / "moe"), "--experts", "held"]) == 0
    few = ["--examples", "6", "--edges", "40", "--force", "-o", "out"]
    assert main(["discover", "ioi", *asked, *few]) == 0
    circuit = Circuit.load(tmp_path / "out" / "circuit.json")
    assert circuit.graph["experts"] == "held"
    assert circuit.graph["wiring"]["experts"] == (3, 3)
    assert any(".e" in name for name in circuit)
    capsys.readouterr()
    assert main(["evaluate", "out/circuit.json", "--examples", "6", "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main(["check", "mini", "--experts", "live"]) == 2
    assert "mixture-of-experts" in capsys.readouterr().err
