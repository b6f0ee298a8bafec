"""The full graph of a model, against an enumeration that shares no code with it."""

from __future__ import annotations

from itertools import product

import networkx as nx
import numpy as np
import pytest
from families import first_head, mlp_column, mlp_row, port, port_columns

from circuitkit.errors import CircuitError, CircuitkitError
from circuitkit.graph.nodes import INPUT, LOGITS, Node, parse_edge
from circuitkit.graph.wiring import Wiring

SHAPES = [
    Wiring(layers, heads, groups, mlp, parallel)
    for layers, (heads, groups), (mlp, parallel) in product(
        (1, 3), ((1, 1), (3, 3), (4, 1), (6, 3)), ((True, False), (True, True), (False, False))
    )
]


def describe(wiring: Wiring) -> str:
    """A name for the test's report."""
    kind = ("par" if wiring.parallel else "seq") if wiring.mlp else "attn"
    return f"{wiring.layers}x{wiring.heads}/{wiring.groups}-{kind}"


every_shape = pytest.mark.parametrize("wiring", SHAPES, ids=map(describe, SHAPES))


def stage(name: str, parallel: bool) -> tuple[int, float]:
    """When a node acts: a reader sees what writers of an earlier stage wrote."""
    if name == "input":
        return -1, 0
    if name == "logits":
        return 10**6, 0
    layer = int(name.split(".")[0][1:])
    return layer, 0 if name.startswith("a") or parallel else 0.5


def enumerate_edges(wiring: Wiring) -> set[tuple[str, str]]:
    """Every pair in which the writer has finished before the reader starts."""
    writers = ["input"]
    readers = ["logits"]
    shared = wiring.groups < wiring.heads
    for layer in range(wiring.layers):
        writers += [f"a{layer}.h{h}" for h in range(wiring.heads)]
        readers += [f"a{layer}.h{h}.q" for h in range(wiring.heads)]
        letter = "g" if shared else "h"
        readers += [f"a{layer}.{letter}{g}.{p}" for g in range(wiring.groups) for p in "kv"]
        if wiring.mlp:
            writers.append(f"m{layer}")
            readers.append(f"m{layer}")
    return {
        (w, r)
        for w, r in product(writers, readers)
        if stage(w, wiring.parallel) < stage(r, wiring.parallel)
    }


def fed_heads(wiring: Wiring, reader: str) -> list[str]:
    """The heads behind a port, by counting: heads 0, 1, ... fill the groups one after another."""
    layer, part, _ = reader.split(".")
    if part.startswith("h"):
        return [f"{layer}.{part}"]
    size = wiring.heads // wiring.groups
    return [f"{layer}.h{h}" for h in range(wiring.heads) if h // size == int(part[1:])]


def graph_of(wiring: Wiring, keep: np.ndarray) -> nx.DiGraph:
    """The kept edges, and behind each port its heads, with readers and writers told apart."""
    graph = nx.DiGraph()
    graph.add_nodes_from([("w", "input"), ("r", "logits")])
    for row, column in np.argwhere(keep):
        graph.add_edge(("w", wiring.writers[row]), ("r", wiring.readers[column]))
    for reader in wiring.readers:
        if "." in reader:
            graph.add_edges_from((("r", reader), ("w", h)) for h in fed_heads(wiring, reader))
        elif reader != "logits":
            graph.add_edge(("r", reader), ("w", reader))
    return graph


def alive_by_paths(wiring: Wiring, keep: np.ndarray) -> np.ndarray:
    """The kept edges from which the embedding can be reached backwards and the logits forwards."""
    graph = graph_of(wiring, keep)
    start, end = ("w", "input"), ("r", "logits")
    reached = nx.descendants(graph, start) | {start}
    heard = nx.ancestors(graph, end) | {end}
    alive = np.zeros_like(keep)
    for row, column in np.argwhere(keep):
        on_path = ("w", wiring.writers[row]) in reached and ("r", wiring.readers[column]) in heard
        alive[row, column] = on_path
    return alive


def some_masks(wiring: Wiring, count: int, seed: int = 0) -> list[np.ndarray]:
    """Random legal masks, from sparse to dense."""
    rng = np.random.default_rng(seed)
    densities = np.linspace(0.03, 0.9, count)
    return [(rng.random(wiring.shape) < d) & wiring.legal for d in densities]


@every_shape
def test_the_legal_edges_are_those_of_the_brute_force_enumeration(wiring: Wiring) -> None:
    listed = [(wiring.writers[w], wiring.readers[r]) for w, r in np.argwhere(wiring.legal)]
    assert set(listed) == enumerate_edges(wiring)
    assert wiring.n_edges == len(listed) == int(wiring.legal.sum())


@every_shape
def test_names_are_unique_and_the_indices_are_their_places(wiring: Wiring) -> None:
    assert wiring.shape == (len(wiring.writers), len(wiring.readers)) == wiring.legal.shape
    assert [wiring.writer[name] for name in wiring.writers] == list(range(wiring.shape[0]))
    assert [wiring.reader[name] for name in wiring.readers] == list(range(wiring.shape[1]))
    assert all(type(node) is Node for node in (*wiring.writers, *wiring.readers))
    assert wiring.writers[0] == INPUT
    assert wiring.readers[-1] == LOGITS


@every_shape
def test_every_reader_sees_a_prefix_of_the_writers(wiring: Wiring) -> None:
    for column, count in enumerate(wiring.upstream):
        assert wiring.legal[:count, column].all()
        assert not wiring.legal[count:, column].any()


@every_shape
def test_rows_and_columns_of_a_layer_hold_what_their_names_say(wiring: Wiring) -> None:
    for layer in range(wiring.layers):
        first = first_head(wiring, layer)
        heads = [f"a{layer}.h{h}" for h in range(wiring.heads)]
        assert list(wiring.writers[first : first + wiring.heads]) == heads
        for letter, columns in port_columns(wiring, layer).items():
            count = wiring.heads if letter == "q" else wiring.groups
            own = "h" if count == wiring.heads else "g"
            ports = [Node(f"a{layer}.{own}{i}.{letter}") for i in range(count)]
            assert list(wiring.readers[columns]) == ports
            assert {(p.layer, p.port) for p in ports} == {(layer, letter)}
        if wiring.mlp:
            assert wiring.writers[mlp_row(wiring, layer)] == f"m{layer}"
            assert wiring.readers[mlp_column(wiring, layer)] == f"m{layer}"


@every_shape
def test_a_writer_is_fed_by_its_own_ports_and_those_of_its_group(wiring: Wiring) -> None:
    assert wiring.feeds(0) == []
    for row, writer in enumerate(wiring.writers[1:], start=1):
        feeding = {
            reader
            for reader in wiring.readers
            if reader == writer or ("." in reader and writer in fed_heads(wiring, reader))
        }
        columns = wiring.feeds(row)
        assert {wiring.readers[column] for column in columns} == feeding
        assert len(columns) == len(feeding)


@every_shape
def test_a_port_feeds_the_heads_of_its_group_and_each_head_has_one_group(wiring: Wiring) -> None:
    for reader in wiring.readers:
        if reader.port:
            assert list(wiring.fed(reader)) == fed_heads(wiring, reader)
    for head in range(wiring.heads):
        key = port(wiring, 0, "k", head * wiring.groups // wiring.heads)
        assert f"a0.h{head}" in wiring.fed(key)


@pytest.mark.parametrize(
    ("wiring", "edges"),
    [
        (Wiring(12, 12, 12), 32_491),
        (Wiring(24, 16, 16), 231_877),
        (Wiring(36, 20, 20), 810_703),
        (Wiring(48, 25, 25), 2_235_025),
        (Wiring(4, 8, 8, mlp=False), 1_281),
        (Wiring(2, 8, 8, mlp=False), 257),
        (Wiring(4, 1, 1), 77),
        (Wiring(2, 1, 1), 23),
    ],
    ids=lambda value: describe(value) if isinstance(value, Wiring) else f"{value}-edges",
)
def test_edge_counts_are_the_published_ones(wiring: Wiring, edges: int) -> None:
    assert wiring.n_edges == edges


def test_gpt2_small_has_the_published_writers_and_readers() -> None:
    assert Wiring(12, 12, 12).shape == (157, 445)


@every_shape
def test_alive_edges_are_those_on_a_path_from_embedding_to_logits(wiring: Wiring) -> None:
    for keep in some_masks(wiring, 12, seed=wiring.n_edges):
        np.testing.assert_array_equal(wiring.alive(keep), alive_by_paths(wiring, keep))


def test_the_random_masks_put_alive_to_the_test() -> None:
    wiring = Wiring(3, 4, 2)
    shares = [alive_by_paths(wiring, k).sum() / k.sum() for k in some_masks(wiring, 12)]
    assert min(shares) < 0.5 < max(shares)
    assert sum(0 < share < 1 for share in shares) > 3


@every_shape
def test_alive_drops_only_and_does_so_once_and_grows_with_the_mask(wiring: Wiring) -> None:
    small, large = some_masks(wiring, 2, seed=5)
    large = large | small
    before = small.copy()
    alive = wiring.alive(small)
    np.testing.assert_array_equal(small, before)
    assert not (alive & ~small).any()
    np.testing.assert_array_equal(wiring.alive(alive), alive)
    assert not (alive & ~wiring.alive(large)).any()


@every_shape
def test_the_full_graph_is_alive_and_impossible_edges_never_are(wiring: Wiring) -> None:
    np.testing.assert_array_equal(wiring.alive(wiring.legal), wiring.legal)
    np.testing.assert_array_equal(wiring.alive(np.ones(wiring.shape, dtype=bool)), wiring.legal)
    assert not wiring.alive(np.zeros(wiring.shape, dtype=bool)).any()


def test_a_group_port_keeps_alive_what_any_head_of_the_group_hands_on() -> None:
    wiring = Wiring(1, 4, 2, mlp=False)
    keep = np.zeros(wiring.shape, dtype=bool)
    for edge in ("input->a0.g1<v>", "a0.h2->logits"):
        keep[wiring.index(*parse_edge(edge))] = True
    np.testing.assert_array_equal(wiring.alive(keep), keep)
    keep[wiring.index("a0.h2", "logits")] = False
    keep[wiring.index("a0.h1", "logits")] = True  # a head of the other group hears nothing of it
    assert not wiring.alive(keep).any()


@every_shape
def test_index_finds_every_edge_and_refuses_every_other_pair(wiring: Wiring) -> None:
    edges = enumerate_edges(wiring)
    for row, writer in enumerate(wiring.writers):
        for column, reader in enumerate(wiring.readers):
            if (writer, reader) in edges:
                assert wiring.index(writer, reader) == (row, column)
            else:
                with pytest.raises(CircuitError, match="is not an edge of a model with"):
                    wiring.index(writer, reader)


@pytest.mark.parametrize(
    "edge",
    [
        ("m1", "m1"), ("m1", "m0"), ("m9", "logits"), ("a0.h9", "logits"), ("logits", "m1"),
        ("input", "input"), ("input", "a0.h0"), ("input", "a0.h0.k"), ("input", "a0.g2.k"),
        ("a0.h0.q", "m1"), ("a1.h0", "a1.h1.q"), ("a0.g0.k", "m1"),
    ],
)  # fmt: skip
def test_an_edge_that_the_model_lacks_is_named_beside_the_model(edge: tuple[str, str]) -> None:
    with pytest.raises(CircuitError, match=r"->.* 2 layers, 4 heads and 2 key/value groups"):
        Wiring(2, 4, 2).index(*edge)


@pytest.mark.parametrize("edge", [("nonsense", "m1"), ("m0", "nonsense"), ("", "")])
def test_an_index_of_what_is_no_node_is_refused(edge: tuple[str, str]) -> None:
    with pytest.raises(CircuitkitError, match="is not a node"):
        Wiring(2, 4, 2).index(*edge)


@pytest.mark.parametrize(
    "fields",
    [
        (0, 1, 1), (1, 0, 1), (1, 1, 0), (-1, 1, 1), (1, 4, 3), (1, 4, 8), (2.0, 1, 1),
        ("2", 1, 1), (True, 1, 1), (None, 1, 1), ([2], 1, 1), (1, 1, 1, 2), (1, 1, 1, "yes"),
        (1, 1, 1, True, 1), (10**9, 10**9, 1), (10**30, 1, 1), (1, 10**30, 1),
    ],
    ids=lambda fields: str(fields)[:40],
)  # fmt: skip
@pytest.mark.unchecked
def test_impossible_shapes_are_refused(fields: tuple[int, ...]) -> None:
    with pytest.raises(CircuitError, match="is not a wiring") as caught:
        Wiring(*fields)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_largest_models_of_today_are_wirings() -> None:
    assert Wiring(126, 128, 8).n_edges > 10**8
