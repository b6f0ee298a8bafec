"""Corruptions: what a cut edge carries, against loops over examples and tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, Layers, as_batch, dataset, distance, model, pristine
from oracles import Oracle
from torch import Tensor

from circuitkit.corruptions import (
    counterfactual,
    mean,
    mean_by_position,
    noise,
    optimal,
    peak,
    resample,
    zero,
)
from circuitkit.data.batches import Batch, Dataset
from circuitkit.data.examples import Example
from circuitkit.engine.model import Activations, Model
from circuitkit.engine.record import answer, record
from circuitkit.errors import DataError, EvaluationError
from circuitkit.evaluation.faithfulness import evaluate
from circuitkit.metrics import logit_diff
from circuitkit.registry import lookup, names, resolve

CONSTANTS = [zero, mean, mean_by_position, peak, partial(optimal, steps=1)]
KINDS = ["gpt2", "neox-parallel", "llama", "gemma", "gemma2", "olmo2", "attention-only"]
every_kind = pytest.mark.parametrize("family", KINDS)
every_family = pytest.mark.parametrize("family", FAMILIES)


def carried(corruption: Callable[..., object], m: Model, data: Dataset) -> list[Activations]:
    """What is carried for all examples, as one batch."""
    return corruption(m, data)(as_batch(data))  # type: ignore[operator, no-any-return]


def contributions(m: Model, run: Activations) -> dict[str, Tensor]:
    """What each writer adds to the residual stream."""
    w = m.wiring
    out, own = {"input": run.embed}, Layers(w, run)
    for layer in range(w.layers):
        for head, x in enumerate(m.write(layer, None, own.heads[layer])):
            out[f"a{layer}.h{head}"] = x
        if w.mlp:
            out[f"m{layer}"] = own.mlps[layer]
    return out


def by_loop(family: str, data: Dataset) -> list[dict[str, Tensor]]:
    """For each prompt, run alone in the plain module, what each writer writes at each token."""
    by_hand = Oracle(pristine(family), model(family).wiring)
    found = []
    for example in data.examples:
        tokens = torch.tensor([example.clean])
        found.append(by_hand.plain(tokens, torch.ones_like(tokens).bool()).writers)
    return found


# -- means -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("padding", ["left", "right"])
@every_kind
def test_each_writer_carries_its_own_mean_over_all_tokens(family: str, padding: str) -> None:
    """A loop over prompts and tokens finds the same; no two writers carry the same vector."""
    m, data = model(family), dataset(padding=padding, batch_size=2)
    runs = by_loop(family, data)
    (found,) = carried(mean, m, data)
    seen = []
    for name, value in contributions(m, found).items():
        tokens = torch.cat([run[name][0] for run in runs])
        assert len(tokens) == sum(len(e.clean) for e in data.examples)
        expected = tokens.mean(0)
        assert distance(value, expected.expand_as(value)) < 1e-5
        assert all(distance(other, expected) > 1e-2 for other in seen)
        seen.append(expected)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_a_mean_may_leave_the_first_token_of_each_prompt_alone(padding: str) -> None:
    """It is then in no mean, and carries what the clean run writes there."""
    m, data = model("llama"), dataset(padding=padding, batch_size=2)
    runs, batch = by_loop("llama", data), as_batch(data)
    (found,) = carried(partial(mean, first="clean"), m, data)
    for name, value in contributions(m, found).items():
        expected = torch.cat([run[name][0, 1:] for run in runs]).mean(0)
        for row in range(len(data.examples)):
            here = value[row][batch.mask[row]]
            assert distance(here[0], runs[row][name][0, 0]) < 1e-5
            assert distance(here[1:], expected.expand_as(here[1:])) < 1e-5


def test_a_mean_of_no_later_token_is_refused() -> None:
    data = dataset(lengths=(3, 3))
    short = [
        replace(one, clean=one.clean[:1], corrupt=one.corrupt[:1], spans={})
        for one in data.examples
    ]
    with pytest.raises(DataError, match="single token"):
        mean(model("gpt2"), replace(data, examples=tuple(short)), first="clean")


@pytest.mark.parametrize("padding", ["left", "right"])
@every_kind
def test_means_by_position_are_those_of_the_tokens_at_that_place(family: str, padding: str) -> None:
    """Positions count from the first token, wherever the padding is."""
    m, data = model(family), dataset(padding=padding, batch_size=2)
    runs, batch = by_loop(family, data), as_batch(data)
    (found,) = carried(mean_by_position, m, data)
    for name, value in contributions(m, found).items():
        for row, example in enumerate(data.examples):
            here = value[row][batch.mask[row]]
            expected = [
                torch.stack([r[name][0, at] for r in runs if r[name].shape[1] > at]).mean(0)
                for at in range(len(example.clean))
            ]
            assert distance(here, torch.stack(expected)) < 1e-5


def test_means_of_unscaled_heads_count_in_a_post_norm() -> None:
    m, data = model("gemma2"), dataset()
    found = Layers(m.wiring, carried(mean, m, data)[0])
    runs = [Layers(m.wiring, record(m, m.start(t, torch.ones_like(t).bool())))
            for t in (torch.tensor([e.clean]) for e in data.examples)]  # fmt: skip
    for layer, raw in enumerate(found.raw):
        expected = torch.cat([run.raw[layer][0] for run in runs]).mean(0)
        assert distance(raw, expected.expand_as(raw)) < 1e-5
        assert distance(found.heads[layer], raw) > 1e-2


def test_means_by_position_of_identical_prompts_corrupt_nothing() -> None:
    """So no faithfulness is defined."""
    example = dataset().examples[0]
    for family in FAMILIES:
        data = Dataset((example,) * 3)
        found = evaluate(model(family), model(family).wiring.legal, data, logit_diff,
                         mean_by_position)  # fmt: skip
        assert np.abs(found.nothing - found.everything).max() < 1e-5
        with pytest.raises(EvaluationError, match="undefined"):
            _ = found.faithfulness


def test_the_mean_of_identical_tokens_corrupts_nothing() -> None:
    example = Example((7,), (9,), (3,), (4,), {"end": (0, 1)})
    data, m = Dataset((example,) * 3), model("gpt2")
    found = evaluate(m, m.wiring.legal, data, logit_diff, mean)
    assert np.abs(found.nothing - found.everything).max() < 1e-5
    with pytest.raises(EvaluationError, match="undefined"):
        _ = found.faithfulness


def test_means_over_one_set_serve_another_unless_its_prompts_are_longer() -> None:
    m, known = model("gpt2"), dataset((6, 6))
    shorter, longer = as_batch(dataset((4, 5), seed=1)), as_batch(dataset((4, 7), seed=1))
    carry = mean_by_position(m, known)
    assert carry(shorter)[0].embed.shape == (2, 5, m.d_model)
    with pytest.raises(DataError, match="7 tokens"):
        carry(longer)
    assert mean(m, known)(longer)[0].embed.shape == (2, 7, m.d_model)


# -- peaks -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("padding", ["left", "right"])
@every_kind
def test_the_peak_is_the_centre_of_the_fullest_bin_of_each_dimension(
    family: str, padding: str
) -> None:
    """NumPy's histogram of every dimension alone, over the tokens of prompts that are run alone."""
    m, data = model(family), dataset(padding=padding, batch_size=2)
    runs = [record(m, m.start(t, torch.ones_like(t).bool()))
            for t in (torch.tensor([e.clean]) for e in data.examples)]  # fmt: skip
    (found,) = carried(partial(peak, bins=4), m, data)
    embed = [(found.embed, [run.embed for run in runs])]
    for value, each in embed + [
        (found.shares[stage.index], [run.shares[stage.index] for run in runs])
        for stage in m.wiring.stages
    ]:
        tokens = torch.cat([x[0] for x in each]).flatten(1).double().numpy()
        carries = value.flatten(2)
        assert torch.equal(carries, carries[:1, :1].expand_as(carries))
        for dim in range(0, tokens.shape[1], 3):
            expected = fullest(tokens[:, dim], 4)
            assert float(carries[0, 0, dim]) == pytest.approx(expected, abs=1e-4)


def fullest(values: np.ndarray, bins: int) -> float:
    """The centre of the fullest bin; of several, that of the nearest to the mean."""
    counts, edges = np.histogram(values, bins)
    centres = (edges[:-1] + edges[1:]) / 2
    first = sorted(zip(-counts, np.abs(centres - values.mean()), centres, strict=True))[0]
    return float(first[2])


def test_one_token_is_its_own_peak_and_more_bins_give_another() -> None:
    m, example = model("gpt2"), Example((7,), (9,), (3,), (4,), {"end": (0, 1)})
    single = Dataset((example,) * 3)
    (found,) = carried(peak, m, single)
    (expected,) = carried(mean, m, single)
    assert distance(found.final, expected.final) < 1e-6
    few, many = (carried(partial(peak, bins=bins), m, dataset())[0].final for bins in (3, 30))
    assert distance(few, many) > 1e-2


# -- zeros -----------------------------------------------------------------------------------------
@every_kind
def test_zero_writes_nothing_but_biases(family: str) -> None:
    m, data = model(family), dataset()
    (found,) = carried(zero, m, data)
    assert all(not x.any() for x in contributions(m, found).values())
    constants = [m.constant(layer) for layer in range(m.wiring.layers)]
    left = sum(c for c in constants if c is not None)
    assert torch.allclose(found.final, left + torch.zeros_like(found.final), atol=1e-6)
    has_bias = family in ("gpt2", "neox-parallel", "attention-only")
    assert bool(found.final.abs().max() > 0.1) == has_bias


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_zero_may_keep_the_positions(family: str) -> None:
    m, data = model(family), dataset()
    own = contributions(m, carried(partial(zero, positions="kept"), m, data)[0])
    batch = as_batch(data)
    places = (batch.mask.long().cumsum(-1) - 1).clamp(min=0)
    expected = torch.zeros_like(own["input"])
    if family == "gpt2":
        expected = pristine("gpt2").transformer.wpe.weight[places]
    assert (own.pop("input") - expected)[batch.mask].abs().max() < 1e-6
    assert bool(expected.any()) == (family == "gpt2")
    assert not any(x.any() for x in own.values())
    at = carried(partial(zero, positions="kept", at="end"), m, data)[0].embed
    plain = m.start(batch.clean, batch.mask).embed
    assert distance(at[:, 0], plain[:, 0]) < 1e-6 < distance(at, plain)


# -- other prompts ---------------------------------------------------------------------------------
@pytest.mark.parametrize("padding", ["left", "right"])
@every_family
def test_the_counterfactual_is_the_corrupted_prompt_run_alone(family: str, padding: str) -> None:
    m, data = model(family), dataset(padding=padding)
    (found,) = carried(counterfactual, m, data)
    logits = answer(m, as_batch(data), found.final)
    module = Oracle(pristine(family), m.wiring)
    for row, example in enumerate(data.examples):
        assert distance(logits[row], module.logits(torch.tensor([example.corrupt]))[0, -1]) < 2e-5
        assert distance(logits[row], module.logits(torch.tensor([example.clean]))[0, -1]) > 1e-2


def partners(data: Dataset, corruption: Callable[..., object] = resample) -> list[tuple[int, ...]]:
    """The clean prompt whose run each example carries, found by its embedding."""
    m = model("gpt2")
    (found,) = carried(corruption, m, data)
    prompts = {e.clean for e in data.examples}
    batch, chosen = as_batch(data), []
    for row in range(len(data)):
        here = found.embed[row][batch.mask[row]]
        chosen += [
            p for p in prompts
            if len(p) == len(here) and torch.equal(here, embedding(m, p))
        ]  # fmt: skip
    assert len(chosen) == len(data)
    return chosen


def embedding(m: Model, tokens: tuple[int, ...]) -> Tensor:
    """The embedding of one prompt."""
    ids = torch.tensor([tokens])
    return m.start(ids, torch.ones_like(ids).bool()).embed[0]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_a_resampled_prompt_is_another_one_of_the_same_length(padding: str) -> None:
    data = dataset((6, 8, 6, 8, 6, 6, 8), padding=padding)
    for seed in range(5):
        for mine, other in zip(
            data.examples, partners(data, partial(resample, seed=seed)), strict=True
        ):
            assert other != mine.clean
            assert len(other) == len(mine.clean)


def test_repeated_prompts_are_no_partners_of_each_other() -> None:
    one, two = dataset((6, 6)).examples
    data = Dataset((one, one, one, two))
    assert partners(data) == [two.clean, two.clean, two.clean, one.clean]


def test_resampling_depends_on_the_seed_and_not_on_the_order() -> None:
    data = dataset((6,) * 8)
    first = partners(data)
    back = partners(replace(data, examples=data.examples[::-1]))
    assert back[::-1] == first
    assert partners(data) == first
    assert partners(data, partial(resample, seed=1)) != first
    assert len(set(first)) > 1


@pytest.mark.parametrize("lengths", [(6,), (6, 6, 7)])
def test_a_prompt_without_a_partner_is_refused(lengths: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=f"only one prompt has {lengths[-1]} tokens"):
        resample(model("gpt2"), dataset(lengths))


# -- further texts, and spans ----------------------------------------------------------------------
SPANS = ("subject", "end")


def several(padding: str = "right") -> Dataset:
    """Pairs with a further corrupted text, that of other random pairs."""
    data, more = dataset(padding=padding), dataset(seed=5)
    pairs = zip(data.examples, more.examples, strict=True)
    return replace(data, examples=tuple(replace(e, corruptions={"t": o.clean}) for e, o in pairs))


def assert_same(one: Activations, two: Activations, mask: Tensor) -> None:
    for name in ("embed", "final"):
        assert torch.allclose(getattr(one, name)[mask], getattr(two, name)[mask], atol=1e-6)
    for name in ("reads", "computed", "shares"):
        for x, y in zip(getattr(one, name), getattr(two, name), strict=True):
            assert torch.allclose(x[mask], y[mask], atol=1e-5)


@pytest.mark.parametrize("padding", ["left", "right"])
@every_kind
def test_another_text_is_carried_as_if_it_were_the_prompts_own(family: str, padding: str) -> None:
    m, data = model(family), several(padding)
    own = replace(
        data, examples=tuple(replace(e, corrupt=e.corruptions["t"]) for e in data.examples)
    )
    for corruption in (counterfactual, noise):
        (found,) = carried(partial(corruption, text="t"), m, data)
        (expected,) = carried(corruption, m, own)
        (default,) = carried(corruption, m, data)
        assert_same(found, expected, as_batch(data).mask)
        assert distance(found.final, default.final) > 1e-2


@pytest.mark.parametrize("padding", ["left", "right"])
def test_outside_the_spans_a_replaced_prompt_has_its_own_tokens(padding: str) -> None:
    m, data = model("llama"), several(padding)
    batch = as_batch(data)
    held = batch.within(*SPANS)
    clean = m.start(batch.clean, batch.mask).embed
    other = m.start(batch.corruptions["t"], batch.mask).embed
    (found,) = carried(partial(counterfactual, text="t", at=SPANS), m, data)
    assert torch.equal(found.embed[~held], clean[~held])
    assert torch.equal(found.embed[held], other[held])
    assert distance(found.embed, other) > 0.1
    (whole,), (part,) = (carried(partial(resample, at=s), m, data) for s in ((), SPANS))
    assert torch.equal(part.embed[~held], clean[~held])
    assert torch.equal(part.embed[held], whole.embed[held])
    assert distance(part.embed, whole.embed) > 0.1
    assert distance(part.embed, clean) > 0.1


def test_noise_of_another_text_is_where_that_text_differs() -> None:
    data = several()
    found, batch = disturbances("gpt2", data, text="t", draws=60)
    differs = batch.corruptions["t"] != batch.clean
    assert not torch.equal(differs, batch.corrupt != batch.clean)
    assert torch.equal(found[0].any(-1), differs)
    tokens = torch.tensor([t for e in data.examples for t in e.clean])
    sigma = 3 * float(token_table("gpt2")[tokens].std())
    assert float(torch.stack(found)[:, differs].std()) == pytest.approx(sigma, rel=0.02)


@pytest.mark.parametrize("corruption", CONSTANTS[:-1])
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "attention-only"])
def test_constants_at_spans_are_those_of_all_tokens_there_and_the_clean_run_elsewhere(
    family: str, corruption: Callable[..., object]
) -> None:
    m, data = model(family), dataset(padding="left")
    batch = as_batch(data)
    held, mask = batch.within(*SPANS), batch.mask
    clean = contributions(m, record(m, m.start(batch.clean, mask)))
    (whole,), (part,) = (carried(partial(corruption, at=s), m, data) for s in ((), SPANS))
    assert not part.consistent
    everywhere = contributions(m, whole)
    for name, value in contributions(m, part).items():
        assert torch.allclose(value[held], everywhere[name][held], atol=1e-6)
        rest = mask & ~held
        assert torch.allclose(value[rest], clean[name][rest], atol=1e-5)
        assert (clean[name][held] - value[held]).abs().max() > 1e-2


@pytest.mark.parametrize("corruption", CONSTANTS)
def test_constants_at_spans_that_hold_every_token_are_those_without_spans(
    corruption: Callable[..., object],
) -> None:
    m, data = model("gemma2"), dataset()
    whole = [replace(e, spans={"a": (0, 2), "b": (1, len(e.clean))}) for e in data.examples]
    data = replace(data, examples=tuple(whole))
    (found,) = carried(partial(corruption, at=("a", "b")), m, data)
    (expected,) = carried(corruption, m, data)
    assert_same(found, expected, as_batch(data).mask)
    (clean,) = carried(partial(corruption, at=("a",)), m, data)
    assert distance(clean.embed, as_clean(m, data)) > 1e-2


@pytest.mark.parametrize("corruption", [counterfactual, resample, noise, *CONSTANTS])
def test_one_span_may_be_a_string_and_all_is_all_tokens(corruption: Any) -> None:
    m, data = model("gpt2"), several("left")
    mask = as_batch(data).mask
    (one,), (listed,) = (
        carried(partial(corruption, at=at), m, data) for at in ("subject", ["subject"])
    )
    assert_same(one, listed, mask)
    (whole,), (plain,) = (carried(one, m, data) for one in (partial(corruption, at="all"),
                          corruption))  # fmt: skip
    differs = (whole.embed - as_clean(m, data)).abs().amax(-1) > 0
    if corruption is noise:
        assert torch.equal(differs, mask)
    else:
        assert_same(whole, plain, mask)
    with pytest.raises(DataError, match="no span 'verb'"):
        carried(partial(corruption, at="verb"), m, data)


def as_clean(m: Model, data: Dataset) -> Tensor:
    batch = as_batch(data)
    return m.start(batch.clean, batch.mask).embed


@pytest.mark.parametrize(
    "written",
    [
        "counterfactual(text='t', at=('subject',))", "noise(text='t', draws=2)",
        "resample(at=('subject',))", "zero(at=('end',))", "mean(at=('end', 'subject'))",
        "mean_by_position(at=('subject',))", "peak(bins=5, at='end')",
    ],
)  # fmt: skip
def test_texts_and_spans_can_be_written_as_settings(written: str) -> None:
    m, data = model("gpt2"), several()
    plain = carried(resolve("corruptions", written.partition("(")[0]), m, data)[0]
    found = carried(resolve("corruptions", written), m, data)
    assert len(found) == 1 + ("draws=2" in written)
    assert distance(found[0].final, plain.final) > 1e-2


@pytest.mark.parametrize("corruption", [counterfactual, noise])
def test_an_unknown_text_is_refused_with_the_known_ones(corruption: Callable[..., object]) -> None:
    with pytest.raises(DataError, match="corrupted text 'S1'; those that all have are 't'"):
        carried(partial(corruption, text="S1"), model("gpt2"), several())


@pytest.mark.parametrize("name", names("corruptions"))
def test_an_unknown_span_is_refused_by_every_corruption(name: str) -> None:
    corruption = partial(lookup("corruptions", name), at=("verb",))
    with pytest.raises(DataError, match="no span 'verb'; the spans are end, subject"):
        carried(corruption, model("gpt2"), several())


# -- noise -----------------------------------------------------------------------------------------
def disturbances(family: str, data: Dataset, **settings: object) -> tuple[list[Tensor], Batch]:
    """What is added to the embedding in each draw."""
    m, batch = model(family), as_batch(data)
    clean = m.start(batch.clean, batch.mask).embed
    return [run.embed - clean for run in carried(partial(noise, **settings), m, data)], batch


def token_table(family: str) -> Tensor:
    """The token embedding's weight, as it enters the residual stream."""
    module = pristine(family)
    if family.startswith("gemma"):
        return module.get_input_embeddings().weight.detach() * 32**0.5
    if hasattr(module, "tok_embed"):
        return module.tok_embed.weight.detach()
    return module.get_input_embeddings().weight.detach()


@pytest.mark.parametrize("multiple", [1.0, 3.0])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "attention-only"])
def test_noise_is_a_multiple_of_the_spread_of_token_embeddings(
    family: str, multiple: float
) -> None:
    """Positions do not count in it; it is normal, with mean zero."""
    data = dataset()
    found, batch = disturbances(family, data, multiple=multiple, draws=60)
    values = torch.stack(found)[:, batch.clean != batch.corrupt]
    tokens = torch.tensor([t for e in data.examples for t in e.clean])
    sigma = multiple * float(token_table(family)[tokens].std())
    assert values.numel() > 20_000
    assert float(values.std()) == pytest.approx(sigma, rel=0.02)
    assert abs(float(values.mean())) < 0.03 * sigma
    assert float(values.pow(4).mean() / values.var() ** 2) == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_noise_is_on_the_chosen_tokens_alone(padding: str) -> None:
    """Without a choice: on those at which the two prompts differ."""
    data = dataset(padding=padding)
    (found,), batch = disturbances("gpt2", data)
    assert torch.equal(found.any(-1), batch.clean != batch.corrupt)
    (found,), batch = disturbances("gpt2", data, at=("subject", "end"))
    expected = torch.zeros_like(batch.mask)
    for row, example in enumerate(data.examples):
        offset = int(batch.mask[row].long().argmax())
        for start, stop in example.spans.values():
            expected[row, offset + start : offset + stop] = True
    assert torch.equal(found.any(-1), expected)
    assert 0 < int(expected.sum()) < expected.numel()


def test_noise_is_the_same_each_time_and_another_in_each_draw_and_seed() -> None:
    data = dataset()
    (one, two), _ = disturbances("gpt2", data, draws=2)
    (again, _), _ = disturbances("gpt2", data, draws=2)
    (other,), _ = disturbances("gpt2", data, seed=1)
    assert torch.equal(one, again)
    assert distance(one, two) > 0.1
    assert distance(one, other) > 0.1


def test_the_noise_of_an_example_depends_on_no_other() -> None:
    """In another batch, padded elsewhere, and in another place it is the same."""
    data = dataset()
    m, carry = model("gpt2"), noise(model("gpt2"), data)
    batch = as_batch(data)
    together = carry(batch)[0].embed
    for row, example in enumerate(data.examples):
        (alone,) = carry(as_batch(Dataset((example,))))
        assert distance(together[row][batch.mask[row]], alone.embed[0]) < 1e-6
    assert distance(together[0, :3], m.start(batch.clean, batch.mask).embed[0, :3]) >= 0


def test_noise_changes_nothing_but_the_embedding_and_what_follows() -> None:
    """It is a real run: recorded again from its embedding it is the same."""
    m, data = model("llama"), dataset()
    batch = as_batch(data)
    (found,) = carried(noise, m, data)
    again = record(m, m.start(batch.clean, batch.mask), found.embed)
    assert distance(found.final, again.final) < 1e-6
    assert distance(found.final, record(m, m.start(batch.clean, batch.mask)).final) > 1e-2


@pytest.mark.parametrize("name", ["verb", "Subject", ""])
def test_noise_on_an_unknown_span_is_refused_with_the_known_ones(name: str) -> None:
    data = dataset()
    with pytest.raises(DataError, match=f"no span {name!r}.*end, subject"):
        carried(partial(noise, at=(name,)), model("gpt2"), data)


def test_noise_on_a_span_that_one_example_lacks_is_refused() -> None:
    one, two = dataset((6, 6)).examples
    lacking = replace(two, spans={"end": two.spans["end"]})
    with pytest.raises(DataError, match="no span 'subject'"):
        carried(partial(noise, at=("subject",)), model("gpt2"), Dataset((one, lacking)))


@every_family
def test_noise_works_on_more_tokens_than_one_prompt_may_have(family: str) -> None:
    """The spread is over the data, which is longer than a context."""
    m, data = model(family), dataset((9,) * 12, batch_size=12)
    assert sum(len(e.clean) for e in data.examples) > 64
    (found,) = carried(noise, m, data)
    assert np.isfinite(found.embed.numpy()).all()
