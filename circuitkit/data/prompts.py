"""Prompts as text, and the tasks that they belong to.

A prompt is a pair: the clean text, and a corrupted one that is a clean text of another answer
(symmetric token replacement, Zhang & Nanda 2024, §2). Both have the same number of tokens, so that
each position of one corresponds to a position of the other, or are aligned by their spans.
"""

from __future__ import annotations

import ast
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, overload

from circuitkit.data._showing import IN_HTML, Shown, as_html, as_lines, quoted, row
from circuitkit.errors import DataError
from circuitkit.util.json_values import Json
from circuitkit.util.tables import to_frame

if TYPE_CHECKING:
    import pandas

__all__ = ["FILES", "STDIN", "Prompt", "Task", "compose", "file_of", "is_file"]

FILES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")  # that prompts are read from
STDIN = "-"  # the name of standard input


@dataclass(frozen=True)
class Prompt:
    """A clean and a corrupted text, and the answers that continue the clean one.

    Attributes:
        clean: The text that the model continues.
        corrupt: The corrupted text; it has as many tokens as the clean one, unless the two are
            aligned by spans (``align=``). None if there is none: ``zero``, ``mean``, ``noise`` and
            ``resample`` need no corrupted text.
        correct: The correct continuations, each a single token with its leading space.
        wrong: The wrong continuations; may be empty.
        spans: Parts of the clean text by name, as ranges of characters [start, stop). In the
            corrupted text the tokens at the same positions have that name.
        corruptions: Further corrupted texts of the clean one by name, each as long as it;
            ``counterfactual(text=name)`` and ``noise(text=name)`` use them.
        corrupt_spans: The same parts of the corrupted text, as ranges of its characters, by which
            it is aligned with the clean one.

    Example:
        >>> prompt = ck.Prompt("The cat is", "The dog is", (" small",), (" big",), {"who": (3, 7)})
        >>> print(prompt)
        'The cat is' -> ' small', not ' big'
        >>> prompt.text("who")
        ' cat'
    """

    clean: str
    corrupt: str | None = None
    correct: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    corruptions: Mapping[str, str] = field(default_factory=dict)
    corrupt_spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __str__(self) -> str:
        wrong = f", not {quoted(self.wrong)}" if self.wrong else ""
        return f"{self.clean!r} -> {quoted(self.correct)}{wrong}"

    def text(self, span: str) -> str:
        """The part of the clean text that has this name; raises DataError if there is none."""
        if span not in self.spans:
            known = ", ".join(self.spans) or "none"
            raise DataError(f"the prompt has no span {span!r}; its spans are {known}")
        start, stop = self.spans[span]
        return self.clean[start:stop]


@dataclass(frozen=True)
class Task:
    """Prompts with the metric that suits them, and where they come from.

    ``len(task)`` is the number of prompts, ``task[0]`` the first one, ``task[:10]`` a task of the
    first ten, and iteration goes over the prompts.

    Attributes:
        name: The task's name with its settings, as ``make_task`` takes it.
        prompts: The prompts, a tuple of ``Prompt``.
        metric: The name of the metric by which the task is measured unless another one is given.
        source: The paper, or the file, that the prompts are from.
        settings: What the prompts were made with: ``n``, ``seed`` and the task's own settings.

    Example:
        >>> print(task)
        ioi: 16 prompts, metric logit_diff (Wang et al. 2023, arXiv:2211.00593)
        >>> len(task), len(task[:10])
        (16, 10)
        >>> task[0].correct == (task[0].text("IO"),)
        True
    """

    name: str
    prompts: tuple[Prompt, ...]
    metric: str
    source: str
    settings: Mapping[str, Json] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, Json]:
        """What data sets and results say of it: the task, its metric, source and seed, what its
        ``answers`` are where they are not single tokens, and by what texts are aligned (``align``)
        where they do not have equally many."""
        keys = ("seed", "answers", "align")
        own = {key: self.settings[key] for key in keys if key in self.settings}
        return {"task": self.name, "metric": self.metric, "source": self.source, **own}

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...

    @overload
    def __getitem__(self, index: slice) -> Task: ...

    def __getitem__(self, index: int | slice) -> Prompt | Task:
        """The prompt of that number, or the task of a slice of the prompts."""
        if isinstance(index, slice):
            return replace(self, prompts=tuple(self.prompts[index]))
        return self.prompts[index]

    def __str__(self) -> str:
        source = f" ({self.source})" if self.source else ""
        return f"{self.name}: {_counted(self)}, metric {self.metric}{source}"

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={value!r}" for key, value in self.settings.items())
        title = [
            f"{self.name}: {_counted(self)}",
            f"     metric   {self.metric}",
            *([f"     source   {self.source}"] if self.source else []),
            *([f"     settings {settings}"] if settings else []),
        ]
        return "\n".join([*title, *as_lines(list(map(_shown, self.prompts[:10])), len(self))])

    def _repr_html_(self) -> str:
        return as_html(str(self), map(_shown, self.prompts[:IN_HTML]), len(self))

    def to_frame(self) -> pandas.DataFrame:
        """A row for each prompt.

        The columns ``clean``, ``corrupt``, ``correct`` and ``wrong`` are those of a CSV file of
        prompts, in which ``|`` separates several answers; ``span_NAME`` is the text of a span, or
        the range of its characters (``15:22``) where that text stands there more than once,
        ``corrupt_span_NAME`` the same of a corrupted text that has its own, and ``corrupt_NAME`` a
        further corrupted text.

        Example:
            >>> frame = task.to_frame()
            >>> list(frame)[:4], len(frame)
            (['clean', 'corrupt', 'correct', 'wrong'], 16)
        """
        return to_frame([row(_shown(prompt)) for prompt in self.prompts])

    def split(self, first: int) -> tuple[Task, Task]:
        """The first prompts and the rest: for discovery and for evaluation.

        Raises DataError if one of the two would have no prompts, or ``first`` is not a number.

        Example:
            >>> seen, unseen = task.split(12)
            >>> len(seen), len(unseen)
            (12, 4)
        """
        if not isinstance(first, int) or not 0 < first < len(self.prompts):
            raise DataError(
                f"{self.name} has {len(self.prompts)} prompts, which cannot be split after "
                f"{first!r}; give a whole number from 1 to {len(self.prompts) - 1}"
            )
        return (
            replace(self, prompts=self.prompts[:first]),
            replace(self, prompts=self.prompts[first:]),
        )


def is_file(name: str) -> bool:
    """Whether a task's name is that of a file of prompts, or of standard input (``-``)."""
    return name == STDIN or name.strip().lower().endswith(FILES)


def file_of(name: str) -> str:
    """The file that a task's name refers to, also with settings: that of
    ``from_file(path='mine.csv')``, and the name itself where it is that of a file; else empty."""
    if is_file(name):
        return name
    head, bracket, rest = name.partition("(")
    if head.strip() != "from_file" or not bracket:
        return ""
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        given = {k.arg: ast.literal_eval(k.value) for k in getattr(call, "keywords", [])}
    except (SyntaxError, ValueError):
        return ""
    return str(given.get("path", ""))


def _counted(task: Task) -> str:
    return f"{len(task):,} prompt{'' if len(task) == 1 else 's'}"


def _shown(prompt: Prompt) -> Shown:
    spans = {name: prompt.text(name) for name in prompt.spans}
    return Shown(
        prompt.clean, prompt.corrupt, prompt.correct, prompt.wrong, spans, prompt.corruptions,
        prompt.spans, prompt.corrupt_spans,
    )  # fmt: skip


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
