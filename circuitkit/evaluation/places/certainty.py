"""How sure the edges of a circuit between places are, as far as the choice of the prompts goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import nan

import numpy as np
from jaxtyping import Bool, Float, Int

from circuitkit.errors import ScoresError
from circuitkit.evaluation.replicates import frequencies, means_of, pairwise, resamples
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.places import PlacedMask, Places
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.statistics import LEVEL

__all__ = ["PlacedCertainty", "placed_certainty"]

REPLICATES = 100  # samples of half as many prompts
PAIRED = 30  # circuits whose pairs say how much two agree
CORE = 0.9  # the frequency from which an edge belongs to the core


@dataclass(frozen=True, eq=False)
class PlacedCertainty:
    """How sure each edge of the residual stream of a circuit is; nan where unknown.

    The tables have one number for each such edge of the circuit, in the order of its mask: the mean
    score over the examples with its standard error, the ``low`` and ``high`` end of its interval, p
    of its sign, and the share of circuits from other samples of as many prompts that would have it.
    ``agreement`` is the mean Jaccard index of two circuits from different samples, before edges of
    attention are taken out: samples of these prompts overlap, so it is an upper estimate.
    """

    mask: PlacedMask
    examples: int
    mean: Float[np.ndarray, " edges"]
    standard_error: Float[np.ndarray, " edges"]
    low: Float[np.ndarray, " edges"]
    high: Float[np.ndarray, " edges"]
    p: Float[np.ndarray, " edges"]
    frequency: Float[np.ndarray, " edges"]
    agreement: float
    threshold: float = CORE
    level: float = LEVEL

    @property
    def core(self) -> Bool[np.ndarray, " edges"]:
        """Which edges nearly every other sample would give too."""
        return np.asarray(self.frequency >= self.threshold)

    def said(self) -> Iterator[tuple[tuple[int, int, int], dict[str, Json]]]:
        """Each edge (its writer's row, its reader's column, its span) with what is known of it."""
        names = "standard_error", "low", "high", "p", "frequency"
        columns = [getattr(self, name) for name in names]
        rows = zip(np.argwhere(self.mask.residual), self.core, *columns, strict=True)
        for (row, column, span), core, *numbers in rows:
            known = zip(names, map(float, numbers), strict=True)
            own: dict[str, Json] = {name: value for name, value in known if value == value}
            if self.examples > 1:
                own["core"] = bool(core)
            yield (int(row), int(column), int(span)), own

    def to_dict(self) -> dict[str, Json]:
        """The summary, for machines."""
        found: dict[str, Json] = nan_to_none({
            "examples": self.examples, "edges": len(self.mean), "core": int(self.core.sum()),
            "threshold": self.threshold, "agreement": self.agreement,
        })  # fmt: skip
        return found

    def lines(self) -> list[tuple[str, str]]:
        """The summary: what is known, each with its name."""
        if self.examples < 2:
            return [("certainty", "not known from a single example")]
        core = f"{int(self.core.sum()):,} of {len(self.mean):,} residual edges"
        return [
            ("core", f"{core}, in at least {self.threshold:.0%} of samples"),
            ("agreement", f"{self.agreement:.3f} with another {self.examples:,} prompts "
                          "(Jaccard, an upper estimate)"),
        ]  # fmt: skip


def placed_certainty(
    scores: PlacedScores, mask: PlacedMask, size: int, *, seed: int = 0
) -> PlacedCertainty:
    """How sure each edge of the residual stream is, from the scores of each example: as
    ``certainty`` says it of plain circuits. ``size`` is how many edges of the residual stream the
    circuit had when it was cut from the ranking. Raises ScoresError where the scores hold none of
    single examples."""
    if scores.groups is None:
        raise ScoresError(
            "the scores hold none of single examples, without which nothing is known of their "
            'scatter; ask the method for them with groups="examples"'
        )
    places = scores.places
    groups = scores.groups[:, : int(places.legal.residual.sum())]  # the others are of attention
    own = np.flatnonzero(np.asarray(mask.residual)[places.legal.residual])
    n, draw = len(groups), np.random.default_rng(seed)
    found = means_of(groups[:, own], LEVEL)
    frequency, agreement = np.full(len(own), nan), nan
    if n > 1:
        drawn = [*_cuts(places, groups, resamples(n, n // 2, REPLICATES, draw), size)]
        frequency = frequencies(drawn, groups.shape[1])[own]
        agreement = pairwise([*_cuts(places, groups, resamples(n, n, PAIRED, draw), size)])
    return PlacedCertainty(
        mask, n, found.mean, found.error, found.low, found.high, found.p, frequency, agreement
    )


def _cuts(
    places: Places,
    groups: Float[np.ndarray, "examples edges"],
    times: Int[np.ndarray, "count examples"],
    size: int,
) -> Iterator[Int[np.ndarray, " edges"]]:
    """The circuit of that size in each sample, as the places of its edges among all."""
    legal = places.legal.residual
    attention = np.zeros(places.legal.attention.shape, np.float32)
    for weights in (times / times.sum(1, keepdims=True)).astype(np.float32):
        values = np.zeros(legal.shape, np.float32)
        values[legal] = weights @ groups
        cut = PlacedScores(places, values, attention).best(size)
        yield np.flatnonzero(np.asarray(cut.residual)[legal])
