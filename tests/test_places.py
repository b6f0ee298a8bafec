"""Edges between places: what is alive, beside the same graph in NetworkX."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from circuitkit.errors import CircuitError
from circuitkit.graph.placed_walks import drawn_places
from circuitkit.graph.places import PlacedMask, Places
from circuitkit.graph.wiring import Wiring

SPANS = ("first", "S2", "end")
SEES = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1]], bool)
WIRINGS = {
    "plain": Wiring(2, 2, 2),
    "grouped": Wiring(3, 4, 2),
    "parallel": Wiring(2, 2, 1, parallel=True),
    "bare": Wiring(2, 2, 2, mlp=False),
    "experts": Wiring(2, 2, 2, experts=(3, 0), shared=True),
}


@pytest.fixture(params=WIRINGS)
def places(request: pytest.FixtureRequest) -> Places:
    answers = np.array([False, False, True])
    return Places(WIRINGS[request.param], SPANS, SEES, answers)


def random_mask(places: Places, seed: int, share: float = 0.3) -> PlacedMask:
    rng, legal = np.random.default_rng(seed), places.legal
    kept = [
        table & (rng.random(table.shape) < share) for table in (legal.residual, legal.attention)
    ]
    return PlacedMask(places, *kept)


def as_graph(places: Places, mask: PlacedMask) -> nx.DiGraph:
    """The same edges in NetworkX: readers and writers are apart, each at its span."""
    graph, spans = nx.DiGraph(), range(len(places.spans))
    for w, r, s in np.argwhere(mask.residual):
        graph.add_edge(("w", w, s), ("r", r, s))
    for h, c, s, e in np.argwhere(mask.attention):
        graph.add_edge(("r", places.ports[h, c], s), ("w", places.heads[h], e))
    heads = set(places.heads.tolist())
    for row in range(1, places.shape[0]):
        feeds = places.wiring.feeds(row)
        for column in feeds[:1] if row in heads else feeds:
            graph.add_edges_from((("r", column, s), ("w", row, s)) for s in spans)
    return graph


@pytest.mark.parametrize("seed", range(4))
def test_what_is_alive_lies_on_a_path(places: Places, seed: int) -> None:
    mask = random_mask(places, seed)
    graph = as_graph(places, mask)
    graph.add_edges_from(("start", ("w", 0, s)) for s in range(3))
    logits = places.shape[1] - 1
    graph.add_edges_from((("r", logits, s), "stop") for s in range(3) if places.answers[s])
    graph.add_nodes_from(["start", "stop"])
    on = nx.descendants(graph, "start") & nx.ancestors(graph, "stop")
    found, live = places.alive_and_live(mask)
    for w, r, s in np.argwhere(mask.residual):
        assert found.residual[w, r, s] == (("w", w, s) in on and ("r", r, s) in on)
    for h, c, s, e in np.argwhere(mask.attention):
        kept = ("r", places.ports[h, c], s) in on and ("w", places.heads[h], e) in on
        assert found.attention[h, c, s, e] == kept
    at = {(w, s) for w in range(places.shape[0]) for s in range(3) if ("w", w, s) in on}
    assert {(int(w), int(s)) for w, s in np.argwhere(live)} == at


@pytest.mark.parametrize("seed", range(4))
def test_a_plain_circuit_is_alive_as_before(places: Places, seed: int) -> None:
    wiring = places.wiring
    mask = wiring.legal & (np.random.default_rng(seed).random(wiring.shape) < 0.4)
    for joint in (False, True):
        found = places.alive(places.spread(mask), joint=joint).collapse()
        assert (found == wiring.alive(mask)).all()


def test_nothing_changes_the_mask(places: Places) -> None:
    mask = random_mask(places, 0)
    before = mask.residual.copy(), mask.attention.copy()
    places.alive(mask)
    assert (mask.residual == before[0]).all()
    assert (mask.attention == before[1]).all()


def test_files_and_refusals(places: Places) -> None:
    assert Places.of(places.wiring, places.to_dict()) == places
    with pytest.raises(CircuitError, match="'S3' is not a span of these prompts"):
        places.span("S3")
    with pytest.raises(CircuitError, match="do not fit"):
        Places(places.wiring, ("a", "a"), SEES, np.ones(3, bool))
    with pytest.raises(CircuitError, match="have the shapes"):
        PlacedMask(places, places.legal.residual[:, :, :2], places.legal.attention)
    with pytest.raises(CircuitError, match="not a table"):
        Places.of(places.wiring, {"spans": ["a"]})


@pytest.mark.parametrize("sizes", [(1, 0), (8, 2), (20, 6), (30, 0)])
def test_random_circuits_are_alive_and_of_one_size(places: Places, sizes: tuple[int, int]) -> None:
    for mask in drawn_places(places, *sizes, n=3, seed=1):
        found = places.alive(mask)
        assert (found.residual == mask.residual).all()
        assert (found.attention == mask.attention).all()
        assert all(np.less_equal(mask.counts(), sizes))
        if sizes == (8, 2):  # the others may be more than fit into one span, or beside a path
            assert mask.counts() == sizes
    first, again = (drawn_places(places, *sizes, n=1, seed=2)[0] for _ in range(2))
    assert (first.residual == again.residual).all()


def test_a_random_circuit_needs_an_edge(places: Places) -> None:
    with pytest.raises(CircuitError, match="at least one edge"):
        drawn_places(places, 0, 0, n=1, seed=0)


def test_walks_begin_where_something_differs(places: Places) -> None:
    sources = np.array([False, True, False])
    for mask in drawn_places(places, 12, 3, n=3, seed=0, sources=sources):
        assert mask.residual[0, :, 1].any()
        alone = mask.residual.copy()
        alone[0, :, [0, 2]] = False
        found = places.alive(PlacedMask(places, alone, mask.attention))
        assert found.residual.any()


@pytest.mark.parametrize("joint", [False, True])
def test_what_would_be_alive_is_so_when_it_is_added_alone(places: Places, joint: bool) -> None:
    """Each edge inside is alive in the circuit with it, and no other one is."""
    for seed in range(2):
        keep = places.alive(random_mask(places, seed, 0.25), joint=joint)
        inside = places.inside(keep, joint=joint)
        for name in ("residual", "attention"):
            own, legal = getattr(keep, name), getattr(places.legal, name)
            assert (getattr(inside, name) >= own).all()
            for index in map(tuple, np.argwhere(legal & ~own)[::7]):
                tables = {n: getattr(keep, n).copy() for n in ("residual", "attention")}
                tables[name][index] = True
                found = places.alive(PlacedMask(places, **tables), joint=joint)
                assert getattr(found, name)[index] == getattr(inside, name)[index]
