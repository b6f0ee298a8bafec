"""The model under a mask that carries a gradient, or has one mask for each example.

The same mixture as in ``circuitkit.engine.run``, stage by stage and for every reader,

    input[r] = carried_input[r] + Σ_w keep[w, r] · (live[w] − carried[w])

as an ordinary differentiable function of the mask. Unless a run is small, a stage is computed again
in the backward, so that what is kept is what every writer changes and the gradient in it, 2 ·
writers × tokens × d_model numbers, instead of all that its stages compute.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from circuitkit.data.batches import Batch
from circuitkit.engine.devices import device_of, moved
from circuitkit.engine.model import Activations, Context, Model, Ports
from circuitkit.engine.record import at_answers
from circuitkit.graph.stages import Stage

__all__ = ["SMALL", "again", "final_residual", "received"]

SMALL = 2**26  # bytes that all readers read together, up to which no stage is computed again


def final_residual(
    model: Model,
    batch: Batch,
    context: Context,
    carried: Activations,
    keep: Shaped[Tensor, "*examples writers readers"],
) -> Float[Tensor, "b d"]:
    """What the logits read at the answer positions, under a mask of its own for each example, or
    one for all. Where no gradient is taken in the mask, a component that hears nothing, or that
    nobody hears, writes what is carried."""
    weights = _legal(model, keep)
    small = model.wiring.shape[1] * context.embed.nbytes <= SMALL
    changes = _Changes(model)
    changes.add((context.embed - carried.embed)[None])
    for stage in model.wiring.stages:
        here = device_of(model, stage)
        own = moved(weights[..., : stage.upstream, stage.columns], here)
        before = changes.read(stage)
        live = None if keep.requires_grad else moved(_live(weights, stage), here)
        step = partial(_change, model, stage, context, carried, live)
        changes.add((step if small else again(step))(own, *before))
    ends = torch.cat([moved(at_answers(batch, x, 1), context.embed.device) for x in changes.made])
    base = at_answers(batch, carried.final)[:, None]
    return _mixed(base, weights[..., -1:], ends[:, :, None])[0, :, 0]


class _Changes:
    """What writers write, less what is carried, in their order: once on each device of readers."""

    def __init__(self, model: Model) -> None:
        self.model, self.made = model, list[Tensor]()
        self.last = {device_of(model, stage): stage.upstream for stage in model.wiring.stages}
        self.copies: dict[torch.device, list[Tensor]] = {device: [] for device in self.last}
        self.rows = 0

    def add(self, change: Float[Tensor, "n b p d"]) -> None:
        """The next writers'."""
        self.made.append(change)
        for device, own in self.copies.items():
            if self.rows < self.last[device]:
                own.append(moved(change, device))
        self.rows += len(change)

    def read(self, stage: Stage) -> list[Float[Tensor, "_n b p d"]]:
        """Those that a stage reads, where it computes."""
        stages = self.model.wiring.stages
        seen = 1 + sum(before.rows.stop <= stage.upstream for before in stages)
        return self.copies[device_of(self.model, stage)][:seen]


def _legal(model: Model, keep: Tensor) -> Float[Tensor, "*examples w r"]:
    """The weights of the edges that exist; without dead ends where no gradient needs them."""
    legal = torch.from_numpy(model.wiring.legal).to(keep.device)
    if not keep.requires_grad:
        kept = (keep != 0).cpu().numpy()
        alive = [model.wiring.alive(one, {0}) for one in kept.reshape(-1, *legal.shape)]
        legal = torch.from_numpy(np.stack(alive)).to(keep.device).view(keep.shape)
    numbers = keep.to(model.device, model.dtype)
    return torch.where(legal.to(model.device), numbers, numbers.new_zeros(()))


def again(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What gives the same; in the backward it is taken again."""
    if not torch.is_grad_enabled():
        return step
    return partial(checkpoint, step, use_reentrant=False, preserve_rng_state=False)


def received(model: Model, stage: Stage, read: Float[Tensor, "r b p d"]) -> Ports:
    """What each port of a stage gives, where each of its readers reads a residual of its own."""
    kind, start, ports = model.kinds[stage.kind], 0, list[Tensor]()
    for count in stage.part.ports:
        own = range(start, start + count)
        given = kind.read(model, stage, own, read[start : start + count])
        ports.append(given.movedim(0, 2))
        start += count
    return ports


def _mixed(
    base: Float[Tensor, "b p d"],
    weights: Float[Tensor, "*examples w r"],
    changes: Float[Tensor, "w b p d"],
) -> Float[Tensor, "r b p d"]:
    """What each reader reads: the carried residual, and the changes that it hears."""
    if weights.ndim == 2:
        read = torch.addmm(base.reshape(1, -1), weights.T, changes.flatten(1))
        return read.view(-1, *base.shape)
    return base + torch.einsum("bwr,wbpd->rbpd", weights, changes)


def _change(
    model: Model,
    stage: Stage,
    context: Context,
    carried: Activations,
    live: Bool[Tensor, "writers _examples"] | None,
    keep: Float[Tensor, "*examples w r"],
    *before: Float[Tensor, "_w b p d"],
) -> Float[Tensor, "n b p d"]:
    """What a stage's writers write, less what is carried, from the changes of those before it; of
    those that are not ``live`` nothing."""
    kind = model.kinds[stage.kind]
    read = _mixed(carried.reads[stage.index], keep, torch.cat(before))
    computed = kind.compute(model, stage, context, received(model, stage, read))
    if live is not None:  # a norm over all components counts the others as they are carried
        computed = torch.where(live.T[:, None, :, None], computed, carried.computed[stage.index])
    change = kind.shares(model, stage, computed) - carried.shares[stage.index]
    if live is not None:
        change = change * live.T[:, None, :, None]
    return kind.write(model, stage, None, change)


def _live(
    weights: Float[Tensor, "*examples w r"], stage: Stage
) -> Bool[Tensor, "writers _examples"]:
    """Where a component reads something that is kept, and is read by something that is."""
    heard = (weights[..., : stage.upstream, :] != 0).any(-2)
    reads = torch.stack([heard[..., list(feed)].any(-1) for feed in stage.feeds])
    read_by = (weights[..., stage.rows, :] != 0).any(-1).movedim(-1, 0)
    return (reads & read_by).view(stage.writes, -1)
