"""Recalling facts of a subject (Zhang & Nanda 2024, PairedFacts)."""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from circuitkit.data.prompts import Prompt, Task, compose
from circuitkit.data.tokens import TokenizerView, Tokenizing, view
from circuitkit.errors import TaskFitError
from circuitkit.tasks._draw import distinct, single
from circuitkit.util.options import Count, Seed, checked

__all__ = ["facts"]


@dataclass(frozen=True)
class Relation:
    """Subjects with their answers, and the templates that ask for them."""

    templates: tuple[str, ...]
    answers: Mapping[str, str]


TEMPLATES = {
    "capital": (
        "The capital of {subject} is",
        "The capital city of {subject} is called",
        "The government of {subject} sits in the city of",
    ),
    "city": (
        "The {subject} is in the city of",
        "If you want to see the {subject}, you must travel to",
        "Many people know that the {subject} stands in",
    ),
    "country": (
        "The company {subject} comes from",
        "The company {subject} has its home in",
        "The founders of {subject} lived in",
    ),
    "language": (
        "The official language of {subject} is",
        "Most people in {subject} speak",
        "The newspapers of {subject} are written in",
    ),
}


def _relations() -> dict[str, Relation]:
    """The facts of the data file, by relation and in its order, with their templates."""
    answers: dict[str, dict[str, str]] = {name: {} for name in TEMPLATES}
    with (files("circuitkit") / "assets" / "facts.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            answers[row["relation"]][row["subject"]] = row["answer"]
    return {name: Relation(TEMPLATES[name], own) for name, own in answers.items()}


RELATIONS = _relations()
Fact = tuple[str, str]


@checked
def facts(
    words: Tokenizing,
    n: Count = 100,
    seed: Seed = 0,
    *,
    lengths: Literal["equal", "any"] = "equal",
) -> Task:
    """Facts: "The capital of France is" -> " Paris".

    The corrupted text asks the same about another subject, which has as many tokens and another
    answer (or any number of tokens, and is then aligned with the other by the span ``subject``);
    that answer is the wrong one. Each of the two subjects may be the clean one. Spans:
    ``subject``, and ``subject_last`` for its last token.

    Args:
        words: The model, or a view of its tokenizer, which decides which words fit.
        n: The number of prompts, all different.
        seed: The seed with which they are drawn.
        lengths: Whether the two subjects have equally many tokens (``equal``), or ``any`` number.

    Returns:
        A ``Task`` with the metric ``logit_diff``.

    Raises:
        TaskFitError: if too few answers are single tokens, or if no two subjects have equally many
            tokens.

    Source: Zhang & Nanda 2024, §2 (PairedFacts).

    Example:
        >>> task = ck.tasks.facts(model, n=5)
        >>> task[0].text("subject") in task[0].clean, task[0].text("subject") in task[0].corrupt
        (True, False)
    """
    tokenizer = view(words)
    equal = lengths == "equal"
    pools = _pools(tokenizer, equal)
    known = [(relation, own, fact) for relation, own in pools for fact in own]

    def draw(rng: random.Random) -> Prompt:
        relation, own, (subject, answer) = rng.choice(known)
        template = rng.choice(RELATIONS[relation].templates)
        other, wrong = rng.choice([fact for fact in own if fact[1] != answer])
        clean, spans = compose(template, {"subject": subject})
        spans["subject_last"] = _last_token(tokenizer, clean, spans["subject"])
        corrupt, there = compose(template, {"subject": other})
        answers = (f" {answer}",), (f" {wrong}",)
        return Prompt(clean, corrupt, *answers, spans, corrupt_spans={} if equal else there)

    prompts = distinct("facts", n, seed, draw)
    source = "Zhang & Nanda 2024, arXiv:2309.16042"
    settings = {"n": n, "seed": seed} | ({} if equal else {"lengths": lengths, "align": "subject"})
    return Task("facts", prompts, "logit_diff", source, settings)


def _pools(words: TokenizerView, equal: bool) -> list[tuple[str, list[Fact]]]:
    """The facts of each relation (whose subjects have equally many tokens), if answers differ."""
    every = sorted({answer for own in RELATIONS.values() for answer in own.answers.values()})
    fit = set(single(words, "facts", "answers", every, 10))
    groups: dict[tuple[str, int], list[Fact]] = defaultdict(list)
    for name, relation in RELATIONS.items():
        pairs = [pair for pair in relation.answers.items() if pair[1] in fit]
        lengths = [len(ids) for ids in words.ids([f"a {subject}" for subject, _ in pairs])]
        for pair, length in zip(pairs, lengths, strict=True):
            groups[name, length if equal else 0].append(pair)
    found = [(name, own) for (name, _), own in groups.items() if len({a for _, a in own}) > 1]
    if not found:
        raise TaskFitError(
            "facts needs two subjects of one relation that have equally many tokens, which this "
            "tokenizer does not give; use another task or another model"
        )
    return found


def _last_token(words: TokenizerView, text: str, subject: tuple[int, int]) -> tuple[int, int]:
    """The range of the subject's last token: the text before it has all tokens but that one."""
    start, stop = subject
    (whole,) = words.ids([text[:stop]])
    heads = words.ids([text[:cut] for cut in range(start, stop)])
    cuts = [start + i for i, head in enumerate(heads) if head == whole[:-1]]
    return (cuts[-1] if cuts else start, stop)
