"""What each edge of a circuit does inside it: what is lost when it alone is cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike
from circuitkit.engine.model import Model
from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.evaluation.knockouts._report import SHOWN, about, more
from circuitkit.evaluation.knockouts._runs import knockouts_of, without
from circuitkit.evaluation.masks import CircuitLike
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.statistics import standard_error
from circuitkit.util.tables import as_text

__all__ = ["MarginalEffects", "marginal_effects"]


@dataclass(frozen=True)
class MarginalEffects:
    """m(C) − m(C∖e) of each edge e on every example, in metric units; positive where it helps."""

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

    def to_dict(self) -> dict[str, Json]:
        """All numbers but the examples' own, for machines; the strongest edge first."""
        return {**about(self.evaluation), "edges": [
            {"edge": self.edges[i], "effect": float(self.means[i]),
             "error": nan_to_none(float(self.errors[i]))}
            for i in self._order()
        ]}  # fmt: skip

    def _order(self) -> list[int]:
        return [int(i) for i in np.argsort(-np.abs(self.means), kind="stable")]

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
    """What each edge of a circuit does inside it: one masked run per edge.

    An edge whose work another one does as well has the effect 0 (see ``interactions``). Raises
    CircuitError where the circuit has no edge, or does not fit the model.
    """
    runs = knockouts_of(model, circuit, data, metric, corruption)
    evaluation, values = runs.measure(without(runs.keep, [e]) for e in runs.edges)
    return MarginalEffects(evaluation, runs.names(runs.edges), evaluation.circuit - values)
