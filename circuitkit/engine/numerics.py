"""Sums that lose nothing."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["exact", "wide"]


def exact(x: Tensor) -> Tensor:
    """The tensor in float64, in which sums over the data are taken; on the CPU where its device has
    no float64 (mps)."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def wide(x: Tensor) -> Tensor:
    """The tensor in float32 at least: in 16 bits, sums over many tokens lose what matters."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
