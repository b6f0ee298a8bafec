"""AtP* against its parts done by hand: the softmax, and a model in which a layer is detached."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from families import as_batch, dataset, distance, model
from torch import Tensor

from circuitkit.corruptions import counterfactual
from circuitkit.discovery import atp_star, eap
from circuitkit.engine.model import Model
from circuitkit.engine.record import answer, difference, record
from circuitkit.metrics import logit_diff
from circuitkit.models.transformer_lens import Transformer

LENGTHS = (7, 5)


def near(m: Model, size: float) -> object:
    """A corruption that carries the clean run but for a small part of the way to another one."""

    def nearby(model: Model, data: object) -> object:
        carry = counterfactual(model, data)  # type: ignore[arg-type]

        def carried(batch):  # type: ignore[no-untyped-def]
            (other,), context = carry(batch), m.start(batch.clean, batch.mask)
            return [record(m, context, torch.lerp(context.embed, other.embed, size))]

        return carried

    return nearby


def plain(m: Model) -> np.ndarray:
    return eap(m, dataset(LENGTHS), logit_diff, counterfactual).values


# -- the query-key fix -----------------------------------------------------------------------------
def by_hand(m: Transformer, name: str) -> float:
    """What an edge into a query or key of GPT-2 or Llama scores, with the softmax written out."""
    data = dataset(LENGTHS)
    batch = as_batch(data)
    (carried,), context = counterfactual(m, data)(batch), m.start(batch.clean, batch.mask)
    writer, reader = name.split("->")
    row, column = m.wiring.writer[writer], [*map(str, m.wiring.readers)].index(reader)
    stage = next(s for s in m.wiring.stages if s.columns.start <= column < s.columns.stop)
    port, place = stage.port(column)
    with torch.enable_grad():
        run = record(m, context, context.embed.clone().requires_grad_())
        logits = answer(m, batch, run.final)
        metric = logit_diff(logits, logits.detach(), batch).sum()
        (steep,) = torch.autograd.grad(metric, run.computed[stage.index])
    read = run.reads[stage.index]
    delta = difference(m, run, carried, row)
    ports, moved = (m.kinds["attention"].project(m, stage, x) for x in (read, read - delta))
    now = [*ports]
    now[port] = ports[port].clone()
    now[port][:, :, place] = moved[port][:, :, place]
    before, after = (m.scores(context, stage.layer, q, k).softmax(-1) for q, k, _ in (ports, now))
    values = ports[2].repeat_interleave(m.wiring.heads // m.wiring.groups, dim=2)
    in_pattern = torch.einsum("bqhe,bkhe->bhqk", steep, values)  # the gradient
    return float(((before - after) * in_pattern).sum().detach() / len(data))


@pytest.mark.parametrize(
    ("family", "edge"),
    [("gpt2", "input->a0.h1.q"), ("gpt2", "a0.h2->a2.h3.k"), ("gpt2", "m1->a2.h0.q"),
     ("llama", "input->a1.g1.k"), ("llama", "m0->a1.h3.q"), ("olmo2", "a0.h1->a1.h2.q"),
     ("gemma2", "input->a1.h1.q")],
)  # fmt: skip
def test_an_edge_into_attention_scores_the_softmax_as_it_is(family: str, edge: str) -> None:
    m = model(family)
    found = atp_star(m, dataset(LENGTHS), logit_diff, counterfactual, drop=False)
    writer, reader = edge.split("->")
    place = m.wiring.writer[writer], [*map(str, m.wiring.readers)].index(reader)
    expected = by_hand(m, edge)
    assert abs(expected) > 1e-4
    assert found.values[place] == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama", "olmo2"])
def test_of_a_small_change_the_softmax_is_linear(family: str) -> None:
    m, data = model(family), dataset(LENGTHS)
    small = near(m, 1e-2)
    fixed, linear = (
        method(m, data, logit_diff, small).values  # type: ignore[operator]
        for method in (lambda *a: atp_star(*a, drop=False), eap)
    )
    assert distance(fixed, linear) < 2e-2


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mixtral", "attention-only"])
def test_the_other_edges_are_those_of_eap(family: str) -> None:
    m = model(family)
    found = atp_star(m, dataset(LENGTHS), logit_diff, counterfactual, drop=False).values
    fixed = [".q" in str(r) or ".k" in str(r) for r in m.wiring.readers]
    others = ~np.array(fixed)
    assert distance(found[:, others], plain(m)[:, others]) < 1e-5
    assert distance(found, plain(m)) > 1e-3
    without = atp_star(m, dataset(LENGTHS), logit_diff, counterfactual, fix=False, drop=False)
    assert distance(without.values, plain(m)) < 1e-5


# -- dropped layers --------------------------------------------------------------------------------
def without(m: Transformer, dropped: int) -> Transformer:
    """The model, but nothing flows back through what one layer writes."""
    twin = copy.copy(m)

    def out(layer: int, z: Tensor) -> tuple[Tensor, Tensor]:
        total, own = m.attention_out(layer, z)
        return (total.detach(), own) if layer == dropped else (total, own)

    def mlp(layer: int, x: Tensor) -> Tensor:
        written = m.mlp(layer, x)
        return written.detach() if layer == dropped else written

    vars(twin).update(attention_out=out, mlp=mlp)
    return twin


@pytest.mark.parametrize("family", ["gpt2", "neox-parallel", "gemma2"])
def test_the_size_is_the_mean_over_dropped_layers_and_the_sign_the_plain_one(family: str) -> None:
    m, data = model(family), dataset(LENGTHS)
    found = atp_star(m, data, logit_diff, counterfactual, fix=False).values
    each = []
    for layer in range(m.wiring.layers):
        scores = eap(without(m, layer), data, logit_diff, counterfactual, groups="examples")
        each.append(np.abs(np.asarray(scores.groups)).mean(0))
    passes = np.full(m.wiring.shape[1], m.wiring.layers - 1.0)
    passes[-1] = m.wiring.layers
    legal = m.wiring.legal
    expected = np.sum(each, axis=0) / np.broadcast_to(passes, legal.shape)[legal]
    assert distance(np.abs(found[legal]), expected) < 1e-5
    sure = np.abs(plain(m)) > 1e-5
    assert (np.sign(found) == np.sign(plain(m)))[sure].all()
