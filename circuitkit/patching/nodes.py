"""Activation patching of nodes: what a head's output, or the residual stream at one position, does
when it alone is taken from the other run, and everything after it answers.

Several nodes run at once, each from its own layer on; positions before the one that is patched, and
nodes that are the same in both runs, cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data import Dataset
from circuitkit.engine.run import answer, difference, record
from circuitkit.engine.sweep import Place, Rest, entry, measure, residual, untouched
from circuitkit.errors import CircuitError
from circuitkit.judge import Corruption, Metric, judge
from circuitkit.model import Activations, Model
from circuitkit.progress import track

__all__ = ["patch_heads", "patch_residual"]

Cell: TypeAlias = tuple[int, int]
Ends: TypeAlias = Iterator[tuple[list[Cell], Float[Tensor, "n b d"]]]


def patch_heads(
    model: Model,
    data: Dataset,
    metric: Metric,
    corruption: Corruption = counterfactual,
    *,
    direction: str = "denoise",
) -> Float[np.ndarray, "layers heads examples"]:
    """The effect of each head's output, at all positions at once, on every example, in metric
    units; positive where the head helps.

    ``denoise``: what the metric gains when the head writes in the corrupted run what it writes in
    the clean one; ``noise``: what it loses when it writes in the clean run what the corruption
    carries (Zhang & Nanda 2024, §2; Heimersheim & Nanda 2024); the mean over the corruption's
    draws. All edges out of the head are patched at once, so in a post-norm model it is the head's
    share of the normed sum that is taken over. Raises CircuitError for another direction.
    """
    shape = (model.wiring.layers, model.wiring.heads)
    return _patch(model, data, metric, corruption, direction, shape, _heads)


def patch_residual(
    model: Model,
    data: Dataset,
    metric: Metric,
    corruption: Corruption = counterfactual,
    *,
    direction: str = "denoise",
    stage: str = "pre",
) -> Float[np.ndarray, "layers positions examples"]:
    """The effect of the residual stream at each layer and position on every example, in metric
    units; positive where it helps.

    ``stage`` says where: before a layer (``pre``), between its attention and its MLP (``mid``) or
    after it (``post``). Positions count from each example's first token, whatever the padding, and
    are nan where an example has no such token. For ``direction`` see ``patch_heads``. Raises
    CircuitError for another direction or stage, and for ``mid`` where there is none: where
    attention and MLP read the same residual.
    """
    if stage not in ("pre", "mid", "post"):
        raise CircuitError(f"stage={stage!r} is not known; choose from pre, mid, post")
    if stage == "mid" and model.wiring.parallel:
        raise CircuitError(
            f"stage='mid' does not exist in {model.name!r}, whose attention and MLPs read the same "
            "residual; choose 'pre' or 'post'"
        )
    lengths = np.array([len(example.clean) for example in data.examples])
    shape = (model.wiring.layers, int(lengths.max()))

    def ends(rest: Rest, other: Activations) -> Ends:
        return _residual(rest, other, stage)

    effects = _patch(model, data, metric, corruption, direction, shape, ends)
    effects[:, np.arange(shape[1])[:, None] >= lengths] = np.nan
    return effects


@torch.no_grad()
def _patch(
    model: Model,
    data: Dataset,
    metric: Metric,
    corruption: Corruption,
    direction: str,
    shape: tuple[int, int],
    ends: Callable[[Rest, Activations], Ends],
) -> Float[np.ndarray, "rows columns examples"]:
    """The effects of all cells, batch by batch; those that ``ends`` leaves out have none."""
    if direction not in ("noise", "denoise"):
        raise CircuitError(f"direction={direction!r} is not known; choose from noise, denoise")
    carry = corruption(model, data)
    found = []
    for batch in track(list(data), "patching"):
        context = model.start(batch.clean, batch.mask)
        live = record(model, context)
        reference = answer(model, batch, live.final)

        def value(
            logits: Float[Tensor, "b vocab"],
            reference: Tensor = reference,
            batch: Batch = batch,
        ) -> Float[Tensor, " b"]:
            return judge(metric, logits, reference, batch)

        draws = carry(batch)
        effects = np.zeros((*shape, len(batch)))
        for carried in draws:
            base, other = (live, carried) if direction == "noise" else (carried, live)
            plain = value(answer(model, batch, base.final))
            for cells, finals in ends(Rest.of(model, batch, context, base, other), other):
                moved = (measure(model, finals, value) - plain).double().cpu().numpy()
                effects[tuple(np.array(cells).T)] += -moved if direction == "noise" else moved
        found.append(effects / len(draws))
    return np.concatenate(found, axis=2)


def _heads(rest: Rest, other: Activations) -> Ends:
    wiring = rest.model.wiring
    cells = [(layer, head) for layer in range(wiring.layers) for head in range(wiring.heads)]

    def place(cell: Cell) -> Place:
        return entry(wiring, wiring.first_head(cell[0]))

    def change(cell: Cell) -> Float[Tensor, "b p d"]:
        row = wiring.first_head(cell[0]) + cell[1]
        return difference(rest.model, other, rest.base, row)

    return _together(rest, cells, place, change)


def _residual(rest: Rest, other: Activations, stage: str) -> Ends:
    """Position by position, for the runs of one position begin there together."""
    batch, same = rest.batch, untouched(rest.base, other)
    first, length = batch.mask.long().argmax(1), batch.mask.sum(1)
    for position in range(int(length.max())):
        rows = (length > position).nonzero()[:, 0]
        at = first[rows] + position
        differs = ~same[rows, at]
        if differs.any():
            start = int(at.min()) if rest.base.consistent else 0
            spot = position, rows[differs], at[differs]
            yield from _position(rest.since(start), other, stage, *spot)


def _position(
    rest: Rest,
    other: Activations,
    stage: str,
    position: int,
    rows: Int[Tensor, " n"],
    at: Int[Tensor, " n"],
) -> Ends:
    """The cells of one position, which these examples have at these places."""
    wiring = rest.model.wiring

    def place(cell: Cell) -> Place:
        layer = cell[0]
        return (layer, True) if stage == "mid" and wiring.mlp else (layer + (stage != "pre"), False)

    def change(cell: Cell) -> Float[Tensor, "b p d"]:
        base, taken = residual(rest.base, place(cell)), residual(other, place(cell))
        delta = torch.zeros_like(base)
        delta[rows, at] = (taken - base)[rows, at]
        return delta

    cells = [(layer, position) for layer in range(wiring.layers)]
    return _together(rest, cells, place, change)


def _together(
    rest: Rest,
    cells: Sequence[Cell],
    place: Callable[[Cell], Place],
    change: Callable[[Cell], Float[Tensor, "b p d"]],
) -> Ends:
    """The final residuals of these cells' runs, as many at once as go well; those of later places
    join on the way."""
    size = rest.size((0, False))
    for i in range(0, len(cells), size):
        block = list(cells[i : i + size])
        changes = {
            at: torch.stack([rest.late(at, change(cell)) for cell in own])
            for at, own in groupby(block, key=place)
        }
        yield block, rest.finals(changes)
