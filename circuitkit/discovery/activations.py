"""Integrated gradients of what writers write: over their own changes on the way, or one stage at a
time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated

import torch

from circuitkit.discovery._gradients import Here, Term, attribute
from circuitkit.discovery._points import left, midpoints
from circuitkit.engine.backward import BackwardRule
from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.record import output
from circuitkit.engine.tally import ByGroup
from circuitkit.errors import UnsupportedModelError
from circuitkit.graph.scores import Scores
from circuitkit.util.options import Bounds, checked

__all__ = ["ceap", "eap_ig_activations"]


@checked
def ceap(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    steps: Annotated[int, Bounds(1, 10_000)] = 5,
    groups: ByGroup = None,
    rule: BackwardRule = None,
    resume: str | os.PathLike[str] | None = None,
) -> Scores:
    """EAP by conductance (CEAP): on the way of EAP-IG, with what each writer changes at each step.

    The score of an edge is Σ_steps Σ_tokens (what the writer writes at the next point, less what
    it writes at this one) · (gradient at the reader at this one), at the embeddings of ``eap_ig``:
    what a writer changes is then what it changes on the way on which the gradients are taken. Costs
    ``steps`` forwards and backwards in addition to the clean and the carried run, and ``steps``
    forwards more where a token carries an embedding of zero: there gradients are taken at the
    middles.

    Returns Scores [writers, readers]: in metric units per example, positive where the edge helps
    the clean behaviour; ``groups``, ``rule`` and ``resume`` as in ``eap``. Only the embedding of
    the corruption is used: with constants (``zero``, ``mean``) the way starts at the run of that
    embedding. Raises as ``eap_ig`` does.

    Source: Wu et al. (2026, "Demystifying variance in circuit discovery of LLMs").

    Example:
        >>> ck.discovery.ceap(model, data, steps=2).about["settings"]
        {'steps': 2}
    """

    def where(here: Here, carried: Activations) -> Iterator[Term]:
        rest, after = here.at_rest(carried), here.live
        for first, middle in [*zip(left(steps), midpoints(steps), strict=True)][::-1]:
            at = here.at(here.between(carried, here.rows(torch.where(rest, middle, first))))
            aside = bool(rest.any())
            own = here.plain(here.between(carried, first)) if aside else at.activations
            yield Term(at, after, own)
            after = own.written()
            del at, own

    inputs = prepare(model, data, metric, corruption)
    return attribute(inputs, "ceap", where, groups, {"steps": steps}, rule, resume=resume)


@checked
def eap_ig_activations(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    steps: Annotated[int, Bounds(1, 10_000)] = 5,
    groups: ByGroup = None,
    rule: BackwardRule = None,
    resume: str | os.PathLike[str] | None = None,
) -> Scores:
    """EAP with integrated gradients over what is written, one stage at a time.

    The embedding, the heads of a layer, or its MLP write what lies 1/steps, 2/steps, ..., 1 of the
    way from what they carry to what they write in the clean run, fixed there, and all else runs
    free. The gradients of all edges are averaged over all stages and points. Costs (stages + 1) ·
    ``steps`` forwards and backwards in addition to the clean and the carried run: of a plain
    decoder (2 · layers + 1) · ``steps``.

    Returns Scores [writers, readers]: in metric units per example, positive where the edge helps
    the clean behaviour; ``groups``, ``rule`` and ``resume`` as in ``eap``. Raises as
    ``eap_ig`` does, and UnsupportedModelError where the residual stream is taken apart.

    Source: Hanna et al. (2024), whose program calls it ``EAP-IG-activations``.

    Example:
        >>> ck.discovery.eap_ig_activations(model, data, steps=1).about["method"]
        'eap_ig_activations'
    """
    stages = model.wiring.stages
    if any(stage.renews for stage in stages):
        raise UnsupportedModelError(
            f"the residual stream of {model.name!r} is taken apart into features, and where one "
            "stage writes what it is given nothing before it counts; use eap_ig"
        )
    count = steps * (len(stages) + 1)

    def where(here: Here, carried: Activations) -> Iterator[Term]:
        for step in range(1, steps + 1):
            share = step / steps
            yield Term(here.at(here.between(carried, share)), here.live, carried, 1 / count)
            for stage in stages:
                nothing, everything = (
                    output(model, stage, run.shares[stage.index]) for run in (carried, here.live)
                )
                between = torch.lerp(nothing, everything, share)
                yield Term(here.at(fixed={stage.index: between}), here.live, carried, 1 / count)

    inputs = prepare(model, data, metric, corruption)
    return attribute(
        inputs, "eap_ig_activations", where, groups, {"steps": steps}, rule, resume=resume
    )
