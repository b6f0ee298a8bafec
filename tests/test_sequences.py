"""Answers of several tokens: every verb measures the log probability of the whole."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from families import as_batch, dataset, distance, examples, model
from torch import Tensor

import circuitkit as ck
from circuitkit.corruptions import counterfactual, mean_by_position, noise, resample
from circuitkit.data.batches import Batch, Dataset
from circuitkit.data.examples import Example
from circuitkit.data.lint import check_prompts
from circuitkit.data.prompts import Prompt
from circuitkit.engine.metric import Corruption
from circuitkit.errors import DataError, MetricError
from circuitkit.metrics import (
    accuracy,
    js,
    kl,
    log_probability,
    logit_diff,
    prob_diff,
    probability,
    top1,
)

SINGLE = as_batch(dataset((5,)))
Answers = tuple[tuple[int, ...], ...]
# Of each kind, how many tokens each answer has: one against one, several, and none that are wrong.
SHAPES = (((3,), (2,)), ((1,), (1,)), ((2, 3), (1, 4)), ((2,), (3, 1)), ((1, 2), (2,)))


@cache
def whole(batch_size: int = 3) -> Dataset:
    """Prompts with answers of several tokens, some of which begin alike."""
    rng, made = Random(1), []
    for one, sizes in zip(examples((9, 7, 9, 5, 7)), SHAPES, strict=True):
        first = rng.sample(range(60), 4)  # answers begin with different tokens, so none is part
        both = [
            tuple((first.pop(), *rng.choices(range(60), k=n - 1)) for n in own) for own in sizes
        ]
        made.append(_with(one, *both))
    right, wrong = (5, 6, 7), (5, 6, 9, 1)  # two that differ in their third token
    made.append(_with(examples((6,), seed=5)[0], (right,), (wrong,)))
    return Dataset(tuple(made), batch_size=batch_size)


def _with(example: Example, right: Answers, wrong: Answers) -> Example:
    firsts = [tuple(dict.fromkeys(answer[0] for answer in own)) for own in (right, wrong)]
    return replace(example, correct=firsts[0], wrong=firsts[1], sequences=(right, wrong))


def by_hand(family: str, tokens: tuple[int, ...], answer: tuple[int, ...]) -> tuple[float, bool]:
    """The log probability of an answer in one plain forward of the text with it, and whether each
    of its tokens is the most probable."""
    ids = torch.tensor([[*tokens, *answer]])
    logits = model(family).native(ids, torch.ones_like(ids).bool()).logits[0].double()
    rows = logits.log_softmax(-1)[len(tokens) - 1 : -1]
    steps = torch.tensor(answer)
    taken = rows.gather(1, steps[:, None]).sum()
    return float(taken), bool((rows.argmax(-1) == steps).all())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_metrics_are_those_of_whole_answers_in_a_plain_forward(family: str) -> None:
    data, m = whole(), model(family)
    sums = [
        [[by_hand(family, e.clean, answer) for answer in own] for own in e.sequences or ()]
        for e in data.examples
    ]
    right, wrong = (
        np.array([np.logaddexp.reduce([log for log, _ in own[side]]) for own in sums])
        for side in (0, 1)
    )
    best, rival = (np.array([max(own[i])[0] for own in sums]) for i in (0, 1))
    expected = {
        log_probability: right, probability: np.exp(right), logit_diff: right - wrong,
        prob_diff: np.exp(right) - np.exp(wrong), accuracy: best > rival,
        top1: [any(hit for _, hit in own[0]) for own in sums],
    }  # fmt: skip
    for metric, values in expected.items():
        found = ck.measure(m, m.wiring.legal, data, metric)[0].numpy()
        np.testing.assert_allclose(found, np.asarray(values, float), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", [kl, js])
def test_divergences_are_summed_over_the_tokens_of_correct_answers(metric: Any) -> None:
    """Of the run on the corrupted prompts, position by position: in one plain forward of each text
    with each correct answer, at whose end the model is not asked."""
    data, m = whole(), model("gpt2")
    found = ck.measure(m, np.zeros(m.wiring.shape, bool), data, metric)[0]
    for example, value in zip(data.examples, found.tolist(), strict=True):
        seen: dict[tuple[int, ...], Tensor] = {}
        for answer in (example.sequences or ((), ()))[0]:
            both = [torch.tensor([[*text, *answer[:-1]]])
                    for text in (example.corrupt, example.clean)]  # fmt: skip
            rows = [m.native(ids, torch.ones_like(ids).bool()).logits[0] for ids in both]
            values = metric(*(own[len(example.clean) - 1 :] for own in rows), SINGLE)
            seen |= {answer[:i]: one for i, one in enumerate(values)}
        assert value == pytest.approx(float(sum(seen.values())), rel=1e-4)


def test_top1_is_an_answer_of_which_every_token_is_the_most_probable() -> None:
    m, (one, *_) = model("gpt2"), examples((6,))
    text, said = list(one.clean), []
    for _ in range(3):
        ids = torch.tensor([text])
        said.append(int(m.native(ids, torch.ones_like(ids).bool()).logits[0, -1].argmax()))
        text.append(said[-1])
    greedy, other = tuple(said), (*said[:2], (said[2] + 1) % 60)
    data = Dataset((_with(one, (greedy,), (other,)), _with(one, (other,), (greedy,))))
    for metric in (top1, accuracy):
        assert ck.measure(m, m.wiring.legal, data, metric).tolist() == [[1, 0]]


def test_answers_of_one_token_are_measured_as_ever() -> None:
    data, m = dataset(), model("gpt2")
    single = [_with(e, (e.correct,), (e.wrong,)) for e in data.examples]
    same = replace(data, examples=tuple(single))
    assert len(as_batch(same)) == len(data)
    for method in (ck.discovery.eap, ck.discovery.exact, ck.discovery.gradient_norm):
        found, expected = (method(m, one, logit_diff, counterfactual) for one in (same, data))
        assert distance(found.values, expected.values) < 1e-4
    assert distance(
        *(ck.measure(m, m.wiring.legal, one, "kl") + 1 for one in (same, data))
    ) < 1e-5  # fmt: skip


@pytest.mark.parametrize("method", ["eap", "eap_ig", "exact", "activation_magnitude"])
def test_scores_do_not_depend_on_batches_padding_or_order(method: str) -> None:
    data, m = whole(), model("llama")
    found = ck.resolve("discovery", method)(m, data, log_probability, counterfactual).values
    others = (
        whole(1), whole(6), replace(data, padding="left"),
        replace(data, examples=data.examples[::-1]),
        replace(data, examples=data.examples * 2),
    )  # fmt: skip
    for other in others:
        again = ck.resolve("discovery", method)(m, other, log_probability, counterfactual)
        assert distance(again.values, found) < 1e-4


def test_the_exact_effect_of_an_edge_is_that_of_a_run_without_it() -> None:
    data, m = whole(), model("gpt2")
    scores = ck.discovery.exact(m, data, logit_diff, counterfactual, groups="examples")
    assert scores.groups is not None
    full = ck.measure(m, m.wiring.legal, data, logit_diff)[0]
    places = [tuple(place) for place in np.argwhere(m.wiring.legal)]
    for place in places[:: len(places) // 6]:
        mask = m.wiring.legal.copy()
        mask[place] = False
        cut = ck.measure(m, mask, data, logit_diff, counterfactual)[0]
        assert float((full - cut).mean()) == pytest.approx(scores.values[place], abs=1e-4)
        number = places.index(place)
        np.testing.assert_allclose(scores.groups[:, number], (full - cut).numpy(), atol=1e-4)


def test_results_have_one_value_for_each_example() -> None:
    data, m = whole(), model("gpt2")
    n, scores = len(data), ck.discovery.eap(m, data, log_probability, counterfactual)
    assert as_batch(data).examples == n < len(as_batch(data)) == data.rows
    found = ck.evaluate(m, scores.top(40), data, log_probability, counterfactual)
    assert len(found.circuit) == n
    each = torch.from_numpy(np.repeat(scores.mask(40)[None], n, 0)).float()
    again = ck.measure(m, each, data, log_probability, counterfactual)[0]
    np.testing.assert_allclose(again.numpy(), found.circuit, rtol=1e-4)
    assert ck.run(m, each, data, counterfactual).shape == (1, n, 60)
    given = data, log_probability, counterfactual
    shapes = [
        ck.patch_nodes(m, "z", *given).values.shape,
        ck.patch_nodes(m, "resid_pre", *given, at="positions").values.shape,
        ck.patch_path(m, ["a0.h1", "m1", "logits"], *given).values.shape,
        ck.patch_edges(m, ["m2->logits"], *given).values.shape,
        ck.patch_windows(m, "mlp_out", *given, sizes=(2,)).joint[2].values.shape,
        ck.attention_to(m, ["a1.h1"], data, at="subject").values.shape,
    ]
    assert {shape[-1] for shape in shapes} == {n}
    assert ck.ability(m, data, log_probability).examples == n
    assert ck.study(m, data, parts=None, windows=(), only=None, circuits=()).metrics == (
        "logit_diff", "probability",
    )  # fmt: skip


@pytest.mark.parametrize("corruption", [counterfactual, noise, resample, mean_by_position])
def test_a_corruption_is_one_of_the_prompt_whatever_follows(corruption: Corruption) -> None:
    data, m = whole(), model("gpt2")
    lengths = [len(e.clean) for e in data.examples]
    data = data.where(lambda e: lengths.count(len(e.clean)) > 1)
    bare = [replace(e, corrupt=e.clean, paired=False) for e in data.examples]
    own = data if corruption is counterfactual else replace(data, examples=tuple(bare))
    batch = as_batch(own)
    (carried,) = corruption(m, own)(batch)
    for example in range(batch.examples):
        first, *rest = torch.where(batch.owner == example)[0].tolist()
        there = batch.prompts[first]
        assert all(torch.equal(carried.embed[row][there], carried.embed[first][there])
                   for row in rest)  # fmt: skip


def test_what_measures_one_token_is_refused() -> None:
    data, m = whole(), model("gpt2")

    def first_logit(logits: Tensor, reference: Tensor, batch: Batch) -> Tensor:
        return logits[:, 0]

    with pytest.raises(MetricError, match=r"first_logit measures one token.*sequence.*kl or js"):
        ck.evaluate(m, m.wiring.legal, data, first_logit, counterfactual)
    with pytest.raises(DataError, match=r"answers of one token.*answers='first'"):
        ck.describe_heads(m, ["a0.h1"], data)


def test_a_batch_is_repeated_with_its_answers() -> None:
    batch = as_batch(whole())
    logits = torch.randn(len(batch), 60, generator=torch.Generator().manual_seed(0))
    own = logit_diff(logits, logits, batch)
    again = batch.repeat(3)
    many = logits.repeat(3, 1)
    assert torch.allclose(logit_diff(many, many, again), own.repeat(3))


# -- from text -------------------------------------------------------------------------------------
TEXT = "clean,corrupt,correct,wrong\n" + "".join(
    f"The {a} is,The {b} is, {right}, {wrong}\n"
    for a, b, right, wrong in (
        ("cat", "dog", "he Mary", "she"), ("store", "cat", "he", "she John"),
        ("dog", "book", "Mary the", "Mary he"), ("book", "store", "John", "she cat"),
    )
)  # fmt: skip


def test_a_file_says_sequence_and_so_does_what_is_found_and_replayed(tmp_path: Path) -> None:
    m, path = ck.load("mini"), tmp_path / "long.csv"
    path.write_text(TEXT)
    with pytest.raises(DataError, match="not one token"):
        ck.make_task(path, m)
    task = ck.make_task(path, m, answers="sequence")
    data = Dataset.of(task, m)
    assert data.to_frame()["correct"].tolist() == [" he Mary", " he", " Mary the", " John"]
    assert data.rows == 8
    found = ck.discover(m, task, edges=20, force=True, method="eap")
    assert found.circuit.graph["answers"] == data.about["answers"] == "sequence"
    assert "answers='sequence'" in found.circuit.graph["task"]
    assert ck.replay(found.circuit, model=m).same
    assert repr(Dataset.of(list(task), m, answers="sequence").examples) == repr(data.examples)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (Prompt("The cat is", None, (" he", " he Mary")), "probabilities overlap"),
        (Prompt("The cat is", None, (" he",), (" he",)), "probabilities overlap"),
        (Prompt("The cat is", None, ("",)), "does not continue"),
        (Prompt("The cat is", None, ()), "no correct answer"),
    ],
)
def test_sequences_that_are_not_answers_are_misfits(prompt: Prompt, reason: str) -> None:
    (said,) = check_prompts([prompt], ck.load("mini"), answers="sequence").misfits
    assert reason in said


def test_an_answer_needs_room_in_the_context() -> None:
    m: Any = ck.load("mini")
    long = " cat" * (m.context - 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for more, fits in ((" he", True), (" he" * 9, False)):
            found = check_prompts([Prompt(f"The{long}", None, (more,))], m, answers="sequence")
            assert found.fits is fits
