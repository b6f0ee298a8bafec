"""What heads pay attention to is what the plain module says of its attention."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, as_batch, dataset, distance, model, pristine
from test_patch_nodes import LENGTHS, exactly

from circuitkit.corruptions.constants import mean
from circuitkit.corruptions.gaussian import noise
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Dataset
from circuitkit.errors import CircuitError, DataError
from circuitkit.patching.attention import attention_to

PARTS = ("first", "subject", "rest")  # which hold every token once


def parted(lengths: tuple[int, ...] = LENGTHS, **options: Any) -> Dataset:
    """Prompts whose every token is in one of three spans; ``early`` is one to look from."""
    data = dataset(lengths, **options)
    spans = ({"first": (0, 1), "subject": (1, 3), "rest": (3, len(e.clean)), "early": (2, 4),
              "end": (len(e.clean) - 1, len(e.clean))} for e in data.examples)  # fmt: skip
    made = (replace(e, spans=own) for e, own in zip(data.examples, spans, strict=True))
    return replace(data, examples=tuple(made))


def heads(family: str) -> list[str]:
    return [name for name in model(family).wiring.writers if name.is_head]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gpt-oss"])
def test_the_whole_attention_is_one(family: str) -> None:
    found = attention_to(model(family), heads(family), parted(), at=PARTS).values
    assert found.shape == (12, 3, 3)
    assert found.min() >= 0
    assert np.abs(found.sum(1) - 1).max() < 1e-5
    assert (found.std(0) > 1e-2).mean() > 0.5  # a token beyond a sliding window is paid nothing


def test_a_sink_takes_part_of_the_attention() -> None:
    found = attention_to(model("gpt-oss"), heads("gpt-oss"), parted(), at=PARTS).values.sum(1)
    assert found.max() < 1
    assert found.min() > 0


@pytest.mark.parametrize("corruption", [None, counterfactual])
@pytest.mark.parametrize("query", ["end", "early"])
@pytest.mark.parametrize("family", ["gpt2", "neox-parallel", "llama", "gemma2", "gemma3", "olmo2"])
def test_it_is_the_attention_of_the_plain_module(family: str, query: str, corruption: Any) -> None:
    data, chosen = parted(), heads(family)[::-1]
    batch = as_batch(data)
    given = exactly(family), chosen, data, corruption
    found = attention_to(*given, at=(*PARTS, "early"), query=query)
    with torch.no_grad():
        patterns = pristine(family).double()(
            input_ids=batch.clean if corruption is None else batch.corrupt,
            attention_mask=batch.mask.long(), output_attentions=True,
            position_ids=(batch.mask.long().cumsum(-1) - 1).clamp(min=0),
        ).attentions  # fmt: skip
    expected = np.zeros(found.shape)
    for i, example in enumerate(data.examples):
        row = example.spans[query][1] - 1
        for j, name in enumerate((*PARTS, "early")):
            pays = torch.stack(patterns)[:, i, :, row, slice(*example.spans[name])].sum(-1)
            expected[:, j, i] = pays.flatten().flip(0)
    assert distance(found, expected) < 1e-6


def test_it_does_not_depend_on_batches_or_padding() -> None:
    patch = partial(attention_to, model("llama"), heads("llama"), at=PARTS)
    wide = patch(parted((7, 5, 6, 7), batch_size=4))
    assert distance(patch(parted((7, 5, 6, 7), batch_size=2, padding="left")), wide) < 1e-4


def test_there_may_be_more_spans_than_a_head_has_channels() -> None:
    m, data = model("gpt2"), parted()
    once = attention_to(m, ["a1.h2"], data, at=PARTS)
    many = attention_to(m, ["a1.h2"], data, at=PARTS * 5)
    assert m.d_head < many.shape[1] == 15
    assert distance(many, np.tile(once, (1, 5, 1))) < 1e-6


def test_the_draws_of_a_corruption_are_averaged() -> None:
    m, data = exactly("llama"), parted()
    pays = partial(attention_to, m, heads("llama"), data, at=PARTS)
    draws = noise(m, data, draws=3)(as_batch(data))
    each = [pays(lambda *_, d=d: lambda _: [d]) for d in draws]
    assert distance(pays(partial(noise, draws=3)), np.mean(each, axis=0)) < 1e-9
    assert distance(each[0], each[1]) > 1e-2
    assert np.abs(pays(mean).values.sum(1) - 1).max() < 1e-5  # no real run, but queries and keys


def test_what_does_not_exist_is_refused() -> None:
    def pays(heads: Any, at: Any, **options: Any) -> Any:
        return attention_to(model("gpt2"), heads, parted(), at=at, **options)

    for name in ("a0.h4", "m1", "a1.h0.q"):
        with pytest.raises(CircuitError, match=rf"'{name}' is not a head of 'gpt2'.*'a0\.h0'"):
            pays(["a0.h0", name], PARTS)
    with pytest.raises(DataError, match="no span 'IO'"):
        pays(["a0.h0"], ["IO"])
    with pytest.raises(DataError, match="no span 'S2'"):
        pays(["a0.h0"], PARTS, query="S2")
    with pytest.raises(DataError, match="no heads"):
        pays([], PARTS)
    with pytest.raises(DataError, match="names no tokens; choose from all, first, subject"):
        pays(["a0.h0"], [])


@pytest.mark.unchecked
def test_what_names_no_span_is_refused() -> None:
    for at in (None, 3, [3]):
        with pytest.raises(DataError, match="names no tokens; choose from all, first, subject"):
            attention_to(model("gpt2"), ["a0.h0"], parted(), at=at)  # type: ignore[arg-type]
