"""The file of a Certainty: one table for each number of the edges, and what is said beside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from circuitkit.errors import CircuitError, CircuitkitError, ScoresError
from circuitkit.graph.attributes import checked, written
from circuitkit.graph.digests import digest, require_digest
from circuitkit.graph.scores import RULES
from circuitkit.graph.wiring import Wiring
from circuitkit.util.atomic import write_whole
from circuitkit.util.json_values import Json, plain
from circuitkit.util.notes import NOTE, in_one_note
from circuitkit.util.reading import parse_json, require_file

__all__ = ["read", "write"]

FORMAT, VERSION = "circuitkit.certainty", 1
_KEYS = ("wiring", "about", "examples", "threshold", "level", "rule", "jaccards")


def write(
    path: str | os.PathLike[str], said: Mapping[str, Json], tables: Mapping[str, np.ndarray]
) -> Path:
    """Write a mask and tables of numbers, with what is said of them."""
    from safetensors.numpy import save

    try:
        about = written(said["about"], "what is said about the scores")
    except CircuitError as error:
        raise ScoresError(str(error)) from error
    own = {**plain({**said, "about": {}}, ""), "about": about}
    held = {
        name: np.ascontiguousarray(table, bool if name == "mask" else np.float32)
        for name, table in tables.items()
    }
    head = {"format": FORMAT, "version": VERSION, "digest": digest(own, held), **own}
    return write_whole(path, save(held, metadata=in_one_note(head)))


def read(
    path: str | os.PathLike[str], tables: Sequence[str], force: bool
) -> tuple[dict[str, Json], dict[str, np.ndarray]]:
    """What ``write`` wrote: what was said, with the wiring, and the tables; raises ScoresError
    where the file holds nothing of the kind."""
    from safetensors import SafetensorError, safe_open

    name = repr(os.fspath(path))
    try:
        require_file(path)
        with safe_open(os.fspath(path), framework="np") as file:
            return _read(file, tables, force)
    except FileNotFoundError as error:
        raise ScoresError(f"there is no file {name}") from error
    except (CircuitkitError, OSError, SafetensorError, TypeError, ValueError) as error:
        raise ScoresError(f"{name} holds no certainty: {error}") from error


def _read(
    file: Any, names: Sequence[str], force: bool
) -> tuple[dict[str, Json], dict[str, np.ndarray]]:
    notes = file.metadata() or {}
    if set(notes) != {NOTE}:
        raise ScoresError(f"it is not a file of {FORMAT}, version {VERSION}")
    if set(file.keys()) != {"mask", *names}:
        raise ScoresError(f"it has other tables than {', '.join(('mask', *names))}")
    said, stated = _said(parse_json(notes[NOTE]))
    wiring = Wiring.from_dict(said["wiring"])
    tables = {name: _table(file, name, wiring) for name in ("mask", *names)}
    require_digest(stated, digest(said, tables), force)
    if (tables["mask"] & ~wiring.legal).any():
        raise ScoresError("its mask has places that are not edges")
    jaccards = {n: float(j) for n, j in said["jaccards"]}
    return {**said, "wiring": wiring, "jaccards": jaccards}, tables


def _said(head: Json) -> tuple[dict[str, Json], Json]:
    """What is said, if it is of the right kind, and the digest."""
    if not isinstance(head, dict) or (head.get("format"), head.get("version")) != (FORMAT, VERSION):
        raise ScoresError(f"it is not a file of {FORMAT}, version {VERSION}")
    said = {key: own for key, own in head.items() if key not in ("format", "version", "digest")}
    if set(said) != set(_KEYS):
        raise ScoresError(f"it does not say {', '.join(_KEYS)}")
    pairs = said["jaccards"]
    right = (
        isinstance(said["wiring"], dict)
        and _is_count(said["examples"])
        and all(_is_share(said[key]) for key in ("threshold", "level"))
        and said["rule"] in RULES
        and isinstance(pairs, list)
        and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
        and all(_is_count(n) and _is_share(j) for n, j in pairs)
    )
    if not right:
        raise ScoresError("what it says of the prompts is not of the right kind")
    return {**said, "about": checked(said["about"], "'about'")}, head.get("digest")


def _is_count(value: Json) -> bool:
    return type(value) is int and value > 0


def _is_share(value: Json) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _table(file: Any, name: str, wiring: Wiring) -> np.ndarray:
    """A table of the file, whose type and shape are looked at first."""
    there = file.get_slice(name)
    kind, shape = ("BOOL", wiring.shape) if name == "mask" else ("F32", (wiring.n_edges,))
    if (there.get_dtype(), tuple(there.get_shape())) != (kind, shape):
        raise ScoresError(f"{name!r} is not a table of {kind}, {shape}")
    table = np.asarray(file.get_tensor(name))
    if table.dtype == bool and (table.view(np.uint8) > 1).any():
        raise ScoresError(f"{name!r} has other bytes than 0 and 1")
    if table.dtype != bool and np.isinf(table).any():
        raise ScoresError(f"{name!r} has numbers that are not finite")
    return table
