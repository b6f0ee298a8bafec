"""Which edges a model needs, by brute force: every edge is cut alone, on every prompt.

The truth depends on what a cut edge carries, so there is one for each corruption. ``necessary``
edges change an output when they are cut. ``structural`` edges are those through which something is
written that is read. A structural edge that is not necessary carries the same in every prompt, or
is one of several that do the same: ``redundant_edges`` finds the latter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.metric import Corruption
from circuitkit.engine.model import Activations, Context
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import answer, record
from circuitkit.engine.run import runs
from circuitkit.engine.sweep import sweep
from circuitkit.errors import CircuitError
from circuitkit.graph.circuit import Circuit, build
from circuitkit.graph.nodes import Node
from circuitkit.graph.types import Mask
from circuitkit.graph.wiring import Wiring
from circuitkit.models.decoder import Decoder
from circuitkit.registry import name_of
from circuitkit.util.json_values import Json

__all__ = ["LABELS", "Truth", "redundant_edges", "structural_edges", "true_edges"]

LABELS = ("necessary", "structural")
TOLERANCE = 1e-3
ROUNDING = 1e-4  # of the lengths of what is written and what is read


@dataclass(frozen=True)
class Truth:
    """The true edges of a model under a corruption.

    Attributes:
        wiring: The model's graph.
        changes: For each edge, the largest change of any logit on any prompt when it alone is cut,
            [writers, readers], at least 0.
        structural: The edges through which something is written that is read, [writers, readers].
        tolerance: Edges with a larger change are ``necessary``.
        about: The model, the corruption and the number of examples.
        roles: What each component computes.

    Example:
        >>> program = ck.rasp.named("shift")
        >>> truth = ck.rasp.true_edges(ck.rasp.compile_program(program), program.data(8))
        >>> truth
        shift under counterfactual: of 8 edges 2 are necessary and 4 structural
        >>> int(truth.necessary.sum())
        2
    """

    wiring: Wiring
    changes: Float[np.ndarray, "writers readers"]
    structural: Mask
    tolerance: float
    about: dict[str, Json] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)

    @property
    def necessary(self) -> Mask:
        """The edges that change an output when they are cut."""
        found: np.ndarray = self.changes > self.tolerance
        return found

    def __repr__(self) -> str:
        return (
            f"{self.about.get('model')} under {self.about.get('corruption')}: of "
            f"{self.wiring.n_edges:,} edges {int(self.necessary.sum())} are necessary and "
            f"{int(self.structural.sum())} structural"
        )

    def circuit(self, label: str = "necessary") -> Circuit:
        """The ``necessary`` or the ``structural`` edges as a circuit, each with its change as
        ``weight`` and each node with its ``role``; raises CircuitError for another label."""
        if label not in LABELS:
            raise CircuitError(f"label={label!r} is not known; choose from {', '.join(LABELS)}")
        keep: Mask = getattr(self, label)
        w = self.wiring
        weights = {(w.writers[i], w.readers[j]): self.changes[i, j] for i, j in np.argwhere(keep)}
        circuit = build(w, weights, **self.about, label=label, tolerance=self.tolerance)
        for name in circuit.nodes & self.roles.keys():
            circuit.nodes[name]["role"] = self.roles[name]
        return circuit


@torch.no_grad()
def true_edges(
    model: Decoder,
    data: Dataset,
    corruption: Corruption = counterfactual,
    *,
    tolerance: float = TOLERANCE,
) -> Truth:
    """The edges that a compiled model needs under a corruption, by brute force.

    Each edge is cut alone, on every prompt, while all other edges stay.

    Args:
        model: A compiled program or a variant of one. Its logits are 0 or 1 (or the number).
        data: The prompts. The result holds for these prompts, so give all, or many.
        corruption: What a cut edge carries.
        tolerance: The change of a logit above which an edge is necessary.

    Returns:
        A ``Truth``, in units of logits; its structural edges are read off the weights.

    Example:
        >>> program = ck.rasp.named("shift")
        >>> ck.rasp.true_edges(ck.rasp.compile_program(program), program.data(8))
        shift under counterfactual: of 8 edges 2 are necessary and 4 structural
    """
    wiring = model.wiring
    changes = np.zeros(wiring.shape)
    for batch, context, live, draws in _cases(model, data, corruption):
        change = _Change(answer(model, batch, live.final))
        for carried in draws:
            swept = sweep(model, batch, context, live, carried, change, wiring.legal)
            for edges, values in swept:
                places = tuple(np.array(edges).T)
                found = exact(values.amax(-1)).cpu().numpy()
                changes[places] = np.maximum(changes[places], found)
    about = {
        "model": model.name, "corruption": name_of(corruption), "method": "true_edges",
        "examples": len(data),
    }  # fmt: skip
    return Truth(wiring, changes, structural_edges(model), tolerance, about, dict(model.roles))


def structural_edges(model: Decoder) -> Mask:
    """The edges through which something is written that is read and that reaches the logits.

    They are found from the weights alone, channel by channel, so that a rotation changes nothing.
    Returns a mask, [writers, readers].

    Example:
        >>> model = ck.rasp.compile_program(ck.rasp.named("shift"))
        >>> int(ck.rasp.structural_edges(model).sum()), model.wiring.n_edges
        (4, 8)
    """
    wiring = model.wiring
    found = np.zeros(wiring.shape, dtype=bool)
    reads: dict[int, Tensor] = {wiring.shape[1] - 1: model.unembedding}
    for row in reversed(range(len(wiring.writers))):
        write, legal = _writes(model, row), wiring.legal[row]
        heard = {c: _meets(write, read) for c, read in reads.items() if legal[c]}
        found[row, list(heard)] = [bool(channels.any()) for channels in heard.values()]
        live = torch.stack(list(heard.values())).any(0)
        if row and bool(live.any()):
            reads |= _readings(model, row, live)
    return wiring.alive(found)


def _meets(write: Float[Tensor, "n d"], read: Float[Tensor, "d m"]) -> Bool[Tensor, " n"]:
    """Which of the written vectors are read, up to rounding."""
    here = write.device
    write, read = exact(write), exact(read)
    sizes = write.norm(dim=1, keepdim=True) * read.norm(dim=0, keepdim=True)
    found: Tensor = ((write @ read).abs() > ROUNDING * sizes).any(1)
    return found.to(here)


def _writes(model: Decoder, row: int) -> Float[Tensor, "n d"]:
    """The vectors that a writer adds up: those of words and positions, channels or neurons."""
    if row == 0:
        return torch.cat([model.embedding, model.positions])
    node = Node(model.wiring.writers[row])
    layer = node.layer or 0
    return model.w_out[layer] if node.is_mlp else model.o[layer, node.head or 0]


def _readings(
    model: Decoder, row: int, live: Bool[Tensor, " n"]
) -> dict[int, Float[Tensor, "d m"]]:
    """What the inputs of a writer read for its channels or neurons that are read later."""
    node, columns = Node(model.wiring.writers[row]), model.wiring.feeds(row)
    layer, head = node.layer or 0, node.head or 0
    if node.is_mlp:
        return {columns[0]: model.w_in[layer][:, live]}
    q, k, v = (weights[layer, head] for weights in (model.q, model.k, model.v))
    found: dict[int, Tensor] = dict(zip(columns, (q, k, v[:, live]), strict=True))
    return found


@torch.no_grad()
def redundant_edges(
    model: Decoder, data: Dataset, truth: Truth, corruption: Corruption = counterfactual
) -> Mask:
    """The edges that are needed only when another writer is cut off: members of an OR, and backups.

    These are the structural edges that are not necessary, but change an output when all edges of
    one other writer are cut already. It takes a run for each such edge and writer.

    Args:
        model: A compiled program or a variant of one.
        data: The prompts.
        truth: What ``true_edges`` gave for the same corruption.
        corruption: What a cut edge carries.

    Returns:
        A mask, [writers, readers].

    Example:
        >>> program, zero = ck.rasp.named("backup"), ck.corruptions.zero
        >>> model, data = ck.rasp.compile_program(program), program.data(8)
        >>> truth = ck.rasp.true_edges(model, data, zero)
        >>> int(ck.rasp.redundant_edges(model, data, truth, zero).sum())
        6
    """
    wiring = model.wiring
    asked = np.argwhere(truth.structural & ~truth.necessary)
    found = np.zeros(wiring.shape, dtype=bool)
    others = [row for row in range(1, len(wiring.writers)) if truth.structural[row].any()]
    for batch, context, _, draws in _cases(model, data, corruption):
        for carried in draws:
            for row in others:
                masks = list(_without(wiring, row, asked))
                plain, *cut = runs(model, batch, context, carried, masks)
                for (i, j), logits in zip(asked, cut, strict=True):
                    found[i, j] |= float((logits - plain).abs().max()) > truth.tolerance
    return found


def _without(wiring: Wiring, row: int, edges: np.ndarray) -> Iterator[Mask]:
    """All edges except those of a writer; then the same without each of these edges."""
    keep = wiring.legal.copy()
    keep[row] = False
    yield keep
    for edge in edges:
        cut = keep.copy()
        cut[tuple(edge)] = False
        yield cut


@dataclass(frozen=True)
class _Change:
    """The largest change of any logit, as a metric."""

    plain: Float[Tensor, "b vocab"]

    def __call__(self, logits: Float[Tensor, "b vocab"]) -> Float[Tensor, " b"]:
        return (logits - self.plain).abs().amax(-1)


def _cases(
    model: Decoder, data: Dataset, corruption: Corruption
) -> Iterator[tuple[Batch, Context, Activations, list[Activations]]]:
    """Each batch with its clean run, and what the corruption carries there."""
    carry = corruption(model, data)
    for batch in data:
        context = model.start(batch.clean, batch.mask)
        yield batch, context, record(model, context), carry(batch)
