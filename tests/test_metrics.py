"""Metrics: worked by hand, against scipy, one value per example, whatever else is in the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from families import dataset, model
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import entropy
from torch import Tensor

import circuitkit as ck
from circuitkit.corruptions import counterfactual
from circuitkit.data.batches import Batch, Dataset
from circuitkit.discovery import acdc, eap, eap_ig, exact, gradient_norm
from circuitkit.engine.metric import check_metric
from circuitkit.errors import MetricError
from circuitkit.evaluation.ability import ability, known
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
from circuitkit.patching.nodes import patch_heads, patch_residual
from circuitkit.registry import lookup, names

METRICS = names("metrics")
LN2 = math.log(2)


def batch_of(correct: Sequence[Sequence[int]], wrong: Sequence[Sequence[int]]) -> Batch:
    """A batch with these answers, padded as batches are."""

    def rows(lists: Sequence[Sequence[int]]) -> Tensor:
        width = max(map(len, lists))
        return torch.tensor([[*x, *[-1] * (width - len(x))] for x in lists], dtype=torch.long).view(
            len(lists), width
        )

    n = len(correct)
    tokens = torch.zeros(n, 2, dtype=torch.long)
    last = torch.ones(n, dtype=torch.long)
    return Batch(tokens, tokens, tokens == 0, last, rows(correct), rows(wrong), {})


def some_logits(n: int, vocab: int = 11, seed: int = 0) -> Tensor:
    """Random logits; those of an example do not depend on how many there are."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, vocab, generator=generator) * 2


# probabilities 1/2, 1/4, 1/8, 1/8, whatever is added to all logits
LOGITS = torch.tensor([[3 * LN2, 2 * LN2, LN2, LN2]]) + 5


# -- by hand ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("metric", "correct", "wrong", "expected"),
    [
        (logit_diff, [0], [1], LN2),
        (logit_diff, [1], [0], -LN2),
        (logit_diff, [1, 2, 3], [0], 0.0),  # 1/4 + 1/8 + 1/8 against 1/2
        (logit_diff, [0], [2, 3], LN2),
        (probability, [0], [1], 0.5),
        (probability, [1, 2], [], 0.375),
        (log_probability, [0], [], -LN2),
        (log_probability, [2, 3], [0], -2 * LN2),
        (prob_diff, [0], [1], 0.25),
        (prob_diff, [2, 3], [0], -0.25),
        (accuracy, [0], [1], 1.0),
        (accuracy, [1], [0], 0.0),
        (accuracy, [2, 1], [3], 1.0),
        (accuracy, [3, 2], [1], 0.0),
        (accuracy, [0], [], 1.0),
        (accuracy, [1], [], 0.0),
        (top1, [0], [1], 1.0),
        (top1, [1], [2], 0.0),  # beats the wrong one, and not token 0
        (top1, [1, 0], [2], 1.0),
        (top1, [1], [], 0.0),
    ],
)
def test_a_metric_of_the_answers_is_as_worked_by_hand(
    metric: Any, correct: list[int], wrong: list[int], expected: float
) -> None:
    found = metric(LOGITS, LOGITS, batch_of([correct], [wrong]))
    assert found.shape == (1,)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_a_tie_with_a_wrong_answer_is_no_success() -> None:
    tied = torch.tensor([[1.0, 1.0, 0.0]])
    assert float(accuracy(tied, tied, batch_of([[0]], [[1]]))) == 0.0


def test_ties_among_all_tokens_count_alike_in_both_measures_of_success() -> None:
    tied = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 2.0]])
    batch = batch_of([[0], [0]], [[], []])
    assert top1(tied, tied, batch).tolist() == accuracy(tied, tied, batch).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("vocab", [4, 1000])
def test_divergences_are_those_of_scipy_summed_over_the_vocabulary(vocab: int) -> None:
    this, full = some_logits(3, vocab, 1), some_logits(3, vocab, 2)
    batch = batch_of([[0]] * 3, [[1]] * 3)
    p, q = softmax(full.double().numpy(), 1), softmax(this.double().numpy(), 1)
    expected = {"kl": entropy(p, q, axis=1), "js": jensenshannon(p, q, axis=1) ** 2}
    for name, values in expected.items():
        assert values.min() > 0.05
        found = -lookup("metrics", name)(this, full, batch).numpy()
        np.testing.assert_allclose(found, values, rtol=1e-4)


def test_a_divergence_is_zero_and_best_at_the_full_model() -> None:
    full, batch = some_logits(3), batch_of([[0]] * 3, [[1]] * 3)
    for metric in (kl, js):
        assert metric(full, full, batch).abs().max() < 1e-6
        assert (metric(full + some_logits(3, seed=5), full, batch) < -1e-2).all()


def test_js_never_exceeds_ln_2_and_kl_has_a_direction() -> None:
    sure = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    batch = batch_of([[0]] * 2, [[1]] * 2)
    assert js(sure, sure.flip(0), batch).tolist() == pytest.approx([-LN2] * 2)
    one, other = some_logits(1, 4, 3), some_logits(1, 4, 4)
    forward, back = (
        float(kl(a, b, batch_of([[0]], [[1]]))) for a, b in ((one, other), (other, one))
    )
    assert abs(forward - back) > 1e-3


# -- every metric ----------------------------------------------------------------------------------
ANSWERS = ([[1], [2, 3], [4, 5, 6]], [[7, 8], [9], [10, 0, 2]])


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_gives_one_finite_value_per_example(name: str) -> None:
    logits = some_logits(3)
    logits[0, 1] = 9.0  # one success at least
    found = lookup("metrics", name)(logits, some_logits(3, seed=1), batch_of(*ANSWERS))
    assert found.shape == (3,)
    assert torch.isfinite(found).all()
    assert found.abs().max() > 0


@pytest.mark.parametrize("name", METRICS)
def test_the_value_of_an_example_depends_on_no_other(name: str) -> None:
    """Alone, in any order, and beside examples with more or fewer answers."""
    metric, full = lookup("metrics", name), some_logits(3, seed=1)
    for seed in range(5):
        logits = some_logits(3, seed=seed + 10)
        together = metric(logits, full, batch_of(*ANSWERS))
        back = metric(logits.flip(0), full.flip(0), batch_of(*(a[::-1] for a in ANSWERS)))
        assert torch.allclose(back.flip(0), together, atol=1e-6)
        for i in range(3):
            one = batch_of(*([a[i]] for a in ANSWERS))
            alone = metric(logits[i : i + 1], full[i : i + 1], one)
            assert torch.allclose(alone, together[i : i + 1], atol=1e-6)


@pytest.mark.parametrize("name", ["accuracy", "top1", "log_probability", "probability", "kl", "js"])
def test_an_example_without_wrong_answers_is_judged_the_same_beside_one_with_some(
    name: str,
) -> None:
    """The second example has none, so that every token is its rival: it fails."""
    metric = lookup("metrics", name)
    logits, full = LOGITS.repeat(2, 1), some_logits(2, 4)
    together = metric(logits, full, batch_of([[0], [1]], [[1], []]))
    alone = metric(logits[1:], full[1:], batch_of([[1]], [[]]))
    assert float(together[1]) == pytest.approx(float(alone), abs=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_looks_at_answers_not_at_their_padding(name: str) -> None:
    """Token 0 and the last token, at which -1 could point, change nothing but distributions."""
    metric, batch = lookup("metrics", name), batch_of([[1], [2, 3]], [[4, 5], [6]])
    logits, full = some_logits(2), some_logits(2, seed=1)
    swapped = logits.clone()
    swapped[:, [0, -1]] = logits[:, [-1, 0]]  # the normaliser stays
    full[:, -1] = full[:, 0]
    assert not torch.equal(swapped, logits)
    assert torch.allclose(metric(swapped, full, batch), metric(logits, full, batch), atol=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_rises_towards_the_right_answer(name: str) -> None:
    """Higher is better: of a run that comes to be certain of what it should be."""
    metric, batch = lookup("metrics", name), batch_of([[1], [2, 3]], [[4, 5], [6]])
    aim = torch.full((2, 11), -8.0)
    aim[0, 1] = aim[1, 2] = 8.0
    away = aim.clone()
    away[0, 4] = away[1, 6] = 12.0
    values = torch.stack([metric(torch.lerp(away, aim, x), aim, batch) for x in (0, 0.5, 0.9, 1)])
    assert (values.diff(dim=0) >= 0).all()
    assert (values[-1] > values[0]).all()


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_the_same_when_all_logits_rise(name: str) -> None:
    metric, batch = lookup("metrics", name), batch_of(*ANSWERS)
    logits, full = some_logits(3), some_logits(3, seed=1)
    risen = metric(logits + 7.5, full - 3, batch)
    assert torch.allclose(risen, metric(logits, full, batch), atol=1e-5)


@pytest.mark.parametrize("name", [n for n in METRICS if n not in ("accuracy", "top1")])
def test_a_metric_has_the_gradient_of_its_finite_differences(name: str) -> None:
    metric, batch = lookup("metrics", name), batch_of(*ANSWERS)
    full = some_logits(3, seed=1)
    logits = some_logits(3).requires_grad_()
    (grad,) = torch.autograd.grad(metric(logits, full, batch).sum(), logits)
    assert torch.isfinite(grad).all()
    direction = torch.sign(grad)
    with torch.no_grad():
        up, down = (metric(logits + s * 1e-2 * direction, full, batch).sum() for s in (1, -1))
    slope = float(up - down) / 2e-2
    assert slope == pytest.approx(float((grad * direction).sum()), rel=2e-2)
    assert slope > 1e-2


@pytest.mark.parametrize("metric", [accuracy, top1])
def test_success_has_no_gradient(metric: Any) -> None:
    logits = some_logits(3).requires_grad_()
    assert not metric(logits, logits, batch_of(*ANSWERS)).requires_grad


@pytest.mark.parametrize("metric", [logit_diff, prob_diff])
@pytest.mark.parametrize("wrong", [[[], []], [[1], []]])
def test_a_metric_that_needs_wrong_answers_says_so(metric: Any, wrong: list[list[int]]) -> None:
    with pytest.raises(MetricError, match="no wrong answer"):
        metric(some_logits(2), some_logits(2), batch_of([[2], [3]], wrong))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_judged_in_single_precision(name: str, kind: Any) -> None:
    """The value is that of the same logits in single precision, not rounded on the way."""
    metric, batch = lookup("metrics", name), batch_of(*ANSWERS)
    logits, full = some_logits(3).to(kind), some_logits(3, seed=1).to(kind)
    expected = metric(logits.float(), full.float(), batch)
    assert torch.allclose(metric(logits, full, batch).float(), expected, atol=1e-6)


# -- what is not a metric --------------------------------------------------------------------------
def _reduced(logits: Tensor, reference: Tensor, batch: Batch) -> Tensor:
    return logits[:, 0].mean()


NOT_METRICS: dict[str, tuple[Any, str]] = {
    "reduces": (_reduced, r"_reduced returned the shape \(\) for 2 examples; .*one value per"),
    "keeps a dimension": (lambda x, r, b: x[:, :1], r"the shape \(2, 1\) for 2 examples"),
    "all logits": (lambda x, r, b: x, r"the shape \(2, 11\)"),
    "float": (lambda x, r, b: 1.5, "an object of type float"),
    "array": (lambda x, r, b: x[:, 0].detach().numpy(), r"an object of type numpy\.ndarray"),
    "list": (lambda x, r, b: x[:, 0].tolist(), "an object of type list"),
    "nothing": (lambda x, r, b: None, "returned None"),
    "nan": (
        lambda x, r, b: x[:, 0] * torch.tensor([1, torch.nan]),
        "nan for prompt 2 of a ba",
    ),
    "nan logits": (
        lambda x, r, b: (x * torch.nan)[:, 0],
        "prompt 1 of a batch and 1 more of",
    ),
    "complex": (lambda x, r, b: x[:, 0] + 1j, "complex numbers"),
    "two arguments": (lambda x, labels: x[:, 0], r"\(x, labels\) is not a metric; a metric takes"),
    "four arguments": (lambda x, c, n, y: x[:, 0], r"\(x, c, n, y\) is not a metric"),
    "torch's own": (torch.nn.functional.cross_entropy, "cross_entropy raised a TypeError .*weight"),
    "batch as a dictionary": (lambda x, r, b: x[:, b["correct"]], "TypeError .*subscriptable"),
    "no function": ("logit_diff", "'logit_diff' is not a metric; a metric takes"),
    "none": (None, "None is not a metric"),
}


@pytest.mark.unchecked
@pytest.mark.parametrize("case", NOT_METRICS)
def test_what_is_not_a_metric_is_refused_in_one_sentence(case: str) -> None:
    metric, reason = NOT_METRICS[case]
    batch, logits = batch_of([[1], [2]], [[3], [4]]), some_logits(2)
    with pytest.raises(MetricError, match=reason) as caught:
        check_metric(metric, logits, logits, batch)
    assert "\n" not in str(caught.value)


METHODS = [eap, eap_ig, acdc, gradient_norm, exact, patch_heads, patch_residual]


@pytest.mark.parametrize("call", [ability, known, *METHODS], ids=lambda call: call.__name__)
@pytest.mark.parametrize("case", ["reduces", "float", "array", "nothing", "two arguments"])
def test_it_is_refused_by_all_that_calls_it(call: Any, case: str) -> None:
    metric, reason = NOT_METRICS[case]
    corruption = (counterfactual,) if call in METHODS else ()
    with pytest.raises(MetricError, match=reason.partition(" for 2")[0].replace("2, ", r"\d, ")):
        call(model("gpt2"), dataset((5, 6)), metric, *corruption)


def test_the_logits_are_named_where_they_are_nan() -> None:
    logits = some_logits(2) * torch.nan
    with pytest.raises(MetricError, match="batch, as the logits are nan there too; load"):
        check_metric(logit_diff, logits, logits, batch_of([[1], [2]], [[3], [4]]))


def test_truth_values_and_whole_numbers_become_numbers() -> None:
    batch, logits = batch_of([[1], [2]], [[3], [4]]), some_logits(2).double()

    def right(logits: Tensor, reference: Tensor, batch: Batch) -> Tensor:
        return logits.argmax(-1) == batch.correct[:, 0]

    for metric in (right, lambda *given: right(*given).long()):
        assert check_metric(metric, logits, logits, batch).dtype == torch.float64


def test_an_error_in_a_metric_is_its_own() -> None:
    def broken(logits: Tensor, reference: Tensor, batch: Batch) -> Tensor:
        raise ZeroDivisionError("mine")

    logits = some_logits(2)
    with pytest.raises(ZeroDivisionError, match="mine"):
        check_metric(broken, logits, logits, batch_of([[1], [2]], [[3], [4]]))


# -- the first example without a value -------------------------------------------------------------
THIRD = (5, 6, 7, 5, 6)  # tokens: the third example is the only one of its length


class Failing:
    """A metric that is nan for the third example; it says what it has seen."""

    def __init__(self) -> None:
        self.__name__, self.seen = "failing", 0

    def __call__(self, logits: Tensor, reference: Tensor, batch: Batch) -> Tensor:
        length = int(batch.mask.sum(1).max())
        self.seen = max(self.seen, 3 if length == 7 else 0)
        assert not (self.seen and length != 7), "it went on"
        return logits[:, 0] * (torch.nan if length == 7 else 1.0)


def one_by_one() -> Dataset:
    return replace(dataset(THIRD), batch_size=1)


CIRCUITS: dict[str, Callable[[Any, Any, Any], object]] = {
    "evaluate": lambda m, d, f: ck.evaluate(m, m.wiring.legal, d, f),
    "measure": lambda m, d, f: ck.measure(m, m.wiring.legal, d, f),
    "completeness": lambda m, d, f: ck.completeness(m, m.wiring.legal, d, f),
    "patch_path": lambda m, d, f: ck.patch_path(m, ["a0.h1", "logits"], d, f),
    "patch_edges": lambda m, d, f: ck.patch_edges(m, ["a0.h1->logits"], d, f),
    "curve": lambda m, d, f: ck.curve(m, ck.discovery.random(m, d), d, f, sizes=[9]),
}  # fmt: skip
CALLS = {call.__name__: call for call in [ability, known, *METHODS]} | CIRCUITS


@pytest.mark.parametrize("name", CALLS)
def test_a_metric_without_a_value_stops_at_the_first_such_example(name: str) -> None:
    with pytest.raises(MetricError, match=r"failing returned nan for prompt 3 of 5 \('.*'\);"):
        CALLS[name](model("gpt2"), one_by_one(), Failing())


def test_a_gradient_that_is_not_finite_stops_there_too() -> None:
    def steep(logits: Tensor, reference: Tensor, batch: Batch) -> Tensor:
        zero = logits[:, 0] * 0
        return logits[:, 0] + (zero.sqrt() if int(batch.mask.sum(1).max()) == 7 else zero)

    for method in (eap, eap_ig, gradient_norm):
        with pytest.raises(MetricError, match=r"gradient of steep is not finite .* prompt 3 of 5"):
            method(model("gpt2"), one_by_one(), steep)
