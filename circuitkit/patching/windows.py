"""Sliding windows: the outputs of adjacent layers patched jointly, beside the sum of what each of
them does alone (Zhang & Nanda 2024, §5).

A joint effect above the sum says that the layers work together: that one restored layer alone is
undone, or not enough. One sweep runs the windows of all sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeAlias, overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    MetricLike,
    Several,
    refuse,
    require_model,
)
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.record import output
from circuitkit.engine.sweep import Rest
from circuitkit.errors import CircuitError
from circuitkit.graph.stages import Stage
from circuitkit.patching.effects import Effects
from circuitkit.patching.nodes import Ends, Site, collect, layer_stages
from circuitkit.util.tables import as_text

__all__ = ["Windows", "patch_windows"]

SIZES = (1, 3, 5, 10)
Window: TypeAlias = tuple[int, int]  # the first layer, and how many


@dataclass(frozen=True)
class Windows:
    """The Effects of every window of each size: patched jointly, and as the sum of the effects of
    its layers, each patched alone. In metric units, positive where the layers help."""

    joint: Mapping[int, Effects]
    summed: Mapping[int, Effects]

    def peak_ratio(self, size: int) -> Float[np.ndarray, "*sites"]:
        """The largest mean joint effect of that size over the largest mean sum; nan where no sum is
        positive. Raises CircuitError for a size that was not patched."""
        if size not in self.joint:
            known = ", ".join(map(str, self.joint))
            raise CircuitError(f"there are no windows of {size} layers; choose from {known}")
        joint, summed = (kind[size].mean.max(0) for kind in (self.joint, self.summed))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(summed > 0, joint / summed, np.nan)

    def __repr__(self) -> str:
        one = next(iter(self.joint.values()))
        head = (
            f"{one.nodes} of adjacent layers, {one.direction}, {one.metric} under "
            f"{one.corruption}, {one.shape[-1]} examples; the largest mean effects:"
        )
        rows = []
        for size, joint in self.joint.items():
            for at in np.ndindex(joint.mean.shape[1:]):
                together, apart = (_peak(kind[size], at) for kind in (self.joint, self.summed))
                sites = zip(list(joint.axes.items())[1:], at, strict=True)
                rows.append({
                    "size": size, "joint (layers)": together, "sum of single layers": apart,
                    "ratio": float(self.peak_ratio(size)[at]),
                    **{axis: labels[i] for (axis, labels), i in sites},
                })  # fmt: skip
        return f"{head}\n{as_text(rows, formats={'ratio': '.2f'}, indent=2)}"


def _peak(effects: Effects, at: tuple[int, ...]) -> str:
    """The largest mean effect at a site, and where it is."""
    means = np.moveaxis(effects.mean, 0, -1)[at]
    best = int(np.argmax(means))
    return f"{means[best]:+.3f} ({effects.axes['window'][best]})"


@overload
def patch_windows(  # type: ignore[overload-overlap]  # a str is a sequence too
    model: Model,
    nodes: str,
    data: Data,
    metric: MetricLike | None = ...,
    corruption: CorruptionLike | None = ...,
    *,
    sizes: Sequence[int] | None = ...,
    at: str | Sequence[str] = ...,
    direction: str = ...,
) -> Windows: ...
@overload
def patch_windows(
    model: Model,
    nodes: str,
    data: Data,
    metric: Several,
    corruption: CorruptionLike | None = ...,
    *,
    sizes: Sequence[int] | None = ...,
    at: str | Sequence[str] = ...,
    direction: str = ...,
) -> list[Windows]: ...
def patch_windows(
    model: Model,
    nodes: str,
    data: Data,
    metric: MetricLike | Several | None = None,
    corruption: CorruptionLike | None = None,
    *,
    sizes: Sequence[int] | None = None,
    at: str | Sequence[str] = "all",
    direction: str = "denoise",
) -> Windows | list[Windows]:
    """The Windows of adjacent layers' MLP outputs (``mlp_out``) or attention outputs (``attn_out``)
    (of several metrics a list, from the same runs).

    ``sizes``: how many layers a window holds; without it those of 1, 3, 5 and 10 that the model
    has. Every window lies wholly within the model. What lies between the layers of a window
    answers; the layers themselves have, at the tokens patched, what they have in the other run. For
    ``at`` and ``direction`` see ``patch_nodes``. Raises CircuitError for other nodes, MLPs that the
    model lacks, a size that does not fit it, and another direction.
    """
    require_model(model)
    if not isinstance(nodes, str):
        refuse("nodes", nodes, "'mlp_out' or 'attn_out'")
    wiring = model.wiring
    if nodes not in ("mlp_out", "attn_out"):
        raise CircuitError(f"nodes={nodes!r} have no windows; choose from mlp_out, attn_out")
    if nodes == "mlp_out" and not wiring.mlp:
        raise CircuitError(f"{model.name!r} has no MLPs; choose windows of 'attn_out'")
    sizes = [n for n in SIZES if n <= wiring.layers] if sizes is None else sizes
    for size in sizes or [0]:
        if not 1 <= size <= wiring.layers:
            raise CircuitError(
                f"a window of {size} layers does not fit {model.name!r}; give sizes from 1 to "
                f"{wiring.layers}"
            )
    windows = sorted((first, n) for n in {1, *sizes} for first in range(wiring.layers - n + 1))

    def sweep(rest: Rest, other: Activations, site: Site) -> Ends:
        size = rest.size(wiring.places[0])
        for i in range(0, len(windows), size):
            block = _Block(rest, other, nodes, site, windows[i : i + size])
            yield [(i + j,) for j in range(len(block.windows))], block.finals()

    found = collect(
        model, data, metric, corruption, nodes=nodes,
        axes={"window": tuple(map(_layers, windows))}, at=at, direction=direction, sweep=sweep,
    )  # fmt: skip
    if isinstance(found, list):
        return [_windows(effects, windows, sizes) for effects in found]
    return _windows(found, windows, sizes)


def _layers(window: Window) -> str:
    first, size = window
    return str(first) if size == 1 else f"{first}-{first + size - 1}"


def _windows(effects: Effects, windows: Sequence[Window], sizes: Sequence[int]) -> Windows:
    """The windows of each size, and the sums of their layers."""
    alone = effects.values[[i for i, (_, size) in enumerate(windows) if size == 1]]
    joint, summed = {}, {}
    for size in sizes:
        own = [i for i, window in enumerate(windows) if window[1] == size]
        axes = {**effects.axes, "window": tuple(_layers(windows[i]) for i in own)}
        sums = np.stack([alone[windows[i][0] :][:size].sum(0) for i in own])
        joint[size] = replace(effects, values=effects.values[own], axes=axes)
        summed[size] = replace(effects, values=sums, axes=axes)
    return Windows(joint, summed)


# -- joint runs ------------------------------------------------------------------------------------
class _Block:
    """Windows that run at once, in the order in which they begin."""

    def __init__(
        self, rest: Rest, other: Activations, nodes: str, site: Site, windows: Sequence[Window]
    ) -> None:
        self.rest, self.other, self.nodes, self.site = rest, other, nodes, site
        self.windows = windows

    def finals(self) -> Float[Tensor, "windows b d"]:
        """The final residual at the answers under each window."""
        changes, wiring = {}, self.rest.model.wiring
        for first, own in groupby(self.windows, key=lambda window: window[0]):
            at = wiring.entry(self._stages(first)[-1].rows.start)
            delta = self._wrote(self.other, first) - self._wrote(self.rest.base, first)
            late = self.rest.late(at, torch.where(self.site[..., None], delta, 0))
            changes[at] = late.expand(len(list(own)), *late.shape)
        return self.rest.finals(changes, self._hold)

    def _stages(self, layer: int) -> tuple[Stage, ...]:
        return layer_stages(self.rest.model.wiring, self.nodes, layer)

    def _wrote(self, run: Activations, layer: int) -> Float[Tensor, "b p d"]:
        several = [
            output(self.rest.model, stage, run.shares[stage.index]) for stage in self._stages(layer)
        ]
        return sum(several[1:], several[0])

    def _hold(self, index: int, x: Float[Tensor, "m s d"]) -> Float[Tensor, "m s d"]:
        """What is written by the runs so far, with the other run's in the layers of a window that
        has begun before."""
        stage = self.rest.model.wiring.stages[index]
        layer = stage.layer
        held = [i for i, (first, n) in enumerate(self.windows) if first < layer < first + n]
        if not held or stage not in self._stages(layer):
            return x
        taken = self.rest.wrote_late(
            stage, output(self.rest.model, stage, self.other.shares[stage.index])
        )
        here = self.rest.wrote_late(stage, self.site)[..., None]
        runs = x.clone().view(-1, *taken.shape)
        runs[held] = torch.where(here, taken, runs[held])
        return runs.flatten(0, 1)
