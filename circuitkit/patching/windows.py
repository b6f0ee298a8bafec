"""Sliding windows: the outputs of adjacent layers patched jointly, beside the sum of what each of
them does alone (Zhang & Nanda 2024, §5).

A joint effect above the sum says that the layers work together: that one restored layer alone is
undone, or not enough. One sweep runs the windows of all sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias, overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.engine.devices import moved
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
from circuitkit.patching.pictures import Pictured, centred, unit_of
from circuitkit.util.json_values import Json
from circuitkit.util.tables import as_text, to_frame
from circuitkit.viz.figures import Lines, Panels

if TYPE_CHECKING:
    import pandas

__all__ = ["Windows", "patch_windows"]

SIZES = (1, 3, 5, 10)
Window: TypeAlias = tuple[int, int]  # the first layer, and how many


@dataclass(frozen=True, repr=False)
class Windows(Pictured):
    """The Effects of every window of each size: patched jointly, and as the sum of the effects of
    its layers, each patched alone.

    ``joint`` and ``summed`` map a size (a number of layers) to Effects with the axis ``window`` and
    that of the spans or positions, if there is one: values [windows, sites, examples] in metric
    units, positive where the layers help.

    Source: Zhang & Nanda 2024 (arXiv:2309.16042), §5.

    Example:
        >>> windows = ck.patch_windows(model, "mlp_out", data, sizes=[1, 2])
        >>> windows.joint[2].names
        ('m0-1', 'm1-2', 'm2-3')
        >>> print(windows)
        mlp_out of adjacent layers, denoise, logit_diff under counterfactual, 16 examples
    """

    joint: Mapping[int, Effects]
    summed: Mapping[int, Effects]

    def peak_ratio(self, size: int) -> Float[np.ndarray, "*sites"]:
        """The largest mean joint effect of that size over the largest mean sum.

        Returns an array [sites] (of no axes where all tokens were patched at once); nan where no
        sum is positive. Raises CircuitError for a size that was not patched.

        Example:
            >>> ck.patch_windows(model, "mlp_out", data, sizes=[1, 2]).peak_ratio(1).item()
            1.0
        """
        if size not in self.joint:
            known = ", ".join(map(str, self.joint))
            raise CircuitError(f"there are no windows of {size} layers; choose from {known}")
        joint, summed = (kind[size].mean.max(0) for kind in (self.joint, self.summed))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(summed > 0, joint / summed, np.nan)

    def to_frame(self) -> pandas.DataFrame:
        """A pandas table with a row for each window (and span or position) of each size.

        Columns: ``name``; ``size``, a number of layers; ``window``, its layers; ``span`` or
        ``position``, where there is one; ``effect``, the mean joint effect in metric units,
        positive where the layers help, ``error``, its standard error, and ``share``, of the mean
        gap; ``summed``, the mean sum of the effects of single layers, and ``summed_error``.

        Example:
            >>> frame = ck.patch_windows(model, "mlp_out", data, sizes=[2]).to_frame()
            >>> list(frame)
            ['name', 'size', 'window', 'effect', 'error', 'share', 'summed', 'summed_error']
        """
        rows: list[dict[str, Json]] = []
        for size, joint in self.joint.items():
            for own, sums in zip(joint.rows(), self.summed[size].rows(), strict=True):
                apart = {"summed": sums["effect"], "summed_error": sums["error"]}
                rows.append({"name": own["name"], "size": size, **own, **apart})
        return to_frame(rows)

    def plot(self, *, share: bool = False) -> Lines | Panels:
        """The mean effects as curves over the middle layer of the windows: of each size jointly,
        and as the sum of its layers.

        Args:
            share: Whether to draw the share of the gap rather than the effect in metric units.

        Returns:
            Lines of ``circuitkit.figures``, or Panels of them with one for each span or position.

        Example:
            >>> figure = ck.patch_windows(model, "mlp_out", data, sizes=[1, 2]).plot()
            >>> list(figure.series)
            ['single', '2 joint', '2 summed']
        """
        one = self._one
        _, *sites = one.axes
        title = f"{one.nodes} of adjacent layers, {one.direction}d under {one.corruption}"
        if not sites:
            return self.curves(share=share, title=title)
        panels = [
            self.at(label).curves(share=share, title=label if "span" in sites else f"at {label}")
            for label in one.axes[sites[0]]
        ]
        return Panels(panels, title=title)

    def curves(self, *, share: bool = False, title: str = "") -> Lines:
        """The curves of ``plot``, where all tokens were patched at once, with your own title;
        raises CircuitError where several sites were (choose one with ``at``).

        Example:
            >>> ck.patch_windows(model, "mlp_out", data, sizes=[1, 2]).curves(title="MLPs")
            Lines(3 series × 4, 'MLPs')
        """
        if len(self._one.axes) > 1:
            raise CircuitError("the windows have several sites; choose one with at(...), or plot()")
        joint, summed = (
            {size: (own.axes["window"], own.share if share else own.mean)
             for size, own in kind.items()}
            for kind in (self.joint, self.summed)
        )  # fmt: skip
        return centred(joint, summed, unit=unit_of(self._one.metric, share), title=title)

    def at(self, site: str) -> Windows:
        """The Windows at one span or position; raises DataError for one that was not patched.

        Example:
            >>> windows = ck.patch_windows(model, "mlp_out", data, at=["S2", "end"])
            >>> windows.at("end").joint[1].names
            ('m0', 'm1', 'm2', 'm3')
        """
        joint, summed = (
            {size: own.at(site) for size, own in kind.items()} for kind in (self.joint, self.summed)
        )
        return Windows(joint, summed)

    @property
    def _one(self) -> Effects:
        return next(iter(self.joint.values()))

    def __str__(self) -> str:
        one = self._one
        return (
            f"{one.nodes} of adjacent layers, {one.direction}, {one.metric} under "
            f"{one.corruption}, {one.shape[-1]} examples"
        )

    def __repr__(self) -> str:
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
        text = as_text(rows, formats={"ratio": ".2f"}, indent=2)
        return f"{self}; the largest mean effects:\n{text}"


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
    sizes: int | Sequence[int] | None = ...,
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
    sizes: int | Sequence[int] | None = ...,
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
    sizes: int | Sequence[int] | None = None,
    at: str | Sequence[str] = "all",
    direction: str = "denoise",
) -> Windows | list[Windows]:
    """The effect of windows of adjacent layers, patched jointly, beside the sum of their layers.

    What lies between the layers of a window runs live; the layers themselves have, at the tokens
    patched, what they have in the other run. Every window lies wholly within the model.

    Args:
        model: The model.
        nodes: ``mlp_out`` or ``attn_out``: what the MLPs or the attention of the layers add.
        data: A Dataset, a Task, a task's name or a file.
        metric: A function or a name; None for the task's own. A list of several is measured in the
            same runs, and gives a list.
        corruption: A function or a name; None for ``counterfactual``.
        sizes: How many layers a window holds, one number or several; None for those of 1, 3, 5 and
            10 that the model has.
        at: The tokens, as in ``patch_nodes``.
        direction: ``denoise`` or ``noise``, as in ``patch_nodes``.

    Returns:
        Windows, whose ``joint[size]`` and ``summed[size]`` are Effects with values [windows,
        examples] in metric units, positive where the layers help.

    Raises:
        ArgumentError: for an argument in the wrong place.
        CircuitError: for other nodes, MLPs that the model lacks, a size that does not fit it, and
            another direction.
        DataError: for a span that an example lacks.

    Source: Zhang & Nanda 2024 (arXiv:2309.16042), §5.

    Example:
        >>> windows = ck.patch_windows(model, "mlp_out", task, sizes=[1, 3])
        >>> windows.joint[3].axes["window"]
        ('0-2', '1-3')
    """
    require_model(model)
    if not isinstance(nodes, str):
        refuse("nodes", nodes, "'mlp_out' or 'attn_out'")
    wiring = model.wiring
    if nodes not in ("mlp_out", "attn_out"):
        raise CircuitError(f"nodes={nodes!r} have no windows; choose from mlp_out, attn_out")
    if nodes == "mlp_out" and not wiring.mlp:
        raise CircuitError(f"{model.name!r} has no MLPs; choose windows of 'attn_out'")
    sizes = _sizes(model, sizes)
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


def _sizes(model: Model, sizes: int | Sequence[int] | None) -> list[int]:
    """How many layers windows hold; raises CircuitError where a size does not fit the model."""
    layers = model.wiring.layers
    if sizes is None:
        return [n for n in SIZES if n <= layers]
    listed = [sizes] if isinstance(sizes, int) else sizes
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        refuse("sizes", sizes, "numbers of layers such as [1, 3]")
    for size in listed or [0]:
        if size not in range(1, layers + 1):
            raise CircuitError(
                f"a window of {size} layers does not fit {model.name!r}; give sizes from 1 to "
                f"{layers}"
            )
    return [*listed]


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
            site = moved(self.site, delta.device)[..., None]
            late = self.rest.late(at, torch.where(site, delta, 0))
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
        here = moved(self.rest.wrote_late(stage, self.site), x.device)[..., None]
        runs = x.clone().view(-1, *taken.shape)
        runs[held] = torch.where(here, taken, runs[held])
        return runs.flatten(0, 1)
