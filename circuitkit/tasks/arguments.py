"""The next argument of a docstring (Heimersheim & Janiak 2023)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from circuitkit.data.prompts import Prompt, Task, compose
from circuitkit.data.tokens import Tokenizing, view
from circuitkit.tasks._draw import distinct, pool, single
from circuitkit.util.options import Count, Seed, checked

__all__ = ["docstring"]

ARGUMENTS = pool(
    """action address age amount answer area array base block body bytes cache call change char
    child code color column command comment config content context count current data date default
    depth device document domain element end entry error event example factor field file filter
    first folder force form format frame function global group header height host image index input
    item job key label language last layer left length level limit line list load location mask
    match max message method mode model module name network new node number object offset option
    order output owner page parent password path pattern point policy port position power prefix
    process product project query range rate reason record region release request resource response
    result right role root rule scale schema score section service session shape size source
    space speed start state step string style table target task text time title token type unit
    update user value version view weight width window"""
)
FUNCTIONS = ("run", "send", "move", "make", "build", "open", "find", "keep", "take", "close")
NOTES = pool(
    """air bar crime day dog fire game green hair hand light moon oil paper peace plan rain river
    road rock song star stone sun table tree water wind winter wood"""
)
_DEFINED = ["A_def", "B_def", "C_def"]
_DESCRIBED = ["A_doc", "B_doc"]


@checked
def docstring(words: Tokenizing, n: Count = 100, seed: Seed = 0) -> Task:
    """Docstrings: "def run(self, size, file): ... :param size: sea paper :param" -> " file".

    The arguments A, B and C of a function are among other arguments, and its docstring describes A
    and B, so that C comes next; neither the position of C nor the length of the notes tells which
    it is. In the corrupted text all arguments are random, and those described are not those defined
    (random_random in the paper), so that no answer is correct there. The wrong answers are all
    other arguments of both texts. Spans: ``A_def``, ``B_def``, ``C_def``, ``A_doc``, ``B_doc``.

    Args:
        words: The model, or a view of its tokenizer, which decides which words fit.
        n: The number of prompts, all different.
        seed: The seed with which they are drawn.

    Returns:
        A ``Task`` with the metric ``logit_diff``.

    Raises:
        TaskFitError: if too few argument names are single tokens.

    Source: Heimersheim & Janiak 2023.

    Example:
        >>> task = ck.tasks.docstring(model, n=5)
        >>> task[0].correct == (task[0].text("C_def"),)
        True
    """
    arguments = single(view(words), "docstring", "argument names", ARGUMENTS, 40)

    def draw(rng: random.Random) -> Prompt:
        before, after = ([f"{side}{i}" for i in range(rng.randrange(3))] for side in "ab")
        defined = [*before, *_DEFINED, *after]
        drawn = rng.sample(arguments, 2 * len(defined) + len(_DESCRIBED))
        notes = [" ".join(rng.sample(NOTES, rng.randint(1, 3))) for _ in _DESCRIBED]
        slots = {"function": rng.choice(FUNCTIONS), "purpose": rng.choice(NOTES)}
        return _prompt(defined, drawn, slots | {"A_note": notes[0], "B_note": notes[1]})

    prompts = distinct("docstring", n, seed, draw)
    source = "Heimersheim & Janiak 2023"
    return Task("docstring", prompts, "logit_diff", source, {"n": n, "seed": seed})


def _prompt(defined: Sequence[str], drawn: Sequence[str], slots: Mapping[str, str]) -> Prompt:
    """The function with the first of the drawn names; corrupted, with all the others."""
    own = dict(zip(defined, drawn, strict=False))
    own |= {"A_doc": own["A_def"], "B_doc": own["B_def"]}
    foreign = dict(zip([*defined, *_DESCRIBED], drawn[len(defined) :], strict=True))
    layout = template(defined)
    clean, spans = compose(layout, {**slots, **own})
    corrupt, _ = compose(layout, {**slots, **foreign})
    answer = own["C_def"]
    wrong = tuple(f" {name}" for name in drawn if name != answer)
    named = {name: spans[name] for name in [*_DEFINED, *_DESCRIBED]}
    return Prompt(clean, corrupt, (f" {answer}",), wrong, named)


def template(defined: Sequence[str]) -> str:
    """The text with a field for each argument of the function, of these names."""
    arguments = ", ".join(f"{{{name}}}" for name in defined)
    return (
        f"def {{function}}(self, {arguments}):\n"
        '    """Return the {purpose}.\n\n'
        "    :param {A_doc}: {A_note}\n"
        "    :param {B_doc}: {B_note}\n"
        "    :param"
    )
