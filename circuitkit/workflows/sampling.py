"""On how many prompts a circuit is found: as many as are asked for, or as its agreement needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from circuitkit.engine.inputs import Inputs
from circuitkit.engine.metric import Method
from circuitkit.errors import UnknownNameError
from circuitkit.evaluation.ability import Ability
from circuitkit.evaluation.certainty import certainty
from circuitkit.evaluation.certainty_result import FARTHEST, Certainty
from circuitkit.evaluation.choosing import Chosen
from circuitkit.evaluation.refining import Refined
from circuitkit.evaluation.verification import Verification
from circuitkit.graph.scores import Scores
from circuitkit.registry import name_of
from circuitkit.workflows.asking import Asked
from circuitkit.workflows.growing import Grown

__all__ = ["Sample", "by_example", "certain", "enough", "gives_groups"]

# Why no more prompts were drawn.
REACHED, USED_UP = "reached", "there are no more prompts"


@dataclass(frozen=True, eq=False)
class Sample:
    """Some prompts, and what was found on them."""

    seen: Inputs
    measured: Inputs
    able: Ability
    scores: Scores
    found: Chosen
    checked: Verification | None
    refined: Refined | None
    certain: Certainty | None
    grown: Grown | None = None


def gives_groups(how: Callable[..., Scores]) -> bool:
    """Whether the method can give the scores of each example."""
    return "groups" in inspect.signature(how).parameters


def by_example(how: Callable[..., Scores], agreement: float | None = None) -> Method:
    """The method with the scores of each example, if it can give them; raises UnknownNameError
    where an agreement is asked for and it cannot."""
    if gives_groups(how):
        return partial(how, groups="examples")
    if agreement is not None:
        raise UnknownNameError(
            f"{name_of(how)} gives no scores of single examples, so it is not known how "
            "circuits of other prompts would agree; take a method that does (eap_ig)"
        )
    return how


def certain(scores: Scores, found: Chosen, asked: Asked) -> Certainty | None:
    """How sure the circuit's edges are; None without the scores of each example."""
    if scores.groups is None:
        return None
    size = asked.edges if asked.rule == "mib" and asked.edges else found.mask
    return certainty(scores, size, rule=asked.rule, seed=asked.seed)


def enough(
    drawn: Callable[..., tuple[Inputs, Inputs]],
    found_on: Callable[[Inputs, Inputs], Sample],
    asked: Asked,
) -> tuple[Sample, str | None]:
    """What is found on the prompts that are ``drawn(examples=n)``; where an agreement is asked for,
    on twice as many as long as two samples of them would not agree so well; and why there are no
    more of them."""
    sample = found_on(*drawn(examples=asked.examples))
    if asked.agreement is None:
        return sample, None
    first = size = asked.examples or len(sample.seen.data)
    while sample.certain is None or not sample.certain.agreement >= asked.agreement:
        if 2 * size > FARTHEST * first:
            return sample, f"more than {FARTHEST} times as many prompts are not drawn"
        size *= 2
        wider = drawn(examples=size)
        if len(wider[0].data) <= len(sample.seen.data):
            return sample, USED_UP
        sample = found_on(*wider)
    return sample, REACHED
