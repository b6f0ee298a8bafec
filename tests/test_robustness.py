"""Circuits found and measured under every condition: against single evaluations, and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product
from math import isnan
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from families import able, build, distance, model

import circuitkit
from circuitkit.corruptions import counterfactual, mean, noise, zero
from circuitkit.data.batches import Dataset
from circuitkit.discovery import eap_ig
from circuitkit.engine.checkpoints import identity
from circuitkit.errors import ArgumentError, CircuitError, EvaluationError, MetricError, OutputError
from circuitkit.evaluation import robustness
from circuitkit.evaluation.faithfulness import Evaluation, evaluate
from circuitkit.evaluation.masks import node_level
from circuitkit.evaluation.robustness import Robustness, cross_evaluate, discover_each, vary
from circuitkit.graph import circuit as graphs
from circuitkit.graph.compare import compare
from circuitkit.graph.digests import WeightsWarning
from circuitkit.graph.scores import Scores
from circuitkit.metrics import accuracy, kl, logit_diff, probability
from circuitkit.models.transformer_lens import Transformer, from_module

METRICS = (logit_diff, kl)
CORRUPTIONS = (counterfactual, partial(noise, draws=2), zero)
NAMES = ("counterfactual", "noise(draws=2)", "zero")
CONDITIONS = list(zip(CORRUPTIONS, NAMES, strict=True))
# a few prompts of a tiny model leave edges without a score
pytestmark = pytest.mark.filterwarnings("ignore::circuitkit.graph.scores.ScoresWarning")

FAMILY = "llama"
SEEN, UNSEEN = able(FAMILY), able(FAMILY, seed=1)
FEW = able(FAMILY, (5, 5))


@cache
def found() -> Robustness:
    """Circuits of 40 edges under every condition."""
    return vary(model(FAMILY), SEEN, METRICS, CORRUPTIONS, unseen=UNSEEN, edges=40)


def measured(circuits: dict[str, nx.DiGraph], *given: Any, **options: Any) -> Robustness:
    return cross_evaluate(model(FAMILY), circuits, UNSEEN, *given, **options)


def same(one: Robustness, two: Robustness) -> bool:
    """Bit by bit, in the same order."""
    return (
        list(one.circuits) == list(two.circuits)
        and list(one.evaluations) == list(two.evaluations)
        and all(nx.utils.graphs_equal(a, two.circuits[n]) for n, a in one.circuits.items())
        and all(
            np.array_equal(getattr(a, part), getattr(two.evaluations[cell], part))
            for cell, a in one.evaluations.items()
            for part in ("everything", "nothing", "circuit")
        )
    )


# -- against single evaluations --------------------------------------------------------------------
@pytest.mark.parametrize(("corruption", "name"), CONDITIONS, ids=NAMES)
@pytest.mark.parametrize("metric", METRICS)
def test_every_cell_is_the_evaluation_alone(metric: Any, corruption: Any, name: str) -> None:
    m, seen = model(FAMILY), set()
    for label, circuit in found().circuits.items():
        for level, mask in (("edge", circuit), ("node", node_level(circuit, m.wiring))):
            alone = evaluate(m, mask, UNSEEN, metric, corruption)
            cell = found().evaluations[label, name, metric.__name__, level]
            assert distance(cell.circuit, alone.circuit) < 1e-5
            assert cell.faithfulness == pytest.approx(alone.faithfulness, abs=1e-5)
            assert (cell.metric, cell.corruption) == (metric.__name__, name)
            assert cell.edges == alone.edges
            seen.add(round(cell.faithfulness, 6))
    assert len(seen) > 6
    assert len(found().evaluations) == 6 * 6 * 2


@pytest.mark.parametrize(("corruption", "name"), CONDITIONS, ids=NAMES)
@pytest.mark.parametrize("metric", METRICS)
def test_every_circuit_is_what_the_method_finds_there(
    metric: Any, corruption: Any, name: str
) -> None:
    circuit = found().circuits[f"{metric.__name__} under {name}"]
    alone = eap_ig(model(FAMILY), SEEN, metric, corruption).top(40)
    assert np.array_equal(graphs.weight_matrix(circuit), graphs.weight_matrix(alone))
    assert (circuit.graph["metric"], circuit.graph["corruption"]) == (metric.__name__, name)
    assert 30 < len(list(graphs.edges(circuit))) <= 40
    assert len({graphs.mask(c).tobytes() for c in found().circuits.values()}) > 3


def test_the_full_circuit_has_faithfulness_one_everywhere_and_the_empty_one_zero() -> None:
    wiring = model(FAMILY).wiring
    pairs = [(wiring.writers[i], wiring.readers[j]) for i, j in np.argwhere(wiring.legal)]
    ends = {
        "full": graphs.build(wiring, dict.fromkeys(pairs, 1.0)),
        "empty": graphs.build(wiring, {}),
    }
    rows = measured(ends, METRICS, CORRUPTIONS).rows()
    for row in rows:
        expected = 1 if row["circuit"] == "full" else 0
        assert row["faithfulness"] == pytest.approx(expected, abs=1e-4)
        assert row["mean_of_ratios"] == pytest.approx(expected, abs=1e-4)
    assert len(rows) == 2 * 6 * 2


def test_all_circuits_have_the_size_of_the_smallest_that_reaches_its_target() -> None:
    m = model(FAMILY)
    circuits = discover_each(m, FEW, METRICS, [counterfactual, zero])
    first = next(iter(circuits.values()))
    size = len(list(graphs.edges(first)))
    assert evaluate(m, first, FEW, logit_diff, counterfactual).faithfulness >= 0.85
    conditions = product([counterfactual, zero], METRICS)
    for (corruption, metric), circuit in zip(conditions, circuits.values(), strict=True):
        expected = eap_ig(m, FEW, metric, corruption).mask(size)
        assert np.array_equal(graphs.mask(circuit), expected)
    assert 1 < size < m.wiring.n_edges


def test_a_method_that_chooses_its_circuit_never_gives_an_edge_that_it_dropped() -> None:
    m, chosen = model(FAMILY), graphs.mask(next(iter(found().circuits.values())))

    def pruning(m: Transformer, *_: Any, scale: float) -> Scores:
        return Scores(m.wiring, chosen * scale, {"chosen": True})

    (circuit,) = discover_each(
        m, FEW, [logit_diff], [zero], method=partial(pruning, scale=2.0), edges=m.wiring.n_edges
    ).values()
    assert np.array_equal(graphs.mask(circuit), chosen)
    assert 0 < chosen.sum() < m.wiring.n_edges
    assert circuit.graph["method"] == "pruning(scale=2.0)"


# -- what is said of them --------------------------------------------------------------------------
def planted(values: dict[tuple[str, str, str, str], Sequence[float]]) -> Robustness:
    """Evaluations of these circuit values, of a full model of 2 and 4 and a nothing of 0."""
    circuit = next(iter(found().circuits.values()))
    cells = {
        cell: Evaluation(np.array([2.0, 4]), np.zeros(2), np.array(v), cell[2], cell[1], edges=9)
        for cell, v in values.items()
    }
    return Robustness({cell[0]: circuit for cell in cells}, cells)


def four() -> Robustness:
    return planted({
        ("a", "zero", "kl", "edge"): (2, 1),  # ratio of means 1/2, mean of ratios 5/8
        ("a", "zero", "kl", "node"): (2, 4),
        ("a", "mean", "kl", "edge"): (0, 0),
        ("a", "mean", "kl", "node"): (4, 8),
    })  # fmt: skip


def test_rows_hold_both_aggregations_the_interval_and_where_a_circuit_comes_from() -> None:
    rows = found().rows()
    assert len({tuple(map(str, row.values())) for row in rows}) == len(rows) == 72
    for row, (cell, evaluation) in zip(rows, found().evaluations.items(), strict=True):
        keys = ("circuit", "corruption", "metric", "granularity")
        assert tuple(row[key] for key in keys) == cell
        assert row["circuit"] == f"{row['found_metric']} under {row['found_corruption']}"
        assert (row["low"], row["high"]) == evaluation.interval()
        assert row["faithfulness"] == evaluation.faithfulness
        assert row["mean_of_ratios"] == evaluation.mean_of_ratios
        assert row["edges"] == len(list(graphs.edges(found().circuits[cell[0]])))
        assert row["kept"] == evaluation.edges
        assert (row["kept"] == row["edges"]) == (row["granularity"] == "edge")


def test_the_spread_and_what_each_choice_does_are_as_by_hand() -> None:
    assert [row["faithfulness"] for row in four().rows()] == [0.5, 1, 0, 2]
    (spread,) = four().spread()
    assert (spread["lowest"], spread["lowest_at"]) == (0, ("mean", "kl", "edge"))
    assert (spread["highest"], spread["highest_at"]) == (2, ("mean", "kl", "node"))
    by_name = {row["choice"]: row for row in four().choices()}
    assert by_name.keys() == {"corruption", "granularity", "aggregation"}
    # Corruption: 1/2 and 1 of the ratios of means, 5/8 and 1 of the means of ratios.
    assert by_name["corruption"]["mean"] == pytest.approx((0.5 + 1 + 0.625 + 1) / 4)
    assert by_name["granularity"]["mean"] == pytest.approx((0.5 + 2 + 0.375 + 2) / 4)
    assert by_name["granularity"]["largest"] == 2
    assert by_name["aggregation"]["mean"] == pytest.approx(0.125 / 4)


def test_the_overlap_of_every_pair_is_that_of_its_comparison() -> None:
    several, pairs = found().circuits, found().overlap()
    assert len(pairs) == 15
    for pair in pairs:
        both = compare(several[pair["left"]], several[pair["right"]])
        assert pair["jaccard"] == both.edges.jaccard
        assert pair["expected"] == both.edges.expected_jaccard
        assert pair["weighted"] == both.weighted
        assert np.array_equal(pair["spearman"], both.spearman, equal_nan=True)
        assert pair["flipped"] == both.flipped
    assert 0 < min(pair["jaccard"] for pair in pairs) < 1


def test_where_there_is_no_gap_numbers_are_nan_and_a_note_says_why() -> None:
    """The corrupted prompts of these are the clean ones: nothing is explained, but under zero."""
    same_prompts = tuple(replace(e, corrupt=e.clean) for e in UNSEEN.examples)
    data = replace(UNSEEN, examples=same_prompts)
    circuits = dict([next(iter(found().circuits.items()))])
    mixed = cross_evaluate(model(FAMILY), circuits, data, [logit_diff], [counterfactual, zero])
    for row in mixed.rows():
        numbers = [row[key] for key in ("faithfulness", "low", "high", "mean_of_ratios")]
        assert all(map(isnan, numbers)) == (row["corruption"] == "counterfactual")
        assert any(map(isnan, numbers)) == (row["corruption"] == "counterfactual")
    (note,) = mixed.notes
    assert "under counterfactual, so faithfulness is undefined" in note
    assert note in repr(mixed)
    assert mixed.spread()[0]["lowest_at"][0] == "zero"
    assert {row["choice"] for row in mixed.choices()} <= {"granularity", "aggregation"}
    plain = json.loads(json.dumps(mixed.to_dict(), allow_nan=False))
    assert plain["rows"][0]["faithfulness"] is None
    nowhere = cross_evaluate(model(FAMILY), circuits, data, [logit_diff], [counterfactual])
    assert isnan(nowhere.spread()[0]["lowest"])
    assert nowhere.spread()[0]["lowest_at"] is None
    assert nowhere.choices() == []
    assert "–" in repr(nowhere)


def test_it_prints_a_line_for_each_circuit_and_corruption_and_is_json() -> None:
    text = repr(found())
    for name in NAMES:
        assert text.count(f"evaluated under {name}") == 1
    for name, circuit in found().circuits.items():
        assert sum(line.startswith(f"{name} ") for line in text.splitlines()) == len(NAMES)
        cell = found().evaluations[name, "zero", "kl", "node"]
        assert f"{cell.faithfulness:.2f}" in text
        assert circuit.graph["metric"] in text
    for words in ("6 circuits under 3 corruptions × 2 metrics", "edge ablation", "node ablation",
                  "mean Jaccard of pairs"):  # fmt: skip
        assert words in text
    assert "-0.00" not in text
    assert max(map(len, text.splitlines())) < 120
    plain = json.loads(json.dumps(found().to_dict(), allow_nan=False))
    assert [len(plain[part]) for part in ("rows", "spread", "overlap")] == [72, 6, 15]
    assert plain["notes"] == []


def test_own_circuits_are_measured_without_a_discovery() -> None:
    circuits = {"mine": next(iter(found().circuits.values())).copy()}
    circuits["mine"].graph.pop("metric")
    own = measured(circuits, [logit_diff], [mean], granularities=["node"])
    (row,) = own.rows()
    assert (row["circuit"], row["found_metric"], row["granularity"]) == ("mine", None, "node")
    assert own.overlap() == []
    assert "mine" in repr(own)
    assert own.circuits is not circuits


# -- resumed ---------------------------------------------------------------------------------------
class Watched:
    """Counts discoveries and evaluated corruptions; after ``most`` of both it raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.most = 1000
        for name in ("measure_all", "smallest"):
            inner: Callable[..., Any] = getattr(robustness, name)
            monkeypatch.setattr(robustness, name, partial(self.count, name, inner))

    def method(self, *given: Any) -> Any:
        return self.count("method", partial(eap_ig, steps=1), *given)

    def count(self, name: str, inner: Callable[..., Any], *given: Any, **options: Any) -> Any:
        if len(self.done) == self.most:
            raise KeyboardInterrupt
        self.done.append(name)
        return inner(*given, **options)

    def run(self, place: Path | None, m: Transformer | None = None, **changed: Any) -> Robustness:
        self.done.clear()
        given = {"metrics": METRICS, "corruptions": [counterfactual, zero], "unseen": FEW}
        given["samples"] = 1
        options: dict[str, Any] = {**given, **changed, "method": self.method, "resume": place}
        return vary(m or model(FAMILY), FEW, **options)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def test_circuits_of_one_size_do_not_take_each_others_values(tmp_path: Path) -> None:
    one, other = list(found().circuits.values())[:2]
    values = []
    for circuit in (one, other):
        given = model(FAMILY), {"mine": circuit}, FEW, [logit_diff], [counterfactual]
        kept = cross_evaluate(*given, granularities=["edge"], resume=tmp_path)
        assert same(kept, cross_evaluate(*given, granularities=["edge"]))
        values.append(next(iter(kept.evaluations.values())).circuit)
    sizes = [len(list(graphs.edges(circuit))) for circuit in (one, other)]
    assert sizes[0] == sizes[1]
    assert not np.array_equal(*values)


WHOLE = [*["method"] * 4, "smallest", *["measure_all"] * 2]


def test_a_finished_run_is_taken_up_whole(watched: Watched, tmp_path: Path) -> None:
    first = watched.run(tmp_path)
    assert watched.done == WHOLE
    again = watched.run(tmp_path)
    assert watched.done == []
    assert same(first, again)
    assert same(first, watched.run(None))
    assert watched.done == WHOLE


@pytest.mark.parametrize("killed", [2, 4, 6])
def test_a_run_that_is_killed_loses_no_finished_block(
    killed: int, watched: Watched, tmp_path: Path
) -> None:
    watched.most = killed
    with pytest.raises(KeyboardInterrupt):
        watched.run(tmp_path)
    assert len(watched.done) == killed
    watched.most = 1000
    resumed = watched.run(tmp_path)
    assert watched.done == WHOLE[killed:]
    assert same(resumed, watched.run(None))


def test_other_work_takes_up_what_is_the_same_and_nothing_else(
    watched: Watched, tmp_path: Path
) -> None:
    watched.run(tmp_path)
    shorter = watched.run(tmp_path, corruptions=[counterfactual])
    assert watched.done == ["measure_all"]  # other circuits
    assert same(shorter, watched.run(None, corruptions=[counterfactual]))
    watched.run(tmp_path, unseen=able(FAMILY, (5, 6), seed=2))
    assert watched.done == ["measure_all"] * 2
    watched.run(tmp_path, m=model("qwen2"))
    assert watched.done == WHOLE


def test_the_identity_of_data_counts_all_that_its_examples_hold() -> None:
    m, one = model(FAMILY), UNSEEN.examples[0]
    changed: dict[str, Any] = {
        "clean": one.corrupt,
        "corrupt": one.clean,
        "correct": one.wrong,
        "wrong": one.correct,
        "spans": {"end": one.spans["end"]},
        "corruptions": {"other": one.clean},
        "paired": False,
        "sequences": (((1, 2),), ((3,),)),
        "corrupt_spans": {"end": one.spans["end"]},
    }
    assert changed.keys() == vars(one).keys()
    every = [one, *(replace(one, **{name: value}) for name, value in changed.items())]
    found = [identity(m, replace(UNSEEN, examples=(example,))) for example in every]
    found += [identity(m, replace(UNSEEN, examples=(one,), **{name: value}))
              for name, value in (("batch_size", 1), ("padding", "left"))]  # fmt: skip
    assert len({each["data"] for each in found}) == len(found) == 12
    assert found[0] == identity(m, replace(UNSEEN, examples=(replace(one),)))


def test_the_order_of_circuits_and_granularities_is_no_matter_of_the_blocks(tmp_path: Path) -> None:
    one = dict(list(found().circuits.items())[::5])
    assert len(one) == 2
    for circuits in (one, dict(reversed(one.items()))):
        for levels in (["edge", "node"], ["node", "edge"], ["node"]):
            given = circuits, [logit_diff], [zero]
            resumed = measured(*given, granularities=levels, resume=tmp_path)
            assert same(resumed, measured(*given, granularities=levels))


def test_blocks_of_another_model_of_that_name_are_refused(tmp_path: Path) -> None:
    circuits = dict(list(found().circuits.items())[:1])
    given = UNSEEN, [logit_diff], [zero]
    cross_evaluate(model(FAMILY), circuits, *given, resume=tmp_path)
    trained = _with_another_weight(model(FAMILY))
    with (
        pytest.warns(WeightsWarning, match="found on 'llama' with other weights"),
        pytest.raises(OutputError, match="a different model with the same name 'llama'"),
    ):
        cross_evaluate(trained, circuits, *given, resume=tmp_path)
    cross_evaluate(model(FAMILY), circuits, *given, resume=tmp_path)


def _with_another_weight(m: Transformer) -> Transformer:
    """The family's model after a step of training."""
    module = build(m.name)
    with torch.no_grad():
        module.lm_head.weight.mul_(1.1)
    return from_module(module, name=m.name)


# -- what cannot be done ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("metrics", "corruptions", "message"),
    [
        ([], [zero], "the metrics are none"),
        ([kl], [], "the corruptions are none"),
        ([kl, kl], [zero], "the metrics are kl, kl; .* each with a name of its own"),
        ([kl], [zero, zero], "the corruptions are zero, zero"),
    ],
)
def test_conditions_are_there_and_have_names_of_their_own(
    metrics: list[Any], corruptions: list[Any], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        vary(model(FAMILY), SEEN, metrics, corruptions, unseen=UNSEEN)
    with pytest.raises(EvaluationError, match=message):
        measured(dict(found().circuits), metrics, corruptions)


@pytest.mark.parametrize("levels", [[], ["layer"], ["edge", "nodes"]])
def test_a_granularity_that_is_not_known_is_refused(levels: list[str]) -> None:
    with pytest.raises(CircuitError, match="choose from edge, node"):
        measured(dict(found().circuits), [kl], [zero], granularities=levels)


def test_what_does_not_fit_raises_its_own_error(tmp_path: Path) -> None:
    m = model(FAMILY)
    with pytest.raises(CircuitError, match="0 circuits"):
        measured({}, [kl], [zero])
    with pytest.raises(CircuitError, match="belongs to"):
        cross_evaluate(model("gpt2"), found().circuits, able("gpt2"), [kl], [zero])
    with pytest.raises(ArgumentError, match="edges=0"):
        discover_each(m, SEEN, [logit_diff], [zero], edges=0)
    with pytest.raises(MetricError, match="accuracy has no gradient"):
        discover_each(m, SEEN, [accuracy], [zero])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        discover_each(m, SEEN, [logit_diff], [zero], resume=tmp_path / "file")


# -- a real task -----------------------------------------------------------------------------------
@pytest.mark.weekly
def test_a_circuit_of_mini_is_more_faithful_where_it_was_found() -> None:
    m = circuitkit.load("mini")
    seen, unseen = (Dataset.of(t, m) for t in circuitkit.make_task("ioi", m, n=48).split(24))
    corruptions = [counterfactual, zero]
    several = vary(m, seen, [logit_diff, probability], corruptions, unseen=unseen)
    own, other = (
        several.evaluations["logit_diff under counterfactual", c, "logit_diff", "edge"].faithfulness
        for c in ("counterfactual", "zero")
    )
    assert own > 0.75
    assert own > other + 0.2
    assert several.overlap()[0]["jaccard"] > several.overlap()[0]["expected"]
