"""A track is what discover and compare find on each model, whoever makes it and however often it is
interrupted."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import able, build, model
from families import dataset as prompts

import circuitkit as ck
from circuitkit.cli.main import main
from circuitkit.engine.checkpoints import Journal, Shard
from circuitkit.errors import (
    ArgumentError,
    CircuitError,
    ModelError,
    UnfinishedError,
)
from circuitkit.graph.circuit import components
from circuitkit.graph.separation import separation
from circuitkit.models.transformer_lens import from_module
from circuitkit.workflows.track.files import to_json
from circuitkit.workflows.track.results import Beside, Track, Tracked
from circuitkit.workflows.track.running import labels_of

GIVEN: dict[str, Any] = {"method": "eap", "edges": 12, "force": True}


@cache
def later(size: float) -> Any:
    """The tiny GPT-2 after a step of so much noise, called by it."""
    module = build("gpt2")
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, weight in sorted(module.named_parameters()):
            weight.add_(size * torch.randn(weight.shape, generator=drawn) * weight.abs().mean())
    return from_module(module, name=f"after {size}")


@pytest.fixture(scope="module")
def found() -> Track:
    """Three models, each a little farther from the first."""
    models = {"one": model("gpt2"), "two": later(0.2), "three": later(0.6)}
    return ck.track(models, able("gpt2"), **GIVEN)


# -- what is found ---------------------------------------------------------------------------------
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_the_same_model_twice_is_the_same_and_nobody_enters_or_leaves(samples: int) -> None:
    twice = {"before": model("gpt2"), "after": model("gpt2")}
    same = ck.track(twice, able("gpt2"), samples=samples, **GIVEN)
    assert same.samples == samples
    for row in same.rows():
        assert (row["with_first"], row["with_last"]) == (1, 1)
        for end in ("first", "last"):
            assert isnan(row[f"{end}_floor"]) == (samples == 1)
            assert row[f"{end}_apart"] == row[f"{end}_floor"] or samples == 1
    assert {*same.moves.values()} == {((), ())}
    assert same.differ("first") == same.differ("last") == []


def test_each_row_is_what_discover_finds(found: Track) -> None:
    sources = (model("gpt2"), later(0.2), later(0.6))
    for one, row, source in zip(found.steps, found.rows(), sources, strict=True):
        alone = ck.discover(source, able("gpt2"), **GIVEN)
        assert one.circuit is not None
        assert (one.circuit.mask() == alone.circuit.mask()).all()
        assert row["faithfulness"] == alone.evaluation.faithfulness
        assert (row["low"], row["high"]) == alone.evaluation.interval()
        assert row["random"] == alone.random
        assert row["accuracy"] == alone.ability.accuracy
        assert (row["edges"], row["heads"]) == (12, len(alone.circuit.heads))
    assert found.about["in_sample"] is True


def halves_by_hand() -> list[list[np.ndarray]]:
    """The circuits of every other prompt of each model, each as the places of its edges."""
    data = able("gpt2")
    dealt = [replace(data, examples=data.examples[i::2]) for i in range(2)]
    return [
        [np.flatnonzero(ck.discovery.eap(source, half).top(12).mask()) for half in dealt]
        for source in (model("gpt2"), later(0.2), later(0.6))
    ]


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    return len(np.intersect1d(one, other)) / len(np.union1d(one, other))


def test_overlaps_and_floors_are_those_of_circuits_of_two_halves(found: Track) -> None:
    by_hand = halves_by_hand()
    for end, other in (("first", by_hand[0]), ("last", by_hand[2])):
        for row, own in zip(found.rows(), by_hand, strict=True):
            same = np.mean([jaccard(own[i], other[i]) for i in range(2)])
            apart = np.mean([jaccard(own[0], other[1]), jaccard(own[1], other[0])])
            floor = (jaccard(*own) + jaccard(*other)) / 2
            assert row[f"with_{end}"] == pytest.approx(same)
            assert row[f"{end}_apart"] == pytest.approx(apart)
            assert row[f"{end}_floor"] == pytest.approx(floor)
            assert isnan(row[f"{end}_p"]), "two samples show nothing"
    assert len({row["with_first"] for row in found.rows()}) == 3, "else nothing is shown"


def test_circuits_are_compared_at_the_size_of_the_end() -> None:
    sources = {"one": model("gpt2"), "two": later(0.6)}
    own = ck.track(sources, able("gpt2"), method="eap", faithfulness=0.6, samples=1, force=True)
    sizes = [row["edges"] for row in own.rows()]
    assert sizes[0] != sizes[1], "else nothing is shown"
    scores = [ck.discovery.eap(source, able("gpt2")) for source in sources.values()]
    for end, size in zip(("first", "last"), sizes, strict=True):
        pair = [np.flatnonzero(one.top(size).mask()) for one in scores]
        other = own.rows()[1 if end == "first" else 0]
        assert other[f"with_{end}"] == pytest.approx(jaccard(*pair))
        assert isnan(other[f"{end}_apart"]), "there is one sample alone"


def test_a_component_is_there_where_the_circuits_of_all_samples_hold_it(found: Track) -> None:
    data = able("gpt2")
    dealt = [replace(data, examples=data.examples[i::2]) for i in range(2)]
    for one, source in zip(found.steps, (model("gpt2"), later(0.2), later(0.6)), strict=True):
        held = [components(ck.discovery.eap(source, half).top(12)) for half in dealt]
        for name in source.wiring.writers[1:]:
            share = np.mean([name in own for own in held])
            assert one.present.get(str(name), 0.0) == share


def made(*shares: dict[str, float] | None) -> Track:
    """A track by hand: what share of samples holds each component; None without a circuit."""
    circuit = ck.Circuit(ck.discovery.eap(model("gpt2"), able("gpt2")).top(3))
    steps = tuple(
        Tracked(str(i), "m", None, 0.9, note="too seldom")
        if own is None
        else Tracked(str(i), "m", None, 0.9, circuit, 0.9, 0.8, 1.0, 0.1, own)
        for i, own in enumerate(shares)
    )
    about = {"task": "t", "metric": "m", "corruption": "c", "method": "e", "rule": "abs",
             "examples": 4, "seed": 0, "samples": [2] * 5, "edges": 3, "faithfulness": None,
             "in_sample": False, "versions": {}}  # fmt: skip
    return Track(about, steps)


def test_who_enters_and_leaves_is_said_by_all_samples() -> None:
    own = made(
        {"a0.h0": 1.0, "a0.h1": 0.5}, None,
        {"a0.h0": 0.5, "a0.h1": 1.0, "m0": 0.5},
        {"a0.h1": 1.0, "m0": 1.0, "a1.h0": 1.0},
        {"a0.h0": 1.0, "a0.h1": 1.0, "a1.h0": 0.5, "m0": 1.0},
    )  # fmt: skip
    assert own.moves == {
        "0": ((), ()), "1": ((), ()), "2": ((), ()),
        "3": (("m0", "a1.h0"), ("a0.h0",)),  # slowly, and at once
        "4": (("a0.h0",), ()),
    }  # fmt: skip
    assert own.rows()[3]["entered"] == "m0 a1.h0"
    assert "3: enter m0 a1.h0; leave a0.h0" in repr(own)


def test_models_that_differ_by_more_than_samples_do_are_named() -> None:
    ends = [Beside(1, 0.9, 0.9, 1.0), Beside(0.2, 0.2, 0.9, 1 / 126), Beside(0.8, 0.8, 0.9, 0.3)]
    own = made({}, {}, {})
    own = replace(own, steps=tuple(
        replace(one, first=end) for one, end in zip(own.steps, ends, strict=True)
    ))  # fmt: skip
    assert own.differ("first") == ["1"]
    assert own.differ("last") == []
    assert own.rows()[1]["first_p"] == 1 / 126
    few = replace(own, about={**own.about, "samples": [2] * 3})
    assert few.differ("first") == []
    assert "cannot show" in repr(few)


def test_of_five_samples_p_is_that_of_their_partitions() -> None:
    data, sources = prompts((6,) * 10), (model("gpt2"), later(0.6))
    own = ck.track(dict(zip("ab", sources, strict=True)), data, samples=5, **GIVEN)
    dealt = [replace(data, examples=data.examples[i::5]) for i in range(5)]
    sets = [
        [{*np.flatnonzero(ck.discovery.eap(source, part).top(12).mask())} for part in dealt]
        for source in sources
    ]
    one, other = own.rows()
    assert other["first_p"] == one["last_p"] == separation(*sets).p
    assert isnan(one["first_p"])
    assert isnan(other["last_p"])


def test_a_model_that_cannot_do_it_has_no_circuit_and_the_track_goes_on(tmp_path: Path) -> None:
    wrong = replace(able("gpt2"), examples=tuple(
        replace(one, correct=one.wrong, wrong=one.correct) for one in able("gpt2").examples
    ))  # fmt: skip
    both = {"one": model("gpt2"), "two": later(0.2)}
    own = ck.track(both, wrong, method="eap", edges=12)
    assert own.circuits == {}
    assert [row["edges"] for row in own.rows()] == [None, None]
    assert "0% of 6 prompts" in own.rows()[0]["note"]
    assert "no circuit of any" in str(own)
    assert own.plot().svg()
    assert ck.Track.load(own.save(tmp_path)[2]).rows()[0]["note"]


# -- one model after the other ---------------------------------------------------------------------
def test_models_are_loaded_one_after_the_other_and_let_go() -> None:
    alive: list[weakref.ref[Any]] = []

    def load(name: Any) -> Any:
        gc.collect()
        assert not [one for one in alive if one() is not None], "the last one is still there"
        own = from_module(build("gpt2"), name=str(name))
        alive.append(weakref.ref(own))
        return own

    ck.track(["a", "b"], able("gpt2"), load=load, **GIVEN)
    assert len(alive) == 2


def test_another_wiring_is_refused_before_any_work_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"one": model("gpt2"), "other": model("llama")}
    with pytest.raises(ModelError, match=r"'other' has a different wiring .* from 'one'"):
        ck.track(models, able("gpt2"), **GIVEN)
    monkeypatch.setattr("circuitkit.workflows.track.cells.prepare_halves", None)
    models = {"llama": model("llama"), "one": model("gpt2")}
    with pytest.raises(TypeError):  # at the first
        ck.track(models, able("gpt2"), **GIVEN)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([], "and 0 were given"), (["mini"], "and 1 were given"), ("mini", "track has models="),
        (["mini", "mini"], "two models are called 'mini'"), (["mini", 3], "not a loaded model"),
        ({"a": "mini", 1: "mini"}, "track has models="), ({"": "mini", "b": "mini"}, "a label"),
    ],
)  # fmt: skip
def test_what_is_no_track_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, models: Any, words: str
) -> None:
    monkeypatch.setattr("circuitkit.workflows.track.running.load_model", None)
    with pytest.raises(ArgumentError, match=words):
        ck.track(models, "ioi")
    with pytest.raises(ArgumentError, match="standard input can be read only once"):
        ck.track(["mini", "other"], "-")


def test_models_are_called_by_the_last_part_of_their_names() -> None:
    assert [*labels_of(["x/step-1", "x/step-2/"])] == ["step-1", "step-2"]
    assert [*labels_of(["a/last", "b/last"])] == ["a/last", "b/last"]
    assert [*labels_of(["EleutherAI/pythia-70m@step1", model("gpt2")])] == [
        "pythia-70m@step1", "gpt2",
    ]  # fmt: skip


# -- runs that are interrupted, and many processes -------------------------------------------------
def three(load: Callable[[Any], Any] | None = None) -> dict[str, Any]:
    """Three models on the disk, as far as a track is concerned."""
    sizes = {"zero": 0.0, "some": 0.2, "more": 0.6}
    return {"models": [*sizes], "load": load or (lambda name: later(sizes[name]))}


def files(own: Track, folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in own.save(folder)]


def said(own: Track) -> str:
    """All but the figure, which is made of it."""
    return to_json(own.about, [vars(one) for one in own.steps])


def test_a_killed_run_goes_on_to_equal_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = files(ck.track(data=able("gpt2"), **three(), **GIVEN), tmp_path / "whole")
    put, loaded = Journal.put, []

    def killed(own: Journal, *block: Any) -> None:
        put(own, *block)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            ck.track(data=able("gpt2"), **three(), **GIVEN, resume=tmp_path / "pieces")

    def load(name: Any) -> Any:
        loaded.append(name)
        return three()["load"](name)

    again = ck.track(data=able("gpt2"), **three(load), **GIVEN, resume=tmp_path / "pieces")
    assert loaded == ["some", "more"]
    assert files(again, tmp_path / "again") == whole
    loaded.clear()
    given = {**three(load), **GIVEN, "models": ["zero", "some"], "edges": 13, "samples": 1}
    ck.track(data=able("gpt2"), **given, resume=tmp_path / "pieces")
    assert len(loaded) == 2, "pieces of another track were taken up"


def test_shards_merge_to_what_one_run_gives(tmp_path: Path) -> None:
    whole = ck.track(data=able("gpt2"), **three(), **GIVEN)
    for index in (1, 0):
        with pytest.raises(UnfinishedError, match=r"made . of 3 blocks of track"):
            ck.track(data=able("gpt2"), **three(), **GIVEN,
                     resume=Shard(tmp_path / "pieces", index, 2))  # fmt: skip
    merged = ck.track(data=able("gpt2"), **three(), **GIVEN,
                      resume=Shard(tmp_path / "pieces", None))  # fmt: skip
    assert said(merged) == said(whole)


def test_a_checkpoint_whose_files_changed_is_done_again(tmp_path: Path) -> None:
    loaded = []

    def load(name: Any) -> Any:
        loaded.append(Path(name).name)
        return later(float((Path(name) / "model.safetensors").read_text()))

    places = [tmp_path / name for name in ("early", "late")]
    for place, size in zip(places, ("0.0", "0.2"), strict=True):
        place.mkdir()
        (place / "model.safetensors").write_text(size)
    for _ in range(2):
        ck.track(places, able("gpt2"), load=load, resume=tmp_path / "pieces", **GIVEN)
    (places[1] / "README.md").write_text("which says nothing of the weights")
    (places[1] / "model.safetensors").write_text("0.6")
    ck.track(places, able("gpt2"), load=load, resume=tmp_path / "pieces", **GIVEN)
    assert loaded == ["early", "late", "late"]


# -- ways to look at it ----------------------------------------------------------------------------
def test_what_is_saved_is_read_and_says_the_same(found: Track, tmp_path: Path) -> None:
    written = found.save(tmp_path / "out")
    assert [path.name for path in written] == ["track.csv", "track.svg", "track.json"]
    again = ck.Track.load(tmp_path / "out")
    assert str(again.to_dict()) == str(found.to_dict())
    assert repr(again) == repr(found)
    assert said(again) == written[2].read_text()
    assert [*again.circuits] == ["one", "two", "three"]
    held = json.loads(written[2].read_text())
    held["models"][0]["accuracy"] = 0.5
    written[2].write_text(json.dumps(held))
    with pytest.raises(CircuitError, match="digest"):
        ck.Track.load(tmp_path / "out")
    assert ck.Track.load(tmp_path / "out", force=True).rows()[0]["accuracy"] == 0.5
    with pytest.raises(CircuitError, match="there is no file"):
        ck.Track.load(tmp_path / "gone.json")


def test_the_table_the_figure_and_the_summary_show_every_model(found: Track) -> None:
    assert [*found.to_frame()["model"]] == ["one", "two", "three"]
    assert "one to" not in str(found)
    assert str(found).startswith("own data over 3 models: 12 edges, faithfulness ")
    assert "in sample" in str(found)
    for label in ("one", "two", "three"):
        assert f"\n{label} " in repr(found)
    svg = found.plot().svg()
    for words in ("Size", "Faithfulness", "Overlap on different prompts", "share of samples"):
        assert words in svg
    assert "<svg" in found._repr_html_()


def test_the_command_follows_mini_and_a_longer_one_takes_its_models_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["track", "ioi", "--method", "eap", "--edges", "9", "--examples", "4", "--quiet"]
    assert main([*asked, "--models", "a=mini", "b=mini"]) == 0
    said = capsys.readouterr().out
    assert "ioi over 2 models" in said
    place = Path("tracks/ioi-a-b-eap-edges9-examples4")
    assert (place / "track.csv").read_text().startswith("model,accuracy,edges,heads,mlps,")
    assert main([*asked, "--models", "mini", "mini"]) == 2
    assert "two models are called 'mini'; write LABEL=mini" in capsys.readouterr().err

    def loaded(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded again")

    monkeypatch.setattr("circuitkit.cli.tracking.load_model", loaded)
    more = ["--models", "a=mini", "b=mini", "c=mini", "-o", str(place)]
    assert main([*asked, *more]) == 0
    assert len(ck.Track.load(place).steps) == 3
