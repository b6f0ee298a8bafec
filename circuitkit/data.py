"""Prompts, and the token batches made of them.

A prompt is a pair: the clean text, and a corrupted one that is a clean text of another answer
(symmetric token replacement, Zhang & Nanda 2024, §2). Both have the same number of tokens, so that
every position of the one has its counterpart in the other. Nothing is truncated or reordered, and
special tokens are what the model's own tokenizer adds: no BOS is prepended silently.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuitkit.errors import DataError, TaskFitError

__all__ = ["Batch", "Dataset", "Example", "Prompt", "Task", "Words", "compose", "tokenise"]


@dataclass(frozen=True)
class Prompt:
    """A clean and a corrupted text, and the answers that continue the clean one.

    ``correct`` and ``wrong`` are continuations, with their leading space; each is one token.
    ``spans`` names parts of the clean text by their character ranges (``{"S2": (31, 36)}``); the
    same tokens carry the same name in the corrupted text. ``others`` are further corrupted texts of
    the clean one, by name (``{"S1+IO": ...}``), as long as it.
    """

    clean: str
    corrupt: str
    correct: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """Prompts with the metric that suits them, and where they come from."""

    name: str
    prompts: tuple[Prompt, ...]
    metric: str
    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def split(self, first: int) -> tuple[Task, Task]:
        """The first prompts and the others: for discovery and for evaluation."""
        if not 0 < first < len(self.prompts):
            raise DataError(
                f"{self.name} has {len(self.prompts)} prompts, which cannot be split after {first}"
            )
        return (
            replace(self, prompts=self.prompts[:first]),
            replace(self, prompts=self.prompts[first:]),
        )


class Tokenizer(Protocol):
    """What we ask of a Hugging Face tokenizer."""

    bos_token_id: int | None

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Words:
    """What a tokenizer makes of words: a task asks it what fits."""

    tokenizer: Tokenizer

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, with the BOS token where the tokenizer adds one."""
        if not texts:
            return []
        plain = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        opening = self._opening()
        return [opening + list(ids) for ids in plain]

    def _opening(self) -> list[int]:
        bos = self.tokenizer.bos_token_id
        first = list(self.tokenizer(["a"], add_special_tokens=True)["input_ids"][0][:1])
        return first if bos is not None and first == [bos] else []

    def fitting(self, words: Iterable[str], after: str = "a") -> list[str]:
        """Those of the words (given with their leading space, if any) that are one token after
        ``after``."""
        words = list(words)
        head = self.ids([after])[0]
        return [
            word
            for word, ids in zip(words, self.ids([after + word for word in words]), strict=True)
            if self.continues(head, ids)
        ]

    def continues(self, head: list[int], ids: list[int]) -> bool:
        """Whether the tokens go on by exactly one, which the tokenizer knows."""
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        return len(ids) == len(head) + 1 and ids[:-1] == head and ids[-1] != unknown

    def require(
        self, task: str, kind: str, words: Iterable[str], at_least: int, after: str = "a"
    ) -> list[str]:
        """The words that fit; raises TaskFitError where they are fewer than the task needs."""
        words = list(words)
        fit = self.fitting(words, after)
        if len(fit) < at_least:
            misfit = next((w for w in words if w not in fit), "")
            raise TaskFitError(
                f"{task} needs {at_least} {kind} that are one token each, but of {len(words)} "
                f"only {len(fit)} are with this tokenizer ({misfit!r} is not); "
                "use another task or another model"
            )
        return fit


def compose(template: str, words: Mapping[str, str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """The template with its ``{fields}`` filled, and each field's character range.

    ``{S1:S}`` is a field named S1 that is filled by the word S. A range starts at the space before
    the word, as tokens do.
    """
    text, spans = "", {}
    for literal, name, source, _ in string.Formatter().parse(template):
        text += literal
        if name is None:
            continue
        start = len(text) - text.endswith(" ")
        text += words[source or name]
        spans[name] = (start, len(text))
    return text, spans


@dataclass(frozen=True)
class Example:
    """One prompt in tokens; ``spans`` are token ranges, and ``end`` is among them.

    Raises DataError where the clean and the corrupted texts (``corrupt`` and the ``others``) are
    not equally long, or a span is outside of them.
    """

    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    correct: tuple[int, ...]
    wrong: tuple[int, ...]
    spans: Mapping[str, tuple[int, int]]
    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        length = len(self.clean)
        for corrupt in (self.corrupt, *self.others.values()):
            if not length or len(corrupt) != length:
                raise DataError(
                    f"an example has {length} clean and {len(corrupt)} corrupted tokens; "
                    "give as many of both, and at least one"
                )
        for name, (start, stop) in self.spans.items():
            if not 0 <= start < stop <= length:
                raise DataError(
                    f"the span {name!r} goes from token {start} to {stop} of {length}; "
                    "let it hold at least one token of the text"
                )


@dataclass(frozen=True)
class Batch:
    """Examples as tensors, padded to one length; answers are padded with -1.

    ``spans`` are token ranges [start, stop); a row without that span has (-1, -1). ``others`` holds
    the further corrupted texts that every example has.
    """

    clean: Int[Tensor, "batch pos"]
    corrupt: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    last: Int[Tensor, " batch"]
    correct: Int[Tensor, "batch correct"]
    wrong: Int[Tensor, "batch wrong"]
    spans: Mapping[str, Int[Tensor, "batch 2"]]
    others: Mapping[str, Int[Tensor, "batch pos"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.last)

    def within(self, *names: str) -> Bool[Tensor, "batch pos"]:
        """Which tokens the spans of these names hold; raises DataError where an example lacks
        one."""
        at = torch.arange(self.mask.shape[1], device=self.mask.device)
        held = torch.zeros_like(self.mask)
        for name in names:
            if name not in self.spans or bool((self.spans[name] < 0).any()):
                known = ", ".join(self.spans) or "none"
                raise DataError(f"an example has no span {name!r}; the spans are {known}")
            start, stop = self.spans[name][:, :1], self.spans[name][:, 1:]
            held = held | (at >= start) & (at < stop)
        return held

    def replaced(
        self, text: str | None = None, spans: Sequence[str] = ()
    ) -> Int[Tensor, "batch pos"]:
        """The corrupted tokens: those of ``corrupt``, or of the other text of that name.

        Where spans are named, only their tokens are the corrupted ones, and all others the clean
        ones. Raises DataError for a text or a span that an example lacks.
        """
        tokens = self._corrupted(text)
        return torch.where(self.within(*spans), tokens, self.clean) if spans else tokens

    def differing(
        self, text: str | None = None, spans: Sequence[str] = ()
    ) -> Bool[Tensor, "batch pos"]:
        """Which tokens a corruption is to change: those of the spans, or without any those at which
        the clean text and the corrupted one (of that name) differ. Raises as ``replaced`` does."""
        tokens = self._corrupted(text)
        return self.within(*spans) if spans else (tokens != self.clean) & self.mask

    def _corrupted(self, text: str | None) -> Int[Tensor, "batch pos"]:
        if text is None:
            return self.corrupt
        if text not in self.others:
            known = ", ".join(map(repr, self.others)) or "none"
            raise DataError(
                f"not every example has the corrupted text {text!r}; the others that all have are "
                f"{known}, and without a name it is the prompt's own"
            )
        return self.others[text]

    def repeat(self, times: int) -> Batch:
        """The batch stacked on itself that many times."""

        def again(x: Any) -> Any:
            if isinstance(x, Tensor):
                return x.repeat(times, *[1] * (x.ndim - 1))
            return {name: again(own) for name, own in x.items()}

        return Batch(**{name: again(own) for name, own in vars(self).items()})


@dataclass(frozen=True)
class Dataset:
    """Examples that are iterated in batches; ``len`` is the number of examples.

    ``memory`` are the bytes that the process may take in all while it works through them (on a GPU:
    its tensors); None: what the machine has.
    """

    examples: tuple[Example, ...]
    batch_size: int = 32
    device: str = "cpu"
    padding: str = "right"
    memory: int | None = None

    def __post_init__(self) -> None:
        if not self.examples:
            raise DataError("there are no examples; give at least one clean/corrupt pair")
        if self.batch_size < 1:
            raise DataError(f"the batch size is {self.batch_size}; give at least 1")
        if self.padding not in ("left", "right"):
            raise DataError(f"the padding is {self.padding!r}; give 'left' or 'right'")

    @classmethod
    def of(
        cls,
        task: Task | Sequence[Prompt],
        model: Any,
        *,
        batch_size: int = 32,
        padding: str = "right",
        memory: int | None = None,
    ) -> Dataset:
        """The task's prompts in the model's tokens; raises DataError where they are no pairs."""
        prompts = task.prompts if isinstance(task, Task) else task
        if model.tokenizer is None:
            raise DataError("the model has no tokenizer; give Dataset the token ids as Examples")
        examples = tuple(tokenise(prompts, Words(model.tokenizer)))
        return cls(examples, batch_size, str(model.device), padding, memory)

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self), self.batch_size):
            yield self._collate(self.examples[start : start + self.batch_size])

    def where(self, keep: Callable[[Example], bool]) -> Dataset:
        """The examples that satisfy the condition."""
        return replace(self, examples=tuple(filter(keep, self.examples)))

    def both_ways(self) -> Dataset:
        """Every example, and after it its swap: clean and corrupt, correct and wrong change places.

        For pairs whose corrupted text has the wrong answer for its own, as those of ``facts``
        (Zhang & Nanda 2024, appendix B) and of ``ioi`` by default; whether they are such pairs is
        not seen here. Spans stay where they are (S1 of a swap of ``ioi`` is its indirect object).
        The ``others`` are left out, since they corrupt the one clean text only. Raises DataError
        where an example has no wrong answer, or not as many as correct ones.
        """
        return replace(self, examples=tuple(one for e in self.examples for one in _ways(e)))

    def _collate(self, examples: Sequence[Example]) -> Batch:
        length = max(len(e.clean) for e in examples)
        offsets = [length - len(e.clean) if self.padding == "left" else 0 for e in examples]

        def rows(values: Iterable[tuple[int, ...]], fill: int, shift: bool) -> Tensor:
            values = list(values)
            width = length if shift else max(map(len, values))
            table = torch.full((len(values), width), fill, dtype=torch.long)
            for row, (value, offset) in enumerate(zip(values, offsets, strict=True)):
                start = offset if shift else 0
                table[row, start : start + len(value)] = torch.tensor(value, dtype=torch.long)
            return table.to(self.device)

        names = sorted({name for e in examples for name in e.spans})
        texts = [name for name in examples[0].others if all(name in e.others for e in examples)]
        return Batch(
            clean=rows((e.clean for e in examples), 0, True),
            corrupt=rows((e.corrupt for e in examples), 0, True),
            mask=rows(((1,) * len(e.clean) for e in examples), 0, True).bool(),
            last=torch.tensor(
                [o + len(e.clean) - 1 for e, o in zip(examples, offsets, strict=True)]
            ).to(self.device),
            correct=rows((e.correct for e in examples), -1, False),
            wrong=rows((e.wrong for e in examples), -1, False),
            spans={
                name: torch.tensor(
                    [
                        [edge + o for edge in e.spans[name]] if name in e.spans else [-1, -1]
                        for e, o in zip(examples, offsets, strict=True)
                    ]
                ).to(self.device)
                for name in names
            },
            others={name: rows((e.others[name] for e in examples), 0, True) for name in texts},
        )


def _ways(example: Example) -> tuple[Example, Example]:
    """The example and its swap, both without other texts."""
    right, wrong = len(example.correct), len(example.wrong)
    if not wrong or right != wrong:
        raise DataError(
            f"an example has {right} correct and {wrong} wrong answers, so that its corrupted text "
            "asks for no answer of its own; give as many of both, or leave the swap out"
        )
    swap = Example(example.corrupt, example.clean, example.wrong, example.correct, example.spans)
    return replace(example, others={}), swap


def tokenise(prompts: Sequence[Prompt], words: Words) -> Iterator[Example]:
    """Each prompt in tokens; raises DataError, with the prompt, where the clean and a corrupted
    text differ in length, a span cuts a token, or an answer is not exactly one token."""
    clean = words.ids([p.clean for p in prompts])
    corrupt = _corrupted(prompts, clean, words)
    answers = [_answers(prompts, [getattr(p, kind) for p in prompts], clean, words)
               for kind in ("correct", "wrong")]  # fmt: skip
    spans = _spans(prompts, clean, words)
    for i, prompt in enumerate(prompts):
        if not prompt.correct:
            raise DataError(f"{prompt.clean!r} has no correct answer; give at least one")
        if not set(answers[0][i]).isdisjoint(answers[1][i]):
            raise DataError(f"{prompt.clean!r} has an answer that is both correct and wrong")
        yield Example(
            clean=tuple(clean[i]),
            corrupt=corrupt[i][0],
            correct=answers[0][i],
            wrong=answers[1][i],
            spans={**spans[i], "end": (len(clean[i]) - 1, len(clean[i]))},
            others=dict(zip(prompt.others, corrupt[i][1:], strict=True)),
        )


def _corrupted(
    prompts: Sequence[Prompt], clean: Sequence[list[int]], words: Words
) -> list[list[tuple[int, ...]]]:
    """The tokens of each prompt's corrupted text, and after it of the others."""
    texts = [[p.corrupt, *p.others.values()] for p in prompts]
    ids = iter(words.ids([text for own in texts for text in own]))
    found = []
    for prompt, own, one in zip(prompts, texts, clean, strict=True):
        if not one:
            raise DataError(f"the clean text {prompt.clean!r} has no tokens; write a text")
        found.append([tuple(next(ids)) for _ in own])
        for text, two in zip(own, found[-1], strict=True):
            if len(one) != len(two):
                raise DataError(
                    f"the clean text {prompt.clean!r} has {len(one)} tokens and its corrupted one "
                    f"{text!r} has {len(two)}; make them equally long"
                )
    return found


def _answers(
    prompts: Sequence[Prompt],
    answers: Sequence[tuple[str, ...]],
    clean: Sequence[list[int]],
    words: Words,
) -> list[tuple[int, ...]]:
    """The one token by which each answer continues its prompt."""
    texts = [p.clean + a for p, own in zip(prompts, answers, strict=True) for a in own]
    continued = iter(words.ids(texts))
    found = []
    for prompt, own, ids in zip(prompts, answers, clean, strict=True):
        tokens = []
        for answer in own:
            both = next(continued)
            if not words.continues(ids, both):
                raise DataError(
                    f"the answer {answer!r} is not one token after {prompt.clean!r}; "
                    "choose an answer that is a single token with its leading space"
                )
            tokens.append(both[-1])
        if len(set(tokens)) < len(tokens):
            raise DataError(f"{prompt.clean!r} has the same answer twice: {own}")
        found.append(tuple(tokens))
    return found


def _spans(
    prompts: Sequence[Prompt], clean: Sequence[list[int]], words: Words
) -> list[dict[str, tuple[int, int]]]:
    """The token range of each named character range."""
    cuts = [sorted({cut for span in p.spans.values() for cut in span} | {0}) for p in prompts]
    texts = [p.clean[:cut] for p, own in zip(prompts, cuts, strict=True) for cut in own if cut]
    heads = iter(words.ids(texts))
    opening = len(words.ids([""])[0])
    found = []
    for prompt, own, ids in zip(prompts, cuts, clean, strict=True):
        at = {0: opening}
        for cut in own:
            if not cut:
                continue
            head = next(heads)
            if ids[: len(head)] != head:
                raise DataError(
                    f"{prompt.clean[:cut]!r} ends inside a token of {prompt.clean!r}; "
                    "let spans start at the space before a word and end with the word"
                )
            at[cut] = len(head)
        for name, (a, b) in prompt.spans.items():
            if not 0 <= a < b <= len(prompt.clean) or at[a] == at[b]:
                raise DataError(
                    f"the span {name!r} of {a} to {b} holds no token of {prompt.clean!r}; "
                    "give the characters from the space before a word to its end"
                )
        found.append({name: (at[a], at[b]) for name, (a, b) in prompt.spans.items()})
    return found
