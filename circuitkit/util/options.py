"""The values that an option may have."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from circuitkit.errors import ArgumentError, CircuitError

__all__ = ["DIRECTIONS", "require", "require_count"]

DIRECTIONS = ("noise", "denoise")


def require(name: str, value: str, known: Sequence[str]) -> None:
    """Raise CircuitError if the option does not have one of the known values."""
    if value not in known:
        raise CircuitError(f"{name}={value!r} is not known; choose from {', '.join(known)}")


def require_count(name: str, value: object, least: int = 1) -> None:
    """Raise ArgumentError if the option is not a whole number, or below the least."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        shown = repr(value) if isinstance(value, int | float | str | None) else type(value).__name__
        raise ArgumentError(f"{name}={shown}; give a whole number of at least {least}")
