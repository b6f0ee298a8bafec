"""What the tasks share: words that are single tokens, and different prompts made of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from circuitkit.data.prompts import Prompt
from circuitkit.data.tokens import TokenizerView
from circuitkit.errors import DataError

__all__ = ["distinct", "pool", "single"]


def distinct(
    task: str, n: int, seed: int, draw: Callable[[random.Random], Prompt]
) -> tuple[Prompt, ...]:
    """The first ``n`` prompts with different clean texts that ``draw`` makes; a larger ``n``
    continues where a smaller one stopped.

    Raises DataError if ``n`` is below 1, or if there are fewer different prompts.
    """
    if n < 1:
        raise DataError(f"{task} cannot make {n} prompts; ask for at least 1")
    rng = random.Random(seed)
    found: dict[str, Prompt] = {}
    repeated = 0
    while len(found) < n:
        prompt = draw(rng)
        repeated = repeated + 1 if prompt.clean in found else 0
        # With k of k + 1 equally likely prompts found, the last one is missed with chance e^-20.
        if repeated > 1000 + 20 * len(found):
            raise DataError(
                f"{task} makes only {len(found)} different prompts with this tokenizer, "
                f"not {n}; ask for fewer"
            )
        found.setdefault(prompt.clean, prompt)
    return tuple(found.values())


def single(
    words: TokenizerView, task: str, kind: str, among: Sequence[str], at_least: int
) -> list[str]:
    """The words, given without a space, that are one token after a space.

    Raises TaskFitError if they are fewer than ``at_least``.
    """
    fit = words.require(task, kind, [f" {word}" for word in among], at_least)
    return [word.removeprefix(" ") for word in fit]


def pool(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())
