"""Prompts in the tokens of a model: how a tokenizer splits words, and where spans fall.

Nothing is truncated or reordered, and special tokens are those that the model's own tokenizer adds:
no BOS token is prepended silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from circuitkit.data.examples import Example
from circuitkit.data.prompts import Prompt
from circuitkit.errors import DataError, TaskFitError

__all__ = ["Tokenizer", "TokenizerView", "Tokenizing", "tokenise", "view"]


@runtime_checkable
class Tokenizer(Protocol):
    """What we need of a Hugging Face tokenizer."""

    @property
    def bos_token_id(self) -> int | None:
        """The token that starts a text, if there is one."""

    def __call__(
        self, text: list[str], *, add_special_tokens: bool
    ) -> Mapping[str, Sequence[list[int]]]:
        """The token ids of each text, as ``input_ids``."""

    def decode(self, token_ids: list[int], /) -> str:
        """The text of these token ids."""


@runtime_checkable
class Tokenizing(Protocol):
    """What has a tokenizer: a model, or a view of one."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, if there is one."""


@dataclass(frozen=True)
class TokenizerView:
    """How a tokenizer splits words; a task asks it which of its words are single tokens."""

    tokenizer: Tokenizer

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, with the BOS token if the tokenizer adds one."""
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
        """The words (given with their leading space, if any) that are one token after the text
        ``after``."""
        words = list(words)
        head = self.ids([after])[0]
        return [
            word
            for word, ids in zip(words, self.ids([after + word for word in words]), strict=True)
            if self.continues(head, ids)
        ]

    def continues(self, head: list[int], ids: list[int]) -> bool:
        """Whether the tokens continue the head by exactly one that the tokenizer knows."""
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        return len(ids) == len(head) + 1 and ids[:-1] == head and ids[-1] != unknown

    def require(
        self, task: str, kind: str, words: Iterable[str], at_least: int, after: str = "a"
    ) -> list[str]:
        """The words that fit; raises TaskFitError if they are fewer than the task needs."""
        words = list(words)
        fit = self.fitting(words, after)
        if len(fit) < at_least:
            misfit = next((w for w in words if w not in fit), "")
            raise TaskFitError(
                f"{task} needs {at_least} {kind} that are one token each, but with this tokenizer "
                f"only {len(fit)} of {len(words)} are ({misfit!r} is not); "
                "use another task or another model"
            )
        return fit


def view(words: Tokenizing) -> TokenizerView:
    """The tokenizer of a model, as a task asks it; raises DataError if the model has none."""
    if isinstance(words, TokenizerView):
        return words
    if words.tokenizer is None:
        raise DataError(
            "the model has no tokenizer, which prompts need; load it with one, "
            "ck.load(model, tokenizer=...), or give Dataset the token ids as Examples"
        )
    return TokenizerView(words.tokenizer)


def tokenise(prompts: Sequence[Prompt], words: TokenizerView) -> Iterator[Example]:
    """Each prompt in tokens; raises DataError, with the prompt, if the clean and a corrupted text
    differ in length, a span cuts a token, or an answer is not exactly one token."""
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
            corruptions=dict(zip(prompt.corruptions, corrupt[i][1:], strict=True)),
        )


def _corrupted(
    prompts: Sequence[Prompt], clean: Sequence[list[int]], words: TokenizerView
) -> list[list[tuple[int, ...]]]:
    """The tokens of each prompt's corrupted text, followed by those of its further ones."""
    texts = [[p.corrupt, *p.corruptions.values()] for p in prompts]
    ids = iter(words.ids([text for own in texts for text in own]))
    found = []
    for prompt, own, one in zip(prompts, texts, clean, strict=True):
        if not one:
            raise DataError(f"the clean text {prompt.clean!r} has no tokens; give a text")
        found.append([tuple(next(ids)) for _ in own])
        for text, two in zip(own, found[-1], strict=True):
            if len(one) != len(two):
                raise DataError(
                    f"the clean text {prompt.clean!r} has {len(one)} tokens and the corrupted text "
                    f"{text!r} has {len(two)}; make them equally long"
                )
    return found


def _answers(
    prompts: Sequence[Prompt],
    answers: Sequence[tuple[str, ...]],
    clean: Sequence[list[int]],
    words: TokenizerView,
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
    prompts: Sequence[Prompt], clean: Sequence[list[int]], words: TokenizerView
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
                    "start spans at the space before a word and end them with the word"
                )
            at[cut] = len(head)
        for name, (a, b) in prompt.spans.items():
            if not 0 <= a < b <= len(prompt.clean) or at[a] == at[b]:
                raise DataError(
                    f"the span {name!r} from {a} to {b} contains no token of {prompt.clean!r}; "
                    "give the characters from the space before a word to its end"
                )
        found.append({name: (at[a], at[b]) for name, (a, b) in prompt.spans.items()})
    return found
