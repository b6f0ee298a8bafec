"""The clusters of examples by their own edge scores, as many as can be told from one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from circuitkit.util.json_values import Json
from circuitkit.util.modes import dip, dip_p
from circuitkit.util.statistics import LEVEL

__all__ = ["LEAST", "MOST", "SAME", "Grouping", "Split", "centroids", "group", "nearest", "unit"]

LEAST = 10  # prompts of a cluster that may be split
MOST = 12  # clusters
SAME = 0.1  # how far apart centroids of the same are at most: scores have the length 1
FOLDS = 10  # of the prompts, each laid on the axis of the others
ROUNDS = 50  # of Lloyd's algorithm
BLOCK = 2**22  # scores whose products are taken at once
ROUNDING = 1e-9  # of what varies most


@dataclass(frozen=True)
class Split:
    """Whether a cluster is two: the one that is asked, and what of it.

    ``prompts`` are in it, ``sizes`` in its two halves, whose centroids are ``distance`` apart (the
    scores of a prompt have the length 1). ``p`` says how likely a ``dip`` as large is where the
    prompts have one mode on the line through the two; at most ``allowed`` makes two of it, if their
    distance is above ``SAME``.
    """

    prompts: int
    sizes: tuple[int, int]
    distance: float
    dip: float
    p: float
    allowed: float

    @property
    def apart(self) -> bool:
        """Whether there are two."""
        return self.distance > SAME and self.p <= self.allowed

    def row(self) -> dict[str, Json]:
        """What is printed of it."""
        return {"prompts": self.prompts, "first": self.sizes[0], "second": self.sizes[1],
                "distance": self.distance, "dip": self.dip, "p": self.p, "allowed": self.allowed,
                "two": self.apart}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Grouping:
    """The cluster of each example, from 0, the largest first; the ``splits`` that were asked; how
    many clusters these tell apart (``judged``); and the examples in the two directions in which
    their scores differ most, with the share of the variance along each."""

    labels: Int[np.ndarray, " examples"]
    splits: tuple[Split, ...]
    judged: int
    places: Float[np.ndarray, "examples 2"]
    shares: tuple[float, float]

    @property
    def number(self) -> int:
        """How many clusters there are."""
        return int(self.labels.max()) + 1


def group(
    scores: Float[np.ndarray, "examples edges"],
    number: int | None = None,
    *,
    draws: int = 499,
    seed: int = 0,
) -> Grouping:
    """The clusters of examples whose scores, each of length 1, are alike.

    A cluster is cut in two (Ward's tree, then Lloyd's algorithm), and stays so where its prompts
    have more than one mode on the line through the two centroids: by the dip test, on which each
    prompt is laid by the centroids of others (ten folds), so that the choice of the line shows no
    modes that are not there. The level of 5 % is shared by size among the parts, as in Kimes et al.
    (2017). Then the parts are asked, and so on. A ``number`` is taken as it is given; the splits
    are asked all the same.
    """
    places = _coordinates(scores)
    labels, splits = _judged(places, draws, seed)
    judged = int(labels.max()) + 1
    if number is not None:
        labels = _cut(places, min(number, len(places)))
    found = _ordered(_settled(places, labels))
    total = float((places**2).sum()) or 1.0
    two = np.zeros((len(places), 2))
    two[:, : min(2, places.shape[1])] = places[:, :2]
    along = (two**2).sum(0) / total
    return Grouping(found, tuple(splits), judged, two, (float(along[0]), float(along[1])))


def unit(values: Float[np.ndarray, "n width"]) -> Float[np.ndarray, "n width"]:
    """Each row with the length 1; rows of zeros stay."""
    length = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(values / np.where(length > 0, length, 1))


def centroids(
    values: Float[np.ndarray, "n width"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "clusters width"]:
    """The mean of each cluster's rows."""
    return np.stack([values[labels == own].mean(0) for own in range(int(labels.max()) + 1)])


def nearest(
    values: Float[np.ndarray, "n width"], means: Float[np.ndarray, "clusters width"]
) -> Int[np.ndarray, " n"]:
    """The centroid that is nearest to each row."""
    far = (means**2).sum(1) - 2 * values @ means.T
    return np.asarray(far.argmin(1))


# -- how many --------------------------------------------------------------------------------------
def _judged(
    places: Float[np.ndarray, "n d"], draws: int, seed: int
) -> tuple[Int[np.ndarray, " n"], list[Split]]:
    """The clusters that can be told apart, and what was asked for them."""
    n, draw = len(places), np.random.default_rng(seed)
    labels, splits = np.zeros(n, int), list[Split]()
    waiting = [np.arange(n)]
    while waiting and labels.max() + 1 < MOST:
        own = waiting.pop(0)
        if len(own) < LEAST or not np.ptp(places[own], axis=0).any():
            continue
        halves, line = _line(places[own], draw)
        if len(line) < len(own):
            continue
        far, sizes = _distance(places[own], halves), np.bincount(halves, minlength=2).tolist()
        value = dip(line)
        p = dip_p(value, len(own), draws, seed)
        asked = Split(len(own), (sizes[0], sizes[1]), far, value, p, (1 - LEVEL) * len(own) / n)
        splits.append(asked)
        if asked.apart:
            labels[own[halves == 1]] = labels.max() + 1
            waiting += [own[halves == 0], own[halves == 1]]
    return labels, splits


def _line(
    places: Float[np.ndarray, "n d"], draw: np.random.Generator
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The two halves, and where each prompt lies between the centroids of others, from 0 to 1;
    fewer places than prompts where others have no two centroids."""
    halves = _settled(places, _cut(places, 2))
    way = np.diff(centroids(places, halves), axis=0)
    if not way.size:
        return halves, np.zeros(0)
    line, order = np.empty(len(places)), draw.permutation(len(places))
    for fold in range(FOLDS):
        held = order[fold::FOLDS]
        rest = np.setdiff1d(order, held)
        means = centroids(places[rest], _settled(places[rest], _cut(places[rest], 2)))
        first, second = means[0], means[-1]
        if float((second - first) @ way[0]) < 0:
            first, second = second, first
        own = second - first
        if float(own @ own) < (SAME / 100) ** 2:  # the others are all the same
            return halves, np.zeros(0)
        line[held] = (places[held] - first) @ own / float(own @ own)
    return halves, line


def _distance(places: Float[np.ndarray, "n d"], halves: Int[np.ndarray, " n"]) -> float:
    first, second = centroids(places, halves)
    return float(np.linalg.norm(second - first))


# -- clusters --------------------------------------------------------------------------------------
def _coordinates(scores: Float[np.ndarray, "n edges"]) -> Float[np.ndarray, "n d"]:
    """The examples with their distances as they are, and no more axes than examples: from the
    products of their scores, each of length 1."""
    gram = sum((own @ own.T for own in _blocks(scores)), np.zeros((len(scores), len(scores))))
    length = np.sqrt(np.diag(gram))
    gram = gram / np.outer(*[np.where(length > 0, length, 1)] * 2)
    mean = gram.mean(0)
    values, axes = np.linalg.eigh(gram - mean - mean[:, None] + mean.mean())
    used = values > ROUNDING * max(1.0, float(values.max()))
    return np.asarray((axes[:, used] * np.sqrt(values[used]))[:, ::-1])


def _blocks(scores: Float[np.ndarray, "n edges"]) -> Iterator[Float[np.ndarray, "n _some"]]:
    step = max(1, BLOCK // max(1, len(scores)))
    for first in range(0, scores.shape[1], step):
        yield scores[:, first : first + step].astype(np.float64)


def _cut(places: Float[np.ndarray, "n d"], number: int) -> Int[np.ndarray, " n"]:
    """Ward's tree, cut into so many."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if number < 2 or not places.shape[1] or len(places) < 2:
        return np.zeros(len(places), int)
    found = fcluster(linkage(places, "ward"), number, "maxclust")
    return np.asarray(np.unique(found, return_inverse=True)[1])


def _settled(
    places: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """The clusters once each example is in that of the nearest centroid; none becomes empty."""
    for _ in range(ROUNDS):
        now = nearest(places, centroids(places, labels))
        if len(np.unique(now)) <= labels.max() or (now == labels).all():
            break
        labels = now
    return labels


def _ordered(labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The clusters by their size, the largest first; of equal ones that of the first example."""
    numbers, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    order = sorted(range(len(numbers)), key=lambda i: (-sizes[i], first[i]))
    place = {int(numbers[i]): rank for rank, i in enumerate(order)}
    return np.array([place[int(own)] for own in labels])
