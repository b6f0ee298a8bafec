"""Files of unknown origin, read with care: regular ones, of a bounded size, and JSON or arrays in
them."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from circuitkit.errors import CircuitkitError
from circuitkit.util.bytesize import spell
from circuitkit.util.json_values import Json

if TYPE_CHECKING:
    import zipfile

    import numpy as np

__all__ = [
    "json_in",
    "parse_json",
    "read_arrays",
    "read_bytes",
    "read_json",
    "repeated",
    "require_file",
]

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


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """What a file holds. Raises FileNotFoundError, and CircuitkitError for what is not a regular
    file, cannot be read, or is too large to be read at once."""
    require_file(path, MOST)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CircuitkitError(f"it cannot be read ({error.strerror})") from error


def read_json(path: str | os.PathLike[str]) -> Json:
    """What a file of JSON holds, in UTF-8 or UTF-16, as ``parse_json`` reads it.

    Raises FileNotFoundError, and CircuitkitError for what is not a readable file, or not JSON.
    """
    raw = read_bytes(path)
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


def json_in(array: np.ndarray) -> Json:
    """The value whose JSON the bytes of an array are, as ``parse_json`` reads it.

    Raises CircuitkitError for arrays of another type, and for other bytes.
    """
    if array.dtype.str != "|u1":
        raise CircuitkitError(f"its text is an array of {array.dtype}, and not of bytes")
    try:
        return parse_json(array.tobytes().decode("utf-8"))
    except UnicodeError as error:
        raise CircuitkitError(f"it is not text ({error})") from error


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays in a file of numpy's ``savez``. Nothing in it is executed, and an array takes no
    more memory than it has bytes in the file.

    Raises FileNotFoundError, and CircuitkitError for what is not such a file.
    """
    import zipfile

    require_file(path)
    try:
        with zipfile.ZipFile(path) as file:
            found = [
                (info.filename.removesuffix(".npy"), _array(file, info)) for info in file.infolist()
            ]
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile raises many kinds for a damaged file
        if isinstance(error, CircuitkitError):
            raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise CircuitkitError(f"it is not a file of numpy's savez ({reason})") from error
    double = repeated(found)
    if double is not None:
        raise CircuitkitError(f"it has the array {double[:80]!r} twice; keep one")
    return dict(found)


def _array(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array of an archive, whose header must say as many bytes as there are."""
    import io

    import numpy as np

    name = repr(info.filename[:80])
    if info.compress_type or info.file_size != info.compress_size:
        raise CircuitkitError(f"{name} is compressed; write it with numpy.savez")
    stream = io.BytesIO(file.read(info))
    if np.lib.format.read_magic(stream) != (1, 0):
        raise CircuitkitError(f"{name} is not an array of plain numbers")
    shape, columns_first, kind = np.lib.format.read_array_header_1_0(stream)
    content = stream.read()
    count = math.prod(shape)
    if (
        kind.kind not in "biufc"
        or count * kind.itemsize != len(content)
        or min(shape, default=0) < 0
    ):
        raise CircuitkitError(
            f"{name} is said to be of {kind} and shape {shape}, and has {len(content):,} bytes"
        )
    return np.frombuffer(content, kind).reshape(shape, order="F" if columns_first else "C").copy()


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
