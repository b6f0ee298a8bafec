"""A kind of stage that exists only here: an MLP as two halves of its neurons, each with a port of
its own. Nothing in the package knows it, and all laws hold."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import fields
from functools import cache

import numpy as np
import pytest
import torch
from families import as_batch, dataset, distance, double
from torch import Tensor

from circuitkit.corruptions.constants import mean, zero
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Batch
from circuitkit.discovery.attribution import eap, eap_ig
from circuitkit.discovery.pruning import acdc
from circuitkit.discovery.sweeps import exact
from circuitkit.engine.attribute import score
from circuitkit.engine.gradients import gradients
from circuitkit.engine.kinds import Writing
from circuitkit.engine.model import Activations, Context, Model, Ports, Pull
from circuitkit.engine.record import answer, difference, record
from circuitkit.engine.run import run, runs
from circuitkit.engine.sweep import sweep
from circuitkit.evaluation.faithfulness import evaluate
from circuitkit.evaluation.masks import random_masks
from circuitkit.graph.nodes import Node
from circuitkit.graph.stages import ATTENTION, Part, Stage
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.transformer_lens import Transformer
from circuitkit.patching.joint import patch_together
from circuitkit.patching.paths import patch_path

HALVES = 2
SAME = 1e-5  # some models compute angles in single precision whatever their type
every_shape = pytest.mark.parametrize("family", ["gpt2", "llama", "neox-parallel", "olmo2"])


class Halved(Wiring):
    """A wiring whose MLPs are two halves."""

    def parts(self) -> Iterator[Part]:
        for part in super().parts():
            if part.kind == ATTENTION:
                yield part
                continue
            nodes = tuple(Node(f"m{part.layer}.half{half}") for half in range(HALVES))
            feeds = tuple((half,) for half in range(HALVES))
            yield Part(part.layer, "halves", nodes, nodes, feeds, (1,) * HALVES, part.beside)


class Halves(Writing):
    """Half of the neurons each; the output's bias belongs to the first. Both ports give one tensor,
    and yet the gradient at each is its own."""

    def project(self, model: Model, stage: Stage, x: Tensor) -> Ports:
        return (x[..., None, :],) * HALVES

    def compute(self, model: Model, stage: Stage, context: Context, ports: Ports) -> Tensor:
        halves = []
        for half in range(HALVES):
            neurons = model.neurons(stage.layer, ports[half][..., 0, :])
            first = torch.arange(neurons.shape[-1]) < neurons.shape[-1] // 2
            own = neurons * (first if half == 0 else ~first)
            bias = 0 if half == 0 else model.mlp_out(stage.layer, torch.zeros_like(neurons))
            halves.append(model.mlp_out(stage.layer, own) - bias)
        return torch.stack(halves, dim=-2)

    def pull(self, model: Model, stage: Stage) -> Pull:
        return lambda _, grads: torch.cat([grad.movedim(-2, 0) for grad in grads])


@cache
def halved(family: str) -> tuple[Transformer, Transformer]:
    """A tiny model in double precision with its MLPs in halves, and the same with whole ones."""
    whole = double(family)
    if whole.post_norm:  # a norm behind the MLP is not linear in its halves
        for layer in whole.layers:
            layer.ln2_post = None
    model = copy.copy(whole)
    model.wiring = Halved(*(getattr(whole.wiring, one.name) for one in fields(Wiring)))
    model.kinds = {**whole.kinds, "halves": Halves()}
    return model, whole


def both(model: Model) -> tuple[Batch, Context, Activations, Activations]:
    """A batch, and its clean and corrupted runs."""
    batch = as_batch(dataset(padding="left"))
    context = model.start(batch.clean, batch.mask)
    with torch.no_grad():
        live = record(model, context)
        return batch, context, live, record(model, model.start(batch.corrupt, batch.mask))


def metric(logits: Tensor) -> Tensor:
    return logits[:, 0] - logits[:, 1]


def doubled(whole: Wiring, halves: Wiring, keep: np.ndarray) -> np.ndarray:
    """The mask over halves that keeps of both what a mask over MLPs keeps."""

    def old(names: tuple[Node, ...], places: dict[str, int]) -> list[int]:
        return [places[name.split(".half")[0]] for name in names]

    return keep[np.ix_(old(halves.writers, whole.writer), old(halves.readers, whole.reader))]


@every_shape
@torch.no_grad()
def test_halves_kept_alike_are_the_whole_mlp(family: str) -> None:
    model, whole = halved(family)
    batch, context, live, carried = both(model)
    _, _, live_whole, carried_whole = both(whole)
    assert distance(live.final, live_whole.final) < 1e-9
    for keep in [whole.wiring.legal, *random_masks(whole.wiring, 40, n=3)]:
        twice = doubled(whole.wiring, model.wiring, keep) & model.wiring.legal
        expected = run(whole, batch, context, carried_whole, keep)
        assert distance(run(model, batch, context, carried, twice), expected) < 1e-9


@every_shape
@torch.no_grad()
def test_everything_is_the_clean_run_and_nothing_the_carried_run(family: str) -> None:
    model, _ = halved(family)
    batch, context, live, carried = both(model)
    legal = model.wiring.legal
    for other in (carried, mean(model, dataset())(batch)[0], zero(model, dataset())(batch)[0]):
        clean = answer(model, batch, live.final)
        assert distance(run(model, batch, context, other, legal), clean) < SAME
        nothing = run(model, batch, context, other, np.zeros_like(legal))
        torch.testing.assert_close(nothing, answer(model, batch, other.final), atol=1e-6, rtol=1e-6)


@every_shape
def test_a_run_is_the_sum_written_out_by_hand(family: str) -> None:
    """The formula itself, reader by reader, with every writer's output as a full tensor."""
    model, _ = halved(family)
    if model.couples or model.post_norm:
        pytest.skip("the heads of a layer depend on each other, which this slow twin leaves out")
    batch, context, live, carried = both(model)
    wiring, rows = model.wiring, range(model.wiring.shape[0])
    fixed = [difference(model, carried, live, row) * 0 for row in rows]  # live − carried so far
    for keep in random_masks(wiring, 60, n=2, seed=3):
        deltas = list(fixed)
        deltas[0] = context.embed - carried.embed
        alive = wiring.alive(keep)
        for stage in wiring.stages:
            kind, base = model.kinds[stage.kind], carried.reads[stage.index]
            reads = [
                base + sum(alive[row, column] * deltas[row] for row in range(stage.upstream))
                for column in range(stage.columns.start, stage.columns.stop)
            ]
            ports = [
                torch.stack(
                    [
                        kind.project(model, stage, reads[c - stage.columns.start])[port][
                            :, :, place
                        ]
                        for c in range(stage.columns.start, stage.columns.stop)
                        for at, place in [stage.port(c)]
                        if at == port
                    ],
                    dim=2,
                )
                for port in range(len(stage.part.ports))
            ]
            computed = kind.compute(model, stage, context, ports)
            change = kind.write(model, stage, None, computed - carried.shares[stage.index])
            for place, feed in enumerate(stage.feeds):
                live_here = alive[:, list(feed)].any()
                deltas[stage.rows.start + place] = change[place] * bool(live_here)
        final = carried.final + sum(alive[row, -1] * deltas[row] for row in rows)
        found = run(model, batch, context, carried, keep)
        assert distance(found, answer(model, batch, final)) < 1e-8


@every_shape
def test_attribution_is_the_slope_of_the_masked_run(family: str) -> None:
    model, whole = halved(family)
    batch, context, live, carried = both(model)
    found = score(
        model, batch, live, carried, gradients(model, batch, context, context.embed, metric)
    )
    keep = torch.from_numpy(model.wiring.legal).double().requires_grad_()
    (slope,) = torch.autograd.grad(metric(run(model, batch, context, carried, keep)).sum(), keep)
    assert distance(found, slope) < SAME
    _, _, live_whole, carried_whole = both(whole)
    at = gradients(whole, batch, context, context.embed, metric)
    expected = score(whole, batch, live_whole, carried_whole, at)
    for layer in range(whole.wiring.layers):  # halves share what the MLP's edges are worth
        halves = found[[model.wiring.writer[f"m{layer}.half{half}"] for half in range(HALVES)], -1]
        both_halves = expected[whole.wiring.writer[f"m{layer}"], -1]
        torch.testing.assert_close(halves.sum(), both_halves, rtol=SAME, atol=SAME)


@every_shape
@torch.no_grad()
def test_a_sweep_is_one_masked_run_per_edge(family: str) -> None:
    model, _ = halved(family)
    batch, context, live, carried = both(model)
    wiring = model.wiring
    for edges, values in sweep(model, batch, context, live, carried, metric, wiring.legal):
        for (row, column), found in list(zip(edges, values, strict=True))[::7]:
            if column < wiring.shape[1] - 1 and (model.couples or model.post_norm):
                continue  # there the rest of a layer answers to one of its heads
            keep = wiring.legal.copy()
            keep[row, column] = False
            expected = metric(run(model, batch, context, carried, keep))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=SAME)


@every_shape
@torch.no_grad()
def test_a_stack_is_each_circuit_alone(family: str) -> None:
    model, _ = halved(family)
    batch, context, _, carried = both(model)
    grown = random_masks(model.wiring, 50, n=4, seed=1)
    keeps = [*grown, grown[0] | grown[1], model.wiring.legal, grown[2] * 0.5]
    for found, keep in zip(runs(model, batch, context, carried, keeps), keeps, strict=True):
        assert distance(found, run(model, batch, context, carried, keep)) < 1e-9


def test_what_sits_on_the_verbs_takes_the_kind_as_it_is() -> None:
    model, whole = halved("llama")
    data = dataset()
    small, large = (
        eap(model, dataset(batch_size=size), logit_diff, counterfactual).values for size in (1, 6)
    )
    assert distance(small, large) < 1e-5
    assert np.isfinite(eap_ig(model, data, logit_diff, counterfactual, steps=2).values).all()
    truth = exact(model, data, logit_diff, counterfactual)
    assert np.corrcoef(truth.values[model.wiring.legal], small[model.wiring.legal])[0, 1] > 0.3
    kept = acdc(model, data, logit_diff, counterfactual, threshold=0.1)
    assert 0 < (kept.values != 0).sum() < model.wiring.n_edges
    mask = truth.mask(30)
    found = evaluate(model, mask, data, logit_diff, counterfactual)
    assert np.isfinite(found.circuit).all()
    halves = {"m1": [f"m1.half{half}" for half in range(HALVES)]}
    joint = patch_together(model, halves, data, logit_diff).values
    expected = patch_together(whole, {"m1": ["m1"]}, data, logit_diff).values
    assert distance(joint, expected) < 1e-6
    path = patch_path(model, ["a0.h0", "m1.half1", "logits"], data, logit_diff)
    assert np.abs(path).max() > 0
