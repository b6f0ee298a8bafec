"""Indirect object identification (Wang et al. 2023)."""

from __future__ import annotations

import random
import re
from typing import Literal

from circuitkit.data.prompts import Prompt, Task, compose
from circuitkit.data.tokens import Tokenizing, view
from circuitkit.tasks._draw import distinct, pool, single
from circuitkit.tasks._names import NAMES
from circuitkit.util.options import Count, Seed, checked

__all__ = ["ioi"]

PLACES = pool(
    """store park school office garden restaurant hospital station library museum market beach
    church house hotel airport theater kitchen farm bank"""
)
OBJECTS = pool(
    """drink book ring ball letter gift flower ticket key phone bottle bag pen map coat camera
    cake toy card box"""
)
TEMPLATES = (
    "When {A} and {B} went to the {place}, {S2} gave a {object} to",
    "Then, {A} and {B} went to the {place}. {S2} gave a {object} to",
    "After {A} and {B} had lunch at the {place}, {S2} gave a {object} to",
    "While {A} and {B} were working at the {place}, {S2} handed a {object} to",
    "Then, {A} and {B} had a long day at the {place}, and {S2} wanted to give a {object} to",
    "The {place} was quiet when {A} and {B} came in, and {S2} handed a {object} to",
    "Yesterday {A} and {B} met at the {place}, where {S2} sold a {object} to",
    "Because {A} and {B} were late at the {place}, {S2} sent a {object} to",
)
_TEXTS = {"io": "S2", "names": "names"}
_NEXT = re.compile(r" ?(?:\w+|[^\w\s])")


@checked
def ioi(
    words: Tokenizing, n: Count = 100, seed: Seed = 0, *, corrupt: Literal["io", "names"] = "io"
) -> Task:
    """Indirect objects: "When Mary and John went to the store, John gave a drink to" -> " Mary".

    Half of the prompts have the order ABBA, half BABA. The wrong answer is the subject. Spans:
    ``IO``, ``S1``, ``S1+1`` (the token after it), ``S2``, ``place`` and ``object``. Each prompt has
    three corrupted texts by name: ``S2`` with the indirect object in place of the second subject,
    ``names`` with three new names, and ``S1+IO`` with two new names in place of the first subject
    and the indirect object.

    Args:
        words: The model, or a view of its tokenizer, which decides which words fit.
        n: The number of prompts, all different.
        seed: The seed with which they are drawn.
        corrupt: Which text is the prompt's corrupted one: ``"io"``, the text ``S2``, in which the
            answer flips; or ``"names"``, the paper's p_ABC.

    Returns:
        A ``Task`` with the metric ``logit_diff``.

    Raises:
        TaskFitError: if too few names, places or objects are single tokens.
        ArgumentError: if ``corrupt`` is neither ``"io"`` nor ``"names"``.

    Source: Wang et al. 2023, §2 and appendix E; ``S1+IO``: Zhang & Nanda 2024, appendix F.

    Example:
        >>> task = ck.tasks.ioi(model, n=5)
        >>> prompt = task[0]
        >>> prompt.correct == (prompt.text("IO"),), prompt.wrong == (prompt.text("S2"),)
        (True, True)
    """
    words = view(words)
    names = single(words, "ioi", "names", NAMES, 20)
    places = single(words, "ioi", "places", PLACES, 5)
    objects = single(words, "ioi", "objects", OBJECTS, 5)

    def draw(rng: random.Random) -> Prompt:
        template = rng.choice(TEMPLATES)
        first, second = rng.sample(["IO", "S1"], 2)
        template = template.replace("{A}", f"{{{first}}}").replace("{B}", f"{{{second}}}")
        setting = {"place": rng.choice(places), "object": rng.choice(objects)}
        return _prompt(template, setting, rng.sample(names, 5), corrupt)

    prompts = distinct("ioi", n, seed, draw)
    settings = {"n": n, "seed": seed, "corrupt": corrupt}
    return Task("ioi", prompts, "logit_diff", "Wang et al. 2023, arXiv:2211.00593", settings)


def _prompt(template: str, setting: dict[str, str], people: list[str], corrupt: str) -> Prompt:
    io, s, *new = people
    clean, spans = compose(template, setting | {"IO": io, "S1": s, "S2": s})
    replaced = {"S2": (io, s, io), "S1+IO": (new[0], new[1], s), "names": new}
    corruptions = {
        name: compose(template, setting | dict(zip(("IO", "S1", "S2"), own, strict=True)))[0]
        for name, own in replaced.items()
    }
    after = _NEXT.match(clean, spans["S1"][1])
    if after is not None:
        spans["S1+1"] = after.span()
    own = corruptions[_TEXTS[corrupt]]
    return Prompt(clean, own, (f" {io}",), (f" {s}",), spans, corruptions)
