"""The two forms of a circuit: a graph of named edges, and a mask over a wiring's edges."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import networkx as nx
import numpy as np
from jaxtyping import Bool

__all__ = ["Graph", "Mask", "is_graph"]

if TYPE_CHECKING:
    _Named: TypeAlias = nx.DiGraph[str]
else:
    _Named = nx.DiGraph  # which takes no parameter when it runs

Graph: TypeAlias = _Named
Mask: TypeAlias = Bool[np.ndarray, "writers readers"]


def is_graph(value: object) -> bool:
    """Whether this is a directed graph, or None."""
    return value is None or isinstance(value, nx.DiGraph)
