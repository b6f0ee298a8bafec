"""What reading a model's heads and MLPs asks of it beside running it: the affine parts of what it
computes.

A norm divides by a scale that depends on all that it reads. With the scale frozen at that of one
run it is affine, and so are the queries, the keys and the logits in what the writers wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.engine.model import Context, Model, Pull
from circuitkit.errors import UnsupportedModelError

__all__ = ["Frozen", "Inspectable", "require_sum"]


@dataclass(frozen=True)
class Frozen:
    """A norm with the scale that it has in one run: of x it makes ``weight ∘ Cx + bias``, with C
    the centring where there is one. The scale is in the weight."""

    weight: Float[Tensor, "*t"]
    bias: Float[Tensor, "*b"]
    centred: bool = False

    @classmethod
    def identity(cls, *shape: int, like: Tensor) -> Frozen:
        """No norm."""
        ones = torch.ones(shape, dtype=like.dtype, device=like.device)
        return cls(ones, torch.zeros_like(ones))

    def of(self, part: Float[Tensor, "*t"]) -> Float[Tensor, "*u"]:
        """What the norm makes of a part of what it reads, without its bias: linear in the part."""
        return _centre(part, self.centred) * self.weight

    def pull(self, gradient: Float[Tensor, "*t"]) -> Float[Tensor, "*u"]:
        """The gradient in what the norm reads, from that in what it gives."""
        return _centre(gradient * self.weight, self.centred)


def _centre(x: Tensor, centred: bool) -> Tensor:
    return x - x.mean(-1, keepdim=True) if centred else x


@runtime_checkable
class Inspectable(Model, Protocol):
    """A model whose heads and MLPs can be read: see ``Model`` for the letters of the shapes."""

    def norm(self, layer: int | None, x: Float[Tensor, "*t d"] | None) -> Frozen:
        """The norm of what a layer's attention (None: the logits) reads, frozen as it is where
        this is read; without anything read, its weight alone, at a scale of 1."""

    def mlp_in(self, layer: int, x: Float[Tensor, "b p d"]) -> Float[Tensor, "b p d"]:
        """What the norm before a layer's MLP gives where the MLP reads this residual."""

    def mlp_norm(self, layer: int, x: Float[Tensor, "*t d"] | None) -> Frozen:
        """The norm before a layer's MLP, frozen as it is where this is read; see ``norm``."""

    def mlp_pull(self, layer: int, matrix: Float[Tensor, "n d e"]) -> Pull:
        """What takes the residual that a layer's MLP reads at some tokens [t, d], and gradients in
        ``norm(residual) @ matrix`` [n, t, e], to the gradients in that residual [n, t, d]."""

    def mlp_after_norm(self, layer: int, given: Float[Tensor, "b p d"]) -> Float[Tensor, "b p d"]:
        """What a layer's MLP writes where the norm before it gives this: ``mlp`` is this of
        ``mlp_in``."""

    def after_mlp(self, layer: int, out: Float[Tensor, "b p d"]) -> Float[Tensor, "b p d"]:
        """What arrives in the residual stream of what a layer's MLP gives: through a norm that
        follows it, times a multiplier; the same, where there is neither."""

    def projection(
        self, layer: int, port: str
    ) -> tuple[Float[Tensor, "n d e"], Float[Tensor, " n e"] | None]:
        """The weights and the biases of a port (q, k or v), by head or group."""

    def port_norms(
        self,
        layer: int,
        q: Float[Tensor, "b p h e"] | None,
        k: Float[Tensor, "b p g e"] | None,
    ) -> tuple[Frozen, Frozen]:
        """The norms over a layer's queries and keys, frozen as they are for these; see ``norm``."""

    def scores(
        self,
        context: Context,
        layer: int,
        q: Float[Tensor, "b p h e"],
        k: Float[Tensor, "b p g e"],
        *,
        normed: bool = False,
    ) -> Float[Tensor, "b h p p"]:
        """The scores that enter the softmax, [query, key], by the model's own attention; a key
        that a query does not see has a very low one. ``normed``: q and k have been through the
        norms over them already."""

    def logit_directions(
        self, weights: Float[Tensor, "n vocab"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """The directions, in what the final norm gives, of weighted sums of logits, and what the
        sums are where it gives nothing; before a cap on the logits."""


def require_sum(model: Model) -> None:
    """Raise UnsupportedModelError for a model whose residual stream is taken apart: what is read
    there is not the sum of all that was written before."""
    if any(stage.renews for stage in model.wiring.stages):
        raise UnsupportedModelError(
            f"the residual stream of {model.name!r} is taken apart into features, and what heads "
            "read and write is followed past none; use the model with it whole"
        )
