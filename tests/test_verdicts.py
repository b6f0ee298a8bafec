"""Tables, verdicts and figures of a study made by hand, whose every number is on paper."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from circuitkit.evaluation.faithfulness import Evaluation
from circuitkit.evaluation.robustness import Robustness
from circuitkit.graph.circuit import build
from circuitkit.graph.wiring import Wiring
from circuitkit.patching.effects import Effects
from circuitkit.patching.windows import Windows
from circuitkit.workflows.study.records import Part
from circuitkit.workflows.study.results import Study

METRICS, CORRUPTIONS = ("logit_diff", "probability"), ("counterfactual", "noise")
GAP = 10.0
SAMPLES = 5
LAYERS, HEADS = 4, 4
# the one head that does something, by corruption and metric
FOUND = {
    ("counterfactual", "logit_diff"): ("a0.h0", 9.0),
    ("counterfactual", "probability"): ("a0.h0", 9.0),
    ("noise", "logit_diff"): ("a0.h1", 9.0),
    ("noise", "probability"): ("a0.h0", -9.0),
}


def effects(
    values: Any, nodes: str, by: tuple[str, str], spread: float = 0, **axes: Any
) -> Effects:
    """Effects of these means on two examples, of which the first has a share less, and the second
    that share more."""
    both = np.asarray(values, float)[..., None] * np.array([1 - spread, 1 + spread])
    named = {name: tuple(map(str, labels)) for name, labels in axes.items()}
    return Effects(both, named, np.full(2, GAP), nodes, by[1], by[0], "denoise")


def heads(by: tuple[str, str]) -> Effects:
    values = np.zeros((LAYERS, HEADS))
    name, effect = FOUND[by]
    values[int(name[1]), int(name[4])] = effect
    return effects(values, "z", by, layer=range(LAYERS), head=range(HEADS))


def windows(by: tuple[str, str]) -> Windows:
    """Single layers do 1, 1, 0, 0; three together 4 and 1, but by the logit difference under noise
    2 and 1."""
    joint = [2.0, 1.0] if by == ("noise", "logit_diff") else [4.0, 1.0]
    spread = 0.25 if by[0] == "noise" else -0.25
    single = effects([1, 1, 0, 0], "mlp_out", by, window=range(4))
    wide = ["0-2", "1-3"]
    return Windows(
        {1: single, 3: effects(joint, "mlp_out", by, spread, window=wide)},
        {1: single, 3: effects([2, 1], "mlp_out", by, window=wide)},
    )


def evaluation(faithfulness: float, metric: str) -> Evaluation:
    kept = faithfulness * np.array([0.9, 1, 1.1])
    return Evaluation(np.ones(3), np.zeros(3), kept, metric, "noise", 1)


def circuits() -> Robustness:
    """Two circuits that are as faithful by both metrics, and one that is not."""
    wiring = Wiring(LAYERS, HEADS, HEADS, mlp=True, parallel=False)
    own = {name: build(wiring, {(writer, "logits"): 1.0})
           for name, writer in (("one", "m0"), ("two", "m1"), ("three", "m2"))}  # fmt: skip
    cells = {(name, metric): 0.9 for name in own for metric in METRICS}
    cells["two", "probability"] = 0.5
    found = {(name, "noise", metric, "edge"): evaluation(value, metric)
             for (name, metric), value in cells.items()}  # fmt: skip
    return Robustness(own, found)


@cache
def made() -> Study:
    pairs = [(c, m) for c in CORRUPTIONS for m in METRICS]
    stream = np.array([[10, 0], [6, 4], [0, 9], [0, 8]])
    seen = {"clean": 0.6, "counterfactual": 0.55, "noise": 0.25}
    spans = {"layer": range(LAYERS), "span": ("S", "end")}
    return Study(
        about={"task": "by hand", "model": "paper", "windows_at": "S", "examples": 2, "prompts": 3,
               "only": None, "both_ways": False, "direction": "denoise", "seed": 0,
               "versions": {"python": "3"}},
        metrics=METRICS, corruptions=CORRUPTIONS,
        parts=(Part("z"), Part("resid_pre", ("S", "end"))),
        clean={m: np.full(2, 12.0) for m in METRICS},
        corrupted={by: np.full(2, 2.0) for by in pairs},
        effects={("z", *by): heads(by) for by in pairs}
        | {("resid_pre@S,end", *by): effects(stream, "resid_pre", by, **spans) for by in pairs},
        windows={by: windows(by) for by in pairs},
        watched=("a0.h0", "a0.h1"), spans=("S", "end"),
        attention={run: np.array([[[most - shift, most + shift], [0.1] * 2], [[0.0] * 2] * 2])
                   for (run, most), shift in zip(seen.items(), (0.05, 0.05, -0.05), strict=True)},
        groups={"movers": ("a0.h0",)},
        restored={by: effects([5.0 if by[0] == "counterfactual" else 2.0], "groups", by, 0.25,
                              group=["movers"]) for by in pairs},
        circuits=circuits(), again={("z", *by): (heads(by),) * SAMPLES for by in pairs},
    )  # fmt: skip


def row(table: str, **wanted: Any) -> dict[str, Any]:
    (found,) = (r for r in made().tables()[table] if all(r[k] == v for k, v in wanted.items()))
    return found


def said(question: str) -> list[Any]:
    return [verdict for verdict in made().verdicts() if verdict.question == question]


# -- tables ----------------------------------------------------------------------------------------
def test_detections_name_the_one_head_with_its_sign() -> None:
    for (corruption, metric), (name, effect) in FOUND.items():
        found = row("detected", corruption=corruption, metric=metric)
        assert found["help"] == (name if effect > 0 else "")
        assert found["hurt"] == (name if effect < 0 else "")


def test_disagreement_is_counted_from_the_left() -> None:
    found = row("corruptions", metric="logit_diff")
    assert (found["left"], found["right"]) == CORRUPTIONS
    assert (found["both"], found["left_only"], found["right_only"]) == (0, 1, 1)
    assert found["jaccard"] == 0
    assert row("corruptions", metric="probability")["flipped"] == "a0.h0"


def test_windows_tell_their_peak_its_share_and_the_ratio() -> None:
    found = row("windows", corruption="counterfactual", metric="logit_diff", size=3)
    assert (found["peak"], found["layers"], found["at"]) == (4, "0-2", "S")
    assert (found["peak of sums"], found["layers of sums"]) == (2, "0-2")
    assert found["share"] == pytest.approx(0.4)
    assert found["ratio"] == pytest.approx(2)


def test_peaks_that_carry_next_to_nothing_have_no_ratio() -> None:
    small = {by: windows(by) for by in made().windows}
    for by, kind in small.items():
        parts = [{n: replace(e, values=e.values / 100) for n, e in own.items()}
                 for own in (kind.joint, kind.summed)]  # fmt: skip
        small[by] = Windows(*parts)
    rows = replace(made(), windows=small).tables()["windows"]
    assert np.isnan([r["ratio"] for r in rows]).all()


def test_tokens_tell_where_the_difference_stands_and_until_when() -> None:
    by = {"corruption": "noise", "metric": "logit_diff"}
    first = row("tokens", span="S", **by)
    assert (first["largest share"], first["before layer"]) == (1, "0")
    assert (first["half from"], first["half until"]) == ("0", "1")
    last = row("tokens", span="end", **by)
    assert (last["largest share"], last["before layer"]) == (0.9, "2")
    assert (last["half from"], last["half until"]) == ("2", "3")


def test_attention_is_of_the_group_alone() -> None:
    assert row("attention", run="clean")["S"] == pytest.approx(0.6)
    assert row("attention", run="noise")["end"] == pytest.approx(0.1)


def test_what_is_restored_is_told_as_share_and_as_the_metric_reached() -> None:
    found = row("restored", corruption="counterfactual", metric="logit_diff")
    assert (found["effect"], found["share"], found["metric reached"]) == (5, 0.5, 7)


# -- verdicts --------------------------------------------------------------------------------------
def test_noise_and_replacement_are_told_apart_where_they_are() -> None:
    (verdict,) = said("Does noise find what replacement finds?")
    assert verdict.depends
    assert verdict.advice
    assert "different heads beyond resampling in 1 of 2 comparisons" in verdict.text
    assert "0.50 between the choices, 1.00 between samples of one" in verdict.text
    assert "counterfactual and noise by logit_diff, 0.00 against 1.00 (p = 0.0079)" in verdict.text


def test_metrics_are_told_apart_where_they_are() -> None:
    (verdict,) = said("Do the metrics find the same?")
    assert "different heads beyond resampling in 1 of 2 comparisons" in verdict.text
    assert "logit_diff and probability under noise" in verdict.text


def test_choices_that_agree_need_no_advice() -> None:
    alike = {key: made().effects["z", "counterfactual", "logit_diff"] if key[0] == "z" else e
             for key, e in made().effects.items()}  # fmt: skip
    again = {key: (alike[key],) * SAMPLES for key in made().again}
    verdicts = replace(made(), effects=alike, again=again).verdicts()
    found = [v for v in verdicts if v.question == "Does noise find what replacement finds?"]
    assert [(v.depends, v.advice) for v in found] == [(False, "")]
    assert "Furthest" not in found[0].text


def test_a_head_that_changes_its_sign_is_named() -> None:
    (verdict,) = said("Does the sign hold?")
    assert verdict.depends
    assert "another: a0.h0." in verdict.text
    assert "helps by probability under counterfactual" in verdict.text
    assert "hurts by probability under noise" in verdict.text


def test_windows_inflate_where_the_ratio_is_large() -> None:
    (verdict,) = said("Do windows inflate the peak?")
    assert verdict.depends
    assert "1.00 to 2.00 times" in verdict.text
    assert "in 3 of 4 combinations, in 3 of them beyond resampling" in verdict.text
    assert verdict.text.endswith("3 layers by logit_diff under counterfactual.")


def test_peaks_under_noise_are_compared_with_those_under_replacement() -> None:
    (verdict,) = said("Does noise sharpen the peak?")
    assert "0.50 to 1.00 times" in verdict.text
    assert "higher in 0 of 4" in verdict.text
    assert verdict.depends


def test_blurred_attention_and_a_mechanism_that_breaks_are_told() -> None:
    attention, restored = said("Is noise off-distribution?")
    assert attention.depends
    assert restored.depends
    told = "S (0.60) on clean prompts, S (0.55) under counterfactual, S (0.25) under noise"
    assert told in attention.text
    assert "gives back 0.50 of logit_diff under counterfactual, and 0.20 under" in restored.text


def test_circuits_whose_faithfulness_depends_on_the_measure_are_counted() -> None:
    (verdict,) = said("Are circuits robust?")
    assert verdict.depends
    assert verdict.text.startswith("The faithfulness of 1 of 3 circuits")
    assert verdict.text.endswith("found by two: 0.50 to 0.90.")


# -- beyond resampling -----------------------------------------------------------------------------
def resampled(**changed: Any) -> Study:
    """The study with other finds on its samples: for each choice, the head found on each."""
    choices: dict[tuple[str, str, str], list[str]] = {
        key: [FOUND[key[1:]][0]] * SAMPLES for key in made().again
    }
    choices |= {("z", *name.split("_", 1)): nodes for name, nodes in changed.items()}

    def one(by: tuple[str, str], name: str) -> Effects:
        values = np.zeros((LAYERS, HEADS))
        values[int(name[1]), int(name[4])] = FOUND[by][1]
        return effects(values, "z", by, layer=range(LAYERS), head=range(HEADS))

    again = {key: tuple(one(key[1:], n) for n in nodes) for key, nodes in choices.items()}
    return replace(made(), again=again)


def verdict_of(study: Study, question: str) -> Any:
    (found,) = (v for v in study.verdicts() if v.question == question)
    return found


SAME_HEADS = "Does noise find what replacement finds?"


def test_a_difference_that_other_samples_have_too_is_not_shown() -> None:
    """The shown sample is that of before, in which noise finds another head."""
    mixed = ["a0.h0", "a0.h1", "a0.h2", "a0.h3", "a1.h0"]
    study = resampled(counterfactual_logit_diff=mixed, noise_logit_diff=mixed[::-1])
    verdict = verdict_of(study, SAME_HEADS)
    assert not verdict.depends
    assert not verdict.advice
    assert "are not shown to find different heads" in verdict.text
    # By the logit difference 4 of 20 pairs on two samples are alike, and none of one choice; by
    # probability all.
    assert "0.60 between the choices, 0.50 between samples of one" in verdict.text


@pytest.mark.parametrize(("samples", "why"), [(0, "without others"), (1, "1 sample of"),
                                              (3, "3 samples of")])  # fmt: skip
def test_too_few_samples_leave_it_not_known(samples: int, why: str) -> None:
    again = {key: found[:samples] for key, found in made().again.items()}
    study = replace(made(), again=again if samples else {})
    verdict = verdict_of(study, SAME_HEADS)
    assert not verdict.depends
    assert "not known whether they differ beyond what other prompts change" in verdict.text
    assert why in verdict.text
    assert not verdict_of(study, "Does the sign hold?").depends or samples > 1


def test_a_sign_that_turns_on_some_samples_only_is_not_shown() -> None:
    study = resampled(noise_probability=["a0.h0"] * 4 + ["a0.h2"])
    verdict = verdict_of(study, "Does the sign hold?")
    assert not verdict.depends
    assert "on 4 of 5 samples. Not shown beyond resampling." in verdict.text


def test_the_floor_is_the_agreement_of_a_choice_with_itself_on_two_samples() -> None:
    study = resampled(noise_probability=["a0.h0"] * 4 + ["a0.h2"])
    rows = study.tables()["floor"]
    assert [row["jaccard"] for row in rows] == [1, 1, 1, pytest.approx(6 / 10)]
    assert {(row["samples"], row["examples"], row["found"]) for row in rows} == {(SAMPLES, 2, 1)}
    (found,) = (r for r in study.tables()["metrics"] if r["corruption"] == "noise")
    assert found["within"] == pytest.approx(0.8)
    assert found["between"] == 0
    panel = study.figures()["agreement"]
    assert panel.values[3, 3] == pytest.approx(6 / 10)
    assert panel.values[0, 3] == pytest.approx(16 / 20)
    assert "noise floor" in panel.title


def test_numbers_that_rest_on_equal_examples_are_not_beyond_resampling() -> None:
    joint = made().windows["noise", "logit_diff"].summed
    flat = {by: Windows({n: e if n == 1 else effects([9, 1], "mlp_out", by, window=["0-2", "1-3"])
                         for n, e in joint.items()}, joint) for by in made().windows}  # fmt: skip
    verdict = verdict_of(replace(made(), windows=flat), "Do windows inflate the peak?")
    assert "in 4 of 4 combinations, in 0 of them beyond resampling" in verdict.text
    assert not verdict.depends


# -- the summary and the figures -------------------------------------------------------------------
def test_the_summary_parts_what_depends_from_what_does_not() -> None:
    few = replace(made(), effects={**made().effects, **{
        ("mlp_out", *by): effects([1, 0, 0, 0], "mlp_out", by, layer=range(4))
        for by in made().windows
    }}, parts=(*made().parts, Part("mlp_out")))  # fmt: skip
    text = " ".join(repr(few).split())
    _, _, rest = text.partition("What depends on the choice")
    depends, _, other = rest.partition("What is not shown")
    other = other.partition("What applies")[0]
    for verdict in few.verdicts():
        told = " ".join(verdict.text.split())
        assert (told in depends, told in other) == (verdict.depends, not verdict.depends)
    assert "too few" in other


def test_windows_are_drawn_at_their_middle_layer() -> None:
    panel = made().figures()["windows"].figures[0]
    np.testing.assert_allclose(panel.series["3 joint"], [np.nan, 0.4, 0.1, np.nan])
    np.testing.assert_allclose(panel.series["3 summed"], [np.nan, 0.2, 0.1, np.nan])
    np.testing.assert_allclose(panel.series["single"], [0.1, 0.1, 0, 0])


def test_heads_are_drawn_as_shares_and_the_found_ones_are_marked() -> None:
    panels = made().figures()["heads"].figures
    for panel, (name, effect) in zip(panels, FOUND.values(), strict=True):
        at = int(name[1]), int(name[4])
        assert panel.unit == "share of the gap"
        assert panel.values[at] == pytest.approx(effect / GAP)
        assert np.argwhere(panel.marks).tolist() == [list(at)]


def test_colours_of_shares_end_at_the_whole_gap() -> None:
    """Here a corruption leaves next to no gap: its shares would leave the others white."""
    key = ("z", "noise", "probability")
    tiny = replace(made().effects[key], gap=np.full(2, 0.1))
    found = replace(made(), effects={**made().effects, key: tiny})
    panels = found.figures()["heads"].sheet().panels
    assert [panel.scale for panel in panels] == [(-1, 1)] * 4
    assert min(panel.table.min() for panel in panels) == -90
    assert {panel.scale for panel in made().figures()["heads"].sheet().panels} == {(-0.9, 0.9)}


def test_the_short_summary_says_what_was_found_and_how_sure_it_is() -> None:
    text = html.unescape(made().report())
    told = " ".join(re.sub(r"<[^>]*>", "", text[text.index('id="summary"') :]).split())
    told = told.partition("Contents")[0]
    assert "logit_diff is 12.00 on the clean prompts, and 2.00 on the corrupted ones" in told
    assert "Of all heads a0.h0 gives back most: 0.90 of the gap in logit_diff" in told
    assert "finds 1 head; 2 are found by any of the 4 choices, none by all of them." in told
    assert f"on two of {SAMPLES} disjoint samples" in told
    assert "Jaccard index of 1.00 (1.00); two choices, of 0.50 (0.00 to 1.00)" in told
    assert "The faithfulness of 3 circuits is 0.50 to 0.90" in told
    found = made().verdicts()
    depends = sum(verdict.depends for verdict in found)
    assert f"{depends} of {len(found)} conclusions depend on the choice" in told


def test_agreement_is_one_with_itself_and_drawn_for_every_choice() -> None:
    found, ranks = (made().figures()[name] for name in ("agreement", "ranks"))
    assert found.values.shape == ranks.values.shape == (4, 4)
    assert found.values.diagonal().tolist() == [1] * 4
    assert found.values[0, 2] == 0
    assert ranks.values[1, 3] < 0 < ranks.values[0, 1]
