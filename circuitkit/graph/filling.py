"""A circuit of exactly so many edges: the head of a ranking, filled up with what fits beside it.

The next edge of a ranking may need many others before it lies on a path, more than are left to
choose. Then edges and paths that fit are added, the strongest first, so that n edges are n.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring

__all__ = ["fill"]

NONE = -np.inf  # the strength of what is not offered
LOOKS = (1, 3, 6, 12, 24)  # lengths at which it is seen what can still be better


def fill(
    wiring: Wiring,
    ranking: Int[np.ndarray, " edges"],
    strengths: Float[np.ndarray, "writers readers"],
    n: int,
) -> tuple[Mask, int]:
    """The best n edges of a ranking, all of them alive, and how many of these were filled in.

    They are the longest head of the ranking (flat indices, the best first) of which no more than n
    edges are alive (``Wiring.best``). Then, until there are n: the strongest edge from a writer
    that is live to a reader that is heard, or the path between such that fits what is left, through
    others (none of its edges could be added by itself), whichever has the larger mean strength; of
    equal ones the shortest, and then the first in the wiring. Where nothing of the head is alive,
    the first path is the one from the input to the logits whose weakest edge is the strongest.
    Where one edge is left and none fits, because all edges between these components are in, the
    weakest that can go makes room for a path of two.

    ``strengths`` are what the ranking is by (magnitudes for ``abs``, the scores for ``signed``).
    Only ranked edges are taken: a ranking of all edges gives exactly min(n, ``wiring.n_edges``),
    and one of the edges that a method chose may give fewer, and none where no path fits.

    Example:
        >>> from circuitkit.graph.filling import fill
        >>> keep, filled = fill(scores.wiring, scores.ranking(), np.abs(scores.values), 9)
        >>> int(keep.sum()), filled < 9
        (9, True)
    """
    head = wiring.best(ranking, n)
    if head.sum() >= min(n, len(ranking)):
        return head, 0
    offered = np.full(wiring.shape, NONE)
    offered.flat[ranking] = np.asarray(strengths).flat[ranking]
    keep = _Filling(wiring, offered, n, head).done()
    return keep, int((keep & ~head).sum())


class _Filling:
    """The edges that are kept so far, and those that are offered still, with their strengths."""

    def __init__(
        self, wiring: Wiring, strengths: Float[np.ndarray, "writers readers"], n: int, head: Mask
    ) -> None:
        self.wiring, self.strengths, self.keep = wiring, strengths, head.copy()
        self.offered = np.where(head, NONE, strengths)
        self.left = n - int(head.sum())
        feeds = [wiring.feeds(row) for row in range(len(wiring.writers))]
        width, beyond = max(map(len, feeds)), len(wiring.readers)  # a reader that nothing reaches
        self.ports = np.array([[*own, *[beyond] * (width - len(own))] for own in feeds])

    def done(self) -> Mask:
        """The mask, when all that fits is in."""
        if not self.keep.any():
            self._start()
        while self.left and (self._add() or self._make_room()):
            pass
        return self.keep

    def ends(self) -> tuple[Bool[np.ndarray, " writers"], Bool[np.ndarray, " readers"]]:
        """The writers that are live, and the readers that are heard."""
        read = np.append(self.keep.any(0), False)
        live = read[self.ports].any(1)
        live[0] = True
        heard = np.zeros(len(read), dtype=bool)
        heard[self.ports[self.keep.any(1)]] = True
        heard[-2] = True
        return live, heard[:-1]

    def _take(self, *flat: int | np.integer) -> None:
        """Keep these edges."""
        self.keep.flat[[*map(int, flat)]] = True
        self.offered.flat[[*map(int, flat)]] = NONE
        self.left -= len(flat)

    def _start(self) -> None:
        """Keep the path from the input to the logits whose weakest edge is the strongest; of
        several, the one with the largest mean."""
        weakest = _Paths(self, self.offered, np.minimum).strengths.max(initial=NONE)
        strong = np.where(self.offered >= weakest, self.offered, NONE)
        paths = _Paths(self, strong)
        if weakest > NONE:
            self._take(*paths.path(int(paths.means.argmax()) + 1))

    def _add(self) -> bool:
        """Keep single edges while no path that fits is better, and then that path; whether anything
        was kept. Single edges change neither what is live nor what is heard."""
        paths, before = _Paths(self, self.offered), self.left
        longer = paths.means[1:]
        edges = int(longer.argmax()) + 2 if longer.size else 0
        mean = longer.max(initial=NONE)
        better = int((self.offered.flat[paths.singles] >= mean).sum())
        room = self.left if mean == NONE else self.left - edges
        self._take(*paths.singles[: min(better, room)])
        if better > room and self.left:
            self._take(int(paths.singles[room]))  # so that the path no longer fits
        elif self.left and mean > NONE:
            self._take(*paths.path(edges))
        return self.left < before

    def _make_room(self) -> bool:
        """In the place of the weakest edge without which the others stay alive, keep a path of two
        edges; whether there are both."""
        if self.left > 1:
            return False
        kept = np.flatnonzero(self.keep)
        for flat in kept[np.argsort(self.strengths.flat[kept], kind="stable")]:
            rest = self.keep.copy()
            rest.flat[flat] = False
            if self.wiring.alive(rest).sum() == len(kept) - 1:
                paths = _Paths(self, self.offered, most=2)
                if len(paths.means) < 2 or paths.means[1] == NONE:
                    return False
                self.keep, self.left = rest, self.left + 1
                self._take(*paths.path(2))
                return True
        return False


class _Paths:
    """The best path of each length from a live writer to a heard reader, over offered edges none of
    which could be added by itself; of length 1 the best single edge.

    ``strengths`` are, by length, the sums of the edges' (or by ``np.minimum`` the weakest), and
    ``singles`` the best single edges, as many as are left to be found. Paths are left out that have
    no larger mean than the last of these, or than a shorter path.
    """

    def __init__(
        self,
        filling: _Filling,
        offered: Float[np.ndarray, "writers readers"],
        join: np.ufunc = np.add,
        most: int | None = None,
    ) -> None:
        self.live, self.heard = filling.ends()
        self.ports, self.join, self.most = filling.ports, join, most or filling.left
        alone = self.live[:, None] & self.heard
        self.singles = self._strongest(offered, np.flatnonzero(alone & (offered > NONE)))
        self.offered = np.where(alone, NONE, offered)
        self.last = np.where(self.heard, self.offered, NONE).max(1)
        self.reached = [np.where(self.live, 0.0 if join is np.add else np.inf, NONE)]
        self.than = NONE
        self.beyond: Float[np.ndarray, " writers"] | None = None
        found = [float(offered.flat[self.singles[0]]) if len(self.singles) else NONE]
        enough = len(self.singles) >= self.most
        least = float(offered.flat[self.singles[-1]]) if enough else NONE
        while len(found) < self.most and (self.reached[-1] > NONE).any():
            reached = self._further(self.reached[-1])
            if join is np.add:
                least = max(least, found[-1] / len(found) if len(found) > 1 else NONE)
                reached = self._hopeful(filling.wiring, reached, len(found), least)
            self.reached.append(reached)
            found.append(float(join(reached, self.last).max()))
        self.strengths = np.array(found)

    def _strongest(
        self, offered: Float[np.ndarray, "writers readers"], flat: Int[np.ndarray, " edges"]
    ) -> Int[np.ndarray, " strongest"]:
        """The strongest of these edges first, as many as are left to be found."""
        strengths = offered.flat[flat]
        if len(flat) > self.most:
            above = strengths >= -np.partition(-strengths, self.most - 1)[self.most - 1]
            flat, strengths = flat[above], strengths[above]
        return flat[np.argsort(-strengths, kind="stable")[: self.most]]

    def _hopeful(
        self, wiring: Wiring, reached: Float[np.ndarray, " writers"], edges: int, least: float
    ) -> Float[np.ndarray, " writers"]:
        """What was reached over so many edges, where the rest of a path may bring its mean above
        this one. By how much the best rest exceeds it is seen anew at some lengths only."""
        if least == NONE:
            return reached
        if self.beyond is None or edges in LOOKS:
            self.than, self.beyond = least, self._beyond(wiring, least)
        hopeful: np.ndarray = self.beyond > edges * self.than - reached
        return np.where(hopeful, reached, NONE)

    def _beyond(self, wiring: Wiring, least: float) -> Float[np.ndarray, " writers"]:
        """By how much the edges of the best path from each writer on exceed so much each."""
        beyond = np.full(len(self.live), NONE)
        read = np.where(self.heard, 0, NONE)
        for stage in reversed(wiring.stages):
            beyond[stage.rows] = (self.offered[stage.rows] - least + read).max(1)
            np.maximum.at(read, np.array(stage.feeds), beyond[stage.rows, None])
        return beyond

    def _further(self, reached: Float[np.ndarray, " writers"]) -> Float[np.ndarray, " writers"]:
        """The strength of the best path to each writer, with one edge more."""
        rows = np.flatnonzero(reached > NONE)
        read = np.full(len(self.heard) + 1, NONE)
        read[:-1] = self.join(reached[rows, None], self.offered[rows]).max(0)
        found: np.ndarray = read[self.ports].max(1)
        return found

    @property
    def means(self) -> Float[np.ndarray, " lengths"]:
        """The mean strength of the edges of the best path of each length."""
        return self.strengths / np.arange(1, len(self.strengths) + 1)

    def path(self, edges: int) -> list[int]:
        """The flat indices of the best path of so many edges."""
        if edges == 1:
            return [int(self.singles[0])]
        width = len(self.heard)
        row = int((self.reached[edges - 1] + self.last).argmax())
        found = [row * width + int(np.where(self.heard, self.offered[row], NONE).argmax())]
        for reached in reversed(self.reached[: edges - 1]):
            columns = self.ports[row][self.ports[row] < width]
            sums = reached[:, None] + self.offered[:, columns]
            row, port = divmod(int(sums.argmax()), len(columns))
            found.append(row * width + int(columns[port]))
        return found
