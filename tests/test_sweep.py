"""The sweep of single edges equals one masked run per edge."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import families
import numpy as np
import pytest
import torch
from families import build, first_head, in_turn, mlp_row

from circuitkit.corruptions.constants import mean
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.discovery.sweeps import exact
from circuitkit.engine import sweep as module
from circuitkit.engine.record import answer, assemble, difference, record
from circuitkit.engine.run import run
from circuitkit.engine.sweep import sweep
from circuitkit.errors import ArgumentError
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.transformer_lens import from_module


def pairs(n: int = 3, seed: int = 3) -> Dataset:
    """Random pairs of two lengths that differ in two tokens."""
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(n):
        clean = rng.integers(1, 60, 7 + i % 2)
        corrupt = clean.copy()
        corrupt[[2, 4]] = (corrupt[[2, 4]] + rng.integers(1, 50, 2)) % 59 + 1
        ends = {"end": (len(clean) - 1, len(clean))}
        examples.append(Example(tuple(clean.tolist()), tuple(corrupt.tolist()), (5,), (7,), ends))
    return Dataset(tuple(examples), batch_size=n)


def one_of_each(wiring: Wiring, seed: int) -> set[tuple[int, int]]:
    """An edge into the queries, the keys and the values of each layer, its MLP, and the logits."""
    kinds: dict[tuple[int | None, str | None], list[tuple[int, int]]] = {}
    for row, column in np.argwhere(wiring.legal).tolist():
        reader = wiring.readers[column]
        kinds.setdefault((reader.layer, reader.port), []).append((row, column))
    rng = Random(seed)
    return {rng.choice(edges) for edges in kinds.values()}


@pytest.mark.parametrize(("family", "way"), in_turn((True, "left"), (False, "right")))
@torch.no_grad()
def test_every_edge_of_the_sweep_is_its_own_masked_run(
    family: str, way: tuple[bool, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (noise, padding) = families.model(family), way
    monkeypatch.setattr(module, "TOKENS", 400)  # several edges a block, several blocks a layer
    batch = next(iter(replace(pairs(), padding=padding)))
    clean, corrupt = (model.start(x, batch.mask) for x in (batch.clean, batch.corrupt))
    context = clean if noise else corrupt  # one edge alone is cut in the run on this prompt
    base, other = record(model, context), record(model, corrupt if noise else clean)
    start = answer(model, batch, base.final)
    plain = logit_diff(start, start, batch)
    seen, moved, asked = [], 0.0, one_of_each(model.wiring, 2 * (padding == "left") + noise)
    blocks = sweep(model, batch, context, base, other,
                   lambda x: logit_diff(x, x, batch), model.wiring.legal)  # fmt: skip
    for edges, values in blocks:
        seen += edges
        for edge, found in zip(edges, values, strict=True):
            if edge not in asked:
                continue
            keep = model.wiring.legal.copy()
            keep[edge] = False
            logits = run(model, batch, context, other, keep)
            expected = logit_diff(logits, logits, batch)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-4)
            moved = max(moved, float((expected - plain).abs().max()))
    assert sorted(seen) == sorted(map(tuple, np.argwhere(model.wiring.legal).tolist()))
    assert moved > 0.05  # what is compared is no sea of zeros


@pytest.mark.parametrize(("family", "noise"), in_turn(True, False))
@torch.no_grad()
def test_an_edge_of_writers_that_are_no_run_of_the_model_is_its_path(
    family: str, noise: bool
) -> None:
    """Means in the place of what each writer writes: in the base run, or in what the edge carries.
    Everything else carries the base run's values, and all that comes after the edge answers."""
    model = families.model(family)
    if model.couples or model.layers[0].ln1_post is not None:
        pytest.skip(
            "the other heads of the layer are held on a path, which a plain run does not do"
        )
    data, w = pairs(), model.wiring
    batch = next(iter(data))
    context = model.start(batch.clean, batch.mask)
    live, carried = record(model, context), mean(model, data)(batch)[0]
    base, other = (live, carried) if noise else (carried, live)
    start = answer(model, batch, base.final)
    plain = logit_diff(start, start, batch)
    moved = 0.0
    for edges, values in sweep(
        model, batch, context, base, other, lambda x: logit_diff(x, x, batch), w.legal
    ):
        for (row, column), found in list(zip(edges, values, strict=True))[::13]:
            fed = [writer for writer in range(w.shape[0]) if column in w.feeds(writer)]
            keep = np.zeros(w.shape, dtype=bool)
            keep[row, column] = True
            if fed:
                layer = w.writers[fed[0]].layer or 0
                later = [
                    *fed,
                    *[mlp_row(w, layer)] * w.mlp,
                    *range(first_head(w, layer + 1), len(keep)),
                ]
                keep[later] = w.legal[later]
            given = {row: difference(model, other, base, row)}
            logits = run(model, batch, context, base, keep, given)
            expected = logit_diff(logits, logits, batch)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-4)
            moved = max(moved, float((expected - plain).abs().max()))
    assert moved > 0.05


@torch.no_grad()
def test_what_is_carried_behind_the_same_embedding_may_differ_everywhere() -> None:
    """That tokens are embedded alike says nothing of the rest where what is carried is no run."""
    model = from_module(build("gpt2"), name="gpt2")
    batch = next(iter(pairs()))
    context = model.start(batch.clean, batch.mask)
    live = record(model, context)
    nothing = [torch.zeros_like(x) for x in live.computed]
    other = assemble(model, live.embed, nothing, nothing)
    moved = 0.0
    for edges, values in sweep(
        model, batch, context, live, other, lambda x: x[:, 0], model.wiring.legal
    ):
        for edge, found in list(zip(edges, values, strict=True))[::5]:
            keep = model.wiring.legal.copy()
            keep[edge] = False
            expected = run(model, batch, context, other, keep)[:, 0]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-4)
            moved = max(
                moved, float((expected - answer(model, batch, live.final)[:, 0]).abs().max())
            )
    assert moved > 0.05


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "olmo2"])
@torch.no_grad()
def test_the_tokens_before_the_first_difference_are_not_run(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = from_module(build(family), name=family)
    batch = next(iter(pairs()))
    context = model.start(batch.clean, batch.mask)
    live, carried = record(model, context), record(model, model.start(batch.corrupt, batch.mask))
    widths = set()
    mlp = model.mlp

    def watched(layer: int, x: torch.Tensor) -> torch.Tensor:
        widths.add(x.shape[1])
        return mlp(layer, x)

    monkeypatch.setattr(model, "mlp", watched)
    for _ in sweep(model, batch, context, live, carried, lambda x: x[:, 0], model.wiring.legal):
        pass
    assert widths == {batch.clean.shape[1] - 2, 1}  # after the last attention the answers alone


def test_only_wanted_edges_are_swept() -> None:
    model = from_module(build("gpt2"), name="gpt2")
    batch = next(iter(pairs()))
    wanted = np.zeros(model.wiring.shape, dtype=bool)
    chosen = [model.wiring.index("a0.h1", "m0"), model.wiring.index("input", "a2.h3.v"),
              model.wiring.index("m1", "logits")]  # fmt: skip
    for edge in chosen:
        wanted[edge] = True
    context = model.start(batch.clean, batch.mask)
    live = record(model, context)
    carried = record(model, model.start(batch.corrupt, batch.mask))
    found = [e for edges, _ in sweep(model, batch, context, live, carried,
                                     lambda x: x[:, 0], wanted) for e in edges]  # fmt: skip
    assert sorted(found) == sorted(chosen)


@pytest.mark.parametrize("corruption", [counterfactual, mean])
def test_exact_scores_do_not_depend_on_the_batches(corruption: object) -> None:
    model = from_module(build("llama"), name="llama")
    whole, parts = pairs(4), pairs(4)
    parts = Dataset(parts.examples, batch_size=1, padding="left")
    a = exact(model, whole, logit_diff, corruption).values  # type: ignore[arg-type]
    b = exact(model, parts, logit_diff, corruption).values  # type: ignore[arg-type]
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    assert np.abs(a).max() > 0.05


def test_a_direction_that_there_is_not_is_refused() -> None:
    model = from_module(build("gpt2"), name="gpt2")
    with pytest.raises(ArgumentError, match="denoise"):
        exact(model, pairs(), logit_diff, counterfactual, direction="sideways")


@torch.no_grad()
def test_an_example_that_ends_before_the_others_differ_keeps_its_answer() -> None:
    """The run begins where the prompts differ: not after a shorter example's answer."""
    model = from_module(build("gpt2"), name="gpt2")
    same, long = (1, 2, 3), (1, 2, 3, 4, 5, 6, 7, 8)
    other = (*long[:6], 9, 8)
    short = Example(same, same, (5,), (7,), {"end": (2, 3)})
    batch = next(iter(Dataset((short, Example(long, other, (5,), (7,), {"end": (7, 8)})))))
    context = model.start(batch.clean, batch.mask)
    carried = record(model, model.start(batch.corrupt, batch.mask))
    logits = run(model, batch, context, carried, model.wiring.legal)
    native = model.native(batch.clean, batch.mask).logits
    for row, last in enumerate(batch.last):
        torch.testing.assert_close(logits[row], native[row, last], rtol=1e-4, atol=1e-4)
