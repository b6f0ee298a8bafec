"""A study: what it has measured, and the ways to look at it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from circuitkit.util.tables import to_frame
from circuitkit.workflows.study import pages, pictures, tables, verdicts
from circuitkit.workflows.study.records import Records
from circuitkit.workflows.study.tables import Row

if TYPE_CHECKING:
    import pandas

__all__ = ["Study"]


@dataclass(frozen=True, repr=False)
class Study(Records):
    """The Records of a study with its tables, its figures, its page, and what depends on the
    choice; it prints itself as a summary."""

    def tables(self) -> dict[str, list[Row]]:
        """A table for each question of the paper, and ``effects``: every number in tidy form."""
        return tables.tables(self)

    def to_frame(self, name: str = "effects") -> pandas.DataFrame:
        """One of the tables; ``effects`` has a row for each corruption, metric and component."""
        return to_frame(self.tables()[name])

    def verdicts(self) -> list[verdicts.Verdict]:
        """Where the conclusion depends on the choice, in plain words, with the recommendation of
        the paper that applies."""
        return verdicts.verdicts(self)

    def figures(self) -> dict[str, pictures.Figure]:
        """The figures, by name (see ``circuitkit.viz.figures``)."""
        return pictures.figures(self)

    def report(self) -> str:
        """One HTML page with everything, which needs no network."""
        return pages.page(self)

    def save(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write the page, the tables as CSV and the figures as SVG; returns the files."""
        return pages.save(self, Path(directory))

    def __repr__(self) -> str:
        return pages.summary(self)

    def _repr_html_(self) -> str:
        return self.report()
