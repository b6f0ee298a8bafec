"""The rows of a file of prompts, or of standard input: CSV, TSV, JSON, JSONL or Parquet.

Nothing in a file is executed. What cannot be read as a whole is refused with the line; a row that
is broken by itself is handed on with its fault, so that all such rows can be listed together.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from circuitkit.data.prompts import FILES, STDIN
from circuitkit.errors import DataError
from circuitkit.util.json_values import Json
from circuitkit.util.reading import repeated

__all__ = ["Row", "read_rows", "spelt"]

_SEPARATORS = (",", ";", "\t")
_BOMS = (  # the longer ones first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SPACE = " \t\r\n"
_REMEDY = "give a CSV, TSV, JSON, JSONL or Parquet file"


@dataclass(frozen=True)
class Row:
    """One row of a file.

    Attributes:
        place: Where it is: ``line 3``, or ``row 3`` where a file has no lines.
        fields: The value of each column; of CSV and TSV all are texts.
        table: Whether several answers are in one cell, separated by ``|``.
        spaced: Whether the file has a space after each separator, which belongs to no cell.
        fault: Why the row cannot be read; empty if it can.
    """

    place: str
    fields: Mapping[str, Json] = field(default_factory=dict)
    table: bool = False
    spaced: bool = False
    fault: str = ""


def spelt(path: str | Path) -> str:
    """The file as messages call it."""
    return "standard input" if str(path) == STDIN else str(path)


def read_rows(path: str | Path) -> list[Row]:
    """All rows of a file, by its suffix in upper or lower case; of standard input (``-``), whose
    kind shows in its first characters.

    Raises DataError, with the line where there is one, if the file is of another kind, cannot be
    read, or is broken as a whole: a quote that is never closed, a list that never ends.
    """
    name = spelt(path)
    suffix = "" if str(path) == STDIN else Path(path).suffix.lower()
    if suffix not in FILES and str(path) != STDIN:
        *some, last = FILES
        raise DataError(f"{name} is neither {', '.join(some)} nor {last}; {_REMEDY}")
    data = _content(path, name)
    if suffix == ".parquet" or (not suffix and data[:4] == b"PAR1"):
        return list(_parquet(data, name))
    text = _decoded(data, name)
    if suffix in (".jsonl", ".ndjson"):
        return list(_json_lines(text))
    if suffix == ".json" or (not suffix and text.lstrip()[:1] in ("[", "{")):
        return list(_json(text, name))
    return list(_csv(text, name, "\t" if suffix == ".tsv" else ","))


def _content(path: str | Path, name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == STDIN else Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise DataError(f"{name} cannot be read ({error}); {_REMEDY}") from error


def _decoded(data: bytes, name: str) -> str:
    """The text: UTF-8, or what a byte order mark or the zeros of Latin letters in UTF-16 say."""
    encoding = next((code for mark, code in _BOMS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in data[:2]:
        encoding = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{name}, line {line} cannot be read (it is not {encoding.upper()[:6].rstrip('-')}: "
            f"{error.reason}); save the file as UTF-8"
        ) from error


# -- CSV and TSV -----------------------------------------------------------------------------------
def _csv(text: str, name: str, usual: str) -> Iterator[Row]:
    start = _blank(text, 0)
    first = (text[start:].splitlines() or [""])[0]
    offset = 0
    if first[:4].lower() == "sep=" and len(first.strip()) == 5:  # as spreadsheets write it
        usual, offset = first.strip()[4], 1
        text = text[start + len(first) :].removeprefix("\r").removeprefix("\n")
    else:
        usual = _separator(first, usual)
    lines = list(_cells(text, name, usual, offset, skip=False))
    odd = (cell for _, own in lines for cell in own if cell.lstrip(" ")[:1] == '"' != cell[:1])
    if any(f"{usual}{cell}" in text for cell in odd):  # a quote after a space, as it stands there
        lines = list(_cells(text, name, usual, offset, skip=True))
    if not lines:
        return
    (number, head), *body = lines
    names = [cell.strip() for cell in head]
    twice = next((one for one in names if one and names.count(one) > 1), None)
    if twice is not None:
        raise DataError(
            f"{name}, line {number} has the column {twice[:40]!r} twice; rename one of them"
        )
    spaced = len(head) > 1 and all(cell.startswith(" ") for cell in head[1:])
    for number, cells in body:
        yield _cut(f"line {number}", names, cells, spaced)


def _cut(place: str, names: Sequence[str], cells: Sequence[str], spaced: bool) -> Row:
    """The cells of a line by their columns."""
    if len(cells) != len(names):
        were = f"{len(cells)} cell{'s' * (len(cells) != 1)}"
        fault = (
            f"has {were}, but the file has {len(names)} columns ({_few(names)}); put a cell "
            "that contains the separator between double quotes"
        )
        return Row(place, fault=fault)
    return Row(place, dict(zip(names, cells, strict=True)), table=True, spaced=spaced)


def _few(names: Sequence[str]) -> str:
    """Some names, each on one line."""
    shown = [repr(name[:20]) for name in names[:8]]
    return ", ".join([*shown, *(["..."] if len(names) > 8 else [])])


def _separator(head: str, usual: str) -> str:
    """The separator by which the first line has the most cells."""
    order = [usual, *(one for one in _SEPARATORS if one != usual)]
    return max(order, key=head.count)


def _cells(
    text: str, name: str, separator: str, offset: int, skip: bool
) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line that has any, with the number of its first line."""
    start = offset + 1
    try:
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=skip, strict=True
        )
        for cells in reader:
            if any(cells) and (len(cells) > 1 or cells[0].strip()):
                yield start, cells
            start = offset + reader.line_num + 1
    except (csv.Error, TypeError) as error:  # TypeError: a separator that csv does not take
        raise DataError(
            f"{name}, line {start} is not CSV ({error}); close each double quote, and write one "
            "inside a quoted cell as two"
        ) from error


# -- JSON ------------------------------------------------------------------------------------------
def _json_lines(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _json_line(line, f"line {number}")


def _json_line(line: str, place: str) -> Row:
    try:
        value, end = _value(line, _blank(line, 0))
        if line[end:].strip():
            raise ValueError("something follows the object")
    except ValueError as error:
        return Row(place, fault=f"is not JSON ({error}); correct it")
    return _object(value, place)


def _object(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        return Row(
            place, fault="is not a JSON object; write one with clean, corrupt, correct, wrong"
        )
    return Row(place, value)


def _json(text: str, name: str) -> Iterator[Row]:
    """The rows of a list, of an object that holds one list, of columns, or of lines of objects."""
    start = _blank(text, 0)
    if text[start : start + 1] == "[":
        yield from _elements(text, start, name)
        return
    if start == len(text):
        return
    try:
        value, end = _value(text, start)
    except ValueError as error:
        if text[start] == "{" and text.rstrip().count("\n", start):
            rows = list(_json_lines(text))
            if any(row.fields for row in rows):  # one object a line, some of them broken
                yield from rows
                return
        raise _not_json(name, text, start, error) from error
    if text[end:].strip():
        yield from _json_lines(text)
        return
    yield from _held(value, name)


def _elements(text: str, start: int, name: str) -> Iterator[Row]:
    """The elements of the list that starts there, each with its line."""
    at, line, counted = _blank(text, start + 1), 1, 0
    try:
        while text[at : at + 1] != "]":
            line, counted = line + text.count("\n", counted, at), at
            value, at = _value(text, at)
            yield _object(value, f"line {line}")
            at = _blank(text, at)
            if text[at : at + 1] == ",":
                at = _blank(text, at + 1)
                if text[at : at + 1] == "]":
                    raise ValueError("there is a comma before the end of the list")
            elif text[at : at + 1] != "]":
                raise ValueError("expecting ',' or ']'")
        at = _blank(text, at + 1)
        if at < len(text):
            raise ValueError("something follows the list")
    except ValueError as error:
        raise _not_json(name, text, at, error) from error


def _held(value: Any, name: str) -> Iterator[Row]:
    """The rows in an object: its one list of objects, its columns, or itself."""
    lists = [v for v in value.values() if _is_rows(v)] if isinstance(value, dict) else []
    if len(lists) == 1:
        yield from (_object(one, f"row {number}") for number, one in enumerate(lists[0], start=1))
        return
    columns = _columns(value) if isinstance(value, dict) else None
    if columns is not None:
        for number, cells in enumerate(zip(*columns.values(), strict=True), start=1):
            yield Row(f"row {number}", dict(zip(columns, cells, strict=True)))
        return
    if not isinstance(value, dict):
        raise DataError(f"{name} contains no JSON objects; write a list of them")
    yield Row("row 1", value)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _columns(value: Mapping[str, Any]) -> dict[str, list[Any]] | None:
    """The columns of a table as pandas writes it: lists, or objects with the same keys."""
    first = next(iter(value.values()), None)
    if isinstance(first, list):
        if all(isinstance(v, list) and len(v) == len(first) for v in value.values()):
            return dict(value)
    elif isinstance(first, dict) and all(
        isinstance(v, dict) and list(v) == list(first) for v in value.values()
    ):
        return {name: list(column.values()) for name, column in value.items()}
    return None


def _value(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that starts there, and where it ends; raises ValueError with the reason."""
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise ValueError(error.msg) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    double = repeated(pairs)
    if double is not None:
        raise ValueError(f"it has {double!r} twice")
    return dict(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def _blank(text: str, at: int) -> int:
    """The next place that is not a space."""
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _not_json(name: str, text: str, at: int, error: ValueError) -> DataError:
    cause = error.__cause__
    at = cause.pos if isinstance(cause, json.JSONDecodeError) else at
    line = text.count("\n", 0, at) + 1
    return DataError(f"{name}, line {line} is not JSON ({error}); correct it")


# -- Parquet ---------------------------------------------------------------------------------------
def _parquet(data: bytes, name: str) -> Iterator[Row]:
    import pandas

    try:
        frame = pandas.read_parquet(io.BytesIO(data), dtype_backend="pyarrow")
        records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    except ImportError as error:
        raise DataError(
            f"{name} needs pyarrow to be read; install it (pip install pyarrow), or give a CSV file"
        ) from error
    except Exception as error:  # pyarrow raises many kinds for a damaged file
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{name} cannot be read as Parquet ({reason}); {_REMEDY}") from error
    for number, record in enumerate(records, start=1):
        yield Row(f"row {number}", {str(k): _plain(v) for k, v in record.items()}, table=True)


def _plain(value: Any) -> Any:
    """Lists and numbers of numpy as those of Python."""
    return _plain(value.tolist()) if hasattr(value, "tolist") else value
