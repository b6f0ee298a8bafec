"""Partial necessity: the model loses more without the circuit than without random circuits."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from circuitkit.evaluation.hypotheses.sufficiency import loss
from circuitkit.evaluation.hypotheses.tested import Tested, beaten

__all__ = ["NAME", "partial_necessity"]

NAME = "partial_necessity"


def partial_necessity(
    without: Float[np.ndarray, " examples"],
    lacking: Float[np.ndarray, "circuits examples"],
    everything: Float[np.ndarray, " examples"],
    quantile: float = 0.9,
    level: float = 0.05,
) -> Tested:
    """Whether the model without a circuit (``without``) is farther from the model than without more
    than a ``quantile`` of random circuits of its size (``lacking``).

    The null hypothesis is that it is farther than at most that share of them, so that a rejection
    shows the claim. Source: Shi et al. (2024).
    """
    return beaten(
        float(loss(without[None], everything)[0]), loss(lacking, everything), test=NAME,
        seen="removing it hurts more than removing {above} of {trials} random circuits",
        quantile=quantile, level=level,
    )  # fmt: skip
