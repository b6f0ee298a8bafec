"""How good a dictionary is: what it leaves unexplained, and what the model still does when the
dictionary stands for a component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.metric import Metric
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.record import at_answers, record
from circuitkit.errors import DictionaryError, EvaluationError
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.rows import Rows
from circuitkit.features.sites import site_values
from circuitkit.features.texts import Tokens, padded
from circuitkit.graph.stages import ATTENTION, MLP, Stage
from circuitkit.util.json_values import Json

__all__ = ["Carried", "Losses", "Quality", "carried_by_features", "measure"]

AT_ONCE = 4096  # rows


@dataclass(frozen=True)
class Quality:
    """What a dictionary explains of rows.

    Attributes:
        rows: How many rows there are.
        unexplained: The share of the variance of what is written that it leaves unexplained.
        active: How many features are active at a row, on average.
        dead: How many features are active at none of the rows.
    """

    rows: int
    unexplained: float
    active: float
    dead: int

    def to_dict(self) -> dict[str, Json]:
        """The numbers by name."""
        return asdict(self)


@torch.no_grad()
def measure(dictionary: Dictionary, rows: Rows) -> Quality:
    """How good a dictionary is on rows; raises DictionaryError without any."""
    if not len(rows):
        raise DictionaryError("there are no rows to measure a dictionary on; give more texts")
    used = torch.zeros(dictionary.n_features, dtype=torch.bool)
    left = active = 0.0
    for start in range(0, len(rows), AT_ONCE):
        x, y = (part[start : start + AT_ONCE] for part in (rows.x, rows.y))
        found = dictionary.encode(x)
        written = dictionary.decode(found) + dictionary.skipped(x)
        left += float((y - written).square().sum())
        active += float((found > 0).sum())
        used |= (found > 0).any(0)
    total = float((rows.y - rows.y.mean(0)).square().sum())
    return Quality(
        len(rows), left / total if total else 0.0, active / len(rows), int((~used).sum())
    )


# -- what the model still does ---------------------------------------------------------------------
def _stage(model: Model, dictionary: Dictionary) -> Stage | None:
    """The stage that writes what a dictionary stands for; None where that is not what one writes,
    or where it writes in several layers."""
    kind = {"mlp_out": MLP, "mlp_raw": MLP, "attn_out": ATTENTION, "attn_z": ATTENTION}
    wanted = kind.get(dictionary.writes)
    if dictionary.decoder.ndim == 3:
        return None
    own = (s for s in model.wiring.stages if (s.layer, s.kind) == (dictionary.layer, wanted))
    return next(own, None)


def _written(model: Model, dictionary: Dictionary, x: Float[Tensor, "b p d"]) -> Tensor:
    """What the dictionary writes into the residual stream where it reads x."""
    made = dictionary(x).to(x)
    if dictionary.writes != "attn_z":
        return made
    z = made.view(*made.shape[:-1], model.wiring.heads, model.d_head)
    return model.attention_out(dictionary.layer, z)[0]


class Losses:
    """The next-token loss on texts, of the model and of dictionaries in the place of components.

    What does not depend on a dictionary's weights is run once, so that a training can be watched at
    the price of one run a look.
    """

    def __init__(self, model: Model, texts: Sequence[Tokens], batch_size: int = 32) -> None:
        self.model = model
        self._batches = [
            (tokens, mask) for _, tokens, mask in padded(texts, batch_size, model.device)
        ]
        self._read: dict[tuple[int, str], list[Tensor]] = {}
        self._bounds: dict[int, tuple[float, float]] = {}

    @torch.no_grad()
    def recovered(self, dictionary: Dictionary) -> float | None:
        """Of what the loss rises when a component writes nothing, the share that is not lost when
        the dictionary writes in its place: 1 is the model itself. None where what the dictionary
        stands for is not what a component writes, or where the component makes the loss no lower.
        """
        stage = _stage(self.model, dictionary)
        if stage is None:
            return None
        place = dictionary.layer, dictionary.reads
        if place not in self._read or stage.index not in self._bounds:
            self._look(stage, place)
        clean, without = self._bounds[stage.index]
        if not without > clean:
            return None
        replaced = sum(
            self._with(batch, stage, _written(self.model, dictionary, x))
            for batch, x in zip(self._batches, self._read[place], strict=True)
        )
        return (without - replaced) / (without - clean)

    def _look(self, stage: Stage, place: tuple[int, str]) -> None:
        """Run the model as it is, and without the component: what is read there, and the losses."""
        read, clean, without = [], 0.0, 0.0
        for tokens, mask in self._batches:
            run = record(self.model, self.model.start(tokens, mask))
            read.append(site_values(self.model, run, *place))
            clean += _loss(self.model, run.final, tokens, mask)
            without += self._with((tokens, mask), stage, torch.zeros_like(run.embed))
        self._read[place], self._bounds[stage.index] = read, (clean, without)

    def _with(self, batch: tuple[Tensor, Tensor], stage: Stage, written: Tensor) -> float:
        """The summed loss where a stage writes what is given."""
        run = record(self.model, self.model.start(*batch), fixed={stage.index: written})
        return _loss(self.model, run.final, *batch)


def _loss(model: Model, final: Tensor, tokens: Tensor, mask: Bool[Tensor, "b p"]) -> float:
    """The summed loss of each next token that is not padding."""
    known = mask[:, :-1] & mask[:, 1:]
    logits = model.unembed(final[:, :-1][known]).float()
    return float(torch.nn.functional.cross_entropy(logits, tokens[:, 1:][known], reduction="sum"))


@dataclass(frozen=True)
class Carried:
    """How much of a behaviour features carry: 1 is the model, 0 the corrupted run.

    Attributes:
        features: All features of all dictionaries answer to the prompt, and what they leave over
            (error, skip and bias) is that of the corrupted run.
        nothing: What all components that have a dictionary write is that of the corrupted run.
        skip: The skips alone answer, and no feature; without skips that is ``nothing``.
        both: Features and skips answer; without skips that is ``features``.
    """

    features: float
    nothing: float
    skip: float
    both: float


@torch.no_grad()
def carried_by_features(
    model: Model, dictionaries: Sequence[Dictionary], data: Dataset, metric: Metric
) -> Carried:
    """What all features alone carry of a behaviour, with everything else of their components held
    at the corrupted run; and what the skips alone do, and both.

    Raises EvaluationError where the metric does not tell the clean from the corrupted run, and
    DictionaryError for a dictionary that does not stand for what one component writes.
    """
    by_stage: dict[int, Dictionary] = {}
    for own in dictionaries:
        stage = _stage(model, own)
        if stage is None:
            raise DictionaryError(f"{own.prefix} does not stand for what one component writes")
        by_stage[stage.index] = own
    sums = torch.zeros(6)
    for batch in data:
        sums += torch.tensor(_of_batch(model, by_stage, batch, metric))
    clean, corrupt, *others = sums.tolist()
    if abs(clean - corrupt) < 1e-9:
        raise EvaluationError("the metric is the same on the clean and the corrupted prompts")
    return Carried(*((value - corrupt) / (clean - corrupt) for value in others))


def _of_batch(
    model: Model, by_stage: Mapping[int, Dictionary], batch: Batch, metric: Metric
) -> list[float]:
    """The metric, summed over a batch, of the clean run, the corrupted one, and those in which the
    features, nothing, the skips, and both of the components are live."""
    carried = record(model, model.start(batch.corrupt, batch.mask))
    context = model.start(batch.clean, batch.mask)
    clean = record(model, context)

    def live(*, features: bool, skip: bool) -> Activations:
        fixed: dict[int, Tensor] = {}
        for number, own in sorted(by_stage.items()):
            # What is read depends on what was written before: one run for each component.
            run = record(model, context, fixed=fixed)
            fixed[number] = _output(model, carried, number) + _change(
                model, own, run, carried, features, skip
            )
        return record(model, context, fixed=fixed)

    held = live(features=False, skip=False)
    alone = live(features=True, skip=False)
    skips = any(own.skip is not None for own in by_stage.values())
    linear = live(features=False, skip=True) if skips else held
    both = live(features=True, skip=True) if skips else alone
    reference = model.unembed(at_answers(batch, clean.final))
    return [
        float(metric(model.unembed(at_answers(batch, run.final)), reference, batch).sum())
        for run in (clean, carried, alone, held, linear, both)
    ]


def _change(
    model: Model, own: Dictionary, run: Activations, base: Activations, features: bool, skip: bool
) -> Float[Tensor, "b p d"]:
    """What a dictionary's features, its skip, both or neither write more in a run than in
    another."""
    own = own.to(run.embed.dtype)
    now, then = (site_values(model, x, own.layer, own.reads) for x in (run, base))
    change = torch.zeros_like(run.embed)
    skipped = change if own.skip is None else own.skipped(now - then).to(change)
    if features:
        change = _written(model, own, now) - _written(model, own, then) - skipped
    return change + skipped if skip else change


def _output(model: Model, run: Activations, number: int) -> Float[Tensor, "b p d"]:
    """What a stage writes in a run, biases included."""
    stage = model.wiring.stages[number]
    kind = model.kinds[stage.kind]
    return kind.out(model, stage, run.computed[number])[0]
