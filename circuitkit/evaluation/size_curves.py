"""Faithfulness against size: MIB's numbers of a ranking, from circuits of its sizes.

MIB (Mueller et al. 2025) takes the best circuits of ten shares of all edges, drops their dead ends,
and measures the area under their faithfulness, by the signed score (CPR), and under its distance
from 1, by the magnitude (CMD).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare, refuse
from circuitkit.engine.model import Model
from circuitkit.errors import EvaluationError
from circuitkit.evaluation.faithfulness import Evaluation, evaluate
from circuitkit.evaluation.masks import ScoresLike, as_scores
from circuitkit.evaluation.results import PictureResult
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Mask
from circuitkit.metrics.answers import accuracy
from circuitkit.util.json_values import Json
from circuitkit.util.tables import as_text, to_frame
from circuitkit.viz.figures import Lines

if TYPE_CHECKING:
    import pandas

__all__ = ["AXES", "SHARES", "SizeCurve", "size_curves", "best", "area", "cpr", "cmd"]

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of all edges, as in MIB
AXES = ("asked", "kept", "log")


# -- the circuits of a ranking ---------------------------------------------------------------------
@dataclass(frozen=True)
class SizeCurve(PictureResult):
    """The metric and the accuracy of the best circuits of growing size, by one rule.

    An ``axis`` is what sizes are counted in: ``asked``, the shares of all edges that were asked for
    (MIB's leaderboard); ``kept``, the shares that are left without dead ends (the tables of its
    paper); ``log``, the logarithm of the share asked for. Areas on two axes cannot be compared.
    """

    rule: str
    asked: tuple[float, ...]
    evaluations: tuple[Evaluation, ...]
    accuracies: tuple[Evaluation, ...]
    total: int

    @property
    def kept(self) -> tuple[float, ...]:
        """The share of all edges that each circuit holds."""
        return tuple(e.edges / self.total for e in self.evaluations)

    @property
    def faithfulness(self) -> tuple[float, ...]:
        """The faithfulness of each circuit, as the ratio of means; raises EvaluationError where the
        metric has no gap."""
        return tuple(e.faithfulness for e in self.evaluations)

    @property
    def accuracy(self) -> tuple[float, ...]:
        """The share of examples that each circuit answers right."""
        return tuple(float(e.circuit.mean()) for e in self.accuracies)

    def cpr(self, axis: str = "asked") -> float:
        """``cpr`` of the faithfulness; MIB's where the rule is ``signed``."""
        return cpr(*self._on(axis, self.faithfulness))

    def cmd(self, axis: str = "asked") -> float:
        """``cmd`` of the faithfulness; MIB's where the rule is ``abs``."""
        return cmd(*self._on(axis, self.faithfulness))

    def accuracy_area(self, axis: str = "log") -> float:
        """The ``area`` under the accuracy."""
        return area(*self._on(axis, self.accuracy))

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; raises EvaluationError where faithfulness is not defined."""
        curves = {name: list(getattr(self, name)) for name in ("asked", "kept", "accuracy")}
        areas = {
            name: {axis: getattr(self, name)(axis) for axis in AXES}
            for name in ("cpr", "cmd", "accuracy_area")
        }
        return {"rule": self.rule, **curves, "faithfulness": list(self.faithfulness), **areas}

    def to_frame(self) -> pandas.DataFrame:
        """A row for each size.

        Columns: ``asked`` and ``kept`` (shares of all edges), ``edges`` (of the circuit),
        ``faithfulness`` (nan where it is not defined), ``accuracy`` (a share of the examples).
        """
        sizes = zip(self.asked, self.kept, self.evaluations, self.accuracy, strict=True)
        return to_frame(
            [{"asked": a, "kept": k, "edges": e.edges,
              "faithfulness": e.faithfulness if e._defined else nan, "accuracy": right}
             for a, k, e, right in sizes]
        )  # fmt: skip

    def plot(self) -> Lines:
        """Faithfulness and accuracy against the share of edges, on a logarithmic axis."""
        frame = self.to_frame()
        series = {name: frame[name].to_numpy(float) for name in ("faithfulness", "accuracy")}
        return Lines(
            self.asked, series, title=f"The best circuits by {self.rule} score",
            x_name="share of all edges", log_x=True,
        )  # fmt: skip

    def __str__(self) -> str:
        areas = "faithfulness is not defined"
        if all(e._defined for e in self.evaluations):
            areas = f"CPR {self.cpr():.3f}, CMD {self.cmd():.3f}"
        return f"{len(self.asked)} circuits by {self.rule} score: {areas}"

    def __repr__(self) -> str:
        head = f"the best circuits of {self.total:,} edges by {self.rule} score"
        try:
            head += f": CPR {self.cpr():.3f}, CMD {self.cmd():.3f}"
            shown = [f"{f:.3f}" for f in self.faithfulness]
        except EvaluationError:  # printing must not raise
            shown = ["undefined"] * len(self.asked)
        rows = [
            {"asked": k, "edges": e.edges, "faithfulness": f, "accuracy": a}
            for k, e, f, a in zip(self.asked, self.evaluations, shown, self.accuracy, strict=True)
        ]
        formats = {"asked": ".3%", "edges": ",d", "accuracy": ".3f"}
        return f"{head}\n{as_text(rows, formats=formats, right=('faithfulness',))}"

    def _on(
        self, axis: str, values: Sequence[float]
    ) -> tuple[Sequence[float], Sequence[float], str]:
        """The curve of these values on an axis, as ``area`` takes it."""
        if axis not in AXES:
            raise EvaluationError(f"axis={axis!r} is not known; choose from {', '.join(AXES)}")
        sizes = self.kept if axis == "kept" else self.asked
        return sizes, values, "log" if axis == "log" else "linear"


def size_curves(
    model: Model,
    scores: ScoresLike,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    shares: Sequence[float] = SHARES,
    rules: Sequence[str] = ("signed", "abs"),
) -> dict[str, SizeCurve]:
    """Faithfulness and accuracy of the best circuits of growing size, with MIB's areas under them.

    The shares of all edges are asked for, ascending up to 1, and circuits are made of them as MIB
    does (dead ends are dropped afterwards). All rules share their runs. MIB's CPR is that of the
    rule ``signed``, and its CMD that of ``abs``.

    Returns the SizeCurve of each rule, by its name. Raises ArgumentError for an argument in the
    wrong place, EvaluationError for other shares, and ScoresError for a rule that is not known.

    Source: MIB (Mueller et al. 2025, §3).

    Example:
        >>> found = ck.size_curves(model, scores, data, shares=[0.05, 0.2, 1.0])
        >>> found["abs"].cmd() < found["abs"].cpr()
        True
    """
    scores = as_scores(scores, model)
    for name, listed in (("shares", shares), ("rules", rules)):
        if isinstance(listed, str) or not isinstance(listed, Sequence):
            refuse(name, listed, f"a list of {name}")
    inputs = prepare(model, data, metric, corruption, circuit=scores)
    if not shares or shares[0] <= 0 or shares[-1] > 1 or (np.diff(shares) <= 0).any():
        raise EvaluationError(
            f"the shares {tuple(shares)} are not sizes; give ascending ones above 0, up to 1"
        )
    masks = [best(scores, share, rule) for rule in rules for share in shares]
    found = evaluate(model, masks, inputs.data, [inputs.metric, accuracy], inputs.corruption)
    curves, n = {}, len(shares)
    for i, rule in enumerate(rules):
        here = slice(i * n, (i + 1) * n)
        own, right = (tuple(each[here]) for each in found)
        curves[rule] = SizeCurve(rule, tuple(shares), own, right, scores.wiring.n_edges)
    return curves


def best(scores: Scores, share: float, rule: str = "abs") -> Mask:
    """The circuit that MIB makes of the best edges: that share of all edges, rounded down, and of
    these what is left without dead ends.

    It holds fewer edges than ``Scores.mask`` of that number, in which that many are alive (by the
    rule ``mib`` it is the same). The share 1 is the whole model; a method that chose a circuit has
    no larger one but that.
    """
    wiring = scores.wiring
    scores.require_some()
    if share >= 1:
        return wiring.legal.copy()
    keep = np.zeros(wiring.shape, dtype=bool)
    keep.flat[scores.ranking(rule)[: int(share * wiring.n_edges)]] = True
    return wiring.alive(keep)


# -- areas -----------------------------------------------------------------------------------------
def area(
    sizes: Sequence[float] | Float[np.ndarray, " sizes"],
    values: Sequence[float] | Float[np.ndarray, " sizes"],
    axis: str = "linear",
) -> float:
    """The area under a curve by trapezoids.

    ``linear``: ∫ value d size, as MIB takes it; ``log``: ∫ value d ln(size), divided by the width
    ln(last / first), which is the mean of the value over sizes spread evenly in the logarithm.
    Raises EvaluationError for fewer than two sizes, sizes that fall, an unknown axis, and on the
    log axis sizes that are not positive or do not grow.
    """
    x, y = np.asarray(sizes, dtype=float), np.asarray(values, dtype=float)
    if axis not in ("linear", "log"):
        raise EvaluationError(f"axis={axis!r} is not known; choose from linear, log")
    if len(x) < 2 or len(x) != len(y) or (np.diff(x) < 0).any():
        raise EvaluationError(
            f"{len(x)} sizes and {len(y)} values are not a curve; give two or more of both, "
            "the sizes ascending"
        )
    if axis == "linear":
        return float(np.trapezoid(y, x))
    if x[0] <= 0 or x[0] == x[-1]:
        raise EvaluationError(
            f"sizes from {x[0]:.4g} to {x[-1]:.4g} have no logarithmic axis; "
            "give positive ones that grow"
        )
    return float(np.trapezoid(y, np.log(x)) / np.log(x[-1] / x[0]))


def cpr(sizes: Sequence[float], faithfulness: Sequence[float], axis: str = "linear") -> float:
    """The circuit performance ratio of MIB (Mueller et al. 2025): the ``area`` under faithfulness,
    against sizes as shares of all edges; higher is better, without bound.

    With MIB's sizes, it is .999 where every circuit is as good as the model; where only the whole
    model is, .25, from the last trapezoid alone.
    """
    return area(sizes, faithfulness, axis)


def cmd(sizes: Sequence[float], faithfulness: Sequence[float], axis: str = "linear") -> float:
    """The circuit–model distance of MIB (Mueller et al. 2025): the ``area`` under
    |1 − faithfulness|, against sizes as shares of all edges; 0 is best.

    With MIB's sizes it is .749 where only the whole model is faithful.
    """
    return area(sizes, [abs(1 - f) for f in faithfulness], axis)
