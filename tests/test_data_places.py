"""Which span each token belongs to, beside a loop over the tokens of random prompts."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.data.places import TOKENS, located, names_of, numbers, places, widened
from circuitkit.errors import DataError
from circuitkit.graph.wiring import Wiring

WIRING = Wiring(2, 2, 1)
NAMES = ("IO", "S1", "S2")


def example(length: int, sequences: Any = None, **spans: tuple[int, int]) -> Example:
    """A prompt of that many tokens."""
    tokens = tuple(range(length))
    return Example(tokens, tokens, (1,), (2,), spans, sequences=sequences)


def random_example(rng: Random, whole: bool = False) -> Example:
    """A prompt with the three named spans in any order, with or without tokens between them."""
    at, spans = rng.randrange(1, 4), {}
    for name in rng.sample(NAMES, 3):
        stop = at + rng.randrange(1, 4)
        spans[name] = (at, stop)
        at = stop + rng.randrange(3)
    length = at + rng.randrange(1, 3)
    answers = tuple(tuple(rng.randrange(9) for _ in range(n)) for n in (3, 1))
    end = {"end": (length - 1, length)}
    return example(length, ((answers[:1]), (answers[1:])) if whole else None, **spans, **end)


def slowly(one: Example, extra: int = 0) -> list[str]:
    """The span of each token of a prompt and of as many tokens of an answer, token by token."""
    found = []
    for at in range(len(one.clean)):
        held = [name for name, (a, b) in one.spans.items() if a <= at < b]
        starts = sorted((a, name) for name, (a, _) in one.spans.items() if a > at)
        found.append("start" if at == 0 else held[0] if held else f"before {starts[0][1]}")
    return found + ["answer"] * extra


def as_names(data: Dataset, names: tuple[str, ...]) -> list[list[str]]:
    """The spans of the tokens of each row."""
    found = []
    for batch in data:
        table = numbers(batch, names)
        assert (table[~batch.mask] == -1).all()
        found += [
            [names[n] for n in row[mask]] for row, mask in zip(table, batch.mask, strict=True)
        ]
    return found


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("seed", range(5))
def test_every_token_is_where_a_loop_finds_it(seed: int, padding: str) -> None:
    rng = Random(seed)
    data = Dataset(tuple(random_example(rng) for _ in range(9)), batch_size=4, padding=padding)
    names = names_of(data)
    expected = [slowly(one) for one in data.examples]
    assert as_names(data, names) == expected
    assert set(names) == {name for row in expected for name in row}
    assert names_of(data, names) == names  # as a result that was saved lists them


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("seed", range(5))
def test_what_sees_what_is_found_by_a_loop(seed: int, padding: str) -> None:
    rng = Random(seed)
    data = Dataset(tuple(random_example(rng, seed > 2) for _ in range(3)), padding=padding)
    found = places(data, WIRING)
    rows = as_names(data, found.spans)
    sees, answers = set(), set()
    for row in rows:
        answers.add(row[-1])
        sees |= {(row[s], row[d]) for d in range(len(row)) for s in range(d + 1)}
    named = [(found.spans[s], found.spans[d]) for s, d in np.argwhere(found.sees)]
    assert set(named) == sees
    assert {name for name, own in zip(found.spans, found.answers, strict=True) if own} == answers
    assert answers == ({"end", "answer"} if seed > 2 else {"end"})


@pytest.mark.parametrize("padding", ["left", "right"])
def test_the_tokens_of_an_answer_are_a_span_of_their_own(padding: str) -> None:
    rng = Random(7)
    data = Dataset(tuple(random_example(rng, True) for _ in range(4)), padding=padding)
    expected = [slowly(one, extra) for one in data.examples for extra in (0, 1, 2)]
    assert as_names(data, names_of(data)) == expected
    assert names_of(data)[-1] == "answer"
    assert "answer" not in names_of(data.first_tokens())


def test_the_names_of_one_set_place_the_tokens_of_another() -> None:
    seen = Dataset((example(8, S=(2, 4), O=(5, 6)), example(6, O=(2, 3), S=(3, 4))))
    names = names_of(seen)
    assert names == ("start", "before S", "S", "before O", "O", "before end", "end")
    unseen = Dataset((example(9, O=(3, 4), S=(6, 7)),))
    wanted = "start|before O|before O|O|before S|before S|S|before end|end"
    assert as_names(unseen, names) == [wanted.split("|")]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_an_order_that_no_prompt_of_the_places_has_is_refused_or_added(padding: str) -> None:
    seen = (example(9, S=(2, 4), O=(5, 7)), example(8, S=(1, 2), O=(3, 6)))
    found = places(Dataset(seen), WIRING)
    (batch,) = Dataset(seen, padding=padding)
    assert located(batch, found).equal(numbers(batch, found.spans))
    turned = example(9, O=(2, 3), S=(5, 6))
    (other,) = Dataset((*seen, turned), padding=padding)
    with pytest.raises(DataError, match=r"prompt 3 of 3 .* has 'before O' before 'before S', as"):
        located(other, found)
    of, wide = widened(other, found)
    assert of.equal(numbers(other, found.spans))
    both = {(s, d) for row in as_names(Dataset((*seen, turned)), found.spans)
            for i, d in enumerate(row) for s in row[: i + 1]}  # fmt: skip
    named = {(found.spans[s], found.spans[d]) for s, d in np.argwhere(wide.sees)}
    assert named == both
    assert widened(batch, found)[1] is found


def test_a_token_that_belongs_nowhere_is_refused() -> None:
    names = names_of(Dataset((example(5, S=(1, 3)),)))
    assert names == ("start", "S", "before end", "end")
    with pytest.raises(DataError, match=r"prompt 2 of 2 .* has a token before 'S', which none of"):
        as_names(Dataset((example(5, S=(1, 3)), example(5, S=(2, 3)))), names)
    named = Dataset((example(6, S=(3, 4), **{"before S": (1, 2)}),))  # and a token between them
    with pytest.raises(DataError, match="has a token before 'S', which none of"):
        names_of(named)
    with pytest.raises(DataError, match="has a token behind the last span, which none of"):
        as_names(Dataset((example(5, S=(1, 3)),)), ("start", "S"))
    with pytest.raises(DataError, match=r"prompt 1 of 1 .* has no span 'T'; the spans are S"):
        as_names(Dataset((example(5, S=(1, 3)),)), ("start", "T", "end"))


def test_a_named_span_at_an_end_of_all_prompts_is_that_end() -> None:
    data = Dataset((example(5, head=(0, 1), tail=(3, 5)), example(7, head=(0, 1), tail=(4, 7))))
    found = places(data, WIRING)
    assert found.spans == ("head", "before tail", "tail")
    assert found.answers.tolist() == [False, False, True]
    assert names_of(data, ["tail"]) == ("start", "before tail", "tail")
    assert names_of(data, "head") == ("head", "before end", "end")
    with pytest.raises(DataError, match=r"'head' of prompt 1 .* goes on after the first token"):
        as_names(Dataset((example(5, head=(0, 2), tail=(3, 5)),)), found.spans)


def test_some_of_the_named_spans_may_be_chosen() -> None:
    data = Dataset((example(9, S=(2, 4), O=(5, 7)), example(8, O=(1, 2), S=(5, 6))))
    assert names_of(data, ["S"]) == ("start", "before S", "S", "before end", "end")
    assert names_of(data, "end") == ("start", "before end", "end")
    assert as_names(data, names_of(data, ["S", "end"])) == [
        [*["start"], *["before S"], *["S"] * 2, *["before end"] * 4, "end"],
        [*["start"], *["before S"] * 4, *["S"], *["before end"], "end"],
    ]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_every_position_may_be_a_span(padding: str) -> None:
    data = Dataset((example(4), example(4)), padding=padding)
    found = places(data, WIRING, TOKENS)
    assert found.spans == ("0", "1", "2", "3")
    assert as_names(data, found.spans) == [list("0123")] * 2
    assert np.array_equal(found.sees, np.triu(np.ones((4, 4), bool)))
    assert found.answers.tolist() == [False, False, False, True]
    several = Dataset((example(4, (((1, 2),), ())), example(4, (((3, 4, 5),), ()))))
    wide = places(several, WIRING, TOKENS)
    assert wide.spans == ("0", "1", "2", "3", "4", "5")
    assert wide.answers.tolist() == [False, False, False, True, True, True]
    with pytest.raises(DataError, match="the prompts have 4 to 6 tokens, so that their positions"):
        names_of(Dataset((example(4), example(6))), TOKENS)
    with pytest.raises(DataError, match="a prompt has 6 tokens, and there are places for 4"):
        as_names(Dataset((example(6),)), found.spans)


@pytest.mark.parametrize(
    ("examples", "spans", "words"),
    [
        ((example(5, end=(4, 5)),), "named", "name no spans; take every position .*--spans tokens"),
        ((example(5, S=(1, 3)), example(5)), "named", "prompt 2 of 2 .* has no span 'S'"),
        ((example(5, S=(1, 3), T=(2, 4)),), "named", "'S' and 'T' at one token; .* --spans S$"),
        ((example(5, S=(1, 3), T=(1, 3)),), ["S", "T"], "has 'S' and 'T' at one token"),
        ((example(5, S=(0, 2)),), "named", "'start' and 'S' at its first token, .* --bos"),
        ((example(6, S=(0, 1)), example(5, S=(2, 3))), "named", "'start' and 'S' at its first"),
        ((example(5, S=(3, 5)), example(5, S=(2, 3))), "named", "has 'end' and 'S' at one token"),
        ((example(5, S=(4, 5)),), ["S", "end"], "has 'end' and 'S' at one token"),
        ((example(1, S=(0, 1)),), "end", "'start' and 'end' in its single token"),
        ((example(5, S=(1, 2)),), ["T"], "'T' is not a span of these prompts; they have S, end"),
        ((example(5, S=(1, 2)),), ["before T"], "'before T' is not a span"),
        ((example(5, subject=(1, 2)),), "subjct", "did you mean 'subject'"),
        ((example(5, start=(1, 2)),), "named", "'start' has the name of the first token"),
        ((example(5, (((1, 2),), ()), answer=(1, 2)),), "named", "the name of an answer of"),
        ((example(5, **{"3": (1, 2)}),), "named", "the span '3' has the name of a position"),
    ],
)
@pytest.mark.parametrize("padding", ["left", "right"])
def test_what_is_wrong_with_spans_is_said(
    examples: tuple[Example, ...], spans: Any, words: str, padding: str
) -> None:
    with pytest.raises(DataError, match=words):
        places(Dataset(examples, padding=padding), WIRING, spans)


def test_of_nested_spans_the_outer_ones_are_named() -> None:
    """Where one lies within the other in every prompt; of two that are the same, the first."""
    nested = example(7, S=(1, 3), last=(2, 3)), example(6, S=(2, 3), last=(2, 3))
    assert names_of(Dataset(nested)) == names_of(Dataset(nested), ["S"])
    assert "last" in names_of(Dataset(nested), ["last"])
    assert "T" not in names_of(Dataset((example(5, S=(1, 3), T=(1, 3)),)))
    once = example(7, S=(1, 3), T=(2, 3)), example(7, S=(1, 2), T=(2, 3))
    with pytest.raises(DataError, match="'S' and 'T' at one token"):
        names_of(Dataset(once))


@pytest.mark.parametrize("shift", [-3, 3])
def test_a_span_beyond_the_prompt_is_refused(shift: int) -> None:
    data = Dataset((example(8, S=(2, 3)), example(5, S=(2, 3))), padding="left")
    (batch,) = data
    moved = {"S": batch.spans["S"] + batch.spans["S"].new_tensor([[0], [shift]])}
    with pytest.raises(DataError, match=r"the span 'S' of prompt 2 of 2 .* beyond its tokens"):
        numbers(replace(batch, spans=moved), names_of(data))
