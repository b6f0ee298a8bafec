"""Figures for papers as data: heat maps, bars, lines and panels, drawn as SVG with nothing
installed beside this package, and as editable matplotlib figures on request.
"""

from __future__ import annotations

from circuitkit.viz.figures.bars import Bars
from circuitkit.viz.figures.curves import Lines
from circuitkit.viz.figures.grids import Panels
from circuitkit.viz.figures.heatmaps import Heatmap

__all__ = ["Bars", "Heatmap", "Lines", "Panels"]


def __dir__() -> list[str]:
    return list(__all__)
