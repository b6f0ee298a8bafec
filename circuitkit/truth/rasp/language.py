"""A small RASP (Weiss et al. 2021): sequences with one value for each token, and their meaning.

A program is an expression over ``tokens`` and ``indices``. As in every decoder, a token sees itself
and the tokens before it. Values are categorical (any hashable values, finitely many) or numeric (a
number, exact as a Fraction). None means that there is no value: it selects nothing, and functions
of it are None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product
from typing import Any, TypeAlias

from circuitkit.errors import DataError, ModelError

__all__ = [
    "Aggregate",
    "Map",
    "Op",
    "Otherwise",
    "Select",
    "SelectorWidth",
    "SequenceMap",
    "Space",
    "Value",
    "domains",
    "evaluate",
    "expression",
    "indices",
    "tokens",
]

Value: TypeAlias = Any  # hashable, or None
Row: TypeAlias = Sequence[Value]
MOST_MEANS = 2000  # different values of a numeric aggregate: floats cannot tell more apart


@dataclass(frozen=True)
class Space:
    """The words that prompts are made of, and the largest number of them."""

    vocabulary: tuple[str, ...]
    length: int


@dataclass(frozen=True, eq=False)
class Op:
    """A sequence with one value for each token; ``name`` labels it in drawings."""

    name: str = field(default="", kw_only=True)

    @property
    def inputs(self) -> tuple[Op, ...]:
        """The operations that this one reads."""
        return ()

    @property
    def is_numeric(self) -> bool:
        """Whether its values are numbers, each kept as one number."""
        return False

    def row(self, prompt: Sequence[str], *inputs: Row) -> Row:
        """The values for a prompt, from those of the inputs."""
        raise NotImplementedError

    def domain(self, space: Space, *inputs: Sequence[Value]) -> Sequence[Value]:
        """The possible values, except None, from those of the inputs."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class _Tokens(Op):
    """The words of the prompt: each token's value is its word.

    Example:
        >>> ck.rasp.evaluate(ck.rasp.tokens, ["a", "b"])
        ('a', 'b')
    """

    def row(self, prompt: Sequence[str], *inputs: Row) -> Row:
        return tuple(prompt)

    def domain(self, space: Space, *inputs: Sequence[Value]) -> Sequence[Value]:
        return space.vocabulary


@dataclass(frozen=True, eq=False)
class _Indices(Op):
    """The positions in the prompt: each token's value is its position, from 0.

    Example:
        >>> list(ck.rasp.evaluate(ck.rasp.indices, ["a", "b"]))
        [0, 1]
    """

    def row(self, prompt: Sequence[str], *inputs: Row) -> Row:
        return range(len(prompt))

    def domain(self, space: Space, *inputs: Sequence[Value]) -> Sequence[Value]:
        return range(space.length)


tokens: Op = _Tokens(name="tokens")
indices: Op = _Indices(name="indices")


@dataclass(frozen=True, eq=False)
class Map(Op):
    """A function of each value.

    With ``numeric=True`` the function's numbers are kept as numbers, so that an ``Aggregate`` of
    them is their mean. A Map of a numeric sequence is a step function, that is a lookup.

    Example:
        >>> ck.rasp.evaluate(ck.rasp.Map(str.upper, ck.rasp.tokens), ["a", "b"])
        ['A', 'B']
    """

    function: Callable[[Value], Value]
    of: Op
    numeric: bool = field(default=False, kw_only=True)

    @property
    def inputs(self) -> tuple[Op, ...]:
        """The sequence that is mapped."""
        return (self.of,)

    @property
    def is_numeric(self) -> bool:
        """As given."""
        return self.numeric

    def row(self, prompt: Sequence[str], *inputs: Row) -> Row:
        """The function of each value."""
        return [None if value is None else self._one(value) for value in inputs[0]]

    def domain(self, space: Space, *inputs: Sequence[Value]) -> Sequence[Value]:
        """The function's image."""
        return _distinct(self._one(value) for value in inputs[0])

    def _one(self, value: Value) -> Value:
        found: Value = self.function(value)
        return _number(found) if self.numeric and found is not None else found


@dataclass(frozen=True, eq=False)
class SequenceMap(Op):
    """A function of the two values of each token.

    Both sequences are categorical; the function may return None. Raises ModelError for a numeric
    one.

    Example:
        >>> numbered = ck.rasp.SequenceMap(lambda a, i: a + str(i), ck.rasp.tokens, ck.rasp.indices)
        >>> ck.rasp.evaluate(numbered, ["a", "b"])
        ['a0', 'b1']
    """

    function: Callable[[Value, Value], Value]
    one: Op
    two: Op

    def __post_init__(self) -> None:
        _categorical("a SequenceMap", self.one, self.two)

    @property
    def inputs(self) -> tuple[Op, ...]:
        """Both operations."""
        return self.one, self.two

    def row(self, prompt: Sequence[str], *inputs: Row) -> Row:
        """The function of each pair."""
        pairs = zip(*inputs, strict=True)
        return [None if None in pair else self.function(*pair) for pair in pairs]

    def domain(self, space: Space, *inputs: Sequence[Value]) -> Sequence[Value]:
        """The function's image of all pairs."""
        return _distinct(self.function(*pair) for pair in product(*inputs))


@dataclass(frozen=True, eq=False)
class Otherwise(Op):
    """The value of the first sequence, or that of the second if the first one is None.

    Both are categorical. Raises ModelError for a numeric one.

    Example:
        >>> vowel = ck.rasp.Map(lambda word: word if word in "aeiou" else None, ck.rasp.tokens)
        >>> other = ck.rasp.Map(str.upper, ck.rasp.tokens)
        >>> ck.rasp.evaluate(ck.rasp.Otherwise(vowel, other), ["a", "b"])
        ['a', 'B']
    """

    one: Op
    two: Op

    def __post_init__(self) -> None:
        _categorical("an Otherwise", self.one, self.two)

    @property
    def inputs(self) -> tuple[Op, ...]:
        """Both operations."""
        return self.one, self.two

    def row(self, prompt: Sequence[str], *inputs: Row) -> Row:
        """The first of the two values that is not None."""
        return [two if one is None else one for one, two in zip(*inputs, strict=True)]

    def domain(self, space: Space, *inputs: Sequence[Value]) -> Sequence[Value]:
        """The values of both."""
        return _distinct([*inputs[0], *inputs[1]])


@dataclass(frozen=True, eq=False)
class Select:
    """Which tokens each token looks at: the attention pattern of a head.

    A token selects those up to itself for which ``predicate(key, query)`` holds, of their value in
    ``keys`` and its own value in ``queries``. Both are categorical. Raises ModelError for a numeric
    one.

    Example:
        >>> at = ck.rasp.indices
        >>> before = ck.rasp.Select(at, at, lambda key, query: key < query)
        >>> before.chosen([0, 1, 2], [0, 1, 2])
        [[], [0], [0, 1]]
    """

    keys: Op
    queries: Op
    predicate: Callable[[Value, Value], bool]

    def __post_init__(self) -> None:
        _categorical("a Select", self.keys, self.queries)

    def holds(self, key: Value, query: Value) -> bool:
        """Whether this query selects this key."""
        return key is not None and query is not None and bool(self.predicate(key, query))

    def chosen(self, keys: Row, queries: Row) -> list[list[int]]:
        """The positions that each token selects."""
        return [
            [at for at in range(here + 1) if self.holds(keys[at], queries[here])]
            for here in range(len(queries))
        ]


@dataclass(frozen=True, eq=False)
class Aggregate(Op):
    """The value that the selected tokens have: what a head moves.

    Of numbers it is the mean (0 if no token is selected), of categorical values the one that they
    all share (None if no token is selected).

    Example:
        >>> at = ck.rasp.indices
        >>> previous = ck.rasp.Select(at, at, lambda key, query: key == query - 1)
        >>> ck.rasp.evaluate(ck.rasp.Aggregate(previous, ck.rasp.tokens), ["a", "b", "c"])
        [None, 'a', 'b']
    """

    selector: Select
    of: Op

    @property
    def inputs(self) -> tuple[Op, ...]:
        """Keys, queries and values."""
        return self.selector.keys, self.selector.queries, self.of

    @property
    def is_numeric(self) -> bool:
        """Whether the aggregated sequence is numeric."""
        return self.of.is_numeric

    def row(self, prompt: Sequence[str], *inputs: Row) -> Row:
        """The mean or the shared value; raises DataError if categorical values differ."""
        keys, queries, values = inputs
        chosen = self.selector.chosen(keys, queries)
        return [self._together(prompt, [values[at] for at in own]) for own in chosen]

    def _together(self, prompt: Sequence[str], values: list[Value]) -> Value:
        if self.is_numeric:
            numbers = [_number(value or 0) for value in values]
            return sum(numbers, Fraction()) / max(1, len(numbers))
        if len(set(values)) > 1:
            raise DataError(
                f"for {' '.join(prompt)!r} an Aggregate of {self.of.name or 'categorical values'} "
                f"selects {values[0]!r} and {values[-1]!r}; select one value, or use a numeric Map"
            )
        return values[0] if values else None

    def domain(self, space: Space, *inputs: Sequence[Value]) -> Sequence[Value]:
        """The values themselves, or all means of up to as many of them as a prompt has tokens."""
        return _means(inputs[2], space.length) if self.is_numeric else inputs[2]


@dataclass(frozen=True, eq=False)
class SelectorWidth(Op):
    """How many tokens each token selects.

    Example:
        >>> same = ck.rasp.Select(ck.rasp.tokens, ck.rasp.tokens, lambda key, query: key == query)
        >>> ck.rasp.evaluate(ck.rasp.SelectorWidth(same), ["a", "b", "a"])
        [1, 1, 2]
    """

    selector: Select

    @property
    def inputs(self) -> tuple[Op, ...]:
        """Keys and queries."""
        return self.selector.keys, self.selector.queries

    def row(self, prompt: Sequence[str], *inputs: Row) -> Row:
        """The numbers of selected tokens."""
        return [len(own) for own in self.selector.chosen(*inputs)]

    def domain(self, space: Space, *inputs: Sequence[Value]) -> Sequence[Value]:
        """0 to the length."""
        return range(space.length + 1)


# -- what an expression means ----------------------------------------------------------------------
def expression(output: Op) -> tuple[Op, ...]:
    """Each operation of an expression once, inputs before the operations that read them."""
    found: dict[Op, None] = {}

    def visit(op: Op) -> None:
        if op not in found:
            for one in op.inputs:
                visit(one)
            found[op] = None

    visit(output)
    return tuple(found)


def evaluate(output: Op, prompt: Sequence[str]) -> Row:
    """The value of an expression at every token of a prompt: the interpreter.

    Args:
        output: The expression.
        prompt: The words, such as ``["a", "b"]``.

    Returns:
        A sequence with one value for each word.

    Raises:
        DataError: if an Aggregate selects different categorical values.

    Example:
        >>> ck.rasp.evaluate(ck.rasp.named("reverse").output, ["a", "b", "c", "a", "|"])[-1]
        'a'
    """
    rows: dict[Op, Row] = {}
    for op in expression(output):
        rows[op] = op.row(prompt, *(rows[one] for one in op.inputs))
    return rows[output]


def domains(output: Op, space: Space) -> dict[Op, tuple[Value, ...]]:
    """The values, except None, that each operation may have for prompts of the space.

    Raises ModelError if a numeric aggregate may have too many to be told apart.
    """
    found: dict[Op, tuple[Value, ...]] = {}
    for op in expression(output):
        found[op] = tuple(op.domain(space, *(found[one] for one in op.inputs)))
    return found


def _distinct(values: Iterable[Value]) -> list[Value]:
    return [value for value in dict.fromkeys(values) if value is not None]


def _number(value: Value) -> Fraction:
    try:
        return Fraction(value)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"a numeric Map gave {value!r}; its function must return a finite number"
        ) from error


def _categorical(what: str, *ops: Op) -> None:
    for op in ops:
        if op.is_numeric:
            raise ModelError(
                f"{what} reads the numeric {op.name or type(op).__name__}; "
                "make it categorical with a Map first"
            )


def _means(values: Sequence[Value], most: int) -> list[Value]:
    """All means of up to so many values, and 0."""
    sums, means = {Fraction()}, {Fraction()}
    for count in range(1, most + 1):
        sums = {total + _number(value) for total in sums for value in {*values, 0}}
        means |= {total / count for total in sums}
        if len(means) > MOST_MEANS:
            raise ModelError(
                f"a numeric Aggregate may have more than {MOST_MEANS} values; "
                "use shorter prompts or fewer numbers"
            )
    return list(means)
