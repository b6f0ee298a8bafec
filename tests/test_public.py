"""The public surface, the README and the package's data."""

from __future__ import annotations

import operator
import re
from pathlib import Path

import networkx as nx
import pytest

import circuitkit
from circuitkit import registry
from circuitkit.cli.main import _parser

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


@pytest.mark.parametrize("kind", registry.KINDS)
def test_a_folder_serves_functions_and_not_modules(kind: str) -> None:
    """A file may not be called as its function is, or the module would stand in its way."""
    folder = getattr(circuitkit, kind)
    for name in registry.names(kind):
        function = registry.lookup(kind, name)
        assert operator.attrgetter(name.replace(":", "."))(folder) is function
        assert function.__module__.rsplit(".", 1)[1] != name


def test_the_readme_example_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.S)
    assert code is not None
    assert len([line for line in code[1].splitlines() if line.strip()]) <= 15
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code[1], "README.md", "exec"), names)
    circuit = names["circuit"]
    assert isinstance(circuit, nx.DiGraph)
    assert "faithfulness" in capsys.readouterr().out
    assert (tmp_path / "ioi.svg").read_text().startswith("<svg")


def test_the_readme_names_every_command() -> None:
    actions = [a for a in _parser()._actions if hasattr(a, "choices") and a.choices]
    commands = [name for action in actions for name in action.choices]
    assert len(commands) >= 8
    for command in commands:
        assert f"circuitkit {command}" in README


def test_results_draw_themselves_in_a_notebook() -> None:
    model = circuitkit.load("mini")
    found = circuitkit.find_circuit(model, "ioi", edges=30, examples=8)
    assert "<svg" in found.circuit._repr_svg_()
    assert "<svg" in found._repr_html_()
    assert "faithfulness" in repr(found)
    assert "edges" in repr(found.circuit)


def test_the_embedded_model_is_small() -> None:
    files = [p for p in (ROOT / "circuitkit" / "assets").rglob("*") if p.is_file()]
    assert files
    assert sum(p.stat().st_size for p in files) <= 4 * 2**20
