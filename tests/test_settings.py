"""Settings are checked in one place, before anything is run, wherever they come from."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from circuitkit import registry
from circuitkit.data.tasks import make_task
from circuitkit.errors import ArgumentError, CircuitkitError, UnknownNameError
from circuitkit.models.loading import load
from circuitkit.registry import lookup, name_of, names, resolve, settings_of
from circuitkit.util.options import Bounds, Count, Form, Seed, check, checked, in_words

pytestmark = pytest.mark.unchecked

NAN, INF, HUGE = float("nan"), float("inf"), 10**5000
NO_NUMBER: list[Any] = ["x", "3", True, NAN, [3], {}, HUGE, "9" * 10_000, object()]
NO_COUNT = [*NO_NUMBER, 0, -1, 1.5, 10**10]
NO_TEXT: list[Any] = [3, True, NAN, b"x", {"a": 1}, HUGE, object()]
NO_CHOICE = [*NO_TEXT, None, "x", "", ["reverse"], "\ud800"]
NO_SPAN = [*NO_TEXT, None, [3], [None], [["S2"]]]

# What no function may take for a setting of this name: in all functions that have one.
WRONG: dict[str, Sequence[Any]] = {
    "steps": [*NO_COUNT, None],
    "draws": [*NO_COUNT, None],
    "runs": [*NO_COUNT, None],
    "size": [*NO_COUNT, None],
    "rate": [*NO_NUMBER, INF, 0, -1, None],
    "temperature": [*NO_NUMBER, INF, 0, -1, None],
    "target": [*NO_NUMBER, INF, 2, -1, None],
    "warmup": [*NO_NUMBER, INF, 2, -1, None],
    "price": [*NO_NUMBER, INF, -1, None],
    "start": [*NO_TEXT, ["eap"]],
    "loss": NO_CHOICE,
    "length": [*NO_NUMBER, 4, 0, -1, 1.5, 10**10, None],
    "seed": [*NO_NUMBER, -1, 1.5, 10**30, None],
    "n": NO_COUNT,
    "edges": [*NO_NUMBER[2:7], 0, -1, 1.5, 3, ["a0.h1->m2", 3]],
    "multiple": [*NO_NUMBER, INF, 0, -1, None],
    "threshold": [*NO_NUMBER, INF, 0, -1, 1e-40],
    "thresholds": [*NO_NUMBER[:4], [0], [1, "x"], [NAN], [-1.0], {}, object()],
    "members": [*NO_NUMBER, [], [3], None],
    "by": NO_CHOICE,
    "level": NO_CHOICE,
    "budget": NO_COUNT,
    "at": NO_SPAN,
    "bins": [*NO_COUNT, 1, None],
    "cut": NO_CHOICE,
    "on": [*NO_TEXT, ["ioi"]],
    "examples": [*NO_COUNT, None],
    "text": [*NO_TEXT, ["S2"]],
    "title": [*NO_TEXT, ["S2"]],
    "engine": NO_CHOICE,
    "order": NO_CHOICE,
    "rule": [*NO_TEXT, "relq", "", "relp+", ["relp"]],
    "points": [*NO_TEXT, "x", "", ["left"]],
    "norms": NO_CHOICE,
    "first": NO_CHOICE,
    "positions": NO_CHOICE,
    "against": NO_CHOICE,
    "features": [*NO_COUNT, None],
    "fix": [*NO_TEXT[:1], "x", None, [True]],
    "drop": [*NO_TEXT[:1], "x", None, [True]],
    "direction": [*NO_CHOICE, "denoising"],
    "resume": [*NO_TEXT, ["x"]],
    "places": ["named", 3, True, NAN, {}, HUGE, object(), ["S2"]],
    "groups": ["x", 3, True, NAN, {}, HUGE, object()],
    "corrupt": NO_CHOICE,
    "misfits": NO_CHOICE,
    "answers": NO_CHOICE,
    "align": [*NO_TEXT, ["subject"]],
    "lengths": NO_CHOICE,
    "operators": [*NO_CHOICE[:-1], [3], ["plus", "x"], ()],
    "path": [*NO_TEXT, None, "no such file.csv"],
    "metric": [*NO_TEXT, None, ["kl"]],
    "columns": [*NO_TEXT[:4], "clean", ["clean"], {"clean": 3}, {3: "clean"}],
}


class Untouched:
    """Something that must not be looked at."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was looked at before the settings were")


def owners() -> list[tuple[str, str, str]]:
    """Every registered function with each of its settings; of tasks, n and the seed too."""
    kinds = [k for k in registry.KINDS if k not in ("formats", "references")]
    return [
        (kind, name, p.name)
        for kind in kinds
        for name in names(kind)
        for p in inspect.signature(lookup(kind, name)).parameters.values()
        if p.kind == p.KEYWORD_ONLY or (kind == "tasks" and p.name in ("n", "seed"))
    ]


OWNERS = owners()


def refused(call: Any, *words: str) -> str:
    """The sentence with which a call is refused, which has these words."""
    with pytest.raises(CircuitkitError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    assert all(word in text for word in words), text
    return text


@pytest.mark.parametrize(("kind", "name", "setting"), OWNERS, ids="-".join)
def test_a_wrong_value_is_refused_before_anything_is_looked_at(
    kind: str, name: str, setting: str
) -> None:
    function = lookup(kind, name)
    first = [Untouched()] * (1 if kind == "tasks" else 2)
    needed = {"path": "x.csv"} if name == "from_file" else {}
    for value in WRONG[setting]:
        if setting == "path" and isinstance(value, str):
            continue  # which file it is, is known when it is read
        if setting == "operators" and value == ():
            continue
        call = partial(function, *first, **{**needed, setting: value})
        refused(call, f"{name} has {setting}", "; give ")


@pytest.mark.parametrize(("kind", "name", "setting"), OWNERS, ids="-".join)
def test_it_is_refused_in_a_name_with_settings_too(kind: str, name: str, setting: str) -> None:
    if setting in ("n", "seed") and kind == "tasks":
        return  # which are arguments of their own
    for value in WRONG[setting]:
        if setting in ("path", "operators") and isinstance(value, str | tuple):
            continue
        if value is not HUGE:  # which Python does not write down
            refused(lambda v=value: resolve(kind, f"{name}({setting}={v!r})"), name)  # type: ignore[misc]


def test_every_setting_is_listed_with_what_it_may_be() -> None:
    listed = [(k, n, s.name) for k in registry.KINDS for n in names(k) for s in settings_of(k, n)]
    expected = [o for o in OWNERS if (o[0], o[2]) not in {("tasks", "n"), ("tasks", "seed")}]
    assert sorted(o for o in listed if o[0] != "formats") == sorted(expected)
    for kind in registry.KINDS:
        for name in names(kind):
            parameters = inspect.signature(lookup(kind, name)).parameters
            for one in settings_of(kind, name):
                default = parameters[one.name].default
                assert one.default == ("" if default is inspect.Parameter.empty else repr(default))
                assert one.allowed == in_words_of(lookup(kind, name), one.name)


def in_words_of(function: Any, name: str) -> str:
    from circuitkit.util.options import kinds_of

    return in_words(kinds_of(function)[name])


def test_the_listing_says_numbers_and_choices() -> None:
    said = {s.name: (s.allowed, s.default) for s in settings_of("corruptions", "noise")}
    assert said["draws"] == ("a whole number from 1 to 1,000", "1")
    assert said["multiple"] == ("a number above 0, at most 1,000", "3.0")
    assert said["at"] == ("a text or a list of texts", "()")
    assert settings_of("discovery", "acdc")[1].allowed == "'reverse', 'forward' or 'random'"
    assert settings_of("metrics", "kl") == ()
    with pytest.raises(UnknownNameError, match="did you mean 'eap'"):
        settings_of("discovery", "eapp")


# -- sentences -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("eap_ig(steps='x')", "eap_ig has steps='x'; give a whole number from 1 to 10,000"),
        ("eap_ig(steps=10000000000)", "steps=10000000000; give a whole number from 1 to 10,000"),
        ("eap_ig(steps=True)", "steps=True; give a whole number"),
        ("eap_ig(steps=1.5)", "steps=1.5; give a whole number"),
        ("eap_ig(steps=None)", "steps=None; give a whole number"),
        ("random(seed=-1)", "random has seed=-1; give a whole number from 0 to 4,294,967,295"),
        ("exact(edges=0)", "exact has edges=0; give a circuit, names such as ['a0.h1->m2']"),
        ("acdc(order='revers')", "did you mean 'reverse'?"),
        ("eap_ig(steps=1, steps=2)", "steps is given 2 times; leave one"),
        ("eap_ig(steps=10**10)", "steps=10 ** 10 is not a number, a text, None"),
        ("eap_ig(steps=int(3))", "steps=int(3) is not a number, a text, None"),
        ("eap_ig(step=3)", "did you mean 'steps'?"),
        ("information_flow(steps=3)", "information_flow has no settings"),
        ("eap_ig(3)", "settings are given by name"),
        ("eap_ig(**{'steps': 3})", "settings are given by name"),
        ("eap_ig(steps=3", "'(' was never closed"),
        ("eap_ig(steps={[]: 1})", "is not a number, a text, None"),
        (f"eap_ig(steps={'-' * 9000}1)", "nested too deep"),
        (f"eap_ig(steps={'[' * 300}{']' * 300})", "nested"),
        (f"eap_ig(steps='{'x' * 20_000}')", "characters"),
        (f"eap_ig(steps={'9' * 300})", "steps=10**300"),
        (f"{'x' * 100_000}(steps=3)", "no discovery method is called 'xxx"),
    ],
)  # fmt: skip
def test_a_name_with_wrong_settings_is_one_sentence(expression: str, words: str) -> None:
    refused(lambda: resolve("discovery", expression), words)


def test_a_call_with_wrong_arguments_is_one_sentence() -> None:
    eap_ig = lookup("discovery", "eap_ig")
    refused(lambda: eap_ig(1, 2, step=3), "no argument of eap_ig is called 'step'", "'steps'?")
    refused(lambda: eap_ig(1), "missing a required argument: 'data'", "its arguments are model, ")
    refused(lambda: eap_ig(1, 2, 3, 4, 5), "too many positional arguments")
    with pytest.raises(TypeError):  # as Python's own
        eap_ig(1)


def test_numbers_of_numpy_become_pythons() -> None:
    noise = lookup("corruptions", "noise")
    bound: Any = registry.bind("noise", noise, {"draws": np.int64(3), "multiple": np.float32(2)})
    assert {key: type(value) for key, value in bound.keywords.items()} == {
        "draws": int, "multiple": float,
    }  # fmt: skip
    assert name_of(partial(noise, draws=np.int64(3))) == "noise(draws=3)"
    assert name_of(partial(noise, text=Path("a b"))) == "noise(text='a b')"


# -- anyone's functions ----------------------------------------------------------------------------
MINE = '''
from __future__ import annotations
from typing import TYPE_CHECKING, Annotated
if TYPE_CHECKING:
    from nowhere import Anything

def probe(logits, reference, batch, *, width: int = 3, name: str = None, way: Anything = 0):
    """A metric of my own."""
    return width
'''


def test_annotations_of_functions_from_elsewhere_count_too(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    mine = f"{tmp_path}/mine.py:probe"
    refused(lambda: resolve("metrics", f"{mine}(width='x')"), "width='x'; give a whole number")
    found: Any = resolve("metrics", f"{mine}(width=5, name=None, way='any')")
    assert found(1, 2, 3) == 5


# -- the check itself ------------------------------------------------------------------------------
KINDS: list[tuple[Any, Sequence[Any], Sequence[Any], str]] = [
    (int, [0, -3, np.int8(3)], [1.0, "3", True, np.bool_(True), None, 3j], "a whole number"),
    (float, [0, 1.5, np.float16(2)], [NAN, INF, True, "1", 10**400], "a finite number"),
    (bool, [True, np.bool_(False)], [0, "yes"], "True or False"),
    (str | None, ["x", None, np.str_("x")], [3, b"x"], "a text, or None"),
    (Annotated[float, Bounds(0, 1)], [0, 1, 0.5], [-0.1, 1.1], "a number from 0 to 1"),
    (Annotated[int, Bounds(most=3)], [-9, 3], [4], "a whole number of at most 3"),
    (Annotated[int, Bounds(2)] | None, [2, None], [1], "a whole number of at least 2, or None"),
    (Literal["a", 1], ["a", 1], ["b", True, 1.0], "'a' or 1"),
    (Sequence[int], [[], (1, 2)], ["12", [1, "2"], {1}], "a list of whole numbers"),
    (Mapping[str, int], [{}, {"a": 1}], [{"a": "b"}, {1: 1}, 3], "a dictionary"),
    (Annotated[Any, Form("a cat", lambda x: x == "cat")], ["cat"], ["dog", 3], "a cat"),
    (Count, [1, 10**6], [0, 10**6 + 1], "a whole number from 1 to 1,000,000"),
    (Seed, [0, 2**32 - 1], [-1, 2**32], "a whole number from 0 to 4,294,967,295"),
    (int | object, [3, "x", object()], [], "a whole number or object"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "right", "wrong", "words"), KINDS, ids=lambda x: str(x)[:30])
def test_a_value_fits_an_annotation_or_not(
    kind: Any, right: Sequence[Any], wrong: Sequence[Any], words: str
) -> None:
    assert in_words(kind) == words
    for value in right:
        assert check("it", value, kind) == value
    for value in wrong:
        refused(lambda v=value: check("it", v, kind), f"; give {words}")  # type: ignore[misc]


def test_defaults_and_what_has_no_annotation_are_not_checked() -> None:
    @checked
    def function(a, b: int = None, *rest: int, c: Annotated[int, Bounds(1)] = 0):  # type: ignore[no-untyped-def,assignment]  # noqa: RUF013
        return a, b, c

    assert function("x") == function("x", None, "rest", c=0) == ("x", None, 0)
    with pytest.raises(ArgumentError, match="function has c=-1; give a whole number of at least 1"):
        function("x", c=-1)


def test_a_task_is_asked_for_with_numbers() -> None:
    model = load("mini")
    for wrong in ({"n": "x"}, {"n": 0}, {"n": 10**30}, {"seed": -1}, {"seed": None}, {"n": True}):
        with pytest.raises(ArgumentError, match="; give a whole number"):
            make_task("ioi", model, **wrong)  # type: ignore[arg-type]
