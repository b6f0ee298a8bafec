"""What files may say of a circuit or of scores: the one place that knows the attributes' types.

An attribute that is not listed here may be any JSON value: files of users and of later versions
have their own.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from circuitkit.errors import CircuitError
from circuitkit.graph.algebra import is_made
from circuitkit.util.json_values import Json, plain

__all__ = ["checked", "written"]

MOST_EXAMPLES = 10**6
MOST_REDRAWN = 10**4  # a file that does not say which prompts were seen has them drawn again
_DIGEST = re.compile("[0-9a-f]{64}")
_SEEN = re.compile("(?:[0-9a-f]{8})*")


class _Kind(NamedTuple):
    """What an attribute must be: a test, and words for it."""

    fits: Callable[[Json], bool]
    words: str


def _is_text(value: Json) -> bool:
    return isinstance(value, str)


def _is_object(value: Json) -> bool:
    return isinstance(value, dict)


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_share(value: Json) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_seed(value: Json) -> bool:
    return type(value) is int and -(2**63) <= value < 2**64


def _is_count(value: Json) -> bool:
    return type(value) is int and 0 <= value <= MOST_EXAMPLES


def _is_known(value: Json) -> bool:
    counts = ("kept", "of")
    return isinstance(value, dict) and all(_is_count(value.get(key)) for key in counts)


def _is_seen(value: Json) -> bool:
    return isinstance(value, str) and _SEEN.fullmatch(value) is not None


def _is_digest(value: Json) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _are_words(value: Json) -> bool:
    pairs = isinstance(value, list) and all(map(_are_texts, value))
    return pairs and all(len(pair) == 2 for pair in value)


def _are_texts(value: Json) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


TEXT = _Kind(_is_text, "text")
FLAG = _Kind(lambda value: isinstance(value, bool), "true or false")
_OBJECT = _Kind(_is_object, "an object")
_NUMBER = _Kind(_is_number, "a number")

OF_GRAPHS: Mapping[str, _Kind] = {
    **dict.fromkeys(("model", "task", "metric", "corruption", "method", "rule"), TEXT),
    **dict.fromkeys(("reference", "convention", "note", "source", "label", "dictionaries"), TEXT),
    **dict.fromkeys(("chosen", "unweighted", "in_sample", "bos", "chat"), FLAG),
    **dict.fromkeys(("settings", "versions", "asked", "sizes"), _OBJECT),
    **dict.fromkeys(("threshold", "tolerance"), _NUMBER),
    "level": _Kind(lambda value: value in ("edge", "node"), "'edge' or 'node'"),
    "weights": _Kind(_is_digest, "64 hexadecimal digits"),
    "experts": _Kind(lambda value: value in ("live", "held"), "'live' or 'held'"),
    "seed": _Kind(_is_seed, "a whole number of at most 64 bits"),
    "examples": _Kind(_is_count, f"a whole number from 0 to {MOST_EXAMPLES:,}"),
    "known": _Kind(_is_known, f"an object with kept and of, from 0 to {MOST_EXAMPLES:,}"),
    "seen": _Kind(_is_seen, "eight hexadecimal digits for each prompt"),
    "words": _Kind(_are_words, "a list of pairs: a span, and its words in an example"),
    "made_of": _Kind(is_made, "an operation and its parts, each with its edges"),
    "faithfulness": _Kind(lambda value: _is_number(value) or _is_object(value),
                          "a number or an object"),
}  # fmt: skip
OF_NODES: Mapping[str, _Kind] = {
    "role": TEXT, "positions": _Kind(_are_texts, "a list of texts"), "score": _NUMBER,
}  # fmt: skip
OF_EDGES: Mapping[str, _Kind] = {
    **dict.fromkeys(("exact", "core"), FLAG),
    **dict.fromkeys(("low", "high"), _NUMBER),
    **dict.fromkeys(("p", "q", "frequency"), _Kind(_is_share, "a number from 0 to 1")),
    "standard_error": _Kind(lambda value: _is_number(value) and value >= 0, "a number from 0 on"),
}
_KNOWN = {"graph": OF_GRAPHS, "node": OF_NODES, "edge": OF_EDGES}


def checked(attributes: Json, what: str, of: str = "graph") -> dict[str, Json]:
    """The attributes ``of`` a graph, a node or an edge that a file holds under ``what``.

    Raises CircuitError where they are not an object, where a known one is of another type or out of
    bounds, and for numbers that are not finite and texts that are none.
    """
    if not isinstance(attributes, dict):
        raise CircuitError(f"{what} is {reprlib.repr(attributes)} instead of an object")
    try:
        found: dict[str, Json] = plain(attributes, "", undefined=False)
    except ValueError as error:
        raise CircuitError(f"in {what} {error}") from error
    _require_known(found, what, of)
    return found


def written(attributes: Mapping[str, object], what: str, of: str = "graph") -> dict[str, Json]:
    """The same attributes as a file holds them, keys in order; numbers of NumPy become numbers.

    Raises CircuitError, with the name of the attribute, where ``checked`` would refuse them.
    """
    try:
        found = plain(dict(attributes), "")
    except (ValueError, RecursionError) as error:
        raise CircuitError(f"{what} holds what a file cannot: {error}") from error
    _require_known(found, what, of)
    ordered: dict[str, Json] = _in_order(found)
    return ordered


def _require_known(found: Mapping[str, Json], what: str, of: str) -> None:
    for name, (fits, words) in _KNOWN[of].items():
        if name in found and not fits(found[name]):
            raise CircuitError(
                f"{name!r} in {what} is {reprlib.repr(found[name])}; it must be {words}"
            )
    if of == "graph" and "seen" not in found and found.get("examples", 0) > MOST_REDRAWN:
        raise CircuitError(
            f"{what} says that {found['examples']:,} prompts were seen, and not which: give 'seen'"
        )


def _in_order(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _in_order(value[key]) for key in sorted(value)}
    return [_in_order(own) for own in value] if isinstance(value, list) else value
