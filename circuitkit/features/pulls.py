"""One prompt's run with its attention patterns and norms held: what every reading takes from what.

With the attention patterns and what norms divide by held as they are in one run, and what MLPs
write taken as given, all else of a decoder is affine: what an MLP or the logits read is a sum over
what was written before. The gradients come from the model's own backward under the rules
``frozen_norms`` and ``frozen_patterns``; the constants, from its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.engine.backward import Rule, under, with_slope
from circuitkit.engine.devices import device_of, moved
from circuitkit.engine.inspection import Frozen, Inspectable
from circuitkit.engine.model import Context, Ports
from circuitkit.errors import UnsupportedModelError
from circuitkit.graph.stages import ATTENTION, MLP, Stage

__all__ = ["FrozenRun", "Pulled", "require_traceable"]

# By where it was written (-1: the embedding, else the number of the stage), the gradients in it.
Pulled = Mapping[int, Float[Tensor, "n p d"]]


def require_traceable(model: object) -> Inspectable:
    """The model as one whose MLPs can be replaced by features; raises UnsupportedModelError."""
    if not isinstance(model, Inspectable):
        name = getattr(model, "name", type(model).__name__)
        raise UnsupportedModelError(
            f"{name!r} does not show what its norms give (it has no method 'mlp_in'), so that its "
            "features cannot be traced; use a model that ck.load returned"
        )
    kinds = {stage.kind for stage in model.wiring.stages}
    if MLP not in kinds:
        others = ", ".join(sorted(kinds - {ATTENTION}))
        reason = f"takes its MLPs apart ({others})" if others else "has no MLPs"
        remedy = "load it without experts" if others else "use a model that has"
        raise UnsupportedModelError(
            f"{model.name!r} {reason}, and features stand for whole MLPs; {remedy}"
        )
    return model


class FrozenRun:
    """A run of one prompt: ``readings`` are what each MLP reads behind its norm (by layer) and
    ``residuals`` the same before it, ``outputs`` what each MLP writes, ``embed`` the embedding,
    ``final`` what the logits read and ``ending`` that behind the final norm; each [p, d].
    ``constants`` is what is written whatever is read, by the number of the stage.

    With ``skips`` a part of what an MLP writes is a linear function of what it reads, and pulls go
    through it. ``norms="live"``: norms answer to what they read, to first order; then what is
    read is no longer the sum over what was written.
    """

    def __init__(
        self,
        model: Inspectable,
        context: Context,
        skips: Mapping[int, Float[Tensor, "d d"]] = MappingProxyType({}),
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
        self._live: dict[tuple[str, int], Tensor] = {}  # the same, with their graph
        self._sources: dict[int, Tensor] = {}
        with torch.enable_grad():
            self._build()

    def _build(self) -> None:
        """Run the prompt, and keep the graph of what depends linearly on what."""
        x = self._sources[-1] = self.context.embed.detach().requires_grad_()
        stream = {1: x}
        for stage in self.model.wiring.stages:
            here = device_of(self.model, stage)
            read = moved(stream[stage.upstream], here)
            written = (
                self._attention(stage, read) if stage.kind == ATTENTION else self._mlp(stage, read)
            )
            probe = self._sources[stage.index] = torch.zeros_like(written).requires_grad_()
            x = stream[stage.rows.stop] = moved(x, here) + written + probe
        final = moved(x, self.context.embed.device)
        norm = self._held(self.model.norm(None, final))
        self._live["ending", 0] = norm.of(final) + norm.bias
        self.embed, self.final = self.context.embed[0].detach(), final[0].detach()
        self.ending = self._live["ending", 0][0].detach()

    def _held(self, norm: Frozen) -> Frozen:
        """The norm, whose scale is a constant unless norms are live."""
        return Frozen(norm.weight.detach(), norm.bias, norm.centred) if self.frozen else norm

    def _attention(self, stage: Stage, read: Tensor) -> Tensor:
        """What the heads write; and of it, what they write whatever they read."""
        kind = self.model.kinds[stage.kind]
        ports = kind.project(self.model, stage, read)
        z = kind.compute(self.model, stage, self.context, ports)
        with torch.no_grad():
            self.constants[stage.index] = self._constant(stage, ports, z)[0]
        written, _ = kind.out(self.model, stage, z)
        return written

    def _constant(self, stage: Stage, ports: Ports, z: Tensor) -> Float[Tensor, "b p d"]:
        """What the heads write of the biases: those of the norm and of the values, moved by the
        patterns, and that of the output."""
        model, layer = self.model, stage.layer
        weights, biases = model.projection(layer, "v")
        bias = model.norm(layer, None).bias
        values = torch.einsum("d,gde->ge", bias, weights)
        values = values if biases is None else values + biases
        q, k, v = ports
        moved_ = model.attend(self.context, layer, q, k, values.expand_as(v).contiguous())
        if model.post_norm:  # its scale is that of the run
            shares, size = model.share(layer, z), z.square().sum((-1, -2), keepdim=True)
            scale = (shares * z).sum((-1, -2), keepdim=True) / size
            moved_ = moved_ * torch.where(size > 0, scale, torch.ones_like(scale))
        total, constant = model.write(layer, None, moved_).sum(0), model.constant(layer)
        return total if constant is None else total + constant

    def _mlp(self, stage: Stage, read: Tensor) -> Tensor:
        """What the MLP writes, as given; through its skip, what depends on what it reads."""
        layer, kind = stage.layer, self.model.kinds[stage.kind]
        reading = self.model.mlp_in(layer, read)
        self._live["reading", layer], self._live["residual", layer] = reading, read
        self.readings[layer], self.residuals[layer] = reading[0].detach(), read[0].detach()
        with torch.no_grad():
            ports = kind.project(self.model, stage, read)
            written, _ = kind.out(
                self.model, stage, kind.compute(self.model, stage, self.context, ports)
            )
        self.outputs[layer] = written[0]
        skip = self.skips.get(layer)
        if skip is None:
            self.constants[stage.index] = torch.zeros_like(written[0])
            return written
        self.constants[stage.index] = (self.bias(layer) @ skip.T).expand_as(written[0])
        return with_slope(written, reading @ skip.T)

    # -- pulls -------------------------------------------------------------------------------------
    def bias(self, layer: int | None) -> Float[Tensor, " d"]:
        """What the norm before a layer's MLP (None: before the logits) gives of nothing."""
        if layer is None:
            return self.model.norm(None, None).bias
        nothing = torch.zeros_like(self.residuals[layer][:1])[None]
        return self.model.mlp_in(layer, nothing)[0, 0].detach()

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
