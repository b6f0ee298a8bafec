"""Knock-outs: gates whose answers are known, the same runs one by one, and all subsets."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, combinations
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from families import able, distance, model
from gates import gate_prompts, gates

from circuitkit.corruptions import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.discovery import eap
from circuitkit.engine.record import record
from circuitkit.engine.run import run
from circuitkit.errors import CircuitError, EvaluationError
from circuitkit.evaluation.faithfulness import evaluate
from circuitkit.evaluation.knockouts import _runs
from circuitkit.evaluation.knockouts.completeness import incompleteness
from circuitkit.evaluation.knockouts.effects import marginal_effects
from circuitkit.evaluation.knockouts.pairs import Interactions, Pair, interactions
from circuitkit.evaluation.knockouts.redundancy import minimality
from circuitkit.graph.circuit import build, edges
from circuitkit.graph.nodes import edge_name, parse_edge
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics import logit_diff

GATES, DATA = gates(), gate_prompts()
ARGUMENTS = (DATA, logit_diff, counterfactual)
LEGS = [(f"a0.h{h}", "m0") for h in range(6)]
FEET = [("input", f"a0.h{h}.v") for h in range(6)]
WHOLE = [*FEET, *LEGS, ("m0", "logits")]
# What does nothing: a query that nobody multiplies by, a head that nobody reads, the size, which is
# the same on both prompts.
IDLE = [("input", "a0.h0.q"), ("input", "a0.h6.v"), ("a0.h6", "m0"), ("input", "m0")]
ONE_LEG = [edge for edge in WHOLE if edge not in ((FEET[1], LEGS[1]))]
# The sizes are 1, 2 and 3: their mean is 2, their standard deviation 1.
ERROR = 1 / 3**0.5


def gate_circuit(kept: Iterable[tuple[str, str]]) -> nx.DiGraph:
    """A circuit of the gates; the earlier an edge is given, the larger its weight."""
    return build(GATES.wiring, {edge: 1 / (1 + i) for i, edge in enumerate(kept)})


def names(kept: Iterable[tuple[str, str]]) -> set[str]:
    return {edge_name(*edge) for edge in kept}


def without(keep: np.ndarray, cut: Iterable[str], wiring: Wiring = GATES.wiring) -> np.ndarray:
    """A mask without these edges."""
    left = keep.copy()
    for edge in cut:
        left[wiring.index(*parse_edge(edge))] = False
    return left


def pair_of(found: Interactions, one: tuple[str, str], two: tuple[str, str]) -> Pair:
    (pair,) = (p for p in found.pairs if {p.one, p.two} == names([one, two]))
    return pair


def subsets(items: Iterable[str]) -> list[tuple[str, ...]]:
    items = list(items)
    return list(chain.from_iterable(combinations(items, n) for n in range(len(items) + 1)))


def means(masks: list[np.ndarray]) -> list[float]:
    """F under each mask of the gates."""
    return [float(e.circuit.mean()) for e in evaluate(GATES, masks, *ARGUMENTS)]


# -- one edge --------------------------------------------------------------------------------------
def test_the_marginal_effects_in_the_gates() -> None:
    """Of size s each gate gives s, s and 2s: without a leg of the OR it still gives s, without one
    of the AND nothing, without one of the sum s less; without its way out the circuit nothing."""
    found = marginal_effects(GATES, gate_circuit(WHOLE), *ARGUMENTS)
    effect = dict(zip(found.edges, found.effects.tolist(), strict=True))
    nothing, size, everything = [0, 0, 0], [1, 2, 3], [4, 8, 12]
    expected = dict.fromkeys(names(WHOLE), size) | dict.fromkeys(
        names(FEET[:2] + LEGS[:2]), nothing
    )
    assert effect == expected | {"m0->logits": everything}
    error = dict(zip(found.edges, found.errors.tolist(), strict=True))
    assert error["a0.h4->m0"] == pytest.approx(ERROR)
    assert found.evaluation.faithfulness == 1


@pytest.mark.parametrize(
    "family", ["gpt2", pytest.param("qwen2", marks=pytest.mark.weekly), "olmo2"]
)
@torch.no_grad()
def test_marginal_effects_are_runs_without_each_edge_one_by_one(family: str) -> None:
    m, data = model(family), able(family)
    circuit = eap(m, data, logit_diff, counterfactual).top(12)
    found = marginal_effects(m, circuit, data, logit_diff, counterfactual)
    listed = [(writer, reader) for writer, reader, _ in edges(circuit)]
    assert set(found.edges) == names(listed)

    def values(kept: Iterable[tuple[str, str]]) -> torch.Tensor:
        keep = np.zeros(m.wiring.shape, dtype=bool)
        for edge in kept:
            keep[m.wiring.index(*edge)] = True
        parts = []
        for batch in data:
            carried = record(m, m.start(batch.corrupt, batch.mask))
            logits = run(m, batch, m.start(batch.clean, batch.mask), carried, keep)
            parts.append(logit_diff(logits, logits, batch))
        return torch.cat(parts)

    inside = {
        edge_name(*edge): values(listed) - values(e for e in listed if e != edge) for edge in listed
    }
    expected = torch.stack([inside[edge] for edge in found.edges])
    assert distance(found.effects, expected) < 1e-4
    assert np.allclose(found.means, expected.mean(1), atol=1e-4)


# -- two edges -------------------------------------------------------------------------------------
@pytest.mark.parametrize("within", ["model", "circuit"])
def test_the_gates_are_found(within: str) -> None:
    """OR: 0 without either leg, s without both. AND: s, and s. Sum: s, and 2s."""
    found = interactions(GATES, gate_circuit(WHOLE), *ARGUMENTS, edges=13, within=within)
    either, both, plain = (pair_of(found, *LEGS[i : i + 2]) for i in (0, 2, 4))
    assert (either.singles, either.joint, either.interaction) == ((0, 0), 2, 2)
    assert (both.singles, both.joint, both.interaction) == ((2, 2), 2, -2)
    assert (plain.singles, plain.joint, plain.interaction) == ((2, 2), 4, 0)
    assert [pair.label for pair in (either, both, plain)] == ["OR", "AND", ""]
    assert either.error == pytest.approx(ERROR)
    ors = [{FEET[0], FEET[1]}, {FEET[0], LEGS[1]}, {LEGS[0], FEET[1]}, {LEGS[0], LEGS[1]}]
    assert {frozenset((p.one, p.two)) for p in found.labelled("OR")} == {
        frozenset(names(pair)) for pair in ors
    }


def test_an_and_along_one_path_is_told_from_an_and_of_two_paths() -> None:
    found = interactions(GATES, gate_circuit(WHOLE), *ARGUMENTS, edges=13)
    beside = {frozenset((p.one, p.two)) for p in found.labelled("AND") if not p.series}
    ands = [{FEET[2], FEET[3]}, {FEET[2], LEGS[3]}, {LEGS[2], FEET[3]}, {LEGS[2], LEGS[3]}]
    assert beside == {frozenset(names(pair)) for pair in ands}
    for inner in (2, 4):  # whatever the gate, without its foot a leg carries nothing
        pair = pair_of(found, FEET[inner], LEGS[inner])
        assert (pair.label, pair.series, pair.interaction) == ("AND", True, -2)


def test_gates_that_speak_against_the_answer_are_the_same_gates() -> None:
    swapped = gate_prompts(swap=True)
    found = interactions(GATES, gate_circuit(WHOLE), swapped, logit_diff, counterfactual, edges=13)
    either, both, plain = (pair_of(found, *LEGS[i : i + 2]) for i in (0, 2, 4))
    assert (either.joint, either.label) == (-2, "OR")
    assert (both.joint, both.label) == (-2, "AND")
    assert (plain.joint, plain.label) == (-4, "")


def test_a_backup_outside_of_the_circuit_answers_in_the_model_alone() -> None:
    """Without the only leg that the circuit holds of the OR, it loses s, and the model nothing."""
    circuit = gate_circuit(ONE_LEG)
    inside = interactions(GATES, circuit, *ARGUMENTS, edges=11, within="circuit")
    whole = interactions(GATES, circuit, *ARGUMENTS, edges=11)
    assert pair_of(inside, LEGS[0], LEGS[4]).singles == (2, 2)
    assert sorted(pair_of(whole, LEGS[0], LEGS[4]).singles) == [0, 2]
    assert not inside.labelled("OR")
    assert not whole.labelled("OR")


def test_the_strongest_edges_are_those_of_largest_weight_or_effect() -> None:
    circuit = gate_circuit(WHOLE)
    circuit["a0.h0"]["m0"]["weight"] = -9.0
    by_weight = interactions(GATES, circuit, *ARGUMENTS, edges=2)
    assert {by_weight.pairs[0].one, by_weight.pairs[0].two} == names([LEGS[0], FEET[0]])
    assert len(by_weight.pairs) == 1
    keep = without(GATES.wiring.legal, names(IDLE))
    by_effect = interactions(GATES, keep, *ARGUMENTS, edges=3)
    chosen = {edge for pair in by_effect.pairs for edge in (pair.one, pair.two)}
    assert "m0->logits" in chosen  # 8; the legs of AND and sum 2, those of the OR 0
    assert not chosen & names(LEGS[:2] + FEET[:2])


def test_of_a_single_example_nothing_is_labelled() -> None:
    one = Dataset(DATA.examples[:1])
    circuit = gate_circuit(WHOLE)
    found = interactions(GATES, circuit, one, logit_diff, counterfactual, edges=13)
    assert {pair.label for pair in found.pairs} == {""}
    assert {pair.interaction for pair in found.pairs} == {-1, 0, 1}
    assert found.to_dict()["pairs"][0]["error"] is None
    single = marginal_effects(GATES, circuit, one, logit_diff, counterfactual)
    assert np.isnan(single.errors).all()


def test_an_interaction_within_the_noise_of_the_examples_is_none() -> None:
    """The OR of sizes 1, 2 and 3 by a metric that turns the first example's sign: −1, 2, 3."""
    flips = torch.tensor([-1.0, 1, 1])

    def noisy(logits: torch.Tensor, reference: torch.Tensor, batch: Any) -> torch.Tensor:
        sizes = reference[:, 0] / 4
        return logit_diff(logits, reference, batch) * flips[sizes.long() - 1]

    circuit = gate_circuit(WHOLE)
    found = interactions(GATES, circuit, DATA, noisy, counterfactual, edges=13)
    pair = pair_of(found, LEGS[0], LEGS[1])
    # mean 4/3; deviations −7/3, 2/3, 5/3, whose squares sum to 78/9; error √(78/18) / √3 = 1.20
    assert pair.interaction == pytest.approx(4 / 3)
    assert pair.error == pytest.approx((78 / 18 / 3) ** 0.5)
    assert pair.label == ""


@pytest.mark.parametrize(
    ("two", "three", "effects", "label"),
    [(1.5, 0.0, ((1, 1), -0.5, -2.5), "AND"), (0.0625, 0.5, ((0.5, 0.5), 0.9375, -0.0625), "")],
)
def test_a_label_is_by_the_larger_of_the_joint_and_the_summed_effect(
    two: float, three: float, effects: Any, label: str
) -> None:
    """The metric without one leg of the sum (three gates' worth) and without both (two). Where each
    alone breaks everything and both more than mend it, the joint effect alone would say backups;
    and an interaction of less than a tenth of the effect is none."""

    def made(logits: torch.Tensor, reference: torch.Tensor, batch: Any) -> torch.Tensor:
        worth = (logits[:, 0] / (reference[:, 0] / 4)).round().long()
        return torch.tensor([0.0, 0.0, two, three, 1.0])[worth]

    found = interactions(GATES, gate_circuit(WHOLE), DATA, made, counterfactual, edges=13)
    pair = pair_of(found, LEGS[4], LEGS[5])
    assert (pair.singles, pair.joint, pair.interaction, pair.label) == (*effects, label)


# -- many edges: completeness ----------------------------------------------------------------------
def test_a_circuit_with_one_leg_of_an_or_is_faithful_and_incomplete() -> None:
    """F(C) = F(M) = 8. Without the leg the circuit's OR gives 0 and the model's still s: 2 of 8."""
    circuit = gate_circuit(ONE_LEG)
    found = incompleteness(GATES, circuit, *ARGUMENTS, candidates=11)
    assert found.evaluation.faithfulness == 1
    assert found.knockouts[0].score == 0
    random = [k.score for k in found.knockouts if k.found == "random"]
    assert max(random) == 2
    assert found.mean == np.mean(random)
    greedy = [k for k in found.knockouts if k.found == "greedy"]
    assert names([FEET[0]]) == {*greedy[0].edges} or names([LEGS[0]]) == {*greedy[0].edges}
    assert (greedy[0].circuit, greedy[0].model, greedy[0].score) == (6, 8, 2)
    assert found.worst == greedy[0]  # of equal scores the smallest set
    assert found.share(found.worst.score) == 0.25


def test_random_sets_alone_and_the_greedy_search_alone_find_it() -> None:
    circuit = gate_circuit(ONE_LEG)
    by_chance = incompleteness(GATES, circuit, *ARGUMENTS, rounds=0)
    searched = incompleteness(GATES, circuit, *ARGUMENTS, sets=0, candidates=11, rounds=1)
    for found in (by_chance, searched):
        assert found.worst.score == 2
        assert {*found.worst.edges} & names([FEET[0], LEGS[0]])
    assert np.isnan(searched.mean)


def test_a_complete_circuit_is_the_model_whatever_is_cut() -> None:
    found = incompleteness(GATES, gate_circuit(WHOLE), *ARGUMENTS)
    assert {k.score for k in found.knockouts} == {0}
    assert len({k.circuit for k in found.knockouts}) > 3  # of runs that differ


def test_no_set_is_worse_than_the_worst_of_all_subsets() -> None:
    """Nor is the greedy search, which sees every edge here, any better."""
    kept = [FEET[0], FEET[2], FEET[3], LEGS[0], LEGS[2], ("m0", "logits")]
    keep = np.zeros(GATES.wiring.shape, dtype=bool)
    for edge in kept:
        keep[GATES.wiring.index(*edge)] = True
    every = subsets(names(kept))
    inside = means([without(keep, cut) for cut in every])
    whole = means([without(GATES.wiring.legal, cut) for cut in every])
    scores = {frozenset(k): abs(a - b) for k, a, b in zip(every, inside, whole, strict=True)}
    found = incompleteness(GATES, keep, *ARGUMENTS, candidates=6, rounds=6, sets=30)
    for knockout in found.knockouts:
        assert knockout.score == scores[frozenset(knockout.edges)]
    assert found.worst.score == max(scores.values()) > 2


def test_the_greedy_search_takes_the_best_edge_of_each_round() -> None:
    keep = np.zeros(GATES.wiring.shape, dtype=bool)
    for edge in ONE_LEG:
        keep[GATES.wiring.index(*edge)] = True
    found = incompleteness(GATES, keep, *ARGUMENTS, sets=0, candidates=11, rounds=3)
    cut: tuple[str, ...] = ()
    for step in (k for k in found.knockouts if k.found == "greedy"):
        tried = [(*cut, edge) for edge in names(ONE_LEG) - {*cut}]
        inside = means([without(keep, t) for t in tried])
        whole = means([without(GATES.wiring.legal, t) for t in tried])
        assert step.score == max(abs(a - b) for a, b in zip(inside, whole, strict=True)) > 0
        assert step.edges[: len(cut)] == cut
        assert len(step.edges) == len(cut) + 1
        cut = step.edges


def test_random_sets_follow_their_seed_and_sizes() -> None:
    def drawn(**options: Any) -> list[tuple[str, ...]]:
        circuit = gate_circuit(WHOLE)
        found = incompleteness(GATES, circuit, *ARGUMENTS, rounds=2, candidates=2, **options)
        return [k.edges for k in found.knockouts]

    assert drawn(seed=3) == drawn(seed=3)
    assert drawn(seed=3) != drawn(seed=4)
    sizes = {len(k) for k in drawn(sizes=(2, 5), sets=30)[2:-2]}
    assert sizes == {2, 5}


# -- many edges: minimality ------------------------------------------------------------------------
@pytest.mark.parametrize("sets", [0, 5])
def test_what_does_nothing_is_redundant_and_nothing_else(sets: int) -> None:
    """A leg of the OR does nothing while the other stands; once that is cut it gives s: 2 of 8."""
    found = minimality(GATES, gate_circuit([*WHOLE, *IDLE]), *ARGUMENTS, sets=sets)
    assert {*found.redundant} == names(IDLE)
    largest = dict(zip(found.edges, found.largest.tolist(), strict=True))
    expected = dict.fromkeys(names(WHOLE), 2) | dict.fromkeys(names(IDLE), 0)
    assert largest == expected | {"m0->logits": 8}
    assert dict(zip(found.edges, found.shares.tolist(), strict=True))["a0.h0->m0"] == 0.25
    kinds = dict(zip(found.edges, found.found, strict=True))
    assert kinds["a0.h2->m0"] == "nothing else cut"
    assert kinds["a0.h0->m0"] == "its reader's other edges cut"
    assert kinds["input->a0.h0<v>"] != "nothing else cut"


def test_a_dead_end_is_redundant_and_the_threshold_is_a_share_of_the_gap() -> None:
    dead = ("input", "a0.h6.v")
    circuit = gate_circuit([*WHOLE, dead])
    assert {*minimality(GATES, circuit, *ARGUMENTS).redundant} == names([dead])
    strict = minimality(GATES, circuit, *ARGUMENTS, threshold=0.25)  # what a leg does, and no more
    assert {*strict.redundant} == names([dead, *FEET, *LEGS])


def test_no_difference_is_larger_than_the_largest_over_all_subsets() -> None:
    kept = [FEET[0], FEET[1], LEGS[0], LEGS[1], ("input", "m0"), ("m0", "logits")]
    keep = np.zeros(GATES.wiring.shape, dtype=bool)
    for edge in kept:
        keep[GATES.wiring.index(*edge)] = True
    every = subsets(names(kept))
    value = dict(zip(map(frozenset, every), means([without(keep, k) for k in every]), strict=True))
    found = minimality(GATES, keep, *ARGUMENTS, sets=40)
    for edge, largest in zip(found.edges, found.largest, strict=True):
        assert largest == max(abs(value[k] - value[k | {edge}]) for k in value)
    assert {*found.redundant} == names([("input", "m0")])


def test_minimality_is_at_least_what_the_edge_does_beside_every_set_that_was_tried() -> None:
    """The sets are those that ``incompleteness`` draws by the same seed; an edge of the set itself
    is judged beside the others of it."""
    m, data = model("gpt2"), Dataset(able("gpt2").examples[:1])
    scores = eap(m, data, logit_diff, counterfactual)
    keep = scores.mask(10)
    settings = (data, logit_diff, counterfactual)
    found = minimality(m, keep, *settings, sets=12)
    drawn = incompleteness(m, keep, *settings, sets=12, rounds=0).knockouts
    masks = []
    for edge in found.edges:
        for knockout in drawn:
            place = m.wiring.index(*parse_edge(edge))
            with_it = without(keep, knockout.edges, m.wiring)
            with_it[place] = True
            masks += [with_it, without(with_it, [edge], m.wiring)]
    values = np.array([e.circuit.mean() for e in evaluate(m, masks, *settings)])
    pairs = values.reshape(len(found.edges), len(drawn), 2)
    least = np.abs(pairs[..., 0] - pairs[..., 1]).max(1)
    assert (found.largest >= least - 1e-4).all()
    by_chance = np.array([kind == "a random set cut" for kind in found.found])
    assert np.allclose(found.largest[by_chance], least[by_chance], atol=1e-4)
    assert by_chance.any()
    assert least[by_chance].min() > 1e-2


# -- the runs --------------------------------------------------------------------------------------
def test_masks_are_measured_a_few_at_a_time_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit, some = gate_circuit([*WHOLE, *IDLE]), (marginal_effects, minimality)
    whole = [function(GATES, circuit, *ARGUMENTS).to_dict() for function in some]
    blocks, measure = [], _runs.measure_all

    def watched(model: Any, masks: list[np.ndarray], *given: Any) -> np.ndarray:
        blocks.append([GATES.wiring.alive(mask).tobytes() for mask in masks])
        return measure(model, masks, *given)

    monkeypatch.setattr(_runs, "TOGETHER", 7)
    monkeypatch.setattr(_runs, "measure_all", watched)
    assert [function(GATES, circuit, *ARGUMENTS).to_dict() for function in some] == whole
    assert max(map(len, blocks)) == 7
    blocks.clear()
    minimality(GATES, circuit, *ARGUMENTS)
    run_masks = list(chain.from_iterable(blocks))
    assert len(run_masks) == len({*run_masks}) > 7


# -- contracts -------------------------------------------------------------------------------------
ALL = [marginal_effects, interactions, incompleteness, minimality]
each = pytest.mark.parametrize("function", ALL, ids=lambda f: f.__name__)


@each
def test_a_result_prints_itself_and_goes_into_json(function: Any) -> None:
    found = function(GATES, gate_circuit(ONE_LEG), *ARGUMENTS)
    text, data = repr(found), found.to_dict()
    assert "faithfulness 1.000" in text
    assert "->" in text
    assert max(map(len, text.splitlines())) < 130
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert (data["everything"], data["nothing"], data["circuit"]) == (8, 0, 8)
    assert (data["metric"], data["corruption"]) == ("logit_diff", "counterfactual")


@each
def test_a_graph_and_its_mask_are_the_same_circuit_and_neither_is_changed(function: Any) -> None:
    circuit = gate_circuit(ONE_LEG)
    keep = np.zeros(GATES.wiring.shape, dtype=bool)
    for edge in ONE_LEG:
        keep[GATES.wiring.index(*edge)] = True
    before, listed = keep.copy(), list(circuit.edges(data=True))
    options = {"edges": 11} if function is interactions else {}
    by_mask = function(GATES, keep, *ARGUMENTS, **options)
    by_graph = function(GATES, circuit, *ARGUMENTS, **options)
    assert by_mask.to_dict() == by_graph.to_dict()
    assert np.array_equal(keep, before)
    assert list(circuit.edges(data=True)) == listed


@each
def test_a_circuit_without_edges_or_of_another_model_is_refused(function: Any) -> None:
    with pytest.raises(CircuitError, match="no edges"):
        function(GATES, np.zeros(GATES.wiring.shape, dtype=bool), *ARGUMENTS)
    with pytest.raises(CircuitError, match="the model"):
        function(GATES, np.ones((2, 2), dtype=bool), *ARGUMENTS)


@pytest.mark.parametrize("function", [incompleteness, minimality])
def test_shares_of_no_gap_are_refused(function: Any) -> None:
    same = Dataset(tuple(replace(e, corrupt=e.clean) for e in DATA.examples))
    with pytest.raises(EvaluationError, match="undefined"):
        function(GATES, gate_circuit(WHOLE), same, logit_diff, counterfactual)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"within": "head"}, "within='head'"), ({"edges": 1}, "1 of 13 edges make no pair")],
)
def test_what_makes_no_pairs_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(CircuitError, match=match):
        interactions(GATES, gate_circuit(WHOLE), *ARGUMENTS, **options)


def test_sets_that_the_circuit_is_too_small_for_are_refused() -> None:
    with pytest.raises(CircuitError, match="no set of 14 edges"):
        incompleteness(GATES, gate_circuit(WHOLE), *ARGUMENTS, sizes=(3, 14))
