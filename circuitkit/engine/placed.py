"""The model under masks over the edges between places.

A reader reads at each token by the weights of the token's span, and a head attends from each span
to keys and values that are mixed for it; ``circuitkit.engine.placed_dense`` says how, and runs the
masks that carry a gradient. Here only what is live is computed, at the tokens of the spans at which
it is, and several circuits run at once (``circuitkit.engine.placed_plan``): the cost follows the
circuit. Tokens that nothing can change are not run, and after the last attention those at which the
model answers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.data.places import widened
from circuitkit.engine.devices import device_of, moved
from circuitkit.engine.layout import Layout
from circuitkit.engine.model import Activations, Context, Kind, Model, Ports
from circuitkit.engine.placed_dense import alive_parts, placed_residual
from circuitkit.engine.placed_plan import Circuit, PlacedPlan, Reading, StagePlan, placed_plan
from circuitkit.engine.record import at_answers
from circuitkit.errors import CircuitError
from circuitkit.graph.places import PlacedMask, Places
from circuitkit.graph.stages import Stage

__all__ = ["placed_runs"]

STACK = 32  # circuits that are planned together
FEW = 8  # edges per reading up to which adding them one by one is faster on a processor
TOKENS = 1536  # that run at once where each is by itself: they stay in the processor's cache
ELSEWHERE = 2**16  # the same on other devices
LANES = 2**27  # bytes of what attention computes at once


def placed_runs(
    model: Model,
    batch: Batch,
    context: Context,
    carried: Activations,
    keeps: Iterable[PlacedMask],
    pool_bytes: int,
) -> Iterator[Float[Tensor, "b vocab"]]:
    """The logits at the answer positions under each of many masks, in their order; the same tensor
    for circuits that agree in all that is heard."""
    flows = model.trainable and torch.is_grad_enabled()
    known: dict[Places, _Shared] = {}
    for (places, graded), some in groupby(keeps, key=lambda keep: (keep.places, _graded(keep))):
        if places.wiring != model.wiring:
            raise CircuitError(
                f"the mask is over places of a model of {places.wiring}, and the model has "
                f"{model.wiring}; give a mask of this model"
            )
        shared = known.get(places) or _Shared(model, batch, context, carried, places)
        known[places] = shared
        wide = (replace(keep, places=shared.places) for keep in some)
        if flows or graded:
            for keep in wide:
                final = placed_residual(model, batch, context, carried, keep, shared.of)
                yield model.unembed(final)
            continue
        for plan in shared.plans(wide, pool_bytes):
            yield from _Run(shared, plan).logits()


def _graded(keep: PlacedMask) -> bool:
    """Whether a mask carries a gradient."""
    tables = (keep.residual, keep.attention)
    return any(isinstance(table, Tensor) and table.requires_grad for table in tables)


class _Shared:
    """What all circuits of a batch share: which tokens are run, and what is carried."""

    def __init__(
        self,
        model: Model,
        batch: Batch,
        context: Context,
        carried: Activations,
        places: Places,
    ) -> None:
        self.model, self.batch, self.context, self.carried = model, batch, context, carried
        of, self.places = widened(batch, places)
        self.of = of.to(context.embed.device)
        self.embed = context.embed - carried.embed
        run = (self.of >= 0) & ~carried.untouched([self.embed])
        self.layout = Layout.by_span(self.of, len(places.spans), run)
        self.late = self.layout.answers(batch)
        self.touched = np.array([len(own) > 0 for own in self.layout.at])
        kinds = [(stage.index, model.kinds[stage.kind]) for stage in model.wiring.stages]
        self.mixing = [index for index, kind in kinds if kind.mixes]
        self.joint = {index for index, kind in kinds if kind.joint(model)}
        self.coupled = {index for index, kind in kinds if kind.couples(model)}
        self.ports: dict[int, Ports] = {}
        self.tiled = {1: context}

    # -- which circuits run together ---------------------------------------------------------------
    def plans(self, keeps: Iterable[PlacedMask], pool_bytes: int) -> Iterator[PlacedPlan]:
        """Plans of the circuits, of as many at once as fit."""
        waiting: list[Circuit] = []
        for keep in keeps:
            waiting.append(self._circuit(keep))
            if len(waiting) == STACK:
                yield from self._fitting(waiting, pool_bytes)
                waiting = []
        if waiting:
            yield from self._fitting(waiting, pool_bytes)

    def _circuit(self, keep: PlacedMask) -> Circuit:
        """A mask without dead ends, and without the spans in which nothing can change, unless it
        matters there whether something is live."""
        if not (self.touched.all() or self.context.held or self.coupled):
            residual, attention = (
                table.detach().cpu().numpy() if isinstance(table, Tensor) else table
                for table in (keep.residual, keep.attention)
            )
            here = np.outer(self.touched, self.touched)
            keep = PlacedMask(self.places, residual * self.touched, attention * here)
        return Circuit(*alive_parts(self.model, keep))

    def _fitting(self, circuits: Sequence[Circuit], pool_bytes: int) -> Iterator[PlacedPlan]:
        """The plans of circuits in parts whose values fit."""
        plan = placed_plan(self.places, circuits, self.mixing, self.joint, self.coupled)
        tokens = sum(n * len(own) for n, own in zip(plan.sizes, self.layout.at, strict=True))
        size = tokens * self.model.d_model * self.embed.element_size()
        if len(circuits) == 1 or size <= pool_bytes:
            yield plan
            return
        half = len(circuits) // 2
        yield from self._fitting(circuits[:half], pool_bytes)
        yield from self._fitting(circuits[half:], pool_bytes)

    # -- what is carried ---------------------------------------------------------------------------
    def carried_ports(self, stage: Stage) -> Ports:
        """What a stage's ports give in the carried run, at all tokens."""
        if stage.index not in self.ports:
            kind, read = self.model.kinds[stage.kind], self.carried.reads[stage.index]
            self.ports[stage.index] = kind.project(self.model, stage, read)
        return self.ports[stage.index]

    def tile(self, lanes: int) -> Context:
        """The context of so many lanes."""
        if lanes not in self.tiled:
            self.tiled = {1: self.context, lanes: self.context.tile(lanes)}
        return self.tiled[lanes]


class _Run:
    """One run of a stack of circuits: the values of their writers, live − carried, at the tokens of
    each span, as they come."""

    def __init__(self, shared: _Shared, plan: PlacedPlan) -> None:
        self.shared, self.model, self.plan = shared, shared.model, plan
        self.carried, self.layout = shared.carried, shared.layout
        self.ended = False
        change = self.layout.taken(shared.embed)
        self.pools = [
            change.new_empty(n, *change[part].shape)
            for n, part in zip(plan.sizes, self.layout.parts, strict=True)
        ]
        self.filled = [1 for _ in self.pools]
        for pool, part in zip(self.pools, self.layout.parts, strict=True):
            pool[0] = change[part]

    def logits(self) -> Iterator[Float[Tensor, "b vocab"]]:
        """The logits of each circuit."""
        for stage, own in zip(self.model.wiring.stages, self.plan.stages, strict=True):
            kind = self.model.kinds[stage.kind]
            if kind.mixes:
                self._mix(stage, kind, own)
            elif own.units:
                self._compute(stage, kind, own)
        reads = self._read(self.carried.final, self.plan.readings)
        plain = at_answers(self.shared.batch, self.carried.final)
        known: dict[tuple[int, ...], Tensor] = {}
        for ends in self.plan.ends:
            if ends not in known:
                known[ends] = self.model.unembed(self._final(plain, reads, ends))
            yield known[ends]

    def _final(
        self, plain: Float[Tensor, "b d"], reads: Sequence[Tensor], ends: tuple[int, ...]
    ) -> Float[Tensor, "b d"]:
        """What the logits read, by the readings at the spans of the answers."""
        final, length = plain.clone(), self.shared.of.shape[1]
        for own, reading in zip(self.layout.at, ends, strict=True):
            if reading >= 0:
                final[own // length] = reads[reading]
        return final

    def _end(self) -> None:
        """From here on run the answer positions only: later stages do not read the others."""
        late = self.shared.late
        for span, (own, kept) in enumerate(zip(self.layout.at, late.at, strict=True)):
            where = torch.searchsorted(own, kept)
            self.pools[span] = self.pools[span][:, where]
        self.layout, self.ended = late, True

    # -- reading and writing -----------------------------------------------------------------------
    def _read(
        self, base: Float[Tensor, "b p d"], readings: Sequence[Reading]
    ) -> list[Float[Tensor, "_tokens d"]]:
        """What is read, by the number of the reading, at the tokens of its span."""
        home = self.shared.embed.device
        plain = moved(self.layout.taken(base), home)
        edges = sum(len(reading.values) for reading in readings)
        one_by_one = home.type == "cpu" and edges <= FEW * len(readings)
        by_span: dict[int, list[int]] = {}
        for number, reading in enumerate(readings):
            by_span.setdefault(reading.span, []).append(number)
        found: list[Tensor] = [plain] * len(readings)
        for span, own in by_span.items():
            start, pool = plain[self.layout.parts[span]], self.pools[span][: self.filled[span]]
            if one_by_one:
                for number in own:
                    found[number] = _summed(start, pool, readings[number])
                continue
            mix = torch.zeros(len(own), len(pool), dtype=torch.float64)
            for row, number in zip(mix.numpy(), own, strict=True):
                row[readings[number].values] = readings[number].weights
            weights = moved(mix.to(pool.dtype), home)
            sums = torch.addmm(start.reshape(1, -1), weights, pool.flatten(1))
            for number, one in zip(own, sums.view(len(own), *start.shape), strict=True):
                found[number] = one
        return found

    def _add(self, span: int, values: Float[Tensor, "n _tokens d"]) -> None:
        """Keep the next values of a span."""
        start = self.filled[span]
        self.filled[span] += len(values)
        self.pools[span][start : self.filled[span]] = moved(values, self.pools[span].device)

    # -- where each position is by itself ----------------------------------------------------------
    def _compute(self, stage: Stage, kind: Kind, own: StagePlan) -> None:
        """Compute the stage's units, many tokens at once; keep what they write."""
        reads = self._read(self.carried.reads[stage.index], own.readings)
        here, most = device_of(self.model, stage), TOKENS
        if self.shared.embed.device.type != "cpu":
            most = ELSEWHERE
        changes: dict[int, Tensor] = {}
        for numbers_ in self._parts(own, most):
            units = [own.units[number] for number in numbers_]
            sizes = [len(self.layout.at[span]) for span, *_ in units]
            at = torch.cat([self.layout.at[span] for span, *_ in units])
            ports = self._unit_ports(stage, kind, units, [moved(x, here) for x in reads], at)
            held = self.shared.context.at(partial(_rows, at=at, lead=True), 1)
            computed = kind.compute(self.model, stage, held, ports)
            if stage.index in self.shared.joint:
                live = np.repeat([alive for *_, alive in units], sizes, 0)
                where = torch.from_numpy(live).to(here)[None, :, :, None]
                plain = _rows(self.carried.computed[stage.index], at, lead=True)
                computed = torch.where(where, computed, plain)
            change = kind.shares(self.model, stage, computed)[0]
            change = change - _rows(self.carried.shares[stage.index], at)
            changes |= zip(numbers_, torch.split(change, sizes), strict=True)
        written = [(s, changes[u][:, p] if u in changes else None, p) for s, u, p in own.written]
        self._write(stage, kind, written)

    def _parts(self, own: StagePlan, most: int) -> Iterator[list[int]]:
        """The numbers of a stage's units, in parts of at most so many tokens."""
        part, tokens = list[int](), 0
        for number, (span, *_) in enumerate(own.units):
            size = len(self.layout.at[span])
            if part and tokens + size > most:
                yield part
                part, tokens = [], 0
            if size:
                part.append(number)
                tokens += size
        if part:
            yield part

    def _unit_ports(
        self,
        stage: Stage,
        kind: Kind,
        units: Sequence[tuple[int, tuple[int, ...], tuple[bool, ...]]],
        reads: Sequence[Float[Tensor, "_tokens d"]],
        at: Int[Tensor, " tokens"],
    ) -> Ports:
        """What the ports give to these units; one that hears nothing, what it gives in the carried
        run."""
        plain = _rows(self.carried.reads[stage.index], at)
        sizes = [len(self.layout.at[span]) for span, *_ in units]
        if stage.reads == 1:
            return kind.project(
                self.model, stage, torch.cat([reads[n[0]] for _, n, _ in units])[None]
            )
        parts = torch.split(plain, sizes)
        ports = [port.clone() for port in kind.project(self.model, stage, plain[None])]
        for reader in range(stage.reads):
            whole = [
                part if n[reader] < 0 else reads[n[reader]]
                for part, (_, n, _) in zip(parts, units, strict=True)
            ]
            given = kind.read(self.model, stage, [reader], torch.cat(whole)[None, None])
            port, number = stage.port(stage.columns.start + reader)
            ports[port][:, :, number] = given[0]
        return ports

    def _write(
        self, stage: Stage, kind: Kind, written: Sequence[tuple[int, Tensor | None, int]]
    ) -> None:
        """Keep what components write, given (span, change of their share, place), in the order of
        the values of each span."""
        for span in dict.fromkeys(span for span, *_ in written):
            own = [(change, place) for other, change, place in written if other == span]
            changes = [change for change, _ in own if change is not None]
            if changes:
                places = [place for _, place in own]
                self._add(span, kind.write(self.model, stage, places, torch.stack(changes, 1)))
            else:  # a span without tokens
                self.filled[span] += len(own)

    # -- attention ---------------------------------------------------------------------------------
    def _mix(self, stage: Stage, kind: Kind, own: StagePlan) -> None:
        """Compute the heads in their lanes; keep what they write."""
        computed = self._attended(stage, kind, own) if own.lanes else []
        if stage.index == max(self.shared.mixing):
            kept = [torch.searchsorted(a, b) for a, b in
                    zip(self.layout.at, self.shared.late.at, strict=True)]  # fmt: skip
            computed = [
                z[moved(kept[span], z.device)]
                for z, (_, _, span) in zip(computed, own.found, strict=True)
            ]
            self._end()
        less = self.layout.taken(self.carried.shares[stage.index])
        shares = self._shares(stage, kind, own, computed)
        written = []
        for span, unit, place in own.written:
            part, change = self.layout.parts[span], None
            if part.start < part.stop:
                change = shares(unit, place) - less[part, place]
            written.append((span, change, place))
        self._write(stage, kind, written)

    def _shares(
        self, stage: Stage, kind: Kind, own: StagePlan, computed: Sequence[Float[Tensor, "_t e"]]
    ) -> Callable[[int, int], Float[Tensor, "_tokens e"]]:
        """What a head has in what its unit writes: what it computed, or its share in what all
        heads compute together."""
        if stage.index not in self.shared.joint:
            return lambda unit, place: computed[own.units[unit][1][place]]
        plain = self.layout.taken(self.carried.computed[stage.index])

        @cache
        def whole(unit: int) -> Float[Tensor, "_tokens heads e"]:
            span, found, _ = own.units[unit]
            raw = plain[self.layout.parts[span]].clone()
            for head, number in enumerate(found):
                if number >= 0:
                    raw[:, head] = computed[number]
            return kind.shares(self.model, stage, raw[None])[0]

        return lambda unit, place: whole(unit)[:, place]

    def _attended(
        self, stage: Stage, kind: Kind, own: StagePlan
    ) -> list[Float[Tensor, "_tokens e"]]:
        """What each head computes at the tokens of each destination."""
        given = self._given(stage, kind, own)
        found: list[Tensor] = [torch.empty(0)] * len(own.found)
        size = self._lanes_at_once(stage)
        for start in range(0, own.lanes, size):
            lanes = range(start, min(start + size, own.lanes))
            ports = self._lane_ports(stage, kind, own, given, lanes)
            context = self.shared.tile(len(lanes))
            z = kind.compute(self.model, stage, context, ports)
            z = z.view(len(lanes), -1, *z.shape[2:])
            for number, (lane, head, span) in enumerate(own.found):
                if lane in lanes:
                    at = moved(self.layout.at[span], z.device)
                    found[number] = z[lane - start, :, head][at]
        return found

    def _lanes_at_once(self, stage: Stage) -> int:
        """How many lanes attention computes at once."""
        batch, length = self.shared.of.shape
        one = 2 * stage.reads * self.model.d_head + 2 * stage.writes * length
        return max(1, LANES // (batch * length * one * self.shared.embed.element_size()))

    def _given(self, stage: Stage, kind: Kind, own: StagePlan) -> list[Float[Tensor, "_tokens e"]]:
        """What each reading gives through its port."""
        reads = self._read(self.carried.reads[stage.index], own.readings)
        here, first = device_of(self.model, stage), stage.columns.start
        by_span: dict[int, list[int]] = {}
        for number, reading in enumerate(own.readings):
            by_span.setdefault(reading.span, []).append(number)
        given: list[Tensor] = list(reads)
        for span, numbers_ in by_span.items():
            if not len(self.layout.at[span]):
                continue
            readers = [own.readings[number].column - first for number in numbers_]
            x = torch.stack([moved(reads[number], here) for number in numbers_])[:, None]
            received = kind.read(self.model, stage, readers, x)
            for number, one in zip(numbers_, received[:, 0], strict=True):
                given[number] = one
        return given

    def _lane_ports(
        self,
        stage: Stage,
        kind: Kind,
        own: StagePlan,
        given: Sequence[Float[Tensor, "_tokens e"]],
        lanes: range,
    ) -> Ports:
        """What the ports give in these lanes: keys and values as they are mixed, and the queries of
        the destinations."""
        plain = self.shared.carried_ports(stage)
        ports = [x.flatten(0, 1).expand(len(lanes), -1, -1, -1).clone() for x in plain]
        at = [moved(own_at, ports[0].device) for own_at in self.layout.at]
        for lane, head, span, reading in own.queries:
            if lane in lanes and len(at[span]):
                ports[0][lane - lanes.start, at[span], head] = given[reading]
        for lane, port, group, span, reading, weight in own.sources:
            if lane in lanes and len(at[span]):
                values = given[reading]
                if weight != 1:
                    base = plain[port].flatten(0, 1)[at[span], group]
                    values = torch.lerp(base, values, weight)
                ports[port][lane - lanes.start, at[span], group] = values
        return [
            port.view(len(lanes) * len(x), *x.shape[1:])
            for port, x in zip(ports, plain, strict=True)
        ]


def _summed(
    start: Float[Tensor, "_tokens d"], pool: Float[Tensor, "n _tokens d"], reading: Reading
) -> Float[Tensor, "_tokens d"]:
    """One reading, edge by edge."""
    read, into = start, torch.empty_like(start)
    for value, weight in zip(reading.values.tolist(), reading.weights.tolist(), strict=True):
        read = torch.add(read, pool[value], alpha=weight, out=into)
    return read


def _rows(
    x: Shaped[Tensor, "b p *rest"], at: Int[Tensor, " tokens"], lead: bool = False
) -> Shaped[Tensor, "*one tokens *rest"]:
    """What is at these tokens, counted through the examples; as one example, if that is asked."""
    found = x.flatten(0, 1)[moved(at, x.device)]
    return found[None] if lead else found
