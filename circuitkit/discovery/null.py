"""The null: scores that know nothing."""

from __future__ import annotations

import numpy as np

from circuitkit.data.batches import Dataset
from circuitkit.engine.metric import Corruption, Metric
from circuitkit.engine.model import Model
from circuitkit.graph.scores import Scores

__all__ = ["random"]


def random(
    model: Model,
    data: Dataset,
    metric: Metric | None,
    corruption: Corruption | None,
    *,
    seed: int = 0,
) -> Scores:
    """Standard normal scores: the circuits that any method has to beat."""
    drawn = np.random.default_rng(seed).standard_normal(model.wiring.shape)
    values = np.where(model.wiring.legal, drawn, 0).astype(np.float32)
    about = {"model": model.name, "method": "random", "settings": {"seed": seed}}
    return Scores(model.wiring, values, about)
