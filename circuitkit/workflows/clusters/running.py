"""Cluster the prompts of a task by their own edge scores, and measure one circuit of each cluster
beside a single one, on prompts that were not seen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, TypeAlias

import numpy as np
from jaxtyping import Bool, Int

from circuitkit.engine.inputs import CorruptionLike, Data, Inputs, MetricLike, prepare_halves
from circuitkit.engine.metric import Method
from circuitkit.engine.model import Model
from circuitkit.errors import UnknownNameError
from circuitkit.evaluation.ability import ability
from circuitkit.evaluation.ability import known as only_known
from circuitkit.evaluation.choosing import choose
from circuitkit.evaluation.faithfulness import Evaluation, evaluate
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Mask
from circuitkit.registry import name_of
from circuitkit.util.json_values import Json
from circuitkit.util.options import Bounds, Count, Seed, Size, checked
from circuitkit.workflows.asking import METHOD, RULE, Asked, Share, is_in_sample
from circuitkit.workflows.clusters.assigning import By, assigned, by_scores, each_of
from circuitkit.workflows.clusters.grouping import MOST, Grouping, group
from circuitkit.workflows.clusters.results import Assigned, Clusters
from circuitkit.workflows.clusters.sharing import features, shared
from circuitkit.workflows.discover import _resumed, method_of
from circuitkit.workflows.folders import tried
from circuitkit.workflows.sampling import by_example, gives_groups

__all__ = ["clusters"]

CHANCE = 3  # times that prompts are dealt to clusters by chance
Number: TypeAlias = Annotated[int, Bounds(1, MOST)]


@checked
def clusters(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    method: Method | str = METHOD,
    number: Number | None = None,
    assign: By = "residual",
    unseen: Data | None = None,
    edges: Size | None = None,
    faithfulness: Share | None = None,
    rule: str = RULE,
    examples: Count | None = None,
    draws: Count = 499,
    seed: Seed = 0,
    batch_size: Count | None = None,
    memory: Size | None = None,
    resume: str | os.PathLike[str] | None = None,
    known: bool = False,
    force: bool = False,
) -> Clusters:
    """Is it one circuit? Clusters of prompts by their own scores, and one circuit of each.

    On one half of the prompts each prompt's edge scores, scaled to the length 1, are clustered. A
    cluster is cut in two as long as its prompts have more than one mode on the line between the two
    (the dip test, beside samples of a distribution with one mode). Of each cluster one circuit is
    chosen by the mean of its scores, of the size of the single circuit. On the other half each
    prompt is given to a cluster without a look at its answer, and runs under that cluster's
    circuit; beside it the single circuit, a larger one with as many edges as all of them together,
    and circuits of clusters by chance. One cluster does not prove that there is one circuit: few
    prompts, or few of another kind, are not told apart.

    Args:
        model: The model, from ``ck.load``.
        data: As in ``ck.discover``: a task's name, a file, a Task or a Dataset.
        metric: A name or a function; without it the task's own, else ``logit_diff``.
        corruption: A name or a function; without it ``counterfactual``.
        method: How edges are scored, by a method with scores of single examples.
        number: How many clusters there are to be; without it as many as are told apart.
        assign: How unseen prompts are given to clusters, by the nearest centroid: of the
            ``residual`` that the logits read in the clean run, or of the ``scores`` of the token
            that the model itself puts first (which uses the corrupted text too).
        unseen: The prompts on which the circuits are measured, in any form that ``data`` takes.
        edges: The size of each circuit; without it that of the smallest single circuit that
            reaches the ``faithfulness``.
        faithfulness: What the single circuit is to reach on the prompts seen; without it 0.85.
        rule: How edges are ranked: ``abs``, ``signed`` or ``greedy``.
        examples: How many prompts each half has at most; without it 64 of a task, all of a file.
        draws: How many samples with one mode a split is put beside.
        seed: The seed of the prompts, of the folds, and of all that is drawn.
        batch_size: The prompts of a batch; without it what ``memory`` allows, up to 32.
        memory: The bytes that the process may take; None for what the machine has.
        resume: A directory for finished blocks, from which a killed run goes on.
        known: Whether only the prompts that the model answers stay.
        force: Whether to continue where the model answers fewer than 75% of the prompts.

    Returns:
        ``Clusters``: who is in which, what they share, and how faithful each circuit is.

    Raises:
        ArgumentError: for an argument in the wrong place, of another kind, or out of its bounds.
        UnknownNameError: for a name that does not exist, and for a method without scores of single
            examples.
        ScoresError: for more edges than the model has, and for both a size and a faithfulness.
        EvaluationError: where the model answers too few prompts, or no circuit is as faithful.
        OutputError: where ``resume`` cannot be written.

    Source: clusters of per-example scores as in Data-driven circuit discovery (2026,
    arXiv:2605.09129), which gives a prompt the best of all circuits; Hartigan & Hartigan (1985).

    Example:
        >>> found = ck.clusters(model, "ioi", edges=20, examples=16)
        >>> found.number, list(found.to_frame())[:3]
        (1, ['cluster', 'prompts', 'unseen'])
    """
    asked = Asked(rule, examples, seed, edges, faithfulness, None, None, batch_size, memory)
    tried(resume)
    seen, measured = prepare_halves(
        model, data, unseen, metric, corruption, examples=examples, seed=seed,
        batch_size=batch_size, memory=memory, keep=partial(only_known, model) if known else None,
    )  # fmt: skip
    asked.require(model)
    if not force:
        ability(*seen[:3]).require(str(seen.data.about.get("task", "the task")))
    how = _resumed(_by_example(method), resume)
    scores = how(*seen)
    found = group(each_of(scores), number, draws=draws, seed=seed)
    single = choose(model, scores, *seen[1:], edges=edges, faithfulness=faithfulness, rule=rule)
    size = int(single.mask.sum())
    parts = [_of_mean(scores, found.labels == k) for k in range(found.number)]
    masks = [part.mask(size, rule) for part in parts] if parts[1:] else [single.mask]
    given = assigned(assign, how, seen, measured, found.labels)
    own = by_scores(each_of(scores), found.labels, each_of(how(*measured))) if masks[1:] else given
    named = _measured(measured, scores, found, single.mask, masks, rule, seed, resume)
    about: dict[str, Json] = {
        "task": "own data", **seen.metadata(), "method": name_of(method_of(method)), "rule": rule,
        "seed": seed, "assign": assign,
    }  # fmt: skip
    return Clusters(
        about=about, grouping=found, given=Assigned(given, own), evaluations=named,
        single=_circuit(scores, single.mask, about),
        circuits=tuple(_circuit(part, mask, {**about, "cluster": k}) for k, (part, mask)
                       in enumerate(zip(parts, masks, strict=True), 1)),
        shared=tuple(shared(features(seen.data), found.labels, seed)),
        prompts=(_texts(seen), _texts(measured)), in_sample=is_in_sample(seen, measured),
    )  # fmt: skip


def _by_example(method: Method | str) -> Method:
    """The method with the scores of each example; raises UnknownNameError where it has none."""
    how = method_of(method)
    if not gives_groups(how):
        raise UnknownNameError(
            f"{name_of(how)} gives no scores of single examples, by which prompts are clustered; "
            "take a method that does (eap_ig)"
        )
    return by_example(how)


def _of_mean(scores: Scores, members: Bool[np.ndarray, " examples"]) -> Scores:
    """The mean scores of some prompts."""
    values = np.zeros_like(scores.values)
    values[scores.wiring.legal] = each_of(scores)[members].mean(0)
    return replace(scores, values=values, groups=None, error=None)


def _measured(
    inputs: Inputs, scores: Scores, found: Grouping, single: Mask, masks: Sequence[Mask],
    rule: str, seed: int, resume: str | os.PathLike[str] | None,
) -> dict[str, tuple[Evaluation, ...]]:  # fmt: skip
    """The Evaluations, from the same runs: of the single circuit, of the larger one, of each
    cluster's, and of each of clusters by chance."""
    size = int(single.sum())
    all_of = np.logical_or.reduce(masks)
    chance = [
        _of_mean(scores, labels == k).mask(size, rule)
        for labels in _by_chance(found.labels, seed)
        for k in range(found.number)
    ]  # fmt: skip
    several = [*masks, scores.mask(int(all_of.sum()), rule), *chance] if masks[1:] else []
    every = tuple(evaluate(inputs.model, [single, *several], *inputs[1:], resume=resume))
    end = 1 + len(masks)
    named = {"one": every[:1], "clusters": every[1:end] or every[:1]}
    return {**named, "larger": every[end : end + 1], "chance": every[end + 1 :]}


def _by_chance(labels: Int[np.ndarray, " n"], seed: int) -> list[Int[np.ndarray, " n"]]:
    draw = np.random.default_rng([seed, 1])
    return [draw.permutation(labels) for _ in range(CHANCE)]


def _circuit(scores: Scores, mask: Mask, about: dict[str, Json]) -> Circuit:
    return replace(scores, about=about, groups=None, error=None).circuit(mask)


def _texts(inputs: Inputs) -> tuple[str, ...]:
    return tuple(inputs.data.to_frame()["clean"])
