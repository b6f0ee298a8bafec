"""A study as one HTML page that needs no network, as files, and as a summary for the terminal."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from circuitkit.util.atomic import write_whole
from circuitkit.util.tables import WIDTH, as_text, to_csv
from circuitkit.viz.viewer.page import page as page_of
from circuitkit.workflows.folders import filled
from circuitkit.workflows.study import about, report
from circuitkit.workflows.study.floor import chosen_again
from circuitkit.workflows.study.pictures import figures
from circuitkit.workflows.study.records import KINDS, Records
from circuitkit.workflows.study.tables import detected, tables
from circuitkit.workflows.study.verdicts import verdicts

__all__ = ["page", "save", "summary"]

VIEWED = "circuits.html"


# -- files -----------------------------------------------------------------------------------------
def page(study: Records) -> str:
    """One HTML page: a short summary, then each question with its figures and tables."""
    return report.page(study, tables(study), _drawn(study))


def _drawn(study: Records) -> dict[str, tuple[str, str]]:
    """The title of each figure, and the figure as SVG."""
    return {name: (figure.title, figure.svg()) for name, figure in figures(study).items()}


def _viewed(study: Records) -> str:
    """The page of the first circuit, overlaid with the second; empty without circuits."""
    found = list(study.circuits.circuits.values()) if study.circuits else []
    return page_of(found[0], beside=found[1] if len(found) > 1 else None) if found else ""


def save(study: Records, directory: str | os.PathLike[str], overwrite: bool = False) -> list[Path]:
    """The page as ``report.html``, a page to look into the first circuits that were found
    (``circuits.html``), each table as CSV, each figure as SVG; returns the files."""
    rows, drawn, viewed = tables(study), _drawn(study), _viewed(study)
    texts = {"report.html": report.page(study, rows, drawn, VIEWED if viewed else "")}
    if viewed:
        texts[VIEWED] = viewed
    texts |= {f"{name}.csv": to_csv(own) for name, own in rows.items()}
    texts |= {f"{name}.svg": picture for name, (_, picture) in drawn.items()}
    with filled(directory, "study", overwrite) as new:
        for name, text in texts.items():
            write_whole(new / name, text)
    return [Path(directory) / name for name in texts]


# -- the terminal ----------------------------------------------------------------------------------
def summary(study: Records) -> str:
    """The runs, what each choice finds, and what depends on it."""
    lines = [f"{about.title(study)}: what activation patching finds"]
    lines += [*textwrap.wrap(about.described(study), WIDTH), ""]
    lines.append(as_text(about.runs(study), headings={m: m for m in study.metrics}, indent=2))
    for kind in study.kinds:
        shown = [
            {k: row[k] for k in ("corruption", "metric", "help", "hurt")}
            | _found_again(study, (kind, row["corruption"], row["metric"]))
            for row in detected(study)
            if row["nodes"] == kind
        ]
        title = f"{KINDS[kind]} found"
        lines += ["", title, as_text(shown, formats={"again": ".2f"}, indent=2)]
    found = verdicts(study)
    titles = {True: "What depends on the choice", False: "What is not shown to depend on it"}
    for depends, title in titles.items():
        texts = [verdict.text for verdict in found if verdict.depends == depends]
        lines += ["", title, *_wrapped(texts)] if texts else []
    if advice := about.advice(found):
        lines += ["", "What applies of the paper's recommendations", *_wrapped(advice)]
    return "\n".join(lines)


def _found_again(study: Records, key: tuple[str, str, str]) -> dict[str, float]:
    """How alike what the choice finds is on two samples, where there are any."""
    return {"again": chosen_again(study, key)} if study.again else {}


def _wrapped(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from textwrap.wrap(text, WIDTH, initial_indent="  · ", subsequent_indent="    ")
