"""A benchmark's tables as one page of Markdown, and how its measures are called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from math import isnan
from typing import Any

from circuitkit.util.templates import render
from circuitkit.workflows.benchmark.cells import SHARE
from circuitkit.workflows.benchmark.differences import unbeaten
from circuitkit.workflows.benchmark.records import Records, short

__all__ = ["FOUND", "FAITHFUL", "SPENT", "TITLES", "markdown"]

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


def markdown(found: Records) -> str:
    """The tables: one row per method, and then per corruption and per model."""
    means = [
        (TITLES[measure], column, _means(found, measure, column))
        for measure, column in product(("auroc", "cmd"), ("corruption", "model"))
    ]
    return render(
        "workflows/benchmark/summary.md.jinja",
        found=FOUND, faithful=FAITHFUL, spent=SPENT, share=f"{SHARE:.0%}",
        examples=found.about.get("examples", ""), methods=found.methods, interval=_interval(found),
        means=means, cells=len(found.rows), refused=list(_refused(found)),
    )  # fmt: skip


def _interval(found: Records) -> Callable[[str, str], str]:
    """What writes a method's mean and interval, in bold where it is the best or not shown to differ
    from it."""
    best = {measure: unbeaten(found, measure) for measure in TITLES}

    def text(method: str, measure: str) -> str:
        own = str(found.interval(method, measure))
        return f"**{own}**" if method in best[measure] else own

    return text


def _means(found: Records, measure: str, column: str) -> dict[str, list[str]]:
    """Each method's mean for each model, or each corruption, that has the measure."""
    rows = {}
    for own in found.options(column):
        means = [found.interval(m, measure, **{column: own}).mean for m in found.methods]
        if not all(map(isnan, means)):
            rows[own] = [short(mean) for mean in means]
    return rows


def _refused(found: Records) -> Iterator[dict[str, Any]]:
    """How many cells each method refused, its first reason, and how many others it gave."""
    for method in found.methods:
        reasons = [r["failed"] for r in found.rows if r["method"] == method and r["failed"]]
        if reasons:
            others = len(set(reasons)) - 1
            yield {"method": method, "cells": len(reasons), "reason": reasons[0], "others": others}
