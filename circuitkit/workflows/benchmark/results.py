"""A benchmark: what it has measured, and the ways to look at it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING

import circuitkit.workflows.benchmark.pages as pages
from circuitkit.util.atomic import write_whole
from circuitkit.util.tables import as_text, to_csv, to_frame
from circuitkit.viz.figures import Lines
from circuitkit.workflows.benchmark.records import COLUMNS, Records

if TYPE_CHECKING:
    import pandas

__all__ = ["Benchmark"]

LOWER = ("hamming", "cmd", "cmd_kept", "cmd_log", *pages.SPENT)  # is better


@dataclass(frozen=True, repr=False)
class Benchmark(Records):
    """The Records of a benchmark with their figures and tables; it prints itself as a summary."""

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

    def figures(self) -> dict[str, Lines]:
        """Quality against compute, for what is defined: ``auroc`` and ``cmd``."""
        found = {}
        for measure in ("auroc", "cmd"):
            if not all(isnan(self.interval(m, measure).mean) for m in self.methods):
                found[measure] = self.front(measure)
        return found

    def markdown(self) -> str:
        """The tables: one row per method, and then per corruption and per model."""
        return pages.markdown(self)

    def save(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write ``rows.csv``, ``summary.csv``, ``summary.md`` and the figures as SVG; returns the
        files. Raises OutputError where they cannot be written."""
        place = Path(directory)
        written = [
            write_whole(place / "summary.md", self.markdown()),
            write_whole(place / "summary.csv", to_csv(self.summary())),
            write_whole(place / "rows.csv", to_csv(self.rows, COLUMNS)),
        ]
        figures = self.figures().items()
        return written + [figure.save(place / f"{name}.svg") for name, figure in figures]

    def to_frame(self) -> pandas.DataFrame:
        """A row for each method × model × corruption × seed, with the COLUMNS."""
        return to_frame(self.rows, COLUMNS)

    def __repr__(self) -> str:
        shown = {"auroc": "AUROC", "average_precision": "precision", "cpr": "CPR", "cmd": "CMD",
                 "agreement": "agreement", "sequence_backwards": "sb",
                 "cpu_seconds": "CPU s"}  # fmt: skip
        rows = [
            {"method": m, **{title: str(self.interval(m, name)) for name, title in shown.items()}}
            for m in self.methods
        ]
        failed = sum(bool(row["failed"]) for row in self.rows)
        models, seeds = len(self.options("model")), len(self.options("seed"))
        return (
            f"{as_text(rows, right=shown.values())}\n"
            f"means over {models} models, ± over {seeds} seeds; {failed} of {len(self.rows)} cells "
            "refused"
        )
