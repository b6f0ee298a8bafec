"""A paragraph of methods and BibTeX: what a run says of itself, and every source has its entry."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

import circuitkit as ck
from circuitkit.errors import ArgumentError, CircuitError
from circuitkit.registry import names
from circuitkit.workflows.citing import sources_of

BIB = Path(ck.__path__[0], "assets", "sources.bib").read_text(encoding="utf-8")
KEYS = re.findall(r"^@\w+\{(\w+),", BIB, re.M)
CITED = ("discovery", "metrics", "corruptions", "tasks")


@cache
def circuit() -> ck.Circuit:
    model = ck.load("mini")
    method = "eap_ig(steps=2)"
    return ck.discover(model, "ioi", method=method, edges=20, examples=4).circuit


@pytest.mark.parametrize("kind", CITED)
def test_every_source_of_a_registered_function_has_an_entry(kind: str) -> None:
    missing = {name: sources_of(kind, name) for name in names(kind)}
    assert {name: keys for name, keys in missing.items() if {*keys} - {*KEYS}} == {}
    assert any(missing.values())


def test_entries_are_sorted_and_whole() -> None:
    assert sorted(set(KEYS)) == KEYS
    for entry in re.findall(r"^@.*?^\}", BIB, re.S | re.M):
        assert entry.count("{") == entry.count("}")
        assert {"author", "title", "year"} <= {*re.findall(r"^  (\w+) +=", entry, re.M)}


def test_the_paragraph_says_what_the_circuit_says() -> None:
    said, graph = ck.cite(circuit()), circuit().graph
    for part in ("mini", "ioi", "eap_ig(steps=2) [@hanna2024]", "4 prompts", "logit_diff",
                 "counterfactual", "20 of the model's 479 edges"):  # fmt: skip
        assert part in said.text
    assert f"faithfulness is {graph['faithfulness']['value']:.3f}" in said.text
    cited = {*re.findall(r"@(\w+)", said.text)}
    assert cited == {*re.findall(r"^@\w+\{(\w+),", said.bibtex, re.M)}


def test_a_circuit_that_does_not_say_how_it_was_found_is_refused() -> None:
    with pytest.raises(CircuitError, match="does not say its model"):
        ck.cite(ck.Circuit())
    with pytest.raises(ArgumentError, match="give a circuit"):
        ck.cite("ioi.json")  # type: ignore[arg-type]
