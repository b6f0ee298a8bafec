"""The formats in which a figure is saved, by the suffix of its file."""

from __future__ import annotations

import os
from pathlib import Path

from circuitkit.errors import OutputError

__all__ = ["require_suffix"]

SUFFIXES = ("pdf", "png", "svg")


def require_suffix(path: str | os.PathLike[str]) -> str:
    """The format that the path names, ``svg``, ``png`` or ``pdf``; raises OutputError for
    another."""
    suffix = Path(path).suffix.removeprefix(".").lower()
    if suffix not in SUFFIXES:
        raise OutputError(
            f"{os.fspath(path)!r} cannot be written: a figure is saved as "
            f"{', '.join(f'.{one}' for one in SUFFIXES)}"
        )
    return suffix
