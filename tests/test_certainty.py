"""Certainty: intervals that cover as they say, frequencies of circuits of other prompts, files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from math import inf, isnan, nan
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy import stats

from circuitkit.errors import ArgumentError, ScoresError
from circuitkit.evaluation.certainty import certainty
from circuitkit.evaluation.certainty_result import Certainty, prompts_text
from circuitkit.evaluation.replicates import complementary, cuts, pairwise, resamples
from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring
from circuitkit.util.statistics import means
from circuitkit.viz import style
from circuitkit.viz.circuits import legend
from circuitkit.viz.circuits.drawing import drawing

WIRING = Wiring(2, 3, 3)
RNG = np.random.default_rng


def scored(groups: np.ndarray, wiring: Wiring = WIRING) -> Scores:
    """Scores of examples, with their means."""
    groups = groups.astype(np.float32)
    values = np.zeros(wiring.shape, np.float32)
    values[wiring.legal] = groups.mean(0)
    return Scores(wiring, values, {"model": "toy"}, None, groups)


def drawn(n: int = 32, seed: int = 0, noise: float = 1.0) -> Scores:
    """Scores of n examples around true ones."""
    true = RNG(1).standard_normal(WIRING.n_edges)
    return scored(true + noise * RNG(seed).standard_normal((n, WIRING.n_edges)))


# -- intervals -------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [16, 64])
@pytest.mark.parametrize(
    ("draw", "true"),
    [
        (lambda size: RNG(0).standard_normal(size), 0.0),
        (lambda size: RNG(1).standard_t(5, size), 0.0),
        (lambda size: RNG(2).exponential(size=size), 1.0),
        (lambda size: RNG(3).gamma(0.5, size=size), 0.5),
    ],
    ids=["normal", "heavy tails", "exponential", "gamma"],
)
def test_intervals_cover_as_they_say(
    draw: Callable[[tuple[int, int]], np.ndarray], true: float, n: int
) -> None:
    found = means(draw((n, 4000)))
    covered = ((found.low <= true) & (true <= found.high)).mean()
    assert covered == pytest.approx(0.95, abs=0.02), "averaged over the edges"


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_sign_is_sure_exactly_where_the_interval_has_no_zero(level: float) -> None:
    found = means(RNG(0).exponential(size=(24, 2000)) - 0.8, level)
    away = (found.low > 0) | (found.high < 0)
    assert 0.05 < away.mean() < 0.95
    assert (away == (found.p < 1 - level)).all()


def test_without_skew_and_tails_it_is_the_interval_of_student() -> None:
    values = np.array([[-1.0], [1.0]] * 20) + 0.3  # symmetric, with the lightest tails
    found, one = means(values), stats.ttest_1samp(values[:, 0], 0)
    low, high = one.confidence_interval()
    assert (found.low[0], found.high[0]) == pytest.approx((low, high))
    assert found.p[0] == pytest.approx(one.pvalue)


def test_heavy_tails_leave_fewer_degrees_of_freedom() -> None:
    values = np.array([-8.0, 8.0, *[-1.0, 1.0] * 10])[:, None]
    n, excess = len(values), stats.kurtosis(values, bias=False)[0]
    free = 2 * n / (excess + 2 * n / (n - 1))
    assert 2 < free < 6
    half = stats.t.ppf(0.975, free) * stats.sem(values)
    assert means(values).high == pytest.approx(half)


def test_a_change_of_sign_turns_the_interval_round() -> None:
    values = RNG(0).exponential(size=(20, 50))
    one, other = means(values), means(-values)
    assert one.low == pytest.approx(-other.high)
    assert one.p == pytest.approx(other.p)


def test_double_data_halve_the_variance() -> None:
    values = RNG(0).standard_normal((400, 10))
    once, twice = means(values), means(np.concatenate([values, values]))
    assert twice.error**2 == pytest.approx(once.error**2 / 2, rel=2 / 400)


def test_what_does_not_vary_is_not_known_but_for_zeros() -> None:
    found = means(np.array([[0.0, 2.5], [0.0, 2.5], [0.0, 2.5]]))
    assert (found.low[0], found.high[0], found.p[0]) == (0, 0, 1)
    assert all(isnan(own[1]) for own in (found.low, found.high, found.p))
    assert found.mean[1] == 2.5


# -- each edge -------------------------------------------------------------------------------------
def test_p_are_adjusted_over_all_edges_as_scipy_does() -> None:
    found = certainty(drawn(), 10)
    p = means(drawn().groups).p  # type: ignore[arg-type]
    assert found.q == pytest.approx(stats.false_discovery_control(p), rel=1e-5)


def test_means_and_errors_are_those_of_the_examples() -> None:
    groups = drawn().groups
    found = certainty(drawn(), 10)
    assert found.mean == pytest.approx(groups.mean(0), abs=1e-6)  # type: ignore[union-attr]
    assert found.standard_error == pytest.approx(stats.sem(groups), rel=1e-5)


def test_blocks_of_edges_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = certainty(drawn(), 10)
    monkeypatch.setattr("circuitkit.evaluation.replicates.BLOCK", 100)
    monkeypatch.setattr("circuitkit.evaluation.replicates.BLOCK_BYTES", 1)
    pieces = certainty(drawn(), 10)
    assert pieces.low == pytest.approx(whole.low, rel=1e-5)
    assert pieces.frequency == pytest.approx(whole.frequency, abs=0.02)  # sums in another order


# -- circuits of other prompts ---------------------------------------------------------------------
@pytest.mark.parametrize("rule", ["abs", "signed", "greedy"])
def test_a_replicate_is_cut_as_scores_are(rule: str) -> None:
    scores, n = drawn(noise=3), 12
    times = resamples(32, 16, 5, RNG(0))
    found = [*cuts(WIRING, scores.groups, times, n, rule)]  # type: ignore[arg-type]
    for own, cut in zip(times, found, strict=True):
        again = scored(np.repeat(scores.groups, own, axis=0))  # type: ignore[arg-type]
        assert (np.flatnonzero(again.mask(n, rule)[WIRING.legal]) == cut).all()


def test_an_edge_that_is_always_on_top_is_always_in() -> None:
    scores = drawn(noise=0.5)
    column = int(np.flatnonzero(WIRING.legal.ravel()).tolist().index(WIRING.shape[1] - 1))
    groups = scores.groups.copy()  # type: ignore[union-attr]
    groups[:, column] += 100  # input -> logits
    found = certainty(scored(groups), 5)
    assert found.frequency[column] == 1
    assert found.core[0, -1]


def test_frequencies_are_those_of_fresh_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """In five bins, within 0.1: samples of all as many prompts are off by 0.2 here."""
    monkeypatch.setattr("circuitkit.evaluation.certainty.PAIRED", 2)
    monkeypatch.setattr("circuitkit.evaluation.certainty.HALVES", 1)
    sure = [certainty(drawn(32, seed, 2), 15, replicates=80) for seed in range(20)]
    held = np.array([one.mask[WIRING.legal] for one in sure])
    said = np.array([one.frequency for one in sure])
    fresh = np.array([np.delete(held, k, axis=0).mean(0) for k in range(len(sure))])
    place = np.digitize(said, (0.2, 0.4, 0.6, 0.8)) + (said > 0)
    for number in range(1, 6):
        assert said[place == number].mean() == pytest.approx(fresh[place == number].mean(), abs=0.1)


def test_the_same_examples_and_seed_give_the_same() -> None:
    one, other, another = (certainty(drawn(), 10, seed=seed) for seed in (0, 0, 1))
    assert all((getattr(one, f) == getattr(other, f)).all() for f in ("frequency", "low", "q"))
    assert (one.frequency != another.frequency).any()


def test_the_order_of_the_examples_changes_the_draws_alone() -> None:
    scores = drawn()
    mixed = replace(scores, groups=scores.groups[::-1].copy())  # type: ignore[index]
    one, other = certainty(scores, 10), certainty(mixed, 10)
    assert other.p == pytest.approx(one.p, rel=1e-4)
    assert other.frequency == pytest.approx(one.frequency, abs=0.2)


def test_samples_have_their_sizes_and_halves_share_nothing() -> None:
    assert (resamples(9, 4, 50, RNG(0)).sum(1) == 4).all()
    halves = complementary(9, 6, RNG(0))
    assert (halves.sum(1) == 4).all()
    assert (halves[::2] + halves[1::2]).max() == 1


def test_pairs_by_hand() -> None:
    found = [np.array([0, 1, 2]), np.array([1, 2, 3]), np.array([7])]
    assert pairwise(found) == pytest.approx((2 / 4 + 0 + 0) / 3)


def test_the_agreement_with_other_prompts_is_that_of_the_two_circuits() -> None:
    one, other = drawn(seed=0, noise=3), drawn(seed=1, noise=3)
    found = certainty(one, 12)
    a, b = (scores.mask(12) for scores in (one, other))
    assert 0 < found.observed(other) == (a & b).sum() / (a | b).sum() < 1
    assert found.observed(one) == 1


def test_the_agreement_rises_with_what_is_certain() -> None:
    clear, vague = (certainty(drawn(noise=noise), 15) for noise in (0.2, 5))
    assert 0 < vague.agreement < clear.agreement <= 1
    assert vague.core.sum() < clear.core.sum() <= 15


# -- how many prompts ------------------------------------------------------------------------------
def agreeing(jaccards: dict[int, float]) -> Certainty:
    """A Certainty with these agreements alone."""
    return replace(certainty(drawn(), 10), jaccards=jaccards, examples=max(jaccards))


@pytest.mark.parametrize(
    ("jaccards", "needed", "text"),
    [
        ({16: 0.60, 32: 0.70, 64: 0.775}, 452, "about 452, or more"),  # 0.4, 0.3, 0.225: × ¾ each
        ({16: 0.70, 32: 0.80, 64: 0.91}, 64, "these are enough"),
        ({16: 0.50, 32: 0.51, 64: 0.52}, inf, "more than 512"),
        ({16: 0.50, 32: 0.48, 64: 0.46}, inf, "more than 512"),
        ({1: 0.5}, nan, "not known"),
    ],
)
def test_prompts_are_foreseen_up_to_eight_times_as_many(
    jaccards: dict[int, float], needed: float, text: str
) -> None:
    found = agreeing(jaccards)
    assert found.prompts_needed() == pytest.approx(needed, abs=1, nan_ok=True)
    assert prompts_text(found) == text


def test_the_bound_is_that_of_stability_selection() -> None:
    found = certainty(drawn(noise=0.1), 10, core=0.9)
    assert found.bound == pytest.approx(100 / (0.8 * WIRING.n_edges))
    assert not found.telling
    assert "not informative" in repr(found)
    assert certainty(drawn(noise=0.01), 3).telling == (9 / (0.8 * WIRING.n_edges) <= 0.3)


# -- what is not known -----------------------------------------------------------------------------
def test_of_one_example_nothing_is_known() -> None:
    found = certainty(drawn(1), 10)
    numbers = [getattr(found, name) for name in ("standard_error", "low", "p", "q", "frequency")]
    assert all(np.isnan(own).all() for own in numbers)
    assert not found.core.any()
    assert all(map(isnan, (found.agreement, found.prompts_needed())))
    assert all("not known" in said for said in (str(found), repr(found)))
    assert found.to_dict()["core"] is found.to_dict()["agreement"] is None
    assert found.to_frame()["core"].isna().all()


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_few_examples_are_enough_for_some(n: int) -> None:
    found = certainty(drawn(n), 10, replicates=20)
    assert not np.isnan(found.frequency).any()
    assert 0 <= found.agreement <= 1


def test_scores_without_those_of_examples_are_refused() -> None:
    with pytest.raises(ScoresError, match='groups="examples"'):
        certainty(replace(drawn(), groups=None), 10)
    with pytest.raises(ArgumentError):
        certainty(drawn(), 10, core=0.5)


# -- tables and files ------------------------------------------------------------------------------
def test_the_table_holds_every_edge_the_strongest_first() -> None:
    found = certainty(drawn(), 10)
    frame = found.to_frame()
    assert (len(frame), frame["circuit"].sum()) == (WIRING.n_edges, found.edges)
    assert frame["weight"].abs().is_monotonic_decreasing
    row = frame.iloc[0]
    there = found.wiring.index(row["writer"], row["reader"])
    place = int(WIRING.legal.ravel()[: np.ravel_multi_index(there, WIRING.shape)].sum())
    assert (row["low"], row["frequency"]) == (found.low[place], found.frequency[place])


def test_a_circuit_says_what_is_known_of_its_edges(tmp_path: Path) -> None:
    from circuitkit.graph.circuit import Circuit

    scores = drawn()
    found = certainty(scores, 10)
    circuit = found.annotated(scores.circuit(found.mask))
    again = Circuit.load(circuit.save(tmp_path / "x.json"))
    table = again.to_frame().merge(found.to_frame(), on=["writer", "reader"])
    assert len(table) == found.edges
    for name in ("standard_error", "low", "high", "p", "q", "frequency"):
        assert table[f"{name}_x"].to_numpy() == pytest.approx(table[f"{name}_y"].to_numpy())
    assert table["core_x"].tolist() == table["core_y"].tolist()


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    for n in (1, 32):
        found = certainty(drawn(n), 10)
        again = Certainty.load(found.save(tmp_path / "c.safetensors"))
        for field in fields(Certainty):
            one, other = getattr(found, field.name), getattr(again, field.name)
            assert (
                np.array_equal(one, other, equal_nan=True)
                if isinstance(one, np.ndarray)
                else one == other
            ), field.name
        assert repr(again) == repr(found)


def test_equal_files_have_equal_bytes(tmp_path: Path) -> None:
    found = certainty(drawn(), 10)
    one, other = (found.save(tmp_path / name).read_bytes() for name in "ab")
    assert one == other


def test_files_that_hold_none_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "c.safetensors"
    with pytest.raises(ScoresError, match="no file"):
        Certainty.load(place)
    save_file({"mean": np.zeros(3, np.float32)}, place)
    with pytest.raises(ScoresError, match="is not a file of"):
        Certainty.load(place)
    drawn().save(place)
    with pytest.raises(ScoresError, match="holds no certainty"):
        Certainty.load(place)
    found = certainty(drawn(), 10)
    whole = found.save(place).read_bytes()
    changed = bytearray(whole)
    changed[-found.mask.size - 4] ^= 1  # of the last number: the mask stands behind them
    place.write_bytes(changed)
    with pytest.raises(ScoresError, match="digest"):
        Certainty.load(place)
    assert Certainty.load(place, force=True).edges == found.edges


# -- pictures --------------------------------------------------------------------------------------
def test_the_rarer_an_edge_the_paler_its_line(tmp_path: Path) -> None:
    scores = drawn(noise=2)
    found = certainty(scores, 15)
    plain = scores.circuit(found.mask)
    sure = drawing(found.annotated(plain), None, None)
    core = [edge.opacity for edge in sure.edges if edge.core]
    rare = sorted((edge.frequency, edge.opacity) for edge in sure.edges if not edge.core)
    assert set(core) == {style.opacity(1)}
    assert 0.25 <= rare[0][1] < rare[-1][1] < min(core)
    assert [solid for _, solid in rare] == sorted(solid for _, solid in rare)
    assert f"core: {len(core)} of 15 edges" in " ".join(sure.caption)
    assert {"core", "in half of other samples"} <= {key.text for key in legend.lines(sure)}
    assert "of samples" in found.annotated(plain).draw(tmp_path / "x.svg").read_text()


def test_a_circuit_without_frequencies_is_drawn_as_it_was() -> None:
    drawn_plainly = drawing(drawn().top(15), None, None)
    assert {edge.opacity for edge in drawn_plainly.edges} == {style.opacity(1)}
    assert "core" not in " ".join(drawn_plainly.caption)
    assert not [key for key in legend.lines(drawn_plainly) if "core" in key.text]
