"""Published circuits by name: ``ioi:wang2022``; one JSON file a task, one entry a source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitkit.catalogue import unknown
from circuitkit.errors import UnknownNameError

__all__ = ["Published", "named", "names"]

_ROOT = Path(__file__).parent


@dataclass(frozen=True)
class Published:
    """A published circuit: the model it was found in, its source, and each component's role."""

    name: str
    model: str
    source: str
    roles: Mapping[str, str]


def names() -> tuple[str, ...]:
    """All names, as ``task:source``."""
    return tuple(
        f"{file.stem}:{entry}" for file in sorted(_ROOT.glob("*.json")) for entry in _entries(file)
    )


def named(name: str) -> Published:
    """The published circuit of that name; raises UnknownNameError where there is none."""
    task, _, entry = name.partition(":")
    if name not in names():
        raise UnknownNameError(unknown("published circuit", name, names()))
    found = _entries(_ROOT / f"{task}.json")[entry]
    roles = {node: role for role, own in found["roles"].items() for node in own}
    return Published(name, found["model"], found["source"], roles)


def _entries(file: Path) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return entries
