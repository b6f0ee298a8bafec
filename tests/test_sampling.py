"""Disjoint samples of the prompts: other ones, as many as are shown, or parts of what there is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from families import able, model

import circuitkit as ck
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.engine.inputs import as_data
from circuitkit.errors import DataError
from circuitkit.evaluation import sampling
from circuitkit.evaluation.sampling import parts, samples
from circuitkit.metrics.answers import logit_diff
from circuitkit.patching.nodes import patch_nodes
from circuitkit.workflows.study.records import Part
from circuitkit.workflows.study.results import Study
from circuitkit.workflows.study.running import study

MINI = ck.load("mini")


def texts(data: Iterable[Dataset]) -> list[set[tuple[int, ...]]]:
    return [{example.clean for example in one.examples} for one in data]


def disjoint(several: list[set[tuple[int, ...]]]) -> bool:
    return len(set().union(*several)) == sum(map(len, several))


def test_a_task_gives_other_prompts_and_the_first_sample_is_the_one_at_hand() -> None:
    own = as_data(MINI, "ioi", examples=6, seed=3)
    found = samples(MINI, "ioi", own, 3, seed=3)
    assert found[0] is own
    assert [len(one) for one in found] == [6] * 3
    assert disjoint(texts(found))
    assert samples(MINI, "ioi", own, 1, seed=3) == ()


@pytest.mark.parametrize(("most", "size"), [(60, 12), (30, 6), (11, 3)])
def test_a_task_with_too_few_prompts_is_parted(
    most: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes so many: those of half as many samples, and so on, are in equal parts."""

    def drawn(*given: Any, examples: int, **options: Any) -> Dataset:
        if examples > most:
            raise DataError("ask for fewer")
        return as_data(*given, examples=examples, **options)

    own = as_data(MINI, "ioi", examples=12)
    monkeypatch.setattr(sampling, "as_data", drawn)
    found = samples(MINI, "ioi", own, 4, seed=0)
    assert (found[0] is own) == (most == 60)
    assert [len(one) for one in found] == [size] * 4
    assert disjoint(texts(found))


def test_a_file_is_parted_where_it_is_used_whole(tmp_path: Path) -> None:
    place = tmp_path / "pairs.csv"
    task = ck.make_task("ioi", MINI, n=12)
    task.to_frame()[["clean", "corrupt", "correct", "wrong"]].to_csv(place, index=False)
    own = as_data(MINI, str(place))
    found = samples(MINI, str(place), own, 3, seed=0)
    assert [len(one) for one in found] == [4] * 3
    assert disjoint(texts(found))
    assert set().union(*texts(found)) == texts([own])[0]
    few = as_data(MINI, str(place), examples=4)
    more = samples(MINI, str(place), few, 3, seed=0)
    assert more[0] is few
    assert disjoint(texts(more))
    assert samples(MINI, str(place), own, 7, seed=0) == ()


def test_examples_with_the_same_tokens_are_in_one_part() -> None:
    data = able("gpt2")
    twice = replace(data, examples=data.examples + data.examples)
    found = parts(twice, 2)
    assert disjoint(texts(found))
    assert sum(map(len, found)) == len(twice)
    assert parts(twice, len(data)) == ()


def test_a_study_patches_the_components_on_every_sample(tmp_path: Path) -> None:
    given = {"parts": [Part("z"), Part("resid_pre", ("end",))], "windows": (), "circuits": ()}
    made = partial_study(tmp_path, given)
    (key,) = made.again
    assert key == ("z", "counterfactual", "logit_diff")
    own = as_data(MINI, "greater_than", examples=4)
    for sample, found in zip(samples(MINI, "greater_than", own, 3, seed=0), made.again[key],
                             strict=True):  # fmt: skip
        alone = patch_nodes(MINI, "z", sample, logit_diff, counterfactual)
        assert alone.values == pytest.approx(found.values, abs=1e-6)
    assert made.again[key][0] is made.effects[key]
    assert made.about["samples"] == [4, 4, 4]
    assert "noise floor from 3 disjoint samples of 4" in " ".join(repr(made).split())
    assert repr(partial_study(tmp_path, given)) == repr(made)


def partial_study(resume: Path, given: dict[str, object]) -> Study:
    return study(
        MINI, "greater_than", ("logit_diff",), ("counterfactual",), examples=4, only=None,
        samples=3, resume=resume, groups={}, **given,
    )  # fmt: skip


def test_vary_says_how_far_one_choice_agrees_with_itself() -> None:
    m, data = model("gpt2"), able("gpt2")
    found = ck.vary(m, data, ["logit_diff"], ["zero", "mean"], edges=20, granularities=["edge"])
    assert found.sizes == (len(data) // 2,) * 2
    for row in found.floor():
        one, other = found.again[str(row["circuit"])]
        assert row["jaccard"] == ck.compare(one, other).edges.jaccard
        assert row["samples"] == 2
    (pair,) = found.overlap()
    assert pair["within"] == pytest.approx(sum(r["jaccard"] for r in found.floor()) / 2)
    assert 0 < pair["between"] <= 1
    assert "one choice on 2 samples of" in repr(found)
    alone = ck.vary(
        m, data, ["logit_diff"], ["zero", "mean"], edges=20, granularities=["edge"], samples=1
    )
    assert alone.again == {}
    assert "one choice on" not in repr(alone)
    assert alone.rows() == found.rows()


def test_a_discovered_circuit_says_how_far_those_of_other_samples_overlap(tmp_path: Path) -> None:
    one, other = (
        ck.discover(MINI, "greater_than", method="eap", edges=30, examples=6, seed=seed)
        for seed in (0, 5)
    )
    sure = [found.certainty.agreement for found in (one, other) if found.certainty]
    one.circuit.save(tmp_path / "one.json")
    found = ck.compare(tmp_path / "one.json", other.circuit)
    assert found.floors == pytest.approx(sure)
    assert found.differ == (found.edges.jaccard < min(sure))
    assert f"overlap by about {sure[0]:.3f} (left)" in repr(found)
