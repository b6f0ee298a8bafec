"""Repeating what followed a word (Elhage et al. 2021, Olsson et al. 2022)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

from circuitkit.data.prompts import Prompt, Task, compose
from circuitkit.data.tokens import Tokenizing, view
from circuitkit.errors import DataError
from circuitkit.tasks._draw import distinct, pool, single
from circuitkit.util.options import Bounds, Count, Seed, checked

__all__ = ["induction"]

COMMON = pool(
    """apple arm art baby bird blood boat body bread bridge brother building car cat cell chair
    child circle city class cloud coffee corn country cow cup dance day desk doctor dog door dream
    dress dust ear earth egg engine eye face family farm field finger fire fish floor food foot
    forest friend fruit game glass gold grass group hair hand hat head heart hill history home horse
    ice iron island job judge king lake land leaf leg light line lion metal milk moon morning mother
    mountain mouth music name night nose ocean oil page paint paper piano picture pig plant plate
    poem pool queen rain river road rock roof room rope rose salt sand sea seed ship shirt shoe silk
    skin sky snow song spring star stone storm street sugar sun table tea tiger time tooth town
    train tree truck voice wall watch water wheel wind window wine winter wolf wood wool world
    year"""
)


@checked
def induction(
    words: Tokenizing,
    n: Count = 100,
    seed: Seed = 0,
    *,
    length: Annotated[int, Bounds(5, 1_000)] = 12,
) -> Task:
    """Repeats: random words "... A B ... C D ... A" -> B, which followed A before.

    All words of a text are different except the last, which repeats A. In the corrupted text the
    first A and C have changed places, so that the answer is D: what differs is the word before each
    candidate, which is what an induction head looks up. Spans: ``first`` (the first A), ``next``
    (B) and ``second`` (the last A).

    Args:
        words: The model, or a view of its tokenizer, which decides which words fit.
        n: The number of prompts, all different.
        seed: The seed with which they are drawn.
        length: The number of words in a text, at least 5.

    Returns:
        A ``Task`` with the metric ``logit_diff``.

    Raises:
        TaskFitError: if too few words are single tokens.
        ArgumentError: if ``length`` is below 5.
        DataError: if it is above the number of those words.

    Source: Olsson et al. 2022.

    Example:
        >>> task = ck.tasks.induction(model, n=5, length=8)
        >>> task[0].text("first") == task[0].text("second"), len(task[0].clean.split())
        (True, 8)
    """
    common = single(view(words), "induction", "words", COMMON, 20)
    if length > len(common):
        raise DataError(
            f"induction cannot make texts of {length} words; choose 5 to {len(common)} words"
        )

    def draw(rng: random.Random) -> Prompt:
        drawn = rng.sample(common, length - 1)
        early, late = sorted(rng.sample(range(length - 3), 2))
        pairs = [early, late + 1]  # the starts of two pairs of neighbours without a common word
        rng.shuffle(pairs)
        return _prompt(drawn, *pairs)

    prompts = distinct("induction", n, seed, draw)
    settings = {"n": n, "seed": seed, "length": length}
    source = "Olsson et al. 2022, arXiv:2209.11895"
    return Task("induction", prompts, "logit_diff", source, settings)


def _prompt(drawn: Sequence[str], a: int, c: int) -> Prompt:
    """The words, then the one at ``a`` again; corrupted, those at ``a`` and ``c`` are swapped."""
    labels = [f"word{i}" for i in range(len(drawn))]
    labels[a], labels[a + 1] = "first", "next"
    template = "".join(f" {{{label}}}" for label in [*labels, "second"])
    slots = dict(zip(labels, drawn, strict=True)) | {"second": drawn[a]}
    clean, spans = compose(template, slots)
    corrupt, _ = compose(template, slots | {"first": drawn[c], labels[c]: drawn[a]})
    spans = {name: spans[name] for name in ("first", "next", "second")}
    return Prompt(clean, corrupt, (f" {drawn[a + 1]}",), (f" {drawn[c + 1]}",), spans)
