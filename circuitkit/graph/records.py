"""The attributes of circuits and their nodes, such that NetworkX's writers take them too."""

from __future__ import annotations

import json
from collections.abc import ItemsView

import numpy as np

from circuitkit.util.json_values import Json, plain

__all__ = ["Record", "spelt"]


class Record(dict[str, Json]):
    """A dictionary, except that ``items()`` gives what is not a text, number or boolean as JSON.

    ``nx.write_graphml`` walks over the items, and refuses mappings, lists and None; by key, and in
    ``dict(record)``, they are what they are. Copies and pickles hold them so.
    """

    def items(self) -> ItemsView[str, Json]:  # type: ignore[override]
        """The attributes as files without mappings hold them."""
        return {key: spelt(value) for key, value in dict(self).items()}.items()

    def copy(self) -> Record:
        """A copy, with the same values."""
        return Record(self)

    def __reduce__(self) -> tuple[type[Record], tuple[dict[str, Json]]]:
        return Record, (dict(self),)


def spelt(value: Json) -> str | int | float | bool:
    """A number, boolean or plain text as it is; anything else as JSON, or as its own text."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, np.number | np.bool_):
        return spelt(value.item())
    try:
        found = plain(value, "")
    except (ValueError, RecursionError):
        return value if type(value) is str else str(value)
    return found if isinstance(found, str | bool | int | float) else json.dumps(found)
