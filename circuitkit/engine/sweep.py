"""The exact effect of many single edges.

Each edge is the one thing in which its run differs from a base run, so a run begins at the edge's
reader, from the base's activations. Many edges run at once, as further examples of one batch; a
writer's effect on all ports of a layer shares the norm and the projections; an edge into the logits
needs no run at all. The slow twin, one masked run per edge, is ``circuitkit.engine.run``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.data import Batch
from circuitkit.engine.run import difference
from circuitkit.model import Activations, Context, Model

__all__ = ["sweep"]

TOKENS = 4096  # that run at once: more gains nothing, and costs memory
Value: TypeAlias = Callable[[Float[Tensor, "b vocab"]], Float[Tensor, " b"]]
Edge: TypeAlias = tuple[int, int]


@torch.no_grad()
def sweep(
    model: Model,
    batch: Batch,
    context: Context,
    base: Activations,
    other: Activations,
    metric: Value,
    wanted: Bool[np.ndarray, "writers readers"],
) -> Iterator[tuple[list[Edge], Float[Tensor, "edges b"]]]:
    """Blocks of edges (row, column), each with the metric of every example in the base run when
    that edge alone carries what its writer writes in the other run."""
    yield from _Sweep(model, batch, context, base, other, metric).blocks(
        wanted & model.wiring.legal
    )


class _Sweep:
    def __init__(
        self,
        model: Model,
        batch: Batch,
        context: Context,
        base: Activations,
        other: Activations,
        metric: Value,
    ) -> None:
        self.model, self.batch, self.context = model, batch, context
        self.base, self.other, self.metric = base, other, metric
        self.size = max(1, TOKENS // batch.clean.numel())

    def blocks(
        self, wanted: Bool[np.ndarray, "writers readers"]
    ) -> Iterator[tuple[list[Edge], Float[Tensor, "edges b"]]]:
        """The blocks, layer by layer."""
        wiring = self.model.wiring
        for layer in range(wiring.layers):
            spans = wiring.ports(layer)
            ports = slice(spans["q"].start, spans["v"].stop)
            yield from self._run(_listed(wanted, ports), layer, self._attention)
            if wiring.mlp:
                column = wiring.mlp_column(layer)
                yield from self._run(_listed(wanted, slice(column, column + 1)), layer, self._mlp)
        final = slice(wiring.shape[1] - 1, wiring.shape[1])
        yield from self._run(_listed(wanted, final), wiring.layers, self._final)

    def _run(
        self,
        edges: list[Edge],
        layer: int,
        work: Callable[[int, list[Edge]], Float[Tensor, "n b d"]],
    ) -> Iterator[tuple[list[Edge], Float[Tensor, "edges b"]]]:
        for start in range(0, len(edges), self.size):
            block = edges[start : start + self.size]
            ends = work(layer, block)
            logits = _split(self.model.unembed(ends.flatten(0, 1)), len(block))
            yield block, torch.stack([self.metric(one) for one in logits])

    # -- what one edge changes --------------------------------------------------------------------
    def _deltas(self, rows: Sequence[int]) -> Float[Tensor, "n b p d"]:
        """What these writers write in the other run, less what they write in the base run."""
        return torch.stack([difference(self.model, self.other, self.base, row) for row in rows])

    def _attention(self, layer: int, edges: list[Edge]) -> Float[Tensor, "n b d"]:
        """The final residual at the answers, of edges into a layer's ports."""
        model, wiring = self.model, self.model.wiring
        rows = sorted({row for row, _ in edges})
        read = self.base.attn_in[layer] + self._deltas(rows)
        changed = [_split(x, len(rows)) for x in model.project(layer, read.flatten(0, 1))]
        plain = model.project(layer, self.base.attn_in[layer])
        ports = [x.expand(len(edges), *x.shape).clone() for x in plain]
        spans = list(wiring.ports(layer).values())
        for n, (row, column) in enumerate(edges):
            kind = next(i for i, span in enumerate(spans) if span.start <= column < span.stop)
            place = column - spans[kind].start
            ports[kind][n, :, :, place] = changed[kind][rows.index(row), :, :, place]
        many = _tile(self.context, len(edges), len(self.batch))
        z = model.attend(many, layer, *(x.flatten(0, 1) for x in ports))
        x = self.base.attn_in[layer].repeat(len(edges), 1, 1)
        return _split(self._finish(many, layer, x, z), len(edges))

    def _mlp(self, layer: int, edges: list[Edge]) -> Float[Tensor, "n b d"]:
        """The final residual at the answers, of edges into a layer's MLP."""
        model, base = self.model, self.base
        read = base.mlp_in[layer] + self._deltas([row for row, _ in edges])
        after = base.final if layer + 1 == model.wiring.layers else base.attn_in[layer + 1]
        out = _split(model.mlp(layer, read.flatten(0, 1)), len(edges))
        x = (after + out - base.mlps[layer]).flatten(0, 1)
        many = _tile(self.context, len(edges), len(self.batch))
        return _split(self._layers(many, layer + 1, x), len(edges))

    def _final(self, layer: int, edges: list[Edge]) -> Float[Tensor, "n b d"]:
        """The final residual at the answers, of edges into the logits."""
        at = torch.arange(len(self.batch), device=self.batch.last.device)
        deltas = self._deltas([row for row, _ in edges])
        return (self.base.final + deltas)[:, at, self.batch.last]

    # -- the rest of the run ----------------------------------------------------------------------
    def _layers(
        self, context: Context, layer: int, x: Float[Tensor, "m p d"]
    ) -> Float[Tensor, "m d"]:
        """The final residual at the answers, of a plain run from before this layer."""
        if layer == self.model.wiring.layers:
            return self._ends(x)
        z = self.model.attend(context, layer, *self.model.project(layer, x))
        return self._finish(context, layer, x, z)

    def _finish(
        self, context: Context, layer: int, x: Float[Tensor, "m p d"], z: Float[Tensor, "m p h e"]
    ) -> Float[Tensor, "m d"]:
        """The same, from within a layer: what its heads' projections take is given."""
        model, last = self.model, layer + 1 == self.model.wiring.layers
        if last:  # from here on only the answer positions matter
            x, z = self._ends(x)[:, None], self._ends(z)[:, None]
        middle = x + model.attention_out(layer, z)[0]
        if model.wiring.mlp:
            middle = middle + model.mlp(layer, x if model.wiring.parallel else middle)
        return middle[:, 0] if last else self._layers(context, layer + 1, middle)

    def _ends(self, x: Float[Tensor, "m p *rest"]) -> Float[Tensor, "m *rest"]:
        rows = torch.arange(len(x), device=x.device)
        return x[rows, self.batch.last.repeat(len(x) // len(self.batch))]


def _listed(wanted: Bool[np.ndarray, "writers readers"], columns: slice) -> list[Edge]:
    """The wanted edges into these columns, writer by writer."""
    return [(int(row), columns.start + int(c)) for row, c in np.argwhere(wanted[:, columns])]


def _split(x: Float[Tensor, "m *rest"], n: int) -> Float[Tensor, "n b *rest"]:
    return x.view(n, -1, *x.shape[1:])


def _tile(context: Context, times: int, batch: int) -> Context:
    """The context of the batch repeated so many times."""

    def again(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim and len(value) == batch > 1:
            return value.repeat(times, *[1] * (value.ndim - 1))
        if isinstance(value, (tuple, list)):
            return type(value)(map(again, value))
        return value

    calls = tuple({key: again(value) for key, value in call.items()} for call in context.calls)
    return Context(context.embed, calls)
