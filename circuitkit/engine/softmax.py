"""A model's own softmax, watched from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["EachSoftmax"]

# What is given to a softmax, and what takes that to its pattern, to the pattern that it gives.
By: TypeAlias = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]


class EachSoftmax(TorchFunctionMode):
    """Inside, every softmax is computed ``by`` a function of what it is given and of itself."""

    def __init__(self, by: By) -> None:
        super().__init__()
        self.by = by

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func.__name__ != "softmax":
            return func(*args, **given)
        scores = args[0] if args else given.pop("input")
        return self.by(scores, lambda x: func(x, *args[1:], **given))
