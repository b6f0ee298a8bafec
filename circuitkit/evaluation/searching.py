"""The smallest circuit of a ranking that reaches a faithfulness, searched for among its sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare
from circuitkit.engine.model import Model
from circuitkit.errors import EvaluationError
from circuitkit.evaluation.faithfulness import Evaluation, evaluate
from circuitkit.evaluation.masks import ScoresLike, as_scores
from circuitkit.evaluation.results import PictureResult
from circuitkit.evaluation.sizes import Sizes
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Mask
from circuitkit.util.json_values import Json
from circuitkit.util.options import Bounds, checked
from circuitkit.util.tables import as_text, to_frame
from circuitkit.viz.figures import Lines

if TYPE_CHECKING:
    import pandas

__all__ = ["FAITHFULNESS", "Search", "smallest"]

FAITHFULNESS = 0.85  # the target where neither a size nor a target is asked for


@dataclass(frozen=True, repr=False, eq=False)
class Search(PictureResult):
    """The smallest circuit found that reaches a faithfulness, and the curve that was searched.

    ``print(found)`` says it in a line, ``found`` (or ``repr``) with every size; wherever a circuit
    is taken, this may be given.

    Attributes:
        scores: The scores by whose ranking circuits were made.
        target: The faithfulness to reach.
        mask: The edges of the circuit that was found, a mask of bool [writers, readers].
        value: Its faithfulness on the data of the search.
        filled: How many of its edges were filled in (see ``Scores.top``).
        sizes: The numbers of edges that were measured, ascending.
        faithfulness: The faithfulness of the circuit of each size.

    Example:
        >>> found = ck.smallest(model, scores, data, target=0.5)
        >>> found.value >= 0.5, len(found.circuit.to_frame()) == found.edges
        (True, True)
        >>> list(found.to_frame())
        ['edges', 'faithfulness', 'reaches']
    """

    scores: Scores
    target: float
    mask: Mask
    value: float
    filled: int
    sizes: tuple[int, ...]
    faithfulness: tuple[float, ...]

    @property
    def edges(self) -> int:
        """How many edges the circuit has."""
        return int(self.mask.sum())

    @cached_property
    def circuit(self) -> Circuit:
        """The circuit."""
        filled = {"filled": self.filled} if self.filled else {}
        return self.scores.circuit(self.mask, **filled)

    @property
    def fell(self) -> tuple[int, ...]:
        """The sizes above one that reaches the target which fall below it again."""
        first = min((n for n, f in self.curve.items() if f >= self.target), default=self.sizes[-1])
        return tuple(n for n, f in self.curve.items() if n > first and f < self.target)

    @property
    def monotone(self) -> bool:
        """Whether no size was seen at which the target is missed again after a smaller one has
        reached it."""
        return not self.fell

    def to_frame(self) -> pandas.DataFrame:
        """A row for each size that was measured: ``edges``, ``faithfulness``, and whether it
        ``reaches`` the target."""
        return to_frame(self._rows())

    def _rows(self) -> list[dict[str, Json]]:
        return [
            {"edges": n, "faithfulness": f, "reaches": f >= self.target}
            for n, f in self.curve.items()
        ]

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines."""
        return {
            "target": self.target, "edges": self.edges, "value": self.value, "filled": self.filled,
            "monotone": self.monotone, "fell": list(self.fell), "sizes": self._rows(),
        }  # fmt: skip

    def plot(self) -> Lines:
        """Faithfulness against size, on a logarithmic axis, with the target as a line."""
        line = f"the target, {self.target:g}"
        series = {"faithfulness": self.faithfulness, line: [self.target] * len(self.sizes)}
        title = f"{self.edges:,} of {self.scores.wiring.n_edges:,} edges keep {self.value:.3f}"
        return Lines(
            self.sizes, series, title=title, x_name="edges", y_name="faithfulness", log_x=True,
            plain=(line,),
        )  # fmt: skip

    def again(self) -> str:
        """That sizes fall below the target again, and how far; empty where none does."""
        if self.monotone:
            return ""
        value, lowest = min((self.curve[n], n) for n in self.fell)
        first = min(n for n, f in self.curve.items() if f >= self.target)
        return (
            f"faithfulness does not grow with size: {first:,} edges reach {self.target:g}, and "
            f"{len(self.fell)} of {sum(n > first for n in self.sizes)} larger sizes tried do not "
            f"({lowest:,}: {value:.3f})"
        )

    @property
    def curve(self) -> dict[int, float]:
        """The faithfulness by size."""
        return dict(zip(self.sizes, self.faithfulness, strict=True))

    def __str__(self) -> str:
        return (
            f"{self.edges:,} of {self.scores.wiring.n_edges:,} edges keep {self.value:.3f}, the "
            f"fewest of {len(self.sizes)} sizes that reach {self.target:g}"
        )

    def __repr__(self) -> str:
        rows = [
            {"edges": n, "faithfulness": f, "": "reaches it" if f >= self.target else ""}
            for n, f in self.curve.items()
        ]
        table = as_text(rows, formats={"edges": ",d", "faithfulness": ".3f"}, indent=2)
        return "\n".join([str(self), *filter(None, [self.again()]), "", table])


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
    known: Sequence[tuple[Mask, float]] = (),
) -> Search:
    """The smallest of the best circuits that reaches the target faithfulness on the data.

    All sizes up to 24 edges are tried, and larger ones, a fifth more at each step, until one
    reaches it, and up to twice that. Then the sizes between this one and the size below are
    narrowed down to single edges, and so are those around places where a larger circuit was worse.
    Where faithfulness does not grow with size, a smaller circuit of more than 24 edges may lie
    between the sizes that were measured; the result shows the curve. ``known`` are masks whose
    faithfulness on the same data was measured before: where one of them reaches the target with
    fewer edges, it is the result.

    Returns a Search, which may be given wherever a circuit is taken; its ``mask`` and its
    ``circuit`` are what was found. Raises ArgumentError for an argument in the wrong place and for
    a target that is not above 0, ScoresError where all scores are zero, and EvaluationError where
    no circuit reaches the target; warns (ScoresWarning) where edges with a score of zero are
    chosen.

    Example:
        >>> found = ck.smallest(model, scores, data, target=0.5)
        >>> ck.evaluate(model, found, data).faithfulness >= 0.5
        True
    """
    scores = as_scores(scores, model)
    inputs = prepare(model, data, metric, corruption, circuit=scores)

    def measured(masks: Sequence[Mask]) -> list[float]:
        each: list[Evaluation] = evaluate(model, [*masks], *inputs[1:])
        return [one.faithfulness for one in each]

    sizes = Sizes[Mask](scores.units, target, lambda asked: scores.masks(asked, rule),
                        lambda mask: int(mask.sum()), measured)  # fmt: skip
    sizes.search()
    found = _result(sizes, scores, rule, known)
    scores.warn_of_zeros(found.mask)
    return found


def _result(
    found: Sizes[Mask], scores: Scores, rule: str, known: Sequence[tuple[Mask, float]]
) -> Search:
    """What was found, or what was known before, whichever is smaller."""
    reached = [(int(mask.sum()), -value, mask, 0) for mask, value in known
               if value >= found.target]  # fmt: skip
    if found.high is not None:
        mask, filled = scores.filled(found.high, rule)
        reached.insert(0, (int(mask.sum()), -found.at(found.high), mask, filled))
    if not reached:
        raise EvaluationError(found.missed())
    _, value, mask, filled = min(reached, key=lambda each: each[:2])
    sizes = sorted(found.values.keys() - {0})
    values = tuple(found.values[n] for n in sizes)
    return Search(scores, found.target, mask, -value, filled, tuple(sizes), values)
