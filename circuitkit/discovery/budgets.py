"""What a budget is best spent on: a method by corruption, from one table of what was measured."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from circuitkit.data.batches import Dataset
from circuitkit.data.sequences import rows_of
from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare
from circuitkit.engine.model import Model
from circuitkit.engine.tally import ByGroup
from circuitkit.errors import ArgumentError
from circuitkit.graph.scores import Scores
from circuitkit.registry import name_of, resolve
from circuitkit.util.json_values import Json
from circuitkit.util.options import Count, checked

__all__ = ["auto"]

PROMPTS = 32  # on which a choice counts: with more of a budget there are more prompts
STEP = 8  # runs that ``nested`` makes together
USUAL = 6  # sequence-backwards of a prompt where no budget is given: what eap_ig costs


@dataclass(frozen=True)
class Choice:
    """A method with its settings, the sequence-backwards of a prompt that it costs at least (with
    the clean run and that of the corruption), and why it is chosen. What is left of a budget beside
    what is ``fixed`` for each prompt is spent on ``{runs}``, where the method has some."""

    cost: float
    method: str
    why: str
    fixed: float = 0.0


CLEAN = "mask_gradient(steps=3, norms='clean')"
CHEAPEST = Choice(5 / 3, "expected_gradients", "it ranks as eap_ig does at a fifth of its cost")
FROZEN = Choice(11 / 3, CLEAN, "the clean run's norms keep its path from degenerating")
LEARNED = "a ranking that is learned from a good start is the best where it can be paid"

# By corruption, the cheapest first; of those that are paid for, the last is taken.
TABLE: Mapping[str, tuple[Choice, ...]] = {
    "counterfactual": (
        CHEAPEST,
        Choice(17 / 3, "mask_gradient(steps=5)",
               "it ranks no worse than eap_ig at its cost, and better where the metric saturates"),
        Choice(14, "nested(start='mask_gradient(steps=5)', runs={runs})", LEARNED, 19 / 3),
    ),
    "mean": (CHEAPEST, FROZEN,
             Choice(12, f'nested(start="{CLEAN}", runs={{runs}})', LEARNED, 13 / 3)),
    "zero": (CHEAPEST, FROZEN,
             Choice(12, f'nested(start="{CLEAN}", runs={{runs}})', LEARNED, 13 / 3)),
}  # fmt: skip
# On a model of 30 layers no ranking by gradients was better than chance where constants replace
# activations, as nearly all of the gap lies at one end of the path; 4 layers were not so.
DEEP = 12  # layers, from which only these are taken
OF_DEEP = (Choice(14, "nested(start=None, runs={runs})",
                  "a ranking that is learned does not rest on the gradients of a path", 2 / 3),
)  # fmt: skip
ALIKE = {"mean_by_position": "mean", "optimal": "mean", "peak": "mean"}
OTHERS = "counterfactual"  # as which all further corruptions count


@dataclass(frozen=True)
class Picked:
    """What a budget is spent on: a method with its settings, on so many prompts, and why."""

    method: str
    prompts: int
    why: str


def row_of(corruption: str) -> str:
    """The row of the table for a corruption, by its name with or without settings."""
    name = corruption.partition("(")[0].strip()
    return ALIKE.get(name, name if name in TABLE else OTHERS)


def pick(corruption: str, prompts: int, budget: int | None = None, layers: int = 1) -> Picked:
    """What is best for a corruption (by its name) on up to so many prompts: the dearest method that
    the budget pays for on 32 of them, and then as many prompts as it pays for.

    Raises ArgumentError where it does not pay for one, and where it pays for no method that is to
    be trusted on so deep a model.

    Example:
        >>> from circuitkit.discovery.budgets import pick
        >>> pick("counterfactual", 64, 10).method
        'expected_gradients'
    """
    row = row_of(corruption)
    choices = OF_DEEP if row != OTHERS and layers >= DEEP else TABLE[row]
    whole = USUAL * prompts if budget is None else budget
    least = min(PROMPTS, prompts)
    paid = [one for one in choices if one.cost * least <= whole]
    if not paid and choices is OF_DEEP:
        raise ArgumentError(
            f"auto knows no ranking by gradients that is to be trusted under {corruption} on "
            f"{layers} layers, as nearly all that the metric loses is lost at one end of their "
            "path; measure edges (the method exact or acdc, or verify), learn a ranking (a budget "
            f"of {ceil(choices[0].cost * least):,}), or take counterfactual"
        )
    choice = paid[-1] if paid else choices[0]
    n = min(prompts, int(whole / choice.cost))
    if not n:
        raise ArgumentError(
            f"auto has budget={budget}, and a prompt costs {choice.cost:.2f} sequence-backwards by "
            f"{choice.method}; give at least {ceil(choice.cost)}"
        )
    runs = int(whole - choice.fixed * n) // STEP * STEP
    return Picked(choice.method.replace("{runs}", str(runs)), n, choice.why)


@checked
def auto(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    budget: Count | None = None,
    groups: ByGroup = None,
    resume: str | os.PathLike[str] | None = None,
) -> Scores:
    """The best method for a budget and a corruption, chosen from a table of what was measured.

    ``budget`` is in sequence-backwards in all: a forward and a backward of one prompt, where a
    forward alone counts a third (None: 6 for each prompt, about what ``eap_ig`` costs). The method
    is the dearest of the table that it pays for on 32 of the prompts (on all, where they are
    fewer), and runs on as many of them, from the first, as the rest pays for: fewer than 32 where
    it pays for no method on so many. What a corruption learns beforehand does not count.

    Returns Scores [writers, readers] of the method that was chosen; ``about["settings"]`` says
    which, on how many prompts, and why. ``groups`` (as in ``eap``, of these prompts) and ``resume``
    are passed on to methods that have them.

    Raises ArgumentError for an argument in the wrong place, for a budget that does not pay for one
    prompt, and where constants replace activations (``zero``, ``mean``, ...) on a model of 12
    layers and more, unless the budget pays for a learned ranking: those by gradients were no better
    than chance there. Raises what the method raises.

    Source: the table is that of ``circuitkit.discovery.budgets``, from ``benchmarks/recover.md``.

    Example:
        >>> found = ck.discovery.auto(model, data, budget=10)
        >>> found.about["settings"]["method"]
        'expected_gradients'
    """
    inputs = prepare(model, data, metric, corruption)
    layers = model.wiring.layers
    picked = pick(name_of(inputs.corruption), inputs.data.rows, budget, layers)
    some = _first(inputs.data, picked.prompts)
    method = resolve("discovery", picked.method)
    known = inspect.signature(method).parameters
    whole = groups is None or isinstance(groups, str)
    own = groups if whole else np.asarray(groups)[:, : len(some)]
    given = {"groups": own, "resume": resume}
    settings = {key: value for key, value in given.items() if value is not None and key in known}
    scores: Scores = method(*inputs._replace(data=some), **settings)
    said: dict[str, Json] = {"budget": budget, "method": picked.method, "examples": len(some),
                             "why": picked.why}  # fmt: skip
    return replace(scores, about={**scores.about, "method": "auto", "settings": said})


def _first(data: Dataset, rows: int) -> Dataset:
    """The first examples, as many as have so many rows; at least one."""
    ends = np.cumsum([len(rows_of(example)) for example in data.examples])
    return replace(data, examples=data.examples[: max(1, int((ends <= rows).sum()))])
