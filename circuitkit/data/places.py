"""The spans of a data set, and the places of a model's edges on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.data.spans import ANSWER, END, NAMED, START, TOKENS, candidates, numbered
from circuitkit.errors import DataError
from circuitkit.graph.places import Places
from circuitkit.graph.wiring import Wiring

__all__ = [
    "ANSWER",
    "END",
    "NAMED",
    "START",
    "TOKENS",
    "located",
    "names_of",
    "numbers",
    "places",
    "widened",
]


def places(data: Dataset, wiring: Wiring, spans: str | Sequence[str] = NAMED) -> Places:
    """The places of a model's edges on these prompts.

    Args:
        data: The prompts.
        wiring: The model's wiring.
        spans: ``named`` for all spans that the prompts name, except those that lie within another
            one (``subject_last`` in ``subject``), ``tokens`` for every position by
            itself, which prompts of one length have, or the names of some spans; the tokens of the
            others then belong to what lies between.

    Raises:
        DataError: for prompts that name no span, an unknown name, a span that a prompt lacks or
            that goes beyond it, two spans with a token in common, and positions of prompts that
            have different lengths.
    """
    names = names_of(data, spans)
    n = len(names)
    sees, answers = torch.zeros(n, n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    for batch in data:
        found = numbers(batch, names).cpu()
        sees |= _pairs(found, n).any(0)
        answers[found.gather(1, batch.last.cpu()[:, None])] = True
    return Places(wiring, names, sees.numpy(), answers.numpy())


def names_of(data: Dataset, spans: str | Sequence[str] = NAMED) -> tuple[str, ...]:
    """The names of all spans of these prompts, in the order in which they stand on average; see
    ``places``, which raises the same."""
    if spans == TOKENS:
        return _positions(data)
    chosen = candidates(data.examples, spans)
    many = len(chosen)
    tokens, starts = torch.zeros(many), torch.zeros(many)
    prompts = torch.zeros(many)
    for batch in data:
        found = numbers(batch, chosen).cpu()
        first, _ = _ends(found, many)
        there = first < found.shape[1]
        offset = batch.mask.long().argmax(-1).cpu()[:, None]
        prompts += there.sum(0)
        starts += torch.where(there, first - offset, 0).sum(0)
        tokens += torch.stack([(found == n).sum() for n in range(many)])
    order = sorted(range(many), key=lambda n: (float(starts[n] / prompts[n].clamp(min=1)), n))
    return tuple(chosen[n] for n in order if tokens[n])


def numbers(batch: Batch, spans: Sequence[str]) -> Int[Tensor, "batch pos"]:
    """The number, in the list of names, of the span that each token belongs to; -1 on padding.

    Raises DataError where an example lacks one of the named spans, where two have a token in
    common, and for a token that belongs to none of the list.
    """
    return numbered(batch.ranges, spans)


def located(batch: Batch, places: Places) -> Int[Tensor, "batch pos"]:
    """The number of the span of each token, among the places'; raises as ``numbers``, and DataError
    where a prompt has a token of one span before one of another as no prompt of the places has: no
    edge of theirs leads from there."""
    found = numbers(batch, places.spans)
    new = _pairs(found, len(places.spans)) & ~torch.from_numpy(places.sees).to(found.device)
    if bool(new.any()):
        row, source, destination = new.nonzero()[0].tolist()
        raise DataError(
            f"{batch.name(row)} has {places.spans[source]!r} before {places.spans[destination]!r}, "
            "as no prompt has of which these are the places; find places on prompts of all kinds "
            "that are to be measured"
        )
    return found


def widened(batch: Batch, places: Places) -> tuple[Int[Tensor, "batch pos"], Places]:
    """The number of the span of each token, and the same places with attention's edges between
    spans in an order that only prompts of this batch have: a mask of the places keeps none of
    them. Raises as ``numbers``."""
    found = numbers(batch, places.spans)
    sees = places.sees | _pairs(found, len(places.spans)).any(0).cpu().numpy()
    return found, places if (sees == places.sees).all() else replace(places, sees=sees)


def _pairs(found: Int[Tensor, "batch pos"], n: int) -> Bool[Tensor, "batch spans spans"]:
    """Whether a token of a span is not after one of another, in each prompt."""
    first, last = _ends(found, n)
    return first[:, :, None] <= last[:, None]


def _ends(
    found: Int[Tensor, "batch pos"], n: int
) -> tuple[Int[Tensor, "batch spans"], Int[Tensor, "batch spans"]]:
    """The first and the last position of each span; behind all positions, and -1, without any."""
    at = torch.arange(found.shape[1], device=found.device)[None, :, None]
    held = found[..., None] == torch.arange(n, device=found.device)
    return torch.where(held, at, found.shape[1]).amin(1), torch.where(held, at, -1).amax(1)


def _positions(data: Dataset) -> tuple[str, ...]:
    lengths = {len(example.clean) for example in data.examples}
    if len(lengths) > 1:
        raise DataError(
            f"the prompts have {min(lengths)} to {max(lengths)} tokens, so that their positions do "
            "not correspond; name spans, or give prompts of one length"
        )
    return tuple(map(str, range(data.longest)))
