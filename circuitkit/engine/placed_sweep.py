"""The exact effect of many single edges between places.

An edge of the residual stream at a span is swept as the edge is (``circuitkit.engine.sweep``), with
what its writer changes at the tokens of the span alone. An edge of attention needs the attention of
its layer once more, in which a source's keys or values are those of the other run, for all heads
and destinations at once; what the edge's head computes at the destination then runs on. Runs begin
at the first token of what they change: the edge's span, or its destination. The slow twin, one
masked run per edge, is ``circuitkit.engine.placed``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.data.places import numbers
from circuitkit.engine.devices import moved
from circuitkit.engine.model import Activations, Context, Model, Ports
from circuitkit.engine.placed_plan import members_of
from circuitkit.engine.sweep import Rest, Value, Values, edge_blocks, measure, tokens_of, untouched
from circuitkit.graph.places import Edge, PlacedMask
from circuitkit.graph.stages import Stage

__all__ = ["placed_sweep"]

APART = 16  # tokens that a run has to spare for spans to begin by themselves


@torch.no_grad()
def placed_sweep(
    model: Model,
    batch: Batch,
    context: Context,
    base: Activations,
    other: Activations,
    metric: Value,
    wanted: PlacedMask,
    of_runs: Values | None = None,
) -> Iterator[tuple[list[Edge], Float[Tensor, "edges examples"]]]:
    """Blocks of edges, as ``Places.index`` gives them, each with the metric of every example in the
    base run when that edge alone carries what it does in the other run; ``of_runs`` as
    ``measure``. Where the two runs cannot differ at an edge's source nothing is run."""
    sweep = _Placed(model, batch, context, base, other, wanted)
    still = sweep.still()
    if still:
        at_rest = sweep.rest.finals({model.wiring.shape[0]: sweep.nothing})
        yield still, measure(model, at_rest, metric, of_runs).expand(len(still), -1)
    for block, ends in sweep.residual():
        yield block, measure(model, ends, metric, of_runs)
    for block, ends in sweep.attention():
        yield block, measure(model, ends, metric, of_runs)


class _Placed:
    """What each edge changes of a base run when it carries what it does in another one."""

    def __init__(
        self,
        model: Model,
        batch: Batch,
        context: Context,
        base: Activations,
        other: Activations,
        wanted: PlacedMask,
    ) -> None:
        self.model, self.batch, self.base, self.other = model, batch, base, other
        self.rest = Rest.of(model, batch, context, base, other)
        self.places, legal = wanted.places, wanted.places.legal
        self.asked = wanted.residual & legal.residual, wanted.attention & legal.attention
        self.of = numbers(batch, self.places.spans).to(base.embed.device)
        moves = torch.where(untouched(base, other), -1, self.of)
        spans = range(len(self.places.spans))
        self.moves: Bool[np.ndarray, " spans"] = np.array([bool((moves == s).any()) for s in spans])

    @cached_property
    def starts(self) -> list[tuple[Rest, Bool[np.ndarray, " spans"]]]:
        """The spans in groups that begin at about the same token, each with the rest of runs from
        there on: what lies before does not change."""
        of, last = self.of.cpu(), int(self.batch.last.min())
        first = [
            max(self.rest.start, min(int((of == span).any(0).int().argmax()), last))
            for span in range(len(self.moves))
        ]
        groups: list[tuple[Rest, Bool[np.ndarray, " spans"]]] = []
        for span in sorted(range(len(first)), key=first.__getitem__):
            if not groups or (first[span] - groups[-1][0].start) * len(self.batch) >= APART:
                groups.append((self.rest.since(first[span]), np.zeros(len(first), dtype=bool)))
            groups[-1][1][span] = True
        return groups

    def still(self) -> list[Edge]:
        """The edges whose sources are the same in both runs."""
        residual, attention = self.asked
        return [
            *((w, r, s) for w, r, s in np.argwhere(residual & ~self.moves).tolist()),
            *(
                (h, c, s, e)
                for h, c, s, e in np.argwhere(attention & ~self.moves[:, None]).tolist()
            ),
        ]

    @property
    def nothing(self) -> Float[Tensor, "1 b _ d"]:
        """No change, at the end."""
        end = self.model.wiring.shape[0]
        return torch.zeros_like(self.rest.late(end, self.base.final))[None]

    # -- edges of the residual stream --------------------------------------------------------------
    def residual(self) -> Iterator[tuple[list[Edge], Float[Tensor, "edges b d"]]]:
        """Blocks of them: each writer is one at each span."""
        spans = len(self.places.spans)
        table = (self.asked[0] & self.moves).transpose(0, 2, 1)

        def delta(number: int, change: Float[Tensor, "b p d"]) -> Float[Tensor, "b p d"]:
            here = moved(self.of == number % spans, change.device)
            return torch.where(here[..., None], change, 0)

        for rest, own in self.starts:
            wanted = (table & own[:, None]).reshape(-1, table.shape[-1])
            for block, ends in edge_blocks(rest, self.other, wanted, spans, delta):
                yield [(number // spans, column, number % spans) for number, column in block], ends

    # -- edges of attention ------------------------------------------------------------------------
    def attention(self) -> Iterator[tuple[list[Edge], Float[Tensor, "edges b d"]]]:
        """Blocks of them, layer by layer."""
        wanted = self.asked[1] & self.moves[:, None]
        for (stage, rows), (rest, ends) in product(self.places.stages, self.starts):
            place = self.model.wiring.entry(stage.rows.start)
            own = [(h, c, s, e) for h, c, s, e in np.argwhere(wanted[rows] & ends).tolist()]
            own.sort(key=lambda edge: (edge[1], edge[2], edge[0], edge[3]))
            size = rest.size(place)
            for start in range(0, len(own), size):
                part = own[start : start + size]
                changes = self._changes(stage, part, rest)
                edges: list[Edge] = [(rows.start + h, c, s, e) for h, c, s, e in part]
                yield edges, rest.finals({place: changes})

    def _changes(
        self, stage: Stage, edges: Sequence[tuple[int, int, int, int]], rest: Rest
    ) -> Float[Tensor, "edges b s d"]:
        """What the stage writes beyond what it wrote in the base run, for each edge."""
        kind = self.model.kinds[stage.kind]
        plain = rest.wrote_late(stage, self.base.computed[stage.index])
        of = moved(rest.wrote_late(stage, self.of), plain.device)
        keys = [self._key(stage, edge) for edge in edges]
        computed = self._computed(stage, list(dict.fromkeys(keys)), rest)
        mixed = plain.expand(len(edges), *plain.shape).clone()
        for number, (key, (head, _, _, destination)) in enumerate(zip(keys, edges, strict=True)):
            here = (of == destination)[..., None, None]
            fed = self._moved(stage, head)
            mixed[number][:, :, fed] = torch.where(here, computed[key][:, :, fed], plain[:, :, fed])
        out, _ = kind.out(self.model, stage, mixed.flatten(0, 1))
        return out.view(len(edges), -1, *out.shape[1:]) - kind.out(self.model, stage, plain)[0]

    def _key(self, stage: Stage, edge: tuple[int, int, int, int]) -> tuple[int, int, int | None]:
        """Edges of one key share an attention: those of a source, unless the keys of one group move
        the heads of others."""
        head, port, source, _ = edge
        coupled = self.model.kinds[stage.kind].couples(self.model)
        group = stage.part.feeds[head][1 + port] - sum(stage.part.ports[: 1 + port])
        return port, source, group if coupled else None

    def _moved(self, stage: Stage, head: int) -> list[int]:
        """The heads that an edge into a head moves: it alone, or all that attend with it."""
        if not self.model.kinds[stage.kind].couples(self.model):
            return [head]
        place = members_of(stage)
        return [other for other in range(stage.writes) if place[other] == place[head]]

    def _computed(
        self, stage: Stage, keys: Sequence[tuple[int, int, int | None]], rest: Rest
    ) -> dict[tuple[int, int, int | None], Float[Tensor, "b s n e"]]:
        """What all heads compute where the sources of a key are those of the other run."""
        found = dict[tuple[int, int, int | None], Tensor]()
        most = max(1, tokens_of(self.model) // self.batch.clean.numel())
        for start in range(0, len(keys), most):
            some = keys[start : start + most]
            ports = [x.expand(len(some), *x.shape).clone() for x in rest.ports(stage)]
            for lane, (port, source, group) in enumerate(some):
                here = moved(self.of == source, ports[0].device)[..., None, None]
                groups = slice(None) if group is None else slice(group, group + 1)
                into = ports[1 + port][lane, :, :, groups]
                others = self._other_ports[stage.index][1 + port][:, :, groups]
                ports[1 + port][lane, :, :, groups] = torch.where(here, others, into)
            computed = rest.compute(stage, [x.flatten(0, 1) for x in ports])
            computed = rest.wrote_late(stage, computed)
            parts = computed.view(len(some), -1, *computed.shape[1:])
            found |= zip(some, parts, strict=True)
        return found

    @cached_property
    def _other_ports(self) -> dict[int, Ports]:
        """What the ports of each attention give in the other run."""
        return {
            stage.index: self.model.kinds[stage.kind].project(
                self.model, stage, self.other.reads[stage.index]
            )
            for stage, _ in self.places.stages
        }
