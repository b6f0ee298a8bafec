"""Tiny models and prompts that are the same in every environment: what tests/recorded is made of.

Weights are sines of their places, so that nothing random has to agree between versions of torch,
and the models are Hugging Face's, which circuitkit and other tools both read.
"""

from __future__ import annotations

from typing import Any

import torch

LLAMA: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 24, "vocab_size": 20, "max_position_embeddings": 16,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 20,
                      "n_positions": 16}),
    "llama": ("Llama", LLAMA),
    "gemma2": ("Gemma2", {**LLAMA, "head_dim": 4, "query_pre_attn_scalar": 4}),
}  # fmt: skip
CLEAN = [[(7 * i + 3 * j + i * j) % 20 for j in range(5)] for i in range(6)]
CORRUPT = [[(token + 5 * (j in (1, 3))) % 20 for j, token in enumerate(row)] for row in CLEAN]
ANSWERS = [((3 * i + 2) % 20, (3 * i + 9) % 20) for i in range(6)]  # the correct and the wrong one


def tiny(family: str) -> Any:
    """The Hugging Face model of a family, in double precision."""
    import transformers

    name, options = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**options)
    config._attn_implementation = "eager"
    kind = f"{name}LMHeadModel" if family == "gpt2" else f"{name}ForCausalLM"
    module = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for number, (name, weight) in enumerate(sorted(module.named_parameters())):
            places = torch.arange(weight.numel(), dtype=torch.float64)
            wave = torch.sin(places * (1 + 0.37 * number) + number).reshape(weight.shape)
            norm = "norm" in name or "ln_" in name
            mean = 1.0 if norm and name.endswith("weight") and family != "gemma2" else 0.0
            weight.copy_(mean + (0.1 if norm or weight.ndim == 1 else 0.35) * wave)
    return module.double()
