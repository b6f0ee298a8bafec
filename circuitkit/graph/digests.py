"""A digest of all that a file says, by which a flipped bit or a change by hand is noticed.

It is taken of the values, not of the bytes, so that a file may be indented anew. A file without one
is another tool's, or an older one; who changes a file by hand takes the digest out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from circuitkit.errors import CircuitError
from circuitkit.util.json_values import Json

__all__ = ["WeightsWarning", "digest", "require_digest"]


class WeightsWarning(UserWarning):
    """A circuit, or scores, beside a model or a circuit of other weights."""


def digest(said: Json, tables: Mapping[str, np.ndarray] | None = None) -> str:
    """The sha256 of a JSON value, and of tables by their names, types, shapes and bytes."""
    text = json.dumps(_same(said), sort_keys=True, separators=(",", ":"))
    found = hashlib.sha256(text.encode())
    for name, table in sorted((tables or {}).items()):
        found.update(f"\n{name} {table.dtype.str} {table.shape}\n".encode())
        found.update(np.ascontiguousarray(table).data)
    return found.hexdigest()


def require_digest(stated: Json, found: str, force: bool) -> None:
    """Raise CircuitError where a file states another digest than that of what it holds, unless it
    is read anyway."""
    if stated != found and not force:
        raise CircuitError(
            "its digest is not that of what it holds, so it was damaged, or changed after it was "
            "written; write it anew, or read it as it is with force=True (on the command line "
            "--force)"
        )


def _same(value: Json) -> Json:
    """The value with whole numbers for floats that are one: other programs write 1 for 1.0."""
    if isinstance(value, dict):
        return {key: _same(own) for key, own in value.items()}
    if isinstance(value, list):
        return [*map(_same, value)]
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if whole else value
