"""A study as one HTML page that needs no network, as files, and as a summary for the terminal."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from circuitkit.graph.separation import smallest_p
from circuitkit.util.atomic import write_whole
from circuitkit.util.tables import WIDTH, as_text, cell, columns, heading, is_number, to_csv
from circuitkit.util.templates import render
from circuitkit.viz.viewer.page import page as page_of
from circuitkit.workflows.folders import filled
from circuitkit.workflows.study.floor import chosen_again
from circuitkit.workflows.study.pictures import figures
from circuitkit.workflows.study.records import Records
from circuitkit.workflows.study.tables import Row, detected, tables
from circuitkit.workflows.study.verdicts import Verdict, verdicts

__all__ = ["page", "save", "summary"]

UNKNOWN = ("stderr", "low", "high", "within", "between", "p")  # columns
LONG = 24  # rows from which on a table is folded


# -- the page --------------------------------------------------------------------------------------
def page(study: Records) -> str:
    """One HTML page: the verdicts first, then each question with its tables and figures."""
    return _page(study, tables(study), _drawn(study))


def _drawn(study: Records) -> dict[str, str]:
    return {name: figure.svg() for name, figure in figures(study).items()}


def _page(study: Records, rows: Mapping[str, list[Row]], drawn: Mapping[str, str]) -> str:
    found = sorted(verdicts(study), key=lambda verdict: not verdict.depends)
    return render(
        "workflows/study/report.html.jinja",
        title=_title(study), about=_about(study), versions=_versions(study), verdicts=found,
        advice=_advice(found), runs=_runs(study), tables=rows, pictures=drawn, folded=LONG,
        columns=columns, is_number=is_number, text=_cell,
        heading=lambda name: name if name in study.metrics else heading(name),
        in_sample=bool(study.about.get("in_sample")), samples=_samples(study), least=_least(study),
    )  # fmt: skip


def _cell(name: str, value: object) -> str:
    """A cell of a column; what cannot be known of an error, an interval or a floor is said."""
    return cell(value, undefined="not known" if name in UNKNOWN else "")


def _title(study: Records) -> str:
    return f"{study.about['task']} on {study.about['model']}"


def _about(study: Records) -> str:
    """What was studied."""
    about = study.about
    direction = {"denoise": "clean into corrupted runs", "noise": "corrupted into clean runs"}
    parts = [
        f"{about['examples']} of {about['prompts']} prompts",
        f"those with {about['only']} above 1/2" if about["only"] else "all",
        "each pair in both directions" if about["both_ways"] else "",
        direction[about["direction"]],
        f"seed {about['seed']}",
        _sampled(study),
        "positive effects help the clean behaviour",
        _unpaired(about),
        "circuits are measured in sample" if about.get("in_sample") else "",
    ]
    return " · ".join(part for part in parts if part)


def _samples(study: Records) -> int:
    return max(map(len, study.again.values()), default=0)


def _least(study: Records) -> str:
    """The smallest p that so many samples can give; empty where there are none."""
    return "" if _samples(study) < 2 else f"{smallest_p(_samples(study)):.2g}"


def _sampled(study: Records) -> str:
    """How many samples of which size give the noise floor."""
    sizes = study.about.get("samples", ())
    if len(sizes) < 2:
        return ""
    low, high = min(sizes), max(sizes)
    of = f"{low}" if low == high else f"{low} to {high}"
    return f"noise floor from {len(sizes)} disjoint samples of {of}"


def _unpaired(about: Mapping[str, Any]) -> str:
    """How many prompts have no corrupted text, and so which corruptions are the usual ones."""
    n = about.get("unpaired")
    return f"{n} without a corrupted text, so by default under mean and noise" if n else ""


def _versions(study: Records) -> str:
    return ", ".join(f"{name} {version}" for name, version in study.about["versions"].items())


def _runs(study: Records) -> list[dict[str, Any]]:
    """Each metric in the clean and the corrupted runs."""
    rows: list[dict[str, Any]] = [
        {"run": "clean", **{m: float(study.clean[m].mean()) for m in study.metrics}}
    ]
    for corruption in study.corruptions:
        values = {m: float(study.corrupted[corruption, m].mean()) for m in study.metrics}
        rows.append({"run": corruption, **values})
    return rows


def _advice(found: Iterable[Verdict]) -> list[str]:
    """The recommendations that apply, each once."""
    return list(dict.fromkeys(verdict.advice for verdict in found if verdict.advice))


def _viewed(study: Records) -> str:
    """The page of the first circuit, overlaid with the second; empty without circuits."""
    found = list(study.circuits.circuits.values()) if study.circuits else []
    return page_of(found[0], beside=found[1] if len(found) > 1 else None) if found else ""


# -- files -----------------------------------------------------------------------------------------
def save(study: Records, directory: str | os.PathLike[str], overwrite: bool = False) -> list[Path]:
    """The page as ``report.html``, a page to look into the first circuits that were found
    (``circuits.html``), each table as CSV, each figure as SVG; returns the files."""
    rows, drawn = tables(study), _drawn(study)
    texts = {"report.html": _page(study, rows, drawn)}
    if viewed := _viewed(study):
        texts["circuits.html"] = viewed
    texts |= {f"{name}.csv": to_csv(own) for name, own in rows.items()}
    texts |= {f"{name}.svg": picture for name, picture in drawn.items()}
    with filled(directory, "study", overwrite) as new:
        for name, text in texts.items():
            write_whole(new / name, text)
    return [Path(directory) / name for name in texts]


# -- the terminal ----------------------------------------------------------------------------------
def summary(study: Records) -> str:
    """The runs, what each choice finds, and what depends on it."""
    lines = [f"{_title(study)}: what activation patching finds"]
    lines += [*textwrap.wrap(_about(study), WIDTH), ""]
    lines.append(as_text(_runs(study), headings={m: m for m in study.metrics}, indent=2))
    for kind in study.kinds:
        shown = [
            {k: row[k] for k in ("corruption", "metric", "help", "hurt")}
            | _found_again(study, (kind, row["corruption"], row["metric"]))
            for row in detected(study)
            if row["nodes"] == kind
        ]
        title = f"{ {'z': 'heads', 'mlp_out': 'MLPs'}[kind] } found"
        lines += ["", title, as_text(shown, formats={"again": ".2f"}, indent=2)]
    found = verdicts(study)
    titles = {True: "What depends on the choice", False: "What is not shown to depend on it"}
    for depends, title in titles.items():
        texts = [verdict.text for verdict in found if verdict.depends == depends]
        lines += ["", title, *_wrapped(texts)] if texts else []
    if advice := _advice(found):
        lines += ["", "What applies of the paper's recommendations", *_wrapped(advice)]
    return "\n".join(lines)


def _found_again(study: Records, key: tuple[str, str, str]) -> dict[str, float]:
    """How alike what the choice finds is on two samples, where there are any."""
    return {"again": chosen_again(study, key)} if study.again else {}


def _wrapped(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from textwrap.wrap(text, WIDTH, initial_indent="  · ", subsequent_indent="    ")
