"""Metrics that compare next-token distributions with the full model's, in nats.

They are summed over the vocabulary and negated, so that higher is better and 0 is best. (MIB's are
averaged over the vocabulary: the same values divided by its size.) Of answers of several tokens
they are summed over the positions at which a token of a correct answer is asked for.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.numerics import wide

__all__ = ["js", "kl"]


def kl(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " examples"]:
    """Minus the Kullback-Leibler divergence KL(full model ‖ this run), in nats: at most 0.

    ``logits`` and ``reference`` are [batch, vocab]; returns [examples]. It does not need answers.
    Its gradient at the clean run is zero, so ``eap`` refuses it; use ``eap_ig``. Source: Conmy et
    al. 2023 (ACDC).

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=20), model)
        >>> found = ck.ability(model, data, ck.metrics.kl)
        >>> found.corrupt < found.clean <= 0
        True
    """
    return _summed(
        -_divergence(wide(reference).log_softmax(-1), wide(logits).log_softmax(-1)), batch
    )


def js(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " examples"]:
    """Minus the Jensen-Shannon divergence of the full model and this run, in nats: −ln 2 to 0.

    Of an answer of several tokens it is summed over them, from −ln 2 for each.

    ``logits`` and ``reference`` are [batch, vocab]; returns [examples]. It does not need answers.
    Its gradient at the clean run is zero, so ``eap`` refuses it; use ``eap_ig``.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=20), model)
        >>> found = ck.ability(model, data, ck.metrics.js)
        >>> -0.694 < found.corrupt < found.clean <= 0
        True
    """
    full, this = wide(reference).log_softmax(-1), wide(logits).log_softmax(-1)
    middle = torch.logaddexp(full, this) - math.log(2)
    return _summed(-(_divergence(full, middle) + _divergence(this, middle)) / 2, batch)


def _summed(values: Float[Tensor, " b"], batch: Batch) -> Float[Tensor, " examples"]:
    """The values of the examples: of the rows, or summed over the tokens of correct answers."""
    return values if batch.sequences is None else batch.sequences.along(values)


def _divergence(p: Float[Tensor, "b vocab"], q: Float[Tensor, "b vocab"]) -> Float[Tensor, " b"]:
    """Σ p (log p − log q) over the vocabulary, of log probabilities."""
    return (p.exp() * (p - q)).sum(-1)
