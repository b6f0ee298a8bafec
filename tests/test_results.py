"""Results of evaluation as tables, lines and pictures, and the arguments of evaluation: one circuit
in every form, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from math import isnan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from families import able, model

import circuitkit as ck
from circuitkit.corruptions import counterfactual, zero
from circuitkit.discovery import eap
from circuitkit.engine.model import Model
from circuitkit.errors import (
    ArgumentError,
    CircuitError,
    CircuitkitError,
    EvaluationError,
    OutputError,
    ScoresError,
)
from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.evaluation.masks import as_mask
from circuitkit.evaluation.results import PictureResult, TableResult
from circuitkit.graph.scores import Scores
from circuitkit.metrics import kl, logit_diff
from circuitkit.registry import lookup

FAMILY = "gpt2"
M: Model = model(FAMILY)
DATA = able(FAMILY)
GIVEN = (DATA, logit_diff, counterfactual)


@cache
def scores() -> Scores:
    return eap(M, *GIVEN)


CIRCUIT = scores().top(20)
MASK = as_mask(CIRCUIT, M.wiring)
FOUND: Any = SimpleNamespace(circuit=CIRCUIT, scores=scores())  # what a Discovery has of these


@cache
def results() -> dict[str, TableResult]:
    """One of each class."""
    knocked = ck.knockout(M, CIRCUIT, *GIVEN, pairs=4, subsets=3)
    verified = ck.verify(M, scores(), *GIVEN, circuit=CIRCUIT, n=12, direction="denoise")
    assert knocked.interactions
    assert knocked.incompleteness
    return {
        "Evaluation": ck.evaluate(M, CIRCUIT, *GIVEN),
        "Ability": ck.ability(M, DATA),
        "Curve": ck.curve(M, scores(), *GIVEN, sizes=[20, 60]),
        "SizeCurve": ck.size_curves(M, scores(), *GIVEN, shares=[0.2, 0.5, 1.0])["abs"],
        "Search": ck.smallest(M, scores(), *GIVEN, target=0.5),
        "Verification": verified,
        "Stratum": verified.by_stratum()[0],
        "Missed": verified.missed,
        "Refined": ck.refine(M, ck.random_masks(M, 20, n=4)[3], scores(), *GIVEN, candidates=12),
        "KnockoutReport": knocked,
        "MarginalEffects": knocked.marginal_effects,
        "Interactions": knocked.interactions,
        "Pair": knocked.interactions.pairs[0],
        "Incompleteness": knocked.incompleteness,
        "Knockout": knocked.incompleteness.worst,
        "Minimality": knocked.minimality,
        "Robustness": ck.cross_evaluate(
            M, {"all": CIRCUIT, "few": scores().top(9)}, DATA, [logit_diff, kl], [zero]
        ),
        "Recovery": ck.recovery(scores(), scores().top(30), {"few": CIRCUIT}),
        "Complements": ck.complements(M, CIRCUIT, *GIVEN, n=3),
        "FoundComplement": ck.complements(M, CIRCUIT, *GIVEN, kind="worst", n=2, steps=1),
        "Alternative": ck.alternative(M, CIRCUIT, scores(), *GIVEN, most=8),
        "HypothesisTests": ck.hypothesis_tests(
            M, CIRCUIT, *GIVEN, random=4, inflations=3, edges=3, sizes=[40], by=None
        ),
    }


NAMES = ["Evaluation", "Ability", "Curve", "SizeCurve", "Search", "Verification", "Stratum",
         "Missed",
         "Refined", "KnockoutReport", "MarginalEffects", "Interactions", "Pair", "Incompleteness",
         "Knockout", "Minimality", "Robustness", "Recovery", "Complements", "FoundComplement",
         "Alternative", "HypothesisTests"]  # fmt: skip
PICTURED = ["Curve", "SizeCurve", "Search", "Verification", "KnockoutReport", "MarginalEffects",
            "Interactions", "Incompleteness", "Minimality", "Robustness"]  # fmt: skip
every = pytest.mark.parametrize("name", NAMES)
# The rows of to_dict that the rows of to_frame are.
LISTED = {"MarginalEffects": "edges", "Interactions": "pairs", "Incompleteness": "knockouts",
          "Robustness": "rows", "Curve": "evaluations", "Complements": "draws",
          "FoundComplement": "rows", "Alternative": "circuits", "Search": "sizes",
          "Refined": "swaps", "HypothesisTests": "tests"}  # fmt: skip


# -- what every result does ------------------------------------------------------------------------
@every
def test_a_result_is_one_line_as_str_and_more_as_repr_and_html(name: str) -> None:
    found = results()[name]
    assert type(found).__name__ == name
    assert str(found)
    assert "\n" not in str(found)
    assert len(str(found)) < (400 if name == "KnockoutReport" else 140)
    assert "object at 0x" not in str(found) + repr(found)
    page = found._repr_html_()
    assert page.startswith("<pre>")
    assert ("<svg" in page) is (name in PICTURED)
    assert isinstance(found, PictureResult) is (name in PICTURED)


@every
def test_each_column_is_in_the_docstring(name: str) -> None:
    """That is where users look them up; one row's columns are the fields of the class."""
    found = results()[name]
    documented = (type(found).to_frame.__doc__ or "") + (type(found).__doc__ or "")
    for column in found.to_frame():
        known = f"``{column}``" in documented or column in type(found).__dataclass_fields__  # type: ignore[attr-defined]
        assert known or name in ("Pair", "Knockout") or column in ("confidence", "recall of few")


def same(one: Any, other: Any) -> bool:
    """Whether a cell is what JSON holds: None is nan."""
    if other is None or (isinstance(one, float) and isnan(one)):
        return bool(one is None or isnan(one)) and (other is None or isnan(other))
    return bool(one == other)


@every
def test_a_table_holds_the_numbers_of_to_dict(name: str) -> None:
    found: Any = results()[name]
    said, frame = found.to_dict(), found.to_frame()
    json.dumps(said)
    if name in LISTED:
        rows = said[LISTED[name]]
    elif name == "KnockoutReport":
        rows = said["marginal_effects"]["edges"]
    else:
        rows = [said] if len(frame) == 1 else []
    if rows:
        assert len(rows) == len(frame)
    compared = 0
    for row, (_, cells) in zip(rows, frame.iterrows(), strict=bool(rows) or name == ""):
        for key in {*row} & {*frame} - {"edges", "circuit", "dropped", "added"}:
            assert same(cells[key], row[key]), key
            compared += 1
    assert compared or name in ("Evaluation", "SizeCurve", "Verification", "Minimality")


def test_the_table_of_an_evaluation_is_its_examples() -> None:
    found = ck.evaluate(M, CIRCUIT, *GIVEN)
    frame, said = found.to_frame(), found.to_dict()
    for name in ("everything", "nothing", "circuit"):
        assert np.array_equal(frame[name], getattr(found, name))
        assert frame[name].mean() == pytest.approx(said[name])
    assert frame["ratio"].mean() == pytest.approx(said["mean_of_ratios"])
    assert (said["low"], said["high"]) == found.interval()


def test_tables_with_a_row_for_each_part_hold_its_numbers() -> None:
    one: Any = results()
    frame = one["SizeCurve"].to_frame()
    for name in ("asked", "kept", "accuracy", "faithfulness"):
        assert frame[name].tolist() == one["SizeCurve"].to_dict()[name]
    minimal = one["Minimality"]
    rows = {row["edge"]: row for row in minimal.to_dict()["edges"]}
    for _, row in minimal.to_frame().iterrows():
        assert {key: row[key] for key in rows[row["edge"]]} == rows[row["edge"]]
    assert {*minimal.to_frame().query("redundant")["edge"]} == {*minimal.redundant}
    pairs, dicts = one["Interactions"].to_frame(), one["Interactions"].to_dict()["pairs"]
    assert [[a, b] for a, b in zip(pairs["one_alone"], pairs["two_alone"], strict=True)] == [
        row["singles"] for row in dicts
    ]


def test_an_evaluation_without_a_gap_is_printed_and_its_numbers_are_none() -> None:
    flat = Evaluation(np.ones(3), np.ones(3), np.ones(3), "m", "c", 4)
    assert "undefined" in str(flat)
    assert flat.to_dict()["faithfulness"] is None
    assert flat.to_dict()["mean_of_ratios"] is None
    assert flat.to_frame()["ratio"].isna().all()
    curve = ck.curve(M, scores(), *GIVEN, sizes=[20])
    undefined = type(curve)((4,), (flat,), 9)
    assert undefined.to_frame()["faithfulness"].isna().all()
    assert "<svg" not in undefined._repr_html_()


@pytest.mark.parametrize("name", PICTURED)
def test_a_picture_is_written(name: str, tmp_path: Path) -> None:
    found: Any = results()[name]
    path = found.draw(tmp_path / "x.svg")
    assert path.read_text(encoding="utf-8") == found.plot().svg()
    with pytest.raises(OutputError):
        found.draw(tmp_path / "x.doc")


# -- what pictures show ----------------------------------------------------------------------------
def test_a_verification_is_drawn_with_its_direction() -> None:
    found: Any = results()["Verification"]
    assert found.direction == "denoise"
    assert all("denoise" in text for text in (str(found), repr(found), found.plot().title))
    drawn = {
        (label, x, y)
        for name, (xs, ys) in found.plot().series.items()
        for label, x, y in zip(found.plot().labels[name], xs, ys, strict=True)
    }
    assert drawn == {*zip(found.edges, found.exact, found.estimated, strict=True)}


def test_interactions_are_drawn_for_both_orders_of_a_pair() -> None:
    found: Any = results()["Interactions"]
    picture = found.plot()
    for pair in found.pairs:
        i, j = (picture.row_labels.index(edge) for edge in (pair.one, pair.two))
        assert picture.values[i, j] == picture.values[j, i] == pair.interaction
        assert picture.marks[i, j] == picture.marks[j, i] == bool(pair.label)
    assert np.isnan(np.diag(picture.values)).all()


def test_the_heat_maps_of_robustness_hold_every_evaluation() -> None:
    found: Any = results()["Robustness"]
    panels = {panel.title.split()[0]: panel for panel in found.plot().figures}
    for _, row in found.to_frame().iterrows():
        panel = panels[row["granularity"]]
        at = (panel.row_labels.index(row["circuit"]),
              panel.column_labels.index(f"{row['metric']}, {row['corruption']}"))  # fmt: skip
        assert panel.values[at] == row["faithfulness"]


def test_curves_of_other_sizes_are_drawn_without_gaps() -> None:
    one, two = (ck.curve(M, scores(), *GIVEN, sizes=sizes) for sizes in ([20, 90], [40, 60, 99]))
    axes = one.plot(two, names=["one", "two"]).plot().axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    for name, curve in (("one", one), ("two", two)):
        assert lines[name].get_xdata().tolist() == list(curve.edges)
        assert lines[name].get_ydata().tolist() == pytest.approx(list(curve.faithfulness))
    with pytest.raises(OutputError, match="1 names for 2 curves"):
        one.plot(two, names=["one"])


def test_bars_are_the_strongest_edges_with_their_errors() -> None:
    found: Any = results()["MarginalEffects"]
    bars = found.plot()
    frame = found.to_frame()
    assert [*bars.labels] == [*frame["edge"]]
    np.testing.assert_array_equal(bars.values, frame["effect"])
    np.testing.assert_array_equal(bars.errors, frame["error"])
    assert frame["effect"].abs().is_monotonic_decreasing


# -- knockout --------------------------------------------------------------------------------------
def test_knockout_is_its_four_functions() -> None:
    found = ck.knockout(M, CIRCUIT, *GIVEN, pairs=4, within="circuit", subsets=3, seed=5)
    assert found.to_dict() == {
        "marginal_effects": ck.marginal_effects(M, CIRCUIT, *GIVEN).to_dict(),
        "interactions": ck.interactions(M, CIRCUIT, *GIVEN, edges=4, within="circuit").to_dict(),
        "incompleteness": ck.incompleteness(M, CIRCUIT, *GIVEN, sets=3, seed=5).to_dict(),
        "minimality": ck.minimality(M, CIRCUIT, *GIVEN, seed=5).to_dict(),
    }
    frame = found.to_frame()
    assert sorted(frame["edge"]) == sorted(found.marginal_effects.edges)
    assert dict(zip(frame["edge"], frame["share"], strict=True)) == dict(
        zip(found.minimality.edges, found.minimality.shares, strict=True)
    )


def test_knockout_leaves_out_what_is_not_wanted() -> None:
    found = ck.knockout(M, FOUND, *GIVEN, pairs=0, subsets=0)
    assert found.interactions is None
    assert found.incompleteness is None
    assert list(found.to_dict()) == list(found.parts) == ["marginal_effects", "minimality"]
    assert found.evaluation.edges == MASK.sum()


# -- a circuit in every form -----------------------------------------------------------------------
FORMS: dict[str, Any] = {
    "a graph": CIRCUIT,
    "what holds a circuit": FOUND,
    "a mask": MASK,
    "of integers": MASK.astype(np.int64),
    "of fractions that are 0 and 1": MASK.astype(np.float32),
    "a mask with edges that do not exist": MASK | ~M.wiring.legal,
    "a torch mask": torch.tensor(MASK),
    "a torch mask of integers": torch.tensor(MASK).int(),
    "a torch mask that carries a gradient": torch.tensor(MASK).double().requires_grad_(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_circuit_is_the_same_in_every_form(form: str) -> None:
    expected = ck.evaluate(M, CIRCUIT, *GIVEN)
    found = ck.evaluate(M, FORMS[form], *GIVEN)
    assert np.array_equal(found.circuit, expected.circuit)
    assert found.edges == expected.edges
    assert ck.completeness(M, FORMS[form], *GIVEN).edges == M.wiring.n_edges - expected.edges
    assert np.array_equal(ck.node_level(FORMS[form], M), ck.node_level(CIRCUIT))


@pytest.mark.parametrize("form", FORMS)
def test_a_circuit_runs_in_every_form(form: str) -> None:
    expected = ck.run(M, CIRCUIT, DATA, counterfactual)
    found = ck.run(M, FORMS[form], DATA, counterfactual)
    assert torch.allclose(found, expected, atol=1e-5)
    assert found.requires_grad is ("gradient" in form)


def test_fractions_run_as_arrays_and_as_tensors_alike() -> None:
    half = MASK * 0.5
    one, two = (ck.measure(M, x, *GIVEN) for x in (half, torch.from_numpy(half)))
    assert torch.equal(one, two)
    assert not torch.allclose(one, ck.measure(M, MASK, *GIVEN), atol=1e-3)


def test_a_discovery_stands_where_its_scores_are_wanted() -> None:
    one, two = (ck.curve(M, x, *GIVEN, sizes=[20]) for x in (scores(), FOUND))
    assert one.to_dict() == two.to_dict()
    small = [ck.smallest(M, x, *GIVEN, target=0.5) for x in (scores(), FOUND)]
    assert np.array_equal(*(found.mask for found in small))
    assert ck.recovery(FOUND, CIRCUIT).to_dict() == ck.recovery(scores(), MASK).to_dict()
    assert ck.stability([FOUND, FOUND], 20).jaccard == 1


def test_circuits_are_cross_evaluated_in_every_form() -> None:
    several = {"graph": CIRCUIT, "found": FOUND, "mask": MASK}
    frame = ck.cross_evaluate(M, several, DATA, [logit_diff], [counterfactual]).to_frame()
    assert frame.groupby("granularity")["faithfulness"].nunique().eq(1).all()
    assert frame["edges"].nunique() == 1


def test_random_masks_come_of_a_model_its_wiring_or_a_circuit() -> None:
    of = [ck.random_masks(x, 30, n=2, seed=3) for x in (M, M.wiring, CIRCUIT, FOUND, scores())]
    assert all(np.array_equal(one, of[0]) for one in of[1:])
    assert {int(mask.sum()) for mask in ck.random_masks(CIRCUIT)} == {int(MASK.sum())}
    assert [mask.sum() for mask in ck.random_masks(M, 10**6, n=1)] == [M.wiring.n_edges]


# -- what is refused -------------------------------------------------------------------------------
OTHER = eap(model("llama"), able("llama"), logit_diff, counterfactual)
WRONG: dict[str, tuple[Any, type[CircuitkitError], str]] = {
    "the old order": (lambda: ck.evaluate(M, DATA, CIRCUIT), ArgumentError, "circuit is a Dataset"),
    "the model last": (lambda: ck.evaluate(CIRCUIT, M, DATA), ArgumentError, "first argument"),
    "no data": (lambda: eap(M, CIRCUIT), ArgumentError, "data is a Circuit; give a Dataset"),
    "scores": (lambda: ck.evaluate(M, scores(), DATA), CircuitError, r"scores\.top"),
    "no circuits": (lambda: ck.evaluate(M, [], DATA), CircuitError, "give at least one"),
    "a name": (lambda: ck.evaluate(M, ["a0.h0->logits"], DATA), ArgumentError, "the text"),
    "a function": (lambda: ck.evaluate(M, eap, DATA), ArgumentError, "the function eap"),
    "a transposed mask": (lambda: ck.evaluate(M, MASK.T, DATA), CircuitError, "a mask of shape"),
    "fractions": (lambda: ck.evaluate(M, MASK * 0.5, DATA), CircuitError, "more than 0 and 1"),
    "numbers": (lambda: ck.evaluate(M, MASK * 2, DATA), CircuitError, "more than 0 and 1"),
    "words": (lambda: ck.evaluate(M, MASK.astype(str), DATA), CircuitError, "more than 0 and 1"),
    "a tensor of another shape": (lambda: ck.run(M, torch.ones(3, 4), DATA), CircuitError, "3, 4"),
    "another model's circuit": (
        lambda: ck.evaluate(M, OTHER.top(9), DATA), CircuitError, "belongs to a model of .* layers"
    ),
    "another model's scores": (
        lambda: ck.curve(M, OTHER, DATA), ScoresError, "give scores of this model"
    ),
    "a circuit for scores": (lambda: ck.curve(M, CIRCUIT, DATA), ArgumentError, "or a Discovery"),
    "one size": (lambda: ck.curve(M, scores(), DATA, sizes=30), ArgumentError, "give a list"),
    "no sizes": (lambda: ck.curve(M, scores(), DATA, sizes=[]), ScoresError, "give larger"),
    "a target above 1": (
        lambda: ck.smallest(M, scores(), *GIVEN, target=2), EvaluationError, "ask for less"
    ),
    "no target": (lambda: ck.smallest(M, scores(), DATA, target=0), ArgumentError, "above 0"),
    "a word": (lambda: ck.smallest(M, scores(), DATA, target="a"), ArgumentError, "above 0"),
    "one share": (lambda: ck.size_curves(M, scores(), DATA, shares=0.5), ArgumentError, "a list"),
    "one rule": (lambda: ck.size_curves(M, scores(), DATA, rules="abs"), ArgumentError, "a list"),
    "nothing verified": (lambda: ck.verify(M, scores(), DATA, n=0), ArgumentError, "n=0"),
    "a half": (lambda: ck.verify(M, scores(), DATA, n=2.5), ArgumentError, "whole number"),
    "negative sets": (
        lambda: ck.incompleteness(M, CIRCUIT, DATA, sets=-1), ArgumentError, "from 0 to"
    ),
    "no candidates": (
        lambda: ck.incompleteness(M, CIRCUIT, DATA, candidates=0), ArgumentError, "from 1 to"
    ),
    "one size of sets": (
        lambda: ck.incompleteness(M, CIRCUIT, DATA, sizes=3), ArgumentError, "give a list"
    ),
    "a negative threshold": (
        lambda: ck.minimality(M, CIRCUIT, DATA, threshold=-1), ArgumentError, "at least 0"
    ),
    "negative pairs": (lambda: ck.knockout(M, CIRCUIT, DATA, pairs=-1), ArgumentError, "pairs=-1"),
    "scores knocked out": (lambda: ck.knockout(M, scores(), DATA), CircuitError, r"scores\.top"),
    "data knocked out": (lambda: ck.knockout(M, DATA, CIRCUIT), ArgumentError, "is a Circuit"),
    "negative edges": (lambda: ck.random_masks(M, -1), ArgumentError, "edges=-1"),
    "no edges": (lambda: ck.random_masks(M), ArgumentError, "edges=None"),
    "no random circuits": (lambda: ck.random_masks(M, 9, n=0), ArgumentError, "n=0"),
    "a number for a model": (lambda: ck.random_masks(9, M), ArgumentError, "edges of type"),
    "no wiring": (lambda: ck.node_level(MASK), ArgumentError, "a model, its wiring"),
    "a mask of members": (
        lambda: ck.recovery(scores(), MASK, MASK), ArgumentError, "sets of edges by name"
    ),
    "one ranking": (lambda: ck.stability(scores(), 9), ArgumentError, "a list of Scores"),
    "circuits as rankings": (lambda: ck.stability([CIRCUIT] * 2, 9), ArgumentError, "a Discovery"),
    "one granularity": (
        lambda: ck.cross_evaluate(M, {"a": MASK}, DATA, [kl], [zero], granularities="edge"),
        ArgumentError, "give a list",
    ),
    "scores for a method": (
        lambda: ck.vary(M, DATA, [kl], [zero], method=scores()), ArgumentError, "a discovery method"
    ),
    "half a step": (lambda: ck.discovery.eap_ig(M, DATA, steps=2.5), ArgumentError, "steps=2.5"),
    "a negative seed": (lambda: ck.discovery.random(M, DATA, seed=-1), ArgumentError, "seed=-1"),
}  # fmt: skip


@pytest.mark.unchecked
@pytest.mark.parametrize("call", WRONG)
def test_a_wrong_call_is_refused_in_one_sentence(call: str) -> None:
    act, error, words = WRONG[call]
    with pytest.raises(error, match=words) as caught:
        act()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.unchecked
def test_a_threshold_in_words_is_refused() -> None:
    for wrong in ("x", True, -1.0):
        with pytest.raises(CircuitkitError, match="give a number of at least"):
            lookup("discovery", "acdc")(M, *GIVEN, threshold=wrong)


# -- tensors that are no plain masks ---------------------------------------------------------------
WHOLE = torch.ones(M.wiring.shape)
DOORS: dict[str, Callable[[Any], object]] = {
    "run": lambda keep: ck.run(M, keep, DATA),
    "evaluate": lambda keep: ck.evaluate(M, keep, DATA),
    "node_level": lambda keep: ck.node_level(keep, M),
    "circuit": lambda keep: scores().circuit(keep),
}
READ = {"sparse": WHOLE.to_sparse(), "half": WHOLE.bfloat16(),
        "graded": WHOLE.clone().requires_grad_(), "numbers": WHOLE.int().numpy(),
        "bool": WHOLE.bool().numpy()}  # fmt: skip
NOT_MASKS = {"meta": WHOLE.to("meta"), "nan": WHOLE * torch.nan, "complex": WHOLE + 0j,
             "texts": np.ones(M.wiring.shape, str), "small": torch.ones(3, 3),
             "list": [[1.0, 2.0]]}  # fmt: skip


@pytest.mark.unchecked
@pytest.mark.parametrize("door", DOORS)
def test_a_tensor_is_read_as_a_mask_or_refused(door: str) -> None:
    for name, keep in READ.items():
        if door == "circuit" and name in ("sparse", "half", "graded"):
            continue  # which knows no torch, and refuses what is not like an array
        assert DOORS[door](keep) is not None
    for keep in NOT_MASKS.values():
        with pytest.raises(CircuitkitError) as caught:
            DOORS[door](keep)
        assert "\n" not in str(caught.value)


@pytest.mark.unchecked
def test_scores_are_plain_arrays_of_floats() -> None:
    plain = np.ones(M.wiring.shape)
    for values in (np.ma.masked_array(plain), plain.astype(np.uint8), WHOLE):
        with pytest.raises(ck.errors.ScoresError, match="give a NumPy array of floats"):
            ck.Scores(M.wiring, values)  # type: ignore[arg-type]
