"""A study as one HTML page that needs no network, as files, and as a summary for the terminal."""

from __future__ import annotations

import csv
import html
import io
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from circuitkit.util.atomic import write_whole
from circuitkit.workflows.study.pictures import figures
from circuitkit.workflows.study.records import Records
from circuitkit.workflows.study.tables import Row, detected, tables
from circuitkit.workflows.study.verdicts import Verdict, verdicts

__all__ = ["as_text", "page", "save", "summary"]

WIDTH = 100  # of the terminal

# The sections in their order: title, what it says, its tables, its figures.
SECTIONS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "What each corruption and metric finds",
        "Each component's output alone is taken from the other run (denoising: from the clean into "
        "the corrupted one). Found are those whose mean effect lies beyond the threshold, in "
        "standard deviations from the mean over all components of their kind (§3.1 of the paper).",
        ("detected",),
        ("heads", "mlps", "thresholds"),
    ),
    (
        "How far corruptions disagree",
        "What both find and what only one finds, the Jaccard index beside that of random sets, the "
        "rank correlation of the effects of all components, and components whose effects differ in "
        "sign.",
        ("corruptions",),
        ("agreement",),
    ),
    (
        "How far metrics disagree",
        "The same for two metrics under one corruption.",
        ("metrics",),
        (),
    ),
    (
        "What probability misses",
        "A probability cannot fall below zero, so no component can lower it by more than what the "
        "corrupted prompts leave of it, P(r): where that is less than the threshold, components "
        "that hurt go unseen (§4.2).",
        ("negatives",),
        (),
    ),
    (
        "What windows add",
        "Adjacent MLPs taken from the clean run together, beside the sum of what each does alone "
        "(§5).",
        ("windows",),
        ("windows",),
    ),
    (
        "What each corruption traces",
        "The share of the gap that the residual stream before a layer gives back, when it is clean "
        "at some tokens only: where the difference that the corruption makes stands, and until "
        "when (appendix F).",
        ("tokens",),
        ("stream", "prompt"),
    ),
    (
        "Is noise off-distribution?",
        "Where heads look from the last token, and what they give back when they are all clean at "
        "once: a corruption that leaves the model on its distribution changes what the heads see, "
        "not how they work (§3.2).",
        ("attention", "restored"),
        (),
    ),
    (
        "Are circuits robust?",
        "Circuits found under each corruption and metric on one half of the prompts, and their "
        "faithfulness on the other half under every choice: by cutting edges or all that a "
        "component writes, as the ratio of means or the mean of ratios.",
        ("choices", "circuits", "circuit_overlap"),
        ("circuits",),
    ),
)
STYLE = """
body{font:15px/1.5 Helvetica,Arial,'Liberation Sans',sans-serif;color:#222;max-width:1080px;
margin:2rem auto;padding:0 1.2rem}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.6rem;
border-top:1px solid #ddd;padding-top:1rem}
.told{color:#666}.verdict{margin:.45rem 0;padding:.35rem .8rem;border-left:4px solid #bbb}
.verdict.depends{border-color:#d55e00;background:#fdf4ee}
table{border-collapse:collapse;font-size:12.5px;margin:1rem 0}
th,td{padding:.22rem .55rem;text-align:left;border-bottom:1px solid #e5e5e5;vertical-align:top}
th{border-bottom:1px solid #888;position:sticky;top:0;background:#fff}
td.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.wide{overflow-x:auto}figure{margin:1.2rem 0;overflow-x:auto}svg{max-width:100%;height:auto}
summary{cursor:pointer;color:#0072b2}
"""


# -- the page --------------------------------------------------------------------------------------
def page(study: Records) -> str:
    """One HTML page: the verdicts first, then each question with its tables and figures."""
    return _page(study, tables(study), _drawn(study))


def _drawn(study: Records) -> dict[str, str]:
    return {name: figure.svg() for name, figure in figures(study).items()}


def _page(study: Records, rows: Mapping[str, list[Row]], drawn: Mapping[str, str]) -> str:
    title = f"{study.about['task']} on {study.about['model']}"
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f"<style>{STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}: what activation patching finds</h1>",
        f'<p class="told">{html.escape(_told(study))}<br>{html.escape(_versions(study))}</p>',
        "<h2>What depends on the choice</h2>",
        *_verdicts(study),
        "<h2>The two runs</h2>",
        _table(_plain(study)),
    ]
    for heading, text, names, pictures in SECTIONS:
        shown = [_table(rows[name]) for name in names if name in rows]
        shown += [f"<figure>{drawn[name]}</figure>" for name in pictures if name in drawn]
        if shown:
            parts += [f"<h2>{heading}</h2>", f"<p>{html.escape(text)}</p>", *shown]
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _told(study: Records) -> str:
    """What was studied."""
    about = study.about
    direction = {"denoise": "clean into corrupted runs", "noise": "corrupted into clean runs"}
    parts = [
        f"{about['examples']} of {about['prompts']} prompts",
        f"those with {about['only']} above 1/2" if about["only"] else "all",
        "each pair in both directions" if about["both_ways"] else "",
        direction[about["direction"]],
        f"seed {about['seed']}",
        "positive effects help the clean behaviour",
    ]
    return " · ".join(part for part in parts if part)


def _versions(study: Records) -> str:
    return ", ".join(f"{name} {version}" for name, version in study.about["versions"].items())


def _plain(study: Records) -> list[dict[str, Any]]:
    """Each metric in the clean and the corrupted runs."""
    rows: list[dict[str, Any]] = [
        {"run": "clean", **{m: float(study.clean[m].mean()) for m in study.metrics}}
    ]
    for corruption in study.corruptions:
        values = {m: float(study.corrupted[corruption, m].mean()) for m in study.metrics}
        rows.append({"run": corruption, **values})
    return rows


def _verdicts(study: Records) -> Iterator[str]:
    """What depends on the choice, what does not, and what the paper then recommends."""
    found = sorted(verdicts(study), key=lambda verdict: not verdict.depends)
    for verdict in found:
        kind = "verdict depends" if verdict.depends else "verdict"
        question, text = html.escape(verdict.question), html.escape(verdict.text)
        yield f'<p class="{kind}"><b>{question}</b> {text}</p>'
    if advice := _advice(found):
        items = "".join(f"<li>{html.escape(text)}</li>" for text in advice)
        yield f"<p><b>What applies of the paper's recommendations (§6):</b></p><ul>{items}</ul>"


def _advice(found: Iterable[Verdict]) -> list[str]:
    """The recommendations that apply, each once."""
    return list(dict.fromkeys(verdict.advice for verdict in found if verdict.advice))


LONG = 24  # rows from which on a table is folded


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{html.escape(_heading(name))}</th>" for name in rows[0])
    body = "".join(f"<tr>{''.join(map(_cell, row.values()))}</tr>" for row in rows)
    table = f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
    if len(rows) < LONG:
        return table
    return f"<details><summary>{len(rows)} rows</summary>{table}</details>"


def _heading(name: str) -> str:
    return name.replace("_", " ") if name not in ("logit_diff", "prob_diff") else name


def _cell(value: Any) -> str:
    kind = ' class="number"' if isinstance(value, (int, float)) else ""
    return f"<td{kind}>{html.escape(as_text(value))}</td>"


def as_text(value: Any) -> str:
    """A cell of a table: numbers to three digits, nothing for what is undefined."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return ""
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"


# -- files -----------------------------------------------------------------------------------------
def save(study: Records, directory: Path) -> list[Path]:
    """The page as ``report.html``, each table as CSV, each figure as SVG; returns the files."""
    rows, drawn = tables(study), _drawn(study)
    texts = {"report.html": _page(study, rows, drawn)}
    texts |= {f"{name}.csv": _csv(own) for name, own in rows.items()}
    texts |= {f"{name}.svg": picture for name, picture in drawn.items()}
    return [write_whole(directory / name, text) for name, text in texts.items()]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV, numbers to six digits."""
    file = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = csv.DictWriter(file, columns, lineterminator="\n")
    lines.writeheader()
    for row in rows:
        lines.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return file.getvalue()


# -- the terminal ----------------------------------------------------------------------------------
def summary(study: Records) -> str:
    """The runs, what each choice finds, and what depends on it."""
    title = f"{study.about['task']} on {study.about['model']}"
    lines = [f"{title}: what activation patching finds", *textwrap.wrap(_told(study), WIDTH), ""]
    lines += _columns(_plain(study))
    for kind in study.kinds:
        own = [row for row in detected(study) if row["nodes"] == kind]
        shown = [{k: row[k] for k in ("corruption", "metric", "help", "hurt")} for row in own]
        lines += ["", f"{ {'z': 'heads', 'mlp_out': 'MLPs'}[kind] } found", *_columns(shown)]
    found = verdicts(study)
    for depends, heading in ((True, "What depends on the choice"), (False, "What does not")):
        told = [verdict.text for verdict in found if verdict.depends == depends]
        lines += ["", heading, *_wrapped(told)] if told else []
    if advice := _advice(found):
        lines += ["", "What applies of the paper's recommendations", *_wrapped(advice)]
    return "\n".join(lines)


def _columns(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    cells = [[_heading(name) for name in rows[0]]]
    cells += [[as_text(value) for value in row.values()] for row in rows]
    numeric = [isinstance(value, (int, float)) for value in rows[0].values()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        )
        yield f"  {'  '.join(padded)}".rstrip()


def _wrapped(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from textwrap.wrap(text, WIDTH, initial_indent="  · ", subsequent_indent="    ")
