"""Shallow copies of a module with parts of it replaced: weights shared, nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from circuitkit.errors import UnsupportedModelError
from circuitkit.models.compat import original
from circuitkit.util.versions import changed

__all__ = ["HandsOver", "Last", "Muted", "Through", "between", "copy_with", "twin_with"]


def copy_with(module: nn.Module, stubs: Mapping[int, nn.Module]) -> nn.Module:
    """The module with some descendants (by id) replaced; parts without any of them are shared."""
    if id(module) in stubs:
        return stubs[id(module)]
    if "_modules" not in module.__dict__:
        raise changed("torch", f"{type(module).__name__} has no '_modules'")
    own: dict[str, nn.Module | None] = module.__dict__["_modules"]
    children = {n: c and copy_with(c, stubs) for n, c in own.items()}
    if all(children[n] is c for n, c in own.items()):
        return module
    return twin_with(module, _modules=children)


def twin_with(module: nn.Module, **own: Any) -> nn.Module:
    """A shallow copy of a module with some of its attributes replaced."""
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    twin.__dict__.update(own)
    own_forward = twin.__dict__.get("forward")  # one that was put on the module, and runs it
    if isinstance(own_forward, MethodType) and own_forward.__self__ is module:
        twin.__dict__["forward"] = MethodType(own_forward.__func__, twin)
    return twin


def between(block: nn.Module, projections: Mapping[str, nn.Module]) -> nn.Module:
    """The MLP of a block that calls its projections itself, as a module.

    Raises UnsupportedModelError where the block has no ``activation_fn``.
    """
    activation = getattr(block, "activation_fn", None)
    if not callable(activation) or not {"in", "out"} <= set(projections):
        raise UnsupportedModelError(
            f"{type(block).__name__} calls the projections of its MLP itself, and in a way that is "
            "not known; use another model"
        )
    return _Between(original(projections["in"]), activation, original(projections["out"]))


class _Between(nn.Module):
    """Up, the activation, and down."""

    def __init__(
        self, up: nn.Module, activation: Callable[[Tensor], Tensor], down: nn.Module
    ) -> None:
        super().__init__()
        self.up, self.activation, self.down = up, activation, down

    def forward(self, x: Tensor) -> Tensor:
        written: Tensor = self.down(self.activation(self.up(x)))
        return written


class HandsOver(nn.Module):
    """A projection that hands over a given value, whatever it reads."""

    value: Tensor | None = None

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        return x if self.value is None else self.value


class Muted(nn.Module):
    """A component that writes nothing; it keeps what it was called with."""

    def __init__(self, returns_tuple: bool = False) -> None:
        super().__init__()
        self.returns_tuple = returns_tuple
        self.read: Tensor | None = None
        self.call: dict[str, object] = {}

    def forward(self, *args: Tensor, **kwargs: Any) -> Tensor | tuple[Tensor, None]:
        x: Tensor = args[0] if args else kwargs.pop("hidden_states")
        self.read, self.call = x, kwargs
        zeros = torch.zeros_like(x)
        return (zeros, None) if self.returns_tuple else zeros


class Through(nn.Module):
    """A norm that is passed through; it keeps what it read."""

    read: Tensor | None = None

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        self.read = x
        return x


class Last(nn.Module):
    """The final norm, or the unembedding, on a given residual; cheap where none is given. ``bare``:
    what is given is the norm's output already."""

    def __init__(self, module: nn.Module, *, first: bool) -> None:
        super().__init__()
        self.module, self.first = module, first
        self.value: Tensor | None = None
        self.bare = False

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        if self.value is None:
            return x if self.first else x[..., :1]
        if self.bare and self.first:
            return self.value
        shown: Tensor = self.module(self.value if self.first else x)
        return shown
