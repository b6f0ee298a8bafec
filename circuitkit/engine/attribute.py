"""The score of every edge, from one forward and one backward, in groups of tokens.

To first order, cutting the edge w → r changes the metric by −score[w, r], where

    score[w, r] = Σ_tokens (live[w] − carried[w]) · ∂metric / ∂input[r]

which is the gradient of the metric in the mask of ``circuitkit.engine.run``, at the full mask: edge
attribution patching (Syed et al. 2023). The sum is over all tokens of a batch, or over those of
each group (of each example, say): one batched matrix product on views of the same numbers. A head's
gradient is pulled back through its projection and its norm locally, and tokens are processed in
blocks, so neither writers × tokens × d_model nor readers × tokens × d_model is ever held in full.
Of a model on several devices, what the writers change at the tokens of a block is copied once to
each that reads it, the scores are summed where the readers are, and come together at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from circuitkit.data.batches import Batch
from circuitkit.engine.devices import device_of, moved
from circuitkit.engine.gradients import Gradients, at_tokens
from circuitkit.engine.model import Activations, Model, Pull
from circuitkit.engine.numerics import wide
from circuitkit.graph.stages import Stage

__all__ = ["Pulls", "block_tokens", "by_example", "score", "score_groups", "whole"]

FEWEST = 64  # tokens of a block: below it, a product costs more than its numbers
BLOCK_BYTES = {"cuda": 2**30}  # of one block's writers
CACHED_BYTES = 48 * 2**20  # the same, on processors: more is hardly faster


class Pulls:
    """What takes gradients back through the projections of each stage, whose weights are folded
    once: for one call of ``score``, or for all those of a run. The tokens that are scored are
    chosen once too, for calls one after the other on the same changes."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.known: dict[int, Pull] = {}
        self.given: tuple[object, ...] = ()
        self.chosen: list[_Piece] = []

    def pieces(
        self, batch: Batch, live: Activations, carried: Activations, groups: Int[Tensor, "b p"]
    ) -> list[_Piece]:
        """The tokens of the groups at which anything changes, in pieces."""
        given = live.embed, carried.embed, carried.consistent, batch.mask, groups
        if len(self.given) != len(given) or any(
            old is not new for old, new in zip(self.given, given, strict=True)
        ):
            # before the first token that differs every difference is zero
            same = carried.untouched([live.embed - carried.embed])
            used = (batch.mask & ~same & (groups >= 0)).flatten()
            size = block_tokens(self.model)
            self.given, self.chosen = given, [*_pieces(used, groups.flatten(), size)]
        return self.chosen

    def of(self, stage: Stage) -> Pull:
        """That of a stage."""
        if stage.index not in self.known:
            self.known[stage.index] = self.model.kinds[stage.kind].pull(self.model, stage)
        return self.known[stage.index]


def score(
    model: Model,
    batch: Batch,
    live: Activations,
    carried: Activations,
    at: Gradients,
    pulls: Pulls | None = None,
) -> Float[Tensor, "writers readers"]:
    """The score of every edge, summed over the batch, in float32 at least; 0 where there is
    no edge.

    ``live − carried`` is what cutting changes, ``at`` the gradients: of the run where they are
    taken, which need not be the live one (EAP-IG).
    """
    return score_groups(model, batch, live, carried, at, whole(batch), 1, pulls)[0]


def whole(batch: Batch) -> Int[Tensor, "b p"]:
    """The group of all tokens."""
    return torch.zeros_like(batch.clean)


def by_example(batch: Batch) -> Int[Tensor, "b p"]:
    """The groups of tokens that are examples."""
    return batch.owner[:, None].expand_as(batch.clean)


@torch.no_grad()
def score_groups(
    model: Model,
    batch: Batch,
    live: Activations,
    carried: Activations,
    at: Gradients,
    groups: Int[Tensor, "b p"],
    count: int,
    pulls: Pulls | None = None,
) -> Float[Tensor, "groups writers readers"]:
    """The score of every edge, summed over the tokens of each group: as ``score``.

    ``groups`` says to which group each token belongs, from 0 to ``count`` − 1 (−1: to none). An
    edge into the logits belongs to the answer's token.
    """
    table = wide(live.embed.new_zeros(count, *model.wiring.shape))
    parts = _parts(model, table)
    pulls = pulls or Pulls(model)
    pieces = pulls.pieces(batch, live, carried, groups)
    for piece in pieces:
        deltas = _deltas(model, live, carried, piece)
        for stage, part in zip(model.wiring.stages, parts, strict=True):
            here = piece.on(part.device)
            pulled = at.pulled(pulls.of(stage), stage, here.block)
            _score_stage(part, deltas[part.device], pulled, stage, here)
    for stage, part in zip(model.wiring.stages, parts, strict=True):
        if part.device != table.device:
            table[:, stage.heard, stage.columns] = moved(part, table.device)
    length = batch.mask.shape[1]
    ends = torch.arange(len(batch), device=batch.last.device) * length + batch.last
    own = groups.flatten()[ends]
    if pieces:
        last = _Piece(own, ends[:, None], own[:, None] >= 0)
        final = _deltas(model, live, carried, last, [table.device])[table.device]
        seen = slice(model.wiring.renewed, None)
        values = torch.einsum("wbod,bd->bw", final[seen], wide(at.logits))
        table[:, seen, -1].index_add_(0, own.clamp(min=0), values)
    return table


def block_tokens(model: Model) -> int:
    """How many tokens are processed at once."""
    width = max(model.wiring.shape) * model.d_model * 4
    return max(FEWEST, BLOCK_BYTES.get(model.device.type, CACHED_BYTES) // width)


def _parts(model: Model, table: Float[Tensor, "groups w r"]) -> list[Float[Tensor, "groups _w _r"]]:
    """The scores of each stage's readers, on its device: a view of the table, if that is there."""
    parts = []
    for stage in model.wiring.stages:
        part, here = table[:, stage.heard, stage.columns], device_of(model, stage)
        same = here == table.device
        parts.append(part if same else torch.zeros(part.shape, dtype=part.dtype, device=here))
    return parts


@dataclass(frozen=True)
class _Piece:
    """Tokens (counted through the batch's examples) that are processed at once, by group; where
    one has fewer than another, ``real`` says which are not there."""

    groups: Int[Tensor, " g"]
    tokens: Int[Tensor, "g t"]
    real: Bool[Tensor, "g t"]
    known: dict[torch.device, _Piece] = field(default_factory=dict)

    def on(self, device: torch.device) -> _Piece:
        """The same with its tensors on that device, where they are copied once."""
        if device == self.tokens.device:
            return self
        if device not in self.known:
            groups, tokens, real = (moved(x, device) for x in (self.groups, self.tokens, self.real))
            self.known[device] = _Piece(groups, tokens, real)
        return self.known[device]

    @property
    def block(self) -> Int[Tensor, " gt"]:
        """The tokens, one after the other."""
        return self.tokens.flatten()


def _pieces(used: Bool[Tensor, " n"], groups: Int[Tensor, " n"], size: int) -> Iterator[_Piece]:
    """The tokens that are used, in pieces of at most so many: of one group, or of several that are
    about equally long."""
    tokens = used.nonzero().squeeze(1)
    own = groups[tokens]
    parts = [
        (number, part)
        for number in sorted(set(own.tolist()))
        for part in torch.split(tokens[own == number], size)
    ]
    parts.sort(key=lambda part: -len(part[1]))
    while parts:
        longest = len(parts[0][1])
        now, parts = parts[: size // longest], parts[size // longest :]
        block = torch.stack([pad(part, (0, longest - len(part)), value=-1) for _, part in now])
        which = torch.tensor([number for number, _ in now], device=block.device)
        yield _Piece(which, block.clamp(min=0), block >= 0)


def _deltas(
    model: Model,
    live: Activations,
    carried: Activations,
    piece: _Piece,
    wanted: Sequence[torch.device] = (),
) -> dict[torch.device, Float[Tensor, "_w g t d"]]:
    """What each writer writes live, less what it carries, at these tokens: of all writers on each
    device where that is wanted; else where stages read it, as far as they do."""
    stages = model.wiring.stages
    rows = dict.fromkeys(wanted, len(model.wiring.writers))
    rows = rows or {device_of(model, stage): stage.upstream for stage in stages}
    kind, shape = wide(live.embed.new_empty(0)).dtype, (piece.tokens.numel(), model.d_model)
    out = {at: torch.empty(n, *shape, dtype=kind, device=at) for at, n in rows.items()}

    def change(mine: Tensor, other: Tensor) -> Tensor:
        there = piece.on(mine.device)
        change = at_tokens(mine, there.block) - at_tokens(other, there.block)
        return change * there.real.flatten().view(-1, *[1] * (change.ndim - 1))

    first = change(live.embed, carried.embed)
    for at, held in out.items():
        held[0] = moved(first, at)
    for stage in stages:
        readers = {at: held for at, held in out.items() if stage.rows.stop <= len(held)}
        if not readers:
            continue
        own = change(live.shares[stage.index], carried.shares[stage.index])
        written = model.kinds[stage.kind].write(model, stage, None, own)
        for at, held in readers.items():
            held[stage.rows] = moved(written, at)
    return {at: held.view(len(held), *piece.tokens.shape, -1) for at, held in out.items()}


def _score_stage(
    part: Float[Tensor, "groups _w _r"],
    deltas: Float[Tensor, "w g t d"],
    pulled: Float[Tensor, "_r gt d"],
    stage: Stage,
    piece: _Piece,
) -> None:
    """Add the scores of the edges into one stage's readers: one matrix product for each group, on
    views (copies would take several times as long)."""
    wrote = deltas[stage.heard].transpose(0, 1).flatten(2)
    steep = pulled.reshape(len(pulled), len(piece.groups), -1).permute(1, 2, 0)
    if len(part) == 1:
        part[0] += wrote[0] @ steep[0]
    else:
        part.index_add_(0, piece.groups, torch.bmm(wrote, steep))
