"""Which method is best at a budget: chosen on half of the programs, and reported on the others.

A choice that is judged by the models it was made on is too good. The programs are split by a seed;
for each budget and corruption the method with the best mean on one half is looked up on the other
half, and on the real models, where it played no part.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan

import numpy as np

from circuitkit.workflows.benchmark.records import LOWER, Place, Records, Row, bare

__all__ = ["CHOICES", "SEED", "choices", "halves"]

CHOICES = (
    "block", "corruption", "budget", "by", "method", "of", "where", "measure", "value", "low",
    "high", "reference", "difference", "difference_low", "difference_high", "p", "programs",
)  # fmt: skip
SEED = 0  # of the split
ROOM = 1.1  # what a method may cost, as a share of the budget
BY = ("average_precision", "cmd")
DEFINED = ("exact",)  # whose definition is the label of compiled models: never chosen there
COMPILED = ("plain", "varied")


def halves(found: Records, seed: int = SEED) -> tuple[frozenset[str], frozenset[str]]:
    """The programs on which methods are chosen, and those on which they are reported; a program's
    variants and trainings stay together."""
    known = sorted({row["program"] for row in found.rows if row["block"] != "real"})
    order = np.random.default_rng(seed).permutation(len(known))
    names = [known[i] for i in order]
    middle = (len(names) + 1) // 2
    return frozenset(names[:middle]), frozenset(names[middle:])


def choices(found: Records, seed: int = SEED) -> list[Row]:
    """Rows for each block × corruption × budget that has a choice ``by`` average precision or by
    CMD: one where the ``method`` (listed for the budget ``of``, which may be a smaller one) is
    reported on the other half of the programs, and one for each real model, by CMD."""
    one, other = halves(found, seed)
    rows: list[Row] = []
    for block in (block for block in found.blocks if block not in found.real):
        for how in found.options("corruption"):
            for budget in sorted({p.budget for p in found.places(block, how)} - {0}):
                for by in BY:
                    place = _best(found, block, how, budget, by, one)
                    if place is not None:
                        rows += _rows(found, place, budget, by, other)
    return rows


def _best(
    found: Records, block: str, corruption: str, budget: int, measure: str, on: frozenset[str]
) -> Place | None:
    """The best of the methods that cost at most the budget, on some programs."""
    worth = {}
    for place in found.places(block, corruption):
        cost = found.estimate(place, "sequence_backwards").mean
        barred = block in COMPILED and bare(place.method) in DEFINED
        value = found.estimate(place, measure, on).mean
        if place.budget <= budget and cost <= ROOM * budget and not (barred or isnan(value)):
            worth[place] = value
    sign = -1 if measure in LOWER else 1
    return max(worth, key=lambda place: sign * worth[place], default=None)


def _rows(
    found: Records, place: Place, budget: int, by: str, other: frozenset[str]
) -> Iterator[Row]:
    """What a choice is worth where it played no part."""
    for block in (place.block, *found.real):
        at = place._replace(block=block)
        there = found.reference(at._replace(budget=budget))
        if at not in found.cells or there is None:
            continue
        measure, programs = (by, other) if block == place.block else ("cmd", None)
        value = found.estimate(at, measure, programs)
        apart = found.difference(at, measure, programs, there)
        yield {
            "block": place.block, "corruption": place.corruption, "budget": budget, "by": by,
            "method": place.method, "of": place.budget,
            "where": "other programs" if block == place.block else block, "measure": measure,
            "value": value.mean, "low": value.low, "high": value.high,
            "reference": there.method, "difference": apart.mean, "difference_low": apart.low,
            "difference_high": apart.high, "p": apart.p, "programs": apart.programs,
        }  # fmt: skip
