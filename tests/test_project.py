"""What the project's own pages and files say of it is true, and they agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from test_layers import LINES

import circuitkit

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def plain(name: str) -> str:
    """A distribution's name, as pip compares names."""
    return name.replace("_", "-").lower()


def pinned(file: str) -> dict[str, str]:
    """The versions that a file of constraints names."""
    lines = (ROOT / file).read_text("utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and line[0] != "#")
    return {plain(name): version for name, version in pairs}


def numbers(version: str) -> tuple[int, ...]:
    found = [int(part) for part in version.split(".")]
    return tuple(found + [0] * (3 - len(found)))


def bounds(requirements: list[str]) -> dict[str, str]:
    """The lowest version of each requirement."""
    found = [re.match(r"([\w.-]+)>=([\d.]+)", line) for line in requirements]
    assert all(found), "every requirement has a lowest version"
    return {plain(match[1]): match[2] for match in found if match}


# -- versions --------------------------------------------------------------------------------------
def test_the_lowest_versions_are_those_that_the_laws_are_run_with() -> None:
    lowest = pinned("constraints-lowest.txt")
    declared = bounds(PROJECT["dependencies"])
    for extra in ("render", "fetch", "test"):
        declared |= bounds(PROJECT["optional-dependencies"].get(extra, []))
    untested = {name for name, bound in declared.items()
                if name in lowest and numbers(lowest[name]) != numbers(bound)}  # fmt: skip
    assert untested == {"torch"}  # of which there is no earlier wheel for the processor alone
    assert declared.keys() <= lowest.keys()


def test_the_developed_versions_are_in_the_range() -> None:
    developed = pinned("constraints.txt")
    for name, bound in bounds(PROJECT["dependencies"]).items():
        if name in developed:
            assert numbers(developed[name]) >= numbers(bound)


def test_the_release_is_called_alike_everywhere() -> None:
    version = PROJECT["version"]
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    released = re.findall(r"^## \[(\d[^\]]*)\] - (\S+)$",
                          (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)  # fmt: skip
    assert circuitkit.__version__ == version == released[0][0]
    assert f"\nversion: {version}\ndate-released: {released[0][1]}\n" in citation


# -- the guide for contributors --------------------------------------------------------------------
def test_the_guide_names_files_that_are_there() -> None:
    named = set(
        re.findall(r"(?:circuitkit|tests|cli|models|engine|graph)/[\w/]+\.(?:py|txt)", GUIDE)
    )
    named |= {f"tests/{file}" for file in re.findall(r"`(test_\w+\.py)`", GUIDE)}
    here = {path for path in named if not re.search(r"/[A-Z]+\.py$", path)}
    assert len(here) > 12
    for path in here:
        assert (ROOT / path).exists() or (ROOT / "circuitkit" / path).exists(), path


def test_the_guide_lists_the_rooms_in_their_order() -> None:
    table = GUIDE.split("| room |")[1].split("\n\n")[0]
    rows = [set(re.findall(r"`([a-z_]+)`", line.split("|")[1])) for line in table.splitlines()[2:]]
    assert rows == [set(line.split()) for line in LINES if line != "__main__"]


@pytest.mark.parametrize("kind", ["metrics", "corruptions", "discovery", "tasks", "references",
                                  "formats", "cli"])  # fmt: skip
def test_the_guide_says_how_to_add_to_every_folder(kind: str) -> None:
    assert f"circuitkit/{kind}/" in GUIDE
