"""Edges as a pandas table: the columns that circuits and scores share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

if TYPE_CHECKING:
    import pandas

__all__ = ["edge_frame"]


def edge_frame(
    writers: Sequence[str] | np.ndarray,
    readers: Sequence[str] | np.ndarray,
    weights: Sequence[float] | Float[np.ndarray, " edges"],
    exact: Sequence[bool | None] | Bool[np.ndarray, " edges"] | None,
) -> pandas.DataFrame:
    """One row an edge: ``writer``, ``reader``, ``weight``, ``exact`` (missing where it is None)."""
    import pandas

    flags = [None] * len(weights) if exact is None else exact
    return pandas.DataFrame(
        {
            "writer": pandas.Series(writers, dtype=object),
            "reader": pandas.Series(readers, dtype=object),
            "weight": np.asarray(weights, dtype=float),
            "exact": pandas.array(flags, dtype="boolean"),
        }
    )
