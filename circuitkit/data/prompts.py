"""Prompts as text, and the tasks that draw them.

A prompt is a pair: the clean text, and a corrupted one that is a clean text of another answer
(symmetric token replacement, Zhang & Nanda 2024, §2). Both have the same number of tokens, so that
every position of the one has its counterpart in the other.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from circuitkit.errors import DataError
from circuitkit.util.json_values import Json

__all__ = ["Prompt", "Task", "compose"]


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
    settings: Mapping[str, Json] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, Json]:
        """What data sets and results say of it: the task, its metric, source and seed."""
        seed = {"seed": self.settings["seed"]} if "seed" in self.settings else {}
        return {"task": self.name, "metric": self.metric, "source": self.source, **seed}

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
