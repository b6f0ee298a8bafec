"""A benchmark's tables as one page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan
from typing import Any, NamedTuple

from circuitkit.util.templates import render
from circuitkit.workflows.benchmark.choosing import DEFINED, SEED, choices, halves
from circuitkit.workflows.benchmark.records import LOWER, Place, Records, bare, short

__all__ = ["BLOCKS", "TITLES", "chosen_table", "left_out", "markdown", "place_table", "refused",
           "signed", "truth_rows"]  # fmt: skip

TITLES = {
    "average_precision": "average precision", "cmd": "CMD", "cmd_log": "CMD (log)", "cpr": "CPR",
    "ap_one": "AP (one)", "ap_half": "AP (half)", "auroc": "AUROC", "recall_or": "of OR",
    "recall_backup": "of backups", "recall_negative": "of negative",
}  # fmt: skip
COMPARED = ("average_precision", "cmd", "cmd_log")  # each with its difference
BESIDE = ("ap_one", "ap_half", "recall_or", "recall_backup", "recall_negative", "auroc", "cpr")
BLOCKS = {
    "plain": "Plain compiled models",
    "varied": "Varied compiled models",
    "trained": "Trained models",
}
MARK = " †"


class Table(NamedTuple):
    """The methods on one block of models under one corruption."""

    corruption: str
    heads: list[str]
    rows: list[list[str]]


def markdown(found: Records) -> str:
    """The tables: what was chosen, then a row per budget and method for each block and corruption,
    and what is known of the models."""
    one, other = halves(found)
    return render(
        "workflows/benchmark/summary.md.jinja", left_out=left_out(found),
        about=found.about, choices=chosen_table(found), seed=SEED,
        halves=(sorted(one), sorted(other)), blocks=list(_blocks(found)),
        truths=list(truth_rows(found)), cells=len(found.rows), refused=list(refused(found)),
    )  # fmt: skip


def left_out(found: Records) -> list[tuple[str, str]]:
    """The methods and the models that were left out, each with the reason."""
    return [pair for key in ("absent", "skipped") for pair in found.about.get(key, {}).items()]


def _blocks(found: Records) -> Iterator[dict[str, Any]]:
    """What is averaged alone, with its tables."""
    for block in found.blocks:
        own = [row for place in found.cells if place.block == block for row in found.cells[place]]
        programs, models = (len({row[name] for row in own}) for name in ("program", "model"))
        tables = [place_table(found, block, how) for how in found.options("corruption")]
        yield {
            "name": block, "title": BLOCKS.get(block, f"Real models: {block}"),
            "programs": programs, "models": models, "tables": [one for one in tables if one.rows],
        }  # fmt: skip


def place_table(found: Records, block: str, corruption: str) -> Table:
    """A row for each method and budget; measures that nothing has are left out."""
    places = found.places(block, corruption)

    def has(measure: str) -> bool:
        return any(not isnan(found.estimate(place, measure).mean) for place in places)

    compared, beside = ([m for m in own if has(m)] for own in (COMPARED, BESIDE))
    heads = ["budget", "method", "prompts", "sb", "CPU s"]
    heads += [head for m in compared for head in (TITLES[m], "− eap_ig")]
    heads += [TITLES[m] for m in beside]
    rows = [_line(found, place, compared, beside) for place in places]
    return Table(corruption, heads, rows)


def _line(found: Records, place: Place, compared: list[str], beside: list[str]) -> list[str]:
    spent = [short(found.estimate(place, c).mean) for c in ("sequence_backwards", "cpu_seconds")]
    mark = MARK if bare(place.method) in DEFINED and place.block not in found.real else ""
    line = [str(place.budget or "–"), place.method + mark, str(found.cells[place][0]["prompts"])]
    line += spent
    for measure in compared:
        line += [str(found.estimate(place, measure)), _difference(found, place, measure)]
    return line + [short(found.estimate(place, measure).mean) for measure in beside]


def _difference(found: Records, place: Place, measure: str) -> str:
    """The difference from the reference with its interval and p; in bold where it is better beyond
    chance."""
    if place == found.reference(place):
        return "reference"
    one = found.difference(place, measure)
    text = signed(one.mean, one.low, one.high, one.p)
    better = one.high < 0 if measure in LOWER else one.low > 0
    return f"**{text}**" if better else text


def signed(mean: float, low: float, high: float, p: float) -> str:
    """A difference with its interval and p."""
    if isnan(mean):
        return "–"
    interval = "" if isnan(low) else f" [{low:+.3f}, {high:+.3f}]"
    return f"{mean:+.3f}{interval}" + ("" if isnan(p) else f", p {p:.3f}")


def chosen_table(found: Records) -> Table:
    """A row for each choice: what it is worth on the other programs, and on each real model."""
    heads = [
        "block",
        "corruption",
        "budget",
        "chosen by",
        "method",
        "on other programs",
        "− eap_ig",
    ]
    heads += [f"CMD of {name} − eap_ig" for name in found.real]
    rows: dict[tuple[Any, ...], list[str]] = {}
    for row in choices(found):
        key = row["block"], row["corruption"], row["budget"], row["by"]
        line = rows.setdefault(key, [*map(str, key[:3]), TITLES[key[3]], *["–"] * (len(heads) - 4)])
        apart = signed(row["difference"], row["difference_low"], row["difference_high"], row["p"])
        if row["where"] in found.real:
            line[7 + found.real.index(row["where"])] = apart
        else:
            at = "" if row["of"] == row["budget"] else f" (of {row['of']})"
            line[4:7] = [row["method"] + at, short(row["value"]), apart]
    return Table("", heads, list(rows.values()))


def truth_rows(found: Records) -> Iterator[list[str]]:
    """What is known of each model under each corruption; of one with a truth for each seed the
    first."""
    seen = set()
    for row in found.truths:
        key = row["model"], row["corruption"]
        if key not in seen:
            seen.add(key)
            counts = ["–" if row[name] is None else str(row[name]) for name in
                      ("edges", "mapped", "one", "half")]  # fmt: skip
            leak = f"{row['leak']:.0%}" if row["leak"] else "–"
            yield [row["block"], *key, *counts, f"{row['unmapped']:.1%}", leak]


def refused(found: Records) -> Iterator[dict[str, object]]:
    """How many cells each method refused, its first reason, and how many others it gave."""
    for method in found.options("method"):
        reasons = [r["failed"] for r in found.rows if r["method"] == method and r["failed"]]
        if reasons:
            others = len(set(reasons)) - 1
            yield {"method": method, "cells": len(reasons), "reason": reasons[0], "others": others}
