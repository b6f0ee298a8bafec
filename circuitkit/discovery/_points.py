"""Where on the way from the carried run to the clean one gradients are taken."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Dataset

__all__ = ["left", "midpoints", "stratified"]


def left(steps: int) -> list[float]:
    """0, 1/steps, ..., (steps − 1)/steps."""
    return [k / steps for k in range(steps)]


def midpoints(steps: int) -> list[float]:
    """The middle of each of as many equal parts."""
    return [(k + 0.5) / steps for k in range(steps)]


def stratified(data: Dataset, draws: int, seed: int) -> Float[Tensor, "examples draws"]:
    """Random points of each example: of n different ones, each has its own n-th of every
    draws-th of the way. They depend on the examples' tokens and the seed, and not on their
    order."""
    keys = [
        hashlib.sha256(repr((seed, example.clean, example.corrupt)).encode()).digest()
        for example in data.examples
    ]
    place = {key: number for number, key in enumerate(sorted({*keys}))}
    within = [(place[key] + int.from_bytes(key[-4:], "big") / 2**32) / len(place) for key in keys]
    return (torch.arange(draws) + torch.tensor(within, dtype=torch.float64)[:, None]) / draws
