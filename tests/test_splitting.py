"""MLPs taken apart into features: the laws of runs, scores and sweeps hold for their parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from families import as_batch, dataset, distance, exactly, model
from test_tracing import coder, coders, crossing, skip
from torch import Tensor

from circuitkit import write_acdc, write_autocircuit, write_eap
from circuitkit.data.batches import Batch
from circuitkit.engine.attribute import score
from circuitkit.engine.gradients import gradients
from circuitkit.engine.inspection import Inspectable
from circuitkit.engine.model import Activations, Context
from circuitkit.engine.record import answer, record
from circuitkit.engine.run import run, runs
from circuitkit.engine.sweep import sweep
from circuitkit.errors import CircuitError, DictionaryError, UnsupportedModelError
from circuitkit.evaluation.masks import random_masks
from circuitkit.features.dictionaries import Dictionary
from circuitkit.features.splitting import split_into_features, split_into_neurons
from circuitkit.graph.circuit import build, from_json, mask, to_json
from circuitkit.graph.stages import FEATURES, Split
from circuitkit.graph.wiring import Wiring
from circuitkit.models.hooks import require_bridge

CHOSEN = (3, 17, 5, 11)
SAME = 2e-5


def chosen(m: Inspectable, numbers: tuple[int, ...] = CHOSEN) -> dict[int, tuple[int, ...]]:
    return dict.fromkeys(range(m.wiring.layers), numbers)


def by(made: Callable[[Inspectable], list[Dictionary]]) -> Callable[[Inspectable], Inspectable]:
    return lambda m: split_into_features(m, made(m), chosen(m))


WAYS: dict[str, Callable[[Inspectable], Inspectable]] = {
    "relu": by(coders),
    "topk": by(lambda m: coders(m, activation="topk", k=4)),
    "jumprelu": by(
        lambda m: coders(m, activation="jumprelu", threshold=torch.full((20,), 0.3, dtype=m.dtype))
    ),
    "skip": by(lambda m: coders(m, skip=skip(m), activation="topk", k=4)),
    "before the norm": by(lambda m: coders(m, reads="resid_mid", skip=skip(m))),
    "one layer": lambda m: split_into_features(m, [coder(m, 1)], {1: CHOSEN}),
    "no features": lambda m: split_into_features(m, coders(m), {}),
    "all features": lambda m: split_into_features(m, coders(m), chosen(m, (*range(20),))),
    "neurons": lambda m: split_into_neurons(m, chosen(m)),
}
OTHERS = [  # of which the first law is put to at every change
    *((family, "skip") for family in ("neox-parallel", "granite", "mixtral")),
    *((family, "neurons") for family in ("llama", "granite")),
    ("falcon", "topk"), ("olmo2", "jumprelu"),
]  # fmt: skip
CASES = [*(("gpt2", way) for way in WAYS), ("llama", "skip"), ("gemma2", "skip")]
every_way = pytest.mark.parametrize(
    ("family", "way"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.weekly) for case in OTHERS)],
)


@cache
def taken_apart(family: str, way: str, double: bool = False) -> Inspectable:
    return WAYS[way]((exactly if double else model)(family))


def metric(logits: Tensor) -> Tensor:
    return logits[:, 0] - logits[:, 1]


def both(m: Inspectable) -> tuple[Batch, Context, Activations, Activations]:
    batch = as_batch(dataset(padding="left"))
    context = m.start(batch.clean, batch.mask)
    with torch.no_grad():
        return batch, context, record(m, context), record(m, m.start(batch.corrupt, batch.mask))


def unsplit(split: Inspectable, table: np.ndarray, whole: Wiring, reduce: Any) -> np.ndarray:
    """What the parts of each MLP have together: by the names before the dot."""
    rows = [whole.writer[name.split(".")[0] if name[0] == "m" else name]
            for name in split.wiring.writers]  # fmt: skip
    columns = [whole.reader[name.split(".")[0] if name[0] == "m" else name]
               for name in split.wiring.readers]  # fmt: skip
    found = np.zeros(whole.shape, table.dtype)
    reduce.at(found, (np.array(rows)[:, None], np.array(columns)[None]), table)
    return found


def spread(split: Inspectable, keep: np.ndarray, whole: Wiring) -> np.ndarray:
    """The mask of the whole MLPs for their parts, all alike."""
    rows = [whole.writer[name.split(".")[0] if name[0] == "m" else name]
            for name in split.wiring.writers]  # fmt: skip
    columns = [whole.reader[name.split(".")[0] if name[0] == "m" else name]
               for name in split.wiring.readers]  # fmt: skip
    return keep[np.array(rows)[:, None], np.array(columns)[None]]


# -- the graph -------------------------------------------------------------------------------------
def test_parts_are_writers_and_features_readers_of_their_own() -> None:
    wiring = taken_apart("gpt2", "skip").wiring
    own = [f"m1.f{number}" for number in CHOSEN]
    assert [w for w in wiring.writers if w.startswith("m1")] == [
        *own, "m1.rest", "m1.skip", "m1.error",
    ]  # fmt: skip
    assert [r for r in wiring.readers if r.startswith("m1")] == [*own, "m1"]
    # with top k the port decides which features are active
    port = wiring.readers[wiring.reader["m1"]]
    assert [*wiring.fed(port)] == [*own, "m1.rest", "m1.skip", "m1.error"]
    plain = taken_apart("gpt2", "relu").wiring
    assert [*plain.fed(port)] == ["m1.rest", "m1.error"]
    assert Wiring.from_dict(wiring.to_dict()) == wiring


def test_a_circuit_of_features_is_written_and_read() -> None:
    m = taken_apart("gpt2", "skip")
    (keep,) = random_masks(m.wiring, 40, n=1)
    edges = {(m.wiring.writers[row], m.wiring.readers[column]): 1.0
             for row, column in np.argwhere(keep)}  # fmt: skip
    circuit = build(m.wiring, edges)
    again = from_json(to_json(circuit))
    assert (mask(again) == keep).all()
    assert any(".f" in name for name in again.nodes)


# -- runs ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("family", "way"), [*CASES, *OTHERS])
@torch.no_grad()
def test_everything_is_the_clean_run_and_nothing_the_carried_run(family: str, way: str) -> None:
    m, whole = taken_apart(family, way), model(family)
    batch, context, _, carried = both(m)
    legal = m.wiring.legal
    plain = [answer(m, batch, record(whole, whole.start(x, batch.mask)).final)
             for x in (batch.clean, batch.corrupt)]  # fmt: skip
    assert distance(run(m, batch, context, carried, legal), plain[0]) < SAME
    assert distance(run(m, batch, context, carried, np.zeros_like(legal)), plain[1]) < SAME


@every_way
@torch.no_grad()
def test_parts_that_are_kept_alike_are_the_whole_mlp(family: str, way: str) -> None:
    m, whole = taken_apart(family, way), model(family)
    batch, context, _, carried = both(m)
    plain = record(whole, whole.start(batch.corrupt, batch.mask))
    rng = np.random.default_rng(1)
    for density in (0.9, 0.5, 0.2):
        keep = rng.random(whole.wiring.shape) < density
        expected = run(whole, batch, context, plain, keep)
        found = run(m, batch, context, carried, spread(m, keep, whole.wiring))
        assert distance(found, expected) < SAME


def by_hand(
    m: Inspectable, batch: Batch, keep: np.ndarray, made: list[Dictionary],
    errors: Mapping[str, Tensor] = MappingProxyType({}),
) -> Tensor:  # fmt: skip
    """The logits under a mask, feature by feature; with these errors, wherever they are read."""
    wiring, by_layer = m.wiring, {one.layer: one for one in made}
    context, other = m.start(batch.clean, batch.mask), m.start(batch.corrupt, batch.mask)

    def parts(layer: int, reads: Callable[[str], Tensor]) -> dict[str, Tensor]:
        own, x = by_layer[layer], reads(f"m{layer}")
        y, found = m.mlp_in(layer, x), {}
        pre = own.pre(y)
        for number in CHOSEN:
            alone = own.pre(m.mlp_in(layer, reads(f"m{layer}.f{number}")))[..., number]
            least = own.thresholds(pre)
            least = least[..., 0] if own.k else least[..., number]
            active = torch.where(alone > least, alone, torch.zeros_like(alone))
            found[f"m{layer}.f{number}"] = active[..., None] * own.decoder[number]
        chosen = torch.zeros(own.n_features, dtype=torch.bool)
        chosen[list(CHOSEN)] = True
        found[f"m{layer}.rest"] = own.decode(own.encode(y) * ~chosen)
        if own.skip is not None:
            found[f"m{layer}.skip"] = own.skipped(y)
        found[f"m{layer}.error"] = m.mlp(layer, x) - own(y)
        return found

    def heads(layer: int, reads: Callable[[str], Tensor]) -> dict[str, Tensor]:
        stage = wiring.attention(layer)
        given = [m.project(layer, reads(name)) for name in stage.part.readers]
        h, g = stage.part.ports[:2]
        q = torch.stack([given[i][0][:, :, i] for i in range(h)], 2)
        k = torch.stack([given[h + i][1][:, :, i] for i in range(g)], 2)
        v = torch.stack([given[h + g + i][2][:, :, i] for i in range(g)], 2)
        z = m.share(layer, m.attend(context, layer, q, k, v))
        return dict(zip(stage.part.writers, m.write(layer, None, z), strict=True))

    live, carried = {"input": context.embed}, {"input": other.embed}
    constant = torch.zeros_like(context.embed)

    def reading(name: str) -> Tensor:
        total, column = constant.clone(), wiring.reader[name]
        for writer, row in wiring.writer.items():
            if writer in live and row < wiring.upstream[column]:
                own = live if keep[row, column] else carried
                total += errors[writer] if writer in errors else own[writer]
        return total

    for stage in wiring.stages:
        compute = parts if stage.kind == FEATURES else heads
        now = compute(stage.layer, reading)
        seen = {**carried}

        def then(name: str, seen: dict[str, Tensor] = seen, fixed: Tensor = constant) -> Tensor:
            edge = wiring.upstream[wiring.reader[name]]
            return fixed + sum(own for w, own in seen.items() if wiring.writer[w] < edge)

        carried |= compute(stage.layer, then)
        live |= now
        if stage.kind != FEATURES and (bias := m.constant(stage.layer)) is not None:
            constant = constant + bias
    return answer(m, batch, reading("logits"))


@pytest.mark.parametrize("way", ["relu", "topk", "skip", "jumprelu"])
@torch.no_grad()
def test_a_run_is_what_features_do_one_by_one(way: str) -> None:
    m = taken_apart("gpt2", way)
    made = [m.kinds[FEATURES].blocks[i].dictionary for i in range(m.wiring.layers)]
    batch, context, _, carried = both(m)
    for keep in random_masks(m.wiring, 60, n=3, seed=4):
        expected = by_hand(m, batch, keep, made)
        assert distance(run(m, batch, context, carried, keep), expected) < SAME
        dense = run(m, batch, context, carried, torch.tensor(keep)[None].expand(len(batch), -1, -1))
        assert distance(dense, expected) < SAME
    assert distance(expected, run(m, batch, context, carried, m.wiring.legal)) > 1e-3


@every_way
@torch.no_grad()
def test_a_stack_of_circuits_is_each_of_them_alone(family: str, way: str) -> None:
    m = taken_apart(family, way)
    batch, context, _, carried = both(m)
    grown = random_masks(m.wiring, 60, n=2)
    keeps = [*grown, *(grown[0] | other for other in grown[1:]), m.wiring.legal]
    stacked = list(runs(m, batch, context, carried, keeps))
    for found, keep in zip(stacked, keeps, strict=True):
        assert distance(found, run(m, batch, context, carried, keep)) < 1e-4
    assert torch.stack(stacked).std(0).max() > 1e-2


@torch.no_grad()
def test_a_feature_that_reads_almost_the_same_writes_almost_the_same() -> None:
    """With the k-th pre-activation itself as the threshold, rounding would switch it off."""
    m = taken_apart("gpt2", "topk")
    block = m.kinds[FEATURES].blocks[1]
    x = torch.randn(50, 7, m.d_model, generator=torch.Generator().manual_seed(0))
    at, near = (block.parts(block.own(own), x) for own in (x, x * (1 + 1e-6)))
    assert distance(near, at) < 1e-4


# -- scores and sweeps -----------------------------------------------------------------------------
@every_way
def test_the_scores_of_parts_sum_to_those_of_the_whole(family: str, way: str) -> None:
    m, whole = taken_apart(family, way), model(family)
    tables = []
    for one in (m, whole):
        batch, context, live, carried = both(one)
        at = gradients(one, batch, context, context.embed, metric)
        tables.append(score(one, batch, live, carried, at).numpy())
    legal = m.wiring.legal
    found = unsplit(m, np.where(legal, tables[0], 0), whole.wiring, np.add)
    assert distance(found, tables[1]) < SAME


@pytest.mark.parametrize("way", ["relu", "skip", "before the norm", "neurons"])
def test_a_score_is_the_slope_of_the_metric_in_the_mask(way: str) -> None:
    m = taken_apart("gpt2", way, double=True)
    batch, context, live, carried = both(m)
    at = gradients(m, batch, context, context.embed, metric)
    scores = score(m, batch, live, carried, at)
    keep = torch.tensor(m.wiring.legal, dtype=torch.float64)
    rng = np.random.default_rng(0)
    for row, column in rng.permutation(np.argwhere(m.wiring.legal))[:25]:
        ends = []
        for step in (1e-6, -1e-6):
            moved = keep.clone()
            moved[row, column] += step
            with torch.no_grad():
                ends.append(float(metric(run(m, batch, context, carried, moved)).sum()))
        slope = (ends[0] - ends[1]) / 2e-6
        assert slope == pytest.approx(float(scores[row, column]), abs=1e-6)


@pytest.mark.parametrize(("family", "way"), [*(("gpt2", way) for way in WAYS), ("llama", "skip")])
@torch.no_grad()
def test_every_edge_of_the_sweep_is_its_own_masked_run(family: str, way: str) -> None:
    m = taken_apart(family, way)
    batch, context, live, carried = both(m)
    rng = np.random.default_rng(0)
    wanted = np.zeros(m.wiring.shape, dtype=bool)
    mlps = [c for c, name in enumerate(m.wiring.readers) if name[0] == "m"]
    for row, column in rng.permutation(np.argwhere(m.wiring.legal[:, mlps]))[:20]:
        wanted[row, mlps[column]] = True
    found = {
        edge: value
        for block, values in sweep(m, batch, context, live, carried, metric, wanted)
        for edge, value in zip(block, values, strict=True)
    }
    assert len(found) == wanted.sum()
    for edge, value in found.items():
        keep = m.wiring.legal.copy()
        keep[edge] = False
        assert distance(value, metric(run(m, batch, context, carried, keep))) < 1e-4


@torch.no_grad()
def test_a_bad_dictionary_changes_no_run() -> None:
    whole = model("gpt2")
    bad = [replace(own, decoder=own.decoder * 50, bias=own.bias * 50) for own in coders(whole)]
    m = split_into_features(whole, bad, chosen(whole))
    batch, context, _, carried = both(m)
    plain = answer(whole, batch, record(whole, context).final)
    assert distance(run(m, batch, context, carried, m.wiring.legal), plain) < 1e-3


# -- what is refused -------------------------------------------------------------------------------
def test_files_and_hooks_of_others_know_no_features(tmp_path: Path) -> None:
    m = taken_apart("gpt2", "relu")
    circuit = build(m.wiring, {("input", "m0"): 1.0, ("m0.rest", "logits"): 1.0})
    for write in (partial(write_eap, d_model=32), write_autocircuit, write_acdc):
        with pytest.raises(CircuitError, match="features"):
            write(circuit, tmp_path / "x.json")
    with pytest.raises(UnsupportedModelError, match="MLPs whole"):
        require_bridge(m)


def test_what_does_not_fit_is_refused() -> None:
    m = model("gpt2")
    with pytest.raises(DictionaryError, match="has no feature 20"):
        split_into_features(m, coders(m), {0: [20]})
    with pytest.raises(DictionaryError, match="without a dictionary"):
        split_into_features(m, [coder(m, 1)], {0: [2]})
    with pytest.raises(DictionaryError, match="two dictionaries"):
        split_into_features(m, [coder(m, 1), coder(m, 1)], {})
    with pytest.raises(DictionaryError, match="writes in several layers"):
        split_into_features(m, crossing(m), {})
    with pytest.raises(UnsupportedModelError, match="taken apart already"):
        split_into_features(taken_apart("gpt2", "relu"), coders(m), {})
    with pytest.raises(UnsupportedModelError, match="norm"):
        split_into_neurons(model("gemma2"), {0: [1]})
    with pytest.raises(CircuitError, match="each once"):
        Split((1, 1))
    with pytest.raises(CircuitError, match="how it is split"):
        Wiring(2, 1, 1, splits=(Split((1,)),))
