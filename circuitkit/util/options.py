"""What an option may be."""

from __future__ import annotations

from collections.abc import Sequence

from circuitkit.errors import CircuitError

__all__ = ["DIRECTIONS", "require"]

DIRECTIONS = ("noise", "denoise")


def require(name: str, value: str, known: Sequence[str]) -> None:
    """Raise CircuitError where the option has none of the known values."""
    if value not in known:
        raise CircuitError(f"{name}={value!r} is not known; choose from {', '.join(known)}")
