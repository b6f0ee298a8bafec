"""Groups of prompts that are alike: in the order of the answers, the template, or the length."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.errors import ArgumentError
from circuitkit.util.naming import unknown

__all__ = ["BY", "By", "labelled"]

By: TypeAlias = str | Callable[[Example], str]

BY = ("order", "template", "length")


def labelled(data: Dataset, by: By) -> dict[str, Int[np.ndarray, " some"]]:
    """The places of the examples of each group, by its label, in the order in which they come.

    ``order`` is that in which the answers stand in the prompt, by the names of their spans;
    ``template`` the text around its spans; ``length`` the number of tokens. A function says the
    label of an example. Raises ArgumentError for another name.
    """
    if isinstance(by, str) and by not in BY:
        raise ArgumentError(unknown("way to group prompts", by, BY))
    labels = [str(by(one)) if callable(by) else _label(data, one, by) for one in data.examples]
    return {label: np.flatnonzero(np.array(labels) == label) for label in dict.fromkeys(labels)}


def _label(data: Dataset, example: Example, by: str) -> str:
    if by == "length":
        return f"{len(example.clean)} tokens"
    if by == "template":
        return _template(data, example)
    return " ".join(_answers(example)) or "no answer in it"


def _answers(example: Example) -> list[str]:
    """The answers in the prompt, in their order: by the span that is one, else by what they are."""
    spans = {start: name for name, (start, stop) in example.spans.items() if stop == start + 1}
    kinds = dict.fromkeys(example.wrong, "wrong") | dict.fromkeys(example.correct, "correct")
    return [
        spans.get(place, kinds[token])
        for place, token in enumerate(example.clean)
        if token in kinds
    ]


def _template(data: Dataset, example: Example) -> str:
    """The text with a gap for each of its spans, but not for those that are called by their place
    (``end``, ``S1+1``); without a tokenizer the token ids."""
    named = (own for name, own in example.spans.items() if name != "end" and "+" not in name)
    held = {place for start, stop in named for place in range(start, stop)}
    parts: list[list[int]] = [[]]
    for place, token in enumerate(example.clean):
        if place not in held:
            parts[-1].append(token)
        elif parts[-1]:
            parts.append([])
    words = data.tokenizer
    if words is None:
        return " … ".join(" ".join(map(str, part)) for part in parts)
    return " … ".join(words.decode(part).strip() for part in parts)
