"""Random transcoders of mini, in files."""

from __future__ import annotations

from pathlib import Path

import torch

from circuitkit.features import Dictionary, save

__all__ = ["coders_of_mini", "random_coders"]


def random_coders(folder: Path) -> None:
    """Small random transcoders of all layers of mini, in a folder."""
    save(coders_of_mini(), folder)


def coders_of_mini() -> tuple[Dictionary, ...]:
    """The same at hand."""
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng) / 8

    return tuple(
        Dictionary(
            layer, draw(40, 128), draw(40), draw(40, 128), draw(128), activation="topk", k=3,
            model="mini",
        )
        for layer in range(4)
    )  # fmt: skip
