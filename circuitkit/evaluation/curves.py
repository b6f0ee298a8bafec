"""Faithfulness against size: the best circuits of growing size, and their figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare
from circuitkit.engine.model import Model
from circuitkit.evaluation.faithfulness import Evaluation, evaluate
from circuitkit.evaluation.masks import require_scores
from circuitkit.graph.scores import Scores
from circuitkit.viz.figures import Lines

__all__ = ["Curve", "curve", "draw_curves"]


@dataclass(frozen=True)
class Curve:
    """Faithfulness against size; ``edges`` counts what is left without dead ends."""

    edges: tuple[int, ...]
    evaluations: tuple[Evaluation, ...]
    total: int

    @property
    def faithfulness(self) -> tuple[float, ...]:
        """The faithfulness at each size."""
        return tuple(e.faithfulness for e in self.evaluations)

    def area(self, axis: str = "log") -> float:
        """The area under the curve, divided by its width: the mean faithfulness over sizes, spread
        evenly in log(edges) (``log``) or in edges (``linear``, the axis of MIB's CPR)."""
        x = np.log(self.edges) if axis == "log" else np.asarray(self.edges, dtype=float)
        if len(x) < 2 or x[-1] == x[0]:
            return self.faithfulness[-1]
        return float(np.trapezoid(self.faithfulness, x) / (x[-1] - x[0]))

    def _repr_svg_(self) -> str:
        return draw_curves({"": self}).svg()


def draw_curves(curves: Mapping[str, Curve]) -> Lines:
    """The figure of some curves, by name: faithfulness against size, each with its bootstrap
    interval."""
    sizes = sorted({size for one in curves.values() for size in one.edges})
    series, bands = {}, {}
    for name, one in curves.items():
        known = dict(zip(one.edges, one.evaluations, strict=True))
        here = [known.get(size) for size in sizes]
        gap = (float("nan"), float("nan"))
        series[name] = [e.faithfulness if e else gap[0] for e in here]
        low, high = zip(*(e.interval() if e else gap for e in here), strict=True)
        bands[name] = (low, high)
    return Lines(
        sizes, series, bands, title="Faithfulness against size", x_name="edges",
        y_name="faithfulness", log_x=True,
    )  # fmt: skip


def curve(
    model: Model,
    scores: Scores,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    sizes: Sequence[int] | None = None,
    rule: str = "abs",
) -> Curve:
    """Faithfulness of the best circuits of growing size, and of the whole model at the end."""
    inputs = prepare(model, data, metric, corruption, circuit=scores)
    require_scores(scores)
    total = scores.wiring.n_edges
    sizes = sizes or sorted({round(float(n)) for n in np.geomspace(min(10, total), total, 9)})
    masks = {int(mask.sum()): mask for mask in (scores.mask(n, rule) for n in sizes)}
    masks.pop(0, None)  # so few edges never hang together
    found = evaluate(model, list(masks.values()), *inputs[1:])
    return Curve(tuple(masks), tuple(found), total)
