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
    """The run on the clean prompt with Gaussian noise on some tokens' embeddings.

    The standard deviation is ``multiple`` times that of the token embeddings over the data (3:
    Meng et al. 2022; Zhang & Nanda 2024, §2). ``spans`` names the tokens (``S2``, ``subject``);
    without any, those at which the clean and the corrupted prompt differ, or another corrupted text
    of the prompt, ``text``: those that ``counterfactual`` of the same settings replaces. The noise
    of an example depends on the seed, the draw and its tokens only. Raises DataError for a text or
    a span that an example lacks.
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
