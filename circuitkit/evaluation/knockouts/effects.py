"""What each edge of a circuit does inside it: what is lost when it alone is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike
from circuitkit.engine.model import Model
from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.evaluation.knockouts._report import DRAWN, SHOWN, about, more
from circuitkit.evaluation.knockouts._runs import knockouts_of
from circuitkit.evaluation.masks import CircuitLike
from circuitkit.evaluation.results import PictureResult
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.statistics import standard_error
from circuitkit.util.tables import as_text, to_frame
from circuitkit.viz.figures import Bars

if TYPE_CHECKING:
    import pandas

__all__ = ["MarginalEffects", "marginal_effects"]


@dataclass(frozen=True)
class MarginalEffects(PictureResult):
    """m(C) − m(C∖e) of each edge e on every example, in metric units; positive where it helps.

    ``effects`` is an array [edges, examples].
    """

    evaluation: Evaluation
    edges: tuple[str, ...]
    effects: Float[np.ndarray, "edges examples"]

    @property
    def means(self) -> Float[np.ndarray, " edges"]:
        """The mean effect of each edge over the examples."""
        return np.asarray(self.effects.mean(1))

    @property
    def errors(self) -> Float[np.ndarray, " edges"]:
        """The standard error of each mean; nan for a single example."""
        return standard_error(self.effects)

    def to_frame(self) -> pandas.DataFrame:
        """A row for each edge, the strongest first.

        Columns: ``edge``, ``effect`` (the mean over the examples), ``error`` (its standard error;
        nan for a single example).
        """
        means, errors = self.means, self.errors
        return to_frame(
            {"edge": self.edges[i], "effect": float(means[i]), "error": float(errors[i])}
            for i in self._order()
        )

    def plot(self) -> Bars:
        """The strongest edges as bars, each with its standard error."""
        frame = self.to_frame().head(DRAWN)
        what = "edges" if len(frame) == len(self.edges) else f"{len(frame)} strongest edges"
        return Bars(
            frame["effect"].to_numpy(), [*frame["edge"]], frame["error"].to_numpy(),
            title=f"What the circuit loses without one of its {what}",
            x_name=f"{self.evaluation.metric} lost",
        )  # fmt: skip

    def to_dict(self) -> dict[str, Json]:
        """All numbers but the examples' own, for machines; the strongest edge first."""
        return {**about(self.evaluation), "edges": [
            {"edge": self.edges[i], "effect": float(self.means[i]),
             "error": nan_to_none(float(self.errors[i]))}
            for i in self._order()
        ]}  # fmt: skip

    def _order(self) -> list[int]:
        return [int(i) for i in np.argsort(-np.abs(self.means), kind="stable")]

    def __str__(self) -> str:
        name, effect = self.edges[self._order()[0]], float(self.means[self._order()[0]])
        return f"marginal effects of {len(self.edges)} edges, the largest {effect:+.3f} ({name})"

    def __repr__(self) -> str:
        return f"{self.evaluation}\n{self.table()}"

    def table(self) -> str:
        """What is printed below the circuit's faithfulness."""
        metric = self.evaluation.metric
        rows = [
            {"effect": f"{self.means[i]:+.3f}", "error": f"± {self.errors[i]:.3f}",
             "edge": self.edges[i]}
            for i in self._order()[:SHOWN]
        ]  # fmt: skip
        return "\n".join([
            f"what the circuit loses without one of its edges ({metric}):",
            as_text(rows, right=("effect", "error"), header=False, indent=2),
            *more(len(self.edges) - SHOWN, "edges do less"),
        ])  # fmt: skip


def marginal_effects(
    model: Model,
    circuit: CircuitLike,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
) -> MarginalEffects:
    """What each edge of a circuit does inside it: what is lost when it alone is cut.

    An edge whose work a different one does as well has the effect 0 (see ``interactions``). Costs
    one masked run per edge.

    Returns MarginalEffects: in metric units, positive where the edge helps. Raises ArgumentError
    for an argument in the wrong place, and CircuitError where the circuit has no edge, or does not
    fit the model.

    Example:
        >>> found = ck.marginal_effects(model, scores.top(10), data)
        >>> found.effects.shape == (len(found.edges), len(data))
        True
    """
    runs = knockouts_of(model, circuit, data, metric, corruption)
    evaluation, values = runs.measure(runs.space.without(runs.space.keep, [e]) for e in runs.edges)
    return MarginalEffects(evaluation, runs.names(runs.edges), evaluation.circuit - values)
