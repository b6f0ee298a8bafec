"""Names to functions: the folder is the registry.

Each file of ``metrics/``, ``corruptions/``, ``discovery/``, ``tasks/``, ``references/``,
``formats/`` and ``viz/pictures/`` (the formats that draw) offers the functions in its ``__all__``.
A reference is called as its file and its function, ``ioi:wang2022``: the task, and the source.
Listing the names reads the files without importing them, so that ``circuitkit list`` does not wait
for torch.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from circuitkit.errors import UnknownNameError

__all__ = [
    "KINDS",
    "describe",
    "folder_of",
    "lookup",
    "name_of",
    "names",
    "resolve",
    "serve",
    "unknown",
]

_ONE = {
    "metrics": "metric",
    "corruptions": "corruption",
    "discovery": "discovery method",
    "tasks": "task",
    "references": "published circuit",
    "formats": "file format",
}
KINDS = tuple(_ONE)
_ROOT = Path(__file__).parent
_FOLDERS = {kind: (kind,) for kind in KINDS} | {"formats": ("formats", "viz/pictures")}
_BY_FILE = ("references",)  # kinds whose names are file:function


@cache
def _exported(file: Path, changed: int) -> dict[str, str]:
    """The public functions of a file, each with the first paragraph of its docstring as one line,
    unimported; read again when the file has ``changed``."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise UnknownNameError(f"{str(file)!r} is not a Python file ({error}); mend it") from error
    public: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            public = ast.literal_eval(node.value)
    docs = {
        node.name: " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }
    return {name: docs[name] for name in public if name in docs}


def _entries(kind: str) -> dict[str, tuple[Path, str, str]]:
    """What a kind offers: each name with its file, its function, and what that is said to do."""
    if kind not in KINDS:
        raise UnknownNameError(
            f"nothing is catalogued under {kind!r}; choose from {', '.join(KINDS)}"
        )
    files = (f for folder in _FOLDERS[kind] for f in sorted((_ROOT / folder).glob("[!_]*.py")))
    return {
        f"{file.stem}:{name}" if kind in _BY_FILE else name: (file, name, doc)
        for file in files
        for name, doc in _exported(file, file.stat().st_mtime_ns).items()
    }


def describe(kind: str) -> dict[str, str]:
    """The names of a kind, each with its description, in the order of the files."""
    return {name: doc for name, (_, _, doc) in _entries(kind).items()}


def names(kind: str) -> tuple[str, ...]:
    """The names of a kind."""
    return tuple(_entries(kind))


def folder_of(kind: str, name: str) -> str:
    """The folder whose file offers the name: ``formats`` of what saves a circuit, ``viz/pictures``
    of what draws one. Raises UnknownNameError, with the nearest name, where there is none."""
    entries = _entries(kind)
    if name not in entries:
        raise UnknownNameError(unknown(_ONE[kind], name, tuple(entries)))
    return entries[name][0].parent.relative_to(_ROOT).as_posix()


def lookup(kind: str, name: str) -> Callable[..., Any]:
    """The function of that name, or of ``path/to/file.py:name``, or of ``package.module:name``.

    Raises UnknownNameError, with the nearest name, where there is none.
    """
    if _from_outside(kind, name):
        return _outside(kind, *name.rsplit(":", 1))
    entries = _entries(kind)
    if name not in entries:
        raise UnknownNameError(unknown(_ONE[kind], name, tuple(entries)))
    file, function, _ = entries[name]
    found: Callable[..., Any] = getattr(_module(file), function)
    return found


def resolve(kind: str, expression: Callable[..., Any] | str) -> Callable[..., Any]:
    """The function that a name with settings stands for: ``eap_ig(steps=10)``, ``zero``; one that
    is given itself stays as it is.

    Settings are Python literals; ``name_of`` writes what this reads. Raises
    UnknownNameError where the expression, the name or a setting is not known.
    """
    if not isinstance(expression, str):
        return expression
    name, bracket, rest = expression.partition("(")
    function = lookup(kind, name.strip())
    if not bracket:
        return function
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            raise ValueError("settings are given by name")
        settings = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (ValueError, SyntaxError) as error:
        raise UnknownNameError(
            f"{expression!r} cannot be read ({error}); write name(setting=value, ...)"
        ) from error
    known = tuple(
        p.name for p in inspect.signature(function).parameters.values() if p.kind == p.KEYWORD_ONLY
    )
    for setting in settings:
        if setting not in known:
            hint = unknown(f"setting of {name}", setting, known) if known else f"{name} has none"
            raise UnknownNameError(hint)
    return partial(function, **settings)


def name_of(function: Callable[..., object]) -> str:
    """``noise(draws=4, spans=('S2',))`` of a partial application, else the function's name."""
    if isinstance(function, partial):
        bound = [repr(value) for value in function.args]
        bound += [f"{key}={value!r}" for key, value in sorted(function.keywords.items())]
        return f"{name_of(function.func)}({', '.join(bound)})"
    return getattr(function, "__name__", type(function).__name__)


def serve(kind: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a folder's package: its functions, imported when used, or
    its files (``references.ioi``) where they are a part of the names."""

    def listed() -> list[str]:
        return list(dict.fromkeys(name.partition(":")[0] for name in names(kind)))

    def get(name: str) -> Any:
        if name not in listed():
            raise AttributeError(unknown(_ONE[kind], name, names(kind)))
        files = {file.stem: file for file, _, _ in _entries(kind).values()}
        return _module(files[name]) if kind in _BY_FILE else lookup(kind, name)

    return get, listed


def unknown(what: str, name: str, known: tuple[str, ...]) -> str:
    """The sentence for a name that nothing carries, with the nearest one that something does."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
    return f"no {what} is called {name!r}; {hint}"


def _module(file: Path) -> ModuleType:
    """A file of the package as its module."""
    return importlib.import_module(
        ".".join(("circuitkit", *file.relative_to(_ROOT).with_suffix("").parts))
    )


def _from_outside(kind: str, name: str) -> bool:
    """Whether a name has a place before its colon; that of a reference may be a task's."""
    place, colon, _ = name.rpartition(":")
    return bool(colon) and (kind not in _BY_FILE or "." in place)


def _outside(kind: str, place: str, name: str) -> Callable[..., Any]:
    try:
        module = _file_module(place) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:  # what is not ours raises what it likes
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise UnknownNameError(
            f"{place!r} cannot be imported for {kind} ({reason}); "
            "give path/to/file.py:name or package.module:name"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UnknownNameError(f"{place!r} has no function {name!r} for {kind}")
    found: Callable[..., Any] = function
    return found


def _file_module(place: str) -> ModuleType:
    """The file as a module, under a name that hides no other module of that name."""
    name = f"circuitkit_outside_{Path(place).stem}"
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        raise ImportError(place)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for the names in their annotations
    spec.loader.exec_module(module)
    return module
