"""What the gradient methods share: each says where the gradients are taken, and the rest is here.

Every score is Σ_tokens (a change of the writer's output) · (gradient at the reader), summed over a
batch, and averaged over its draws of the corruption and over the examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.attribute import Pulls, by_example, score, score_groups
from circuitkit.engine.backward import RuleLike, rule_settings, under
from circuitkit.engine.gradients import Gradients, gradients
from circuitkit.engine.holding import Held
from circuitkit.engine.inputs import Inputs
from circuitkit.engine.metric import Metric, check_metric
from circuitkit.engine.model import Activations, Context, Model
from circuitkit.engine.record import answer, record
from circuitkit.engine.tally import Groups, Tally
from circuitkit.errors import MetricError, ScoresError
from circuitkit.graph.scores import Scores
from circuitkit.registry import name_of
from circuitkit.util.json_values import Json
from circuitkit.util.progress import track

__all__ = ["FLAT", "Here", "Term", "Where", "attribute", "require_gradients"]

FLAT = 1e-6  # a metric's gradient in the logits below this is rounding: kl at the clean run
SINGLE = float(np.finfo(np.float32).max)  # of a score
NARROW = (torch.float16, torch.bfloat16)


class Term(NamedTuple):
    """One product of a method: the gradients ``at`` some run, times what the writers' outputs
    change from ``other`` to ``live``, times a ``weight``. ``risk`` is what to say where it
    is not finite."""

    at: Gradients
    live: Activations
    other: Activations
    weight: float = 1.0
    risk: str = ""


@dataclass(frozen=True)
class Here:
    """A batch whose edges are scored: what methods take their gradients around.

    ``first`` is the number of its first example in the data. With ``reads``, what was read in the
    clean run is kept too.
    """

    model: Model
    batch: Batch
    context: Context
    metric: Metric
    first: int
    reads: bool = False

    # -- the clean run -----------------------------------------------------------------------------
    @cached_property
    def clean(self) -> Gradients:
        """The gradients at the clean run. Where a method takes them first, that run is the live
        one too, and is not run again."""
        whole = partial(_value, self.metric, None, self.batch)
        return gradients(self.model, self.batch, self.context, self.context.embed, whole)

    @cached_property
    def live(self) -> Activations:
        """What every writer writes in the clean run."""
        if "clean" in self.__dict__:
            return self.clean.activations
        return self.plain(self.context.embed)

    @cached_property
    def reference(self) -> Float[Tensor, "b vocab"]:
        """The logits of the clean run."""
        if "clean" in self.__dict__:
            return self.clean.output
        with torch.no_grad():
            return answer(self.model, self.batch, self.live.final)

    # -- other runs --------------------------------------------------------------------------------
    def plain(self, embed: Float[Tensor, "b p d"]) -> Activations:
        """A run from this embedding, without gradients."""
        with torch.no_grad():
            run = record(self.model, self.context, embed)
        return run if self.reads else run.written()

    def at(
        self,
        embed: Float[Tensor, "b p d"] | None = None,
        carried: Activations | None = None,
        share: float | Float[Tensor, "b 1 1"] = 1.0,
        *,
        fixed: Mapping[int, Float[Tensor, "b p d"]] = MappingProxyType({}),
        held: Held | None = None,
        risk: str = "",
    ) -> Gradients:
        """The gradients at another run: from this embedding (None: the clean one), and as
        ``circuitkit.engine.gradients`` takes the rest. Raises ScoresError, with the ``risk``, where
        there is one and the logits are not finite."""
        start = self.context.embed if embed is None else embed
        return gradients(
            self.model, self.batch, self.context, start, partial(self.value, risk=risk), carried,
            share, fixed=fixed, held=held,
        )  # fmt: skip

    def value(self, logits: Float[Tensor, "b vocab"], risk: str = "") -> Float[Tensor, " examples"]:
        """The metric, of each example; raises as ``at`` does."""
        if risk and not bool(logits.isfinite().all()):
            raise ScoresError(f"the logits of a run are not finite: {risk}")
        return _value(self.metric, self.reference, self.batch, logits)

    def between(self, carried: Activations, share: float | Tensor) -> Float[Tensor, "b p d"]:
        """The embedding that is this share of the way from the carried one to the clean one; of
        each example, or of all."""
        return torch.lerp(carried.embed.to(self.context.embed), self.context.embed, share)

    def own(self, each: Float[Tensor, " all_examples"]) -> Float[Tensor, "b 1 1"]:
        """Of a number of each example of the data, those of this batch, for each of its rows."""
        here = slice(self.first, self.first + self.batch.examples)
        return self.rows(each[here].to(self.model.device))

    def rows(self, each: Float[Tensor, " examples"]) -> Float[Tensor, "b 1 1"]:
        """A number of each example, for each of its rows."""
        return each.to(self.context.embed)[self.batch.owner][:, None, None]

    def at_rest(self, carried: Activations) -> Bool[Tensor, " examples"]:
        """Whether a token of an example carries an embedding of zero, where the slope of a norm is
        1/√ε."""
        zero = (carried.embed == 0).all(-1) & self.batch.mask
        return self.batch.any_row(zero.any(-1))


Where: TypeAlias = Callable[[Here, Activations], Iterator[Term]]


@torch.no_grad()
def attribute(
    inputs: Inputs,
    method: str,
    where: Where,
    groups: Groups,
    settings: dict[str, Json] | None = None,
    rule: RuleLike = None,
    *,
    reads: bool = False,
) -> Scores:
    """The scores of a method that takes its gradients ``where`` it says, for each draw of the
    corruption, in a backward that follows the rule; with ``reads`` it is given the runs with all
    that was read there.

    Raises MetricError and ScoresError where no scores come of the gradients.
    """
    model, data, metric, corruption = inputs
    model = under(model, rule)
    tally = Tally(model.wiring, len(data), groups, data.memory)
    carry = corruption(model, data)
    legal = torch.from_numpy(model.wiring.legal).to(model.device)
    pulls, flat = Pulls(model), True
    for batch in track(data, method):
        draws = [carried if reads else carried.written() for carried in carry(batch)]
        here = Here(model, batch, model.start(batch.clean, batch.mask), metric, tally.seen, reads)
        table: Any = 0.0
        for carried in draws:
            for term in where(here, carried):
                flat &= term.at.steepest < FLAT
                part = _product(here, term, tally.apart, pulls)[..., legal]
                _require_finite(method, here, term, part, SINGLE / len(data))
                table += part * (term.weight / len(draws))
                del term  # its activations, before the next run makes its own
        own = table.cpu().numpy()
        tally.add(own) if tally.apart else tally.add_sum(own, batch.examples)
    if flat:
        raise MetricError(
            f"the gradient of {name_of(metric)} is zero wherever {method} looks, so every score "
            "would be zero; use eap_ig, or a different metric (logit_diff)"
        )
    said = {**(settings or {}), **rule_settings(rule)}
    about = {**inputs.metadata(), "method": method, "settings": said}
    return tally.scores(about)


def require_gradients(
    model: Model, metric: Metric, table: Float[Tensor, "..."], batch: Batch
) -> None:
    """Raise MetricError where what came of a batch's gradients is not finite."""
    if not bool(table.isfinite().all()):
        wider = ", or load the model in float32" if model.dtype in NARROW else ""
        raise MetricError(
            f"the gradient of {name_of(metric)} is not finite among {len(batch)} examples, the "
            f"first of them {batch.name(0)}; check what the metric does there (batch_size=1 finds "
            f"the example){wider}"
        )


def _require_finite(
    method: str, here: Here, term: Term, part: Float[Tensor, "..."], most: float
) -> None:
    """Raise ScoresError, with the cause if the method knows of one, or MetricError, where the
    products of one term are not finite, or so large that their sum is not."""
    wrong = ~(part.abs() <= most)
    if not bool(wrong.any()):
        return
    if not term.risk:
        require_gradients(here.model, here.metric, part.masked_fill(wrong, torch.inf), here.batch)
    raise ScoresError(
        f"{method} gives {int(wrong.view(-1, part.shape[-1]).any(0).sum()):,} scores that are not "
        f"finite among {len(here.batch)} examples: {term.risk}"
    )


def _product(
    here: Here, term: Term, apart: bool, pulls: Pulls
) -> Float[Tensor, "*examples writers readers"]:
    """The scores of one term, summed over the batch, or of each example apart."""
    batch = here.batch
    given = here.model, batch, term.live, term.other, term.at
    if apart:
        return score_groups(*given, by_example(batch), batch.examples, pulls)
    return score(*given, pulls)


def _value(
    metric: Metric, reference: Tensor | None, batch: Batch, logits: Tensor
) -> Float[Tensor, " examples"]:
    """The metric with all but the logits bound (without a reference, they are it); raises
    MetricError where it has no gradient."""
    reference = logits.detach() if reference is None else reference
    values = check_metric(metric, logits, reference, batch)
    if torch.is_grad_enabled() and not values.requires_grad:
        raise MetricError(
            f"{name_of(metric)} has no gradient; discover with a different metric (logit_diff) and "
            f"evaluate with {name_of(metric)}"
        )
    return values
