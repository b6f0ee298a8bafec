"""What a benchmark has measured: its rows, and means and paired differences with intervals.

Models of different blocks (plain and varied programs, trained and real models) and corruptions are
never averaged together. Within a block a mean is first taken over the models and seeds of each
program, then over programs; its interval is that of programs drawn again, and of the models and
seeds within each. A difference is taken in each model and seed before it is averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf, isnan, nan
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from circuitkit.util.json_values import Json
from circuitkit.util.statistics import mean_of_groups, sign_flip_p
from circuitkit.workflows.benchmark.cells import NUMBERS

__all__ = [
    "COLUMNS", "COMPARED", "DIFFERENCES", "LOWER", "MEASURES", "REFERENCE", "TRUTHS", "Difference",
    "Estimate", "Place", "Records", "Row", "Some", "bare", "block_of", "nan_to_inf", "short",
]  # fmt: skip

Row: TypeAlias = dict[str, Json]
Some: TypeAlias = frozenset[str] | None  # programs; None for all
Cell: TypeAlias = tuple[str, str, int]  # program, model, seed
WHERE = ("block", "program", "model", "corruption", "seed", "budget", "method", "prompts")
COLUMNS = (*WHERE, *NUMBERS, "failed")
TRUTHS = (
    "block", "program", "model", "corruption", "seed", "edges", "main", "mapped", "one", "half",
    "unmapped", "leak",
)  # fmt: skip
DIFFERENCES = (
    "block", "corruption", "budget", "method", "reference", "measure", "difference", "low", "high",
    "p", "beyond", "programs", "models",
)  # fmt: skip
MEASURES = tuple(name for name in NUMBERS if name not in ("true", "edges"))
COSTS = ("forwards", "backwards", "sequence_backwards", "cpu_seconds")
LOWER = ("hamming", "cmd", "cmd_log", *COSTS)  # is better
COMPARED = ("average_precision", "cmd", "cmd_log", "cpr", "auroc", "ap_one", "ap_half")
REFERENCE = "eap_ig"  # what others are compared with, at the same budget


class Place(NamedTuple):
    """A method at a budget, on the models of a block (real models: each a block of its own) under a
    corruption."""

    block: str
    corruption: str
    budget: int
    method: str


class Estimate(NamedTuple):
    """A mean over programs with its 95 % interval; nan is not known."""

    mean: float
    low: float = nan
    high: float = nan

    def __str__(self) -> str:
        half = (self.high - self.low) / 2
        return short(self.mean) + ("" if isnan(half) else f" ± {short(half)}")


class Difference(NamedTuple):
    """A mean difference from the reference, with its 95 % interval over programs and seeds, the p
    of its sign (of flipping the signs of programs' differences), and of how many."""

    mean: float
    low: float
    high: float
    p: float
    programs: int
    models: int

    @property
    def beyond(self) -> bool:
        """Whether the interval leaves 0 out: other programs and seeds would show it too."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, repr=False)
class Records:
    """A row for each model × corruption × seed × budget × method, with the COLUMNS, and a row of
    what is known of the truth of each model, with the TRUTHS.

    Numbers that are not defined are nan (the recall of backups where there are none); ``failed`` is
    the reason why a method refused, else empty.
    """

    about: Mapping[str, Json]
    rows: tuple[Row, ...]
    truths: tuple[Row, ...] = ()

    # -- what there is -----------------------------------------------------------------------------
    @cached_property
    def cells(self) -> dict[Place, list[Row]]:
        """The rows of every place, in their order."""
        found: dict[Place, list[Row]] = {}
        for row in self.rows:
            place = Place(block_of(row), row["corruption"], row["budget"], row["method"])
            found.setdefault(place, []).append(row)
        return found

    def options(self, column: str) -> tuple[str, ...]:
        """The values of a column (``model``, ``corruption``), in the order of the rows."""
        return tuple(dict.fromkeys(row[column] for row in self.rows))

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """What is averaged alone: the kinds of models whose truth is known, and each real model."""
        return tuple(dict.fromkeys(place.block for place in self.cells))

    @cached_property
    def real(self) -> tuple[str, ...]:
        """Those whose truth nobody knows."""
        return tuple(dict.fromkeys(block_of(row) for row in self.rows if row["block"] == "real"))

    def places(self, block: str, corruption: str) -> list[Place]:
        """The methods there: by budget, then the best first, by average precision, or by CMD where
        no truth is known."""

        def worth(place: Place) -> tuple[float, float, float]:
            found, far = (self.estimate(place, one).mean for one in ("average_precision", "cmd"))
            return place.budget, -float(np.nan_to_num(found)), nan_to_inf(far)

        own = [place for place in self.cells if place[:2] == (block, corruption)]
        return sorted(own, key=worth)

    # -- means and differences ---------------------------------------------------------------------
    def estimate(self, place: Place, measure: str, programs: Some = None) -> Estimate:
        """A method's mean there with its interval; of some programs, if they are given."""
        key = place, measure, programs
        if key not in self._estimates:
            groups = _groups(self._values(place, measure, programs))
            self._estimates[key] = Estimate(*mean_of_groups(groups))
        return self._estimates[key]

    def reference(self, place: Place) -> Place | None:
        """What methods are compared with there: the first ``eap_ig`` of the same budget; where
        there is none, the first method; None where there is nothing."""
        own = [one for one in self.cells if one[:3] == place[:3]]
        first = own[0] if own else None
        return next((one for one in own if bare(one.method) == REFERENCE), first)

    def difference(
        self, place: Place, measure: str, programs: Some = None, reference: Place | None = None
    ) -> Difference:
        """How far a method is from its reference, or from the one that is given."""
        there = reference or self.reference(place) or place
        key = place, measure, programs, there
        if key not in self._differences:
            theirs = self._values(there, measure, programs)
            own = self._values(place, measure, programs)
            apart = {cell: value - theirs[cell] for cell, value in own.items() if cell in theirs}
            groups = _groups(apart)
            p = sign_flip_p(np.array([group.mean() for group in groups]))
            models = len({model for _, model, _ in apart})
            found = Difference(*mean_of_groups(groups), p, len(groups), models)
            self._differences[key] = found
        return self._differences[key]

    def _values(self, place: Place, measure: str, programs: Some) -> dict[Cell, float]:
        """A measure of each program, model and seed where it is defined."""
        return {
            (row["program"], row["model"], row["seed"]): row[measure]
            for row in self.cells[place]
            if not isnan(row.get(measure, nan)) and (programs is None or row["program"] in programs)
        }

    @cached_property
    def _estimates(self) -> dict[tuple[Place, str, Some], Estimate]:
        return {}

    @cached_property
    def _differences(self) -> dict[tuple[Place, str, Some, Place], Difference]:
        return {}

    # -- tables ------------------------------------------------------------------------------------
    def summary(self) -> list[Row]:
        """A row for each block × corruption × budget × method: of every measure the mean, ``low``
        and ``high``; how many cells there are, and in how many of them the method failed."""
        found = []
        for place in self._sorted():
            rows = self.cells[place]
            line: Row = {**place._asdict(), "prompts": rows[0]["prompts"], "cells": len(rows),
                         "failed": sum(bool(row["failed"]) for row in rows)}  # fmt: skip
            for measure in MEASURES:
                mean, low, high = self.estimate(place, measure)
                line |= {measure: mean, f"{measure}_low": low, f"{measure}_high": high}
            found.append(line)
        return found

    def differences(self) -> list[Row]:
        """A row for each block × corruption × budget × method × measure: the mean ``difference``
        from the ``reference`` at that budget, taken in each model and seed; ``low`` and ``high``,
        its 95 % interval over programs and seeds; ``p``; whether it is ``beyond`` chance; and over
        how many ``programs`` and ``models``."""
        found = []
        for place in self._sorted():
            reference = self.reference(place) or place
            for measure in COMPARED if place != reference else ():
                one = self.difference(place, measure)
                if one.models:
                    numbers = {"difference": one.mean, "low": one.low, "high": one.high,
                               "p": one.p, "beyond": one.beyond, "programs": one.programs,
                               "models": one.models}  # fmt: skip
                    found.append({**place._asdict(), "reference": reference.method,
                                  "measure": measure, **numbers})  # fmt: skip
        return found

    def _sorted(self) -> list[Place]:
        corruptions = self.options("corruption")
        return [p for block in self.blocks for how in corruptions for p in self.places(block, how)]


def block_of(row: Row) -> str:
    """The block of a row; real models are one each."""
    name: str = row["model"].partition(":")[0] if row["block"] == "real" else row["block"]
    return name


def bare(method: str) -> str:
    """A method's name, without its settings."""
    return method.partition("(")[0]


def nan_to_inf(value: float) -> float:
    """The value, with nan last."""
    return inf if isnan(value) else value


def short(value: float) -> str:
    """The number to three digits or so; a dash for nan."""
    if isnan(value):
        return "–"
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.3f}"


def _groups(values: Mapping[Cell, float]) -> list[Float[np.ndarray, " cells"]]:
    """The values of each program."""
    found: dict[str, list[float]] = {}
    for (program, _, _), value in values.items():
        found.setdefault(program, []).append(value)
    return [np.array(own) for own in found.values()]
