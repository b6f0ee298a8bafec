"""Windows of layers are patched jointly as hooks do it, and planted teamwork is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from families import dataset, distance, in_turn, model
from gates import ByHand, prompts
from test_patch_nodes import LENGTHS, SPANS, exactly, hand
from torch import Tensor

from circuitkit.corruptions.constants import mean
from circuitkit.corruptions.gaussian import noise
from circuitkit.data.batches import Dataset
from circuitkit.engine import sweep as engine
from circuitkit.engine.model import Context
from circuitkit.errors import CircuitError
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics.answers import log_probability, logit_diff
from circuitkit.patching.nodes import patch_nodes
from circuitkit.patching.windows import patch_windows

outputs = pytest.mark.parametrize("nodes", ["mlp_out", "attn_out"])
LAYERS = {1: [[0], [1], [2]], 2: [[0, 1], [1, 2]], 3: [[0, 1, 2]]}


# -- by hand ---------------------------------------------------------------------------------------
@outputs
@pytest.mark.parametrize(("family", "direction"), in_turn("noise", "denoise"))
def test_a_joint_window_is_hooks_on_the_plain_module(
    family: str, nodes: str, direction: str
) -> None:
    if (family, nodes) == ("attention-only", "mlp_out"):
        pytest.skip("it has no MLPs")
    own, m = hand(family, direction), exactly(family)
    found = patch_windows(
        m, nodes, own.data, logit_diff, sizes=(1, 2, 3), at=SPANS, direction=direction
    )
    module = own.mlp if nodes == "mlp_out" else own.attention
    for size, windows in LAYERS.items():
        cells = [cell for cell in np.ndindex(len(windows), len(SPANS)) if sum(cell) % 2 == 0]
        expected = np.array([
            own.overwritten([module(layer) for layer in windows[first]], own.site(SPANS[i]))
            for first, i in cells
        ])  # fmt: skip
        assert distance(found.joint[size].values[tuple(np.array(cells).T)], expected) < 1e-5
        assert found.joint[size].axes["window"] == found.summed[size].axes["window"]


@outputs
def test_the_sums_are_of_single_layers(nodes: str) -> None:
    m, data = exactly("llama"), dataset(LENGTHS)
    found = patch_windows(m, nodes, data, logit_diff, sizes=(2, 1), at="positions")
    alone = patch_nodes(m, nodes, data, logit_diff, at="positions").values
    here = ~np.isnan(alone[0])
    assert 0 < here.mean() < 1
    for size, windows in ((1, LAYERS[1]), (2, LAYERS[2])):
        summed = found.summed[size].values
        expected = np.stack([alone[window].sum(0) for window in windows])
        assert np.array_equal(np.isnan(summed[0]), ~here)
        assert distance(summed[:, here], expected[:, here]) < 1e-9
    assert distance(found.joint[1].values[:, here], alone[:, here]) < 1e-9
    assert np.nanmax(np.abs(found.joint[2].values - found.summed[2].values)) > 1e-2
    assert list(found.joint) == [2, 1]


@outputs
@pytest.mark.parametrize("family", ["gpt2", "neox-parallel"])
@pytest.mark.parametrize("corruption", [noise, mean])
def test_windows_do_not_depend_on_batches_or_padding(
    family: str, nodes: str, corruption: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def patch(data: Dataset) -> Any:
        found = patch_windows(model(family), nodes, data, logit_diff, corruption, at=SPANS)
        return found.joint[3].values

    wide = patch(dataset((7, 5, 6, 7), batch_size=4))
    monkeypatch.setattr(engine, "TOKENS", 30)  # one or a few runs at once
    for padding, size in (("left", 2), ("right", 1)):
        assert distance(patch(dataset((7, 5, 6, 7), batch_size=size, padding=padding)), wide) < 1e-4


# -- planted teamwork ------------------------------------------------------------------------------
@dataclass(frozen=True)
class Teamwork(ByHand):
    """Four layers of one head and an MLP, on one-token prompts.

    Directions: 0 the signal, 1 and 2 what the MLPs of layers 1 and 2 copy of it, 3 the product of
    these two, which the head of layer 3 writes (the other heads meet a zero). Logit 0 is 1 + 3.
    """

    @property
    def wiring(self) -> Wiring:
        return Wiring(4, 1, 1)

    def start(self, tokens: Tensor, mask: Tensor) -> Context:
        return Context(self.embedding[tokens], ({},) * 4)

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        written = torch.zeros_like(x)
        if layer in (1, 2):
            written[..., layer] = x[..., 0]
        return written


def teamwork() -> tuple[Teamwork, Dataset]:
    """The model, and a prompt for each signal of 1, 2 and 3 against none."""
    embedding = torch.zeros(4, 4)
    embedding[:, 0] = torch.arange(4)
    ports, bias = torch.zeros(3, 4), torch.tensor([0.0, 0, 1])
    ports[0, 1] = ports[1, 2] = 1
    readout = torch.zeros(4, 2)
    readout[[1, 3], 0] = 1
    made = Teamwork(embedding, ports, bias, torch.eye(4)[3:], lambda x: x, readout)
    return made, prompts([(1, 0), (2, 0), (3, 0)])


def test_two_layers_that_need_each_other_do_more_jointly_than_in_sum() -> None:
    """With the signal s, layer 1 alone restores s, layer 2 nothing, and both s + s²."""
    m, data = teamwork()
    found = patch_windows(m, "mlp_out", data, logit_diff, sizes=(1, 2, 3))
    assert found.joint[1].values.tolist() == [[0, 0, 0], [1, 2, 3], [0, 0, 0], [0, 0, 0]]
    assert found.joint[2].values.tolist() == [[1, 2, 3], [2, 6, 12], [0, 0, 0]]
    assert found.summed[2].values.tolist() == [[1, 2, 3], [1, 2, 3], [0, 0, 0]]
    assert found.joint[3].values.tolist() == [[2, 6, 12], [2, 6, 12]]
    assert found.peak_ratio(1) == 1
    assert found.peak_ratio(2) == found.peak_ratio(3) == pytest.approx(20 / 6)


def test_two_layers_that_need_each_other_are_missed_twice_in_the_sum() -> None:
    """Without layer 1, s + s² is lost, without layer 2, s²; and without both no more than all."""
    m, data = teamwork()
    found = patch_windows(m, "mlp_out", data, logit_diff, sizes=(2,), direction="noise")
    assert found.joint[2].values[1].tolist() == [2, 6, 12]
    assert found.summed[2].values[1].tolist() == [3, 10, 21]
    assert found.peak_ratio(2) == pytest.approx(20 / 34)


def test_there_is_no_ratio_to_a_sum_that_is_not_positive() -> None:
    m, data = teamwork()
    found = patch_windows(m, "mlp_out", data, lambda *given: -logit_diff(*given), sizes=(2,))
    assert found.summed[2].mean.tolist() == [-2, -2, 0]
    assert np.isnan(found.peak_ratio(2))


# -- the result ------------------------------------------------------------------------------------
def test_windows_print_their_peaks() -> None:
    m, data = teamwork()
    found = patch_windows(m, "mlp_out", data, logit_diff, sizes=(1, 2))
    head, columns, *rows = repr(found).splitlines()
    assert head.startswith("mlp_out of adjacent layers, denoise, logit_diff under counterfactual")
    assert columns.split()[0] == "size"
    assert [row.split() for row in rows] == [
        ["1", "+2.000", "(1)", "+2.000", "(1)", "1.00"],
        ["2", "+6.667", "(1-2)", "+2.000", "(0-1)", "3.33"],
    ]
    several = patch_windows(model("gpt2"), "mlp_out", dataset(LENGTHS), logit_diff, at=SPANS)
    assert [row.split()[-1] for row in repr(several).splitlines()[2:]] == [*SPANS, *SPANS]


def test_several_metrics_are_read_from_the_same_runs() -> None:
    m, data, metrics = model("gpt2"), dataset(LENGTHS), (logit_diff, log_probability)
    for metric, found in zip(
        metrics, patch_windows(m, "mlp_out", data, metrics, sizes=(2,)), strict=True
    ):
        alone = patch_windows(m, "mlp_out", data, metric, sizes=(2,))
        assert distance(found.joint[2], alone.joint[2]) < 1e-6
        assert distance(found.summed[2], alone.summed[2]) < 1e-6


def test_sizes_are_those_that_fit() -> None:
    m, data = model("gpt2"), dataset(LENGTHS)
    found = patch_windows(m, "mlp_out", data, logit_diff)
    assert list(found.joint) == list(found.summed) == [1, 3]
    with pytest.raises(CircuitError, match="no windows of 5 layers; choose from 1, 3"):
        found.peak_ratio(5)


@pytest.mark.parametrize("sizes", [(4,), (0,), (1, -1), ()])
def test_a_size_that_does_not_fit_is_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(CircuitError, match="sizes from 1 to 3"):
        patch_windows(model("gpt2"), "mlp_out", dataset(LENGTHS), logit_diff, sizes=sizes)


def test_what_does_not_exist_is_refused() -> None:
    m, data = model("gpt2"), dataset(LENGTHS)
    with pytest.raises(CircuitError, match=r"'z' have no windows.*mlp_out"):
        patch_windows(m, "z", data, logit_diff)
    with pytest.raises(CircuitError, match="has no MLPs"):
        patch_windows(model("attention-only"), "mlp_out", data, logit_diff)
    with pytest.raises(CircuitError, match=r"'sideways'.*denoise"):
        patch_windows(m, "mlp_out", data, logit_diff, direction="sideways")


def test_windows_are_called_by_their_layers() -> None:
    for nodes, letter in (("mlp_out", "m"), ("attn_out", "a")):
        found = patch_windows(model("gpt2"), nodes, dataset(LENGTHS), logit_diff, at=SPANS)
        assert found.joint[3].names == tuple(f"{letter}0-2@{span}" for span in SPANS)
        assert found.summed[1].at("end").names == tuple(f"{letter}{i}" for i in range(3))
