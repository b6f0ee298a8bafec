"""What a feature is said to be: where it is active, and which logits it moves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from coders import random_autoencoders

import circuitkit as ck
from circuitkit.cli.main import main
from circuitkit.engine.record import record
from circuitkit.errors import DictionaryError
from circuitkit.features import Dictionary, save
from circuitkit.features.describing import describe, parse_feature, read_labels
from circuitkit.features.sites import site_values
from circuitkit.features.texts import read_texts


@pytest.fixture(scope="module")
def subject() -> tuple[Any, Dictionary, Any]:
    """mini, a random dictionary of its last MLP, and texts."""
    model = ck.load("mini")
    rng = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng) / shape[-1] ** 0.5

    own = Dictionary(3, draw(6, 128), draw(6) - 0.5, draw(6, 128), draw(128), model="mini")
    return model, own, read_texts(model, "ioi", examples=12).seen


def test_a_feature_is_shown_where_it_is_most_active(subject: tuple[Any, Dictionary, Any]) -> None:
    model, own, texts = subject
    (found,) = describe(model, own, [4], texts, top=3, batch_size=5)
    every = []
    for text in texts:
        tokens = torch.tensor([text])
        run = record(model, model.start(tokens, torch.ones_like(tokens).bool()))
        every.append(own.encode(site_values(model, run, 3, "mlp_in"))[0, :, 4])
    active = torch.cat(every)
    assert found.tokens == len(active)
    assert found.share == pytest.approx(float((active > 0).float().mean()))
    assert 0 < found.share < 1
    assert found.largest == pytest.approx(float(active.max()), rel=1e-4)
    # Texts that are alike up to where the feature is largest are shown once.
    each = {
        text[: int(v.argmax()) + 1]: float(v.max()) for text, v in zip(texts, every, strict=True)
    }
    best = sorted(each.values(), reverse=True)[:3]
    peaks = [one.values[one.peak] for one in found.shown]
    assert peaks == pytest.approx(best, rel=1e-4)
    for one in found.shown:
        assert len(one.tokens) == len(one.values)
        assert "[" in str(one)
        assert f"{one.values[one.peak]:.2f}" in str(one)


def test_the_logits_of_a_feature_are_their_slopes(subject: tuple[Any, Dictionary, Any]) -> None:
    model, own, texts = subject
    (found,) = describe(model, own, [4], texts, top=1)
    shown = found.shown[0]
    text = next(t for t in texts if tuple(map(str, model_pieces(model, t))) == shown.tokens)
    tokens = torch.tensor([text])
    run = record(model, model.start(tokens, torch.ones_like(tokens).bool()))
    final = run.final[0, shown.peak].double()

    def logits(amount: float) -> torch.Tensor:
        x = (final + amount * own.decoder[4].double()).float()
        return model.unembed(x[None])[0].double()

    slope = (logits(0.5) - logits(-0.5)) / 1.0
    slope = slope - slope.mean()
    ((token, value),) = found.raised
    assert value == pytest.approx(float(slope.max()), rel=0.05)
    assert token == model_pieces(model, [int(slope.argmax())])[0]
    ((_, least),) = found.lowered
    assert least == pytest.approx(float(slope.min()), rel=0.05)


def model_pieces(model: Any, ids: Any) -> list[str]:
    from circuitkit.data.tokens import view

    return view(model).pieces(ids)


def test_features_of_heads_write_through_their_projection(
    subject: tuple[Any, Dictionary, Any],
) -> None:
    from circuitkit.features.describing import _direction

    model, own, texts = subject
    heads = replace(own, reads="attn_z", writes="attn_z", layer=1, targets=())
    z = own.decoder[2].view(1, 1, 4, 32)
    zero = torch.zeros_like(z)
    want = (model.attention_out(1, z)[0] - model.attention_out(1, zero)[0])[0, 0]
    torch.testing.assert_close(_direction(model, heads, 2), want, atol=1e-5, rtol=1e-4)
    inside = replace(own, reads="mlp_in", writes="mlp_in")
    assert _direction(model, inside, 2) is None
    (silent,) = describe(model, replace(own, encoder_bias=own.encoder_bias - 99), [1], texts[:2])
    assert (silent.share, silent.shown, silent.raised) == (0, (), ())
    assert "nowhere active" in repr(silent)


@pytest.mark.parametrize("name", ["m3", "m3.417", "x3.f4", "m.f4", "m3.fx", "m3.h4"])
def test_what_is_not_a_features_name_is_refused(name: str) -> None:
    with pytest.raises(DictionaryError, match=r"write m3\.f417"):
        parse_feature(name)


def test_labels_come_from_a_table(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("feature,label,supernode\nm3.f4,a second name,names\nm0.f1,start,\n")
    assert read_labels(table) == {
        "m3.f4": {"label": "a second name", "supernode": "names"},
        "m0.f1": {"label": "start", "supernode": ""},
    }
    table.write_text("name,label\nm3.f4,x\n")
    with pytest.raises(DictionaryError, match="columns 'feature' and 'label'"):
        read_labels(table)
    with pytest.raises(DictionaryError, match="cannot be read"):
        read_labels(tmp_path / "none.csv")


def test_the_command_shows_features(
    subject: tuple[Any, Dictionary, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, own, _ = subject
    save([own], tmp_path)
    table = tmp_path / "labels.csv"
    table.write_text("feature,label\nm3.f4,a second name\n")
    command = ["features", "show", "m3.f4", "m3.f0", "--dictionaries", str(tmp_path), "--examples",
               "12", "--top", "2", "--labels", str(table)]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.startswith("m3.f4 (a second name): active at ")
    assert "directly raises" in said
    assert main([*command, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["features"][0]
    assert (first["feature"], first["label"], len(first["shown"])) == ("m3.f4", "a second name", 2)
    for wrong, sentence in (("m3.f9", "there is no m3.f9"), ("m2.f1", "no dictionary of layer 2"),
                            ("a3.f1", "no dictionary of a3"), ("f1", "not the name")):  # fmt: skip
        assert main(["features", "show", wrong, "--dictionaries", str(tmp_path)]) == 2
        assert sentence in capsys.readouterr().err


# -- what comes with the package -------------------------------------------------------------------
def test_the_transcoders_of_mini_explain_prompts_that_they_have_not_seen() -> None:
    from circuitkit.engine.inputs import prepare
    from circuitkit.features import load
    from circuitkit.features.loading import MINI
    from circuitkit.features.quality import carried_by_features, measure
    from circuitkit.features.rows import collect, fresh
    from circuitkit.features.sites import require_fitting

    model, own = ck.load("mini"), load("mini")
    assert [(one.prefix, one.kind, one.k) for one in own] == [
        (f"m{layer}", "transcoder", 16) for layer in range(4)
    ]
    assert sum(file.stat().st_size for file in MINI.rglob("*") if file.is_file()) <= 2.5e6
    texts: list[tuple[int, ...]] = []
    for task in ("ioi", "docstring", "gendered_pronoun", "induction", "greater_than"):
        texts += read_texts(model, task, examples=24, seed=1000).seen
    marks, _ = fresh(texts, set())
    places = [(layer, "mlp_in", "mlp_out") for layer in range(4)]
    rows = collect(model, texts, marks, places)
    for one, place in zip(own, places, strict=True):
        require_fitting(one, model)
        found = measure(one, rows[place])
        assert found.unexplained <= 0.12
        assert found.active == pytest.approx(16, abs=0.5)
    _, data, metric, _ = prepare(model, "ioi", examples=16, seed=1000)
    carried = carried_by_features(model, own, data, metric)
    assert carried.features > 0.9 > carried.nothing


def test_the_command_prints_how_sparse_an_mlp_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random_autoencoders(tmp_path)
    ends = ["--dictionaries", str(tmp_path / "mlp_in"), "--outputs", str(tmp_path / "mlp_out")]
    few = ["--examples", "4", "--tokens", "9", "--quiet"]
    assert main(["features", "jacobian", "m1", *ends, *few, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["jacobians"]
    one, other = (
        ck.features.load(tmp_path / site, layers=[1])[0] for site in ("mlp_in", "mlp_out")
    )
    model = ck.load("mini")
    texts = read_texts(model, "ioi", examples=4)
    own = ck.features.jacobian_sparsity(
        model, one, other, [*texts.seen, *texts.held], tokens=9, name="ioi"
    )
    assert found == own.to_dict()
    assert own.to_frame()["features"].tolist() == ["together", "another token", "random"]
    assert main(["features", "jacobian", "m1", *ends, *few]) == 0
    assert repr(own).splitlines()[0] in capsys.readouterr().out


@pytest.mark.parametrize(("words", "said"), [
    (["m1.f3", "--outputs", "x"], "'m1.f3' is not an MLP; write m3"),
    (["m1"], "give --outputs, autoencoders of mlp_out"),
    (["m1", "--outputs", "mini"], "are not around one MLP"),
])  # fmt: skip
def test_a_jacobian_of_something_else_is_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["features", "jacobian", *words, "--quiet", "--examples", "4"]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
