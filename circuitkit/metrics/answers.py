"""Metrics of the answers; several answers count as one event.

An answer of several tokens (``answers="sequence"``) counts as a whole: its log probability is the
sum over its tokens. Values are [examples], which are as many as the rows of ``logits`` where each
answer is one token.
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
) -> Float[Tensor, " examples"]:
    """Logit of the correct answer minus that of the wrong one, in nats (log odds).

    It is positive where the model prefers the correct answer, and has no bounds. With several
    answers it is the log-sum-exp of each side: the log odds of a correct answer against a wrong
    one. Of answers of several tokens it is that of their probabilities. ``logits`` are
    [batch, vocab]; returns [examples].

    Raises MetricError where an example has no wrong answer. Source: Wang et al. 2023.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=20), model)
        >>> found = ck.ability(model, data, ck.metrics.logit_diff)
        >>> found.clean > 0 > found.corrupt
        True
    """
    values = logits if batch.sequences is None else _logs(logits)
    return _pool(values, batch, "correct") - _pool(values, batch, "wrong")


def probability(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " examples"]:
    """Probability of a correct answer, between 0 and 1; the sum over several of them.

    ``logits`` are [batch, vocab]; returns [examples]. Raises MetricError where an example has no
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
) -> Float[Tensor, " examples"]:
    """Log probability of a correct answer, in nats: at most 0, which is certainty.

    ``logits`` are [batch, vocab]; returns [examples]. It does not need wrong answers. Raises
    MetricError where an example has no correct answer.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=20), model)
        >>> found = ck.ability(model, data, ck.metrics.log_probability)
        >>> found.corrupt < found.clean <= 0
        True
    """
    return _pool(_logs(logits), batch, "correct")


def prob_diff(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " examples"]:
    """Probability of the correct answers minus that of the wrong ones, between −1 and 1.

    ``logits`` are [batch, vocab]; returns [examples]. Raises MetricError where an example has no
    wrong answer. Source: Hanna et al. 2023, for greater-than.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=20), model)
        >>> found = ck.ability(model, data, ck.metrics.prob_diff)
        >>> -1 <= found.corrupt < found.clean <= 1
        True
    """
    logs = _logs(logits)
    return _pool(logs, batch, "correct").exp() - _pool(logs, batch, "wrong").exp()


def accuracy(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " examples"]:
    """1 where the best correct answer is more probable than every wrong one, else 0.

    Without wrong answers it is compared with every token, as ``top1`` does. ``logits`` are
    [batch, vocab]; returns [examples]. It has no gradient, so attribution refuses it. Its mean is
    the share of prompts that are answered correctly.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=20), model)
        >>> found = ck.ability(model, data, ck.metrics.accuracy)
        >>> found.clean == found.accuracy
        True
    """
    top = top1(logits, reference, batch)
    values = logits if batch.sequences is None else _logs(logits)
    right, wrong = (_of(values, batch, kind) for kind in ("correct", "wrong"))
    if not wrong.shape[1]:
        return top
    best, rival = right.amax(-1), wrong.amax(-1)
    there = (_numbers(batch, "wrong") >= 0).any(-1)
    return torch.where(there, (best > rival).to(top), top)


def top1(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " examples"]:
    """1 where a correct answer is the most probable token, or ties with it, else 0.

    Of an answer of several tokens each is, after the ones before it.
    ``logits`` are [batch, vocab]; returns [examples]. It has no gradient, so attribution refuses
    it.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=20), model)
        >>> found = ck.ability(model, data, ck.metrics.top1)
        >>> 0 <= found.clean <= 1
        True
    """
    if batch.sequences is not None:
        hits = batch.sequences.best(logits).to(logits.dtype)
        found = _masked(hits.expand(batch.examples, -1), batch.sequences.correct)
        return found.amax(-1).clamp(min=0)
    best = _masked(logits, batch.correct).amax(-1)
    return (best >= logits.amax(-1)).to(logits.dtype)


def _logs(logits: Float[Tensor, "b vocab"]) -> Float[Tensor, "b vocab"]:
    """The log probability of every token."""
    return wide(logits).log_softmax(-1)


def _of(values: Float[Tensor, "b vocab"], batch: Batch, kind: str) -> Float[Tensor, "examples n"]:
    """The values of each example's answers of a kind, summed over their tokens; -inf where it has
    fewer answers than others."""
    if batch.sequences is not None:
        values = batch.sequences.sums(values).expand(batch.examples, -1)
    return _masked(values, _numbers(batch, kind))


def _numbers(batch: Batch, kind: str) -> Int[Tensor, "examples n"]:
    """The tokens of each example's answers of a kind, or the numbers of those of several tokens."""
    found: Tensor = getattr(batch if batch.sequences is None else batch.sequences, kind)
    return found


def _masked(values: Tensor, answers: Int[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """The values of the answers, with -inf for an example that has fewer answers than others."""
    taken = values.gather(-1, answers.clamp(min=0))
    return taken.masked_fill(answers < 0, -torch.inf)


def _pool(values: Float[Tensor, "b vocab"], batch: Batch, kind: str) -> Float[Tensor, " examples"]:
    """log Σ exp over an example's answers."""
    answers = _numbers(batch, kind)
    if answers.shape[1] == 0 or bool((answers < 0).all(1).any()):
        raise MetricError(
            f"an example has no {kind} answer, which this metric needs; give one, or use the "
            "metric log_probability"
        )
    return _of(wide(values), batch, kind).logsumexp(-1)
