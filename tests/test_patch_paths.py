"""A patched path equals the same thing done by hand, component by component."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import FAMILIES, Layers, build, dataset
from test_sweep import pairs

from circuitkit.data.batches import Batch
from circuitkit.engine.model import Activations, Context
from circuitkit.engine.record import answer, record
from circuitkit.errors import CircuitError, DataError
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.transformer_lens import Transformer, from_module
from circuitkit.patching.paths import patch_path, patch_paths, patch_senders


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Transformer:
    return from_module(build(request.param), name=request.param)


class Hand:
    """The two plain runs of one batch, and patches of the clean one done by hand."""

    def __init__(self, model: Transformer) -> None:
        self.model, self.data = model, pairs()
        self.batch: Batch = next(iter(self.data))
        self.context: Context = model.start(self.batch.clean, self.batch.mask)
        corrupt = model.start(self.batch.corrupt, self.batch.mask)
        self.clean: Activations = record(model, self.context)
        self.corrupt: Activations = record(model, corrupt)
        self.before, self.after = (Layers(model.wiring, run) for run in (self.clean, self.corrupt))

    def value(self, final: torch.Tensor) -> np.ndarray:
        logits = answer(self.model, self.batch, final)
        return logit_diff(logits, logits, self.batch).double().numpy()

    def sent(self, layer: int, head: int) -> torch.Tensor:
        """What a head writes in the corrupted run, less what it writes in the clean one."""
        z = (self.after.heads[layer] - self.before.heads[layer])[:, :, [head]]
        return self.model.write(layer, [head], z)[0]

    def query(self, layer: int, head: int, change: torch.Tensor) -> torch.Tensor:
        """The layer's queries when one head's query input alone is changed."""
        read = self.before.attn_in[layer]
        q = self.model.project(layer, read)[0].clone()
        q[:, :, head] = self.model.project(layer, read + change)[0][:, :, head]
        return q


@torch.no_grad()
def test_one_sender_into_the_logits_is_its_direct_effect(model: Transformer) -> None:
    hand = Hand(model)
    found = patch_path(model, ["a1.h1", "logits"], hand.data, logit_diff)
    expected = hand.value(hand.clean.final) - hand.value(hand.clean.final + hand.sent(1, 1))
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=1e-3)
    assert np.abs(expected).max() > 1e-2


@torch.no_grad()
def test_a_path_through_a_query_holds_everything_beside_it(model: Transformer) -> None:
    hand = Hand(model)
    path = ["a0.h1", "a2.h2.q", "a2.h2", "logits"]
    _, k, v = model.project(2, hand.before.attn_in[2])
    z = model.attend(hand.context, 2, hand.query(2, 2, hand.sent(0, 1)), k, v)
    mixed = hand.before.raw[2].clone()
    mixed[:, :, 2] = z[:, :, 2]
    share = model.share(2, mixed) - hand.before.heads[2]
    final = hand.clean.final + model.write(2, [2], share[:, :, [2]])[0]
    expected = hand.value(hand.clean.final) - hand.value(final)
    found = patch_path(model, path, hand.data, logit_diff)
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=1e-3)
    assert np.abs(expected).max() > 1e-6


@torch.no_grad()
def test_a_path_that_ends_at_a_component_flows_on_through_all_that_follows(
    model: Transformer,
) -> None:
    if model.couples or model.layers[0].ln1_post is not None:
        pytest.skip("the other heads of the layer are held, which a plain run does not do")
    hand = Hand(model)
    q = hand.query(1, 3, hand.sent(0, 2))

    def tap(stage: int, port: int, x: torch.Tensor) -> torch.Tensor:
        return q if (stage, port) == (model.wiring.attention(1).index, 0) else x

    final = record(model, hand.context, tap=tap).final
    expected = hand.value(hand.clean.final) - hand.value(final)
    found = patch_path(model, ["a0.h2", "a1.h3.q"], hand.data, logit_diff)
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=1e-3)
    assert np.abs(expected).max() > 1e-4


@torch.no_grad()
def test_an_mlp_between_answers_where_the_mlps_are_live() -> None:
    model = from_module(build("llama"), name="llama")
    hand = Hand(model)
    change = hand.sent(0, 1)
    total = change.clone()
    for layer in range(3):
        read = hand.before.mlp_in[layer] + total
        total = total + model.mlp(layer, read) - hand.before.mlps[layer]
    expected = hand.value(hand.clean.final) - hand.value(hand.clean.final + total)
    path = ["a0.h1", "logits"]
    found = patch_path(model, path, hand.data, logit_diff, freeze_mlps=False)
    np.testing.assert_allclose(found, expected, atol=2e-4, rtol=1e-3)
    held = patch_path(model, path, hand.data, logit_diff)
    assert np.abs(found.values - held.values).max() > 1e-3


def test_many_paths_are_what_each_is_alone_and_directions_differ() -> None:
    model = from_module(build("qwen2"), name="qwen2")
    paths = [
        ["a0.h0", "logits"],
        ["input", "a0.g1.v", "a0.h2", "logits"],
        ["m0", "a2.g1.v", "a2.h3", "logits"],
    ]
    data = pairs()
    together = patch_paths(model, paths, data, logit_diff)
    alone = [patch_path(model, path, data, logit_diff) for path in paths]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    back = patch_paths(model, paths, data, logit_diff, direction="denoise")
    assert np.abs(together.values).max(1).min() > 1e-4
    assert np.abs(back.values - together.values).max() > 1e-4


@pytest.mark.parametrize(
    ("beside", "sender"), [("held", ["input", "a0.h0.q", "a0.h0"]), ("mlps", ["a0.h0", "logits"])]
)
def test_a_path_does_not_take_the_change_of_another_sender(beside: str, sender: list[str]) -> None:
    """In a parallel model m0 writes after a0.h0 but does not hear it: where both senders' changes
    are known, what is kept behind the one must not carry the other's."""
    model, data = from_module(build("neox-parallel"), name="neox-parallel"), dataset()
    paths = [sender, ["m0", "logits"]]
    together = patch_paths(model, paths, data, logit_diff, freeze_mlps=beside == "held")
    alone = [
        patch_path(model, path, data, logit_diff, freeze_mlps=beside == "held") for path in paths
    ]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(alone).max(1).min() > 1e-2


def test_a_sender_is_changed_at_the_chosen_tokens_alone() -> None:
    model = from_module(build("gpt2"), name="gpt2")
    data, path = pairs(), ["input", "a1.h0.v", "a1.h0", "logits"]
    everywhere = patch_path(model, path, data, logit_diff)
    at_the_end = patch_path(model, path, data, logit_diff, at="end")
    assert np.abs(everywhere).max() > 1e-3
    np.testing.assert_allclose(at_the_end, 0, atol=1e-6)  # the prompts end alike
    with pytest.raises(DataError, match="no span 'S9'"):
        patch_path(model, path, data, logit_diff, at="S9")


@pytest.mark.parametrize(
    "path",
    [["a0.h0"], ["logits", "a0.h0"], ["a1.h0", "a0.h0.q", "logits"], ["a0.h0", "logits", "m1"],
     ["m0", "a2.g1.v", "logits"]],
    ids=" ".join,
)  # fmt: skip
def test_what_is_no_path_is_refused(path: list[str]) -> None:
    model = from_module(build("qwen2"), name="qwen2")
    with pytest.raises(CircuitError):
        patch_path(model, path, pairs(), logit_diff)


@pytest.mark.parametrize("receiver", ["a2.h1.q", "a2.g1.v", "m1", "logits"])
@pytest.mark.parametrize("beside", ["held", "mlps"])
def test_all_senders_into_a_receiver_are_each_its_own_path(receiver: str, beside: str) -> None:
    model = from_module(build("qwen2"), name="qwen2")
    data = pairs()
    found = patch_senders(model, receiver, data, logit_diff, freeze_mlps=beside == "held")
    upstream = int(model.wiring.upstream[model.wiring.reader[receiver]])  # type: ignore[index]
    assert found.effects.shape == (upstream, len(data))
    for row in (0, 2, upstream - 1):
        sender = model.wiring.writers[row]
        alone = patch_path(
            model, [sender, receiver], data, logit_diff, freeze_mlps=beside == "held"
        )
        np.testing.assert_allclose(found.effects[row], alone, atol=1e-5)
    assert np.abs(found.effects).max() > 1e-3
    means = dict(zip(model.wiring.writers, found.effects.mean(1), strict=False))
    assert found.heads[0, 2] == means["a0.h2"]  # type: ignore[index]
    assert found.mlps[0] == means["m0"]  # type: ignore[index]
    assert np.isnan(found.heads[2]).all() == (receiver != "logits")
    name, effect = found.strongest(1)[0]
    assert abs(effect) == np.abs(found.effects.mean(1)).max()
    first = repr(found).splitlines()[1].split()
    assert (first[0], first[-1]) == (f"{effect:+.3f}", name)


def test_a_receiver_that_reads_nothing_is_refused() -> None:
    model = from_module(build("qwen2"), name="qwen2")
    with pytest.raises(CircuitError, match="is not a reader"):
        patch_senders(model, "a2.h1", pairs(), logit_diff)
