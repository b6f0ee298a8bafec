"""Many circuits run at once give what each gives alone, and share what they compute alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import (
    FAMILIES,
    as_batch,
    dataset,
    distance,
    exactly,
    first_head,
    in_turn,
    model,
    port_columns,
)

from circuitkit.corruptions.constants import mean
from circuitkit.engine import run as module
from circuitkit.engine.plan import plan
from circuitkit.engine.record import difference, record
from circuitkit.engine.run import run, runs
from circuitkit.evaluation.masks import random_masks
from circuitkit.graph.wiring import Wiring

SHAPE = Wiring(layers=3, heads=4, groups=2)


def some_circuits(wiring: Wiring) -> list[np.ndarray]:
    """Circuits at random, grown out of each other, in one edge apart, whole, empty and equal."""
    grown = random_masks(wiring, 30, n=4)
    nested = [grown[0] | grown[1], grown[0] | grown[1] | grown[2]]
    rng = np.random.default_rng(0)
    whole = wiring.legal.copy()
    less = []
    for row, column in rng.permutation(np.argwhere(whole))[:4]:
        less.append(whole.copy())
        less[-1][row, column] = False
    fraction = np.where(grown[3], rng.random(wiring.shape), 0.0)
    return [*grown, *nested, whole, ~whole, *less, grown[0], fraction, whole * 0.5]


@pytest.mark.parametrize(("family", "padding"), in_turn("left", "right"))
@torch.no_grad()
def test_a_stack_of_circuits_is_each_of_them_alone(family: str, padding: str) -> None:
    m = model(family)
    batch = as_batch(dataset(padding=padding))
    context = m.start(batch.clean, batch.mask)
    carried = record(m, m.start(batch.corrupt, batch.mask))
    keeps = some_circuits(m.wiring)
    stacked = list(runs(m, batch, context, carried, keeps))
    assert len(stacked) == len(keeps)
    for found, keep in zip(stacked, keeps, strict=True):
        assert distance(found, run(m, batch, context, carried, keep)) < 1e-4
    spread = torch.stack(stacked).std(0)
    assert spread.max() > 1e-2  # the circuits are not all one


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_as_many_examples_as_tokens_are_no_trap(family: str) -> None:
    """What the layers are given is repeated for each circuit, but not what has one row a token."""
    m = model(family)
    batch = as_batch(dataset((6,) * 6))
    context = m.start(batch.clean, batch.mask)
    carried = record(m, m.start(batch.corrupt, batch.mask))
    keeps = random_masks(m.wiring, m.wiring.n_edges // 3, n=3)
    for found, keep in zip(runs(m, batch, context, carried, keeps), keeps, strict=True):
        assert distance(found, run(m, batch, context, carried, keep)) < 1e-4


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gemma2", "olmo2", "neox-parallel"])
@torch.no_grad()
def test_a_stack_that_does_not_fit_is_run_in_parts(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = model(family)
    batch = as_batch(dataset())
    context = m.start(batch.clean, batch.mask)
    carried = mean(m, dataset())(batch)[0]
    keeps = some_circuits(m.wiring)
    whole = torch.stack(list(runs(m, batch, context, carried, keeps)))
    assert (
        distance(torch.stack(list(runs(m, batch, context, carried, keeps, pool_bytes=0))), whole)
        < 1e-4
    )
    monkeypatch.setattr(module, "STACK", 3)
    assert distance(torch.stack(list(runs(m, batch, context, carried, keeps))), whole) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_what_is_told_stands_where_no_in_edge_is_kept(family: str) -> None:
    """Told what the writers of the clean run write, a circuit needs none of their in-edges."""
    m = exactly(family)
    batch = as_batch(dataset())
    context = m.start(batch.clean, batch.mask)
    live = record(m, context)
    carried = record(m, m.start(batch.corrupt, batch.mask))
    w = m.wiring
    given = {row: difference(m, live, carried, row) for row in range(first_head(w, 1))}
    keep = random_masks(w, w.n_edges // 2, n=1)[0]
    upstream = np.zeros(w.shape[1], dtype=bool)
    upstream[: port_columns(w, 1)["q"].start] = True  # the readers of layer 0
    whole, told = keep | (w.legal & upstream), keep & ~upstream
    expected = run(m, batch, context, carried, whole)
    assert distance(run(m, batch, context, carried, told, given), expected) < 1e-4
    # where in-edges are kept, they count, whatever is given
    wrong = {0: given[0], 1: given[1] + 100.0}
    assert distance(run(m, batch, context, carried, whole, wrong), expected) < 1e-4


def slots(masks: list[np.ndarray], joint: bool = False) -> int:
    alive = np.stack([SHAPE.alive(mask) for mask in masks])
    attention = {stage.index for stage in SHAPE.stages if stage.kind == "attention"}
    return plan(SHAPE, alive, {0}, attention if joint else ()).slots


@pytest.mark.parametrize("joint", [False, True])
def test_equal_circuits_are_computed_once(joint: bool) -> None:
    one, two = random_masks(SHAPE, 40, n=2)
    assert slots([one, one, one], joint) == slots([one], joint) == SHAPE.alive(one).any(1).sum()
    assert (
        slots([one, two], joint) <= slots([one], joint) + slots([two], joint) - 1
    )  # the embedding


def test_what_a_circuit_does_not_compute_has_no_value() -> None:
    """Even where a component shares all its readers with one that is computed, and what they write
    depends on each other."""
    wiring = Wiring(3, 4, 2, experts=(3, 3, 3))
    alive = np.stack([wiring.alive(mask) for mask in random_masks(wiring, 40, n=6)])
    every = [stage.index for stage in wiring.stages]
    for joint in ([], every):
        planned = plan(wiring, alive, {0}, joint)
        assert np.array_equal(planned.slot >= 0, alive.any(2))


def test_circuits_that_differ_late_share_what_comes_before() -> None:
    whole = SHAPE.legal
    late, early = whole.copy(), whole.copy()
    late[SHAPE.index("m1", "m2")] = False
    early[SHAPE.index("input", "m0")] = False
    n = len(SHAPE.writers)
    assert slots([whole]) == n
    assert slots([whole, late]) == n + 1  # the last MLP anew
    layers = 2 * (SHAPE.heads + 1)
    assert slots([whole, early]) == n + 1 + layers  # it, and all behind it


def test_a_head_is_computed_anew_only_where_its_own_ports_read_anew() -> None:
    whole = SHAPE.legal
    query, value = whole.copy(), whole.copy()
    query[SHAPE.index("m1", "a2.h3.q")] = False
    value[SHAPE.index("m1", "a2.g1.v")] = False
    n = len(SHAPE.writers)
    assert slots([whole, query]) == n + 1 + 1  # the head and the MLP behind it
    assert slots([whole, value]) == n + 2 + 1  # both heads of the group
    assert slots([whole, query], joint=True) == n + SHAPE.heads + 1  # all heads of the layer


def test_lanes_are_as_many_as_the_most_states_of_a_group() -> None:
    whole = SHAPE.legal
    masks = [whole.copy() for _ in range(4)]
    for mask, reader in zip(masks[1:], ("a2.h0.q", "a2.h1.q", "a2.g1.k"), strict=True):
        mask[SHAPE.index("m1", reader)] = False
    planned = plan(SHAPE, np.stack(masks), {0})
    heads = [planned.lanes[SHAPE.attention(layer).index] for layer in range(3)]
    assert [lanes.count for lanes in heads] == [1, 1, 2]
    assert len(heads[2].writers) == len(set(heads[2].writers)) == 4 + 1 + 1 + 2
