"""The tokens at which something is patched: what ``at=`` may be, checked before any run."""

from __future__ import annotations

from collections.abc import Sequence

from circuitkit.data.batches import Dataset
from circuitkit.errors import DataError

__all__ = ["spans_named"]


def spans_named(
    data: Dataset, at: str | Sequence[str], *, positions: bool = False, name: str = "at"
) -> tuple[str, ...]:
    """The names in ``at``, each ``all``, a span of all examples, or alone ``positions`` where that
    is possible.

    Raises DataError where it is not a name or a list of names, where there is no name, and for a
    span that an example lacks.
    """
    held = [{*example.spans} for example in data.examples]
    known = [span for span in data.examples[0].spans if all(span in own for own in held)]
    choices = ", ".join(["all", *["positions"] * positions, *known])
    listed = [at] if isinstance(at, str) else at
    named = isinstance(listed, list | tuple) and all(isinstance(own, str) for own in listed)
    if not named or not listed:
        raise DataError(f"{name}={at!r} names no tokens; choose from {choices}")
    if positions and [*listed] == ["positions"]:
        return ("positions",)
    for own in listed:
        if own == "positions":
            why = "is not possible beside other names" if positions else "is not possible here"
            raise DataError(f"{name}={at!r}: 'positions' {why}; choose from {choices}")
        if own != "all" and own not in known:
            raise DataError(f"{name}={at!r}: an example has no span {own!r}; choose from {choices}")
    return tuple(listed)
