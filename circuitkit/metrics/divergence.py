"""Metrics that compare next-token distributions with the full model's, in nats.

They are summed over the vocabulary and negated, so that higher is better and 0 is best. (MIB's are
averaged over the vocabulary: the same values divided by its size.)
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
    """Minus the Kullback-Leibler divergence KL(full model ‖ this run), in nats: at most 0.

    ``logits`` and ``reference`` are [batch, vocab]; returns [batch]. It does not need answers. Its
    gradient at the clean run is zero, so ``eap`` refuses it; use ``eap_ig``. Source: Conmy et al.
    2023 (ACDC).

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=20), model)
        >>> found = ck.ability(model, data, ck.metrics.kl)
        >>> found.corrupt < found.clean <= 0
        True
    """
    return -_divergence(wide(reference).log_softmax(-1), wide(logits).log_softmax(-1))


def js(
    logits: Float[Tensor, "b vocab"], reference: Float[Tensor, "b vocab"], batch: Batch
) -> Float[Tensor, " b"]:
    """Minus the Jensen-Shannon divergence of the full model and this run, in nats: −ln 2 to 0.

    ``logits`` and ``reference`` are [batch, vocab]; returns [batch]. It does not need answers. Its
    gradient at the clean run is zero, so ``eap`` refuses it; use ``eap_ig``.

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
    return -(_divergence(full, middle) + _divergence(this, middle)) / 2


def _divergence(p: Float[Tensor, "b vocab"], q: Float[Tensor, "b vocab"]) -> Float[Tensor, " b"]:
    """Σ p (log p − log q) over the vocabulary, of log probabilities."""
    return (p.exp() * (p - q)).sum(-1)
