"""One file in each registry's folder is all it takes: it is listed, used, and put to the test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import circuitkit

FILES = {
    "metrics": '''
__all__ = ["my_metric"]

def my_metric(logits, reference, batch):
    """The first correct answer's logit above the mean of all."""
    return logits.gather(-1, batch.correct[:, :1])[:, 0] - logits.mean(-1)
''',
    "corruptions": '''
from circuitkit.corruptions import counterfactual

__all__ = ["my_corruption"]

def my_corruption(model, data):
    """The corrupted prompt,
    once more."""
    return counterfactual(model, data)
''',
    "discovery": '''
from dataclasses import replace

from circuitkit.discovery import eap

__all__ = ["my_method"]

def my_method(model, data, metric, corruption):
    """Twice the attribution."""
    found = eap(model, data, metric, corruption)
    about = {**found.about, "method": "my_method"}
    return replace(found, values=2 * found.values, about=about)
''',
    "tasks": '''
from dataclasses import replace

from circuitkit.tasks import ioi

__all__ = ["my_task"]

def my_task(words, n=100, seed=0):
    """Names, in another order."""
    return replace(ioi(words, n, seed + 1), name="my_task", settings={"n": n, "seed": seed})
''',
    "references": '''
from dataclasses import replace

from circuitkit.graph.published import Published
from circuitkit.graph.wiring import Wiring

__all__ = ["backwards", "ref2026"]

def ref2026():
    """mini: 3 edges that somebody published."""
    return Published(
        "mine:ref2026", "mini", Wiring(4, 4, 4), "somebody 2026", "residual edges", "a test's",
        {"a0.h1": "previous token", "a3.h2": "mover"},
        edges=frozenset([("input", "a0.h1.v"), ("a0.h1", "a3.h2.k"), ("a3.h2", "logits")]),
    )

def backwards():
    """An edge that no model of ours has."""
    edges = frozenset([("a3.h2", "a0.h1.v")])
    return replace(ref2026(), name="mine:backwards", edges=edges)
''',
    "formats": '''
from circuitkit.graph.circuit import edges

__all__ = ["edgelist"]

def edgelist(circuit):
    """A line of three words an edge."""
    return "".join(f"{w} {r} {x:g}\\n" for w, r, x in sorted(edges(circuit)))
''',
}
NAMES = {
    "metrics": "my_metric",
    "corruptions": "my_corruption",
    "discovery": "my_method",
    "tasks": "my_task",
    "references": "mine:ref2026",
    "formats": "edgelist",
}
CONTRACTS = Path(__file__).parent / "test_contracts.py"


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package, to each of whose registries one file was added."""
    place = tmp_path_factory.mktemp("extended")
    package = Path(circuitkit.__path__[0])
    shutil.copytree(package, place / "circuitkit", ignore=shutil.ignore_patterns("__pycache__"))
    for folder, content in FILES.items():
        (place / "circuitkit" / folder / "mine.py").write_text(content)
    return place


def ran(place: Path, *arguments: str, code: int = 0) -> str:
    """What a module run with the copy of the package prints, when it ends with that code."""
    known = {**os.environ, "PYTHONPATH": str(place), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    known["PYTHONDONTWRITEBYTECODE"] = ""  # the copy is compiled once, not for each process
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=place, env=known, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_what_was_added_is_listed_with_what_it_does(extended: Path) -> None:
    listed = json.loads(ran(extended, "circuitkit", "list", "--json"))
    assert [*listed] == [*NAMES, "models"]
    assert {kind: listed[kind][name]["description"] for kind, name in NAMES.items()} == {
        "metrics": "The first correct answer's logit above the mean of all.",
        "corruptions": "The corrupted prompt, once more.",
        "discovery": "Twice the attribution.",
        "tasks": "Names, in another order.",
        "references": "mini: 3 edges that somebody published.",
        "formats": "A line of three words an edge.",
    }


DISCOVER = (
    "discover", "my_task", "--metric", "my_metric", "--corruption", "my_corruption", "--method",
    "my_method", "--edges", "20", "--examples", "8", "-o", "out",
)  # fmt: skip
COMMANDS = (
    DISCOVER,
    ("draw", "out/circuit.json", "-o", "x.edgelist"),
    ("compare", "out/circuit.json", NAMES["references"], "--json"),
)
# One of each that needs a model is put to the contract tests, and all of the others.
CHOSEN = (
    "my_task or mine or edgelist or (gpt2 and my_metric) "
    "or my_corruption and same_each_time or my_method and same_each_time"
)
TESTED = (str(CONTRACTS), "-p", "no:cacheprovider", "-o", "addopts=", "-v", "-k", CHOSEN)
PROGRAM = f"""
import pytest
print("tests", int(pytest.main([*{TESTED!r}, "--rootdir=."])))

from circuitkit.cli.main import main
for arguments in {COMMANDS!r}:
    print("code", main(arguments))
"""


@pytest.fixture(scope="module")
def worked(extended: Path) -> str:
    """What the contract tests, and then commands, print in a process with the copy."""
    (extended / "program.py").write_text(PROGRAM)
    return ran(extended, "program")


def test_the_command_line_uses_what_was_added(extended: Path, worked: str) -> None:
    *_, drawn, compared, end = worked.split("code 0\n")
    assert (drawn.strip(), end) == ("x.edgelist", "")
    about = (extended / "out" / "circuit.json").read_text()
    for kind in ("metric", "corruption", "method", "task"):
        assert f'"{kind}": "my_{kind}"' in about
    assert len((extended / "x.edgelist").read_text().splitlines()) == 20
    overlap = json.loads(compared)
    assert overlap["edges"]["right"] == 3
    assert overlap["roles"].keys() == {"previous token", "mover"}


def test_the_contract_tests_find_what_was_added_and_what_breaks_them(worked: str) -> None:
    done = worked.splitlines()
    assert "tests 1" in done
    for name in NAMES.values():
        assert any(name in line and "PASSED" in line for line in done), name
    failed = [line for line in done if line.startswith("FAILED")]
    assert failed
    assert all("mine:backwards" in line for line in failed), failed
