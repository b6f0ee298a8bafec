"""What attribution costs: all edges from one forward and one backward."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from _inputs import first, pairs
from _measure import Cell, Table, Timer, largest_difference

from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.examples import Example
from circuitkit.discovery.activations import ceap
from circuitkit.discovery.attribution import eap, eap_ig, expected_gradients
from circuitkit.discovery.mask_gradients import mask_gradient
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.transformer_lens import Transformer
from circuitkit.registry import resolve

__all__ = ["attribution"]

OTHERS = {
    "`expected_gradients`": expected_gradients,
    "`mask_gradient`, 5 steps": mask_gradient,
    "`mask_gradient`, 5 steps, the clean run's norms": partial(mask_gradient, norms="clean"),
    "`ceap`, 5 steps": ceap,
    "`relp`": resolve("discovery", "relp"),
    "`atp_star`": resolve("discovery", "atp_star"),
    "`nested`, 24 runs from `expected_gradients`": resolve(
        "discovery", "nested(start='expected_gradients', runs=24)"
    ),
    "`edge_pruning`, 24 runs": resolve("discovery", "edge_pruning(runs=24)"),
    "`ugs`, 24 runs": resolve("discovery", "ugs(runs=24)"),
}


def attribution(model: Transformer, timer: Timer) -> Table:
    """EAP and EAP-IG of all edges; TransformerLens's own edge attribution beside them."""
    rows = list(_ours(model, timer))
    if timer.transformer_lens:
        rows += _transformer_lens(model, timer)
    note = (
        f"{model.wiring.n_edges:,} edges, 8 × 16 tokens. Memory is above the loaded model; "
        "TransformerLens takes one example at a time and is timed once, on 2."
    )
    return Table("Attribution", note, ("what", "measured", "unit"), rows)


def _ours(model: Transformer, timer: Timer) -> Iterator[tuple[Cell, ...]]:
    data = pairs(model, 8)
    once = partial(eap, model, data, logit_diff, counterfactual)
    steps = partial(eap_ig, model, data, logit_diff, counterfactual, steps=5)
    held = timer.held()
    memory = timer.memory(once, held), timer.memory(steps, held)
    plain = timer.plain(model, first(data))
    yield "one plain forward (F)", plain, timer.unit
    yield "`eap`", timer.seconds(once) / plain, "F (target ≤ 6)"
    yield "`eap_ig`, 5 steps", timer.seconds(steps, 3) / plain, "F (target ≤ 20)"
    yield "`eap`, memory", memory[0], "MiB (target ≤ 300)"
    yield "`eap_ig`, memory", memory[1], "MiB (target ≤ 300)"
    for name, method in OTHERS.items():
        run = partial(method, model, data, logit_diff, counterfactual)
        taken = timer.memory(run, held)
        yield f"{name}", timer.seconds(run, 3) / plain, "F"
        yield f"{name}, memory", taken, "MiB"


def _transformer_lens(model: Transformer, timer: Timer) -> Iterator[tuple[Cell, ...]]:
    """It takes the gradient at its ``corrupt`` prompt and points to its ``clean`` one: with the two
    swapped it is minus ours."""
    from transformer_lens.tools.analysis.attribution_patching import (
        EdgeAttributionConfig,
        attribution_patch,
    )

    n = 2
    data = pairs(model, n)
    batch = first(data)
    summed, peer = np.zeros(model.wiring.shape), 0.0
    model.bridge.requires_grad_(True)  # it cannot do without
    for example, clean, corrupt in zip(data.examples, batch.clean, batch.corrupt, strict=True):

        def metric(logits: torch.Tensor, own: Example = example) -> torch.Tensor:
            last = logits.flatten(0, -2)[-1]
            return last[own.correct[0]] - last[own.wrong[0]]

        config = EdgeAttributionConfig(granularity="edge")
        clock = time.process_time if timer.device == "cpu" else time.perf_counter
        start = clock()
        theirs = attribution_patch(model.bridge, corrupt[None], clean[None], metric, config)
        for (writer, reader), value in theirs.edge_scores.items():
            index = model.wiring.writer[_name(writer)], model.wiring.reader[_name(reader)]
            summed[index] -= float(value) / n
        peer += clock() - start
    model.bridge.requires_grad_(False)
    ours = timer.seconds(lambda: eap(model, data, logit_diff, counterfactual))
    error, scale = largest_difference(
        summed, eap(model, data, logit_diff, counterfactual).values.astype(float)
    )
    version = importlib.metadata.version("transformer_lens")
    yield (f"TransformerLens {version} `attribution_patch`, all edges, {n} examples",
           peer / ours, "times `eap` on the same (target ≥ 10)")  # fmt: skip
    yield ("largest difference of the two, of the largest score", error,
           f"(largest score {scale:.3g})")  # fmt: skip


def _name(node: Any) -> str:
    """Our name of one of TransformerLens's nodes."""
    if node.kind.startswith("mlp"):
        return f"m{node.layer}"
    if node.kind == "attn_head_out":
        return f"a{node.layer}.h{node.head}"
    if node.kind.endswith("_input"):
        return f"a{node.layer}.h{node.head}.{node.kind[0]}"
    return "input" if node.kind == "embed" else str(node.kind)  # or logits
