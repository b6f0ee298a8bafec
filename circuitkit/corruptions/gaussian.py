"""Gaussian noise on the embeddings of chosen tokens."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.record import record

__all__ = ["noise"]


def noise(
    model: Model,
    data: Dataset,
    *,
    text: str | None = None,
    spans: Sequence[str] = (),
    multiple: float = 3.0,
    draws: int = 1,
    seed: int = 0,
) -> Callable[[Batch], list[Activations]]:
    """The run on the clean prompt with Gaussian noise on the embeddings of some tokens.

    Args:
        model: The model.
        data: The prompts, over which the standard deviation of the token embeddings is taken.
        text: The corrupted text, by name, that says which tokens get noise if no spans are named:
            those at which it differs from the clean text; by default the prompt's own. They are
            the tokens that ``counterfactual`` with the same settings replaces.
        spans: The spans whose tokens get noise, such as ``S2`` or ``subject``.
        multiple: The standard deviation of the noise, in standard deviations of the embeddings.
        draws: How many draws every value is averaged over.
        seed: The seed; the noise of an example depends on it, the draw and the tokens only.

    Raises:
        DataError: when used, for a text or a span that an example does not have.

    Source: Meng et al. 2022; Zhang & Nanda 2024, §2.

    Example:
        >>> carried = ck.corruptions.noise(model, data, spans=("S2",), draws=3)
        >>> len(carried(next(iter(data))))
        3
    """
    sigma = multiple * _spread(model, data)

    def carried(batch: Batch) -> list[Activations]:
        chosen = batch.differing(text, spans)
        context = model.start(batch.clean, batch.mask)
        runs = []
        for draw in range(draws):
            disturbed = context.embed + sigma * _normal(batch, context.embed, chosen, seed, draw)
            with torch.no_grad():
                runs.append(record(model, context, disturbed))
        return runs

    return carried


def _spread(model: Model, data: Dataset) -> float:
    """The standard deviation of the token embeddings over the data, all entries together."""
    seen = [model.embed_tokens(batch.clean)[batch.mask].double().flatten() for batch in data]
    return float(torch.cat(seen).std(correction=0))


def _normal(
    batch: Batch, like: Float[Tensor, "b p d"], chosen: Tensor, seed: int, draw: int
) -> Float[Tensor, "b p d"]:
    """Standard normal values at the chosen tokens, 0 elsewhere."""
    out = torch.zeros_like(like)
    for row, (tokens, mask, here) in enumerate(zip(batch.clean, batch.mask, chosen, strict=True)):
        key = repr((seed, draw, tokens[mask].tolist())).encode()
        generator = torch.Generator().manual_seed(zlib.crc32(key))
        values = torch.randn(int(here.sum()), like.shape[-1], generator=generator)
        out[row, here] = values.to(like)
    return out
