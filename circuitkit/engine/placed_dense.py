"""The model under a mask over the edges between places that carries a gradient.

As ``circuitkit.engine.dense``, an ordinary differentiable function of the mask, stage by stage and
for every reader. A reader reads at each token by the weights of the token's span. What a head
writes at a span is attention over keys and values that are mixed by the spans of their tokens,

    key[j] = carried_key[j] + keep[head, k, span(j), destination] · (live_key[j] − carried_key[j])

and values likewise, so that there is an attention of its own for each destination and each member
of a group of heads.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.dense import SMALL, again
from circuitkit.engine.devices import device_of, moved
from circuitkit.engine.layout import Layout
from circuitkit.engine.model import Activations, Context, Model
from circuitkit.engine.placed_plan import members_of
from circuitkit.engine.record import at_answers
from circuitkit.graph.places import PlacedMask, Places
from circuitkit.graph.stages import Stage

__all__ = ["alive_parts", "placed_residual"]

Live = Bool[np.ndarray, "writers spans"]


def placed_residual(
    model: Model,
    batch: Batch,
    context: Context,
    carried: Activations,
    keep: PlacedMask,
    of: Int[Tensor, "b p"],
) -> Float[Tensor, "b d"]:
    """What the logits read at the answer positions; ``of`` is the span of each token. Where no
    gradient is taken in the mask, a component that hears nothing at a span, or that nobody hears
    there, writes what is carried."""
    residual, attention, live = _tables(model, keep)
    layout = Layout.by_span(of.to(context.embed.device), len(keep.places.spans))
    small = model.wiring.shape[1] * context.embed.nbytes <= SMALL
    rows = {stage.index: own for stage, own in keep.places.stages}
    changes = [layout.taken(context.embed - carried.embed)[None]]
    for stage in model.wiring.stages:
        here = device_of(model, stage)
        own = moved(residual[: stage.upstream, stage.columns], here)
        table = moved(attention[rows[stage.index]], here) if stage.index in rows else None
        alive = None if live is None else moved(live[stage.rows], here)
        seen = sum(other.rows.stop <= stage.upstream for other in model.wiring.stages)
        before = [moved(change, here) for change in changes[: 1 + seen]]
        step = partial(_change, model, stage, context, carried, layout, alive)
        changes.append(
            moved((step if small else again(step))(own, table, *before), layout.of.device)
        )
    return _final(model, batch, carried, layout, residual[:, -1], changes)


def _is_joint(model: Model) -> bool:
    """Whether a norm lies over all heads of a layer."""
    return any(model.kinds[stage.kind].joint(model) for stage in model.wiring.stages)


def alive_parts(model: Model, keep: PlacedMask) -> tuple[PlacedMask, Live]:
    """The weights of a mask without its dead ends, and where each writer is computed.

    Where a norm lies over the keys of all groups, a head that is not computed lends its edges of
    attention: its group counts there with the edges of those of its heads that are.
    """
    residual, attention = _numbers(keep.residual), _numbers(keep.attention)
    mask = PlacedMask(keep.places, residual, attention)
    alive, live = keep.places.alive_and_live(mask, joint=_is_joint(model))
    residual = np.where(alive.residual, residual, residual.dtype.type(0))
    attention = np.where(alive.attention, attention, attention.dtype.type(0))
    if any(model.kinds[stage.kind].couples(model) for stage in model.wiring.stages):
        attention = _lent(keep.places, attention, live)
    return PlacedMask(keep.places, residual, attention), live


def _lent(
    places: Places, attention: Float[np.ndarray, "heads 2 s e"], live: Live
) -> Float[np.ndarray, "heads 2 s e"]:
    """The weights, in which a head that is not computed has the largest of its group."""
    found = attention.copy()
    for stage, rows in places.stages:
        keys = np.array([feed[1] for feed in stage.feeds])
        for head, key in enumerate(keys):
            most = attention[rows][keys == key].max(0)
            dead = ~live[stage.rows.start + head]
            found[rows.start + head][..., dead] = most[..., dead]
    return found


def _numbers(table: object) -> np.ndarray:
    """A table of a mask as an array."""
    if isinstance(table, Tensor):
        kept = table.detach().cpu()
        return (kept if kept.dtype in (torch.bool, torch.float64) else kept.float()).numpy()
    return np.asarray(table)


def _tables(model: Model, keep: PlacedMask) -> tuple[Tensor, Tensor, Tensor | None]:
    """The weights of the edges that exist, and where each writer is computed: everywhere, where a
    gradient is taken."""
    tables, live = [keep.residual, keep.attention], None
    if not any(isinstance(table, Tensor) and table.requires_grad for table in tables):
        alive, where = alive_parts(model, keep)
        tables, live = [alive.residual, alive.attention], torch.from_numpy(where)
    legal = keep.places.legal
    numbers = []
    for table, own in zip(tables, (legal.residual, legal.attention), strict=True):
        weights = torch.as_tensor(table).to(model.device, model.dtype)
        edges = torch.from_numpy(own).to(model.device)
        numbers.append(torch.where(edges, weights, weights.new_zeros(())))
    return numbers[0], numbers[1], live


def _change(
    model: Model,
    stage: Stage,
    context: Context,
    carried: Activations,
    layout: Layout,
    live: Bool[Tensor, "writers spans"] | None,
    keep: Float[Tensor, "w r spans"],
    attention: Float[Tensor, "heads 2 s e"] | None,
    *before: Float[Tensor, "_w tokens d"],
) -> Float[Tensor, "n tokens d"]:
    """What a stage's writers write at the tokens, less what is carried."""
    kind = model.kinds[stage.kind]
    read = layout.mixed(carried.reads[stage.index], keep, torch.cat(before))
    received = kind.read(model, stage, range(stage.reads), read[:, None])
    ports = [port.movedim(0, 2) for port in torch.split(received, [*stage.part.ports])]
    if attention is None:
        held = context.at(lambda x: layout.taken(x)[None], 1)
        computed = kind.compute(model, stage, held, ports)
    else:
        computed = _attended(model, stage, context, carried, layout, attention, ports)
    written = layout.taken(carried.shares[stage.index])[None]
    if live is None:
        return kind.write(model, stage, None, kind.shares(model, stage, computed) - written)[:, 0]
    alive = live[:, moved(layout.spans, live.device)].T[None, :, :, None]
    computed = torch.where(alive, computed, layout.taken(carried.computed[stage.index])[None])
    change = (kind.shares(model, stage, computed) - written) * alive
    return kind.write(model, stage, None, change)[:, 0]


def _attended(
    model: Model,
    stage: Stage,
    context: Context,
    carried: Activations,
    layout: Layout,
    attention: Float[Tensor, "heads 2 s e"],
    ports: list[Float[Tensor, "1 tokens n e"]],
) -> Float[Tensor, "1 tokens n e"]:
    """What the heads compute at the tokens of each span, from keys and values mixed for it."""
    kind = model.kinds[stage.kind]
    plain = kind.project(model, stage, carried.reads[stage.index])
    q, k, v = (layout.put(base, own[0]) for base, own in zip(plain, ports, strict=True))
    weights = torch.cat(
        [attention, attention.new_zeros(*attention.shape[:2], 1, attention.shape[3])], 2
    )
    of, members = moved(layout.of, weights.device), np.array(members_of(stage))
    found = []
    for span, own in enumerate(layout.at):
        z = torch.empty(0)
        for member in range(members.max() + 1) if len(own) else ():
            heads = moved(torch.from_numpy(np.flatnonzero(members == member)), of.device)
            at_k, at_v = weights[heads, :, :, span][:, :, of].permute(1, 2, 3, 0)[..., None]
            mixed = [torch.lerp(plain[1], k, at_k), torch.lerp(plain[2], v, at_v)]
            whole = kind.compute(model, stage, context, [q, *mixed]).flatten(0, 1)
            part = whole[moved(own, whole.device)]
            z = z if z.numel() else torch.zeros_like(part)
            z = z.index_copy(1, heads, part[:, heads])
        if len(own):
            found.append(z)
    return torch.cat(found)[None]


def _final(
    model: Model,
    batch: Batch,
    carried: Activations,
    layout: Layout,
    keep: Float[Tensor, "w spans"],
    changes: list[Float[Tensor, "_w tokens d"]],
) -> Float[Tensor, "b d"]:
    """What the logits read at the answers, by the weights of the answers' spans."""
    number = torch.zeros_like(layout.of).flatten()
    number[layout.tokens] = torch.arange(len(layout.tokens), device=number.device)
    last = at_answers(batch, number.view(layout.of.shape))
    ends = torch.cat([change[:, last] for change in changes])
    weights = keep[:, at_answers(batch, layout.of)]
    return at_answers(batch, carried.final) + torch.einsum("wb,wbd->bd", weights, ends)
