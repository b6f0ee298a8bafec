"""The model under a mask over its edges.

For a reader r, with w running over the writers upstream of it,

    input[r] = Σ_w  keep[w, r] · live[w]  +  (1 − keep[w, r]) · carried[w]

``live`` is what a writer writes in this run, ``carried`` what a cut edge carries. A component none
of whose in-edges is kept writes what it wrote in the carried run, so it is not computed: the cost
follows the circuit. Keeping everything is the clean run, keeping nothing the carried run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.data import Batch
from circuitkit.model import Activations, Context, Model

__all__ = ["Tap", "answer", "assemble", "difference", "record", "run"]

Mask: TypeAlias = Bool[np.ndarray, "writers readers"] | Float[Tensor, "writers readers"]
Tap: TypeAlias = Callable[[str, int, Tensor], Tensor]
TOGETHER = 8  # readers that are mixed by one matrix product
FEW = 8  # edges per reader up to which adding them one by one is faster


def _untouched(_: str, __: int, x: Tensor) -> Tensor:
    return x


def record(
    model: Model,
    context: Context,
    embed: Float[Tensor, "b p d"] | None = None,
    tap: Tap = _untouched,
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
    is not computed but told (path patching); without it, the embedding is that of the context.
    """
    given = {0: context.embed - carried.embed} if given is None else given
    return model.unembed(_Run(model, batch, context, carried, keep, given).final())


class _Run:
    """One masked run: the writers that differ from the carried run, as they come.

    ``deltas`` holds live − carried of the live writers, and ``rows`` which writers they are. The
    buffer is filled in place, unless a gradient flows through it. Positions before the first token
    at which the two runs differ are what they are in the carried run; the masked run begins after.
    """

    def __init__(
        self,
        model: Model,
        batch: Batch,
        context: Context,
        carried: Activations,
        keep: Mask,
        given: Mapping[int, Float[Tensor, "b p d"]],
    ) -> None:
        wiring = model.wiring
        self.rows_of_batch = torch.arange(len(batch), device=batch.last.device)
        self.last, self.ended = batch.last, False
        self.model, self.context, self.carried, self.given = model, context, carried, given
        legal = torch.from_numpy(wiring.legal).to(model.device)
        weights = torch.as_tensor(keep).to(model.device, model.dtype)
        self.keep = torch.where(legal, weights, weights.new_zeros(()))
        self.graded = self.keep.requires_grad
        kept = wiring.legal if self.graded else (self.keep != 0).cpu().numpy()
        self.writes = [bool(row.any()) for row in wiring.alive(kept, given)]
        self.rows: list[int] = []
        self.blocks: list[Tensor] = []
        same = carried.untouched(given.values())
        if same.all():  # the two runs are one
            self.writes = [False] * len(self.writes)
        self.start = min(int(same.all(0).sum()), int(batch.last.min()))
        embed = self._late(context.embed)
        self.buffer = embed.new_empty(0 if self.graded else sum(self.writes), *embed.shape)
        self._tell(0, 1)

    def _late(self, x: Float[Tensor, "b p *rest"]) -> Float[Tensor, "b s *rest"]:
        """The positions that are run: after the last attention, the answers' alone."""
        return x[self.rows_of_batch, self.last][:, None] if self.ended else x[:, self.start :]

    def _end(self) -> None:
        """From here on run the answer positions only: no other is looked at any more."""
        place = self.last - self.start
        self.blocks = [self._deltas()[:, self.rows_of_batch, place][:, :, None]]
        if not self.graded:
            known = self.blocks[0]
            self.buffer = known.new_empty(len(self.buffer), *known.shape[1:])
            self.buffer[: len(self.rows)] = known
        self.ended = True

    def _tell(self, first: int, stop: int) -> None:
        """Add what is given of these writers, where it is heard."""
        rows = [row for row in range(first, stop) if row in self.given and self.writes[row]]
        if rows:
            self._add(rows, torch.stack([self._late(self.given[row]) for row in rows]))

    def _add(self, rows: Sequence[int], deltas: Float[Tensor, "n b s d"]) -> None:
        if self.graded:
            self.blocks.append(deltas)
        else:
            self.buffer[len(self.rows) : len(self.rows) + len(rows)] = deltas
        self.rows += rows

    def _deltas(self) -> Float[Tensor, "n b s d"]:
        if not self.graded:
            return self.buffer[: len(self.rows)]
        self.blocks = [torch.cat(self.blocks)]
        return self.blocks[0]

    def read(
        self, base: Float[Tensor, "b s d"], columns: Sequence[int]
    ) -> Float[Tensor, "r b s d"]:
        """What these readers read: the carried residual, and what live writers change of it."""
        mix = self.keep[self.rows][:, list(columns)].T
        deltas = self._deltas()
        if len(columns) > 1 or self.graded:
            read = torch.addmm(base.reshape(1, -1), mix, deltas.flatten(1))
            return read.view(len(columns), *base.shape)
        read = base
        for i, weight in enumerate(mix[0].tolist()):
            read = torch.add(read, deltas[i], alpha=weight) if weight else read
        return read[None]

    def _groups(self, columns: Sequence[int]) -> Iterator[Sequence[int]]:
        """The columns in groups to be read at once: one by one, which stays in the processor's
        cache, where few edges are kept; else together, by one matrix product."""
        kept = int(self.keep[self.rows][:, list(columns)].count_nonzero())
        size = 1 if kept <= FEW * len(columns) and not self.graded else TOGETHER
        for start in range(0, len(columns), size):
            yield columns[start : start + size]

    def final(self) -> Float[Tensor, "b d"]:
        """The residual that the logits read, at the answer positions."""
        wiring, carried = self.model.wiring, self.carried.final
        if not any(self.writes):
            return carried[self.rows_of_batch, self.last]
        for layer in range(wiring.layers):
            first = wiring.first_head(layer)
            heads = [h for h in range(wiring.heads) if self._computed(first + h)]
            ports = self._ports(layer, heads) if heads else []
            z = self.model.attend(self.context, layer, *ports) if heads else None
            if layer + 1 == wiring.layers:
                self._end()
            if z is not None:
                self._write(layer, heads, self._late(z))
            self._tell(first, first + wiring.heads)
            if wiring.mlp and self._computed(wiring.mlp_row(layer)):
                self._mlp(layer)
            self._tell(first + wiring.heads, first + wiring.heads + wiring.mlp)
        return self.read(self._late(carried), [wiring.shape[1] - 1])[0][:, 0]

    def _computed(self, row: int) -> bool:
        return self.writes[row] and row not in self.given

    def _write(self, layer: int, heads: Sequence[int], z: Float[Tensor, "b s h e"]) -> None:
        model, carried = self.model, self.carried
        index = torch.tensor(heads, device=z.device)
        # in a post-norm model the heads that are not live count in the norm with what they carry
        together = self._late(carried.raw[layer]).index_copy(2, index, z[:, :, heads])
        share = model.share(layer, together)
        delta = (share - self._late(carried.heads[layer]))[:, :, heads]
        first = model.wiring.first_head(layer)
        self._add([first + h for h in heads], model.write(layer, heads, delta))

    def _ports(self, layer: int, heads: Sequence[int]) -> list[Tensor]:
        """q, k and v of a layer: of live heads from what each port reads; of the others from the
        carried residual where the heads are coupled, else nothing."""
        wiring, model = self.model.wiring, self.model
        base = self.carried.attn_in[layer]
        ports = wiring.ports(layer)
        if model.couples:
            out = list(model.project(layer, base))
        else:
            sizes = [s.stop - s.start for s in ports.values()]
            out = [base.new_zeros(*base.shape[:2], size, model.d_head) for size in sizes]
        live = sorted({c for h in heads for c in wiring.feeds(wiring.first_head(layer) + h)})
        given: dict[int, Tensor] = {}
        for columns in self._groups(live):
            index = [c - ports["q"].start for c in columns]
            read = model.read(layer, index, self.read(self._late(base), columns))
            given |= dict(zip(columns, read, strict=True))
        early = self._early(layer, [c for c in live if c >= ports["k"].start])
        for i, span in enumerate(ports.values()):
            here = [c for c in live if span.start <= c < span.stop]
            place = torch.tensor([c - span.start for c in here], device=base.device)
            full = torch.stack([self._whole(given[c], early.get(c)) for c in here], dim=2)
            out[i] = out[i].index_copy(2, place, full)
        return out

    def _early(self, layer: int, columns: Sequence[int]) -> dict[int, Tensor]:
        """The keys and values of the positions that are not run: those of the carried run."""
        if not self.start:
            return {}
        base = self.carried.attn_in[layer][None, :, : self.start]
        index = [c - self.model.wiring.ports(layer)["q"].start for c in columns]
        return dict(zip(columns, self.model.read(layer, index, base), strict=True))

    def _whole(
        self, late: Float[Tensor, "b s e"], early: Float[Tensor, "b f e"] | None
    ) -> Float[Tensor, "b p e"]:
        """All positions; of queries the early ones are zeros, for nobody looks at their heads."""
        if early is None:
            return torch.nn.functional.pad(late, (0, 0, self.start, 0))
        return torch.cat([early, late], dim=1)

    def _mlp(self, layer: int) -> None:
        wiring, carried = self.model.wiring, self.carried
        column = wiring.mlp_column(layer)
        read = self.read(self._late(carried.mlp_in[layer]), [column])[0]
        delta = self.model.mlp(layer, read) - self._late(carried.mlps[layer])
        self._add([wiring.mlp_row(layer)], delta[None])
