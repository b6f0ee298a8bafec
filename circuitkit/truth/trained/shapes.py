"""Small untrained models of the families that can be trained, from the numbers of their sizes."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from circuitkit.errors import ModelError
from circuitkit.graph.wiring import Wiring
from circuitkit.models.compat import use_eager

__all__ = ["FAMILIES", "Shape"]

MOST = 4096  # of any size: what is trained here is small
Options = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """The sizes of a small model of a family.

    Attributes:
        family: One of ``FAMILIES``.
        layers: How many layers it has.
        heads: How many heads each layer has.
        groups: How many of them share keys and values; as many as heads where each has its own.
        d_model: The width of the residual stream.
        d_mlp: How many neurons each MLP has.
        vocab: How many words there are.
        context: How many tokens a prompt may have.

    Raises ModelError for another family, and for sizes that it cannot have.
    """

    family: str
    layers: int
    heads: int
    groups: int
    d_model: int
    d_mlp: int
    vocab: int
    context: int

    def __post_init__(self) -> None:
        if not isinstance(self.family, str) or self.family not in FAMILIES:
            raise ModelError(
                f"{reprlib.repr(self.family)} is not a family; use {', '.join(FAMILIES)}"
            )
        sizes = [value for name, value in asdict(self).items() if name != "family"]
        whole = all(type(size) is int and 0 < size <= MOST for size in sizes)
        if not whole or self.heads % self.groups or self.d_model % (2 * self.heads):
            raise ModelError(
                f"{reprlib.repr(self)} is not a shape: give whole numbers from 1 to {MOST}, groups "
                "that divide the heads, and a d_model that twice the heads divide"
            )
        if self.groups != self.heads and self.family not in GROUPED:
            raise ModelError(
                f"{self.family} has no groups of heads; give as many groups as heads, or use "
                f"{', '.join(GROUPED)}"
            )

    @property
    def wiring(self) -> Wiring:
        """The graph of such a model."""
        return Wiring(self.layers, self.heads, self.groups, parallel=self.family in PARALLEL)

    def build(self) -> nn.Module:
        """An untrained model, whose weights are drawn from torch's random numbers."""
        import transformers

        prefix, options = FAMILIES[self.family](self)
        config = getattr(transformers, f"{prefix}Config")(
            **options, vocab_size=self.vocab, bos_token_id=0, eos_token_id=0, pad_token_id=None,
            tie_word_embeddings=False,
        )  # fmt: skip
        use_eager(config)
        suffix = "LMHeadModel" if prefix == "GPT2" else "ForCausalLM"
        module: nn.Module = getattr(transformers, prefix + suffix)(config)
        with torch.no_grad():  # theirs is for large models: attention would be flat here
            for part in module.modules():
                deviation = 1.0 if isinstance(part, nn.Embedding) else self.d_model**-0.5
                for weight in part.parameters(recurse=False):
                    if weight.ndim > 1:
                        weight.normal_(std=deviation)
        return module


def _gpt2(shape: Shape) -> Options:
    return {
        "n_embd": shape.d_model, "n_layer": shape.layers, "n_head": shape.heads,
        "n_inner": shape.d_mlp, "n_positions": shape.context,
    }  # fmt: skip


def _gptj(shape: Shape) -> Options:
    return {**_gpt2(shape), "rotary_dim": shape.d_model // shape.heads}


def _common(shape: Shape) -> Options:
    return {
        "hidden_size": shape.d_model, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.groups,
        "intermediate_size": shape.d_mlp, "max_position_embeddings": shape.context,
    }  # fmt: skip


def _family(prefix: str, sizes: Callable[[Shape], Options], **more: Any) -> Any:
    return lambda shape: (prefix, {**sizes(shape), **more})


FAMILIES: Mapping[str, Callable[[Shape], tuple[str, Options]]] = {
    "gpt2": _family("GPT2", _gpt2),  # layer norm, GELU, learned positions
    "llama": _family("Llama", _common),  # RMS norm, gated SiLU, rotary positions
    "qwen2": _family("Qwen2", _common),  # the same, with biases
    "gptj": _family("GPTJ", _gptj),  # heads and MLP side by side
    "phi": _family("Phi", _common),
}
GROUPED = ("llama", "qwen2")
PARALLEL = ("gptj", "phi")
