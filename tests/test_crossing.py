"""Circuits on each other's tasks: every cell is an evaluation, the diagonal that of one's own."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import dataset, model
from scipy import stats

import circuitkit as ck
from circuitkit.cli.main import main
from circuitkit.engine.inputs import as_data
from circuitkit.errors import ArgumentError, CircuitError, OutputError
from circuitkit.graph.circuit import Circuit
from circuitkit.workflows.cross_result import Cross

FEW = ["--examples", "4", "--batch-size", "2", "--threads", "1", "--quiet"]


@pytest.fixture(scope="module")
def mini() -> Any:
    return ck.load("mini")


@pytest.fixture(scope="module")
def circuits(mini: Any) -> dict[str, Circuit]:
    found = {}
    for task, size in (("ioi", 30), ("induction", 40)):
        found[task] = ck.discovery.eap(mini, ck.make_task(task, mini, n=6)).top(size)
    return found


@pytest.fixture(scope="module")
def found(mini: Any, circuits: dict[str, Circuit]) -> Cross:
    return ck.cross(mini, circuits, examples=5)


def same(one: Any, other: Any) -> None:
    for row in ("everything", "nothing", "circuit"):
        np.testing.assert_allclose(getattr(one, row), getattr(other, row), atol=1e-5)
    assert (one.metric, one.corruption, one.edges) == (other.metric, other.corruption, other.edges)


def test_the_diagonal_is_what_evaluate_gives(
    mini: Any, circuits: dict[str, Circuit], found: Cross
) -> None:
    for task, circuit in circuits.items():
        data = as_data(mini, task, circuit, examples=5)
        same(found.evaluations[task, task], ck.evaluate(mini, circuit, data))


def test_every_cell_is_the_evaluation_of_its_circuit_or_union() -> None:
    own = model("gpt2")
    named = {name: ck.discovery.random(own, dataset(), seed=seed).top(9)
             for seed, name in enumerate("abc")}  # fmt: skip
    data = {name: dataset(batch_size=size) for size, name in enumerate("abc", start=1)}
    found = ck.cross(own, named, data, "logit_diff", "zero", random=0)
    assert found.tasks == (*"abc",)
    assert found.names == ("a", "b", "c", "a | b", "a | c", "b | c")
    unions = {f"{x} | {y}": named[x] | named[y] for x, y in combinations("abc", 2)}
    for (name, circuit), task in product({**named, **unions}.items(), "abc"):
        expected = ck.evaluate(own, circuit, data[task], "logit_diff", "zero")
        same(found.evaluations[name, task], expected)
    assert found.to_frame()["random"].isna().all()
    assert len(found.to_frame()) == 18


def test_equal_circuits_are_alike_everywhere(mini: Any, circuits: dict[str, Circuit]) -> None:
    twins = {"one": circuits["ioi"], "two": circuits["ioi"]}
    found = ck.cross(mini, twins, examples=3, random=0)
    assert found.tasks == ("ioi",)  # they say the same of it
    assert len({found.faithfulness(name, "ioi") for name in found.names}) == 1
    assert found.agreement.kappa == pytest.approx(1)
    assert found.own == {"one": "ioi", "two": "ioi"}
    assert np.isnan(found.correlation[0])


def test_prompts_are_those_that_no_circuit_of_the_task_has_seen(mini: Any) -> None:
    first = ck.discovery.eap(mini, ck.make_task("ioi", mini, n=8)).top(20)
    fresh = as_data(mini, "ioi", first, examples=4)  # on which the second is found
    second = ck.discovery.eap(mini, fresh, "probability").top(20)
    second.graph["task"] = "ioi"
    found = ck.cross(mini, [first, second], examples=4, random=0)
    assert found.tasks == ("ioi 1", "ioi 2")  # other metrics
    assert found.evaluations["ioi 1", "ioi 2"].metric == "probability"
    unseen = as_data(mini, "ioi", [first, second], examples=4)
    marks = [{example.fingerprint for example in data.examples} for data in (fresh, unseen)]
    assert not marks[0] & marks[1]
    same(found.evaluations["ioi 1", "ioi 1"], ck.evaluate(mini, first, unseen))


def test_random_circuits_of_the_same_size_stand_beside(mini: Any, found: Cross) -> None:
    data = as_data(mini, "ioi", found.circuits["ioi"], examples=5)
    drawn = ck.evaluate(mini, ck.random_masks(mini, 30, n=3), data)
    expected = np.mean([one.faithfulness for one in drawn])
    assert found.random["ioi", "ioi"] == pytest.approx(expected, abs=1e-5)


# -- as tables and files ---------------------------------------------------------------------------
def test_the_tables_say_the_same(found: Cross) -> None:
    frame = found.to_frame().set_index(["circuit", "task"])
    for cell, one in found.evaluations.items():
        assert frame.loc[cell]["faithfulness"] == one.faithfulness == found.faithfulness(*cell)
        assert frame.loc[cell]["edges"] == one.edges
        assert frame.loc[cell]["own"] == (cell[1] in cell[0])
    (pair,) = found.overlap()
    both = ck.compare(*found.circuits.values()).edges
    assert (pair["both"], pair["kappa"]) == (both.both, found.agreement.kappas[0])
    assert pair["kappa"] == pytest.approx(found.agreement.kappa, abs=0.03)
    assert (pair["left_in_right"], pair["right_in_left"]) == (both.precision, both.recall)
    plot = found.plot()
    assert (plot.marked == frame["own"].to_numpy().reshape(3, 2)).all()
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["tasks"] == ["ioi", "induction"]


def test_faithfulness_elsewhere_is_set_beside_what_is_held(mini: Any, found: Cross) -> None:
    third: dict[str, Circuit] = {
        **found.circuits,
        "mixed": found.circuits["ioi"] | found.circuits["induction"],
    }
    cells = dict(found.evaluations)
    for number, task in enumerate(("ioi", "induction", "mixed")):
        for name in third:
            values = np.array([1.0, number, len(name)])
            cells[name, task] = replace(
                found.evaluations["ioi", "ioi"], everything=values + 1, nothing=values * 0,
                circuit=values,
            )  # fmt: skip
    every = Cross("mini", third, {name: name for name in third}, cells, {})
    held, faithful = [], []
    for name, task in product(third, third):
        if name != task:
            held.append(ck.compare(third[name], third[task]).edges.recall)
            faithful.append(every.faithfulness(name, task))
    expected = stats.spearmanr(held, faithful).statistic
    assert every.correlation == (pytest.approx(float(expected)), 6)
    assert f"rank correlation {found.correlation[0]:.2f}" not in repr(found)  # of two pairs


def test_it_saves_a_table_and_a_heat_map(found: Cross, tmp_path: Path) -> None:
    written = found.save(tmp_path / "run")
    assert [path.name for path in written] == ["cross.csv", "overlap.csv", "cross.svg"]
    assert "faithfulness" in written[0].read_text()
    assert "found on this task" in written[2].read_text()
    with pytest.raises(OutputError, match="overwrite=True"):
        found.save(tmp_path / "run")
    assert found.save(tmp_path / "run", overwrite=True) == written
    assert "\n" not in str(found)
    assert str(found) in repr(found)
    assert "random circuits" in repr(found)


# -- what is refused -------------------------------------------------------------------------------
@pytest.mark.unchecked
def test_what_cannot_be_crossed_is_refused(mini: Any, circuits: dict[str, Circuit]) -> None:
    ioi, other = circuits["ioi"], circuits["induction"]
    bare = Circuit(ioi)
    del bare.graph["task"]
    code = Circuit(ioi)
    code.graph["task"] = "mine.py:task"
    for given, error, words in (
        ([ioi], CircuitError, "at least two"),
        ("ioi:acdc", ArgumentError, "cross has circuits='ioi:acdc'"),
        ([ioi, bare], ArgumentError, "does not say its task; give its prompts"),
        ([ioi, code], ArgumentError, "says that its task is 'mine.py:task'"),
        ([ioi, "ioi:acdc"], CircuitError, "belongs to a model of 12 layers"),
        ([ioi, 3], CircuitError, "int is not a circuit"),
    ):
        with pytest.raises(error, match=words) as caught:
            ck.cross(mini, given)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    with pytest.raises(ArgumentError, match="data names 'facts'"):
        ck.cross(mini, {"ioi": ioi, "induction": other}, {"facts": "facts"})


# -- the command -----------------------------------------------------------------------------------
@pytest.fixture
def files(circuits: dict[str, Circuit], tmp_path: Path) -> list[str]:
    return [str(circuit.save(tmp_path / f"{name}.json")) for name, circuit in circuits.items()]


@pytest.mark.weekly
def test_shards_of_a_cross_merge_to_what_one_run_gives(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["cross", *files, *FEW, "-o"]
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    capsys.readouterr()
    for index in (0, 1):
        assert main([*arguments, str(tmp_path / "parts"), "--shard", f"{index}/2"]) == 0
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [".unfinished"]
    assert main(["merge", str(tmp_path / "parts")]) == 0
    assert "induction | " not in capsys.readouterr().out
    for path in (tmp_path / "whole").iterdir():
        if path.suffix == ".csv":
            assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes()


def test_a_killed_cross_goes_on(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from circuitkit.engine.checkpoints import Journal

    put, done = Journal.put, [0]

    def counted(*given: Any) -> None:
        done[0] += 1
        if done[0] == 3:
            raise KeyboardInterrupt
        put(*given)

    monkeypatch.setattr(Journal, "put", counted)
    arguments = ["cross", *files, *FEW, "-o", str(tmp_path / "run")]
    assert main(arguments) == 130
    assert main(arguments) == 0
    assert done[0] == 3 + 2  # two batches of each of two tasks, of which two were finished
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "cross.csv", "overlap.csv", "cross.svg"
    }  # fmt: skip


def test_circuits_of_one_task_are_called_by_their_files_and_need_one_model(
    circuits: dict[str, Circuit], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, of in (("a", "mini"), ("b", "tuned")):
        (tmp_path / name).mkdir()
        circuit = Circuit(circuits["ioi"])
        circuit.graph["model"] = of
        circuit.save(tmp_path / name / "circuit.json")
    given = [str(tmp_path / name) for name in ("a", "b")]
    arguments = ["cross", *given, *FEW, "-o", str(tmp_path / "run")]
    assert main(arguments) == 2
    assert "different models (mini, tuned); name one (--model)" in capsys.readouterr().err
    assert main([*arguments, "--model", "mini"]) == 0
    assert "a | b" in capsys.readouterr().out
    union = str((circuits["ioi"] | circuits["induction"]).save(tmp_path / "union.json"))
    assert main(["cross", given[0], union, *FEW]) == 2
    assert "union.json' does not say its task; cross circuits" in capsys.readouterr().err
    assert main(["cross", given[0], given[0], *FEW]) == 2
    assert "two circuits have one name (a, a)" in capsys.readouterr().err
