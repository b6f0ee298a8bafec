"""The figures of a benchmark: quality against what it costs, by block."""

from __future__ import annotations

from itertools import pairwise
from math import isnan, nan

from circuitkit.viz.figures import Lines, Panels
from circuitkit.workflows.benchmark.records import LOWER, Place, Records, bare

__all__ = ["figures"]

SHOWN = {"average_precision": "ap", "cmd": "cmd"}
NAMES = {"average_precision": "average precision", "cmd": "CMD"}
HEADINGS = {"average_precision": "Average precision", "cmd": "CMD"}
COSTS = {"sequence_backwards": "sequence-backwards", "cpu_seconds": "CPU seconds"}
FRONT = "best for the cost"


def figures(found: Records) -> dict[str, Panels]:
    """Of each block ``ap-BLOCK`` and ``cmd-BLOCK``: a panel for each corruption (columns, if there
    are several) and cost (rows); ``cmd-real`` has a row for each real model."""
    made = {}
    for block in found.blocks:
        for measure, name in SHOWN.items():
            if block not in found.real:
                rows = [(block, cost) for cost in COSTS]
                made[f"{name}-{block}"] = _panels(found, rows, measure, f"{block} models")
    rows = [(block, "sequence_backwards") for block in found.real]
    made["cmd-real"] = _panels(found, rows, "cmd", "real models")
    return {name: panels for name, panels in made.items() if panels is not None}


def _panels(found: Records, rows: list[tuple[str, str]], measure: str, title: str) -> Panels | None:
    """Panels of the same methods, which share a legend; None where there is nothing to show."""
    corruptions = found.options("corruption")
    families = list(dict.fromkeys(
        bare(place.method)
        for block, _ in rows for how in corruptions for place in found.places(block, how)
        if not isnan(found.estimate(place, measure).mean)
    ))  # fmt: skip
    lines = [
        _front(found, found.places(block, how), families, measure, cost,
               how if len({b for b, _ in rows}) == 1 else f"{block}, {how}")
        for block, cost in rows for how in corruptions
    ]  # fmt: skip
    shown = [one for one in lines if one is not None]
    heading = f"{HEADINGS[measure]} on {title}"
    across = len(corruptions) if len(corruptions) > 1 else 2
    return Panels(shown, across, heading) if shown else None


def _front(
    found: Records, places: list[Place], families: list[str], measure: str, cost: str, title: str
) -> Lines | None:
    """A line for each method through its budgets, and the best that is to be had for so much."""
    runs = {place: found.estimate(place, "sequence_backwards").mean for place in places}
    spent = {place: found.estimate(place, cost).mean if runs[place] else 0.0 for place in places}
    worth = {place: found.estimate(place, measure).mean for place in places}
    known = [place for place in places if not isnan(spent[place] + worth[place])]
    if not known:
        return None
    steps = sorted({spent[place] for place in known if spent[place] > 0}) or [1.0]
    x = [*steps[:1], *(step for step in steps[1:] for _ in range(2))]  # a staircase
    bought = [*steps[:1], *(step for pair in pairwise(steps) for step in pair)]
    best = min if measure in LOWER else max
    series = {FRONT: [best(worth[p] for p in known if spent[p] <= step) for step in bought]}
    free = []
    for family in families:
        own = [place for place in known if bare(place.method) == family]
        if own and not any(spent[place] for place in own):  # it runs nothing: a level line
            free.append(family)
        at = {spent[place] or step: worth[place] for place in own for step in steps}
        series[family] = [at.get(step, nan) for step in x]
    return Lines(
        x, series, title=title, x_name=COSTS[cost], y_name=NAMES[measure], log_x=True, zero=False,
        plain=[FRONT, *free], bridged=True,
    )  # fmt: skip
