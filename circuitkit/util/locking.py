"""Locks that the system takes back however a process ends, so that none is left by a kill."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

__all__ = ["alone", "hold"]

_UNKNOWN = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # of file systems without locks


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[bool]:
    """Whether this run holds the lock inside the context, alone of all runs of this process and of
    others; its file holds the number of the process, and goes with it. Raises OSError where it
    cannot be written."""
    with lock.open("a", encoding="utf-8") as file:
        held = hold(file, lock)
        try:
            if held:
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
            yield held
        finally:
            if held:
                with contextlib.suppress(OSError):  # Windows keeps a file that is open
                    lock.unlink()


def hold(file: IO[str], lock: Path) -> bool:
    """Whether this run now holds the lock on its open file, until that is closed. On file systems
    that know no locks it is taken to hold it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The run before may have removed the file that this one had opened already.
        return os.path.samestat(os.fstat(file.fileno()), lock.stat())
    except (BlockingIOError, PermissionError, FileNotFoundError):
        return False
    except OSError as error:
        if error.errno in _UNKNOWN:
            return True
        raise
