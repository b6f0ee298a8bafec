"""What is found on one model of a track: its circuit, and the scores of every sample of prompts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from circuitkit.data.batches import Dataset
from circuitkit.data.prompts import Task, file_of
from circuitkit.engine.checkpoints import digest
from circuitkit.engine.dealing import Block
from circuitkit.engine.inputs import CorruptionLike, Data, Inputs, MetricLike, prepare_halves
from circuitkit.engine.metric import Method
from circuitkit.engine.model import Model
from circuitkit.engine.weights import digest as weights
from circuitkit.errors import CircuitkitError, EvaluationError, ModelError
from circuitkit.evaluation.ability import ability
from circuitkit.evaluation.sampling import parts, samples
from circuitkit.graph.circuit import Circuit, from_json, to_json
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.models.loading import load
from circuitkit.registry import name_of
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.reading import json_in
from circuitkit.workflows.asking import fingerprint, is_in_sample
from circuitkit.workflows.discover import discover

__all__ = ["Asking", "Found", "ModelLike", "key_of", "named", "unpacked"]

ModelLike: TypeAlias = str | os.PathLike[str] | Model
PIECES, PIECE = 64, 4096  # of a model's file that are hashed, and their bytes
OF_MODELS = (".bin", ".decoder", ".json", ".model", ".safetensors")  # the files that are looked at


@dataclass(frozen=True, eq=False)
class Found:
    """What is found on one model: ``values`` are the scores on every sample, and ``said`` the rest:
    its accuracy, and without a circuit the note that says why there is none."""

    wiring: Wiring
    said: Mapping[str, Json]
    circuit: Circuit | None
    values: Float[np.ndarray, "samples writers readers"]

    @property
    def edges(self) -> int:
        """The size of its circuit; 0 without one."""
        return 0 if self.circuit is None else int(self.circuit.mask().sum())

    def masks(self, size: int, rule: str) -> list[Mask]:
        """The circuit of so many edges on every sample."""
        return [Scores(self.wiring, own).mask(size, rule) for own in self.values]


@dataclass(frozen=True, eq=False)
class Asking:
    """What is asked of every model, and the first of them that this process has seen, which all
    others must be like."""

    data: Data
    metric: MetricLike | None
    corruption: CorruptionLike | None
    method: Method
    settings: Mapping[str, Any]  # of ``discover``
    number: int  # of samples
    load: Callable[[str | os.PathLike[str]], Model] = load
    first: dict[str, tuple[str, Wiring, str]] = field(default_factory=dict)

    def block(self, label: str, source: ModelLike) -> Block:
        """What is found on the model; it is loaded here, and nothing keeps it."""
        model = self.load(source) if isinstance(source, str | os.PathLike) else source
        self.require_like(label, model.wiring)
        halves = self._halves(model)
        prompts = fingerprint(*(own.data for own in halves))
        self.require_like(label, model.wiring, prompts)
        said: dict[str, Json] = {
            **_said_of(halves), "wiring": model.wiring.to_dict(), "prompts": prompts,
            "model": model.name, "weights": weights(model), "samples": [],
            "target": self.settings["faithfulness"],
        }  # fmt: skip
        chosen = {key: own for key, own in self.settings.items() if own is not None}
        try:
            found = discover(
                model, self.data, self.metric, self.corruption, method=self.method, **chosen
            )
        except EvaluationError as error:
            able = ability(*halves[0][:3])
            said |= {"accuracy": able.accuracy, "note": str(error).partition(";")[0]}
            return _packed(said, np.zeros((0, *model.wiring.shape)))
        low, high = found.evaluation.interval()
        said |= nan_to_none({
            "accuracy": found.ability.accuracy, "note": "", "circuit": to_json(found.circuit),
            "faithfulness": found.evaluation.faithfulness, "low": low, "high": high,
            "random": found.random, "target": found.search and found.search.target,
        })  # fmt: skip
        own = self._samples(model, *halves)
        said["samples"] = [len(sample) for sample in own]
        values = [
            found.scores.values if sample is halves[0].data
            else self.method(*halves[0]._replace(data=sample)).values
            for sample in own
        ]  # fmt: skip
        return _packed(said, np.array(values))

    def require_like(self, label: str, wiring: Wiring, prompts: str = "") -> None:
        """Raise ModelError where a model has a different wiring from the first one, or tokenizes
        the prompts differently."""
        name, known, read = self.first.setdefault("model", (label, wiring, prompts))
        if known != wiring:
            raise ModelError(
                f"{label!r} has a different wiring ({wiring}) from {name!r} ({known}), so their "
                "circuits cannot be compared; track models of one architecture"
            )
        if not read:
            self.first["model"] = name, known, prompts
        elif prompts and prompts != read:
            raise ModelError(
                f"{label!r} tokenizes the prompts differently from {name!r}; track models with one "
                "tokenizer"
            )

    def _halves(self, model: Model) -> tuple[Inputs, Inputs]:
        names = ("examples", "seed", "batch_size", "memory")
        own = {name: self.settings[name] for name in names}
        return prepare_halves(model, self.data, None, self.metric, self.corruption, **own)

    def _samples(self, model: Model, seen: Inputs, measured: Inputs) -> tuple[Dataset, ...]:
        """Disjoint samples of the prompts, the first of them those of the discovery: of two, the
        prompts seen and those unseen; that one alone where there are too few for others."""
        known = {example.clean for example in seen.data.examples}
        rest = tuple(one for one in measured.data.examples if one.clean not in known)
        if self.number == 2 and rest and len(rest) == len(measured.data):
            return seen.data, measured.data
        if isinstance(self.data, str | os.PathLike):
            drawing = {"seed": self.settings["seed"], "memory": self.settings["memory"]}
            found = samples(model, self.data, seen.data, self.number, **drawing)
        else:
            whole = replace(seen.data, examples=seen.data.examples + rest)
            found = parts(whole, self.number) if self.number > 1 else ()
        return found or (seen.data,)


# -- blocks ----------------------------------------------------------------------------------------
def _said_of(halves: tuple[Inputs, Inputs]) -> dict[str, Json]:
    """What the track says of itself, which is the same for every model."""
    seen, measured = halves
    return {
        "task": str(seen.data.about.get("task", "own data")), "metric": name_of(seen.metric),
        "corruption": name_of(seen.corruption), "examples": len(seen.data),
        "in_sample": is_in_sample(seen, measured),
    }  # fmt: skip


def _packed(said: Mapping[str, Json], values: np.ndarray) -> Block:
    text = json.dumps(said, sort_keys=True)
    return {"said": np.frombuffer(text.encode(), np.uint8), "values": values}


def unpacked(block: Mapping[str, np.ndarray]) -> Found | None:
    """What a block holds; None where it is of another version."""
    try:
        said = json_in(block["said"])
        text, wiring = said.get("circuit"), Wiring.from_dict(said["wiring"])
        circuit = None if text is None else from_json(text)
        return Found(wiring, said, circuit, block["values"])
    except (AttributeError, CircuitkitError, KeyError, TypeError):
        return None


def named(data: Data) -> str:
    """What tells prompts from others before a model reads them: a task's name, or a digest."""
    if isinstance(data, Dataset):
        return fingerprint(data)
    if not isinstance(data, str | os.PathLike):
        return digest(repr(data.prompts if isinstance(data, Task) else [*data]))
    path = file_of(os.fspath(data))
    return os.fspath(data) + (digest(_pieces(Path(path))) if path else "")


def key_of(source: ModelLike) -> str:
    """What a model's block is called: by its name or path, and what is in its files; of one in
    memory by its weights."""
    if not isinstance(source, str | os.PathLike):
        return digest([source.name, source.wiring.to_dict(), weights(source)])
    place = Path(source)
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    there = [file for file in files if file.is_file() and file.suffix in OF_MODELS]
    return digest([os.fspath(source), [[file.name, _pieces(file)] for file in there]])


def _pieces(path: Path) -> str:
    """A hash of a file's size and of evenly spaced pieces of it: all of a small one. A model's file
    may be large, and other weights differ everywhere."""
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            found.update(str(size).encode())
            for number in range(PIECES):
                file.seek(max(0, size - PIECE) * number // (PIECES - 1))
                found.update(file.read(PIECE))
    except OSError:  # the model says so when it is loaded
        return ""
    return found.hexdigest()
