"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from circuitkit.errors import OutputError

__all__ = ["write_whole"]


def write_whole(
    path: str | os.PathLike[str], content: str | bytes | Callable[[Path], None]
) -> Path:
    """Write the file under a temporary name beside its place, then rename it: a reader, or a killed
    run, never finds half of it. ``content`` may be a function that writes to the path it is given.

    Raises OutputError where the place cannot be written.
    """
    target = Path(path)
    if not target.name or "\0" in str(target):
        raise OutputError(f"{os.fspath(path)!r} cannot be written: it names no file")
    draft = target.parent / f".{target.name[:50]}.{os.getpid()}.part"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(draft)
        else:
            draft.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(draft, target)
    except OSError as error:
        raise OutputError(
            f"{os.fspath(path)!r} cannot be written: {error.strerror or error}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return target
