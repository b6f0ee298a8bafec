"""The command: what it writes and prints, and that a mistake is one sentence and exit code 2."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import circuitkit
from circuitkit.cli._opening import default_place, legal_name
from circuitkit.cli.main import build_parser, main
from circuitkit.graph import circuit as circuits
from circuitkit.graph.nodes import edge_name
from circuitkit.graph.scores import Scores
from circuitkit.models.listing import ARCHITECTURES
from circuitkit.registry import KINDS, describe

TINY = ["--examples", "12", "--batch-size", "6", "--quiet"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of one discovery on the embedded model."""
    place = tmp_path_factory.mktemp("found")
    assert main(["discover", "ioi", "--edges", "40", "-o", str(place), *TINY]) == 0
    return place


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_discover_writes_a_circuit_its_scores_and_its_picture(found: Path) -> None:
    circuit = circuits.Circuit.load(found / "circuit.json")
    scores = Scores.load(found / "scores.safetensors")
    kept = list(circuits.edges(circuit))
    assert 0 < len(kept) <= 40
    for writer, reader, weight in kept:
        assert weight == pytest.approx(float(scores.values[scores.wiring.index(writer, reader)]))
    assert (found / "circuit.svg").read_text().startswith("<svg")
    assert sorted(p.name for p in found.iterdir()) == [
        "certainty.safetensors", "circuit.html", "circuit.json", "circuit.svg",
        "scores.safetensors",
    ]  # fmt: skip
    about = circuit.graph
    assert (about["model"], about["task"], about["metric"]) == ("mini", "ioi", "logit_diff")
    assert about["method"] == "eap_ig"
    assert about["faithfulness"]["low"] <= about["faithfulness"]["value"]


def test_the_summary_says_what_was_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["discover", "ioi", "--edges", "30", "-o", str(tmp_path), *TINY]) == 0
    out = capsys.readouterr().out
    for word in (
        "faithfulness",
        "5 random halves of the others kept",
        "random circuits",
        "strongest edges",
        "peak memory",
        "unseen",
    ):
        assert word in out


def test_the_same_seed_gives_the_same_circuit(found: Path, tmp_path: Path) -> None:
    assert main(["discover", "ioi", "--edges", "40", "-o", str(tmp_path), *TINY]) == 0
    assert (tmp_path / "circuit.json").read_text() == (found / "circuit.json").read_text()
    assert (tmp_path / "circuit.svg").read_text() == (found / "circuit.svg").read_text()


def test_a_target_is_reached_on_the_prompts_that_were_seen(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answer = said(capsys, "discover", "ioi", "--faithfulness", "0.5", "-o", str(tmp_path), *TINY)
    assert answer["edges"] < answer["edges_total"]
    assert answer["faithfulness"] > 0.3
    assert answer["faithfulness"] > 2 * max(answer["random_faithfulness"])


VERIFIED = ["discover", "ioi", "--verify", "60", "--edges", "20", *TINY]
EXACT = ["discover", "ioi", "--method", "exact", "--edges", "20", *TINY]


def test_verify_measures_edges_and_says_which(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answer = said(capsys, *VERIFIED, "-o", str(tmp_path))
    assert [Path(name).name for name in answer["files"]][-1] == "verification.csv"
    assert answer["verification"]["edges"] == 60
    with (tmp_path / "verification.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 60
    weights = {line["edge"]: float(line["exact"]) for line in lines}
    circuit = circuits.Circuit.load(tmp_path / "circuit.json")
    measured = 0
    for writer, reader, weight in circuits.edges(circuit):
        name = edge_name(writer, reader)
        assert circuit[writer][reader]["exact"] == (name in weights)
        if name in weights:
            assert weight == pytest.approx(weights[name], rel=1e-5)
            measured += 1
    assert measured > 10
    scores = Scores.load(tmp_path / "scores.safetensors")
    assert scores.exact is not None
    assert scores.exact.sum() == 60
    assert not (tmp_path / ".unfinished").exists()


@pytest.mark.parametrize(
    "arguments", [VERIFIED, pytest.param(EXACT, marks=pytest.mark.weekly)], ids=["verify", "exact"]
)
def test_an_interrupted_discovery_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    from circuitkit.engine import edges as patching

    whole, parts, calls, sweep = tmp_path / "whole", tmp_path / "parts", [0], patching.sweep
    arguments = [*arguments, "--examples", "4", "--batch-size", "2"]
    stop = 10**9

    def counted(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] > stop:
            raise KeyboardInterrupt
        return sweep(*given)

    monkeypatch.setattr(patching, "sweep", counted)
    assert main([*arguments, "-o", str(whole)]) == 0
    needed, stop, calls[0] = calls[0], 1, 0
    assert main([*arguments, "-o", str(parts)]) == 130
    assert [p.name for p in parts.iterdir()] == [".unfinished"]
    stop, calls[0] = 10**9, 0
    assert main([*arguments, "-o", str(parts)]) == 0
    assert 0 < calls[0] == needed - 1
    names = sorted(p.name for p in whole.iterdir())
    assert sorted(p.name for p in parts.iterdir()) == names
    for name in names:
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_orders_are_refused_where_there_is_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["discover", "ioi", "--orders", "3", "-o", str(tmp_path), *TINY]) == 2
    assert "no setting 'order'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_evaluate_crosses_metrics_with_corruptions(
    capsys: pytest.CaptureFixture[str], found: Path
) -> None:
    crossed = ["--metric", "logit_diff", "--metric", "kl",
               "--corruption", "counterfactual", "--corruption", "zero"]  # fmt: skip
    rows = said(capsys, "evaluate", str(found / "circuit.json"), *crossed, *TINY)
    assert [(r["metric"], r["corruption"]) for r in rows] == [
        ("logit_diff", "counterfactual"), ("logit_diff", "zero"),
        ("kl", "counterfactual"), ("kl", "zero"),
    ]  # fmt: skip
    recorded = circuits.Circuit.load(found / "circuit.json").graph["faithfulness"]
    assert rows[0]["faithfulness"] == pytest.approx(recorded["value"], abs=1e-3)


KNOCKOUT = ["--pairs", "3", "--subsets", "2", *TINY]
PARTS = ["marginal_effects", "interactions", "incompleteness", "minimality"]


@pytest.fixture(scope="module")
def few(found: Path) -> Path:
    """The strongest edges of that circuit alone."""
    circuit = Scores.load(found / "scores.safetensors").top(6)
    circuit.graph.update(circuits.Circuit.load(found / "circuit.json").graph)
    return circuits.write_whole(found.parent / "few.json", circuits.to_json(circuit))


def test_curves_are_drawn_into_a_file(
    found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    circuit, picture = str(found / "circuit.json"), str(tmp_path / "curve.svg")
    rows = said(capsys, "evaluate", circuit, "--curve", "-o", picture, *TINY)
    assert [row["edges"] for row in rows] == sorted(row["edges"] for row in rows)
    text = Path(picture).read_text()
    assert all(f"{row['faithfulness']:.4g}" in text for row in rows)
    assert main(["evaluate", circuit, "-o", picture, *TINY]) == 2
    assert "--curve" in capsys.readouterr().err


def test_evaluate_keeps_other_edges_and_looks_for_another_circuit(
    found: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["evaluate", str(found / "circuit.json"), "--complement", "random", "--complement",
             "worst", *TINY]  # fmt: skip
    (row,) = said(capsys, *asked)
    random, worst = (row["complements"][kind] for kind in ("random", "worst"))
    assert random["mean"] == pytest.approx(
        np.mean([draw["faithfulness"] for draw in random["draws"]])
    )
    assert random["alone"] == pytest.approx(row["faithfulness"])
    assert worst["where_found"] <= worst["random"]["alone"] + 0.2
    assert main([*asked, "--alternative"]) == 0
    text = capsys.readouterr().out
    for words in (f"with random halves of the {random['others']} other edges kept",
                  "with the other edges kept that hurt most, found on half of the prompts",
                  "a second circuit, chosen on half of the prompts, measured on the other 6",
                  f"{worst['faithfulness']:.3f}"):  # fmt: skip
        assert words in " ".join(text.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--curve", "--complement", "random"], "--curve is of other sizes"),
        (["--scores", "x.safetensors"], "is for --alternative"),
        (["--alternative", "--scores", "x.safetensors"], "there is no file"),
    ],
)
def test_evaluate_says_which_options_do_not_go_together(
    found: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert main(["evaluate", str(found / "circuit.json"), *options, *TINY]) == 2
    assert words in capsys.readouterr().err


STUDY = ["--windows", "0", "--circuits", "none", *TINY]


def test_study_writes_its_page_its_tables_and_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = said(capsys, "study", "ioi", "-o", str(tmp_path), "--metric", "logit_diff",
                "--corruption", "counterfactual(text='names')", *STUDY)  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {Path(f).name for f in told["files"]}
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    (row,) = (r for r in told["tables"]["detected"] if r["nodes"] == "z")
    assert row["corruption"] == "counterfactual(text='names')"
    assert row["help"]
    assert told["about"]["examples"] <= 12
    assert {"question", "text", "depends", "advice"} == set(told["verdicts"][0])


def test_a_study_counts_against_a_reference(
    found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = said(capsys, "study", "ioi", "-o", str(tmp_path), "--metric", "logit_diff",
                "--corruption", "counterfactual", "--group", "pair=a0.h2,a2.h2",
                "--reference", str(found / "circuit.json"), *STUDY)  # fmt: skip
    (row,) = (r for r in told["tables"]["detected"] if r["nodes"] == "z")
    assert 0 < row["recall"] <= 1
    assert row["member"].split("/")[0] != "0"
    assert {r["group"] for r in told["tables"]["restored"]} == {"pair"}


def test_a_task_that_the_model_gets_wrong_is_not_studied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["study", "arithmetic", "--only", "top1", "-o", str(tmp_path), *STUDY]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("circuitkit: ")
    assert error.count("\n") == 1


def test_knockout_prints_four_results_below_one_faithfulness(
    capsys: pytest.CaptureFixture[str], few: Path
) -> None:
    assert main(["knockout", str(few), *KNOCKOUT]) == 0
    title, first, *rest = capsys.readouterr().out.splitlines()
    circuit = circuits.Circuit.load(few)
    assert title == f"{circuit}; 12 prompts of ioi on mini"
    assert first.startswith("faithfulness 0.")
    text = "\n".join(rest)
    assert "faithfulness" not in text
    for words in ("the circuit loses without one of its edges", "of 3 pairs show no interaction",
                  "the worst of 2 random sets", "edges are redundant"):  # fmt: skip
        assert words in text


def test_knockout_for_machines_is_what_the_functions_give(
    capsys: pytest.CaptureFixture[str], few: Path
) -> None:
    from circuitkit.corruptions import zero
    from circuitkit.engine.inputs import as_data
    from circuitkit.evaluation.knockouts.completeness import incompleteness
    from circuitkit.evaluation.knockouts.effects import marginal_effects
    from circuitkit.evaluation.knockouts.pairs import interactions
    from circuitkit.evaluation.knockouts.redundancy import minimality
    from circuitkit.metrics import prob_diff
    from circuitkit.models.loading import load

    options = [
        "--metric",
        "prob_diff",
        "--corruption",
        "zero",
        "--within",
        "circuit",
        "--seed",
        "4",
    ]
    answer = said(capsys, "knockout", str(few), *KNOCKOUT, *options)
    assert list(answer) == PARTS
    circuit, model = circuits.Circuit.load(few), load("mini")
    data = replace(as_data(model, "ioi", circuit, examples=12), batch_size=6)
    given = (model, circuit, data, prob_diff, zero)
    expected = (
        marginal_effects(*given),
        interactions(*given, edges=3, within="circuit"),
        incompleteness(*given, sets=2, seed=4),
        minimality(*given, seed=4),
    )
    assert [answer[part] for part in PARTS] == [result.to_dict() for result in expected]
    assert answer["interactions"]["within"] == "circuit"


def test_knockout_leaves_out_what_is_not_wanted(
    capsys: pytest.CaptureFixture[str], few: Path
) -> None:
    answer = said(capsys, "knockout", str(few), "--pairs", "0", "--subsets", "0", *TINY)
    assert list(answer) == ["marginal_effects", "minimality"]
    assert len(answer["marginal_effects"]["edges"]) == answer["minimality"]["circuit_edges"] == 6


@pytest.mark.parametrize("value", ["-1", "2.5", "many"])
def test_a_number_that_counts_nothing_is_refused(
    capsys: pytest.CaptureFixture[str], value: str
) -> None:
    assert main(["knockout", "c.json", f"--pairs={value}"]) == 2
    said = capsys.readouterr().err
    assert f"{value!r} is not a whole number; 0 skips it; `circuitkit knockout --help`" in said
    assert said.count("\n") == 1


def test_compare_of_a_circuit_with_itself_is_one(
    capsys: pytest.CaptureFixture[str], found: Path
) -> None:
    path = str(found / "circuit.json")
    answer = said(capsys, "compare", path, path)
    assert answer["edges"]["jaccard"] == 1
    assert 0 < answer["edges"]["expected_jaccard"] < 1


@pytest.mark.parametrize("suffix", ["svg", "dot", "json", "graphml", "csv", "gexf", "cyjs"])
def test_draw_writes_every_format(found: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"c.{suffix}"
    assert main(["draw", str(found / "circuit.json"), "-o", str(target)]) == 0
    assert target.stat().st_size > 100


def test_the_folder_of_a_run_stands_for_its_circuit(
    capsys: pytest.CaptureFixture[str], found: Path
) -> None:
    file = str(found / "circuit.json")
    for arguments in (["compare", "{}", "{}"], ["cite", "{}"]):
        of_folder, of_file = (
            said(capsys, *(one.format(place) for one in arguments)) for place in (found, file)
        )
        assert of_folder == of_file
    for command in ("evaluate", "replay", "knockout", "draw", "view"):
        more = ["-o", "x"] if command in ("draw", "view") else []
        assert build_parser().parse_args([command, str(found), *more]).circuit == file
    assert main(["compare", str(found.parent), file]) == 2  # a folder without one


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    answer = said(capsys, "list")
    assert list(answer) == [*KINDS, "models"]
    assert {"eap", "eap_ig", "random"} <= set(answer["discovery"])
    assert {"ioi", "greater_than", "induction", "from_file"} <= set(answer["tasks"])
    assert set(circuitkit.list_models()) <= set(answer["models"])
    assert answer["discovery"]["eap_ig"]["settings"]["steps"] == "5"
    assert answer["corruptions"]["noise"]["settings"]["draws"] == "1"
    for entries in answer.values():
        assert all(entry["description"].endswith(".") for entry in entries.values())


@pytest.mark.parametrize("kind", [*KINDS, "models"])
def test_list_of_one_kind_names_that_kind_alone(
    capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    assert list(said(capsys, "list", kind)) == [kind]
    assert main(["list", kind]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first == kind
    assert all(line.startswith("  ") for line in others)


def test_the_architectures_that_are_listed_are_those_that_are_tested() -> None:
    source = Path(__file__).with_name("families.py").read_text(encoding="utf-8")
    tested = re.findall(r'_hf\(\s*"(\w+?)(?:LMHeadModel|ForCausalLM)"', source)
    assert sorted(ARCHITECTURES) == sorted(set(tested))


def folder_for(*arguments: str) -> str:
    options = build_parser().parse_args(arguments)
    return str(default_place(options, "circuits").relative_to("circuits"))


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["ioi"], "ioi-mini"),
        (["ioi", "--seed", "0"], "ioi-mini"),
        (["ioi", "--method", "eap", "--corruption", "zero", "--seed", "1"],
         "ioi-mini-eap-zero-seed1"),
        (["ioi", "--method", "eap_ig(steps=10)", "--metric", "a/mine.py:rank", "--rule", "signed"],
         "ioi-mini-eap_ig-steps10-rank-signed"),
        (["ioi(corrupt='names')", "--corruption", "noise(at='S2', draws=4)"],
         "ioi-corrupt-names-mini-noise-at-S2-draws4"),
        (["ioi", "--edges", "20", "--examples", "8", "--dtype", "bfloat16"],
         "ioi-mini-bfloat16-edges20-examples8"),
        (["ioi", "--faithfulness", "0.9", "--experts", "held"],
         "ioi-mini-experts-held-faithfulness0.9"),
        (["a/pairs.csv", "--columns", "clean=a b,corrupt=c"],
         "pairs-mini-columns-clean-a-b-corrupt-c"),
        (["-", "--model", "a/b/c d"], "stdin-c-d"),
        (["a/mine.py:own(n=3)"], "own-n3-mini"),
        (["ioi", "--device", "cpu", "--batch-size", "4", "--quiet", "--log", "x"], "ioi-mini"),
    ],
)  # fmt: skip
def test_a_default_folder_is_called_as_what_is_done(arguments: list[str], folder: str) -> None:
    assert folder_for("discover", *arguments) == folder


def test_what_is_taken_anyway_is_not_in_the_name_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    usual = ["--method", "eap_ig", "--rule", "abs", "--edges", "10", "--examples", "2", "--quiet"]
    assert main(["discover", "ioi", *usual]) == 0
    assert [path.name for path in (tmp_path / "circuits").iterdir()] == [
        "ioi-mini-edges10-examples2"
    ]


def test_default_folders_of_studies_and_long_names_are_legal_and_differ() -> None:
    several = ["--metric", "kl", "--metric", "top1", "--both-ways", "--group", "x=a0.h1,a0.h2"]
    assert folder_for("study", "ioi", *several) == "ioi-mini-kl-top1-group-x-a0.h1-a0.h2-both-ways"
    names = {folder_for("study", "ioi", "--metric", f"{'x' * 300}.{n}") for n in range(3)}
    assert len(names) == 3
    assert max(map(len, names)) < 120
    assert folder_for("study", "ioi", "--circuits", "none") == "ioi-mini-circuits-none"
    assert folder_for("study", "ioi", "--windows", "0") == "ioi-mini-windows-none"


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        ([], "bench"),
        (["--quick"], "bench-quick"),
        (["eap", "eap_ig(steps=10)", "--model", "mini:ioi", "--seeds", "2"],
         "bench-eap-eap_ig-steps10-mini-ioi-seeds2"),
    ],
)  # fmt: skip
def test_a_benchmark_goes_to_a_folder_called_as_its_settings(
    arguments: list[str], folder: str
) -> None:
    assert legal_name(build_parser().parse_args(["bench", *arguments]), "bench") == folder


@pytest.mark.parametrize("columns", [None, 30, 70, 80, 120])
def test_a_description_is_listed_whole_and_no_wider_than_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int | None
) -> None:
    if columns:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    told = " ".join(out.split())
    for kind in KINDS:
        for name, text in describe(kind).items():
            assert f"{name} {' '.join(text.replace('``', '').split())}" in told
    for model in circuitkit.list_models():
        assert f" {model} " in told
    assert max(map(len, out.splitlines())) <= max(columns or 80, 36)


def test_task_show_gives_prompts_and_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task", "show", "ioi", "--examples", "8"]) == 0
    out = capsys.readouterr().out
    for word in ("accuracy", "clean", "corrupt", "S2", "IO", "end"):
        assert word in out


def test_check_proves_the_embedded_model(capsys: pytest.CaptureFixture[str]) -> None:
    answer = said(capsys, "check", "mini")
    assert answer["holds"]
    assert len(answer["statements"]) >= 5


def test_prompts_of_a_file_become_a_circuit(tmp_path: Path) -> None:
    from circuitkit.data.tokens import TokenizerView
    from circuitkit.models.loading import load
    from circuitkit.tasks import ioi

    task = ioi(TokenizerView(load("mini").tokenizer), n=16, seed=5)
    rows = [
        {"clean": p.clean, "corrupt": p.corrupt, "correct": list(p.correct), "wrong": list(p.wrong)}
        for p in task.prompts
    ]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(map(json.dumps, rows)))
    arguments = ["discover", str(pairs), "--edges", "20", "-o", str(tmp_path / "out"), *TINY]
    assert main(arguments) == 0
    assert list(circuits.edges(circuits.Circuit.load(tmp_path / "out" / "circuit.json")))


BAD = [
    (["discover", "iio"], "did you mean 'ioi'"),
    (["discover", "ioi", "--method", "eap_gi"], "did you mean 'eap_ig'"),
    (["discover", "ioi", "--method", "eap_ig(step=3)"], "did you mean 'steps'"),
    (["discover", "ioi", "--metric", "logit_dif"], "did you mean 'logit_diff'"),
    (["discover", "ioi", "--corruption", "zeroes"], "did you mean 'zero'"),
    (["discover", "ioi", "--method", "eap", "--metric", "kl", *TINY], "eap_ig"),
    (["discover", "ioi", "--metric", "accuracy", *TINY], "no gradient"),
    (["discover", "ioi", "--model", "./nowhere/at/all"], "no directory"),
    (["discover", "ioi", "--device", "cuda:77"], "cuda:77"),
    (["discover", "ioi", "--dtype", "float31"], "float31"),
    (
        ["discover", "ioi", "--faithfulness", "1e9", *TINY],
        "=1000000000.0; give a number above 0",
    ),
    (["discover", "ioi", "--memory", "3parsecs"], "parsecs"),
    (["discover", "nowhere.csv"], "nowhere.csv"),
    (["study", "iio"], "did you mean 'ioi'"),
    (["study", "ioi", "--metric", "logit_dif"], "did you mean 'logit_diff'"),
    (["study", "ioi", "--reference", "ioi:wang2032"], "did you mean 'ioi:wang2022'"),
    (["study", "ioi", "--corruption", "noise(drws=4)"], "did you mean 'draws'"),
    (["evaluate", "nowhere.json"], "no file"),
    (["knockout", "nowhere.json"], "no file"),
    (["draw", "nowhere.json", "-o", "x.svg"], "no file"),
    (["compare", "nowhere.json", "nowhere.json"], "no file"),
    (["fetch", "smollm3"], "smollm"),
]


@pytest.mark.parametrize(("arguments", "remedy"), BAD, ids=lambda x: " ".join(x)[:50])
def test_a_mistake_is_one_sentence_with_exit_code_two(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], remedy: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("circuitkit: ")
    assert captured.err.count("\n") == 1
    assert remedy in captured.err
    assert not list(tmp_path.rglob("circuit*"))


def test_an_unwritable_output_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file where the directory should be")
    place = tmp_path / "taken" / "out"
    assert main(["discover", "ioi", "--edges", "20", "-o", str(place), *TINY]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_a_task_that_the_model_cannot_do_is_refused_unless_forced(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from circuitkit.data.tokens import TokenizerView
    from circuitkit.models.loading import load
    from circuitkit.tasks import ioi

    prompts = ioi(TokenizerView(load("mini").tokenizer), n=16, seed=5).prompts
    rows = [{"clean": p.clean, "corrupt": p.corrupt, "correct": p.wrong, "wrong": p.correct}
            for p in prompts]  # fmt: skip
    pairs = tmp_path / "backwards.jsonl"
    pairs.write_text("\n".join(map(json.dumps, rows)))
    arguments = ["discover", str(pairs), "--edges", "20", "-o", str(tmp_path / "out"), *TINY]
    assert main(arguments) == 2
    assert "force" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [["--help"], ["discover", "--help"], ["list"], ["discover", "iio"],
                  ["draw", "CIRCUIT", "-o", "OUT.svg"], ["compare", "CIRCUIT", "CIRCUIT"]],
    ids=lambda x: x[0],
)  # fmt: skip
def test_what_needs_no_model_never_imports_torch(
    found: Path, tmp_path: Path, arguments: list[str]
) -> None:
    real = {"CIRCUIT": str(found / "circuit.json"), "OUT.svg": str(tmp_path / "o.svg")}
    given = [real.get(a, a) for a in arguments]
    code = (
        "import sys\nfrom circuitkit.cli.main import main\n"
        f"try:\n    main({given!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'transformer_lens'} & set(sys.modules)\n"
        "sys.exit(3 if heavy else 0)"
    )
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout or result.stderr


@pytest.mark.parametrize("key", ["metric", "corruption", "task"])
@pytest.mark.parametrize("command", ["evaluate", "knockout"])
def test_code_that_a_file_names_is_not_run(
    found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, key: str
) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nrank = print\n")
    circuit = circuits.Circuit.load(found / "circuit.json")
    circuit.graph[key] = f"{tmp_path / 'evil.py'}:rank"
    received = circuits.write_whole(tmp_path / "received.json", circuits.to_json(circuit))
    assert main([command, str(received)]) == 2
    assert f"give --{key}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", ["IOI", "ioi"])
def test_the_case_of_a_task_does_not_matter(capsys: pytest.CaptureFixture[str], task: str) -> None:
    answer = said(capsys, "task", "show", task, "--examples", "4")
    assert answer["task"] == "ioi"


def test_a_file_of_prompts_may_be_called_in_capitals(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    prompts = circuitkit.make_task("ioi", circuitkit.load("mini"), 2)
    prompts.to_frame().to_csv(tmp_path / "MINE.CSV", index=False)
    answer = said(capsys, "task", "show", str(tmp_path / "MINE.CSV"), "--examples", "2")
    assert answer["task"] == f"from_file(path={str(tmp_path / 'MINE.CSV')!r})"


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_that_nobody_foresaw_asks_for_a_report(
    debug: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("circuitkit.graph.compare.compare", broken)
    argv = ["compare", "ioi:acdc", "ioi:eap_ig", *["--debug"] * debug]
    assert main(argv) == 3
    said = capsys.readouterr().err
    assert ("Traceback" in said) is debug
    last = said.splitlines()[-1]
    assert "ZeroDivisionError: division by zero" in last
    assert "report it" in last
    assert debug or len(said.splitlines()) == 1


def test_a_mistake_shows_its_traceback_where_that_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["compare", "nothing.json", "ioi:acdc", "--debug"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("circuitkit: ")
