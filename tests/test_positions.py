"""Discovery between places: what is chosen, measured, said and written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import circuitkit as ck
from circuitkit.cli.main import main
from circuitkit.engine.inputs import prepare
from circuitkit.errors import CircuitkitError
from circuitkit.evaluation.places.choosing import SLACK, choose_places, measure_places
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.workflows.placed_results import PlacedDiscovery

FEW = {"method": "eap", "edges": 30, "examples": 8}


@pytest.fixture(scope="module")
def found() -> PlacedDiscovery:
    return ck.discover_positions(ck.load("mini"), "ioi", **FEW)


def test_the_second_subject_reaches_the_end(found: PlacedDiscovery) -> None:
    """Under S2's replacement nothing before S2 differs, so that it all crosses by one head."""
    frame = found.to_frame()
    crossed = frame[frame["kind"] == "attention"]
    assert {*crossed["source"]} <= {"S2", "before object", "object", "end"}
    assert "a2.h2.v@S2->a2.h2@end" in dict(found.edges(30))
    assert found.evaluation.faithfulness > 0.1 > abs(found.random)


def test_edges_of_attention_are_pruned_within_the_slack(found: PlacedDiscovery) -> None:
    chosen = found.chosen
    assert chosen.mask.counts()[1] < chosen.free.counts()[1]
    assert chosen.value >= chosen.whole - SLACK
    legal = chosen.mask.places.alive(chosen.mask)
    assert (legal.residual == chosen.mask.residual).all()
    assert (legal.attention == chosen.mask.attention).all()


def test_a_weight_of_attention_is_what_cutting_it_costs(found: PlacedDiscovery) -> None:
    """The exact effect, in the circuit with all of attention, on the prompts of the discovery."""
    model = ck.load("mini")
    data = ck.Dataset.of(ck.make_task("ioi", model, n=16), model)[:8]
    inputs, free = prepare(model, data), found.chosen.free
    head, port, source, end = map(int, np.argwhere(found.chosen.mask.attention)[0])
    cut = free.attention.copy()
    cut[head, port, source, end] = False
    whole, less = measure_places(inputs, [free, type(free)(free.places, free.residual, cut)])
    edge = free.places.edge((head, port, source, end))
    cost = float((whole.circuit - less.circuit).mean())
    assert found.circuit.edges[edge]["weight"] == pytest.approx(cost, rel=1e-4)


def test_a_size_and_a_target_are_chosen(found: PlacedDiscovery) -> None:
    inputs = prepare(ck.load("mini"), "ioi", examples=8)
    own = choose_places(inputs, found.scores, faithfulness=0.3)
    assert own.whole >= 0.3 > max(v for n, v in own.sizes.items() if n < own.free.counts()[0])
    with pytest.raises(CircuitkitError, match="no circuit reaches"):
        choose_places(inputs, found.scores, faithfulness=50.0)


def test_it_is_as_sure_as_its_prompts_allow(found: PlacedDiscovery) -> None:
    sure = found.certainty
    assert sure is not None
    assert len(sure.mean) == found.chosen.mask.counts()[0]
    weights = found.scores.residual[found.chosen.mask.residual]
    assert sure.mean == pytest.approx(weights, rel=1e-3, abs=1e-4)
    assert ((sure.low <= sure.mean) & (sure.mean <= sure.high)).all()
    assert 0 < sure.agreement <= 1
    said = found.circuit.to_frame()
    assert said["standard_error"].notna().sum() == len(sure.mean)


def test_the_files_are_what_was_found(found: PlacedDiscovery, tmp_path: Path) -> None:
    for path in found.save(tmp_path / "run"):
        assert path.exists()
    circuit = ck.Circuit.load(tmp_path / "run" / "circuit.json")
    assert {*circuit.edges} == {*found.circuit.edges}
    scores = PlacedScores.load(tmp_path / "run" / "scores.safetensors")
    assert (scores.residual == found.scores.residual.astype(np.float32)).all()
    inputs = prepare(ck.load("mini"), "ioi", examples=8)
    again, whole = measure_places(inputs, [circuit.placed_mask(), found.chosen.mask])
    assert again.faithfulness == pytest.approx(whole.faithfulness, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--positions", "--verify", "3"], "--positions and --verify do not go together"),
        (["--positions", "--level", "node"], "made of edges"),
        (["--spans", "S3"], "'S3' is not a span of these prompts"),
        (["--spans", "tokens"], "tokens"),
    ],
)
def test_what_cannot_be_is_refused(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["discover", "ioi", "--method", "eap", "--examples", "4", *options]
    assert main([*arguments, "-o", str(tmp_path / "run"), "--quiet"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "circuit.json").exists()


def test_a_method_without_spans_is_refused() -> None:
    with pytest.raises(CircuitkitError, match="acdc"):
        ck.discover_positions(ck.load("mini"), "ioi", method="acdc", edges=10, examples=4)
