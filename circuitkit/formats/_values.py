"""Attributes as plain values, for files whose values are texts, numbers and booleans."""

from __future__ import annotations

import re
from collections.abc import Mapping

from circuitkit.graph.records import spelt

__all__ = ["flat", "text"]

# What XML 1.0 forbids in a text.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def flat(attributes: Mapping[str, object]) -> dict[str, str | int | float | bool]:
    """The attributes, their names in order; what is of another type becomes JSON."""
    return {text(str(key)): _value(attributes[key]) for key in sorted(attributes, key=str)}


def _value(value: object) -> str | int | float | bool:
    found = spelt(value)
    return text(found) if isinstance(found, str) else found


def text(text: str) -> str:
    """The text without signs that XML forbids."""
    return _FORBIDDEN.sub("�", text)
