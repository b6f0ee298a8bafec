"""A replay finds what the file says, and sees whatever has been changed in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build

import circuitkit as ck
from circuitkit.cli.main import main
from circuitkit.discovery import eap
from circuitkit.engine.weights import digest, parameters
from circuitkit.errors import ArgumentError, CircuitError, CircuitkitError
from circuitkit.graph.circuit import Circuit, from_json, to_json
from circuitkit.models.transformer_lens import from_module
from circuitkit.workflows.replay import Replay

pytestmark = pytest.mark.own_mini

MODEL = ck.load("mini")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"edges": 20},
    "target": {"faithfulness": 0.5, "method": "eap"},
    "default size": {"method": "eap_ig(steps=2)"},
    "verified": {"edges": 20, "verify": 9, "seed": 3, "rule": "greedy"},
    "refined": {"edges": 20, "verify": 9, "refine": 8},
    "ordered": {"method": "acdc(threshold=3.0)", "orders": 2},
    "other names": {"edges": 20, "metric": "probability", "corruption": "noise(seed=2)"},
    "batches": {"edges": 20, "batch_size": 3, "corruption": "mean"},
}


@cache
def found(name: str = "plain") -> str:
    """The file of a discovery."""
    return to_json(ck.discover(MODEL, "ioi", examples=6, **OPTIONS[name]).circuit)


def changed(change: Callable[[dict[str, Any]], object], name: str = "plain") -> Circuit:
    """The circuit with something changed in its file."""
    held = json.loads(found(name))
    change(held)
    return from_json(json.dumps(held), force=True)


def differing(again: Replay) -> set[str]:
    return {row.quantity for row in again.rows if row.differs}


# -- the same --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", OPTIONS)
def test_a_fresh_discovery_is_the_same(name: str) -> None:
    again = ck.replay(from_json(found(name)), model=MODEL)
    assert again.same, repr(again)
    assert not differing(again)
    assert again.off < 1e-5
    assert str(again).startswith("ioi on mini: the same ")
    assert "differ" not in repr(again)


def test_the_prompts_are_those_of_the_task_that_was_given() -> None:
    """A task has a seed of its own beside that of the discovery, and an odd number of prompts."""
    task = ck.make_task("greater_than", MODEL, n=11, seed=7)
    circuit = ck.discover(MODEL, task, edges=20, method="eap", seed=2).circuit
    assert (circuit.graph["seed"], circuit.graph["asked"]["seed"]) == (7, 2)
    assert ck.replay(circuit, model=MODEL).same


def test_in_sample_prompts_are_measured_in_sample() -> None:
    data = ck.Dataset.of(ck.make_task("ioi", MODEL, n=5), MODEL)
    circuit = ck.discover(MODEL, data, edges=20, method="eap").circuit
    again = ck.replay(circuit, model=MODEL)
    assert again.same
    assert again.found.circuit.graph["in_sample"]


def test_a_file_of_prompts_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    ck.make_task("ioi", MODEL, n=8).to_frame()[["clean", "corrupt", "correct", "wrong"]].to_csv(
        file, index=False
    )
    circuit = ck.discover(MODEL, file, edges=20, method="eap", examples=3).circuit
    assert ck.replay(circuit, model=MODEL).same
    file.write_text("\n".join(file.read_text().splitlines()[:6]) + "\n")
    assert "prompts" in differing(ck.replay(circuit, model=MODEL))


# -- what differs ----------------------------------------------------------------------------------
def drop_edge(held: dict[str, Any]) -> None:
    held["edges"].pop()


def double_weight(held: dict[str, Any]) -> None:
    held["edges"][0]["weight"] *= 2


RESULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "edge": (drop_edge, "new edges"),
    "weight": (double_weight, "weights"),
    "seed": (lambda held: held["attributes"].update(seed=1), "prompts"),
    "seed of the rest": (
        lambda held: held["attributes"]["asked"].update(seed=1), "faithfulness, random"
    ),
    "size": (lambda held: held["attributes"]["asked"].update(edges=12), "missing edges"),
    "faithfulness": (
        lambda held: held["attributes"]["faithfulness"].update(value=0.5), "faithfulness"
    ),
    "undefined": (
        lambda held: held["attributes"]["faithfulness"].update(value=None), "faithfulness"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
def test_a_change_of_the_result_is_seen(name: str) -> None:
    change, quantity = RESULTS[name]
    again = ck.replay(changed(change), model=MODEL)
    assert not again.same
    assert quantity in differing(again)
    frame = again.to_frame()
    assert list(frame) == ["quantity", "recorded", "now", "differs"]
    assert frame.set_index("quantity").differs[quantity]
    assert str(again).startswith("ioi on mini: different ")
    assert "\n" not in str(again)


ENVIRONMENT: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "version": (lambda held: held["attributes"]["versions"].update(torch="2.0"), "torch"),
    "weights": (lambda held: held["attributes"].update(weights="0" * 64), "model weights"),
    "device": (lambda held: held["attributes"]["asked"].update(device="cuda"), "device"),
}


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_a_change_of_what_it_was_found_with_is_told_beside_the_same_result(name: str) -> None:
    change, quantity = ENVIRONMENT[name]
    again = ck.replay(changed(change), model=MODEL)
    assert again.same
    assert differing(again) == {quantity}
    assert f"different {quantity}" in str(again)


def test_which_edges_are_missing_and_new_is_told() -> None:
    def rename(held: dict[str, Any]) -> None:
        held["edges"][-1]["edge"] = "input->a0.h0<q>"

    lost = json.loads(found())["edges"][-1]["edge"]
    again = ck.replay(changed(rename), model=MODEL)
    assert (again.missing, again.new) == (("input->a0.h0<q>",), (lost,))
    assert "missing edges: input->a0.h0<q>" in repr(again)
    told = again.to_dict()
    assert (told["missing"], told["new"], told["same"]) == ([*again.missing], [*again.new], False)
    json.dumps(told)


def test_the_weights_of_another_model_are_noticed() -> None:
    other = ck.load("mini")
    with torch.no_grad():
        other.tensors()["transformer.h.2.mlp.c_fc.weight"].mul_(1.5)
    again = ck.replay(from_json(found()), model=other)
    assert {"model weights", "weights"} <= differing(again)
    assert not again.same


# -- what is refused -------------------------------------------------------------------------------
@pytest.mark.parametrize("key", ["metric", "corruption", "method", "task"])
def test_code_that_a_file_names_is_not_run(key: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "mine.py").write_text(f"open({str(ran)!r}, 'w').close()\ndef rank(*a, **k): 1/0\n")
    name = f"{tmp_path / 'mine.py'}:rank"
    circuit = changed(lambda held: held["attributes"].update({key: name}))
    with pytest.raises(CircuitError, match="runs only if you name it yourself"):
        ck.replay(circuit, model=MODEL)
    assert not ran.exists()


@pytest.mark.parametrize("colon", [":", "\\x3a", "\\\\x3a", "\\N{COLON}"])
def test_code_that_a_setting_of_a_method_names_is_not_run(colon: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "mine.py").write_text(f"open({str(ran)!r}, 'w').close()\ndef rank(*a, **k): 1/0\n")
    place = f"{tmp_path / 'mine.py'}{colon}rank"
    for name in (f"ensemble(members=['{place}'])",
                 f"""ensemble(members=['eap', 'ensemble(members=["{place}"])'])"""):  # fmt: skip
        circuit = changed(lambda held, name=name: held["attributes"].update(method=name))
        with pytest.raises(CircuitError, match="runs only if you name it yourself"):
            ck.replay(circuit, model=MODEL)
    assert not ran.exists()


def test_code_that_you_name_is_run() -> None:
    circuit = ck.discover(MODEL, "ioi", mine, edges=20, examples=4, method=own).circuit
    with pytest.raises(CircuitError, match="its metric is 'mine'"):
        ck.replay(circuit, model=MODEL)
    with pytest.raises(CircuitError, match="its method is 'own'"):
        ck.replay(circuit, model=MODEL, metric=mine)
    assert ck.replay(circuit, model=MODEL, metric=mine, method=own).same


def mine(logits: Any, reference: Any, batch: Any) -> Any:
    return 2 * ck.metrics.logit_diff(logits, reference, batch)


def own(model: Any, data: Any, metric: Any, corruption: Any) -> Any:
    return eap(model, data, metric, corruption)


def test_prompts_of_your_own_are_asked_for() -> None:
    prompts = list(ck.make_task("ioi", MODEL, n=8))
    circuit = ck.discover(MODEL, prompts[:4], edges=20, unseen=prompts[4:], method="eap").circuit
    with pytest.raises(CircuitError, match="data= in Python"):
        ck.replay(circuit, model=MODEL)
    with pytest.raises(CircuitError, match="unseen="):
        ck.replay(circuit, model=MODEL, data=prompts[:4])
    assert ck.replay(circuit, model=MODEL, data=prompts[:4], unseen=prompts[4:]).same


@pytest.mark.parametrize(
    "key", ["model", "task", "seed", "examples", "method", "metric", "corruption", "rule", "asked",
            "versions", "faithfulness"],
)  # fmt: skip
@pytest.mark.parametrize("value", [None, [1]])
def test_what_is_missing_is_named(key: str, value: object) -> None:
    def spoil(held: dict[str, Any]) -> None:
        del held["attributes"][key]
        if value:
            held["attributes"][key] = value

    with pytest.raises(CircuitError, match=f"does not say its {key}|'{key}' in 'attributes'"):
        ck.replay(changed(spoil), model=MODEL)


@pytest.mark.parametrize(
    ("place", "value"),
    [("examples", 10**30), ("examples", -1), ("asked.measured", 10**30), ("asked.dtype", "qint8"),
     ("asked.dtype", "load"), ("asked.batch_size", 0), ("asked.edges", "x"), ("rule", "best"),
     ("asked.seed", -1), ("asked.orders", 10**9)],
)  # fmt: skip
def test_odd_values_are_refused_in_a_sentence(place: str, value: object) -> None:
    def spoil(held: dict[str, Any]) -> None:
        *outer, key = place.split(".")
        (held["attributes"]["asked"] if outer else held["attributes"])[key] = value

    with pytest.raises(CircuitkitError) as caught:
        ck.replay(changed(spoil), model=MODEL)
    assert "\n" not in str(caught.value)


def test_circuits_of_other_tools_are_refused() -> None:
    with pytest.raises(CircuitError, match="does not say its metric, corruption"):
        ck.replay(ck.references.ioi.wang2022().circuit)
    with pytest.raises(ArgumentError, match="circuit is a Transformer"):
        ck.replay(MODEL)  # type: ignore[arg-type]


# -- the command -----------------------------------------------------------------------------------
def test_the_exit_code_says_whether_it_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "circuit.json"
    file.write_text(found())
    assert main(["replay", str(file), "--quiet"]) == 0
    assert "the same 20 edges" in capsys.readouterr().out
    changed(drop_edge).save(file)
    assert main(["replay", str(file), "--quiet", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["same"]
    assert len(told["new"]) == 1
    changed(lambda held: held["attributes"].pop("asked")).save(file)
    assert main(["replay", str(file), "--quiet"]) == 2
    assert "does not say its asked" in capsys.readouterr().err


# -- the digest of weights -------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["gpt2", "neox-serial", "llama", "gemma2", "gpt-oss", "falcon"])
def test_a_digest_is_of_the_module_s_own_weights(family: str) -> None:
    module = build(family)
    model = from_module(module, name=family)
    first = digest(model)
    assert first == digest(from_module(module, name="again", dtype=torch.float64))
    sizes = parameters(model)
    assert sizes is not None
    assert sum(sizes.values()) >= sum(weight.numel() for weight in module.parameters())
    with torch.no_grad():
        next(iter(module.parameters())).add_(1)
    assert digest(from_module(module, name=family)) != first


def test_the_digest_is_what_it_says() -> None:
    """By hand: names, shapes and 1,024 evenly spaced values of each tensor in bfloat16."""
    import hashlib

    import numpy as np
    from transformers import AutoModelForCausalLM

    place = Path(ck.__file__).parent / "assets" / "mini"
    said = hashlib.sha256()
    for name, tensor in sorted(AutoModelForCausalLM.from_pretrained(place).state_dict().items()):
        flat = tensor.float().numpy().ravel()
        count = min(1024, flat.size)
        values = flat[[i * flat.size // count for i in range(count)]]
        bits = torch.tensor(values).bfloat16().float().numpy().view(np.uint32) >> 16
        said.update(f"{name}|{tuple(tensor.shape)}|".encode() + bits.astype("<u2").tobytes())
    assert digest(MODEL) == said.hexdigest()
