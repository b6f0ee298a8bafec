"""What attribution by span costs beside plain attribution, by shape."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from _inputs import pairs
from _measure import Cell, Table, Timer
from _shapes import GPT2, SMOLLM2, model_of

from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.data.places import TOKENS, places
from circuitkit.discovery.attribution import eap
from circuitkit.metrics.answers import logit_diff

__all__ = ["by_place"]

SPANS = 8
SHAPES = [
    ("GPT-2 small", "GPT2", GPT2, 12, (8, 16)),
    ("GPT-2 small", "GPT2", GPT2, 12, (2, 128)),
    ("SmolLM2 135M", "Llama", SMOLLM2, 30, (8, 16)),
    ("SmolLM2 135M", "Llama", SMOLLM2, 30, (2, 128)),
]


def by_place(timer: Timer) -> Table:
    """``eap`` with 8 spans, and with every position by itself, in times of plain ``eap``."""
    rows = [row for shape in SHAPES for row in _rows(timer, shape)]
    note = (
        "`eap` of the edges between places, as CPU time in times of plain `eap` of the same batch; "
        "the three are timed in turn. The target is 1.2 with 8 spans and 1.5 with every position "
        "by itself."
    )
    head = ("shape", "tokens", f"`eap` ({timer.unit})", f"{SPANS} spans / `eap`",
            "positions / `eap`")  # fmt: skip
    return Table("Attribution by place", note, head, rows)


def _rows(timer: Timer, shape: tuple[Any, ...]) -> Iterator[tuple[Cell, ...]]:
    name, kind, options, layers, (n, length) = shape
    model = model_of(timer, kind, options, layers, "float32", length)
    data = _with_spans(pairs(model, n, length))
    spans = [places(data, model.wiring), places(data, model.wiring, TOKENS)]
    once = partial(eap, model, data, logit_diff, counterfactual)
    work: list[Any] = [once, *(partial(once, places=own) for own in spans)]
    for one in work:
        one()
    taken = [min(own) for own in zip(*(_in_turn(timer, work) for _ in range(timer.repeat)),
                                     strict=True)]  # fmt: skip
    yield name, f"{n} × {length}", taken[0], taken[1] / taken[0], taken[2] / taken[0]
    del model, data, once, work
    gc.collect()


def _in_turn(timer: Timer, work: list[Any]) -> list[float]:
    """The seconds of each, one after the other."""
    return [timer.seconds(one, 1) for one in work]


def _with_spans(data: Dataset) -> Dataset:
    """The prompts with named spans between the first token and the last."""
    length, inner = data.longest, SPANS - 2
    ends = [1 + (length - 2) * part // inner for part in range(inner + 1)]
    named = {f"part {part}": (ends[part], ends[part + 1]) for part in range(inner)}
    examples = tuple(replace(one, spans={**one.spans, **named}) for one in data.examples)
    return replace(data, examples=examples)
