"""Circuits as sets of edges: the laws of sets, of weights too, and what a circuit was made of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from test_compare import WIRING, circuit, some_circuit, weights_of

import circuitkit as ck
from circuitkit.errors import ArgumentError, CircuitError
from circuitkit.graph.chance import Chance, chance, shared
from circuitkit.graph.circuit import Circuit, from_json, mask, to_json
from circuitkit.graph.compare import Agreement, Overlap, agreement
from circuitkit.graph.consensus import consensus
from circuitkit.graph.published import named
from circuitkit.graph.scores import Scores
from circuitkit.graph.walks import drawn_masks
from circuitkit.graph.wiring import Wiring

A, B, C = (some_circuit(seed, 50, ties) for seed, ties in ((1, False), (2, True), (3, True)))
NOTHING = circuit({})
LAWS: dict[str, tuple[Callable[..., Circuit], Callable[..., Circuit]]] = {
    "A | A = A": (lambda a, b, c: a | a, lambda a, b, c: a),
    "A & A = A": (lambda a, b, c: a & a, lambda a, b, c: a),
    "A | nothing = A": (lambda a, b, c: a | NOTHING, lambda a, b, c: a),
    "A - nothing = A": (lambda a, b, c: a - NOTHING, lambda a, b, c: a),
    "A & nothing = nothing": (lambda a, b, c: a & NOTHING, lambda a, b, c: NOTHING),
    "A - A = nothing": (lambda a, b, c: a - a, lambda a, b, c: NOTHING),
    "A | B = B | A": (lambda a, b, c: a | b, lambda a, b, c: b | a),
    "A & B = B & A": (lambda a, b, c: a & b, lambda a, b, c: b & a),
    "(A | B) | C = A | (B | C)": (lambda a, b, c: (a | b) | c, lambda a, b, c: a | (b | c)),
    "(A & B) & C = A & (B & C)": (lambda a, b, c: (a & b) & c, lambda a, b, c: a & (b & c)),
    "A | (A & B) = A": (lambda a, b, c: a | (a & b), lambda a, b, c: a),
    "A & (A | B) = A": (lambda a, b, c: a & (a | b), lambda a, b, c: a),
    "A & (B | C) = (A & B) | (A & C)":
        (lambda a, b, c: a & (b | c), lambda a, b, c: (a & b) | (a & c)),
    "A | (B & C) = (A | B) & (A | C)":
        (lambda a, b, c: a | (b & c), lambda a, b, c: (a | b) & (a | c)),
    "A - (B | C) = (A - B) & (A - C)":
        (lambda a, b, c: a - (b | c), lambda a, b, c: (a - b) & (a - c)),
    "A - (B & C) = (A - B) | (A - C)":
        (lambda a, b, c: a - (b & c), lambda a, b, c: (a - b) | (a - c)),
    "(A | B) - C = (A - C) | (B - C)":
        (lambda a, b, c: (a | b) - c, lambda a, b, c: (a - c) | (b - c)),
}  # fmt: skip


@pytest.mark.parametrize("law", LAWS)
def test_a_law_of_sets_holds_of_edges_and_weights(law: str) -> None:
    left, right = LAWS[law]
    for a, b, c in ((A, B, C), (B, C, A), (A, A, B)):
        assert weights_of(left(a, b, c)) == weights_of(right(a, b, c))


def test_the_edges_are_those_of_the_masks() -> None:
    a, b = mask(A), mask(B)
    for made, expected in ((A | B, a | b), (A & B, a & b), (A - B, a & ~b)):
        assert (mask(made) == expected).all()
        assert mask(made).any()
    assert weights_of(A - B).items() <= weights_of(A).items()


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_a_consensus_holds_what_so_many_hold_with_the_weight_of_that_rank(k: int) -> None:
    several = [some_circuit(seed, 60) for seed in range(5)]
    found = weights_of(consensus(several, k))
    count = Counter(pair for one in several for pair in weights_of(one))
    assert {*found} == {pair for pair, n in count.items() if n >= k}
    for pair, weight in found.items():
        own = [weights_of(one)[pair] for one in several if pair in weights_of(one)]
        assert weight == sorted(own, key=abs)[-k]


def test_a_consensus_of_one_is_the_union_and_of_all_the_intersection() -> None:
    for k, whole in ((1, A | B | C), (3, A & B & C)):
        assert weights_of(consensus([A, B, C], k)) == weights_of(whole)
    assert weights_of(consensus([A], 1)) == weights_of(A)


def test_what_is_said_of_an_edge_goes_with_its_weight_and_roles_stay() -> None:
    left, right = circuit({"m0->m1": 1.0, "m1->logits": 2.0}), circuit({"m0->m1": -3.0})
    left["m0"]["m1"]["exact"], right["m0"]["m1"]["exact"] = False, True
    left.add_node("m1", role="reads")
    right.add_node("m0", role="writes")
    union, both, rest = left | right, left & right, left - right
    assert dict(union["m0"]["m1"]) == {"exact": True, "weight": -3.0}
    assert dict(both["m0"]["m1"]) == {"exact": False, "weight": 1.0}
    assert dict(union.nodes(data="role")) == {"m0": "writes", "m1": "reads", "logits": None}
    assert rest.nodes["m1"]["role"] == "reads"
    assert "m0" not in rest


def test_without_weights_on_one_side_there_are_none_on_both() -> None:
    bare = circuit({"m0->m1": 1.0, "m0->logits": 1.0})
    bare.graph["unweighted"] = True
    weighed = circuit({"m0->m1": 0.5, "m1->logits": 2.0})
    for made in (bare | weighed, weighed | bare, bare & weighed, bare - weighed):
        assert made.graph["unweighted"] is True
        assert {*weights_of(made).values()} == {1.0}
    assert "unweighted" not in (weighed - bare).graph
    assert weights_of(weighed - bare) == {("m1", "logits"): 2.0}


def test_nothing_changes_what_is_combined() -> None:
    before = [to_json(one) for one in (A, B)]
    for made in (A | B, A & B, A - B, consensus([A, B], 1)):
        made.graph["model"] = "changed"
        next(iter(made.edges(data=True)))[2]["weight"] = 9.0
    assert [to_json(one) for one in (A, B)] == before


# -- what is said of the whole ---------------------------------------------------------------------
def told(one: Circuit, **about: Any) -> Circuit:
    found = Circuit(one)
    found.graph.update(about)
    return found


SEEN = ["0a1b2c3d", "11111111", "ffffffff"]
IOI = told(A, model="mini", task="ioi", metric="logit_diff", corruption="zero", method="eap",
           seed=0, examples=2, seen="".join(SEEN[:2]), faithfulness={"value": 0.9})  # fmt: skip
FACTS = told(B, model="mini", task="facts", metric="logit_diff", corruption="mean", method="eap",
             seed=1, examples=2, seen="".join(SEEN[1:]))  # fmt: skip


def test_a_whole_says_what_its_parts_agree_on_and_every_prompt_that_they_saw() -> None:
    about = dict((IOI | FACTS).graph)
    assert {about.pop("model"), about.pop("metric")} == {"mini", "logit_diff"}
    assert about.pop("seen") == "".join(SEEN)
    assert {*about} == {"wiring", "method", "made_of"}
    assert (IOI | told(B, **{**IOI.graph, "seed": 4})).graph["task"] == "ioi"


def test_what_it_was_made_of_is_in_its_file_and_shown() -> None:
    made = (IOI | FACTS) - C
    again = from_json(to_json(made))
    assert again.graph["made_of"] == made.graph["made_of"]
    own = again.graph["made_of"]
    assert own["operation"] == "difference"
    assert [part["edges"] for part in own["parts"]] == [int(mask(IOI | FACTS).sum()), 50]
    of_union = own["parts"][0]
    assert of_union["operation"] == "union"
    assert [part["task"] for part in of_union["parts"]] == ["ioi", "facts"]
    digests = [json.loads(to_json(one))["digest"] for one in (IOI, FACTS)]
    assert [part["digest"] for part in of_union["parts"]] == digests
    text = "(ioi by eap (50 edges) | facts by eap (50 edges)) - a circuit (50 edges)"
    assert again.graph["method"] == text
    assert f"method: {text}" in repr(again)
    assert "difference of\n  union of\n    ioi by eap (50 edges), on mini" in repr(again)
    assert repr(from_json(to_json(again))) == repr(made)


def test_a_union_of_unions_is_one_and_a_consensus_says_its_k() -> None:
    for one in (A | B | C, A | (B | C)):
        assert len(one.graph["made_of"]["parts"]) == 3
    many = consensus([A, B, C] * 3, 2)
    assert many.graph["made_of"]["k"] == 2
    assert many.graph["method"].startswith("at least 2 of 9: a circuit (50 edges), a circuit")
    assert many.graph["method"].endswith(", 5 more")
    assert "consensus of at least 2 of 9 circuits" in repr(many)


@pytest.mark.parametrize("wrong", [
    {}, {"operation": "union", "parts": []}, {"operation": "union", "parts": [3]}, "union",
    {"operation": "xor", "parts": [{"edges": 3}]}, {"operation": "union", "parts": [{}]},
    {"operation": "union", "parts": [{"edges": 3, "operation": "union"}]},
])  # fmt: skip
def test_a_file_with_another_provenance_is_refused(wrong: Any) -> None:
    data = json.loads(to_json(A | B))
    data["attributes"]["made_of"] = wrong
    del data["digest"]
    with pytest.raises(CircuitError, match=r"'made_of' in 'attributes' is .* an operation"):
        from_json(json.dumps(data))


def test_other_programs_keep_what_it_was_made_of(tmp_path: Path) -> None:
    nx.write_graphml(A | B, tmp_path / "whole.graphml")
    again = Circuit(nx.read_graphml(tmp_path / "whole.graphml"))
    assert again.graph["made_of"] == (A | B).graph["made_of"]


# -- what is refused -------------------------------------------------------------------------------
def test_circuits_of_other_wirings_are_refused_in_a_sentence() -> None:
    other = circuit({"m0->logits": 1.0}, Wiring(3, 4, 2))
    for combine in (lambda: A | other, lambda: A & other, lambda: A - other,
                    lambda: consensus([A, other], 1)):  # fmt: skip
        with pytest.raises(CircuitError, match="combine circuits of one model") as caught:
            combine()
        assert "\n" not in str(caught.value)


def test_a_list_of_members_is_refused() -> None:
    acdc = named("ioi:acdc").circuit
    with pytest.raises(CircuitError, match=r"circuit 2 .* lists members and no edges"):
        acdc | named("ioi:wang2022").circuit
    assert (acdc - acdc).to_frame().empty


@pytest.mark.unchecked
def test_what_is_not_a_circuit_or_a_number_of_them_is_refused() -> None:
    for other in (3, None, {1}, mask(A)):
        with pytest.raises(TypeError):
            A | other
    for k in (0, 4, -1, 1.5, True, "2", None):
        with pytest.raises(ArgumentError, match="give a whole number from 1 to 3"):
            consensus([A, B, C], k)  # type: ignore[arg-type]
    with pytest.raises(CircuitError, match="there are no circuits"):
        consensus([], 1)


def test_names_and_files_may_stand_in_a_consensus(tmp_path: Path) -> None:
    path = named("ioi:acdc").circuit.save(tmp_path / "a.json")
    found = ck.consensus([path, "ioi:acdc", "ioi:eap_ig"], 2)
    assert (mask(found) == mask(named("ioi:acdc").circuit)).all()
    assert "ioi:acdc (963 edges)" in found.graph["method"]


# -- overlap beyond chance -------------------------------------------------------------------------
def drawn(sizes: Sequence[int], seed: int) -> list[np.ndarray]:
    """Random circuits that hang together, by the places of their edges."""
    masks = (drawn_masks(WIRING, size, 1, seed + n)[0] for n, size in enumerate(sizes))
    return [np.flatnonzero(mask) for mask in masks]


def test_beyond_chance_is_cohens_kappa_where_every_set_of_edges_is_as_likely() -> None:
    """Of evenly drawn sets the number that is shared by chance is l · r / N."""
    found = agreement([A, B])
    x, y = (mask(one)[WIRING.legal] for one in (A, B))
    agree, apart = (x == y).mean(), x.mean() * y.mean() + (~x).mean() * (~y).mean()
    even = 50 * 50 / WIRING.n_edges
    found.__dict__["by_chance"] = Chance(np.array([even]), np.full((2, 2), even))
    assert found.kappa == pytest.approx((agree - apart) / (1 - apart))
    assert found.kappas == (pytest.approx(found.kappa),)


def test_equal_circuits_are_one_beyond_chance_and_whole_models_undefined() -> None:
    found = agreement([A, A])
    assert (found.kappa, *found.kappas) == pytest.approx((1, 1))
    whole = Scores(WIRING, np.ones(WIRING.shape)).graph()
    whole_twice = agreement([whole, whole])
    assert np.isnan(whole_twice.kappa)
    assert whole_twice.to_dict()["kappa"] is None
    with pytest.raises(CircuitError, match="it is not known what random circuits"):
        Agreement((3, 3), 0, 6, (Overlap(3, 3, 0, 9),)).kappa  # noqa: B018


def test_what_circuits_share_is_the_sum_over_their_pairs() -> None:
    placed = drawn((20, 30, 30, 40), 7)
    expected = sum(len(np.intersect1d(a, b)) for a, b in combinations(placed, 2))
    assert shared(placed) == expected


def test_random_circuits_overlap_by_nothing_beyond_chance() -> None:
    """In 19 of 20 cases within the interval, which is not much too wide; random circuits that hang
    together share more than random sets of edges."""
    sizes = (30, 40, 40)
    expected = chance(WIRING, sizes)
    low, high = expected.interval()
    numbers = [shared(drawn(sizes, 1000 * seed)) for seed in range(1, 301)]
    assert 0.91 <= np.mean([low <= number <= high for number in numbers]) <= 0.985
    assert abs(np.mean(numbers) - expected.mean) < 4 * np.std(numbers) / 300**0.5
    even = [a * b / WIRING.n_edges for a, b in combinations(sizes, 2)]
    assert expected.mean > 1.3 * sum(even)
    assert expected.pairs[0, 1] == expected.pairs[1, 0]
    pool = np.array([mask.ravel() for mask in drawn_masks(WIRING, 40, 200, 40)], dtype=int)
    apart = ~np.eye(200, dtype=bool)
    assert expected.pairs[1, 2] == pytest.approx((pool @ pool.T)[apart].mean())
    pairs = expected.pairs[np.triu_indices(3, 1)]
    assert pairs.sum() == pytest.approx(expected.mean, rel=0.03)


def test_the_overlap_beyond_chance_is_said_with_what_random_circuits_have() -> None:
    found = agreement([A, B, C])
    low, high = found.kappa_by_chance
    assert low < 0 < high
    assert f"kappa {found.kappa:.3f} (of random ones [{low:.3f}, {high:.3f}])" in (
        found.beyond_chance()
    )
    said = found.to_dict()
    assert (said["kappa"], said["kappa_low"], said["kappa_high"]) == (found.kappa, low, high)
