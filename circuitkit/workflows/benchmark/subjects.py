"""What methods are tried on, by name: a model, a seed's prompts, and its true circuit if known.

``reverse`` is a compiled program, ``reverse+rotate+distract(leak=0.01)`` a harder variant of it;
``path/to/mine.py:name`` a program of one's own. ``mini:ioi`` is a model that can be loaded, with a
task: nobody knows its truth.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TypeAlias

import numpy as np

import circuitkit.workflows.benchmark.variants as variants
from circuitkit.data.batches import Dataset
from circuitkit.data.tasks import make_task
from circuitkit.engine.batching import batched
from circuitkit.engine.metric import Corruption
from circuitkit.engine.model import Model
from circuitkit.engine.weights import digest
from circuitkit.errors import CircuitkitError, UnknownNameError
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.models.loading import load
from circuitkit.registry import lookup, resolve, unknown
from circuitkit.truth.rasp import (
    Decoder,
    Program,
    compile_program,
    named,
    programs,
    redundant_edges,
    true_edges,
)

__all__ = ["LABELS", "TrueEdges", "Subject", "Source", "source", "seeded"]

LABELS = ("or", "backup", "negative")
LEGS = {"one_of_two": ("first", "1 before")}  # operations of which either is enough
PROMPTS = 128  # at most, on which the truth is found
PLUS = re.compile(r"\+(?![^(]*\))")  # that stands in no brackets


@dataclass(frozen=True)
class TrueEdges:
    """The true edges under one corruption: those that are necessary, and those that matter where
    another writer is cut off. ``members`` are labelled ones: the legs of an OR, backups (the edges
    that are not necessary), and those of negative heads."""

    true: Mask
    members: Mapping[str, Mask]


@dataclass(frozen=True)
class Subject:
    """A model with the prompts on which circuits are found (``seen``) and measured (``unseen``)."""

    name: str
    model: Model
    seen: Dataset
    unseen: Dataset
    find_truth: Callable[[Corruption], TrueEdges] | None = None

    def batched(self, corruption: Corruption) -> Subject:
        """The same in batches that fit the memory under a corruption; programs always do."""
        if self.find_truth is not None:
            return self
        whole = replace(self.seen, examples=(*self.seen.examples, *self.unseen.examples))
        size = batched(self.model, whole, [corruption]).batch_size
        seen, unseen = (replace(own, batch_size=size) for own in (self.seen, self.unseen))
        return replace(self, seen=seen, unseen=unseen)


Source: TypeAlias = "_Compiled | _Loaded"


def source(name: str, *, examples: int = 32, device: str | None = None) -> Source:
    """A function from seeds to Subjects with twice so many prompts, half of them unseen.

    Raises UnknownNameError where there is no such program, variant or task; a model is not loaded
    before it is asked for.
    """
    first, *harder = PLUS.split(name)
    model, colon, task = name.partition(":")
    if colon and not model.endswith(".py") and first not in programs():
        return _Loaded(name, model, task, examples, device)
    return _Compiled(name, _program(first), [_variant(one) for one in harder], examples, device)


def seeded(how: Callable[..., object]) -> bool:
    """Whether a function has a setting ``seed`` that the user did not give."""
    settings = how.keywords if isinstance(how, partial) else {}
    return "seed" in inspect.signature(how).parameters and "seed" not in settings


# -- programs --------------------------------------------------------------------------------------
def _program(name: str) -> Program:
    if ":" not in name and name not in programs():
        sentence = unknown("program", name, tuple(programs()))
        raise UnknownNameError(f"{sentence}, or give MODEL:TASK (mini:ioi)")
    made = lookup("programs", name)() if ":" in name else named(name)
    if not isinstance(made, Program):
        raise UnknownNameError(
            f"{name!r} gives a {type(made).__name__}, no circuitkit.rasp.Program; "
            "name a function that returns one"
        )
    return made


def _variant(expression: str) -> Callable[..., Decoder]:
    name = expression.partition("(")[0].strip()
    if name not in variants.__all__ and ":" not in name:
        raise UnknownNameError(unknown("variant", name, tuple(variants.__all__)))
    place = "" if ":" in name else f"{variants.__name__}:"
    found: Callable[..., Decoder] = resolve("variants", f"{place}{expression.strip()}")
    return found


class _Compiled:
    """A program, as the models that its variants make of it."""

    def __init__(
        self,
        name: str,
        program: Program,
        harder: list[Callable[..., Decoder]],
        examples: int,
        device: str | None,
    ) -> None:
        self.name, self.program, self.harder = name, program, harder
        self.examples, self.device = examples, device

    weights: tuple[str, ...] = ()  # a program's are its name's

    @cached_property
    def number(self) -> int:
        """How many prompts there are."""
        return len(self.program.task().prompts)

    @cached_property
    def data(self) -> Dataset:
        """The prompts on which the truth is found, the same for all seeds."""
        return self.program.data(min(self.number, PROMPTS))

    @property
    def random(self) -> bool:
        """Whether each seed has a model of its own."""
        return any(map(seeded, self.harder))

    def __call__(self, seed: int) -> Subject:
        model = compile_program(self.program)
        for how in self.harder:
            model = how(model, self.data, **({"seed": seed} if seeded(how) else {}))
        if self.device:
            model = model.to(self.device)
        data = self.program.data(min(self.number, 2 * self.examples), seed)
        asked, data = (replace(own, device=str(model.device)) for own in (self.data, data))
        truth = partial(_truth, model, asked, LEGS.get(self.program.name, ()))
        return Subject(self.name, model, *data.halves(), truth)


def _truth(
    model: Decoder, data: Dataset, legs: tuple[str, ...], corruption: Corruption
) -> TrueEdges:
    """The true edges by brute force, with the labels that the model's roles give them."""
    found = true_edges(model, data, corruption)
    spare = redundant_edges(model, data, found, corruption)
    true = found.necessary | spare
    either = [name for name, role in model.roles.items() if role.partition(" × ")[0] in legs]
    against = [name for name, role in model.roles.items() if "× -" in role]
    masks = (
        true & _touching(model.wiring, either), spare, true & _touching(model.wiring, against)
    )  # fmt: skip
    return TrueEdges(true, dict(zip(LABELS, masks, strict=True)))


def _touching(wiring: Wiring, names: list[str]) -> Mask:
    """The edges into and out of these components."""
    mask = np.zeros(wiring.shape, dtype=bool)
    for row in (wiring.writer[name] for name in names):
        mask[row], mask[:, wiring.feeds(row)] = True, True
    mask &= wiring.legal
    return mask


# -- models that are loaded ------------------------------------------------------------------------
class _Loaded:
    """A model with a task."""

    random = False

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """The digest of the model's weights; none of a model that cannot be loaded."""
        try:
            found = digest(self.model)
        except CircuitkitError:  # which each of its cells says
            found = None
        return () if found is None else (found,)

    def __init__(self, name: str, model: str, task: str, examples: int, device: str | None) -> None:
        self.name, self.task, self.place = name, task, model
        self.examples, self.device = examples, device
        if not task.endswith((".csv", ".jsonl")):
            resolve("tasks", task)

    @cached_property
    def model(self) -> Model:
        """The model, loaded once."""
        return load(self.place, device=self.device)

    def __call__(self, seed: int) -> Subject:
        made = make_task(self.task, self.model, n=2 * self.examples, seed=seed)
        return Subject(self.name, self.model, *Dataset.of(made, self.model).halves())
