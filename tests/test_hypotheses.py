"""Claims as hypotheses: the statistics by slow versions of them, and circuits of which it is known
what is true."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import able, model
from scipy.stats import binom, binomtest

import circuitkit as ck
from circuitkit.corruptions import counterfactual, mean, zero
from circuitkit.data.batches import Dataset
from circuitkit.data.subgroups import labelled
from circuitkit.discovery import eap
from circuitkit.engine.inputs import Inputs
from circuitkit.errors import ArgumentError, EvaluationError
from circuitkit.evaluation.hypotheses.equivalence import equivalence, equivalence_p, wins
from circuitkit.evaluation.hypotheses.everything import hypothesis_tests
from circuitkit.evaluation.hypotheses.independence import hsic, independence
from circuitkit.evaluation.hypotheses.minimality import edge_tests, minimality
from circuitkit.evaluation.hypotheses.necessity import partial_necessity
from circuitkit.evaluation.hypotheses.sufficiency import sufficiency
from circuitkit.graph.nodes import edge_name
from circuitkit.graph.types import Mask
from circuitkit.graph.walks import drawn_masks, inflated
from circuitkit.metrics import logit_diff
from circuitkit.truth.rasp import compile_program, named, true_edges
from circuitkit.util.statistics import holm
from circuitkit.workflows.growing import grow

M = model("gpt2")
LEGAL: Mask = M.wiring.legal
DATA = replace(able("gpt2", (6,) * 24), batch_size=24)
GIVEN = (DATA, logit_diff, counterfactual)
KEEP: Mask = eap(M, *GIVEN).mask(12)
FEW: dict[str, Any] = {"random": 12, "inflations": 20, "sizes": ()}


# -- statistics ------------------------------------------------------------------------------------
@pytest.mark.parametrize("epsilon", [0, 0.1, 0.3])
def test_the_p_of_equivalence_is_the_papers_sum(epsilon: float) -> None:
    for n in (1, 7, 24):
        for above in np.arange(0, n + 0.5, 0.5):
            slow = sum(
                comb(n, k) * (0.5 + epsilon) ** k * (0.5 - epsilon) ** (n - k)
                for k in range(n + 1)
                if abs(k - n / 2) >= abs(above - n / 2) - 1e-9
            )
            assert equivalence_p(above, n, epsilon) == pytest.approx(slow)
    assert equivalence_p(5, 17, 0) == pytest.approx(binomtest(5, 17, 0.5).pvalue)


@pytest.mark.parametrize("share", [0.4, 0.45, 0.5, 0.6])
def test_equivalence_is_seldom_rejected_where_it_is_true_and_its_power_is_exact(
    share: float,
) -> None:
    """Over all counts that 60 prompts may give, each with its probability."""
    rejected = np.array([equivalence_p(k, 60) <= 0.05 for k in range(61)])
    assert binom.pmf(range(61), 60, share)[rejected].sum() <= 0.05
    assert binom.pmf(range(61), 60, 0.4)[rejected].sum() > 0.02  # at the edge it is not idle
    values = np.zeros(60)
    found = equivalence(values, values + 1)
    assert found.power == pytest.approx(binom.pmf(range(61), 60, 0.25)[rejected].sum())


def test_what_is_the_same_but_for_rounding_is_half_a_win() -> None:
    everything = np.array([3.0, -2, 5, 1])
    assert wins(everything + 1e-6, everything) == 2
    assert wins(everything + np.array([1, -1, 0, 0]), everything) == 2
    assert wins(everything + np.array([1, 1, 1, 0]), everything) == 3.5
    same = equivalence(everything, everything)
    assert (same.effect, same.p) == (0.5, 1)
    assert (same.low, same.high) == pytest.approx((1 - same.high, 1 - same.low))


def test_random_circuits_are_counted_and_tested_as_scipy_does() -> None:
    rng = np.random.default_rng(0)
    everything, circuit = rng.normal(size=(2, 10))
    random = circuit + rng.normal(size=(40, 10)) * np.linspace(0, 3, 40)[:, None]
    own = np.mean((circuit - everything) ** 2)
    nearer = sum(own < np.mean((one - everything) ** 2) for one in random)
    found = sufficiency(circuit, random, everything, 0.7)
    expected = binomtest(int(nearer), 40, 0.7, alternative="greater")
    assert found.effect == nearer / 40
    assert found.p == pytest.approx(expected.pvalue)
    ends = expected.proportion_ci(method="exact")
    two_sided = binomtest(int(nearer), 40).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((two_sided.low, two_sided.high))
    assert ends.low > found.low
    missed = partial_necessity(circuit, random, everything, 0.7)
    assert missed.effect == pytest.approx((39 - nearer) / 40)  # one of them is the circuit
    assert sufficiency(circuit, random[:1].repeat(40, 0), everything).p == 1  # ties are not nearer


def test_sufficiency_is_seldom_shown_where_it_is_not_true_and_its_power_is_exact() -> None:
    counts = np.arange(101)
    p = binom.sf(counts - 1, 100, 0.9)
    assert binom.pmf(counts, 100, 0.9)[p <= 0.05].sum() <= 0.05
    found = sufficiency(np.ones(2), np.zeros((100, 2)), np.ones(2))
    assert found.power == pytest.approx(binom.pmf(counts, 100, 0.99)[p <= 0.05].sum())


def test_each_edge_is_held_against_those_that_were_added() -> None:
    rng = np.random.default_rng(1)
    circuit, inflated_ = rng.normal(size=8), rng.normal(size=(50, 8))
    deflated = inflated_ + rng.normal(size=(50, 8)) * 0.1
    cut = circuit + np.array([[0.0], [0.05], [3.0], [2.0]])
    found = edge_tests(["none", "little", "much", "more"], circuit, cut, inflated_, deflated)
    assert [one.edge for one in found] == ["none", "little", "more", "much"]
    assert [one.minimal for one in found] == [False, False, True, True]
    chance = [np.mean((a - b) ** 2) for a, b in zip(inflated_, deflated, strict=True)]
    less = [sum(one.effect**2 > own for own in chance) for one in found]
    p = [binomtest(k, 50, 0.9, alternative="less").pvalue for k in less]
    assert [one.p for one in found] == pytest.approx(p)
    assert [one.effect for one in found] == pytest.approx([0, 0.05, 2, 3])
    assert [one.adjusted for one in found] == pytest.approx(slow_holm(p))
    whole = minimality(found, 50)
    assert whole.p == pytest.approx(min(slow_holm(p)))
    assert whole.effect == 0.5
    assert 0.99 < whole.power <= 1


def slow_holm(p: list[float]) -> list[float]:
    order = sorted(range(len(p)), key=p.__getitem__)
    found = [0.0] * len(p)
    for place, i in enumerate(order):
        below = [p[j] * (len(p) - k) for k, j in enumerate(order[: place + 1])]
        found[i] = min(1, max(below))
    return found


def test_holm_is_its_definition_and_leaves_out_what_is_not_known() -> None:
    p = [0.01, 0.04, 0.03, 0.005, 0.9]
    assert holm(np.array(p)) == pytest.approx(slow_holm(p))
    assert holm(np.array(p))[:4] == pytest.approx([0.04, 0.09, 0.09, 0.025])
    found = holm(np.array([0.01, np.nan, 0.02]))
    assert found[[0, 2]] == pytest.approx([0.02, 0.02])
    assert np.isnan(found[1])


def test_hsic_is_the_trace_of_two_centred_kernels() -> None:
    a, b = np.random.default_rng(2).normal(size=(2, 12))
    kernels = []
    for one in (a, b):
        away = np.array([[abs(x - y) for x in one] for y in one])
        width = np.median([away[i, j] for i in range(12) for j in range(12) if i != j])
        kernels.append(np.exp(-(away**2) / (2 * width**2)))
    centre = np.eye(12) - 1 / 12
    slow = np.trace(centre @ kernels[0] @ centre @ centre @ kernels[1] @ centre) / 11**2
    assert hsic(a, b) == pytest.approx(slow)
    assert hsic(a, np.ones(12)) == 0


def test_the_p_of_independence_is_uniform_where_it_is_true_and_small_where_not() -> None:
    rng = np.random.default_rng(3)
    p = np.array([independence(*rng.normal(size=(2, 15)), 39, seed=i).p for i in range(200)])
    for level in (0.1, 0.25, 0.5):
        assert abs((p <= level).mean() - level) < 4 * np.sqrt(level * (1 - level) / 200)
    a = rng.normal(size=30)
    assert independence(a, a**2, 99).p == 0.01  # no correlation, and not independent
    assert independence(a, np.ones(30), 19).p == 1


# -- inflated circuits -----------------------------------------------------------------------------
def test_an_inflated_circuit_has_one_path_more_and_then_one_edge_less() -> None:
    found = inflated(M.wiring, KEEP, 20, 0)
    for larger, smaller in found:
        assert not (larger & ~LEGAL).any()
        assert (larger & KEEP).sum() == KEEP.sum() < larger.sum()
        ((row, column),) = np.argwhere(larger & ~smaller)
        assert not KEEP[row, column]
        assert (smaller <= larger).all()
        new = larger & ~KEEP
        assert (new.sum(0) <= 1).all()  # of a path, each reader has one edge
    assert len({larger.tobytes() for larger, _ in found}) > 10
    again = inflated(M.wiring, KEEP, 20, 0)
    assert all((a == b).all() for (a, _), (b, _) in zip(found, again, strict=True))


# -- circuits of which it is known -----------------------------------------------------------------
@cache
def compiled() -> tuple[Any, Dataset, Mask, Mask]:
    """A compiled program, its prompts, the edges that it needs, and some that do nothing."""
    program = named("reverse")
    own, data = compile_program(program), program.data(40, seed=1)
    truth = true_edges(own, data)
    useless: Mask = own.wiring.legal & (truth.changes < 1e-6)
    return own, data, truth.necessary, useless


def test_a_compiled_models_own_circuit_is_minimal_and_sufficient() -> None:
    own, data, needed, _ = compiled()
    found = hypothesis_tests(own, needed, data, **{**FEW, "random": 60, "inflations": 60})
    assert found.redundant == ()
    assert found["minimality"].verdict == "not rejected"
    assert found["equivalence"].verdict == "not rejected"
    assert found["sufficiency"].effect > 0.8  # of small circuits, some random ones are this one


def test_edges_that_do_nothing_are_found() -> None:
    own, data, needed, useless = compiled()
    flat = np.random.default_rng(0).permutation(np.flatnonzero(useless))[:4]
    padded = needed.copy()
    padded.flat[flat] = True
    found = hypothesis_tests(own, padded, data, tests=["minimality"], **FEW)
    places = np.argwhere(padded & ~needed)
    names = {edge_name(own.wiring.writers[i], own.wiring.readers[j]) for i, j in places}
    assert {*found.redundant} == names
    assert found["minimality"].verdict == "rejected"


def test_the_whole_model_is_equivalent_and_an_empty_circuit_is_not() -> None:
    whole = hypothesis_tests(M, LEGAL, *GIVEN, **FEW)
    assert (whole["equivalence"].effect, whole["equivalence"].adjusted) == (0.5, 1)
    assert whole["equivalence"].holds
    for name in ("minimality", "sufficiency", "partial_necessity"):
        assert whole[name].verdict == "reported"
        assert "whole model" in whole[name].reason
    nothing = hypothesis_tests(M, np.zeros_like(LEGAL), *GIVEN, **FEW)
    assert nothing["equivalence"].verdict == "rejected"
    assert nothing["sufficiency"].verdict == "not shown"
    assert nothing["partial_necessity"].verdict == "not shown"
    assert "no edge" in nothing["minimality"].reason


# -- all of it -------------------------------------------------------------------------------------
@cache
def found(**settings: Any) -> Any:
    return hypothesis_tests(M, KEEP, *GIVEN, **{**FEW, "by": None, **settings})


def test_the_tests_are_made_on_what_measure_says() -> None:
    own, others = ck.measure(M, [KEEP, LEGAL & ~KEEP], *GIVEN).double().numpy()
    everything = ck.measure(M, LEGAL, *GIVEN)[0].double().numpy()
    assert found()["equivalence"].p == equivalence(own, everything).p
    drawn = drawn_masks(M.wiring, 12, 12, 0)
    random = ck.measure(M, drawn, *GIVEN).double().numpy()
    lacking = ck.measure(M, [LEGAL & ~mask for mask in drawn], *GIVEN).double().numpy()
    assert found()["sufficiency"].p == sufficiency(own, random, everything).p
    assert found()["partial_necessity"].p == partial_necessity(others, lacking, everything).p
    pairs = inflated(M.wiring, KEEP, 20, 0)
    larger, smaller = (
        ck.measure(M, [*side], *GIVEN).double().numpy() for side in zip(*pairs, strict=True)
    )
    edges = np.argwhere(KEEP)
    cuts = []
    for row, column in edges:
        cuts.append(KEEP.copy())
        cuts[-1][row, column] = False
    cut = ck.measure(M, cuts, *GIVEN).double().numpy()
    by_hand = edge_tests([""] * 12, own, cut, larger, smaller)
    assert [one.share for one in found().edges] == pytest.approx([one.share for one in by_hand])
    assert found().evaluation.faithfulness == pytest.approx(
        ck.evaluate(M, KEEP, *GIVEN).faithfulness
    )


def test_the_family_is_what_is_tested_and_each_has_the_power_of_its_level() -> None:
    own = [one for one in found().tests if not one.reason]
    assert [one.test for one in own] == [
        "equivalence", "minimality", "sufficiency", "partial_necessity",
    ]  # fmt: skip
    assert [one.adjusted for one in own] == pytest.approx(slow_holm([one.p for one in own]))
    values = ck.measure(M, [KEEP, LEGAL], *GIVEN).double().numpy()
    place = sorted(own, key=lambda one: one.p).index(found()["equivalence"])
    assert found()["equivalence"].power == equivalence(*values, level=0.05 / (4 - place)).power
    assert place < 3
    alone = found(tests=("equivalence",))
    assert alone["equivalence"].adjusted == alone["equivalence"].p == found()["equivalence"].p
    assert alone["equivalence"].power >= found()["equivalence"].power
    assert list(alone.to_frame()["test"]) == ["equivalence"]


def test_independence_is_tested_only_where_cut_edges_carry_the_same_for_every_prompt() -> None:
    assert found()["independence"].verdict == "reported"
    assert np.isnan(found()["independence"].adjusted)
    assert found()["independence"].p > 0
    for corruption in (zero, mean):
        own = hypothesis_tests(M, KEEP, DATA, logit_diff, corruption, tests=["independence"])
        assert own["independence"].reason == ""
        assert own["independence"].adjusted == own["independence"].p


def test_sufficiency_is_tried_on_larger_random_circuits_until_it_stops() -> None:
    own = found(tests=("sufficiency",), sizes=(40, 140, 255), random=30)
    sizes = [*own.sizes]
    assert sizes[0] == 12
    assert sizes == [12, 40, 140, 255][: len(sizes)]
    shown = [bool(value) for value in own.to_frame("sizes")["shown"]]
    assert all(shown[:-1])
    assert own.stops == (None if shown[-1] else sizes[-1])
    assert 255 >= sizes[-1] > 12


def test_groups_are_tested_on_their_own_prompts_as_a_family_of_their_own() -> None:
    def half(example: Any) -> str:
        return "even" if example.clean[1] % 2 == 0 else "odd"

    own = found(by=half)
    rows = labelled(DATA, half)
    assert {one.group for one in own.groups} == {name for name in rows if len(rows[name]) >= 8}
    for one in own.groups:
        if one.test == "equivalence":
            some = replace(DATA, examples=tuple(DATA.examples[i] for i in rows[one.group]))
            alone = hypothesis_tests(M, KEEP, some, *GIVEN[1:], tests=["equivalence"], by=None)
            assert one.p == pytest.approx(alone["equivalence"].p)
    assert [one.adjusted for one in own.groups] == pytest.approx(
        slow_holm([one.p for one in own.groups])
    )
    assert [one.adjusted for one in own.tests if not one.reason] == pytest.approx(
        [one.adjusted for one in found().tests if not one.reason]
    )


def test_prompts_are_grouped_by_order_template_and_length() -> None:
    mini = ck.load("mini")
    data = ck.Dataset.of(ck.make_task("ioi", mini, n=40), mini)
    orders = labelled(data, "order")
    assert set(orders) == {"IO S1 S2", "S1 IO S2"}
    for i in orders["S1 IO S2"]:
        assert data[int(i)].spans["S1"] < data[int(i)].spans["IO"]
    assert sorted(np.concatenate([*orders.values()])) == [*range(40)]
    assert 4 <= len(labelled(data, "template")) <= 8
    assert not any(name in " ".join(labelled(data, "template")) for name in ("Mary", "John"))
    assert all(len(data[int(rows[0])].clean) == int(label.split()[0])
               for label, rows in labelled(data, "length").items())  # fmt: skip
    with pytest.raises(ArgumentError, match="template"):
        labelled(data, "templates")


def test_a_kept_run_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import circuitkit.evaluation.faithfulness as module

    first = found(resume=tmp_path)
    monkeypatch.setattr(module, "runs", lambda *_, **__: iter(()))  # nothing is run
    again = hypothesis_tests(M, KEEP, *GIVEN, **{**FEW, "by": None}, resume=tmp_path, tests=[
        "equivalence", "minimality", "sufficiency", "partial_necessity",
    ])  # fmt: skip
    assert [one.p for one in again.tests] == [one.p for one in first.tests[:4]]


def test_a_target_below_one_is_said_to_fail_by_construction() -> None:
    own = replace(found(), target=0.85)
    low = replace(own["equivalence"], effect=0.01, adjusted=0.001, p=0.001)
    below = replace(own, tests=(low,), evaluation=replace(
        own.evaluation, circuit=own.evaluation.everything * 0.8 + own.evaluation.nothing * 0.2
    ))  # fmt: skip
    assert "fails by construction" in repr(below).replace("\n  ", " ")
    assert "0.85 of the gap" in repr(below).replace("\n  ", " ")
    assert "most prompts (here 99%)" in repr(below).replace("\n  ", " ")
    fine = replace(below, tests=(replace(low, effect=0.5, adjusted=1.0),))
    assert "Not rejected is not proven" in repr(fine).replace("\n  ", " ")
    assert max(map(len, repr(own).splitlines())) <= 80


def test_a_wrong_name_or_bound_is_refused_before_any_run() -> None:
    for wrong in ({"tests": ["equal"]}, {"epsilon": 0.7}, {"quantile": 1.5}, {"by": "colour"}):
        with pytest.raises(ArgumentError):
            hypothesis_tests(M, KEEP, *GIVEN, **wrong)  # type: ignore[arg-type]


# -- circuits that grow ----------------------------------------------------------------------------
@cache
def halves() -> tuple[Dataset, Dataset]:
    one, two = (able("gpt2", (6,) * 96, seed) for seed in (1, 2))
    return replace(one, batch_size=96), replace(two, batch_size=96)


def test_a_circuit_grows_until_equivalence_is_not_rejected_on_unseen_prompts() -> None:
    seen, unseen = halves()
    inputs = [Inputs(M, data, logit_diff, counterfactual) for data in (seen, unseen)]
    scores = eap(*inputs[0])
    start = scores.mask(30)
    own = grow(inputs[0], inputs[1], scores, start)
    assert own.passes
    assert own.start == 30
    assert own.mask.sum() == own.looks[-1][0] >= 30
    for size, test in own.looks:
        (by_hand,) = ck.evaluate(M, [scores.mask(size)], unseen, logit_diff, counterfactual)
        assert test.p == equivalence(by_hand.circuit, by_hand.everything).p
    assert all(test.p <= 0.05 for _, test in own.looks[:-1])
    assert f"{own.test.power:.2f}" in str(own)
    assert "0.1" in str(own)
    whole = grow(inputs[0], inputs[1], scores, LEGAL)
    assert (whole.mask == LEGAL).all()
    assert len(whole.looks) == 1
    with pytest.raises(EvaluationError, match="96"):
        grow(inputs[0], inputs[1]._replace(data=unseen[:40]), scores, start)
    with pytest.raises(EvaluationError, match="did not see"):
        grow(inputs[0], inputs[0], scores, start)


def test_discover_grows_a_circuit_and_its_file_says_so() -> None:
    seen, unseen = halves()
    own = ck.discover(M, seen, logit_diff, unseen=unseen, method="eap", edges=40, test=True)
    assert own.grown is not None
    assert own.evaluation.edges == own.grown.looks[-1][0]
    assert own.circuit.graph["tested"]["passes"] is True
    assert own.circuit.graph["asked"]["test"] is True
    assert own.to_dict()["tested"]["examples"] == 96
    assert "epsilon, power" in repr(own)
