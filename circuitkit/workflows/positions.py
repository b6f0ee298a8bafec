"""Where in the prompt: from a model and a task to a measured circuit between places.

Edges are scored span by span on one half of the prompts. Those of the residual stream are chosen
first, with attention free; then the edges of attention that the circuit needs, by their exact
effects in it. Faithfulness is measured on the other half, beside the plain circuit that the same
scores give and random circuits between the same places.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby

from circuitkit.data.places import numbers
from circuitkit.data.places import places as places_of
from circuitkit.engine.batching import batched
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    Inputs,
    MetricLike,
    prepare_halves,
    refuse,
    require_model,
)
from circuitkit.engine.metric import Method
from circuitkit.engine.model import Model
from circuitkit.engine.placed_scores import bytes_of
from circuitkit.errors import UnknownNameError
from circuitkit.evaluation.ability import ability
from circuitkit.evaluation.ability import known as only_known
from circuitkit.evaluation.choosing import choose
from circuitkit.evaluation.places.certainty import placed_certainty
from circuitkit.evaluation.places.choosing import choose_places, measure_places
from circuitkit.evaluation.spaces import joint_norms
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.placed_walks import drawn_places
from circuitkit.graph.places import Places
from circuitkit.registry import lookup, name_of, names
from circuitkit.util.options import Count, Seed, Size, checked
from circuitkit.util.process import peak_mebibytes
from circuitkit.workflows.asking import METHOD, RULE, Asked, Share, found_by
from circuitkit.workflows.discover import method_of
from circuitkit.workflows.folders import tried
from circuitkit.workflows.placed_results import PlacedDiscovery

__all__ = ["RANDOM", "discover_positions"]

RANDOM = 5  # random circuits that are measured beside


@checked
def discover_positions(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    spans: str | Sequence[str] = "named",
    method: Method | str | None = None,
    unseen: Data | None = None,
    edges: Size | None = None,
    faithfulness: Share | None = None,
    examples: Count | None = None,
    seed: Seed = 0,
    batch_size: Count | None = None,
    memory: Size | None = None,
    resume: str | os.PathLike[str] | None = None,
    known: bool = False,
    force: bool = False,
) -> PlacedDiscovery:
    """The circuit of a task between places of the prompt, measured on prompts that were not seen.

    Args:
        model: The model, from ``ck.load``.
        data: As in ``ck.discover``; the prompts name spans.
        metric: A name or a function; by default the task's own.
        corruption: A name or a function; by default ``counterfactual``. Nothing before the first
            token that it changes can be in the circuit: of IOI's texts, ``names`` shows all roles,
            and ``S2`` only what follows the second subject.
        spans: ``"named"`` for the spans that the prompts name (of nested ones the outer),
            ``"tokens"`` for each position where prompts align, or the names of some spans; all
            other tokens belong to rests that are named by what follows them.
        method: How edges are scored: a method that is a sum of gradients, with settings; by default
            ``eap_ig``.
        unseen: The prompts on which the circuit is measured.
        edges: How many edges of the residual stream the circuit has at most.
        faithfulness: What the smallest circuit is to reach on the prompts of the discovery; by
            default 0.85.
        examples: How many prompts each half has at most; by default 64 of a task.
        seed: The seed of the prompts, of random circuits and of samples.
        batch_size: The number of prompts in a batch.
        memory: The bytes that the process may take; None for what the machine has.
        resume: A directory for finished blocks of scores, from which a killed run resumes.
        known: Whether to keep only the prompts that the model answers.
        force: Whether to continue where the model answers fewer than 75% of the prompts.

    Returns:
        A ``PlacedDiscovery``: the circuit, the scores, and what was measured.

    Raises:
        ArgumentError: for an argument in the wrong place, of another kind, or out of its bounds.
        DataError: where the prompts have no spans of these names, or spans overlap.
        ScoresError: for both a size and a faithfulness, and where the circuit would be empty.
        EvaluationError: where the model answers too few prompts, or no circuit is faithful enough.

    Example:
        >>> found = ck.discover_positions(model, "ioi", method="eap", edges=30, examples=8)
        >>> "a0.h2.v@S2" in found.circuit
        True
    """
    start = time.perf_counter()
    asked = Asked(RULE, examples, seed, edges, faithfulness, batch_size=batch_size, memory=memory)
    require_model(model)
    tried(resume)
    how = method_of(METHOD if method is None else method)
    seen, measured = prepare_halves(
        model, data, unseen, metric, corruption, examples=examples, seed=seed,
        batch_size=batch_size, memory=memory,
        keep=partial(only_known, model) if known else None,
    )  # fmt: skip
    able = ability(*seen[:3])
    if not force:
        able.require(str(seen.data.about.get("task", "the task")))
    both = replace(seen.data, examples=(*seen.data.examples, *measured.data.examples))
    places = places_of(both, model.wiring, spans)
    seen = seen._replace(
        data=batched(model, seen.data, [seen.corruption], batch_size, each=bytes_of(places))
    )
    scores = _scored(how, seen, places, resume)
    found = choose_places(seen, scores, edges=edges, faithfulness=faithfulness)
    plain = choose(model, scores.collapse(), *seen[1:], edges=edges, faithfulness=faithfulness)
    begins = (scores.residual[0] != 0).any(0)  # the spans in which the embedding differs
    chance = drawn_places(places, *found.mask.counts(), RANDOM, seed, begins)
    spread = places.alive(places.spread(plain.mask), joint=joint_norms(model))
    evaluated = measure_places(measured, [found.mask, found.free, plain.mask, *chance])
    sure = None
    if scores.groups is not None:
        sure = placed_certainty(scores, found, joint=joint_norms(model), seed=seed)
    metadata = found_by(seen, measured, name_of(how), asked, unseen is not None)
    return PlacedDiscovery.of(
        scores, found, evaluated, metadata, ability=able, plain=spread, certainty=sure,
        words=_words(seen, places), seconds=time.perf_counter() - start,
        mebibytes=peak_mebibytes(),
    )  # fmt: skip


def _scored(
    how: Callable[..., object], seen: Inputs, places: Places,
    resume: str | os.PathLike[str] | None,
) -> PlacedScores:  # fmt: skip
    """The scores between places, those of each example too; raises UnknownNameError for a method
    that gives none."""
    if "places" not in inspect.signature(how).parameters:
        raise UnknownNameError(
            f"{name_of(how)} gives no scores between places; take one of {', '.join(_methods())}"
        )
    found = how(*seen, places=places, groups="examples", resume=resume)
    if not isinstance(found, PlacedScores):
        refuse("method", how, "a method whose places= gives PlacedScores")
    return found


def _methods() -> list[str]:
    """The methods that give scores between places."""
    each = {name: lookup("discovery", name) for name in names("discovery")}
    return [name for name, own in each.items() if "places" in inspect.signature(own).parameters]


def _words(seen: Inputs, places: Places) -> list[list[str]]:
    """Each span with its words in the first prompt, in their order there; nothing without a
    tokenizer."""
    batch, tokenizer = next(iter(seen.data[:1])), seen.data.tokenizer
    if tokenizer is None:
        return []
    spans, tokens = numbers(batch, places.spans)[0].tolist(), batch.clean[0].tolist()
    pairs = [(span, token) for span, token in zip(spans, tokens, strict=True) if span >= 0]
    return [
        [places.spans[span], tokenizer.decode([token for _, token in part])]
        for span, part in groupby(pairs, key=lambda pair: pair[0])
    ]
