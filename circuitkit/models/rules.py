"""The parts of a Hugging Face model that a backward rule speaks of, in copies that follow it.

An MLP's activation is found, not named: a part without weights, which works element by element, or
a function that the MLP keeps. It is proved: with the identity in its place what is left has to be
affine in what the MLP reads, or, where the MLP is gated, the product of two such factors. As both
read the same, halving the gradient in what a gated MLP reads is halving that in each factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from circuitkit.engine.backward import Rule, half, with_slope
from circuitkit.errors import CircuitkitError, UnsupportedModelError
from circuitkit.models.compat import original, parts_of
from circuitkit.models.norms import Norm
from circuitkit.models.stubs import copy_with, twin_with

__all__ = ["norms_within", "stubs_for"]

KEPT = ("act", "act_fn", "activation_fn", "activation")  # where an MLP keeps a plain function
LARGE = 8.0  # values at which the product of two factors outweighs their biases
TOLERANCE = {torch.bfloat16: 1e-1, torch.float16: 2e-2}  # else 1e-3


# -- norms within an attention ---------------------------------------------------------------------
def norms_within(attention: Any) -> dict[int, nn.Module]:
    """For the norms over an attention's queries and keys: the same, with constant scales."""
    norms = [part for name, part in parts_of(attention).items() if name in ("q_norm", "k_norm")]
    return {
        id(twin): _Norm(twin, original(part) or part)
        for part in norms
        for twin in (part, original(part))
        if twin is not None
    }


class _Norm(nn.Module):
    """A norm whose backward takes the scale as a constant; what it is, is found when it is called,
    because its width depends on whether it is over one head or over all."""

    def __init__(self, called: nn.Module, module: nn.Module) -> None:
        super().__init__()
        self.called, self.module = called, module
        self.known: dict[int, Norm] = {}

    def forward(self, x: Tensor, *rest: Any, **more: Any) -> Tensor:
        given: Tensor = self.called(x, *rest, **more)
        if not torch.is_grad_enabled():
            return given
        width = x.shape[-1]
        if width not in self.known:
            self.known[width] = Norm(self.module, width, x)
        return self.known[width].with_constant_scale(x, given)


# -- MLPs ------------------------------------------------------------------------------------------
def stubs_for(mlp: nn.Module, rule: Rule, like: Tensor, name: str) -> Mapping[int, nn.Module]:
    """By the ids of an MLP's parts, what stands in their place under a rule: of a mixture of
    experts the experts, and the expert that every token goes through. Routers keep their gradient.

    Raises UnsupportedModelError where the activation is not a part that can be reached.
    """
    if not (rule.activations or rule.gates):
        return {}
    found = [_Unit(part, *activation) for part in mlp.modules() for activation in _acts(part, like)]
    experts = getattr(mlp, "experts", None)
    sparse = isinstance(experts, nn.Module)
    inside = {id(part) for part in experts.modules()} if isinstance(experts, nn.Module) else set()
    if not found or (sparse and not any(id(unit.module) in inside for unit in found)):
        raise _unreachable(name, experts if isinstance(experts, nn.Module) else mlp)
    return {id(unit.module): _following(unit, rule, like, name) for unit in found}


def _unreachable(name: str, module: nn.Module) -> UnsupportedModelError:
    kind = type(original(module) if hasattr(module, "original_component") else module).__name__
    return UnsupportedModelError(
        f"the activation of {name!r} is not a part of its own in {kind}, so that a rule cannot set "
        "its slope or halve its gate; use the rules 'frozen_norms' and 'frozen_patterns'"
    )


@dataclass(frozen=True)
class _Unit:
    """A module that calls an activation: by the name under which it holds it."""

    module: nn.Module
    name: str
    activation: Callable[[Tensor], Tensor]

    def with_activation(self, activation: nn.Module) -> nn.Module:
        """The same module with another activation."""
        if isinstance(self.activation, nn.Module):
            return copy_with(self.module, {id(self.activation): activation})
        return twin_with(self.module, **{self.name: activation})


def _acts(module: nn.Module, like: Tensor) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """The activations that a module itself holds."""
    for name, part in module.named_children():
        if not [*part.children()] and not [*part.parameters()] and _elementwise(part, like):
            yield name, part
    for name in KEPT:
        kept = vars(module).get(name)
        if callable(kept) and not isinstance(kept, nn.Module):
            yield name, kept


def _elementwise(part: nn.Module, like: Tensor) -> bool:
    """Whether a part changes values, each by itself."""
    x = torch.linspace(-2, 2, 8, device=like.device).to(like.dtype)[None]
    try:
        with torch.no_grad():
            whole, front = part(x), part(x[:, :3])
            return not torch.equal(whole, x) and torch.equal(whole[:, :3], front)
    except Exception:  # a part that takes something else raises what it likes
        return False


def _following(unit: _Unit, rule: Rule, like: Tensor, name: str) -> nn.Module:
    """The unit under the rule."""
    gated = _gated(unit, like)
    if gated is None:
        raise _unreachable(name, unit.module)
    module = unit.with_activation(_Sloped(unit.activation)) if rule.activations else unit.module
    return _Halved(module) if rule.gates and gated else module


def _gated(unit: _Unit, like: Tensor) -> bool | None:
    """Whether what is left of a unit without its activation is a product of two affine factors;
    None where it is neither that nor affine."""
    plain = unit.with_activation(nn.Identity())
    probe = LARGE * torch.sin(torch.arange(len(like), device=like.device) * 1.7)
    x = (torch.arange(4, device=like.device)[:, None] * probe).to(like.dtype)
    try:
        with torch.no_grad():
            y = _called(plain, x).cpu().double()
    except CircuitkitError:
        raise
    except Exception:  # a module that is called otherwise raises what it likes
        return None
    size = TOLERANCE.get(like.dtype, 1e-3) * y.abs().max()
    second, third = y[2] - 2 * y[1] + y[0], y[3] - 3 * y[2] + 3 * y[1] - y[0]
    if not bool((third.abs() <= size).all()):
        return None
    return bool((second.abs() > size).any())


def _called(module: nn.Module, x: Tensor) -> Tensor:
    """What a module gives for these four tokens; experts, what their first one does."""
    if hasattr(module, "num_experts"):
        index = torch.zeros(len(x), 1, dtype=torch.long, device=x.device)
        given: Tensor = module(x, index, torch.ones_like(index, dtype=x.dtype))
        return given
    written = module(x[None])
    first: Tensor = written[0] if isinstance(written, tuple) else written
    return first[0]


class _Sloped(nn.Module):
    """An activation whose slope at x is act(x)/x; 0 at 0, where activations are 0."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(x)
        if not torch.is_grad_enabled():
            return y
        with torch.no_grad():
            slope = torch.where(x == 0, 0, y / x)
        return with_slope(y, x * slope)


class _Halved(nn.Module):
    """A gated MLP that gives back half of its gradient."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, *rest: Any, **more: Any) -> Any:
        return self.module(half(x) if torch.is_grad_enabled() else x, *rest, **more)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)
