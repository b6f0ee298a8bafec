"""Architectures that cannot be served, each with its reason in words; ``check`` finds others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from circuitkit.errors import UnsupportedModelError

__all__ = ["require_served"]

Reason = tuple[str, Callable[[Any], bool], str]

# The classes' first words, which of their configurations are meant, and why.
REASONS: tuple[Reason, ...] = (
    (
        "OPT", lambda config: not getattr(config, "do_layer_norm_before", True),
        "it normalises the residual stream itself after each attention and MLP (OPT-350m), so that "
        "nothing arrives as it was written",
    ),
    (
        "OPT", lambda config: config.word_embed_proj_dim != config.hidden_size,
        "it projects the embedding into the residual stream, and the stream before the logits, "
        "without a final norm",
    ),
    (
        "OPT", lambda config: bool(getattr(config, "_remove_final_layer_norm", False)),
        "it has no final norm, which TransformerLens 4 takes it to have",
    ),
    (
        "GPTNeoX", lambda config: not getattr(config, "attention_bias", True),
        "its attention has no biases, which TransformerLens 4 takes apart with the weights",
    ),
    (
        "OpenAIGPT", lambda _: True,
        "it normalises the residual stream itself after each attention and MLP, so that nothing "
        "arrives as it was written",
    ),
    (
        "Bert", lambda _: True,
        "it normalises the residual stream itself after each attention and MLP, so that nothing "
        "arrives as it was written",
    ),
    *((
        recurrent, lambda _: True,
        "some of its layers are recurrent (state spaces) instead of softmax attention, so that it "
        "has no heads there",
    ) for recurrent in ("Mamba", "Rwkv", "Jamba", "RecurrentGemma", "Qwen3Next")),
    *((
        latent, lambda _: True,
        "its heads read compressed queries, keys and values (latent attention), which are not "
        "those of single heads",
    ) for latent in ("DeepseekV2", "DeepseekV3")),
    (
        "Falcon", lambda config: bool(getattr(config, "new_decoder_architecture", False)),
        "its new decoder architecture (Falcon 40B, 180B and 2) keeps queries, keys and values of "
        "each group together in one matrix, which TransformerLens 4 splits in another way",
    ),
    (
        "Bloom", lambda _: True,
        "its attention and its MLPs add the residual stream within themselves, where what they "
        "write alone is not to be had",
    ),
    (
        "Mpt", lambda _: True,
        "its MLPs add the residual stream within themselves, where what they write alone is not to "
        "be had",
    ),
)  # fmt: skip


def require_served(module: nn.Module, name: str) -> None:
    """Raise UnsupportedModelError, with the reason, where a Hugging Face model is of an
    architecture that is known not to be a sum of what its parts write, or not to be wrapped.

    Example:
        >>> from transformers import BloomConfig, BloomForCausalLM
        >>> from circuitkit.models.architectures import require_served
        >>> tiny = BloomConfig(vocab_size=9, hidden_size=4, n_layer=1, n_head=1)
        >>> require_served(BloomForCausalLM(tiny), "bloom")
        Traceback (most recent call last):
        ...
        circuitkit.errors.UnsupportedModelError: 'bloom' (BloomForCausalLM) is not supported: ...
    """
    kind, config = type(module).__name__, getattr(module, "config", None)
    for prefix, meant, reason in REASONS:
        if kind.startswith(prefix) and meant(config):
            raise UnsupportedModelError(
                f"{name!r} ({kind}) is not supported: {reason}; use another model"
            )
