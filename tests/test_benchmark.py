"""The benchmark: against truth that is known, by hand, and what it says of mistakes."""

from __future__ import annotations

import csv
import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from itertools import product
from math import isnan, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import permutation_test

import circuitkit
from circuitkit import registry
from circuitkit.cli.main import main
from circuitkit.corruptions.constants import zero
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.data.tasks import make_task
from circuitkit.discovery.attribution import eap, eap_ig
from circuitkit.discovery.baselines import activation_magnitude
from circuitkit.discovery.pruning import acdc
from circuitkit.engine import batching
from circuitkit.engine.model import Model
from circuitkit.engine.run import run
from circuitkit.errors import CircuitkitError, EvaluationError, ModelError, UnknownNameError
from circuitkit.evaluation.recovery import recovery
from circuitkit.evaluation.size_curves import size_curves
from circuitkit.metrics.answers import logit_diff
from circuitkit.truth.cuts import any_logit, changes_alone, changes_in_halves
from circuitkit.truth.rasp import compile_program, named, programs, redundant_edges, true_edges
from circuitkit.util.statistics import mean_of_groups, sign_flip_p
from circuitkit.workflows.benchmark import budgets, choosing, running, subjects
from circuitkit.workflows.benchmark.cells import NUMBERS, from_block, to_block
from circuitkit.workflows.benchmark.counting import Cost, cost, counted
from circuitkit.workflows.benchmark.labels import TrueEdges, leaked, programmed
from circuitkit.workflows.benchmark.records import COLUMNS, DIFFERENCES, Place
from circuitkit.workflows.benchmark.results import Benchmark
from circuitkit.workflows.benchmark.running import bench
from circuitkit.workflows.benchmark.subjects import source

MINE = '''
"""A method of one's own, which says when it is asked."""

from pathlib import Path

from circuitkit.discovery.attribution import eap


def mine(model, data, metric, corruption):
    with open(Path(__file__).with_suffix(".log"), "a") as log:
        log.write("asked\\n")
    return eap(model, data, metric, corruption)
'''


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """The file of a method of one's own; ``asked`` counts its calls."""
    place = tmp_path / "mine.py"
    place.write_text(MINE)
    return place


def asked(place: Path) -> int:
    log = place.with_suffix(".log")
    return len(log.read_text().splitlines()) if log.exists() else 0


def values(found: Benchmark, method: str, measure: str) -> list[float]:
    return [row[measure] for row in found.rows if row["method"] == method]


# -- what methods are worth ------------------------------------------------------------------------
@cache
def shift() -> Benchmark:
    return bench(("random", "exact"), ("shift",), ("counterfactual",), seeds=10, examples=8)


def test_exact_effects_find_the_truth_and_random_ones_do_not() -> None:
    found = shift()
    for row in found.rows:
        assert 0 < row["true"] < row["edges"]
    for measure in ("auroc", "acdc_auroc", "average_precision", "ap_one", "ap_half", "recall"):
        assert values(found, "exact", measure) == [1.0] * 10
    assert values(found, "exact", "hamming") == [0.0] * 10
    by_chance = values(found, "random", "auroc")
    assert len(set(by_chance)) > 4, "each seed draws other scores"
    assert abs(np.mean(by_chance) - 0.5) < 0.2
    for measure, higher in (("cpr", 1), ("cmd", -1), ("cmd_log", -1), ("accuracy_area", 1)):
        good, bad = (np.mean(values(found, m, measure)) for m in ("exact", "random"))
        assert higher * (good - bad) > 0
    places = found.places("plain", "counterfactual")
    assert [place.method for place in places] == ["exact", "random"]


def test_without_a_truth_there_are_the_curves() -> None:
    found = bench(("activation_magnitude", "eap_ig"), ("mini:ioi",), ("counterfactual",), seeds=1,
                  examples=6)  # fmt: skip
    for row in found.rows:
        assert all(isnan(row[name]) for name in ("auroc", "hamming", "recall_or", "true"))
        assert row["cpr"] != 0
        assert row["cmd"] > 0
        assert not row["failed"]
    (weak,), (strong,) = (values(found, m, "cmd") for m in ("activation_magnitude", "eap_ig"))
    assert strong < weak
    places = found.places("mini", "counterfactual")
    assert [p.method for p in places] == ["eap_ig", "activation_magnitude"], "by CMD"
    assert list(found.figures()) == ["cmd-real"]
    assert not found.truths


def test_a_method_that_refuses_says_why_and_holds_up_nobody() -> None:
    found = bench(("eap", "activation_magnitude"), ("shift",), ("counterfactual",), metric="kl",
                  seeds=2, examples=6)  # fmt: skip
    assert all("gradient of kl" in said for said in values(found, "eap", "failed"))
    assert values(found, "activation_magnitude", "failed") == ["", ""]
    assert all(row["auroc"] > 0 for row in found.rows if not row["failed"])
    assert "eap, 2 cells: the gradient of kl" in found.markdown()
    assert sorted(row["failed"] for row in found.summary()) == [0, 2]


def test_a_cell_is_what_the_single_functions_say() -> None:
    """ACDC's circuit of a program where the conventions differ, on the prompts of one seed."""
    name, seed = "reverse+distract", 1
    row = bench(("acdc",), (name,), ("zero",), seeds=(seed,), examples=8).rows[0]
    subject = source(name, examples=8)(seed)
    assert subject.find_truth is not None
    scores = acdc(subject.model, subject.seen, logit_diff, zero)
    truth = subject.find_truth(zero)
    found = recovery(scores, truth.true, truth.members)
    curves = size_curves(subject.model, scores, subject.unseen, logit_diff, zero)
    by_hand = {
        "auroc": found.auroc, "hamming": found.hamming, "true": truth.true.sum(),
        "ap_one": recovery(scores, truth.labels["one"]).average_precision,
        "cpr": curves["signed"].cpr(), "cmd": curves["abs"].cmd(),
        "cmd_log": curves["abs"].cmd("log"), "accuracy_area": curves["abs"].accuracy_area(),
    }  # fmt: skip
    assert {key: row[key] for key in by_hand} == pytest.approx(by_hand)
    assert len({row[key] for key in ("cmd", "cmd_log", "cpr")}) == 3
    numbers = {key: row[key] for key in NUMBERS}
    assert str(from_block(to_block(numbers))) == str(numbers)
    assert from_block({"numbers": np.zeros(3)}) is None
    for name, mask in truth.labels.items():
        kept = TrueEdges.from_block(truth.to_block())
        assert kept is not None
        assert np.array_equal(kept.labels[name], mask)
        assert (kept.unmapped, kept.leak, kept.edges) == (truth.unmapped, truth.leak, truth.edges)


# -- one run after another -------------------------------------------------------------------------
def test_finished_cells_are_taken_up_until_the_method_changes(
    tmp_path: Path, outside: Path
) -> None:
    again = {"models": ("shift",), "corruptions": ("zero",), "examples": 4,
             "resume": tmp_path / "cells"}  # fmt: skip
    mine = f"{outside}:mine"
    first = bench([mine], **again, seeds=2)
    assert (asked(outside), first.about["earlier"]) == (2, 0)
    second = bench([mine], **again, seeds=2)
    assert (asked(outside), second.about["earlier"]) == (2, 2)
    assert str(first.rows) == str(second.rows)
    assert first.rows[0]["cpu_seconds"] > 0
    assert first.rows[0]["sequence_backwards"] > 0
    more = bench([mine, "random"], **again, seeds=3)
    assert (asked(outside), more.about["earlier"]) == (3, 2)
    outside.write_text(MINE + "\n# another one\n")
    bench([mine], **again, seeds=2)
    assert asked(outside) == 5


def test_a_method_from_a_file_is_a_method(outside: Path) -> None:
    found = bench([f"{outside}:mine", "eap"], ("first_occurrence",), ("counterfactual",), seeds=1,
                  examples=6)  # fmt: skip
    own, ours = found.rows
    same = [name for name in NUMBERS if name != "cpu_seconds"]
    assert str([own[name] for name in same]) == str([ours[name] for name in same])
    assert 0.5 < ours["auroc"] < 1


@pytest.mark.parametrize(
    ("asked_for", "sentence"),
    [
        ({"methods": ["eap_gi"]}, "did you mean 'eap_ig'"),
        ({"methods": ["nowhere/mine.py:mine"]}, "cannot be imported"),
        ({"models": ["revers"]}, "did you mean 'reverse'"),
        ({"models": ["reverse+rotat"]}, "did you mean 'rotate'"),
        ({"models": ["reverse+soften(by=2)"]}, "did you mean|factor"),
        ({"models": ["mini:iio"]}, "did you mean 'ioi'"),
        ({"corruptions": ["zeros"]}, "did you mean 'zero'"),
        ({"metric": "logit_dif"}, "did you mean 'logit_diff'"),
    ],
)
def test_an_unknown_name_is_one_sentence(asked_for: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnknownNameError, match=sentence) as error:
        bench(**asked_for)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [{"seeds": ()}, {"models": ("shift", "shift")}, {"methods": ()}])
def test_there_is_something_to_do_and_each_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(EvaluationError, match="at least one, each once"):
        bench(**wrong)


ORPHAN = """
import os, signal, time
from circuitkit.workflows.benchmark.running import _pool
if __name__ == "__main__":
    pool = _pool(1)
    print(pool.submit(os.getpid).result(), flush=True)
    pool.submit(time.sleep, 300)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.weekly
def test_processes_of_a_benchmark_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    worker = int(found.stdout)
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(worker, 9)
    pytest.fail("the process is still there")


def test_everything_that_is_asked_for_by_default_is_there() -> None:
    assert set(budgets.CORRUPTIONS) < set(registry.names("corruptions"))
    assert set(programs()) < set(budgets.chosen_models())
    for name in (*budgets.chosen_models(), *budgets.QUICK["models"]):
        source(name)
    for table in (budgets.METHODS, budgets.QUICK["methods"]):
        for own in table.values():
            assert any(name.startswith("eap_ig") for name in own), "which others are compared with"


def test_a_large_model_is_run_by_part_of_the_table_and_in_one_cell_beyond() -> None:
    large, table = source("smollm2-135m:ioi"), budgets.METHODS
    runs = budgets.plan(table, large, "zero", 32)
    found = {budget: [run.method for run in runs if run.budget == budget] for budget in table}
    assert found == {budget: [*budgets.LARGE_METHODS.get(budget, ())] for budget in table}
    (beyond,) = set(budgets.plan(table, large, "counterfactual", 32)) - set(runs)
    assert (beyond.budget, beyond.method) == (1000, budgets.LARGE_CELL[-1])
    small = budgets.plan(table, source("reverse"), "zero", 32)
    assert len(small) == sum(map(len, table.values()))
    own = {10: {"exact": 64}}  # of which the table says nothing
    assert budgets.plan(own, large, "zero", 32) == [budgets.Run(10, "exact", 32)]
    assert [run.prompts for run in budgets.plan(["eap"], large, "zero", 8)] == [8]


def test_what_a_version_does_not_have_is_left_out_of_a_table_and_said() -> None:
    table = {10: {"eap_ig": 2, "soon": 3}, 50: {"eap_ig": 2, "soon": 3}}
    found = bench(table, ["shift"], ["zero"], seeds=1, examples=4)
    assert [(row["budget"], row["prompts"]) for row in found.rows] == [(10, 2), (50, 2)]
    assert "no discovery method is called 'soon'" in found.about["absent"]["soon"]
    assert "- soon: " in found.markdown()
    one, two = found.rows
    assert one["cpu_seconds"] == two["cpu_seconds"], "the same cell is measured once"


def test_a_model_that_is_not_here_is_skipped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ModelError("its weights are not on this machine")

    monkeypatch.setattr(subjects, "load", missing)
    found = bench(["random"], ["shift", "smollm2-135m:ioi"], ["zero"], seeds=1, examples=4)
    assert found.options("model") == ("shift",)
    assert "- smollm2-135m:ioi: its weights are not" in found.markdown()
    with pytest.raises(EvaluationError, match="no model can be tried: its weights"):
        bench(["random"], ["smollm2-135m:ioi"], ["zero"], seeds=1)


# -- what is counted -------------------------------------------------------------------------------
def spent(method: Any, corruption: Any, model: Model, data: Dataset, **settings: Any) -> Cost:
    twin, tally = counted(model)
    method(twin, data, logit_diff, corruption, **settings)
    return cost(model, data, tally)


@pytest.mark.parametrize("which", ["compiled", "loaded"])
def test_forwards_and_backwards_are_those_counted_by_hand(which: str) -> None:
    n = 5
    if which == "compiled":
        model: Model = compile_program(named("dyck"))
        data = named("dyck").data(n, batch_size=2)
    else:
        model = circuitkit.load("mini")
        data = Dataset.of(make_task("ioi", model, n=n), model, batch_size=2)
    by_hand = {
        (eap, counterfactual): (2, 1),  # clean, corrupted; one gradient
        (eap, zero): (1, 1),
        (activation_magnitude, counterfactual): (2, 0),
    }
    for (method, corruption), (forwards, backwards) in by_hand.items():
        found = spent(method, corruption, model, data)
        assert found.forwards == pytest.approx(n * forwards)
        assert found.backwards == pytest.approx(n * backwards)
    found = spent(eap_ig, counterfactual, model, data, steps=3)
    assert (found.forwards, found.backwards) == pytest.approx((5 * n, 3 * n))
    assert found.sequence_backwards == pytest.approx((5 + 2 * 3) / 3 * n)


def test_a_part_of_a_run_counts_as_that_part() -> None:
    """The MLPs are one of four components in every layer, and their neurons are no second run."""
    model = circuitkit.load("mini")
    data = Dataset.of(make_task("ioi", model, n=2), model)
    batch = next(iter(data))
    x = model.start(batch.clean, batch.mask).embed
    for call in ("mlp", "neurons"):
        twin, tally = counted(model)
        getattr(twin, call)(1, x)
        part = 1 / (model.wiring.layers * (model.wiring.heads + 1))
        assert cost(model, data, tally).forwards == pytest.approx(len(data) * part)
    before = tally.forward
    model.mlp(1, x)
    assert tally.forward == before, "the model itself is not counted"


def test_a_backward_is_counted_when_it_is_taken() -> None:
    model = compile_program(named("shift"))
    twin, tally = counted(model)
    x = torch.randn(2, 3, model.d_model, requires_grad=True)
    out = twin.mlp(0, x).sum()
    assert (tally.forward, tally.backward) == (6, 0)
    out.backward()
    assert (tally.forward, tally.backward) == (6, 6)


# -- what methods are tried on ---------------------------------------------------------------------
def test_labelled_edges_are_true_ones_at_the_components_that_they_are_named_after() -> None:
    either = source("one_of_two")(0)
    assert either.find_truth is not None
    found = either.find_truth(counterfactual)
    legs = found.members["or"]
    heads = {either.model.wiring.writer[f"a0.h{head}"] for head in (0, 1)}
    assert heads <= set(np.nonzero(legs)[0])
    assert not (legs & ~found.true).any()
    assert legs.any()
    assert not found.members["negative"].any()


def test_random_halves_find_backups_that_single_cuts_do_not() -> None:
    subject = source("backup")(0)
    assert subject.find_truth is not None
    under = {how: subject.find_truth(how) for how in (zero, counterfactual)}
    spare, labels = under[zero].members["backup"], under[zero].labels
    plain = true_edges(compile_program(named("backup")), named("backup").data(128), zero)
    slow = redundant_edges(compile_program(named("backup")), named("backup").data(128), plain, zero)
    assert slow.any()
    assert np.array_equal(spare, slow), "as cutting every other writer finds them"
    assert np.array_equal(labels["one"], plain.necessary)
    assert np.array_equal(labels["half"], spare | plain.necessary)
    assert under[zero].main == "half"
    assert not under[counterfactual].members["backup"].any()


def test_changes_are_those_of_runs_with_an_edge_cut() -> None:
    program = named("one_of_two")
    model, data = compile_program(program), program.data(6)
    wiring = model.wiring
    alone = changes_alone(model, data, zero, any_logit)
    edge = wiring.index("a0.h0", "logits") if wiring.legal[wiring.index("a0.h0", "logits")] else (
        tuple(np.argwhere(alone > 0)[0])
    )  # fmt: skip
    (batch,) = data
    context, (carried,) = model.start(batch.clean, batch.mask), zero(model, data)(batch)

    def logits(keep: np.ndarray) -> torch.Tensor:
        return run(model, batch, context, carried, keep)

    without = wiring.legal.copy()
    without[edge] = False
    by_hand = (logits(without) - logits(wiring.legal)).abs().amax(-1)
    assert alone[edge] == pytest.approx(float(by_hand.mean()), abs=1e-6)

    asked = np.zeros_like(wiring.legal)
    asked[edge] = True
    for largest in (True, False):
        found = changes_in_halves(model, data, zero, any_logit, among=wiring.legal, asked=asked,
                                  draws=3, largest=largest)  # fmt: skip
        rng, most = np.random.default_rng(0), 0.0
        for _ in range(3):
            half = wiring.legal & (rng.random(wiring.shape) < 0.5)
            other = half.copy()
            other[edge] = not other[edge]
            change = (logits(half) - logits(other)).abs().amax(-1)
            most = max(most, float(change.max() if largest else change.mean()))
        assert found[edge] == pytest.approx(most, abs=1e-6)
        assert np.count_nonzero(found) <= 1


def test_distractors_leak_by_the_share_that_is_stated_and_are_not_mapped() -> None:
    program = named("is_frequent")
    model, data = compile_program(program), program.data(128)
    for share in (0.1, 0.4):
        subject = source(f"is_frequent+distract(share={share})", examples=8)(3)
        shares = [leaked(model, subject.model, data, how) for how in (counterfactual, zero)]
        assert max(shares) == pytest.approx(share, rel=1e-3)
    silent = source("is_frequent+distract(share=0)")(3)
    assert leaked(model, silent.model, data, zero) == pytest.approx(0, abs=1e-5)
    truth = subject.find_truth(zero)
    own = programmed(model, data, zero)
    assert truth.main == "mapped"
    assert truth.true.sum() == own.true.sum()
    assert truth.leak == pytest.approx(leaked(model, subject.model, data, zero))
    assert truth.unmapped > 0.01, "other edges have effects too"
    wiring = subject.model.wiring
    names = {(wiring.writers[i], wiring.readers[j]) for i, j in np.argwhere(truth.true)}
    small = model.wiring
    assert names == {(small.writers[i], small.readers[j]) for i, j in np.argwhere(own.true)}


@pytest.mark.weekly
def test_varied_programs_are_harder_for_eap_ig_than_plain_ones() -> None:
    found = bench(["eap_ig"], ["is_frequent", "dyck", "is_frequent+rotate+distract",
                  "dyck+rotate+distract"], ["counterfactual"], seeds=1, examples=16)  # fmt: skip
    plain, varied = (
        found.estimate(Place(block, "counterfactual", 0, "eap_ig"), "average_precision").mean
        for block in ("plain", "varied")
    )
    assert varied < plain


def test_a_trained_model_has_what_it_was_trained_to_use_as_its_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = named("shift")
    model = compile_program(program)
    every = true_edges(model, program.data(64), zero).necessary
    mapped = true_edges(model, program.data(64), counterfactual).necessary
    made = SimpleNamespace(
        name="shift, seed 1", model=model, mapped=every, constant=every & ~mapped,
        about={"causal": "shift"}, pairs=SimpleNamespace(prompts=range(40)), data=program.data,
    )  # fmt: skip
    monkeypatch.setattr(subjects, "load_trained", lambda place: made)
    place = tmp_path / "shift-1.trained"
    place.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks" / "trained").mkdir(parents=True)
    (tmp_path / "benchmarks" / "trained" / "shift-2.trained").write_bytes(b"")
    assert "trained:shift-2" in subjects.trained_names()
    with pytest.raises(UnknownNameError, match="did you mean 'shift-2'"):
        source("trained:shift-3")
    found = bench(["exact"], [str(place), "trained:shift-2"], ["counterfactual", "zero"],
                  examples=8)  # fmt: skip
    assert {row["block"] for row in found.rows} == {"trained"}
    assert {row["program"] for row in found.rows} == {"shift"}
    assert [row["average_precision"] for row in found.rows] == [1.0] * 4
    counts = {row["corruption"]: row["mapped"] for row in found.truths}
    assert counts == {"counterfactual": mapped.sum(), "zero": every.sum()}
    assert {row["unmapped"] for row in found.truths} == {0.0}


def test_negative_heads_are_those_that_a_variant_adds() -> None:
    subject = source("induction+split(shares=(1.3, -0.3))")(0)
    assert subject.find_truth is not None
    found = subject.find_truth(counterfactual).members["negative"]
    added = subject.model.wiring.writer["a1.h1"]
    assert set(np.nonzero(found)[0]) - {added} <= {0, *range(1, added)}
    assert found[added].any()
    columns = subject.model.wiring.feeds(added)
    assert set(np.nonzero(found[np.arange(len(found)) != added])[1]) <= set(columns)


def test_the_memory_of_both_halves_is_planned_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fitted(model: Model, data: Dataset, corruption: Any, each: int) -> Dataset:
        seen.append((len(data), corruption))
        return replace(data, batch_size=3)

    monkeypatch.setattr(batching, "fitted", fitted)
    subject = source("mini:ioi", examples=4)(0)
    cut = subject.batched(counterfactual)
    assert seen == [(8, counterfactual)]
    for whole, half in ((subject.seen, cut.seen), (subject.unseen, cut.unseen)):
        assert half == replace(whole, batch_size=3)
    assert source("reverse", examples=4)(0).batched(counterfactual).seen.batch_size > 3


def test_a_seed_draws_the_prompts_and_the_random_variant() -> None:
    def same(name: str) -> tuple[bool, bool]:
        one, two = (source(name, examples=4)(seed) for seed in (0, 1))
        again = source(name, examples=4)(1)
        assert again.seen == two.seen
        assert np.array_equal(again.model.o, two.model.o)
        assert not {e.clean for e in two.seen.examples} & {e.clean for e in two.unseen.examples}
        weights = np.array_equal(one.model.o, two.model.o)  # type: ignore[attr-defined]
        return one.seen == two.seen, weights

    assert same("reverse") == (False, True)
    assert same("reverse+rotate") == (False, False)
    assert same("reverse+rotate(seed=3)+soften") == (False, True)


@pytest.mark.weekly
@pytest.mark.parametrize("kind", sorted({n.partition("+")[2] for n in budgets.VARIED} | {"soften"}))
def test_varied_models_still_answer_and_have_a_truth_that_is_not_all(kind: str) -> None:
    found = bench(("exact",), (f"reverse+{kind}",), ("counterfactual",), seeds=1, examples=8)
    (row,), (truth,) = found.rows, found.truths
    assert row["block"] == "varied"
    assert row["program"] == "reverse"
    assert 0 < row["true"] < row["edges"] / 2
    assert row["accuracy_area"] > 0.1
    assert truth["main"] == ("mapped" if "distract" in kind or "compress" in kind else "half")


def test_a_program_of_ones_own_is_a_model(tmp_path: Path) -> None:
    place = tmp_path / "own.py"
    place.write_text("from circuitkit.truth.rasp import named\n\n"
                     "def own():\n    return named('shift')\n"
                     "def other():\n    return 3\n")  # fmt: skip
    found = bench(("exact",), (f"{place}:own+rotate",), ("counterfactual",), seeds=1, examples=6)
    assert found.rows[0]["auroc"] == 1
    with pytest.raises(UnknownNameError, match="gives a int"):
        source(f"{place}:other")


# -- statistics ------------------------------------------------------------------------------------
PROGRAMS = ("one", "one+rotate", "two", "three", "three+split", "four", "five", "six")


def scored(measure: str = "average_precision", **tables: Any) -> Benchmark:
    """Methods with these values of a measure by model and seed; nan is not measured."""
    rows = tuple(
        {"block": "plain", "program": model.partition("+")[0], "model": model, "budget": 0,
         "method": method, "corruption": "zero", "seed": seed, "prompts": 8, "failed": "",
         **dict.fromkeys(NUMBERS, nan), measure: float(value)}
        for method, table in tables.items()
        for model, own in zip(PROGRAMS, table, strict=False)
        for seed, value in enumerate(own)
    )  # fmt: skip
    return Benchmark({}, rows)


def at(method: str) -> Place:
    return Place("plain", "zero", 0, method)


def some_values(models: int = len(PROGRAMS), seeds: int = 4) -> np.ndarray:
    """Values in which models differ by up to one, and seeds by some hundredths."""
    rng = np.random.default_rng(0)
    return rng.random((models, 1)) + 0.03 * rng.normal(size=(models, seeds))


def test_groups_are_drawn_again_and_then_values_within_each() -> None:
    groups = [np.array([1.0, 3.0]), np.array([0.0]), np.array([4.0, 4.0, 7.0])]
    mean, low, high = mean_of_groups(groups, resamples=20_000)
    assert mean == pytest.approx((2 + 0 + 5) / 3)
    rng = np.random.default_rng(7)
    by_hand = []
    for _ in range(20_000):
        drawn = [groups[i] for i in rng.integers(0, 3, 3)]
        by_hand.append(np.mean([rng.choice(own, len(own)).mean() for own in drawn]))
    assert (low, high) == pytest.approx(np.quantile(by_hand, [0.025, 0.975]), abs=0.06)
    assert mean_of_groups(groups[:1])[0] == 2
    assert all(map(isnan, mean_of_groups(groups[:1])[1:]))
    assert all(map(isnan, mean_of_groups([])))


def test_groups_of_one_value_are_the_plain_bootstrap_and_others_are_wider() -> None:
    values = np.random.default_rng(0).normal(size=12)
    _, low, high = mean_of_groups([np.array([v]) for v in values], resamples=5000)
    spread = values.std() / np.sqrt(12)
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    _, lower, higher = mean_of_groups([np.array([v - 2, v + 2]) for v in values], resamples=5000)
    assert higher - lower > 1.5 * (high - low)


def test_the_p_of_a_sign_is_that_of_all_ways_to_flip_signs() -> None:
    apart = np.array([0.3, 0.1, -0.05, 0.2, 0.4])
    flipped = [abs((apart * signs).mean()) for signs in product((1, -1), repeat=5)]
    by_hand = np.mean([one >= abs(apart.mean()) - 1e-12 for one in flipped])
    assert sign_flip_p(apart) == pytest.approx(by_hand)
    many = np.random.default_rng(0).normal(0.3, 1, 40)
    found = permutation_test((many,), lambda x, axis: x.mean(axis), permutation_type="samples",
                             vectorized=True)  # fmt: skip
    assert sign_flip_p(many) == pytest.approx(found.pvalue, abs=0.03)
    assert sign_flip_p(np.zeros(4)) == 1
    assert isnan(sign_flip_p(np.array([1.0])))


def test_a_mean_is_one_of_programs_with_all_their_variants_and_seeds() -> None:
    table = np.array([[1.0, 2], [3, 4], [10, 20]])  # one, one+rotate, two
    found = scored(good=table)
    assert found.estimate(at("good"), "average_precision").mean == (2.5 + 15) / 2
    only = found.estimate(at("good"), "average_precision", frozenset(["one"]))
    assert only.mean == 2.5
    assert isnan(only.low)
    assert isnan(found.estimate(at("good"), "cmd").mean)
    line = found.summary()[0]
    assert (line["average_precision"], line["cells"], line["method"]) == (8.75, 6, "good")
    low, high = (line[f"average_precision_{end}"] for end in ("low", "high"))
    assert low <= 2.5 < 15 <= high


def test_differences_are_taken_in_each_model_so_that_models_do_not_widen_them() -> None:
    base = some_values()
    noise = 0.01 * np.random.default_rng(1).normal(size=base.shape)
    found = scored(eap_ig=base, less=base - 0.02 + noise, same=base + noise - noise.mean())
    less, same = (found.difference(at(m), "average_precision") for m in ("less", "same"))
    cells = noise - 0.02
    programs = [cells[:2].mean(), cells[2].mean(), cells[3:5].mean(), *cells[5:].mean(1)]
    assert less.mean == pytest.approx(np.mean(programs))
    assert (less.programs, less.models) == (6, 8)
    assert less.low < less.mean < less.high < 0
    assert less.beyond
    assert less.p == pytest.approx(2 / 2**6), "all six programs lose"
    assert same.low < 0 < same.high
    assert not same.beyond
    assert found.reference(at("less")) == at("eap_ig")
    text = found.markdown()
    assert "| reference |" in text
    worse = f"{less.mean:+.3f} [{less.low:+.3f}, {less.high:+.3f}], p {less.p:.3f}"
    assert f"| {worse} |" in text
    better = scored("cmd", eap_ig=base, less=base - 0.02 + noise).markdown()
    assert f"| **{worse}** |" in better, "less CMD is better"
    widths = [found.estimate(at("less"), "average_precision")]
    assert widths[0].high - widths[0].low > 10 * (less.high - less.low)


def test_only_what_both_methods_measure_is_compared() -> None:
    base = some_values()
    less = np.where(np.arange(len(PROGRAMS))[:, None] < 3, base - 0.1, nan)
    one = scored(eap_ig=base, less=less)
    found = one.difference(at("less"), "average_precision")
    assert (found.models, found.programs) == (3, 2)
    assert found.mean == pytest.approx(-0.1)
    (row,) = one.differences()
    assert set(row) == set(DIFFERENCES)
    assert (row["method"], row["reference"], row["beyond"]) == ("less", "eap_ig", True)


def test_without_eap_ig_the_first_method_is_the_reference() -> None:
    base = some_values(2)
    found = scored(mine=base, other=base + 0.1)
    assert found.reference(at("other")) == at("mine")


def test_blocks_corruptions_and_budgets_are_never_averaged_together() -> None:
    base = some_values(3)
    rows = [
        {**row, **change, "average_precision": row["average_precision"] + shift}
        for shift, change in enumerate(
            ({}, {"block": "trained"}, {"corruption": "mean"}, {"budget": 10},
             {"block": "real", "model": "mini:ioi", "program": "ioi"},
             {"block": "real", "model": "other:ioi", "program": "ioi"})
        )
        for row in scored(eap_ig=base, less=base - 0.1).rows
    ]  # fmt: skip
    found = Benchmark({}, tuple(rows))
    assert found.blocks == ("plain", "trained", "mini", "other")
    assert found.real == ("mini", "other")
    first = found.estimate(at("eap_ig"), "average_precision").mean
    for shift, place in enumerate((at("eap_ig"), at("eap_ig")._replace(block="trained"),
                                   at("eap_ig")._replace(corruption="mean"),
                                   at("eap_ig")._replace(budget=10))):  # fmt: skip
        assert found.estimate(place, "average_precision").mean == pytest.approx(first + shift)
    assert len(found.summary()) == 12


# -- choosing --------------------------------------------------------------------------------------
def test_a_method_is_chosen_on_half_of_the_programs_and_reported_on_the_other() -> None:
    names = [f"p{i}" for i in range(8)]
    plain = [
        {**dict.fromkeys(NUMBERS, nan), "block": "trained", "program": name, "model": f"{name}-0",
         "corruption": "zero", "seed": 0, "budget": 10, "prompts": 4, "failed": ""}
        for name in names
    ]  # fmt: skip
    blank = Benchmark({}, tuple({**row, "method": "eap_ig"} for row in plain))
    one, other = choosing.halves(blank)
    assert len(one) == len(other) == 4
    assert one | other == set(names)
    assert choosing.halves(blank, 1) != (one, other)

    def rows(method: str, budget: int, spent: float, here: float, there: float) -> list[Any]:
        return [
            {**row, "method": method, "budget": budget, "sequence_backwards": spent,
             "average_precision": here if row["program"] in one else there, "cmd": 0.5}
            for row in plain
        ]  # fmt: skip

    real = [{**plain[0], "block": "real", "program": "ioi", "model": "mini:ioi", "method": method,
             "cmd": cmd, "average_precision": nan} for method, cmd in (("eap_ig", 0.4),
                                                                       ("lucky", 0.7))]  # fmt: skip
    found = Benchmark({}, (
        *rows("eap_ig", 10, 9.0, 0.5, 0.5), *rows("lucky", 10, 10.0, 0.9, 0.2),
        *rows("dear", 10, 12.0, 1.0, 1.0), *rows("eap_ig", 50, 45.0, 0.6, 0.6), *real,
    ))  # fmt: skip
    by = {(row["budget"], row["by"], row["where"]): row for row in choosing.choices(found)}
    small = by[10, "average_precision", "other programs"]
    assert (small["method"], small["of"]) == ("lucky", 10), "dear costs more than 1.1 times 10"
    assert small["value"] == pytest.approx(0.2)
    assert small["difference"] == pytest.approx(-0.3)
    assert small["programs"] == 4
    large = by[50, "average_precision", "other programs"]
    assert (large["method"], large["of"]) == ("dear", 10), "it fits a larger budget"
    assert large["difference"] == pytest.approx(0.4)
    own = by[10, "average_precision", "mini"]
    assert (own["measure"], own["difference"]) == ("cmd", pytest.approx(0.3))
    assert "| trained | zero | 50 | average precision | dear (of 10) | 1.000 |" in found.markdown()


def test_a_label_is_not_won_by_its_own_definition() -> None:
    found = shift()
    text = found.markdown()
    assert "| exact † |" in text
    assert "† ranks edges by the definition of the label *one*" in text
    rows = tuple({**row, "budget": 1000} for row in found.rows)
    chosen = {row["method"] for row in choosing.choices(replace(found, rows=rows))}
    assert "exact" not in chosen


# -- tables ----------------------------------------------------------------------------------------
def made() -> Benchmark:
    """Methods at two budgets, with numbers that are easily averaged."""
    rows = [
        dict(zip(("method", "budget", "model", "program", "block", "corruption", "seed",
                  "average_precision", "cmd", "sequence_backwards", "cpu_seconds", "prompts",
                  "failed"), (m, b, model, model, "plain", "zero", seed, a, 1 - a, cost, cost / 100,
                              8, ""), strict=True))
        for m, b, cost, worth in (("free", 3, 0.0, 0.4), ("dear", 9, 9.0, 0.8),
                                  ("mid", 3, 3.0, 0.6), ("waste", 5, 5.0, 0.5),
                                  ("mid", 9, 8.0, 0.7))
        for model, more in (("x", 0.0), ("y", 0.1))
        for seed, a in ((0, worth + more), (1, worth + more + 0.02))
    ]  # fmt: skip
    return Benchmark({}, tuple(rows))


def test_the_front_is_the_best_for_the_cost_and_goes_in_steps() -> None:
    figure = made().figures()["ap-plain"]
    runs, cpu = figure.figures
    assert list(runs.x) == [3, 5, 5, 8, 8, 9, 9]
    assert runs.curves["best for the cost"] == pytest.approx([0.66] * 4 + [0.76] * 2 + [0.86])
    assert runs.curves["free"] == pytest.approx([0.46] * 7)
    assert runs.curves["mid"][[0, 3, 4]] == pytest.approx([0.66, 0.76, 0.76])
    assert isnan(runs.curves["mid"][1])
    assert list(cpu.x) == pytest.approx([place / 100 for place in runs.x])
    assert cpu.x_name == "CPU seconds"
    least = made().figures()["cmd-plain"].figures[0].curves["best for the cost"]
    assert least == pytest.approx([0.34] * 4 + [0.24] * 2 + [0.14])
    assert figure.svg().startswith("<svg")
    assert list(made().figures()) == ["ap-plain", "cmd-plain"]


def test_the_files_hold_what_was_measured(tmp_path: Path) -> None:
    found = shift()
    names = [path.name for path in found.save(tmp_path)]
    assert names == [
        "summary.md", "summary.html", "summary.csv", "differences.csv", "choices.csv", "truths.csv",
        "rows.csv", "ap-plain.svg", "cmd-plain.svg",
    ]  # fmt: skip
    lines = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert tuple(lines[0]) == COLUMNS
    assert len(lines) == len(found.rows)
    for line, row in zip(lines, found.rows, strict=True):
        assert (line["method"], int(line["seed"])) == (row["method"], row["seed"])
        assert float(line["cmd"]) == pytest.approx(row["cmd"], rel=1e-4)
        assert line["recall_backup"] == ""
    for line in csv.DictReader((tmp_path / "summary.csv").read_text().splitlines()):
        assert float(line["average_precision"]) == pytest.approx(
            np.mean(values(found, line["method"], "average_precision")), rel=1e-4
        )
    text = (tmp_path / "summary.md").read_text()
    assert text.index("| exact † |") < text.index("| random |")
    assert "nan" not in text
    assert "{" not in text
    assert "exact" in repr(found)
    assert "10 seeds" in repr(found)


def test_many_methods_are_printed_as_the_best_of_each_place() -> None:
    values = {f"method{i}": [[0.1 + i / 100] * 2] * 2 for i in range(50)}
    text = repr(scored(eap_ig=[[0.5, 0.5], [0.5, 0.5]], **values))
    assert "method49" in text
    assert "eap_ig" in text
    assert "method48" not in text
    assert "of 51 methods" in text


# -- the command -----------------------------------------------------------------------------------
def test_the_command_runs_resumes_and_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], outside: Path
) -> None:
    mine = f"{outside}:mine"
    command = ["bench", "exact", mine, "--model", "shift", "--corruption", "zero", "--seeds", "2",
               "--examples", "4", "--quiet", "-o", str(tmp_path / "out")]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "precision" in said
    assert "summary.md" in said
    assert "2 seeds" in said
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert asked(outside) == 2
    assert found["about"]["earlier"] == 4
    assert {row["method"]: row["auroc"] for row in found["summary"]}["exact"] == 1
    assert (tmp_path / "out" / "ap-plain.svg").exists()


@pytest.mark.parametrize("wrong", [["eap_gi"], ["--corruption", "zeros"], ["--model", "revers"]])
def test_a_mistyped_name_is_one_sentence_and_exit_code_2(
    wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *wrong, "-o", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("circuitkit: no ")
    assert said.count("\n") == 1
    assert "did you mean" in said
    assert issubclass(UnknownNameError, CircuitkitError)


class Pool:
    """Processes, as far as what goes in and comes out of them is concerned."""

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function: Any, *given: Any) -> Any:
        for one in zip(*given, strict=True):
            own, arguments = pickle.loads(pickle.dumps((function, one)))
            yield pickle.loads(pickle.dumps(own(*arguments)))


def test_several_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_pool", lambda jobs: Pool())
    given = {"methods": ["exact", "random"], "models": ["shift", "shift+rotate"],
             "corruptions": ["zero"], "seeds": 1, "examples": 4}  # fmt: skip
    one, two = bench(**given), bench(**given, jobs=2, resume=tmp_path)
    assert two.about["jobs"] == 2
    timeless = [
        [{k: v for k, v in row.items() if k != "cpu_seconds"} for row in found.rows]
        for found in (one, two)
    ]
    assert str(timeless[0]) == str(timeless[1])
    assert bench(**given, resume=tmp_path).about["earlier"] == 4


def test_names_are_text_and_nothing_else() -> None:
    hostile = "a|b\n| c | <script>alert(1)</script> & {{ 7 * 7 }}"
    rows = [{**row, "method": hostile} if row["method"] == "waste" else row for row in made().rows]
    refused = {**dict.fromkeys(COLUMNS, nan), "method": "dear", "model": "x", "corruption": "zero",
               "block": "plain", "program": "x", "budget": 9, "seed": 2, "prompts": 8,
               "failed": hostile}  # fmt: skip
    text = replace(made(), rows=(*rows, refused)).markdown()
    assert "<script" not in text
    shown = r"a\|b \| c \| &lt;script>alert(1)&lt;/script> &amp; {{ 7 * 7 }}"
    assert f"| 5 | {shown} | 8 | 5.000" in text
    assert f"- dear, 1 cells: {shown}\n" in text
