"""Circuits under several corruptions: each as its own command gives it, and what they share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_placed_pictures import drawn_at_random

import circuitkit as ck
from circuitkit.cli.main import main
from circuitkit.errors import CircuitkitError
from circuitkit.graph.circuit import Circuit, edges
from circuitkit.graph.nodes import edge_name
from circuitkit.registry import lookup
from circuitkit.viz.circuits.panels import panels
from circuitkit.viz.shapes import Curve, Rect, Text
from circuitkit.viz.style import SIDES

TEXTS = {
    "counterfactual": "counterfactual",
    "counterfactual-text-names": "counterfactual(text='names')",
}
BOTH = [part for own in TEXTS.values() for part in ("--corruption", own)]
FEW = ["discover", "ioi", "--method", "eap", "--edges", "12", "--examples", "4", "--quiet"]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".lock" not in path.name
    }


@pytest.mark.parametrize(
    "more", [["--positions", "--spans", "S2"], pytest.param([], marks=pytest.mark.weekly)]
)
def test_each_circuit_is_that_of_its_own_command(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FEW, *more, *BOTH, "-o", str(tmp_path / "both"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["circuit"] for row in said["circuits"]] == [*TEXTS.values()]
    for folder, corruption in TEXTS.items():
        alone = tmp_path / folder
        assert main([*FEW, *more, "--corruption", corruption, "-o", str(alone)]) == 0
        assert contents(alone) == contents(tmp_path / "both" / folder)
    written = {str(path) for path in (tmp_path / "both").rglob("*.*") if path.is_file()}
    assert {*said["files"]} == {path for path in written if ".lock" not in path}
    page = (tmp_path / "both" / "comparison.html").read_text()
    assert "2 circuits side by side" in page


@pytest.mark.weekly
def test_shards_make_their_part_of_every_circuit(tmp_path: Path) -> None:
    for part in ("0/2", "1/2"):
        place = ["-o", str(tmp_path / "parts")]
        assert main([*FEW, *BOTH, "--batch-size", "2", *place, "--shard", part]) == 0
    assert main(["merge", str(tmp_path / "parts"), "--quiet"]) == 0
    assert main([*FEW, *BOTH, "--batch-size", "2", "-o", str(tmp_path / "whole")]) == 0
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--corruption", "mean", "--corruption", "mean"], "'mean' is given twice"),
        ([*BOTH, "--plan"], "--plan is of one corruption"),
        ([*BOTH, "--features", "3"], "--features is of one corruption"),
        (["--corruption", "mean", "--corruption", "meen"], "did you mean 'mean'"),
    ],
)
def test_what_takes_one_corruption_says_so(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FEW, *options, "-o", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# -- what is shared --------------------------------------------------------------------------------
def three() -> dict[str, Circuit]:
    """A circuit, a part of it, and another one between the same places."""
    whole = drawn_at_random("mini")
    part = Circuit(whole)
    part.remove_edges_from([edge[:2] for edge in sorted(edges(whole))[:9]])
    return {"whole": whole, "part": part, "other": drawn_at_random("mini", 1)}


def names(circuit: Circuit) -> set[str]:
    return {edge_name(writer, reader) for writer, reader, _ in edges(circuit)}


@pytest.mark.parametrize("plain", [False, True], ids=["placed", "plain"])
def test_the_tables_are_sets_of_edges(plain: bool) -> None:
    circuits = {name: one.collapse() if plain else one for name, one in three().items()}
    found = ck.side_by_side(circuits)
    held = {name: names(circuit) for name, circuit in circuits.items()}
    frame = found.to_frame().set_index("edge")
    assert {*frame.index} == set.union(*held.values())
    assert frame["circuits"].is_monotonic_decreasing
    for name, own in held.items():
        assert {*frame.index[frame[name].notna()]} == own
    sizes = {row["circuit"]: row for row in found.sizes()}
    for name, own in held.items():
        others = set.union(*(one for other, one in held.items() if other != name))
        assert sizes[name]["only_here"] == len(own - others)
        assert sizes[name]["in_all"] == len(set.intersection(*held.values()))
    for row in found.overlap():
        assert row["shared"] == len(held[str(row["left"])] & held[str(row["right"])])
    spans = circuits["whole"].graph.get("places", {}).get("spans", [])
    for row in found.places():
        for name, circuit in circuits.items():
            at = [s for s in spans if f"{row['component']}@{s}" in circuit]
            writes = [s for s in at if circuit.out_degree(f"{row['component']}@{s}")]
            assert row[name] == ", ".join(writes)
    assert bool(found.places()) == (not plain)
    assert str(found) in repr(found)


@pytest.mark.parametrize("plain", [False, True], ids=["placed", "plain"])
def test_a_picture_of_several_marks_what_only_one_has(plain: bool) -> None:
    circuits = {name: one.collapse() if plain else one for name, one in three().items()}
    scene = panels(circuits, {name: f"the {name}" for name in circuits}, "all")
    every = [names(circuit) for circuit in circuits.values()]
    shared = {name for own in every for name in own if sum(name in one for one in every) > 1}
    lines = [s for s in scene.shapes if isinstance(s, Curve) and s.title]
    assert {line.title.partition("  ")[0] for line in lines} & shared
    for line in lines:
        name = line.title.partition("  ")[0]
        assert line.colour == SIDES[1 if name in shared else 0][0]
    titles = [(s.x, s.y) for s in scene.shapes if isinstance(s, Text) and s.text[:4] == "the "]
    assert len(titles) == 3
    (x, y), *rest = titles
    assert all((a > x and b == y) if plain else b > y for a, b in rest)
    for shape in scene.shapes:
        if isinstance(shape, Rect):
            assert shape.x <= scene.width
            assert shape.y <= scene.height


def test_a_later_run_leaves_no_circuit_of_an_earlier_one(tmp_path: Path) -> None:
    few: dict[str, Any] = {"method": "eap", "edges": 6, "examples": 4}
    each = {name: ck.discover(ck.load("mini"), "ioi", corruption=name, **few)
            for name in ("mean", "zero", "noise")}  # fmt: skip
    ck.side_by_side(each).save(tmp_path / "run")
    (tmp_path / "run" / "zero" / "mine.txt").write_text("kept")
    two = ck.side_by_side({name: each[name] for name in ("mean", "zero")})
    with pytest.raises(CircuitkitError, match="finished run"):
        two.save(tmp_path / "run")
    two.save(tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run" / "noise").exists()
    ck.side_by_side({"mean": each["mean"], "noise": each["noise"]}).save(
        tmp_path / "run", overwrite=True
    )
    assert {*contents(tmp_path / "run" / "zero")} == {"mine.txt"}
    assert ck.Circuit.load(tmp_path / "run" / "mean" / "circuit.json").heads


def refusals() -> Iterator[tuple[dict[str, Any], str]]:
    own = three()
    yield {"whole": own["whole"]}, "give at least two"
    yield {"a": own["whole"], "b": own["part"].collapse()}, "of one kind"
    yield {"a": own["whole"], "b": drawn_at_random("grouped")}, "different models or spans"
    yield {"a b": own["whole"], "a-b": own["part"]}, "'a-b' beside 'a b'"
    yield {"edge": own["whole"], "b": own["part"]}, "'edge' does not tell"
    yield {"a": "ioi:acdc", "b": "ioi:wang2022"}, "no edges"


@pytest.mark.parametrize(("circuits", "said"), [*refusals()])
def test_what_cannot_be_put_side_by_side_is_refused(circuits: dict[str, Any], said: str) -> None:
    with pytest.raises(CircuitkitError, match=re.escape(said)):
        ck.side_by_side(circuits)


# -- the page of two -------------------------------------------------------------------------------
def test_a_page_of_two_says_which_has_each_edge() -> None:
    whole, _, other = three().values()
    text = lookup("formats", "html")(whole, beside=other)
    data = json.loads(re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    held = dict(zip(data["edges"]["name"], data["edges"]["side"], strict=True))
    a, b = names(whole), names(other)
    for name, side in held.items():
        assert side == (1 if name in a and name in b else 0 if name in a else 2)
    assert [own["count"] for own in data["sides"]] == [[*held.values()].count(i) for i in range(3)]
    classes = re.findall(r'<g class="e (s\d)[^"]*" data-i="(\d+)"', text)
    assert {int(i): int(own[1]) for own, i in classes} == dict(enumerate(data["edges"]["side"]))


def test_a_page_between_places_holds_patterns_of_heads() -> None:
    rows = {"a0.h0": [[1.0], [0.25, 0.75]]}
    text = lookup("formats", "html")(
        drawn_at_random("mini"), attention={"tokens": ["a", "b"], "heads": rows}
    )
    assert '"heads": {"a0.h0": ["99", "2575"]}' in text
