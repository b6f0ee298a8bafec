"""What circuits cost: one, a further one on the same prompts, and many at once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from _inputs import difference_of_logits, first, pairs
from _measure import Cell, Table, Timer, largest_difference

from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Batch
from circuitkit.discovery.attribution import eap
from circuitkit.engine.model import Activations, Context
from circuitkit.engine.record import answer, beginning, record
from circuitkit.engine.run import run, runs
from circuitkit.evaluation.faithfulness import evaluate
from circuitkit.evaluation.masks import random_masks
from circuitkit.graph.scores import Scores
from circuitkit.graph.stages import ATTENTION
from circuitkit.graph.types import Mask
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.transformer_lens import Transformer

__all__ = ["bulk", "circuits"]

EDGES = 500
MANY = 100


def _runs(model: Transformer, batch: Batch) -> tuple[Context, Activations]:
    return (
        model.start(batch.clean, batch.mask),
        record(model, model.start(batch.corrupt, batch.mask)),
    )


@torch.no_grad()
def circuits(model: Transformer, timer: Timer) -> Table:
    """Circuits of 500 edges and the whole model, at 8 and at 32 prompts."""
    rows: list[tuple[Cell, ...]] = []
    for n in (8, 32):
        batch = first(pairs(model, n))
        plain = timer.plain(model, batch)
        rows.append((f"{n} × 16", "one plain forward (F)", "", plain, timer.unit))
        rows += _circuits(model, batch, plain, timer)
    note = (
        "`first` runs the corrupted prompts too; `further` shares that run. The best edges are "
        "those by `eap`. Its live modules: what the circuit's heads and MLPs compute, called once "
        "each on the positions that are run, without mixing what they read."
    )
    head = ("tokens", "circuit", "live writers", "measured", "unit")
    return Table("One circuit", note, head, rows)


def _circuits(
    model: Transformer, batch: Batch, plain: float, timer: Timer
) -> Iterator[tuple[Cell, ...]]:
    found = eap(model, pairs(model, 8), logit_diff, counterfactual)
    noise = np.random.default_rng(timer.seed).standard_normal(model.wiring.shape)
    context, carried = _runs(model, batch)
    tokens = f"{len(batch)} × {batch.clean.shape[1]}"
    for name, keep in (
        (f"best {EDGES}", found.mask(EDGES)),
        (f"random {EDGES}", Scores(model.wiring, noise).mask(EDGES)),
        ("whole model", model.wiring.legal),
    ):
        further = timer.seconds(partial(run, model, batch, context, carried, keep))
        once = timer.seconds(lambda keep=keep: run(model, batch, *_runs(model, batch), keep))
        writers = int(keep.any(1).sum())
        whole = name == "whole model"
        yield tokens, f"{name}, first", writers, once / plain, _unit("1.5", whole)
        goal = "0.6" if len(batch) == 8 else "1"
        yield tokens, f"{name}, further", writers, further / plain, _unit(goal, whole)
        if not whole:
            live = timer.seconds(partial(_live, model, batch, context, carried, keep))
            unit = "times its live modules (target ≤ 1.1)"
            yield tokens, f"{name}, further", writers, further / live, unit


def _unit(goal: str, whole: bool) -> str:
    return "F" if whole else f"F (target ≤ {goal})"


@torch.no_grad()
def _live(
    model: Transformer, batch: Batch, context: Context, carried: Activations, keep: Mask
) -> None:
    """Call exactly the heads and the MLPs that are live, at the positions that are run."""
    start = beginning(batch, carried.untouched([context.embed - carried.embed]))
    writes, late = model.wiring.alive(keep).any(1), context.embed[:, start:]
    end = late[:, -1:]
    for stage in model.wiring.stages:
        live = np.flatnonzero(writes[stage.rows.start : stage.rows.stop]).tolist()
        last = stage.layer == model.wiring.layers - 1
        if live and stage.kind == ATTENTION:
            parts = model.layers[stage.layer]
            read = parts.ln1(late).flatten(0, 1)
            q, k, v = (
                (read @ parts.weights[port][live].transpose(0, 1).flatten(1))
                .view(len(batch), -1, len(live), model.d_head).transpose(1, 2)
                for port in "qkv"
            )  # fmt: skip
            z = ((q @ k.mT).softmax(-1) @ v).transpose(1, 2)
            (z[:, -1:] if last else z).flatten(2) @ parts.out[live].flatten(0, 1)
        elif live:
            model.mlp(stage.layer, end if last else late)
    model.unembed(end[:, 0])


@torch.no_grad()
def bulk(model: Transformer, timer: Timer) -> Table:
    """A hundred random circuits at once, and one by one."""
    data = pairs(model, 8)
    batch = first(data)
    plain = timer.plain(model, batch)
    masks = random_masks(model.wiring, EDGES, MANY, timer.seed)
    context, carried = _runs(model, batch)
    together: list[torch.Tensor] = []
    single: list[torch.Tensor] = []

    def at_once() -> None:
        together[:] = list(runs(model, batch, context, carried, masks))

    def one_by_one() -> None:
        single[:] = [run(model, batch, context, carried, mask) for mask in masks]

    memory = timer.memory(at_once, timer.held())
    many = timer.seconds(at_once, 2) / MANY
    one = timer.seconds(one_by_one, 2) / MANY
    all_of_it = partial(evaluate, model, masks, data, logit_diff, counterfactual)
    evaluated = timer.seconds(all_of_it, 1) / MANY
    each = (
        timer.seconds(
            lambda: [
                evaluate(model, mask, data, logit_diff, counterfactual) for mask in masks[:10]
            ],
            1,
        )
        / 10
    )
    every = sum(timer.seconds(partial(_live, model, batch, context, carried, mask), 2)
                for mask in masks) / MANY  # fmt: skip
    nothing = difference_of_logits(answer(model, batch, carried.final), batch)
    error, scale = largest_difference(
        *(torch.stack([difference_of_logits(one, batch) - nothing for one in logits])
          for logits in (together, single))
    )  # fmt: skip
    note = (
        f"{MANY} random circuits of {EDGES} edges, 8 × 16 tokens, F = {plain:.3g} {timer.unit}, "
        "least of 2 runs (`evaluate`: 1); the corrupted run is shared and, but for `evaluate`, not "
        "counted."
    )
    return Table("Many circuits", note, ("what", "measured", "unit"), [
        ("`run` one by one", one / plain, "F per circuit"),
        ("`runs` at once", many / plain, "F per circuit (target ≤ 0.6)"),
        ("`runs` at once", many / every, "times their live modules (target ≤ 1.1)"),
        ("`runs` at once", one / many, "times faster than `run` one by one"),
        ("at once, memory above what was held before", memory, "MiB"),
        ("`evaluate` one by one (10 circuits)", each / plain, "F per circuit"),
        ("`evaluate` of all at once", evaluated / plain, "F per circuit"),
        ("`evaluate` of all at once", each / evaluated,
         "times faster than one by one (target ≥ 2)"),
        ("largest difference of the two, of the largest effect", error,
         f"(target ≤ 1e-5; largest effect {scale:.3g})"),
    ])  # fmt: skip
