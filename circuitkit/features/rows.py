"""Rows to train on: what is read and written at a place of a model, at tokens of texts.

A row is a token in its context, so that a prefix that many texts share gives one row. No row comes
from padding.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.engine.checkpoints import Journal
from circuitkit.engine.model import Model
from circuitkit.engine.record import record
from circuitkit.features.sites import site_values
from circuitkit.features.texts import Tokens, padded
from circuitkit.util.progress import track

__all__ = ["Place", "Rows", "collect", "fresh"]

WORTH = 1.0  # seconds that a batch takes at least for its rows to be kept on disk

Place = tuple[int, str, str]  # the layer, and where is read and written


@dataclass(frozen=True)
class Rows:
    """What is read (``x``) and written (``y``, the same tensor where the two places are one) at n
    tokens."""

    x: Float[Tensor, "n d"]
    y: Float[Tensor, "n e"]

    def __len__(self) -> int:
        return len(self.x)


def fresh(
    texts: Sequence[Tokens], known: set[int], most: int | None = None
) -> tuple[list[Bool[Tensor, " _p"]], int]:
    """Which tokens of each text end a prefix that is not known yet, and how many those are;
    ``known`` (hashes of prefixes) learns them. No more than ``most`` are marked."""
    marks, total = [], 0
    for text in texts:
        mark = torch.zeros(len(text), dtype=torch.bool)
        prefix = 0
        for place, token in enumerate(text):
            prefix = hash((prefix, token))
            if prefix not in known and (most is None or total < most):
                known.add(prefix)
                mark[place] = True
                total += 1
        marks.append(mark)
    return marks, total


@torch.no_grad()
def collect(
    model: Model,
    texts: Sequence[Tokens],
    marks: Sequence[Bool[Tensor, " _p"]],
    places: Sequence[Place],
    batch_size: int = 32,
    journal: Journal | None = None,
) -> Mapping[Place, Rows]:
    """The rows at these places, of the tokens that are marked; texts without any are not run. They
    are on the CPU, in float32. A journal, which has to be of these texts, marks and places alone,
    keeps the batches that take long."""
    wanted = [i for i, mark in enumerate(marks) if bool(mark.any())]
    chosen = [texts[i] for i in wanted]
    parts: dict[str, list[Tensor]] = {}
    sites = {f"{layer}-{site}": (layer, site) for layer, *both in places for site in both}
    batches = [*padded(chosen, batch_size, model.device)]
    for at, (numbers, tokens, mask) in enumerate(track(batches, "what is read and written")):
        kept = torch.zeros_like(mask)
        for row, number in enumerate(numbers):
            mark = marks[wanted[number]]
            kept[row, : len(mark)] = mark.to(mask.device)
        for name, own in _of_batch(model, tokens, mask, kept & mask, sites, journal, at).items():
            parts.setdefault(name, []).append(own)
    whole = {sites[name]: torch.cat(own) for name, own in parts.items()}
    return {place: Rows(whole[place[0], place[1]], whole[place[0], place[2]]) for place in places}


def _of_batch(
    model: Model, tokens: Tensor, mask: Tensor, kept: Tensor,
    sites: Mapping[str, tuple[int, str]], journal: Journal | None, number: int,
) -> Mapping[str, Float[Tensor, "n _d"]]:  # fmt: skip
    """What is at each site at the tokens of a batch that are kept; from the journal, where an
    earlier run has put it there."""
    key = f"rows-{number}"
    before = None if journal is None else journal.get(key)
    if before is not None:
        return {name: torch.from_numpy(own) for name, own in before.items()}
    start = time.perf_counter()
    run = record(model, model.start(tokens, mask))
    found = {}
    for name, (layer, site) in sites.items():
        values = site_values(model, run, layer, site)
        found[name] = values[kept.to(values.device)].float().cpu()
    if journal is not None and time.perf_counter() - start >= WORTH:
        journal.put(key, {name: own.numpy() for name, own in found.items()})
    return found
