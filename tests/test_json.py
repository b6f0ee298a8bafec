"""What commands print for machines is what their JSON Schemas say, and nothing else."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from coders import random_autoencoders, random_coders
from jsonschema import Draft202012Validator

import circuitkit
from circuitkit.cli.main import build_parser, main

pytestmark = pytest.mark.usefixtures("blank_figures")

SCHEMAS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(circuitkit.__path__[0]) / "assets" / "schemas").glob("*.json"))
}
FEW = ["--examples", "4", "--batch-size", "4"]
DISCOVER = ["discover", "ioi", "--edges", "12", "--method"]
RUN = "run/circuit.json"
MORE = {  # settings of a discovery that add keys, by the first key that they add
    "search": ["--faithfulness", "0.3", *FEW],
    "verification": ["--method", "eap", "--edges", "12", "--verify", "6", *FEW],
    "tested": ["--method", "eap", "--edges", "60", "--test", "--examples", "96"],
    "refined": ["--method", "eap", "--edges", "12", "--refine", "4", *FEW],
    "orders": ["--method", "acdc(threshold=4)", "--orders", "2", "--examples", "2"],
    "nodes": ["--level", "node", "--nodes", "5", *FEW],
    "path": ["--method", "mask_gradient(steps=2)", "--edges", "12", "--known", *FEW],
    "learned": ["--method", "eap", "--corruption", "optimal(steps=2)", "--edges", "12", *FEW],
    "features": ["--features", "12", "--method", "eap", "--edges", "30", *FEW],
    "losses": ["--method", "ugs(runs=4)", "--edges", "12", "--no-bos", *FEW],
}
CASES = [  # a schema, and arguments
    ("discover", [*DISCOVER, "eap", "--agreement", "0.99", "--examples", "2"]),
    ("discover-positions", [*DISCOVER, "eap", "--positions", *FEW]),
    ("discover-corruptions", [*DISCOVER, "eap", "--positions", "--spans", "S2", "--corruption",
                              "counterfactual", "--corruption", "counterfactual(text='names')",
                              *FEW]),
    ("plan", [*DISCOVER, "eap", "--plan", *FEW]),
    ("evaluate", ["evaluate", RUN, *FEW]),
    ("evaluate", ["evaluate", RUN, "--curve", *FEW]),
    ("evaluate", ["evaluate", RUN, "--complement", "random", "--complement", "best",
                  "--alternative", *FEW]),
    ("test", ["test", RUN, "--random", "9", "--inflations", "9", "--edges", "2", "--by", "length",
              "--sizes", "60", "--examples", "16"]),
    ("test", ["test", RUN, "--only", "independence", "--corruption", "zero", *FEW]),
    ("replay", ["replay", RUN]),
    ("knockout", ["knockout", RUN, "--pairs", "2", "--subsets", "1", *FEW]),
    ("clusters", ["clusters", "ioi", "--number", "2", "--edges", "12", "--method", "eap", *FEW]),
    ("study", ["study", "ioi", "--metric", "logit_diff", "--metric", "probability", "--corruption",
               "counterfactual", "--corruption", "mean", "--windows", "1", "--circuits", "zero",
               "--circuits", "mean", "--reference", RUN, "--samples", "2", "--examples", "2"]),
    ("bench", ["bench", "eap", "--model", "reverse", "--corruption", "zero", "--seeds", "1",
               "--examples", "4"]),
    ("track", ["track", "ioi", "--models", "a=mini", "b=mini", "--edges", "12", *FEW]),
    ("compare", ["compare", RUN, RUN, "-o", "both.html"]),
    ("compare", ["compare", RUN, "smaller.json", "--transfer", *FEW]),
    ("compare", ["compare", "ioi:wang2022", "ioi:acdc"]),
    ("cross", ["cross", RUN, "other.json", "-o", "cross", *FEW]),
    ("trace", ["trace", "Anna and Paul met", "--dictionaries", "coders", "--changed", "4"]),
    ("trace", ["trace", "--task", "ioi", "--dictionaries", "coders", "--norms", "live", "--changed",
               "3", "--features", "20", "--examples", "2"]),
    ("draw", ["draw", RUN, "-o", "x.svg"]),
    ("view", ["view", RUN, "-o", "x.html"]),
    ("list", ["list"]),
    ("task-show", ["task", "show", "ioi", "--examples", "2"]),
    ("task-check", ["task", "check", "induction", "--no-bos"]),
    ("check", ["check", "mini"]),
    ("cite", ["cite", "run"]),
    ("train-dictionary", ["train-dictionary", "ioi", "--layers", "0", "--features", "32", "--k",
                          "4", "--steps", "20", "--batch", "32", "--kind", "skip_transcoder", "-o",
                          "trained", *FEW]),
    ("features", ["features", "show", "m0.f3", "m0.f4", "--dictionaries", "trained",
                  "--examples", "8"]),
    ("features", ["features", "jacobian", "m0", "--dictionaries", "autoencoders/mlp_in",
                  "--outputs", "autoencoders/mlp_out", "--examples", "4", "--tokens", "8"]),
    ("fetch", ["fetch", "smollm2-135m"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and a model that has been fetched."""
    own = tmp_path_factory.mktemp("json")
    model = own / "cache" / "smollm2-135m"
    model.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (model / name).touch()
    assert main([*DISCOVER, "eap", "-o", str(own / "run"), "--quiet", *FEW]) == 0
    found = circuitkit.Circuit.load(own / "run" / "circuit.json")
    found.save(own / "other.json")
    found.remove_edge(*found.to_frame().iloc[-1][["writer", "reader"]])
    found.save(own / "smaller.json")
    random_coders(own / "coders")
    random_autoencoders(own / "autoencoders")
    return own


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.setenv("CIRCUITKIT_CACHE", str(place / "cache"))
    return place


def printed(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> Any:
    capsys.readouterr()
    assert main([*arguments, "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


def faults(name: str, value: Any) -> list[str]:
    """Where a value is not what the schema says."""
    found = Draft202012Validator(SCHEMAS[name]).iter_errors(value)
    return [f"{one.json_path}: {one.message[:200]}" for one in found]


@pytest.mark.parametrize(
    ("name", "arguments"), CASES, ids=[f"{i}-{name}" for i, (name, _) in enumerate(CASES)]
)
def test_a_command_prints_what_its_schema_says(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, arguments: list[str]
) -> None:
    assert faults(name, printed(capsys, arguments)) == []


@pytest.mark.parametrize("key", MORE)
@pytest.mark.filterwarnings("ignore:the scores of mask_gradient")
def test_every_kind_of_discovery_prints_what_the_schema_says(
    here: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    found = printed(capsys, ["discover", "ioi", *MORE[key], "-o", key])
    assert faults("discover", found) == []
    assert key in found


def test_a_key_that_is_not_documented_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(capsys, ["compare", RUN, RUN])
    found["nodes"]["new"] = found["edges"].pop("both")
    assert len(faults("compare", found)) == 2


def commands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[str]:
    """The commands that print JSON, as their schemas are called."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for own, below in action.choices.items():
                yield from commands(below, f"{name}-{own}".removeprefix("-"))
        elif "--json" in action.option_strings:
            yield name


def test_every_command_that_prints_json_has_a_schema_and_is_tried() -> None:
    own = {*commands(build_parser())} - {
        "merge"
    }  # which prints what the command of its shards does
    assert (
        {*own, "plan", "discover-positions", "discover-corruptions"}
        == {*SCHEMAS}
        == {name for name, _ in CASES}
    )


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema inside a schema."""
    if isinstance(schema, dict):
        yield schema
        for key, own in schema.items():
            yield from parts([*own.values()] if key in ("properties", "$defs") else own)
    elif isinstance(schema, list):
        for own in schema:
            yield from parts(own)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_has_a_version_and_says_what_every_key_means(name: str) -> None:
    schema = SCHEMAS[name]
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"].endswith("/draft/2020-12/schema")
    assert schema["$id"].startswith(f"urn:circuitkit:json:{name}:")
    assert schema["$id"].rpartition(":")[2].isdecimal()
    for part in parts(schema):
        if "properties" in part:
            assert part["additionalProperties"] is not True
        for key, own in {**part.get("properties", {}), **part.get("patternProperties", {})}.items():
            assert own.get("description"), key
