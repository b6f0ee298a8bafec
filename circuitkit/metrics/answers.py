"""Metrics of the answers' tokens; several answers count as one event.

They take the logits at the answer positions, [batch, vocab], those of the full model on the clean
prompts, which they ignore, and the batch; they return one value per example, [batch].
"""

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
    """Logit of the correct answer minus that of the wrong one.

    For several answers it is the log-sum-exp of each kind: the log odds of a correct against a
    wrong answer, in nats. Raises MetricError if an example has no wrong answer.

    Example:
        >>> import torch
        >>> batch = next(iter(data))
        >>> logits = torch.zeros(len(batch), model.d_vocab)
        >>> ck.metrics.logit_diff(logits, logits, batch).abs().max().item()
        0.0
    """
    return _pool(logits, batch.correct, "correct") - _pool(logits, batch.wrong, "wrong")


def probability(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """Probability of a correct answer, from 0 to 1; of several answers the sum.

    Example:
        >>> import torch
        >>> batch = next(iter(data))
        >>> logits = torch.zeros(len(batch), model.d_vocab)
        >>> probability = ck.metrics.probability(logits, logits, batch)
        >>> torch.allclose(probability, torch.tensor(1 / model.d_vocab))
        True
    """
    return log_probability(logits, reference, batch).exp()


def log_probability(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """Log probability of a correct answer, in nats, at most 0.

    Example:
        >>> import torch
        >>> batch = next(iter(data))
        >>> logits = torch.zeros(len(batch), model.d_vocab)
        >>> found = ck.metrics.log_probability(logits, logits, batch)
        >>> torch.allclose(found.exp(), ck.metrics.probability(logits, logits, batch))
        True
    """
    return _pool(wide(logits).log_softmax(-1), batch.correct, "correct")


def prob_diff(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """Probability of the correct answers minus that of the wrong ones, from -1 to 1.

    It is the metric of the greater-than task. Raises MetricError if an example has no wrong answer.

    Source: Hanna et al. 2023, §2.

    Example:
        >>> import torch
        >>> batch = next(iter(data))
        >>> logits = torch.zeros(len(batch), model.d_vocab)
        >>> ck.metrics.prob_diff(logits, logits, batch).abs().max().item()
        0.0
    """
    logs = wide(logits).log_softmax(-1)
    return _pool(logs, batch.correct, "correct").exp() - _pool(logs, batch.wrong, "wrong").exp()


def accuracy(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """1 if the best correct answer beats every wrong one (without wrong answers: every token).

    Otherwise 0, also in a tie with a wrong answer. It has no gradient.

    Example:
        >>> import torch
        >>> batch = next(iter(data))
        >>> logits = torch.zeros(len(batch), model.d_vocab)
        >>> ck.metrics.accuracy(logits, logits, batch).mean().item()
        0.0
    """
    top = top1(logits, reference, batch)
    if not batch.wrong.shape[1]:
        return top
    best, rival = (_masked(logits, answers).amax(-1) for answers in (batch.correct, batch.wrong))
    return torch.where((batch.wrong >= 0).any(-1), (best > rival).to(top), top)


def top1(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """1 if no token is more probable than the best correct answer, else 0.

    It has no gradient.

    Example:
        >>> import torch
        >>> batch = next(iter(data))
        >>> logits = torch.zeros(len(batch), model.d_vocab)
        >>> ck.metrics.top1(logits, logits, batch).mean().item()
        1.0
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
