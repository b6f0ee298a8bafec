"""What every result of an evaluation does: become a table, and show itself in a notebook."""

from __future__ import annotations

import html
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from circuitkit.errors import CircuitkitError

if TYPE_CHECKING:
    import pandas

    from circuitkit.viz.figures import Bars, Heatmap, Lines, Panels, Points

__all__ = ["PictureResult", "TableResult"]


class TableResult(ABC):
    """A result with numbers: ``str`` is one line, ``repr`` is all of it."""

    @abstractmethod
    def to_frame(self) -> pandas.DataFrame:
        """The numbers as a pandas table."""

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


class PictureResult(TableResult):
    """A result with a picture too."""

    @abstractmethod
    def plot(self) -> Bars | Heatmap | Lines | Panels | Points:
        """The numbers as a figure, which shows itself in a notebook."""

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Write the figure of ``plot`` as ``.svg``, ``.pdf`` or ``.png``, and return the path.

        Raises OutputError for an unknown suffix, and where there is nothing to draw or the file
        cannot be written.
        """
        return self.plot().save(path)

    def _repr_html_(self) -> str:
        text = super()._repr_html_()
        try:
            return text + self.plot().svg()
        except CircuitkitError:  # where there is nothing to draw, the text says why
            return text
