"""Features of a circuit that do the same over a dataset: where in its prompts they are active, and
what their out-edges are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import record
from circuitkit.features.describing import parse_feature
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.sites import site_values
from circuitkit.features.supernodes import ALIKE, Given, Key, propose
from circuitkit.graph.scores import Scores

__all__ = ["active_at", "supernodes_of"]

ELSEWHERE = "elsewhere"


@torch.no_grad()
def active_at(
    model: Inspectable, dictionaries: Sequence[Dictionary], names: Collection[str], data: Dataset
) -> dict[str, dict[str, float]]:
    """How active each of these features is in each span of the clean prompts, and elsewhere: the
    sum over tokens, as a vector of length 1; of prompts without spans, all is one place."""
    sums: dict[str, dict[str, float]] = {name: {} for name in names}
    for batch in data:
        run = record(model, model.start(batch.clean, batch.mask))
        masks = _places(batch)
        for own in dictionaries:
            named = [name for name in names if parse_feature(name)[0] == own.prefix]
            numbers = [parse_feature(name)[1] for name in named]
            active = own.encode(site_values(model, run, own.layer, own.reads))[..., numbers]
            for place, mask in masks.items():
                total = exact((active * mask[..., None]).sum(1)).sum(0).tolist()
                for name, value in zip(named, total, strict=True):
                    sums[name][place] = sums[name].get(place, 0.0) + value
    return {name: _unit(own) for name, own in sums.items()}


def _places(batch: Batch) -> dict[str, torch.Tensor]:
    """The tokens of each span, an example without it having none of them, and all others."""
    if not batch.spans:
        return {"": batch.mask}
    at = torch.arange(batch.mask.shape[1], device=batch.mask.device)
    found = {name: (at >= ends[:, :1]) & (at < ends[:, 1:]) for name, ends in batch.spans.items()}
    named = torch.stack([*found.values()]).any(0)
    return {**found, ELSEWHERE: batch.mask & ~named}


def _unit(vector: Mapping[str, float]) -> dict[str, float]:
    size = float(np.linalg.norm([*vector.values()])) if vector else 0.0
    return {key: value / size for key, value in vector.items() if value} if size else {}


def supernodes_of(
    scores: Scores, places: Mapping[str, Mapping[str, float]], *, alike: float = ALIKE
) -> dict[str, tuple[str, ...]]:
    """Groups of features that do the same in a task, the strongest first, by their names.

    Two features are as alike as the cosine of the scores of their out-edges, with their signs,
    times the cosine of where they are active (``places``, from ``active_at``). They are joined
    (average linkage) while the mean of that is at least ``alike``; of one group are at least two.
    Raises DataError where ``alike`` is not from 0 to 1.

    Example:
        >>> from circuitkit.features.profiles import supernodes_of
        >>> found = ck.discover_features(model, "ioi", features=20, edges=60, examples=8)
        >>> places = {own.name: {"": 1.0} for own in found.features.described}
        >>> all(len(group) > 1 for group in supernodes_of(found.scores, places).values())
        True
    """
    wiring = scores.wiring
    values = np.where(wiring.legal, scores.values, 0).astype(float)
    given = {}
    for name, own in places.items():
        edges = values[wiring.writer[name]]
        size = float(np.linalg.norm(edges))
        to: dict[Key, float] = {
            (place, wiring.readers[column], ""): share * float(edges[column]) / size
            for place, share in own.items() for column in np.flatnonzero(edges)
        }  # fmt: skip
        given[name] = Given(float(np.abs(edges).sum()), to)
    return propose([given], alike=alike, most=len(given))
