"""A run as one HTML page that needs no network: a short summary, the contents, and sections, in
which numbered figures come before what they show, and the tables last.

What a page says is text: names of tasks, models and roles, which may come from files, are escaped,
and the page's own policy forbids every script and request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from circuitkit.util.json_values import Json
from circuitkit.util.tables import cell, columns, heading, is_number
from circuitkit.util.templates import render

__all__ = ["Box", "Cell", "Picture", "Report", "Said", "Section", "Table", "table_of", "written"]

LONG = 24  # rows from which on a table is folded


class Cell(NamedTuple):
    """A cell of a table; numbers are aligned right."""

    text: str
    number: bool = False
    strong: bool = False


class Said(NamedTuple):
    """A sentence of the summary, and the names of the figures and of the sections it is of."""

    text: str
    figures: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A figure: its name (its file is ``NAME.svg``), and what its caption says is drawn, in which
    unit and with which sign."""

    name: str
    title: str
    svg: str
    caption: str
    number: int = 0

    @property
    def file(self) -> str:
        """The file that holds it, in the folder of the run."""
        return f"{self.name}.svg"


@dataclass(frozen=True)
class Table:
    """A table: its name, what it shows, and the file that holds it where there is one."""

    name: str
    heads: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    caption: str
    file: str = ""
    number: int = 0


class Box(NamedTuple):
    """What is concluded of a question; ``marked`` where it is to be looked at, which ``mark`` says
    in words."""

    question: str
    text: str
    mark: str = ""
    marked: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page; ``name`` is its anchor, ``file`` another page beside it, and what that
    is."""

    name: str
    title: str
    paragraphs: Sequence[str]
    figures: Sequence[Picture] = ()
    boxes: Sequence[Box] = ()
    tables: Sequence[Table] = ()
    points: Sequence[str] = ()
    file: tuple[str, str] | None = None
    see: Sequence[tuple[str, str]] = field(default=())

    @property
    def empty(self) -> bool:
        """Whether there is nothing to be shown in it."""
        return not (self.figures or self.boxes or self.tables or self.points)


@dataclass(frozen=True)
class Report:
    """What is on a page; ``findings`` is a small table below the sentences of the summary, and
    ``foot`` says what the page was made with."""

    title: str
    about: str
    summary: Sequence[Said]
    sections: Sequence[Section]
    foot: str
    findings: Table | None = None


def written(report: Report) -> str:
    """The page. Figures and tables are numbered in their order, and every section says which are
    its own."""
    first = 1 if report.findings is None else 2
    sections = list(_numbered(report.sections, first))
    findings = None if report.findings is None else replace(report.findings, number=1)
    drawn = {own.name: _link("figure", own.number) for one in sections for own in one.figures}
    parts = {section.name: (f"#{section.name}", section.title) for section in sections}
    summary = [
        (said.text, [drawn[n] for n in said.figures if n in drawn]
         + [parts[n] for n in said.sections if n in parts])
        for said in report.summary
    ]  # fmt: skip
    page = replace(report, sections=sections, findings=findings)
    return render("workflows/report.html.jinja", page=page, summary=summary, folded=LONG)


def _numbered(sections: Iterable[Section], first: int) -> Iterator[Section]:
    """The sections with their figures and tables numbered, and what they refer to."""
    figures, tables = 1, first
    for section in sections:
        drawn = [replace(own, number=figures + i) for i, own in enumerate(section.figures)]
        told = [replace(own, number=tables + i) for i, own in enumerate(section.tables)]
        figures, tables = figures + len(drawn), tables + len(told)
        see = [_link("figure", own.number) for own in drawn]
        see += [_link("table", own.number) for own in told]
        yield replace(section, figures=drawn, tables=told, see=see)


def _link(kind: str, number: int) -> tuple[str, str]:
    """Where a figure or a table is, and what it is called."""
    return f"#{kind}-{number}", f"{kind.capitalize()}\u00a0{number}"


def table_of(
    name: str,
    rows: Sequence[Mapping[str, Json]],
    caption: str,
    *,
    text: Callable[[str, Json], str] = lambda name, value: cell(value),
    headings: Callable[[str], str] = heading,
    file: str = "",
) -> Table:
    """The rows as a table: columns that hold a number are aligned right."""
    names = columns(rows)
    right = {one for one in names if any(is_number(row.get(one)) for row in rows)}
    heads = [Cell(headings(one), one in right) for one in names]
    cells = [[Cell(text(one, row.get(one)), one in right) for one in names] for row in rows]
    return Table(name, heads, cells, caption, file)
