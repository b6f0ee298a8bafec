"""Examples as padded tensors, and datasets that are iterated in such batches."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, overload, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuitkit.data._showing import IN_HTML, Shown, as_html, as_lines, row
from circuitkit.data.alignment import Aligned, aligning, as_align, pair
from circuitkit.data.examples import Example, alone, as_clean, swapped
from circuitkit.data.framing import framed, framing
from circuitkit.data.prompts import Prompt, Task
from circuitkit.data.sequences import Sequences, rows_of, sequences
from circuitkit.data.spans import Ranges, span_names
from circuitkit.data.tokens import Tokenizer, tokenise, view
from circuitkit.errors import DataError
from circuitkit.util.json_values import Json
from circuitkit.util.tables import to_frame

if TYPE_CHECKING:
    import pandas

__all__ = ["Batch", "Dataset", "span_names"]


@dataclass(frozen=True)
class Batch:
    """Examples as tensors, padded to one length.

    An example is a row, ``len(batch)`` of them; one with answers of several tokens has a row for
    each beginning of its answers (``circuitkit.data.sequences``).

    Attributes:
        clean: Token ids of the clean texts, [batch, pos]; padding is 0.
        corrupt: Token ids of the corrupted texts, [batch, pos]; of aligned ones the token with
            which each clean one is paired, or the clean one itself where it has no partner.
        mask: True at tokens, False at padding, [batch, pos].
        last: The position of each text's last token, at which the model answers, [batch].
        correct: Token ids of the correct answers, [batch, answers]; fewer are padded with -1.
        wrong: Token ids of the wrong answers, likewise.
        spans: Ranges of positions [start, stop) by name, [batch, 2]; (-1, -1) for an example that
            does not have the span.
        corruptions: Token ids of the further corrupted texts that every example has, by name.
        paired: Whether each example has a corrupted text, [batch]; None if all have. Without one
            ``corrupt`` is ``clean``.
        named: What messages call an example, by its row; None: by its place in the batch.
        sequences: How the rows make up answers, where these have several tokens; else None.
        aligned: The corrupted texts, where they are aligned with the clean ones by spans and do not
            have their tokens at the same positions; else None.
    """

    clean: Int[Tensor, "batch pos"]
    corrupt: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    last: Int[Tensor, " batch"]
    correct: Int[Tensor, "batch correct"]
    wrong: Int[Tensor, "batch wrong"]
    spans: Mapping[str, Int[Tensor, "batch 2"]]
    corruptions: Mapping[str, Int[Tensor, "batch pos"]] = field(default_factory=dict)
    paired: Bool[Tensor, " batch"] | None = None
    named: Callable[[int], str] | None = field(default=None, compare=False, repr=False)
    sequences: Sequences | None = None
    aligned: Aligned | None = None

    def __len__(self) -> int:
        return len(self.last)

    def name(self, row: int) -> str:
        """What messages call an example: ``prompt 3 of 16 ('When ...')``."""
        return f"prompt {row + 1} of a batch" if self.named is None else self.named(row)

    @property
    def examples(self) -> int:
        """How many examples there are: as many as rows, unless answers have several tokens."""
        return len(self) if self.sequences is None else len(self.sequences.correct)

    @property
    def owner(self) -> Int[Tensor, " batch"]:
        """The example of each row, counted from 0."""
        if self.sequences is None:
            return torch.arange(len(self), device=self.last.device)
        return self.sequences.owner

    @property
    def prompts(self) -> Bool[Tensor, "batch pos"]:
        """Which tokens are those of the prompts, and not of answers."""
        if self.sequences is None:
            return self.mask
        return self.mask & (self.mask.long().cumsum(-1) <= self.sequences.prompt[:, None])

    @property
    def ranges(self) -> Ranges:
        """The named spans, and what else says which span a token belongs to."""
        return Ranges(self.mask, self.prompts, self.spans, self.name)

    def any_row(self, found: Bool[Tensor, " batch"]) -> Bool[Tensor, " examples"]:
        """Whether something is true of any row of each example."""
        if self.sequences is None:
            return found
        return found.new_zeros(self.examples).index_put((self.owner[found],), found.new_ones(()))

    def within(self, *names: str) -> Bool[Tensor, "batch pos"]:
        """Which tokens the spans of these names hold, or ``all``; raises DataError where an example
        lacks one."""
        at = torch.arange(self.mask.shape[1], device=self.mask.device)
        held = torch.zeros_like(self.mask)
        for name in names:
            if name == "all":
                held = held | self.mask
                continue
            if name not in self.spans or bool((self.spans[name] < 0).any()):
                known = ", ".join(self.spans) or "none"
                raise DataError(f"an example has no span {name!r}; the spans are {known}")
            start, stop = self.spans[name][:, :1], self.spans[name][:, 1:]
            held = held | (at >= start) & (at < stop)
        return held

    def replaced(
        self, text: str | None = None, at: str | Sequence[str] = ()
    ) -> Int[Tensor, "batch pos"]:
        """The corrupted tokens: those of ``corrupt``, or of the further text of that name.

        Where ``at`` names spans, only their tokens are the corrupted ones, and all others the clean
        ones. Raises DataError for a text or a span that an example lacks.
        """
        tokens = self._corrupted(text)
        return torch.where(self.within(*span_names(at)), tokens, self.clean) if at else tokens

    def differing(
        self, text: str | None = None, at: str | Sequence[str] = ()
    ) -> Bool[Tensor, "batch pos"]:
        """Which tokens a corruption is to change: those of the spans ``at``, or without any those
        at which the clean text and the corrupted one (of that name) differ (of aligned ones also
        those without a partner), and all tokens of an example without a corrupted text. Raises as
        ``replaced`` does."""
        tokens = self._corrupted(text)
        if at:
            return self.within(*span_names(at))
        found = (tokens != self.clean) & self.mask
        if text is None and self.aligned is not None:
            found = found | (self.mask & ~self.aligned.partner)
        if text is not None or self.paired is None:
            return found
        return found | (self.prompts & ~self.paired[:, None])

    def _corrupted(self, text: str | None) -> Int[Tensor, "batch pos"]:
        if text is None:
            return self.corrupt
        if text not in self.corruptions:
            known = ", ".join(map(repr, self.corruptions)) or "none"
            raise DataError(
                f"not every example has the corrupted text {text!r}; those that all have are "
                f"{known}; without a name it is the prompt's own"
            )
        return self.corruptions[text]

    def repeat(self, times: int) -> Batch:
        """The batch stacked on itself that many times."""

        def again(x: Any) -> Any:
            if x is None:
                return None
            if isinstance(x, (Sequences, Aligned)):
                return x.repeat(times)
            if isinstance(x, Tensor):
                return x.repeat(times, *[1] * (x.ndim - 1))
            return {name: again(own) for name, own in x.items()}

        tensors = {name: again(own) for name, own in vars(self).items() if name != "named"}
        return Batch(**tensors, named=lambda row: self.name(row % len(self)))


@runtime_checkable
class Tokenized(Protocol):
    """What has a tokenizer and a device, as a model does."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Its tokenizer, if it has one."""

    @property
    def device(self) -> torch.device:
        """The device of its weights."""


@dataclass(frozen=True)
class Dataset:
    """Examples in tokens, and how they are put into batches.

    Like a PyTorch dataset together with its loader: ``len(data)`` is the number of examples,
    ``data[0]`` the first ``Example``, ``data[:10]`` a dataset of the first ten; **iteration gives
    batches** (``Batch``), and ``data.examples`` are the examples to go through one by one.

    Attributes:
        examples: The examples, a tuple of ``Example``.
        batch_size: How many examples a batch has; the last one may have fewer.
        device: Where the tensors of a batch are.
        padding: The side on which shorter examples are padded, ``right`` or ``left``.
        memory: The bytes that the process may use in all while it works through the data (on a
            GPU: of its tensors); None for what the machine has.
        about: Where the examples come from: the ``task``, its ``metric``, ``source`` and ``seed``,
            as far as known; and ``bos`` and ``chat``, where they were chosen.
        tokenizer: What turns the tokens back into text for displays, if it is known.
        align: By what clean texts and corrupted ones of other lengths are aligned: ``spans`` for
            all that they name, or the names of some; None where they have equally many tokens.

    Raises DataError for no examples, a batch size below 1 and an unknown side.

    Example:
        >>> print(data)
        16 examples of ioi, 14 to 21 tokens, in batches of 32
        >>> len(data), len(data[:10])
        (16, 10)
        >>> [batch.clean.shape[0] for batch in data]
        [16]
    """

    examples: tuple[Example, ...]
    batch_size: int = 32
    device: str = "cpu"
    padding: str = "right"
    memory: int | None = None
    about: Mapping[str, Json] = field(default_factory=dict, compare=False)
    tokenizer: Tokenizer | None = field(default=None, compare=False)
    align: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.examples:
            raise DataError("there are no examples; give at least one clean/corrupt pair")
        if self.batch_size < 1:
            raise DataError(f"the batch size is {self.batch_size}; give at least 1")
        if self.padding not in ("left", "right"):
            raise DataError(f"the padding is {self.padding!r}; give 'left' or 'right'")
        if self.align is None and any(len(e.corrupt) != len(e.clean) for e in self.examples):
            raise DataError(
                "some corrupted texts do not have as many tokens as the clean ones; align them by "
                "spans (align='spans')"
            )

    @classmethod
    def of(
        cls,
        task: Task | Sequence[Prompt],
        model: Tokenized,
        *,
        batch_size: int = 32,
        padding: str = "right",
        memory: int | None = None,
        bos: bool | None = None,
        chat: bool | None = None,
        answers: str | None = None,
        align: str | Sequence[str] | None = None,
    ) -> Dataset:
        """The prompts of a task in the tokens of a model.

        Args:
            task: A ``Task``, or a sequence of ``Prompt``.
            model: The model whose tokenizer and device are used.
            batch_size: How many examples a batch has.
            padding: The side on which shorter examples are padded, ``right`` or ``left``; results
                do not depend on it.
            memory: The bytes that the process may use in all; None for what the machine has.
            bos: Whether prompts begin with a BOS token; None for what the model was loaded with, by
                default what its tokenizer does.
            chat: Whether the prompts are a user's messages in the tokenizer's chat template (see
                ``ck.load``); None for what the model was loaded with.
            answers: ``sequence`` for answers of several tokens that count as a whole; without it
                as the task says, else each answer is one token (``single``).
            align: How clean and corrupted texts that do not have equally many tokens are aligned:
                by all ``spans`` that they name, or by those of some names; see
                ``circuitkit.data.alignment``. Without it as the task says, else they are refused.

        Raises:
            DataError: if the model has no tokenizer, or none with a BOS token or a chat template
                where that is asked for, if the clean and the corrupted text of a
                prompt do not have equally many tokens (unless they are aligned), if an answer is
                not a single token (unless
                they are sequences), or if a span starts or ends inside a token.

        Example:
            >>> data = ck.Dataset.of(task, model, batch_size=8)
            >>> batch = next(iter(data))
            >>> batch.clean.shape == batch.mask.shape, len(batch)
            (True, 8)
        """
        prompts = task.prompts if isinstance(task, Task) else task
        words, name = view(model), str(getattr(model, "name", "the model"))
        own = framed(words.tokenizer, bos=bos, chat=chat, name=name)
        about = {**(task.about if isinstance(task, Task) else {}), **framing(own)}
        kind = answers or str(about.get("answers", "single"))
        if kind not in ("single", "first", "sequence"):
            raise DataError(f"answers is {kind!r}; give 'single' or 'sequence'")
        about = {**about, "answers": kind} if kind == "sequence" else about
        by = as_align(about.get("align") if align is None else align)
        about = {**about, "align": by if isinstance(by, str) else ",".join(by)} if by else about
        framed_words = replace(words, tokenizer=own)
        examples = tuple(tokenise(prompts, framed_words, kind == "sequence", by is not None))
        return cls(examples, batch_size, str(model.device), padding, memory, about, own, by)

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Batch]:
        spans = None if self.align is None else aligning(self.examples, self.align)
        for start in range(0, len(self), self.batch_size):
            some = self.examples[start : start + self.batch_size]
            yield self._collate(start, some) if spans is None else self._aligned(start, some, spans)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> Dataset: ...

    def __getitem__(self, index: int | slice) -> Example | Dataset:
        """The example of that number, or the dataset of a slice of the examples."""
        if isinstance(index, slice):
            return replace(self, examples=self.examples[index])
        return self.examples[index]

    def __str__(self) -> str:
        lengths = [len(example.clean) for example in self.examples]
        low, high, n = min(lengths), max(lengths), len(self)
        tokens = f"{low} to {high}" if low < high else str(low)
        task = f" of {self.about['task']}" if "task" in self.about else ""
        return (
            f"{n:,} example{'' if n == 1 else 's'}{task}, {tokens} tokens, "
            f"in batches of {self.batch_size}"
        )

    def __repr__(self) -> str:
        shown = [_shown(example, self.tokenizer) for example in self.examples[:10]]
        return "\n".join([str(self), *as_lines(shown, len(self))])

    def _repr_html_(self) -> str:
        return as_html(
            str(self), (_shown(e, self.tokenizer) for e in self.examples[:IN_HTML]), len(self)
        )

    def to_frame(self) -> pandas.DataFrame:
        """A row for each example, with the columns of ``Task.to_frame``, in the text to which the
        tokens decode (with special tokens); without a tokenizer the token ids, separated by spaces.

        Example:
            >>> data.to_frame()["clean"].tolist() == task.to_frame()["clean"].tolist()
            True
        """
        return to_frame([row(_shown(example, self.tokenizer)) for example in self.examples])

    def where(self, keep: Callable[[Example], bool]) -> Dataset:
        """The examples that satisfy the condition; raises DataError if there are none.

        Example:
            >>> short = data.where(lambda example: len(example.clean) < 16)
            >>> 0 < len(short) < len(data)
            True
        """
        return replace(self, examples=tuple(filter(keep, self.examples)))

    def halves(self) -> tuple[Dataset, Dataset]:
        """The first half of the examples, on which a circuit is found, and the second half.

        Examples with the same clean tokens stay together. With only one or two different prompts,
        both halves are the whole data: what is found on it is measured in sample.
        """
        groups: dict[tuple[int, ...], list[Example]] = {}
        for example in self.examples:
            groups.setdefault(example.clean, []).append(example)
        if len(groups) <= 2:
            return self, self
        first: list[Example] = []
        second: list[Example] = []
        for group in groups.values():
            fits = not first or (not second and len(first) + len(group) <= len(self) // 2)
            (first if fits else second).extend(group)
        return replace(self, examples=tuple(first)), replace(self, examples=tuple(second))

    def first_tokens(self) -> Dataset:
        """The same prompts with just the first token of each answer: one row for each example."""
        single = tuple(replace(e, sequences=None) for e in self.examples)
        return replace(self, examples=single)

    @property
    def rows(self) -> int:
        """How many rows all batches have: a row for each example, or for each prefix of its answers
        if they have several tokens."""
        return sum(len(rows_of(example)) for example in self.examples)

    @property
    def longest(self) -> int:
        """The number of tokens of the longest row."""
        return max(len(row.clean) for example in self.examples for row in rows_of(example))

    def both_ways(self) -> Dataset:
        """Every example followed by its swap: clean and corrupt, correct and wrong change places.

        This is for pairs in which the wrong answer is the answer of the corrupted text, such as
        those of ``facts`` (Zhang & Nanda 2024, appendix B) and of ``ioi`` by default; it does not
        check that they are. Spans stay where they are (S1 of a swap of ``ioi`` is its indirect
        object). The further ``corruptions`` are left out, because they are texts of the one clean
        text only. Raises DataError if an example has no wrong answer, or not as many as correct
        ones.
        """
        return replace(self, examples=tuple(one for e in self.examples for one in swapped(e)))

    def _aligned(self, first: int, whole: Sequence[Example], spans: tuple[str, ...]) -> Batch:
        """A batch of texts that are aligned by these spans."""
        other = self._collate(first, list(map(as_clean, whole)))
        batch = self._collate(first, list(map(alone, whole)))
        own = replace(other.ranges, name=lambda row: f"the corrupted text of {batch.name(row)}")
        corrupt, how = pair(batch.ranges, own, (batch.clean, other.clean), other.last, spans)
        return replace(batch, corrupt=corrupt, aligned=how)

    def _collate(self, first: int, whole: Sequence[Example]) -> Batch:
        own = [rows_of(example) for example in whole]
        numbers = [first + i for i, rows in enumerate(own) for _ in rows]
        examples = [row for rows in own for row in rows]
        length = max(len(e.clean) for e in examples)
        offsets = [length - len(e.clean) if self.padding == "left" else 0 for e in examples]

        def rows(values: Iterable[tuple[int, ...]], fill: int, shift: bool) -> Tensor:
            values = list(values)
            width = length if shift else max(map(len, values))
            table = torch.full((len(values), width), fill, dtype=torch.long)
            for at, (value, offset) in enumerate(zip(values, offsets, strict=True)):
                start = offset if shift else 0
                table[at, start : start + len(value)] = torch.tensor(value, dtype=torch.long)
            return table.to(self.device)

        names = sorted({name for e in examples for name in e.spans})
        texts = _common_texts(examples)
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
            corruptions={
                name: rows((e.corruptions[name] for e in examples), 0, True) for name in texts
            },
            paired=torch.tensor([e.paired for e in examples], device=self.device),
            named=lambda row: self.named(numbers[row]),
            sequences=sequences(whole, self.device),
        )

    def named(self, number: int) -> str:
        """How messages name the example with that index: ``prompt 3 of 16 ('When ...')``."""
        clean = _shown(self.examples[number], self.tokenizer).clean
        return f"prompt {number + 1} of {len(self)} ({reprlib.repr(clean)})"


def _common_texts(examples: Sequence[Example]) -> list[str]:
    """The names of the further corrupted texts that all examples have."""
    first, *rest = examples
    return [name for name in first.corruptions if all(name in e.corruptions for e in rest)]


def _shown(example: Example, tokenizer: Tokenizer | None) -> Shown:
    """The example as text; without a tokenizer its token ids."""

    def text(ids: Sequence[int]) -> str:
        return " ".join(map(str, ids)) if tokenizer is None else tokenizer.decode(list(ids))

    single = tuple(tuple((token,) for token in own) for own in (example.correct, example.wrong))
    right, wrong = single if example.sequences is None else example.sequences

    def ranges(ids: Sequence[int], spans: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
        if tokenizer is None:
            return {}
        return {name: (len(text(ids[:a])), len(text(ids[:b]))) for name, (a, b) in spans.items()}

    return Shown(
        clean=text(example.clean),
        corrupt=text(example.corrupt) if example.paired else None,
        correct=list(map(text, right)),
        wrong=list(map(text, wrong)),
        spans={name: text(example.clean[a:b]) for name, (a, b) in example.spans.items()},
        corruptions={name: text(own) for name, own in example.corruptions.items()},
        ranges=ranges(example.clean, example.spans),
        others=ranges(example.corrupt, example.corrupt_spans or {}),
    )
