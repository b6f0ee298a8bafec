"""Calculating with two numbers (Stolfo et al. 2023)."""

from __future__ import annotations

import operator
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from circuitkit.data.prompts import Prompt, Task, compose
from circuitkit.data.tokens import TokenizerView, Tokenizing, view
from circuitkit.errors import DataError, TaskFitError
from circuitkit.tasks._draw import distinct
from circuitkit.util.options import Count, Seed, checked

__all__ = ["arithmetic"]

TEMPLATES = (
    "Q: What is {first} {operator} {second}? A:",
    "Q: {first} {operator:sign} {second} =",
    "The result of {first} {operator} {second} is",
    "We know that {first} {operator} {second} equals",
    "If you compute {first} {operator} {second}, you get",
)
OPERATORS: Mapping[str, tuple[str, Callable[[int, int], int]]] = {
    "plus": ("+", operator.add),
    "minus": ("-", operator.sub),
    "times": ("*", operator.mul),
}
LARGEST = 99
Sum: TypeAlias = tuple[int, int, int]  # the operands and the answer


@checked
def arithmetic(
    words: Tokenizing,
    n: Count = 100,
    seed: Seed = 0,
    *,
    operators: Sequence[Literal["plus", "minus", "times"]] = ("plus", "minus", "times"),
) -> Task:
    """Arithmetic: "Q: What is 23 plus 14? A:" -> " 37".

    Operands (from 1) and answers are numbers up to 99 that are single tokens: " 37" or, if the
    tokenizer makes the space before a number a token of its own (or knows digits alone), "37"; the
    text then ends in that space. In the corrupted text both operands are different, have as many
    tokens, and have another answer, which is the wrong one. Spans: ``first``, ``operator`` and
    ``second``.

    Args:
        words: The model, or a view of its tokenizer, which decides which words fit.
        n: The number of prompts, all different.
        seed: The seed with which they are drawn.
        operators: Which of ``plus``, ``minus`` and ``times`` the prompts have.

    Returns:
        A ``Task`` with the metric ``logit_diff``.

    Raises:
        TaskFitError: if fewer than ten numbers are single tokens.
        ArgumentError: for an unknown operator.
        DataError: if there are none.

    Source: after Stolfo et al. 2023 (Zhang & Nanda 2024, appendix C).

    Example:
        >>> prompt = ck.tasks.arithmetic(model, n=5, operators=("plus",))[0]
        >>> int(prompt.text("first")) + int(prompt.text("second")) == int(prompt.correct[0])
        True
    """
    if not operators:
        raise DataError(f"arithmetic has no operators; choose from {', '.join(OPERATORS)}")
    tokenizer = view(words)
    gap, numbers = _numbers(tokenizer)
    pools = {name: _pool(tokenizer, numbers, name) for name in operators}

    def draw(rng: random.Random) -> Prompt:
        name, template = rng.choice(operators), rng.choice(TEMPLATES) + gap
        one, peers = rng.choice(pools[name])
        other = rng.choice([peer for peer in peers if _apart(one, peer)])
        (clean, spans), (corrupt, _) = (compose(template, _slots(name, s)) for s in (one, other))
        right, wrong = (f" {s[-1]}".removeprefix(gap) for s in (one, other))
        return Prompt(clean, corrupt, (right,), (wrong,), spans)

    prompts = distinct("arithmetic", n, seed, draw)
    settings = {"n": n, "seed": seed, "operators": tuple(operators)}
    source = "Stolfo et al. 2023, arXiv:2305.15054"
    return Task("arithmetic", prompts, "logit_diff", source, settings)


def _numbers(words: TokenizerView) -> tuple[str, list[int]]:
    """What the text ends in so that one more token is the answer (nothing, or a space), and the
    numbers that are such a token."""
    every = [f" {number}" for number in range(LARGEST + 1)]
    fits = {
        gap: words.fitting([word.removeprefix(gap) for word in every], after=f"a{gap}")
        for gap in ("", " ")
    }
    gap = max(fits, key=lambda gap: len(fits[gap]))
    if len(fits[gap]) < 10:
        raise TaskFitError(
            f"arithmetic needs 10 numbers that are one token each, but with this tokenizer only "
            f"{len(fits[gap])} of 0 to {LARGEST} are, with the space before them or after it; "
            "use another task or another model"
        )
    return gap, [int(number) for number in fits[gap]]


def _pool(words: TokenizerView, numbers: Sequence[int], name: str) -> list[tuple[Sum, list[Sum]]]:
    """Each sum of these numbers that can be corrupted, with all sums whose operands have as many
    tokens."""
    texts = words.ids([f"a {number}" for number in numbers])
    length = {number: len(ids) for number, ids in zip(numbers, texts, strict=True)}
    alike: dict[tuple[int, int], list[Sum]] = defaultdict(list)
    for first in filter(None, numbers):
        for second in filter(None, numbers):
            answer = OPERATORS[name][1](first, second)
            if answer in length:
                alike[length[first], length[second]].append((first, second, answer))
    return [
        (one, peers)
        for peers in alike.values()
        for one in peers
        if any(_apart(one, peer) for peer in peers)
    ]


def _apart(one: Sum, other: Sum) -> bool:
    """Whether both operands differ, and the answers."""
    return all(mine != theirs for mine, theirs in zip(one, other, strict=True))


def _slots(name: str, numbers: Sum) -> dict[str, str]:
    first, second, _ = map(str, numbers)
    return {"first": first, "second": second, "operator": name, "sign": OPERATORS[name][0]}
