"""What exact edge patching costs, and what one run per edge costs beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from _floors import Floor
from _inputs import SMALL, difference_of_logits, first, gpt2, pairs
from _measure import Cell, Table, Timer
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.model import Activations, Context
from circuitkit.engine.record import answer, beginning, difference, record
from circuitkit.engine.run import run
from circuitkit.engine.sweep import TOKENS, sweep, untouched
from circuitkit.models.transformer_lens import Transformer

__all__ = ["edges", "growth", "one_by_one"]

Edge = tuple[int, int]
GROWTH = {
    "layers": [{"n_layer": n} for n in (2, 4, 8, 12, 24)],
    "heads (32 dimensions each)": [{"n_head": n, "n_embd": 32 * n} for n in (4, 8, 16)],
    "tokens": [{"length": n} for n in (16, 64, 128, 512)],
    "examples": [{"batch": n} for n in (1, 8, 32)],
}


# -- the work --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Patching:
    """A clean base run, and a corrupted run that single edges carry in it."""

    model: Transformer
    batch: Batch
    context: Context
    base: Activations
    other: Activations

    @classmethod
    @torch.no_grad()
    def of(cls, model: Transformer, batch: Batch) -> Patching:
        """The two plain runs; they are no part of what is timed."""
        context = model.start(batch.clean, batch.mask)
        other = record(model, model.start(batch.corrupt, batch.mask))
        return cls(model, batch, context, record(model, context), other)

    def value(self, logits: Tensor) -> Tensor:
        """The metric of every example."""
        return difference_of_logits(logits, self.batch)

    def plain(self) -> Tensor:
        """The metric in the base run."""
        return self.value(answer(self.model, self.batch, self.base.final))

    def swept(self, chosen: Sequence[Edge]) -> dict[Edge, Tensor]:
        """The metric under each edge's patch, by the sweep."""
        wanted = np.zeros(self.model.wiring.shape, dtype=bool)
        wanted[tuple(np.array(chosen).T)] = True
        found = sweep(
            self.model, self.batch, self.context, self.base, self.other, self.value, wanted
        )
        return {edge: one for block, values in found
                for edge, one in zip(block, values, strict=True)}  # fmt: skip

    @torch.no_grad()
    def masked(self, edge: Edge) -> Tensor:
        """The same, by a masked run of the whole model."""
        keep = self.model.wiring.legal.copy()
        keep[edge] = False
        return self.value(run(self.model, self.batch, self.context, self.other, keep))

    @torch.no_grad()
    def resumed(self, edge: Edge) -> Tensor:
        """The same, by a plain run from the reader's layer on, of the model's own modules without
        hooks, and with logits at the answers alone: as fast as one run per edge can be."""
        model, wiring, base = self.model, self.model.wiring, self.base
        row, column = edge
        delta = difference(model, self.other, base, row)
        reader = wiring.readers[column]
        if reader.layer is None:
            return self.value(answer(model, self.batch, base.final + delta))
        layer = reader.layer
        heads, (mlp,) = wiring.attention(layer), wiring.beyond_attention(layer)
        middle = base.reads[mlp.index]
        if reader.is_mlp:
            x = middle + model.mlp(layer, middle + delta)
        else:
            ports = self._ports(layer, column, delta)
            z = model.attend(self.context, layer, *ports)
            middle = base.reads[heads.index] + model.attention_out(layer, z)[0]
            x = middle + model.mlp(layer, middle)
        for after in range(layer + 1, wiring.layers):
            z = model.attend(self.context, after, *model.project(after, x))
            middle = x + model.attention_out(after, z)[0]
            x = middle + model.mlp(after, middle)
        return self.value(answer(model, self.batch, x))

    def _ports(self, layer: int, column: int, delta: Tensor) -> list[Tensor]:
        """q, k and v, where one port alone reads what is patched."""
        stage = self.model.wiring.attention(layer)
        read = self.base.reads[stage.index]
        ports = list(self.model.project(layer, read))
        changed = self.model.project(layer, read + delta)
        port, place = stage.port(column)
        ports[port] = ports[port].clone()
        ports[port][:, :, place] = changed[port][:, :, place]
        return ports

    @torch.no_grad()
    def hooked(self, edge: Edge) -> Tensor:
        """The same, by TransformerBridge with a hook; its ``start_at_layer`` runs all blocks too
        and swaps the residual, so it would save nothing."""
        row, column = edge
        delta = difference(self.model, self.other, self.base, row)
        reader = self.model.wiring.readers[column]
        place = slice(None) if reader.head is None else reader.head

        def patch(read: Tensor, hook: Any) -> Tensor:
            read = read.clone()
            if reader.head is None:
                return read + delta
            read[:, :, place] += delta
            return read

        last = self.model.wiring.layers - 1
        name = (
            f"blocks.{last}.hook_resid_post" if reader.layer is None
            else f"blocks.{reader.layer}.ln2.hook_in" if reader.is_mlp
            else f"blocks.{reader.layer}.attn.hook_{reader.port}_input"
        )  # fmt: skip
        bridge = self.model.bridge
        bridge.set_use_split_qkv_input(True)  # an input for each port
        logits = bridge.run_with_hooks(self.batch.clean, fwd_hooks=[(name, patch)])
        bridge.set_use_split_qkv_input(False)
        return self.value(logits)

    def compare(self, found: dict[Edge, Tensor], slow: dict[Edge, Tensor]) -> tuple[float, float]:
        """The largest difference of the effects, as a part of the largest effect found; that."""
        plain = self.plain()
        largest = max(float((values - plain).abs().max()) for values in found.values())
        apart = max(float((found[edge] - values).abs().max()) for edge, values in slow.items())
        return apart / largest, largest


def _blocks(patching: Patching, n: int, seed: int) -> Iterator[list[Edge]]:
    """Blocks of edges, as a sweep makes them, at n evenly spaced places among all edges (but those
    into the logits) in the order of layers.

    A block is met as often as it is large, so the mean over blocks of seconds per edge is, whatever
    the first place, an unbiased estimate of the mean over all edges.
    """
    wiring = patching.model.wiring
    size = max(1, TOKENS // patching.batch.clean.numel())
    groups = []
    for stage in wiring.stages:
        found = np.argwhere(wiring.legal[:, stage.columns]).tolist()
        groups.append([(row, stage.columns.start + place) for row, place in found])
    chunks = [group[at : at + size] for group in groups for at in range(0, len(group), size)]
    ends = np.cumsum([len(chunk) for chunk in chunks])
    places = (np.random.default_rng(seed).random() + np.arange(n)) * ends[-1] / n
    for chunk in np.searchsorted(ends, places, side="right"):
        yield chunks[chunk]


@dataclass(frozen=True)
class Cost:
    """The mean seconds per edge; the edges of the timed blocks; and all that was swept."""

    seconds: float
    timed: list[Edge]
    found: dict[Edge, Tensor]


def _cost(timer: Timer, patching: Patching, blocks: int) -> Cost:
    """The cost of all edges: of sampled blocks, and of all edges into the logits."""
    wiring = patching.model.wiring
    found: dict[Edge, Tensor] = {}

    def swept(chosen: list[Edge]) -> None:
        found.update(patching.swept(chosen))

    logits = [(row, wiring.shape[1] - 1) for row in range(wiring.shape[0])]
    swept(logits)  # warm
    free = timer.seconds(partial(swept, logits), 1)
    means, timed = [], []
    for chosen in _blocks(patching, blocks, timer.seed):
        means.append(timer.seconds(partial(swept, chosen), 1) / len(chosen))
        timed += chosen
    others = wiring.n_edges - len(logits)
    mean = (float(np.mean(means)) * others + free) / wiring.n_edges
    return Cost(mean, timed, found)


def _some(timed: list[Edge], n: int, seed: int) -> list[Edge]:
    """n of the edges at random, or all."""
    order = np.random.default_rng(seed).permutation(len(timed))[:n]
    return [timed[i] for i in order]


# -- sections --------------------------------------------------------------------------------------
def edges(model: Transformer, timer: Timer) -> Table:
    """All edges of GPT-2 small's shape, from a sample."""
    patching = Patching.of(model, first(pairs(model, 8)))
    plain = timer.plain(model, patching.batch)
    cost = _cost(timer, patching, 12)
    chosen = _some(cost.timed, 24, timer.seed)
    slow, resumed = _slow(timer, patching.resumed, chosen)
    _, masked = _slow(timer, patching.masked, chosen)
    error, scale = patching.compare(cost.found, slow)
    total = model.wiring.n_edges
    note = (
        f"8 × 16 tokens, one metric at the last token. {len(cost.timed)} edges in 12 blocks, at "
        f"evenly spaced places among all edges, and all {len(model.wiring.writers)} into the "
        "logits, timed once; the rest is extrapolated. The runs per edge are of "
        f"{len(slow)} of the edges in the blocks; a resumed run starts at the reader's layer, in "
        "the bare modules. Floor: what the resumed runs multiply, from the first token that "
        "differs on; another way to the same effects than by such runs is not known."
    )
    start = beginning(patching.batch, untouched(patching.base, patching.other))
    floor = Floor(model, patching.batch.clean.shape[1], start).edge()
    return Table("Exact patching of every edge", note, ("what", "measured", "unit"), [
        ("one plain forward (F)", plain, timer.unit),
        ("`sweep`, mean over all edges", cost.seconds / plain,
         f"F per edge (target ≤ 0.35; floor {floor:.3f})"),
        (f"`sweep`, all {total:,} edges (extrapolated)", cost.seconds * total, timer.unit),
        ("one resumed run per edge", resumed / plain, "F per edge"),
        ("one masked run per edge", masked / plain, "F per edge"),
        ("largest difference to the resumed runs, of the largest effect", error,
         f"(target ≤ 1e-5; largest effect {scale:.3g})"),
    ])  # fmt: skip


def _slow(
    timer: Timer, work: Callable[[Edge], Tensor], chosen: Sequence[Edge]
) -> tuple[dict[Edge, Tensor], float]:
    """What the work gives for each edge, and its mean seconds."""
    found: dict[Edge, Tensor] = {}
    work(chosen[0])  # warm
    seconds = timer.seconds(lambda: found.update({edge: work(edge) for edge in chosen}), 1)
    return found, seconds / len(chosen)


def growth(timer: Timer) -> Table:
    """The cost per edge as the model and the batch grow, one at a time."""
    rows: list[tuple[Cell, ...]] = []
    for name, steps in GROWTH.items():
        for step in steps:
            given = {**SMALL, "batch": 8, "length": 16, **step}
            batch, length = given.pop("batch"), given.pop("length")
            model = gpt2(timer, given)
            patching = Patching.of(model, first(pairs(model, batch, length)))
            plain = timer.plain(model, patching.batch)
            cost = _cost(timer, patching, 8)
            slow, _ = _slow(timer, patching.resumed, _some(cost.timed, 8, timer.seed))
            error, _ = patching.compare(cost.found, slow)
            rows.append((
                name, next(iter(step.values())), model.wiring.n_edges, len(cost.timed), plain,
                cost.seconds / plain, error,
            ))  # fmt: skip
    shape = "{n_layer} layers × {n_head} heads × {n_embd}, {vocab_size:,} tokens".format(**SMALL)
    note = (
        f"One thing grows at a time from {shape} of vocabulary, 8 × 16 tokens. The cost is "
        "extrapolated from the timed edges (8 blocks, once); the difference to resumed runs, of "
        "8 edges, is a part of the largest effect."
    )
    head = ("grows", "to", "edges", "timed", f"F ({timer.unit})", "F per edge", "difference")
    return Table("Exact patching as it grows", note, head, rows)


def one_by_one(timer: Timer) -> Table:
    """All edges of a small model against one run per edge."""
    model = gpt2(timer, SMALL)
    patching = Patching.of(model, first(pairs(model, 8)))
    plain = timer.plain(model, patching.batch)
    chosen = [tuple(edge) for edge in np.argwhere(model.wiring.legal).tolist()]
    patching.swept(chosen[:40])  # warm
    found: dict[Edge, Tensor] = {}
    ours = timer.seconds(lambda: found.update(patching.swept(chosen)), 3) / len(chosen)
    rows: list[tuple[Cell, ...]] = [
        ("`sweep`, all at once", len(chosen), ours * len(chosen), ours / plain, 1.0, "")
    ]
    ways = [("one resumed run per edge, the bare modules, no hooks (target ≥ 20)",
             patching.resumed, 1),
            ("one masked run per edge", patching.masked, 10)]  # fmt: skip
    if timer.transformer_lens:
        ways.append(("one run per edge of TransformerBridge, with a hook", patching.hooked, 10))
    for name, work, every in ways:
        slow, seconds = _slow(timer, work, chosen[::every])
        error, _ = patching.compare(found, slow)
        rows.append((name, len(slow), seconds * len(chosen), seconds / plain,
                     seconds / ours, error))  # fmt: skip
    shape = "{n_layer} layers × {n_head} heads × {n_embd}, {vocab_size:,} tokens".format(**SMALL)
    note = (
        f"{shape} of vocabulary, {len(chosen):,} edges, 8 × 16 tokens, F = {plain:.4f} "
        f"{timer.unit}. The seconds of all edges are extrapolated where fewer were timed; the "
        "sweep was timed 3 times, the others once. The difference is of the largest effect."
    )
    head = ("what", "timed edges", f"all edges ({timer.unit})", "F per edge", "times the sweep",
            "difference")  # fmt: skip
    return Table("A small model, against one run per edge", note, head, rows)
