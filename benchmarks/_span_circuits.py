"""What circuits between places cost beside plain ones, and exact effects there."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from _inputs import difference_of_logits, first, pairs
from _measure import Cell, Table, Timer
from jaxtyping import Bool

from circuitkit.data.batches import Dataset
from circuitkit.data.places import places
from circuitkit.engine.placed_sweep import placed_sweep
from circuitkit.engine.record import record
from circuitkit.engine.run import run, runs
from circuitkit.engine.sweep import sweep
from circuitkit.evaluation.masks import random_masks
from circuitkit.graph.placed_walks import drawn_places
from circuitkit.graph.places import PlacedMask, Places
from circuitkit.models.transformer_lens import Transformer

__all__ = ["placed"]

EDGES = 500
SIDEWAYS = 100  # of them, of attention
SWEPT = 64
SPANS = {"S1": (4, 5), "S1+1": (5, 6), "S2": (8, 9), "verb": (12, 13)}  # and six between these


@torch.no_grad()
def placed(model: Transformer, timer: Timer) -> Table:
    """A circuit of 500 edges between places, its attention's edges cut one by one, and exact
    effects."""
    data = _prompts(model)
    batch, where = first(data), places(data, model.wiring)
    context = model.start(batch.clean, batch.mask)
    carried = record(model, model.start(batch.corrupt, batch.mask))
    given = model, batch, context, carried
    moves = np.array([name not in ("start", "before S1") for name in where.spans])
    (plain,) = random_masks(model.wiring, EDGES, 1, timer.seed)
    (keep,) = drawn_places(where, EDGES - SIDEWAYS, SIDEWAYS, 1, timer.seed, moves)
    one = timer.seconds(partial(run, *given, plain))
    own = timer.seconds(partial(run, *given, keep))
    cuts = [_without(keep, edge) for edge in np.argwhere(keep.attention)[:32]]
    many = timer.seconds(lambda: [*runs(*given, cuts)], 2) / len(cuts)
    rows: list[tuple[Cell, ...]] = [
        (f"a random circuit of {EDGES} edges", one, "s", ""),
        (f"one of {EDGES - SIDEWAYS} + {SIDEWAYS} between places", own / one, "of that", "≤ 1.5"),
        ("one edge of its attention cut, of 32 together", many / one, "of that", ""),
    ]
    rows += _effects(model, data, where, moves, timer)
    note = (
        "8 × 16 tokens in ten spans; the first four tokens are the same in both prompts. Exact "
        f"effects are those of {SWEPT} random edges, which share little of what a sweep shares."
    )
    return Table("Places in the prompt", note, ("measured", "value", "unit", "target"), rows)


def _prompts(model: Transformer) -> Dataset:
    data = pairs(model, 8)
    return replace(data, examples=tuple(replace(e, spans=dict(SPANS)) for e in data.examples))


def _without(keep: PlacedMask, edge: np.ndarray) -> PlacedMask:
    attention = keep.attention.copy()
    attention[tuple(edge)] = False
    return PlacedMask(keep.places, keep.residual, attention)


def _effects(
    model: Transformer,
    data: Dataset,
    where: Places,
    moves: Bool[np.ndarray, " spans"],
    timer: Timer,
) -> list[tuple[Cell, ...]]:
    """Exact effects of single edges: plain, of the residual stream at a span, and of attention."""
    batch = first(data)
    context = model.start(batch.clean, batch.mask)
    ends = record(model, context), record(model, model.start(batch.corrupt, batch.mask))
    metric = partial(difference_of_logits, batch=batch)
    rng, legal = np.random.default_rng(timer.seed), where.legal

    def some(table: np.ndarray) -> np.ndarray:
        found = np.zeros(table.shape, dtype=bool)
        found.flat[rng.choice(np.flatnonzero(table), SWEPT, replace=False)] = True
        return found

    plain = some(model.wiring.legal)
    stream = PlacedMask(where, some(legal.residual & moves), legal.attention & False)
    sideways = PlacedMask(where, legal.residual & False, some(legal.attention & moves[:, None]))
    one = timer.seconds(lambda: [*sweep(model, batch, context, *ends, metric, plain)], 1)
    rows: list[tuple[Cell, ...]] = [("the exact effect of an edge", one / SWEPT, "s", "")]
    for name, wanted in (("at a span", stream), ("of attention, between spans", sideways)):
        sweep_of = partial(placed_sweep, model, batch, context, *ends, metric, wanted)
        own = timer.seconds(lambda sweep_of=sweep_of: [*sweep_of()], 1)
        rows.append((f"of one {name}", own / one, "of that", "≤ 1"))
    return rows
