"""One prompt in tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from circuitkit.errors import DataError

__all__ = ["Example", "alone", "as_clean", "swapped"]


@dataclass(frozen=True)
class Example:
    """One prompt in tokens.

    Attributes:
        clean: The token ids of the clean text, with the BOS token if the tokenizer adds one.
        corrupt: Those of the corrupted text, as many (but see ``corrupt_spans``).
        correct: The token of each correct answer.
        wrong: The token of each wrong answer.
        spans: Ranges of tokens [start, stop) by name; ``end`` is the last token.
        corruptions: The token ids of further corrupted texts by name, as many as of the clean one.
        paired: Whether there is a corrupted text. Where there is none, ``corrupt`` is ``clean``;
            ``counterfactual`` refuses such an example, and other corruptions need no text.
        sequences: The tokens of each correct and of each wrong answer, where whole answers of
            several tokens count; ``correct`` and ``wrong`` are then their first tokens.
        corrupt_spans: The spans of the corrupted text, where it is aligned with the clean one by
            them: it may then have another number of tokens.

    Raises DataError if the clean and the corrupted texts do not have equally many tokens (unless
    they are aligned), or if a span is outside of them.
    """

    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    correct: tuple[int, ...]
    wrong: tuple[int, ...]
    spans: Mapping[str, tuple[int, int]]
    corruptions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    paired: bool = True
    sequences: tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]] | None = None
    corrupt_spans: Mapping[str, tuple[int, int]] | None = None

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits by which results remember that they saw this clean prompt."""
        tokens = ",".join(map(str, self.clean))
        return hashlib.sha256(tokens.encode()).hexdigest()[:8]

    def __post_init__(self) -> None:
        length = len(self.clean)
        own = (self.corrupt,) if self.corrupt_spans is None else ()
        for corrupt in (*own, *self.corruptions.values()):
            if not length or len(corrupt) != length:
                raise DataError(
                    f"an example has {length} clean and {len(corrupt)} corrupted tokens; "
                    "give equally many of both, and at least one"
                )
        _require_inside(self.spans, length)
        if self.corrupt_spans is not None:
            _require_inside(self.corrupt_spans, len(self.corrupt))


def _require_inside(spans: Mapping[str, tuple[int, int]], length: int) -> None:
    """Raise DataError for a span that is not within so many tokens."""
    for name, (start, stop) in spans.items():
        if not 0 <= start < stop <= length:
            raise DataError(
                f"the span {name!r} goes from token {start} to {stop} of {length}; "
                "give a range of at least one token of the text"
            )


def alone(example: Example) -> Example:
    """The clean text in the place of the corrupted one too."""
    return replace(example, corrupt=example.clean, corrupt_spans=None)


def as_clean(example: Example) -> Example:
    """The corrupted text in the place of the clean one, with its own spans."""
    spans = example.spans if example.corrupt_spans is None else example.corrupt_spans
    return replace(example, clean=example.corrupt, spans=spans, corruptions={}, corrupt_spans=None)


def swapped(example: Example) -> tuple[Example, Example]:
    """The example and its swap, both without further corrupted texts."""
    if not example.paired:
        raise DataError(
            "an example has no corrupted text, so that it cannot be swapped; give one, or do not "
            "swap"
        )
    right, wrong = len(example.correct), len(example.wrong)
    if not wrong or right != wrong:
        raise DataError(
            f"an example has {right} correct and {wrong} wrong answers, so that its corrupted text "
            "has no answer of its own; give equally many of both, or do not swap"
        )
    both, spans = example.sequences, example.corrupt_spans
    swap = Example(
        example.corrupt, example.clean, example.wrong, example.correct,
        example.spans if spans is None else spans,
        sequences=None if both is None else (both[1], both[0]),
        corrupt_spans=None if spans is None else example.spans,
    )  # fmt: skip
    return replace(example, corruptions={}), swap
