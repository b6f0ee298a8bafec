"""Models whose weights take gradients: what they need, and what they cannot be."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from circuitkit.errors import UnsupportedModelError

__all__ = ["attach", "require_trainable"]


def attach(name: str, bridge: nn.Module, weights: Iterable[Tensor]) -> None:
    """Make the projections that TransformerLens splits off a joint weight (GPT-2's q, k and v)
    views of it, through which gradients reach it.

    Raises UnsupportedModelError where they are copies: what is trained would not be the model.
    """
    weights = [*weights]
    own = {id(weight) for weight in weights}
    joint = {weight.untyped_storage().data_ptr(): weight for weight in weights}
    for part in bridge.modules():
        for key, weight in [*part.named_parameters(recurse=False)]:
            if id(weight) in own:
                continue
            whole = joint.get(weight.untyped_storage().data_ptr())
            if whole is None:
                raise UnsupportedModelError(
                    f"{name!r} cannot be trained: TransformerLens copies its joint q, k and v "
                    "projection into separate ones; use a model with separate projections (Llama, "
                    "Qwen, ...) or GPT-2"
                )
            delattr(part, key)
            with torch.enable_grad():
                view = whole.as_strided(weight.size(), weight.stride(), weight.storage_offset())
            setattr(part, key, view)


def require_trainable(name: str, *, post_norm: bool, experts: bool) -> None:
    """Raise UnsupportedModelError where a gradient would be wrong."""
    if post_norm:
        raise UnsupportedModelError(
            f"{name!r} cannot be trained: a norm over what all heads of a layer write scales "
            "each head's share, which is taken without its gradient; use a model without post-norms"
        )
    if experts:
        raise UnsupportedModelError(
            f"{name!r} cannot be trained with experts as writers; load it without experts"
        )
