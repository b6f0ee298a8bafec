"""Sums that lose nothing in 16 bits."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["wide"]


def wide(x: Tensor) -> Tensor:
    """The tensor in float32 at least: in 16 bits, sums over many tokens lose what matters."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
