"""Corrupted texts with other numbers of tokens than the clean ones, aligned by their spans.

A clean token is paired with the corrupted one at the same place from the end of the same span, so
that the last token of a span has the last one for its partner, and the answer the answer. Where the
corrupted span is shorter, a token without a partner gets the mean of the span.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from circuitkit.data.examples import Example, as_clean
from circuitkit.data.spans import NAMED, Ranges, candidates, numbered
from circuitkit.errors import DataError

__all__ = ["Aligned", "aligning", "as_align", "pair"]

SPANS = "spans"  # all that are named


@dataclass(frozen=True)
class Aligned:
    """The corrupted texts of a batch, in their own tokens, and what a clean token gets of them.

    Attributes:
        tokens: Token ids of the corrupted texts, [batch, other]; padding is 0.
        mask: True at their tokens, False at padding.
        last: The position of each one's last token.
        pairing: How much each clean token gets of each corrupted one, [batch, pos, other]: all of
            its partner, or an equal part of every token of its span; nothing at padding.
        partner: Which clean tokens have a partner, [batch, pos].
    """

    tokens: Int[Tensor, "batch other"]
    mask: Bool[Tensor, "batch other"]
    last: Int[Tensor, " batch"]
    pairing: Float[Tensor, "batch pos other"]
    partner: Bool[Tensor, "batch pos"]

    def gather(self, x: Shaped[Tensor, "batch other *rest"]) -> Shaped[Tensor, "batch pos *rest"]:
        """What clean tokens get of what there is at the corrupted ones."""
        mask, pairing = self.mask.to(x.device), self.pairing.to(x)
        there = x.masked_fill(~mask.view(*mask.shape, *[1] * (x.ndim - 2)), 0)
        return torch.einsum("bpo,bo...->bp...", pairing, there)

    def repeat(self, times: int) -> Aligned:
        """The same, stacked on itself that many times."""
        return Aligned(
            **{name: x.repeat(times, *[1] * (x.ndim - 1)) for name, x in vars(self).items()}
        )


def as_align(align: object) -> str | tuple[str, ...] | None:
    """By what texts are aligned, as a Dataset takes it: all spans, or these (in a text with commas
    between them); raises DataError for something else."""
    if align is None or align == SPANS:
        return None if align is None else SPANS
    given = align.split(",") if isinstance(align, str) else align
    names = tuple(given) if isinstance(given, Sequence) else ()
    if not names or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"align is {align!r}; give 'spans', or the names of some spans")
    return names


def aligning(examples: Sequence[Example], by: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the spans by which these texts are aligned; raises DataError as ``places``."""
    both = [*examples, *map(as_clean, examples)]
    return candidates(both, NAMED if by == SPANS else by)


def pair(
    clean: Ranges,
    other: Ranges,
    tokens: tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch other"]],
    last: Int[Tensor, " batch"],
    spans: tuple[str, ...],
) -> tuple[Int[Tensor, "batch pos"], Aligned | None]:
    """The corrupted tokens as clean tokens get them, and how they are aligned; None where each
    stands at the position of the clean one.

    ``tokens`` are those of both, ``last`` the positions at which the corrupted texts end, and
    ``spans`` the names of the spans. A clean token without a partner keeps its own. Raises
    DataError, with the prompt, where a span or a rest has no token in the corrupted text.
    """
    found = numbered(clean, spans), numbered(other, spans)
    same = (found[0][:, :, None] == found[1][:, None]) & clean.mask[:, :, None]
    missing = clean.mask & ~same.any(-1)
    if bool(missing.any()):
        row, at = missing.nonzero()[0].tolist()
        raise DataError(
            f"{other.name(row)} has no token in the span {spans[int(found[0][row, at])]!r}, in "
            "which the clean text has some; give it one, or align by other spans (align=, --align)"
        )
    ends = [_from_end(one) for one in found]
    paired = same & (ends[0][:, :, None] == ends[1][:, None])
    partner = paired.any(-1)
    share = same.float() / same.sum(-1, keepdim=True).clamp(min=1)
    pairing = torch.where(partner[..., None], paired.float(), share)
    taken = tokens[1].gather(1, paired.int().argmax(-1))
    corrupt = torch.where(partner, taken, tokens[0])
    if torch.equal(clean.mask, other.mask) and torch.equal(pairing, _in_place(clean.mask)):
        return corrupt, None
    return corrupt, Aligned(tokens[1], other.mask, last, pairing, partner)


def _in_place(mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch pos pos"]:
    """The pairing of each token with that at its own position."""
    return torch.diag_embed(mask.float())


def _from_end(found: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """How many tokens of the same span follow each token."""
    n = found.shape[1]
    later = torch.ones(n, n, dtype=torch.bool, device=found.device).triu(1)
    return ((found[:, :, None] == found[:, None]) & later).sum(-1)
