"""Sufficiency: the circuit is closer to the model than nearly all random circuits of a size."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from circuitkit.evaluation.hypotheses.tested import Tested, beaten

__all__ = ["NAME", "loss", "sufficiency"]

NAME = "sufficiency"


def sufficiency(
    circuit: Float[np.ndarray, " examples"],
    random: Float[np.ndarray, "circuits examples"],
    everything: Float[np.ndarray, " examples"],
    quantile: float = 0.9,
    level: float = 0.05,
) -> Tested:
    """Whether a circuit is closer to the model than more than a ``quantile`` of random circuits.

    The null hypothesis is that it is closer than at most that share of them, so that a rejection
    shows the claim. Source: Shi et al. (2024), whose code counts an equal one as farther.
    """
    others = -loss(random, everything)
    return beaten(
        -float(loss(circuit[None], everything)[0]), others, test=NAME,
        seen="closer to the model than {above} of {trials} random circuits", quantile=quantile,
        level=level,
    )  # fmt: skip


def loss(
    runs: Float[np.ndarray, "runs examples"], reference: Float[np.ndarray, " examples"]
) -> Float[np.ndarray, " runs"]:
    """How far runs are from a reference: the mean squared difference of the metric."""
    found: Float[np.ndarray, " runs"] = np.square(runs - reference).mean(-1)
    return found
