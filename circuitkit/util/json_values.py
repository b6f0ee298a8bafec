"""Undefined numbers: nan in Python, None in JSON, which has no nan."""

from __future__ import annotations

from math import isnan
from typing import Any, TypeAlias

__all__ = ["Json", "nan_to_none"]

Json: TypeAlias = Any  # what the json module reads and writes


def nan_to_none(value: Json) -> Json:
    """The value with None for every nan, also inside mappings, lists and tuples."""
    if isinstance(value, dict):
        return {key: nan_to_none(own) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(nan_to_none, value))
    return None if isinstance(value, float) and isnan(value) else value
