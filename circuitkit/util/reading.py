"""Files of unknown origin, read with care: regular ones, of a bounded size, and JSON in them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from circuitkit.errors import CircuitkitError
from circuitkit.util.bytesize import spell
from circuitkit.util.json_values import Json

__all__ = ["parse_json", "read_json", "repeated", "require_file"]

MOST = 2**28  # bytes of JSON: 3 million edges; parsed they take about four times as much
DIGITS = 1000  # Python's own limit, 4,300, can be changed, and a double has 309
_BOMS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16


def require_file(path: str | os.PathLike[str], most: int | None = None) -> None:
    """Raise CircuitkitError for what is not a regular file of at most so many bytes (a folder, a
    pipe that nobody fills, a loop of links), and FileNotFoundError where nothing is there."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CircuitkitError(f"it cannot be read ({reason})") from error
    if stat.S_ISDIR(found.st_mode):
        raise CircuitkitError("it is a folder; name a file in it")
    if not stat.S_ISREG(found.st_mode):
        raise CircuitkitError("it is a pipe or a device; save what comes from it as a file first")
    if most is not None and found.st_size > most:
        raise CircuitkitError(
            f"it has {spell(found.st_size)}, and no more than {spell(most)} are read at once"
        )


def read_json(path: str | os.PathLike[str]) -> Json:
    """What a file of JSON holds, in UTF-8 or UTF-16, as ``parse_json`` reads it.

    Raises FileNotFoundError, and CircuitkitError for what is not a readable file, or not JSON.
    """
    require_file(path, MOST)
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise CircuitkitError(f"it cannot be read ({error.strerror})") from error
    try:
        text = raw.decode("utf-16" if raw[:2] in _BOMS else "utf-8-sig")
    except UnicodeError as error:
        raise CircuitkitError(f"it is not text ({error})") from error
    return parse_json(text)


def parse_json(text: str) -> Json:
    """The value that the text is JSON of; numbers may be infinite or undefined.

    Raises CircuitkitError for other texts, for an object that has a key twice, for numbers of a
    thousand digits, and where values are nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_once, parse_int=_whole)
    except RecursionError as error:
        raise CircuitkitError("it is nested too deeply") from error
    except ValueError as error:
        raise CircuitkitError(f"it is not JSON ({error})") from error


def repeated(pairs: Sequence[tuple[str, object]]) -> str | None:
    """The first key that these items of an object hold twice; None where each is there once."""
    names = [name for name, _ in pairs]
    if len(set(names)) == len(names):
        return None
    return next(name for name in names if names.count(name) > 1)


def _once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    double = repeated(pairs)
    if double is not None:
        raise CircuitkitError(f"an object has the key {double[:80]!r} twice; keep one")
    return dict(pairs)


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number has {len(text):,} digits")
    return int(text)
