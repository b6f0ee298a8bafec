"""Edge attribution: what cutting each edge would do, to first order, for all edges at once.

Every score is Σ_tokens (clean − carried output of the writer) · (gradient at the reader); the
methods differ in where the gradient is taken: at the clean run, or in runs from embeddings between
the carried and the clean one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, overload

import numpy as np
import torch

from circuitkit.discovery._gradients import Here, Term, attribute
from circuitkit.discovery._points import left, midpoints, stratified
from circuitkit.engine.backward import BackwardRule
from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.tally import ByGroup, ByPlace
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.places import Places
from circuitkit.graph.scores import Scores
from circuitkit.util.json_values import Json
from circuitkit.util.options import Bounds, Seed, checked

__all__ = ["clean_corrupted", "eap", "eap_ig", "expected_gradients"]

ZERO = "a gradient is taken at an embedding of zero, where the slope of every norm is 1/√ε"
RISK = f"{ZERO}; use points='midpoints', or another corruption"
ENDS = f"{ZERO}; use eap_ig, or another corruption"


@overload
def eap(
    model: Model, data: Data, metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None, *, groups: ByGroup = None,
    rule: BackwardRule = None, resume: str | os.PathLike[str] | None = None,
) -> Scores: ...  # fmt: skip


@overload
def eap(
    model: Model, data: Data, metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None, *, places: Places, groups: ByGroup = None,
    rule: BackwardRule = None, resume: str | os.PathLike[str] | None = None,
) -> PlacedScores: ...  # fmt: skip


@checked
def eap(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    places: ByPlace = None,
    groups: ByGroup = None,
    rule: BackwardRule = None,
    resume: str | os.PathLike[str] | None = None,
) -> Scores | PlacedScores:
    """Edge attribution patching (EAP): the gradient at the clean run, one forward and backward.

    The score of an edge is Σ_tokens (clean − carried output of the writer) · (gradient of the
    metric at the reader): the first-order estimate of what ``exact`` measures by noising it.

    Returns Scores [writers, readers]: in metric units per example, positive where the edge helps
    the clean behaviour. With ``groups="examples"`` they also hold each example's scores (``groups``
    [examples, edges]) and the standard error of the mean, and with counts [groups, examples] the
    means over resamples in which each example counts that often: at the same cost, in
    groups × edges × 4 bytes. With ``places`` (None by default) they are PlacedScores instead: of
    the edges of the residual stream in each span of the prompts, which sum to the plain ones, and
    of those of attention from span to span; ``circuitkit.data.places.places`` finds the spans.
    Raises ArgumentError for an argument in the wrong place, MetricError where the metric has no
    gradient there (kl and js are at their best), OutputError where the directory cannot be used,
    CircuitError for places of another model, and UnsupportedModelError where the rule speaks of a
    part of the model that cannot be reached.

    With a ``rule`` (None by default: the plain gradient) the backward treats the denominators of
    norms as constants (``frozen_norms``), or attention patterns (``frozen_patterns``: nothing flows
    into queries and keys), takes act(x)/x for the slope of an activation (``frozen_slopes``), or
    gives each factor of a gated MLP half of its gradient (``half_gates``); ``relp`` is all but the
    patterns, and ``+`` joins rules. The run itself is the same, and a model that lacks what a rule
    speaks of keeps its gradient there. ``resume`` (None by default) is a directory for finished
    batches, with which a run resumes after a kill.

    Differs from other tools: with grouped queries an edge into k or v is one per group of heads,
    where EAP-IG and MIB repeat it for every head. Scores are means over all examples, so that they
    do not depend on the batch size.

    Source: Syed et al. (2023); Nanda (2022) for nodes.

    Example:
        >>> scores = ck.discovery.eap(model, data, "logit_diff", "mean")
        >>> len(scores), scores.about["corruption"]
        (479, 'mean')
        >>> each = ck.discovery.eap(model, data, groups="examples")
        >>> each.groups.shape == (len(data), 479), bool((each.error >= 0).all())
        (True, True)
        >>> from circuitkit.data.places import places
        >>> spans = places(data, model.wiring)
        >>> placed = ck.discovery.eap(model, data, places=spans)
        >>> placed.residual.shape == (21, 53, len(spans.spans))
        True
    """
    inputs = prepare(model, data, metric, corruption)
    return attribute(inputs, "eap", clean_run, groups, rule=rule, places=places, resume=resume)


@overload
def eap_ig(
    model: Model, data: Data, metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None, *, steps: int = 5,
    points: Literal["left", "midpoints"] | None = None, groups: ByGroup = None,
    rule: BackwardRule = None, resume: str | os.PathLike[str] | None = None,
) -> Scores: ...  # fmt: skip


@overload
def eap_ig(
    model: Model, data: Data, metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None, *, places: Places, steps: int = 5,
    points: Literal["left", "midpoints"] | None = None, groups: ByGroup = None,
    rule: BackwardRule = None, resume: str | os.PathLike[str] | None = None,
) -> PlacedScores: ...  # fmt: skip


@checked
def eap_ig(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    steps: Annotated[int, Bounds(1, 10_000)] = 5,
    points: Literal["left", "midpoints"] | None = None,
    places: ByPlace = None,
    groups: ByGroup = None,
    rule: BackwardRule = None,
    resume: str | os.PathLike[str] | None = None,
) -> Scores | PlacedScores:
    """EAP with integrated gradients over the inputs (EAP-IG).

    The gradient is averaged over embeddings between the carried and the clean one; all else runs
    free. Their fractions of the way are the authors' 0, 1/steps, ..., (steps−1)/steps
    (``points="left"``), or the middles of as many equal parts (``"midpoints"``). Without a choice
    they are the authors', and the middles for an example of which a token carries an embedding of
    zero: at the fraction 0 the slope of its norms would be 1/√ε. Costs ``steps`` forwards and
        backwards in addition to the clean and the carried run.

    Returns Scores [writers, readers]: in metric units per example, positive where the edge helps
    the clean behaviour; ``places``, ``groups``, ``rule`` and ``resume`` as in ``eap``. Raises as
    ``eap`` does, ArgumentError for steps that are not from 1 to 10,000, and ScoresError where the
    gradients at an embedding of zero are not finite.

    Differs from other tools: the fractions are those of the authors' code, which ends one step
    short of the clean input, and not the paper's 1/steps, ..., 1. ``zero`` carries a zero
    embedding, where EAP-IG keeps the position embedding, and ``mean`` carries each node's own mean,
    where EAP-IG has one vector for all nodes. With grouped queries an edge into k or v is one per
    group of heads.

    Source: Hanna et al. (2024, "Have faith in faithfulness").

    Example:
        >>> ck.discovery.eap_ig(model, data, "kl", steps=2).about["settings"]
        {'steps': 2}
        >>> ck.discovery.eap_ig(model, data, "kl", "zero", steps=2).about["settings"]
        {'steps': 2, 'points': 'midpoints'}
    """
    settings: dict[str, Json] = {"steps": steps} | ({"points": points} if points else {})

    def where(here: Here, carried: Activations) -> Iterator[Term]:
        moved = here.at_rest(carried) if points is None else torch.tensor(points == "midpoints")
        if points is None and bool(moved.any()):
            here.note("midpoints", 1.0)  # of some examples at least
        risk = RISK if points == "left" and bool(here.at_rest(carried).any()) else ""
        for first, middle in zip(left(steps), midpoints(steps), strict=True):
            share = here.rows(torch.where(moved, middle, first).expand(here.batch.examples))
            at = here.at(here.between(carried, share))
            yield Term(at, here.live, carried, 1 / steps, risk)
            del at

    def tell(notes: Mapping[str, np.ndarray]) -> None:
        if "midpoints" in notes:
            settings["points"] = "midpoints"

    inputs = prepare(model, data, metric, corruption)
    return attribute(
        inputs, "eap_ig", where, groups, settings, rule, places=places, resume=resume, tell=tell
    )


@overload
def expected_gradients(
    model: Model, data: Data, metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None, *, draws: int = 1, seed: Seed = 0,
    groups: ByGroup = None,
    rule: BackwardRule = None, resume: str | os.PathLike[str] | None = None,
) -> Scores: ...  # fmt: skip


@overload
def expected_gradients(
    model: Model, data: Data, metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None, *, places: Places, draws: int = 1, seed: Seed = 0,
    groups: ByGroup = None,
    rule: BackwardRule = None, resume: str | os.PathLike[str] | None = None,
) -> PlacedScores: ...  # fmt: skip


@checked
def expected_gradients(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    draws: Annotated[int, Bounds(1, 10_000)] = 1,
    seed: Seed = 0,
    places: ByPlace = None,
    groups: ByGroup = None,
    rule: BackwardRule = None,
    resume: str | os.PathLike[str] | None = None,
) -> Scores | PlacedScores:
    """EAP-IG at random points of the way, one for each prompt: a fifth of the cost.

    The fraction of the way from the carried to the clean embedding is drawn for each prompt, in
    equal parts over the prompts (of n prompts, one has a fraction below 1/n, ...); with more
    ``draws`` each prompt has as many, one in each of as many equal parts. The fractions depend on
    the ``seed`` and on the prompts' tokens, and not on their order or batches. Costs ``draws``
    forwards and backwards in addition to the clean and the carried run.

    Returns Scores [writers, readers]: in metric units per example, positive where the edge helps
    the clean behaviour; ``places``, ``groups``, ``rule`` and ``resume`` as in ``eap`` (each
    prompt's scores are those at its own fraction). Raises as ``eap_ig`` does.

    Source: Erion et al. (2021), with the prompt's own corruption as its baseline.

    Example:
        >>> ck.discovery.expected_gradients(model, data).about["settings"]
        {'draws': 1, 'seed': 0}
    """
    inputs = prepare(model, data, metric, corruption)
    shares = stratified(inputs.data, draws, seed)

    def where(here: Here, carried: Activations) -> Iterator[Term]:
        for draw in range(draws):
            at = here.at(here.between(carried, here.own(shares[:, draw])))
            yield Term(at, here.live, carried, 1 / draws)
            del at

    settings: dict[str, Json] = {"draws": draws, "seed": seed}
    return attribute(inputs, "expected_gradients", where, groups, settings, rule,
                     places=places, resume=resume)  # fmt: skip


@overload
def clean_corrupted(
    model: Model, data: Data, metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None, *, groups: ByGroup = None,
    rule: BackwardRule = None, resume: str | os.PathLike[str] | None = None,
) -> Scores: ...  # fmt: skip


@overload
def clean_corrupted(
    model: Model, data: Data, metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None, *, places: Places, groups: ByGroup = None,
    rule: BackwardRule = None, resume: str | os.PathLike[str] | None = None,
) -> PlacedScores: ...  # fmt: skip


@checked
def clean_corrupted(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    places: ByPlace = None,
    groups: ByGroup = None,
    rule: BackwardRule = None,
    resume: str | os.PathLike[str] | None = None,
) -> Scores | PlacedScores:
    """EAP with the mean of the gradients at the clean and at the corrupted embedding.

    Costs two forwards and backwards, and the carried run.

    Returns Scores [writers, readers]: in metric units per example, positive where the edge helps
    the clean behaviour; ``places``, ``groups``, ``rule`` and ``resume`` as in ``eap``. Raises as
    ``eap_ig`` does.

    Source: Hanna et al. (2024), whose program calls it ``clean-corrupted``.

    Example:
        >>> ck.discovery.clean_corrupted(model, data).about["method"]
        'clean_corrupted'
    """

    def where(here: Here, carried: Activations) -> Iterator[Term]:
        yield Term(here.clean, here.live, carried, 0.5)
        risk = ENDS if bool(here.at_rest(carried).any()) else ""
        yield Term(here.at(here.between(carried, 0.0)), here.live, carried, 0.5, risk)

    inputs = prepare(model, data, metric, corruption)
    return attribute(
        inputs, "clean_corrupted", where, groups, rule=rule, places=places, resume=resume
    )


def clean_run(here: Here, carried: Activations) -> Iterator[Term]:
    """The gradient at the clean run."""
    yield Term(here.clean, here.live, carried)
