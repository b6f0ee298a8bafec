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
from circuitkit.data.tokens import Tokenizing
from circuitkit.errors import DataError

__all__ = ["from_file"]

_FIELDS = ("clean", "corrupt", "correct", "wrong")
Rows = Iterator[tuple[int, Mapping[str, Any]]]


def from_file(
    words: Tokenizing,
    n: int | None = None,
    seed: int = 0,
    *,
    path: str | Path,
    metric: str = "logit_diff",
) -> Task:
    """Your own pairs, from a CSV or JSONL file with clean, corrupt, correct and wrong.

    ``wrong`` may be empty. Several answers are separated by ``|`` in CSV, and are a list in JSONL.
    In JSONL an object ``spans`` may name ranges of characters of the clean text,
    ``{"subject": [15, 22]}``, and an object ``corruptions`` further corrupted texts,
    ``{"verb": "The cat eats"}``. Whether the pairs fit the tokenizer shows when they are tokenised.

    Args:
        words: The model, or a view of its tokenizer.
        n: The number of prompts, drawn with the seed; None for all, in the order of the file.
        seed: The seed of the draw.
        path: The file; ``make_task("mine.csv", model)`` is the same.
        metric: The name of the metric that suits the prompts.

    Returns:
        A ``Task`` named after the file.

    Raises:
        DataError: with the line, if the file cannot be read or is empty, or if it has fewer than
            ``n`` prompts.

    Example:
        >>> from pathlib import Path
        >>> text = "clean,corrupt,correct,wrong\\nThe cat is,The dog is, small, big"
        >>> _ = Path("mine.csv").write_text(text)
        >>> print(ck.make_task("mine.csv", model))
        from_file(path='mine.csv'): 1 prompt, metric logit_diff (mine.csv)
    """
    path = Path(path)
    prompts = [_prompt(fields, f"{path}, line {line}") for line, fields in _rows(path)]
    if not prompts:
        raise DataError(f"{path} contains no prompts; write at least one clean/corrupt pair")
    if n is not None and not 1 <= n <= len(prompts):
        raise DataError(
            f"{path} contains {len(prompts)} prompts, not {n}; give n from 1 to {len(prompts)}"
        )
    if n is not None:
        random.Random(seed).shuffle(prompts)
    settings = {"n": n, "seed": seed, "path": str(path), "metric": metric}
    return Task(path.stem, tuple(prompts[:n]), metric, str(path), settings)


def _rows(path: Path) -> Rows:
    """The fields of each row, with the number of its last line."""
    readers = {".csv": _csv, ".jsonl": _jsonl}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise DataError(f"{path} is neither .csv nor .jsonl; give a file of one of these kinds")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); give a CSV or JSONL file") from error
    return readers[suffix](text, path)


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
            raise DataError(f"{path}, line {number} is not JSON ({error}); correct it") from error
        if not isinstance(fields, dict):
            raise DataError(
                f"{path}, line {number} is not a JSON object; write one with {', '.join(_FIELDS)}"
            )
        yield number, fields


def _prompt(fields: Mapping[str, Any], place: str) -> Prompt:
    missing = [name for name in _FIELDS if fields.get(name) is None]
    if missing:
        raise DataError(f"{place} has no {missing[0]!r}; give each of {', '.join(_FIELDS)}")
    clean, corrupt = (_text(fields[name], name, place) for name in _FIELDS[:2])
    correct, wrong = (_texts(fields[name], name, place) for name in _FIELDS[2:])
    spans = _spans(fields.get("spans", {}), clean, place)
    return Prompt(clean, corrupt, correct, wrong, spans, _corruptions(fields, place))


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


def _corruptions(fields: Mapping[str, Any], place: str) -> dict[str, str]:
    """The further corrupted texts, which files before version 0.3 call ``others``."""
    given = {name: fields[name] for name in ("corruptions", "others") if name in fields}
    if len(given) > 1:
        raise DataError(f"{place} has both 'corruptions' and 'others', its old name; give one")
    texts: Any = next(iter(given.values()), {})
    if not isinstance(texts, dict):
        raise DataError(
            f"{place} has the corruptions {texts!r}; "
            'write an object such as {"verb": "The cat eats"}'
        )
    return {name: _text(text, name, place) for name, text in texts.items()}
