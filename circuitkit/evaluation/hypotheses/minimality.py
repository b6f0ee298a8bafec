"""Minimality: each edge of a circuit has more effect than randomly added edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from circuitkit.evaluation.hypotheses.sufficiency import loss
from circuitkit.evaluation.hypotheses.tested import Tested
from circuitkit.util.json_values import Json
from circuitkit.util.statistics import holm

__all__ = ["NAME", "EdgeTest", "edge_tests", "minimality"]

NAME = "minimality"


@dataclass(frozen=True)
class EdgeTest:
    """An edge of a circuit: the ``effect`` of cutting it (the root mean square of what the metric
    changes by, in metric units), and the ``share`` of random edges of inflated circuits that do
    less. ``adjusted`` is its p value among those of all edges (Holm), and ``minimal`` says that it
    is not rejected that the edge does more than nearly all random ones."""

    edge: str
    effect: float
    share: float
    p: float
    adjusted: float
    minimal: bool

    def row(self) -> dict[str, Json]:
        """Its numbers, by the names of columns."""
        return dict(vars(self))


def edge_tests(
    names: Sequence[str],
    circuit: Float[np.ndarray, " examples"],
    cut: Float[np.ndarray, "edges examples"],
    inflated: Float[np.ndarray, "draws examples"],
    deflated: Float[np.ndarray, "draws examples"],
    quantile: float = 0.9,
    alpha: float = 0.05,
) -> tuple[EdgeTest, ...]:
    """Each edge of a circuit against edges that were added by chance, the least needed first.

    ``cut`` is the circuit without each edge, ``inflated`` the circuit with a random path, and
    ``deflated`` that without one of the path's new edges. The null hypothesis is that the edge does
    more than at least a ``quantile`` of these; the binomial test, one-sided. Source: Shi et al.
    (2024), with Holm's correction for the edges in place of Bonferroni's.
    """
    from scipy.stats import binom

    effects = loss(cut, circuit)
    chance = np.square(inflated - deflated).mean(-1)
    above = (effects[:, None] > chance).sum(1)
    p = binom.cdf(above, len(chance), quantile)
    adjusted = holm(p)
    order = np.argsort(effects, kind="stable")
    return tuple(
        EdgeTest(
            names[i], float(np.sqrt(effects[i])), float(above[i] / len(chance)), float(p[i]),
            float(adjusted[i]), bool(adjusted[i] > alpha),
        )
        for i in order
    )  # fmt: skip


def minimality(
    edges: Sequence[EdgeTest], draws: int, quantile: float = 0.9, level: float = 0.05
) -> Tested:
    """Whether all edges of a circuit are needed, of what was found of each.

    The effect is the share of edges that are rejected; p is the least of the edges' adjusted ones,
    so that it is of all of them together. The power is that of the first edge that does no more
    than half of the random ones.
    """
    from scipy.stats import binom

    useless = sum(not one.minimal for one in edges)
    within = level / len(edges)
    most = max((k for k in range(draws + 1) if binom.cdf(k, draws, quantile) <= within), default=-1)
    return Tested(
        NAME, f"{useless} of {len(edges)}",
        f"{useless} of {len(edges)} edges have no more effect than randomly added ones",
        useless / len(edges), trials=len(edges), p=min(one.adjusted for one in edges),
        power=float(binom.cdf(most, draws, 0.5)) if most >= 0 else 0.0,
        against="an edge with more effect than only 50% of random ones",
    )  # fmt: skip
