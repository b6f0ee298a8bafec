"""Dictionaries of features: what they compute, where they read, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from families import build, dataset
from families import model as family
from torch import Tensor

from circuitkit.engine.record import record
from circuitkit.errors import DictionaryError
from circuitkit.features import Dictionary
from circuitkit.features.sites import require_fitting, site_values, width_of
from circuitkit.models.transformer_lens import from_module


def made(f: int = 7, d: int = 4, e: int | None = None, seed: int = 0, **changed: Any) -> Dictionary:
    """A random dictionary."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    e = d if e is None else e
    parts = {"encoder": draw(f, d), "encoder_bias": draw(f), "decoder": draw(f, e), "bias": draw(e)}
    return Dictionary(1, **{**parts, **changed})


X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))


# -- what it computes ------------------------------------------------------------------------------
def test_a_relu_dictionary_by_hand() -> None:
    own = made(skip=torch.eye(4) * 2)
    for token in X.flatten(0, 1):
        written = own.bias + 2 * token
        for row, shift, out in zip(own.encoder, own.encoder_bias, own.decoder, strict=True):
            written = written + max(0.0, float(row @ token + shift)) * out
        torch.testing.assert_close(own(token), written)


def test_a_threshold_switches_a_feature_off_without_changing_it() -> None:
    plain = made()
    gate = plain.pre(X).flatten(0, 1).median(0).values
    own = replace(plain, activation="jumprelu", threshold=gate)
    pre, active = plain.pre(X), own.encode(X)
    above = (pre > gate) & (pre > 0)
    assert 0 < above.sum() < (pre > 0).sum()
    assert torch.equal(active, pre * above)
    below_zero = replace(own, threshold=torch.full((7,), -1.0))
    assert torch.equal(below_zero.encode(X), plain.encode(X))


def test_topk_keeps_the_k_largest_that_are_positive() -> None:
    own = made(activation="topk", k=3)
    active = own.encode(X)
    for pre, got in zip(own.pre(X).flatten(0, 1), active.flatten(0, 1), strict=True):
        best = sorted(pre.tolist(), reverse=True)[:3]
        assert sorted(got[got > 0].tolist(), reverse=True) == [v for v in best if v > 0]
    pre = own.pre(X)
    threshold = own.thresholds(pre)
    assert torch.equal(torch.where(pre > threshold, pre, torch.zeros_like(pre)), active)
    ranked = pre.sort(descending=True).values
    middle = ((ranked[..., 2] + ranked[..., 3]) / 2).clamp(min=0)
    torch.testing.assert_close(threshold[..., 0], middle)
    every = replace(own, k=7)
    assert torch.equal(every.encode(X), made().encode(X))


def test_the_active_features_are_those_that_are_not_zero() -> None:
    own = made(activation="topk", k=2)
    found = own.active(X[0])
    dense = torch.zeros(5, 7)
    dense[found.tokens, found.features] = found.values
    assert torch.equal(dense, own.encode(X[0]))
    assert found.tokens.tolist() == sorted(found.tokens.tolist())


def test_a_cross_layer_dictionary_writes_in_each_layer() -> None:
    several = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(2))
    own = replace(made(), decoder=several, targets=(1, 2, 3))
    assert own.kind == "cross_layer_transcoder"
    active, written = own.encode(X), own(X)
    for place in range(3):
        alone = active @ several[:, place] + (own.bias if place == 0 else 0)
        torch.testing.assert_close(written[..., place, :], alone)
    assert torch.equal(own.decoder_rows([4, 1]), several[[4, 1]])


def test_names_kinds_and_copies() -> None:
    own = made()
    assert (own.kind, own.feature(5), own.n_features) == ("transcoder", "m1.f5", 7)
    assert replace(own, skip=torch.eye(4)).kind == "skip_transcoder"
    stream = replace(own, reads="resid_post", writes="resid_post")
    assert (stream.kind, stream.prefix) == ("autoencoder", "r1")
    assert replace(own, reads="attn_z", writes="attn_z").prefix == "a1"
    half = own.to(torch.float16)
    assert (half.dtype, own.dtype) == (torch.float16, torch.float32)
    assert torch.equal(half.encoder_rows(torch.tensor([2])), own.encoder[[2]].half())
    assert repr(own) == (
        "transcoder of m1: 7 features, relu, mlp_in to mlp_out, 4 to 4, float32 on cpu"
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"encoder_bias": torch.zeros(6)}, "encoder_bias"),
        ({"decoder": torch.zeros(4, 7)}, "bias"),
        ({"skip": torch.zeros(3, 4)}, "skip"),
        ({"threshold": torch.zeros(6), "activation": "jumprelu"}, "threshold"),
        ({"threshold": torch.zeros(7)}, "'relu' with a threshold"),
        ({"activation": "jumprelu"}, "without a threshold"),
        ({"activation": "topk"}, "k=None"),
        ({"activation": "topk", "k": 8}, "k=8"),
        ({"k": 2}, "'relu' with k=2"),
        ({"activation": "jumprelo"}, "did you mean 'jumprelu'"),
        ({"reads": "mlp_inn"}, "did you mean 'mlp_in'"),
        ({"reads": "mlp_out", "skip": torch.zeros(4, 4)}, "without skip"),
        ({"bias": torch.full((4,), torch.nan)}, "not a finite number"),
        ({"encoder": torch.zeros(7, 4, dtype=torch.long)}, "not a finite number"),
        ({"targets": (0,)}, "cannot write"),
        ({"targets": (1, 2)}, "not a dictionary"),
    ],
)  # fmt: skip
@pytest.mark.unchecked
def test_parts_that_do_not_fit_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(DictionaryError, match=said):
        made(**changed)


# -- where it reads and writes ---------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gpt2", "neox-parallel", "llama", "gemma2"])
def test_the_values_at_a_place_are_what_the_modules_of_the_model_see(name: str) -> None:
    model = family(name)
    batch = next(iter(dataset()))
    context = model.start(batch.clean, batch.mask)
    run = record(model, context)
    block = model.bridge.blocks[1]
    seen: dict[str, Tensor] = {}

    def keep(place: str) -> Any:
        def hook(_: Any, args: tuple[Any, ...], out: Any) -> None:
            seen[place + ".in"], seen[place + ".out"] = (
                args[0] if args else torch.empty(0), out[0] if isinstance(out, tuple) else out
            )  # fmt: skip

        return hook

    own = block.mlp.original_component
    handle = own.register_forward_hook(keep("mlp"))
    native = model.native(batch.clean, batch.mask)
    handle.remove()
    real = batch.mask
    for site, want in (
        ("mlp_in", seen["mlp.in"]), ("resid_mid", native.mlp_in[1]), ("mlp_out", native.mlps[1]),
        ("resid_pre", native.attn_in[1]), ("resid_post", native.attn_in[2]),
        ("attn_z", native.z[1].flatten(2)),
    ):  # fmt: skip
        got = site_values(model, run, 1, site)
        torch.testing.assert_close(got[real], want[real], atol=2e-5, rtol=1e-4, msg=site)
        assert got.shape[-1] == width_of(model, 1, site)
    torch.testing.assert_close(site_values(model, run, 2, "resid_post"), run.final)
    last = site_values(model, run, 1, "attn_out") + run.reads[2]
    if name != "neox-parallel":
        torch.testing.assert_close(last, site_values(model, run, 1, "resid_mid"))
    assert site_values(model, run, 1, "neurons").shape[-1] == width_of(model, 1, "neurons")
    if name == "gemma2":
        with pytest.raises(DictionaryError, match="a norm or a multiplier follows"):
            site_values(model, run, 1, "mlp_raw")
    else:
        torch.testing.assert_close(
            site_values(model, run, 1, "mlp_raw")[real], seen["mlp.out"][real]
        )


def test_what_fits_a_model_and_what_does_not() -> None:
    model = family("gpt2")
    own = made(9, 32, model=model.name.upper())
    require_fitting(own, model)
    require_fitting(replace(own, model=f"someone/{model.name}"), model)
    require_fitting(replace(own, model=""), model)
    for wrong, said in (
        (replace(own, model="other"), "is of the model 'other'"),
        (replace(own, layer=3, targets=()), "has no layer 3"),
        (made(9, 24), "has 24 values at 'mlp_in'"),
        (replace(own, reads="neurons"), "has 32 values at 'neurons'"),
    ):
        with pytest.raises(DictionaryError, match=said):
            require_fitting(wrong, model)
    with pytest.raises(DictionaryError, match="has a mixture of experts in layer 1"):
        width_of(from_module(build("mixtral"), name="mixtral", experts="live"), 1, "mlp_in")
