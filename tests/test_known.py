"""A model that solves only some of the prompts: what is refused, and what ``known`` keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import pytest

import circuitkit as ck
from circuitkit.__main__ import main
from circuitkit.errors import CircuitError, DataError, EvaluationError


@pytest.fixture(scope="module")
def model() -> Any:
    return ck.load("mini")


def half(model: Any, path: Path, n: int = 8) -> Path:
    """A file of prompts: to every second one the model gives the other answer."""
    lines = []
    for number, one in enumerate(ck.make_task("ioi", model, n).prompts):
        right, wrong = (one.correct, one.wrong)[:: -1 if number % 2 else 1]
        lines.append({"clean": one.clean, "corrupt": one.corrupt, "correct": right, "wrong": wrong})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_known_keeps_what_is_answered_and_a_replay_keeps_it_again(
    model: Any, tmp_path: Path
) -> None:
    path = half(model, tmp_path / "half.jsonl")
    with pytest.raises(EvaluationError, match=r"on 50% of 4 .* 75%; .* --known .* --force"):
        ck.discover(model, path, edges=20)
    found = ck.discover(model, path, edges=20, known=True)
    assert found.ability.accuracy == 1
    assert found.circuit.graph["known"] == found.to_dict()["known"] == {"kept": 4, "of": 8}
    assert found.circuit.graph["examples"] == len(found.evaluation.circuit) == 2
    assert "4 of 8, those that the model answers" in repr(found)
    again = ck.replay(found.circuit.save(tmp_path / "circuit.json"), model=model)
    assert again.same, repr(again)


def test_known_is_of_all_prompts_however_often_it_is_asked(model: Any, tmp_path: Path) -> None:
    data = ck.Dataset.of(ck.make_task(half(model, tmp_path / "half.jsonl"), model), model)
    once = ck.known(model, data)
    assert once.about["known"] == ck.known(model, once).about["known"] == {"kept": 4, "of": 8}
    with pytest.raises(EvaluationError, match="on none of"):
        ck.discover(model, data.where(lambda e: e not in once.examples), edges=5, known=True)


def test_more_prompts_than_a_replay_draws_are_refused(model: Any, tmp_path: Path) -> None:
    path = half(model, tmp_path / "half.jsonl")
    circuit = ck.discover(model, path, edges=9, known=True, method="eap").circuit
    circuit.graph["known"] = {"kept": 4, "of": 10**6}
    with pytest.raises(CircuitError, match=r"known\.of is 1e"):
        ck.replay(circuit, model=model)
    circuit.graph["known"] = "all"
    with pytest.raises(CircuitError, match="kept and of"):
        circuit.save(tmp_path / "circuit.json")


def test_the_command_keeps_known_prompts(model: Any, tmp_path: Path, capsys: Any) -> None:
    path, place = half(model, tmp_path / "half.jsonl"), str(tmp_path / "found")
    asked = ["discover", str(path), "--edges", "20", "--method", "eap", "-o", place, "--quiet"]
    assert main([*asked, "--known", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["known"] == {"kept": 4, "of": 8}
    assert main(["evaluate", f"{place}/circuit.json", "--task", "ioi", "--known", "--quiet",
                 "--examples", "4"]) == 0  # fmt: skip
    assert "4 of 4, known ones, prompts of ioi" in capsys.readouterr().out
    assert main(asked) == 2


def test_what_the_model_says_without_a_corrupted_text_is_not_known(model: Any) -> None:
    paired = ck.make_task("ioi", model, 3).prompts
    prompts = [replace(paired[0], corrupt=None, corruptions={}), *paired[1:]]
    found = ck.ability(model, prompts)
    assert isnan(found.corrupt)
    assert found.to_dict()["corrupt"] is None
    assert "not known on corrupted prompts" in repr(found)
    assert found.clean == pytest.approx(ck.ability(model, paired).clean)


def test_prompts_without_a_corrupted_text_are_shown_and_counted(
    model: Any, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "bare.csv"
    one, two = ck.make_task("ioi", model, 2).prompts
    rows = [(p.clean, corrupt, *p.correct, *p.wrong)
            for p, corrupt in ((one, one.corrupt), (two, ""))]  # fmt: skip
    lines = "".join(";".join(row) + "\n" for row in rows)
    path.write_text(f"clean;corrupt;correct;wrong\n{lines}")
    assert main(["task", "show", str(path), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["corrupt"] is None
    said = r"1 of 2 prompts have no corrupted text \('.*' is one\).*; give them one, or use zero"
    with pytest.raises(DataError, match=said):
        ck.evaluate(model, model.wiring.legal, path)
    assert ck.evaluate(model, model.wiring.legal, path, None, "zero").faithfulness > 0.99
