"""Masks that are learned for one circuit: each edge has a probability to stay, and edges that stay
cost something."""

from __future__ import annotations

import math
import os
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.discovery._training import Parameters, Rule, learn
from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare
from circuitkit.engine.model import Model
from circuitkit.engine.numerics import exact
from circuitkit.graph.scores import Scores
from circuitkit.util.options import Bounds, Count, Seed, checked

__all__ = ["edge_pruning", "ugs"]

LOW, HIGH, HARDNESS = -0.1, 1.1, 2 / 3  # of the hard concrete distribution (Louizos et al. 2018)
OPEN = 10.0  # where edge pruning starts: every edge is kept
LIKELY = 1.0  # where uniform gradient sampling starts: a probability of 0.73
NARROW = 1e-6  # below this window nothing is drawn within it


@checked
def edge_pruning(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    target: Annotated[float, Bounds(0, 1.5)] = 0.95,
    warmup: Annotated[float, Bounds(0, 1)] = 0.8,
    loss: Literal["match", "metric"] = "match",
    runs: Annotated[int, Bounds(1, 1_000_000_000)] = 1_200,
    size: Count = 8,
    rate: Annotated[float, Bounds(0, 100, above=True)] = 0.3,
    seed: Seed = 0,
    resume: str | os.PathLike[str] | None = None,
) -> Scores:
    """Edge Pruning: a circuit is learned as a mask of hard concrete numbers.

    Each edge's mask is drawn from a hard concrete distribution (stretched to [−0.1, 1.1],
    temperature 2/3), which is often exactly 0 or 1. Adam lowers the loss of the drawn masks (see
    ``nested``), while two multipliers are raised until the share of edges that are dropped is
    ``target`` (0.95: 5 % are kept; above 1 presses harder). The aim rises from 0 to ``target``
    over the first ``warmup`` of the ``runs``, which are the prompts that are run forwards and
    backwards in all, ``size`` of them a step. ``resume`` is a directory, with which a training
    resumes after a kill, with an equal result.

    Returns Scores [writers, readers]: −log(1 − sigmoid(log α)), above 0 and without a unit: the
    higher, the more likely the edge is kept. ``about["kept"]`` is the realised number of edges, the
    sum of the masks without chance: ``scores.top(kept)`` is the circuit. ``about["losses"]`` are
    those of the ``first`` time that every prompt was run and of the ``last``. Raises as ``nested``
    does.

    Differs from the authors' program: each prompt of a step draws a mask of its own; the share of
    edges dropped is its expectation; there are no masks of nodes; the loss is the metric's, which
    with ``kl`` is the paper's, in shares of the gap; and ``runs`` are few, with a lower ``rate``
    (the paper takes 96,000 at 0.8). Only circuits of the target size are learned; ``nested`` ranks
    for all sizes.

    Source: Bhaskar et al. (2024); Louizos et al. (2018) for the distribution.

    Example:
        >>> scores = ck.discovery.edge_pruning(model, data, "kl", runs=32, target=0.5)
        >>> 0 < scores.about["kept"] <= len(scores)
        True
    """
    inputs = prepare(model, data, metric, corruption)
    settings = {"target": target, "warmup": warmup, "loss": loss, "runs": runs, "size": size,
                "rate": rate, "seed": seed}  # fmt: skip
    start = {"edges": torch.full((model.wiring.n_edges,), OPEN), "multipliers": torch.zeros(2)}
    penalty = partial(_sparsity, target, warmup)
    rule = Rule(lambda: start, _hard_concrete, penalty, ("multipliers",), _realised)
    return learn(inputs, "edge_pruning", rule, settings, resume)


def _hard_concrete(
    parameters: Parameters, done: float, rng: np.random.Generator, n: int
) -> Float[Tensor, "n edges"]:
    """A mask drawn for each of ``n`` prompts: between 0 and 1, and often exactly at one of them."""
    del done
    alpha = parameters["edges"]
    u = torch.from_numpy(rng.uniform(1e-6, 1 - 1e-6, (n, len(alpha)))).to(alpha)
    soft = torch.sigmoid((torch.logit(u) + alpha) / HARDNESS)
    return (soft * (HIGH - LOW) + LOW).clamp(0, 1)


def _kept(alpha: Float[Tensor, " edges"]) -> Float[Tensor, " edges"]:
    """The probability that an edge's mask is not 0."""
    return torch.sigmoid(alpha - HARDNESS * math.log(-LOW / HIGH))


def _realised(alpha: Float[Tensor, " edges"]) -> int:
    """The sum of the masks without chance, rounded."""
    soft = torch.sigmoid(exact(alpha)) * (HIGH - LOW) + LOW
    return round(float(soft.clamp(0, 1).sum()))


def _sparsity(target: float, warmup: float, parameters: Parameters, done: float) -> Tensor:
    """λ₁(s − t) + λ₂(s − t)², where s is the share of edges that is not kept and t its aim, which
    rises over the first part of the training."""
    aim = target * min(1.0, done / warmup) if warmup else target
    short = 1 - _kept(parameters["edges"]).mean() - aim
    first, second = parameters["multipliers"]
    cost: Tensor = first * short + second * short**2
    return cost


@checked
def ugs(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    price: Annotated[float, Bounds(0)] = 1e-3,
    loss: Literal["match", "metric"] = "match",
    runs: Annotated[int, Bounds(1, 1_000_000_000)] = 1_200,
    size: Count = 8,
    rate: Annotated[float, Bounds(0, 100, above=True)] = 0.1,
    seed: Seed = 0,
    resume: str | os.PathLike[str] | None = None,
) -> Scores:
    """Uniform gradient sampling (UGS): each edge's probability to be kept is learned.

    An edge with the probability p is 1 with p and else 0, except within a window of the width
    p(1 − p) around it, where its mask lies between. Adam lowers the loss of the drawn masks (see
    ``nested``) and ``price`` · Σ p, so that an edge stays where without it the loss rises by more
    than that share of the metric's gap. The gradient in p is the mean of the gradients in the masks
    that lie within the window (0 where none does). ``runs`` are the prompts that are run
    forwards and backwards in all, ``size`` of them a step. ``resume`` is a directory, with which a
    training resumes after a kill, with an equal result.

    Returns Scores [writers, readers]: −log(1 − p), above 0 and without a unit. ``about["kept"]`` is
    the number of edges with p above 1/2: ``scores.top(kept)`` is the circuit. ``about["losses"]``
    are those of the ``first`` time that every prompt was run and of the ``last``. Raises as
    ``nested`` does.

    Differs from the authors' program: one mask for each prompt of a step rather than twelve; the
    constants that edges carry are those of the corruption; nodes have no penalty of their own, and
    dead ends are not pruned in each sample; the loss is the metric's, which with ``kl`` is the
    paper's, in shares of the gap; Adam without clipping.

    Source: Li & Janson (2024).

    Example:
        >>> scores = ck.discovery.ugs(model, data, runs=32)
        >>> bool((scores.values[model.wiring.legal] > 0).all())
        True
    """
    inputs = prepare(model, data, metric, corruption)
    settings = {"price": price, "loss": loss, "runs": runs, "size": size, "rate": rate,
                "seed": seed}  # fmt: skip
    start = {"edges": torch.full((model.wiring.n_edges,), LIKELY)}
    rule = Rule(lambda: start, _uniform, partial(_price, price), kept=_likely)
    return learn(inputs, "ugs", rule, settings, resume)


def _uniform(
    parameters: Parameters, done: float, rng: np.random.Generator, n: int
) -> Float[Tensor, "n edges"]:
    """A mask drawn for each of ``n`` prompts: 1 with the edge's probability, but between 0 and 1 in
    a window around it.

    The gradient in the probability is the mean of the gradients in the masks that lie within it.
    """
    del done
    kept = torch.sigmoid(parameters["edges"])
    window = (kept * (1 - kept)).detach().clamp(NARROW)
    u = torch.from_numpy(rng.random((n, len(kept)))).to(kept)
    drawn = 0.5 - (u - kept.detach()) / window
    inside = (drawn > 0) & (drawn < 1)
    weight = inside * (n / inside.sum(0).clamp(1))
    return drawn.clamp(0, 1) + weight * (kept - kept.detach())


def _price(price: float, parameters: Parameters, done: float) -> Tensor:
    """What the kept edges cost together."""
    del done
    return price * torch.sigmoid(parameters["edges"]).sum()


def _likely(learned: Float[Tensor, " edges"]) -> int:
    """How many edges are kept rather than not."""
    return int((learned > 0).sum())
