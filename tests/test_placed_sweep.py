"""The exact effect of single edges between places: each is its own masked run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from families import as_batch, in_turn, model
from test_placed import prompts

import circuitkit as ck
import circuitkit.engine.sweep as module
from circuitkit.data.places import places
from circuitkit.engine.placed_sweep import placed_sweep
from circuitkit.engine.record import answer, record
from circuitkit.engine.run import runs
from circuitkit.errors import CircuitError
from circuitkit.graph.circuit import placed_mask
from circuitkit.graph.nodes import parse_edge
from circuitkit.graph.placed_scores import PlacedScores
from circuitkit.graph.places import Edge, PlacedMask, Places
from circuitkit.metrics.answers import logit_diff


def one_of_each(where: Places, seed: int) -> list[Edge]:
    """A few edges of the residual stream into each kind of reader, and of attention by layer, key
    and value."""
    rng, kinds = Random(seed), dict[object, list[Edge]]()
    for w, r, s in np.argwhere(where.legal.residual).tolist():
        reader = where.wiring.readers[r]
        kinds.setdefault((reader.layer, reader.port), []).append((w, r, s))
    layer = [number for number, (_, rows) in enumerate(where.stages)
             for _ in range(rows.start, rows.stop)]  # fmt: skip
    for h, c, s, e in np.argwhere(where.legal.attention).tolist():
        kinds.setdefault((layer[h], c, s == e), []).append((h, c, s, e))
    return [edge for edges in kinds.values() for edge in rng.sample(edges, min(2, len(edges)))]


def without(where: Places, edge: Edge) -> PlacedMask:
    """All edges but one."""
    legal = where.legal
    residual, attention = legal.residual.copy(), legal.attention.copy()
    (residual if len(edge) == 3 else attention)[edge] = False
    return PlacedMask(where, residual, attention)


@pytest.mark.parametrize(("family", "way"), in_turn((True, "left"), (False, "right")))
@torch.no_grad()
def test_every_edge_of_the_sweep_is_its_own_masked_run(
    family: str, way: tuple[bool, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    m, (noise, padding) = model(family), way
    monkeypatch.setattr(module, "TOKENS", 400)  # several edges a block, several blocks a layer
    data = prompts(padding)
    batch, where = as_batch(data), places(data, m.wiring)
    clean, corrupt = (m.start(x, batch.mask) for x in (batch.clean, batch.corrupt))
    context = clean if noise else corrupt  # one edge alone is cut in the run on this prompt
    base, other = record(m, context), record(m, corrupt if noise else clean)
    asked = one_of_each(where, noise)
    wanted = PlacedMask(where, where.legal.residual & False, where.legal.attention & False)
    for edge in asked:
        (wanted.residual if len(edge) == 3 else wanted.attention)[edge] = True

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logit_diff(logits, logits, batch)

    found = dict[Edge, torch.Tensor]()
    for edges, values in placed_sweep(m, batch, context, base, other, metric, wanted):
        found |= zip(edges, values, strict=True)
    assert sorted(found) == sorted(asked)
    expected = runs(m, batch, context, other, [without(where, edge) for edge in asked])
    plain, moved = metric(answer(m, batch, base.final)), [0.0, 0.0]
    for edge, logits in zip(asked, expected, strict=True):
        torch.testing.assert_close(found[edge], metric(logits), rtol=1e-4, atol=2e-4)
        kind = len(edge) - 3
        moved[kind] = max(moved[kind], float((found[edge] - plain).abs().max()))
    assert min(moved) > 0.02  # what is compared is no sea of zeros


# -- patch_edges -----------------------------------------------------------------------------------
NAMES = [
    "input@S2->a0.g0<v>@S2",
    "a1.g0.v@S2->a1.h1@end",
    "a1.g0.k@S1->a1.h0@end",
    "m2@end->logits@end",
]


@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_patch_edges_takes_edges_between_places(direction: str, tmp_path: Path) -> None:
    """By name, as a mask and as a circuit, over batches; each is one masked run."""
    m, data = model("llama"), replace(prompts(), batch_size=2)
    where = places(data, m.wiring)
    names = NAMES
    found = ck.patch_edges(m, names, data, logit_diff, direction=direction, resume=tmp_path)
    again = ck.patch_edges(m, names, data, logit_diff, direction=direction, resume=tmp_path)
    assert (found.values == again.values).all()
    assert found.names == tuple(NAMES)
    assert list(found.to_frame()["writer"])[1] == "a1.g0.v@S2"
    start = 0
    for batch in data:
        clean, corrupt = (m.start(x, batch.mask) for x in (batch.clean, batch.corrupt))
        one, two = (clean, corrupt) if direction == "noise" else (corrupt, clean)
        base, other = record(m, one), record(m, two)
        plain = answer(m, batch, base.final)
        masks = [without(where, where.index(*parse_edge(name))) for name in names]
        for number, logits in enumerate(runs(m, batch, one, other, masks)):
            change = logit_diff(logits, logits, batch) - logit_diff(plain, plain, batch)
            expected = -change if direction == "noise" else change
            own = torch.from_numpy(found.values[number, start : start + len(batch)])
            torch.testing.assert_close(own.float(), expected, rtol=1e-4, atol=2e-4)
        start += len(batch)
    keep = where.legal.residual & False, where.legal.attention & False
    for name in names:
        index = where.index(*parse_edge(name))
        keep[len(index) - 3][index] = True
    by_mask = ck.patch_edges(m, PlacedMask(where, *keep), data, logit_diff, direction=direction)
    assert set(by_mask.names) == set(names)
    assert np.allclose(by_mask[names[1]], found[names[1]], atol=1e-5)


def test_a_circuit_between_places_is_patched_edge_by_edge() -> None:
    m, data = model("gpt2"), prompts()
    where, rng = places(data, m.wiring), np.random.default_rng(0)
    tables = [
        table * rng.random(table.shape) for table in (where.legal.residual, where.legal.attention)
    ]
    circuit = PlacedScores(where, *tables).top(30)
    found = ck.patch_edges(m, circuit, data, logit_diff)
    assert len(found.names) == sum(placed_mask(circuit).counts())
    with pytest.raises(CircuitError, match="no edges to patch"):
        ck.patch_edges(m, PlacedMask(where, tables[0] > 2, tables[1] > 2), data, logit_diff)
    with pytest.raises(CircuitError, match="places of a model of"):
        ck.patch_edges(model("llama"), circuit, data, logit_diff)
    with pytest.raises(CircuitError, match="'S3' is not a span"):
        ck.patch_edges(m, ["m0@S3->m1@S3"], data, logit_diff)
