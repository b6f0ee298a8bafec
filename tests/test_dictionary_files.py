"""Dictionaries in files: each published format by its own keys and its own encode, written out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import model as family
from safetensors.torch import save_file
from torch import Tensor

from circuitkit.errors import DictionaryError
from circuitkit.features import Dictionary, load, save
from circuitkit.features.formats import formats
from circuitkit.features.sites import fitted, require_fitting, site_values

D, F, OUT = 5, 9, 4
RNG = torch.Generator().manual_seed(7)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RNG)


X = draw(6, D)


def settled(folder: Path, name: str, settings: dict[str, Any], **tensors: Tensor) -> Path:
    """A folder with these settings as JSON, and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(settings))
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name)
    return folder


def only(folder: Path, **stated: Any) -> Dictionary:
    (found,) = load(folder, **stated)
    return found


def agrees(own: Dictionary, encoded: Tensor, written: Tensor, x: Tensor = X) -> None:
    """That a dictionary encodes and writes this; and that something is switched off."""
    assert 0 < int((encoded == 0).sum()) < encoded.numel()
    torch.testing.assert_close(own.encode(x), encoded, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(own(x), written, atol=5e-6, rtol=1e-5)


def topk(pre: Tensor, k: int) -> Tensor:
    best = pre.relu().topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, best.indices, best.values)


# -- SAELens ---------------------------------------------------------------------------------------
def sae(**changed: Tensor) -> dict[str, Tensor]:
    return {"W_enc": draw(D, F), "b_enc": draw(F), "W_dec": draw(F, D), "b_dec": draw(D), **changed}


def six(architecture: str, hook: str = "blocks.3.hook_resid_post", **more: Any) -> dict[str, Any]:
    """The settings of SAELens 6."""
    out = more.pop("out", None)
    metadata = {"model_name": "gpt2-small", "hook_name": hook, "hook_head_index": None,
                "prepend_bos": True, "sae_lens_version": "6.22.1"}  # fmt: skip
    if out:
        metadata["hook_name_out"] = out
    return {"architecture": architecture, "d_in": D, "d_sae": F, "dtype": "float32",
            "device": "cpu", "normalize_activations": "none", "reshape_activations": "none",
            "apply_b_dec_to_input": True, "metadata": metadata, **more}  # fmt: skip


WEIGHTS = "sae_weights.safetensors"


@pytest.mark.parametrize("subtracts", [True, False])
def test_saelens_standard(tmp_path: Path, subtracts: bool) -> None:
    w = sae()
    settled(tmp_path, WEIGHTS, six("standard", apply_b_dec_to_input=subtracts), **w)
    own = only(tmp_path)
    x = X - w["b_dec"] if subtracts else X
    acts = torch.relu(x @ w["W_enc"] + w["b_enc"])
    agrees(own, acts, acts @ w["W_dec"] + w["b_dec"])
    assert (own.kind, own.layer, own.reads, own.model) == (
        "autoencoder", 3, "resid_post", "gpt2-small"
    )  # fmt: skip


def test_saelens_before_6(tmp_path: Path) -> None:
    w = sae()
    old = {"hook_point": "blocks.2.attn.hook_z", "hook_point_layer": 2, "model_name": "gpt2-small",
           "d_in": D, "d_sae": F, "hook_point_head_index": None, "activation_fn_str": "relu",
           "normalize_activations": False}  # fmt: skip
    settled(tmp_path / "a", WEIGHTS, old, **w)
    acts = torch.relu((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    own = only(tmp_path / "a")
    agrees(own, acts, acts @ w["W_dec"] + w["b_dec"])
    assert own.reads == own.writes == "attn_z"
    old |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}}
    settled(tmp_path / "b", WEIGHTS, old, **w)
    acts = topk((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 2)
    agrees(only(tmp_path / "b"), acts, acts @ w["W_dec"] + w["b_dec"])
    settled(tmp_path / "c", WEIGHTS, old | {"normalize_activations": True}, **w)
    with pytest.raises(DictionaryError, match="'expected_average_only_in'"):
        load(tmp_path / "c")


def test_saelens_jumprelu(tmp_path: Path) -> None:
    w = sae(threshold=draw(F).abs())
    settled(tmp_path, WEIGHTS, six("jumprelu", apply_b_dec_to_input=False), **w)
    pre = X @ w["W_enc"] + w["b_enc"]
    acts = torch.relu(pre) * (pre > w["threshold"])
    agrees(only(tmp_path), acts, acts @ w["W_dec"] + w["b_dec"])


def test_saelens_gated(tmp_path: Path) -> None:
    w = sae(b_gate=draw(F), b_mag=draw(F), r_mag=draw(F))
    del w["b_enc"]
    settled(tmp_path, WEIGHTS, six("gated"), **w)
    x = X - w["b_dec"]
    gate = (x @ w["W_enc"] + w["b_gate"]) > 0
    acts = gate * torch.relu(x @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"])
    agrees(only(tmp_path), acts, acts @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize("rescaled", [True, False])
def test_saelens_topk(tmp_path: Path, rescaled: bool) -> None:
    w = sae()
    settled(tmp_path, WEIGHTS, six("topk", k=3, rescale_acts_by_decoder_norm=rescaled), **w)
    norm = w["W_dec"].norm(dim=-1) if rescaled else torch.ones(F)
    acts = topk(((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norm, 3)
    agrees(only(tmp_path), acts, (acts / norm) @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize(
    "kind", ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"]
)
def test_saelens_transcoders(tmp_path: Path, kind: str) -> None:
    w = sae(W_dec=draw(F, OUT), b_dec=draw(OUT), threshold=draw(F).abs(), W_skip=draw(OUT, D))
    places = {"hook": "blocks.1.mlp.hook_in", "out": "blocks.1.hook_mlp_out"}
    settings = six(kind, **places, d_out=OUT, apply_b_dec_to_input=False)
    settled(tmp_path, WEIGHTS, settings, **w)
    pre = X @ w["W_enc"] + w["b_enc"]
    acts = torch.relu(pre) * (pre > w["threshold"]) if "jump" in kind else torch.relu(pre)
    written = acts @ w["W_dec"] + w["b_dec"]
    own = only(tmp_path)
    agrees(own, acts, written + X @ w["W_skip"].T if "skip" in kind else written)
    assert own.kind == kind.removeprefix("jumprelu_")
    assert (own.layer, own.reads, own.writes) == (1, "mlp_in", "mlp_out")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (six("matching_pursuit"), "the architecture"),
        (six("standard", normalize_activations="layer_norm"), "the scale of what is read"),
        (six("standard", hook="blocks.3.mlp.hook_pre"), "the place 'blocks.3.mlp.hook_pre'"),
        (six("transcoder", hook="blocks.3.mlp.hook_in"), "does not say where its transcoder"),
        (six("jumprelu"), "lacks the tensor 'threshold'"),
        (six("standard", metadata={"hook_name": "blocks.3.hook_z", "hook_head_index": 2}), "head"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, settings: Any, said: str) -> None:
    settled(tmp_path, WEIGHTS, settings, **sae())
    with pytest.raises(DictionaryError, match=said):
        load(tmp_path)


# -- Gemma Scope -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("repository", "reads", "writes", "model"),
    [
        ("gemma-scope-2b-pt-transcoders", "mlp_normalized", "mlp_out", "gemma-2-2b"),
        ("gemma-scope-9b-it-res", "resid_post", "resid_post", "gemma-2-9b-it"),
        ("gemma-scope-2b-pt-att", "attn_z", "attn_z", "gemma-2-2b"),
        ("gemma-scope-2b-pt-mlp", "mlp_out", "mlp_out", "gemma-2-2b"),
    ],
)
def test_gemma_scope(tmp_path: Path, repository: str, reads: str, writes: str, model: str) -> None:
    w = sae(threshold=draw(F).abs())
    folder = tmp_path / repository / "layer_7" / "width_16k" / "average_l0_54"
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{key: value.numpy() for key, value in w.items()})
    own = only(tmp_path / repository)
    pre = X @ w["W_enc"] + w["b_enc"]
    acts = (pre > w["threshold"]) * torch.relu(pre)
    agrees(own, acts, acts @ w["W_dec"] + w["b_dec"])
    assert (own.layer, own.reads, own.writes, own.model) == (7, reads, writes, model)
    (folder.parent.parent.parent).rename(tmp_path / "renamed")
    with pytest.raises(DictionaryError, match="do not say its layer"):
        load(tmp_path / "renamed")
    assert only(tmp_path / "renamed", reads="mlp_in", writes="mlp_out").layer == 7


def lower(**changed: Tensor) -> dict[str, Tensor]:
    return {"w_enc": draw(D, F), "b_enc": draw(F), "w_dec": draw(F, D), "b_dec": draw(D),
            "threshold": draw(F).abs(), **changed}  # fmt: skip


def scoped(folder: Path, hooks: tuple[str, str], **w: Tensor) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"architecture": "jump_relu", "model_name": "google/gemma-3-1b-pt", "l0": 10,
                "hf_hook_point_in": hooks[0], "hf_hook_point_out": hooks[1]}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings))
    save_file({key: value.contiguous() for key, value in w.items()}, folder / "params.safetensors")


def test_gemma_scope_2(tmp_path: Path) -> None:
    w = lower(affine_skip_connection=draw(D, D))
    names = ("model.layers.5.pre_feedforward_layernorm.output",
             "model.layers.5.post_feedforward_layernorm.output")  # fmt: skip
    scoped(tmp_path / "a", names, **w)
    pre = X @ w["w_enc"] + w["b_enc"]
    acts = (pre > w["threshold"]) * torch.relu(pre)
    own = only(tmp_path / "a")
    agrees(own, acts, acts @ w["w_dec"] + w["b_dec"] + X @ w["affine_skip_connection"])
    assert (own.kind, own.layer, own.reads, own.writes, own.model) == (
        "skip_transcoder", 5, "mlp_in", "mlp_out", "google/gemma-3-1b-pt"
    )  # fmt: skip
    place = "model.layers.2.self_attn.o_proj.input"
    scoped(tmp_path / "b", (place, place), **lower())
    assert (only(tmp_path / "b").layer, only(tmp_path / "b").reads) == (2, "attn_z")


@pytest.mark.parametrize("padded", [True, False])
def test_gemma_scope_2_across_layers(tmp_path: Path, padded: bool) -> None:
    layers, each = 3, []
    for i in range(layers):
        w = lower(w_dec=draw(F, layers, D), affine_skip_connection=draw(D, D))
        each.append(w)
        held = w if padded else w | {"w_dec": w["w_dec"][:, i:]}
        save_file({key: value.contiguous() for key, value in held.items()},
                  tmp_path / f"params_layer_{i}.safetensors")  # fmt: skip
    found = load(tmp_path, model="gemma-3-1b-pt")
    for i, (own, w) in enumerate(zip(found, each, strict=True)):
        pre = X @ w["w_enc"] + w["b_enc"]
        acts = (pre > w["threshold"]) * torch.relu(pre)
        written = torch.einsum("bf,ftd->btd", acts, w["w_dec"][:, i:])
        written[:, 0] += w["b_dec"] + X @ w["affine_skip_connection"]
        agrees(own, acts, written)
        assert (own.layer, own.targets, own.reads) == (i, tuple(range(i, layers)), "mlp_in")
    assert [own.layer for own in load(tmp_path, layers=[1, 2])] == [1, 2]
    with pytest.raises(DictionaryError, match="no dictionary of layer 4"):
        load(tmp_path, layers=[4])


# -- circuit-tracer --------------------------------------------------------------------------------
def yaml_beside(folder: Path, **more: str) -> None:
    said = {"model_name": "meta-llama/Llama-3.2-1B", "model_kind": "transcoder_set",
            "feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out",
            "scan": "llama", **more}  # fmt: skip
    (folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in said.items()))


def test_circuit_tracer(tmp_path: Path) -> None:
    yaml_beside(tmp_path, feature_input_hook="mlp.hook_in", feature_output_hook="mlp.hook_out")
    gates = draw(1, F).abs()
    for layer, more in enumerate(({}, {"W_skip": draw(D, D)},
                                  {"activation_function.threshold": gates})):  # fmt: skip
        w = {"W_enc": draw(F, D), "b_enc": draw(F), "W_dec": draw(F, D), "b_dec": draw(D), **more}
        save_file(w, tmp_path / f"layer_{layer}.safetensors")
        pre = torch.nn.functional.linear(X, w["W_enc"], w["b_enc"])
        acts = pre * (pre > gates) if layer == 2 else torch.relu(pre)
        written = acts @ w["W_dec"] + w["b_dec"]
        own = only(tmp_path / f"layer_{layer}.safetensors")
        agrees(own, acts, written + X @ w["W_skip"].T if layer == 1 else written)
        assert (own.layer, own.reads, own.writes) == (layer, "mlp_in", "mlp_raw")
    assert len(load(tmp_path)) == 3


def test_circuit_tracer_across_layers(tmp_path: Path) -> None:
    layers, each = 3, []
    yaml_beside(tmp_path, model_kind="cross_layer_transcoder")
    for i in range(layers):
        w = {"W_enc": draw(F, D), "b_enc": draw(F), "b_dec": draw(D), "threshold": draw(F).abs()}
        save_file({f"{key}_{i}": value for key, value in w.items()},
                  tmp_path / f"W_enc_{i}.safetensors")  # fmt: skip
        w["W_dec"] = draw(F, layers - i, D)
        save_file({f"W_dec_{i}": w["W_dec"]}, tmp_path / f"W_dec_{i}.safetensors")
        each.append(w)
    found = load(tmp_path)
    total, want = torch.zeros(len(X), layers, D), torch.zeros(len(X), layers, D)
    for i, (own, w) in enumerate(zip(found, each, strict=True)):
        pre = X @ w["W_enc"].T + w["b_enc"]
        acts = pre * (pre > w["threshold"])
        want[:, i:] += torch.einsum("bf,ftd->btd", acts, w["W_dec"])
        total[:, i:] += own(X)
        assert own.kind == "cross_layer_transcoder"
    want += torch.stack([w["b_dec"] for w in each])  # once for each layer that is written in
    torch.testing.assert_close(total, want, atol=1e-5, rtol=1e-5)


def test_circuit_tracer_that_names_files_elsewhere(tmp_path: Path) -> None:
    yaml_beside(tmp_path, transcoders='["hf://someone/somewhere/layer_0.npz"]')
    with pytest.raises(DictionaryError, match="download them"):
        load(tmp_path)


# -- sparsify --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("module", "transcode", "reads", "writes"),
    [
        ("layers.3.mlp", True, "mlp_in", "mlp_raw"),
        ("layers.3.mlp", False, "mlp_raw", "mlp_raw"),
        ("layers.3", False, "resid_post", "resid_post"),
    ],
)
def test_sparsify(tmp_path: Path, module: str, transcode: bool, reads: str, writes: str) -> None:
    w = {"encoder.weight": draw(F, D), "encoder.bias": draw(F), "W_dec": draw(F, D),
         "b_dec": draw(D)}  # fmt: skip
    if transcode:
        w["W_skip"] = draw(D, D)
    settings = {"activation": "topk", "k": 3, "num_latents": F, "d_in": D, "transcode": transcode,
                "expansion_factor": 32, "normalize_decoder": True, "skip_connection": transcode,
                "multi_topk": False, "signed": False}  # fmt: skip
    settled(tmp_path / module, "sae.safetensors", settings, **w)
    own = only(tmp_path)
    x = X if transcode else X - w["b_dec"]
    acts = topk(torch.nn.functional.linear(x, w["encoder.weight"], w["encoder.bias"]), 3)
    written = acts @ w["W_dec"] + w["b_dec"]
    agrees(own, acts, written + X @ w["W_skip"].mT if transcode else written)
    assert (own.layer, own.reads, own.writes, own.k) == (3, reads, writes, 3)


# -- dictionary_learning ---------------------------------------------------------------------------
def linear() -> dict[str, Tensor]:
    return {"encoder.weight": draw(F, D), "encoder.bias": draw(F), "decoder.weight": draw(D, F)}


def auto_encoder() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    w = linear() | {"bias": draw(D)}
    acts = torch.relu((X - w["bias"]) @ w["encoder.weight"].T + w["encoder.bias"])
    return w, acts, acts @ w["decoder.weight"].T + w["bias"]


def auto_encoder_new() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    w = linear() | {"decoder.bias": draw(D)}
    acts = torch.relu(X @ w["encoder.weight"].T + w["encoder.bias"])
    return w, acts, acts @ w["decoder.weight"].T + w["decoder.bias"]


def gated() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    w = linear() | {"r_mag": draw(F), "gate_bias": draw(F), "mag_bias": draw(F),
                    "decoder_bias": draw(D)}  # fmt: skip
    del w["encoder.bias"]
    inner = (X - w["decoder_bias"]) @ w["encoder.weight"].T
    acts = ((inner + w["gate_bias"]) > 0) * torch.relu(w["r_mag"].exp() * inner + w["mag_bias"])
    written = acts @ w["decoder.weight"].T + w["decoder_bias"]
    return w, acts * w["decoder.weight"].norm(dim=0), written


def jump_relu() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    w = sae(threshold=draw(F).abs())
    pre = X @ w["W_enc"] + w["b_enc"]
    acts = torch.relu(pre * (pre > w["threshold"]))
    return w, acts * w["W_dec"].norm(dim=1), acts @ w["W_dec"] + w["b_dec"]


def top_k() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    w = linear() | {"b_dec": draw(D), "k": torch.tensor(2), "threshold": torch.tensor(-1.0)}
    acts = topk((X - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"], 2)
    return w, acts, acts @ w["decoder.weight"].T + w["b_dec"]


def batch_top_k() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    w = linear() | {"b_dec": draw(D), "k": torch.tensor(2), "threshold": torch.tensor(1.2)}
    acts = torch.relu((X - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
    acts = acts * (acts > w["threshold"])
    return w, acts, acts @ w["decoder.weight"].T + w["b_dec"]


def matryoshka() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    w = sae(k=torch.tensor(2), threshold=torch.tensor(1.2), active_groups=torch.tensor(1))
    acts = torch.relu((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    acts = acts * (acts > w["threshold"])
    return w, acts, acts @ w["W_dec"] + w["b_dec"]


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("AutoEncoder", auto_encoder), ("AutoEncoderNew", auto_encoder_new),
        ("GatedAutoEncoder", gated), ("JumpReluAutoEncoder", jump_relu),
        ("AutoEncoderTopK", top_k), ("BatchTopKSAE", batch_top_k),
        ("MatryoshkaBatchTopKSAE", matryoshka),
    ],
)  # fmt: skip
def test_dictionary_learning(
    tmp_path: Path, kind: str, made: Callable[[], tuple[dict[str, Tensor], Tensor, Tensor]]
) -> None:
    w, acts, written = made()
    trainer = {"dict_class": kind, "activation_dim": D, "dict_size": F, "k": 2, "layer": 12,
               "lm_name": "google/gemma-2-2b", "submodule_name": "resid_post_layer_12"}  # fmt: skip
    folder = tmp_path / "trainer_0"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"io": "out"}}))
    torch.save(w, folder / "ae.pt")
    own = only(tmp_path)
    agrees(own, acts, written)
    assert (own.layer, own.reads, own.model) == (12, "resid_post", "google/gemma-2-2b")


class Opens:
    """What a pickle would execute."""

    def __reduce__(self) -> Any:
        return (open, ("opened", "w"))


def test_nothing_in_a_pickle_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "trainer_0"
    folder.mkdir()
    trainer = {"dict_class": "AutoEncoder", "layer": 1, "submodule_name": "resid_post_layer_1"}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
    torch.save({"bias": draw(D), "more": Opens()}, folder / "ae.pt")
    with pytest.raises(DictionaryError, match="not a pickle of tensors alone"):
        load(folder)
    assert not (tmp_path / "opened").exists()


# -- whole files -----------------------------------------------------------------------------------
def test_every_format_has_a_test_here() -> None:
    tested = {"circuit_tracer", "dictionary_learning", "gemma_scope", "gemma_scope_2", "saelens",
              "sparsify"}  # fmt: skip
    assert set(formats()) == tested


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"activation": "topk", "k": 3},
        {"activation": "jumprelu", "threshold": draw(F).abs()},
        {"activation": "topk", "k": 3, "skip": draw(D, D)},
        {"reads": "resid_mid", "writes": "resid_mid", "activation": "topk", "k": 2},
        {"reads": "neurons", "writes": "neurons"},
        {"reads": "mlp_normalized", "writes": "mlp_raw"},
    ],
)
def test_what_is_saved_is_loaded(tmp_path: Path, changed: dict[str, Any]) -> None:
    own = Dictionary(2, draw(F, D), draw(F), draw(F, D), draw(D), model="mini", **changed)
    save([own], tmp_path)
    back = only(tmp_path)
    for name, tensor in own.tensors().items():
        assert torch.equal(getattr(back, name), tensor)
    for name in ("kind", "layer", "reads", "writes", "activation", "k", "model"):
        assert getattr(back, name) == getattr(own, name)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    settled(tmp_path / "cut", WEIGHTS, six("standard"), **sae())
    whole = (tmp_path / "cut" / WEIGHTS).read_bytes()
    (tmp_path / "cut" / WEIGHTS).write_bytes(whole[:-7])
    with pytest.raises(DictionaryError, match="not a file of safetensors"):
        load(tmp_path / "cut")
    settled(tmp_path / "nan", WEIGHTS, six("standard"), **sae(b_dec=torch.full((D,), math.nan)))
    with pytest.raises(DictionaryError, match="not a finite number"):
        load(tmp_path / "nan")
    settled(tmp_path / "text", WEIGHTS, six("standard"), **sae())
    (tmp_path / "text" / "cfg.json").write_text("{")
    with pytest.raises(DictionaryError, match="cannot be read"):
        load(tmp_path / "text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DictionaryError, match="holds no dictionary"):
        load(tmp_path / "empty")
    with pytest.raises(DictionaryError, match="no file or folder"):
        load(tmp_path / "nothing")
    with pytest.raises(DictionaryError, match="did you mean 'mlp_in'"):
        load(tmp_path / "text", reads="mlp-in")


def test_a_dictionary_before_the_norms_weight_is_the_same_one_behind_it() -> None:
    """Gemma Scope's transcoders read what an RMSNorm gives without its weight."""
    from families import dataset

    from circuitkit.engine.record import record

    for name in ("gemma2", "gpt2"):
        model = family(name)
        batch = next(iter(dataset()))
        run = record(model, model.start(batch.clean, batch.mask))
        own = Dictionary(
            1, draw(F, 32), draw(F), draw(F, 32), draw(32), reads="mlp_normalized",
            writes="mlp_out", skip=draw(32, 32),
        )  # fmt: skip
        require_fitting(own, model)
        same = fitted(own, model)
        assert same.reads == "mlp_in"
        given, read = (site_values(model, run, 1, x) for x in ("mlp_normalized", "mlp_in"))
        real = batch.mask
        torch.testing.assert_close(same(read[real]), own(given[real]), atol=1e-4, rtol=1e-4)
        if name == "gemma2":
            ln2 = model.bridge.blocks[1].ln2.original_component
            mid = site_values(model, run, 1, "resid_mid")[real]
            unit = mid * torch.rsqrt(mid.square().mean(-1, keepdim=True) + ln2.eps)
            torch.testing.assert_close(given[real], unit, atol=1e-5, rtol=1e-4)
            assert (ln2.weight.abs() > 0.01).any()
        else:
            assert torch.equal(given, read)
