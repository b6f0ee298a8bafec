"""The sweep of single edges equals one masked run per edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import FAMILIES, build

from circuitkit.corruptions.constants import mean
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data import Batch, Dataset, Example
from circuitkit.discovery.sweeps import exact
from circuitkit.engine import sweep as module
from circuitkit.engine.run import answer, record, run
from circuitkit.engine.sweep import sweep
from circuitkit.errors import CircuitError
from circuitkit.metrics.answers import logit_diff
from circuitkit.transformer import Transformer, from_module


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


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Transformer:
    return from_module(build(request.param), name=request.param)


def one_by_one(
    model: Transformer, batch: Batch, edge: tuple[int, int], noise: bool
) -> torch.Tensor:
    """The metric when one edge alone is cut in the clean run, or alone kept in the carried one."""
    context = model.start(batch.clean, batch.mask)
    carried = record(model, model.start(batch.corrupt, batch.mask))
    keep = model.wiring.legal.copy()
    keep[edge] = False
    if noise:
        logits = run(model, batch, context, carried, keep)
    else:  # the same, with the two prompts in each other's place
        live = record(model, context)
        other = model.start(batch.corrupt, batch.mask)
        logits = run(model, batch, other, live, keep)
    return logit_diff(logits, logits, batch)


@pytest.mark.parametrize("noise", [True, False], ids=["noise", "denoise"])
@torch.no_grad()
def test_every_edge_of_the_sweep_is_its_own_masked_run(
    model: Transformer, noise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOKENS", 150)  # several edges a block, several blocks a layer
    batch = next(iter(pairs()))
    context = model.start(batch.clean, batch.mask)
    live, carried = record(model, context), record(model, model.start(batch.corrupt, batch.mask))
    base, other = (live, carried) if noise else (carried, live)
    start = answer(model, batch, base.final)
    plain = logit_diff(start, start, batch)
    seen, moved = [], 0.0
    blocks = sweep(model, batch, context, base, other,
                   lambda x: logit_diff(x, x, batch), model.wiring.legal)  # fmt: skip
    for edges, values in blocks:
        seen += edges
        for edge, found in list(zip(edges, values, strict=True))[::5]:
            expected = one_by_one(model, batch, edge, noise)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-4)
            moved = max(moved, float((expected - plain).abs().max()))
    assert sorted(seen) == sorted(map(tuple, np.argwhere(model.wiring.legal).tolist()))
    assert moved > 0.05  # what is compared is no sea of zeros


def test_only_wanted_edges_are_swept() -> None:
    model = from_module(build("gpt2"), name="gpt2")
    batch = next(iter(pairs()))
    wanted = np.zeros(model.wiring.shape, dtype=bool)
    chosen = [model.wiring.index("a0.h1", "m0"), model.wiring.index("embed", "a2.h3.v"),
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
    with pytest.raises(CircuitError, match="denoise"):
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
