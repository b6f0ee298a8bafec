"""One prompt's run with its attention patterns and norms held: what every reading takes from what.

With the attention patterns and what norms divide by held as they are in one run, and what MLPs
write taken as given, all else of a decoder is affine: what an MLP or the logits read is a sum over
what was written before. Pulls (from a reading back to what was written) come from the model's own
backward under the rules ``frozen_norms`` and ``frozen_patterns``; the constants, and pushes (from
what is written on), from its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.engine.backward import Rule, under, with_slope
from circuitkit.engine.devices import device_of, moved
from circuitkit.engine.inspection import Frozen, Inspectable
from circuitkit.engine.model import Context, Model, Ports
from circuitkit.errors import UnsupportedModelError
from circuitkit.graph.stages import ATTENTION, MLP, Stage

__all__ = [
    "EMBED",
    "FrozenRun",
    "Linear",
    "Pulled",
    "Write",
    "linked",
    "require_traceable",
    "require_whole",
    "written",
]

EMBED = -1
# By where it was written (EMBED, or the number of a stage), the gradients in it.
Pulled: TypeAlias = Mapping[int, Float[Tensor, "n p d"]]
Write: TypeAlias = Callable[[Stage, Float[Tensor, "b p d"]], Float[Tensor, "b p d"]]


def require_whole(model: object) -> Inspectable:
    """The model as one whose stages can be taken apart into features; raises
    UnsupportedModelError."""
    if not isinstance(model, Inspectable):
        name = getattr(model, "name", type(model).__name__)
        raise UnsupportedModelError(
            f"{name!r} does not show what its norms give (it has no method 'mlp_norm'), so that "
            "its features cannot be traced; use a model that ck.load returned"
        )
    if model.wiring.splits:
        raise UnsupportedModelError(
            f"{model.name!r} is taken apart already; give the whole model, and all dictionaries at "
            "once"
        )
    return model


def require_traceable(given: object) -> Inspectable:
    """The model as one whose MLPs can be replaced by features; raises UnsupportedModelError."""
    model = require_whole(given)
    kinds = {stage.kind for stage in model.wiring.stages}
    if MLP not in kinds:
        others = ", ".join(sorted(kinds - {ATTENTION}))
        reason = f"takes its MLPs apart ({others})" if others else "has no MLPs"
        remedy = "load it without experts" if others else "use a model that has"
        raise UnsupportedModelError(
            f"{model.name!r} {reason}, and features stand for whole MLPs; {remedy}"
        )
    return model


def linked(
    model: Model, context: Context, write: Write
) -> tuple[dict[int, Float[Tensor, "b p d"]], Float[Tensor, "b p d"]]:
    """A run in which each stage writes what ``write`` says, and beside it a zero whose gradient is
    that in what the stage writes: these zeros by the number of their stage, with the embedding as
    ``EMBED``; and what the logits read."""
    x = context.embed.detach().requires_grad_()
    sources, stream = {EMBED: x}, {1: x}
    for stage in model.wiring.stages:
        here = device_of(model, stage)
        given = write(stage, moved(stream[stage.upstream], here))
        sources[stage.index] = torch.zeros_like(given).requires_grad_()
        x = stream[stage.rows.stop] = moved(x, here) + given + sources[stage.index]
    return sources, moved(x, context.embed.device)


def written(
    model: Model, context: Context, stage: Stage, read: Float[Tensor, "b p d"]
) -> Float[Tensor, "b p d"]:
    """What a stage of the model itself writes where it reads this."""
    kind = model.kinds[stage.kind]
    computed = kind.compute(model, stage, context, kind.project(model, stage, read))
    return kind.out(model, stage, computed)[0]


@dataclass(frozen=True)
class Linear:
    """The skip of a transcoder: what it adds to what an MLP writes, as a linear map of what it
    reads ``behind`` its norm, or before it."""

    matrix: Float[Tensor, "d d"]
    behind: bool = True


@dataclass(frozen=True)
class _Heads:
    """What a run holds of an attention: its norm, queries, keys, and the scale of what it
    writes."""

    norm: Frozen
    ports: Ports
    scale: Tensor | float


class FrozenRun:
    """A run of one prompt with its attention patterns and norms held.

    ``readings`` are what each MLP reads behind its norm, by layer, and ``residuals`` the same
    before it; ``outputs`` what each writes; ``embed`` is the embedding, ``final`` what the logits
    read, and ``ending`` that behind the final norm; each [p, d]. ``constants`` is what is written
    whatever is read, by the number of the stage.

    With ``skips`` a part of what an MLP writes is linear in what it reads, and pulls go through it.
    ``norms="live"``: norms answer to what they read, to first order; then what is read is no
    longer the sum over what was written.
    """

    def __init__(
        self,
        model: Inspectable,
        context: Context,
        skips: Mapping[int, Linear] = MappingProxyType({}),
        norms: str = "frozen",
    ) -> None:
        self.frozen = norms == "frozen"
        ruled = under(require_traceable(model), Rule(norms=self.frozen, patterns=True))
        self.model: Inspectable = ruled  # type: ignore[assignment]
        self.context, self.skips = context, skips
        self.readings: dict[int, Float[Tensor, "p d"]] = {}
        self.residuals: dict[int, Float[Tensor, "p d"]] = {}
        self.outputs: dict[int, Float[Tensor, "p d"]] = {}
        self.constants: dict[int, Float[Tensor, "p d"]] = {}
        self._live: dict[tuple[str, int], Tensor] = {}  # what is read, with the graph behind it
        self._heads: dict[int, _Heads] = {}
        self._norms: dict[int, Frozen] = {}  # before each MLP, by its layer
        with torch.enable_grad():
            self._sources, final = linked(self.model, context, self._write)
            norm = self._held(self.model.norm(None, final))
            ending = self._live["ending", 0] = norm.of(final) + norm.bias
        self.embed, self.final = context.embed[0].detach(), final[0].detach()
        self.ending = ending[0].detach()
        self._last = Frozen(norm.weight.detach(), norm.bias, norm.centred)

    def _held(self, norm: Frozen) -> Frozen:
        """The norm, whose scale is a constant unless norms are live."""
        return Frozen(norm.weight.detach(), norm.bias, norm.centred) if self.frozen else norm

    # -- the run -----------------------------------------------------------------------------------
    def _write(self, stage: Stage, read: Tensor) -> Tensor:
        return self._attention(stage, read) if stage.kind == ATTENTION else self._mlp(stage, read)

    def _attention(self, stage: Stage, read: Tensor) -> Tensor:
        """What the heads write."""
        kind, model = self.model.kinds[stage.kind], self.model
        ports = kind.project(model, stage, read)
        z = kind.compute(model, stage, self.context, ports)
        with torch.no_grad():
            norm = model.norm(stage.layer, read)
            held = _Heads(norm, [port.detach() for port in ports], _scale(model, stage, z))
            self._heads[stage.index] = held
            weights, biases = model.projection(stage.layer, "v")
            values = torch.einsum("d,gde->ge", norm.bias, weights)
            values = values if biases is None else values + biases
            moved_ = self._mixed(stage, values.expand_as(ports[2]).contiguous())
            constant = model.constant(stage.layer)
            self.constants[stage.index] = (moved_ if constant is None else moved_ + constant)[0]
        return kind.out(model, stage, z)[0]

    def _mixed(self, stage: Stage, values: Float[Tensor, "n p g e"]) -> Float[Tensor, "n p d"]:
        """What the heads write of these values, by the patterns of the run."""
        held, times = self._heads[stage.index], len(values)
        q, k = (port.expand(times, *port.shape[1:]) for port in held.ports[:2])
        context = self.context.tile(times)
        z = self.model.attend(context, stage.layer, q, k, values) * held.scale
        return self.model.write(stage.layer, None, z).sum(0)

    def _mlp(self, stage: Stage, read: Tensor) -> Tensor:
        """What the MLP writes, as given; through its skip, what depends on what it reads."""
        layer = stage.layer
        reading = self.model.mlp_in(layer, read)
        self._live["reading", layer], self._live["residual", layer] = reading, read
        self.readings[layer], self.residuals[layer] = reading[0].detach(), read[0].detach()
        with torch.no_grad():
            self._norms[layer] = self.model.mlp_norm(layer, read)
            given = written(self.model, self.context, stage, read)
        self.outputs[layer] = given[0]
        self.constants[stage.index] = torch.zeros_like(given[0])
        skip = self.skips.get(layer)
        if skip is None:
            return given
        if skip.behind:
            self.constants[stage.index] += self.bias(layer) @ skip.matrix.T
        return with_slope(given, (reading if skip.behind else read) @ skip.matrix.T)

    def skipped(self, layer: int) -> Float[Tensor, "p d"] | None:
        """What the skip of a layer's MLP writes in the run, if it has one."""
        skip = self.skips.get(layer)
        if skip is None:
            return None
        return (self.readings if skip.behind else self.residuals)[layer] @ skip.matrix.T

    # -- pulls -------------------------------------------------------------------------------------
    def bias(self, layer: int | None) -> Float[Tensor, " d"]:
        """What the norm before a layer's MLP (None: before the logits) gives of nothing."""
        return (self._last if layer is None else self._norms[layer]).bias

    def pull(
        self,
        layer: int | None,
        positions: Int[Tensor, " n"],
        directions: Float[Tensor, "n d"],
        *,
        behind: bool = True,
    ) -> Pulled:
        """The gradients, in all that was written before, of what each direction reads at its
        position of what an MLP (None: the logits) reads: ``behind`` its norm, or before."""
        kind = "ending" if layer is None else "reading" if behind else "residual"
        target = self._live[kind, layer or 0]
        steep = target.new_zeros(len(positions), *target.shape)
        rows = torch.arange(len(positions), device=target.device)
        steep[rows, 0, moved(positions, target.device)] = moved(directions, target.device)
        found = torch.autograd.grad(
            target, [*self._sources.values()], steep, retain_graph=True, allow_unused=True,
            is_grads_batched=True,
        )  # fmt: skip
        pairs = zip(self._sources, found, strict=True)
        return {number: own[:, 0] for number, own in pairs if own is not None}

    # -- pushes ------------------------------------------------------------------------------------
    @torch.no_grad()
    def push(
        self,
        start: Float[Tensor, "n p d"],
        answer: Callable[[int, Float[Tensor, "n p d"]], Tensor],
    ) -> Float[Tensor, "n p d"]:
        """What becomes of changes of the embedding: the change of what the logits read behind the
        final norm. ``answer`` says, of the change of what a layer's MLP reads (before its norm),
        by how much that changes what it writes."""
        x, stream = start, {1: start}
        for stage in self.model.wiring.stages:
            here = device_of(self.model, stage)
            read = moved(stream[stage.upstream], here)
            if stage.kind == ATTENTION:
                weights, _ = self.model.projection(stage.layer, "v")
                normed = self._heads[stage.index].norm.of(read)
                given = self._mixed(stage, torch.einsum("npd,gde->npge", normed, weights))
            else:
                given = answer(stage.layer, read)
            x = stream[stage.rows.stop] = moved(x, here) + given
        return self._last.of(moved(x, start.device))

    def normed(self, layer: int, change: Float[Tensor, "n p d"]) -> Float[Tensor, "n p d"]:
        """The change of what a layer's MLP reads behind its norm, from that before it."""
        return self._norms[layer].of(change)

    def mlps(self) -> Iterator[Stage]:
        """The stages of the MLPs."""
        return (stage for stage in self.model.wiring.stages if stage.kind == MLP)


def _scale(model: Model, stage: Stage, z: Tensor) -> Tensor | float:
    """By what a norm behind the heads multiplies what they write, in the run that gave z."""
    if not model.post_norm:
        return 1.0
    shares, size = model.share(stage.layer, z), z.square().sum((-1, -2), keepdim=True)
    scale = (shares * z).sum((-1, -2), keepdim=True) / size
    return torch.where(size > 0, scale, torch.ones_like(scale))
