"""The model under masks over the edges between places.

A reader reads at each token by the weights of the token's span, and a head attends from each span
to keys and values that are mixed for it; ``circuitkit.engine.placed_dense`` says how.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jaxtyping import Float, Int
from torch import Tensor

from circuitkit.data.batches import Batch
from circuitkit.data.places import numbers
from circuitkit.engine.model import Activations, Context, Model
from circuitkit.engine.placed_dense import placed_residual
from circuitkit.errors import CircuitError
from circuitkit.graph.places import PlacedMask

__all__ = ["placed_runs"]


def placed_runs(
    model: Model,
    batch: Batch,
    context: Context,
    carried: Activations,
    keeps: Iterable[PlacedMask],
) -> Iterator[Float[Tensor, "b vocab"]]:
    """The logits at the answer positions under each of many masks, in their order."""
    known: dict[tuple[str, ...], Int[Tensor, "b p"]] = {}
    for keep in keeps:
        if keep.places.wiring != model.wiring:
            raise CircuitError(
                f"the mask is over places of a model of {keep.places.wiring}, and the model has "
                f"{model.wiring}; give a mask of this model"
            )
        spans = keep.places.spans
        if spans not in known:
            known[spans] = numbers(batch, spans)
        yield model.unembed(placed_residual(model, batch, context, carried, keep, known[spans]))
