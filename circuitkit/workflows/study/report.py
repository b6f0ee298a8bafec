"""A study as one HTML page: a short summary, then each question with its figures, what they show,
and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from circuitkit.util.tables import cell, heading
from circuitkit.workflows.reports import (
    Box,
    Picture,
    Report,
    Section,
    Table,
    table_of,
    written,
)
from circuitkit.workflows.study.about import (
    advice,
    described,
    least,
    runs,
    samples,
    title,
    versions,
)
from circuitkit.workflows.study.captions import TABLES, of_figure
from circuitkit.workflows.study.findings import findings
from circuitkit.workflows.study.records import Records
from circuitkit.workflows.study.tables import Row
from circuitkit.workflows.study.verdicts import Verdict, verdicts

__all__ = ["page"]

SOURCE = "questions and sections (§) are those of Zhang & Nanda 2024 (arXiv:2309.16042)"
MARKS = {True: "depends on the choice", False: "not shown to depend on the choice"}
UNKNOWN = ("stderr", "low", "high", "within", "between", "p")  # columns


class Part(NamedTuple):
    """A section as it is planned: its anchor, its title, what it says, and what stands in it."""

    name: str
    title: str
    text: str
    figures: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()


PARTS = (
    Part(
        "found", "What each corruption and metric finds",
        "Each component's output alone is taken from the other run. Found are those whose mean "
        "effect lies beyond the threshold, in standard deviations from the mean over all "
        "components of their kind (§3.1).",
        ("heads", "mlps", "thresholds"), ("detected", "floor"), ("Is there anything to find?",),
    ),
    Part(
        "corruptions", "How far corruptions disagree",
        "What two corruptions find under one metric, and in which order they put all components, "
        "beside what one choice finds on other prompts.",
        ("agreement", "ranks"), ("corruptions",),
        ("Does noise find what replacement finds?",
         "What does corrupting different tokens trace?"),
    ),
    Part(
        "metrics", "How far metrics disagree",
        "The same for two metrics under one corruption.", (), ("metrics",),
        ("Do the metrics find the same?", "Does the sign hold?"),
    ),
    Part(
        "negatives", "What probability misses",
        "A probability cannot fall below zero, so no component can lower it by more than what the "
        "corrupted prompts leave of it, P(r): where that is less than the threshold, components "
        "that hurt go unseen (§4.2).",
        (), ("negatives",), ("Does probability miss components that hurt?",),
    ),
    Part(
        "windows", "What windows add",
        "Adjacent MLPs are taken from the other run together, beside the sum of what each does "
        "alone (§5).",
        ("windows",), ("windows",),
        ("Do windows inflate the peak?", "Does noise sharpen the peak?"),
    ),
    Part(
        "tokens", "What each corruption traces",
        "The residual stream before a layer is patched at some tokens only: where the difference "
        "that the corruption makes stands, and until when (appendix F).",
        ("stream", "prompt"), ("tokens",),
    ),
    Part(
        "attention", "Is noise off-distribution?",
        "Where heads look from the last token, and what they do when they are all patched at once: "
        "a corruption that leaves the model on its distribution changes what the heads see, not "
        "how they work (§3.2).",
        (), ("attention", "restored"), ("Is noise off-distribution?",),
    ),
    Part(
        "circuits", "Are circuits robust?", "", ("circuits",),
        ("choices", "circuits", "circuit_overlap", "circuit_floor"),
        ("Are circuits robust?", "Do choices find different circuits?"),
    ),
)  # fmt: skip
UNASKED = PARTS[0].questions  # no two choices are compared
ASKED = MappingProxyType({question: part.name for part in PARTS for question in part.questions})


def page(
    study: Records,
    rows: Mapping[str, list[Row]],
    drawn: Mapping[str, tuple[str, str]],
    beside: str = "",
) -> str:
    """The page, with the tables' rows and of each figure the title and the SVG; ``beside`` is the
    file with the circuits, where the page is saved beside it."""
    found = sorted(verdicts(study), key=lambda verdict: not verdict.depends)
    placed = [(verdict, ASKED.get(verdict.question, PARTS[0].name)) for verdict in found]
    sections = [_runs(study)]
    for part in PARTS:
        own = [verdict for verdict, where in placed if where == part.name]
        sections.append(_section(study, part, own, rows, drawn, beside))
    sections += [_judged(study), _advised(found)]
    return written(
        Report(
            title=f"{title(study)}: what activation patching finds",
            about=f"{described(study)} · {SOURCE}",
            summary=findings(study, [own for own in placed if own[0].question not in UNASKED]),
            sections=[section for section in sections if not section.empty],
            foot=f"{versions(study)} · one file; it loads nothing",
        )
    )


def _section(
    study: Records, part: Part, found: Sequence[Verdict], rows: Mapping[str, list[Row]],
    drawn: Mapping[str, tuple[str, str]], beside: str,
) -> Section:  # fmt: skip
    own = part.name == "circuits" and study.circuits is not None
    figures = [
        Picture(name, *drawn[name], of_figure(study, name))
        for name in part.figures if name in drawn
    ]  # fmt: skip
    tables = [_table(study, name, rows[name]) for name in part.tables if name in rows]
    boxes = [
        Box(one.question, one.text, _mark(one), one.depends)
        for one in found
    ]  # fmt: skip
    paragraphs = [_measured(study)] if own else [part.text]
    linked = (beside, "The first two circuits, to look into") if own and beside else None
    return Section(part.name, part.title, paragraphs, figures, boxes, tables, file=linked)


def _mark(verdict: Verdict) -> str:
    """Whether it depends on the choice; nothing of what is not compared."""
    return "" if verdict.question in UNASKED else MARKS[verdict.depends]


def _table(study: Records, name: str, rows: Sequence[Row]) -> Table:
    return table_of(
        name, rows, TABLES[name], text=_cell, file=f"{name}.csv",
        headings=lambda column: column if column in study.metrics else heading(column),
    )  # fmt: skip


def _cell(name: str, value: object) -> str:
    """A cell of a column; what cannot be known of an error, an interval or a floor is said."""
    return cell(value, undefined="not known" if name in UNKNOWN else "")


def _runs(study: Records) -> Section:
    caption = "The mean of each metric in the clean and in the corrupted runs, in its own unit."
    told = table_of("runs", runs(study), caption, headings=str)
    text = (
        "Every effect on this page is a change between these two runs; the difference between "
        "the clean and the corrupted one is the gap. Higher is better for every metric."
    )
    return Section("runs", "The two runs", [text], tables=[told])


def _measured(study: Records) -> str:
    """How circuits were found and measured."""
    inside = bool(study.about.get("in_sample"))
    where = "" if inside else " on one half of the prompts"
    other = "the same prompts, in sample," if inside else "the other half"
    return (
        f"Circuits found under each corruption and metric{where}, and their faithfulness on "
        f"{other} under every choice: by cutting edges or all that a component writes, as the "
        "ratio of means or the mean of ratios."
    )


def _judged(study: Records) -> Section:
    """How it is decided whether a conclusion depends on the choice."""
    known = samples(study) > 1
    floor = (
        f" With {samples(study)} samples p is at least {least(study)}." if known
        else " Here that is not known, for there is one sample alone."
    )  # fmt: skip
    points = [
        "A conclusion depends on the choice where two choices differ beyond resampling, by more "
        "than one choice differs from itself on other prompts.",
        "Two choices find different components where their finds on two samples overlap less than "
        "those of one choice do, and less than under nearly all other ways to part the same finds "
        f"into two groups (p).{floor} The comparisons of one question share a false discovery rate "
        "of 5 % (Benjamini & Hochberg).",
        "Numbers differ where the 95 % bootstrap interval of their difference or ratio, over the "
        "examples, says so.",
        "“Not shown” does not say that two choices are the same.",
    ]
    return Section("judged", "How this was judged", [], points=points)


def _advised(found: Sequence[Verdict]) -> Section:
    text = "What applies of the recommendations of Zhang & Nanda (§6):"
    return Section("advice", "Recommendations", [text], points=advice(found))
