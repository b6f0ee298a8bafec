"""The score of every edge between places: of the residual stream in its spans, and of attention
between them.

An edge of the residual stream stays in its span, so its scores are the products of
``circuitkit.engine.attribute`` in groups of tokens. Those of attention's edges are the gradients of
the metric in the mask of keys and values: of head h at token t (of the destination) and token j (of
the source), with the pattern P, the scores S before the softmax and g = ∂metric/∂z,

    value[h, t, j] = P[h, t, j] · ⟨g[h, t], Δv[j]⟩
    key[h, t, j] = ∂metric/∂S[h, t, j] · Ṡ[h, t, j]

where Ṡ is the derivative of S in the direction Δk at all tokens: S[t, j] depends on the key of j
alone. So one pass forward through a layer's attention, with that derivative, and one back to its
scores give all pairs of tokens, whatever the number of spans and of heads that share a key.

Whether this is so (a norm over all keys at once would be another thing) is seen in the numbers: all
that goes out of a key or a value must sum to its own gradient times its change. Where it does not,
the layer is scored by one product of vector and Jacobian for each destination and each head of a
group.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import forward_ad

from circuitkit.data.batches import Batch
from circuitkit.engine.attribute import Pulls, score_groups
from circuitkit.engine.devices import device_of, moved
from circuitkit.engine.gradients import Gradients, holding
from circuitkit.engine.model import Activations, Context, Model, Ports
from circuitkit.engine.numerics import wide
from circuitkit.engine.softmax import EachSoftmax
from circuitkit.graph.places import PORTS, Places
from circuitkit.graph.stages import Stage

__all__ = ["Grouped", "bytes_of", "grouped", "score_places"]

TOLERANCE = 1e-4  # of the sum over a key's destinations, of the largest that its parts sum to
ROUNDING = 8  # the same, in units of the precision of half floats


@dataclass(frozen=True)
class Grouped:
    """The span of each token (−1: none) and the set of examples that each row of a batch belongs
    to, which are scored apart."""

    spans: Int[Tensor, "b p"]
    sets: Int[Tensor, " b"]
    n_spans: int
    n_sets: int
    tokens: Int[Tensor, "b p"]  # of sets × spans
    alike: bool  # whether all rows have the same spans, and are scored together

    def on(self, device: torch.device) -> tuple[Int[Tensor, "b p"], Int[Tensor, " b"]]:
        """The spans and the sets on a device."""
        return moved(self.spans, device), moved(self.sets, device)


def grouped(batch: Batch, spans: Int[Tensor, "b p"], count: int, apart: bool = False) -> Grouped:
    """The tokens by their spans, of which there are so many; of all examples together, or of each
    ``apart``."""
    sets = batch.owner if apart else torch.zeros_like(batch.owner)
    tokens = torch.where(spans < 0, -1, sets[:, None] * count + spans)
    alike = not apart and bool((spans == spans[:1]).all())
    return Grouped(spans, sets, count, batch.examples if apart else 1, tokens, alike)


def bytes_of(places: Places) -> int:
    """What the scores of one set of examples take while they are found: those of the residual
    stream in two orders, or once, beside those of attention as they come and as one table, and
    those of what is an edge alone."""
    stream, spans = math.prod(places.shape), len(places.spans)
    attention = len(places.heads) * len(PORTS) * spans**2
    return 4 * max(2 * stream, stream + 2 * attention + sum(places.n_edges))


@torch.no_grad()
def score_places(
    model: Model,
    batch: Batch,
    context: Context,
    live: Activations,
    carried: Activations,
    at: Gradients,
    places: Places,
    groups: Grouped,
    pulls: Pulls | None = None,
) -> tuple[
    Float[Tensor, "sets writers readers spans"], Float[Tensor, "sets heads 2 source destination"]
]:
    """The scores of the edges of the residual stream in every span, and of attention's edges
    between spans, summed over the examples of each set: as ``score``.

    The gradients are those of ``gradients`` with ``mixed``; ``carried`` and, unless it is the run
    where they are taken, ``live`` have their sources (``with_sources``). Raises as ``score`` does.
    """
    residual = _residual(model, batch, live, carried, at, groups, pulls)
    given = model, context, at, groups
    closed = [_Part(stage, *given).closed(live, carried) for stage, _ in places.stages]
    looks = [moved(one[1], residual.device) for one in closed if one is not None]
    fits = iter(torch.stack(looks).tolist() if looks else [])  # a GPU is waited for once
    found = [
        one[0] if one is not None and next(fits) else _Part(stage, *given).products(live, carried)
        for (stage, _), one in zip(places.stages, closed, strict=True)
    ]
    return residual, torch.cat([moved(one, residual.device) for one in found], 1)


def _residual(
    model: Model,
    batch: Batch,
    live: Activations,
    carried: Activations,
    at: Gradients,
    groups: Grouped,
    pulls: Pulls | None,
) -> Float[Tensor, "sets writers readers spans"]:
    """The scores of the edges of the residual stream; spans lie together, as in all that follows
    (numbers that are far apart are slow to read)."""
    count = groups.n_sets * groups.n_spans
    table = score_groups(model, batch, live, carried, at, groups.tokens, count, pulls)
    by_edge = table.view(groups.n_sets, groups.n_spans, -1).mT.contiguous()
    return by_edge.view(groups.n_sets, *table.shape[1:], groups.n_spans)


class _Part:
    """The attention of one stage: what its ports gave where the gradients are taken, and these."""

    def __init__(
        self, stage: Stage, model: Model, context: Context, at: Gradients, groups: Grouped
    ) -> None:
        self.model, self.stage, self.context, self.at = model, stage, context, at
        self.kind, self.mixed = model.kinds[stage.kind], at.mixed[stage.index]
        self.ports = self.mixed.ports or self._project(at.activations)
        self.members = stage.writes // self.ports[1].shape[2]  # heads that share a key
        self.spans, self.sets = groups.on(device_of(model, stage))
        self.n_spans, self.n_sets, self.alike = groups.n_spans, groups.n_sets, groups.alike

    def _project(self, run: Activations) -> Ports:
        """What the ports give, reading what they read in a run, with the norms as they are held."""
        with holding(self.model, self.at.held):
            return self.kind.project(self.model, self.stage, run.reads[self.stage.index])

    def _changes(self, live: Activations, carried: Activations) -> list[Float[Tensor, "b j g e"]]:
        """What keys and values are live, less what they are carried."""
        return [a - b for a, b in zip(self._sources(live), self._sources(carried), strict=True)]

    def _sources(self, run: Activations) -> Sequence[Tensor]:
        """The keys and values of a run."""
        if run is self.at.activations:
            return self.ports[1:]
        if self.at.held is None and self.stage.index in run.sources:
            return run.sources[self.stage.index]
        return self._project(run)[1:]

    # -- all pairs of tokens at once ---------------------------------------------------------------
    def closed(
        self, live: Activations, carried: Activations
    ) -> tuple[Float[Tensor, "sets h 2 s e"], Bool[Tensor, ""]] | None:
        """The scores by the closed form, and whether it is what this attention does; None where the
        scores before the softmax are not seen."""
        changes = self._changes(live, carried)
        parts = self._pairs(changes)
        if parts is None:
            return None
        fits = [
            self._sums_up(port, *own) for port, own in enumerate(zip(parts, changes, strict=True))
        ]
        held = self._onehot(parts[0].dtype)[:, None]
        if self.alike:
            parts, held = [part.sum(0, keepdim=True) for part in parts], held[:1]
        by_span = [held.mT @ (part @ held) for part in parts]  # [b, h, e, s]
        return self._summed(torch.stack(by_span, 2).mT), torch.stack(fits).all()

    def _pairs(self, changes: Sequence[Tensor]) -> list[Float[Tensor, "b h t j"]] | None:
        """What each key and each value does at each token that reads it; None where the scores and
        the pattern of this attention are not seen."""
        q, k, v = self.ports
        keys, values = (change.to(x.dtype) for change, x in zip(changes, (k, v), strict=True))
        seen = _Seen()
        try:
            with torch.enable_grad(), forward_ad.dual_level(), EachSoftmax(seen):
                ports = q.detach(), _dual(k.detach(), keys), v.detach()
                z = self.kind.compute(self.model, self.stage, self.context, ports)
        except NotImplementedError:  # of an operation that has no derivative forwards
            return None
        length = q.shape[1]
        shapes = [(len(q), self.stage.writes, length, length + sink) for sink in (0, 1)]
        if [x.shape in shapes for x, *_ in seen.found] != [True] or not z.requires_grad:
            return None
        scores, slope, pattern = seen.found[0]
        (steep,) = torch.autograd.grad(z, scores, self.mixed.slope.to(z.dtype))
        felt = wide(self.mixed.slope).reshape(*q.shape[:2], -1, self.members, q.shape[-1])
        through = torch.einsum("btgne,bjge->bgntj", felt, wide(values)).flatten(1, 2)
        by_key = wide(steep)[..., :length] * _of_keys(slope, length)
        return [by_key, wide(pattern.detach())[..., :length] * through]

    def _sums_up(self, port: int, pairs: Float[Tensor, "b h t j"], change: Tensor) -> Tensor:
        """Whether what goes out of each key (or value) is its own gradient times its change."""
        own = wide(self.at.ports[self.stage.index][1 + port]) * wide(change)
        found = pairs.sum(2).reshape(len(own), -1, self.members, own.shape[1]).sum(2).mT
        scale, error = own.abs().sum(-1).max(), (found - own.sum(-1)).abs().max()
        rounding = ROUNDING * torch.finfo(change.dtype).eps
        most = max(TOLERANCE, rounding if change.dtype.itemsize < 4 else 0.0)
        fits: Tensor = error <= most * scale
        return fits

    # -- one product for each destination and each head of a group ---------------------------------
    def products(self, live: Activations, carried: Activations) -> Float[Tensor, "sets h 2 s e"]:
        """The scores by products of vectors and Jacobians. With a norm over all keys at once, each
        moves what all heads of its place in their groups compute."""
        changes = self._changes(live, carried)
        q, k, v = (x.detach() for x in self.ports)
        sources = [x.requires_grad_() for x in (k, v)]
        held, slope = self._onehot(wide(q).dtype), self.mixed.slope
        place = torch.arange(self.stage.writes, device=slope.device) % self.members
        shape = (len(q), self.stage.writes, len(PORTS), self.n_spans, self.n_spans)
        table = held.new_zeros(shape)
        with torch.enable_grad():
            z = self.kind.compute(self.model, self.stage, self.context, (q, *sources))
        for end in sorted({*self.spans.flatten().tolist()} - {-1}):
            for member in range(self.members):
                here = (self.spans == end)[..., None, None] & (place == member)[:, None]
                grads = torch.autograd.grad(
                    z, sources, slope.to(z.dtype) * here, retain_graph=True,
                    allow_unused=True, materialize_grads=True,
                )  # fmt: skip
                for port, (grad, change) in enumerate(zip(grads, changes, strict=True)):
                    own = (wide(grad) * wide(change)).sum(-1)
                    table[:, member :: self.members, port, :, end] = own.mT @ held
        return self._summed(table)

    # -- sums --------------------------------------------------------------------------------------
    def _onehot(self, dtype: torch.dtype) -> Float[Tensor, "b p spans"]:
        """Which span each token belongs to."""
        numbers = torch.arange(self.n_spans, device=self.spans.device)
        return (self.spans[..., None] == numbers).to(dtype)

    def _summed(self, rows: Float[Tensor, "b h 2 s e"]) -> Float[Tensor, "sets h 2 s e"]:
        """The sum over the rows of each set of examples."""
        if self.n_sets == 1:
            return rows.sum(0, keepdim=True)
        return rows.new_zeros(self.n_sets, *rows.shape[1:]).index_add_(0, self.sets, rows)


def _dual(x: Tensor, slope: Tensor) -> Tensor:
    """The tensor with its derivative in the direction of the moment."""
    make = cast(Any, forward_ad.make_dual)  # which torch leaves untyped
    with warnings.catch_warnings():  # the first time, torch warns of its own functions
        warnings.simplefilter("ignore", DeprecationWarning)
        return cast(Tensor, make(x, slope))


def _of_keys(slope: Tensor | None, length: int) -> Tensor | float:
    """The derivative of the scores of keys; that of a sink, which may be the last column, is not 0
    where the largest score was taken off before."""
    if slope is None:
        return 0.0
    return wide(slope[..., :length] - slope[..., length:] if slope.shape[-1] > length else slope)


class _Seen:
    """What every softmax is given (whose gradient may be asked for), its derivative in the
    direction of the moment, and what it gives."""

    def __init__(self) -> None:
        self.found: list[tuple[Tensor, Tensor | None, Tensor]] = []

    def __call__(self, given: Tensor, softmax: Callable[[Tensor], Tensor]) -> Tensor:
        plain, slope = cast(Any, forward_ad.unpack_dual)(given)
        scores = plain.detach().requires_grad_()
        pattern = softmax(scores)
        self.found.append((scores, slope, pattern))
        return pattern
