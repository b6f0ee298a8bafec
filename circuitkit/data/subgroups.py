"""What prompts have in common: the order of the answers, the template, the length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.errors import ArgumentError
from circuitkit.util.naming import unknown

__all__ = ["BY", "By", "labelled", "length", "named", "order", "template", "text"]

By: TypeAlias = str | Callable[[Example], str]

BY = ("order", "template", "length")
GAP = "…"  # in the place of a span's words


def labelled(data: Dataset, by: By) -> dict[str, Int[np.ndarray, " some"]]:
    """The places of the examples of each group, by its label, in the order in which they come.

    ``order`` is that in which the answers occur in the prompt, by the names of their spans;
    ``template`` the text around its spans; ``length`` the number of tokens. A function says the
    label of an example. Raises ArgumentError for another name.
    """
    if isinstance(by, str) and by not in BY:
        raise ArgumentError(unknown("way to group prompts", by, BY))
    labels = [str(by(one)) if callable(by) else _label(data, one, by) for one in data.examples]
    return {label: np.flatnonzero(np.array(labels) == label) for label in dict.fromkeys(labels)}


def _label(data: Dataset, example: Example, by: str) -> str:
    """The label of an example by one of ``BY``."""
    if by == "length":
        return length(example)
    return template(data, example) if by == "template" else order(example) or "no answer in it"


def length(example: Example) -> str:
    """How many tokens the prompt has."""
    return f"{len(example.clean)} tokens"


def order(example: Example) -> str:
    """The answers in the prompt, in their order: by the span that is one, else by what they are;
    empty if there are none."""
    spans = {start: name for start, stop, name in named(example) if stop == start + 1}
    kinds = dict.fromkeys(example.wrong, "wrong") | dict.fromkeys(example.correct, "correct")
    held = [(place, kinds[token]) for place, token in enumerate(example.clean) if token in kinds]
    return " ".join(spans.get(place, kind) for place, kind in held)


def template(data: Dataset, example: Example) -> str:
    """The text with a gap for each span; without a tokenizer the token ids."""
    parts, at = list[str](), 0
    for start, stop, _ in named(example):
        if start >= at:
            parts += [text(data, example.clean[at:start]), GAP]
        at = max(at, stop)
    return " ".join([*parts, text(data, example.clean[at:])]).strip()


def named(example: Example) -> list[tuple[int, int, str]]:
    """The start, end and name of each span, in order, without those that are named by their place
    (``end``, ``S1+1``)."""
    spans = example.spans.items()
    return sorted((*own, name) for name, own in spans if name != "end" and "+" not in name)


def text(data: Dataset, ids: Sequence[int]) -> str:
    """Tokens as text; without a tokenizer their ids."""
    if data.tokenizer is None:
        return " ".join(map(str, ids))
    return data.tokenizer.decode(list(ids)).strip()
