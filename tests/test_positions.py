"""Discovery between places: what is chosen, measured, said and written."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_json import faults

import circuitkit as ck
from circuitkit.cli.main import main
from circuitkit.engine.inputs import prepare
from circuitkit.engine.model import Model
from circuitkit.errors import CircuitkitError
from circuitkit.evaluation.alternatives import _Search
from circuitkit.evaluation.faithfulness import evaluate_beside
from circuitkit.evaluation.places.choosing import SLACK, choose_places, measure_places
from circuitkit.evaluation.spaces import Placed
from circuitkit.graph.circuit import edges
from circuitkit.graph.nodes import edge_name
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.placed_walks import drawn_places, inflated_places
from circuitkit.graph.places import PlacedMask
from circuitkit.truth.rasp import compile_program, named
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
    residual, attention = found.chosen.mask.counts()
    assert len(sure.mean) == residual + attention
    weights = found.scores.residual[found.chosen.mask.residual]
    assert sure.mean[:residual] == pytest.approx(weights, rel=1e-3, abs=1e-4)
    assert ((sure.low <= sure.mean) & (sure.mean <= sure.high)).all()
    assert 0 < sure.agreement <= 1
    said = found.circuit.to_frame()
    assert said["standard_error"].notna().sum() == len(sure.mean)


def test_edges_of_attention_are_as_sure_as_a_bootstrap_by_hand(found: PlacedDiscovery) -> None:
    """Each is cut alone in the circuit; in every sample those of largest effect are kept, and of
    these what is no dead end."""
    inputs, free = prepare(ck.load("mini"), "ioi", examples=8), found.chosen.free
    edges = free.edges()[free.counts()[0] :]
    spaces = [free, *Placed(free).without_each(edges)]
    whole, *less = (one.circuit.astype(float) for one in measure_places(inputs, spaces))
    effects = whole - np.array(less)
    draw, times = np.random.default_rng(0), []
    for _ in range(100):
        times.append(draw.multinomial(4, np.full(8, 1 / 8)))
    held = np.zeros(len(edges))
    for sample in times:
        means = (effects * sample).sum(1) / 4
        kept = sorted(range(len(edges)), key=lambda i: -abs(means[i]))[: found.chosen.strongest]
        attention = np.zeros_like(free.attention)
        for i in kept:
            attention[edges[i]] = True
        alive = free.places.alive(PlacedMask(free.places, free.residual, attention))
        held += [alive.attention[edge] for edge in edges]
    own = [edges.index(edge) for edge in found.chosen.mask.edges()[found.chosen.mask.counts()[0] :]]
    sure = found.certainty
    assert sure is not None
    assert sure.frequency[-len(own) :] == pytest.approx(held[own] / 100)
    errors = effects.std(1, ddof=1)[own] / np.sqrt(8)
    assert sure.standard_error[-len(own) :] == pytest.approx(errors, rel=1e-3)
    assert set(sure.core[-len(own) :]) == {*(held[own] >= 90)}


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


def test_a_citation_says_the_spans_and_both_kinds_of_edge(
    found: PlacedDiscovery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    residual, attention = found.chosen.mask.counts()
    of = found.scores.places.n_edges
    said = ck.cite(found)
    for part in ("13 spans", "S2, ", f"{residual} of {of[0]:,} edges of the residual stream",
                 f"{attention} of {of[1]:,} edges of attention", "exact effects", "span by span",
                 f"faithfulness is {found.evaluation.faithfulness:.3f}"):  # fmt: skip
        assert part in said.text
    assert "[@haklay2025]" in said.text
    assert "@inproceedings{haklay2025," in said.bibtex
    found.save(tmp_path / "run")
    assert main(["cite", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.split() == str(said).split()  # lines are wrapped


def test_it_is_found_again(found: PlacedDiscovery, tmp_path: Path) -> None:
    """From what its file says: the spans, the sizes, the prompts."""
    path = found.circuit.save(tmp_path / "circuit.json")
    again = ck.replay(path)
    assert again.same, repr(again)
    assert str(again).startswith("ioi on mini: the same ")
    spans = again.to_frame().set_index("quantity").loc["spans"]
    assert spans["now"] == ", ".join(found.scores.places.spans)
    assert not spans["differs"]


def test_what_differs_from_a_circuit_of_fewer_spans_is_said(tmp_path: Path) -> None:
    asked = {"method": "eap", "edges": 12, "examples": 4}
    small = ck.discover_positions(ck.load("mini"), "ioi", spans=["S2"], **asked).circuit
    writer, reader, _ = max(edges(small), key=lambda edge: abs(edge[2]))
    small[writer][reader]["weight"] *= 2
    small.save(tmp_path / "circuit.json")
    again = ck.replay(tmp_path / "circuit.json", model=ck.load("mini"))
    assert [row.quantity for row in again.rows if row.differs] == ["weights"]
    assert not again.same


def test_claims_about_it_are_tested_beside_circuits_between_places(
    found: PlacedDiscovery,
) -> None:
    few: dict[str, Any] = {"random": 2, "inflations": 2, "edges": 2, "by": None}
    own = ck.load("mini")
    data = ck.Dataset.of(ck.make_task("ioi", own, n=3, seed=5), own)
    keep, legal = found.chosen.mask, found.scores.places.legal
    tested = ck.hypothesis_tests(own, keep, data, **few)
    assert tested.evaluation.edges == sum(keep.counts())
    assert tested.total == sum(found.scores.places.n_edges)
    assert [one.test for one in tested.tests if one.reason] == ["independence"]

    values = ck.measure(own, [found.circuit], data).double().numpy()
    everything = tested.evaluation.everything
    drawn = drawn_places(keep.places, *keep.counts(), 2, 0, keep.residual[0].any(0))
    for one, other in zip(Placed(keep).drawn(2, 0), drawn, strict=True):
        assert (one.residual == other.residual).all()
    random = ck.measure(own, drawn, data).double().numpy()
    rest = [
        PlacedMask(keep.places, legal.residual & ~one.residual, legal.attention & ~one.attention)
        for one in (keep, *drawn)
    ]
    without, *lacking = np.square(ck.measure(own, rest, data).double().numpy() - everything).mean(1)
    loss = np.square(values - everything).mean()
    assert tested["sufficiency"].effect == np.mean(loss < np.square(random - everything).mean(1))
    assert tested["partial_necessity"].effect == np.mean(without > np.array(lacking))
    assert list(tested.sizes) == [sum(keep.counts())]

    name = tested.edges[-1].edge
    cut = found.circuit.copy()
    cut.remove_edge(*next(e for e in cut.edges if edge_name(*e) == name))
    less = ck.measure(own, [cut], data).double().numpy()
    effect = np.sqrt(np.square(values - less).mean())
    assert tested.edges[-1].effect == pytest.approx(effect, rel=1e-3)


def test_an_inflated_circuit_has_one_path_more_and_then_one_edge_less(
    found: PlacedDiscovery,
) -> None:
    keep = found.chosen.mask
    begins = keep.residual[0].any(0)
    for larger, smaller in inflated_places(keep, 5, 0, begins):
        added = np.subtract(larger.counts(), keep.counts())
        assert added.sum() > 0
        assert np.subtract(larger.counts(), smaller.counts()).sum() == 1
        assert (larger.residual >= keep.residual).all()
        assert (smaller.attention >= keep.attention).all()
        assert keep.places.alive(larger).counts() == larger.counts()
        assert (larger.residual[0].any(0) <= begins).all()
    assert inflated_places(keep.places.legal, 2, 0) == []


def test_larger_random_circuits_are_refused(found: PlacedDiscovery) -> None:
    with pytest.raises(CircuitkitError, match="leave sizes out"):
        ck.hypothesis_tests(ck.load("mini"), found, "ioi", sizes=[100])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--positions", "--verify", "3"], "--positions and --verify do not go together (ck."),
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


def test_an_alternative_of_places_shares_as_little_as_it_can(
    found: PlacedDiscovery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is between the same places, and no dead end is in it."""
    found.save(tmp_path / "run")
    told = ["evaluate", str(tmp_path / "run"), "--alternative", "--examples", "8", "--quiet"]
    assert main([*told, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert faults("evaluate", value) == []
    (said,) = value
    assert said["alternative"]["overlap"]["attention"]["left"] == found.chosen.mask.counts()[1]

    model = ck.load("mini")
    data = ck.Dataset.of(ck.make_task("ioi", model, n=8, seed=7), model)
    made = ck.alternative(model, found, found.scores, data, tolerance=0.05)
    mask = made.circuit.placed_mask()
    places = found.scores.places
    assert mask.places == places
    assert places.alive(mask).counts() == mask.counts()
    own, held = ({edge_name(*e[:2]) for e in edges(c)} for c in (made.circuit, found.circuit))
    assert made.overlap.edges.both == len(own & held) < len(held)
    first, second = made.chosen
    assert second.faithfulness >= first.faithfulness - 0.05
    assert len(own) == made.evaluations[1].edges


def test_lowered_scores_rank_other_edges_between_places(found: PlacedDiscovery) -> None:
    """Left as they are, they give the circuits that they gave."""
    model, keep = ck.load("mini"), found.chosen.mask
    inputs = prepare(model, ck.Dataset.of(ck.make_task("ioi", model, n=2), model))
    search = _Search(inputs, found.scores, Placed(keep), 0.5, "abs")
    shared = {}
    for share in (0.0, 1.0):
        (mask,) = search._ranked(share, [30])
        assert isinstance(mask, PlacedMask)
        shared[share] = int((mask.residual & keep.residual).sum())
    assert (mask.residual == found.scores.best(30).residual).all()
    assert shared[0.0] < shared[1.0]


def test_a_method_without_spans_is_refused_and_those_with_them_are_named() -> None:
    with pytest.raises(CircuitkitError, match=r"^acdc gives no scores") as said:
        ck.discover_positions(ck.load("mini"), "ioi", method="acdc", edges=10, examples=4)
    named = str(said.value).partition("take one of ")[2].split(", ")
    assert {"eap", "eap_ig", "mask_gradient", "relp"} <= {*named}
    for name in ck.list_methods():
        takes = "places" in inspect.signature(ck.resolve("discovery", name)).parameters
        assert takes == (name in named)


@pytest.mark.parametrize(
    "task", ["facts(lengths='any')", pytest.param("facts", marks=pytest.mark.weekly)]
)
def test_facts_of_several_lengths_have_places(task: str) -> None:
    """The relation has other words in each prompt, and the corrupted subject other lengths."""
    own = ck.discover_positions(ck.load("mini"), task, method="eap", edges=40, examples=8)
    assert {"subject", "end"} <= {*own.scores.places.spans}
    assert any(".v@subject->" in name for name, _ in own.edges(15))
    assert own.evaluation.faithfulness > own.random
    assert ck.replay(own).same


def test_the_faithfulness_of_a_file_is_measured_like_any_other(found: PlacedDiscovery) -> None:
    model = ck.load("mini")
    circuit = found.circuit
    beside = evaluate_beside(model, circuit, "ioi", random=2, halves=1)
    assert beside.circuit.edges == sum(found.chosen.mask.counts())
    assert beside.complement.edges == sum(circuit.placed_mask().places.n_edges) - len(
        circuit.to_frame()
    )
    whole = ck.completeness(model, circuit, "ioi")
    assert whole.faithfulness == pytest.approx(beside.complement.faithfulness, abs=1e-6)
    assert beside.circuit.edges < beside.halves[0].edges
    assert [each.edges for each in beside.random] == [beside.circuit.edges] * 2
    keep = circuit.placed_mask()
    drawn = drawn_places(keep.places, *keep.counts(), 2, 0, keep.begins())
    alone, plain, *random = ck.evaluate(model, [circuit, circuit.collapse(), *drawn], "ioi")
    assert [each.faithfulness for each in random] == pytest.approx(
        [each.faithfulness for each in beside.random], abs=1e-6
    )
    assert alone.faithfulness == pytest.approx(beside.circuit.faithfulness, abs=1e-6)
    assert plain.edges == len(circuit.collapse().to_frame())


def of_length(name: str, length: int) -> tuple[Model, ck.Dataset]:
    """A compiled program, and its prompts of so many words behind the first token."""
    program = named(name)
    data = program.data(None)
    kept = tuple(one for one in data.examples if len(one.clean) == length + 1)
    return compile_program(program), replace(data, examples=kept)


def test_a_compiled_program_is_found_with_its_places() -> None:
    """The answer is the word before the last, which one head moves."""
    model, data = of_length("shift", 5)
    found = ck.discover_positions(
        model, data[:40], method="eap_ig(steps=2)", faithfulness=0.9, spans="tokens"
    )
    assert {name for name, _ in found.edges()} == {
        "input@4->a0.h0<v>@4", "a0.h0.v@4->a0.h0@5", "a0.h0@5->logits@5"
    }  # fmt: skip
    assert found.evaluation.faithfulness == pytest.approx(1, abs=1e-3)
    assert ck.replay(found, model=model, data=data[:40]).same


def test_two_layers_of_a_program_are_found_with_their_places() -> None:
    """A head looks for where the last word, at 6, stood before (at 2), by what a head of the layer
    below has moved one token on, and gives the word that stands there."""
    model, data = of_length("induction", 6)
    once = [e for e in data.examples if [*e.clean[1:]].count(e.clean[6]) == 2]
    kept = replace(data, examples=tuple([e for e in once if e.clean[2] == e.clean[6]][:24]))
    found = ck.discover_positions(
        model, kept, method="eap_ig(steps=2)", faithfulness=0.9, spans="tokens"
    )
    assert {
        "input@2->a0.h0<v>@2", "a0.h0.v@2->a0.h0@3", "a0.h0@3->a1.h0<k>@3", "a1.h0.k@3->a1.h0@6",
        "input@3->a1.h0<v>@3", "a1.h0.v@3->a1.h0@6", "input@6->a1.h0<q>@6", "a1.h0@6->logits@6",
    } <= {*dict(found.edges(99))}  # fmt: skip
