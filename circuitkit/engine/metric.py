"""A metric's values, checked: one number per example."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ParamSpec, TypeAlias, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.bounds import require_answers
from circuitkit.engine.model import Activations, Model
from circuitkit.errors import MetricError
from circuitkit.graph.scores import Scores
from circuitkit.registry import name_of
from circuitkit.util.json_values import Json

__all__ = [
    "Corruption",
    "Method",
    "Metric",
    "Unseen",
    "check_metric",
    "learned",
    "learns",
    "of_runs",
]

P = ParamSpec("P")
T = TypeVar("T")

Metric: TypeAlias = Callable[[Tensor, Tensor, Batch], Tensor]
Corruption: TypeAlias = Callable[[Model, Dataset], Callable[[Batch], list[Activations]]]
Method: TypeAlias = Callable[[Model, Dataset, Metric, Corruption], Scores]


def learns(
    about: Callable[..., dict[str, Json]],
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Say of a corruption that it learns what it carries, and ``about(data, **settings)`` on what
    and how: results record this."""

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


class Unseen:
    """Values of metrics on one batch that nobody has looked at: a GPU is waited for by each look,
    so that of many there is one. On a processor they are looked at as they come."""

    def __init__(self) -> None:
        self.answers = False  # whether they are in the vocabulary
        self.found: list[tuple[str, Tensor, Tensor]] = []

    def require(self, batch: Batch) -> None:
        """Look at them; raises MetricError where one is nan."""
        found, self.found = self.found, []
        if found and bool(torch.stack([missing.any() for _, missing, _ in found]).any()):
            name, missing, nan = next(one for one in found if bool(one[1].any()))
            raise MetricError(_undefined(name, missing, nan, batch))


def check_metric(
    metric: Metric,
    logits: Float[Tensor, "b vocab"],
    reference: Float[Tensor, "b vocab"],
    batch: Batch,
    unseen: Unseen | None = None,
) -> Float[Tensor, " examples"]:
    """The metric's value for each example of a batch, in the metric's own units.

    Everything that calls a metric calls it through this function. ``logits`` are those at the
    answer positions, ``reference`` those of the full model on the clean prompts. Truth values and
    whole numbers become numbers of the logits' type. With ``unseen`` nan is looked for later.

    Raises MetricError where the metric is not a function of these three arguments, reduces over the
    examples, returns something else than a tensor of one value per example, or returns nan, naming
    the first such example; and DataError where an answer is not in the vocabulary.
    """
    if unseen is None or not unseen.answers:
        require_answers(batch, logits.shape[-1])
    if unseen is not None:
        unseen.answers = True
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
            "use logit_diff, log_probability, probability, prob_diff, accuracy, top1, kl or js, or "
            "the answers' first tokens"
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
    if unseen is not None and values.device.type != "cpu":
        unseen.found.append((name, missing, logits.detach().isnan().any(-1)))
    elif bool(missing.any()):
        raise MetricError(_undefined(name, missing, logits.isnan().any(-1), batch))
    return values


def of_runs(
    metrics: Sequence[Metric],
    logits: Float[Tensor, "m vocab"],
    reference: Float[Tensor, "b vocab"],
    batch: Batch,
) -> Float[Tensor, "runs metrics examples"]:
    """What metrics say of several runs of a batch, whose logits follow one another: of all of them
    at once, so that a GPU is not waited for run by run. Raises as ``check_metric``."""
    times = len(logits) // len(batch)
    many, again = batch.repeat(times), reference.repeat(times, 1)
    said = torch.stack([check_metric(one, logits, again, many) for one in metrics])
    return said.view(len(metrics), times, -1).transpose(0, 1)


def _undefined(
    name: str, missing: Bool[Tensor, " examples"], nan: Bool[Tensor, " b"], batch: Batch
) -> str:
    """Where a metric is nan, and what to do."""
    own = batch.owner == int(missing.nonzero()[0])
    row, of_logits = int(own.nonzero()[0]), bool(nan[own].any())
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
