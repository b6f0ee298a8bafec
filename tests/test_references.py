"""Published circuits: the numbers that their sources print follow from the rules written here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuitkit.cli.main import main
from circuitkit.data.tokens import TokenizerView
from circuitkit.errors import UnknownNameError
from circuitkit.graph import circuit as circuits
from circuitkit.graph.circuit import Circuit, components, edges, lists_members, mask, to_json
from circuitkit.graph.compare import compare
from circuitkit.graph.nodes import INPUT, LOGITS, Node, edge_name
from circuitkit.graph.published import Published, named, skeleton
from circuitkit.graph.wiring import Wiring
from circuitkit.models.loading import load
from circuitkit.references import tracr_proportion, tracr_reverse
from circuitkit.registry import describe, names
from circuitkit.tasks.arguments import docstring
from circuitkit.tasks.indirect_object import ioi
from circuitkit.tasks.years import greater_than

# name: edges without direct ones; what the source counts, and of how many
COUNTS = {
    "ioi:acdc": (963, 1_041, 32_923),
    "ioi:autocircuit": (739, 739, 32_491),
    "ioi:autocircuit_heads": (6_540, 6_540, 32_491),
    "ioi:eap_ig": (215, 215, 32_491),
    "greater_than:acdc": (235, 262, 32_923),
    "greater_than:autocircuit": (235, 235, 32_491),
    "greater_than:eap_ig": (240, 240, 32_491),
    "docstring:acdc": (24, 37, 1_377),
    "docstring:autocircuit": (24, 24, 1_281),
    "docstring:autocircuit_heads": (588, 588, 1_281),
    "induction:circuitry": (6, 6, 257),
    "tracr_reverse:acdc": (10, 10, 77),
    "tracr_reverse:resample": (2, 2, 77),
    "tracr_proportion:acdc": (5, 5, 23),
    "tracr_proportion:resample": (3, 3, 23),
}
# name: components, and of how many
MEMBERS = {
    "ioi:wang2022": (26, 144),
    "ioi:wang2022_naive": (13, 144),
    "greater_than:hanna2023": (18, 156),
    "docstring:heimersheim2023": (11, 32),
    "colored_objects:merullo2024": (10, 384),
    "ioi:merullo2024": (11, 384),
}
every_reference = pytest.mark.parametrize("name", [*COUNTS, *MEMBERS])


def kind(name: str) -> str:
    """The embedding, a head by its port (if any), an MLP or the logits."""
    node = Node(name)
    if node in (INPUT, LOGITS):
        return str(node)
    return "MLP" if node.is_mlp else node.port or "head"


def composition(published: Published) -> Counter[tuple[str, str]]:
    """How many edges there are from each kind of writer into each kind of reader."""
    return Counter((kind(writer), kind(reader)) for writer, reader in published.edges)


def between(published: Published) -> Counter[tuple[str, str]]:
    """How many edges there are from each role to each role; ends and MLPs go by their names."""
    role = {"input": "input", "logits": "logits", **published.roles}
    pairs = ((role.get(w, w), role.get(Node(r).component, r)) for w, r in published.edges)
    return Counter(pairs)


# -- counts ----------------------------------------------------------------------------------------
def test_every_reference_is_counted_here() -> None:
    assert {*COUNTS, *MEMBERS} <= set(names("references"))


@every_reference
def test_the_listing_says_how_much_it_is_of_what(name: str) -> None:
    assert describe("references")[name] == f"{named(name)!r}."


@pytest.mark.parametrize("name", COUNTS)
def test_the_edges_are_as_many_as_the_source_says(name: str) -> None:
    published = named(name)
    assert (len(published.edges), *published.counted) == COUNTS[name]
    assert not lists_members(published.circuit)
    assert f"{COUNTS[name][1]:,} of {COUNTS[name][2]:,} edges" in describe("references")[name]


@pytest.mark.parametrize("name", MEMBERS)
def test_the_components_are_as_many_as_the_source_says(name: str) -> None:
    published = named(name)
    assert published.counted == MEMBERS[name]
    assert not published.edges
    assert lists_members(published.circuit)


@pytest.mark.parametrize(
    ("wiring", "residual", "acdc"),
    [
        (Wiring(12, 12, 12), 32_491, 32_923), (Wiring(24, 16, 16), 231_877, 233_029),
        (Wiring(36, 20, 20), 810_703, 812_863), (Wiring(48, 25, 25), 2_235_025, 2_238_625),
        (Wiring(4, 8, 8, mlp=False), 1_281, 1_377), (Wiring(2, 8, 8, mlp=False), 257, 305),
        (Wiring(4, 1, 1), 77, 89), (Wiring(2, 1, 1), 23, 29),
    ],
    ids=str,
)  # fmt: skip
def test_a_model_has_as_many_edges_as_either_convention_counts(
    wiring: Wiring, residual: int, acdc: int
) -> None:
    edge = frozenset({("input", "logits")})
    about = ("a:b", "model", wiring, "source", "convention", "note", {})
    assert Published(*about, edges=edge).counted == (1, residual)
    assert Published(*about, edges=edge, direct=True).counted == (1, acdc)


# -- indirect objects ------------------------------------------------------------------------------
def test_acdc_keeps_every_mlp_and_joins_the_classes() -> None:
    found = composition(named("ioi:acdc"))
    assert found == {
        ("MLP", "q"): 189, ("MLP", "k"): 189, ("MLP", "v"): 189, ("head", "MLP"): 123,
        ("MLP", "MLP"): 66, ("head", "q"): 52, ("head", "k"): 36, ("head", "v"): 36,
        ("input", "q"): 9, ("input", "k"): 18, ("input", "v"): 18, ("head", "logits"): 13,
        ("MLP", "logits"): 12, ("input", "MLP"): 12, ("input", "logits"): 1,
    }  # fmt: skip
    assert sum(n for (writer, reader), n in found.items()
               if writer == "MLP" and reader in "qkv") == 567  # fmt: skip


@pytest.mark.parametrize("name", ["ioi:acdc", "ioi:autocircuit"])
def test_the_heads_are_joined_by_class(name: str) -> None:
    roles = set(named(name).roles.values())
    found = {pair: n for pair, n in between(named(name)).items() if set(pair) <= roles}
    assert found == {
        ("previous token", "induction"): 16, ("induction", "S-inhibition"): 32,
        ("duplicate token", "S-inhibition"): 24, ("S-inhibition", "name mover"): 12,
        ("S-inhibition", "backup name mover"): 32, ("S-inhibition", "negative name mover"): 8,
    }  # fmt: skip
    assert sum(found.values()) == 124


def test_acdc_is_what_dropping_and_switching_on_leaves() -> None:
    """The source's own order: all edges; less those of other heads; less those into the circuit's
    heads from the embedding and from heads, and from heads to the logits; and the classes again."""
    published = named("ioi:acdc")
    own, wiring = set(published.roles), published.wiring
    kept = set()
    for row, column in np.argwhere(wiring.legal):
        writer, reader = wiring.writers[row], wiring.readers[column]
        ends = [n for n in (writer, reader.component) if n.is_head]
        cleared = reader.port is not None and not writer.is_mlp
        cleared = cleared or (writer.is_head and reader == LOGITS)
        if set(ends) <= own and not cleared:
            kept.add((writer, reader))
    assert len(kept) == 963 - 124 - 45 - 13
    rest = published.edges - kept
    assert kept < published.edges
    assert all(w == INPUT or w in own for w, _ in rest)


def test_autocircuit_is_within_acdc_and_a_third_of_it_goes_by_the_first_mlp() -> None:
    edges_ = named("ioi:autocircuit").edges
    assert edges_ < named("ioi:acdc").edges
    mlps = ([n for n in (w, Node(r).component) if Node(n).is_mlp] for w, r in edges_)
    assert sum("m0" in found or not found for found in mlps) == 242


def test_the_heads_alone_are_all_that_their_ablation_keeps() -> None:
    for name, heads in (("ioi", "ioi:wang2022"), ("docstring", "docstring:heimersheim2023")):
        published, own = named(f"{name}:autocircuit_heads"), set(named(heads).roles)
        keep = mask(published.circuit)
        for row, writer in enumerate(published.wiring.writers):
            whole = not writer.is_head or writer in own
            assert (keep[row] == (published.wiring.legal[row] & whole)).all()


def test_eap_ig_names_26_heads_and_one_mlp() -> None:
    found = between(named("ioi:eap_ig"))
    assert found["input", "previous token"] == 6
    assert found["previous token", "induction"] == 8
    assert found["input", "duplicate token"] == 9
    assert found["duplicate token", "induction"] == 24
    assert found["induction", "induction"] == 3
    assert found["input", "S-inhibition"] == 12
    assert found["induction", "S-inhibition"] == 32
    movers = {pair: n for pair, n in found.items() if "mover" in pair[0] and "mover" in pair[1]}
    assert sum(movers.values()) == 28
    inhibited = {pair: n for pair, n in found.items() if pair[0] == "S-inhibition"}
    assert sum(inhibited.values()) == 52
    entered = [n for (a, b), n in found.items() if a == "input" and "mover" in b]
    assert sum(entered) == 26
    assert sum(n for (a, b), n in found.items() if "mover" in a and b == "logits") == 13
    assert (found["backup name mover", "m11"], found["m11", "logits"]) == (1, 1)
    assert ("a2.h2", "a5.h5.q") in named("ioi:eap_ig").edges  # where ACDC has k and v
    assert ("a2.h2", "a5.h5.k") in named("ioi:acdc").edges


def test_the_readings_of_one_task_have_the_same_heads() -> None:
    every = [named(name) for name in ("ioi:wang2022", "ioi:acdc", "ioi:autocircuit", "ioi:eap_ig")]
    assert len({tuple(sorted(one.roles.items())) for one in every}) == 1
    naive = named("ioi:wang2022_naive").roles
    assert naive.items() < every[0].roles.items()
    assert set(every[0].roles.values()) - set(naive.values()) == {
        "backup name mover", "negative name mover",
    }  # fmt: skip


# -- other tasks -----------------------------------------------------------------------------------
def test_the_years_of_acdc_are_composed_as_published() -> None:
    assert composition(named("greater_than:acdc")) == {
        ("MLP", "MLP"): 42, ("MLP", "q"): 41, ("MLP", "k"): 24, ("MLP", "v"): 24,
        ("head", "MLP"): 27, ("head", "q"): 18, ("head", "k"): 18, ("head", "v"): 18,
        ("head", "logits"): 6, ("MLP", "logits"): 4, ("input", "MLP"): 4,
        ("input", "q"): 3, ("input", "k"): 3, ("input", "v"): 3,
    }  # fmt: skip
    assert named("greater_than:acdc").edges == named("greater_than:autocircuit").edges


def test_188_edges_of_the_years_do_not_stand_for_clean_queries() -> None:
    published = named("greater_than:acdc")
    role = published.roles.get

    def extra(writer: str, reader: str) -> bool:
        into_query = Node(reader).port == "q" and role(writer) != "early MLP"
        together = role(writer) is not None and role(writer) == role(reader)
        by_the_way = kind(reader) == "MLP" and not together
        return kind(writer) == "MLP" and (into_query or by_the_way)

    assert sum(not extra(*edge) for edge in published.edges) == 188


def test_the_years_of_eap_ig_are_19_components() -> None:
    published = named("greater_than:eap_ig")
    assert len(published.roles) == 19
    low, found = {"early head", "early head into MLPs", "early MLP"}, between(published)

    def count(writers: set[str], readers: set[str]) -> int:
        return sum(n for (a, b), n in found.items() if a in writers and b in readers)

    assert count({"input"}, low) == 13
    assert count(low, {"mid head"}) == 168
    assert count(low, low) == 10
    assert count({"mid head"}, {"logits"}) == 8
    assert count({"mid head"}, {"late MLP"}) == 31
    assert count({"late MLP"}, {"logits"}) == 4
    assert count({"late MLP"}, {"late MLP"}) == 6


def test_the_mid_heads_differ_as_the_note_says() -> None:
    mids = {
        name: {n for n, role in named(f"greater_than:{name}").roles.items() if role == "mid head"}
        for name in ("hanna2023", "acdc", "eap_ig")
    }
    assert mids["acdc"] - mids["hanna2023"] == {"a6.h1"}
    assert mids["hanna2023"] - mids["acdc"] == {"a5.h1", "a8.h8"}
    assert mids["eap_ig"] == mids["hanna2023"] | mids["acdc"]


DOCSTRING = """
    A0.5->A1.4.V In->A0.5.V In->A2.0.Q A0.5->A2.0.Q In->A2.0.K A0.5->A2.0.K A1.4->A2.0.V In->A1.4.V
    In->A1.2.Q In->A1.2.K A0.5->A1.2.Q A0.5->A1.2.K
    A3.0->Out A1.4->A3.0.Q In->A3.0.V A0.5->A3.0.V A2.0->A3.0.K A1.2->A3.0.K
    A3.6->Out A1.4->A3.6.Q In->A3.6.V A0.5->A3.6.V A2.0->A3.6.K A1.2->A3.6.K
"""
INDUCTION = "In->A0.0.V In->A1.6.Q A0.0->A1.6.K In->A1.6.V In->Out A1.6->Out"


@pytest.mark.parametrize(
    ("name", "listed"), [("docstring:acdc", DOCSTRING), ("induction:circuitry", INDUCTION)]
)
def test_the_rules_give_the_edges_that_the_source_lists(name: str, listed: str) -> None:
    def ours(writer: str, reader: str) -> str:
        source = "input" if writer == "In" else writer.replace("A", "a").replace(".", ".h")
        if reader == "Out":
            return f"{source}->logits"
        layer, head, port = reader.removeprefix("A").split(".")
        return f"{source}->a{layer}.h{head}<{port.lower()}>"

    published = named(name)
    expected = {ours(*edge.split("->")) for edge in listed.split()}
    assert len(expected) == len(listed.split())
    assert {edge_name(*edge) for edge in published.edges} == expected


def test_the_docstring_has_13_direct_edges() -> None:
    ports = {reader for _, reader in named("docstring:acdc").edges if Node(reader).port}
    assert sorted(ports) == sorted(
        ["a0.h5.v", "a1.h4.v", "a1.h2.q", "a1.h2.k", *(f"a2.h0.{p}" for p in "qkv"),
         *(f"a3.h0.{p}" for p in "qkv"), *(f"a3.h6.{p}" for p in "qkv")]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("task", "split", "counted", "of"),
    [
        ("tracr_reverse", tracr_reverse.EDGES, 15, 106),
        ("tracr_proportion", tracr_proportion.EDGES, 10, 38),
    ],
)
def test_a_compiled_programs_edges_are_those_of_two_inputs_merged(
    task: str, split: tuple[str, ...], counted: int, of: int
) -> None:
    zero, resampled = named(f"{task}:acdc"), named(f"{task}:resample")
    ports = {edge.partition("->")[2] for edge in split if "<" in edge}
    assert len(split) + len(ports) == counted
    assert f"{counted} of {of}" in zero.convention
    wiring = zero.wiring
    assert wiring.n_edges + len(wiring.readers) + 3 * wiring.layers * wiring.heads == of
    assert resampled.edges < zero.edges
    merged = {edge.replace("tokens", "input").replace("positions", "input") for edge in split}
    assert {edge_name(*edge) for edge in zero.edges} == merged
    lost = zero.edges - resampled.edges
    assert any(edge.startswith("positions") for edge in split)
    assert len(lost) == len(zero.edges) - len(resampled.edges) > 0


def test_two_tasks_of_gpt2_medium_share_movers_induction_and_duplicate_heads() -> None:
    one, two = named("colored_objects:merullo2024").roles, named("ioi:merullo2024").roles
    shared = one.items() & two.items()
    assert Counter(role for _, role in shared) == {
        "mover": 5, "induction": 1, "duplicate token": 1,
    }  # fmt: skip
    assert one.keys() & two.keys() == {name for name, _ in shared}


# -- every one -------------------------------------------------------------------------------------
@every_reference
def test_every_head_of_an_edge_has_a_role_but_where_others_are_cut(name: str) -> None:
    published = named(name)
    heads = {n for edge in published.edges for n in (edge[0], Node(edge[1]).component)
             if Node(n).is_head}  # fmt: skip
    assert heads <= set(published.roles) or name.endswith("_heads")


@pytest.mark.parametrize("name", [name for name in COUNTS if not name.endswith("_heads")])
def test_every_edge_is_on_a_path_to_the_logits(name: str) -> None:
    keep = mask(named(name).circuit)
    assert keep.any()
    assert (named(name).wiring.alive(keep) == keep).all()


@every_reference
def test_a_skeleton_joins_components_with_roles_and_the_two_ends(name: str) -> None:
    published = named(name)
    known = {*published.roles, INPUT, LOGITS}
    circuit = published.circuit
    before, small = to_json(circuit), skeleton(circuit)
    inside = {(w, r) for w, r in published.edges if {w, Node(r).component} <= known}
    assert {(w, r) for w, r, _ in edges(small)} == inside
    assert small.graph == circuit.graph
    assert {n: r for n, r in small.nodes(data="role") if r} == published.roles
    assert to_json(circuit) == before


def test_the_skeleton_of_acdc_has_no_mlp() -> None:
    assert len(list(edges(skeleton(named("ioi:acdc").circuit)))) == 124 + 45 + 13 + 1


def test_positions_are_spans_of_the_tasks() -> None:
    words = TokenizerView(load("mini").tokenizer)
    tasks = {"ioi": ioi, "greater_than": greater_than, "docstring": docstring}
    for name in names("references"):
        published = named(name)
        given = {span for own in published.positions.values() for span in own}
        if given:
            spans = set(tasks[published.task](words, n=1).prompts[0].spans)
            assert given - {"B_def+1"} <= spans | {"end"}


def test_the_heads_of_the_paper_work_where_it_says() -> None:
    where = named("ioi:wang2022").positions
    assert len(where) == 26
    assert where["a9.h9"] == where["a10.h7"] == where["a7.h3"] == ("end",)
    assert where["a5.h5"] == where["a0.h1"] == ("S2",)
    assert where["a2.h2"] == ("S1+1",)
    assert named("docstring:acdc").positions["a0.h5"] == ("B_def", "C_def", "B_doc")
    assert named("greater_than:hanna2023").positions["m3"] == ("YY",)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("ioi:wang", "ioi:wang2022"),
        ("greater-than:acdc", "greater_than:acdc"),
        ("docs:acdc", "docstring:acdc"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=nearest):
        named(wrong)


MINE = """
from circuitkit.graph.published import GPT2, Published

def ref2026():
    return Published("mine:ref2026", "gpt2", GPT2, "me", "heads", "mine", {"a9.h9": "mover"})

def nothing():
    return None
"""


def test_a_reference_may_be_in_a_file_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    place = f"{tmp_path / 'mine.py'}:ref2026"
    assert named(place).roles == {"a9.h9": "mover"}
    assert said(capsys, "compare", place, "ioi:wang2022")["nodes"]["both"] == 1
    with pytest.raises(UnknownNameError, match="NoneType; a reference returns"):
        named(place.replace("ref2026", "nothing"))
    with pytest.raises(UnknownNameError, match="give path/to/file"):
        named(place.replace("mine.py", "absent.py"))


# -- comparisons -----------------------------------------------------------------------------------
def found_circuit() -> circuits.Circuit:
    """Two of the heads of the paper, one that is none, and an MLP."""
    writers = ("a9.h9", "a10.h7", "a1.h1", "m4")
    return circuits.build(
        Wiring(12, 12, 12), {(w, "logits"): -float(i + 1) for i, w in enumerate(writers)}
    )


def test_against_heads_alone_mlps_do_not_count() -> None:
    found, paper = found_circuit(), named("ioi:wang2022").circuit
    members = compare(found, paper)
    nodes = members.nodes
    assert (nodes.left, nodes.right, nodes.both, nodes.universe) == (3, 26, 2, 144)
    assert members.roles["name mover"] == (1, 3)
    assert members.roles["negative name mover"] == (1, 2)
    assert members.roles["induction"] == (0, 4)
    back = compare(paper, found)
    assert (back.nodes.precision, back.nodes.recall) == (nodes.recall, nodes.precision)
    assert not back.roles


def test_where_a_reference_names_mlps_they_count() -> None:
    nodes = compare(found_circuit(), named("greater_than:hanna2023").circuit).nodes
    assert (nodes.left, nodes.right, nodes.both, nodes.universe) == (4, 18, 0, 156)
    nodes = compare(found_circuit(), named("ioi:acdc").circuit).nodes
    assert (nodes.left, nodes.right, nodes.both, nodes.universe) == (4, 38, 3, 156)


def test_members_of_whole_circuits_are_those_that_compare_counts() -> None:
    one, two = named("ioi:eap_ig").circuit, named("ioi:autocircuit").circuit
    whole = compare(one, two)
    for circuit in (one, two):
        assert components(circuit) == {*circuit.heads, *circuit.mlps}
    assert whole.nodes.both == len(components(one) & components(two))
    assert 0 < whole.edges.both == len(named("ioi:eap_ig").edges & named("ioi:autocircuit").edges)


def test_what_has_no_weights_agrees_in_none() -> None:
    found, reference = found_circuit(), named("ioi:eap_ig").circuit
    without = compare(found, reference).to_dict()
    assert without["edges"]["both"] == 2
    assert without["weighted"] is without["spearman"] is without["flipped"] is None
    assert compare(found, reference).flipped == 0
    assert "weight" not in repr(compare(found, reference))
    weighed = reference.copy()
    del weighed.graph["unweighted"]
    assert compare(found, weighed).flipped == 2


def test_published_circuits_are_tables_too() -> None:
    published = named("ioi:wang2022")
    frame = published.to_frame()
    assert list(frame.columns) == ["component", "role", "positions"]
    assert dict(zip(frame["component"], frame["role"], strict=True)) == dict(published.roles)
    assert str(published) == f"ioi:wang2022, {published!r}"
    assert published._repr_html_().count("<tr") == 1 + len(frame)


# -- the command -----------------------------------------------------------------------------------
def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_list_tells_each_name_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    (listed,) = said(capsys, "list", "references").values()
    assert {name: told["description"] for name, told in listed.items()} == describe("references")
    assert set(said(capsys, "list")) > {"references", "tasks"}
    assert main(["list", "references"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names("references"))
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "1,041" in out


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A circuit that something found, and a published one, as files."""
    mine, theirs = tmp_path / "mine.json", tmp_path / "theirs.json"
    circuits.write_whole(mine, to_json(found_circuit()))
    assert main(["draw", "ioi:wang2022", "-o", str(theirs)]) == 0
    return str(mine), str(theirs)


def test_compare_takes_names_and_files_alike(
    capsys: pytest.CaptureFixture[str], files: tuple[str, str]
) -> None:
    capsys.readouterr()
    mine, theirs = files
    by_name = said(capsys, "compare", mine, "ioi:wang2022")
    assert by_name["nodes"]["both"] == 2
    assert by_name["roles"]["name mover"] == {"held": 1, "of": 3}
    assert "edges" not in by_name
    assert said(capsys, "compare", mine, theirs)["nodes"] == by_name["nodes"]
    assert said(capsys, "compare", mine, "ioi:acdc")["edges"]["right"] == 963
    assert main(["compare", mine, "ioi:eap_ig"]) == 0
    out = capsys.readouterr().out
    assert "edges" in out
    assert "1 of 3" in out


@pytest.mark.parametrize(
    ("right", "remedy"),
    [("docstring:acdc", "compare circuits of one model"), ("ioi:wagn2022", "ioi:wang2022")],
)
def test_compare_refuses_other_models_and_names(
    capsys: pytest.CaptureFixture[str], right: str, remedy: str
) -> None:
    assert main(["compare", "ioi:acdc", right]) == 2
    said_ = capsys.readouterr().err
    assert remedy in said_
    assert said_.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "shown", "title"),
    [
        (["docstring:acdc"], 24, "docstring:acdc"),
        (["ioi:acdc"], 183, "183 of 963"),
        (["ioi:acdc", "--title", "mine", "--edges", "1000"], 963, "mine"),
    ],
)
def test_a_published_circuit_is_drawn_by_role(
    tmp_path: Path, arguments: list[str], shown: int, title: str
) -> None:
    target = tmp_path / "c.svg"
    assert main(["draw", *arguments, "-o", str(target)]) == 0
    picture = target.read_text()
    assert picture.count("-&gt;") == shown
    assert title in picture
    roles = set(named(arguments[0]).roles.values())
    assert all(role in picture for role in roles)


def test_the_file_of_a_published_circuit_is_drawn_as_its_name(tmp_path: Path) -> None:
    file, one, two = (tmp_path / name for name in ("c.json", "one.svg", "two.svg"))
    for source, target in (("ioi:acdc", file), ("ioi:acdc", one), (str(file), two)):
        assert main(["draw", source, "-o", str(target)]) == 0
    assert one.read_text().count("-&gt;") == two.read_text().count("-&gt;") == 183


def test_a_file_of_a_published_circuit_holds_every_edge(tmp_path: Path) -> None:
    for suffix in ("json", "csv"):
        assert main(["draw", "ioi:acdc", "-o", str(tmp_path / f"c.{suffix}")]) == 0
    assert mask(Circuit.load(tmp_path / "c.json")).sum() == 963
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 1 + 963


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["ioi:autocircuit_heads"], "--edges 990"),
        (["docstring:acdc", "--edges", "23"], "--edges 24"),
    ],
)
def test_what_makes_no_picture_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], remedy: str
) -> None:
    assert main(["draw", *arguments, "-o", str(tmp_path / "c.svg")]) == 2
    assert remedy in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_references_are_listed_compared_and_drawn_without_torch(tmp_path: Path) -> None:
    script = f"""
import sys
from circuitkit.cli.main import main
codes = [main(["list", "references"]), main(["compare", "ioi:eap_ig", "ioi:wang2022"]),
         main(["draw", "docstring:acdc", "-o", {str(tmp_path / "c.svg")!r}])]
sys.exit(3 if "torch" in sys.modules or any(codes) else 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
