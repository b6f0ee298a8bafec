"""A learned ranking: one score per edge, such that the best circuits of every size are good."""

from __future__ import annotations

import os
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.discovery._training import Parameters, Rule, Start, is_start, learn, started
from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare
from circuitkit.engine.model import Model
from circuitkit.graph.scores import Scores
from circuitkit.util.options import Bounds, Count, Form, Seed, checked

__all__ = ["nested"]

HALVINGS = 40  # of the interval that holds a threshold: to the precision of a float32


@checked
def nested(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    start: Annotated[Start, Form("a method's name, Scores, or None", is_start)] = None,
    loss: Literal["match", "metric"] = "match",
    runs: Annotated[int, Bounds(1, 1_000_000_000)] = 480,
    size: Count = 8,
    rate: Annotated[float, Bounds(0, 100, above=True)] = 0.1,
    temperature: Annotated[float, Bounds(0, 100, above=True)] = 0.5,
    seed: Seed = 0,
    resume: str | os.PathLike[str] | None = None,
) -> Scores:
    """A learned nested ranking: the best circuits of all sizes are made faithful at once.

    There is one number for each edge. Every prompt of a step draws a size of its own (one in each
    of ``size`` equal parts of log(edges)), and is run under the mask sigmoid((s − τ) /
    ``temperature``), where τ is such that the mask sums to that size. Adam lowers, in shares of the
    metric's gap between the whole model and what is carried,

    - ``match``: |circuit − whole model|, of each prompt: the distance that CMD measures;
    - ``metric``: the metric, with a minus sign: the higher the better, as in MAttr.

    All edges start alike, or from the ranking by magnitude of ``start``, as −log(rank): a method's
    name, with settings (``eap_ig(steps=10)``), which is run on the same prompts before and adds its
    cost; or Scores, whose cost is not counted. A good ranking halves the ``runs`` that are needed,
    and a wrong one (``eap_ig`` under ``zero``) is worse than none. ``runs`` are the prompts that
    are run forwards and backwards in all, ``size`` those of a step. Before, each prompt is run once
    as it is and once as it is carried. ``resume`` is a directory, with which a training resumes
    after a kill, with an equal result.

    Returns Scores [writers, readers]: −log(1 − sigmoid(s)), above 0 and without a unit: they rank
    edges, and do not say which way an edge works. ``about["losses"]`` are the mean losses of the
    ``first`` time that every prompt was run, and of the ``last``. Raises ArgumentError for an
    argument in the wrong place, MetricError where the metric has no gradient or no gap, and
    OutputError where the directory cannot be used.

    Differs from MAttr: several prompts per step, each with its own size, where MAttr has one;
    ``match``, and the start from another ranking.

    Source: MAttr (arXiv:2609.25518), for the nested sizes and the gradient through the threshold.

    Example:
        >>> scores = ck.discovery.nested(model, data, runs=64)
        >>> sorted(scores.about["losses"])
        ['first', 'last']
        >>> scores.about["losses"]["last"] < scores.about["losses"]["first"]
        True
    """
    inputs = prepare(model, data, metric, corruption)
    settings = {"start": start, "loss": loss, "runs": runs, "size": size, "rate": rate,
                "temperature": temperature, "seed": seed}  # fmt: skip
    rule = Rule(started(inputs, start), partial(_masks, temperature))
    return learn(inputs, "nested", rule, settings, resume)


def _masks(
    temperature: float, parameters: Parameters, done: float, rng: np.random.Generator, n: int
) -> Float[Tensor, "n edges"]:
    """A mask of its own size for each of ``n`` prompts."""
    del done
    scores = parameters["edges"]
    budgets = torch.from_numpy(_budgets(rng, n, len(scores))).to(scores)
    soft: Any = _Soft.apply  # which torch leaves untyped
    masks: Tensor = soft(scores, budgets, temperature)
    return masks


def _budgets(rng: np.random.Generator, n: int, edges: int) -> Float[np.ndarray, " n"]:
    """So many sizes between 1 and all edges, one in each of as many equal parts of their
    logarithms, in a random order."""
    sizes: np.ndarray = np.exp(np.log(edges) * (rng.permutation(n) + rng.random(n)) / n)
    return sizes


class _Soft(torch.autograd.Function):
    """sigmoid((s − τ)/T), with τ such that the mask sums to a budget; the gradient knows that τ
    moves with the scores."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, budgets: Tensor, temperature: float) -> Tensor:
        masks = torch.sigmoid((scores - _thresholds(scores, budgets, temperature)) / temperature)
        ctx.save_for_backward(masks)
        ctx.temperature = temperature
        return masks

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (masks,), (slope,) = ctx.saved_tensors, slopes
        steep = masks * (1 - masks)
        common = (slope * steep).sum(-1, keepdim=True) / steep.sum(-1, keepdim=True).clamp(1e-12)
        return (steep * (slope - common)).sum(0) / ctx.temperature, None, None


def _thresholds(
    scores: Float[Tensor, " edges"], budgets: Float[Tensor, " n"], temperature: float
) -> Float[Tensor, "n 1"]:
    """The threshold of each budget, by bisection."""
    margin = temperature * (np.log(len(scores)) + 20)
    low = (scores.min() - margin).expand(len(budgets))
    high = (scores.max() + margin).expand(len(budgets))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        more = torch.sigmoid((scores - middle[:, None]) / temperature).sum(-1) > budgets
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    found: Tensor = (low + high) / 2
    return found[:, None]
