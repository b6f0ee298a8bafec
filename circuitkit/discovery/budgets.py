"""What a budget is best spent on: a method by corruption, from one table of what was measured."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from circuitkit.data.batches import Dataset
from circuitkit.data.sequences import rows_of
from circuitkit.engine.holding import HoldsNorms
from circuitkit.engine.inputs import CorruptionLike, Data, Inputs, MetricLike, prepare
from circuitkit.engine.model import Model
from circuitkit.engine.resolution import path_resolved
from circuitkit.engine.tally import ByGroup
from circuitkit.errors import ArgumentError
from circuitkit.graph.scores import Scores, ScoresWarning
from circuitkit.registry import name_of, resolve
from circuitkit.util.json_values import Json
from circuitkit.util.options import Count, checked

__all__ = ["auto"]

STEP = 8  # runs that ``nested`` makes together
USUAL = 6  # sequence-backwards of a prompt where no budget is given: what eap_ig costs


@dataclass(frozen=True)
class Choice:
    """A method with its settings, the sequence-backwards of a prompt that it costs at least (with
    the clean run and that of the corruption), on how many prompts at least it was measured, and why
    it is chosen. What is left of a budget beside what is ``fixed`` for each prompt is spent on
    ``{runs}``, where the method has some."""

    cost: float
    method: str
    least: int
    why: str
    fixed: float = 0.0


FROZEN = "mask_gradient(steps=3, norms='clean')"
LEARNED = "a ranking that is learned from a good start is the best where it can be paid"
POINT = Choice(5 / 3, "mask_gradient(steps=1)", 1,
               "of few runs the mask's gradient halfway ranks best")  # fmt: skip

# By corruption, the cheapest first; of those that are paid for, the last is taken.
TABLE: Mapping[str, tuple[Choice, ...]] = {
    "counterfactual": (
        POINT,
        Choice(17 / 3, "mask_gradient(steps=5)", 8,
               "it ranks no worse than eap_ig at its cost, and better where the metric saturates"),
        Choice(14, "nested(start='mask_gradient(steps=5)', runs={runs})", 32, LEARNED, 19 / 3),
    ),
    "mean": (
        POINT,
        Choice(11 / 3, FROZEN, 8, "the clean run's norms keep what is averaged from drowning it"),
        Choice(12, f'nested(start="{FROZEN}", runs={{runs}})', 32, LEARNED, 13 / 3),
    ),
    "zero": (
        Choice(11 / 3, FROZEN, 1, "with the clean run's norms the metric changes along its path"),
    ),
}  # fmt: skip
# Where constants replace activations, the path of these gradients may not be resolved.
UNRESOLVED = Choice(
    5.4, "nested(start='expected_gradients', runs={runs})", 24,
    "the path of gradients is not resolved, and a learned ranking does not rest on it", 5 / 3,
)  # fmt: skip
ALIKE = {"mean_by_position": "mean", "optimal": "mean", "peak": "mean"}
OTHERS = "counterfactual"  # as which all further corruptions count
AVERAGED = 32  # prompts from which constants are made when a path is looked at
PROBED, PROBE = 4, 2  # prompts on which a path is looked at, and what each of them costs


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


def probed(corruption: str, budget: int | None = None) -> int:
    """On how many prompts the path of gradients is looked at first: on one with a small budget."""
    if row_of(corruption) == OTHERS:
        return 0
    return PROBED if budget is None else max(1, min(PROBED, budget // (PROBE * 5)))


def pick(corruption: str, prompts: int, budget: int | None = None, path: str = "") -> Picked:
    """What is best for a corruption (by its name) on up to so many prompts: the last method of the
    table that the budget pays for on as many prompts as it was measured on, and then as many
    prompts as it pays for. Where the ``path``
    of gradients is not resolved, which is what it then says, a ranking is learned.

    Raises ArgumentError where the budget does not pay for one prompt, or for a ranking that is
    learned on 24 of them.

    Example:
        >>> from circuitkit.discovery.budgets import pick
        >>> pick("counterfactual", 64, 10).method
        'mask_gradient(steps=1)'
    """
    whole = USUAL * prompts if budget is None else budget
    whole -= PROBE * probed(corruption, budget)
    choices = (UNRESOLVED,) if path else TABLE[row_of(corruption)]
    paid = [one for one in choices if one.cost * min(one.least, prompts) <= whole]
    choice = paid[-1] if paid else choices[0]
    n = min(prompts, int(whole / choice.cost))
    if path and not paid:
        least = ceil(choice.cost * min(choice.least, prompts)) + PROBE * PROBED
        raise ArgumentError(
            f"auto does not trust gradients here: under {corruption} the path is {path}; "
            "measure edges (the method exact or acdc, or verify), learn a ranking (a budget of "
            f"{least}), or take counterfactual"
        )
    if not n:
        raise ArgumentError(
            f"auto has budget={budget}, and a prompt costs {choice.cost:.2f} sequence-backwards by "
            f"{choice.method}; give at least "
            f"{ceil(choice.cost) + PROBE * min(1, probed(corruption, budget))}"
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
    is the last of a table that the budget can pay for on as many prompts as the method was measured
    on (on all, if there are fewer), and it runs on as many of the prompts, from the first, as the
    budget can pay for. What a corruption learns beforehand is not counted.

    Where constants replace activations (``zero``, ``mean``, ...) the path along which gradients are
    taken is checked first, on up to 4 prompts (``path_resolved``). Where the metric does not change
    along it, or changes at once, a mean of gradients cannot be trusted, and the budget is spent on
    learning a ranking.

    Returns Scores [writers, readers] of the method that was chosen; ``about["settings"]`` says
    which, on how many prompts, and why. ``groups`` (as in ``eap``, of these prompts) and ``resume``
    are passed on to methods that have them.

    Raises ArgumentError for an argument in the wrong place, for a budget that does not pay for one
    prompt, and where the path is not resolved, unless the budget pays for a ranking that is learned
    on 24 prompts; raises what the method raises.

    Source: the table is that of ``circuitkit.discovery.budgets``, from ``benchmarks/recover.md``.

    Example:
        >>> found = ck.discovery.auto(model, data, budget=10)
        >>> found.about["settings"]["method"]
        'mask_gradient(steps=1)'
    """
    inputs = prepare(model, data, metric, corruption)
    name = name_of(inputs.corruption)
    picked = pick(name, inputs.data.rows, budget, _path(inputs, probed(name, budget)))
    some = _first(inputs.data, picked.prompts)
    method = resolve("discovery", picked.method)
    known = inspect.signature(method).parameters
    whole = groups is None or isinstance(groups, str)
    own = groups if whole else np.asarray(groups)[:, : len(some)]
    given = {"groups": own, "resume": resume}
    settings = {key: value for key, value in given.items() if value is not None and key in known}
    with warnings.catch_warnings():
        if picked.method == POINT.method:  # whose one point is not meant to add up to the gap
            warnings.simplefilter("ignore", ScoresWarning)
        scores: Scores = method(*inputs._replace(data=some), **settings)
    said: dict[str, Json] = {"budget": budget, "method": picked.method, "examples": len(some),
                             "why": picked.why}  # fmt: skip
    return replace(scores, about={**scores.about, "method": "auto", "settings": said})


def _path(inputs: Inputs, prompts: int) -> str:
    """What is wrong with the path of gradients at the clean run's norms; nothing where it is not
    looked at."""
    if not prompts:
        return ""
    some = inputs._replace(data=_first(inputs.data, AVERAGED))
    norms = "clean" if isinstance(inputs.model, HoldsNorms) else "live"
    found = path_resolved(*some, norms=norms, examples=prompts)  # type: ignore[arg-type]
    return "" if found.resolved else str(found)


def _first(data: Dataset, rows: int) -> Dataset:
    """The first examples, as many as have so many rows; at least one."""
    ends = np.cumsum([len(rows_of(example)) for example in data.examples])
    return replace(data, examples=data.examples[: max(1, int((ends <= rows).sum()))])
