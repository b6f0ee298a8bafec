"""What attribution by span costs beside plain attribution, by shape: time and memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch
from _inputs import pairs
from _measure import Cell, Table, Timer
from _shapes import GPT2, SMOLLM2, model_of

from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.data.places import NAMED, TOKENS, places
from circuitkit.discovery.attribution import eap
from circuitkit.graph.places import Places
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.transformer_lens import Transformer

__all__ = ["SMOLLM2_SHAPE", "span_attribution", "with_spans"]

SPANS = 8
SMOLLM2_SHAPE = ("SmolLM2 135M", "Llama", SMOLLM2, 30)
GPT2_SHAPE = ("GPT-2 small", "GPT2", GPT2, 12)
SHAPES = [(*shape, size) for shape in (GPT2_SHAPE, SMOLLM2_SHAPE) for size in ((8, 16), (2, 128))]
Shape = tuple[str, str, dict[str, int], int, tuple[int, int]]


def span_attribution(timer: Timer) -> Table:
    """``eap`` with 8 spans, and with every position by itself, beside plain ``eap``."""
    rows = [_row(timer, shape) for shape in SHAPES]
    note = (
        "`eap` of the edges between places, in times of plain `eap` of the same batch: the three "
        "are timed in turn, and the median of the ratios is shown. The target is 1.2 with 8 spans "
        "and 1.5 with every position by itself. Memory is the peak of a fresh process above the "
        "loaded model, less the tables of scores where there are spans; the target is 1.2 times "
        "that of plain `eap`."
    )
    head = ("shape", "tokens", f"`eap` ({timer.unit})", f"{SPANS} spans / `eap`",
            "positions / `eap`", "`eap` (MiB)", f"{SPANS} spans (MiB)", "positions (MiB)",
            "their tables (MiB)")  # fmt: skip
    return Table("Attribution by span", note, head, rows)


def _row(timer: Timer, shape: Shape) -> tuple[Cell, ...]:
    model, data = _made(timer, shape)
    once = partial(eap, model, data, logit_diff, counterfactual)
    work: list[Callable[[], Any]] = [once]
    work += [partial(once, places=places(data, model.wiring, own)) for own in (NAMED, TOKENS)]
    for one in work:
        one()
    taken = [[timer.seconds(one, 1) for one in work] for _ in range(timer.repeat)]
    ratios = [median(own[i] / own[0] for own in taken) for i in (1, 2)]
    seconds = median(own[0] for own in taken)
    del model, data, once, work
    gc.collect()
    return shape[0], "{} × {}".format(*shape[-1]), seconds, *ratios, *_memory(timer, shape)


def _made(timer: Timer, shape: Shape) -> tuple[Transformer, Dataset]:
    """A model of the shape, and prompts for it."""
    _, kind, options, layers, (n, length) = shape
    model = model_of(timer, kind, options, layers, "float32", length)
    return model, with_spans(pairs(model, n, length))


def with_spans(data: Dataset) -> Dataset:
    """The prompts with named spans between the first token and the last."""
    length, inner = data.longest, SPANS - 2
    ends = [1 + (length - 2) * part // inner for part in range(inner + 1)]
    named = {f"part {part}": (ends[part], ends[part + 1]) for part in range(inner)}
    examples = tuple(replace(one, spans={**one.spans, **named}) for one in data.examples)
    return replace(data, examples=examples)


# -- memory ----------------------------------------------------------------------------------------
def _memory(timer: Timer, shape: Shape) -> Iterator[float]:
    """The MiB of plain ``eap``, with 8 spans and with every position by itself, without the tables
    of scores; and what those of all positions take."""
    tables = 0.0
    for spans in (None, NAMED, TOKENS):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            peak, tables = fresh.submit(_peak, timer, shape, spans).result()
        yield peak - tables
    yield tables


def _peak(timer: Timer, shape: Shape, spans: str | None) -> tuple[float, float]:
    """The peak of one call above the loaded model, in this process, and its tables' part."""
    torch.set_num_threads(timer.threads)
    model, data = _made(timer, shape)
    own = None if spans is None else places(data, model.wiring, spans)
    few = replace(data, examples=data.examples[:1])
    eap(model, few, logit_diff, counterfactual)  # what libraries keep from their first call on
    gc.collect()
    found = timer.memory(
        partial(eap, model, data, logit_diff, counterfactual, places=own), timer.held()
    )
    return found, 0.0 if own is None else _table(own)


def _table(own: Places) -> float:
    """The MiB of the scores between places."""
    return 4 * sum(table.size for table in (own.legal.residual, own.legal.attention)) / 2**20
