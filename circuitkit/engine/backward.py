"""Backward rules: what a gradient does at norms, attention patterns, activations and gates.

A rule changes no value that a model computes: it changes what the backward takes for the slope
there. ``under(model, rule)`` is the model whose backward follows a rule, and every verb takes it as
it takes any model.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from circuitkit.engine.model import Model
from circuitkit.errors import ArgumentError, UnsupportedModelError
from circuitkit.util.options import Form

__all__ = [
    "PLAIN",
    "RULES",
    "BackwardRule",
    "Ruled",
    "Rule",
    "RuleLike",
    "as_rule",
    "half",
    "rule_settings",
    "under",
    "with_slope",
]


@dataclass(frozen=True)
class Rule:
    """What a backward does in place of the chain rule.

    ``norms``: what a norm divides by counts as a constant. ``patterns``: attention patterns do, so
    that nothing flows into queries and keys. ``activations``: the slope of an activation at x is
    act(x)/x. ``gates``: each factor of a gated MLP's product gets half of its gradient.
    """

    norms: bool = False
    patterns: bool = False
    activations: bool = False
    gates: bool = False

    def __str__(self) -> str:
        """Its name, or those of its parts, joined by ``+``."""
        named = {rule: name for name, rule in RULES.items()}
        parts = [one.name for one in fields(self) if getattr(self, one.name)]
        single = (named[Rule(**{part: True})] for part in parts)
        return named.get(self) or "+".join(single)


PLAIN = Rule()
RULES = {
    "none": PLAIN,
    "frozen_norms": Rule(norms=True),
    "frozen_patterns": Rule(patterns=True),
    "frozen_slopes": Rule(activations=True),
    "half_gates": Rule(gates=True),
    "relp": Rule(norms=True, activations=True, gates=True),
}
RuleLike: TypeAlias = Rule | str | None


def _is_rule(rule: object) -> bool:
    known = rule is None or isinstance(rule, Rule)
    return known or (isinstance(rule, str) and all(one in RULES for one in rule.split("+")))


BackwardRule: TypeAlias = Annotated[
    RuleLike,
    Form(
        "frozen_norms, frozen_patterns, frozen_slopes, half_gates or relp, several joined by "
        "'+', or None",
        _is_rule,
    ),
]


def as_rule(rule: RuleLike) -> Rule:
    """The rule of a name, or of several joined by ``+``; None is the plain gradient. Raises
    ArgumentError for a name that is not known."""
    if not _is_rule(rule):
        known = ", ".join(RULES)
        raise ArgumentError(f"{rule!r} is not a backward rule; give {known}, or some joined by '+'")
    if not isinstance(rule, str):
        return PLAIN if rule is None else rule
    parts = [RULES[name] for name in rule.split("+")]
    return Rule(
        **{one.name: any(getattr(part, one.name) for part in parts) for one in fields(Rule)}
    )


def rule_settings(rule: RuleLike) -> dict[str, str]:
    """What scores record of a rule: its name, or nothing for the plain gradient."""
    asked = as_rule(rule)
    return {} if asked == PLAIN else {"rule": str(asked)}


@runtime_checkable
class Ruled(Model, Protocol):
    """A model whose backward may follow a rule."""

    def under(self, rule: Rule) -> Model:
        """The same model, whose backward follows the rule. What it computes is the same. Raises
        UnsupportedModelError where a part that the rule concerns cannot be reached."""


def under(model: Model, rule: RuleLike) -> Model:
    """The model whose backward follows a rule; for the plain gradient, the model itself.

    Raises ArgumentError for an unknown rule, and UnsupportedModelError for a model that takes no
    rules, or where a part that the rule concerns cannot be reached.
    """
    asked = as_rule(rule)
    if asked == PLAIN:
        return model
    if not isinstance(model, Ruled):
        raise UnsupportedModelError(
            f"{model.name!r} takes no backward rules (it has no method 'under'); discover without "
            f"rule={str(asked)!r}"
        )
    return model.under(asked)


def with_slope(value: Tensor, linear: Tensor) -> Tensor:
    """The value, to the bit, with the gradient of another expression."""
    return value.detach() + (linear - linear.detach())


def half(x: Tensor) -> Tensor:
    """The same with half of its gradient."""
    return with_slope(x, x / 2)
