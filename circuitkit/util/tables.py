"""Tables: rows as a pandas frame, as CSV, and as text for a terminal.

A row maps column names to values. An undefined value (nan, None, or missing) is an empty cell in
CSV and on pages, and a dash in text. pandas and rich take time to import, so functions import them.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from io import StringIO
from numbers import Integral, Real
from typing import TYPE_CHECKING

from circuitkit.util.json_values import Json

if TYPE_CHECKING:
    import pandas

__all__ = ["DASH", "WIDTH", "as_html", "as_text", "cell", "columns", "heading", "is_number",
           "to_csv", "to_frame"]  # fmt: skip

WIDTH = 100  # of text, unless numbers need more
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
DASH = "–"  # for undefined values


# -- frames and CSV --------------------------------------------------------------------------------
def to_frame(
    rows: Iterable[Mapping[str, Json]], columns: Sequence[str] | None = None
) -> pandas.DataFrame:
    """The rows as a pandas frame, with these columns, or with all columns that any row has."""
    import pandas

    return pandas.DataFrame(list(rows), columns=columns)


def to_csv(
    rows: Iterable[Mapping[str, Json]],
    columns: Sequence[str] | None = None,
    digits: int | None = 6,
) -> str:
    """The rows as CSV, numbers with so many digits (None for all digits).

    A spreadsheet runs a cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a return as a
    formula: a text of that kind, which may come from a prompt or a name, gets ``'`` in front.
    """
    exact = None if digits is None else f"%.{digits}g"
    frame = to_frame(
        [{_harmless(name): _harmless(value) for name, value in row.items()} for row in rows],
        None if columns is None else [*map(_harmless, columns)],
    )
    return str(frame.to_csv(index=False, float_format=exact, lineterminator="\n"))


def _harmless(value: Json) -> Json:
    """A text that a spreadsheet does not run, its lines ending as those of the file; numbers, also
    as text, stay as they are."""
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")  # csv quotes only the latter
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\n")) else text


def as_html(frame: pandas.DataFrame, heading: str = "") -> str:
    """The frame for a notebook, below a line of text; fractions to three digits."""
    table = frame.to_html(index=False, border=0, na_rep=DASH, float_format=cell)
    return (f"<p>{html.escape(heading)}</p>" if heading else "") + str(table)


# -- text ------------------------------------------------------------------------------------------
def as_text(
    rows: Sequence[Mapping[str, Json]],
    *,
    formats: Mapping[str, str] | None = None,
    headings: Mapping[str, str] | None = None,
    right: Collection[str] = (),
    header: bool = True,
    indent: int = 0,
) -> str:
    """The rows as aligned text, the same in every terminal.

    Numbers are aligned to the right, and so are the columns named in ``right``; ``formats`` are
    format specifications by column (``.3f``), ``headings`` different texts above the columns. Long
    texts are folded to the width; numbers are not. Without rows the text is empty.
    """
    if not rows:
        return ""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    formats, headings = formats or {}, headings or {}
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=header)
    cells: list[list[str]] = []
    for name in columns(rows):
        values = [row.get(name) for row in rows]
        texts = [cell(value, formats.get(name), DASH) for value in values]
        number = name in right or any(map(is_number, values))
        title = headings.get(name, heading(name))
        table.add_column(
            Text(title), justify="right" if number else "left", header_style="", overflow="fold",
            min_width=max(map(_width, [title * header, *texts])) if number else None,
        )  # fmt: skip
        cells.append(texts)
    for line in zip(*cells, strict=True):
        table.add_row(*map(Text, line))
    console = Console(
        file=StringIO(), width=10_000, color_system=None, force_terminal=False, force_jupyter=False,
        legacy_windows=False,
    )  # fmt: skip
    needed = Measurement.get(console, console.options, table).minimum
    lines = console.render_lines(
        table, console.options.update_width(max(WIDTH - indent, needed)), pad=False
    )
    texts = ["".join(part.text for part in line) for line in lines]
    return "\n".join(f"{' ' * indent}{text}".rstrip() for text in texts)


def _width(text: str) -> int:
    return max(map(len, text.splitlines()), default=0)


def columns(rows: Iterable[Mapping[str, Json]]) -> list[str]:
    """The names of all columns, in the order in which rows have them."""
    return list(dict.fromkeys(name for row in rows for name in row))


def heading(name: str) -> str:
    """The text above a column."""
    return name.replace("_", " ")


def is_number(value: object) -> bool:
    """Whether the value is a number, which is aligned to the right."""
    return isinstance(value, Real) and not isinstance(value, bool)


def cell(value: object, format: str | None = None, undefined: str = "") -> str:
    """The text of a value, by a format specification if there is one; else fractions have three
    digits."""
    if value is None or value != value:  # nan
        return undefined
    if format is not None and is_number(value):
        return f"{value:{format}}"
    if isinstance(value, Real) and not isinstance(value, Integral):
        size = abs(float(value))
        return f"{value:.3f}" if size >= 0.01 or size == 0 else f"{value:.2g}"
    return str(value)
