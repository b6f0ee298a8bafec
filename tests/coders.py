"""Random dictionaries of mini, in files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from circuitkit.features import Dictionary, save

__all__ = ["coders_of_mini", "random_autoencoders", "random_coders"]


def random_coders(folder: Path) -> None:
    """Small random transcoders of all layers of mini, in a folder."""
    save(coders_of_mini(), folder)


def random_autoencoders(folder: Path) -> None:
    """Small random autoencoders of what the MLPs of mini read and write, in two folders."""
    for site in ("mlp_in", "mlp_out"):
        save([replace(own, reads=site, writes=site) for own in coders_of_mini()], folder / site)


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
