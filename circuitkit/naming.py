"""How a function, with what is bound to it, is named in results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = ["describe"]


def describe(function: Callable[..., Any]) -> str:
    """``noise(draws=4, spans=('S2',))`` of a partial application, else the function's name."""
    if isinstance(function, partial):
        bound = [repr(value) for value in function.args]
        bound += [f"{key}={value!r}" for key, value in sorted(function.keywords.items())]
        return f"{describe(function.func)}({', '.join(bound)})"
    return getattr(function, "__name__", type(function).__name__)
