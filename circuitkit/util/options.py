"""The values that arguments may have: annotations with bounds, and the place that checks them.

A function says what a setting may be in its annotation, ``steps: Annotated[int, Bounds(1, 100)]``,
and is ``checked``: wherever a value comes from (Python, a name with settings, the command line), it
is refused in one sentence before anything is run. Annotations of numbers, texts, paths, choices,
None, and sequences and mappings of these are checked, all others are left to the function.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial, wraps
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    ParamSpec,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from circuitkit.errors import ArgumentError, CircuitError
from circuitkit.util.naming import nearest, unknown

__all__ = [
    "DIRECTIONS",
    "Bounds",
    "Count",
    "Form",
    "Seed",
    "Size",
    "Whole",
    "check",
    "check_settings",
    "checked",
    "in_words",
    "kinds_of",
    "plain_number",
    "read_kind",
    "require",
]

P = ParamSpec("P")
T = TypeVar("T")

Kind: TypeAlias = Any  # an annotation, as ``typing`` reads it
Value: TypeAlias = Any  # anything that may be given for an argument

DIRECTIONS = ("noise", "denoise")
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 60
_DIGITS = 40  # of a number that a message repeats


# -- what an annotation may say --------------------------------------------------------------------
@dataclass(frozen=True)
class Bounds:
    """The least and the most that a number may be; ``above``: it has to be more than the least."""

    least: float | None = None
    most: float | None = None
    above: bool = False

    def hold(self, value: Value) -> bool:
        """Whether the number is within them."""
        low = self.least is None or (value > self.least if self.above else value >= self.least)
        return low and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        low, high = (
            "" if n is None else f"{n:,}" if isinstance(n, int) else f"{n:g}"
            for n in (self.least, self.most)
        )  # fmt: skip
        if low and self.above:
            return f" above {low}" + (f", at most {high}" if high else "")
        if low and high:
            return f" from {low} to {high}"
        return f" of at least {low}" if low else f" of at most {high}" if high else ""


@dataclass(frozen=True)
class Form:
    """Another form that a value may have: in words, and the test that it passes."""

    words: str
    fits: Callable[[Value], bool]


Count: TypeAlias = Annotated[int, Bounds(1, 1_000_000)]  # of prompts and the like
Whole: TypeAlias = Annotated[int, Bounds(0, 1_000_000)]  # the same, where it may be none
Size: TypeAlias = Annotated[int, Bounds(1)]  # of circuits and memory: what there is, is the bound
Seed: TypeAlias = Annotated[int, Bounds(0, 2**32 - 1)]


# -- functions whose arguments are checked ---------------------------------------------------------
def checked(function: Callable[P, T]) -> Callable[P, T]:
    """The function with its arguments checked against its annotations whenever it is called.

    Raises ArgumentError, before the function is called, for a value that does not fit, an argument
    that it does not have, and one that is missing. NumPy's numbers become Python's.
    """
    signature, name = inspect.signature(function), function.__name__
    kinds = cache(partial(kinds_of, function))

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentError(_unbound(name, signature, kwargs, error)) from error
        given.arguments.update(_fitting(name, signature, kinds(), given.arguments))
        return function(*given.args, **given.kwargs)

    return call


def check_settings(
    name: str, function: Callable[..., object], settings: Mapping[str, object]
) -> dict[str, Value]:
    """The settings as the function's annotations allow them; ``name`` is what messages call it.
    Raises ArgumentError for one that does not fit."""
    kinds = kinds_of(function)
    return dict(settings) | _fitting(name, inspect.signature(function), kinds, settings)


def _fitting(
    name: str, signature: inspect.Signature, kinds: Mapping[str, Kind], given: Mapping[str, object]
) -> dict[str, Value]:
    """The given arguments that are checked; a default may be anything."""
    parameters = signature.parameters
    many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        key: check(key, value, kinds[key], name)
        for key, value in given.items()
        if key in kinds and parameters[key].kind not in many
        and value is not parameters[key].default
    }  # fmt: skip


def _unbound(
    name: str, signature: inspect.Signature, given: Mapping[str, object], error: TypeError
) -> str:
    """Why the function cannot be called with these arguments."""
    known = tuple(signature.parameters)
    for key in given:
        if key not in known:
            return unknown(f"argument of {name}", key, known)
    return f"{name} cannot be called so ({error}); its arguments are {', '.join(known)}"


def kinds_of(function: Callable[..., object]) -> Mapping[str, Kind]:
    """The annotation of each parameter that has one which can be read."""
    while isinstance(function, partial):
        function = function.func
    inner: Any = inspect.unwrap(function)
    found = {}
    for name, written in getattr(inner, "__annotations__", {}).items():
        kind = read_kind(written, getattr(inner, "__globals__", {}))
        if kind is not None:
            found[name] = kind
    return found


def read_kind(written: object, names: Mapping[str, Kind]) -> Kind:
    """The annotation that is written so, among these names; None where it cannot be read."""
    stub = SimpleNamespace(__annotations__={"it": written})
    try:
        return get_type_hints(stub, {}, names, include_extras=True)["it"]
    except (AttributeError, NameError, SyntaxError, TypeError):  # a name for type checkers alone
        return None


# -- one value -------------------------------------------------------------------------------------
def check(name: str, value: object, kind: Kind, owner: str = "") -> Value:
    """The value of that name, if it is what the annotation says; NumPy's number as Python's.

    Raises ArgumentError, which says what may be given, and the nearest choice.
    """
    own = plain_number(value)
    if _fits(own, kind):
        return own
    near = nearest(own, _choices(kind)) if isinstance(own, str) else None
    hint = f" (did you mean {near!r}?)" if near else ""
    said = f"{owner} has {name}" if owner else name
    raise ArgumentError(f"{said}{_shown(own)}; give {in_words(kind)}{hint}")


def require(name: str, value: object, known: Sequence[str]) -> None:
    """Raise CircuitError if the option does not have one of the known values."""
    if not isinstance(value, str) or value not in known:
        raise CircuitError(f"{name}{_shown(value)} is not known; choose from {', '.join(known)}")


def _fits(value: Value, kind: Kind) -> bool:
    """Whether the value is what the annotation says; True for annotations that are not checked."""
    origin, parts = _parts(kind)
    if origin is Annotated:
        forms = [mark for mark in parts[1:] if isinstance(mark, Form)]
        if forms:
            return all(form.fits(value) for form in forms)
        bounds = (mark for mark in parts[1:] if isinstance(mark, Bounds))
        return _fits(value, parts[0]) and all(one.hold(value) for one in bounds)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin in (Sequence, list, tuple):
        each = parts[0] if parts else Any
        listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return listed and all(_fits(own, each) for own in value)
    if origin is Mapping:
        pairs = value.items() if isinstance(value, Mapping) else [(None, value)]
        return all(
            _fits(own, part) for pair in pairs for own, part in zip(pair, parts, strict=True)
        )
    test = _TESTS.get(origin or kind)
    return test is None or test(value)


def _parts(kind: Kind) -> tuple[Kind, tuple[Kind, ...]]:
    """What an annotation is of (None for a plain type), and what is in its brackets."""
    return get_origin(kind), get_args(kind)


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _finite(value: object) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float is as large as
        return False


def _is(kind: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, kind)


_TESTS: dict[Kind, Callable[[object], bool]] = {
    int: _whole, float: _finite, bool: _is(bool), str: _is(str), NoneType: _is(NoneType),
    Path: _is(Path), os.PathLike: _is(os.PathLike),
}  # fmt: skip
_WORDS = {
    int: "a whole number", float: "a finite number", bool: "True or False", str: "a text",
    NoneType: "None", Path: "a path", os.PathLike: "a path",
}  # fmt: skip


def plain_number(value: Value) -> Value:
    """NumPy's scalar as Python's; any other value as it is."""
    of_numpy = type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0
    return value.item() if of_numpy and hasattr(value, "item") else value


# -- words -----------------------------------------------------------------------------------------
def in_words(kind: Kind) -> str:
    """What an annotation allows: ``a whole number from 1 to 100 or None``."""
    origin, parts = _parts(kind)
    if origin is Annotated:
        forms = [mark.words for mark in parts[1:] if isinstance(mark, Form)]
        bounds = "".join(str(mark) for mark in parts[1:] if isinstance(mark, Bounds))
        words = in_words(parts[0]).removeprefix("a finite ") if bounds else ""
        return forms[0] if forms else _number(words, bounds) if bounds else in_words(parts[0])
    if origin in (Union, UnionType):
        each = dict.fromkeys(in_words(part) for part in parts if part is not NoneType)
        return _listed(each) + (", or None" if NoneType in parts else "")
    if origin is Literal:
        return _listed(map(repr, parts))
    if origin in (Sequence, list, tuple) and parts:
        one = in_words(parts[0]).removeprefix("a ")
        return f"a list of {re.sub('number|text|path', lambda noun: f'{noun[0]}s', one, count=1)}"
    if origin is Mapping:
        return "a dictionary"
    named: str = getattr(kind, "__name__", str(kind))
    return _WORDS.get(origin or kind, named)


def _number(words: str, bounds: str) -> str:
    return f"{words if words.startswith('a ') else f'a {words}'}{bounds}"


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _choices(kind: Kind) -> list[str]:
    """The texts that an annotation lists as choices."""
    origin, parts = _parts(kind)
    if origin is Literal:
        return [part for part in parts if isinstance(part, str)]
    return [choice for part in parts for choice in _choices(part)]


def _shown(value: Value) -> str:
    """``=3``, or `` of type Transformer``: what was given, for a message."""
    if isinstance(value, int) and abs(value) >= 10**_DIGITS:
        return f"={'-' if value < 0 else ''}10**{int(abs(value).bit_length() * math.log10(2))}"
    simple = isinstance(value, int | float | str | bytes | list | tuple | dict | None)
    return f"={_SHOWN.repr(value)}" if simple else f" of type {type(value).__name__}"
