"""Faithfulness against size: the best circuits of growing size."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

import numpy as np

from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare, refuse
from circuitkit.engine.model import Model
from circuitkit.errors import OutputError, ScoresError
from circuitkit.evaluation.faithfulness import Evaluation, evaluate
from circuitkit.evaluation.masks import ScoresLike, as_scores
from circuitkit.evaluation.results import PictureResult
from circuitkit.util.json_values import Json
from circuitkit.util.tables import as_text, to_frame
from circuitkit.viz.figures import Lines

if TYPE_CHECKING:
    import pandas

__all__ = ["Curve", "curve"]

NUMBERS = ("faithfulness", "low", "high", "mean_of_ratios")  # of each size


@dataclass(frozen=True)
class Curve(PictureResult):
    """Faithfulness against size, with one Evaluation for each circuit.

    ``edges`` counts what is left of each circuit without dead ends, and ``total`` the edges of the
    model.
    """

    edges: tuple[int, ...]
    evaluations: tuple[Evaluation, ...]
    total: int

    @property
    def faithfulness(self) -> tuple[float, ...]:
        """The faithfulness at each size; raises EvaluationError where it is not defined."""
        return tuple(e.faithfulness for e in self.evaluations)

    def area(self, axis: str = "log") -> float:
        """The area under the curve, divided by its width: the mean faithfulness over sizes.

        Sizes are spread evenly in log(edges) (``log``) or in edges (``linear``, the axis of MIB's
        CPR). Raises EvaluationError where faithfulness is not defined.
        """
        x = np.log(self.edges) if axis == "log" else np.asarray(self.edges, dtype=float)
        if len(x) < 2 or x[-1] == x[0]:
            return self.faithfulness[-1]
        return float(np.trapezoid(self.faithfulness, x) / (x[-1] - x[0]))

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        points = [point.to_dict() for point in self.evaluations]
        return {"total": self.total, "edges": list(self.edges), "evaluations": points}

    def to_frame(self) -> pandas.DataFrame:
        """A row for each size.

        Columns: ``edges`` (of the circuit), ``share`` (of all edges), ``faithfulness`` (the ratio
        of means; nan where it is not defined), ``low`` and ``high`` (the ends of its bootstrap
        interval), ``mean_of_ratios``.

        Example:
            >>> found = ck.curve(model, scores, data, sizes=[20, 100])
            >>> found.to_frame()["edges"].tolist() == list(found.edges)
            True
        """
        rows = []
        for size, point in zip(self.edges, self.evaluations, strict=True):
            known = point.to_dict()
            numbers = {name: nan if known[name] is None else known[name] for name in NUMBERS}
            rows.append({"edges": size, "share": size / self.total, **numbers})
        return to_frame(rows)

    def plot(self, *others: Curve, names: Sequence[str] = ()) -> Lines:
        """Faithfulness against size, on a logarithmic axis, with its bootstrap interval.

        ``others`` are further curves in the same figure, and ``names`` the names of all of them,
        this one's first. Raises OutputError where no faithfulness is defined, or there are
        not as many names as curves.

        Example:
            >>> eap, chance = scores, ck.discovery.random(model, data)
            >>> one, two = (ck.curve(model, s, data, sizes=[50, 200]) for s in (eap, chance))
            >>> one.plot(two, names=["EAP", "random"])
            Lines(2 series × 4, 'Faithfulness against size')
        """
        curves = (self, *others)
        if names and len(names) != len(curves):
            raise OutputError(f"there are {len(names)} names for {len(curves)} curves")
        numbered = [str(i + 1) for i in range(len(curves))] if others else [""]
        return _lines(zip(names or numbered, curves, strict=True))

    def __str__(self) -> str:
        last = f"{self.evaluations[-1]._value()} at {self.edges[-1]:,} edges"
        return f"faithfulness of {len(self.edges)} circuits, {last}"

    def __repr__(self) -> str:
        first = self.evaluations[0]
        head = (
            f"faithfulness of the best of {self.total:,} edges ({first.metric} under "
            f"{first.corruption}, {len(first.circuit)} examples)"
        )
        formats = {"edges": ",d", "share": ".2%", "faithfulness": ".3f", "low": ".3f",
                   "high": ".3f", "mean_of_ratios": ".3f"}  # fmt: skip
        return f"{head}\n{as_text(self.to_frame().to_dict('records'), formats=formats)}"


def _lines(curves: Iterable[tuple[str, Curve]]) -> Lines:
    """The figure of some curves, by name."""
    frames = {name: one.to_frame().set_index("edges") for name, one in curves}
    sizes = sorted({size for frame in frames.values() for size in frame.index})
    every = {name: frame.reindex(sizes) for name, frame in frames.items()}
    return Lines(
        sizes,
        {name: frame["faithfulness"].to_numpy(float) for name, frame in every.items()},
        {name: (frame["low"].tolist(), frame["high"].tolist()) for name, frame in every.items()},
        title="Faithfulness against size", x_name="edges", y_name="faithfulness", log_x=True,
        bridged=True,
    )  # fmt: skip


def curve(
    model: Model,
    scores: ScoresLike,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    sizes: Sequence[int] | None = None,
    rule: str = "abs",
    resume: str | os.PathLike[str] | None = None,
) -> Curve:
    """Faithfulness of the best circuits of growing size, and of the whole model at the end.

    ``sizes`` are numbers of edges (default: nine, spread evenly in the logarithm from 10 to all).
    ``rule`` says what ranks first: ``abs`` (the magnitude), ``signed``, ``greedy`` (from the logits
    on), or ``mib`` (dead ends are dropped, so that circuits hold fewer), as in ``Scores.top``.
    ``resume`` is a directory for finished batches, as in ``evaluate`` (None by default).

    Returns a Curve, whose faithfulness has no unit (1 is the full model). Raises ArgumentError for
    an argument in the wrong place, ScoresError for sizes below 1, a rule that is not known, and
    where no size leaves a circuit.

    Source: Hanna et al. (2024), figure 2, who plot faithfulness against the number of edges.

    Example:
        >>> found = ck.curve(model, scores, data, sizes=[50, 200])
        >>> found.edges, 0 < found.area() < 2
        ((50, 200), True)
    """
    scores = as_scores(scores, model)
    inputs = prepare(model, data, metric, corruption, circuit=scores)
    total = scores.wiring.n_edges
    if sizes is None:
        sizes = sorted({round(float(n)) for n in np.geomspace(min(10, total), total, 9)})
    if isinstance(sizes, str) or not isinstance(sizes, Iterable):
        refuse("sizes", sizes, "a list of numbers of edges")
    masks = {int(mask.sum()): mask for mask in scores.masks(sizes, rule)}
    masks.pop(0, None)  # too few edges for a path
    if not masks:
        raise ScoresError(f"no circuit of {list(sizes)} edges is connected; give larger sizes")
    found = evaluate(model, list(masks.values()), *inputs[1:], resume=resume)
    return Curve(tuple(masks), tuple(found), total)
