"""Edges as they are asked for: a circuit, names, pairs or a mask, as rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import networkx as nx
import numpy as np
from jaxtyping import Int

from circuitkit.errors import CircuitError
from circuitkit.graph import circuit as circuits
from circuitkit.graph.nodes import Node, parse_edge
from circuitkit.graph.types import Graph, Mask
from circuitkit.graph.wiring import Wiring

__all__ = ["Edges", "indices", "is_edges", "pairs"]

Edges: TypeAlias = Graph | Sequence[str | tuple[str, str]] | Mask | None


def indices(
    wiring: Wiring, edges: Edges
) -> tuple[Int[np.ndarray, " edges"], Int[np.ndarray, " edges"]]:
    """Row and column of every edge, in the order asked; what ``edges`` may be, ``patch_edges``
    says. Raises CircuitError for an edge that the wiring lacks, or a mask of another shape."""
    if edges is None:
        places = np.argwhere(wiring.legal)
    elif isinstance(edges, np.ndarray):
        places = _of_mask(wiring, edges)
    else:
        places = np.array([wiring.index(*pair) for pair in pairs(edges)], dtype=np.int64)
    rows, columns = places.reshape(-1, 2).T
    return rows, columns


def is_edges(edges: object) -> bool:
    """Whether this is something that names edges: a circuit, names or pairs, a mask, or None."""
    if edges is None or isinstance(edges, str | nx.DiGraph | np.ndarray):
        return True
    if not isinstance(edges, list | tuple | set | frozenset):
        return False
    return all(
        isinstance(edge, str)
        or (isinstance(edge, tuple | list) and len(edge) == 2 and isinstance(edge[0], str))
        for edge in edges
    )


def _of_mask(wiring: Wiring, mask: Mask) -> Int[np.ndarray, "edges 2"]:
    if mask.shape != wiring.shape or mask.dtype != bool:
        raise CircuitError(
            f"the mask is of {mask.dtype} and has the shape {mask.shape}, and the wiring "
            f"{wiring.shape}; give a mask of bool over this model's writers and readers"
        )
    for row, column in np.argwhere(mask & ~wiring.legal):
        wiring.index(wiring.writers[row], wiring.readers[column])  # which raises
    return np.argwhere(mask)


def pairs(edges: Graph | Sequence[str | tuple[str, str]]) -> list[tuple[Node, Node]]:
    """Writer and reader of each edge of a circuit, or of these names."""
    if isinstance(edges, nx.DiGraph):
        return [(writer, reader) for writer, reader, _ in circuits.edges(edges)]
    listed = [edges] if isinstance(edges, str) else edges
    return [
        parse_edge(edge) if isinstance(edge, str) else (Node(edge[0]), Node(edge[1]))
        for edge in listed
    ]
