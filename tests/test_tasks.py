"""Every task keeps its promises, with tokenizers of different kinds."""

from __future__ import annotations

import csv
import json
import operator
import re
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import circuitkit
from circuitkit.data.examples import Example
from circuitkit.data.prompts import Prompt, Task
from circuitkit.data.tasks import make_task
from circuitkit.data.tokens import TokenizerView, tokenise
from circuitkit.errors import ArgumentError, DataError, TaskFitError, UnknownNameError
from circuitkit.registry import lookup, names
from circuitkit.tasks import _names, calculation
from circuitkit.tasks.recall import RELATIONS

MINI = Path(circuitkit.__path__[0]) / "assets" / "mini"
TASKS = [name for name in names("tasks") if name != "from_file"]
OF_WORDS = [name for name in TASKS if name != "arithmetic"]  # which digits alone suffice for


@pytest.fixture(scope="module")
def mini() -> TokenizerView:
    return TokenizerView(AutoTokenizer.from_pretrained(MINI))


def byte_level(model: models.Model, *first: pre_tokenizers.PreTokenizer) -> Tokenizer:
    """A tokenizer that cuts and decodes as GPT-2's does."""
    tokenizer = Tokenizer(model)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def like_gpt2(mini: TokenizerView, *first: pre_tokenizers.PreTokenizer) -> Tokenizer:
    """Byte-level BPE whose merges are learnt of the words that the tasks write."""
    tokenizer = byte_level(models.BPE(), *first)
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>"],
        show_progress=False,
    )
    words = [token for token in mini.tokenizer.get_vocab() if not token.startswith("<|")]
    # The centuries merge first, so that no merge inside a year's four digits comes before them.
    centuries = [f" {century}" for century in range(11, 18)]
    tokenizer.train_from_iterator(words * 2 + centuries * 500, trainer)
    return tokenizer


def with_bos(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


@pytest.fixture(scope="module", params=["mini", "like_gpt2", "with_bos"])
def words(request: pytest.FixtureRequest, mini: TokenizerView) -> TokenizerView:
    if request.param == "mini":
        return mini
    tokenizer = like_gpt2(mini)
    if request.param == "with_bos":
        tokenizer = with_bos(tokenizer)
    return TokenizerView(PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>"))


def letters() -> TokenizerView:
    """A tokenizer to which every byte is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.BPE({letter: i for i, letter in enumerate(alphabet)}, [])
    return TokenizerView(PreTrainedTokenizerFast(tokenizer_object=byte_level(model)))


def make(name: str, words: TokenizerView, n: int = 40, seed: int = 3, **settings: object) -> Task:
    return lookup("tasks", name)(words, n, seed, **settings)


def pairs(name: str, words: TokenizerView, **settings: object) -> list[tuple[Prompt, Example]]:
    prompts = make(name, words, **settings).prompts
    return list(zip(prompts, tokenise(prompts, words), strict=True))


def text(prompt: Prompt, span: str) -> str:
    start, stop = prompt.spans[span]
    return prompt.clean[start:stop]


def in_corrupt(words: TokenizerView, example: Example, span: str) -> str:
    start, stop = example.spans[span]
    return words.tokenizer.decode(example.corrupt[start:stop])


# --- what holds of every task


@pytest.mark.parametrize("name", TASKS)
def test_prompts_are_pairs_that_differ_and_are_answered_by_single_tokens(
    words: TokenizerView, name: str
) -> None:
    task = make(name, words)
    examples = list(tokenise(task.prompts, words))  # raises where an answer is no single token
    assert task.name == name
    assert task.source
    assert task.metric in names("metrics")
    assert len({prompt.clean for prompt in task.prompts}) == 40
    for prompt, example in zip(task.prompts, examples, strict=True):
        assert list(example.corruptions) == list(prompt.corruptions)
        assert len(example.clean) == len(example.corrupt)
        assert example.clean != example.corrupt
        assert example.correct
        assert example.wrong
        assert not set(example.correct) & set(example.wrong)


@pytest.mark.parametrize("name", TASKS)
def test_spans_name_whole_tokens(words: TokenizerView, name: str) -> None:
    for prompt, example in pairs(name, words):
        assert set(example.spans) == {*prompt.spans, "end"}
        for span in prompt.spans:
            start, stop = example.spans[span]
            assert words.tokenizer.decode(example.clean[start:stop]) == text(prompt, span)


@pytest.mark.parametrize("name", OF_WORDS)
def test_a_tokenizer_of_letters_does_not_fit(name: str) -> None:
    with pytest.raises(TaskFitError, match=rf"^{name} .*use another task or another model$"):
        make(name, letters())


def test_more_prompts_than_there_are_cannot_be_made(mini: TokenizerView) -> None:
    with pytest.raises(DataError, match=r"makes only \d+ different prompts .* ask for fewer"):
        make("facts", mini, 5000)


# --- what holds of one task


def test_ioi_repeats_the_subject_and_flips_the_answer(words: TokenizerView) -> None:
    for prompt, example in pairs("ioi", words):
        assert prompt.wrong == (text(prompt, "S1"),) == (text(prompt, "S2"),)
        assert prompt.correct == (text(prompt, "IO"),) == (in_corrupt(words, example, "S2"),)
        for span in ("IO", "S1", "place", "object"):
            assert in_corrupt(words, example, span) == text(prompt, span)


def test_ioi_marks_the_token_after_the_first_subject(words: TokenizerView) -> None:
    for _, example in pairs("ioi", words):
        stop = example.spans["S1"][1]
        assert example.spans["S1+1"] == (stop, stop + 1)


def test_ioi_has_both_orders_in_several_templates(mini: TokenizerView) -> None:
    prompts = make("ioi", mini, 200).prompts
    first = Counter(prompt.spans["IO"] < prompt.spans["S1"] for prompt in prompts)
    assert min(first[True], first[False]) > 50
    assert len({prompt.clean.split(" and ")[1].split()[1] for prompt in prompts}) >= 4


def test_ioi_can_replace_all_names_by_new_ones(words: TokenizerView) -> None:
    for prompt, example in pairs("ioi", words, corrupt="names"):
        new = {in_corrupt(words, example, span) for span in ("IO", "S1", "S2")}
        assert len(new) == 3
        assert not new & {*prompt.correct, *prompt.wrong}


NEW = {"S2": (), "S1+IO": ("IO", "S1"), "names": ("IO", "S1", "S2")}


@pytest.mark.parametrize("corrupt", ["io", "names"])
def test_ioi_has_three_corrupted_texts_of_the_same_clean_one(
    words: TokenizerView, corrupt: str
) -> None:
    prompts = make("ioi", words, corrupt=corrupt).prompts
    assert [p.clean for p in prompts] == [p.clean for p in make("ioi", words).prompts]
    for prompt, example in zip(prompts, tokenise(prompts, words), strict=True):
        assert list(prompt.corruptions) == list(NEW)
        assert prompt.corrupt == prompt.corruptions["S2" if corrupt == "io" else "names"]
        there = {*prompt.correct, *prompt.wrong}
        for name, tokens in example.corruptions.items():
            at = {span: words.tokenizer.decode(tokens[slice(*example.spans[span])])
                  for span in ("IO", "S1", "S2")}  # fmt: skip
            new = {span: word for span, word in at.items() if word not in there}
            assert tuple(new) == NEW[name]
            assert len(set(new.values())) == len(new)
            kept = [i for span in at for i in range(*example.spans[span])]
            assert all(a == b for i, (a, b) in enumerate(zip(tokens, example.clean, strict=True))
                       if i not in kept)  # fmt: skip
            if name == "S2":
                assert at["S2"] == at["IO"] == text(prompt, "IO")
            if name == "S1+IO":
                assert at["S2"] == text(prompt, "S2")


def test_ioi_refuses_another_corruption(mini: TokenizerView) -> None:
    with pytest.raises(ArgumentError, match="corrupt='noise'; give 'io' or 'names'"):
        make("ioi", mini, corrupt="noise")


def test_greater_than_parts_the_endings_at_the_year(words: TokenizerView) -> None:
    for prompt, example in pairs("greater_than", words):
        year = text(prompt, "YY")
        assert text(prompt, "XX") + year in prompt.clean
        assert prompt.clean.endswith(text(prompt, "XX"))
        assert max(prompt.wrong) == year < min(prompt.correct)
        assert len(prompt.correct) + len(prompt.wrong) > 90
        assert in_corrupt(words, example, "YY") == "01"


def test_greater_than_says_that_digits_are_parted(mini: TokenizerView) -> None:
    tokenizer = like_gpt2(mini, pre_tokenizers.Digits(individual_digits=True))
    parted = TokenizerView(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    make("ioi", parted)
    with pytest.raises(TaskFitError, match="this tokenizer makes 5 of ' 1732'; use another"):
        make("greater_than", parted)


def following(text: str) -> str:
    """What an induction head says: the word that followed the last word before."""
    *before, last = text.split()
    (found,) = [after for word, after in pairwise(before) if word == last]
    return f" {found}"


@pytest.mark.parametrize("length", [5, 12, 30])
def test_induction_is_answered_by_what_followed_before(words: TokenizerView, length: int) -> None:
    for prompt, example in pairs("induction", words, length=length):
        assert prompt.correct == (following(prompt.clean),) == (text(prompt, "next"),)
        assert prompt.wrong == (following(prompt.corrupt),)
        assert sorted(prompt.clean.split()) == sorted(prompt.corrupt.split())
        assert text(prompt, "first") == text(prompt, "second")
        assert example.spans["second"] == example.spans["end"]
        assert len(prompt.clean.split()) == length


def test_induction_refuses_lengths_that_it_cannot_make(mini: TokenizerView) -> None:
    with pytest.raises(ArgumentError, match="length=4; give a whole number from 5 to 1,000"):
        make("induction", mini, length=4)
    with pytest.raises(DataError, match="texts of 1000 words; choose 5 to"):
        make("induction", mini, length=1000)


def test_gendered_pronoun_goes_with_the_name(words: TokenizerView) -> None:
    pronoun = {**dict.fromkeys(_names.MEN, " he"), **dict.fromkeys(_names.WOMEN, " she")}
    seen = set()
    for prompt, example in pairs("gendered_pronoun", words):
        assert prompt.correct == (pronoun[text(prompt, "name").strip()],)
        assert prompt.wrong == (pronoun[in_corrupt(words, example, "name").strip()],)
        seen |= {*prompt.correct}
    assert seen == {" he", " she"}


def test_no_name_is_a_mans_and_a_womans() -> None:
    assert not set(_names.MEN) & set(_names.WOMEN)
    assert len(set(_names.NAMES)) == len(_names.NAMES) >= 100


def arguments(prompt: str) -> list[str]:
    return prompt.split("(self, ")[1].split(")")[0].split(", ")


def test_docstring_asks_for_the_argument_after_those_described(words: TokenizerView) -> None:
    for prompt, example in pairs("docstring", words):
        defined = [f" {name}" for name in arguments(prompt.clean)]
        at = defined.index(text(prompt, "A_doc"))
        described = [text(prompt, "A_doc"), text(prompt, "B_doc")]
        assert [*described, *prompt.correct] == defined[at : at + 3]
        assert {*defined} - {*prompt.correct} <= {*prompt.wrong}
        others = {f" {name}" for name in arguments(prompt.corrupt)}
        assert others < {*prompt.wrong}
        assert not others & {in_corrupt(words, example, span) for span in ("A_doc", "B_doc")}
        assert not others & {*defined}


def test_docstring_has_its_arguments_anywhere(mini: TokenizerView) -> None:
    prompts = make("docstring", mini, 200).prompts
    places = [arguments(p.clean).index(p.correct[0].strip()) for p in prompts]
    ends = [len(arguments(p.clean)) - place for p, place in zip(prompts, places, strict=True)]
    assert len(set(places)) == len(set(ends)) == 3


def test_facts_pair_two_subjects_of_one_relation(words: TokenizerView) -> None:
    for prompt, example in pairs("facts", words):
        other = in_corrupt(words, example, "subject").strip()
        subject = text(prompt, "subject").strip()
        assert any(
            (f" {relation.answers.get(subject)}",) == prompt.correct
            and (f" {relation.answers.get(other)}",) == prompt.wrong
            and prompt.clean.replace(subject, "{subject}") in relation.templates
            for relation in RELATIONS.values()
        )


def test_facts_mark_the_last_token_of_the_subject(words: TokenizerView) -> None:
    lengths = set()
    for _, example in pairs("facts", words, n=150):
        start, stop = example.spans["subject"]
        assert example.spans["subject_last"] == (stop - 1, stop)
        lengths.add(stop - start)
    assert len(lengths) > 1


def test_facts_ask_in_both_directions(mini: TokenizerView) -> None:
    prompts = make("facts", mini, 200).prompts
    asked = {(*prompt.correct, *prompt.wrong) for prompt in prompts}
    assert any((wrong, correct) in asked for correct, wrong in asked)


def test_the_file_of_facts_says_of_each_what_kind_of_fact_it_is() -> None:
    with (files("circuitkit") / "assets" / "facts.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({(row["relation"], row["subject"]) for row in rows}) == len(rows)
    for row in rows:
        assert RELATIONS[row["relation"]].answers[row["subject"]] == row["answer"]
        assert all(value == value.strip() != "" for value in row.values())
    assert len(rows) == sum(len(relation.answers) for relation in RELATIONS.values())
    assert {row["relation"]: row["source"] for row in rows} == {
        row["relation"]: row["source"] for row in reversed(rows)
    }


def test_facts_are_many() -> None:
    assert len(RELATIONS) >= 3
    assert sum(len(relation.answers) for relation in RELATIONS.values()) >= 60


SIGNS = {"plus": operator.add, "+": operator.add, "minus": operator.sub, "-": operator.sub,
         "times": operator.mul, "*": operator.mul}  # fmt: skip
SUM = re.compile(r"(?<=[ :])(\d+) (plus|minus|times|[+*-]) (\d+)\b")


def calculated(text: str) -> int:
    """The answer to the one sum of a text."""
    (found,) = SUM.findall(text)
    first, sign, second = found
    return int(SIGNS[sign](int(first), int(second)))


def test_arithmetic_is_right_and_its_corrupted_text_has_the_wrong_answer(
    words: TokenizerView,
) -> None:
    for prompt, example in pairs("arithmetic", words):
        assert [*map(int, prompt.correct)] == [calculated(prompt.clean)]
        assert [*map(int, prompt.wrong)] == [calculated(prompt.corrupt)]
        assert text(prompt, "operator") == in_corrupt(words, example, "operator")
        for span in ("first", "second"):
            assert text(prompt, span).startswith(" ")
            assert text(prompt, span) != in_corrupt(words, example, span)
        spans = [range(*example.spans[span]) for span in ("first", "second")]
        for i, (one, other) in enumerate(zip(example.clean, example.corrupt, strict=True)):
            assert one == other or any(i in span for span in spans)


def test_arithmetic_has_every_operator_in_several_templates(mini: TokenizerView) -> None:
    prompts = make("arithmetic", mini, 100).prompts
    seen = Counter(SIGNS[text(prompt, "operator").strip()] for prompt in prompts)
    assert min(seen[sign] for sign in SIGNS.values()) > 10
    assert len({SUM.sub("", prompt.clean) for prompt in prompts}) >= 4
    for name in ("plus", "minus", "times"):
        some = make("arithmetic", mini, operators=(name,)).prompts
        assert {SIGNS[text(prompt, "operator").strip()] for prompt in some} == {SIGNS[name]}


def with_numbers(largest: int, space: str) -> TokenizerView:
    """A tokenizer of words and signs, with one token for each of these numbers; the space before a
    number belongs to it, or is a token of its own."""
    piece = f"{space}[0-9]+| ?[A-Za-z]+| ?[^A-Za-z0-9 ]| "
    text = " ".join(calculation.TEMPLATES) + " plus minus times - a"
    level = pre_tokenizers.Split(Regex(piece), "isolated")
    tokens = {piece for piece, _ in level.pre_tokenize_str(re.sub(r"[{}]", "", text))}
    tokens |= {"a", " ", "Q", " +", " *", *(f"{space}{i}" for i in range(largest + 1))}
    vocabulary = {token: i for i, token in enumerate(["[UNK]", *sorted(tokens)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = level
    tokenizer.decoder = decoders.Fuse()
    return TokenizerView(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]"))


@pytest.mark.parametrize("space", [" ", ""])
@pytest.mark.parametrize("largest", [9, 99])
def test_arithmetic_takes_the_numbers_and_the_form_that_the_tokenizer_has(
    largest: int, space: str
) -> None:
    """With the space before a number in its token, or as the last token of the text."""
    words, seen = with_numbers(largest, space), set()
    for prompt, example in pairs("arithmetic", words):
        assert prompt.correct[0].startswith(" ") == (space == " ") != prompt.clean.endswith(" ")
        assert len(example.clean) == len(words.ids([prompt.clean + prompt.correct[0]])[0]) - 1
        seen |= {int(n) for n in re.findall(r"\d+", prompt.clean + prompt.correct[0])}
    assert max(seen) <= largest
    assert max(seen) > 0.6 * largest


def test_arithmetic_needs_ten_numbers(mini: TokenizerView) -> None:
    with pytest.raises(TaskFitError, match=r"only 9 of 0 to 99 are, .* or another model$"):
        make("arithmetic", with_numbers(8, " "))
    make("arithmetic", letters())
    with pytest.raises(DataError, match="has no operators; choose from"):
        make("arithmetic", mini, operators=())
    for operators in (("plus", "over"), "plus"):
        with pytest.raises(ArgumentError, match="give a list of 'plus', 'minus' or 'times'"):
            make("arithmetic", mini, operators=operators)


# --- the model that the package carries


@pytest.mark.parametrize("name", OF_WORDS)
def test_mini_does_every_task_and_flips_where_the_corrupted_text_has_an_answer(
    mini: TokenizerView, name: str
) -> None:
    model = AutoModelForCausalLM.from_pretrained(MINI)
    clean, corrupt, mass = [], [], 0.0
    for _, example in pairs(name, mini, n=60, seed=70):
        right, wrong = list(example.correct), list(example.wrong)
        with torch.no_grad():
            logits = model(torch.tensor([example.clean, example.corrupt])).logits[:, -1]
        clean.append(bool(logits[0, right].max() > logits[0, wrong].max()))
        corrupt.append(bool(logits[1, right].max() > logits[1, wrong].max()))
        mass += logits[0].softmax(-1)[right].sum().item() / 60
    assert sum(clean) >= 58
    assert mass > 0.9
    if name not in ("greater_than", "docstring"):
        assert sum(corrupt) <= 2


def test_the_tokenizer_of_mini_loses_nothing_and_adds_nothing(mini: TokenizerView) -> None:
    text = 'Then, Mary paid 1732 for "x" ...\n\n    :param y'
    assert mini.tokenizer.decode(mini.tokenizer(text)["input_ids"]) == text
    assert mini.ids([" Mary", " 1732"]) == [
        mini.tokenizer.convert_tokens_to_ids([" Mary"]),
        mini.tokenizer.convert_tokens_to_ids([" 17", "32"]),
    ]


def test_mini_is_small() -> None:
    assert sum(file.stat().st_size for file in MINI.iterdir()) < 4_000_000


# --- prompts from a file

ROWS = (
    Prompt("The cat is", "The dog is", (" he", " she"), (" was",), {"who": (3, 7)}),
    Prompt('A "cup, then', 'A "hat, then', (" cat",), (" dog", " book"), {}, {"b": 'A "bit, then'}),
    Prompt("My ear", "My eye", (" is",)),
)


def write_csv(path: Path, rows: tuple[Prompt, ...] = ROWS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["clean", "corrupt", "correct", "wrong"])
        out.writerows([r.clean, r.corrupt, "|".join(r.correct), "|".join(r.wrong)] for r in rows)
    return path


def write_jsonl(path: Path, rows: tuple[Prompt, ...] = ROWS) -> Path:
    path.write_text("".join(json.dumps(vars(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_jsonl_file_gives_its_prompts(mini: TokenizerView, tmp_path: Path) -> None:
    task = lookup("tasks", "from_file")(mini, path=write_jsonl(tmp_path / "mine.jsonl"))
    assert task.prompts == ROWS
    assert (task.name, task.metric) == ("mine", "logit_diff")


def test_a_csv_file_gives_the_same_without_spans_and_other_texts(
    mini: TokenizerView, tmp_path: Path
) -> None:
    found = lookup("tasks", "from_file")(mini, path=str(write_csv(tmp_path / "mine.csv")))
    none: dict[str, object] = {"spans": {}, "corruptions": {}}
    assert [vars(p) | none for p in ROWS] == [vars(p) for p in found.prompts]


def test_one_answer_of_a_jsonl_line_needs_no_list(mini: TokenizerView, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"clean": "a", "corrupt": "b", "correct": " he", "wrong": " the"}\n\n')
    assert lookup("tasks", "from_file")(mini, path=path).prompts == (
        Prompt("a", "b", (" he",), (" the",)),
    )


def test_the_metric_of_a_file_can_be_chosen(mini: TokenizerView, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl")
    assert lookup("tasks", "from_file")(mini, path=path, metric="kl").metric == "kl"


def test_some_prompts_of_a_file_are_drawn_by_the_seed(mini: TokenizerView, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl")
    drawn = {seed: make("from_file", mini, 2, seed, path=path).prompts for seed in range(20)}
    assert drawn[0] == make("from_file", mini, 2, 0, path=path).prompts
    assert all(len({p.clean for p in prompts}) == 2 for prompts in drawn.values())
    assert len({tuple(p.clean for p in prompts) for prompts in drawn.values()}) > 1


GOOD = '{"clean": "a", "corrupt": "b", "correct": [" he"], "wrong": []}\n'
BAD = {
    "empty.csv": ("", "contains no prompts"),
    "header.csv": ("clean,corrupt,correct,wrong\n", "contains no prompts"),
    "column.csv": (
        "clean,corrupt,correct\nx,y,z\n",
        "has no column 'wrong' .which may be empty.; it has 'clean', 'corrupt', 'correct'",
    ),
    "short.csv": (
        "clean,corrupt,correct,wrong\nx,y,z\n",
        "line 2 has 3 cells, but the file has 4 columns",
    ),
    "blank.csv": ("clean,corrupt,correct,wrong\n,y,z,w\n", "line 2 has '' for 'clean'"),
    "answer.csv": ("clean,corrupt,correct,wrong\nx,y,z||v,w\n", "line 2 has '' for 'correct'"),
    "empty.jsonl": ("\n", "contains no prompts"),
    "broken.jsonl": (GOOD + "{", "line 2 is not JSON "),
    "list.jsonl": (GOOD + GOOD + "[1]", "line 3 is not a JSON object"),
    "field.jsonl": ('{"clean": "a", "corrupt": "b", "wrong": []}', "has no column 'correct'"),
    "number.jsonl": (GOOD.replace('" he"', "7"), "line 1 has 7 for 'correct'"),
    "spans.jsonl": (GOOD.replace("[]", '[], "spans": [1]'), "line 1 has the spans"),
    "far.jsonl": (GOOD.replace("[]", '[], "spans": {"x": [0, 2]}'), "has 1 characters"),
    "texts.jsonl": (GOOD.replace("[]", '[], "corruptions": ["x"]'), r"has the corruptions \['x'\]"),
    "text.jsonl": (GOOD.replace("[]", '[], "corruptions": {"x": 3}'), "line 1 has 3 for 'x'"),
    "both.jsonl": (
        GOOD.replace("[]", '[], "corruptions": {}, "others": {}'),
        "its old name; give one",
    ),
    "other.txt": (GOOD, "neither .csv, .tsv, .json, .jsonl, .ndjson nor .parquet"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_what_is_wrong(
    mini: TokenizerView, tmp_path: Path, name: str
) -> None:
    content, message = BAD[name]
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        make("from_file", mini, None, path=tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_file_that_is_missing_or_no_text_cannot_be_read(
    mini: TokenizerView, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        make("from_file", mini, None, path=tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match="cannot be read"):
        make("from_file", mini, None, path=tmp_path / "bytes.csv")


def test_a_file_holds_no_more_prompts_than_it_has(mini: TokenizerView, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl")
    with pytest.raises(DataError, match="contains 3 prompts, not 4"):
        make("from_file", mini, 4, path=path)


def test_the_frame_of_a_task_is_a_file_that_gives_its_prompts(
    mini: TokenizerView, tmp_path: Path
) -> None:
    task = make("ioi", mini, 5)
    task.to_frame().to_csv(tmp_path / "mine.csv", index=False)
    again = make("from_file", mini, None, path=tmp_path / "mine.csv")
    plain = [replace(p, corruptions={}) for p in task.prompts]
    assert [*again] == plain  # with both names that stand twice, as ranges
    assert {":" in cell for cell in task.to_frame()["span_S2"]} == {True}
    assert {":" in cell for cell in task.to_frame()["span_IO"]} == {False}


SPANS = {
    "once": ("cat", (3, 7)), "space": (" cat", (3, 7)), "range": ("3:7", (3, 7)),
    "spaced": (" 3 : 7 ", (3, 7)), "words": ("cat is", (3, 10)), "start": ("The", (0, 3)),
    "whole": ("The cat is", (0, 10)), "mark": (",", (10, 11)), "short": ("he", (11, 14)),
}  # fmt: skip


@pytest.mark.parametrize("case", SPANS)
@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "spans"])
def test_a_column_names_a_span_by_its_words_or_its_characters(
    mini: TokenizerView, tmp_path: Path, case: str, kind: str
) -> None:
    cell, expected = SPANS[case]
    row = {"clean": "The cat is, he", "correct": " was", "wrong": ""}
    other = row | {"clean": "My cat is, he"}
    path = tmp_path / f"mine.{kind if kind != 'spans' else 'json'}"
    if kind in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            out = csv.DictWriter(file, [*row, "span_x"], delimiter="\t" if kind == "tsv" else ",")
            out.writeheader()
            out.writerows([row | {"span_x": cell}, other | {"span_x": ""}])
    else:
        where = {"spans": {"x": cell}} if kind == "spans" else {"span_x": cell}
        path.write_text(json.dumps([row | where | {"wrong": []}, other | {"wrong": []}]))
    first, second = make("from_file", mini, None, path=path)
    assert (first.spans, second.spans) == ({"x": expected}, {})


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("he", "has the span 'x' 'he', which stands 2 times in 'The cat he, he'; give the range"),
        ("dog", "has the span 'x' 'dog', which stands nowhere in"),
        ("at", "has the span 'x' 'at', which stands nowhere in"),
        ("3:99", "has the span 'x' of 3 to 99, but the clean text has 14 characters"),
        ("7:3", "has the span 'x' of 7 to 3"),
        (7, r"has the spans {'x': 7}; write an object"),
        ([3], r"has the spans {'x': \[3\]}; write an object"),
    ],
)
def test_a_span_that_is_not_there_once_is_refused(
    mini: TokenizerView, tmp_path: Path, cell: Any, words: str
) -> None:
    path = tmp_path / "mine.json"
    row = {"clean": "The cat he, he", "correct": " was", "wrong": []}
    for own in ({"span_x": cell}, {"spans": {"x": cell}}):
        path.write_text(json.dumps([row | own]))
        with pytest.raises(DataError, match=words):
            make("from_file", mini, None, path=path)
    path.write_text(json.dumps([row | {"span_x": "cat", "spans": {"x": "cat"}}]))
    with pytest.raises(DataError, match="has the span 'x' twice, in 'spans' and in 'span_x'"):
        make("from_file", mini, None, path=path)


def test_a_file_of_an_earlier_version_calls_further_texts_others(
    mini: TokenizerView, tmp_path: Path
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(GOOD.replace("[]", '[], "others": {"x": "d"}'))
    (prompt,) = make("from_file", mini, None, path=path)
    assert prompt.corruptions == {"x": "d"}


# --- tasks by name


@pytest.fixture(scope="module")
def model() -> object:
    return circuitkit.load("mini")


def test_a_task_is_made_of_its_name_alone(model: Any) -> None:
    task = make_task("ioi", model)
    assert (len(task), task.name, task.metric) == (100, "ioi", "logit_diff")
    assert make_task("ioi", model, 100, 0) == task


@pytest.mark.parametrize("name", TASKS)
def test_a_task_function_takes_a_model_as_well(model: Any, name: str) -> None:
    task = lookup("tasks", name)(model, 5)
    assert task.prompts == make_task(name, model, 5).prompts
    with pytest.raises(DataError, match="the model has no tokenizer"):
        lookup("tasks", name)(SimpleNamespace(tokenizer=None))


@pytest.mark.parametrize("typed", ["IOI", "Ioi", "greater-than", "Greater_Than", "ioi "])
def test_case_and_hyphens_of_a_task_are_forgiven(model: Any, typed: str) -> None:
    plain = typed.lower().replace("-", "_").strip()
    assert make_task(typed, model, 5) == make_task(plain, model, 5)


def test_settings_are_part_of_the_name_by_which_the_task_is_found_again(model: Any) -> None:
    asked = make_task("ioi", model, 5, corrupt="names")
    assert asked.name == "ioi(corrupt='names')"
    assert make_task(asked.name, model, 5) == asked
    assert make_task("ioi(corrupt='io')", model, 5, corrupt="names") == asked
    assert asked != make_task("ioi", model, 5)


def test_a_setting_of_a_task_from_elsewhere_keeps_its_place(model: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from circuitkit.tasks import ioi\n"
        "def own(words, n=3, seed=0, *, corrupt='io'):\n"
        "    return ioi(words, n, seed, corrupt=corrupt)\n"
    )
    task = make_task(f"{mine}:own", model, corrupt="names")
    assert task.name == f"{mine}:own(corrupt='names')"
    assert len(task) == 3
    assert make_task(task.name, model) == task


@pytest.mark.parametrize("name", ["mine.csv", "MINE.CSV", "mine.jsonl", "Mine.JsonL"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_is_a_task_whatever_the_case_of_its_name(
    model: Any, tmp_path: Path, name: str, kind: type
) -> None:
    path = (write_csv if name.lower().endswith("csv") else write_jsonl)(tmp_path / name)
    task = make_task(kind(path), model)
    assert len(task) == len(ROWS)
    assert task == make_task(task.name, model)
    with pytest.raises(DataError, match="contains 3 prompts, not 4; give n from 1 to 3"):
        make_task(kind(path), model, n=4)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (("iio",), UnknownNameError, "no task is called 'iio'; did you mean 'ioi'?"),
        (("ioi", 0), ArgumentError, "make_task has n=0; give a whole number from 1"),
        (("ioi", -1), ArgumentError, "n=-1; give a whole number from 1"),
        (("ioi", "x"), ArgumentError, "n='x'; give a whole number"),
        (("ioi", 2.5), ArgumentError, "n=2.5; give a whole number"),
        (("ioi", True), ArgumentError, "n=True; give a whole number"),
        (("ioi", 5, "x"), ArgumentError, "seed='x'; give a whole number"),
        (("ioi", 5, None), ArgumentError, "seed=None; give a whole number"),
        (("none.csv",), DataError, "none.csv cannot be read"),
        (
            (Path("none.txt"),),
            DataError,
            "none.txt is neither .csv, .tsv, .json, .jsonl, .ndjson nor .parquet",
        ),
        ((3,), ArgumentError, "the first argument is of type int, not a task's name; the order is"),
    ],
    ids=str,
)
@pytest.mark.unchecked
def test_a_wrong_call_of_make_task_is_refused_in_a_sentence(
    model: Any, given: tuple[Any, ...], error: type[Exception], says: str
) -> None:
    name, *others = given
    with pytest.raises(error) as caught:
        make_task(name, model, *others)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.unchecked
def test_the_order_of_make_task_is_shown_where_it_is_wrong(model: Any) -> None:
    order = r"the order is make_task\(name, model, n, seed\)"
    with pytest.raises(ArgumentError, match=f"first argument is of type Transformer.*{order}"):
        make_task(model, "ioi")
    with pytest.raises(ArgumentError, match=f"second argument is 'gpt2'.*ck.load.*{order}"):
        make_task("ioi", "gpt2")
    with pytest.raises(UnknownNameError, match="did you mean 'corrupt'"):
        make_task("ioi", model, corupt="names")
    with pytest.raises(UnknownNameError, match="gendered_pronoun has no settings"):
        make_task("gendered_pronoun", model, corrupt="names")


def test_a_model_without_a_tokenizer_makes_no_task() -> None:
    bare: Any = SimpleNamespace(tokenizer=None, device=torch.device("cpu"))
    with pytest.raises(DataError, match="the model has no tokenizer"):
        make_task("ioi", bare)


# --- how tasks and data sets are shown


@pytest.mark.parametrize("name", TASKS)
def test_a_task_fits_one_screen_and_its_summary_one_line(mini: TokenizerView, name: str) -> None:
    for n in (1, 3, 100):
        task = make(name, mini, n)
        lines = repr(task).splitlines()
        assert len(lines) <= 22
        assert max(map(len, lines)) <= 100
        assert f"{n} prompt" in lines[0]
        assert task.source in repr(task)
        assert task.metric in repr(task)
        assert all(repr(prompt.correct[0]) in repr(task) for prompt in task[:3])
        assert len(str(task).splitlines()) == 1
        assert (f"... and {n - 3} more" in repr(task)) is (n > 3)


def test_a_task_is_a_sequence_of_prompts(mini: TokenizerView) -> None:
    task = make("ioi", mini, 12)
    assert len(task) == 12
    assert [*task] == [task[i] for i in range(12)] == [*task.prompts]
    assert task[-1] == task.prompts[-1]
    assert isinstance(task[:10], Task)
    assert task[:10].prompts == task.prompts[:10]
    assert replace(task[2:5], prompts=task.prompts) == task
    with pytest.raises(IndexError):
        task[12]


def test_a_prompt_says_its_answers_and_the_text_of_a_span() -> None:
    assert str(ROWS[0]) == "'The cat is' -> ' he', ' she', not ' was'"
    assert str(ROWS[2]) == "'My ear' -> ' is'"
    assert ROWS[0].text("who") == " cat"
    with pytest.raises(DataError, match="no span 'x'; its spans are who"):
        ROWS[0].text("x")


def test_a_notebook_shows_a_table_and_escapes_what_a_file_says() -> None:
    task = Task("<b>", (Prompt("<i>", "<u>", (" <a>",)),) * 30, "kl", "")
    page = task._repr_html_()
    assert "<table" in page
    assert "20 more" in page
    for tag in ("<b>", "<i>", "<u>", "<a>"):
        assert tag not in page
        assert tag.replace("<", "&lt;").replace(">", "&gt;") in page
