"""The shape of the code: who may import whom, and what no file holds. One test a rule: each names
every place that breaks it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import circuitkit

ROOT = Path(circuitkit.__path__[0])

# The rooms, from the top down: a room imports only from lines above its own, and rooms on one line
# do not import each other. A new room gets a place here.
LINES = (
    "errors",
    "util",
    "registry",
    "graph",
    "viz formats",
    "data",
    "engine",
    "models",
    "metrics corruptions tasks references",
    "discovery",
    "patching",
    "evaluation",
    "truth",
    "features",
    "workflows",
    "cli",
    "__main__",
)
LINE = {name: number for number, line in enumerate(LINES) for name in line.split()}
MOST_MODULES, MOST_FOLDERS = 5, 20  # at the first level
# What draws, compares and converts saved circuits does without torch.
WITHOUT_TORCH = {"errors", "registry", "util", "graph", "viz", "formats", "references"}


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
FACE = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
FILES = {"__init__": FACE, **TREES}


def room(name: str) -> str:
    return name.split(".")[0]


def seen(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs: all but what is imported for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"):
            yield node
            yield from seen(node)


def imports(tree: ast.AST, name: str) -> Iterator[str]:
    """The modules of ours that a module imports, also inside its functions; a package's __init__
    may show type checkers what it serves from elsewhere."""
    for node in seen(tree) if MODULES[name].name == "__init__.py" else ast.walk(tree):
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


# -- rooms -----------------------------------------------------------------------------------------
def test_the_listing_is_the_architecture() -> None:
    rooms = {room(name) for name in MODULES}
    assert rooms == set(LINE), "write a new room into LINES"
    files = [path for path in ROOT.iterdir() if path.suffix == ".py"]
    listed = [path for path in ROOT.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    folders = {path.relative_to(ROOT).parts[0] for path in listed if path.parent != ROOT}
    assert len(files) <= MOST_MODULES
    assert len(folders) <= MOST_FOLDERS


def test_a_room_imports_only_from_rooms_above_its_own() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, tree in TREES.items()
        for other in imports(tree, name)
        if room(name) != room(other) and LINE[room(other)] >= LINE[room(name)]
    ]
    assert not wrong


def test_a_private_name_stays_in_its_room() -> None:
    wrong = [
        f"{name} imports {node.module}:{alias.name}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("circuitkit.")
        for alias in node.names
        if room((node.module or "").removeprefix("circuitkit.")) != room(name)
        and any(p.startswith("_") for p in f"{node.module}.{alias.name}".split("."))
    ]
    assert not wrong


def test_the_imports_that_the_rule_judges_are_found() -> None:
    assert "graph.wiring" in set(imports(TREES["graph.circuit"], "graph.circuit"))
    assert "engine.record" in set(imports(TREES["engine.gradients"], "engine.gradients"))
    inside = ast.parse(
        "def f():\n    from circuitkit.graph import wiring\n    import circuitkit.errors\n"
    )
    assert set(imports(inside, "graph.circuit")) == {"graph", "graph.wiring", "errors"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: set(imports(TREES[name], name)) for name in TREES}
    done: set[str] = set()
    while graph:
        free = {name for name, needed in graph.items() if not (needed - done) & graph.keys()}
        assert free, f"a circle among {sorted(graph)}"
        done |= free
        graph = {name: needed for name, needed in graph.items() if name not in free}


def test_only_one_module_knows_transformer_lens() -> None:
    knowing = {name for name, tree in TREES.items() if "transformer_lens" in outer_imports(tree)}
    assert knowing == {"models.transformer_lens"}


def test_nothing_is_imported_relatively_or_wholesale() -> None:
    wrong = [
        f"{name}:{node.lineno}"
        for name, tree in FILES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and (node.level or any(alias.name == "*" for alias in node.names))
    ]
    assert not wrong


def test_what_draws_and_compares_saved_circuits_never_imports_torch() -> None:
    names = [name for name in MODULES if room(name) in WITHOUT_TORCH]
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
from circuitkit.registry import lookup
from circuitkit.graph.circuit import Circuit, summary, to_json
from circuitkit.graph.compare import compare
from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring
from circuitkit.util.atomic import write_whole

wiring = Wiring(2, 4, 2)
scores = Scores(wiring, np.random.default_rng(0).standard_normal(wiring.shape))
scores.save("s")
write_whole("c.json", to_json(Scores.load("s").top(20)))
circuit = Circuit.load("c.json")
lookup("formats", "svg")(circuit), summary(circuit), repr(compare(circuit, circuit))
sys.exit("torch is imported" if "torch" in sys.modules else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT.parent)!r})\n{script}"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# -- what no file holds ----------------------------------------------------------------------------
def test_every_module_says_what_it_is_for() -> None:
    assert not [name for name, tree in FILES.items() if not ast.get_docstring(tree)]


def defined(tree: ast.Module) -> tuple[list[str], dict[str, ast.stmt]]:
    """The names in ``__all__``, and every name that a module defines, with where."""
    public: list[str] = []
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found[target.id] = node
                    if target.id == "__all__":
                        public = ast.literal_eval(node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name): node for alias in node.names}
    return public, found


def test_every_public_name_is_there_and_says_what_it_is() -> None:
    wrong = []
    for name, tree in TREES.items():
        public, found = defined(tree)
        if not public and MODULES[name].name[0] != "_":
            wrong.append(f"{name} has no __all__")
        if len(public) != len(set(public)):
            wrong.append(f"{name} names one twice")
        for one in public:
            node = found.get(one)
            if node is None:
                wrong.append(f"{name}: {one} is in __all__ only")
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not ast.get_docstring(node):
                wrong.append(f"{name}: {one} has no docstring")
    assert not wrong


def test_nothing_is_asserted_and_only_the_command_line_prints() -> None:
    wrong = []
    for name, tree in FILES.items():
        for node in ast.walk(tree):
            printed = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            if isinstance(node, ast.Assert) or (printed and room(name) != "cli"):
                wrong.append(f"{name}:{node.lineno}")
    assert not wrong


def doubled(tree: ast.AST) -> Iterator[int]:
    """The lines that make a tensor float64 where it is, which a device may not have (mps)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            inner = node.func.value
            on_cpu = isinstance(inner, ast.Call) and getattr(inner.func, "attr", "") == "cpu"
            if node.func.attr == "double" and not on_cpu:
                yield node.lineno


def test_only_one_function_takes_float64_on_the_device() -> None:
    """``engine.numerics.exact``, which goes to the CPU where the device has none."""
    assert list(doubled(ast.parse("x.double()\nx.cpu().double()"))) == [1]
    found = {name: [*doubled(tree)] for name, tree in FILES.items() if name != "engine.numerics"}
    assert not {name: lines for name, lines in found.items() if lines and name != "engine.run"}


def own_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without those of its docstring."""
    doc = node.body[0] if ast.get_docstring(node) is not None else None
    said = (doc.end_lineno or 0) - doc.lineno + 1 if doc else 0
    return (node.end_lineno or 0) - node.lineno + 1 - said


def test_no_function_is_longer_than_a_screen() -> None:
    wrong = [
        f"{name}: {node.name}"
        for name, tree in FILES.items()
        for node in functions(tree)
        if own_lines(node) > 56
    ]
    assert not wrong


MUTATORS = {"append", "add", "update", "extend", "setdefault", "insert", "pop", "clear", "remove"}


def changes(tree: ast.Module) -> Iterator[int]:
    """The lines in which a function changes what belongs to its module."""
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
            changed: ast.expr | None = None
            if isinstance(node, ast.Global):
                yield node.lineno
            elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
                changed = node.value
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                changed = node.func.value if node.func.attr in MUTATORS else None
            if isinstance(changed, ast.Name) and changed.id in shared - own:
                yield node.lineno


def test_no_function_changes_what_belongs_to_its_module() -> None:
    assert not [f"{name}:{line}" for name, tree in FILES.items() for line in changes(tree)]
    assert list(changes(ast.parse("A = []\ndef f():\n    A.append(1)\n"))) == [3]


def test_every_function_is_annotated() -> None:
    wrong = []
    for name, tree in FILES.items():
        for node in functions(tree):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [a for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            if bare or node.returns is None:
                wrong.append(f"{name}: {node.name}")
    assert not wrong


def test_every_error_descends_from_one_and_says_what_it_is() -> None:
    from circuitkit import errors

    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, errors.CircuitkitError)
        assert kind.__doc__
        assert name in (errors.__doc__ or "")
