"""JSON, tables and prose on stdout, no wider than a terminal."""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from circuitkit.cli._streams import encodable, plain
from circuitkit.util import json_values
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.tables import WIDTH, as_text

__all__ = ["print_json", "print_run", "print_table", "print_text"]

_BREAK, _SPACE = "\x1f", "\x1e"  # where a line may end, and a space where it may not
_DEEPEST = 40  # columns to which further lines of a text are indented


def print_json(value: Json) -> None:
    """Print the value as JSON, with null for nan; signs that stdout does not have are escaped."""
    held = nan_to_none(value)
    text = json.dumps(held, indent=1, ensure_ascii=False, default=_own)
    if not encodable(text, sys.stdout.encoding):
        text = json.dumps(held, indent=1, default=_own)
    print(text)


def print_run(options: argparse.Namespace, found: Any, written: Iterable[Path]) -> None:
    """Print what a run found, and the files that it has written."""
    files = [str(path) for path in written]
    if options.json:
        print_json({**found.to_dict(), "files": files})
    else:
        print_text(f"{found!r}\n\nwritten: {' '.join(files)}")


def _own(value: Json) -> Json:
    """What the json module does not know: numbers and tables of NumPy and torch, paths, and what
    can be gone through."""
    try:
        return json_values.plain(value, "")
    except ValueError:
        return list(value)


def print_text(text: str) -> None:
    """Print the text with long lines folded between words, below the last column of their line; a
    word that is longer than a line, such as a path, stays whole."""
    for line in plain(text, sys.stdout.encoding).split("\n"):
        print(_folded(line) if len(line) > WIDTH else line)


def print_table(rows: list[dict[str, Json]], as_json: bool, title: str) -> None:
    """Print rows with the same keys below a title."""
    if as_json:
        print_json(rows)
        return
    print_text(f"{title}\n{as_text(rows)}")


def _folded(line: str) -> str:
    """The line on several lines; tokens in brackets stay whole, with their leading space."""
    line = line.replace("][", f"]{_BREAK} [") if "][" in line else line
    line = re.sub(r"\[ (?=\S)", f"[{_SPACE}", line)
    indent = len(line) - len(line.lstrip())
    columns = [at.end() for at in re.finditer(r"\S {2,}(?=\S)", line) if at.end() <= _DEEPEST]
    folded = textwrap.fill(
        line, WIDTH, subsequent_indent=" " * max([indent + 2, *columns]), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return folded.replace(f"{_BREAK} ", "").replace(_BREAK, "").replace(_SPACE, " ")
