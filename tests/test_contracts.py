"""What every metric, corruption and discovery method in the catalogue promises."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, Layers, able, as_batch, dataset, distance, model
from torch import Tensor

from circuitkit.corruptions import counterfactual, zero
from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.run import record
from circuitkit.errors import CircuitkitError, EvaluationError
from circuitkit.evaluation.faithfulness import evaluate, known
from circuitkit.graph.scores import Scores
from circuitkit.metrics import accuracy, logit_diff, probability, top1
from circuitkit.registry import lookup, names

KINDS = ["gpt2", "neox-parallel", "llama", "gemma2", "olmo2", "mixtral", "attention-only"]
every_kind = pytest.mark.parametrize("family", KINDS)
every_corruption = pytest.mark.parametrize("corruption", names("corruptions"))
every_method = pytest.mark.parametrize("method", names("discovery"))
every_metric = pytest.mark.parametrize("metric", names("metrics"))


def test_the_catalogue_holds_what_is_put_to_the_test() -> None:
    assert {"logit_diff", "kl", "accuracy"} <= set(names("metrics"))
    assert {"counterfactual", "zero", "mean", "resample", "noise"} <= set(names("corruptions"))
    assert {"eap", "eap_ig", "random"} <= set(names("discovery"))


# -- metrics ---------------------------------------------------------------------------------------
@every_metric
@every_kind
def test_a_metric_judges_each_example_of_a_real_run(family: str, metric: str) -> None:
    m, data = model(family), able(family)
    found = evaluate(m, m.wiring.legal, data, lookup("metrics", metric), counterfactual)
    for values in (found.everything, found.nothing, found.circuit):
        assert values.shape == (len(data),)
        assert np.isfinite(values).all()
    assert np.abs(found.everything - found.nothing).max() > 1e-3
    assert found.metric == metric


# -- corruptions -----------------------------------------------------------------------------------
@every_corruption
@pytest.mark.parametrize("family", FAMILIES)
def test_a_corruption_carries_a_value_for_every_writer(family: str, corruption: str) -> None:
    m, data = model(family), dataset(padding="left")
    w, carry = m.wiring, lookup("corruptions", corruption)(m, data)
    for batch in data:
        shape, draws = (*batch.clean.shape, m.d_model), carry(batch)
        assert draws
        for run in draws:
            assert isinstance(run, Activations)
            assert run.embed.shape == run.final.shape == shape
            assert len(run.reads) == len(run.computed) == len(run.shares) == len(w.stages)
            for stage, read, *values in zip(
                w.stages, run.reads, run.computed, run.shares, strict=True
            ):
                width = m.d_head if stage.kind == "attention" else m.d_model
                assert read.shape == shape
                assert all(x.shape == (*shape[:2], stage.writes, width) for x in values)
            for x in tensors(run):
                assert torch.isfinite(x).all()
                assert not x.requires_grad
                assert x.dtype == m.dtype


@every_corruption
@every_kind
def test_what_is_carried_adds_up(family: str, corruption: str) -> None:
    """Each layer reads the embedding and what the writers before it carry, with the biases."""
    m, data = model(family), dataset()
    batch = as_batch(data)
    for run in lookup("corruptions", corruption)(m, data)(batch):
        x, own = run.embed, Layers(m.wiring, run)
        for layer in range(m.wiring.layers):
            assert difference(own.attn_in[layer], x, batch.mask) < 1e-5
            bias = m.constant(layer)
            attention = m.write(layer, None, own.heads[layer]).sum(0)
            middle = x + attention + (0 if bias is None else bias)
            if m.wiring.mlp:
                read = x if m.wiring.parallel else middle
                assert difference(own.mlp_in[layer], read, batch.mask) < 1e-5
                middle = middle + own.mlps[layer]
            x = middle
        assert difference(run.final, x, batch.mask) < 1e-5


def difference(one: Tensor, two: Tensor, mask: Tensor) -> float:
    """The largest difference at tokens that are no padding; zeros may be compared."""
    return float((one - two)[mask].abs().max() / (1 + two[mask].abs().max()))


@every_corruption
@every_kind
def test_what_claims_to_be_one_real_run_is_one(family: str, corruption: str) -> None:
    """A run that starts at the first difference relies on it."""
    m, data = model(family), dataset()
    batch = as_batch(data)
    for run in lookup("corruptions", corruption)(m, data)(batch):
        again = record(m, m.start(batch.clean, batch.mask), run.embed)
        same = difference(again.final, run.final, batch.mask) < 1e-5
        assert same or not run.consistent
        assert run.consistent == (corruption in ("counterfactual", "resample", "noise"))


@every_corruption
def test_a_corruption_carries_the_same_each_time(corruption: str) -> None:
    m, data = model("gpt2"), dataset()
    batch, make = as_batch(data), lookup("corruptions", corruption)
    one, two = make(m, data)(batch), make(m, data)(batch)
    pairs = zip(tensors(one[0]), tensors(two[0]), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    clean = record(m, m.start(batch.clean, batch.mask))
    assert distance(one[0].final[batch.mask], clean.final[batch.mask]) > 1e-2


def tensors(run: Activations) -> list[Tensor]:
    """Every tensor of a run."""
    single = [run.embed, run.final]
    return single + [x for xs in (run.reads, run.computed, run.shares) for x in xs]


# -- discovery -------------------------------------------------------------------------------------
def discover(method: str, m: Model, data: Dataset) -> Scores:
    """The scores of a method with its defaults."""
    found: Scores = lookup("discovery", method)(m, data, logit_diff, counterfactual)
    return found


@every_method
@every_kind
def test_a_method_scores_every_edge_and_says_how(family: str, method: str) -> None:
    m = model(family)
    found = discover(method, m, dataset())
    assert isinstance(found, Scores)
    assert found.wiring == m.wiring
    assert found.values.shape == m.wiring.shape
    assert found.values.dtype == np.float32
    assert np.isfinite(found.values).all()
    scored = (found.values[m.wiring.legal] != 0).mean()
    assert scored > (
        0 if found.about.get("chosen") else 0.5
    )  # a method may keep few and cut others
    assert not found.values[~m.wiring.legal].any(), "there is no edge"
    assert found.about["model"] == family
    assert found.about["method"] == method
    assert isinstance(found.about["settings"], dict)
    assert json.loads(json.dumps(dict(found.about))) == found.about


@every_method
def test_a_method_scores_the_same_each_time(method: str) -> None:
    m = model("llama")
    one, two = (discover(method, m, dataset()) for _ in range(2))
    assert np.array_equal(one.values, two.values)
    assert one.about == two.about


@pytest.mark.parametrize("method", [n for n in names("discovery") if n != "random"])
@every_kind
def test_identical_prompts_score_zero_or_are_refused(family: str, method: str) -> None:
    m, data = model(family), dataset()
    data = replace(data, examples=tuple(replace(e, corrupt=e.clean) for e in data.examples))
    try:
        found = discover(method, m, data)
    except CircuitkitError:
        return
    if "corruption" in found.about:  # what it carries is then what is there
        assert np.abs(found.values).max() < 1e-5  # an exact effect is a difference of two runs


@pytest.mark.parametrize("method", [n for n in names("discovery") if n != "random"])
@every_metric
def test_a_method_uses_a_metric_or_refuses_it_by_its_name(method: str, metric: str) -> None:
    m, function = model("gpt2"), lookup("metrics", metric)
    try:
        found = lookup("discovery", method)(m, able("gpt2"), function, counterfactual)
    except CircuitkitError as error:
        assert metric in str(error)  # noqa: PT017
        assert metric in ("accuracy", "top1", "kl", "js")
        return
    assert np.abs(found.values).max() > 1e-3
    assert found.about.get("metric", metric) == metric


@every_method
def test_what_a_method_does_not_name_it_does_not_use(method: str) -> None:
    """A baseline may look at the clean run alone, or at no gradient; it says so."""
    m, data, function = model("gpt2"), able("gpt2"), lookup("discovery", method)
    found = discover(method, m, data)
    other = {
        "metric": function(m, data, probability, counterfactual),
        "corruption": function(m, data, logit_diff, zero),
    }
    for choice, scores in other.items():
        same = np.array_equal(scores.values, found.values)
        assert same == (choice not in found.about)


# -- what the model knows --------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_known_examples_are_those_that_a_plain_run_of_each_alone_answers(
    size: int, padding: str
) -> None:
    m, data = model("gpt2"), able("gpt2", (7, 5, 7, 9, 7, 5), seed=2)
    swapped = [replace(e, correct=e.wrong, wrong=e.correct) for e in data.examples[::2]]
    far = replace(data.examples[1], wrong=(), correct=data.examples[1].wrong)
    kept = (*data.examples[1::2], *swapped[:2], data.examples[0], far)
    mixed = replace(data, examples=kept, batch_size=size, padding=padding)

    def first(example: Example) -> bool:
        ids = torch.tensor([example.clean])
        best = m.native(ids, torch.ones_like(ids).bool()).logits[0, -1].argmax()
        return int(best) in example.correct

    expected = tuple(filter(first, kept))
    assert 0 < len(expected) < len(kept)
    for metric in (accuracy, top1):
        found = known(m, mixed, metric)
        assert found == replace(mixed, examples=expected)


def test_what_beats_the_wrong_answer_but_not_all_tokens_is_known_by_accuracy_alone() -> None:
    m, data = model("gpt2"), able("gpt2")
    worst = []
    for example in data.examples:
        ids = torch.tensor([example.clean])
        logits = m.native(ids, torch.ones_like(ids).bool()).logits[0, -1]
        worst.append(replace(example, correct=example.wrong, wrong=(int(logits.argmin()),)))
    second = replace(data, examples=tuple(worst))
    assert known(m, second, accuracy) == second
    with pytest.raises(EvaluationError, match="top1 is above 1/2 on none of 6 prompts"):
        known(m, second, top1)


# -- nothing changes its arguments or the model ----------------------------------------------------
def state(m: Any) -> dict[str, Any]:
    """All of a model that a verb could change."""
    modules = dict(m.bridge.named_modules())
    modules |= {f"original.{n}": x for n, x in m.bridge.original_model.named_modules()}
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "weights": {n: p.detach().clone() for n, p in m.bridge.named_parameters()},
        "buffers": {n: b.detach().clone() for n, b in m.bridge.named_buffers()},
        "grads": {n: p.grad is None for n, p in m.bridge.named_parameters()},
        "requires": {n: p.requires_grad for n, p in m.bridge.named_parameters()},
        "training": {n: x.training for n, x in modules.items()},
        "hooks": {n: [len(getattr(x, h)) for h in hooks] for n, x in modules.items()},
        "children": {n: [id(c) for c in x.children()] for n, x in modules.items()},
        "seeds": (torch.get_rng_state(), torch.tensor(random.getstate()[1][:9])),
        "numpy": torch.from_numpy(np.random.get_state()[1].astype(np.int64)),  # type: ignore[index, union-attr]
        "mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def unchanged(one: Any, two: Any) -> bool:
    """Whether two states are the same, bit by bit."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(unchanged(one[k], two[k]) for k in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(two) and all(unchanged(a, b) for a, b in zip(one, two, strict=True))
    return torch.equal(one, two) if isinstance(one, Tensor) else bool(one == two)


ACTS: dict[str, Callable[[Any, Dataset], Any]] = {
    **{f"{kind} {name}": (lambda m, data, name=name: discover(name, m, data))
       for kind in ["discovery"] for name in names(kind)},
    **{f"corruption {name}": (lambda m, data, name=name:
                              lookup("corruptions", name)(m, data)(as_batch(data)))
       for name in names("corruptions")},
    "evaluate": lambda m, data: evaluate(m, m.wiring.legal, data, logit_diff, counterfactual),
    "native": lambda m, data: m.native(as_batch(data).clean, as_batch(data).mask),
}  # fmt: skip


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "native-rms"])
def test_nothing_changes_the_model_the_data_or_the_seeds(family: str, act: str) -> None:
    m, data = model(family), dataset()
    m.bridge(as_batch(data).clean)  # TransformerLens sets hooks of its own in its first forward
    before, kept = state(m), copy.deepcopy(data)
    assert len(before["weights"]) > 10
    ACTS[act](m, data)
    after = state(m)
    for part in before:
        assert unchanged(before[part], after[part]), part
    assert data == kept


def test_a_change_of_the_model_would_be_seen() -> None:
    m = model("gpt2")
    before = state(m)
    changed = copy.deepcopy(before)
    next(iter(changed["weights"].values())).view(-1)[0] += 1e-6
    assert not unchanged(before, changed)
    handle = m.bridge.blocks[1].register_forward_hook(lambda *_: None)
    try:
        assert not unchanged(before["hooks"], state(m)["hooks"])
    finally:
        handle.remove()


def test_a_method_that_fails_leaves_the_model_as_it_was() -> None:
    m, data = model("gpt2"), dataset()
    before = state(m)

    def failing(*_: Any) -> Tensor:
        raise ZeroDivisionError

    for method in names("discovery"):
        if "metric" in discover(method, m, data).about:
            with pytest.raises(ZeroDivisionError):
                lookup("discovery", method)(m, data, failing, counterfactual)
    assert unchanged(before, state(m))
    assert (
        distance(discover("eap", m, data).values, discover("eap", model("gpt2"), data).values) == 0
    )
