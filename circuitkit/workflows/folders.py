"""The folder of one run: made, tried and locked before the work, and filled at once after it.

A run never overwrites the files of another, nor leaves its own beside them, unless that is asked
for; then those of the other go when the new ones are complete. While a run works, its folder holds
``.lock`` and, for runs that can go on after a kill, a folder of finished pieces with the settings
of the run (``run.json``).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from circuitkit.errors import CircuitkitError, OutputError
from circuitkit.util.atomic import made, reason, writable, write_whole
from circuitkit.util.json_values import Json
from circuitkit.util.locking import alone
from circuitkit.util.reading import read_json

__all__ = [
    "RUNS", "RunFolder", "claimed", "filled", "legal", "output_file", "record",
    "recorded_command", "shared", "tried",
]  # fmt: skip

RUNS = {  # the files that a run may write; the first is in the folder of each
    "discovery": (
        "circuit.json", "scores.safetensors", "circuit.svg", "circuit.html",
        "certainty.safetensors", "verification.csv", "features.csv",
        "supernodes.csv",
    ),
    "study": (
        "report.html",
        "circuits.html",
        *(f"{name}.csv" for name in (
            "detected", "thresholds", "floor", "corruptions", "metrics", "negatives", "windows",
            "tokens", "attention", "restored", "choices", "circuits", "circuit_overlap",
            "circuit_floor", "effects",
        )),
        *(f"{name}.svg" for name in (
            "heads", "mlps", "thresholds", "agreement", "ranks", "stream", "prompt", "windows",
            "circuits",
        )),
    ),
    "clusters": (
        "clusters.csv",
        *(f"{name}.csv" for name in ("totals", "splits", "shared", "prompts")),
        "clusters.svg", "single.json",
        *(f"cluster-{number}.json" for number in range(1, 13)),
    ),
    "benchmark": (
        "summary.md",
        "summary.html",
        *(f"{name}.csv" for name in ("summary", "differences", "choices", "truths", "rows")),
        *(f"{measure}-{block}.svg" for measure in ("ap", "cmd")
          for block in ("plain", "varied", "trained")),
        "cmd-real.svg",
    ),
    "track": ("track.csv", "track.svg", "track.json"),
    "cross": ("cross.csv", "overlap.csv", "cross.svg"),
    "comparison": (  # beside a folder for each circuit
        "comparison.html", "circuits.html", "circuits.svg", "sizes.csv", "overlap.csv",
        "places.csv", "edges.csv",
    ),
    "dictionaries": ("dictionaries.csv", "training.csv"),  # beside folders of SAELens's format
    "trace": (
        "graph.json", "graph-metadata.json", "nodes.csv", "prompts.csv", "validation.csv",
        "supernodes.csv", "graph.svg", "graph.html",
    ),
}  # fmt: skip
_PIECES = {
    "discovery": ".unfinished", "study": ".unfinished", "benchmark": "cells",
    "track": "cells", "cross": ".unfinished", "clusters": ".unfinished",
    "dictionaries": ".unfinished",
    "comparison": ".unfinished",
    "trace": ".unfinished",
}  # fmt: skip
_KEPT = ("benchmark", "track")  # whose pieces stay, so that a larger run takes them up
_RECORD, _LOCK = "run.json", ".lock"
_NEW, _OLD, _PAST = ".new", ".old", ".past-"  # new files; some of the earlier ones; all of them
_SHOWN = 3  # files that a refusal names
_WAYS = "name another folder (-o), or replace what is there (--overwrite, in Python overwrite=True)"


@dataclass(frozen=True)
class RunFolder(os.PathLike[str]):
    """The folder of a run that works; the results' ``save`` takes it as it takes a path."""

    path: Path
    kind: str
    settings: Mapping[str, Json]
    command: Sequence[str] = ()  # the arguments with which it was started, for a merge

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def pieces(self) -> Path:
        """The folder of finished pieces, from which a killed run goes on."""
        return self.path / _PIECES[self.kind]

    def record(self, finished: bool) -> None:
        """Write down which run the pieces are of."""
        record(self.pieces, self.kind, self.settings, self.command, finished)

    def recorded(self) -> dict[str, Json] | None:
        """What an earlier run wrote down; None where it did not, or left no finished piece."""
        try:
            held = read_json(self.pieces / _RECORD)
        except (CircuitkitError, OSError):
            return None
        return held if self.has_pieces and isinstance(held, dict) else None

    @property
    def has_pieces(self) -> bool:
        """Whether a piece is finished."""
        return any(self.pieces.rglob("*.safetensors"))

    def covers(self, held: Mapping[str, Json]) -> bool:
        """Whether an earlier run was this one, or a part of it: a benchmark or a track of
        some of its lists with the same numbers."""
        if held.get("run") != self.kind or not isinstance(held.get("settings"), dict):
            return False
        return all(
            self._same(name, held["settings"].get(name), self.settings.get(name))
            for name in held["settings"] | dict(self.settings)
        )

    def _same(self, name: str, earlier: Json, now: Json) -> bool:
        if self.kind in _KEPT and isinstance(earlier, list) and isinstance(now, list):
            return all(one in now for one in earlier)
        return bool(earlier == now)


@contextlib.contextmanager
def claimed(
    folder: str | os.PathLike[str], kind: str, overwrite: bool = False,
    settings: Mapping[str, Json] | None = None, command: Sequence[str] = (),
) -> Iterator[RunFolder]:  # fmt: skip
    """The folder for the files of a run of that kind, for this run alone until the context ends.

    With ``settings``, an unfinished run of the same settings goes on. Raises OutputError where it
    cannot be written, where another process writes into it, and, without ``overwrite``, where it
    holds another run.
    """
    own = _run_folder(folder, kind, settings, command)
    with made(own.path), _locked(own.path):
        shutil.rmtree(own.path / _NEW, ignore_errors=True)
        _put_back(own.path)
        if overwrite:
            _make_room(own, settings is not None)
        else:
            _require_free(own, settings is not None)
        if settings is None:
            yield own
            return
        with made(own.pieces):
            own.record(finished=False)
            try:
                yield own
            finally:
                if own.pieces.is_dir() and not own.has_pieces:  # nothing to go on from
                    shutil.rmtree(own.pieces, ignore_errors=True)


@contextlib.contextmanager
def shared(
    folder: str | os.PathLike[str], kind: str, settings: Mapping[str, Json], command: Sequence[str]
) -> Iterator[RunFolder]:
    """The same folder for one of several runs that make parts of its finished pieces, and no files.

    Raises OutputError as ``claimed`` does.
    """
    own = _run_folder(folder, kind, settings, command)
    with made(own.path), made(own.pieces):
        _require_free(own, resumable=True)
        own.record(finished=False)
        yield own


def _run_folder(
    folder: str | os.PathLike[str],
    kind: str,
    settings: Mapping[str, Json] | None,
    command: Sequence[str],
) -> RunFolder:
    """The folder, with the settings as JSON holds them."""
    plain = json.loads(json.dumps(dict(settings or {}), default=str))
    return RunFolder(Path(folder), kind, plain, tuple(command))


@contextlib.contextmanager
def filled(folder: str | os.PathLike[str], kind: str, overwrite: bool = False) -> Iterator[Path]:
    """An empty folder for all files of a run, which replace those of earlier runs together at the
    end; where anything fails, the earlier ones stay as they were. The folder is claimed first if it
    is not a RunFolder. Raises OutputError as ``claimed`` does."""
    if not isinstance(folder, RunFolder):
        with claimed(folder, kind, overwrite) as own, filled(own, kind) as draft:
            yield draft
        return
    draft = folder.path / _NEW
    try:
        with contextlib.ExitStack() as after:
            after.callback(shutil.rmtree, draft, ignore_errors=True)
            draft.mkdir()
            yield draft
            _swap(folder.path, draft, folder.kind)
    except (OSError, OutputError) as error:
        why = reason(error.__cause__ or error)
        raise OutputError(f"{str(folder.path)!r} cannot be written: {why}") from error
    if folder.settings and kind in _KEPT:
        folder.record(finished=True)
    elif folder.settings:
        shutil.rmtree(folder.pieces, ignore_errors=True)


@contextlib.contextmanager
def output_file(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """The place of a single file, tried before the work. Raises OutputError where it cannot be
    written, and, without ``overwrite``, where it would replace a file of a run."""
    for kind, names in RUNS.items():
        beside = path.parent / names[0]
        if not overwrite and path.name in names and path.exists() and beside.exists():
            raise OutputError(
                f"{str(path)!r} belongs to a {kind} in the same folder; name another file (-o), or "
                "replace it (--overwrite)"
            )
    with writable(path):
        yield path


def legal(text: str) -> str:
    """The text as a part of the name of a file: ``noise(at='S2', draws=4)`` is
    ``noise-at-S2-draws4``; of code from a file, its name alone."""
    text = re.sub(r"[^\s(]*[./][^\s(]*:(?=\w)", "", text)
    text = re.sub(r"=(?=\d)", "", text)
    return re.sub(r"[^\w.+]+", "-", text).strip("-.")


def tried(folder: str | os.PathLike[str] | None) -> None:
    """Raise OutputError where files cannot be written into the folder; it is not left behind."""
    if folder is not None:
        with writable(Path(folder) / "tried"):
            pass


def record(
    folder: Path, kind: str, settings: Mapping[str, Json], command: Sequence[str],
    finished: bool = False,
) -> None:  # fmt: skip
    """Write down which run the pieces in a folder are of."""
    held = {"run": kind, "finished": finished, "settings": dict(settings), "command": [*command]}
    write_whole(folder / _RECORD, json.dumps(held, indent=1, default=str))


def recorded_command(folder: Path) -> list[str]:
    """The arguments of the unfinished run in a folder; raises OutputError where there is none."""
    places = [folder, *(folder / own for own in dict.fromkeys(_PIECES.values()))]
    for place in places:
        with contextlib.suppress(CircuitkitError, OSError):
            held = read_json(place / _RECORD)
            command = held.get("command") if isinstance(held, dict) else None
            if isinstance(command, list) and command and all(isinstance(x, str) for x in command):
                return list(map(str, command))
    raise OutputError(
        f"{str(folder)!r} holds no unfinished run; name the folder (-o, or --resume of evaluate) "
        "into which shards have written"
    )


# -- claiming --------------------------------------------------------------------------------------
@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        try:
            free = held.enter_context(alone(path / _LOCK))
        except OSError as error:
            raise OutputError(f"{str(path)!r} cannot be written: {reason(error)}") from error
        if not free:
            raise OutputError(
                f"another run is writing into {str(path)!r}; wait until it has ended, or name "
                "another folder (-o)"
            )
        yield


def _require_free(own: RunFolder, resumable: bool) -> None:
    """Raise OutputError where the folder holds another run, or this one finished."""
    earlier = own.recorded() if resumable else None
    mine = earlier is not None and own.covers(earlier)
    there = _earlier(own.path, own.kind)
    if there and not (mine and own.kind in _KEPT):
        more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
        raise OutputError(
            f"{str(own.path)!r} holds a finished run ({', '.join(there[:_SHOWN])}{more}); {_WAYS}"
        )
    if earlier is not None and not mine:
        raise OutputError(
            f"{str(own.path)!r} holds an unfinished run with other settings "
            f"({_difference(own, earlier)}); continue with its settings, {_WAYS}"
        )


def _make_room(own: RunFolder, resumable: bool) -> None:
    """Remove the pieces of other runs, and of this one where it is finished; its files stay until
    new ones are complete."""
    earlier = own.recorded() if resumable else None
    if earlier is not None and (earlier.get("finished") or not own.covers(earlier)):
        shutil.rmtree(own.pieces, ignore_errors=True)


def _earlier(path: Path, kind: str) -> list[str]:
    """The files in a folder that runs have written, or that one of this kind would replace."""
    names = dict.fromkeys(RUNS[kind])
    for others in RUNS.values():
        if os.path.lexists(path / others[0]):
            names |= dict.fromkeys(others)
    return [name for name in names if os.path.lexists(path / name)]


def _difference(own: RunFolder, earlier: Mapping[str, Json]) -> str:
    """The first setting in which an earlier run differs from this one."""
    there = earlier.get("settings")
    if earlier.get("run") != own.kind or not isinstance(there, dict):
        return f"a {earlier.get('run')}"
    for name in there | dict(own.settings):
        before, now = there.get(name), own.settings.get(name)
        if not own._same(name, before, now):
            return f"{name} {_spelt(before)} there, {_spelt(now)} here"
    return "of another version"


def _spelt(value: Json) -> str:
    return "not given" if value is None else str(value)


# -- filling ---------------------------------------------------------------------------------------
def _swap(path: Path, new: Path, kind: str) -> None:
    """Move the new files to their places and remove those of earlier runs, or change nothing."""
    old, past = path / _OLD, path / f"{_PAST}{kind}"
    earlier, names = _earlier(path, kind), sorted(one.name for one in new.iterdir())
    try:
        old.mkdir()
        for name in earlier:
            _keep(path / name, old / name)
        os.replace(old, past)
        for name in names:
            os.replace(new / name, path / name)
        for name in set(earlier) - set(names):
            (path / name).unlink()
        new.rmdir()
        os.replace(past, new)  # from now on the new files hold; what is in .new goes
    except BaseException:
        _put_back(path)
        raise


def _keep(file: Path, copy: Path) -> None:
    try:
        os.link(file, copy)
    except OSError:  # file systems without links
        shutil.copy2(file, copy)


def _put_back(path: Path) -> None:
    """Put an earlier run back where moving in the files of a later one was interrupted."""
    shutil.rmtree(path / _OLD, ignore_errors=True)
    for past in path.glob(f"{_PAST}*"):
        kept = {one.name for one in past.iterdir()}
        with contextlib.suppress(OSError):
            for name in kept:
                if (path / name).exists() and os.path.samefile(past / name, path / name):
                    (past / name).unlink()
                else:
                    os.replace(past / name, path / name)
            for name in set(RUNS.get(past.name.removeprefix(_PAST), ())) - kept:
                (path / name).unlink(missing_ok=True)
            past.rmdir()
