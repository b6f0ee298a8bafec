"""Tables: what stands in a frame, in CSV and in a terminal is what the rows hold."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from math import nan

import numpy as np
import pytest

from circuitkit.util.tables import DASH, WIDTH, as_text, cell, to_csv, to_frame

ROWS = [
    {"name": "a9.h9", "edges": 12345, "mean_effect": 1.23456, "of": None},
    {"name": "m0", "edges": 7, "mean_effect": nan, "of": "x, y"},
    {"name": "long", "edges": 10, "mean_effect": -2e-5, "extra": True},
]


def test_a_frame_has_every_column_in_the_order_in_which_it_comes() -> None:
    found = to_frame(ROWS)
    assert list(found.columns) == ["name", "edges", "mean_effect", "of", "extra"]
    assert found["edges"].tolist() == [12345, 7, 10]
    assert list(to_frame([], ("a", "b")).columns) == ["a", "b"]
    assert list(to_frame(ROWS, ("edges",)).columns) == ["edges"]


def test_what_is_not_defined_is_an_empty_cell_in_csv() -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(ROWS))))
    assert [line["of"] for line in lines] == ["", "x, y", ""]
    assert [line["mean_effect"] for line in lines] == ["1.23456", "", "-2e-05"]
    assert [line["extra"] for line in lines] == ["", "", "True"]
    assert "nan" not in to_csv(ROWS).lower()


def test_csv_has_six_digits_or_all() -> None:
    row = [{"x": 1 / 3, "n": 1234567890}]
    assert to_csv(row) == "x,n\n0.333333,1234567890\n"
    assert to_csv(row, digits=None) == f"x,n\n{1 / 3!r},1234567890\n"
    assert to_csv([], ("a", "b")) == "a,b\n"
    assert to_csv(row, ("n",)) == "n\n1234567890\n"


def test_text_is_aligned_numbers_to_the_right() -> None:
    assert as_text(ROWS, formats={"edges": ",d"}, headings={"of": "OF"}).splitlines() == [
        "name    edges  mean effect  OF    extra",
        "a9.h9  12,345        1.235  –     –",
        "m0          7            –  x, y  –",
        "long       10       -2e-05  –     True",
    ]
    assert as_text([{"a": "x ± y", "b": 2}, {"a": "x", "b": 10}], right=("a",), header=False,
                   indent=2) == "  x ± y   2\n      x  10"  # fmt: skip


def test_long_text_is_folded_and_numbers_never_are() -> None:
    heads = ", ".join(f"a{i}.h{i}" for i in range(60))
    text = as_text([{"heads": heads, **{f"n{i}": 0.123 for i in range(8)}}])
    lines = text.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert len(lines) > 2
    assert lines[1].count("0.123") == 8
    assert " ".join(line[: lines[1].index("0.123")].strip() for line in lines[1:]) == heads
    wide = as_text([{f"column {i}": 0.123 for i in range(40)}])
    assert max(map(len, wide.splitlines())) <= WIDTH
    assert wide.count("0.123") == 40


def test_text_is_the_same_in_every_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = as_text(ROWS)
    for name, value in (("COLUMNS", "20"), ("FORCE_COLOR", "1"), ("TERM", "dumb"),
                        ("JUPYTER_COLUMNS", "30"), ("TTY_COMPATIBLE", "1")):  # fmt: skip
        monkeypatch.setenv(name, value)
        assert as_text(ROWS) == plain


def test_cells_are_text_and_no_markup() -> None:
    odd = "[bold]x[/] :smile: [0.1, 0.2]"
    assert odd in as_text([{"x": odd}])


def test_cells_are_numbers_to_three_digits() -> None:
    assert [cell(v) for v in (0.5, 0.0, 0.00123, 12.0, np.float32(0.25), np.int64(3), 4, "x")] == [
        "0.500", "0.000", "0.0012", "12.000", "0.250", "3", "4", "x"
    ]  # fmt: skip
    assert [cell(v) for v in (nan, None, True)] == ["", "", "True"]
    assert cell(nan, ".3f", DASH) == DASH
    assert cell(1234, ",d") == "1,234"
    assert cell("text", ".3f") == "text"


def test_the_libraries_are_imported_when_they_are_needed() -> None:
    script = (
        "import sys\nimport circuitkit.util.tables, circuitkit.util.statistics, "
        "circuitkit.util.templates\n"
        "sys.exit(str({'pandas', 'rich', 'scipy', 'jinja2', 'torch'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert not done.stderr.strip()


def test_a_spreadsheet_runs_no_text_of_ours() -> None:
    """CSV injection: a text that begins as a formula does is shown, and numbers stay numbers."""
    for text in ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "-", "=", "--1"):
        table = to_csv([{"prompt": text, "n": -1.5, text: "x"}])
        name, cells = csv.reader(io.StringIO(table, newline=""))
        assert cells[0] == name[2] == f"'{text}".replace("\r", "\n")
        assert cells[1:] == ["-1.5", "x"]
    for text in ("-1", "+0.5", "-1e-05", "-.5", "a=1", " =1", "", "–"):
        _, cells = csv.reader(io.StringIO(to_csv([{"text": text, "x": 1}]), newline=""))
        assert cells == [text, "1"]
