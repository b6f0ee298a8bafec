"""Metrics of the answers' tokens; several answers count as one event."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.numerics import wide
from circuitkit.errors import MetricError

__all__ = ["logit_diff", "probability", "log_probability", "prob_diff", "accuracy", "top1"]


def logit_diff(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """Logit of the correct answer minus that of the wrong one, in nats (log odds).

    It is positive where the model prefers the correct answer, and has no bounds. With several
    answers it is the log-sum-exp of each side: the log odds of a correct answer against a wrong
    one. ``logits`` are [batch, vocab]; returns [batch].

    Raises MetricError where an example has no wrong answer. Source: Wang et al. 2023.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=20), model)
        >>> found = ck.ability(model, data, ck.metrics.logit_diff)
        >>> found.clean > 0 > found.corrupt
        True
    """
    return _pool(logits, batch.correct, "correct") - _pool(logits, batch.wrong, "wrong")


def probability(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """Probability of a correct answer, between 0 and 1; the sum over several of them.

    ``logits`` are [batch, vocab]; returns [batch]. Raises MetricError where an example has no
    correct answer.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=20), model)
        >>> found = ck.ability(model, data, ck.metrics.probability)
        >>> 0 <= found.corrupt < found.clean <= 1
        True
    """
    return log_probability(logits, reference, batch).exp()


def log_probability(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """Log probability of a correct answer, in nats: at most 0, which is certainty.

    ``logits`` are [batch, vocab]; returns [batch]. It does not need wrong answers. Raises
    MetricError where an example has no correct answer.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=20), model)
        >>> found = ck.ability(model, data, ck.metrics.log_probability)
        >>> found.corrupt < found.clean <= 0
        True
    """
    return _pool(wide(logits).log_softmax(-1), batch.correct, "correct")


def prob_diff(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """Probability of the correct answers minus that of the wrong ones, between −1 and 1.

    ``logits`` are [batch, vocab]; returns [batch]. Raises MetricError where an example has no wrong
    answer. Source: Hanna et al. 2023, for greater-than.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=20), model)
        >>> found = ck.ability(model, data, ck.metrics.prob_diff)
        >>> -1 <= found.corrupt < found.clean <= 1
        True
    """
    logs = wide(logits).log_softmax(-1)
    return _pool(logs, batch.correct, "correct").exp() - _pool(logs, batch.wrong, "wrong").exp()


def accuracy(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """1 where the best correct answer has a higher logit than every wrong one, else 0.

    Without wrong answers it is compared with every token, as ``top1`` does. ``logits`` are
    [batch, vocab]; returns [batch]. It has no gradient, so attribution refuses it. Its mean is the
    share of prompts that are answered correctly.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=20), model)
        >>> found = ck.ability(model, data, ck.metrics.accuracy)
        >>> found.clean == found.accuracy
        True
    """
    top = top1(logits, reference, batch)
    if not batch.wrong.shape[1]:
        return top
    best, rival = (_masked(logits, answers).amax(-1) for answers in (batch.correct, batch.wrong))
    return torch.where((batch.wrong >= 0).any(-1), (best > rival).to(top), top)


def top1(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """1 where a correct answer is the most probable token, or ties with it, else 0.

    ``logits`` are [batch, vocab]; returns [batch]. It has no gradient, so attribution refuses it.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=20), model)
        >>> found = ck.ability(model, data, ck.metrics.top1)
        >>> 0 <= found.clean <= 1
        True
    """
    best = _masked(logits, batch.correct).amax(-1)
    return (best >= logits.amax(-1)).to(logits.dtype)


def _masked(values: Tensor, answers: Int[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """The values of the answers, with -inf for an example that has fewer answers than others."""
    taken = values.gather(-1, answers.clamp(min=0))
    return taken.masked_fill(answers < 0, -torch.inf)


def _pool(values: Tensor, answers: Int[Tensor, "b n"], kind: str) -> Float[Tensor, " b"]:
    """log Σ exp over an example's answers."""
    if answers.shape[1] == 0 or bool((answers < 0).all(1).any()):
        raise MetricError(
            f"an example has no {kind} answer, which this metric needs; give one, or use the "
            "metric log_probability"
        )
    return _masked(wide(values), answers).logsumexp(-1)
