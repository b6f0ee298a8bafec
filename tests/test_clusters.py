"""Clusters of prompts: two mechanisms are two, one is one, and nobody looks at the answers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linprog

import circuitkit as ck
from circuitkit.engine.inputs import prepare
from circuitkit.errors import UnknownNameError
from circuitkit.util.modes import dip, dip_p
from circuitkit.workflows.clusters.assigning import assigned
from circuitkit.workflows.clusters.grouping import group
from circuitkit.workflows.clusters.sharing import features, shared

PROGRAM = ck.rasp.either(ck.rasp.named("shift"), ck.rasp.named("first_occurrence"))


@cache
def mini() -> Any:
    return ck.load("mini")


@cache
def compiled(seed: int = 0) -> Any:
    """Two programs in one model, of which the first word names the one that answers."""
    plain = ck.rasp.compile_program(PROGRAM)
    return ck.rasp.rotate(ck.rasp.distract(plain, leak=0.01, seed=seed), seed=seed)


@cache
def asked() -> ck.Dataset:
    """All prompts whose corrupted text asks for the same program."""
    return PROGRAM.data().where(lambda e: e.clean[1] == e.corrupt[1])


def word(example: Any) -> bool:
    """Whether a prompt asks for the program ``shift``."""
    return bool(asked().tokenizer.decode([example.clean[1]]).strip() == "shift")  # type: ignore[union-attr]


def drawn(shift: int, other: int, seed: int) -> ck.Dataset:
    """So many prompts of each of the two programs."""
    draw, found = np.random.default_rng(seed), []
    for own, n in ((True, shift), (False, other)):
        every = [e for e in asked().examples if word(e) is own]
        found += [every[i] for i in draw.permutation(len(every))[:n]]
    return replace(asked(), examples=tuple(found[i] for i in draw.permutation(len(found))))


def scored(*inputs: Any) -> Any:
    return ck.discovery.eap_ig(*inputs, groups="examples")


def each(data: ck.Dataset, model: Any) -> Any:
    return scored(model, data).groups


# -- the dip ---------------------------------------------------------------------------------------
def nearest_with_one_mode(values: Any) -> float:
    """The same by linear programs, one for each place of the mode: the smallest distance of a
    distribution function that is convex before it and concave behind it, and may jump there."""
    at, counts = np.unique(values, return_counts=True)
    after = np.cumsum(counts) / counts.sum()
    before = after - counts / counts.sum()
    return min(with_the_mode_at(mode, at, before, after) for mode in range(len(at)))


def with_the_mode_at(mode: int, at: Any, before: Any, after: Any) -> float:
    """The variables are its values, two at the mode, and the distance."""
    n, limits = len(at), list[tuple[dict[int, float], float]]()  # Σ factor · variable ≤ bound
    left, right = [*range(mode + 1)], [*range(mode + 1, n + 1)]
    for own, first, inner in ((left, 0, before), (right, mode, after)):
        for i, var in enumerate(own, first):
            for height in {inner[i]} if i == mode else {before[i], after[i]}:
                limits += [({var: 1, n + 1: -1}, height), ({var: -1, n + 1: -1}, -height)]
    limits += [({i: 1, i + 1: -1}, 0) for i in range(n)]
    for own, places, sign in ((left, at[: mode + 1], 1), (right, at[mode:], -1)):
        for k in range(1, len(own) - 1):
            one, two = places[k] - places[k - 1], places[k + 1] - places[k]
            slopes = {own[k - 1]: -1 / one, own[k]: 1 / one + 1 / two, own[k + 1]: -1 / two}
            limits.append(({var: sign * slope for var, slope in slopes.items()}, 0))
    rows = np.zeros((len(limits), n + 2))
    for row, (terms, _) in zip(rows, limits, strict=True):
        row[[*terms]] = [*terms.values()]
    bounds = [bound for _, bound in limits]
    return float(linprog(np.eye(n + 2)[-1], rows, bounds, bounds=[(0, 1)] * (n + 2)).fun)


def test_the_dip_is_the_distance_to_the_nearest_distribution_with_one_mode() -> None:
    draw = np.random.default_rng(0)
    for n in range(3, 11):
        for values in (draw.random(n), np.r_[0, draw.integers(0, 4, n), 3],
                       np.r_[draw.normal(0, 0.1, n), draw.normal(1, 0.1, n)]):  # fmt: skip
            assert dip(values) == pytest.approx(nearest_with_one_mode(values), abs=1e-9)


def test_two_modes_have_a_small_p_and_one_has_not() -> None:
    draw = np.random.default_rng(0)
    two = np.r_[draw.normal(0, 1, 30), draw.normal(6, 1, 30)]
    assert dip_p(dip(two), 60) <= 0.01
    for one in (
        draw.normal(size=(40, 60)),
        draw.standard_t(2, (40, 60)),
        draw.exponential(size=(40, 60)),
    ):
        assert sum(dip_p(dip(own), 60) <= 0.05 for own in one) <= 4
    assert dip_p(dip(np.ones(20)), 20) == 1


# -- how many --------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.weekly)])
def test_two_mechanisms_are_two_clusters_and_one_is_one(seed: int) -> None:
    model, both = compiled(seed), drawn(24, 24, seed)
    found = group(each(both, model), seed=seed)
    first = np.array([word(example) for example in both.examples])
    assert found.judged == found.number == 2
    assert ((found.labels == 0) == first).all() or ((found.labels == 1) == first).all()
    for alone in ((48, 0), (0, 48)):
        assert group(each(drawn(*alone, seed), model), seed=seed).number == 1


def test_prompts_of_one_kind_are_one_cluster_on_a_trained_model() -> None:
    kind = [one for one in ck.make_task("ioi", mini(), 200) if one.clean.startswith("Yesterday")]
    data = ck.Dataset.of(kind, mini())
    assert len(data) > 20
    assert group(ck.discovery.eap(mini(), data, groups="examples").groups).number == 1


def test_noise_in_many_directions_is_one_cluster() -> None:
    """Along a line that is chosen on the same prompts, it always has two modes."""
    numbers = [group(np.random.default_rng(i).normal(size=(60, 400))).number for i in range(10)]
    assert numbers.count(1) >= 9
    heavy = [group(np.random.default_rng(i).standard_t(2, (60, 8))).number for i in range(10)]
    assert heavy.count(1) >= 9


def test_scores_that_are_all_the_same_are_one_cluster_and_nothing_is_asked() -> None:
    found = group(np.tile(np.arange(5.0), (12, 1)) * np.arange(1, 13)[:, None])
    assert (found.number, found.splits) == (1, ())
    assert group(np.ones((1, 4))).number == 1
    outlier = np.ones((20, 4))
    outlier[3, 0] = -1  # without which there are no two
    assert (group(outlier).number, group(outlier).splits) == (1, ())


def test_clusters_do_not_depend_on_the_scale_of_prompts_or_the_axes_of_scores() -> None:
    draw = np.random.default_rng(0)
    scores = (
        draw.normal(size=(60, 30)) + 6 * np.repeat([[1.0], [-1.0], [0.0]], 20, 0) @ np.eye(30)[:1]
    )
    scores[40:, 1] += 6
    turn = np.linalg.qr(draw.normal(size=(30, 30)))[0]
    plain = group(scores)
    other = group((scores * draw.uniform(0.5, 2, (60, 1))) @ turn)
    assert plain.number == 3
    assert (plain.labels == other.labels).all()


def test_a_number_is_taken_as_it_is_given() -> None:
    scores = np.random.default_rng(0).normal(size=(30, 8))
    for number in (1, 2, 4):
        found = group(scores, number)
        assert (found.number, found.judged) == (number, 1)
        assert sorted(np.bincount(found.labels), reverse=True) == np.bincount(found.labels).tolist()


# -- unseen prompts --------------------------------------------------------------------------------
@pytest.mark.parametrize("by", ["residual", "scores"])
def test_nobody_looks_at_the_answers_of_unseen_prompts(by: Any) -> None:
    model = compiled()
    seen, unseen = drawn(20, 20, 0), drawn(15, 15, 1)
    labels = group(each(seen, model)).labels
    mixed = replace(unseen, examples=tuple(
        replace(e, correct=other.wrong, wrong=other.correct)
        for e, other in zip(unseen.examples, unseen.examples[::-1], strict=True)
    ))  # fmt: skip
    plain, other = (
        assigned(by, scored, prepare(model, seen), prepare(model, own), labels)
        for own in (unseen, mixed)
    )
    assert (plain == other).all()
    kinds = (
        np.array([word(example) for example in seen.examples]),
        np.array([word(example) for example in unseen.examples]),
    )
    truth = {bool(kind): label for kind, label in zip(kinds[0], labels, strict=True)}
    assert (plain == [truth[bool(kind)] for kind in kinds[1]]).all()


# -- the whole -------------------------------------------------------------------------------------
@cache
def found() -> ck.Clusters:
    return ck.clusters(compiled(), drawn(24, 24, 0), unseen=drawn(16, 16, 1), edges=14)


def test_circuits_of_two_mechanisms_are_more_faithful_than_a_single_one() -> None:
    own = found()
    assert own.number == 2
    assert own.agreement == 1
    assert own.interval()[0] > 0
    assert "more faithful than a single one" in own.verdict
    total = {row["each_prompt_under"]: row["faithfulness"] for row in own.totals()}
    assert total["its cluster's circuit"] == total["the same, with a look at the answer"]
    assert total["its cluster's circuit"] > total["clusters by chance"] + 0.1
    assert all(row["own"] > row["others"] + 0.1 for row in own.rows())
    said = [(row["feature"], row["value"]) for row in own.shared if row["explained"] > 0.99]
    assert {("first word", "shift"), ("first word", "first_occurrence")} <= {*said}


def test_circuits_of_halves_of_one_mechanism_are_no_more_faithful() -> None:
    data, unseen = drawn(32, 0, 0), drawn(16, 0, 1)
    own = ck.clusters(compiled(), data, unseen=unseen, edges=14, number=2)
    assert (own.number, own.grouping.judged) == (2, 1)
    assert "their circuits are more faithful" not in own.verdict


def test_each_prompt_is_measured_under_the_circuit_of_its_cluster() -> None:
    own, unseen = found(), drawn(16, 16, 1)
    for k, (circuit, row) in enumerate(zip(own.circuits, own.rows(), strict=True)):
        held = [e for e, at in zip(unseen.examples, own.given.given, strict=True) if at == k]
        alone = ck.evaluate(compiled(), circuit, replace(unseen, examples=tuple(held)))
        assert alone.faithfulness == pytest.approx(row["own"], abs=1e-5)
        assert own.together.circuit[own.given.given == k] == pytest.approx(alone.circuit, abs=1e-5)
        assert circuit.graph["cluster"] == k + 1


def test_the_same_seed_gives_the_same_clusters() -> None:
    one, two = (
        ck.clusters(mini(), "ioi", method="eap", edges=20, examples=12, number=2, seed=3)
        for _ in range(2)
    )
    assert one.to_dict() == two.to_dict()
    assert len(one.members()) == 24
    assert "2 clusters, as asked for (1 cluster is told apart)" in repr(one)
    assert len(one.plot().figures) == 2


def test_a_method_without_scores_of_examples_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="no scores of single examples"):
        ck.clusters(mini(), "ioi", method="acdc", examples=4)


# -- what clusters share ---------------------------------------------------------------------------
def test_a_feature_that_says_the_cluster_explains_all_of_it_and_chance_nothing() -> None:
    labels = np.repeat([0, 1], [40, 24])
    told = {"same": ["ab"[i] for i in labels], "chance": ["xyz"[i % 3] for i in range(64)]}
    rows = {(row["feature"], row["cluster"]): row for row in shared(told, labels)}
    assert rows["same", 1]["explained"] == pytest.approx(1)
    assert rows["same", 2] | {"p": 0} == {
        "feature": "same", "explained": rows["same", 2]["explained"], "p": 0, "cluster": 2,
        "value": "b", "share": 1.0, "of_all": 24 / 64,
    }  # fmt: skip
    assert rows["same", 1]["p"] < 0.01 < 0.2 < rows["chance", 1]["p"]
    assert abs(rows["chance", 1]["explained"]) < 0.1
    assert shared(told, np.zeros(64, int)) == []


def test_the_features_of_prompts_are_their_templates_and_the_order_of_names() -> None:
    data = ck.Dataset.of(ck.make_task("ioi", mini(), 64), mini())
    told = features(data)
    assert set(told["order"]) >= {"IO S1 S2", "S1 IO S2"}
    assert "When … and … went to the … , … gave a … to" in told["template"]
    assert len(set(told["template"])) <= 8
    assert "differs" not in told, "all of them differ in S2"
