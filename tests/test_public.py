"""The public surface, the README and the package's data."""

from __future__ import annotations

import ast
import operator
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

import circuitkit
from circuitkit import registry
from circuitkit.cli.main import build_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [n for n in circuitkit.__all__ if n != "__version__"])
def test_every_public_name_is_served(name: str) -> None:
    value = getattr(circuitkit, name)
    assert value.__doc__
    assert name in dir(circuitkit)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        circuitkit.nothing  # noqa: B018
    assert not hasattr(circuitkit, "__wrapped__")


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("evalute", "did you mean 'evaluate'"), ("Patch_Node", "did you mean 'patch_nodes'"),
        ("eap_ig", "did you mean 'discovery.eap_ig'"), ("IOI", "did you mean 'tasks.ioi'"),
        ("logitdiff", "did you mean 'metrics.logit_diff'"), ("HookedTransformer", "use load"),
        ("from_pretrained", "use load"), ("path_patching", "use patch_path"),
        ("xyzzy", r"dir\(circuitkit\) lists its names"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_answered_with_what_to_use(typed: str, answer: str) -> None:
    with pytest.raises(AttributeError, match=f"circuitkit has no {typed!r}; {answer}"):
        getattr(circuitkit, typed)


COMING = {"discover", "Circuit.load"}  # empty once these are there


def test_every_successor_is_there_and_what_it_replaces_is_not() -> None:
    """Names that are still served are replaced when they go."""
    for old, new in circuitkit._SUCCESSORS.items():
        first = re.split(r"[ ,]", new)[0]
        if first in COMING or old in circuitkit.__all__ or first.startswith("circuit."):
            continue
        assert operator.attrgetter(first)(circuitkit), new


@pytest.mark.parametrize("place", [*circuitkit._FOLDERS, ""])
def test_dir_lists_public_names_only(place: str) -> None:
    listed = dir(getattr(circuitkit, place) if place else circuitkit)
    assert listed
    assert not [name for name in listed if name.startswith("_") and name != "__version__"]


@pytest.mark.parametrize("kind", registry.KINDS)
def test_a_folder_serves_functions_and_not_modules(kind: str) -> None:
    """A file may not be called as its function is, or the module would stand in its way."""
    folder = getattr(circuitkit, kind)
    for name in registry.names(kind):
        function = registry.lookup(kind, name)
        assert operator.attrgetter(name.replace(":", "."))(folder) is function
        assert function.__module__.rsplit(".", 1)[1] != name


# -- what type checkers see ------------------------------------------------------------------------
def shown(package: str) -> dict[str, str]:
    """What a package imports for type checkers, each name with the place that it comes from."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for block in tree.body
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_type_checkers_see_what_is_served() -> None:
    served = {name: f"circuitkit.{at}.{name}" for name, at in circuitkit._PLACES.items()}
    folders = {name: f"circuitkit.{at}" for name, at in circuitkit._FOLDERS.items()}
    assert shown("circuitkit") == served | folders


@pytest.mark.parametrize("kind", registry.KINDS)
def test_type_checkers_see_what_a_folder_serves(kind: str) -> None:
    served = {}
    for name in registry.names(kind):
        place, file = registry.lookup(kind, name).__module__, name.partition(":")[0]
        served[file] = place if ":" in name else f"{place}.{name}"
    assert shown(f"circuitkit/{kind}") == served


ARRAY = "numpy.ndarray[tuple[Any, ...], numpy.dtype[Any]]"  # which numpy itself leaves so
CLASS = "class {}:\n    def __getattr__(self, name: str) -> object: ...\n"
STUBS = {  # of libraries without types, and of torch, whose 1,400 files are slow to read
    "networkx": CLASS.format("DiGraph"),
    "pandas": CLASS.format("DataFrame"),
    "matplotlib": "",
    "matplotlib.figure": CLASS.format("Figure"),
    "torch": f"""
from typing import TypeVar
from . import nn
F = TypeVar("F")
{CLASS.format("Tensor")}
class dtype: ...
class device: ...
class no_grad:
    def __call__(self, function: F) -> F: ...
def __getattr__(name: str) -> object: ...
""",
    "torch.nn": CLASS.format("Module"),
    "scipy": "",
    "scipy.sparse": "class csr_array: ...",
}
SETTINGS = """
[mypy]
strict = True
[mypy-circuitkit.*]
ignore_errors = True
[mypy-torch.*,transformers.*,transformer_lens.*]
follow_imports = skip
[mypy-torch,torch.nn]
follow_imports = normal
"""


def test_every_public_name_has_its_true_type(tmp_path: Path) -> None:
    """What mypy says of each, where the libraries without types of their own have some; whether the
    package itself is sound, for which mypy reads what is in its functions, is asked elsewhere."""
    for module, text in STUBS.items():
        stub = tmp_path.joinpath(*module.split("."), "__init__.pyi")
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(text)
    names = [name for name in circuitkit.__all__ if name not in circuitkit._FOLDERS]
    names += [f"{kind}.{name.replace(':', '.')}"
              for kind in registry.KINDS for name in registry.names(kind)]  # fmt: skip
    names += [f"{part}.{name}" for part in ("figures", "rasp")
              for name in getattr(circuitkit, part).__all__]  # fmt: skip
    lines = [f"reveal_type(circuitkit.{name})" for name in names]
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    (tmp_path / "use.py").write_text("\n".join(["import circuitkit", *lines]))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", os.devnull,
         "use.py"],
        capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "MYPYPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    said = re.findall(r'use.py:(\d+): note: Revealed type is "(.*)"', done.stdout)
    types = {names[int(line) - 2]: kind.replace(ARRAY, "array") for line, kind in said}
    assert list(types) == names, done.stdout + done.stderr
    types = {name: re.sub(r"\w+\[str, Any\]", "Json", kind) for name, kind in types.items()}
    vague = {name for name, kind in types.items() if re.search(r"\bAny\b|^object$", kind)}
    assert vague <= {"resolve", "rasp.Map", "rasp.Select", "rasp.SequenceMap", "rasp.evaluate"}
    assert types["Circuit"].endswith("-> circuitkit.graph.circuit.Circuit")


# What takes or gives anything at all. JSON values are ``Json``, and what a program computes with
# ``truth.rasp.language.Value``.
ANYTHING = {
    "graph.places.PlacedMask",  # arrays of NumPy, or tensors
    "engine.model.Context",  # what the model gives its own attention
    "registry.lookup", "registry.resolve", "registry.serve",  # functions of the kind that was named
    "models.stubs.Muted.forward",  # the arguments of the module in whose place it stands
    "models.stubs.twin_with",  # attributes of a module, of whatever kind
    # TransformerLens's own objects, which have no types
    "models.transformer_lens.Transformer.__init__", "models.compat.parts_of",
    "models.compat.original", "models.compat.is_parallel", "models.compat.without_forks",
    "models.compat.use_eager", "models.rules.norms_within", "models.placing.moved_within",
    "viz.figures.curves.Lines.paint", "viz.figures.grids.Panels.paint",
    "viz.figures.heatmaps.Heatmap.paint", "viz.figures.grids.Panels.matplotlib",
    "workflows.track.cells.Asking",  # settings that discover is given
}  # fmt: skip


def annotated(file: Path) -> Iterator[tuple[str, str]]:
    """Every annotation of a file's public functions, fields and methods, with whose it is."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    public: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            public = [one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant)]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in public:
            yield from ((node.name, text) for text in signature(node))
        elif isinstance(node, ast.ClassDef) and node.name in public:
            for own in node.body:
                if isinstance(own, ast.AnnAssign):
                    yield node.name, ast.unparse(own.annotation)
                elif isinstance(own, ast.FunctionDef) and own.name.strip("_") in (own.name, "init"):
                    yield from ((f"{node.name}.{own.name}", text) for text in signature(own))


def signature(function: ast.FunctionDef) -> Iterator[str]:
    given = [node.annotation for node in ast.walk(function.args) if isinstance(node, ast.arg)]
    yield from (ast.unparse(one) for one in (*given, function.returns) if one is not None)


def test_no_public_function_takes_or_gives_just_anything() -> None:
    root, vague = ROOT / "circuitkit", set()
    for file in root.rglob("*.py"):
        place = ".".join(file.relative_to(root).with_suffix("").parts)
        if not place.startswith("cli."):  # whose functions nobody else calls
            vague |= {f"{place}.{name}" for name, text in annotated(file)
                      if re.search(r"\bAny\b", text)}  # fmt: skip
    assert vague <= ANYTHING
    assert "registry.lookup" in vague


def test_the_readme_examples_run_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert blocks
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        assert len([line for line in block.splitlines() if line.strip()]) <= 15
        exec(compile(block, "README.md", "exec"), names)
    assert isinstance(names["circuit"], nx.DiGraph)
    assert "faithfulness" in capsys.readouterr().out
    assert (tmp_path / "ioi.svg").read_text().startswith("<svg")
    assert circuitkit.Circuit.load(tmp_path / "ioi.json").heads


def test_the_readme_names_every_command() -> None:
    actions = [a for a in build_parser()._actions if hasattr(a, "choices") and a.choices]
    commands = [name for action in actions for name in action.choices]
    assert len(commands) >= 8
    for command in commands:
        assert f"circuitkit {command}" in README


def test_results_draw_themselves_in_a_notebook() -> None:
    model = circuitkit.load("mini")
    found = circuitkit.discover(model, "ioi", edges=30, examples=8)
    assert "<svg" in found.circuit._repr_svg_()
    assert "&lt;svg" in found._repr_html_()
    assert "faithfulness" in repr(found)
    assert "edges" in repr(found.circuit)


def test_the_embedded_model_is_small() -> None:
    files = [p for p in (ROOT / "circuitkit" / "assets").rglob("*") if p.is_file()]
    assert files
    size = sum(p.stat().st_size for p in files)
    assert size <= 4 * 2**20 + 2.5e6  # mini, and its transcoders
