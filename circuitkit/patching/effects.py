"""What patching finds: the effect of every patched node on every example, and what is said of it
over the examples."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from circuitkit.errors import CircuitkitError, DataError, EvaluationError
from circuitkit.graph.nodes import parse_edge
from circuitkit.patching.pictures import MOST, Pictured, Plot, along, unit_of
from circuitkit.util.atomic import write_whole
from circuitkit.util.json_values import Json
from circuitkit.util.reading import json_in, read_arrays
from circuitkit.util.statistics import LEVEL, bootstrap_of_means, standard_error, weighted_mean
from circuitkit.util.tables import as_text, to_frame
from circuitkit.viz.figures import Bars, Heatmap, Lines, Panels

if TYPE_CHECKING:
    import pandas

__all__ = ["PORTS", "Effects", "as_arrays", "from_arrays", "full_name"]

PORTS = ("q", "k", "v", "pattern")
SITES = ("span", "position")  # the axes that say at which tokens
NAMED = ("edge", "path", "sender")  # axes whose labels are names
COUNTED = ("layer", "head", "neuron", "position")  # axes whose labels are numbers
PREFIX = {"mlp_out": "m", "neurons": "m", "groups": ""}  # of names; else "a" or that of a residual
PANELS = 12  # heat maps of a picture
FORMAT = "circuitkit.effects"
SHORT = re.compile(r"(?<![\w.])(\d+)\.(?=\d+(?:$|[.@<\s-]))")  # 23.3, 23.3.q, 23.3->m25


@dataclass(frozen=True, repr=False)
class Effects(Pictured):
    """The effect of every patched node on every example, in units of the metric; positive where the
    node helps the clean behaviour.

    ``values`` are [axes ..., examples], and ``axes`` names their axes before the last one
    (``layer``, ``head``, ``position``, ...), each with its labels; the effects of one path have no
    axes. Where an example has no such position its value is nan, and what is said over examples is
    said over the others. ``gap`` is the metric of the clean run less that of the corrupted one,
    [examples]. ``direction`` is ``noise`` or ``denoise``. ``numpy.asarray`` of it are the values.

    Source: Zhang & Nanda 2024 (arXiv:2309.16042), §2; Heimersheim & Nanda 2024 (arXiv:2404.15255).

    Example:
        >>> effects = ck.patch_heads(model, data)
        >>> effects.shape == (4, 4, len(data)), effects["a3.h2"].shape == (len(data),)
        (True, True)
        >>> print(effects)
        z, denoise, logit_diff under counterfactual: 4 layers × 4 heads, 16 examples
    """

    values: Float[np.ndarray, "*axes examples"]
    axes: Mapping[str, tuple[str, ...]]
    gap: Float[np.ndarray, " examples"]
    nodes: str
    metric: str
    corruption: str
    direction: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes, and the number of examples."""
        return self.values.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values: np.ndarray = np.array(self.values, dtype=dtype, copy=copy)
        return values

    def __len__(self) -> int:
        """The number of nodes, edges or paths that were patched."""
        return math.prod(self.shape[:-1])

    def __getitem__(self, name: Any) -> Float[np.ndarray, "*rest"]:
        """The effect of the one of that name on every example; of an index, that part of the
        values.

        Names are those of ``names``; a head may be written in its short form (``"3.7"`` is
        ``"a3.h7"``). Raises DataError for a name that was not patched.
        """
        if not isinstance(name, str):
            return np.asarray(self.values[name])
        names = self.names
        own = name if name in names else full_name(name)
        if own not in names:
            raise DataError(f"{name!r} was not patched; the names are {_some(names)}")
        return np.asarray(self.values.reshape(len(self), -1)[names.index(own)])

    @property
    def names(self) -> tuple[str, ...]:
        """The patched nodes in the order of the values: ``a3.h7`` or ``m3`` for what a component
        writes, ``a3.g1.k``, ``a3.h7.pattern``, ``m3.n17`` for a neuron, ``resid_pre3``, ``m3-5``
        for a window; with the span (``a3.h7@S2``) or position (``a3.h7@4``) where there is such an
        axis."""
        return tuple(_name(self.nodes, place) for place in self._places())

    def at(self, site: str) -> Effects:
        """The Effects at one span or position, without that axis.

        Raises DataError for one that was not patched.

        Example:
            >>> effects = ck.patch_residual(model, data, at=["S2", "end"])
            >>> list(effects.axes), list(effects.at("S2").axes)
            (['layer', 'span'], ['layer'])
        """
        axis, labels = [("", ()), *self.axes.items()][-1]
        site = str(site)
        if axis not in SITES or site not in labels:
            known = ", ".join(labels) if axis in SITES else "none, all tokens were patched at once"
            raise DataError(f"there are no effects at {site!r}; the sites are {known}")
        axes = {name: own for name, own in self.axes.items() if name != axis}
        return replace(self, values=self.values[..., labels.index(site), :], axes=axes)

    # -- over examples -----------------------------------------------------------------------------
    @property
    def mean(self) -> Float[np.ndarray, "*axes"]:
        """The mean effect over the examples."""
        return weighted_mean(self.values, np.ones((1, self.shape[-1])))[..., 0]

    @property
    def standard_error(self) -> Float[np.ndarray, "*axes"]:
        """The standard error of the mean; nan where it rests on one example."""
        return standard_error(self.values)

    def interval(
        self, level: float = LEVEL, resamples: int = 1000, seed: int = 0
    ) -> Float[np.ndarray, " low_and_high *axes"]:
        """The bootstrap interval of the mean effect, over the examples.

        Returns an array [2, axes ...] in metric units: the lower ends, then the upper ones.

        Example:
            >>> effects = ck.patch_heads(model, data)
            >>> low, high = effects.interval()
            >>> bool((low <= effects.mean).all() and (effects.mean <= high).all())
            True
        """
        return bootstrap_of_means(self.values, level, resamples, seed)

    @property
    def share(self) -> Float[np.ndarray, "*axes"]:
        """The mean effect over the mean gap between the clean and the corrupted run: 1 is all of it
        (Zhang & Nanda 2024, §2); nan where that gap is zero."""
        gap = self._mean_gap()
        flat = np.abs(gap) <= self._negligible()
        return np.asarray(self.mean / np.where(flat, np.nan, gap))

    @property
    def normalised(self) -> Float[np.ndarray, "*axes"]:
        """The ``share`` of the gap of every node; raises EvaluationError where a gap is zero."""
        if np.any(np.abs(self._mean_gap()) <= self._negligible()):
            raise EvaluationError(
                f"{self.metric} is on average the same on clean and corrupted prompts (under "
                f"{self.corruption}), so effects are not a share of its gap; use another metric or "
                "corruption, or 'mean'"
            )
        return self.share

    def _mean_gap(self) -> Float[np.ndarray, "*axes"]:
        """The mean gap over the examples that have the node."""
        here = ~np.isnan(self.values)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((here * self.gap).sum(-1) / here.sum(-1))

    def _negligible(self) -> float:
        return 1e-6 * max(1.0, float(np.abs(self.gap).max(initial=0)))

    def strongest(self, n: int = 8) -> list[tuple[str, float]]:
        """The nodes of largest mean effect, of either sign, each with it.

        Example:
            >>> ck.patch_edges(model, ["m0->logits", "3.2->logits"], data).strongest(1)[0][0]
            'a3.h2->logits'
        """
        mean = self.mean
        return [(self._label(at), float(mean[at])) for at in self._order()[:n]]

    def _order(self) -> list[tuple[int, ...]]:
        """The nodes, from the largest mean effect on; last those that no example has."""
        order = np.argsort(-np.abs(self.mean), axis=None, kind="stable")
        return [tuple(map(int, np.unravel_index(i, self.shape[:-1]))) for i in order]

    # -- as a table --------------------------------------------------------------------------------
    def rows(self) -> list[dict[str, Json]]:
        """The rows of ``to_frame``, as mappings."""
        numbers = (np.ravel(own).tolist() for own in (self.mean, self.standard_error, self.share))
        return [
            {"name": name, **self._columns(place), "effect": mean, "error": error, "share": share}
            for name, place, mean, error, share in zip(
                self.names, self._places(), *numbers, strict=True
            )
        ]

    def to_frame(self) -> pandas.DataFrame:
        """A pandas table with a row for each node, edge, path or group, in the order of the values.

        Columns: ``name``; one for each axis (``layer``, ``head``, ``group``, ``neuron``,
        ``window``, ``span``, ``position``; of edges ``writer`` and ``reader``), numbers where they
        are counted; ``effect``, the mean in metric units, positive where the node helps;
        ``error``, its standard error; ``share``, the mean over the mean gap. What is not defined is
        nan.

        Example:
            >>> frame = ck.patch_heads(model, data).to_frame()
            >>> list(frame)
            ['name', 'layer', 'head', 'effect', 'error', 'share']
            >>> frame.pivot(index="layer", columns="head", values="effect").shape
            (4, 4)
        """
        return to_frame(self.rows())

    def _places(self) -> list[dict[str, str]]:
        """The labels of each node."""
        return [dict(zip(self.axes, own, strict=True)) for own in product(*self.axes.values())]

    def _columns(self, place: Mapping[str, str]) -> dict[str, Json]:
        """What the table says of a place, beside its name."""
        found: dict[str, Json] = {}
        for axis, label in place.items():
            if axis == "edge":
                writer, reader = parse_edge(label)
                found |= {"writer": str(writer), "reader": str(reader)}
            elif axis in COUNTED or (axis == "group" and self.nodes != "groups"):
                found[axis] = int(label)
            elif axis not in NAMED:
                found[axis] = label
        return found

    # -- as a picture ------------------------------------------------------------------------------
    def plot(self, *, share: bool = False, n: int = MOST) -> Plot:
        """The mean effects as a figure, which a notebook shows in the place of the result.

        Two axes (layers by heads, spans or positions) are a heat map, red where the node helps and
        blue where it hurts; with a span or position as the third, one heat map for each (of more
        than 12 those of the largest effects). Layers alone are a curve with its standard error.
        Edges, paths, groups and neurons are bars of the strongest, with standard errors; the effect
        of one path is a bar with a dot for each example.

        Args:
            share: Whether to draw the share of the gap rather than the effect in metric units.
            n: How many bars at most.

        Returns:
            A Heatmap, Lines, Bars or Panels of ``circuitkit.figures``, which have ``save``.

        Raises:
            DataError: if there are no effects to draw.

        Example:
            >>> ck.patch_heads(model, data).plot()
            Heatmap(4 × 4, 'Heads (z), denoised under counterfactual')
            >>> ck.patch_edges(model, None, data[:2]).plot(n=5)
            Bars(5 rows, 'Edges, noised under counterfactual: the 5 strongest of 479')
        """
        return self.marked(None, share=share, n=n)

    def heatmap(
        self,
        *,
        share: bool = False,
        title: str | None = None,
        columns: Sequence[str] | None = None,
        marks: Bool[np.ndarray, "rows columns"] | None = None,
        mark_name: str = "marked",
    ) -> Heatmap:
        """The mean effects of two axes as a heat map: the one of ``plot``, with your own words.

        Args:
            share: Whether to draw the share of the gap rather than the effect in metric units.
            title: The title above it; None for what was patched.
            columns: Labels of the columns, such as a prompt's tokens.
            marks: Cells to outline, [first axis, second axis].
            mark_name: What the legend says of them.

        Raises:
            DataError: if the effects do not have two axes.

        Example:
            >>> effects = ck.patch_heads(model, data)
            >>> effects.heatmap(title="Heads", marks=effects.mean > 1, mark_name="beyond 1")
            Heatmap(4 × 4, 'Heads')
        """
        if len(self.axes) != 2:
            raise DataError(f"effects with the axes {', '.join(self.axes) or 'none'} are not a "
                            "heat map, which has two; use plot()")  # fmt: skip
        (row, rows), (column, own) = self.axes.items()
        name = "tokens patched" if column == "span" else column
        return Heatmap(
            self.share if share else self.mean, rows, own if columns is None else columns, row,
            name if columns is None else "", self._title() if title is None else title,
            unit_of(self.metric, share), marks, mark_name,
        )  # fmt: skip

    def marked(
        self,
        marks: Bool[np.ndarray, "*axes"] | None,
        mark_name: str = "marked",
        *,
        share: bool = False,
        n: int = MOST,
    ) -> Plot:
        """The figure of ``plot``, with those nodes outlined for which ``marks`` [axes ...] is true
        (curves have no outlines: of layers alone they are bars)."""
        if not len(self) or np.isnan(self.mean).all():
            raise DataError(f"{self.nodes} have no effects to draw")
        if "neuron" in self.axes or not {"layer", "window"} & {*self.axes}:
            return self._bars(marks, mark_name, share, n)
        *first, last = self.axes
        if not first:
            if marks is not None:
                return self._bars(marks, mark_name, share, n)
            return self._curve(last, share)
        if len(first) == 1:
            return self.heatmap(share=share, marks=marks, mark_name=mark_name)
        return self._panels(marks, mark_name, share)

    def _curve(self, axis: str, share: bool) -> Lines:
        """The effects along layers or windows."""
        return along(
            self.axes[axis], *self._scaled(share), name=axis, unit=unit_of(self.metric, share),
            title=self._title(),
        )  # fmt: skip

    def _scaled(self, share: bool) -> tuple[Float[np.ndarray, "*axes"], Float[np.ndarray, "*axes"]]:
        """The means and their standard errors, as shares of the gap or in metric units."""
        if not share:
            return self.mean, self.standard_error
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.share, self.standard_error * np.abs(self.share / self.mean)

    def _panels(
        self, marks: Bool[np.ndarray, "*axes"] | None, mark_name: str, share: bool
    ) -> Panels:
        """A heat map for each span or position."""
        axis, labels = list(self.axes.items())[-1]
        peaks = np.nan_to_num(np.abs(self.mean)).reshape(-1, len(labels)).max(0)
        kept = sorted(np.argsort(-peaks, kind="stable")[:PANELS].tolist())
        panels = [
            self.at(labels[i]).heatmap(
                share=share, title=labels[i] if axis == "span" else f"{axis} {labels[i]}",
                marks=None if marks is None else marks[..., i], mark_name=mark_name,
            )
            for i in kept
        ]  # fmt: skip
        most = "" if len(kept) == len(labels) else f" (the {PANELS} strongest of {len(labels)})"
        columns = 2 if len(panels) == 4 else 3
        return Panels(panels, columns, f"{self._title()}, by {axis}{most}")

    def _bars(
        self, marks: Bool[np.ndarray, "*axes"] | None, mark_name: str, share: bool, n: int
    ) -> Bars:
        """The strongest as bars; of one alone, a dot for each example too."""
        order = [at for at in self._order() if not np.isnan(self.mean[at])][: max(n, 1)]
        names = dict(zip(np.ndindex(self.shape[:-1]), self.names, strict=True))
        mean, error = self._scaled(share)
        few = "" if len(order) == len(self) else f": the {len(order)} strongest of {len(self)}"
        points = self.values / self.gap.mean() if share else self.values
        return Bars(
            [float(mean[at]) for at in order],
            [names[at] for at in order],
            [float(error[at]) for at in order],
            None if self.axes else points[None],
            self._title() + few,
            unit_of(self.metric, share),
            None if marks is None else [bool(marks[at]) for at in order],
            mark_name,
        )

    def _title(self) -> str:
        kinds = {"z": "Heads (z)", "share": "Heads (share)", "edges": "Edges", "paths": "Paths",
                 "groups": "Groups", "neurons": "Neurons"}  # fmt: skip
        what = kinds.get(self.nodes, self.nodes if self.axes else "One path")
        return f"{what}, {self.direction}d under {self.corruption}"

    # -- as a file ---------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all of it to a file of numpy (``.npz``), and return the path.

        Raises OutputError where the place cannot be written.

        Example:
            >>> effects = ck.patch_heads(model, data)
            >>> _ = effects.save("heads.npz")
            >>> bool((type(effects).load("heads.npz").mean == effects.mean).all())
            True
        """
        content = BytesIO()
        np.savez(content, **as_arrays(self))  # type: ignore[arg-type]
        return write_whole(path, content.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Effects:
        """The Effects that ``save`` has written; raises DataError where the file holds none.
        Nothing in a file is executed."""
        try:
            return from_arrays(read_arrays(path))
        except (CircuitkitError, OSError) as error:
            raise DataError(
                f"{os.fspath(path)!r} holds no effects; give a file that Effects.save has written "
                f"({error})"
            ) from error

    # -- displays ----------------------------------------------------------------------------------
    def _label(self, at: tuple[int, ...]) -> str:
        places = zip(self.axes.items(), at, strict=True)
        named = ", ".join(
            labels[i] if name in NAMED else f"{name} {labels[i]}" for (name, labels), i in places
        )
        return named or self.nodes

    def __str__(self) -> str:
        sizes = " × ".join(
            f"{len(labels)} {name}{'s' * (len(labels) != 1)}" for name, labels in self.axes.items()
        )
        return (
            f"{self.nodes}, {self.direction}, {self.metric} under {self.corruption}: "
            f"{sizes + ', ' if sizes else ''}{self.shape[-1]} examples"
        )

    def __repr__(self) -> str:
        head = f"{self}; the largest mean effects, ± standard error:"
        mean, error = self.mean, self.standard_error
        rows = [
            {"effect": f"{mean[at]:+.3f}", "error": f"± {error[at]:.3f}", "node": self._label(at)}
            for at in self._order()[:8]
        ]
        return f"{head}\n{as_text(rows, right=('effect', 'error'), header=False, indent=2)}"


# -- as arrays -------------------------------------------------------------------------------------
def as_arrays(effects: Effects) -> dict[str, np.ndarray]:
    """All of the Effects as arrays, for a file or a block of a journal."""
    labels = {key: own for key, own in vars(effects).items() if key not in ("values", "gap")}
    text = json.dumps({"format": FORMAT, **labels}).encode()
    return {
        "values": effects.values, "gap": effects.gap, "labels": np.frombuffer(text, np.uint8),
    }  # fmt: skip


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Effects:
    """The Effects that ``as_arrays`` gave; raises DataError for other arrays."""
    if sorted(arrays) != ["gap", "labels", "values"]:
        raise DataError(f"its arrays are {', '.join(map(repr, sorted(arrays)))[:200]}")
    labels: Any = json_in(arrays["labels"])
    if not isinstance(labels, dict) or labels.pop("format", None) != FORMAT:
        raise DataError("it is in another format")
    axes = labels.pop("axes", None)
    if sorted(labels) != ["corruption", "direction", "metric", "nodes"] or not all(
        isinstance(own, str) for own in labels.values()
    ):
        raise DataError("it does not say its nodes, metric, corruption and direction")
    if not isinstance(axes, dict) or not all(map(_are_texts, axes.values())):
        raise DataError("its axes are not lists of texts")
    values, gap = arrays["values"], arrays["gap"]
    shape = (*map(len, axes.values()), gap.size)
    if values.dtype.kind != "f" or gap.dtype.kind != "f" or gap.ndim != 1 or values.shape != shape:
        raise DataError(
            f"its values are of {values.dtype} and shape {values.shape}, its gap of {gap.dtype} "
            f"and shape {gap.shape}, and its axes of shape {shape[:-1]}"
        )
    return Effects(
        values=values, gap=gap, axes={name: tuple(own) for name, own in axes.items()}, **labels
    )


def _are_texts(labels: object) -> bool:
    return isinstance(labels, list) and all(isinstance(own, str) for own in labels)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)


def full_name(name: str) -> str:
    """The name with every head in its long form: ``a9.h9 -> a10.h7.q`` of ``9.9 -> 10.7.q``."""
    return SHORT.sub(r"a\1.h", name)


def _name(nodes: str, place: Mapping[str, str]) -> str:
    """The name of the node at a place, which has a label for every axis."""
    where = "".join(f"@{label}" for axis, label in place.items() if axis in SITES)
    if not place or place.keys() & NAMED:
        return next(iter(place.values()), nodes)
    first, *inner = ((axis, label) for axis, label in place.items() if axis not in SITES)
    name = PREFIX.get(nodes, nodes if nodes.startswith("resid") else "a") + first[1]
    name += "".join(f".{axis[0]}{label}" for axis, label in inner)  # .h7, .g1, .n17
    return name + (f".{nodes}" if nodes in PORTS else "") + where
