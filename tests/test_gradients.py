"""Where the gradient methods take their gradients: each against a slow version of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from families import as_batch, dataset, distance, model, pristine
from torch import Tensor

import circuitkit as ck
import circuitkit.discovery._gradients as shared
import circuitkit.engine.gradients as engine
from circuitkit.corruptions.constants import zero
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Batch, Dataset
from circuitkit.discovery import (
    ceap,
    clean_corrupted,
    eap,
    eap_ig,
    eap_ig_activations,
    expected_gradients,
    mask_gradient,
)
from circuitkit.discovery._points import stratified
from circuitkit.engine.model import Activations
from circuitkit.engine.record import answer, difference, record
from circuitkit.engine.run import run
from circuitkit.errors import MetricError, ScoresError
from circuitkit.graph.scores import ScoresWarning
from circuitkit.metrics.answers import logit_diff
from circuitkit.registry import resolve
from circuitkit.workflows.benchmark.counting import cost, counted

LENGTHS = (8, 5, 7, 6)


def from_input(m: Any, data: Dataset, corruption: Any, shares: Any) -> Tensor:
    """What the edges out of the embedding into every first reader sum to, of each example: the
    change of the embedding times the mean gradient there, by autograd through plain runs from these
    shares of the way, [examples, points]."""
    found = []
    for example, own in zip(data.examples, shares, strict=True):
        batch = as_batch(replace(data, examples=(example,)))
        context = m.start(batch.clean, batch.mask)
        (carried,) = corruption(m, data)(batch)
        total: Any = 0.0
        for share in own:
            x = torch.lerp(carried.embed, context.embed, float(share)).requires_grad_()
            logits = answer(m, batch, record(m, context, x).final)
            (grad,) = torch.autograd.grad(logit_diff(logits, logits, batch).sum(), x)
            total += ((context.embed - carried.embed) * grad).sum() / len(own)
        found.append(total)
    return torch.stack(found)


def rows(scores: Any) -> np.ndarray:
    """The edges out of the embedding, summed for each example."""
    first = np.nonzero(scores.wiring.legal)[0] == 0
    return scores.groups[:, first].sum(1)


# -- the points of EAP-IG --------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_the_points_are_the_left_ends_or_the_middles(family: str) -> None:
    m, data = model(family), dataset(LENGTHS, batch_size=3)
    ends = {"left": [0, 1 / 3, 2 / 3], "midpoints": [1 / 6, 3 / 6, 5 / 6]}
    for points, shares in ends.items():
        found = eap_ig(m, data, logit_diff, counterfactual, steps=3, points=points,
                       groups="examples")  # fmt: skip
        expected = from_input(m, data, counterfactual, [shares] * len(data))
        assert distance(rows(found), expected) < 1e-4
        assert found.about["settings"] == {"steps": 3, "points": points}


def test_no_gradient_is_taken_at_an_embedding_of_zero_unless_asked_for() -> None:
    """There the slopes of the norms are those of nothing read."""
    m, data = model("llama"), dataset(LENGTHS, batch_size=3)
    run = {points: eap_ig(m, data, logit_diff, zero, points=points).values
           for points in (None, "midpoints", "left")}  # fmt: skip
    assert np.array_equal(run[None], run["midpoints"])
    assert np.abs(run["left"]).max() > 3 * np.abs(run[None]).max()
    plain = eap_ig(m, data, logit_diff, counterfactual)
    assert plain.about["settings"] == {"steps": 5}
    left = eap_ig(m, data, logit_diff, counterfactual, points="left")
    assert np.array_equal(plain.values, left.values)


def test_each_example_has_the_points_that_its_own_embedding_asks_for() -> None:
    m, data = model("llama"), dataset(LENGTHS, batch_size=4)

    def some(m: Any, data: Dataset) -> Any:
        swap = counterfactual(m, data)

        def carry(batch: Batch) -> list[Activations]:
            (run,) = swap(batch)
            odd = (batch.clean.sum(1) % 2 == 0)[:, None, None]
            return [replace(run, embed=run.embed.masked_fill(odd, 0.0), consistent=False)]

        return carry

    kinds = [sum(example.clean) % 2 for example in data.examples]
    assert {*kinds} == {0, 1}
    found = eap_ig(m, data, logit_diff, some, steps=2, groups="examples")
    for number, example in enumerate(data.examples):
        alone = eap_ig(m, replace(data, examples=(example,)), logit_diff, some, steps=2)
        assert distance(found.groups[number], alone.values[m.wiring.legal]) < 1e-4
        assert ("points" in alone.about["settings"]) == (kinds[number] == 0)
    assert found.about["settings"] == {"steps": 2, "points": "midpoints"}


def test_scores_that_are_not_finite_name_their_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    m, data = model("llama"), dataset(LENGTHS, batch_size=4)
    clean = np.abs(eap(m, data, logit_diff, zero).values).max() * len(data)
    monkeypatch.setattr(shared, "SINGLE", 2 * clean * len(data))  # of one batch
    with pytest.raises(ScoresError, match=r"eap_ig gives .* among 4 examples: .*embedding of zero.*"
                                          r"points='midpoints'"):  # fmt: skip
        eap_ig(m, data, logit_diff, zero, points="left")
    with pytest.raises(ScoresError, match=r"embedding of zero.* use eap_ig, or another corruption"):
        clean_corrupted(m, data, logit_diff, zero)
    monkeypatch.setattr(shared, "SINGLE", 0.0)
    with pytest.raises(MetricError, match=r"logit_diff is not finite .*finds the example\)$"):
        eap_ig(m, data, logit_diff, zero)


# -- expected gradients ----------------------------------------------------------------------------
@pytest.mark.parametrize(("family", "draws"), [("gpt2", 1), ("olmo2", 2)])
def test_expected_gradients_are_gradients_at_a_point_of_each_prompt(
    family: str, draws: int
) -> None:
    m, data = model(family), dataset(LENGTHS, batch_size=3)
    found = expected_gradients(m, data, logit_diff, counterfactual, draws=draws, seed=3,
                               groups="examples")  # fmt: skip
    shares = stratified(data, draws, 3)
    assert distance(rows(found), from_input(m, data, counterfactual, shares)) < 1e-4
    assert distance(found.values[m.wiring.legal], found.groups.mean(0)) < 1e-5


@pytest.mark.parametrize("draws", [1, 3])
def test_random_points_are_spread_evenly_and_follow_the_tokens(draws: int) -> None:
    data = dataset((8, 5, 7, 6, 8, 5))
    shares = stratified(data, draws, 0)
    n = len({e.clean for e in data.examples})
    assert n == len(data)
    assert sorted((shares * n * draws).long().flatten().tolist()) == [*range(n * draws)]
    assert ((shares * draws).long() == torch.arange(draws)).all()
    backwards = replace(data, examples=data.examples[::-1])
    assert torch.equal(stratified(backwards, draws, 0), shares.flip(0))
    doubled = replace(data, examples=data.examples * 2)
    assert torch.equal(stratified(doubled, draws, 0), shares.repeat(2, 1))
    assert not torch.equal(stratified(data, draws, 1), shares)


# -- mask gradients --------------------------------------------------------------------------------
quiet = pytest.mark.filterwarnings("ignore::circuitkit.graph.scores.ScoresWarning")
NORMS = ("live", "clean", "larger")


def in_the_mask(m: Any, data: Dataset, corruption: Any, share: float, norms: str) -> Tensor:
    """The gradient of the metric in a uniform mask, by autograd, summed over the examples."""
    batch = as_batch(data)
    context = m.start(batch.clean, batch.mask)
    (carried,) = corruption(m, data)(batch)
    with torch.no_grad():
        clean = record(m, context)
    reference = answer(m, batch, clean.final)
    held = None if norms == "live" else m.scales(batch, clean, norms == "larger")
    keep = torch.full(m.wiring.shape, share).requires_grad_()
    with m.holding(held):
        logits = run(m, batch, context, carried, keep)
        (slope,) = torch.autograd.grad(logit_diff(logits, reference, batch).sum(), keep)
    return slope * torch.from_numpy(m.wiring.legal)


@quiet
@pytest.mark.parametrize("norms", NORMS)
@pytest.mark.parametrize(("family", "corruption"), [
    ("gpt2", zero), ("neox-parallel", counterfactual), ("gemma2", counterfactual),
    ("qwen2-moe", zero), ("olmo2", zero),
])  # fmt: skip
def test_mask_gradients_are_gradients_in_the_mask(family: str, corruption: Any, norms: Any) -> None:
    m, data = model(family), dataset((8, 5, 7), batch_size=3)
    found = mask_gradient(m, data, logit_diff, corruption, steps=2, norms=norms)
    slow = sum(in_the_mask(m, data, corruption, share, norms) / 2 for share in (0.25, 0.75))
    assert distance(found.values * len(data), slow) < 1e-3
    live = mask_gradient(m, data, logit_diff, corruption, steps=2)
    assert (norms == "live") == (distance(found.values, live.values) < 1e-2)


@quiet
def test_random_points_of_a_mask_are_each_prompts_own() -> None:
    m, data = model("llama"), dataset(LENGTHS, batch_size=3)
    found = mask_gradient(m, data, logit_diff, counterfactual, steps=2, points="random", seed=1,
                          groups="examples")  # fmt: skip
    shares = stratified(data, 2, 1)
    for number, example in enumerate(data.examples):
        alone = replace(data, examples=(example,))
        slow = sum(in_the_mask(m, alone, counterfactual, float(x), "live") / 2
                   for x in shares[number])  # fmt: skip
        assert distance(found.groups[number], slow[m.wiring.legal]) < 1e-3


@pytest.mark.parametrize("norms", NORMS)
def test_the_scores_of_mask_gradients_sum_to_the_gap(norms: Any) -> None:
    """That between everything and nothing kept, with the norms as they are on the way."""
    m, data = model("gpt2"), dataset(LENGTHS, batch_size=3)
    found = mask_gradient(m, data, logit_diff, counterfactual, steps=30, norms=norms)
    path = found.about["path"]
    assert path["error"] < 0.02
    assert path["resolved"]
    assert path["sum"] == pytest.approx(found.values.sum(), rel=1e-4)
    if norms == "live":
        batch = as_batch(data)
        (corrupt,) = counterfactual(m, data)(batch)
        runs = [record(m, m.start(batch.clean, batch.mask)), corrupt]
        ends = [logit_diff(x, x, batch).mean() for x in (answer(m, batch, r.final) for r in runs)]
        assert path["gap"] == pytest.approx(float(ends[0] - ends[1]), rel=1e-4)


def test_a_path_that_is_not_resolved_is_said_to_be_so() -> None:
    m, data = model("gpt2"), dataset(LENGTHS, batch_size=3)
    with pytest.warns(ScoresWarning, match=r"sum to .*relative error .*: the path was not res"):
        found = mask_gradient(m, data, logit_diff, zero, steps=1)
    assert found.about["path"]["error"] > 0.2
    assert not found.about["path"]["resolved"]


def test_norms_that_let_a_run_overflow_are_named() -> None:
    """As they do in deep models with large activations; here what is carried is large."""
    m, data = model("gpt2"), dataset(LENGTHS, batch_size=3)

    def large(m: Any, data: Dataset) -> Any:
        swap = counterfactual(m, data)

        def carry(batch: Batch) -> list[Activations]:
            (run,) = swap(batch)
            return [replace(run, consistent=False, reads=tuple(x * 1e30 for x in run.reads))]

        return carry

    with pytest.raises(ScoresError, match=r"divide by in the clean run.* use norms='larger'"):
        mask_gradient(m, data, logit_diff, large, norms="clean")


def test_a_discovery_says_whether_the_path_was_resolved() -> None:
    run = partial(ck.discover, ck.load("mini"), "ioi", edges=20, examples=4)
    fine = run(method="mask_gradient(steps=12)")
    assert "scores' sum" in repr(fine)
    assert "not resolved" not in repr(fine)
    with pytest.warns(ScoresWarning, match="not resolved"):
        found = run(method="mask_gradient(steps=1)", corruption="zero")
    (line,) = [one for one in repr(found).splitlines() if "scores' sum" in one]
    path = found.scores.about["path"]
    assert line.endswith(f"(relative error {path['error']:.2f}: the path was not resolved)")
    assert f"{path['sum']:.3f} of a gap of {path['gap']:.3f}" in line


@pytest.mark.parametrize("norms", ["clean", "larger"])
def test_a_norm_that_is_held_is_what_autograd_finds(norms: str) -> None:
    m, data = model("gpt2"), dataset((6, 6), batch_size=2)
    batch = as_batch(data)
    clean = record(m, m.start(batch.clean, batch.mask))
    scale = m.scales(batch, clean, norms == "larger").stages[2]
    norm = m.layers[1].ln1
    x = torch.lerp(clean.reads[2], clean.reads[2].flip(2), 0.3)
    x = (x * torch.tensor([0.2, 3.0])[:, None, None]).requires_grad_()
    norm.held = scale
    try:
        given = norm(x)
    finally:
        norm.held = None
    matrix = torch.randn(1, m.d_model, 5, generator=torch.Generator().manual_seed(0))
    grad = torch.randn(1, x[..., 0].numel(), 5, generator=torch.Generator().manual_seed(1))
    (slow,) = torch.autograd.grad((given.flatten(0, 1) @ matrix[0] * grad[0]).sum(), x)
    flat = replace(scale, value=scale.value.flatten(0, 1))
    found = norm.pull(matrix)(x.detach().flatten(0, 1), grad, flat)
    assert distance(found[0], slow.flatten(0, 1)) < 1e-4
    own = norm(x)
    larger = [distance(given[i], own[i]) > 1e-2 for i in range(2)]
    assert larger == [True, norms == "clean"]  # of the second the own denominator is the larger


@quiet
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "neox-parallel"])
def test_the_backward_of_long_prompts_knows_what_is_held_and_fixed(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    m, data = model(family), dataset((8, 5, 7), batch_size=3)

    def found() -> list[np.ndarray]:
        held = mask_gradient(m, data, logit_diff, counterfactual, steps=1, norms="clean",
                             points="random")  # fmt: skip
        return [
            held.values,
            eap_ig_activations(m, data, logit_diff, counterfactual, steps=2).values,
        ]

    whole = found()
    monkeypatch.setattr(engine, "LONG", 1)
    assert max(map(distance, found(), whole)) < 1e-4


# -- conductance -----------------------------------------------------------------------------------
def test_conductance_is_what_each_step_changes_times_the_gradient_before_it() -> None:
    """Of the edges into the logits, by autograd and by hand."""
    m, data, steps = model("gpt2"), dataset((8, 5, 7), batch_size=3), 3
    batch = as_batch(data)
    context, rows = m.start(batch.clean, batch.mask), torch.arange(3)
    (carried,) = counterfactual(m, data)(batch)
    with torch.no_grad():
        runs = [record(m, context, torch.lerp(carried.embed, context.embed, k / steps))
                for k in range(steps + 1)]  # fmt: skip
    total: Any = 0.0
    for before, after in pairwise(runs):
        final = before.final.clone().requires_grad_()
        logits = answer(m, batch, final)
        (grad,) = torch.autograd.grad(logit_diff(logits, logits, batch).sum(), final)
        changes = [difference(m, after, before, row) for row in range(len(m.wiring.writers))]
        total += (torch.stack(changes) * grad)[:, rows, batch.last].sum((1, 2))
    found = ceap(m, data, logit_diff, counterfactual, steps=steps)
    assert distance(found.values[:, -1] * len(data), total) < 1e-4


def test_conductance_of_one_step_is_the_gradient_at_the_corrupted_end() -> None:
    m, data = model("llama"), dataset(LENGTHS, batch_size=3)
    one, other = (f(m, data, logit_diff, counterfactual, steps=1) for f in (ceap, eap_ig))
    assert distance(one.values, other.values) < 1e-5


def test_what_conductance_gives_the_logits_sums_to_the_gap() -> None:
    m, data = model("gpt2"), dataset((5, 7), batch_size=2)
    batch = as_batch(data)
    (carried,) = counterfactual(m, data)(batch)
    with torch.no_grad():
        ends = [answer(m, batch, x.final)
                for x in (record(m, m.start(batch.clean, batch.mask)), carried)]  # fmt: skip
    gap = [float(logit_diff(x, x, batch).mean()) for x in ends]
    found = ceap(m, data, logit_diff, counterfactual, steps=50)
    assert found.values[:, -1].sum() == pytest.approx(gap[0] - gap[1], rel=0.1)


def test_conductance_takes_no_gradient_at_an_embedding_of_zero() -> None:
    """But at the middle of the first step, of which it takes all of the change."""
    m, data = model("gpt2"), dataset(LENGTHS, batch_size=3)
    found = ceap(m, data, logit_diff, zero, steps=1)
    middle = eap_ig(m, data, logit_diff, zero, steps=1, points="midpoints")
    # what is carried is zero, and so is what the embedding's own run would start from
    assert distance(found.values[0], middle.values[0]) < 1e-5
    assert distance(found.values, middle.values) > 1e-5


# -- activations -----------------------------------------------------------------------------------
@contextmanager
def hooked(module: Any, hook: Any) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_activations_are_interpolated_one_stage_at_a_time() -> None:
    """By hooks on the Hugging Face module, of the edges out of the embedding."""
    m, data, steps = model("gpt2"), dataset((8, 8, 8), batch_size=3), 2
    plain, batch = pristine("gpt2"), as_batch(data)
    parts = [plain.transformer.drop]
    parts += [part for block in plain.transformer.h for part in (block.attn, block.mlp)]

    def first(out: Any) -> Tensor:
        return out[0] if isinstance(out, tuple) else out

    def seen(tokens: Tensor) -> list[Tensor]:
        kept: list[Tensor] = []
        handles = [part.register_forward_hook(lambda *a: kept.append(first(a[-1]).detach()))
                   for part in parts]  # fmt: skip
        plain(tokens)
        for handle in handles:
            handle.remove()
        return kept

    ends, total = (seen(batch.corrupt), seen(batch.clean)), 0.0
    change = ends[1][0] - ends[0][0]
    for part, corrupt, clean in zip(parts, *ends, strict=True):
        for step in range(1, steps + 1):
            given = torch.lerp(corrupt, clean, step / steps)

            def put(_: Any, __: Any, out: Any, given: Tensor = given) -> Any:
                return (given, *out[1:]) if isinstance(out, tuple) else given

            start: list[Tensor] = []

            def leaf(_: Any, __: Any, out: Tensor, start: list[Tensor] = start) -> Tensor:
                start.append(out.detach().requires_grad_())
                return start[0]

            with hooked(part, put), hooked(parts[0], leaf):
                logits = plain(batch.clean).logits[torch.arange(3), batch.last]
                (grad,) = torch.autograd.grad(logit_diff(logits, logits, batch).sum(), start)
            total += float((change * grad).sum()) / (steps * len(parts))
    found = eap_ig_activations(m, data, logit_diff, counterfactual, steps=steps)
    assert distance([found.values[0].sum() * len(data)], [total]) < 1e-4


# -- what they cost --------------------------------------------------------------------------------
STEPS = 3
COSTS: dict[str, tuple[float, float]] = {  # forwards and backwards of a prompt, beside the carried
    "eap": (1, 1),
    "clean_corrupted": (2, 2),
    "expected_gradients": (2, 1),
    f"expected_gradients(draws={STEPS})": (1 + STEPS, STEPS),
    f"eap_ig(steps={STEPS})": (1 + STEPS, STEPS),
    f"mask_gradient(steps={STEPS})": (1 + STEPS, STEPS),
    f"mask_gradient(steps={STEPS}, norms='clean')": (1 + STEPS, STEPS),
    f"ceap(steps={STEPS})": (1 + STEPS, STEPS),
    "eap_ig_activations(steps=1)": (1 + 7, 7),
}


@quiet
@pytest.mark.parametrize(("name", "expected"), COSTS.items())
def test_each_costs_the_runs_that_it_says(name: str, expected: tuple[float, float]) -> None:
    method = resolve("discovery", name)
    m, data = model("gpt2"), dataset((6, 6), batch_size=2)
    for corruption in (counterfactual, zero):
        twin, tally = counted(m)
        method(twin, data, logit_diff, corruption)
        found = cost(m, data, tally)
        forwards, backwards = expected
        forwards += corruption is counterfactual
        # at the middles of the steps it has to run the ends too
        forwards += STEPS * (corruption is zero and name.startswith("ceap"))
        assert found.forwards == pytest.approx(len(data) * forwards)
        # a stage that is fixed has no backward: each but the embedding's, once
        backwards -= name.startswith("eap_ig_activations")
        assert found.backwards == pytest.approx(len(data) * backwards)
