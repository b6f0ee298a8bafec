"""A neuron is what an MLP's down projection takes, and is patched as a hook there does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, SPARSE, Layers, as_batch, dataset, distance, model
from test_patch_nodes import LENGTHS, SPANS, Hand, both_directions, exactly, hand
from torch import Tensor

from circuitkit.corruptions.constants import mean
from circuitkit.engine import sweep as engine
from circuitkit.engine.record import record
from circuitkit.errors import CircuitError
from circuitkit.metrics.answers import logit_diff
from circuitkit.patching.nodes import patch_nodes

WITH_NEURONS = [family for family in FAMILIES if family not in ("attention-only", *SPARSE)]
DOWN = ("c_proj", "dense_4h_to_h", "down_proj", "out")
CHOSEN = [(0, 5), (0, 40), (1, 0), (1, 17)]  # the layer's place among 1 and 2, and the neuron


def down(own: Hand, layer: int) -> Any:
    """The down projection of the plain module's MLP."""
    block = own.oracle.blocks[layer]
    if block.mlp_end is not None:
        return block.mlp_end
    mlp: Any = block.mlp
    return next(part for name, part in mlp.named_children() if name in DOWN)


def overwritten(own: Hand, layer: int, neuron: int, site: Tensor) -> np.ndarray:
    """The effect of a neuron that has at these tokens what it has in the other run."""
    module, seen = down(own, layer), []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    own.oracle.logits(own.taken_tokens, own.batch.mask)
    handle.remove()

    def put(_: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        mixed = args[0].clone()
        here = site.reshape(mixed.shape[:-1])  # OPT's sees the tokens of a batch in one row
        mixed[..., neuron] = torch.where(here, seen[0][..., neuron], mixed[..., neuron])
        return (mixed,)

    handle = module.register_forward_pre_hook(put)
    value = own.value()
    handle.remove()
    return own.sign * (value - own.start)


# -- the model's two functions ---------------------------------------------------------------------
@pytest.mark.parametrize("family", WITH_NEURONS)
def test_the_neurons_are_half_of_the_mlp(family: str) -> None:
    m, batch = exactly(family), as_batch(dataset(LENGTHS))
    with torch.no_grad():
        reads = Layers(m.wiring, record(m, m.start(batch.clean, batch.mask))).mlp_in
        for layer, x in enumerate(reads):
            neurons, wrote = m.neurons(layer, x), m.mlp(layer, x)
            assert distance(m.mlp_out(layer, neurons), wrote) < 1e-9
            assert wrote.std(dim=(0, 1)).min() > 1e-3
            assert neurons.shape[-1] != m.d_model
            assert distance(m.neurons(layer, x[1:, 2:]), neurons[1:, 2:]) < 1e-9


def test_experts_have_no_neurons() -> None:
    with pytest.raises(CircuitError, match=r"'mixtral'.*experts.*'mlp_out'"):
        patch_nodes(model("mixtral"), "neurons", dataset(LENGTHS), logit_diff)


# -- by hand ---------------------------------------------------------------------------------------
@both_directions
@pytest.mark.parametrize("family", WITH_NEURONS)
def test_a_patched_neuron_is_a_hook_on_the_plain_module(family: str, direction: str) -> None:
    own, m = hand(family, direction), exactly(family)
    found = patch_nodes(m, "neurons", own.data, logit_diff, at=("subject", "all"),
                        layers=(2, 1), direction=direction)  # fmt: skip
    assert found.axes["layer"] == ("1", "2")
    assert len(found.axes["neuron"]) == m.neurons(1, torch.zeros(1, 1, 32).double()).shape[-1]
    expected = np.array([
        [overwritten(own, 1 + layer, neuron, own.site(name)) for name in ("subject", "all")]
        for layer, neuron in CHOSEN
    ])  # fmt: skip
    assert distance(found.values[tuple(np.array(CHOSEN).T)], expected) < 1e-5


# -- laws ------------------------------------------------------------------------------------------
def test_neurons_do_not_depend_on_batches_or_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    def patch(**options: Any) -> Any:
        data = dataset((7, 5, 6, 7), **options)
        given = m, "neurons", data, logit_diff, mean
        return patch_nodes(*given, at=SPANS, layers=[1]).values

    m = model("gemma2")
    wide = patch(batch_size=4)
    monkeypatch.setattr(engine, "TOKENS", 30)
    assert distance(patch(batch_size=2, padding="left"), wide) < 1e-4


@pytest.mark.parametrize("nodes", ["resid_pre", "attn_out", "z", "k", "pattern"])
def test_some_layers_are_rows_of_all(nodes: str) -> None:
    m, data = exactly("llama"), dataset(LENGTHS)
    every = patch_nodes(m, nodes, data, logit_diff)
    some = patch_nodes(m, nodes, data, logit_diff, layers=(2, 0))
    assert some.axes == {**every.axes, "layer": ("0", "2")}
    assert distance(some, every.values[[0, 2]]) < 1e-9
    assert some.names == tuple(name for name in every.names if "1" not in name.split(".")[0])
