"""Another project's package in the folder of ours is said in one sentence, with the remedy."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from circuitkit.cli.main import main
from circuitkit.models.loading import load
from circuitkit.util.neighbour import NeighbourWarning, neighbour

pytestmark = pytest.mark.own_mini

ROOT = Path(__file__).parent.parent
REMEDY = "pip uninstall circuitkit circuitkit-graph, then install circuitkit-graph again"


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place on the path where the metadata of the other project lies, and of ours."""
    for name in ("circuitkit", "circuitkit_graph"):
        folder = tmp_path / f"{name}-2.7.1.dist-info"
        folder.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 2.7.1\n"
        (folder / "METADATA").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("beside")
def test_the_command_says_it_once_and_first(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # load does not say it again
        assert main(["task", "show", "ioi", "--model", "mini"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("circuitkit: the package circuitkit 2.7.1, another project,")
    assert said[0].endswith(REMEDY)
    assert sum("another project" in line for line in said) == 1


@pytest.mark.usefixtures("beside")
def test_load_warns_and_loads() -> None:
    with pytest.warns(NeighbourWarning, match=REMEDY) as caught:
        assert inspect.unwrap(load)("mini").name == "mini"
    assert caught[0].filename == __file__


def test_ours_alone_is_nothing_to_speak_of(
    beside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = beside / "circuitkit-2.7.1.dist-info"
    (other / "METADATA").unlink()
    other.rmdir()
    assert neighbour() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error", NeighbourWarning)
        load("mini")
    assert main(["list", "metrics"]) == 0
    assert not capsys.readouterr().err


def test_help_does_not_look_for_it(beside: Path) -> None:
    """Help answers at once: it reads no metadata of packages, and imports nothing that is slow."""
    paths = os.pathsep.join([str(beside), str(ROOT)])
    code = (
        "import sys\n"
        "from circuitkit.cli.main import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "slow = {'importlib.metadata', 'numpy', 'torch', 'networkx'} & set(sys.modules)\n"
        "sys.exit(', '.join(slow) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    assert "discover" in done.stdout
    assert not done.stderr
    assert done.returncode == 0
