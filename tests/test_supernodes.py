"""Features that do the same thing are proposed as a supernode, and others are not."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from circuitkit.errors import DataError
from circuitkit.features.describing import read_labels
from circuitkit.features.graphs import AttributionGraph
from circuitkit.features.nodes import GraphNode
from circuitkit.features.supernodes import given_by, places, supernodes, table

TOKENS = ("<s>", "Ann", "and", "Bo", "met", "Ann", "to")
SPANS = {"S1": [1, 2], "IO": [3, 4], "S2": [5, 6], "end": [6, 7]}
Edges = Mapping[str, Mapping[str, float]]


def graph_of(edges: Edges, spans: Mapping[str, Sequence[int]] = SPANS) -> AttributionGraph:
    """A graph with these edges, by the names of nodes (m0.f3@5, logits)."""
    names = {*edges, *(to for own in edges.values() for to in own)}
    features = sorted(name for name in names if name != "logits")
    nodes = [GraphNode("token", position=i, number=i, label=t) for i, t in enumerate(TOKENS)]
    for name in features:
        layer, number, at = (int(x) for x in name[1:].replace(".f", " ").replace("@", " ").split())
        nodes.append(GraphNode("feature", layer, at, number, 1.0))
    nodes.append(GraphNode("logit", 2, len(TOKENS) - 1, weight=1.0))
    number = {node.name: i for i, node in enumerate(nodes)}
    weights = np.zeros((len(nodes), len(nodes)))
    for start, own in edges.items():
        for to, weight in own.items():
            weights[number[to], number[start]] = weight
        weights[number[start], number[f"input@{start.partition('@')[2]}"]] = 1.0
    return AttributionGraph(
        "toy", " ".join(TOKENS), TOKENS, tuple(nodes), csr_array(weights), weights.sum(1),
        np.zeros(len(nodes)), "a logit", {"spans": spans},
    )  # fmt: skip


# Features 1, 2 and 3 say "a name for the second time", each for other names: at S2, into whatever
# feature of layer 1 knows that name there, and a little into the logits. The other ones differ in
# one thing: where they are (4), where they give to (5), and the sign of what the target takes (6).
PLANTED: Sequence[Edges] = (
    {
        "m0.f1@5": {"m1.f10@5": 2.0, "logits": 0.2},
        "m0.f2@5": {"m1.f11@5": -1.0, "logits": 0.1},
        "m0.f4@1": {"m1.f10@5": 2.0, "logits": 0.2},
        "m0.f5@5": {"m1.f12@6": 2.0, "logits": 0.2},
        "m0.f6@6": {"logits": -1.0},
        "m0.f7@6": {"logits": 1.0},
        **{f"m1.f{i}@{at}": {"logits": 0.5} for i, at in ((10, 5), (11, 3), (11, 5), (12, 6))},
    },
    {
        "m0.f2@5": {"m1.f13@5": 1.0, "logits": 0.1},
        "m0.f3@5": {"m1.f11@5": 3.0, "logits": 0.3},
        **{f"m1.f{i}@5": {"logits": 0.5} for i in (11, 13)},
    },
)


def test_features_that_do_the_same_are_grouped_and_others_are_not() -> None:
    groups = supernodes(map(graph_of, PLANTED), alike=0.95)
    (same,) = [own for own in groups.values() if "m0.f1" in own]
    assert {*same} == {"m0.f1", "m0.f2", "m0.f3"}
    for name in ("m0.f4", "m0.f5", "m0.f6"):
        assert all(name not in own for own in groups.values()), name
    (last,) = [own for own in groups.values() if "m0.f7" in own]
    assert {*last} == {"m0.f7", "m1.f12"}  # both raise the target from the last token alone
    assert groups["m0 at S2"] == same
    assert all(len(own) > 1 for own in groups.values())


def test_proposals_depend_on_neither_order_nor_the_sizes_of_prompts() -> None:
    graphs = [*map(graph_of, PLANTED)]
    larger = replace(graphs[0], weights=graphs[0].weights * 9.0, sums=graphs[0].sums * 9)
    first = supernodes(graphs, alike=0.95)
    assert {frozenset(own) for own in supernodes([graphs[1], larger], alike=0.95).values()} == {
        frozenset(own) for own in first.values()
    }
    assert supernodes([graphs[0]] * 2, alike=0.95) == supernodes([graphs[0]], alike=0.95)
    for own in given_by(graphs[0]).values():
        assert sum(x * x for x in own.to.values()) == pytest.approx(1)


def test_without_spans_places_are_positions() -> None:
    assert places(graph_of(PLANTED[0])) == (
        "before S1", "S1", "before IO", "IO", "before S2", "S2", "end"
    )  # fmt: skip
    assert places(graph_of(PLANTED[0], {})) == tuple("0123456")
    assert "m0 at 5" in supernodes([graph_of(PLANTED[0], {})], alike=0.95)
    assert supernodes([]) == {}
    with pytest.raises(DataError, match="is not a cosine"):
        supernodes([graph_of(PLANTED[0])], alike=2)


def test_a_proposal_is_the_table_that_labels_are_read_from(tmp_path: Path) -> None:
    groups = supernodes(map(graph_of, PLANTED), alike=0.95)
    path = tmp_path / "supernodes.csv"
    path.write_text(table(groups, {"m0.f1": {"label": "again, a name"}}))
    rows = [*csv.DictReader(path.read_text().splitlines())]
    assert [*rows[0]] == ["feature", "label", "supernode"]
    assert len(rows) == sum(map(len, groups.values()))
    named = graph_of(PLANTED[0]).labelled(read_labels(path))
    assert sorted(named.about["supernodes"]["m0 at S2"]) == ["m0.f1@5", "m0.f2@5"]
    assert named.nodes[named.number["m0.f1@5"]].label == "again, a name"
    assert named.to_networkx().nodes["m0.f2@5"]["supernode"] == "m0 at S2"
