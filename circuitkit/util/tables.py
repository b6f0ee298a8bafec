"""Tables: rows as a pandas frame, as CSV, and as text for a terminal.

A row maps column names to values. An undefined value (nan, None, or missing) is an empty cell in
CSV and on pages, and a dash in text. pandas and rich take time to import, so functions import them.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import product, takewhile
from numbers import Integral, Real
from typing import TYPE_CHECKING

from circuitkit.util.json_values import Json

if TYPE_CHECKING:
    import pandas

__all__ = ["DASH", "WIDTH", "as_html", "as_text", "cell", "columns", "heading", "is_number",
           "to_csv", "to_frame"]  # fmt: skip

WIDTH = 80  # of text, unless numbers need more
_GAP = 2  # signs between columns
_FEWEST, _MOST = 10, 30  # signs of a column of texts, which is folded beside wide numbers
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
    texts and, where that is enough, headings are folded to the width; numbers are not. What is too
    wide even so becomes several tables, each with the texts on the left. Without rows the text is
    empty.
    """
    if not rows:
        return ""
    formats, headings = formats or {}, headings or {}
    held = []
    for name in columns(rows):
        values = [row.get(name) for row in rows]
        texts = [cell(value, formats.get(name), DASH) for value in values]
        number = name in right or any(map(is_number, values))
        held.append(_Column(headings.get(name, heading(name)) if header else "", texts, number))
    room = WIDTH - indent
    ways = product((True, False), (False, True))  # headings are folded before short texts
    fitting = [folded for whole, folded in ways if _least(held, folded, whole) <= room]
    folded = fitting[0] if fitting else True
    parts = [held] if fitting or not header else _parts(held, room)
    lines = [line for own in parts for line in ["", *_lines(own, header, folded, room)]]
    return "\n".join(f"{' ' * indent * bool(line)}{line}".rstrip() for line in lines[1:])


@dataclass(frozen=True)
class _Column:
    title: str
    texts: list[str]
    number: bool

    def least(self, folded: bool, whole: bool = False) -> int:
        """The fewest signs that it can be wide, with the heading of numbers ``folded``, and short
        texts ``whole`` or at their words."""
        if not self.number:
            texts = [self.title, *self.texts]
            words = texts if whole else [word for text in texts for word in text.split()]
            return min(_MOST, max(map(_width, words), default=0))
        title = max(map(len, self.title.split()), default=0) if folded else _width(self.title)
        return max([title, *map(_width, self.texts)])


def _least(held: Sequence[_Column], folded: bool = False, whole: bool = False) -> int:
    """The fewest signs that a table can be wide."""
    return sum(own.least(folded, whole) + _GAP for own in held) - _GAP


def _parts(held: list[_Column], room: int) -> list[list[_Column]]:
    """The columns as tables that fit, each with the texts on the left."""
    labels = list(takewhile(lambda own: not own.number, held))
    parts = [[*labels]]
    for own in held[len(labels) :]:
        if len(parts[-1]) > len(labels) and _least([*parts[-1], own], folded=True) > room:
            parts.append([*labels])
        parts[-1].append(own)
    return parts


def _widths(held: Sequence[_Column], folded: bool, room: int) -> list[int]:
    """The signs of each column: what numbers need, and of texts what is left, evenly: the widest
    are folded first, at words where that is enough."""
    widths = [
        own.least(folded) if own.number else max(map(_width, (own.title, *own.texts)))
        for own in held
    ]
    for least in (_MOST, _FEWEST):
        while sum(widths) + _GAP * (len(held) - 1) > room:
            wide = [
                i for i, own in enumerate(held)
                if not own.number and widths[i] > min(least, max(own.least(folded), _FEWEST))
            ]  # fmt: skip
            if not wide:
                break
            widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _lines(held: Sequence[_Column], header: bool, folded: bool, room: int) -> Iterator[str]:
    """The lines of one table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, show_header=header)
    for own, width in zip(held, _widths(held, folded, room), strict=True):
        table.add_column(
            Text(own.title), justify="right" if own.number else "left", header_style="",
            overflow="fold", width=width,
        )  # fmt: skip
    for line in zip(*(own.texts for own in held), strict=True):
        table.add_row(*map(Text, line))
    console = Console(
        file=StringIO(), width=10_000, color_system=None, force_terminal=False, force_jupyter=False,
        legacy_windows=False,
    )  # fmt: skip
    for parts in console.render_lines(table, console.options, pad=False):
        yield "".join(part.text for part in parts).rstrip()


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
