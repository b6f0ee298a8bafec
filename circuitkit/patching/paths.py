"""Path patching: what a change of one component does along given paths alone.

In the language of ``circuitkit.engine.run``: what the sender writes in the other run is
precomputed, the edges of the paths are kept, and all else is held at the base run (Wang et al.
2023; Goldowsky-Dill et al. 2023). A path that ends at a component rather than at the logits flows
on from there through everything downstream, as in Wang et al.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.dealing import Block, by_batch, joined
from circuitkit.engine.devices import moved
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
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import answer, difference, record
from circuitkit.engine.run import runs
from circuitkit.errors import CircuitError
from circuitkit.graph.nodes import INPUT, Node
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.patching.effects import Effects
from circuitkit.patching.pictures import Pictured, unit_of
from circuitkit.patching.sites import spans_named
from circuitkit.registry import name_of
from circuitkit.util.options import DIRECTIONS, require
from circuitkit.util.tables import to_frame
from circuitkit.viz.figures import Heatmap, Panels

if TYPE_CHECKING:
    import pandas

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
    """The effect of one path on every example (path patching).

    Every component beside the path is held at the base run. From the end of a path that does not
    end at the logits, the change flows through everything downstream.

    Args:
        model: The model.
        path: A chain of nodes from a writer on: ``["a9.h9", "a10.h7.q", "logits"]`` or
            ``"9.9 -> 10.7.q -> logits"``. A port's own head may follow it, or be left out.
        data: A Dataset, a Task, a task's name or a file.
        metric: A function or a name; None for the task's own.
        corruption: A function or a name; None for ``counterfactual``.
        at: ``all``, or the span or spans at which alone the sender is changed (``"S2"``).
        direction: ``noise``: what the metric loses when the path carries the corruption in a clean
            run; ``denoise``: what it gains when it carries the clean value in the corrupted run.
        freeze_mlps: Whether the MLPs between sender and receiver are held too; False lets them
            answer, as in Wang et al. (2023).

    Returns:
        Effects without axes: values [examples] in metric units, positive where the path helps,
        averaged over the corruption's draws.

    Raises:
        ArgumentError: if the path is something else.
        CircuitError: if the model has no such path.
        DataError: for a span that an example lacks.

    Source: Wang et al. 2023 (arXiv:2211.00593), §3.1; Goldowsky-Dill et al. 2023
    (arXiv:2304.05969).

    Example:
        >>> effect = ck.patch_path(model, ["2.2", "3.0.q", "logits"], task)
        >>> effect.nodes, effect.direction, effect.shape == (len(task),)
        ('a2.h2 -> a3.h0.q -> logits', 'noise', True)
    """
    require_model(model)
    if not _is_path(path):
        refuse("path", path, "a chain of nodes such as ['a9.h9', 'a10.h7.q', 'logits']")
    found = patch_paths(
        model, [path], data, metric, corruption,
        at=at, direction=direction, freeze_mlps=freeze_mlps,
    )  # fmt: skip
    return replace(found, values=found.values[0], axes={}, nodes=found.names[0])


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

    ``paths`` are chains of nodes, as ``patch_path`` takes them; so are the other arguments.

    Returns:
        Effects with the axis ``path``: values [paths, examples] in metric units, positive where the
        path helps.

    Raises:
        ArgumentError: if the paths are something else.
        CircuitError: if there are no paths, or the model lacks one.
        DataError: for a span that an example lacks.

    Source: as ``patch_path``.

    Example:
        >>> found = ck.patch_paths(model, [["m0", "logits"], ["input", "m0", "logits"]], task)
        >>> found.names, found.shape == (2, len(task))
        (('m0 -> logits', 'input -> m0 -> logits'), True)
    """
    require_model(model)
    if not isinstance(paths, list | tuple) or not all(map(_is_path, paths)):
        refuse("paths", paths, "a list of paths such as [['a9.h9', 'a10.h7.q', 'logits']]")
    if not paths:
        raise CircuitError("there are no paths to patch; give at least one")
    require("direction", direction, DIRECTIONS)
    chains = [_chain(path) for path in paths]
    inputs = prepare(model, data, metric, corruption)
    work = _Paths(inputs, chains, at, direction == "noise", not freeze_mlps)
    carry = inputs.corruption(model, inputs.data)

    def block(batch: Batch, first: int) -> Block:
        values, gaps = work.effects(batch, carry(batch))
        return {"values": values, "gaps": gaps}

    found = joined(by_batch(inputs.data, "paths", block))
    values, gaps = found["values"], found["gaps"]
    names = tuple(map(ARROW.join, chains))
    return Effects(
        values, {"path": names}, gaps, "paths", name_of(inputs.metric),
        name_of(inputs.corruption), direction,
    )  # fmt: skip


class _Paths:
    """Paths of one model: the mask that each keeps, and the row of its sender."""

    def __init__(
        self,
        inputs: Inputs,
        paths: Sequence[Sequence[Node]],
        at: str | Sequence[str],
        noise: bool,
        mlps: bool,
    ) -> None:
        self.model, self.metric, self.noise = inputs.model, inputs.metric, noise
        wiring = self.model.wiring
        spans = spans_named(inputs.data, at)
        self.spans = () if "all" in spans else spans
        self.masks = [_mask(wiring, path, mlps) for path in paths]
        self.senders = [wiring.writer[path[0]] for path in paths]

    def effects(
        self, batch: Batch, draws: Sequence[Activations]
    ) -> tuple[Float[np.ndarray, "paths examples"], Float[np.ndarray, " examples"]]:
        """The effects on one batch and the metric's gap, in the mean over the draws."""
        context = self.model.start(batch.clean, batch.mask)
        live = record(self.model, context)
        reference = answer(self.model, batch, live.final)
        effects = torch.zeros(len(self.masks), batch.examples, dtype=torch.float64)
        gap = torch.zeros(batch.examples, dtype=torch.float64)

        def value(logits: Float[Tensor, "b vocab"]) -> Float[Tensor, " examples"]:
            return exact(check_metric(self.metric, logits, reference, batch)).cpu()

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
                    change = value(logits) - start
                    effects[first + i] += -change if self.noise else change
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
        return {row: change * moved(within, change.device) for row, change in changes.items()}


def _is_path(path: object) -> bool:
    """Whether this is a chain of names, in a list or with arrows."""
    if isinstance(path, str):
        return ARROW.strip() in path
    return isinstance(path, list | tuple) and all(isinstance(node, str) for node in path)


def _chain(path: Sequence[str]) -> list[Node]:
    """The nodes of a path."""
    if not isinstance(path, str):
        return [Node(name) for name in path]
    names = (name.strip() for name in path.split(ARROW.strip()))
    return [Node(re.sub("<([qkv])>$", r".\1", name)) for name in names]


@dataclass(frozen=True, repr=False)
class Senders(Pictured):
    """The effect of every sender on one receiver, on every example: the heat map of Wang et al.

    ``effects`` are [senders, examples] in metric units and positive where the path helps; their
    rows are the writers upstream of the receiver, in the wiring's order. ``gap`` is the metric of
    the clean run less that of the corrupted one, [examples]. ``senders["a9.h9"]`` (or ``"9.9"``)
    are the effects of one on every example.

    Source: Wang et al. 2023 (arXiv:2211.00593), §3, figure 3.

    Example:
        >>> senders = ck.patch_senders(model, "logits", data)
        >>> senders.effects.shape == (len(model.wiring.writers), len(data))
        True
        >>> print(senders)
        into logits, noise, logit_diff under counterfactual, 16 examples
    """

    wiring: Wiring
    receiver: str
    effects: Float[np.ndarray, "senders examples"]
    gap: Float[np.ndarray, " examples"]
    metric: str
    corruption: str
    direction: str

    @property
    def names(self) -> tuple[str, ...]:
        """The senders, in the order of the effects."""
        return tuple(str(node) for node in self.wiring.writers[: len(self.effects)])

    def __len__(self) -> int:
        """The number of senders."""
        return len(self.effects)

    def __getitem__(self, name: str) -> Float[np.ndarray, " examples"]:
        """The effects of one sender on every example; raises DataError where it is not one."""
        return self._table[name]

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
        """The mean effect of each MLP; nan where it is not upstream, where there is none, or where
        it is taken apart into experts (see ``to_frame``)."""
        table = np.full(self.wiring.layers, np.nan)
        for node, effect in self._means():
            if node.is_mlp and node.part is None:
                table[node.layer] = effect
        return table

    def strongest(self, n: int = 8) -> list[tuple[str, float]]:
        """The senders of largest mean effect, of either sign, each with it.

        Example:
            >>> ck.patch_senders(model, "logits", data).strongest(1)[0][0]
            'a2.h2'
        """
        return self._table.strongest(n)

    def to_frame(self) -> pandas.DataFrame:
        """A pandas table with a row for each sender, in the order of the effects.

        Columns: ``name``; ``layer`` and ``head``, missing where a sender has none; ``effect``, the
        mean in metric units, positive where the path helps; ``error``, its standard error;
        ``share``, the mean over the mean gap, nan where there is no gap.

        Example:
            >>> frame = ck.patch_senders(model, "a2.h2.q", data).to_frame()
            >>> list(frame)
            ['name', 'layer', 'head', 'effect', 'error', 'share']
        """
        nodes = self.wiring.writers[: len(self)]
        rows = zip(nodes, self._table.rows(), strict=True)
        frame = to_frame(
            {"name": row.pop("name"), "layer": node.layer, "head": node.head, **row}
            for node, row in rows
        )
        return frame.astype({"layer": "Int64", "head": "Int64"})

    def plot(self, *, share: bool = False) -> Panels:
        """The mean effects as a figure, which a notebook shows in the place of the result: a heat
        map of layers by heads, and the MLPs (or their experts) of each layer beside it.

        Args:
            share: Whether to draw the share of the gap rather than the effect in metric units.

        Returns:
            Panels of ``circuitkit.figures``; grey cells are not upstream of the receiver.

        Example:
            >>> ck.patch_senders(model, "logits", data).plot()
            Panels(2 figures, 'Paths into logits, noised under counterfactual (from input: +0.000)')
        """
        values = self._table.share if share else self._table.mean
        means = dict(zip(self.wiring.writers, values.tolist(), strict=False))
        heads = np.full((self.wiring.layers, self.wiring.heads), np.nan)
        parts = sorted({n.part or "" for n in means if n.is_mlp}, key=lambda p: (len(p), p))
        mlps = np.full((self.wiring.layers, len(parts)), np.nan)
        for node, effect in means.items():
            if node.is_head:
                heads[node.layer, node.head] = effect
            elif node.is_mlp:
                mlps[node.layer, parts.index(node.part or "")] = effect
        unit = unit_of(self.metric, share)
        panels = [Heatmap(heads, row_name="layer", column_name="head", title="heads", unit=unit)]
        if parts:
            plain = parts == [""]
            panels.append(Heatmap(mlps, None, ["MLP"] if plain else parts, title="MLPs", unit=unit))
        first = f" (from {INPUT}: {means[INPUT]:+.3f})" if INPUT in means else ""
        title = f"Paths into {self.receiver}, {self.direction}d under {self.corruption}{first}"
        return Panels(panels, 2, title)

    @property
    def _table(self) -> Effects:
        """The same as Effects with the axis ``sender``."""
        return Effects(
            self.effects, {"sender": self.names}, self.gap, f"into {self.receiver}", self.metric,
            self.corruption, self.direction,
        )  # fmt: skip

    def _means(self) -> Iterator[tuple[Node, float]]:
        return zip(self.wiring.writers, self.effects.mean(1).tolist(), strict=False)

    def __str__(self) -> str:
        return (
            f"into {self.receiver}, {self.direction}, {self.metric} under {self.corruption}, "
            f"{self.effects.shape[1]} examples"
        )

    def __repr__(self) -> str:
        error = dict(zip(self.names, self._table.standard_error.tolist(), strict=True))
        lines = [f"{self}; the strongest senders, ± standard error:"]
        lines += [f"{x:+10.3f}  ± {error[name]:.3f}  {name}" for name, x in self.strongest()]
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
    """The effect of the path from each writer upstream to one receiver.

    Everything downstream of the receiver runs live.

    Args:
        model: The model.
        receiver: A port (``a10.h7.q`` or ``10.7.q``), an MLP or ``logits``.
        data: A Dataset, a Task, a task's name or a file.
        metric: A function or a name; None for the task's own.
        corruption: A function or a name; None for ``counterfactual``.
        at: As in ``patch_path``.
        direction: As in ``patch_path``.
        freeze_mlps: As in ``patch_path``.

    Returns:
        Senders with effects [senders, examples] in metric units, positive where the path helps.

    Raises:
        ArgumentError: if the receiver is something else.
        CircuitError: if the receiver is not a reader of this model.
        DataError: for a span that an example lacks.

    Source: Wang et al. 2023 (arXiv:2211.00593), §3.1, figure 3.

    Example:
        >>> senders = ck.patch_senders(model, "logits", task)
        >>> senders.heads.shape == (model.wiring.layers, model.wiring.heads)
        True
        >>> senders.strongest(1)[0][0]
        'a2.h2'
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
    column = wiring.reader[node]
    senders = wiring.writers[int(wiring.since[column]) : int(wiring.upstream[column])]
    found = patch_paths(
        model, [[sender, node] for sender in senders], data, metric, corruption,
        at=at, direction=direction, freeze_mlps=freeze_mlps,
    )  # fmt: skip
    return Senders(
        wiring, str(node), found.values, found.gap, found.metric, found.corruption, direction
    )


def _mask(wiring: Wiring, nodes: Sequence[Node], mlps: bool) -> Mask:
    """The edges that a path keeps: those on which its sender is heard."""
    if len(nodes) < 2 or nodes[0] not in wiring.writer:
        raise CircuitError(
            f"{ARROW.join(nodes) or 'an empty list'} is not a path of this model; begin with a "
            "writer and name a reader"
        )
    keep = np.zeros(wiring.shape, dtype=bool)
    writers: tuple[Node, ...] = (nodes[0],)
    for reader, following in zip(nodes[1:], [*nodes[2:], None], strict=True):
        if reader in wiring.writer and reader not in wiring.reader:  # it follows its own port
            continue
        if not writers:
            raise CircuitError(f"{ARROW.join(nodes)} continues after the logits, where a path ends")
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
