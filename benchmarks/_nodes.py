"""What node patching costs, and TransformerLens's own beside it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from _floors import Floor
from _inputs import difference_of_logits, first, pairs
from _measure import Cell, Table, Timer, largest_difference

from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Batch
from circuitkit.engine.record import answer, record
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.transformer_lens import Transformer

__all__ = ["nodes"]

EVERY = 4  # of the cells of a grid TransformerLens is timed on one in so many


def nodes(model: Transformer, timer: Timer) -> Table:
    """All heads' outputs, and the residual stream at every layer and position."""
    from circuitkit.patching.nodes import patch_heads, patch_residual

    data = pairs(model, 8)
    batch = first(data)
    plain = timer.plain(model, batch)
    rows: list[tuple[Cell, ...]] = [("one plain forward (F)", plain, timer.unit)]
    theirs = _transformer_lens() if timer.transformer_lens else {}
    length = batch.clean.shape[1]
    floor = Floor(model, length, length // 4)  # the first token at which the pairs differ
    for name, work, axes, goal, least in (
        ("heads", patch_heads, ("layer", "head"), 70, floor.every_head()),
        ("residual", patch_residual, ("layer", "pos"), 45, floor.every_cell()),
    ):
        made: list[Any] = []
        ours = partial(work, model, data, logit_diff, counterfactual, direction="denoise")
        seconds = timer.seconds(lambda ours=ours, made=made: made.append(ours()), 2)
        shape = " × ".join(map(str, made[-1].shape[:2]))
        label = f"`{work.__name__}`, {shape} cells"
        rows.append((label, seconds / plain, f"F (target ≤ {goal}; floor {least:.3g})"))
        if name in theirs:
            rows += _beside(
                model, batch, timer, theirs[name], axes, np.asarray(made[-1]), seconds, plain
            )
    note = (
        "8 × 16 tokens, denoising: the clean value in the corrupted run, two plain runs included. "
        f"TransformerLens is timed once, on one cell in {EVERY}, and extrapolated; its cache is "
        "not counted. Floor: what these runs multiply, from the first token that differs on, in "
        "the multiplications of F; a large product of logits takes less time for each."
    )
    return Table("Node patching", note, ("what", "measured", "unit"), rows)


def _transformer_lens() -> dict[str, Callable[..., Any]]:
    from transformer_lens import patching

    return {
        "heads": patching.get_act_patch_attn_head_out_all_pos,
        "residual": patching.get_act_patch_resid_pre,
    }


@torch.no_grad()
def _beside(
    model: Transformer,
    batch: Batch,
    timer: Timer,
    work: Callable[..., Any],
    axes: tuple[str, str],
    ours: np.ndarray,
    seconds: float,
    plain: float,
) -> list[tuple[Cell, ...]]:
    """TransformerLens's function on a sample of the cells; why not, where it cannot."""
    import pandas

    name = {"head": "get_act_patch_attn_head_out_all_pos", "pos": "get_act_patch_resid_pre"}
    label = f"TransformerLens {importlib.metadata.version('transformer_lens')} `{name[axes[1]]}`"
    cells = np.argwhere(np.ones(ours.shape[:2], dtype=bool))
    cells = np.random.default_rng(timer.seed).permutation(cells)[::EVERY]
    _, cache = model.bridge.run_with_cache(batch.clean)
    made: list[Any] = []

    def theirs() -> None:
        made.append(work(
            model.bridge, batch.corrupt, cache, partial(difference_of_logits, batch=batch),
            index_axis_names=None, index_df=pandas.DataFrame(cells, columns=list(axes)),
            reduce="none",
        ))  # fmt: skip

    try:
        took = timer.seconds(theirs, 1) * ours.shape[0] * ours.shape[1] / len(cells)
    except Exception as error:  # it raises what it likes; the table says why
        return [(label, f"cannot run: {type(error).__name__}: {str(error)[:200]}", "")]
    carried = record(model, model.start(batch.corrupt, batch.mask))
    start = difference_of_logits(answer(model, batch, carried.final), batch).double().cpu().numpy()
    error, scale = largest_difference(
        ours[tuple(cells.T)], made[-1].values.cpu().numpy() - start
    )  # fmt: skip
    return [
        (label, took / plain, "F (extrapolated)"),
        ("it takes", took / seconds, "times ours"),
        (f"largest difference of the two at {len(cells)} cells, of the largest effect", error,
         f"(largest effect {scale:.3g})"),
    ]  # fmt: skip
