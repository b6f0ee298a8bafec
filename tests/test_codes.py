"""Circuits from discrete codes: what differs between two runs, and where it does so together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from families import as_batch, dataset, model

from circuitkit.corruptions import counterfactual, noise
from circuitkit.data.batches import Dataset
from circuitkit.discovery import codes, discrete_codes
from circuitkit.engine.record import record
from circuitkit.truth.rasp import compile_program, named

FAMILIES = pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral", "attention-only"])


def exchanged(data: Dataset) -> Dataset:
    """Each pair, and the same with its clean and its corrupted prompt exchanged."""
    turned = (replace(one, clean=one.corrupt, corrupt=one.clean) for one in data.examples)
    return replace(data, examples=(*data.examples, *turned))


def test_in_a_compiled_program_what_differs_is_found_and_nothing_else() -> None:
    """The head that moves the answer differs in every pair; what writes the same has no score."""
    plan = named("indirect_object")
    m, data = compile_program(plan), plan.data(32)
    found = discrete_codes(m, data, corruption=counterfactual, level="node").nodes
    batch = as_batch(data)
    runs = [record(m, m.start(x, batch.mask)) for x in (batch.clean, batch.corrupt)]
    for stage in m.wiring.stages:
        one, two = (run.shares[stage.index][batch.mask] for run in runs)
        for i, node in enumerate(stage.part.writers):
            same = torch.equal(one[:, i], two[:, i])
            assert found[node] == 0 or not same, node
    mover = max(found, key=lambda node: found[node])
    assert mover == "a3.h0"
    assert found[mover] > 0.9


@FAMILIES
def test_where_both_sides_are_the_same_prompts_no_code_is_of_one_side_alone(family: str) -> None:
    m, data = model(family), exchanged(dataset())
    assert not discrete_codes(m, data, against="all").values.any()
    assert discrete_codes(m, data, against="pair").values.any()


@FAMILIES
def test_an_edge_is_in_as_many_prompts_as_both_of_its_ends(family: str) -> None:
    m = model(family)
    found = discrete_codes(m, dataset(), features=8)
    nodes = discrete_codes(m, dataset(), features=8, level="node").nodes
    assert 0 < np.mean([*nodes.values()]) < 1
    of = np.array([0.0, *(nodes[node] for node in m.wiring.writers[1:])])
    for row, column in zip(*np.nonzero(m.wiring.legal), strict=True):
        fed = [of[m.wiring.writer[node]] for node in m.wiring.fed(m.wiring.readers[column])]
        score = found.values[row, column]
        if not fed:
            low = high = of[row]
        elif row:
            low, high = of[row] + max(fed) - 1, min(of[row], sum(fed))
        else:
            low, high = max(fed), sum(fed)
        assert low - 1e-6 <= score <= high + 1e-6


def test_edges_by_hand() -> None:
    w = model("attention-only").wiring
    own = np.zeros((4, len(w.writers)))
    first, last = 1, len(w.writers) - 1
    own[:2, first], own[1:, last] = 1, 1
    table = codes._together(w, own)
    reader = w.feeds(last)[0]
    assert table[first, reader] == 1 / 4
    assert table[first, -1] == 2 / 4
    assert table[0, reader] == table[last, -1] == 3 / 4
    assert table[0, -1] == 0


def test_uniqueness_by_hand() -> None:
    clean, carried = np.array([[9, 1], [9, 2], [9, 3]]), np.array([[[9, 2], [9, 2], [9, 4]]])
    assert codes._unique(clean, carried, False)[:, 1].tolist() == [1, 0, 1]
    assert codes._unique(clean, carried, True)[:, 1].tolist() == [1, 0, 1]
    twice = np.concatenate([carried, carried[:, ::-1]])
    assert codes._unique(clean, twice, False)[:, 1].tolist() == [1, 0, 1]
    assert codes._unique(clean, twice[:, :, ::-1], False)[:, 0].tolist() == [0, 0, 0]


def test_every_draw_counts() -> None:
    m, n = model("gpt2"), len(dataset())
    found = discrete_codes(m, dataset(), corruption=lambda m, d: noise(m, d, draws=3), level="node")
    shares = np.array([*found.nodes.values()]) * 3 * n
    assert np.allclose(shares, shares.round(), atol=1e-4)
