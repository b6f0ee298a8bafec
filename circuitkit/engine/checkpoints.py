"""Finished blocks of long work on disk, so that a killed run loses at most one block.

``directory/<hash of what the work is about>/`` holds ``about.json``, and each block as one
safetensors file. Work about anything else has a directory of its own, so that runs can share one
``directory``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from circuitkit.data.batches import Dataset
from circuitkit.engine.model import Model
from circuitkit.engine.weights import digest as weights
from circuitkit.errors import CircuitkitError, OutputError
from circuitkit.util.atomic import write_whole
from circuitkit.util.json_values import Json
from circuitkit.util.reading import parse_json

__all__ = ["Journal", "digest", "identity"]

ABOUT = "about.json"
WEIGHTS = "weights"  # which blocks of one place have in common, but do not choose it


def digest(value: Json) -> str:
    """A short hash of anything that JSON can hold; equal for equal values, whatever the order of
    their keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=int)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identity(model: Model, data: Dataset) -> dict[str, Json]:
    """What tells work on one model and data from work on others, with the weights' digest."""
    own = ({k: v for k, v in vars(e).items() if v is not None} for e in data.examples)
    examples = list(own)
    router = model.router  # it does not change plain runs, but patched ones
    return {
        **({"router": router} if router else {}),
        "model": model.name,
        "wiring": model.wiring.to_dict(),
        "dtype": str(model.dtype),
        "data": digest([examples, data.batch_size, data.padding]),
        "examples": len(data),
        WEIGHTS: weights(model),
    }


class Journal:
    """The blocks of one piece of work; without a directory nothing is kept, and nothing found.

    Raises OutputError where the directory cannot be written: at once, not after the first block;
    and where it holds blocks of the same work with other weights, by their digests.
    """

    place: Path | None

    def __init__(self, directory: str | os.PathLike[str] | None, about: Mapping[str, Json]) -> None:
        work = {key: value for key, value in about.items() if key != WEIGHTS}
        self.place = None if directory is None else Path(directory) / digest(work)
        if self.place is not None:
            self._require(about.get(WEIGHTS), str(about.get("model")))
            write_whole(self.place / ABOUT, json.dumps(about, indent=1, sort_keys=True))

    def _require(self, now: Json, name: str) -> None:
        """Raise OutputError where the blocks that are there are of other weights."""
        try:
            then = parse_json((self.place or Path()).joinpath(ABOUT).read_text("utf-8"))
        except (OSError, ValueError, CircuitkitError):
            return
        known = then.get(WEIGHTS) if isinstance(then, dict) else None
        if isinstance(known, str) and isinstance(now, str) and known != now:
            raise OutputError(
                f"{str(self.place)!r} holds blocks of a different model with the same name "
                f"{name!r}: the digest of its weights is {known[:8]}…, and now it is {now[:8]}…; "
                "give 'resume' a different directory, or delete this one"
            )

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays of a finished block; None where there is none, or where its file is damaged or
        belongs to a different block, which is then computed again."""
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

        if self.place is None:
            return
        whole = {name: np.asarray(values, order="C") for name, values in arrays.items()}
        notes = {"checksum": self._checksum(key, whole)}
        write_whole(self._path(self.place, key), save(whole, metadata=notes))

    def recognise(
        self, model: Model, kept: np.ndarray, now: np.ndarray, least: float = 0.0
    ) -> None:
        """Raise OutputError where plain runs no longer give what they gave when a block was kept,
        except for rounding: then the blocks belong to a different model of the same name. Values
        that are all below ``least`` are compared as if they were that large."""
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
