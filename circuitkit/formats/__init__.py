"""Every file of a circuit that is written or read, one format family a file; without torch.

An exporter is a function ``(circuit, **style) -> str | bytes``; its name is the file suffix. Those
that draw are in ``circuitkit.viz.pictures``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitkit.registry import serve

if TYPE_CHECKING:  # what type checkers and editors see; a file that is not here is served too
    from circuitkit.formats.tables import csv as csv
    from circuitkit.formats.tables import graphml as graphml
    from circuitkit.formats.tables import json as json
    from circuitkit.viz.pictures.graphviz import dot as dot
    from circuitkit.viz.pictures.raster import pdf as pdf
    from circuitkit.viz.pictures.raster import png as png
    from circuitkit.viz.pictures.vector import svg as svg

__getattr__, __dir__ = serve("formats")
