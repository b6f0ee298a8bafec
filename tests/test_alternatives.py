"""A second circuit as faithful as the first, of other edges."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import able, model

import circuitkit as ck
from circuitkit.corruptions import counterfactual
from circuitkit.discovery import eap
from circuitkit.engine.inputs import Inputs, in_sample
from circuitkit.errors import CircuitError, EvaluationError, ScoresError
from circuitkit.evaluation.alternatives import alternative
from circuitkit.evaluation.complements import halved
from circuitkit.evaluation.faithfulness import evaluate
from circuitkit.graph.circuit import mask
from circuitkit.metrics import logit_diff

M = model("gpt2")
DATA = able("gpt2", (8, 5, 7, 6, 8, 4, 5, 7))
GIVEN = (DATA, logit_diff, counterfactual)
SCORES = eap(M, *GIVEN)
KEEP = SCORES.mask(60)
SEEN, UNSEEN = halved(Inputs(M, *GIVEN), 0)


@cache
def found(**settings: Any) -> Any:
    return alternative(M, KEEP, SCORES, *GIVEN, **settings)


def test_overlap_and_faithfulness_are_those_found_by_hand() -> None:
    own = found()
    second = mask(own.circuit, M.wiring)
    both, either = int((KEEP & second).sum()), int((KEEP | second).sum())
    assert own.overlap.edges.both == both < KEEP.sum()
    assert own.overlap.edges.jaccard == pytest.approx(both / either)
    assert own.overlap.edges.expected == pytest.approx(KEEP.sum() * second.sum() / 262)
    for half, pair in ((SEEN, own.chosen), (UNSEEN, own.evaluations)):
        by_hand = evaluate(M, [KEEP, second], *half[1:])
        assert [e.faithfulness for e in pair] == pytest.approx([e.faithfulness for e in by_hand])
    gaps = own.evaluations[0].everything.mean() - own.evaluations[0].nothing.mean()
    change = (own.evaluations[1].circuit - own.evaluations[0].circuit).mean()
    assert own.difference == pytest.approx(change / gaps)
    low, high = own.interval()
    assert low <= own.difference <= high


@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.3])
def test_it_is_as_faithful_as_asked_where_it_was_chosen(tolerance: float) -> None:
    first, second = found(tolerance=tolerance).chosen
    assert second.faithfulness >= first.faithfulness - tolerance
    assert second.edges <= 4 * KEEP.sum()
    assert np.array_equal(
        M.wiring.alive(mask(found(tolerance=tolerance).circuit, M.wiring)),
        mask(found(tolerance=tolerance).circuit, M.wiring),
    )


def test_a_larger_tolerance_shares_less() -> None:
    strict, loose = (found(tolerance=t).overlap.edges.both for t in (0.0, 0.5))
    assert loose <= strict


def test_none_of_the_shared_edges_can_be_dropped() -> None:
    """Else it would have been."""
    own = found()
    second, shared = mask(own.circuit, M.wiring), KEEP & mask(own.circuit, M.wiring)
    target = own.chosen[0].faithfulness - 0.02
    without = [second.copy() for _ in range(int(shared.sum()))]
    for each, place in zip(without, np.flatnonzero(shared), strict=True):
        each.reshape(-1)[place] = False
    assert without
    left = evaluate(M, [M.wiring.alive(each) for each in without], *SEEN[1:])
    assert max(e.faithfulness for e in left) < target


def test_its_file_says_what_it_is_and_not_what_the_first_one_was(tmp_path: Path) -> None:
    scores = replace(SCORES, about={**SCORES.about, "asked": {}, "faithfulness": {"value": 9}})
    own = alternative(M, KEEP, scores, *GIVEN)
    about = ck.Circuit.load(own.circuit.save(tmp_path / "second.json")).graph
    assert about["faithfulness"]["value"] == round(own.evaluations[1].faithfulness, 4)
    assert about["penalty"] == own.penalty
    assert "asked" not in about
    assert in_sample(own.circuit, SEEN.data)
    assert own.draw(tmp_path / "second.svg").read_text().startswith("<svg")


def test_where_there_is_none_it_says_so() -> None:
    with pytest.raises(EvaluationError, match="no other circuit of up to 262 edges has the faith"):
        alternative(M, M.wiring.legal, SCORES, *GIVEN, tolerance=0)
    with pytest.raises(CircuitError, match="has no edges"):
        alternative(M, np.zeros_like(KEEP), SCORES, *GIVEN)
    with pytest.raises(ScoresError, match="the scores belong to"):
        alternative(M, KEEP, eap(model("llama"), able("llama")), *GIVEN)
