"""What every command prints and writes, wherever that goes: terminals without our signs, closed
pipes, full disks, folders that cannot be written, and folders that hold another run."""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from coders import random_coders

import circuitkit as ck
from circuitkit.cli._streams import Stream
from circuitkit.cli.main import COMMANDS, build_parser, main
from circuitkit.workflows.folders import RUNS

pytestmark = pytest.mark.usefixtures("blank_figures")

TINY = ["--examples", "8", "--batch-size", "8", "--quiet"]
DISCOVER = ["discover", "ioi", "--method", "eap", "--edges", "20", *TINY]
STUDY = ["study", "ioi", "--windows", "0", "--circuits", "none", "--metric", "logit_diff",
         "--corruption", "counterfactual", *TINY]  # fmt: skip
BENCH = ["bench", "eap", "--model", "reverse", "--corruption", "counterfactual", "--seeds", "1",
         "--examples", "4", "--quiet"]  # fmt: skip
TRACK = ["track", "ioi", "--models", "a=mini", "b=mini", "--method", "eap", "--edges", "20",
         "--corruption", "counterfactual", *TINY]  # fmt: skip
CROSS = ["cross", "run/circuit.json", "other.json", *TINY]
CLUSTERS = ["clusters", "ioi", "--method", "eap", "--edges", "20", "--number", "2", *TINY]
TRAIN = ["train-dictionary", "ioi", "--layers", "0", "--features", "32", "--k", "4", "--steps", "3",
         "--batch", "32", *TINY]  # fmt: skip
TRACE = ["trace", "Anna and Paul met", "--dictionaries", "coders", "--changed", "2", "--quiet"]
CURVE = ["evaluate", "run/circuit.json", "--curve", *TINY]
DRAW = ["draw", "run/circuit.json"]
VIEW = ["view", "docstring:acdc"]
# The cheapest arguments of each command, and of those that write, without the place.
READING = {
    "evaluating": ["evaluate", "run/circuit.json", "--complement", "random", *TINY],
    "testing": ["test", "run", "--random", "9", "--edges", "2", "--sizes", "0", *TINY],
    "replaying": ["replay", "run/circuit.json", "--quiet"],
    "cutting": ["knockout", "run/circuit.json", "--pairs", "2", "--subsets", "1", *TINY],
    "merging": ["merge", "blocks", "--quiet"],
    "comparing": ["compare", "run/circuit.json", "run/circuit.json"],
    "listing": ["list"],
    "prompting": ["task", "show", "ioi", "--examples", "4"],
    "checking": ["check", "mini"],
    "citing": ["cite", "run"],
    "featuring": [
        "features",
        "show",
        "m0.f3",
        "--dictionaries",
        "trained",
        "--examples",
        "8",
        "--quiet",
    ],
    "fetching": ["fetch", "smollm2-135m"],
}
FOLDERS = {"discovering": DISCOVER, "studying": STUDY, "benching": BENCH, "tracking": TRACK,
           "crossing": CROSS, "clustering": CLUSTERS, "dictionaries": TRAIN,
           "tracing": TRACE}  # fmt: skip
FILES = {"drawing": DRAW, "viewing": VIEW, "evaluating": CURVE}
WRITING = {**FOLDERS, **FILES}
UNWRITABLE = ["taken/out", "/dev/null/x", "/proc/x", "n" * 300, "taken/a/b/c"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished run of each kind, and a model that has been fetched."""
    place = tmp_path_factory.mktemp("finished")
    for name, arguments in (
        ("run", DISCOVER),
        ("study", STUDY),
        ("bench", BENCH),
        ("trained", TRAIN),
    ):
        assert main([*arguments, "-o", str(place / name)]) == 0
    blocks = ["--resume", str(place / "blocks"), "--shard", "0/1"]
    assert main(["evaluate", str(place / "run/circuit.json"), *TINY, *blocks]) == 0
    shutil.copy(place / "run/circuit.json", place / "other.json")
    (place / "taken").write_text("a file")
    random_coders(place / "coders")
    model = place / "cache" / "smollm2-135m"
    model.mkdir(parents=True)
    (model / "config.json").touch()
    (model / "model.safetensors").touch()
    return place


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it as the folder at hand."""
    shutil.copytree(finished, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("CIRCUITKIT_CACHE", str(tmp_path / "here" / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / "here"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], *words: str) -> str:
    """What the command says when it refuses: one sentence, on stderr alone, with these words."""
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("circuitkit: ")
    assert said.err.count("\n") == 1
    for word in words:
        assert word in said.err
    return said.err


def printed(monkeypatch: pytest.MonkeyPatch, arguments: list[str], encoding: str) -> str:
    """What the command prints on a terminal of this encoding that refuses other signs."""
    out, err = io.BytesIO(), io.BytesIO()
    for name, held in (("stdout", out), ("stderr", err)):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(held, encoding=encoding, errors="strict"))
    assert main(arguments) == 0, err.getvalue()
    return out.getvalue().decode(encoding)


def test_every_command_is_tried() -> None:
    modules = {module.__name__.rpartition(".")[2] for module in COMMANDS}
    assert modules == {*READING, *WRITING}


# -- terminals -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*READING, *FOLDERS, "drawing"])
def test_every_command_prints_ascii_within_80_columns(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    arguments = READING.get(name) or [*WRITING[name], "-o", "x.svg"]
    text = printed(monkeypatch, arguments, "ascii")
    assert text.strip()
    if name != "fetching":  # which prints a path
        assert max(map(len, text.splitlines())) <= 80
    assert "\\x" not in text
    assert "\\u" not in text


def test_signs_that_a_terminal_does_not_have_become_ascii() -> None:
    text = "a → b, −1 ± 2, C∖K: Σ|w| – é \udc80"
    shown = {}
    for encoding in ("ascii", "cp1252", "utf-8"):
        held = io.BytesIO()
        stream = Stream(io.TextIOWrapper(held, encoding=encoding, errors="strict"), "stdout", [])
        print(text, file=stream)  # type: ignore[call-overload]
        stream.flush()
        shown[encoding] = held.getvalue().decode(encoding)
    assert shown == {
        "ascii": "a -> b, -1 +- 2, C\\K: sum|w| - \\xe9 \\udc80\n",
        "cp1252": "a -> b, -1 ± 2, C\\K: sum|w| – é \\udc80\n",
        "utf-8": text.replace("\udc80", "\\udc80") + "\n",
    }


def test_json_on_any_terminal_has_the_same_values(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for encoding in ("ascii", "utf-8", "cp1252"):
        with monkeypatch.context() as patched:
            text = printed(patched, [*DRAW, "-o", "é→.csv", "--json"], encoding)
        assert json.loads(text) == {"file": "é→.csv"}


def test_long_names_are_folded_between_words(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ck.make_task("ioi", ck.load("mini"), 16).to_frame()
    rows.to_csv(f"{'long name ' * 8}.csv", index=False)
    asked = ["discover", f"{'long name ' * 8}.csv", "--method", "eap", "--edges", "9", "--quiet",
             "--corruption", "noise(multiple=3.25, draws=1, seed=123456)"]  # fmt: skip
    lines = printed(monkeypatch, asked, "ascii").splitlines()
    assert all(len(line) <= 80 or " " not in line.strip() for line in lines)


def actions(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every option of every command, with its parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for own, below in action.choices.items():
                yield from actions(below, f"{name} {own}")
        elif name:
            yield name, parser, action


def test_every_option_says_what_it_does_and_its_default() -> None:
    for name, _, action in actions(build_parser()):
        option = f"{name} {'/'.join(action.option_strings) or action.dest}"
        assert action.help, option
        assert action.help is not argparse.SUPPRESS, option
        if action.default not in (None, False, [], argparse.SUPPRESS):
            assert "default" in action.help, option
            assert str(action.default).removesuffix(".0") in action.help, option


def test_every_page_of_help_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    pages = [
        build_parser(),
        *{id(parser): parser for _, parser, _ in actions(build_parser())}.values(),
    ]
    assert len(pages) > len(COMMANDS)
    for page in pages:
        assert max(map(len, page.format_help().splitlines())) <= 80


# -- pipes and full disks --------------------------------------------------------------------------
def test_a_pipe_that_nobody_reads_ends_quietly(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (READING["listing"], READING["comparing"], ["list", "--json"]):
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "w") as pipe:
            monkeypatch.setattr(sys, "stdout", pipe)
            monkeypatch.setattr(sys, "stderr", errors := io.StringIO())
            assert main(arguments) == 0
        assert errors.getvalue() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_a_full_disk_behind_stdout_is_one_sentence(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in (READING["listing"], [*DISCOVER, "-o", "new"]):
        with open("/dev/full", "w") as full:
            monkeypatch.setattr(sys, "stdout", full)
            monkeypatch.setattr(sys, "stderr", errors := io.StringIO())
            assert main(arguments) == 2
        assert (
            errors.getvalue() == "circuitkit: stdout cannot be written: No space left on device\n"
        )
    assert ck.Circuit.load("new/circuit.json").heads


def test_without_a_stdout_a_command_does_its_work(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main([*DRAW, "-o", "x.svg"]) == 0
    assert Path("x.svg").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_a_device_is_written_to_and_not_replaced(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, [*DRAW, "-o", "/dev/full", "--format", "svg"], "No space left", "/dev/full")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert main([*DRAW, "-o", "/dev/null", "--format", "csv"]) == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def fill_up(monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> None:
    """Let the disk be full when a file of this name is put into its place, the so-manieth time."""
    replace, met = os.replace, []

    def full(source: Any, target: Any) -> None:
        if Path(target).name == name:
            met.append(target)
            if len(met) >= times:
                raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)


@pytest.mark.parametrize(
    ("name", "arguments", "folder", "file", "times"),
    [
        ("discovering", DISCOVER, "run", "circuit.svg", 1),
        ("discovering", DISCOVER, "run", "circuit.svg", 2),
        ("studying", STUDY, "study", "effects.csv", 1),
        pytest.param("studying", STUDY, "study", "report.html", 2, marks=pytest.mark.weekly),
        pytest.param("benching", BENCH, "bench", "rows.csv", 1, marks=pytest.mark.weekly),
        ("crossing", CROSS, "crossed", "cross.svg", 1),
    ],
)
def test_a_full_disk_loses_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    name: str, arguments: list[str], folder: str, file: str, times: int,
) -> None:  # fmt: skip
    before = contents(here / folder)
    fill_up(monkeypatch, file, times)
    refused(capsys, [*arguments, "-o", folder, "--overwrite"], "No space left", repr(folder))
    after = contents(here / folder)
    kept = {path: held for path, held in after.items() if path in RUNS[_kind(name)]}
    assert kept == {path: held for path, held in before.items() if path in kept}
    assert not {path for path in after if ".new" in path or ".past" in path or ".part" in path}


def _kind(name: str) -> str:
    kinds = {"studying": "study", "benching": "benchmark", "crossing": "cross"}
    return kinds.get(name, "discovery")


@pytest.mark.parametrize("name", FILES)
def test_a_full_disk_keeps_the_earlier_file(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    Path("x.svg").write_text("earlier")
    fill_up(monkeypatch, "x.svg", 1)
    refused(capsys, [*FILES[name], "-o", "x.svg"], "No space left", "'x.svg'")
    assert Path("x.svg").read_text() == "earlier"
    assert not list(here.glob(".*"))


@pytest.mark.parametrize("place", UNWRITABLE)
@pytest.mark.parametrize("name", WRITING)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    name: str, place: str,
) -> None:  # fmt: skip
    def loaded(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("circuitkit.models.loading.load", loaded)
    place = f"{place}/x.svg" if name in FILES and not place.startswith("n") else place
    before = contents(here)
    form = ["--format", "svg"] if name == "drawing" else []
    refused(capsys, [*WRITING[name], "-o", place, *form], "cannot be written")
    assert contents(here) == before
    refused(capsys, ["compare", "ioi:acdc", "ioi:acdc", "--log", place], "cannot be written")


def test_a_suffix_that_is_no_picture_is_refused_before_the_work(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("circuitkit.cli.evaluating.unseen", None)
    refused(capsys, [*CURVE, "-o", "curve.gif"], "'curve.gif'", ".svg")
    refused(capsys, [*DRAW, "-o", "circuit.gif"], "gif")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
@pytest.mark.parametrize("name", WRITING)
def test_a_folder_without_permission_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    Path("closed").mkdir(mode=0o555)
    place = "closed/x.svg" if name in FILES else "closed"
    refused(capsys, [*WRITING[name], "-o", place], "cannot be written")


def test_a_cache_that_cannot_be_written_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("circuitkit.models.fetching._require_gguf", lambda name: None)
    monkeypatch.setenv("CIRCUITKIT_CACHE", str(here / "taken" / "cache"))
    refused(capsys, ["fetch", "smollm2-135m"], "cannot be stored")


# -- folders that hold a run -----------------------------------------------------------------------
@pytest.mark.parametrize("folder", ["run", "study", "bench"])
@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_with_a_finished_run_is_refused_and_left_as_it_was(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    name: str, folder: str,
) -> None:  # fmt: skip
    before = contents(here)
    arguments = [one if one != "counterfactual" else "zero" for one in FOLDERS[name]]
    main_file = {"run": "circuit.json", "study": "report.html", "bench": "summary.md"}[folder]
    refused(capsys, [*arguments, "-o", folder], repr(folder), main_file, "-o", "--overwrite")
    assert contents(here) == before


@pytest.mark.parametrize("folder", ["run", "study", "bench"])
def test_what_is_overwritten_leaves_nothing_behind(here: Path, folder: str) -> None:
    Path(folder, "notes.txt").write_text("mine")
    Path(folder, "verification.csv").write_text("of an earlier run")
    assert main([*DISCOVER, "-o", folder, "--overwrite"]) == 0
    left = {path.name for path in Path(folder).iterdir()}
    assert left - {"cells"} == {*RUNS["discovery"]} - {
        "verification.csv",
        "features.csv",
        "supernodes.csv",
    } | {"notes.txt"}
    assert ck.Circuit.load(f"{folder}/circuit.json").graph["method"] == "eap"


@pytest.mark.parametrize("kind", ["discovery", "study", "clusters", "benchmark"])
def test_save_refuses_another_run_and_replaces_it_where_that_is_asked_for(
    tmp_path: Path, kind: str
) -> None:
    model = ck.load("mini")
    found: Any = {
        "discovery": lambda: ck.discover(model, "ioi", method="eap", edges=9, examples=4),
        "study": lambda: ck.study(model, "ioi", ("logit_diff",), ("zero",), windows=(),
                                  circuits=(), examples=8),
        "clusters": lambda: ck.clusters(model, "ioi", method="eap", edges=9, examples=4, number=2),
        "benchmark": lambda: ck.bench(["random"], ["reverse"], ["zero"], seeds=1, examples=4),
    }[kind]()  # fmt: skip
    written = found.save(tmp_path / "a" / "b")
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {p.name for p in written}
    assert {path.name for path in written} <= set(RUNS[kind])
    assert written[0].name == RUNS[kind][0]
    assert all(path.is_file() for path in written)
    with pytest.raises(ck.errors.OutputError, match="overwrite=True"):
        found.save(tmp_path / "a" / "b")
    for others in RUNS.values():
        (tmp_path / "a" / "b" / others[0]).touch()
    assert found.save(tmp_path / "a" / "b", overwrite=True) == written
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {p.name for p in written}


def test_the_files_of_studies_and_benchmarks_are_all_known() -> None:
    from circuitkit.workflows.study import pictures, tables

    source = Path(pictures.__file__).read_text(encoding="utf-8")
    drawn = {name.removesuffix(".svg") for name in RUNS["study"] if name.endswith(".svg")}
    assert all(f'"{name}": _{name}' in source for name in drawn)
    assert source[source.index("def figures") :].partition("}")[0].count('": _') == len(drawn)
    source = Path(tables.__file__).read_text(encoding="utf-8")
    named = {name.removesuffix(".csv") for name in RUNS["study"] if name.endswith(".csv")}
    assert all(f'"{name}": ' in source for name in named)


def test_draw_replaces_pictures_but_no_file_of_a_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert main([*DRAW, "-o", "x.svg"]) == 0
        assert main([*DRAW, "-o", "run/mine.svg"]) == 0
    before = contents(here / "run")
    for name in ("circuit.svg", "circuit.json"):
        refused(capsys, ["draw", "ioi:acdc", "-o", f"run/{name}"], "discovery", "--overwrite")
    assert contents(here / "run") == before
    assert main([*DRAW, "-o", "run/circuit.svg", "--overwrite", "--edges", "3"]) == 0
    assert Path("run/circuit.svg").read_bytes() != before["circuit.svg"]


# -- runs that go on, and runs side by side --------------------------------------------------------
BOTH = ["bench", "random", *BENCH[1:]]
EXACT = ["discover", "ioi", "--method", "exact", "--edges", "9", "-o", "out", *TINY]


def stop(monkeypatch: pytest.MonkeyPatch, after: int) -> list[int]:
    """Let a run be interrupted after so many blocks; returns their number, which goes on."""
    from circuitkit.engine.checkpoints import Journal

    put, done = Journal.put, [0]

    def counted(*given: Any) -> None:
        done[0] += 1
        if done[0] > after:
            raise KeyboardInterrupt
        put(*given)

    monkeypatch.setattr(Journal, "put", counted)
    return done


@pytest.mark.parametrize(
    "arguments",
    [EXACT, pytest.param([*STUDY, "-o", "out"], marks=pytest.mark.weekly), [*BOTH, "-o", "out"]],
    ids=["discover", "study", "bench"],
)  # fmt: skip
def test_an_unfinished_run_goes_on_with_its_own_settings_only(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:  # fmt: skip
    with monkeypatch.context() as patched:
        done = stop(patched, 1)
        assert main(arguments) == 130
    assert not {path.name for path in Path("out").iterdir()} - {".unfinished", "cells"}
    before = contents(here / "out")
    others = [one if one != "8" else "6" for one in arguments if one != "random"]
    refused(capsys, others, "'out'", "unfinished", "methods" if "bench" in others else "examples 8")
    if arguments == EXACT:
        refused(capsys, [*STUDY, "-o", "out"], "unfinished", "discovery")
    assert contents(here / "out") == before
    with monkeypatch.context() as patched:
        done = stop(patched, 10**9)
        assert main(arguments) == 0
        first = done[0]
    assert not Path("out", ".unfinished").exists()
    with monkeypatch.context() as patched:
        done = stop(patched, 10**9)
        assert main([*arguments, "--overwrite"]) == 0
    assert done[0] == first + 1


def test_a_larger_benchmark_takes_up_the_cells_of_a_smaller_one(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = stop(monkeypatch, 10**9)
    assert main([*BENCH, "-o", "bench"]) == 0
    assert done[0] == 0
    assert main([*BOTH, "-o", "bench"]) == 0
    assert done[0] == 1
    refused(capsys, [*BENCH, "-o", "bench"], "holds a finished run")
    assert main([*BENCH, "-o", "bench", "--overwrite"]) == 0
    assert done[0] == 3, "its cell, and the truth of its model"


def test_two_runs_never_share_a_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from circuitkit.workflows.folders import claimed

    with claimed("out", "study"):
        for arguments in FOLDERS.values():
            refused(capsys, [*arguments, "-o", "out"], "another run is writing into 'out'")
            refused(capsys, [*arguments, "-o", "out", "--overwrite"], "'out'")
    assert not Path("out").exists()


def test_a_killed_run_leaves_no_lock_and_its_earlier_files(here: Path) -> None:
    code = (
        "import os, signal, circuitkit.workflows.folders as folders\n"
        "from pathlib import Path\n"
        "with folders.claimed('run', 'discovery', True, {'seed': 1}) as own:\n"
        "    with folders.filled(own, 'discovery') as new:\n"
        "        (new / 'circuit.json').write_text('half')\n"
        "        (new / 'verification.csv').write_text('half')\n"
        "        Path.rmdir = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    before = contents(here / "run")
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (here / "run" / ".lock").exists()
    assert (here / "run" / "circuit.json").read_text() == "half"
    with pytest.raises(ck.errors.OutputError, match="holds a finished run"), claimed_again("run"):
        pass
    left = contents(here / "run")
    assert {name: left[name] for name in before} == before
    assert not {*left} - {*before} - {".unfinished/run.json"}


def claimed_again(folder: str) -> Any:
    from circuitkit.workflows.folders import claimed

    return claimed(folder, "discovery")


# -- the log ---------------------------------------------------------------------------------------
def test_a_log_has_what_was_printed_the_command_and_errors(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main([*READING["comparing"], "--log", "logs/a.txt"]) == 0
    out = capsys.readouterr().out
    first = Path("logs/a.txt").read_text(encoding="utf-8")
    assert out in first
    assert "circuitkit compare run/circuit.json run/circuit.json --log logs/a.txt\n" in first
    assert ck.__version__ in first.splitlines()[0]
    assert "exit code 0" in first.splitlines()[-1]
    refused(capsys, ["compare", "gone.json", "ioi:acdc", "--log", "logs/a.txt"])
    both = Path("logs/a.txt").read_text(encoding="utf-8")
    assert both.startswith(first)
    assert "Traceback" in both
    assert "exit code 2" in both.splitlines()[-1]
    assert "circuitkit: " in both.splitlines()[-2]


def test_a_log_leaves_out_progress_bars_and_is_written_as_it_comes(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def run(options: argparse.Namespace) -> None:
        print("\rscores: 10%", end="", file=sys.stderr)
        print("\rscores: 20%", end="", file=sys.stderr)
        print("a result")
        print("\r            \r", end="", file=sys.stderr)
        print("a warning", file=sys.stderr)
        seen.append(Path("a.txt").read_text(encoding="utf-8"))
        raise KeyboardInterrupt

    monkeypatch.setattr("circuitkit.cli.comparing.compare", run)
    assert main(["compare", "a", "b", "--log", "a.txt"]) == 130
    assert seen[0].endswith("\na result\na warning\n")
    assert "%" not in seen[0]
    last = Path("a.txt").read_text(encoding="utf-8").splitlines()
    assert last[-2] == "circuitkit: interrupted"
    assert "exit code 130" in last[-1]
    assert "%" in capsys.readouterr().err


def test_an_empty_path_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([*DISCOVER, "-o", ""], [*DRAW, "-o", " "], ["list", "--log", ""]):
        assert main(arguments) == 2
        assert "the path is empty" in capsys.readouterr().err
