"""A circuit that grows until it cannot be told from the model: equivalence on unseen prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuitkit.engine.inputs import Inputs
from circuitkit.errors import EvaluationError
from circuitkit.evaluation.faithfulness import evaluate
from circuitkit.evaluation.hypotheses.equivalence import EPSILON, PROMPTS, equivalence
from circuitkit.evaluation.hypotheses.tested import Tested
from circuitkit.evaluation.results import TableResult
from circuitkit.evaluation.sizes import STACK, rungs
from circuitkit.graph.scores import Scores
from circuitkit.graph.types import Mask
from circuitkit.util.json_values import Json
from circuitkit.util.tables import to_frame
from circuitkit.workflows.asking import is_in_sample

if TYPE_CHECKING:
    import pandas

__all__ = ["Grown", "grow", "require_prompts"]

ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class Grown(TableResult):
    """A circuit that was grown until equivalence was not rejected on unseen prompts.

    Attributes:
        mask: Its edges.
        filled: How many of them were filled in (``Scores.top``).
        start: How many edges it was grown from.
        looks: The sizes at which it was tested on the unseen prompts, with the test of each; the
            last is that of the circuit.
    """

    mask: Mask
    filled: int
    start: int
    looks: tuple[tuple[int, Tested], ...]

    @property
    def test(self) -> Tested:
        """The test of the circuit itself."""
        return self.looks[-1][1]

    @property
    def passes(self) -> bool:
        """Whether equivalence is not rejected; it is where the ranking has no more edges."""
        return self.test.p > ALPHA

    def to_frame(self) -> pandas.DataFrame:
        """A row for each size that was tested on the unseen prompts: ``edges``, ``share`` (of the
        prompts on which it is above the model), ``p``, ``power``, ``rejected``."""
        return to_frame(self._rows())

    def _rows(self) -> list[dict[str, Json]]:
        return [
            {"edges": size, "share": one.effect, "p": one.p, "power": one.power,
             "rejected": one.p <= ALPHA}
            for size, one in self.looks
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Json]:
        """All numbers, for machines, and for the file of the circuit."""
        return {
            "epsilon": EPSILON, "alpha": ALPHA, "examples": self.test.trials,
            "grown_from": self.start, "passes": self.passes, "looks": self._rows(),
        }  # fmt: skip

    def lines(self) -> Iterator[tuple[str, str]]:
        """What is printed, as pairs of a label and a text."""
        one, size = self.test, self.looks[-1][0]
        said = "not rejected" if self.passes else "rejected, and the ranking has no more edges"
        yield "equivalence", f"{said}: {one.seen}, p {one.p:.2g}"
        yield "epsilon, power", f"{EPSILON:g}, and {one.power:.2f} against {one.against}"
        grown = f"from {self.start:,} to {size:,} edges" if size > self.start else "not at all"
        failed = [f"{edges:,}" for edges, _ in self.looks[: len(self.looks) - self.passes]]
        yield "grown", grown + (f"; rejected at {', '.join(failed)}" if failed else "")

    def __str__(self) -> str:
        return "; ".join(f"{label} {text}" for label, text in self.lines())

    def __repr__(self) -> str:
        return "\n".join(f"{label:17s}{text}" for label, text in self.lines())


def require_prompts(seen: Inputs, unseen: Inputs) -> None:
    """Raise EvaluationError where there are too few prompts that the discovery did not see."""
    if is_in_sample(seen, unseen):
        raise EvaluationError(
            "equivalence is tested on prompts that the discovery did not see, and there are none; "
            "give unseen=, or leave test=True (--test) out"
        )
    if len(unseen.data) < PROMPTS:
        raise EvaluationError(
            f"equivalence is tested on at least {PROMPTS} unseen prompts, and there are "
            f"{len(unseen.data)}; give more (--examples {PROMPTS}), or leave --test out"
        )


def grow(
    seen: Inputs, unseen: Inputs, scores: Scores, mask: Mask, filled: int = 0, rule: str = "abs"
) -> Grown:
    """The circuit, or the smallest larger one of the ranking that is not told from the model.

    Sizes grow by a fifth. The first at which equivalence is not rejected on the ``seen`` prompts
    is tested on the unseen ones, and then the next larger ones, until it is not rejected there: so
    there are few looks at these. Raises as ``require_prompts`` does.
    """
    require_prompts(seen, unseen)
    start, looks = int(mask.sum()), []
    keep = mask
    for size, keep in _passing(seen, scores, mask, rule):
        looks.append((int(keep.sum()), _tested(unseen, [keep])[0]))
        if looks[-1][1].p > ALPHA:
            filled = scores.filled(size, rule)[1] if size else filled
            break
    if keep is not mask:
        scores.warn_of_zeros(keep)
    return Grown(keep, filled, start, tuple(looks))


def _passing(seen: Inputs, scores: Scores, mask: Mask, rule: str) -> Iterator[tuple[int, Mask]]:
    """The circuit (as size 0) and larger ones with their sizes, from the first one on at which
    equivalence is not rejected on these prompts; where it is at all, the largest alone."""
    sizes = [0, *rungs(scores.units)]
    passed = False
    last = 0, mask
    for first in range(0, len(sizes), STACK):
        some = sizes[first : first + STACK]
        masks = [mask] * (not first) + scores.masks([n for n in some if n], rule)
        larger = [
            (n, own) for n, own in zip(some, masks, strict=True) if not n or own.sum() > mask.sum()
        ]
        tests = [] if passed else _tested(seen, [own for _, own in larger])
        for place, (n, own) in enumerate(larger):
            passed = passed or tests[place].p > ALPHA
            last = n, own
            if passed:
                yield last
    if not passed:
        yield last


def _tested(inputs: Inputs, masks: list[Mask]) -> list[Tested]:
    """Equivalence of each circuit on the prompts."""
    if not masks:
        return []
    found = evaluate(inputs.model, masks, *inputs[1:])
    return [equivalence(one.circuit, one.everything, EPSILON, ALPHA) for one in found]
