"""The pictures of what patching finds: heat maps of layers by heads or positions, bars, curves."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from circuitkit.viz.figures import Bars, Heatmap, Lines, Panels

__all__ = ["MOST", "Pictured", "Plot", "along", "centred", "unit_of"]

Plot: TypeAlias = Heatmap | Lines | Bars | Panels
MOST = 20  # bars of a picture


class Pictured(ABC):
    """A result that is a picture: in a notebook, as a figure and as a file."""

    @abstractmethod
    def plot(self) -> Plot:
        """The result as a figure."""

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Write the figure of ``plot`` to a file and return its path.

        Args:
            path: The file, which ends in ``.svg``, ``.pdf`` or ``.png``.

        Raises:
            OutputError: for another suffix, or where the place cannot be written.

        Example:
            >>> ck.patch_heads(model, data).draw("heads.svg").name
            'heads.svg'
        """
        return self.plot().save(path)

    def _repr_svg_(self) -> str:
        return self.plot().svg()


def unit_of(metric: str, share: bool) -> str:
    """What is written beside the colours, or below the bars, of effects."""
    return f"share of the gap in {metric}" if share else f"effect on {metric}"


def along(
    labels: Sequence[str],
    mean: Float[np.ndarray, " places"],
    error: Float[np.ndarray, " places"],
    *,
    name: str,
    unit: str,
    title: str,
) -> Lines:
    """A curve over layers or windows, with a band of one standard error on each side."""
    x = tuple(map(int, labels)) if all(label.isdecimal() for label in labels) else tuple(labels)
    bands = {"": ((mean - error).tolist(), (mean + error).tolist())}
    return Lines(
        x, {"": mean}, {} if np.isnan(error).all() else bands, x_name=name, y_name=unit, title=title
    )


def centred(
    joint: Mapping[int, tuple[Sequence[str], Float[np.ndarray, " windows"]]],
    summed: Mapping[int, tuple[Sequence[str], Float[np.ndarray, " windows"]]],
    *,
    unit: str,
    title: str,
) -> Lines:
    """The joint effect of windows by their middle layer, and the sums of their layers; of each size
    the windows' labels and effects are given."""
    least = min(joint)
    layers = len(joint[least][0]) + least - 1
    series = {}
    for size in joint:
        series[f"{size} joint" if size > 1 else "single"] = _spread(*joint[size], layers)
        if size > 1:
            series[f"{size} summed"] = _spread(*summed[size], layers)
    return Lines(tuple(range(layers)), series, x_name="middle layer", y_name=unit, title=title)


def _spread(
    labels: Sequence[str], values: Float[np.ndarray, " windows"], layers: int
) -> Float[np.ndarray, " layers"]:
    """The effects at the middle layer of each window, nan where none is centred."""
    found = np.full(layers, np.nan)
    for label, value in zip(labels, values, strict=True):
        first, _, last = label.partition("-")
        found[(int(first) + int(last or first)) // 2] = value
    return found
