"""Progress bars on stderr: silent where stderr is no terminal, or TQDM_DISABLE is set."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

__all__ = ["track"]

T = TypeVar("T")


def track(items: Iterable[T], label: str, unit: str = "batch") -> Iterable[T]:
    """The items, with a bar and the time left while they are gone through."""
    from tqdm import tqdm

    silent = True if os.environ.get("TQDM_DISABLE") else None
    bar: Iterable[T] = tqdm(items, desc=label, unit=unit, leave=False, disable=silent)
    return bar
