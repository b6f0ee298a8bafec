"""A metric's values, checked: one number per example."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeAlias, TypeVar

from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.bounds import require_answers
from circuitkit.engine.model import Activations, Model
from circuitkit.errors import MetricError
from circuitkit.graph.scores import Scores
from circuitkit.registry import name_of
from circuitkit.util.json_values import Json

__all__ = ["Corruption", "Method", "Metric", "check_metric", "learned", "learns"]

P = ParamSpec("P")
T = TypeVar("T")

Metric: TypeAlias = Callable[[Tensor, Tensor, Batch], Tensor]
Corruption: TypeAlias = Callable[[Model, Dataset], Callable[[Batch], list[Activations]]]
Method: TypeAlias = Callable[[Model, Dataset, Metric, Corruption], Scores]


def learns(
    about: Callable[..., dict[str, Json]],
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Say of a corruption that it learns what it carries, and ``about(data, **settings)`` on what
    and how: this stands in what results say of themselves."""

    def noted(corruption: Callable[P, T]) -> Callable[P, T]:
        vars(corruption)["learns"] = about
        return corruption

    return noted


def learned(corruption: Corruption, data: Dataset) -> dict[str, Json]:
    """On what a corruption has learned what it carries, and how; nothing where it does not."""
    function: Any = corruption.func if isinstance(corruption, partial) else corruption
    about = getattr(function, "learns", None)
    if about is None:
        return {}
    given = corruption.keywords if isinstance(corruption, partial) else {}
    own = inspect.signature(function).parameters.values()
    settings = {p.name: given.get(p.name, p.default) for p in own if p.kind is p.KEYWORD_ONLY}
    found: dict[str, Json] = about(data, **settings)
    return found


def check_metric(
    metric: Metric,
    logits: Float[Tensor, "b vocab"],
    reference: Float[Tensor, "b vocab"],
    batch: Batch,
) -> Float[Tensor, " examples"]:
    """The metric's value for each example of a batch, in the metric's own units.

    Everything that calls a metric calls it through this function. ``logits`` are those at the
    answer positions, ``reference`` those of the full model on the clean prompts. Truth values and
    whole numbers become numbers of the logits' type.

    Raises MetricError where the metric is not a function of these three arguments, reduces over the
    examples, returns something else than a tensor of one value per example, or returns nan, naming
    the first such example; and DataError where an answer is not in the vocabulary.
    """
    require_answers(batch, logits.shape[-1])
    name, wanted = name_of(metric), "a metric returns a tensor with one value per example"
    try:
        values = metric(logits, reference, batch)
    except TypeError as error:
        raise MetricError(_uncallable(metric, error)) from error
    if not isinstance(values, Tensor):
        raise MetricError(f"{name} returned {_kind_of(values)}; {wanted}")
    if values.shape == (len(batch),) != (batch.examples,):
        raise MetricError(
            f"{name} measures one token, and the answers here have several (answers='sequence'); "
            "use logit_diff, log_probability, probability, prob_diff, accuracy or top1, or the "
            "answers' first tokens"
        )
    if values.shape != (batch.examples,):
        raise MetricError(
            f"{name} returned the shape {tuple(values.shape)} for {batch.examples} examples; "
            f"{wanted}"
        )
    if values.is_complex():
        raise MetricError(f"{name} returned complex numbers; {wanted}, a real number")
    if not values.is_floating_point():
        return values.to(logits.dtype)
    missing = values.detach().isnan()
    if bool(missing.any()):
        raise MetricError(_undefined(name, missing, logits, batch))
    return values


def _undefined(
    name: str, missing: Bool[Tensor, " examples"], logits: Float[Tensor, "b vocab"], batch: Batch
) -> str:
    """Where a metric is nan, and what to do."""
    own = batch.owner == int(missing.nonzero()[0])
    row, of_logits = int(own.nonzero()[0]), bool(logits[own].isnan().any())
    because = ", as the logits are nan there too" if of_logits else ""
    remedy = "load the model in float32" if of_logits else "check what the metric does there"
    more = int(missing.sum()) - 1
    others = f" and {more} more of its batch" if more else ""
    return f"{name} returned nan for {batch.name(row)}{others}{because}; {remedy}, or leave it out"


def _uncallable(metric: Metric, error: TypeError) -> str:
    """Why the metric cannot be called as it should be."""
    wanted = "a metric takes (logits, reference, batch) and returns one value per example"
    if not callable(metric):
        return f"{metric!r} is not a metric; {wanted}"
    with contextlib.suppress(TypeError, ValueError):  # functions in C have no signature
        signature = inspect.signature(metric)
        try:
            signature.bind(*"123")
        except TypeError:
            names = ", ".join(signature.parameters)
            return f"{name_of(metric)}({names}) is not a metric; {wanted}"
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{name_of(metric)} raised a TypeError ({first}); {wanted}"


def _kind_of(value: object) -> str:
    """What a value is, for a message."""
    if value is None:
        return "None"
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return f"an object of type {name}"
