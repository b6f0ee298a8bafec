"""Path patching: what a change of one component does along given paths alone.

In the language of ``circuitkit.engine.run``: what the sender writes in the other run is
precomputed, the edges of the paths are kept, and all else is held at the base run (Wang et al.
2023; Goldowsky-Dill et al. 2023). A path that ends at a component rather than at the logits flows
on from there through everything downstream, as in Wang et al.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    Inputs,
    MetricLike,
    prepare,
    refuse,
    require_model,
)
from circuitkit.engine.metric import check_metric
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.record import answer, difference, record
from circuitkit.engine.run import runs
from circuitkit.errors import CircuitError
from circuitkit.graph.nodes import Node
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.patching.effects import Effects
from circuitkit.registry import name_of
from circuitkit.util.options import DIRECTIONS, require

__all__ = ["Senders", "patch_path", "patch_paths", "patch_senders"]

ARROW = " -> "
TOGETHER = 32  # paths whose senders' changes are held at once


def patch_path(
    model: Model,
    path: Sequence[str],
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    at: str | Sequence[str] = "all",
    direction: str = "noise",
    freeze_mlps: bool = True,
) -> Effects:
    """The effect of one path on every example.

    Returns Effects without axes: values [examples] in metric units, positive where the path helps,
    in the mean over the corruption's draws. ``path`` is a chain of nodes from a writer on:
    ``["a9.h9", "a10.h7.q", "a10.h7", "logits"]`` (a port's own head may be left out). ``noise``:
    what the metric loses when the path carries the corruption in a clean run; ``denoise``: what it
    gains when it carries the clean value in the corrupted run. Every component beside the path is
    held; with ``freeze_mlps=False`` the MLPs between sender and receiver answer, as in Wang et al.
    (2023). ``at`` names the span, or several, at which alone the sender is changed (``"S2"``,
    ``"end"``).

    Raises ArgumentError where something else stands in the place of the path, CircuitError where
    the model has no such path, and DataError for a span that an example lacks.

    Example:
        >>> effect = ck.patch_path(model, ["m0", "logits"], task)
        >>> effect.direction, effect.shape == (len(task),)
        ('noise', True)
    """
    if isinstance(path, str) or not _is_path(path):
        refuse("path", path, "a chain of nodes such as ['a9.h9', 'a10.h7.q', 'logits']")
    found = patch_paths(
        model, [path], data, metric, corruption,
        at=at, direction=direction, freeze_mlps=freeze_mlps,
    )  # fmt: skip
    return replace(found, values=found.values[0], axes={}, nodes=ARROW.join(map(Node, path)))


@torch.no_grad()
def patch_paths(
    model: Model,
    paths: Sequence[Sequence[str]],
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    at: str | Sequence[str] = "all",
    direction: str = "noise",
    freeze_mlps: bool = True,
) -> Effects:
    """The effects of many paths, each alone; they share the two plain runs.

    Returns Effects with one axis, ``path``: values [paths, examples]. The rest is as in
    ``patch_path``.

    Example:
        >>> found = ck.patch_paths(model, [["m0", "logits"], ["input", "m0", "logits"]], task)
        >>> found.names
        ('m0 -> logits', 'input -> m0 -> logits')
    """
    require_model(model)
    if isinstance(paths, str) or not (isinstance(paths, Sequence) and all(map(_is_path, paths))):
        refuse("paths", paths, "chains of nodes such as [['a9.h9', 'a10.h7.q', 'logits']]")
    require("direction", direction, DIRECTIONS)
    inputs = prepare(model, data, metric, corruption)
    work = _Paths(inputs, paths, at, direction == "noise", not freeze_mlps)
    carry = inputs.corruption(model, inputs.data)
    found = [work.effects(batch, carry(batch)) for batch in inputs.data]
    values, gaps = (np.concatenate(part, axis=-1) for part in zip(*found, strict=True))
    names = tuple(ARROW.join(map(Node, path)) for path in paths)
    return Effects(
        values, {"path": names}, gaps, "paths", name_of(inputs.metric),
        name_of(inputs.corruption), direction,
    )  # fmt: skip


class _Paths:
    """Paths of one model: the mask that each keeps, and the row of its sender."""

    def __init__(
        self,
        inputs: Inputs,
        paths: Sequence[Sequence[str]],
        at: str | Sequence[str],
        noise: bool,
        mlps: bool,
    ) -> None:
        self.model, self.metric, self.noise = inputs.model, inputs.metric, noise
        wiring = self.model.wiring
        self.spans = () if at == "all" else (at,) if isinstance(at, str) else tuple(at)
        self.masks = [_mask(wiring, path, mlps) for path in paths]
        self.senders = [wiring.writer[Node(path[0])] for path in paths]

    def effects(
        self, batch: Batch, draws: Sequence[Activations]
    ) -> tuple[Float[np.ndarray, "paths b"], Float[np.ndarray, " b"]]:
        """The effects on one batch and the metric's gap, in the mean over the draws."""
        context = self.model.start(batch.clean, batch.mask)
        live = record(self.model, context)
        reference = answer(self.model, batch, live.final)
        effects = torch.zeros(len(self.masks), len(batch), dtype=torch.float64)
        gap = torch.zeros(len(batch), dtype=torch.float64)

        def value(logits: Float[Tensor, "b vocab"]) -> Float[Tensor, " b"]:
            return check_metric(self.metric, logits, reference, batch).double().cpu()

        for carried in draws:
            base, other = (live, carried) if self.noise else (carried, live)
            start = value(answer(self.model, batch, base.final))
            gap += value(reference) - value(answer(self.model, batch, carried.final))
            held = context.holding(base)
            for first in range(0, len(self.masks), TOGETHER):
                some = slice(first, first + TOGETHER)
                changes = self._changes(batch, other, base, some)
                found = runs(self.model, batch, held, base, self.masks[some], changes)
                for i, logits in enumerate(found):
                    moved = value(logits) - start
                    effects[first + i] += -moved if self.noise else moved
        return (effects / len(draws)).numpy(), (gap / len(draws)).numpy()

    def _changes(
        self, batch: Batch, other: Activations, base: Activations, some: slice
    ) -> dict[int, Tensor]:
        """What the senders of these paths write in the other run, less what they do in the base
        run, at the tokens where they are changed."""
        rows = {*self.senders[some]}
        changes = {row: difference(self.model, other, base, row) for row in rows}
        if not self.spans:
            return changes
        within = batch.within(*self.spans)[..., None]
        return {row: change * within for row, change in changes.items()}


def _is_path(path: object) -> bool:
    return isinstance(path, list | tuple) and all(isinstance(node, str) for node in path)


@dataclass(frozen=True)
class Senders:
    """The effect of every sender on one receiver, on every example: the heat map of Wang et al.

    ``effects`` are in metric units and positive where the path helps; their rows are the writers
    upstream of the receiver, in the wiring's order.
    """

    wiring: Wiring
    receiver: str
    effects: Float[np.ndarray, "senders examples"]
    metric: str
    corruption: str
    direction: str

    @property
    def heads(self) -> Float[np.ndarray, "layers heads"]:
        """The mean effect of each head; nan where it is not upstream of the receiver."""
        table = np.full((self.wiring.layers, self.wiring.heads), np.nan)
        for node, effect in self._means():
            if node.head is not None:
                table[node.layer, node.head] = effect
        return table

    @property
    def mlps(self) -> Float[np.ndarray, " layers"]:
        """The mean effect of each MLP; nan where it is not upstream, or there is none."""
        table = np.full(self.wiring.layers, np.nan)
        for node, effect in self._means():
            if node.is_mlp:
                table[node.layer] = effect
        return table

    def strongest(self, n: int = 8) -> list[tuple[str, float]]:
        """The senders of largest mean effect, each with it."""
        return sorted(((str(node), x) for node, x in self._means()), key=lambda own: -abs(own[1]))[
            :n
        ]

    def _means(self) -> Iterator[tuple[Node, float]]:
        return zip(self.wiring.writers, self.effects.mean(1).tolist(), strict=False)

    def __repr__(self) -> str:
        lines = [
            f"into {self.receiver}, {self.direction}, {self.metric} under {self.corruption}, "
            f"{self.effects.shape[1]} examples; the strongest senders:"
        ]
        lines += [f"{effect:+10.3f}  {name}" for name, effect in self.strongest()]
        return "\n".join(lines)


def patch_senders(
    model: Model,
    receiver: str,
    data: Data,
    metric: MetricLike | None = None,
    corruption: CorruptionLike | None = None,
    *,
    at: str | Sequence[str] = "all",
    direction: str = "noise",
    freeze_mlps: bool = True,
) -> Senders:
    """The effect of the path from each writer upstream to one receiver (Wang et al. 2023, figure
    3).

    Returns Senders: effects [senders, examples] in metric units, positive where the path helps. The
    receiver is a port (``a10.h7.q``), an MLP or the logits; from it on everything runs live. The
    settings are those of ``patch_path``. Raises ArgumentError where something else stands in the
    place of the receiver, and CircuitError where it is not a reader of this model.

    Example:
        >>> senders = ck.patch_senders(model, "logits", task)
        >>> senders.heads.shape == (model.wiring.layers, model.wiring.heads)
        True
    """
    require_model(model)
    if not isinstance(receiver, str):
        refuse("receiver", receiver, "a port such as 'a1.h0.q', an MLP, or 'logits'")
    wiring = model.wiring
    if receiver not in wiring.reader and Node(receiver) not in wiring.reader:
        raise CircuitError(
            f"{receiver!r} is not a reader of this model; give a port like "
            f"{str(wiring.readers[0])!r}, an MLP, or 'logits'"
        )
    node = Node(receiver)
    senders = wiring.writers[: int(wiring.upstream[wiring.reader[node]])]
    found = patch_paths(
        model, [[sender, node] for sender in senders], data, metric, corruption,
        at=at, direction=direction, freeze_mlps=freeze_mlps,
    )  # fmt: skip
    return Senders(wiring, str(node), found.values, found.metric, found.corruption, direction)


def _mask(wiring: Wiring, path: Sequence[str], mlps: bool) -> Mask:
    """The edges that a path keeps: those on which its sender is heard."""
    nodes = [Node(name) for name in path]
    if len(nodes) < 2 or nodes[0] not in wiring.writer:
        raise CircuitError(
            f"{ARROW.join(path)} is not a path of this model; begin with a writer and name a reader"
        )
    keep = np.zeros(wiring.shape, dtype=bool)
    writers: tuple[Node, ...] = (nodes[0],)
    for reader, following in zip(nodes[1:], [*nodes[2:], None], strict=True):
        if reader in wiring.writer and reader not in wiring.reader:  # it follows its own port
            continue
        if not writers:
            raise CircuitError(f"{ARROW.join(path)} goes on after the logits")
        row, column = wiring.index(writers[0], reader)
        keep[row, column] = True
        if mlps:
            keep |= _through_mlps(wiring, row, column)
        writers = _writes(wiring, reader, following)
    for writer in writers:
        keep |= _onward(wiring, wiring.writer[writer])
    return wiring.alive(keep, [wiring.writer[nodes[0]]])  # no other sender than its own


def _writes(wiring: Wiring, reader: Node, following: Node | None) -> tuple[Node, ...]:
    """The writers that a reader feeds: itself, its head, or of its group (of an MLP's experts) the
    one that is named next; at the end of a path, all."""
    fed = wiring.fed(reader)
    if following in fed:
        return (following,)
    if len(fed) < 2 or following is None:
        return fed
    raise CircuitError(f"{reader} feeds {', '.join(fed)}; name the one that the path takes")


def _through_mlps(wiring: Wiring, row: int, column: int) -> Mask:
    """The edges from the sender through MLPs to the receiver."""
    keep = np.zeros(wiring.shape, dtype=bool)
    rows = [row, *(i for i, w in enumerate(wiring.writers) if w.is_mlp and i > row)]
    columns = [column, *(i for i, r in enumerate(wiring.readers) if r.is_mlp)]
    keep[np.ix_(rows, columns)] = True
    keep &= wiring.legal
    return keep


def _onward(wiring: Wiring, row: int) -> Mask:
    """Every edge out of a writer and out of those behind it, of which some may not hear it."""
    keep = np.zeros(wiring.shape, dtype=bool)
    keep[row:] = wiring.legal[row:]
    return keep
