"""Many runs that each leave one base run at some place, and so the exact effect of single edges.

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
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.model import Activations, Context, Model
from circuitkit.engine.run import Tap, as_it_is, beginning, difference
from circuitkit.graph.wiring import Wiring

__all__ = ["Place", "Rest", "Value", "entry", "measure", "residual", "sweep", "untouched"]

TOKENS = 1536  # that run at once: what an MLP computes then stays in the processor's cache
LOGITS = 2**24  # that exist at once
Value: TypeAlias = Callable[[Float[Tensor, "b vocab"]], Float[Tensor, "*metrics b"]]
Edge: TypeAlias = tuple[int, int]
Key: TypeAlias = tuple[int, int, int | None]
T = TypeVar("T")
# Where a change enters the residual stream: before a layer (the last such place is the logits), or,
# if the flag is set, between a layer's attention and its MLP. Places are ordered as they come.
Place: TypeAlias = tuple[int, bool]


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
    edges = _Edges(Rest.of(model, batch, context, base, other), other)
    for block, ends in edges.blocks(wanted & model.wiring.legal):
        yield list(block), measure(model, ends, metric)


def measure(
    model: Model, ends: Float[Tensor, "n b d"], metric: Value
) -> Float[Tensor, "n *metrics b"]:
    """The metric (or several) of every example in each run, from what the logits read at the
    answers."""
    size = max(1, LOGITS // (ends.shape[1] * model.d_vocab))
    values = []
    for i in range(0, len(ends), size):
        some = ends[i : i + size]
        logits = _split(model.unembed(some.flatten(0, 1)), len(some))
        values += [metric(one) for one in logits]
    return torch.stack(values)


def entry(wiring: Wiring, row: int) -> Place:
    """The first place at which what a writer writes is heard."""
    if row == 0:
        return 0, False
    layer, at = divmod(row - 1, wiring.heads + wiring.mlp)
    between = wiring.mlp and not wiring.parallel and at < wiring.heads
    return (layer, True) if between else (layer + 1, False)


def residual(run: Activations, place: Place) -> Float[Tensor, "b p d"]:
    """The residual stream of a run at a place."""
    layer, between = place
    if between:
        return run.mlp_in[layer]
    return run.attn_in[layer] if layer < len(run.attn_in) else run.final


def untouched(base: Activations, other: Activations) -> Bool[Tensor, "b p"]:
    """Where a run that leaves one real run for another cannot have changed: before the first token
    at which they differ; nowhere if one of them is no real run."""
    same = base.untouched([other.embed - base.embed])
    return same if other.consistent else torch.zeros_like(same)


# -- the rest of a run -----------------------------------------------------------------------------
class Rest:
    """The rest of runs that leave a base run at the position ``start`` or after.

    The positions before are what they are in the base run, so their keys and values are taken from
    there. After the last attention only the answer positions are run: nobody looks at the others.
    """

    def __init__(
        self, model: Model, batch: Batch, context: Context, base: Activations, start: int = 0
    ) -> None:
        self.model, self.batch, self.base, self.start = model, batch, base, start
        self.context, self.tiled = context, {1: context}
        self.known: dict[int, tuple[Tensor, Tensor]] = {}

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

    def size(self, place: Place) -> int:
        """How many runs from this place on go well at once."""
        width = 1 if self._ended(place) else self.batch.clean.shape[1] - self.start
        return max(1, TOKENS // (len(self.batch) * width))

    def _ended(self, place: Place) -> bool:
        return place > (self.model.wiring.layers - 1, False)

    def late(self, place: Place, x: Float[Tensor, "m p *rest"]) -> Float[Tensor, "m s *rest"]:
        """The positions that are run from this place on: those from the start, or the answers."""
        late = x[:, self.start :]
        return self._ends(late) if self._ended(place) else late.contiguous()

    def _ends(self, late: Float[Tensor, "m s *rest"]) -> Float[Tensor, "m 1 *rest"]:
        at = (self.batch.last - self.start).clamp(min=0).repeat(len(late) // len(self.batch))
        return late[torch.arange(len(late), device=late.device), at][:, None]

    def finals(
        self, changes: Mapping[Place, Float[Tensor, "n b s d"]], tap: Tap = as_it_is
    ) -> Float[Tensor, "m b d"]:
        """The final residual at the answers of runs that each add one change to the base run, in
        the order of their places; a change holds the positions that ``late`` gives there.

        ``tap(kind, layer, x)`` sees what a layer's attention (``attn_out``) or MLP (``mlp_out``)
        writes in the runs that have begun, and may replace it; it holds the positions that ``late``
        gives between the two.
        """
        layers = self.model.wiring.layers
        x = self.base.embed.new_empty(0, 1, self.model.d_model)
        for layer in range(min(changes)[0], layers):
            x = self._layer(layer, self._join(x, (layer, False), changes), changes, tap)
        x = self._join(x, (layers, False), changes)
        return _split(x[:, 0], len(x) // len(self.batch))

    def _join(
        self,
        x: Float[Tensor, "m s d"],
        place: Place,
        changes: Mapping[Place, Float[Tensor, "n b s d"]],
    ) -> Float[Tensor, "k s d"]:
        """The runs so far, and those that begin at this place."""
        if place not in changes:
            return x
        new = (self.late(place, residual(self.base, place)) + changes[place]).flatten(0, 1)
        return torch.cat([x, new]) if len(x) else new

    def _layer(
        self,
        layer: int,
        x: Float[Tensor, "m s d"],
        changes: Mapping[Place, Float[Tensor, "n b s d"]],
        tap: Tap,
    ) -> Float[Tensor, "k s d"]:
        """The runs after a layer, among them those that begin within it."""
        model, between, middle = self.model, (layer, True), x
        if len(x):
            z = self.late(between, self._attend(layer, x))
            x = self._ends(x) if self._ended(between) else x
            middle = x + tap("attn_out", layer, model.attention_out(layer, z)[0])
        middle = self._join(middle, between, changes)
        if not model.wiring.mlp:
            return middle
        wrote = model.mlp(layer, x if model.wiring.parallel else middle)
        return middle + tap("mlp_out", layer, wrote)

    def _attend(self, layer: int, x: Float[Tensor, "m s d"]) -> Float[Tensor, "m p h e"]:
        q, k, v = self.model.project(layer, x)
        if self.start:  # the early queries are zeros, for nobody looks at their heads
            q = torch.nn.functional.pad(q, (0, 0, 0, 0, self.start, 0))
            k, v = (self._after(early, late)
                    for early, late in zip(self.keys(layer), (k, v), strict=True))  # fmt: skip
        return self.attend(layer, q, k, v)

    def _after(
        self, early: Float[Tensor, "b p g e"], late: Float[Tensor, "m s g e"]
    ) -> Float[Tensor, "m p g e"]:
        """The base run's early keys or values, and after them each run's own."""
        own = _split(late, len(late) // len(early))
        early = early[:, : self.start].expand(len(own), -1, -1, -1, -1)
        return torch.cat([early, own], dim=2).flatten(0, 1)

    def keys(self, layer: int) -> tuple[Float[Tensor, "b p g e"], Float[Tensor, "b p g e"]]:
        """The base run's keys and values of a layer, projected once."""
        if layer not in self.known:
            _, k, v = self.model.project(layer, self.base.attn_in[layer])
            self.known[layer] = k, v
        return self.known[layer]

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "m p h e"],
        k: Float[Tensor, "m p g e"],
        v: Float[Tensor, "m p g e"],
    ) -> Float[Tensor, "m p h e"]:
        """The attention of many runs at once."""
        times = len(q) // len(self.batch)
        if times not in self.tiled:
            self.tiled.clear()
            self.tiled[times] = self.context.tile(times)
        return self.model.attend(self.tiled[times], layer, q, k, v)


# -- single edges ----------------------------------------------------------------------------------
class _Edges:
    """What each edge changes of a base run when it carries what is written in another one."""

    def __init__(self, rest: Rest, other: Activations) -> None:
        self.rest, self.model, self.base, self.other = rest, rest.model, rest.base, other
        self.wiring = self.model.wiring
        self.plain: dict[int, tuple[Tensor, ...]] = {}

    def blocks(
        self, wanted: Bool[np.ndarray, "writers readers"]
    ) -> Iterator[tuple[Sequence[Edge], Float[Tensor, "edges b d"]]]:
        """Blocks of edges, layer by layer, each with its runs' final residuals."""
        wiring = self.wiring
        for layer in range(wiring.layers):
            spans = wiring.ports(layer)
            ports = slice(spans["q"].start, spans["v"].stop)
            place = entry(wiring, wiring.first_head(layer))
            yield from self._finals(place, self._attention(layer, _listed(wanted, ports)))
            if wiring.mlp:
                column = wiring.mlp_column(layer)
                edges = _listed(wanted, slice(column, column + 1))
                yield from self._finals((layer + 1, False), self._mlp(layer, edges))
        edges = _listed(wanted, slice(wiring.shape[1] - 1, wiring.shape[1]))
        yield from self._finals((wiring.layers, False), self._logits(edges))

    def _finals(
        self, place: Place, changed: Iterator[tuple[Sequence[Edge], Float[Tensor, "edges b s d"]]]
    ) -> Iterator[tuple[Sequence[Edge], Float[Tensor, "edges b d"]]]:
        for edges, changes in changed:
            yield edges, self.rest.finals({place: changes})

    def _deltas(self, place: Place, rows: Sequence[int]) -> Float[Tensor, "n b s d"]:
        """What these writers write in the other run, less what they write in the base run."""
        deltas = (difference(self.model, self.other, self.base, row) for row in rows)
        return torch.stack([self.rest.late(place, delta) for delta in deltas])

    def _logits(
        self, edges: Sequence[Edge]
    ) -> Iterator[tuple[Sequence[Edge], Float[Tensor, "edges b 1 d"]]]:
        place = (self.wiring.layers, False)
        for block in _parts(edges, self.rest.size(place)):
            yield block, self._deltas(place, [row for row, _ in block])

    def _mlp(
        self, layer: int, edges: Sequence[Edge]
    ) -> Iterator[tuple[Sequence[Edge], Float[Tensor, "edges b s d"]]]:
        """What a layer's MLP writes less than, or beyond, what it wrote in the base run."""
        place = (layer, True)
        read, wrote = (self.rest.late(place, x[layer]) for x in (self.base.mlp_in, self.base.mlps))
        for block in _parts(edges, self.rest.size(place)):
            reads = read + self._deltas(place, [row for row, _ in block])
            out = self.model.mlp(layer, reads.flatten(0, 1))
            yield block, _split(out, len(block)) - wrote

    def _attention(
        self, layer: int, edges: Sequence[Edge]
    ) -> Iterator[tuple[Sequence[Edge], Float[Tensor, "edges b s d"]]]:
        """What a layer's attention writes beyond what it wrote in the base run."""
        rows = sorted({row for row, _ in edges})
        for some in _parts(rows, max(1, TOKENS // (3 * self.rest.batch.clean.numel()))):
            own = [edge for edge in edges if some[0] <= edge[0] <= some[-1]]
            heads = self._heads(layer, some, own)
            for block in _parts(own, self.rest.size((layer, True))):
                yield block, self._written(layer, block, heads)

    def _heads(
        self, layer: int, rows: Sequence[int], edges: Sequence[Edge]
    ) -> dict[Key, Float[Tensor, "b s h e"]]:
        """What the output projection takes when ports read what these writers change."""
        rest, model, place = self.rest, self.model, (layer, False)
        residual = self.base.attn_in[layer]
        reads = rest.late(place, residual) + self._deltas(place, rows)
        changed = [_split(x, len(rows)) for x in model.project(layer, reads.flatten(0, 1))]
        keys = list(dict.fromkeys(self._key(layer, edge) for edge in edges))
        ports = [x.expand(len(keys), *x.shape).clone() for x in self._plain(layer)]
        for i, (row, kind, at) in enumerate(keys):
            own = slice(None) if at is None else slice(at, at + 1)
            ports[kind][i, :, rest.start :, own] = changed[kind][rows.index(row), :, :, own]
        z = rest.attend(layer, *(x.flatten(0, 1) for x in ports))
        z = rest.late((layer, True), z)
        return dict(zip(keys, _split(z, len(keys)), strict=True))

    def _key(self, layer: int, edge: Edge) -> Key:
        """Edges of one key share an attention: those of one writer into all queries, keys or
        values of a layer, unless a change of one of these moves the heads of the others."""
        row, column = edge
        spans = list(self.wiring.ports(layer).values())
        kind = next(i for i, span in enumerate(spans) if span.start <= column < span.stop)
        return row, kind, column - spans[kind].start if self.model.couples else None

    def _plain(self, layer: int) -> tuple[Tensor, ...]:
        """q, k and v in the base run; those of the layer at work are kept."""
        if layer not in self.plain:
            self.plain = {layer: self.model.project(layer, self.base.attn_in[layer])}
        return self.plain[layer]

    def _written(
        self, layer: int, edges: Sequence[Edge], heads: Mapping[Key, Float[Tensor, "b s h e"]]
    ) -> Float[Tensor, "n b s d"]:
        """What the attention writes beyond what it wrote in the base run, for each edge."""
        raw = self.rest.late((layer, True), self.base.raw[layer])
        z = raw.expand(len(edges), *raw.shape).clone()
        for i, edge in enumerate(edges):
            fed = slice(None) if self.model.couples else self._fed(layer, edge)
            z[i, :, :, fed] = heads[self._key(layer, edge)][:, :, fed]
        out, _ = self.model.attention_out(layer, z.flatten(0, 1))
        return _split(out, len(edges)) - self.model.attention_out(layer, raw)[0]

    def _fed(self, layer: int, edge: Edge) -> list[int]:
        """The heads that an edge's port feeds."""
        first = self.wiring.first_head(layer)
        return [h for h in range(self.wiring.heads) if edge[1] in self.wiring.feeds(first + h)]


def _listed(wanted: Bool[np.ndarray, "writers readers"], columns: slice) -> list[Edge]:
    """The wanted edges into these columns, writer by writer."""
    return [(int(row), columns.start + int(c)) for row, c in np.argwhere(wanted[:, columns])]


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _split(x: Float[Tensor, "m *rest"], n: int) -> Float[Tensor, "n b *rest"]:
    return x.view(n, -1, *x.shape[1:])
