"""Prompts of your own, in a file."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from circuitkit.data.prompts import Prompt, Task
from circuitkit.data.tokens import TokenizerView
from circuitkit.errors import DataError

__all__ = ["from_file"]

_FIELDS = ("clean", "corrupt", "correct", "wrong")
Rows = Iterator[tuple[int, Mapping[str, Any]]]


def from_file(
    words: TokenizerView,
    n: int | None = None,
    seed: int = 0,
    *,
    path: str | Path,
    metric: str = "logit_diff",
) -> Task:
    """Your own pairs, from a CSV or JSONL file with clean, corrupt, correct and wrong.

    Returns all prompts in the order of the file, or ``n`` of them drawn by the seed. Several
    answers are parted by ``|`` in CSV, and are a list in JSONL, where an object ``spans`` may name
    character ranges of the clean text, ``{"subject": [15, 22]}``, and an object ``others`` further
    corrupted texts, ``{"verb": "The cat eats"}``. ``wrong`` may be empty. The task is called as the
    file is. Whether the pairs fit the tokenizer shows when they are tokenised.

    Raises DataError, with the line, where the file cannot be read as such or is empty, and where it
    holds fewer than ``n`` prompts.
    """
    path = Path(path)
    prompts = [_prompt(fields, f"{path}, line {line}") for line, fields in _rows(path)]
    if not prompts:
        raise DataError(f"{path} holds no prompts; write at least one clean/corrupt pair")
    if n is not None and not 1 <= n <= len(prompts):
        raise DataError(f"{path} holds {len(prompts)} prompts, not {n}; ask for 1 to that many")
    if n is not None:
        random.Random(seed).shuffle(prompts)
    settings = {"n": n, "seed": seed, "path": str(path), "metric": metric}
    return Task(path.stem, tuple(prompts[:n]), metric, str(path), settings)


def _rows(path: Path) -> Rows:
    """The fields of each row, with the number of its last line."""
    readers = {".csv": _csv, ".jsonl": _jsonl}
    if path.suffix not in readers:
        raise DataError(f"{path} is neither .csv nor .jsonl; give a file of one of these kinds")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); give a CSV or JSONL file") from error
    return readers[path.suffix](text, path)


def _csv(text: str, path: Path) -> Rows:
    reader = csv.DictReader(io.StringIO(text))
    for row in reader:
        answers = {kind: row[kind] for kind in _FIELDS[2:] if row.get(kind) is not None}
        split = {kind: text.split("|") if text else [] for kind, text in answers.items()}
        yield reader.line_num, {**row, **split}


def _jsonl(text: str, path: Path) -> Rows:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number} is no JSON ({error}); correct it") from error
        if not isinstance(fields, dict):
            raise DataError(f"{path}, line {number} is no JSON object; write one of {_FIELDS}")
        yield number, fields


def _prompt(fields: Mapping[str, Any], place: str) -> Prompt:
    missing = [name for name in _FIELDS if fields.get(name) is None]
    if missing:
        raise DataError(f"{place} lacks {missing[0]!r}; give each of {', '.join(_FIELDS)}")
    clean, corrupt = (_text(fields[name], name, place) for name in _FIELDS[:2])
    correct, wrong = (_texts(fields[name], name, place) for name in _FIELDS[2:])
    spans = _spans(fields.get("spans", {}), clean, place)
    return Prompt(clean, corrupt, correct, wrong, spans, _others(fields.get("others", {}), place))


def _text(value: Any, name: str, place: str) -> str:
    if not isinstance(value, str) or not value:
        raise DataError(f"{place} has {value!r} for {name!r}; give a text")
    return value


def _texts(value: Any, name: str, place: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(_text(one, name, place) for one in values)


def _spans(spans: Any, clean: str, place: str) -> dict[str, tuple[int, int]]:
    try:
        found = {str(name): (int(start), int(stop)) for name, (start, stop) in spans.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f'{place} has the spans {spans!r}; write an object such as {{"subject": [15, 22]}}'
        ) from error
    for name, (start, stop) in found.items():
        if not 0 <= start < stop <= len(clean):
            raise DataError(
                f"{place} has the span {name!r} of {start} to {stop}, but the clean text has "
                f"{len(clean)} characters; choose a range inside it"
            )
    return found


def _others(others: Any, place: str) -> dict[str, str]:
    if not isinstance(others, dict):
        raise DataError(
            f'{place} has the others {others!r}; write an object such as {{"verb": "The cat eats"}}'
        )
    return {name: _text(text, name, place) for name, text in others.items()}
