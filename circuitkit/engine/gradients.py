"""The gradient of a metric at every reader of one run: one forward and one backward.

Of short prompts the backward goes through the whole graph. Of long ones, whose attention patterns
are larger than all else, it goes through one stage after the other, from the last to the first, and
each is computed again: the same numbers, for one more forward, in the memory of one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.devices import device_of, moved
from circuitkit.engine.holding import Held, HoldsNorms, Scale
from circuitkit.engine.model import Activations, Context, Model, Ports, Pull
from circuitkit.engine.numerics import wide
from circuitkit.engine.record import answer, at_answers, record
from circuitkit.graph.stages import Stage

__all__ = ["Gradients", "Mixed", "at_tokens", "gradients", "holding"]

LONG = 512  # tokens of a prompt from which the backward goes stage by stage

Value: TypeAlias = Callable[[Float[Tensor, "b vocab"]], Float[Tensor, " examples"]]
Run: TypeAlias = Callable[..., Activations]


class Mixed(NamedTuple):
    """Of components that look at other positions: what their ports gave in the run (of heads q, k
    and v; nothing where that is soon computed again), and the gradient in what they computed."""

    ports: Ports
    slope: Float[Tensor, "b p _n _e"]


Found: TypeAlias = tuple[
    Activations, list[list[Tensor]], tuple[Tensor, Tensor, Tensor], Mapping[int, Mixed]
]


@dataclass(frozen=True)
class Gradients:
    """The gradients of a metric at every reader of one run, before they are pulled back.

    ``ports`` holds, stage by stage, the gradients in what the ports gave; ``logits`` (at the answer
    positions) is the gradient in what the logits read. ``output`` are the logits of that run, and
    ``steepest`` is the metric's largest gradient in one of them, as a tensor: on a GPU, looking at
    a number waits for it. ``held`` are the scales of its norms, where they are those of another
    run. ``mixed`` holds, where it was asked for, the stages whose components look at other
    positions, by their numbers.
    """

    ports: list[list[Float[Tensor, "b p _ports _width"]]]
    logits: Float[Tensor, "b d"]
    activations: Activations
    output: Float[Tensor, "b vocab"]
    steepest: Float[Tensor, ""]
    held: Held | None = None
    mixed: Mapping[int, Mixed] = field(default_factory=dict)

    def pulled(self, pull: Pull, stage: Stage, block: Int[Tensor, " t"]) -> Float[Tensor, "r t d"]:
        """The gradient in the residual that each reader of a stage reads, at these tokens (whose
        numbers are where the stage computes)."""
        read = at_tokens(self.activations.reads[stage.index], block)
        ports = [at_tokens(grad, block) for grad in self.ports[stage.index]]
        scale = None if self.held is None else self.held.stages[stage.index]
        if scale is None:
            return wide(pull(read, ports))
        return wide(pull(read, ports, Scale(at_tokens(scale.value, block), scale.least)))


def at_tokens(x: Float[Tensor, "b p *rest"], block: Int[Tensor, " t"]) -> Float[Tensor, " t *rest"]:
    """These tokens of a batch, counted through its examples."""
    return x.flatten(0, 1)[moved(block, x.device)]


def gradients(
    model: Model,
    batch: Batch,
    context: Context,
    embed: Float[Tensor, "b p d"],
    metric: Value,
    carried: Activations | None = None,
    share: float | Float[Tensor, "b 1 1"] = 1.0,
    *,
    fixed: Mapping[int, Float[Tensor, "b p d"]] = MappingProxyType({}),
    held: Held | None = None,
    mixed: bool = False,
) -> Gradients:
    """The gradients of the metric's sum over the batch, in a plain run from this embedding; or,
    with ``carried``, in one whose readers read that share of the way to it, or with stages that
    are ``fixed`` (see ``record``), or with the norms of another run ``held``; with ``mixed`` also
    those in what components computed that look at other positions."""
    share = 1.0 if carried is None else share
    start = embed.detach().requires_grad_()
    plain = partial(record, model, context, start, carried=carried, share=share, fixed=fixed)
    with holding(model, held):
        if batch.clean.shape[1] >= LONG:
            found = _by_stage(model, batch, context, plain, metric, mixed)
        else:
            found = _at_once(model, batch, plain, metric, mixed)
    activations, ports, (output, final, slope), mixing = found
    return Gradients(
        ports=ports,
        logits=at_answers(batch, final),
        activations=activations,
        output=output.detach(),
        steepest=slope.abs().max(),
        held=held,
        mixed=mixing,
    )


def holding(model: Model, held: Held | None) -> AbstractContextManager[None]:
    """Within it, the norms of the model have the scales that are held."""
    return (
        model.holding(held) if held is not None and isinstance(model, HoldsNorms) else nullcontext()
    )


def _at_once(model: Model, batch: Batch, plain: Run, metric: Value, mixed: bool) -> Found:
    """The run and the gradients in what its ports gave; its logits, and the gradients in what they
    read and in themselves; and, if asked for, what is ``mixed``. Through the graph of the whole
    run."""
    taps: dict[tuple[int, int], Tensor] = {}

    def tap(stage: int, port: int, x: Tensor) -> Tensor:
        # a view has a gradient of its own: that of the paths through this reader alone
        taps[stage, port] = x.view_as(x)
        return taps[stage, port]

    with torch.enable_grad():
        activations = plain(tap=tap)
        output = answer(model, batch, activations.final)
        numbers = [s.index for s in model.wiring.stages if mixed and model.kinds[s.kind].mixes]
        outs = [activations.computed[number] for number in numbers]
        *found, slope = _slopes(metric(output).sum(), [*taps.values(), *outs, output])
    ports: list[list[Tensor]] = [[] for _ in range(len(model.wiring.stages) + 1)]
    for (stage, _), grad in zip(taps, found, strict=False):
        ports[stage].append(grad)
    mixing: dict[int, Mixed] = {}
    for number, grad in zip(numbers, found[len(taps) :], strict=True):
        gave = [taps[number, port].detach() for port in range(len(ports[number]))]
        mixing[number] = Mixed(gave, grad)
    return activations, ports[:-1], (output, ports[-1][0], slope), mixing


def _by_stage(
    model: Model,
    batch: Batch,
    context: Context,
    plain: partial[Activations],
    metric: Value,
    mixed: bool,
) -> Found:
    """The same, stage by stage from the last."""
    share, fixed = plain.keywords["share"], plain.keywords["fixed"]
    with torch.no_grad():
        activations = plain()
    with torch.enable_grad():
        end = activations.final.detach().requires_grad_()
        output = answer(model, batch, end)
        final, slope = _slopes(metric(output).sum(), [end, output])
    steep = final * share  # in the residual, from the end on
    read: dict[int, Tensor] = {}  # by those who read it earlier, by how many writers have written
    ports: list[list[Tensor]] = []
    mixing: dict[int, Mixed] = {}
    for stage in reversed(model.wiring.stages):
        here, some = device_of(model, stage), share
        steep = moved(steep, here)
        if stage.rows.stop in read:
            steep = steep + moved(read.pop(stage.rows.stop), here)
        if isinstance(some, Tensor):
            some = moved(some, here)
        felt = torch.zeros_like(steep) if stage.index in fixed else steep
        own, out, back = _through(model, stage, context, activations.reads[stage.index], felt)
        ports.insert(0, own)
        if mixed and model.kinds[stage.kind].mixes:
            mixing[stage.index] = Mixed((), out)
        back = back * some
        if stage.upstream in read:
            back = moved(read[stage.upstream], here) + back
        read[stage.upstream] = back
        if stage.renews:  # nothing passes by it
            steep = torch.zeros_like(steep)
    return activations, ports, (output, final, slope), mixing


def _through(
    model: Model, stage: Stage, context: Context, read: Tensor, steep: Tensor
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The gradients in what the stage's ports gave, in what its components computed and in what it
    read, from the gradient in what it wrote."""
    kind = model.kinds[stage.kind]
    with torch.enable_grad():
        start = read.detach().requires_grad_()
        ports = [x.view_as(x) for x in kind.project(model, stage, start)]
        computed = kind.compute(model, stage, context, ports)
        written, _ = kind.out(model, stage, computed)
        *own, out, back = _slopes(written, [*ports, computed, start], steep)
    return own, out, back


def _slopes(value: Tensor, where: list[Tensor], steep: Tensor | None = None) -> tuple[Tensor, ...]:
    """The gradients there, which are 0 where the value does not depend on it."""
    return torch.autograd.grad(value, where, steep, allow_unused=True, materialize_grads=True)
