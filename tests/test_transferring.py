"""Whether a difference between two circuits matters: every number by hand, and none of equals."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import dataset, model

import circuitkit as ck
from circuitkit.cli.main import main
from circuitkit.engine.checkpoints import Shard
from circuitkit.engine.inputs import as_data
from circuitkit.errors import ArgumentError, CircuitError, UnfinishedError
from circuitkit.evaluation.transfer_result import Change, Transfer
from circuitkit.graph.circuit import Circuit, mask
from circuitkit.graph.digests import WeightsWarning
from circuitkit.graph.nodes import parse_edge


@pytest.fixture(scope="module")
def pair() -> tuple[Circuit, Circuit]:
    own = model("gpt2")
    scores = ck.discovery.eap(own, dataset())
    return scores.top(30), scores.top(40) - scores.top(6)


@pytest.fixture(scope="module")
def found(pair: tuple[Circuit, Circuit]) -> Transfer:
    return ck.transfer(model("gpt2"), *pair, dataset(), "logit_diff", edges=4)


def faithful(*circuits: Any) -> list[float]:
    data = dataset()
    return [one.faithfulness for one in ck.evaluate(model("gpt2"), [*circuits], data, "logit_diff")]


def test_the_circuits_and_the_changes_are_what_evaluate_gives(
    pair: tuple[Circuit, Circuit], found: Transfer
) -> None:
    left, right = pair
    name = found.models[0]
    numbers = faithful(left, right, left & right, left | right)
    assert list(found.to_frame()["faithfulness"]) == pytest.approx(numbers)
    changes = {what: found.changes[name, what].effect for what in ("right", "to left", "to right")}
    assert changes == pytest.approx({
        "right": numbers[1] - numbers[0], "to left": numbers[3] - numbers[0],
        "to right": numbers[3] - numbers[1],
    }, abs=1e-6)  # fmt: skip
    assert found.only == (len((left - right).to_frame()), len((right - left).to_frame()))
    for change in found.changes.values():
        assert change.low <= change.effect <= change.high


def test_an_edge_that_is_put_is_the_circuit_that_lacks_it_with_it(
    pair: tuple[Circuit, Circuit], found: Transfer
) -> None:
    left, right = pair
    own = [*(left - right).to_frame().head(4).itertuples(),
           *(right - left).to_frame().head(4).itertuples()]  # fmt: skip
    assert [parse_edge(put.edge) for put in found.edges] == [(e.writer, e.reader) for e in own]
    assert [put.of for put in found.edges] == ["left"] * 4 + ["right"] * 4
    assert [put.weight for put in found.edges] == [edge.weight for edge in own]
    wiring = model("gpt2").wiring
    for put in found.edges:
        lacking = mask(right if put.of == "left" else left)
        with_it = lacking.copy()
        with_it[wiring.index(*parse_edge(put.edge))] = True
        before, after = faithful(lacking, with_it)
        assert put.changes[0].effect == pytest.approx(after - before, abs=1e-6)
    assert len(found.single()) == 8


def test_to_exchange_the_circuits_turns_the_sign(
    pair: tuple[Circuit, Circuit], found: Transfer
) -> None:
    turned = ck.transfer(model("gpt2"), *pair[::-1], dataset(), "logit_diff", edges=0)
    name = found.models[0]
    assert turned.only == found.only[::-1]
    assert turned.edges == ()
    for what, same, sign in (("right", "right", -1), ("to left", "to right", 1)):
        one, other = turned.changes[name, what], found.changes[name, same]
        assert one.effect == pytest.approx(sign * other.effect, abs=1e-6)


def test_equal_circuits_transfer_nothing(pair: tuple[Circuit, Circuit]) -> None:
    same = ck.transfer(model("gpt2"), pair[0], pair[0], dataset(), "logit_diff")
    assert same.only == (0, 0)
    assert same.edges == ()
    for change in same.changes.values():
        assert change[:3] == (0, 0, 0)
        assert np.isnan(change.random)
    assert same.matters() is False
    assert "nothing to transfer" in str(same)
    assert "matters" not in repr(same)


def test_weights_alone_and_the_same_edges_as_masks_change_nothing(
    pair: tuple[Circuit, Circuit], found: Transfer
) -> None:
    masks = [mask(one) for one in pair]
    again = ck.transfer(model("gpt2"), *masks, dataset(), "logit_diff", edges=2)
    assert again.changes == found.changes
    assert all(np.isnan(put.weight) for put in again.edges)
    assert again.to_dict()["edges"][0]["weight"] is None


def test_a_difference_matters_where_its_interval_is_beyond_the_margin(found: Transfer) -> None:
    name = found.models[0]
    none = Change(0.0, -0.01, 0.01)
    for change, expected in (
        (Change(0.2, 0.06, 0.3), True), (Change(-0.2, -0.3, -0.06), True),
        (Change(0.03, 0.01, 0.04), False), (Change(0.2, 0.01, 0.3), None),
        (Change(0.2, float("nan"), float("nan")), None),
    ):  # fmt: skip
        for what in ("right", "to left", "to right"):
            changes = {(name, w): none for w in ("right", "to left", "to right")}
            changes[name, what] = change
            own = replace(found, changes=changes)
            assert own.matters() is expected
            assert own.to_dict()["matters"] == {name: expected}
            words = {True: "matters", False: "does not matter", None: "is not known to matter"}
            assert f"{words[expected]} on {name}" in str(own)


# -- two models ------------------------------------------------------------------------------------
def tuned(path: Path) -> Any:
    """mini, a little different."""
    from transformers import AutoModelForCausalLM

    from circuitkit.models.loading import MINI

    module = AutoModelForCausalLM.from_pretrained(MINI)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= 1 + 0.02 * torch.randn(parameter.shape, generator=torch.Generator())
    mini = ck.load("mini")
    return ck.load(module, tokenizer=mini.tokenizer)


def test_two_models_are_measured_on_both_without_a_warning(tmp_path: Path) -> None:
    mini, other = ck.load("mini"), tuned(tmp_path)
    task = ck.make_task("ioi", mini, n=6)
    left, right = (ck.discovery.eap(one, task).top(25) for one in (mini, other))
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeightsWarning)
        found = ck.transfer(mini, left, right, "ioi", other=other, edges=2, examples=4)
    assert len(found.models) == 2
    for own in (mini, other):
        data = as_data(mini, "ioi", left, examples=4)
        name = found.models[0 if own is mini else 1]
        assert found.evaluations[name, "left"].faithfulness == pytest.approx(
            ck.evaluate(own, mask(left), data, "logit_diff").faithfulness, abs=1e-5
        )
    assert len(found.changes) == 6
    assert all(len(put.changes) == 2 for put in found.edges)
    assert found.plot().table.shape == (4, 2)
    with pytest.warns(WeightsWarning):
        ck.transfer(mini, left, right, "ioi", edges=0, random=0, examples=2)


def test_two_models_of_one_name_keep_batches_of_their_own(tmp_path: Path) -> None:
    mini, other = ck.load("mini"), tuned(tmp_path)
    other.name = mini.name
    task = ck.make_task("ioi", mini, n=4)
    left, right = (mask(ck.discovery.eap(one, task).top(25)) for one in (mini, other))
    asked = {"other": other, "edges": 1, "random": 0, "batch_size": 2}
    plain = ck.transfer(mini, left, right, task, **asked)
    kept = ck.transfer(mini, left, right, task, **asked, resume=tmp_path / "kept")
    assert kept.models == ("mini (left)", "mini (right)")
    blocks = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    assert len(blocks) == 4
    again = ck.transfer(mini, left, right, task, **asked, resume=tmp_path / "kept")
    assert blocks == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    for index in range(2):
        with pytest.raises(UnfinishedError):
            ck.transfer(
                mini, left, right, task, **asked, resume=Shard(tmp_path / "parts", index, 2)
            )
    assert len([*(tmp_path / "parts").rglob("*.safetensors")]) == 4
    merged = ck.transfer(mini, left, right, task, **asked, resume=Shard(tmp_path / "parts"))
    assert plain.to_dict() == kept.to_dict() == again.to_dict() == merged.to_dict()


def test_models_of_other_wirings_and_circuits_of_others_are_refused(
    pair: tuple[Circuit, Circuit],
) -> None:
    own = model("gpt2")
    with pytest.raises(ArgumentError, match="different wirings"):
        ck.transfer(own, *pair, dataset(), other=model("llama"))
    with pytest.raises(CircuitError, match="belongs to a model"):
        ck.transfer(own, pair[0], ck.references.docstring.acdc().circuit, dataset())


# -- as tables, and the command --------------------------------------------------------------------
def test_it_prints_itself_and_goes_to_machines(found: Transfer) -> None:
    assert "\n" not in str(found)
    for words in (str(found), "shared by both", "right's own to left", "of random"):
        assert words in repr(found)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["left_only"] == found.only[0]
    assert [row["edges"] for row in found.effects()] == [sum(found.only), *found.only[::-1]]


def test_the_command_says_whether_the_difference_matters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = ck.discovery.eap(ck.load("mini"), ck.make_task("ioi", ck.load("mini"), n=6))
    a, b = (str(scores.top(n).save(tmp_path / f"{n}.json")) for n in (20, 25))
    few = ["--examples", "4", "--quiet"]
    assert main(["compare", a, b, "--transfer", *few]) == 0
    assert "on mini (margin 0.05)" in " ".join(capsys.readouterr().out.split())
    assert main(["compare", a, b, "--task", "ioi"]) == 2
    assert "--task is for --transfer" in capsys.readouterr().err
    other = Circuit.load(a)
    other.graph["task"] = "induction"
    c = str(other.save(tmp_path / "c.json"))
    assert main(["compare", a, c, "--transfer", *few]) == 2
    assert "different tasks (ioi, induction); name one (--task)" in capsys.readouterr().err
    models = [option for name in ("mini", "mini", "mini") for option in ("--model", name)]
    assert main(["compare", a, b, "--transfer", *models, *few]) == 2
    assert "there are 3 models" in capsys.readouterr().err
