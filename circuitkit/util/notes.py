"""What a safetensors file says of itself, in one note: it writes several in any order."""

from __future__ import annotations

import json
from collections.abc import Mapping

from circuitkit.util.json_values import Json
from circuitkit.util.reading import parse_json

__all__ = ["NOTE", "in_one_note", "notes_of"]

NOTE = "said"


def in_one_note(said: Mapping[str, Json]) -> dict[str, str]:
    """The metadata of a file that says this; equal for equal things that are said."""
    return {NOTE: json.dumps(dict(said), ensure_ascii=False, sort_keys=True)}


def notes_of(metadata: Mapping[str, str] | None) -> dict[str, Json]:
    """What a file says: in one note, or in several, as versions before 0.3 wrote; nothing where its
    note is not an object. Raises CircuitkitError for what is not JSON."""
    written = dict(metadata or {})
    if set(written) != {NOTE}:
        return dict(written)
    held = parse_json(written[NOTE])
    return held if isinstance(held, dict) else {}
