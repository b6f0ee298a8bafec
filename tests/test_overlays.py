"""Pictures of circuits that name components alone, and of two circuits one over the other."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from test_export import BYTES, boxes, drawn, texts

from circuitkit.cli._opening import called
from circuitkit.cli.main import main
from circuitkit.errors import CircuitError, OutputError
from circuitkit.graph.circuit import Circuit, build
from circuitkit.graph.nodes import edge_name
from circuitkit.graph.published import named
from circuitkit.graph.wiring import Wiring
from circuitkit.registry import describe, lookup
from circuitkit.viz import style

SVG = "{http://www.w3.org/2000/svg}"
MEMBERS = [name for name in describe("references") if not named(name).edges]
SIDES = {colour: side for side, (colour, _) in enumerate(style.SIDES)}
TINTS = {tint: side for side, (_, tint) in enumerate(style.SIDES)}
WIRING = Wiring(3, 4, 2)
LEFT = {
    ("input", "a0.h1.q"): 2.0, ("a0.h1", "m1"): -1.0, ("m1", "logits"): 4.0,
    ("a0.h1", "logits"): 0.5,
}  # fmt: skip
RIGHT = {("input", "a0.h1.q"): 0.1, ("a0.h1", "a2.g0.k"): 0.2, ("a2.h0", "logits"): 0.05}


def svg(circuit: Circuit, **style: Any) -> str:
    picture: str = lookup("formats", "svg")(circuit, **style)
    return picture


def fills(picture: str) -> dict[str, str]:
    """The fill of each box, by its name."""
    return {
        title.text.partition(":")[0]: rect.get("fill", "")
        for rect in ElementTree.fromstring(picture).iter(f"{SVG}rect")
        if (title := rect.find(f"{SVG}title")) is not None and title.text
    }


# -- components alone ------------------------------------------------------------------------------
@pytest.mark.parametrize("name", MEMBERS)
def test_components_are_drawn_in_a_row_for_each_role(name: str) -> None:
    published = named(name)
    picture = svg(published.circuit)
    assert set(fills(picture)) == set(published.roles)
    said = texts(picture)
    for role in set(published.roles.values()):
        assert role in said
    assert name in said
    assert any("it names no edges" in line for line in said)
    by_role: dict[str, set[str]] = {}
    for box, fill in fills(picture).items():
        by_role.setdefault(published.roles[box], set()).add(fill)
    assert all(len(own) == 1 for own in by_role.values())
    tints = [fill for own in by_role.values() for fill in own if fill != style.PAPER]
    assert len(set(tints)) == len(tints) == min(len(by_role), len(style.ROLES))


def test_later_roles_stand_higher_and_positions_beside_their_names() -> None:
    picture = svg(named("ioi:wang2022").circuit, title="Wang et al.")
    heights = {
        text.text: float(text.get("y", ""))
        for text in ElementTree.fromstring(picture).iter(f"{SVG}text")
    }
    roles = ["duplicate token", "previous token", "induction", "S-inhibition", "name mover",
             "backup name mover", "negative name mover"]  # fmt: skip
    assert sorted(roles, key=lambda role: -heights[role]) == roles
    assert heights["5.5"] == heights["6.9"]
    assert {"at S1+1", "at S2", "at end", "Wang et al."} <= set(heights)
    assert "26 of the model's 144 heads" in " ".join(texts(picture))


@pytest.mark.parametrize("inches", [None, 2.5, 3.3, 7])
def test_boxes_stand_clear_in_letters_of_seven_points(inches: float | None) -> None:
    picture = svg(named("ioi:wang2022").circuit, width=inches)
    root = ElementTree.fromstring(picture)
    width = float(root.get("width", ""))
    for one, other in combinations(boxes(picture), 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    assert all(0 < left < right < width for left, _, right, _ in boxes(picture))
    sizes = [float(text.get("font-size", "")) for text in root.iter(f"{SVG}text")]
    assert min(sizes) >= 7 - 1e-4
    for text in root.iter(f"{SVG}text"):
        wide = style.text_width(text.text or "", float(text.get("font-size", "")))
        start = float(text.get("x", "")) - wide / 2 * (text.get("text-anchor") == "middle")
        assert start >= 0
        assert start + wide <= width + 1
    if inches:
        assert width == pytest.approx(72 * inches, abs=0.1)


def test_what_is_too_narrow_is_refused_and_other_formats_draw_them_too() -> None:
    circuit = named("ioi:wang2022").circuit
    with pytest.raises(OutputError, match=r"the picture is 1\.\d inches wide, and not 1;"):
        svg(circuit, width=1)
    with pytest.raises(OutputError, match="edges=0"):
        svg(circuit, edges=0)
    for suffix, start in BYTES.items():
        assert lookup("formats", suffix)(circuit).startswith(start)
    assert svg(circuit) == svg(circuit)


# -- two circuits ----------------------------------------------------------------------------------
def pair(**more: str) -> tuple[Circuit, Circuit]:
    made = build(WIRING, LEFT, method="eap", **more), build(WIRING, RIGHT, method="acdc", **more)
    return made


def test_colours_say_which_circuit_has_an_edge_and_a_component() -> None:
    left, right = pair(model="tiny", task="ioi")
    picture = svg(left, beside=right)
    found = {name: SIDES[path[0].get("stroke", "")] for name, path in drawn(picture).items()}
    expected = {edge_name(*own): 0 for own in LEFT}
    expected |= {edge_name(*own): 1 if own in LEFT else 2 for own in RIGHT}
    assert found == expected
    assert set(found.values()) == {0, 1, 2}
    of_boxes = {name: TINTS[fill] for name, fill in fills(picture).items() if fill in TINTS}
    assert of_boxes == {"a0.h1": 1, "m1": 0, "a2.h0": 2}
    said = texts(picture)
    for words in ("only eap", "both", "only acdc", "components: only eap", "eap and acdc",
                  "1 edges in both, 3 only in eap, 2 only in acdc", "model: tiny · task: ioi",
                  "negative weight"):  # fmt: skip
        assert words in said
    assert not any("into Q" in line or "method:" in line for line in said)


def test_the_order_of_the_two_only_turns_the_sides_around() -> None:
    left, right = pair()
    one, other = svg(left, beside=right), svg(right, beside=left)
    sides = [
        {name: SIDES[path[0].get("stroke", "")] for name, path in drawn(own).items()}
        for own in (one, other)
    ]
    assert sides[0] == {name: 2 - side for name, side in sides[1].items()}


def test_an_edge_that_only_one_picture_would_show_still_knows_both_circuits() -> None:
    """What is left out of a picture of one circuit may be in that of the other: it is in both."""
    left = build(WIRING, {("input", "logits"): 1.0, ("m0", "logits"): 0.1, ("input", "m0"): 0.1})
    right = build(WIRING, {("m0", "logits"): 1.0})
    picture = svg(left, beside=right, edges=1)
    found = {name: SIDES[path[0].get("stroke", "")] for name, path in drawn(picture).items()}
    assert found == {"input->logits": 0, "m0->logits": 1}
    assert "1 edges in both, 2 only in A, 0 only in B" in texts(picture)
    assert "(1 left out)" in " ".join(texts(picture))


def test_components_are_compared_where_one_names_no_edges() -> None:
    ours, theirs = named("ioi:eap_ig"), named("ioi:wang2022_naive")
    for one, other in ((ours, theirs), (theirs, ours)):
        picture = svg(one.circuit, beside=other.circuit)
        side = {n: TINTS[fill] for n, fill in fills(picture).items() if fill in TINTS}
        both = {name for name, own in side.items() if own == 1}
        assert both == set(ours.roles) & set(theirs.roles)
        assert len(both) == 13
        strokes = {path[0].get("stroke") for path in drawn(picture).values()}
        assert strokes == {*style.PORTS.values(), style.PLAIN}
        assert any(line.startswith("13 components in both") for line in texts(picture))


def test_what_cannot_be_overlaid_is_refused() -> None:
    left, right = pair()
    with pytest.raises(CircuitError, match="different models"):
        svg(left, beside=build(Wiring(2, 4, 2), {("input", "logits"): 1.0}))
    members = named("ioi:wang2022").circuit
    with pytest.raises(CircuitError, match="neither of the two"):
        svg(members, beside=members)
    with pytest.raises(OutputError, match="engine='dot'"):
        svg(left, beside=right, engine="dot")
    for suffix, start in BYTES.items():
        assert lookup("formats", suffix)(left, beside=right).startswith(start)


def test_the_commands_draw_two_and_call_them_by_their_names(tmp_path: Path) -> None:
    for name, weights in (("one", LEFT), ("two", RIGHT)):
        build(WIRING, weights, model="tiny").save(tmp_path / name / "circuit.json")
    names = [str(tmp_path / name) for name in ("one", "two")]
    drawn_place, compared = tmp_path / "a.svg", tmp_path / "b.svg"
    assert main(["draw", names[0], "--beside", names[1], "-o", str(drawn_place)]) == 0
    assert main(["compare", *names, "-o", str(compared)]) == 0
    assert drawn_place.read_text() == compared.read_text()
    assert {"only one", "only two", "one and two"} <= set(texts(drawn_place.read_text()))
    assert main(["draw", names[0], "--beside", names[1], "-o", str(tmp_path / "x.json")]) == 2
    place = str(tmp_path / "c.svg")
    assert main(["draw", "ioi:eap_ig", "--beside", "ioi:acdc", "-o", place, "--width", "7"]) == 0
    assert {"only ioi:eap_ig", "only ioi:acdc"} <= set(texts(Path(place).read_text()))


def test_what_circuits_are_called(tmp_path: Path) -> None:
    for name in ("a/x/circuit.json", "b/x/circuit.json", "b/y.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [str(tmp_path / name) for name in ("a/x/circuit.json", "b/x/circuit.json", "b/y.json")]
    assert called(*names[:2]) == ["a", "b"]
    assert called(*names[1:]) == ["circuit.json", "y.json"]
    assert called("ioi:acdc", "ioi:eap_ig") == ["ioi:acdc", "ioi:eap_ig"]
