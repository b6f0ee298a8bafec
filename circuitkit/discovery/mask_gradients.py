"""Mask gradients: the slope of the metric in the mask, at partial masks and with live writers.

At a uniform mask every reader reads a share of the way from the carried residual to the running
one, so that a gradient costs what it costs in a plain run.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal, overload

import numpy as np
import torch

from circuitkit.discovery._gradients import Here, Term, attribute
from circuitkit.discovery._points import midpoints, stratified
from circuitkit.engine.backward import BackwardRule
from circuitkit.engine.gradients import holding
from circuitkit.engine.holding import Held, held_norms
from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import answer
from circuitkit.engine.tally import ByGroup, ByPlace
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.places import Places
from circuitkit.graph.scores import Scores, ScoresWarning
from circuitkit.util.json_values import Json
from circuitkit.util.options import Bounds, Seed, checked

__all__ = ["mask_gradient"]

RESOLVED = 0.2  # the largest relative error of the scores' sum
RISK = (
    "the norms divide by what they divide by in the clean run, and what is read is larger here; "
    "use norms='larger', or norms='live'"
)


@overload
def mask_gradient(
    model: Model, data: Data, metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None, *, steps: int = 5,
    points: Literal["midpoints", "random"] = "midpoints",
    norms: Literal["live", "clean", "larger"] = "live", seed: Seed = 0, groups: ByGroup = None,
    rule: BackwardRule = None, resume: str | os.PathLike[str] | None = None,
) -> Scores: ...  # fmt: skip


@overload
def mask_gradient(
    model: Model, data: Data, metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None, *, places: Places, steps: int = 5,
    points: Literal["midpoints", "random"] = "midpoints",
    norms: Literal["live", "clean", "larger"] = "live", seed: Seed = 0, groups: ByGroup = None,
    rule: BackwardRule = None, resume: str | os.PathLike[str] | None = None,
) -> PlacedScores: ...  # fmt: skip


@checked
def mask_gradient(
    model: Model,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    steps: Annotated[int, Bounds(1, 10_000)] = 5,
    points: Literal["midpoints", "random"] = "midpoints",
    norms: Literal["live", "clean", "larger"] = "live",
    seed: Seed = 0,
    places: ByPlace = None,
    groups: ByGroup = None,
    rule: BackwardRule = None,
    resume: str | os.PathLike[str] | None = None,
) -> Scores | PlacedScores:
    """The gradient of the metric in the mask, averaged from nothing kept to everything kept.

    At a uniform mask t every edge carries (1 − t) of the corruption, all writers are live, and the
    score of an edge is Σ_tokens (live − carried output of the writer) · (gradient at the reader):
    the mean of that over ``steps`` values of t. They are the middles of equal parts, or with
    ``points="random"`` drawn for each prompt, by the ``seed``, as in ``expected_gradients``. Costs
    ``steps`` forwards and backwards in addition to the clean and the carried run, as ``eap_ig``
    does.

    A norm makes up for what is cut: under ``zero`` norm(t·x) is norm(x), and all that happens is
    near t = 0. With ``norms="clean"`` the norms before attention, MLPs and logits divide by what
    they divide by in the clean run, forward and backward, and with ``"larger"`` by the larger of
    that and their own; ``"live"`` leaves them as they are.

    Returns Scores [writers, readers]: in metric units per example, positive where the edge helps
    the clean behaviour; ``places`` (attention is whole on the path), ``groups``, ``rule`` and
    ``resume`` as in ``eap``. With enough steps and the plain gradient they sum to the gap that they
    explain, what the metric loses on the way; ``about["path"]`` holds the ``sum``, the ``gap``, the
    relative ``error``, and whether the path is ``resolved``. Warns (ScoresWarning) where the error
    is above 0.2: the points have not resolved the path. A small error does not prove a good
    ranking. Raises as ``eap_ig`` does, and ScoresError where ``"clean"`` norms let a run overflow.

    Source: AutoCircuit (Miller et al. 2024) integrates such gradients for all edges together; at
    the full mask this is ``eap``.

    Example:
        >>> found = ck.discovery.mask_gradient(model, data, steps=3)
        >>> found.about["settings"], sorted(found.about["path"])
        ({'steps': 3}, ['error', 'gap', 'resolved', 'sum'])
    """
    inputs = prepare(model, data, metric, corruption)
    drawn = stratified(inputs.data, steps, seed) if points == "random" else None
    settings: dict[str, Json] = {"steps": steps}
    settings |= {"points": points, "seed": seed} if points == "random" else {}
    settings |= {"norms": norms} if norms != "live" else {}
    path, risk = _Path(), RISK if norms == "clean" else ""

    def where(here: Here, carried: Activations) -> Iterator[Term]:
        held = held_norms(here.model, here.batch, here.live, norms)
        path.add(here, carried, held)
        for step, middle in enumerate(midpoints(steps)):
            share = middle if drawn is None else here.own(drawn[:, step])
            at = here.at(carried=carried, share=share, held=held, risk=risk)
            yield Term(at, at.activations, carried, 1 / steps, risk)
            del at

    found = attribute(inputs, "mask_gradient", where, groups, settings, rule, reads=True,
                      places=places, resume=resume, tell=path.tell)  # fmt: skip
    return path.told(found)


@dataclass
class _Path:
    """The gap that a path of masks explains: what the metric loses from everything kept to nothing
    kept, with the norms as they are on the path; summed over draws and examples."""

    gap: float = 0.0
    count: int = 0

    def tell(self, notes: Mapping[str, np.ndarray]) -> None:
        """Count what ``add`` has noted of a batch."""
        for gap, examples in zip(notes["gap"].tolist(), notes["examples"].tolist(), strict=True):
            self.gap += gap
            self.count += int(examples)

    def add(self, here: Here, carried: Activations, held: Held | None) -> None:
        """Note a draw of a batch."""
        with torch.no_grad(), holding(here.model, held):
            nothing = here.value(answer(here.model, here.batch, carried.final))
            gap = float(exact(here.value(here.reference) - nothing).sum())
        here.note("gap", gap)
        here.note("examples", here.batch.examples)

    def told(self, scores: Scores | PlacedScores) -> Scores | PlacedScores:
        """The scores, which say how far their sum is from the gap; warns where it is far."""
        values = scores.values if isinstance(scores, Scores) else scores.residual
        total, gap = float(values.sum(dtype=float)), self.gap / self.count
        error = abs(total - gap) / abs(gap) if gap else None
        resolved = error is None or error <= RESOLVED
        if not resolved:
            warnings.warn(
                f"the scores of mask_gradient sum to {total:.4g}, and the gap that they explain is "
                f"{gap:.4g} (relative error {error:.2f}): the path was not resolved; use more "
                "steps, or another method",
                ScoresWarning,
                stacklevel=4,
            )
        path = {"sum": total, "gap": gap, "error": error, "resolved": resolved}
        return replace(scores, about={**scores.about, "path": path})
