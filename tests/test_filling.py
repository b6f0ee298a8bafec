"""N edges are N: a ranking's head filled up, by an oracle that goes through every path."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from circuitkit.graph.filling import fill
from circuitkit.graph.wiring import Wiring

TINY = [
    Wiring(1, 1, 1),
    Wiring(1, 2, 1),
    Wiring(2, 1, 1),
    Wiring(2, 2, 1, parallel=True),
    Wiring(3, 2, 2, mlp=False),
    Wiring(2, 1, 1, experts=(2, 0), shared=True),
]
WIRINGS = [
    *TINY,
    Wiring(2, 4, 2),
    Wiring(3, 2, 1, parallel=True),
    Wiring(2, 2, 1, experts=(3, 2), shared=True),
]
Edge = tuple[int, int]


def drawn(wiring: Wiring, seed: int, kind: str = "large") -> tuple[np.ndarray, np.ndarray]:
    """Random whole strengths, and the ranking by them: all different, few different, or signed."""
    rng = np.random.default_rng(seed)
    low, high = {"large": (1, 10**9), "ties": (0, 3), "signed": (-(10**9), 10**9)}[kind]
    strengths = rng.integers(low, high, wiring.shape).astype(float)
    flat = np.flatnonzero(wiring.legal)
    return strengths, flat[np.argsort(-strengths.flat[flat], kind="stable")]


# -- an oracle -------------------------------------------------------------------------------------
def paths(wiring: Wiring, edges: set[Edge], start: int, ends: set[int]) -> Iterator[list[Edge]]:
    """Every path from a writer over these edges to one of these readers."""
    for row, column in [edge for edge in edges if edge[0] == start]:
        if column in ends:
            yield [(row, column)]
        for writer in (w for w in range(len(wiring.writers)) if column in wiring.feeds(w)):
            for rest in paths(wiring, edges, writer, ends):
                yield [(row, column), *rest]


def filled(wiring: Wiring, strengths: np.ndarray, ranking: np.ndarray, n: int) -> set[Edge]:
    """The edges of ``fill``, path by path."""
    every = {(int(r), int(c)) for r, c in np.argwhere(wiring.legal)}
    keep = np.zeros(wiring.shape, dtype=bool)
    kept: set[Edge] = set()
    for flat in ranking:
        keep.flat[flat] = True
        alive = wiring.alive(keep)
        if alive.sum() > n:
            break
        kept = {(int(r), int(c)) for r, c in np.argwhere(alive)}

    def value(path: list[Edge]) -> tuple[Fraction, int]:
        return Fraction(int(sum(strengths[e] for e in path)), len(path)), -len(path)

    def offers(most: int) -> list[list[Edge]]:
        writers = {0} | {w for w in range(len(wiring.writers))
                         if any(column in wiring.feeds(w) for _, column in kept)}  # fmt: skip
        readers = {len(wiring.readers) - 1} | {c for row, _ in kept for c in wiring.feeds(row)}
        single = {(w, r) for w, r in every - kept if w in writers and r in readers}
        found = (p for w in writers for p in paths(wiring, every - kept - single, w, readers))
        return [[edge] for edge in single] + [path for path in found if len(path) <= most]

    while len(kept) < min(n, len(every)):
        found = offers(n - len(kept))
        if found and not kept:
            weakest = max(min(strengths[e] for e in path) for path in found)
            found = [path for path in found if min(strengths[e] for e in path) == weakest]
        if not found:  # one is left, and a path needs two: the weakest that can go makes room
            for edge in sorted(kept, key=lambda e: strengths[e]):
                table = np.zeros(wiring.shape, dtype=bool)
                table[tuple(np.array(sorted(kept - {edge}), dtype=int).reshape(-1, 2).T)] = True
                if wiring.alive(table).sum() == len(kept) - 1:
                    found = [path for path in offers(2) if len(path) == 2]
                    kept = kept - {edge}
                    break
        kept |= set(max(found, key=value))
    return kept


@pytest.mark.parametrize("kind", ["large", "signed"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("wiring", TINY, ids=str)
def test_what_is_filled_in_is_the_best_of_every_path(wiring: Wiring, seed: int, kind: str) -> None:
    strengths, ranking = drawn(wiring, seed, kind)
    for n in range(1, min(wiring.n_edges, 24) + 1):
        keep, _ = fill(wiring, ranking, strengths, n)
        found = {(int(r), int(c)) for r, c in np.argwhere(keep)}
        assert found == filled(wiring, strengths, ranking, n), n


# -- laws ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["large", "ties", "signed"])
@pytest.mark.parametrize("wiring", WIRINGS, ids=str)
def test_n_edges_are_n_and_all_of_them_alive(wiring: Wiring, kind: str) -> None:
    for seed in range(3):
        strengths, ranking = drawn(wiring, seed, kind)
        for n in range(1, wiring.n_edges + 2):
            keep, number = fill(wiring, ranking, strengths, n)
            assert keep.sum() == min(n, wiring.n_edges)
            np.testing.assert_array_equal(wiring.alive(keep), keep)
            head = wiring.best(ranking, n)
            assert number == (keep & ~head).sum()
            assert number or np.array_equal(keep, head)


@pytest.mark.parametrize("kind", ["large", "ties"])
@pytest.mark.parametrize("wiring", WIRINGS, ids=str)
def test_the_head_is_the_longest_of_which_no_more_are_alive(wiring: Wiring, kind: str) -> None:
    _, ranking = drawn(wiring, 5, kind)
    keep, heads = np.zeros(wiring.shape, dtype=bool), []
    for flat in ranking:
        keep.flat[flat] = True
        heads.append(wiring.alive(keep))
    needed = wiring.needed(ranking)
    np.testing.assert_array_equal(needed[wiring.legal] <= len(ranking), True)
    for n in range(1, wiring.n_edges + 1):
        fits = [head for head in heads if head.sum() <= n]
        expected = fits[-1] if fits else np.zeros_like(keep)
        np.testing.assert_array_equal(wiring.best(ranking, n), expected)


def test_of_the_edges_that_a_method_chose_no_others_are_filled_in() -> None:
    wiring = WIRINGS[-3]
    strengths, ranking = drawn(wiring, 0)
    for known in (12, 40, 70):
        own = np.zeros(wiring.shape, dtype=bool)
        own.flat[ranking[:known]] = True
        for n in range(1, wiring.n_edges, 3):
            keep, _ = fill(wiring, ranking[:known], strengths, n)
            assert not (keep & ~own).any()
            assert keep.sum() <= n
            np.testing.assert_array_equal(wiring.alive(keep), keep)
        assert keep.sum() == wiring.alive(own).sum()
