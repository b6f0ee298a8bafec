"""The proof on the spot: it holds for every family, and fails where a model is not the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import (
    BARE,
    ENDS,
    FAMILIES,
    GROUPED,
    RELATIVES,
    SMALL,
    _hf,
    build,
    distance,
    in_turn,
    model,
)
from torch import Tensor
from transformers import AutoTokenizer

from circuitkit.data.batches import Dataset
from circuitkit.data.lint import check_prompts
from circuitkit.data.prompts import Prompt
from circuitkit.discovery import eap
from circuitkit.engine.record import record
from circuitkit.errors import DataError, ModelError, UnsupportedModelError
from circuitkit.models.checking import Proof, Row, check
from circuitkit.models.loading import MINI, load
from circuitkit.models.transformer_lens import Transformer, from_module

SUMS = "the writers sum to what every reader reads"
PARTS = "each component alone gives what it gives in the model"
NOISE = "noise added to one writer arrives at each later reader unchanged"
CLEAN = "keeping every edge gives the clean logits"
NOTHING = "keeping no edge gives the carried logits"
SLOPE = "attribution is the slope of the masked run"


def failing(proof: Proof) -> set[str]:
    """The statements that do not hold."""
    return {row.statement for row in proof.rows if not row.holds}


# -- sound models ----------------------------------------------------------------------------------
@pytest.mark.parametrize(("family", "seed"), in_turn(0, 1))
def test_every_statement_holds_for_every_family(family: str, seed: int) -> None:
    proof = check(model(family), seed=seed)
    assert {row.statement for row in proof.rows} == {SUMS, PARTS, NOISE, CLEAN, NOTHING, SLOPE}
    assert all(row.error < 1e-4 for row in proof.rows)
    assert proof.holds
    proof.require()


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_every_statement_holds_in_other_precisions(family: str, kind: torch.dtype) -> None:
    proof = check(from_module(build(family).to(kind), name=family))
    assert proof.holds, proof
    if kind == torch.float64:
        assert all(row.error < 1e-5 for row in proof.rows)


@pytest.mark.parametrize("family", [*FAMILIES, *RELATIVES])
def test_half_precision_runs_as_in_hugging_face(family: str) -> None:
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    mask = torch.ones_like(tokens).bool()
    for kind in (torch.bfloat16, torch.float16) if family in FAMILIES else (torch.bfloat16,):
        module = build(family).to(kind).eval()
        m = from_module(module, name=family)
        with torch.no_grad():
            run = record(m, m.start(tokens, mask))
            logits = m.unembed(run.final[0, -1:])
            own = m.native(tokens, mask).logits[:, -1]
            out = own if hasattr(module, "original_model") else module(tokens).logits[:, -1]
        assert {x.dtype for x in (*run.reads, *run.shares, run.final, own)} == {kind}
        bound = 0.3 if kind == torch.bfloat16 else 0.05
        assert distance(own, out) < bound
        assert distance(logits, own) < bound


def test_a_proof_prints_every_statement_with_its_verdict() -> None:
    good, bad = Row("this is so", 1e-7, 1e-3), Row("that is so", 0.5, 1e-3)
    text = repr(Proof("tiny", (good, bad)))
    assert text.splitlines()[0] == "tiny"
    assert "ok" in text.splitlines()[1]
    assert "FAIL" in text.splitlines()[2]
    assert "this is so" in text
    assert "that is so" in text


@pytest.mark.parametrize("error", [float("nan"), float("inf"), 0.5])
def test_an_error_that_is_no_number_is_no_proof(error: float) -> None:
    proof = Proof("tiny", (Row("this is so", 0.0, 1e-3), Row("that is so", error, 1e-3)))
    assert not proof.holds
    with pytest.raises(UnsupportedModelError, match=r"'tiny' .* it is false that that is so"):
        proof.require()


# -- broken ones -----------------------------------------------------------------------------------
def broken(
    family: str, name: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Any:
    """A model of which one function is replaced."""
    m: Any = from_module(build(family), name=family)
    setattr(m, name, change(getattr(m, name)))
    return m


def scaled(factor: float) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The function's output times a factor."""
    return lambda whole: lambda *args: whole(*args) * factor


def shrunk(whole: Callable[..., Any]) -> Callable[..., Any]:
    """Gradients that are pulled back too small."""
    return lambda layer: lambda *args: whole(layer)(*args) * 0.9


def deaf(whole: Callable[..., Any]) -> Callable[..., Any]:
    """Queries swapped with keys."""

    def read(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = whole(*args)
        return k, q, v

    return read


def unshared(whole: Callable[..., Any]) -> Callable[..., Any]:
    """A head's share without the scale of the post-norm."""
    return lambda layer, z: z


def no_bias(_: Any) -> Callable[..., Any]:
    """No output bias."""
    return lambda layer: None


BREAKS: dict[str, tuple[str, str, Any, set[str]]] = {
    "heads write too little": ("gpt2", "write", scaled(0.9), {SUMS, NOISE}),
    "heads write too little after a norm": ("gemma2", "write", scaled(0.9), {SUMS, NOISE}),
    "the scale of a post-norm is missing": ("gemma2", "share", unshared, {SUMS, NOISE}),
    "another post-norm": ("olmo2", "share", unshared, {SUMS, NOISE}),
    "the output bias is missing": ("gpt2", "constant", no_bias, {SUMS}),
    "MLPs write too much": ("llama", "mlp", scaled(1.1), {PARTS}),
    "queries and keys are swapped": ("gpt2", "project", deaf, {PARTS}),
    "one port is read wrongly": ("llama", "read", scaled(1.05), {CLEAN, SLOPE}),
    "gradients are too small": ("qwen3", "pull", shrunk, {SLOPE}),
    "logits are scaled": ("gpt2", "unembed", scaled(1.1), {CLEAN, NOTHING}),
}


@pytest.mark.parametrize("case", BREAKS)
def test_a_model_that_is_not_the_sum_of_its_parts_is_found_out(case: str) -> None:
    family, name, change, expected = BREAKS[case]
    proof = check(broken(family, name, change))
    assert expected <= failing(proof), proof
    with pytest.raises(UnsupportedModelError, match="is not the sum of its parts"):
        proof.require()


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_a_small_error_in_one_head_of_the_last_layer_is_found_out(family: str) -> None:
    """Its share is 5 % too large."""
    m = from_module(build(family), name=family)
    layer = m.layers[-1]
    layer.out = layer.out.clone()
    layer.out[1] *= 1.05
    assert SUMS in failing(check(m))


def test_a_wrong_wiring_is_found_out() -> None:
    """An MLP that is said to read what its layer's attention reads, and does not."""
    m = from_module(build("llama"), name="llama")
    m.wiring = replace(m.wiring, parallel=True)
    assert {SUMS, CLEAN} <= failing(check(m))
    m = from_module(build("neox-parallel"), name="neox-parallel")
    m.wiring = replace(m.wiring, parallel=False)
    assert {SUMS, CLEAN} <= failing(check(m))


def test_a_model_whose_parts_raise_is_refused() -> None:
    def raising(*_: Any) -> Tensor:
        raise TypeError("missing 1 required positional argument: 'residual'")

    with pytest.raises(UnsupportedModelError, match=r"cannot be called one by one .*'residual'"):
        check(broken("gpt2", "mlp", lambda _: raising))


def test_a_model_that_gives_no_numbers_is_refused() -> None:
    module = build("gpt2")
    with torch.no_grad():
        module.transformer.h[1].mlp.c_fc.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match=r"c_fc.weight' of 'gpt2' holds nan or infinity"):
        from_module(module, name="gpt2")


# -- what load refuses -----------------------------------------------------------------------------
def _bloom() -> Any:
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(BloomConfig(vocab_size=60, hidden_size=32, n_layer=2, n_head=4))


def _mla() -> Any:
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    return DeepseekV3ForCausalLM(
        DeepseekV3Config(
            vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, intermediate_size=64, moe_intermediate_size=32,
            n_routed_experts=4, n_group=2, topk_group=1, num_experts_per_tok=2, q_lora_rank=8,
            kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8,
        )
    )  # fmt: skip


def _mamba() -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(MambaConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2))


def _t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    )


def _opt(**changes: Any) -> Callable[[], Any]:
    return _hf("OPTForCausalLM", **BARE, ffn_dim=48, **{"word_embed_proj_dim": 32, **changes})


def _falcon() -> Any:
    return _hf("FalconForCausalLM", **BARE, num_kv_heads=2, new_decoder_architecture=True, **ENDS)()


def _mpt() -> Any:
    return _hf("MptForCausalLM", d_model=32, n_heads=4, n_layers=2, vocab_size=60)()


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "attention that adds the residual": (_bloom, "Bloom.* add the residual stream within"),
    "MLPs that add the residual": (_mpt, "Mpt.* add the residual stream within"),
    "a stream that is normalised": (_opt(do_layer_norm_before=False), "normalises the residual"),
    "a projected embedding": (_opt(word_embed_proj_dim=16), "projects the embedding"),
    "queries and keys by group": (_falcon, "new decoder architecture"),
    "latent attention": (_mla, "latent attention"),
    "a state space": (_mamba, "recurrent"),
    "an encoder and a decoder": (_t5, "is an encoder-decoder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_load_refuses_what_is_no_such_graph_with_the_reason(case: str) -> None:
    make, reason = REFUSED[case]
    torch.manual_seed(0)
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        load(make())
    assert "\n" not in str(caught.value)
    assert "use a" in str(caught.value) or "are supported" in str(caught.value)


def test_load_refuses_what_is_no_language_model() -> None:
    with pytest.raises(UnsupportedModelError, match="is not a Hugging Face model"):
        load(torch.nn.Linear(3, 3))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_load_takes_a_module_that_is_there(family: str) -> None:
    module = build(family)
    loaded = load(module)
    assert isinstance(loaded, Transformer)
    assert loaded.name == type(module).__name__
    assert loaded.wiring == model(family).wiring
    assert not any(p.requires_grad for p in loaded.bridge.parameters())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_hf("OPTForCausalLM", **BARE, ffn_dim=48, word_embed_proj_dim=32,
             _remove_final_layer_norm=True), "no final norm"),
        (_hf("GPTNeoXForCausalLM", **SMALL, attention_bias=False), "has no biases"),
        (_hf("OpenAIGPTLMHeadModel", "OpenAIGPTConfig", n_embd=32, n_layer=1, n_head=4,
             vocab_size=60), "nothing arrives as it was written"),
        (_hf("MambaForCausalLM", hidden_size=32, num_hidden_layers=1, vocab_size=60,
             state_size=4), "recurrent"),
    ],
    ids=["no final norm", "no biases", "post-norm", "recurrent"],
)  # fmt: skip
def test_an_architecture_is_refused_with_its_reason(make: Callable[[], Any], reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"is not supported: .*{reason}"):
        load(make())


@pytest.mark.parametrize("window", [1, 2, 7])
@pytest.mark.parametrize("context", [1, 3])
def test_short_contexts_and_windows_load(context: int, window: int) -> None:
    made = _hf("Gemma2ForCausalLM", **{**GROUPED, "max_position_embeddings": context},
               head_dim=12, sliding_window=window)  # fmt: skip
    torch.manual_seed(0)
    assert load(made()).context == context


def test_a_path_that_is_no_directory_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(ModelError, match="is a file, and a model is a directory"):
        load(tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="there is no directory 'nowhere/'"):
        load("nowhere/")


def test_a_tokenizer_may_have_more_tokens_than_the_model_and_those_are_refused() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    size = len(tokenizer)
    tokenizer.add_tokens([" zap", " zop"])
    m = load(MINI, tokenizer=tokenizer)
    fits = Prompt("The cat is", "The dog is", (" he",))
    odd = Prompt("The zop is", "The zap is", (" he",))
    assert Dataset.of([fits], m)
    says = rf"token id 1,06[89], and .*vocabulary has {size:,} tokens"
    with pytest.raises(DataError, match=says):
        eap(m, Dataset.of([odd], m))
    found = check_prompts([fits, odd], m)
    assert len(found.misfits) == 1
    assert f"{size + 1:,}" in found.misfits[0]


@pytest.mark.parametrize("dtype", ["float33", "Tensor", ""])
def test_a_precision_that_does_not_exist_is_refused(dtype: str) -> None:
    with pytest.raises(ModelError, match="is not a dtype; choose float32"):
        load("somewhere", dtype=dtype)


def test_a_device_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ModelError, match="device 'abacus' cannot be used"):
        load("somewhere", device="abacus")


@pytest.mark.parametrize("place", ["./no/such/place", "/no/such/place", "no/such/place"])
def test_a_place_without_a_model_is_refused_at_once(place: str) -> None:
    with pytest.raises(ModelError, match="no such"):
        load(place.replace("no/such", "no such"))
