"""A circuit beside other edges: random ones, and those that a search finds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from families import able, model

import circuitkit as ck
import circuitkit.evaluation.complements as module
from circuitkit.corruptions import counterfactual, mean, noise
from circuitkit.discovery import eap
from circuitkit.engine.inputs import Inputs
from circuitkit.engine.memory import peak
from circuitkit.errors import ArgumentError, BudgetError, CircuitError, MetricError
from circuitkit.evaluation.complements import complements, halved
from circuitkit.evaluation.faithfulness import evaluate, evaluate_beside
from circuitkit.evaluation.running import slopes
from circuitkit.evaluation.spaces import space_of
from circuitkit.graph.nodes import parse_edge
from circuitkit.graph.types import Mask
from circuitkit.metrics import accuracy, logit_diff

M = model("gpt2")
LEGAL: Mask = M.wiring.legal
DATA = able("gpt2", (8, 5, 7, 6, 8, 4, 5, 7))
GIVEN = (DATA, logit_diff, counterfactual)
INPUTS = Inputs(M, *GIVEN)
KEEP: Mask = eap(M, *GIVEN).mask(30)
SEEN, UNSEEN = halved(INPUTS, 0)


@cache
def found(kind: str = "worst", **settings: Any) -> Any:
    return complements(M, KEEP, *GIVEN, kind=kind, n=4, **settings)


# -- random ones -----------------------------------------------------------------------------------
def test_no_other_edges_are_the_circuit_and_all_of_them_the_model() -> None:
    alone = evaluate(M, KEEP, *GIVEN).faithfulness
    none, whole = (complements(M, KEEP, *GIVEN, n=2, share=share) for share in (0, 1))
    assert none.values == pytest.approx([alone] * 2)
    assert none.alone.faithfulness == pytest.approx(alone)
    assert whole.values == pytest.approx((1, 1), abs=1e-5)
    assert (none.kept, whole.kept, whole.others) == (0, 262 - KEEP.sum(), 262 - KEEP.sum())


def test_random_ones_are_evaluations_of_the_circuit_with_half_of_the_others() -> None:
    own = complements(M, KEEP, *GIVEN, n=5, seed=3)
    masks = space_of(KEEP, M).beside(own.kept, 5, 3)
    by_hand = evaluate(M, masks, *GIVEN)
    assert own.values == pytest.approx([each.faithfulness for each in by_hand])
    assert own.mean == np.mean(own.values)
    assert own.lowest == min(own.values)
    assert own.interval[0] < own.mean < own.interval[1]
    assert own.kept == round((262 - KEEP.sum()) / 2)
    assert len({mask.tobytes() for mask in masks}) == 5
    for mask in masks:
        assert (mask & KEEP).sum() == KEEP.sum()
        assert (mask & ~KEEP & LEGAL).sum() == (mask & ~KEEP).sum() == own.kept
    assert complements(M, KEEP, *GIVEN, n=5, seed=4).values != own.values


def test_of_one_draw_the_interval_is_that_of_the_faithfulness() -> None:
    own = complements(M, KEEP, *GIVEN, n=1, seed=3)
    assert own.interval == pytest.approx(own.draws[0].interval(), abs=0.05)
    several = [replace(own.draws[0], circuit=own.draws[0].circuit + shift) for shift in (-1, 0, 1)]
    wider = replace(own, draws=tuple(several)).interval
    assert wider[0] < own.interval[0] < own.interval[1] < wider[1]
    one = replace(DATA, examples=DATA.examples[:1])
    assert np.isnan(complements(M, KEEP, one, *GIVEN[1:], n=3).interval).all()


def test_evaluate_beside_measures_the_same_halves() -> None:
    halves = evaluate_beside(M, KEEP, *GIVEN, random=0, halves=3, seed=2).halves
    own = complements(M, KEEP, *GIVEN, n=3, seed=2)
    assert tuple(each.faithfulness for each in halves) == pytest.approx(own.values, abs=1e-6)


# -- the search ------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["worst", "best"])
def test_what_is_found_is_no_worse_than_all_that_it_was_compared_with(kind: str) -> None:
    own, sign = found(kind), 1 if kind == "worst" else -1
    assert not (own.mask & KEEP).any()
    assert not (own.mask & ~LEGAL).any()
    assert len(own.edges) == own.mask.sum() == own.random.kept > 0
    drawn = space_of(KEEP, M).beside(own.random.kept, 4, 0)
    here = [e.faithfulness for e in evaluate(M, [KEEP | own.mask, KEEP, *drawn], *SEEN[1:])]
    assert own.found.faithfulness == pytest.approx(here[0], abs=1e-6)
    assert sign * here[0] <= min(sign * value for value in here[1:]) + 1e-5
    assert sign * here[0] < sign * here[1] - 0.01
    there = [e.faithfulness for e in evaluate(M, [KEEP | own.mask, KEEP, *drawn], *UNSEEN[1:])]
    assert own.evaluation.faithfulness == pytest.approx(there[0], abs=1e-6)
    assert own.alone.faithfulness == pytest.approx(there[1], abs=1e-6)
    assert own.random.values == pytest.approx(there[2:], abs=1e-6)


def test_it_is_found_on_other_prompts_than_those_it_is_measured_on() -> None:
    seen, unseen = ({e.clean for e in half.data.examples} for half in (SEEN, UNSEEN))
    assert not seen & unseen
    assert seen | unseen == {e.clean for e in DATA.examples}
    twice = replace(DATA, examples=DATA.examples * 2)
    sides = halved(INPUTS._replace(data=twice), 1)
    assert not {e.clean for e in sides[0].data.examples} & {e.clean for e in sides[1].data.examples}
    assert not found().in_sample
    few = replace(DATA, examples=DATA.examples[:2])
    own = complements(M, KEEP, few, *GIVEN[1:], kind="worst", n=1, steps=1)
    assert own.in_sample
    assert "in sample" in str(own)


def test_more_steps_never_find_less() -> None:
    values = [found(steps=steps).found.faithfulness for steps in (1, 4, 12)]
    assert values[2] <= values[1] + 1e-5
    assert values[1] <= values[0] + 1e-5


def test_where_nothing_hurts_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Search, "values", lambda self, sets: [self.alone] * len(sets))
    own = complements(M, KEEP, *GIVEN, kind="worst", n=2, steps=2)
    assert own.edges == ()
    assert own.evaluation.faithfulness == own.alone.faithfulness == own.random.mean


def test_a_step_changes_what_lowers_the_value_by_the_gradient() -> None:
    """It adds edges that hurt, and takes out those that help."""
    space = space_of(KEEP, M)
    search = module._Search(SEEN, space, 1)
    both = space.beside(100, 1, 0)[0]
    slope = space.flat(slopes(SEEN, space.mask(space.flat(both).astype(float)))) / search.gap
    mask, rest = space.flat(both) & ~search.keep, ~search.keep
    effect = np.where(mask, -slope, slope)[rest]
    tried = [*search._along(mask, space.flat(both))]
    foreseen = [effect[(own ^ mask)[rest]].sum() for own in tried]
    assert foreseen == sorted(foreseen, reverse=True)
    assert foreseen[0] == pytest.approx(effect.min())
    assert foreseen[-1] == pytest.approx(effect[effect < 0].sum())
    assert (tried[-1] & ~mask).any()
    assert (mask & ~tried[-1]).any()


def test_where_random_ones_hurt_more_these_are_what_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    helping = found("best").mask
    monkeypatch.setattr(module._Search, "run", lambda *_: helping[LEGAL])
    own = complements(M, KEEP, *GIVEN, kind="worst", n=4)
    drawn = space_of(KEEP, M).beside(int(helping.sum()), 4, 0)
    values = [e.faithfulness for e in evaluate(M, drawn, *SEEN[1:])]
    assert own.found.faithfulness == pytest.approx(min(values), abs=1e-6)
    assert np.array_equal(own.mask | KEEP, drawn[int(np.argmin(values))])


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=pytest.mark.weekly)])
def test_among_few_edges_it_is_near_the_worst_of_all_sets(seed: int) -> None:
    """All 256 sets of eight candidates, by brute force."""
    rng = np.random.default_rng(seed)
    ranked = eap(M, *GIVEN).ranking()[:60]
    cut = rng.permutation(ranked)[:8]
    keep = LEGAL.copy()
    keep.reshape(-1)[cut] = False
    sets = [[place for i, place in enumerate(cut) if n >> i & 1] for n in range(256)]
    masks = [keep.copy() for _ in sets]
    for mask, own in zip(masks, sets, strict=True):
        mask.reshape(-1)[own] = True
    values = np.array([e.faithfulness for e in evaluate(M, masks, *SEEN[1:])])
    single = min(values[1 << i] for i in range(8))
    own = complements(M, keep, *GIVEN, kind="worst", n=1).found.faithfulness
    assert values.min() - 1e-5 <= own <= min(single, values[0]) + 1e-5
    assert own <= values.min() + 0.2 * (np.median(values) - values.min())


# -- gradients -------------------------------------------------------------------------------------
@pytest.mark.parametrize("corruption", [counterfactual, mean, partial(noise, draws=3)])
def test_slopes_are_those_of_measure_whatever_the_batches(corruption: Any) -> None:
    """``measure`` holds the graphs of all batches and draws, ``slopes`` that of one at a time."""
    weights = torch.from_numpy(KEEP + 0.3 * ~KEEP).float().requires_grad_()
    whole = ck.measure(M, weights, DATA, logit_diff, corruption).mean()
    expected = torch.autograd.grad(whole, weights)[0].double().numpy()
    for size in (8, 3):
        data = replace(DATA, batch_size=size)
        own = slopes(Inputs(M, data, logit_diff, corruption), weights.detach().numpy())
        np.testing.assert_allclose(own, np.where(LEGAL, expected, 0), atol=2e-5)


def test_gradients_run_in_batches_that_fit_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(size: int) -> int:
        data = replace(DATA, batch_size=size)
        return peak(lambda: slopes(INPUTS._replace(data=data), KEEP.astype(float)))

    for size in (1, 4):
        space = of(size) * 1.05
        monkeypatch.setattr(module, "room_of", lambda *_, space=space: space)
        fitted = module._fitting(INPUTS, space_of(KEEP, M)).data.batch_size
        assert size - 1 <= fitted <= size
        assert of(fitted) <= space
    monkeypatch.setattr(module, "room_of", lambda *_: 1000.0)
    with pytest.raises(BudgetError, match="one example at a time takes"):
        complements(M, KEEP, *GIVEN, kind="worst")


# -- what is refused, and what is said -------------------------------------------------------------
def test_what_has_no_others_or_no_gradient_is_refused() -> None:
    with pytest.raises(CircuitError, match="the circuit is the whole model"):
        complements(M, LEGAL, *GIVEN)
    with pytest.raises(ArgumentError, match="kind"):
        complements(M, KEEP, *GIVEN, kind="bad")
    with pytest.raises(ArgumentError, match="share"):
        complements(M, KEEP, *GIVEN, share=1.5)
    with pytest.raises(MetricError, match="accuracy has no gradient here"):
        complements(M, KEEP, DATA, accuracy, kind="worst")
    assert complements(M, KEEP, DATA, accuracy, n=1).alone.metric == "accuracy"


def test_the_rows_say_what_was_measured() -> None:
    own = found()
    frame = own.to_frame()
    assert frame["others"].tolist() == ["none", "worst", "random"]
    assert frame["edges"].tolist() == [0, len(own.edges), len(own.edges)]
    assert frame["faithfulness"].tolist() == [
        own.alone.faithfulness, own.evaluation.faithfulness, own.random.mean,
    ]  # fmt: skip
    assert own.random.to_frame()["faithfulness"].tolist() == [*own.random.values]
    assert own.to_dict()["random"] == own.random.to_dict()
    places = [M.wiring.index(*parse_edge(name)) for name in own.edges]
    assert places == [tuple(place) for place in np.argwhere(own.mask)]
