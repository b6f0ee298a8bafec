"""The benchmark: against truth that is known, by hand, and what it says of mistakes."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import cache
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t

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
from circuitkit.errors import CircuitkitError, EvaluationError, UnknownNameError
from circuitkit.evaluation.recovery import recovery
from circuitkit.evaluation.size_curves import size_curves
from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics.answers import logit_diff
from circuitkit.truth.rasp import compile_program, named, programs, true_edges
from circuitkit.workflows.benchmark import differences, running
from circuitkit.workflows.benchmark.cells import NUMBERS, Cell
from circuitkit.workflows.benchmark.counting import Cost, cost, counted
from circuitkit.workflows.benchmark.records import COLUMNS, Interval
from circuitkit.workflows.benchmark.results import Benchmark
from circuitkit.workflows.benchmark.running import (
    CORRUPTIONS,
    HARDER,
    METHODS,
    MODELS,
    QUICK,
    bench,
)
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
    for measure in ("auroc", "acdc_auroc", "average_precision", "recall", "agreement"):
        assert values(found, "exact", measure) == [1.0] * 10
    assert values(found, "exact", "hamming") == [0.0] * 10
    by_chance = values(found, "random", "auroc")
    assert len(set(by_chance)) > 4, "each seed draws other scores"
    assert abs(np.mean(by_chance) - 0.5) < 0.2
    for measure, higher in (("cpr", 1), ("cmd", -1), ("cmd_log", -1), ("accuracy_area", 1)):
        good, bad = (np.mean(values(found, m, measure)) for m in ("exact", "random"))
        assert higher * (good - bad) > 0
    assert found.methods == ("exact", "random")


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
    assert found.methods == ("eap_ig", "activation_magnitude"), "without a truth by CMD"
    assert list(found.figures()) == ["cmd"]


def test_a_method_that_refuses_says_why_and_holds_up_nobody() -> None:
    found = bench(("eap", "activation_magnitude"), ("shift",), ("counterfactual",), metric="kl",
                  seeds=2, examples=6)  # fmt: skip
    assert all("gradient of kl" in said for said in values(found, "eap", "failed"))
    assert values(found, "activation_magnitude", "failed") == ["", ""]
    assert all(row["auroc"] > 0 for row in found.rows if not row["failed"])
    assert "eap, 2 cells: the gradient of kl" in found.markdown()
    assert [row["failed"] for row in found.summary()] == [0, 2]


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
        "cpr": curves["signed"].cpr(), "cpr_kept": curves["signed"].cpr("kept"),
        "cmd": curves["abs"].cmd(), "cmd_kept": curves["abs"].cmd("kept"),
        "cmd_log": curves["abs"].cmd("log"), "accuracy_area": curves["abs"].accuracy_area(),
    }  # fmt: skip
    assert {key: row[key] for key in by_hand} == pytest.approx(by_hand)
    assert len({row[key] for key in ("cmd", "cmd_kept", "cmd_log", "cpr", "cpr_kept")}) == 5
    block = Cell(scores, {key: row[key] for key in NUMBERS}).arrays()
    again = Cell.of(block)
    assert again.scores.about["chosen"] is True
    assert again.scores.wiring == scores.wiring
    assert np.array_equal(again.scores.values, scores.values)


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


def test_a_chosen_circuit_is_one_after_it_has_been_kept(tmp_path: Path) -> None:
    cells = [bench(("acdc",), ("reverse",), ("counterfactual",), seeds=2, examples=8,
                   resume=tmp_path).rows for _ in range(2)]  # fmt: skip
    assert str(cells[0]) == str(cells[1])
    assert cells[0][0]["agreement"] > 0


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


def test_everything_that_is_asked_for_by_default_is_there() -> None:
    assert set(METHODS) <= set(registry.names("discovery"))
    assert set(CORRUPTIONS) < set(registry.names("corruptions"))
    assert set(programs()) < set(MODELS)
    for name in (*MODELS, *QUICK["models"]):
        source(name)


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


def test_backups_matter_only_where_another_component_is_cut_off() -> None:
    subject = source("backup")(0)
    assert subject.find_truth is not None
    under = {how: subject.find_truth(how) for how in (zero, counterfactual)}
    spare = under[zero].members["backup"]
    plain = true_edges(compile_program(named("backup")), named("backup").data(128), zero)
    assert spare.any()
    assert not (spare & plain.necessary).any()
    assert np.array_equal(under[zero].true, spare | plain.necessary)
    assert not under[counterfactual].members["backup"].any()


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

    def fitted(model: Model, data: Dataset, corruption: Any) -> Dataset:
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


def test_harder_models_still_answer_and_have_a_truth_that_is_not_all() -> None:
    kinds = {name.partition("+")[2] for name in HARDER}
    assert len(kinds) == 5
    for name in (f"reverse+{kind}" for kind in kinds):
        subject = source(name, examples=8)(0)
        assert subject.find_truth is not None
        true = subject.find_truth(counterfactual).true
        assert 0 < true.sum() < subject.model.wiring.n_edges / 2
        found = bench(("exact",), (name,), ("counterfactual",), seeds=1, examples=8)
        assert found.rows[0]["accuracy_area"] > 0.1


def test_a_program_of_ones_own_is_a_model(tmp_path: Path) -> None:
    place = tmp_path / "own.py"
    place.write_text("from circuitkit.truth.rasp import named\n\n"
                     "def own():\n    return named('shift')\n"
                     "def other():\n    return 3\n")  # fmt: skip
    found = bench(("exact",), (f"{place}:own+rotate",), ("counterfactual",), seeds=1, examples=6)
    assert found.rows[0]["auroc"] == 1
    with pytest.raises(UnknownNameError, match="gives a int"):
        source(f"{place}:other")


# -- tables ----------------------------------------------------------------------------------------
def test_intervals_are_students() -> None:
    found = Interval.of([1.0, nan, 3.0])
    assert (found.mean, found.half) == pytest.approx((2.0, t.ppf(0.975, 1)))
    assert isnan(Interval.of([1.0]).half)
    assert isnan(Interval.of([]).mean)
    assert str(Interval(2, nan)) == "2.000"
    assert str(Interval(0.5, 0.25)) == "0.500 ± 0.250"


def made() -> Benchmark:
    """Two methods, two models, two seeds, with numbers that are easily averaged."""
    rows = [
        dict(zip(("method", "model", "corruption", "seed", "auroc", "cmd", "sequence_backwards",
                  "failed"), (m, model, "zero", seed, a, 1 - a, cost, ""), strict=True))
        for m, cost, worth in (("free", 0.0, 0.4), ("dear", 9.0, 0.8), ("mid", 3.0, 0.6),
                               ("waste", 5.0, 0.5))
        for model, more in (("x", 0.0), ("y", 0.1))
        for seed, a in ((0, worth + more), (1, worth + more + 0.02))
    ]  # fmt: skip
    return Benchmark({"seeds": [0, 1]}, tuple(rows))


def test_a_summary_is_the_mean_over_models_with_the_interval_over_seeds() -> None:
    found = made()
    best = found.summary()[0]
    assert best["method"] == "dear"
    assert best["cells"] == 4
    assert best["auroc"] == pytest.approx(0.86)
    half = t.ppf(0.975, 1) * 0.01  # the means of the seeds are .02 apart, however models differ
    assert best["auroc_high"] - best["auroc"] == pytest.approx(half)
    assert best["auroc"] - best["auroc_low"] == pytest.approx(half)
    assert found.interval("dear", "auroc", model="y").mean == pytest.approx(0.91)
    assert found.methods == ("dear", "mid", "waste", "free")


def test_the_front_is_the_best_for_the_cost_and_goes_in_steps() -> None:
    figure = made().front("auroc")
    assert list(figure.x) == [3, 5, 5, 9, 9]
    assert figure.curves["best for the cost"] == pytest.approx([0.66, 0.66, 0.66, 0.66, 0.86])
    assert figure.curves["free"] == pytest.approx([0.46] * 5)
    assert figure.curves["waste"][1] == pytest.approx(0.56)
    assert isnan(figure.curves["waste"][0])
    least = made().front("cmd").curves["least for the cost"]
    assert least == pytest.approx([0.34, 0.34, 0.34, 0.34, 0.14])
    assert made().front("auroc").svg().startswith("<svg")


def test_agreement_is_the_mean_overlap_with_the_other_seeds() -> None:
    wiring = Wiring(1, 1, 1)

    def cell(writer: str) -> Cell:
        table = np.zeros(wiring.shape, np.float32)
        table[wiring.index(writer, "logits")] = 1
        if writer != "input":  # so that it hangs together
            reader = "a0.h0.v" if writer == "a0.h0" else "m0"
            table[wiring.index("input", reader)] = 2
        numbers = dict.fromkeys(NUMBERS, nan) | {"true": 2.0, "edges": float(wiring.n_edges)}
        return Cell(Scores(wiring, table), numbers)

    found = running._agreed({0: cell("m0"), 1: cell("m0"), 5: cell("a0.h0")})
    assert found == {0: 0.5, 1: 0.5, 5: 0.0}
    assert running._agreed({0: cell("m0")}) == {}


def test_the_files_hold_what_was_measured(tmp_path: Path) -> None:
    found = shift()
    names = [path.name for path in found.save(tmp_path)]
    assert names == [
        "summary.md",
        "summary.csv",
        "differences.csv",
        "rows.csv",
        "auroc.svg",
        "cmd.svg",
    ]
    lines = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert tuple(lines[0]) == COLUMNS
    assert len(lines) == len(found.rows)
    for line, row in zip(lines, found.rows, strict=True):
        assert (line["method"], int(line["seed"])) == (row["method"], row["seed"])
        assert float(line["cmd"]) == pytest.approx(row["cmd"], rel=1e-4)
        assert line["recall_backup"] == ""
    for line in csv.DictReader((tmp_path / "summary.csv").read_text().splitlines()):
        assert float(line["auroc"]) == pytest.approx(
            np.mean(values(found, line["method"], "auroc")), rel=1e-4
        )
    text = (tmp_path / "summary.md").read_text()
    assert text.index("| exact |") < text.index("| random |")
    assert "nan" not in text
    assert "{" not in text
    assert "exact" in repr(found)
    assert "10 seeds" in repr(found)


# -- the command -----------------------------------------------------------------------------------
def test_the_command_runs_resumes_and_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], outside: Path
) -> None:
    mine = f"{outside}:mine"
    command = ["bench", "exact", mine, "--model", "shift", "--corruption", "zero", "--seeds", "2",
               "--examples", "4", "--quiet", "-o", str(tmp_path / "out")]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "AUROC" in said
    assert "summary.md" in said
    assert "2 seeds" in said
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert asked(outside) == 2
    assert found["about"]["earlier"] == 4
    assert {row["method"]: row["auroc"] for row in found["summary"]}["exact"] == 1
    assert (tmp_path / "out" / "auroc.svg").exists()


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


def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    hostile = "a|b\n| c | <script>alert(1)</script> & {{ 7 * 7 }}"
    rows = [{**row, "method": hostile} if row["method"] == "mid" else row for row in made().rows]
    refused = {**dict.fromkeys(COLUMNS, nan), "method": "dear", "model": "x", "corruption": "zero",
               "seed": 2, "failed": hostile}  # fmt: skip
    text = replace(made(), rows=(*rows, refused)).markdown()
    assert "<script" not in text
    shown = r"a\|b \| c \| &lt;script>alert(1)&lt;/script> &amp; {{ 7 * 7 }}"
    assert f"| {shown} | 0.660" in text
    assert f"- dear, 1 cells: {shown}\n" in text
    tables = [line.replace(r"\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables[:6]}) == 1


# -- differences -----------------------------------------------------------------------------------
PROGRAMS = ("one", "one+rotate", "two", "three", "three+split", "four", "five", "six")


def scored(**auroc: Any) -> Benchmark:
    """Methods with these values of AUROC by model and seed; nan is not measured."""
    rows = tuple(
        {"method": method, "model": model, "corruption": "zero", "seed": seed, "failed": "",
         **dict.fromkeys(NUMBERS, nan), "auroc": float(value)}
        for method, table in auroc.items()
        for model, own in zip(PROGRAMS, table, strict=False)
        for seed, value in enumerate(own)
    )  # fmt: skip
    return Benchmark({}, rows)


def some_values(models: int = len(PROGRAMS), seeds: int = 4) -> np.ndarray:
    """Values in which models differ by up to one, and seeds by some hundredths."""
    rng = np.random.default_rng(0)
    return rng.random((models, 1)) + 0.03 * rng.normal(size=(models, seeds))


def test_differences_are_taken_in_each_model_so_that_models_do_not_widen_them() -> None:
    good = some_values()
    noise = 0.01 * np.random.default_rng(1).normal(size=good.shape)
    found = scored(good=good, less=good - 0.02 + noise, same=good + noise - noise.mean() - 1e-9)
    less, same = differences.differences(found, "auroc")
    if less.method == "same":
        less, same = same, less
    assert (less.method, less.best, less.models) == ("less", "good", len(PROGRAMS))
    assert less.mean == pytest.approx((noise - 0.02).mean())
    assert less.low < less.mean < less.high < 0
    assert less.beyond
    assert same.low < 0 < same.high
    assert not same.beyond
    assert differences.unbeaten(found, "auroc") == ["good", "same"]
    assert f"| good | **{found.interval('good', 'auroc')}**" in found.markdown()
    assert f"| less | {found.interval('less', 'auroc')} |" in found.markdown()
    assert "not shown to differ from it: good, same" in repr(found)


def test_the_interval_is_that_of_programs_with_all_their_variants() -> None:
    """One program alone says nothing of others, however many variants it has; and the interval is
    about that of the programs' means, where all seeds agree."""
    good = some_values(2)
    (alone,) = differences.differences(scored(good=good, less=good - 0.1), "auroc")
    assert alone.mean == pytest.approx(-0.1)
    assert isnan(alone.low)
    assert not alone.beyond
    assert differences.unbeaten(scored(good=good, less=good - 0.1), "auroc") == []
    good = some_values()
    apart = np.repeat([[0.1], [0.1], [0.3], [0.2], [0.2], [0.1], [0.3], [0.2]], 4, axis=1)
    (found,) = differences.differences(scored(good=good, less=good - apart), "auroc")
    spread = np.std([0.1, 0.3, 0.2, 0.1, 0.3, 0.2]) / np.sqrt(6)
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.25)


def test_only_what_both_methods_measure_is_compared() -> None:
    good = some_values()
    less = np.where(np.arange(len(PROGRAMS))[:, None] < 3, good - 0.1, nan)
    one = scored(good=good, less=less)
    (found,) = differences.differences(one, "auroc")
    assert (found.models, found.mean) == (3, pytest.approx(-0.1))
    assert differences.differences(one, "cmd") == []
    assert [row["method"] for row in one.differences()] == ["less"]
    assert set(one.differences()[0]) == set(differences.COLUMNS)
