"""The short summary of a benchmark: what was tried, and what is best beyond chance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import isnan, nan
from types import MappingProxyType
from typing import NamedTuple

from circuitkit.workflows.benchmark.choosing import COMPILED, DEFINED, choices
from circuitkit.workflows.benchmark.pages import left_out, signed
from circuitkit.workflows.benchmark.records import (
    LOWER,
    REFERENCE,
    Estimate,
    Place,
    Records,
    bare,
)
from circuitkit.workflows.reports import Said

__all__ = ["Best", "best", "findings"]

NAMES = MappingProxyType({"average_precision": "AP", "cmd": "CMD"})
NAMED = 4  # of what was left out
CHANCE = "random"  # the method whose scores are random


class Best(NamedTuple):
    """The best method of a block and corruption: by which measure, what it is worth, how far from
    the reference (``**text**`` where it is better beyond chance), and what random scores are worth
    there."""

    place: Place
    title: str
    value: Estimate
    apart: str
    chance: Estimate


def findings(found: Records) -> list[Said]:
    """At most six sentences."""
    return [_tried(found), _measured(found), *_beyond(found), *_chosen(found), *_missing(found)]


def best(found: Records) -> Iterator[Best]:
    """The best of each block and corruption at the largest budget, by average precision, or by CMD
    where no truth is known; what ranks by the label's own definition does not compete."""
    for places in _largest(found):
        measure = _measure(found, places)
        worth = {place: found.estimate(place, measure).mean for place in places}
        known = {p: w for p, w in worth.items() if not isnan(w) and not _barred(p)}
        if not known:
            continue
        sign = -1 if measure in LOWER else 1
        place = max(known, key=lambda place: sign * known[place])
        apart = found.difference(place, measure)
        text = "reference"
        if place != found.reference(place):
            text = signed(apart.mean, apart.low, apart.high, nan)
            better = apart.high < 0 if measure in LOWER else apart.low > 0
            text = f"**{text}**" if better else text
        yield Best(
            place, NAMES[measure], found.estimate(place, measure), text,
            _chance(found, place, measure),
        )  # fmt: skip


def _largest(found: Records) -> Iterator[list[Place]]:
    """The methods of each block and corruption at the largest budget."""
    for block in found.blocks:
        for how in found.options("corruption"):
            places = found.places(block, how)
            most = max((place.budget for place in places), default=0)
            yield [place for place in places if place.budget == most]


def _measure(found: Records, places: Sequence[Place]) -> str:
    known = any(not isnan(found.estimate(p, "average_precision").mean) for p in places)
    return "average_precision" if known else "cmd"


def _barred(place: Place) -> bool:
    return place.block in COMPILED and bare(place.method) in DEFINED


def _chance(found: Records, place: Place, measure: str) -> Estimate:
    """What random scores are worth there, at whichever budget."""
    own = [p for p in found.places(place.block, place.corruption) if bare(p.method) == CHANCE]
    return found.estimate(own[-1], measure) if own else Estimate(nan)


# -- sentences -------------------------------------------------------------------------------------
def _tried(found: Records) -> Said:
    budgets = sorted({place.budget for place in found.cells} - {0})
    at = f" at budgets of {_and(map(str, budgets))} sequence-backwards" if budgets else ""
    failed = sum(bool(row["failed"]) for row in found.rows)
    names = {bare(name) for name in found.options("method")}
    text = (
        f"{_count(len(names), 'method')}{at} on {_count(len(found.options('model')), 'model')} of "
        f"{_count(len(found.options('program')), 'program')} and tasks, under "
        f"{_and(found.options('corruption'))}, with {_count(len(found.options('seed')), 'seed')}: "
        f"{len(found.rows)} cells, of which {failed or 'none'} were refused."
    )
    return Said(text, (), ("refused",))


def _measured(found: Records) -> Said:
    truth = [block for block in found.blocks if block not in found.real]
    known = "is compared with the edges that are known to be true, and " if truth else ""
    text = (
        f"What each method finds {known}is measured by the faithfulness of its circuits of all "
        "sizes on unseen prompts (CMD); the best at the largest budget are in Table 1."
    )
    parts = [f"block-{found.blocks.index(block)}" for block in truth]
    return Said(text, (), (*parts, *(["real"] if found.real else [])))


def _beyond(found: Records) -> Iterator[Said]:
    """How many methods are better or worse than the reference beyond chance."""
    better = worse = known = 0
    for places in _largest(found):
        measure = _measure(found, places)
        sign = -1 if measure in LOWER else 1
        for place in places:
            apart = found.difference(place, measure)
            if place != found.reference(place) and not isnan(apart.low) and not _barred(place):
                known += 1
                better += apart.beyond and sign * apart.mean > 0
                worse += apart.beyond and sign * apart.mean < 0
    if known:
        text = (
            f"At that budget {better} of {known} differences from {_reference(found)} are better "
            f"and {worse} are worse, with a 95 % interval over programs that leaves 0 out; by "
            f"chance alone about {max(round(0.05 * known), 1)} would."
        )
        yield Said(text, (), ("reading",))


def _reference(found: Records) -> str:
    named = any(bare(place.method) == REFERENCE for place in found.cells)
    return REFERENCE if named else "the first method"


def _chosen(found: Records) -> Iterator[Said]:
    """What choices are worth where they played no part."""
    rows = [row for row in choices(found)
            if row["where"] == "other programs" and row["by"] == "average_precision"
            and not isnan(row["difference_low"])]  # fmt: skip
    if rows:
        better = sum(row["difference_low"] > 0 for row in rows)
        text = (
            "Chosen on half of the programs and reported on the others, the best method is better "
            f"than {_reference(found)} beyond chance in {better} of {len(rows)} comparisons."
        )
        yield Said(text, (), ("choices",))


def _missing(found: Records) -> Iterator[Said]:
    names = [name for name, _ in left_out(found)]
    if names:
        shown = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
        yield Said(f"{len(names)} of what was asked for is left out: {shown}.", (), ("left-out",))


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"


def _and(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
