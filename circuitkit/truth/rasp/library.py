"""Programs for benchmarks; ``programs()`` maps their names to them.

A decoder answers at the last word of a prompt, from the words up to it. Programs with a longer
answer give it word by word after a bar: the words before ``|`` are given, those after it are the
answer so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import permutations, product

from circuitkit.errors import UnknownNameError
from circuitkit.registry import unknown
from circuitkit.truth.rasp.language import (
    Aggregate,
    Map,
    Op,
    Otherwise,
    Select,
    SelectorWidth,
    SequenceMap,
    indices,
    tokens,
)
from circuitkit.truth.rasp.program import Program, Sentence

__all__ = ["either", "named", "programs"]

TRACR = "Lindner et al. 2023, arXiv:2301.05062"
RASP = "Weiss et al. 2021, arXiv:2106.06981"
BAR = "|"


def programs() -> dict[str, Callable[[], Program]]:
    """Every program by its name, as a function that makes it and whose docstring describes it.

    Example:
        >>> programs = ck.rasp.programs()
        >>> "reverse" in programs
        True
        >>> programs["shift"].__doc__
        'The word before the last.'
    """
    return {
        "proportion": _proportion,
        "reverse": _reverse,
        "histogram": _histogram,
        "is_frequent": _is_frequent,
        "shift": _shift,
        "same_as_previous": _same_as_previous,
        "three_pattern": _three_pattern,
        "one_of_two": _one_of_two,
        "sort_unique": _sort_unique,
        "dyck": _dyck,
        "induction": _induction,
        "first_occurrence": _first_occurrence,
        "modular_sum": _modular_sum,
        "indirect_object": _indirect_object,
        "backup": _backup,
        "two_tasks": _two_tasks,
    }


def named(name: str) -> Program:
    """The program of that name.

    Raises UnknownNameError, with the nearest name, if there is none; ``ck.rasp.programs()`` lists
    them.

    Example:
        >>> ck.rasp.named("shift").answer(["a", "b", "c"])
        'b'
    """
    known = programs()
    if name not in known:
        raise UnknownNameError(unknown("program", name, tuple(known)))
    return known[name]()


def either(one: Program, two: Program, name: str = "") -> Program:
    """Two programs in one model: the first word of a prompt names the one that answers.

    Positions count from that word. Both are computed for every prompt.

    Args:
        one: A program.
        two: Another program.
        name: The name of the new program; by default made of both names.

    Raises:
        ModelError: if one of them is numeric.

    Example:
        >>> both = ck.rasp.either(ck.rasp.named("shift"), ck.rasp.named("first_occurrence"))
        >>> both.answer(["shift", "a", "b"])
        'a'
    """
    task = Aggregate(Select(indices, indices, lambda key, query: key == 0), tokens, name="task")
    first, second = (SequenceMap(_only(p.name), task, p.output, name=p.name) for p in (one, two))
    asked = [(p.name, *prompt) for p in (one, two) for prompt in p.answers]
    return Program(
        name or f"{one.name} or {two.name}",
        Otherwise(first, second, name="choice"),
        tuple(dict.fromkeys([one.name, two.name, *one.vocabulary, *two.vocabulary])),
        1 + max(one.length, two.length),
        asked,
        source=one.source,
    )


def _only(name: str) -> Callable[[object, object], object]:
    return lambda task, value: value if task == name else None


# -- parts -----------------------------------------------------------------------------------------
def _equal(key: object, query: object) -> bool:
    return key == query


def _up_to(key: int, query: int) -> bool:
    return key <= query


def _back(by: int, of: Op = tokens) -> Op:
    """The value of the token so many places before."""
    before = Select(indices, indices, lambda key, query: key == query - by)
    return Aggregate(before, of, name=f"{by} before")


def _count() -> Op:
    """How often each token has occurred up to itself."""
    return SelectorWidth(Select(tokens, tokens, _equal), name="count")


def _is(word: str, of: Op) -> Op:
    return Map(lambda value: value == word, of, name=f"is {word}")


def _sequences(words: Iterable[str], length: int) -> list[Sentence]:
    return list(product(words, repeat=length))


# -- the programs ----------------------------------------------------------------------------------
def _proportion() -> Program:
    """The share of x among the words so far."""
    is_x = Map(lambda word: int(word == "x"), tokens, numeric=True, name="is x")
    share = Aggregate(Select(indices, indices, _up_to), is_x, name="share of x")
    return Program("proportion", share, "wxyz", 5, source=TRACR)


def _reverse() -> Program:
    """The four words before the bar, backwards."""
    bar = Select(tokens, tokens, lambda key, query: key == BAR)
    mirrored = SequenceMap(
        lambda at, here: 2 * at - here - 1, Aggregate(bar, indices, name="bar"), indices,
        name="mirrored",
    )  # fmt: skip
    output = Aggregate(Select(indices, mirrored, _equal), tokens, name="reverse")
    asked = [(*read, BAR, *read[::-1][:done]) for read in _sequences("abc", 4) for done in range(4)]
    return Program("reverse", output, ("a", "b", "c", BAR), 8, asked, source=TRACR)


def _histogram() -> Program:
    """How often the last word has occurred."""
    return Program("histogram", _count(), "abc", 5, shortest=2, source=RASP)


def _is_frequent() -> Program:
    """Whether the last word has occurred at least three times."""
    often = Map(lambda count: count >= 3, _count(), name="at least 3")
    return Program("is_frequent", often, "abc", 5, shortest=3, source=TRACR)


def _shift() -> Program:
    """The word before the last."""
    return Program("shift", _back(1), "abc", 5, shortest=2, source=RASP)


def _same_as_previous() -> Program:
    """Whether the last word is the one before it."""
    same = SequenceMap(_equal, tokens, _back(1), name="same")
    return Program("same_as_previous", same, "abc", 5, shortest=2)


def _three_pattern() -> Program:
    """Whether the last three words are a, b and c: an AND of three."""
    begins = SequenceMap(lambda x, y: (x, y) == ("a", "b"), _back(2), _back(1), name="a b")
    output = SequenceMap(lambda x, y: x and y, begins, _is("c", tokens), name="a b c")
    return Program("three_pattern", output, "abc", 5, shortest=3)


def _one_of_two() -> Program:
    """Whether the first word or the one before the last is a: an OR of two heads."""
    first = Aggregate(Select(indices, indices, lambda key, query: key == 0), tokens, name="first")
    output = SequenceMap(lambda x, y: "a" in (x, y), first, _back(1), name="one of two")
    return Program("one_of_two", output, "abc", 5, shortest=3)


def _sort_unique() -> Program:
    """The different words before the bar in alphabetical order; after the last of them the bar."""
    letters = "abc"
    nexts = [Aggregate(_beyond(letter), tokens, name=f"{letter} to come") for letter in letters]
    output: Op = Map(lambda _: BAR, tokens, name="end")
    for following in reversed(nexts):
        output = Otherwise(following, output, name="next")
    asked = []
    for read in _sequences(letters, 3):
        ordered = sorted(set(read))
        asked += [(*read, BAR, *ordered[:done]) for done in range(len(ordered) + 1)]
    return Program("sort_unique", output, (*letters, BAR), 7, asked, source=RASP)


def _beyond(letter: str) -> Select:
    """This letter, if the last word is the bar or an earlier letter."""
    return Select(
        tokens, tokens, lambda key, query: key == letter and (query == BAR or query < letter)
    )


def _dyck() -> Program:
    """Whether all brackets so far are closed, and none of them before it was opened."""
    value = Map(lambda word: 1 if word == "(" else -1, tokens, numeric=True, name="bracket")
    level = Aggregate(Select(indices, indices, _up_to), value, name="level")
    sign = Map(lambda mean: (mean > 0) - (mean < 0), level, name="sign")
    fell = Select(sign, sign, lambda key, query: key < 0)
    below = Map(lambda count: count > 0, SelectorWidth(fell, name="falls"), name="fell below")
    output = SequenceMap(lambda at, fallen: at == 0 and not fallen, sign, below, name="balanced")
    return Program("dyck", output, "()", 6, shortest=2, source=RASP)


def _induction() -> Program:
    """The word that followed the last word at its earlier occurrence."""
    matches = Select(_back(1), tokens, _equal)
    output = Aggregate(matches, tokens, name="induction")
    return Program("induction", output, "abcd", 6, shortest=3, source="Olsson et al. 2022")


def _first_occurrence() -> Program:
    """The position of the first occurrence of the last word."""
    first = SequenceMap(
        lambda word, count: word if count == 1 else None, tokens, _count(), name="new words"
    )
    output = Aggregate(Select(first, tokens, _equal), indices, name="first place")
    return Program("first_occurrence", output, "abc", 5, shortest=2)


def _modular_sum() -> Program:
    """The sum of the last two digits modulo 5."""
    output = SequenceMap(lambda x, y: str((int(x) + int(y)) % 5), tokens, _back(1), name="sum")
    return Program("modular_sum", output, "01234", 4, shortest=2)


NAMES = ("mary", "john", "anne", "bob")


def _indirect_object() -> Program:
    """Of two names the one that is not repeated: the name mover looks at names other than the one
    that S-inhibition brings, which is the one that was counted twice (after Wang et al. 2022)."""
    count = _count()
    twice = Select(
        SequenceMap(lambda word, n: word in NAMES and n == 2, tokens, count, name="duplicate"),
        tokens,
        lambda key, query: key and query == "to",
    )
    subject = Aggregate(twice, tokens, name="S-inhibition")
    movers = Select(tokens, subject, lambda key, query: key in NAMES and key != query)
    output = Aggregate(movers, tokens, name="name mover")
    asked = [
        (*order, verb, s, "gave", thing, "to")
        for io, s in permutations(NAMES, 2)
        for order in ((io, "and", s), (s, "and", io))
        for verb, thing in product(("met", "left"), ("milk", "tea"))
    ]
    words = (*NAMES, "and", "met", "left", "gave", "milk", "tea", "to")
    return Program("indirect_object", output, words, 8, asked, source="Wang et al. 2022")


def _backup() -> Program:
    """The word before the last, by a head and by a backup that counts if the head is silent."""
    output = Otherwise(_back(1), _spare(), name="backup")
    return Program("backup", output, "abc", 5, shortest=2)


def _spare() -> Op:
    before: Select = Select(indices, indices, lambda key, query: key == query - 1)
    return Aggregate(before, tokens, name="spare")


def _two_tasks() -> Program:
    """Two programs in one model: ``shift`` or ``first_occurrence``, named by the first word."""
    return either(_shift(), _first_occurrence(), "two_tasks")
