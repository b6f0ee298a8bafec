"""Corruptions that carry what the model writes on another prompt."""

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
    """The run on the corrupted prompt: symmetric token replacement.

    ``text`` names one of the further corrupted texts of a prompt (``S1+IO`` of ``ioi``). If
    ``spans`` are named, only their tokens are replaced. Raises DataError, when used, for a text or
    a span that an example does not have.

    Source: Zhang & Nanda 2024, §2.

    Example:
        >>> carried = ck.corruptions.counterfactual(model, data, text="names")
        >>> len(carried(next(iter(data))))
        1
    """

    def carried(batch: Batch) -> list[Activations]:
        return [_plain(model, batch.replaced(text, spans), batch.mask)]

    return carried


def resample(
    model: Model, data: Dataset, *, seed: int = 0, spans: Sequence[str] = ()
) -> Callable[[Batch], list[Activations]]:
    """The run on the clean prompt of another example with as many tokens.

    Which one depends on the seed and on the two prompts only, not on the order of the data. If
    ``spans`` are named, only their tokens are those of the other prompt. Raises DataError if an
    example is the only one of its length, and, when used, for a span that an example does not have.

    Example:
        >>> more = ck.Dataset.of(ck.make_task("ioi", model, 40), model)
        >>> carried = ck.corruptions.resample(model, more)
        >>> len(carried(next(iter(more))))
        1
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
    """For each prompt, the other one of its length that a hash of the two ranks first."""
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
