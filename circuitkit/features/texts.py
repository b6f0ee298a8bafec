"""The tokens that dictionaries are trained and looked at on: of tasks, files of text, and data
sets of the hub.

A source is a task's name, a file of prompts, a file of plain text (``.txt``, ``.md``), or
``hub:NAME`` of the Hugging Face hub (``hub:NAME:SPLIT:COLUMN``). Of prompts the clean and the
corrupted text are taken; texts are cut into stretches of one length.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuitkit.data.batches import Dataset
from circuitkit.data.tasks import make_task
from circuitkit.data.tokens import view
from circuitkit.engine.model import Model
from circuitkit.errors import DataError

__all__ = ["TEXTS", "Texts", "padded", "read_texts"]

TEXTS = (".txt", ".md")
HUB = "hub:"
HELD = 10  # one text in so many is held out

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Texts:
    """Texts of one source in tokens: those to train on, and those that are held out. A prompt and
    its corrupted text are on the same side."""

    name: str
    seen: tuple[Tokens, ...]
    held: tuple[Tokens, ...]


def read_texts(
    model: Model, source: str, *, examples: int = 1000, length: int = 128, seed: int = 0
) -> Texts:
    """The texts of a source.

    Args:
        model: The model whose tokenizer is used.
        source: A task, a file of prompts or of plain text, or ``hub:NAME``.
        examples: How many prompts of a task, or stretches of a text, at most.
        length: The tokens of a stretch of text.
        seed: Of the prompts, and of which texts are held out.

    Raises:
        DataError: where the source has no text, or cannot be read.
    """
    if source.startswith(HUB):
        groups = _stretches(model, _hub(source), examples, length)
    elif Path(source).suffix.lower() in TEXTS:
        groups = _stretches(model, _file(source), examples, length)
    else:
        data = Dataset.of(make_task(source, model, n=examples, seed=seed), model)
        pairs = ({one.clean, *([one.corrupt] if one.corrupt else [])} for one in data.examples)
        groups = [tuple(sorted(pair)) for pair in pairs]
    mixed = list(dict.fromkeys(groups))
    random.Random(seed).shuffle(mixed)
    kept = max(1, len(mixed) // HELD)
    if len(mixed) < 2:
        raise DataError(f"{source!r} has {len(mixed)} texts; give more, of which some are held out")
    seen, held = _flat(mixed[kept:]), _flat(mixed[:kept])
    among = set(seen)
    return Texts(source, seen, tuple(one for one in held if one not in among) or held)


def _flat(groups: Iterable[Sequence[Tokens]]) -> tuple[Tokens, ...]:
    return tuple(dict.fromkeys(text for group in groups for text in group))


def _stretches(
    model: Model, texts: Iterable[str], examples: int, length: int
) -> list[tuple[Tokens, ...]]:
    """The texts in stretches of one length, each behind what the tokenizer puts in front; a last
    stretch of fewer than 8 tokens is left out."""
    words = view(model)
    found: list[tuple[Tokens, ...]] = []
    for text in texts:
        ids = words.ids([text])[0]
        opening = len(words.ids([""])[0])
        head, body = ids[:opening], ids[opening:]
        step = max(length - opening, 1)
        for start in range(0, len(body), step):
            part = (*head, *body[start : start + step])
            if len(part) >= min(8, length):
                found.append((part,))
        if len(found) >= examples:
            break
    return found[:examples]


def _file(name: str) -> Iterator[str]:
    try:
        yield Path(name).read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{name!r} cannot be read as text ({error})") from error


def _hub(source: str) -> Iterator[str]:
    """The texts of a data set, one after the other."""
    name, _, rest = source.removeprefix(HUB).partition(":")
    split, _, column = rest.partition(":")
    try:
        import datasets

        rows: Any = datasets.load_dataset(name, split=split or "train", streaming=True)
        for row in rows:
            yield str(row[column or "text"])
    except Exception as error:  # of the library, the network, or a column that is not there
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(
            f"the data set {name!r} cannot be read ({reason}); write hub:NAME:SPLIT:COLUMN, or "
            "give a file"
        ) from error


def padded(
    texts: Sequence[Tokens], batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[list[int], Int[Tensor, "b p"], Bool[Tensor, "b p"]]]:
    """The texts in batches of like lengths, padded on the right: the numbers of the texts, their
    tokens, and where there are any."""
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        longest = max(len(texts[i]) for i in chosen)
        tokens = torch.zeros(len(chosen), longest, dtype=torch.long)
        mask = torch.zeros(len(chosen), longest, dtype=torch.bool)
        for row, i in enumerate(chosen):
            tokens[row, : len(texts[i])] = torch.tensor(texts[i])
            mask[row, : len(texts[i])] = True
        yield chosen, tokens.to(device), mask.to(device)
