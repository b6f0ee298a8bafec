"""A module's twin: a module of its own that reads the same weights, and takes no gradients in them.

What is done to the twin (its mode, hooks, configuration, the modules that are put into it) leaves
the module as it was, whatever is raised and whichever thread runs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from circuitkit.errors import UnsupportedModelError
from circuitkit.models.compat import without_hooks

__all__ = ["twin"]


def twin(module: nn.Module, trainable: bool = False) -> nn.Module:
    """A copy of the module, in evaluation mode and without hooks, whose weights are frozen views of
    the module's, and take no memory; or those weights themselves.

    Raises UnsupportedModelError where the module holds what cannot be copied.
    """
    known: dict[int, Any] = {}
    for weight in module.parameters():
        known[id(weight)] = weight if trainable else _frozen(weight)
    for buffer in module.buffers():
        known[id(buffer)] = buffer.detach()
    for name in ("tokenizer", "processor"):  # a bridge has these
        if name in vars(module):
            known[id(vars(module)[name])] = vars(module)[name]
    try:
        with _Views():
            made = copy.deepcopy(module, known)
    except Exception as error:  # whatever the module's parts raise
        raise UnsupportedModelError(
            f"{type(module).__name__} cannot be copied without its weights "
            f"({type(error).__name__}: {error}); save it with save_pretrained, and load that"
        ) from error
    return without_hooks(made).eval()


def _frozen(weight: nn.Parameter) -> Tensor:
    """The weight's values, as a parameter that requires no gradient."""
    if type(weight) is nn.Parameter:
        return nn.Parameter(weight.detach(), requires_grad=False)
    return weight.detach() if weight.requires_grad else weight  # of quantised and sharded weights


class _Views(TorchFunctionMode):
    """Inside, a tensor is copied as a view of itself: what a module keeps beside its weights."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.__deepcopy__:
            tensor, known = args
            if id(tensor) not in known:
                known[id(tensor)] = tensor.detach()
            return known[id(tensor)]
        return func(*args, **(kwargs or {}))
