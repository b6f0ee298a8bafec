"""A benchmark's tables as one page of Markdown, and how its numbers are called and written."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from math import isnan
from typing import Any

from circuitkit.workflows.benchmark.cells import SHARE
from circuitkit.workflows.benchmark.records import Records, Row, short

__all__ = ["FOUND", "FAITHFUL", "SPENT", "TITLES", "markdown", "csv_of"]

FOUND = {
    "auroc": "AUROC", "acdc_auroc": "AUROC (ACDC)", "average_precision": "average precision",
    "hamming": "Hamming", "recall": "recall", "recall_or": "of OR", "recall_backup": "of backups",
    "recall_negative": "of negative",
}  # fmt: skip
FAITHFUL = {
    "cpr": "CPR", "cpr_kept": "CPR (kept)", "cmd": "CMD", "cmd_kept": "CMD (kept)",
    "cmd_log": "CMD (log)", "accuracy_area": "accuracy", "agreement": "agreement",
}  # fmt: skip
SPENT = {
    "forwards": "forwards", "backwards": "backwards", "sequence_backwards": "sequence-backwards",
    "cpu_seconds": "CPU seconds",
}  # fmt: skip
TITLES = {**FOUND, **FAITHFUL, **SPENT}
NOTES = {
    "The true edges": (
        "Over the models whose truth is known. AUROC is 1/2 by chance and counts ties one half; "
        "the ACDC protocol decides every tie against the ranking. Hamming: edges to add or remove "
        "in the best circuit of the true size. Recall: the share of the true edges in it; of the "
        "legs of an OR, of backups (which matter only where another component is cut off), and of "
        "negative heads, where a model has them."
    ),
    "Faithful at every size": (
        "On unseen prompts, over all models. CPR (by the signed score; higher is better, without "
        "bound) and CMD (by the magnitude; 0 is best) as MIB defines them, over the share of edges "
        "asked for; kept: over the share left without dead ends; log: over its logarithm. "
        "Accuracy: the mean over the logarithm of the share asked for. Agreement: the Jaccard "
        "index of circuits of the true size (without a truth: of {share} of all edges) found with "
        "different seeds."
    ),
    "Cost": (
        "Of one discovery on {examples} prompts, over all models. Forwards and backwards are in "
        "whole runs of one prompt; what computes a part of one counts as that part. A "
        "sequence-backward is a forward and a backward of one prompt; a backward counts as two "
        "forwards. CPU seconds: of the machine on which the table was made."
    ),
}


def markdown(found: Records) -> str:
    """The tables: one row per method, and then per corruption and per model."""
    told = {"share": f"{SHARE:.0%}", "examples": found.about.get("examples", "")}
    lines: list[str] = []
    for (title, note), measures in zip(NOTES.items(), (FOUND, FAITHFUL, SPENT), strict=True):
        lines += [f"## {title}", "", note.format(**told), "", *_by_method(found, measures), ""]
    for measure, column in product(("auroc", "cmd"), ("corruption", "model")):
        table = [*_by(found, measure, column), ""]
        lines += [f"## {TITLES[measure]} by {column}", "", *table] if len(table) > 3 else []
    return "\n".join([*lines, *_failures(found)]).rstrip() + "\n"


def _by_method(found: Records, measures: Mapping[str, str]) -> Iterator[str]:
    yield from _head("method", measures.values())
    for method in found.methods:
        cells = (str(found.interval(method, measure)) for measure in measures)
        yield f"| {method} | {' | '.join(cells)} |"


def _by(found: Records, measure: str, column: str) -> Iterator[str]:
    """A row for each model, or each corruption, that has the measure."""
    yield from _head(column, found.methods)
    for own in found.options(column):
        means = [found.interval(m, measure, **{column: own}).mean for m in found.methods]
        if not all(map(isnan, means)):
            yield f"| {own} | {' | '.join(map(short, means))} |"


def _head(first: str, others: Collection[str]) -> tuple[str, str]:
    return f"| {first} | {' | '.join(others)} |", f"|---|{'---:|' * len(others)}"


def _failures(found: Records) -> Iterator[str]:
    """How often methods refused, and their first reason."""
    failed = [row for row in found.rows if row["failed"]]
    if failed:
        yield f"## Refused\n\n{len(failed)} of {len(found.rows)} cells are left out:\n"
    for method in found.methods:
        reasons = [row["failed"] for row in failed if row["method"] == method]
        different = len(set(reasons))
        if reasons:
            more = f" (and {different - 1} other reasons)" if different > 1 else ""
            yield f"- {method}, {len(reasons)} cells: {reasons[0]}{more}"


def csv_of(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """The rows as CSV; what is not defined is empty."""
    file = io.StringIO()
    lines = csv.DictWriter(file, columns or list(rows[0]), lineterminator="\n")
    lines.writeheader()
    lines.writerows({key: _exact(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def _exact(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if isnan(value) else f"{value:.6g}"
