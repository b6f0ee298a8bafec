"""Which methods of a benchmark differ from the best one, beyond other programs and other seeds.

The difference of two methods is taken in each model before it is averaged, so that how models
differ does not widen its interval. The interval is that of draws of programs, with all their
variants, and then of seeds within each program.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan, nan

import numpy as np
from jaxtyping import Float

from circuitkit.util.json_values import Json
from circuitkit.util.statistics import percentile_interval
from circuitkit.workflows.benchmark.records import MEASURES, Records

__all__ = ["COLUMNS", "LOWER", "Difference", "differences", "rows", "unbeaten"]

COLUMNS = ("measure", "best", "method", "difference", "low", "high", "beyond", "models")
COSTS = ("forwards", "backwards", "sequence_backwards", "cpu_seconds")
LOWER = ("hamming", "cmd", "cmd_kept", "cmd_log", *COSTS)  # is better
COMPARED = tuple(name for name in MEASURES if name not in (*COSTS, "agreement"))
RESAMPLES = 1000


@dataclass(frozen=True)
class Difference:
    """A method's mean less that of the best one, with its 95 % interval; nan is not known.

    ``models`` is in how many models both have the measure.
    """

    method: str
    best: str
    measure: str
    mean: float
    low: float
    high: float
    models: int

    @property
    def beyond(self) -> bool:
        """Whether the interval leaves 0 out: other programs and seeds would show it too."""
        return self.low > 0 or self.high < 0


def differences(found: Records, measure: str) -> list[Difference]:
    """Of every other method how far it is from the best by this measure, in the order of the
    methods; nothing where no method has it."""
    means = {method: found.interval(method, measure).mean for method in found.methods}
    known = [method for method in found.methods if not isnan(means[method])]
    if not known:
        return []
    best = (min if measure in LOWER else max)(known, key=means.__getitem__)
    return [_difference(found, method, best, measure) for method in known if method != best]


def rows(found: Records) -> list[dict[str, Json]]:
    """A row for every measure and every method but its best."""
    return [
        {"measure": measure, "best": one.best, "method": one.method, "difference": one.mean,
         "low": one.low, "high": one.high, "beyond": one.beyond, "models": one.models}
        for measure in COMPARED
        for one in differences(found, measure)
    ]  # fmt: skip


def unbeaten(found: Records, measure: str) -> list[str]:
    """The best method and those that are not shown to differ from it; none where it is not known of
    any."""
    every = differences(found, measure) if measure in COMPARED else []
    if all(isnan(one.low) for one in every):
        return []
    return [every[0].best, *(one.method for one in every if not (one.beyond or isnan(one.low)))]


def _difference(found: Records, method: str, best: str, measure: str) -> Difference:
    cells = {
        name: {
            (row["model"], row["corruption"], row["seed"]): row.get(measure, nan)
            for row in found.rows
            if row["method"] == name
        }
        for name in (method, best)
    }
    apart = {
        cell: value - cells[best].get(cell, nan)
        for cell, value in cells[method].items()
        if not isnan(value - cells[best].get(cell, nan))
    }
    models = list(dict.fromkeys(model for model, _, _ in apart))
    seeds = list(dict.fromkeys(seed for _, _, seed in apart))
    table = np.full((len(models), len(seeds)), nan)
    for model, _, seed in apart:
        own = [v for (m, _, s), v in apart.items() if (m, s) == (model, seed)]
        table[models.index(model), seeds.index(seed)] = np.mean(own)
    mean = float(np.nanmean(table)) if apart else nan
    low, high = _interval(table, models)
    return Difference(method, best, measure, mean, low, high, len(models))


def _interval(table: Float[np.ndarray, "models seeds"], models: list[str]) -> tuple[float, float]:
    """The interval of the mean over draws of programs, and of seeds within each; nan for a single
    program."""
    of = np.array([model.partition("+")[0] for model in models])
    programs = np.unique(of)
    if len(programs) < 2:
        return nan, nan
    there = ~np.isnan(table)
    total, number = (
        np.array([own[of == program].sum(0) for program in programs])
        for own in (np.where(there, table, 0), there)
    )
    rng = np.random.default_rng(0)
    n, seeds = total.shape
    drawn = rng.integers(0, n, (RESAMPLES, n))
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), (RESAMPLES, n))
    with np.errstate(divide="ignore", invalid="ignore"):
        means = (total[drawn] * weights).sum((1, 2)) / (number[drawn] * weights).sum((1, 2))
    low, high = percentile_interval(means)
    return float(low), float(high)
