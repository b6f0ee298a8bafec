"""Files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from circuitkit.errors import OutputError

__all__ = ["made", "reason", "writable", "write_whole"]


def write_whole(
    path: str | os.PathLike[str], content: str | bytes | Callable[[Path], None]
) -> Path:
    """Write the file under a temporary name in the same folder, then rename it, so that nobody ever
    sees half of it, also after a kill. ``content`` may be text, which is written in UTF-8, or a
    function that writes to the path that it is given. Where the path is a link, the file behind it
    is replaced; a device or a pipe is written to as it is. Returns the path.

    Raises OutputError if the file cannot be written.
    """
    target = _target(path)
    draft = target if _special(target) else _draft(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(draft)
        else:
            if isinstance(content, str):
                content = content.encode("utf-8", "backslashreplace")  # halves of pairs, of names
            draft.write_bytes(content)
        if draft != target:
            os.replace(draft, target)
    except OSError as error:
        raise OutputError(f"{os.fspath(path)!r} cannot be written: {reason(error)}") from error
    finally:
        if draft != target:
            with contextlib.suppress(OSError):
                draft.unlink()
    return Path(path)


@contextlib.contextmanager
def writable(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A place at which a file can be written, which is tried before the work for it is done.
    Folders above it are made, and removed again if nothing was written into them.

    Raises OutputError if it cannot be written.
    """
    target = _target(path)
    with made(target.parent):
        try:
            if _special(target):
                with target.open("ab"):
                    pass
            elif target.is_dir():
                raise IsADirectoryError(0, "it is a folder; name a file in it")
            else:
                draft = _draft(target)
                try:
                    draft.write_bytes(b"tried\n")
                finally:
                    with contextlib.suppress(OSError):
                        draft.unlink()
        except OSError as error:
            raise OutputError(f"{os.fspath(path)!r} cannot be written: {reason(error)}") from error
        yield Path(path)


@contextlib.contextmanager
def made(folder: Path) -> Iterator[Path]:
    """A folder, made where there is none; those that were made and are empty at the end go again.

    Raises OutputError if it cannot be made.
    """
    new: list[Path] = []
    try:
        try:
            missing = [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
            for one in reversed(missing):
                one.mkdir(exist_ok=True)
                new.insert(0, one)
            if not folder.is_dir():
                raise NotADirectoryError(0, "it is a file, and a folder is needed")
        except (OSError, ValueError) as error:
            raise OutputError(f"{str(folder)!r} cannot be written: {reason(error)}") from error
        yield folder
    finally:
        for one in new:
            with contextlib.suppress(OSError):  # what holds anything stays
                one.rmdir()


def reason(error: BaseException) -> str:
    """What the system says of an error, in words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _target(path: str | os.PathLike[str]) -> Path:
    """The file that a path means; raises OutputError for what names none."""
    target = Path(path)
    if not target.name or "\0" in str(target):
        raise OutputError(f"{os.fspath(path)!r} cannot be written: it is not the name of a file")
    return Path(os.path.realpath(target)) if os.path.islink(target) else target


def _draft(target: Path) -> Path:
    # a name of its own: processes of other machines may have the same number
    return target.parent / f".{target.name[:50]}.{os.getpid()}-{secrets.token_hex(3)}.part"


def _special(target: Path) -> bool:
    """Whether there is a device or a pipe, which is not replaced."""
    try:
        mode = target.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
