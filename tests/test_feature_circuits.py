"""Circuits of features over a dataset: how features are chosen, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coders import coders_of_mini, random_coders
from families import as_batch, dataset, distance, model
from test_splitting import CHOSEN, by_hand
from test_tracing import coders, skip

from circuitkit.cli.main import main
from circuitkit.corruptions.constants import zero
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.discovery.attribution import eap
from circuitkit.engine.inputs import Inputs, as_data
from circuitkit.engine.model import Native
from circuitkit.engine.record import answer, at_answers
from circuitkit.errors import DictionaryError, ScoresError
from circuitkit.evaluation.faithfulness import evaluate
from circuitkit.evaluation.masks import random_masks
from circuitkit.features.choosing import feature_bases, neuron_bases, scored, strongest
from circuitkit.features.describing import read_labels
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.holding import evaluate_held
from circuitkit.features.loading import load
from circuitkit.features.profiles import active_at, supernodes_of
from circuitkit.features.splitting import split_as, split_into_features, split_into_neurons
from circuitkit.graph.circuit import Circuit
from circuitkit.graph.scores import Scores
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.loading import load as load_model
from circuitkit.truth.rasp import compile_program, programs
from circuitkit.workflows.features import discover_features
from circuitkit.workflows.replay import replay
from circuitkit.workflows.results import Discovery


def inputs_of(family: str) -> Inputs:
    return Inputs(model(family), dataset(), logit_diff, counterfactual)


def out_of(m: Any, scores: Scores) -> dict[str, float]:
    """The sum of the scores of each writer's out-edges."""
    return {w: float(scores.values[row].sum()) for w, row in m.wiring.writer.items()}


# -- choosing --------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_a_features_score_is_that_of_its_edges(family: str) -> None:
    inputs = inputs_of(family)
    m, made = inputs.model, coders(inputs.model, skip=skip(inputs.model))
    found = scored(inputs, feature_bases(m, made))
    every = dict.fromkeys(range(m.wiring.layers), tuple(range(20)))
    split = split_into_features(m, made, every)
    each = out_of(split, eap(*inputs._replace(model=split)))
    for name, values in found.items():
        expected = [each[f"{name}.f{i}"] for i in range(20)]
        assert distance(values, expected) < 1e-4


def test_a_neurons_score_is_that_of_its_edges() -> None:
    inputs = inputs_of("gpt2")
    m, layers = inputs.model, range(inputs.model.wiring.layers)
    found = scored(inputs, neuron_bases(m, layers))
    split = split_into_neurons(m, dict.fromkeys(layers, (4, 0, 9)))
    each = out_of(split, eap(*inputs._replace(model=split)))
    for name, values in found.items():
        expected = [each[f"{name}.n{i}"] for i in (4, 0, 9)]
        assert distance(values[[4, 0, 9]], expected) < 1e-4


def test_the_strongest_are_taken_over_all_layers() -> None:
    found = strongest({"m0": torch.tensor([0.1, -3.0]), "r2": torch.tensor([2.0, 0.5, -0.2])}, 3)
    assert found == {"m0": (1,), "r2": (0, 1)}


@torch.no_grad()
def test_the_features_of_a_compiled_program_are_found() -> None:
    """With the program's own neurons for features, scattered among others that do nothing, nothing
    is left over, and the features that carry the task are among the neurons."""
    p = programs()["modular_sum"]()
    m = compile_program(p)
    data = p.data(24)
    made, planted = [], {}
    for layer in range(m.wiring.layers):
        w_in, w_out = m.w_in[layer].T, m.w_out[layer]
        if not w_in.numel():
            continue
        rng = torch.Generator().manual_seed(layer)
        idle = torch.randn(5, w_in.shape[1], generator=rng).to(w_in)
        encoder = torch.cat([idle, w_in])
        bias = torch.cat([torch.full((5,), -1e3), torch.zeros(len(w_in))]).to(w_in)
        decoder = torch.cat([torch.randn(5, w_out.shape[1], generator=rng).to(w_out), w_out])
        made.append(Dictionary(layer, encoder, bias, decoder, w_out.new_zeros(w_out.shape[1])))
        planted[f"m{layer}"] = {*range(5, len(encoder))}
    inputs = Inputs(m, data, logit_diff, counterfactual)
    found = scored(inputs, feature_bases(m, made))
    assert any(bool((values != 0).any()) for values in found.values())
    for name, values in found.items():
        assert {*values.nonzero().flatten().tolist()} <= planted[name]
    n = sum(int((values != 0).sum()) for values in found.values())
    split = split_into_features(m, made, strongest(found, n))
    rows = [row for row, w in enumerate(split.wiring.writers) if w.part in ("rest", "error")]
    keep = split.wiring.legal.copy()
    keep[rows] = False
    assert evaluate(split, keep, *inputs[1:]).faithfulness == pytest.approx(1, abs=1e-4)


# -- errors held -----------------------------------------------------------------------------------
def errors_by_hand(m: Any, run: Native, made: list[Dictionary]) -> dict[str, torch.Tensor]:
    """What is left over of each MLP in a run of the model itself, by its own hooks."""
    return {
        f"m{own.layer}.error": run.mlps[own.layer] - own(m.mlp_in(own.layer, x))
        for own, x in zip(made, run.mlp_in, strict=True)
    }


@pytest.mark.parametrize("kind", ["topk", "skip"])
@torch.no_grad()
def test_errors_that_are_held_are_those_of_the_clean_run(kind: str) -> None:
    whole = model("gpt2")
    extra = {"topk": {"activation": "topk", "k": 4}, "skip": {"skip": skip(whole)}}[kind]
    made = coders(whole, **extra)
    m = split_into_features(whole, made, dict.fromkeys(range(3), CHOSEN))
    inputs = Inputs(m, dataset((9,) * 6), logit_diff, counterfactual)
    batch = as_batch(inputs.data)
    clean, corrupt = (whole.native(x, batch.mask) for x in (batch.clean, batch.corrupt))
    errors, others = (errors_by_hand(whole, run, made) for run in (clean, corrupt))
    reference = at_answers(batch, clean.logits)

    def value(logits: torch.Tensor) -> torch.Tensor:
        return logit_diff(logits, reference, batch)

    assert distance(evaluate_held(inputs, m.wiring.legal).circuit, value(reference)) < 1e-5
    # with nothing kept, the errors alone are not those of the corrupted run
    final = corrupt.final + sum(errors[name] - others[name] for name in errors)
    found = evaluate_held(inputs, m.wiring.legal & False)
    assert distance(found.circuit, value(answer(whole, batch, final))) < 1e-5
    assert distance(found.circuit, found.nothing) > 1e-3
    assert found.edges == 0
    (keep,) = random_masks(m.wiring, 60, n=1, seed=4)
    held = evaluate_held(inputs, keep)
    assert distance(held.circuit, value(by_hand(m, batch, keep, made, errors))) < 1e-5
    plain = evaluate(m, keep, *inputs[1:])
    assert distance(held.circuit, plain.circuit) > 1e-3
    assert held.nothing.tolist() == plain.nothing.tolist()
    assert held.edges <= plain.edges
    zeros = inputs._replace(corruption=zero)
    assert evaluate_held(zeros, m.wiring.legal).faithfulness == pytest.approx(1, abs=1e-4)


# -- supernodes ------------------------------------------------------------------------------------
def test_features_with_like_out_edges_at_like_places_are_grouped() -> None:
    m = split_into_features(model("gpt2"), coders(model("gpt2")), {0: (1, 2, 3, 4, 5)})
    values = np.zeros(m.wiring.shape)
    edges = {1: (2.0, 1.0), 2: (4.0, 2.0), 3: (-2.0, -1.0), 4: (2.0, 1.0), 5: (1.0, -2.0)}
    for number, (into_v, into_logits) in edges.items():
        row = m.wiring.writer[f"m0.f{number}"]
        values[row, m.wiring.reader["a2.h1.v"]] = into_v
        values[row, -1] = into_logits
    scores = Scores(m.wiring, values)
    at = {f"m0.f{number}": {"S2": 1.0} for number in edges} | {"m0.f4": {"S2": 0.6, "end": 0.8}}
    assert supernodes_of(scores, at) == {"m0 at S2": ("m0.f2", "m0.f1")}
    (near,) = supernodes_of(scores, at, alike=0.6).values()  # the cosine of the places of f4
    assert {*near} == {"m0.f1", "m0.f2", "m0.f4"}
    one_place = supernodes_of(scores, {name: {"": 1.0} for name in at})
    assert {*one_place["m0"]} == {"m0.f1", "m0.f2", "m0.f4"}
    never = supernodes_of(scores, at | {"m0.f1": {}})
    assert never == {}


def test_where_a_feature_is_active_is_counted_by_hand() -> None:
    mini, own = load_model("mini"), load("mini")[0]
    data = as_data(mini, "ioi", examples=3)
    (found,) = active_at(mini, [own], ["m0.f253"], data).values()
    sums: dict[str, float] = {}
    for example in data.examples:
        tokens = torch.tensor([example.clean])
        run = mini.native(tokens, torch.ones_like(tokens).bool())
        values = own.encode(mini.mlp_in(0, run.mlp_in[0]))[0, :, 253].tolist()
        for at, value in enumerate(values):
            names = [n for n, (a, b) in example.spans.items() if a <= at < b] or ["elsewhere"]
            for name in names:
                sums[name] = sums.get(name, 0.0) + value
    size = sum(value**2 for value in sums.values()) ** 0.5
    assert found == pytest.approx({name: x / size for name, x in sums.items() if x}, rel=1e-4)


# -- the workflow ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def found() -> Discovery:
    return discover_features(
        load_model("mini"), "ioi", method="eap", features=20, edges=80, examples=4
    )


def test_the_headline_is_the_circuit_without_what_features_leave_over(found: Discovery) -> None:
    report, mini = found.features, load_model("mini")
    assert report is not None
    split = split_as(mini, found.circuit.graph)
    keep = found.circuit.mask()
    left = [row for row, w in enumerate(split.wiring.writers) if w.part in ("rest", "error")]
    keep[left] = False
    circuit = found.scores.circuit(found.circuit.mask())
    circuit.graph.update(found.circuit.graph)
    data = as_data(split, "ioi", circuit, examples=4)
    assert evaluate(split, keep, data).faithfulness == pytest.approx(report.alone.faithfulness)
    kept = report.kept[3].evaluation.faithfulness
    assert kept == pytest.approx(found.evaluation.faithfulness, abs=1e-6)
    (held,) = [own for own in report.kept if own.what == "the circuit, error held at clean"]
    (cut,) = [own for own in report.kept if own.what == "the circuit, error cut"]
    assert held.features == report.kept[3].features
    assert 0 < abs(held.evaluation.faithfulness - cut.evaluation.faithfulness) < 0.1
    assert report.alone.edges == int(split.wiring.alive(keep).sum()) < 80
    named = {own.name for own in report.described}
    assert named == {name for name in found.circuit.nodes if ".f" in name}
    assert sum(report.chosen.values()) == 20
    assert report.of == 4096


def test_prompts_are_drawn_once_and_what_cannot_be_asked_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from circuitkit.workflows import discover as whole
    from circuitkit.workflows import features as own

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("prompts are drawn")

    monkeypatch.setattr(whole, "prepare_halves", refused)
    how: dict[str, Any] = {"method": "eap", "features": 4, "examples": 2}
    mini = load_model("mini")
    assert discover_features(mini, "ioi", edges=20, **how).features is not None
    monkeypatch.setattr(own, "prepare_halves", refused)
    with pytest.raises(ScoresError, match="not both"):
        discover_features(mini, "ioi", edges=20, faithfulness=0.9, **how)


def test_a_circuit_of_features_is_saved_evaluated_and_replayed(
    found: Discovery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = found.save(tmp_path / "run")
    assert "features.csv" in [path.name for path in written]
    groups = found.features.supernodes if found.features else {}
    (file,) = [path for path in written if path.name == "supernodes.csv"]
    said = {name: own["supernode"] for name, own in read_labels(file).items()}
    assert said == {name: key for key, names in groups.items() for name in names}
    assert len(said) > 1
    circuit = Circuit.load(written[0])
    assert circuit.graph["dictionaries"] == "mini"
    assert main(["evaluate", str(written[0]), "--examples", "4", "--json", "--quiet"]) == 0
    assert "faithfulness" in capsys.readouterr().out
    assert replay(circuit).same


def test_other_dictionaries_are_refused(found: Discovery, tmp_path: Path) -> None:
    random_coders(tmp_path)
    with pytest.raises(DictionaryError, match="has no feature"):
        split_as(load_model("mini"), found.circuit.graph, str(tmp_path))
    nameless = {**found.circuit.graph}
    del nameless["dictionaries"]
    with pytest.raises(DictionaryError, match="of which dictionaries"):
        split_as(load_model("mini"), nameless)
    with pytest.raises(DictionaryError, match="no transcoders"):
        discover_features(model("gpt2"), dataset())


def test_work_with_other_dictionaries_is_told_apart() -> None:
    from circuitkit.engine.weights import digest

    mini = load_model("mini")
    chosen = {0: (1, 2)}
    digests = [
        digest(split_into_features(mini, made, chosen)) for made in (coders_of_mini(), load("mini"))
    ]
    assert len({*digests, digest(mini)}) == 3


def test_what_does_not_go_together_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for others in (["--test"], ["--positions"], ["--level", "node"]):
        assert main(["discover", "ioi", "--features", "4", *others]) == 2
    assert main(["discover", "ioi", "--dictionaries", "mini"]) == 2
    assert "how many features" in capsys.readouterr().err
