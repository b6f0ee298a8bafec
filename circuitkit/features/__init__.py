"""Features of a model: dictionaries that take what a component reads or writes apart, and how they
are read from files and trained."""

from __future__ import annotations

from circuitkit.features.dictionaries import Active, Dictionary
from circuitkit.features.loading import load, save

__all__ = ["Active", "Dictionary", "load", "save"]


def __dir__() -> list[str]:
    return list(__all__)
