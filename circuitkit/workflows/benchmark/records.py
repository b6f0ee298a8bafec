"""What a benchmark has measured: its rows, and their means with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isnan, nan
from typing import TypeAlias

import numpy as np

from circuitkit.util.json_values import Json
from circuitkit.util.statistics import student_half_width
from circuitkit.workflows.benchmark.cells import NUMBERS

__all__ = ["Row", "COLUMNS", "MEASURES", "Interval", "Records", "short"]

Row: TypeAlias = dict[str, Json]
COLUMNS = ("method", "model", "corruption", "seed", *NUMBERS, "agreement", "failed")
MEASURES = tuple(name for name in (*NUMBERS, "agreement") if name not in ("true", "edges"))


@dataclass(frozen=True)
class Interval:
    """A mean, and half of the width of its 95 % interval (Student's t); nan for one value."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Interval:
        """Of the values that are defined."""
        own = [value for value in values if not isnan(value)]
        if not own:
            return cls(nan, nan)
        return cls(float(np.mean(own)), student_half_width(own))

    def __str__(self) -> str:
        return short(self.mean) + ("" if isnan(self.half) else f" ± {short(self.half)}")


@dataclass(frozen=True, repr=False)
class Records:
    """A row for each method × model × corruption × seed, with the COLUMNS.

    Numbers that are not defined are nan (backups' recall where there are none); ``failed`` is the
    reason why a method refused, else empty.
    """

    about: Mapping[str, Json]
    rows: tuple[Row, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, those that find the true edges best first; without a truth, by CMD."""

        def worth(name: str) -> tuple[float, float]:
            auroc, cmd = (self.interval(name, one).mean for one in ("auroc", "cmd"))
            return -np.nan_to_num(auroc), np.nan_to_num(cmd, nan=np.inf)

        return tuple(sorted(self.options("method"), key=worth))

    def options(self, column: str) -> tuple[str, ...]:
        """What stands in a column (``model``, ``corruption``), in the order of the rows."""
        return tuple(dict.fromkeys(row[column] for row in self.rows))

    def interval(self, method: str, measure: str, **where: str) -> Interval:
        """A method's mean over models and corruptions (of one: ``model="reverse"``), with its
        interval over seeds: first the mean of every seed is taken, so that how models differ does
        not widen it. Agreement, which is one of pairs of seeds, has no interval."""
        wanted = {"method": method, **where}
        of_seed: dict[int, list[float]] = {}
        for row in self.rows:
            value = row.get(measure, nan)
            if wanted.items() <= row.items() and not isnan(value):
                of_seed.setdefault(row["seed"], []).append(value)
        found = Interval.of(float(np.mean(values)) for values in of_seed.values())
        return Interval(found.mean, nan) if measure == "agreement" else found

    def summary(self) -> list[Row]:
        """A row for each method, the best first: of every measure the mean, ``low`` and ``high``;
        and how many cells there are, and in how many of them the method failed."""
        found = []
        for method in self.methods:
            own = [row for row in self.rows if row["method"] == method]
            failed = sum(bool(row["failed"]) for row in own)
            line: Row = {"method": method, "cells": len(own), "failed": failed}
            for measure in MEASURES:
                i = self.interval(method, measure)
                line |= {measure: i.mean, f"{measure}_low": i.mean - i.half,
                         f"{measure}_high": i.mean + i.half}  # fmt: skip
            found.append(line)
        return found


def short(value: float) -> str:
    """The number to three digits or so; a dash for nan."""
    if isnan(value):
        return "–"
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.3f}"
