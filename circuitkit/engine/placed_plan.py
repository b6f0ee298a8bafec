"""What a run of several circuits of edges between places computes, each value once.

A value is what a writer writes at the tokens of one span. Circuits that agree in what a component
reads share it, so that circuits which differ in one edge cost little more than one up to there.
Here are numbers only; a value is known by its place among those of its span. What attention
computes goes into lanes, which run as further examples of one batch: heads that share a key, and
destinations, run in one lane where no source that they see is mixed in two ways.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from circuitkit.graph.places import PlacedMask, Places
from circuitkit.graph.stages import Stage

__all__ = ["Circuit", "PlacedPlan", "Reading", "StagePlan", "members_of", "placed_plan"]

UNSEEN = -2  # a source that no destination of a lane sees
Live: TypeAlias = Bool[np.ndarray, "writers spans"]


class Circuit(NamedTuple):
    """A mask without dead ends, and where each writer is computed."""

    mask: PlacedMask
    live: Live


@dataclass(frozen=True)
class Reading:
    """What a reader reads at a span: the carried residual, and some values with their weights."""

    column: int
    span: int
    values: Int[np.ndarray, " edges"]
    weights: Float[np.ndarray, " edges"]


@dataclass
class StagePlan:
    """How a stage is computed; readings are known by their numbers, -1 for the carried one.

    ``units`` are (span, reading of each reader, what is live), each computed by itself. Of
    attention, ``queries`` are (lane, head, span, reading), ``sources`` (lane, port, group, span,
    reading, weight), ``found`` (lane, head, span) of all that is computed, and ``units`` (span,
    number of what each head computes). ``written`` are (span, unit, writer) of every value, in
    their order within a span.
    """

    readings: list[Reading] = field(default_factory=list)
    units: list[tuple[int, tuple[int, ...], tuple[bool, ...]]] = field(default_factory=list)
    lanes: int = 0
    queries: list[tuple[int, int, int, int]] = field(default_factory=list)
    sources: list[tuple[int, int, int, int, int, float]] = field(default_factory=list)
    found: list[tuple[int, int, int]] = field(default_factory=list)
    written: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass
class PlacedPlan:
    """The values of a stack of circuits: how many each span has, how each stage is computed, and
    the readings of the logits by circuit and span."""

    sizes: list[int]
    stages: list[StagePlan] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    ends: list[tuple[int, ...]] = field(default_factory=list)


def members_of(stage: Stage) -> list[int]:
    """The place of each head among those that share its key and value."""
    seen: dict[int, int] = defaultdict(int)
    found = []
    for _, key, _ in stage.feeds:
        found.append(seen[key])
        seen[key] += 1
    return found


def placed_plan(
    places: Places,
    circuits: Sequence[Circuit],
    mixing: Collection[int],
    joint: Collection[int] = (),
    coupled: Collection[int] = (),
) -> PlacedPlan:
    """The plan of these circuits. ``mixing``, ``joint`` and ``coupled`` are the numbers of the
    stages that look at other positions, in which all components are computed before one is
    written, and whose heads' keys move each other."""
    return _Planner(places, circuits, joint, coupled).filled(mixing)


class _Lane:
    """Which reading each head's query has at which span, and how each group's sources are mixed:
    (reading, weight) of the key and the value at each span."""

    def __init__(self) -> None:
        self.queries: dict[tuple[int, int], int] = {}
        self.mixed: dict[int, Shaped[np.ndarray, "spans ports_numbers"]] = {}

    def takes(self, item: _Item) -> bool:
        """Whether the item fits."""
        for head, reading in item.queries.items():
            if self.queries.get((head, item.span), reading) != reading:
                return False
        for group, own in item.mixed.items():
            if group in self.mixed:
                both = (own[:, :1] != UNSEEN) & (self.mixed[group][:, :1] != UNSEEN)
                if ((own != self.mixed[group]) & both).any():
                    return False
        return True

    def add(self, item: _Item) -> None:
        """Compute the item here."""
        self.queries |= {(head, item.span): one for head, one in item.queries.items()}
        for group, own in item.mixed.items():
            before = self.mixed.get(group, own)
            self.mixed[group] = np.where(own[:, :1] == UNSEEN, before, own)


@dataclass(frozen=True)
class _Item:
    """What has to be in one lane for some heads at a destination."""

    span: int
    queries: dict[int, int]
    mixed: dict[int, Shaped[np.ndarray, "spans ports_numbers"]]

    @property
    def key(self) -> Hashable:
        """By which equal items are told."""
        mixed = tuple((group, own.tobytes()) for group, own in self.mixed.items())
        return self.span, tuple(self.queries.items()), mixed


class _Planner:
    def __init__(
        self,
        places: Places,
        circuits: Sequence[Circuit],
        joint: Collection[int],
        coupled: Collection[int],
    ) -> None:
        self.places, self.joint, self.coupled = places, joint, coupled
        self.spans = range(len(places.spans))
        self.live = [circuit.live for circuit in circuits]
        self.attention = [circuit.mask.attention for circuit in circuits]
        self.tables = [
            np.ascontiguousarray(circuit.mask.residual.transpose(1, 2, 0)) for circuit in circuits
        ]  # [readers, spans, writers]
        self.heard = [np.any(table, axis=0).T for table in self.tables]  # [writers, spans]
        self.value = np.full((len(circuits), places.shape[0], len(places.spans)), -1)
        self.value[:, 0] = 0  # the embedding is the first of each span
        self.plan = PlacedPlan([1 for _ in self.spans])

    def filled(self, mixing: Collection[int]) -> PlacedPlan:
        """The plan, stage by stage."""
        rows = {stage.index: own for stage, own in self.places.stages}
        for stage in self.places.wiring.stages:
            own = StagePlan()
            reads = self._read(own.readings, stage.columns, stage.upstream)
            if stage.index in mixing:
                self._attend(stage, own, reads, rows[stage.index])
            else:
                self._apart(stage, own, reads)
            self.plan.stages.append(own)
        last = self.places.shape[1] - 1
        ends = self._read(self.plan.readings, slice(last, last + 1), self.places.shape[0])
        self.plan.ends = [tuple(own[0].tolist()) for own in ends]
        return self.plan

    def _read(
        self, into: list[Reading], columns: slice, upstream: int
    ) -> list[Int[np.ndarray, "readers spans"]]:
        """The number of the reading of each reader at each span, by circuit; -1 where it hears
        nothing."""
        known: dict[Hashable, int] = {}
        found = []
        for table, value in zip(self.tables, self.value, strict=True):
            own = table[columns, :, :upstream]
            numbers = np.full(own.shape[:2], -1)
            for column, span in np.argwhere(own.any(2)):
                weights = own[column, span]
                rows = np.flatnonzero(weights)
                values, weights = value[rows, span], weights[rows]
                key = column, span, values.tobytes(), weights.tobytes(), weights.dtype.char
                number = numbers[column, span] = known.setdefault(key, len(known))
                if number == len(into):
                    where = columns.start + int(column), int(span)
                    into.append(Reading(*where, values, weights.astype(float)))
            found.append(numbers)
        return found

    def _write(
        self, stage: Stage, own: StagePlan, known: dict[Hashable, int], circuit: int, unit: int
    ) -> None:
        """The values that a circuit's unit of a stage writes, where they are heard."""
        span = own.units[unit][0]
        rows = stage.rows.start + np.arange(stage.writes)
        kept = self.live[circuit][rows, span] & self.heard[circuit][rows, span]
        for place in np.flatnonzero(kept).tolist():
            key = self._key(stage, own, unit, place)
            if key not in known:
                known[key] = self.plan.sizes[span]
                self.plan.sizes[span] += 1
                own.written.append((span, unit, place))
            self.value[circuit, stage.rows.start + place, span] = known[key]

    def _key(self, stage: Stage, own: StagePlan, unit: int, place: int) -> Hashable:
        """By which equal values are told: by what the component computes, or all do."""
        span, numbers, _ = own.units[unit]
        if stage.index in self.joint or not own.found:
            return unit, place
        return span, place, numbers[place]

    # -- where each position is by itself ----------------------------------------------------------
    def _apart(self, stage: Stage, own: StagePlan, reads: list[np.ndarray]) -> None:
        """Each state of a stage at a span."""
        known: dict[Hashable, int] = {}
        values: dict[Hashable, int] = {}
        for circuit, numbers in enumerate(reads):
            live = self.live[circuit][stage.rows]
            for span in np.flatnonzero(live.any(0)).tolist():
                alive = tuple(live[:, span].tolist()) if stage.index in self.joint else ()
                state = span, tuple(numbers[:, span].tolist()), alive
                unit = known.setdefault(state, len(known))
                if unit == len(own.units):
                    own.units.append(state)
                self._write(stage, own, values, circuit, unit)

    # -- attention ---------------------------------------------------------------------------------
    def _attend(self, stage: Stage, own: StagePlan, reads: list[np.ndarray], rows: slice) -> None:
        """What each head computes at each destination, in lanes."""
        lanes: dict[int, list[_Lane]] = defaultdict(list)
        found: dict[Hashable, int] = {}
        known: dict[Hashable, int] = {}
        values: dict[Hashable, int] = {}
        for circuit, numbers in enumerate(reads):
            live = self.live[circuit][stage.rows]
            state = np.full((len(self.spans), stage.writes), -1)
            for heads, item in self._items(stage, live, numbers, self.attention[circuit][rows]):
                key = item.key
                if (key, heads[0]) not in found:
                    lane = _placed(lanes[min(item.mixed)], item)
                    for head in heads:
                        found[key, head] = len(own.found)
                        own.found.append((lane, head, item.span))
                for head in heads:
                    state[item.span, head] = found[key, head]
            for span in np.flatnonzero(live.any(0)).tolist():
                whole = span, tuple(state[span].tolist()), ()
                unit = known.setdefault(whole, len(known))
                if unit == len(own.units):
                    own.units.append(whole)
                self._write(stage, own, values, circuit, unit)
        self._lay(own, lanes)

    def _items(
        self,
        stage: Stage,
        live: Bool[np.ndarray, "heads spans"],
        numbers: Int[np.ndarray, "readers spans"],
        attention: Shaped[np.ndarray, "heads 2 s e"],
    ) -> Iterator[tuple[list[int], _Item]]:
        """What a circuit computes, with the heads that are taken from it."""
        mixed = self._mixed(stage, numbers, attention)
        groups = [feed[1] - stage.part.ports[0] for feed in stage.part.feeds]
        if stage.index not in self.coupled:
            for head, span in np.argwhere(live).tolist():
                own = {groups[head]: mixed[head, span]}
                yield [head], _Item(span, {head: int(numbers[head, span])}, own)
            return
        place = np.array(members_of(stage))
        for span in np.flatnonzero(live.any(0)).tolist():
            queries = {
                head: int(numbers[head, span]) if live[head, span] else -1
                for head in range(stage.writes)
            }
            for member in np.unique(place[live[:, span]]):
                same = np.flatnonzero(place == member).tolist()
                heads = [head for head in same if live[head, span]]
                all_of = {groups[head]: mixed[head, span] for head in same}
                yield heads, _Item(span, queries, all_of)

    def _mixed(
        self,
        stage: Stage,
        numbers: Int[np.ndarray, "readers spans"],
        attention: Shaped[np.ndarray, "heads 2 s e"],
    ) -> Shaped[np.ndarray, "heads destination source ports_numbers"]:
        """For each head and destination, the reading of the key at each source and its weight, and
        those of the value; -1 and 0 where it is carried."""
        feeds = np.array([feed[1:] for feed in stage.part.feeds])
        readings = np.broadcast_to(numbers[feeds][..., None], attention.shape)
        weights = np.where(readings >= 0, attention, 0).astype(float)
        table = np.stack([np.where(weights != 0, readings, -1), weights], -1)
        table = np.where(self.places.sees[..., None], table, UNSEEN)
        flat = table.transpose(0, 3, 2, 1, 4).reshape(stage.writes, *attention.shape[2:][::-1], 4)
        return np.ascontiguousarray(flat)

    def _lay(self, own: StagePlan, lanes: dict[int, list[_Lane]]) -> None:
        """The lanes of all groups beside each other."""
        own.lanes = max(map(len, lanes.values()), default=0)
        for group_lanes in lanes.values():
            for number, lane in enumerate(group_lanes):
                for (head, span), reading in lane.queries.items():
                    if reading >= 0:
                        own.queries.append((number, head, span, reading))
                for group, table in lane.mixed.items():
                    for span, (key, k, value, v) in enumerate(table.tolist()):
                        for port, reading, weight in ((1, key, k), (2, value, v)):
                            if reading >= 0:
                                whole = number, port, group, span, int(reading), weight
                                own.sources.append(whole)


def _placed(lanes: list[_Lane], item: _Item) -> int:
    """The first lane that takes the item, or a new one."""
    for number, lane in enumerate(lanes):
        if lane.takes(item):
            lane.add(item)
            return number
    lanes.append(_Lane())
    lanes[-1].add(item)
    return len(lanes) - 1
