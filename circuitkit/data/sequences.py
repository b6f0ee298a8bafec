"""Answers of several tokens: the rows on which a model is asked for each of them.

The log probability of a whole answer is the sum over its tokens, each after the prompt and the
answer's tokens before it (teacher forcing). So an example has a row for each beginning of its
answers; a row asks for one token, as that of an answer of one token does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitkit.data.examples import Example

__all__ = ["Sequences", "rows_of", "sequences"]


@dataclass(frozen=True)
class Sequences:
    """What the rows of a batch are asked for, and which answers that makes up.

    Attributes:
        owner: The example of each row, counted from 0.
        prompt: How many tokens of each row are its prompt; those of an answer follow.
        row: The row that is asked for each token of each answer.
        token: That token.
        answer: The number of that answer.
        correct: The numbers of each example's correct answers; fewer are padded with -1.
        wrong: Those of its wrong answers, likewise.
    """

    owner: Int[Tensor, " rows"]
    prompt: Int[Tensor, " rows"]
    row: Int[Tensor, " steps"]
    token: Int[Tensor, " steps"]
    answer: Int[Tensor, " steps"]
    correct: Int[Tensor, "examples _correct"]
    wrong: Int[Tensor, "examples _wrong"]

    @property
    def answers(self) -> int:
        """How many answers there are."""
        return int(self.answer[-1]) + 1

    def sums(self, logs: Float[Tensor, "rows vocab"]) -> Float[Tensor, " answers"]:
        """What is said of the tokens of each answer, summed over them: of log probabilities the log
        probability of the whole."""
        taken = logs[self.row, self.token]
        return taken.new_zeros(self.answers).index_add(0, self.answer, taken)

    def along(self, values: Float[Tensor, " rows"]) -> Float[Tensor, " examples"]:
        """What is said of each row, summed over those on which a token of an example's correct
        answers is asked for, each once."""
        right = torch.isin(self.answer, self.correct)
        asked = torch.zeros_like(self.owner, dtype=torch.bool)
        asked = asked.index_put((self.row[right],), asked.new_ones(()))
        found = values.new_zeros(len(self.correct))
        return found.index_add(0, self.owner, torch.where(asked, values, 0))

    def best(self, logits: Float[Tensor, "rows vocab"]) -> Bool[Tensor, " answers"]:
        """Whether every token of an answer is the most probable one, or ties with it."""
        missed = (logits[self.row, self.token] < logits.amax(-1)[self.row]).to(logits.dtype)
        return missed.new_zeros(self.answers).index_add(0, self.answer, missed) == 0

    def repeat(self, times: int) -> Sequences:
        """Those of the rows stacked on themselves that many times."""
        sizes = {
            "owner": len(self.correct), "prompt": 0, "row": len(self.owner), "token": 0,
            "answer": self.answers, "correct": self.answers, "wrong": self.answers,
        }  # fmt: skip

        def again(x: Tensor, size: int) -> Tensor:
            return torch.cat([torch.where(x < 0, x, x + k * size) for k in range(times)])

        return Sequences(**{name: again(getattr(self, name), size) for name, size in sizes.items()})


def rows_of(example: Example) -> list[Example]:
    """The rows of an example, each with one token for an answer; of answers of one token itself."""
    return [example] if example.sequences is None else list(_rows(example))


def _rows(example: Example) -> Iterator[Example]:
    right, wrong = _answers(example)
    for begun in _beginnings(example):
        yield replace(
            example,
            clean=example.clean + begun,
            corrupt=example.corrupt + begun,
            corruptions={name: text + begun for name, text in example.corruptions.items()},
            correct=_next(right, begun),
            wrong=_next(wrong, begun),
            sequences=None,
        )


def _answers(example: Example) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """The tokens of each correct and of each wrong answer."""
    if example.sequences is not None:
        return example.sequences
    return tuple(tuple((token,) for token in own) for own in (example.correct, example.wrong))


def _beginnings(example: Example) -> list[tuple[int, ...]]:
    """What answers begin with, before each of their tokens; each once, the empty one first."""
    every = [answer for own in _answers(example) for answer in own]
    return list(dict.fromkeys(answer[:i] for answer in every for i in range(len(answer)))) or [()]


def _next(answers: Sequence[tuple[int, ...]], begun: tuple[int, ...]) -> tuple[int, ...]:
    """The tokens that follow this beginning in one of the answers."""
    n = len(begun)
    return tuple(dict.fromkeys(a[n] for a in answers if len(a) > n and a[:n] == begun))


def sequences(examples: Sequence[Example], device: str) -> Sequences | None:
    """How the rows of these examples make up answers; None where all answers have one token."""
    if all(example.sequences is None for example in examples):
        return None
    owner: list[int] = []
    prompt: list[int] = []
    steps: list[tuple[int, int, int]] = []
    tables: tuple[list[list[int]], list[list[int]]] = [], []
    count = 0
    for number, example in enumerate(examples):
        begun = {beginning: len(owner) + i for i, beginning in enumerate(_beginnings(example))}
        owner += [number] * len(begun)
        prompt += [len(example.clean)] * len(begun)
        for answers, table in zip(_answers(example), tables, strict=True):
            table.append([*range(count, count + len(answers))])
            for answer in answers:
                steps += [(begun[answer[:i]], token, count) for i, token in enumerate(answer)]
                count += 1
    row, token, answer_ = torch.tensor(steps, device=device).T
    right, wrong = (_padded(table).to(device) for table in tables)
    own, lengths = (torch.tensor(values, device=device) for values in (owner, prompt))
    return Sequences(own, lengths, row, token, answer_, right, wrong)


def _padded(table: Sequence[Sequence[int]]) -> Int[Tensor, "n k"]:
    width = max(map(len, table))
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in table], dtype=torch.long)
