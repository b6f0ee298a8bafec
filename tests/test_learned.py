"""Learned masks: their draws and gradients against slow versions, and a training that is killed."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import dataset, distance, model
from torch import Tensor

import circuitkit as ck
from circuitkit.corruptions import counterfactual, noise, zero
from circuitkit.data.batches import Dataset
from circuitkit.discovery import _training as training
from circuitkit.discovery import eap, edge_pruning, nested, random, ugs
from circuitkit.discovery import learned as masks
from circuitkit.discovery import rankings as module
from circuitkit.errors import (
    ArgumentError,
    CircuitkitError,
    MetricError,
    OutputError,
    UnknownNameError,
)
from circuitkit.evaluation.recovery import average_precision
from circuitkit.graph.scores import Scores
from circuitkit.metrics import accuracy, kl, logit_diff
from circuitkit.truth.rasp import compile_program, named, true_edges

LEARNED: Mapping[str, Callable[..., Scores]] = {
    "nested": partial(nested, start="eap"),
    "edge_pruning": edge_pruning,
    "ugs": ugs,
}
every_method = pytest.mark.parametrize("method", LEARNED)
DRAW = np.random.default_rng


def learned(method: str, data: Any = None, metric: Any = logit_diff, **settings: Any) -> Scores:
    """A short training: three steps of four prompts; edge pruning starts with all edges, so that a
    short one has to be fast."""
    given = {"runs": 12, "size": 4, **settings}
    if method == "edge_pruning":
        given = {"rate": 8.0, "warmup": 0.0, **given}
    used = prompts() if data is None else data
    return LEARNED[method](model("gpt2"), used, metric, counterfactual, **given)


def prompts() -> Dataset:
    """Two groups of four."""
    return dataset((7, 5, 6, 5, 7, 4, 6, 5), batch_size=8)


# -- nested sizes ----------------------------------------------------------------------------------
def test_a_soft_mask_sums_to_its_size() -> None:
    scores = torch.randn(300, dtype=torch.float64) * 4
    sizes = torch.tensor([1.0, 1.5, 40.0, 299.0], dtype=torch.float64)
    for temperature in (0.1, 0.5, 3.0):
        soft = module._Soft.apply(scores, sizes, temperature)
        assert distance(soft.sum(1), sizes) < 1e-6
        order = scores.argsort()
        assert bool((soft[:, order].diff(dim=1) >= 0).all())


def test_the_gradient_of_a_soft_mask_is_that_through_its_threshold() -> None:
    """Against finite differences of the bisection, and autograd through a step of Newton's method
    that follows it."""
    scores = torch.randn(9, dtype=torch.float64).requires_grad_()
    sizes = torch.tensor([1.2, 4.0, 7.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: module._Soft.apply(s, sizes, 0.5), (scores,))
    weights = torch.randn(3, 9, dtype=torch.float64)
    (found,) = torch.autograd.grad((module._Soft.apply(scores, sizes, 0.5) * weights).sum(), scores)
    threshold = module._thresholds(scores.detach(), sizes, 0.5)
    here = torch.sigmoid((scores - threshold) / 0.5)
    steep = (here * (1 - here)).sum(1, keepdim=True).detach() / 0.5
    newton = threshold + (here.sum(1, keepdim=True) - sizes[:, None]) / steep
    slow = (torch.sigmoid((scores - newton) / 0.5) * weights).sum()
    (expected,) = torch.autograd.grad(slow, scores)
    assert distance(found, expected) < 1e-6


def test_every_prompt_of_a_step_draws_a_size_of_another_magnitude() -> None:
    drawn = [module._budgets(DRAW(i), 4, 10_000) for i in range(200)]
    assert all(sorted(np.log10(own) // 1) == [0, 1, 2, 3] for own in drawn)
    assert len({tuple(np.argsort(own)) for own in drawn}) == 24
    assert 0 < np.min(drawn) - 1 < 1
    assert 9_000 < np.max(drawn) < 10_000


def test_it_starts_from_a_ranking_by_magnitude() -> None:
    m, data = model("gpt2"), prompts()
    first = eap(m, data, logit_diff, counterfactual)
    still = partial(nested, m, data, logit_diff, counterfactual, runs=1, size=1, rate=1e-30)
    for start in ("eap", first):
        found = still(start=start).values[m.wiring.legal]
        order = np.argsort(-np.abs(first.values[m.wiring.legal]), kind="stable")
        ranks = np.empty(len(order))  # none of them are equal
        ranks[order] = np.arange(1, len(order) + 1)
        assert distance(found, np.log1p(1 / ranks)) < 1e-5
    alike = still(start=None).values[m.wiring.legal]
    assert distance(alike, np.full(len(first), np.log(2))) < 1e-6
    said = nested(m, data, runs=1, start=first).about["settings"]["start"]
    assert said["method"] == "eap"
    assert json.dumps(said)


def test_edges_that_are_equal_share_a_rank() -> None:
    m = model("gpt2")
    values = np.where(m.wiring.legal, 1.0, 0.0)
    values[0, 0], values[0, 1] = -9.0, 0.5
    found = training._ranks(Scores(m.wiring, values))
    n = m.wiring.n_edges
    assert found[:2].tolist() == [1, n]
    assert set(found[2:].tolist()) == {(2 + n - 1) / 2}


def test_a_start_that_gives_no_scores_of_this_model_is_refused() -> None:
    m, data = model("gpt2"), prompts()
    other = random(model("llama"), data)
    with pytest.raises(ArgumentError, match=r"start gives scores of a different model; give"):
        nested(m, data, runs=1, start=other)
    with pytest.raises(UnknownNameError, match="eap_ig"):
        nested(m, data, runs=1, start="eap_igs")


# -- hard concrete masks ---------------------------------------------------------------------------
def test_the_share_of_hard_concrete_masks_above_0_is_that_of_the_closed_form() -> None:
    alpha = torch.linspace(-6, 6, 25)
    drawn = masks._hard_concrete({"edges": alpha}, 0.0, DRAW(0), 40_000)
    assert distance((drawn > 0).double().mean(0), masks._kept(alpha)) < 0.01
    assert bool(((drawn >= 0) & (drawn <= 1)).all())
    assert bool(((drawn == 1).any(0) & (drawn == 0).any(0))[8:17].all())


def test_the_multipliers_press_until_the_target_is_met() -> None:
    alpha = torch.full((10,), -50.0)
    given = {"edges": alpha, "multipliers": torch.tensor([2.0, 3.0])}
    for done, aim in ((0.0, 0.0), (0.4, 0.25), (0.8, 0.5), (1.0, 0.5)):
        short = 1 - aim
        found = float(masks._sparsity(0.5, 0.8, given, done))
        assert found == pytest.approx(2 * short + 3 * short**2, rel=1e-5)


def test_edge_pruning_drops_the_share_that_it_aims_at() -> None:
    m, data = model("gpt2"), prompts()
    found = edge_pruning(m, data, logit_diff, counterfactual, target=0.6, runs=400, rate=0.5)
    assert 0.25 < found.about["kept"] / len(found) < 0.55
    assert found.top(found.about["kept"]).number_of_edges()


# -- uniform gradient sampling ---------------------------------------------------------------------
def test_uniform_samples_are_soft_within_their_window() -> None:
    theta = torch.tensor([-3.0, 0.0, 2.0])
    kept = torch.sigmoid(theta)
    drawn = masks._uniform({"edges": theta}, 0.0, DRAW(0), 50_000)
    inside = (drawn > 0) & (drawn < 1)
    assert distance(inside.double().mean(0), kept * (1 - kept)) < 0.02
    assert distance(drawn.double().mean(0), kept) < 0.01


def test_the_gradient_of_uniform_samples_is_a_mean_over_those_inside() -> None:
    theta = torch.tensor([-0.5, 0.3, 1.0, -2.0]).requires_grad_()
    drawn = masks._uniform({"edges": theta}, 0.0, DRAW(3), 16)
    weights = torch.randn(drawn.shape)
    (found,) = torch.autograd.grad((drawn * weights).sum() / 16, theta)
    drawn = drawn.detach()
    for edge in range(4):
        kept = float(torch.sigmoid(theta[edge].detach()))
        rows = [i for i in range(16) if 0 < float(drawn[i, edge]) < 1]
        mean = sum(float(weights[i, edge]) for i in rows) / len(rows) if rows else 0.0
        assert float(found[edge]) == pytest.approx(mean * kept * (1 - kept), abs=1e-6)


def test_uniform_samples_find_what_a_loss_gains_from_an_edge() -> None:
    """Of one that is curved in the mask, the difference of its two ends."""
    theta = torch.tensor([0.4]).requires_grad_()
    drawn = masks._uniform({"edges": theta}, 0.0, DRAW(0), 200_000)
    (found,) = torch.autograd.grad((drawn**3 - 2 * drawn).mean(), theta)
    kept = float(torch.sigmoid(theta.detach()))
    assert float(found) == pytest.approx((1 - 2) * kept * (1 - kept), rel=0.02)


# -- training --------------------------------------------------------------------------------------
@every_method
def test_the_loss_falls_and_is_told(method: str) -> None:
    found = learned(method, runs=120, rate=0.1)
    first, last = found.about["losses"]["first"], found.about["losses"]["last"]
    assert method == "edge_pruning" or last < first  # which starts with all edges
    assert found.about["settings"]["runs"] == 120
    assert ("kept" in found.about) == (method != "nested")
    assert found.about["seen"]


@every_method
def test_the_seed_decides(method: str) -> None:
    one, two, other = (learned(method, seed=seed).values for seed in (0, 0, 1))
    assert np.array_equal(one, two)
    assert distance(other, one) > 1e-3


@every_method
@pytest.mark.parametrize("change", ["one by one", "reversed"])
def test_neither_batches_nor_the_order_of_the_prompts_matter(method: str, change: str) -> None:
    data = prompts()
    changed = replace(data, batch_size=1, padding="left")
    if change == "reversed":
        changed = replace(data, examples=data.examples[::-1])
    assert distance(learned(method, changed).values, learned(method, data).values) < 1e-3


def test_draws_of_a_corruption_are_averaged_over() -> None:
    m, data = model("gpt2"), prompts()
    one, three = (
        nested(m, data, logit_diff, partial(noise, draws=n), runs=8, start=None).about["losses"]
        for n in (1, 3)
    )
    assert one != three


@pytest.mark.parametrize("loss", ["match", "metric"])
def test_a_first_loss_is_that_of_runs_under_the_masks(loss: Any) -> None:
    """Each prompt alone, under its own mask, in shares of the gap."""
    m, data = model("gpt2"), prompts()
    found = nested(m, data, logit_diff, counterfactual, start=None, loss=loss, runs=1, size=100)
    order = sorted(data.examples, key=lambda e: e.fingerprint)
    order = [order[i] for i in DRAW((0, 0)).permutation(len(order))]
    sizes = module._budgets(DRAW((0, 2, 0)), len(order), m.wiring.n_edges)
    losses, gaps = [], []
    for example, size in zip(order, sizes, strict=True):
        keep = torch.full(m.wiring.shape, size / m.wiring.n_edges)
        alone = replace(data, examples=(example,))
        values = ck.measure(m, keep, alone, logit_diff, counterfactual)
        ends = [ck.measure(m, mask, alone, logit_diff, counterfactual)
                for mask in (m.wiring.legal, np.zeros(m.wiring.shape, bool))]  # fmt: skip
        full, nothing = (float(end) for end in ends)
        gaps.append(abs(full - nothing))
        losses.append(abs(float(values) - full) if loss == "match" else -float(values))
    expected = float(np.mean(losses) / np.mean(gaps))
    assert found.about["losses"]["first"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", ["nested", "ugs"])
def test_the_circuit_of_a_compiled_program_is_found(method: str) -> None:
    program = named("histogram")
    m, data = compile_program(program), program.data(24)
    true = true_edges(m, data, zero).necessary
    given = {"start": None} if method == "nested" else {"price": 0.01}
    function = {"nested": nested, "ugs": ugs}[method]
    found = function(m, data, logit_diff, zero, runs=400, rate=0.1, **given)
    assert average_precision(found, true) > average_precision(random(m, data), true) + 0.2
    assert average_precision(found, true) > 0.8


@every_method
def test_a_metric_without_a_gradient_or_a_gap_is_refused(method: str) -> None:
    with pytest.raises(MetricError, match="accuracy has no gradient"):
        learned(method, metric=steep_accuracy)
    data = prompts()
    same = replace(data, examples=tuple(replace(e, corrupt=e.clean) for e in data.examples))
    with pytest.raises(MetricError, match="so that there is nothing to learn"):
        learned(method, same, kl)


def steep_accuracy(logits: Tensor, reference: Tensor, batch: Any) -> Tensor:
    """Accuracy on the clean run, nothing elsewhere: there is a gap, and no gradient."""
    return accuracy(logits, reference, batch) + float(torch.equal(logits, reference))


steep_accuracy.__name__ = "accuracy"


# -- kill and resume -------------------------------------------------------------------------------
class Killed(Exception):
    """Stands for a kill."""


def killed_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no training go on after so many steps from now."""
    step, taken = training._Training._step, []

    def counted(self: Any) -> None:
        if len(taken) == steps:
            raise Killed
        taken.append(1)
        step(self)

    monkeypatch.setattr(training._Training, "_step", counted)
    monkeypatch.setattr(training, "SECONDS", -1.0)


@every_method
def test_a_training_that_was_killed_goes_on_to_the_same_scores(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = learned(method, runs=24)
    with monkeypatch.context() as patch:
        killed_after(4, patch)
        with pytest.raises(Killed):
            learned(method, runs=24, resume=tmp_path)
    (state,) = tmp_path.glob("*/state.safetensors")
    with monkeypatch.context() as patch:
        killed_after(2, patch)  # which is all that is left; and the ranking is not made again
        patch.setattr(training, "_ranks", None)
        found = learned(method, runs=24, resume=tmp_path)
    assert np.array_equal(found.values, whole.values)
    assert found.about == whole.about
    state.write_bytes(state.read_bytes()[:-3])  # a damaged state is not used
    assert np.array_equal(learned(method, runs=24, resume=tmp_path).values, whole.values)


def test_other_work_does_not_go_on_from_a_state(tmp_path: Path) -> None:
    first = learned("nested", resume=tmp_path)
    for other in ({"seed": 1}, {"runs": 16}, {"loss": "metric"}, {"start": None}):
        found = learned("nested", resume=tmp_path, **other)
        assert np.array_equal(found.values, learned("nested", **other).values)
    assert len([*tmp_path.iterdir()]) == 5
    again = learned("nested", resume=tmp_path)
    assert np.array_equal(again.values, first.values)


def test_a_state_of_a_metric_with_the_same_name_is_refused(tmp_path: Path) -> None:
    learned("ugs", resume=tmp_path)

    def logit_diff(*given: Any) -> Tensor:
        return ck.metrics.logit_diff(*given) * 2

    with pytest.raises(OutputError, match="plain runs gave"):
        learned("ugs", metric=logit_diff, resume=tmp_path)


def test_the_bar_shows_prompts_and_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    learned("ugs")
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "ugs" in shown
    assert "/12" in shown


def test_what_is_carried_may_be_run_again_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = learned("nested")
    monkeypatch.setattr(training, "CACHED", 0)
    assert np.array_equal(learned("nested").values, kept.values)


def test_wrong_words_are_refused() -> None:
    for given in ({"loss": "mse"}, {"runs": 0}, {"rate": 0.0}, {"size": 0}, {"start": 3}):
        with pytest.raises(CircuitkitError, match="; give "):
            learned("nested", **given)
