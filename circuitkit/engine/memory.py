"""How much memory work will take, predicted from small pieces of it, and how much there is.

A piece of the work is run, and the tensors that live in it are counted. What the whole takes
follows, because memory grows linearly with the examples, edges or circuits that run at once. Of a
model on several devices the one that holds most has to fit where there is least room: what is
planned so fits everywhere, and more might.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from circuitkit.engine.devices import devices
from circuitkit.engine.model import Model
from circuitkit.errors import BudgetError
from circuitkit.util.bytesize import spell
from circuitkit.util.versions import changed

__all__ = ["Need", "foresee", "held", "held_by", "peak", "room", "room_of", "takes"]

SPARE = 0.7  # of the room: the allocator keeps some of what is freed, and other work needs some
# The same of a memory that is given, to stay below it (benchmarks/memory.md): the processor's
# allocator keeps pieces of what is freed, of small tensors more than twice what these take.
KEPT = 0.3
LARGE, PIECES = 0.85, 200 * 2**20
ASIDE = 24 * 2**20  # for what is imported on the way and what libraries hold
# Of a GPU: cuBLAS takes up to 32 MiB for the thread of the forward, for that of the backward, and
# once more while it multiplies, which no tensor shows.
WORKSPACES = 96 * 2**20
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
        """How many pieces fit the space at once; raises BudgetError where a single one does not."""
        if self.of(1) > space:
            raise BudgetError(
                f"one {piece} at a time takes {spell(self.of(1))}, and {spell(max(space, 0))} is "
                "available; give more memory, shorter prompts, or a smaller model"
            )
        return max(1, min(at_most, int((space - self.fixed) / max(self.each, 1))))


def foresee(
    work: Callable[[int], object], space: float = float("inf"), most: int | None = None
) -> Need:
    """What work takes, from two small pieces of it: smaller ones where they hardly fit, or where
    ``most`` pieces are all there are."""
    one, two = SMALL
    if most == 1:
        return Need(fixed=0, each=peak(lambda: work(1)))
    if most is not None and most < two:
        one, two = 1, one
    low = peak(lambda: work(one))
    if one > 1 and two * low > one * space:
        one, two, high = 1, one, low
        low = peak(lambda: work(one))
    else:
        high = peak(lambda: work(two))
    each = (high - low) / (two - one)
    return Need(fixed=low - one * each, each=each)


def room_of(model: Model, memory: int | None = None) -> float:
    """The bytes that tensors may still take on each of a model's devices: where there is least. A
    ``memory`` that is given is that of each."""
    return min(room(device, memory) for device in devices(model))


def held_by(model: Model) -> int:
    """The bytes that are held already on that of a model's devices where most are."""
    return max(held(device) for device in devices(model))


def room(device: torch.device, memory: int | None = None) -> float:
    """The bytes that tensors may still take: of ``memory``, which is what the process may take in
    all (on a GPU: its tensors), or of what the machine has free."""
    if device.type == "cuda":
        free = float(torch.cuda.mem_get_info(device)[0])
        free += torch.cuda.memory_reserved(device) - held(device)
    else:
        free = _free()
    if memory is None:
        return SPARE * free
    left = memory - held(device)
    if device.type == "cuda":
        return SPARE * min(free, left - WORKSPACES)
    return min(SPARE * free, _of_tensors(left - ASIDE))


def _of_tensors(size: float) -> float:
    """What tensors may take where the process may take so many bytes."""
    return max(KEPT * size, LARGE * (size - PIECES))


def held(device: torch.device) -> int:
    """The bytes that the process holds already, the weights included (on a GPU: its tensors)."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def takes(device: torch.device, size: float) -> float:
    """What the process takes where tensors take so many bytes."""
    if device.type == "cuda":
        return size / SPARE + WORKSPACES
    return min(size / KEPT, size / LARGE + PIECES) + ASIDE


def _free() -> float:
    """What the machine has free, or the container where that is less (Linux)."""
    free: float = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        most = int((group / "memory.max").read_text())
        return min(free, most - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such container, or no limit
        return free


def peak(work: Callable[[], object]) -> int:
    """The most bytes of tensors that the work holds at once, beyond what there was before: of
    several devices on the one that holds most."""
    meter = _Meter()
    with _watched(meter.see):
        work()
    return meter.peak


def _watched(see: Callable[[Any, Any], None]) -> AbstractContextManager[Any]:
    """A context in which ``see`` is called after each operation on tensors, with its arguments and
    its result.

    Raises VersionError where torch has no such mode: it is documented, in a private module.
    """
    try:
        from torch.utils._python_dispatch import TorchDispatchMode
    except ImportError as error:
        raise changed("torch", str(error)) from error

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = func(*args, **(kwargs or {}))
            see((args, kwargs), made)
            return made

    mode: AbstractContextManager[Any] = Watch()  # type: ignore[no-untyped-call]
    return mode


class _Meter:
    """Counts the bytes of the new tensors that it sees, device by device, for as long as they are
    alive."""

    def __init__(self) -> None:
        self.live, self.peak = Counter[torch.device](), 0
        self.known: dict[int, weakref.ref[Any]] = {}

    def see(self, inputs: Any, made: Any) -> None:
        """Count the tensors in a result that are new."""
        old = {id(storage) for storage in _storages(inputs)}
        for storage in _storages(made):
            if id(storage) not in old and id(storage) not in self.known:
                self._count(storage)

    def _count(self, storage: Any) -> None:
        key, size, device = id(storage), storage.nbytes(), storage.device

        def gone(_: Any) -> None:
            self.live[device] -= size
            del self.known[key]

        self.known[key] = weakref.ref(storage, gone)
        self.live[device] += size
        self.peak = max(self.peak, self.live[device])


def _storages(tree: Any) -> Iterator[Any]:
    """The storages of the tensors in what an operation takes or gives: a tensor, or tuples, lists
    and dictionaries of them."""
    if isinstance(tree, torch.Tensor):
        yield tree.untyped_storage()
    elif isinstance(tree, (tuple, list, dict)):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _storages(part)
