"""What the gradient methods share: each says where the gradients are taken, and the rest is here.

Every score is Σ_tokens (a change of the writer's output) · (gradient at the reader), summed over a
batch, and averaged over its draws of the corruption and over the examples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import MappingProxyType
from typing import NamedTuple, TypeAlias, overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.data.places import located, numbers
from circuitkit.engine.attribute import Pulls, by_example, score_groups, whole
from circuitkit.engine.backward import RuleLike, rule_settings, under
from circuitkit.engine.checkpoints import Journal, identity
from circuitkit.engine.dealing import Block, by_batch
from circuitkit.engine.gradients import Gradients, gradients
from circuitkit.engine.holding import Held
from circuitkit.engine.inputs import Inputs
from circuitkit.engine.metric import Metric, Unseen, check_metric
from circuitkit.engine.model import Activations, Context, Model
from circuitkit.engine.numerics import exact
from circuitkit.engine.placed_scores import Grouped, grouped, score_places
from circuitkit.engine.record import answer, record, with_sources
from circuitkit.engine.tally import Groups, PlacedTally, Tally
from circuitkit.errors import CircuitError, MetricError, ScoresError
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.places import Places
from circuitkit.graph.scores import Scores
from circuitkit.registry import name_of
from circuitkit.util.json_values import Json

__all__ = ["FLAT", "Here", "Term", "Where", "attribute", "require_gradients"]

FLAT = 1e-6  # a metric's gradient in the logits below this is rounding: kl at the clean run
SMALL = 1e-2  # metrics whose values are all below this are compared as if they were this large
NOTE = "note."  # what begins the names of notes in a block
VERSION = 1  # of the blocks on disk
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
    clean run is kept too; with ``places``, what edges between them need.
    """

    model: Model
    batch: Batch
    context: Context
    metric: Metric
    first: int
    reads: bool = False
    places: Places | None = None
    notes: dict[str, list[float]] = field(default_factory=dict)
    unseen: Unseen = field(default_factory=Unseen)
    runs: list[tuple[Bool[Tensor, ""], str]] = field(default_factory=list)

    def note(self, name: str, value: float) -> None:
        """Note a number of this batch, for ``attribute`` to tell."""
        self.notes.setdefault(name, []).append(value)

    # -- the clean run -----------------------------------------------------------------------------
    @cached_property
    def clean(self) -> Gradients:
        """The gradients at the clean run. Where a method takes them first, that run is the live
        one too, and is not run again."""
        own = partial(_value, self.metric, None, self.batch, unseen=self.unseen)
        return gradients(
            self.model, self.batch, self.context, self.context.embed, own,
            mixed=self.places is not None,
        )  # fmt: skip

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

    @cached_property
    def groups(self) -> tuple[Int[Tensor, "b p"], Int[Tensor, "b p"]]:
        """The group of all tokens, and those that are examples."""
        return whole(self.batch), by_example(self.batch)

    @cached_property
    def grouped(self) -> tuple[Grouped, Grouped]:
        """The tokens by span, of all examples together and of each apart."""
        names = () if self.places is None else self.places.spans
        own = self.places
        of = numbers(self.batch, names) if own is None else located(self.batch, own)
        return grouped(self.batch, of, len(names)), grouped(self.batch, of, len(names), apart=True)

    # -- other runs --------------------------------------------------------------------------------
    def plain(self, embed: Float[Tensor, "b p d"]) -> Activations:
        """A run from this embedding, without gradients."""
        with torch.no_grad():
            run = record(self.model, self.context, embed)
        return self.kept(run)

    def kept(self, run: Activations) -> Activations:
        """What is needed of a run."""
        run = run if self.places is None else with_sources(self.model, run)
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
            share, fixed=fixed, held=held, mixed=self.places is not None,
        )  # fmt: skip

    def value(self, logits: Float[Tensor, "b vocab"], risk: str = "") -> Float[Tensor, " examples"]:
        """The metric, of each example; raises as ``at`` does."""
        if risk:
            self.runs.append((logits.detach().isfinite().all(), risk))
            if logits.device.type == "cpu":  # a GPU is waited for at the end
                self.look()
        return _value(self.metric, self.reference, self.batch, logits, self.unseen)

    def look(self) -> None:
        """Look at the runs and at what the metric has said of them; raises as ``at`` does."""
        runs = [*self.runs]
        self.runs.clear()
        if runs and not bool(torch.stack([finite for finite, _ in runs]).all()):
            risk = next(risk for finite, risk in runs if not bool(finite))
            raise ScoresError(f"the logits of a run are not finite: {risk}")
        self.unseen.require(self.batch)

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


@overload
def attribute(
    inputs: Inputs, method: str, where: Where, groups: Groups,
    settings: dict[str, Json] | None = None, rule: RuleLike = None, *, reads: bool = False,
    resume: str | os.PathLike[str] | None = None,
    tell: Callable[[Mapping[str, np.ndarray]], None] | None = None,
) -> Scores: ...  # fmt: skip


@overload
def attribute(
    inputs: Inputs, method: str, where: Where, groups: Groups,
    settings: dict[str, Json] | None = None, rule: RuleLike = None, *, places: Places | None,
    reads: bool = False, resume: str | os.PathLike[str] | None = None,
    tell: Callable[[Mapping[str, np.ndarray]], None] | None = None,
) -> Scores | PlacedScores: ...  # fmt: skip


@torch.no_grad()
def attribute(
    inputs: Inputs,
    method: str,
    where: Where,
    groups: Groups,
    settings: dict[str, Json] | None = None,
    rule: RuleLike = None,
    *,
    places: Places | None = None,
    reads: bool = False,
    resume: str | os.PathLike[str] | None = None,
    tell: Callable[[Mapping[str, np.ndarray]], None] | None = None,
) -> Scores | PlacedScores:
    """The scores of a method that takes its gradients ``where`` it says, for each draw of the
    corruption, in a backward that follows the rule; with ``places``, of the edges between them.
    With ``reads`` it is given the runs with all that was read there. The batches are dealt to the
    processes, and with ``resume`` kept; ``tell`` hears, batch by batch, what the method has noted
    of it (``Here.note``), and may add settings.

    Raises MetricError and ScoresError where no scores come of the gradients, OutputError where the
    directory cannot be used, and CircuitError for places of another model.
    """
    tally = _tally(inputs, groups, places)
    said: dict[str, Json] = {**(settings or {}), **rule_settings(rule)}
    about = {} if resume is None else _about(inputs, method, said, tally.apart, places)
    journal = Journal(resume, about)
    scoring = _Scoring(inputs, method, where, rule, reads, tally, journal)
    flat = True
    for block in by_batch(inputs.data, method, scoring.block, journal, scoring.recognise):
        flat &= bool(block["flat"])
        scores = block["scores"]
        tally.add(scores) if tally.apart else tally.add_sum(scores, int(block["examples"]))
        if tell is not None:
            notes = (name for name in block if name.startswith(NOTE))
            tell({name.removeprefix(NOTE): block[name] for name in notes})
    if flat:
        journal.forget()
        raise MetricError(
            f"the gradient of {name_of(inputs.metric)} is zero wherever {method} looks, so every "
            "score would be zero; use eap_ig, or a different metric (logit_diff)"
        )
    said = {**(settings or {}), **rule_settings(rule)}  # and what was told
    result = {**inputs.metadata(), "method": method, "settings": said}
    return tally.placed(result) if isinstance(tally, PlacedTally) else tally.scores(result)


def _tally(inputs: Inputs, groups: Groups, places: Places | None) -> Tally:
    """What the examples' scores are summed in."""
    of, wiring = (len(inputs.data), groups, inputs.data.memory), inputs.model.wiring
    if places is None:
        return Tally(wiring, *of)
    if places.wiring != wiring:
        raise CircuitError(
            f"the places are of a model of {places.wiring}, and the model has {wiring}; find them "
            "for this model"
        )
    return PlacedTally(places, *of)


def _about(
    inputs: Inputs, method: str, said: dict[str, Json], apart: bool, places: Places | None
) -> dict[str, Json]:
    """All that tells the blocks of one attribution from those of another, except the weights."""
    return {
        **identity(inputs.model, inputs.data),
        "format": "circuitkit.attribution",
        "version": VERSION,
        "method": method,
        "settings": said,
        "metric": name_of(inputs.metric),
        "corruption": name_of(inputs.corruption),
        "apart": apart,
        **({} if places is None else {"places": places.to_dict()}),
    }


class _Scoring:
    """How the edges are scored on each batch: summed, or each example ``apart``."""

    def __init__(
        self, inputs: Inputs, method: str, where: Where, rule: RuleLike, reads: bool, tally: Tally,
        journal: Journal,
    ) -> None:  # fmt: skip
        model, data, self.metric, corruption = inputs
        self.model, self.method, self.where = under(model, rule), method, where
        self.reads, self.apart, self.journal = reads, tally.apart, journal
        self.places = tally.places if isinstance(tally, PlacedTally) else None
        self.carry = corruption(self.model, data)
        self.edges = [_numbers(legal).to(model.device) for legal in tally.tables]
        self.pulls, self.examples, self.known = Pulls(self.model), len(data), False

    def block(self, batch: Batch, first: int) -> Block:
        """The scores on a batch, whether the metric was flat wherever it was looked at, and what
        the method has noted."""
        here = self._here(batch, first)
        draws = [here.kept(one) for one in self.carry(batch)]
        seen = list[_Seen]()
        parts = list[Tensor]()  # of which the first becomes their sum
        for carried in draws:
            for term in self.where(here, carried):
                part, weight = self._product(here, term), term.weight / len(draws)
                seen.append(_Seen.of(term, part, SINGLE / self.examples))
                parts[0].add_(part, alpha=weight) if parts else parts.append(part.mul_(weight))
                del part, term  # its activations, before the next run makes its own
        flat = _looked_at(self.method, here, seen)
        found = {"scores": parts[0].cpu().numpy(), "flat": np.array(flat),
                 "examples": np.array(batch.examples)}  # fmt: skip
        found |= {f"{NOTE}{name}": np.array(own) for name, own in here.notes.items()}
        if self.journal.place is not None:
            found["plain"] = self._plain(here, draws)
        return found

    def recognise(self, batch: Batch, first: int, block: Mapping[str, np.ndarray]) -> None:
        """Raise OutputError where a block is of another metric or corruption of the same name: the
        first that is found is looked at."""
        if self.known:
            return
        now = self._plain(self._here(batch, first), self.carry(batch))
        self.journal.recognise(self.model, block["plain"], now, SMALL)
        self.known = True

    def _here(self, batch: Batch, first: int) -> Here:
        context = self.model.start(batch.clean, batch.mask)
        return Here(self.model, batch, context, self.metric, first, self.reads, self.places)

    def _product(self, here: Here, term: Term) -> Float[Tensor, "*examples edges"]:
        """The scores of one term, summed over the batch, or of each example apart."""
        batch, tables = here.batch, list[Tensor]()
        if here.places is None:
            count = batch.examples if self.apart else 1
            given = here.model, batch, term.live, term.other, term.at
            tables += [score_groups(*given, here.groups[self.apart], count, self.pulls)]
        else:
            tables += score_places(
                here.model, batch, here.context, term.live, term.other, term.at, here.places,
                here.grouped[self.apart], self.pulls,
            )  # fmt: skip
        sizes = [len(own) for own in self.edges]
        found = tables[0].new_empty(len(tables[0]), sum(sizes))
        for row, *each in zip(found, *tables, strict=True):
            for part, own, table in zip(row.split(sizes), self.edges, each, strict=True):
                torch.index_select(table.flatten(), 0, own, out=part)
        return found if self.apart else found[0]

    def _plain(
        self, here: Here, draws: Sequence[Activations]
    ) -> Float[np.ndarray, "clean_and_draws examples"]:
        """The metric in the clean run, and in that of each draw."""
        ends = [here.reference, *(answer(self.model, here.batch, run.final) for run in draws)]
        with torch.no_grad():
            values = [exact(here.value(end.detach())) for end in ends]
        here.look()
        return np.stack([own.cpu().numpy() for own in values])


def _numbers(legal: Bool[np.ndarray, "..."]) -> Int[Tensor, " edges"]:
    """Where the edges are in a table: in half of the bytes, if it is not too large for that."""
    kind = np.int32 if legal.size <= np.iinfo(np.int32).max else np.int64
    return torch.from_numpy(np.flatnonzero(legal).astype(kind))


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


class _Seen(NamedTuple):
    """What is asked of a term, and looked at when all of a batch's are there: a GPU is waited for
    by each look. How many scores are not finite, or so large that their sum is not."""

    steepest: Float[Tensor, ""]
    wrong: Int[Tensor, ""]
    risk: str

    @classmethod
    def of(cls, term: Term, part: Float[Tensor, "*examples edges"], most: float) -> _Seen:
        """Of a term and its products, of which none may be larger."""
        wrong = ~(part.abs() <= most)
        return cls(term.at.steepest, wrong.view(-1, part.shape[-1]).any(0).sum(), term.risk)


def _looked_at(method: str, here: Here, seen: Sequence[_Seen]) -> bool:
    """Whether the metric is flat wherever the terms of a batch look. Raises what its runs do, and
    ScoresError, with the cause if the method knows of one, or MetricError, where the products of
    one term are not finite, or too large."""
    here.look()
    counts: list[int] = torch.stack([one.wrong for one in seen]).tolist()
    for count, one in zip(counts, seen, strict=True):
        if count and not one.risk:
            require_gradients(here.model, here.metric, torch.tensor(torch.inf), here.batch)
        if count:
            raise ScoresError(
                f"{method} gives {count:,} scores that are not finite among {len(here.batch)} "
                f"examples: {one.risk}"
            )
    return bool((torch.stack([one.steepest for one in seen]) < FLAT).all())


def _value(
    metric: Metric,
    reference: Tensor | None,
    batch: Batch,
    logits: Tensor,
    unseen: Unseen | None = None,
) -> Float[Tensor, " examples"]:
    """The metric with all but the logits bound (without a reference, they are it); raises
    MetricError where it has no gradient."""
    reference = logits.detach() if reference is None else reference
    values = check_metric(metric, logits, reference, batch, unseen)
    if torch.is_grad_enabled() and not values.requires_grad:
        raise MetricError(
            f"{name_of(metric)} has no gradient; discover with a different metric (logit_diff) and "
            f"evaluate with {name_of(metric)}"
        )
    return values
