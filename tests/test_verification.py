"""Verification: on planted effects whose answers are known, and on tiny models."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from families import able, model
from scipy import stats

from circuitkit.corruptions import counterfactual
from circuitkit.discovery import eap, exact
from circuitkit.engine import edges as patching
from circuitkit.engine.inputs import Inputs
from circuitkit.errors import ArgumentError, CircuitError, ScoresError
from circuitkit.evaluation import verification
from circuitkit.evaluation.choosing import Chosen
from circuitkit.evaluation.verification import Verification, settle, verify
from circuitkit.graph.circuit import mask
from circuitkit.graph.nodes import parse_edge
from circuitkit.graph.scores import RULES, Scores
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics import logit_diff
from circuitkit.patching.edges import patch_edges

WIRING = Wiring(3, 4, 4)  # 262 edges
EXAMPLES = 5


class World:
    """Effects that stand fixed, and estimates of them; ``verify`` measures the former."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.effects = np.where(WIRING.legal, rng.standard_normal(WIRING.shape) ** 3, 0)
        self.estimates = self.effects.copy()
        self.spread = rng.standard_normal((WIRING.n_edges, EXAMPLES))
        self.spread -= self.spread.mean(1, keepdims=True)
        monkeypatch.setattr(verification, "patch_edges", self.measure)
        monkeypatch.setattr(verification, "prepare", lambda *_, **__: Inputs(*(None,) * 4))  # type: ignore[arg-type]

    def measure(self, _: Any, edges: Any, *__: Any, **___: Any) -> Any:
        values = self.effects[edges][:, None] + self.spread[: edges.sum()]
        return SimpleNamespace(values=values)

    def scores(self) -> Scores:
        return Scores(WIRING, self.estimates, {"method": "planted"})

    def verify(self, n: int, size: int = 40, rule: str = "abs", **options: Any) -> Verification:
        scores = self.scores()
        keep = scores.mask(size, rule)
        return verify(None, scores, None, None, None, circuit=keep, n=n, rule=rule, **options)  # type: ignore[arg-type]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def place(name: str) -> tuple[int, int]:
    return WIRING.index(*parse_edge(name))


def flat(found: Verification, stratum: str) -> set[int]:
    """The flat indices of a stratum's edges."""
    own = (e for e, s in zip(found.edges, found.strata, strict=True) if s == stratum)
    return {int(np.ravel_multi_index(place(e), WIRING.shape)) for e in own}


def cut_of(ranking: list[int], keep: np.ndarray) -> int:
    """The place in a ranking after the last edge of the circuit that was not filled in: of the
    longest head with no more edges alive."""
    heads = (alive(ranking[:n]) for n in range(len(ranking), 0, -1))
    head = next(own for own in heads if own.sum() <= keep.sum())
    return 1 + max(i for i, at in enumerate(ranking) if (head & keep).flat[at])


def alive(flat: list[int]) -> np.ndarray:
    keep = np.zeros(WIRING.shape, dtype=bool)
    keep.flat[flat] = True
    return WIRING.alive(keep)


def distance(ranking: list[int], keep: np.ndarray) -> Callable[[int], float]:
    """How far an edge is from there; of the circuit's own beyond it, not at all."""
    cut, places = cut_of(ranking, keep), {at: i for i, at in enumerate(ranking)}
    return lambda at: 0 if keep.flat[at] and places[at] >= cut else abs(places[at] + 0.5 - cut)


def below_the_circuit(world: World, keep: np.ndarray) -> set[int]:
    """The flat indices of the edges outside whose estimates are no stronger than its weakest."""
    weakest = np.abs(world.estimates[keep]).min()
    return set(np.flatnonzero(WIRING.legal & ~keep & (np.abs(world.estimates) <= weakest)).tolist())


# -- which edges are measured ----------------------------------------------------------------------
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [1, 2, 5, 40, 101, 261])
def test_strata_are_disjoint_and_of_the_promised_sizes(world: World, n: int, rule: str) -> None:
    found = world.verify(n, rule=rule)
    sizes = {s.name: s.edges for s in found.by_stratum()}
    expected = {"strongest": n // 2, "around the cut": n // 4}
    expected["random sample"] = n - sum(expected.values())
    assert sizes == {name: size for name, size in expected.items() if size}
    assert len(set(found.edges)) == len(found.edges) == n


def test_the_strongest_are_those_of_largest_score(world: World) -> None:
    ranking = world.scores().ranking()
    assert flat(world.verify(60), "strongest") == set(ranking[:30])


def test_the_edges_around_the_cut_lie_on_both_sides_of_it(world: World) -> None:
    ranking, keep = world.scores().ranking().tolist(), world.scores().mask(100, "mib")
    around = flat(world.verify(60, size=100, rule="mib"), "around the cut")
    places = sorted(ranking.index(at) for at in around)
    assert places[0] < cut_of(ranking, keep) <= places[-1]


@pytest.mark.parametrize("rule", RULES)
def test_the_cut_is_that_of_the_rule(world: World, rule: str) -> None:
    """The circuit's own edges beyond it come first: they are its weak end."""
    ranking, keep = world.scores().ranking(rule).tolist(), world.scores().mask(100, rule)
    found, far = world.verify(60, size=100, rule=rule), distance(ranking, keep)
    nearest = sorted(map(far, set(ranking) - flat(found, "strongest")))
    assert sorted(map(far, flat(found, "around the cut"))) == nearest[:15]


def test_next_to_the_strongest_the_cut_has_one_side_only(world: World) -> None:
    ranking = world.scores().ranking().tolist()
    assert flat(world.verify(120, size=10), "around the cut") == set(ranking[60:90])


def test_the_sample_is_drawn_evenly_from_the_others_outside(world: World) -> None:
    """Each of the others is drawn equally often, whatever its estimate is."""
    sure = flat(world.verify(60), "strongest") | flat(world.verify(60), "around the cut")
    others = sorted(set(np.flatnonzero(WIRING.legal & ~world.scores().mask(40)).tolist()) - sure)
    drawn = [flat(world.verify(60, seed=seed), "random sample") for seed in range(300)]
    assert all(sample <= set(others) for sample in drawn)
    counts = [sum(at in sample for sample in drawn) for at in others]
    assert stats.chisquare(counts).pvalue > 1e-3
    assert drawn[0] == flat(world.verify(60, seed=0), "random sample")
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("n", [262, 10**6])
def test_enough_edges_are_all_edges(world: World, n: int) -> None:
    assert WIRING.n_edges == 262
    world.estimates = world.estimates[::-1] * WIRING.legal
    found = world.verify(n)
    np.testing.assert_allclose(found.scores.values, world.effects)
    np.testing.assert_array_equal(found.scores.exact, WIRING.legal)
    assert [s.name for s in found.by_stratum()] == ["all edges"]
    missed = found.missed
    below = [*below_the_circuit(world, world.scores().mask(40))]
    assert missed.sampled == missed.population == len(below)
    truth = int((np.abs(world.effects.flat[below]) > missed.weakest).sum())
    assert missed.stronger == missed.at_most == truth > 0
    assert missed.larger_at_most == missed.taken == 0


def test_an_edge_that_the_method_dropped_is_measured_by_chance_only(world: World) -> None:
    own = np.where(world.scores().mask(20), world.estimates, 0)
    scores = Scores(WIRING, own, {"chosen": True})
    found = verify(None, scores, None, None, None, circuit=scores.chosen, n=100)  # type: ignore[arg-type]
    sizes = {s.name: s.edges for s in found.by_stratum()}
    kept = int(scores.chosen.sum())  # type: ignore[union-attr]
    assert sizes == {"strongest": kept, "random sample": 100 - kept}
    assert found.scores.chosen is None


# -- what is reported ------------------------------------------------------------------------------
def test_merged_scores_are_exact_where_measured_and_estimated_elsewhere(world: World) -> None:
    world.estimates = world.effects + 0.1 * WIRING.legal
    before = world.estimates.copy()
    merged = world.verify(60).scores
    assert merged.exact is not None
    assert merged.exact.sum() == 60
    np.testing.assert_allclose(merged.values[merged.exact], world.effects[merged.exact])
    np.testing.assert_array_equal(merged.values[~merged.exact], before[~merged.exact])
    np.testing.assert_array_equal(world.estimates, before)
    assert merged.about["verified"] == {"edges": 60, "direction": "noise", "seed": 0}
    assert merged.about["method"] == "planted"


def test_what_was_exact_before_stays_so(world: World) -> None:
    scores = world.verify(40).scores
    again = verify(None, scores, None, None, None, circuit=scores.mask(40), n=40, seed=1)  # type: ignore[arg-type]
    assert scores.exact is not None
    assert again.scores.exact is not None
    assert (again.scores.exact >= scores.exact).all()
    assert again.scores.exact.sum() > 40


def test_perfect_estimates_are_said_to_be_perfect(world: World) -> None:
    for stratum in world.verify(60).by_stratum():
        assert stratum.pearson == pytest.approx(1)
        assert stratum.spearman == pytest.approx(1)
        assert (stratum.flipped, stratum.error) == (0, pytest.approx(0))
        assert stratum.largest > 0


def test_correlations_and_errors_are_those_of_scipy(world: World) -> None:
    noise = np.random.default_rng(1).standard_normal(WIRING.shape)
    world.estimates = np.where(WIRING.legal, world.effects + noise, 0)
    found = world.verify(80)
    labels = np.array(found.strata)
    for s in found.by_stratum():
        estimated, effects = found.estimated[labels == s.name], found.exact[labels == s.name]
        assert s.pearson == pytest.approx(stats.pearsonr(estimated, effects).statistic)
        assert s.spearman == pytest.approx(stats.spearmanr(estimated, effects).statistic)
        assert s.error == pytest.approx(np.mean([abs(a - b) for a, b in zip(estimated, effects)]))  # noqa: B905
        assert s.largest == max(map(abs, effects))
        assert s.pearson < 0.999


def test_planted_sign_flips_are_counted_and_negligible_ones_are_not(world: World) -> None:
    ranking = world.scores().ranking()
    world.estimates.flat[ranking[:3]] *= -1
    assert [s.flipped for s in world.verify(60).by_stratum()] == [3, 0, 0]
    tiny = np.abs(world.effects) < 0.01 * np.abs(world.effects).max()
    assert (tiny & WIRING.legal).sum() > 20
    world.estimates[tiny] *= -100  # one side alone is large
    found = world.verify(WIRING.n_edges).by_stratum()[0]
    assert found.flipped == 3


def test_a_planted_missed_edge_is_found_and_the_bound_covers_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twelve strong edges that attribution knows nothing of; over many samples the bound fails
    about as rarely as it says, and the edge that is named is the strongest one sampled."""
    world = World(monkeypatch)
    weak = world.scores().ranking()[-60:]
    planted = set(weak[::5].tolist())
    world.effects.flat[list(planted)] = np.arange(100, 112)
    failures = 0
    for seed in range(200):
        found = world.verify(80, rule="mib", seed=seed)
        missed = found.missed
        seen = planted & flat(found, "random sample")
        assert missed.stronger == len(seen)
        if seen:
            assert missed.largest == pytest.approx(max(world.effects.flat[at] for at in seen))
            assert world.effects[place(missed.edge or "")] == pytest.approx(missed.largest)
        failures += missed.at_most < len(planted)
        assert missed.at_most < missed.population
    assert failures / 200 < 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_what_the_circuit_holds_is_not_missed(world: World) -> None:
    """Nor is it drawn, as long as there are others."""
    found, keep = world.verify(40, size=160, rule="mib"), world.scores().mask(160, "mib")
    sure = flat(found, "strongest") | flat(found, "around the cut")
    below, sampled = below_the_circuit(world, keep) - sure, flat(found, "random sample")
    assert not any(keep.flat[i] for i in sampled)
    missed = found.missed
    assert missed.population == len(below)
    assert missed.sampled == len(sampled & below) > 0
    assert missed.stronger == 0  # the estimates are perfect here
    assert missed.weakest == np.abs(world.estimates[keep]).min()


def test_an_edge_as_strong_as_the_weakest_kept_is_not_stronger(world: World) -> None:
    world.effects = np.round(world.effects * 4) / 4
    world.estimates, world.spread = world.effects.copy(), np.zeros_like(world.spread)
    missed = world.verify(WIRING.n_edges, size=120).missed
    below = np.abs(world.effects.flat[[*below_the_circuit(world, world.scores().mask(120))]])
    assert (below == missed.weakest).any()
    assert missed.stronger == 0


def test_a_circuit_of_all_edges_misses_nothing(world: World) -> None:
    missed = world.verify(20, size=WIRING.n_edges).missed
    assert (missed.population, missed.sampled, missed.at_most) == (0, 0, 0)
    assert missed.edge is None
    assert "none was measured; at most 0 are missed" in repr(missed)


# -- a circuit that is chosen again from what was measured -----------------------------------------
def settled(
    world: World, n: int, size: int = 60, seed: int = 0, rule: str = "mib"
) -> tuple[np.ndarray, Verification]:
    inputs = Inputs(*(None,) * 4)  # type: ignore[arg-type]

    def chosen(scores: Scores, _: Any) -> Chosen:
        return Chosen(scores.mask(size, rule))

    found, said = settle(inputs, world.scores(), chosen, n=n, rule=rule, seed=seed)
    return found.mask, said


def off(world: World, noise: float, seed: int = 0, hidden: int = 12) -> None:
    """Estimates that are off by so much, and some edges that they know nothing of."""
    rng = np.random.default_rng(seed)
    world.estimates = np.where(
        WIRING.legal, world.effects * np.exp(noise * rng.standard_normal(WIRING.shape)), 0
    )
    places = rng.choice(np.flatnonzero(WIRING.legal), hidden, replace=False)
    world.estimates.flat[places] *= 1e-3


@pytest.mark.parametrize("n", [1, 2, 3, 7, 40, 100, 261, 262, 1000])
def test_it_is_said_of_the_circuit_that_is_chosen_last(world: World, n: int) -> None:
    off(world, 1.0)
    keep, said = settled(world, n)
    assert (said.circuit == keep).all()
    assert (keep == said.scores.mask(60, "mib")).all()
    assert said.missed.weakest == np.abs(said.scores.values[keep]).min()
    assert len(said.edges) == len(set(said.edges)) == min(n, WIRING.n_edges)
    assert said.scores.exact is not None
    assert said.scores.exact.sum() == len(said.edges)
    assert said.to_dict()["edges"] == len(said.edges)


@pytest.mark.parametrize("rule", RULES)
def test_all_edges_around_the_last_cut_are_measured_where_the_budget_allows(
    world: World, rule: str
) -> None:
    off(world, 0.5)
    before = world.scores().mask(60, rule)
    keep, said = settled(world, 120, rule=rule)
    assert (keep != before).any()
    ranking = said.scores.ranking(rule).tolist()
    nearest = sorted(ranking, key=distance(ranking, keep))[:30]
    assert set(nearest) <= set(np.flatnonzero(said.scores.exact).tolist())  # type: ignore[arg-type]


def test_all_edges_are_the_choice_of_their_effects(world: World) -> None:
    off(world, 2.0)
    keep, said = settled(world, 262)
    assert (keep == Scores(WIRING, world.effects).mask(60, "mib")).all()
    assert said.missed.at_most == said.missed.stronger


def test_the_bound_covers_what_the_last_circuit_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sampled and found to be strong is in the circuit then, and off the bound; over many
    samples it fails about as rarely as it says. The sample is one of all that could be drawn."""
    world = World(monkeypatch)
    inputs, failures, taken = Inputs(*(None,) * 4), 0, 0  # type: ignore[arg-type]

    def head(scores: Scores, _: Any = ()) -> Any:  # dead ends are no matter here
        keep = np.zeros(WIRING.shape, dtype=bool)
        keep.flat[scores.ranking()[:60]] = True
        return Chosen(keep)

    for seed in range(200):
        off(world, 0.3, seed, hidden=60)
        found, said = settle(inputs, world.scores(), head, n=80, seed=seed)
        keep, missed, estimates = found.mask, said.missed, np.abs(world.estimates)
        taken += missed.taken > 0
        sure = np.zeros_like(keep)
        for edge, stratum in zip(said.edges, said.strata, strict=True):
            sure[place(edge)] = stratum != "random sample"
        below = WIRING.legal & ~keep & ~sure & (estimates <= missed.weakest)
        truth = int((below & (np.abs(world.effects) > missed.weakest)).sum())
        assert missed.population == below.sum()
        assert missed.stronger <= truth
        failures += missed.at_most < truth
    assert taken > 100
    assert failures / 200 < 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_the_same_measurements_are_said_of_another_circuit(world: World) -> None:
    keep, said = settled(world, 60)
    other = keep & (np.abs(said.scores.values) > said.weakest)
    again = said.said_of(other)
    assert again.weakest == np.abs(said.scores.values[other]).min() > said.weakest
    assert again.missed.weakest == again.weakest
    assert (said.circuit == keep).all()


def test_known_circuits_are_handed_on(world: World) -> None:
    """So that no choice is a worse one than an earlier one."""
    seen: list[int] = []

    def chosen(scores: Scores, known: Any) -> Any:
        seen.append(len(known))
        return SimpleNamespace(mask=scores.mask(40), known=((scores.mask(40), 0.9),))

    settle(Inputs(*(None,) * 4), world.scores(), chosen, n=60)  # type: ignore[arg-type]
    assert seen == [*range(len(seen))]
    assert len(seen) > 3


# -- what is written -------------------------------------------------------------------------------
def test_every_measured_edge_is_a_line_of_the_csv(world: World) -> None:
    world.estimates = world.effects * 0.9
    found = world.verify(60)
    lines = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert list(lines[0]) == ["edge", "stratum", "estimated", "exact", "stderr"]
    assert sorted(line["edge"] for line in lines) == sorted(found.edges)
    for line in lines:
        at = place(line["edge"])
        assert float(line["exact"]) == pytest.approx(world.effects[at], rel=1e-5)
        assert float(line["estimated"]) == pytest.approx(world.estimates[at], rel=1e-5)
    strata = list(dict.fromkeys(line["stratum"] for line in lines))
    assert strata == ["strongest", "around the cut", "random sample"]
    for name in strata:
        effects = [abs(float(line["exact"])) for line in lines if line["stratum"] == name]
        assert effects == sorted(effects, reverse=True)


def test_the_standard_error_is_scipys(world: World) -> None:
    found = world.verify(60)
    np.testing.assert_allclose(found.stderr, stats.sem(world.spread[:60], axis=1))
    assert found.stderr.min() > 0


@pytest.mark.parametrize("n", [1, 2, 60, 1000])
def test_numbers_are_json_even_where_they_are_undefined(world: World, n: int) -> None:
    world.spread = world.spread[:, :1]
    found = world.verify(n)
    assert np.isnan(found.stderr).all()
    answer = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert answer["edges"] == min(n, WIRING.n_edges)
    assert answer["missed"]["population"] == found.missed.population
    assert sum(s["edges"] for s in answer["strata"]) == len(found.edges)


def test_it_prints_a_line_per_stratum_and_a_sentence(world: World) -> None:
    text = repr(world.verify(60))
    for word in ("60 of 262 edges", "planted", "strongest", "around the cut", "random sample",
                 "Pearson", "left to the sample", "at most"):  # fmt: skip
        assert word in text
    assert max(map(len, text.splitlines())) <= 100


# -- on models -------------------------------------------------------------------------------------
INPUTS: dict[str, Any] = {
    family: (model(family), able(family), logit_diff, counterfactual)
    for family in ("gpt2", "gemma2")
}
every_family = pytest.mark.parametrize("family", INPUTS)


@every_family
@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_measuring_everything_is_the_method_exact(family: str, direction: str) -> None:
    inputs = INPUTS[family]
    scores = eap(*inputs)
    found = verify(inputs[0], scores, *inputs[1:], circuit=scores.mask(30), n=10**6,
                   direction=direction)  # fmt: skip
    truth = exact(*inputs, direction=direction)
    assert np.abs(truth.values).max() > 0.05
    np.testing.assert_allclose(found.scores.values, truth.values, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.scores.exact, scores.wiring.legal)
    assert np.abs(scores.values - truth.values).max() > 0.01


@every_family
def test_a_part_is_exact_and_the_rest_is_estimated(family: str) -> None:
    inputs = INPUTS[family]
    scores = eap(*inputs)
    merged = verify(inputs[0], scores, *inputs[1:], circuit=scores.mask(30), n=40).scores
    truth, measured = exact(*inputs).values, merged.exact
    assert measured is not None
    assert measured.sum() == 40
    np.testing.assert_allclose(merged.values[measured], truth[measured], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(merged.values[~measured], scores.values[~measured])
    circuit = merged.circuit(scores.mask(30))
    flags = {(w, r): data["exact"] for w, r, data in circuit.edges(data=True) if "exact" in data}
    assert len(flags) == mask(circuit).sum()
    assert all(measured[scores.wiring.index(*edge)] == flag for edge, flag in flags.items())
    assert set(flags.values()) == {True, False}


def test_exact_scores_survive_verification() -> None:
    """The law that ties the two: nothing is off where nothing was estimated."""
    inputs = INPUTS["gpt2"]
    true = exact(*inputs)
    found = verify(inputs[0], true, *inputs[1:], circuit=true.mask(30), n=40)
    for stratum in found.by_stratum():
        assert (stratum.flipped, stratum.error) == (0, pytest.approx(0, abs=1e-5))
        assert stratum.largest > 1e-4
    assert found.missed.stronger == 0


def test_finished_blocks_are_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = INPUTS["gpt2"]
    scores = eap(*inputs)
    given = inputs[0], scores, *inputs[1:]
    work = partial(verify, *given, circuit=scores.mask(30), n=40, resume=tmp_path)
    one = work()

    def never(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(patching, "sweep", never)
    two = work()
    assert one.to_csv() == two.to_csv()
    assert np.abs(one.exact).max() > 0.05
    with pytest.raises(ZeroDivisionError):
        work(seed=1)


def test_a_corruption_with_draws_is_averaged_as_patch_edges_does() -> None:
    from circuitkit.corruptions import noise

    m, data = model("gpt2"), able("gpt2")
    scores = eap(m, data, logit_diff, noise)
    found = verify(m, scores, data, logit_diff, noise, circuit=scores.mask(30), n=20)
    effects = patch_edges(m, list(found.edges), data, logit_diff, noise)
    np.testing.assert_allclose(found.exact, effects.mean, rtol=1e-4, atol=1e-6)
    assert np.abs(found.exact).max() > 1e-3


# -- mistakes --------------------------------------------------------------------------------------
def test_mistakes_are_refused(world: World) -> None:
    scores = world.scores()
    empty = np.zeros(WIRING.shape, dtype=bool)
    for keep, n, says in (
        (scores.mask(9), 0, "at least 1"), (empty, 9, "no edges"), (empty[:3], 9, r"\(3, "),
    ):  # fmt: skip
        with pytest.raises((ArgumentError, ScoresError, CircuitError), match=says):
            verify(None, scores, None, None, None, circuit=keep, n=n)  # type: ignore[arg-type]


def test_an_unknown_direction_is_refused() -> None:
    inputs = INPUTS["gpt2"]
    scores = Scores(inputs[0].wiring, np.ones(inputs[0].wiring.shape))
    with pytest.raises(CircuitError, match="sideways"):
        verify(inputs[0], scores, *inputs[1:], circuit=scores.mask(30), n=9, direction="sideways")
