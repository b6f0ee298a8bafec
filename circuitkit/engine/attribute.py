"""The score of every edge, from one forward and one backward.

To first order, cutting the edge w → r changes the metric by −score[w, r], where

    score[w, r] = Σ_tokens (live[w] − carried[w]) · ∂metric / ∂input[r]

which is the gradient of the metric in the mask of ``circuitkit.engine.run``, at the full mask: edge
attribution patching (Syed et al. 2023). A head's gradient is pulled back through its projection and
its norm locally, and tokens are processed in blocks, so that neither writers × tokens × d_model nor
readers × tokens × d_model ever exists whole.
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
from circuitkit.engine.run import answer, record

__all__ = ["Gradients", "gradients", "score"]

BLOCK_BYTES = 12 * 2**20  # of one block's writers; larger gains little and costs memory

Value: TypeAlias = Callable[[Float[Tensor, "b vocab"]], Float[Tensor, " b"]]


@dataclass(frozen=True)
class Gradients:
    """The gradients of a metric at every reader of one run, before they are pulled back.

    ``ports[layer]`` maps q, k and v to the gradients in what the ports gave; ``mlps[layer]`` and
    ``logits`` (at the answer positions) are gradients in what was read. ``output`` are the logits
    of that run, and ``steepest`` is the metric's largest gradient in one of them.
    """

    ports: list[dict[str, Float[Tensor, "b p n e"]]]
    mlps: list[Float[Tensor, "b p d"]]
    logits: Float[Tensor, "b d"]
    activations: Activations
    output: Float[Tensor, "b vocab"]
    steepest: float


def gradients(
    model: Model, batch: Batch, context: Context, embed: Float[Tensor, "b p d"], metric: Value
) -> Gradients:
    """The gradients of the metric's sum over the batch, in a plain run from this embedding."""
    taps: dict[tuple[str, int], Tensor] = {}

    def tap(kind: str, layer: int, x: Tensor) -> Tensor:
        # a view has a gradient of its own: that of the paths through this reader alone
        taps[kind, layer] = x.view_as(x)
        return taps[kind, layer]

    layers = range(model.wiring.layers)
    with torch.enable_grad():
        activations = record(model, context, embed.detach().requires_grad_(), tap)
        output = answer(model, batch, activations.final)
        read = [*taps.values(), output]
        *found, slope = torch.autograd.grad(metric(output).sum(), read, allow_unused=True)
    grads = {
        key: torch.zeros_like(taps[key]) if grad is None else grad
        for key, grad in zip(taps, found, strict=True)
    }
    rows = torch.arange(len(batch), device=batch.last.device)
    return Gradients(
        ports=[{port: grads[port, layer] for port in "qkv"} for layer in layers],
        mlps=[grads["mlp", layer] for layer in layers] if model.wiring.mlp else [],
        logits=grads["logits", model.wiring.layers][rows, batch.last],
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
        for layer in range(model.wiring.layers):
            _score_layer(model, table, deltas, at, layer, block)
    length = batch.mask.shape[1]
    ends = torch.arange(len(batch), device=batch.last.device) * length + batch.last
    final = _deltas(model, live, carried, ends)
    table[:, -1] = final.flatten(1) @ wide(at.logits).flatten()
    return table


def _deltas(
    model: Model, live: Activations, carried: Activations, block: Int[Tensor, " t"]
) -> Float[Tensor, "w t d"]:
    """What each writer writes live, less what it carries, at these tokens."""
    wiring = model.wiring
    shape = len(wiring.writers), len(block), model.d_model
    out = wide(live.embed.new_empty(0)).new_empty(shape)
    out[0] = _at(live.embed, block) - _at(carried.embed, block)
    for layer in range(wiring.layers):
        first = wiring.first_head(layer)
        z = _at(live.heads[layer], block) - _at(carried.heads[layer], block)
        out[first : first + wiring.heads] = model.write(layer, None, z)
        if wiring.mlp:
            out[wiring.mlp_row(layer)] = _at(live.mlps[layer], block) - _at(
                carried.mlps[layer], block
            )
    return out


def _at(x: Float[Tensor, "b p *rest"], block: Int[Tensor, " t"]) -> Float[Tensor, "t *rest"]:
    return x.flatten(0, 1)[block]


def _score_layer(
    model: Model,
    table: Float[Tensor, "w r"],
    deltas: Float[Tensor, "w t d"],
    at: Gradients,
    layer: int,
    block: Int[Tensor, " t"],
) -> None:
    """Add the scores of the edges into one layer's readers: one matrix product."""
    wiring = model.wiring
    ports = wiring.ports(layer)
    columns = slice(ports["q"].start, ports["v"].stop)
    upstream = int(wiring.upstream[columns.start])
    grads = {port: _at(grad, block) for port, grad in at.ports[layer].items()}
    pulled = model.pull(layer, _at(at.activations.attn_in[layer], block), grads)
    table[:upstream, columns] += deltas[:upstream].flatten(1) @ pulled.flatten(1).T
    if wiring.mlp:
        column = wiring.mlp_column(layer)
        upstream = int(wiring.upstream[column])
        grad = wide(_at(at.mlps[layer], block))
        table[:upstream, column] += deltas[:upstream].flatten(1) @ grad.flatten()
