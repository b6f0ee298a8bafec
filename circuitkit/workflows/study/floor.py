"""The noise floor of a study: what other samples of the prompts change, and what is beyond it.

Sets of components are compared with those of the same choice on other samples of the prompts
(``circuitkit.graph.separation``); numbers by their 95 % bootstrap interval over the examples, which
two choices share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import isnan, nan

import numpy as np
from jaxtyping import Float

from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.graph.separation import BEYOND, Separation, separation, within
from circuitkit.util.json_values import Json
from circuitkit.util.statistics import percentile_interval, weighted_mean
from circuitkit.workflows.study.records import Records

__all__ = [
    "Bounded",
    "bounded",
    "chosen_again",
    "divided",
    "floor",
    "means",
    "separated",
    "spread_p",
    "surely_beyond",
]

RESAMPLES = 1000
SAME = 1e-9  # relative to the largest: draws that are closer say nothing of their spread
Key = tuple[str, str, str]  # a part, a corruption and a metric


# -- sets ------------------------------------------------------------------------------------------
def floor(study: Records) -> Iterator[dict[str, Json]]:
    """How alike what one choice finds is from one sample of the prompts to the next."""
    for key, several in study.redetections.items():
        if several:
            part, corruption, metric = key
            yield {
                "nodes": part, "corruption": corruption, "metric": metric,
                "samples": len(several),
                "examples": min(found.experiment.shape[-1] for found in several),
                "found": float(np.mean([len(found.found) for found in several])),
                "jaccard": chosen_again(study, key),
            }  # fmt: skip


def chosen_again(study: Records, key: Key) -> float:
    """The mean Jaccard index of what the choice finds on two samples; nan, not known, without."""
    return within([found.found for found in study.redetections[key]])


def separated(study: Records, left: Key, right: Key, *, sign: int = 0) -> Separation:
    """Whether two choices find different components beyond what other samples change; of a sign,
    those that help (1) or hurt (-1)."""
    found = (
        [
            {0: one.found, 1: one.helping, -1: one.hurting}[sign]
            for one in study.redetections[key]
        ]
        for key in (left, right)
    )  # fmt: skip
    return separation(*found)


def surely_beyond(p: Sequence[float]) -> list[bool]:
    """Which of the comparisons of one question are beyond resampling: those with a false discovery
    rate below 0.05 (Benjamini & Hochberg 1995); those that are not known are not."""
    from scipy.stats import false_discovery_control

    known = [one for one in p if not isnan(one)]
    adjusted = iter(false_discovery_control(known) if known else ())
    return [not isnan(one) and bool(next(adjusted) < BEYOND) for one in p]


# -- numbers ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Bounded:
    """A number with its 95 % bootstrap interval over the examples; nan is not known."""

    value: float
    low: float
    high: float

    def apart(self, size: float, other: float = 0.0) -> bool:
        """Whether it is at least so far from the other, and the other not in its interval."""
        return abs(self.value - other) >= size and not self.low <= other <= self.high and self.known

    @property
    def known(self) -> bool:
        """Whether the examples say how far it would change with others."""
        return not isnan(self.low)


@cache
def _weights(examples: int) -> Float[np.ndarray, "draws examples"]:
    """The examples as they are, and then how often each draw has them."""
    drawn = np.random.default_rng(0).multinomial(
        examples, np.full(examples, 1 / examples), size=RESAMPLES
    )
    return np.concatenate([np.ones((1, examples)), drawn])


def means(values: Float[np.ndarray, "*axes examples"]) -> Float[np.ndarray, "*axes draws"]:
    """The mean over the examples, and then over each draw of them; arrays of the same examples
    share their draws."""
    return weighted_mean(values, _weights(values.shape[-1]))


def bounded(drawn: Float[np.ndarray, " draws"]) -> Bounded:
    """The first of these, with the interval of the others."""
    value, rest = float(drawn[0]), drawn[1:]
    known = rest[~np.isnan(rest)]
    if isnan(value) or not known.size or np.ptp(known) <= SAME * np.abs(known).max():
        return Bounded(value, nan, nan)
    low, high = percentile_interval(known)
    return Bounded(value, float(low), float(high))


def spread_p(evaluations: Sequence[Evaluation]) -> float:
    """The p that a circuit's faithfulness is the same by every measure, of the same examples: the
    share of draws in which the measures, each less its own value, spread at least as far as the
    values do. nan, not known, for examples that are all the same, or a single measure."""
    drawn = np.array([_ratios(one) for one in evaluations])
    drawn = drawn[~np.isnan(drawn[:, :1]).ravel()]
    if len(drawn) < 2 or np.ptp(drawn - drawn[:, :1]) <= SAME * np.abs(drawn).max():
        return nan
    spread = np.ptp(drawn[:, 1:] - drawn[:, :1], axis=0)
    return float((1 + np.sum(spread >= np.ptp(drawn[:, 0]))) / (1 + len(spread)))


def _ratios(evaluation: Evaluation) -> Float[np.ndarray, " draws"]:
    """The faithfulness, and that of each draw."""
    whole, nothing, own = (
        means(values) for values in (evaluation.everything, evaluation.nothing, evaluation.circuit)
    )
    return divided(own - nothing, whole - nothing)


def divided(
    above: Float[np.ndarray, " draws"], below: Float[np.ndarray, " draws"]
) -> Float[np.ndarray, " draws"]:
    """The ratio of two numbers in every draw; nan where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(below) > SAME, above / below, np.nan)
