"""The mean of several methods: where they agree that an edge matters, it ranks high."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float

from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare
from circuitkit.engine.metric import Method
from circuitkit.engine.model import Model
from circuitkit.graph.scores import Scores
from circuitkit.registry import name_of, resolve
from circuitkit.util.options import Form, checked

__all__ = ["ensemble"]

MEMBERS = ("eap", "eap_ig", "clean_corrupted")


def _are_members(value: object) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return False
    return bool(value) and all(isinstance(one, str) or callable(one) for one in value)


@checked
def ensemble(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    members: Annotated[
        Sequence[Method | str], Form("a list of methods such as ['eap', 'eap_ig']", _are_members)
    ] = MEMBERS,
    by: Literal["scores", "ranks"] = "scores",
) -> Scores:
    """The mean of the scores of several methods (a parallel ensemble).

    By ``scores`` each method's are divided by their mean magnitude, so that all have the same
    weight, and the mean is in units of that. By ``ranks`` the score of an edge is the mean over the
    methods of the share of edges that it is not weaker than by magnitude, from 0 (those that score
    0) to 1, negative where a method's score is. ``members`` are methods with their settings. Costs
    what they cost together.

    Returns Scores [writers, readers], without a unit, positive where the edge helps the clean
    behaviour. Raises ArgumentError for an argument in the wrong place, and for no members,
    UnknownNameError for an unknown member, and what the members raise.

    Differs from other tools: the authors' members are EAP, and EAP-IG of inputs and of activations,
    whose raw scores they average.

    Source: Mondorf et al. (2025).

    Example:
        >>> two = ck.discovery.ensemble(model, data, members=["eap", "eap_ig(steps=2)"])
        >>> two.about["settings"]
        {'members': ['eap', 'eap_ig(steps=2)'], 'by': 'scores'}
    """
    inputs = prepare(model, data, metric, corruption)
    methods: list[Method] = [resolve("discovery", member) for member in members]
    shares = _normalised if by == "scores" else _ranks
    values = np.mean([shares(method(*inputs)) for method in methods], axis=0)
    settings = {"members": [name_of(method) for method in methods], "by": by}
    about = {**inputs.metadata(), "method": "ensemble", "settings": settings}
    return Scores(model.wiring, values.astype(np.float32), about)


def _normalised(scores: Scores) -> Float[np.ndarray, "writers readers"]:
    """The scores in units of their mean magnitude over all edges."""
    own = np.where(scores.wiring.legal, scores.values, 0).astype(np.float64)
    scale = np.abs(own).sum() / len(scores)
    return own / scale if scale else own


def _ranks(scores: Scores) -> Float[np.ndarray, "writers readers"]:
    """The share of the edges that are not stronger, with the sign of the score; equal ones share
    the mean of their places."""
    from scipy.stats import rankdata

    own = scores.values[scores.wiring.legal].astype(np.float64)
    table = np.zeros(scores.wiring.shape)
    table[scores.wiring.legal] = np.sign(own) * rankdata(np.abs(own)) / len(own)
    return table
