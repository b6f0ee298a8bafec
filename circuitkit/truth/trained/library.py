"""Causal models to train for, each in a few lines of ``rasp``."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from circuitkit.truth.rasp.language import (
    Aggregate,
    Map,
    Op,
    Select,
    SequenceMap,
    indices,
    tokens,
)
from circuitkit.truth.trained.causal import Causal

__all__ = ["causal_models"]

LETTERS, DIGITS = "abcdefgh", "01234567"
NAMES = ("mary", "john", "anne", "bob", "carl", "dora")


def causal_models() -> dict[str, Callable[[], Causal]]:
    """Every causal model by its name, as a function that makes it and whose docstring says what it
    computes."""
    return {"recall": _recall, "indirect_object": _indirect_object}


def _same(key: object, query: object) -> bool:
    return key == query


def _back(by: int, of: Op = tokens) -> Op:
    """The value so many words before."""
    return Aggregate(Select(indices, indices, lambda key, query: key == query - by), of)


def _recall() -> Causal:
    """Of pairs of a key and a value, the value of the key that is asked for."""
    key = _back(1)
    value = Aggregate(Select(key, tokens, _same), tokens)
    return Causal(
        "recall", (*LETTERS, *DIGITS), lambda r: _pairs(r, 3), {"key": key, "value": value},
        {"value": 1}, source="Olsson et al. 2022, arXiv:2209.11895",
    )  # fmt: skip


def _pairs(rng: Random, n: int) -> list[str]:
    keys, values = rng.sample(LETTERS, n), rng.choices(DIGITS, k=n)
    return [word for pair in zip(keys, values, strict=True) for word in pair] + [rng.choice(keys)]


def _indirect_object() -> Causal:
    """Of two names the one that is not repeated."""
    seen = SequenceMap(lambda word, at: (word, at), tokens, indices)  # read as it stands
    earlier = Select(seen, seen, lambda key, query: key[0] == query[0] and key[1] < query[1])
    before = Aggregate(earlier, Map(lambda word: word in NAMES, tokens))
    twice = Select(before, tokens, lambda key, query: key and query == "to")
    subject = Aggregate(twice, tokens)
    movers = Select(tokens, subject, lambda key, query: key in NAMES and key != query)
    return Causal(
        "indirect_object", (*NAMES, "and", "met", "gave", "to"), _sentence,
        {"before": before, "subject": subject, "mover": Aggregate(movers, tokens)},
        {"mover": 1}, source="Wang et al. 2022, arXiv:2211.00593",
    )  # fmt: skip


def _sentence(rng: Random) -> list[str]:
    pair = rng.sample(NAMES, 2)
    return [pair[0], "and", pair[1], "met", rng.choice(pair), "gave", "to"]
