"""Damaged files of prompts, in every format and under every kind of header."""

from __future__ import annotations

import csv
import io
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas
import pyarrow.parquet
from damage import Reader, damaged_bytes, damaged_json
from hypothesis import strategies as st
from transformers import AutoTokenizer

import circuitkit
from circuitkit.data.tokens import TokenizerView, tokenise
from circuitkit.tasks import from_file

MINI = Path(circuitkit.__path__[0]) / "assets" / "mini"
Record = dict[str, Any]


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MINI)


@cache
def words() -> TokenizerView:
    return TokenizerView(tokenizer())


# -- what is written -------------------------------------------------------------------------------
GOOD: list[Record] = [
    {"clean": "The cat, is", "corrupt": "The dog, is", "correct": [" he", " she"],
     "wrong": [" was"]},
    {"clean": 'Mary "gave" to', "corrupt": 'John "gave" to', "correct": [" John"],
     "wrong": [" Mary"]},
    {"clean": "The book\nis", "corrupt": "The store\nis", "correct": [" the"], "wrong": []},
    {"clean": "Mary and", "corrupt": None, "correct": [" John"], "wrong": [" he"]},
]  # fmt: skip
FACTS: list[Record] = [
    {"requested_rewrite": {"prompt": "{} went to the", "subject": "Mary",
                           "target_true": {"str": "store"}, "target_new": {"str": "school"}}},
    {"requested_rewrite": {"prompt": "The dog and {}", "subject": "the cat",
                           "target_true": {"str": "was"}, "target_new": {"str": "is"}}},
]  # fmt: skip
AGREEMENT = {"clean": "clean_prefix", "corrupt": "patch_prefix", "correct": "clean_answer",
             "wrong": "patch_answer"}  # fmt: skip
NAMED: dict[str, Mapping[str, str]] = {
    "ours": {}, "upper": {key: key.upper() for key in AGREEMENT}, "agreement": AGREEMENT,
    "theirs": {"corrupt": "corrupted", "wrong": "incorrect"},
}  # fmt: skip


def headed(header: str) -> list[Record]:
    """The good prompts under another tool's header."""
    if header == "facts":
        return FACTS
    if header == "numbers":
        return [
            {"clean": own["clean"], "corrupted": own["corrupt"] or "",
             "correct_idx": _ids(own["correct"]), "incorrect_idx": _ids(own["wrong"])}
            for own in GOOD
        ]  # fmt: skip
    if header == "spans":
        more: Record = {"spans": {"who": [4, 7]}, "corruptions": {"other": "The book, is"}}
        return [{**GOOD[0], **more}, *GOOD[1:]]
    names = NAMED[header]
    return [{names.get(key, key): value for key, value in own.items()} for own in GOOD]


def _ids(texts: list[str]) -> list[int]:
    return [tokenizer()(text).input_ids[0] for text in texts]


def as_cells(records: list[Record]) -> list[dict[str, str]]:
    """Records as the cells of a table."""
    return [{key: _cell(value) for key, value in own.items()} for own in records]


def _cell(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return "|".join(value)
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def as_csv(records: list[Record], delimiter: str = ",", encoding: str = "utf-8") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, [*records[0]], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(as_cells(records))
    return out.getvalue().encode(encoding)


def as_parquet(records: list[Record]) -> bytes:
    out = io.BytesIO()
    pandas.DataFrame(as_cells(records)).to_parquet(out)
    return out.getvalue()


def as_lines(records: list[Record]) -> bytes:
    return "\n".join(map(json.dumps, records)).encode()


def as_columns(records: list[Record]) -> bytes:
    return json.dumps({key: [own[key] for own in records] for key in records[0]}).encode()


# -- what is to be read ----------------------------------------------------------------------------
KEYS = {
    "clean": ("clean", "clean_prefix"), "corrupt": ("corrupt", "corrupted", "patch_prefix"),
    "correct": ("correct", "clean_answer"), "wrong": ("wrong", "incorrect", "patch_answer"),
    "correct_idx": ("correct_idx",), "incorrect_idx": ("incorrect_idx",),
}  # fmt: skip
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32",
         b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # fmt: skip


def text_of(content: bytes) -> str:
    encoding = next((code for mark, code in MARKS.items() if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content[:2]:
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    return content.decode(encoding)


def csv_rows(content: bytes, usual: str) -> list[Record]:
    """The rows as the csv module has them; a space after each separator belongs to no text."""
    text = text_of(content).lstrip(" \t\r\n")
    first = text.splitlines()[0]
    if first[:4].lower() == "sep=" and len(first.strip()) == 5:
        usual, text = first.strip()[4], text.split("\n", 1)[1]
    else:
        usual = max((usual, ",", ";", "\t"), key=first.count)
    for skip in (False, True):
        source = io.StringIO(text, newline="")
        head, *body = [
            own for own in csv.reader(source, delimiter=usual, skipinitialspace=skip)
            if any(own) and "".join(own).strip()
        ]  # fmt: skip
        if not any(
            cell.lstrip(" ")[:1] == '"' != cell[:1] for own in (head, *body) for cell in own
        ):
            break
    assert all(len(own) == len(head) for own in body), "cells are lost"
    spaced = len(head) > 1 and all(cell.startswith(" ") for cell in head[1:])
    rows = [dict(zip((name.strip() for name in head), own, strict=True)) for own in body]
    return [{"\0spaced": spaced, "\0table": True, **own} for own in rows]


def json_rows(content: bytes) -> list[Record]:
    """The rows of a list, of an object with one, of columns, or of an object a line."""
    text = text_of(content)
    try:
        value = json.loads(text)
    except ValueError:
        return line_rows(content)
    if isinstance(value, list):
        return value
    lists = [own for own in value.values() if own and isinstance(own, list)
             and all(isinstance(one, dict) for one in own)]  # fmt: skip
    if len(lists) == 1:
        return list(lists[0])
    if all(isinstance(own, list) for own in value.values()):
        return [dict(zip(value, own, strict=True)) for own in zip(*value.values(), strict=True)]
    return [value]


def line_rows(content: bytes) -> list[Record]:
    return [json.loads(line) for line in text_of(content).split("\n") if line.strip()]


def parquet_rows(content: bytes) -> list[Record]:
    rows = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    return [{"\0table": True, **own} for own in rows]


def prompt_of(row: Record) -> tuple[Any, ...]:
    """A row as a prompt, by hand."""
    if "clean" not in row and {"requested_rewrite", "prompt"} & row.keys():
        return _fact(row.get("requested_rewrite", row))
    own = {str(key).strip(): value for key, value in row.items() if value is not None}
    found: Record = {}
    for key, names in KEYS.items():
        there = [name for name in own if name in names or name.casefold() in names]
        assert len(there) < 2, f"{there} are both {key}"
        if there:
            found[key] = own[there[0]]
    if row.get("\0spaced"):
        found |= {key: found[key].removeprefix(" ") for key in ("clean", "corrupt") if key in found}
    spans = {key: tuple(map(int, span)) for key, span in (own.get("spans") or {}).items()}
    others = own.get("corruptions", own.get("others", {}))
    table = bool(row.get("\0table"))
    return (
        found["clean"], found.get("corrupt") or None, _answers(found, "correct", table),
        _answers(found, "wrong", table), spans, dict(others),
    )  # fmt: skip


def _answers(found: Record, key: str, table: bool) -> tuple[str, ...]:
    if key in found:
        value = found[key]
        if table and isinstance(value, str):
            return tuple(value.split("|")) if value else ()
        return tuple(value) if isinstance(value, list) else (value,)
    numbers = found.get("correct_idx" if key == "correct" else "incorrect_idx", [])
    if isinstance(numbers, str):
        numbers = json.loads(numbers) if numbers.strip() else []
    numbers = numbers if isinstance(numbers, list) else [numbers]
    return tuple(tokenizer().decode([int(number)]) for number in numbers)


def _fact(own: Record) -> tuple[Any, ...]:
    clean = own["prompt"].replace("{}", own["subject"], 1).rstrip(" ")
    start = clean.index(own["subject"])
    true, false = own.get("target_true", own.get("attribute")), own.get(
        "target_new", own.get("target_false"))  # fmt: skip
    right, wrong = (one.get("str") if isinstance(one, dict) else one for one in (true, false))
    first = start - (clean[:start][-1:] == " ")
    span = {"subject": (first, start + len(own["subject"]))}
    return clean, None, _spaced(right), () if wrong is None else _spaced(wrong), span, {}


def _spaced(answer: str) -> tuple[str]:
    return (answer if answer[0] == " " else f" {answer}",)


# -- the readers -----------------------------------------------------------------------------------
PIECES = [
    b'"', b",", b";", b"\t", b"\n", b"\r", b"|", b"[", b"]", b"{", b"}", b":", b"\\", b"\\ud800",
    b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe9", b"null", b"NaN", b"1e999", b"-1",
    b"true", b'"clean"', b"clean", b"9" * 5000, b"[" * 2000, b" ", b"=", b"'", b"sep=;\n", b"PAR1",
    b", ", b'""', b"\r\n", b"\x1a", b"\x85", b"\xe2\x80\xa8", b'"clean": "x",', b"\n\n",
]  # fmt: skip


@st.composite
def with_pieces(draw: st.DrawFn, sound: bytes) -> bytes:
    """The bytes with characters that mean something to a reader, put in or put in their place."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(sound)))
        size = draw(st.sampled_from((0, 0, 1, 5, 30)))
        sound = sound[:start] + draw(st.sampled_from(PIECES)) + sound[start + size :]
    return sound


ENDS = (b"\n", b",x", b";x", b"\tx", b",", b";\n", b"\t", b"\r\n\r\n", b"}", b"]", b" ", b"\x1a")


@st.composite
def rewritten(
    draw: st.DrawFn, write: Callable[[list[Record]], bytes], records: list[Record]
) -> bytes:
    """Other rows in another order, with further columns: whole, or with a piece in it."""
    rows = draw(st.lists(st.sampled_from(records), min_size=1, max_size=6))
    names = draw(st.permutations([*records[0]]))
    extra = draw(st.lists(st.sampled_from(("id", "note, too", "Spans", "unnamed: 0", "label")),
                          unique=True))  # fmt: skip
    more = {name: draw(st.sampled_from(("", "1", "a b", "x;y", '"', "7.5"))) for name in extra}
    whole = write([{name: own.get(name) for name in names} | more for own in rows])
    if draw(st.booleans()):
        whole = whole.replace(b"\r\n", b"\n")
    if draw(st.booleans()):
        whole = whole.rstrip(b"\r\n") + draw(st.sampled_from(ENDS))
    return draw(with_pieces(whole)) if draw(st.integers(0, 3)) == 0 else whole


HEADERS = ("ours", "upper", "agreement", "theirs", "numbers")


def _reader(
    name: str, suffix: str, write: Callable[[list[Record]], bytes],
    rows: Callable[[bytes], list[Record]], headers: tuple[str, ...] = HEADERS,
) -> Reader:  # fmt: skip
    written = [write(headed(header)) for header in headers]
    kinds = [damage(sound) for sound in written for damage in (damaged_bytes, with_pieces)]
    kinds += [rewritten(write, headed(header)) for header in headers]
    if suffix == ".json" and write is as_list:
        kinds += [damaged_json(headed(header)) for header in headers]

    def place(folder: Path, content: bytes) -> Path:
        path = folder / f"damaged{suffix}"
        path.write_bytes(content)
        return path

    def expected(content: bytes) -> Any:
        return [prompt_of(row) for row in rows(content)]

    return Reader(name, written[0], st.one_of(kinds), _read, place, expected,
                  command=lambda path: ["task", "check", str(path), "--json"],
                  shown=_show_prompts)  # fmt: skip


def as_list(records: list[Record]) -> bytes:
    return json.dumps(records, indent=1).encode()


def _read(path: Path | str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = from_file(words(), path=path)
    assert len(list(tokenise(task.prompts, words()))) == len(task)
    return [shown(vars(prompt)) for prompt in task.prompts]


def shown(own: Mapping[str, Any]) -> tuple[Any, ...]:
    """A prompt as what compares."""
    spans = {name: tuple(span) for name, span in own["spans"].items()}
    return (own["clean"], own["corrupt"], tuple(own["correct"]), tuple(own["wrong"]), spans,
            dict(own["corruptions"]))  # fmt: skip


BREAKS = {one: repr(one)[1:-1] for one in "\n\r\t\x0b\x0c\x1c\x1d\x1e\x85"}


def _show_prompts(out: str, _: Path, found: Any) -> None:
    """Each row shows the texts that were expected, token by token between brackets."""
    rows = json.loads(out)["rows"]
    assert len(rows) == len(found), "other prompts"
    for row, (clean, corrupt, correct, wrong, *_more) in zip(rows, found, strict=True):
        for cell, texts in (("clean", [clean]), ("corrupt", [corrupt or ""]),
                            ("correct", correct), ("wrong", wrong)):  # fmt: skip
            told = " ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
            if told.isascii():  # a token may be a part of another character
                assert bare(row[cell]) == bare(told), f"other texts: {row[cell]}"


def bare(text: str) -> str:
    """The text without brackets, line breaks as they are shown."""
    return "".join(BREAKS.get(one, one) for one in text if one not in "[]")


def comma_csv() -> Reader:
    """Separated by commas."""
    return _reader("csv", ".csv", as_csv, lambda content: csv_rows(content, ","))


def semicolon_csv() -> Reader:
    """Separated by semicolons, with spaces after them."""

    def write(records: list[Record]) -> bytes:
        cells = as_cells([own for own in records if '"' not in str(own) and "\\n" not in str(own)])
        bare = [{key: own[key].removeprefix(" ") for key in own} for own in cells]
        plain = as_csv(bare, ";") if bare else b"clean;corrupt;correct;wrong\r\n"
        return plain.replace(b";", b"; ")

    return _reader("csv with semicolons", ".CSV", write, lambda content: csv_rows(content, ","))


def wide_csv() -> Reader:
    """In UTF-16."""
    return _reader("csv in UTF-16", ".csv", lambda own: as_csv(own, encoding="utf-16"),
                   lambda content: csv_rows(content, ","))  # fmt: skip


def tsv() -> Reader:
    """Separated by tabs."""
    return _reader("tsv", ".tsv", lambda own: as_csv(own, "\t"),
                   lambda content: csv_rows(content, "\t"))  # fmt: skip


def json_list() -> Reader:
    """A list of objects."""
    return _reader("json of prompts", ".json", as_list, json_rows, (*HEADERS, "spans", "facts"))


def json_columns() -> Reader:
    """An object of lists."""
    return _reader("json of columns", ".json", as_columns, json_rows)


def json_lines() -> Reader:
    """An object a line."""
    return _reader("jsonl", ".jsonl", as_lines, line_rows, (*HEADERS, "spans", "facts"))


def parquet() -> Reader:
    """A table of pyarrow."""
    return _reader("parquet", ".parquet", as_parquet, parquet_rows)


def standard_input() -> Reader:
    """Any of them, without a name that says which."""
    kinds = [as_csv(headed(h)) for h in HEADERS] + [as_lines(headed(h)) for h in HEADERS]
    kinds += [as_list(headed("facts")), as_parquet(headed("ours"))]

    def read(path: Path) -> Any:
        before = sys.stdin
        try:
            sys.stdin = io.TextIOWrapper(io.BytesIO(path.read_bytes()))
            return _read("-")
        finally:
            sys.stdin = before

    def expected(content: bytes) -> Any:
        if content[:4] == b"PAR1":
            return [prompt_of(row) for row in parquet_rows(content)]
        is_json = text_of(content).lstrip()[:1] in ("[", "{")
        rows = json_rows(content) if is_json else csv_rows(content, ",")
        return [prompt_of(row) for row in rows]

    def place(folder: Path, content: bytes) -> Path:
        (folder / "stdin").write_bytes(content)
        return folder / "stdin"

    contents = [damage(sound) for sound in kinds for damage in (damaged_bytes, with_pieces)]
    return Reader("standard input", kinds[0], st.one_of(contents), read, place, expected,
                  command=lambda path: ["task", "check", "-", "--json"],
                  shown=_show_prompts)  # fmt: skip
