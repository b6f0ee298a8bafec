"""A program: an expression with its vocabulary, its prompts and their answers.

The answer is the expression's value at the last token. A categorical value is the word of that
name; a numeric value is the logit of the word ``more``, and the logit of ``less`` is 0.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch

from circuitkit.data.batches import Dataset
from circuitkit.data.prompts import Prompt, Task
from circuitkit.data.tokens import Tokenizer
from circuitkit.errors import DataError, ModelError
from circuitkit.models.decoder import SPECIAL, Spaced
from circuitkit.truth.rasp.language import Op, Space, Value, domains, evaluate

__all__ = ["NUMERIC", "Program", "Sentence"]

NUMERIC = ("more", "less")
MOST_PROMPTS = 50_000  # that are listed if none are given
Sentence = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Program:
    """An expression with its vocabulary, its prompts and their answers.

    Attributes:
        name: The program's name.
        output: The expression; the answer to a prompt is its value at the last word.
        vocabulary: The words that prompts are made of.
        length: The largest number of words of a prompt.
        prompts: The prompts, each a sequence of words; if none are given, all sequences of
            ``shortest`` to ``length`` words. Prompts without an answer are left out.
        shortest: The smallest number of words of a prompt.
        source: The paper that the program is from.

    Raises ModelError for a vocabulary or lengths that cannot be used.

    Example:
        >>> shout = ck.rasp.Map(str.upper, ck.rasp.tokens)
        >>> program = ck.rasp.Program("shout", shout, "ab", length=2)
        >>> program.answer(["a", "b"])
        'B'
        >>> len(program.answers)
        6
    """

    name: str
    output: Op
    vocabulary: Sequence[str]
    length: int
    prompts: Sequence[Sequence[str]] = ()
    shortest: int = 1
    source: str = ""

    def __repr__(self) -> str:
        asked = f"{len(self.prompts):,} prompts" if self.prompts else "all prompts"
        source = f" ({self.source})" if self.source else ""
        words = " ".join(self.vocabulary)
        return f"{self.name}: {asked} of up to {self.length} words of {words!r}{source}"

    def __post_init__(self) -> None:
        words = list(self.vocabulary)
        wrong = [word for word in words if not word or word in SPECIAL or word.split() != [word]]
        if not words or len(set(words)) < len(words) or wrong:
            raise ModelError(
                f"the vocabulary of {self.name!r} is {words}; give different words without spaces"
            )
        if not 1 <= self.shortest <= self.length:
            raise ModelError(
                f"the prompts of {self.name!r} have {self.shortest} to {self.length} words; "
                "give a range from at least 1"
            )

    @property
    def space(self) -> Space:
        """The words that its prompts are made of, and their largest number."""
        return Space(tuple(self.vocabulary), self.length)

    @cached_property
    def words(self) -> Sentence:
        """The model's vocabulary: the first word, the words of prompts, and further answers."""
        answers = NUMERIC if self.output.is_numeric else self._called.values()
        return tuple(dict.fromkeys([*SPECIAL, *self.vocabulary, *answers]))

    @cached_property
    def _called(self) -> dict[Value, str]:
        """The word for each possible value; equal values share one."""
        return {value: str(value) for value in domains(self.output, self.space)[self.output]}

    def answer(self, prompt: Sequence[str]) -> Value:
        """The value at the last word of a prompt, by the interpreter; None if there is none.

        Raises DataError if the prompt is too long or has words outside of the vocabulary, or if an
        Aggregate selects different categorical values.
        """
        if not 1 <= len(prompt) <= self.length or not set(prompt) <= set(self.vocabulary):
            raise DataError(
                f"{' '.join(prompt)!r} is not a prompt of {self.name!r}; give 1 to {self.length} "
                f"of the words {' '.join(self.vocabulary)}"
            )
        return evaluate(self.output, prompt)[-1]

    @cached_property
    def answers(self) -> dict[Sentence, Value]:
        """Every prompt with its answer; prompts without an answer, or for which an Aggregate
        selects different categorical values, are left out."""
        found: dict[Sentence, Value] = {}
        for prompt in self._asked():
            try:
                value = self.answer(prompt)
            except DataError:
                if self.prompts:
                    raise
                continue
            if value is not None:
                found[prompt] = value
        return found

    def _asked(self) -> Iterator[Sentence]:
        if self.prompts:
            yield from map(tuple, self.prompts)
            return
        lengths = range(self.shortest, self.length + 1)
        number = sum(len(self.vocabulary) ** length for length in lengths)
        if number > MOST_PROMPTS:
            raise ModelError(
                f"{self.name!r} has {number:,} prompts; give a part of them as 'prompts'"
            )
        for length in lengths:
            yield from product(self.vocabulary, repeat=length)

    def task(self, n: int | None = None, seed: int = 0) -> Task:
        """``n`` different prompts (None for all) drawn with the seed, each with a random corrupted
        prompt of the same length and with another answer.

        The answer of the corrupted prompt is the wrong one; for numbers, the correct answer is the
        one that the clean prompt favours. Raises DataError if fewer prompts have such a partner.
        """
        rng = random.Random(seed)
        alike: dict[int, dict[Value, list[Sentence]]] = defaultdict(lambda: defaultdict(list))
        for prompt in self.answers:
            alike[len(prompt)][self._key(prompt)].append(prompt)
        fit = [prompt for prompt in self.answers if len(alike[len(prompt)]) > 1]
        if not 1 <= (n or 1) <= len(fit):
            raise DataError(
                f"{self.name!r} has {len(fit)} prompts with a partner that has another answer, not "
                f"{n}; give n from 1 to {len(fit)}, or None for all"
            )
        chosen = fit if n is None else rng.sample(fit, n)
        prompts = tuple(self._pair(prompt, alike[len(prompt)], rng) for prompt in chosen)
        settings = {"n": len(chosen), "seed": seed}
        return Task(self.name, prompts, "logit_diff", self.source, settings)

    def _key(self, prompt: Sentence) -> Value:
        """The number or the word that is the answer to a prompt."""
        value = self.answers[prompt]
        return value if self.output.is_numeric else self._called[value]

    def _pair(
        self, clean: Sentence, alike: dict[Value, list[Sentence]], rng: random.Random
    ) -> Prompt:
        mine = self._key(clean)
        other = rng.choice([key for key in alike if key != mine])
        correct, wrong = (mine, other)
        if self.output.is_numeric:
            correct, wrong = NUMERIC if mine > other else NUMERIC[::-1]
        corrupt = rng.choice(alike[other])
        return Prompt(" ".join(clean), " ".join(corrupt), (f" {correct}",), (f" {wrong}",))

    def data(self, n: int | None = None, seed: int = 0, *, batch_size: int = 64) -> Dataset:
        """The task's prompts in the tokens of the compiled model; raises as ``task`` does."""
        reader = _Reader(Spaced(self.words), torch.device("cpu"))
        return Dataset.of(self.task(n, seed), reader, batch_size=batch_size)


@dataclass(frozen=True)
class _Reader:
    """The parts of a model that Dataset.of uses."""

    tokenizer: Tokenizer
    device: torch.device
