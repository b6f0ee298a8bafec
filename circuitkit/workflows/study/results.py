"""A study: what it has measured, and the ways to look at it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from circuitkit.errors import UnknownNameError
from circuitkit.registry import unknown
from circuitkit.util.tables import to_frame
from circuitkit.util.templates import framed
from circuitkit.workflows.study import pages, pictures, tables, verdicts
from circuitkit.workflows.study.records import Records
from circuitkit.workflows.study.tables import Row

if TYPE_CHECKING:
    import pandas

__all__ = ["Study"]


@dataclass(frozen=True, repr=False)
class Study(Records):
    """What a study has measured: its tables, figures and page, and what depends on the choices.

    ``print(found)`` gives one line, ``repr`` the full summary, and a notebook shows the page.
    Effects are in the metric's units per example; the ``direction`` of the patching is in
    ``about``.

    Example:
        >>> found = ck.study(
        ...     model, "ioi", ("logit_diff",), ("counterfactual",), windows=(), circuits=(),
        ...     examples=8,
        ... )
        >>> print(found)
        ioi on mini: 8 examples, 1 corruption × 1 metric, denoise
        >>> found.to_frame()[["corruption", "metric", "node", "effect"]].head(1).shape
        (1, 4)
        >>> found.plot("heads")
        Panels(1 figures, 'The effect of each head')
    """

    def tables(self) -> dict[str, list[Row]]:
        """A table for each question of the paper, and ``effects``: every number in tidy form."""
        return tables.tables(self)

    def to_frame(self, name: str = "effects") -> pandas.DataFrame:
        """One of the tables; ``effects`` has a row for each corruption, metric and component.
        Raises UnknownNameError where there is no such table."""
        found = self.tables()
        if name not in found:
            raise UnknownNameError(unknown("table of the study", name, tuple(found)))
        return to_frame(found[name])

    def verdicts(self) -> list[verdicts.Verdict]:
        """Where the conclusion depends on the choice, in plain words, with the recommendation of
        the paper that applies."""
        return verdicts.verdicts(self)

    def figures(self) -> dict[str, pictures.Figure]:
        """The figures, by name (see ``circuitkit.viz.figures``)."""
        return pictures.figures(self)

    def plot(self, name: str = "heads") -> pictures.Figure:
        """One of the figures: ``heads``, a heat map for each corruption and metric, ``stream``,
        ``thresholds``, ...; raises UnknownNameError where there is no such figure."""
        found = self.figures()
        if name not in found:
            raise UnknownNameError(unknown("figure of the study", name, tuple(found)))
        return found[name]

    def report(self) -> str:
        """One HTML page with everything, which needs no network."""
        return pages.page(self)

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write the page (``report.html``), an interactive page of the first two circuits
        (``circuits.html``, where there are any), the tables as CSV and the figures as SVG into a
        folder; returns the files. A folder that holds another run is refused, unless ``overwrite``
        replaces all files of that run. Raises OutputError then, and where they cannot be
        written."""
        return pages.save(self, directory, overwrite)

    def __str__(self) -> str:
        about = self.about
        sizes = [
            f"{len(own)} {name}{'s' * (len(own) != 1)}"
            for name, own in (("corruption", self.corruptions), ("metric", self.metrics))
        ]
        return (
            f"{about['task']} on {about['model']}: {about['examples']} examples, "
            f"{' × '.join(sizes)}, {about['direction']}"
        )

    def __repr__(self) -> str:
        return pages.summary(self)

    def _repr_html_(self) -> str:
        return framed(self.report(), "A study")
