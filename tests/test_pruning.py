"""ACDC: the chains of edges that are tested at once decide what one edge after the other does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, GROUPED, SMALL, _hf, _stir, mlp_column
from gates import AND, OR, SUM, gate_prompts, gates
from test_sweep import pairs

from circuitkit.corruptions.constants import mean
from circuitkit.corruptions.gaussian import noise
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.discovery import pruning
from circuitkit.discovery.pruning import acdc
from circuitkit.discovery.sweeps import exact
from circuitkit.engine.metric import Corruption, Metric
from circuitkit.engine.model import Model
from circuitkit.engine.record import answer, record
from circuitkit.engine.run import run
from circuitkit.errors import ArgumentError, MetricError
from circuitkit.evaluation.faithfulness import evaluate, measure_all
from circuitkit.graph.scores import Scores
from circuitkit.graph.wiring import Wiring
from circuitkit.metrics.answers import logit_diff
from circuitkit.metrics.divergence import kl
from circuitkit.models.loading import load
from circuitkit.models.transformer_lens import from_module
from circuitkit.workflows.discover import discover

DRAWS = partial(noise, draws=2)
PAIR: dict[str, Any] = {**SMALL, "num_attention_heads": 2, "num_key_value_heads": 1}
KINDS: dict[str, Callable[[], Any]] = {
    "gpt2": _hf("GPT2LMHeadModel", n_embd=32, n_layer=3, n_head=2, vocab_size=60, n_positions=64),
    "parallel": _hf("GPTNeoXForCausalLM", **SMALL | {"num_attention_heads": 2}),
    "grouped": _hf("LlamaForCausalLM", **GROUPED | {"num_hidden_layers": 2}),
    "post-norm": _hf("Gemma2ForCausalLM", **PAIR, head_dim=12, sliding_window=6),
    # a norm over all heads' queries, with post-norm and without
    "coupled": _hf("Olmo2ForCausalLM", **PAIR),
    "coupled-alone": _hf(
        "OlmoeForCausalLM",
        **PAIR,
        num_experts=4,
        num_experts_per_tok=2,
        experts_implementation="eager",
    ),
    "attention-only": FAMILIES["attention-only"],
}


@cache
def wide(kind: str) -> Model:
    """A tiny model in double precision, where no decision is a matter of rounding."""
    torch.manual_seed(0)
    module = KINDS[kind]()
    _stir(getattr(module, "original_model", module))
    return from_module(module.to(torch.float64), name=kind)


def visits(wiring: Wiring, order: str, seed: int) -> Iterator[tuple[int, list[int]]]:
    """Each reader with its writers; written down here but for the shuffled orders."""
    if order == "random":
        rng = np.random.default_rng(seed)
        for column in pruning._readers(wiring, rng):
            yield column, pruning._writers(wiring, column, order, rng)
        return
    columns = [wiring.shape[1] - 1]
    for layer in range(wiring.layers - 1, -1, -1):
        columns += [wiring.reader[f"m{layer}"]] if wiring.mlp else []
        names = [r for r in wiring.readers if r.layer == layer and r.port]
        columns += [wiring.reader[name] for name in names[::-1]]
    for column in columns:
        rows = np.flatnonzero(wiring.legal[:, column]).tolist()
        yield column, rows if order == "forward" else rows[::-1]


@torch.no_grad()
def one_by_one(
    model: Model,
    data: Dataset,
    metric: Metric,
    corruption: Corruption,
    threshold: float,
    order: str,
    seed: int,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Algorithm 1 of the paper: one run of the whole graph, or of a circuit, for every edge."""
    carry, runs, draws = corruption(model, data), [], 1
    for batch in data:
        context = model.start(batch.clean, batch.mask)
        reference = answer(model, batch, record(model, context).final)
        drawn = carry(batch)
        draws = len(drawn)
        runs += [(batch, context, reference, carried) for carried in drawn]

    def value(keep: np.ndarray) -> float:
        each = [metric(run(model, batch, context, carried, keep), reference, batch).sum()
                for batch, context, reference, carried in runs]  # fmt: skip
        return float(sum(each)) / len(data) / draws

    keep = (model.wiring.legal if start is None else start).copy()
    losses, current = np.zeros(model.wiring.shape), value(keep)
    for column, rows in visits(model.wiring, order, seed):
        for row in (row for row in rows if keep[row, column]):
            keep[row, column] = False
            without = value(keep)
            if current - without < threshold:
                current = without
            else:
                keep[row, column] = True
                losses[row, column] = current - without
    return losses


def gap(model: Model, data: Dataset, metric: Metric, corruption: Corruption) -> float:
    ((everything, nothing),) = measure_all(model, [], data, [metric], corruption).mean(-1)
    return float(everything - nothing)


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of every chain that is tested, how long it was and how much of it was decided."""
    seen: list[tuple[int, int]] = []
    inner = pruning._Pruning._test

    def spy(self: Any, column: int, rows: list[int], threshold: float) -> int:
        decided = inner(self, column, rows, threshold)
        seen.append((len(rows), decided))
        return decided

    monkeypatch.setattr(pruning._Pruning, "_test", spy)
    return seen


CASES = [
    ("gpt2", "reverse", logit_diff, counterfactual),
    ("gpt2", "forward", kl, mean),
    ("parallel", "random", logit_diff, mean),
    ("grouped", "forward", logit_diff, counterfactual),
    ("post-norm", "random", kl, counterfactual),
    ("coupled", "forward", logit_diff, counterfactual),
    ("coupled-alone", "random", logit_diff, counterfactual),
    ("attention-only", "random", logit_diff, counterfactual),
]


@pytest.mark.parametrize(("kind", "order", "metric", "corruption"), CASES)
def test_chains_decide_what_one_edge_after_the_other_does(
    kind: str, order: str, metric: Metric, corruption: Corruption, chains: list[tuple[int, int]]
) -> None:
    model, data = wide(kind), pairs(2)
    threshold = 0.04 * abs(gap(model, data, metric, corruption))
    found = acdc(model, data, metric, corruption, threshold=threshold, order=order, seed=1)
    expected = one_by_one(model, data, metric, corruption, threshold, order, 1)
    agrees(found, expected)
    assert 3 < (expected != 0).sum() < 0.7 * model.wiring.n_edges
    assert found.values[expected != 0].min() >= np.float32(threshold)
    assert max(decided for _, decided in chains) > 3
    assert any(1 < decided < length for length, decided in chains)


def agrees(found: Scores, expected: np.ndarray) -> None:
    """The same edges are kept, for the same losses; the norms of some families are in float32."""
    np.testing.assert_array_equal(found.values != 0, expected != 0)
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.weekly
def test_the_mean_is_over_all_batches_and_draws() -> None:
    model, data = wide("grouped"), replace(pairs(2), batch_size=1)
    threshold = 0.1 * abs(gap(model, data, logit_diff, DRAWS))
    found = acdc(model, data, logit_diff, DRAWS, threshold=threshold)
    agrees(found, one_by_one(model, data, logit_diff, DRAWS, threshold, "reverse", 0))
    assert 3 < (found.values != 0).sum() < 0.7 * model.wiring.n_edges


@pytest.mark.parametrize("chain", [1, 4, 64])
def test_the_length_of_the_chains_changes_nothing(
    chain: int, chains: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = wide("post-norm"), pairs(2)
    usual = acdc(model, data, logit_diff, counterfactual)
    chains.clear()
    monkeypatch.setattr(pruning, "CHAIN", chain)
    agrees(acdc(model, data, logit_diff, counterfactual), usual.values)
    longest = max(length for length, _ in chains)
    assert longest <= chain
    assert longest > min(chain, 4) - 1
    assert np.any(usual.values != 0)


# -- thresholds ------------------------------------------------------------------------------------
def test_while_nothing_that_matters_is_cut_the_losses_are_the_exact_effects() -> None:
    model, data = wide("grouped"), pairs(2)
    found = acdc(model, data, kl, counterfactual, threshold=1e-9)
    effects = exact(model, data, kl, counterfactual).values
    assert (found.values != 0).sum() > 0.9 * model.wiring.n_edges
    np.testing.assert_allclose(found.values, effects, rtol=1e-4, atol=1e-8)


def test_a_huge_threshold_cuts_everything_and_then_tests_nothing_more(
    chains: list[tuple[int, int]],
) -> None:
    model = wide("gpt2")
    found = acdc(model, pairs(2), logit_diff, counterfactual, threshold=1e3)
    assert not found.values.any()
    assert found.chosen is not None
    assert not found.chosen.any()
    decided = sum(decided for _, decided in chains)
    assert decided == len(model.wiring.writers), "only the edges into the logits are tested"


@pytest.mark.parametrize("metric", [logit_diff, kl])
def test_the_circuit_costs_less_than_the_threshold_for_each_cut_edge(metric: Metric) -> None:
    model, data = wide("parallel"), pairs(2)
    found = acdc(model, data, metric, counterfactual)
    keep = found.values != 0
    assert found.chosen is not None
    assert keep.sum() > found.chosen.sum() / 2 > 2
    whole = gap(model, data, metric, counterfactual)
    threshold = found.about["settings"]["threshold"]
    assert threshold == pytest.approx(0.01 * abs(whole))
    seen = evaluate(model, found.chosen, data, metric, counterfactual)
    lost = seen.everything.mean() - seen.circuit.mean()
    cut = model.wiring.n_edges - keep.sum()
    assert lost < threshold * cut
    assert abs(lost) > 1e-6


def test_what_is_said_of_the_result() -> None:
    m = wide("gpt2")
    found = acdc(m, pairs(2), kl, counterfactual, threshold=0.5, order="forward", seed=3)
    about = {**found.about}
    assert about.pop("weights") == m.weights.digest()
    assert about.pop("settings") == {"threshold": 0.5, "order": "forward", "seed": 3}
    assert about == {
        "model": "gpt2", "metric": "kl", "corruption": "counterfactual", "method": "acdc",
        "examples": 2, "chosen": True, "seen": "".join(e.fingerprint for e in pairs(2).examples),
    }  # fmt: skip


SHARES = (0.02, 0.08, 0.25)  # of the gap


@pytest.mark.parametrize(("kind", "order", "metric", "corruption"), CASES[::3])
def test_over_thresholds_each_run_starts_from_the_last_circuit(
    kind: str, order: str, metric: Metric, corruption: Corruption
) -> None:
    model, data = wide(kind), pairs(2)
    whole = abs(gap(model, data, metric, corruption))
    grid = [share * whole for share in SHARES]
    found = acdc(model, data, metric, corruption, thresholds=grid[::-1], order=order, seed=1)
    assert found.about["settings"]["thresholds"] == grid
    assert found.chosen is None, "it is a ranking"
    left, sizes = None, []
    for threshold in grid:
        losses = one_by_one(model, data, metric, corruption, threshold, order, 1, left)
        left = losses != 0
        np.testing.assert_array_equal(found.values >= np.float32(threshold), left)
        sizes.append(int(left.sum()))
    assert model.wiring.n_edges > sizes[0] > sizes[1] > sizes[2] > 0
    assert set(np.unique(found.values)) <= {0.0, *np.float32(grid)}


def test_thresholds_resume_where_a_run_was_killed(
    tmp_path: Path, chains: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = wide("gpt2"), pairs(2)
    grid = [share * abs(gap(model, data, logit_diff, counterfactual)) for share in SHARES]
    run_all = partial(acdc, model, data, logit_diff, counterfactual, thresholds=grid)
    whole, whole_tests = run_all().values, len(chains)
    inner, done = pruning._Pruning.prune, []

    def killed(self: Any, threshold: float, order: str, seed: int) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(threshold)
        inner(self, threshold, order, seed)

    monkeypatch.setattr(pruning._Pruning, "prune", killed)
    with pytest.raises(KeyboardInterrupt):
        run_all(resume=tmp_path)
    monkeypatch.setattr(pruning._Pruning, "prune", inner)
    chains.clear()
    assert np.array_equal(run_all(resume=tmp_path).values, whole)
    assert 0 < len(chains) < whole_tests / 4
    chains.clear()
    assert np.array_equal(run_all(resume=tmp_path).values, whole)
    assert not chains, "all of it was done"


def test_thresholds_that_say_nothing_are_refused() -> None:
    run_some = partial(acdc, wide("gpt2"), pairs(2), kl, counterfactual)
    for wrong, match in (([], "give at least one"), ([0.1, 0], "thresholds="), ([-1], "thresh")):
        with pytest.raises(ArgumentError, match=match):
            run_some(thresholds=wrong)
    with pytest.raises(ArgumentError, match="one or the other"):
        run_some(threshold=0.1, thresholds=[0.1])


@pytest.mark.parametrize("threshold", [0, -0.1, 1e-60, np.inf, np.nan])
def test_a_threshold_that_decides_nothing_is_refused(threshold: float) -> None:
    with pytest.raises(ArgumentError, match=f"threshold={threshold}; give a number of at least"):
        acdc(wide("gpt2"), pairs(2), kl, counterfactual, threshold=threshold)


def test_without_a_gap_a_threshold_has_to_be_given() -> None:
    model, same = wide("gpt2"), pairs(2)
    same = replace(same, examples=tuple(replace(e, corrupt=e.clean) for e in same.examples))
    with pytest.raises(MetricError, match=r"logit_diff is .* give acdc one"):
        acdc(model, same, logit_diff, counterfactual)
    assert not acdc(model, same, logit_diff, counterfactual, threshold=1e-6).values.any()


def test_an_order_that_there_is_not_is_refused() -> None:
    with pytest.raises(ArgumentError, match="did you mean 'reverse'"):
        acdc(wide("gpt2"), pairs(2), kl, counterfactual, order="revers")


# -- orders ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_readers_come_after_all_that_hears_them(kind: str, seed: int | None) -> None:
    wiring = wide(kind).wiring
    rng = None if seed is None else np.random.default_rng(seed)
    columns = list(pruning._readers(wiring, rng))
    assert sorted(columns) == list(range(len(wiring.readers)))
    place = {column: i for i, column in enumerate(columns)}
    checked = 0
    for row in range(1, len(wiring.writers)):
        for reader in np.flatnonzero(wiring.legal[row]):
            for own in wiring.feeds(row):
                assert place[int(reader)] < place[own]
                checked += 1
    assert checked > 100


def test_a_seed_shuffles_the_readers_of_a_layer_and_the_writers() -> None:
    wiring = wide("parallel").wiring
    a, b, again = (list(pruning._readers(wiring, np.random.default_rng(s))) for s in (0, 1, 0))
    assert a == again != b
    column = mlp_column(wiring, 2)
    one, two = (
        pruning._writers(wiring, column, "random", np.random.default_rng(s)) for s in (0, 1)
    )
    assert one != two
    assert sorted(one) == sorted(two) == list(range(wiring.upstream[column]))


def kept(scores: Scores) -> dict[str, float]:
    """The kept edges by their names, each with what it cost."""
    return dict(scores.strongest(int((scores.values != 0).sum())))


# Of the gates, cutting one input of the OR costs nothing while the other is there; each input of
# the AND costs s, as does each of the SUM, and s is 2 on average; the answer is 4 s.
STRONG = {"m0->logits": 8.0}
ALWAYS = (*AND, *SUM)


@pytest.mark.parametrize(("order", "leg"), [("reverse", OR[0]), ("forward", OR[1])])
def test_of_an_or_gate_the_leg_that_is_tested_last_stays(order: str, leg: int) -> None:
    found = acdc(gates(), gate_prompts(), logit_diff, counterfactual, order=order)
    heads = (leg, *ALWAYS)
    expected = STRONG | {f"a0.h{h}->m0": 2.0 for h in heads}
    expected |= {f"input->a0.h{h}<v>": 2.0 for h in heads}
    assert kept(found) == expected


def test_an_edge_that_costs_just_the_threshold_stays() -> None:
    found = acdc(gates(), gate_prompts(), logit_diff, counterfactual, threshold=2.0)
    assert 2.0 in kept(found).values()
    above = acdc(gates(), gate_prompts(), logit_diff, counterfactual, threshold=2.001)
    assert 2.0 not in kept(above).values()


def test_random_orders_find_either_leg() -> None:
    legs = set()
    for seed in range(3):
        found = kept(acdc(gates(), gate_prompts(), logit_diff, counterfactual,
                          order="random", seed=seed))  # fmt: skip
        assert len(found) == 1 + 2 * (1 + len(ALWAYS))
        legs |= {head for head in OR if f"a0.h{head}->m0" in found}
    assert legs == set(OR)


# -- in use ----------------------------------------------------------------------------------------
def test_the_circuit_of_the_small_model_is_faithful() -> None:
    found = discover(load("mini"), "ioi", method="acdc", metric="kl", examples=8)
    assert found.circuit.graph["method"] == "acdc"
    assert found.evaluation.faithfulness > 0.8 > 0.3 > found.random
    assert found.evaluation.edges < 0.2 * found.scores.wiring.n_edges
    assert found.evaluation.edges == found.scores.chosen.sum()
