"""Scores by span: of the residual stream in its spans, and of attention between them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, as_batch, dataset, distance, model
from torch import Tensor

import circuitkit as ck
import circuitkit.discovery._gradients as shared
import circuitkit.engine.gradients as by_stage
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.data.places import numbers, places
from circuitkit.engine.attribute import score
from circuitkit.engine.gradients import Gradients, gradients
from circuitkit.engine.model import Activations, Context, Model
from circuitkit.engine.placed_scores import Grouped, _Part, grouped, score_places
from circuitkit.engine.record import record, with_sources
from circuitkit.engine.run import run
from circuitkit.errors import ArgumentError, CircuitError
from circuitkit.graph.places import PlacedMask, Places
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.decoder import SPECIAL, Decoder

LENGTHS = (8, 5, 7)
COUPLED = ("olmo2", "olmoe")  # a norm over all keys at once
CLOSE = 1e-5


class Given:
    """What ``score_places`` takes, of one batch."""

    def __init__(self, m: Model, data: Dataset, spans: str = "named") -> None:
        self.model, self.batch = m, as_batch(data)
        self.places: Places = places(data, m.wiring, spans)
        self.context: Context = m.start(self.batch.clean, self.batch.mask)
        self.at: Gradients = gradients(
            m, self.batch, self.context, self.context.embed, self.metric, mixed=True
        )
        (carried,) = counterfactual(m, data)(self.batch)
        self.carried: Activations = with_sources(m, carried)
        self.of = numbers(self.batch, self.places.spans)

    def metric(self, logits: Tensor) -> Tensor:
        return logit_diff(logits, logits, self.batch)

    def groups(self, apart: bool = False) -> Grouped:
        return grouped(self.batch, self.of, len(self.places.spans), apart)

    def scored(self, apart: bool = False, live: Activations | None = None) -> tuple[Tensor, Tensor]:
        return score_places(
            self.model, self.batch, self.context, live or self.at.activations, self.carried,
            self.at, self.places, self.groups(apart),
        )  # fmt: skip

    def parts(self) -> list[_Part]:
        given = self.model, self.context, self.at, self.groups()
        return [_Part(stage, *given) for stage, _ in self.places.stages]


@cache
def given(family: str) -> Given:
    return Given(model(family), dataset(LENGTHS))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_scores_over_all_spans_are_the_plain_ones(family: str) -> None:
    """In single precision; and nothing is scored that is not an edge."""
    own = given(family)
    residual, attention = own.scored()
    plain = score(own.model, own.batch, own.at.activations, own.carried, own.at)
    assert distance(residual[0].sum(-1), plain) < 1e-6
    legal = own.places.legal
    assert not residual[0].numpy()[~legal.residual].any()
    assert not attention[0].numpy()[~legal.attention].any()
    assert attention.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_the_gradient_of_the_metric_in_the_mask_that_keeps_all(family: str) -> None:
    own = given(family)
    kept = [torch.ones(table.shape, requires_grad=True) for table in
            (own.places.legal.residual, own.places.legal.attention)]  # fmt: skip
    keep = PlacedMask(own.places, *kept)
    logits = run(own.model, own.batch, own.context, own.carried, keep)
    slopes = torch.autograd.grad(own.metric(logits).sum(), kept)
    for found, slope in zip(own.scored(), slopes, strict=True):
        assert distance(found[0], slope) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_s_edges_out_of_a_port_sum_to_what_it_carries(family: str) -> None:
    """Its gradient times its change, at the tokens of each span; which is not the sum of the plain
    edges into it, for a norm lies between."""
    own = given(family)
    _, attention = own.scored()
    held = torch.nn.functional.one_hot(own.of + 1, len(own.places.spans) + 1)[..., 1:].float()
    for stage, rows in own.places.stages:
        live = own.model.project(stage.layer, own.at.activations.reads[stage.index])[1:]
        carried = own.model.project(stage.layer, own.carried.reads[stage.index])[1:]
        for port, (mine, other) in enumerate(zip(live, carried, strict=True)):
            flow = own.at.ports[stage.index][1 + port] * (mine - other)
            expected = torch.einsum("bjge,bjs->gs", flow, held)
            found = attention[0, rows, port].sum(-1)
            groups = found.view(len(expected), -1, len(own.places.spans)).sum(1)
            assert distance(groups, expected) < CLOSE


@pytest.mark.parametrize("family", FAMILIES)
def test_the_closed_form_is_the_products_where_keys_are_apart(family: str) -> None:
    """And is found wrong where they are not, so that the products take its place."""
    own = given(family)
    live, carried = own.at.activations, own.carried
    _, attention = own.scored()
    for (_, rows), part in zip(own.places.stages, own.parts(), strict=True):
        found = part.closed(live, carried)
        expected = part.products(live, carried)
        assert found is not None
        assert bool(found[1]) == (family not in COUPLED)
        assert (distance(found[0], expected) < CLOSE) == (family not in COUPLED)
        assert distance(attention[:, rows], expected) < CLOSE


def test_attention_whose_scores_are_not_seen_is_scored_by_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here it takes no softmax by its name."""
    m = model("llama")
    expected = given("llama").scored()

    def softmax(x: Tensor, *_: Any, dtype: Any = None, **__: Any) -> Tensor:
        x = (x if dtype is None else x.to(dtype)) - x.max(-1, keepdim=True).values
        return x.exp() / x.exp().sum(-1, keepdim=True)

    softmax.__name__ = "exponentials"
    monkeypatch.setattr(torch.nn.functional, "softmax", softmax)
    own = Given(m, dataset(LENGTHS))
    assert [part.closed(own.at.activations, own.carried) for part in own.parts()] == [None] * 3
    for found, other in zip(own.scored(), expected, strict=True):
        assert distance(found, other) < CLOSE


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "olmo2"])
def test_scores_by_example_are_those_of_each_example_alone(family: str) -> None:
    """Of padded prompts of different lengths; and they sum to those of the batch."""
    own = given(family)
    apart = own.scored(apart=True)
    for each, together in zip(apart, own.scored(), strict=True):
        assert distance(each.sum(0), together[0]) < CLOSE
    data = dataset(LENGTHS)
    for number, example in enumerate(data.examples):
        one = Given(own.model, replace(data, examples=(example,)))
        one.places, one.of = own.places, numbers(one.batch, own.places.spans)
        for each, found in zip(apart, one.scored(), strict=True):
            assert distance(each[number], found[0]) < 1e-4


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_it_does_not_matter_where_the_padding_is(family: str) -> None:
    left = Given(model(family), dataset(LENGTHS, padding="left"))
    for found, expected in zip(left.scored(), given(family).scored(), strict=True):
        assert distance(found, expected) < CLOSE


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "olmo2"])
def test_of_long_prompts_it_is_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose backward goes stage by stage; and with the sources of another run as the live one's."""
    expected = given(family).scored()
    monkeypatch.setattr(by_stage, "LONG", 1)
    own = Given(model(family), dataset(LENGTHS))
    assert not any(one.ports for one in own.at.mixed.values())
    again = with_sources(own.model, record(own.model, own.context)).written()
    for live in (own.at.activations, again):
        for found, other in zip(own.scored(live=live), expected, strict=True):
            assert distance(found, other) < CLOSE


def test_every_position_by_itself() -> None:
    """Sums up to any division into spans."""
    m, data = model("smollm3"), dataset((7, 7))
    single, several = Given(m, data, "tokens"), Given(m, data)
    found, expected = single.scored(), several.scored()
    to = [int(several.of[0, position]) for position in range(7)]
    onehot = torch.nn.functional.one_hot(torch.tensor(to)).float()
    assert distance(found[0] @ onehot, expected[0]) < CLOSE
    assert distance(onehot.T @ found[1] @ onehot, expected[1]) < CLOSE


def test_opposite_effects_at_two_places_are_found_where_the_plain_scores_see_nothing() -> None:
    """One head looks at all tokens alike: the corrupted prompt has the same words in another
    order, so that its two words do opposite things."""
    words, d = (*SPECIAL, "a", "b", "c"), 5
    none, units = torch.zeros(1, 1, d, d), torch.eye(d)
    m = Decoder(
        "pair", words, units, torch.zeros(4, d), none, none, units[None, None],
        units[None, None], torch.zeros(1, d, 1), torch.zeros(1, 1, d), units, {},
    )  # fmt: skip
    spans = {"one": (1, 2), "two": (2, 3)}
    own = Given(m, Dataset((Example((0, 2, 3, 4), (0, 3, 2, 4), (2,), (3,), spans),)))
    assert own.places.spans == ("start", "one", "two", "end")
    assert not score(m, own.batch, own.at.activations, own.carried, own.at).any()
    residual, attention = (table[0] for table in own.scored())
    value = m.wiring.reader["a0.h0.v"]
    # each word is a quarter of what is read, and of it the one is 1 and the other -1, less -1 and 1
    assert residual[0, value].tolist() == [0, 0.5, -0.5, 0]
    assert attention[0, 1, :, 3].tolist() == [0, 0.5, -0.5, 0]
    assert residual.count_nonzero() == attention.count_nonzero() == 2


# -- methods ---------------------------------------------------------------------------------------
METHODS = {
    "eap": {}, "eap_ig": {"steps": 2}, "expected_gradients": {}, "clean_corrupted": {}, "relp": {},
    "mask_gradient": {"steps": 4, "norms": "clean"},
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_every_sum_of_gradients_is_one_by_span(name: str) -> None:
    """Of the examples together and of each alone, in batches of any size."""
    m, data, method = model("gemma2"), dataset(LENGTHS), getattr(ck.discovery, name)
    where = places(data, m.wiring)
    plain = method(m, data, **METHODS[name])
    found = method(m, data, places=where, groups="examples", **METHODS[name])
    again = method(m, replace(data, batch_size=2), places=where, **METHODS[name])
    assert distance(found.collapse().values, plain.values) < CLOSE
    for one, two in ((found.residual, again.residual), (found.attention, again.attention)):
        assert distance(one, two) < 1e-4
    tables = [(found.residual, where.legal.residual), (found.attention, where.legal.attention)]
    mean = np.concatenate([table[legal] for table, legal in tables])
    assert distance(found.groups.mean(0), mean) < CLOSE
    error = found.groups.std(0, ddof=1) / len(data) ** 0.5
    kept = zip((found.error.residual, found.error.attention), tables, strict=True)
    assert distance(np.concatenate([own[legal] for own, (_, legal) in kept]), error) < 1e-4
    assert found.about["method"] == name
    assert found.about["settings"] == plain.about["settings"]


def test_the_sources_change_from_the_carried_run_to_the_clean_one() -> None:
    """Also where the gradients are taken at points between: edges of attention sum to the mean
    gradient in the key or value times that change."""
    m, data = model("qwen2"), dataset(LENGTHS, batch_size=3)
    own, flow = given("qwen2"), 0.0
    where = own.places
    (stage, rows) = where.stages[1]
    live, carried = (
        m.project(stage.layer, run.reads[stage.index])[2]
        for run in (own.at.activations, own.carried)
    )
    for share in (0.0, 0.5):
        x = torch.lerp(own.carried.embed, own.context.embed, share)
        at = gradients(m, own.batch, own.context, x, own.metric)
        flow = flow + (at.ports[stage.index][2] * (live - carried)).sum((0, 1, 3)) / 2 / len(data)
    found = ck.discovery.eap_ig(m, data, places=where, steps=2)
    groups = found.attention[rows, 1].sum((1, 2)).reshape(len(flow), -1).sum(1)
    assert distance(groups, flow) < CLOSE


def test_finished_batches_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same spans alone."""
    m, data = model("gpt2"), dataset((7, 7, 7), batch_size=2)
    few = places(data, m.wiring)
    run_now = partial(ck.discovery.eap, m, data, resume=tmp_path)
    first = run_now(places=few)
    calls = []
    monkeypatch.setattr(
        shared, "score_places", lambda *own: calls.append(own) or score_places(*own)
    )
    again = run_now(places=few)
    assert not calls
    assert np.array_equal(first.residual, again.residual)
    assert np.array_equal(first.attention, again.attention)
    run_now(places=places(data, m.wiring, "tokens"))
    assert len(calls) == 2


def test_places_of_another_model_and_methods_that_know_none_are_refused() -> None:
    m, data = model("gpt2"), dataset(LENGTHS)
    with pytest.raises(CircuitError, match="places are of a model of"):
        ck.discovery.eap(m, data, places=places(data, model("llama").wiring))
    for name in ("acdc", "exact", "nested"):
        with pytest.raises(ArgumentError, match=f"no argument of {name} is called 'places'"):
            getattr(ck.discovery, name)(m, data, places=places(data, m.wiring))
    with pytest.raises(ArgumentError, match="places='tokens'"):
        ck.resolve("discovery", "eap(places='tokens')")
