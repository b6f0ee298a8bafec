"""The shape of the code: who may import whom, and what no file holds."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import circuitkit

ROOT = Path(circuitkit.__path__[0])

# A module imports only from rows above its own, and a folder's files from each other. A new module
# gets a place here.
ROWS = (
    "errors naming progress silence undefined",
    "catalogue units",
    "nodes",
    "wiring",
    "circuit data",
    "memory",
    "model scores overlap cache surgery norms",
    "judge journal ranking interchange",
    "engine.plan",
    "engine.run",
    "engine.attribute engine.sweep",
    "transformer",
    "metrics corruptions export tasks references",
    "figures",
    "proof rasp",
    "models",
    "patching attention",
    "discovery faithfulness detection",
    "knockouts verification robustness sparsity",
    "planning",
    "find",
    "studies benching",
    "commands",
    "cli",
    "__main__",
)
ROW = {name: number for number, row in enumerate(ROWS) for name in row.split()}
WITHOUT_TORCH = {
    "errors", "naming", "progress", "catalogue", "units", "nodes", "wiring", "circuit", "scores",
    "overlap", "cache", "export", "figures", "references", "ranking",
    "interchange", "undefined",
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module by its name within the package; a folder's __init__ is called as the folder."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
every_module = pytest.mark.parametrize("name", TREES)
FILES = [ROOT / "__init__.py", *MODULES.values()]
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def folder(name: str) -> str:
    return name.split(".")[0]


def row(name: str) -> int | None:
    """The row of a module, or of its folder; None for a folder that only holds modules of rows."""
    if name == "engine":
        return None
    return ROW.get(name, ROW.get(folder(name)))


def imports(tree: ast.AST, name: str) -> Iterator[str]:
    """The modules of ours that a module imports, also inside its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "circuitkit" if node.level else node.module or ""
            targets = [f"{base}.{alias.name}" for alias in node.names] + [base]
        else:
            continue
        for target in targets:
            ours = target.removeprefix("circuitkit.")
            if target.startswith("circuitkit.") and ours in MODULES and ours != name:
                yield ours


def outer_imports(tree: ast.AST) -> set[str]:
    """The packages that a module imports, also inside its functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


# -- rows ------------------------------------------------------------------------------------------
@every_module
def test_a_module_has_a_row(name: str) -> None:
    assert name == "engine" or row(name) is not None, f"write {name} into ROWS"


@every_module
def test_a_module_imports_only_from_rows_above_its_own(name: str) -> None:
    mine = row(name)
    for other in imports(TREES[name], name):
        theirs = row(other)
        if mine is None or theirs is None:
            continue
        if folder(name) == folder(other) != "engine":
            continue
        assert theirs < mine, f"{name} imports {other}"


def test_the_imports_that_the_rows_judge_are_found() -> None:
    assert "wiring" in set(imports(TREES["circuit"], "circuit"))
    assert "circuit" in set(imports(TREES["scores"], "scores"))
    assert "engine.run" in set(imports(TREES["engine.attribute"], "engine.attribute"))
    inside = ast.parse("def f():\n    from circuitkit import wiring\n    import circuitkit.nodes\n")
    assert set(imports(inside, "circuit")) == {"wiring", "nodes"}


def test_folder_mates_do_not_import_each_other_in_a_circle() -> None:
    graph = {name: set(imports(TREES[name], name)) for name in TREES}
    done: set[str] = set()
    while graph:
        free = {name for name, needed in graph.items() if not (needed - done) & graph.keys()}
        assert free, f"a circle among {sorted(graph)}"
        done |= free
        graph = {name: needed for name, needed in graph.items() if name not in free}


def test_only_the_adapter_knows_transformer_lens() -> None:
    knowing = {name for name, tree in TREES.items() if "transformer_lens" in outer_imports(tree)}
    assert knowing == {"transformer"}


@every_file
def test_nothing_is_imported_relatively_or_wholesale(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert all(alias.name != "*" for alias in node.names)


def test_what_draws_and_compares_saved_circuits_never_imports_torch() -> None:
    names = [name for name in MODULES if folder(name) in WITHOUT_TORCH]
    assert len(names) > len(WITHOUT_TORCH)
    script = "import importlib, sys\n" + "".join(
        f"importlib.import_module('circuitkit.{name}')\n"
        f"if 'torch' in sys.modules: sys.exit('{name} imports torch')\n"
        for name in names
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_saved_circuit_is_read_drawn_and_compared_without_torch(tmp_path: Path) -> None:
    script = """
import sys
import numpy as np
from circuitkit.catalogue import lookup
from circuitkit.circuit import prune, read, summary, to_json, write_whole
from circuitkit.overlap import compare
from circuitkit.scores import Scores
from circuitkit.wiring import Wiring

wiring = Wiring(2, 4, 2)
scores = Scores(wiring, np.random.default_rng(0).standard_normal(wiring.shape))
scores.save("s")
write_whole("c.json", to_json(Scores.load("s").top(20)))
circuit = prune(read("c.json"))
lookup("export", "svg")(circuit), summary(circuit), repr(compare(circuit, circuit))
sys.exit("torch is imported" if "torch" in sys.modules else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT.parent)!r})\n{script}"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# -- what no file holds ----------------------------------------------------------------------------
@every_file
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@every_module
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    tree = TREES[name]
    public: list[str] = []
    defined: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    defined[target.id] = node
                    if target.id == "__all__":
                        public = ast.literal_eval(node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined[node.target.id] = node
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined[node.name] = node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            defined |= {(alias.asname or alias.name): node for alias in node.names}
    assert len(public) == len(set(public))
    for one in public:
        assert one in defined, f"{one} is in __all__ only"
        node = defined[one]
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            assert ast.get_docstring(node), f"{one} has no docstring"
    if not MODULES[name].name.startswith("_"):
        assert public, "there is no __all__"


@every_file
def test_nothing_is_asserted_and_only_the_command_line_prints(path: Path) -> None:
    command_line = path.relative_to(ROOT).parts[0] in ("cli.py", "commands")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert), f"an assert in line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            printed = node.func.id == "print" and not command_line
            assert not printed, f"a print in line {node.lineno}"


@every_file
def test_no_function_is_longer_than_a_screen(path: Path) -> None:
    for node in functions(ast.parse(path.read_text(encoding="utf-8"))):
        length = (node.end_lineno or 0) - node.lineno + 1
        assert length <= 60, f"{node.name} has {length} lines"


MUTATORS = {"append", "add", "update", "extend", "setdefault", "insert", "pop", "clear", "remove"}


@every_file
def test_no_function_changes_what_belongs_to_its_module(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    shared = {
        target.id
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    for function in functions(tree):
        own = {n.id for n in ast.walk(function)
               if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}  # fmt: skip
        own |= {arg.arg for arg in ast.walk(function) if isinstance(arg, ast.arg)}
        for node in ast.walk(function):
            assert not isinstance(node, ast.Global), f"a global in line {node.lineno}"
            changed: ast.expr | None = None
            if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
                changed = node.value
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                changed = node.func.value if node.func.attr in MUTATORS else None
            if isinstance(changed, ast.Name):
                assert changed.id not in shared - own, f"line {node.lineno} changes {changed.id}"


@every_file
def test_every_function_is_annotated(path: Path) -> None:
    for node in functions(ast.parse(path.read_text(encoding="utf-8"))):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        assert not bare, f"{node.name} leaves {bare} unannotated"
        assert node.returns is not None, f"{node.name} does not say what it returns"


def test_every_error_descends_from_one_and_says_what_it_is() -> None:
    from circuitkit import errors

    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, errors.CircuitkitError)
        assert kind.__doc__
        assert name in (errors.__doc__ or "")
