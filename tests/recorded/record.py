"""What EAP-IG and MIB find of the tiny models, with their own code (tests/recorded_models.py).

Neither runs beside circuitkit: in an environment with transformer_lens 2.15.4 and transformers
4.46.3, with EAP-IG (github.com/hannamw/EAP-IG, 795f560) and MIB's circuit track
(github.com/hannamw/MIB-circuit-track, b759df3) unpacked, whose ``device='cuda'`` reads ``'cpu'``:

PYTHONPATH=EAP-IG/src:MIB-circuit-track:tests python tests/recorded/record.py tests/recorded

It writes EAP-IG's own files, ``FAMILY-METHOD.json``, in which 30 edges are the graph's, and
``values.json``: each prompt's metric of these circuits, and MIB's areas of ``eap``'s scores. The
tools' tokenizer is passed by, for the prompts are tokens. ``test_recorded.py`` reads them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import eap.attribute
import eap.evaluate
import eap.utils
import MIB_circuit_track.evaluation as mib
import torch
from eap.graph import Graph
from recorded_models import ANSWERS, CLEAN, CORRUPT, FAMILIES, tiny
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import (
    convert_gemma_weights,
    convert_gpt2_weights,
    convert_llama_weights,
)

SHARED = {
    "d_model": 16, "n_layers": 2, "n_ctx": 16, "d_vocab": 20, "device": "cpu",
    "dtype": torch.float64,
}  # fmt: skip
ROTARY = {
    **SHARED, "n_heads": 4, "d_head": 4, "n_key_value_heads": 2, "d_mlp": 24, "gated_mlp": True,
    "normalization_type": "RMS", "positional_embedding_type": "rotary", "rotary_dim": 4,
    "rotary_base": 10_000, "rotary_adjacent_pairs": False, "final_rms": True, "eps": 1e-6,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {**SHARED, "n_heads": 2, "d_head": 8, "d_mlp": 64, "act_fn": "gelu_new",
             "normalization_type": "LN", "eps": 1e-5},
    "llama": {**ROTARY, "act_fn": "silu"},
    "gemma2": {**ROTARY, "act_fn": "gelu_pytorch_tanh", "use_normalization_before_and_after": True,
               "attn_scores_soft_cap": 50.0, "output_logits_soft_cap": 30.0},
}  # fmt: skip
CONVERT = {"gpt2": convert_gpt2_weights, "llama": convert_llama_weights,
           "gemma2": convert_gemma_weights}  # fmt: skip
METHODS = {"eap": "EAP", "eap_ig": "EAP-IG-inputs", "clean_corrupted": "clean-corrupted"}


def hooked(family: str) -> HookedTransformer:
    """The model as TransformerLens 2 has it, whose logits are Hugging Face's."""
    module, config = tiny(family), HookedTransformerConfig(**CONFIGS[family])
    model = HookedTransformer(config)
    model.load_and_process_state_dict(
        CONVERT[family](module, config), fold_ln=False, center_writing_weights=False,
        center_unembed=False, fold_value_biases=False,
    )  # fmt: skip
    tokens = torch.tensor(CLEAN)
    with torch.no_grad():
        apart = (model(tokens) - module(tokens).logits).abs().max()
    if apart > 1e-5:
        raise SystemExit(f"{family} differs by {apart}")
    for flag in ("use_split_qkv_input", "use_attn_result", "use_hook_mlp_in"):
        setattr(model.cfg, flag, True)
    if config.n_key_value_heads:
        model.set_ungroup_grouped_query_attention(True)
    return model


def as_tokens(model: object, rows: list[list[int]], length: object = None) -> tuple[Any, ...]:
    """What EAP-IG's ``tokenize_plus`` gives, of prompts that are tokens."""
    tokens = torch.tensor(rows)
    mask = torch.ones_like(tokens)
    return tokens, mask, mask.sum(1), tokens.shape[1]


class Batches:
    """The prompts in batches, as EAP-IG's loader gives them."""

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        yield CLEAN[:4], CORRUPT[:4], ANSWERS[:4]
        yield CLEAN[4:], CORRUPT[4:], ANSWERS[4:]


def metric(
    logits: torch.Tensor, clean: object, lengths: object, labels: Any, *, loss: bool, mean: bool
) -> torch.Tensor:
    """The logit difference, or (as a loss, summed, for the scores are divided by the number of
    prompts) its negative."""
    good, bad = torch.tensor(labels).T
    rows = torch.arange(len(good))
    found = logits[rows, -1, good] - logits[rows, -1, bad]
    found = -found if loss else found
    return found.sum() if mean else found


def plainly(*given: Any, optimal_ablation_path: object = None, **more: Any) -> torch.Tensor:
    """EAP-IG's evaluation, which MIB's own copy of it gives one more setting."""
    return eap.evaluate.evaluate_graph(*given, **more)


def main(place: Path) -> None:
    for module in (eap.attribute, eap.evaluate, eap.utils):
        module.tokenize_plus = as_tokens
    mib.evaluate_graph = plainly
    values: dict[str, Any] = {}
    for family in FAMILIES:
        model, apart = hooked(family), partial(metric, loss=False, mean=False)
        for ours, theirs in METHODS.items():
            graph = Graph.from_model(model)
            eap.attribute.attribute(
                model, graph, Batches(), partial(metric, loss=True, mean=True), theirs,
                ig_steps=5, quiet=True,
            )  # fmt: skip
            found: dict[str, Any] = {}
            if ours == "eap":
                graph_again = Graph.from_model(model)
                graph_again.scores[:] = graph.scores
                areas = mib.evaluate_area_under_curve(
                    model, graph_again, Batches(), apart, quiet=True, absolute=True
                )
                found |= {"cpr": areas[1], "cmd": areas[2], "faithfulness": areas[4]}
            graph.apply_topn(30, absolute=True)
            graph.to_json(place / f"{family}-{ours}.json")
            circuit = eap.evaluate.evaluate_graph(model, graph, Batches(), apart, quiet=True)
            values[f"{family}-{ours}"] = {**found, "circuit": circuit.tolist()}
    (place / "values.json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
