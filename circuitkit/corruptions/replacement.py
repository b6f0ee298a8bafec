"""Corruptions that carry what another prompt makes the model write."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.record import record
from circuitkit.errors import DataError

__all__ = ["counterfactual", "resample"]


def counterfactual(
    model: Model, data: Dataset, *, text: str | None = None, spans: Sequence[str] = ()
) -> Callable[[Batch], list[Activations]]:
    """The run on the corrupted prompt: symmetric token replacement (Zhang & Nanda 2024, §2).

    ``text`` names another corrupted text of the prompt (``S1+IO`` of ``ioi``). Where ``spans``
    names tokens, only these are replaced. Raises DataError, when used, for a text or a span that an
    example lacks.
    """

    def carried(batch: Batch) -> list[Activations]:
        return [_plain(model, batch.replaced(text, spans), batch.mask)]

    return carried


def resample(
    model: Model, data: Dataset, *, seed: int = 0, spans: Sequence[str] = ()
) -> Callable[[Batch], list[Activations]]:
    """The run on another example's clean prompt, of the same length.

    Which one depends on the seed and on the two prompts only, not on the order of the data. Where
    ``spans`` names tokens, only these are the other prompt's. Raises DataError where an example is
    the only one of its length, and, when used, for a span that an example lacks.
    """
    partner = _partners([e.clean for e in data.examples], seed)

    def carried(batch: Batch) -> list[Activations]:
        tokens = batch.clean.clone()
        for row, mask in zip(tokens, batch.mask, strict=True):
            row[mask] = row.new_tensor(partner[tuple(row[mask].tolist())])
        chosen = batch.within(*spans) if spans else batch.mask
        return [_plain(model, torch.where(chosen, tokens, batch.clean), batch.mask)]

    return carried


def _plain(model: Model, tokens: Tensor, mask: Tensor) -> Activations:
    with torch.no_grad():
        return record(model, model.start(tokens, mask))


def _partners(prompts: list[tuple[int, ...]], seed: int) -> dict[tuple[int, ...], tuple[int, ...]]:
    """For each prompt the other one of its length that a hash of the two ranks first."""
    by_length: dict[int, list[tuple[int, ...]]] = {}
    for prompt in sorted(set(prompts)):
        by_length.setdefault(len(prompt), []).append(prompt)
    partner = {}
    for length, peers in by_length.items():
        if len(peers) < 2:
            raise DataError(
                f"only one prompt has {length} tokens, so resample has no partner for it; "
                "give more examples, or use counterfactual"
            )
        for mine in peers:
            others = (p for p in peers if p != mine)
            partner[mine] = min(others, key=lambda p: zlib.crc32(repr((seed, mine, p)).encode()))
    return partner
