"""A digest of a model's weights, which does not depend on their type or device; and the notice
that a circuit was found with others."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from circuitkit.engine.model import Model
from circuitkit.graph.digests import WeightsWarning
from circuitkit.util.json_values import Json

__all__ = ["Weighted", "Weights", "digest", "notice_others", "once", "parameters", "versions_of"]

SAMPLED = 1024  # values of each tensor
MADE = 8  # things that are kept of a model

T = TypeVar("T")


@runtime_checkable
class Weighted(Protocol):
    """A model that can show its weights."""

    def tensors(self) -> Mapping[str, Tensor]:
        """The weights by name."""


def digest(model: Model) -> str | None:
    """The SHA-256 of a model's weights; None for a model that does not show any.

    It covers every tensor's name, its shape, and 1,024 of its values (all, where there are fewer):
    those at the places ``i · n // 1024`` of its n values, rounded to bfloat16. So a copy on another
    device or in another floating type has the same digest, except that float16 rounds a second
    time.

    Example:
        >>> from circuitkit.engine.weights import digest
        >>> digest(model) == digest(ck.load("mini", dtype="bfloat16"))
        True
    """
    kept = getattr(model, "weights", None)
    if isinstance(kept, Weights):
        return kept.digest()
    return _digest(model.tensors()) if isinstance(model, Weighted) else None


def once(model: Model, key: str, make: Callable[[], T]) -> T:
    """A value computed from a model, which depends on the key alone: once, where the model keeps
    its ``weights``."""
    kept = getattr(model, "weights", None)
    return kept.once(key, make) if isinstance(kept, Weights) else make()


class Weights:
    """Tensors by name, with their digest: it is taken once, and again where they were written to.
    A model that keeps them as ``weights`` is not read anew for each result."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self._state: tuple[tuple[int, int], ...] = ()
        self._known: dict[str, Any] = {}

    def digest(self) -> str:
        """The SHA-256 of the weights as they are now."""
        return self.once("digest", lambda: _digest(self.tensors))

    def once(self, key: str, make: Callable[[], T]) -> T:
        """What is made of the weights as they are now, and by the key alone: it is made once, and
        again where they were written to, or where ``MADE`` other things were made since."""
        tensors = self.tensors.values()
        now = tuple(zip((x.data_ptr() for x in tensors), versions_of(tensors), strict=True))
        if now != self._state:
            self._state, self._known = now, {}
        if key not in self._known:
            self._known[key] = make()
            while len(self._known) > MADE:
                del self._known[next(iter(self._known))]
        found: T = self._known[key]
        return found


def versions_of(weights: Iterable[Tensor]) -> tuple[int, ...]:
    """How often each tensor was written to; always 0 where torch does not count it."""
    return tuple(0 if weight.is_inference() else weight._version for weight in weights)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}|{tuple(tensor.shape)}|".encode())
        found.update(_sampled(tensor.detach()))
    return found.hexdigest()


def notice_others(model: Model, found: Mapping[str, Json]) -> None:
    """Warn if a circuit or scores record that they were found with other weights than the model's.
    Single precision that was rounded to float16 has a digest of its own, and is not told from other
    weights; another wiring is refused where it is used."""
    known, asked, wiring = (found.get(key) for key in ("weights", "asked", "wiring"))
    then = asked.get("dtype") if isinstance(asked, dict) else None
    halved = "float16" in (then, str(model.dtype).removeprefix("torch."))
    if not isinstance(known, str) or halved or wiring not in (None, model.wiring.to_dict()):
        return
    now = digest(model)
    if now is not None and now != known:
        warnings.warn(
            f"the circuit was found on {str(found.get('model', 'a model'))!r} with other weights "
            f"(digest {known[:8]}…) than those of {model.name!r} here ({now[:8]}…)",
            WeightsWarning,
            stacklevel=2,
        )


def _sampled(tensor: Tensor) -> bytes:
    """Evenly spaced values of the tensor as bfloat16, in little-endian bytes."""
    total = tensor.numel()
    count = min(SAMPLED, total)
    places = torch.arange(count, device=tensor.device) * total // max(count, 1)
    values = tensor.flatten()[places].to(torch.bfloat16).view(torch.int16)
    return values.cpu().numpy().astype("<i2").tobytes()


def parameters(model: Model) -> dict[str, int] | None:
    """How many values each tensor holds, tied ones once; None for a model that shows none."""
    if not isinstance(model, Weighted):
        return None
    tensors = model.tensors()
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(tensor.data_ptr(), name)
    return {name: tensors[name].numel() for name in first.values()}
