"""What circuits of edges between spans cost beside plain ones, and their exact effects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from _inputs import difference_of_logits, first, pairs
from _measure import Cell, Table, Timer
from _shapes import model_of
from _span_attribution import SMOLLM2_SHAPE, with_spans
from jaxtyping import Bool

from circuitkit.data.batches import Batch, Dataset
from circuitkit.data.places import numbers, places
from circuitkit.engine.model import Activations
from circuitkit.engine.placed_sweep import placed_sweep
from circuitkit.engine.record import record
from circuitkit.engine.run import run, runs
from circuitkit.engine.sweep import sweep
from circuitkit.evaluation.masks import random_masks
from circuitkit.graph.placed_walks import drawn_places
from circuitkit.graph.places import PlacedMask, Places
from circuitkit.models.transformer_lens import Transformer

__all__ = ["long_span_circuits", "span_circuits"]

EDGES = 500
SIDEWAYS = 100  # of them, of attention
CUTS = 32
SWEPT = 64
SPANS = {"S1": (4, 5), "S1+1": (5, 6), "S2": (8, 9), "verb": (12, 13)}  # and six between these
LONG = 128


def span_circuits(model: Transformer, timer: Timer) -> Table:
    """A circuit of 500 edges between spans, its attention's edges cut one by one, and exact effects
    on short prompts."""
    data = pairs(model, 8)
    data = replace(data, examples=tuple(replace(e, spans=dict(SPANS)) for e in data.examples))
    return _table("Circuits between spans", "8 × 16 tokens in ten spans", model, data, timer)


def long_span_circuits(timer: Timer) -> Table:
    """The same on SmolLM2's shape, and on longer prompts."""
    _, kind, options, layers = SMOLLM2_SHAPE
    model = model_of(timer, kind, options, layers, "float32", LONG)
    data = with_spans(pairs(model, 2, LONG))
    title = "Circuits between spans of longer prompts"
    return _table(title, f"SmolLM2 135M's shape, 2 × {LONG} tokens in eight spans", model, data,
                  timer)  # fmt: skip


@torch.no_grad()
def _table(title: str, what: str, model: Transformer, data: Dataset, timer: Timer) -> Table:
    batch, where = first(data), places(data, model.wiring)
    context = model.start(batch.clean, batch.mask)
    runs_of = record(model, context), record(model, model.start(batch.corrupt, batch.mask))
    moves = _moves(batch, where)
    (plain,) = random_masks(model.wiring, EDGES, 1, timer.seed)
    (keep,) = drawn_places(where, EDGES - SIDEWAYS, SIDEWAYS, 1, timer.seed, moves)
    given = model, batch, context, runs_of[1]
    cuts = [_without(keep, edge) for edge in np.argwhere(keep.attention)[:CUTS]]
    one, own, many = _ratios(
        timer, [partial(run, *given, plain), partial(run, *given, keep),
                lambda: [*runs(*given, cuts)]],
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (f"a random circuit of {EDGES} edges", one, timer.unit, ""),
        (f"one of {EDGES - SIDEWAYS} + {SIDEWAYS} between spans", own, "of that", "≤ 1.5"),
        (f"one edge of its attention cut, of {CUTS} together", many / len(cuts), "of that", ""),
    ]
    rows += _effects(model, batch, where, runs_of, moves, timer)
    note = (
        f"{what}; spans before the first token that differs are left out. Timed in turn; medians "
        f"of the ratios. Exact effects are those of {SWEPT} random edges, which share little of "
        "what a sweep shares: of plain edges, of the same edges at a random span, of plain edges "
        "into keys and values, and of edges of attention out of the same keys and values."
    )
    return Table(title, note, ("measured", "value", "unit", "target"), rows)


def _moves(batch: Batch, where: Places) -> Bool[np.ndarray, " spans"]:
    """The spans that hold a token at or after the first that differs in some prompt."""
    differs = (batch.clean != batch.corrupt).any(0).nonzero()
    late = numbers(batch, where.spans)[:, int(differs[0]) :]
    return np.isin(np.arange(len(where.spans)), late.unique().tolist())


def _ratios(timer: Timer, work: list[Callable[[], Any]]) -> list[float]:
    """The seconds of the first, and those of the others in times of it."""
    taken = [[timer.seconds(one, 1) for one in work] for _ in range(timer.repeat)]
    others = [median(own[i] / own[0] for own in taken) for i in range(1, len(work))]
    return [median(own[0] for own in taken), *others]


def _without(keep: PlacedMask, edge: np.ndarray) -> PlacedMask:
    attention = keep.attention.copy()
    attention[tuple(edge)] = False
    return PlacedMask(keep.places, keep.residual, attention)


def _effects(
    model: Transformer,
    batch: Batch,
    where: Places,
    runs_of: tuple[Activations, Activations],
    moves: Bool[np.ndarray, " spans"],
    timer: Timer,
) -> list[tuple[Cell, ...]]:
    """Exact effects of single edges: plain, of the residual stream at a span, and of attention."""
    given = model, batch, model.start(batch.clean, batch.mask), *runs_of
    metric = partial(difference_of_logits, batch=batch)
    rng, legal = np.random.default_rng(timer.seed), where.legal

    def some(table: np.ndarray) -> np.ndarray:
        found = np.zeros(table.shape, dtype=bool)
        found.flat[rng.choice(np.flatnonzero(table), SWEPT, replace=False)] = True
        return found

    stream, sideways = legal.residual & False, some(legal.attention & moves[:, None])
    plain, sources = some(model.wiring.legal), model.wiring.legal & False
    for edge in np.argwhere(plain):
        stream[*edge, rng.choice(np.flatnonzero(legal.residual[*edge] & moves))] = True
    for head, port, *_ in np.argwhere(sideways):
        column = where.ports[head, port]
        sources[rng.choice(np.flatnonzero(model.wiring.legal[:, column])), column] = True
    masks = (
        PlacedMask(where, stream, legal.attention & False),
        PlacedMask(where, legal.residual & False, sideways),
    )
    one, at_span = _ratios(timer, [lambda: [*sweep(*given, metric, plain)],
                                   lambda: [*placed_sweep(*given, metric, masks[0])]])  # fmt: skip
    into, across = _ratios(timer, [lambda: [*sweep(*given, metric, sources)],
                                   lambda: [*placed_sweep(*given, metric, masks[1])]])  # fmt: skip
    return [
        ("the exact effect of an edge", one / SWEPT, timer.unit, ""),
        ("of the same at a span", at_span, "of that", "≤ 1"),
        ("the exact effect of an edge into a key or value", into / sources.sum(), timer.unit, ""),
        ("of one of attention, out of it", across * sources.sum() / SWEPT, "of that", "≤ 1"),
    ]
