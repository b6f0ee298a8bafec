"""Random circuits that hang together: paths from the input to the logits, until they are large
enough."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring

__all__ = ["drawn_masks", "inflated", "inside", "walk"]

PATIENCE = 100  # walks that may be too long


def drawn_masks(wiring: Wiring, edges: int, n: int, seed: int) -> list[Mask]:
    """The masks of ``random_masks``; there may be none, and none of their edges."""
    rng = np.random.default_rng(seed)
    return [_grown(wiring, min(edges, wiring.n_edges), rng) for _ in range(n)]


def _grown(wiring: Wiring, edges: int, rng: np.random.Generator) -> Mask:
    """Random walks from the logits down to the embedding; where the next is too long, single edges
    between components that are in already; from the start again where these are too few."""
    if edges == wiring.n_edges:
        return wiring.legal.copy()
    keep = np.zeros(wiring.shape, dtype=bool)
    left, patience = edges, PATIENCE
    while left and patience:
        path = tuple(np.array([*walk(wiring, rng)]).T)
        new = int((~keep[path]).sum())
        if new <= left:
            keep[path] = True
            left -= new
        else:
            patience -= 1
    fits = inside(wiring, keep) & ~keep
    chosen = rng.permutation(np.flatnonzero(fits))[:left]
    keep.reshape(-1)[chosen] = True
    return keep if keep.sum() == edges else _grown(wiring, edges, rng)


def inflated(wiring: Wiring, keep: Mask, n: int, seed: int) -> list[tuple[Mask, Mask]]:
    """n times the circuit with a random path from the input to the logits, and the same without one
    of the path's new edges, drawn evenly. The circuit has to lack an edge.

    Source: the inflated circuits of Shi et al. (2024).
    """
    rng = np.random.default_rng(seed)
    found: list[tuple[Mask, Mask]] = []
    while len(found) < n:
        larger = keep.copy()
        larger[tuple(np.array([*walk(wiring, rng)]).T)] = True
        new = np.flatnonzero(larger & ~keep)
        if len(new):
            smaller = larger.copy()
            smaller.flat[rng.choice(new)] = False
            found.append((larger, smaller))
    return found


def walk(wiring: Wiring, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """The edges of a path, each writer drawn evenly from those upstream."""
    column = wiring.shape[1] - 1
    while True:
        row = int(rng.integers(wiring.since[column], wiring.upstream[column]))
        yield row, column
        if row == 0:
            return
        column = int(rng.choice(wiring.feeds(row)))


def inside(wiring: Wiring, keep: Mask) -> Mask:
    """The edges that would be live in a circuit without dead ends, its own included: from a writer
    that it has to a reader that is heard."""
    live = np.asarray(keep.any(1))
    live[0] = True
    heard = np.zeros(wiring.shape[1], dtype=bool)
    heard[-1] = True
    for row in np.flatnonzero(live):
        heard[wiring.feeds(int(row))] = True
    return wiring.legal & live[:, None] & heard[None, :]
