"""How good a ranking of edges is: whether the true edges come first, and whether other data rank
alike.

Edges rank by the magnitude of their score (``abs``), by the score itself (``signed``) or in the
order in which they are reached from the logits (``greedy``). All legal edges count; those of equal
score share their place, and those that a choosing method dropped share the last. What is not
defined is nan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from circuitkit.engine.inputs import refuse
from circuitkit.errors import CircuitError, ScoresError
from circuitkit.evaluation.masks import (
    CircuitLike,
    ScoresLike,
    as_bool,
    as_graph,
    as_mask,
    as_scores,
    require_shape,
)
from circuitkit.evaluation.results import TableResult
from circuitkit.graph.compare import Agreement, agreement
from circuitkit.graph.scores import RULES, Scores
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.util import statistics
from circuitkit.util.json_values import Json, nan_to_none
from circuitkit.util.tables import to_frame

if TYPE_CHECKING:
    import pandas

__all__ = [
    "Recovery",
    "recovery",
    "auroc",
    "acdc_auroc",
    "average_precision",
    "hamming",
    "recall",
    "stability",
]


# -- against the true edges ------------------------------------------------------------------------
@dataclass(frozen=True)
class Recovery(TableResult):
    """How well a ranking finds the true edges: each number as the function of its name defines it.

    ``recalls`` are those of labelled members of the truth, by label. ``true`` and ``edges`` count
    the true and all edges.
    """

    auroc: float
    acdc_auroc: float
    average_precision: float
    hamming: float
    recall: float
    recalls: Mapping[str, float] = field(default_factory=dict)
    true: int = 0
    edges: int = 0

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines; what is undefined is None."""
        plain: dict[str, Json] = nan_to_none({**vars(self), "recalls": dict(self.recalls)})
        return plain

    def to_frame(self) -> pandas.DataFrame:
        """One row: ``auroc``, ``acdc_auroc``, ``average_precision``, ``hamming``, ``recall``, a
        column such as ``recall of OR`` for each labelled set, ``true`` and ``edges`` (counts)."""
        numbers = {key: value for key, value in vars(self).items() if key != "recalls"}
        labelled = {f"recall of {name}": value for name, value in self.recalls.items()}
        counts = {key: numbers.pop(key) for key in ("true", "edges")}
        return to_frame([{**numbers, **labelled, **counts}])

    def __str__(self) -> str:
        return (
            f"AUROC {self.auroc:.3f}, average precision {self.average_precision:.3f} "
            f"({self.true:,} true of {self.edges:,} edges)"
        )

    def __repr__(self) -> str:
        recalls = {"true": self.recall, **self.recalls}
        found = ", ".join(f"{value:.3f} of the {name}" for name, value in recalls.items())
        return (
            f"{self.true:,} true of {self.edges:,} edges: AUROC {self.auroc:.3f} (ACDC's "
            f"{self.acdc_auroc:.3f}), average precision {self.average_precision:.3f}; the best "
            f"{self.true:,} hold {found} edges, Hamming distance {self.hamming:.4g}"
        )


def recovery(
    scores: ScoresLike,
    true: CircuitLike,
    members: Mapping[str, CircuitLike] | None = None,
    rule: str = "abs",
) -> Recovery:
    """How well a ranking of edges finds the true ones, in all numbers that are used for it.

    ``true`` is the true circuit, or the mask of its edges. ``members`` are labelled sets of true
    edges, each of which gets a recall of its own. ``rule`` says what ranks first: ``abs`` (the
    magnitude), ``signed``, or ``greedy``. All legal edges count; edges of equal score share their
    place.

    Returns a Recovery: areas and recalls from 0 to 1, the Hamming distance in edges; nan where a
    number is not defined. Raises ArgumentError for an argument in the wrong place, CircuitError
    where the true edges are not edges of the scores' model, and ScoresError for a rule that is not
    known.

    Source: Conmy et al. (2023, §4) for the ROC curve; ``acdc_auroc`` is their own area, ``auroc``
    that of Mann & Whitney's U, which gives ties one half.

    Example:
        >>> found = ck.recovery(scores, scores.top(40), {"strongest": scores.top(20)})
        >>> found.auroc > 0.9, found.recalls["strongest"] > 0.9
        (True, True)
    """
    scores = as_scores(scores)
    if members is not None and not isinstance(members, Mapping):
        refuse("members", members, "sets of edges by name, {'OR': mask}")
    true = _checked(true, scores.wiring)
    return Recovery(
        auroc=auroc(scores, true, rule),
        acdc_auroc=acdc_auroc(scores, true, rule),
        average_precision=average_precision(scores, true, rule),
        hamming=hamming(scores, true, rule),
        recall=recall(scores, true, rule=rule),
        recalls={name: recall(scores, true, own, rule) for name, own in (members or {}).items()},
        true=int(true.sum()),
        edges=scores.wiring.n_edges,
    )


def auroc(scores: Scores, true: Mask, rule: str = "abs") -> float:
    """The area under the ROC curve: how likely a true edge ranks before a false one, a tie counting
    one half (Mann & Whitney's U). 1/2 by chance; nan where no edge, or every edge, is true.

    Raises CircuitError where the mask is not one of legal edges of the scores' wiring, and
    ScoresError for a rule that is not known.
    """
    return statistics.auroc(*_ranked(scores, true, rule))


def acdc_auroc(scores: Scores, true: Mask, rule: str = "abs") -> float:
    """The area under the ROC curve as Conmy et al. (2023) measure it: the ``staircase`` through the
    points of the circuits above every threshold.

    It is ``auroc`` with every tie decided against the ranking: where many edges share a score it is
    far lower. Raises as ``auroc`` does.
    """
    return statistics.acdc_auroc(*_ranked(scores, true, rule))


def average_precision(scores: Scores, true: Mask, rule: str = "abs") -> float:
    """Σ (recall gained) · precision over the circuits above every threshold, without interpolation.

    By chance about the share of true edges; nan where no edge is true. Raises as ``auroc`` does.
    """
    return statistics.average_precision(*_ranked(scores, true, rule))


def hamming(scores: Scores, true: Mask, rule: str = "abs") -> float:
    """The structural Hamming distance of the best circuit of the true size: how many edges have to
    be added or removed to make it the true one.

    The circuit holds as many of the best edges as are true, dead ends too; of those that share the
    last place an even share, which is the mean over the ways to choose them. A method that chose a
    smaller circuit is measured by that. 0 at best. Raises as ``auroc`` does.
    """
    kept = _best(scores, true, rule)
    return float(kept.sum() + true.sum() - 2 * kept[true[scores.wiring.legal]].sum())


def recall(
    scores: Scores, true: Mask, members: CircuitLike | None = None, rule: str = "abs"
) -> float:
    """The share of the true edges, or of some labelled members of them (the legs of an OR, backup
    or negative heads' edges), in the best circuit of the true size, as in ``hamming``; nan where
    there are no members. Raises as ``auroc`` does."""
    kept = _best(scores, true, rule)
    own = _checked(true if members is None else members, scores.wiring)[scores.wiring.legal]
    return float(kept[own].mean()) if own.any() else nan


def _ranked(
    scores: Scores, true: Mask, rule: str
) -> tuple[Int[np.ndarray, " edges"], Bool[np.ndarray, " edges"]]:
    """Of each legal edge how good its place is, and whether it is true."""
    return -_places(scores, rule), _checked(true, scores.wiring)[scores.wiring.legal]


def _best(scores: Scores, true: Mask, rule: str) -> Float[np.ndarray, " edges"]:
    """How much of each legal edge is in the best circuit of the true size."""
    place, size = _places(scores, rule), int(_checked(true, scores.wiring).sum())
    counts = np.bincount(place)
    before = np.cumsum(counts) - counts
    share: np.ndarray = np.clip((size - before) / counts, 0, 1)[place]
    if scores.about.get("chosen"):
        share = share * (scores.values[scores.wiring.legal] != 0)
    return share


def _places(scores: Scores, rule: str) -> Int[np.ndarray, " edges"]:
    """The place of each legal edge, from 0 for the best; ties share theirs."""
    if rule not in RULES:
        raise ScoresError(f"the rule {rule!r} is not known; choose from {', '.join(RULES)}")
    legal, values = scores.wiring.legal, scores.values
    if rule == "greedy":
        order = scores.ranking(rule)
        values = np.zeros(legal.shape)
        values.flat[order] = np.arange(len(order), 0, -1)
    keys = values[legal] if rule == "signed" else np.abs(values[legal])
    if scores.about.get("chosen"):
        keys = np.where(scores.values[legal] == 0, -np.inf, keys)
    place: np.ndarray = np.unique(-keys, return_inverse=True)[1]
    return place


def _checked(true: CircuitLike, wiring: Wiring) -> Mask:
    """The mask; raises CircuitError where it is not one of legal edges of the wiring."""
    mask = as_graph(true)
    if isinstance(mask, np.ndarray):
        require_shape(mask, wiring)
        beyond = int((as_bool(mask) & ~wiring.legal).sum())
        if beyond:
            raise CircuitError(
                f"{beyond} of the edges do not exist in the scores' model; give a mask of legal "
                "edges"
            )
    return as_mask(true, wiring)


# -- over other data -------------------------------------------------------------------------------
def stability(several: Sequence[ScoresLike], n: int, rule: str = "abs") -> Agreement:
    """How much the best circuits of n edges agree between rankings, as from resampled data.

    Returns an Agreement; its ``jaccard`` is the mean over the pairs. Raises ArgumentError for what
    is not a list of scores, ScoresError where n < 1, and CircuitError for fewer than two rankings
    or different models.

    Example:
        >>> halves = [ck.discovery.eap(model, half) for half in data.halves()]
        >>> 0 < ck.stability(halves, 50).jaccard < 1
        True
    """
    if not isinstance(several, list | tuple):
        refuse("several", several, "a list of Scores")
    return agreement([as_scores(scores).top(n, rule) for scores in several])
