"""The cross product of corruptions, metrics and components, in one run that can be resumed.

One sweep serves all metrics of a corruption. Every cell that is finished is kept in ``resume``, and
a later run of the same study takes it up.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Annotated, Any

import numpy as np

from circuitkit.data.batches import Dataset
from circuitkit.data.framing import FRAMING
from circuitkit.engine.batching import batched
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    MetricLike,
    Several,
    as_corruption,
    as_data,
    as_metric,
    as_metrics,
    require_model,
)
from circuitkit.engine.model import Model
from circuitkit.evaluation.ability import known
from circuitkit.evaluation.robustness import Robustness, vary
from circuitkit.evaluation.sampling import samples as samples_of
from circuitkit.graph.nodes import Node
from circuitkit.patching.detection import THRESHOLD, detect
from circuitkit.patching.effects import Effects
from circuitkit.registry import name_of
from circuitkit.util.options import Bounds, Count, Seed, Size, checked
from circuitkit.util.versions import versions
from circuitkit.workflows.folders import tried
from circuitkit.workflows.study.cells import StudyContext, finish, journal_of
from circuitkit.workflows.study.records import Part
from circuitkit.workflows.study.resampling import components, resampled, sampled
from circuitkit.workflows.study.results import Study

__all__ = ["study"]

SAMPLES = 5  # the fewest of which two of nine comparisons can be shown to differ
METRICS = ("logit_diff", "probability", "kl")
STRONGEST = 4  # heads that are restored together and watched where no reference names any


@checked
def study(
    model: Model,
    data: Data,
    metrics: Several = METRICS,
    corruptions: Sequence[CorruptionLike] | None = None,
    *,
    parts: Sequence[Part] | None = None,
    windows: Sequence[int] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    roles: Mapping[str, str] | None = None,
    circuits: Sequence[CorruptionLike] | None = None,
    direction: str = "denoise",
    threshold: float = THRESHOLD,
    examples: Count | None = None,
    only: MetricLike | None = "accuracy",
    both_ways: bool = False,
    samples: Annotated[int, Bounds(1, 10)] = SAMPLES,
    seed: Seed = 0,
    batch_size: Count | None = None,
    memory: Size | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> Study:
    """Activation patching of a task under every corruption and metric, and what depends on them.

    Args:
        model: The model, from ``ck.load``.
        data: A task's name, a Task, a file of prompts or a Dataset.
        metrics: The metrics, by name or as functions; ``kl`` is left out of the usual ones where
            answers have several tokens.
        corruptions: The corruptions; by default, for each corrupted text that the prompts have, its
            tokens (``counterfactual``) and Gaussian noise on the same tokens; if prompts have none,
            ``mean`` and noise on all tokens.
        parts: What is patched; by default heads and MLPs at all tokens, and the residual stream at
            each span.
        windows: How many adjacent layers are patched jointly (none: ``()``), at the subject's last
            token where the prompts name it.
        groups: Heads that are patched together and watched, by name; by default the roles of the
            reference, or the strongest heads.
        roles: The reference: the role of each component.
        circuits: The corruptions under which circuits are found on one half of the prompts and
            evaluated on the other (all; none: ``()``), whatever the ``direction``; of one or two
            different prompts in sample, which the result says.
        direction: ``denoise`` patches clean values into corrupted runs, ``noise`` corrupted ones
            into clean runs. Positive effects help the clean behaviour either way.
        threshold: By how many standard deviations a detected component exceeds the mean.
        examples: How many prompts; by default 64 of a task, and all of a file.
        only: The metric that must be above 1/2 for a prompt to stay; None for all prompts.
        both_ways: Whether each pair's swap is added.
        samples: On how many disjoint samples of the prompts, including this one, components are
            detected under every choice: the noise floor below which two choices are not said to
            differ. If there are too few prompts, the samples are equal parts of all of them. With
            fewer than four no difference can be shown; 1 omits the floor.
        seed: The seed with which prompts are drawn.
        batch_size: The number of prompts in a batch; by default as many as fit ``memory``, up to
            32.
        memory: The bytes that the process may take; None for what the machine has.
        resume: A directory for finished cells, from which a killed study resumes.

    Returns:
        A ``Study``.

    Raises:
        ArgumentError: for an argument in the wrong place.
        UnknownNameError: for a name that does not exist.
        EvaluationError: where no prompt stays.
        OutputError: where ``resume`` holds cells of another model with this name.

    The choices and recommendations are those of Zhang & Nanda (2024, arXiv:2309.16042) and
    Heimersheim & Nanda (2024, arXiv:2404.15255).

    Example:
        >>> given = {"windows": (), "circuits": (), "examples": 8, "samples": 1}
        >>> found = ck.study(model, "ioi", ("logit_diff",), ("zero",), **given)
        >>> found.metrics, "effects" in found.tables()
        (('logit_diff',), True)
    """
    require_model(model)
    tried(resume)
    drawn = as_data(model, data, examples=examples, seed=seed, memory=memory)
    context, metadata = _context(
        model, drawn, metrics, corruptions, direction=direction, only=only, both_ways=both_ways,
        batch_size=batch_size, resume=resume,
    )  # fmt: skip
    spans = _spans(context.data)
    chosen = tuple(_parts(model, spans) if parts is None else parts)
    site = "subject_last" if "subject_last" in spans else "all"
    admit = partial(_admitted, model, only=only, both_ways=both_ways)
    several = samples_of(model, data, drawn, samples, seed=seed, memory=memory)
    contexts = sampled(context, drawn, several, admit, resume)
    clean, corrupted = context.plain()
    others = (own.part_cells(components(chosen)) for own in contexts if own is not context)
    finish([*context.first_cells(chosen, windows, site), *chain.from_iterable(others)])
    effects = context.effects(chosen)
    sets = _groups(model, groups, roles, effects)
    heads = tuple(dict.fromkeys(n for own in sets.values() for n in own if Node(n).is_head))
    stream, tokens = context.prompt()
    again = resampled(contexts, chosen, effects)
    sizes: list[int] = next(([len(one.gap) for one in own] for own in again.values()), [])
    metadata |= {"seed": seed, "windows_at": site, "samples": sizes}
    found = _circuits(context, circuits, 2 if samples > 1 else 1, resume)
    metadata |= {"in_sample": True} if found is not None and found.in_sample else {}
    return Study(
        metadata, context.metric_names, context.names, chosen, clean, corrupted, effects,
        windows=context.windows(windows, site),
        prompt=stream, tokens=tokens, watched=heads, spans=spans,
        attention=context.attention(heads, spans), groups=sets, restored=context.restored(sets),
        circuits=found, roles=dict(roles or {}), threshold=threshold, again=again,
    )  # fmt: skip


# -- what is studied -------------------------------------------------------------------------------
def _context(
    model: Model,
    drawn: Dataset,
    metrics: Several,
    corruptions: Sequence[CorruptionLike] | None,
    *,
    direction: str,
    only: MetricLike | None,
    both_ways: bool,
    batch_size: int | None,
    resume: str | os.PathLike[str] | None,
) -> tuple[StudyContext, dict[str, Any]]:
    """What the cells share, and what the study says of itself."""
    about = {"task": "own data", **drawn.about}
    metadata: dict[str, Any] = {
        key: about[key] for key in ("task", "source", *FRAMING) if key in about
    }
    metadata |= {"direction": direction, "both_ways": both_ways}
    metadata["prompts"] = len(drawn) * (2 if both_ways else 1)
    metadata["only"] = None if only is None else name_of(as_metric(only))
    own = _admitted(model, drawn, only=only, both_ways=both_ways)
    unpaired = sum(not example.paired for example in own.examples)
    chosen = [as_corruption(c) for c in corruptions or _usual(own)]
    metadata |= {"unpaired": unpaired} if unpaired else {}
    own = batched(model, own, chosen[:1], batch_size)
    measures = as_metrics(_usable(metrics, own), data=own)
    names = {
        "metrics": list(map(name_of, measures)), "corruptions": list(map(name_of, chosen)),
    }  # fmt: skip
    journal = journal_of(model, own, direction, names["metrics"], resume)
    metadata |= {**names, "model": model.name, "examples": len(own), "versions": versions()}
    return StudyContext(model, own, measures, chosen, direction, journal), metadata


def _admitted(model: Model, drawn: Dataset, *, only: MetricLike | None, both_ways: bool) -> Dataset:
    """The prompts, with their swaps, on which the model is right by this metric."""
    data = drawn.both_ways() if both_ways else drawn
    return data if only is None else known(model, data, as_metric(only))


def _usual(data: Dataset) -> list[str]:
    """The tokens of every corrupted text, replaced and with noise; where there is none, what needs
    no text."""
    first, *rest = data.examples
    texts = [t for t in first.corruptions if all(t in e.corruptions for e in rest)]
    if not texts and not all(e.paired for e in data.examples):
        return ["mean", "noise"]
    if not texts:
        return ["counterfactual", "noise"]
    return [f"{name}(text={text!r})" for text in texts for name in ("counterfactual", "noise")]


def _usable(metrics: Several, data: Dataset) -> Several:
    """The metrics; of the usual ones those that measure answers of several tokens, where there are
    any."""
    whole = any(example.sequences is not None for example in data.examples)
    return tuple(one for one in metrics if one != "kl") if whole and metrics is METRICS else metrics


def _spans(data: Dataset) -> tuple[str, ...]:
    """The spans that every prompt has, in the order in which they stand in the first."""
    first = data.examples[0].spans
    common = [name for name in first if all(name in e.spans for e in data.examples)]
    return tuple(sorted(common, key=lambda name: first[name]))


def _parts(model: Model, spans: tuple[str, ...]) -> list[Part]:
    parts = [Part("z")]
    if model.wiring.mlp:
        parts.append(Part("mlp_out"))
    return [*parts, Part("resid_pre", spans)]


def _groups(
    model: Model,
    groups: Mapping[str, Sequence[str]] | None,
    roles: Mapping[str, str] | None,
    effects: Mapping[tuple[str, str, str], Effects],
) -> dict[str, tuple[str, ...]]:
    """The groups asked for; else the heads of each role; else the strongest heads that the first
    corruption finds to help, by the logit difference where it is among the metrics."""
    if groups is not None:
        return {name: tuple(own) for name, own in groups.items()}
    if roles:
        there = [name for name in roles if name in model.wiring.writer]
        by_role = dict.fromkeys(roles[name] for name in there)
        return {role: tuple(n for n in there if roles[n] == role) for role in by_role}
    heads = [(key, found) for key, found in effects.items() if key[0] == "z"]
    if not heads:
        return {}
    by_difference = [found for key, found in heads if key[2] == "logit_diff"]
    found = detect((by_difference or [found for _, found in heads])[0])
    order = np.argsort(-found.effects, kind="stable")[:STRONGEST]
    return {f"{STRONGEST} strongest heads": tuple(found.nodes[i] for i in order)}


def _circuits(
    context: StudyContext,
    circuits: Sequence[CorruptionLike] | None,
    samples: int,
    resume: str | os.PathLike[str] | None,
) -> Robustness | None:
    """How circuits change with the corruption and the metric, found on one half of the prompts and
    evaluated on the other."""
    if circuits is not None and not circuits:
        return None
    chosen = [as_corruption(c) for c in circuits or context.corruptions]
    seen, unseen = context.data.halves()
    return vary(
        context.model, seen, context.metrics, chosen, unseen=unseen, samples=samples, resume=resume
    )
