"""What a run of several circuits has to compute: whatever two circuits compute alike, once.

What a component writes in a circuit follows from which of its in-edges are kept and from what the
writers behind them write there. Circuits that agree in both share the value, so circuits that grow
out of each other, or differ in one edge, cost little more than one. Here are numbers only: which
values there are (``slots``), and which of them each reader reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from circuitkit.graph.wiring import Wiring

__all__ = ["Layer", "Plan", "Reading", "plan"]


@dataclass(frozen=True)
class Reading:
    """What one reader reads: the carried residual, and the values in these slots, written by these
    writers; the mask of ``circuit`` holds their weights."""

    column: int
    circuit: int
    rows: Int[np.ndarray, " edges"]
    slots: Int[np.ndarray, " edges"]


@dataclass(frozen=True)
class Layer:
    """A layer's attention: so many ``lanes`` run as further examples of one batch.

    ``ports`` say which lanes of a port take which of its readings; ``heads`` are (head, lane) of
    every value to write, in the order of their slots, of which ``first`` is the first.
    """

    lanes: int
    ports: dict[int, tuple[list[int], list[int]]]
    heads: list[tuple[int, int]]
    first: int


@dataclass
class Plan:
    """The values of a stack of circuits: ``slots`` in all, numbered in the order of writing.

    ``readings`` are the distinct readings of each column; ``reads`` and ``slot`` say which reading
    and which value is each circuit's (-1: none, it is as in the carried run); ``mlps`` is the first
    slot of each layer's MLP, which writes one value per reading; ``told`` the slots of the writers
    whose values are given.
    """

    wiring: Wiring
    reads: Int[np.ndarray, "circuits readers"]
    slot: Int[np.ndarray, "circuits writers"]
    readings: dict[int, list[Reading]] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    mlps: list[int] = field(default_factory=list)
    told: dict[int, int] = field(default_factory=dict)
    slots: int = 0


def plan(
    wiring: Wiring,
    keep: Float[np.ndarray, "circuits writers readers"],
    given: Collection[int],
    joint: bool,
) -> Plan:
    """The plan of these circuits, whose dead ends are dropped already.

    A writer in ``given`` is told where a circuit keeps none of its in-edges. ``joint``: what a head
    writes depends on all heads of its layer.
    """
    circuits = len(keep)
    writers, readers = wiring.shape
    made = Plan(wiring, np.full((circuits, readers), -1), np.full((circuits, writers), -1))
    return _Planner(made, keep, given, joint).filled()


class _Planner:
    def __init__(
        self,
        made: Plan,
        keep: Float[np.ndarray, "circuits writers readers"],
        given: Collection[int],
        joint: bool,
    ) -> None:
        self.plan, self.keep, self.given, self.joint = made, keep, given, joint
        self.wiring = made.wiring
        self.whole = bool(np.isin(keep, (0, 1)).all())
        self.writes: Bool[np.ndarray, "circuits writers"] = np.asarray(keep.any(2))
        heard: Bool[np.ndarray, "circuits readers"] = np.asarray(keep.any(1))
        self.computed = np.zeros_like(self.writes)
        for row in range(1, len(self.wiring.writers)):
            self.computed[:, row] = self.writes[:, row] & heard[:, self.wiring.feeds(row)].any(1)

    def filled(self) -> Plan:
        """The plan, layer by layer."""
        wiring, made = self.wiring, self.plan
        self._tell(0, 1)
        for layer in range(wiring.layers):
            first = wiring.first_head(layer)
            rows = range(first, first + wiring.heads)
            made.layers.append(self._jointly(layer) if self.joint else self._apart(layer))
            self._tell(rows.start, rows.stop)
            if wiring.mlp:
                self._mlp(layer)
                self._tell(rows.stop, rows.stop + 1)
        self._read(wiring.shape[1] - 1, np.ones(len(self.keep), dtype=bool))
        return made

    def _slots(self, n: int) -> range:
        """So many new slots."""
        start = self.plan.slots
        self.plan.slots += n
        return range(start, start + n)

    def _tell(self, first: int, stop: int) -> None:
        for row in range(first, stop):
            hear = self.writes[:, row] & ~self.computed[:, row]
            if row in self.given and hear.any():
                (slot,) = self._slots(1)
                self.plan.told[row] = slot
                self.plan.slot[hear, row] = slot

    def _read(self, column: int, need: Bool[np.ndarray, " circuits"]) -> None:
        """The distinct readings of a column, among the circuits that need it."""
        which = np.flatnonzero(need)
        if not len(which):
            return
        upstream = int(self.wiring.upstream[column])
        kept = self.keep[which, :upstream, column]
        key = np.where(kept != 0, self.plan.slot[which, :upstream] + 1, 0)
        full = key if self.whole else np.concatenate([key, kept.view(np.int64)], axis=1)
        first, inverse = _distinct(full)
        self.plan.reads[which, column] = inverse
        self.plan.readings[column] = [
            Reading(column, int(which[i]), rows, key[i, rows] - 1)
            for i, rows in ((i, np.flatnonzero(key[i])) for i in first)
        ]

    def _heads(self, layer: int) -> Iterator[tuple[int, list[int], Bool[np.ndarray, " circuits"]]]:
        """The layer's heads that a circuit computes: their number, their columns, and where."""
        first = self.wiring.first_head(layer)
        for head in range(self.wiring.heads):
            if self.computed[:, first + head].any():
                yield head, self.wiring.feeds(first + head), self.computed[:, first + head]

    def _ports(self, layer: int) -> None:
        """The readings of a layer's ports."""
        need: dict[int, Bool[np.ndarray, " circuits"]] = {}
        for _, columns, where in self._heads(layer):
            for column in columns:
                need[column] = need.get(column, False) | where
        for column, where in need.items():
            self._read(column, where)

    def _apart(self, layer: int) -> Layer:
        """Every head by itself; the heads of a group share the lanes of their keys and values."""
        self._ports(layer)
        lanes: dict[int, dict[tuple[int, ...], int]] = {}
        ports: dict[int, dict[int, int]] = {}
        heads: list[tuple[int, int]] = []
        start = self.plan.slots
        for head, columns, where in self._heads(layer):
            which = np.flatnonzero(where)
            triples = self.plan.reads[which][:, columns]
            first, inverse = _distinct(triples)
            self.plan.slot[which, self.wiring.first_head(layer) + head] = np.array(
                self._slots(len(first))
            )[inverse]
            own = lanes.setdefault(self.wiring.group(head), {})
            seen: dict[tuple[int, int], int] = {}
            for q, k, v in triples[first].tolist():
                seen[k, v] = seen.get((k, v), -1) + 1
                lane = own.setdefault((k, v, seen[k, v]), len(own))
                heads.append((head, lane))
                for column, reading in zip(columns, (q, k, v), strict=True):
                    ports.setdefault(column, {})[lane] = reading
        return _layer(max(map(len, lanes.values()), default=0), ports, heads, start)

    def _jointly(self, layer: int) -> Layer:
        """All heads of a layer together, in one lane for each state of the layer."""
        self._ports(layer)
        found = list(self._heads(layer))
        start = self.plan.slots
        ports: dict[int, dict[int, int]] = {}
        heads: list[tuple[int, int]] = []
        lanes = 0
        if found:
            which = np.flatnonzero(np.any([where for *_, where in found], axis=0))
            state = [
                np.where(where[which, None], self.plan.reads[which][:, columns], -1)
                for _, columns, where in found
            ]
            first, inverse = _distinct(np.concatenate(state, axis=1))
            lanes = len(first)
            for (head, columns, _), own in zip(found, state, strict=True):
                row = self.wiring.first_head(layer) + head
                for lane, i in enumerate(first):
                    if own[i, 0] < 0:
                        continue
                    (slot,) = self._slots(1)
                    self.plan.slot[which[inverse == lane], row] = slot
                    heads.append((head, lane))
                    for column, reading in zip(columns, own[i].tolist(), strict=True):
                        ports.setdefault(column, {})[lane] = reading
        return _layer(lanes, ports, heads, start)

    def _mlp(self, layer: int) -> None:
        row, column = self.wiring.mlp_row(layer), self.wiring.mlp_column(layer)
        where = self.computed[:, row]
        self._read(column, where)
        slots = self._slots(len(self.plan.readings.get(column, ())))
        self.plan.mlps.append(slots.start)
        self.plan.slot[where, row] = slots.start + self.plan.reads[where, column]


def _layer(
    lanes: int, ports: dict[int, dict[int, int]], heads: list[tuple[int, int]], first: int
) -> Layer:
    listed = {column: (list(own), list(own.values())) for column, own in sorted(ports.items())}
    return Layer(lanes, listed, heads, first)


def _distinct(
    rows: Int[np.ndarray, "n width"],
) -> tuple[Int[np.ndarray, " distinct"], Int[np.ndarray, " n"]]:
    """The first of each distinct row, and which of them every row is."""
    if len(rows) == 1:
        return np.zeros(1, dtype=int), np.zeros(1, dtype=int)
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first, inverse.reshape(-1)
