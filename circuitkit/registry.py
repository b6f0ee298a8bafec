"""Names to functions: the folder is the registry.

Each file of ``metrics/``, ``corruptions/``, ``discovery/``, ``tasks/``, ``references/``,
``formats/`` and ``viz/pictures/`` (the formats that draw) offers the functions in its ``__all__``.
The name of a reference is that of its file and of its function, ``ioi:wang2022``: the task, and the
source. Listing the names reads the files without importing them, so that ``circuitkit list`` does
not wait for torch; a file is read once, and again when it has changed.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any, TypeVar

from circuitkit.errors import UnknownNameError
from circuitkit.util import options
from circuitkit.util.naming import nearest, plain_name, unknown
from circuitkit.util.options import check_settings

__all__ = [
    "KINDS",
    "Setting",
    "bind",
    "describe",
    "folder_of",
    "list_corruptions",
    "list_formats",
    "list_methods",
    "list_metrics",
    "list_references",
    "list_tasks",
    "lookup",
    "name_of",
    "names",
    "nearest",
    "resolve",
    "same_name",
    "serve",
    "settings_of",
    "unknown",
]

T = TypeVar("T")

_ONE = {
    "metrics": "metric",
    "corruptions": "corruption",
    "discovery": "discovery method",
    "tasks": "task",
    "references": "published circuit",
    "formats": "file format",
}
KINDS = tuple(_ONE)
LONGEST = 10_000  # characters of settings
_ROOT = Path(__file__).parent
_FOLDERS = {kind: (kind,) for kind in KINDS} | {"formats": ("formats", "viz/pictures")}
_BY_FILE = ("references",)  # kinds whose names are file:function


@cache
def _exported(file: Path, changed: int) -> dict[str, str]:
    """The public functions of a file, each with the first paragraph of its docstring as one line;
    the file is not imported, and is read again when it has ``changed``."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise UnknownNameError(
            f"{str(file)!r} is not a Python file ({error}); correct it"
        ) from error
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
    """What a kind offers: each name with its file, its function and its description."""
    if kind not in KINDS:
        raise UnknownNameError(f"there is no registry {kind!r}; choose from {', '.join(KINDS)}")
    files = (f for folder in _FOLDERS[kind] for f in sorted((_ROOT / folder).glob("[!_]*.py")))
    return {
        f"{file.stem}:{name}" if kind in _BY_FILE else name: (file, name, doc)
        for file in files
        for name, doc in _exported(file, file.stat().st_mtime_ns).items()
    }


def _entry(kind: str, name: str) -> tuple[Path, str, str]:
    """Where the name is from; raises UnknownNameError, with the nearest name, if there is none."""
    entries = _entries(kind)
    if name not in entries:
        raise UnknownNameError(unknown(_ONE[kind], name, tuple(entries)))
    return entries[name]


def describe(kind: str) -> dict[str, str]:
    """The names of a kind, each with its description, in the order of the files."""
    return {name: doc for name, (_, _, doc) in _entries(kind).items()}


def names(kind: str) -> tuple[str, ...]:
    """The names of a kind."""
    return tuple(_entries(kind))


def folder_of(kind: str, name: str) -> str:
    """The folder whose file offers the name: ``formats`` of what saves a circuit, ``viz/pictures``
    of what draws one. Raises UnknownNameError, with the nearest name, if there is none."""
    return _entry(kind, name)[0].parent.relative_to(_ROOT).as_posix()


def lookup(kind: str, name: str) -> Callable[..., Any]:
    """The function of that name, or of ``path/to/file.py:name``, or of ``package.module:name``.

    Raises UnknownNameError, with the nearest name, if there is none.
    """
    if _from_outside(kind, name):
        return _outside(kind, *name.rsplit(":", 1))
    file, function, _ = _entry(kind, name)
    found: Callable[..., Any] = getattr(_module(file), function)
    return found


def resolve(kind: str, expression: Callable[..., Any] | str) -> Callable[..., Any]:
    """The function for a name with settings, such as ``eap_ig(steps=10)`` or ``zero``.

    Args:
        kind: The registry: ``metrics``, ``corruptions``, ``discovery``, ``tasks``, ``references``
            or ``formats``.
        expression: A name; a name with settings, which are Python literals given by name;
            ``path/to/file.py:name`` or ``package.module:name``. A function is returned as it is.

    Returns:
        The function itself, or a ``functools.partial`` of it with the settings.

    Raises:
        UnknownNameError: if the expression cannot be read, or if there is no such name or setting;
            the message suggests the nearest one.
        ArgumentError: if a setting has a value that the function does not allow.

    Example:
        >>> ck.resolve("metrics", "kl") is ck.metrics.kl
        True
        >>> ck.resolve("discovery", "eap_ig(steps=10)").keywords
        {'steps': 10}
        >>> ck.resolve("metrics", "logit-diff")
        Traceback (most recent call last):
            ...
        circuitkit.errors.UnknownNameError: no metric is called 'logit-diff'; did you mean ...
    """
    if not isinstance(expression, str):
        return expression
    name, bracket, rest = expression.partition("(")
    function = lookup(kind, name.strip())
    if not bracket:
        return function
    return bind(name.strip(), function, _read_settings(expression, rest))


def _read_settings(expression: str, rest: str) -> dict[str, object]:
    """The settings in what follows the bracket; raises UnknownNameError for what cannot be read."""
    try:
        if len(rest) > LONGEST:
            raise ValueError(f"its settings have {len(rest):,} characters")
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("it is not one call")
        if call.args or any(k.arg is None for k in call.keywords):
            raise ValueError("settings are given by name")
        given = [str(k.arg) for k in call.keywords]
        for one in given:
            if given.count(one) > 1:
                raise ValueError(f"{one} is given {given.count(one)} times; leave one")
        return {str(k.arg): _literal(str(k.arg), k.value) for k in call.keywords}
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        because = str(error).partition(" (<unknown>")[0] or "it is nested too deep"
        shown = expression if len(expression) <= 80 else f"{expression[:80]}..."
        raise UnknownNameError(
            f"{shown!r} cannot be read ({because}); write name(setting=value, ...)"
        ) from error


def _literal(name: str, value: ast.expr) -> object:
    """The value of a setting that is written as a literal; raises ValueError for code."""
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError) as error:
        written = ast.unparse(value)[:60]
        raise ValueError(
            f"{name}={written} is not a number, a text, None, or a list of them"
        ) from error


def bind(name: str, function: Callable[..., T], settings: Mapping[str, object]) -> Callable[..., T]:
    """The function with these settings; ``name`` is what messages call it.

    Raises UnknownNameError for a setting that it does not have, with the nearest that it has, and
    ArgumentError for a value that its annotation does not allow.
    """
    parameters = inspect.signature(function).parameters.values()
    known = tuple(p.name for p in parameters if p.kind == p.KEYWORD_ONLY)
    for setting in settings:
        if setting not in known:
            none = f"{name} has no settings, so {setting!r} cannot be set"
            raise UnknownNameError(unknown(f"setting of {name}", setting, known) if known else none)
    return partial(function, **check_settings(name, function, settings))


@dataclass(frozen=True)
class Setting:
    """A setting of a function, for users: its name, what it may be in words, and its default as
    Python writes it; empty where it has to be given."""

    name: str
    allowed: str
    default: str


def settings_of(kind: str, name: str) -> tuple[Setting, ...]:
    """The settings that a name takes in brackets, without importing its file.

    Raises UnknownNameError, with the nearest name, if there is none.

    Example:
        >>> from circuitkit import registry
        >>> registry.settings_of("discovery", "eap_ig")[:1]
        (Setting(name='steps', allowed='a whole number from 1 to 10,000', default='5'),)
    """
    file, function, _ = _entry(kind, name)
    return _settings(file, file.stat().st_mtime_ns)[function]


@cache
def _settings(file: Path, changed: int) -> dict[str, tuple[Setting, ...]]:
    """The settings of each function of a file, which is not imported."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    constants = _imported(body) | _constants(body)
    found = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            given = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            found[node.name] = tuple(_setting(own, value, constants) for own, value in given)
    return found


def _imported(body: Sequence[ast.stmt]) -> dict[str, str]:
    """The constants that a file imports by name from files of ours, as they are written there."""
    found: dict[str, str] = {}
    for node in body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("circuitkit."):
            place = _ROOT.joinpath(*str(node.module).split(".")[1:]).with_suffix(".py")
            if place.is_file():
                there = _constants_there(place)
                found |= {one.name: there[one.name] for one in node.names if one.name in there}
    return found


@cache
def _constants_there(file: Path) -> dict[str, str]:
    return _constants(ast.parse(file.read_text(encoding="utf-8")).body)


def _constants(body: Sequence[ast.stmt]) -> dict[str, str]:
    """The constants of a file, as they are written."""
    return {
        target.id: ast.unparse(node.value)
        for node in body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }


class _Known(dict[str, Any]):
    """Names by which annotations are read; one that is not among them may be anything."""

    def __missing__(self, name: str) -> Any:
        return Any


def _setting(argument: ast.arg, value: ast.expr | None, constants: Mapping[str, str]) -> Setting:
    """A setting as it is written; a default that is a constant of the file as the constant's."""
    written = ast.unparse(argument.annotation) if argument.annotation else "Any"
    written = constants.get(written, written)
    kind = options.read_kind(written, _Known({**vars(builtins), **vars(options)}))
    allowed = written if kind is None else options.in_words(kind)
    default = ast.unparse(value) if value else ""
    return Setting(argument.arg, allowed, constants.get(default, default))


def name_of(function: Callable[..., object]) -> str:
    """``noise(at='S2', draws=4)`` of a partial application, else the function's name."""
    if isinstance(function, partial):
        bound = [_spelt(value) for value in function.args]
        bound += [f"{key}={_spelt(value)}" for key, value in sorted(function.keywords.items())]
        return f"{name_of(function.func)}({', '.join(bound)})"
    return getattr(function, "__name__", type(function).__name__)


def _spelt(value: object) -> str:
    """A value as ``resolve`` reads it: numbers of NumPy as Python's, paths as texts."""
    plain = options.plain_number(value)
    return repr(str(plain) if isinstance(plain, PurePath) else plain)


def serve(kind: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a folder's package: its functions, imported when used, or
    its files (``references.ioi``) if they are part of the names."""

    def listed() -> list[str]:
        return list(dict.fromkeys(name.partition(":")[0] for name in names(kind)))

    def get(name: str) -> Any:
        if name.startswith("__"):  # what Python asks every module for
            raise AttributeError(name)
        if name not in listed():
            raise AttributeError(unknown(_ONE[kind], name, tuple(listed())))
        files = {file.stem: file for file, _, _ in _entries(kind).values()}
        return _module(files[name]) if kind in _BY_FILE else lookup(kind, name)

    return get, listed


def same_name(kind: str, name: str) -> str:
    """The name of a kind that differs from this one in case and hyphens only; else this one."""
    return next((known for known in names(kind) if plain_name(known) == plain_name(name)), name)


# -- what there is, for users ----------------------------------------------------------------------
def list_metrics() -> tuple[str, ...]:
    """The names of the metrics, as ``evaluate`` and ``discover`` take them.

    ``help(ck.metrics.kl)`` says what one measures; ``circuitkit list metrics`` describes them all.

    Example:
        >>> "logit_diff" in ck.list_metrics()
        True
    """
    return names("metrics")


def list_corruptions() -> tuple[str, ...]:
    """The names of the corruptions: what an edge outside of the circuit carries.

    ``help(ck.corruptions.mean)`` says what one carries; ``circuitkit list corruptions`` describes
    them all.

    Example:
        >>> ck.list_corruptions()[:6]
        ('mean', 'mean_by_position', 'zero', 'peak', 'noise', 'optimal')
    """
    return names("corruptions")


def list_methods() -> tuple[str, ...]:
    """The names of the discovery methods, which are the functions of ``ck.discovery``.

    ``help(ck.discovery.eap_ig)`` says how one scores edges; ``circuitkit list discovery`` describes
    them all.

    Example:
        >>> "eap_ig" in ck.list_methods()
        True
    """
    return names("discovery")


def list_tasks() -> tuple[str, ...]:
    """The names of the tasks, as ``make_task`` and ``discover`` take them.

    ``help(ck.tasks.ioi)`` shows the prompts of one; ``circuitkit list tasks`` describes them all.

    Example:
        >>> "ioi" in ck.list_tasks()
        True
    """
    return names("tasks")


def list_references() -> tuple[str, ...]:
    """The names of the published circuits, ``task:source``, as ``compare`` takes them.

    ``circuitkit list references`` says how large each is.

    Example:
        >>> "ioi:wang2022" in ck.list_references()
        True
    """
    return names("references")


def list_formats() -> tuple[str, ...]:
    """The file formats that a circuit is written in, which are the suffixes of their files.

    Example:
        >>> "json" in ck.list_formats()
        True
    """
    return names("formats")


# -- files -----------------------------------------------------------------------------------------
def _module(file: Path) -> ModuleType:
    """A file of the package as its module."""
    return importlib.import_module(
        ".".join(("circuitkit", *file.relative_to(_ROOT).with_suffix("").parts))
    )


def _from_outside(kind: str, name: str) -> bool:
    """Whether a name has a place before its colon; a reference may have its task there."""
    place, colon, _ = name.rpartition(":")
    return bool(colon) and (kind not in _BY_FILE or "." in place)


def _outside(kind: str, place: str, name: str) -> Callable[..., Any]:
    try:
        module = _file_module(place) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:  # code that is not ours may raise anything
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
    """The file as a module, under a name that does not hide another module."""
    name = f"circuitkit_outside_{Path(place).stem}"
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        raise ImportError(place)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up the names in their annotations there
    spec.loader.exec_module(module)
    return module
