"""JSON and tables on stdout."""

from __future__ import annotations

import json

from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.tables import as_text

__all__ = ["print_json", "print_table"]


def print_json(value: Json) -> None:
    """Print the value as JSON, with null for nan."""
    print(json.dumps(nan_to_none(value), indent=1, ensure_ascii=False, default=list))


def print_table(rows: list[dict[str, Json]], as_json: bool, title: str) -> None:
    """Print rows with the same keys below a title."""
    if as_json:
        print_json(rows)
        return
    print(title, as_text(rows), sep="\n")
