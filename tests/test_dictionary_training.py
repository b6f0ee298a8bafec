"""Training dictionaries: which rows, what is learned, and how good it is said to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import model as family
from torch import Tensor

import circuitkit as ck
from circuitkit.engine.checkpoints import Journal
from circuitkit.engine.inputs import prepare
from circuitkit.engine.record import record
from circuitkit.errors import BudgetError, DataError, DictionaryError, OutputError
from circuitkit.features import Dictionary, load, rows, training
from circuitkit.features.quality import Losses, carried_by_features, measure
from circuitkit.features.rows import Rows, collect, fresh
from circuitkit.features.texts import padded, read_texts
from circuitkit.features.training import Progress, Recipe, train
from circuitkit.workflows import dictionaries

TEXTS = [(5, 6, 7, 8, 9, 10), (5, 6, 7), (11, 12), (5, 6, 30, 31, 32)]
PLACE = (1, "mlp_in", "mlp_out")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- rows ------------------------------------------------------------------------------------------
def test_a_prefix_that_texts_share_is_marked_once() -> None:
    known: set[int] = set()
    marks, count = fresh(TEXTS, known)
    assert [mark.int().tolist() for mark in marks] == [
        [1, 1, 1, 1, 1, 1], [0, 0, 0], [1, 1], [0, 0, 1, 1, 1]
    ]  # fmt: skip
    assert count == 11
    assert fresh(TEXTS, known)[1] == 0
    assert fresh(TEXTS, set(), 4)[1] == 4


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_no_row_comes_from_padding(name: str) -> None:
    """The rows of padded batches are those of each text run alone; trained on padding, a dictionary
    looks as good as any other."""
    model = family(name)
    marks = [torch.ones(len(text), dtype=torch.bool) for text in TEXTS]
    places = [PLACE, (2, "resid_post", "resid_post")]
    together = collect(model, TEXTS, marks, places, batch_size=4)
    order = [i for numbers, *_ in padded(TEXTS, 4) for i in numbers]
    alone = [collect(model, [TEXTS[i]], [marks[i]], places) for i in order]
    for place in places:
        assert len(together[place]) == sum(map(len, TEXTS))
        want = Rows(torch.cat([one[place].x for one in alone]),
                    torch.cat([one[place].y for one in alone]))  # fmt: skip
        torch.testing.assert_close(together[place].x, want.x, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together[place].y, want.y, atol=1e-5, rtol=1e-4)
    assert together[places[1]].x is together[places[1]].y


def test_a_mask_that_is_longer_than_its_text_does_not_reach_into_padding() -> None:
    numbers, tokens, mask = next(padded(TEXTS, 8))
    assert [TEXTS[i] for i in numbers] == sorted(TEXTS, key=len)
    assert mask.sum(1).tolist() == sorted(map(len, TEXTS))
    assert not bool(tokens[~mask].any())


def test_rows_that_took_long_are_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, runs = family("gpt2"), 0
    marks = [torch.ones(len(text), dtype=torch.bool) for text in TEXTS]
    places = [PLACE, (2, "resid_post", "resid_post")]

    def counted(*given: Any) -> Any:
        nonlocal runs
        runs += 1
        return record(*given)

    monkeypatch.setattr(rows, "record", counted)
    journal = Journal(tmp_path, {"format": "circuitkit.rows"})
    for worth, expected in ((1e9, 2), (0.0, 4), (0.0, 4)):  # runs so far, of two batches each
        monkeypatch.setattr(rows, "WORTH", worth)
        found = collect(model, TEXTS, marks, places, batch_size=2, journal=journal)
        assert runs == expected
        for place, want in collect(model, TEXTS, marks, places, batch_size=2).items():
            assert torch.equal(found[place].x, want.x)
            assert torch.equal(found[place].y, want.y)
        runs = expected
        assert found[places[1]].x is found[places[1]].y


# -- training --------------------------------------------------------------------------------------
def planted(n: int = 4000, d: int = 12, f: int = 16, skip: bool = False) -> tuple[Rows, Tensor]:
    """Rows of which y is a sum of a few known directions, each where x has another known one; and
    with a skip, a linear function of x beside them."""
    rng = generator(3)
    reads, writes = (
        torch.nn.functional.normalize(torch.randn(f, d, generator=rng), dim=1) for _ in range(2)
    )
    on = torch.rand(n, f, generator=rng) < 0.08
    size = on * (0.5 + torch.rand(n, f, generator=rng))
    x, y = size @ reads, size @ writes
    linear = torch.randn(d, d, generator=rng) / d**0.5
    return Rows(x + 3, y - 1 + (x @ linear if skip else 0)), writes


def test_planted_features_are_found() -> None:
    rows, writes = planted()
    own = train(rows, PLACE, Recipe(24, 3, steps=500, batch=256, rate=1e-2))
    found = torch.nn.functional.normalize(own.decoder, dim=1) @ writes.T
    best = found.max(0).values
    assert (best > 0.9).float().mean() >= 0.75
    assert measure(own, rows).unexplained < 0.2


def test_a_skip_explains_what_is_linear() -> None:
    rows, _ = planted(skip=True)
    recipe = Recipe(24, 2, steps=60, batch=256, rate=1e-2)
    plain, with_skip = (train(rows, PLACE, replace(recipe, skip=s)) for s in (False, True))
    assert (plain.kind, with_skip.kind) == ("transcoder", "skip_transcoder")
    assert measure(with_skip, rows).unexplained < 0.7 * measure(plain, rows).unexplained


def test_what_is_said_while_training_is_what_is_measured() -> None:
    """The weights take back the scale of what is read and written."""
    rows, _ = planted(512)
    said: list[tuple[Progress, Dictionary]] = []
    recipe = Recipe(24, 3, steps=40, batch=512)
    train(rows, PLACE, recipe, say=lambda one, current: said.append((one, current())))
    assert [one.step for one, _ in said] == [20, 40]
    before, own = said[0]
    found = measure(own, rows)
    assert found.active == pytest.approx(3, abs=0.2)
    assert found.unexplained == pytest.approx(before.unexplained, rel=0.1)


def test_a_killed_training_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVED", 0)
    monkeypatch.setattr(training, "SAID", 5)
    rows, _ = planted(1000)
    recipe = Recipe(24, 3, True, steps=30, batch=128)

    def kill(progress: Progress, _: Any) -> None:
        if progress.step == 20:
            raise KeyboardInterrupt

    whole = train(rows, PLACE, recipe)
    journal = Journal(tmp_path, {"format": "circuitkit.dictionary"})
    with pytest.raises(KeyboardInterrupt):
        train(rows, PLACE, recipe, journal=journal, say=kill)
    steps: list[int] = []
    again = train(rows, PLACE, recipe, journal=journal, say=lambda p, _: steps.append(p.step))
    assert steps == [19, 20, 25, 30]
    for name, value in whole.tensors().items():
        assert torch.equal(value, again.tensors()[name]), name
    assert train(rows, PLACE, recipe, journal=journal).encoder.equal(whole.encoder)


def test_silent_features_learn_from_what_is_left() -> None:
    rows, _ = planted(1000)
    changed = {}
    for silent in (0, training.SILENT + 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            run = training._Training(rows, Recipe(200, 1, batch=100), same=False)
        run.state.silent[:] = silent
        before = run.state.weights["decoder"].clone()
        x, _ = run._batch()
        pre = torch.nn.functional.linear(x, run.state.weights["encoder"])
        used = torch.zeros(200, dtype=torch.bool)
        used[pre.argmax(1)] = True
        run.take_step()
        assert run.state.progress().silent == (200 if silent else 0)
        moved = (run.state.weights["decoder"].detach() != before).any(1)
        changed[silent] = int((moved & ~used).sum())
        assert torch.equal(run.state.silent == 0, used)
    assert changed[0] == 0
    assert changed[training.SILENT + 1] > 20


@pytest.mark.parametrize(
    ("recipe", "place", "said"),
    [
        (Recipe(24, 25), PLACE, "25 of 24 features"),
        (Recipe(24, 3, batch=5000), PLACE, "4,000 rows, of which 5,000"),
        (Recipe(24, 3, True, batch=10), (1, "resid_mid", "resid_mid"), "would explain everything"),
    ],
)
def test_what_cannot_be_trained_is_refused(recipe: Recipe, place: Any, said: str) -> None:
    with pytest.raises(DictionaryError, match=said):
        train(planted()[0], place, recipe)
    same = torch.ones(100, 4)
    with pytest.raises(DictionaryError, match="all rows are alike"):
        train(Rows(same, same), place, Recipe(8, 2, batch=10))


# -- quality ---------------------------------------------------------------------------------------
def neurons(model: Any) -> list[Dictionary]:
    """The MLPs of a compiled program as dictionaries: its neurons, which are ReLUs."""
    d = model.d_model
    return [
        Dictionary(layer, w_in.T, torch.zeros(w_in.shape[1]), w_out, torch.zeros(d))
        for layer, (w_in, w_out) in enumerate(zip(model.w_in, model.w_out, strict=True))
        if bool(w_out.any())
    ]


def test_a_dictionary_that_is_the_mlp_loses_nothing_and_an_empty_one_all() -> None:
    program = ck.rasp.named("first_occurrence")
    model, data = ck.rasp.compile_program(program), program.data(12)
    _, data, metric, _ = prepare(model, data, "logit_diff")
    exact = neurons(model)
    empty = [replace(own, decoder=torch.zeros_like(own.decoder)) for own in exact]
    assert exact
    found = carried_by_features(model, exact, data, metric)
    assert found.features == pytest.approx(1, abs=1e-5)
    assert found.nothing < 0.9
    assert carried_by_features(model, empty, data, metric).features == found.nothing
    assert (found.skip, found.both) == (found.nothing, found.features)
    skip = [replace(own, skip=torch.randn(model.d_model, model.d_model)) for own in empty]
    skips = carried_by_features(model, skip, data, metric)
    assert skips.features == pytest.approx(found.nothing, abs=1e-5)
    assert skips.both == pytest.approx(skips.skip, abs=1e-5)
    assert skips.skip != pytest.approx(found.nothing, abs=1e-2)
    texts = [example.clean for example in data.examples]
    marks = [torch.ones(len(text), dtype=torch.bool) for text in texts]
    for own in exact:
        place = (own.layer, "mlp_in", "mlp_out")
        rows = collect(model, texts, marks, [place])[place]
        assert measure(own, rows).unexplained < 1e-9
        assert Losses(model, texts).recovered(own) in (None, pytest.approx(1, abs=1e-5))


def test_a_skip_that_is_what_linear_features_do_carries_the_same() -> None:
    """With a bias by which every neuron is on at every token, the features are a linear map."""
    program = ck.rasp.named("first_occurrence")
    model, data = ck.rasp.compile_program(program), program.data(12)
    _, data, metric, _ = prepare(model, data, "logit_diff")
    linear = [replace(own, encoder_bias=own.encoder_bias + 1e3) for own in neurons(model)]
    skips = [
        replace(own, decoder=torch.zeros_like(own.decoder), skip=own.decoder.T @ own.encoder)
        for own in linear
    ]
    features = carried_by_features(model, linear, data, metric).features
    assert carried_by_features(model, skips, data, metric).skip == pytest.approx(features, abs=1e-3)


def test_the_loss_that_is_recovered() -> None:
    model = family("gpt2")
    rng = generator(1)
    texts = [tuple(torch.randint(0, 60, (9,), generator=rng).tolist()) for _ in range(6)]
    texts.append((1, 2, 3))
    own = Dictionary(1, torch.randn(5, 32), torch.zeros(5), torch.zeros(5, 32), torch.zeros(32))
    logits = [model.native(torch.tensor([t]), torch.ones(1, len(t)).bool()).logits for t in texts]
    clean = sum(float(torch.nn.functional.cross_entropy(
        one[0, :-1], torch.tensor(t[1:]), reduction="sum")) for one, t in zip(
        logits, texts, strict=True))  # fmt: skip
    from circuitkit.features.quality import _loss

    total = 0.0
    for _, tokens, mask in padded(texts, 4):
        total += _loss(model, record(model, model.start(tokens, mask)).final, tokens, mask)
    assert total == pytest.approx(clean, rel=1e-4)
    assert Losses(model, texts).recovered(own) in (None, pytest.approx(0, abs=1e-6))
    stream = replace(own, reads="resid_post", writes="resid_post")
    assert Losses(model, texts).recovered(stream) is None
    heads = replace(own, reads="attn_z", writes="attn_z")  # the output bias is written all the same
    recovered = Losses(model, texts).recovered(heads)
    assert recovered is None or abs(recovered) < 0.5
    random = replace(own, decoder=torch.randn(5, 32))
    shared = Losses(model, texts)  # of which each has to be what it is alone
    for one in (own, random, heads, random):
        assert shared.recovered(one) == Losses(model, texts).recovered(one)


# -- texts -----------------------------------------------------------------------------------------
def test_texts_of_tasks_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ck.load("mini")
    found = read_texts(model, "ioi", examples=20)
    assert len(found.seen) + len(found.held) <= 40
    assert not set(found.seen) & set(found.held)
    assert found == read_texts(model, "ioi", examples=20)
    file = tmp_path / "story.txt"
    file.write_text("Mary and John went to the store. " * 30)
    cut = read_texts(model, str(file), length=20)
    assert {len(text) for text in (*cut.seen, *cut.held)} <= set(range(8, 21))
    file.write_text("Mary")
    with pytest.raises(DataError, match="give more"):
        read_texts(model, str(file))
    with pytest.raises(DataError, match="cannot be read as text"):
        read_texts(model, str(tmp_path / "missing.txt"))

    import datasets

    def rows(name: str, split: str, streaming: bool) -> Any:
        assert (name, split) == ("some/set", "valid")
        return iter([{"story": "Mary and John went to the store and the park. " * 4}] * 5)

    monkeypatch.setattr(datasets, "load_dataset", rows)
    hub = read_texts(model, "hub:some/set:valid:story", length=12)
    assert hub.seen
    with pytest.raises(DataError, match="cannot be read"):
        read_texts(model, "hub:some/set:valid:other")


# -- the whole -------------------------------------------------------------------------------------
SMALL: dict[str, Any] = {"features": 48, "k": 4, "steps": 6, "examples": 24, "batch": 64}


def test_dictionaries_are_trained_saved_and_loaded(tmp_path: Path) -> None:
    model = ck.load("mini")
    found = ck.train_dictionaries(model, ["ioi", "induction"], layers=[2, 0], **SMALL)
    assert [own.prefix for own in found.dictionaries] == ["m2", "m0"]
    assert [row["texts"] for row in found.measured] == ["ioi", "induction", "all"] * 2
    assert all(0 < row["unexplained"] < 5 for row in found.measured)
    assert found.to_dict()["k"] == 4
    assert len(found.to_frame()) == 6
    assert "unexplained" in repr(found)
    written = found.save(tmp_path / "out")
    assert {path.name for path in written} == {"m0", "m2", "dictionaries.csv", "training.csv"}
    for own in load(tmp_path / "out"):
        same = next(one for one in found.dictionaries if one.layer == own.layer)
        assert torch.equal(own.decoder, same.decoder)
        assert own.model == "mini"
    with pytest.raises(OutputError, match="holds a finished run"):
        found.save(tmp_path / "out")
    (tmp_path / "out" / "m2" / "mine.txt").write_text("kept")
    (tmp_path / "out" / "other").mkdir()
    replace(found, dictionaries=found.dictionaries[1:]).save(tmp_path / "out", overwrite=True)
    assert [own.prefix for own in load(tmp_path / "out")] == ["m0"]
    assert [path.name for path in (tmp_path / "out" / "m2").iterdir()] == ["mine.txt"]
    assert (tmp_path / "out" / "other").is_dir()


def test_layers_that_do_not_fit_together_are_done_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = ck.load("mini")
    whole = ck.train_dictionaries(model, "ioi", layers=[0, 1], kind="skip_transcoder", **SMALL)
    corpus = whole.about["rows"] + 2000
    monkeypatch.setattr(dictionaries, "room_of", lambda *_: 1.6 * 4 * corpus * 256)
    apart = ck.train_dictionaries(model, "ioi", layers=[0, 1], kind="skip_transcoder", **SMALL)
    for one, other in zip(whole.dictionaries, apart.dictionaries, strict=True):
        assert torch.equal(one.encoder, other.encoder)
    monkeypatch.setattr(dictionaries, "room_of", lambda *_: 1000.0)
    with pytest.raises(BudgetError, match="give fewer rows"):
        ck.train_dictionaries(model, "ioi", layers=[0], **SMALL)
    with pytest.raises(DictionaryError, match="has no layer 9"):
        ck.train_dictionaries(model, "ioi", layers=[9], **SMALL)
