"""Whether the model does the task at all: its accuracy, and the prompts that it answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import isnan, nan
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.dealing import Block, by_batch, joined
from circuitkit.engine.inputs import Data, MetricLike, as_data, as_metric, require_model
from circuitkit.engine.metric import check_metric
from circuitkit.engine.model import Model
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import answer, record
from circuitkit.errors import EvaluationError
from circuitkit.evaluation.pairing import paired_alone, unpaired
from circuitkit.evaluation.results import TableResult
from circuitkit.metrics.answers import accuracy
from circuitkit.registry import name_of
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.tables import to_frame

if TYPE_CHECKING:
    import pandas

__all__ = ["Ability", "ability", "known"]

ADMITTED = 0.75  # the accuracy from which MIB (Mueller et al. 2025) admits a model to a task


@dataclass(frozen=True)
class Ability(TableResult):
    """How well the model does a task: accuracy, and the metric on clean and corrupted prompts.

    ``accuracy`` is a share of the examples; ``clean`` and ``corrupt`` are means in metric units.
    ``corrupt`` is nan, not known, where an example has no corrupted text. Of texts that are aligned
    by spans ``unpaired`` is the share of tokens without a partner, and ``pairing`` what the pairing
    alone moves the metric by, as a share of ``clean`` less ``corrupt``: heads are computed at clean
    positions from what is carried, which is not what they carry. Both are nan for other texts.
    """

    accuracy: float
    clean: float
    corrupt: float
    metric: str
    examples: int
    unpaired: float = nan
    pairing: float = nan

    def require(self, task: str) -> None:
        """Raise EvaluationError where the model does it too seldom (accuracy under 0.75, as in
        MIB)."""
        if self.accuracy < ADMITTED:
            means = f"{self.metric} {self.clean:+.2f} on clean and {_spelt(self.corrupt, '+.2f')}"
            raise EvaluationError(
                f"the model does {task} on {self.accuracy:.0%} of {self.examples} prompts ({means} "
                f"on corrupted ones), and discover asks for {ADMITTED:.0%}; keep the "
                "prompts that it answers with --known (known=True), or continue with all of them "
                "with --force (force=True)"
            )

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is not known is None."""
        found: dict[str, Json] = nan_to_none(self._fields())
        return found

    def _fields(self) -> dict[str, Any]:
        """All fields; those of aligned texts just where texts are aligned."""
        aligned = ("unpaired", "pairing")
        return {k: v for k, v in asdict(self).items() if k not in aligned or not isnan(v)}

    def to_frame(self) -> pandas.DataFrame:
        """One row: ``accuracy`` (a share), ``clean`` and ``corrupt`` (the metric's means),
        ``metric``, ``examples`` (how many); nan is not known."""
        return to_frame([self._fields()])

    def __str__(self) -> str:
        return f"accuracy {self.accuracy:.1%} of {self.examples} examples"

    def __repr__(self) -> str:
        return (
            f"accuracy {self.accuracy:.1%}, {self.metric} {self.clean:.3f} on clean and "
            f"{_spelt(self.corrupt, '.3f')} on corrupted prompts ({self.examples} examples)"
            + self._aligned()
        )

    def _aligned(self) -> str:
        """What is said of aligned texts."""
        if isnan(self.unpaired):
            return ""
        return (
            f"; aligned: {self.unpaired:.1%} of tokens without a partner, the pairing alone moves "
            f"the metric by {_spelt(self.pairing, '.1%')} of the gap"
        )


def _spelt(value: float, form: str) -> str:
    return "not known" if isnan(value) else format(value, form)


@torch.no_grad()
def ability(model: Model, data: Data, metric: MetricLike | None = None) -> Ability:
    """How well the model does the task on this data.

    Returns an Ability: the accuracy (a share of the examples whose answer gets more logits than the
    wrong one), and the mean of the metric on clean and on corrupted prompts, in metric units; the
    latter is not known (nan) where an example has no corrupted text. Raises ArgumentError for an
    argument in the wrong place.

    Source: MIB (Mueller et al. 2025) admits a model to a task from an accuracy of 0.75 on.

    Example:
        >>> found = ck.ability(model, data)
        >>> found.accuracy > 0.75, found.clean > found.corrupt
        (True, True)
    """
    require_model(model)
    data = as_data(model, data)
    measure = as_metric(metric, data=data)
    paired = all(example.paired for example in data.examples)

    def block(batch: Batch, first: int) -> Block:
        clean = _logits(model, batch, batch.clean)
        values = [check_metric(accuracy, clean, clean, batch)]
        values.append(check_metric(measure, clean, clean, batch))
        if paired:
            corrupt = _corrupt_logits(model, batch)
            values.append(check_metric(measure, corrupt, clean, batch))
        if paired and data.align is not None:
            moved = check_metric(measure, paired_alone(model, data, batch), clean, batch)
            values.append((moved - values[-1]).abs())
        return {"values": torch.stack([exact(x) for x in values]).cpu().numpy()}

    rows = [torch.from_numpy(own["values"]) for own in by_batch(data, "accuracy", block)]
    correct, on_clean, *rest = torch.cat(rows, dim=1).mean(1).tolist()
    on_corrupt = rest[0] if paired else nan
    alone: tuple[float, ...] = ()
    if data.align is not None:
        gap = abs(on_clean - on_corrupt) if paired else 0.0
        alone = unpaired(data), rest[1] / gap if gap else nan
    return Ability(correct, on_clean, on_corrupt, name_of(measure), len(data), *alone)


@torch.no_grad()
def known(model: Model, data: Data, metric: MetricLike = "accuracy") -> Dataset:
    """The examples that the model answers.

    These are the examples on whose clean prompt the metric, ``accuracy`` or ``top1``, is above 1/2.

    Returns a Dataset, whose ``about`` says how many were kept of how many (``known``). Raises
    ArgumentError for an argument in the wrong place, and EvaluationError where the model answers
    none.

    Example:
        >>> len(ck.known(model, data, "top1")) <= len(ck.known(model, data)) <= len(data)
        True
    """
    require_model(model)
    data = as_data(model, data)
    measure = as_metric(metric, data=data)

    def block(batch: Batch, first: int) -> Block:
        logits = _logits(model, batch, batch.clean)
        return {"answered": (check_metric(measure, logits, logits, batch) > 1 / 2).cpu().numpy()}

    answered = joined(by_batch(data, "accuracy", block))["answered"]
    kept = tuple(e for e, one in zip(data.examples, answered.tolist(), strict=True) if one)
    if not kept:
        raise EvaluationError(
            f"{name_of(measure)} is above 1/2 on none of {len(data)} prompts, so there is nothing "
            "that the model knows; use a different model or task, or a metric that asks for less"
        )
    first = data.about.get("known") or {"of": len(data)}  # what is kept again is of all of them
    counted = {"kept": len(kept), "of": first["of"]}
    return replace(data, examples=kept, about={**data.about, "known": counted})


def _corrupt_logits(model: Model, batch: Batch) -> Float[Tensor, "batch vocab"]:
    """The logits at the answer positions of the corrupted texts, each in its own tokens."""
    own = batch.aligned
    if own is None:
        return _logits(model, batch, batch.corrupt)
    run = record(model, model.start(own.tokens, own.mask))
    return answer(model, replace(batch, last=own.last), run.final)


def _logits(
    model: Model, batch: Batch, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch vocab"]:
    """The logits at the answer positions of a plain run on these tokens."""
    return answer(model, batch, record(model, model.start(tokens, batch.mask)).final)
