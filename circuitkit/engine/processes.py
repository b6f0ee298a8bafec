"""The processes of one run, which torch.distributed has joined (torchrun starts them).

Each of them does all that is not dealt, with the same result, and what is dealt comes back to all:
so they go through the same code in step. Within ``alone`` a process is by itself: what is dealt
there it does itself. Numbers travel as they are, and are never added on the way.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import torch

from circuitkit.errors import ProcessError

__all__ = ["Failure", "Team", "agreed", "alone", "attempted", "gathered", "team"]

T = TypeVar("T")

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


class Team(NamedTuple):
    """Which of how many processes this one is."""

    rank: int
    size: int


def team() -> Team:
    """This process among those of its run; one of one where there are no others."""
    joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    if _ALONE.get() or not joined:
        return Team(0, 1)
    return Team(torch.distributed.get_rank(), torch.distributed.get_world_size())


@contextmanager
def alone() -> Iterator[None]:
    """Within it this process is one of one."""
    before = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(before)


class Failure:
    """An error that is handed to the other processes; as a copy, or in words where it has none."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            pickle.loads(pickle.dumps(self.error))
        except Exception:
            return Failure, (RuntimeError(f"{type(self.error).__name__}: {self.error}"),)
        return Failure, (self.error,)


def attempted(work: Callable[[], T]) -> T | Failure:
    """What this process finds by itself, or the error that it raises."""
    try:
        with alone():
            return work()
    except Exception as error:
        return Failure(error)


def agreed(work: Callable[[], T]) -> T:
    """What the first process finds, for all of them; raises what it raises, everywhere."""
    own = team()
    if own.size == 1:
        return work()
    first = attempted(work) if own.rank == 0 else None
    held: list[Any] = [first]
    with _joined():
        torch.distributed.broadcast_object_list(held, src=0)
    found = held[0] if first is None else first
    if isinstance(found, Failure):
        raise found.error
    result: T = found
    return result


def gathered(own: T) -> list[T]:
    """What each process has, in their order."""
    found: list[Any] = [None] * team().size
    with _joined():
        torch.distributed.all_gather_object(found, own)
    return found


@contextmanager
def _joined() -> Iterator[None]:
    """An exchange; raises ProcessError if another process has ended."""
    try:
        yield
    except RuntimeError as error:  # a connection that was closed
        raise ProcessError(
            "another process of this run has ended, and the others cannot continue; its "
            "message says why, and torchrun --max-restarts 3 resumes from finished blocks"
        ) from error
