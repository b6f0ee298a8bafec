"""A benchmark: what it has measured, and the ways to look at it."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from itertools import pairwise
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING

import circuitkit.workflows.benchmark.pages as pages
from circuitkit.errors import UnknownNameError
from circuitkit.registry import unknown
from circuitkit.util.atomic import write_whole
from circuitkit.util.tables import as_text, to_csv, to_frame
from circuitkit.viz.figures import Lines
from circuitkit.workflows.benchmark import differences
from circuitkit.workflows.benchmark.differences import LOWER
from circuitkit.workflows.benchmark.records import COLUMNS, Records, Row
from circuitkit.workflows.folders import filled

if TYPE_CHECKING:
    import pandas

__all__ = ["Benchmark"]


@dataclass(frozen=True, repr=False)
class Benchmark(Records):
    """What a benchmark has measured, with its figures and tables.

    ``print(found)`` says it in a line, ``repr`` as a table of the methods.

    Example:
        >>> found = ck.bench(["random", "eap"], ["reverse"], ["counterfactual"], seeds=2)
        >>> print(found)
        2 methods × 1 model × 1 corruption × 2 seeds: 4 cells, 0 refused
        >>> found.to_frame().groupby("method")["auroc"].mean().idxmax()
        'eap'
        >>> found.plot("auroc")
        Lines(... series × ...)
    """

    def front(self, measure: str = "auroc", title: str = "") -> Lines:
        """The figure of a measure against sequence-backwards: a point for each method, and the line
        of the best that is to be had for so much. A method that runs nothing is a level line."""
        spent = {m: self.interval(m, "sequence_backwards").mean for m in self.methods}
        worth = {m: self.interval(m, measure).mean for m in self.methods}
        methods = [m for m in self.methods if not isnan(spent[m] + worth[m])]
        steps = sorted({spent[m] for m in methods if spent[m] > 0}) or [1.0]
        places = [*steps[:1], *(step for step in steps[1:] for _ in range(2))]  # a staircase
        bought = [*steps[:1], *(step for pair in pairwise(steps) for step in pair)]
        best, lower = (min, True) if measure in LOWER else (max, False)
        front = f"{'least' if lower else 'best'} for the cost"
        series = {front: [best(worth[m] for m in methods if spent[m] <= step) for step in bought]}
        for m in methods:
            series[m] = [worth[m] if spent[m] in (0, place) else nan for place in places]
        return Lines(
            places, series, title=title, x_name="sequence-backwards of one discovery",
            y_name=f"{pages.TITLES[measure]} ({'lower' if lower else 'higher'} is better)",
            log_x=True, zero=False, plain=[front, *(m for m in methods if not spent[m])],
        )  # fmt: skip

    def plot(self, measure: str = "auroc") -> Lines:
        """The figure of a measure against what the methods cost: ``front`` of it. Raises
        UnknownNameError for what is not measured."""
        if measure not in pages.TITLES:
            raise UnknownNameError(unknown("measure of the benchmark", measure, (*pages.TITLES,)))
        return self.front(measure)

    def figures(self) -> dict[str, Lines]:
        """Quality against compute, for what is defined: ``auroc`` and ``cmd``."""
        found = {}
        for measure in ("auroc", "cmd"):
            if not all(isnan(self.interval(m, measure).mean) for m in self.methods):
                found[measure] = self.front(measure)
        return found

    def differences(self) -> list[Row]:
        """A row for every measure and every method but the ``best`` by it: the mean ``difference``
        from the best, taken in each model; ``low`` and ``high``, its 95 % interval over programs
        and seeds; whether it is ``beyond`` those; and in how many ``models`` both have it."""
        return differences.rows(self)

    def markdown(self) -> str:
        """The tables: one row per method, and then per corruption and per model."""
        return pages.markdown(self)

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write ``rows.csv``, ``summary.csv``, ``differences.csv``, ``summary.md`` and the figures
        as SVG; returns the files. A folder that holds another run is refused, unless ``overwrite``
        replaces all files of that run. Raises OutputError then, and where they cannot be
        written."""
        with filled(directory, "benchmark", overwrite) as new:
            written = [
                write_whole(new / "summary.md", self.markdown()),
                write_whole(new / "summary.csv", to_csv(self.summary())),
                write_whole(
                    new / "differences.csv", to_csv(self.differences(), differences.COLUMNS)
                ),
                write_whole(new / "rows.csv", to_csv(self.rows, COLUMNS)),
            ]
            figures = self.figures().items()
            written += [figure.save(new / f"{name}.svg") for name, figure in figures]
        return [Path(directory) / path.name for path in written]

    def to_frame(self) -> pandas.DataFrame:
        """A row for each method × model × corruption × seed, with the COLUMNS."""
        return to_frame(self.rows, COLUMNS)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"

    def __str__(self) -> str:
        sizes = [
            f"{n} {name}{'s' * (n != 1)}"
            for name, n in (
                ("method", len(self.methods)),
                *((name, len(self.options(name))) for name in ("model", "corruption", "seed")),
            )
        ]
        failed = sum(bool(row["failed"]) for row in self.rows)
        cells = f"{len(self.rows)} cell{'s' * (len(self.rows) != 1)}"
        return f"{' × '.join(sizes)}: {cells}, {failed} refused"

    def __repr__(self) -> str:
        shown = {"auroc": "AUROC", "average_precision": "precision", "cpr": "CPR", "cmd": "CMD",
                 "agreement": "agreement", "sequence_backwards": "sb",
                 "cpu_seconds": "CPU s"}  # fmt: skip
        rows = [
            {"method": m, **{title: str(self.interval(m, name)) for name, title in shown.items()}}
            for m in self.methods
        ]
        failed = sum(bool(row["failed"]) for row in self.rows)
        best = [
            f"\nbest {shown[measure]}, or not shown to differ from it: {', '.join(names)}"
            for measure in ("auroc", "cmd")
            if (names := differences.unbeaten(self, measure))
        ]
        models, seeds = len(self.options("model")), len(self.options("seed"))
        return (
            f"{as_text(rows, right=shown.values())}\n"
            f"means over {models} model{'s' * (models != 1)}, ± over {seeds} "
            f"seed{'s' * (seeds != 1)}; {failed} of {len(self.rows)} cells refused"
            f"{''.join(best)}"
        )
