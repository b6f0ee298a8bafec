"""Independence: what is left without the circuit does not know what the model does."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from circuitkit.evaluation.hypotheses.tested import Tested

__all__ = ["NAME", "hsic", "independence"]

NAME = "independence"


def independence(
    everything: Float[np.ndarray, " examples"],
    without: Float[np.ndarray, " examples"],
    permutations: int = 1000,
    seed: int = 0,
    reason: str = "",
) -> Tested:
    """Whether the metric of the model and that without the circuit are independent over prompts.

    By the Hilbert-Schmidt independence criterion (Gretton et al. 2007), and random permutations of
    the prompts; p counts the sample itself, so that it is never 0. The effect is the criterion as a
    share of its largest, 0 to 1. ``reason``: why it is reported only. Source: Shi et al. (2024).
    """
    mine, theirs = _centred(everything), _centred(without)
    found = float((mine * theirs).sum())
    most = float(np.sqrt(np.square(mine).sum() * np.square(theirs).sum()))
    rng = np.random.default_rng(seed)
    drawn = np.empty(permutations)
    for i in range(permutations):
        order = rng.permutation(len(mine))
        drawn[i] = (mine * theirs[np.ix_(order, order)]).sum()
    reached = int((drawn >= found * (1 - 1e-9)).sum())
    value = hsic(everything, without)
    share = found / most if most else 0.0
    return Tested(
        NAME, f"HSIC {value:.2g}",
        f"HSIC {value:.2g}, {share:.2f} of its largest, between the model and it without the "
        "circuit", share,
        trials=permutations, p=(1 + reached) / (1 + permutations), reason=reason,
    )  # fmt: skip


def hsic(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """The Hilbert-Schmidt independence criterion of two samples, with Gaussian kernels as wide as
    the median distance of two different values."""
    if len(a) < 2:
        return 0.0
    return float((_centred(a) * _centred(b)).sum() / (len(a) - 1) ** 2)


def _centred(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
    """The centred kernel of a sample; zeros where all values are the same."""
    away = np.abs(values[:, None] - values[None, :])
    some = away[away > 0]
    if not some.size:
        return np.zeros(away.shape)
    kernel = np.exp(-np.square(away) / (2 * np.median(some) ** 2))
    rows = kernel.mean(0)
    centred: Float[np.ndarray, "n n"] = kernel - rows[:, None] - rows[None, :] + kernel.mean()
    return centred
