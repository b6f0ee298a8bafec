"""The main job: from a model and a task to a measured circuit.

Edges are scored on one half of the prompts, the circuit is chosen on it (where asked, again as
exact effects are measured, and refined by swaps), and its faithfulness is measured on the other
half, beside random circuits of the same size, with how sure each of its edges is.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

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
from circuitkit.errors import ScoresError, UnknownNameError
from circuitkit.evaluation.ability import ability
from circuitkit.evaluation.ability import known as only_known
from circuitkit.evaluation.choosing import Chosen, choose
from circuitkit.evaluation.faithfulness import evaluate_beside
from circuitkit.evaluation.refining import Candidates, Refined
from circuitkit.evaluation.refining import refine as refine_circuit
from circuitkit.evaluation.verification import Verification, settle
from circuitkit.graph.compare import agreement as agree
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Mask
from circuitkit.registry import name_of, resolve
from circuitkit.util.json_values import Json
from circuitkit.util.options import Count, Seed, Size, checked
from circuitkit.util.process import peak_mebibytes
from circuitkit.viz.circuits.choice import drawn_part, smaller_parts
from circuitkit.workflows.asking import (
    METHOD,
    OF_BUDGET,
    RULE,
    Asked,
    Level,
    Orders,
    Share,
    found_by,
    is_in_sample,
    prompts_for,
)
from circuitkit.workflows.folders import tried
from circuitkit.workflows.growing import grow, require_prompts
from circuitkit.workflows.results import Discovery
from circuitkit.workflows.sampling import Sample, by_example, certain, enough

__all__ = ["HALVES", "discover", "discover_on", "method_of"]

HALVES = 5  # random halves of all other edges that are kept besides the circuit


@checked
def discover(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    method: Method | str | None = None,
    budget: Count | None = None,
    unseen: Data | None = None,
    edges: Size | None = None,
    faithfulness: Share | None = None,
    level: Level = "edge",
    nodes: Size | None = None,
    rule: str | None = None,
    examples: Count | None = None,
    seed: Seed = 0,
    batch_size: Count | None = None,
    memory: Size | None = None,
    verify: Size | None = None,
    refine: Candidates | None = None,
    orders: Orders | None = None,
    agreement: Share | None = None,
    test: bool = False,
    resume: str | os.PathLike[str] | None = None,
    known: bool = False,
    force: bool = False,
) -> Discovery:
    """The circuit of a task, with its faithfulness on prompts that the discovery did not see.

    Args:
        model: The model, from ``ck.load``.
        data: For a task's name (``"ioi"``) or a file, ``examples`` prompts are drawn for the
            discovery and as many for the measurement; a Task is halved, and so is a file. Prompts
            with the same clean tokens are in the same half; one or two prompts are used for both,
            in sample. A Dataset is used as it is: the circuit is measured on ``unseen`` prompts, or
            without any in sample, which the result says.
        metric: A name or a function; by default the task's own, else ``logit_diff``.
        corruption: A name or a function: what an edge outside of the circuit carries; by default
            ``counterfactual``.
        method: How edges are scored: a name with settings (``"eap_ig(steps=10)"``) or a function;
            by default ``eap_ig``, or with a ``budget`` ``auto``.
        budget: What the scores may cost in total, in sequence-backwards (a forward and a backward
            of a prompt; a forward alone is a third): ``auto`` spends it on the method and the
            number of prompts that are best for it. Choosing the circuit and measuring its
            faithfulness are not counted.
        unseen: The prompts on which the circuit is measured, in any form that ``data`` takes.
        edges: The size of the circuit, at most the number of the model's edges. Where the ranking's
            next edge needs more others than there is room for, the circuit is filled up
            (``Scores.top``); a method that chose a circuit itself has no more edges than those.
        faithfulness: The faithfulness that the smallest circuit is to reach on the prompts of the
            discovery, above 0 and at most 1. Without this and ``edges``, the circuit is the one
            that the method chose itself (``acdc``), or the smallest that reaches 0.85.
        level: What circuits are made of: an ``edge`` each by itself, or each ``node`` (a head, an
            MLP) with all edges between it, the other chosen ones, the input and the logits. A node
            scores the sum of its out-edges' scores (by ``exact``: what cutting all of them costs).
            Random circuits then have as many random nodes.
        nodes: The size of a circuit of nodes, at most the number of the model's heads and MLPs.
        rule: How edges are ranked: ``abs``, ``signed`` or ``greedy``; by ``mib`` dead ends among
            the strongest edges are dropped and not replaced, so that there are fewer. By default
            ``abs``, under every corruption.
        examples: How many prompts each half has at most; by default 64 of a task, and all of a
            file.
        seed: The seed of the prompts that are drawn, of random circuits and of samples.
        batch_size: The number of prompts in a batch; by default as many as ``memory`` allows, up to
            32.
        memory: The bytes that the process may take; None for what the machine has.
        verify: How many edges are measured exactly, while the circuit is chosen again from what is
            known: ``ck.verify``, for the circuit that is chosen last.
        refine: How many edges are candidates for swaps that make the chosen circuit more faithful
            at its size, as in ``ck.refine``; half of them of the circuit, half outside of it.
        orders: In how many random orders the discovery is repeated (``acdc``).
        agreement: How well circuits from two samples of prompts should agree
            (``Certainty.agreement``): while less is expected, the number of prompts is doubled, up
            to eight times as many.
        test: Whether to grow the circuit until equivalence with the model is not rejected (see
            ``hypothesis_tests``, epsilon 0.1) on at least 96 prompts that the discovery did not
            see. For a task's name, 96 are then drawn for each half unless ``examples`` is given. A
            circuit that just reaches a faithfulness below 1 is below the model on nearly every
            prompt, and is not equivalent.
        resume: A directory for finished blocks of scores, exact effects and measurements, from
            which a killed run resumes.
        known: Whether to keep only the prompts that the model answers (a correct answer has a
            higher logit than every wrong one); the result says how many.
        force: Whether to continue where the model answers fewer than 75% of the prompts.

    Returns:
        A ``Discovery``: the circuit, the scores, and what was measured.

    Raises:
        ArgumentError: for an argument in the wrong place, of another kind, or out of its bounds.
        UnknownNameError: for a name that does not exist, with the nearest one, and for an
            agreement by a method without scores of single examples.
        ScoresError: for more edges than the model has, and for both a size and a faithfulness.
        EvaluationError: where the model answers fewer than 75% of the prompts (unless ``force``),
            or none that are ``known``, or no circuit reaches the faithfulness, or there are too
            few unseen prompts for a ``test``.
        BudgetError: where one prompt does not fit the memory.
        OutputError: where ``resume`` cannot be written.

    Example:
        >>> found = ck.discover(model, "ioi", edges=30, examples=8)
        >>> found.circuit.graph["task"], found.evaluation.edges
        ('ioi', 30)
    """
    rule = RULE if rule is None else rule
    asked = Asked(rule, prompts_for(test, examples, data), seed, edges, faithfulness, verify,
                  orders, batch_size, memory, agreement, refine, level, nodes, test)  # fmt: skip
    require_model(model)
    asked.require(model)
    tried(resume)
    how = method_of(method, orders, budget)
    drawn = partial(
        prepare_halves, model, data, unseen, metric, corruption, seed=seed, batch_size=batch_size,
        memory=memory, keep=partial(only_known, model) if known else None,
    )  # fmt: skip
    return discover_on(model, drawn, asked, how, unseen is not None, force=force, resume=resume)


def discover_on(
    model: Model,
    drawn: Callable[..., tuple[Inputs, Inputs]],
    asked: Asked,
    how: Method,
    given: bool,
    *,
    force: bool = False,
    resume: str | os.PathLike[str] | None = None,
) -> Discovery:
    """The circuit of what is ``drawn(examples=n)``: the prompts of the discovery, and those on
    which it is measured, which were ``given`` apart or not. All else, what is raised too, is as in
    ``discover``."""
    start = time.perf_counter()
    asked.require(model)
    each = _scoring(how, asked, resume)
    chosen = partial(choose, edges=asked.size, faithfulness=asked.faithfulness, rule=asked.rule)
    found_on = partial(_found_on, each, chosen, asked, force, resume)
    sample, stopped = enough(drawn, found_on, asked)
    seen, measured, sure = sample.seen, sample.measured, sample.certain
    others = (_scoring(_in_order(how, k), asked)(*seen) for k in range(asked.orders or 0))
    several = [scored.circuit(chosen(model, scored, *seen[1:]).mask) for scored in others]
    evaluated = evaluate_beside(
        model, sample.found.mask, *measured[1:], seed=asked.seed, halves=HALVES,
        also=_parts(sample), level=asked.level, resume=resume,
    )  # fmt: skip
    metadata = _metadata(sample, name_of(how), asked, given)
    return Discovery.of(
        sample.scores, sample.found.mask, evaluated, metadata, ability=sample.able,
        search=sample.found.search, filled=sample.found.filled, verification=sample.checked,
        refined=sample.refined, grown=sample.grown, certainty=sure, stopped=stopped,
        observed=_observed(each, sample, asked), agreement=agree(several) if several else None,
        seconds=time.perf_counter() - start, mebibytes=peak_mebibytes(),
    )  # fmt: skip


def _observed(each: Method, sample: Sample, asked: Asked) -> float | None:
    """How the circuit of the prompts of the measurement agrees, where an agreement is asked for."""
    sure, same = sample.certain, is_in_sample(sample.seen, sample.measured)
    if asked.agreement is None or sure is None or not sure.known or same:
        return None
    return sure.observed(each(*sample.measured))


def _found_on(
    each: Method,
    chosen: Callable[..., Chosen],
    asked: Asked,
    force: bool,
    resume: str | os.PathLike[str] | None,
    seen: Inputs,
    measured: Inputs,
) -> Sample:
    """What is found on these prompts."""
    if asked.test:
        require_prompts(seen, measured)
    able = ability(*seen[:3])
    if not force:
        able.require(str(seen.data.about.get("task", "the task")))
    scored = each(*seen)
    _require_level(scored.level, asked)
    scores, found, checked, refined = _settled(seen, scored, chosen, asked, resume)
    grown = None
    if asked.test:
        grown = grow(seen, measured, scores, found.mask, found.filled, asked.rule)
        found = replace(found, mask=grown.mask, filled=grown.filled)
        checked = checked and checked.said_of(found.mask)
    sure = certain(scores, found, asked)
    return Sample(seen, measured, able, scores, found, checked, refined, sure, grown)


def _settled(
    seen: Inputs,
    scores: Scores,
    chosen: Callable[..., Chosen],
    asked: Asked,
    resume: str | os.PathLike[str] | None,
) -> tuple[Scores, Chosen, Verification | None, Refined | None]:
    """The circuit that is chosen from the scores, or where edges are to be measured from what is
    found then, with the scores that it was chosen from; refined, where that is asked for."""

    def choice(now: Scores, known: Sequence[tuple[Mask, float]] = ()) -> Chosen:
        return chosen(seen.model, now, *seen[1:], own=scores.chosen, known=known)

    checked = refined = None
    if asked.verify is None:
        now, found = scores, choice(scores)
    else:
        found, checked = settle(seen, scores, choice, n=asked.verify, rule=asked.rule,
                                seed=asked.seed, resume=resume)  # fmt: skip
        now = checked.scores
    if asked.refine is not None:
        refined = refine_circuit(seen.model, found.mask, now, *seen[1:], candidates=asked.refine)
        found = replace(found, mask=np.asarray(refined.mask), filled=0)
        checked = checked and checked.said_of(found.mask)
    return now, found, checked, refined


def _metadata(sample: Sample, method: str, asked: Asked, given: bool) -> dict[str, Json]:
    """What a circuit says of how it was found, and how it was grown, if it was."""
    tested = {} if sample.grown is None else {"tested": sample.grown.to_dict()}
    return found_by(sample.seen, sample.measured, method, asked, given) | tested


def _parts(sample: Sample) -> dict[str, Mask]:
    """What is measured of the circuit beside itself: its core, if there is one, its strongest parts
    by their size, and the part that a picture shows, where it does not show all of it."""
    circuit = sample.scores.circuit(sample.found.mask)
    parts: dict[str, Mask | None] = {"drawn": drawn_part(circuit)}
    parts |= {str(size): part for size, part in smaller_parts(circuit).items()}
    if sample.certain is not None and sample.certain.core.any():
        parts["core"] = sample.certain.core
    return {name: mask for name, mask in parts.items() if mask is not None}


def method_of(
    method: Method | str | None = None, orders: int | None = None, budget: int | None = None
) -> Method:
    """The method as a function, with its budget; without one the usual. Raises ArgumentError for
    what is not one, nor a name, and UnknownNameError for an unknown name, or where orders or a
    budget are asked for and it has none."""
    if method is None:
        method = METHOD if budget is None else OF_BUDGET
    if not isinstance(method, str) and not callable(method):
        refuse("method", method, "a function or a name such as 'eap_ig'")
    found: Callable[..., Scores] = resolve("discovery", method)
    if orders is not None and "order" not in inspect.signature(found).parameters:
        raise UnknownNameError(
            f"{name_of(found)} has no setting 'order', so it gives one circuit only; "
            "repeat a method that has (acdc)"
        )
    if budget is None:
        return found
    if "budget" not in inspect.signature(found).parameters:
        raise UnknownNameError(
            f"{name_of(found)} costs what its settings say, and has no budget; leave the method "
            f"out, so that {OF_BUDGET} chooses one for the budget"
        )
    return partial(found, budget=budget)


def _scoring(
    how: Callable[..., Scores], asked: Asked, resume: str | os.PathLike[str] | None = None
) -> Method:
    """The method with what is asked of its scores: of each example too, or of nodes. One that knows
    nodes measures these; of any other the scores of edges are summed."""
    if asked.level == "edge":
        _require_level(getattr(how, "keywords", {}).get("level", "edge"), asked)
        return _resumed(by_example(how, asked.agreement), resume)
    if "level" in inspect.signature(how).parameters:
        return _resumed(partial(how, level="node"), resume)
    inner = _resumed(how, resume)
    return lambda *inputs: inner(*inputs).by_node()


def _require_level(level: str, asked: Asked) -> None:
    """Raise ScoresError where a method scores nodes, and circuits are to be made of edges."""
    if level != asked.level:
        raise ScoresError(
            "the method scores nodes, and circuits are made of edges; give level='node' too"
        )


def _resumed(how: Callable[..., Scores], resume: str | os.PathLike[str] | None) -> Method:
    """The method with this place for its finished blocks, where it keeps any and has none yet."""
    place = inspect.signature(how).parameters.get("resume")
    free = resume is not None and place is not None and place.default is None
    return partial(how, resume=resume) if free else how


def _in_order(how: Callable[..., Scores], seed: int) -> Method:
    """The method in a random order."""
    return partial(how, order="random", seed=seed)
