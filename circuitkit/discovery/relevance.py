"""Relevance patching: edge attribution with the coefficients of layer-wise relevance propagation
in the place of the gradient."""

from __future__ import annotations

import os
from typing import overload

from circuitkit.discovery._gradients import attribute
from circuitkit.discovery.attribution import clean_run
from circuitkit.engine.backward import RULES
from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare
from circuitkit.engine.model import Model
from circuitkit.engine.tally import ByGroup, ByPlace
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.places import Places
from circuitkit.graph.scores import Scores
from circuitkit.util.options import checked

__all__ = ["relp"]


@overload
def relp(
    model: Model, data: Data, metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None, *, groups: ByGroup = None,
    resume: str | os.PathLike[str] | None = None,
) -> Scores: ...  # fmt: skip


@overload
def relp(
    model: Model, data: Data, metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None, *, places: Places, groups: ByGroup = None,
    resume: str | os.PathLike[str] | None = None,
) -> PlacedScores: ...  # fmt: skip


@checked
def relp(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    places: ByPlace = None,
    groups: ByGroup = None,
    resume: str | os.PathLike[str] | None = None,
) -> Scores | PlacedScores:
    """Relevance patching (RelP): EAP whose backward follows relevance propagation.

    It is ``eap`` with ``rule="relp"``, at the same cost: what a norm divides by is a constant, the
    slope of an activation is act(x)/x, and each factor of a gated MLP gets half of its gradient.
    Attention patterns keep their gradient, as in the authors' runs; with them as constants
    (``eap`` with ``rule="relp+frozen_patterns"``) edges into queries and keys score 0.

    Returns Scores [writers, readers]: in metric units per example, positive where the edge helps
    the clean behaviour; ``places``, ``groups`` and ``resume`` as in ``eap``. Raises as ``eap``
    does, and UnsupportedModelError where an MLP's activation cannot be reached (gpt-oss).

    Differs from other tools: the rules hold at the clean run, whose edges are cut, where the
    authors' program takes them at the corrupted one; routers of experts, which the paper does not
    treat, keep their gradient.

    Source: Rezaei Jafari et al. (2025, "RelP").

    Example:
        >>> scores = ck.discovery.relp(model, data)
        >>> same = ck.discovery.eap(model, data, rule="relp")
        >>> bool((scores.values == same.values).all()), scores.about["method"]
        (True, 'relp')
    """
    inputs = prepare(model, data, metric, corruption)
    return attribute(
        inputs, "relp", clean_run, groups, rule=RULES["relp"], places=places, resume=resume
    )
