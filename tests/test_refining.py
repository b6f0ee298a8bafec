"""Refining: all single swaps by brute force, and what no refinement may do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from families import able, model
from gates import gate_prompts, gates

import circuitkit as ck
from circuitkit.corruptions import counterfactual, mean
from circuitkit.discovery import eap, exact
from circuitkit.errors import ArgumentError, CircuitError, EvaluationError
from circuitkit.evaluation import refining
from circuitkit.evaluation.faithfulness import evaluate
from circuitkit.evaluation.refining import refine
from circuitkit.graph.circuit import build
from circuitkit.graph.nodes import parse_edge
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics import logit_diff

M, DATA = model("gpt2"), able("gpt2")
W: Wiring = M.wiring
GIVEN = (DATA, logit_diff, counterfactual)


@cache
def scores() -> Scores:
    return eap(M, *GIVEN)


def faithfulness(masks: list[Mask], *given: Any) -> np.ndarray:
    return np.array([e.faithfulness for e in evaluate(M, masks, *(given or GIVEN))])


def named(mask: Mask) -> list[tuple[str, str]]:
    return [(W.writers[w], W.readers[r]) for w, r in np.argwhere(mask)]


def hangs_together(mask: Mask) -> bool:
    """Whether every edge lies on a path from the input to the logits, by networkx."""
    graph = build(W, dict.fromkeys(named(mask), 1.0))
    after = nx.descendants(graph, "input") | {"input"} if "input" in graph else set()
    before = nx.ancestors(graph, "logits") | {"logits"} if "logits" in graph else set()
    return all(w in after and r in before for w, r in named(mask))


def single_swaps(keep: Mask) -> Iterator[Mask]:
    """Every circuit with one edge in the place of one, without a dead end."""
    for drop in np.argwhere(keep):
        for add in np.argwhere(W.legal & ~keep):
            swapped = keep.copy()
            swapped[tuple(drop)], swapped[tuple(add)] = False, True
            if (W.alive(swapped) == swapped).all():
                yield swapped


# -- one swap --------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(2))
def test_one_swap_is_the_best_of_all(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all edges as candidates and no short list, no swap of one edge for one is better, by
    brute force; one that takes further edges with it may be."""
    monkeypatch.setattr(refining, "SHORT", 1_000)
    (keep,) = ck.random_masks(W, 11, n=1, seed=seed)
    found = refine(M, keep, scores(), *GIVEN, candidates=1_000, swaps=1)
    every = list(single_swaps(keep))
    assert len(every) > 30
    best = np.abs(1 - faithfulness(every)).min()
    assert abs(1 - found.evaluation.faithfulness) <= best + 1e-6
    assert best < abs(1 - found.before.faithfulness) - 1e-3
    (swap,) = found.swaps
    if len(swap.added) == 1:
        assert abs(1 - swap.faithfulness) == pytest.approx(best, abs=1e-6)
        assert any((found.mask == one).all() for one in every)


def test_an_edge_whose_work_others_do_in_the_whole_model_is_found() -> None:
    """Of an OR gate no leg has an effect in the whole model, for the other does its work: it is the
    marginal effect in the circuit, where the other is cut, that says what it does."""
    m, given = gates(), (gate_prompts(), logit_diff, counterfactual)
    legs = [(f"a0.h{h}.v", f"a0.h{h}", "m0") for h in (4, 5)]
    kept = [edge for port, head, to in legs for edge in (("input", port), (head, to))]
    kept += [("input", "a0.h0.v"), ("a0.h0", "logits"), ("m0", "logits")]
    true = exact(m, *given)
    assert true["a0.h0->m0"] == 0 < true["a0.h2->m0"]
    found = refine(m, build(m.wiring, dict.fromkeys(kept, 1.0)), true, *given)
    assert [(swap.dropped, swap.added) for swap in found.swaps] == [
        (("a0.h0->logits",), ("a0.h0->m0",))
    ]
    assert (found.before.faithfulness, found.evaluation.faithfulness) == (0.5, 0.75)


def test_what_hangs_on_a_dropped_edge_goes_with_it() -> None:
    """The path of an idle head makes room for two edges at once, one by one for none."""
    m, given = gates(), (gate_prompts(), logit_diff, counterfactual)
    kept = [("input", "a0.h4.v"), ("a0.h4", "logits"), ("a0.h0", "m0"), ("input", "a0.h0.v")]
    kept += [("m0", "logits"), ("input", "a0.h6.v"), ("a0.h6", "m0")]
    flat = Scores(m.wiring, np.where(m.wiring.legal, 1.0, 0.0))
    found = refine(m, build(m.wiring, dict.fromkeys(kept, 1.0)), flat, *given, swaps=1)
    assert found.evaluation.faithfulness == 0.5 > found.before.faithfulness == 0.25
    assert "a0.h4->m0" in found.swaps[0].added


# -- laws ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [8, 40, 120])
def test_it_is_never_worse_and_keeps_its_size(size: int) -> None:
    keep = scores().mask(size)
    found = refine(M, keep, scores(), *GIVEN, candidates=20)
    before, after = faithfulness([keep, found.mask])
    assert found.before.faithfulness == pytest.approx(before, abs=1e-5)
    assert found.evaluation.faithfulness == pytest.approx(after, abs=1e-5)
    assert abs(1 - after) <= abs(1 - before) + 1e-6
    assert found.mask.sum() == keep.sum() == found.evaluation.edges
    assert hangs_together(found.mask)
    assert (found.circuit.mask() == found.mask).all()


@pytest.mark.parametrize("size", [20, 30])
def test_the_swaps_lead_from_the_one_circuit_to_the_other(size: int) -> None:
    keep = ck.random_masks(W, size, n=4)[3]
    found = refine(M, keep, scores(), *GIVEN, candidates=24)
    assert len(found.swaps) > 1
    mask, last = keep.copy(), found.before.faithfulness
    for swap in found.swaps:
        assert len(swap.dropped) == len(swap.added)
        for names, kept in ((swap.dropped, False), (swap.added, True)):
            for name in names:
                at = W.index(*parse_edge(name))
                assert mask[at] != kept
                mask[at] = kept
        now = faithfulness([mask])[0]
        assert swap.faithfulness == pytest.approx(now, abs=1e-5)
        assert swap.gain == pytest.approx(abs(1 - last) - abs(1 - now), abs=1e-5)
        assert swap.gain > swap.error > 0
        last = now
    assert (mask == found.mask).all()


def test_it_does_not_depend_on_the_order_of_examples_or_the_batches() -> None:
    (keep,) = ck.random_masks(W, 30, n=1)
    other = replace(DATA, examples=DATA.examples[::-1], batch_size=2)
    one, two = (refine(M, keep, scores(), data, *GIVEN[1:], candidates=20, swaps=3)
                for data in (DATA, other))  # fmt: skip
    assert (one.mask == two.mask).all()
    assert (one.mask != keep).any()
    np.testing.assert_allclose(one.evaluation.circuit, two.evaluation.circuit[::-1], atol=1e-4)
    np.testing.assert_allclose(
        one.evaluation.circuit, evaluate(M, one.mask, *GIVEN).circuit, atol=1e-4
    )


def test_a_corruption_that_depends_on_the_examples_is_that_of_all_of_them() -> None:
    (keep,) = ck.random_masks(W, 30, n=1)
    given = able("gpt2", (9, 7) * 8), logit_diff, mean
    found = refine(M, keep, scores(), *given, candidates=30, swaps=1)
    after = faithfulness([keep, found.mask], *given)
    assert [found.before.faithfulness, found.evaluation.faithfulness] == pytest.approx(after)
    assert abs(after[1] - after[0]) > 1e-3


def test_a_swap_within_the_error_is_not_made() -> None:
    """Of equal circuits none is better: the whole model's own is not touched."""
    found = refine(M, W.legal, scores(), *GIVEN)
    assert (found.swaps, found.evaluation.faithfulness) == ((), pytest.approx(1))
    assert "no swap helps" in str(found)
    assert list(found.to_frame()) == ["dropped", "added", "faithfulness", "gain", "error"]


def test_one_example_has_no_error_and_is_refined() -> None:
    (keep,) = ck.random_masks(W, 30, n=1)
    found = refine(M, keep, scores(), DATA[:1], *GIVEN[1:], candidates=20, swaps=1)
    assert np.isnan(found.swaps[0].error)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["swaps"][0]["error"] is None


# -- rounds ----------------------------------------------------------------------------------------
def test_candidates_are_halved_over_growing_numbers_of_examples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert refining.rounds(32, 64) == [8, 16, 32, 64]
    assert refining.rounds(32, 9) == [9]
    assert refining.rounds(4, 64) == [64]
    runs: list[tuple[int, int]] = []
    true = refining._Work.measure

    def counted(self: Any, masks: Any, start: int = 0, stop: int | None = None) -> Any:
        runs.append((len(masks), len(range(self.examples)[start:stop])))
        return true(self, masks, start, stop)

    monkeypatch.setattr(refining._Work, "measure", counted)
    data = able("gpt2", (9,) * 32)
    refine(M, scores().mask(40), scores(), data, *GIVEN[1:], candidates=32, swaps=1)
    assert runs[0] == (1, 32)
    assert runs[1:-1] == [(32, 8), (16, 8), (8, 16)]
    assert runs[-1][1] == 32
    assert runs[-1][0] <= 16


# -- what it says ----------------------------------------------------------------------------------
def test_the_circuit_says_how_it_was_refined_and_on_which_prompts(tmp_path: Path) -> None:
    about = {"seen": DATA.examples[0].fingerprint, "faithfulness": {"value": 0.5}, "method": "eap"}
    told = replace(scores(), about=about)
    found = refine(M, told.mask(20), told, DATA[1:], *GIVEN[1:], candidates=10)
    read = ck.Circuit.load(found.circuit.save(tmp_path / "x.json"))
    assert read.graph["refined"] == {
        "candidates": 10, "swaps": len(found.swaps), "metric": "logit_diff",
        "corruption": "counterfactual", "examples": len(DATA) - 1,
    }  # fmt: skip
    assert "faithfulness" not in read.graph
    assert read.graph["method"] == "eap"
    assert read.graph["seen"] == "".join(example.fingerprint for example in DATA.examples)
    assert (read.mask() == found.mask).all()


# -- mistakes --------------------------------------------------------------------------------------
def test_mistakes_are_refused() -> None:
    keep = scores().mask(9)
    with pytest.raises(ArgumentError, match="candidates=1"):
        refine(M, keep, scores(), *GIVEN, candidates=1)
    with pytest.raises(ArgumentError, match="swaps=0"):
        refine(M, keep, scores(), *GIVEN, swaps=0)
    with pytest.raises(CircuitError, match="no live edges"):
        refine(M, np.zeros_like(keep), scores(), *GIVEN)
    same = replace(DATA, examples=tuple(replace(e, corrupt=e.clean) for e in DATA.examples))
    with pytest.raises(EvaluationError, match="undefined"):
        refine(M, keep, scores(), same, *GIVEN[1:])
