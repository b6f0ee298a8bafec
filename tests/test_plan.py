"""A plan says before the work what it will cost, and does none of it."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import circuitkit as ck
from circuitkit.cli.main import main
from circuitkit.data.places import places
from circuitkit.engine.inputs import prepare_halves
from circuitkit.engine.placed_scores import bytes_of
from circuitkit.engine.record import answer, record
from circuitkit.errors import ArgumentError, CircuitkitError, EvaluationError
from circuitkit.models import transformer_lens
from circuitkit.registry import resolve
from circuitkit.workflows.growing import Grown, grow
from circuitkit.workflows.plan import _Costs

MODEL = ck.load("mini")
N = 6
CASES: dict[str, dict[str, Any]] = {
    "eap": {"method": "eap", "edges": 30},
    "eap_ig": {"method": "eap_ig", "edges": 30, "batch_size": 6},
    "eap_ig, target": {"method": "eap_ig(steps=9)", "faithfulness": 0.8},
    "exact": {"method": "exact", "edges": 30},
    "exact, zero": {"method": "exact", "corruption": "zero", "edges": 30},
    "acdc, few": {"method": "acdc(threshold=1.0)", "orders": 2, "examples": 2},
    "verified": {"method": "eap", "edges": 30, "verify": 60},
    "refined": {"method": "eap", "edges": 30, "refine": 12},
    "noise": {"method": "eap_ig", "corruption": "noise(draws=3)", "edges": 30, "batch_size": 6},
    "mean": {"method": "clean_corrupted", "corruption": "mean", "edges": 30},
    "nodes": {"method": "exact", "level": "node", "nodes": 5},
    "ensemble": {"method": "ensemble", "edges": 30, "batch_size": 6},
    "budget": {"budget": 5, "edges": 30, "batch_size": 6},
    "learned": {"method": "nested(runs=16)", "edges": 30, "batch_size": 6},
    "baseline": {"method": "information_flow", "edges": 30, "batch_size": 6},
}


class Operations(TorchDispatchMode):
    """Counts what torch's own counter does, without asking in which module it is done."""

    total = 0.0

    def __torch_dispatch__(self, what: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        out, count = what(*given, **(named or {})), flop_registry.get(what.overloadpacket)
        if count is not None:
            self.total += count(*given, **(named or {}), out_val=out)
        return out


def operations(work: Callable[[], object]) -> float:
    """The floating point operations of some work, backwards included."""
    with Operations() as counter:
        work()
    return counter.total


def test_the_operations_are_those_that_torch_counts() -> None:
    work = partial(ck.discover, MODEL, "ioi", method="eap", edges=30, examples=2)
    with FlopCounterMode(display=False) as counter:
        work()
    assert operations(work) == counter.get_total_flops() > 0


@cache
def one_forward() -> float:
    """Those of a plain run on one prompt, with the logits at the answer."""
    data = ck.Dataset.of(ck.make_task("ioi", MODEL, n=2 * N), MODEL)

    @torch.no_grad()
    def plain() -> None:
        for batch in data:
            answer(MODEL, batch, record(MODEL, MODEL.start(batch.clean, batch.mask)).final)

    return operations(plain) / len(data)


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[pytest.mark.weekly] * (one == "acdc, few")) for one in CASES],
)
def test_its_forwards_are_those_of_the_work(name: str) -> None:
    options = {"examples": N, **CASES[name]}
    foreseen = ck.plan(MODEL, "ioi", **options)
    done = operations(lambda: ck.discover(MODEL, "ioi", **options)) / one_forward()
    assert 1 / foreseen.factor < done / foreseen.forwards < foreseen.factor, (done, foreseen)


def test_the_forwards_between_places_are_those_of_the_work() -> None:
    options: dict[str, Any] = {"spans": "named", "examples": N, "method": "eap", "edges": 30}
    options["batch_size"] = N
    foreseen = ck.plan(MODEL, "ioi", **options)
    done = operations(lambda: ck.discover_positions(MODEL, "ioi", **options)) / one_forward()
    assert 1 / foreseen.factor < done / foreseen.forwards < foreseen.factor, (done, foreseen)


def test_the_tables_between_places_are_in_the_memory() -> None:
    data = ck.Dataset.of(ck.make_task("ioi", MODEL, n=N), MODEL)
    costs, own, how = _Costs(MODEL, data, "counterfactual"), places(data, MODEL.wiring), "eap"
    plain, placed = (costs.bytes(resolve("discovery", how), N, N, None, at) for at in (None, own))
    assert placed > plain + N * bytes_of(own)


def test_what_places_do_not_take_is_refused() -> None:
    with pytest.raises(ArgumentError, match="spans and verify do not go together"):
        ck.plan(MODEL, "ioi", spans="named", verify=9, examples=N)


@pytest.mark.weekly
@pytest.mark.parametrize("start", [12, 60])
def test_the_forwards_of_equivalence_are_those_of_the_growth(start: int) -> None:
    inputs = prepare_halves(MODEL, "ioi", None, None, None, examples=96, batch_size=32)
    scores = ck.discovery.eap(*inputs[0])
    grown: list[Grown] = []
    work = operations(lambda: grown.append(grow(*inputs, scores, scores.mask(start))))
    assert (grown[0].mask.sum() > start) == (start < 60)
    foreseen = ck.plan(MODEL, "ioi", method="eap", edges=start, test=True, batch_size=32)
    assert 1 / foreseen.factor < work / one_forward() / foreseen.steps["equivalence"]
    assert work / one_forward() / foreseen.steps["equivalence"] < foreseen.factor


def test_more_work_is_foreseen_for_more() -> None:
    def forwards(**options: Any) -> float:
        return ck.plan(MODEL, "ioi", batch_size=8, **options).forwards

    plain = forwards(edges=30)
    assert forwards(edges=30, method="eap_ig(steps=20)") > 2 * plain
    assert forwards(edges=30, examples=128) == pytest.approx(2 * plain, rel=0.05)
    assert forwards(edges=30, verify=50) > plain
    assert forwards(edges=30, test=True, examples=96) > forwards(edges=30, examples=96)
    assert forwards(edges=30, test=True) == forwards(edges=30, test=True, examples=96)
    assert forwards(edges=30, refine=64) > forwards(edges=30, refine=8) > plain
    assert forwards() > plain
    assert forwards(method="acdc", orders=4) > 4 * forwards(method="acdc")


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working directory, in which no model may run."""

    def run(*_: object, **__: object) -> None:
        raise AssertionError("the model was run")

    for found in pkgutil.walk_packages(ck.__path__, "circuitkit."):  # or later, as they are now
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    runs = {"record", "run", "runs", "sweep", "gradients", "answer"}
    for name, module in list(sys.modules.items()):
        if name.startswith("circuitkit.") and not name.startswith("circuitkit.cli"):
            for function in runs & vars(module).keys():
                monkeypatch.setattr(module, function, run)
    for method in ("native", "mlp", "project", "unembed"):
        monkeypatch.setattr(transformer_lens.Transformer, method, run)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_a_plan_runs_and_writes_nothing(name: str, idle: Path) -> None:
    found = ck.plan(MODEL, "ioi", **{"examples": N, **CASES[name]})
    assert not list(idle.iterdir())
    assert found.seconds > 0
    assert found.bytes > 2**20
    with pytest.raises(AssertionError, match="was run"):
        ck.discover(MODEL, "ioi", **{"examples": N, **CASES[name]})


def test_the_command_prints_a_plan_and_does_nothing(
    idle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["discover", "ioi", "--plan", "--examples", "4", "--verify", "9", "--quiet"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    for word in ("forwards", "minutes", "memory", "files", "verification.csv"):
        assert word in said
    assert main([*argv, "--json", "-o", "here"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["forwards"] == pytest.approx(sum(told["steps"].values()))
    assert told["files"][0] == "here/circuit.json"
    assert not list(idle.iterdir())


def test_the_files_are_those_that_are_written(tmp_path: Path) -> None:
    for options in ({}, {"verify": 5}):
        foreseen = ck.plan(MODEL, "ioi", method="eap", edges=20, examples=4, **options)
        found = ck.discover(MODEL, "ioi", method="eap", edges=20, examples=4, **options)
        written = found.save(tmp_path / str(len(options)))
        assert [path.name for path in written] == [*foreseen.files]
        assert {path.name for path in (tmp_path / str(len(options))).iterdir()} == {*foreseen.files}


def test_what_discover_refuses_a_plan_refuses() -> None:
    for wrong in ({"edges": 0}, {"method": "eap_gi"}, {"metric": "logit-diff"}, {"orders": 3},
                  {"corruption": "zeros"}, {"seed": "x"}, {"examples": 0}):  # fmt: skip
        with pytest.raises(CircuitkitError) as planned:
            ck.plan(MODEL, "ioi", **wrong)  # type: ignore[arg-type]
        with pytest.raises(type(planned.value)) as found:
            ck.discover(MODEL, "ioi", **wrong)  # type: ignore[arg-type]
        assert str(planned.value).replace("plan has", "discover has") == str(found.value)


def test_the_cost_of_a_method_of_your_own_is_not_known() -> None:
    def mine(model: Any, data: Any, metric: Any, corruption: Any) -> Any:
        raise AssertionError

    with pytest.raises(EvaluationError, match="the method 'mine' costs is not known"):
        ck.plan(MODEL, "ioi", method=mine)


def test_a_plan_shows_itself() -> None:
    found = ck.plan(MODEL, "ioi", edges=30, examples=4)
    assert "\n" not in str(found)
    assert found.to_frame().forwards.sum() == pytest.approx(found.forwards)
    assert "within a factor of 2" in repr(found)
    assert "<pre>" in found._repr_html_()
