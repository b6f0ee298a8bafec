"""Comparing years (Hanna et al. 2023)."""

from __future__ import annotations

import random

from circuitkit.data.prompts import Prompt, Task, compose
from circuitkit.data.tokens import TokenizerView, Tokenizing, view
from circuitkit.errors import TaskFitError
from circuitkit.tasks._draw import distinct, pool
from circuitkit.util.options import Count, Seed, checked

__all__ = ["greater_than"]

NOUNS = pool(
    """war abuse accord affair agreement alliance attack battle boom campaign case challenge
    clash conflict contract crisis debate decline deal development dispute drama effort empire
    epidemic expansion expedition experiment feud fight friendship growth hunt insurgency
    investigation journey marriage migration mission movement operation partnership peace pilgrimage
    plague plot practice process program project quest raid reform reign relationship retreat
    revolution rule sanction search siege stagnation strike struggle study survey testing threat
    tour trade transaction trial trip vacation voyage work"""
)
CENTURIES = tuple(f" {century}" for century in range(11, 18))
ENDINGS = tuple(f"{ending:02}" for ending in range(100))
TEMPLATE = "The {noun} lasted from the year {XX}{YY} to the year {XX2:XX}"
_LOWEST = "01"


@checked
def greater_than(words: Tokenizing, n: Count = 100, seed: Seed = 0) -> Task:
    """Later years: "The war lasted from the year 1732 to the year 17" -> "33" and above.

    The correct answers are all two-digit endings above that of the first year, the wrong ones all
    others. The first year of the corrupted text ends in 01, after which nearly every ending is
    correct. Endings that are not a token of their own after the century are not answers. Spans:
    ``noun``, ``XX`` and ``YY`` (the century and the ending of the first year) and ``XX2``.

    Args:
        words: The model, or a view of its tokenizer, which decides which words fit.
        n: The number of prompts, all different.
        seed: The seed with which they are drawn.

    Returns:
        A ``Task`` with the metric ``prob_diff``.

    Raises:
        TaskFitError: if the tokenizer does not split years into a century and an ending.

    Source: Hanna et al. 2023, §2.

    Example:
        >>> task = ck.tasks.greater_than(model, n=5)
        >>> all(answer > task[0].text("YY") for answer in task[0].correct)
        True
    """
    endings = _endings(view(words))

    def draw(rng: random.Random) -> Prompt:
        century = rng.choice(list(endings))
        known = endings[century]
        year = rng.choice([ending for ending in known if _LOWEST < ending < known[-1]])
        slots = {"noun": rng.choice(NOUNS), "XX": century.strip(), "YY": year}
        clean, spans = compose(TEMPLATE, slots)
        later = tuple(ending for ending in known if ending > year)
        others = tuple(ending for ending in known if ending <= year)
        return Prompt(clean, compose(TEMPLATE, slots | {"YY": _LOWEST})[0], later, others, spans)

    prompts = distinct("greater_than", n, seed, draw)
    source = "Hanna et al. 2023, arXiv:2305.00586"
    return Task("greater_than", prompts, "prob_diff", source, {"n": n, "seed": seed})


def _endings(words: TokenizerView) -> dict[str, list[str]]:
    """The endings that are one token after each century, where those are nearly all endings."""
    found = {
        century: words.fitting(ENDINGS, after=f"a{century}") for century in words.fitting(CENTURIES)
    }
    found = {c: known for c, known in found.items() if _LOWEST in known and len(known) > 90}
    if not found:
        alone, whole = words.ids(["a", "a 1732"])
        raise TaskFitError(
            "greater_than needs years of two tokens, ' 17' and '32', but this tokenizer makes "
            f"{len(whole) - len(alone)} of ' 1732'; use another task or another model"
        )
    return found
