"""What EAP-IG and MIB found, by their own code and in their own files, is what is found here.

The files in tests/recorded are of tests/recorded/record.py, which says with what it was run.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recorded_models import ANSWERS, CLEAN, CORRUPT, tiny

from circuitkit.corruptions import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.discovery.attribution import clean_corrupted, eap, eap_ig
from circuitkit.evaluation.faithfulness import evaluate
from circuitkit.evaluation.size_curves import size_curves
from circuitkit.formats.interchange.eap_ig import read_eap_circuit, read_eap_scores
from circuitkit.metrics import logit_diff
from circuitkit.models.transformer_lens import Transformer, from_module

PLACE = Path(__file__).parent / "recorded"
VALUES: dict[str, dict[str, Any]] = json.loads((PLACE / "values.json").read_text("utf-8"))
METHODS = {"eap": eap, "eap_ig": eap_ig, "clean_corrupted": clean_corrupted}
ALIKE = [name for name in VALUES if not name.startswith("gemma2")]


@cache
def model(family: str) -> Transformer:
    return from_module(tiny(family), name=family, dtype=torch.float64)


def data() -> Dataset:
    rows = zip(CLEAN, CORRUPT, ANSWERS, strict=True)
    examples = [
        Example(tuple(a), tuple(b), (good,), (bad,), {"end": (4, 5)}) for a, b, (good, bad) in rows
    ]
    return Dataset(examples, batch_size=4)


def inputs(family: str) -> tuple[Any, ...]:
    return model(family), data(), logit_diff, counterfactual


@pytest.mark.parametrize("name", ALIKE)
def test_scores_are_those_of_eap_ig(name: str) -> None:
    family, _, method = name.partition("-")
    theirs = read_eap_scores(PLACE / f"{name}.json", model(family).wiring)
    ours = METHODS[method](*inputs(family))  # type: ignore[operator]
    assert theirs.wiring == ours.wiring
    size = np.abs(theirs.values).max()
    assert size > 1e-3
    assert np.abs((theirs.values - ours.values)[ours.wiring.legal]).max() < 2e-6 * size


@pytest.mark.filterwarnings("ignore::circuitkit.graph.scores.ScoresWarning")
@pytest.mark.parametrize("name", [name for name in ALIKE if name.startswith("gpt2")])
def test_circuits_are_as_faithful_as_eap_ig_says(name: str) -> None:
    family = name.partition("-")[0]
    circuit = read_eap_circuit(PLACE / f"{name}.json", model(family).wiring, empty=True)
    found = evaluate(model(family), circuit, *inputs(family)[1:])
    assert found.circuit == pytest.approx(VALUES[name]["circuit"], abs=3e-5)


def test_areas_are_those_of_mib() -> None:
    scores = read_eap_scores(PLACE / "gpt2-eap.json")
    found = size_curves(model("gpt2"), scores, data(), logit_diff, counterfactual)["abs"]
    theirs = VALUES["gpt2-eap"]
    assert found.cpr() == pytest.approx(theirs["cpr"], abs=3e-5)
    assert found.cmd() == pytest.approx(theirs["cmd"], abs=3e-5)
    assert found.cmd() > 1e-2


def test_a_model_with_norms_behind_attention_is_scored_otherwise() -> None:
    """EAP-IG scores heads by what they write before that norm; edges from elsewhere are alike."""
    theirs = read_eap_scores(PLACE / "gemma2-eap.json", model("gemma2").wiring)
    ours = eap(*inputs("gemma2"))
    heads = np.array([writer.is_head for writer in ours.wiring.writers])[:, None]
    legal, size = ours.wiring.legal, np.abs(theirs.values).max()
    apart = np.abs(theirs.values - ours.values)
    assert apart[legal & ~heads].max() < 2e-5 * size
    assert apart[legal & heads].max() > 1e-2 * size
