"""A study is its single experiments, and says where they disagree."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import able, build, model
from gates import ByHand, prompts
from pages import HOSTILE, Page, few, study_page

import circuitkit as ck
from circuitkit.corruptions.constants import mean
from circuitkit.corruptions.gaussian import noise
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.errors import EvaluationError, OutputError
from circuitkit.metrics.answers import logit_diff, probability
from circuitkit.metrics.divergence import kl
from circuitkit.models.transformer_lens import from_module
from circuitkit.patching.attention import attention_to
from circuitkit.patching.joint import patch_together
from circuitkit.patching.nodes import patch_nodes
from circuitkit.patching.windows import patch_windows
from circuitkit.registry import name_of
from circuitkit.workflows.study import cells
from circuitkit.workflows.study.records import Part
from circuitkit.workflows.study.results import Study
from circuitkit.workflows.study.running import study
from circuitkit.workflows.study.tables import compared
from circuitkit.workflows.study.verdicts import twins

METRICS = (logit_diff, probability, kl)
CORRUPTIONS = (counterfactual, partial(noise, seed=1), mean)
PARTS = (Part("z"), Part("mlp_out", ("subject", "end")), Part("resid_pre", ("subject", "end")))


@cache
def made() -> Study:
    """Three corruptions × three metrics on a tiny model."""
    return study(
        model("llama"), able("llama"), metrics=METRICS, corruptions=CORRUPTIONS, parts=PARTS,
        windows=(1, 2), groups={"two": ("a0.h1", "a2.h3")}, only=None, circuits=(counterfactual,),
    )  # fmt: skip


# -- the cells -------------------------------------------------------------------------------------
@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=name_of)
def test_its_effects_are_those_of_the_single_experiments(corruption: Any) -> None:
    whole = made()
    for part in PARTS:
        alone = patch_nodes(
            model("llama"), part.nodes, able("llama"), METRICS, corruption, at=part.at
        )
        for effects in alone:
            found = whole.effects[part.name, name_of(corruption), effects.metric]
            np.testing.assert_array_equal(found.values, effects.values)
            assert found.axes == effects.axes
            assert np.abs(effects.values).max() > 1e-3


def test_noising_is_noising_throughout() -> None:
    given = {"metrics": [logit_diff], "corruptions": [counterfactual], "parts": PARTS[:1]}
    rest: dict[str, Any] = {"windows": (2,), "circuits": (), "only": None, "direction": "noise"}
    groups = {"two": ("a0.h1", "a2.h3")}
    found = study(model("llama"), able("llama"), groups=groups, **given, **rest)
    m, *args = model("llama"), able("llama"), logit_diff
    alone = {
        "z": patch_nodes(m, "z", *args, direction="noise"),
        "windows": patch_windows(m, "mlp_out", *args, sizes=(2,), direction="noise").joint[2],
        "groups": patch_together(m, groups, *args, direction="noise"),
    }
    by = ("counterfactual", "logit_diff")
    whole = {
        "z": found.effects["z", *by], "windows": found.windows[by].joint[2],
        "groups": found.restored[by],
    }  # fmt: skip
    for name, effects in alone.items():
        np.testing.assert_array_equal(whole[name].values, effects.values)
        assert whole[name].direction == "noise"
    denoised = made().effects["z", *by].values
    assert np.abs(denoised - alone["z"].values).max() > 1e-3


def test_its_windows_groups_and_attention_are_those_of_the_single_experiments() -> None:
    whole, m, data = made(), model("llama"), able("llama")
    for corruption in CORRUPTIONS:
        name = name_of(corruption)
        alone = patch_windows(m, "mlp_out", data, logit_diff, corruption, sizes=(1, 2), at="all")
        found = whole.windows[name, "logit_diff"]
        for size in (1, 2):
            for kind in ("joint", "summed"):
                mine, theirs = (getattr(w, kind)[size].values for w in (found, alone))
                np.testing.assert_array_equal(mine, theirs)
        together = patch_together(m, whole.groups, data, logit_diff, corruption)
        np.testing.assert_array_equal(whole.restored[name, "logit_diff"].values, together.values)
        seen = attention_to(m, whole.watched, data, corruption, at=whole.spans).values
        np.testing.assert_array_equal(whole.attention[name], seen)
        assert seen.max() > 0.1
    assert whole.watched == ("a0.h1", "a2.h3")


def test_the_two_runs_are_those_between_which_is_patched() -> None:
    whole = made()
    for (corruption, metric), values in whole.corrupted.items():
        gap = whole.effects["z", corruption, metric].gap
        np.testing.assert_allclose(whole.clean[metric] - values, gap, atol=1e-5)
        assert np.abs(gap).max() > 1e-3


def test_prompts_that_the_model_gets_wrong_are_left_out() -> None:
    data = able("llama")
    wrong = replace(
        data, examples=(*data.examples, *(replace(e, correct=e.wrong, wrong=e.correct)
                                          for e in data.examples[:2])),
    )  # fmt: skip
    settings: dict[str, Any] = {"parts": [Part("z")], "windows": (), "circuits": ()}
    found = study(model("llama"), wrong, metrics=[logit_diff], **settings)
    assert (found.about["examples"], found.about["prompts"]) == (len(data), len(wrong))
    with pytest.raises(EvaluationError, match="above 1/2 on none of 2 prompts"):
        study(model("llama"), replace(wrong, examples=wrong.examples[-2:]), **settings)


def test_one_pair_is_studied_in_sample_and_errors_that_need_two_are_not_known() -> None:
    data = able("gpt2")
    one = replace(data, examples=data.examples[:1])
    settings: dict[str, Any] = {"parts": [Part("z")], "windows": ()}
    found = study(model("gpt2"), one, (logit_diff,), (counterfactual,), **settings)
    assert found.about["in_sample"] is True
    assert found.circuits is not None
    assert found.circuits.in_sample
    assert found.circuits.to_dict()["in_sample"] is True
    texts = [repr(found), repr(found.circuits), str(found.circuits)]
    assert all("in sample" in text for text in texts)
    assert "in sample" in str(found.plot("circuits").title)
    page = " ".join(found.report().split())
    assert "on the same prompts, in sample, under every choice" in page
    assert ">not known</td>" in page
    rows = found.to_frame()
    assert rows[["stderr", "low", "high"]].isna().all().all()
    whole = study(model("gpt2"), data, (logit_diff,), (counterfactual,), **settings)
    assert "in sample" not in repr(whole) + repr(whole.circuits)


def test_prompts_without_a_corrupted_text_are_studied_under_what_needs_none() -> None:
    data = able("gpt2")
    bare = [replace(e, corrupt=e.clean, paired=False, corruptions={}) for e in data.examples[:2]]
    one = replace(data, examples=tuple(bare))
    found = study(model("gpt2"), one, (logit_diff,), parts=[Part("z")], windows=(), circuits=())
    assert found.corruptions == ("mean", "noise")
    assert "2 without a corrupted text" in " ".join(repr(found).split())


@pytest.mark.parametrize("family", ["attention-only"])
def test_a_study_runs_by_its_defaults_on_other_architectures(family: str) -> None:
    found = study(model(family), able(family), only=None, circuits=())
    assert found.corruptions == ("counterfactual", "noise")
    assert bool(found.windows) == model(family).wiring.mlp
    assert all(np.isfinite(e.mean).all() for e in found.effects.values())
    assert "<svg" in found.report()


# -- resuming --------------------------------------------------------------------------------------
def brief(resume: Path, **settings: Any) -> Study:
    given: dict[str, Any] = {"metrics": [logit_diff], "windows": (1,), "circuits": (), "only": None}
    given |= {"parts": [Part("z")], "resume": resume, **settings}
    return study(given.pop("model", model("gpt2")), given.pop("data", able("gpt2")), **given)


def counted(function: Callable[..., Any], calls: list[str], stop: int | None = None) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        if stop is not None and len(calls) >= stop:
            raise KeyboardInterrupt
        calls.append(function.__name__)
        return function(*args, **kwargs)

    return call


def test_a_finished_study_computes_no_cell_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = brief(tmp_path)
    for name in ("patch_nodes", "patch_windows", "patch_together"):
        monkeypatch.setattr(cells, name, counted(getattr(cells, name), [], stop=0))
    again = brief(tmp_path)
    for key, effects in first.effects.items():
        np.testing.assert_array_equal(again.effects[key].values, effects.values)
        assert again.effects[key].axes == effects.axes
    assert repr(again) == repr(first)
    assert again.tables().keys() == first.tables().keys()


def test_a_killed_study_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[str] = []
    after: list[str] = []
    plain = cells.patch_nodes
    monkeypatch.setattr(cells, "patch_nodes", counted(plain, before, stop=1))
    with pytest.raises(KeyboardInterrupt):
        brief(tmp_path)
    monkeypatch.setattr(cells, "patch_nodes", counted(plain, after))
    found = brief(tmp_path)
    assert len(before) == 1
    assert len(after) == 3  # one more part, and the first prompt under both corruptions
    assert repr(found) == repr(brief(tmp_path / "other"))


def test_other_work_has_cells_of_its_own(tmp_path: Path) -> None:
    one = brief(tmp_path)
    two = brief(tmp_path, data=able("gpt2", seed=1))
    three = brief(tmp_path, corruptions=[partial(noise, seed=3)])
    four = brief(tmp_path, direction="noise")
    values = [next(iter(s.effects.values())).values for s in (one, two, three, four)]
    for other in values[1:]:
        assert not np.array_equal(values[0], other)


def test_cells_of_another_model_of_the_same_name_are_refused(tmp_path: Path) -> None:
    brief(tmp_path)
    module = build("gpt2")
    with torch.no_grad():
        module.transformer.h[1].mlp.c_proj.weight.mul_(1.5)
    with pytest.raises(OutputError, match="different model"):
        brief(tmp_path, model=from_module(module, name="gpt2"))


# -- planted effects -------------------------------------------------------------------------------
HEADS, HELP, HURT, RIVAL = 24, 3.0, -10.0, 10.0


def planted() -> ByHand:
    """Eight heads that add 3 to the right logit where there is a signal, one that takes 10, and 15
    that do nothing; the wrong logit is 10 anyway. So the logit difference is 4 with the signal and
    -10 without, where the right answer has next to no probability left to lose."""
    embedding = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    embedding = torch.cat([embedding, torch.zeros(2, HEADS)], dim=1)
    ports, bias = torch.zeros(3 * HEADS, HEADS + 2), torch.ones(3 * HEADS)
    ports[2 * HEADS :, 1], bias[2 * HEADS :] = 1, 0
    readout = torch.zeros(HEADS + 2, 2)
    readout[0, 1] = RIVAL
    readout[2:10, 0], readout[10, 0] = HELP, HURT
    return ByHand(embedding, ports, bias, torch.eye(HEADS + 2)[2:], torch.zeros_like, readout)


def planted_study() -> Study:
    return study(
        planted(), prompts([(0, 1)] * 4), metrics=[logit_diff, probability],
        corruptions=[counterfactual], parts=[Part("z")], windows=(), circuits=(), only=None,
        groups={"all that help": tuple(f"a0.h{h}" for h in range(8))},
    )  # fmt: skip


def test_probability_misses_a_head_that_hurts_where_it_has_nothing_to_lose() -> None:
    found = planted_study()
    name = "counterfactual"
    assert found.clean["logit_diff"].mean() == 8 * HELP + HURT - RIVAL
    assert found.corrupted[name, "logit_diff"].mean() == -RIVAL
    assert found.detections["z", name, "logit_diff"].hurting == ("a0.h8",)
    assert found.detections["z", name, "probability"].hurting == ()
    (row,) = found.tables()["negatives"]
    assert row["missed by probability"] == "a0.h8"
    assert row["bound"] == pytest.approx(-1 / (1 + math.exp(RIVAL)))
    effects = found.effects["z", name, "probability"].mean
    assert row["bound"] <= effects.min() < 0
    assert row["P threshold"] < row["bound"]
    (verdict,) = (v for v in found.verdicts() if "a0.h8" in v.text)
    assert "1 of 1 corruptions (not known whether beyond resampling)" in verdict.text


def test_the_normalised_logit_difference_is_0_at_the_corrupted_and_1_at_the_clean_run() -> None:
    """Here every head adds its own share: they sum to 1, and all that help give 24 of 14."""
    found = planted_study()
    effects = found.effects["z", "counterfactual", "logit_diff"]
    assert effects.normalised.sum() == pytest.approx(1)
    assert effects.normalised[0, 23] == 0
    together = found.restored["counterfactual", "logit_diff"]
    assert together.normalised[0] == pytest.approx(8 * HELP / (8 * HELP + HURT))


# -- tables ----------------------------------------------------------------------------------------
def test_the_tidy_table_has_a_row_for_every_number() -> None:
    whole = made()
    rows = whole.tables()["effects"]
    assert len(rows) == 9 * (12 + 3 * 2 + 3 * 2)
    for row in rows[::17]:
        effects = whole.effects[row["nodes"], row["corruption"], row["metric"]]
        at = effects.names.index(row["node"])
        assert row["effect"] == effects.mean.ravel()[at]
        inside = row["low"] <= row["effect"] <= row["high"]
        assert inside or row["stderr"] == 0  # of equal values the interval is not known
    assert {row["detected"] for row in rows} <= {"", "+", "-"}


def test_every_table_keeps_its_columns() -> None:
    for name, rows in made().tables().items():
        assert {tuple(row) for row in rows} == {tuple(rows[0])}, name


def test_a_table_is_a_frame() -> None:
    found = made().to_frame("detected")
    assert list(found.columns) == list(made().tables()["detected"][0])
    assert len(found) == 9


def test_what_agrees_with_itself_agrees_wholly() -> None:
    for found in made().detections.values():
        row = compared(found, found)
        assert row["jaccard"] == 1
        assert row["spearman"] == pytest.approx(1)
        assert row["flipped"] == ""
        turned = compared(found, replace(found, effects=-found.effects))
        assert turned["spearman"] == pytest.approx(-1)
        assert set(turned["flipped"].split(", ")) - {""} == {
            n for n in found.found if found.effects[found.nodes.index(n)]
        }


def test_noise_is_compared_with_the_replacement_of_the_same_tokens() -> None:
    names = (
        "counterfactual(text='S2')", "noise(draws=2, text='S2')", "counterfactual(text='names')",
        "noise(text='names')", "noise(at=('S2',))", "mean",
    )  # fmt: skip
    assert twins(replace(made(), corruptions=names)) == [
        (names[0], names[1]), (names[2], names[3])
    ]  # fmt: skip


def test_too_few_components_are_told_not_tested() -> None:
    found = study(
        model("gpt2"), able("gpt2"), metrics=[logit_diff], parts=[Part("z"), Part("mlp_out")],
        windows=(), circuits=(), only=None,
    )  # fmt: skip
    assert found.few == {"mlp_out": 3}
    assert found.kinds == ("z",)
    assert any("too few" in verdict.text for verdict in found.verdicts())


# -- pages -----------------------------------------------------------------------------------------
def test_the_page_shows_every_figure_and_verdict() -> None:
    text = study_page()
    assert Page(text).seen.count("svg") == len(few().figures()) == len(made().figures())
    for verdict in few().verdicts():
        assert verdict.text in html.unescape(text)


def test_names_are_text_and_nothing_else() -> None:
    """Tasks, models, roles and groups may come from files."""
    known = few()
    found = replace(
        known, about={**known.about, "task": HOSTILE, "model": HOSTILE},
        roles={"a0.h0": HOSTILE, "a0.h1": "{{ 7 * 7 }}"},
        groups={HOSTILE: next(iter(known.groups.values()))},
    )  # fmt: skip
    text = found.report()
    parsed = Page(text)
    assert not parsed.open
    assert all(link.startswith("#") for link in parsed.links)
    assert not {"script", "img"} & set(parsed.seen)
    assert html.unescape(text).count(HOSTILE) > 4
    assert "{{ 7 * 7 }}" in text


def test_the_page_is_the_same_for_the_same_study() -> None:
    assert few().report() == few().report()


def test_saving_writes_the_page_every_table_and_every_figure(tmp_path: Path) -> None:
    files = few().save(tmp_path)
    names = {path.name for path in files}
    assert names == {path.name for path in tmp_path.iterdir()}
    assert names == {
        "report.html", "circuits.html", *(f"{n}.csv" for n in made().tables()),
        *(f"{n}.svg" for n in made().figures()),
    }  # fmt: skip
    rows = list(csv.DictReader(io.StringIO((tmp_path / "effects.csv").read_text())))
    for row, told in zip(rows, few().tables()["effects"], strict=True):
        assert float(row["effect"]) == pytest.approx(told["effect"], rel=1e-5)


def test_the_summary_tells_the_verdicts_and_each_recommendation_once() -> None:
    text = " ".join(repr(made()).split())
    for verdict in made().verdicts():
        assert " ".join(verdict.text.split()) in text
        if verdict.advice:
            assert text.count(" ".join(verdict.advice.split())) == 1


def test_it_is_at_the_top_level() -> None:
    assert ck.study is study
    assert isinstance(able("gpt2"), Dataset)
