"""What stands in front of prompts and around them: special tokens, BOS, and chat templates."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import circuitkit as ck
from circuitkit.cli.main import main
from circuitkit.data.framing import Framed, framed, framing
from circuitkit.data.prompts import Prompt
from circuitkit.data.tokens import TokenizerView, tokenise
from circuitkit.engine.inputs import as_data
from circuitkit.errors import CircuitkitError, DataError, TaskFitError
from circuitkit.models.loading import MINI

pytestmark = pytest.mark.own_mini

BOS, PAD, UNK = "<|endoftext|>", "<|pad|>", "<|unk|>"
LINES = (  # answers begin a line, as in most templates
    "{% for m in messages %}<|endoftext|>{{ m.role }}\n{{ m.content | trim }}<|pad|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|endoftext|>assistant\n{% endif %}"
)
BRACKETS = (  # answers follow a space, as in Llama 2
    "{% for m in messages %}{% if m.role == 'user' %}<|endoftext|>[ {{ m.content }} ]"
    "{% else %} {{ m.content }}<|endoftext|>{% endif %}{% endfor %}"
)
YEARS = Prompt(
    "The war lasted from the year 1732 to the year 17",
    "The war lasted from the year 1701 to the year 17",
    ("33", "34"), ("12",), {"year": (28, 33), "ending": (31, 33)},
)  # fmt: skip


def mini(template: str | None = None) -> Any:
    """mini's tokenizer, with a chat template."""
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    tokenizer.chat_template = template
    return tokenizer


def chat(template: str) -> TokenizerView:
    return TokenizerView(framed(mini(template), chat=True))


def wrapped(single: str, **special: str) -> Any:
    """mini's tokenizer with these special tokens around a text."""
    inner = Tokenizer.from_file(str(MINI / "tokenizer.json"))
    ids = [(token, inner.token_to_id(token)) for token in (BOS, PAD, UNK)]
    inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def pieces(scheme: str) -> Any:
    """A tokenizer in SentencePiece's manner, which marks the beginning of words."""
    words = ("<unk>", "<s>", "</s>", "▁", "▁When", "▁Mary", "▁a", "When", "Mary", "a")
    inner = Tokenizer(models.Unigram([(word, -1.0) for word in words], 0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    inner.decoder = decoders.Metaspace(prepend_scheme=scheme)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>")


@cache
def kinds() -> dict[str, Any]:
    """Tokenizers that put different things around a text, and how many tokens they append."""
    both = {"bos_token": BOS, "eos_token": PAD}
    return {
        "adds nothing": (mini(), 0),
        "adds BOS": (wrapped(f"{BOS} $A", bos_token=BOS), 0),
        "adds BOS by a setting": (AutoTokenizer.from_pretrained(MINI, add_bos_token=True), 0),
        "appends EOS": (wrapped(f"$A {PAD}", eos_token=PAD), 1),
        "adds both": (wrapped(f"{BOS} $A {PAD}", **both), 1),
        "one token is both": (wrapped(f"{BOS} $A {BOS}", bos_token=BOS, eos_token=BOS), 1),
        "CLS and SEP": (wrapped(f"{PAD} $A {UNK}", cls_token=PAD, sep_token=UNK), 1),
        "two, without BOS": (wrapped(f"{PAD} {UNK} $A"), 0),
        "two, the second is BOS": (wrapped(f"{PAD} {BOS} $A {UNK}", bos_token=BOS), 1),
        "marks the first word": (pieces("first"), 0),
        "marks every word": (pieces("always"), 0),
    }


# -- in front --------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", kinds())
def test_what_stands_in_front_is_what_hugging_face_puts_there(kind: str) -> None:
    tokenizer, appended = kinds()[kind]
    words, texts = TokenizerView(tokenizer), ["When Mary", " Mary", "a", ""]
    for ids, whole in zip(words.ids(texts), tokenizer(texts)["input_ids"], strict=True):
        assert ids == whole[: len(whole) - appended]


@pytest.mark.parametrize("kind", ["adds BOS", "adds both", "one token is both", "marks every word"])
def test_a_bos_in_the_text_is_not_doubled(kind: str) -> None:
    tokenizer, _ = kinds()[kind]
    (ids,) = TokenizerView(tokenizer).ids([f"{tokenizer.bos_token}When Mary"])
    assert ids.count(tokenizer.bos_token_id) == 1


def test_what_is_appended_does_not_stand_between_prompt_and_answer() -> None:
    for kind in ("appends EOS", "adds both", "CLS and SEP"):
        words = TokenizerView(kinds()[kind][0])
        (example,) = tokenise([Prompt("The cat is", None, (" he",))], words)
        assert words.tokenizer.decode([example.clean[-1], *example.correct]) == " is he"


@pytest.mark.parametrize("kind", kinds())
def test_bos_is_put_in_front_or_left_out(kind: str) -> None:
    tokenizer, _ = kinds()[kind]
    bos, (usual,) = tokenizer.bos_token_id, TokenizerView(tokenizer).ids(["When Mary"])
    (without,) = TokenizerView(framed(tokenizer, bos=False)).ids(["When Mary"])
    assert without == [one for one in usual if bos is None or one != bos]
    if bos is None:
        with pytest.raises(DataError, match="the tokenizer of 'it' has no BOS token"):
            framed(tokenizer, bos=True, name="it")
        return
    words = TokenizerView(framed(tokenizer, bos=True))
    (with_it,) = words.ids(["When Mary"])
    assert with_it == (usual if bos in usual else [bos, *usual])
    assert words.ids([f"{tokenizer.bos_token}When"])[0].count(bos) == 1


def test_a_framed_tokenizer_is_the_tokenizer_in_all_else() -> None:
    own = mini()
    words = framed(own, bos=True)
    assert framed(own) is own
    assert framing(own) == {}
    assert framing(words) == {"bos": True}
    assert framing(framed(words, bos=False)) == {"bos": False}
    assert isinstance(words, Framed)
    assert (len(words), words.eos_token_id) == (len(own), own.eos_token_id)
    with pytest.raises(DataError, match="bos is 'yes'; give True, False, or None"):
        framed(own, bos="yes")  # type: ignore[arg-type]


# -- chat ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("template", [LINES, BRACKETS])
def test_a_prompt_is_the_users_message_and_its_spans_stay_at_their_words(template: str) -> None:
    words, own = chat(template), mini(template)
    (example,) = tokenise([YEARS], words)
    message = [{"role": "user", "content": YEARS.clean}]
    whole = own.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert list(example.clean) == own(whole, add_special_tokens=False)["input_ids"]
    assert example.clean.count(own.bos_token_id) == whole.count(BOS)
    for name, (start, stop) in YEARS.spans.items():
        held = example.clean[slice(*example.spans[name])]
        assert own.decode(list(held)) == YEARS.clean[start:stop]
    assert example.spans["end"] == (len(example.clean) - 1, len(example.clean))
    assert len(example.corrupt) == len(example.clean)


def test_an_answer_has_its_space_where_the_template_writes_one() -> None:
    for template, kept in ((LINES, "17"), (BRACKETS, " 17")):
        words = chat(template)
        (example,) = tokenise([replace(YEARS, correct=(" 17", "34"))], words)
        assert [words.tokenizer.decode([one]) for one in example.correct] == [kept, "34"]


@pytest.mark.parametrize("text", [" The cat is", "The cat is ", " The cat is "])
def test_a_template_that_leaves_out_space_keeps_the_spans(text: str) -> None:
    words, at = chat(LINES), text.index("The")
    prompt = Prompt(text, None, ("33",), (), {"who": (0, at + 7), "is": (at + 7, len(text))})
    (example,) = tokenise([prompt], words)
    held = {name: example.clean[slice(*span)] for name, span in example.spans.items()}
    assert words.tokenizer.decode(list(held["who"])) == "The cat"
    assert words.tokenizer.decode(list(held["is"])) == " is"


def test_bos_may_be_put_before_a_template_or_taken_from_it() -> None:
    plain = TokenizerView(framed(mini(BRACKETS.replace(BOS, "")), chat=True))
    for words, count in (
        (plain, 0),
        (TokenizerView(framed(plain.tokenizer, bos=True)), 1),
        (TokenizerView(framed(mini(BRACKETS), chat=True, bos=True)), 1),
        (TokenizerView(framed(mini(BRACKETS), chat=True, bos=False)), 0),
    ):
        (example,) = tokenise([YEARS], words)
        assert example.clean.count(1) == count
        assert words.tokenizer.decode(list(example.clean[slice(*example.spans["year"])])) == " 1732"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "'it' has no chat template, .* load a model that was tuned for chat"),
        ("{{ raise_exception('only with a system message') }}", "only with a system message"),
        ("{{ messages[0].nothing.at_all }}", "the chat template fails"),
        ("{% for", "the chat template fails"),
        ("hello", "writes the user's message nowhere"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "message more than once"),
        ("{{ messages.__class__.__mro__ }}{{ messages[0].content }}", "the chat template fails"),
    ],
)  # fmt: skip
def test_a_template_that_is_none_or_fails_is_refused(template: str | None, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        framed(mini(template), chat=True, name="it")
    assert "\n" not in str(caught.value)


def test_a_template_that_changes_the_text_is_refused_for_that_prompt() -> None:
    words = chat("{{ messages[0].content | replace('cat', 'dog') }} >")
    good, bad = Prompt("The dog is", None, ("33",)), Prompt("The cat is", None, ("33",))
    found = ck.check_prompts([good, bad], words)
    assert len(found.misfits) == 1
    assert "does not write the text 'The cat is' as it is" in found.misfits[0]


def test_templates_that_ask_for_the_day_or_for_thoughts_are_told_the_same_each_time() -> None:
    day = "{{ strftime_now('%d %b %Y') }}: {{ messages[0].content }}>"
    assert chat(day).whole("hi") == "26 Jul 2024: hi>"
    thinks = "{{ messages[0].content }}>{% if enable_thinking is not false %}<think>{% endif %}"
    assert chat(thinks).whole("hi") == "hi>"
    always = chat("{{ messages[0].content }}><think>")
    assert "opens a thought" in repr(ck.check_prompts([YEARS], always))


def test_words_of_tasks_fit_the_text_and_the_answer() -> None:
    with pytest.raises(TaskFitError, match="in the text and as the assistant's answer"):
        ck.tasks.ioi(chat(LINES), n=4)
    words = chat(BRACKETS)
    task = ck.tasks.ioi(words, n=4)
    for prompt, example in zip(task, tokenise(task.prompts, words), strict=True):
        assert words.tokenizer.decode(list(example.correct)) == prompt.text("IO")
        for name in ("S1", "S2", "IO"):
            held = example.clean[slice(*example.spans[name])]
            assert words.tokenizer.decode(list(held)) == prompt.text(name)


def test_a_check_says_what_the_template_writes_and_warns_of_a_missing_space() -> None:
    lined = ck.check_prompts([YEARS], chat(LINES))
    assert lined.fits
    assert not lined.warnings
    assert "are taken without their leading space" in repr(lined)
    assert "[\\n][The][ war]" in repr(lined)
    assert lined.to_dict()["chat"] is True
    spaced = ck.check_prompts([Prompt("The cat is", None, ("he",))], chat(BRACKETS))
    assert "' he' with a leading space is" in spaced.misfits[0]
    assert "taken with their" in repr(spaced)


def test_token_ids_and_first_tokens_of_files_follow_the_header(tmp_path: Path) -> None:
    words = chat(LINES)
    (tmp_path / "ids.csv").write_text(
        "clean,corrupted,correct_idx,incorrect_idx\nThe year 17,The year 16,"
        f"{mini()('33')['input_ids'][0]},{mini()('34')['input_ids'][0]}\n"
    )
    task = ck.tasks.from_file(words, path=tmp_path / "ids.csv")
    assert (task[0].correct, task[0].wrong) == (("33",), ("34",))
    (tmp_path / "long.csv").write_text("clean,corrupt,correct,wrong\nThe cat,The dog, Mary, John\n")
    task = ck.tasks.from_file(words, path=tmp_path / "long.csv", answers="first")
    assert (task[0].correct, task[0].wrong) == (("M",), ("J",))


# -- through to results ----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def found() -> Any:
    """A circuit that was found with BOS in front of every prompt."""
    return ck.discover(ck.load("mini", bos=True), "ioi", edges=20, examples=4, force=True)


def test_a_circuit_remembers_bos_and_is_measured_with_it(found: Any) -> None:
    assert found.circuit.graph["bos"] is found.scores.about["bos"] is True
    assert "chat" not in found.circuit.graph
    plain = ck.load("mini")
    assert {e.clean[0] for e in as_data(plain, "ioi", found.circuit, examples=4).examples} == {1}
    assert plain.tokenizer is not None
    assert framing(plain.tokenizer) == {}
    without = ck.load("mini", bos=False)
    own = as_data(without, "ioi", found.circuit, examples=4)
    assert 1 not in {e.clean[0] for e in own.examples}
    assert own.about["bos"] is False


def test_prompts_that_a_circuit_saw_are_left_out_whatever_they_stood_in_then(found: Any) -> None:
    task = ck.make_task("ioi", ck.load("mini"), n=8)
    same = ck.Dataset.of(task, ck.load("mini"), bos=True)
    seen = {e.clean[1:] for e in same.halves()[0].examples}
    left = as_data(ck.load("mini", bos=False), task, found.circuit)
    assert len(left) == 4
    assert not seen & {e.clean for e in left.examples}


def test_a_replay_honours_bos(found: Any) -> None:
    assert ck.replay(found.circuit, model=ck.load("mini")).same
    other = ck.replay(found.circuit, model=ck.load("mini"), bos=False)
    assert not other.same
    assert "bos (True then, False now)" in str(other)


def test_a_dataset_and_a_continuation_are_framed_too() -> None:
    model = ck.load("mini", tokenizer=mini(BRACKETS), chat=True)
    own, plain = (
        ck.generate(one, None, text, max_new_tokens=2)
        for one, text in ((model, "The cat is"), (ck.load("mini"), f"{BOS}[ The cat is ]"))
    )
    assert own.whole_model.probabilities == plain.whole_model.probabilities
    assert (own.prompt, own.settings["chat"]) == ("The cat is", True)
    data = ck.Dataset.of([YEARS], ck.load("mini"), bos=True)
    assert data.about["bos"] is True
    assert data[0].clean[0] == 1


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """mini with a chat template."""
    place = tmp_path / "chatty"
    place.mkdir()
    for file in MINI.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    (place / "chat_template.jinja").write_text(BRACKETS)
    return place


def test_the_command_line_asks_for_a_chat_and_remembers_it(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = tmp_path / "out", ["--model", str(directory), "--quiet"]
    assert main(["task", "show", "ioi", *model, "--chat", "--examples", "2"]) == 0
    assert "chat template: '<|endoftext|>[ ' + the text" in capsys.readouterr().out
    assert main(["task", "check", "ioi", *model, "--bos"]) == 0
    assert "[<|endoftext|>][" in capsys.readouterr().out
    asked = ["--edges", "20", "--examples", "4", "--force"]
    assert main(["discover", "ioi", *model, "--chat", *asked, "-o", str(out)]) == 0
    assert ck.Circuit.load(out / "circuit.json").graph["chat"] is True
    capsys.readouterr()
    assert main(["replay", str(out / "circuit.json"), "--quiet"]) == 0
    assert main(["replay", str(out / "circuit.json"), "--quiet", "--no-chat"]) == 1
    assert "chat (True then, False now)" in capsys.readouterr().out
    with pytest.raises(CircuitkitError):
        ck.load(directory, tokenizer=mini(), chat=True)


def test_the_command_line_refuses_a_chat_without_a_template(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command in ("discover", "study", "task show"):
        assert main([*command.split(), "ioi", "--chat"]) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith("circuitkit: 'mini' has no chat template")
        assert "\n" not in said
