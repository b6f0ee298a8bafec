"""The models, prompts and jobs of ``memory.py``, which are imported in a process of their own."""

from __future__ import annotations

import numpy as np
from transformers import GPT2Config, GPT2LMHeadModel

from circuitkit import curve, discovery
from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.engine.inputs import prepare
from circuitkit.models.transformer_lens import Transformer, from_module

__all__ = ["data_of", "model_of", "run"]


def model_of(layers: int, width: int, heads: int, vocabulary: int) -> Transformer:
    """A model of GPT-2's architecture with random weights."""
    config = GPT2Config(n_layer=layers, n_embd=width, n_head=heads, vocab_size=vocabulary,
                        n_positions=64, bos_token_id=None, eos_token_id=None)  # fmt: skip
    return from_module(GPT2LMHeadModel(config), name="random")


def data_of(vocabulary: int, examples: int, tokens: int, seed: int) -> Dataset:
    """Random prompts."""
    rng = np.random.default_rng(seed)

    def text() -> tuple[int, ...]:
        return tuple(rng.integers(0, vocabulary, tokens).tolist())

    pairs = [(text(), text()) for _ in range(examples)]
    made = [Example(clean, corrupt, clean[:1], corrupt[:1], {}) for clean, corrupt in pairs]
    return Dataset(tuple(made))


def run(job: str, model: Transformer, data: Dataset, memory: int, edges: int) -> int:
    """Do the job within this memory; returns the size of its batches."""
    data = prepare(model, data, memory=memory).data
    if job == "eap_ig":
        discovery.eap_ig(model, data)
    elif job == "exact":
        names = [*discovery.random(model, data)]
        discovery.exact(model, data, edges=names[:: max(1, len(names) // edges)][:edges])
    else:
        curve(model, discovery.random(model, data), data, "logit_diff")
    return min(data.batch_size, len(data))
