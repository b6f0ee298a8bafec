"""Which circuit is chosen from scores: one of a given size or faithfulness, or the method's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from circuitkit.data.batches import Dataset
from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare
from circuitkit.engine.metric import Corruption, Metric
from circuitkit.engine.model import Model
from circuitkit.errors import EvaluationError, ScoresError
from circuitkit.evaluation.faithfulness import Evaluation, evaluate
from circuitkit.evaluation.masks import ScoresLike, as_scores
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Mask
from circuitkit.util.options import Bounds, checked

__all__ = ["FAITHFULNESS", "choose", "smallest"]

FAITHFULNESS = 0.85  # the target where neither a size nor a target is asked for


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
) -> Mask:
    """The best circuit of that many edges, or the smallest that reaches the faithfulness.

    Without either it is the method's ``own`` choice (default: ``scores.chosen``), and without one
    the smallest circuit that reaches 0.85.

    Raises ScoresError where the method has chosen nothing or all scores are zero, and
    EvaluationError where no circuit reaches the faithfulness.
    """
    if edges is not None:
        best = scores.mask(edges, rule)
        scores.warn_of_zeros(best)
        return best
    chosen = scores.chosen if own is None else own
    if faithfulness is not None or chosen is None:
        target = FAITHFULNESS if faithfulness is None else faithfulness
        return smallest(model, scores, data, metric, corruption, target=target, rule=rule)
    if not chosen.any():
        raise ScoresError(
            f"{scores.about.get('method', 'the method')} keeps no edge; loosen its settings, or "
            "ask for a number of edges or a faithfulness"
        )
    return chosen


@checked
def smallest(
    model: Model,
    scores: ScoresLike,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    target: Annotated[float, Bounds(0, above=True)] = FAITHFULNESS,
    rule: str = "abs",
) -> Mask:
    """The smallest of the best circuits that reaches the target faithfulness on the data.

    Sizes are doubled until one reaches it, and then narrowed to 2 %: where faithfulness does not
    grow with size, a smaller one may exist. Several sizes at a time share the carried run.

    Returns its mask of bool [writers, readers]; ``scores.circuit(mask)`` is the circuit. Raises
    ArgumentError for an argument in the wrong place and for a target that is not above 0,
    ScoresError where all scores are zero, and EvaluationError where not even the whole model
    reaches the target; warns (ScoresWarning) where edges with a score of zero are chosen.

    Example:
        >>> mask = ck.smallest(model, scores, data, target=0.5)
        >>> ck.evaluate(model, mask, data).faithfulness >= 0.5
        True
    """
    scores = as_scores(scores, model)
    inputs = prepare(model, data, metric, corruption, circuit=scores)

    def first(sizes: Sequence[int]) -> int | None:
        """The first of these sizes that reaches the target."""
        masks = [scores.mask(n, rule) for n in sizes]
        found: list[Evaluation] = evaluate(model, masks, *inputs[1:])
        reached = (n for n, e in zip(sizes, found, strict=True) if e.faithfulness >= target)
        return next(reached, None)

    total = scores.wiring.n_edges
    low, high = 0, None
    while high is None:
        if low == total:
            raise EvaluationError(
                f"no circuit reaches the faithfulness {target}: that of the whole model is 1; "
                "ask for less"
            )
        ladder = sorted({min(total, max(low, 4) * 2**k) for k in range(1, 5)})
        high = first(ladder)
        low = max((n for n in ladder if high is None or n < high), default=low)
    while high - low > max(1, high // 50):
        inner = sorted({low + (high - low) * k // 4 for k in (1, 2, 3)} - {low, high})
        better = first(inner)
        high, low = (better or high), max((n for n in inner if n < (better or high)), default=low)
    best = scores.mask(high, rule)
    scores.warn_of_zeros(best)
    return best
