"""What is detected is what lies far from the mean, on the side where it lies."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from circuitkit.errors import EvaluationError, UnknownNameError
from circuitkit.graph.circuit import build
from circuitkit.graph.published import named
from circuitkit.graph.wiring import Wiring
from circuitkit.patching.detection import detect, detected_by_threshold, roles_of
from circuitkit.patching.effects import Effects
from circuitkit.registry import names

PLANTED = {"a1.h3": 4.0, "a2.h0": -5.0}
ROLES = {"a1.h3": "mover", "a2.h0": "negative", "a2.h7": "mover", "a9.h9": "elsewhere"}


def effects(values: np.ndarray) -> Effects:
    layers, heads, examples = values.shape
    axes = {"layer": tuple(map(str, range(layers))), "head": tuple(map(str, range(heads)))}
    return Effects(values, axes, np.ones(examples), "z", "logit_diff", "counterfactual", "denoise")


def planted(scale: float = 1.0) -> Effects:
    """Small random effects of 3 × 8 heads, and two large ones among them."""
    values = np.random.default_rng(0).normal(size=(3, 8, 6)) * 0.1
    for name, effect in PLANTED.items():
        values[int(name[1]), int(name[4])] += effect
    return effects(values * scale)


def test_planted_components_are_found_with_their_sign() -> None:
    found = detect(planted())
    assert found.helping == ("a1.h3",)
    assert found.hurting == ("a2.h0",)
    assert found.found == ("a1.h3", "a2.h0")
    assert [found.sign(n) for n in ("a1.h3", "a2.h0", "a0.h0")] == [1, -1, 0]


def test_a_component_is_found_from_its_threshold_on() -> None:
    """The threshold times the deviation of all means, counted from their mean."""
    mean = planted().mean
    away = (mean - mean.mean()) / mean.std()
    for threshold in (0.5, 1.0, float(np.abs(away).max()) - 1e-9):
        found = set(detect(planted(), threshold).found)
        assert found == {
            f"a{layer}.h{head}" for layer, head in np.argwhere(np.abs(away) >= threshold)
        }
        assert found
    assert not detect(planted(), float(np.abs(away).max()) + 1e-9).found


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_do_not_matter(scale: float) -> None:
    assert detect(planted(scale)).found == detect(planted()).found


def test_a_shift_of_all_effects_moves_the_centre() -> None:
    moved = effects(planted().values + 100)
    assert detect(moved).found == detect(planted()).found


def test_equal_effects_find_nothing() -> None:
    found = detect(effects(np.full((2, 3, 4), 0.7)))
    assert not found.found
    assert found.bounds == (-np.inf, np.inf)


def test_components_that_no_example_has_are_left_out() -> None:
    values = planted().values.copy()
    values[0, 0] = np.nan
    found = detect(effects(values))
    assert "a0.h0" not in found.nodes
    assert len(found.nodes) == 23
    assert found.found == ("a1.h3", "a2.h0")


def test_counts_are_of_what_was_patched() -> None:
    counts = detect(planted()).counts(ROLES)
    assert counts == {"mover": (1, 2), "negative": (1, 1)}


def test_precision_and_recall_are_of_the_components() -> None:
    overlap = detect(planted()).overlap(ROLES)
    assert (overlap.left, overlap.right, overlap.both, overlap.universe) == (2, 3, 2, 24)
    assert overlap.precision == 1
    assert overlap.recall == pytest.approx(2 / 3)


def test_a_lower_threshold_finds_no_less() -> None:
    rows = detected_by_threshold(planted(), ROLES, (0.01, 0.1, 1.0, 2.0))
    found = [row["help"] + row["hurt"] for row in rows]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1] > 0
    assert rows[-1]["mover"] == "1/2"
    assert "precision" not in detected_by_threshold(planted())[0]


def test_what_cannot_be_detected_is_refused() -> None:
    with pytest.raises(EvaluationError, match="positive"):
        detect(planted(), 0.0)
    with pytest.raises(EvaluationError, match="at least two"):
        detect(effects(np.ones((1, 1, 3))))


def test_a_circuit_is_a_reference() -> None:
    wiring = Wiring(layers=3, heads=8, groups=8, mlp=True, parallel=False)
    circuit: nx.DiGraph = build(wiring, {("a1.h3", "a2.h0.q"): 1.0, ("a2.h0", "logits"): 1.0})
    circuit.nodes["a1.h3"]["role"] = "mover"
    assert roles_of(circuit) == {"a1.h3": "mover", "a2.h0": "member"}
    assert detect(planted()).overlap(roles_of(circuit)).recall == 1


# -- references ------------------------------------------------------------------------------------
def test_the_circuit_of_wang_has_26_heads_in_seven_roles() -> None:
    roles = named("ioi:wang2022").roles
    sizes = {role: list(roles.values()).count(role) for role in dict.fromkeys(roles.values())}
    assert len(roles) == 26
    assert sizes == {
        "name mover": 3, "backup name mover": 8, "negative name mover": 2, "S-inhibition": 4,
        "induction": 4, "duplicate token": 3, "previous token": 2,
    }  # fmt: skip
    wiring = Wiring(layers=12, heads=12, groups=12, mlp=True, parallel=False)
    assert set(roles) <= set(wiring.writer)


def test_an_unknown_reference_is_refused_with_the_nearest() -> None:
    assert "ioi:wang2022" in names("references")
    with pytest.raises(UnknownNameError, match="ioi:wang2022"):
        named("ioi:wang")
