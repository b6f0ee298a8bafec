"""What the results of all knock-outs share: how they are counted, printed and written down."""

from __future__ import annotations

from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.util.json_values import Json

__all__ = ["DRAWN", "SHOWN", "about", "gap", "more", "require_gap"]

SHOWN = 8  # rows of a printed table
DRAWN = 24  # edges in a figure


def gap(evaluation: Evaluation) -> float:
    """|F(everything) − F(nothing)|."""
    return abs(float(evaluation.everything.mean() - evaluation.nothing.mean()))


def require_gap(evaluation: Evaluation) -> None:
    """Raise EvaluationError where the gap is zero, as the faithfulness itself does."""
    _ = evaluation.faithfulness


def about(evaluation: Evaluation) -> dict[str, Json]:
    """What a result is of, for machines."""
    means = {name: float(getattr(evaluation, name).mean())
             for name in ("everything", "nothing", "circuit")}  # fmt: skip
    return {
        "metric": evaluation.metric,
        "corruption": evaluation.corruption,
        "examples": len(evaluation.circuit),
        "circuit_edges": evaluation.edges,
        **means,
    }


def more(n: int, what: str) -> list[str]:
    """The last line of a table that is cut short."""
    return [f"  ... and {n} {what}"] if n > 0 else []
