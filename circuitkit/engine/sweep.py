"""Many runs that each differ from one base run at some place, and so the exact effect of edges.

A run that differs from a base run in one place begins there, at the first position that differs,
from the base's residual. Many run at once, as further examples of one batch, and those that begin
later join on the way. Edges sit on that: the norm and the projections of a writer's change serve
all ports of a layer, and as a port moves its own heads alone, one attention serves every head; an
edge into the logits needs no run at all. The slow twin, one masked run per edge, is
``circuitkit.engine.run``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.devices import device_of, moved
from circuitkit.engine.model import Activations, Context, Model, Ports
from circuitkit.engine.record import beginning, difference
from circuitkit.graph.stages import Stage
from circuitkit.graph.types import Mask

__all__ = [
    "Place",
    "Rest",
    "Value",
    "Values",
    "edge_blocks",
    "measure",
    "residual",
    "sweep",
    "tokens_of",
    "untouched",
]

TOKENS = 1536  # that run at once: what an MLP computes then stays in the processor's cache
VALUES = 2**20  # of the residual stream that run at once: wide models run fewer tokens
LOGITS = 2**24  # that exist at once
Value: TypeAlias = Callable[[Float[Tensor, "b vocab"]], Float[Tensor, "*metrics examples"]]
Values: TypeAlias = Callable[[Float[Tensor, "m vocab"]], Float[Tensor, "runs *metrics examples"]]
Edge: TypeAlias = tuple[int, int]
Key: TypeAlias = tuple[int, int, int | None]
Computed: TypeAlias = tuple[dict[Key, int], Float[Tensor, "keys b s n e"]]  # by its number
T = TypeVar("T")
Part: TypeAlias = Callable[[int, Tensor], Tensor]
# Where a change enters the residual stream: after how many writers. See ``Wiring.places``.
Place: TypeAlias = int
# At each place, the changes with which so many runs begin there, at the tokens that ``late`` gives.
Changes: TypeAlias = Mapping[Place, Float[Tensor, "_ b _ d"]]
# What a stage writes in the runs that have begun, by the stage's number; may replace it.
Tap: TypeAlias = Callable[[int, Tensor], Tensor]


@torch.no_grad()
def sweep(
    model: Model,
    batch: Batch,
    context: Context,
    base: Activations,
    other: Activations,
    metric: Value,
    wanted: Mask,
    of_runs: Values | None = None,
) -> Iterator[tuple[list[Edge], Float[Tensor, "edges examples"]]]:
    """Blocks of edges (row, column), each with the metric of every example in the base run when
    that edge alone carries what its writer writes in the other run; ``of_runs`` as ``measure``."""
    rest = Rest.of(model, batch, context, base, other)
    for block, ends in edge_blocks(rest, other, wanted & model.wiring.legal):
        yield block, measure(model, ends, metric, of_runs)


def measure(
    model: Model, ends: Float[Tensor, "n b d"], metric: Value, of_runs: Values | None = None
) -> Float[Tensor, "n *metrics examples"]:
    """The metric (or several) of every example in each run, from what the logits read at the
    answers; where they are not on a processor, by what gives it ``of_runs`` one after the other, if
    there is that."""
    size = max(1, LOGITS // (ends.shape[1] * model.d_vocab))
    values = []
    for i in range(0, len(ends), size):
        some = ends[i : i + size]
        logits = model.unembed(some.flatten(0, 1))
        if of_runs is not None and logits.device.type != "cpu":
            values += [*of_runs(logits)]
        else:
            values += [metric(one) for one in _split(logits, len(some))]
    return torch.stack(values)


def residual(model: Model, run: Activations, place: Place) -> Float[Tensor, "b p d"]:
    """The residual stream of a run at a place."""
    stages = model.wiring.stages
    return next((run.reads[s.index] for s in stages if s.upstream == place), run.final)


def tokens_of(model: Model) -> int:
    """How many tokens run at once."""
    return min(TOKENS, VALUES // model.d_model)


def untouched(base: Activations, other: Activations) -> Bool[Tensor, "b p"]:
    """Where a run that leaves one real run for another cannot have changed: before the first token
    at which they differ; nowhere if one of them is not a real run."""
    same = base.untouched([other.embed - base.embed])
    return same if other.consistent else torch.zeros_like(same)


# -- the rest of a run -----------------------------------------------------------------------------
class Rest:
    """The rest of runs that leave a base run at the position ``start`` or after.

    The positions before are what they are in the base run, so their keys and values are taken from
    there. After the last attention only the answer positions are run, because only they are read.
    """

    def __init__(
        self, model: Model, batch: Batch, context: Context, base: Activations, start: int = 0
    ) -> None:
        self.model, self.batch, self.base, self.start = model, batch, base, start
        self.context = context.holding(base)
        self.tiled = {1: self.context}
        mixing = [s for s in model.wiring.stages if model.kinds[s.kind].mixes]
        self.last_mixing = mixing[-1]
        self.known: dict[int, Ports] = {}

    @classmethod
    def of(
        cls, model: Model, batch: Batch, context: Context, base: Activations, other: Activations
    ) -> Rest:
        """The rest of runs that take something from another run: up to the first position at which
        the two differ in any example, and up to the first answer, nothing changes."""
        return cls(model, batch, context, base, beginning(batch, untouched(base, other)))

    def since(self, start: int) -> Rest:
        """The same from another position on; what is known of the base run is shared."""
        twin = copy.copy(self)
        twin.start = start
        return twin

    # -- which positions are run -------------------------------------------------------------------
    def size(self, place: Place) -> int:
        """How many runs from this place on to make at once."""
        return self._size(self._ended(place))

    def _size(self, ended: bool) -> int:
        width = 1 if ended else self.batch.clean.shape[1] - self.start
        return max(1, tokens_of(self.model) // (len(self.batch) * width))

    def _ended(self, place: Place) -> bool:
        return place > self.last_mixing.upstream

    def late(self, place: Place, x: Shaped[Tensor, "m p *rest"]) -> Shaped[Tensor, "m s *rest"]:
        """The positions that are run from this place on: those from the start, or the answers."""
        return self._cut(self._ended(place), x)

    def read_late(
        self, stage: Stage, x: Shaped[Tensor, "m p *rest"]
    ) -> Shaped[Tensor, "m s *rest"]:
        """The positions at which a stage is run."""
        return self._cut(stage.index > self.last_mixing.index, x)

    def wrote_late(
        self, stage: Stage, x: Shaped[Tensor, "m p *rest"]
    ) -> Shaped[Tensor, "m s *rest"]:
        """The positions at which what a stage writes is run on."""
        return self._cut(stage.index >= self.last_mixing.index, x)

    def _cut(self, ended: bool, x: Shaped[Tensor, "m p *rest"]) -> Shaped[Tensor, "m s *rest"]:
        late = x[:, self.start :]
        return self._ends(late) if ended else late.contiguous()

    def _ends(self, late: Shaped[Tensor, "m s *rest"]) -> Shaped[Tensor, "m 1 *rest"]:
        last = moved(self.batch.last, late.device)
        at = (last - self.start).clamp(min=0).repeat(len(late) // len(self.batch))
        return late[torch.arange(len(late), device=late.device), at][:, None]

    # -- the runs ----------------------------------------------------------------------------------
    def finals(self, changes: Changes, tap: Tap | None = None) -> Float[Tensor, "m b d"]:
        """The final residual at the answers of runs that each add one change to the base run, in
        the order of their places; a change holds the positions that ``late`` gives there.

        ``tap(stage, x)`` sees what a stage writes in the runs that have begun, and may replace it;
        it holds the positions that ``wrote_late`` gives.
        """
        x = self.base.embed.new_empty(0, 1, self.model.d_model)
        for place, stages in groupby(self.model.wiring.stages, key=lambda stage: stage.upstream):
            if place >= min(changes):
                x = self._through(stages, self._join(x, place, changes), tap)
        x = self._join(x, self.model.wiring.shape[0], changes)
        x = moved(x, self.base.final.device)
        return _split(x[:, 0], len(x) // len(self.batch))

    def _join(
        self,
        x: Float[Tensor, "m s d"],
        place: Place,
        changes: Changes,
    ) -> Float[Tensor, "k _ d"]:
        """The runs so far, and those that begin at this place."""
        if place not in changes:
            return x
        base = self.late(place, residual(self.model, self.base, place))
        new = (base + moved(changes[place], base.device)).flatten(0, 1)
        return torch.cat([moved(x, base.device), new]) if len(x) else new

    def _through(
        self, stages: Iterator[Stage], x: Float[Tensor, "m s d"], tap: Tap | None
    ) -> Float[Tensor, "m _ d"]:
        """The runs behind the stages that read at one place."""
        after = x
        for stage in stages:
            here = device_of(self.model, stage)
            x, after = moved(x, here), moved(after, here)
            wrote = self._written(stage, x)
            if stage.index == self.last_mixing.index:
                x, after = self._ends(x), self._ends(after)
            wrote = wrote if tap is None else tap(stage.index, wrote)
            after = wrote if stage.renews else after + wrote
        return after

    def _written(self, stage: Stage, x: Float[Tensor, "m s d"]) -> Float[Tensor, "m _ d"]:
        """What a stage writes in runs that read this."""
        kind = self.model.kinds[stage.kind]
        ports = kind.project(self.model, stage, x)
        if kind.mixes:
            ports = self._whole(stage, ports)
        computed = self.compute(stage, ports)
        if kind.mixes:
            computed = self.wrote_late(stage, computed)
        return kind.out(self.model, stage, computed)[0]

    def _whole(self, stage: Stage, late: Ports) -> Ports:
        """What the ports give at all positions: at the early ones as in the base run."""
        if not self.start:
            return late
        first, *others = late  # the first is looked at by its own position alone: zeros do
        padded = torch.nn.functional.pad(first, (0, 0, 0, 0, self.start, 0))
        early = self.ports(stage)[1:]
        return [padded, *(self._after(*both) for both in zip(early, others, strict=True))]

    def _after(
        self, early: Float[Tensor, "b p g e"], late: Float[Tensor, "m s g e"]
    ) -> Float[Tensor, "m p g e"]:
        """What a port gave early in the base run, and after it in each run."""
        own = _split(late, len(late) // len(early))
        early = early[:, : self.start].expand(len(own), -1, -1, -1, -1)
        return torch.cat([early, own], dim=2).flatten(0, 1)

    def ports(self, stage: Stage) -> Ports:
        """What a stage's ports give in the base run: at all positions, found once, if the stage
        mixes them; else where it is run."""
        kind, read = self.model.kinds[stage.kind], self.base.reads[stage.index]
        if not kind.mixes:
            return kind.project(self.model, stage, self.read_late(stage, read))
        if stage.index not in self.known:
            self.known[stage.index] = kind.project(self.model, stage, read)
        return self.known[stage.index]

    def compute(self, stage: Stage, ports: Ports) -> Float[Tensor, "m p n e"]:
        """What a stage's components compute in many runs at once."""
        kind, times = self.model.kinds[stage.kind], len(ports[0]) // len(self.batch)
        if not kind.mixes:
            context = self.context.at(lambda x: self.read_late(stage, x), times)
            return kind.compute(self.model, stage, context, ports)
        if times not in self.tiled:
            self.tiled.clear()
            self.tiled[times] = self.context.tile(times)
        return kind.compute(self.model, stage, self.tiled[times], ports)


# -- single edges ----------------------------------------------------------------------------------
def edge_blocks(
    rest: Rest, other: Activations, wanted: Mask, parts: int = 1, part: Part | None = None
) -> Iterator[tuple[list[Edge], Float[Tensor, "edges b d"]]]:
    """Blocks of edges (row, column), each with its runs' final residuals. Where writers have
    several ``parts``, each of them is a row, and ``part(row, change)`` what it changes."""
    for block, ends in _Edges(rest, other, parts, part).blocks(wanted):
        yield list(block), ends


class _Edges:
    """What each edge changes of a base run when it carries what is written in another one."""

    def __init__(
        self, rest: Rest, other: Activations, parts: int = 1, part: Part | None = None
    ) -> None:
        self.rest, self.model, self.base, self.other = rest, rest.model, rest.base, other
        self.parts, self.part = parts, part
        self.known: tuple[int, Tensor] | None = None  # the last writer, and what it changes

    def blocks(self, wanted: Mask) -> Iterator[tuple[Sequence[Edge], Float[Tensor, "edges b d"]]]:
        """Blocks of edges, stage by stage, each with its runs' final residuals."""
        wiring, rest = self.model.wiring, self.rest
        for stage in wiring.stages:
            place = wiring.entry(stage.rows.start)
            for edges, changes in self._into(stage, _listed(wanted, stage.columns)):
                yield edges, rest.finals({place: changes})
        end, last = wiring.shape
        for edges in _parts(_listed(wanted, slice(last - 1, last)), rest.size(end)):
            home = self.base.final.device
            deltas = [moved(rest.late(end, self._delta(row)), home) for row, _ in edges]
            yield edges, rest.finals({end: torch.stack(deltas)})

    def _delta(self, row: int) -> Float[Tensor, "b p d"]:
        """What a writer, or a part of it, writes in the other run, less what it writes in the base
        run."""
        if self.part is None:
            return difference(self.model, self.other, self.base, row)
        writer = row // self.parts
        if self.known is None or self.known[0] != writer:
            self.known = writer, difference(self.model, self.other, self.base, writer)
        return self.part(row, self.known[1])

    def _into(
        self, stage: Stage, edges: Sequence[Edge]
    ) -> Iterator[tuple[Sequence[Edge], Float[Tensor, "edges b s d"]]]:
        """What a stage writes beyond what it wrote in the base run, for blocks of edges into it."""
        rest, rows = self.rest, sorted({row for row, _ in edges})
        size = rest.size(self.model.wiring.entry(stage.rows.start))
        every = tokens_of(self.model) // (len(stage.part.ports) * rest.batch.clean.numel())
        most = max(1, every) if self.model.kinds[stage.kind].mixes else size
        for some in _parts(rows, most):
            own = [edge for edge in edges if some[0] <= edge[0] <= some[-1]]
            computed = self._computed(stage, some, own)
            for block in _parts(own, size):
                yield block, self._written(stage, block, computed)

    def _computed(self, stage: Stage, rows: Sequence[int], edges: Sequence[Edge]) -> Computed:
        """What the components compute when ports read what these writers change."""
        rest, kind = self.rest, self.model.kinds[stage.kind]
        here = device_of(self.model, stage)
        late = (rest.read_late(stage, self._delta(row)) for row in rows)
        deltas = torch.stack([moved(delta, here) for delta in late])
        reads = (rest.read_late(stage, self.base.reads[stage.index]) + deltas).flatten(0, 1)
        ports = kind.project(self.model, stage, reads)
        if self._is_plain(stage):
            computed = _split(rest.compute(stage, ports), len(rows))
            return {(row, 0, None): number for number, row in enumerate(rows)}, computed
        changed = [_split(x, len(rows)) for x in ports]
        keys = list(dict.fromkeys(self._key(stage, edge) for edge in edges))
        ports = [x.expand(len(keys), *x.shape).clone() for x in rest.ports(stage)]
        start = rest.start if kind.mixes else 0
        for port, into in enumerate(ports):
            own = [(i, rows.index(row), n) for i, (row, p, n) in enumerate(keys) if p == port]
            _put(into[:, :, start:], own, changed[port])
        computed = rest.compute(stage, [x.flatten(0, 1) for x in ports])
        computed = rest.wrote_late(stage, computed) if kind.mixes else computed
        return {key: number for number, key in enumerate(keys)}, _split(computed, len(keys))

    def _key(self, stage: Stage, edge: Edge) -> Key:
        """Edges of one key share what is computed: those of one writer into all readers of a port,
        unless a change of one of these moves the components of the others."""
        port, place = stage.port(edge[1])
        return edge[0], port, place if self.model.kinds[stage.kind].couples(self.model) else None

    def _written(
        self, stage: Stage, edges: Sequence[Edge], computed: Computed
    ) -> Float[Tensor, "k b s d"]:
        """What the stage writes beyond what it wrote in the base run, for each edge."""
        kind = self.model.kinds[stage.kind]
        plain = self.rest.wrote_late(stage, self.base.computed[stage.index])
        if self._is_plain(stage):
            number, found = computed
            mixed = torch.stack([found[number[self._key(stage, edge)]] for edge in edges])
        else:
            mixed = self._mixed(stage, plain, edges, computed)
        out, _ = kind.out(self.model, stage, mixed.flatten(0, 1))
        return _split(out, len(edges)) - kind.out(self.model, stage, plain)[0]

    def _mixed(
        self,
        stage: Stage,
        plain: Float[Tensor, "b s n e"],
        edges: Sequence[Edge],
        computed: Computed,
    ) -> Float[Tensor, "k b s n e"]:
        """What the components compute with each edge changed: those that it feeds anew."""
        coupled = self.model.kinds[stage.kind].couples(self.model)
        mixed, (number, found) = plain.expand(len(edges), *plain.shape).clone(), computed
        fed = {
            column: [None] if coupled else [n for n, own in enumerate(stage.feeds) if column in own]
            for column in {column for _, column in edges}
        }
        keys = [number[self._key(stage, edge)] for edge in edges]
        _put(mixed, [(i, keys[i], n) for i, (_, c) in enumerate(edges) for n in fed[c]], found)
        return mixed

    def _is_plain(self, stage: Stage) -> bool:
        """Whether one reader feeds all components, each position by itself: then nothing of the
        base run is left in what they compute."""
        return stage.reads == 1 and not self.model.kinds[stage.kind].mixes


def _put(
    into: Float[Tensor, "i b s n e"],
    which: Sequence[tuple[int, int, int | None]],
    values: Float[Tensor, "j b s n e"],
) -> None:
    """Write values[j] into into[i], for all of (i, j, n); where there is an n, of that component
    alone. On a processor one after the other, without a copy; else all at once."""
    if into.device.type == "cpu":
        for i, j, n in which:
            own = slice(None) if n is None else slice(n, n + 1)
            into[i, :, :, own] = values[j, :, :, own]
        return
    for alone in {n is not None for *_, n in which}:
        numbers = [(i, j, n or 0) for i, j, n in which if (n is not None) == alone]
        to, whence, at = moved(torch.tensor(numbers).T, into.device)
        if alone:
            into[to, :, :, at] = values[whence, :, :, at]
        else:
            into[to] = values[whence]


def _listed(wanted: Mask, columns: slice) -> list[Edge]:
    """The wanted edges into these columns, writer by writer."""
    return [(int(row), columns.start + int(c)) for row, c in np.argwhere(wanted[:, columns])]


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _split(x: Float[Tensor, " m *rest"], n: int) -> Float[Tensor, "n b *rest"]:
    return x.view(n, -1, *x.shape[1:])
