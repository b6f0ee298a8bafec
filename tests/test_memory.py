"""What work takes is foreseen from small pieces of it, and the work is cut to fit."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, crossed, examples, model

from circuitkit.corruptions.gaussian import noise
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.data.places import TOKENS, places
from circuitkit.discovery.attribution import eap
from circuitkit.engine import run as engine
from circuitkit.engine.batching import _at_most, batched, fitted, needed
from circuitkit.engine.inputs import prepare
from circuitkit.engine.memory import ASIDE, Need, _of_tensors, foresee, peak, room, takes
from circuitkit.engine.placed_scores import bytes_of
from circuitkit.engine.record import record
from circuitkit.errors import BudgetError, VersionError
from circuitkit.evaluation.faithfulness import evaluate
from circuitkit.evaluation.masks import random_masks
from circuitkit.metrics.answers import logit_diff
from circuitkit.models.transformer_lens import Transformer, from_module
from circuitkit.util.bytesize import parse, spell


def test_the_peak_is_what_lives_at_once() -> None:
    def work() -> torch.Tensor:
        one = torch.zeros(1000)  # 4,000 bytes
        two = one + 1  # 8,000
        del one
        three = two.view(10, 100)  # a view takes nothing
        three.add_(1)  # nor does what is done in place
        return three + 1  # 8,000

    assert peak(work) == 8000
    assert peak(lambda: [torch.zeros(1000) for _ in range(5)]) == 20000
    assert peak(lambda: [torch.zeros(1000).sum() for _ in range(5)]) < 4100


def test_what_operations_take_and_give_in_lists_is_seen() -> None:
    def work() -> None:
        parts = torch.zeros(8, 100).unbind()  # 3,200 bytes, of which these are views
        stacked = torch.stack(parts)  # 3,200
        copies = torch.split_copy(stacked, 4)  # 3,200, handed over in a list
        torch.sort(copies[0].view(-1))  # 1,600 and, as indices, 3,200
        torch._foreach_add_([stacked, parts[0]], 1.0)  # in place

    assert peak(work) == 14400


def test_a_torch_that_shows_no_operations_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("torch.utils._python_dispatch.TorchDispatchMode")
    with pytest.raises(VersionError, match="TorchDispatchMode") as caught:
        foresee(lambda n: torch.zeros(n))
    assert f"torch {importlib.metadata.version('torch')} " in str(caught.value)
    assert "pip install 'torch>=" in str(caught.value)


def test_a_need_says_how_many_fit() -> None:
    need = Need(fixed=100.0, each=50.0)
    assert need.of(3) == 250
    assert need.most(250, at_most=32) == 3
    assert need.most(249, at_most=32) == 2
    assert need.most(1e9, at_most=32) == 32
    with pytest.raises(BudgetError, match="150 B"):
        need.most(149, at_most=32)


def test_a_need_is_foreseen_from_two_pieces() -> None:
    def work(n: int) -> Any:
        return torch.zeros(500), torch.zeros(n, 100)

    assert foresee(work) == Need(fixed=2000.0, each=400.0)


def gpt2(width: int, layers: int, heads: int) -> Transformer:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_embd=width, n_layer=layers, n_head=heads, vocab_size=60, n_positions=64,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return from_module(GPT2LMHeadModel(config), name="gpt2")


SHAPES = [(64, 4, 4), (128, 2, 8), (96, 8, 3)]
JOBS: dict[str, Callable[[Transformer, Dataset], object]] = {
    "attribution": lambda m, data: eap(m, data, logit_diff, counterfactual),
    "noise": lambda m, data: eap(m, data, logit_diff, lambda m, d: noise(m, d, draws=3)),
    "evaluation": lambda m, data: evaluate(m, m.wiring.legal, data, logit_diff, counterfactual),
}


@pytest.mark.parametrize(("shape", "job"), crossed(SHAPES, JOBS))
def test_the_peak_is_foreseen_within_a_fifth(shape: tuple[int, int, int], job: str) -> None:
    m = gpt2(*shape)

    def work(n: int) -> None:
        JOBS[job](m, Dataset(examples((16,) * n), batch_size=n))

    work(1)  # what is done once: a digest of the weights
    need = foresee(work)
    for n in (8, 24):
        measured = peak(lambda n=n: work(n))  # type: ignore[misc]
        assert measured > 2**18
        assert need.of(n) == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize("n", [2, 6])
def test_the_tables_between_places_are_counted(n: int) -> None:
    m, data = gpt2(16, 8, 8), Dataset(examples((24,) * n), batch_size=n)
    own, need = places(data, m.wiring, TOKENS), needed(m, data, counterfactual)

    def work() -> None:
        eap(m, data, logit_diff, counterfactual, places=own, groups="examples")

    work()
    assert need.of(n) < n * bytes_of(own) / 4  # the tables take the most
    assert need.of(n) + n * bytes_of(own) == pytest.approx(peak(work), rel=0.2)


@pytest.mark.usefixtures("holding_nothing")
def test_batches_are_cut_to_what_the_tables_leave() -> None:
    m = model("llama")
    data = Dataset(examples((9,) * 12), batch_size=12)
    need = needed(m, data, counterfactual)
    each = 2 * need.each
    tight = _with_room(data, need.of(5) + 5 * each + 1)
    assert batched(m, tight, [counterfactual], each=each).batch_size == 5
    assert batched(m, tight, [counterfactual]).batch_size == 12


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_a_stack_of_circuits_takes_is_known_beforehand(shape: tuple[int, int, int]) -> None:
    m = gpt2(*shape)
    data = Dataset(examples((16,) * 8), batch_size=8)
    masks = random_masks(m.wiring, 40, n=30)
    batch = next(iter(data))
    context = m.start(batch.clean, batch.mask)
    with torch.no_grad():
        carried = record(m, m.start(batch.corrupt, batch.mask))
        stage = engine._Shared(m, batch, context, carried, {0: context.embed - carried.embed})
        stack = np.stack([engine._alive(m, mask, {0: context.embed}) for mask in masks])
        ((_, planned),) = stage.fitting(stack, 2**40)
        measured = peak(lambda: list(engine.runs(m, batch, context, carried, masks)))
    assert stage.bytes(planned) == pytest.approx(measured, rel=0.2)


@pytest.mark.usefixtures("holding_nothing")
def test_batches_are_cut_to_the_memory_and_give_the_same() -> None:
    m = model("llama")
    data = Dataset(examples((9,) * 12), batch_size=12)
    need = needed(m, data, counterfactual)
    assert fitted(m, data, counterfactual) is data
    tight = _with_room(data, need.of(5) + 1)
    cut = fitted(m, tight, counterfactual)
    assert cut.batch_size == 5
    whole, parts = (eap(m, d, logit_diff, counterfactual).values for d in (data, cut))
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert np.abs(whole).max() > 1e-2
    with pytest.raises(BudgetError, match="one example at a time"):
        fitted(m, replace(data, memory=1), counterfactual)


@pytest.fixture
def holding_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process holds changes by itself; here it holds nothing."""
    monkeypatch.setattr("circuitkit.engine.memory.held", lambda device: 0)


def _with_room(data: Dataset, space: float) -> Dataset:
    """The data with such a memory that the room is this."""
    return replace(data, memory=int(takes(torch.device("cpu"), space)) + 1)


def test_a_memory_that_the_process_holds_already_is_refused_before_anything_is_run() -> None:
    m, data = model("gpt2"), Dataset(examples((9,) * 12), memory=2**20)
    for batch_size in (None, 4):
        with pytest.raises(BudgetError, match=r"already holds .*iB, the weights included, and may"):
            batched(m, data, [_unrun], batch_size)


def _unrun(m: Any, data: Any) -> Any:
    raise AssertionError("it was run")


@pytest.mark.usefixtures("holding_nothing")
def test_a_batch_size_does_not_override_the_memory() -> None:
    m, data = model("llama"), Dataset(examples((9,) * 12))
    need = needed(m, data, counterfactual)
    tight = _with_room(data, need.of(5) + 1)
    assert batched(m, tight, [counterfactual], 2).batch_size == 2
    assert batched(m, data, [counterfactual], 500).batch_size == 500  # nothing was said of memory
    with pytest.raises(BudgetError, match=r"a batch of 12 takes about .*iB, the process already"):
        batched(m, tight, [counterfactual], 12)
    with pytest.raises(BudgetError, match=r"give .* of memory, or a batch size of at most \d"):
        prepare(m, data, memory=tight.memory, batch_size=12)
    with pytest.raises(BudgetError, match=r"one example at a time takes .* or a smaller model"):
        batched(m, _with_room(data, need.of(1) * 0.9), [counterfactual])


def test_pieces_that_hardly_fit_are_measured_by_smaller_ones() -> None:
    asked = []

    def work(n: int) -> Any:
        asked.append(n)
        return torch.zeros(500), torch.zeros(n, 100)

    assert foresee(work, space=3000) == Need(fixed=2000.0, each=400.0)
    assert asked == [2, 1]


@pytest.mark.parametrize(("most", "pieces"), [(1, [1]), (2, [2, 1]), (3, [2, 1]), (4, [2, 4])])
def test_no_more_pieces_are_measured_than_there_are(most: int, pieces: list[int]) -> None:
    asked = []

    def work(n: int) -> Any:
        asked.append(n)
        return torch.zeros(n, 100)

    need = foresee(work, most=most)
    assert sorted(asked) == sorted(pieces)
    assert need.of(most) == 400 * most


@pytest.mark.parametrize("size", [1e6, 5e7, 2e8, 1e9, 2e10])
def test_what_tensors_may_take_is_what_the_process_takes_for_them(size: float) -> None:
    cpu = torch.device("cpu")
    assert _of_tensors(takes(cpu, size) - ASIDE) == pytest.approx(size)


def test_the_room_is_what_is_left_of_the_memory() -> None:
    cpu = torch.device("cpu")
    assert room(cpu) > 0
    assert room(cpu, 1) < 0
    assert room(cpu, 2**60) == pytest.approx(room(cpu), rel=0.2)


def test_a_container_leaves_what_it_has_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from circuitkit.engine.memory import SPARE

    files = {"memory.max": "70000\n", "memory.current": "30000\n"}
    monkeypatch.setattr(Path, "read_text", lambda path: files[path.name])
    assert room(torch.device("cpu")) == SPARE * 40_000
    files["memory.max"] = "max\n"  # no limit
    assert room(torch.device("cpu")) > 2**20


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 * 2**30), ("500M", 500 * 2**20), ("2.5g", 5 * 2**29), ("4096", 4096),
     ("1 TB", 2**40)],
)  # fmt: skip
def test_an_amount_is_read(text: str, size: int) -> None:
    assert parse(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1G", "0", "8 XB", "nan"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(BudgetError, match="not an amount of memory"):
        parse(text)


def test_an_amount_is_spelled_in_its_unit() -> None:
    assert [spell(n) for n in (0, 12, 2**20, 3 * 2**29)] == ["0 B", "12 B", "1 MiB", "1.5 GiB"]


@pytest.mark.parametrize("family", FAMILIES)
def test_work_is_not_measured_only_where_it_takes_less_than_is_supposed(family: str) -> None:
    m, data = model(family), Dataset(examples((9,) * 12))
    need = needed(m, data, counterfactual)
    assert _at_most(m, data) > need.of(1)
    assert 12 * _at_most(m, data) > need.of(12)
