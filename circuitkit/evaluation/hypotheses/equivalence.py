"""Equivalence: the circuit is as often above the model as below it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from circuitkit.evaluation.hypotheses.tested import Tested, interval_of_share

__all__ = ["EPSILON", "NAME", "PROMPTS", "equivalence", "equivalence_p", "wins"]

NAME = "equivalence"
EPSILON = 0.1  # how far from one half the share of wins may be
PROMPTS = 96  # on which it is tested, at least, where there is a choice
FAR = 0.25  # the share of wins, or of losses, that the power is against
SAME = 1e-5  # of the largest value: values that are closer are the same


def equivalence(
    circuit: Float[np.ndarray, " examples"],
    everything: Float[np.ndarray, " examples"],
    epsilon: float = EPSILON,
    level: float = 0.05,
) -> Tested:
    """Whether circuit and model are above each other equally often: the sign test on the share of
    prompts on which the circuit's metric is above the model's.

    The null hypothesis is that this share is within ``epsilon`` of one half; p is its largest under
    it. Where the two are the same but for rounding, that is half a win. ``level`` is that at which
    it is rejected, for its power. Source: Shi et al. (2024), whose code takes the mean difference
    for the share; this is the form of the paper.
    """
    from scipy.stats import binom

    n, above = len(circuit), wins(circuit, everything)
    counts = np.arange(n + 1)
    rejects = np.array([equivalence_p(k, n, epsilon) <= level for k in range(n + 1)])
    power = float(binom.pmf(counts[rejects], n, FAR).sum())
    return Tested(
        NAME, f"{above:g} of {n}", f"above the model on {above:g} of {n} prompts", above / n,
        *interval_of_share(above, n), n, equivalence_p(above, n, epsilon), power,
        f"a circuit above the model on {FAR:.0%} or {1 - FAR:.0%} of prompts",
    )  # fmt: skip


def wins(
    circuit: Float[np.ndarray, " examples"], everything: Float[np.ndarray, " examples"]
) -> float:
    """On how many prompts the circuit is above the model; where they are the same, half a one."""
    same = SAME * float(np.abs(everything).max())
    away = circuit - everything
    return float((away > same).sum() + (np.abs(away) <= same).sum() / 2)


def equivalence_p(above: float, n: int, epsilon: float = EPSILON) -> float:
    """The probability of a share at least as far from one half, at a true one of ½ + ε."""
    from scipy.stats import binom

    counts = np.arange(n + 1)
    far = np.abs(counts / n - 0.5) >= abs(above / n - 0.5) - 1e-9
    return min(1.0, float(binom.pmf(counts[far], n, 0.5 + epsilon).sum()))
