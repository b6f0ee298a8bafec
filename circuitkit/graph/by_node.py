"""Scores of nodes, spread on the edges between them: an edge is worth its weaker end."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from circuitkit.graph.wiring import Wiring

__all__ = ["of_nodes", "spread", "weaker_end"]


def of_nodes(table: Float[np.ndarray, "writers readers"]) -> Float[np.ndarray, " writers"]:
    """The score of each writer: the sum of those of its out-edges. By attribution this is the
    node's own (Nanda 2022), as its out-edges carry the same."""
    sums: np.ndarray = table.sum(1, dtype=np.float64)
    return sums


def spread(
    wiring: Wiring, nodes: Float[np.ndarray, " writers"]
) -> Float[np.ndarray, "writers readers"]:
    """The table of edges between nodes with these scores, in which the last column holds the
    nodes' own; the embedding, which every circuit has, is as strong as the strongest node."""
    own = nodes.copy()
    own[0] = np.abs(nodes[1:]).max(initial=0)
    table: np.ndarray = np.where(wiring.legal, weaker_end(wiring, own), 0)
    return table


def weaker_end(
    wiring: Wiring, nodes: Float[np.ndarray, " writers"]
) -> Float[np.ndarray, "writers readers"]:
    """The smaller magnitude of a writer's score and that of the node which the reader feeds,
    negative where one of the two is; a port that heads share counts with the strongest of them, and
    the logits with none."""
    fed = np.zeros(wiring.shape[1])
    fed[-1] = np.inf
    for row in range(1, len(nodes)):
        columns = wiring.feeds(row)
        fed[columns] = np.where(np.abs(fed[columns]) < abs(nodes[row]), nodes[row], fed[columns])
    magnitude = np.minimum(np.abs(nodes)[:, None], np.abs(fed))
    return np.asarray(np.where((nodes[:, None] < 0) | (fed < 0), -magnitude, magnitude))
