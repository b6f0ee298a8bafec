"""Several devices on a machine that has none: tensors that say where they are, and operations that
refuse those that are not in one place.

Every tensor is on the processor. Within ``Devices`` its storage carries the device that it is said
to be on: what is made of tensors is where they are, ``device=`` and ``.to`` put a tensor elsewhere,
and ``x.device`` tells. As on GPUs, an operation on tensors of several devices raises; only the
single numbers of the processor go with all. What is looked at from Python (``float``, ``tolist``,
...) is counted: there a GPU is waited for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

HOST = torch.device("cpu")
DEVICE = Tensor.device.__get__  # type: ignore[attr-defined]


class WrongDevice(RuntimeError):
    """Tensors of several devices meet."""


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from tensors(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors(one)


def at(x: Tensor) -> torch.device:
    """Where a tensor is said to be."""
    with torch._C.DisableTorchFunction():
        found: torch.device = getattr(x.untyped_storage(), "said", HOST)
        return found


def put(x: Tensor, device: torch.device) -> Tensor:
    """Say where a tensor is."""
    with torch._C.DisableTorchFunction():
        x.untyped_storage().said = device  # type: ignore[attr-defined]
    return x


class _Copy(torch.autograd.Function):
    """A tensor on another device, and its gradient back where it was."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, device: torch.device) -> Tensor:
        ctx.before = at(x)
        return put(x.detach().clone(), device)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return put(grad.clone(), ctx.before), None


def _copied(x: Tensor, device: torch.device) -> Tensor:
    return x if at(x) == device else _Copy.apply(x, device)


def _indices(index: Any, device: torch.device) -> Any:
    """An index with its lists as tensors, which torch makes where they are needed."""
    if isinstance(index, tuple):
        return tuple(_indices(one, device) for one in index)
    return put(torch.tensor(index), device) if isinstance(index, list) else index


class _Functions(TorchFunctionMode):
    """What names a device, or tells one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), func.__name__
        if func == DEVICE:
            return at(args[0])
        if name in ("to", "cpu", "cuda"):
            return self._to(func, name, args, kwargs)
        if name in ("numpy", "__array__") and at(args[0]) != HOST:
            raise WrongDevice(f"{name} of a tensor on {at(args[0])}")
        if name in ("__getitem__", "__setitem__") and at(args[0]) != HOST:
            args = (args[0], _indices(args[1], at(args[0])), *args[2:])
        device = kwargs.get("device", at(args[0]) if name == "new_tensor" else None)
        if device is None or torch.device(device).type == "meta":
            return func(*args, **kwargs)
        kwargs.pop("device", None)
        if name in ("as_tensor", "asarray") and isinstance(args[0], Tensor):
            return _copied(func(*args, **kwargs), torch.device(device))
        return put(func(*args, **kwargs), torch.device(device))

    def _to(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        x, *rest = args
        device = HOST if name == "cpu" else kwargs.pop("device", None)
        for number, one in enumerate(rest):
            if isinstance(one, str | torch.device):
                device = rest.pop(number)
                break
            if isinstance(one, Tensor):
                device, rest[number] = at(one), one.dtype
                break
        if "other" in kwargs:
            device, kwargs["dtype"] = at(kwargs["other"]), kwargs.pop("other").dtype
        if rest or kwargs.keys() - {"non_blocking"}:
            x = Tensor.to(x, *rest, **kwargs)
        return x if device is None else _copied(x, torch.device(device))


def _goes_with_all(x: Tensor) -> bool:
    """Whether it is a single number of the processor (or the same one many times, as torch makes
    zeros for derivatives forwards), or has no values."""
    with torch._C.DisableTorchFunction():
        single = x.ndim == 0 or (not any(x.stride()) and x.numel() > 1)
        return DEVICE(x).type == "meta" or (single and at(x) == HOST)


class _Operations(TorchDispatchMode):
    """What meets in an operation, and where its results are."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [x for x in tensors((args, kwargs or {})) if not _goes_with_all(x)]
        places = {at(x) for x in given}
        if len(places) > 1 and "_foreach" not in str(func):  # which take lists of any devices
            raise WrongDevice(f"{func} of tensors on {sorted(map(str, places))}")
        device = next(iter(places), HOST)
        name = str(func)
        if device != HOST and (name.startswith(("aten._local_scalar_dense", "aten.nonzero"))):
            self.waits += 1
        made = func(*args, **(kwargs or {}))
        for x in tensors(made):
            if device != HOST and at(x) == HOST:
                put(x, device)
        return made


class Devices:
    """Within it tensors are where they say."""

    def __init__(self) -> None:
        self.operations, self.functions = _Operations(), _Functions()

    @property
    def waits(self) -> int:
        """How often a number was looked at that a device has computed."""
        return self.operations.waits

    def __enter__(self) -> Devices:
        self.operations.__enter__()
        self.functions.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.functions.__exit__(*error)
        self.operations.__exit__(*error)


LAYER = re.compile(r"\.(?:h|layers|blocks)\.(\d+)\.")


def spread(module: nn.Module, *devices: str) -> nn.Module:
    """Say of a module's weights that the first half of its layers, with the embedding, is on the
    first device, and so on, with the head on the last."""
    named = [*module.named_parameters(), *module.named_buffers()]
    layers = 1 + max(int(found[1]) for name, _ in named if (found := LAYER.search(name)))
    for name, x in reversed(named):  # what is tied has the device of its first name
        found = LAYER.search(name)
        last = any(part in name for part in ("ln_f", "final", "lm_head", "embed_out", "model.norm"))
        number = int(found[1]) if found else layers - 1 if last else 0
        put(x, torch.device(devices[number * len(devices) // layers]))
    return module
