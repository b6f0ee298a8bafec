"""The model under a mask over its edges.

For a reader r, with w running over the writers upstream of it,

    input[r] = Σ_w  keep[w, r] · live[w]  +  (1 − keep[w, r]) · carried[w]

``live`` is what a writer writes in this run, ``carried`` what a cut edge carries. A component
without a kept in-edge writes what it wrote in the carried run and is not computed, so the cost
follows the circuit. Keeping everything is the clean run, keeping nothing the carried run. A mask
that carries a gradient, or is another one for each example, is run by ``circuitkit.engine.dense``,
one over the edges between places by ``circuitkit.engine.placed``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.dense import final_residual
from circuitkit.engine.devices import device_of, moved
from circuitkit.engine.model import Activations, Context, Kind, Model
from circuitkit.engine.placed import placed_runs
from circuitkit.engine.plan import Lanes, Plan, Reading, plan
from circuitkit.engine.record import at_answers, beginning
from circuitkit.graph.places import PlacedMask
from circuitkit.graph.stages import Stage
from circuitkit.graph.types import Mask

__all__ = ["POOL_BYTES", "Keep", "run", "runs"]

Keep: TypeAlias = (  # a mask, or fractions; for all examples, or as a tensor for each
    Mask
    | Float[np.ndarray, "writers readers"]
    | Shaped[Tensor, "*examples writers readers"]
    | PlacedMask  # over the edges between places
)
Stack: TypeAlias = (  # of several circuits
    Bool[np.ndarray, "circuits writers readers"] | Float[np.ndarray, "circuits writers readers"]
)
TOGETHER = 8  # readings that one matrix product mixes on a processor, in its cache
TOGETHER_BYTES = 2**28  # the same elsewhere, where each product takes a copy of its weights there
FEW = 8  # edges per reading up to which adding them one by one is faster on a processor
STACK = 32  # circuits that are run together: more do not help
WRITTEN = 32  # heads that write at once
POOL_BYTES = 512 * 2**20  # that a stack of circuits takes


def run(
    model: Model,
    batch: Batch,
    context: Context,
    carried: Activations,
    keep: Keep,
    precomputed: Mapping[int, Float[Tensor, "b p d"]] | None = None,
) -> Float[Tensor, "b vocab"]:
    """The logits at the answer positions, under a mask.

    ``keep`` may hold fractions; a tensor may require a gradient, and be [examples, writers,
    readers]. Edges that do not exist are ignored. A PlacedMask is over the edges between places, of
    the spans of this batch. ``context`` is of the clean tokens. ``precomputed`` maps writers to a
    live − carried that is known beforehand (the sender of a path): it is used where none of the
    writer's in-edges are kept, and not by masks that are dense or placed. Without it, the embedding
    is that of the context.
    """
    return next(runs(model, batch, context, carried, [keep], precomputed))


def runs(
    model: Model,
    batch: Batch,
    context: Context,
    carried: Activations,
    keeps: Sequence[Keep],
    precomputed: Mapping[int, Float[Tensor, "b p d"]] | None = None,
    *,
    pool_bytes: int = POOL_BYTES,
) -> Iterator[Float[Tensor, "b vocab"]]:
    """The logits under each of many masks, in their order; see ``run``. As many run at once as
    fit in ``pool_bytes``."""
    known = {0: context.embed - carried.embed} if precomputed is None else precomputed
    shared: _Shared | None = None  # what is asked for it, a gradient in a mask need not wait for
    flows = model.trainable and torch.is_grad_enabled()
    for kind, group in groupby(keeps, key=_kind):
        if kind is PlacedMask:
            placed = (keep for keep in group if isinstance(keep, PlacedMask))
            yield from placed_runs(model, batch, context, carried, placed, pool_bytes)
            continue
        some = (keep for keep in group if not isinstance(keep, PlacedMask))
        if flows or kind is Tensor:
            for keep in map(torch.as_tensor, some):
                yield model.unembed(final_residual(model, batch, context, carried, keep))
            continue
        shared = shared or _Shared(model, batch, context, carried, known)
        while stack := [_alive(model, keep, known) for keep in islice(some, STACK)]:
            for part, planned in shared.fitting(np.stack(stack), pool_bytes):
                yield from _logits(model, _Run(shared, part, planned).finals())


def _kind(keep: Keep) -> type:
    """By what a mask is run: ``PlacedMask`` over the edges between places, ``Tensor`` where it
    carries a gradient or is another one for each example, and ``ndarray`` any other."""
    if isinstance(keep, PlacedMask):
        return PlacedMask
    dense = isinstance(keep, Tensor) and (keep.ndim == 3 or keep.requires_grad)
    return Tensor if dense else np.ndarray


def _logits(
    model: Model, finals: Iterator[Float[Tensor, "b d"]]
) -> Iterator[Float[Tensor, "b vocab"]]:
    """The logits of final residuals, as they come; the same residual is looked up once."""
    for same, group in groupby(finals, key=id):
        del same
        residuals = list(group)
        logits = model.unembed(residuals[0])
        yield from [logits] * len(residuals)


def _alive(
    model: Model, keep: np.ndarray | Tensor, known: Mapping[int, Tensor]
) -> Mask | Float[np.ndarray, "writers readers"]:
    """A mask, or weights, without dead ends."""
    if isinstance(keep, Tensor):
        keep = keep.detach().cpu()
        keep = (keep if keep.dtype in (torch.bool, torch.float64) else keep.float()).numpy()
    return np.where(model.wiring.alive(keep != 0, known), keep, keep.dtype.type(0))


class _Shared:
    """What all circuits of a batch share: the carried run, and where theirs begin to differ.

    Positions before the first token at which the precomputed values touch the carried run are what
    they are there; the masked runs begin after.
    """

    def __init__(
        self,
        model: Model,
        batch: Batch,
        context: Context,
        carried: Activations,
        precomputed: Mapping[int, Float[Tensor, "b p d"]],
    ) -> None:
        self.model, self.batch, self.context = model, batch, context
        self.carried, self.precomputed = carried, precomputed
        same = carried.untouched(precomputed.values())
        self.alike = bool(same.all())  # the two runs are one
        self.start = beginning(batch, same)
        stages = [(stage, model.kinds[stage.kind]) for stage in model.wiring.stages]
        self.joint = {stage.index for stage, kind in stages if kind.joint(model)}
        self.last_mixing = max(stage.index for stage, kind in stages if kind.mixes)
        self.known: dict[int, Tensor] = {}

    def early(self, stage: Stage, columns: Iterable[int]) -> Mapping[int, Float[Tensor, "b f e"]]:
        """What ports give at the positions that are not run, as in the carried run."""
        new = [column for column in columns if column not in self.known]
        if new:
            kind, base = self.model.kinds[stage.kind], self.carried.reads[stage.index]
            readers = [column - stage.columns.start for column in new]
            given = kind.read(self.model, stage, readers, base[None, :, : self.start])
            self.known |= zip(new, given, strict=True)
        return self.known

    def bytes(self, planned: Plan) -> int:
        """What a stack of circuits takes: its values, and the widest attention."""
        embed, model = self.carried.embed, self.model
        batch, length, width = embed.shape
        value = batch * (length - self.start) * width
        widest = 0
        for stage, lanes in zip(model.wiring.stages, planned.lanes, strict=True):
            if model.kinds[stage.kind].mixes:  # its ports, what comes of them, and two patterns
                one = 2 * stage.reads * model.d_head + 2 * stage.writes * length
                widest = max(widest, lanes.count * batch * length * one)
        return int((planned.size * value + widest) * embed.element_size())

    def fitting(self, stack: Stack, pool_bytes: int) -> Iterator[tuple[Stack, Plan]]:
        """The circuits in parts whose values fit, each with its plan."""
        wiring, known = self.model.wiring, self.precomputed
        kept = np.zeros_like(stack) if self.alike else stack
        planned = plan(wiring, kept, known, self.joint)
        if len(stack) == 1 or self.bytes(planned) <= pool_bytes:
            yield stack, planned
            return
        half = len(stack) // 2
        yield from self.fitting(stack[:half], pool_bytes)
        yield from self.fitting(stack[half:], pool_bytes)


class _Run:
    """One run of a stack of circuits: the values of their writers, live − carried, as they come.

    They come in the order of their slots, and are kept where the plan says, in place of values that
    no later reader reads: on each device that has readers, in a pool of its own.
    """

    def __init__(self, shared: _Shared, stack: Stack, planned: Plan) -> None:
        self.shared, self.model, self.context = shared, shared.model, shared.context
        self.carried, self.start = shared.carried, shared.start
        self.plan = planned
        self.last, self.ended = shared.batch.last, False
        self.tiled = 1, self.context  # for as many lanes as the stage before
        self.slots = 0  # so many values have come, and so many places are filled
        self.filled = 0
        self.stack = stack
        embed, stages = self._late(self.context.embed), self.model.wiring.stages
        size = planned.size, *embed.shape
        self.home = embed.device
        # the last stage that reads there
        self.leaves = {device_of(self.model, stage): stage.index for stage in stages}
        self.pools = {at: torch.empty(size, dtype=embed.dtype, device=at)
                      for at in (self.home, *self.leaves)}  # fmt: skip

    # -- the pool ----------------------------------------------------------------------------------
    def _late(self, x: Shaped[Tensor, "b p *rest"]) -> Shaped[Tensor, "b s *rest"]:
        """The positions that are run: after the last attention, the answers' alone."""
        return at_answers(self.shared.batch, x)[:, None] if self.ended else x[:, self.start :]

    def _end(self) -> None:
        """From here on run the answer positions only: later stages do not read the others."""
        batch = self.shared.batch
        late = replace(batch, last=batch.last - self.start)
        for at, pool in self.pools.items():
            known = at_answers(late, pool[: self.filled], 1)[:, :, None]
            self.pools[at] = known.new_empty(self.plan.size, *known.shape[1:])
            self.pools[at][: self.filled] = known
        self.ended = True

    def _add(
        self, values: Float[Tensor, "n b s d"], less: Float[Tensor, "b s d"] | None = None
    ) -> None:
        """Keep the values of the next slots, less what is carried."""
        places = self.plan.places[self.slots : self.slots + len(values)]
        self.slots += len(values)
        self.filled = max(self.filled, 1 + max(places, default=-1))
        for at, pool in self.pools.items():
            if (np.diff(places) == 1).all():  # a slice is written at once
                here = pool[places[0] : places[-1] + 1] if len(places) else pool[:0]
                if less is None or less.device != at:
                    here.copy_(moved(values if less is None else values - less, at))
                else:
                    torch.sub(values, less, out=here)
            else:
                where = torch.from_numpy(places).to(at)
                pool[where] = moved(values if less is None else values - less, at)

    def _add_precomputed(self, rows: range) -> None:
        """Add what is known beforehand of these writers."""
        for row in rows:
            if row in self.plan.precomputed:
                self._add(self._late(self.shared.precomputed[row])[None])

    # -- reading -----------------------------------------------------------------------------------
    def _read(
        self, base: Float[Tensor, "b s d"], readings: Sequence[Reading]
    ) -> Float[Tensor, "n b s d"]:
        """What readers read: the carried residual, and what live writers change of it."""
        pool = self.pools[base.device][: self.filled]
        if self._few(base, readings):
            sums = base.new_empty(len(readings), *base.shape)
            for into, reading in zip(sums, readings, strict=True):
                self._sum(base, pool, reading, into)
            return sums
        places = np.unique(np.concatenate([self._places(reading) for reading in readings]))
        if 2 * len(places) > len(pool):  # a few too many are cheaper than a copy
            places = np.arange(len(pool))
        else:
            pool = pool[moved(torch.from_numpy(places), pool.device)]
        mix = torch.from_numpy(np.stack([self._weights(reading, places) for reading in readings]))
        read = torch.addmm(
            base.reshape(1, -1), moved(mix.to(pool.dtype), pool.device), pool.flatten(1)
        )
        return read.view(len(readings), *base.shape)

    def _few(self, base: Tensor, readings: Sequence[Reading]) -> bool:
        edges = sum(len(reading.rows) for reading in readings)
        return base.device.type == "cpu" and edges <= FEW * len(readings)

    def _sum(
        self,
        base: Float[Tensor, "b s d"],
        pool: Float[Tensor, "n b s d"],
        reading: Reading,
        into: Tensor,
    ) -> None:
        weights = self.stack[reading.circuit, reading.rows, reading.column]
        read = base
        for place, weight in zip(self._places(reading).tolist(), weights.tolist(), strict=True):
            read = torch.add(read, pool[place], alpha=float(weight), out=into)
        if read is base:
            into.copy_(base)

    def _places(self, reading: Reading) -> Int[np.ndarray, " edges"]:
        """Where the values are that a reader reads."""
        places: Int[np.ndarray, " edges"] = self.plan.places[reading.slots]
        return places

    def _weights(self, reading: Reading, places: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The weights of the values in these places in one reading."""
        weights = np.zeros(len(places), np.float64)
        own = self.stack[reading.circuit, reading.rows, reading.column]
        weights[np.searchsorted(places, self._places(reading))] = own
        return weights

    def _chunks(self, base: Tensor, readings: Sequence[Reading]) -> Iterator[Sequence[Reading]]:
        """The readings in groups to be read at once: of one port, which stays in the processor's
        cache, where few edges are kept; else together, by one matrix product."""
        groups, size = [readings], TOGETHER
        if base.device.type != "cpu":
            size = max(TOGETHER, TOGETHER_BYTES // max(1, base.nbytes))
        if self._few(base, readings):
            groups = [list(own) for _, own in groupby(readings, key=lambda one: one.column)]
        for group in groups:
            for start in range(0, len(group), size):
                yield group[start : start + size]

    # -- the stages --------------------------------------------------------------------------------
    def finals(self) -> Iterator[Float[Tensor, "b d"]]:
        """The residual that the logits read at the answer positions, of each circuit; circuits
        that share it give the same object."""
        self._add_precomputed(range(1))
        for stage, lanes in zip(self.model.wiring.stages, self.plan.lanes, strict=True):
            kind = self.model.kinds[stage.kind]
            if kind.mixes:
                self._mix(stage, kind, lanes)
            elif lanes.count:
                self._write(stage, kind, lanes)
            self._add_precomputed(range(stage.rows.start, stage.rows.stop))
            here = device_of(self.model, stage)
            if self.leaves[here] == stage.index and here != self.home:
                del self.pools[here]
        readings = self.plan.readings[self.model.wiring.shape[1] - 1]
        base = self._late(self.carried.final)
        ends = [self._read(base, [reading])[0, :, 0] for reading in readings]
        yield from (ends[i] for i in self.plan.reads[:, -1].tolist())

    # -- where components look at other positions --------------------------------------------------
    def _mix(self, stage: Stage, kind: Kind, lanes: Lanes) -> None:
        """Compute the stage at all positions, in all lanes at once; add what is written."""
        computed = None
        if lanes.count:
            ports = [port.flatten(0, 1) for port in self._ports(stage, kind, lanes)]
            if self.tiled[0] != lanes.count:
                self.tiled = lanes.count, self.context.tile(lanes.count)
            computed = kind.compute(self.model, stage, self.tiled[1], ports)
            computed = computed.view(lanes.count, len(self.last), *computed.shape[1:])
        if stage.index == self.shared.last_mixing:
            self._end()
        if computed is not None:
            self._add_shares(stage, kind, lanes, computed)

    def _ports(
        self, stage: Stage, kind: Kind, lanes: Lanes
    ) -> list[Float[Tensor, "lanes b p n e"]]:
        """What the ports give: of live components from what each port reads; of the others from the
        carried residual where the components are coupled, else nothing."""
        base = self.carried.reads[stage.index]
        base, start = (base, self.start) if kind.mixes else (self._late(base), 0)
        if kind.couples(self.model):
            plain = kind.project(self.model, stage, base)
            out = [x.expand(lanes.count, *x.shape).clone() for x in plain]
        else:
            plain = kind.project(self.model, stage, base[:, :0])
            out = [base.new_zeros(lanes.count, *base.shape[:2], *x.shape[2:]) for x in plain]
        late, at = self._received(stage, kind, lanes), {c: stage.port(c) for c in lanes.ports}
        # only the position itself reads its first port
        early = self.shared.early(stage, (c for c, (port, _) in at.items() if port and start))
        indices = self._indices([own for lists in lanes.ports.values() for own in lists], base)
        for column, where, which in zip(lanes.ports, indices[::2], indices[1::2], strict=True):
            port, number = at[column]
            out[port][where, :, start:, number] = late[column][which]
            if start and port:
                out[port][where, :, :start, number] = early[column]
        return out

    def _indices(self, lists: Sequence[list[int]], like: Tensor) -> list[Any]:
        """What indexes each of these, copied at once; on a processor a number is faster than a
        tensor that holds it alone."""
        if like.device.type == "cpu":
            return [own[0] if len(own) == 1 else torch.tensor(own) for own in lists]
        whole = torch.tensor([number for own in lists for number in own])
        return [*torch.split(moved(whole, like.device), [len(own) for own in lists])]

    def _received(
        self, stage: Stage, kind: Kind, lanes: Lanes
    ) -> dict[int, Float[Tensor, "n b s e"]]:
        """What each port gives for each of its readings."""
        base, first = self._late(self.carried.reads[stage.index]), stage.columns.start
        found: dict[int, list[Tensor]] = {column: [] for column in lanes.ports}
        for _, port in groupby(lanes.ports, key=lambda column: stage.port(column)[0]):
            for chunk in self._chunks(base, [r for c in port for r in self.plan.readings[c]]):
                columns = [reading.column for reading in chunk]
                readers = [column - first for column in columns]
                received = kind.read(self.model, stage, readers, self._read(base, chunk))
                for column, x in zip(columns, received, strict=True):
                    found[column].append(x)
        return {column: torch.stack(x) for column, x in found.items()}

    def _add_shares(
        self, stage: Stage, kind: Kind, lanes: Lanes, computed: Float[Tensor, "lanes b p n e"]
    ) -> None:
        """Add what the components write, given what they computed at all positions."""
        here = computed[:, :, self.start :]
        if self.ended:
            here = at_answers(self.shared.batch, computed, 1)[:, :, None]
        if stage.index in self.shared.joint:  # those that are not live count with what they carry
            places, which = (
                torch.tensor(x, device=here.device) for x in zip(*lanes.writers, strict=True)
            )
            plain = self._late(self.carried.computed[stage.index])
            whole = plain.expand(len(here), *plain.shape).clone()
            whole[which, :, :, places] = here[which, :, :, places]
            here = kind.shares(self.model, stage, whole.flatten(0, 1)).view(here.shape)
        self._add_changes(stage, kind, lanes, here)

    def _add_changes(
        self, stage: Stage, kind: Kind, lanes: Lanes, shares: Float[Tensor, "lanes b s n e"]
    ) -> None:
        """Add what the components write, in the order of their slots."""
        carried = self._late(self.carried.shares[stage.index])
        places, which = (list(x) for x in zip(*lanes.writers, strict=True))
        at = torch.tensor(places, device=shares.device)
        lane = torch.tensor(which, device=shares.device)
        for start in range(0, len(places), WRITTEN):
            part = slice(start, start + WRITTEN)
            change = shares[lane[part], :, :, at[part]].movedim(0, 2) - carried[:, :, at[part]]
            self._add(kind.write(self.model, stage, places[part], change))

    # -- where each position is by itself ----------------------------------------------------------
    def _write(self, stage: Stage, kind: Kind, lanes: Lanes) -> None:
        """Compute the stage at the positions that are run, some lanes at a time; add what is
        written."""
        carried = self._late(self.carried.shares[stage.index])
        several = []
        for context, ports in self._blocks(stage, kind, lanes):
            computed = kind.compute(self.model, stage, context, ports)
            shares = kind.shares(self.model, stage, computed)
            if stage.writes > 1:
                several.append(shares.view(-1, *carried.shape))
                continue
            less = kind.write(self.model, stage, None, carried)[0]
            values = kind.write(self.model, stage, None, shares)[0]
            self._add(values.view(-1, *less.shape), less)  # as they come, without a copy
        if several:
            self._add_changes(stage, kind, lanes, torch.cat(several))

    def _blocks(
        self, stage: Stage, kind: Kind, lanes: Lanes
    ) -> Iterator[tuple[Context, Sequence[Float[Tensor, "m s n e"]]]]:
        """What the ports give at the positions that are run; where there is one reader, as its
        readings come, some at a time."""
        if stage.reads > 1:
            ports = [port.flatten(0, 1) for port in self._ports(stage, kind, lanes)]
            yield self.context.at(self._late, lanes.count), ports
            return
        column = stage.columns.start
        base, readings = self._late(self.carried.reads[stage.index]), self.plan.readings[column]
        ordered = [readings[which] for _, which in sorted(zip(*lanes.ports[column], strict=True))]
        for chunk in self._chunks(base, ordered):
            read = self._read(base, chunk).flatten(0, 1)
            yield self.context.at(self._late, len(chunk)), kind.project(self.model, stage, read)
