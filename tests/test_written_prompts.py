"""Generated files of prompts: what was written is read, and what does not fit is left out; damaged
files as such are in ``test_damage.py``. The same files in every run."""

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

import damage_prompts
import pandas
import pytest
from damage import require_sentence
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from circuitkit.data.lint import check_prompts
from circuitkit.data.prompts import Prompt
from circuitkit.data.tokens import tokenise
from circuitkit.errors import DataError
from circuitkit.tasks import from_file

FOLDER = Path(tempfile.mkdtemp())
words = damage_prompts.words


def same(n: int) -> settings:
    """So many examples, the same in every run."""
    return settings(
        max_examples=n, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


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


# -- files of which some fits ----------------------------------------------------------------------
@cache
def reader(name: str) -> Any:
    return getattr(damage_prompts, name)()


@pytest.mark.parametrize("name", ["comma_csv", "json_list"])
def test_what_does_not_fit_is_counted_and_left_out(name: str) -> None:
    """Of damaged files, each row is a prompt that fits or a misfit; without these it is a task."""
    some = 0

    @same(30)
    @given(reader(name).contents)
    def case(content: bytes) -> None:
        nonlocal some
        path = reader(name).place(FOLDER, content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = check_prompts(path, words())
                task = from_file(words(), path=path, misfits="drop")
            except DataError as error:
                require_sentence(str(error), FOLDER)
                return
        assert len(found.prompts) + len(found.misfits) == len(found.rows)
        assert all("\n" not in text for text in found.misfits)
        assert [*task.prompts] == [*found.prompts]
        assert 1 <= len(list(tokenise(task.prompts, words()))) == len(task)
        some += len(found.misfits) > 0

    case()
    assert some
