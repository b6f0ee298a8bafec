"""Files of prompts: every format and encoding, columns of other tools, and damaged files."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

import circuitkit as ck
from circuitkit.data.prompts import Prompt
from circuitkit.data.tokens import TokenizerView
from circuitkit.errors import DataError
from circuitkit.tasks import from_file

PROMPTS = (
    Prompt("The cat, is", "The dog, is", (" he", " she"), (" was",)),
    Prompt('Mary "gave" to', 'John "gave" to', (" John",), (" Mary",)),
    Prompt("=A+B is", "=B+A is", (" the",)),
)
COLUMNS = ("clean", "corrupt", "correct", "wrong")


@pytest.fixture(scope="module")
def words() -> TokenizerView:
    return TokenizerView(ck.load("mini").tokenizer)


def frame() -> pandas.DataFrame:
    rows = [(p.clean, p.corrupt, "|".join(p.correct), "|".join(p.wrong)) for p in PROMPTS]
    return pandas.DataFrame(rows, columns=COLUMNS)


def rows() -> list[dict[str, Any]]:
    return [{key: getattr(p, key) for key in COLUMNS} for p in PROMPTS]


def csv(separator: str = ",") -> str:
    return str(frame().to_csv(index=False, sep=separator))


WRITERS: dict[str, Callable[[Path], object]] = {
    "plain.csv": lambda p: p.write_text(csv()),
    "CAPITALS.CSV": lambda p: p.write_text(csv()),
    "semicolons.csv": lambda p: p.write_text(csv(";")),
    "tabs.csv": lambda p: p.write_text(csv("\t")),
    "tabs.tsv": lambda p: p.write_text(csv("\t")),
    "commas.tsv": lambda p: p.write_text(csv()),
    "bom.csv": lambda p: p.write_text(csv(), encoding="utf-8-sig"),
    "sixteen.csv": lambda p: p.write_text(csv(), encoding="utf-16"),
    "sixteen-le.csv": lambda p: p.write_bytes(csv().encode("utf-16-le")),
    "sixteen-be.csv": lambda p: p.write_bytes(csv().encode("utf-16-be")),
    "thirty-two.csv": lambda p: p.write_bytes(csv().encode("utf-32")),
    "dos.csv": lambda p: p.write_bytes(csv().replace("\n", "\r\n").encode()),
    "mac.csv": lambda p: p.write_bytes(csv().replace("\n", "\r").encode()),
    "index.csv": lambda p: p.write_text(str(frame().to_csv())),
    "blank lines.csv": lambda p: p.write_text("\n" + csv().replace("\n", "\n\n,,,\n")),
    "spreadsheet.csv": lambda p: p.write_text("sep=;\n" + csv(";")),
    "capital columns.csv": lambda p: p.write_text(csv().replace("clean,corrupt", "Clean,CORRUPT")),
    "other names.csv": lambda p: p.write_text(csv().replace("corrupt,", "corrupted,")),
    "with [brackets] (1), colon: and = signs.csv": lambda p: p.write_text(csv()),
    "quoted' name.csv": lambda p: p.write_text(csv()),
    "list.json": lambda p: p.write_text(json.dumps(rows())),
    "indented.json": lambda p: p.write_text(json.dumps(rows(), indent=2)),
    "held.json": lambda p: p.write_text(json.dumps({"task": "x", "prompts": rows()})),
    "lines.json": lambda p: p.write_text("".join(json.dumps(r) + "\n" for r in rows())),
    "lines.jsonl": lambda p: p.write_text("".join(json.dumps(r) + "\n" for r in rows())),
    "lines.ndjson": lambda p: p.write_text("\n\n".join(json.dumps(r) for r in rows())),
    "columns.json": lambda p: p.write_text(
        json.dumps({key: [row[key] for row in rows()] for key in COLUMNS})
    ),
    "pandas.json": lambda p: pandas.DataFrame(rows()).to_json(p),
    "records.json": lambda p: pandas.DataFrame(rows()).to_json(p, orient="records"),
    "table.parquet": lambda p: frame().to_parquet(p),
    "lists.parquet": lambda p: pandas.DataFrame(rows()).to_parquet(p),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_prompts(
    words: TokenizerView, tmp_path: Path, name: str
) -> None:
    WRITERS[name](tmp_path / name)
    assert from_file(words, path=tmp_path / name).prompts == PROMPTS


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_a_task_by_its_name(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    model = ck.load("mini")
    task = ck.make_task(str(tmp_path / name), model)
    assert task.prompts == PROMPTS
    assert ck.make_task(task.name, model) == task


def test_spaces_after_commas_belong_to_no_text_but_to_answers(
    words: TokenizerView, tmp_path: Path
) -> None:
    path = tmp_path / "spaced.csv"
    path.write_text("clean, corrupt, correct, wrong\nThe cat is, The dog is, he, she\n")
    plain = Prompt("The cat is", "The dog is", (" he",), (" she",))
    assert from_file(words, path=path).prompts == (plain,)
    path.write_text(
        '"clean", "corrupt", "correct", "wrong"\n"The cat is", "The dog is", " he", " she"\n'
    )
    assert from_file(words, path=path).prompts == (plain,)
    path.write_text("clean,corrupt,correct,wrong\nThe cat is,The dog is, he, she\n")
    assert from_file(words, path=path).prompts == (plain,)


class Standard:
    """What stands in for standard input."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


@pytest.mark.parametrize(
    "name", [n for n in WRITERS if n.endswith(("csv", "tsv", "json", "parquet"))]
)
def test_standard_input_is_a_file_whose_kind_shows(
    words: TokenizerView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    WRITERS[name](tmp_path / name)
    monkeypatch.setattr(sys, "stdin", Standard((tmp_path / name).read_bytes()))
    assert from_file(words, path="-").prompts == PROMPTS
    with pytest.raises(DataError, match="standard input contains no prompts"):
        from_file(words, path="-")


# -- every reader × header -------------------------------------------------------------------------
CELLS = {
    "clean": ["The cat is", "Mary gave to"], "corrupt": ["The dog is", "John gave to"],
    "correct": [" he", " John"], "wrong": [" she", " Mary"],
}  # fmt: skip
# The names of the four columns: ours, EAP-IG's, those of agreement sets, and one's own.
HEADERS: dict[str, tuple[str, str, str, str]] = {
    "ours": COLUMNS,
    "capitals": ("Clean", "CORRUPT", "Correct", "WRONG"),
    "spaced": (" clean", "corrupt ", " correct ", "wrong"),
    "EAP-IG": ("clean", "corrupted", "correct", "incorrect"),
    "token ids": ("clean", "corrupted", "correct_idx", "incorrect_idx"),
    "agreement": ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer"),
    "own": ("text", "other text", "yes", "no"),
}
READERS: dict[str, Callable[[pandas.DataFrame, Path], object]] = {
    "a.csv": lambda f, p: f.to_csv(p, index=False),
    "b.CSV": lambda f, p: f.to_csv(p, index=False, sep=";", encoding="utf-8-sig"),
    "c.csv": lambda f, p: f.to_csv(p, sep="\t", encoding="utf-16"),
    "d.tsv": lambda f, p: f.to_csv(p, index=False, sep="\t"),
    "e.json": lambda f, p: f.to_json(p, orient="records"),
    "f.json": lambda f, p: f.to_json(p),
    "g.jsonl": lambda f, p: f.to_json(p, orient="records", lines=True),
    "h.parquet": lambda f, p: f.to_parquet(p),
}


@pytest.mark.parametrize("header", HEADERS)
def test_every_reader_takes_every_header(
    words: TokenizerView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str
) -> None:
    """Also from standard input, where the kind of a file shows in it."""
    names = dict(zip(COLUMNS, HEADERS[header], strict=True))
    table = pandas.DataFrame({names[key]: cells for key, cells in CELLS.items()})
    if header == "token ids":
        for name in HEADERS[header][2:]:
            table[name] = [words.ids([text])[0][-1] for text in table[name]]
    columns = names if header == "own" else None
    wanted = tuple(
        Prompt(clean, corrupt, (right,), (wrong,))
        for clean, corrupt, right, wrong in zip(*CELLS.values(), strict=True)
    )
    for name, write in READERS.items():
        write(table, tmp_path / name)
        assert from_file(words, path=tmp_path / name, columns=columns).prompts == wanted, name
        monkeypatch.setattr(sys, "stdin", Standard((tmp_path / name).read_bytes()))
        assert from_file(words, path="-", columns=columns).prompts == wanted, name


# -- columns of other tools ------------------------------------------------------------------------
def test_token_ids_of_eap_ig_are_answers(words: TokenizerView, tmp_path: Path) -> None:
    ids = {text: words.ids([text])[0][0] for text in (" he", " she", " was")}
    head = ",clean,corrupted,correct_idx,incorrect_idx\n"
    path = tmp_path / "eap.csv"
    path.write_text(f"{head}0,The cat is,The dog is,{ids[' he']},{ids[' was']}\n")
    wanted = Prompt("The cat is", "The dog is", (" he",), (" was",))
    assert from_file(words, path=path).prompts == (wanted,)
    path.write_text(f'{head}0,The cat is,The dog is,"[{ids[" he"]}, {ids[" she"]}]",[]\n')
    assert from_file(words, path=path).prompts == (
        Prompt("The cat is", "The dog is", (" he", " she"), ()),
    )
    pandas.DataFrame(
        {"clean": ["The cat is"], "corrupted": ["The dog is"], "correct_idx": [ids[" he"]],
         "incorrect_idx": [float(ids[" was"])]}
    ).to_parquet(tmp_path / "eap.parquet")  # fmt: skip
    assert from_file(words, path=tmp_path / "eap.parquet").prompts == (wanted,)


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("99999", "has 99999 for 'correct_idx', but the tokenizer has tokens from 0 to"),
        ("-1", "has -1 for 'correct_idx'"),
        ("x", "has 'x' for 'correct_idx'; give the number of a token"),
        ("1.5", "has 1.5 for 'correct_idx'"),
        ("true", "has True for 'correct_idx'"),
        ("", "has no correct answer"),
    ],
)
def test_what_is_no_token_id_is_refused(
    words: TokenizerView, tmp_path: Path, cell: str, says: str
) -> None:
    path = tmp_path / "eap.csv"
    path.write_text(f"clean,corrupted,correct_idx,incorrect_idx\nThe cat is,The dog is,{cell},\n")
    with pytest.raises(DataError, match="line 2 ") as caught:
        from_file(words, path=path)
    assert says in str(caught.value)


def test_agreement_sets_are_read_as_they_are(words: TokenizerView, tmp_path: Path) -> None:
    record = {"clean_prefix": "The cat", "patch_prefix": "The book", "clean_answer": " is",
              "patch_answer": " was", "case": "singular"}  # fmt: skip
    for name, text in (("a.json", json.dumps(record)), ("b.json", f"{json.dumps(record)}\n" * 2)):
        (tmp_path / name).write_text(text)
        with pytest.MonkeyPatch.context():
            first, *_ = ck.check_prompts(tmp_path / name, words).prompts
        assert first == Prompt("The cat", "The book", (" is",), (" was",))


FACT = {"subject": "The cat", "target_new": {"str": "John", "id": "Q1"},
        "target_true": {"str": "Mary", "id": "Q2"}, "prompt": "{} gave it to",
        "relation_id": "P1"}  # fmt: skip


@pytest.mark.parametrize(
    "record",
    [
        {"case_id": 0, "requested_rewrite": FACT, "paraphrase_prompts": ["x"]},
        {"prompt": "The cat gave it to", "subject": "The cat", "target_true": " Mary",
         "target_false": " John", "relation": "gave"},
        {"prompt": "The cat gave it to ", "subject": "The cat", "attribute": "Mary"},
    ],
    ids=["counterfact", "tracing", "known"],
)  # fmt: skip
def test_facts_have_a_subject_and_no_corrupted_text(
    words: TokenizerView, tmp_path: Path, record: dict[str, Any]
) -> None:
    (tmp_path / "facts.json").write_text(json.dumps([record]))
    wrong = () if "attribute" in record else (" John",)
    wanted = Prompt("The cat gave it to", None, (" Mary",), wrong, {"subject": (0, 7)})
    assert from_file(words, path=tmp_path / "facts.json").prompts == (wanted,)


def test_a_fact_that_lacks_its_parts_is_refused(words: TokenizerView, tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    for broken, says in (
        ({**FACT, "subject": None}, "has None for 'subject'"),
        ({**FACT, "target_true": {}}, "has None for 'target_true'"),
        ({**FACT, "prompt": "gave it to"}, "has the subject 'The cat', which is not in"),
        ([], "has [] for 'requested_rewrite'"),
    ):
        path.write_text(json.dumps({"requested_rewrite": broken}))
        with pytest.raises(DataError, match="line 1 ") as caught:
            from_file(words, path=path)
        assert says in str(caught.value)


def test_columns_may_be_named(words: TokenizerView, tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("clean,a,b,c,d\nno,The cat is,The dog is, he, she\n")
    own = {"clean": "a", "corrupt": "b", "correct": "c", "wrong": "d"}
    task = ck.make_task(path, ck.load("mini"), columns=own)
    assert task.prompts == (Prompt("The cat is", "The dog is", (" he",), (" she",)),)
    assert ck.make_task(task.name, ck.load("mini")) == task
    with pytest.raises(DataError, match=r"has no column 'A', which is to be 'clean'; it has"):
        from_file(words, path=path, columns={"clean": "A"})
    with pytest.raises(DataError, match="columns names 'clear'; the columns are clean"):
        from_file(words, path=path, columns={"clear": "a"})
    with pytest.raises(DataError, match=r"no column 'correct'.*--columns correct="):
        from_file(words, path=path)


# -- what is refused -------------------------------------------------------------------------------
GOOD = "clean,corrupt,correct,wrong\nThe cat is,The dog is, he, she\n"
ROW = '{"clean": "The cat is", "corrupt": "The dog is", "correct": " he", "wrong": " she"}'
BAD: dict[str, tuple[str | bytes, str]] = {
    "surplus.csv": (GOOD + "a,b,c,d,e\n", "line 3 has 5 cells, but the file has 4 columns"),
    "comma.csv": (GOOD + "The, cat,b, he, she\n", "line 3 has 5 cells"),
    "short.csv": (GOOD + "a\n", "line 3 has 1 cell, but the file has 4 columns"),
    "open.csv": (GOOD + '"a,b,c,d\nx,y,z,w\n', "line 3 is not CSV"),
    "after.csv": (GOOD + '"a"b,b,c,d\n', "line 3 is not CSV"),
    "twice.csv": ("clean,clean,correct,wrong\n", "line 1 has the column 'clean' twice"),
    "two.csv": (
        "clean,corrupt,corrupted,correct,wrong\nThe cat is,The dog is,x, he, she\n",
        "line 2 has both 'corrupt' and 'corrupted'",
    ),
    "latin.csv": (GOOD.encode() + b"caf\xe9,b,c,d\n", "line 3 cannot be read .it is not UTF-8"),
    "odd.csv": (b"\xff\xfea\0b", "cannot be read .it is not UTF-16"),
    "headless.csv": (2 * f"{GOOD.splitlines()[1]}\n", "has no column 'clean'; it has 'The cat is'"),
    "open.json": (f"[{ROW},\n", "line 2 is not JSON"),
    "comma.json": (f"[{ROW},\n]", "there is a comma before the end"),
    "missing.json": (f"[{ROW}\n{ROW}]", "line 2 is not JSON .expecting ',' or ']'"),
    "after.json": (f"[{ROW}]\nx", "line 2 is not JSON .something follows"),
    "deep.json": ("[" * 100_000, "nested too deeply"),
    "deep.jsonl": ('{"clean": ' + "[" * 100_000, "line 1 is not JSON .it is nested too deeply"),
    "number.jsonl": (f"{ROW}\n{'9' * 9999}", "line 2 is not JSON"),
    "twice.json": (f'[{ROW[:-1]}, "clean": "b"}}]', "line 1 is not JSON .it has 'clean' twice"),
    "half.jsonl": (ROW.replace("The cat", "\\ud800"), "line 1 has .* which is not valid Unicode"),
    "text.json": ('"text"', "contains no JSON objects"),
    "null.jsonl": (ROW.replace('"The cat is"', "null"), "has no column|line 1 has no 'clean'"),
    "damaged.parquet": (b"PAR1 and nothing more", "cannot be read as Parquet"),
    "empty.parquet": (b"", "cannot be read as Parquet"),
    "empty.json": ("", "contains no prompts"),
    "empty list.json": ("[]", "contains no prompts"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_file_is_refused_in_a_sentence(
    words: TokenizerView, tmp_path: Path, name: str
) -> None:
    content, says = BAD[name]
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=says) as caught:
        from_file(words, path=tmp_path / name)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_parquet_without_pyarrow_says_what_to_install(
    words: TokenizerView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame().to_parquet(tmp_path / "mine.parquet")

    def missing(*_: object, **__: object) -> None:
        raise ImportError("no pyarrow")

    monkeypatch.setattr(pandas, "read_parquet", missing)
    with pytest.raises(DataError, match="needs pyarrow"):
        from_file(words, path=tmp_path / "mine.parquet")
