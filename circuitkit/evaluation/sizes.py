"""The smallest size that reaches a target, where what is measured does not simply grow with size.

Of one ranking 17 edges may keep 0.88 and 60 keep 0.56. So sizes lie densely: all up to 24, and then
a fifth more at each step. Those of a stack share runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

__all__ = ["STACK", "Sizes", "rungs"]

EVERY = 24  # up to here all sizes are tried
STEP = 1.2  # from one size to the next above
STACK = 8  # sizes that share their runs
ABOVE = 2  # sizes are looked at up to so many times the first that reaches the target
LOOKS = 3  # stacks for places below it where faithfulness falls with size

Cut = TypeVar("Cut")


def rungs(total: int) -> list[int]:
    """The sizes that are tried, up to so many edges: all up to 24, and then each a fifth more than
    the one before."""
    sizes = [*range(1, min(total, EVERY) + 1)]
    while sizes[-1] < total:
        sizes.append(min(total, int(sizes[-1] * STEP)))
    return sizes


class Sizes(Generic[Cut]):
    """The sizes that were measured so far: of each the number of edges and its faithfulness.

    ``cut`` gives the circuits of some sizes, ``edges_of`` the number of edges of one (fewer than
    asked for, where there are no more), and ``measured`` the faithfulness of each of several.
    """

    def __init__(
        self,
        units: int,
        target: float,
        cut: Callable[[Sequence[int]], Sequence[Cut]],
        edges_of: Callable[[Cut], int],
        measured: Callable[[Sequence[Cut]], Sequence[float]],
    ) -> None:
        self.units, self.target = units, target
        self.cut, self.edges_of, self.measured = cut, edges_of, measured
        self.edges: dict[int, int] = {}  # of what was asked for
        self.values: dict[int, float] = {0: 0.0}  # by edges; of nothing kept it is 0

    def search(self) -> None:
        """Look for the smallest size that reaches the target."""
        self.climb()
        self.descend()
        self.look_around()

    def measure(self, sizes: Sequence[int]) -> None:
        """Measure these sizes, those that are new."""
        new = [n for n in sizes if n not in self.edges]
        circuits: dict[int, Cut] = {}
        for n, one in zip(new, self.cut(new), strict=True):
            self.edges[n] = self.edges_of(one)
            if self.edges[n] not in self.values:
                circuits[self.edges[n]] = one
        if circuits:
            self.values |= zip(circuits, self.measured([*circuits.values()]), strict=True)

    def at(self, n: int) -> float:
        """The faithfulness of a size that was measured."""
        return self.values[self.edges[n]]

    @property
    def high(self) -> int | None:
        """The smallest size known to reach the target."""
        return min((n for n in self.edges if self.at(n) >= self.target), default=None)

    def between(self, low: int, high: int) -> list[int]:
        """A stack of sizes between two others, spread evenly."""
        inner = np.linspace(low, high, STACK + 2)[1:-1].round().astype(int)
        return sorted({int(n) for n in inner} - {low, high})

    def climb(self) -> None:
        """Measure growing sizes until one reaches the target, and further ones up to twice that."""
        sizes = rungs(self.units)
        for start in range(0, len(sizes), STACK):
            self.measure(sizes[start : start + STACK])
            if self.high is not None:
                self.measure([n for n in sizes if self.high < n <= ABOVE * self.high])
                return

    def descend(self) -> None:
        """Narrow down the sizes between the smallest that reaches the target and the one below."""
        while self.high is not None:
            low = max((n for n in self.edges if n < self.high), default=0)
            if self.high - low <= 1:
                return
            self.measure(self.between(low, self.high))

    def look_around(self) -> None:
        """Measure sizes around those below the smallest that reaches the target where a larger
        circuit is worse, if faithfulness falls so much among such sizes that a step up as large
        would reach it here."""
        for _ in range(LOOKS):
            high = self.high
            sizes = sorted(n for n in self.edges if high is not None and n <= high)
            steps = [*zip([0, *sizes], sizes, sizes[1:], strict=False)]
            falls = {n: self.at(n) - self.at(after) for _, n, after in steps}
            near = [
                (self.at(n), before, after)
                for before, n, after in steps
                if falls[n] > 0 and after - before > 2
                if self.at(n) + max(falls[m] for m in falls if n / 2 <= m <= 2 * n) >= self.target
            ]
            if not near:
                return
            _, before, after = max(near)
            self.measure(self.between(before, after))
            self.descend()

    def missed(self) -> str:
        """What to say where no size reaches the target."""
        most = max(self.edges.values(), default=0)
        return (
            f"no circuit reaches the faithfulness {self.target}: that of all {most:,} edges "
            f"is {self.values[most]:.4g}; ask for less"
        )
