"""Plain runs, stage by stage: what every writer writes and every reader reads, and what follows
from that without a further run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.devices import device_of, moved
from circuitkit.engine.model import Activations, Context, Model, Ports
from circuitkit.graph.stages import Stage

__all__ = [
    "Tap",
    "answer",
    "as_it_is",
    "at_answers",
    "assemble",
    "beginning",
    "difference",
    "output",
    "record",
    "with_sources",
]

# What a port gave, by the number of the stage and of the port; of the stage beyond the last one, it
# is what the logits read.
Tap: TypeAlias = Callable[[int, int, Tensor], Tensor]


def as_it_is(_: int, __: int, x: Tensor) -> Tensor:
    """The tap that changes nothing."""
    return x


def record(
    model: Model,
    context: Context,
    embed: Float[Tensor, "b p d"] | None = None,
    tap: Tap = as_it_is,
    carried: Activations | None = None,
    share: float | Float[Tensor, "b 1 1"] = 1.0,
    fixed: Mapping[int, Float[Tensor, "b p d"]] = MappingProxyType({}),
) -> Activations:
    """The activations of a plain run, from the batch's embedding or another one.

    ``tap(stage, port, x)`` sees what each port of each stage gave, and what the logits read, and
    may replace it: the gradient is taken there.

    With ``carried`` every reader reads that share of the way from the carried residual to the
    running one: this is ``circuitkit.engine.run`` with the share as the weight of every edge, at
    the cost of a plain run; of each example, or of all. A stage that is ``fixed`` (by its number)
    writes what is given there, whatever it computes.
    """
    start = x = context.embed if embed is None else embed

    def heard(running: Tensor, stage: int | None = None) -> Tensor:
        if carried is None:
            return running
        held = carried.final if stage is None else carried.reads[stage]
        some = moved(share, running.device) if isinstance(share, Tensor) else share
        return torch.lerp(held, running, some)

    stages = model.wiring.stages
    stream = {1: x}  # the residual, by how many writers have written
    reads, computed, shares = [], [], []
    for stage in stages:
        kind, here = model.kinds[stage.kind], device_of(model, stage)
        read = heard(moved(stream[stage.upstream], here), stage.index)
        projected = enumerate(kind.project(model, stage, read))
        ports = [tap(stage.index, number, value) for number, value in projected]
        reads.append(read)
        computed.append(kind.compute(model, stage, context, ports))
        written, own = kind.out(model, stage, computed[-1])
        shares.append(own)
        written = fixed.get(stage.index, written)
        x = stream[stage.rows.stop] = written if stage.renews else moved(x, here) + written
    final = tap(len(stages), 0, heard(moved(x, start.device)))
    return Activations(
        start, tuple(reads), tuple(computed), tuple(shares), final,
        consistent=carried is None and not fixed, held=context.held,
    )  # fmt: skip


@torch.no_grad()
def with_sources(model: Model, run: Activations) -> Activations:
    """The run with what its components read at other positions: of heads the keys and values."""
    found: dict[int, Ports] = {}
    for stage in model.wiring.stages:
        kind = model.kinds[stage.kind]
        if kind.mixes:
            found[stage.index] = (*kind.project(model, stage, run.reads[stage.index]),)[1:]
    return replace(run, sources=found)


def assemble(
    model: Model,
    embed: Float[Tensor, "b p d"],
    computed: Sequence[Float[Tensor, "b p _n _e"]],
    shares: Sequence[Float[Tensor, "b p _n _e"]],
) -> Activations:
    """Activations whose components computed and wrote the given values, whatever they read: means,
    zeros, ..."""
    x, stream, reads = embed, {1: embed}, []
    for stage, share in zip(model.wiring.stages, shares, strict=True):
        kind, here = model.kinds[stage.kind], device_of(model, stage)
        reads.append(moved(stream[stage.upstream], here))
        written = kind.write(model, stage, None, share).sum(0)
        x = written if stage.renews else moved(x, here) + written
        constant = kind.constant(model, stage)
        x = stream[stage.rows.stop] = x if constant is None else x + constant
    final = moved(x, embed.device)
    return Activations(embed, tuple(reads), tuple(computed), tuple(shares), final)


def difference(
    model: Model, other: Activations, base: Activations, row: int
) -> Float[Tensor, "b p d"]:
    """What a writer writes in one run, less what it writes in another, where it writes it."""
    stage = model.wiring.stage_of[row]
    if stage is None:
        return other.embed - base.embed
    place = row - stage.rows.start
    share = (other.shares[stage.index] - base.shares[stage.index])[:, :, [place]]
    return model.kinds[stage.kind].write(model, stage, [place], share)[0]


def output(model: Model, stage: Stage, shares: Float[Tensor, "b p n e"]) -> Float[Tensor, "b p d"]:
    """What all components of a stage write together, given their shares."""
    kind = model.kinds[stage.kind]
    total = kind.write(model, stage, None, shares).sum(0)
    constant = kind.constant(model, stage)
    return total if constant is None else total + constant


def answer(model: Model, batch: Batch, final: Float[Tensor, "b p d"]) -> Float[Tensor, "b vocab"]:
    """The logits at each example's answer position, from the final residual."""
    return model.unembed(at_answers(batch, final))


def at_answers(batch: Batch, x: Shaped[Tensor, "..."], axis: int = 0) -> Shaped[Tensor, "..."]:
    """What is at each example's answer position: of [b, p, ...], or behind so many further axes."""
    last = moved(batch.last, x.device)
    rows = torch.arange(len(batch), device=x.device)
    found: Tensor = x[(slice(None),) * axis + (rows, last)]
    return found


def beginning(batch: Batch, same: Bool[Tensor, "b p"]) -> int:
    """The first position to run: where an example first differs, or the first answer."""
    return min(int(same.all(0).sum()), int(batch.last.min()))
