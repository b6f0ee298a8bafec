"""Prompts as they are shown: in a few lines, and as the rows of a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from reprlib import Repr
from textwrap import wrap

from circuitkit.util.tables import to_frame

__all__ = [
    "ANSWERS",
    "IN_HTML",
    "Shown",
    "as_html",
    "as_lines",
    "cited",
    "quoted",
    "row",
    "standing",
]

WIDTH = 100  # characters of a line
SHOWN = 3  # prompts in a text
IN_HTML = 10  # rows on a page
ANSWERS = 3  # of each kind, before the rest is counted
_SHORTENED = Repr()
_SHORTENED.maxstring = 120


@dataclass(frozen=True)
class Shown:
    """A prompt as texts: its own, or those that its tokens decode to."""

    clean: str
    corrupt: str | None
    correct: Sequence[str]
    wrong: Sequence[str]
    spans: Mapping[str, str]
    corruptions: Mapping[str, str]
    # of the spans, if known; and of those of the corrupted text, where it has its own
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    others: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def cited(text: str) -> str:
    """The text between quotes, without the middle of a long one."""
    return _SHORTENED.repr(text)


def row(shown: Shown, exact: bool = True) -> dict[str, str]:
    """The prompt as a row of a table: the columns of a CSV file of prompts, then the spans and the
    further corrupted texts. An ``exact`` one has the range of a span whose text stands there more
    than once."""
    corrupt = shown.corrupt or ""
    return {
        "clean": shown.clean,
        "corrupt": corrupt,
        "correct": "|".join(shown.correct),
        "wrong": "|".join(shown.wrong),
        **{
            f"span_{name}": _cell(text, shown.clean, exact, shown.ranges.get(name))
            for name, text in shown.spans.items()
        },
        **{
            f"corrupt_span_{name}": _cell(corrupt[a:b], corrupt, exact, (a, b))
            for name, (a, b) in shown.others.items()
        },
        **{f"corrupt_{name}": text for name, text in shown.corruptions.items()},
    }


def _cell(text: str, whole: str, exact: bool, where: tuple[int, int] | None) -> str:
    """The text of a span, or its range."""
    if not exact or where is None or standing(text, whole) == [where]:
        return text
    return f"{where[0]}:{where[1]}"


def standing(text: str, clean: str) -> list[tuple[int, int]]:
    """Where whole words of the clean text are this text, with the space before them."""
    before = r"(?<!\w)" if text[:1].isalnum() else ""
    after = r"(?!\w)" if text[-1:].isalnum() else ""
    starts = [one.start() for one in re.finditer(f"(?={before}{re.escape(text)}{after})", clean)]
    spaces = [clean[:start].endswith(" ") and text[:1] != " " for start in starts]
    return [(at - space, at + len(text)) for at, space in zip(starts, spaces, strict=True)]


def as_lines(prompts: Sequence[Shown], total: int) -> Iterator[str]:
    """The first prompts, at most five lines each, and how many more there are."""
    for number, shown in enumerate(prompts[:SHOWN]):
        wrong = f", not {quoted(shown.wrong)}" if shown.wrong else ""
        yield f"{number:>3}  clean    {_cut(repr(shown.clean))}"
        if shown.corrupt is not None:
            yield f"     corrupt  {_cut(repr(shown.corrupt))}"
        yield f"     answer   {_cut(quoted(shown.correct) + wrong)}"
        if shown.spans:
            first, *more = _folded(f"{name} {text!r}" for name, text in shown.spans.items())
            yield f"     spans    {first}"
            yield from (f"{'':14}{line}" for line in more)
    if total > SHOWN:
        yield f"     ... and {total - SHOWN:,} more"


def quoted(answers: Sequence[str]) -> str:
    """The first of several answers, and how many more there are."""
    shown, more = answers[:ANSWERS], len(answers) - ANSWERS
    return ", ".join(map(repr, shown)) + (f" and {more} more" if more > 0 else "")


def as_html(title: str, prompts: Iterable[Shown], total: int) -> str:
    """The title above a table of the prompts, as HTML."""
    frame = to_frame([row(shown, exact=False) for shown in prompts])
    more = f"<p>... and {total - IN_HTML:,} more</p>" if total > IN_HTML else ""
    table: str = frame.to_html(na_rep="")
    return f"<p>{escape(title)}</p>{table}{more}"


def _folded(items: Iterable[str]) -> list[str]:
    """The items on at most two lines, none of them broken."""
    whole = ", ".join(item.replace(" ", "\N{NO-BREAK SPACE}") for item in items)
    lines = wrap(whole, WIDTH - 14, max_lines=2, placeholder=" ...")
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _cut(text: str) -> str:
    """The text without its middle if it does not fit into a line."""
    room = WIDTH - 14
    if len(text) <= room:
        return text
    return f"{text[: room // 2 - 3]} ... {text[3 - room // 2 :]}"
