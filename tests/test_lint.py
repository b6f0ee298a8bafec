"""The lint of prompts: all misfits with their lines, likely mistakes, and what is left out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import circuitkit as ck
from circuitkit.__main__ import main
from circuitkit.corruptions import counterfactual, mean, noise, resample, zero
from circuitkit.data.batches import Dataset
from circuitkit.data.lint import PromptWarning, check_prompts
from circuitkit.data.prompts import Prompt
from circuitkit.data.tokens import TokenizerView
from circuitkit.engine.inputs import as_data, prepare_halves
from circuitkit.errors import ArgumentError, DataError
from circuitkit.tasks import from_file

HEAD = "clean,corrupt,correct,wrong\n"
GOOD = "The cat is,The dog is, he, she\n"
MISFITS = {
    "a,b,c,d,e": "has 5 cells, but the file has 4 columns",
    "The cat is,The dog, he, she": "has 3 tokens and the corrupted text 'The dog' has 2",
    "The cat is,The dog is, Zaphod, she": "the answer ' Zaphod' is not one token",
    "The cat is,The dog is, he, he": "an answer that is both correct and wrong",
    "The cat is,The dog is, he| he, she": "the same answer twice",
    "The cat is,The dog is,, she": "has no correct answer",
    ",The dog is, he, she": "has '' for 'clean'",
}


@pytest.fixture(scope="module")
def model() -> Any:
    return ck.load("mini")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A good row, then each misfit followed by another good row."""
    names = ("Mary", "John", "cat", "dog", "store", "book", "Paris", "the")
    good = [f"The {name} is,The Lauren is, he, she\n" for name in names]
    rows = [good[0], *(f"{bad}\n{fine}" for bad, fine in zip(MISFITS, good[1:], strict=True))]
    (tmp_path / "mixed.csv").write_text(HEAD + "".join(rows))
    return tmp_path / "mixed.csv"


def saved(path: Path, prompts: Sequence[Prompt]) -> Path:
    path.write_text("".join(json.dumps(vars(p)) + "\n" for p in prompts))
    return path


# -- what does not fit -----------------------------------------------------------------------------
def test_every_misfit_is_listed_with_its_line(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "mixed.csv"
    path.write_text(HEAD + "".join(f"{GOOD}{bad}\n" for bad in MISFITS))
    found = check_prompts(path, model)
    assert len(found.misfits) == len(MISFITS)
    for number, (text, says) in enumerate(zip(found.misfits, MISFITS.values(), strict=True)):
        assert text.startswith(f"line {2 * number + 3} ")
        assert says in text
        assert text in repr(found)
        assert "\n" not in text
    assert not found.fits
    assert str(found).startswith(f"{path}: 7 of 14 prompts fit, 7 do not")
    frame = found.to_frame()
    assert frame["fits"].tolist() == [True, False] * 7
    assert frame.loc[0, "clean"] == "[The][ cat][ is]"
    assert found.to_dict()["misfits"] == found.misfits
    assert "<table" in found._repr_html_()


def test_a_file_with_misfits_is_refused_with_all_their_lines(model: Any, mixed: Path) -> None:
    with pytest.raises(DataError) as caught:
        ck.make_task(mixed, model)
    text = str(caught.value)
    assert "line 3 has 5 cells" in text
    assert "7 of 15 rows do not fit, lines 3, 5, 7, 9, 11, 13, 15" in text
    assert "--misfits drop" in text
    assert "\n" not in text


def test_misfits_are_left_out_on_request_and_counted(model: Any, mixed: Path) -> None:
    with pytest.warns(PromptWarning, match="7 of 15 rows do not fit and are left out"):
        task = ck.make_task(mixed, model, misfits="drop")
    assert len(task) == 8
    assert "7 of 15 rows left out" in str(task)
    assert "misfits='drop'" in task.name
    with pytest.raises(ArgumentError, match="misfits='ignore'; give 'refuse' or 'drop'"):
        from_file(model, path=mixed, misfits="ignore")


def test_a_file_of_nothing_but_misfits_is_refused_even_so(model: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text(HEAD + "a,b,c,d,e\n")
    with pytest.raises(DataError, match="line 2 has 5 cells"):
        from_file(model, path=tmp_path / "bad.csv", misfits="drop")


# -- what looks like a mistake ---------------------------------------------------------------------
class Begun:
    """A tokenizer of words that puts BOS in front, as many do."""

    bos_token_id = 0
    unk_token_id = -1
    WORDS = ("<s>", "Mary", " Mary", " John", "gave", " gave", " to", ",", " 17", "32", " 32")

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[0] * add_special_tokens + self._ids(one) for one in text]}

    def _ids(self, text: str) -> list[int]:
        if not text:
            return []
        word = max((w for w in self.WORDS if text.startswith(w)), key=len, default=text[0])
        index = self.WORDS.index(word) if word in self.WORDS else 99
        return [index, *self._ids(text[len(word) :])]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.WORDS[i] if i < 99 else "?" for i in ids)


def odd(*prompts: Prompt) -> list[str]:
    return check_prompts(prompts, TokenizerView(Begun())).warnings


def test_an_answer_without_its_space_is_warned_of() -> None:
    (text,) = odd(Prompt("Mary gave to", " John gave to", ("Mary",), (" John",)))
    assert text.startswith("prompt 1 has the answer 'Mary' without a leading space")
    assert "' Mary' may be meant" in text
    assert not odd(Prompt("Mary gave to", " John gave to", (" Mary",), (" John",)))
    assert not odd(Prompt("Mary 17", "Mary 17", ("32",)))[1:]  # two digits of one number
    assert odd(Prompt("Mary gave,", "Mary gave to", ("Mary",)))


def test_a_misfit_that_lacks_its_space_is_told_so(model: Any) -> None:
    found = check_prompts([Prompt("The cat is", "The dog is", ("Mary",))], model)
    assert "' Mary' with a leading space is" in found.misfits[0]


def test_a_doubled_bos_a_duplicate_and_no_corruption_are_warned_of() -> None:
    assert (
        "begins with the BOS token twice" in odd(Prompt("<s><s>Mary", "<s><s>Mary", (" gave",)))[0]
    )
    same = Prompt("Mary gave", " Mary gave", (" to",))
    assert odd(same, replace(same, wrong=(" John",)), same) == ["prompt 3 repeats prompt 1"]
    (text,) = odd(Prompt("Mary gave", "Mary gave", (" to",)))
    assert "corrupted text that is the clean one" in text


def test_warnings_are_one_sentence_when_a_file_becomes_a_task(model: Any, tmp_path: Path) -> None:
    (tmp_path / "same.csv").write_text(HEAD + 3 * GOOD)
    with pytest.warns(PromptWarning, match=r"line 3 repeats line 2 \(2 warnings") as caught:
        ck.make_task(tmp_path / "same.csv", model)
    assert len(caught) == 1


def test_a_task_of_ours_has_nothing_to_warn_of(model: Any) -> None:
    for name in ck.list_tasks():
        if name not in ("from_file", "greater_than"):
            found = check_prompts(ck.make_task(name, model, 20), model)
            assert found.fits
            assert not found.warnings


# -- the command -----------------------------------------------------------------------------------
def test_the_command_lists_all_and_ends_with_2(
    mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["task", "check", str(mixed)]) == 2
    out, err = capsys.readouterr()
    for says in MISFITS.values():  # over several lines, if need be
        assert says in " ".join(out.split())
    assert err.count("\n") == 1
    assert main(["task", "check", str(mixed), "--json"]) == 2
    assert len(json.loads(capsys.readouterr().out)["misfits"]) == 7


def test_the_command_ends_with_0_where_all_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a file (1): [x].csv"
    path.write_text("text,other,yes,no\n" + GOOD)
    assert main(["task", "check", str(path)]) == 2
    assert "name yours with columns=" in capsys.readouterr().err
    columns = "clean=text,corrupt=other,correct=yes,wrong=no"
    assert main(["task", "check", str(path), "--columns", columns]) == 0
    assert "[The][ cat][ is]" in capsys.readouterr().out
    assert main(["task", "show", str(path), "--columns", columns, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["prompts"]) == 1


def test_options_of_files_are_refused_for_other_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task", "show", "ioi", "--misfits", "drop"]) == 2
    assert "'ioi' is not a file" in capsys.readouterr().err


def test_what_is_left_out_is_said_on_the_command_line(
    mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["task", "show", str(mixed), "--misfits", "drop"]) == 0
    out, err = capsys.readouterr()
    assert "8 examples" in out
    assert err == f"circuitkit: {mixed}: 7 of 15 rows do not fit and are left out\n"


# -- all rows, and halves --------------------------------------------------------------------------
def test_all_rows_are_used_unless_a_number_is_given(model: Any, tmp_path: Path) -> None:
    path = str(saved(tmp_path / "many.jsonl", ck.make_task("ioi", model, 150).prompts))
    assert len(as_data(model, path)) == 150
    assert len(as_data(model, path, examples=20)) == 20
    assert len(as_data(model, path, examples=500)) == 150
    assert len(as_data(model, "ioi")) == 64
    sizes = [len(half.data) for half in prepare_halves(model, path, None, None, None)]
    assert sizes == [75, 75]
    halves = prepare_halves(model, path, None, None, None, examples=10)
    assert [len(half.data) for half in halves] == [10, 10]


def test_rows_are_shuffled_by_the_seed_before_they_are_halved(model: Any, tmp_path: Path) -> None:
    prompts = ck.make_task("ioi", model, 12).prompts
    path = str(saved(tmp_path / "many.jsonl", prompts))
    for data in (path, ck.make_task(path, model), list(prompts)):
        seen = {seed: [e.clean for e in prepare_halves(model, data, None, None, None, seed=seed)[0]
                       .data.examples] for seed in (0, 1)}  # fmt: skip
        again = prepare_halves(model, data, None, None, None, seed=1)[0].data.examples
        assert set(seen[0]) != set(seen[1])
        assert [e.clean for e in again] == seen[1]


def test_copies_of_one_row_are_no_unseen_prompts(model: Any, tmp_path: Path) -> None:
    one, two, three = ck.make_task("ioi", model, 3).prompts
    path = tmp_path / "copies.jsonl"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        saved(path, [one] * 6)
        found = ck.discover(model, str(path), edges=20)
        assert found.circuit.graph["in_sample"] is True
        assert "in sample" in repr(found)
        assert "unseen" not in repr(found)
        assert "[not known]" in repr(found)
        saved(path, [one, two, three] * 4)
        seen, unseen = prepare_halves(model, path, None, None, None)
    assert not {e.clean for e in seen.data.examples} & {e.clean for e in unseen.data.examples}


def test_one_pair_can_be_studied_and_its_interval_is_not_known(model: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "one.jsonl", ck.make_task("ioi", model, 1).prompts)
    found = ck.discover(model, path, edges=20)
    assert np.isnan(found.evaluation.interval()).all()
    assert "[not known]" in repr(found)
    assert "1 prompt, in sample" in repr(found)
    answer = found.to_dict()
    assert answer["interval"] == [None, None]
    assert answer["in_sample"] is True
    assert "in sample" in str(found.circuit.draw(tmp_path / "one.svg").read_text())
    found.circuit.save(tmp_path / "circuit.json")
    assert ck.Circuit.load(tmp_path / "circuit.json").graph["in_sample"] is True


def test_what_the_model_has_no_room_for_is_listed_with_both_numbers(
    model: Any, tmp_path: Path
) -> None:
    path, long = tmp_path / "long.csv", " cat" * model.context
    path.write_text(f"{HEAD}{GOOD}The{long},The{long}, he, she\nThe,The, Zaphod, she\n")
    length = len(TokenizerView(model.tokenizer).ids([f"The{long}"])[0])
    found = check_prompts(path, model)
    assert len(found.misfits) == 2
    said = f"has {length} tokens, and the model has positions for {model.context}; shorten it"
    assert found.misfits[0].startswith("line 3 does not fit: the clean text, which begins 'The cat")
    assert found.misfits[0].endswith(said)
    with pytest.raises(DataError, match=f"line 3 .* positions for {model.context}.*lines 3, 4"):
        ck.discover(model, path, edges=5)
    example = Dataset.of([Prompt("The cat is", "The dog is", (" he",))], model)[0]
    most = max(example.clean)
    narrow = TokenizerView(model.tokenizer, vocabulary=most)
    (said,) = check_prompts([Prompt("The cat is", None, (" he",))], narrow).misfits
    assert f"the clean text has the token id {most:,}, and the model's vocabulary has" in said


# -- without a corrupted text ----------------------------------------------------------------------
@pytest.fixture(scope="module")
def unpaired(model: Any) -> Dataset:
    prompts = ck.make_task("ioi", model, 40).prompts
    return Dataset.of([replace(p, corrupt=None, corruptions={}) for p in prompts], model)


@pytest.mark.parametrize("corruption", [zero, mean, noise, resample])
def test_what_needs_no_corrupted_text_works_without_one(
    model: Any, unpaired: Dataset, corruption: Any
) -> None:
    lengths = [len(e.clean) for e in unpaired.examples]
    data = unpaired.where(lambda e: lengths.count(len(e.clean)) > 1)
    batch = next(iter(data))
    (carried,) = corruption(model, data)(batch)
    clean = model.start(batch.clean, batch.mask).embed
    assert bool(((carried.embed - clean).abs().amax(-1) > 0)[batch.mask].any())
    scores = ck.discovery.eap(model, data, None, corruption)
    assert np.abs(scores.values).max() > 0


def test_noise_is_on_every_token_where_there_is_no_corrupted_text(
    model: Any, unpaired: Dataset
) -> None:
    batch = next(iter(unpaired))
    assert torch.equal(batch.differing(), batch.mask)
    assert torch.equal(batch.differing(at="S2"), batch.within("S2"))


def test_counterfactual_without_a_corrupted_text_is_refused_by_the_row(
    model: Any, unpaired: Dataset
) -> None:
    paired = Dataset.of(ck.make_task("ioi", model, 2), model)
    data = replace(paired, examples=paired.examples + unpaired.examples[:1])
    with pytest.raises(DataError, match=r"prompt 3 of 3 \('.*'\) has no corrupted text") as caught:
        counterfactual(model, data)(next(iter(data)))
    assert "use zero, mean, noise or resample" in str(caught.value)
    with pytest.raises(DataError, match=r"prompt 1 of 40 .* has no corrupted text"):
        counterfactual(model, paired)(next(iter(unpaired)))
    with pytest.raises(DataError, match=r"40 of 40 prompts have no .* is one\)"):
        ck.evaluate(model, ck.discovery.eap(model, paired).top(20), unpaired)


def test_a_prompt_without_a_corrupted_text_is_shown_without_one(
    model: Any, unpaired: Dataset
) -> None:
    assert "corrupt" not in repr(unpaired)
    assert unpaired.to_frame()["corrupt"].tolist() == [""] * 40
    with pytest.raises(DataError, match="cannot be swapped"):
        unpaired.both_ways()
    assert all(e.corrupt == e.clean for e in unpaired.examples)


def test_the_mean_over_much_data_is_exact(model: Any) -> None:
    """1,000 copies of a prompt have its mean, which float32 sums miss."""
    data = Dataset.of(ck.make_task("ioi", model, 1), model, batch_size=100)
    many = replace(data, examples=data.examples * 1000)
    batch = next(iter(data))
    (one,), (all_,) = mean(model, data)(batch), mean(model, many)(batch)
    assert torch.allclose(one.embed, all_.embed, rtol=1e-7, atol=1e-9)


# -- answers of several tokens ---------------------------------------------------------------------
def test_the_first_tokens_of_long_answers_are_used_and_stated(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text(HEAD + "The cat is,The dog is, he was, she was\n")
    with pytest.raises(DataError, match="' he was' is not one token"):
        ck.make_task(path, model)
    task = ck.make_task(path, model, answers="first")
    assert task[0].correct == (" he",)
    assert task[0].wrong == (" she",)
    assert "answers='first'" in repr(task)
    assert task.about["task"] == f"from_file(answers='first', path={str(path)!r})"
    path.write_text(HEAD + "The cat is,The dog is, he was, he is\n")
    with pytest.raises(DataError, match="both correct and wrong"):
        ck.make_task(path, model, answers="first")
    with pytest.raises(ArgumentError, match="answers='last'; give 'single', 'first' or 'sequence'"):
        from_file(model, path=path, answers="last")


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_what_is_found_on_a_file_is_found_again(model: Any, tmp_path: Path, rows: int) -> None:
    path = saved(tmp_path / "own.jsonl", ck.make_task("ioi", model, rows).prompts)
    for data in (str(path), ck.make_task(path, model)):
        found = ck.discover(model, data, method="eap", edges=20, seed=3)
        again = ck.replay(found.circuit, model=model)
        same = again.found.circuit.graph["asked"]["prompts"]
        assert same == found.circuit.graph["asked"]["prompts"]
