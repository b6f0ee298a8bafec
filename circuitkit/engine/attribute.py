"""The score of every edge, from one forward and one backward.

To first order, cutting the edge w → r changes the metric by −score[w, r], where

    score[w, r] = Σ_tokens (live[w] − carried[w]) · ∂metric / ∂input[r]

which is the gradient of the metric in the mask of ``circuitkit.engine.run``, at the full mask: edge
attribution patching (Syed et al. 2023). A head's gradient is pulled back through its projection and
its norm locally, and tokens are processed in blocks, so neither writers × tokens × d_model nor
readers × tokens × d_model is ever held in full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.model import Activations, Context, Model
from circuitkit.engine.numerics import wide
from circuitkit.engine.record import answer, record
from circuitkit.graph.stages import Stage

__all__ = ["BLOCK_BYTES", "Gradients", "at_tokens", "gradients", "score"]

BLOCK_BYTES = 12 * 2**20  # of one block's writers; larger blocks are hardly faster and need memory

Value: TypeAlias = Callable[[Float[Tensor, "b vocab"]], Float[Tensor, " b"]]


@dataclass(frozen=True)
class Gradients:
    """The gradients of a metric at every reader of one run, before they are pulled back.

    ``ports`` holds, stage by stage, the gradients in what the ports gave; ``logits`` (at the answer
    positions) is the gradient in what the logits read. ``output`` are the logits of that run, and
    ``steepest`` is the metric's largest gradient in one of them.
    """

    ports: list[list[Float[Tensor, "b p _ports _width"]]]
    logits: Float[Tensor, "b d"]
    activations: Activations
    output: Float[Tensor, "b vocab"]
    steepest: float

    def pulled(
        self, model: Model, stage: Stage, block: Int[Tensor, " t"]
    ) -> Float[Tensor, "r t d"]:
        """The gradient in the residual that each reader of a stage reads, at these tokens."""
        read = at_tokens(self.activations.reads[stage.index], block)
        grads = [at_tokens(grad, block) for grad in self.ports[stage.index]]
        return wide(model.kinds[stage.kind].pull(model, stage, read, grads))


def gradients(
    model: Model, batch: Batch, context: Context, embed: Float[Tensor, "b p d"], metric: Value
) -> Gradients:
    """The gradients of the metric's sum over the batch, in a plain run from this embedding."""
    taps: dict[tuple[int, int], Tensor] = {}

    def tap(stage: int, port: int, x: Tensor) -> Tensor:
        # a view has a gradient of its own: that of the paths through this reader alone
        taps[stage, port] = x.view_as(x)
        return taps[stage, port]

    with torch.enable_grad():
        activations = record(model, context, embed.detach().requires_grad_(), tap)
        output = answer(model, batch, activations.final)
        read = [*taps.values(), output]
        *found, slope = torch.autograd.grad(metric(output).sum(), read, allow_unused=True)
    ports: list[list[Tensor]] = [[] for _ in range(len(model.wiring.stages) + 1)]
    for (stage, _), grad in zip(taps, found, strict=True):
        ports[stage].append(grad)
    for (stage, port), x in taps.items():
        if ports[stage][port] is None:
            ports[stage][port] = torch.zeros_like(x)
    rows = torch.arange(len(batch), device=batch.last.device)
    return Gradients(
        ports=ports[:-1],
        logits=ports[-1][0][rows, batch.last],
        activations=activations,
        output=output.detach(),
        steepest=0.0 if slope is None else float(slope.abs().max()),
    )


@torch.no_grad()
def score(
    model: Model, batch: Batch, live: Activations, carried: Activations, at: Gradients
) -> Float[Tensor, "writers readers"]:
    """The score of every edge, summed over the batch, in float32 at least; 0 where there is
    no edge.

    ``live − carried`` is what cutting changes, ``at`` the gradients: of the run where they are
    taken, which need not be the live one (EAP-IG).
    """
    table = wide(live.embed.new_zeros(model.wiring.shape))
    # before the first token that differs every difference is zero
    differ = batch.mask & ~carried.untouched([live.embed - carried.embed])
    tokens = differ.flatten().nonzero().squeeze(1)
    if not len(tokens):
        return table
    width = len(model.wiring.writers) * model.d_model * 4
    for block in torch.split(tokens, max(1, BLOCK_BYTES // width)):
        deltas = _deltas(model, live, carried, block)
        for stage in model.wiring.stages:
            _score_stage(model, table, deltas, at, stage, block)
    length = batch.mask.shape[1]
    ends = torch.arange(len(batch), device=batch.last.device) * length + batch.last
    final = _deltas(model, live, carried, ends)
    table[:, -1] = final.flatten(1) @ wide(at.logits).flatten()
    return table


def _deltas(
    model: Model, live: Activations, carried: Activations, block: Int[Tensor, " t"]
) -> Float[Tensor, "w t d"]:
    """What each writer writes live, less what it carries, at these tokens."""
    shape = len(model.wiring.writers), len(block), model.d_model
    out = wide(live.embed.new_empty(0)).new_empty(shape)
    out[0] = at_tokens(live.embed, block) - at_tokens(carried.embed, block)
    for stage in model.wiring.stages:
        own, other = (at_tokens(run.shares[stage.index], block) for run in (live, carried))
        out[stage.rows] = model.kinds[stage.kind].write(model, stage, None, own - other)
    return out


def at_tokens(x: Float[Tensor, "b p *rest"], block: Int[Tensor, " t"]) -> Float[Tensor, " t *rest"]:
    """These tokens of a batch, counted through its examples."""
    return x.flatten(0, 1)[block]


def _score_stage(
    model: Model,
    table: Float[Tensor, "w r"],
    deltas: Float[Tensor, "w t d"],
    at: Gradients,
    stage: Stage,
    block: Int[Tensor, " t"],
) -> None:
    """Add the scores of the edges into one stage's readers: one matrix product."""
    pulled = at.pulled(model, stage, block)
    table[: stage.upstream, stage.columns] += (
        deltas[: stage.upstream].flatten(1) @ pulled.flatten(1).T
    )
