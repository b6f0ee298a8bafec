"""Values as JSON holds them: plain ones, with None for an undefined number."""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Callable, Mapping
from datetime import date, time
from functools import partial
from numbers import Integral
from pathlib import PurePath
from typing import Any, TypeAlias

__all__ = ["Json", "nan_to_none", "plain"]

Json: TypeAlias = Any  # what the json module reads and writes

DEEPEST = 40  # levels; what is nested deeper breaks what walks it later


def nan_to_none(value: Json) -> Json:
    """The value with None for every nan, also inside mappings, lists and tuples."""
    if isinstance(value, dict):
        return {key: nan_to_none(own) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(nan_to_none, value))
    return None if isinstance(value, float) and math.isnan(value) else value


def plain(value: Json, where: str, *, undefined: bool = True, depth: int = 0) -> Json:
    """The value as JSON gives it back: arrays of NumPy and tensors as numbers and lists, tuples as
    lists, paths, dates and keys as texts, and None for nan if it may be ``undefined``.

    Raises ValueError, which names the place by its keys, for what JSON cannot hold: other types,
    numbers that are not finite, and texts and levels that no file can have.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, PurePath | date | time):
        return _text(value.isoformat() if isinstance(value, date | time) else str(value), where)
    if _of_numpy(value) and value.dtype.kind in "biufUO":
        return plain(value.tolist(), where, undefined=undefined, depth=depth)
    if type(value).__module__ == "torch" and hasattr(value, "tolist"):
        return plain(_listed(value, where), where, undefined=undefined, depth=depth)
    if isinstance(value, int | float):
        return _number(value, where, undefined)
    if depth == DEEPEST:
        raise ValueError(f"{_short(where)} is nested more than {DEEPEST} levels deep")
    if isinstance(value, list | tuple):
        inner = partial(plain, undefined=undefined, depth=depth + 1)
        return [inner(own, f"{where}[{i}]") for i, own in enumerate(value)]
    if isinstance(value, Mapping):
        return _object(value, where, partial(plain, undefined=undefined, depth=depth + 1))
    raise ValueError(
        f"{_short(where)} is of type {type(value).__name__}; give text, numbers, lists or mappings"
    )


def _of_numpy(value: Json) -> bool:
    """Whether this is an array or a number of NumPy, which is not imported for it."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, (numpy.generic, numpy.ndarray))


def _listed(tensor: Json, where: str) -> Json:
    """The values of a tensor of torch; which is not imported for it."""
    try:
        return tensor.tolist()
    except (NotImplementedError, RuntimeError, TypeError) as error:  # sparse, or without values
        said = str(error).partition("\n")[0][:80]
        raise ValueError(f"{_short(where)} is a tensor that has no list ({said})") from error


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeError:  # half of a pair, as in a file's name that is not text
        raise ValueError(
            f"{_short(where)} is {reprlib.repr(value)}, which is not valid text"
        ) from None
    return str(value)


def _number(value: int | float, where: str, undefined: bool) -> int | float | None:
    try:
        finite = math.isfinite(value)
    except OverflowError:
        raise ValueError(f"{_short(where)} is a number of too many digits") from None
    if undefined and value != value:
        return None
    if not finite:
        raise ValueError(f"{_short(where)} is {value}; give a finite number, or None")
    return int(value) if isinstance(value, int) else float(value)


def _object(
    value: Mapping[Any, Json], where: str, inner: Callable[[Json, str], Json]
) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for key, own in value.items():
        if not isinstance(key, str | Integral):
            raise ValueError(f"{_short(where)} has the key {reprlib.repr(key)}; keys are text")
        name = _text(str(key), f"a key of {where}")
        if name in found:
            raise ValueError(f"{_short(where)} has the key {name[:80]!r} as text and as a number")
        found[name] = inner(own, f"{where}.{name}" if where else name)
    return found


def _short(where: str) -> str:
    return repr(where if len(where) < 80 else f"{where[:60]}...") if where else "it"
