"""Models whose layers are on several devices: what accelerate has placed, and how a plain forward
goes from one device to the next.

accelerate moves what a module reads in a wrapper around its forward, which a copy of the module
with other parts would not have. It is taken off, and each block and each end moves what it is given
to where its weights are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from circuitkit.engine.devices import moved
from circuitkit.errors import ModelError, UnsupportedModelError

__all__ = [
    "ON_DISK",
    "DeviceMap",
    "device_of_weights",
    "follow",
    "is_spread",
    "is_too_large",
    "moved_within",
    "require_here",
    "undispatched",
]

DeviceMap: TypeAlias = str | Mapping[str, str | int | torch.device]

ON_DISK = (  # what to do about weights that are kept elsewhere
    "give the model more devices or memory, load it in a smaller dtype (bfloat16), or load all of "
    "it on the CPU (device 'cpu')"
)


def undispatched(name: str, module: nn.Module) -> nn.Module:
    """The module as accelerate has placed it, after what accelerate has put around the forwards of
    its parts was taken off.

    Raises ModelError where some of its weights are kept on the disk, or on the CPU for a GPU.
    """
    require_here(name, module)
    if not any(hasattr(part, "_hf_hook") for part in module.modules()):
        return module
    from accelerate.hooks import remove_hook_from_module  # type: ignore[import-untyped]

    bare: nn.Module = remove_hook_from_module(module, recurse=True)
    return bare


def require_here(name: str, module: nn.Module) -> None:
    """Raise ModelError where weights were left on the disk or, for a GPU, on the CPU."""
    places: Mapping[str, object] = getattr(module, "hf_device_map", None) or {}
    away = next((key for key, weight in module.named_parameters() if weight.is_meta), None)
    if away is None or not places:  # a model without any weights is refused by its name
        return
    part = max((one for one in places if away.startswith(one)), key=len, default="")
    raise ModelError(
        f"the weight {away!r} of {name!r} is offloaded ({part!r} is on {str(places.get(part))!r}), "
        f"and its heads cannot be read one by one; {ON_DISK}"
    )


def device_of_weights(module: nn.Module | None, otherwise: torch.device) -> torch.device:
    """The device of a module's weights; of one without any the other one."""
    parts = () if module is None else (*module.parameters(), *module.buffers())
    return next((part.device for part in parts), otherwise)


def is_too_large(error: Exception) -> bool:
    """Whether an error of another library says that the devices have no room for a model."""
    return isinstance(error, torch.OutOfMemoryError) or "offload" in str(error)


def is_spread(module: nn.Module) -> bool:
    """Whether a module's weights are on more than one device."""
    return len({weight.device for weight in module.parameters()}) > 1


def follow(name: str, blocks: Iterable[nn.Module], ends: Iterable[nn.Module]) -> None:
    """Let each block, and the final norm and the unembedding, move what they are given to where
    their weights are.

    Raises UnsupportedModelError where one of them is on several devices itself.
    """
    for part in (*blocks, *ends):
        found = sorted({str(weight.device) for weight in part.parameters()})
        if len(found) > 1:
            raise UnsupportedModelError(
                f"{name!r} has a {type(part).__name__} on several devices ({', '.join(found)}); "
                "give a device map that keeps each layer on one, as 'auto' does"
            )
        if found:
            part.register_forward_pre_hook(_moves(torch.device(found[0])), with_kwargs=True)


def _moves(device: torch.device) -> Any:
    """A hook that moves a module's arguments."""

    def hook(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return moved_within(args, device), moved_within(kwargs, device)

    return hook


def moved_within(value: Any, device: torch.device) -> Any:
    """The tensors in a value (a tensor, or tuples, lists and dictionaries of them) moved there."""
    if isinstance(value, Tensor):
        return moved(value, device)
    if type(value) in (tuple, list):
        return type(value)(moved_within(one, device) for one in value)
    if type(value) is dict:
        return {key: moved_within(one, device) for key, one in value.items()}
    return value
