"""Results of the workflows: a line, a table, a picture, files; and what is marked in sample."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import circuitkit as ck
from circuitkit.cli.main import main
from circuitkit.errors import ArgumentError, CircuitkitError, ScoresError, UnknownNameError
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.scores import Scores
from circuitkit.viz.circuits.choice import smaller_parts

MODEL = ck.load("mini")


@cache
def found() -> ck.Discovery:
    return ck.discover(MODEL, "ioi", edges=20, examples=5, method="eap")


# -- a discovery -----------------------------------------------------------------------------------
def test_a_discovery_is_a_line_a_table_and_a_picture(tmp_path: Path) -> None:
    assert "\n" not in str(found())
    assert "of 479 edges" in str(found())
    assert "5 unseen prompts" in str(found())
    assert len(repr(found()).splitlines()) > 10
    assert found().to_frame().equals(found().circuit.to_frame())
    drawn = found().draw(tmp_path / "x.svg").read_text()
    assert f"faithfulness {found().evaluation.faithfulness:.2f}" in drawn
    assert "mine" in found().draw(tmp_path / "y.svg", title="mine").read_text()


def test_a_discovery_saves_what_it_holds(tmp_path: Path) -> None:
    written = found().save(tmp_path / "a" / "b")
    assert {*written} == {*(tmp_path / "a" / "b").iterdir()}
    circuit, scores = Circuit.load(written[0]), Scores.load(written[1])
    assert circuit.graph["asked"] == found().circuit.graph["asked"]
    np.testing.assert_array_equal(scores.values, found().scores.values)


def test_the_command_writes_the_same_files(tmp_path: Path) -> None:
    argv = ["discover", "ioi", "--edges", "20", "--examples", "5", "--method", "eap", "--quiet"]
    assert main([*argv, "-o", str(tmp_path / "one")]) == 0
    found().save(tmp_path / "two")
    assert {one.name for one in (tmp_path / "one").iterdir()} == {
        one.name for one in (tmp_path / "two").iterdir()
    }
    for name in ("circuit.json", "circuit.svg"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()


# -- in sample -------------------------------------------------------------------------------------
def dataset(first: int, last: int) -> ck.Dataset:
    return ck.Dataset.of(ck.make_task("ioi", MODEL, n=12), MODEL)[first:last]


@pytest.mark.parametrize(
    ("unseen", "in_sample"), [(None, True), ((0, 6), True), ((0, 3), True), ((3, 9), False)]
)
def test_what_was_measured_in_sample_says_so(
    unseen: tuple[int, int] | None, in_sample: bool, tmp_path: Path
) -> None:
    other = None if unseen is None else dataset(*unseen)
    made = ck.discover(MODEL, dataset(0, 6), unseen=other, edges=20, method="eap")
    assert made.in_sample is in_sample
    assert made.circuit.graph.get("in_sample", False) is in_sample
    assert json.loads(json.dumps(made.to_dict()))["in_sample"] is in_sample
    picture = made.draw(tmp_path / "x.svg").read_text()
    plain = made.circuit.draw(tmp_path / "y.svg").read_text()  # its caption
    for text in (str(made), repr(made), picture, plain):
        assert ("in sample" in text) is in_sample
    assert ("unseen" in str(made)) is not in_sample


def test_prompts_drawn_by_name_are_never_in_sample() -> None:
    assert not found().in_sample
    assert "in_sample" not in found().circuit.graph


# -- how the circuit was chosen --------------------------------------------------------------------
def test_a_circuit_says_how_many_edges_were_filled_in() -> None:
    made = ck.discover(MODEL, dataset(0, 6), edges=3, method="eap")
    assert made.evaluation.edges == 3
    keep, filled = made.scores.filled(3)
    assert made.circuit.graph["filled"] == filled > 0
    assert np.array_equal(made.circuit.mask(), keep)
    assert f"  filled in        {filled} of them" in repr(made)
    assert "filled" not in made.scores.about
    assert (made.search, "search" in made.to_dict()) == (None, False)


def test_a_circuit_whose_size_was_searched_for_keeps_the_curve() -> None:
    made = ck.discover(MODEL, dataset(0, 6), faithfulness=0.5, method="eap")
    assert made.search is not None
    assert np.array_equal(made.search.mask, made.circuit.mask())
    assert made.to_dict()["search"] == json.loads(json.dumps(made.search.to_dict()))
    assert ("does not grow with size" in repr(made)) is not made.search.monotone
    uneven = replace(made.search, faithfulness=(1.0, *made.search.faithfulness[1:]))
    assert f"  size             {uneven.again()}" in repr(replace(made, search=uneven))


def test_the_part_of_a_large_circuit_that_is_drawn_says_how_faithful_it_is(tmp_path: Path) -> None:
    made = ck.discover(MODEL, dataset(0, 4), unseen=dataset(4, 8), edges=230, method="eap")
    said = made.circuit.graph["drawn"]
    assert (said["edges"], said["of"]) == (40, 230)
    part = ck.Scores(MODEL.wiring, np.where(made.circuit.mask(), made.scores.values, 0),
                     {"chosen": True}).mask(40)  # fmt: skip
    alone = ck.evaluate(MODEL, part, dataset(4, 8), "logit_diff", "counterfactual")
    assert said["faithfulness"] == pytest.approx(alone.faithfulness, abs=1e-4)
    again = ck.Circuit.load(made.circuit.save(tmp_path / "c.json"))
    assert list(again.graph["sizes"]) == ["100", "12", "200", "25", "50"]
    for size, part in smaller_parts(again).items():
        alone = ck.evaluate(MODEL, part, dataset(4, 8), "logit_diff", "counterfactual")
        value = again.graph["sizes"][str(size)]["value"]
        assert value == pytest.approx(alone.faithfulness, abs=1e-4)
    for circuit in (made.circuit, again):
        words = f"of the edges shown here alone {said['faithfulness']:.3g}"
        lines = re.findall(r">([^<>]+)</text>", circuit.draw(tmp_path / "c.svg").read_text())
        assert words in " ".join(lines)
        assert "shown here" not in circuit.draw(tmp_path / "c.svg", edges=30).read_text()
    assert "drawn" not in found().circuit.graph


# -- what is asked for -----------------------------------------------------------------------------
WRONG: list[tuple[dict[str, Any], type[CircuitkitError], str]] = [
    ({"edges": 0}, ArgumentError, "edges=0; give a whole number of at least 1"),
    ({"edges": 10**9}, ScoresError, "edges is 1,000,000,000, and mini has 479 edges"),
    ({"edges": "many"}, ArgumentError, "edges='many'; give a whole number"),
    ({"edges": True}, ArgumentError, "edges=True"),
    ({"edges": 9, "faithfulness": 0.5}, ScoresError, "not both"),
    ({"faithfulness": 2}, ArgumentError, "faithfulness=2; give a number above 0, at most 1"),
    ({"faithfulness": 0}, ArgumentError, "above 0"),
    ({"faithfulness": float("nan")}, ArgumentError, "faithfulness=nan; give a number"),
    ({"faithfulness": "high"}, ArgumentError, "faithfulness='high'"),
    ({"examples": 0}, ArgumentError, "examples=0"),
    ({"seed": "x"}, ArgumentError, "seed='x'; give a whole number"),
    ({"seed": -1}, ArgumentError, "seed=-1"),
    ({"rule": "best"}, UnknownNameError, "no rule is called 'best'"),
    ({"verify": 0}, ArgumentError, "verify=0"),
    ({"batch_size": 0}, ArgumentError, "batch_size=0"),
    ({"memory": "4GiB"}, ArgumentError, "memory='4GiB'"),
    ({"method": 3}, ArgumentError, "method is"),
    ({"method": "eap-gi"}, UnknownNameError, "did you mean 'eap_ig'"),
    ({"metric": "logit-diff"}, UnknownNameError, "did you mean 'logit_diff'"),
    ({"corruption": "zeros"}, UnknownNameError, "did you mean 'zero'"),
    ({"unseen": 4}, ArgumentError, "give a Dataset"),
]


@pytest.mark.parametrize(("options", "kind", "says"), WRONG, ids=lambda x: str(x)[:30])
def test_a_wrong_setting_is_refused_in_a_sentence(
    options: dict[str, Any], kind: type[CircuitkitError], says: str
) -> None:
    with pytest.raises(kind) as caught:
        ck.discover(MODEL, "ioi", **options)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_numbers() -> None:
    made = ck.discover(MODEL, "ioi", edges=np.int64(9), examples=4, method="eap")  # type: ignore[arg-type]
    assert json.loads(json.dumps(made.circuit.graph["asked"]))["edges"] == 9


def test_an_unknown_keyword_is_named() -> None:
    with pytest.raises(TypeError, match="edgs"):
        ck.discover(MODEL, "ioi", edgs=3)  # type: ignore[call-arg]


# -- the others ------------------------------------------------------------------------------------
def test_a_study_and_a_benchmark_are_a_line_and_name_what_they_have() -> None:
    study = ck.study(
        MODEL, "ioi", ("logit_diff",), ("counterfactual",), windows=(), circuits=(), examples=6
    )
    assert "\n" not in str(study)
    assert str(study.plot("heads")) == str(study.figures()["heads"])
    with pytest.raises(UnknownNameError, match="did you mean 'heads'"):
        study.plot("head")
    with pytest.raises(UnknownNameError, match="did you mean 'effects'"):
        study.to_frame("effect")
    bench = ck.bench(["random"], ["reverse"], ["zero"], seeds=1)
    assert str(bench) == "1 method × 1 model × 1 corruption × 1 seed: 1 cell, 0 refused"
    assert str(bench.plot()) == str(bench.figures()["ap-plain"])
    assert "<pre>" in bench._repr_html_()
    with pytest.raises(UnknownNameError, match="did you mean 'cmd-plain'"):
        bench.plot("cmd-plian")
