"""Faithfulness: by hand, against TransformerLens, and what it does not depend on."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache, partial
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch
from families import (
    CORRUPTIONS,
    FAMILIES,
    able,
    as_batch,
    dataset,
    distance,
    in_turn,
    mlp_column,
    model,
    port_columns,
    pristine,
)
from oracles import Oracle
from scipy.stats import binom
from torch import Tensor

from circuitkit.corruptions import counterfactual, noise
from circuitkit.data.batches import Batch, Dataset
from circuitkit.data.examples import Example
from circuitkit.discovery import clean_corrupted, eap, eap_ig
from circuitkit.errors import ArgumentError, CircuitError, EvaluationError, MetricError
from circuitkit.evaluation.ability import ability
from circuitkit.evaluation.choosing import smallest
from circuitkit.evaluation.curves import Curve, curve
from circuitkit.evaluation.faithfulness import (
    Evaluation,
    completeness,
    evaluate,
    evaluate_beside,
    measure_all,
)
from circuitkit.evaluation.masks import node_level, random_masks
from circuitkit.graph import circuit as graphs
from circuitkit.graph.nodes import parse_edge
from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics import accuracy, js, kl, log_probability, logit_diff
from circuitkit.registry import resolve

every_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def scores_of(family: str) -> Scores:
    """Scores to select circuits by."""
    return eap(model(family), able(family), logit_diff, counterfactual)


def evaluation(
    everything: Any, nothing: Any, circuit: Any, metric: str = "logit_diff"
) -> Evaluation:
    """An evaluation with these values."""
    values = (np.array(x, dtype=float) for x in (everything, nothing, circuit))
    return Evaluation(*values, metric, "zero", edges=3)


def rows(found: Evaluation) -> np.ndarray:
    """Its values as a table."""
    return np.stack([found.everything, found.nothing, found.circuit])


# -- the two ends ----------------------------------------------------------------------------------
@pytest.mark.parametrize(("family", "corruption"), in_turn(*CORRUPTIONS))
def test_the_full_circuit_has_faithfulness_one_and_the_empty_one_zero(
    family: str, corruption: str
) -> None:
    m, data = model(family), able(family)
    ends = [m.wiring.legal, np.zeros_like(m.wiring.legal)]
    full, empty = evaluate(m, ends, data, logit_diff, resolve("corruptions", corruption))
    assert full.faithfulness == pytest.approx(1, abs=1e-4)
    assert empty.faithfulness == 0
    assert distance(full.circuit, full.everything) < 1e-4
    assert np.array_equal(empty.circuit, empty.nothing)
    assert distance(full.nothing, full.everything) > 1e-2
    assert (full.edges, empty.edges) == (m.wiring.n_edges, 0)
    assert full.corruption == corruption


# -- against others --------------------------------------------------------------------------------
@every_family
def test_every_value_is_that_of_the_run_done_by_hand(family: str) -> None:
    m, data = model(family), able(family)
    by_hand, keep = Oracle(pristine(family), m.wiring), scores_of(family).mask(60)
    expected = []
    for example in data.examples:
        batch = as_batch(Dataset((example,)))
        carried = by_hand.plain(batch.corrupt, batch.mask)
        with torch.no_grad():
            logits = torch.cat(
                [
                    by_hand.logits(batch.clean)[:, -1],
                    by_hand.logits(batch.corrupt)[:, -1],
                    by_hand.run(batch, carried, keep),
                ]
            )
        expected.append(logits[:, example.correct[0]] - logits[:, example.wrong[0]])
    found = evaluate(m, keep, data, logit_diff, counterfactual)
    table = torch.stack(expected, dim=1).double().numpy()
    assert distance(rows(found), table) < 1e-4
    everything, nothing, circuit = table.mean(1)
    ratio = (circuit - nothing) / (everything - nothing)
    assert found.faithfulness == pytest.approx(ratio, abs=1e-4)


@pytest.mark.parametrize(
    "family", ["gpt2", "neox-parallel", pytest.param("neox-serial", marks=pytest.mark.weekly)]
)
def test_faithfulness_agrees_with_transformer_lens(family: str) -> None:
    """Theirs is of one pair, and its edges are of one position: all of an edge's are kept."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformer_lens.tools.analysis import attribution_patching as theirs

    module, m = pristine(family), model(family)
    bridge = build_bridge_from_module(
        module, architecture=type(module).__name__, hf_config=module.config, tokenizer=None
    ).eval()
    keep = scores_of(family).mask(80)
    for example in able(family, (6, 5)).examples:
        good, bad = example.correct[0], example.wrong[0]

        def metric(logits: Tensor, good: int = good, bad: int = bad) -> Tensor:
            return logits[0, -1, good] - logits[0, -1, bad]

        pair = torch.tensor([example.clean]), torch.tensor([example.corrupt])
        config = theirs.EdgeAttributionConfig(granularity="edge")
        edges = theirs.attribution_patch(bridge, *pair, metric, config).edge_scores
        kept = [e for e in edges if keep[m.wiring.index(*(our_name(n) for n in e))]]
        assert 0 < len(kept) < len(edges)
        expected = theirs.faithfulness(bridge, *pair, metric, kept).recovered
        found = evaluate(m, keep, Dataset((example,)), logit_diff, counterfactual).faithfulness
        assert found == pytest.approx(expected, abs=1e-4)
        assert abs(found) > 1e-3
        assert abs(found - 1) > 1e-3


def our_name(node: Any) -> str:
    """A node of TransformerLens in our grammar."""
    if node.kind in ("embed", "logits"):
        return "input" if node.kind == "embed" else "logits"
    if node.kind in ("mlp_in", "mlp_out"):
        return f"m{node.layer}"
    head = f"a{node.layer}.h{node.head}"
    return head if node.kind == "attn_head_out" else f"{head}.{node.kind[0]}"


# -- what values do not depend on ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("family", "corruption"), [*zip(cycle(["gpt2", "llama", "gemma2"]), CORRUPTIONS, strict=False)]
)
def test_the_value_of_an_example_depends_on_no_batch(family: str, corruption: str) -> None:
    """Not on the batch size, the padding side or the order of the examples."""
    m, data, carry = model(family), able(family), resolve("corruptions", corruption)
    keep = scores_of(family).mask(60)
    expected = evaluate(m, keep, data, logit_diff, carry)
    back = data.examples[::-1]
    for changed, order in (
        (replace(data, batch_size=1), slice(None)),
        (replace(data, batch_size=100, padding="left"), slice(None)),
        (replace(data, batch_size=2, examples=back), slice(None, None, -1)),
    ):
        found = evaluate(m, keep, changed, logit_diff, carry)
        assert distance(rows(found)[:, order], rows(expected)) < 1e-4
    assert distance(expected.circuit, expected.everything) > 1e-2
    assert distance(expected.nothing, expected.circuit) > 1e-2


@pytest.mark.parametrize("kind", [list, tuple])
def test_several_circuits_at_once_are_each_as_alone(kind: Any) -> None:
    m, data = model("llama"), able("llama")
    scores = scores_of("llama")
    circuits = [scores.mask(20), scores.top(60), m.wiring.legal]
    together = evaluate(m, kind(circuits), data, logit_diff, counterfactual)
    assert len(together) == 3
    for circuit, found in zip(circuits, together, strict=True):
        alone = evaluate(m, circuit, data, logit_diff, counterfactual)
        assert isinstance(alone, Evaluation)
        assert distance(found.circuit, alone.circuit) < 1e-5
        assert found.edges == alone.edges
    assert len({e.faithfulness for e in together}) == 3
    with pytest.raises(CircuitError, match="give at least one"):
        evaluate(m, [], data, logit_diff, counterfactual)


def test_a_graph_is_evaluated_as_the_mask_of_its_edges() -> None:
    m, data, scores = model("gpt2"), able("gpt2"), scores_of("gpt2")
    graph = evaluate(m, scores.top(50), data, logit_diff, counterfactual)
    mask = evaluate(m, scores.mask(50), data, logit_diff, counterfactual)
    assert np.array_equal(graph.circuit, mask.circuit)
    assert graph.edges == mask.edges == scores.mask(50).sum()


@pytest.mark.parametrize(
    ("carry", "kind"), [(counterfactual, list), (partial(noise, draws=2), tuple)],
    ids=["one", "two"],
)  # fmt: skip
def test_several_metrics_are_each_as_alone(carry: Any, kind: Any) -> None:
    m, data, metrics = model("llama"), able("llama"), kind([logit_diff, kl, log_probability])
    masks = [scores_of("llama").mask(n) for n in (30, 60)]
    together = evaluate(m, masks, data, metrics, carry)
    assert [len(each) for each in together] == [2, 2, 2]
    tables = measure_all(m, masks, data, metrics, carry)
    assert tables.shape == (3, 4, len(data))
    for metric, found, table in zip(metrics, together, tables, strict=True):
        alone = evaluate(m, masks, data, metric, carry)
        assert np.array_equal(table, measure_all(m, masks, data, [metric], carry)[0])
        assert [e.metric for e in found] == [metric.__name__] * 2
        for one, other in zip(found, alone, strict=True):
            assert np.array_equal(rows(one), rows(other))
            assert (one.edges, one.corruption) == (other.edges, other.corruption)
    assert distance(tables[0], tables[1]) > 1e-2
    assert distance(tables[1], tables[2]) > 1e-2


def test_several_metrics_of_one_circuit_are_a_list_and_share_their_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    m, data, seen = model("gpt2"), able("gpt2"), []
    module = sys.modules["circuitkit.evaluation.faithfulness"]
    inner = module.runs

    def counted(*given: Any, **options: Any) -> Any:
        seen.append(given)
        return inner(*given, **options)

    monkeypatch.setattr(module, "runs", counted)
    found = evaluate(m, scores_of("gpt2").mask(60), data, [logit_diff, kl], counterfactual)
    assert len(seen) == len(list(data))
    assert [e.metric for e in found] == ["logit_diff", "kl"]
    (only,) = evaluate(m, scores_of("gpt2").mask(60), data, [kl], counterfactual)
    assert np.array_equal(only.circuit, found[1].circuit)


def test_without_a_metric_nothing_is_measured() -> None:
    with pytest.raises(MetricError, match="no metrics; give at least one"):
        evaluate(model("gpt2"), model("gpt2").wiring.legal, dataset(), [], counterfactual)


def test_dead_ends_change_nothing() -> None:
    m, data = model("gpt2"), able("gpt2")
    keep = scores_of("gpt2").mask(40)
    row, column = m.wiring.writer["a0.h0"], mlp_column(m.wiring, m.wiring.layers - 1)
    keep[:, port_columns(m.wiring, 0)["q"].start] = False
    lonely = keep.copy()
    lonely[:, list(m.wiring.feeds(row))] = False
    lonely[row, :] = False
    with_dead_end = lonely.copy()
    with_dead_end[row, column] = True  # a head without inputs
    assert (with_dead_end != lonely).sum() == 1
    one, two = evaluate(m, [lonely, with_dead_end], data, logit_diff, counterfactual)
    assert np.array_equal(one.circuit, two.circuit)


def test_draws_of_a_corruption_are_averaged() -> None:
    m, data, keep = model("gpt2"), able("gpt2"), scores_of("gpt2").mask(60)
    found = evaluate(m, keep, data, logit_diff, partial(noise, draws=3))

    def third(draw: int) -> Any:
        def carry(model: Any, data: Dataset) -> Any:
            made = noise(model, data, draws=3)
            return lambda batch: made(batch)[draw : draw + 1]

        return carry

    singles = [evaluate(m, keep, data, logit_diff, third(i)) for i in range(3)]
    for name in ("nothing", "circuit"):
        each = [getattr(e, name) for e in singles]
        assert distance(getattr(found, name), np.mean(each, axis=0)) < 1e-5
        assert distance(each[0], each[1]) > 1e-2


# -- whole nodes -----------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [6, 15])
@every_family
def test_a_circuit_of_whole_nodes_holds_all_edges_out_of_the_nodes_of_its_graph(
    family: str, size: int
) -> None:
    wiring, circuit = model(family).wiring, scores_of(family).top(size)
    whole = node_level(circuit, wiring)
    for writer, out, legal in zip(wiring.writers, whole, wiring.legal, strict=True):
        assert np.array_equal(out, legal if writer in circuit else 0 & legal)
    assert not (graphs.mask(circuit) & ~whole).any()
    assert graphs.mask(circuit).sum() < whole.sum() < wiring.n_edges
    assert np.array_equal(whole, node_level(graphs.mask(circuit), wiring))


def test_the_ends_are_the_same_by_nodes_as_by_edges() -> None:
    wiring = model("llama").wiring
    assert np.array_equal(node_level(wiring.legal, wiring), wiring.legal)
    assert not node_level(np.zeros_like(wiring.legal), wiring).any()


@pytest.mark.parametrize(
    ("edge", "held"),
    [
        ("input->a1.h2<q>", {"input", "a1.h2"}),
        ("a0.h1->m1", {"a0.h1", "m1"}),
        ("m0->logits", {"m0"}),
        ("input->a1.g0<k>", {"input"}),  # heads 0 and 1 share it
    ],
)
def test_a_node_is_held_that_writes_or_reads_by_itself(edge: str, held: set[str]) -> None:
    wiring = model("llama").wiring
    keep = np.zeros(wiring.shape, dtype=bool)
    keep[wiring.index(*parse_edge(edge))] = True
    live = node_level(keep, wiring).any(1)
    assert {w for w, there in zip(wiring.writers, live, strict=True) if there} == held


def test_other_nodes_are_ablated_as_hooks_on_their_outputs_do_it() -> None:
    """On a plain module: what heads and MLPs outside write is put in from the corrupted run."""
    module, m, data = pristine("gpt2"), model("gpt2"), able("gpt2", (7, 7, 7))
    batch, circuit = as_batch(data), scores_of("gpt2").top(12)
    assert "input" in circuit
    heads, width = m.wiring.heads, m.d_head
    corrupted: dict[str, Tensor] = {}

    def put(layer: int, replace_it: bool) -> Any:
        def before(_: Any, args: Any) -> Any:
            z = args[0].unflatten(-1, (heads, width)).clone()
            for head in range(heads):
                name = f"a{layer}.h{head}"
                if not replace_it:
                    corrupted[name] = z[:, :, head].clone()
                elif name not in circuit:
                    z[:, :, head] = corrupted[name]
            return (z.flatten(-2),)

        def after(_: Any, __: Any, out: Tensor) -> Tensor:
            if not replace_it:
                corrupted[f"m{layer}"] = out.clone()
            return out if f"m{layer}" in circuit else corrupted[f"m{layer}"]

        return before, after

    def logits(tokens: Tensor, replace_it: bool) -> Tensor:
        handles = []
        for layer, block in enumerate(module.transformer.h):
            before, after = put(layer, replace_it)
            handles.append(block.attn.c_proj.register_forward_pre_hook(before))
            handles.append(block.mlp.register_forward_hook(after))
        with torch.no_grad():
            found = module(input_ids=tokens).logits[:, -1]
        for handle in handles:
            handle.remove()
        return found

    logits(batch.corrupt, False)
    expected = logit_diff(logits(batch.clean, True), torch.empty(0), batch).double().numpy()
    by_nodes = node_level(circuit, m.wiring)
    found, edges = evaluate(m, [by_nodes, circuit], data, logit_diff, counterfactual)
    assert distance(found.circuit, expected) < 1e-4
    assert distance(edges.circuit, expected) > 1e-2
    assert distance(found.everything, expected) > 1e-2
    assert distance(found.nothing, expected) > 1e-2


# -- the numbers of an evaluation ------------------------------------------------------------------
def test_the_ratio_of_means_and_the_mean_of_ratios_are_as_worked_by_hand() -> None:
    found = evaluation([4, 2], [0, 1], [2, 2])
    assert found.faithfulness == pytest.approx((2 - 0.5) / (3 - 0.5))
    assert found.mean_of_ratios == pytest.approx((2 / 4 + 1 / 1) / 2)


def test_an_example_without_a_gap_is_left_out_of_the_mean_of_ratios() -> None:
    found = evaluation([4, 1, 2], [0, 1, 1], [2, 5, 2])
    assert found.mean_of_ratios == pytest.approx((0.5 + 1) / 2)


@pytest.mark.parametrize("shift", [-7.0, 3.0])
@pytest.mark.parametrize("scale", [-2.0, 0.1])
def test_faithfulness_has_no_unit(shift: float, scale: float) -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(3, 20)) + np.array([[3], [0], [2]])
    one, two = evaluation(*table), evaluation(*(table * scale + shift))
    assert two.faithfulness == pytest.approx(one.faithfulness)
    assert two.mean_of_ratios == pytest.approx(one.mean_of_ratios)
    assert two.interval() == pytest.approx(one.interval())


def sampled(n: int, seed: int = 0) -> Evaluation:
    """Values of n examples with a true faithfulness of 2/3."""
    rng = np.random.default_rng(seed)
    return evaluation(*(rng.normal(size=(3, n)) + np.array([[3], [0], [2]])))


def test_the_interval_holds_the_estimate_shrinks_with_examples_and_grows_with_its_level() -> None:
    widths = []
    for n in (25, 400, 6400):
        found = sampled(n)
        low, high = found.interval()
        assert low < found.faithfulness < high
        wide = found.interval(level=0.99)
        assert wide[0] < low < high < wide[1]
        widths.append(high - low)
    assert 2.5 < widths[0] / widths[1] < 6.5  # 16 times as many examples: about 4
    assert 2.5 < widths[1] / widths[2] < 6.5
    assert sampled(25).interval() == sampled(25).interval()
    assert sampled(25).interval(seed=1) != sampled(25).interval()


def test_the_interval_is_where_95_percent_of_the_redrawn_ratios_lie() -> None:
    """Of examples that give 0 or 1 of a gap of 1, a ratio is the share of ones in a draw."""
    ones = np.array([1.0] * 120 + [0.0] * 80)
    found = evaluation([1.0] * 200, [0.0] * 200, ones)
    picks = np.random.default_rng(4).integers(0, 200, (1001, 200))
    shares = np.sort(ones[picks].mean(1))
    assert found.interval(resamples=1001, seed=4) == (shares[25], shares[975])  # of 0 to 1000
    low, high = found.interval(resamples=20_000)
    assert (low, high) == pytest.approx(binom.ppf([0.025, 0.975], 200, 0.6) / 200, abs=0.006)


def test_an_interval_of_equal_examples_is_not_known() -> None:
    """They say nothing of how others scatter."""
    assert np.isnan(evaluation([2] * 5, [0] * 5, [1] * 5).interval()).all()


@pytest.mark.parametrize("gap", [0.0, 1e-9])
def test_without_a_gap_faithfulness_is_undefined(gap: float) -> None:
    found = evaluation([1 + gap, 3], [3, 1], [2, 2])
    with pytest.raises(EvaluationError, match=r"logit_diff is 2 .* under zero, so faithfulness is"):
        _ = found.faithfulness


def test_without_a_gap_an_evaluation_still_prints() -> None:
    """Printing is no place for an error: a notebook shows what was measured."""
    text = repr(evaluation([1, 3], [3, 1], [2, 2]))
    assert "undefined" in text or "nan" in text


def test_an_evaluation_prints_what_was_measured() -> None:
    text = repr(evaluation([4, 2], [0, 1], [2, 2]))
    assert "faithfulness 0.600" in text
    assert all(part in text for part in ("3 edges", "logit_diff under zero", "2 examples"))


# -- completeness, curves, sizes -------------------------------------------------------------------
def test_completeness_is_the_faithfulness_of_all_other_edges() -> None:
    m, data = model("gpt2"), able("gpt2")
    keep = scores_of("gpt2").mask(40)
    found = completeness(m, keep, data, logit_diff, counterfactual)
    rest = evaluate(m, m.wiring.legal & ~keep, data, logit_diff, counterfactual)
    assert np.array_equal(found.circuit, rest.circuit)
    assert found.edges == m.wiring.n_edges - keep.sum()
    whole = completeness(m, m.wiring.legal, data, logit_diff, counterfactual)
    nothing = completeness(m, np.zeros_like(keep), data, logit_diff, counterfactual)
    assert whole.faithfulness == 0
    assert nothing.faithfulness == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("rule", ["abs", "signed", "greedy"])
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "attention-only"])
def test_a_curve_grows_to_the_whole_model_where_it_is_one(family: str, rule: str) -> None:
    m, data, scores = model(family), able(family), scores_of(family)
    found = curve(m, scores, data, logit_diff, counterfactual, rule=rule)
    assert found.total == found.edges[-1] == m.wiring.n_edges
    assert found.faithfulness[-1] == pytest.approx(1, abs=1e-4)
    assert list(found.edges) == sorted(found.edges)
    assert len(found.edges) == len(found.evaluations) > 4
    assert [e.edges for e in found.evaluations] == list(found.edges)
    middle = evaluate(m, scores.mask(found.edges[3], rule), data, logit_diff, counterfactual)
    assert found.faithfulness[3] == pytest.approx(middle.faithfulness, abs=1e-6)


def test_a_curve_has_the_sizes_that_are_asked_for() -> None:
    m, values = model("gpt2"), scores_of("gpt2").values.copy()
    values[m.wiring.index("input", "logits")] = 0
    scores = Scores(m.wiring, values, scores_of("gpt2").about)
    found = curve(m, scores, able("gpt2"), logit_diff, counterfactual, sizes=[1, 20, 90])
    assert found.edges == (1, 20, 90)
    assert scores.filled(1, "mib")[0].sum() == 0  # one edge of another kind is no circuit
    found = curve(m, scores, able("gpt2"), logit_diff, counterfactual, sizes=[1, 90], rule="mib")
    assert found.edges == (int(scores.mask(90, "mib").sum()),)


def made_curve(edges: list[int], faithfulness: list[float]) -> Curve:
    """A curve through these points."""
    points = [evaluation([1, 1], [0, 0], [f, f]) for f in faithfulness]
    return Curve(tuple(edges), tuple(points), edges[-1])


def test_curves_are_drawn_with_their_intervals() -> None:
    one, two = made_curve([1, 10, 100], [0.0, 0.5, 1.0]), made_curve([10, 50], [0.2, 0.9])
    figure = one.plot(two, names=["one", "two"])
    assert list(figure.x) == [1, 10, 50, 100]
    np.testing.assert_allclose(figure.series["one"], [0, 0.5, np.nan, 1])
    np.testing.assert_allclose(figure.series["two"], [np.nan, 0.2, 0.9, np.nan])
    for name, curved in (("one", one), ("two", two)):
        low, high = (np.array(edge)[[0, 1, 3] if name == "one" else [1, 2]]
                     for edge in figure.bands[name])  # fmt: skip
        intervals = [e.interval() for e in curved.evaluations]
        np.testing.assert_allclose(np.stack([low, high], 1), intervals)
    assert "<svg" in one._repr_html_()


def test_the_area_under_a_curve_is_as_worked_by_hand() -> None:
    found = made_curve([1, 10, 100], [0.0, 0.5, 1.0])
    assert found.area() == pytest.approx(0.5)  # a straight line in log(edges)
    expected = (9 * 0.25 + 90 * 0.75) / 99
    assert found.area("linear") == pytest.approx(expected)
    assert made_curve([5, 50], [0.7, 0.7]).area() == pytest.approx(0.7)
    assert made_curve([50], [0.7]).area() == pytest.approx(0.7)


@pytest.mark.parametrize("edges", [2, 10, 50, 80])
@pytest.mark.parametrize("wiring", [Wiring(3, 4, 2), Wiring(2, 4, 4, mlp=False), Wiring(30, 9, 3)])
def test_random_circuits_have_the_same_size_and_hang_together(wiring: Wiring, edges: int) -> None:
    """A smaller one would be too easy to beat."""
    masks = random_masks(wiring, edges, n=12)
    assert len(masks) == 12
    for mask in masks:
        assert np.array_equal(wiring.alive(mask), mask)
        assert mask.sum() == edges


def test_random_circuits_depend_on_the_seed_alone() -> None:
    wiring = Wiring(3, 4, 2)
    masks, again, other = (random_masks(wiring, 60, n=4, seed=s) for s in (0, 0, 1))
    assert len({mask.tobytes() for mask in masks + other}) == 8
    assert all(np.array_equal(a, b) for a, b in zip(masks, again, strict=True))


def test_a_circuit_is_evaluated_beside_all_other_edges_and_random_circuits_of_its_size() -> None:
    m, data, keep = model("gpt2"), able("gpt2"), scores_of("gpt2").mask(60)
    inputs = data, logit_diff, counterfactual
    found, others, chance, halves, _ = evaluate_beside(m, keep, *inputs, random=2, seed=3)
    assert halves == ()
    drawn = random_masks(m.wiring, int(keep.sum()), n=2, seed=3)
    expected = evaluate(m, [keep, m.wiring.legal & ~keep, *drawn], *inputs)
    assert [e.edges for e in (found, others, *chance)] == [e.edges for e in expected]
    for one, other in zip((found, others, *chance), expected, strict=True):
        assert np.array_equal(rows(one), rows(other))


@pytest.mark.parametrize("target", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_smallest_circuit_reaches_its_target(family: str, target: float) -> None:
    """It is one of the best circuits of some size."""
    m, data, scores = model(family), able(family), scores_of(family)
    found = smallest(m, scores, data, logit_diff, counterfactual, target=target - 1e-4)
    again = evaluate(m, found, data, logit_diff, counterfactual)
    assert again.faithfulness == pytest.approx(found.value, abs=1e-6)
    assert found.value >= target - 1e-4
    assert np.array_equal(scores.mask(found.edges), found.mask)


def test_a_target_that_nothing_reaches_is_refused() -> None:
    with pytest.raises(EvaluationError, match="no circuit reaches the faithfulness 1000"):
        smallest(
            model("gpt2"), scores_of("gpt2"), able("gpt2"), logit_diff, counterfactual, target=1000
        )


# -- ability ---------------------------------------------------------------------------------------
def with_accuracy(right: int, wrong: int) -> Dataset:
    """Prompts of which the model does so many right."""
    data = able("gpt2", (7,) * (right + wrong), seed=2)
    swapped = [replace(e, correct=e.wrong, wrong=e.correct) for e in data.examples[right:]]
    return replace(data, examples=(*data.examples[:right], *swapped))


@pytest.mark.parametrize(("right", "wrong"), [(8, 0), (6, 2), (5, 3), (0, 8)])
def test_a_task_is_admitted_from_an_accuracy_of_three_quarters(right: int, wrong: int) -> None:
    m, data = model("gpt2"), with_accuracy(right, wrong)
    found = ability(m, data, logit_diff)
    assert found.accuracy == right / (right + wrong)
    whole = evaluate(m, m.wiring.legal, data, logit_diff, counterfactual)
    assert found.clean == pytest.approx(whole.everything.mean(), abs=1e-4)
    assert found.corrupt == pytest.approx(whole.nothing.mean(), abs=1e-4)
    assert found.examples == 8
    if found.accuracy >= 0.75:
        found.require("ioi")
    else:
        said = rf"does ioi on {right / 8:.0%} of 8 prompts .* 75%; .* --known .* --force"
        with pytest.raises(EvaluationError, match=said):
            found.require("ioi")
    assert f"{found.accuracy:.1%}" in repr(found)


# -- what cannot be judged -------------------------------------------------------------------------
@pytest.mark.parametrize("metric", [kl, js])
def test_a_divergence_has_no_gradient_at_the_clean_run_but_on_the_way(metric: Any) -> None:
    m, data = model("gpt2"), dataset()
    with pytest.raises(MetricError, match=f"{metric.__name__} is zero wherever eap .*eap_ig"):
        eap(m, data, metric, counterfactual)
    for method in (eap_ig, clean_corrupted):
        assert np.abs(method(m, data, metric, counterfactual).values).max() > 1e-2


@pytest.mark.parametrize("method", [eap, eap_ig, clean_corrupted])
def test_accuracy_has_no_gradient_and_is_refused_by_name(method: Any) -> None:
    with pytest.raises(MetricError, match="accuracy has no gradient"):
        method(model("gpt2"), dataset(), accuracy, counterfactual)


def reduced(logits: Tensor, reference: Tensor, batch: Batch) -> Tensor:
    """A metric that breaks its promise: one value for the batch."""
    return logit_diff(logits, reference, batch).mean()


@pytest.mark.parametrize("size", [4, 1])
def test_a_metric_that_reduces_is_refused_by_discovery_and_evaluation(size: int) -> None:
    m, data = model("gpt2"), dataset(batch_size=size)
    with pytest.raises(MetricError, match="one value per example"):
        eap(m, data, reduced, counterfactual)
    with pytest.raises(MetricError, match="one value per example"):
        evaluate(m, m.wiring.legal, data, reduced, counterfactual)


def test_discovery_needs_wrong_answers_just_for_metrics_that_do() -> None:
    example = Example((1, 2, 3), (1, 4, 3), (5,), (), {"end": (2, 3)})
    m, data = model("gpt2"), Dataset((example,))
    with pytest.raises(MetricError, match="no wrong answer"):
        eap(m, data, logit_diff, counterfactual)
    assert np.abs(eap(m, data, log_probability, counterfactual).values).max() > 1e-3


@pytest.mark.parametrize("steps", [0, -1])
def test_integrated_gradients_take_a_step(steps: int) -> None:
    with pytest.raises(ArgumentError, match="from 1 to 10,000"):
        eap_ig(model("gpt2"), dataset(), logit_diff, counterfactual, steps=steps)


def test_a_circuit_of_another_model_is_refused() -> None:
    """As a graph and as a mask."""
    m, data = model("gpt2"), dataset()
    for other in (scores_of("llama").top(20), scores_of("llama").mask(20)):
        with pytest.raises(CircuitError):
            evaluate(m, other, data, logit_diff, counterfactual)


@every_family
def test_identical_prompts_leave_nothing_to_explain(family: str) -> None:
    m, data = model(family), dataset((6, 6, 6), batch_size=1)
    data = replace(data, examples=tuple(replace(e, corrupt=e.clean) for e in data.examples))
    found = evaluate(m, scores_of(family).mask(30), data, logit_diff, counterfactual)
    with pytest.raises(EvaluationError, match="undefined"):
        _ = found.faithfulness
    assert distance(found.circuit, found.everything) < 1e-4
