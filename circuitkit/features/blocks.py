"""How stages that are taken apart compute: what each part writes.

Where a stage writes w, of what its dictionary reads, y, it writes the sum of what its features
write, of a skip and of what these leave over:

    w = Σ_f a_f(y) · d_f + bias + skip(y) + error

A chosen feature of an MLP's transcoder, or of the residual stream, reads by itself, so that its
activation is a_f of its own reading; ``rest`` (all other features and the bias), ``skip`` and
``error`` read at the port. The error is what *all* features leave over there, the chosen ones at
the port's reading too: at their own, it would make up for whatever a circuit does to them. Features
of what an MLP or the heads write have no reading of their own, for all of it decides whether they
are active. With everything kept the parts add up to the stage, however bad the dictionary is. With
top k the threshold is that of the port.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.kinds import Attention, Writing
from circuitkit.engine.model import Context, Model, Ports, Pull
from circuitkit.engine.numerics import wide
from circuitkit.errors import UnsupportedModelError
from circuitkit.features.dictionaries import Dictionary
from circuitkit.graph.stages import Split, Stage

__all__ = [
    "AttentionBlock", "Block", "FeatureBlock", "HeadParts", "NeuronBlock", "Parts",
    "written_per_unit",
]  # fmt: skip

Own = Float[Tensor, "*t k"]


@runtime_checkable
class Block(Protocol):
    """A stage taken apart that reads one residual: what its parts write, in the order of the
    writers of its ``split``."""

    split: Split

    def own(self, x: Float[Tensor, "*t d"]) -> Float[Tensor, "*t k"]:
        """What decides what each chosen part writes, all reading the same residual."""

    def one(self, place: int, x: Float[Tensor, "*t d"]) -> Float[Tensor, "*t 1"]:
        """The same of one of them."""

    def parts(
        self, own: Float[Tensor, "*t k"] | None, x: Float[Tensor, "*t d"]
    ) -> Float[Tensor, "*t n d"]:
        """What each part writes, the others where the port reads ``x``; without ``own`` the chosen
        ones too."""

    def pull(
        self, x: Float[Tensor, "t d"], grads: Float[Tensor, "t k"], *held: object
    ) -> Float[Tensor, "k t d"]:
        """The gradients in the residual that each chosen part reads."""


class Parts(Writing):
    """The parts of MLPs, or of the residual stream: those that read by themselves give what decides
    what they write (one number), the port the residual itself."""

    def __init__(self, blocks: Mapping[int, Block]) -> None:
        self.blocks = blocks  # by layer

    def project(self, model: Model, stage: Stage, x: Tensor) -> Ports:
        """The number of each part that reads by itself, if there are any, and the residual."""
        residual = x[..., None, :]
        if stage.reads == 1:
            return (residual,)
        return self.blocks[stage.layer].own(x)[..., None], residual

    def read(self, model: Model, stage: Stage, readers: Sequence[int], x: Tensor) -> Tensor:
        """The numbers, or at the port the residual."""
        block, port = self.blocks[stage.layer], stage.reads - 1
        if port in readers:
            return x
        residuals = x.expand(len(readers), *x.shape[1:])
        given = [block.one(place, own) for place, own in zip(readers, residuals, strict=True)]
        return torch.stack(given) if given else x.new_zeros(0, *x.shape[1:-1], 1)

    def compute(self, model: Model, stage: Stage, context: Context, ports: Ports) -> Tensor:
        """What each part writes."""
        own = None if stage.reads == 1 else ports[0][..., 0]
        return self.blocks[stage.layer].parts(own, ports[-1][..., 0, :])

    def pull(self, model: Model, stage: Stage) -> Pull:
        """Back through what each chosen part reads; at the port the gradient is its own."""
        block = self.blocks[stage.layer]

        def pull(x: Tensor, grads: Ports, *held: object) -> Tensor:
            port = wide(grads[-1].movedim(-2, 0))
            if stage.reads == 1:
                return port
            return torch.cat([block.pull(x, grads[0][..., 0], *held), port])

        return pull


class HeadParts(Attention):
    """The parts of what the heads of a layer write together, which all of their ports feed."""

    def __init__(self, blocks: Mapping[int, AttentionBlock]) -> None:
        self.blocks = blocks  # by layer

    def couples(self, model: Model) -> bool:
        """Every port moves every part, so that ports are not changed side by side."""
        return True

    def joint(self, model: Model) -> bool:
        """What a part writes follows from what the ports read."""
        return False

    def width(self, model: Model) -> int:
        """That of the residual stream."""
        return model.d_model

    def compute(self, model: Model, stage: Stage, context: Context, ports: Ports) -> Tensor:
        """What each part writes."""
        z = super().compute(model, stage, context, ports)
        return self.blocks[stage.layer].parts(model, z)

    def out(self, model: Model, stage: Stage, computed: Tensor) -> tuple[Tensor, Tensor]:
        """The sum with the output bias, and what was computed."""
        total, constant = computed.sum(-2), self.constant(model, stage)
        return total if constant is None else total + constant, computed

    def shares(self, model: Model, stage: Stage, computed: Tensor) -> Tensor:
        """What was computed."""
        return computed

    def write(
        self, model: Model, stage: Stage, index: Sequence[int] | None, shares: Tensor
    ) -> Tensor:
        """What was computed, part by part."""
        return shares.movedim(-2, 0)


class _Explained:
    """What a dictionary says of what it reads: its chosen features, and all else."""

    def __init__(self, dictionary: Dictionary, chosen: Sequence[int]) -> None:
        self.dictionary = dictionary
        self.index = torch.tensor([*chosen], dtype=torch.long, device=dictionary.device)
        self.decoder = dictionary.decoder_rows(self.index)

    @property
    def others(self) -> tuple[str, ...]:
        """Who writes what the chosen features leave over."""
        skips = () if self.dictionary.skip is None else ("skip",)
        return ("rest", *skips, "error")

    def parts(self, own: Own | None, y: Tensor, whole: Tensor) -> Tensor:
        """Features, rest, skip and error where this is read and ``whole`` is to be explained; with
        ``own``, the pre-activations of the chosen features are these."""
        dictionary = self.dictionary
        pre = dictionary.pre(y)
        least = dictionary.thresholds(pre)  # one number a token with top k
        every = torch.where(pre > least, pre, pre.new_zeros(()))
        there = every[..., self.index]
        active = there
        if own is not None:
            chosen = least if least.shape[-1] == 1 else least[..., self.index]
            active = torch.where(own > chosen, own, own.new_zeros(()))
        rest = dictionary.decode(every.index_fill(-1, self.index, 0))
        parts, explained = [rest], rest + there @ self.decoder
        if dictionary.skip is not None:
            parts.append(dictionary.skipped(y))
            explained = explained + parts[-1]
        parts.append(whole - explained)
        return torch.cat([active[..., None] * self.decoder, torch.stack(parts, -2)], -2)


class FeatureBlock:
    """An MLP or the residual stream taken apart by a dictionary. ``site`` is that of the split: an
    MLP by a transcoder (``mlp``) or by an autoencoder of what it writes (``mlp_out``), or the
    residual stream by an autoencoder."""

    def __init__(
        self, model: Inspectable, dictionary: Dictionary, chosen: Sequence[int], site: str = "mlp"
    ) -> None:
        self.model, self.dictionary, self.layer = model, dictionary, dictionary.layer
        self.site, self.behind = site, dictionary.reads == "mlp_in"
        self._explained = _Explained(dictionary, chosen)
        tied = dictionary.activation == "topk" and site != "mlp_out"
        self.split = Split((*chosen,), self._explained.others, tied=tied, site=site)
        index = self._explained.index
        self.encoder = dictionary.encoder_rows(index)
        self.offset = dictionary.encoder_bias[index]
        if self.behind:
            self._back = model.mlp_pull(self.layer, wide(self.encoder)[..., None])

    def _reading(self, x: Tensor) -> Tensor:
        return self.model.mlp_in(self.layer, x) if self.behind else x

    def own(self, x: Tensor) -> Tensor:
        """The pre-activations of the chosen features."""
        return torch.nn.functional.linear(self._reading(x), self.encoder, self.offset)

    def one(self, place: int, x: Tensor) -> Tensor:
        """That of one of them."""
        row, offset = self.encoder[place : place + 1], self.offset[place : place + 1]
        return torch.nn.functional.linear(self._reading(x), row, offset)

    def parts(self, own: Tensor | None, x: Tensor) -> Tensor:
        """Features, rest, skip and error."""
        whole = self.model.mlp(self.layer, x) if self.site in ("mlp", "mlp_out") else x
        y = whole if self.site == "mlp_out" else self._reading(x)
        return self._explained.parts(own, y, whole)

    def pull(self, x: Tensor, grads: Tensor, *held: object) -> Tensor:
        """Back through the encoder's rows, and the norm where there is one."""
        steep = wide(grads).T[..., None]
        if self.behind:
            return self._back(x, steep, *held)
        return steep * wide(self.encoder)[:, None]


class AttentionBlock:
    """What the heads of a layer write together, taken apart by a dictionary of it, or by one of
    ``attn_z`` whose features write by way of the output projection."""

    site = "attn_out"

    def __init__(self, dictionary: Dictionary, chosen: Sequence[int]) -> None:
        self.dictionary, self.layer = dictionary, dictionary.layer
        self._explained = _Explained(dictionary, chosen)
        self.split = Split((*chosen,), self._explained.others, site=self.site)

    def parts(self, model: Model, z: Float[Tensor, "m p h e"]) -> Float[Tensor, "m p n d"]:
        """Features, rest and error, without the output bias, which is written whatever is read."""
        whole, _ = model.attention_out(self.layer, z)
        y = z.flatten(-2) if self.dictionary.reads == "attn_z" else whole
        constant = model.constant(self.layer)
        return self._explained.parts(None, y, whole if constant is None else whole - constant)


class NeuronBlock:
    """An MLP taken apart into its own neurons, which leave no error."""

    site = "mlp"

    def __init__(self, model: Inspectable, layer: int, chosen: Sequence[int]) -> None:
        self.model, self.layer, self.split = model, layer, Split((*chosen,), ("rest",), "n")
        self.index = torch.tensor([*chosen], dtype=torch.long, device=model.device)
        self.rows = written_per_unit(model, layer)[self.index]

    def own(self, x: Tensor) -> Tensor:
        """The values of the chosen neurons."""
        return self.model.neurons(self.layer, x)[..., self.index]

    def one(self, place: int, x: Tensor) -> Tensor:
        """That of one of them."""
        number = self.split.chosen[place]
        return self.model.neurons(self.layer, x)[..., number : number + 1]

    def parts(self, own: Tensor | None, x: Tensor) -> Tensor:
        """Neurons, and the rest."""
        there = self.model.neurons(self.layer, x)
        rest = self.model.mlp_out(self.layer, there.index_fill(-1, self.index, 0))
        own = there[..., self.index] if own is None else own
        return torch.cat([own[..., None] * self.rows, rest[..., None, :]], -2)

    def pull(self, x: Tensor, grads: Tensor, *held: object) -> Tensor:
        """By the model's own backward, neuron by neuron."""
        with torch.enable_grad():
            start = x.detach()[None].requires_grad_()
            values = self.own(start)[0]
            found = [
                torch.autograd.grad(values[:, i], start, grads[:, i].to(values), retain_graph=True)
                for i in range(values.shape[-1])
            ]
        return torch.cat([own for (own,) in found]) if found else wide(x.new_zeros(0, *x.shape))


@torch.no_grad()
def written_per_unit(model: Inspectable, layer: int) -> Float[Tensor, "f d"]:
    """What each neuron of an MLP writes per unit; raises UnsupportedModelError where a norm follows
    the MLP, so that what they write does not add up."""
    probe = torch.linspace(-1, 2, model.d_model, dtype=model.dtype, device=model.device)
    once, twice = (model.after_mlp(layer, x * probe[None, None]) for x in (1, 2))
    if not torch.allclose(twice, 2 * once):
        raise UnsupportedModelError(
            f"in layer {layer} of {model.name!r} a norm follows the MLP, so that what neurons "
            "write does not add up; use a dictionary that writes after it"
        )
    nothing = model.neurons(layer, torch.zeros_like(probe)[None, None])
    each = torch.eye(nothing.shape[-1] + 1, nothing.shape[-1]).to(nothing)  # the last is none
    out = model.mlp_out(layer, each[None])[0]
    return out[:-1] - out[-1]
