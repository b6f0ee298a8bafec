"""Mixture-of-experts MLPs taken apart: each expert as a writer of its own.

The model's own code runs: the MLP in a shallow copy whose experts do nothing says which of them the
router chooses, and with what weights; the experts themselves are then called one by one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from circuitkit.engine.kinds import Writing
from circuitkit.engine.model import Context, Model, Ports
from circuitkit.errors import UnsupportedModelError
from circuitkit.graph.stages import Stage
from circuitkit.models.norms import Norm
from circuitkit.models.stubs import copy_with

__all__ = ["ROUTERS", "ExpertBlock", "Experts", "routed"]

ROUTERS = ("live", "held")
Routing: TypeAlias = tuple[Int[Tensor, "b p k"], Float[Tensor, "b p k"]]
TOLERANCE = {torch.bfloat16: 5e-2, torch.float16: 5e-3}  # else 1e-3


class Experts(Writing):
    """The experts of a layer's MLP, each with the weight that the router gives it: by what is read
    or, where the context holds them, as in the run that it belongs to."""

    def __init__(self, blocks: Mapping[int, ExpertBlock]) -> None:
        self.blocks = blocks  # by layer

    def compute(self, model: Model, stage: Stage, context: Context, ports: Ports) -> Tensor:
        """What each expert writes, weighted: zero where it is not chosen."""
        return self.blocks[stage.layer](ports[0][..., 0, :], context.held.get(stage.index))


class ExpertBlock:
    """One mixture-of-experts MLP behind its norm. ``count`` experts write, and after them, if
    ``shared``, the one that every token goes through.

    Raises UnsupportedModelError where the module does not call experts as Hugging Face's do, or is
    not the sum of what they write.
    """

    def __init__(self, mlp: nn.Module, norm: Norm, like: Float[Tensor, " d"]) -> None:
        experts = getattr(mlp, "experts", None)
        if not isinstance(experts, nn.Module):
            raise UnsupportedModelError(
                f"{type(mlp).__name__} has no experts; load the model without experts"
            )
        self.norm, self.experts, self.asked = norm, experts, _Asked()
        self.hollow = copy_with(mlp, {id(experts): self.asked})
        probe = torch.sin(torch.arange(3 * len(like), device=like.device) * 1.7).to(like)
        with torch.no_grad():
            self._prove(mlp, probe.view(1, 3, -1))

    def _prove(self, mlp: nn.Module, x: Float[Tensor, "b p d"]) -> None:
        """Find how many experts there are, and compare their sum with what the MLP writes."""
        try:
            _, rest = self._route(x)
            self.count = int(self.experts.num_experts)  # type: ignore[arg-type]
            self.shared = bool(rest.abs().max() > 0)
            expected = _first(mlp(self.norm(x)))
            error = (self(x).sum(-2) - expected).abs().max() / expected.abs().max()
        except (AttributeError, TypeError, ValueError, IndexError, RuntimeError) as cause:
            raise UnsupportedModelError(
                f"the experts of {type(mlp).__name__} cannot be called one by one ({cause}); load "
                "the model without experts"
            ) from cause
        if not error < TOLERANCE.get(expected.dtype, 1e-3):
            raise UnsupportedModelError(
                f"{type(mlp).__name__} does not write the sum of its experts (relative error "
                f"{error:.1e}); load the model without experts"
            )

    def following(self, norm: Norm, mlp: nn.Module) -> ExpertBlock:
        """The same of another copy of the MLP, behind another norm."""
        twin = copy.copy(self)
        twin.norm, twin.experts = norm, mlp.experts  # type: ignore[assignment]
        twin.hollow = copy_with(mlp, {id(twin.experts): self.asked})
        return twin

    def _route(self, x: Float[Tensor, "b p d"]) -> tuple[Routing, Float[Tensor, "b p d"]]:
        """The experts that are chosen and their weights, and what is written beside them."""
        self.asked.call = None
        rest = _first(self.hollow(self.norm(x)))
        if self.asked.call is None:
            raise UnsupportedModelError(
                f"{type(self.hollow).__name__} calls no experts; load the model without experts"
            )
        routing = routed(self.asked.call, x)
        self.asked.call = None
        return routing, rest

    def __call__(
        self, x: Float[Tensor, "b p d"], held: tuple[Tensor, ...] | None = None
    ) -> Float[Tensor, "b p n d"]:
        """What each expert writes when the MLP reads this residual, weighted as the router says,
        or as held."""
        routing, rest = self._route(x)
        index, weights = routing if held is None else held
        normed = self.norm(x)
        out = rest.new_zeros(*x.shape[:-1], self.count + self.shared, x.shape[-1])
        for expert in range(self.count):
            chosen = index == expert
            here = chosen.any(-1)
            if here.any():
                weight = (weights * chosen).sum(-1)[here]
                alone = torch.full_like(weight, expert, dtype=index.dtype)
                written = self.experts(normed[here], alone[:, None], weight[:, None])
                out[..., expert, :][here] = written.to(out.dtype)
        if self.shared:
            out[..., self.count, :] = rest
        return out


class _Asked(nn.Module):
    """Experts that write nothing; they keep what they were asked."""

    call: tuple[Tensor, ...] | None = None

    def forward(self, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        self.call = index, weights
        return torch.zeros_like(x)


def routed(call: tuple[Tensor, ...], like: Shaped[Tensor, "b p _"]) -> Routing:
    """Which experts were asked, and with what weights, for each token of a batch."""
    index, weights = (x.view(*like.shape[:-1], x.shape[-1]) for x in call)
    return index, weights


def _first(out: Any) -> Tensor:
    """What an MLP writes; some return the router's scores beside it."""
    written: Tensor = out[0] if isinstance(out, tuple) else out
    return written
