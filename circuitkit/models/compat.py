"""What we use of TransformerLens and transformers that they may change: one function a name.

Each says which versions serve, in a VersionError, where the installed one no longer has the name.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from circuitkit.util.versions import changed

__all__ = [
    "FORKS",
    "is_parallel",
    "keep_dtype",
    "original",
    "parts_of",
    "use_eager",
    "without_forks",
    "without_hooks",
]

TRANSFORMER_LENS = "transformer_lens"
FORKS = ("use_split_qkv_input", "use_attn_in", "use_attn_result")  # a bridge's settings
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def parts_of(component: Any) -> dict[str, Any]:
    """The components of a bridge component, by name."""
    try:
        named: dict[str, Any] = component.submodules
    except AttributeError as error:
        raise changed(
            TRANSFORMER_LENS, f"{type(component).__name__} has no 'submodules'"
        ) from error
    return named


def original(component: Any) -> Any:
    """The Hugging Face module that a bridge component wraps; None for no component."""
    if component is None:
        return None
    try:
        return component.original_component
    except AttributeError as error:
        raise changed(
            TRANSFORMER_LENS, f"{type(component).__name__} has no 'original_component'"
        ) from error


def is_parallel(config: Any) -> bool:
    """Whether the MLP reads what the attention reads, as a bridge's configuration says; ``check``
    proves it."""
    try:
        return bool(config.parallel_attn_mlp)
    except AttributeError as error:
        raise changed(
            TRANSFORMER_LENS, f"{type(config).__name__} has no 'parallel_attn_mlp'"
        ) from error


def without_forks(config: Any) -> Any:
    """A copy of a bridge's configuration in which attention forks nothing by head."""
    twin = copy(config)
    for flag in FORKS:
        if not hasattr(twin, flag):
            raise changed(TRANSFORMER_LENS, f"{type(config).__name__} has no {flag!r}")
        setattr(twin, flag, False)
    return twin


def use_eager(config: Any) -> None:
    """Let a Hugging Face model make the masks of eager attention, because the bridge computes
    attention itself. (The public ``set_attn_implementation`` leaves Falcon as it is.)"""
    if not hasattr(config, "_attn_implementation"):
        raise changed("transformers", f"{type(config).__name__} has no '_attn_implementation'")
    config._attn_implementation = "eager"


def without_hooks(module: nn.Module) -> nn.Module:
    """The module after all hooks on it and its parts were removed, those that a bridge hangs up
    itself too: they are for what its settings fork, which is switched off."""
    for part in {*module.modules(), *getattr(module, "original_model", module).modules()}:
        for kind in HOOKS:
            if not hasattr(part, kind):
                raise changed("torch", f"{type(part).__name__} has no {kind!r}")
            getattr(part, kind).clear()
    for flag in (*FORKS, "use_hook_mlp_in"):
        if getattr(getattr(module, "cfg", None), flag, False):
            getattr(module, f"set_{flag}")(False)
    return module


def keep_dtype(attention: nn.Module, dtype: torch.dtype) -> None:
    """Let rotated queries and keys be of that type, to which Hugging Face casts them back: a bridge
    leaves them in the type of the angles (OLMo 2: single precision), which its values are not."""

    def cast(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        return out.to(dtype)

    for name in ("hook_rot_q", "hook_rot_k"):
        point = getattr(attention, name, None)
        if isinstance(point, nn.Module):
            point.register_forward_hook(cast)
