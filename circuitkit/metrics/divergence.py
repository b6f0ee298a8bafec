"""Metrics that compare whole next-token distributions with the full model's, in nats.

They take the logits at the answer positions, [batch, vocab], those of the full model on the clean
prompts, and the batch; they return one value per example, [batch]. They are sums over the
vocabulary, and negative, so that higher is better and 0 is the best.
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
) -> Float[Tensor, " b"]:
    """Minus the Kullback-Leibler divergence KL(full model ‖ this run), in nats.

    Its gradient at the clean run is zero, so ``eap`` cannot use it; ``eap_ig`` can.

    Example:
        >>> import torch
        >>> batch = next(iter(data))
        >>> logits = torch.zeros(len(batch), model.d_vocab)
        >>> ck.metrics.kl(logits, logits, batch).abs().max().item()
        0.0
    """
    return -_divergence(wide(reference).log_softmax(-1), wide(logits).log_softmax(-1))


def js(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """Minus the Jensen-Shannon divergence of the full model and this run, in nats, at least -ln 2.

    Example:
        >>> import torch
        >>> batch = next(iter(data))
        >>> logits = torch.zeros(len(batch), model.d_vocab)
        >>> ck.metrics.js(logits, logits, batch).abs().max().item()
        0.0
    """
    full, this = wide(reference).log_softmax(-1), wide(logits).log_softmax(-1)
    middle = torch.logaddexp(full, this) - math.log(2)
    return -(_divergence(full, middle) + _divergence(this, middle)) / 2


def _divergence(p: Float[Tensor, "b vocab"], q: Float[Tensor, "b vocab"]) -> Float[Tensor, " b"]:
    """Σ p (log p − log q) over the vocabulary, of log probabilities."""
    return (p.exp() * (p - q)).sum(-1)
