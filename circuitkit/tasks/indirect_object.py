"""Indirect object identification (Wang et al. 2023)."""

from __future__ import annotations

import random
import re

from circuitkit.data import Prompt, Task, Words, compose
from circuitkit.errors import DataError
from circuitkit.tasks._draw import distinct, pool, single
from circuitkit.tasks._names import NAMES

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
_NEXT = re.compile(r" ?(?:\w+|[^\w\s])")


def ioi(words: Words, n: int = 100, seed: int = 0, *, corrupt: str = "io") -> Task:
    """Indirect objects: "When Mary and John went to the store, John gave a drink to" -> " Mary".

    Returns prompts in the orders ABBA and BABA alike. ``corrupt="io"`` puts the indirect object in
    the second subject's place, so that the answer flips; ``corrupt="names"`` puts three new names
    in place of the three (the paper's p_ABC). Source: Wang et al. 2023, §2 and appendix E.

    Raises TaskFitError where too few names, places or objects are single tokens, and DataError
    where ``corrupt`` is neither of these.
    """
    if corrupt not in ("io", "names"):
        raise DataError(f"ioi cannot corrupt by {corrupt!r}; choose 'io' or 'names'")
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
    io, s, *others = people
    clean, spans = compose(template, setting | {"IO": io, "S1": s, "S2": s})
    replaced = {"IO": io, "S1": s, "S2": io}
    if corrupt == "names":
        replaced = dict(zip(replaced, others, strict=True))
    after = _NEXT.match(clean, spans["S1"][1])
    if after is not None:
        spans["S1+1"] = after.span()
    return Prompt(clean, compose(template, setting | replaced)[0], (f" {io}",), (f" {s}",), spans)
