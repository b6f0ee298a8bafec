"""What methods are tried on, by name: a model, a seed's prompts, and its true circuit if known.

``reverse`` is a compiled program, ``reverse+rotate+distract(share=0.5)`` a harder variant of it;
``path/to/mine.py:name`` a program of one's own. ``trained:NAME`` is a model that was trained to use
known edges, ``mini:ioi`` one that can be loaded, with a task: nobody knows its truth.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeAlias

import circuitkit
import circuitkit.workflows.benchmark.variants as variants
from circuitkit.data.batches import Dataset
from circuitkit.data.tasks import make_task
from circuitkit.engine.batching import batched
from circuitkit.engine.metric import Corruption
from circuitkit.engine.model import Model
from circuitkit.engine.weights import digest
from circuitkit.errors import UnknownNameError
from circuitkit.models.decoder import Decoder
from circuitkit.models.loading import load
from circuitkit.registry import lookup, name_of, resolve, unknown
from circuitkit.truth.rasp import Program, compile_program, named, programs
from circuitkit.truth.trained import SUFFIX, Trained
from circuitkit.truth.trained import load as load_trained
from circuitkit.workflows.benchmark.labels import TrueEdges, hidden, programmed, trained

__all__ = ["BLOCKS", "Subject", "Source", "source", "seeded", "trained_names"]

BLOCKS = ("plain", "varied", "trained", "real")  # kinds of models, which are never averaged
LEGS = {"one_of_two": ("first", "1 before")}  # operations of which either is enough
PROMPTS = 128  # at most, on which the truth is found
MANY, FEW = 10_000, 16  # edges from which on circuits are measured on fewer prompts
TRAINED_PROMPTS = 32  # the same for trained models, where effects are means
PLUS = re.compile(r"\+(?![^(]*\))")  # outside brackets
HIDING = ("rotate", "distract", "compress")  # whose models hold the program under its own names
NOISY = ("distract", "compress")  # in whose models other edges have effects of their own
TRAINED = "benchmarks/trained"  # where models that were trained to a truth are


@dataclass(frozen=True)
class Subject:
    """A model with the prompts on which circuits are found (``seen``) and measured (``unseen``)."""

    name: str
    model: Model
    seen: Dataset
    unseen: Dataset
    find_truth: Callable[[Corruption], TrueEdges] | None = None

    def batched(self, corruption: Corruption) -> Subject:
        """The same in batches that fit the memory under a corruption; models with a known truth
        always do."""
        if self.find_truth is not None:
            return self
        whole = replace(self.seen, examples=(*self.seen.examples, *self.unseen.examples))
        size = batched(self.model, whole, [corruption]).batch_size
        seen, unseen = (replace(own, batch_size=size) for own in (self.seen, self.unseen))
        return replace(self, seen=seen, unseen=unseen)


Source: TypeAlias = "_Compiled | _Trained | _Loaded"


def source(
    name: str, *, examples: int = 32, device: str | None = None, device_map: str | None = None
) -> Source:
    """A function from seeds to Subjects with twice so many prompts, half of them unseen.

    Raises UnknownNameError where there is no such program, variant, trained model or task; a model
    is not loaded before it is asked for.
    """
    first, *harder = PLUS.split(name)
    model, colon, task = name.partition(":")
    if model == "trained" or name.endswith(SUFFIX):
        return _Trained(name, _trained_file(name), examples)
    if colon and not model.endswith(".py") and first not in programs():
        return _Loaded(name, model, task, examples, device, device_map)
    return _Compiled(name, _program(first), [_variant(one) for one in harder], examples, device)


def trained_names() -> tuple[str, ...]:
    """The models of this checkout that were trained to a truth, as ``source`` takes them."""
    files = sorted(path for folder in _folders() for path in folder.glob(f"*{SUFFIX}"))
    return tuple(dict.fromkeys(f"trained:{path.stem}" for path in files))


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
            f"{name!r} gives a {type(made).__name__}, not a circuitkit.rasp.Program; "
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

    weights: tuple[str, ...] = ()  # a program's are its name's

    def __init__(
        self,
        name: str,
        program: Program,
        harder: list[Callable[..., Decoder]],
        examples: int,
        device: str | None,
    ) -> None:
        self.name, self.made_of, self.harder = name, program, harder
        self.examples, self.device = examples, device
        self.program, self.block = program.name, "varied" if harder else "plain"
        self._truths: dict[tuple[str, int | None], TrueEdges] = {}

    @cached_property
    def number(self) -> int:
        """How many prompts there are."""
        return len(self.made_of.task().prompts)

    @cached_property
    def data(self) -> Dataset:
        """The prompts on which the truth is found, the same for all seeds."""
        return self.made_of.data(min(self.number, PROMPTS))

    @property
    def random(self) -> bool:
        """Whether each seed has a model of its own."""
        return any(map(seeded, self.harder))

    @property
    def noisy(self) -> bool:
        """Whether other edges than the program's have effects too."""
        return any(_called(how) in NOISY for how in self.harder)

    def __call__(self, seed: int) -> Subject:
        model = base = compile_program(self.made_of)
        for how in self.harder:
            settings = {"seed": seed} if seeded(how) else {}
            model = how(model, self.data, **settings)
            if _called(how) not in HIDING:
                base = how(base, self.data, **settings)
        if self.device:
            model, base = model.to(self.device), base.to(self.device)
        data = self.made_of.data(min(self.number, 2 * self.examples), seed)
        asked, data = (replace(own, device=str(model.device)) for own in (self.data, data))
        drawn = any(seeded(how) for how in self.harder if _called(how) not in HIDING)
        truth = partial(self._truth, base, model, asked, seed if drawn else None)
        return Subject(self.name, model, *data.halves(), truth)

    def _truth(
        self, base: Decoder, model: Decoder, data: Dataset, seed: int | None, how: Corruption
    ) -> TrueEdges:
        """The program's truth, found once, or that of a model which hides it."""
        key = name_of(how), seed
        if key not in self._truths:
            self._truths[key] = programmed(base, data, how, LEGS.get(self.program, ()))
        if not self.noisy:
            return self._truths[key]
        return hidden(self._truths[key], base, model, data, how)


def _called(how: Callable[..., object]) -> str:
    """The name of a variant, without its settings."""
    return str(getattr(how.func if isinstance(how, partial) else how, "__name__", ""))


# -- models that were trained to a truth -----------------------------------------------------------
def _folders() -> list[Path]:
    """Where trained models are: below the folder at hand, and in the checkout of this package."""
    package = Path(circuitkit.__path__[0]).parent
    return [Path(TRAINED), package / TRAINED]


def _trained_file(name: str) -> Path:
    stem = name.removeprefix("trained:")
    places = [Path(stem)] if name.endswith(SUFFIX) else [f / f"{stem}{SUFFIX}" for f in _folders()]
    found = [place for place in places if place.is_file()]
    if not found:
        known = tuple(one.removeprefix("trained:") for one in trained_names())
        raise UnknownNameError(
            f"{unknown('trained model', stem, known)} ({TRAINED}), or give a path"
        )
    return found[0]


class _Trained:
    """A model that was trained to use the edges that are mapped; it stays on the CPU."""

    block, random = "trained", False

    def __init__(self, name: str, place: Path, examples: int) -> None:
        self.name, self.place, self.examples = name, place, examples

    @cached_property
    def made(self) -> Trained:
        """The model with its prompts and its mapped edges, loaded once."""
        return load_trained(self.place)

    @property
    def program(self) -> str:
        """The high-level program, of which there may be several trainings."""
        return str(self.made.about.get("causal", self.made.name))

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """The digest of the file."""
        return (hashlib.sha256(self.place.read_bytes()).hexdigest(),)

    def __call__(self, seed: int) -> Subject:
        made = self.made
        there = len(made.pairs.prompts)
        seen, unseen = made.data(min(2 * self.examples, there), seed).halves()
        asked = made.data(min(TRAINED_PROMPTS, there), 0)
        truth = partial(trained, made.model, made.mapped, made.constant, asked)
        return Subject(self.name, made.model, seen, unseen, truth)


# -- models that are loaded ------------------------------------------------------------------------
class _Loaded:
    """A model with a task."""

    block, random = "real", False

    def __init__(
        self, name: str, model: str, task: str, examples: int, device: str | None,
        device_map: str | None = None,
    ) -> None:  # fmt: skip
        self.name, self.task, self.place = name, task, model
        self.examples, self.device, self.device_map = examples, device, device_map
        self.program = task
        if not task.endswith((".csv", ".jsonl")):
            resolve("tasks", task)

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """The digest of the model's weights; raises CircuitkitError where it cannot be loaded."""
        found = digest(self.model)
        return () if found is None else (found,)

    @cached_property
    def model(self) -> Model:
        """The model, loaded once."""
        return load(self.place, device=self.device, device_map=self.device_map)

    def __call__(self, seed: int) -> Subject:
        made = make_task(self.task, self.model, n=2 * self.examples, seed=seed)
        seen, unseen = Dataset.of(made, self.model).halves()
        large = self.model.wiring.n_edges > MANY
        return Subject(self.name, self.model, seen, unseen[:FEW] if large else unseen)
