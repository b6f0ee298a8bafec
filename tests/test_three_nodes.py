"""A model of three nodes that is worked out on paper: embedding, one head, one MLP, then logits.

The input is a number x: 2 on the clean prompt, 1 on the corrupted one. With what each part reads,

    head    h = q · k · v    q = x,  k = x + 1,  v = 2x − 1
    MLP     m = max(0, h − 4x)
    output  y = 4x + h + 2m

where each of q, k, v, the two x and h of the MLP, and the three terms of y is an edge of its own.

    clean (x = 2)    q k v = 2 3 3   h = 18   m = 18 − 8 = 10          y = 8 + 18 + 20 = 46
    corrupted (1)    q k v = 1 2 1   h =  2   m = max(0, 2 − 4) = 0    y = 4 +  2 +  0 =  6
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gates import ByHand, prompts
from torch import Tensor

from circuitkit.corruptions import counterfactual
from circuitkit.discovery.attribution import eap
from circuitkit.discovery.sweeps import exact
from circuitkit.engine.model import Model
from circuitkit.evaluation.faithfulness import completeness, evaluate
from circuitkit.graph.circuit import build
from circuitkit.metrics import logit_diff
from circuitkit.patching.paths import patch_path

Q, K, V = (("input", f"a0.h0.{port}") for port in "qkv")
X_TO_MLP, X_TO_Y = ("input", "m0"), ("input", "logits")
H_TO_MLP, H_TO_Y = ("a0.h0", "m0"), ("a0.h0", "logits")
M_TO_Y = ("m0", "logits")
EDGES = (Q, K, V, X_TO_MLP, H_TO_MLP, X_TO_Y, H_TO_Y, M_TO_Y)

# One edge corrupted in the clean run, where y = 46; the effect is 46 − y:
NOISE = {
    Q: 27,  # q = 1: h = 1·3·3 = 9, m = 9 − 8 = 1, y = 8 + 9 + 2 = 19
    K: 18,  # k = 2: h = 2·2·3 = 12, m = 12 − 8 = 4, y = 8 + 12 + 8 = 28
    V: 32,  # v = 1: h = 2·3·1 = 6, m = max(0, 6 − 8) = 0, y = 8 + 6 + 0 = 14
    X_TO_MLP: -8,  # m = 18 − 4 = 14, y = 8 + 18 + 28 = 54: the edge hurts
    H_TO_MLP: 20,  # m = max(0, 2 − 8) = 0, y = 8 + 18 + 0 = 26
    X_TO_Y: 4,  # y = 4 + 18 + 20 = 42
    H_TO_Y: 16,  # y = 8 + 2 + 20 = 30
    M_TO_Y: 20,  # y = 8 + 18 + 0 = 26
}
# One edge clean in the corrupted run, where y = 6; the effect is y − 6:
DENOISE = {
    Q: 2,  # q = 2: h = 2·2·1 = 4, m = max(0, 4 − 4) = 0, y = 4 + 4 + 0 = 8
    K: 1,  # k = 3: h = 1·3·1 = 3, m = 0, y = 4 + 3 + 0 = 7
    V: 8,  # v = 3: h = 1·2·3 = 6, m = 6 − 4 = 2, y = 4 + 6 + 4 = 14
    X_TO_MLP: 0,  # m = max(0, 2 − 8) = 0 still
    H_TO_MLP: 28,  # m = 18 − 4 = 14, y = 4 + 2 + 28 = 34
    X_TO_Y: 4,  # y = 8 + 2 + 0 = 10
    H_TO_Y: 16,  # y = 4 + 18 + 0 = 22
    M_TO_Y: 20,  # y = 4 + 2 + 20 = 26
}
# (clean − corrupted) · slope at the clean run, where m = h − 4x, so that y rises by 3 with h (once
# itself, twice through m). Exact where y is a straight line in what the edge carries: all but the
# two edges that switch the MLP off on their way.
EAP = {
    Q: 27,  # 1 · 3 · kv = 1 · 3 · 9
    K: 18,  # 1 · 3 · qv = 1 · 3 · 6
    V: 36,  # 2 · 3 · qk = 2 · 3 · 6; exact: 32
    X_TO_MLP: -8,  # 1 · 2 · (−4)
    H_TO_MLP: 32,  # 16 · 2; exact: 20
    X_TO_Y: 4,  # 1 · 4
    H_TO_Y: 16,  # 16 · 1
    M_TO_Y: 20,  # 10 · 2
}


def three_nodes() -> ByHand:
    """The model of the heading; directions: 0 x, 1 h, 2 m."""

    def mlp(x: Tensor) -> Tensor:
        written = torch.zeros_like(x)
        written[..., 2] = (x[..., 1] - 4 * x[..., 0]).relu()
        return written

    return ByHand(
        embedding=torch.tensor([[2.0, 0, 0], [1, 0, 0]]),
        ports=torch.tensor([[1.0, 0, 0], [1, 0, 0], [2, 0, 0]]),
        bias=torch.tensor([0.0, 1, -1]),
        out=torch.tensor([[0.0, 1, 0]]),
        mlp_writes=mlp,
        readout=torch.tensor([[5.0, 1], [2, 1], [3, 1]]),  # of logits 0 and 1, which differ by y
    )


MODEL, DATA = three_nodes(), prompts([(0, 1)])


def table(effects: dict[tuple[str, str], int]) -> np.ndarray:
    """Writers × readers."""
    values = np.zeros(MODEL.wiring.shape)
    for edge, effect in effects.items():
        values[MODEL.wiring.index(*edge)] = effect
    return values


def test_the_model_has_the_edges_of_the_heading_and_no_others() -> None:
    assert isinstance(MODEL, Model)
    assert {MODEL.wiring.index(*edge) for edge in EDGES} == {
        (int(row), int(column)) for row, column in np.argwhere(MODEL.wiring.legal)
    }


@pytest.mark.parametrize(("direction", "effects"), [("noise", NOISE), ("denoise", DENOISE)])
def test_the_exact_effect_of_every_edge(
    direction: str, effects: dict[tuple[str, str], int]
) -> None:
    found = exact(MODEL, DATA, logit_diff, counterfactual, direction=direction)
    assert np.array_equal(found.values, table(effects))


def test_attribution_is_the_slope_and_exact_where_nothing_is_switched() -> None:
    found = eap(MODEL, DATA, logit_diff, counterfactual)
    assert np.array_equal(found.values, table(EAP))
    assert {edge for edge in EDGES if EAP[edge] != NOISE[edge]} == {V, H_TO_MLP}


@pytest.mark.parametrize(
    ("path", "noise", "denoise"),
    [
        # q = 1 makes h = 9, which the MLP alone hears: m = 9 − 8 = 1, y = 8 + 18 + 2 = 28
        # q = 2 makes h = 4: m = max(0, 4 − 4) = 0, y = 6
        (["input", "a0.h0.q", "a0.h0", "m0", "logits"], 46 - 28, 0),
        # h = 9, which y alone hears: y = 8 + 9 + 20 = 37;  h = 4: y = 4 + 4 + 0 = 8
        (["input", "a0.h0.q", "a0.h0", "logits"], 46 - 37, 8 - 6),
        # v = 1 makes h = 6: m = 0, y = 8 + 18 + 0 = 26;  v = 3 makes h = 6: m = 6 − 4 = 2,
        # y = 4 + 2 + 4 = 10
        (["input", "a0.h0.v", "m0", "logits"], 46 - 26, 10 - 6),
        # x = 1: m = 18 − 4 = 14, y = 54;  x = 2: m = max(0, 2 − 8) = 0, y = 6
        (["input", "m0", "logits"], 46 - 54, 0),
        # a path that ends at q goes on through all that follows: the edge's own effects
        (["input", "a0.h0.q"], NOISE[Q], DENOISE[Q]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_effect_of_a_path(path: list[str], noise: int, denoise: int) -> None:
    assert patch_path(MODEL, path, DATA, logit_diff).values.tolist() == [noise]
    back = patch_path(MODEL, path, DATA, logit_diff, direction="denoise")
    assert back.values.tolist() == [denoise]


@pytest.mark.parametrize(
    ("edges", "output"),
    [
        ([], 6),
        (EDGES, 46),
        # q k v = 1 2 3: h = 6; the MLP reads x = 1 and h = 6: m = 6 − 4 = 2; y = 4 + 2 + 2·2
        ([V, H_TO_MLP, M_TO_Y], 10),
        # h = 18; m = 18 − 4 = 14; y = 4 + 2 + 28
        ([Q, K, V, H_TO_MLP, M_TO_Y], 34),
        # the head reads what is corrupted: h = 2, m = max(0, 2 − 8) = 0; y = 8 + 2 + 0
        ([X_TO_MLP, X_TO_Y, H_TO_Y], 10),
        # a head that nobody hears: y = 6
        ([Q, K, V], 6),
    ],
)
def test_the_faithfulness_of_a_circuit(edges: list[tuple[str, str]], output: int) -> None:
    circuit = build(MODEL.wiring, dict.fromkeys(edges, 1.0))
    found = evaluate(MODEL, circuit, DATA, logit_diff, counterfactual)
    assert [x.tolist() for x in (found.everything, found.nothing, found.circuit)] == [
        [46], [6], [output],
    ]  # fmt: skip
    assert found.faithfulness == (output - 6) / 40


def test_what_a_circuit_lacks_is_the_faithfulness_of_the_other_edges() -> None:
    circuit = build(MODEL.wiring, dict.fromkeys([Q, K, V, H_TO_MLP, M_TO_Y], 1.0))
    found = completeness(MODEL, circuit, DATA, logit_diff, counterfactual)
    assert found.faithfulness == (10 - 6) / 40  # the circuit [X_TO_MLP, X_TO_Y, H_TO_Y] above
