"""Models of random weights, and random prompts for them."""

from __future__ import annotations

import numpy as np
import torch
from _measure import Timer

from circuitkit.data.batches import Batch, Dataset
from circuitkit.data.examples import Example
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.transformer_lens import Transformer, from_module

__all__ = ["GPT2_SMALL", "SMALL", "difference_of_logits", "first", "gpt2", "pairs"]

GPT2_SMALL = {"n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257}
SMALL = {"n_layer": 4, "n_head": 8, "n_embd": 256, "vocab_size": 1000}


def gpt2(timer: Timer, shape: dict[str, int]) -> Transformer:
    """A GPT-2 of this shape; its weights follow from the seed alone."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(timer.seed)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    module = GPT2LMHeadModel(GPT2Config(**shape, **ends)).to(timer.device, timer.dtype)
    return from_module(module, name="x".join(map(str, shape.values())))


def pairs(model: Transformer, n: int, length: int = 16, seed: int = 1) -> Dataset:
    """Random pairs that differ in two tokens, as one batch."""
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(n):
        clean = rng.integers(0, model.d_vocab, length)
        corrupt = clean.copy()
        corrupt[[length // 4, length // 2]] = rng.integers(0, model.d_vocab, 2)
        correct, wrong = (int(token) for token in rng.integers(0, model.d_vocab, 2))
        prompts = tuple(clean.tolist()), tuple(corrupt.tolist())
        examples.append(Example(*prompts, (correct,), (wrong,), {"end": (length - 1, length)}))
    return Dataset(tuple(examples), batch_size=n, device=str(model.device))


def first(data: Dataset) -> Batch:
    """The first batch."""
    return next(iter(data))


def difference_of_logits(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The metric of this benchmark, of logits at the answers or at all positions."""
    if logits.ndim == 3:
        logits = logits[torch.arange(len(batch), device=logits.device), batch.last]
    return logit_diff(logits, logits, batch)
