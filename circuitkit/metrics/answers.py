"""Metrics that look at the answers' tokens; several answers count as one event."""

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
    """Logit of the correct answer less that of the wrong one.

    Of several answers the log-sum-exp is taken: the log odds of a correct against a wrong one.
    Raises MetricError where an example has no wrong answer.
    """
    return _pool(logits, batch.correct, "correct") - _pool(logits, batch.wrong, "wrong")


def probability(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """Probability of a correct answer, between 0 and 1."""
    return log_probability(logits, reference, batch).exp()


def log_probability(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """Log probability of a correct answer, in nats."""
    return _pool(wide(logits).log_softmax(-1), batch.correct, "correct")


def prob_diff(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """Probability of the correct answers less that of the wrong ones (greater-than's measure).

    Source: Hanna et al. 2023. Raises MetricError where an example has no wrong answer.
    """
    logs = wide(logits).log_softmax(-1)
    return _pool(logs, batch.correct, "correct").exp() - _pool(logs, batch.wrong, "wrong").exp()


def accuracy(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """1 where the best correct answer beats every wrong one (without wrong answers: every token).

    It has no gradient.
    """
    top = top1(logits, reference, batch)
    if not batch.wrong.shape[1]:
        return top
    best, rival = (_masked(logits, answers).amax(-1) for answers in (batch.correct, batch.wrong))
    return torch.where((batch.wrong >= 0).any(-1), (best > rival).to(top), top)


def top1(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """1 where a correct answer is the most probable of all tokens, or as probable as another one.

    It has no gradient.
    """
    best = _masked(logits, batch.correct).amax(-1)
    return (best >= logits.amax(-1)).to(logits.dtype)


def _masked(values: Tensor, answers: Int[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """The answers' values, with -inf where an example has fewer answers than others."""
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
