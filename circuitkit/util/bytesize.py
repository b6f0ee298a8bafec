"""Amounts of memory as people write them."""

from __future__ import annotations

import re

from circuitkit.errors import BudgetError

__all__ = ["parse", "spell"]

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse(text: str) -> int:
    """The number of bytes for a text such as ``8GiB``, ``500M`` or ``2.5g``; raises BudgetError for
    any other text."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([KMGT]?)(?:I?B)?\s*", text.upper())
    if not found or not float(found[1]):
        raise BudgetError(f"{text!r} is not an amount of memory; write it like 8GiB or 500M")
    return int(float(found[1]) * UNITS[found[2]])


def spell(size: float) -> str:
    """The amount in the largest unit that is not larger than it."""
    unit = max((u for u in UNITS if size >= UNITS[u]), key=UNITS.__getitem__, default="")
    return f"{max(size, 0) / UNITS[unit]:.3g} {unit}{'iB' if unit else 'B'}"
