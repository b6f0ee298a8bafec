"""Which circuit is chosen from scores: one of a given size or faithfulness, or the method's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from circuitkit.data.batches import Dataset
from circuitkit.engine.metric import Corruption, Metric
from circuitkit.engine.model import Model
from circuitkit.errors import ScoresError
from circuitkit.evaluation.searching import FAITHFULNESS, Search, smallest
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Mask

__all__ = ["Chosen", "choose"]


@dataclass(frozen=True, eq=False)
class Chosen:
    """The circuit that was chosen: its mask, how many of its edges were filled in (``Scores.top``),
    and the search for it, where no size was asked for."""

    mask: Mask
    filled: int = 0
    search: Search | None = None

    @property
    def known(self) -> tuple[tuple[Mask, float], ...]:
        """The circuit with its faithfulness, where that was searched for, so that a further choice
        on the same data is not a worse one."""
        return () if self.search is None else ((self.search.mask, self.search.value),)


def choose(
    model: Model,
    scores: Scores,
    data: Dataset,
    metric: Metric,
    corruption: Corruption,
    *,
    own: Mask | None = None,
    edges: int | None = None,
    faithfulness: float | None = None,
    rule: str = "abs",
    known: Sequence[tuple[Mask, float]] = (),
) -> Chosen:
    """The best circuit of that many edges, or the smallest that reaches the faithfulness.

    Without either it is the method's ``own`` choice (default: ``scores.chosen``), and without one
    the smallest circuit that reaches 0.85. ``known`` are masks with their faithfulness on the same
    data, as an earlier ``Chosen.known`` says them: where one of them reaches what is asked for with
    fewer edges than any that is found now, it is chosen.

    Raises ScoresError where the method has chosen nothing or all scores are zero, and
    EvaluationError where no circuit reaches the faithfulness.
    """
    if edges is not None:
        mask = scores.mask(edges, rule)
        scores.warn_of_zeros(mask)
        return Chosen(mask, scores.filled(edges, rule)[1])
    chosen = scores.chosen if own is None else own
    if faithfulness is not None or chosen is None:
        target = FAITHFULNESS if faithfulness is None else faithfulness
        found = smallest(
            model, scores, data, metric, corruption, target=target, rule=rule, known=known
        )
        return Chosen(found.mask, found.filled, found)
    if not chosen.any():
        raise ScoresError(
            f"{scores.about.get('method', 'the method')} keeps no edge; loosen its settings, or "
            "ask for a number of edges or a faithfulness"
        )
    return Chosen(chosen)
