"""What a run of several circuits has to compute, each value once that several circuits share.

What a component writes in a circuit follows from which of its in-edges are kept and from what the
writers behind them write there. Circuits that agree in both share the value, so circuits that grow
out of each other, or differ in one edge, cost little more than one. Here are numbers only: which
values there are (``slots``), which of them each reader reads, and where each is kept until its last
reader has read it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from circuitkit.graph.stages import Stage
from circuitkit.graph.wiring import Wiring

__all__ = ["Lanes", "Plan", "Reading", "plan"]


Keeps: TypeAlias = (  # a stack of masks, or of fractions
    Bool[np.ndarray, "circuits writers readers"] | Float[np.ndarray, "circuits writers readers"]
)


@dataclass(frozen=True)
class Reading:
    """What one reader reads: the carried residual, and the values in these slots, written by these
    writers; the mask of ``circuit`` holds their weights."""

    column: int
    circuit: int
    rows: Int[np.ndarray, " edges"]
    slots: Int[np.ndarray, " edges"]


@dataclass(frozen=True)
class Lanes:
    """How a stage is computed: ``count`` lanes, which run as further examples of one batch.

    ``ports`` say which lanes of a port take which of its readings; ``writers`` are (place in the
    stage, lane) of every value to write, in the order of their slots.
    """

    count: int
    ports: dict[int, tuple[list[int], list[int]]]
    writers: list[tuple[int, int]]


@dataclass
class Plan:
    """The values of a stack of circuits: ``slots`` in all, numbered in the order of writing.

    ``readings`` are the distinct readings of each column; ``reads`` and ``slot`` say which reading
    and which value is each circuit's (-1: none, it is as in the carried run); ``lanes`` belong to
    the stages, one to each; ``precomputed`` are the slots of the writers whose values are known.
    ``places`` say where each value is kept, one after the other in the same place, and ``size``
    how many places there are.
    """

    wiring: Wiring
    reads: Int[np.ndarray, "circuits readers"]
    slot: Int[np.ndarray, "circuits writers"]
    readings: dict[int, list[Reading]] = field(default_factory=dict)
    lanes: list[Lanes] = field(default_factory=list)
    precomputed: dict[int, int] = field(default_factory=dict)
    slots: int = 0
    places: Int[np.ndarray, " slots"] = field(default_factory=lambda: np.zeros(0, dtype=int))
    size: int = 0


def plan(
    wiring: Wiring,
    keep: Keeps,
    precomputed: Collection[int],
    joint: Collection[int] = (),
) -> Plan:
    """The plan of these circuits, whose dead ends have been removed.

    A writer in ``precomputed`` is not computed where a circuit keeps none of its in-edges.
    ``joint`` are the numbers of the stages in which what a component writes depends on all others.
    """
    circuits = len(keep)
    writers, readers = wiring.shape
    made = Plan(wiring, np.full((circuits, readers), -1), np.full((circuits, writers), -1))
    return _Planner(made, keep, precomputed, joint).filled()


class _Planner:
    def __init__(
        self,
        made: Plan,
        keep: Keeps,
        precomputed: Collection[int],
        joint: Collection[int],
    ) -> None:
        self.plan, self.keep, self.precomputed, self.joint = made, keep, precomputed, joint
        self.wiring = made.wiring
        self.whole = bool(np.isin(keep, (0, 1)).all())
        self.writes: Bool[np.ndarray, "circuits writers"] = np.asarray(keep.any(2))
        heard: Bool[np.ndarray, "circuits readers"] = np.asarray(keep.any(1))
        self.computed = np.zeros_like(self.writes)
        for row in range(1, len(self.wiring.writers)):
            self.computed[:, row] = self.writes[:, row] & heard[:, self.wiring.feeds(row)].any(1)

    def filled(self) -> Plan:
        """The plan, stage by stage."""
        self._add_precomputed(range(1))
        ends = [0, self.plan.slots]
        for stage in self.wiring.stages:
            lanes = self._jointly(stage) if stage.index in self.joint else self._apart(stage)
            self.plan.lanes.append(lanes)
            self._add_precomputed(range(stage.rows.start, stage.rows.stop))
            ends.append(self.plan.slots)
        self._read(self.wiring.shape[1] - 1, np.ones(len(self.keep), dtype=bool))
        self._settle(ends)
        return self.plan

    def _settle(self, ends: Sequence[int]) -> None:
        """Keep each value in the first place that no reader needs any more; ``ends`` are the
        numbers of values before and after the embedding, and after each stage."""
        made = self.plan
        read_by = [stage.index for stage in self.wiring.stages for _ in stage.part.readers]
        read_by.append(len(self.wiring.stages))
        last = np.zeros(made.slots, dtype=int)
        for column, readings in made.readings.items():
            for reading in readings:
                last[reading.slots] = np.maximum(last[reading.slots], read_by[column])
        leaving: dict[int, list[int]] = defaultdict(list)
        for slot, stage in enumerate(last.tolist()):
            leaving[stage].append(slot)
        places, free = [0] * made.slots, list[int]()
        for stage, (start, stop) in enumerate(pairwise(ends), -1):
            for slot in leaving[stage - 1]:  # a stage may write before its last reader has read
                heappush(free, places[slot])
            for slot in range(start, stop):
                if free:
                    places[slot] = heappop(free)
                else:
                    places[slot] = made.size
                    made.size += 1
        made.places = np.array(places, dtype=int)

    def _slots(self, n: int) -> range:
        """The next n slots."""
        start = self.plan.slots
        self.plan.slots += n
        return range(start, start + n)

    def _add_precomputed(self, rows: range) -> None:
        for row in rows:
            hear = self.writes[:, row] & ~self.computed[:, row]
            if row in self.precomputed and hear.any():
                (slot,) = self._slots(1)
                self.plan.precomputed[row] = slot
                self.plan.slot[hear, row] = slot

    def _read(self, column: int, need: Bool[np.ndarray, " circuits"]) -> None:
        """The distinct readings of a column, among the circuits that need it."""
        which = np.flatnonzero(need)
        if not len(which):
            return
        upstream = int(self.wiring.upstream[column])
        kept = self.keep[which, :upstream, column]
        key = np.where(kept != 0, self.plan.slot[which, :upstream] + 1, 0)
        full = key if self.whole else np.concatenate([key, _bits(kept)], axis=1)
        first, inverse = _distinct(full)
        self.plan.reads[which, column] = inverse
        self.plan.readings[column] = [
            Reading(column, int(which[i]), rows, key[i, rows] - 1)
            for i, rows in ((i, np.flatnonzero(key[i])) for i in first)
        ]

    def _live(
        self, stage: Stage
    ) -> Iterator[tuple[int, tuple[int, ...], Bool[np.ndarray, " circuits"]]]:
        """The stage's components that a circuit computes: their place, their columns, and where."""
        for place, columns in enumerate(stage.feeds):
            where = self.computed[:, stage.rows.start + place]
            if where.any():
                yield place, columns, where

    def _ports(self, stage: Stage) -> None:
        """The readings of a stage's ports."""
        need: dict[int, Bool[np.ndarray, " circuits"]] = {}
        for _, columns, where in self._live(stage):
            for column in columns:
                need[column] = need.get(column, False) | where
        for column, where in need.items():
            self._read(column, where)

    def _apart(self, stage: Stage) -> Lanes:
        """Every component by itself; those that share ports share the lanes of what these read."""
        self._ports(stage)
        lanes: dict[int, dict[tuple[tuple[int, ...], int], int]] = {}
        ports: dict[int, dict[int, int]] = {}
        writers: list[tuple[int, int]] = []
        for place, columns, where in self._live(stage):
            which = np.flatnonzero(where)
            readings = self.plan.reads[which][:, columns]
            first, inverse = _distinct(readings)
            slots = np.array(self._slots(len(first)))
            self.plan.slot[which, stage.rows.start + place] = slots[inverse]
            own = lanes.setdefault(stage.groups[place], {})
            seen: Counter[tuple[int, ...]] = Counter()
            shared = [i for i, column in enumerate(columns) if column in stage.shared]
            for reading in readings[first].tolist():
                key = tuple(reading[i] for i in shared)
                lane = own.setdefault((key, seen[key]), len(own))
                seen[key] += 1
                writers.append((place, lane))
                for column, one in zip(columns, reading, strict=True):
                    ports.setdefault(column, {})[lane] = one
        return _lanes(max(map(len, lanes.values()), default=0), ports, writers)

    def _jointly(self, stage: Stage) -> Lanes:
        """All components together, in one lane for each state of the stage."""
        self._ports(stage)
        found = list(self._live(stage))
        ports: dict[int, dict[int, int]] = {}
        writers: list[tuple[int, int]] = []
        if not found:
            return _lanes(0, ports, writers)
        which = np.flatnonzero(np.any([where for *_, where in found], axis=0))
        state = [
            np.where(where[which, None], self.plan.reads[which][:, columns], -1)
            for _, columns, where in found
        ]
        first, inverse = _distinct(np.concatenate(state, axis=1))
        for (place, columns, _), own in zip(found, state, strict=True):
            for lane, i in enumerate(first):
                if own[i, 0] < 0:
                    continue
                (slot,) = self._slots(1)
                self.plan.slot[which[inverse == lane], stage.rows.start + place] = slot
                writers.append((place, lane))
                for column, one in zip(columns, own[i].tolist(), strict=True):
                    ports.setdefault(column, {})[lane] = one
        return _lanes(len(first), ports, writers)


def _lanes(count: int, ports: dict[int, dict[int, int]], writers: list[tuple[int, int]]) -> Lanes:
    listed = {column: (list(own), list(own.values())) for column, own in sorted(ports.items())}
    return Lanes(count, listed, writers)


def _bits(x: Float[np.ndarray, "n width"]) -> Int[np.ndarray, "n width"]:
    """Numbers by which equal floats, and no others, are told apart."""
    return np.ascontiguousarray(x).view(f"i{x.itemsize}")


def _distinct(
    rows: Int[np.ndarray, "n width"],
) -> tuple[Int[np.ndarray, " distinct"], Int[np.ndarray, " n"]]:
    """The first of each distinct row, and which of them every row is."""
    seen: dict[bytes, int] = {}
    first: list[int] = []
    inverse: list[int] = []
    for i, row in enumerate(np.ascontiguousarray(rows)):  # faster than np.unique by rows
        number = seen.setdefault(row.tobytes(), len(seen))
        if number == len(first):
            first.append(i)
        inverse.append(number)
    return np.array(first), np.array(inverse)
