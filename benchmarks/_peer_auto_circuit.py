"""What auto-circuit 1.0.1 costs: run by ``_peers.py`` in an environment of its own.

    python _peer_auto_circuit.py job.json result.json

It needs one shim: it imports ``HookedTransformerKeyValueCache`` from a module that TransformerLens
moved and renamed in 3.x. It does no exact patching; what is timed for that is the loop inside its
ACDC (``prune_algos/ACDC.py``): the edge's mask on, a forward resumed at the reader's layer.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformer_lens
from transformer_lens.cache import key_value_cache

transformer_lens.HookedTransformerKeyValueCache = key_value_cache.TransformerLensKeyValueCache
key_value_cache.HookedTransformerKeyValueCache = key_value_cache.TransformerLensKeyValueCache
sys.modules["transformer_lens.past_key_value_caching"] = key_value_cache

from auto_circuit.data import PromptDataLoader, PromptDataset  # noqa: E402
from auto_circuit.prune import run_circuits  # noqa: E402
from auto_circuit.prune_algos.mask_gradient import mask_gradient_prune_scores  # noqa: E402
from auto_circuit.types import Edge, PatchType  # noqa: E402
from auto_circuit.utils.ablation_activations import src_ablations  # noqa: E402
from auto_circuit.utils.graph_utils import patch_mode, patchable_model, set_all_masks  # noqa: E402
from transformer_lens import HookedTransformer, HookedTransformerConfig  # noqa: E402
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel  # noqa: E402

PACKAGES = ("auto-circuit", "transformer-lens", "torch", "transformers")


def main(job: dict[str, Any]) -> dict[str, Any]:
    """The seconds of each piece of work, and what it gave, by our names of the edges."""
    torch.set_num_threads(job["threads"])
    result: dict[str, Any] = {
        "versions": ", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES)
    }
    large, result["plain"] = _model(job, job["gpt2"])
    result["attribution"] = _attribution(large, _loader(job["gpt2"]))
    result["circuit"] = _circuit(large, _loader(job["gpt2"]), job["circuit"], job["gpt2"])
    small, result["plain_small"] = _model(job, job["small"])
    result["edges"] = _edges(small, _loader(job["small"]), job["every"], job["small"])
    return result


def _seconds(work: Callable[[], Any], repeat: int = 1) -> float:
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def _model(job: dict[str, Any], work: dict[str, Any]) -> tuple[Any, float]:
    """The patchable model of the same weights; and the seconds of a plain forward before it is
    made patchable."""
    torch.manual_seed(job["seed"])
    shape = work["shape"]
    source = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).eval()
    config = HookedTransformerConfig(
        n_layers=shape["n_layer"], n_heads=shape["n_head"], d_model=shape["n_embd"],
        d_head=shape["n_embd"] // shape["n_head"], d_vocab=shape["vocab_size"], n_ctx=1024,
        act_fn="gelu_new", normalization_type="LN", device="cpu",
    )  # fmt: skip
    model = HookedTransformer(config)
    plain = {"fold_ln": False, "center_writing_weights": False, "center_unembed": False,
             "fold_value_biases": False}  # fmt: skip
    model.load_and_process_state_dict(convert_gpt2_weights(source, config), **plain)
    model.eval()
    clean = torch.tensor(work["clean"])
    with torch.no_grad():
        model(clean)
        seconds = _seconds(lambda: model(clean), 5)
    model.set_use_attn_result(True)
    model.set_use_split_qkv_input(True)
    model.set_use_hook_mlp_in(True)
    return patchable_model(model, factorized=True, slice_output="last_seq", separate_qkv=True), (
        seconds
    )


def _loader(work: dict[str, Any]) -> PromptDataLoader:
    fields = (list(map(torch.tensor, work[key])) for key in ("clean", "corrupt"))
    answers = ([torch.tensor([a]) for a in work[key]] for key in ("correct", "wrong"))
    data = PromptDataset(*fields, *answers)
    return PromptDataLoader(data, seq_len=None, diverge_idx=0, batch_size=len(data), shuffle=False)


def _difference(logits: torch.Tensor, work: dict[str, Any]) -> torch.Tensor:
    at = range(len(logits))
    return logits[at, work["correct"]] - logits[at, work["wrong"]]


def _attribution(model: Any, loader: PromptDataLoader) -> dict[str, Any]:
    scores: dict[str, torch.Tensor] = {}

    def work() -> None:
        scores.update(mask_gradient_prune_scores(
            model, loader, None, grad_function="logit", answer_function="avg_diff", mask_val=0.0
        ))  # fmt: skip

    seconds = _seconds(work, 2)
    values = {_name(edge): float(edge.prune_score(scores)) for edge in model.edges}
    return {"seconds": seconds, "values": values}


def _circuit(
    model: Any, loader: PromptDataLoader, circuit: list[str], work: dict[str, Any]
) -> dict[str, Any]:
    """One circuit, with its corrupted run."""
    wanted = set(circuit)
    scores = model.circuit_prune_scores([e for e in model.edges if _name(e) in wanted])
    outputs: list[torch.Tensor] = []

    def once() -> None:
        found = run_circuits(model, loader, [len(circuit)], scores, patch_type=PatchType.TREE_PATCH)
        outputs.append(next(iter(found[len(circuit)].values())))

    seconds = _seconds(once, 2)
    return {"seconds": seconds, "values": _difference(outputs[-1], work).tolist()}


def _edges(
    model: Any, loader: PromptDataLoader, every: int, work: dict[str, Any]
) -> dict[str, Any]:
    """One edge in so many, each patched alone, by the steps of its ACDC's loop."""
    batch = next(iter(loader))
    corrupt, clean = src_ablations(model, batch.corrupt), src_ablations(model, batch.clean)
    ordered = sorted(model.edges, key=lambda e: (-e.dest.layer, e.name))[::every]
    with torch.inference_mode():
        start = _difference(model(batch.clean)[model.out_slice], work).mean()
        _, tokens, embedding, mask = model.input_to_embed(batch.clean)
        _, cache = model.run_with_cache(batch.clean)
    layers = range(model.cfg.n_layers)
    residuals = [cache[f"blocks.{i}.hook_resid_pre"].clone() for i in layers]
    values: dict[str, float] = {}

    def patch(edge: Edge) -> torch.Tensor:
        edge.patch_mask(model).data[edge.patch_idx] = 1.0
        layer = int(edge.dest.module_name.split(".")[1])
        with torch.inference_mode():
            out = model(
                residuals[layer], start_at_layer=layer, tokens=tokens,
                shortformer_pos_embed=embedding, attention_mask=mask,
            )[model.out_slice]  # fmt: skip
        edge.patch_mask(model).data[edge.patch_idx] = 0.0
        return _difference(out, work).mean()

    def loop() -> None:
        for edge in ordered:
            values[_name(edge)] = float(start - patch(edge))

    set_all_masks(model, val=0.0)
    with patch_mode(model, corrupt, curr_src_outs=clean):
        seconds = _seconds(loop)
    return {"seconds": seconds / len(ordered), "values": values}


def _name(edge: Edge) -> str:
    return f"{_node(edge.src.name)}->{_node(edge.dest.name)}"


def _node(name: str) -> str:
    """Our name: ``A3.7.Q`` is ``a3.h7.q``."""
    if name.startswith("Resid"):
        return {"Resid Start": "input", "Resid End": "logits"}[name]
    if name.startswith("MLP"):
        return f"m{name.split()[1]}"
    layer, head, *port = name[1:].lower().split(".")
    return ".".join([f"a{layer}", f"h{head}", *port])


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps(main(given)))
