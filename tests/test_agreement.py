"""How much several circuits agree: by hand, by pairs, and by the laws of overlap."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
from test_compare import circuit, some_circuit
from test_placed_pictures import drawn_at_random

from circuitkit.errors import CircuitError
from circuitkit.graph.circuit import Circuit, edges
from circuitkit.graph.compare import Agreement, agreement, compare
from circuitkit.graph.wiring import Wiring

ONE = {"input->a0.h0<q>": 1.0, "a0.h0->m1": 2.0, "m1->logits": 3.0, "input->logits": 1.0}
TWO = {"input->a0.h0<q>": 3.0, "a0.h0->m1": -1.0, "m0->logits": 4.0}
THREE = {"input->a0.h0<q>": 2.0, "m1->logits": 1.0}


def test_the_agreement_of_three_small_circuits_is_as_by_hand() -> None:
    found = agreement([circuit(ONE), circuit(TWO), circuit(THREE)])
    assert found.sizes == (4, 3, 2)
    assert found.in_all == 1  # input->a0.h0<q>
    assert found.in_any == 5  # the four of the first, and m0->logits
    # Shared of united: 2 of 5, 2 of 4, 1 of 4.
    assert found.jaccard == pytest.approx((2 / 5 + 2 / 4 + 1 / 4) / 3)


@pytest.mark.parametrize("seed", range(4))
def test_the_mean_over_the_pairs_is_that_of_the_comparisons(seed: int) -> None:
    several = [some_circuit(seed * 5 + i, 20 + i) for i in range(4)]
    found = agreement(several)
    pairs = [compare(a, b).edges for a, b in combinations(several, 2)]
    assert found.pairs == tuple(pairs)
    assert found.jaccard == pytest.approx(np.mean([pair.jaccard for pair in pairs]))
    assert found.expected_jaccard == pytest.approx(np.mean([p.expected_jaccard for p in pairs]))
    assert found.in_all <= min(found.sizes) <= max(found.sizes) <= found.in_any
    assert 0 < found.jaccard < 1


def test_equal_circuits_agree_and_random_ones_as_chance_has_it() -> None:
    same = agreement([some_circuit(1)] * 3)
    assert same.jaccard == 1
    assert same.in_all == same.in_any == 30
    several = agreement([some_circuit(seed, 60) for seed in range(40)])
    assert several.jaccard == pytest.approx(several.expected_jaccard, rel=0.05)


def test_it_prints_itself_and_is_json() -> None:
    found = agreement([circuit(ONE), circuit(TWO), circuit(THREE)])
    for word in ("3 circuits of 2 to 4 edges", "1 edges in all", "5 in any", "by chance"):
        assert word in str(found)
        assert word in repr(found)
    assert "\n" not in str(found)
    frame = found.to_frame()
    assert [(row.first, row.second) for row in frame.itertuples()] == [(0, 1), (0, 2), (1, 2)]
    assert list(frame["both"]) == [pair.both for pair in found.pairs]
    assert found._repr_html_().count("<tr") == 4
    answer = json.loads(json.dumps(found.to_dict()))
    assert answer["sizes"] == [4, 3, 2]
    assert answer["jaccard"] == found.jaccard
    assert isinstance(found, Agreement)


def test_what_cannot_be_compared_is_refused() -> None:
    for several in ([], [some_circuit(1)]):
        with pytest.raises(CircuitError, match="at least 2"):
            agreement(several)
    other = circuit(TWO, Wiring(3, 4, 2))
    with pytest.raises(CircuitError, match="different models"):
        agreement([circuit(ONE), circuit(TWO), other])
    assert other.graph["wiring"] != circuit(ONE).graph["wiring"]


def test_circuits_between_places_agree_as_the_comparisons_say() -> None:
    """And random ones of the same numbers of edges share what chance gives."""
    first, second = drawn_at_random("mini"), drawn_at_random("mini", 1)
    part = Circuit(first)
    part.remove_edges_from([edge[:2] for edge in sorted(edges(first))[:5]])
    found = agreement([first, part, second])
    pairs = combinations((first, part, second), 2)
    assert found.pairs == tuple(compare(one, other).edges for one, other in pairs)
    assert found.sizes == (60, 55, 60)
    equal = agreement([first, first])
    assert equal.jaccard == equal.kappa == 1
    random = agreement([first, second])
    low, high = random.kappa_by_chance
    assert low <= 0 <= high
    assert low <= random.kappa <= high
    assert "kappa" in str(random.to_dict())
    with pytest.raises(CircuitError, match="compare circuits of one kind"):
        agreement([first, second.collapse()])
