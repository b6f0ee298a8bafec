"""The masks that are evaluated: a circuit's own, that of its nodes, and random ones of its size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import networkx as nx
import numpy as np

from circuitkit.engine.inputs import refuse
from circuitkit.errors import CircuitError
from circuitkit.graph import circuit as circuits
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Graph, Mask
from circuitkit.graph.wiring import Wiring

__all__ = [
    "CircuitLike",
    "as_mask",
    "as_masks",
    "is_one",
    "node_level",
    "random_masks",
    "require_scores",
]


def require_scores(scores: object) -> None:
    """Raise ArgumentError where this is no Scores."""
    if not isinstance(scores, Scores):
        refuse("scores", scores, "the Scores of a discovery method")


@runtime_checkable
class _Found(Protocol):
    """What holds a circuit, as a Discovery does."""

    @property
    def circuit(self) -> Circuit:
        """The circuit."""


CircuitLike: TypeAlias = Graph | Mask | _Found


def is_one(circuit: CircuitLike | Sequence[CircuitLike]) -> bool:
    """Whether this is one circuit, rather than several."""
    return not isinstance(circuit, list | tuple)


def as_masks(circuit: CircuitLike | Sequence[CircuitLike], wiring: Wiring) -> list[Mask]:
    """The mask of a circuit, or of each of several; raises as ``as_mask`` does."""
    each: list[Any] = [*circuit] if isinstance(circuit, list | tuple) else [circuit]
    return [as_mask(one, wiring) for one in each]


def as_graph(circuit: CircuitLike) -> Graph | Mask:
    """The graph of a Discovery; a graph or a mask as it is. Raises as ``as_mask`` does."""
    if isinstance(circuit, Scores):
        raise CircuitError("scores are not a circuit; choose one: scores.top(100)")
    graph = circuit if isinstance(circuit, nx.DiGraph) else getattr(circuit, "circuit", circuit)
    if not isinstance(graph, nx.DiGraph | np.ndarray):
        refuse("circuit", circuit, "a circuit, or a mask over the model's edges")
    return graph


def as_mask(circuit: CircuitLike, wiring: Wiring) -> Mask:
    """The mask of a circuit, which may be one already; raises ArgumentError for what is not a
    circuit, and CircuitError where it does not fit the wiring."""
    graph = as_graph(circuit)
    found = graph if isinstance(graph, np.ndarray) else circuits.mask(graph)
    theirs = None if isinstance(graph, np.ndarray) else circuits.wiring_of(graph)
    if found.shape != wiring.shape or theirs not in (None, wiring):
        raise CircuitError(
            f"the circuit belongs to {theirs or f'a mask of shape {found.shape}'}, and the model "
            f"to {wiring}; give a circuit of this model"
        )
    return found


def node_level(circuit: CircuitLike, wiring: Wiring) -> Mask:
    """The mask of a circuit's nodes: every edge out of every one of them, so that in its run each
    other node is ablated as a whole, and not edge by edge (Miller et al. 2024).

    A node belongs to the circuit if it writes or reads in it; by a port that heads share, none of
    them reads alone. Raises CircuitError where the circuit does not fit the wiring.
    """
    keep = as_mask(circuit, wiring) & wiring.legal
    held = keep.any(1)
    for reader, read in zip(wiring.readers, keep.any(0), strict=True):
        if reader.component in wiring.writer:
            held[wiring.writer[reader.component]] |= read
    whole: Mask = wiring.legal & held[:, None]
    return whole


def random_masks(wiring: Wiring, edges: int, n: int = 5, seed: int = 0) -> list[Mask]:
    """Random circuits of exactly that many edges (or all), without dead ends.

    Returns n masks [writers, readers] over the wiring.

    Example:
        >>> [int(mask.sum()) for mask in ck.random_masks(model.wiring, 30, n=2)]
        [30, 30]
    """
    rng = np.random.default_rng(seed)
    return [_grown(wiring, min(edges, wiring.n_edges), rng) for _ in range(n)]


def _grown(wiring: Wiring, edges: int, rng: np.random.Generator) -> Mask:
    """Random walks from the logits down to the embedding; where the next is too long, single edges
    between components that are in already; from the start again where these are too few."""
    keep = np.zeros(wiring.shape, dtype=bool)
    patience = 100
    while (left := edges - int(keep.sum())) and patience:
        walk = np.array(list(_walk(wiring, rng))).T
        grown = keep.copy()
        grown[tuple(walk)] = True
        if grown.sum() <= edges:
            keep = grown
        else:
            patience -= 1
    fits = wiring.legal & ~keep & _inside(wiring, keep)
    chosen = rng.permutation(np.flatnonzero(fits))[:left]
    keep.reshape(-1)[chosen] = True
    return keep if keep.sum() == edges else _grown(wiring, edges, rng)


def _walk(wiring: Wiring, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """The edges of a path, each writer drawn evenly from those upstream."""
    column = wiring.shape[1] - 1
    while True:
        row = int(rng.integers(wiring.upstream[column]))
        yield row, column
        if row == 0:
            return
        column = int(rng.choice(wiring.feeds(row)))


def _inside(wiring: Wiring, keep: Mask) -> Mask:
    """The pairs of a writer that is live and a reader that is heard."""
    live = np.asarray(keep.any(1))
    live[0] = True
    heard = np.zeros(wiring.shape[1], dtype=bool)
    heard[-1] = True
    for row in np.flatnonzero(live):
        heard[wiring.feeds(int(row))] = True
    return live[:, None] & heard[None, :]
