"""What attribution costs beside the forwards and backwards that it cannot do without, by shape."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from _inputs import first, pairs
from _measure import Cell, Table, Timer

from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Batch
from circuitkit.discovery.attribution import eap, eap_ig
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.transformer_lens import Transformer, from_module

__all__ = ["SHAPES", "model_of", "shapes"]

STEPS = 5
VOCABULARY = 1000  # logits are of the answers alone, so a larger one costs memory and no time

# kind, options, layers that are run, dtype, batch and tokens
GPT2 = {"n_embd": 768, "n_head": 12}
SMOLLM2 = {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3,
           "intermediate_size": 1536}  # fmt: skip
HALF = {"hidden_size": 896, "num_attention_heads": 14, "num_key_value_heads": 2,
        "intermediate_size": 4864}  # fmt: skip
THREE_HALVES = {"hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 2,
                "intermediate_size": 8960}  # fmt: skip
EIGHT = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
         "intermediate_size": 14336}  # fmt: skip
SHAPES = [
    ("GPT-2 small", "GPT2", GPT2, 12, 12, "float32", (8, 16)),
    ("GPT-2 small", "GPT2", GPT2, 12, 12, "float32", (8, 64)),
    ("SmolLM2 135M", "Llama", SMOLLM2, 30, 30, "float32", (8, 32)),
    ("0.5B", "Llama", HALF, 24, 24, "float32", (2, 64)),
    ("0.5B, long", "Llama", HALF, 24, 24, "float32", (1, 2048)),
    ("1.5B", "Llama", THREE_HALVES, 28, 28, "bfloat16", (2, 128)),
    ("8B", "Llama", EIGHT, 32, 2, "float32", (2, 64)),
]


def shapes(timer: Timer, names: tuple[str, ...] = ()) -> Table:
    """``eap`` and ``eap_ig`` of several shapes, in plain forwards and backwards."""
    rows = [
        row for shape in SHAPES if not names or shape[0] in names for row in _rows(timer, shape)
    ]
    note = (
        "G: plain forwards of the clean and the corrupted batch and a backward of the metric, with "
        "logits at the answers only, through the same modules; for `eap_ig` as many forwards and "
        f"backwards as it takes ({STEPS} steps). The floor is 1 + the arithmetic of the scores, of "
        "the pull and of the writing, by that of G; the target is 1.15 times it. On processors two "
        "layers of 8B are run; the last column says what follows for all 32. Memory is above the "
        "loaded model, at its peak. The long prompt is timed once. The vocabulary is cut to "
        f"{VOCABULARY:,}."
    )
    head = ("shape", "type", "tokens", "G", "`eap` / G", "floor", "target", "`eap_ig` / its own",
            "MiB", "all layers")  # fmt: skip
    return Table("Attribution by shape", note, head, rows)


def _rows(timer: Timer, shape: tuple[Any, ...]) -> Iterator[tuple[Cell, ...]]:
    name, kind, options, layers, run, dtype, (n, length) = shape
    if timer.device != "cpu":
        run, dtype = layers, "bfloat16" if layers != run else dtype
    model = model_of(timer, kind, options, run, dtype, length)
    data = pairs(model, n, length)
    once = partial(eap, model, data, logit_diff, counterfactual)
    several = partial(eap_ig, model, data, logit_diff, counterfactual, steps=STEPS)
    long = length > 1000
    if not long:
        once()
    took: list[float] = []
    memory = timer.memory(partial(_timed, timer, once, took), timer.held())
    unit = timer.seconds(partial(_plain, model, first(data), 1), 1 if long else 3)
    ratio = min(took if long else [*took, timer.seconds(once, 2)]) / unit
    steps: Cell = "not run"
    if not long:
        plain = timer.seconds(partial(_plain, model, first(data), STEPS), 1)
        steps = timer.seconds(several, 1) / plain
    floor, whole = _floor(options, kind, run), _floor(options, kind, layers)
    all_layers = 1 + (ratio - 1) * (whole - 1) / (floor - 1)
    yield (name, dtype, f"{n} × {length}", unit, ratio, floor, 1.15 * floor, steps, memory,
           "" if run == layers else f"{all_layers:.2f} (floor {whole:.2f})")  # fmt: skip
    del model, data, once, several
    gc.collect()


def _timed(timer: Timer, work: Callable[[], Any], took: list[float]) -> None:
    """Do the work once, and note its seconds."""
    took.append(timer.seconds(work, 1))


def model_of(
    timer: Timer, kind: str, options: dict[str, int], layers: int, dtype: str, length: int
) -> Transformer:
    """A model of random weights."""
    import transformers

    torch.manual_seed(timer.seed)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": VOCABULARY}
    if kind == "GPT2":
        config = transformers.GPT2Config(**options, **ends, n_layer=layers)
        module: Any = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.LlamaConfig(
            **options, **ends, num_hidden_layers=layers, max_position_embeddings=max(512, length)
        )
        config._attn_implementation = "eager"
        with torch.device("meta"):
            module = transformers.LlamaForCausalLM(config)
        module = module.to(getattr(torch, dtype)).to_empty(device=timer.device)
        _fill(module)
    return from_module(module.to(timer.device, getattr(torch, dtype)), name="shape")


def _fill(module: torch.nn.Module) -> None:
    """Random weights, and the rotary angles that an empty model lacks."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.fill_(1.0) if "norm" in name else weight.normal_(0, 0.02)
    for part in module.modules():
        if hasattr(part, "inv_freq"):
            angles, part.attention_scaling = part.compute_default_rope_parameters(part.config)
            part.inv_freq = part.original_inv_freq = angles.to(part.inv_freq.device)


def _plain(model: Transformer, batch: Batch, backwards: int) -> None:
    """The forwards and backwards that attribution cannot do without, by the model's own modules."""
    module: Any = model.bridge.original_model
    base, head = module.base_model, module.get_output_embeddings()
    rows = torch.arange(len(batch), device=batch.last.device)
    with torch.no_grad():
        base(batch.corrupt)
        if backwards > 1:
            head(base(batch.clean).last_hidden_state[rows, batch.last])
    embed = module.get_input_embeddings()(batch.clean).detach()
    for _ in range(backwards):
        with torch.enable_grad():
            start = embed.clone().requires_grad_()
            logits = head(base(inputs_embeds=start).last_hidden_state[rows, batch.last])
            torch.autograd.grad(logit_diff(logits, logits.detach(), batch).sum(), start)


def _floor(options: dict[str, int], kind: str, layers: int) -> float:
    """What the arithmetic of attribution takes at least, by that of G."""
    if kind == "GPT2":
        d, h = options["n_embd"], options["n_head"]
        g, wide, gates = h, 4 * d, 2
    else:
        d, h, g = (options[key] for key in
                   ("hidden_size", "num_attention_heads", "num_key_value_heads"))  # fmt: skip
        wide, gates = options["intermediate_size"], 3
    e = d // h
    weights = layers * (d * e * (2 * h + 2 * g) + gates * d * wide)
    edges = sum((1 + i * (h + 1)) * (h + 2 * g) + 1 + i * (h + 1) + h for i in range(layers))
    edges += 1 + layers * (h + 1)
    further = 2 * edges * d + 2 * d * (h + 2 * g) * e * layers + 2 * h * e * d * layers
    return 1 + further / (6 * weights)
