"""How sparse an MLP is between two dictionaries: planted ones, by differences, and refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from families import double
from families import model as family

from circuitkit.engine.record import record
from circuitkit.errors import DictionaryError
from circuitkit.features import Dictionary, jacobian_sparsity
from circuitkit.features.jacobian import _of_tokens, _slopes, _through
from circuitkit.models.decoder import Decoder
from circuitkit.truth.rasp import compile_program, named

TEXTS = [(1, 2, 3, 2), (3, 1, 2), (2, 2, 1, 3)]
D = 48


def planted(w_in: torch.Tensor, w_out: torch.Tensor) -> Decoder:
    """A compiled program with an MLP of our own in its first layer."""
    plain = compile_program(named("reverse"))
    assert plain.d_model == D
    rest = [*zip(plain.w_in[1:], plain.w_out[1:], strict=True)]
    own = [(w_in, w_out), *rest]
    return replace(plain, w_in=tuple(a for a, _ in own), w_out=tuple(b for _, b in own))


def axes(site: str, scale: float = 1.0) -> Dictionary:
    """Features that are the axes: all are active, as the bias lifts them, and nothing that is read
    is 0, where a ReLU has no slope."""
    one = torch.eye(D)
    return Dictionary(0, scale * one, torch.full((D,), 5 * scale), one / scale,
                      torch.full((D,), -4.0), reads=site, writes=site)  # fmt: skip


def measured(model: Any, scale: float = 1.0) -> list[dict[str, Any]]:
    found = jacobian_sparsity(
        model, axes("mlp_in", scale), axes("mlp_out", 1 / scale), TEXTS, tokens=8
    )
    return [*found.measured]


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / D**0.5


def test_a_planted_sparse_mlp_is_found_sparse_in_its_own_features_alone() -> None:
    """Each feature that is written depends on one that is read: one entry of D is not 0."""
    one = torch.eye(D)
    model = planted(torch.cat([one, -one], 1), torch.cat([one, -one])[:, torch.randperm(D)])
    own, other, directions = measured(model)
    assert own["tokens"] == other["tokens"] == 8
    assert own["entries"] == D * D
    assert own["l1_l2"] == pytest.approx(D**-0.5, rel=1e-4)
    assert own["kurtosis"] == pytest.approx(D, rel=1e-4)
    assert own["above_0.1"] == own["above_1"] == pytest.approx(1 / D)
    assert directions["l1_l2"] == pytest.approx((2 / np.pi) ** 0.5, abs=0.02)
    assert directions["kurtosis"] == pytest.approx(3, abs=0.4)


def test_a_dense_mlp_is_found_dense() -> None:
    model = planted(random(0, D, 4 * D) * 2, random(1, 4 * D, D))
    own, _, directions = measured(model)
    for row in (own, directions):
        assert row["l1_l2"] == pytest.approx((2 / np.pi) ** 0.5, abs=0.02)
        assert row["kurtosis"] == pytest.approx(3, abs=0.5)
        assert row["above_0.1"] > 0.9
    alike = planted(torch.ones(D, 1), torch.ones(1, D))
    assert measured(alike)[0]["l1_l2"] == pytest.approx(1, rel=1e-4)


def test_how_size_is_dealt_out_does_not_count_and_the_seed_decides() -> None:
    model = planted(random(0, D, 4 * D) * 2, random(1, 4 * D, D))
    one, scaled = measured(model), measured(model, 3.0)
    for row, other in zip(one, scaled, strict=True):
        assert row.pop("features") == other.pop("features")
        assert other == pytest.approx(row, rel=1e-3)
    again = measured(model)
    assert [row.pop("features") for row in again] == ["together", "another token", "random"]
    assert again == one


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "neox-parallel"])
@pytest.mark.parametrize("site", ["mlp_in", "resid_mid"])
def test_the_jacobian_is_that_of_differences(name: str, site: str) -> None:
    """Of decode, MLP and encode, by central differences in the activations, in float64. RMSNorms
    compute in float32, which takes a larger step."""
    model, size, near = double(name), 1e-5, 1e-6
    if name in ("llama", "gemma2"):
        size, near = 5e-3, 3e-3
    width = model.d_model
    read, written = (
        Dictionary(1, random(s, 12, width).double(), random(s + 1, 12).double(),
                   random(s + 2, 12, width).double(), random(s + 3, width).double(), reads=place,
                   writes=place)
        for s, place in ((0, site), (9, "mlp_out"))
    )  # fmt: skip
    through = _through(model, read, written)
    active = random(20, 3, 12).double().abs()
    x = read.decode(active)
    token, feature = torch.ones(3, 12).nonzero(as_tuple=True)
    found = (_slopes(through, x[token], written.encoder[feature]) @ read.decoder.T).view(3, 12, 12)
    for i in range(12):
        step = torch.zeros(12).double()
        step[i] = size
        ends = [written.pre(through(read.decode(active + sign * step))) for sign in (1, -1)]
        torch.testing.assert_close(
            found[..., i], (ends[0] - ends[1]) / (2 * size), atol=near, rtol=near
        )
    entries = _of_tokens(through, x, torch.ones(3, 12), torch.ones(3, 12).bool(), read.decoder,
                         written.encoder)  # fmt: skip
    torch.testing.assert_close(entries[1], found.square().mean((1, 2)).sqrt())


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "neox-parallel"])
def test_an_mlp_is_its_norm_and_what_follows(name: str) -> None:
    model = family(name)
    tokens = torch.tensor([[5, 6, 7]])
    run = record(model, model.start(tokens, torch.ones_like(tokens).bool()))
    read = run.reads[1]
    made = model.mlp_after_norm(1, model.mlp_in(1, read))  # type: ignore[attr-defined]
    torch.testing.assert_close(made, model.mlp(1, read))


def test_what_is_not_around_one_mlp_is_refused() -> None:
    model = planted(random(0, D, D), random(1, D, D))
    pair = axes("mlp_in"), axes("mlp_out")
    later = replace(axes("mlp_out"), layer=1, targets=(1,))
    for wrong in ((*pair[::-1],), (pair[0], pair[0]), (pair[1], pair[1]), (pair[0], later),
                  (axes("resid_post"), pair[1])):  # fmt: skip
        with pytest.raises(DictionaryError, match="not around one MLP; give an autoencoder"):
            jacobian_sparsity(model, *wrong, TEXTS)
    silent = replace(pair[0], encoder_bias=torch.full((D,), -99.0))
    with pytest.raises(DictionaryError, match="no features of both dictionaries are active"):
        jacobian_sparsity(model, silent, pair[1], TEXTS)
    with pytest.raises(DictionaryError, match="load that model"):
        jacobian_sparsity(model, replace(pair[0], model="gpt2"), pair[1], TEXTS)
