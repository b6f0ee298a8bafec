"""Prompts in the tokens of a model: how a tokenizer splits words, and where spans fall.

Nothing is truncated or reordered. The special tokens in front of a text are those that the model's
own tokenizer puts there, unless the text begins with them or the user chose otherwise (``bos``);
what it appends (EOS) is left out, because the answer follows. In a chat (``chat``) the special
tokens are those that the template writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from circuitkit.data._showing import cited
from circuitkit.data.examples import Example
from circuitkit.data.framing import Framed, Tokenizer
from circuitkit.data.prompts import Prompt
from circuitkit.errors import DataError, TaskFitError

__all__ = ["Tokenizer", "TokenizerView", "Tokenizing", "fitted", "tokenise", "view"]

Ids: TypeAlias = Mapping[str, list[int]]  # the tokens of each text


@runtime_checkable
class Tokenizing(Protocol):
    """What has a tokenizer: a model, or a view of one."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, if there is one."""


@dataclass(frozen=True)
class TokenizerView:
    """How a tokenizer splits words; a task asks it which of its words are single tokens.

    ``context`` is how many tokens the model has positions for, and ``vocabulary`` how many it
    knows; None where that is not known, or has no end.
    """

    tokenizer: Tokenizer
    context: int | None = None
    vocabulary: int | None = None

    @property
    def chat(self) -> Framed | None:
        """The chat template that prompts are put into, if any."""
        own = self.tokenizer
        return own if isinstance(own, Framed) and own.chat else None

    def given(self, prompt: Prompt) -> Prompt:
        """The prompt as the model gets it: in a chat in the template, else as it is."""
        return prompt if self.chat is None else self.chat.prompt(prompt)

    def whole(self, text: str) -> str:
        """A text as the model gets it."""
        return text if self.chat is None else self.chat.around(text)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text behind the special tokens that the tokenizer puts in front,
        whichever and however many; those with which the text begins itself are not doubled. In a
        chat the texts are those that the model gets, and nothing is put in front."""
        opening = self._chosen() if texts else []
        plain = self._plain(texts)
        if self.chat is not None and self.chat.bos is False:  # which the template writes
            plain = [ids[1:] if ids[:1] == [self.tokenizer.bos_token_id] else ids for ids in plain]
        return [opening[: len(opening) - _shared(opening, ids)] + ids for ids in plain]

    def _chosen(self) -> list[int]:
        """The special tokens before a text: those that the tokenizer adds, with or without BOS."""
        opening, bos = self._opening() if self.chat is None else [], self.tokenizer.bos_token_id
        chosen = self.tokenizer.bos if isinstance(self.tokenizer, Framed) else None
        if bos is None or chosen is None or chosen == (bos in opening):
            return opening
        return [bos, *opening] if chosen else [one for one in opening if one != bos]

    def _plain(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of the texts themselves."""
        if not texts:
            return []
        return [
            list(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        ]

    def _opening(self) -> list[int]:
        """What the tokenizer puts in front of a text."""
        (plain,), whole = self._plain(["a"]), self.tokenizer(["a"], add_special_tokens=True)
        ids = list(whole["input_ids"][0])
        for at in range(len(ids) - len(plain) + 1 if plain else 0):
            if ids[at : at + len(plain)] == plain:
                return ids[:at]
        bos = self.tokenizer.bos_token_id  # of a tokenizer that splits the text otherwise behind it
        return ids[:1] if bos is not None and ids[:1] == [bos] else []

    def fitting(self, words: Iterable[str], after: str = "a") -> list[str]:
        """The words (given with their leading space, if any) that are one token after the text
        ``after``; in a chat also as the assistant's answer to it."""
        words = list(words)
        if self.chat is None:
            return [
                word for word, fits in zip(words, self._fits(after, words), strict=True) if fits
            ]
        inside = self._fits(self.chat.ends[0] + after, words)
        answers = self._fits(self.chat.around(after), [*map(self.chat.answer, words)])
        each = zip(words, inside, answers, strict=True)
        return [word for word, one, other in each if one and other]

    def _fits(self, text: str, words: Sequence[str]) -> list[bool]:
        """Whether each word is one token after the text."""
        head, *whole = self.ids([text, *(text + word for word in words)])
        return [self.continues(head, ids) for ids in whole]

    @property
    def size(self) -> int | None:
        """How many tokens the tokenizer has, if it says so."""
        own = self.tokenizer.tokenizer if isinstance(self.tokenizer, Framed) else self.tokenizer
        return len(own) if isinstance(own, Sized) else None

    def continuation(self, head: list[int], ids: list[int]) -> str:
        """The text by which these tokens continue those of the head."""
        before, whole = self.tokenizer.decode(head), self.tokenizer.decode([*head, *ids])
        if whole.startswith(before):
            return whole[len(before) :]
        return self.tokenizer.decode(ids)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token; together they are that of all."""
        return [self.continuation(list(ids[:i]), [ids[i]]) for i in range(len(ids))]

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
            asked = "" if self.chat is None else " in the text and as the assistant's answer"
            misfit = next((w for w in words if w not in fit), "")
            raise TaskFitError(
                f"{task} needs {at_least} {kind} that are one token each{asked}, but with this "
                f"tokenizer only {len(fit)} of {len(words)} are ({misfit!r} is not); use another "
                "task or another model"
            )
        return fit


def _shared(opening: list[int], ids: list[int]) -> int:
    """How many tokens at the opening's end are those with which the text begins itself."""
    return next((n for n in range(len(opening), 0, -1) if ids[:n] == opening[-n:]), 0)


def view(words: Tokenizing) -> TokenizerView:
    """The tokenizer of a model, as a task asks it; raises DataError if the model has none."""
    if isinstance(words, TokenizerView):
        return words
    if words.tokenizer is None:
        raise DataError(
            "the model has no tokenizer, which prompts need; load it with one, "
            "ck.load(model, tokenizer=...), or give Dataset the token ids as Examples"
        )
    context, vocabulary = getattr(words, "context", None), getattr(words, "d_vocab", None)
    return TokenizerView(words.tokenizer, context, vocabulary)


def tokenise(
    prompts: Sequence[Prompt], words: TokenizerView, whole: bool = False, aligned: bool = False
) -> Iterator[Example]:
    """Each prompt in tokens; raises DataError, with the prompt, if the clean and a corrupted text
    differ in length (unless they are ``aligned``), a span cuts a token, or an answer is not exactly
    one token (of ``whole`` answers: at least one)."""
    for found in fitted(prompts, words, whole, aligned):
        if isinstance(found, DataError):
            raise found
        yield found


def fitted(
    prompts: Sequence[Prompt], words: TokenizerView, whole: bool = False, aligned: bool = False
) -> Iterator[Example | DataError]:
    """Each prompt in tokens, or the error that says why it does not fit."""
    found: list[Prompt | DataError] = [_given(prompt, words) for prompt in prompts]
    given = [prompt for prompt in found if isinstance(prompt, Prompt)]
    texts = list(dict.fromkeys(text for prompt in given for text in _texts(prompt)))
    ids = dict(zip(texts, words.ids(texts), strict=True))
    for prompt in found:
        if isinstance(prompt, DataError):
            yield prompt
            continue
        try:
            example = _example(prompt, ids, words, whole, aligned)
            _require_room(example, words)
            yield example
        except DataError as error:
            yield error


def _given(prompt: Prompt, words: TokenizerView) -> Prompt | DataError:
    """The prompt as the model gets it, or why it cannot."""
    try:
        return words.given(prompt)
    except DataError as error:
        return error


def _texts(prompt: Prompt) -> Iterator[str]:
    """All texts of which the tokens are needed: whole ones, continued ones and heads."""
    yield from ("", prompt.clean, *prompt.corruptions.values())
    if prompt.corrupt is not None:
        yield prompt.corrupt
    yield from (prompt.clean + answer for answer in (*prompt.correct, *prompt.wrong))
    yield from (prompt.clean[:cut] for span in prompt.spans.values() for cut in span)
    own = prompt.corrupt or ""
    yield from (own[:cut] for span in prompt.corrupt_spans.values() for cut in span)


def _example(prompt: Prompt, ids: Ids, words: TokenizerView, whole: bool, aligned: bool) -> Example:
    clean = tuple(ids[prompt.clean])
    if not clean:
        raise DataError(f"the clean text {cited(prompt.clean)} has no tokens; give a text")
    paired = prompt.corrupt is not None
    corrupt, corrupt_spans = clean, None
    if prompt.corrupt is not None and aligned:
        corrupt, corrupt_spans = tuple(ids[prompt.corrupt]), _corrupt_spans(prompt, ids)
    elif prompt.corrupt is not None:
        corrupt = _as_long(prompt, prompt.corrupt, ids)
    others = {name: _as_long(prompt, text, ids) for name, text in prompt.corruptions.items()}
    both = prompt.correct, prompt.wrong
    sequences = _sequences(prompt, ids, words) if whole else None
    if sequences is None:
        correct, wrong = (_answers(prompt, own, ids, words) for own in both)
    else:
        correct, wrong = (tuple(dict.fromkeys(a[0] for a in own)) for own in sequences)
    spans = _spans(prompt.spans, prompt.clean, ids)
    if not correct:
        raise DataError(f"{cited(prompt.clean)} has no correct answer; give at least one")
    if sequences is None and not set(correct).isdisjoint(wrong):
        raise DataError(
            f"{cited(prompt.clean)} has an answer that is both correct and wrong; give it once"
        )
    end = (len(clean) - 1, len(clean))
    spans = {**spans, "end": end}
    return Example(clean, corrupt, correct, wrong, spans, others, paired, sequences, corrupt_spans)


def _require_room(example: Example, words: TokenizerView) -> None:
    """Raise DataError for more tokens than the model has positions for, or ids of none of its."""
    context, size = words.context, words.vocabulary
    answers = [answer for own in example.sequences or () for answer in own]
    longest = max((len(answer) - 1 for answer in answers), default=0)
    for name, text in (("clean", example.clean), ("corrupted", example.corrupt)):
        if context is not None and (length := len(text) + longest) > context:
            start = words.tokenizer.decode(list(text[:8]))
            raise DataError(
                f"the {name} text, which begins {start!r}, has {length:,} tokens, and the model "
                f"has positions for {context:,}; shorten it"
            )
    texts = {
        "clean text": example.clean, "corrupted text": example.corrupt,
        "correct answer": example.correct, "wrong answer": example.wrong, **example.corruptions,
        "answer": tuple(token for answer in answers for token in answer),
    }  # fmt: skip
    for name, ids in texts.items():
        if size is not None and ids and max(ids) >= size:
            raise DataError(
                f"the {name} has the token id {max(ids):,}, and the model's vocabulary has "
                f"{size:,} tokens; use the tokenizer of this model"
            )


def _as_long(prompt: Prompt, text: str, ids: Ids) -> tuple[int, ...]:
    """The tokens of a corrupted text, which are as many as those of the clean one."""
    one, two = len(ids[prompt.clean]), len(ids[text])
    if one != two:
        raise DataError(
            f"the clean text {cited(prompt.clean)} has {one} tokens and the corrupted text "
            f"{cited(text)} has {two}; make them equally long, or align them by spans (align=, "
            "--align)"
        )
    return tuple(ids[text])


def _corrupt_spans(prompt: Prompt, ids: Ids) -> dict[str, tuple[int, int]]:
    """The token ranges of the spans of a corrupted text that is aligned; those of the clean one
    where it names none and has equally many tokens."""
    text = prompt.corrupt or ""
    one, two = len(ids[prompt.clean]), len(ids[text])
    if not two:
        raise DataError(f"the corrupted text {cited(text)} has no tokens; give a text")
    if prompt.corrupt_spans:
        found = _spans(prompt.corrupt_spans, text, ids)
    elif one == two:
        found = _spans(prompt.spans, prompt.clean, ids)
    else:
        raise DataError(
            f"the corrupted text {cited(text)} has {two} tokens, the clean one {one}, and no spans "
            "by which to align them; name those of the corrupted text (corrupt_span_NAME)"
        )
    return {**found, "end": (two - 1, two)}


def _answers(
    prompt: Prompt, answers: Sequence[str], ids: Ids, words: TokenizerView
) -> tuple[int, ...]:
    """The one token by which each answer continues the prompt."""
    tokens = []
    for answer in answers:
        both = ids[prompt.clean + answer]
        if not words.continues(ids[prompt.clean], both):
            raise DataError(
                f"the answer {cited(answer)} is not one token after {cited(prompt.clean)}; "
                "choose an answer that is a single token"
                + " with its leading space"
                * (words.chat is None)
            )
        tokens.append(both[-1])
    if len(set(tokens)) < len(tokens):
        some = ", ".join(map(cited, answers[:3]))
        raise DataError(f"{cited(prompt.clean)} has the same answer twice ({some}); give it once")
    return tuple(tokens)


def _sequences(
    prompt: Prompt, ids: Ids, words: TokenizerView
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """The tokens by which each correct and each wrong answer continues the prompt."""
    head = ids[prompt.clean]
    whole = {one: ids[prompt.clean + one] for one in (*prompt.correct, *prompt.wrong)}
    for one, both in whole.items():
        both = both if both[: len(head)] == head else []
        steps = range(len(head), len(both))
        if not steps or not all(words.continues(both[:i], both[: i + 1]) for i in steps):
            raise DataError(
                f"the answer {one!r} does not continue {cited(prompt.clean)} by tokens that the "
                "tokenizer knows; begin it with the space before it"
            )
    rest = {one: tuple(both[len(head) :]) for one, both in whole.items()}
    texts = [*prompt.correct, *prompt.wrong]
    for i, text in enumerate(texts):
        begun = rest[text]
        if any(rest[own][: len(begun)] == begun for j, own in enumerate(texts) if i != j):
            raise DataError(
                f"{cited(prompt.clean)} has the answer {cited(text)}, with which another one "
                "begins; their probabilities overlap: leave one of them out"
            )
    right, wrong = (tuple(rest[one] for one in own) for own in (prompt.correct, prompt.wrong))
    return right, wrong


def _spans(spans: Mapping[str, tuple[int, int]], text: str, ids: Ids) -> dict[str, tuple[int, int]]:
    """The token range of each named range of characters of a text."""
    at = {0: len(ids[""])}
    for cut in sorted({cut for span in spans.values() for cut in span} - {0}):
        head = ids[text[:cut]]
        if ids[text][: len(head)] != head:
            raise DataError(
                f"{cited(text[:cut])} ends inside a token of {cited(text)}; "
                "start spans at the space before a word and end them with the word"
            )
        at[cut] = len(head)
    for name, (a, b) in spans.items():
        if not 0 <= a < b <= len(text) or at[a] == at[b]:
            raise DataError(
                f"the span {cited(name)} from {a} to {b} contains no token of "
                f"{cited(text)}; give the characters from the space before a word to the "
                "word's end"
            )
    return {name: (at[a], at[b]) for name, (a, b) in spans.items()}
