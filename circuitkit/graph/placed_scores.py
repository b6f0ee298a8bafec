"""One number for each edge between places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from circuitkit.errors import ScoresError
from circuitkit.graph.places import Places
from circuitkit.graph.scores import Scores
from circuitkit.util.json_values import Json

__all__ = ["PlacedScores"]


@dataclass(frozen=True, eq=False)
class PlacedScores:
    """The score of every edge of the residual stream in every span, and of every edge of attention
    between spans; in metric units per example, and positive where the edge helps the clean
    behaviour.

    The scores of an edge of the residual stream sum over its spans to its plain score. Those of
    attention's edges out of a key or value port sum to what that port carries, which is not the sum
    of the plain edges into it (a norm lies between). Raises ScoresError for tables of another
    shape, and for scores that are not finite.
    """

    places: Places
    residual: Float[np.ndarray, "writers readers spans"]
    attention: Float[np.ndarray, "heads 2 source destination"]
    about: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        legal = self.places.legal
        for name, table, own in (
            ("edges of the residual stream", self.residual, legal.residual),
            ("edges of attention", self.attention, legal.attention),
        ):
            if table.shape != own.shape:
                raise ScoresError(
                    f"the scores of the {name} have the shape {table.shape}, and the places "
                    f"{own.shape}"
                )
            if not np.isfinite(table[own]).all():
                raise ScoresError(
                    f"some scores of the {name} are not finite; check the metric, or use float32"
                )

    def collapse(self) -> Scores:
        """The plain scores: those of the residual stream, summed over the spans."""
        return Scores(self.places.wiring, self.residual.sum(2), self.about)
