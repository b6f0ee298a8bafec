"""The processes that torchrun starts for one command: joined for the work, of which one speaks.

Only the first of them writes files and prints results. An error is said once, by whoever is the
first to have it; the others end in silence. Commands that deal nothing are left to the first alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from circuitkit.errors import ArgumentError, CircuitkitError, OutputError

__all__ = ["Company", "dealt", "folder_of", "is_shard", "leads", "pieces_of", "require_folder"]

SAID = "circuitkit.said"
DAYS = 7  # that a process waits for the block of another; one that has ended is noticed at once


def leads() -> bool:
    """Whether this is the first process of its run, which writes and prints."""
    return Company().rank == 0


class Company:
    """The processes of one command."""

    def __init__(self) -> None:
        known = all(name in os.environ for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"))
        self.size = _number("WORLD_SIZE", 1) if known else 1
        self.rank = _number("RANK", 0) if self.size > 1 else 0
        self.first: bool | None = None  # to have something to say

    @contextlib.contextmanager
    def joined(self, options: argparse.Namespace) -> Iterator[bool]:
        """Whether this process works: with the others, where the command's work is dealt; of any
        other command the first alone. Arrays travel by gloo, also between GPUs, of which each
        process of a machine has one."""
        if self.size == 1 or not dealt(options):
            yield self.rank == 0
            return
        if shard_of(options) is not None:
            raise ArgumentError("--shard is for runs without torchrun; leave one of the two out")
        from datetime import timedelta

        import torch
        from torch import distributed
        from torch.distributed.rendezvous import rendezvous

        if distributed.is_initialized():  # by whoever called
            yield True
            return
        if str(getattr(options, "device", None)) == "cuda":
            torch.cuda.set_device(_number("LOCAL_RANK", 0))
        shared, rank, size = next(rendezvous("env://"))
        attempt = _number("TORCHELASTIC_RESTART_COUNT", 0)  # the store may be that of the last one
        store = distributed.PrefixStore(f"circuitkit/{attempt}", shared)  # type: ignore[attr-defined]
        try:
            distributed.init_process_group(
                "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(days=DAYS)
            )
            yield True
        except Exception:
            self.first = self._is_first(store)  # before the others see that this one has gone
            raise
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()

    def speaks(self, error: Exception) -> bool:
        """Whether this process says what went wrong: the first of all that have something to say.
        Before they are joined it is the first process, for what a user can mend, which all have."""
        if self.first is None:
            return self.rank == 0 or not isinstance(error, CircuitkitError)
        return self.first

    def _is_first(self, store: Any) -> bool:
        try:
            mine = str(self.rank)
            return bool(store.compare_set(SAID, "", mine) == mine.encode())
        except RuntimeError:  # who keeps the store has gone
            return False


def shard_of(options: argparse.Namespace) -> Any:
    """Which part of the blocks the command makes; None if it is neither a shard nor a merge."""
    return getattr(options, "shard", None)


def dealt(options: argparse.Namespace) -> bool:
    """Whether the work of this command is dealt to processes."""
    return bool(getattr(options, "dealt", False)) and not getattr(options, "plan", False)


def is_shard(options: argparse.Namespace) -> bool:
    """Whether the command makes a part of the blocks, and no result."""
    own = shard_of(options)
    return own is not None and own.index is not None


@contextlib.contextmanager
def folder_of(
    options: argparse.Namespace, place: Path, kind: str, settings: dict[str, Any]
) -> Iterator[Any]:
    """The folder of a run: claimed by the first process alone, and shared by shards."""
    from circuitkit.workflows import folders

    if not leads():
        yield folders.RunFolder(place, kind, settings)
    elif is_shard(options):
        with folders.shared(place, kind, settings, options.arguments) as own:
            yield own
    else:
        with folders.claimed(place, kind, options.overwrite, settings, options.arguments) as own:
            yield own


def require_folder(options: argparse.Namespace) -> None:
    """Raise OutputError for a shard whose command has no folder unless ``--resume`` names one."""
    if options.shard and not options.resume:
        raise OutputError("shards share a folder for finished batches; name it (--resume DIR)")


def pieces_of(options: argparse.Namespace, pieces: Path) -> Any:
    """The folder of finished pieces; of a shard, or of a merge, with what it is to do there."""
    from circuitkit.engine.checkpoints import Shard

    own = shard_of(options)
    return pieces if own is None else Shard(pieces, own.index, own.of)


def _number(name: str, without: int) -> int:
    """A number that torchrun has put into the environment."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else without
