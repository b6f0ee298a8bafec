"""What patching finds: the effect of every patched node on every example, and what is said of it
over the examples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float

from circuitkit.errors import DataError, EvaluationError
from circuitkit.util.statistics import LEVEL, bootstrap_of_means, standard_error, weighted_mean
from circuitkit.util.tables import as_text

__all__ = ["PORTS", "Effects"]

PORTS = ("q", "k", "v", "pattern")
SITES = ("span", "position")  # the axes that say at which tokens
NAMED = {"edge", "path"}  # axes whose labels are names
PREFIX = {"mlp_out": "m", "neurons": "m", "groups": ""}  # of names; else "a" or that of a residual


@dataclass(frozen=True)
class Effects:
    """The effect of every patched node on every example, in units of the metric; positive where the
    node helps the clean behaviour.

    ``axes`` names the axes of ``values`` before the last one (``layer``, ``head``, ``position``,
    ...), each with its labels. Where an example has no such position its value is nan, and what is
    said over examples is said over the others. ``gap`` is the metric's difference between the clean
    and the corrupted run. ``numpy.asarray`` of it are the values.
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
        """The effect of the one of that name (``"a3.h7"``) on every example; of an index, that part
        of the values. Raises DataError for a name that was not patched."""
        if not isinstance(name, str):
            return np.asarray(self.values[name])
        if name not in self.names:
            raise DataError(
                f"{name!r} was not patched; the names are {', '.join(self.names[:3])}, ..."
            )
        return np.asarray(self.values.reshape(len(self), -1)[self.names.index(name)])

    @property
    def names(self) -> tuple[str, ...]:
        """The patched nodes in the order of the values: ``a3.h7`` or ``m3`` for what a component
        writes, ``a3.g1.k``, ``a3.h7.pattern``, ``m3.n17`` for a neuron, ``resid_pre3``, ``m3-5``
        for a window; with the span (``a3.h7@S2``) or position (``a3.h7@4``) where there is such an
        axis."""
        places = (dict(zip(self.axes, own, strict=True)) for own in product(*self.axes.values()))
        return tuple(_name(self.nodes, place) for place in places)

    def at(self, site: str) -> Effects:
        """The Effects at one span or position, without that axis; raises DataError for another than
        was patched."""
        axis, labels = list(self.axes.items())[-1]
        if axis not in SITES or site not in labels:
            known = ", ".join(labels) if axis in SITES else "none, all tokens were patched at once"
            raise DataError(f"there are no effects at {site!r}; the sites are {known}")
        axes = {name: own for name, own in self.axes.items() if name != axis}
        return replace(self, values=self.values[..., labels.index(site), :], axes=axes)

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
        """The bootstrap interval of the mean effect, over the examples."""
        return bootstrap_of_means(self.values, level, resamples, seed)

    @property
    def normalised(self) -> Float[np.ndarray, "*axes"]:
        """The mean effect over the mean gap between the clean and the corrupted run: 1 is all of it
        (Zhang & Nanda 2024, §2). Raises EvaluationError where that gap is zero."""
        here = ~np.isnan(self.values)
        gap = (here * self.gap).sum(-1) / here.sum(-1)
        if np.any(np.abs(gap) <= 1e-6 * max(1.0, float(np.abs(self.gap).max()))):
            raise EvaluationError(
                f"{self.metric} is on average the same on clean and corrupted prompts (under "
                f"{self.corruption}), so effects are no share of its gap; use another metric or "
                "corruption, or 'mean'"
            )
        return np.asarray(self.mean / gap)

    def strongest(self, n: int = 8) -> list[tuple[str, float]]:
        """The nodes of largest mean effect, each with it."""
        mean = self.mean
        return [(self._label(at), float(mean[at])) for at in self._order()[:n]]

    def _order(self) -> list[tuple[int, ...]]:
        """The nodes, from the largest mean effect on."""
        order = np.argsort(-np.abs(self.mean), axis=None, kind="stable")
        return [tuple(map(int, np.unravel_index(i, self.shape[:-1]))) for i in order]

    def _label(self, at: tuple[int, ...]) -> str:
        places = zip(self.axes.items(), at, strict=True)
        named = ", ".join(
            labels[i] if name in NAMED else f"{name} {labels[i]}" for (name, labels), i in places
        )
        return named or self.nodes

    def __repr__(self) -> str:
        sizes = " × ".join(f"{len(labels)} {name}s" for name, labels in self.axes.items())
        head = (
            f"{self.nodes}, {self.direction}, {self.metric} under {self.corruption}: "
            f"{sizes + ', ' if sizes else ''}{self.shape[-1]} examples; the largest mean effects, "
            "± standard error:"
        )
        mean, error = self.mean, self.standard_error
        rows = [
            {"effect": f"{mean[at]:+.3f}", "error": f"± {error[at]:.3f}", "node": self._label(at)}
            for at in self._order()[:8]
        ]
        return f"{head}\n{as_text(rows, right=('effect', 'error'), header=False, indent=2)}"


def _name(nodes: str, place: Mapping[str, str]) -> str:
    """The name of the node at a place, which has a label for every axis."""
    where = "".join(f"@{label}" for axis, label in place.items() if axis in SITES)
    if not place or place.keys() & NAMED:
        return next(iter(place.values()), nodes)
    first, *inner = ((axis, label) for axis, label in place.items() if axis not in SITES)
    name = PREFIX.get(nodes, nodes if nodes.startswith("resid") else "a") + first[1]
    name += "".join(f".{axis[0]}{label}" for axis, label in inner)  # .h7, .g1, .n17
    return name + (f".{nodes}" if nodes in PORTS else "") + where
