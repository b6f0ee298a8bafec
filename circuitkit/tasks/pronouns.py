"""The pronoun of a first name (Mathwin et al. 2023)."""

from __future__ import annotations

import random

from circuitkit.data.prompts import Prompt, Task, compose
from circuitkit.data.tokens import Tokenizing, view
from circuitkit.tasks._draw import distinct, single
from circuitkit.tasks._names import MEN, WOMEN
from circuitkit.util.options import Count, Seed, checked

__all__ = ["gendered_pronoun"]

ADJECTIVES = ("great", "good", "nice", "kind", "fine", "clever", "happy", "busy", "young", "quiet")
ROLES = ("friend", "person", "student", "teacher", "writer", "singer", "driver", "artist")
PRONOUNS = ("he", "she")
TEMPLATES = (
    "So {name} is a really {adjective} {role}, isn't",
    "So {name} was such a {adjective} {role}, wasn't",
    "I think that {name} is a very {adjective} {role}, isn't",
)


@checked
def gendered_pronoun(words: Tokenizing, n: Count = 100, seed: Seed = 0) -> Task:
    """Pronouns: "So Mary is a really great friend, isn't" -> " she".

    Half of the names are men's, half women's; the corrupted text has a name of the other gender, so
    that the answer flips. Span: ``name``.

    Args:
        words: The model, or a view of its tokenizer, which decides which words fit.
        n: The number of prompts, all different.
        seed: The seed with which they are drawn.

    Returns:
        A ``Task`` with the metric ``logit_diff``.

    Raises:
        TaskFitError: if the pronouns, or too many of the names, are not single tokens.

    Source: Mathwin et al. 2023, "Identifying a preliminary circuit for predicting gendered pronouns
    in GPT-2 small".

    Example:
        >>> task = ck.tasks.gendered_pronoun(model, n=5)
        >>> sorted(task[0].correct + task[0].wrong)
        [' he', ' she']
    """
    tokenizer = view(words)
    single(tokenizer, "gendered_pronoun", "pronouns", PRONOUNS, 2)
    names = {
        " he": single(tokenizer, "gendered_pronoun", "men's names", MEN, 10),
        " she": single(tokenizer, "gendered_pronoun", "women's names", WOMEN, 10),
    }

    def draw(rng: random.Random) -> Prompt:
        right, wrong = rng.sample(list(names), 2)
        template = rng.choice(TEMPLATES)
        slots = {"adjective": rng.choice(ADJECTIVES), "role": rng.choice(ROLES)}
        clean, spans = compose(template, slots | {"name": rng.choice(names[right])})
        corrupt, _ = compose(template, slots | {"name": rng.choice(names[wrong])})
        return Prompt(clean, corrupt, (right,), (wrong,), {"name": spans["name"]})

    prompts = distinct("gendered_pronoun", n, seed, draw)
    settings = {"n": n, "seed": seed}
    return Task("gendered_pronoun", prompts, "logit_diff", "Mathwin et al. 2023", settings)
