"""JSON and tables on stdout."""

from __future__ import annotations

import json
from typing import Any

from circuitkit.util.json_values import nan_to_none

__all__ = ["print_json", "print_table"]


def print_json(value: Any) -> None:
    """Print the value, None for every nan."""
    print(json.dumps(nan_to_none(value), indent=1, ensure_ascii=False, default=list))


def print_table(rows: list[dict[str, Any]], as_json: bool, title: str) -> None:
    """Print rows with the same keys below a title, numbers to three decimals."""
    if as_json:
        print_json(rows)
        return
    cells = [[k.replace("_", " ") for k in rows[0]]]
    cells += [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in r.values()] for r in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(title)
    for line in cells:
        padded = (
            text.ljust(w) if i < 2 else text.rjust(w)
            for i, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(padded))
