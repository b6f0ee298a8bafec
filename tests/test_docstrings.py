"""The docstrings of public names: a line that says what it is, and an example that runs.

Examples are doctests with ``ck``, ``model`` (mini), ``task`` (16 prompts of ioi), ``data`` (the
task in tokens), ``scores`` (EAP on prompts of another seed), ``circuit`` (their 50 strongest
edges), ``coders`` (small random transcoders) and ``graph`` (what they trace of a prompt) at hand.
"""

from __future__ import annotations

import doctest
import inspect
import operator
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coders import coders_of_mini

import circuitkit as ck
from circuitkit.registry import KINDS, lookup, names

PACKAGES = ("figures", "rasp")  # whose names are public too
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# Names that still lack a summary of one line, or an example. Only ever take names out.
WITHOUT_EXAMPLE: set[str] = set()


def public() -> Iterator[tuple[str, Any]]:
    """Every public function and class, by the name that users write after ``ck.``"""
    folders = {*ck._FOLDERS}
    for name in ck.__all__:
        if name not in folders and name != "__version__":
            yield name, getattr(ck, name)
    for kind in KINDS:
        for name in names(kind):
            yield f"{kind}.{name.replace(':', '.')}", lookup(kind, name)
    for package in PACKAGES:
        for name in getattr(ck, package).__all__:
            yield f"{package}.{name}", getattr(getattr(ck, package), name)


def methods(name: str, kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class of ours, those of the bases of ours included."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith("circuitkit.")]
    for own in dict.fromkeys(own for base in ours for own in vars(base)):
        value = inspect.getattr_static(kind, own)
        called = inspect.isroutine(value) or isinstance(value, property | classmethod)
        if not own.startswith("_") and called:
            yield f"{name}.{own}", value


NAMES = dict(public())
METHODS = {name: value for owner, kind in NAMES.items() if isinstance(kind, type)
           for name, value in methods(owner, kind)}  # fmt: skip


def docstring(value: Any) -> str:
    return inspect.cleandoc(value.__doc__ or "")


def examples(value: Any) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(docstring(value))


def is_summed_up(name: str, value: Any) -> bool:
    """Whether the docstring starts with one line; that of a reference, which is its counts and its
    source, may be two."""
    lines = docstring(value).split("\n\n")[0].splitlines()
    return 0 < len(lines) <= (2 if name.startswith("references.") else 1)


@cache
def shared() -> dict[str, object]:
    """What every example finds at hand, made once."""
    model = ck.load("mini")
    task = ck.make_task("ioi", model, n=16)
    data = ck.Dataset.of(task, model)
    scores = ck.discovery.eap(model, ck.make_task("ioi", model, n=16, seed=1))
    coders = coders_of_mini()
    graph = ck.trace(model, "When Anna and Paul met at the store, Paul gave a book to", coders)
    return {"ck": ck, "np": np, "model": model, "task": task, "data": data, "scores": scores,
            "circuit": scores.top(50), "coders": coders, "graph": graph}  # fmt: skip


def run(name: str, value: Any) -> str:
    """What is wrong with the examples of a docstring; empty where they show what happens."""
    test = doctest.DocTestParser().get_doctest(docstring(value), dict(shared()), name, None, None)
    said: list[str] = []
    doctest.DocTestRunner(verbose=False, optionflags=FLAGS).run(test, out=said.append)
    return "".join(said)


SHOWN = {name: value for name, value in {**NAMES, **METHODS}.items() if examples(value)}
# Results whose example makes one as that of the function does, which takes long.
LONG = {"Benchmark", "Clusters", "Clusters.save", "Cross", "PlacedDiscovery", "Replay", "Study",
        "Track"}  # fmt: skip


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.weekly] if name in LONG else []) for name in SHOWN
])  # fmt: skip
def test_the_example_shows_what_happens(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # for the files that examples write
    wrong = run(name, SHOWN[name])
    assert not wrong, wrong


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_summed_up_in_a_line_and_has_an_example(name: str) -> None:
    value = NAMES[name]
    documented = is_summed_up(name, value) and bool(examples(value))
    assert documented is (name not in WITHOUT_EXAMPLE), "take it out of WITHOUT_EXAMPLE"


def test_a_public_method_is_summed_up() -> None:
    missing = [name for name, value in METHODS.items() if not docstring(value)]
    assert not missing


def test_the_names_that_lack_an_example_are_public() -> None:
    assert NAMES.keys() >= WITHOUT_EXAMPLE


def test_a_wrong_example_is_seen() -> None:
    def wrong() -> None:
        """Nothing.

        >>> len(task)
        17
        """

    assert "Expected:\n    17\nGot:\n    16" in run("wrong", wrong)
    assert operator.attrgetter("tasks.ioi")(ck) is NAMES["tasks.ioi"]
