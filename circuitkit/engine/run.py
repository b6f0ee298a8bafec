"""The model under a mask over its edges.

For a reader r, with w running over the writers upstream of it,

    input[r] = Σ_w  keep[w, r] · live[w]  +  (1 − keep[w, r]) · carried[w]

``live`` is what a writer writes in this run, ``carried`` what a cut edge carries. A component none
of whose in-edges is kept writes what it wrote in the carried run, so it is not computed: the cost
follows the circuit. Keeping everything is the clean run, keeping nothing the carried run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.model import Activations, Context, Model
from circuitkit.engine.plan import Layer, Plan, Reading, plan

__all__ = [
    "Tap",
    "answer",
    "as_it_is",
    "assemble",
    "beginning",
    "difference",
    "record",
    "run",
    "runs",
]

Mask: TypeAlias = Bool[np.ndarray, "writers readers"] | Float[Tensor, "writers readers"]
Tap: TypeAlias = Callable[[str, int, Tensor], Tensor]
TOGETHER = 8  # readings that are mixed by one matrix product
FEW = 8  # edges per reading up to which adding them one by one is faster
STACK = 32  # circuits that are run together: more gain nothing
WRITTEN = 32  # heads that write at once
POOL_BYTES = 512 * 2**20  # that a stack of circuits takes


def as_it_is(_: str, __: int, x: Tensor) -> Tensor:
    """The tap that changes nothing."""
    return x


def record(
    model: Model,
    context: Context,
    embed: Float[Tensor, "b p d"] | None = None,
    tap: Tap = as_it_is,
) -> Activations:
    """The activations of a plain run, from the batch's embedding or another one.

    ``tap(kind, layer, x)`` sees what each port gave (``q``, ``k``, ``v``), each MLP reads (``mlp``)
    and the logits read (``logits``), and may replace it: the gradient is taken there.
    """
    x = context.embed if embed is None else embed
    start = x
    heads, raw, mlps, attn_in, mlp_in = [], [], [], [], []
    for layer in range(model.wiring.layers):
        attn_in.append(x)
        ports = zip("qkv", model.project(layer, x), strict=True)
        q, k, v = (tap(name, layer, value) for name, value in ports)
        z = model.attend(context, layer, q, k, v)
        out, share = model.attention_out(layer, z)
        heads.append(share)
        raw.append(z)
        middle = x + out
        if model.wiring.mlp:
            mlp_in.append(x if model.wiring.parallel else middle)
            mlps.append(model.mlp(layer, tap("mlp", layer, mlp_in[-1])))
            middle = middle + mlps[-1]
        x = middle
    return Activations(
        start, tuple(heads), tuple(raw), tuple(mlps), tuple(attn_in), tuple(mlp_in),
        tap("logits", model.wiring.layers, x), consistent=True,
    )  # fmt: skip


def assemble(
    model: Model,
    embed: Float[Tensor, "b p d"],
    heads: Sequence[Float[Tensor, "b p h e"]],
    raw: Sequence[Float[Tensor, "b p h e"]],
    mlps: Sequence[Float[Tensor, "b p d"]],
) -> Activations:
    """Activations whose writers wrote the given values, whatever they read: means, zeros, ..."""
    x, attn_in, mlp_in = embed, [], []
    for layer, z in enumerate(heads):
        attn_in.append(x)
        middle = x + model.write(layer, None, z).sum(0)
        constant = model.constant(layer)
        middle = middle if constant is None else middle + constant
        if model.wiring.mlp:
            mlp_in.append(x if model.wiring.parallel else middle)
            middle = middle + mlps[layer]
        x = middle
    return Activations(
        embed, tuple(heads), tuple(raw), tuple(mlps), tuple(attn_in), tuple(mlp_in), x
    )  # fmt: skip


def difference(
    model: Model, other: Activations, base: Activations, row: int
) -> Float[Tensor, "b p d"]:
    """What a writer writes in one run, less what it writes in another."""
    wiring = model.wiring
    if row == 0:
        return other.embed - base.embed
    layer, place = divmod(row - 1, wiring.heads + wiring.mlp)
    if place == wiring.heads:
        return other.mlps[layer] - base.mlps[layer]
    z = (other.heads[layer] - base.heads[layer])[:, :, [place]]
    return model.write(layer, [place], z)[0]


def answer(model: Model, batch: Batch, final: Float[Tensor, "b p d"]) -> Float[Tensor, "b vocab"]:
    """The logits at each example's answer position, from the final residual."""
    rows = torch.arange(len(batch), device=batch.last.device)
    return model.unembed(final[rows, batch.last])


def beginning(batch: Batch, same: Bool[Tensor, "b p"]) -> int:
    """The first position to run: where an example is no longer the same, or the first answer."""
    return min(int(same.all(0).sum()), int(batch.last.min()))


def run(
    model: Model,
    batch: Batch,
    context: Context,
    carried: Activations,
    keep: Mask,
    given: Mapping[int, Float[Tensor, "b p d"]] | None = None,
) -> Float[Tensor, "b vocab"]:
    """The logits at the answer positions, under a mask.

    ``keep`` may hold fractions, and a tensor that requires a gradient; edges that do not exist are
    ignored. ``context`` is of the clean tokens. ``given`` maps writers to live − carried where that
    is not computed but told (path patching): it counts where none of the writer's in-edges is kept.
    Without it, the embedding is that of the context.
    """
    return next(runs(model, batch, context, carried, [keep], given))


def runs(
    model: Model,
    batch: Batch,
    context: Context,
    carried: Activations,
    keeps: Sequence[Mask],
    given: Mapping[int, Float[Tensor, "b p d"]] | None = None,
    *,
    pool_bytes: int = POOL_BYTES,
) -> Iterator[Float[Tensor, "b vocab"]]:
    """The logits under each of many masks, in their order; see ``run``. As many run at once as
    take no more than ``pool_bytes``."""
    given = {0: context.embed - carried.embed} if given is None else given
    stage = _Stage(model, batch, context, carried, given)
    for start in range(0, len(keeps), STACK):
        stack = [_Circuit.of(model, keep, given) for keep in keeps[start : start + STACK]]
        for part, planned in stage.fitting(stack, pool_bytes):
            yield from _logits(model, _Run(stage, part, planned).finals())


def _logits(
    model: Model, finals: Iterator[Float[Tensor, "b d"]]
) -> Iterator[Float[Tensor, "b vocab"]]:
    """The logits of final residuals, as they come; the same residual is looked up once."""
    for same, group in groupby(finals, key=id):
        del same
        residuals = list(group)
        logits = model.unembed(residuals[0])
        yield from [logits] * len(residuals)


@dataclass(frozen=True)
class _Circuit:
    """A mask without dead ends: as numbers to plan by, and as the weights to run by, which are
    another thing where a gradient flows through them."""

    numbers: Float[np.ndarray, "writers readers"]
    weights: Float[Tensor, "writers readers"]

    @classmethod
    def of(cls, model: Model, keep: Mask, given: Mapping[int, Tensor]) -> _Circuit:
        if isinstance(keep, Tensor) and keep.requires_grad:
            legal = torch.from_numpy(model.wiring.legal).to(keep.device)
            weights = torch.where(legal, keep, keep.new_zeros(())).to(model.device, model.dtype)
            return cls(model.wiring.legal, weights)
        numbers = keep.detach().double().cpu().numpy() if isinstance(keep, Tensor) else keep
        alive = np.where(model.wiring.alive(numbers != 0, given), numbers, numbers.dtype.type(0))
        return cls(alive, torch.from_numpy(alive).to(model.device, model.dtype))


class _Stage:
    """What all circuits of a batch share: the carried run, and where theirs begin to differ.

    Positions before the first token at which the given values touch the carried run are what they
    are there; the masked runs begin after.
    """

    def __init__(
        self,
        model: Model,
        batch: Batch,
        context: Context,
        carried: Activations,
        given: Mapping[int, Float[Tensor, "b p d"]],
    ) -> None:
        self.model, self.batch, self.context = model, batch, context
        self.carried, self.given = carried, given
        same = carried.untouched(given.values())
        self.silent = bool(same.all())  # the two runs are one
        self.start = beginning(batch, same)
        self.joint = model.couples or model.post_norm
        self.known: dict[int, Tensor] = {}

    def early(self, layer: int, column: int) -> Float[Tensor, "b f e"]:
        """The key or value port of the positions that are not run, as in the carried run."""
        if column not in self.known:
            first = self.model.wiring.ports(layer)["q"].start
            base = self.carried.attn_in[layer][None, :, : self.start]
            self.known[column] = self.model.read(layer, [column - first], base)[0]
        return self.known[column]

    def bytes(self, planned: Plan) -> int:
        """What a stack of circuits takes: its values, and the widest layer's attention."""
        embed, model, wiring = self.carried.embed, self.model, self.model.wiring
        batch, length, width = embed.shape
        value = batch * (length - self.start) * width
        ports = 2 * (wiring.heads + wiring.groups) * model.d_head  # q, k, v and what comes of them
        scores = 2 * wiring.heads * length
        lanes = max(layer.lanes for layer in planned.layers)
        numbers = planned.slots * value + lanes * batch * length * (ports + scores)
        return int(numbers * embed.element_size())

    def fitting(
        self, stack: list[_Circuit], pool_bytes: int
    ) -> Iterator[tuple[list[_Circuit], Plan]]:
        """The circuits in parts whose values fit, each with its plan."""
        numbers = np.stack([circuit.numbers for circuit in stack])
        planned = plan(self.model.wiring, numbers * (not self.silent), self.given, self.joint)
        if len(stack) == 1 or self.bytes(planned) <= pool_bytes:
            yield stack, planned
            return
        half = len(stack) // 2
        yield from self.fitting(stack[:half], pool_bytes)
        yield from self.fitting(stack[half:], pool_bytes)


class _Run:
    """One run of a stack of circuits: the values of their writers, live − carried, as they come.

    The pool is filled slot by slot, in place unless a gradient flows through it.
    """

    def __init__(self, stage: _Stage, stack: Sequence[_Circuit], planned: Plan) -> None:
        self.stage, self.model, self.context = stage, stage.model, stage.context
        self.carried, self.given, self.start = stage.carried, stage.given, stage.start
        self.plan = planned
        self.last, self.ended, self.filled = stage.batch.last, False, 0
        self.examples = torch.arange(len(stage.batch), device=self.last.device)
        self.stack = stack
        self.graded = any(circuit.weights.requires_grad for circuit in stack)
        embed = self._late(self.context.embed)
        self.blocks: list[Tensor] = []
        self.pool = embed.new_empty(0 if self.graded else planned.slots, *embed.shape)

    # -- the pool ----------------------------------------------------------------------------------
    def _late(self, x: Float[Tensor, "b p *rest"]) -> Float[Tensor, "b s *rest"]:
        """The positions that are run: after the last attention, the answers' alone."""
        return x[self.examples, self.last][:, None] if self.ended else x[:, self.start :]

    def _end(self) -> None:
        """From here on run the answer positions only: no other is looked at any more."""
        known = self._values()[:, self.examples, self.last - self.start][:, :, None]
        self.blocks = [known]
        if not self.graded:
            self.pool = known.new_empty(self.plan.slots, *known.shape[1:])
            self.pool[: self.filled] = known
        self.ended = True

    def _add(
        self, values: Float[Tensor, "n b s d"], less: Float[Tensor, "b s d"] | None = None
    ) -> None:
        """Keep these values, less what is carried."""
        here = slice(self.filled, self.filled + len(values))
        if self.graded:
            self.blocks.append(values if less is None else values - less)
        elif less is None:
            self.pool[here] = values
        else:
            torch.sub(values, less, out=self.pool[here])
        self.filled += len(values)

    def _values(self) -> Float[Tensor, "n b s d"]:
        if not self.graded:
            return self.pool[: self.filled]
        self.blocks = [torch.cat(self.blocks)]
        return self.blocks[0]

    def _tell(self, first: int, stop: int) -> None:
        """Add what is given of these writers."""
        for row in range(first, stop):
            if row in self.plan.told:
                self._add(self._late(self.given[row])[None])

    # -- reading -----------------------------------------------------------------------------------
    def _read(
        self, base: Float[Tensor, "b s d"], readings: Sequence[Reading]
    ) -> Float[Tensor, "n b s d"]:
        """What readers read: the carried residual, and what live writers change of it."""
        if self._few(readings):
            sums = base.new_empty(len(readings), *base.shape)
            for into, reading in zip(sums, readings, strict=True):
                self._sum(base, reading, into)
            return sums
        slots = np.unique(np.concatenate([reading.slots for reading in readings]))
        values = self._values()
        if 2 * len(slots) > len(values):  # rather some for nothing than a copy
            slots = np.arange(len(values))
        else:
            values = values[torch.from_numpy(slots).to(values.device)]
        mix = torch.stack([self._weights(reading, slots) for reading in readings])
        read = torch.addmm(base.reshape(1, -1), mix, values.flatten(1))
        return read.view(len(readings), *base.shape)

    def _few(self, readings: Sequence[Reading]) -> bool:
        edges = sum(len(reading.rows) for reading in readings)
        return not self.graded and edges <= FEW * len(readings)

    def _sum(self, base: Float[Tensor, "b s d"], reading: Reading, into: Tensor) -> None:
        weights = self.stack[reading.circuit].numbers[reading.rows, reading.column]
        read = base
        for slot, weight in zip(reading.slots.tolist(), weights.tolist(), strict=True):
            read = torch.add(read, self.pool[slot], alpha=float(weight), out=into)
        if read is base:
            into.copy_(base)

    def _weights(self, reading: Reading, slots: Int[np.ndarray, " n"]) -> Float[Tensor, " n"]:
        """The weights of these slots in one reading."""
        weights = self.stack[reading.circuit].weights
        place = torch.from_numpy(np.searchsorted(slots, reading.slots)).to(weights.device)
        own = weights[torch.from_numpy(reading.rows).to(weights.device), reading.column]
        return own.new_zeros(len(slots)).index_put((place,), own)

    def _chunks(self, readings: Sequence[Reading]) -> Iterator[Sequence[Reading]]:
        """The readings in groups to be read at once: of one port, which stays in the processor's
        cache, where few edges are kept; else together, by one matrix product."""
        groups = [readings]
        if self._few(readings):
            groups = [list(own) for _, own in groupby(readings, key=lambda one: one.column)]
        for group in groups:
            for start in range(0, len(group), TOGETHER):
                yield group[start : start + TOGETHER]

    # -- the layers --------------------------------------------------------------------------------
    def finals(self) -> Iterator[Float[Tensor, "b d"]]:
        """The residual that the logits read at the answer positions, of each circuit; circuits
        that share it give the same object."""
        wiring, carried = self.model.wiring, self.carried
        self._tell(0, 1)
        for layer, own in enumerate(self.plan.layers):
            first = wiring.first_head(layer)
            z = self._attention(layer, own) if own.lanes else None
            if layer + 1 == wiring.layers:
                self._end()
            if z is not None:
                self._write(layer, own, z)
            self._tell(first, first + wiring.heads)
            if wiring.mlp:
                self._mlp(layer)
                self._tell(first + wiring.heads, first + wiring.heads + 1)
        readings = self.plan.readings[wiring.shape[1] - 1]
        base = self._late(carried.final)
        ends = [self._read(base, [reading])[0, :, 0] for reading in readings]
        yield from (ends[i] for i in self.plan.reads[:, -1].tolist())

    def _attention(self, layer: int, own: Layer) -> Float[Tensor, "lanes b p h e"]:
        """What the heads' output projections take, in every lane."""
        model, batch = self.model, len(self.last)
        ports = self._ports(layer, own)
        context = self.context.tile(own.lanes)
        z = model.attend(context, layer, *(port.flatten(0, 1) for port in ports))
        return z.view(own.lanes, batch, *z.shape[1:])

    def _ports(self, layer: int, own: Layer) -> list[Float[Tensor, "lanes b p n e"]]:
        """q, k and v of a layer: of live heads from what each port reads; of the others from the
        carried residual where the heads are coupled, else nothing."""
        wiring, model = self.model.wiring, self.model
        base = self.carried.attn_in[layer]
        spans = list(wiring.ports(layer).values())
        if model.couples:
            out = [x.expand(own.lanes, *x.shape).clone() for x in model.project(layer, base)]
        else:
            sizes = [span.stop - span.start for span in spans]
            out = [base.new_zeros(own.lanes, *base.shape[:2], n, model.d_head) for n in sizes]
        late = self._given(layer, own)
        for i, span in enumerate(spans):
            for column in (c for c in own.ports if span.start <= c < span.stop):
                lanes, which = (torch.tensor(x, device=base.device) for x in own.ports[column])
                place = column - span.start
                out[i][lanes, :, self.start :, place] = late[column][which]
                if self.start and i:  # of early queries nobody looks at the heads
                    out[i][lanes, :, : self.start, place] = self.stage.early(layer, column)
        return out

    def _given(self, layer: int, own: Layer) -> dict[int, Float[Tensor, "n b s e"]]:
        """What each port gives for each of its readings."""
        base = self._late(self.carried.attn_in[layer])
        first = self.model.wiring.ports(layer)["q"].start
        found: dict[int, list[Tensor]] = {column: [] for column in own.ports}
        for chunk in self._chunks([r for c in own.ports for r in self.plan.readings[c]]):
            columns = [reading.column for reading in chunk]
            ports = [column - first for column in columns]
            for column, x in zip(
                columns, self.model.read(layer, ports, self._read(base, chunk)), strict=True
            ):
                found[column].append(x)
        return {column: torch.stack(x) for column, x in found.items()}

    def _write(self, layer: int, own: Layer, z: Float[Tensor, "lanes b p h e"]) -> None:
        """Add what the heads write."""
        model, carried = self.model, self._late(self.carried.heads[layer])
        z = z[:, self.examples, self.last][:, :, None] if self.ended else z[:, :, self.start :]
        heads, lanes = (list(x) for x in zip(*own.heads, strict=True))
        at = torch.tensor(heads, device=z.device)
        here = torch.tensor(lanes, device=z.device)
        if model.post_norm:  # the heads that are not live count in the norm with what they carry
            raw = self._late(self.carried.raw[layer])
            whole = raw.expand(len(z), *raw.shape).clone()
            whole[here, :, :, at] = z[here, :, :, at]
            z = model.share(layer, whole.flatten(0, 1)).view(z.shape)
        for start in range(0, len(heads), WRITTEN):
            part = slice(start, start + WRITTEN)
            change = z[here[part], :, :, at[part]].movedim(0, 2) - carried[:, :, at[part]]
            self._add(model.write(layer, heads[part], change))

    def _mlp(self, layer: int) -> None:
        """Add what the MLP writes."""
        readings = self.plan.readings.get(self.model.wiring.mlp_column(layer), [])
        base = self._late(self.carried.mlp_in[layer])
        for chunk in self._chunks(readings):
            out = self.model.mlp(layer, self._read(base, chunk).flatten(0, 1))
            self._add(out.view(len(chunk), *base.shape), self._late(self.carried.mlps[layer]))
