"""Which rows of a file fit a model's tokenizer, and which look like mistakes.

A row that does not fit (a misfit) cannot be used; a warning is about one that can, but probably
says something else than was meant.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from circuitkit.data._showing import cited, quoted
from circuitkit.data.columns import as_prompt, first_tokens, require_columns
from circuitkit.data.examples import Example
from circuitkit.data.framing import framing
from circuitkit.data.prompts import Prompt, Task
from circuitkit.data.reading import Row, read_rows, spelt
from circuitkit.data.tokens import TokenizerView, Tokenizing, fitted, view
from circuitkit.errors import DataError
from circuitkit.util.json_values import Json
from circuitkit.util.tables import as_html, to_frame

if TYPE_CHECKING:
    import pandas

__all__ = ["ANSWERS", "CheckedRow", "PromptCheck", "PromptWarning", "check_prompts"]

# What an answer of several tokens is: refused, its first token, or all of them together.
ANSWERS = ("single", "first", "sequence")
BREAKS = str.maketrans({"\n": "\\n", "\r": "\\r", "\t": "\\t"})
SHOWN = 3  # prompts with their tokens, and places in a sentence


class PromptWarning(UserWarning):
    """Prompts that can be used but look like a mistake, or that were left out on request."""


@dataclass(frozen=True)
class CheckedRow:
    """A row of a file, and what was found about it.

    Attributes:
        place: Where it is: ``line 3``, ``row 3``, or ``prompt 3`` of a task.
        prompt: The prompt, where the row has one.
        example: The prompt in tokens, where it fits.
        misfit: Why it does not fit; empty if it does.
        warnings: What looks like a mistake.
    """

    place: str
    prompt: Prompt | None = None
    example: Example | None = None
    misfit: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptCheck:
    """Which prompts fit a model's tokenizer, which do not and why, and which look like mistakes.

    ``str`` is one line; ``repr`` lists every misfit and warning, and the tokens of some prompts.

    Attributes:
        source: The file, or the task.
        rows: All rows, in their order.
        words: The tokenizer.

    Example:
        >>> checked = ck.check_prompts(task, model)
        >>> print(checked)
        ioi: all 16 prompts fit
        >>> checked.fits, len(checked.misfits), len(checked.warnings)
        (True, 0, 0)
    """

    source: str
    rows: tuple[CheckedRow, ...]
    words: TokenizerView = field(repr=False, compare=False)

    @property
    def fits(self) -> bool:
        """Whether all rows fit, and there is at least one."""
        return bool(self.rows) and not self.misfits

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts that fit."""
        return tuple(r.prompt for r in self.rows if r.prompt is not None and not r.misfit)

    @property
    def misfits(self) -> list[str]:
        """Where and why rows do not fit, a sentence for each."""
        return [f"{row.place} {row.misfit}" for row in self.rows if row.misfit]

    @property
    def warnings(self) -> list[str]:
        """What looks like a mistake, and where."""
        return [f"{row.place} {text}" for row in self.rows for text in row.warnings]

    def require(self, remedy: str = "") -> None:
        """Raise DataError, with the first misfit and the places of the others, if there are any.

        Example:
            >>> ck.check_prompts(task, model).require()
        """
        if not self.rows:
            raise DataError(f"{self.source} contains no prompts; write at least one")
        if not self.misfits:
            return
        places = [row.place for row in self.rows if row.misfit]
        others = (
            f" ({len(places)} of {len(self.rows)} rows do not fit, {_listed(places)}{remedy})"
            if len(places) > 1
            else ""
        )
        raise DataError(f"{self.source}, {self.misfits[0]}{others}")

    def __str__(self) -> str:
        total, bad, odd = len(self.rows), len(self.misfits), len(self.warnings)
        warned = f"; {odd} warning{'s' * (odd != 1)}" if odd else ""
        if not total:
            return f"{self.source}: no prompts"
        if not bad:
            return f"{self.source}: {_all(total)}{warned}"
        return f"{self.source}: {total - bad:,} of {total:,} prompts fit, {bad:,} do not{warned}"

    def __repr__(self) -> str:
        lines = [str(self)]
        if self.misfits:
            lines += ["", "do not fit", *(f"  {text}" for text in self.misfits)]
        if self.words.chat is not None:
            lines += ["", *self.words.chat.said()]
        if self.warnings:
            lines += ["", "warnings", *(f"  {text}" for text in self.warnings)]
        shown = [line for row in self._first() for line in self._tokens(row)]
        return "\n".join([*lines, *(["", "tokens", *shown] if shown else [])])

    def _repr_html_(self) -> str:
        return as_html(self.to_frame(), str(self))

    def _first(self) -> list[CheckedRow]:
        """The first rows to show in tokens: first those that do not fit."""
        there = [row for row in self.rows if row.prompt is not None]
        return sorted(there, key=lambda row: not row.misfit)[:SHOWN]

    def _tokens(self, row: CheckedRow) -> Iterator[str]:
        cells = self._row(row)
        for name in ("clean", "corrupt", "correct", "wrong"):
            if cells[name]:
                yield f"  {row.place if name == 'clean' else '':10} {name:8} {cells[name]}"

    def _row(self, row: CheckedRow) -> dict[str, Json]:
        prompt, ids = row.prompt and _as_given(row.prompt, self.words), self.words.ids
        texts: dict[str, Json] = dict.fromkeys(("clean", "corrupt", "correct", "wrong"), "")
        if prompt is not None:
            whole = ids(
                [prompt.clean] if prompt.corrupt is None else [prompt.clean, prompt.corrupt]
            )
            texts |= dict(zip(("clean", "corrupt"), map(self._pieces, whole), strict=False))
            texts |= {
                name: " ".join(self._continued(whole[0], prompt.clean, one) for one in own[:SHOWN])
                + (f" and {len(own) - SHOWN} more" if len(own) > SHOWN else "")
                for name, own in (("correct", prompt.correct), ("wrong", prompt.wrong))
            }
        return {
            "place": row.place, "fits": not row.misfit, "misfit": row.misfit,
            "warnings": "; ".join(row.warnings), **texts,
        }  # fmt: skip

    def _pieces(self, ids: Sequence[int]) -> str:
        return "".join(f"[{piece}]" for piece in self.words.pieces(ids)).translate(BREAKS)

    def _continued(self, head: list[int], clean: str, answer: str) -> str:
        """The tokens of an answer; where it changes those of the text, of the two together."""
        both = self.words.ids([clean + answer])[0]
        return self._pieces(both[len(head) :] if both[: len(head)] == head else both)

    def to_frame(self) -> pandas.DataFrame:
        """A row for each row of the file: its place, whether it fits, why not, what looks like a
        mistake, and its texts with each token in brackets.

        Example:
            >>> frame = ck.check_prompts(task, model).to_frame()
            >>> list(frame)[:4], frame.loc[0, "correct"] == f"[{task[0].correct[0]}]"
            (['place', 'fits', 'misfit', 'warnings'], True)
        """
        return to_frame([self._row(row) for row in self.rows])

    def to_dict(self) -> dict[str, Json]:
        """What was found, for JSON.

        Example:
            >>> ck.check_prompts(task, model).to_dict()["fits"]
            True
        """
        return {
            "source": self.source, **framing(self.words.tokenizer),
            "prompts": len(self.rows), "fits": self.fits,
            "misfits": self.misfits, "warnings": self.warnings,
            "rows": [self._row(row) for row in self.rows],
        }  # fmt: skip


def check_prompts(
    data: Task | Sequence[Prompt] | str | os.PathLike[str],
    model: Tokenizing,
    *,
    columns: Mapping[str, str] | None = None,
    answers: str = "single",
    align: str | None = None,
) -> PromptCheck:
    """All rows of a file that do not fit a model's tokenizer, and what looks like a mistake.

    A row does not fit where it cannot be read, lacks a text, has a clean and a corrupted text of
    different lengths in tokens, an answer that is not one token, or one that is both correct and
    wrong, a span that cuts a token, more tokens than the model has positions for, or a token that
    is not in its vocabulary. Warnings are about an answer without its leading space,
    a BOS token that is doubled, rows that repeat one another, and corrupted texts that are equal to
    the clean one.

    Args:
        data: A file (see ``ck.tasks.from_file``), ``-`` for standard input, a Task or Prompts.
        model: The model, or a view of its tokenizer.
        columns: The columns of a file by our names, where it calls them otherwise.
        answers: What answers of several tokens are: misfits (``single``), their ``first`` token, or
            the whole ``sequence``.
        align: By what clean and corrupted texts of different lengths are aligned (``spans``, or the
            names of some, with commas between them); without it they are misfits.

    Raises:
        DataError: if the file cannot be read as a whole, or the model has no tokenizer.

    Example:
        >>> checked = ck.check_prompts([ck.Prompt("The cat is", "The dog is", ("a",))], model)
        >>> print(checked)
        own prompts: the 1 prompt fits; 1 warning
        >>> checked.warnings[0]
        "prompt 1 has the answer 'a' without a leading space, ...; ' a' may be meant"
    """
    words = view(model)
    if isinstance(data, str | os.PathLike):
        rows = read_rows(os.fspath(data))
        source = spelt(os.fspath(data))
        require_columns(source, rows, columns or {})
        read = [_read(row, words, columns or {}) for row in rows]
    else:
        source = data.name if isinstance(data, Task) else "own prompts"
        read = [CheckedRow(f"prompt {n}", prompt) for n, prompt in enumerate(data, start=1)]
    if answers not in ANSWERS:
        raise DataError(f"answers is {answers!r}; give one of {', '.join(map(repr, ANSWERS))}")
    from circuitkit.data.alignment import as_align  # imports torch

    checked = _checked(read, words, answers, as_align(align) is not None)
    return PromptCheck(source, tuple(checked), words)


def _read(row: Row, words: TokenizerView, columns: Mapping[str, str]) -> CheckedRow:
    try:
        return CheckedRow(row.place, as_prompt(row, words, columns))
    except DataError as error:
        return CheckedRow(row.place, misfit=str(error))


def _checked(
    rows: Sequence[CheckedRow], words: TokenizerView, answers: str, aligned: bool
) -> Iterator[CheckedRow]:
    """The rows with what is found about them in tokens."""
    prompts = [row.prompt for row in rows if row.prompt is not None]
    prompts = first_tokens(prompts, words) if answers == "first" else prompts
    given = [_as_given(prompt, words) for prompt in prompts]
    examples = fitted(prompts, words, answers == "sequence", aligned)
    pairs = iter(zip(prompts, given, examples, strict=True))
    spaced = _single_with_space(given, words)
    seen: dict[object, str] = {}
    for row in rows:
        if row.prompt is None:
            yield row
            continue
        prompt, as_given, found = next(pairs)
        if isinstance(found, DataError):
            every = as_given.correct + as_given.wrong
            near = [one for one in every if (as_given.clean, one) in spaced]
            hint = f" ({cited(' ' + near[0])} with a leading space is)" if near else ""
            yield CheckedRow(row.place, prompt, misfit=f"does not fit: {found}{hint}")
            continue
        odd = [*_odd(as_given, found, words, spaced)]
        key = (prompt.clean, prompt.corrupt, prompt.correct, prompt.wrong)
        if seen.setdefault(key, row.place) != row.place:
            odd.append(f"repeats {seen[key]}")
        yield CheckedRow(row.place, prompt, found, warnings=tuple(odd))


def _as_given(prompt: Prompt, words: TokenizerView) -> Prompt:
    """The prompt as the model gets it; as it is where it cannot be had so, which is a misfit."""
    try:
        return words.given(prompt)
    except DataError:
        return prompt


def _odd(
    prompt: Prompt, example: Example, words: TokenizerView, spaced: set[tuple[str, str]]
) -> Iterator[str]:
    """What looks like a mistake in a prompt that fits."""
    bare = [one for one in (*prompt.correct, *prompt.wrong) if (prompt.clean, one) in spaced]
    if bare:
        ending = (prompt.clean + bare[0])[-24 - len(bare[0]) :]
        yield (
            f"has the answer{'s' * (len(bare) > 1)} {quoted(bare)} without a leading space, so "
            f"that the text reads {ending!r}; {' ' + bare[0]!r} may be meant"
        )
    bos = words.tokenizer.bos_token_id
    if bos is not None and example.clean[:2] == (bos, bos):
        yield "begins with the BOS token twice; leave it out of the text"
    if prompt.corrupt == prompt.clean:
        yield "has a corrupted text that is the clean one, so that corrupting it changes nothing"


def _single_with_space(prompts: Sequence[Prompt], words: TokenizerView) -> set[tuple[str, str]]:
    """The clean texts with those of their answers that lack a space: where a word ends and the
    answer begins one, and the answer would be one token with a space too."""
    spaced = words.chat is not None and words.chat.spaced
    bare = [
        (prompt.clean, answer)
        for prompt in prompts
        for answer in (*prompt.correct, *prompt.wrong)
        if _lacks_space(prompt.clean, answer, spaced)
    ]
    if not bare:
        return set()
    heads = words.ids([clean for clean, _ in bare])
    whole = words.ids([f"{clean} {answer}" for clean, answer in bare])
    each = zip(bare, heads, whole, strict=True)
    return {pair for pair, head, both in each if words.continues(head, both)}


def _lacks_space(clean: str, answer: str, spaced: bool) -> bool:
    last, first = clean[-1:], answer[:1]
    if spaced:  # by a chat template
        return not first.isspace()
    if first.isdigit():
        return last.isalpha()
    return first.isalpha() and (last.isalpha() or last in tuple(",;:.!?"))


def _all(total: int) -> str:
    return f"all {total:,} prompts fit" if total > 1 else "the 1 prompt fits"


def _listed(places: Sequence[str]) -> str:
    """``lines 3, 5, 8 and 40 more``."""
    kind = places[0].partition(" ")[0]
    numbers = [place.rpartition(" ")[2] for place in places]
    more = len(numbers) - 4 * SHOWN
    return f"{kind}s {', '.join(numbers[: 4 * SHOWN])}" + (f" and {more} more" if more > 0 else "")
