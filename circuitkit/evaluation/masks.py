"""The masks that are evaluated: a circuit's own, that of its nodes, and random ones of its size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from circuitkit.errors import CircuitError
from circuitkit.graph import circuit as circuits
from circuitkit.graph.types import Graph, Mask
from circuitkit.graph.wiring import Wiring

__all__ = ["as_mask", "node_level", "random_masks"]


def as_mask(circuit: Graph | Mask, wiring: Wiring) -> Mask:
    """The mask of a circuit, which may be one already; raises CircuitError where it does not fit
    the wiring."""
    found = circuit if isinstance(circuit, np.ndarray) else circuits.mask(circuit)
    theirs = None if isinstance(circuit, np.ndarray) else circuits.wiring_of(circuit)
    if found.shape != wiring.shape or theirs not in (None, wiring):
        raise CircuitError(
            f"the circuit belongs to {theirs or f'a mask of shape {found.shape}'}, and the model "
            f"to {wiring}; give a circuit of this model"
        )
    return found


def node_level(circuit: Graph | Mask, wiring: Wiring) -> Mask:
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
    """Circuits of exactly that many edges (or all), drawn at random, that hang together."""
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
