"""How sure the edges of a circuit between places are, as far as the choice of the prompts goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import nan

import numpy as np
from jaxtyping import Bool, Float, Int

from circuitkit.errors import ScoresError
from circuitkit.evaluation.places.choosing import ChosenPlaces, with_strongest
from circuitkit.evaluation.replicates import Cut, frequencies, means_of, pairwise, resamples
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.places import Edge, PlacedMask, Places
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.statistics import LEVEL

__all__ = ["PlacedCertainty", "placed_certainty"]

REPLICATES = 100  # samples of half as many prompts
PAIRED = 30  # circuits whose pairs say how much two agree
CORE = 0.9  # the frequency from which an edge belongs to the core


@dataclass(frozen=True, eq=False)
class PlacedCertainty:
    """How sure each edge of a circuit is; nan where unknown.

    The tables have one number for each edge of the circuit, in the order of ``PlacedMask.edges``:
    the mean over the examples (of the score of an edge of the residual stream, and of the exact
    effect of one of attention) with its standard error, the ``low`` and ``high`` end of its
    interval, p of its sign, and the share of circuits from other samples of as many prompts that
    would have it. Edges of attention are chosen again among those of this circuit, with its edges
    of the residual stream held.

    ``agreement`` is the mean Jaccard index of two circuits from different samples, in edges of the
    residual stream and before any is lost with edges of attention, and ``attention_agreement`` that
    in edges of attention: samples of these prompts overlap, so they are upper estimates.
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
    attention_agreement: float
    threshold: float = CORE
    level: float = LEVEL

    @property
    def core(self) -> Bool[np.ndarray, " edges"]:
        """Which edges nearly every other sample would give too."""
        return np.asarray(self.frequency >= self.threshold)

    def said(self) -> Iterator[tuple[Edge, dict[str, Json]]]:
        """Where each edge is in the tables, with what is known of it."""
        names = "standard_error", "low", "high", "p", "frequency"
        columns = [getattr(self, name) for name in names]
        for edge, core, *numbers in zip(self.mask.edges(), self.core, *columns, strict=True):
            known = zip(names, map(float, numbers), strict=True)
            own: dict[str, Json] = {name: value for name, value in known if value == value}
            if self.examples > 1:
                own["core"] = bool(core)
            yield edge, own

    def _cores(self) -> tuple[int, int]:
        """How many edges of each kind belong to the core."""
        residual = self.mask.counts()[0]
        return int(self.core[:residual].sum()), int(self.core[residual:].sum())

    def to_dict(self) -> dict[str, Json]:
        """The summary, for machines."""
        (edges, attention), (core, crossing) = self.mask.counts(), self._cores()
        found: dict[str, Json] = nan_to_none({
            "examples": self.examples, "edges": edges, "core": core,
            "attention_edges": attention, "attention_core": crossing,
            "threshold": self.threshold, "agreement": self.agreement,
            "attention_agreement": self.attention_agreement,
        })  # fmt: skip
        return found

    def lines(self) -> list[tuple[str, str]]:
        """The summary: what is known, each with its name."""
        if self.examples < 2:
            return [("certainty", "not known from a single example")]
        (residual, attention), (core, crossing) = self.mask.counts(), self._cores()
        kinds = f"{core:,} of {residual:,} residual and {crossing:,} of {attention:,} attention"
        agree = f"{self.agreement:.3f} of residual and {self.attention_agreement:.3f} of attention"
        return [
            ("core", f"{kinds} edges, in at least {self.threshold:.0%} of samples"),
            ("agreement", f"{agree} edges with another {self.examples:,} prompts (Jaccard, an "
                          "upper estimate)"),
        ]  # fmt: skip


def placed_certainty(
    scores: PlacedScores, chosen: ChosenPlaces, *, joint: bool = False, seed: int = 0
) -> PlacedCertainty:
    """How sure each edge of the chosen circuit is: those of the residual stream from the scores of
    each example, and those of attention from what cutting each costs on every example; as
    ``certainty`` says it of plain circuits. ``joint`` is as in ``Places.alive``. Raises ScoresError
    where the scores hold none of single examples."""
    if scores.groups is None:
        raise ScoresError(
            "the scores hold none of single examples, without which nothing is known of their "
            'scatter; ask the method for them with groups="examples"'
        )
    places, mask = scores.places, chosen.mask
    groups = scores.groups[:, : int(places.legal.residual.sum())]  # the others are of attention
    residual = np.flatnonzero(np.asarray(mask.residual)[places.legal.residual])
    attention = np.flatnonzero(np.asarray(mask.attention)[chosen.free.attention])
    n, draw = len(groups), np.random.default_rng(seed)
    found = means_of(np.hstack([groups[:, residual], chosen.each.T[:, attention]]), LEVEL)
    frequency, agree, crossing = np.full(len(found.mean), nan), nan, nan
    if n > 1:
        half, full = resamples(n, n // 2, REPLICATES, draw), resamples(n, n, PAIRED, draw)
        size = chosen.free.counts()[0]
        drawn = [*_cuts(places, groups, half, size, joint)]
        again = [*_crossings(chosen, half, joint)]
        frequency = np.concatenate([
            frequencies(drawn, groups.shape[1])[residual],
            frequencies(again, len(chosen.each))[attention],
        ])  # fmt: skip
        agree = pairwise([*_cuts(places, groups, full, size, joint)])
        crossing = pairwise([*_crossings(chosen, full, joint)])
    return PlacedCertainty(mask, n, found.mean, found.error, found.low, found.high, found.p,
                           frequency, agree, crossing)  # fmt: skip


def _weights(
    times: Int[np.ndarray, "count examples"],
) -> Float[np.ndarray, "count examples"]:
    """The share that each example has in the mean of each sample."""
    return np.asarray(times / times.sum(1, keepdims=True), np.float32)


def _cuts(
    places: Places,
    groups: Float[np.ndarray, "examples edges"],
    times: Int[np.ndarray, "count examples"],
    size: int,
    joint: bool,
) -> Iterator[Cut]:
    """The circuit of that size in each sample, with attention free, as the numbers of its edges of
    the residual stream among all; empty where that gives none."""
    legal = places.legal.residual
    attention = np.zeros(places.legal.attention.shape, np.float32)
    for weights in _weights(times):
        values = np.zeros(legal.shape, np.float32)
        values[legal] = weights @ groups
        ranking = PlacedScores(places, values, attention).ranking()
        cut = places.best(ranking, size, joint=joint)
        yield np.flatnonzero(np.asarray(cut.residual)[legal])


def _crossings(
    chosen: ChosenPlaces, times: Int[np.ndarray, "count examples"], joint: bool
) -> Iterator[Cut]:
    """As many edges of attention in each sample, by their effects there, as their numbers among
    those of the circuit with all of them; dead ends are left out."""
    free, known = chosen.free, {}
    for means in _weights(times) @ chosen.each.T:
        kept = with_strongest(free, means, chosen.strongest)
        key = kept.attention.tobytes()
        if key not in known:
            alive = free.places.alive(kept, joint=joint)
            known[key] = np.flatnonzero(alive.attention[free.attention])
        yield known[key]
