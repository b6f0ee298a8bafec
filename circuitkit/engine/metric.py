"""A metric's values, checked: one number per example."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.model import Activations, Model
from circuitkit.errors import MetricError
from circuitkit.graph.scores import Scores
from circuitkit.registry import name_of

__all__ = ["Corruption", "Method", "Metric", "check_metric"]

Metric: TypeAlias = Callable[[Tensor, Tensor, Batch], Tensor]
Corruption: TypeAlias = Callable[[Model, Dataset], Callable[[Batch], list[Activations]]]
Method: TypeAlias = Callable[[Model, Dataset, Metric, Corruption], Scores]


def check_metric(
    metric: Metric,
    logits: Float[Tensor, "b vocab"],
    reference: Float[Tensor, "b vocab"],
    batch: Batch,
) -> Float[Tensor, " b"]:
    """What the metric says of each example; raises MetricError where it reduces over them."""
    values = metric(logits, reference, batch)
    if values.shape != (len(batch),):
        raise MetricError(
            f"{name_of(metric)} gave the shape {tuple(values.shape)} for {len(batch)} examples; "
            "a metric returns one value per example"
        )
    return values
