"""Circuits as text or bytes, one format family a file; ``write`` puts one into a file.

An exporter is a function ``(circuit, **style) -> str | bytes``; its name is the file suffix.
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import networkx as nx

from circuitkit.catalogue import lookup, names, serve, unknown
from circuitkit.circuit import write_whole
from circuitkit.errors import OutputError

__all__ = ["write"]

__getattr__, __dir__ = serve("export")


def write(circuit: nx.DiGraph, path: str | os.PathLike[str], **style: Any) -> Path:
    """Write the circuit in the format of the path's suffix, and return the path; a file that was
    there is replaced once the new one is whole.

    Raises OutputError for a suffix or a style that is not known, and where the file cannot be
    drawn or written.
    """
    suffix, known = Path(path).suffix.removeprefix(".").lower(), names("export")
    if suffix not in known:
        why = unknown("file format", suffix, known) if suffix else "it has no suffix"
        raise OutputError(
            f"{os.fspath(path)!r} cannot be written: {why}; the formats are {', '.join(known)}"
        )
    exporter = lookup("export", suffix)
    styles = [name for name in inspect.signature(exporter).parameters if name != "circuit"]
    for name in style:
        if name not in styles:
            listed = ", ".join(styles) or "no style at all"
            raise OutputError(f".{suffix} files know no style {name!r}; they take {listed}")
    return write_whole(path, exporter(circuit, **style))
