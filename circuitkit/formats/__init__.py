"""Every file of a circuit that is written or read, one format family a file; without torch.

An exporter is a function ``(circuit, **style) -> str | bytes``; its name is the file suffix. Those
here write all of a circuit (``circuit.save``); those that draw a picture, which may leave edges out
(``circuit.draw``), are in ``circuitkit.viz.pictures``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitkit.registry import serve

if TYPE_CHECKING:  # what type checkers and editors see; a file that is not here is served too
    from circuitkit.formats.cytoscape import cyjs as cyjs
    from circuitkit.formats.gephi import gexf as gexf
    from circuitkit.formats.graphs import dot as dot
    from circuitkit.formats.graphs import graphml as graphml
    from circuitkit.formats.graphs import json as json
    from circuitkit.formats.links import node_link as node_link
    from circuitkit.formats.tables import csv as csv
    from circuitkit.viz.pictures.page import html as html
    from circuitkit.viz.pictures.raster import pdf as pdf
    from circuitkit.viz.pictures.raster import png as png
    from circuitkit.viz.pictures.vector import svg as svg

__getattr__, __dir__ = serve("formats")
