"""All knock-outs of a circuit at once: each edge, pairs, random sets, and which are redundant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from circuitkit.engine.inputs import CorruptionLike, Data, MetricLike, prepare, require_model
from circuitkit.engine.model import Model
from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.evaluation.knockouts.completeness import Incompleteness, incompleteness
from circuitkit.evaluation.knockouts.effects import MarginalEffects, marginal_effects
from circuitkit.evaluation.knockouts.pairs import Interactions, interactions
from circuitkit.evaluation.knockouts.redundancy import Minimality, minimality
from circuitkit.evaluation.masks import CircuitLike
from circuitkit.evaluation.results import PictureResult
from circuitkit.util.json_values import Json
from circuitkit.util.options import Seed, Whole, checked
from circuitkit.viz.figures import Bars, Heatmap, Panels, Points

if TYPE_CHECKING:
    import pandas

__all__ = ["KnockoutReport", "knock_out", "knockout"]

Part: TypeAlias = MarginalEffects | Interactions | Incompleteness | Minimality


@dataclass(frozen=True)
class KnockoutReport(PictureResult):
    """What the edges of a circuit do inside it; a part that was not asked for is None."""

    marginal_effects: MarginalEffects
    interactions: Interactions | None
    incompleteness: Incompleteness | None
    minimality: Minimality

    @property
    def evaluation(self) -> Evaluation:
        """The evaluation of the circuit itself."""
        return self.marginal_effects.evaluation

    @property
    def parts(self) -> dict[str, Part]:
        """The results that were asked for, by the names of their functions."""
        return {name: part for name, part in vars(self).items() if part is not None}

    def to_dict(self) -> dict[str, Json]:
        """All numbers of every part, for machines, as the command prints them with ``--json``."""
        return {name: part.to_dict() for name, part in self.parts.items()}

    def to_frame(self) -> pandas.DataFrame:
        """A row for each edge, that of the strongest effect first.

        Columns: ``edge``, ``effect`` (what the circuit loses without it, in metric units) and
        ``error`` (its standard error), ``largest`` (the largest difference that it makes, whatever
        else is cut), ``share`` (of the gap), ``found`` (what else was cut there), ``redundant``.
        Pairs and sets have tables of their own: ``interactions.to_frame()``.
        """
        return self.marginal_effects.to_frame().merge(self.minimality.to_frame(), on="edge")

    def plot(self) -> Panels:
        """The figures of all parts, side by side."""
        figures: list[Heatmap | Bars | Points] = [part.plot() for part in self.parts.values()]
        return Panels(figures, columns=1, title=str(self.evaluation))

    def __str__(self) -> str:
        return "; ".join(str(part) for part in self.parts.values())

    def __repr__(self) -> str:
        return "\n\n".join([repr(self.evaluation), *(p.table() for p in self.parts.values())])


@checked
def knockout(
    model: Model,
    circuit: CircuitLike,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    pairs: Whole = 12,
    within: str = "model",
    subsets: Whole = 20,
    seed: Seed = 0,
) -> KnockoutReport:
    """What the edges of a circuit do inside it: what is lost without one, two or many of them.

    The twin of the command ``circuitkit knockout``: ``marginal_effects``, ``interactions`` of the
    strongest ``pairs`` edges (0: none) ``within`` the model or the circuit, ``incompleteness`` with
    that many random ``subsets`` (0: none), and ``minimality``. A task's name or a Task means
    prompts that the circuit's discovery did not see.

    Returns a KnockoutReport with these four results, in metric units, positive where an edge helps.
    Raises ArgumentError for an argument in the wrong place and for negative numbers, CircuitError
    where the circuit has no edge or does not fit the model, and EvaluationError where everything
    and nothing give the same.

    Source: Wang et al. (2023, §4) for completeness and minimality, with edges in place of heads.

    Example:
        >>> found = ck.knockout(model, scores.top(8), data, pairs=3, subsets=2)
        >>> len(found.to_frame()) == found.evaluation.edges, len(found.interactions.pairs)
        (True, 3)
    """
    options = {"pairs": pairs, "within": within, "subsets": subsets, "seed": seed}
    found = dict(knock_out(model, circuit, data, metric, corruption, **options))  # type: ignore[arg-type]
    return KnockoutReport(**{"interactions": None, "incompleteness": None, **found})  # type: ignore[arg-type]


@checked
def knock_out(
    model: Model,
    circuit: CircuitLike,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    pairs: Whole = 12,
    within: str = "model",
    subsets: Whole = 20,
    seed: Seed = 0,
) -> Iterator[tuple[str, Part]]:
    """The results of ``knockout`` one after the other, each as it is computed, by the name of its
    function."""
    require_model(model)
    given = prepare(model, data, metric, corruption, circuit=circuit)[1:]
    yield "marginal_effects", marginal_effects(model, circuit, *given)
    if pairs:
        yield "interactions", interactions(model, circuit, *given, edges=pairs, within=within)
    if subsets:
        yield "incompleteness", incompleteness(model, circuit, *given, sets=subsets, seed=seed)
    yield "minimality", minimality(model, circuit, *given, seed=seed)
