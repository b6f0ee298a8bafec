"""The values that an option may have."""

from __future__ import annotations

from collections.abc import Sequence

from circuitkit.errors import CircuitError

__all__ = ["DIRECTIONS", "require"]

DIRECTIONS = ("noise", "denoise")


def require(name: str, value: str, known: Sequence[str]) -> None:
    """Raise CircuitError if the option does not have one of the known values."""
    if value not in known:
        raise CircuitError(f"{name}={value!r} is not known; choose from {', '.join(known)}")
