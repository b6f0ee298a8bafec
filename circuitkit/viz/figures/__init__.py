"""Figures for papers as data: heat maps, lines, bars, points and panels of them, drawn as SVG with
nothing installed beside this package, and as editable matplotlib figures on request.
"""

from __future__ import annotations

from circuitkit.viz.figures.bars import Bars
from circuitkit.viz.figures.curves import Lines
from circuitkit.viz.figures.grids import Panels
from circuitkit.viz.figures.heatmaps import Heatmap
from circuitkit.viz.figures.points import Points

__all__ = ["Bars", "Heatmap", "Lines", "Panels", "Points"]


def __dir__() -> list[str]:
    return list(__all__)
