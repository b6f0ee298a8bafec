"""Gaussian noise on the embeddings of chosen tokens."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from circuitkit.data.batches import Batch, Dataset
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.numerics import exact
from circuitkit.engine.record import record
from circuitkit.util.options import Bounds, Seed, checked

__all__ = ["noise"]


@checked
def noise(
    model: Model,
    data: Dataset,
    *,
    text: str | None = None,
    at: str | Sequence[str] = (),
    multiple: Annotated[float, Bounds(0, 1_000, above=True)] = 3.0,
    draws: Annotated[int, Bounds(1, 1_000)] = 1,
    seed: Seed = 0,
) -> Callable[[Batch], list[Activations]]:
    """Gaussian noise: a cut edge carries what its writer writes under noise on some embeddings.

    The standard deviation is ``multiple`` times that of the token embeddings over the data, all
    entries together. ``at`` names the tokens (a span, as ``S2``, several of them, or ``all``);
    without it, the tokens at which the clean and the corrupted prompt differ (or another corrupted
    text of the prompt, ``text``), which are those that ``counterfactual`` replaces, and all tokens
    of a prompt without a corrupted text. There are
    ``draws`` of the noise, over which all effects are averaged. The noise of an example depends
    only on the seed, the draw and its own tokens.

    Raises DataError, when used, for a text or a span that an example lacks. Source: Meng et al.
    2022, §2.1 (three standard deviations); Zhang & Nanda 2024, §2.

    Example:
        >>> import circuitkit as ck
        >>> model = ck.load("mini")
        >>> data = ck.Dataset.of(ck.make_task("ioi", model, n=4), model)
        >>> noise = ck.resolve("corruptions", "noise(at='S2', draws=3)")
        >>> len(noise(model, data)(next(iter(data))))  # one run a draw
        3
    """
    sigma = multiple * _spread(model, data)

    def carried(batch: Batch) -> list[Activations]:
        chosen = batch.differing(text, at)
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
    seen = [exact(model.embed_tokens(batch.clean)[batch.mask]).flatten() for batch in data]
    return float(torch.cat(seen).std(correction=0))


def _normal(
    batch: Batch, like: Float[Tensor, "b p d"], chosen: Tensor, seed: int, draw: int
) -> Float[Tensor, "b p d"]:
    """Standard normal values at the chosen tokens, 0 elsewhere."""
    out = torch.zeros_like(like)
    each = zip(batch.clean, batch.prompts, chosen, strict=True)
    for row, (tokens, prompt, here) in enumerate(each):
        key = repr((seed, draw, tokens[prompt].tolist())).encode()
        generator = torch.Generator().manual_seed(zlib.crc32(key))
        for where in (here & prompt, here & ~prompt):  # a prompt has the same before any answer
            values = torch.randn(int(where.sum()), like.shape[-1], generator=generator)
            out[row, where] = values.to(like)
    return out
