"""Trained models in files: fp16 weights, prompts with their answers, and what is known of them.

A file is one of safetensors, and says everything by itself: nothing in it is executed, and no
causal model is needed to read it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.errors import CircuitkitError, DataError, ModelError
from circuitkit.graph.nodes import edge_name, parse_edge
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.models.checking import check
from circuitkit.models.decoder import Spaced
from circuitkit.models.transformer_lens import Transformer, from_module
from circuitkit.truth.trained.shapes import Shape
from circuitkit.util.atomic import write_whole
from circuitkit.util.json_values import Json
from circuitkit.util.notes import in_one_note, notes_of
from circuitkit.util.reading import parse_json, require_file

__all__ = ["SUFFIX", "Pairs", "Trained", "assemble", "digest", "load"]

SUFFIX = ".trained"
FORMAT = "circuitkit.trained"
VERSION = "1"
MOST = 2**26  # bytes of a file
WEIGHTS = "weights."
PROMPTS = ("prompts", "near", "answers", "near_answers")


@dataclass(frozen=True)
class Pairs:
    """Prompts in tokens [n, p], for each the one nearest to it that has another answer, and the
    tokens of the answers of both [n]."""

    prompts: Int[Tensor, "n p"]
    near: Int[Tensor, "n p"]
    answers: Int[Tensor, " n"]
    near_answers: Int[Tensor, " n"]


@dataclass(frozen=True, eq=False)
class Trained:
    """A transformer that was trained to be a causal model, edge by edge.

    Attributes:
        name: The causal model, the family and the seed.
        model: The transformer.
        mapped: The edges that the causal model's are, [writers, readers].
        constant: Those of them through which the same is read in every prompt: positions alone.
        components: Which component computes each part of the causal model.
        about: What was measured when it was accepted, and what the training cost.
        pairs: The prompts.
        shape: The sizes of the transformer.
        weights: Its weights by name, in fp16.

    Example:
        >>> from circuitkit.truth import trained
        >>> one = trained.load("benchmarks/trained/recall-gpt2-0.trained")  # doctest: +SKIP
        >>> one.data(8)  # doctest: +SKIP
    """

    name: str
    model: Transformer
    mapped: Mask
    constant: Mask
    components: Mapping[str, str]
    about: Mapping[str, Json]
    pairs: Pairs
    shape: Shape
    weights: Mapping[str, Tensor]

    def __repr__(self) -> str:
        return (
            f"{self.name}: {len(self.components)} parts, {int(self.mapped.sum())} of "
            f"{self.model.wiring.n_edges:,} edges are mapped"
        )

    def data(
        self,
        n: int = 64,
        seed: int = 0,
        *,
        pairs: Literal["other", "near"] = "other",
        batch_size: int = 64,
    ) -> Dataset:
        """Different prompts, each with a corrupted one that has another answer, which is the wrong
        one.

        Args:
            n: How many prompts.
            seed: Which.
            pairs: ``other``: the corrupted prompt is another prompt, so that every edge of the
                causal model may matter; ``near``: the one that differs in the fewest words.
            batch_size: How many examples a batch has.

        Raises:
            DataError: if there are fewer prompts.
        """
        own, rng = self.pairs, Random(seed)
        if not 1 <= n <= len(own.prompts):
            raise DataError(
                f"{self.name!r} has {len(own.prompts):,} prompts; give n from 1 to that, not {n}"
            )
        examples = []
        for i in rng.sample(range(len(own.prompts)), n):
            if pairs == "near":
                corrupt, wrong = own.near[i], own.near_answers[i]
            else:
                fit = (own.answers != own.answers[i]).nonzero()[:, 0].tolist()
                other = rng.choice(fit)
                corrupt, wrong = own.prompts[other], own.answers[other]
            clean = tuple(own.prompts[i].tolist())
            end = {"end": (len(clean) - 1, len(clean))}
            examples.append(
                Example(clean, tuple(corrupt.tolist()), (int(own.answers[i]),), (int(wrong),), end)
            )
        about = {"task": self.name, "metric": "logit_diff", "seed": seed}
        return Dataset(
            tuple(examples), batch_size=batch_size, about=about, tokenizer=self.model.tokenizer
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as one file, whole or not at all; the weights are rounded to fp16. Raises
        OutputError."""
        from safetensors.torch import save

        wiring, words = self.model.wiring, self.model.tokenizer
        about = {
            "name": self.name, "shape": asdict(self.shape), "components": dict(self.components),
            "words": list(words.words) if isinstance(words, Spaced) else [],
            "mapped": _named(self.mapped, wiring), "constant": _named(self.constant, wiring),
            "about": dict(self.about),
        }  # fmt: skip
        tensors = {name: getattr(self.pairs, name).to(torch.uint8) for name in PROMPTS}
        tensors |= {WEIGHTS + key: value.contiguous() for key, value in self.weights.items()}
        said = json.dumps(about)
        notes = {"format": FORMAT, "version": VERSION, "about": said}
        notes["digest"] = digest(said, tensors)
        return write_whole(path, save(tensors, metadata=in_one_note(notes)))


def load(path: str | os.PathLike[str]) -> Trained:
    """The trained model in a file, in float32 on the CPU.

    Raises ModelError where the file does not hold one.

    Example:
        >>> from circuitkit.truth import trained
        >>> trained.load("benchmarks/trained/recall-gpt2-0.trained")  # doctest: +SKIP
    """
    from safetensors import SafetensorError, safe_open

    name = repr(os.fspath(path))
    try:
        require_file(path, MOST)
        with safe_open(os.fspath(path), framework="pt") as file:
            notes = notes_of(file.metadata())
            if (notes.get("format"), notes.get("version")) != (FORMAT, VERSION):
                raise ModelError(f"{name} is not a file of {FORMAT}, version {VERSION}")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        said = str(notes["about"])
        if notes.get("digest") != digest(said, tensors):
            raise CircuitkitError("its content is not what was saved")
        return _read(parse_json(said), tensors)
    except FileNotFoundError as error:
        raise ModelError(f"there is no file {name}; save a trained model there") from error
    except (SafetensorError, OSError, KeyError, CircuitkitError) as error:
        raise ModelError(
            f"{name} does not hold a trained model ({error}); save it again"
        ) from error


def digest(about: str, tensors: Mapping[str, Tensor]) -> str:
    """What changes with anything in a file."""
    found = hashlib.sha256(about.encode("utf-8", "backslashreplace"))
    for key, value in sorted(tensors.items()):
        found.update(repr((key, value.dtype, tuple(value.shape))).encode("utf-8", "replace"))
        found.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _read(about: Any, tensors: Mapping[str, Tensor]) -> Trained:
    """The parts of a file; raises CircuitkitError where they do not fit one another."""
    if not isinstance(about, dict):
        raise CircuitkitError("it does not say what it is")
    sizes, words = _mapping(about, "shape"), _texts(about, "words")
    if sorted(sizes) != sorted(one.name for one in fields(Shape)):
        raise CircuitkitError("its shape lacks a size, or has one too many")
    shape, title = Shape(**sizes), about.get("name")
    if not isinstance(title, str) or len(words) != shape.vocab or len(set(words)) < len(words):
        raise CircuitkitError("its name is not a text, or its words are not those of its shape")
    components = _mapping(about, "components")
    weights = {
        key.removeprefix(WEIGHTS): value
        for key, value in tensors.items()
        if key.startswith(WEIGHTS)
    }
    return assemble(
        title, shape, weights, words,
        mapped=_mask(_texts(about, "mapped"), shape.wiring),
        constant=_mask(_texts(about, "constant"), shape.wiring),
        components={str(key): str(value) for key, value in components.items()},
        about=_mapping(about, "about"), pairs=_prompts(tensors, shape),
    )  # fmt: skip


def assemble(
    name: str,
    shape: Shape,
    weights: Mapping[str, Tensor],
    words: Sequence[str],
    **known: Json,
) -> Trained:
    """A trained model of its weights, rounded to fp16, and of what is known of it.

    Raises ModelError where the weights are not those of the shape, or not finite.
    """
    with torch.random.fork_rng(devices=[]):
        module = shape.build()
    own = module.state_dict()
    kept = {key: value.half() for key, value in weights.items()}
    wrong = [key for key in {**own, **kept} if key not in own or key not in kept]
    wrong += [key for key in kept if key in own and kept[key].shape != own[key].shape]
    if wrong:
        raise ModelError(f"the weight {wrong[0]!r} does not fit the shape {shape}")
    for key, value in kept.items():
        if not weights[key].is_floating_point() or not bool(value.isfinite().all()):
            raise ModelError(f"the weight {key!r} holds what is not a finite number of fp16")
    module.load_state_dict({key: value.float() for key, value in kept.items()})
    model = from_module(module.float(), tokenizer=Spaced(tuple(words)), name=name)
    check(model).require()
    return Trained(name, model, shape=shape, weights=kept, **known)


def _named(mask: Mask, wiring: Wiring) -> list[str]:
    """The edges of a mask by name."""
    return [edge_name(wiring.writers[i], wiring.readers[j]) for i, j in np.argwhere(mask)]


def _mask(names: Iterable[str], wiring: Wiring) -> Mask:
    """The mask of edges; raises CircuitError and NodeNameError."""
    found = np.zeros(wiring.shape, dtype=bool)
    for name in names:
        found[wiring.index(*parse_edge(name))] = True
    return found


def _mapping(about: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = about.get(key)
    if not isinstance(found, dict):
        raise CircuitkitError(f"its {key!r} is not a mapping")
    return found


def _texts(about: Mapping[str, Any], key: str) -> list[str]:
    found = about.get(key)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise CircuitkitError(f"its {key!r} are not texts")
    return found


def _prompts(tensors: Mapping[str, Tensor], shape: Shape) -> Pairs:
    """The prompts in a file; raises CircuitkitError where they are not those of the shape."""
    found = {name: tensors[name] for name in PROMPTS}
    n, p = found["prompts"].shape if found["prompts"].ndim == 2 else (0, 0)
    for name, value in found.items():
        whole = value.dtype == torch.uint8 and value.shape == ((n, p) if value.ndim == 2 else (n,))
        if not whole or not n or not 1 < p <= shape.context or int(value.max()) >= shape.vocab:
            raise CircuitkitError(f"its {name!r} do not fit the shape {shape}")
        if (value.ndim == 2) != (name in ("prompts", "near")):
            raise CircuitkitError(f"its {name!r} have the wrong axes")
    pairs = Pairs(**{name: value.long() for name, value in found.items()})
    if len(set(pairs.answers.tolist())) < 2 or bool((pairs.answers == pairs.near_answers).any()):
        raise CircuitkitError("a prompt of it has no partner with another answer")
    return pairs
