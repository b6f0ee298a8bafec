"""Generated files of prompts: whole ones give what was written, damaged ones are refused in a
sentence or give prompts that fit; the same files in every run."""

from __future__ import annotations

import csv
import io
import json
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import circuitkit
from circuitkit.data.lint import check_prompts
from circuitkit.data.prompts import Prompt
from circuitkit.data.tokens import TokenizerView, tokenise
from circuitkit.errors import DataError
from circuitkit.tasks import from_file

MINI = Path(circuitkit.__path__[0]) / "assets" / "mini"
FOLDER = Path(tempfile.mkdtemp())


def same(n: int) -> settings:
    """So many examples, the same in every run."""
    return settings(
        max_examples=n, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@cache
def words() -> TokenizerView:
    return TokenizerView(AutoTokenizer.from_pretrained(MINI))


# -- whole files -----------------------------------------------------------------------------------
letters = st.one_of(
    st.sampled_from(list(" \"',;\t\n\r|=+-@[]{}\\aé語😀\u2028\x00")),
    st.characters(exclude_categories=["Cs"]),
)
texts = st.text(letters, min_size=1, max_size=12)
answers = st.lists(texts.filter(lambda t: "|" not in t), min_size=1, max_size=3)
prompts = st.builds(
    Prompt, texts, st.none() | texts, answers.map(tuple), st.just(()) | answers.map(tuple)
)
tables = st.lists(prompts, min_size=1, max_size=4)


def cells(prompt: Prompt) -> list[str]:
    return [prompt.clean, prompt.corrupt or "", "|".join(prompt.correct), "|".join(prompt.wrong)]


HEAD = ["clean", "corrupt", "correct", "wrong"]


def as_csv(own: list[Prompt], **dialect: Any) -> str:
    out = io.StringIO()
    writer = csv.writer(out, **dialect)
    writer.writerow(HEAD)
    writer.writerows(map(cells, own))
    return out.getvalue()


def as_records(own: list[Prompt]) -> list[dict[str, Any]]:
    return [{key: getattr(p, key) for key in HEAD} for p in own]


def as_parquet(own: list[Prompt]) -> bytes:
    out = io.BytesIO()
    pandas.DataFrame(list(map(cells, own)), columns=HEAD).to_parquet(out)
    return out.getvalue()


WRITERS: dict[str, Callable[[list[Prompt]], bytes]] = {
    "comma.csv": lambda own: as_csv(own).encode(),
    "semicolon.csv": lambda own: as_csv(own, delimiter=";").encode(),
    "quoted.csv": lambda own: as_csv(own, quoting=csv.QUOTE_ALL).encode("utf-8-sig"),
    "sixteen.csv": lambda own: as_csv(own).encode("utf-16"),
    "tab.tsv": lambda own: as_csv(own, delimiter="\t").encode(),
    "list.json": lambda own: json.dumps(as_records(own), indent=1).encode(),
    "raw.json": lambda own: json.dumps(as_records(own), ensure_ascii=False).encode(),
    "lines.jsonl": lambda own: "\n".join(map(json.dumps, as_records(own))).encode(),
    "table.parquet": as_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
@same(25)
@given(own=tables)
def test_what_was_written_is_read(name: str, own: list[Prompt]) -> None:
    path = FOLDER / name
    path.write_bytes(WRITERS[name](own))
    assert [row.prompt for row in check_prompts(path, words()).rows] == own


# -- damaged files ---------------------------------------------------------------------------------
GOOD = [
    Prompt("The cat, is", "The dog, is", (" he", " she"), (" was",)),
    Prompt('Mary "gave" to', 'John "gave" to', (" John",), (" Mary",)),
    Prompt("The book\nis", "The store\nis", (" the",)),
    Prompt("Mary and", None, (" John",), (" he",)),
]
PIECES = [
    b'"', b",", b";", b"\t", b"\n", b"\r", b"|", b"[", b"]", b"{", b"}", b":", b"\\", b"\\ud800",
    b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe9", b"null", b"NaN", b"1e999", b"-1",
    b"true", b'"clean"', b"clean", b"9" * 5000, b"[" * 2000, b" ", b"=", b"'", b"sep=;\n", b"PAR1",
]  # fmt: skip
changes = st.lists(
    st.tuples(
        st.sampled_from(["insert", "delete", "replace", "cut", "double", "swap"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 40),
        st.sampled_from(PIECES),
    ),
    min_size=1,
    max_size=3,
)


def damaged(data: bytes, how: list[tuple[str, float, int, bytes]]) -> bytes:
    for kind, share, size, piece in how:
        at = int(share * len(data))
        before, here, after = data[:at], data[at : at + size], data[at + size :]
        data = {
            "insert": before + piece + here + after,
            "delete": before + after,
            "replace": before + piece + after,
            "cut": before,
            "double": before + here + here + after,
            "swap": before + after[:size] + here + after[size:],
        }[kind]
    return data


def sentence(error: DataError, path: Path) -> None:
    """It names the file, and is one line with a remedy."""
    text = str(error)
    assert text.startswith(str(path)), text
    assert "\n" not in text, text
    assert "; " in text, text


@pytest.mark.parametrize("name", WRITERS)
@same(40)
@given(how=changes, drop=st.booleans())
def test_a_damaged_file_is_refused_in_a_sentence_or_gives_prompts_that_fit(
    name: str, drop: bool, how: list[tuple[str, float, int, bytes]]
) -> None:
    path = FOLDER / f"damaged-{name}"
    path.write_bytes(damaged(WRITERS[name](GOOD), how))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            task = from_file(words(), path=path, misfits="drop" if drop else "refuse")
        except DataError as error:
            sentence(error, path)
            return
    assert 1 <= len(list(tokenise(task.prompts, words()))) == len(task)


CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
NAMES = [*HEAD, "corrupted", "correct_idx", "incorrect_idx", "clean_prefix", "spans", "corruptions",
         "others", "requested_rewrite", "prompt", "subject", "target_true", "attribute",
         "Clean", "x"]  # fmt: skip


@same(200)
@given(rows=st.lists(st.dictionaries(st.sampled_from(NAMES), CELLS | texts, min_size=1), min_size=1,
                     max_size=3))  # fmt: skip
def test_values_of_any_kind_are_refused_or_fit(rows: list[dict[str, Any]]) -> None:
    path = FOLDER / "any.json"
    path.write_text(json.dumps(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = check_prompts(path, words())
        except DataError as error:
            sentence(error, path)
            return
    assert len(found.rows) == len(rows)
    assert len(found.prompts) + len(found.misfits) == len(rows)
    assert all("\n" not in text for text in found.misfits)
