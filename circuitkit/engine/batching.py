"""Batches as large as the memory allows, planned before the work begins; the first of several
processes plans for all, so that their batches are equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Dataset
from circuitkit.engine.attribute import score
from circuitkit.engine.gradients import gradients
from circuitkit.engine.memory import Need, foresee, held_by, room_of, takes
from circuitkit.engine.metric import Corruption
from circuitkit.engine.model import Model
from circuitkit.engine.processes import agreed
from circuitkit.engine.record import record
from circuitkit.engine.run import run
from circuitkit.errors import BudgetError
from circuitkit.util.bytesize import spell

SURE = 0.1  # of what is free: work of less is not measured beforehand

__all__ = ["batched", "fitted", "needed", "of_longest"]


def batched(
    model: Model,
    data: Dataset,
    corruptions: Sequence[Corruption],
    batch_size: int | None = None,
    *,
    each: float = 0.0,
) -> Dataset:
    """The data in batches of that size, else of one that fits under each of the corruptions, where
    each example takes so many bytes beside what attribution does.

    Raises BudgetError where one example at a time, or a batch of that size, does not fit the memory
    that the data may take.
    """
    size = agreed(lambda: _size(model, data, corruptions, batch_size, each))
    return data if size == data.batch_size else replace(data, batch_size=size)


def _size(
    model: Model,
    data: Dataset,
    corruptions: Sequence[Corruption],
    batch_size: int | None,
    each: float,
) -> int:
    """How many examples a batch has."""
    if batch_size is not None:
        for corruption in corruptions if data.memory is not None else ():
            _require_room(model, data, corruption, batch_size, each)
        return batch_size
    for corruption in corruptions:
        data = fitted(model, data, corruption, each)
    return data.batch_size


def fitted(model: Model, data: Dataset, corruption: Corruption, each: float = 0.0) -> Dataset:
    """The data in batches that fit ``data.memory``, at most as large as they are; raises
    BudgetError where one example at a time does not fit."""
    most = _require_room(model, data, corruption, 1, each)
    return data if most >= min(data.batch_size, len(data)) else replace(data, batch_size=most)


def _require_room(
    model: Model, data: Dataset, corruption: Corruption, batch_size: int, each: float
) -> int:
    """How many examples fit at once, at most all; raises BudgetError where so many do not."""
    wanted = min(batch_size, len(data))
    space, before = room_of(model, data.memory), held_by(model)
    if data.memory is not None and data.memory <= before:
        raise BudgetError(
            f"the process already holds {spell(before)}, the weights included, and may take "
            f"{spell(data.memory)} in all, so that not one example at a time fits; give more "
            "memory, or a smaller model"
        )
    if data.memory is None and wanted * (_at_most(model, data) + each) <= SURE * space:
        return len(data)
    need = needed(model, data, corruption, space)
    need = replace(need, each=need.each + each)
    if need.of(wanted) <= space:
        return need.most(space, len(data))
    if data.memory is None:
        return need.most(space, len(data))  # which says what is missing
    most = need.most(space, len(data)) if need.of(1) <= space else 0
    what = f"a batch of {wanted} takes" if batch_size > 1 else "one example at a time takes"
    fewer = f"a batch size of at most {most}" if most else "shorter prompts, or a smaller model"
    more = takes(model.device, need.of(wanted))
    enough = 1.02 * (before + more)
    raise BudgetError(
        f"{what} about {spell(more)}, the process already holds "
        f"{spell(before)}, the weights included, and it may take {spell(data.memory)} in all; give "
        f"{spell(enough)} of memory, {'or ' if most else ''}{fewer}"
    )


def _at_most(model: Model, data: Dataset) -> float:
    """More bytes than an example takes: of the residual stream, of MLPs and patterns in every layer
    with what a backward keeps of them, of logits, and of the scores of the edges."""
    tokens = max(len(example.clean) for example in data.examples)
    layer = 100 * tokens * model.d_model + 8 * model.wiring.heads * tokens**2
    values = model.wiring.layers * layer + 8 * model.d_vocab + 4 * model.wiring.n_edges
    return 8.0 * values


def needed(
    model: Model, data: Dataset, corruption: Corruption, space: float = float("inf")
) -> Need:
    """What a batch takes at most, for each example: attribution, or a run of the whole model under
    a mask. The longest examples are measured, fewer where they hardly fit the space."""

    def work(few: Dataset) -> None:
        _attributed(model, few, corruption)
        _run(model, few, corruption)

    return of_longest(work, data, space)


def of_longest(
    work: Callable[[Dataset], object], data: Dataset, space: float = float("inf")
) -> Need:
    """What work on a batch takes, for each example: the longest of the data are measured."""
    longest = sorted(data.examples, key=lambda example: -len(example.clean))

    def piece(n: int) -> None:
        work(replace(data, examples=tuple(islice(cycle(longest), n)), batch_size=n))

    return foresee(piece, space, len(longest))


def _attributed(model: Model, data: Dataset, corruption: Corruption) -> None:
    """Score every edge of one batch, under every draw, by gradients of another run than the clean
    one, which is held beside it (EAP-IG)."""
    carry = corruption(model, data)
    for batch in data:
        draws = [carried.written() for carried in carry(batch)]
        context = model.start(batch.clean, batch.mask)
        with torch.no_grad():
            live = record(model, context).written()
        at = gradients(model, batch, context, context.embed, _slope)
        for carried in draws:
            score(model, batch, live, carried, at)


@torch.no_grad()
def _run(model: Model, data: Dataset, corruption: Corruption) -> None:
    """Run one batch with every edge kept."""
    carry = corruption(model, data)
    for batch in data:
        context = model.start(batch.clean, batch.mask)
        record(model, context)
        for carried in carry(batch):
            run(model, batch, context, carried, model.wiring.legal)


def _slope(logits: Float[Tensor, "b vocab"]) -> Float[Tensor, " b"]:
    """A metric that any prompt has, and that has a gradient."""
    return torch.logsumexp(logits, dim=-1)
