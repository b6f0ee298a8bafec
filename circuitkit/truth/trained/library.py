"""Causal models to train for, each in a few lines of ``rasp``.

All prompts of one have the same number of words, and are drawn such that the answers vary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from random import Random

from circuitkit.truth.rasp.language import (
    Aggregate,
    Map,
    Op,
    Otherwise,
    Select,
    SequenceMap,
    indices,
    tokens,
)
from circuitkit.truth.trained.causal import Causal

__all__ = ["causal_models"]

LETTERS, DIGITS, ENDS = "abcdefgh", "01234567", "wxyz"
NAMES = ("mary", "john", "anne", "bob", "carl", "dora")
FILLERS = ("and", "met", "gave", "then", "when")
PLACES = ("first", "second", "third", "fourth")
INDUCTION = "Olsson et al. 2022, arXiv:2209.11895"
IOI = "Wang et al. 2023, arXiv:2211.00593"


def causal_models() -> dict[str, Callable[[], Causal]]:
    """Every causal model by its name, as a function that makes it and whose docstring says what it
    computes.

    Example:
        >>> from circuitkit.truth import trained
        >>> trained.causal_models()["recall"]()
        recall: 2 parts, 7 edges
    """
    return {
        "recall": _recall,
        "indirect_object": _indirect_object,
        "backup": _backup,
        "negative": _negative,
        "one_of_two": _one_of_two,
        "majority": _majority,
        "successor": _successor,
        "modular_sum": _modular_sum,
        "two_hops": _two_hops,
        "pointer": _pointer,
        "agreement": _agreement,
        "parity": _parity,
        "polarity": _polarity,
        "priority": _priority,
    }


# -- parts -----------------------------------------------------------------------------------------
def _same(key: object, query: object) -> bool:
    return key == query


def _back(by: int) -> Op:
    """The word so many words before."""
    return Aggregate(Select(indices, indices, lambda key, query: key == query - by), tokens)


def _follows(key: Op) -> Op:
    """The word behind the earlier occurrence of the last word."""
    return Aggregate(Select(key, tokens, _same), tokens)


def _somewhere(words: str | tuple[str, ...]) -> Op:
    """Which of the words stands anywhere."""
    return Aggregate(Select(tokens, indices, lambda key, query: key in words), tokens)


# -- recall ----------------------------------------------------------------------------------------
def _recall() -> Causal:
    """Of pairs of a key and a value, the value of the key that is asked for."""
    key = _back(1)
    parts = {"key": key, "value": _follows(key)}
    return Causal("recall", (*LETTERS, *DIGITS), _pairs, parts, {"value": 1}, INDUCTION)


def _pairs(rng: Random, letters: str = LETTERS, digits: str = DIGITS) -> list[str]:
    keys, values = rng.sample(letters, 3), rng.choices(digits, k=3)
    return [word for pair in zip(keys, values, strict=True) for word in pair] + [rng.choice(keys)]


def _successor() -> Causal:
    """The same, and an MLP counts on from the value."""
    key = _back(1)
    value = _follows(key)
    after = Map(lambda word: str((int(word) + 1) % 8) if word in DIGITS else None, value)
    parts = {"key": key, "value": value, "after": after}
    return Causal("successor", (*LETTERS, *DIGITS), _pairs, parts, {"after": 1}, INDUCTION)


def _majority() -> Causal:
    """The same by three heads that vote: none is necessary, any two are enough."""
    key = _back(1)
    voters = {f"value {i}": _follows(key) for i in range(3)}
    votes = dict.fromkeys(voters, 0.5)
    return Causal("majority", (*LETTERS, *DIGITS), _pairs, {"key": key, **voters}, votes, INDUCTION)


def _backup() -> Causal:
    """The same by one head, and an MLP that says the value of a spare head where the first is
    wrong."""
    key = _back(1)
    value, spare = _follows(key), _follows(key)
    rescue = SequenceMap(lambda x, y: y if x != y else None, value, spare)
    parts = {"key": key, "value": value, "spare": spare, "rescue": rescue}
    votes = {"value": 1, "rescue": 2}
    few = LETTERS[:5], DIGITS[:4]
    draw = partial(_pairs, letters=few[0], digits=few[1])
    return Causal("backup", (*few[0], *few[1]), draw, parts, votes, IOI)


def _negative() -> Causal:
    """The same by a head whose answer a negative head takes back by half."""
    key = _back(1)
    parts = {"key": key, "value": _follows(key), "negative": _follows(key)}
    votes = {"value": 2, "negative": -1}
    return Causal("negative", (*LETTERS, *DIGITS), _pairs, parts, votes, IOI)


def _two_hops() -> Causal:
    """Letters point at digits, and digits at the answer."""
    key = _back(1)
    marked = SequenceMap(lambda before, word: (before, word), key, tokens)
    first = Select(marked, tokens, lambda key, at: key[0] == at and key[1] in DIGITS)
    hop = Aggregate(first, tokens)
    second = Select(marked, hop, lambda key, at: key[0] == at and key[1] in ENDS)
    parts = {"key": key, "hop": hop, "end": Aggregate(second, tokens)}
    return Causal("two_hops", (*LETTERS, *DIGITS, *ENDS), _chains, parts, {"end": 1}, INDUCTION)


def _chains(rng: Random) -> list[str]:
    keys, middle, ends = rng.sample(LETTERS, 2), rng.sample(DIGITS, 2), rng.sample(ENDS, 2)
    pairs = [*zip(keys, middle, strict=True), *zip(middle, ends, strict=True)]
    rng.shuffle(pairs)
    return [word for pair in pairs for word in pair] + [rng.choice(keys)]


# -- names -----------------------------------------------------------------------------------------
def _indirect_object() -> Causal:
    """Of two names the one that is not repeated: S-inhibition tells the name mover which is."""
    before, subject = _subject()
    parts = {"before": before, "subject": subject, "mover": _mover(subject)}
    return Causal("indirect_object", (*NAMES, *FILLERS, "to"), _sentence, parts, {"mover": 1}, IOI)


def _subject() -> tuple[Op, Op]:
    """Whether a word stood before, and the name that did."""
    placed = SequenceMap(lambda word, at: (word, at), tokens, indices)
    earlier = Select(placed, placed, lambda key, at: key[0] == at[0] and key[1] < at[1])
    before = Aggregate(earlier, Map(lambda word: word in NAMES, tokens))
    return before, Aggregate(Select(before, indices, lambda key, _: key), tokens)


def _mover(subject: Op) -> Op:
    names = Select(tokens, subject, lambda key, at: key in NAMES and key != at)
    return Aggregate(names, tokens)


def _sentence(rng: Random) -> list[str]:
    pair, words = rng.sample(NAMES, 2), rng.sample(FILLERS, 3)
    told = [*pair, rng.choice(pair)]
    for place in sorted(rng.sample(range(6), 3)):
        words.insert(place, told.pop(0))
    return [*words, "to"]


# -- two heads and an MLP --------------------------------------------------------------------------
def _two(name: str, one: Op, two: Op, function: Callable[[str, str], str | None],
         words: str, draw: Callable[[Random], list[str]]) -> Causal:  # fmt: skip
    parts = {"one": one, "two": two, "both": SequenceMap(function, one, two)}
    return Causal(name, words, draw, parts, {"both": 1})


def _one_of_two() -> Causal:
    """Whether the first word or the one before the last is an a: an OR."""
    first = Aggregate(Select(indices, indices, lambda key, query: key == 0), tokens)
    return _two("one_of_two", first, _back(1), lambda x, y: "yes" if "a" in (x, y) else "no",
                "abcd", _biased)  # fmt: skip


def _biased(rng: Random) -> list[str]:
    words = rng.choices("abcd", k=6)
    return ["a" if i in (0, 4) and rng.random() < 0.25 else word for i, word in enumerate(words)]


def _agreement() -> Causal:
    """Whether the word before the last is that two words before it."""
    return _two("agreement", _back(1), _back(3), lambda x, y: "yes" if x == y else "no",
                "abcdef", _repeating)  # fmt: skip


def _repeating(rng: Random) -> list[str]:
    words = rng.choices("abcdef", k=7)
    return [words[3] if i == 5 and rng.random() < 0.5 else word for i, word in enumerate(words)]


def _parity() -> Causal:
    """Whether one, but not both, of the two words before the last are vowels: an XOR."""
    return _two("parity", _back(1), _back(2),
                lambda x, y: "odd" if (x in "aeiou") != (y in "aeiou") else "even",
                "aeioubcdfg", lambda rng: rng.choices("aeioubcdfg", k=6))  # fmt: skip


def _modular_sum() -> Causal:
    """The sum of the last two digits modulo 6."""
    before = _back(1)
    total = SequenceMap(lambda x, y: str((int(x) + int(y)) % 6), tokens, before)
    return Causal("modular_sum", "012345", lambda rng: rng.choices("012345", k=5),
                  {"before": before, "sum": total}, {"sum": 1})  # fmt: skip


# -- choosing --------------------------------------------------------------------------------------
def _pointer() -> Causal:
    """The word at the place that the first word names."""
    task = Aggregate(Select(indices, indices, lambda key, query: key == 0), tokens)
    place: Mapping[str, int] = {word: i + 1 for i, word in enumerate(PLACES)}
    there = Select(indices, task, lambda key, query: key == place.get(query))
    parts = {"task": task, "mover": Aggregate(there, tokens)}
    return Causal("pointer", (*PLACES, *LETTERS, "?"), _asking, parts, {"mover": 1})


def _asking(rng: Random) -> list[str]:
    return [rng.choice(PLACES), *rng.choices(LETTERS, k=4), "?"]


def _polarity() -> Causal:
    """The letter before the last word, or the one after it in the alphabet where ``not`` stands
    somewhere."""
    letter, sign = _back(1), _somewhere(("yes", "not"))
    after = dict(zip(LETTERS, LETTERS[1:] + LETTERS[:1], strict=True))
    told = SequenceMap(lambda x, s: {"yes": x, "not": after.get(x)}.get(s), letter, sign)
    parts = {"letter": letter, "sign": sign, "told": told}
    return Causal("polarity", (*LETTERS, "yes", "not", "?"), _signed, parts, {"told": 1})


def _signed(rng: Random) -> list[str]:
    words = rng.choices(LETTERS, k=4)
    words.insert(rng.randrange(4), rng.choice(("yes", "not")))
    return [*words, "?"]


def _priority() -> Causal:
    """The first of the letters a, b and c, in this order, that stands anywhere."""
    found = {letter: _somewhere(letter) for letter in "abc"}
    first = Otherwise(found["a"], Otherwise(found["b"], found["c"]))
    return Causal("priority", "abcdef", _lacking, {**found, "first": first}, {"first": 1})


def _lacking(rng: Random) -> list[str]:
    some = "cdef" + "".join(letter for letter in "ab" if rng.random() < 0.4)
    words = [*rng.choices("def", k=1), "c", *rng.choices(some, k=4)]
    rng.shuffle(words)
    return words
