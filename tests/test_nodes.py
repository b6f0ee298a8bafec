"""The grammar of names: what it takes, what it refuses, and that nothing is lost in writing."""

from __future__ import annotations

import copy
import doctest
import pickle
import random

import pytest

from circuitkit.errors import NodeNameError
from circuitkit.graph import nodes
from circuitkit.graph.nodes import INPUT, LOGITS, Node, edge_name, parse_edge
from circuitkit.graph.wiring import Wiring

WELL_FORMED = {
    "input": (None, None, None, None),
    "logits": (None, None, None, None),
    "m0": (0, None, None, None),
    "m31": (31, None, None, None),
    "a0.h0": (0, 0, None, None),
    "a12.h34": (12, 34, None, None),
    "a3.h7.q": (3, 7, None, "q"),
    "a3.h7.k": (3, 7, None, "k"),
    "a10.h0.v": (10, 0, None, "v"),
    "a3.g1.k": (3, None, 1, "k"),
    "a10.g11.v": (10, None, 11, "v"),
}
MALFORMED = [
    "", " ", "embed", "Input", "INPUT", "input ", " input", "input\n", "output", "logit",
    "m", "m-1", "m1.5", "m1.q", "mlp1", "m 1", "m+1", "m1_0", "M1", "m٣", "m²", "m01", "m00",
    "a", "a1", "a1.", "a.h1", "a1.h", "a1h1", "a1.h1.", "a1.h1.o", "a1.h1.qk", "a1.h1.Q",
    "a1.h1q", "a1.h1<q>", "a1.h-1", "a1.h1.q.k", "a01.h1", "a1.h01", "a1.h1 ", "a1.h1\n",
    "a1.H1", "A1.h1", "a١.h1", "a1.x1", "a1.g1", "a1.g1.q", "a1.g01.k", "a1.g.k", "g1.k",
    "a1.h1->m2", "m1,m2", "m\x00", "m1\x00", "m" + "9" * 5000, "a" + "9" * 5000 + ".h1",
]  # fmt: skip


def some_writer(rng: random.Random) -> str:
    """A random name that may stand left of an arrow."""
    layer, head = rng.randrange(100), rng.randrange(100)
    return rng.choice(["input", f"m{layer}", f"a{layer}.h{head}"])


def some_reader(rng: random.Random) -> str:
    """A random name that may stand right of an arrow."""
    layer, head = rng.randrange(100), rng.randrange(100)
    ports = [f"a{layer}.h{head}.{p}" for p in "qkv"] + [f"a{layer}.g{head}.{p}" for p in "kv"]
    return rng.choice(["logits", f"m{layer}", *ports])


@pytest.mark.parametrize(("name", "parts"), WELL_FORMED.items())
def test_a_node_is_its_name_and_knows_its_parts(
    name: str, parts: tuple[int | None, int | None, int | None, str | None]
) -> None:
    node = Node(name)
    assert node == name
    assert hash(node) == hash(name)
    assert (node.layer, node.head, node.group, node.port) == parts


@pytest.mark.parametrize("name", WELL_FORMED)
def test_a_node_is_of_just_one_kind(name: str) -> None:
    node = Node(name)
    assert node.is_mlp == name.startswith("m")
    assert node.is_head == (name.count(".") == 1 and ".h" in name)
    kinds = [node in (INPUT, LOGITS), node.is_mlp, node.is_head, node.port is not None]
    assert sum(kinds) == 1


def test_the_component_of_a_head_port_is_the_head_and_of_any_other_node_itself() -> None:
    for name in WELL_FORMED:
        node = Node(name)
        own_port = node.port is not None and node.head is not None
        assert node.component == (f"a{node.layer}.h{node.head}" if own_port else name)
        assert isinstance(node.component, Node)
        assert node.component.component == node.component


@pytest.mark.parametrize("name", MALFORMED, ids=lambda name: ascii(name[:20]))
def test_a_malformed_node_is_refused_with_the_remedy(name: str) -> None:
    with pytest.raises(NodeNameError) as caught:
        Node(name)
    message = str(caught.value)
    if name == "embed":
        assert message == "'embed' is not a node; the embedding is called input"
        return
    assert "write input, a3.h7, a3.h7.q, a3.g1.k, m3 or logits" in message
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize("name", [None, 3, 1.5, b"m1", ["m1"], {}])
@pytest.mark.unchecked
def test_what_is_no_string_is_no_node(name: object) -> None:
    with pytest.raises(NodeNameError, match="is not a node; write input"):
        Node(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", WELL_FORMED)
def test_copying_and_pickling_keep_a_node_whole(name: str) -> None:
    node = Node(name)
    for other in (copy.copy(node), copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        assert type(other) is Node
        assert other == node
        assert vars(other) == vars(node)


@pytest.mark.parametrize(
    ("short", "long"),
    [("23.3", "a23.h3"), ("0.0", "a0.h0"), ("23.3.q", "a23.h3.q"), ("1.10.v", "a1.h10.v")],
)
def test_the_short_form_of_a_head_becomes_the_long_one_at_once(short: str, long: str) -> None:
    node = Node(short)
    assert str(node) == node == long
    assert vars(node) == vars(Node(long))


def test_the_short_form_is_taken_in_the_name_of_an_edge() -> None:
    assert parse_edge("0.1->5.5<q>") == ("a0.h1", "a5.h5.q")
    assert edge_name("0.1", "5.5.q") == "a0.h1->a5.h5<q>"
    assert parse_edge("0.1->logits") == ("a0.h1", "logits")
    assert Wiring(6, 6, 6).index("0.1", "5.5.q") == Wiring(6, 6, 6).index("a0.h1", "a5.h5.q")


@pytest.mark.parametrize("name", ["23", "23.", ".3", "23.03", "1.2.x", "1.2.3", "1.2.q.k", "1.2<q>",
                                  "-1.2", "1,2", "1.2 ", "1.2\n", "1e1.2"])  # fmt: skip
def test_what_only_looks_like_the_short_form_is_refused(name: str) -> None:
    with pytest.raises(NodeNameError, match="is not a node"):
        Node(name)


def test_two_spellings_of_the_long_form_never_name_one_node() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        layer, head = (rng.choice(["0", "1", "00", "01", "10", "010"]) for _ in range(2))
        try:
            node = Node(f"a{layer}.h{head}")
        except NodeNameError:
            continue
        assert node == f"a{node.layer}.h{node.head}"


def test_an_edge_name_parses_to_the_edge_that_it_was_written_for() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        edge = some_writer(rng), some_reader(rng)
        parsed = parse_edge(edge_name(*edge))
        assert parsed == edge
        assert all(type(node) is Node for node in parsed)


def test_a_parsed_edge_is_written_as_it_was() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        writer, reader = some_writer(rng), some_reader(rng)
        target = f"{reader[:-2]}<{reader[-1]}>" if reader.startswith("a") else reader
        name = f"{writer}->{target}"
        assert edge_name(*parse_edge(name)) == name


@pytest.mark.parametrize(
    ("writer", "reader", "name"),
    [
        ("a0.h1", "a5.h5.q", "a0.h1->a5.h5<q>"),
        ("m0", "m3", "m0->m3"),
        ("input", "m2", "input->m2"),
        ("a9.h9", "logits", "a9.h9->logits"),
        ("input", "a3.g1.k", "input->a3.g1<k>"),
    ],
)
def test_edges_are_spelled_as_the_field_spells_them(writer: str, reader: str, name: str) -> None:
    assert edge_name(writer, reader) == name
    assert parse_edge(name) == (writer, reader)


@pytest.mark.parametrize(
    "name",
    [
        "", "->", "m0", "m0->", "->m1", "m0-m1", "m0>m1", "m0 -> m1", "m0->m1->m2", "m0->m1\n",
        "m0->m1<q>", "m0->logits<k>", "m0->a1.h1<o>", "m0->a1.h1<q", "m0->a1.h1q>",
        "m0->a1.h1<q><k>", "m0->a1.h1.q<k>", "m0-><q>", "m0->a1.g1<q>", "a1.h1<q>->m2", "m0=>m1",
        "foo->m1", "m0->bar", "m0->a1.h1<>", "m0->a1.h1<qk>", "m0->" + "x" * 100_000,
    ],
    ids=lambda name: ascii(name[:20]),
)  # fmt: skip
def test_a_malformed_edge_is_refused_with_the_remedy(name: str) -> None:
    with pytest.raises(NodeNameError, match=r"write (it as a0\.h1->a5\.h5<q>|input, a3\.h7)") as e:
        parse_edge(name)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 300


@pytest.mark.parametrize("name", [None, 3, ["m0->m1"], {"edge": "m0->m1"}])
@pytest.mark.unchecked
def test_what_is_no_string_is_no_edge(name: object) -> None:
    with pytest.raises(NodeNameError, match="is not an edge; write it as"):
        parse_edge(name)  # type: ignore[arg-type]


def test_an_edge_is_not_written_of_what_is_no_node() -> None:
    with pytest.raises(NodeNameError, match="'nonsense' is not a node"):
        edge_name("m0", "nonsense")
    with pytest.raises(NodeNameError, match="'nonsense' is not a node"):
        edge_name("nonsense", "m0")


def test_the_examples_are_true() -> None:
    failed, tried = doctest.testmod(nodes)
    assert tried
    assert not failed
