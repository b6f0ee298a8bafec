"""Generation: everything kept is the model's own continuation, nothing kept the corrupted one's,
and every token between is that of a masked run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, build, dataset, examples, model, pristine
from oracles import Oracle
from torch import Tensor

import circuitkit as ck
from circuitkit.data.batches import Dataset
from circuitkit.data.examples import Example
from circuitkit.data.prompts import Prompt, Task
from circuitkit.engine.model import Model
from circuitkit.engine.run import run
from circuitkit.errors import ArgumentError, CircuitError, CircuitkitError, DataError
from circuitkit.evaluation.generation import Continuation, Generation
from circuitkit.evaluation.masks import random_masks
from circuitkit.models.transformer_lens import from_module
from circuitkit.registry import resolve
from circuitkit.truth.rasp.compiler import compile_program
from circuitkit.truth.rasp.library import named

NEW = 5
SAME = 1e-5
MINI = Path(ck.__path__[0]) / "assets" / "mini"
every_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def mini() -> Any:
    return ck.load("mini")


@cache
def task() -> Task:
    return ck.make_task("ioi", mini(), n=16)


@cache
def circuit() -> ck.Circuit:
    data = ck.Dataset.of(task(), mini())
    return ck.discovery.eap(mini(), data, ck.metrics.logit_diff, ck.corruptions.counterfactual).top(
        100
    )


def plainly(logits: Any, tokens: Sequence[int], n: int = NEW) -> list[int]:
    """The greedy continuation by a loop of plain forwards."""
    ids = list(tokens)
    for _ in range(n):
        ids.append(int(logits(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(tokens) :]


def half(m: Model, seed: int = 0) -> Any:
    (mask,) = random_masks(m.wiring, m.wiring.n_edges // 2, 1, seed)
    return mask


def by_run(
    m: Model, mask: Any, example: Example, corruption: str = "counterfactual", data: Any = None
) -> Tensor:
    """The probabilities of the next token, by ``run`` on the two texts as one batch."""
    own = Dataset((example,))
    (batch,) = own
    with torch.no_grad():
        (carried,) = resolve("corruptions", corruption)(m, data or own)(batch)
        context = m.start(batch.clean, batch.mask)
        return run(m, batch, context, carried, mask)[0].double().softmax(-1)


# -- both ends -------------------------------------------------------------------------------------
@every_family
def test_everything_is_the_models_own_continuation_and_nothing_the_corrupted_texts(
    family: str,
) -> None:
    m = model(family)
    own = Oracle(pristine(family), m.wiring)
    (pair,) = examples((7,), seed=7)
    clean, corrupt = (plainly(own.logits, text) for text in (pair.clean, pair.corrupt))
    assert clean != corrupt
    found = ck.generate(m, m.wiring.legal, pair.clean, corrupt=pair.corrupt, max_new_tokens=NEW)
    assert found.with_circuit is not None
    assert found.without_circuit is not None
    assert list(found.whole_model.ids) == list(found.with_circuit.ids) == clean
    assert list(found.without_circuit.ids) == corrupt


def test_mini_goes_on_as_hugging_face_lets_it() -> None:
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(MINI)
    prompt = task().prompts[0].clean
    ids = torch.tensor(mini().tokenizer([prompt], add_special_tokens=False)["input_ids"])
    theirs = plain.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
    )[0, ids.shape[1] :]
    found = ck.generate(mini(), None, prompt, max_new_tokens=8)
    assert list(found.whole_model.ids) == theirs.tolist()
    assert found.whole_model.text == mini().tokenizer.decode(theirs.tolist())
    assert found.with_circuit is found.without_circuit is None


# -- between them ----------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "neox-parallel"])
@pytest.mark.parametrize("corruption", ["counterfactual", "zero", "mean"])
def test_every_token_is_that_of_a_masked_run_on_both_texts_so_far(
    family: str, corruption: str
) -> None:
    m, keep, data = model(family), half(model(family)), dataset()
    (pair,) = examples((7,), seed=3)
    found = ck.generate(
        m, keep, pair.clean, corruption, corrupt=pair.corrupt, data=data, max_new_tokens=NEW
    )
    for own, mask in ((found.with_circuit, keep), (found.without_circuit, m.wiring.legal & ~keep)):
        assert own is not None
        for step, (token, probability) in enumerate(zip(own.ids, own.probabilities, strict=True)):
            more = own.ids[:step]
            so_far = replace(pair, clean=pair.clean + more, corrupt=pair.corrupt + more)
            expected = by_run(m, mask, so_far, corruption, data)
            assert token == int(expected.argmax())
            assert probability == pytest.approx(float(expected[token]), rel=SAME)


def test_a_prompt_of_a_task_brings_its_corrupted_texts_and_spans() -> None:
    prompt = task().prompts[0]
    found = ck.generate(mini(), circuit(), prompt, max_new_tokens=3)
    same = ck.generate(mini(), circuit(), prompt.clean, corrupt=prompt.corrupt, max_new_tokens=3)
    assert (found.whole_model, found.with_circuit, found.without_circuit) == (
        same.whole_model, same.with_circuit, same.without_circuit
    )  # fmt: skip
    part = ck.generate(mini(), circuit(), prompt, "counterfactual(at=('S2',))", max_new_tokens=3)
    assert part.settings["corruption"] == "counterfactual(at=('S2',))"
    (other,) = list(prompt.corruptions)[:1]
    swap = ck.generate(
        mini(), circuit(), prompt, f"counterfactual(text={other!r})", max_new_tokens=3
    )
    text = prompt.corruptions[other]
    said = ck.generate(mini(), circuit(), prompt.clean, corrupt=text, max_new_tokens=3)
    assert swap.with_circuit == said.with_circuit


def test_without_it_the_corrupted_name_is_said() -> None:
    """What the README shows: the circuit says the indirect object, the rest the other name."""
    for prompt in task().prompts[:4]:
        found = ck.generate(mini(), circuit(), prompt, max_new_tokens=1)
        (right,), (wrong,) = prompt.correct, prompt.wrong
        assert str(found.with_circuit) == right
        assert str(found.without_circuit) == wrong


def test_what_is_cut_carries_what_fits_the_arguments() -> None:
    prompt, data = task().prompts[0], ck.Dataset.of(task(), mini())
    alone, known, given = (
        ck.generate(mini(), circuit(), prompt.clean, max_new_tokens=2, **arguments)
        for arguments in ({}, {"data": data}, {"data": data, "corrupt": prompt.corrupt})
    )
    named = ck.generate(mini(), circuit(), prompt.clean, data=task(), max_new_tokens=2)
    assert named == known
    said = [one.settings["corruption"] for one in (alone, known, given)]
    assert said == ["zero", "mean", "counterfactual"]
    assert alone.settings["corrupt"] is known.settings["corrupt"] is None
    assert given.settings["corrupt"] == prompt.corrupt
    zero = ck.generate(mini(), circuit(), prompt, ck.corruptions.zero, max_new_tokens=2)
    assert zero.with_circuit == alone.with_circuit != given.with_circuit


def test_a_compiled_program_goes_on_too() -> None:
    program = named("shift")
    m = compile_program(program)
    pair = program.data(4).examples[0]
    found = ck.generate(m, m.wiring.legal, pair.clean, corrupt=pair.corrupt, max_new_tokens=1)
    assert found.with_circuit == found.whole_model
    assert len(found.whole_model.ids) == 1


# -- drawing ---------------------------------------------------------------------------------------
def test_the_same_call_gives_the_same_text_and_another_seed_another() -> None:
    m, tokens = model("llama"), list(examples((7,))[0].clean)

    def ids(**settings: Any) -> tuple[int, ...]:
        return ck.generate(m, None, tokens, max_new_tokens=12, **settings).whole_model.ids

    assert ids() == ids(seed=1) == ids(temperature=1e-6)
    assert ids(temperature=1.0) == ids(temperature=1.0, seed=0)
    assert len({ids(temperature=1.0, seed=seed) for seed in range(4)}) > 1


def test_tokens_are_drawn_from_the_softmax_of_logits_over_temperature() -> None:
    m, pair = model("llama"), examples((7,))[0]
    first = by_run(m, m.wiring.legal, pair)
    n, heat = 200, 2.0
    expected = (first.log() / heat).softmax(-1).numpy()
    drawn = np.zeros(60)
    for seed in range(n):
        (token,) = ck.generate(
            m, None, pair.clean, max_new_tokens=1, temperature=heat, seed=seed
        ).whole_model.ids
        drawn[token] += 1 / n
    spread = np.sqrt(expected * (1 - expected) / n)
    assert (abs(drawn - expected) < 4.5 * spread + 1e-3).all()
    assert (drawn > 0).sum() > 5


# -- text ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Letters:
    """A tokenizer of numbered words, whose text ends with one of them."""

    eos_token_id: int
    bos_token_id: int | None = None

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[int(word[1:] or 0) for word in one.split()] for one in text]}

    def decode(self, ids: list[int]) -> str:
        return "".join(f" w{one}" for one in ids)


def test_a_text_ends_with_the_token_that_ends_texts() -> None:
    prompt = list(examples((7,))[0].clean)
    new = ck.generate(model("llama"), None, prompt, max_new_tokens=8).whole_model.ids
    assert new[0] != new[1]
    m = from_module(build("llama"), tokenizer=Letters(new[1]))
    text = "".join(f" w{one}" for one in prompt)
    found = ck.generate(m, None, text, max_new_tokens=8).whole_model
    assert found.ids == new[:2]
    assert found.ended
    assert found.text == f" w{new[0]}"
    assert found.tokens == (f" w{new[0]}", f" w{new[1]}")


def test_a_model_without_a_tokenizer_takes_and_gives_ids() -> None:
    found = ck.generate(model("gpt2"), None, [1, 2, 3], max_new_tokens=2)
    assert found.prompt == "1 2 3"
    assert found.whole_model.text == "".join(f" {one}" for one in found.whole_model.ids)
    with pytest.raises(DataError, match="has no tokenizer; give the prompt as token ids"):
        ck.generate(model("gpt2"), None, "a text")


# -- what is shown ---------------------------------------------------------------------------------
def made() -> Generation:
    kinds = (("a", 0.9), ("<b>&", 0.5)), (("c", 0.25),), (("d", 1.0), ("e", 0.1))
    three = [
        Continuation(
            tuple(range(len(own))), tuple(t for t, _ in own), tuple(p for _, p in own), False
        )
        for own in kinds
    ]
    settings = {"model": "m", "temperature": 0.0, "seed": 0, "corruption": "zero", "edges": 1234}
    return Generation("1 < 2", *three, settings)


def test_a_generation_says_what_was_said_and_how() -> None:
    text = str(made())
    assert text == (
        "1 < 2\n  whole model      'a<b>&'\n  with circuit     'c'\n  without circuit  'de'"
    )
    full = repr(made())
    assert full.startswith(text)
    assert "m, greedily; 1,234 edges live, the others carry zero." in full
    assert "0.900 'a'" in full
    assert full.splitlines()[-1].split() == ["1", "0.500", "'<b>&'", "–", "0.100", "'e'"]
    warm = replace(made(), settings={**made().settings, "temperature": 0.5, "seed": 3})
    assert "at temperature 0.5 with seed 3" in repr(warm)
    page = made()._repr_html_()
    assert "<b>&</b>" not in page.replace("<b>1 &lt; 2</b>", "")
    assert "&lt;b&gt;&amp;" in page
    assert 'title="probability 0.250"' in page


def test_the_frame_has_a_row_for_every_token() -> None:
    frame = made().to_frame()
    assert list(frame.columns) == ["run", "step", "token", "id", "probability"]
    assert len(frame) == 5
    assert frame["run"].unique().tolist() == ["whole model", "with circuit", "without circuit"]
    assert frame["probability"].tolist() == [0.9, 0.5, 0.25, 1.0, 0.1]
    with pytest.raises(AttributeError):
        made().prompt = "other"  # type: ignore[misc]


# -- what is refused -------------------------------------------------------------------------------
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"corruption": "counterfactual"}, "counterfactual changes nothing of this prompt"),
    ({"corrupt": "same"}, "changes nothing of this prompt"),
    ({"corruption": "mean"}, "mean is taken from prompts; give them as data="),
    ({"corruption": "mean_by_position"}, "mean_by_position is taken from prompts"),
    ({"corruption": "resample"}, "resample is taken from prompts"),
    ({"corruption": "noise", "corrupt": "other"}, "noise is taken from prompts"),
    ({"corruption": "noise", "corrupt": "other", "data": True}, "noise draws anew"),
    ({"corruption": "noise(draws=2)", "corrupt": "other", "data": True}, "makes 2 draws"),
    ({"corruption": "resample", "data": True}, "is not among the data"),
    ({"corrupt": " Mary"}, "the corrupted text has 1; make them equally long"),
    ({"max_new_tokens": 0}, "max_new_tokens=0"),
    ({"temperature": -0.5}, "temperature=-0.5"),
    ({"temperature": float("nan")}, "temperature=nan"),
    ({"max_new_tokens": 96}, "positions for 96"),
    ({"corrupt": [5000]}, "token ids go from 5000 to 5000"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED)
def test_wrong_arguments_are_refused_in_a_sentence(arguments: dict[str, Any], said: str) -> None:
    m, prompt = mini(), task().prompts[0]
    data = Dataset(tuple(e for e in dataset((9, 9)).examples)) if "data" in arguments else None
    texts = {"other": prompt.corrupt, "same": prompt.clean}
    corrupt = arguments.get("corrupt")
    given = {**arguments, "data": data, "corrupt": texts.get(str(corrupt), corrupt)}
    if arguments == {"corrupt": "same"}:
        given["corruption"] = "counterfactual"
    with pytest.raises(CircuitkitError, match=said):
        ck.generate(m, circuit(), prompt.clean, **{"max_new_tokens": 2, **given})


@pytest.mark.unchecked
def test_a_circuit_of_another_model_and_an_empty_prompt_are_refused() -> None:
    with pytest.raises(CircuitError, match="give a circuit of this model"):
        ck.generate(mini(), model("gpt2").wiring.legal, "When Mary")
    with pytest.raises(DataError, match="at least one token"):
        ck.generate(mini(), circuit(), [])
    for wrong in (task(), ck.Dataset.of(task(), mini()), 5, torch.ones(1, 3)):
        with pytest.raises(ArgumentError, match=r"give a text, its token ids, or a Prompt"):
            ck.generate(mini(), circuit(), wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="circuit is the text 'When'; give a circuit"):
        ck.generate(mini(), "When", circuit())  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="not a loaded model"):
        ck.generate("mini", circuit(), "When")  # type: ignore[arg-type]


def test_a_prompt_is_as_long_as_the_model_has_positions_for() -> None:
    m = mini()
    tokens = torch.ones(1, 96, dtype=torch.long)
    assert m.start(tokens, tokens.bool()).embed.shape[1] == 96
    longer = torch.ones(1, 97, dtype=torch.long)
    with pytest.raises(DataError, match="a prompt has 97 tokens, and 'mini' has positions for 96"):
        m.start(longer, longer.bool())
    left = longer.bool()
    left[:, 0] = False  # of which padding takes none
    assert m.start(longer, left).embed.shape[1] == 97


def test_a_prompt_is_a_text_a_prompt_or_ids() -> None:
    prompt = Prompt("When Mary and John", "When Lisa and John", (" gave",), ())
    found = ck.generate(mini(), circuit(), prompt, max_new_tokens=1)
    assert found.prompt == "When Mary and John"
    assert found.settings["corrupt"] == "When Lisa and John"
