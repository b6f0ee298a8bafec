"""Path patching: what a change of one component does along given paths alone.

In the language of ``circuitkit.engine.run``: what the sender writes in the other run is
precomputed, the edges of the paths are kept, and all else is held at the base run (Wang et al.
2023; Goldowsky-Dill et al. 2023). A path that ends at a component rather than at the logits flows
on from there through everything downstream, as in Wang et al.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.engine.metric import Corruption, Metric, check_metric
from circuitkit.engine.model import Model
from circuitkit.engine.record import answer, difference, record
from circuitkit.engine.run import runs
from circuitkit.errors import CircuitError
from circuitkit.graph.nodes import Node
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.util.options import DIRECTIONS, require

__all__ = ["Senders", "patch_path", "patch_paths", "patch_senders"]

TOGETHER = 32  # paths whose senders' changes are held at once


def patch_path(
    model: Model,
    data: Dataset,
    metric: Metric,
    path: Sequence[str],
    corruption: Corruption = counterfactual,
    *,
    direction: str = "noise",
    beside: str = "held",
    tokens: str | None = None,
) -> Float[np.ndarray, " examples"]:
    """The effect of one path on every example, in metric units; positive where the path helps.

    ``path`` is a chain of nodes from a writer on: ``["a9.h9", "a10.h7.q", "a10.h7", "logits"]``
    (a port's own head may be left out). ``noise``: what the metric loses when the path carries the
    corruption in a clean run; ``denoise``: what it gains when it carries the clean value in the
    corrupted run. ``beside="held"`` holds every component beside the path; ``beside="mlps"`` lets
    the MLPs between sender and receiver answer, as in Wang et al. ``tokens`` names the span
    (``S2``, ``end``) at which alone the sender is changed. Raises CircuitError where the path is
    none of this model, and DataError for a span that an example lacks.
    """
    effects = patch_paths(
        model, data, metric, [path], corruption,
        direction=direction, beside=beside, tokens=tokens,
    )  # fmt: skip
    return np.asarray(effects[0])


@torch.no_grad()
def patch_paths(
    model: Model,
    data: Dataset,
    metric: Metric,
    paths: Sequence[Sequence[str]],
    corruption: Corruption = counterfactual,
    *,
    direction: str = "noise",
    beside: str = "held",
    tokens: str | None = None,
) -> Float[np.ndarray, "paths examples"]:
    """The effects of many paths, each alone; they share the two plain runs. See ``patch_path``."""
    require("direction", direction, DIRECTIONS)
    require("beside", beside, ("held", "mlps"))
    masks = [_mask(model.wiring, path, beside == "mlps") for path in paths]
    senders = [model.wiring.writer[path[0]] for path in paths]
    carry = corruption(model, data)
    columns = []
    for batch in data:
        context = model.start(batch.clean, batch.mask)
        live = record(model, context)
        reference = answer(model, batch, live.final)
        effects = torch.zeros(len(paths), len(batch), dtype=torch.float64)
        draws = carry(batch)
        for carried in draws:
            base, other = (live, carried) if direction == "noise" else (carried, live)
            start = check_metric(metric, answer(model, batch, base.final), reference, batch)
            for first in range(0, len(paths), TOGETHER):
                some = slice(first, first + TOGETHER)
                changes = {row: difference(model, other, base, row) for row in {*senders[some]}}
                if tokens is not None:
                    within = batch.within(tokens)[..., None]
                    changes = {row: change * within for row, change in changes.items()}
                held = context.holding(base)
                for i, logits in enumerate(runs(model, batch, held, base, masks[some], changes)):
                    moved = check_metric(metric, logits, reference, batch) - start
                    effects[first + i] += (-moved if direction == "noise" else moved).double().cpu()
        columns.append((effects / len(draws)).numpy())
    return np.concatenate(columns, axis=1)


@dataclass(frozen=True)
class Senders:
    """The effect of every sender on one receiver, on every example: the heatmap of Wang et al.

    ``effects`` are in metric units and positive where the path helps; their rows are the writers
    upstream of the receiver, in the wiring's order.
    """

    wiring: Wiring
    receiver: str
    effects: Float[np.ndarray, "senders examples"]

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
        lines = [f"into {self.receiver}, {self.effects.shape[1]} examples; the strongest senders:"]
        lines += [f"{effect:+10.3f}  {name}" for name, effect in self.strongest()]
        return "\n".join(lines)


def patch_senders(
    model: Model,
    data: Dataset,
    metric: Metric,
    receiver: str,
    corruption: Corruption = counterfactual,
    *,
    direction: str = "noise",
    beside: str = "held",
    tokens: str | None = None,
) -> Senders:
    """The effect of the path from each writer upstream to one receiver: a port (``a10.h7.q``), an
    MLP or the logits (Wang et al. 2023, figure 3).

    From the receiver on everything runs live; the settings are those of ``patch_path``. Raises
    CircuitError where the receiver is no reader of this model.
    """
    wiring = model.wiring
    if receiver not in wiring.reader:
        raise CircuitError(
            f"{receiver!r} is no reader of this model; give a port like {wiring.readers[0]!r}, an "
            "MLP, or 'logits'"
        )
    senders = wiring.writers[: int(wiring.upstream[wiring.reader[Node(receiver)]])]
    effects = patch_paths(
        model, data, metric, [[sender, receiver] for sender in senders], corruption,
        direction=direction, beside=beside, tokens=tokens,
    )  # fmt: skip
    return Senders(wiring, receiver, effects)


def _mask(wiring: Wiring, path: Sequence[str], mlps: bool) -> Mask:
    """The edges that a path keeps: those on which its sender is heard."""
    nodes = [Node(name) for name in path]
    if len(nodes) < 2 or nodes[0] not in wiring.writer:
        raise CircuitError(
            f"{' -> '.join(path)} is no path of this model; begin with a writer and name a reader"
        )
    keep = np.zeros(wiring.shape, dtype=bool)
    writers: tuple[Node, ...] = (nodes[0],)
    for reader, following in zip(nodes[1:], [*nodes[2:], None], strict=True):
        if reader in wiring.writer and reader not in wiring.reader:  # it follows its own port
            continue
        if not writers:
            raise CircuitError(f"{' -> '.join(path)} goes on after the logits")
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
