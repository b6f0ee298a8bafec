"""Rows to train on: what is read and written at a place of a model, at tokens of texts.

A row is a token in its context, so that a prefix that many texts share gives one row. No row comes
from padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.engine.model import Model
from circuitkit.engine.record import record
from circuitkit.features.sites import site_values
from circuitkit.features.texts import Tokens, padded
from circuitkit.util.progress import track

__all__ = ["Place", "Rows", "collect", "fresh"]

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
) -> Mapping[Place, Rows]:
    """The rows at these places, of the tokens that are marked; texts without any are not run. They
    are on the CPU, in float32."""
    wanted = [i for i, mark in enumerate(marks) if bool(mark.any())]
    chosen = [texts[i] for i in wanted]
    parts: dict[tuple[int, str], list[Tensor]] = {}
    sites = dict.fromkeys((layer, site) for layer, *both in places for site in both)
    batches = [*padded(chosen, batch_size, model.device)]
    for numbers, tokens, mask in track(batches, "what is read and written"):
        run = record(model, model.start(tokens, mask))
        kept = torch.zeros_like(mask)
        for row, number in enumerate(numbers):
            mark = marks[wanted[number]]
            kept[row, : len(mark)] = mark.to(mask.device)
        kept &= mask
        for layer, site in sites:
            values = site_values(model, run, layer, site)
            parts.setdefault((layer, site), []).append(values[kept.to(values.device)].float().cpu())
    whole = {site: torch.cat(own) for site, own in parts.items()}
    return {place: Rows(whole[place[0], place[1]], whole[place[0], place[2]]) for place in places}
