"""How sure a discovery's circuit is: its core, its files, and prompts drawn for an agreement."""

from __future__ import annotations

import json
from functools import cache
from math import isnan, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import circuitkit as ck
from circuitkit.cli.main import main
from circuitkit.errors import UnknownNameError
from circuitkit.graph.scores import Scores
from circuitkit.workflows.asking import Asked
from circuitkit.workflows.plan import _Costs
from circuitkit.workflows.sampling import REACHED, USED_UP, Sample, enough

MODEL = ck.load("mini")


@cache
def data(n: int = 6) -> ck.Dataset:
    return ck.Dataset.of(ck.make_task("ioi", MODEL, n=n), MODEL)


@cache
def found() -> ck.Discovery:
    return ck.discover(MODEL, "ioi", edges=20, examples=8, method="eap")


def sure() -> ck.Certainty:
    certainty = found().certainty
    assert certainty is not None
    return certainty


def test_it_is_that_of_the_scores_of_each_example() -> None:
    seen = ck.Dataset.of(ck.make_task("ioi", MODEL, n=16), MODEL).halves()[0]
    each = ck.discovery.eap(MODEL, seen, groups="examples")
    again = ck.certainty(each, found().circuit)
    assert again.mean == pytest.approx(sure().mean, abs=1e-5)
    assert again.frequency == pytest.approx(sure().frequency, abs=0.02)  # ties of rounding
    assert found().scores.groups is None, "they are large"
    np.testing.assert_allclose(found().scores.error, each.error, rtol=1e-5)


def test_the_summary_and_the_numbers_for_machines_say_it() -> None:
    said = repr(found())
    assert f"core             {int(sure().core.sum())} of 20 edges" in said
    assert "agreement        0." in said
    held = json.loads(json.dumps(found().to_dict()))["certainty"]
    assert held["core"] == sure().core.sum()
    assert held["agreement"] == pytest.approx(sure().agreement)
    alone = ck.evaluate(MODEL, sure().core, ck.Dataset.of(
        ck.make_task("ioi", MODEL, n=16), MODEL).halves()[1])  # fmt: skip
    assert held["core_faithfulness"] == pytest.approx(alone.faithfulness, abs=1e-5)
    assert len(found().null) == 5, "the core is none of the random circuits"


def test_the_core_is_a_circuit_within_the_circuit() -> None:
    core = found().core
    assert core is not None
    assert set(core.edges) <= set(found().circuit.edges)
    assert core.to_frame()["core"].all()
    assert (core.to_frame()["frequency"] >= 0.9).all()


def test_its_files_hold_it(tmp_path: Path) -> None:
    written = found().save(tmp_path / "a")
    again = ck.Certainty.load(tmp_path / "a" / "certainty.safetensors")
    assert repr(again) == repr(sure())
    assert again.about["task"] == "ioi"
    circuit = ck.Circuit.load(written[0])
    assert circuit.to_frame().equals(found().to_frame())
    assert "core" in (tmp_path / "a" / "circuit.svg").read_text()


def test_of_one_example_nothing_is_known(tmp_path: Path) -> None:
    one = ck.discover(MODEL, data()[:1], edges=20, method="eap")
    assert one.certainty is not None
    assert isnan(one.certainty.agreement)
    assert one.core is None
    assert one.core_evaluation is None
    assert "not known" in repr(one)
    assert "frequency" not in one.to_frame()
    assert one.save(tmp_path / "a")[-1].name == "certainty.safetensors"


def test_methods_without_scores_of_examples_say_that_it_is_not_known(tmp_path: Path) -> None:
    plain = ck.discover(MODEL, data(), edges=20, method="activation_magnitude")
    assert plain.certainty is None
    assert plain.core is None
    assert plain.to_dict()["certainty"] is None
    assert "activation_magnitude gives no scores of single examples" in repr(plain)
    assert "certainty.safetensors" not in [path.name for path in plain.save(tmp_path / "a")]


def test_exact_effects_replace_the_estimates_of_each_example() -> None:
    own = data()
    each = ck.discovery.eap(MODEL, own, groups="examples")
    exact = ck.discovery.exact(MODEL, own, groups="examples")
    before = each.groups.copy()  # type: ignore[union-attr]
    checked = ck.verify(MODEL, each, own, n=30).scores
    measured = checked.exact[MODEL.wiring.legal]  # type: ignore[index]
    assert (each.groups == before).all()
    np.testing.assert_allclose(
        checked.groups[:, measured],  # type: ignore[index]
        exact.groups[:, measured], rtol=1e-4, atol=1e-4,  # type: ignore[index]
    )  # fmt: skip
    assert (checked.groups[:, ~measured] == before[:, ~measured]).all()  # type: ignore[index]


# -- prompts for an agreement ----------------------------------------------------------------------
def drawing(agreements: dict[int, float], most: int = 10**6) -> tuple[Any, str | None, list[int]]:
    """What ``enough`` says of samples that agree so well, and the sizes at which it looked."""
    looked: list[int] = []

    def drawn(examples: int | None) -> Any:
        here: Any = SimpleNamespace(data=range(min(examples or 10, most)))
        return here, here

    def found_on(seen: Any, measured: Any) -> Sample:
        looked.append(len(seen.data))
        certain: Any = SimpleNamespace(agreement=agreements.get(len(seen.data), 0.5))
        other: Any = None
        return Sample(seen, measured, other, other, other, None, None, certain)

    sample, why = enough(drawn, found_on, Asked("abs", 10, 0, agreement=0.9))
    assert len(sample.seen.data) == looked[-1], "the last is the one that is used"
    return sample, why, looked


def test_prompts_are_doubled_until_they_agree() -> None:
    assert drawing({10: 0.95})[1:] == (REACHED, [10])
    assert drawing({10: 0.5, 20: 0.8, 40: 0.9})[1:] == (REACHED, [10, 20, 40])
    assert drawing({10: nan, 20: 0.9})[1:] == (REACHED, [10, 20])


def test_prompts_are_doubled_until_they_are_used_up() -> None:
    assert drawing({}, most=25)[1:] == (USED_UP, [10, 20, 25])
    _, why, looked = drawing({})
    assert looked == [10, 20, 40, 80]
    assert why is not None
    assert "8 times" in why


def test_a_discovery_draws_prompts_for_an_agreement() -> None:
    grown = ck.discover(MODEL, "ioi", edges=20, examples=4, method="eap", agreement=0.65)
    assert grown.certainty is not None
    assert grown.certainty.examples == len(grown.evaluation.circuit) > 4
    assert grown.certainty.agreement >= 0.65
    assert "0.65 asked for   reached" in repr(grown)
    again = ck.replay(grown.circuit, model=MODEL)
    assert again.same


def test_what_agrees_is_observed_on_the_other_prompts() -> None:
    other = ck.Dataset.of(ck.make_task("ioi", MODEL, n=6, seed=1), MODEL)
    own = ck.discover(MODEL, data(), edges=20, method="eap", agreement=0.1, unseen=other)
    theirs = ck.discovery.eap(MODEL, other).mask(20)
    both, either = (theirs & own.circuit.mask()).sum(), (theirs | own.circuit.mask()).sum()
    assert own.observed == pytest.approx(both / either)
    assert f"observed         {own.observed:.3f}" in repr(own)
    assert found().observed is None


def test_the_strongest_edges_say_how_many_samples_hold_them() -> None:
    frame = found().to_frame()
    first = f"{frame['frequency'][0]:4.0%}  {frame['writer'][0]}->"
    assert first in repr(found())


def test_a_dataset_has_only_so_many() -> None:
    all_of_it = ck.discover(MODEL, data(), edges=20, method="eap", agreement=1.0)
    assert all_of_it.stopped == USED_UP
    assert USED_UP in repr(all_of_it)


def test_without_scores_of_examples_no_agreement_can_be_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UnknownNameError, match="no scores of single examples"):
        ck.discover(MODEL, data(), edges=20, method="gradient_norm", agreement=0.9)
    assert main(["discover", "ioi", "--method", "acdc", "--agreement", "0.9", "--quiet"]) == 2
    assert "no scores of single examples" in capsys.readouterr().err


# -- the plan --------------------------------------------------------------------------------------
def test_the_plan_counts_the_scores_of_the_examples() -> None:
    asked: dict[str, Any] = {"edges": 30, "batch_size": 4}
    costs = _Costs(MODEL, data(), "counterfactual")
    few, many = (costs.bytes(ck.discovery.eap, 4, seen, None) for seen in (100, 1100))
    assert many - few == 4 * 1000 * MODEL.wiring.n_edges
    few, many = (costs.bytes(ck.discovery.gradient_norm, 4, seen, None) for seen in (100, 1100))
    assert many == few
    assert "certainty.safetensors" in ck.plan(MODEL, "ioi", method="eap", **asked).files
    assert "certainty.safetensors" not in ck.plan(MODEL, "ioi", method="acdc", **asked).files


def test_scores_without_groups_are_what_they_were() -> None:
    """discover's scores, taken from those of each example, are those of the method alone."""
    seen = ck.Dataset.of(ck.make_task("ioi", MODEL, n=16), MODEL).halves()[0]
    alone: Scores = ck.discovery.eap(MODEL, seen)
    np.testing.assert_allclose(found().scores.values, alone.values, rtol=1e-4, atol=1e-5)
