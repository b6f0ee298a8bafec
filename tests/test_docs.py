"""The documentation: its Python runs, its commands exist, and it has a place for every name."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

import circuitkit as ck
from circuitkit.cli.main import build_parser

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {
    page.relative_to(DOCS / "pages").as_posix(): page.read_text(encoding="utf-8")
    for page in sorted((DOCS / "pages").rglob("*.md"))
}
NOTEBOOKS = {
    page.relative_to(DOCS / "pages").as_posix(): json.loads(page.read_text(encoding="utf-8"))
    for page in sorted((DOCS / "pages").rglob("*.ipynb"))
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```", PAGES[page], re.S | re.M)


def commands(page: str) -> list[str]:
    """The commands in a page's plain blocks, without comments."""
    lines = "\n".join(blocks(page, "")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("circuitkit ")]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """What the build adds to the pages."""
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_the_commands_of_a_page_can_be_parsed(page: str) -> None:
    for line in commands(page):
        build_parser().parse_args(shlex.split(line, comments=True)[1:])


def test_the_reference_has_a_place_for_every_public_name(hooks: ModuleType) -> None:
    placed = [name for _, names in hooks.PAGES.values() for name in names]
    folders = {*hooks.REGISTRIES, *hooks.MODULES, "__version__"}
    assert len(placed) == len(set(placed))
    assert {*placed} == {*ck.__all__} - folders


def test_every_page_is_in_the_navigation() -> None:
    listed = (DOCS / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page for page in (*PAGES, *NOTEBOOKS) if page not in listed] == []


@pytest.mark.parametrize("page", NOTEBOOKS)
def test_a_notebook_is_executed_from_top_to_bottom(page: str) -> None:
    cells = [cell for cell in NOTEBOOKS[page]["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert "error" not in kinds
