"""What heads write towards the answer, and how much of it later components leave there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.devices import moved
from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.model import Activations, Context
from circuitkit.engine.numerics import wide
from circuitkit.engine.record import at_answers, difference
from circuitkit.engine.sweep import Place, Rest
from circuitkit.graph.nodes import Node

__all__ = ["Direct", "Erasure", "answer_weights", "direct", "erasure"]


def answer_weights(batch: Batch, vocab: int, *, wrong: bool) -> Float[Tensor, "b vocab"]:
    """Which sum of logits the answer is: the mean of the correct ones less that of the wrong ones,
    or, without ``wrong``, less that of all tokens."""
    weights = _mean_of(batch.correct, vocab)
    return weights - _mean_of(batch.wrong, vocab) if wrong else weights - 1 / vocab


def _mean_of(answers: Tensor, vocab: int) -> Float[Tensor, "b vocab"]:
    """The weights whose sum is the mean over an example's answers."""
    here = (answers >= 0).float()
    weights = torch.zeros(len(answers), vocab, device=answers.device)
    return weights.scatter_add_(1, answers.clamp(min=0), here / here.sum(1, keepdim=True))


# -- direct logit attribution ----------------------------------------------------------------------
@dataclass(frozen=True)
class Direct:
    """What each writer adds to the answer in each example, in logits, with the final norm's scale
    as it is in the run; ``bias`` is what all biases together add. Their sum is the answer.

    ``pull`` is the direction of it in the residual stream, ``capped`` whether the model squashes
    the logits after that.
    """

    writers: Float[Tensor, "w b"]
    bias: Float[Tensor, " b"]
    pull: Float[Tensor, "b d"]
    capped: bool

    @property
    def answer(self) -> Float[Tensor, " b"]:
        """The answer in each example, before a cap."""
        return self.writers.sum(0) + self.bias


def direct(
    model: Inspectable, batch: Batch, run: Activations, weights: Float[Tensor, "b vocab"]
) -> Direct:
    """The direct logit attribution of every writer at the answers, for a sum of logits."""
    final = at_answers(batch, run.final)
    towards, constant = model.logit_directions(weights.to(final))
    norm = model.norm(None, final)
    pull = wide(norm.pull(towards))
    bias = wide((towards * norm.bias).sum(-1) + constant)
    parts = [(wide(at_answers(batch, run.embed)) * pull).sum(-1)[None]]
    for stage in model.wiring.stages:
        kind = model.kinds[stage.kind]
        shares = at_answers(batch, run.shares[stage.index])
        written = moved(kind.write(model, stage, None, shares), pull.device)
        parts.append((wide(written) * pull).sum(-1))
        output_bias = kind.constant(model, stage)
        bias = bias if output_bias is None else bias + pull @ output_bias.to(pull)
    writers = torch.cat(parts)
    own = (wide(model.unembed(final)) * weights.to(pull)).sum(-1)
    off = own - writers.sum(0) - bias
    capped = bool(off.abs().max() > _near(model) * own.abs().max().clamp(min=1))
    return Direct(writers, bias, pull, capped)


def _near(model: Inspectable) -> float:
    """How far sums of 16 bits, or of more, may be off."""
    return 0.05 if torch.finfo(model.dtype).bits == 16 else 1e-4


# -- what is left of it ----------------------------------------------------------------------------
class Erasure(NamedTuple):
    """What taking a head's output away at the answer takes from the final residual there, later
    components answering: of each head and example ``retained``, along that output and as a share of
    it, and ``total``, in logits of the answer."""

    retained: Float[Tensor, "heads b"]
    total: Float[Tensor, "heads b"]


def erasure(
    model: Inspectable,
    batch: Batch,
    context: Context,
    run: Activations,
    carried: Activations | None,
    heads: Sequence[Node],
    pull: Float[Tensor, "b d"],
) -> Erasure:
    """How much of what each head writes at the answer is there at the end: it is taken away (or
    replaced by what is carried), and everything behind it answers."""
    rows = torch.arange(len(batch), device=batch.last.device)
    at = torch.zeros_like(batch.mask)
    at[rows, batch.last] = True
    rest = Rest(model, batch, context, run, int(batch.last.min()))
    final = run.final[rows, batch.last]
    found: dict[Node, tuple[Tensor, Tensor]] = {}
    for place, names in _together(model, rest, heads):
        changes = [moved(_change(model, run, carried, name), at.device) for name in names]
        changes = [torch.where(at[..., None], change, 0) for change in changes]
        ends = rest.finals({place: torch.stack([rest.late(place, x) for x in changes])})
        lost = wide(final - ends)
        own = wide(-torch.stack(changes)[:, rows, batch.last])
        retained = (lost * own).sum(-1) / own.square().sum(-1)
        pairs = zip(retained, (lost * pull).sum(-1), strict=True)
        found |= dict(zip(names, pairs, strict=True))
    retained, total = (torch.stack([found[name][i] for name in heads]) for i in range(2))
    return Erasure(retained, total)


def _together(
    model: Inspectable, rest: Rest, heads: Sequence[Node]
) -> Iterator[tuple[Place, list[Node]]]:
    """Heads whose runs begin at one place, as many as run well at once."""
    wiring = model.wiring
    ordered = sorted(heads, key=lambda head: wiring.writer[head])
    for place, group in groupby(ordered, key=lambda head: wiring.entry(wiring.writer[head])):
        names, size = list(group), rest.size(place)
        for start in range(0, len(names), size):
            yield place, names[start : start + size]


def _change(
    model: Inspectable, run: Activations, carried: Activations | None, head: Node
) -> Float[Tensor, "b p d"]:
    """What changes in the residual stream without a head's output, or with the carried one."""
    row = model.wiring.writer[head]
    if carried is not None:
        return difference(model, carried, run, row)
    stage = model.wiring.attention(head.layer or 0)
    place = [row - stage.rows.start]
    return -model.write(stage.layer, place, run.shares[stage.index][:, :, place])[0]
