"""How much memory work will take, foreseen from small pieces of it, and how much there is.

A piece of the work is run, and the tensors that live in it are counted. What the whole takes
follows, because memory grows linearly with the examples, edges or circuits that run at once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from circuitkit.errors import BudgetError
from circuitkit.util.bytesize import spell

__all__ = ["Need", "foresee", "peak", "room"]

SPARE = 0.7  # of the room: the allocator keeps some of what is freed, and others live here too
SMALL = (2, 4)  # the pieces from which the whole is foreseen


@dataclass(frozen=True)
class Need:
    """The bytes of tensors that work holds at once: ``fixed``, and ``each`` for every piece."""

    fixed: float
    each: float

    def of(self, n: int) -> float:
        """What n pieces at once take."""
        return self.fixed + n * self.each

    def most(self, space: float, at_most: int, piece: str = "example") -> int:
        """How many pieces fit the space at once; raises BudgetError where not even one does."""
        if self.of(1) > space:
            raise BudgetError(
                f"one {piece} at a time takes {spell(self.of(1))}, and {spell(max(space, 0))} may "
                "be taken; give more memory, shorter prompts, or a smaller model"
            )
        return max(1, min(at_most, int((space - self.fixed) / max(self.each, 1))))


def foresee(work: Callable[[int], Any]) -> Need:
    """What work takes, from two small pieces of it."""
    one, two = SMALL
    low, high = peak(lambda: work(one)), peak(lambda: work(two))
    each = (high - low) / (two - one)
    return Need(fixed=low - one * each, each=each)


def room(device: torch.device, memory: int | None = None) -> float:
    """The bytes that work may still take: of ``memory``, which is what the process may take in all
    (on a GPU: its tensors), or of what the machine has free."""
    if device.type == "cuda":
        free = float(torch.cuda.mem_get_info(device)[0])
        taken = torch.cuda.memory_allocated(device)
        free += torch.cuda.memory_reserved(device) - taken
    else:
        free, taken = _free(), psutil.Process().memory_info().rss
    return SPARE * (free if memory is None else min(free, memory - taken))


def _free() -> float:
    """What the machine has free, or the container where that is less (Linux)."""
    free: float = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        most = int((group / "memory.max").read_text())
        return min(free, most - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such container, or no limit
        return free


def peak(work: Callable[[], Any]) -> int:
    """The most bytes of tensors that the work holds at once, beyond what there was before."""
    meter = _Meter()
    with meter:
        work()
    return meter.peak


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are made while it is on, as long as they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self.known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {id(storage) for storage in _storages((args, kwargs))}
        for storage in _storages(made):
            if id(storage) not in given and id(storage) not in self.known:
                self._count(storage)
        return made

    def _count(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()

        def gone(_: Any) -> None:
            self.live -= size
            del self.known[key]

        self.known[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


def _storages(tree: Any) -> list[Any]:
    tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
    return [tensor.untyped_storage() for tensor in tensors]
