"""What heads attend to in one prompt: every token to every token before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.tokens import view
from circuitkit.engine.model import Model
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import record
from circuitkit.errors import CircuitError, DataError
from circuitkit.graph.nodes import Node
from circuitkit.util.json_values import Json

__all__ = ["MOST_TOKENS", "patterns"]

MOST_TOKENS = 100


@torch.no_grad()
def patterns(model: Model, heads: Sequence[str], prompt: str) -> dict[str, Json]:
    """The attention of each head in a prompt, as pages take it.

    Returns the ``tokens`` of the prompt, and by the name of each of the ``heads`` its rows: from a
    token to each token of the prompt, shares from 0 to 1. Raises CircuitError for a head that the
    model does not have, and DataError where the prompt has no token or more than 100.

    Example:
        >>> from circuitkit.patching.patterns import patterns
        >>> found = patterns(model, ["a2.h2"], "When Mary and John")
        >>> len(found["heads"]["a2.h2"]) == len(found["tokens"])
        True
    """
    words = view(model)
    ids = words.ids([words.whole(prompt)])[0]
    if not 0 < len(ids) <= min(MOST_TOKENS, words.context or MOST_TOKENS):
        raise DataError(
            f"the prompt has {len(ids)} tokens; give one of 1 to "
            f"{min(MOST_TOKENS, words.context or MOST_TOKENS)}"
        )
    nodes = [Node(name) for name in heads]
    for node in nodes:
        if node not in model.wiring.writer or not node.is_head:
            raise CircuitError(f"{node!r} is not a head of {model.name!r}")
    tokens = torch.tensor([ids], device=model.device)
    context = model.start(tokens, torch.ones_like(tokens, dtype=torch.bool))
    reads = record(model, context).reads
    layers = {}
    for layer in sorted({node.layer or 0 for node in nodes}):
        q, k, v = model.project(layer, reads[model.wiring.attention(layer).index])
        parts = [model.attend(context, layer, q, k, marks) for marks in _marks(v)]
        layers[layer] = exact(torch.cat(parts, dim=-1)[0, :, :, : len(ids)])
    found = {
        str(node): [
            [round(x, 3) for x in row] for row in layers[node.layer or 0][:, node.head].tolist()
        ]
        for node in nodes
    }
    return {"tokens": words.pieces(ids), "heads": found}


def _marks(v: Float[Tensor, "1 p _g d"]) -> list[Float[Tensor, "1 p _g d"]]:
    """Values that say at which token they are, as many tokens at once as a head has channels: what
    a head gives of them is what it attends to."""
    length, width = v.shape[1], v.shape[-1]
    every = torch.eye(length, dtype=v.dtype, device=v.device)
    found = []
    for start in range(0, length, width):
        part = every[:, start : start + width]
        padded = torch.nn.functional.pad(part, (0, width - part.shape[-1]))
        found.append(padded[None, :, None].expand(v.shape).contiguous())
    return found
