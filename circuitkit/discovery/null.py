"""The null: scores that know nothing."""

from __future__ import annotations

import numpy as np

from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, require_model
from circuitkit.engine.model import Model
from circuitkit.graph.scores import Scores
from circuitkit.util.options import Seed, checked

__all__ = ["random"]


@checked
def random(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    seed: Seed = 0,
) -> Scores:
    """Standard normal scores: the circuits that any method has to beat.

    The prompts, the metric and the corruption are not used.

    Returns Scores [writers, readers], without a unit. Raises ArgumentError where the model is not a
    loaded one, and for a negative seed.

    Example:
        >>> ck.discovery.random(model, data, seed=1).top(50)["input"] is not None
        True
    """
    require_model(model)
    drawn = np.random.default_rng(seed).standard_normal(model.wiring.shape)
    values = np.where(model.wiring.legal, drawn, 0).astype(np.float32)
    about = {"model": model.name, "method": "random", "settings": {"seed": seed}}
    return Scores(model.wiring, values, about)
