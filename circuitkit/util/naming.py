"""Names that were meant: the sentence for one that does not exist, with the nearest that does."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["nearest", "plain_name", "unknown"]

LONGEST = 80  # characters of a name that a message repeats


def unknown(what: str, name: str, known: tuple[str, ...]) -> str:
    """The sentence for a name that does not exist, with the nearest one that does."""
    near = nearest(name, known)
    hint = f"did you mean {near!r}?" if near else f"choose from {', '.join(known)}"
    shown = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
    return f"no {what} is called {shown!r}; {hint}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like this one, whatever its case and its hyphens; None if none
    is near."""
    plain = {plain_name(one): one for one in known}
    near = difflib.get_close_matches(plain_name(name[: 2 * LONGEST]), plain, n=1)
    return plain[near[0]] if near else None


def plain_name(name: str) -> str:
    """The name as it is compared: in lower case, with underscores for hyphens and spaces."""
    return name.strip().casefold().replace("-", "_").replace(" ", "_")
