"""Edge patching: the exact effect of single edges, each alone, on every example.

It is the truth that attribution estimates. The work is divided into blocks of edges that depend
only on what was asked for, so that a run that resumes after a kill gives the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.checkpoints import Journal, digest, identity
from circuitkit.engine.metric import Corruption, Metric, check_metric
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.record import answer, record
from circuitkit.engine.sweep import sweep
from circuitkit.graph.edges import Edges, indices
from circuitkit.graph.wiring import Wiring
from circuitkit.registry import name_of
from circuitkit.util.options import DIRECTIONS, require
from circuitkit.util.progress import Count, counting

__all__ = ["edge_effects"]

VERSION = 1  # of the blocks on disk
TOKENS = 2**15  # of a block's runs together: for GPT-2 small 256 edges of 8 × 16 tokens, 20 s
SMALL = 1e-2  # metrics whose values are all below this are compared as if they were this large


@torch.no_grad()
def edge_effects(
    model: Model,
    data: Dataset,
    metric: Metric,
    edges: Edges,
    corruption: Corruption,
    *,
    direction: str = "noise",
    resume: str | os.PathLike[str] | None = None,
) -> tuple[Float[np.ndarray, "edges examples"], Float[np.ndarray, " examples"]]:
    """The exact effect of each edge alone on every example, and the metric's gap between the clean
    and the corrupted run; ``patch_edges`` says it in full."""
    require("direction", direction, DIRECTIONS)
    wanted, place = _in_order(model.wiring, *indices(model.wiring, edges))
    journal = Journal(resume, _about(model, data, metric, corruption, direction, wanted))
    carry = corruption(model, data)
    batches = -(-len(data) // data.batch_size)
    effects, gaps = [], []
    with counting(len(wanted) * batches, "exact", "edge") as count:
        for number, batch in enumerate(data):
            patching = _Patching(model, batch, metric, carry(batch), direction == "noise")
            effects.append(_effects(patching, wanted, journal, f"batch-{number:04}", count))
            gaps.append(patching.gap)
    asked: np.ndarray = np.concatenate(effects, axis=1)[place]
    return asked, np.concatenate(gaps)


def _in_order(
    wiring: Wiring, rows: Int[np.ndarray, " asked"], columns: Int[np.ndarray, " asked"]
) -> tuple[Int[np.ndarray, "edges 2"], Int[np.ndarray, " asked"]]:
    """The edges, each once, in the order in which a sweep takes them: layer by layer, and within
    one writer by writer, whose projections they share; and where each edge asked for is there."""
    steps = [stage.index for stage in wiring.stages for _ in stage.part.readers]
    steps.append(len(wiring.stages))
    keys = np.stack([np.array(steps)[columns], rows, columns], axis=1)
    found, place = np.unique(keys, axis=0, return_inverse=True)
    return found[:, 1:], place.reshape(-1)


def _about(
    model: Model,
    data: Dataset,
    metric: Metric,
    corruption: Corruption,
    direction: str,
    wanted: Int[np.ndarray, "edges 2"],
) -> dict[str, Any]:
    """All that tells one run's blocks from another's, except for the weights."""
    return {
        **identity(model, data),
        "format": "circuitkit.patch_edges",
        "version": VERSION,
        "metric": name_of(metric),
        "corruption": name_of(corruption),
        "direction": direction,
        "wanted": digest(wanted.tolist()),
        "edges": len(wanted),
    }


def _effects(
    patching: _Patching,
    wanted: Int[np.ndarray, "edges 2"],
    journal: Journal,
    name: str,
    count: Count,
) -> Float[np.ndarray, "edges examples"]:
    """The effects of all edges on one batch, block by block; finished blocks are read."""
    effects = [np.zeros((0, patching.batch.examples), np.float32)]
    for start in range(0, len(wanted), patching.size):
        edges = wanted[start : start + patching.size]
        key = f"{name}/edges-{start:08}-{start + len(edges):08}"
        block = journal.get(key)
        if block is None:
            block = {"effects": patching.effects(edges, count), "plain": patching.plain}
            journal.put(key, block)
        else:
            journal.recognise(patching.model, block["plain"], patching.plain, SMALL)
            count(len(edges), earlier=True)
        effects.append(block["effects"])
    return np.concatenate(effects)


class _Patching:
    """One batch: its plain runs, the metric in each, and how many edges make a block."""

    plain: Float[np.ndarray, "draws base_and_other examples"]

    def __init__(
        self,
        model: Model,
        batch: Batch,
        metric: Metric,
        draws: Sequence[Activations],
        noise: bool,
    ) -> None:
        self.model, self.batch, self.noise = model, batch, noise
        self.metric = metric
        self.context = model.start(batch.clean, batch.mask)
        live = record(model, self.context)
        self.reference = answer(model, batch, live.final)
        self.runs = [(live, carried) if noise else (carried, live) for carried in draws]
        ends = [[answer(model, batch, run.final) for run in pair] for pair in self.runs]
        self.plain = np.array([[_numbers(self.value(end)) for end in pair] for pair in ends])
        self.size = max(1, TOKENS // (batch.clean.numel() * len(draws)))

    @property
    def gap(self) -> Float[np.ndarray, " examples"]:
        """What the metric loses from the clean to the corrupted run, in the mean over the draws."""
        base, other = self.plain.mean(0)
        return np.asarray(base - other if self.noise else other - base)

    def value(self, logits: Float[Tensor, "b vocab"]) -> Float[Tensor, " examples"]:
        """The metric of every example."""
        return check_metric(self.metric, logits, self.reference, self.batch)

    def effects(
        self, edges: Int[np.ndarray, "edges 2"], count: Count
    ) -> Float[np.ndarray, "edges examples"]:
        """The mean effects of these edges over the draws, in one sweep a draw."""
        place = {(row, column): i for i, (row, column) in enumerate(edges.tolist())}
        mask = np.zeros(self.model.wiring.shape, dtype=bool)
        mask[tuple(edges.T)] = True
        total = np.zeros((len(edges), self.batch.examples))
        for draw, (base, other) in enumerate(self.runs):
            blocks = sweep(self.model, self.batch, self.context, base, other, self.value, mask)
            for swept, values in blocks:
                change = _numbers(values) - self.plain[draw, 0]
                total[[place[edge] for edge in swept]] += -change if self.noise else change
                if draw + 1 == len(self.runs):
                    count(len(swept))
        return (total / len(self.runs)).astype(np.float32)


def _numbers(values: Float[Tensor, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """As numpy doubles, to which every dtype of a model converts exactly."""
    numbers: np.ndarray = values.cpu().double().numpy()
    return numbers
