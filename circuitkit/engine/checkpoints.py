"""Finished blocks of long work on disk, so that a killed run loses at most one block.

``directory/<hash of what the work is about>/`` holds ``about.json``, and each block as one
safetensors file. Work about anything else has a directory of its own, so that runs can share one
``directory``. Each of several processes keeps the blocks that it made; the first keeps, and looks
up, what all of them do.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from circuitkit.data.batches import Dataset
from circuitkit.engine.model import Model
from circuitkit.engine.processes import agreed, team
from circuitkit.engine.weights import digest as weights
from circuitkit.errors import CircuitkitError, OutputError
from circuitkit.util.atomic import write_whole
from circuitkit.util.json_values import Json
from circuitkit.util.reading import parse_json

__all__ = ["Journal", "Shard", "digest", "identity", "within"]

ABOUT = "about.json"
DEALT = "dealt"  # to how many processes, each of how many threads; or shards
WEIGHTS = "weights"  # which blocks of one place have in common, but do not choose it


def digest(value: Json) -> str:
    """A short hash of anything that JSON can hold; equal for equal values, whatever the order of
    their keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=int)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identity(model: Model, data: Dataset) -> dict[str, Json]:
    """What distinguishes work on one model and data from other work, with the weights' digest."""
    own = ({k: v for k, v in vars(e).items() if v is not None} for e in data.examples)
    examples = list(own)
    router = model.router  # it does not change plain runs, but patched ones
    return {
        **({"router": router} if router else {}),
        "model": model.name,
        "wiring": model.wiring.to_dict(),
        "dtype": str(model.dtype),
        "data": digest([examples, data.batch_size, data.padding]),
        "batch_size": data.batch_size,
        "examples": len(data),
        WEIGHTS: weights(model),
    }


@dataclass(frozen=True)
class Shard(os.PathLike[str]):
    """A directory for finished blocks, of which this run makes those whose number modulo ``of`` is
    ``index``; without an index it merges what shards have made. ``complete`` names the work of
    which all blocks were there."""

    directory: Path
    index: int | None = None
    of: int = 1
    complete: list[str] = field(default_factory=list)

    def __fspath__(self) -> str:
        return str(self.directory)


def within(directory: str | os.PathLike[str] | None, name: str) -> str | os.PathLike[str] | None:
    """A directory of that name in one for finished blocks, for work that is told from other work
    there by the weights alone; a shard of it does the same part. None stays None."""
    if isinstance(directory, Shard):
        return replace(directory, directory=directory.directory / name)
    return None if directory is None else Path(directory) / name


class Journal:
    """The blocks of one piece of work; without a directory nothing is kept, and nothing found.

    Raises OutputError where the directory cannot be written: at once, not after the first block;
    and where it holds blocks of the same work with other weights, by their digests.
    """

    place: Path | None

    def __init__(self, directory: str | os.PathLike[str] | None, about: Mapping[str, Json]) -> None:
        work = {key: value for key, value in about.items() if key != WEIGHTS}
        self.place = None if directory is None else Path(directory) / digest(work)
        self.shard = directory if isinstance(directory, Shard) else None
        named = (str(about[key]) for key in ("format", "method") if key in about)
        self.title = " ".join(named).removeprefix("circuitkit.")
        self.dealt: dict[str, Json] = {}
        if self.place is not None:
            agreed(partial(self._begin, about, team().size))

    def _begin(self, about: Mapping[str, Json], processes: int) -> None:
        """Say what the blocks are about, and to how many processes they are dealt; a merge reads
        that."""
        self._require(about.get(WEIGHTS), str(about.get("model")))
        if self.shard is not None and self.shard.index is None:
            held = self._held().get(DEALT)
            self.dealt = held if isinstance(held, dict) else {}
            return
        shards = {} if self.shard is None else {"shards": self.shard.of}
        self.dealt = {"processes": processes, "threads": torch.get_num_threads(), **shards}
        said = json.dumps({**about, DEALT: self.dealt}, indent=1, sort_keys=True)
        write_whole((self.place or Path()) / ABOUT, said)

    def _held(self) -> dict[str, Json]:
        """What the blocks that are there are about."""
        try:
            held = parse_json((self.place or Path()).joinpath(ABOUT).read_text("utf-8"))
        except (OSError, ValueError, CircuitkitError):
            return {}
        return held if isinstance(held, dict) else {}

    def _require(self, now: Json, name: str) -> None:
        """Raise OutputError where the blocks that are there are of other weights."""
        known = self._held().get(WEIGHTS)
        if isinstance(known, str) and isinstance(now, str) and known != now:
            raise OutputError(
                f"{str(self.place)!r} holds blocks of a different model with the same name "
                f"{name!r}: the digest of its weights is {known[:8]}…, and now it is {now[:8]}…; "
                "give 'resume' a different directory, or delete this one"
            )

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays of a finished block; None where there is none, or where its file is damaged or
        belongs to a different block, which is then computed again. All processes that ask for a
        block get the same answer."""
        return None if self.place is None else agreed(partial(self._read, key))

    def _read(self, key: str) -> dict[str, np.ndarray] | None:
        from safetensors import SafetensorError, safe_open

        if self.place is None:
            return None
        try:
            with safe_open(self._path(self.place, key), framework="np") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                checksum = (file.metadata() or {}).get("checksum")
        except (OSError, SafetensorError):
            return None
        return arrays if checksum == self._checksum(key, arrays) else None

    def put(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a finished block; raises OutputError where it cannot be written."""
        from safetensors.numpy import save

        if self.place is None or team().rank:
            return
        whole = {name: np.asarray(values, order="C") for name, values in arrays.items()}
        notes = {"checksum": self._checksum(key, whole)}
        write_whole(self._path(self.place, key), save(whole, metadata=notes))

    def forget(self) -> None:
        """Delete everything: the work has no result, so no run needs its blocks."""
        if self.place is not None and not team().rank:
            shutil.rmtree(self.place, ignore_errors=True)

    def recognise(
        self, model: Model, kept: np.ndarray, now: np.ndarray, least: float = 0.0
    ) -> None:
        """Raise OutputError where plain runs no longer give what they gave when a block was kept,
        except for rounding: then the blocks belong to a different model of the same name. Values
        all below ``least`` are compared relative to ``least``."""
        scale = max(least, float(np.abs(now[np.isfinite(now)]).max(initial=0)))
        tolerance = torch.finfo(model.dtype).eps ** 0.5 * scale
        same = kept.shape == now.shape and np.allclose(
            kept, now, rtol=0, atol=tolerance, equal_nan=True
        )
        if not same:
            raise OutputError(
                f"{str(self.place)!r} holds blocks of a different model with the same name "
                f"{model.name!r} (or of a different metric or corruption with the same name): its "
                f"plain runs gave {kept.mean():.6g} on average and now give {now.mean():.6g}; give "
                "'resume' a different directory, or delete this one"
            )

    @staticmethod
    def _path(place: Path, key: str) -> Path:
        return place / f"{key}.safetensors"

    def _checksum(self, key: str, arrays: Mapping[str, np.ndarray]) -> str:
        """A hash of the arrays, and of the block that they belong to."""
        found = hashlib.sha256(f"{self.place.name if self.place else ''}/{key}".encode())
        for name, values in sorted(arrays.items()):
            found.update(f"|{name}|{values.dtype.str}|{values.shape}|".encode())
            found.update(values.tobytes())
        return found.hexdigest()
