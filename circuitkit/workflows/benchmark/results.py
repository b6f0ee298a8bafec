"""A benchmark: what it has measured, and the ways to look at it."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

import circuitkit.workflows.benchmark.pages as pages
import circuitkit.workflows.benchmark.report as report
from circuitkit.errors import UnknownNameError
from circuitkit.registry import unknown
from circuitkit.util.atomic import write_whole
from circuitkit.util.tables import as_text, to_csv, to_frame
from circuitkit.viz.figures import Panels
from circuitkit.workflows.benchmark.choosing import CHOICES, choices
from circuitkit.workflows.benchmark.fronts import figures
from circuitkit.workflows.benchmark.records import (
    COLUMNS,
    DIFFERENCES,
    TRUTHS,
    Place,
    Records,
    Row,
    short,
)
from circuitkit.workflows.folders import filled

if TYPE_CHECKING:
    import pandas

__all__ = ["Benchmark"]

MOST = 40  # methods that are printed one by one


@dataclass(frozen=True, repr=False)
class Benchmark(Records):
    """What a benchmark has measured, with its figures and tables.

    ``print(found)`` gives a one-line summary, ``repr`` a table of the methods.

    Example:
        >>> found = ck.bench(["random", "eap"], ["reverse"], ["counterfactual"], seeds=1)
        >>> print(found)
        2 methods × 1 model × 1 corruption × 1 seed: 2 cells, 0 refused
        >>> found.to_frame().groupby("method")["average_precision"].mean().idxmax()
        'eap'
        >>> sorted(found.figures())
        ['ap-plain', 'cmd-plain']
    """

    def figures(self) -> dict[str, Panels]:
        """Quality against cost (sequence-backwards, CPU seconds), a panel for each corruption: for
        each block ``ap-BLOCK`` (average precision) and ``cmd-BLOCK``, and ``cmd-real``."""
        return figures(self)

    def plot(self, name: str = "") -> Panels:
        """One of the ``figures``, the first by default; raises UnknownNameError for another."""
        made = self.figures()
        if name and name not in made:
            raise UnknownNameError(unknown("figure of the benchmark", name, tuple(made)))
        return made[name] if name else next(iter(made.values()))

    def choices(self) -> list[Row]:
        """Rows for each block × corruption × budget: the method that is best on half of the
        programs, ``by`` average precision and by CMD, and how well it does on the other half and on
        the real models, with the difference from the reference there."""
        return choices(self)

    def markdown(self) -> str:
        """The tables: what was chosen, and a table for each block of models and corruption."""
        return pages.markdown(self)

    def report(self) -> str:
        """One HTML page with a summary, the figures and the tables, which needs no network."""
        return report.page(self, self._drawn())

    def tables(self) -> dict[str, str]:
        """The tables as CSV: ``summary``, ``differences``, ``choices``, ``truths``, ``rows``."""
        return {
            "summary": to_csv(self.summary()),
            "differences": to_csv(self.differences(), DIFFERENCES),
            "choices": to_csv(self.choices(), CHOICES),
            "truths": to_csv(self.truths, TRUTHS),
            "rows": to_csv(self.rows, COLUMNS),
        }

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write ``summary.md``, the page ``summary.html``, ``summary.csv``, ``differences.csv``,
        ``choices.csv``, ``truths.csv``, ``rows.csv`` and the figures as SVG; returns the files. A
        folder that holds another run is refused, unless ``overwrite`` replaces all files of that
        run. Raises OutputError then, and where they cannot be written."""
        with filled(directory, "benchmark", overwrite) as new:
            drawn = self._drawn()
            written = [write_whole(new / "summary.md", self.markdown())]
            written.append(write_whole(new / "summary.html", report.page(self, drawn)))
            for name, table in self.tables().items():
                written.append(write_whole(new / f"{name}.csv", table))
            for name, figure in drawn.items():
                written.append(write_whole(new / f"{name}.svg", figure))
        return [Path(directory) / path.name for path in written]

    def _drawn(self) -> dict[str, str]:
        """Each figure as SVG."""
        return {name: figure.svg() for name, figure in self.figures().items()}

    def to_frame(self) -> pandas.DataFrame:
        """A row for each method × model × corruption × seed, with the COLUMNS."""
        return to_frame(self.rows, COLUMNS)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"

    def __str__(self) -> str:
        sizes = [
            f"{n} {name}{'s' * (n != 1)}"
            for name, n in (
                (name, len(self.options(name)))
                for name in ("method", "model", "corruption", "seed")
            )
        ]
        failed = sum(bool(row["failed"]) for row in self.rows)
        cells = f"{len(self.rows)} cell{'s' * (len(self.rows) != 1)}"
        return f"{' × '.join(sizes)}: {cells}, {failed} refused"

    def __repr__(self) -> str:
        shown, total = self._sorted(), len(self.cells)
        if total > MOST:
            shown = self._leading()
        lines = [self._line(place) for place in shown]
        right = ("budget", "precision", "AP - ref", "CMD", "CMD - ref", "sb", "CPU s")
        left_out = f"; the best and the reference of {total} methods and places"
        programs, seeds = len(self.options("program")), len(self.options("seed"))
        return (
            f"{as_text(lines, right=right)}\n"
            f"means over {programs} program{'s' * (programs != 1)} and {seeds} "
            f"seed{'s' * (seeds != 1)}; {sum(bool(row['failed']) for row in self.rows)} of "
            f"{len(self.rows)} cells refused{left_out if total > MOST else ''}"
        )

    def _leading(self) -> list[Place]:
        """At each place and budget the best method, and the reference."""
        kept: dict[Place, None] = {}
        seen = set()
        for place in self._sorted():
            if place[:3] not in seen:
                seen.add(place[:3])
                kept |= dict.fromkeys((place, self.reference(place) or place))
        return list(kept)

    def _line(self, place: Place) -> Row:
        """A method as it is printed."""
        line: Row = {"models": place.block, "corruption": place.corruption}
        if place.budget:
            line["budget"] = place.budget
        line["method"] = place.method
        for measure, name in (("average_precision", "precision"), ("cmd", "CMD")):
            line[name] = str(self.estimate(place, measure))
            apart = self.difference(place, measure).mean
            line[f"{'AP' if name == 'precision' else name} - ref"] = (
                "" if isnan(apart) or place == self.reference(place) else f"{apart:+.3f}"
            )
        for measure, name in (("sequence_backwards", "sb"), ("cpu_seconds", "CPU s")):
            line[name] = short(self.estimate(place, measure).mean)
        return line
