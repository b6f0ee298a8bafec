"""Circuits of features: from a model, its dictionaries and a task to a measured circuit.

The features that matter most on one half of the prompts become writers and readers beside heads;
the circuit is found and measured as any other. Beside its faithfulness stands what its features
carry when what they leave over is cut: else the remainders would do the work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from circuitkit.data.batches import Dataset
from circuitkit.engine.batching import batched
from circuitkit.engine.inputs import CorruptionLike, Data, Inputs, MetricLike, prepare_halves
from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.metric import Method
from circuitkit.engine.model import Model
from circuitkit.errors import DictionaryError, UnsupportedModelError
from circuitkit.evaluation.ability import known as only_known
from circuitkit.evaluation.faithfulness import evaluate
from circuitkit.features.choosing import feature_bases, neuron_bases, scored, strongest
from circuitkit.features.describing import Feature, describe, parse_feature
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.holding import evaluate_held
from circuitkit.features.loading import load
from circuitkit.features.profiles import active_at, supernodes_of
from circuitkit.features.pulls import require_whole
from circuitkit.features.splitting import split_into_features, split_into_neurons
from circuitkit.graph import circuit as circuits
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.nodes import Node
from circuitkit.graph.stages import REMAINDERS
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.util.options import Count, Seed, Size, checked
from circuitkit.workflows.asking import RULE, Asked, Share, prompts_for
from circuitkit.workflows.discover import discover_on, method_of
from circuitkit.workflows.feature_report import FeatureReport, Kept
from circuitkit.workflows.folders import tried
from circuitkit.workflows.results import Discovery

__all__ = ["discover_features"]

CHOSEN = 128  # features that are nodes
TEXTS = 3  # that say what a feature is
LEAST, MOST = 0.05, 0.99  # the faithfulness that a circuit of whole MLPs is to reach


@checked
def discover_features(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    dictionaries: str | os.PathLike[str] | None = None,
    features: Count = CHOSEN,
    method: Method | str | None = None,
    unseen: Data | None = None,
    edges: Size | None = None,
    faithfulness: Share | None = None,
    rule: str | None = None,
    examples: Count | None = None,
    seed: Seed = 0,
    batch_size: Count | None = None,
    memory: Size | None = None,
    verify: Size | None = None,
    resume: str | os.PathLike[str] | None = None,
    known: bool = False,
    force: bool = False,
) -> Discovery:
    """The circuit of a task in features and heads, measured on prompts that were not seen.

    What has a dictionary (an MLP, the heads of a layer, the residual stream at a layer) is taken
    apart into the features that matter most, each a writer (``m3.f417``, ``a3.f417``,
    ``r3.f417``), and what they leave over: ``m3.rest`` (all other features and the bias),
    ``m3.skip`` and ``m3.error``. With everything kept this is the model, however bad a dictionary
    is.

    Args:
        model: The model, from ``ck.load``.
        data: As in ``ck.discover``, and so are all arguments that are not named here.
        metric: A name or a function; by default the task's own.
        corruption: A name or a function; by default ``counterfactual``.
        dictionaries: A folder of transcoders and autoencoders of the model, as
            ``ck.features.load`` reads it; by default the transcoders that come with ``mini``.
        features: How many features are nodes: those with the largest effect to first order on the
            prompts of the discovery, over all dictionaries.
        method: How edges are scored; by default ``eap_ig``. An edge into a feature jumps where the
            feature becomes active, which no gradient sees: ``exact`` and ``verify`` measure it.
        unseen: The prompts on which the circuit is measured.
        edges: The size of the circuit.
        faithfulness: What the smallest circuit is to reach on the prompts of the discovery; by
            default 0.85.
        rule: How edges are ranked.
        examples: How many prompts each half has at most; by default 64 of a task.
        seed: The seed of the prompts, of random circuits and of samples.
        batch_size: The number of prompts in a batch.
        memory: The bytes that the process may take.
        verify: How many edges are measured exactly.
        resume: A directory for finished blocks, from which a killed run resumes.
        known: Whether to keep only the prompts that the model answers.
        force: Whether to continue where the model answers fewer than 75% of the prompts.

    Returns:
        A ``Discovery``, whose ``features`` say what the features carry, beside what the circuit
        keeps with all that they leave over, a circuit of as many edges with as many neurons for
        nodes (where all features are of MLPs), and one of whole heads and MLPs.

    Raises:
        DictionaryError: where the dictionaries do not take the model apart.
        UnsupportedModelError: for a model that cannot be taken apart.
        ArgumentError, EvaluationError, ScoresError, OutputError: as ``ck.discover``.

    Source: features as nodes of circuits, Marks et al. (2024) and Dunefsky et al. (2024); cutting
    what they leave over is ours.

    Example:
        >>> found = ck.discover_features(model, "ioi", features=20, edges=60, examples=8)
        >>> found.features.alone.faithfulness < 1, "m0.rest" in found.scores.wiring.writers
        (True, True)
    """
    own, source = require_whole(model), os.fspath(dictionaries or "mini")
    coders = _dictionaries(model, dictionaries)
    asked = Asked(RULE if rule is None else rule, prompts_for(False, examples, data), seed, edges,
                  faithfulness, verify, batch_size=batch_size, memory=memory)  # fmt: skip
    tried(resume)
    how = method_of(method)
    seen, measured = prepare_halves(
        model, data, unseen, metric, corruption, examples=examples, seed=seed,
        batch_size=batch_size, memory=memory,
        keep=partial(only_known, model) if known else None,
    )  # fmt: skip

    def find(model: Model, asked: Asked) -> Discovery:
        drawn = partial(_again, model, seen, measured, batch_size)
        given = unseen is not None
        return discover_on(model, drawn, asked, how, given, force=force, resume=resume)

    beside = partial(_sized, find, asked)
    chosen = strongest(scored(seen, feature_bases(own, coders)), features)
    split = split_into_features(own, coders, chosen)
    found = find(split, asked)
    kept = [
        *_cuts(split, found.circuit, measured._replace(model=split)),
        *_neurons(
            own, seen, measured, chosen, features, partial(beside, edges=found.evaluation.edges)
        ),
        _whole(found, partial(beside, model), "MLPs" if _of_mlps(chosen) else "heads and MLPs"),
    ]
    report = _report(source, own, coders, chosen, found, kept, seen.data)
    found.circuit.graph["dictionaries"] = source
    about = {**found.scores.about, "dictionaries": source}
    return replace(found, scores=replace(found.scores, about=about), features=report)


def _report(
    source: str,
    model: Inspectable,
    coders: Sequence[Dictionary],
    chosen: Mapping[str, Sequence[int]],
    found: Discovery,
    kept: Sequence[Kept],
    data: Dataset,
) -> FeatureReport:
    """What is said of the features: what they carry, what they are, and which do the same."""
    described, weights = _described(model, coders, found.circuit, data)
    counts = {name: len(numbers) for name, numbers in chosen.items()}
    total = sum(one.n_features for one in coders)
    groups = supernodes_of(found.scores, active_at(model, coders, weights, data))
    return FeatureReport(source, counts, total, kept, described, weights, groups)


def _dictionaries(model: Model, path: str | os.PathLike[str] | None) -> tuple[Dictionary, ...]:
    """The dictionaries; raises DictionaryError where none are named and none come with the
    package."""
    if path is None and model.name != "mini":
        raise DictionaryError(
            f"no transcoders of {model.name!r} come with the package; give its dictionaries "
            "(dictionaries=, --dictionaries DIR)"
        )
    return load("mini" if path is None else path)


def _sized(
    find: Callable[[Model, Asked], Discovery], asked: Asked, model: Model, *,
    edges: int | None = None, faithfulness: float | None = None,
) -> Discovery:  # fmt: skip
    """The circuit of a model of another size, or that is as faithful."""
    return find(model, replace(asked, edges=edges, faithfulness=faithfulness, verify=None))


def _again(
    model: Model, seen: Inputs, measured: Inputs, batch_size: int | None, *, examples: int | None
) -> tuple[Inputs, Inputs]:
    """The prompts, which are drawn once for all circuits, in batches that fit this model."""
    del examples  # of which there are as many already

    def fitting(own: Inputs) -> Inputs:
        return own._replace(
            model=model, data=batched(model, own.data, [own.corruption], batch_size)
        )

    first = fitting(seen)
    return first, first if measured is seen else fitting(measured)


def _without(wiring: Wiring, mask: Mask, *parts: str) -> Mask:
    """The mask without the edges of what features leave over."""
    kept = mask.copy()
    kept[[row for row, writer in enumerate(wiring.writers) if writer.part in parts]] = False
    return wiring.alive(kept)


def _features(wiring: Wiring, mask: Mask) -> int:
    """How many chosen parts are in a circuit."""
    rows = np.flatnonzero(wiring.alive(mask).any(1))
    return sum((wiring.writers[row].part or "rest") not in REMAINDERS for row in rows)


def _measured(model: Model, masks: Mapping[str, Mask], measured: Inputs) -> Iterator[Kept]:
    """How faithful the model is where these are kept."""
    found = evaluate(model, [*masks.values()], *measured[1:])
    for (what, mask), one in zip(masks.items(), found, strict=True):
        yield Kept(what, _features(model.wiring, mask), one)


def _cuts(split: Model, circuit: Circuit, measured: Inputs) -> list[Kept]:
    """The circuit with what features leave over kept and cut, and the model likewise."""
    wiring, mask = split.wiring, circuit.mask()
    named = [part for part in REMAINDERS if any(w.part == part for w in wiring.writers)]
    words = f"{', '.join(named[:-1])} and {named[-1]} cut"
    others = [part for part in named if part != "error"]
    masks = {
        f"the circuit, {words}": _without(wiring, mask, *named),
        f"the circuit, {' and '.join(others)} cut": _without(wiring, mask, *others),
        "the circuit, error cut": _without(wiring, mask, "error"),
        "the circuit": mask,
        f"all edges, {words}": _without(wiring, wiring.legal, *named),
        "all edges, error cut": _without(wiring, wiring.legal, "error"),
    }
    held = evaluate_held(measured, mask)
    beside = Kept("the circuit, error held at clean", _features(wiring, mask), held)
    *own, all_cut, all_live = _measured(split, masks, measured)
    return [*own, beside, all_cut, all_live]


def _neurons(
    model: Inspectable,
    seen: Inputs,
    measured: Inputs,
    apart: Iterable[str],
    n: int,
    find: Callable[[Model], Discovery],
) -> list[Kept]:
    """The circuit of as many edges with as many neurons for nodes, with their rest cut and kept;
    nothing for features of more than MLPs, or a model whose neurons do not add up."""
    names = [*apart]
    if not _of_mlps(names):
        return []
    try:
        bases = neuron_bases(model, [int(name[1:]) for name in names])
    except UnsupportedModelError:
        return []
    split = split_into_neurons(model, strongest(scored(seen, bases), n))
    mask = find(split).circuit.mask()
    masks = {
        "as many neurons, rest cut": _without(split.wiring, mask, "rest"),
        "as many neurons": mask,
    }
    return [*_measured(split, masks, measured)]


def _of_mlps(apart: Iterable[str]) -> bool:
    """Whether only MLPs are taken apart."""
    return all(name.startswith("m") for name in apart)


def _whole(found: Discovery, find: Callable[..., Discovery], what: str) -> Kept:
    """The smallest circuit of whole heads and MLPs that is as faithful on the prompts of the
    discovery."""
    reached = round(min(max(found.evaluation.faithfulness, LEAST), MOST), 2)
    whole = find(faithfulness=reached)
    return Kept(f"whole {what}, for {reached:g} on the seen prompts", 0, whole.evaluation)


def _described(
    model: Model, coders: Sequence[Dictionary], circuit: Circuit, data: Dataset
) -> tuple[list[Feature], dict[str, float]]:
    """What the features of the circuit are, the strongest first, and the sum of |weight| of the
    edges out of each."""
    weights: dict[str, float] = {}
    for writer, _, weight in circuits.edges(circuit):
        part = Node(writer).part
        if part is not None and part not in REMAINDERS:
            weights[writer] = weights.get(writer, 0.0) + abs(weight)
    texts = [tuple(text) for e in data.examples for text in (e.clean, e.corrupt)]
    found = []
    for coder in coders:
        own = [n for prefix, n in map(parse_feature, weights) if prefix == coder.prefix]
        name = f"{data.about.get('task', 'the prompts')}"
        found += describe(model, coder, own, texts, top=TEXTS, name=name) if own else []
    return sorted(found, key=lambda one: -weights[one.name]), weights
