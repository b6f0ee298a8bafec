"""How sure each edge of a circuit is: what other prompts of the same kind would have changed.

It rests on the scores of each example, and runs nothing: the examples are drawn again, and each
sample is ranked and cut as the circuit was.
"""

from __future__ import annotations

from math import nan
from typing import Annotated

import numpy as np
from jaxtyping import Float

from circuitkit.errors import ScoresError
from circuitkit.evaluation.certainty_result import TABLES, Certainty
from circuitkit.evaluation.masks import CircuitLike, ScoresLike, as_mask, as_scores
from circuitkit.evaluation.replicates import (
    complementary,
    cuts,
    frequencies,
    means_of,
    pairwise,
    resamples,
)
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Mask
from circuitkit.util.json_values import Json
from circuitkit.util.options import Bounds, Count, Seed, checked
from circuitkit.util.statistics import LEVEL

__all__ = ["certainty"]

PAIRED = 30  # circuits whose pairs say how much two agree
HALVES = 15  # pairs of complementary halves


@checked
def certainty(
    scores: ScoresLike,
    circuit: CircuitLike | int,
    *,
    rule: str = "abs",
    replicates: Count = 200,
    level: Annotated[float, Bounds(0, 1, above=True)] = LEVEL,
    core: Annotated[float, Bounds(0.5, 1, above=True)] = 0.9,
    seed: Seed = 0,
) -> Certainty:
    """How sure each edge of a circuit is, from the scores of each example; nothing is run.

    The inclusion frequency is that over ``replicates`` samples of half as many prompts, drawn with
    replacement, each ranked by the ``rule`` and cut to as many edges as the circuit has. They
    scatter around the circuit of these prompts as fresh samples of the full size would, which a
    bootstrap of the full size would understate. Edges of the circuit with a frequency of at least
    ``core`` are its core. Intervals and p are those of a mean of skewed, heavy-tailed values
    (``circuitkit.util.statistics.means``). Only the choice of the prompts is taken as uncertain
    here: not the method, the metric or the corruption.

    Args:
        scores: Scores of a method with ``groups="examples"``, or what holds them.
        circuit: The circuit that was chosen from them, its mask, or its number of edges.
        rule: How edges were ranked: ``abs``, ``signed`` or ``greedy``.
        replicates: How many samples are drawn for the frequencies.
        level: The level of the intervals.
        core: The frequency from which an edge belongs to the core, above 0.5.
        seed: The seed of the draws.

    Raises:
        ArgumentError: for an argument out of its bounds, or of another kind.
        ScoresError: for scores without those of each example.
        CircuitError: for a circuit that does not fit.

    Source: samples of n/2 as in Bickel, Götze & van Zwet (1997); Benjamini & Hochberg (1995);
    Meinshausen & Bühlmann (2010); Shah & Samworth (2013); Hall (1992).

    Example:
        >>> each = ck.discovery.eap(model, data, groups="examples")
        >>> sure = ck.certainty(each, each.top(20))
        >>> list(sure.to_frame())[:6]
        ['writer', 'reader', 'weight', 'standard_error', 'low', 'high']
    """
    scores = as_scores(scores)
    groups = scores.groups
    if groups is None:
        raise ScoresError(
            "the scores hold none of single examples, without which nothing is known of their "
            'scatter; ask the method for them with groups="examples" (eap, eap_ig, exact, ...)'
        )
    mask, size = _chosen(scores, circuit, rule)
    n = len(groups)
    found = means_of(groups, level)
    frequency = halves = np.full(groups.shape[1], nan)
    jaccards: dict[int, float] = {}
    if n > 1:
        draw = np.random.default_rng(seed)
        drawn = [*cuts(scores.wiring, groups, resamples(n, n // 2, replicates, draw), size, rule)]
        frequency = frequencies(drawn, groups.shape[1])
        for m in dict.fromkeys(max(1, n // part) for part in (4, 2, 1)):
            times = resamples(n, m, PAIRED, draw)
            jaccards[m] = pairwise([*cuts(scores.wiring, groups, times, size, rule)])
        times = complementary(n, HALVES, draw)
        halves = frequencies([*cuts(scores.wiring, groups, times, size, rule)], groups.shape[1])
    tables = (*found, _adjusted(found.p), frequency, halves)
    single: dict[str, Json] = {
        name: table.astype(np.float32) for name, table in zip(TABLES, tables, strict=True)
    }
    return Certainty(
        scores.wiring, mask, n, **single, jaccards=jaccards, threshold=core, level=level,
        rule=rule, about=dict(scores.about),
    )  # fmt: skip


def _chosen(scores: Scores, circuit: CircuitLike | int, rule: str) -> tuple[Mask, int]:
    """The circuit, and to how many edges the others are cut."""
    if isinstance(circuit, int | np.integer):
        return scores.mask(circuit, rule), int(circuit)
    mask = as_mask(circuit, scores.wiring) & scores.wiring.legal
    if not mask.any():
        raise ScoresError("the circuit has no edges; give scores.mask(n), or their number")
    return mask, int(mask.sum())


def _adjusted(p: Float[np.ndarray, " edges"]) -> Float[np.ndarray, " edges"]:
    """The p adjusted over all edges; one that is not known counts as 1, and stays so."""
    from scipy.stats import false_discovery_control

    unknown = np.isnan(p)
    if unknown.all():
        return p
    return np.where(unknown, nan, false_discovery_control(np.where(unknown, 1, p)))
