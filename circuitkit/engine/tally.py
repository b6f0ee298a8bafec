"""The scores of the edges over a run: their mean, their scatter, and those of groups of examples.

A run goes through the data batch by batch. What is kept of each example is decided beforehand:
only its part in the mean, its own scores, or its part in each of several resamples.
"""

from __future__ import annotations

import tempfile
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from circuitkit.engine.memory import room
from circuitkit.errors import ArgumentError
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.places import PlacedMask, Places
from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring
from circuitkit.util.json_values import Json
from circuitkit.util.options import Form

__all__ = ["ByGroup", "ByPlace", "Groups", "PlacedTally", "Tally", "replaced"]

# What is kept of the examples: nothing; the scores of each; or, of counts that say how often each
# example counts in each of K resamples, the scores of the resamples.
Groups: TypeAlias = Literal["examples"] | Int[np.ndarray, "groups examples"] | None


def _is_groups(groups: object) -> bool:
    """Whether this may say what is kept of the examples; which counts they are, ``Tally`` sees."""
    if groups is None or isinstance(groups, str):
        return groups in (None, "examples")
    return hasattr(groups, "__len__") and not isinstance(groups, bytes | dict)


ByGroup: TypeAlias = Annotated[
    Groups, Form("'examples', counts of shape [groups, examples], or None", _is_groups)
]


def _is_places(places: object) -> bool:
    return places is None or isinstance(places, Places)


ByPlace: TypeAlias = Annotated[
    Places | None, Form("what circuitkit.data.places.places gives, or None", _is_places)
]


class Tally:
    """Sums of the examples' scores, as they come; ``scores`` gives their mean at the end.

    The groups' scores take min(examples, groups) × edges × 4 bytes: in memory or, if they do not
    fit, in a temporary file that is deleted with its last reader. Raises ArgumentError for groups
    that are not counts of these examples.
    """

    def __init__(
        self, wiring: Wiring, examples: int, groups: Groups = None, memory: int | None = None
    ) -> None:
        self.wiring, self.examples = wiring, examples
        self.tables = self._legal()
        self.edges = sum(int(table.sum()) for table in self.tables)
        counts = _counts(groups, examples)
        self.weights = counts / counts.sum(1, keepdims=True)
        self.alone = isinstance(groups, str)
        self.total = np.zeros(self.edges)
        self.squares = np.zeros(self.edges)
        self.seen = 0
        kept = 0 if groups is None else examples if self.alone else len(counts)
        self.kept = _table((kept, self.edges), memory)

    @property
    def apart(self) -> bool:
        """Whether the scores of each example are needed, and not just their sum."""
        return len(self.kept) > 0

    def add(self, scores: Float[np.ndarray, "b edges"]) -> None:
        """Count the scores of the next examples."""
        own = slice(self.seen, self.seen + len(scores))
        self.total += scores.sum(0, dtype=np.float64)
        self.squares += np.square(scores, dtype=np.float64).sum(0)
        if self.alone:
            self.kept[own] = scores
        elif self.apart:
            self.kept += (self.weights[:, own] @ scores.astype(np.float64)).astype(np.float32)
        self.seen = own.stop

    def add_sum(self, scores: Float[np.ndarray, " edges"], examples: int) -> None:
        """Count the sum of the scores of the next examples, where they are not needed apart."""
        self.total += scores
        self.seen += examples

    def _legal(self) -> list[Bool[np.ndarray, "..."]]:
        """What is an edge, in the tables of scores."""
        return [self.wiring.legal]

    def scores(self, about: dict[str, Json]) -> Scores:
        """The mean over the examples; with groups, also their scores and the standard error."""
        (values,) = self._mean()
        if not self.apart:
            return Scores(self.wiring, values, about)
        (error,) = self._spread(self._error())
        return Scores(self.wiring, values, about, None, self.kept, error)

    def _mean(self) -> list[np.ndarray]:
        """The mean over the examples, as tables."""
        mean = np.empty(len(self.total), np.float32)
        np.divide(self.total, self.examples, out=mean, casting="same_kind")
        return self._spread(mean)

    def _error(self) -> Float[np.ndarray, " edges"]:
        """The standard error of the mean; nan where there is one example."""
        n = self.examples
        if n < 2:
            return np.full(len(self.total), np.nan, np.float32)
        spread = np.maximum(self.squares - self.total**2 / n, 0) / (n - 1)
        error: np.ndarray = np.sqrt(spread / n).astype(np.float32)
        return error

    def _spread(self, values: Float[np.ndarray, " edges"]) -> list[np.ndarray]:
        """A value of each edge as tables."""
        found, start = [], 0
        for legal in self.tables:
            table, count = np.zeros(legal.shape, values.dtype), int(legal.sum())
            table[legal] = values[start : start + count]
            found.append(table)
            start += count
        return found


class PlacedTally(Tally):
    """The same of the edges between places: those of the residual stream, and then those of
    attention."""

    def __init__(
        self, places: Places, examples: int, groups: Groups = None, memory: int | None = None
    ) -> None:
        self.places = places
        super().__init__(places.wiring, examples, groups, memory)

    def _legal(self) -> list[Bool[np.ndarray, "..."]]:
        return [self.places.legal.residual, self.places.legal.attention]

    def placed(self, about: dict[str, Json]) -> PlacedScores:
        """The mean over the examples; with groups, also their scores and the standard error."""
        residual, attention = self._mean()
        if not self.apart:
            return PlacedScores(self.places, residual, attention, about)
        error = PlacedMask(self.places, *self._spread(self._error()))
        return PlacedScores(self.places, residual, attention, about, self.kept, error)


def replaced(
    groups: Float[np.ndarray, "examples edges"],
    columns: Int[np.ndarray, " some"],
    values: Float[np.ndarray, "some examples"],
) -> Float[np.ndarray, "examples edges"]:
    """The examples' scores with those of some edges in the place of what was there; the table is
    a new one, in a file where the other is in one."""
    filed = isinstance(groups, np.memmap)
    table = _in_file(groups.shape) if filed else np.empty(groups.shape, np.float32)
    table[:] = groups
    table[:, columns] = values.T
    return table


def _counts(groups: Any, examples: int) -> Int[np.ndarray, "groups examples"]:
    """How often each example counts in each group; raises ArgumentError where it does not say."""
    if groups is None or (isinstance(groups, str) and groups == "examples"):
        return np.zeros((0, examples), int)
    counts = np.asarray(groups.cpu() if isinstance(groups, torch.Tensor) else groups)
    if counts.ndim != 2 or counts.dtype.kind not in "iu" or counts.shape[1] != examples:
        what = repr(groups) if counts.ndim == 0 else f"of {counts.dtype}, {counts.shape}"
        raise ArgumentError(
            f"the groups are {what}; give 'examples', or whole numbers [groups, {examples}]: how "
            "often each example counts in each group"
        )
    if (counts < 0).any() or not counts.any(1).all():
        raise ArgumentError("a group of examples has negative counts, or no example; leave it out")
    return counts


def _table(shape: tuple[int, int], memory: int | None) -> Float[np.ndarray, "groups edges"]:
    """A table of zeros, in memory if it takes at most half of what there is."""
    if 4 * shape[0] * shape[1] <= room(torch.device("cpu"), memory) / 2:
        return np.zeros(shape, np.float32)
    return _in_file(shape)


def _in_file(shape: tuple[int, ...]) -> Float[np.ndarray, "groups edges"]:
    """A table of zeros in a file of its own."""
    with tempfile.TemporaryFile() as file:  # it has no name, so nothing is left of it
        return np.memmap(file, np.float32, "w+", shape=shape)
