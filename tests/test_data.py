"""Prompts to tokens and to batches: everything stands where the text says, or is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from circuitkit.data.batches import Batch, Dataset
from circuitkit.data.examples import Example
from circuitkit.data.prompts import Prompt, Task, compose
from circuitkit.data.tokens import TokenizerView, tokenise
from circuitkit.errors import CircuitkitError, DataError, TaskFitError

NAMES = ["Mary", "John", "Anna", "Tom"]
VOCABULARY = ["a", "When", " and", " went", ".", " gave", " to", " the", " shop", " again", " a"]
VOCABULARY += NAMES + [f" {name}" for name in NAMES]


def dressed(tokenizer: Tokenizer, opening: bool, closing: bool, **special: str) -> TokenizerView:
    """The tokenizer as Hugging Face gives it, with special tokens around every text."""
    around = [("<s>", 1)] * opening + [("</s>", 2)] * closing
    single = " ".join([*["<s>"] * opening, "$A", *["</s>"] * closing])
    if around:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=around
        )
    return TokenizerView(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special))


def word_level(opening: bool = False, closing: bool = False, **special: str) -> TokenizerView:
    """One token a word with the space before it; parts of words are unknown."""
    tokens = ["[UNK]", "<s>", "</s>", *VOCABULARY]
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|\.| "), "isolated")
    return dressed(tokenizer, opening, closing, **{"unk_token": "[UNK]", **special})


def characters(*merges: tuple[str, str], opening: bool = False, **special: str) -> TokenizerView:
    """Byte-pair encoding of lower-case text with just these merges; other letters are dropped."""
    tokens = ["[UNK]", "<s>", "</s>", *"bcdefghijklmnopqrstuvwxyz ", *map("".join, merges)]
    model = models.BPE({t: i for i, t in enumerate(tokens)}, [*merges])
    return dressed(Tokenizer(model), opening, False, **special)


def decoded(words: TokenizerView, ids: Sequence[int]) -> str:
    """The text of these tokens, special tokens left out."""
    tokens = words.tokenizer.convert_ids_to_tokens(list(ids))  # type: ignore[attr-defined]
    return "".join(token for token in tokens if token not in ("<s>", "</s>"))


def model_of(words: TokenizerView | None) -> Any:
    """What Dataset.of asks of a model."""
    return SimpleNamespace(tokenizer=words and words.tokenizer, device=torch.device("cpu"))


def pair(one: str = "Mary", two: str = "John", more: str = "", **changes: Any) -> Prompt:
    """A prompt whose named words swap in the corrupted text."""
    template = "When {A} and {B} went to the shop" + more + ". {S2:A} gave a"
    clean, spans = compose(template, {"A": one, "B": two})
    corrupt, _ = compose(template, {"A": two, "B": one})
    return replace(Prompt(clean, corrupt, (f" {two}",), (f" {one}",), spans), **changes)


def several(prompt: Prompt) -> Prompt:
    """The prompt with two further corrupted texts."""
    words = prompt.clean.replace(" went", " gave"), prompt.clean.replace(" shop", " Tom")
    return replace(prompt, corruptions=dict(zip(("verb", "noun"), words, strict=True)))


PROMPTS = (pair(), pair("Anna", "Tom", " again"), pair("Tom", "Mary", " and the shop"))
SEVERAL = tuple(map(several, PROMPTS))


def rows(batch: Batch) -> Iterator[tuple[int, torch.Tensor]]:
    yield from enumerate(batch.mask)


# -- compose ---------------------------------------------------------------------------------------
def test_composed_fields_are_found_at_their_spans_with_the_space_before() -> None:
    text, spans = compose("{A} and {B}, {S2:A}{C}! {{x}} {B2:B}", {"A": "Ann", "B": "Bo", "C": "c"})
    assert text == "Ann and Bo, Annc! {x} Bo"
    found = {name: text[start:stop] for name, (start, stop) in spans.items()}
    assert found == {"A": "Ann", "B": " Bo", "S2": " Ann", "C": "c", "B2": " Bo"}


def test_a_template_without_fields_is_its_text() -> None:
    assert compose("no fields", {}) == ("no fields", {})
    assert compose("", {}) == ("", {})


# -- tokens ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("opening", [False, True])
def test_tokens_answers_and_spans_decode_to_their_text(opening: bool) -> None:
    words = word_level(opening, bos_token="<s>")
    for prompt, example in zip(PROMPTS, tokenise(PROMPTS, words), strict=True):
        assert decoded(words, example.clean) == prompt.clean
        assert decoded(words, example.corrupt) == prompt.corrupt
        assert decoded(words, example.correct) == "".join(prompt.correct)
        assert decoded(words, example.wrong) == "".join(prompt.wrong)
        assert example.spans.keys() == {*prompt.spans, "end"}
        for name, (start, stop) in prompt.spans.items():
            tokens = example.clean[slice(*example.spans[name])]
            assert decoded(words, tokens) == prompt.clean[start:stop]
        assert example.spans["end"] == (len(example.clean) - 1, len(example.clean))
        assert (example.clean[0] == 1) is opening


@pytest.mark.parametrize("start", [0, 4])
@pytest.mark.parametrize("opening", [False, True])
def test_a_span_holds_all_its_tokens_and_no_special_one(opening: bool, start: int) -> None:
    words = word_level(opening, bos_token="<s>")
    prompt = pair()
    stop = prompt.clean.index(" went")
    example = next(tokenise([replace(prompt, spans={"subject": (start, stop)})], words))
    tokens = example.clean[slice(*example.spans["subject"])]
    assert 1 not in tokens
    assert decoded(words, tokens) == prompt.clean[start:stop]


@pytest.mark.parametrize(
    ("words", "added"),
    [
        (word_level(True, bos_token="<s>"), [1]),
        (word_level(True, True, bos_token="<s>", eos_token="</s>"), [1]),
        (word_level(False, bos_token="<s>"), []),
        (word_level(False, True, bos_token="<s>", eos_token="</s>"), []),
        (word_level(False), []),
        (word_level(True, cls_token="<s>"), [1]),
        (word_level(True, bos_token="</s>"), [1]),
        (characters(bos_token="<s>"), []),
        (characters(opening=True, bos_token="<s>"), [1]),
    ],
    ids=["adds", "both", "has", "end", "none", "class", "other", "drops-a", "drops-a-adds"],
)  # fmt: skip
def test_a_beginning_is_added_just_where_the_tokenizer_adds_it(
    words: TokenizerView, added: list[int]
) -> None:
    plain = words.tokenizer(["the shop", ""], add_special_tokens=False)["input_ids"]
    assert words.ids(["the shop", ""]) == [added + ids for ids in plain]
    assert words.ids([]) == []


class Opening:
    """A tokenizer of letters that puts two special tokens in front, and one behind."""

    bos_token_id = None
    special: ClassVar = {"[": 101, "]": 102, "$": 103}

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        plain = [[self.special.get(letter, ord(letter)) for letter in one] for one in text]
        return {
            "input_ids": [[101, 102, *ids, 103] if add_special_tokens else ids for ids in plain]
        }

    def decode(self, token_ids: list[int], /) -> str:
        return "".join(map(chr, token_ids))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("hi", [101, 102, 104, 105]),
        ("[]hi", [101, 102, 104, 105]),
        ("]hi", [101, 102, 104, 105]),
        ("", [101, 102]),
        ("h[]i", [101, 102, 104, 101, 102, 105]),
        ("$hi", [101, 102, 103, 104, 105]),
    ],
)
def test_special_tokens_in_front_are_those_of_the_tokenizer_and_not_doubled(
    text: str, ids: list[int]
) -> None:
    assert TokenizerView(Opening()).ids([text]) == [ids]


def test_a_beginning_in_the_text_is_the_tokenizers_own() -> None:
    words = word_level(True, bos_token="<s>")
    assert words.ids(["<s>the shop"]) == words.ids(["the shop"])


@pytest.mark.parametrize("opening", [False, True])
def test_fitting_words_are_one_token_that_the_tokenizer_knows(opening: bool) -> None:
    words = word_level(opening, bos_token="<s>")
    asked = [" Mary", " Zaphod", " Mary Tom", "", " Tom", ".", " shop", " Marys"]
    assert words.fitting(asked) == [" Mary", " Tom", ".", " shop"]
    assert words.fitting([]) == []


def test_a_word_that_merges_with_what_stands_before_it_does_not_fit() -> None:
    words = characters(("x", "y"), ("b", "c"), ("bc", "d"))
    assert words.fitting(["y", "z", "bcd", "bc", "bcb"], after="x") == ["z", "bcd", "bc"]
    assert words.fitting(["y", "z"], after="xy") == ["y", "z"]


def test_required_words_are_those_that_fit_or_the_task_is_refused() -> None:
    words = word_level()
    asked = [f" {name}" for name in [*NAMES, "Zaphod"]]
    assert words.require("ioi", "names", asked, 4) == asked[:4]
    with pytest.raises(TaskFitError) as caught:
        words.require("ioi", "names", asked, 5)
    message = str(caught.value)
    assert message.startswith("ioi needs 5 names that are one token each, but with ")
    assert "only 4 of 5 are" in message
    assert "(' Zaphod' is not)" in message
    assert "\n" not in message
    with pytest.raises(TaskFitError):
        words.require("ioi", "names", [], 1)


# -- what is refused -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"corrupt": "When Mary"}, "make them equally long"),
        ({"clean": "", "corrupt": ""}, "no tokens"),
        ({"correct": ()}, "has no correct answer"),
        ({"correct": (" Mary John",)}, "' Mary John' is not one token"),
        ({"correct": (" Zaphod",)}, "' Zaphod' is not one token"),
        ({"correct": ("",)}, "'' is not one token"),
        ({"wrong": (" Tom", " the shop")}, "' the shop' is not one token"),
        ({"correct": (" Tom", " Tom")}, "has the same answer twice"),
        ({"wrong": (" Anna", " Tom", " Anna")}, "has the same answer twice"),
        ({"correct": (" Tom",), "wrong": (" Anna", " Tom")}, "both correct and wrong"),
        ({"spans": {"S": (0, 2)}}, "ends inside a token"),
        ({"spans": {"S": (6, 9)}}, "ends inside a token"),
        ({"spans": {"S": (4, 7)}}, "ends inside a token"),
        ({"spans": {"S": (5, 9)}}, "ends inside a token"),
        ({"spans": {"S": (4, 4)}}, "the span 'S' from 4 to 4 contains no token"),
        ({"spans": {"S": (9, 4)}}, "the span 'S' from 9 to 4 contains no token"),
        ({"spans": {"S": (0, 999)}}, "the span 'S' from 0 to 999 contains no token"),
        ({"spans": {"S": (-5, 4)}}, "the span 'S'|ends inside a token"),
        ({"corruptions": {"S": "When Mary"}}, "'When Mary' has 2; make them equally long"),
    ],
    ids=str,
)
def test_a_prompt_that_forms_no_pair_is_refused_by_its_text(
    changes: dict[str, Any], says: str
) -> None:
    good = pair()
    bad = replace(good, **changes)
    with pytest.raises(DataError, match=says) as caught:
        Dataset.of([good, bad, good], model_of(word_level()))
    assert repr(bad.clean) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_answer_that_merges_with_the_prompt_is_refused() -> None:
    prompt = Prompt("dx", "ex", ("y",), ("z",))
    words = characters(("x", "y"))
    with pytest.raises(DataError, match="'y' is not one token after 'dx'"):
        list(tokenise([prompt], words))
    example = next(tokenise([replace(prompt, correct=("w",))], words))
    assert decoded(words, example.clean + example.correct) == "dxw"


@pytest.mark.parametrize("empty", [(), []])
def test_no_prompts_are_refused(empty: Any) -> None:
    with pytest.raises(DataError, match="give at least one clean/corrupt pair"):
        Dataset.of(empty, model_of(word_level()))
    with pytest.raises(DataError, match="give at least one clean/corrupt pair"):
        Dataset(())


def test_a_model_without_a_tokenizer_is_asked_for_examples() -> None:
    with pytest.raises(DataError, match="give Dataset the token ids"):
        Dataset.of(PROMPTS, model_of(None))


@pytest.mark.parametrize(
    "changes",
    [
        {"clean": (), "corrupt": ()}, {"corrupt": (1, 2)}, {"corrupt": (1, 2, 3, 4)},
        {"spans": {"S": (0, 4)}}, {"spans": {"S": (-1, 2)}}, {"spans": {"S": (2, 2)}},
        {"corruptions": {"S": (1, 2)}}, {"corruptions": {"S": (1, 2, 3), "T": ()}},
    ],
    ids=str,
)  # fmt: skip
def test_an_example_that_forms_no_pair_is_refused(changes: dict[str, Any]) -> None:
    good = Example((1, 2, 3), (1, 5, 3), (7,), (), {"end": (2, 3)})
    with pytest.raises(DataError):
        replace(good, **changes)


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"batch_size": -1}, {"padding": "both"}, {"padding": ""}]
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="give "):
        Dataset.of(PROMPTS, model_of(word_level()), **options)


# -- batches ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("opening", [False, True])
def test_a_batch_decodes_to_its_prompts_at_mask_last_and_spans(padding: str, opening: bool) -> None:
    words = word_level(opening, bos_token="<s>")
    (batch,) = Dataset.of(PROMPTS, model_of(words), padding=padding)
    lengths = batch.mask.sum(1).tolist()
    assert len(batch) == len(PROMPTS)
    assert len(set(lengths)) == 3
    assert batch.clean.shape == batch.corrupt.shape == batch.mask.shape == (3, max(lengths))
    assert (batch.clean.dtype, batch.mask.dtype) == (torch.long, torch.bool)
    for row, mask in rows(batch):
        prompt = PROMPTS[row]
        assert decoded(words, batch.clean[row][mask].tolist()) == prompt.clean
        assert decoded(words, batch.corrupt[row][mask].tolist()) == prompt.corrupt
        held = torch.nonzero(mask).flatten()
        assert held.tolist() == list(range(int(held[0]), int(held[-1]) + 1))
        assert int(held[0]) == 0 if padding == "right" else int(held[-1]) == max(lengths) - 1
        assert int(batch.last[row]) == int(held[-1])
        for name, (start, stop) in prompt.spans.items():
            tokens = batch.clean[row][slice(*batch.spans[name][row].tolist())]
            assert decoded(words, tokens.tolist()) == prompt.clean[start:stop]
        end = batch.spans["end"][row].tolist()
        assert end == [int(batch.last[row]), int(batch.last[row]) + 1]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_padding_holds_the_same_token_in_clean_and_corrupt(padding: str) -> None:
    (batch,) = Dataset.of(PROMPTS, model_of(word_level()), padding=padding)
    assert not batch.mask.all()
    assert torch.equal(batch.clean[~batch.mask], batch.corrupt[~batch.mask])


@pytest.mark.parametrize("padding", ["left", "right"])
def test_answers_are_padded_with_what_is_no_token_and_never_shifted(padding: str) -> None:
    words = word_level()
    prompts = [
        pair(),
        pair(more=" again", correct=(" Tom", " Anna", "."), wrong=()),
    ]
    (batch,) = Dataset.of(prompts, model_of(words), padding=padding)
    for row, prompt in enumerate(prompts):
        for table, answers in ((batch.correct, prompt.correct), (batch.wrong, prompt.wrong)):
            ids = table[row].tolist()
            assert decoded(words, ids[: len(answers)]) == "".join(answers)
            assert set(ids[len(answers) :]) <= {-1}
    assert batch.correct.shape == (2, 3)
    assert batch.wrong.shape == (2, 1)


def test_a_span_that_a_prompt_lacks_is_marked_so() -> None:
    prompts = [pair(), pair(more=" again", spans={})]
    (batch,) = Dataset.of(prompts, model_of(word_level()), padding="left")
    assert batch.spans["S2"][1].tolist() == [-1, -1]
    assert (batch.spans["S2"][0] >= 0).all()
    assert (batch.spans["end"] >= 0).all()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_batches_hold_every_example_once_in_order(size: int) -> None:
    words = word_level()
    data = Dataset.of(PROMPTS * 2, model_of(words), batch_size=size)
    assert len(data) == 6
    for _ in range(2):  # and can be gone through again
        batches = list(data)
        assert [len(b) for b in batches[:-1]] == [size] * (len(batches) - 1)
        assert sum(map(len, batches)) == 6
        texts = [decoded(words, b.clean[i][m].tolist()) for b in batches for i, m in rows(b)]
        assert texts == [p.clean for p in PROMPTS * 2]


def test_a_batch_is_no_longer_than_its_longest_example() -> None:
    data = Dataset.of(PROMPTS, model_of(word_level()), batch_size=1)
    assert all(batch.mask.all() for batch in data)
    assert len({batch.clean.shape[1] for batch in data}) == 3


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_repeated_batch_is_the_batch_stacked_on_itself(times: int) -> None:
    (batch,) = Dataset.of(SEVERAL, model_of(word_level()))
    again = batch.repeat(times)
    assert len(again) == times * len(batch)
    assert again.name(len(again) - 1) == batch.name(len(batch) - 1)
    for name, table in vars(batch).items():
        if name not in ("spans", "corruptions", "named", "sequences", "aligned"):
            assert torch.equal(getattr(again, name), torch.cat([table] * times))
    for own, more in ((batch.spans, again.spans), (batch.corruptions, again.corruptions)):
        assert own
        assert more.keys() == own.keys()
        for name, table in own.items():
            assert torch.equal(more[name], torch.cat([table] * times))


def test_examples_can_be_filtered_but_not_away() -> None:
    data = Dataset.of(PROMPTS, model_of(word_level()), batch_size=2, padding="left")
    longest = max(len(e.clean) for e in data.examples)
    kept = data.where(lambda example: len(example.clean) < longest)
    assert kept.examples == data.examples[:2]
    assert (kept.batch_size, kept.padding) == (2, "left")
    assert len(data) == 3
    with pytest.raises(DataError, match="there are no examples"):
        data.where(lambda example: False)


def test_an_index_gives_an_example_a_slice_a_dataset_and_iteration_batches() -> None:
    data = Dataset.of(PROMPTS, model_of(word_level()), batch_size=2, padding="left")
    assert data[0] == data.examples[0]
    assert data[-1] == data.examples[-1]
    some = data[:2]
    assert some.examples == data.examples[:2]
    assert replace(some, examples=data.examples) == data
    assert all(isinstance(batch, Batch) for batch in data)
    with pytest.raises(IndexError):
        data[3]
    with pytest.raises(DataError, match="there are no examples"):
        data[3:]


def test_a_dataset_is_shown_in_the_text_of_its_tokens() -> None:
    data = Dataset.of(SEVERAL * 4, model_of(word_level()), batch_size=5)
    assert str(data) == "12 examples, 12 to 15 tokens, in batches of 5"
    assert len(repr(data).splitlines()) <= 20
    assert "and 9 more" in repr(data)
    frame = data.to_frame()
    assert len(frame) == 12
    assert {"clean", "corrupt", "correct", "wrong", "span_A", "span_end", "corrupt_verb"} <= {
        *frame
    }
    assert "Mary" in frame["clean"][0]
    assert "Mary" in repr(data)
    assert "<table" in data._repr_html_()


def test_a_dataset_says_of_which_task_it_is() -> None:
    data = Dataset.of(Task("shop", PROMPTS, "kl", "me"), model_of(word_level()))
    assert str(data).startswith("3 examples of shop, ")
    assert str(data[:1]).startswith("1 example of shop, ")


def test_a_dataset_without_a_tokenizer_is_shown_in_token_ids() -> None:
    data = Dataset((Example((1, 2, 3), (1, 5, 3), (7, 8), (), {"end": (2, 3)}),))
    assert str(data) == "1 example, 3 tokens, in batches of 32"
    row = {"clean": "1 2 3", "corrupt": "1 5 3", "correct": "7|8", "wrong": "", "span_end": "3"}
    assert data.to_frame().to_dict("records") == [row]
    assert "'1 2 3'" in repr(data)


def test_the_tokenizer_of_a_dataset_is_for_displays_only() -> None:
    data = Dataset.of(PROMPTS, model_of(word_level()))
    assert data.tokenizer is not None
    assert replace(data, tokenizer=None) == data


# -- several corrupted texts -----------------------------------------------------------------------
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("opening", [False, True])
def test_further_corrupted_texts_stand_beside_the_clean_one(padding: str, opening: bool) -> None:
    words = word_level(opening, bos_token="<s>")
    (batch,) = Dataset.of(SEVERAL, model_of(words), padding=padding)
    assert list(batch.corruptions) == ["verb", "noun"]
    for name, tokens in batch.corruptions.items():
        assert tokens.shape == batch.clean.shape
        assert torch.equal(tokens[~batch.mask], batch.clean[~batch.mask])
        for row, mask in rows(batch):
            assert decoded(words, tokens[row][mask].tolist()) == SEVERAL[row].corruptions[name]


def test_a_batch_offers_just_the_texts_that_all_its_examples_have() -> None:
    fewer = replace(SEVERAL[1], corruptions={"noun": SEVERAL[1].corruptions["noun"]})
    one, two = Dataset.of([SEVERAL[0], fewer, PROMPTS[2]], model_of(word_level()), batch_size=2)
    assert list(one.corruptions) == ["noun"]
    assert not two.corruptions


@pytest.mark.parametrize("padding", ["left", "right"])
def test_replaced_tokens_are_the_corrupted_ones_in_the_spans_and_the_clean_ones_outside(
    padding: str,
) -> None:
    (batch,) = Dataset.of(SEVERAL, model_of(word_level()), padding=padding)
    for text, tokens in {None: batch.corrupt, **batch.corruptions}.items():
        assert torch.equal(batch.replaced(text), tokens)
        assert torch.equal(batch.differing(text), tokens != batch.clean)
        assert batch.differing(text).any()
    for spans in (("A",), ("S2", "A"), ["end"]):
        held = torch.stack([batch.within(name) for name in spans]).any(0)
        assert 0 < held.sum() < batch.mask.sum()
        found = batch.replaced(None, spans)
        assert torch.equal(found[held], batch.corrupt[held])
        assert torch.equal(found[~held], batch.clean[~held])
        assert torch.equal(batch.differing("verb", spans), held)
    assert not torch.equal(batch.replaced(None, ["A"]), batch.corrupt)
    assert not torch.equal(batch.replaced(None, ["A"]), batch.clean)


@pytest.mark.parametrize("ask", [Batch.replaced, Batch.differing])
def test_an_unknown_text_or_span_is_refused_with_the_known_ones(ask: Any) -> None:
    (batch,) = Dataset.of(SEVERAL, model_of(word_level()))
    for spans in ((), ("A",)):
        with pytest.raises(DataError, match=r"the corrupted text 'no'; .* are 'verb', 'noun';"):
            ask(batch, "no", spans)
    with pytest.raises(DataError, match="no span 'no'; the spans are A, B, S2, end"):
        ask(batch, "verb", ("A", "no"))
    (plain,) = Dataset.of(PROMPTS, model_of(word_level()))
    with pytest.raises(DataError, match=r"the corrupted text 'verb'; .* are none;"):
        ask(plain, "verb")


# -- both ways -------------------------------------------------------------------------------------
def test_both_ways_each_example_is_followed_by_its_swap() -> None:
    data = Dataset.of(SEVERAL, model_of(word_level()), batch_size=2, padding="left")
    both = data.both_ways()
    assert (len(both), both.batch_size, both.padding) == (6, 2, "left")
    assert both.examples[::2] == tuple(replace(e, corruptions={}) for e in data.examples)
    for one, swap in zip(both.examples[::2], both.examples[1::2], strict=True):
        assert (swap.clean, swap.corrupt) == (one.corrupt, one.clean)
        assert (swap.correct, swap.wrong) == (one.wrong, one.correct)
        assert swap.spans == one.spans
        assert not swap.corruptions
        assert one != swap
    assert data.examples[0].corruptions


@pytest.mark.parametrize("wrong", [(), (" Anna", " Mary")])
def test_a_pair_whose_answers_cannot_swap_is_refused(wrong: tuple[str, ...]) -> None:
    data = Dataset.of([pair(), pair(wrong=wrong)], model_of(word_level()))
    with pytest.raises(DataError, match=f"has 1 correct and {len(wrong)} wrong answers"):
        data.both_ways()
    with pytest.raises(DataError, match="has 0 correct and 0 wrong answers"):
        Dataset((Example((1, 2), (1, 3), (), (), {}),)).both_ways()


# -- tasks -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("first", [1, 2])
def test_a_task_splits_into_all_its_prompts(first: int) -> None:
    task = Task("ioi", PROMPTS, "logit_diff", "Wang et al. 2023", {"n": 3})
    one, two = task.split(first)
    assert one.prompts + two.prompts == task.prompts
    assert len(one.prompts) == first
    assert replace(one, prompts=PROMPTS) == replace(two, prompts=PROMPTS) == task


@pytest.mark.unchecked
@pytest.mark.parametrize("first", [-1, 0, 3, 100, 1.5, "half", None])
def test_a_split_that_leaves_one_side_empty_is_refused(first: Any) -> None:
    task = Task("ioi", PROMPTS, "logit_diff", "Wang et al. 2023")
    says = f"ioi has 3 prompts, which cannot be split after {first!r}; give a whole number from 1"
    with pytest.raises(DataError, match=says):
        task.split(first)


@pytest.mark.parametrize("n", [3, 4, 8])
def test_halves_part_the_examples_and_share_all_else(n: int) -> None:
    examples = tuple(Example((1, 2 + i), (1, 3 + i), (4,), (), {}) for i in range(n))
    data = Dataset(examples, batch_size=5, padding="left", memory=2**30)
    first, second = data.halves()
    assert first.examples + second.examples == examples
    assert len(second) - len(first) in (0, 1)
    assert replace(first, examples=examples) == replace(second, examples=examples) == data


def numbered(*clean: int) -> Dataset:
    """Examples by the number of their clean prompt; all corrupted texts differ."""
    return Dataset(tuple(Example((1, 2 + i), (9, k), (4,), (), {}) for k, i in enumerate(clean)))


@pytest.mark.parametrize("clean", [(0,), (0, 1), (0, 0, 0), (0, 1, 0, 1, 1)])
def test_of_one_or_two_prompts_both_halves_are_the_data(clean: tuple[int, ...]) -> None:
    data = numbered(*clean)
    first, second = data.halves()
    assert first is second is data


@pytest.mark.parametrize(
    "clean",
    [
        (0, 1, 2, 0, 1, 2),
        (0, 0, 0, 0, 1, 2),
        (0, 1, 1, 1, 1, 2),
        (0, 1, 2, 2, 2, 2, 2),
        (2, 1, 0) * 5,
    ],
)
def test_prompts_with_equal_clean_tokens_are_in_one_half(clean: tuple[int, ...]) -> None:
    data = numbered(*clean)
    first, second = data.halves()
    assert first.examples
    assert second.examples
    assert not {e.clean for e in first.examples} & {e.clean for e in second.examples}
    assert sorted(e.corrupt for e in first.examples + second.examples) == sorted(
        e.corrupt for e in data.examples
    )


def test_a_task_is_taken_as_its_prompts_are() -> None:
    model = model_of(word_level())
    task = Task("ioi", PROMPTS, "logit_diff", "Wang et al. 2023")
    assert Dataset.of(task, model) == Dataset.of(PROMPTS, model)


def test_a_task_that_does_not_fit_is_a_data_error_too() -> None:
    assert issubclass(TaskFitError, DataError)
    assert issubclass(DataError, CircuitkitError)
