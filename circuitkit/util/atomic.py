"""Files that are written completely or not at all."""

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
    """Write the file under a temporary name in the same folder, then rename it, so that nobody ever
    sees half of it, also after a kill. ``content`` may be a function that writes to the path that
    it is given. Returns the path.

    Raises OutputError if the file cannot be written.
    """
    target = Path(path)
    if not target.name or "\0" in str(target):
        raise OutputError(f"{os.fspath(path)!r} cannot be written: it is not the name of a file")
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
