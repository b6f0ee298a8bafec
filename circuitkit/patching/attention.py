"""How much attention heads pay to named parts of the prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.engine.inputs import (
    CorruptionLike,
    Data,
    as_corruption,
    as_data,
    refuse,
    require_model,
)
from circuitkit.engine.model import Activations, Context, Model
from circuitkit.engine.record import record
from circuitkit.errors import CircuitError, DataError
from circuitkit.graph.nodes import Node
from circuitkit.util.progress import track

__all__ = ["attention_to"]


@torch.no_grad()
def attention_to(
    model: Model,
    heads: Sequence[str],
    data: Data,
    corruption: CorruptionLike | None = None,
    *,
    at: str | Sequence[str],
    query: str = "end",
) -> Float[np.ndarray, "heads spans examples"]:
    """The share of its attention that each head pays to named parts of the prompt.

    Returns an array [heads, spans, examples], from 0 to 1: what each head (``a9.h9``) pays from the
    last token of the span ``query`` to all tokens of each span in ``at`` together. In the clean
    run, or by the queries and keys of what the corruption carries (the mean over its draws). Raises
    CircuitError where a name is not a head of the model, and DataError without heads or spans and
    for a span that an example lacks.

    Example:
        >>> ck.attention_to(model, ["a0.h0"], task, at=["S2", "IO"]).shape == (1, 2, len(task))
        True
    """
    require_model(model)
    data = as_data(model, data)
    listed, spans = ([own] if isinstance(own, str) else own for own in (heads, at))
    if not isinstance(listed, list | tuple):
        refuse("heads", heads, "names such as ['a9.h9']")
    if not listed or not spans:
        raise DataError(f"heads={heads!r}, at={at!r}: give at least one of each")
    heads = [Node(name) for name in listed]
    for name in heads:
        if name not in model.wiring.writer or not Node(name).is_head:
            raise CircuitError(
                f"{str(name)!r} is not a head of {model.name!r}; give names like "
                f"{str(model.wiring.writers[1])!r}"
            )
    carry = None if corruption is None else as_corruption(corruption)(model, data)
    parts = []
    for batch in track(list(data), "attention"):
        context = model.start(batch.clean, batch.mask)
        runs = [record(model, context)] if carry is None else carry(batch)
        attention = _Attention(model, batch, context, spans, query)
        parts.append(np.mean([attention.paid(run, heads) for run in runs], axis=0))
    return np.concatenate(parts, axis=-1)


class _Attention:
    """A batch's spans as values: what a head gives of a token's membership in a span is the
    attention that it pays to that span."""

    def __init__(
        self, model: Model, batch: Batch, context: Context, spans: Sequence[str], query: str
    ) -> None:
        self.model, self.context = model, context
        self.rows = torch.arange(len(batch), device=batch.mask.device)
        self.last = batch.within(query).long().cumsum(1).argmax(1)
        self.marks = torch.stack([batch.within(span) for span in spans], dim=-1).to(model.dtype)

    def paid(self, run: Activations, heads: Sequence[str]) -> Float[np.ndarray, "heads spans b"]:
        """What each head pays to each span in a run."""
        nodes = [Node(name) for name in heads]
        layers = {layer: self._layer(layer, run) for layer in {node.layer or 0 for node in nodes}}
        found = torch.stack([layers[node.layer or 0][:, node.head] for node in nodes])
        return found.transpose(1, 2).double().cpu().numpy()

    def _layer(self, layer: int, run: Activations) -> Float[Tensor, "b h spans"]:
        """What every head of a layer pays, as many spans at once as a head has channels."""
        stage = self.model.wiring.attention(layer)
        q, k, v = self.model.project(layer, run.reads[stage.index])
        width, found = v.shape[-1], []
        for start in range(0, self.marks.shape[-1], width):
            marks = self.marks[..., start : start + width]
            padded = torch.nn.functional.pad(marks, (0, width - marks.shape[-1]))
            values = padded[:, :, None].expand(v.shape).contiguous()
            z = self.model.attend(self.context, layer, q, k, values)
            found.append(z[self.rows, self.last][..., : marks.shape[-1]])
        return torch.cat(found, dim=-1)
