"""A tiny random model of every supported family, built offline, and random prompts for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from circuitkit.data.batches import Batch, Dataset
from circuitkit.data.examples import Example
from circuitkit.engine.model import Activations
from circuitkit.graph.nodes import Node
from circuitkit.graph.wiring import Wiring
from circuitkit.models.transformer_lens import Transformer, from_module
from circuitkit.registry import names

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_position_embeddings": 64,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
BARE = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
ENDS = {"bos_token_id": 0, "eos_token_id": 1}  # where the family's own lie outside the vocabulary


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
    "gemma3": _hf(
        "Gemma3ForCausalLM", "Gemma3TextConfig", **GROUPED, head_dim=12, sliding_window=6
    ),
    "olmo2": _hf("Olmo2ForCausalLM", **GROUPED),
    "mixtral": _hf("MixtralForCausalLM", **GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "qwen2-moe": _hf(
        "Qwen2MoeForCausalLM", **GROUPED, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=24, shared_expert_intermediate_size=24,
    ),
    "olmoe": _hf("OlmoeForCausalLM", **GROUPED, num_experts=4, num_experts_per_tok=2),
    "gpt-oss": _hf(
        "GptOssForCausalLM", **GROUPED, head_dim=8, num_local_experts=4, num_experts_per_tok=2,
        sliding_window=6,
    ),
    "opt": _hf(
        "OPTForCausalLM", **BARE, ffn_dim=48, word_embed_proj_dim=32, tie_word_embeddings=False
    ),
    "falcon": _hf("FalconForCausalLM", **BARE, multi_query=True, parallel_attn=True, **ENDS),
    "gpt-neo": _hf(
        "GPTNeoForCausalLM", hidden_size=32, num_layers=3, num_heads=4, intermediate_size=48,
        vocab_size=60, max_position_embeddings=64, window_size=6,
        attention_types=[[["global", "local"], 1], [["local"], 1]], **ENDS,
    ),
    "granite": _hf(
        "GraniteForCausalLM", **GROUPED, residual_multiplier=0.5, embedding_multiplier=2.0,
        logits_scaling=3.0, attention_multiplier=0.3,
    ),
    "attention-only": _native(attn_only=True, normalization_type="LN"),
    "native-rms": _native(
        normalization_type="RMS", n_key_value_heads=2, positional_embedding_type="rotary",
        gated_mlp=True,
    ),
}  # fmt: skip

# Relatives of these, which the check and every verb are tried on, but not every law.
RELATIVES: dict[str, Callable[[], Any]] = {
    "falcon-alibi": _hf(
        "FalconForCausalLM", **BARE, multi_query=False, parallel_attn=False, alibi=True, bias=True,
        **ENDS,
    ),
    "granite-moe": _hf(
        "GraniteMoeForCausalLM", **GROUPED, residual_multiplier=0.5, embedding_multiplier=2.0,
        logits_scaling=3.0, attention_multiplier=0.3, num_local_experts=4, num_experts_per_tok=2,
    ),
    "gpt-j": _hf(
        "GPTJForCausalLM", n_embd=32, n_layer=3, n_head=4, vocab_size=60, n_positions=64,
        rotary_dim=4, **ENDS,
    ),
    "gpt-bigcode": _hf(
        "GPTBigCodeForCausalLM", n_embd=32, n_layer=3, n_head=4, vocab_size=60, n_positions=64,
        **ENDS,
    ),
    "phi": _hf("PhiForCausalLM", **SMALL),
    "phi3": _hf("Phi3ForCausalLM", **GROUPED, pad_token_id=0),
    "cohere": _hf("CohereForCausalLM", **GROUPED, pad_token_id=0, **ENDS),
    "stablelm": _hf("StableLmForCausalLM", **GROUPED),
    "starcoder2": _hf("Starcoder2ForCausalLM", **GROUPED),
    "qwen3-moe": _hf(
        "Qwen3MoeForCausalLM", **GROUPED, head_dim=12, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=24,
    ),
    "glm4": _hf("Glm4ForCausalLM", **GROUPED, head_dim=8, pad_token_id=0),
    "nemotron": _hf("NemotronForCausalLM", **GROUPED),
    "llama4": _hf("Llama4ForCausalLM", "Llama4TextConfig", **GROUPED, head_dim=8),
}  # fmt: skip

# Those that every law runs on at every change, and no two of which are wired alike; of the others
# each law runs on a third (conftest.py).
OFTEN = ("gpt2", "llama", "gemma2", "olmo2", "mixtral", "attention-only")
SPARSE = ("mixtral", "qwen2-moe", "olmoe", "gpt-oss")  # mixtures of experts


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
    module = {**FAMILIES, **RELATIVES}[family]()
    if family in SPARSE:  # experts in groups know single precision only
        module.set_experts_implementation("eager")
    _stir(getattr(module, "original_model", module))
    return module


def pristine(family: str) -> Any:
    """The family's tiny model as a plain module that TransformerLens has not touched."""
    module = build(family)
    if not hasattr(module, "original_model"):
        return module.eval()
    from transformer_lens.model_bridge.sources.native.model import NativeModel

    plain = NativeModel(module.cfg)
    weights = module.original_model.state_dict()
    names = {name: name.replace("_original_component.", "") for name in weights}
    kept = {names[name]: w for name, w in weights.items() if names[name] in plain.state_dict()}
    plain.load_state_dict(kept)
    return plain.eval()


@cache
def model(family: str) -> Transformer:
    """The family's tiny model as circuitkit sees it, built once; no test may change it."""
    return from_module(build(family), name=family)


def double(family: str) -> Transformer:
    """The same in double precision, built anew."""
    module = build(family)
    return from_module(module.to(torch.float64), name=family)


@cache
def exactly(family: str) -> Transformer:
    """The same, built once; no test may change it."""
    return double(family)


# -- corruptions -----------------------------------------------------------------------------------
CORRUPTIONS = tuple(  # every one; what is learned in few steps
    {"optimal": "optimal(steps=2)"}.get(name, name) for name in names("corruptions")
)


# -- layer by layer --------------------------------------------------------------------------------
def in_turn(*values: Any) -> list[tuple[str, Any]]:
    """Each family with one of the values, in turn; four that differ much with each of them."""
    all_of = ("gpt2", "llama", "gemma2", "olmo2")
    return [
        (family, value)
        for number, family in enumerate(FAMILIES)
        for turn, value in enumerate(values)
        if family in all_of or number % len(values) == turn
    ]


def crossed(*axes: Iterable[Any]) -> list[Any]:
    """Every combination of these values, at least three of each: a third of them at every change,
    in which each value of one meets a third of those of the other; the rest weekly."""
    cases = [tuple(zip(*case, strict=True)) for case in product(*map(enumerate, axes))]
    return [
        pytest.param(*values, marks=[pytest.mark.weekly] if sum(numbers) % 3 else [])
        for numbers, values in cases
    ]


def first_head(wiring: Wiring, layer: int) -> int:
    """The row of a layer's head 0; behind the last layer, how many writers there are."""
    last = layer == wiring.layers
    return len(wiring.writers) if last else wiring.attention(layer).rows.start


def mlp_row(wiring: Wiring, layer: int) -> int:
    """The row behind a layer's heads, which is its MLP's."""
    return wiring.attention(layer).rows.stop


def mlp_column(wiring: Wiring, layer: int) -> int:
    """The column behind a layer's ports, which is its MLP's."""
    return wiring.attention(layer).columns.stop


def port_columns(wiring: Wiring, layer: int) -> dict[str, slice]:
    """The columns of a layer's q, k and v ports."""
    stage = wiring.attention(layer)
    return {letter: stage.port_columns(number) for number, letter in enumerate("qkv")}


def port(wiring: Wiring, layer: int, letter: str, index: int) -> Node:
    """The name of a layer's port: of a head where each has its own, else of a group."""
    return wiring.readers[port_columns(wiring, layer)[letter].start + index]


class Layers:
    """A run's activations, layer by layer: of heads ``heads`` as shares and ``raw`` as computed."""

    def __init__(self, wiring: Wiring, run: Activations) -> None:
        heads = [wiring.attention(layer).index for layer in range(wiring.layers)]
        mlps = [s.index for n in range(wiring.layers) for s in wiring.beyond_attention(n)]
        self.attn_in = [run.reads[i] for i in heads]
        self.heads = [run.shares[i] for i in heads]
        self.raw = [run.computed[i] for i in heads]
        self.mlp_in = [run.reads[i] for i in mlps]
        self.mlps = [run.shares[i][:, :, 0] for i in mlps]


# -- prompts ---------------------------------------------------------------------------------------
LENGTHS = (9, 7, 9, 5, 7, 5)


def examples(
    lengths: Sequence[int] = LENGTHS, seed: int = 0, correct: int = 1, wrong: int = 1
) -> tuple[Example, ...]:
    """Random pairs of these lengths, which differ from a random token (never the first) on."""
    rng = Random(seed)
    made = []
    for length in lengths:
        clean = [rng.randrange(SMALL["vocab_size"]) for _ in range(length)]
        corrupt, first = list(clean), rng.randrange(1, length - 1)
        for at in range(first, length):
            if at == first or rng.random() < 0.5:
                corrupt[at] = (clean[at] + rng.randrange(1, 60)) % 60
        answers = rng.sample(range(60), correct + wrong)
        spans = {"subject": (1, 3), "end": (length - 1, length)}
        made.append(
            Example(
                tuple(clean), tuple(corrupt), tuple(answers[:correct]), tuple(answers[correct:]),
                spans,
            )
        )  # fmt: skip
    return tuple(made)


def dataset(
    lengths: Sequence[int] = LENGTHS,
    *,
    seed: int = 0,
    batch_size: int = 4,
    padding: str = "right",
    **answers: int,
) -> Dataset:
    """Random pairs in batches."""
    pairs = examples(lengths, seed, **answers)
    return Dataset(pairs, batch_size=batch_size, padding=padding)


def as_batch(data: Dataset) -> Batch:
    """All examples as one batch."""
    return next(iter(replace(data, batch_size=len(data))))


def distance(found: Any, expected: Any) -> float:
    """The largest difference, relative to the largest expected value, which must not be zero."""
    one, two = (
        (x.detach() if isinstance(x, torch.Tensor) else torch.tensor(np.array(x))).double().cpu()
        for x in (found, expected)
    )
    assert one.shape == two.shape
    assert one.numel()
    scale = two.abs().max()
    assert scale > 1e-3, "what is compared is zero, so that it proves nothing"
    return float((one - two).abs().max() / scale)


@cache
def able(family: str, lengths: Sequence[int] = LENGTHS, seed: int = 0) -> Dataset:
    """Prompts that the model can do: the correct answer is its own, the wrong one the corrupted
    prompt's, so that both logit difference and accuracy fall under every corruption."""
    m, data = model(family), dataset(lengths, seed=seed)
    made = []
    for example in data.examples:
        answers = []
        for tokens in (example.clean, example.corrupt):
            ids = torch.tensor([tokens])
            logits = m.native(ids, torch.ones_like(ids).bool()).logits[0, -1].clone()
            if answers:
                logits[answers[0]] = -torch.inf
            answers.append(int(logits.argmax()))
        made.append(replace(example, correct=(answers[0],), wrong=(answers[1],)))
    return replace(data, examples=tuple(made))
