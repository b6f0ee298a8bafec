"""Optimal ablation: what is learned, against slow versions and by what learning promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from families import as_batch, dataset, distance, double, examples, model
from torch import Tensor

import circuitkit as ck
from circuitkit.corruptions import learned, mean, optimal
from circuitkit.data.batches import Dataset
from circuitkit.engine.metric import learned as said
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.record import answer, assemble, record
from circuitkit.engine.run import runs
from circuitkit.errors import ArgumentError, DataError, UnknownNameError
from circuitkit.metrics import kl, log_probability

every_shape = pytest.mark.parametrize("family", ["gpt2", "gemma2", "llama", "attention-only"])
LOSSES: dict[str, Callable[..., Tensor]] = {"kl": kl, "log_probability": log_probability}


def carried(m: Model, data: Dataset, **settings: Any) -> Activations:
    """What is carried for all examples, as one batch."""
    return optimal(m, data, **settings)(as_batch(data))[0]


def means(m: Model, data: Dataset) -> Activations:
    """What learning begins with."""
    return mean(m, data)(as_batch(data))[0]


def loss(m: Model, data: Dataset, own: Activations, step: int, how: Any) -> float:
    """The mean loss of a step's masks with these values carried: one run for each example."""
    batch, total = as_batch(data), 0.0
    context = m.start(batch.clean, batch.mask)
    reference = answer(m, batch, record(m, context).final)
    for row, example in enumerate(data.examples):
        keep = learned._mask(m, example, how, step).numpy()
        (logits,) = runs(m, batch, context, own, [keep])
        total -= float(LOSSES[how.loss](logits, reference, batch)[row])
    return total / len(data)


def settings(**changed: Any) -> Any:
    """How constants are learned."""
    usual = {"steps": 2, "loss": "kl", "cut": "edges", "rate": 0.05, "on": None, "examples": 64,
             "seed": 3, "at": ()}  # fmt: skip
    return learned._How(**{**usual, **changed})


@pytest.mark.parametrize(
    ("family", "changed"),
    [("gpt2", {}), ("neox-serial", {"cut": "writer"}), ("gemma2", {"loss": "log_probability"}),
     ("attention-only", {"at": ("subject",)})],
)  # fmt: skip
def test_the_slopes_are_finite_differences_of_the_loss(family: str, changed: Any) -> None:
    """Of runs that are made one by one, with constants moved a little in a random direction."""
    m, data, how = double(family), dataset((7, 5, 6)), settings(**changed)
    start, scale = learned.average(m, data, by_position=False), learned._scales(m, data)
    offsets = learned.Written.each(torch.zeros_like, start)
    if not m.post_norm:
        offsets = replace(offsets, computed=offsets.shares)
    slopes = learned._slopes(m, data, how, 1, start, scale, offsets)
    generator, single = torch.Generator().manual_seed(0), family == "gemma2"  # its norms are
    step = 3e-3 if single else 1e-5
    ways = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in slopes]
    expected = sum(float((x * way).sum()) for x, way in zip(slopes, ways, strict=True))
    ends = []
    for sign in (1, -1):
        moved = [sign * step * way for way in ways]
        tied = moved[1:] if not m.post_norm else offsets.computed
        there = learned.Written(moved[0], tied, moved[1:])
        values = learned.Written.each(torch.addcmul, start, scale, there)
        (own,) = learned.constant(m, values, how.at)(as_batch(data))
        ends.append(loss(m, data, own, 1, how))
    assert abs(expected) > 1e-2
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(expected, rel=0.03 if single else 1e-4)


@every_shape
def test_constants_that_hardly_move_are_the_means(family: str) -> None:
    m, data = model(family), dataset()
    found = carried(m, data, steps=1, rate=1e-9)
    assert distance(found.final, means(m, data).final) < 1e-6
    assert distance(carried(m, data, steps=1).final, means(m, data).final) > 1e-2


@pytest.mark.parametrize(
    ("family", "cut", "name"),
    [("gpt2", "edges", "kl"), ("llama", "edges", "log_probability"),
     ("attention-only", "writer", "kl"),
     pytest.param("gemma2", "writer", "kl", marks=pytest.mark.weekly)],
)  # fmt: skip
def test_learning_lowers_the_loss_under_masks_that_it_has_not_seen(
    family: str, cut: str, name: str
) -> None:
    m, data, how = model(family), dataset((7, 6)), settings(loss=name, cut=cut)
    given = {"loss": name, "cut": cut, "seed": 3, "rate": 0.03}
    before, after = means(m, data), carried(m, data, steps=40, **given)
    masks = range(100, 110)
    was, now = (sum(loss(m, data, own, step, how) for step in masks) for own in (before, after))
    assert now < was - 0.05 * abs(was)


def test_the_constant_of_one_writer_is_close_to_the_best_of_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where just this one is cut, no other near it does better, and the mean does much worse."""
    m, data = model("gpt2"), dataset((6, 6, 6))
    keep = m.wiring.legal.copy()
    keep[m.wiring.writers.index("m2")] = False
    monkeypatch.setattr(learned, "_mask", lambda *_: torch.from_numpy(keep))
    batch = as_batch(data)
    context = m.start(batch.clean, batch.mask)
    reference = answer(m, batch, record(m, context).final)

    def judge(own: Activations) -> float:
        (logits,) = runs(m, batch, context, own, [keep])
        return -float(kl(logits, reference, batch).mean())

    usual, best = means(m, data), carried(m, data, steps=60, seed=9)
    generator, rivals = torch.Generator().manual_seed(1), []
    for size in (0.02, 0.1, 0.4):
        for _ in range(5):
            noisy = learned.Written.of(best).map(
                lambda x, size=size: x + size * torch.randn(1, 1, *x.shape[2:], generator=generator)
            )
            rivals.append(judge(assemble(m, noisy.embed, noisy.computed, noisy.shares)))
    assert judge(best) < 0.7 * judge(usual)
    assert judge(best) < min(rivals) + 2e-3


def test_the_constants_depend_on_the_prompts_alone() -> None:
    """Not on their order, the batch size, the padding, or on how often each is there."""
    m, data = model("gpt2"), dataset((6, 7, 5, 8, 6, 7) * 3)
    expected = carried(m, data, steps=2)
    back = data.examples[::-1]
    for other in (replace(data, batch_size=1), replace(data, batch_size=100, padding="left"),
                  replace(data, examples=back)):  # fmt: skip
        found = carried(m, other, steps=2)
        assert distance(found.embed[0, 0], expected.embed[0, 0]) < 1e-3
        assert distance(found.final[0, 0], expected.final[0, 0]) < 1e-3
    small = dataset((6, 7, 5))
    twice = replace(small, examples=small.examples * 2)
    one, two = (carried(m, own, steps=2).final[0, 0] for own in (small, twice))
    assert distance(two, one) < 1e-3
    assert distance(carried(m, data, steps=2, seed=1).final, expected.final) > 1e-2


def test_constants_are_learned_once_and_again_where_something_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    m, calls = ck.load("mini", trainable=True), []
    data, other = (ck.Dataset.of(ck.make_task("ioi", m, n=2, seed=s), m) for s in (0, 1))
    slow = learned._learn

    def counted(*given: Any) -> Any:
        calls.append(given)
        return slow(*given)

    monkeypatch.setattr(learned, "_learn", counted)
    first = carried(m, data, steps=1)
    assert torch.equal(carried(m, data, steps=1).final, first.final)
    assert len(calls) == 1
    for changed in ({"steps": 2}, {"seed": 1}, {"loss": "log_probability"}, {"at": "S2"}):
        carried(m, data, **{"steps": 1, **changed})
    carried(m, other, steps=1)
    assert len(calls) == 6
    with torch.no_grad():
        for weight in m.tensors().values():
            weight.mul_(1.1)
    assert distance(carried(m, data, steps=1).final, first.final) > 1e-6
    assert len(calls) == 7


def test_constants_of_a_task_do_not_depend_on_the_data() -> None:
    mini = ck.load("mini")
    one, two = (ck.Dataset.of(ck.make_task("ioi", mini, n=4, seed=s), mini) for s in (1, 2))
    corruption = partial(optimal, on="greater_than", examples=3, steps=1, seed=5)
    found = [corruption(mini, data)(as_batch(data))[0].embed[0, 0] for data in (one, two)]
    assert torch.equal(*found)
    assert not torch.equal(optimal(mini, one, steps=1)(as_batch(one))[0].embed[0, 0], found[0])
    assert said(corruption, one) == {
        "task": "greater_than", "examples": 3, "steps": 1, "loss": "kl", "cut": "edges",
        "rate": 0.05, "seed": 5,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["mine.py:task", "ioi(corrupt='names')", "prompts.csv", "ioy"])
def test_only_a_tasks_own_name_says_on_what_to_learn(name: str) -> None:
    """A file that says it runs nothing, and reads nothing."""
    with pytest.raises(UnknownNameError, match="task"):
        carried(model("gpt2"), dataset(), on=name)


def test_what_does_not_fit_is_refused_before_anything_is_learned() -> None:
    m, data = model("gpt2"), dataset((6, 6))
    for changed in ({"steps": 0}, {"loss": "top1"}, {"cut": "node"}, {"rate": 0.0}):
        with pytest.raises(ArgumentError):
            carried(m, data, **changed)
    with pytest.raises(DataError, match="no span 'verb'"):
        carried(m, data, at="verb", steps=1)


def test_results_say_on_what_and_how_constants_were_learned() -> None:
    m, data = model("gpt2"), dataset((6, 5, 7))
    found = ck.discovery.eap(m, data, "logit_diff", partial(optimal, steps=1))
    about = found.about["learned"]
    assert about == {
        "prompts": about["prompts"], "examples": 3, "steps": 1, "loss": "kl", "cut": "edges",
        "rate": 0.05, "seed": 0,
    }  # fmt: skip
    assert found.top(5).graph["learned"] == about
    other = replace(data, examples=examples((6, 5, 7), seed=4))
    same = replace(data, examples=data.examples[::-1])
    digests = [said(partial(optimal, steps=1), own)["prompts"] for own in (data, same, other)]
    assert digests[0] == digests[1] == about["prompts"] != digests[2]
    assert "learned" not in ck.discovery.eap(m, data, "logit_diff", mean).about


def test_a_circuit_found_under_learned_constants_is_found_again(tmp_path: Any) -> None:
    mini = ck.load("mini")
    found = ck.discover(mini, "ioi", edges=12, examples=4, corruption="optimal(steps=1)",
                        method="eap")  # fmt: skip
    path = found.circuit.save(tmp_path / "circuit.json")
    read = ck.Circuit.load(path)
    assert read.graph["learned"]["steps"] == 1
    assert read.graph["corruption"] == "optimal(steps=1)"
    assert ck.replay(path, model=mini).same


def test_a_plan_counts_the_learning() -> None:
    mini, given = ck.load("mini"), {"method": "eap", "edges": 12, "examples": 4}
    for written, times in (("optimal(steps=5)", 2), ("optimal(steps=5, on='facts')", 1)):
        found = ck.plan(mini, "ioi", corruption=written, **given)
        assert found.steps["constants"] == times * 5 * 4 * 9
    assert "constants" not in ck.plan(mini, "ioi", corruption="mean", **given).steps


def test_answers_of_several_tokens_are_learned_from() -> None:
    mini = ck.load("mini")
    prompts = [ck.Prompt("The cat and", "The dog and", (" then some",), (" no more",))] * 2
    data = ck.Dataset.of(prompts, mini, answers="sequence")
    for name in LOSSES:
        one, two = means(mini, data).final, carried(mini, data, steps=2, loss=name).final
        assert np.isfinite(two.numpy()).all()
        assert distance(two, one) > 1e-4
