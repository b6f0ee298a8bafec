"""Edges as a pandas table: the columns that circuits and scores share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

if TYPE_CHECKING:
    import pandas

__all__ = ["CERTAINTY", "edge_frame"]

# What is known of an edge beside its score: where it is, these columns follow.
CERTAINTY = ("standard_error", "low", "high", "p", "q", "frequency", "core")


def edge_frame(
    writers: Sequence[str] | np.ndarray,
    readers: Sequence[str] | np.ndarray,
    weights: Sequence[float] | Float[np.ndarray, " edges"],
    exact: Sequence[bool | None] | Bool[np.ndarray, " edges"] | None,
    certainty: Mapping[str, Sequence[float | bool | None] | np.ndarray] | None = None,
) -> pandas.DataFrame:
    """One row an edge: ``writer``, ``reader``, ``weight``, ``exact`` (missing where it is None);
    then what is known of its ``certainty``, by the names of CERTAINTY, if anything is."""
    import pandas

    flags = [None] * len(weights) if exact is None else exact
    found: dict[str, Any] = {
        "writer": pandas.Series(writers, dtype=object),
        "reader": pandas.Series(readers, dtype=object),
        "weight": np.asarray(weights, dtype=float),
        "exact": pandas.array(flags, dtype="boolean"),
    }
    for name, column in (certainty or {}).items():
        found[name] = pandas.array(column, "boolean") if name == "core" else (
            np.array([nan if own is None else own for own in column], dtype=float)
        )  # fmt: skip
    return pandas.DataFrame(found)
