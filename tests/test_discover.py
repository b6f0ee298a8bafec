"""The main job: what verification changes of a circuit, and methods that choose one themselves."""

from __future__ import annotations

import json
import sys
from collections import Counter
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuitkit.cli.main import main
from circuitkit.data.batches import Dataset
from circuitkit.data.prompts import Task
from circuitkit.data.tasks import make_task
from circuitkit.discovery import eap, exact
from circuitkit.engine.batching import fitted, needed
from circuitkit.engine.memory import foresee
from circuitkit.errors import ArgumentError, ScoresError, UnknownNameError
from circuitkit.evaluation.ability import ability
from circuitkit.graph import circuit as circuits
from circuitkit.graph.compare import agreement
from circuitkit.graph.scores import Scores
from circuitkit.models.loading import load
from circuitkit.registry import lookup
from circuitkit.workflows.discover import discover
from circuitkit.workflows.results import Discovery

MODEL = load("mini")
EVERY = MODEL.wiring.n_edges


@cache
def task() -> Task:
    return make_task("ioi", MODEL, n=12)


@cache
def find(**options: Any) -> Discovery:
    return discover(MODEL, task(), **{"method": "eap", **options})


def kept(found: Discovery) -> np.ndarray:
    return circuits.mask(found.circuit)


def flags(found: Discovery) -> set[Any]:
    edges = circuits.edges(found.circuit)
    return {found.circuit[writer][reader].get("exact") for writer, reader, _ in edges}


# -- verified --------------------------------------------------------------------------------------
def test_verifying_every_edge_chooses_what_exact_scores_choose() -> None:
    plain, found, truth = find(edges=20), find(edges=20, verify=EVERY), find(edges=20, method=exact)
    np.testing.assert_array_equal(kept(found), kept(truth))
    weights = circuits.weight_matrix(truth.circuit)
    np.testing.assert_allclose(circuits.weight_matrix(found.circuit), weights, rtol=1e-4)
    assert np.abs(weights).max() > 1
    assert found.evaluation.faithfulness == pytest.approx(truth.evaluation.faithfulness)
    assert (kept(plain) != kept(found)).any()
    assert (flags(plain), flags(found)) == ({None}, {True})


def test_a_verified_circuit_is_chosen_from_the_merged_scores() -> None:
    found = find(edges=25, verify=30)
    assert found.verification is not None
    merged = found.verification.scores
    np.testing.assert_array_equal(kept(found), merged.mask(25))
    np.testing.assert_array_equal(found.scores.values, merged.values)
    assert merged.exact is not None
    assert merged.exact.sum() == 30
    assert flags(found) == {True, False}
    np.testing.assert_array_equal(found.scores.exact, merged.exact)  # type: ignore[arg-type]
    assert found.circuit.graph["verified"] == {"edges": 30, "direction": "noise", "seed": 0}


def test_a_target_is_reached_again_by_the_merged_scores() -> None:
    from circuitkit.evaluation.faithfulness import evaluate
    from circuitkit.metrics import logit_diff

    found = find(faithfulness=0.7, verify=40)
    seen = Dataset.of(task().split(6)[0], MODEL)
    here = evaluate(MODEL, found.circuit, seen, logit_diff, eap_corruption())
    assert here.faithfulness >= 0.7 - 1e-6
    assert here.edges < EVERY


@pytest.mark.parametrize(
    "options",
    [{"edges": 25, "verify": 60}, {"faithfulness": 0.7, "verify": 40},
     {"edges": 25, "verify": 40, "refine": 16}],
    ids=["edges", "target", "refined"],
)  # fmt: skip
def test_a_verification_speaks_of_the_circuit_that_is_printed(options: dict[str, Any]) -> None:
    found = find(**options)
    assert found.verification is not None
    weakest = found.to_frame()["weight"].abs().min()
    assert found.verification.weakest == found.verification.missed.weakest == weakest
    np.testing.assert_array_equal(found.verification.circuit, kept(found))
    assert len(found.verification.edges) == options["verify"]
    assert f"{weakest:.4g}" in repr(found)


def test_a_refined_circuit_is_as_large_and_nearer_to_the_model() -> None:
    from circuitkit.evaluation.faithfulness import evaluate

    plain, found = find(edges=20), find(edges=20, refine=16)
    assert found.refined is not None
    assert len(found.refined.swaps) > 0
    assert kept(found).sum() == kept(plain).sum() == 20
    np.testing.assert_array_equal(kept(found), found.refined.mask)
    seen = Dataset.of(task().split(6)[0], MODEL)
    before, after = evaluate(MODEL, [plain.circuit, found.circuit], seen, "logit_diff")
    assert abs(1 - after.faithfulness) < abs(1 - before.faithfulness)
    assert found.refined.evaluation.faithfulness == pytest.approx(after.faithfulness)
    assert found.circuit.graph["asked"]["refine"] == 16
    assert str(found.refined) in repr(found)
    assert found.to_dict()["refined"]["edges"] == 20
    assert "refined" not in plain.to_dict()


def eap_corruption() -> Any:
    from circuitkit.corruptions import counterfactual

    return counterfactual


def test_the_prompts_that_verify_are_those_that_were_seen() -> None:
    from circuitkit.metrics import logit_diff
    from circuitkit.patching.edges import patch_edges

    found = find(edges=20, verify=12)
    assert found.verification is not None
    seen = Dataset.of(task().split(6)[0], MODEL)
    effects = patch_edges(MODEL, list(found.verification.edges), seen, logit_diff)
    np.testing.assert_allclose(found.verification.exact, effects.mean, rtol=1e-3, atol=1e-4)
    assert np.abs(effects.values).max() > 0.5


def test_what_was_verified_is_printed_and_json() -> None:
    found = find(edges=20, verify=30)
    assert "30 of 479 edges measured exactly" in repr(found)
    answer = json.loads(json.dumps(found.to_dict(), default=list))
    assert answer["verification"]["edges"] == 30
    plain = find(edges=20)
    assert "measured exactly" not in repr(plain)
    assert not {"verification", "orders"} & set(plain.to_dict())


def test_the_circuit_is_measured_beside_random_halves_of_the_others() -> None:
    from circuitkit.evaluation.complements import complements
    from circuitkit.metrics import logit_diff

    found = find(edges=20)
    unseen = Dataset.of(task().split(6)[1], MODEL)
    own = complements(MODEL, found.circuit, unseen, logit_diff, n=5)
    assert found.to_dict()["beside_faithfulness"] == pytest.approx(own.values, abs=1e-5)
    line = next(line for line in repr(found).splitlines() if "with halves" in line)
    assert f"{own.mean:.3f}  [{own.lowest:.3f}, {max(own.values):.3f}]" in line


def test_finished_blocks_are_kept_where_the_method_keeps_any(tmp_path: Path) -> None:
    def pieces(name: str) -> set[str]:
        """What the blocks in a folder are."""
        places = {path.parent for path in (tmp_path / name).rglob("*.safetensors")}
        abouts = (own / "about.json" for own in places if (own / "about.json").exists())
        found = {json.loads(about.read_text())["format"] for about in abouts}
        swept = any(own.name.startswith("batch") for own in places)
        return {own.removeprefix("circuitkit.") for own in found} | ({"swept"} if swept else set())

    kept: dict[str, tuple[dict[str, Any], set[str]]] = {
        "usual": ({}, {"attribution", "evaluate"}),
        "verify": ({"verify": 9}, {"attribution", "evaluate", "swept"}),
        "exact": ({"method": "exact"}, {"evaluate", "swept"}),
        "random": ({"method": "random"}, {"evaluate"}),
    }
    for name, (options, expected) in kept.items():
        find(edges=20, resume=tmp_path / name, **options)
        assert pieces(name) == expected
    mine = partial(exact, resume=tmp_path / "mine")
    find(edges=20, method=mine, resume=tmp_path / "other")
    assert (pieces("mine"), pieces("other")) == ({"swept"}, {"evaluate"})


# -- methods that choose ---------------------------------------------------------------------------
def picky(
    model: Any, data: Any, metric: Any, corruption: Any, *, size: int = 30, order: str = "reverse",
    seed: int = 0,
) -> Scores:  # fmt: skip
    """A method that keeps a circuit itself; in random order, another one for each seed."""
    scores = eap(model, data, metric, corruption)
    keep = scores.mask(size) if size else np.zeros(scores.wiring.shape, dtype=bool)
    if order == "random":
        weak = np.random.default_rng(seed).random(keep.shape) < 0.2
        keep = keep & ~(weak & (np.abs(scores.values) < 0.5))
    return Scores(scores.wiring, np.where(keep, scores.values, 0), {"chosen": True})


def test_the_circuit_that_a_method_chose_is_taken() -> None:
    found = find(method=picky)
    np.testing.assert_array_equal(kept(found), find(edges=30).scores.mask(30))
    assert found.circuit.graph["chosen"]


def test_a_size_or_a_target_goes_before_the_choice_of_a_method() -> None:
    assert (kept(find(method=picky, edges=10)) == find(edges=10).scores.mask(10)).all()
    large = partial(picky, size=200)
    found = find(method=large, faithfulness=0.3)
    assert 0 < kept(found).sum() < kept(find(method=large)).sum()


def test_a_chosen_circuit_stays_when_it_is_verified() -> None:
    plain, found = find(method=picky), find(method=picky, verify=120)
    np.testing.assert_array_equal(kept(found), kept(plain))
    assert flags(found) == {True}
    changed = circuits.weight_matrix(found.circuit) - circuits.weight_matrix(plain.circuit)
    assert np.abs(changed).max() > 0.1


def test_a_method_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(ScoresError, match="keeps no edge"):
        find(method=partial(picky, size=0))


# -- orders ----------------------------------------------------------------------------------------
def test_orders_are_as_many_discoveries_in_random_order() -> None:
    from circuitkit.metrics import logit_diff

    found = find(method=picky, orders=4)
    seen = Dataset.of(task().split(6)[0], MODEL)
    several = [
        picky(MODEL, seen, logit_diff, eap_corruption(), order="random", seed=seed).above(0)
        for seed in range(4)
    ]
    assert found.agreement == agreement(several)
    assert found.agreement is not None
    assert found.agreement.in_all < found.agreement.in_any
    np.testing.assert_array_equal(kept(found), kept(find(method=picky)))
    assert "4 circuits" in repr(found)
    assert found.to_dict()["orders"]["sizes"] == list(found.agreement.sizes)


@pytest.mark.parametrize("method", ["eap", partial(exact, direction="denoise")])
def test_a_method_without_an_order_is_refused(method: Any) -> None:
    with pytest.raises(UnknownNameError, match="no setting 'order'"):
        find(method=method, orders=3)


@pytest.mark.parametrize("orders", [1, 0, -1])
def test_fewer_than_two_orders_are_refused(orders: int) -> None:
    with pytest.raises(ArgumentError, match="a whole number from 2"):
        find(method=picky, orders=orders)


# -- what happens once -----------------------------------------------------------------------------
ONCE = (make_task, fitted, needed, foresee, ability)
NAMED = ["corruptions", "discovery", "metrics", "tasks"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often functions are called from now on, whichever modules have imported them; of what
    looks a name up, the kind."""
    counts: Counter[str] = Counter()
    monkeypatch.setattr("circuitkit.engine.batching.SURE", 0)  # as with a model that may not fit

    def counted(function: Any) -> Any:
        def wrapper(*given: Any, **options: Any) -> Any:
            looked_up = function is lookup
            counts[f"lookup of {given[0]}" if looked_up else function.__name__] += 1
            return function(*given, **options)

        return wrapper

    modules = [module for name, module in sys.modules.items() if name.startswith("circuitkit")]
    for function in (*ONCE, lookup):
        wrapper = counted(function)
        for module in modules:
            for name in [name for name, value in vars(module).items() if value is function]:
                monkeypatch.setattr(module, name, wrapper)
    for kind in (Dataset, Discovery):
        inner = counted(kind.of)
        monkeypatch.setattr(kind, "of", lambda *given, inner=inner, **o: inner(*given, **o))
    return counts


def lookups(counts: Counter[str]) -> list[str]:
    """The kinds of the names that are looked up, but for those of the files that are written."""
    kinds = (name.removeprefix("lookup of ") for name in counts.elements() if "lookup" in name)
    return sorted(kind for kind in kinds if kind != "formats")


def once(counts: Counter[str]) -> dict[str, int]:
    return {function.__name__: counts[function.__name__] for function in ONCE}


RUNS: dict[str, dict[str, Any]] = {
    "plain": {"method": "eap"},
    "target": {"method": "eap", "faithfulness": 0.5},
    "verified": {"method": "eap", "edges": 20, "verify": 9},
    "orders": {"method": "acdc(threshold=4.0)", "orders": 2},
    "resumed": {"method": "eap", "edges": 20, "verify": 9, "resume": "blocks"},
}


@pytest.mark.parametrize("name", RUNS)
def test_within_a_discovery_inputs_are_prepared_once(
    name: str, calls: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(1 + ("resume" in RUNS[name])):  # the second takes up the blocks of the first
        calls.clear()
        discover(MODEL, "ioi", examples=6, **RUNS[name])
        assert once(calls) == dict.fromkeys(once(calls), 1)
        assert calls["of"] == 2  # the data, and the result
        assert lookups(calls) == NAMED


def test_what_is_given_is_neither_drawn_nor_resolved_nor_planned_for(calls: Counter[str]) -> None:
    from circuitkit.metrics import logit_diff

    prompts, corruption = task(), eap_corruption()
    calls.clear()
    given = {"method": eap, "metric": logit_diff, "corruption": corruption}
    discover(MODEL, prompts, edges=20, batch_size=5, **given)
    assert not lookups(calls)
    assert not calls["make_task"] + calls["fitted"] + calls["foresee"]


def test_a_command_resolves_each_name_once_and_plans_once_for_each_corruption(
    calls: Counter[str], tmp_path: Path
) -> None:
    place = tmp_path / "found"
    argv = ["discover", "ioi", "--method", "eap", "--edges", "20", "--examples", "6"]
    assert not main([*argv, "-o", str(place)])
    assert once(calls) == dict.fromkeys(once(calls), 1)
    assert lookups(calls) == NAMED
    calls.clear()
    argv = ["evaluate", str(place / "circuit.json"), "--metric", "logit_diff", "--metric", "kl"]
    assert not main([*argv, "--corruption", "mean", "--corruption", "zero", "--examples", "6"])
    kinds = Counter(lookups(calls))
    assert (kinds["metrics"], kinds["corruptions"]) == (2, 2)
    assert calls["fitted"] == 2
