"""Corrupted texts of other lengths, aligned by spans: pairings worked by hand and by a loop, and
the masked run beside hooks with values gathered by that loop."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from families import as_batch, dataset, distance, model, pristine
from oracles import Oracle, Written
from placed_oracle import PlacedOracle
from torch import Tensor

import circuitkit as ck
from circuitkit.corruptions.replacement import counterfactual
from circuitkit.data.batches import Batch, Dataset
from circuitkit.data.examples import Example
from circuitkit.data.places import numbers, places
from circuitkit.engine.inputs import prepare
from circuitkit.engine.run import run
from circuitkit.errors import DataError
from circuitkit.evaluation.pairing import paired_alone
from circuitkit.graph.places import PlacedMask
from circuitkit.workflows.clusters.sharing import features

SAME = 2e-5
NAMES = ("A", "B")
FAMILIES = ("gpt2", "llama", "gemma2", "neox-parallel", "olmo2")
SIDES = ("left", "right", "left", "right", "left")


def pair(rng: Random) -> Example:
    """A prompt with two spans in any order, and one with the same, longer and shorter."""
    order = rng.sample(NAMES, 2)
    gaps = [rng.randrange(2) for _ in order]
    texts: list[tuple[tuple[int, ...], dict[str, tuple[int, int]]]] = []
    for _ in range(2):
        at, spans = 1, {}
        for name, gap in zip(order, gaps, strict=True):
            at += gap + gap * rng.randrange(2)
            spans[name] = (at, at + rng.randrange(1, 4))
            at = spans[name][1]
        length = at + 2 + rng.randrange(2)
        spans["end"] = (length - 1, length)
        texts.append((tuple(rng.randrange(60) for _ in range(length)), spans))
    (clean, spans), (corrupt, others) = texts
    return Example(clean, corrupt, (1,), (2,), spans, corrupt_spans=others)


@cache
def data(padding: str = "right", sequences: Any = None) -> Dataset:
    rng = Random(3)
    made = tuple(replace(pair(rng), sequences=sequences) for _ in range(6))
    return Dataset(made, batch_size=6, padding=padding, align="spans")


def labels(spans: dict[str, tuple[int, int]], length: int) -> list[str]:
    """The span of each token, token by token."""
    found = []
    for at in range(length):
        held = [name for name, (a, b) in spans.items() if a <= at < b]
        nexts = sorted((a, name) for name, (a, _) in spans.items() if a > at)
        found.append("first" if at == 0 else held[0] if held else f"to {nexts[0][1]}")
    return found


def weights(one: Example, answer: int = 0) -> tuple[np.ndarray, list[bool]]:
    """How much each clean token gets of each corrupted one, and whether it has a partner; with so
    many tokens of an answer behind both."""
    mine = labels(dict(one.spans), len(one.clean)) + ["answer"] * answer
    theirs = labels(dict(one.corrupt_spans or {}), len(one.corrupt)) + ["answer"] * answer
    table, partner = np.zeros((len(mine), len(theirs))), []
    for t, name in enumerate(mine):
        there = [u for u, other in enumerate(theirs) if other == name]
        behind = mine[t:].count(name)  # the tokens of the span from this one on
        partner.append(behind <= len(there))
        if behind <= len(there):
            table[t, there[-behind]] = 1
        else:
            table[t, there] = 1 / len(there)
    return table, partner


def gathered(x: Tensor, batch: Batch, examples: tuple[Example, ...]) -> Tensor:
    """Values at corrupted tokens as clean tokens get them, by a loop."""
    assert batch.aligned is not None
    out = x.new_zeros(len(batch), batch.mask.shape[1], *x.shape[2:])
    for row, owner in enumerate(batch.owner.tolist()):
        mine, theirs = batch.mask[row].nonzero()[:, 0], batch.aligned.mask[row].nonzero()[:, 0]
        one = examples[owner]
        for t, given in enumerate(weights(one, len(mine) - len(one.clean))[0]):
            out[row, mine[t]] = sum(w * x[row, u] for w, u in zip(given, theirs, strict=True))
    return out


# -- the pairing -----------------------------------------------------------------------------------
def test_a_pairing_worked_by_hand() -> None:
    """[s][A A A][-][e] and [s][A A][- -][e]; then the other way round."""
    one = Example(
        tuple(range(6)), tuple(range(10, 16)), (1,), (2,), {"A": (1, 4), "end": (5, 6)},
        corrupt_spans={"A": (1, 3), "end": (5, 6)},
    )  # fmt: skip
    (batch,) = Dataset((one,), align="spans")
    assert batch.aligned is not None
    half = [0, 0.5, 0.5, 0, 0, 0]
    rows = [[1, 0, 0, 0, 0, 0], half, *np.eye(6)[[1, 2, 4, 5]].tolist()]
    assert batch.aligned.pairing[0].tolist() == rows
    assert batch.aligned.partner.tolist() == [[True, False, True, True, True, True]]
    assert batch.corrupt.tolist() == [[10, 1, 11, 12, 14, 15]]
    assert batch.differing().tolist() == [[True] * 6]
    (back,) = Dataset((one,), align=("A",)).both_ways()[1:]
    assert back.aligned is not None
    assert back.clean.tolist() == [list(range(10, 16))]
    rows = [np.eye(6)[at].tolist() for at in (0, 2, 3, 4, 4, 5)]  # of the rest the one token is all
    assert back.aligned.pairing[0].tolist() == rows
    assert back.aligned.partner.tolist() == [[True, True, True, False, True, True]]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_every_pairing_is_that_of_a_loop(padding: str) -> None:
    own = data(padding)
    batch = as_batch(own)
    assert batch.aligned is not None
    lengths = {(len(e.clean), len(e.corrupt)) for e in own.examples}
    assert any(a > b for a, b in lengths)
    assert any(a < b for a, b in lengths)
    for row, one in enumerate(own.examples):
        table = batch.aligned.pairing[row][batch.mask[row]][:, batch.aligned.mask[row]]
        expected, partner = weights(one)
        assert np.allclose(table, expected)
        assert batch.aligned.partner[row][batch.mask[row]].tolist() == partner
        at = int(batch.aligned.last[row]) - int(batch.aligned.mask[row].long().argmax())
        assert at == len(one.corrupt) - 1
    assert 0 < int((batch.mask & ~batch.aligned.partner).sum()) < int(batch.mask.sum()) / 2


@pytest.mark.parametrize("padding", ["left", "right"])
def test_tokens_of_answers_are_paired_one_by_one(padding: str) -> None:
    own = data(padding, (((7, 8, 9),), ((6,),)))
    batch = as_batch(own)
    assert batch.aligned is not None
    assert len(batch) == 18
    for row in range(len(batch)):
        table = batch.aligned.pairing[row][batch.mask[row]][:, batch.aligned.mask[row]]
        assert np.allclose(table, weights(own.examples[row // 3], row % 3)[0])


def test_texts_whose_tokens_stand_alike_are_one_real_run() -> None:
    plain = dataset()
    alike = replace(plain, align="spans")
    for one, two in zip(plain, alike, strict=True):
        assert two.aligned is None
        assert torch.equal(one.corrupt, two.corrupt)
    m = model("gpt2")
    assert counterfactual(m, alike)(as_batch(alike))[0].consistent
    assert not counterfactual(m, data())(as_batch(data()))[0].consistent


def test_a_repeated_batch_repeats_its_pairing() -> None:
    batch = as_batch(data())
    twice = batch.repeat(2).aligned
    assert batch.aligned is not None
    assert twice is not None
    for name, x in vars(batch.aligned).items():
        assert torch.equal(getattr(twice, name), torch.cat([x, x]))


# -- the run ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("family", "padding"), [*zip(FAMILIES, SIDES, strict=True)])
def test_the_ends_and_what_lies_between_are_those_done_by_hand(family: str, padding: str) -> None:
    m, own = model(family), data(padding)
    batch, by_hand = as_batch(own), Oracle(pristine(family), model(family).wiring)
    (carried,) = counterfactual(m, own)(batch)
    context = m.start(batch.clean, batch.mask)
    assert batch.aligned is not None
    plain = by_hand.plain(batch.aligned.tokens, batch.aligned.mask)
    there = Written(
        *({n: gathered(x, batch, own.examples) for n, x in table.items()}
          for table in (plain.writers, plain.raw))
    )  # fmt: skip
    texts = {side: [torch.tensor([getattr(e, side)]) for e in own.examples]
             for side in ("clean", "corrupt")}  # fmt: skip
    clean, corrupt = (torch.cat([by_hand.logits(t)[:, -1] for t in texts[side]]) for side in texts)
    rng, wiring = np.random.default_rng(0), m.wiring
    with torch.no_grad():
        assert distance(run(m, batch, context, carried, wiring.legal), clean) < SAME
        nothing = run(m, batch, context, carried, np.zeros(wiring.shape, bool))
        assert distance(nothing, corrupt) < SAME
        assert distance(nothing, clean) > 1e-2
        for density in (0.9, 0.3):
            keep = wiring.legal & (rng.random(wiring.shape) < density)
            found = run(m, batch, context, carried, keep)
            assert distance(found, by_hand.run(batch, there, keep, real=False)) < SAME


def test_ability_measures_the_corrupted_texts_themselves_and_says_what_the_pairing_does() -> None:
    m, own = model("gpt2"), data()
    found, swapped = ck.ability(m, own), ck.ability(m, own.both_ways()[1::2])
    assert found.corrupt == pytest.approx(-swapped.clean, abs=1e-5)
    tokens = [partner for one in own.examples for partner in weights(one)[1]]
    assert found.unpaired == pytest.approx(tokens.count(False) / len(tokens))
    assert 0.01 < found.pairing < 1
    assert "; aligned: 18.6% of tokens without a partner, the pairing alone moves" in repr(found)
    alike = ck.ability(m, replace(dataset(), align="spans"))  # where it does nothing
    assert alike.unpaired == 0
    assert alike.pairing < 1e-5
    assert "unpaired" not in ck.ability(m, dataset()).to_dict()
    assert list(found.to_frame())[-2:] == ["unpaired", "pairing"]


def test_what_the_pairing_alone_does_is_a_jump_of_heads_that_come_alive() -> None:
    """By hand: each head looks at the gathered keys and values from the clean tokens' places."""
    m, own = model("llama"), data("left")
    batch = as_batch(own)
    (carried,) = counterfactual(m, own)(batch)
    context, rows = m.start(batch.clean, batch.mask), torch.arange(len(batch))
    final = carried.final[rows, batch.last].clone()
    for layer in range(m.wiring.layers):
        stage = m.wiring.attention(layer)
        z = m.attend(context, layer, *m.project(layer, carried.reads[stage.index]))
        change = m.write(layer, None, z - carried.shares[stage.index]).sum(0)
        final += change[rows, batch.last]
    found = paired_alone(m, own, batch)
    corrupt = m.unembed(carried.final[rows, batch.last])
    assert distance(found - corrupt, m.unembed(final) - corrupt) < 1e-4


# -- between places, and answers of several tokens -------------------------------------------------
def by_places(family: str, padding: str) -> tuple[Any, ...]:
    """Aligned prompts with an answer of three tokens, and the places of the model's edges."""
    m, own = model(family), data(padding, (((7, 8, 9),), ((6,),)))[:3]
    batch = as_batch(own)
    (carried,) = counterfactual(m, own)(batch)
    return m, own, batch, m.start(batch.clean, batch.mask), carried, places(own, m.wiring)


@pytest.mark.parametrize(("family", "padding"), [*zip(FAMILIES[:3], SIDES, strict=False)])
def test_masks_between_places_are_those_done_by_hand(family: str, padding: str) -> None:
    """Hooks on the plain module, which carry values gathered by the loop; the logits read where the
    prompt ends, and at the tokens of the answer."""
    m, own, batch, context, carried, where = by_places(family, padding)
    by_hand = PlacedOracle(pristine(family), m.wiring)
    plain = by_hand.plain(batch.aligned.tokens, batch.aligned.mask)
    there = Written(
        *({n: gathered(x, batch, own.examples) for n, x in table.items()}
          for table in (plain.writers, plain.raw))
    )  # fmt: skip
    assert [s for s, own in zip(where.spans, where.answers, strict=True) if own] == [
        "end", "answer",
    ]  # fmt: skip
    of, legal, rng = numbers(batch, where.spans), where.legal, np.random.default_rng(1)
    keep = PlacedMask(
        where, legal.residual & (rng.random(where.shape) < 0.5),
        legal.attention & (rng.random(legal.attention.shape) < 0.7),
    )  # fmt: skip
    with torch.no_grad():
        found = run(m, batch, context, carried, keep)
        assert distance(found, by_hand.placed(batch, there, keep, of)) < SAME
        nothing = replace(keep, residual=legal.residual & False, attention=legal.attention & False)
        ends = [run(m, batch, context, carried, one) for one in (nothing, legal)]
    rows = torch.arange(len(batch))
    for logits, tokens, mask, last in (
        (ends[0], batch.aligned.tokens, batch.aligned.mask, batch.aligned.last),
        (ends[1], batch.clean, batch.mask, batch.last),
    ):
        assert distance(logits, by_hand.logits(tokens, mask)[rows, last]) < SAME


def test_the_logits_of_each_token_of_an_answer_are_read_in_their_span() -> None:
    m, _, batch, context, carried, where = by_places("llama", "right")
    legal, begun = where.legal, batch.mask.sum(-1) > batch.prompts.sum(-1)
    with torch.no_grad():
        whole = run(m, batch, context, carried, legal)
        for span, rows in (("end", ~begun), ("answer", begun)):
            residual = legal.residual.copy()
            residual[1:, -1, where.span(span)] = False
            cut = run(m, batch, context, carried, replace(legal, residual=residual))
            moved = (cut - whole).abs().amax(-1) > 1e-4
            assert moved.tolist() == rows.tolist()


@pytest.mark.parametrize("metric", ["log_probability", "logit_diff"])
def test_scores_of_whole_answers_sum_over_spans_to_the_plain_ones(metric: str) -> None:
    m, own, *_, where = by_places("gpt2", "left")
    plain = ck.discovery.eap(m, own, metric)
    placed = ck.discovery.eap(m, own, metric, places=where)
    assert distance(placed.collapse().values, plain.values) < SAME
    at = placed.residual[:, -1].any(0)
    assert [s for s, there in zip(where.spans, at, strict=True) if there] == ["end", "answer"]


# -- what is refused -------------------------------------------------------------------------------
def test_what_cannot_be_aligned_is_refused() -> None:
    one = data().examples[0]
    assert len(one.clean) != len(one.corrupt)
    with pytest.raises(DataError, match="not have as many tokens as the clean ones; align them"):
        Dataset((one,))
    with pytest.raises(DataError, match=r"clean and .* corrupted tokens; give equally many"):
        replace(one, corrupt_spans=None)
    with pytest.raises(DataError, match="the span 'A' goes from token 1 to 99"):
        replace(one, corrupt_spans={"A": (1, 99)})
    less = replace(one, corrupt_spans={"A": (one.corrupt_spans or {})["A"]})
    with pytest.raises(DataError, match=r"the corrupted text of prompt 1 of 1 .* has no span 'B'"):
        as_batch(Dataset((less,), align="spans"))
    with pytest.raises(DataError, match="'C' is not a span of these prompts"):
        as_batch(Dataset((one,), align=("C",)))
    gone = Example((1, 2, 3, 4), (1, 2, 3), (1,), (2,), {"A": (2, 3)}, corrupt_spans={"A": (1, 2)})
    with pytest.raises(DataError, match=r"the corrupted text of .* no token in the span 'before A"):
        as_batch(Dataset((gone,), align="spans"))
    m, own = model("gpt2"), data()
    with pytest.raises(DataError, match=r"aligned by spans, of which all tokens are replaced"):
        counterfactual(m, own, at="A")(as_batch(own))


# -- texts -----------------------------------------------------------------------------------------
def test_facts_about_subjects_of_any_length_align() -> None:
    m = ck.load("mini")
    task = ck.make_task("facts", m, n=24, lengths="any")
    own = ck.Dataset.of(task, m)
    assert (own.align, own.about["align"]) == (("subject",), "subject")
    for prompt, one in zip(task, own.examples, strict=True):
        start, stop = prompt.corrupt_spans["subject"]
        assert prompt.corrupt is not None
        assert prompt.clean[: prompt.spans["subject"][0]] == prompt.corrupt[:start]
        a, b = (one.corrupt_spans or {})["subject"]
        decoded = m.tokenizer.decode(list(one.corrupt[a:b]))
        assert decoded == prompt.corrupt[start:stop]
    assert any(len(one.clean) != len(one.corrupt) for one in own.examples)
    with pytest.raises(DataError, match="make them equally long, or align them by spans"):
        ck.Dataset.of(list(task), m)
    assert prepare(m, task).metadata()["align"] == "subject"
    assert ck.plan(m, own, edges=9).steps["scores"] > 3 * len(own)
    same = replace(own.examples[0], corrupt_spans=None, corrupt=own.examples[0].clean)
    mixed = replace(own, examples=tuple([*own.examples, same] * 2))
    assert "subject subject_last" in features(mixed)["differs"]


ROWS = [
    {"clean": "The cat is", "corrupt": "The big dog is", "correct": " he", "wrong": " she",
     "span_who": "cat", "corrupt_span_who": "big dog"},
    {"clean": "The old big cat is", "corrupt": "The dog is", "correct": " he", "wrong": " she",
     "span_who": "old big cat", "corrupt_span_who": "3:7"},
]  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "json", "objects"])
def test_files_say_where_the_spans_of_corrupted_texts_are(kind: str, tmp_path: Path) -> None:
    m = ck.load("mini")
    path = tmp_path / f"mine.{'csv' if kind == 'csv' else 'json'}"
    if kind == "csv":
        lines = [",".join(ROWS[0]), *(",".join(row.values()) for row in ROWS)]
        path.write_text("\n".join(lines))
    else:
        rows: list[dict[str, Any]] = [dict(row) for row in ROWS]
        for row in rows if kind == "objects" else []:
            row |= {"spans": {"who": row.pop("span_who")}}
            row |= {"corrupt_spans": {"who": row.pop("corrupt_span_who")}}
        path.write_text(json.dumps(rows))
    task = ck.make_task(path, m, align="spans")
    assert [prompt.corrupt_spans["who"] for prompt in task] == [(3, 11), (3, 7)]
    assert task.about["align"] == "spans"
    assert ck.check_prompts(path, m, align="who").fits
    own = ck.Dataset.of(task, m)
    words = [e.corrupt[slice(*(e.corrupt_spans or {})["who"])] for e in own.examples]
    assert [m.tokenizer.decode(list(ids)) for ids in words] == [" big dog", " dog"]
    assert all(len(e.clean) != len(e.corrupt) for e in own.examples)
    assert len(ck.check_prompts(path, m).misfits) == 2
    task.to_frame().to_csv(tmp_path / "again.csv", index=False)
    assert ck.make_task(tmp_path / "again.csv", m, align="spans").prompts == task.prompts
    with pytest.raises(DataError, match=r"tokens, the clean one \d+, and no spans by"):
        ck.Dataset.of([replace(task[0], corrupt_spans={})], m, align="spans")
