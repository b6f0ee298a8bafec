"""The rows of a file as prompts, with columns of our names or of those of other tools."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from circuitkit.data._showing import cited, standing
from circuitkit.data.prompts import Prompt
from circuitkit.data.reading import Row
from circuitkit.data.tokens import TokenizerView
from circuitkit.errors import DataError
from circuitkit.registry import nearest

__all__ = ["COLUMNS", "as_prompt", "first_tokens", "require_columns"]

# What a prompt is made of, each with the names that its column has: ours, EAP-IG's and MIB's, and
# those of agreement sets (Marks et al. 2024).
NAMES = {
    "clean": ("clean", "clean_prefix"),
    "corrupt": ("corrupt", "corrupted", "patch_prefix"),
    "correct": ("correct", "clean_answer"),
    "wrong": ("wrong", "incorrect", "patch_answer"),
    "correct_idx": ("correct_idx",),
    "incorrect_idx": ("incorrect_idx",),
}
COLUMNS = tuple(NAMES)
SPAN = "span_"  # with which the column of a span begins
OBJECTS = ("spans", "corruptions", "others", "corrupt_spans")  # in JSON
_RANGE = re.compile(r"\s*([0-9]{1,9})\s*:\s*([0-9]{1,9})\s*")
_NEEDED = {"clean": ("clean",), "correct": ("correct", "correct_idx"),
           "wrong": ("wrong", "incorrect_idx")}  # fmt: skip


def require_columns(name: str, rows: Sequence[Row], columns: Mapping[str, str]) -> None:
    """Raise DataError where no row of the file has a column that prompts need, or one that
    ``columns`` names."""
    unknown = next((key for key in columns if key not in NAMES), None)
    if unknown is not None:
        raise DataError(f"columns names {unknown!r}; the columns are {', '.join(COLUMNS)}")
    whole = [row for row in rows if row.fields]
    there = list(dict.fromkeys(str(key).strip() for row in whole for key in row.fields))
    for key, own in columns.items():
        if whole and own.strip() not in there:
            raise DataError(
                f"{name} has no column {cited(own)}, which is to be {key!r}; {_known(own, there)}"
            )
    if not whole or any(_is_fact(row.fields) for row in whole):
        return
    plain = {one.casefold() for one in there}
    for key, kinds in _NEEDED.items():
        names = {one for kind in kinds for one in NAMES[kind]}
        if not plain & names and not any(kind in columns for kind in kinds):
            empty = " (which may be empty)" if key == "wrong" else ""
            raise DataError(
                f"{name} has no column {key!r}{empty}; {_known(key, there)}; name yours with "
                f"columns={{{key!r}: ...}} (--columns {key}=...)"
            )


def _known(name: str, there: Sequence[str]) -> str:
    near = nearest(name, there)
    listed = ", ".join(repr(one[:40]) for one in there[:12]) + (", ..." if len(there) > 12 else "")
    return f"it has {listed}" + (f" (did you mean {near!r}?)" if near else "")


def as_prompt(row: Row, words: TokenizerView, columns: Mapping[str, str]) -> Prompt:
    """The prompt of a row; ``columns`` says which column is ``clean``, ``corrupt``, and so on.

    Raises DataError, beginning with a verb, if the row has not what a prompt needs.
    """
    if row.fault:
        raise DataError(row.fault)
    if _is_fact(row.fields) and not columns:
        return _fact(row.fields)
    fields = _named(row.fields, columns)
    missing = [key for key, kinds in _NEEDED.items() if not any(k in fields for k in kinds)]
    if missing:
        raise DataError(f"has no {missing[0]!r}; give each of clean, corrupt, correct, wrong")
    clean = _text(_spaceless(fields["clean"], row), "clean")
    corrupt = _spaceless(fields.get("corrupt"), row)
    correct, wrong = (_answers(fields, k, clean, row.table, words) for k in ("correct", "wrong"))
    return Prompt(
        clean,
        None if corrupt is None or corrupt == "" else _text(corrupt, "corrupt"),
        correct,
        wrong,
        _spans(fields, clean),
        _corruptions(fields),
        _spans(fields, corrupt or "", "corrupt_"),
    )


def _named(fields: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The values by our names; what is missing, or null, is left out."""
    own = {str(key).strip(): value for key, value in fields.items()}
    chosen = {column.strip(): key for key, column in columns.items()}
    found: dict[str, Any] = {}
    of: dict[str, str] = {}
    usual = {name: key for key, names in NAMES.items() for name in names if key not in columns}
    for name, value in own.items():
        key = chosen.get(name) or usual.get(name) or usual.get(name.casefold())
        if key is None:
            more = name in OBJECTS or name.startswith((SPAN, f"corrupt_{SPAN}"))
            key = name if more else None
        if key is None or value is None:
            if key in ("wrong", "incorrect_idx"):
                found.setdefault(key, [])
            continue
        if key in of:
            raise DataError(f"has both {of[key]!r} and {name!r}, which are {key!r}; give one")
        found[key], of[key] = value, name
    return found


def _spaceless(value: Any, row: Row) -> Any:
    """A text without the space that the file has after each of its separators."""
    return value.removeprefix(" ") if row.spaced and isinstance(value, str) else value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise DataError(f"has {_short(value)} for {name!r}; give a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"has {_short(value)} for {name!r}, which is not valid Unicode; give whole characters"
        ) from None
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]} ..."


# -- answers ---------------------------------------------------------------------------------------
def _answers(
    fields: Mapping[str, Any], kind: str, clean: str, table: bool, words: TokenizerView
) -> tuple[str, ...]:
    """The answers of a kind: as they are, or the texts of the tokens by their ids."""
    ids = "correct_idx" if kind == "correct" else "incorrect_idx"
    if kind not in fields:
        return tuple(_spelling(one, clean, ids, words) for one in _numbers(fields[ids], ids))
    value = fields[kind]
    if table and isinstance(value, str):
        value = value.split("|") if value else []
    values = value if isinstance(value, list) else [value]
    return tuple(_text(one, kind) for one in values)


def _numbers(value: Any, name: str) -> list[int]:
    """The token ids in a cell: a number, a list, or a text of either."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except (ValueError, RecursionError):
            value = [value]
    values = value if isinstance(value, list) else [value]
    whole = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
    for one in whole:
        if isinstance(one, bool) or not isinstance(one, int):
            raise DataError(f"has {_short(one)} for {name!r}; give the number of a token")
    return whole


def _spelling(token: int, clean: str, name: str, words: TokenizerView) -> str:
    """The text by which a token continues the clean one."""
    size = words.size
    if token < 0 or (size is not None and token >= size):
        limit = "" if size is None else f", but the tokenizer has tokens from 0 to {size - 1}"
        raise DataError(f"has {token} for {name!r}{limit}; give ids of this model's tokenizer")
    whole = words.whole(clean)
    head = words.ids([whole])[0]
    text = words.continuation(head, [token])
    if words.ids([whole + text])[0] != [*head, token]:
        raise DataError(
            f"has {token} for {name!r}, the token {text!r}, which does not continue "
            f"{cited(clean)} as a text; give ids of this model's tokenizer"
        )
    return text


def first_tokens(prompts: Iterable[Prompt], words: TokenizerView) -> list[Prompt]:
    """The prompts with the first token of each answer in its place.

    An answer that another one of its kind begins like is left out.
    """
    return [_shortened(prompt, words) for prompt in prompts]


def _shortened(prompt: Prompt, words: TokenizerView) -> Prompt:
    try:
        given = words.given(prompt)
    except DataError:
        return prompt  # which is said where it is tokenised
    head, *whole = words.ids(
        [given.clean, *(given.clean + one for one in (*given.correct, *given.wrong))]
    )
    firsts = [
        words.continuation(head, ids[len(head) : len(head) + 1])
        if ids[: len(head)] == head and len(ids) > len(head)
        else answer  # it merges with the text, which is said where it is tokenised
        for answer, ids in zip((*prompt.correct, *prompt.wrong), whole, strict=True)
    ]
    right = len(prompt.correct)
    correct, wrong = (tuple(dict.fromkeys(own)) for own in (firsts[:right], firsts[right:]))
    return replace(prompt, correct=correct, wrong=wrong)


# -- spans and further texts -----------------------------------------------------------------------
def _spans(fields: Mapping[str, Any], text: str, kind: str = "") -> dict[str, tuple[int, int]]:
    """The spans of an object, and those of columns of their own; of the clean text or another
    ``kind``."""
    whole, prefix = f"{kind}spans", f"{kind}{SPAN}"
    spans = fields.get(whole)
    if spans is None or spans == "":
        spans = {}
    if not isinstance(spans, dict):
        raise DataError(_unlike_spans(spans))
    own = {
        key.removeprefix(prefix): value
        for key, value in fields.items()
        if key.startswith(prefix) and value != ""
    }
    double = next((name for name in own if name in spans), None)
    if double is not None:
        raise DataError(f"has the span {double!r} twice, in {whole!r} and in {prefix + double!r}")
    return {
        str(name): _range(str(name), where, text, kind) for name, where in (spans | own).items()
    }


def _range(name: str, where: Any, text: str, kind: str) -> tuple[int, int]:
    """The characters of a span, given as their range or as a text that stands there once."""
    if isinstance(where, str):
        found, range_ = standing(where, text), _RANGE.fullmatch(where)
        if len(found) == 1:
            return found[0]
        if found or range_ is None:
            times = f"{len(found)} times" if found else "nowhere"
            raise DataError(
                f"has the span {name!r} {_short(where)}, which stands {times} in "
                f"{cited(text)}; give the range of its characters, such as 15:22"
            )
        where = range_.groups()
    try:
        start, stop = map(int, where)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(_unlike_spans({name: where})) from error
    if not 0 <= start < stop <= len(text):
        raise DataError(
            f"has the span {name!r} of {start} to {stop}, but the "
            f"{'corrupted' if kind else 'clean'} text has {len(text)} characters; choose a range "
            "inside it"
        )
    return start, stop


def _unlike_spans(spans: Any) -> str:
    return f'has the spans {_short(spans)}; write an object such as {{"subject": [15, 22]}}'


def _corruptions(fields: Mapping[str, Any]) -> dict[str, str]:
    """The further corrupted texts, which files before version 0.3 call ``others``."""
    given = {name: fields[name] for name in ("corruptions", "others") if name in fields}
    if len(given) > 1:
        raise DataError("has both 'corruptions' and 'others', its old name; give one")
    texts: Any = next(iter(given.values()), {})
    if not isinstance(texts, dict):
        raise DataError(
            f"has the corruptions {_short(texts)}; "
            'write an object such as {"verb": "The cat eats"}'
        )
    return {name: _text(text, name) for name, text in texts.items()}


# -- records of facts ------------------------------------------------------------------------------
def _is_fact(fields: Mapping[str, Any]) -> bool:
    """Whether this is a record of CounterFact, or of a set that is derived from it."""
    return "clean" not in fields and (
        "requested_rewrite" in fields
        or {"prompt", "subject", "target_true"} <= fields.keys()
        or {"prompt", "subject", "attribute"} <= fields.keys()
    )


def _fact(fields: Mapping[str, Any]) -> Prompt:
    """A prompt without a corrupted text: its subject is a span, and its answers follow a space."""
    own = fields.get("requested_rewrite", fields)
    if not isinstance(own, dict):
        raise DataError(f"has {_short(own)} for 'requested_rewrite'; give CounterFact's object")
    true = own.get("target_true", own.get("attribute"))
    false = own.get("target_new", own.get("target_false"))
    right, wrong = (one.get("str") if isinstance(one, dict) else one for one in (true, false))
    subject = _text(own.get("subject"), "subject")
    clean = _text(own.get("prompt"), "prompt").replace("{}", subject, 1).rstrip(" ")
    start = clean.find(subject)
    if start < 0:
        raise DataError(
            f"has the subject {cited(subject)}, which is not in {cited(clean)}; correct it"
        )
    first = start - clean[:start].endswith(" ")
    correct = _spaced(_text(right, "target_true"))
    others = () if wrong is None else (_spaced(_text(wrong, "target_new")),)
    return Prompt(clean, None, (correct,), others, {"subject": (first, start + len(subject))})


def _spaced(answer: str) -> str:
    return answer if answer.startswith(" ") else f" {answer}"
