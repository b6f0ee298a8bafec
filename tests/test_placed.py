"""Runs under masks over the edges between places: laws, beside attention that is run by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, as_batch, dataset, distance, double, in_turn, model, pristine
from placed_oracle import PlacedOracle
from torch import Tensor

import circuitkit as ck
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.data.places import numbers, places
from circuitkit.engine.model import Model
from circuitkit.engine.placed_dense import placed_residual
from circuitkit.engine.record import answer, record
from circuitkit.engine.run import run, runs
from circuitkit.errors import CircuitError
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.placed_walks import drawn_places
from circuitkit.graph.places import PlacedMask, Places
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.transformer_lens import Transformer
from circuitkit.registry import resolve

SAME = 3e-6  # relative, in single precision
every_family = pytest.mark.parametrize("family", FAMILIES)


def prompts(padding: str = "right") -> Dataset:
    """Prompts of different lengths, with two spans that do not stand in one order."""
    base, made = dataset((9, 7, 5), padding=padding), []
    for number, example in enumerate(base.examples):
        n = len(example.clean)
        one, two = ("S1", "S2") if number % 2 == 0 else ("S2", "S1")
        spans = {one: (1, 3), two: (n - 2, n - 1)}
        made.append(replace(example, spans=spans))
    return replace(base, examples=tuple(made))


@cache
def oracle(family: str) -> PlacedOracle:
    return PlacedOracle(pristine(family), model(family).wiring)


def of_prompts(m: Model, padding: str = "right", corruption: str = "counterfactual") -> Any:
    """What ``run`` takes of these prompts, and their places."""
    data = prompts(padding)
    batch = as_batch(data)
    with torch.no_grad():
        (carried, *_) = resolve("corruptions", corruption)(m, data)(batch)
        return (m, batch, m.start(batch.clean, batch.mask), carried), places(data, m.wiring)


def mask(places: Places, share: float, seed: int = 0, *, fractions: bool = False) -> PlacedMask:
    """A random one."""
    rng, legal = np.random.default_rng(seed), places.legal
    kept = [table & (rng.random(table.shape) < share)
            for table in (legal.residual, legal.attention)]  # fmt: skip
    tables = [table * rng.random(table.shape) if fractions else table for table in kept]
    return PlacedMask(places, *tables)


def nothing(places: Places) -> PlacedMask:
    return mask(places, 0)


# -- laws ------------------------------------------------------------------------------------------
@every_family
def test_everything_is_the_clean_run_and_nothing_the_carried_one(family: str) -> None:
    parts, where = of_prompts(model(family))
    m, batch, context, carried = parts
    with torch.no_grad():
        clean = answer(m, batch, record(m, context).final)
        everything, none = runs(*parts, [where.legal, nothing(where)])
        assert distance(everything, clean) < SAME
        assert distance(none, answer(m, batch, carried.final)) < SAME
        assert distance(everything, none) > 1e-2
        cut = PlacedMask(where, where.legal.residual, where.legal.attention & False)
        (without,) = runs(*parts, [cut])
        assert distance(without, clean) > 1e-2
        assert distance(without, none) > 1e-2


@pytest.mark.parametrize(("family", "way"), in_turn(("left", 0.3), ("right", 0.6)))
def test_a_run_is_attention_run_by_hand_for_each_destination(
    family: str, way: tuple[str, float]
) -> None:
    """Of few edges, and of fractions of more."""
    padding, share = way
    parts, where = of_prompts(model(family), padding)
    m, batch, _, carried = parts
    by_hand, of = oracle(family), numbers(batch, where.spans)
    keep = mask(where, share, 2, fractions=share > 0.5)
    with torch.no_grad():
        written = by_hand.plain(batch.corrupt, batch.mask)
        expected = by_hand.placed(batch, written, keep, of)
        assert distance(run(*parts, keep), expected) < SAME
        assert distance(expected, answer(m, batch, carried.final)) > 1e-2


@pytest.mark.parametrize(("family", "corruption"), in_turn("counterfactual", "zero", "mean"))
def test_a_mask_in_all_spans_is_the_plain_run(family: str, corruption: str) -> None:
    """With all edges of attention, and so with the same dead ends."""
    parts, where = of_prompts(model(family), "right", corruption)
    wiring = where.wiring
    for seed, share in enumerate((0.05, 0.12, 0.4)):
        plain = wiring.legal & (np.random.default_rng(seed).random(wiring.shape) < share)
        plain[0, -1] = True
        with torch.no_grad():
            found, expected = runs(*parts, [where.spread(plain), plain])
        assert distance(found, expected) < SAME


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "olmo2", "qwen2-moe"])
def test_a_stack_is_each_of_its_circuits(family: str) -> None:
    """Also where few fit at once; beside the run that computes everything."""
    parts, where = of_prompts(model(family), "left", "mean")
    m, batch, context, carried = parts
    masks = [mask(where, share, seed, fractions=seed % 2 > 0)
             for seed, share in enumerate((0.1, 0.3, 0.9))]  # fmt: skip
    masks += [masks[1], where.legal]
    of = numbers(batch, where.spans)
    with torch.no_grad():
        expected = [placed_residual(m, batch, context, carried, keep, of) for keep in masks]
        for pool_bytes in (1, 2**30):
            found = [*runs(*parts, masks, pool_bytes=pool_bytes)]
            for one, other in zip(found, expected, strict=True):
                assert distance(one, m.unembed(other)) < SAME
    assert found[1] is found[3]


def test_what_circuits_share_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Circuits that each lack one edge of the last attention run all before it once, and an MLP
    only behind it."""
    parts, where = of_prompts(model("llama"))
    _, heads = where.stages[-1]
    edges = np.argwhere(where.legal.attention[heads])[:6]
    masks = []
    for head, port, source, destination in edges:
        attention = where.legal.attention.copy()
        attention[heads.start + head, port, source, destination] = False
        masks.append(PlacedMask(where, where.legal.residual, attention))
    calls: list[tuple[str, int]] = []
    for kind in ("attend", "mlp"):
        monkeypatch.setattr(Transformer, kind, counted(getattr(Transformer, kind), kind, calls))
    with torch.no_grad():
        assert len([*runs(*parts, masks)]) == len(edges)
    before = [tokens for kind, tokens in calls[:-1] if kind == "mlp"]
    assert max(before) <= parts[1].mask.sum()


def counted(plain: Any, kind: str, calls: list[tuple[str, int]]) -> Any:
    """The same, which says what is computed."""

    def call(self: Any, *args: Any) -> Any:
        calls.append((kind, args[-1].shape[:2].numel()))
        return plain(self, *args)

    return call


# -- gradients -------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["neox-parallel", "falcon"])
def test_the_gradient_in_a_mask_is_its_finite_difference(family: str) -> None:
    parts, where = of_prompts(double(family))
    generator, legal = torch.Generator().manual_seed(3), where.legal

    def random(table: np.ndarray, draw: Any = torch.rand) -> Tensor:
        return draw(table.shape, generator=generator, dtype=torch.float64)  # type: ignore[no-any-return]

    tables = [random(table).requires_grad_() for table in (legal.residual, legal.attention)]
    ways = [random(table, torch.randn) * torch.from_numpy(table)
            for table in (legal.residual, legal.attention)]  # fmt: skip

    def value(tables: list[Tensor]) -> Tensor:
        logits = run(*parts, PlacedMask(where, *tables))
        return logit_diff(logits, logits, parts[1]).sum()

    slopes = torch.autograd.grad(value(tables), tables)
    step = 1e-5
    for number, (slope, way) in enumerate(zip(slopes, ways, strict=True)):
        with torch.no_grad():
            ends = [
                float(value([t + sign * step * way if i == number else t
                             for i, t in enumerate(tables)]))
                for sign in (1, -1)
            ]  # fmt: skip
        rise = (ends[0] - ends[1]) / (2 * step)
        assert distance([float((slope * way).sum())], [rise]) < 1e-5
        assert not slope[way == 0].any()
        assert slope.abs().mean() > 0


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_mask_with_a_gradient_runs_like_one_without(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of weights between 0 and 1, also where stages are computed again."""
    parts, where = of_prompts(model(family))
    keep = mask(where, 1, fractions=True)
    (plain,) = runs(*parts, [keep])
    found = []
    for small in (2**26, 0):
        monkeypatch.setattr("circuitkit.engine.placed_dense.SMALL", small)
        tables = [torch.tensor(t).requires_grad_() for t in (keep.residual, keep.attention)]
        logits = run(*parts, PlacedMask(where, *tables))
        assert distance(logits.detach(), plain) < SAME
        found.append(torch.autograd.grad(logits.square().sum(), tables))
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


# -- what takes them -------------------------------------------------------------------------------
def test_they_stand_beside_plain_masks_in_any_order() -> None:
    parts, where = of_prompts(model("gpt2"))
    placed, plain = mask(where, 0.4), where.wiring.legal
    order = [plain, placed, torch.ones(3, *plain.shape), placed, plain]
    with torch.no_grad():
        found = [*runs(*parts, order)]
        for one, keep in zip(found, order, strict=True):
            assert distance(one, run(*parts, keep)) < SAME


def test_batches_and_measures_take_them() -> None:
    m, data = model("gpt2"), replace(prompts(), batch_size=2)
    keep = mask(places(data, m.wiring), 0.5)
    found = ck.run(m, [keep, m.wiring.legal], data, "counterfactual")
    alone = ck.run(m, keep, replace(data, batch_size=3), "counterfactual")
    assert distance(found[:1], alone) < SAME
    graded = PlacedMask(keep.places, *(
        torch.tensor(t).float().requires_grad_() for t in (keep.residual, keep.attention)
    ))  # fmt: skip
    values = ck.measure(m, graded, data, "logit_diff", "counterfactual")
    values.sum().backward()
    assert graded.attention.grad.abs().max() > 0


def test_a_mask_of_another_model_is_refused() -> None:
    parts, where = of_prompts(model("gpt2"))
    other = replace(where, wiring=Wiring(2, 4, 4))
    with pytest.raises(CircuitError, match="places of a model of 2 layers"):
        run(*parts, other.legal)


def test_a_circuit_between_places_runs_as_its_mask() -> None:
    m, data = model("gpt2"), prompts()
    where = places(data, m.wiring)
    legal, rng = where.legal, np.random.default_rng(0)
    scores = PlacedScores(where, *(rng.standard_normal(t.shape) for t in (
        legal.residual, legal.attention
    )))  # fmt: skip
    circuit = scores.top(40)
    found = ck.run(m, circuit, data, "counterfactual")
    assert torch.equal(found, ck.run(m, scores.best(40), data, "counterfactual"))
    with pytest.raises(CircuitError, match="the model has"):
        ck.run(model("llama"), circuit, data, "counterfactual")


def test_random_circuits_beside_one_between_places_lie_between_the_same() -> None:
    """As many edges of each kind, all of them alive, which begin where it begins."""
    where = places(prompts(), model("gpt2").wiring)
    legal, rng = where.legal, np.random.default_rng(1)
    tables = [rng.standard_normal(t.shape) for t in (legal.residual, legal.attention)]
    begin = np.arange(len(where.spans)) == 1
    (keep,) = drawn_places(where, 40, 12, 1, 5, begin)
    for given in (PlacedScores(where, *tables).circuit(keep), keep):
        drawn = ck.random_masks(given, n=4, seed=1)
        for one in drawn:
            assert isinstance(one, PlacedMask)
            assert one.places == where
            assert one.counts() == keep.counts() == where.alive(one).counts()
            assert (one.residual[0].any(0) <= keep.residual[0].any(0)).all()
    assert len({one.residual.tobytes() for one in drawn if isinstance(one, PlacedMask)}) == 4
    with pytest.raises(CircuitError, match="edges=9 does not say"):
        ck.random_masks(keep, 9)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_attention_in_an_order_that_the_places_do_not_have_is_cut(family: str) -> None:
    """As where the same places have it, and keep none of it; also where a gradient flows."""
    m, rng = model(family), np.random.default_rng(2)
    seen, other = (
        replace(dataset((8, 8)), examples=tuple(
            replace(one, spans={a: (2, 4), b: (5, 6)}) for one in dataset((8, 8)).examples
        ))
        for a, b in (("S", "O"), ("O", "S"))
    )  # fmt: skip
    where, batch = places(seen, m.wiring), as_batch(other)
    both = places(replace(seen, examples=(*seen.examples, *other.examples)), m.wiring, where.spans)
    order = [both.spans.index(name) for name in where.spans]
    wide = Places(m.wiring, where.spans, both.sees[np.ix_(order, order)], where.answers)
    (carried,) = counterfactual(m, other)(batch)
    context = m.start(batch.clean, batch.mask)
    for _ in range(3):
        tables = [t & (rng.random(t.shape) < 0.6) for t in (where.legal.residual,
                                                           where.legal.attention)]  # fmt: skip
        slopes = [torch.tensor(t, dtype=torch.float32, requires_grad=True) for t in tables]
        masks = [PlacedMask(own, *t) for own, t in
                 ((wide, tables), (where, tables), (where, slopes))]  # fmt: skip
        expected, *found = (run(m, batch, context, carried, mask).detach() for mask in masks)
        assert all(distance(one, expected) < 1e-5 for one in found)
