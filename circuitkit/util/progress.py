"""Progress bars on stderr; silent if stderr is not a terminal or TQDM_DISABLE is set, and on all
but the first of several processes (which torchrun numbers in RANK)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

__all__ = ["Count", "counting", "track"]

T = TypeVar("T")


@runtime_checkable
class Count(Protocol):
    """Counts finished items; those of an earlier run do not count for the estimate of the time. A
    ``note`` is written at the end of the bar."""

    def __call__(self, n: int, *, earlier: bool = False, note: str = "") -> None: ...


def track(items: Iterable[T], label: str, unit: str = "batch") -> Iterable[T]:
    """The items, with a bar that shows the time left."""
    bar: Iterable[T] = _bar(items, desc=label, unit=unit)
    return bar


@contextmanager
def counting(total: int, label: str, unit: str) -> Iterator[Count]:
    """A bar with the time left, and the function that moves it."""
    with _bar(total=total, desc=label, unit=unit) as bar:

        def count(n: int, *, earlier: bool = False, note: str = "") -> None:
            if note:
                bar.set_postfix_str(note, refresh=False)
            n = min(n, total - bar.n)  # of the last round there are fewer than processes
            if earlier and not bar.disable:
                bar.n, bar.initial, bar.last_print_n = (
                    at + n for at in (bar.n, bar.initial, bar.last_print_n)
                )
                bar.refresh()
            else:
                bar.update(n)

        yield count


def _bar(*items: Any, **settings: Any) -> Any:
    from tqdm import tqdm

    off = os.environ.get("TQDM_DISABLE") or os.environ.get("RANK", "0") != "0"
    silent = True if off else None
    return tqdm(*items, leave=False, disable=silent, **settings)
