"""What a checkpoint does not hold is refused by name, and not made up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from damaged import REFUSED, TAKEN, Damaged, damaged_models, outcome
from families import build, dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import circuitkit
from circuitkit.cli.main import main
from circuitkit.engine import weights
from circuitkit.engine.inputs import as_data
from circuitkit.errors import ModelError, OutputError
from circuitkit.graph.digests import WeightsWarning
from circuitkit.models.loading import MINI
from circuitkit.models.transformer_lens import from_module

Weights = dict[str, Tensor]
TINY = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "vocab_size": 2048, "max_position_embeddings": 32,
}  # fmt: skip


def lacking(weights: Weights) -> Weights:
    return {name: x for name, x in weights.items() if "layers.1.mlp.up_proj" not in name}


def renamed(weights: Weights) -> Weights:
    return {name.replace("self_attn.q_proj", "self_attn.query"): x for name, x in weights.items()}


def compiled(weights: Weights) -> Weights:
    return {f"_orig_mod.{name}": x for name, x in weights.items()}


def foreign(weights: Weights) -> Weights:
    return {"something.else": torch.ones(2)}


def narrower(weights: Weights) -> Weights:
    return {name: x[:-1] if "embed_tokens" in name else x for name, x in weights.items()}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A tiny Llama with mini's tokenizer, as transformers saves it."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**TINY)).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MINI / name, tmp_path / name)
    return tmp_path


def change(directory: Path, damage: Callable[[Weights], Weights]) -> None:
    file = directory / "model.safetensors"
    save_file(damage(load_file(file)), file, metadata={"format": "pt"})


def configure(directory: Path, **values: object) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lacking, "lacks model.layers.1.mlp.up_proj.weight"),
        (renamed, "lacks model.layers.0.self_attn.q_proj.weight and 1 more"),
        (compiled, "lacks lm_head.weight"),
        (foreign, "lacks lm_head.weight"),
        (narrower, "embed_tokens"),
    ],
)
def test_weights_that_are_not_the_models_are_refused_by_name(
    directory: Path, damage: Callable[[Weights], Weights], words: str
) -> None:
    assert circuitkit.load(directory).wiring.layers == 2
    change(directory, damage)
    with pytest.raises(ModelError, match=words):
        circuitkit.load(directory)


@pytest.mark.parametrize("layers", [1, 3])
def test_another_number_of_layers_is_refused(directory: Path, layers: int) -> None:
    configure(directory, num_hidden_layers=layers)
    words = "has in addition model.layers.1" if layers == 1 else r"lacks model.layers.2"
    with pytest.raises(ModelError, match=words):
        circuitkit.load(directory)


def cut_short(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])


def emptied(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"")


def of_another_type(directory: Path) -> None:
    configure(directory, hidden_size="many")


def without_a_tokenizer_that_opens(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{")


def no_pickle(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"not a pickle")


@pytest.mark.parametrize(
    "damage", [cut_short, emptied, of_another_type, without_a_tokenizer_that_opens, no_pickle]
)
def test_a_damaged_directory_is_one_sentence(
    directory: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(directory)
    assert main(["check", str(directory)]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("circuitkit: the model")
    assert "\n" not in said


def test_tied_heads_are_not_missed(tmp_path: Path) -> None:
    shutil.copytree(MINI, tmp_path / "tied")
    assert circuitkit.load(tmp_path / "tied").wiring == circuitkit.load("mini").wiring


# -- a few hundred damages -------------------------------------------------------------------------
@pytest.mark.parametrize("damaged", list(damaged_models(0))[::4], ids=lambda one: one.name)
def test_a_damaged_model_is_refused_or_gives_the_numbers_of_its_files(
    damaged: Damaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = outcome(damaged.write(tmp_path))
    assert damaged.expected in (None, found)
    assert not (tmp_path / "was-executed").exists()


def test_damages_are_of_both_kinds_and_repeat() -> None:
    one, two, other = (list(damaged_models(seed)) for seed in (3, 3, 4))
    assert [case.name for case in one] == [case.name for case in two]
    assert [case.name for case in one] != [case.name for case in other]
    assert {case.expected for case in one} == {REFUSED, TAKEN, None}
    assert len(one) > 150


def test_a_module_without_values_is_refused() -> None:
    with torch.device("meta"):
        module = LlamaForCausalLM(LlamaConfig(**TINY))
    with pytest.raises(ModelError, match="is on the meta device"):
        circuitkit.load(module)


# -- a digest --------------------------------------------------------------------------------------
def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TINY))


def test_a_digest_is_taken_once_and_again_after_the_weights_have_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, taken = tiny(), []
    model = circuitkit.load(module)
    monkeypatch.setattr(weights, "_sampled", lambda x: taken.append(1) or bytes(x.numel() % 7))
    first = weights.digest(model)
    count = len(taken)
    assert count == len(model.tensors())
    assert weights.digest(model) == first
    assert len(taken) == count
    with torch.no_grad():
        module.lm_head.weight.mul_(2)
    weights.digest(model)
    assert len(taken) == 2 * count


def test_a_digest_tells_weights_apart_and_not_types() -> None:
    module = tiny()
    found = [weights.digest(circuitkit.load(module, dtype=kind))
             for kind in (None, "bfloat16", "float64")]  # fmt: skip
    with torch.no_grad():
        module.model.layers[1].mlp.up_proj.weight[0, 0] += 1
    assert len({*found}) == 1
    assert weights.digest(circuitkit.load(module)) not in found


def test_scores_and_circuits_carry_the_digest_and_another_models_is_noticed(
    tmp_path: Path,
) -> None:
    data = dataset()
    model = from_module(build("llama"), name="llama")
    module = build("llama")
    with torch.no_grad():
        module.lm_head.weight[0] += 1
    other = from_module(module, name="llama")
    scores = circuitkit.discovery.eap(model, data)
    assert scores.about["weights"] == weights.digest(model)
    assert circuitkit.Scores.load(scores.save(tmp_path / "s.safetensors")).about == scores.about
    circuit = scores.top(20)
    for measured in (scores, circuit):
        as_data(model, data, measured)
        with pytest.warns(WeightsWarning, match="found on 'llama' with other weights"):
            as_data(other, data, measured)
    again = circuitkit.discovery.eap(other, data)
    theirs = again.top(20)
    with pytest.warns(WeightsWarning, match="different weights, on 'llama' and 'llama'"):
        circuitkit.compare(circuit, theirs)
    assert circuitkit.compare(circuit, circuit).edges.jaccard == 1


def test_blocks_of_other_weights_are_refused_at_once(tmp_path: Path) -> None:
    data, module = dataset(), build("llama")
    circuitkit.discovery.exact(
        from_module(module, name="llama"), data, edges=["a0.h1->m2"], resume=tmp_path
    )
    with torch.no_grad():
        module.lm_head.weight[0] += 1
    other = from_module(module, name="llama")
    with pytest.raises(OutputError, match="a different model with the same name 'llama': the dig"):
        circuitkit.discovery.exact(other, data, edges=["a0.h1->m2"], resume=tmp_path)


def test_cells_of_a_benchmark_are_those_of_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(MINI, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    given = ["random"], ["model:ioi"], ["counterfactual"]
    settings = {"seeds": 1, "examples": 4, "resume": tmp_path / "cells"}
    for earlier in (0, 1):
        assert circuitkit.bench(*given, **settings).about["earlier"] == earlier
    change(tmp_path / "model", lambda held: {k: x * 1.5 for k, x in held.items()})
    assert circuitkit.bench(*given, **settings).about["earlier"] == 0


def test_a_dtype_in_which_weights_overflow_is_refused() -> None:
    module = LlamaForCausalLM(LlamaConfig(**TINY))
    with torch.no_grad():
        module.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6
    with pytest.raises(ModelError, match=r"up_proj.weight' .* nan or infinity \(float16\)"):
        circuitkit.load(module, dtype="float16")
