"""Circuits as graphs and as files: nothing is lost, nothing half-written, nothing else than a
CircuitError comes of a bad file."""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle
import random
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from circuitkit.errors import CircuitError, OutputError
from circuitkit.formats.interchange.eap_ig import write_eap
from circuitkit.graph.circuit import (
    Circuit,
    build,
    edges,
    from_json,
    mask,
    summary,
    to_json,
    weight_matrix,
    wiring_of,
)
from circuitkit.graph.nodes import Node
from circuitkit.graph.wiring import Wiring
from circuitkit.util.atomic import write_whole

WIRINGS = [
    Wiring(2, 3, 3),
    Wiring(3, 4, 2),
    Wiring(2, 4, 1, parallel=True),
    Wiring(3, 2, 2, mlp=False),
    Wiring(2, 6, 3, mlp=False),
]
DENSITY = 0.15  # at which some edges lie on paths, and others are dead ends
VALUES: list[Any] = ["name mover", "", "größer → «ß» 名", 3, -2.5, True, None, [1, [2]], {"b": {}}]


def some_circuit(seed: int, density: float = 0.2) -> nx.DiGraph:
    """A random circuit with weights, roles, further edge attributes and graph attributes."""
    rng = random.Random(seed)
    wiring = rng.choice(WIRINGS)
    legal = [(wiring.writers[w], wiring.readers[r]) for w, r in np.argwhere(wiring.legal)]
    kept = rng.sample(legal, max(1, int(density * len(legal))))
    weights = {edge: rng.gauss(0, 1) * 10 ** rng.randrange(-9, 9) for edge in kept}
    extra = {edge: {"stderr": rng.choice(VALUES)} for edge in kept if rng.random() < 0.5}
    about = {key: rng.choice(VALUES) for key in ("author", "remark", "setup", "number")}
    circuit = build(wiring, weights, edge_attributes=extra, **about)
    for name in circuit:
        if rng.random() < 0.5:
            circuit.nodes[name].update(role=rng.choice(VALUES[:3]), rank=rng.choice(VALUES))
    return circuit


def parts(circuit: nx.DiGraph) -> tuple[Any, ...]:
    """All that a graph holds, as values that compare."""
    return dict(circuit.graph), dict(circuit.nodes(data=True)), dict(circuit.adj)


# -- the graph -------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(40))
def test_a_circuit_survives_its_file_unchanged(seed: int, tmp_path: Path) -> None:
    circuit = some_circuit(seed)
    again = Circuit.load(write_whole(tmp_path / "circuit.json", to_json(circuit)))
    assert parts(again) == parts(circuit)
    np.testing.assert_array_equal(mask(again), mask(circuit))
    np.testing.assert_array_equal(weight_matrix(again), weight_matrix(circuit))
    assert wiring_of(again) == wiring_of(circuit)
    assert to_json(again) == to_json(circuit)


@pytest.mark.parametrize("seed", range(10))
def test_equal_circuits_give_equal_text_in_whatever_order_they_were_built(seed: int) -> None:
    circuit = some_circuit(seed)
    rng = random.Random(seed)

    def shuffled(items: Any) -> Any:
        listed = list(items)
        rng.shuffle(listed)
        return listed

    other = nx.DiGraph()
    nodes = shuffled(circuit.nodes.items())
    other.add_nodes_from((n, dict(shuffled(dict(d).items()))) for n, d in nodes)
    other.add_edges_from((u, v, dict(shuffled(dict(d).items())))
                         for (u, v), d in shuffled(circuit.edges.items()))  # fmt: skip
    other.graph.update(shuffled(dict(circuit.graph).items()))
    assert to_json(other) == to_json(circuit)


def test_different_circuits_give_different_text() -> None:
    wiring = Wiring(1, 1, 1)
    texts = {
        to_json(build(wiring, {("input", "logits"): 1.0})),
        to_json(build(wiring, {("input", "logits"): 1.0 + 1e-15})),
        to_json(build(wiring, {("input", "m0"): 1.0})),
        to_json(build(wiring, {("input", "logits"): 1.0}, task="ioi")),
        to_json(build(wiring, {("input", "logits"): 1.0}, edge_attributes={
            ("input", "logits"): {"role": "skip"}})),
        to_json(build(Wiring(1, 1, 1, parallel=True), {("input", "logits"): 1.0})),
    }  # fmt: skip
    assert len(texts) == 6


def test_the_mask_and_the_weights_are_those_that_were_given() -> None:
    wiring = Wiring(2, 4, 2)
    weights = {("input", "a0.g1.k"): -0.5, ("a0.h3", "m0"): 0.0, ("m0", "logits"): 2.0}
    circuit = build(wiring, weights)
    assert {(w, r): x for w, r, x in edges(circuit)} == weights
    kept = np.argwhere(mask(circuit)).tolist()
    assert sorted(kept) == sorted(list(wiring.index(*edge)) for edge in weights)
    assert all(weight_matrix(circuit)[wiring.index(*edge)] == x for edge, x in weights.items())
    assert np.abs(weight_matrix(circuit)).sum() == 2.5


def test_a_mask_over_another_wiring_keeps_the_edges_or_names_the_one_it_lacks() -> None:
    small, large = Wiring(1, 2, 2), Wiring(3, 2, 2)
    circuit = build(small, {("input", "a0.h1.q"): 1.0})
    found = np.argwhere(mask(circuit, large))
    assert found.tolist() == [list(large.index("input", "a0.h1.q"))]
    with pytest.raises(CircuitError, match="m2->logits is not an edge of a model with 1 layers"):
        mask(build(large, {("m2", "logits"): 1.0}), small)


@pytest.mark.parametrize("seed", range(20))
def test_simple_paths_through_the_ports_are_exactly_what_is_alive(seed: int) -> None:
    circuit = some_circuit(seed, density=DENSITY)
    wiring = wiring_of(circuit)
    found = np.zeros(wiring.shape, dtype=bool)
    if "input" in circuit and "logits" in circuit:
        for path in nx.all_simple_edge_paths(circuit, "input", "logits"):
            for writer, reader in path:
                if "weight" in circuit[writer][reader]:
                    found[wiring.index(writer, reader)] = True
    np.testing.assert_array_equal(found, wiring.alive(mask(circuit)))


def test_the_random_circuits_hold_both_paths_and_dead_ends() -> None:
    shares = []
    for seed in range(20):
        circuit = some_circuit(seed, density=DENSITY)
        keep = mask(circuit)
        shares.append(wiring_of(circuit).alive(keep).sum() / keep.sum())
    assert sum(share > 0 for share in shares) >= 10
    assert sum(share < 1 for share in shares) >= 10


@pytest.mark.parametrize("seed", range(20))
def test_ancestors_of_the_logits_are_all_of_a_circuit_of_alive_edges(seed: int) -> None:
    circuit = some_circuit(seed)
    wiring = wiring_of(circuit)
    alive = wiring.alive(mask(circuit))
    weights = {(w, r): x for w, r, x in edges(circuit) if alive[wiring.index(w, r)]}
    pruned = build(wiring, weights)
    if pruned:
        assert nx.ancestors(pruned, "logits") == set(pruned) - {"logits"}
        assert nx.descendants(pruned, "input") == set(pruned) - {"input"}
        assert nx.is_directed_acyclic_graph(pruned)


def test_a_group_port_leads_to_every_head_of_its_group_that_writes() -> None:
    wiring = Wiring(1, 4, 2, mlp=False)
    weights = {("input", "a0.g1.v"): 1.0}
    weights |= {(f"a0.h{h}", "logits"): 1.0 for h in range(4)}
    circuit = build(wiring, weights)
    assert set(circuit.successors("a0.g1.v")) == {"a0.h2", "a0.h3"}
    paths = list(nx.all_simple_paths(circuit, "input", "logits"))
    assert sorted(path[2] for path in paths) == ["a0.h2", "a0.h3"]


def test_the_summary_counts_what_writes() -> None:
    wiring = Wiring(12, 12, 12)
    chain = [("input", "m0"), ("m0", "a1.h1.q"), ("m0", "a1.h1.v"), ("a1.h1", "logits")]
    circuit = build(wiring, dict.fromkeys(chain, 1.0))
    assert summary(circuit) == "4 of 32,491 edges, 1 of 144 heads, 1 of 12 MLPs"


def test_a_graph_attribute_may_have_any_name() -> None:
    names = ["weights", "incoming_graph_data", "data", "name", "self", "attr", "circuit"]
    circuit = build(Wiring(1, 1, 1), {("input", "logits"): 1.0}, **dict.fromkeys(names, "0" * 64))
    circuit.graph["edge_attributes"] = "x"
    for other in (from_json(to_json(circuit)), circuit.copy()):
        assert parts(other) == parts(circuit)
    assert set(circuit) == {"input", "logits"}


def test_an_edge_attribute_may_have_any_name_but_that_of_the_edge() -> None:
    edge = ("input", "logits")
    extra = {"u_of_edge": 1, "v_of_edge": 2, "self": 3}
    circuit = build(Wiring(1, 1, 1), {edge: 1.0}, edge_attributes={edge: extra})
    assert circuit.edges[edge] == {"weight": 1.0, **extra}
    assert parts(from_json(to_json(circuit))) == parts(circuit)
    circuit.edges[edge]["edge"] = "m0->logits"
    with pytest.raises(CircuitError, match="input->logits has an attribute 'edge'"):
        to_json(circuit)


def test_a_role_survives_even_where_its_node_lost_its_edges() -> None:
    circuit = build(Wiring(1, 2, 1), {("input", "a0.g0.k"): 1.0, ("a0.h1", "logits"): 1.0})
    nx.set_node_attributes(circuit, "lonely", "role")
    circuit.remove_edge("input", "a0.g0.k")
    again = from_json(to_json(circuit))
    assert dict(again.nodes(data=True)) == dict(circuit.nodes(data=True))


def test_numbers_of_numpy_are_written_as_numbers() -> None:
    circuit = build(Wiring(1, 1, 1), {("input", "logits"): np.float32(0.5)})  # type: ignore[dict-item]
    circuit["input"]["logits"]["weight"] = np.float32(0.5)
    assert to_json(circuit) == to_json(build(Wiring(1, 1, 1), {("input", "logits"): 0.5}))


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -float("inf")])
def test_an_edge_is_not_built_with_a_weight_that_is_not_finite(weight: float) -> None:
    with pytest.raises(CircuitError, match=r"m0->logits has the weight .*; give a finite number"):
        build(Wiring(1, 1, 1), {("m0", "logits"): weight})


def test_an_edge_that_the_wiring_lacks_is_not_built() -> None:
    with pytest.raises(CircuitError, match=r"a0\.h0->a0\.h0<q> is not an edge"):
        build(Wiring(1, 1, 1), {("a0.h0", "a0.h0.q"): 1.0})


def test_a_graph_without_a_wiring_is_told_how_circuits_are_built() -> None:
    for use in (wiring_of, mask, summary, to_json, weight_matrix):
        with pytest.raises(CircuitError, match="build one with circuitkit"):
            use(nx.DiGraph([("input", "logits")]))


@pytest.mark.parametrize("wiring", [None, 3, [], "x", {"layers": 1}, {"depth": 1}])
def test_a_graph_with_a_broken_wiring_is_a_circuit_error(wiring: Any) -> None:
    with pytest.raises(CircuitError):
        wiring_of(nx.DiGraph(wiring=wiring))


def _nan(circuit: nx.DiGraph) -> None:
    circuit["input"]["logits"]["weight"] = float("nan")


def _foreign_edge(circuit: nx.DiGraph) -> None:
    circuit.add_edge("m7", "logits", weight=1.0)


def _foreign_node(circuit: nx.DiGraph) -> None:
    circuit.add_node("legend", colour="red")


def _an_object(circuit: nx.DiGraph) -> None:
    circuit.graph["metric"] = object()


def _a_surrogate(circuit: nx.DiGraph) -> None:
    circuit.graph["task"] = "prompts-\udce9.csv"


def _itself(circuit: nx.DiGraph) -> None:
    circuit.graph["settings"] = settings = {}
    settings["settings"] = settings


@pytest.mark.parametrize(
    "spoil", [_nan, _foreign_edge, _foreign_node, _an_object, _a_surrogate, _itself]
)
def test_what_could_not_be_read_again_is_not_written(spoil: Callable[[nx.DiGraph], None]) -> None:
    circuit = build(Wiring(1, 1, 1), {("input", "logits"): 1.0})
    spoil(circuit)
    with pytest.raises(CircuitError):
        to_json(circuit)


# -- bad files -------------------------------------------------------------------------------------
def good() -> dict[str, Any]:
    """The content of a good file."""
    return {
        "format": "circuitkit.circuit",
        "version": 1,
        "wiring": {"layers": 2, "heads": 4, "groups": 2, "mlp": True, "parallel": False},
        "attributes": {"model": "gpt2", "settings": {"steps": 5}, "versions": {"python": "ß"}},
        "nodes": {"a1.h2": {"role": "name mover"}},
        "edges": [
            {"edge": "input->a0.g1<k>", "weight": 0.5, "stderr": 0.1},
            {"edge": "a0.h2->a1.h2<q>", "weight": -0.25},
            {"edge": "a1.h2->logits", "weight": 1},
        ],
    }


def refused(path: Path, content: str | bytes) -> str:
    """The one sentence with which the file is refused."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CircuitError) as caught:
        Circuit.load(path)
    message = str(caught.value)
    assert repr(str(path)) in message
    assert "\n" not in message
    assert "Error(" not in message
    assert len(message) < 400 + len(str(path))
    return message


def test_the_good_file_is_good(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text(json.dumps(good()))
    circuit = Circuit.load(tmp_path / "good.json")
    assert circuit.number_of_edges() == 3 + 2
    assert circuit.nodes["a1.h2"] == {"role": "name mover"}
    assert circuit["input"]["a0.g1.k"] == {"weight": 0.5, "stderr": 0.1}


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    whole = to_json(from_json(json.dumps(good()))).encode()
    assert whole.endswith(b"}\n")
    for length in [*range(0, len(whole) - 1, 3), *range(len(whole) - 9, len(whole) - 1)]:
        refused(tmp_path / "cut.json", whole[:length])
    (tmp_path / "cut.json").write_bytes(whole[:-1])
    assert to_json(Circuit.load(tmp_path / "cut.json")).encode() == whole


HOSTILE: list[Any] = [
    None, True, -1, 0, 2, 10**9, 10**400, 1.5, float("nan"), float("inf"), "", "x", "1", "nan",
    "a0.h1->m1", [], [[]], [["a", "b"]], {}, {"": None}, {"layers": 1}, [{}], "y" * 10**5,
]  # fmt: skip


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    if not isinstance(value, (dict, list)):
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*here, key)
        yield from places(inner, (*here, key))


@pytest.mark.parametrize("place", [*places(good())], ids=lambda p: "-".join(map(str, p)))
@pytest.mark.unchecked
def test_any_value_in_any_place_is_read_or_refused_in_one_sentence(
    place: tuple[Any, ...], tmp_path: Path
) -> None:
    for value in HOSTILE:
        data = good()
        inner = data
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        text = json.dumps(data)
        try:
            circuit = from_json(text)
        except CircuitError:
            refused(tmp_path / "hostile.json", text)
        else:
            assert mask(circuit).sum() == len(data["edges"])


@pytest.mark.parametrize("place", [("format",), ("version",), ("wiring",), ("edges",),
                                   ("wiring", "layers"), ("edges", 0, "edge"),
                                   ("edges", 1, "weight")])  # fmt: skip
@pytest.mark.unchecked
def test_a_file_that_lacks_a_field_is_refused(place: tuple[Any, ...], tmp_path: Path) -> None:
    data = good()
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    refused(tmp_path / "lacking.json", json.dumps(data))


def test_lists_are_not_taken_for_objects_nor_words_for_numbers(tmp_path: Path) -> None:
    changes: list[tuple[str, Any]] = [
        ("attributes", [["model", "gpt2"]]), ("nodes", []), ("nodes", {"a1.h2": [["role", "x"]]}),
        ("edges", {}), ("wiring", []), ("edges", [["edge", "weight"]]),
        ("edges", [{"edge": "input->logits", "weight": "0.5"}]),
        ("edges", [{"edge": "input->logits", "weight": True}]),
    ]  # fmt: skip
    for key, value in changes:
        refused(tmp_path / "types.json", json.dumps({**good(), "nodes": {}, key: value}))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is not JSON"),
        (b"not json", "it is not JSON"),
        (b"\x80\x02}q\x00.", "cannot be read as a circuit"),
        (b"\xff\xfe[\x00]\x00", "'format' is not"),  # UTF-16
        (b"\xff\xfe[\x00]", "cannot be read as a circuit"),
        (b"[]", "'format' is not 'circuitkit.circuit'"),
        (b"null", "'format' is not"),
        (b'"circuitkit.circuit"', "'format' is not"),
        (b'{"format": "circuitkit.scores", "version": 1}', "'format' is not"),
        (b'{"nodes": {}, "edges": {}, "cfg": {"n_layers": 12}}', "'cfg' has no 'n_heads'"),
        (b"[" * 10**5, "nested too deeply"),
        (b'{"a":' * 10**5, "nested too deeply"),
        (b'{"a": ' + b"9" * 10**4 + b"}", "it is not JSON"),
    ],
    ids=lambda value: ascii(value[:20]),
)
def test_a_foreign_file_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    assert says in refused(tmp_path / "foreign.json", content)


def test_the_file_of_a_later_version_asks_for_an_update(tmp_path: Path) -> None:
    message = refused(tmp_path / "later.json", json.dumps({**good(), "version": 2}))
    assert "has the format version 2, only 1 is known; update circuitkit" in message


def test_an_edge_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    listed = [{"edge": "input->logits", "weight": 1.0}] * 2
    message = refused(tmp_path / "twice.json", json.dumps({**good(), "nodes": {}, "edges": listed}))
    assert "the edge input->logits is listed twice" in message


def test_the_old_name_of_the_embedding_is_refused_with_the_new_one(tmp_path: Path) -> None:
    for data in (
        {**good(), "nodes": {}, "edges": [{"edge": "embed->logits", "weight": 1.0}]},
        {**good(), "nodes": {"embed": {"role": "start"}}},
    ):
        message = refused(tmp_path / "old.json", json.dumps(data))
        assert "'embed' is not a node; the embedding is called input" in message


@pytest.mark.parametrize("weight", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "null"])
def test_a_weight_that_is_not_finite_is_refused_with_its_edge(weight: str, tmp_path: Path) -> None:
    data = {**good(), "nodes": {}, "edges": [{"edge": "m0->logits", "weight": 0.125}]}
    message = refused(tmp_path / "nan.json", json.dumps(data).replace("0.125", weight))
    assert "m0->logits has the weight" in message
    assert "give a finite number" in message


def test_an_edge_and_a_role_that_the_model_lacks_are_refused_with_their_names(
    tmp_path: Path,
) -> None:
    data = good()
    data["edges"].append({"edge": "a7.h0->logits", "weight": 1.0})
    assert "a7.h0->logits is not an edge" in refused(tmp_path / "f.json", json.dumps(data))
    data = good()
    data["nodes"]["a7.h0"] = {"role": "ghost"}
    assert "'a7.h0'" in refused(tmp_path / "f.json", json.dumps(data))


def test_a_file_that_is_not_there_is_a_circuit_error(tmp_path: Path) -> None:
    with pytest.raises(CircuitError, match=r"there is no file '.*absent\.json'"):
        Circuit.load(tmp_path / "absent.json")


@pytest.mark.parametrize("path", ["", ".", "a\0b", "x" * 5000])
def test_a_path_that_holds_no_file_is_a_circuit_error(path: str) -> None:
    with pytest.raises(CircuitError):
        Circuit.load(path)


# -- writing ---------------------------------------------------------------------------------------
def test_a_file_is_written_with_its_directories_and_its_place_returned(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b" / "c.json"
    assert write_whole(place, "größer\n") == place
    assert place.read_bytes() == "größer\n".encode()
    assert write_whole(str(place), b"\x00\xff") == place
    assert place.read_bytes() == b"\x00\xff"
    write_whole(place, lambda draft: draft.write_text("by hand"))  # type: ignore[arg-type,return-value]
    assert place.read_text() == "by hand"
    assert os.listdir(place.parent) == ["c.json"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 120 + ".json"])
def test_a_name_as_long_as_the_file_system_allows_can_be_written(name: str, tmp_path: Path) -> None:
    assert write_whole(tmp_path / name, "content").read_text() == "content"
    assert os.listdir(tmp_path) == [name]


def half(draft: Path) -> None:
    """Write something, and find the disk full."""
    with draft.open("wb") as file:
        file.write(b"half of it")
        file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file can grow beyond 64 KiB, so that a longer write breaks off half-way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("content", ["x" * 2**17, b"x" * 2**17, half], ids=["str", "bytes", "call"])
@pytest.mark.parametrize("before", [None, "the circuit of last week"])
@pytest.mark.usefixtures("full_disk")
def test_a_write_that_breaks_off_leaves_what_was_there(
    content: Any, before: str | None, tmp_path: Path
) -> None:
    place = tmp_path / "circuit.json"
    if before is not None:
        place.write_text(before)
    with pytest.raises(OutputError, match=r"circuit\.json' cannot be written: ") as caught:
        write_whole(place, content)
    assert "\n" not in str(caught.value)
    assert "part" not in str(caught.value).replace(str(tmp_path), "")
    assert os.listdir(tmp_path) == ([] if before is None else ["circuit.json"])
    assert before is None or place.read_text() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_leaves_what_was_there(
    error: type[BaseException], tmp_path: Path
) -> None:
    place = tmp_path / "circuit.json"
    place.write_text("before")

    def interrupted(draft: Path) -> None:
        draft.write_text("half")
        raise error

    with pytest.raises(error):
        write_whole(place, interrupted)
    assert os.listdir(tmp_path) == ["circuit.json"]
    assert place.read_text() == "before"


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "circuit.json"
    place.write_text("old")
    seen = []

    def watched(draft: Path) -> None:
        draft.write_text("new")
        seen.append(place.read_text())

    write_whole(place, watched)
    assert seen == ["old"]
    assert place.read_text() == "new"


def test_a_directory_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    place = tmp_path / "folder"
    (place / "inside").mkdir(parents=True)
    with pytest.raises(OutputError, match="folder' cannot be written"):
        write_whole(place, "content")
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(place) == ["inside"]


def test_a_place_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    for place in (tmp_path / "file" / "c.json", tmp_path / "file" / "deep" / "c.json"):
        with pytest.raises(OutputError, match=r"c\.json' cannot be written"):
            write_whole(place, "content")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "content"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_an_unwritable_directory_cannot_be_written(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    place = Path("/proc/self") if os.access(closed, os.W_OK) else closed  # root may do anything
    with pytest.raises(OutputError, match=r"c\.json' cannot be written"):
        write_whole(place / "c.json", "content")
    assert os.listdir(closed) == []


@pytest.mark.parametrize("path", ["", ".", "/", "..", "a\0b", "a\0/b", "x" * 5000])
def test_a_path_that_names_no_file_cannot_be_written(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write_whole(path, "content")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_the_wiring_in_a_file_is_that_of_the_circuit() -> None:
    for wiring in WIRINGS:
        text = to_json(build(wiring, {("input", "logits"): 1.0}))
        assert json.loads(text)["wiring"] == wiring.to_dict()
        assert wiring_of(from_json(text)) == wiring
        assert all(type(node) is Node for node in from_json(text))


# -- what users type -------------------------------------------------------------------------------
def plain_graph() -> nx.DiGraph:
    """What somebody built without circuitkit, heads in their short form."""
    graph: nx.DiGraph = nx.DiGraph(wiring=Wiring(2, 4, 2).to_dict(), task="ioi")
    graph.add_edge("input", "0.1.q", weight=0.5, exact=True)
    graph.add_edge("0.1", "logits", weight=2)
    graph.add_edge("m0", "logits", weight=-1)
    graph.add_edge("0.1.q", "0.1")
    graph.add_node("1.3", role="spectator")
    return graph


def test_a_circuit_is_made_of_any_graph_that_has_what_it_needs(tmp_path: Path) -> None:
    before = parts(plain_graph())
    graph = plain_graph()
    circuit = Circuit(graph)
    assert parts(graph) == before
    assert set(circuit.edges) == {("input", "a0.h1.q"), ("a0.h1.q", "a0.h1"), ("a0.h1", "logits"),
                                  ("m0", "logits")}  # fmt: skip
    assert parts(Circuit.load(circuit.save(tmp_path / "c.json"))) == parts(circuit)
    assert parts(Circuit(circuit)) == parts(circuit)


def test_heads_and_mlps_are_listed_in_the_order_of_the_model() -> None:
    circuit = Circuit(plain_graph())
    assert circuit.heads == ["a0.h1", "a1.h3"]  # the second by its role
    assert circuit.mlps == ["m0"]
    reader = build(Wiring(2, 4, 2), {("input", "a1.h2.q"): 1.0, ("input", "a1.g0.k"): 1.0,
                                     ("input", "m1"): 1.0, ("a0.h3", "logits"): 1.0})  # fmt: skip
    assert reader.heads == ["a0.h3", "a1.h2"]
    assert reader.mlps == ["m1"]


def test_the_frame_has_a_row_an_edge_the_strongest_first() -> None:
    frame = Circuit(plain_graph()).to_frame()
    assert list(frame.columns) == ["writer", "reader", "weight", "exact"]
    rows = [tuple(row) for row in frame.itertuples(index=False)]
    assert [row[:3] for row in rows] == [
        ("a0.h1", "logits", 2.0), ("m0", "logits", -1.0), ("input", "a0.h1.q", 0.5)
    ]  # fmt: skip
    assert frame["exact"].isna().tolist() == [True, True, False]
    assert bool(frame["exact"][2]) is True
    assert len(build(Wiring(1, 1, 1), {}).to_frame()) == 0
    assert all(type(name) is str for name in frame["writer"])


def test_a_circuit_prints_its_own_edges_and_shows_itself() -> None:
    circuit = Circuit(plain_graph())
    total = Wiring(2, 4, 2).n_edges
    assert str(circuit) == f"3 of {total} edges, 2 of 8 heads, 1 of 2 MLPs"
    assert repr(circuit).splitlines() == [
        str(circuit), "task: ioi", "spectator: a1.h3", "the strongest edges:",
        "          +2  a0.h1->logits", "          -1  m0->logits", "        +0.5  input->a0.h1<q>",
    ]  # fmt: skip
    assert circuit._repr_svg_().startswith("<svg")
    assert circuit._repr_html_().startswith(f"<pre>{circuit!s}")
    assert "input-&gt;a0.h1&lt;q&gt;" in circuit._repr_html_()
    assert "&lt;svg" in circuit._repr_html_()


def test_a_graph_without_a_wiring_still_prints_itself() -> None:
    for graph in (Circuit(), Circuit(nx.DiGraph([("x", "y")]))):
        assert "DiGraph" in repr(graph) or "Circuit" in repr(graph)
        assert "DiGraph" in str(graph) or "Circuit" in str(graph)


def test_networkx_counts_and_copies_as_it_does() -> None:
    circuit = Circuit(plain_graph())
    assert len(circuit) == circuit.number_of_nodes() == 6
    assert len(circuit.edges) == 4
    assert sorted(circuit) == sorted(nx.DiGraph(circuit))
    for other in (circuit.copy(), circuit.subgraph(["a0.h1", "logits"]).copy(), circuit.reverse()):
        assert isinstance(other, Circuit)
    assert nx.has_path(circuit, "input", "logits")


def test_load_takes_eap_ig_graphs_too(tmp_path: Path) -> None:
    circuit = build(Wiring(2, 4, 4), {("input", "m0"): 0.5, ("m0", "logits"): -1.0})
    for suffix in ("json", "pt"):
        path = write_eap(circuit, tmp_path / f"graph.{suffix}", d_model=16)
        found = Circuit.load(path)
        assert isinstance(found, Circuit)
        assert to_json(found) == to_json(circuit)


@pytest.mark.filterwarnings("ignore:.*edges=.*:FutureWarning")
def test_networkx_writes_a_circuit_that_is_read_again_with_all_its_attributes(
    tmp_path: Path,
) -> None:
    """GraphML has no mappings, lists and None: they are JSON there, and values again in a Circuit;
    by key, in copies and in dictionaries they never are anything else."""
    circuit = build(Wiring(2, 2, 1), {("input", "a1.g0.k"): 0.5, ("a1.h0", "logits"): -2.0})
    settings = {"steps": 10, "at": ["S2"], "draws": None}
    circuit.graph.update(settings=settings, task="ioi", seed=3, remark=[1, None], nothing=None)
    circuit.nodes["a1.h0"].update(role="mover", positions=["END"])
    nx.write_graphml(circuit, tmp_path / "c.graphml")
    links = json.loads(json.dumps(nx.node_link_data(circuit)))
    for read in (nx.read_graphml(tmp_path / "c.graphml"), nx.node_link_graph(links)):
        again = Circuit(read)
        assert again.graph["settings"] == settings
        assert again.graph["task"] == "ioi"
        assert again.graph["seed"] == 3
        assert (mask(again) == mask(circuit)).all()
        assert (weight_matrix(again) == weight_matrix(circuit)).all()
    whole = dict(circuit.graph)
    assert whole["settings"] is settings
    for copied in (copy.deepcopy(circuit), pickle.loads(pickle.dumps(circuit)), circuit.copy(),
                   Circuit(circuit), nx.DiGraph(circuit), circuit.reverse()):  # fmt: skip
        assert dict(copied.graph) == whole
        assert copied.nodes["a1.h0"]["positions"] == ["END"]
    assert copy.deepcopy(circuit).graph["settings"] is not settings
