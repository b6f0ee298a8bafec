"""LayerNorm and RMSNorm, as the model has them, with the closed form of their Jacobians."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuitkit.engine.backward import with_slope
from circuitkit.engine.holding import Scale
from circuitkit.engine.inspection import Frozen
from circuitkit.engine.numerics import wide
from circuitkit.errors import UnsupportedModelError

__all__ = ["Norm"]


class Norm:
    """A LayerNorm or RMSNorm of the model, with the closed form of its Jacobian.

    Its weight, bias and centring are found by probing the module, so that every spelling (Gemma's
    1 + w, a norm without parameters) is served; ``y = w∘Cx·s(x) + b`` with C the centring or 1.
    ``constant``: its backward takes s(x) as a constant. Raises UnsupportedModelError where the
    module is not a LayerNorm or an RMSNorm.
    """

    constant = False

    def __init__(self, module: nn.Module | None, width: int, like: Tensor) -> None:
        self.module = None if isinstance(module, nn.Identity) else module
        self.weight = torch.ones(width, dtype=like.dtype, device=like.device)
        self.bias, self.centred, self.at_rest = torch.zeros_like(self.weight), False, self.weight[0]
        self.held: Scale | None = None
        if self.module is not None:
            self._probe(self.module, width, like)

    def _probe(self, module: nn.Module, width: int, like: Tensor) -> None:
        with torch.no_grad():
            signs = torch.ones(width, dtype=like.dtype, device=like.device)
            signs[1::2] = -1
            self.bias = module(torch.zeros_like(signs)[None])[0]
            self.weight = (module(1e4 * signs[None])[0] - self.bias) * signs
            at_rest = wide(module(1e-6 * signs[None])[0] - self.bias) * signs
            self.at_rest = at_rest.sum() / (1e-6 * wide(self.weight).sum())
            plain, shifted = (module(x)[0] - self.bias for x in (signs[None], signs[None] + 3))
            self.centred = bool((plain - shifted).abs().max() < 1e-2 * plain.abs().max())
            probe = torch.sin(torch.arange(width, device=like.device) * 1.7).to(like.dtype)[None]
            found = self._scale(probe) * self._centre(probe) * self.weight
            true = module(probe) - self.bias
        if (found - true).abs().max() > 5e-2 * true.abs().max():
            raise UnsupportedModelError(
                f"{type(module).__name__} is neither a LayerNorm nor an RMSNorm, so its "
                "Jacobian is unknown; use a model with one of these norms"
            )

    def __call__(self, x: Float[Tensor, "*t d"]) -> Float[Tensor, "*t d"]:
        """The module's own output; or with the scale that is held."""
        if self.held is None:
            return self._own(x)
        y = self._centre(wide(x)) * self.held.value * self.weight + self.bias
        scaled: Tensor = y.to(x.dtype)
        if not self.held.least:
            return scaled
        with torch.no_grad():
            free = self.held.free(self._scale(x))
        return torch.where(free, self._own(x), scaled)

    def _own(self, x: Tensor) -> Tensor:
        y = self._given(x)
        return self.with_constant_scale(x, y) if self.constant else y

    def with_constant_scale(self, x: Tensor, y: Tensor) -> Tensor:
        """What the norm gave, ``y``, with the gradient in ``x`` that takes the scale as given."""
        if self.module is None or not torch.is_grad_enabled():
            return y
        with torch.no_grad():
            frozen = self.frozen(x)
        return with_slope(y, frozen.of(x))

    def _given(self, x: Tensor) -> Tensor:
        y: Tensor = x if self.module is None else self.module(x)
        return y

    def constant_scale(self) -> Norm:
        """The same norm, whose backward takes the scale as a constant."""
        twin = copy.copy(self)
        twin.constant = True
        return twin

    def _centre(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def _scale(self, x: Tensor) -> Float[Tensor, "*t 1"]:
        """s(x), read off the module's own output."""
        y = wide(self._given(x) - self.bias)
        direction = self._centre(wide(x)) * self.weight
        size = direction.square().sum(-1, keepdim=True)
        scale = (y * direction).sum(-1, keepdim=True) / size
        return torch.where(size > 0, scale, self.at_rest)  # the embedding of a padding token is 0

    def scale(self, x: Float[Tensor, "*t d"]) -> Float[Tensor, "*t 1"]:
        """The factor s(x) by which a norm without centring and bias multiplies w∘x."""
        return self._scale(x).to(x.dtype)

    def scale_of(self, x: Float[Tensor, "*t d"], least: bool) -> Scale | None:
        """What to hold: the scale where it reads this; None without a norm."""
        return None if self.module is None else Scale(self._scale(x), least)

    def frozen(self, x: Float[Tensor, "*t d"] | None) -> Frozen:
        """The norm with its scale where it reads this, or without anything read with 1."""
        weight = self.weight if x is None else self.weight * self.scale(x)
        return Frozen(weight, self.bias, self.centred)

    def pull(self, matrix: Float[Tensor, "n d e"]) -> Callable[[Tensor, Tensor], Tensor]:
        """What takes x [t, d] and the gradient in ``norm(x) @ matrix`` [n, t, e] to the gradient in
        x [n, t, d], for n matrices at once.

        The Jacobian is s·w∘(C − u uᵀ/d) with u = s·Cx, so n gradients share one u: two small
        matrix products instead of n backward passes through the norm. The weights are folded here.
        Where the scale is ``held`` or a constant, the norm is affine, and there is no u.
        """
        if self.module is None:
            return lambda _, grad: grad @ matrix.mT
        folded = matrix * self.weight.to(matrix.dtype)[:, None]
        if self.centred:
            folded -= folded.mean(1, keepdim=True)

        def pull(
            x: Float[Tensor, "t d"], grad: Float[Tensor, "n t e"], held: Scale | None = None
        ) -> Float[Tensor, "n t d"]:
            s = own = self._scale(x)
            if held is not None:
                s = torch.where(held.free(own), own, held.value)
            pulled = (grad * s) @ folded.mT
            if self.constant or (held is not None and not held.least):
                return pulled
            u = self._centre(wide(x)) * s
            along = (pulled * u).sum(-1, keepdim=True) / x.shape[-1]
            along = along if held is None else along * held.free(own)
            return pulled.addcmul_(u.expand_as(pulled), along, value=-1)

        return pull
