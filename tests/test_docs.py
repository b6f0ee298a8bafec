"""The documentation: its Python runs, its commands exist, and it has a place for every name."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import circuitkit as ck
from circuitkit.cli.main import build_parser, main

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {
    page.relative_to(DOCS / "pages").as_posix(): page.read_text(encoding="utf-8")
    for page in sorted((DOCS / "pages").rglob("*.md"))
}
NOTEBOOKS = {
    page.relative_to(DOCS / "pages").as_posix(): json.loads(page.read_text(encoding="utf-8"))
    for page in sorted((DOCS / "pages").rglob("*.ipynb"))
}
# whose blocks take seconds: the weekly test runs these pages from an empty folder
HEAVY = ("gallery.md", *(f"howto/{name}.md" for name in (
    "cross", "dictionaries", "mechanisms", "positions", "test", "track",
)))  # fmt: skip
# lines that need a network, a large model or a file of the reader's
ELSEWHERE = re.compile(
    r"git clone|venv|pip install|smollm2|Llama|MODEL|pairs/"
    r"|examples/|steps/step-|graph\.json|subgraph\.pth"
)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```", PAGES[page], re.S | re.M)


def commands(page: str) -> list[str]:
    """The commands in a page's plain blocks, without comments."""
    lines = "\n".join(blocks(page, "")).replace("\\\n", " ").splitlines()
    return [line.partition(" > ")[0] for line in lines if line.startswith("circuitkit ")]


@pytest.fixture(scope="module")
def hooks() -> Iterator[ModuleType]:
    """What the build adds to the pages; as in the build, what is beside it can be imported."""
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(DOCS)
        spec.loader.exec_module(module)
        yield module


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python") and page not in HEAVY]
)
def test_the_python_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On fewer prompts than it says, where it says none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("circuitkit.engine.inputs.EXAMPLES", 12)
    names: dict[str, object] = {"__name__": page}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_the_commands_of_a_page_can_be_parsed(page: str) -> None:
    parser = build_parser()
    for line in commands(page):
        parser.parse_args(shlex.split(line, comments=True)[1:])


def test_the_guide_for_agents_works_from_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page, found = "howto/agents.md", {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), {})
    for line in commands(page):
        capsys.readouterr()
        assert main(shlex.split(line)[1:]) == 0, line
        said = capsys.readouterr().out
        found |= json.loads(said) if "discover" in line else {}
        assert json.loads(said) if "--json" in line else Path("figure.svg").exists()
    assert found["faithfulness"] > max(found["random_faithfulness"])
    assert {"forwards", "minutes", "bytes", "complement_faithfulness"} <= {*found}
    assert found["agreement"] > 0.7
    assert found["in_sample"] is False


@pytest.mark.weekly
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_a_page_works_as_written(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its blocks in order, from an empty folder, in a shell; lines that need more than a processor
    and the package are left out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    names: dict[str, object] = {"__name__": page}
    fences = r"^```(\w*)(?: title=\"(.*?)\")?\n(.*?)^```"
    for language, title, block in re.findall(fences, PAGES[page], re.S | re.M):
        if title:
            Path(title).write_text(block, encoding="utf-8")
        if language == "python":
            exec(compile(block, page, "exec"), names)
        elif not language:
            lines = [line for line in block.splitlines() if not ELSEWHERE.search(line)]
            script = "\n".join(lines).replace("--nproc-per-node 8", "--nproc-per-node 2")
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


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


def test_llms_txt_has_a_line_for_every_page_that_says_what_is_there(hooks: ModuleType) -> None:
    listed = re.search(r"^nav:.*?\n(.*?)^\S", (DOCS / "mkdocs.yml").read_text("utf-8"), re.S | re.M)
    assert listed
    nav = [*re.findall(r"([\w/-]+\.(?:md|ipynb))", listed[1])]
    own = [*nav, {"Reference": [f"reference/{name}.md" for name in hooks.reference()]}]
    text = hooks.llms(str(DOCS / "pages"), own, "circuitkit", "What it is.")
    assert text.startswith("# circuitkit\n\n> What it is.\n")
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    found = [re.fullmatch(r"- \[([^]]+)\]\((\S+)\.(md|html)\): (.{4,})", line) for line in lines]
    assert all(found), lines
    names = {name.rpartition(".")[0] for name in (*PAGES, *NOTEBOOKS)}
    assert {one[2] for one in found if one} >= names
    assert len(lines) == len(names) + len(hooks.reference())


def test_the_page_of_json_has_every_key_of_every_schema(hooks: ModuleType) -> None:
    page = hooks.machines.tables()
    assert "<!-- tables -->" in PAGES["json.md"]
    for path in hooks.machines.SCHEMAS.glob("*.json"):
        schema = json.loads(path.read_text(encoding="utf-8"))
        assert f"## {schema['title'].removesuffix(' --json')}\n" in page
        assert f"](schemas/{path.name})" in page
        for key in re.findall(r'"([^"$]+)": \{"(?:type|enum)"', path.read_text("utf-8")):
            held = {
                one.rpartition(".")[2].strip("`[]") for one, _, _ in hooks.machines.keys(schema)
            }
            assert key.strip("^$").replace("(_low|_high)?", "") in {
                *held,
                "items",
                "additionalProperties",
            }
