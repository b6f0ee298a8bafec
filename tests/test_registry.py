"""Names to functions, of ours and of anyone's, and the names that results give to them."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from circuitkit import registry
from circuitkit.errors import UnknownNameError
from circuitkit.registry import KINDS, describe, lookup, names, resolve, serve, unknown

EVERY = [(kind, name) for kind in KINDS for name in names(kind)]


def one_sentence(message: str) -> bool:
    """Whether a shell user would see one line."""
    return bool(message) and "\n" not in message


# -- ours ------------------------------------------------------------------------------------------
def test_listing_every_kind_does_not_wait_for_torch() -> None:
    script = (
        "import sys\n"
        "from circuitkit.registry import KINDS, describe\n"
        "counts = [len(describe(kind)) for kind in KINDS]\n"
        "print(min(counts) >= 1, len(counts), 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["True", str(len(KINDS)), "False"], done.stderr


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_name_is_found_and_says_in_a_line_what_it_does(kind: str, name: str) -> None:
    function = lookup(kind, name)
    assert function.__name__ == name.rpartition(":")[2]
    folders = (kind, "viz.pictures") if kind == "formats" else (kind,)
    assert function.__module__.startswith(tuple(f"circuitkit.{folder}." for folder in folders))
    said = (inspect.getdoc(function) or "").split("\n\n")[0]
    assert describe(kind)[name] == " ".join(said.split())
    assert said


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_files_of_a_kind_offer_the_same_name(kind: str) -> None:
    import circuitkit

    offered: list[str] = []  # a reference's name is its file's as well
    root = Path(circuitkit.__path__[0])
    folders = [root / kind, *[root / "viz" / "pictures"] * (kind == "formats")]
    for file in (file for folder in folders for file in folder.glob("[!_]*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                place = f"{file.stem}:" * (kind == "references")
                offered += [f"{place}{name}" for name in ast.literal_eval(node.value)]
    assert len(offered) == len(set(offered))
    assert set(names(kind)) <= set(offered)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_serves_its_functions_as_attributes(kind: str) -> None:
    get, listed = serve(kind)
    assert listed() == list(dict.fromkeys(name.partition(":")[0] for name in names(kind)))
    for name in names(kind):
        place, _, function = name.partition(":")
        found = getattr(get(place), function) if function else get(place)
        assert found is lookup(kind, name)
    for wrong in ("_private", "nonsense"):
        with pytest.raises(AttributeError, match=wrong):
            get(wrong)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_misspelt_name_is_answered_with_a_known_one(kind: str, name: str) -> None:
    typo = name[:-1] + "_"
    with pytest.raises(UnknownNameError) as caught:
        lookup(kind, typo)
    message = str(caught.value)
    assert f" is called {typo!r}; " in message
    assert any(known in message.split(";")[1] for known in names(kind))
    assert one_sentence(message)


def test_the_nearest_name_is_offered_and_where_none_is_near_all_are() -> None:
    known = ("logit_diff", "kl", "accuracy")
    assert unknown("metric", "logitdiff", known).endswith("did you mean 'logit_diff'?")
    assert unknown("metric", "zzz", known).endswith("choose from logit_diff, kl, accuracy")


@pytest.mark.parametrize("typed", ["logit-diff", "LOGIT_DIFF", "Logit Diff", "logitdiff"])
def test_case_and_hyphens_do_not_hide_the_nearest_name(typed: str) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'logit_diff'"):
        lookup("metrics", typed)
    assert registry.nearest(typed, names("metrics")) == "logit_diff"


def test_only_case_and_hyphens_are_forgiven() -> None:
    assert registry.same_name("tasks", "Greater-Than") == "greater_than"
    assert registry.same_name("tasks", "IOI") == "ioi"
    assert registry.same_name("tasks", "greaterthan") == "greaterthan"


@pytest.mark.parametrize("kind", ["", "metric", "../metrics", "models"])
def test_an_unknown_kind_is_answered_with_the_kinds(kind: str) -> None:
    for ask in (names, describe, lambda kind: lookup(kind, "zero")):
        with pytest.raises(UnknownNameError, match=f"choose from {', '.join(KINDS)}"):
            ask(kind)


@pytest.mark.parametrize("name", ["", "_files", "__init__", "_names", "distinct", "Prompt", "os"])
def test_only_what_a_file_offers_is_found(name: str) -> None:
    for kind in KINDS:
        with pytest.raises(UnknownNameError):
            lookup(kind, name)


# -- files -----------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of one metric, in a file that may be changed."""
    monkeypatch.setattr(registry, "_ROOT", tmp_path)
    place = tmp_path / "metrics"
    place.mkdir()
    (place / "one.py").write_text(
        '__all__ = ["a"]\ndef a():\n    """First\n    line.\n\n    No."""\n'
    )
    return place


def test_a_file_is_read_once_and_again_when_it_has_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = []
    parse = ast.parse
    monkeypatch.setattr(ast, "parse", lambda *given: parsed.append(given) or parse(*given))
    for _ in range(3):
        assert describe("metrics") == {"a": "First line."}
    assert len(parsed) == 1
    (folder / "one.py").write_text('__all__ = ["b"]\ndef b():\n    """Other."""\n')
    os.utime(folder / "one.py", ns=(0, 1))
    assert describe("metrics") == {"b": "Other."}
    (folder / "two.py").write_text('__all__ = ["c"]\ndef c():\n    """Third."""\n')
    assert names("metrics") == ("b", "c")
    assert len(parsed) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_access_reads_no_file(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    get, listed = serve(kind)
    listed()
    monkeypatch.setattr(registry.ast, "parse", None)
    for name in listed():
        get(name)
    assert describe(kind)


def test_a_file_that_cannot_be_read_is_named_in_one_sentence(folder: Path) -> None:
    (folder / "two.py").write_text("def broken(:")
    with pytest.raises(UnknownNameError, match=r"two\.py") as caught:
        names("metrics")
    assert one_sentence(str(caught.value))


# -- settings --------------------------------------------------------------------------------------
def literal_settings(function: Any) -> dict[str, Any]:
    """The keyword-only parameters of a function whose defaults can be written down."""
    kinds = (bool, int, float, str, tuple, type(None))
    return {
        p.name: p.default
        for p in inspect.signature(function).parameters.values()
        if p.kind == p.KEYWORD_ONLY and isinstance(p.default, kinds)
    }


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_what_results_say_of_a_function_resolves_to_it(kind: str, name: str) -> None:
    function = lookup(kind, name)
    place = name.rpartition(":")[0]
    here = f"{place}:" if place else ""
    assert resolve(kind, here + registry.name_of(function)) is function
    assert resolve(kind, function) is function
    settings = literal_settings(function)
    found: Any = resolve(kind, here + registry.name_of(partial(function, **settings)))
    assert (found.func, found.keywords) == (function, settings)


def test_some_functions_have_settings_that_this_puts_to_the_test() -> None:
    assert sum(bool(literal_settings(lookup(*pair))) for pair in EVERY) >= 3


def test_a_partial_is_named_with_all_that_is_bound() -> None:
    def noise() -> None: ...

    bound = partial(noise, at=("S2",), draws=4)
    assert registry.name_of(noise) == "noise"
    assert registry.name_of(bound) == "noise(at=('S2',), draws=4)"
    assert registry.name_of(partial(noise, 3, draws=4)) == "noise(3, draws=4)"
    assert registry.name_of(partial(partial(noise, a=1), b=2)) == "noise(a=1, b=2)"
    assert registry.name_of(type("Probe", (), {"__call__": lambda self: None})()) == "Probe"


MINE = '''
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Window:
    width: int = 3

def probe(logits, reference, batch, *, width=3, name="x"):
    """A metric of my own."""
    return Window(width)

constant = 3
'''


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    place = tmp_path / "mine.py"
    place.write_text(MINE)
    return place


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("()", {}),
        ("(width=5)", {"width": 5}),
        ("( width = -5 , name = 'a(b)=c' )", {"width": -5, "name": "a(b)=c"}),
        ("(width=(1, [2.5, None, {'a': True}]))", {"width": (1, [2.5, None, {"a": True}])}),
    ],
)
def test_settings_are_python_literals(mine: Path, settings: str, expected: dict[str, Any]) -> None:
    found: Any = resolve("metrics", f"{mine}:probe{settings}")
    assert found.keywords == expected


@pytest.mark.parametrize(
    "settings",
    [
        "(", "(width", "(width=", "(width=5", "(5)", "(width=5, 6)", "(width=open)",
        "(width=__import__('os'))", "(width=5)(width=6)", "(width=5) + 1", "(width=5); 1", "(*[1])",
        "(width=f'{1}')", "(\0)", "(**{'width': 5})", "(width=5, width=6)", "(width={[]: 1})",
    ],
)  # fmt: skip
def test_settings_that_cannot_be_read_are_refused(mine: Path, settings: str) -> None:
    with pytest.raises(UnknownNameError, match=r"write name\(setting=value") as caught:
        resolve("metrics", f"{mine}:probe{settings}")
    assert one_sentence(str(caught.value))


def test_positional_settings_and_functions_without_settings_are_refused_in_a_sentence() -> None:
    with pytest.raises(UnknownNameError, match=r"'eap_ig\(10\)' .*settings are given by name"):
        resolve("discovery", "eap_ig(10)")
    with pytest.raises(UnknownNameError, match="kl has no settings, so 'base' cannot be set"):
        resolve("metrics", "kl(base=2)")


def test_an_unknown_setting_is_answered_with_the_nearest(mine: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'width'"):
        resolve("metrics", f"{mine}:probe(with=5)".replace("with", "wdth"))
    with pytest.raises(UnknownNameError, match="no setting of"):
        resolve("metrics", f"{mine}:probe(logits=1)")


# -- anyone's --------------------------------------------------------------------------------------
def test_a_function_in_a_file_is_found_with_its_dataclasses(mine: Path) -> None:
    probe = lookup("metrics", f"{mine}:probe")
    assert probe(None, None, None, width=7).width == 7
    assert probe.__doc__ == "A metric of my own."


def test_a_function_in_a_module_is_found() -> None:
    assert lookup("metrics", "os.path:basename")("a/b") == "b"


def test_a_file_hides_no_module_of_its_name(tmp_path: Path) -> None:
    import json

    (tmp_path / "json.py").write_text("def probe():\n    import json\n    return json.dumps({})\n")
    assert lookup("metrics", f"{tmp_path}/json.py:probe")() == "{}"
    assert sys.modules["json"] is json


def test_a_changed_file_is_read_again(mine: Path) -> None:
    assert lookup("metrics", f"{mine}:probe")(None, None, None).width == 3
    mine.write_text("def probe():\n    return 'new'\n")
    assert lookup("metrics", f"{mine}:probe")() == "new"


@pytest.mark.parametrize(
    "content",
    [
        "def broken(:\n", "import not_a_module_at_all\n", "raise RuntimeError('two\\nlines')\n",
        "1 / 0\n", "undefined_name\n", "\tx = 1\n y = 2\n", "from os import nothing_of_that_name\n",
        "x = '\\ud800'.encode()\n", "assert False\n",
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_in_one_sentence(content: str, tmp_path: Path) -> None:
    place = tmp_path / "broken.py"
    place.write_text(content)
    with pytest.raises(UnknownNameError) as caught:
        lookup("metrics", f"{place}:probe")
    message = str(caught.value)
    assert repr(str(place)) in message
    assert "give path/to/file.py:name or package.module:name" in message
    assert one_sentence(message)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00", b"\x89PNG\r\n"])
def test_a_file_that_is_no_text_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "binary.py").write_bytes(content)
    with pytest.raises(UnknownNameError, match="cannot be imported"):
        lookup("metrics", f"{tmp_path}/binary.py:probe")


@pytest.mark.parametrize(
    "place", ["absent.py", "no_such_module", "no.such.module", "", ".", ".relative", "os.nothing"]
)
def test_a_place_that_is_not_there_is_refused(place: str) -> None:
    with pytest.raises(UnknownNameError, match="cannot be imported for metrics") as caught:
        lookup("metrics", f"{place}:probe")
    assert one_sentence(str(caught.value))


@pytest.mark.parametrize("name", ["absent", "", "constant", "Probe"])
def test_a_function_that_a_file_lacks_is_refused(name: str, mine: Path) -> None:
    with pytest.raises(UnknownNameError, match=f"has no function {name!r}"):
        lookup("metrics", f"{mine}:{name}")


# -- what users list -------------------------------------------------------------------------------
LISTS = {"metrics": "metrics", "corruptions": "corruptions", "discovery": "methods",
         "tasks": "tasks", "references": "references", "formats": "formats"}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_each_registry_is_listed_and_its_package_lists_its_names(kind: str) -> None:
    import circuitkit

    listed = getattr(circuitkit, f"list_{LISTS[kind]}")()
    assert listed == names(kind)
    assert type(listed) is tuple
    package = getattr(circuitkit, kind)
    assert dir(package) == sorted({name.partition(":")[0] for name in listed})


def test_the_listed_models_are_those_that_load_knows_by_name() -> None:
    import circuitkit
    from circuitkit.models.fetching import FETCHED

    assert circuitkit.list_models() == ("mini", *FETCHED)
