"""Tasks, one file for each: functions that make prompts for a model.

A task is a function ``(words, n, seed, **settings) -> Task``: ``words`` is the model, or a view of
its tokenizer, which says which words are single tokens. It makes ``n`` different prompts, the same
ones for the same seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitkit.registry import serve

if TYPE_CHECKING:  # what type checkers and editors see; a file that is not here is served too
    from circuitkit.tasks.arguments import docstring as docstring
    from circuitkit.tasks.calculation import arithmetic as arithmetic
    from circuitkit.tasks.files import from_file as from_file
    from circuitkit.tasks.indirect_object import ioi as ioi
    from circuitkit.tasks.pronouns import gendered_pronoun as gendered_pronoun
    from circuitkit.tasks.recall import facts as facts
    from circuitkit.tasks.repeats import induction as induction
    from circuitkit.tasks.years import greater_than as greater_than

__getattr__, __dir__ = serve("tasks")
