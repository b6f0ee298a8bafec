"""Circuits of resampled prompts: each ranked and cut to one size, without a run of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from circuitkit.errors import ScoresError
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.util.statistics import Means, means

__all__ = ["Cut", "complementary", "cuts", "frequencies", "means_of", "pairwise", "resamples"]

BLOCK = 2**22  # values whose moments are taken at once
BLOCK_BYTES = 2**26  # of the scores of the replicates that are in memory at once

Cut = Int[np.ndarray, " edges"]  # the places of a circuit's edges, among all edges


def resamples(
    examples: int, size: int, count: int, generator: np.random.Generator
) -> Int[np.ndarray, "count examples"]:
    """How often each example is in each of ``count`` samples of this size, with replacement."""
    return generator.multinomial(size, np.full(examples, 1 / examples), count)


def complementary(
    examples: int, pairs: int, generator: np.random.Generator
) -> Int[np.ndarray, "twice_pairs examples"]:
    """The same of halves of the examples, without replacement: two after each other share none."""
    half = examples // 2
    order = generator.permuted(np.tile(np.arange(examples), (pairs, 1)), axis=1)
    times = np.zeros((2 * pairs, examples), dtype=int)
    np.put_along_axis(times[::2], order[:, :half], 1, axis=1)
    np.put_along_axis(times[1::2], order[:, half : 2 * half], 1, axis=1)
    return times


def cuts(
    wiring: Wiring,
    groups: Float[np.ndarray, "examples edges"],
    times: Int[np.ndarray, "count examples"],
    n: int,
    rule: str = "abs",
) -> Iterator[Cut]:
    """The circuit of n edges in each sample, as ``Scores.mask`` cuts the sample's mean scores;
    empty where that gives none."""
    legal = wiring.legal
    step = max(1, BLOCK_BYTES // (4 * groups.shape[1]))
    weights = (times / times.sum(1, keepdims=True)).astype(np.float32)
    for start in range(0, len(weights), step):
        for row in weights[start : start + step] @ groups:
            values = np.zeros(wiring.shape, dtype=np.float32)
            values[legal] = row
            yield np.flatnonzero(_cut(Scores(wiring, values), n, rule)[legal])


def _cut(scores: Scores, n: int, rule: str) -> Mask:
    try:
        return scores.mask(n, rule)
    except ScoresError:  # all zero, or by the rule mib none left
        return np.zeros(scores.wiring.shape, dtype=bool)


def frequencies(found: Sequence[Cut], edges: int) -> Float[np.ndarray, " all_edges"]:
    """The share of the circuits that hold each edge."""
    return np.bincount(np.concatenate(found), minlength=edges) / len(found)


def pairwise(found: Sequence[Cut]) -> float:
    """The mean Jaccard index of the pairs of circuits."""
    sizes = np.array([len(cut) for cut in found])
    columns = np.unique(np.concatenate(found), return_inverse=True)[1]
    held = np.zeros((len(found), int(columns.max(initial=-1)) + 1), dtype=np.float32)
    held[np.repeat(np.arange(len(found)), sizes), columns] = 1
    first, second = np.triu_indices(len(found), 1)
    both = (held @ held.T)[first, second]
    union = sizes[first] + sizes[second] - both
    with np.errstate(invalid="ignore"):
        return float(np.where(union > 0, both / union, 1).mean())


def means_of(groups: Float[np.ndarray, "examples edges"], level: float) -> Means:
    """The means over the examples, some edges at a time."""
    step = max(1, BLOCK // len(groups))
    parts = [means(groups[:, i : i + step], level) for i in range(0, groups.shape[1], step)]
    return Means(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
