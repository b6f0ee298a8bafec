"""A circuit followed over several models, one after the other, in one run that can be resumed.

Models are dealt to the processes. What is found on each is kept in ``resume``, and a later run of
the same track takes it up, also one over more models.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import nan
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np

from circuitkit.data.prompts import STDIN, file_of
from circuitkit.engine.checkpoints import Journal
from circuitkit.engine.dealing import Task, dealt
from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, refuse, require_model
from circuitkit.engine.metric import Method
from circuitkit.engine.model import Model
from circuitkit.errors import ArgumentError
from circuitkit.graph.circuit import components
from circuitkit.graph.scores import Scores
from circuitkit.graph.separation import jaccard, separation
from circuitkit.models.loading import load as load_model
from circuitkit.registry import name_of
from circuitkit.util.json_values import Json
from circuitkit.util.options import Bounds, Count, Seed, Size, checked
from circuitkit.util.progress import counting
from circuitkit.util.versions import versions
from circuitkit.workflows.asking import RULE, Share
from circuitkit.workflows.discover import method_of
from circuitkit.workflows.folders import tried
from circuitkit.workflows.track.cells import Asking, Found, ModelLike, key_of, named, unpacked
from circuitkit.workflows.track.results import Beside, Track, Tracked

__all__ = ["Models", "labels_of", "track"]

VERSION = 1  # of the blocks on disk
NUMBERS = ("faithfulness", "low", "high", "random")
SHARED = ("task", "metric", "corruption", "examples", "in_sample", "samples")
Models: TypeAlias = Sequence[ModelLike] | Mapping[str, ModelLike]


@checked
def track(
    models: Models,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    method: Method | str | None = None,
    edges: Size | None = None,
    faithfulness: Share | None = None,
    rule: str | None = None,
    examples: Count | None = None,
    samples: Annotated[int, Bounds(1, 10)] = 2,
    seed: Seed = 0,
    batch_size: Count | None = None,
    memory: Size | None = None,
    load: Callable[[str | os.PathLike[str]], Model] | None = None,
    resume: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Track:
    """Follow a task's circuit over models with one wiring: checkpoints, fine-tunes or revisions.

    Each model's circuit is found and measured as in ``discover``, and compared with those of the
    first and the last model that have one. Because circuits also differ between samples of the
    prompts, each model's circuit is found on several disjoint samples: the overlap of the circuits
    of one model is the noise floor. Models are loaded one after the other, and only one is in
    memory at a time, unless you pass loaded models.

    Args:
        models: At least two models, in order: names or directories for ``load`` (a revision on the
            hub is ``"NAME@REVISION"``) or loaded models, in a list or in a mapping from labels.
            Without labels, the last part of the name or path is used.
        data: The prompts, as in ``discover``; the same for every model.
        metric: A name or a function; without it the task's own, else ``logit_diff``.
        corruption: A name or a function; without it ``counterfactual``.
        method: How edges are scored; without it ``eap_ig``.
        edges: The size of every circuit.
        faithfulness: The faithfulness that each circuit must reach, with as few edges as possible;
            0.85 if neither this nor ``edges`` is given.
        rule: How edges are ranked: ``abs`` (the default), ``signed``, ``greedy`` or ``mib``.
        examples: How many prompts each half has at most; without it 64 of a task, all of a file.
        samples: The number of disjoint samples of prompts on which each circuit is found: with
            two, the prompts of the discovery and those of the measurement. With four or more, it
            is tested whether models differ by more than samples do.
        seed: The seed of prompts and random circuits.
        batch_size: The prompts of a batch; without it as many as ``memory`` allows, up to 32.
        memory: The bytes that the process may take; None for what the machine has.
        load: The function that loads a name or directory; without it ``ck.load``.
        resume: A directory for the results of each model, from which an interrupted run resumes.
        force: Whether to find circuits also for models that answer fewer than 75% of the prompts;
            otherwise these have none, and ``note`` says why.

    Returns:
        A ``Track``.

    Raises:
        ArgumentError: for an argument in the wrong place, fewer than two models, or two of one
            label, and for standard input, which can be read only once.
        ModelError: for a model whose wiring or tokens differ from those of the first, and for one
            that cannot be loaded.
        UnknownNameError, ScoresError, BudgetError: as in ``discover``.
        OutputError: where ``resume`` cannot be written.

    Source: Tigges et al. (2024), "LLM circuit analyses are consistent across training and scale".

    Example:
        >>> found = ck.track(["mini", model], "ioi", edges=20, examples=4)
        Traceback (most recent call last):
        circuitkit.errors.ArgumentError: two models are called 'mini'; give labels, ...
        >>> given = {"method": "eap", "edges": 20, "examples": 4}
        >>> found = ck.track({"a": "mini", "b": model}, "ioi", **given)
        >>> found.circuits["b"].graph["task"], found.moves["b"]
        ('ioi', ((), ()))
    """
    sources = labels_of(models)
    if isinstance(data, str | os.PathLike) and file_of(os.fspath(data)) == STDIN:
        raise ArgumentError(
            "standard input can be read only once, and each model reads the prompts; save them to "
            "a file"
        )
    tried(resume)
    how, rule = method_of(method), RULE if rule is None else rule
    settings = {
        "edges": edges, "faithfulness": faithfulness, "rule": rule, "examples": examples,
        "seed": seed, "batch_size": batch_size, "memory": memory, "force": force,
    }  # fmt: skip
    asking = Asking(data, metric, corruption, how, settings, samples, load or load_model)
    journal = Journal(resume, _about(asking) if resume is not None else {})
    found = _found(asking, sources, journal)
    about: dict[str, Json] = {
        **_shared(found), "method": name_of(how), "rule": rule, "seed": int(seed),
        "edges": None if edges is None else int(edges), "versions": versions(),
    }  # fmt: skip
    return Track(about, tuple(_tracked(found, rule)))


# -- the models ------------------------------------------------------------------------------------
def labels_of(models: Models) -> dict[str, ModelLike]:
    """The models by their labels: of a list the last parts of names and paths, or all of them where
    two would be called alike. Raises ArgumentError for fewer than two models, for what is not one,
    and for two of one label."""
    own = [*models.values()] if isinstance(models, Mapping) else [*models]
    for model in own:
        if not isinstance(model, str | os.PathLike):
            require_model(model)
    if len(own) < 2:
        raise ArgumentError(f"a track needs at least two models, and {len(own)} were given")
    whole = [_called(model) for model in own]
    last = [Path(name).name or name for name in whole]
    labels = [*models] if isinstance(models, Mapping) else last if _differ(last) else whole
    for label in labels:
        if not label:
            refuse("a label", label, "a text")
        if labels.count(label) > 1:
            raise ArgumentError(
                f"two models are called {label!r}; give labels, as in {{'before': ..., "
                "'after': ...}"
            )
    return dict(zip(labels, own, strict=True))


def _called(model: ModelLike) -> str:
    return os.fspath(model) if isinstance(model, str | os.PathLike) else model.name


def _differ(labels: Sequence[str]) -> bool:
    return len({*labels}) == len(labels)


def _found(asking: Asking, sources: Mapping[str, ModelLike], journal: Journal) -> dict[str, Found]:
    """What is found on each model, by its label; models are dealt to the processes."""
    tasks = (
        Task(key_of(source) if journal.place else label, partial(asking.block, label, source))
        for label, source in sources.items()
    )
    found: dict[str, Found] = {}
    with counting(len(sources), "track", "model") as count:
        for (label, source), block in zip(
            sources.items(), dealt(tasks, journal, count), strict=True
        ):
            own = unpacked(block) or unpacked(asking.block(label, source))
            if own is not None:
                asking.require_like(label, own.wiring, str(own.said["prompts"]))
                found[label] = own
    return found


def _about(asking: Asking) -> dict[str, Json]:
    """All that tells the blocks of one track from those of another, but for the models."""
    names = [name if isinstance(name, str | None) else name_of(name)
             for name in (asking.metric, asking.corruption, asking.method)]  # fmt: skip
    settings = {key: own for key, own in asking.settings.items() if key != "memory"}
    return {
        "format": "circuitkit.track", "version": VERSION, "data": named(asking.data),
        "names": names, "samples": asking.number, **settings,
    }  # fmt: skip


# -- the track -------------------------------------------------------------------------------------
def _shared(found: Mapping[str, Found]) -> dict[str, Json]:
    """What is the same for every model, as the first one with a circuit says it."""
    every = [*found.values()]
    said = next((own.said for own in every if own.circuit is not None), every[0].said)
    return {**{name: said[name] for name in SHARED}, "faithfulness": said["target"]}


def _tracked(found: Mapping[str, Found], rule: str) -> Iterator[Tracked]:
    """Each model, beside the first and the last that have a circuit."""
    having = {label: own for label, own in found.items() if own.circuit is not None}
    labels = [*having]
    first, last = (_beside(having, own, rule) for own in (labels[:1], labels[-1:]))
    for label, own in found.items():
        said = {name: own.said[name] for name in ("model", "weights", "accuracy", "note")}
        if own.circuit is None:
            yield Tracked(label, **said)
            continue
        numbers: dict[str, Json] = {
            name: nan if own.said[name] is None else own.said[name] for name in NUMBERS
        }
        yield Tracked(
            label, **said, circuit=own.circuit, **numbers, present=_present(own, rule),
            first=first[label], last=last[label],
        )  # fmt: skip


def _beside(having: Mapping[str, Found], end: Sequence[str], rule: str) -> dict[str, Beside]:
    """How far each circuit overlaps with that of one model, at its size."""
    if not end:
        return {}
    size = having[end[0]].edges
    sets = {
        label: [frozenset(np.flatnonzero(mask).tolist()) for mask in own.masks(size, rule)]
        for label, own in having.items()
    }
    other = sets[end[0]]
    found = {}
    for label, own in sets.items():
        same = float(np.mean([jaccard(*pair) for pair in zip(own, other, strict=True)]))
        apart = separation(own, other)
        p = nan if label == end[0] else apart.p  # nothing is asked of a model and itself
        found[label] = Beside(same, apart.between, apart.within, p)
    return found


def _present(own: Found, rule: str) -> dict[str, float]:
    """Of each component, the share of samples whose circuit of this size holds it."""
    masks = own.masks(own.edges, rule)
    circuits = [Scores(own.wiring, mask.astype(float)).circuit(mask) for mask in masks]
    held = Counter(name for circuit in circuits for name in components(circuit))
    return {name: times / len(masks) for name, times in sorted(held.items())}
