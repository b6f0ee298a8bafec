"""Tasks by name, or from a file."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from circuitkit.data.batches import Tokenized
from circuitkit.data.prompts import Task
from circuitkit.data.tokens import TokenizerView
from circuitkit.errors import DataError
from circuitkit.registry import name_of, resolve

__all__ = ["draw", "make_task"]


def make_task(
    name: str, model: Tokenized, n: int | None = 100, seed: int = 0, **settings: object
) -> Task:
    """The task of that name (with settings: ``ioi(corrupt='names')``, or a CSV or JSONL file), made
    of words that fit the model's tokenizer. Raises TaskFitError where they do not."""
    if model.tokenizer is None:
        raise DataError("the model has no tokenizer, so no task can be put to it; load one")
    if name.endswith((".csv", ".jsonl")):
        name = f"from_file(path={name!r})"
    function = partial(resolve("tasks", name), **settings)
    made: Task = function(TokenizerView(model.tokenizer), n=n, seed=seed)
    name = name_of(function) if settings else name
    return replace(made, name=name, settings={**made.settings, "seed": seed})


def draw(task: str, model: Tokenized, n: int, seed: int) -> Task:
    """n prompts of the task, or all that a file has where it has fewer."""
    if task.endswith((".csv", ".jsonl")) or task.startswith("from_file"):
        made = make_task(task, model, n=None, seed=seed)
        return replace(made, prompts=made.prompts[:n])
    return make_task(task, model, n=n, seed=seed)
