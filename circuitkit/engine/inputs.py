"""The arguments that every public function takes, in any form in which users have them.

``data`` is a Dataset, or what makes one; ``metric`` and ``corruption`` are functions or names, with
defaults. An argument in the wrong place is refused in a sentence.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias

import networkx as nx
import numpy as np
from typing_extensions import TypeIs

from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.data.framing import FRAMING, Framed, framed, framing
from circuitkit.data.prompts import Prompt, Task, file_of
from circuitkit.data.tasks import draw, make_task, shuffled
from circuitkit.data.tokens import TokenizerView, fitted, view
from circuitkit.engine.batching import batched
from circuitkit.engine.metric import Corruption, Metric, learned
from circuitkit.engine.model import Model
from circuitkit.engine.weights import digest, notice_others
from circuitkit.errors import ArgumentError, DataError, MetricError, UnknownNameError
from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring
from circuitkit.registry import name_of, resolve
from circuitkit.util.json_values import Json

__all__ = [
    "EXAMPLES",
    "CorruptionLike",
    "Data",
    "Inputs",
    "MetricLike",
    "Several",
    "as_corruption",
    "as_data",
    "as_found",
    "as_metric",
    "as_metrics",
    "in_sample",
    "is_several",
    "prepare",
    "prepare_each",
    "prepare_halves",
    "refuse",
    "require_model",
    "twice",
]

EXAMPLES = 64  # prompts of a task that is called by its name; of a file all
ONE_METRIC = "a function or a name such as 'logit_diff'"
ORDER = "the order is model, what is measured, data, metric, corruption"

Data: TypeAlias = Dataset | Task | Sequence[Prompt] | str | os.PathLike[str]
MetricLike: TypeAlias = Metric | str
CorruptionLike: TypeAlias = Corruption | str
Several: TypeAlias = Sequence[MetricLike]


class Inputs(NamedTuple):
    """What a method works on, in the order in which it takes it."""

    model: Model
    data: Dataset
    metric: Metric
    corruption: Corruption

    def halves(self) -> tuple[Inputs, Inputs]:
        """The same on one half of the prompts, and on the other."""
        seen, unseen = self.data.halves()
        return self._replace(data=seen), self._replace(data=unseen)

    def metadata(self) -> dict[str, Json]:
        """What results say of them."""
        about, weights = self.data.about, digest(self.model)
        constants = learned(self.corruption, self.data)
        of_data = ("task", "seed", "answers", "align", "known", *FRAMING)
        known = {key: about[key] for key in of_data if key in about}
        return {
            "model": self.model.name,
            "metric": name_of(self.metric),
            "corruption": name_of(self.corruption),
            "examples": len(self.data),
            **known,
            "seen": "".join(e.fingerprint for e in self.data.examples),
            **({"learned": constants} if constants else {}),
            **({"experts": self.model.router} if self.model.router else {}),
            **({"weights": weights} if weights else {}),
        }


def prepare(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    circuit: object = None,
    examples: int | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    memory: int | None = None,
) -> Inputs:
    """The arguments as the engine takes them; what is there already stays as it is.

    Without a ``metric`` it is the one with which the ``circuit`` was found, else the task's own;
    without a ``corruption`` the circuit's, else ``counterfactual``. Raises what ``as_data``,
    ``as_metric`` and ``as_corruption`` do.
    """
    require_model(model)
    if is_several(metric):
        refuse("metric", metric, ONE_METRIC)
    own, (measure,), corrupt = prepare_each(
        model, data, metric, corruption, circuit=circuit,
        examples=examples, seed=seed, batch_size=batch_size, memory=memory,
    )  # fmt: skip
    return Inputs(model, own, measure, corrupt)


def prepare_halves(
    model: Model,
    data: Data,
    unseen: Data | None,
    metric: MetricLike | None,
    corruption: CorruptionLike | None,
    *,
    examples: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int | None = None,
    keep: Callable[[Dataset], Dataset] | None = None,
) -> tuple[Inputs, Inputs]:
    """What a circuit is found on, and what it is measured on.

    A Task gives its two halves, and so do a file and a task's name, of up to ``examples`` each.
    Rows of files, and prompts that no seed has drawn, are shuffled by the ``seed`` before. Of one
    or two different prompts both halves are all of them. A Dataset is used as it is: it is measured
    on ``unseen`` prompts, or in sample where there are none. ``keep`` says which prompts stay,
    before they are halved. Raises as ``prepare`` does.
    """
    require_model(model)

    def kept(inputs: Inputs) -> Inputs:
        return inputs if keep is None else inputs._replace(data=keep(inputs.data))

    if unseen is None and not isinstance(data, Dataset):
        whole = prepare(
            model, data, metric, corruption, examples=twice(data, examples), seed=seed,
            batch_size=batch_size, memory=memory,
        )  # fmt: skip
        if not _drawn(data):
            about = {**whole.data.about, "seed": seed}
            mixed = replace(whole.data, examples=shuffled(whole.data.examples, seed), about=about)
            whole = whole._replace(data=mixed)
        return kept(whole).halves()
    seen = prepare(
        model, data, metric, corruption,
        examples=examples, seed=seed, batch_size=batch_size, memory=memory,
    )  # fmt: skip
    seen = kept(seen)
    if unseen is None:
        return seen, seen
    other = prepare(
        model, unseen, *seen[2:],
        examples=examples, seed=seed + 1, batch_size=batch_size, memory=memory,
    )  # fmt: skip
    return seen, kept(other)


def prepare_each(
    model: Model,
    data: Data,
    metric: MetricLike | Several | None = None,
    corruption: CorruptionLike | None = None,
    *,
    circuit: object = None,
    examples: int | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    memory: int | None = None,
) -> tuple[Dataset, list[Metric], Corruption]:
    """The same for one metric or several, which share their runs; raises MetricError where there is
    none."""
    require_model(model)
    whole = as_data(model, data, circuit, examples=examples, seed=seed, memory=memory)
    measures = as_metrics(metric, circuit, whole)
    corrupt = as_corruption(corruption, circuit)
    _require_texts(whole, corrupt)
    if memory is not None:
        whole = replace(whole, memory=memory)
    if not isinstance(data, Dataset) or batch_size is not None or memory is not None:
        whole = batched(model, whole, [corrupt], batch_size)
    return whole, measures, corrupt


def twice(data: Data, examples: int | None) -> int | None:
    """The prompts of two halves; None for all that a file has."""
    if examples is None:
        is_all = isinstance(data, str | os.PathLike) and file_of(os.fspath(data))
        return None if is_all else 2 * EXAMPLES
    return 2 * examples


def _drawn(data: Data) -> bool:
    """Whether the order of the prompts is by chance: a seed drew them."""
    if isinstance(data, Task):
        of_file = "path" in data.settings and not data.settings.get("shuffled")
        return "seed" in data.settings and not of_file
    return isinstance(data, str | os.PathLike)


# -- model -----------------------------------------------------------------------------------------
def require_model(model: object) -> None:
    """Raise ArgumentError unless this is a model that ``load`` returned."""
    if isinstance(getattr(model, "wiring", None), Wiring) and not isinstance(model, Scores):
        return  # isinstance(model, Model) would run every property of it
    remedy = "load it with ck.load(...)" if hasattr(model, "forward") or _text(model) else ORDER
    raise ArgumentError(f"the first argument is {_spelt(model)}, not a loaded model; {remedy}")


# -- data ------------------------------------------------------------------------------------------
def as_data(
    model: Model,
    data: Data,
    circuit: object = None,
    *,
    examples: int | None = None,
    seed: int | None = None,
    memory: int | None = None,
) -> Dataset:
    """The data as a Dataset.

    A Dataset is used as it is, on the model's device. A Task, a task's name (``"ioi"``) or a file
    gives prompts that the discovery of the ``circuit`` (or of any of several) did not see: of a
    Task all of them, else up to ``examples``, drawn with the circuit's seed; without a number all
    that a file has, and 64 of a task that is called by its name. They begin with BOS, and are put
    into the chat template, as the model was loaded, else as the circuit was found. Raises
    ArgumentError for what is none of these, and DataError where the circuit has seen every prompt.
    Warns where the circuit was found with other weights than the model's.
    """
    for about in _abouts(circuit):
        notice_others(model, about)
    if isinstance(data, Dataset):
        here = str(model.device)
        return data if data.device == here else replace(data, device=here)
    model = as_found(model, circuit)
    if isinstance(data, str | os.PathLike):
        name, known = os.fspath(data), _seen(model, circuit)
        seed = _seed(circuit) if seed is None else seed
        wanted = EXAMPLES if examples is None and not file_of(name) else examples
        drawn = draw(name, model, None if wanted is None else wanted + len(known), seed)
        fresh = _fresh(model, drawn, known, memory, circuit)
        return replace(fresh, examples=fresh.examples[:wanted])
    if isinstance(data, Task):
        return _fresh(model, data, _seen(model, circuit), memory, circuit)
    listed: list[Any] = [*data] if isinstance(data, list | tuple) else []
    if listed and all(isinstance(one, Prompt) for one in listed):
        return Dataset.of(listed, model, memory=memory)
    if listed and all(isinstance(one, Example) for one in listed):
        return Dataset(tuple(listed), device=str(model.device), memory=memory)
    refuse("data", data, "a Dataset, a Task, a task's name or a file")


def as_found(
    model: Model, circuit: object, *, bos: bool | None = None, chat: bool | None = None
) -> Model:
    """The model with the BOS token and the chat template that are given; else as it was loaded;
    else as the circuit was found. Raises DataError where it has none."""
    chosen = {**_framing(circuit), **framing(model.tokenizer)}
    chosen |= {key: value for key, value in (("bos", bos), ("chat", chat)) if value is not None}
    if model.tokenizer is None or chosen == framing(model.tokenizer):
        return model
    twin = copy(model)
    twin.tokenizer = framed(model.tokenizer, **chosen, name=model.name)
    return twin


def _framing(circuit: object) -> dict[str, Any]:
    """The BOS token and chat template of the first circuit that records them."""
    said = [about for about in _abouts(circuit) if any(key in about for key in FRAMING)]
    return {key: said[0][key] for key in FRAMING if said and isinstance(said[0].get(key), bool)}


def _fresh(
    model: Model, task: Task, seen: frozenset[str], memory: int | None, circuit: object
) -> Dataset:
    """The prompts of the task that are not among those seen, with or without BOS and template."""
    whole = Dataset.of(task, model, memory=memory)
    if not seen:
        return whole
    then, choices = whole.examples, _framing(circuit)
    if choices != framing(model.tokenizer):
        words = view(model).tokenizer
        words = framed(words.tokenizer if isinstance(words, Framed) else words, **choices)
        several = whole.about.get("answers") == "sequence"
        examples = fitted(task.prompts, TokenizerView(words), several, whole.align is not None)
        asked = zip(whole.examples, examples, strict=True)
        then = tuple(now if isinstance(one, DataError) else one for now, one in asked)
    kept = tuple(
        now for now, one in zip(whole.examples, then, strict=True) if one.fingerprint not in seen
    )
    if not kept:
        raise DataError(
            f"the circuit's discovery saw all {len(whole)} prompts of {task.name}; give other "
            "prompts, or a Dataset, which is used as it is"
        )
    return replace(whole, examples=kept)


def _seen(model: Model, circuit: object) -> frozenset[str]:
    """The fingerprints of all prompts on which these circuits were found."""
    found: set[str] = set()
    for about in _abouts(circuit):
        marks = about.get("seen")
        if isinstance(marks, str):
            found |= _apart(marks)
        elif {"task", "examples", "seed"} <= about.keys():  # written before 0.3
            found |= _redrawn(model, about)
    return frozenset(found)


def in_sample(circuit: object, data: Dataset) -> bool:
    """Whether circuits say that they were found on all of these prompts, together or alone."""
    marks = "".join(str(about.get("seen", "")) for about in _abouts(circuit))
    return {example.fingerprint for example in data.examples} <= _apart(marks)


def _apart(marks: str) -> set[str]:
    """The fingerprints that were written one after the other."""
    return {marks[i : i + 8] for i in range(0, len(marks), 8)}


def _redrawn(model: Model, about: Mapping[str, Any]) -> set[str]:
    """The same of a file that says only from which task, with which seed and how many."""
    try:
        task, n, seed = str(about["task"]), int(about["examples"]), int(about["seed"])
        whole = make_task(task, model) if file_of(task) else draw(task, model, 2 * n, seed)
        prompts = whole.prompts[:n]  # rows of files were in their order then
    except (TypeError, ValueError, UnknownNameError):  # of another tool, or of no task of ours
        return set()
    return {example.fingerprint for example in Dataset.of(prompts, model).examples}


def _seed(circuit: object) -> int:
    """The seed with which the first circuit that names one was found."""
    seeds = (about["seed"] for about in _abouts(circuit) if "seed" in about)
    found = next(seeds, 0)
    return found if isinstance(found, int) else 0


# -- metric and corruption -------------------------------------------------------------------------
def as_metrics(
    metric: MetricLike | Several | None, circuit: object = None, data: Dataset | None = None
) -> list[Metric]:
    """The metric, or each of several, as a function; raises as ``as_metric`` does, and MetricError
    where there is none."""
    if not is_several(metric):
        return [as_metric(metric, circuit, data)]
    if not metric:
        raise MetricError("there are no metrics; give at least one")
    return [as_metric(one, circuit, data) for one in metric]


def is_several(metric: MetricLike | Several | None) -> TypeIs[Several]:
    """Whether this is a sequence of metrics, rather than one."""
    return isinstance(metric, Sequence) and not isinstance(metric, str)


def as_metric(
    metric: MetricLike | None, circuit: object = None, data: Dataset | None = None
) -> Metric:
    """The metric as a function ``(logits, reference, batch) -> one value per example``; without
    one, that of the circuit, of the task, or the logit difference. Raises MetricError for a
    function that takes other arguments, and UnknownNameError for an unknown name."""
    if metric is None:
        own = None if data is None else data.about.get("metric")
        metric = _recorded("metric", circuit) or str(own or "logit_diff")
    if not isinstance(metric, str) and not callable(metric):
        refuse("metric", metric, ONE_METRIC)
    function: Metric = resolve("metrics", metric)
    if not _takes(function, 3):
        raise MetricError(
            f"{name_of(function)}{_signature(function)} is not a metric; a metric takes (logits, "
            "reference, batch) and returns one value per example"
        )
    return function


def _require_texts(data: Dataset, corruption: Corruption) -> None:
    """Raise DataError where prompts have no corrupted text, and the corruption needs it."""
    missing = [i for i, example in enumerate(data.examples) if not example.paired]
    if missing and name_of(corruption) == "counterfactual":
        clean = data[missing[0] : missing[0] + 1].to_frame()["clean"][0]
        raise DataError(
            f"{len(missing)} of {len(data)} prompts have no corrupted text ({clean!r} is one), "
            "which counterfactual needs; give them one, or use zero, mean, noise or resample"
        )


def as_corruption(corruption: CorruptionLike | None, circuit: object = None) -> Corruption:
    """The corruption as a function ``(model, data) -> (batch -> what a cut edge carries)``; without
    one, that of the circuit, else ``counterfactual``. Raises ArgumentError for one that has been
    applied already or takes other arguments, and UnknownNameError for an unknown name."""
    if corruption is None:
        corruption = _recorded("corruption", circuit) or "counterfactual"
    if not isinstance(corruption, str) and not callable(corruption):
        refuse("corruption", corruption, "a function or a name such as 'counterfactual'")
    function: Corruption = resolve("corruptions", corruption)
    if not _takes(function, 2):
        raise ArgumentError(
            f"{name_of(function)}{_signature(function)} is not a corruption, which takes (model, "
            "data); pass the corruption itself: zero, not zero(model, data)"
        )
    return function


def _recorded(key: str, circuit: object) -> str | None:
    """What the first circuit that says so was found with; raises ArgumentError for code from
    elsewhere: what came in a file does not say which code is run."""
    for about in _abouts(circuit):
        value = about.get(key)
        if isinstance(value, str):
            known = _of_the_package(f"{key}s", value)
            if not known:
                raise ArgumentError(
                    f"the circuit says that its {key} is {value!r}, which is not one of "
                    f"circuitkit's; give {key}="
                )
            return value
    return None


def _of_the_package(kind: str, expression: str) -> bool:
    """Whether a name with settings is that of a function of the package; runs no code."""
    if ":" in expression.partition("(")[0]:
        return False
    try:
        resolve(kind, expression)
    except UnknownNameError:
        return False
    return True


def _abouts(circuit: object) -> Iterable[Mapping[str, Any]]:
    """What a circuit, scores or each of several say of themselves; a mask says nothing."""
    if isinstance(circuit, Scores):
        yield circuit.about
    elif isinstance(circuit, nx.DiGraph):
        yield circuit.graph
    elif isinstance(circuit, Mapping):
        yield from (about for one in circuit.values() for about in _abouts(one))
    elif isinstance(circuit, list | tuple):
        yield from (about for one in circuit for about in _abouts(one))
    else:
        found = getattr(circuit, "circuit", None)
        if isinstance(found, nx.DiGraph):
            yield found.graph


def refuse(name: str, value: object, wanted: str) -> NoReturn:
    """Raise ArgumentError: this argument is that value, and what is wanted in its place."""
    raise ArgumentError(f"{name} is {_spelt(value)}; give {wanted} ({ORDER})")


# -- words -----------------------------------------------------------------------------------------
def _takes(function: Callable[..., object], arguments: int) -> bool:
    """Whether a function can be called with so many positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * arguments)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


def _signature(function: Callable[..., object]) -> str:
    """The names of a function's arguments, in brackets."""
    return f"({', '.join(inspect.signature(function).parameters)})"


def _text(value: object) -> bool:
    return isinstance(value, str | Path)


def _spelt(value: object) -> str:
    """What a value is, in a few words: ``a Dataset``, ``the text 'ioi'``."""
    if _text(value):
        return f"the text {str(value)!r}"
    if value is None:
        return "None"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"
