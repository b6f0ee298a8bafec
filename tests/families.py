"""A tiny random model of every supported family, built offline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_position_embeddings": 64,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}


def _hf(name: str, config: str = "", **options: Any) -> Callable[[], Any]:
    def build() -> Any:
        import transformers

        prefix = name.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
        made = getattr(transformers, config or f"{prefix}Config")(**options)
        made._attn_implementation = "eager"
        return getattr(transformers, name)(made)

    return build


def _native(**options: Any) -> Callable[[], Any]:
    def build() -> Any:
        import transformer_lens.model_bridge.sources.native as native
        from transformer_lens.config import TransformerBridgeConfig

        config = TransformerBridgeConfig(
            d_model=32, n_layers=3, n_heads=4, d_head=8, n_ctx=64, d_vocab=60, act_fn="gelu",
            seed=0, **options,
        )  # fmt: skip
        return native.boot(config)

    return build


FAMILIES: dict[str, Callable[[], Any]] = {
    "gpt2": _hf("GPT2LMHeadModel", n_embd=32, n_layer=3, n_head=4, vocab_size=60, n_positions=64),
    "neox-parallel": _hf("GPTNeoXForCausalLM", **SMALL, use_parallel_residual=True),
    "neox-serial": _hf("GPTNeoXForCausalLM", **SMALL, use_parallel_residual=False),
    "llama": _hf("LlamaForCausalLM", **GROUPED),
    "mistral": _hf("MistralForCausalLM", **GROUPED, sliding_window=6, head_dim=12),
    "qwen2": _hf("Qwen2ForCausalLM", **GROUPED),
    "qwen3": _hf("Qwen3ForCausalLM", **GROUPED, head_dim=12),
    "smollm3": _hf("SmolLM3ForCausalLM", **GROUPED, pad_token_id=0),
    "gemma": _hf("GemmaForCausalLM", **GROUPED, head_dim=12),
    "gemma2": _hf("Gemma2ForCausalLM", **GROUPED, head_dim=12, sliding_window=6),
    "gemma3": _hf("Gemma3ForCausalLM", config="Gemma3TextConfig", **GROUPED, head_dim=12, sliding_window=6),
    "olmo2": _hf("Olmo2ForCausalLM", **GROUPED),
    "mixtral": _hf("MixtralForCausalLM", **GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "attention-only": _native(attn_only=True, normalization_type="LN"),
    "native-rms": _native(
        normalization_type="RMS", n_key_value_heads=2, positional_embedding_type="rotary",
        gated_mlp=True,
    ),
}  # fmt: skip


def _stir(module: torch.nn.Module) -> None:
    """Random values everywhere, biases and norms too: zeros and ones would hide mistakes."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in sorted(module.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim < 2:
                weight.add_(0.3 * noise)
            elif "embed" in name or "wte" in name:
                weight.copy_(noise)
            else:
                weight.copy_(noise * 1.5 / weight.shape[-1] ** 0.5)


def build(family: str) -> Any:
    """The family's tiny model, seeded, as a Hugging Face module or a bridge."""
    torch.manual_seed(0)
    module = FAMILIES[family]()
    _stir(getattr(module, "original_model", module))
    return module
