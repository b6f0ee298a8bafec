"""The effect of each edge is that of its own masked run, and survives that the run is killed."""

from __future__ import annotations

import copy
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from families import SMALL, _hf, _stir, build, dataset, distance, exactly, in_turn, model

from circuitkit.corruptions.constants import mean, zero
from circuitkit.corruptions.gaussian import noise
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.discovery.sweeps import exact
from circuitkit.engine import edges as module
from circuitkit.engine.model import Context, Model
from circuitkit.engine.record import answer, record
from circuitkit.engine.run import run
from circuitkit.errors import CircuitError, NodeNameError, OutputError
from circuitkit.graph import circuit as circuits
from circuitkit.graph.nodes import edge_name
from circuitkit.metrics.answers import logit_diff, prob_diff
from circuitkit.models.transformer_lens import Transformer, from_module
from circuitkit.patching.edges import patch_edges
from circuitkit.util.progress import Count, counting

both_directions = pytest.mark.parametrize("direction", ["noise", "denoise"])


def some(m: Model, n: int = 6) -> list[tuple[int, int]]:
    """Edges from everywhere in the graph, the last one among them."""
    legal = np.argwhere(m.wiring.legal).tolist()
    return [(row, column) for row, column in [*legal[:: len(legal) // n], legal[-1]]]


def named(m: Model, places: list[tuple[int, int]]) -> list[str]:
    return [edge_name(m.wiring.writers[row], m.wiring.readers[column]) for row, column in places]


@torch.no_grad()
def one_by_one(
    m: Model, data: Dataset, places: list[tuple[int, int]], corruption: Any, direction: str
) -> np.ndarray:
    """The same by one masked run per edge, example and draw."""
    carry, columns = corruption(m, data), []
    for batch in data:
        context = m.start(batch.clean, batch.mask)
        live = record(m, context)
        effects = np.zeros((len(places), len(batch)))
        draws = carry(batch)
        for carried in draws:
            base, other = (live, carried) if direction == "noise" else (carried, live)
            itself = Context(base.embed, context.calls)
            logits = answer(m, batch, base.final)
            start = logit_diff(logits, logits, batch)
            for i, place in enumerate(places):
                keep = m.wiring.legal.copy()
                keep[place] = False
                logits = run(m, batch, itself, other, keep)
                change = (logit_diff(logits, logits, batch) - start).numpy()
                effects[i] += (-change if direction == "noise" else change) / len(draws)
        columns.append(effects)
    return np.concatenate(columns, axis=1)


# -- what it is ------------------------------------------------------------------------------------
@pytest.mark.parametrize(("family", "direction"), in_turn("noise", "denoise"))
def test_each_edge_is_its_own_masked_run_on_every_example(family: str, direction: str) -> None:
    m, data = exactly(family), dataset((7, 5, 7), batch_size=2)
    places = some(m)
    found = patch_edges(m, named(m, places), data, logit_diff, direction=direction)
    expected = one_by_one(m, data, places, counterfactual, direction)
    assert found.values.dtype == np.float32
    assert distance(found, expected) < 1e-5
    assert (np.abs(expected) > 1e-6).mean() > 0.4


@both_directions
def test_the_draws_of_a_corruption_are_averaged(direction: str) -> None:
    m, data = exactly("llama"), dataset((7, 5, 7), batch_size=2)
    corruption, places = partial(noise, multiple=1.0, draws=3), some(m)
    found = patch_edges(m, named(m, places), data, logit_diff, corruption, direction=direction)
    assert distance(found, one_by_one(m, data, places, corruption, direction)) < 1e-5
    first = patch_edges(m, named(m, places), data, logit_diff, partial(corruption, draws=1))
    assert distance(first, found) > 1e-2


# -- which edges, in which order -------------------------------------------------------------------
def test_effects_stand_in_the_order_in_which_the_edges_are_asked() -> None:
    m, data = model("qwen2"), dataset((7, 5, 7))
    places = some(m)
    Random(0).shuffle(places)
    w = m.wiring
    names = named(m, places)
    pairs = [(w.writers[row], w.readers[column]) for row, column in places]
    graph = circuits.build(w, dict.fromkeys(pairs, 1.0))
    mask = np.zeros(w.shape, dtype=bool)
    mask[tuple(np.array(places).T)] = True
    listed = [w.index(writer, reader) for writer, reader, _ in circuits.edges(graph)]

    every = patch_edges(m, None, data, logit_diff)
    assert every.shape == (w.n_edges, 3)
    table = np.zeros((*w.shape, 3))
    table[w.legal] = every
    for asked, order in (
        (names, places), (pairs, places), (graph, listed), (mask, sorted(places)),
        (names * 2, places * 2), (names[0], places[:1]),
    ):  # fmt: skip
        found = patch_edges(m, asked, data, logit_diff)
        assert distance(found, table[tuple(np.array(order).T)]) < 1e-4
    assert listed != sorted(listed) or places != sorted(places)
    assert len(np.unique(every[:, 0].round(6))) > w.n_edges / 2  # a wrong order would be seen


@pytest.mark.parametrize(
    ("edges", "error", "words"),
    [
        (["m1->m0"], CircuitError, "m1->m0"),
        ([("a0.h0", "a7.h0.q")], CircuitError, "a7.h0"),
        (["a0.h0"], NodeNameError, "a0.h0.*write it as"),
        (np.ones((2, 3), dtype=bool), CircuitError, r"\(2, 3\)"),
        ([], CircuitError, "no edges to patch; give at least one"),
        (np.zeros(model("gpt2").wiring.shape, dtype=bool), CircuitError, "no edges to patch"),
        (np.ones(model("gpt2").wiring.shape, dtype=bool), CircuitError, "is not an edge"),
    ],
)
def test_edges_that_there_are_not_are_refused(edges: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        patch_edges(model("gpt2"), edges, dataset((5, 5)), logit_diff)


def test_a_direction_that_there_is_not_is_refused() -> None:
    with pytest.raises(CircuitError, match=r"'sideways'.*denoise"):
        patch_edges(model("gpt2"), None, dataset((5, 5)), logit_diff, direction="sideways")


def test_identical_prompts_have_no_effects() -> None:
    m, data = model("gpt2"), dataset((7, 5))
    data = replace(data, examples=tuple(replace(e, corrupt=e.clean) for e in data.examples))
    assert np.abs(patch_edges(m, None, data, logit_diff)).max() < 1e-4
    assert np.abs(patch_edges(m, None, dataset((7, 5)), logit_diff)).max() > 0.1


# -- as scores -------------------------------------------------------------------------------------
def test_exact_scores_are_the_means_over_the_examples() -> None:
    m, data = model("mistral"), dataset((7, 5, 7), batch_size=2)
    effects = patch_edges(m, None, data, logit_diff, mean, direction="denoise")
    scores = exact(m, data, logit_diff, mean, direction="denoise")
    assert np.array_equal(
        scores.values[m.wiring.legal], effects.values.astype(float).mean(1).astype("f4")
    )
    assert not scores.values[~m.wiring.legal].any()
    assert scores.about["settings"] == {"direction": "denoise"}
    assert np.abs(effects).max() > 0.1


def test_exact_scores_only_the_edges_asked_for(tmp_path: Path) -> None:
    m, data = model("mistral"), dataset((7, 5, 7))
    places = some(m)
    index = tuple(np.array(places).T)
    every = exact(m, data, logit_diff, counterfactual)
    asked = exact(m, data, logit_diff, counterfactual, edges=named(m, places), resume=tmp_path)
    assert distance(asked.values[index], every.values[index]) < 1e-4
    others = np.ones(m.wiring.shape, dtype=bool)
    others[index] = False
    assert not asked.values[others].any()
    assert every.values[others].any()
    assert asked.about["settings"] == {"direction": "noise", "edges": len(places)}
    assert json.loads(json.dumps(dict(asked.about))) == asked.about


# -- going on --------------------------------------------------------------------------------------
BATCHES = dataset((7, 5, 7, 5, 7), batch_size=2)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks."""
    monkeypatch.setattr(module, "TOKENS", 2**8)


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many edges each sweep was asked for."""
    asked: list[int] = []

    def counted(*args: Any) -> Any:
        asked.append(int(args[6].sum()))  # the mask of what is asked for
        return real(*args)

    real = module.sweep
    monkeypatch.setattr(module, "sweep", counted)
    return asked


def blocks(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.safetensors"))


def little() -> Transformer:
    """A llama of 36 edges, which the batches below make ten blocks of."""
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    bare = _hf("LlamaForCausalLM", **SMALL | sizes)()
    _stir(bare)
    return from_module(bare, name="little")


def killed(act: Callable[[], Any], until: Callable[[], bool], pause: float) -> bool:
    """Whether a process that did this was killed before its end, a pause after a condition held."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(0)
    while not until():
        time.sleep(1e-3)
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return False
    time.sleep(pause)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.weekly
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.usefixtures("small")
def test_twenty_killed_runs_go_on_to_the_very_numbers_of_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    m, rng = little(), Random(0)
    corruption = partial(noise, draws=2)
    work = partial(exact, m, BATCHES, logit_diff, corruption)
    started = time.monotonic()
    expected = work(resume=tmp_path / "whole").values
    total, seconds = len(blocks(tmp_path / "whole")), time.monotonic() - started
    assert np.array_equal(expected, work().values)
    assert np.abs(expected).max() > 0.1
    midway = 0
    for trial in range(20):
        place = tmp_path / str(trial)
        least = rng.randrange(total * 3 // 4)
        hit = killed(
            partial(work, resume=place),
            lambda place=place, least=least: len(blocks(place)) >= least,
            rng.uniform(0, 2 * seconds / total),
        )
        midway += hit and 0 < len(blocks(place)) < total
        assert np.array_equal(work(resume=place).values, expected), trial
        assert len(blocks(place)) == total
    assert midway >= 10, "the runs were not killed while they worked"


@pytest.mark.usefixtures("small")
def test_finished_blocks_are_not_done_again(tmp_path: Path, sweeps: list[int]) -> None:
    m = model("gpt2")
    work = partial(patch_edges, m, None, BATCHES, logit_diff, resume=tmp_path)
    first = work()
    assert sum(sweeps) == m.wiring.n_edges * 3
    assert len(sweeps) == len(blocks(tmp_path)) > 20
    done = len(sweeps)
    assert np.array_equal(work(), first)
    assert len(sweeps) == done
    for path in blocks(tmp_path)[5:8]:
        path.unlink()
    assert np.array_equal(work(), first)
    assert len(sweeps) == done + 3
    assert np.abs(first).max() > 0.1


@pytest.mark.usefixtures("small")
def test_a_damaged_block_is_done_again(tmp_path: Path, sweeps: list[int]) -> None:
    work = partial(patch_edges, model("gpt2"), None, BATCHES, logit_diff, resume=tmp_path)
    first = work()
    done = len(sweeps)
    cut, swapped, *_, last = blocks(tmp_path)
    cut.write_bytes(cut.read_bytes()[:-3])
    swapped.write_bytes(last.read_bytes())
    assert np.array_equal(work(), first)
    assert len(sweeps) == done + 2
    assert np.array_equal(work(), first)
    assert len(sweeps) == done + 2


@pytest.mark.usefixtures("small")
def test_an_error_loses_only_the_block_in_which_it_happens(
    tmp_path: Path, sweeps: list[int]
) -> None:
    m = model("gpt2")
    expected = patch_edges(m, None, BATCHES, logit_diff)
    total = len(sweeps)

    def logit_diff_until(*args: Any) -> Any:
        if len(sweeps) == total + 9:
            raise KeyboardInterrupt
        return logit_diff(*args)

    logit_diff_until.__name__ = "logit_diff"
    with pytest.raises(KeyboardInterrupt):
        patch_edges(m, None, BATCHES, logit_diff_until, resume=tmp_path)
    assert len(blocks(tmp_path)) == 8
    assert np.array_equal(patch_edges(m, None, BATCHES, logit_diff, resume=tmp_path), expected)
    assert len(sweeps) == 2 * total + 1


FIRST, *REST = BATCHES.examples


def but(**change: Any) -> Dataset:
    """The same prompts, but for one thing of the first."""
    return replace(BATCHES, examples=(replace(FIRST, **change), *REST))


RUNS: dict[str, dict[str, Any]] = {
    "metric": {"metric": prob_diff},
    "corruption": {"corruption": zero},
    "draw": {"corruption": partial(noise, seed=1)},
    "direction": {"direction": "denoise"},
    "edges": {"edges": ["input->m0", "m0->logits"]},
    "fewer edges": {"edges": ["m0->logits"]},
    "prompts": {"data": dataset((7, 5, 7, 5, 7), batch_size=2, seed=1)},
    "corrupted prompt": {"data": but(corrupt=(*FIRST.corrupt[:-1], 59 - FIRST.corrupt[-1]))},
    "correct answer": {"data": but(correct=(59 - FIRST.correct[0],))},
    "wrong answer": {"data": but(wrong=(59 - FIRST.wrong[0],))},
    "spans": {"data": but(spans={**FIRST.spans, "subject": (1, 2)})},
    "batches": {"data": replace(BATCHES, batch_size=5)},
    "padding": {"data": replace(BATCHES, padding="left")},
    "precision": {"model": exactly("gpt2")},
}


def test_different_runs_share_no_block(tmp_path: Path, sweeps: list[int]) -> None:
    plain = {"model": model("gpt2"), "data": BATCHES, "metric": logit_diff, "edges": ["m0->m1"],
             "corruption": noise}  # fmt: skip
    patch_edges(**plain, resume=tmp_path)
    for name, change in RUNS.items():
        expected = patch_edges(**{**plain, **change})
        before, there = len(sweeps), len(blocks(tmp_path))
        found = patch_edges(**{**plain, **change}, resume=tmp_path)
        assert np.array_equal(found, expected), name
        assert len(sweeps) - before == len(blocks(tmp_path)) - there > 0, name
    assert len(list(tmp_path.iterdir())) == len(RUNS) + 1


@both_directions
def test_blocks_of_other_weights_under_the_same_name_are_refused(
    tmp_path: Path, direction: str
) -> None:
    module_ = build("gpt2")
    changed = copy.deepcopy(module_)
    with torch.no_grad():
        changed.transformer.h[1].mlp.c_fc.weight.mul_(1.01)
    one, other = (from_module(x, name="gpt2") for x in (module_, changed))
    work = partial(
        patch_edges, data=BATCHES, metric=logit_diff, edges=None, direction=direction,
        resume=tmp_path,
    )  # fmt: skip
    first = work(one)
    with pytest.raises(OutputError, match=r"'gpt2'.*different directory"):
        work(other)
    assert np.array_equal(work(one), first)


def test_blocks_of_another_metric_under_the_same_name_are_refused(tmp_path: Path) -> None:
    def named_alike(sign: int) -> Any:
        def mine(logits: torch.Tensor, *_: Any) -> torch.Tensor:
            return sign * logits[:, 3]

        return mine

    m = model("gpt2")
    patch_edges(m, ["m0->m1"], BATCHES, named_alike(1), resume=tmp_path)
    with pytest.raises(OutputError, match="metric"):
        patch_edges(m, ["m0->m1"], BATCHES, named_alike(-1), resume=tmp_path)


def test_rounding_alone_is_no_other_model(tmp_path: Path) -> None:
    """Blocks are taken up on another machine too."""

    def rounded(logits: torch.Tensor, reference: torch.Tensor, batch: Any) -> torch.Tensor:
        return logit_diff(logits, reference, batch) * (1 + 1e-6)

    rounded.__name__ = "logit_diff"
    m = model("gpt2")
    first = patch_edges(m, ["m0->m1"], BATCHES, logit_diff, resume=tmp_path)
    assert np.array_equal(patch_edges(m, ["m0->m1"], BATCHES, rounded, resume=tmp_path), first)


def test_a_place_that_cannot_be_written_is_refused_before_any_run(
    tmp_path: Path, sweeps: list[int]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    with pytest.raises(OutputError, match="taken"):
        patch_edges(model("gpt2"), None, BATCHES, logit_diff, resume=taken)
    assert not sweeps


# -- the time left ---------------------------------------------------------------------------------
@pytest.mark.usefixtures("small")
def test_edges_are_counted_over_all_batches_once_whatever_the_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals, counted = [], []

    @contextmanager
    def watched(total: int, label: str, unit: str) -> Iterator[Count]:
        totals.append((total, unit))
        yield lambda n, *, earlier=False: counted.append((n, earlier))

    monkeypatch.setattr(module, "counting", watched)
    m = model("gpt2")
    work = partial(
        patch_edges, m, None, BATCHES, logit_diff, partial(noise, draws=3), resume=tmp_path
    )
    work()
    assert totals == [(m.wiring.n_edges * 3, "edge")]
    assert sum(n for n, _ in counted) == m.wiring.n_edges * 3
    assert not any(earlier for _, earlier in counted)
    counted.clear()
    blocks(tmp_path)[4].unlink()
    work()
    assert sum(n for n, _ in counted) == m.wiring.n_edges * 3
    assert 0 < sum(n for n, earlier in counted if not earlier) < m.wiring.n_edges / 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_an_earlier_run_did_is_counted_and_says_nothing_about_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with counting(1000, "exact", "edge") as count:
            count(900, earlier=True)
            time.sleep(0.15)
            count(10)
        shown = stream.getvalue()
        if not stream.isatty():
            assert not shown
            continue
        assert "900/1000" in shown
        last = shown.split("910/1000")[1]
        rate = float(last.split(",")[1].split("edge/s")[0])
        assert 0 < rate < 100  # and not thousands
