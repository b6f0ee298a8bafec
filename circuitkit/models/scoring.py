"""A model's own attention scores, seen before its softmax; and the norms over queries and keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from circuitkit.engine.inspection import Frozen
from circuitkit.engine.softmax import EachSoftmax
from circuitkit.errors import UnsupportedModelError
from circuitkit.models.compat import original, parts_of
from circuitkit.models.norms import Norm

__all__ = ["PortNorm", "seen_scores"]


@contextmanager
def seen_scores(attention: nn.Module) -> Iterator[list[Tensor]]:
    """The scores that an attention component computes inside, first of all before the softmax: it
    may have a hook for them, behind which a sink can still join; a hook that it calls later is
    given the pattern."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        kept.append(args[0])

    def given(scores: Tensor, softmax: Callable[[Tensor], Tensor]) -> Tensor:
        kept.append(scores)
        return softmax(scores)

    hook = getattr(attention, "hook_attn_scores", None)
    handle = None if hook is None else hook.register_forward_pre_hook(keep)
    try:
        with EachSoftmax(given):
            yield kept
    finally:
        if handle is not None:
            handle.remove()


class PortNorm:
    """The norm over a layer's queries or keys: over each head's, over those of all heads at once,
    or none."""

    def __init__(self, attention: nn.Module, port: str, heads: int, like: Tensor) -> None:
        module, width = original(parts_of(attention).get(f"{port}_norm")), like.shape[-1]
        self.shape = heads, width
        shape = tuple(getattr(getattr(module, "weight", None), "shape", ())) or (width,)
        self.whole = shape == (heads * width,) != (width,)
        try:
            self.norm = Norm(module, heads * width if self.whole else width, like)
        except RuntimeError as error:
            raise UnsupportedModelError(
                f"{type(module).__name__} over {port} is not one norm for all heads, or over all "
                "at once; its heads' scores cannot be split, so use another model"
            ) from error

    def frozen(self, x: Tensor | None) -> Frozen:
        """The norm frozen where it is over these queries or keys; without them at a scale of 1."""
        if not self.whole:
            return self.norm.frozen(x)
        found = self.norm.frozen(None if x is None else x.flatten(-2))
        if self.norm.centred:
            raise UnsupportedModelError(
                "a norm over all heads at once centres them; no head has queries of its own, so "
                "use another model"
            )
        weight, bias = (x.view(*x.shape[:-1], *self.shape) for x in (found.weight, found.bias))
        return Frozen(weight, bias)
