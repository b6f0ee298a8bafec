"""Damaged input: what reads it, what may become of a case, and damage of bytes and of JSON.

The readers stand in the files damage_*.py, and all of them in readers.py. They serve
tests/test_damage.py (some hundreds of cases) and benchmarks/fuzz.py (ten thousand): what is read is
refused in one sentence, or right.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from circuitkit.errors import CircuitkitError

LONGEST = 1000  # of a sentence, without the path


@dataclass(frozen=True, eq=False)
class Reader:
    """Something that reads input of unknown origin.

    ``contents`` draws damaged contents of a file; ``place`` puts one into a folder and returns what
    is read; ``read`` gives what compares. It must be what ``expected`` finds in the content by
    other means, or (without it, or where it gives None) what the ``sound`` content holds.

    ``command`` is the same on the command line (a content is its standard input where ``-`` is
    among its arguments), and ``shown`` what of the expected its output must show: it raises
    AssertionError where that is not there. ``share`` is how many cases it gets beside the others,
    and ``by_shell`` how many of those on the command line, where most commands import torch first.
    """

    name: str
    sound: bytes
    contents: st.SearchStrategy[bytes]
    read: Callable[[Path], Any]
    place: Callable[[Path, bytes], Path]
    expected: Callable[[bytes], Any] | None = None
    command: Callable[[Path], list[str]] | None = None
    shown: Callable[[str, Path, Any], None] | None = None
    share: float = 1.0
    by_shell: float = 1.0
    known: dict[str, Any] = field(default_factory=dict)


class Refused(CircuitkitError):
    """What a reader raises in ``read`` where the input is set aside without a word, as a journal
    does with a damaged block, which is computed again."""


def outcome(reader: Reader, content: bytes, folder: Path) -> str:
    """``refused`` or ``accepted``; raises AssertionError for anything else."""
    path = reader.place(folder, content)
    try:
        found = reader.read(path)
    except Refused:
        return "refused"
    except CircuitkitError as error:
        require_sentence(str(error), folder)
        return "refused"
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error
    assert found == wanted(reader, content, folder), "other numbers"
    return "accepted"


def require_sentence(said: str, folder: Path) -> None:
    """Raise AssertionError where this is not one sentence that can be printed."""
    said = said.replace(str(folder), "")
    assert "\n" not in said, f"two lines: {said[:200]!r}"
    assert 0 < len(said) < LONGEST, f"{len(said)} characters: {said[:200]!r}"
    assert said == said.encode("utf-8", "replace").decode(), f"it cannot be printed: {said[:200]!r}"


def wanted(reader: Reader, content: bytes, folder: Path) -> Any:
    """What the reader is to find in the content, by other means or in the sound content."""
    try:
        found = reader.expected(content) if reader.expected else None
    except Exception as error:
        raise AssertionError(f"accepted, but {type(error).__name__}: {error}") from error
    if found is None:
        if "sound" not in reader.known:
            reader.known["sound"] = reader.read(reader.place(folder, reader.sound))
        found = reader.known["sound"]
    return found


def as_file(suffix: str) -> Callable[[Path, bytes], Path]:
    """Puts a content into a file of that suffix."""

    def place(folder: Path, content: bytes) -> Path:
        path = folder / f"damaged{suffix}"
        path.write_bytes(content)
        return path

    return place


# -- damage of bytes -------------------------------------------------------------------------------
@st.composite
def damaged_bytes(draw: st.DrawFn, sound: bytes) -> bytes:
    """The bytes with bits flipped, cut off, repeated, exchanged, or in another encoding."""
    at = st.integers(0, len(sound) - 1)
    kind = draw(st.sampled_from(("flip", "flip", "flip", "cut", "drop", "twice", "put", "encode")))
    if kind == "flip":
        found = bytearray(sound)
        for place in draw(st.lists(at, min_size=1, max_size=3)):
            found[place] ^= 1 << draw(st.integers(0, 7))
        return bytes(found)
    start, size = draw(at), draw(st.integers(1, 40))
    if kind == "cut":
        return sound[:start]
    if kind == "drop":
        return sound[:start] + sound[start + size :]
    if kind == "twice":
        return sound[: start + size] + sound[start:]
    if kind == "put":
        return sound[:start] + draw(st.binary(min_size=1, max_size=9)) + sound[start:]
    text = sound.decode("utf-8", "replace")
    encoding = draw(st.sampled_from(("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp037")))
    return text.encode(encoding, "replace")


# -- damage of what is said ------------------------------------------------------------------------
EXTREME: list[Any] = [
    None, True, False, 0, -1, 1, 2, 7, 2**31, 2**63, 10**9, 10**30, 10**400, 0.5, -0.0, 5e-324,
    1e308, float("nan"), float("inf"), float("-inf"), "", "x", "1", "nan", "\ud800", "\0", "a\nb",
    "a0.h0", "a0.h0->logits", "input->logits", "m0->a0.h0<q>", "../../x.py:f", "=1+1", "9" * 5000,
    [], {}, [[]], [None], {"": None}, {"score": "x"}, {"layers": 1, "heads": 1, "groups": 1},
    [{"edge": "input->logits", "weight": 1.0}],
]  # fmt: skip


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*here, key)
            yield from places(inner, (*here, key))


def at(value: Any, way: tuple[Any, ...]) -> Any:
    """What stands at the end of the way."""
    for key in way:
        value = value[key]
    return value


@st.composite
def damaged_json(draw: st.DrawFn, sound: Any) -> bytes:
    """JSON in which one to three values are dropped, doubled, exchanged, renamed or nested."""
    data, doubled = json.loads(json.dumps(sound)), "\x01doubled\x01"
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        ways = [*places(data)]
        if not ways:
            break
        *way, last = draw(st.sampled_from(ways))
        inner = at(data, tuple(way))
        kind = draw(st.sampled_from(("drop", "swap", "swap", "swap", "copy", "twice", "name",
                                     "deep")))  # fmt: skip
        if kind == "drop":
            del inner[last]
        elif kind == "swap":
            inner[last] = copy.deepcopy(draw(st.sampled_from(EXTREME)))
        elif kind == "copy":
            inner[last] = copy.deepcopy(at(data, draw(st.sampled_from(ways))))
        elif kind == "deep":
            for _ in range(draw(st.sampled_from((3, 60, 300)))):
                inner[last] = [inner[last]]
        elif isinstance(inner, list):
            inner.append(inner[last])
        elif kind == "name":
            inner[str(last) + draw(st.sampled_from(("s", " ", "\0", "é")))] = inner.pop(last)
        else:
            inner[doubled + str(last)] = copy.deepcopy(draw(st.sampled_from(EXTREME)))
    text = json.dumps(data).replace(json.dumps(doubled)[1:-1], "")
    big = draw(st.sampled_from((None, None, None, "1e999", "-1e999", "9" * 5000, "NaN")))
    return (text if big is None else text.replace("0.5", big)).encode()
