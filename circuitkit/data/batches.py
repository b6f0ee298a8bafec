"""Examples as padded tensors, and data sets that are iterated in such batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuitkit.data.examples import Example, swapped
from circuitkit.data.prompts import Prompt, Task
from circuitkit.data.tokens import Tokenizer, TokenizerView, tokenise
from circuitkit.errors import DataError
from circuitkit.util.json_values import Json

__all__ = ["Batch", "Dataset"]


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


@runtime_checkable
class Tokenized(Protocol):
    """What has a tokenizer of its own, as a model does, and says where its tokens go."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Its tokenizer, where it has one."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""


@dataclass(frozen=True)
class Dataset:
    """Examples that are iterated in batches; ``len`` is the number of examples.

    ``memory`` are the bytes that the process may take in all while it works through them (on a GPU:
    its tensors); None: what the machine has. ``about`` says where the examples come from: the
    ``task``, its ``metric``, its ``source`` and ``seed``, as far as known.
    """

    examples: tuple[Example, ...]
    batch_size: int = 32
    device: str = "cpu"
    padding: str = "right"
    memory: int | None = None
    about: Mapping[str, Json] = field(default_factory=dict, compare=False)

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
        model: Tokenized,
        *,
        batch_size: int = 32,
        padding: str = "right",
        memory: int | None = None,
    ) -> Dataset:
        """The task's prompts in the model's tokens; raises DataError where they are no pairs."""
        prompts = task.prompts if isinstance(task, Task) else task
        if model.tokenizer is None:
            raise DataError("the model has no tokenizer; give Dataset the token ids as Examples")
        examples = tuple(tokenise(prompts, TokenizerView(model.tokenizer)))
        about = task.about if isinstance(task, Task) else {}
        return cls(examples, batch_size, str(model.device), padding, memory, about)

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self), self.batch_size):
            yield self._collate(self.examples[start : start + self.batch_size])

    def where(self, keep: Callable[[Example], bool]) -> Dataset:
        """The examples that satisfy the condition."""
        return replace(self, examples=tuple(filter(keep, self.examples)))

    def halves(self) -> tuple[Dataset, Dataset]:
        """The first half of the examples, on which a circuit is found, and the others; raises
        DataError for a single example."""
        half = len(self) // 2
        if not half:
            raise DataError("one prompt cannot be found on and measured on; give at least two")
        first, second = self.examples[:half], self.examples[half:]
        return replace(self, examples=first), replace(self, examples=second)

    def both_ways(self) -> Dataset:
        """Every example, and after it its swap: clean and corrupt, correct and wrong change places.

        For pairs whose corrupted text has the wrong answer for its own, as those of ``facts``
        (Zhang & Nanda 2024, appendix B) and of ``ioi`` by default; whether they are such pairs is
        not seen here. Spans stay where they are (S1 of a swap of ``ioi`` is its indirect object).
        The ``others`` are left out, since they corrupt the one clean text only. Raises DataError
        where an example has no wrong answer, or not as many as correct ones.
        """
        return replace(self, examples=tuple(one for e in self.examples for one in swapped(e)))

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
