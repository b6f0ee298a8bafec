"""Edge patching: the exact effect of single edges, each alone, on every example.

It is the truth that attribution estimates. The work is divided into blocks of edges that depend
only on what was asked for, so that a run that resumes after a kill gives the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.checkpoints import Journal, digest, identity
from circuitkit.engine.dealing import Block, Task, dealt
from circuitkit.engine.metric import Corruption, Metric, check_metric, of_runs
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.placed_sweep import placed_sweep
from circuitkit.engine.processes import team
from circuitkit.engine.record import answer, record
from circuitkit.engine.sweep import sweep
from circuitkit.graph.edges import Edges, indices
from circuitkit.graph.places import Edge, PlacedMask, Places
from circuitkit.graph.wiring import Wiring
from circuitkit.registry import name_of
from circuitkit.util.options import DIRECTIONS, require
from circuitkit.util.progress import Count, counting

__all__ = ["Placed", "edge_effects"]

VERSION = 1  # of the blocks on disk
TOKENS = 2**15  # of a block's runs together: for GPT-2 small 256 edges of 8 × 16 tokens, 20 s
SMALL = 1e-2  # metrics whose values are all below this are compared as if they were this large


class Placed(NamedTuple):
    """Edges between places, in the order asked."""

    places: Places
    edges: Sequence[Edge]


@torch.no_grad()
def edge_effects(
    model: Model,
    data: Dataset,
    metric: Metric,
    edges: Edges | Placed,
    corruption: Corruption,
    *,
    direction: str = "noise",
    resume: str | os.PathLike[str] | None = None,
) -> tuple[Float[np.ndarray, "edges examples"], Float[np.ndarray, " examples"]]:
    """The exact effect of each edge alone on every example, and the metric's gap between the clean
    and the corrupted run; ``patch_edges`` says it in full."""
    require("direction", direction, DIRECTIONS)
    places = edges.places if isinstance(edges, Placed) else None
    if isinstance(edges, Placed):
        wanted, place = _places_in_order(edges)
    else:
        wanted, place = _in_order(model.wiring, *indices(model.wiring, edges))
    about = _about(model, data, metric, corruption, direction, wanted)
    if places is not None:
        about["places"] = digest(places.to_dict())
    journal = Journal(resume, about)
    carry = corruption(model, data)
    batches = -(-len(data) // data.batch_size)
    gaps: list[Float[np.ndarray, " examples"]] = []
    effects = np.zeros((len(wanted), len(data)), np.float32)
    where: list[tuple[slice, slice]] = []  # of each block
    processes, noise = team().size, direction == "noise"

    def tasks() -> Iterator[Task]:
        for number, batch in enumerate(data):
            patching = _Patching(model, batch, metric, carry(batch), noise, places)
            first = number * data.batch_size
            gaps.append(patching.gap)
            slices = patching.slices(len(wanted))
            if number % 2:  # early layers cost most, and would always fall to the same process
                slices.reverse()
            for own in slices:
                where.append((own, slice(first, first + batch.examples)))
                name = f"batch-{number:04}/edges-{own.start:08}-{own.stop:08}"
                yield patching.task(name, wanted[own], journal, count, processes)

    with counting(len(wanted) * batches, "exact", "edge") as count:
        for number, block in enumerate(dealt(tasks(), journal)):
            effects[where[number]] = block["effects"]
    return effects[place], np.concatenate(gaps)


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


def _places_in_order(
    edges: Placed,
) -> tuple[Int[np.ndarray, "edges 4"], Int[np.ndarray, " asked"]]:
    """The same of edges between places: of a layer first those of the residual stream, whose fourth
    number is -1, and then those of attention, source by source."""
    wiring, steps = edges.places.wiring, dict[int, int]()
    for stage in wiring.stages:
        steps |= dict.fromkeys(range(stage.columns.start, stage.columns.stop), stage.index)
    heads = [stage.index for stage, rows in edges.places.stages
             for _ in range(rows.start, rows.stop)]  # fmt: skip

    def order(edge: Edge) -> tuple[int, ...]:
        if len(edge) == 3:
            row, column, span = edge
            return steps.get(column, len(wiring.stages)), 0, row, span, column, 0
        head, port, source, destination = edge
        return heads[head], 1, port, source, head, destination

    listed = sorted(set(edges.edges), key=order)
    number = {edge: i for i, edge in enumerate(listed)}
    place = np.array([number[edge] for edge in edges.edges], dtype=int)
    return np.array([(*edge, -1)[:4] for edge in listed], dtype=int).reshape(-1, 4), place


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
        places: Places | None = None,
    ) -> None:
        self.model, self.batch, self.noise = model, batch, noise
        self.metric, self.places = metric, places
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

    def slices(self, edges: int) -> list[slice]:
        """The edges of each block."""
        starts = range(0, edges, self.size)
        return [slice(start, min(start + self.size, edges)) for start in starts]

    def task(
        self,
        name: str,
        edges: Int[np.ndarray, "edges numbers"],
        journal: Journal,
        count: Count,
        processes: int,
    ) -> Task:
        """The block of these edges' effects; each of the others makes as many in the meantime."""

        def work() -> Block:
            return {"effects": self.effects(edges, count, processes), "plain": self.plain}

        def check(block: Mapping[str, np.ndarray]) -> None:
            journal.recognise(self.model, block["plain"], self.plain, SMALL)
            count(len(edges) * processes, earlier=True)

        return Task(name, work, check)

    def value(self, logits: Float[Tensor, "b vocab"]) -> Float[Tensor, " examples"]:
        """The metric of every example."""
        return check_metric(self.metric, logits, self.reference, self.batch)

    def values(self, logits: Float[Tensor, "m vocab"]) -> Float[Tensor, "runs examples"]:
        """The same of several runs."""
        return of_runs([self.metric], logits, self.reference, self.batch)[:, 0]

    def effects(
        self, edges: Int[np.ndarray, "edges numbers"], count: Count, processes: int
    ) -> Float[np.ndarray, "edges examples"]:
        """The mean effects of these edges over the draws, in one sweep a draw."""
        place = {tuple(n for n in edge if n >= 0): i for i, edge in enumerate(edges.tolist())}
        total = np.zeros((len(edges), self.batch.examples))
        for draw, (base, other) in enumerate(self.runs):
            for swept, values in self.swept(base, other, edges):
                change = _numbers(values) - self.plain[draw, 0]
                total[[place[edge] for edge in swept]] += -change if self.noise else change
                if draw + 1 == len(self.runs):
                    count(len(swept) * processes)
        return (total / len(self.runs)).astype(np.float32)

    def swept(
        self, base: Activations, other: Activations, edges: Int[np.ndarray, "edges numbers"]
    ) -> Iterator[tuple[list[tuple[int, int]] | list[Edge], Float[Tensor, "edges examples"]]]:
        """Blocks of edges with the metric of their runs."""
        given = (self.model, self.batch, self.context, base, other, self.value)
        if self.places is not None:
            yield from placed_sweep(*given, _masked(self.places, edges), self.values)
            return
        mask = np.zeros(self.model.wiring.shape, dtype=bool)
        mask[tuple(edges.T)] = True
        yield from sweep(*given, mask, self.values)


def _masked(places: Places, edges: Int[np.ndarray, "edges 4"]) -> PlacedMask:
    """The mask of these edges between places."""
    legal, stream = places.legal, edges[:, 3] < 0
    residual, attention = np.zeros_like(legal.residual), np.zeros_like(legal.attention)
    residual[tuple(edges[stream, :3].T)] = True
    attention[tuple(edges[~stream].T)] = True
    return PlacedMask(places, residual, attention)


def _numbers(values: Float[Tensor, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """As numpy doubles, to which every dtype of a model converts exactly."""
    numbers: np.ndarray = values.cpu().double().numpy()
    return numbers
