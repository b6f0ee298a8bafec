"""A digest of a model's weights, which does not depend on their type or device."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from circuitkit.engine.model import Model

__all__ = ["Weighted", "digest", "parameters"]

SAMPLED = 1024  # values of each tensor


@runtime_checkable
class Weighted(Protocol):
    """A model that can show its weights."""

    def tensors(self) -> Mapping[str, Tensor]:
        """The weights by name."""


def digest(model: Model) -> str | None:
    """The SHA-256 of a model's weights; None of a model that does not show any.

    It covers every tensor's name, its shape, and 1,024 of its values (all, where there are fewer):
    those at the places ``i · n // 1024`` of its n values, rounded to bfloat16. So a copy on another
    device or in another floating type has the same digest, except that float16 rounds a second
    time.

    Example:
        >>> from circuitkit.engine.weights import digest
        >>> digest(model) == digest(ck.load("mini", dtype="bfloat16"))
        True
    """
    if not isinstance(model, Weighted):
        return None
    found = hashlib.sha256()
    for name, tensor in sorted(model.tensors().items()):
        found.update(f"{name}|{tuple(tensor.shape)}|".encode())
        found.update(_sampled(tensor.detach()))
    return found.hexdigest()


def _sampled(tensor: Tensor) -> bytes:
    """Evenly spaced values of the tensor as bfloat16, in little-endian bytes."""
    total = tensor.numel()
    count = min(SAMPLED, total)
    places = torch.arange(count, device=tensor.device) * total // max(count, 1)
    values = tensor.flatten()[places].to(torch.bfloat16).view(torch.int16)
    return values.cpu().numpy().astype("<i2").tobytes()


def parameters(model: Model) -> dict[str, int] | None:
    """How many values each tensor holds, tied ones once; None of a model that does not show any."""
    if not isinstance(model, Weighted):
        return None
    tensors = model.tensors()
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(tensor.data_ptr(), name)
    return {name: tensors[name].numel() for name in first.values()}
