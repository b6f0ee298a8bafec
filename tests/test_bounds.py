"""What a model can be given: prompts that its context holds, tokens of its vocabulary, a device and
a dtype that there are; anything else is refused with both numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from families import BARE, ENDS, GROUPED, SMALL, _hf, _stir, build, dataset, model

import circuitkit as ck
from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.errors import CircuitkitError, DataError, ModelError
from circuitkit.truth.rasp.compiler import compile_program
from circuitkit.truth.rasp.library import named


def _gpt2(positions: int) -> Any:
    return _hf(
        "GPT2LMHeadModel", n_embd=32, n_layer=2, n_head=4, vocab_size=60, n_positions=positions,
        **ENDS,
    )()  # fmt: skip


def _opt(positions: int) -> Any:
    shape = {**BARE, "max_position_embeddings": positions}
    return _hf("OPTForCausalLM", **shape, ffn_dim=48, word_embed_proj_dim=32)()


def _llama(positions: int) -> Any:
    return _hf("LlamaForCausalLM", **{**GROUPED, "max_position_embeddings": positions})()


def _neox(positions: int) -> Any:
    return _hf("GPTNeoXForCausalLM", **{**SMALL, "max_position_embeddings": positions})()


# -- lengths ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("positions", [1, 2, 4, 7])
@pytest.mark.parametrize("make", [_gpt2, _opt, _llama, _neox])
def test_a_context_shorter_than_the_checks_prompts(
    make: Callable[[int], Any], positions: int
) -> None:
    module = make(positions)
    _stir(module)
    loaded = ck.load(module)
    assert loaded.context == positions
    assert ck.check(loaded).holds
    longer = dataset((positions + 1, positions + 3)) if positions > 1 else dataset((3, 3))
    with pytest.raises(DataError, match=rf"has \d+ tokens, and .* positions for {positions};"):
        ck.patch_heads(loaded, longer)


def test_a_context_of_less_than_nothing_is_refused() -> None:
    module = _llama(64)
    module.config.max_position_embeddings = -1
    with pytest.raises(ModelError, match="its context holds -1 tokens"):
        ck.load(module)


def test_a_short_context_is_used_to_its_end() -> None:
    module = _gpt2(4)
    _stir(module)
    effects = ck.patch_heads(ck.load(module), dataset((4, 3)))
    assert effects.values.shape[0] == 2


def test_distances_alone_have_no_end() -> None:
    loaded = model("falcon-alibi")
    assert loaded.context is None
    assert ck.patch_heads(loaded, dataset((70, 70))).values.size


# -- tokens ----------------------------------------------------------------------------------------
def example(**changes: tuple[int, ...]) -> Example:
    values: dict[str, Any] = {
        "clean": (3, 1, 4),
        "corrupt": (3, 5, 4),
        "correct": (7,),
        "wrong": (8,),
    }
    return Example(**{**values, **changes}, spans={})


VERBS: dict[str, Callable[[Any, Dataset], Any]] = {
    "discover": lambda m, data: ck.discover(m, data, edges=5),
    "eap": ck.discovery.eap,
    "exact": ck.discovery.exact,
    "run": lambda m, data: ck.measure(m, m.wiring.legal, data, "logit_diff"),
    "patch_heads": ck.patch_heads,
    "patch_edges": lambda m, data: ck.patch_edges(m, ["input->logits"], data),
    "evaluate": lambda m, data: ck.evaluate(m, m.wiring.legal, data),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "changes",
    [{"clean": (3, 60, 4)}, {"corrupt": (3, 99, 4)}, {"clean": (-2, 1, 4)}, {"correct": (60,)},
     {"wrong": (7777,)}, {"correct": (-3,)}],
    ids=str,
)  # fmt: skip
@pytest.mark.unchecked
def test_a_token_outside_the_vocabulary_is_refused(
    changes: dict[str, tuple[int, ...]], verb: str
) -> None:
    data = Dataset((example(), example(**changes)), batch_size=2)
    with pytest.raises(DataError, match=r"token id (60|99|-2|7,777|-3),.* 60 tokens"):
        VERBS[verb](model("gpt2"), data)


def test_a_compiled_program_has_bounds_too() -> None:
    compiled = compile_program(named("reverse"))
    size = len(compiled.embedding)
    tokens = torch.full((1, 2), size)
    with pytest.raises(DataError, match=f"token id {size},"):
        compiled.start(tokens, torch.ones_like(tokens).bool())


def test_the_last_token_of_the_vocabulary_is_one() -> None:
    data = Dataset((example(clean=(59, 1, 4), wrong=(59,)),) * 2, batch_size=2)
    assert ck.patch_heads(model("gpt2"), replace(data)).values.size


# -- devices and dtypes ----------------------------------------------------------------------------
@pytest.mark.parametrize("device", ["abacus", "cuda:99", "cpu:x", "", 99, object(), [], "mps:3"])
@pytest.mark.unchecked
def test_a_device_that_is_not_there_is_refused(device: Any) -> None:
    if device == "":
        assert ck.load(build("gpt2"), device=device).device.type == "cpu"
        return
    with pytest.raises(ModelError, match="this machine has cpu") as caught:
        ck.load(build("gpt2"), device=device)
    assert "\n" not in str(caught.value)


def test_a_device_without_values_is_refused() -> None:
    with pytest.raises(CircuitkitError, match="meta"):
        ck.load("mini", device="meta")


@pytest.mark.parametrize(
    "dtype", ["int8", torch.int64, "complex64", torch.bool, "float8_e4m3fn", 3]
)
@pytest.mark.unchecked
def test_a_dtype_of_no_weights_is_refused(dtype: Any) -> None:
    with pytest.raises(ModelError, match="is not a dtype; choose float32"):
        ck.load(build("gpt2"), dtype=dtype)
