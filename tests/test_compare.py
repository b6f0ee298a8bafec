"""Comparisons by hand, by scipy, and by the laws of overlap."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from scipy import stats

from circuitkit.errors import CircuitError, CircuitkitError
from circuitkit.formats.interchange.eap_ig import write_eap
from circuitkit.graph.circuit import build, edges, mask
from circuitkit.graph.compare import Comparison, Overlap, agreement, compare
from circuitkit.graph.nodes import parse_edge
from circuitkit.graph.published import named
from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring

WIRING = Wiring(2, 4, 2)


def circuit(weights: dict[str, float], wiring: Wiring = WIRING) -> nx.DiGraph:
    """The circuit of edges by their names."""
    return build(wiring, {parse_edge(name): weight for name, weight in weights.items()})


def some_circuit(seed: int, size: int = 30, ties: bool = False) -> nx.DiGraph:
    """Random edges with random weights; with ties, of few values."""
    rng = random.Random(seed)
    legal = [(WIRING.writers[w], WIRING.readers[r]) for w, r in np.argwhere(WIRING.legal)]
    draw = (lambda: float(rng.choice([-2, -1, 1, 2]))) if ties else (lambda: rng.gauss(0, 1))
    return build(WIRING, {edge: draw() for edge in rng.sample(legal, size)})


def weights_of(circuit: nx.DiGraph) -> dict[tuple[str, str], float]:
    return {(writer, reader): weight for writer, reader, weight in edges(circuit)}


def same(left: float, right: float) -> bool:
    return left == pytest.approx(right, nan_ok=True)


LEFT = {"input->a0.h0<q>": 1.0, "a0.h0->m1": -2.0, "m1->logits": 3.0, "input->logits": 2.0}
RIGHT = {"input->a0.h0<q>": 3.0, "a0.h0->m1": 1.0, "m0->logits": -4.0}


def test_a_small_comparison_is_as_by_hand() -> None:
    found = compare(circuit(LEFT), circuit(RIGHT))
    # Left: a0.h0, m1. Right: a0.h0, m1, m0. Eight heads and two MLPs in all.
    assert found.nodes == Overlap(left=2, right=3, both=2, universe=10)
    assert found.edges == Overlap(left=4, right=3, both=2, universe=WIRING.n_edges)
    # Eighths on both sides. Left: 1 2 3 2 0; right: 3 1 0 0 4. Minima 2, maxima 14.
    assert found.weighted == pytest.approx(2 / 14)
    assert found.flipped == 1
    assert math.isnan(found.spearman)


def test_the_shares_of_an_overlap_are_as_by_hand() -> None:
    overlap = Overlap(left=4, right=3, both=2, universe=12)
    assert overlap.jaccard == pytest.approx(2 / 5)
    assert overlap.precision == pytest.approx(2 / 4)
    assert overlap.recall == pytest.approx(2 / 3)
    assert overlap.expected == pytest.approx(1.0)
    assert overlap.expected_jaccard == pytest.approx(1 / 6)


def test_a_head_counts_as_a_node_where_it_writes_or_reads_at_a_port_of_its_own() -> None:
    def nodes(*names: str) -> int:
        return compare(circuit(dict.fromkeys(names, 1.0)), circuit({})).nodes.left

    assert nodes("input->logits") == 0
    assert nodes("input->a0.h1<q>") == nodes("a0.h1->logits") == 1
    assert nodes("input->a0.h1<q>", "a0.h1->logits") == 1
    assert nodes("input->a0.g1<k>") == 0  # which of the group's heads it serves is not said
    assert nodes("a0.h1->m0", "m0->a1.g0<v>") == 2


@pytest.mark.parametrize("seed", range(10))
def test_a_circuit_compared_with_itself_agrees_wholly(seed: int) -> None:
    one = some_circuit(seed)
    found = compare(one, one)
    for overlap in (found.nodes, found.edges):
        assert overlap.left == overlap.right == overlap.both
        assert overlap.jaccard == overlap.precision == overlap.recall == 1
    assert found.weighted == pytest.approx(1)
    assert found.spearman == pytest.approx(1)
    assert found.flipped == 0


@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e6])
def test_the_scale_of_the_weights_does_not_matter(factor: float) -> None:
    left, right = some_circuit(0), some_circuit(1)
    scaled = build(WIRING, {e: w * factor for e, w in weights_of(right).items()})
    assert compare(left, scaled).weighted == pytest.approx(compare(left, right).weighted)
    assert same(compare(left, scaled).spearman, compare(left, right).spearman)
    assert compare(left, scaled).flipped == compare(left, right).flipped


def test_disjoint_circuits_share_nothing() -> None:
    left, right = {"input->m0": 1.0, "m0->logits": 1.0}, {"input->m1": 1.0, "m1->logits": 1.0}
    found = compare(circuit(left), circuit(right))
    for overlap in (found.nodes, found.edges):
        assert overlap.both == 0
        assert overlap.jaccard == overlap.precision == overlap.recall == 0
    assert found.weighted == 0
    assert found.flipped == 0
    assert math.isnan(found.spearman)


def test_empty_circuits_are_equal_to_each_other_and_to_no_other() -> None:
    nothing, something = circuit({}), circuit(LEFT)
    both, one = compare(nothing, nothing), compare(nothing, something)
    assert both.edges.jaccard == both.nodes.jaccard == both.weighted == 1
    assert one.edges.jaccard == one.nodes.jaccard == one.weighted == 0
    assert math.isnan(one.edges.precision)
    assert one.edges.recall == 0
    assert math.isnan(both.edges.recall)
    assert both.edges.expected == one.edges.expected == 0


def test_weights_of_zero_count_as_edges_and_not_as_weight() -> None:
    silent = circuit(dict.fromkeys(LEFT, 0.0))
    assert compare(silent, circuit(LEFT)).edges.jaccard == 1
    assert compare(silent, circuit(LEFT)).weighted == 0
    assert compare(silent, circuit(LEFT)).flipped == 0


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_everything_is_symmetric_but_precision_and_recall_which_change_places(
    seed: int, ties: bool
) -> None:
    left, right = some_circuit(seed, 40, ties), some_circuit(seed + 100, 60, ties)
    there, back = compare(left, right), compare(right, left)
    for one, two in ((there.nodes, back.nodes), (there.edges, back.edges)):
        assert (one.both, one.universe) == (two.both, two.universe)
        assert (one.left, one.right) == (two.right, two.left)
        assert (one.precision, one.recall) == (two.recall, two.precision)
        assert (one.jaccard, one.expected) == (two.jaccard, two.expected)
        assert one.expected_jaccard == two.expected_jaccard
    assert there.weighted == pytest.approx(back.weighted)
    assert same(there.spearman, back.spearman)
    assert there.flipped == back.flipped


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_the_numbers_are_those_of_sets_and_of_scipy(seed: int, ties: bool) -> None:
    left, right = some_circuit(seed, 40, ties), some_circuit(seed + 100, 70, ties)
    a, b = weights_of(left), weights_of(right)
    shared = sorted(a.keys() & b.keys())
    found = compare(left, right)
    assert len(shared) >= 3
    assert found.edges.both == len(shared)
    assert found.edges.jaccard == pytest.approx(len(shared) / len(a.keys() | b.keys()))
    expected = stats.spearmanr([a[e] for e in shared], [b[e] for e in shared]).statistic
    assert same(found.spearman, float(expected))
    assert found.flipped == sum(a[e] * b[e] < 0 for e in shared)
    shares = [
        {e: abs(w) / sum(map(abs, weights.values())) for e, w in weights.items()}
        for weights in (a, b)
    ]
    pairs = [[share.get(e, 0.0) for share in shares] for e in a.keys() | b.keys()]
    assert found.weighted == pytest.approx(sum(map(min, pairs)) / sum(map(max, pairs)))


def test_the_random_circuits_put_flips_and_correlations_to_the_test() -> None:
    found = [compare(some_circuit(s, 40), some_circuit(s + 100, 70)) for s in range(20)]
    assert all(0 < c.flipped < c.edges.both for c in found)
    assert len({round(c.spearman, 6) for c in found}) == 20


@pytest.mark.parametrize(("left", "right", "universe"), [(40, 70, 113), (1, 3, 7), (5, 8, 9)])
def test_what_chance_would_share_is_the_hypergeometric_mean(
    left: int, right: int, universe: int
) -> None:
    overlap = Overlap(left, right, both=0, universe=universe)
    assert overlap.expected == pytest.approx(stats.hypergeom(universe, left, right).mean())
    union = left + right - overlap.expected
    assert overlap.expected_jaccard == pytest.approx(overlap.expected / union)


def test_equal_weights_have_no_rank_correlation() -> None:
    flat = circuit(dict.fromkeys(LEFT, 1.0))
    assert math.isnan(compare(flat, circuit(LEFT)).spearman)
    assert math.isnan(compare(circuit(LEFT), flat).spearman)


def test_turning_every_sign_flips_every_shared_edge_and_the_order() -> None:
    one = circuit(LEFT)
    turned = circuit({name: -weight for name, weight in LEFT.items()})
    found = compare(one, turned)
    assert found.flipped == found.edges.both == len(LEFT)
    assert found.spearman == pytest.approx(-1)
    assert found.weighted == pytest.approx(1)


@pytest.mark.parametrize(
    "other",
    [
        Wiring(3, 4, 2), Wiring(2, 8, 2), Wiring(2, 4, 4), Wiring(2, 4, 2, mlp=False),
        Wiring(2, 4, 2, parallel=True),
    ],
    ids=str,
)  # fmt: skip
def test_circuits_of_different_models_are_not_compared(other: Wiring) -> None:
    name = {"input->logits": 1.0}
    for pair in ((circuit(name), circuit(name, other)), (circuit(name, other), circuit(name))):
        with pytest.raises(CircuitError, match="compare circuits of one model"):
            compare(*pair)


def test_comparing_changes_neither_circuit() -> None:
    left, right = some_circuit(0), some_circuit(1)
    before = [nx.to_dict_of_dicts(c) for c in (left, right)]
    text = repr(before)
    compare(left, right)
    assert repr([nx.to_dict_of_dicts(c) for c in (left, right)]) == text


def numbers(value: Any) -> list[Any]:
    """All numbers of a nested dict."""
    return [n for v in value.values() for n in (numbers(v) if isinstance(v, dict) else [v])]


def floored(seed: int, floor: object, size: int = 30) -> nx.DiGraph:
    """Random edges of a circuit that says how far those of other samples overlap."""
    found = some_circuit(seed, size)
    found.graph["agreement"] = floor
    return found


@pytest.mark.parametrize(("floors", "differ", "said"), [
    ((0.9, 0.8), True, "0.900 (left) and 0.800 (right): these overlap by less"),
    ((0.9, 0.0), False, "0.000 (right): not shown that these differ by more"),
    ((None, 0.8), True, "by about 0.800 (right): these overlap by less"),
    ((None, None), None, ""),
    (("much", True), None, ""), ((float("nan"), 7.0), None, ""),
])  # fmt: skip
def test_circuits_differ_where_they_overlap_less_than_those_of_other_samples(
    floors: tuple[object, object], differ: bool | None, said: str
) -> None:
    found = compare(*map(floored, (0, 1), floors))
    assert 0 < found.edges.jaccard < 0.8
    assert found.differ is found.to_dict()["differ"] is differ
    assert (said or "not there") in repr(found) + "not there"
    assert ("other samples" in repr(found)) == bool(said)


def test_circuits_of_other_sizes_are_not_said_to_differ() -> None:
    found = compare(floored(0, 0.9), floored(1, 0.9, size=20))
    assert found.differ is None
    assert "if they are of one size, which these are not" in repr(found)
    assert compare(floored(0, 0.9), floored(0, 0.9)).differ is False


@pytest.mark.parametrize("pair", [(LEFT, RIGHT), ({}, {}), (LEFT, {})], ids=["two", "none", "one"])
def test_a_comparison_prints_itself_and_goes_to_machines(
    pair: tuple[dict[str, float], dict[str, float]],
) -> None:
    found: Comparison = compare(circuit(pair[0]), circuit(pair[1]))
    assert "Jaccard" in repr(found)
    assert "\n" not in str(found)
    assert "Jaccard" in str(found)
    assert found._repr_html_().count("<tr") == 3
    assert list(found.to_frame()["what"]) == ["nodes", "edges"]
    assert list(found.to_frame()["both"]) == [found.nodes.both, found.edges.both]
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert all(n is None or isinstance(n, (int, float)) for n in numbers(plain))
    assert plain["edges"]["both"] == found.edges.both
    assert plain["edges"]["left"] == int(mask(circuit(pair[0])).sum())
    assert plain["spearman"] is None


# -- names and files -------------------------------------------------------------------------------
def test_either_side_may_be_a_name_a_file_or_a_graph(tmp_path: Path) -> None:
    one, other = named("ioi:acdc"), named("ioi:eap_ig")
    expected = compare(one.circuit, other.circuit).to_dict()
    path = one.circuit.save(tmp_path / "one.json")
    plain = nx.DiGraph(one.circuit)
    for left in ("ioi:acdc", path, str(path), plain, one):
        assert compare(left, "ioi:eap_ig").to_dict() == expected
    eap = write_eap(one.circuit, tmp_path / "eap.pt", d_model=4)
    assert compare(eap, other).edges == compare(one, other).edges
    assert agreement([path, "ioi:eap_ig"]).pairs == (compare(one, other).edges,)


def test_a_reference_that_lists_members_is_compared_by_them_and_says_so() -> None:
    found = compare("ioi:acdc", "ioi:wang2022")
    assert found.of_edges is None
    assert found.roles["name mover"] == (3, 3)
    for text in (repr(found), found._repr_html_()):
        assert "only components are compared: ioi:wang2022 lists members and no edges" in text
        assert "heads alone are compared" in text
    assert "name mover" in repr(found)
    assert list(found.to_frame()["what"]) == ["nodes"]
    assert found.to_dict()["note"] == found.note
    with pytest.raises(CircuitError, match=r"no edges are compared: ioi:wang2022 lists"):
        found.edges  # noqa: B018
    assert compare("ioi:acdc", "ioi:eap_ig").note == ""
    with pytest.raises(CircuitError, match="use compare"):
        agreement(["ioi:acdc", "ioi:wang2022"])


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("ioi", "ioi:wang2022"),
        ("ioi:wagn2022", "did you mean 'ioi:wang2022'"),
        ("absent.json", "there is no file 'absent.json'"),
        (3, "int is not a circuit; give a circuit"),
        (None, "NoneType is not a circuit"),
        (Scores(WIRING, np.zeros(WIRING.shape)), r"Scores is not a circuit.*scores\.top"),
    ],
    ids=str,
)
def test_what_is_not_a_circuit_is_refused_in_a_sentence(wrong: Any, words: str) -> None:
    for pair in ((wrong, "ioi:acdc"), ("ioi:acdc", wrong)):
        with pytest.raises(CircuitkitError, match=words) as caught:
            compare(*pair)
        assert "\n" not in str(caught.value)


def test_an_overlap_is_a_sentence_a_row_and_a_table() -> None:
    overlap = Overlap(left=4, right=3, both=2, universe=12)
    assert str(overlap) == "2 shared of 4 and 3, Jaccard 0.400 (by chance 0.167)"
    assert overlap.to_frame().iloc[0].to_dict() == overlap.to_dict()
    assert overlap._repr_html_().count("<tr") == 2
